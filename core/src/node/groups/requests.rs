//! Requests about groups: each is for the coordinator of its group, or for those of several.

use super::super::Node;
use super::super::connections::Caller;
use super::{Asker, Coordinators, Known};
use crate::error::ErrorCode;
use crate::group::{self, GROUPS_FROM, Usage, partition_of, refusal};
use crate::metadata::{CONSUMER_OFFSETS, Image};
use crate::types::{NodeId, PartitionNumber, Time};
use crate::wire::group::*;
use crate::wire::offsets::{OffsetFetchRequest, OffsetFetchResponse};
use crate::wire::{AnyRequest, AnyResponse};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// A DeleteGroups request whose groups several coordinators have.
#[derive(Debug)]
pub(super) struct Deletion {
    pub caller: Caller,
    /// Coordinators that have not answered.
    left: usize,
    results: Vec<DeletableGroupResult>,
}

impl Coordinators {
    /// What all groups take but those of that partition.
    fn usage_beside(&self, number: PartitionNumber) -> Usage {
        let others = self.by_number.iter().filter(|(other, _)| **other != number);
        others.map(|(_, one)| one.groups().usage()).fold(Usage::default(), |all, one| all + one)
    }
}

/// The partition of `__consumer_offsets` whose leader coordinates a group.
fn partition_for(image: &Image, group: &str) -> Result<PartitionNumber, ErrorCode> {
    let topic = image.topic(CONSUMER_OFFSETS).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
    let at = partition_of(group, topic.partitions.len());
    topic.partitions.get(at).copied().ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)
}

/// The group that a request is about, where it is about one.
fn group_of(request: &AnyRequest) -> Option<&str> {
    Some(match request {
        AnyRequest::JoinGroup(request) => &request.group_id,
        AnyRequest::SyncGroup(request) => &request.group_id,
        AnyRequest::Heartbeat(request) => &request.group_id,
        AnyRequest::LeaveGroup(request) => &request.group_id,
        AnyRequest::OffsetCommit(request) => &request.group_id,
        AnyRequest::OffsetFetch(request) => &request.group_id,
        AnyRequest::OffsetDelete(request) => &request.group_id,
        _ => return None,
    })
}

impl Node {
    /// The gateway that coordinates a group.
    pub(in crate::node) fn coordinator_of(&self, group: &str) -> Result<NodeId, ErrorCode> {
        let number = partition_for(&self.image, group)?;
        self.known_leader(number).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)
    }

    pub(in crate::node) fn on_group_request(
        &mut self,
        now: Time,
        caller: Caller,
        request: AnyRequest,
    ) {
        match request {
            AnyRequest::OffsetFetch(request) if caller.version >= GROUPS_FROM => {
                self.fetch_offsets(caller, request);
            }
            AnyRequest::DescribeGroups(request) => self.describe_groups(caller, request),
            AnyRequest::ListGroups(request) => self.list_groups(caller, &request),
            AnyRequest::DeleteGroups(request) => self.delete_groups(caller, request),
            one => {
                let number = partition_for(&self.image, group_of(&one).unwrap_or_default());
                let serving = number.and_then(|number| {
                    self.coordinators.serving(number)?;
                    Ok(number)
                });
                match serving {
                    Ok(number) => self.ask_coordinator(now, number, caller, one),
                    Err(code) => self.refuse_group_request(caller, one, code),
                }
            }
        }
    }

    fn refuse_group_request(&mut self, caller: Caller, request: AnyRequest, code: ErrorCode) {
        let refusal = refusal(caller.version, request, code);
        self.answer_group(caller, &refusal.expect("only requests about groups come here"));
    }

    /// A request about one group, to the coordinator of its partition, which serves.
    fn ask_coordinator(
        &mut self,
        now: Time,
        number: PartitionNumber,
        caller: Caller,
        request: AnyRequest,
    ) {
        let who = self.group_caller(caller);
        let waits = matches!(
            request,
            AnyRequest::JoinGroup(_)
                | AnyRequest::SyncGroup(_)
                | AnyRequest::OffsetCommit(_)
                | AnyRequest::OffsetDelete(_)
        );
        let elsewhere = match request {
            AnyRequest::JoinGroup(_) | AnyRequest::OffsetCommit(_) => {
                self.coordinators.usage_beside(number)
            }
            _ => Usage::default(),
        };
        let ticket = waits.then(|| self.coordinators.ticket(Asker::Caller(caller)));
        let ticket = ticket.unwrap_or(group::Ticket(u64::MAX));
        let known = Known(&self.image);
        let Ok(groups) = self.coordinators.serving(number) else { return };
        let response = match request {
            AnyRequest::JoinGroup(request) => {
                groups.set_elsewhere(elsewhere);
                return groups.join(now, &who, request, ticket);
            }
            AnyRequest::SyncGroup(request) => return groups.sync(now, request, ticket),
            AnyRequest::OffsetCommit(request) => {
                groups.set_elsewhere(elsewhere);
                return groups.commit_offsets(now, caller.version, request, &known, ticket);
            }
            AnyRequest::OffsetDelete(request) => {
                return groups.delete_offsets(&request, &known, ticket);
            }
            AnyRequest::Heartbeat(request) => {
                AnyResponse::Heartbeat(groups.heartbeat(now, &request))
            }
            AnyRequest::LeaveGroup(request) => {
                AnyResponse::LeaveGroup(groups.leave(now, caller.version, request))
            }
            AnyRequest::OffsetFetch(request) => {
                AnyResponse::OffsetFetch(groups.fetch_offsets(caller.version, &request, &known))
            }
            other => unreachable!("{other:?} is no request about one group"),
        };
        self.answer_group(caller, &response);
    }

    fn group_caller(&self, caller: Caller) -> group::Caller {
        let connection = self.connections.get(caller.conn);
        group::Caller {
            api_version: caller.version,
            client_id: connection.map_or_else(String::new, |one| one.client_id.clone()),
            // Kafka writes an address as Java does: a name, which is empty, a slash, the numbers.
            client_host: connection.map_or_else(String::new, |one| format!("/{}", one.host)),
        }
    }

    fn fetch_offsets(&mut self, caller: Caller, request: OffsetFetchRequest) {
        let mut groups = Vec::new();
        for group in request.groups {
            let number = partition_for(&self.image, &group.group_id);
            let serving = number.and_then(|number| self.coordinators.serving(number));
            let one = OffsetFetchRequest { groups: Vec::from([group]), ..Default::default() };
            let answered = match serving {
                Ok(serving) => serving.fetch_offsets(caller.version, &one, &Known(&self.image)),
                Err(code) => group::unfetched(caller.version, one, code),
            };
            groups.extend(answered.groups);
        }
        self.reply(caller, &OffsetFetchResponse { groups, ..OffsetFetchResponse::default() });
    }

    fn describe_groups(&mut self, caller: Caller, request: DescribeGroupsRequest) {
        let mut groups = Vec::new();
        for id in request.groups {
            let number = partition_for(&self.image, &id);
            let serving = number.and_then(|number| self.coordinators.serving(number));
            let one = DescribeGroupsRequest { groups: Vec::from([id.clone()]), ..request };
            match serving {
                Ok(serving) => groups.extend(serving.describe(caller.version, &one).groups),
                Err(error_code) => {
                    groups.push(DescribedGroup { error_code, group_id: id, ..Default::default() });
                }
            }
        }
        self.reply(caller, &DescribeGroupsResponse { groups, ..Default::default() });
    }

    /// The groups of every coordinator here. Tools ask all gateways; what is not loaded yet makes
    /// them ask again.
    fn list_groups(&mut self, caller: Caller, request: &ListGroupsRequest) {
        let mut response = ListGroupsResponse::default();
        for coordinator in self.coordinators.by_number.values_mut() {
            match coordinator.serving() {
                Ok(groups) => response.groups.extend(groups.list(request).groups),
                Err(code) => response.error_code = code,
            }
        }
        self.counts.error(caller.api, response.error_code);
        self.reply(caller, &response);
    }

    fn delete_groups(&mut self, caller: Caller, request: DeleteGroupsRequest) {
        let mut by_number: BTreeMap<PartitionNumber, Vec<String>> = BTreeMap::new();
        let mut results = Vec::new();
        for group_id in request.groups_names {
            let number = partition_for(&self.image, &group_id);
            let serving =
                number.and_then(|number| self.coordinators.serving(number).map(|_| number));
            match serving {
                Ok(number) => by_number.entry(number).or_default().push(group_id),
                Err(error_code) => results.push(DeletableGroupResult { group_id, error_code }),
            }
        }
        let left = by_number.len();
        if left == 0 {
            let response = DeleteGroupsResponse { results, ..Default::default() };
            return self.answer_group(caller, &AnyResponse::DeleteGroups(response));
        }
        let id = self.coordinators.next_ticket;
        self.coordinators.deletions.insert(id, Deletion { caller, left, results });
        for (number, groups_names) in by_number {
            let ticket = self.coordinators.ticket(Asker::Deletion(id));
            let Ok(groups) = self.coordinators.serving(number) else { continue };
            groups.delete(&DeleteGroupsRequest { groups_names }, ticket);
        }
    }

    /// A coordinator has answered its part of a deletion.
    pub(super) fn deleted(&mut self, id: u64, response: AnyResponse) {
        let Some(deletion) = self.coordinators.deletions.get_mut(&id) else { return };
        if let AnyResponse::DeleteGroups(response) = response {
            deletion.results.extend(response.results);
        }
        deletion.left -= 1;
        if deletion.left == 0
            && let Some(Deletion { caller, results, .. }) = self.coordinators.deletions.remove(&id)
        {
            let response = DeleteGroupsResponse { results, ..Default::default() };
            self.answer_group(caller, &AnyResponse::DeleteGroups(response));
        }
    }

    pub(super) fn answer_group(&mut self, caller: Caller, response: &AnyResponse) {
        let frame = match response {
            AnyResponse::JoinGroup(response) => {
                self.counts.error(caller.api, response.error_code);
                caller.frame(response)
            }
            AnyResponse::SyncGroup(response) => {
                self.counts.error(caller.api, response.error_code);
                caller.frame(response)
            }
            AnyResponse::Heartbeat(response) => {
                self.counts.error(caller.api, response.error_code);
                caller.frame(response)
            }
            AnyResponse::LeaveGroup(response) => {
                self.counts.error(caller.api, response.error_code);
                caller.frame(response)
            }
            AnyResponse::OffsetCommit(response) => {
                let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
                partitions.for_each(|one| self.counts.error(caller.api, one.error_code));
                caller.frame(response)
            }
            AnyResponse::OffsetFetch(response) => {
                self.counts.error(caller.api, response.error_code);
                caller.frame(response)
            }
            AnyResponse::OffsetDelete(response) => caller.frame(response),
            AnyResponse::DeleteGroups(response) => caller.frame(response),
            other => unreachable!("{other:?} is no answer about groups"),
        };
        self.send(caller, frame);
    }
}
