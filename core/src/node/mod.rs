//! The broker as a value: inputs in, outputs out, nothing else.
//!
//! The driver calls [`Node::handle`] with what happened, then [`Node::poll`] until `None`, performs every
//! output, and calls again at [`Node::deadline`] with [`Input::Tick`].

mod status;

pub use status::{
    ApiStatus, ConnectionStatus, GroupStatus, MemberStatus, OffsetStatus, PartitionStatus, Phase,
    Status, TopicStatus,
};

use crate::log::{FlushCap, Io, IoResult, OpenError, Start};
use crate::types::{ConnId, NodeId, OpId, Time, WallTime};
use crate::wire::Frame;
use alloc::collections::BTreeMap;
use alloc::string::String;
use bytes::Bytes;

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    pub node: NodeId,
    pub rack: Option<String>,
    /// Where clients are told to connect: `kafka.advertise`.
    pub advertised_host: String,
    pub advertised_port: u16,
    pub start: Start,
    pub medium_bytes: u64,
    pub flush_cap: Option<FlushCap>,
    pub checkpoint_bytes: u64,
    pub tail_cache_bytes: usize,
    pub footer_cache_bytes: usize,
    /// `[topic_defaults]`: Kafka's topic configs by name, for topics that do not set them.
    pub topic_defaults: BTreeMap<String, String>,
    /// Kafka's `num.partitions` and `auto.create.topics.enable`.
    pub num_partitions: i32,
    pub auto_create_topics: bool,
    /// Seed of the node's random numbers: topic ids, member ids.
    pub seed: u64,
}

#[derive(Clone, Debug)]
pub enum Input {
    /// A request frame without its four size bytes.
    Request { conn: ConnId, frame: Bytes },
    /// The client is gone; what it waits for is dropped. Its ids are never used again.
    Closed { conn: ConnId },
    /// A disk operation ended.
    Done { op: OpId, result: IoResult },
    /// The deadline has come.
    Tick,
    /// What the wall clock says, and whether it is trusted (set by NTP). At the start, then each second.
    WallClock { now: WallTime, trusted: bool },
    /// Write a checkpoint and answer [`Output::Stopped`] when everything is on flash.
    Stop,
}

#[derive(Clone, Debug)]
pub enum Output {
    Io(Io),
    /// A response frame; responses of one connection come in the order of its requests.
    Reply {
        conn: ConnId,
        frame: Frame,
    },
    /// `acks=0`: the request is done and has no response.
    NoReply {
        conn: ConnId,
    },
    /// Malformed bytes: end the connection after what was replied before is written.
    Close {
        conn: ConnId,
    },
    /// The start is over: listen.
    Ready,
    /// The medium cannot be used.
    Refused(OpenError),
    /// After [`Input::Stop`].
    Stopped,
}

pub struct Node {}

#[allow(unused_variables)]
impl Node {
    pub fn new(now: Time, settings: Settings) -> Node {
        unimplemented!()
    }

    pub fn handle(&mut self, now: Time, input: Input) {
        unimplemented!()
    }

    pub fn poll(&mut self, now: Time) -> Option<Output> {
        unimplemented!()
    }

    pub fn deadline(&self) -> Option<Time> {
        unimplemented!()
    }

    pub fn status(&self) -> Status {
        unimplemented!()
    }
}
