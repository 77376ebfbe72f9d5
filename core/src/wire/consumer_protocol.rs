//! What consumers put into the opaque bytes of JoinGroup and SyncGroup: their subscription and
//! their assignment. The broker does not look inside; our own consumer, and tools that describe
//! groups, do.

use super::Writer;
use super::schema::{Message, message};
use crate::bytes::{Malformed, Reader, Result};
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// The highest version that we know.
const VERSION_MAX: i16 = 3;

message! {
    pub struct ConsumerProtocolSubscription {
        topics: Vec<String>,
        user_data: Option<Bytes>,
        owned_partitions: Vec<TopicPartition> [1..],
        generation_id: i32 [2..] = -1,
        rack_id: Option<String> [3..],
    }

    pub struct ConsumerProtocolAssignment {
        assigned_partitions: Vec<TopicPartition>,
        user_data: Option<Bytes>,
    }

    pub struct TopicPartition { topic: String, partitions: Vec<i32> }
}

impl Message for ConsumerProtocolSubscription {
    const FLEXIBLE: i16 = i16::MAX;
}

impl Message for ConsumerProtocolAssignment {
    const FLEXIBLE: i16 = i16::MAX;
}

/// Reads bytes that start with their version. Newer versions add fields at the end only, so they
/// are read as the highest one that is known; that is why bytes may follow.
pub fn decode<M: Message>(bytes: Bytes) -> Result<M> {
    let mut reader = Reader::new(bytes);
    match reader.i16()? {
        version @ 0.. => M::decode(&mut reader, version.min(VERSION_MAX)),
        _ => Err(Malformed),
    }
}

/// The message with its version in front.
pub fn encode<M: Message>(message: &M, version: i16) -> Bytes {
    let mut writer = Writer::default();
    writer.put(&version.to_be_bytes());
    message.encode(&mut writer, version);
    writer.into_vec().into()
}
