//! Fetch: record batches below the high watermark, at once or when there are enough of them.
//!
//! | state | event | next state |
//! |---|---|---|
//! | new | an error, enough bytes, or no time to wait | reading |
//! | new | too few bytes | waiting |
//! | waiting | enough bytes became durable, or the time is over | reading |
//! | reading | every partition is read, from memory or from the disk | answered |
//!
//! Since there are no transactions yet the last stable offset is the high watermark.

use super::Node;
use super::connections::Caller;
use super::replication::Replicas;
use super::session::{Kind, Sessions, Told, TopicKey, Wanted};
use crate::batch::Header;
use crate::error::ErrorCode;
use crate::limits;
use crate::log::{Answer, Batches, FetchError, FetchSpec, Log, Ticket};
use crate::metadata::Image;
use crate::types::{ConnId, NodeId, Offset, PartitionNumber, Time, TopicId};
use crate::wire::ApiKey;
use crate::wire::fetch::{FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

/// How long a fetch of nothing but unknown topics waits, if it may: clients whose topic was deleted
/// (franz-go 1.22) come back at once, several thousand times a second. Beside known topics an
/// unknown one does not end the wait, as in Kafka.
const UNKNOWN_WAIT_MS: u64 = 100;

/// The version from which on a consumer may read from a follower (KIP-392).
const NEARBY: i16 = 11;

/// A fetch by its connection and the sequence of its request.
type Key = (ConnId, u64);

#[derive(Debug, Default)]
pub(super) struct Fetches {
    sessions: Sessions,
    waiting: BTreeMap<Key, Fetch>,
    /// Partitions named by all that waits.
    waiting_partitions: usize,
    /// Who waits for a partition, and which of its targets the partition is.
    by_partition: BTreeMap<PartitionNumber, BTreeMap<Key, usize>>,
    deadlines: BTreeSet<(Time, Key)>,
    reading: BTreeMap<Key, Reading>,
    tickets: BTreeMap<Ticket, (Key, usize)>,
    /// Fetches that may read when others have read.
    queue: VecDeque<Fetch>,
}

#[derive(Debug)]
struct Fetch {
    caller: Caller,
    kind: Kind,
    read_committed: bool,
    /// Where the consumer is, as it says (KIP-392).
    rack: String,
    targets: Vec<Target>,
    bytes_max: usize,
    /// Bytes that are missing for an answer before the deadline.
    bytes_missing: usize,
    deadline: Time,
}

#[derive(Debug)]
struct Target {
    wanted: Wanted,
    /// The partition, or why there is none for this client.
    partition: Result<PartitionNumber, ErrorCode>,
    /// What lies below is counted in `bytes_missing` already.
    counted: Offset,
}

#[derive(Debug)]
struct Reading {
    fetch: Fetch,
    /// By target.
    found: Vec<Found>,
    /// Tickets that have not come yet.
    outstanding: usize,
}

/// What was found of one target.
#[derive(Debug, Default)]
struct Found {
    error_code: ErrorCode,
    high_watermark: i64,
    log_start: i64,
    records: Batches,
    /// Where to read instead.
    nearby: Option<NodeId>,
}

impl Found {
    fn error(error_code: ErrorCode) -> Found {
        Found { error_code, high_watermark: -1, log_start: -1, ..Found::default() }
    }
}

impl Fetches {
    pub fn deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(time, _)| *time)
    }

    pub fn len(&self) -> usize {
        self.waiting.len() + self.reading.len() + self.queue.len()
    }

    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    fn park(&mut self, fetch: Fetch) {
        let key = (fetch.caller.conn, fetch.caller.sequence);
        for (at, target) in fetch.targets.iter().enumerate() {
            if let Ok(number) = target.partition {
                self.by_partition.entry(number).or_default().insert(key, at);
            }
        }
        self.waiting_partitions += fetch.targets.len();
        self.deadlines.insert((fetch.deadline, key));
        self.waiting.insert(key, fetch);
    }

    fn unpark(&mut self, key: Key) -> Option<Fetch> {
        let fetch = self.waiting.remove(&key)?;
        self.deadlines.remove(&(fetch.deadline, key));
        self.waiting_partitions -= fetch.targets.len();
        for number in fetch.targets.iter().filter_map(|target| target.partition.ok()) {
            if let Some(waiting) = self.by_partition.get_mut(&number) {
                waiting.remove(&key);
                if waiting.is_empty() {
                    self.by_partition.remove(&number);
                }
            }
        }
        Some(fetch)
    }
}

impl Target {
    fn new(image: &Image, replicas: &Replicas, nearby: bool, wanted: Wanted) -> Target {
        let (topic, unknown) = match &wanted.topic {
            TopicKey::Name(name) => (image.topic(name), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            TopicKey::Id(id) => (image.topic_by_id(*id), ErrorCode::UNKNOWN_TOPIC_ID),
        };
        let partition = topic.ok_or(unknown).and_then(|topic| {
            let known = topic.partition(wanted.partition);
            known.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
        });
        let epoch = wanted.current_leader_epoch;
        let partition = partition
            .and_then(|number| replicas.check_reader(number, nearby, epoch).map(|()| number));
        Target { counted: Offset(wanted.from), wanted, partition }
    }

    fn is_unknown(&self) -> bool {
        let unknown = [ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ErrorCode::UNKNOWN_TOPIC_ID];
        self.partition.is_err_and(|code| unknown.contains(&code))
    }

    /// Whether the answer cannot wait: an error, or bytes enough. Counts what is new.
    fn is_urgent(&mut self, log: &mut Log, replicas: &Replicas, bytes_missing: &mut usize) -> bool {
        let Ok(number) = self.partition else { return !self.is_unknown() };
        if replicas.check_reader(number, true, -1).is_err() {
            return true;
        }
        // Its leader may know less than what consumers have seen.
        if replicas.is_unsettled(number) {
            return false;
        }
        let Some(view) = log.partition(number) else { return true };
        let from = Offset(self.wanted.from);
        if from < view.log_start || from > view.log_end {
            return true;
        }
        let end = replicas.high_watermark(number);
        if self.counted >= end {
            return false;
        }
        if *bytes_missing <= 1 {
            return true;
        }
        let spec = FetchSpec {
            partition: number,
            from: self.counted,
            end,
            bytes_max: *bytes_missing,
            at_least_one: true,
        };
        // What is no longer in memory is old, and as good as enough.
        let Ok(Answer::Now(batches)) = log.fetch(spec) else { return true };
        let bytes: usize = batches.iter().map(|batch| batch.len()).sum();
        let last = batches.last().and_then(|batch| Header::parse(batch).ok());
        self.counted = last.map_or(end, |header| header.last_offset().plus(1));
        *bytes_missing = bytes_missing.saturating_sub(bytes);
        *bytes_missing == 0
    }
}

impl Node {
    pub(super) fn on_fetch(&mut self, now: Time, caller: Caller, request: FetchRequest) {
        let sessions = &mut self.fetches.sessions;
        let (kind, wanted) = match sessions.resolve(now, &mut self.rng, caller.version, &request) {
            Ok(resolved) => resolved,
            Err(error_code) => {
                self.counts.error(ApiKey::Fetch, error_code);
                let response = FetchResponse { error_code, ..FetchResponse::default() };
                return self.reply(caller, &response);
            }
        };
        let (image, replicas) = (&self.image, &self.replicas);
        let mut fetch = Fetch {
            caller,
            kind,
            read_committed: request.isolation_level == 1,
            targets: wanted
                .into_iter()
                .map(|wanted| Target::new(image, replicas, caller.version >= NEARBY, wanted))
                .collect(),
            rack: request.rack_id,
            bytes_max: usize::try_from(request.max_bytes).unwrap_or(0).min(limits::FETCH_BYTES_MAX),
            bytes_missing: usize::try_from(request.min_bytes).unwrap_or(0),
            deadline: now.plus_ms(u64::try_from(request.max_wait_ms).unwrap_or(0)),
        };
        fetch.bytes_missing = fetch.bytes_missing.min(fetch.bytes_max);
        if fetch.targets.iter().all(Target::is_unknown) {
            fetch.deadline = fetch.deadline.min(now.plus_ms(UNKNOWN_WAIT_MS));
        }
        let named = self.fetches.waiting_partitions + fetch.targets.len();
        let mut urgent = fetch.bytes_missing == 0
            || fetch.deadline <= now
            || named > limits::FETCH_PARTITIONS_MAX;
        urgent = urgent || fetch.targets.iter().any(|it| self.nearby(&fetch, it).is_some());
        for target in &mut fetch.targets {
            urgent =
                urgent || target.is_urgent(&mut self.log, &self.replicas, &mut fetch.bytes_missing);
        }
        match urgent {
            true => self.read(fetch),
            false => self.fetches.park(fetch),
        }
    }

    /// A partition has moved: reads for those who have waited enough.
    pub(super) fn wake_fetches(&mut self, number: PartitionNumber) {
        let Some(waiting) = self.fetches.by_partition.get(&number) else { return };
        let waiting: Vec<(Key, usize)> = waiting.iter().map(|(key, at)| (*key, *at)).collect();
        for (key, at) in waiting {
            let Some(fetch) = self.fetches.waiting.get_mut(&key) else { continue };
            let Some(target) = fetch.targets.get_mut(at) else { continue };
            if target.is_urgent(&mut self.log, &self.replicas, &mut fetch.bytes_missing)
                && let Some(fetch) = self.fetches.unpark(key)
            {
                self.read(fetch);
            }
        }
    }

    pub(super) fn expire_fetches(&mut self, now: Time) {
        while let Some((time, key)) = self.fetches.deadlines.first().copied()
            && time <= now
        {
            if let Some(fetch) = self.fetches.unpark(key) {
                self.read(fetch);
            }
        }
    }

    pub(super) fn close_fetches(&mut self, conn: ConnId) {
        let gone = self.fetches.waiting.range((conn, 0)..=(conn, u64::MAX));
        let gone: Vec<Key> = gone.map(|(key, _)| *key).collect();
        for key in gone {
            self.fetches.unpark(key);
        }
        self.fetches.queue.retain(|fetch| fetch.caller.conn != conn);
    }

    fn read(&mut self, fetch: Fetch) {
        if self.fetches.reading.len() >= limits::FETCHES_READING_MAX {
            return self.fetches.queue.push_back(fetch);
        }
        let key = (fetch.caller.conn, fetch.caller.sequence);
        let mut found = Vec::with_capacity(fetch.targets.len());
        let (mut bytes_left, mut any, mut outstanding) = (fetch.bytes_max, false, 0);
        for (at, target) in fetch.targets.iter().enumerate() {
            let bytes_max = usize::try_from(target.wanted.bytes_max).unwrap_or(0).min(bytes_left);
            let from = Offset(target.wanted.from);
            let nearby = self.nearby(&fetch, target);
            let bytes_max = if nearby.is_some() { 0 } else { bytes_max };
            let at_least_one = !any && nearby.is_none();
            let (one, answer) =
                read_one(&mut self.log, &self.replicas, target, from, bytes_max, at_least_one);
            let one = Found { nearby, ..one };
            match answer {
                Answer::Now(records) => {
                    any |= !records.is_empty();
                    let bytes = records.iter().map(|batch| batch.len()).sum();
                    bytes_left = bytes_left.saturating_sub(bytes);
                    found.push(Found { records, ..one });
                }
                Answer::Later(ticket) => {
                    any = true;
                    bytes_left -= bytes_max;
                    outstanding += 1;
                    self.fetches.tickets.insert(ticket, (key, at));
                    found.push(one);
                }
            }
        }
        match outstanding {
            0 => self.answer_fetch(fetch, found),
            _ => {
                self.fetches.reading.insert(key, Reading { fetch, found, outstanding });
            }
        }
    }

    /// The replica that the consumer should rather ask for this target.
    fn nearby(&self, fetch: &Fetch, target: &Target) -> Option<NodeId> {
        if fetch.rack.is_empty() {
            return None;
        }
        self.nearby_replica(target.partition.ok()?, &fetch.rack, Offset(target.wanted.from))
    }

    pub(super) fn on_fetched(&mut self, ticket: Ticket, result: Result<Batches, FetchError>) {
        let Some((key, at)) = self.fetches.tickets.remove(&ticket) else { return };
        let Some(reading) = self.fetches.reading.get_mut(&key) else { return };
        let Some(target) = reading.fetch.targets.get(at) else { return };
        let from = Offset(target.wanted.from);
        let answer = match result {
            Ok(batches) => Ok(batches),
            Err(FetchError::Damaged { until })
                if !target.partition.is_ok_and(|it| self.replicas.may_come_back(it, until)) =>
            {
                let bytes_max = usize::try_from(target.wanted.bytes_max).unwrap_or(0);
                match read_one(&mut self.log, &self.replicas, target, until, bytes_max, true) {
                    (_, Answer::Later(ticket)) => {
                        self.fetches.tickets.insert(ticket, (key, at));
                        return;
                    }
                    (one, Answer::Now(_)) if one.error_code.is_error() => Err(one.error_code),
                    (_, Answer::Now(batches)) => Ok(batches),
                }
            }
            Err(error) => {
                // It may lead no more, and begin anew: then nothing is out of range.
                let (now, _) = read_one(&mut self.log, &self.replicas, target, from, 0, false);
                Err(if now.error_code.is_error() { now.error_code } else { code_of(error) })
            }
        };
        if let Some(found) = reading.found.get_mut(at) {
            match answer {
                Ok(batches) => found.records = batches,
                Err(error_code) => *found = Found::error(error_code),
            }
        }
        reading.outstanding -= 1;
        if reading.outstanding == 0
            && let Some(reading) = self.fetches.reading.remove(&key)
        {
            self.answer_fetch(reading.fetch, reading.found);
            if let Some(fetch) = self.fetches.queue.pop_front() {
                self.read(fetch);
            }
        }
    }

    fn answer_fetch(&mut self, fetch: Fetch, found: Vec<Found>) {
        let session_id = match fetch.kind {
            Kind::Sessionless => 0,
            Kind::Opened(id) | Kind::Incremental(id) => id,
        };
        let mut response = FetchResponse { session_id, ..FetchResponse::default() };
        let mut told = Vec::new();
        for (target, found) in fetch.targets.into_iter().zip(found) {
            let wanted = target.wanted;
            self.counts.error(ApiKey::Fetch, found.error_code);
            if found.error_code == ErrorCode::KAFKA_STORAGE_ERROR {
                self.replicas.met_damage();
            }
            let news = found.error_code.is_error()
                || found.nearby.is_some()
                || !found.records.is_empty()
                || wanted.told != Some((found.high_watermark, found.log_start));
            if matches!(fetch.kind, Kind::Incremental(_)) && !news {
                continue;
            }
            if session_id != 0 {
                let told_now = Told {
                    high_watermark: found.high_watermark,
                    log_start: found.log_start,
                    had_records: !found.records.is_empty(),
                };
                told.push((wanted.topic.clone(), wanted.partition, told_now));
            }
            let data = partition_data(wanted.partition, found, fetch.read_committed);
            push_partition(&mut response, wanted.topic, data);
        }
        self.fetches.sessions.told(fetch.kind, told.into_iter());
        self.reply(fetch.caller, &response);
    }
}

/// Reads one target from `from` on. What is quarantined is skipped when nobody else has it, and
/// the log counts it; else it is KAFKA_STORAGE_ERROR, until another gateway leads.
fn read_one(
    log: &mut Log,
    replicas: &Replicas,
    target: &Target,
    mut from: Offset,
    bytes_max: usize,
    at_least_one: bool,
) -> (Found, Answer<Batches>) {
    let nothing = Answer::Now(Batches::new());
    let partition = match target.partition {
        Ok(partition) => partition,
        Err(code) => return (Found::error(code), nothing),
    };
    let Some(view) = log.partition(partition) else {
        return (Found::error(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION), nothing);
    };
    let (log_start, log_end) = (view.log_start, view.log_end);
    if let Err(code) = replicas.check_reader(partition, true, -1) {
        return (Found::error(code), nothing);
    }
    if replicas.is_unsettled(partition) {
        return (Found::error(ErrorCode::OFFSET_NOT_AVAILABLE), nothing);
    }
    let end = replicas.high_watermark(partition);
    if from > log_end && replicas.leader(partition).is_err() {
        // The leader may have it already.
        return (Found::error(ErrorCode::OFFSET_NOT_AVAILABLE), nothing);
    }
    if from < log_start || from > log_end {
        return (Found::error(ErrorCode::OFFSET_OUT_OF_RANGE), nothing);
    }
    let found = Found { high_watermark: end.0, log_start: log_start.0, ..Found::default() };
    if bytes_max == 0 && !at_least_one {
        return (found, nothing);
    }
    while from < end {
        match log.fetch(FetchSpec { partition, from, end, bytes_max, at_least_one }) {
            Ok(answer) => return (found, answer),
            Err(FetchError::Damaged { until })
                if until > from && !replicas.may_come_back(partition, until) =>
            {
                log::warn!("partition {} is damaged from {from} to {until}: left out", partition.0);
                from = until;
            }
            Err(error) => return (Found::error(code_of(error)), nothing),
        }
    }
    (found, nothing)
}

fn code_of(error: FetchError) -> ErrorCode {
    match error {
        FetchError::UnknownPartition => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        FetchError::OutOfRange => ErrorCode::OFFSET_OUT_OF_RANGE,
        FetchError::Damaged { .. } | FetchError::Device => ErrorCode::KAFKA_STORAGE_ERROR,
    }
}

fn partition_data(partition_index: i32, found: Found, read_committed: bool) -> PartitionData {
    PartitionData {
        partition_index,
        error_code: found.error_code,
        high_watermark: found.high_watermark,
        last_stable_offset: found.high_watermark,
        log_start_offset: found.log_start,
        aborted_transactions: read_committed.then(Vec::new),
        preferred_read_replica: found.nearby.map_or(-1, |node| node.0),
        records: found.records.into(),
        ..PartitionData::default()
    }
}

/// Adds a partition to the topic that was answered last, or to a new one.
fn push_partition(response: &mut FetchResponse, key: TopicKey, data: PartitionData) {
    let (topic, topic_id) = match key {
        TopicKey::Name(name) => (name, TopicId::NONE),
        TopicKey::Id(id) => (String::new(), id),
    };
    match response.responses.last_mut() {
        Some(last) if last.topic == topic && last.topic_id == topic_id => {
            last.partitions.push(data);
        }
        _ => {
            let partitions = Vec::from([data]);
            response.responses.push(FetchableTopicResponse { topic, topic_id, partitions });
        }
    }
}
