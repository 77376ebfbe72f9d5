//! Key compaction, as Kafka's own tools see it, and what it writes, as it is stored.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;
use weir_bridge::client::{Batch, Batches, Client, FetchFrom, FetchLimits, decode_records};
use weir_core::batch::{Codec, Header};
use weir_core::rng::Rng;
use weir_tests::kafka::{ask, script, tool};
use weir_tests::tools::{command, run, run_with_input};
use weir_tests::{Broker, Gateway, kafka, long, numbered, wait_for};

/// The gateway looks for something to compact each ten seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// By their names at producers.
const CODECS: [(&str, Codec); 5] = [
    ("none", Codec::None),
    ("gzip", Codec::Gzip),
    ("snappy", Codec::Snappy),
    ("lz4", Codec::Lz4),
    ("zstd", Codec::Zstd),
];

/// Keys that come once among few that come often; values that compress to a third.
fn records() -> Vec<(String, String)> {
    let record = |number: u64| {
        let mut rng = Rng::new(number);
        let piece: String = (0..40).map(|_| char::from(b'A' + rng.below(26) as u8)).collect();
        let key = match number % 3 {
            0 => format!("once{number}"),
            _ => format!("often{}", number % 10),
        };
        (key, format!("{number}-{piece}{piece}{piece}"))
    };
    (0..3_000).map(record).collect()
}

/// The batches of a partition as they are stored.
async fn stored(client: &Client, topic: &str, partition: i32) -> Vec<(Header, Bytes)> {
    let end = client.log_end(topic, partition).await.unwrap();
    let (mut batches, mut offset) = (Vec::new(), 0);
    while offset < end {
        let from = [FetchFrom { topic: topic.into(), partition, offset }];
        let fetched = client.fetch(&from, FetchLimits::default()).await.unwrap().remove(0);
        let before = offset;
        for batch in Batches::new(&fetched) {
            let Batch::Data(header, batch) = batch.unwrap() else { panic!("no transactions here") };
            offset = header.last_offset().0 + 1;
            batches.push((header, batch));
        }
        assert!(offset > before, "{topic}-{partition} gives nothing at {offset}");
    }
    batches
}

/// Waits until a partition is compacted up to its newest batch, which is left as it was; what is
/// before has of each key the newest record and no other. Batches that lost some are packed anew.
fn check(client: &Client, topic: &str, partition: i32, own: Codec, anew: Codec) -> Vec<String> {
    let what = format!("{topic}-{partition}");
    let records = records();
    let (batches, wanted) = wait_for(&format!("{what} to be compacted"), LIMIT, || {
        let batches = smol::block_on(stored(client, topic, partition));
        let (last, before) = batches.split_last()?;
        let from = last.0.base_offset.0 as usize;
        let keys = records[..from].iter().enumerate();
        let newest: BTreeMap<&str, usize> =
            keys.map(|(number, (key, _))| (key.as_str(), number)).collect();
        let stays =
            |number: &usize| *number >= from || newest[records[*number].0.as_str()] == *number;
        let wanted: Vec<usize> = (0..records.len()).filter(stays).collect();
        let count: i32 = before.iter().map(|(header, _)| header.records_count).sum();
        let done = count as usize + records.len() - from == wanted.len();
        done.then_some((batches, wanted))
    });
    let mut found = Vec::new();
    let mut rewritten = 0;
    for (header, batch) in &batches {
        let lost = header.records_count <= header.last_offset_delta;
        // A batch of which nothing is left has no codec.
        if header.records_count > 0 {
            assert_eq!(header.codec(), Some(if lost { anew } else { own }), "{what}: {header:?}");
            rewritten += usize::from(lost);
        }
        for record in decode_records(header, batch, 0).unwrap() {
            let text = |bytes: Option<Bytes>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
            found.push((record.offset as usize, text(record.key), text(record.value)));
        }
    }
    let record = |number: usize| (number, records[number].0.clone(), records[number].1.clone());
    assert!(found.iter().cloned().eq(wanted.into_iter().map(record)), "{what}: {found:?}");
    assert!(rewritten > 10, "{what}: only {rewritten} batches lost records");
    found.into_iter().map(|(_, key, value)| format!("{key}\t{value}")).collect()
}

#[test]
fn batches_of_every_codec_are_written_back_in_it_or_in_the_topics() {
    let gateway = Gateway::started("compaction-codecs");
    let servers = gateway.bootstrap();
    let client = numbered::client(&servers);
    let mut types = CODECS.map(|(name, codec)| (name, Some(codec))).to_vec();
    types[0].0 = "uncompressed";
    types.push(("producer", None));
    let lines: String = records().iter().map(|(key, value)| format!("{key}:{value}\n")).collect();
    for (name, _) in &types {
        let configs = [
            ("cleanup.policy", "compact"),
            ("compression.type", name),
            ("min.cleanable.dirty.ratio", "0.01"),
            ("max.compaction.lag.ms", "1000"),
        ];
        smol::block_on(numbered::create_with(&client, name, 5, &configs));
        std::thread::scope(|scope| {
            for (partition, (codec, _)) in CODECS.iter().enumerate() {
                let producer = format!(
                    "kcat -b {servers} -P -t {name} -p {partition} -K : -z {codec} \
                     -X batch.num.messages=100"
                );
                let lines = lines.as_bytes();
                scope.spawn(move || run_with_input(&mut command(&producer), lines).success());
            }
        });
    }
    let mut stored = Vec::new();
    for (name, topics) in &types {
        for (partition, (_, own)) in (0..).zip(CODECS) {
            stored.extend(check(&client, name, partition, own, topics.unwrap_or(own)));
        }
    }
    let count = stored.len().to_string();
    let all = ["--include", ".*", "--from-beginning", "--max-messages", &count];
    let keys = ["--property", "print.key=true", "--timeout-ms", "20000"];
    let read = ask(&servers, "console-consumer", &[&all[..], &keys].concat()).success();
    let mut read: Vec<&str> = read.lines().filter(|line| line.contains('\t')).collect();
    read.sort_unstable();
    stored.sort_unstable();
    assert!(read == stored, "Kafka's consumer reads {} of {count} records", read.len());
}

#[test]
fn kafkas_log_compaction_tester_passes_whatever_the_codec() {
    let broker = Broker::started("compaction-tester");
    let servers = broker.bootstrap();
    let test = |codec| {
        let mut command = script();
        command.args(["tool", "log-compaction-tester", "--bootstrap-server", &servers]);
        command.args(["--messages", "60000", "--topics", "2", "--percent-deletes", "10"]);
        let said = run(command.args(["--sleep", "15", "--compression-type", codec])).success();
        assert!(said.contains(" 0 mismatches"), "{codec}: {said}");
        let reduction = said.split_once("data consumed (").unwrap().1;
        let reduction: f64 = reduction.split_once('%').unwrap().0.parse().unwrap();
        assert!(reduction > 50.0, "{codec}: {said}");
    };
    std::thread::scope(|scope| {
        for (codec, _) in CODECS {
            if long() || ["none", "zstd"].contains(&codec) {
                scope.spawn(move || test(codec));
            }
        }
    });
}

#[test]
fn kafka_configs_changes_the_policy_while_the_gateway_runs() {
    let broker = Broker::started("compaction-configs");
    let servers = broker.bootstrap();
    let ask =
        |name: &str, args: &[&str]| tool(name, &[&["--bootstrap-server", &servers], args].concat());
    ask("topics", &["--create", "--topic", "t"]).success();
    let produce = |prefix: &str, count: usize| {
        let lines: String = (0..count).map(|i| format!("k{}:{prefix}{i:060}\n", i % 10)).collect();
        let mut command = kafka::script();
        command.args(["tool", "console-producer", "--bootstrap-server", &servers, "--topic", "t"]);
        command.args(["--property", "parse.key=true", "--property", "key.separator=:"]);
        run_with_input(&mut command, lines.as_bytes()).success();
    };
    produce("old", 5_000);
    let alter = |configs: &str| {
        let topic = ["--alter", "--entity-type", "topics", "--entity-name", "t"];
        ask("configs", &[&topic[..], &["--add-config", configs]].concat())
    };
    for (wrong, why) in [
        ("cleanup.policy=remove", "String must be one of: compact, delete"),
        ("min.compaction.lag.ms=10,max.compaction.lag.ms=5", "conflict topic config setting"),
    ] {
        let said = alter(wrong);
        assert_ne!(said.code, Some(0));
        assert!(said.stderr.contains(why) || said.stdout.contains(why), "{said:?}");
    }
    alter("cleanup.policy=[compact,delete],min.cleanable.dirty.ratio=0.01").success();
    produce("new", 10);
    let described =
        ask("configs", &["--describe", "--entity-type", "topics", "--entity-name", "t"]);
    assert!(described.success().contains("cleanup.policy=compact,delete"));
    let read = || run(command("kcat -q -C -e -o beginning -t t -b").arg(&servers));
    // What was last is what is left, but for the newest batch before.
    wait_for("the topic to be compacted", LIMIT, || {
        (read().success().lines().count() < 500).then_some(())
    });
    let left = read().success();
    let last: Vec<&str> = left.lines().rev().take(10).collect();
    assert!(last.iter().all(|line| line.starts_with("new")), "{left}");
    let keyless = {
        let mut command = kafka::script();
        command.args(["tool", "console-producer", "--bootstrap-server", &servers, "--topic", "t"]);
        command.args(["--producer-property", "compression.type=lz4"]);
        run_with_input(&mut command, b"no key\n")
    };
    assert!(keyless.stderr.contains("InvalidRecord"), "{keyless:?}");
}
