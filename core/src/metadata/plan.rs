//! What a client wishes of the metadata, judged against the image: the records that would fulfil
//! it.

use super::configs::{self, Configs, Kind};
use super::{Image, Record, Topic, is_internal};
use crate::error::ErrorCode;
use crate::limits;
use crate::rng::Rng;
use crate::types::{NodeId, PartitionNumber, TopicId};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Why a wish is refused: Kafka's code, and a sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: ErrorCode,
    pub message: String,
}

impl Refusal {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into() }
    }
}

/// A topic that a client wishes for.
#[derive(Clone, Debug, Default)]
pub struct NewTopic {
    pub name: String,
    /// -1: the default, or as many as there are assignments.
    pub partitions: i32,
    /// -1: the default.
    pub replication_factor: i16,
    /// Replicas by partition, when the client chooses them.
    pub assignments: Vec<(i32, Vec<i32>)>,
    /// `None`: the default.
    pub configs: Vec<(String, Option<String>)>,
}

/// How one config is to change: IncrementalAlterConfigs' operations (KIP-339).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigOperation {
    Set = 0,
    Delete = 1,
    Append = 2,
    Subtract = 3,
}

impl ConfigOperation {
    pub fn from_code(code: i8) -> Option<ConfigOperation> {
        use ConfigOperation::*;
        [Set, Delete, Append, Subtract].into_iter().find(|operation| *operation as i8 == code)
    }
}

/// The records of one decision, as far as it is made.
#[derive(Debug)]
pub struct Plan<'a> {
    image: &'a Image,
    node: NodeId,
    rng: &'a mut Rng,
    records: Vec<Record>,
    next_partition: u32,
    partitions_count: usize,
    new_names: BTreeSet<String>,
}

impl<'a> Plan<'a> {
    /// `node` is the only gateway that there is to place partitions on.
    pub fn new(image: &'a Image, node: NodeId, rng: &'a mut Rng) -> Plan<'a> {
        Plan {
            image,
            node,
            rng,
            records: Vec::new(),
            next_partition: image.next_partition,
            partitions_count: image.partitions_count(),
            new_names: BTreeSet::new(),
        }
    }

    pub fn into_records(self) -> Vec<Record> {
        self.records
    }

    /// Names the cluster. Only for the first decision of all.
    pub fn create_cluster(&mut self) {
        let id = self.new_id();
        self.records.push(Record::Cluster { id });
    }

    /// Plans a topic, and says its id and how many partitions it gets.
    pub fn create_topic(
        &mut self,
        new: &NewTopic,
        default_partitions: i32,
    ) -> Result<(TopicId, i32), Refusal> {
        check_name(&new.name)?;
        self.check_collision(&new.name)?;
        let partitions = self.partitions_wanted(new, default_partitions)?;
        let mut set = Configs::new();
        for (name, value) in &new.configs {
            let Some(value) = value else {
                let message = format!("Null value not supported for topic configs: {name}");
                return Err(Refusal::new(ErrorCode::INVALID_CONFIG, message));
            };
            check_config(name, value)?;
            set.insert(name.clone(), value.clone());
        }
        self.check_together(&set)?;
        let numbers = self.take_numbers(partitions)?;
        let id = self.new_id();
        self.new_names.insert(new.name.clone());
        let configs = set.into_iter().collect();
        self.records.push(Record::Topic { id, name: new.name.clone(), configs });
        self.records.push(Record::Partitions { topic: id, first_index: 0, numbers });
        Ok((id, partitions))
    }

    pub fn delete_topic(&mut self, topic: &Topic) -> Result<(), Refusal> {
        check_not_internal(&topic.name)?;
        self.records.push(Record::TopicDeleted { id: topic.id });
        Ok(())
    }

    /// Grows a topic to `total` partitions.
    pub fn create_partitions(
        &mut self,
        topic: &Topic,
        total: i32,
        assignments: Option<&[Vec<i32>]>,
    ) -> Result<(), Refusal> {
        check_not_internal(&topic.name)?;
        let current = topic.partitions.len() as i32;
        if total <= current {
            let message = match total == current {
                true => format!("Topic already has {current} partition(s)."),
                false => format!(
                    "The topic {} currently has {current} partition(s); {total} would not be an \
                     increase.",
                    topic.name
                ),
            };
            return Err(Refusal::new(ErrorCode::INVALID_PARTITIONS, message));
        }
        if let Some(assignments) = assignments {
            if assignments.len() as i64 != i64::from(total - current) {
                let message = format!(
                    "Attempted to add {} additional partition(s), but only {} assignment(s) were \
                     specified.",
                    total - current,
                    assignments.len()
                );
                return Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
            }
            for (index, replicas) in (current..).zip(assignments) {
                self.check_assignment(index, replicas)?;
            }
        }
        let numbers = self.take_numbers(total - current)?;
        self.records.push(Record::Partitions { topic: topic.id, first_index: current, numbers });
        Ok(())
    }

    /// Changes configs of a topic one by one; all of them or none.
    pub fn alter_configs(
        &mut self,
        topic: &Topic,
        changes: &[(String, ConfigOperation, Option<String>)],
    ) -> Result<(), Refusal> {
        let mut records = Vec::new();
        let mut set = topic.configs.clone();
        let mut seen = BTreeSet::new();
        for (name, operation, value) in changes {
            if !seen.insert(name.as_str()) {
                let message = format!("Error due to duplicate config keys: {name}");
                return Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
            }
            let value = self.altered(topic, name, *operation, value.as_deref())?;
            match &value {
                Some(value) => drop(set.insert(name.clone(), value.clone())),
                None => drop(set.remove(name)),
            }
            records.push(Record::TopicConfig { topic: topic.id, name: name.clone(), value });
        }
        self.check_together(&set)?;
        self.records.append(&mut records);
        Ok(())
    }

    fn check_together(&self, set: &Configs) -> Result<(), Refusal> {
        configs::validate_together(set, self.image.defaults())
            .map_err(|why| Refusal::new(ErrorCode::INVALID_CONFIG, why))
    }

    /// Sets a topic's configs to these and no others (AlterConfigs, the old way).
    pub fn replace_configs(
        &mut self,
        topic: &Topic,
        configs: &[(String, Option<String>)],
    ) -> Result<(), Refusal> {
        let gone = topic.configs.keys().filter(|name| !configs.iter().any(|(n, _)| n == *name));
        let deletes = gone.map(|name| (name.clone(), ConfigOperation::Delete, None));
        let sets = configs.iter().map(|(name, value)| match value {
            Some(value) => (name.clone(), ConfigOperation::Set, Some(value.clone())),
            None => (name.clone(), ConfigOperation::Delete, None),
        });
        let changes: Vec<_> = deletes.chain(sets).collect();
        self.alter_configs(topic, &changes)
    }

    /// Takes a block of producer ids and says where it begins.
    pub fn take_producer_ids(&mut self, count: i64) -> i64 {
        let first = self.image.next_producer_id;
        self.records.push(Record::NextProducerId { id: first.saturating_add(count) });
        first
    }

    fn altered(
        &self,
        topic: &Topic,
        name: &str,
        operation: ConfigOperation,
        value: Option<&str>,
    ) -> Result<Option<String>, Refusal> {
        let Some(definition) = configs::definition(name) else {
            let message = format!("Unknown topic config name: {name}");
            return Err(Refusal::new(ErrorCode::INVALID_CONFIG, message));
        };
        let is_list = matches!(definition.kind, Kind::ListOf(_));
        let operand = || {
            value.ok_or_else(|| {
                let message = format!("Null value not supported for : {name}");
                Refusal::new(ErrorCode::INVALID_REQUEST, message)
            })
        };
        if matches!(operation, ConfigOperation::Append | ConfigOperation::Subtract) && !is_list {
            let message = format!("Config value append is not allowed for config key: {name}");
            return Err(Refusal::new(ErrorCode::INVALID_CONFIG, message));
        }
        let current = configs::effective(name, &topic.configs, self.image.defaults());
        let mut elements: Vec<&str> = configs::elements(current).collect();
        let new = match operation {
            ConfigOperation::Delete => return Ok(None),
            ConfigOperation::Set => operand()?.to_string(),
            ConfigOperation::Append => {
                let more: Vec<&str> = configs::elements(operand()?).collect();
                elements.extend(more.into_iter().filter(|e| !current.split(',').any(|c| c == *e)));
                elements.join(",")
            }
            ConfigOperation::Subtract => {
                let less: Vec<&str> = configs::elements(operand()?).collect();
                elements.retain(|element| !less.contains(element));
                elements.join(",")
            }
        };
        check_config(name, &new)?;
        Ok(Some(new))
    }

    fn partitions_wanted(&self, new: &NewTopic, default_partitions: i32) -> Result<i32, Refusal> {
        if !new.assignments.is_empty() {
            if new.partitions != -1 || new.replication_factor != -1 {
                let message = "A manual partition assignment was specified, but numPartitions or \
                    replicationFactor was not set to -1.";
                return Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
            }
            return self.assigned(&new.assignments);
        }
        if new.replication_factor < -1 || new.replication_factor == 0 {
            let message =
                "Replication factor must be larger than 0, or -1 to use the default value.";
            return Err(Refusal::new(ErrorCode::INVALID_REPLICATION_FACTOR, message));
        }
        if new.replication_factor > 1 {
            let message = format!(
                "Unable to replicate the partition {} time(s): only 1 broker(s) are registered.",
                new.replication_factor
            );
            return Err(Refusal::new(ErrorCode::INVALID_REPLICATION_FACTOR, message));
        }
        match new.partitions {
            -1 => Ok(default_partitions),
            1.. => Ok(new.partitions),
            _ => {
                let message =
                    "Number of partitions was set to an invalid non-positive value.".to_string();
                Err(Refusal::new(ErrorCode::INVALID_PARTITIONS, message))
            }
        }
    }

    fn assigned(&self, assignments: &[(i32, Vec<i32>)]) -> Result<i32, Refusal> {
        let indexes: BTreeSet<i32> = assignments.iter().map(|(index, _)| *index).collect();
        let consecutive = indexes.iter().zip(0..).all(|(index, expected)| *index == expected);
        if indexes.len() != assignments.len() || !consecutive {
            let message = "partitions should be a consecutive 0-based integer sequence";
            return Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
        }
        for (index, replicas) in assignments {
            self.check_assignment(*index, replicas)?;
        }
        Ok(assignments.len() as i32)
    }

    fn check_assignment(&self, index: i32, replicas: &[i32]) -> Result<(), Refusal> {
        if replicas == [self.node.0] {
            return Ok(());
        }
        let message = format!(
            "The manual partition assignment for partition {index} must be exactly broker {}, the \
             only one that is registered.",
            self.node.0
        );
        Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, message))
    }

    /// Kafka's rule: names that differ only in `.` and `_` would share a metric.
    fn check_collision(&self, name: &str) -> Result<(), Refusal> {
        if self.image.topic(name).is_some() || self.new_names.contains(name) {
            let message = format!("Topic '{name}' already exists.");
            return Err(Refusal::new(ErrorCode::TOPIC_ALREADY_EXISTS, message));
        }
        if !name.contains(['.', '_']) {
            return Ok(());
        }
        let flat = name.replace('.', "_");
        let names = self.image.names.keys().chain(&self.new_names);
        match names.filter(|n| n.contains(['.', '_'])).find(|n| n.replace('.', "_") == flat) {
            None => Ok(()),
            Some(other) => {
                let message = format!("Topic '{name}' collides with existing topic: {other}");
                Err(Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, message))
            }
        }
    }

    fn take_numbers(&mut self, count: i32) -> Result<Vec<PartitionNumber>, Refusal> {
        let count = usize::try_from(count).unwrap_or(0);
        if self.partitions_count.saturating_add(count) > limits::PARTITIONS_MAX {
            let message = format!(
                "A gateway has at most {} partitions; {} exist already.",
                limits::PARTITIONS_MAX,
                self.partitions_count
            );
            return Err(Refusal::new(ErrorCode::POLICY_VIOLATION, message));
        }
        self.partitions_count += count;
        let first = self.next_partition;
        self.next_partition += count as u32;
        Ok((first..self.next_partition).map(PartitionNumber).collect())
    }

    /// Kafka's tools take an id that begins with a dash for an option, so none does.
    fn new_id(&mut self) -> TopicId {
        loop {
            let id = TopicId(self.rng.uuid());
            if !id.to_string().starts_with('-') && self.image.topic_by_id(id).is_none() {
                return id;
            }
        }
    }
}

/// Kafka's rule for topic names (`Topic.validate`).
pub fn check_name(name: &str) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, why));
    match name {
        "" => return refuse("Topic name is invalid: the empty string is not allowed".into()),
        "." | ".." => return refuse("Topic name is invalid: '.' or '..' is not allowed".into()),
        _ => {}
    }
    if name.len() > limits::TOPIC_NAME_BYTES_MAX {
        let max = limits::TOPIC_NAME_BYTES_MAX;
        return refuse(format!("Topic name is invalid: the length is longer than {max}"));
    }
    if name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Ok(());
    }
    refuse(format!(
        "Topic name is invalid: '{name}' contains one or more characters other than ASCII \
         alphanumerics, '.', '_' and '-'"
    ))
}

fn check_not_internal(name: &str) -> Result<(), Refusal> {
    if !is_internal(name) {
        return Ok(());
    }
    let message = format!("Topic {name} is internal and is not changed by clients.");
    Err(Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, message))
}

fn check_config(name: &str, value: &str) -> Result<(), Refusal> {
    configs::validate(name, value).map_err(|why| Refusal::new(ErrorCode::INVALID_CONFIG, why))
}
