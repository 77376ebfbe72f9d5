//! Where partitions lie and how large they are: DescribeLogDirs.

use super::schema::message;
use crate::error::ErrorCode;
use alloc::string::String;
use alloc::vec::Vec;

message! {
    pub struct DescribeLogDirsRequest { topics: Option<Vec<DescribableLogDirTopic>> }

    pub struct DescribableLogDirTopic { topic: String, partitions: Vec<i32> }

    pub struct DescribeLogDirsResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode [3..],
        results: Vec<DescribeLogDirsResult>,
    }

    pub struct DescribeLogDirsResult {
        error_code: ErrorCode,
        log_dir: String,
        topics: Vec<DescribeLogDirsTopic>,
        total_bytes: i64 [4..] = -1,
        usable_bytes: i64 [4..] = -1,
        is_cordoned: bool [5..],
    }

    pub struct DescribeLogDirsTopic { name: String, partitions: Vec<DescribeLogDirsPartition> }

    pub struct DescribeLogDirsPartition {
        partition_index: i32,
        partition_size: i64,
        offset_lag: i64,
        is_future_key: bool,
    }
}
