//! The records of `__cluster_metadata`: postcard in the entries of the quorum's log.
//!
//! postcard writes a variant as its number, so variants are only ever added at the end and their
//! fields never change; a changed meaning is a new variant. One that is added is of a new level,
//! and is written when the cluster has that (`node::site::level`).

use super::PartitionState;
use crate::types::{BrokerEpoch, NodeId, PartitionNumber, TopicId};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

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
    /// A config of a gateway that is changed while it runs. `None`: as by default.
    BrokerConfig {
        node: NodeId,
        name: String,
        value: Option<String>,
    },
    /// Level 2: every gateway knows what is of this level or below, and whoever joins has to.
    Level {
        level: u16,
    },
}

/// The level of a cluster whose metadata says nothing of it.
pub const LEVEL_FIRST: u16 = 1;
