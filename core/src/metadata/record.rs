//! The records of `__cluster_metadata`: postcard in the values of ordinary record batches.
//!
//! postcard writes a variant as its number, so variants are only ever added at the end and their
//! fields never change; a changed meaning is a new variant.

use super::PartitionState;
use crate::batch;
use crate::bytes::Malformed;
use crate::types::{BrokerEpoch, NodeId, PartitionNumber, TopicId};
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes of records after which a batch is closed. Far below what a group of the flash log takes.
const BATCH_BYTES: usize = 256 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The first record of a new cluster.
    Cluster {
        id: TopicId,
    },
    Topic {
        id: TopicId,
        name: String,
        configs: Vec<(String, String)>,
    },
    /// The partitions of a topic from this index on, by their numbers in the flash log.
    Partitions {
        topic: TopicId,
        first_index: i32,
        numbers: Vec<PartitionNumber>,
    },
    /// `None`: back to the default.
    TopicConfig {
        topic: TopicId,
        name: String,
        value: Option<String>,
    },
    TopicDeleted {
        id: TopicId,
    },
    /// Partition numbers below this one were given out.
    NextPartition {
        number: u32,
    },
    /// Producer ids below this one were given out.
    NextProducerId {
        id: i64,
    },
    /// A gateway has registered: it is fenced until it has shown that it follows the metadata. Its
    /// broker epoch is the position of this record in the metadata's log.
    Broker {
        node: NodeId,
        /// The store that its log is in (KIP-858). Another one than before: what it had is gone.
        directory: [u8; 16],
        /// Of the process: another one at each start.
        incarnation: [u8; 16],
        rack: Option<String>,
        /// Where clients are told to connect.
        kafka: (String, u16),
        /// Where the other gateways connect.
        peer: (String, u16),
        /// Whether it holds partitions; a witness does not.
        broker: bool,
    },
    /// The broker epoch that a gateway has, in a snapshot, where the position of its registration
    /// says nothing.
    BrokerEpoch {
        node: NodeId,
        epoch: BrokerEpoch,
    },
    BrokerState {
        node: NodeId,
        fenced: bool,
        draining: bool,
    },
    BrokerRemoved {
        node: NodeId,
    },
    /// The whole state of one partition, in place of the one before.
    Partition {
        topic: TopicId,
        index: i32,
        state: PartitionState,
    },
    /// A voter of the metadata quorum, and the store that it votes with.
    Voter {
        node: NodeId,
        directory: [u8; 16],
    },
    VoterRemoved {
        node: NodeId,
    },
}

/// Batches that hold the records in their order. What must come whole or not at all fits one batch:
/// the records of one decision do, since frames are bounded.
pub fn encode_batches(records: &[Record], timestamp: i64) -> Vec<Bytes> {
    let mut batches = Vec::new();
    let mut builder = batch::Builder::new();
    for record in records {
        let value =
            postcard::to_allocvec(record).expect("a record has no type that postcard lacks");
        builder.push(timestamp, None, Some(&value), &[]);
        if builder.len() >= BATCH_BYTES {
            batches.push(Bytes::from(builder.build(None)));
            builder = batch::Builder::new();
        }
    }
    if !builder.is_empty() {
        batches.push(Bytes::from(builder.build(None)));
    }
    batches
}

/// The records of one batch. An unknown variant was written by a newer release.
pub fn decode_batch(batch: &[u8]) -> Result<Vec<Record>, Malformed> {
    let header = batch::Header::parse(batch).map_err(|_| Malformed)?;
    let section = batch.get(batch::HEADER_BYTES..).ok_or(Malformed)?;
    batch::records(section, header.records_count)
        .map(|record| {
            let value = record.map_err(|_| Malformed)?.value.ok_or(Malformed)?;
            postcard::from_bytes(value).map_err(|_| Malformed)
        })
        .collect()
}
