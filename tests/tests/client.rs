//! Our own Kafka client against a real Apache Kafka: what the bridge and the command line rely on.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use weir_bridge::client::{
    Acks, Batch, Batches, Bootstrap, Client, CommittedOffset, Consumer, ConsumerSettings, EARLIEST,
    ErrorKind, FetchFrom, FetchLimits, LATEST, NewTopic, Settings, ToPartition, Transaction,
    TransactionalId, decode_records,
};
use weir_bridge::compress;
use weir_core::batch::{Builder, Codec, ProducerStamp, seal};
use weir_core::error::ErrorCode;
use weir_tests::Kafka;

fn client_of(kafka: &Kafka) -> Client {
    let bootstrap = Bootstrap::Tcp(vec![kafka.bootstrap()]);
    let mut settings = Settings::new(bootstrap, "weir-tests");
    settings.request_timeout = Duration::from_secs(10);
    Client::new(settings)
}

async fn topic(client: &Client, name: &str, partitions: i32) {
    let topic = NewTopic {
        name: name.into(),
        partitions,
        replication_factor: -1,
        configs: vec![("retention.ms".into(), "-1".into())],
    };
    client.create_topic(&topic).await.unwrap();
}

fn batch(codec: Codec, values: &[&str], stamp: impl FnOnce(i32) -> Option<ProducerStamp>) -> Bytes {
    let mut builder = Builder::new();
    for value in values {
        let headers = [("h", Some(b"1".as_slice())), ("none", None)];
        builder.push(1_700_000_000_000, Some(b"key"), Some(value.as_bytes()), &headers);
    }
    let stamp = stamp(builder.records_count());
    let (header, section) = builder.into_section();
    let section = compress::compress(codec, &section).unwrap();
    seal(header, codec, &section, stamp).into()
}

/// The values of one partition, and where it ends.
async fn values(client: &Client, topic: &str, partition: i32) -> (Vec<String>, i64) {
    let end = client.list_offsets(&[(topic.into(), partition, LATEST)]).await.unwrap()[0].offset;
    let mut values = Vec::new();
    let mut offset = 0;
    while offset < end {
        let from = [FetchFrom { topic: topic.into(), partition, offset }];
        for fetched in client.fetch(&from, FetchLimits::default()).await.unwrap() {
            assert_eq!(fetched.error_code, ErrorCode::NONE);
            for batch in Batches::new(&fetched) {
                offset = match batch.unwrap() {
                    Batch::Data(header, batch) => {
                        for record in decode_records(&header, &batch, offset).unwrap() {
                            let value = record.value.unwrap();
                            values.push(String::from_utf8(value.to_vec()).unwrap());
                        }
                        header.last_offset().0 + 1
                    }
                    Batch::Skipped(header) => header.last_offset().0 + 1,
                };
            }
        }
    }
    (values, end)
}

/// Waits until all transactions below `end` are decided: a coordinator answers EndTxn when the
/// decision is in its own log and writes the markers to the partitions after that.
async fn until_stable_at(client: &Client, topic: &str, partition: i32, end: i64) {
    let start = Instant::now();
    let latest = [(topic.to_string(), partition, LATEST)];
    loop {
        let stable = client.list_offsets(&latest).await.unwrap()[0].offset;
        if stable == end {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{stable} of {end}");
        smol::Timer::after(Duration::from_millis(20)).await;
    }
}

async fn every_codec_comes_back(client: &Client) {
    topic(client, "codecs", 1).await;
    let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    let mut expected = Vec::new();
    for (number, codec) in codecs.into_iter().enumerate() {
        let value = format!("{codec:?}");
        let produced = client
            .produce("codecs", 0, batch(codec, &[&value, "b"], |_| None), Acks::All)
            .await
            .unwrap();
        assert_eq!(produced.base_offset, 2 * number as i64);
        expected.extend([value, "b".into()]);
    }
    assert_eq!(values(client, "codecs", 0).await, (expected, 10));
    let again =
        NewTopic { name: "codecs".into(), partitions: 1, replication_factor: 1, configs: vec![] };
    let exists = client.create_topic(&again).await.unwrap_err();
    assert_eq!(exists.code(), Some(ErrorCode::TOPIC_ALREADY_EXISTS));
    client.create_partitions("codecs", 3).await.unwrap();
    let grown = client.produce("codecs", 2, batch(Codec::None, &["x"], |_| None), Acks::Leader);
    assert_eq!(grown.await.unwrap().base_offset, 0);
    client.delete_topic("codecs").await.unwrap();
    let gone = client.delete_topic("codecs").await.unwrap_err();
    assert_eq!(gone.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
}

/// How many partitions each member has, and the values that were seen by either.
type Halves = Mutex<([usize; 2], BTreeSet<String>)>;

/// Polls until both members have their half and everything was seen.
async fn half(mut member: Consumer, number: usize, halves: &Halves) {
    let start = Instant::now();
    loop {
        for polled in member.poll().await.unwrap() {
            let values = polled.records.into_iter().map(|r| r.value.unwrap().to_vec());
            let values = values.map(|v| String::from_utf8(v).unwrap());
            halves.lock().unwrap().1.extend(values);
        }
        member.commit().await.unwrap();
        let mut halves = halves.lock().unwrap();
        halves.0[number] = member.positions().len();
        if halves.0 == [2, 2] && halves.1.len() == 4 {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{halves:?}");
    }
    member.close().await.unwrap();
}

async fn a_group_shares_partitions_and_resumes(kafka: &Kafka, client: &Client) {
    topic(client, "shared", 4).await;
    for partition in 0..4 {
        let value = format!("p{partition}");
        let batch = batch(Codec::Zstd, &[&value, &value], |_| None);
        client.produce("shared", partition, batch, Acks::All).await.unwrap();
    }
    let settings = ConsumerSettings {
        reset_to: EARLIEST,
        session_timeout: Duration::from_secs(6),
        heartbeat_interval: Duration::from_millis(200),
        ..ConsumerSettings::default()
    };
    // A connection of its own for each: a broker answers one request of a connection after the
    // other.
    let member = || {
        let topics = vec!["shared".into()];
        Consumer::in_group(client_of(kafka), "readers", topics, settings.clone())
    };
    let halves = Halves::default();
    futures_lite::future::zip(half(member(), 0, &halves), half(member(), 1, &halves)).await;
    let seen: Vec<String> = halves.lock().unwrap().1.iter().cloned().collect();
    assert_eq!(seen, ["p0", "p1", "p2", "p3"]);
    let committed = client.committed("readers", None, true).await.unwrap();
    assert_eq!(committed.iter().map(|c| c.offset).collect::<Vec<_>>(), [2, 2, 2, 2]);
    client.produce("shared", 3, batch(Codec::None, &["new"], |_| None), Acks::All).await.unwrap();
    let mut later = member();
    let polled = loop {
        let mut polled = later.poll().await.unwrap();
        if let Some(polled) = polled.pop() {
            break polled;
        }
    };
    assert_eq!((polled.partition, polled.records[0].offset), (3, 2));
    later.close().await.unwrap();
}

async fn a_transaction_is_seen_whole_or_not_at_all(client: &Client) {
    topic(client, "txn", 2).await;
    let id = TransactionalId { id: "weir.tests".into(), timeout: Duration::from_secs(60) };
    let mut old = Transaction::start(client.clone(), &id).await.unwrap();
    let partitions = [("txn".to_string(), 0), ("txn".to_string(), 1)];
    for (commit, value) in [(true, "a"), (false, "b"), (true, "c")] {
        old.add(&partitions, "positions").await.unwrap();
        for partition in [0, 1] {
            let batch = batch(Codec::Zstd, &[value], |n| Some(old.stamp("txn", partition, n)));
            let batch = ToPartition { topic: "txn".into(), partition, batch };
            old.produce(&[batch]).await.remove(0).unwrap();
        }
        let offset = CommittedOffset {
            topic: "txn".into(),
            partition: 1,
            offset: i64::from(value.as_bytes()[0]),
            leader_epoch: -1,
            metadata: value.into(),
        };
        old.commit_offsets("positions", &[offset]).await.unwrap();
        old.end(commit).await.unwrap();
    }
    for partition in [0, 1] {
        // Three records and a marker after each.
        until_stable_at(client, "txn", partition, 6).await;
        assert_eq!(values(client, "txn", partition).await.0, ["a", "c"]);
    }
    let committed = client.committed("positions", None, true).await.unwrap();
    assert_eq!((committed[0].offset, committed[0].metadata.as_str()), (99, "c"));
    let _new = Transaction::start(client.clone(), &id).await.unwrap();
    let fenced = old.add(&partitions, "positions").await.unwrap_err();
    let code = fenced.code().unwrap();
    assert!([ErrorCode::PRODUCER_FENCED, ErrorCode::INVALID_PRODUCER_EPOCH].contains(&code));
}

/// Stopped, a broker's kernel still accepts connections and takes bytes: nothing but time tells.
async fn a_hung_broker_is_noticed(kafka: &Kafka) {
    let bootstrap = Bootstrap::Tcp(vec![kafka.bootstrap()]);
    let mut settings = Settings::new(bootstrap, "weir-tests");
    settings.request_timeout = Duration::from_secs(1);
    settings.retry_for = Duration::ZERO;
    let client = Client::new(settings);
    client.cluster(None).await.unwrap();
    kafka.signal("STOP");
    let start = Instant::now();
    let error = client.topic("shared").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut);
    assert!(start.elapsed() < Duration::from_secs(5));
    kafka.signal("CONT");
    client.topic("shared").await.unwrap();
}

#[test]
fn the_client_speaks_to_a_real_kafka() {
    let kafka = Kafka::started("client");
    let client = client_of(&kafka);
    smol::block_on(async {
        every_codec_comes_back(&client).await;
        a_group_shares_partitions_and_resumes(&kafka, &client).await;
        a_transaction_is_seen_whole_or_not_at_all(&client).await;
        a_hung_broker_is_noticed(&kafka).await;
    });
}
