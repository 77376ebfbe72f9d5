//! The mirror between two real Kafkas: each record once and in order, whatever is killed or cut.
//!
//! The mirror runs in a process of its own, so that it can be killed: this very test binary,
//! started once more with what to do in its environment.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use weir_bridge::client::{Acks, Bootstrap, Broker, Client};
use weir_bridge::mirror::{self, Route};
use weir_core::batch::Builder;
use weir_core::rng::Rng;
use weir_core::wire::group::DeleteGroupsRequest;
use weir_core::wire::topics::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use weir_tests::numbered::{
    arrived, batch, client, create, create_with, first_timestamp, numbers, produce, records,
};
use weir_tests::{Kafka, folder};

const ROUTE: &str = "WEIR_TESTS_MIRROR_ROUTE";
const SOURCE: &str = "WEIR_TESTS_MIRROR_SOURCE";
const STATUS: &str = "WEIR_TESTS_MIRROR_STATUS";

/// The other process. As a test of its own it has nothing to do.
#[test]
fn mirror_process() {
    let Ok(route) = std::env::var(ROUTE) else { return };
    let route: Route = serde_json::from_str(&route).unwrap();
    let source = Bootstrap::Tcp(vec![std::env::var(SOURCE).unwrap()]);
    let file = std::env::var(STATUS).unwrap();
    let handle = mirror::Handle::new();
    let shown = handle.clone();
    std::thread::spawn(move || {
        loop {
            let text = serde_json::to_string(&shown.snapshot()).unwrap();
            std::fs::write(format!("{file}.new"), text).unwrap();
            std::fs::rename(format!("{file}.new"), &file).unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let (_stop, stopped) = async_channel::bounded(1);
    smol::block_on(mirror::run(vec![route], source, handle, stopped)).unwrap();
}

/// A mirror that runs in its process, and what it says of itself.
struct Mirror {
    route: String,
    source: String,
    status: std::path::PathBuf,
    child: Option<Child>,
}

impl Mirror {
    fn new(name: &str, source: &Kafka, target: &str, more: &str) -> Mirror {
        let route = format!(
            r#"{{"name":"central","bootstrap":["{target}"],"topics":["plant-.*"],"prefix":"gw1.",
                "request_timeout_ms":2000,"linger_ms":50{more}}}"#
        );
        let status = folder(name).join("status.json");
        Mirror { route, source: source.bootstrap(), status, child: None }
    }

    fn start(&mut self) {
        let log = std::fs::File::create(self.status.with_extension("log")).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "mirror_process", "--nocapture"])
            .env(ROUTE, &self.route)
            .env(SOURCE, &self.source)
            .env(STATUS, &self.status)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn status(&self) -> String {
        std::fs::read_to_string(&self.status).unwrap_or_default()
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn each_record_arrives_once_and_in_order_whatever_is_killed_or_cut() {
    let (per_partition, partitions) = (25_000, 4);
    let source = Kafka::started("mirror-source");
    let (target, link) = Kafka::behind_a_proxy("mirror-target");
    let target_address = format!("127.0.0.1:{}", link.port);
    let mut mirror = Mirror::new("mirror", &source, &target_address, "");
    let produced = Arc::new(AtomicBool::new(false));
    let (done, from) = (produced.clone(), client(&source.bootstrap()));
    smol::block_on(create(&from, "plant-a", partitions));
    let producer = std::thread::spawn(move || {
        let pause = Duration::from_millis(120);
        smol::block_on(produce(&from, "plant-a", partitions, per_partition, pause));
        done.store(true, Ordering::Relaxed);
    });
    mirror.start();
    let mut round = 0;
    while !produced.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(2_500));
        match round % 4 {
            0 => {
                mirror.kill();
                mirror.start();
            }
            1 => {
                link.cut();
            }
            2 => {
                link.black_hole(true);
                std::thread::sleep(Duration::from_secs(4));
                link.black_hole(false);
            }
            _ => {
                target.signal("KILL");
                target.start();
            }
        }
        round += 1;
    }
    producer.join().unwrap();
    assert!(round >= 4, "the records came faster than the trouble");
    let to = client(&target_address);
    smol::block_on(arrived(&to, || mirror.status(), "gw1.plant-a", partitions, per_partition));
}

#[test]
fn a_trimmed_source_leaves_a_gap_marker_and_provenance_is_told() {
    let source = Kafka::started("mirror-source");
    let target = Kafka::started("mirror-target");
    let mut mirror = Mirror::new("mirror", &source, &target.bootstrap(), "");
    let (from, to) = (client(&source.bootstrap()), client(&target.bootstrap()));
    smol::block_on(async {
        create(&from, "plant-a", 1).await;
        produce(&from, "plant-a", 1, 100, Duration::ZERO).await;
        mirror.start();
        arrived(&to, || mirror.status(), "gw1.plant-a", 1, 100).await;
        mirror.kill();
        from.produce("plant-a", 0, batch(100..200, false), Acks::All).await.unwrap();
        delete_records(&from, "plant-a", 150).await;
        // A topic and a partition that come later.
        create(&from, "plant-b", 1).await;
        from.create_partitions("plant-a", 2).await.unwrap();
        from.produce("plant-a", 1, batch(0..100, false), Acks::All).await.unwrap();
        from.produce("plant-b", 0, batch(0..300, true), Acks::All).await.unwrap();
        mirror.start();
        arrived(&to, || mirror.status(), "gw1.plant-b", 1, 300).await;
        let found = loop {
            let found = records(&to, "gw1.plant-a", 0).await;
            if found.len() == 151 {
                break found;
            }
            assert!(found.len() < 151);
            smol::Timer::after(Duration::from_millis(200)).await;
        };
        let marker = &found[100];
        assert_eq!(marker.key.as_deref(), Some(mirror::GAP.as_bytes()));
        let value = String::from_utf8(marker.value.clone().unwrap().to_vec()).unwrap();
        assert!(value.starts_with(r#"{"from":100,"to":150,"#), "{value}");
        assert_eq!(numbers(&found[101..]), (150..200).collect::<Vec<_>>());
        let header = |name: &str| {
            let found = found[120].headers.iter().find(|(key, _)| key == name);
            String::from_utf8(found.unwrap().1.clone().unwrap().to_vec()).unwrap()
        };
        let told = [mirror::HEADER_TOPIC, mirror::HEADER_PARTITION, mirror::HEADER_OFFSET];
        assert_eq!(told.map(header), ["plant-a", "0", "169"]);
        assert_eq!(found[120].timestamp, first_timestamp() + 169);
        // What came large and compressed came as it was.
        let passed = records(&to, "gw1.plant-b", 0).await;
        assert!(passed.iter().all(|record| record.headers.is_empty()));
        let grown = numbers(&records(&to, "gw1.plant-a", 1).await);
        assert_eq!(grown, (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn what_the_target_refuses_comes_in_another_shape_or_as_a_gap() {
    let source = Kafka::started("mirror-source");
    let target = Kafka::started("mirror-target");
    let mut mirror = Mirror::new("mirror", &source, &target.bootstrap(), "");
    let (from, to) = (client(&source.bootstrap()), client(&target.bootstrap()));
    smol::block_on(async {
        create(&from, "plant-a", 1).await;
        let configs = [("max.message.bytes", "10000"), ("message.timestamp.after.max.ms", "1000")];
        create_with(&to, "gw1.plant-a", 1, &configs).await;
        from.produce("plant-a", 0, batch(0..100, true), Acks::All).await.unwrap();
        let mut builder = Builder::new();
        let value = "x".repeat(100);
        let hour = 3_600_000;
        for number in 100..103 {
            let value = format!("{number}:{value}");
            builder.push(first_timestamp() + hour, None, Some(value.as_bytes()), &[]);
        }
        let far_future = Bytes::from(builder.build(None));
        from.produce("plant-a", 0, far_future, Acks::All).await.unwrap();
        let mut builder = Builder::new();
        let mut rng = Rng::new(1);
        let huge: Vec<u8> = (0..30_000).map(|_| rng.below(256) as u8).collect();
        builder.push(first_timestamp(), None, Some(&huge), &[]);
        from.produce("plant-a", 0, builder.build(None).into(), Acks::All).await.unwrap();
        from.produce("plant-a", 0, batch(104..200, false), Acks::All).await.unwrap();
        mirror.start();
        let start = Instant::now();
        let found = loop {
            let found = records(&to, "gw1.plant-a", 0).await;
            if found.len() >= 200 {
                break found;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{}", mirror.status());
            smol::Timer::after(Duration::from_millis(200)).await;
        };
        assert_eq!(numbers(&found[..103]), (0..103).collect::<Vec<_>>());
        assert_eq!(found[101].timestamp, -1);
        assert_eq!(found[103].key.as_deref(), Some(mirror::GAP.as_bytes()));
        assert_eq!(numbers(&found[104..]), (104..200).collect::<Vec<_>>());
    });
}

#[test]
fn positions_that_the_target_has_forgotten_are_found_in_its_records() {
    let source = Kafka::started("mirror-source");
    let target = Kafka::started("mirror-target");
    let more = r#","pass_through_bytes":0"#;
    let mut mirror = Mirror::new("mirror", &source, &target.bootstrap(), more);
    let (from, to) = (client(&source.bootstrap()), client(&target.bootstrap()));
    smol::block_on(async {
        create(&from, "plant-a", 2).await;
        produce(&from, "plant-a", 2, 1_000, Duration::ZERO).await;
        mirror.start();
        arrived(&to, || mirror.status(), "gw1.plant-a", 2, 1_000).await;
        let status: serde_json::Value = serde_json::from_str(&mirror.status()).unwrap();
        let group = status["routes"][0]["transactional_id"].as_str().unwrap().to_string();
        mirror.kill();
        assert_eq!(to.committed(&group, None, true).await.unwrap().len(), 2);
        let forget = DeleteGroupsRequest { groups_names: vec![group.clone()] };
        let answer = to.request(Broker::Group(&group), &forget).await.unwrap();
        assert!(!answer.results[0].error_code.is_error());
        mirror.start();
        for partition in [0, 1] {
            let batch = batch(1_000..1_100, false);
            from.produce("plant-a", partition, batch, Acks::All).await.unwrap();
        }
        arrived(&to, || mirror.status(), "gw1.plant-a", 2, 1_100).await;
    });
}

async fn delete_records(client: &Client, topic: &str, offset: i64) {
    let request = DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic {
            name: topic.into(),
            partitions: vec![DeleteRecordsPartition { partition_index: 0, offset }],
        }],
        timeout_ms: 10_000,
    };
    let to = Broker::Leader(topic, 0);
    let answer = client.request(to, &request).await.unwrap();
    assert_eq!(answer.topics[0].partitions[0].low_watermark, offset);
}
