//! Kafka's clients, unchanged: librdkafka, kafka-python, aiokafka, franz-go and kcat against one
//! gateway.
//!
//! Each scenario asserts its facts itself, in `tests/clients`. With `WEIR_TESTS_REFERENCE=kafka`
//! the same scenarios run against a real Apache Kafka, where all of them pass.

#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::thread;
use std::time::Duration;
use weir_tests::tools::{command, python, run, run_with_input};
use weir_tests::{Broker, Gateway, Proxy, cache};

fn scenario(mut client: Command, name: &str) {
    let broker = Broker::started(name);
    run(client.arg(name).arg(broker.bootstrap()).arg(format!("t-{name}"))).success();
}

macro_rules! scenarios {
    ($client:expr => $($fact:ident: $name:literal;)*) => {
        $(#[test] fn $fact() { scenario($client, $name); })*
    };
}

scenarios! { python("confluent.py") =>
    librdkafka_reads_what_it_wrote_in_every_compression: "roundtrip";
    empty_and_large_records_pass_and_too_large_ones_are_refused: "sizes";
    two_members_share_a_topic_and_one_takes_over: "group";
    a_restarted_member_resumes_at_its_committed_offset: "resume";
    static_members_keep_their_partitions_and_fence_their_twins: "static_members";
    offsets_are_found_by_time: "timestamps";
    a_fetch_may_begin_in_the_middle_of_a_batch: "mid_batch";
    topics_configs_partitions_records_and_groups_are_administered: "admin";
}

mod kafka_python {
    use super::*;
    scenarios! { python("kafka_python.py") =>
        kafka_python_reads_what_it_wrote_in_every_compression: "roundtrip";
        kafka_python_members_read_everything_once: "group";
        aiokafka_produces_and_consumes_in_a_group: "aio";
    }
}

mod franz_go {
    use super::*;
    scenarios! { Command::new(cache().join("franz")) =>
        franz_go_reads_what_it_wrote_in_every_compression: "roundtrip";
        a_franz_go_group_resumes_and_has_no_lag: "group";
    }
}

/// The connections of an idempotent producer are cut every 300 ms while it writes 20,000 records.
#[test]
fn an_idempotent_producer_survives_cut_connections() {
    let mut gateway = Gateway::new("idempotent");
    let proxy = Proxy::to(gateway.kafka_port);
    gateway = gateway.set(&format!("kafka.advertise=127.0.0.1:{}", proxy.port));
    gateway.start();
    let mut client = python("confluent.py");
    client.args(["idempotent", &format!("127.0.0.1:{}", proxy.port), "t-idempotent"]);
    let producer = thread::spawn(move || run(&mut client));
    let mut cuts = 0;
    // Ever longer pauses: on a busy machine a client takes its time to get anywhere.
    let mut pause = Duration::from_millis(300);
    while !producer.is_finished() {
        thread::sleep(pause);
        cuts += proxy.cut();
        pause += pause / 10;
    }
    producer.join().unwrap().success();
    assert!(cuts > 5, "only {cuts} connections were cut: the test proved nothing");
}

#[test]
fn kcat_produces_lists_and_replays() {
    let broker = Broker::started("kcat");
    let servers = broker.bootstrap();
    let lines: String = (0..100).map(|i| format!("key{i}:value{i}\n")).collect();
    let produce = format!("kcat -b {servers} -P -t readings -K : -z lz4");
    run_with_input(&mut command(&produce), lines.as_bytes()).success();
    let list = run(&mut command(&format!("kcat -b {servers} -L"))).success();
    assert!(list.contains("topic \"readings\""), "{list}");
    for _ in 0..2 {
        let consume = format!("kcat -b {servers} -C -t readings -o beginning -e -q -K :");
        let mut got: Vec<String> =
            run(&mut command(&consume)).success().lines().map(String::from).collect();
        let mut want: Vec<&str> = lines.lines().collect();
        got.sort();
        want.sort();
        assert_eq!(got, want);
    }
    let tail = format!("kcat -b {servers} -C -t readings -o -1 -e -q -p 0");
    assert_eq!(run(&mut command(&tail)).success().lines().count(), 1);
    let query = format!("kcat -b {servers} -Q -t readings:0:-1");
    assert!(run(&mut command(&query)).success().contains("offset"));
}
