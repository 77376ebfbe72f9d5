//! Changes of the metadata: decided one after the other, applied when their records are durable.
//!
//! A change waits until the one before it is applied, so what is decided is decided on everything
//! that is true. This is the place of the metadata quorum: when there are several voters, "append
//! and wait for the flash" becomes "propose and wait for the commit", and nothing else changes.

use super::connections::Caller;
use super::start::leader_epoch;
use super::{Node, producer_ids};
use crate::batch::Header;
use crate::limits;
use crate::log::Append;
use crate::metadata::{self, CONSUMER_OFFSETS, NewTopic, Plan, Record};
use crate::types::{Offset, PartitionNumber, Time};
use crate::wire::configs::{AlterConfigsRequest, IncrementalAlterConfigsRequest};
use crate::wire::group::FindCoordinatorRequest;
use crate::wire::metadata::MetadataRequest;
use crate::wire::topics::{CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest};
use crate::wire::{Frame, Message};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;

/// An internal partition is written anew when it is this many times as long as what it says, and
/// never below the floor: then reading it at the start costs nothing worth the flash's wear.
const REWRITE_RATIO: u64 = 4;
const REWRITE_FLOOR_BYTES: u64 = 1 << 20;

/// Something that somebody wishes of the metadata.
#[derive(Debug)]
pub(super) enum Change {
    /// The cluster's id: the first change of all.
    Cluster,
    CreateTopics(Caller, CreateTopicsRequest),
    DeleteTopics(Caller, DeleteTopicsRequest),
    CreatePartitions(Caller, CreatePartitionsRequest),
    IncrementalAlterConfigs(Caller, IncrementalAlterConfigsRequest),
    AlterConfigs(Caller, AlterConfigsRequest),
    /// A client asked for topics that do not exist yet.
    AutoCreate(Caller, MetadataRequest),
    /// A client asked for its group's coordinator, which needs `__consumer_offsets`.
    Coordinator(Caller, FindCoordinatorRequest),
    ProducerIds,
}

impl Change {
    fn caller(&self) -> Option<Caller> {
        match self {
            Change::Cluster | Change::ProducerIds => None,
            Change::CreateTopics(caller, _)
            | Change::DeleteTopics(caller, _)
            | Change::CreatePartitions(caller, _)
            | Change::IncrementalAlterConfigs(caller, _)
            | Change::AlterConfigs(caller, _)
            | Change::AutoCreate(caller, _)
            | Change::Coordinator(caller, _) => Some(*caller),
        }
    }
}

/// What happens when a change is applied.
#[derive(Debug)]
pub(super) enum Then {
    Serve,
    Send(Caller, Frame),
    Metadata(Caller, MetadataRequest),
    Coordinator(Caller, FindCoordinatorRequest),
    ProducerIds(Range<i64>),
    /// The log could not take all of it.
    Close(Option<Caller>),
    /// A snapshot begins here: what is below says nothing more.
    Trim(Offset),
}

impl Then {
    pub fn reply<M: Message>(caller: Caller, response: &M) -> Then {
        Then::Send(caller, caller.frame(response))
    }

    fn caller(&self) -> Option<Caller> {
        match self {
            Then::Send(caller, _) | Then::Metadata(caller, _) | Then::Coordinator(caller, _) => {
                Some(*caller)
            }
            Then::Close(caller) => *caller,
            Then::Serve | Then::ProducerIds(_) | Then::Trim(_) => None,
        }
    }
}

#[derive(Debug)]
struct InFlight {
    /// The durable end of `__cluster_metadata` that makes it true.
    end: Offset,
    records: Vec<Record>,
    then: Then,
}

#[derive(Debug)]
pub(super) struct Changes {
    queue: VecDeque<Change>,
    in_flight: Option<InFlight>,
    /// Bytes of `__cluster_metadata` above which a snapshot is considered.
    rewrite_above: u64,
}

impl Default for Changes {
    fn default() -> Changes {
        Changes { queue: VecDeque::new(), in_flight: None, rewrite_above: REWRITE_FLOOR_BYTES }
    }
}

impl Changes {
    /// Everyone who waits, when nothing will be written any more.
    pub fn drain(&mut self) -> Vec<Caller> {
        let in_flight = self.in_flight.take().and_then(|in_flight| in_flight.then.caller());
        let queued = self.queue.drain(..).filter_map(|change| change.caller());
        in_flight.into_iter().chain(queued).collect()
    }
}

impl Node {
    pub(super) fn change(&mut self, now: Time, change: Change) {
        self.changes.queue.push_back(change);
        self.next_change(now);
    }

    fn next_change(&mut self, now: Time) {
        while self.changes.in_flight.is_none() {
            if self.write_snapshot(now) {
                return;
            }
            let Some(change) = self.changes.queue.pop_front() else { return };
            let (records, then) = self.decide(change);
            match records.is_empty() {
                true => self.then(now, then),
                false => self.propose(now, records, then),
            }
        }
    }

    fn decide(&mut self, change: Change) -> (Vec<Record>, Then) {
        let mut plan = Plan::new(&self.image, self.settings.node, &mut self.rng);
        let settings = &self.settings;
        let then = match change {
            Change::Cluster => {
                plan.create_cluster();
                Then::Serve
            }
            Change::CreateTopics(caller, request) => {
                return super::topics::create_topics(plan, settings, caller, request);
            }
            Change::DeleteTopics(caller, request) => {
                return super::topics::delete_topics(plan, &self.image, caller, request);
            }
            Change::CreatePartitions(caller, request) => {
                return super::topics::create_partitions(plan, &self.image, caller, request);
            }
            Change::IncrementalAlterConfigs(caller, request) => {
                return super::configs::incremental_alter(plan, &self.image, caller, request);
            }
            Change::AlterConfigs(caller, request) => {
                return super::configs::alter(plan, &self.image, caller, request);
            }
            Change::AutoCreate(caller, request) => {
                for name in request.topics.iter().flatten().filter_map(|topic| topic.name.as_ref())
                {
                    // Whoever cannot have the topic is told by the answer, which looks at the
                    // image.
                    let _ = plan.create_topic(&wanted(name, -1), settings.new_topics());
                }
                Then::Metadata(caller, request)
            }
            Change::Coordinator(caller, request) => {
                let mut new = wanted(CONSUMER_OFFSETS, limits::OFFSETS_PARTITIONS);
                new.configs.push(("cleanup.policy".into(), Some("compact".into())));
                let _ = plan.create_topic(&new, settings.new_topics());
                Then::Coordinator(caller, request)
            }
            Change::ProducerIds => {
                let first = plan.take_producer_ids(producer_ids::BLOCK);
                Then::ProducerIds(first..first + producer_ids::BLOCK)
            }
        };
        (plan.into_records(), then)
    }

    /// Appends records; they count when they are on flash.
    fn propose(&mut self, now: Time, mut records: Vec<Record>, mut then: Then) {
        let mut appended = 0;
        let mut end = Offset::ZERO;
        for batch in metadata::encode_batches(&records, self.clock.wall_ms(now)) {
            let header = Header::parse(&batch).expect("our own batch has a header");
            let partition = PartitionNumber::METADATA;
            let view = self.log.partition(partition).expect("the start made the metadata known");
            let base_offset = view.log_end;
            let leader_epoch = leader_epoch();
            let append = Append { partition, leader_epoch, base_offset, header, batch };
            if let Err(error) = self.log.append(now, append) {
                log::error!("a change of the metadata is not written: {error:?}");
                then = Then::Close(then.caller());
                break;
            }
            appended += header.records_count as usize;
            end = base_offset.plus(i64::from(header.records_count));
        }
        records.truncate(appended);
        if records.is_empty() {
            return self.then(now, then);
        }
        self.changes.in_flight = Some(InFlight { end, records, then });
    }

    pub(super) fn on_metadata_durable(&mut self, now: Time, end: Offset) {
        let Some(in_flight) = self.changes.in_flight.take_if(|change| change.end <= end) else {
            return;
        };
        let mut deleted = Vec::new();
        let first = in_flight.end.0 - in_flight.records.len() as i64;
        for (record, offset) in in_flight.records.iter().zip(first..) {
            if let Record::TopicDeleted { id } = record {
                deleted.extend(self.image.topic_by_id(*id).cloned());
            }
            self.image.apply(record, metadata_index(Offset(offset)));
            match record {
                Record::Partitions { topic, .. } | Record::TopicConfig { topic, .. } => {
                    self.make_known(*topic);
                }
                _ => {}
            }
        }
        if !deleted.is_empty() {
            self.on_topics_deleted(&deleted);
        }
        self.then(now, in_flight.then);
        self.next_change(now);
    }

    fn then(&mut self, now: Time, then: Then) {
        match then {
            Then::Serve => self.serve(),
            Then::Send(caller, frame) => self.send(caller, frame),
            Then::Metadata(caller, request) => self.answer_metadata(caller, &request),
            Then::Coordinator(caller, request) => self.answer_coordinator(caller, &request),
            Then::ProducerIds(block) => self.on_producer_ids(now, block),
            Then::Close(caller) => {
                if let Some(caller) = caller {
                    self.close(caller);
                }
            }
            Then::Trim(start) => self.log.trim(now, PartitionNumber::METADATA, start),
        }
    }

    /// Writes the image anew when its log is several times as long; says whether it did.
    fn write_snapshot(&mut self, now: Time) -> bool {
        let Some(view) = self.log.partition(PartitionNumber::METADATA) else { return false };
        let (bytes, log_end) = (view.bytes, view.log_end);
        if bytes <= self.changes.rewrite_above {
            return false;
        }
        let records = self.image.snapshot();
        let live: usize =
            metadata::encode_batches(&records, 0).iter().map(|batch| batch.len()).sum();
        self.changes.rewrite_above = (REWRITE_RATIO * live as u64).max(REWRITE_FLOOR_BYTES);
        if bytes <= self.changes.rewrite_above {
            return false;
        }
        // Until the next look, the old records and the snapshot both count.
        self.changes.rewrite_above += bytes;
        self.propose(now, records, Then::Trim(log_end));
        self.changes.in_flight.is_some()
    }
}

/// Raft counts from 1.
pub(super) fn metadata_index(offset: Offset) -> u64 {
    offset.0.saturating_add(1).unsigned_abs()
}

fn wanted(name: &str, partitions: i32) -> NewTopic {
    NewTopic { name: name.into(), partitions, replication_factor: -1, ..NewTopic::default() }
}
