//! Record batches from the leader, and fetch sessions (KIP-227): Fetch.

use super::schema::{Records, message};
use crate::error::ErrorCode;
use crate::types::TopicId;
use alloc::string::String;
use alloc::vec::Vec;

message! {
    pub struct FetchRequest {
        cluster_id: Option<String> [12.. tag 0],
        replica_id: i32 [..=14] = -1,
        replica_state: ReplicaState [15.. tag 1],
        max_wait_ms: i32,
        min_bytes: i32,
        max_bytes: i32 = i32::MAX,
        isolation_level: i8,
        session_id: i32 [7..],
        session_epoch: i32 [7..] = -1,
        topics: Vec<FetchTopic>,
        forgotten_topics_data: Vec<ForgottenTopic> [7..],
        rack_id: String [11..],
    }

    pub struct ReplicaState { replica_id: i32 = -1, replica_epoch: i64 = -1 }

    pub struct FetchTopic {
        topic: String [..=12],
        topic_id: TopicId [13..],
        partitions: Vec<FetchPartition>,
    }

    pub struct FetchPartition {
        partition: i32,
        current_leader_epoch: i32 [9..] = -1,
        fetch_offset: i64,
        last_fetched_epoch: i32 [12..] = -1,
        log_start_offset: i64 [5..] = -1,
        partition_max_bytes: i32,
        replica_directory_id: TopicId [17.. tag 0],
        high_watermark: i64 [18.. tag 1] = i64::MAX,
    }

    pub struct ForgottenTopic {
        topic: String [..=12],
        topic_id: TopicId [13..],
        partitions: Vec<i32>,
    }

    pub struct FetchResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode [7..],
        session_id: i32 [7..],
        responses: Vec<FetchableTopicResponse>,
        node_endpoints: Vec<NodeEndpoint> [16.. tag 0],
    }

    pub struct FetchableTopicResponse {
        topic: String [..=12],
        topic_id: TopicId [13..],
        partitions: Vec<PartitionData>,
    }

    pub struct PartitionData {
        partition_index: i32,
        error_code: ErrorCode,
        high_watermark: i64,
        last_stable_offset: i64 = -1,
        log_start_offset: i64 [5..] = -1,
        diverging_epoch: EpochEndOffset [12.. tag 0],
        current_leader: LeaderIdAndEpoch [12.. tag 1],
        snapshot_id: SnapshotId [12.. tag 2],
        aborted_transactions: Option<Vec<AbortedTransaction>>,
        preferred_read_replica: i32 [11..] = -1,
        records: Records,
    }

    pub struct EpochEndOffset { epoch: i32 = -1, end_offset: i64 = -1 }

    pub struct LeaderIdAndEpoch { leader_id: i32 = -1, leader_epoch: i32 = -1 }

    pub struct SnapshotId { end_offset: i64 = -1, epoch: i32 = -1 }

    pub struct AbortedTransaction { producer_id: i64, first_offset: i64 }

    pub struct NodeEndpoint { node_id: i32, host: String, port: i32, rack: Option<String> }
}
