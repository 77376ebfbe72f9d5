//! The whole way: a gateway mirrors to a real Apache Kafka, and each record arrives once and in
//! order, although the gateway and Kafka are killed and the link is cut and hangs.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use weir_tests::numbered::{arrived, client, create, produce};
use weir_tests::{Gateway, Kafka};

fn config(link: &str) -> String {
    format!(
        "[[mirror]]\nname = \"central\"\nbootstrap = [\"{link}\"]\ntopics = [\"plant-.*\"]\n\
         prefix = \"gw1.\"\nrequest_timeout_ms = 2000\n"
    )
}

#[test]
fn each_record_arrives_once_and_in_order_whatever_is_killed_or_cut() {
    let (per_partition, partitions) = (25_000, 4);
    let (centre, link) = Kafka::behind_a_proxy("centre");
    let address = format!("127.0.0.1:{}", link.port);
    let mut gateway = Gateway::new("gateway").config(&config(&address));
    gateway.start();
    let from = client(&gateway.bootstrap());
    smol::block_on(create(&from, "plant-a", partitions));
    let produced = Arc::new(AtomicBool::new(false));
    let done = produced.clone();
    let producer = std::thread::spawn(move || {
        let pause = Duration::from_millis(120);
        smol::block_on(produce(&from, "plant-a", partitions, per_partition, pause));
        done.store(true, Ordering::Relaxed);
    });
    let mut round = 0;
    while !produced.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(2_500));
        match round % 4 {
            0 => {
                gateway.kill();
                gateway.start();
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
                centre.signal("KILL");
                centre.start();
            }
        }
        round += 1;
    }
    producer.join().unwrap();
    assert!(round >= 4, "the records came faster than the trouble");
    let status = || gateway.http("/api/v1/mirror").map_or(String::new(), |(_, text)| text);
    let to = client(&address);
    smol::block_on(arrived(&to, status, "gw1.plant-a", partitions, per_partition));
}
