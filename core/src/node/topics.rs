//! Topics: create, grow, delete, and delete records.
//!
//! The deciders plan against the image and build the answer at once; it leaves when the records of
//! the plan are durable (`changes`).

use super::changes::Then;
use super::configs::topic_config;
use super::connections::Caller;
use super::{Node, Settings};
use crate::error::ErrorCode;
use crate::metadata::configs::{Configs, DEFINITIONS};
use crate::metadata::{Image, NewTopic, Plan, Record, Refusal, Topic, is_internal};
use crate::types::{Offset, Time, TopicId};
use crate::wire::ApiKey;
use crate::wire::topics::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreatePartitionsRequest,
    CreatePartitionsResponse, CreatePartitionsTopicResult, CreateTopicsRequest,
    CreateTopicsResponse, DeletableTopicResult, DeleteRecordsPartitionResult, DeleteRecordsRequest,
    DeleteRecordsResponse, DeleteRecordsTopicResult, DeleteTopicState, DeleteTopicsRequest,
    DeleteTopicsResponse,
};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// What a decider says: the records that make it true, and what follows.
type Decision = (Vec<Record>, Then);

pub(super) fn create_topics(
    mut plan: Plan<'_>,
    settings: &Settings,
    caller: Caller,
    request: CreateTopicsRequest,
) -> Decision {
    let mut named: BTreeMap<&str, usize> = BTreeMap::new();
    for topic in &request.topics {
        *named.entry(&topic.name).or_default() += 1;
    }
    let mut response = CreateTopicsResponse::default();
    for topic in &request.topics {
        let planned = match named.get(topic.name.as_str()) {
            Some(1) => create_topic(&mut plan, settings, caller.version, topic),
            _ => {
                let message = "Duplicate topic name.";
                Err(Refusal::new(ErrorCode::INVALID_REQUEST, message))
            }
        };
        let name = topic.name.clone();
        response.topics.push(match planned {
            Ok(result) => CreatableTopicResult { name, ..result },
            Err(refusal) => CreatableTopicResult {
                name,
                error_code: refusal.code,
                error_message: Some(refusal.message),
                ..CreatableTopicResult::default()
            },
        });
    }
    let records = if request.validate_only { Vec::new() } else { plan.into_records() };
    (records, Then::reply(caller, &response))
}

fn create_topic(
    plan: &mut Plan<'_>,
    settings: &Settings,
    version: i16,
    topic: &CreatableTopic,
) -> Result<CreatableTopicResult, Refusal> {
    // Before version 4 a client cannot leave the choice to the broker.
    let chosen = topic.assignments.is_empty();
    if version < 4 && chosen && (topic.num_partitions == -1 || topic.replication_factor == -1) {
        let message = "Defaults are for CreateTopics 4 and above.";
        return Err(Refusal::new(ErrorCode::INVALID_PARTITIONS, message));
    }
    let new = NewTopic {
        name: topic.name.clone(),
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic
            .assignments
            .iter()
            .map(|assignment| (assignment.partition_index, assignment.broker_ids.clone()))
            .collect(),
        configs: topic.configs.iter().map(|c| (c.name.clone(), c.value.clone())).collect(),
    };
    let created = plan.create_topic(&new, settings.new_topics())?;
    let set: Configs = new.configs.into_iter().filter_map(|(n, v)| Some((n, v?))).collect();
    let configs = DEFINITIONS.iter().map(|definition| {
        let (value, source) = topic_config(definition, &set, &settings.topic_defaults);
        CreatableTopicConfigs {
            name: definition.name.into(),
            value: Some(value.into()),
            config_source: source as i8,
            ..CreatableTopicConfigs::default()
        }
    });
    Ok(CreatableTopicResult {
        topic_id: created.id,
        num_partitions: created.partitions,
        replication_factor: created.replication_factor,
        configs: Some(configs.collect()),
        ..CreatableTopicResult::default()
    })
}

pub(super) fn delete_topics(
    mut plan: Plan<'_>,
    image: &Image,
    caller: Caller,
    request: DeleteTopicsRequest,
) -> Decision {
    let by_name = request.topic_names.into_iter();
    let by_name =
        by_name.map(|name| DeleteTopicState { name: Some(name), topic_id: TopicId::NONE });
    let mut response = DeleteTopicsResponse::default();
    let mut seen = Vec::new();
    for asked in request.topics.into_iter().chain(by_name) {
        let deleted = delete_topic(&mut plan, image, &asked, &mut seen);
        let (name, topic_id) = match &deleted {
            Ok(topic) => (Some(topic.name.clone()), topic.id),
            Err(_) => (asked.name, asked.topic_id),
        };
        let (error_code, error_message) = said(deleted.map(|_| ()));
        let result = DeletableTopicResult { name, topic_id, error_code, error_message };
        response.responses.push(result);
    }
    (plan.into_records(), Then::reply(caller, &response))
}

fn delete_topic<'a>(
    plan: &mut Plan<'_>,
    image: &'a Image,
    asked: &DeleteTopicState,
    seen: &mut Vec<TopicId>,
) -> Result<&'a Topic, Refusal> {
    let topic = match &asked.name {
        Some(name) if asked.topic_id == TopicId::NONE => image.topic(name).ok_or_else(unknown)?,
        None if asked.topic_id != TopicId::NONE => {
            let unknown =
                || Refusal::new(ErrorCode::UNKNOWN_TOPIC_ID, "There is no such topic id.");
            image.topic_by_id(asked.topic_id).ok_or_else(unknown)?
        }
        _ => {
            let message = "A topic is named either by name or by id.";
            return Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
        }
    };
    if seen.contains(&topic.id) {
        return Err(Refusal::new(ErrorCode::INVALID_REQUEST, "Duplicate topic name."));
    }
    seen.push(topic.id);
    plan.delete_topic(topic)?;
    Ok(topic)
}

pub(super) fn create_partitions(
    mut plan: Plan<'_>,
    image: &Image,
    caller: Caller,
    request: CreatePartitionsRequest,
) -> Decision {
    let mut response = CreatePartitionsResponse::default();
    let mut seen: Vec<&str> = Vec::new();
    for asked in &request.topics {
        let replicas =
            |one: &crate::wire::topics::CreatePartitionsAssignment| one.broker_ids.clone();
        let assignments: Option<Vec<Vec<i32>>> =
            asked.assignments.as_ref().map(|all| all.iter().map(replicas).collect());
        let planned = match image.topic(&asked.name) {
            _ if seen.contains(&asked.name.as_str()) => {
                Err(Refusal::new(ErrorCode::INVALID_REQUEST, "Duplicate topic name."))
            }
            None => Err(unknown()),
            Some(topic) => plan.create_partitions(topic, asked.count, assignments.as_deref()),
        };
        seen.push(&asked.name);
        let (error_code, error_message) = said(planned);
        let name = asked.name.clone();
        response.results.push(CreatePartitionsTopicResult { name, error_code, error_message });
    }
    let records = if request.validate_only { Vec::new() } else { plan.into_records() };
    (records, Then::reply(caller, &response))
}

fn unknown() -> Refusal {
    let message = "This server does not host this topic-partition.";
    Refusal::new(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, message)
}

/// Code and message of an answer.
pub(super) fn said(outcome: Result<(), Refusal>) -> (ErrorCode, Option<alloc::string::String>) {
    match outcome {
        Ok(()) => (ErrorCode::NONE, None),
        Err(refusal) => (refusal.code, Some(refusal.message)),
    }
}

impl Node {
    /// Topics are gone from the image: their partitions go from the log, and whoever waits is told.
    pub(super) fn on_topics_deleted(&mut self, now: Time, deleted: &[Topic]) {
        let image = &self.image;
        self.log.retain_partitions(|number| {
            number.is_reserved() || image.partition_of(number).is_some()
        });
        for number in deleted.iter().flat_map(|topic| &topic.partitions) {
            self.replicas.forget(*number);
            self.fail_produces(*number, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
            self.wake_fetches(*number);
            self.coordinate(now, *number);
        }
        self.forget_deleted_topics();
    }

    pub(super) fn on_delete_records(
        &mut self,
        now: Time,
        caller: Caller,
        request: DeleteRecordsRequest,
    ) {
        let mut response = DeleteRecordsResponse::default();
        for topic in request.topics {
            let partitions = topic.partitions.iter().map(|asked| {
                let trimmed =
                    self.trim_records(now, &topic.name, asked.partition_index, asked.offset);
                let code = trimmed.err().unwrap_or_default();
                self.counts.error(ApiKey::DeleteRecords, code);
                DeleteRecordsPartitionResult {
                    partition_index: asked.partition_index,
                    low_watermark: trimmed.map_or(-1, |log_start| log_start.0),
                    error_code: code,
                }
            });
            let partitions = partitions.collect();
            response.topics.push(DeleteRecordsTopicResult { name: topic.name, partitions });
        }
        self.reply(caller, &response);
    }

    /// Moves a log start offset. It is durable with the next commit group; until then a cut brings
    /// the records back, as in Kafka, whose checkpoint of log start offsets is written each minute.
    fn trim_records(
        &mut self,
        now: Time,
        topic: &str,
        index: i32,
        offset: i64,
    ) -> Result<Offset, ErrorCode> {
        if is_internal(topic) {
            return Err(ErrorCode::INVALID_TOPIC_EXCEPTION);
        }
        let topic = self.image.topic(topic).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let number = topic.partition(index).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        if topic.policy.is_compacted() && topic.policy.retention.ms == -1 {
            return Err(ErrorCode::POLICY_VIOLATION);
        }
        let view = self.log.partition(number).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let log_start = view.log_start;
        let end = self.replicas.leader(number)?.high_watermark();
        // -1 is the high watermark.
        let wanted = if offset == Offset::NONE.0 { end } else { Offset(offset) };
        if wanted < Offset::ZERO || wanted > end {
            return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
        }
        if wanted > log_start {
            self.log.trim(now, number, wanted);
            self.wake_fetches(number);
        }
        Ok(wanted.max(log_start))
    }
}
