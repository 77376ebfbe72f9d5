//! Keys and values of the topic `__consumer_offsets`, byte for byte as Kafka's group coordinator
//! writes them (4.3.1), so that its tools read ours.
//!
//! Each starts with an i16: in a key it says what the record is about (1 a committed offset, in old
//! logs 0; 2 a group), in a value it is the version. Kafka writes no value, a tombstone, for what
//! is gone.

use super::Writer;
use super::schema::{Message, message};
use crate::bytes::{Malformed, Reader, Result};
use crate::types::TopicId;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

message! {
    pub struct OffsetCommitKey { group: String, topic: String, partition: i32 }

    pub struct OffsetCommitValue {
        offset: i64,
        leader_epoch: i32 [3..] = -1,
        metadata: String,
        commit_timestamp: i64,
        expire_timestamp: i64 [1..=1] = -1,
        topic_id: TopicId [4.. tag 0],
    }

    pub struct GroupMetadataKey { group: String }

    pub struct GroupMetadataValue {
        protocol_type: String,
        generation: i32,
        protocol: Option<String>,
        leader: Option<String>,
        current_state_timestamp: i64 [2..] = -1,
        members: Vec<MemberMetadata>,
    }

    pub struct MemberMetadata {
        member_id: String,
        group_instance_id: Option<String> [3..],
        client_id: String,
        client_host: String,
        rebalance_timeout: i32 [1..],
        session_timeout: i32,
        subscription: Bytes,
        assignment: Bytes,
    }
}

impl Message for OffsetCommitKey {
    const FLEXIBLE: i16 = i16::MAX;
}

impl Message for OffsetCommitValue {
    const FLEXIBLE: i16 = 4;
}

impl Message for GroupMetadataKey {
    const FLEXIBLE: i16 = i16::MAX;
}

impl Message for GroupMetadataValue {
    const FLEXIBLE: i16 = 4;
}

/// A value of the topic. Versions from 0 to this can be read.
pub trait Value: Message {
    const VERSION_MAX: i16;
}

impl Value for OffsetCommitValue {
    const VERSION_MAX: i16 = 4;
}

impl Value for GroupMetadataValue {
    const VERSION_MAX: i16 = 4;
}

/// What a record of the topic is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    Offset(OffsetCommitKey),
    Group(GroupMetadataKey),
    /// A kind that newer coordinators write (KIP-848 and on), by its number.
    Other(i16),
}

impl Key {
    pub fn decode(bytes: Bytes) -> Result<Key> {
        let mut reader = Reader::new(bytes);
        let key = match reader.i16()? {
            0 | 1 => Key::Offset(Message::decode(&mut reader, 0)?),
            2 => Key::Group(Message::decode(&mut reader, 0)?),
            kind => return Ok(Key::Other(kind)),
        };
        reader.finish()?;
        Ok(key)
    }

    /// The bytes of a key that this version of the protocol knows; [`Key::Other`] has none but its
    /// kind.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        match self {
            Key::Offset(key) => {
                writer.put(&1i16.to_be_bytes());
                key.encode(&mut writer, 0);
            }
            Key::Group(key) => {
                writer.put(&2i16.to_be_bytes());
                key.encode(&mut writer, 0);
            }
            Key::Other(kind) => writer.put(&kind.to_be_bytes()),
        }
        writer.into_vec()
    }
}

pub fn decode_value<V: Value>(bytes: Bytes) -> Result<V> {
    let mut reader = Reader::new(bytes);
    let version = reader.i16()?;
    if !(0..=V::VERSION_MAX).contains(&version) {
        return Err(Malformed);
    }
    let value = V::decode(&mut reader, version)?;
    reader.finish()?;
    Ok(value)
}

/// The value with its version in front.
pub fn encode_value<V: Value>(value: &V, version: i16) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.put(&version.to_be_bytes());
    value.encode(&mut writer, version);
    writer.into_vec()
}
