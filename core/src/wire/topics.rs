//! Topics and their partitions: create, delete, describe, delete records.

use super::schema::message;
use crate::error::ErrorCode;
use crate::types::TopicId;
use alloc::string::String;
use alloc::vec::Vec;

message! {
    pub struct CreateTopicsRequest {
        topics: Vec<CreatableTopic>,
        timeout_ms: i32 = 60000,
        validate_only: bool,
    }

    pub struct CreatableTopic {
        name: String,
        num_partitions: i32,
        replication_factor: i16,
        assignments: Vec<CreatableReplicaAssignment>,
        configs: Vec<CreatableTopicConfig>,
    }

    pub struct CreatableReplicaAssignment { partition_index: i32, broker_ids: Vec<i32> }

    pub struct CreatableTopicConfig { name: String, value: Option<String> }

    pub struct CreateTopicsResponse { throttle_time_ms: i32, topics: Vec<CreatableTopicResult> }

    pub struct CreatableTopicResult {
        name: String,
        topic_id: TopicId [7..],
        error_code: ErrorCode,
        error_message: Option<String>,
        topic_config_error_code: ErrorCode [5.. tag 0],
        num_partitions: i32 [5..] = -1,
        replication_factor: i16 [5..] = -1,
        configs: Option<Vec<CreatableTopicConfigs>> [5..],
    }

    pub struct CreatableTopicConfigs {
        name: String,
        value: Option<String>,
        read_only: bool,
        config_source: i8 = -1,
        is_sensitive: bool,
    }
}

message! {
    pub struct DeleteTopicsRequest {
        topics: Vec<DeleteTopicState> [6..],
        topic_names: Vec<String> [..=5],
        timeout_ms: i32,
    }

    pub struct DeleteTopicState { name: Option<String>, topic_id: TopicId }

    pub struct DeleteTopicsResponse { throttle_time_ms: i32, responses: Vec<DeletableTopicResult> }

    pub struct DeletableTopicResult {
        name: Option<String> [null 6..],
        topic_id: TopicId [6..],
        error_code: ErrorCode,
        error_message: Option<String> [5..],
    }
}

message! {
    pub struct CreatePartitionsRequest {
        topics: Vec<CreatePartitionsTopic>,
        timeout_ms: i32,
        validate_only: bool,
    }

    pub struct CreatePartitionsTopic {
        name: String,
        count: i32,
        assignments: Option<Vec<CreatePartitionsAssignment>>,
    }

    pub struct CreatePartitionsAssignment { broker_ids: Vec<i32> }

    pub struct CreatePartitionsResponse {
        throttle_time_ms: i32,
        results: Vec<CreatePartitionsTopicResult>,
    }

    pub struct CreatePartitionsTopicResult {
        name: String,
        error_code: ErrorCode,
        error_message: Option<String>,
    }
}

message! {
    pub struct DeleteRecordsRequest { topics: Vec<DeleteRecordsTopic>, timeout_ms: i32 }

    pub struct DeleteRecordsTopic { name: String, partitions: Vec<DeleteRecordsPartition> }

    pub struct DeleteRecordsPartition { partition_index: i32, offset: i64 }

    pub struct DeleteRecordsResponse {
        throttle_time_ms: i32,
        topics: Vec<DeleteRecordsTopicResult>,
    }

    pub struct DeleteRecordsTopicResult {
        name: String,
        partitions: Vec<DeleteRecordsPartitionResult>,
    }

    pub struct DeleteRecordsPartitionResult {
        partition_index: i32,
        low_watermark: i64,
        error_code: ErrorCode,
    }
}

message! {
    pub struct DescribeTopicPartitionsRequest {
        topics: Vec<TopicRequest>,
        response_partition_limit: i32 = 2000,
        cursor: Option<Cursor>,
    }

    pub struct TopicRequest { name: String }

    pub struct Cursor { topic_name: String, partition_index: i32 }

    pub struct DescribeTopicPartitionsResponse {
        throttle_time_ms: i32,
        topics: Vec<DescribeTopicPartitionsResponseTopic>,
        next_cursor: Option<Cursor>,
    }

    pub struct DescribeTopicPartitionsResponseTopic {
        error_code: ErrorCode,
        name: Option<String>,
        topic_id: TopicId,
        is_internal: bool,
        partitions: Vec<DescribeTopicPartitionsResponsePartition>,
        topic_authorized_operations: i32 = i32::MIN,
    }

    pub struct DescribeTopicPartitionsResponsePartition {
        error_code: ErrorCode,
        partition_index: i32,
        leader_id: i32,
        leader_epoch: i32 = -1,
        replica_nodes: Vec<i32>,
        isr_nodes: Vec<i32>,
        eligible_leader_replicas: Option<Vec<i32>>,
        last_known_elr: Option<Vec<i32>>,
        offline_replicas: Vec<i32>,
    }
}
