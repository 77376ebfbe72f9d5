//! What a request is answered about a group that is not coordinated here, or not yet.

use super::outbox;
use super::state::{join_error, sync_error};
use super::tools::GROUPS_FROM;
use crate::error::ErrorCode;
use crate::wire::group::*;
use crate::wire::offsets::*;
use crate::wire::{AnyRequest, AnyResponse};
use alloc::vec::Vec;

/// The answer in the shape of the request's `api_version`, with `code` wherever that has a place
/// for it; `None` to what is no request about groups.
pub fn refusal(api_version: i16, request: AnyRequest, code: ErrorCode) -> Option<AnyResponse> {
    Some(match request {
        AnyRequest::JoinGroup(request) => {
            AnyResponse::JoinGroup(join_error(&request.member_id, code))
        }
        AnyRequest::SyncGroup(_) => AnyResponse::SyncGroup(sync_error(code)),
        AnyRequest::Heartbeat(_) => {
            AnyResponse::Heartbeat(HeartbeatResponse { error_code: code, ..Default::default() })
        }
        AnyRequest::LeaveGroup(_) => {
            AnyResponse::LeaveGroup(LeaveGroupResponse { error_code: code, ..Default::default() })
        }
        AnyRequest::OffsetCommit(request) => {
            let mut response = AnyResponse::OffsetCommit(uncommitted(request));
            outbox::fail(&mut response, code);
            response
        }
        AnyRequest::OffsetFetch(request) => {
            AnyResponse::OffsetFetch(unfetched(api_version, request, code))
        }
        AnyRequest::OffsetDelete(_) => AnyResponse::OffsetDelete(OffsetDeleteResponse {
            error_code: code,
            ..OffsetDeleteResponse::default()
        }),
        AnyRequest::DescribeGroups(request) => {
            let describe = |group_id| DescribedGroup {
                error_code: code,
                group_id,
                ..DescribedGroup::default()
            };
            let groups = request.groups.into_iter().map(describe).collect();
            AnyResponse::DescribeGroups(DescribeGroupsResponse { groups, ..Default::default() })
        }
        AnyRequest::DeleteGroups(request) => {
            let delete = |group_id| DeletableGroupResult { group_id, error_code: code };
            let results = request.groups_names.into_iter().map(delete).collect();
            AnyResponse::DeleteGroups(DeleteGroupsResponse { results, ..Default::default() })
        }
        AnyRequest::ListGroups(_) => {
            AnyResponse::ListGroups(ListGroupsResponse { error_code: code, ..Default::default() })
        }
        _ => return None,
    })
}

fn uncommitted(request: OffsetCommitRequest) -> OffsetCommitResponse {
    let partition = |partition: &OffsetCommitRequestPartition| OffsetCommitResponsePartition {
        partition_index: partition.partition_index,
        ..OffsetCommitResponsePartition::default()
    };
    let topics = request.topics.into_iter().map(|topic| OffsetCommitResponseTopic {
        partitions: topic.partitions.iter().map(partition).collect(),
        name: topic.name,
        topic_id: topic.topic_id,
    });
    OffsetCommitResponse { topics: topics.collect(), ..OffsetCommitResponse::default() }
}

/// What an OffsetFetch is answered so. Version 1 has a place for the error with each partition
/// only, up to 7 there is one for all, from 8 one for each group.
pub fn unfetched(
    api_version: i16,
    request: OffsetFetchRequest,
    code: ErrorCode,
) -> OffsetFetchResponse {
    if api_version >= GROUPS_FROM {
        let refuse = |group: OffsetFetchRequestGroup| OffsetFetchResponseGroup {
            group_id: group.group_id,
            topics: Vec::new(),
            error_code: code,
        };
        let groups = request.groups.into_iter().map(refuse).collect();
        return OffsetFetchResponse { groups, ..OffsetFetchResponse::default() };
    }
    let refuse = |topic: OffsetFetchRequestTopic| OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partition_indexes.into_iter().map(|index| unknown(index, code)).collect(),
    };
    let topics = request.topics.unwrap_or_default().into_iter().map(refuse).collect();
    OffsetFetchResponse { error_code: code, topics, ..OffsetFetchResponse::default() }
}

fn unknown(partition_index: i32, error_code: ErrorCode) -> OffsetFetchResponsePartition {
    OffsetFetchResponsePartition {
        partition_index,
        committed_offset: -1,
        committed_leader_epoch: -1,
        metadata: Some(Default::default()),
        error_code,
    }
}
