//! Brokers, topics, partitions and their leaders: Metadata.

use super::schema::message;
use crate::error::ErrorCode;
use crate::types::TopicId;
use alloc::string::String;
use alloc::vec::Vec;

message! {
    pub struct MetadataRequest {
        topics: Option<Vec<MetadataRequestTopic>> [null 1..],
        allow_auto_topic_creation: bool [4..] = true,
        include_cluster_authorized_operations: bool [8..=10],
        include_topic_authorized_operations: bool [8..],
    }

    pub struct MetadataRequestTopic { topic_id: TopicId [10..], name: Option<String> [null 10..] }

    pub struct MetadataResponse {
        throttle_time_ms: i32 [3..],
        brokers: Vec<MetadataResponseBroker>,
        cluster_id: Option<String> [2..],
        controller_id: i32 [1..] = -1,
        topics: Vec<MetadataResponseTopic>,
        cluster_authorized_operations: i32 [8..=10] = i32::MIN,
        error_code: ErrorCode [13..],
    }

    pub struct MetadataResponseBroker {
        node_id: i32,
        host: String,
        port: i32,
        rack: Option<String> [1..],
    }

    pub struct MetadataResponseTopic {
        error_code: ErrorCode,
        name: Option<String> [null 12..],
        topic_id: TopicId [10..],
        is_internal: bool [1..],
        partitions: Vec<MetadataResponsePartition>,
        topic_authorized_operations: i32 [8..] = i32::MIN,
    }

    pub struct MetadataResponsePartition {
        error_code: ErrorCode,
        partition_index: i32,
        leader_id: i32,
        leader_epoch: i32 [7..] = -1,
        replica_nodes: Vec<i32>,
        isr_nodes: Vec<i32>,
        offline_replicas: Vec<i32> [5..],
    }
}
