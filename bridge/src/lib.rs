//! Weir's bridge: MQTT in, and the mirror to a central Apache Kafka. A Kafka client on both sides.
//!
//! It needs nothing of the node's inside: it speaks Kafka frames to the local node over an
//! in-memory connection, or over TCP to any Kafka-compatible cluster.

pub mod client;
pub mod compress;
mod ingest;
pub mod mirror;
pub mod mqtt;
mod rules;
pub mod settings;
mod slab;

pub use ingest::murmur::partition_of_key;

use async_channel::{Receiver, Sender};
use bytes::Bytes;
use weir_core::types::NodeId;
use weir_core::wire::Frame;

/// A connection to the node in the same process, or one whose socket somebody else serves. Frames
/// are whole: no size bytes in front of requests; replies carry theirs as [`Frame`] says. Dropping
/// it closes it.
#[derive(Debug)]
pub struct MemoryConnection {
    pub requests: Sender<Bytes>,
    pub replies: Receiver<Frame>,
}

/// Opens connections to the node in the same process.
pub trait LocalNode: Send + Sync {
    fn connect(&self) -> MemoryConnection;

    /// The node's id, so that what it leads is asked over memory and the rest of its cluster over
    /// TCP.
    fn node(&self) -> NodeId;
}
