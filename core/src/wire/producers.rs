//! Idempotent producers: their ids, and what a partition remembers of them (KIP-664).

use super::schema::message;
use crate::error::ErrorCode;
use alloc::string::String;
use alloc::vec::Vec;

message! {
    pub struct InitProducerIdRequest {
        transactional_id: Option<String>,
        transaction_timeout_ms: i32,
        producer_id: i64 [3..] = -1,
        producer_epoch: i16 [3..] = -1,
    }

    pub struct InitProducerIdResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode,
        producer_id: i64 = -1,
        producer_epoch: i16,
    }
}

message! {
    pub struct DescribeProducersRequest { topics: Vec<TopicRequest> }

    pub struct TopicRequest { name: String, partition_indexes: Vec<i32> }

    pub struct DescribeProducersResponse { throttle_time_ms: i32, topics: Vec<TopicResponse> }

    pub struct TopicResponse { name: String, partitions: Vec<PartitionResponse> }

    pub struct PartitionResponse {
        partition_index: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
        active_producers: Vec<ProducerState>,
    }

    pub struct ProducerState {
        producer_id: i64,
        producer_epoch: i32,
        last_sequence: i32 = -1,
        last_timestamp: i64 = -1,
        coordinator_epoch: i32,
        current_txn_start_offset: i64 = -1,
    }
}
