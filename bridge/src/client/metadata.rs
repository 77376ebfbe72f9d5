//! Who leads what: the cluster's metadata, kept until somebody answers that it is wrong.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weir_core::error::ErrorCode;
use weir_core::types::TopicId;
use weir_core::wire::metadata::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseTopic,
};

use super::error::{Error, ErrorKind, Result};
use super::{Bootstrap, Broker, Client};

/// How long metadata is believed when nobody contradicts it.
const AGE_MAX: Duration = Duration::from_secs(300);

/// Topics that are remembered: a client that asks for more asks again.
const TOPICS_MAX: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub cluster_id: Option<String>,
    pub controller: i32,
    /// Node id and `host:port`.
    pub brokers: BTreeMap<i32, String>,
    pub topics: Vec<Topic>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    /// [`TopicId::NONE`] from brokers older than Kafka 2.8.
    pub id: TopicId,
    pub is_internal: bool,
    pub error_code: ErrorCode,
    /// In the order of their indexes.
    pub partitions: Vec<Partition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub index: i32,
    pub error_code: ErrorCode,
    /// -1 while there is none.
    pub leader: i32,
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub in_sync_replicas: Vec<i32>,
}

#[derive(Debug, Default)]
pub(super) struct MetadataCache {
    brokers: BTreeMap<i32, String>,
    controller: Option<i32>,
    /// Leaders by partition index, and when they were learnt.
    topics: BTreeMap<String, (Instant, BTreeMap<i32, i32>)>,
}

impl MetadataCache {
    pub fn expire(&mut self) {
        self.controller = None;
        self.topics.clear();
    }

    pub fn forget_topic(&mut self, topic: &str) {
        self.topics.remove(topic);
    }

    pub fn learn_address(&mut self, node: i32, address: String) {
        self.brokers.insert(node, address);
    }

    pub fn addresses(&self) -> Vec<String> {
        self.brokers.values().cloned().collect()
    }

    fn learn(&mut self, cluster: &Cluster) {
        self.brokers = cluster.brokers.clone();
        self.controller = (cluster.controller >= 0).then_some(cluster.controller);
        if self.topics.len() + cluster.topics.len() > TOPICS_MAX {
            self.topics.clear();
        }
        for topic in cluster.topics.iter().filter(|topic| !topic.error_code.is_error()) {
            let leaders = topic.partitions.iter().filter(|p| p.leader >= 0);
            let leaders = leaders.map(|p| (p.index, p.leader)).collect();
            self.topics.insert(topic.name.clone(), (Instant::now(), leaders));
        }
    }

    fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        let (learnt, leaders) = self.topics.get(topic)?;
        leaders.get(&partition).copied().filter(|_| learnt.elapsed() < AGE_MAX)
    }
}

impl Client {
    /// Asks for some topics, or for all; each topic carries its own error code. Creates none.
    pub async fn cluster(&self, topics: Option<&[&str]>) -> Result<Cluster> {
        let named = |name: &&str| MetadataRequestTopic {
            name: Some(name.to_string()),
            ..Default::default()
        };
        let request = MetadataRequest {
            topics: topics.map(|topics| topics.iter().map(named).collect()),
            allow_auto_topic_creation: false,
            ..Default::default()
        };
        let response = self.request_any(&request).await?;
        Error::check(response.error_code, || "asking for metadata".to_string())?;
        let cluster = Cluster::from(response);
        self.state().metadata.learn(&cluster);
        Ok(cluster)
    }

    /// One topic, or the error that its cluster has for it.
    pub async fn topic(&self, name: &str) -> Result<Topic> {
        let cluster = self.cluster(Some(&[name])).await?;
        let topic = cluster.topics.into_iter().find(|topic| topic.name == name);
        let topic = topic.ok_or_else(|| {
            Error::new(ErrorKind::Malformed, format!("asking for the metadata of {name}"))
        })?;
        Error::check(topic.error_code, || format!("topic {name}"))?;
        Ok(topic)
    }

    /// The leader's node id, from memory or asked anew.
    pub async fn leader(&self, topic: &str, partition: i32) -> Result<i32> {
        if let Some(node) = self.state().metadata.leader(topic, partition) {
            return Ok(node);
        }
        self.topic(topic).await?;
        self.state().metadata.leader(topic, partition).ok_or_else(|| {
            let code = ErrorKind::Code(ErrorCode::LEADER_NOT_AVAILABLE);
            Error::new(code, format!("the leader of {topic}-{partition}"))
        })
    }

    pub(super) async fn controller(&self) -> Result<i32> {
        let known = self.state().metadata.controller;
        if let Some(node) = known {
            return Ok(node);
        }
        let controller = self.cluster(Some(&[])).await?.controller;
        if controller >= 0 {
            return Ok(controller);
        }
        let code = ErrorKind::Code(ErrorCode::NOT_CONTROLLER);
        Err(Error::new(code, "the cluster has no controller at this moment"))
    }

    pub(super) async fn node_address(&self, node: i32) -> Result<String> {
        let known = self.state().metadata.brokers.get(&node).cloned();
        if let Some(address) = known {
            return Ok(address);
        }
        let cluster = self.cluster(Some(&[])).await?;
        cluster.brokers.get(&node).cloned().ok_or_else(|| {
            let code = ErrorKind::Code(ErrorCode::LEADER_NOT_AVAILABLE);
            Error::new(code, format!("node {node} is not in the cluster at this moment"))
        })
    }

    /// Metadata requests take this way: [`Client::request`] would need the future to contain
    /// itself.
    async fn request_any(&self, request: &MetadataRequest) -> Result<MetadataResponse> {
        let connection = self.any_connection().await?;
        connection.request(request, Duration::ZERO).await
    }
}

impl Cluster {
    /// Whether the node in this process is the first of those that serve, so that it does what only
    /// one of them should do. So is a client of no such node.
    pub fn is_first(&self, bootstrap: &Bootstrap) -> bool {
        match bootstrap {
            Bootstrap::Local(local) => self.brokers.keys().next() == Some(&local.node().0),
            Bootstrap::Tcp(_) => true,
        }
    }
}

impl Broker<'_> {
    pub(super) fn describe(&self) -> String {
        match self {
            Broker::Leader(topic, partition) => format!("{topic}-{partition}"),
            Broker::Group(group) => format!("group {group}"),
            Broker::Transaction(id) => format!("transactional id {id}"),
            Broker::Node(node) => format!("node {node}"),
            Broker::Any => "the cluster".into(),
            Broker::Controller => "the controller".into(),
        }
    }
}

impl From<MetadataResponse> for Cluster {
    fn from(response: MetadataResponse) -> Cluster {
        let brokers = response.brokers.into_iter();
        Cluster {
            cluster_id: response.cluster_id,
            controller: response.controller_id,
            brokers: brokers.map(|b| (b.node_id, format!("{}:{}", b.host, b.port))).collect(),
            topics: response.topics.into_iter().map(Topic::from).collect(),
        }
    }
}

impl From<MetadataResponseTopic> for Topic {
    fn from(topic: MetadataResponseTopic) -> Topic {
        let partitions = topic.partitions.into_iter().map(|p| Partition {
            index: p.partition_index,
            error_code: p.error_code,
            leader: p.leader_id,
            leader_epoch: p.leader_epoch,
            replicas: p.replica_nodes,
            in_sync_replicas: p.isr_nodes,
        });
        let mut partitions: Vec<Partition> = partitions.collect();
        partitions.sort_by_key(|p| p.index);
        Topic {
            name: topic.name.unwrap_or_default(),
            id: topic.topic_id,
            is_internal: topic.is_internal,
            error_code: topic.error_code,
            partitions,
        }
    }
}
