//! What a node says of itself: the one source of console, metrics and command line.
//!
//! A status is built when somebody asks, by walking the image, the log and the groups; nothing is
//! counted twice to keep it ready.

use super::Node;
use crate::error::ErrorCode;
use crate::metadata::{Topic, is_internal};
use crate::wire::ApiKey;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::Serialize;

/// Everything that console, metrics and command line show.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    pub node: i32,
    /// Kafka's form of a cluster id: 22 characters of URL-safe base64. Empty before the start is
    /// over.
    pub cluster_id: String,
    pub phase: Phase,
    /// What the wall clock said last, in milliseconds since 1970, and whether it is trusted.
    pub wall_clock_ms: Option<i64>,
    pub clock_trusted: bool,
    pub topics: Vec<TopicStatus>,
    pub groups: Vec<GroupStatus>,
    pub connections: Vec<ConnectionStatus>,
    pub requests: Vec<ApiStatus>,
    pub fetch_sessions: u64,
    /// Requests that wait: produces for the flash, fetches for records or for the disk.
    pub produces_waiting: u64,
    pub fetches_waiting: u64,
    /// Since the start: parts of partitions that were lost and came back from another gateway, and
    /// partitions of which something was lost and that were begun anew.
    pub repairs: u64,
    pub refills: u64,
    pub log: crate::log::Stats,
}

/// How far a node has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The log reads headers, the checkpoint and the tails.
    #[default]
    Opening,
    /// The internal partitions are read back into memory.
    Replaying,
    Serving,
    Stopping,
    Stopped,
    /// The medium cannot be used.
    Refused,
    /// The medium does not take writes any more; what is on it is still served.
    Fenced,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct TopicStatus {
    pub name: String,
    /// Kafka's form of a topic id: 22 characters of URL-safe base64.
    pub id: String,
    pub internal: bool,
    /// By partition index.
    pub partitions: Vec<PartitionStatus>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PartitionStatus {
    /// The partition's number in the flash log, as `weir log dump` shows it.
    pub number: u32,
    pub log_start: i64,
    pub log_end: i64,
    /// Everything below is on flash; consumers see up to here.
    pub durable_end: i64,
    pub bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct GroupStatus {
    pub id: String,
    /// Kafka's name of the state: Empty, PreparingRebalance, CompletingRebalance, Stable, Dead.
    pub state: String,
    pub protocol_type: String,
    /// The assignor that the members agreed on.
    pub protocol: String,
    pub generation: i32,
    pub members: Vec<MemberStatus>,
    pub offsets: Vec<OffsetStatus>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct MemberStatus {
    pub member_id: String,
    pub group_instance_id: Option<String>,
    pub client_id: String,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct OffsetStatus {
    pub topic: String,
    pub partition: i32,
    pub committed: i64,
    /// Records between the committed offset and the durable end.
    pub lag: i64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct ConnectionStatus {
    pub id: u64,
    pub client_id: String,
    /// Name and version that the client stated in ApiVersions.
    pub software: String,
    pub requests: u64,
    pub requests_waiting: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct ApiStatus {
    /// Kafka's name of the API, as `Produce`.
    pub api: String,
    pub requests: u64,
    /// Answers with an error, by Kafka's name of the code. A fetch of five partitions may count
    /// five.
    pub errors: Vec<(String, u64)>,
}

/// Requests and errors by API.
#[derive(Debug, Default)]
pub(super) struct Counts {
    by_api: BTreeMap<ApiKey, Count>,
}

#[derive(Debug, Default)]
struct Count {
    requests: u64,
    errors: BTreeMap<ErrorCode, u64>,
}

impl Counts {
    pub fn request(&mut self, api: ApiKey) {
        self.by_api.entry(api).or_default().requests += 1;
    }

    /// Counts a code that was answered; none is no error.
    pub fn error(&mut self, api: ApiKey, code: ErrorCode) {
        if code.is_error() {
            *self.by_api.entry(api).or_default().errors.entry(code).or_default() += 1;
        }
    }

    fn status(&self) -> Vec<ApiStatus> {
        let api = |(api, count): (&ApiKey, &Count)| ApiStatus {
            api: api.name().into(),
            requests: count.requests,
            errors: count.errors.iter().map(|(code, n)| (code.name().into(), *n)).collect(),
        };
        self.by_api.iter().map(api).collect()
    }
}

impl Node {
    /// Bytes of frames in memory that wait for the flash.
    pub fn pending_bytes(&self) -> usize {
        self.log.pending_bytes()
    }

    pub fn status(&self) -> Status {
        Status {
            node: self.settings.node.0,
            cluster_id: self.image.cluster_id().map_or_else(String::new, |id| id.to_string()),
            phase: self.phase,
            wall_clock_ms: self.clock.said.map(|said| said.0),
            clock_trusted: self.clock.trusted,
            topics: self.image.topics_by_name().map(|topic| self.topic_status(topic)).collect(),
            groups: self.groups_status(),
            connections: self.connections_status(),
            requests: self.counts.status(),
            fetch_sessions: self.fetches.sessions() as u64,
            produces_waiting: self.produces.len() as u64,
            fetches_waiting: self.fetches.len() as u64,
            repairs: self.replicas.repairs,
            refills: self.replicas.refills,
            log: self.log.stats(),
        }
    }

    fn topic_status(&self, topic: &Topic) -> TopicStatus {
        let partition = |number: &crate::types::PartitionNumber| {
            let view = self.log.partition(*number);
            view.map_or(PartitionStatus { number: number.0, ..Default::default() }, |view| {
                PartitionStatus {
                    number: number.0,
                    log_start: view.log_start.0,
                    log_end: view.log_end.0,
                    durable_end: view.durable_end.0,
                    bytes: view.bytes,
                }
            })
        };
        TopicStatus {
            name: topic.name.clone(),
            id: topic.id.to_string(),
            internal: is_internal(&topic.name),
            partitions: topic.partitions.iter().map(partition).collect(),
        }
    }

    fn connections_status(&self) -> Vec<ConnectionStatus> {
        let connections = self.connections.iter().map(|(id, connection)| ConnectionStatus {
            id: id.0,
            client_id: connection.client_id.clone(),
            software: connection.software.clone(),
            requests: connection.requests,
            requests_waiting: connection.waiting() as u64,
        });
        connections.collect()
    }
}
