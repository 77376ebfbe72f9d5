//! Changes of topic configs, and what follows from them for partitions.

use super::super::configs::{self, Configs, Kind, Policy};
use super::super::{PartitionState, Record, Topic};
use super::{Plan, Refusal};
use crate::error::ErrorCode;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

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

impl Plan<'_> {
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
        self.forget_eligible(topic, &Policy::new(&set, self.image.defaults()));
        Ok(())
    }

    /// Where fewer in-sync replicas than before are required, and so many there are, the leader
    /// commits without those that are merely eligible.
    fn forget_eligible(&mut self, topic: &Topic, policy: &Policy) {
        for (index, number) in (0..).zip(&topic.partitions) {
            let Some(state) = self.image.state(*number) else { continue };
            let required = state.in_sync_required(policy.min_insync_replicas);
            if state.elr.is_empty() || state.isr.len() < required {
                continue;
            }
            let state = PartitionState {
                elr: Vec::new(),
                partition_epoch: state.partition_epoch.saturating_add(1),
                ..state.clone()
            };
            self.records.push(Record::Partition { topic: topic.id, index, state });
        }
    }

    pub(super) fn check_together(&self, set: &Configs) -> Result<(), Refusal> {
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
}

pub(super) fn check_config(name: &str, value: &str) -> Result<(), Refusal> {
    configs::validate(name, value).map_err(|why| Refusal::new(ErrorCode::INVALID_CONFIG, why))
}
