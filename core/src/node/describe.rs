//! What tools ask: partitions of topics page by page, and how large partitions are.

use super::Node;
use super::cluster::TOPIC_OPERATIONS;
use super::cluster::numbers;
use super::connections::Caller;
use crate::error::ErrorCode;
use crate::metadata::{Topic, check_name, is_internal};
use crate::types::PartitionNumber;
use crate::wire::ApiKey;
use crate::wire::log_dirs::{
    DescribableLogDirTopic, DescribeLogDirsPartition, DescribeLogDirsRequest,
    DescribeLogDirsResponse, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use crate::wire::topics::{
    Cursor, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use alloc::string::String;
use alloc::vec::Vec;

/// Partitions of one answer at most: Kafka's `max.request.partition.size.limit`.
const PARTITIONS_PER_ANSWER: i32 = 2000;

impl Node {
    pub(super) fn on_describe_topic_partitions(
        &mut self,
        caller: Caller,
        request: &DescribeTopicPartitionsRequest,
    ) {
        let first = request.cursor.as_ref().map_or("", |cursor| cursor.topic_name.as_str());
        let first_index = request.cursor.as_ref().map_or(0, |cursor| cursor.partition_index.max(0));
        let mut names: Vec<&str> = match request.topics.is_empty() {
            true => self.image.topics_from(first).map(|topic| topic.name.as_str()).collect(),
            false => request.topics.iter().map(|topic| topic.name.as_str()).collect(),
        };
        names.sort_unstable();
        names.dedup();
        let limit = request.response_partition_limit;
        let mut left =
            if limit > 0 { limit.min(PARTITIONS_PER_ANSWER) } else { PARTITIONS_PER_ANSWER };
        let mut response = DescribeTopicPartitionsResponse::default();
        for name in names.into_iter().filter(|name| *name >= first) {
            if left == 0 {
                let topic_name = name.into();
                response.next_cursor = Some(Cursor { topic_name, partition_index: 0 });
                break;
            }
            let from = if name == first { first_index } else { 0 };
            let Some(topic) = self.image.topic(name) else {
                response.topics.push(unknown(name));
                continue;
            };
            let count = topic.partitions.len() as i32;
            let end = count.min(from.saturating_add(left));
            response.topics.push(self.topic_partitions(topic, from..end));
            left -= (end - from).max(0);
            if end < count {
                let topic_name = name.into();
                response.next_cursor = Some(Cursor { topic_name, partition_index: end });
                break;
            }
        }
        for topic in &response.topics {
            self.counts.error(ApiKey::DescribeTopicPartitions, topic.error_code);
        }
        self.reply(caller, &response);
    }

    fn topic_partitions(
        &self,
        topic: &Topic,
        indexes: core::ops::Range<i32>,
    ) -> DescribeTopicPartitionsResponseTopic {
        let partition = |partition_index| {
            let number = topic.partition(partition_index).unwrap_or_default();
            let state = self.image.state(number).cloned().unwrap_or_default();
            let leader = self.known_leader(number);
            let replicas = state.replicas.iter().copied();
            let offline = replicas.clone().filter(|node| !self.image.is_alive(*node));
            DescribeTopicPartitionsResponsePartition {
                error_code: match leader {
                    Some(_) => ErrorCode::NONE,
                    None => ErrorCode::LEADER_NOT_AVAILABLE,
                },
                partition_index,
                leader_id: leader.map_or(-1, |node| node.0),
                leader_epoch: state.leader_epoch,
                offline_replicas: numbers(offline),
                replica_nodes: numbers(replicas),
                isr_nodes: numbers(state.isr.iter().copied()),
                eligible_leader_replicas: Some(numbers(state.elr.iter().copied())),
                last_known_elr: Some(Vec::new()),
            }
        };
        DescribeTopicPartitionsResponseTopic {
            name: Some(topic.name.clone()),
            topic_id: topic.id,
            is_internal: is_internal(&topic.name),
            partitions: indexes.map(partition).collect(),
            topic_authorized_operations: TOPIC_OPERATIONS,
            ..DescribeTopicPartitionsResponseTopic::default()
        }
    }

    pub(super) fn on_describe_log_dirs(
        &mut self,
        caller: Caller,
        request: &DescribeLogDirsRequest,
    ) {
        let whole = |topic: &Topic| {
            let partitions = (0..).zip(&topic.partitions);
            self.sizes(&topic.name, partitions.map(|(index, number)| (index, *number)))
        };
        let some = |asked: &DescribableLogDirTopic| {
            let topic = self.image.topic(&asked.topic)?;
            let known = |index: &i32| Some((*index, topic.partition(*index)?));
            Some(self.sizes(&topic.name, asked.partitions.iter().filter_map(known)))
        };
        let topics = match &request.topics {
            None => self.image.topics_by_name().map(whole).collect(),
            Some(topics) => topics.iter().filter_map(some).collect(),
        };
        let stats = self.log.stats();
        let result = DescribeLogDirsResult {
            log_dir: String::from("flash.log"),
            topics,
            total_bytes: (stats.slot_bytes * u64::from(stats.slots)) as i64,
            usable_bytes: (stats.slot_bytes * u64::from(stats.slots_free)) as i64,
            ..DescribeLogDirsResult::default()
        };
        let results = Vec::from([result]);
        self.reply(caller, &DescribeLogDirsResponse { results, ..Default::default() });
    }

    fn sizes(
        &self,
        name: &str,
        partitions: impl Iterator<Item = (i32, PartitionNumber)>,
    ) -> DescribeLogDirsTopic {
        let partitions = partitions.map(|(partition_index, number)| DescribeLogDirsPartition {
            partition_index,
            partition_size: self.log.partition(number).map_or(0, |view| view.bytes as i64),
            ..DescribeLogDirsPartition::default()
        });
        DescribeLogDirsTopic { name: name.into(), partitions: partitions.collect() }
    }
}

fn unknown(name: &str) -> DescribeTopicPartitionsResponseTopic {
    let error_code = match check_name(name) {
        Ok(()) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        Err(_) => ErrorCode::INVALID_TOPIC_EXCEPTION,
    };
    DescribeTopicPartitionsResponseTopic {
        error_code,
        name: Some(name.into()),
        is_internal: is_internal(name),
        ..DescribeTopicPartitionsResponseTopic::default()
    }
}
