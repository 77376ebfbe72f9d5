//! Committed offsets of consumer groups, and where a leader epoch ends (KIP-320).

use super::schema::message;
use crate::error::ErrorCode;
use crate::types::TopicId;
use alloc::string::String;
use alloc::vec::Vec;

message! {
    pub struct OffsetCommitRequest {
        group_id: String,
        generation_id_or_member_epoch: i32 = -1,
        member_id: String,
        group_instance_id: Option<String> [7..],
        retention_time_ms: i64 [..=4] = -1,
        topics: Vec<OffsetCommitRequestTopic>,
    }

    pub struct OffsetCommitRequestTopic {
        name: String [..=9],
        topic_id: TopicId [10..],
        partitions: Vec<OffsetCommitRequestPartition>,
    }

    pub struct OffsetCommitRequestPartition {
        partition_index: i32,
        committed_offset: i64,
        committed_leader_epoch: i32 [6..] = -1,
        committed_metadata: Option<String>,
    }

    pub struct OffsetCommitResponse {
        throttle_time_ms: i32 [3..],
        topics: Vec<OffsetCommitResponseTopic>,
    }

    pub struct OffsetCommitResponseTopic {
        name: String [..=9],
        topic_id: TopicId [10..],
        partitions: Vec<OffsetCommitResponsePartition>,
    }

    pub struct OffsetCommitResponsePartition { partition_index: i32, error_code: ErrorCode }
}

message! {
    pub struct OffsetFetchRequest {
        group_id: String [..=7],
        topics: Option<Vec<OffsetFetchRequestTopic>> [..=7 null 2..],
        groups: Vec<OffsetFetchRequestGroup> [8..],
        require_stable: bool [7..],
    }

    pub struct OffsetFetchRequestTopic { name: String, partition_indexes: Vec<i32> }

    pub struct OffsetFetchRequestGroup {
        group_id: String,
        member_id: Option<String> [9..],
        member_epoch: i32 [9..] = -1,
        topics: Option<Vec<OffsetFetchRequestTopics>>,
    }

    pub struct OffsetFetchRequestTopics {
        name: String [..=9],
        topic_id: TopicId [10..],
        partition_indexes: Vec<i32>,
    }

    pub struct OffsetFetchResponse {
        throttle_time_ms: i32 [3..],
        topics: Vec<OffsetFetchResponseTopic> [..=7],
        error_code: ErrorCode [2..=7],
        groups: Vec<OffsetFetchResponseGroup> [8..],
    }

    pub struct OffsetFetchResponseTopic {
        name: String,
        partitions: Vec<OffsetFetchResponsePartition>,
    }

    pub struct OffsetFetchResponsePartition {
        partition_index: i32,
        committed_offset: i64,
        committed_leader_epoch: i32 [5..] = -1,
        metadata: Option<String>,
        error_code: ErrorCode,
    }

    pub struct OffsetFetchResponseGroup {
        group_id: String,
        topics: Vec<OffsetFetchResponseTopics>,
        error_code: ErrorCode,
    }

    pub struct OffsetFetchResponseTopics {
        name: String [..=9],
        topic_id: TopicId [10..],
        partitions: Vec<OffsetFetchResponsePartitions>,
    }

    pub struct OffsetFetchResponsePartitions {
        partition_index: i32,
        committed_offset: i64,
        committed_leader_epoch: i32 = -1,
        metadata: Option<String>,
        error_code: ErrorCode,
    }
}

message! {
    pub struct OffsetDeleteRequest { group_id: String, topics: Vec<OffsetDeleteRequestTopic> }

    pub struct OffsetDeleteRequestTopic {
        name: String,
        partitions: Vec<OffsetDeleteRequestPartition>,
    }

    pub struct OffsetDeleteRequestPartition { partition_index: i32 }

    pub struct OffsetDeleteResponse {
        error_code: ErrorCode,
        throttle_time_ms: i32,
        topics: Vec<OffsetDeleteResponseTopic>,
    }

    pub struct OffsetDeleteResponseTopic {
        name: String,
        partitions: Vec<OffsetDeleteResponsePartition>,
    }

    pub struct OffsetDeleteResponsePartition { partition_index: i32, error_code: ErrorCode }
}

message! {
    pub struct OffsetForLeaderEpochRequest {
        replica_id: i32 [3..] = -2,
        topics: Vec<OffsetForLeaderTopic>,
    }

    pub struct OffsetForLeaderTopic { topic: String, partitions: Vec<OffsetForLeaderPartition> }

    pub struct OffsetForLeaderPartition {
        partition: i32,
        current_leader_epoch: i32 = -1,
        leader_epoch: i32,
    }

    pub struct OffsetForLeaderEpochResponse {
        throttle_time_ms: i32,
        topics: Vec<OffsetForLeaderTopicResult>,
    }

    pub struct OffsetForLeaderTopicResult { topic: String, partitions: Vec<EpochEndOffset> }

    pub struct EpochEndOffset {
        error_code: ErrorCode,
        partition: i32,
        leader_epoch: i32 = -1,
        end_offset: i64 = -1,
    }
}
