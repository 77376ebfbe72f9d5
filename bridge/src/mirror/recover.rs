//! Finds a position again that the target has forgotten.
//!
//! Kafka deletes offsets that were not renewed for seven days (`offsets.retention.minutes`), which
//! a link that is down for a week cannot do. The records are still there, and those that were
//! packed here say where they come from. Batches that passed through do not: what came behind the
//! last packed record is then sent once more, and the log says so.

use std::time::Duration;

use crate::client::{
    Batch, Batches, Client, EARLIEST, FetchFrom, FetchLimits, LATEST, OwnedRecord, Result,
    decode_records,
};

use super::gap::GAP;
use super::rebatch::{HEADER_CLUSTER, HEADER_OFFSET, HEADER_PARTITION, HEADER_TOPIC, Origin};

/// How far back from its end a partition is searched: so many steps of so many offsets.
const STEPS: i64 = 20;
const STEP_OFFSETS: i64 = 1_000;

/// The source position behind the last record on the target that tells of this origin.
pub(super) async fn last_mirrored(
    target: &Client,
    topic: &str,
    origin: &Origin,
) -> Result<Option<i64>> {
    let ask = |at| (topic.to_string(), origin.partition, at);
    let range = target.list_offsets(&[ask(EARLIEST), ask(LATEST)]).await?;
    let (start, mut end) = (range[0].offset, range[1].offset);
    for _ in 0..STEPS {
        let from = (end - STEP_OFFSETS).max(start);
        if from >= end {
            break;
        }
        if let Some(position) = search(target, topic, origin, from, end).await? {
            log::warn!(
                "mirror: the target forgot the position of {}-{}; its records say {position}",
                origin.topic,
                origin.partition
            );
            return Ok(Some(position));
        }
        end = from;
    }
    Ok(None)
}

async fn search(
    target: &Client,
    topic: &str,
    origin: &Origin,
    from: i64,
    end: i64,
) -> Result<Option<i64>> {
    let (mut found, mut offset) = (None, from);
    while offset < end {
        let at = [FetchFrom { topic: topic.into(), partition: origin.partition, offset }];
        let limits = FetchLimits { max_wait: Duration::ZERO, ..FetchLimits::default() };
        let before = offset;
        for fetched in target.fetch(&at, limits).await? {
            for batch in Batches::new(&fetched) {
                offset = match batch? {
                    Batch::Data(header, batch) => {
                        let records = decode_records(&header, &batch, offset)?;
                        found = records.iter().filter_map(|r| told(r, origin)).max().max(found);
                        header.last_offset().0 + 1
                    }
                    Batch::Skipped(header) => header.last_offset().0 + 1,
                };
            }
        }
        if offset == before {
            break;
        }
    }
    Ok(found)
}

/// The source position behind a record, if it is one of this origin.
fn told(record: &OwnedRecord, origin: &Origin) -> Option<i64> {
    // The last of each name is the newest: records may have come a longer way.
    let header = |name: &str| {
        let found = record.headers.iter().rev().find(|(key, _)| key == name)?;
        std::str::from_utf8(found.1.as_deref()?).ok()
    };
    let ours = header(HEADER_CLUSTER)? == &*origin.cluster
        && header(HEADER_TOPIC)? == &*origin.topic
        && header(HEADER_PARTITION)?.parse() == Ok(origin.partition);
    let offset: i64 = header(HEADER_OFFSET)?.parse().ok()?;
    // A gap marker stands for all offsets of its gap: whoever is behind it finds its end anew.
    let marker = record.key.as_deref() == Some(GAP.as_bytes());
    ours.then_some(if marker { offset } else { offset + 1 })
}
