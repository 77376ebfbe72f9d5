//! Apache Kafka's own command line tools and Java clients against one gateway.

#![allow(clippy::unwrap_used)]

use std::time::Duration;
use weir_bridge::client::Acks;
use weir_core::batch::Builder;
use weir_tests::kafka::{ask, console_producer, tool};
use weir_tests::tools::{Output, command, run_with_input};
use weir_tests::{Broker, Gateway, numbered, wait_for};

#[test]
fn the_console_tools_write_read_and_list() {
    let broker = Broker::started("java-console");
    let servers = broker.bootstrap();
    ask(&servers, "topics", &["--create", "--topic", "t", "--partitions", "3"]).success();
    let input: String = (0..50).map(|i| format!("k{i}:v{i}\n")).collect();
    let keyed = ["--property", "parse.key=true", "--property", "key.separator=:"];
    console_producer(&servers, "t", &keyed, &input);
    let consume = ["--topic", "t", "--from-beginning", "--max-messages", "50", "--group", "g"];
    let got = ask(&servers, "console-consumer", &consume).success();
    assert_eq!(got.lines().filter(|l| l.starts_with('v')).count(), 50, "{got}");
    let list = ask(&servers, "topics", &["--list"]).success();
    assert!(list.lines().any(|l| l == "t"), "{list}");
    let describe = ask(&servers, "topics", &["--describe", "--topic", "t"]).success();
    assert!(describe.contains("PartitionCount: 3"), "{describe}");
    let ends = ask(&servers, "get-offsets", &["--topic", "t"]).success();
    let total: i64 = ends.lines().filter_map(|l| l.rsplit(':').next()?.parse::<i64>().ok()).sum();
    assert_eq!(total, 50, "{ends}");
}

#[test]
fn groups_are_listed_described_reset_and_deleted() {
    let broker = Broker::started("java-groups");
    let servers = broker.bootstrap();
    let groups = |args: &[&str]| ask(&servers, "consumer-groups", args).success();
    console_producer(&servers, "t", &[], &"line\n".repeat(20));
    let consume = ["--topic", "t", "--from-beginning", "--max-messages", "20", "--group", "g"];
    ask(&servers, "console-consumer", &consume).success();
    assert!(groups(&["--list"]).lines().any(|l| l == "g"));
    let row = |text: String| -> Vec<String> {
        let line =
            text.lines().find(|l| l.starts_with("g ")).expect("a row of the group").to_string();
        line.split_whitespace().map(String::from).collect()
    };
    let before = row(groups(&["--describe", "--group", "g"]));
    assert_eq!(before[3..6], ["20", "20", "0"], "{before:?}");
    let reset =
        ["--group", "g", "--topic", "t", "--reset-offsets", "--to-offset", "5", "--execute"];
    groups(&reset);
    assert_eq!(row(groups(&["--describe", "--group", "g"]))[3..6], ["5", "20", "15"]);
    groups(&["--delete", "--group", "g"]);
    assert!(!groups(&["--list"]).lines().any(|l| l == "g"));
}

#[test]
fn configs_partitions_and_records_are_administered() {
    let broker = Broker::started("java-admin");
    let servers = broker.bootstrap();
    ask(&servers, "topics", &["--create", "--topic", "t", "--config", "retention.ms=1000000"])
        .success();
    let alter = [
        "--alter",
        "--topic",
        "t",
        "--add-config",
        "retention.bytes=5000000,max.message.bytes=2000",
    ];
    ask(&servers, "configs", &alter).success();
    let configs = ask(&servers, "configs", &["--describe", "--topic", "t"]).success();
    for wanted in ["retention.ms=1000000", "retention.bytes=5000000", "max.message.bytes=2000"] {
        assert!(configs.contains(wanted), "{configs}");
    }
    ask(&servers, "configs", &["--alter", "--topic", "t", "--delete-config", "retention.ms"])
        .success();
    let configs = ask(&servers, "configs", &["--describe", "--topic", "t"]).success();
    assert!(!configs.contains("retention.ms=1000000"), "{configs}");
    let wrong =
        ask(&servers, "configs", &["--alter", "--topic", "t", "--add-config", "retention.ms=soon"]);
    assert_ne!(wrong.code, Some(0));
    ask(&servers, "topics", &["--alter", "--topic", "t", "--partitions", "4"]).success();
    console_producer(&servers, "t", &[], &"line\n".repeat(40));
    let log_dirs = ask(&servers, "log-dirs", &["--describe", "--topic-list", "t"]).success();
    assert!(log_dirs.contains("\"partition\":\"t-0\""), "{log_dirs}");
    ask(&servers, "topics", &["--delete", "--topic", "t"]).success();
    assert!(!ask(&servers, "topics", &["--list"]).success().lines().any(|l| l == "t"));
    let cluster = tool("cluster", &["cluster-id", "--bootstrap-server", &servers]).success();
    assert!(cluster.contains("Cluster ID"), "{cluster}");
    let versions = ask(&servers, "broker-api-versions", &[]).success();
    assert!(versions.contains("Produce(0)"), "{versions}");
}

/// Topic `t` of a gateway, as kcat sees it.
struct Topic {
    servers: String,
}

impl Topic {
    fn kcat(&self, args: &str, input: &str) -> Output {
        let mut kcat = command(&format!("kcat -b {} {args}", self.servers));
        run_with_input(&mut kcat, input.as_bytes())
    }

    fn start(&self) -> i64 {
        let said = self.kcat("-Q -t t:0:-2", "").success();
        said.split_whitespace().last().unwrap().parse().unwrap()
    }

    /// Writes a record and tells what a consumer makes of it.
    fn record(&self, value: &str) -> serde_json::Value {
        self.kcat("-P -t t -p 0", value).success();
        let read = self.kcat("-C -t t -p 0 -o -1 -e -q -J", "").success();
        let record: serde_json::Value = serde_json::from_str(&read).unwrap();
        assert_eq!(record["payload"], value);
        record
    }

    fn alter(&self, args: &[&str]) {
        ask(&self.servers, "configs", &[&["--alter", "--topic", "t"], args].concat()).success();
    }
}

#[test]
fn what_kafka_configs_changes_holds_from_then_on() {
    const LIMIT: Duration = Duration::from_secs(60);
    let gateway = Gateway::started("java-configs");
    let topic = Topic { servers: gateway.bootstrap() };
    let client = numbered::client(&topic.servers);
    let now = numbered::first_timestamp();
    smol::block_on(async {
        // Short from the begin: all its records stand in one slot.
        numbered::create_with(&client, "t", 1, &[("retention.ms", "7200000")]).await;
        for number in 0..40 {
            let age = if number < 20 { 3_600_000 } else { 0 };
            let mut builder = Builder::new();
            builder.push(now - age, None, Some(&[b'x'; 10_000]), &[]);
            client.produce("t", 0, builder.build(None).into(), Acks::All).await.unwrap();
        }
    });
    let large = "y".repeat(3_000);
    assert_eq!(topic.record(&large)["tstype"], "create");
    assert_eq!(topic.start(), 0);

    topic.alter(&[
        "--add-config",
        "retention.ms=600000,message.timestamp.type=LogAppendTime,max.message.bytes=2000",
    ]);
    let refused = topic.kcat("-P -t t -p 0", &large);
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("Broker: Message size too large"), "{refused:?}");
    assert_eq!(topic.record("small")["tstype"], "logappend");
    wait_for("what is an hour old to go", LIMIT, || (topic.start() == 20).then_some(()));

    topic.alter(&[
        "--add-config",
        "retention.bytes=100000",
        "--delete-config",
        "message.timestamp.type,max.message.bytes",
    ]);
    assert_eq!(topic.record(&large)["tstype"], "create");
    // The records are 0 to 39 of 10 kB each, and three small ones.
    let start =
        wait_for("what is too much to go", LIMIT, || Some(topic.start()).filter(|s| *s > 20));
    assert!((27..=30).contains(&start), "{start}: 100 kB stay, and an eighth more");
}

#[test]
fn the_verifiable_clients_agree() {
    let broker = Broker::started("java-verifiable");
    let servers = broker.bootstrap();
    let at = ["--bootstrap-server", servers.as_str(), "--topic", "t", "--max-messages", "5000"];
    let produced = tool("verifiable-producer", &[&at[..], &["--acks", "-1"]].concat()).success();
    assert!(produced.contains("\"acked\":5000"), "{produced}");
    let group = ["--group-id", "v", "--reset-policy", "earliest"];
    let consumed = tool("verifiable-consumer", &[&at[..], &group].concat()).success();
    let count: i64 = consumed
        .lines()
        .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok())
        .filter(|event| event["name"] == "records_consumed")
        .filter_map(|event| event["count"].as_i64())
        .sum();
    assert_eq!(count, 5000);
}

#[test]
fn the_performance_tools_run() {
    let broker = Broker::started("java-perf");
    let servers = broker.bootstrap();
    let properties = format!("bootstrap.servers={servers}");
    let load =
        ["--topic", "t", "--num-records", "20000", "--record-size", "100", "--throughput", "-1"];
    let produce = [&load[..], &["--producer-props", &properties, "acks=all"]].concat();
    assert!(tool("producer-perf-test", &produce).success().contains("20000 records sent"));
    let at = ["--bootstrap-server", servers.as_str(), "--topic", "t", "--messages", "20000"];
    let consume =
        tool("consumer-perf-test", &[&at[..], &["--timeout", "20000"]].concat()).success();
    let last = consume.lines().last().unwrap_or_default().to_string();
    assert_eq!(last.split(',').nth(4).map(str::trim), Some("20000"), "{consume}");
}
