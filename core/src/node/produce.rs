//! Produce: record batches are judged, appended, and answered when they are on flash.
//!
//! The answer is put together at once, since the offsets are known when a batch is appended, and
//! waits as a frame until its batches are on this gateway's flash (`acks=1`) or on that of every
//! in-sync replica (`acks=all`), which is what the high watermark says. With `acks=0` nobody reads
//! an answer, but the request is over at the same time as with `acks=1`: a client that sends faster
//! than the flash takes is read no faster, and what waits stays within the requests' bound.

use super::checks::{Checks, Verdicts, check_keys};
use super::connections::{Answered, Caller};
use super::replication::Replicas;
use super::{Clock, Node};
use crate::batch::{self, BatchError, Codec, Header, Sequence};
use crate::error::ErrorCode;
use crate::limits;
use crate::log::{Append, AppendError, Log};
use crate::metadata::{Image, Topic, is_internal};
use crate::types::{Offset, PartitionNumber, Time};
use crate::wire::produce::{
    BatchIndexAndErrorMessage, PartitionProduceData, PartitionProduceResponse, ProduceRequest,
    ProduceResponse, TopicProduceResponse,
};
use crate::wire::{ApiKey, Records};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::{Bytes, BytesMut};

/// Answers that wait for the flash.
#[derive(Debug, Default)]
pub(super) struct Produces {
    next_id: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// Requests whose batches are looked into first.
    pub checks: Checks,
    /// Who waits for which end of a partition, ascending by the end that it waits for.
    by_partition: BTreeMap<(PartitionNumber, Acks), VecDeque<(Offset, u64)>>,
    deadlines: BTreeSet<(Time, u64)>,
}

/// Whose flash a producer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Acks {
    /// The leader's.
    Leader,
    /// That of every in-sync replica.
    All,
}

#[derive(Debug)]
struct Waiting {
    caller: Caller,
    /// As it will be, unless something fails meanwhile. `None`: nobody reads it.
    response: Option<ProduceResponse>,
    /// Partitions whose durable end is not there yet.
    partitions: usize,
    /// The flash of this gateway is waited for as long as it takes; others are not.
    deadline: Option<Time>,
}

impl Waiting {
    fn answer(self) -> (Caller, Answered) {
        let reply = |response| Answered::Reply(self.caller.frame(&response));
        (self.caller, self.response.map_or(Answered::NoReply, reply))
    }

    /// The answer when what was appended may be lost: everything that was not refused is to be sent
    /// again.
    fn failed(mut self, code: ErrorCode) -> (Caller, Answered) {
        let topics = self.response.iter_mut().flat_map(|response| &mut response.responses);
        let partitions = topics.flat_map(|topic| &mut topic.partition_responses);
        for partition in partitions.filter(|partition| !partition.error_code.is_error()) {
            let index = partition.index;
            *partition = PartitionProduceResponse {
                index,
                error_code: code,
                base_offset: -1,
                ..PartitionProduceResponse::default()
            };
        }
        self.answer()
    }
}

impl Produces {
    fn wait(
        &mut self,
        (caller, response): (Caller, Option<ProduceResponse>),
        acks: Acks,
        deadline: Option<Time>,
        ends: &[(PartitionNumber, Offset)],
    ) {
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.insert(id, Waiting { caller, response, partitions: ends.len(), deadline });
        self.deadlines.extend(deadline.map(|deadline| (deadline, id)));
        for (number, end) in ends {
            let queue = self.by_partition.entry((*number, acks)).or_default();
            let at = queue.partition_point(|(other, _)| other <= end);
            queue.insert(at, (*end, id));
        }
    }

    /// The answers that may leave now that a partition is safe up to `end`.
    pub fn moved(
        &mut self,
        acks: Acks,
        number: PartitionNumber,
        end: Offset,
    ) -> Vec<(Caller, Answered)> {
        let mut answers = Vec::new();
        let Some(queue) = self.by_partition.get_mut(&(number, acks)) else { return answers };
        while queue.front().is_some_and(|(wanted, _)| *wanted <= end) {
            let Some((_, id)) = queue.pop_front() else { break };
            let Some(waiting) = self.waiting.get_mut(&id) else { continue };
            waiting.partitions -= 1;
            if waiting.partitions == 0
                && let Some(waiting) = self.waiting.remove(&id)
            {
                forget_deadline(&mut self.deadlines, &waiting, id);
                answers.push(waiting.answer());
            }
        }
        if queue.is_empty() {
            self.by_partition.remove(&(number, acks));
        }
        answers
    }

    fn take(&mut self, id: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&id)?;
        forget_deadline(&mut self.deadlines, &waiting, id);
        Some(waiting)
    }

    pub fn deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(time, _)| *time)
    }

    /// Those who have waited for as long as they said they would.
    fn expired(&mut self, now: Time) -> Vec<(Caller, Answered)> {
        let mut answers = Vec::new();
        while let Some((time, id)) = self.deadlines.first().copied()
            && time <= now
        {
            self.deadlines.remove(&(time, id));
            let waiting = self.waiting.remove(&id);
            answers.extend(waiting.map(|one| one.failed(ErrorCode::REQUEST_TIMED_OUT)));
        }
        answers
    }

    /// Everyone who waits for a partition that is gone, or is led elsewhere.
    fn failed(&mut self, number: PartitionNumber, code: ErrorCode) -> Vec<(Caller, Answered)> {
        let queues =
            [Acks::Leader, Acks::All].map(|acks| self.by_partition.remove(&(number, acks)));
        let queued: Vec<(Offset, u64)> = queues.into_iter().flatten().flatten().collect();
        queued
            .into_iter()
            .filter_map(|(_, id)| self.take(id))
            .map(|waiting| waiting.failed(code))
            .collect()
    }

    pub fn drain(&mut self) -> impl Iterator<Item = Caller> + use<> {
        self.by_partition.clear();
        self.deadlines.clear();
        let waiting = core::mem::take(&mut self.waiting);
        let checked = core::mem::take(&mut self.checks).into_callers();
        waiting.into_values().map(|waiting| waiting.caller).chain(checked)
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

fn forget_deadline(deadlines: &mut BTreeSet<(Time, u64)>, waiting: &Waiting, id: u64) {
    if let Some(deadline) = waiting.deadline {
        deadlines.remove(&(deadline, id));
    }
}

/// A batch that is in the log, on flash or on its way there.
struct Appended {
    base_offset: Offset,
    log_append_time_ms: i64,
    log_start: Offset,
}

/// Why a batch is not taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused {
    pub code: ErrorCode,
    pub message: Option<String>,
    /// The records that are at fault, and what is wrong with each.
    pub records: Vec<BatchIndexAndErrorMessage>,
}

impl From<ErrorCode> for Refused {
    fn from(code: ErrorCode) -> Refused {
        Refused { code, ..Refused::default() }
    }
}

fn refuse<T>(code: ErrorCode, message: &str) -> Result<T, Refused> {
    Err(Refused { code, message: Some(message.into()), records: Vec::new() })
}

/// What judging and appending needs of the node.
struct Leader<'a> {
    now: Time,
    version: i16,
    clock: Clock,
    image: &'a Image,
    log: &'a mut Log,
    replicas: &'a Replicas,
    acks: Acks,
    refused: Verdicts,
    /// The ends that the answer waits for.
    waits: Vec<(PartitionNumber, Offset)>,
    /// What was appended that others follow.
    followed: Vec<(PartitionNumber, Offset, Bytes)>,
}

impl Node {
    /// Appends what was not refused when it was looked into.
    pub(super) fn append_produced(
        &mut self,
        now: Time,
        caller: Caller,
        request: ProduceRequest,
        refused: Verdicts,
    ) {
        let acks = request.acks;
        let waits_for = if acks == -1 { Acks::All } else { Acks::Leader };
        let (version, clock) = (caller.version, self.clock);
        let (image, log, replicas) = (&self.image, &mut self.log, &self.replicas);
        let timeout_ms = u64::try_from(request.timeout_ms).unwrap_or(0);
        let mut leader = Leader {
            now,
            version,
            clock,
            image,
            log,
            replicas,
            acks: waits_for,
            refused,
            waits: Vec::new(),
            followed: Vec::new(),
        };
        let response = leader.produce(request);
        let (waits, followed) = (leader.waits, leader.followed);
        let others = !followed.is_empty();
        for (number, base_offset, batch) in followed {
            self.note_appended(now, number, base_offset, &batch);
        }
        let mut failed = false;
        for partition in response.responses.iter().flat_map(|topic| &topic.partition_responses) {
            failed |= partition.error_code.is_error();
            self.counts.error(ApiKey::Produce, partition.error_code);
        }
        match waits.is_empty() {
            // Nobody reads an answer, so an error is told by the end of the connection, as Kafka
            // does.
            _ if acks == 0 && failed => self.close(caller),
            true if acks == 0 => self.answer(caller, Answered::NoReply),
            true => self.reply(caller, &response),
            false => {
                let deadline = (others && acks == -1).then(|| now.plus_ms(timeout_ms));
                let response = (acks != 0).then_some(response);
                self.produces.wait((caller, response), waits_for, deadline, &waits);
            }
        }
    }

    pub(super) fn expire_produces(&mut self, now: Time) {
        let expired = self.produces.expired(now);
        self.answer_produces(expired);
    }

    /// What was appended to that partition and not acknowledged may be lost.
    pub(super) fn fail_produces(&mut self, number: PartitionNumber, code: ErrorCode) {
        let failed = self.produces.failed(number, code);
        self.answer_produces(failed);
    }

    pub(super) fn answer_produces(&mut self, answers: Vec<(Caller, Answered)>) {
        for (caller, answered) in answers {
            self.answer(caller, answered);
        }
    }
}

impl Leader<'_> {
    fn produce(&mut self, request: ProduceRequest) -> ProduceResponse {
        let refused = refused_whole(&request);
        let mut response = ProduceResponse::default();
        for (topic_at, data) in request.topic_data.into_iter().enumerate() {
            let topic = match self.version {
                ..=12 => self.image.topic(&data.name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
                _ => self.image.topic_by_id(data.topic_id).ok_or(ErrorCode::UNKNOWN_TOPIC_ID),
            };
            let topic = refused.map_or(topic, Err);
            let mut partition_responses = Vec::with_capacity(data.partition_data.len());
            for (at, partition) in data.partition_data.into_iter().enumerate() {
                let index = partition.index;
                let outcome = match (topic, self.refused.remove(&(topic_at, at))) {
                    (Err(code), _) => Err(code.into()),
                    (Ok(_), Some(refused)) => Err(refused),
                    (Ok(topic), None) => self.append(topic, partition),
                };
                partition_responses.push(partition_response(index, outcome));
            }
            response.responses.push(TopicProduceResponse {
                name: data.name,
                topic_id: data.topic_id,
                partition_responses,
            });
        }
        response
    }

    fn append(&mut self, topic: &Topic, data: PartitionProduceData) -> Result<Appended, Refused> {
        let number = topic.partition(data.index).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        if is_internal(&topic.name) {
            return refuse(
                ErrorCode::INVALID_TOPIC_EXCEPTION,
                "Internal topics are not written to.",
            );
        }
        let leader = self.replicas.leader(number)?;
        if self.acks == Acks::All {
            leader.check_insync()?;
        }
        let leader_epoch = leader.epoch();
        let high_watermark = leader.high_watermark();
        let first = the_batch(data.records, self.version)?;
        let (header, batch) = self.check(topic, data.index, first)?;
        let view = self.log.partition(number).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let (base_offset, durable_end, log_start) =
            (view.log_end, view.durable_end, view.log_start);
        // A repeated batch is answered as the first time, and no earlier: it may not be on flash
        // yet.
        let duplicate = match view.producers.check(&header)? {
            Sequence::Duplicate { base_offset } => Some(base_offset),
            Sequence::Append => None,
        };
        if duplicate.is_none() {
            let copy = leader.followers().next().map(|_| batch.clone());
            let append = Append { partition: number, leader_epoch, base_offset, header, batch };
            self.log.append(self.now, append).map_err(refused_by_log)?;
            self.followed.extend(copy.map(|batch| (number, base_offset, batch)));
        }
        let base_offset = duplicate.unwrap_or(base_offset);
        let end = base_offset.plus(i64::from(header.last_offset_delta) + 1);
        let safe = match self.acks {
            Acks::Leader => durable_end,
            Acks::All => high_watermark,
        };
        if end > safe {
            self.waits.push((number, end));
        }
        let stamped = topic.policy.log_append_time && duplicate.is_none();
        let log_append_time_ms = if stamped { header.max_timestamp } else { -1 };
        Ok(Appended { base_offset, log_append_time_ms, log_start })
    }

    /// Kafka's rules for what may be appended to a topic. Returns the batch as it is to be stored.
    fn check(
        &self,
        topic: &Topic,
        index: i32,
        (mut header, batch): (Header, Bytes),
    ) -> Result<(Header, Bytes), Refused> {
        let policy = &topic.policy;
        if batch.len() > policy.max_message_bytes {
            let message = format!(
                "The record batch size in the append to {}-{index} is {} bytes which exceeds the \
                 maximum of {}: max.message.bytes, of which a gateway takes {} at most.",
                topic.name,
                batch.len(),
                policy.max_message_bytes,
                limits::MESSAGE_BYTES_MAX
            );
            return refuse(ErrorCode::MESSAGE_TOO_LARGE, &message);
        }
        if header.is_transactional() {
            return refuse(ErrorCode::INVALID_TXN_STATE, "Transactions are not supported yet.");
        }
        let max_timestamp = batch::check_produced(&header, &batch).map_err(refused_bytes)?;
        if policy.is_compacted() && header.codec() == Some(Codec::None) {
            check_keys(&topic.name, index, &header, &batch)?;
        }
        let wall_ms = self.clock.wall_ms(self.now);
        if policy.log_append_time {
            let mut stamped = BytesMut::from(&batch[..]);
            batch::stamp_append_time(&mut stamped, wall_ms);
            return reparsed(stamped.freeze());
        }
        // A gateway without a trusted clock cannot call another clock wrong.
        if self.clock.trusted {
            let ahead = max_timestamp.saturating_sub(wall_ms);
            let behind = wall_ms.saturating_sub(header.base_timestamp);
            if ahead > policy.timestamp_after_max_ms || behind > policy.timestamp_before_max_ms {
                let message = "Timestamp of a message is out of range.";
                return refuse(ErrorCode::INVALID_TIMESTAMP, message);
            }
        }
        if max_timestamp != header.max_timestamp {
            let mut stamped = BytesMut::from(&batch[..]);
            batch::stamp_max_timestamp(&mut stamped, max_timestamp);
            return reparsed(stamped.freeze());
        }
        header.base_offset = Offset::ZERO;
        Ok((header, batch))
    }
}

/// What is wrong with a request as a whole, so that each of its partitions is answered so.
fn refused_whole(request: &ProduceRequest) -> Option<ErrorCode> {
    if !(-1..=1).contains(&request.acks) {
        return Some(ErrorCode::INVALID_REQUIRED_ACKS);
    }
    request.transactional_id.as_ref().map(|_| ErrorCode::INVALID_TXN_STATE)
}

/// The one batch that a partition's records must be (`ProduceRequest.validateRecords` in Kafka).
fn the_batch(records: Records, version: i16) -> Result<(Header, Bytes), Refused> {
    let mut bytes = records.0.and_then(|pieces| pieces.into_iter().next()).unwrap_or_default();
    let Some(first) = batch::next_batch(&mut bytes) else {
        return refuse(ErrorCode::INVALID_RECORD, "A partition must have one record batch.");
    };
    let (header, batch) = first.map_err(refused_bytes)?;
    if !bytes.is_empty() {
        return refuse(ErrorCode::INVALID_RECORD, "A partition must have only one record batch.");
    }
    if version < 7 && header.codec() == Some(Codec::Zstd) {
        let message = "Produce before version 7 does not know zstd.";
        return refuse(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE, message);
    }
    Ok((header, batch))
}

fn reparsed(batch: Bytes) -> Result<(Header, Bytes), Refused> {
    let header = Header::parse(&batch).map_err(refused_bytes)?;
    Ok((header, batch))
}

pub(super) fn refused_bytes(error: BatchError) -> Refused {
    match error {
        BatchError::OldMagic(_) => Refused {
            code: error.code(),
            message: Some("Only record batches with magic version 2 are taken.".into()),
            records: Vec::new(),
        },
        error => error.code().into(),
    }
}

fn refused_by_log(error: AppendError) -> Refused {
    let message = match error {
        AppendError::UnknownPartition => return ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.into(),
        AppendError::Full => "The disk budget of this gateway is used up.",
        AppendError::Fenced => "The flash of this gateway takes no more writes.",
    };
    let message = Some(message.into());
    Refused { code: ErrorCode::KAFKA_STORAGE_ERROR, message, records: Vec::new() }
}

fn partition_response(index: i32, outcome: Result<Appended, Refused>) -> PartitionProduceResponse {
    match outcome {
        Ok(appended) => PartitionProduceResponse {
            index,
            base_offset: appended.base_offset.0,
            log_append_time_ms: appended.log_append_time_ms,
            log_start_offset: appended.log_start.0,
            ..PartitionProduceResponse::default()
        },
        Err(refused) => PartitionProduceResponse {
            index,
            error_code: refused.code,
            base_offset: -1,
            record_errors: refused.records,
            error_message: refused.message,
            ..PartitionProduceResponse::default()
        },
    }
}
