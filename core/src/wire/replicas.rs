//! Who holds and leads partitions: elections (KIP-460), reassignments (KIP-455), and gateways that
//! go for good.

use super::schema::message;
use crate::error::ErrorCode;
use alloc::string::String;
use alloc::vec::Vec;

message! {
    pub struct ElectLeadersRequest {
        election_type: i8 [1..],
        topic_partitions: Option<Vec<TopicPartitions>>,
        timeout_ms: i32 = 60000,
    }

    pub struct TopicPartitions { topic: String, partitions: Vec<i32> }

    pub struct ElectLeadersResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode [1..],
        replica_election_results: Vec<ReplicaElectionResult>,
    }

    pub struct ReplicaElectionResult { topic: String, partition_result: Vec<PartitionResult> }

    pub struct PartitionResult {
        partition_id: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
    }
}

message! {
    pub struct AlterPartitionReassignmentsRequest {
        timeout_ms: i32 = 60000,
        allow_replication_factor_change: bool [1..] = true,
        topics: Vec<ReassignableTopic>,
    }

    pub struct ReassignableTopic { name: String, partitions: Vec<ReassignablePartition> }

    pub struct ReassignablePartition { partition_index: i32, replicas: Option<Vec<i32>> }

    pub struct AlterPartitionReassignmentsResponse {
        throttle_time_ms: i32,
        allow_replication_factor_change: bool [1..] = true,
        error_code: ErrorCode,
        error_message: Option<String>,
        responses: Vec<ReassignableTopicResponse>,
    }

    pub struct ReassignableTopicResponse {
        name: String,
        partitions: Vec<ReassignablePartitionResponse>,
    }

    pub struct ReassignablePartitionResponse {
        partition_index: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
    }
}

message! {
    pub struct ListPartitionReassignmentsRequest {
        timeout_ms: i32 = 60000,
        topics: Option<Vec<ListPartitionReassignmentsTopics>>,
    }

    pub struct ListPartitionReassignmentsTopics { name: String, partition_indexes: Vec<i32> }

    pub struct ListPartitionReassignmentsResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
        topics: Vec<OngoingTopicReassignment>,
    }

    pub struct OngoingTopicReassignment {
        name: String,
        partitions: Vec<OngoingPartitionReassignment>,
    }

    pub struct OngoingPartitionReassignment {
        partition_index: i32,
        replicas: Vec<i32>,
        adding_replicas: Vec<i32>,
        removing_replicas: Vec<i32>,
    }
}

message! {
    pub struct UnregisterBrokerRequest { broker_id: i32 }

    pub struct UnregisterBrokerResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
    }
}
