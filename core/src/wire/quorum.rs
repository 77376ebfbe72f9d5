//! The metadata quorum: who votes and how far each is (KIP-595, KIP-836), and changes of its voters
//! (KIP-853).

use super::schema::message;
use crate::error::ErrorCode;
use crate::types::TopicId;
use alloc::string::String;
use alloc::vec::Vec;

message! {
    pub struct DescribeQuorumRequest { topics: Vec<TopicData> }

    pub struct TopicData { topic_name: String, partitions: Vec<PartitionData> }

    pub struct PartitionData { partition_index: i32 }

    pub struct DescribeQuorumResponse {
        error_code: ErrorCode,
        error_message: Option<String> [2..],
        topics: Vec<DescribedTopic>,
        nodes: Vec<Node> [2..],
    }

    pub struct DescribedTopic { topic_name: String, partitions: Vec<DescribedPartition> }

    pub struct DescribedPartition {
        partition_index: i32,
        error_code: ErrorCode,
        error_message: Option<String> [2..],
        leader_id: i32,
        leader_epoch: i32,
        high_watermark: i64,
        current_voters: Vec<ReplicaState>,
        observers: Vec<ReplicaState>,
    }

    pub struct ReplicaState {
        replica_id: i32,
        replica_directory_id: TopicId [2..],
        log_end_offset: i64,
        last_fetch_timestamp: i64 [1..] = -1,
        last_caught_up_timestamp: i64 [1..] = -1,
    }

    pub struct Node { node_id: i32, listeners: Vec<Listener> }

    pub struct Listener { name: String, host: String, port: u16 }
}

message! {
    pub struct AddRaftVoterRequest {
        cluster_id: Option<String>,
        timeout_ms: i32,
        voter_id: i32,
        voter_directory_id: TopicId,
        listeners: Vec<Listener>,
        ack_when_committed: bool [1..] = true,
    }

    pub struct AddRaftVoterResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
    }
}

message! {
    pub struct RemoveRaftVoterRequest {
        cluster_id: Option<String>,
        voter_id: i32,
        voter_directory_id: TopicId,
    }

    pub struct RemoveRaftVoterResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
    }
}
