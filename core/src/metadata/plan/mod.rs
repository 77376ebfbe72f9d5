//! What a client wishes of the metadata, judged against the image: the records that would fulfil
//! it.

mod alter;

pub use alter::ConfigOperation;

use super::configs::{Configs, MIN_INSYNC_REPLICAS};
use super::placement::Placement;
use super::{Image, PartitionState, Record, Topic, is_internal};
use crate::error::ErrorCode;
use crate::limits;
use crate::rng::Rng;
use crate::types::{NodeId, PartitionNumber, TopicId};
use alloc::collections::{BTreeMap, BTreeSet};
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

/// What a topic gets that does not say.
#[derive(Clone, Copy, Debug)]
pub struct TopicDefaults {
    /// Kafka's `num.partitions`.
    pub partitions: i32,
    /// Kafka's `default.replication.factor`; `None`: as many as there are gateways, 3 at most.
    pub replication_factor: Option<i16>,
}

/// A topic that is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    pub id: TopicId,
    pub partitions: i32,
    pub replication_factor: i16,
}

/// The records of one decision, as far as it is made.
#[derive(Debug)]
pub struct Plan<'a> {
    image: &'a Image,
    rng: &'a mut Rng,
    placement: Placement,
    records: Vec<Record>,
    next_partition: u32,
    partitions_count: usize,
    new_names: BTreeSet<String>,
}

/// Where new partitions shall be.
#[derive(Debug)]
enum Wanted {
    Placed { partitions: i32, factor: usize },
    Chosen(Vec<Vec<NodeId>>),
}

impl Wanted {
    /// Partitions, and the replicas of each.
    fn size(&self) -> (i32, i16) {
        match self {
            Wanted::Placed { partitions, factor } => (*partitions, *factor as i16),
            Wanted::Chosen(chosen) => {
                (chosen.len() as i32, chosen.first().map_or(0, Vec::len) as i16)
            }
        }
    }
}

/// How many replicas have to confirm a record of a topic for which nobody chose how many it has,
/// such as those of MQTT and of groups: a majority of three or more, so that what is acknowledged
/// outlives any minority. Kafka's default of 1 holds for two, of which one shall go on alone.
fn outliving(new: &NewTopic, factor: i16) -> Option<String> {
    let nobody_chose = new.replication_factor == -1 && new.assignments.is_empty();
    (nobody_chose && factor >= 3).then(|| (factor / 2 + 1).to_string())
}

impl<'a> Plan<'a> {
    /// `node` is the only gateway that there is to place partitions on while none has registered.
    pub fn new(image: &'a Image, node: NodeId, rng: &'a mut Rng) -> Plan<'a> {
        Plan {
            image,
            rng,
            placement: Placement::new(image, node),
            records: Vec::new(),
            next_partition: image.next_partition,
            partitions_count: image.partitions_count(),
            new_names: BTreeSet::new(),
        }
    }

    pub fn into_records(self) -> Vec<Record> {
        self.records
    }

    /// Plans a topic, and says what it gets.
    pub fn create_topic(
        &mut self,
        new: &NewTopic,
        defaults: TopicDefaults,
    ) -> Result<CreatedTopic, Refusal> {
        check_name(&new.name)?;
        self.check_collision(&new.name)?;
        let wanted = self.wanted(new, defaults)?;
        let mut set = Configs::new();
        for (name, value) in &new.configs {
            let Some(value) = value else {
                let message = format!("Null value not supported for topic configs: {name}");
                return Err(Refusal::new(ErrorCode::INVALID_CONFIG, message));
            };
            alter::check_config(name, value)?;
            set.insert(name.clone(), value.clone());
        }
        self.check_together(&set)?;
        let (partitions, replication_factor) = wanted.size();
        // The controller and the leaders have to agree on it, and gateways may differ in their
        // defaults.
        let default = self.image.defaults().get(MIN_INSYNC_REPLICAS).cloned();
        if let Some(replicas) = default.or_else(|| outliving(new, replication_factor)) {
            set.entry(MIN_INSYNC_REPLICAS.into()).or_insert(replicas);
        }
        let numbers = self.take_numbers(partitions)?;
        let states = self.place(wanted)?;
        let id = self.new_id();
        self.new_names.insert(new.name.clone());
        let configs = set.into_iter().collect();
        self.records.push(Record::Topic { id, name: new.name.clone(), configs });
        self.push_partitions(id, 0, numbers, states);
        Ok(CreatedTopic { id, partitions, replication_factor })
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
        let factor = self.factor_of(topic);
        let wanted = match assignments {
            None => Wanted::Placed { partitions: total - current, factor },
            Some(assignments) => {
                if assignments.len() as i64 != i64::from(total - current) {
                    let message = format!(
                        "Attempted to add {} additional partition(s), but only {} assignment(s) \
                         were specified.",
                        total - current,
                        assignments.len()
                    );
                    return Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
                }
                self.assigned(assignments.iter().map(Vec::as_slice), Some(factor))?
            }
        };
        if assignments.is_none() {
            self.placement.check_factor(factor)?;
        }
        let numbers = self.take_numbers(total - current)?;
        let states = self.place(wanted)?;
        self.push_partitions(topic.id, current, numbers, states);
        Ok(())
    }

    /// Takes a block of producer ids and says where it begins.
    pub fn take_producer_ids(&mut self, count: i64) -> i64 {
        let first = self.image.next_producer_id;
        self.records.push(Record::NextProducerId { id: first.saturating_add(count) });
        first
    }

    fn wanted(&self, new: &NewTopic, defaults: TopicDefaults) -> Result<Wanted, Refusal> {
        if !new.assignments.is_empty() {
            if new.partitions != -1 || new.replication_factor != -1 {
                let message = "A manual partition assignment was specified, but numPartitions or \
                    replicationFactor was not set to -1.";
                return Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
            }
            let by_index: BTreeMap<i32, &[i32]> =
                new.assignments.iter().map(|(index, all)| (*index, all.as_slice())).collect();
            let consecutive = by_index.keys().zip(0..).all(|(index, expected)| *index == expected);
            if by_index.len() != new.assignments.len() || !consecutive {
                let message = "partitions should be a consecutive 0-based integer sequence";
                return Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
            }
            return self.assigned(by_index.into_values(), None);
        }
        let default = self.image.default_replication_factor(defaults.replication_factor);
        let factor = match new.replication_factor {
            -1 => usize::from(default),
            1.. => new.replication_factor as usize,
            _ => {
                let message =
                    "Replication factor must be larger than 0, or -1 to use the default value.";
                return Err(Refusal::new(ErrorCode::INVALID_REPLICATION_FACTOR, message));
            }
        };
        self.placement.check_factor(factor)?;
        match new.partitions {
            -1 => Ok(Wanted::Placed { partitions: defaults.partitions, factor }),
            1.. => Ok(Wanted::Placed { partitions: new.partitions, factor }),
            _ => {
                let message =
                    "Number of partitions was set to an invalid non-positive value.".to_string();
                Err(Refusal::new(ErrorCode::INVALID_PARTITIONS, message))
            }
        }
    }

    /// Replicas by partition, as somebody has chosen them: all partitions have equally many.
    fn assigned<'r>(
        &self,
        assignments: impl Iterator<Item = &'r [i32]>,
        mut factor: Option<usize>,
    ) -> Result<Wanted, Refusal> {
        let mut chosen = Vec::new();
        for replicas in assignments {
            let replicas = self.placement.check_replicas(replicas)?;
            let expected = *factor.get_or_insert(replicas.len());
            if replicas.len() != expected {
                let message = format!(
                    "The manual partition assignment includes a partition with {} replica(s), but \
                     this is not consistent with previous partitions, which have {expected} \
                     replica(s).",
                    replicas.len()
                );
                return Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
            }
            chosen.push(replicas);
        }
        Ok(Wanted::Chosen(chosen))
    }

    fn place(&mut self, wanted: Wanted) -> Result<Vec<PartitionState>, Refusal> {
        let (placement, rng) = (&mut self.placement, &mut *self.rng);
        match wanted {
            Wanted::Placed { partitions, factor } => {
                Ok((0..partitions).map(|_| placement.place(factor, rng)).collect())
            }
            Wanted::Chosen(chosen) => chosen
                .into_iter()
                .enumerate()
                .map(|(at, replicas)| {
                    placement.assign(replicas).ok_or_else(|| {
                        let message = format!(
                            "All brokers specified in the manual partition assignment for \
                             partition {at} are fenced or in controlled shutdown."
                        );
                        Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, message)
                    })
                })
                .collect(),
        }
    }

    /// As many replicas as the first partition of the topic has, or will have.
    fn factor_of(&self, topic: &Topic) -> usize {
        let state = topic.partition(0).and_then(|number| self.image.state(number));
        state.map_or(1, |state| state.replicas.len() - state.removing.len())
    }

    fn push_partitions(
        &mut self,
        topic: TopicId,
        first_index: i32,
        numbers: Vec<PartitionNumber>,
        states: Vec<PartitionState>,
    ) {
        self.records.push(Record::Partitions { topic, first_index, numbers });
        let record = |(index, state)| Record::Partition { topic, index, state };
        self.records.extend((first_index..).zip(states).map(record));
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
