//! The cluster as a whole: DescribeCluster (KIP-700).

use super::schema::message;
use crate::error::ErrorCode;
use alloc::string::String;
use alloc::vec::Vec;

message! {
    pub struct DescribeClusterRequest {
        include_cluster_authorized_operations: bool,
        endpoint_type: i8 [1..] = 1,
        include_fenced_brokers: bool [2..],
    }

    pub struct DescribeClusterResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
        endpoint_type: i8 [1..] = 1,
        cluster_id: String,
        controller_id: i32 = -1,
        brokers: Vec<DescribeClusterBroker>,
        cluster_authorized_operations: i32 = i32::MIN,
    }

    pub struct DescribeClusterBroker {
        broker_id: i32,
        host: String,
        port: i32,
        rack: Option<String>,
        is_fenced: bool [2..],
    }
}
