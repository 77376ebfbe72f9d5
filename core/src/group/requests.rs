//! The requests of clients: whether they may be asked of a group at all, and which group takes
//! them.

use super::offsets::{GROUP_ID_NOT_FOUND_FROM, decide_commit};
use super::outbox::Then;
use super::state::{Group, Member, State, join_error, sync_error};
use super::{Caller, Groups, Record, Ticket, Topics, join};
use crate::error::ErrorCode;
use crate::limits::{GROUP_MEMBER_BYTES_MAX, GROUP_OFFSETS_MAX, GROUPS_BYTES_MAX, GROUPS_MAX};
use crate::types::Time;
use crate::wire::AnyResponse;
use crate::wire::group::*;
use crate::wire::offsets::*;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// LeaveGroup from this version on names several members, each with an error of its own.
const LEAVE_SEVERAL_FROM: i16 = 3;

impl Groups {
    pub fn join(
        &mut self,
        now: Time,
        caller: &Caller,
        mut request: JoinGroupRequest,
        ticket: Ticket,
    ) {
        // Version 0 has one timeout for both; less than nothing means nothing.
        if request.rebalance_timeout_ms < 0 {
            request.rebalance_timeout_ms = request.session_timeout_ms;
        }
        if let Err(code) = self.check_join(caller, &request) {
            let response = join_error(&request.member_id, code);
            return self.outbox.answer(ticket, AnyResponse::JoinGroup(response));
        }
        let new_id = self.new_member_id(caller, &request);
        let group_id = request.group_id.clone();
        self.group_or_new(&group_id);
        let join = join::Join { caller, request, ticket, new_id };
        self.with_group(now, &group_id, |group, cx| {
            group.join(cx, join);
            group.measure();
        });
        self.forget_if_bare(&group_id);
    }

    fn check_join(&self, caller: &Caller, request: &JoinGroupRequest) -> Result<(), ErrorCode> {
        if request.group_id.is_empty() {
            return Err(ErrorCode::INVALID_GROUP_ID);
        }
        if !self.settings.allows_session_timeout(request.session_timeout_ms) {
            return Err(ErrorCode::INVALID_SESSION_TIMEOUT);
        }
        let protocols = request.protocols.iter().map(|p| p.name.len() + p.metadata.len() + 64);
        let instance_id = request.group_instance_id.as_ref().map_or(0, String::len);
        let bytes = protocols.sum::<usize>() + instance_id + caller.client_id.len();
        if bytes > GROUP_MEMBER_BYTES_MAX {
            return Err(ErrorCode::INVALID_REQUEST);
        }
        if !self.groups.contains_key(&request.group_id) {
            if !request.member_id.is_empty() {
                return Err(ErrorCode::UNKNOWN_MEMBER_ID);
            }
            if self.groups.len() + self.elsewhere.groups >= GROUPS_MAX {
                return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
            }
        }
        let held = self.usage().members_bytes + self.elsewhere.members_bytes;
        let known = self.groups.get(&request.group_id).map(|group| &group.members);
        let replaced = known.and_then(|members| members.get(&request.member_id));
        if held + bytes > GROUPS_BYTES_MAX + replaced.map_or(0, Member::bytes) {
            return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
        }
        Ok(())
    }

    /// As Kafka makes them: a static member's after its instance id, another's after its client id.
    fn new_member_id(&mut self, caller: &Caller, request: &JoinGroupRequest) -> String {
        let name = request.group_instance_id.as_ref().unwrap_or(&caller.client_id);
        let id = u128::from_be_bytes(self.rng.uuid());
        let part = |shift: u32, digits: u32| id >> shift & ((1 << (digits * 4)) - 1);
        format!(
            "{name}-{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            part(96, 8),
            part(80, 4),
            part(64, 4),
            part(48, 4),
            part(0, 12)
        )
    }

    pub fn sync(&mut self, now: Time, request: SyncGroupRequest, ticket: Ticket) {
        let group_id = request.group_id.clone();
        if self.with_group(now, &group_id, |group, cx| group.sync(cx, request, ticket)).is_none() {
            let response = sync_error(unknown_group(&group_id));
            self.outbox.answer(ticket, AnyResponse::SyncGroup(response));
        }
    }

    pub fn heartbeat(&mut self, now: Time, request: &HeartbeatRequest) -> HeartbeatResponse {
        let group_id = &request.group_id;
        let code = self.with_group(now, group_id, |group, cx| group.heartbeat(cx, request));
        let error_code = code.unwrap_or_else(|| unknown_group(group_id));
        HeartbeatResponse { error_code, ..HeartbeatResponse::default() }
    }

    /// `api_version` 0 to 2 name one member, and its error is the response's.
    pub fn leave(
        &mut self,
        now: Time,
        api_version: i16,
        mut request: LeaveGroupRequest,
    ) -> LeaveGroupResponse {
        if request.group_id.is_empty() {
            let error_code = ErrorCode::INVALID_GROUP_ID;
            return LeaveGroupResponse { error_code, ..LeaveGroupResponse::default() };
        }
        if api_version < LEAVE_SEVERAL_FROM {
            let member_id = core::mem::take(&mut request.member_id);
            request.members =
                Vec::from([MemberIdentity { member_id, ..MemberIdentity::default() }]);
        }
        let members = request.members;
        let left = self.with_group(now, &request.group_id, |group, cx| {
            let codes = group.leave(cx, &members);
            group.measure();
            codes
        });
        self.forget_if_bare(&request.group_id);
        let codes =
            left.unwrap_or_else(|| members.iter().map(|_| ErrorCode::UNKNOWN_MEMBER_ID).collect());
        if api_version < LEAVE_SEVERAL_FROM {
            let error_code = codes.first().copied().unwrap_or_default();
            return LeaveGroupResponse { error_code, ..LeaveGroupResponse::default() };
        }
        let answer = |(identity, error_code): (MemberIdentity, ErrorCode)| MemberResponse {
            member_id: identity.member_id,
            group_instance_id: identity.group_instance_id,
            error_code,
        };
        let members = members.into_iter().zip(codes).map(answer).collect();
        LeaveGroupResponse { members, ..LeaveGroupResponse::default() }
    }

    pub fn commit_offsets(
        &mut self,
        now: Time,
        api_version: i16,
        request: OffsetCommitRequest,
        topics: &impl Topics,
        ticket: Ticket,
    ) {
        let checked = match self.groups.get(&request.group_id) {
            Some(group) => group.check_commit(&request),
            None => self.check_commit_of_new_group(&request, api_version),
        };
        let kept = self.offsets_count + self.elsewhere.offsets;
        let room = GROUP_OFFSETS_MAX.saturating_sub(kept);
        let group = self.groups.get(&request.group_id);
        let wall_ms = self.wall_ms(now);
        let (records, response) =
            decide_commit(group, &request, api_version, topics, wall_ms, room);
        let mut response = AnyResponse::OffsetCommit(response);
        if let Err(code) = checked {
            super::outbox::fail(&mut response, code);
            return self.outbox.answer(ticket, response);
        }
        self.with_group(now, &request.group_id, |group, cx| {
            group.committed_by(cx, &request.member_id);
        });
        self.append_then_answer(records, ticket, response);
    }

    /// A consumer that only keeps its offsets here makes a group by committing.
    fn check_commit_of_new_group(
        &self,
        request: &OffsetCommitRequest,
        api_version: i16,
    ) -> Result<(), ErrorCode> {
        if request.generation_id_or_member_epoch >= 0 {
            let names_it = api_version >= GROUP_ID_NOT_FOUND_FROM;
            return Err(if names_it {
                ErrorCode::GROUP_ID_NOT_FOUND
            } else {
                ErrorCode::ILLEGAL_GENERATION
            });
        }
        if self.groups.len() + self.elsewhere.groups >= GROUPS_MAX {
            return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
        }
        Ok(())
    }

    pub fn delete_offsets(
        &mut self,
        request: &OffsetDeleteRequest,
        topics: &impl Topics,
        ticket: Ticket,
    ) {
        let group = self.groups.get(&request.group_id);
        let error_code = match group {
            None => ErrorCode::GROUP_ID_NOT_FOUND,
            Some(group) if group.state != State::Empty && !group.uses_consumer_protocol() => {
                ErrorCode::NON_EMPTY_GROUP
            }
            Some(_) => ErrorCode::NONE,
        };
        let mut records = Vec::new();
        let mut response = OffsetDeleteResponse { error_code, ..OffsetDeleteResponse::default() };
        if let Some(group) = group.filter(|_| !error_code.is_error()) {
            response.topics = request
                .topics
                .iter()
                .map(|topic| decide_delete(group, topic, topics, &mut records))
                .collect();
        }
        self.append_then_answer(records, ticket, AnyResponse::OffsetDelete(response));
    }

    pub fn delete(&mut self, request: &DeleteGroupsRequest, ticket: Ticket) {
        let mut records = Vec::new();
        let mut results = Vec::new();
        for group_id in &request.groups_names {
            let error_code = match self.groups.get(group_id) {
                None => ErrorCode::GROUP_ID_NOT_FOUND,
                Some(group) if group.state != State::Empty => ErrorCode::NON_EMPTY_GROUP,
                Some(group) => {
                    records.extend(group.tombstones());
                    ErrorCode::NONE
                }
            };
            results.push(DeletableGroupResult { group_id: group_id.clone(), error_code });
        }
        let response = DeleteGroupsResponse { throttle_time_ms: 0, results };
        self.append_then_answer(records, ticket, AnyResponse::DeleteGroups(response));
    }

    fn append_then_answer(&mut self, records: Vec<Record>, ticket: Ticket, response: AnyResponse) {
        if records.is_empty() {
            self.outbox.answer(ticket, response);
        } else {
            self.outbox.append(records, Then::Answer { ticket, response });
        }
    }
}

fn unknown_group(id: &str) -> ErrorCode {
    if id.is_empty() { ErrorCode::INVALID_GROUP_ID } else { ErrorCode::UNKNOWN_MEMBER_ID }
}

/// Offsets of topics that the members read are still in use.
fn decide_delete(
    group: &Group,
    topic: &OffsetDeleteRequestTopic,
    topics: &impl Topics,
    records: &mut Vec<Record>,
) -> OffsetDeleteResponseTopic {
    let known = topics.by_name(&topic.name);
    let is_subscribed = group.is_subscribed(&topic.name);
    let mut delete = |partition: &OffsetDeleteRequestPartition| {
        let partition_index = partition.partition_index;
        let exists = known.is_some_and(|t| (0..t.partitions).contains(&partition_index));
        let error_code = match (exists, is_subscribed) {
            (false, _) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            (true, true) => ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC,
            (true, false) => ErrorCode::NONE,
        };
        if !error_code.is_error() && group.committed(&topic.name, partition_index).is_some() {
            records.push(group.offset_tombstone(&topic.name, partition_index));
        }
        OffsetDeleteResponsePartition { partition_index, error_code }
    };
    let partitions = topic.partitions.iter().map(&mut delete).collect();
    OffsetDeleteResponseTopic { name: topic.name.clone(), partitions }
}
