//! Transactions, as our own client speaks them to a central Kafka; the broker does not serve them.

use super::schema::message;
use crate::error::ErrorCode;
use alloc::string::String;
use alloc::vec::Vec;

message! {
    pub struct AddPartitionsToTxnRequest {
        transactions: Vec<AddPartitionsToTxnTransaction> [4..],
        v3_and_below_transactional_id: String [..=3],
        v3_and_below_producer_id: i64 [..=3],
        v3_and_below_producer_epoch: i16 [..=3],
        v3_and_below_topics: Vec<AddPartitionsToTxnTopic> [..=3],
    }

    pub struct AddPartitionsToTxnTransaction {
        transactional_id: String,
        producer_id: i64,
        producer_epoch: i16,
        verify_only: bool,
        topics: Vec<AddPartitionsToTxnTopic>,
    }

    pub struct AddPartitionsToTxnTopic { name: String, partitions: Vec<i32> }

    pub struct AddPartitionsToTxnResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode [4..],
        results_by_transaction: Vec<AddPartitionsToTxnResult> [4..],
        results_by_topic_v3_and_below: Vec<AddPartitionsToTxnTopicResult> [..=3],
    }

    pub struct AddPartitionsToTxnResult {
        transactional_id: String,
        topic_results: Vec<AddPartitionsToTxnTopicResult>,
    }

    pub struct AddPartitionsToTxnTopicResult {
        name: String,
        results_by_partition: Vec<AddPartitionsToTxnPartitionResult>,
    }

    pub struct AddPartitionsToTxnPartitionResult {
        partition_index: i32,
        partition_error_code: ErrorCode,
    }
}

message! {
    pub struct AddOffsetsToTxnRequest {
        transactional_id: String,
        producer_id: i64,
        producer_epoch: i16,
        group_id: String,
    }

    pub struct AddOffsetsToTxnResponse { throttle_time_ms: i32, error_code: ErrorCode }
}

message! {
    pub struct EndTxnRequest {
        transactional_id: String,
        producer_id: i64,
        producer_epoch: i16,
        committed: bool,
    }

    pub struct EndTxnResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode,
        producer_id: i64 [5..] = -1,
        producer_epoch: i16 [5..] = -1,
    }
}

message! {
    pub struct TxnOffsetCommitRequest {
        transactional_id: String,
        group_id: String,
        producer_id: i64,
        producer_epoch: i16,
        generation_id: i32 [3..] = -1,
        member_id: String [3..],
        group_instance_id: Option<String> [3..],
        topics: Vec<TxnOffsetCommitRequestTopic>,
    }

    pub struct TxnOffsetCommitRequestTopic {
        name: String,
        partitions: Vec<TxnOffsetCommitRequestPartition>,
    }

    pub struct TxnOffsetCommitRequestPartition {
        partition_index: i32,
        committed_offset: i64,
        committed_leader_epoch: i32 [2..] = -1,
        committed_metadata: Option<String>,
    }

    pub struct TxnOffsetCommitResponse {
        throttle_time_ms: i32,
        topics: Vec<TxnOffsetCommitResponseTopic>,
    }

    pub struct TxnOffsetCommitResponseTopic {
        name: String,
        partitions: Vec<TxnOffsetCommitResponsePartition>,
    }

    pub struct TxnOffsetCommitResponsePartition { partition_index: i32, error_code: ErrorCode }
}
