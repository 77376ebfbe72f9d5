//! Records of `__consumer_offsets`: what a group and an offset look like there, and back.

use super::Record;
use super::offsets::Committed;
use super::state::{Group, Member, State};
use crate::bytes::Result;
use crate::types::TopicId;
use crate::wire::consumer_offsets::{
    GroupMetadataKey, GroupMetadataValue, Key, MemberMetadata, OffsetCommitKey, OffsetCommitValue,
    decode_value, encode_value,
};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// The versions that Kafka 4.3.1 writes. An offset with a time of its own to expire needs version
/// 1, one without topic id keeps what older brokers read.
const GROUP_VERSION: i16 = 3;
const OFFSET_VERSION: i16 = 3;
const OFFSET_WITH_TOPIC_ID_VERSION: i16 = 4;
const OFFSET_WITH_EXPIRY_VERSION: i16 = 1;

pub(super) fn group_key(group: &str) -> Bytes {
    Key::Group(GroupMetadataKey { group: group.into() }).encode().into()
}

pub(super) fn offset_key(group: &str, topic: &str, partition: i32) -> Bytes {
    let key = OffsetCommitKey { group: group.into(), topic: topic.into(), partition };
    Key::Offset(key).encode().into()
}

pub(super) fn tombstone(key: Bytes) -> Record {
    Record { key, value: None }
}

/// A group's record, its members with these assignments.
pub(super) fn group(group: &Group, assignments: &BTreeMap<String, Bytes>) -> Record {
    let protocol = group.protocol_name.as_deref().unwrap_or_default();
    let member = |(id, member): (&String, &Member)| MemberMetadata {
        member_id: id.clone(),
        group_instance_id: member.instance_id.clone(),
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        rebalance_timeout: member.rebalance_timeout_ms,
        session_timeout: member.session_timeout_ms,
        subscription: member.metadata(protocol),
        assignment: assignments.get(id).cloned().unwrap_or_default(),
    };
    let value = GroupMetadataValue {
        protocol_type: group.protocol_type.clone().unwrap_or_default(),
        generation: group.generation,
        protocol: group.protocol_name.clone(),
        leader: group.leader.clone(),
        current_state_timestamp: group.state_since_ms,
        members: group.members.iter().map(member).collect(),
    };
    let value = encode_value(&value, GROUP_VERSION).into();
    Record { key: group_key(&group.id), value: Some(value) }
}

pub(super) fn offset(group: &str, topic: &str, partition: i32, committed: &Committed) -> Record {
    let value = OffsetCommitValue {
        offset: committed.offset,
        leader_epoch: committed.leader_epoch,
        metadata: committed.metadata.clone(),
        commit_timestamp: committed.commit_ms,
        expire_timestamp: committed.expire_ms,
        topic_id: committed.topic_id,
    };
    let version = if committed.expire_ms >= 0 {
        OFFSET_WITH_EXPIRY_VERSION
    } else if committed.topic_id != TopicId::NONE {
        OFFSET_WITH_TOPIC_ID_VERSION
    } else {
        OFFSET_VERSION
    };
    let value = encode_value(&value, version).into();
    Record { key: offset_key(group, topic, partition), value: Some(value) }
}

/// What a record says.
pub(super) enum Fact {
    Offset {
        key: OffsetCommitKey,
        committed: Option<Committed>,
    },
    /// The value's bytes are kept, since they are written again as they are.
    Group {
        group: String,
        record: Option<(Bytes, GroupMetadataValue)>,
    },
    /// Of a newer coordinator.
    Unknown,
}

impl Fact {
    pub fn decode(record: &Record) -> Result<Fact> {
        Ok(match Key::decode(record.key.clone())? {
            Key::Offset(key) => {
                let value = record.value.clone().map(decode_value::<OffsetCommitValue>);
                Fact::Offset { key, committed: value.transpose()?.map(Committed::from) }
            }
            Key::Group(GroupMetadataKey { group }) => {
                let decoded = record.value.clone().map(decode_value::<GroupMetadataValue>);
                // Copied, so that it does not keep the batch that it was read from in memory.
                let bytes = record.value.as_deref().map(Bytes::copy_from_slice);
                Fact::Group { group, record: bytes.zip(decoded.transpose()?) }
            }
            Key::Other(_) => Fact::Unknown,
        })
    }
}

impl From<OffsetCommitValue> for Committed {
    fn from(value: OffsetCommitValue) -> Committed {
        Committed {
            offset: value.offset,
            leader_epoch: value.leader_epoch,
            metadata: value.metadata,
            commit_ms: value.commit_timestamp,
            expire_ms: value.expire_timestamp,
            topic_id: value.topic_id,
        }
    }
}

impl Group {
    /// Takes generation, members and assignments of a record: what a start begins with. Offsets
    /// stay.
    pub fn restore(&mut self, value: GroupMetadataValue) {
        let offsets = core::mem::take(&mut self.offsets);
        *self = Group::new(core::mem::take(&mut self.id));
        self.offsets = offsets;
        self.generation = value.generation;
        self.state_since_ms = value.current_state_timestamp;
        self.protocol_type = Some(value.protocol_type).filter(|name| !name.is_empty());
        let protocol = value.protocol.clone().unwrap_or_default();
        self.protocol_name = value.protocol;
        for member in value.members {
            let (id, member) = restored(member, &protocol);
            if let Some(instance_id) = &member.instance_id {
                self.static_members.insert(instance_id.clone(), id.clone());
            }
            self.members.insert(id, member);
            self.state = State::Stable;
        }
        self.leader = value.leader.filter(|leader| self.members.contains_key(leader));
        if self.leader.is_none() {
            self.leader = self.members.keys().next().cloned();
        }
    }
}

fn restored(member: MemberMetadata, protocol: &str) -> (String, Member) {
    let session_timeout_ms = member.session_timeout;
    let rebalance_timeout_ms = match member.rebalance_timeout {
        // Before version 1 there was one for both.
        -1 => session_timeout_ms,
        ms => ms,
    };
    let restored = Member {
        instance_id: member.group_instance_id,
        client_id: member.client_id,
        client_host: member.client_host,
        rebalance_timeout_ms,
        session_timeout_ms,
        protocols: Vec::from([(protocol.into(), Bytes::copy_from_slice(&member.subscription))]),
        assignment: Bytes::copy_from_slice(&member.assignment),
        awaiting_join: None,
        awaiting_sync: None,
        is_new: false,
        synced: true,
        expires: None,
    };
    (member.member_id, restored)
}
