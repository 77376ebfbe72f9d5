//! ListOffsets and OffsetForLeaderEpoch: where a partition begins and ends, and where a time leads.

use super::Node;
use super::connections::Caller;
use crate::error::ErrorCode;
use crate::log::{Answer, FetchError, Ticket, TimestampHit};
use crate::types::{LeaderEpoch, Offset, PartitionNumber};
use crate::wire::ApiKey;
use crate::wire::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};
use crate::wire::offsets::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
    OffsetForLeaderTopicResult,
};
use alloc::collections::{BTreeMap, BTreeSet};

/// Timestamps that ask for a place instead (`ListOffsetsRequest` in Kafka).
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

/// A replica id that asks for the end of the leader's log, replicated or not
/// (`ListOffsetsRequest.DEBUGGING_REPLICA_ID` in Kafka).
const DEBUGGING_REPLICA_ID: i32 = -2;

/// Searches by time that wait for the disk.
#[derive(Debug, Default)]
pub(super) struct Searches {
    next_id: u64,
    waiting: BTreeMap<u64, Waiting>,
    tickets: BTreeMap<Ticket, Place>,
}

#[derive(Debug)]
struct Waiting {
    caller: Caller,
    response: ListOffsetsResponse,
    outstanding: usize,
}

/// The partition of an answer that a search fills.
#[derive(Clone, Copy, Debug)]
struct Place {
    search: u64,
    topic: usize,
    partition: usize,
    /// Hits at this offset and above are not durable yet.
    end: Offset,
}

/// What is known of one partition's question at once.
enum Listed {
    Place(Option<TimestampHit>),
    Searched {
        ticket: Ticket,
        /// The durable end when it was asked.
        end: Offset,
    },
}

impl Node {
    pub(super) fn on_list_offsets(&mut self, caller: Caller, request: ListOffsetsRequest) {
        let search = self.searches.next_id;
        self.searches.next_id += 1;
        let mut seen = BTreeSet::new();
        let mut outstanding = 0;
        let to_log_end = request.replica_id == DEBUGGING_REPLICA_ID;
        let mut response = ListOffsetsResponse::default();
        for (topic_at, topic) in request.topics.into_iter().enumerate() {
            let mut partitions = alloc::vec::Vec::with_capacity(topic.partitions.len());
            for (at, asked) in topic.partitions.iter().enumerate() {
                let fresh = seen.insert((topic.name.clone(), asked.partition_index));
                let answer = match fresh {
                    true => self.list_offset(caller.version, &topic.name, asked, to_log_end),
                    false => Err(ErrorCode::INVALID_REQUEST),
                };
                let mut one = ListOffsetsPartitionResponse {
                    partition_index: asked.partition_index,
                    ..ListOffsetsPartitionResponse::default()
                };
                match answer {
                    Ok(Listed::Place(hit)) => fill(&mut one, hit),
                    Ok(Listed::Searched { ticket, end }) => {
                        outstanding += 1;
                        let place = Place { search, topic: topic_at, partition: at, end };
                        self.searches.tickets.insert(ticket, place);
                    }
                    Err(code) => {
                        self.counts.error(ApiKey::ListOffsets, code);
                        one.error_code = code;
                    }
                }
                partitions.push(one);
            }
            response.topics.push(ListOffsetsTopicResponse { name: topic.name, partitions });
        }
        if outstanding == 0 {
            return self.reply(caller, &response);
        }
        self.searches.waiting.insert(search, Waiting { caller, response, outstanding });
    }

    pub(super) fn on_found(
        &mut self,
        ticket: Ticket,
        result: Result<Option<TimestampHit>, FetchError>,
    ) {
        let Some(place) = self.searches.tickets.remove(&ticket) else { return };
        let Some(waiting) = self.searches.waiting.get_mut(&place.search) else { return };
        let topic = waiting.response.topics.get_mut(place.topic);
        if let Some(one) = topic.and_then(|topic| topic.partitions.get_mut(place.partition)) {
            match result {
                Ok(hit) => fill(one, hit.filter(|hit| hit.offset < place.end)),
                Err(_) => one.error_code = ErrorCode::KAFKA_STORAGE_ERROR,
            }
        }
        waiting.outstanding -= 1;
        if waiting.outstanding == 0
            && let Some(waiting) = self.searches.waiting.remove(&place.search)
        {
            self.reply(waiting.caller, &waiting.response);
        }
    }

    /// The place that one partition was asked for.
    fn list_offset(
        &mut self,
        version: i16,
        topic: &str,
        asked: &ListOffsetsPartition,
        to_log_end: bool,
    ) -> Result<Listed, ErrorCode> {
        let topic = self.image.topic(topic).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let number = topic.partition(asked.partition_index);
        let number = number.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let leader = self.replicas.check_epoch(number, asked.current_leader_epoch)?;
        if !leader.is_settled() {
            return Err(ErrorCode::OFFSET_NOT_AVAILABLE);
        }
        let (leader_epoch, end) = (leader.epoch(), leader.high_watermark());
        let view = self.log.partition(number).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let (log_start, log_end, max_timestamp) =
            (view.log_start, view.log_end, view.max_timestamp);
        let at =
            |offset| Ok(Listed::Place(Some(TimestampHit { offset, timestamp: -1, leader_epoch })));
        let nowhere = Ok(Listed::Place(None));
        let timestamp = match asked.timestamp {
            LATEST if to_log_end => return at(log_end),
            LATEST => return at(end),
            EARLIEST => return at(log_start),
            EARLIEST_LOCAL if version >= 8 => return at(log_start),
            // Nothing is tiered.
            LATEST_TIERED if version >= 9 => return nowhere,
            EARLIEST_PENDING_UPLOAD if version >= 11 => return nowhere,
            MAX_TIMESTAMP if version >= 7 => max_timestamp,
            0.. => asked.timestamp,
            _ => return Err(ErrorCode::UNSUPPORTED_VERSION),
        };
        if log_start == end {
            return nowhere;
        }
        match self.log.find_timestamp(number, timestamp) {
            Ok(Answer::Now(hit)) => Ok(Listed::Place(hit.filter(|hit| hit.offset < end))),
            Ok(Answer::Later(ticket)) => Ok(Listed::Searched { ticket, end }),
            Err(_) => Err(ErrorCode::KAFKA_STORAGE_ERROR),
        }
    }

    pub(super) fn on_offset_for_leader_epoch(
        &mut self,
        caller: Caller,
        request: OffsetForLeaderEpochRequest,
    ) {
        let mut response = OffsetForLeaderEpochResponse::default();
        for asked in request.topics {
            let topic = self.image.topic(&asked.topic);
            let partitions = asked.partitions.iter().map(|asked| {
                let number = topic.and_then(|topic| topic.partition(asked.partition));
                let known = number.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
                let epoch = asked.current_leader_epoch;
                let checked =
                    known.and_then(|known| self.replicas.check_epoch(known, epoch).map(|_| known));
                let mut one =
                    EpochEndOffset { partition: asked.partition, ..EpochEndOffset::default() };
                match checked.map(|number| self.epoch_end(number, asked.leader_epoch)) {
                    Ok(Some((epoch, end))) => {
                        (one.leader_epoch, one.end_offset) = (epoch.0, end.0);
                    }
                    Ok(None) => {}
                    Err(code) => one.error_code = code,
                }
                one
            });
            let partitions = partitions.collect();
            response.topics.push(OffsetForLeaderTopicResult { topic: asked.topic, partitions });
        }
        self.reply(caller, &response);
    }

    /// Where an epoch ends, as far as it is committed.
    fn epoch_end(&self, number: PartitionNumber, epoch: i32) -> Option<(LeaderEpoch, Offset)> {
        let leader = self.replicas.leader(number).ok()?;
        let asked = Some(LeaderEpoch(epoch)).filter(|asked| *asked <= leader.epoch())?;
        let (epoch, end) = self.log.epoch_end(number, asked)?;
        Some((epoch, end.min(leader.high_watermark())))
    }
}

fn fill(one: &mut ListOffsetsPartitionResponse, hit: Option<TimestampHit>) {
    if let Some(hit) = hit {
        one.timestamp = hit.timestamp;
        one.offset = hit.offset.0;
        one.leader_epoch = hit.leader_epoch.0;
    }
}
