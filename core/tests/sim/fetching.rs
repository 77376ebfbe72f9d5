//! Fetch requests and their answers, for consumers and for the audit.

use crate::checks::{AckedIsDurable, Bounded, CommittedStays, Verdict, Violation};
use crate::client::{Leaders, Shared, Target};
use crate::history::{Found, History};
use std::collections::BTreeMap;
use weir_core::batch;
use weir_core::error::ErrorCode;
use weir_core::rng::Rng;
use weir_core::wire::fetch::{
    FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData,
};
use weir_core::wire::list_offsets::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic,
};

/// What was known of a partition when a request was sent: the answer must not fall below.
#[derive(Clone, Copy, Debug, Default)]
pub struct Floor {
    high_watermark: i64,
    /// The leader epoch that was asked for.
    epoch: Option<i32>,
}

/// Where the reader of a partition goes on.
pub type Moved = Vec<(Target, i64)>;

impl Floor {
    pub fn of(
        shared: &Shared,
        offsets: &[(Target, i64)],
        leaders: &Leaders,
    ) -> BTreeMap<Target, Floor> {
        let floor = |target: &Target| match leaders.get(target) {
            None => {
                let history = shared.histories.get(target);
                Floor { high_watermark: history.map_or(0, |one| one.high_watermark), epoch: None }
            }
            // A leader that does not know yet that it is one no more may tell less.
            Some(&(_, epoch)) => {
                let told = shared.told.get(target).into_iter();
                let told = told.flat_map(|told| told.range(..=epoch).map(|(_, told)| *told));
                Floor { high_watermark: told.max().unwrap_or(0), epoch: Some(epoch) }
            }
        };
        offsets.iter().map(|(target, _)| (target.clone(), floor(target))).collect()
    }
}

pub fn fetch_request(rng: &mut Rng, offsets: &[(Target, i64)], leaders: &Leaders) -> FetchRequest {
    let topics = offsets.iter().map(|(target, offset)| FetchTopic {
        topic: target.0.clone(),
        partitions: vec![FetchPartition {
            partition: target.1,
            current_leader_epoch: leaders.get(target).map_or(-1, |(_, epoch)| *epoch),
            fetch_offset: *offset,
            partition_max_bytes: 1 << (8 + rng.below(13)),
            ..Default::default()
        }],
        ..Default::default()
    });
    FetchRequest {
        max_wait_ms: 200,
        min_bytes: 1,
        max_bytes: 1 << 20,
        topics: topics.collect(),
        ..Default::default()
    }
}

/// Holds an answer against the histories, and says where its reader goes on.
pub fn take_fetched(
    shared: &mut Shared,
    floors: &BTreeMap<Target, Floor>,
    offsets: &[(Target, i64)],
    response: FetchResponse,
) -> Result<Moved, Violation> {
    let mut moved = Vec::new();
    for topic in response.responses {
        for data in topic.partitions {
            let target = (topic.topic.clone(), data.partition_index);
            let Some((_, from)) = offsets.iter().find(|(asked, _)| *asked == target) else {
                Bounded::fails(format!("{target:?} was not asked for"))?;
                continue;
            };
            if let Some((_, to)) = take_partition(shared, &target, *from, &floors[&target], &data)?
            {
                moved.push((target, to));
            }
        }
    }
    Ok(moved)
}

/// The batches that a partition's answer holds and where they end; `None` when there is nothing
/// new.
pub fn take_partition(
    shared: &mut Shared,
    target: &Target,
    from: i64,
    floor: &Floor,
    data: &PartitionData,
) -> Result<Option<(Vec<Found>, i64)>, Violation> {
    match data.error_code {
        ErrorCode::NONE => {}
        ErrorCode::OFFSET_OUT_OF_RANGE => return out_of_range(shared, target, from),
        code if code.is_retriable() => {
            shared.refused(code);
            return Ok(None);
        }
        code => CommittedStays::fails(format!("{target:?} at {from}: {code:?}"))?,
    }
    if data.high_watermark < floor.high_watermark {
        let (before, now) = (floor.high_watermark, data.high_watermark);
        CommittedStays::fails(format!(
            "the high watermark of {target:?} went from {before} to {now}"
        ))?;
    }
    if let Some(epoch) = floor.epoch {
        let told = shared.told.entry(target.clone()).or_default().entry(epoch).or_default();
        *told = data.high_watermark.max(*told);
    }
    let history = shared.history(target);
    history.high_watermark = history.high_watermark.max(data.high_watermark);
    let mut rest = bytes::Bytes::from(data.records.pieces().concat());
    let mut end = from;
    let mut found = Vec::new();
    while let Some(next) = batch::next_batch(&mut rest) {
        let (_, bytes) = next.map_err(|error| lost(format!("{target:?} at {end}: {error:?}")))?;
        let batch = Found::recognise(history, &bytes)
            .map_err(|what| lost(format!("{target:?}: {what}")))?;
        let follows = match found.is_empty() {
            true => batch.base_offset <= end && end < batch.end(),
            false => batch.base_offset == end,
        };
        if !follows || batch.end() > data.high_watermark {
            CommittedStays::fails(format!(
                "{target:?} served {batch:?} after {end} of {}",
                data.high_watermark
            ))?;
        }
        serve(history, target, &batch)?;
        end = batch.end();
        found.push(batch);
    }
    Ok((end > from).then_some((found, end)))
}

fn serve(history: &mut History, target: &Target, batch: &Found) -> Verdict {
    match history.served.insert(batch.base_offset, batch.id) {
        Some(before) if before != batch.id => {
            CommittedStays::fails(format!("{target:?} served {before:?} before, now {batch:?}"))
        }
        _ => Ok(()),
    }
}

/// Where a reader stands that must ask for the log start offset first.
pub const UNKNOWN: i64 = -2;

/// The reader stands before what was trimmed: it asks where the log starts, as Kafka's clients do.
fn out_of_range(
    shared: &mut Shared,
    target: &Target,
    from: i64,
) -> Result<Option<(Vec<Found>, i64)>, Violation> {
    let start_max = shared.history(target).log_start_max;
    if from >= start_max && !shared.short {
        CommittedStays::fails(format!("{target:?} lacks {from}, trimmed was up to {start_max}"))?;
    }
    Ok(Some((Vec::new(), UNKNOWN)))
}

pub fn start_request(target: &Target) -> ListOffsetsRequest {
    let partition = ListOffsetsPartition {
        partition_index: target.1,
        // Kafka's "earliest".
        timestamp: -2,
        ..Default::default()
    };
    let topic = ListOffsetsTopic { name: target.0.clone(), partitions: vec![partition] };
    ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() }
}

/// The log start offset of an answer; `None` when the broker cannot tell yet.
pub fn take_start(
    shared: &mut Shared,
    target: &Target,
    response: &ListOffsetsResponse,
) -> Result<Option<i64>, Violation> {
    let partition = response.topics.first().and_then(|topic| topic.partitions.first());
    let start = match partition {
        Some(partition) if partition.error_code == ErrorCode::NONE => partition.offset,
        Some(partition) if partition.error_code.is_retriable() => {
            log::debug!("{target:?} does not tell its start: {:?}", partition.error_code);
            shared.refused(partition.error_code);
            return Ok(None);
        }
        other => return Err(lost(format!("{target:?} has no start: {other:?}"))),
    };
    let short = shared.short;
    let history = shared.history(target);
    if short {
        history.log_start_max = history.log_start_max.max(start);
    }
    if start > history.log_start_max {
        let allowed = history.log_start_max;
        CommittedStays::fails(format!(
            "{target:?} starts at {start}, trimmed was up to {allowed}"
        ))?;
    }
    Ok(Some(start))
}

fn lost(what: String) -> Violation {
    AckedIsDurable::fails(what).expect_err("it always fails")
}
