//! Record batches to the leader: Produce.

use super::schema::{Records, message};
use crate::error::ErrorCode;
use crate::types::TopicId;
use alloc::string::String;
use alloc::vec::Vec;

message! {
    pub struct ProduceRequest {
        transactional_id: Option<String>,
        acks: i16,
        timeout_ms: i32,
        topic_data: Vec<TopicProduceData>,
    }

    pub struct TopicProduceData {
        name: String [..=12],
        topic_id: TopicId [13..],
        partition_data: Vec<PartitionProduceData>,
    }

    pub struct PartitionProduceData { index: i32, records: Records }

    pub struct ProduceResponse {
        responses: Vec<TopicProduceResponse>,
        throttle_time_ms: i32,
        node_endpoints: Vec<NodeEndpoint> [10.. tag 0],
    }

    pub struct TopicProduceResponse {
        name: String [..=12],
        topic_id: TopicId [13..],
        partition_responses: Vec<PartitionProduceResponse>,
    }

    pub struct PartitionProduceResponse {
        index: i32,
        error_code: ErrorCode,
        base_offset: i64,
        log_append_time_ms: i64 = -1,
        log_start_offset: i64 [5..] = -1,
        record_errors: Vec<BatchIndexAndErrorMessage> [8..],
        error_message: Option<String> [8..],
        current_leader: LeaderIdAndEpoch [10.. tag 0],
    }

    pub struct BatchIndexAndErrorMessage {
        batch_index: i32,
        batch_index_error_message: Option<String>,
    }

    pub struct LeaderIdAndEpoch { leader_id: i32 = -1, leader_epoch: i32 = -1 }

    pub struct NodeEndpoint { node_id: i32, host: String, port: i32, rack: Option<String> }
}
