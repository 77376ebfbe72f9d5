//! The cluster image: topics, partitions, configs and the ids that were given out.
//!
//! As in KRaft, the image is what the records of `__cluster_metadata` add up to. It changes in
//! [`Image::apply`] only, at the start and while running alike. A [`Plan`] judges a wish against
//! the image and says which records would fulfil it; it changes nothing.
//!
//! What clients and operators wish is judged by a [`Plan`]; what happens to gateways and partitions
//! is decided by the [`controller`].

mod brokers;
pub mod configs;
pub mod controller;
mod partition;
mod placement;
mod plan;
mod record;

pub use brokers::Broker;
pub use partition::PartitionState;
pub use plan::{ConfigOperation, CreatedTopic, NewTopic, Plan, Refusal, TopicDefaults, check_name};
pub use record::{LEVEL_FIRST, Record};

use crate::types::{BrokerEpoch, NodeId, PartitionNumber, TopicId};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use configs::{Configs, Policy};

/// The topic of the committed offsets, which clients may see but not change.
pub const CONSUMER_OFFSETS: &str = "__consumer_offsets";

/// Whether the gateway itself keeps its state in a topic of this name.
pub fn is_internal(name: &str) -> bool {
    name == CONSUMER_OFFSETS || name == "__transaction_state"
}

#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    pub id: TopicId,
    pub name: String,
    /// By partition index.
    pub partitions: Vec<PartitionNumber>,
    /// As they were set; what holds is in `policy`.
    pub configs: Configs,
    pub policy: Policy,
}

impl Topic {
    pub fn partition(&self, index: i32) -> Option<PartitionNumber> {
        self.partitions.get(usize::try_from(index).ok()?).copied()
    }
}

/// What one number in the flash log stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionOf {
    pub topic: TopicId,
    pub index: i32,
}

/// Everything that the metadata's records have said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    defaults: Configs,
    cluster_id: Option<TopicId>,
    topics: BTreeMap<TopicId, Topic>,
    names: BTreeMap<String, TopicId>,
    partitions: BTreeMap<PartitionNumber, PartitionOf>,
    states: BTreeMap<PartitionNumber, PartitionState>,
    /// By replica: what `states` say, for whoever asks by gateway.
    replicas: BTreeMap<NodeId, BTreeSet<PartitionNumber>>,
    brokers: BTreeMap<NodeId, Broker>,
    voters: BTreeMap<NodeId, [u8; 16]>,
    /// The lowest partition number that was never given out.
    next_partition: u32,
    /// The lowest producer id that was never given out.
    next_producer_id: i64,
    level: u16,
}

impl Image {
    /// An image of nothing. `defaults` are the configs of topics that do not set them.
    pub fn new(defaults: Configs) -> Image {
        let next_partition = PartitionNumber::METADATA.0 + 1;
        Image { defaults, next_partition, level: LEVEL_FIRST, ..Image::default() }
    }

    /// The only way in which the image changes. `index` is the record's position in the metadata's
    /// log, which becomes the epoch of a gateway that registers. Applying all records again changes
    /// nothing.
    pub fn apply(&mut self, record: &Record, index: u64) {
        match record {
            Record::Cluster { id } => self.cluster_id = Some(*id),
            Record::Topic { id, name, configs } => self.apply_topic(*id, name, configs),
            Record::Partitions { topic, first_index, numbers } => {
                self.apply_partitions(*topic, *first_index, numbers);
            }
            Record::TopicConfig { topic, name, value } => {
                self.apply_config(*topic, name, value.as_deref());
            }
            Record::TopicDeleted { id } => self.apply_topic_deleted(*id),
            Record::NextPartition { number } => {
                self.next_partition = self.next_partition.max(*number);
            }
            Record::NextProducerId { id } => {
                self.next_producer_id = self.next_producer_id.max(*id);
            }
            Record::Partition { topic, index, state } => {
                let topic = self.topics.get(topic);
                if let Some(number) = topic.and_then(|topic| topic.partition(*index)) {
                    self.set_state(number, state.clone());
                }
            }
            Record::Broker { .. }
            | Record::BrokerEpoch { .. }
            | Record::BrokerState { .. }
            | Record::BrokerConfig { .. }
            | Record::BrokerRemoved { .. } => self.apply_broker(record, index),
            Record::Voter { node, directory } => drop(self.voters.insert(*node, *directory)),
            Record::VoterRemoved { node } => drop(self.voters.remove(node)),
            Record::Level { level } => self.level = self.level.max(*level),
        }
    }

    fn apply_broker(&mut self, record: &Record, index: u64) {
        match record.clone() {
            Record::Broker { node, directory, incarnation, rack, kafka, peer, broker } => {
                let broker = Broker {
                    node,
                    epoch: BrokerEpoch(index),
                    directory,
                    incarnation,
                    rack,
                    kafka,
                    peer,
                    holds_partitions: broker,
                    fenced: true,
                    draining: false,
                    configs: self.broker(node).map_or_else(Configs::new, |it| it.configs.clone()),
                };
                self.brokers.insert(node, broker);
            }
            Record::BrokerEpoch { node, epoch } => {
                if let Some(broker) = self.brokers.get_mut(&node) {
                    broker.epoch = epoch;
                }
            }
            Record::BrokerState { node, fenced, draining } => {
                if let Some(broker) = self.brokers.get_mut(&node) {
                    (broker.fenced, broker.draining) = (fenced, draining);
                }
            }
            Record::BrokerConfig { node, name, value } => {
                if let Some(broker) = self.brokers.get_mut(&node) {
                    match value {
                        Some(value) => broker.configs.insert(name, value),
                        None => broker.configs.remove(&name),
                    };
                }
            }
            Record::BrokerRemoved { node } => drop(self.brokers.remove(&node)),
            _ => {}
        }
    }

    fn apply_topic_deleted(&mut self, id: TopicId) {
        let Some(topic) = self.topics.remove(&id) else { return };
        self.names.remove(&topic.name);
        for number in topic.partitions {
            self.partitions.remove(&number);
            self.remove_state(number);
        }
    }

    fn apply_topic(&mut self, id: TopicId, name: &str, configs: &[(String, String)]) {
        let configs: Configs = configs.iter().cloned().collect();
        let policy = Policy::new(&configs, &self.defaults);
        let partitions = self.topics.remove(&id).map_or_else(Vec::new, |topic| topic.partitions);
        self.names.insert(name.into(), id);
        self.topics.insert(id, Topic { id, name: name.into(), partitions, configs, policy });
    }

    fn apply_partitions(&mut self, id: TopicId, first: i32, numbers: &[PartitionNumber]) {
        let Some(topic) = self.topics.get_mut(&id) else { return };
        for (index, number) in (first..).zip(numbers) {
            if usize::try_from(index) == Ok(topic.partitions.len()) {
                topic.partitions.push(*number);
                self.partitions.insert(*number, PartitionOf { topic: id, index });
            }
            self.next_partition = self.next_partition.max(number.0.saturating_add(1));
        }
    }

    fn apply_config(&mut self, id: TopicId, name: &str, value: Option<&str>) {
        let Some(topic) = self.topics.get_mut(&id) else { return };
        match value {
            Some(value) => topic.configs.insert(name.into(), value.into()),
            None => topic.configs.remove(name),
        };
        topic.policy = Policy::new(&topic.configs, &self.defaults);
    }

    /// Records that build this image anew: what is written when the metadata's log has grown long.
    pub fn snapshot(&self) -> Vec<Record> {
        let mut records = Vec::new();
        let level = self.level;
        records.extend((level > LEVEL_FIRST).then_some(Record::Level { level }));
        records.extend(self.cluster_id.map(|id| Record::Cluster { id }));
        records.push(Record::NextPartition { number: self.next_partition });
        records.push(Record::NextProducerId { id: self.next_producer_id });
        let voters = self.voters();
        records.extend(voters.map(|(node, directory)| Record::Voter { node, directory }));
        records.extend(self.brokers().flat_map(Broker::records));
        for topic in self.topics.values() {
            records.push(Record::Topic {
                id: topic.id,
                name: topic.name.clone(),
                configs: topic.configs.clone().into_iter().collect(),
            });
            records.push(Record::Partitions {
                topic: topic.id,
                first_index: 0,
                numbers: topic.partitions.clone(),
            });
            for (index, number) in (0..).zip(&topic.partitions) {
                let state = self.state(*number).cloned();
                let record = |state| Record::Partition { topic: topic.id, index, state };
                records.extend(state.map(record));
            }
        }
        records
    }

    /// `None` before the cluster's first record.
    pub fn cluster_id(&self) -> Option<TopicId> {
        self.cluster_id
    }

    /// What every gateway of the cluster knows.
    pub fn level(&self) -> u16 {
        self.level
    }

    pub fn defaults(&self) -> &Configs {
        &self.defaults
    }

    /// By id, which is in no order that a user would know.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    /// By name.
    pub fn topics_by_name(&self) -> impl Iterator<Item = &Topic> {
        self.names.values().filter_map(|id| self.topics.get(id))
    }

    /// By name, beginning with this one or the next.
    pub fn topics_from(&self, name: &str) -> impl Iterator<Item = &Topic> {
        use core::ops::Bound;
        let from = (Bound::Included(name), Bound::Unbounded);
        self.names.range::<str, _>(from).filter_map(|(_, id)| self.topics.get(id))
    }

    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(self.names.get(name)?)
    }

    pub fn topic_by_id(&self, id: TopicId) -> Option<&Topic> {
        self.topics.get(&id)
    }

    pub fn partition_of(&self, number: PartitionNumber) -> Option<PartitionOf> {
        self.partitions.get(&number).copied()
    }

    pub fn partitions_count(&self) -> usize {
        self.partitions.len()
    }

    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
