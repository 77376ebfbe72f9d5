//! Committed offsets: what is decided about them, and when they are too old.

use super::outbox::Context;
use super::records;
use super::state::{Group, State};
use super::{KnownTopic, Record, Topics};
use crate::bytes::Reader;
use crate::error::ErrorCode;
use crate::limits::OFFSET_METADATA_MAX;
use crate::types::TopicId;
use crate::wire::Message;
use crate::wire::consumer_protocol::ConsumerProtocolSubscription;
use crate::wire::offsets::*;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

/// OffsetCommit and OffsetFetch from this version on name topics by id.
pub(super) const TOPIC_IDS_FROM: i16 = 10;

/// OffsetCommit from this version on may say that a group does not exist.
pub(super) const GROUP_ID_NOT_FOUND_FROM: i16 = 9;

/// An offset on flash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Committed {
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
    /// Milliseconds since 1970; -1 when no trusted clock knew.
    pub commit_ms: i64,
    /// As old clients ask for it (OffsetCommit up to version 4); -1: by the retention.
    pub expire_ms: i64,
    pub topic_id: TopicId,
}

impl Group {
    /// Kafka's `validateOffsetCommit`. A consumer without a group's membership has generation -1
    /// and may commit while the group has no members.
    pub fn check_commit(&self, request: &OffsetCommitRequest) -> Result<(), ErrorCode> {
        let generation = request.generation_id_or_member_epoch;
        let instance_id = request.group_instance_id.as_deref();
        if generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        if generation < 0 && request.member_id.is_empty() && instance_id.is_none() {
            return Err(ErrorCode::UNKNOWN_MEMBER_ID);
        }
        self.check_member(&request.member_id, instance_id)?;
        if generation != self.generation {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        if self.state == State::CompletingRebalance {
            return Err(ErrorCode::REBALANCE_IN_PROGRESS);
        }
        Ok(())
    }

    /// A commit shows that the member lives.
    pub fn committed_by(&mut self, cx: &mut Context<'_>, member_id: &str) {
        if matches!(self.state, State::Stable | State::PreparingRebalance)
            && let Some(member) = self.members.get_mut(member_id)
        {
            member.heard_of(cx);
        }
    }

    /// Topics that the members read; `None` when that cannot be known.
    pub fn subscribed_topics(&self) -> Option<BTreeSet<String>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        let mut topics = BTreeSet::new();
        let protocol = self.protocol_name.as_deref().unwrap_or_default();
        for member in self.members.values() {
            let mut reader = Reader::new(member.metadata(protocol));
            reader.i16().ok()?;
            // Every version begins with the fields of version 0.
            topics.extend(ConsumerProtocolSubscription::decode(&mut reader, 0).ok()?.topics);
        }
        Some(topics)
    }

    pub fn is_subscribed(&self, topic: &str) -> bool {
        match self.subscribed_topics() {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    pub fn committed(&self, topic: &str, partition: i32) -> Option<&Committed> {
        self.offsets.get(topic)?.get(&partition)
    }

    /// Tombstones of the offsets that nobody asked for in `retention_ms`: of a group without
    /// members, since it lost them; of single partitions that nobody is subscribed to, since they
    /// were committed. What no trusted clock dated counts from now on, by way of `undated_ms`.
    pub fn expired(&self, now_ms: i64, retention_ms: i64, undated_ms: i64) -> Vec<Record> {
        let is_simple = self.protocol_type.is_none();
        let subscribed = match self.state {
            State::Empty => BTreeSet::new(),
            State::Stable if self.uses_consumer_protocol() => match self.subscribed_topics() {
                Some(topics) => topics,
                None => return Vec::new(),
            },
            _ => return Vec::new(),
        };
        let dated = |ms: i64| if ms < 0 { undated_ms } else { ms };
        let is_old = |committed: &Committed| {
            if committed.expire_ms >= 0 {
                return committed.expire_ms <= now_ms;
            }
            let since = match self.state {
                State::Empty if !is_simple => dated(self.state_since_ms.max(committed.commit_ms)),
                _ => dated(committed.commit_ms),
            };
            now_ms.saturating_sub(since) >= retention_ms
        };
        let old = self
            .all_offsets()
            .filter(|(topic, _, committed)| !subscribed.contains(*topic) && is_old(committed));
        old.map(|(topic, partition, _)| self.offset_tombstone(topic, partition)).collect()
    }

    /// Tombstones of the offsets of topics that are not there any more.
    pub fn orphaned(&self, topics: &impl Topics) -> Vec<Record> {
        let is_there = |topic: &str, committed: &Committed| {
            topics.by_name(topic).is_some_and(|known| {
                committed.topic_id == TopicId::NONE || committed.topic_id == known.id
            })
        };
        let orphans =
            self.all_offsets().filter(|(topic, _, committed)| !is_there(topic, committed));
        orphans.map(|(topic, partition, _)| self.offset_tombstone(topic, partition)).collect()
    }

    pub fn all_offsets(&self) -> impl Iterator<Item = (&str, i32, &Committed)> {
        let topics = self.offsets.iter();
        topics.flat_map(|(topic, partitions)| {
            partitions
                .iter()
                .map(move |(partition, committed)| (topic.as_str(), *partition, committed))
        })
    }

    pub fn offset_tombstone(&self, topic: &str, partition: i32) -> Record {
        records::tombstone(records::offset_key(&self.id, topic, partition))
    }

    /// Everything of the group, the group itself last.
    pub fn tombstones(&self) -> Vec<Record> {
        let mut all: Vec<Record> = self
            .all_offsets()
            .map(|(topic, partition, _)| self.offset_tombstone(topic, partition))
            .collect();
        all.push(records::tombstone(records::group_key(&self.id)));
        all
    }
}

/// What a commit comes to, apart from the group: records for the partitions that exist, and the
/// answer once they are on flash. `room` is how many new offsets there may be.
pub(super) fn decide_commit(
    group: Option<&Group>,
    request: &OffsetCommitRequest,
    api_version: i16,
    topics: &impl Topics,
    wall_ms: i64,
    mut room: usize,
) -> (Vec<Record>, OffsetCommitResponse) {
    let mut records = Vec::new();
    let mut answered = Vec::new();
    for topic in &request.topics {
        let known = find(topics, api_version, &topic.name, topic.topic_id);
        let mut partitions = Vec::new();
        for partition in &topic.partitions {
            let index = partition.partition_index;
            let error_code = match check_partition(known, api_version, partition) {
                Err(code) => code,
                Ok(known) => {
                    let is_new = group.is_none_or(|g| g.committed(known.name, index).is_none());
                    if is_new && room == 0 {
                        ErrorCode::INVALID_COMMIT_OFFSET_SIZE
                    } else {
                        room -= usize::from(is_new);
                        let committed = Committed::new(request, partition, known.id, wall_ms);
                        let group = &request.group_id;
                        records.push(records::offset(group, known.name, index, &committed));
                        ErrorCode::NONE
                    }
                }
            };
            partitions.push(OffsetCommitResponsePartition { partition_index: index, error_code });
        }
        let (name, topic_id) = (topic.name.clone(), topic.topic_id);
        answered.push(OffsetCommitResponseTopic { name, topic_id, partitions });
    }
    (records, OffsetCommitResponse { throttle_time_ms: 0, topics: answered })
}

pub(super) fn find<'a>(
    topics: &'a impl Topics,
    api_version: i16,
    name: &str,
    id: TopicId,
) -> Option<KnownTopic<'a>> {
    if api_version >= TOPIC_IDS_FROM { topics.by_id(id) } else { topics.by_name(name) }
}

fn check_partition<'a>(
    known: Option<KnownTopic<'a>>,
    api_version: i16,
    partition: &OffsetCommitRequestPartition,
) -> Result<KnownTopic<'a>, ErrorCode> {
    let Some(known) = known else {
        let by_id = api_version >= TOPIC_IDS_FROM;
        return Err(if by_id {
            ErrorCode::UNKNOWN_TOPIC_ID
        } else {
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        });
    };
    if !(0..known.partitions).contains(&partition.partition_index) {
        return Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    }
    let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
    if metadata.chars().map(char::len_utf16).sum::<usize>() > OFFSET_METADATA_MAX {
        return Err(ErrorCode::OFFSET_METADATA_TOO_LARGE);
    }
    Ok(known)
}

impl Committed {
    fn new(
        request: &OffsetCommitRequest,
        partition: &OffsetCommitRequestPartition,
        topic_id: TopicId,
        wall_ms: i64,
    ) -> Committed {
        // A time to expire needs a time that it counts from.
        let expires = request.retention_time_ms >= 0 && wall_ms >= 0;
        let expire_ms =
            if expires { wall_ms.saturating_add(request.retention_time_ms) } else { -1 };
        Committed {
            offset: partition.committed_offset,
            leader_epoch: partition.committed_leader_epoch,
            metadata: partition.committed_metadata.clone().unwrap_or_default(),
            commit_ms: wall_ms,
            expire_ms,
            topic_id,
        }
    }
}
