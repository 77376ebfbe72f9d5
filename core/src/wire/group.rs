//! Consumer groups, the classic protocol: the coordinator, members, and what tools ask.

use super::schema::message;
use crate::error::ErrorCode;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

message! {
    pub struct FindCoordinatorRequest {
        key: String [..=3],
        key_type: i8 [1..],
        coordinator_keys: Vec<String> [4..],
    }

    pub struct FindCoordinatorResponse {
        throttle_time_ms: i32 [1..],
        error_code: ErrorCode [..=3],
        error_message: Option<String> [1..=3],
        node_id: i32 [..=3],
        host: String [..=3],
        port: i32 [..=3],
        coordinators: Vec<Coordinator> [4..],
    }

    pub struct Coordinator {
        key: String,
        node_id: i32,
        host: String,
        port: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
    }
}

message! {
    pub struct JoinGroupRequest {
        group_id: String,
        session_timeout_ms: i32,
        rebalance_timeout_ms: i32 [1..] = -1,
        member_id: String,
        group_instance_id: Option<String> [5..],
        protocol_type: String,
        protocols: Vec<JoinGroupRequestProtocol>,
        reason: Option<String> [8..],
    }

    pub struct JoinGroupRequestProtocol { name: String, metadata: Bytes }

    pub struct JoinGroupResponse {
        throttle_time_ms: i32 [2..],
        error_code: ErrorCode,
        generation_id: i32 = -1,
        protocol_type: Option<String> [7..],
        protocol_name: Option<String> [null 7..],
        leader: String,
        skip_assignment: bool [9..],
        member_id: String,
        members: Vec<JoinGroupResponseMember>,
    }

    pub struct JoinGroupResponseMember {
        member_id: String,
        group_instance_id: Option<String> [5..],
        metadata: Bytes,
    }
}

message! {
    pub struct SyncGroupRequest {
        group_id: String,
        generation_id: i32,
        member_id: String,
        group_instance_id: Option<String> [3..],
        protocol_type: Option<String> [5..],
        protocol_name: Option<String> [5..],
        assignments: Vec<SyncGroupRequestAssignment>,
    }

    pub struct SyncGroupRequestAssignment { member_id: String, assignment: Bytes }

    pub struct SyncGroupResponse {
        throttle_time_ms: i32 [1..],
        error_code: ErrorCode,
        protocol_type: Option<String> [5..],
        protocol_name: Option<String> [5..],
        assignment: Bytes,
    }
}

message! {
    pub struct HeartbeatRequest {
        group_id: String,
        generation_id: i32,
        member_id: String,
        group_instance_id: Option<String> [3..],
    }

    pub struct HeartbeatResponse { throttle_time_ms: i32 [1..], error_code: ErrorCode }
}

message! {
    pub struct LeaveGroupRequest {
        group_id: String,
        member_id: String [..=2],
        members: Vec<MemberIdentity> [3..],
    }

    pub struct MemberIdentity {
        member_id: String,
        group_instance_id: Option<String>,
        reason: Option<String> [5..],
    }

    pub struct LeaveGroupResponse {
        throttle_time_ms: i32 [1..],
        error_code: ErrorCode,
        members: Vec<MemberResponse> [3..],
    }

    pub struct MemberResponse {
        member_id: String,
        group_instance_id: Option<String>,
        error_code: ErrorCode,
    }
}

message! {
    pub struct ListGroupsRequest {
        states_filter: Vec<String> [4..],
        types_filter: Vec<String> [5..],
    }

    pub struct ListGroupsResponse {
        throttle_time_ms: i32 [1..],
        error_code: ErrorCode,
        groups: Vec<ListedGroup>,
    }

    pub struct ListedGroup {
        group_id: String,
        protocol_type: String,
        group_state: String [4..],
        group_type: String [5..],
    }
}

message! {
    pub struct DescribeGroupsRequest {
        groups: Vec<String>,
        include_authorized_operations: bool [3..],
    }

    pub struct DescribeGroupsResponse { throttle_time_ms: i32 [1..], groups: Vec<DescribedGroup> }

    pub struct DescribedGroup {
        error_code: ErrorCode,
        error_message: Option<String> [6..],
        group_id: String,
        group_state: String,
        protocol_type: String,
        protocol_data: String,
        members: Vec<DescribedGroupMember>,
        authorized_operations: i32 [3..] = i32::MIN,
    }

    pub struct DescribedGroupMember {
        member_id: String,
        group_instance_id: Option<String> [4..],
        client_id: String,
        client_host: String,
        member_metadata: Bytes,
        member_assignment: Bytes,
    }
}

message! {
    pub struct DeleteGroupsRequest { groups_names: Vec<String> }

    pub struct DeleteGroupsResponse { throttle_time_ms: i32, results: Vec<DeletableGroupResult> }

    pub struct DeletableGroupResult { group_id: String, error_code: ErrorCode }
}
