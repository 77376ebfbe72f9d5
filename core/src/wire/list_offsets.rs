//! The first, the last, and the offset at a time: ListOffsets.

use super::schema::message;
use crate::error::ErrorCode;
use alloc::string::String;
use alloc::vec::Vec;

message! {
    pub struct ListOffsetsRequest {
        replica_id: i32,
        isolation_level: i8 [2..],
        topics: Vec<ListOffsetsTopic>,
        timeout_ms: i32 [10..],
    }

    pub struct ListOffsetsTopic { name: String, partitions: Vec<ListOffsetsPartition> }

    pub struct ListOffsetsPartition {
        partition_index: i32,
        current_leader_epoch: i32 [4..] = -1,
        timestamp: i64,
    }

    pub struct ListOffsetsResponse {
        throttle_time_ms: i32 [2..],
        topics: Vec<ListOffsetsTopicResponse>,
    }

    pub struct ListOffsetsTopicResponse {
        name: String,
        partitions: Vec<ListOffsetsPartitionResponse>,
    }

    pub struct ListOffsetsPartitionResponse {
        partition_index: i32,
        error_code: ErrorCode,
        timestamp: i64 = -1,
        offset: i64 = -1,
        leader_epoch: i32 [4..] = -1,
    }
}
