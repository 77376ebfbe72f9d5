//! Numbered records, and whether each has arrived once and in order: what tests of the mirror hold
//! a cluster against.

use bytes::Bytes;
use std::ops::Range;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use weir_bridge::client::{
    Acks, Batch, Batches, Bootstrap, Client, EARLIEST, Error, ErrorKind, FetchFrom, FetchLimits,
    LATEST, NewTopic, OwnedRecord, Settings, decode_records,
};
use weir_core::batch::{Builder, Codec, ProducerStamp, seal};
use weir_core::error::ErrorCode;
use weir_core::rng::Rng;

/// A patient client of a broker under test.
pub fn client(bootstrap: &str) -> Client {
    let bootstrap = Bootstrap::Tcp(vec![bootstrap.to_string()]);
    let mut settings = Settings::new(bootstrap, "weir-tests");
    settings.retry_for = Duration::from_secs(90);
    settings.request_timeout = Duration::from_secs(5);
    Client::new(settings)
}

pub async fn create(client: &Client, name: &str, partitions: i32) {
    create_with(client, name, partitions, &[]).await;
}

pub async fn create_with(client: &Client, name: &str, partitions: i32, configs: &[(&str, &str)]) {
    let topic = NewTopic {
        name: name.into(),
        partitions,
        replication_factor: -1,
        configs: configs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
    };
    client.create_topic(&topic).await.unwrap();
}

/// Of this moment, or retention would take the records away on both sides.
pub fn first_timestamp() -> i64 {
    static FIRST: OnceLock<i64> = OnceLock::new();
    *FIRST.get_or_init(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64)
}

/// A batch of numbered records of about 100 bytes; every seventh is large and compressed.
pub fn batch(numbers: Range<u32>, large: bool) -> Bytes {
    stamped_batch(numbers, large, None)
}

/// The same of an idempotent producer.
pub fn stamped_batch(numbers: Range<u32>, large: bool, stamp: Option<ProducerStamp>) -> Bytes {
    let mut builder = Builder::new();
    for number in numbers {
        // Padding that does not compress to nothing, or no batch would be large enough to pass
        // through.
        let mut rng = Rng::new(u64::from(number));
        let padding: String = (0..if large { 1_000 } else { 90 })
            .map(|_| char::from(b'!' + rng.below(64) as u8))
            .collect();
        let value = format!("{number}:{padding}");
        builder.push(first_timestamp() + i64::from(number), None, Some(value.as_bytes()), &[]);
    }
    let codec = if large { Codec::Lz4 } else { Codec::None };
    let (header, section) = builder.into_section();
    let section = weir_bridge::compress::compress(codec, &section).unwrap();
    seal(header, codec, &section, stamp).into()
}

/// Appends `count` numbered records to each partition, as fast as asked: as an idempotent producer,
/// so that a broker may be killed meanwhile.
pub async fn produce(client: &Client, topic: &str, partitions: i32, count: u32, pause: Duration) {
    let producer = client.init_producer_id(None).await.unwrap();
    for (index, first) in (0..count).step_by(100).enumerate() {
        for partition in 0..partitions {
            let stamp = ProducerStamp {
                producer_id: producer.producer_id,
                producer_epoch: producer.producer_epoch,
                base_sequence: first as i32,
                transactional: false,
            };
            let numbers = first..(first + 100).min(count);
            let batch = stamped_batch(numbers, index % 7 == 3, Some(stamp));
            client.produce(topic, partition, batch, Acks::All).await.unwrap();
        }
        smol::Timer::after(pause).await;
    }
}

/// Every committed record of a partition.
pub async fn records(client: &Client, topic: &str, partition: i32) -> Vec<OwnedRecord> {
    try_records(client, topic, partition).await.unwrap()
}

/// The same of a broker that may have lost some.
pub async fn try_records(
    client: &Client,
    topic: &str,
    partition: i32,
) -> Result<Vec<OwnedRecord>, Error> {
    let at = async |which| {
        client.list_offsets(&[(topic.into(), partition, which)]).await.map(|found| found[0].offset)
    };
    let (mut offset, end) = (at(EARLIEST).await?, at(LATEST).await?);
    let mut records = Vec::new();
    let mut asked = 0;
    while offset < end {
        asked += 1;
        if asked > end + 10 {
            let what = format!("{topic}-{partition} gives nothing at {offset}, its end is {end}");
            return Err(Error::new(ErrorKind::Malformed, what));
        }
        let from = [FetchFrom { topic: topic.into(), partition, offset }];
        for fetched in client.fetch(&from, FetchLimits::default()).await? {
            if fetched.error_code == ErrorCode::OFFSET_OUT_OF_RANGE {
                let what = format!("{topic}-{partition} was trimmed beyond {offset}");
                return Err(Error::new(ErrorKind::Code(fetched.error_code), what));
            }
            for batch in Batches::new(&fetched) {
                offset = match batch? {
                    Batch::Data(header, batch) => {
                        records.extend(decode_records(&header, &batch, offset)?);
                        header.last_offset().0 + 1
                    }
                    Batch::Skipped(header) => header.last_offset().0 + 1,
                };
            }
        }
    }
    Ok(records)
}

pub fn numbers(records: &[OwnedRecord]) -> Vec<u32> {
    let number = |record: &OwnedRecord| {
        let value = String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap();
        value.split(':').next().unwrap().parse::<u32>().unwrap()
    };
    records.iter().map(number).collect()
}

/// Waits until the target has everything, then holds it against the ledger: each number once, in
/// order.
pub async fn arrived(
    client: &Client,
    status: impl Fn() -> String,
    topic: &str,
    partitions: i32,
    count: u32,
) {
    let start = Instant::now();
    for partition in 0..partitions {
        let found = loop {
            let found = match client.topic(topic).await {
                Ok(_) => numbers(&records(client, topic, partition).await),
                Err(_) => Vec::new(),
            };
            if found.len() >= count as usize {
                break found;
            }
            assert!(
                start.elapsed() < Duration::from_secs(180),
                "{topic}-{partition} has {} of {count}: {}",
                found.len(),
                status()
            );
            smol::Timer::after(Duration::from_millis(500)).await;
        };
        let wrong = found.iter().zip(0..).find(|(found, expected)| **found != *expected);
        assert_eq!(wrong, None, "{topic}-{partition}");
        assert_eq!(found.len(), count as usize, "{topic}-{partition}");
    }
}
