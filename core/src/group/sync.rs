//! After joining: assignments, heartbeats, leaving, and the timers.

use super::outbox::{Context, Then};
use super::state::{Group, State, sync_error};
use super::{Ticket, records};
use crate::error::ErrorCode;
use crate::limits::GROUP_RECORD_BYTES_MAX;
use crate::types::Time;
use crate::wire::AnyResponse;
use crate::wire::group::{HeartbeatRequest, MemberIdentity, SyncGroupRequest, SyncGroupResponse};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

impl Group {
    pub fn sync(&mut self, cx: &mut Context<'_>, request: SyncGroupRequest, ticket: Ticket) {
        let checked = self.check_sync(&request);
        if let Err(code) = checked {
            return cx.outbox.answer(ticket, AnyResponse::SyncGroup(sync_error(code)));
        }
        let is_leader = self.is_leader(&request.member_id);
        let member = self.members.get_mut(&request.member_id).expect("check_sync found it");
        member.synced = true;
        if self.state == State::Stable {
            let response = SyncGroupResponse {
                protocol_type: self.protocol_type.clone(),
                protocol_name: self.protocol_name.clone(),
                assignment: member.assignment.clone(),
                ..SyncGroupResponse::default()
            };
            cx.outbox.answer(ticket, AnyResponse::SyncGroup(response));
        } else {
            // As with joins, an old question of the same member needs an answer, too.
            if let Some(old) = member.awaiting_sync.replace(ticket) {
                let response = sync_error(ErrorCode::REBALANCE_IN_PROGRESS);
                cx.outbox.answer(old, AnyResponse::SyncGroup(response));
            }
            if is_leader && !self.assigning {
                self.append_assignment(cx, request);
            }
        }
        if self.members.values().all(|member| member.synced) {
            self.sync_deadline = None;
        }
    }

    fn check_sync(&self, request: &SyncGroupRequest) -> Result<(), ErrorCode> {
        if self.state == State::Empty {
            return Err(ErrorCode::UNKNOWN_MEMBER_ID);
        }
        self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        let differs = |asked: &Option<String>, ours: &Option<String>| {
            asked.is_some() && ours.is_some() && asked != ours
        };
        if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol_name, &self.protocol_name)
        {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        if self.state == State::PreparingRebalance {
            return Err(ErrorCode::REBALANCE_IN_PROGRESS);
        }
        Ok(())
    }

    /// The leader's assignment goes to flash before any member is told: two members must not own a
    /// partition because a power cut made the group forget one of two assignments.
    fn append_assignment(&mut self, cx: &mut Context<'_>, request: SyncGroupRequest) {
        let mut assignments = BTreeMap::new();
        for assigned in request.assignments {
            if self.members.contains_key(&assigned.member_id) {
                let assignment = Bytes::copy_from_slice(&assigned.assignment);
                assignments.insert(assigned.member_id, assignment);
            }
        }
        let record = records::group(self, &assignments);
        if record.value.as_ref().is_some_and(|value| value.len() > GROUP_RECORD_BYTES_MAX) {
            return self.assignment_refused(cx, ErrorCode::UNKNOWN_SERVER_ERROR);
        }
        self.assigning = true;
        let (group, generation) = (self.id.clone(), self.generation);
        cx.outbox.append(Vec::from([record]), Then::Assign { group, generation, assignments });
    }

    /// The assignment is on flash, unless a rebalance has begun meanwhile.
    pub fn assigned(&mut self, cx: &mut Context<'_>, mut assignments: BTreeMap<String, Bytes>) {
        self.assigning = false;
        for (id, member) in &mut self.members {
            member.assignment = assignments.remove(id).unwrap_or_default();
        }
        self.set_state(cx, State::Stable);
        self.answer_syncs(cx, ErrorCode::NONE);
    }

    /// The assignment could not be written: everybody tries again.
    pub fn assignment_refused(&mut self, cx: &mut Context<'_>, code: ErrorCode) {
        self.assigning = false;
        self.answer_syncs(cx, code);
        self.rebalance_or_complete(cx);
    }

    pub fn heartbeat(&mut self, cx: &mut Context<'_>, request: &HeartbeatRequest) -> ErrorCode {
        let known = self.check_member(&request.member_id, request.group_instance_id.as_deref());
        if let Err(code) = known {
            return code;
        }
        if request.generation_id != self.generation {
            return ErrorCode::ILLEGAL_GENERATION;
        }
        if let Some(member) = self.members.get_mut(&request.member_id) {
            member.heard_of(cx);
        }
        match self.state {
            State::Empty => ErrorCode::UNKNOWN_MEMBER_ID,
            State::PreparingRebalance => ErrorCode::REBALANCE_IN_PROGRESS,
            State::CompletingRebalance | State::Stable => ErrorCode::NONE,
        }
    }

    /// Members leave together, in one rebalance. Tools name static members by their instance id
    /// alone.
    pub fn leave(&mut self, cx: &mut Context<'_>, members: &[MemberIdentity]) -> Vec<ErrorCode> {
        let codes: Vec<ErrorCode> =
            members.iter().map(|identity| self.leave_one(cx, identity)).collect();
        if codes.contains(&ErrorCode::NONE) && self.state != State::Empty {
            self.rebalance_or_complete(cx);
        }
        codes
    }

    fn leave_one(&mut self, cx: &mut Context<'_>, identity: &MemberIdentity) -> ErrorCode {
        let instance_id = identity.group_instance_id.as_deref();
        let id = match instance_id {
            Some(instance_id) if identity.member_id.is_empty() => {
                self.static_members.get(instance_id).cloned().unwrap_or_default()
            }
            _ => identity.member_id.clone(),
        };
        if !self.pending.contains_key(&id)
            && let Err(code) = self.check_member(&id, instance_id)
        {
            return code;
        }
        self.remove_member(cx, &id);
        ErrorCode::NONE
    }

    /// Fires what is due, and says when to look again.
    pub fn fire_timers(&mut self, cx: &mut Context<'_>) -> Option<Time> {
        let now = cx.now;
        let silent = self.forget_silent(now);
        for id in &silent {
            self.remove_member(cx, id);
        }
        if !silent.is_empty() && self.state != State::Empty {
            self.rebalance_or_complete(cx);
        }
        let pending_before = self.pending.len();
        self.pending.retain(|_, until| *until > now);
        if self.pending.len() < pending_before {
            self.complete_if_joined(cx);
        }
        if self.join_deadline.is_some_and(|at| at <= now) {
            self.join_time_over(cx);
        }
        if self.sync_deadline.is_some_and(|at| at <= now) {
            self.sync_time_over(cx);
        }
        self.measure();
        let members = self.members.values().filter_map(|member| member.expires);
        let pending = self.pending.values().copied();
        members.chain(pending).chain(self.join_deadline).chain(self.sync_deadline).min()
    }

    /// Members that were not heard of in time. Who waits for our answer is not silent; but a new
    /// member is not known to be there at all.
    fn forget_silent(&mut self, now: Time) -> Vec<String> {
        let mut silent = Vec::new();
        for (id, member) in &mut self.members {
            if member.expires.is_none_or(|expires| expires > now) {
                continue;
            }
            let waits = member.awaiting_join.is_some() || member.awaiting_sync.is_some();
            if waits && !member.is_new {
                member.expires = None;
            } else {
                silent.push(id.clone());
            }
        }
        silent
    }

    /// Members that joined but never came for their assignment keep the others from nothing, but
    /// they own partitions that nobody reads.
    fn sync_time_over(&mut self, cx: &mut Context<'_>) {
        self.sync_deadline = None;
        let lost = self.members.iter().filter(|(_, member)| !member.synced);
        for id in lost.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.remove_member(cx, &id);
        }
        self.prepare_rebalance(cx);
    }
}
