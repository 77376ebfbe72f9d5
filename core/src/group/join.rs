//! Joining: who is in the next generation, and when it begins.

use super::outbox::{Context, Then};
use super::state::{Group, InitialDelay, Member, State, join_error};
use super::{Caller, Ticket, records};
use crate::error::ErrorCode;
use crate::limits::GROUP_MEMBERS_MAX;
use crate::wire::AnyResponse;
use crate::wire::group::{JoinGroupRequest, JoinGroupResponse};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// The first join of a member is not answered while the group rebalances, and it sends no
/// heartbeats. One whose client is gone leaves the group after this (Kafka's
/// `group.new.member.join.timeout.ms`).
const NEW_MEMBER_JOIN_TIMEOUT_MS: i64 = 300_000;

/// How long a rebalance waits for static members at least before it looks again.
const STATIC_WAIT_MS_MIN: i64 = 1_000;

/// JoinGroup from this version on gets a member id first and joins with it then (KIP-394).
const MEMBER_ID_REQUIRED_FROM: i16 = 4;

/// The leader of a stable group that comes back may be told to keep the assignment (KIP-814).
const SKIP_ASSIGNMENT_FROM: i16 = 9;

/// A join that stands so far: who asks, and what.
pub(super) struct Join<'a> {
    pub caller: &'a Caller,
    pub request: JoinGroupRequest,
    pub ticket: Ticket,
    /// For who has no member id yet.
    pub new_id: String,
}

impl Join<'_> {
    fn protocols(&self) -> Vec<(String, Bytes)> {
        let protocols = self.request.protocols.iter();
        // Copied, so that a member does not keep the whole request in memory.
        protocols.map(|p| (p.name.clone(), Bytes::copy_from_slice(&p.metadata))).collect()
    }

    fn has_protocols_of(&self, member: &Member) -> bool {
        self.request.protocols.len() == member.protocols.len()
            && self
                .request
                .protocols
                .iter()
                .zip(&member.protocols)
                .all(|(asked, (name, metadata))| asked.name == *name && asked.metadata == *metadata)
    }

    fn answer(&self, cx: &mut Context<'_>, response: JoinGroupResponse) {
        cx.outbox.answer(self.ticket, AnyResponse::JoinGroup(response));
    }

    fn refuse(&self, cx: &mut Context<'_>, code: ErrorCode) {
        self.answer(cx, join_error(&self.request.member_id, code));
    }
}

impl Group {
    pub fn join(&mut self, cx: &mut Context<'_>, join: Join<'_>) {
        let id = join.request.member_id.clone();
        if !self.has_room_for(&id, join.request.group_instance_id.as_deref()) {
            self.remove_member(cx, &id);
            return join.answer(cx, join_error("", ErrorCode::GROUP_MAX_SIZE_REACHED));
        }
        let names = join.request.protocols.iter().map(|protocol| protocol.name.as_str());
        if !self.supports(&join.request.protocol_type, names) {
            return join.refuse(cx, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        if id.is_empty() {
            return self.join_new(cx, join);
        }
        if self.pending.contains_key(&id) && join.request.group_instance_id.is_none() {
            return self.add_and_rebalance(cx, join, id);
        }
        match self.check_member(&id, join.request.group_instance_id.as_deref()) {
            Ok(()) => self.rejoin(cx, join, id),
            Err(code) => join.refuse(cx, code),
        }
    }

    /// While members gather, who waits counts, so that the last to come back finds the group full
    /// and not a member that was there first. Static members that come back replace themselves.
    fn has_room_for(&self, id: &str, instance_id: Option<&str>) -> bool {
        let is_known = match self.state {
            State::Empty => self.members.is_empty() && self.pending.len() < GROUP_MEMBERS_MAX,
            State::PreparingRebalance => {
                let waits = |member: &Member| member.awaiting_join.is_some();
                let waiting = self.members.values().filter(|member| waits(member)).count();
                waiting < GROUP_MEMBERS_MAX || self.members.get(id).is_some_and(waits)
            }
            State::CompletingRebalance | State::Stable => {
                self.members.len() < GROUP_MEMBERS_MAX || self.members.contains_key(id)
            }
        };
        let is_back = instance_id.is_some_and(|id| self.static_members.contains_key(id));
        let has_ids = self.pending.len() < GROUP_MEMBERS_MAX || self.pending.contains_key(id);
        (is_known || is_back) && has_ids
    }

    fn join_new(&mut self, cx: &mut Context<'_>, join: Join<'_>) {
        let new_id = join.new_id.clone();
        if let Some(instance_id) = &join.request.group_instance_id {
            return match self.static_members.get(instance_id).cloned() {
                Some(old_id) => self.replace_static(cx, join, &old_id),
                None => self.add_and_rebalance(cx, join, new_id),
            };
        }
        if join.caller.api_version < MEMBER_ID_REQUIRED_FROM {
            return self.add_and_rebalance(cx, join, new_id);
        }
        let until = cx.wake_in(join.request.session_timeout_ms.into());
        self.pending.insert(new_id.clone(), until);
        join.answer(cx, join_error(&new_id, ErrorCode::MEMBER_ID_REQUIRED));
    }

    fn add_and_rebalance(&mut self, cx: &mut Context<'_>, join: Join<'_>, id: String) {
        if let Some(initial) = &mut self.initial {
            initial.member_added = true;
        }
        let member = Member {
            instance_id: join.request.group_instance_id.clone(),
            client_id: join.caller.client_id.clone(),
            client_host: join.caller.client_host.clone(),
            rebalance_timeout_ms: join.request.rebalance_timeout_ms,
            session_timeout_ms: join.request.session_timeout_ms,
            protocols: join.protocols(),
            assignment: Bytes::new(),
            awaiting_join: Some(join.ticket),
            awaiting_sync: None,
            is_new: true,
            synced: false,
            expires: Some(cx.wake_in(NEW_MEMBER_JOIN_TIMEOUT_MS)),
        };
        self.add_member(id, join.request.protocol_type, member);
        self.rebalance_or_complete(cx);
    }

    fn rejoin(&mut self, cx: &mut Context<'_>, join: Join<'_>, id: String) {
        let member = self.members.get(&id).expect("check_member found it");
        let same = join.has_protocols_of(member);
        let keeps = match self.state {
            State::PreparingRebalance => false,
            // It did not get the answer to its first join, perhaps.
            State::CompletingRebalance => same,
            // The leader rejoins to have what only it sees assigned: new partitions, say.
            State::Stable => same && !self.is_leader(&id),
            State::Empty => return join.refuse(cx, ErrorCode::UNKNOWN_MEMBER_ID),
        };
        if keeps {
            return join.answer(cx, self.join_response(&id));
        }
        self.update_member(cx, &join, &id);
        self.rebalance_or_complete(cx);
    }

    fn update_member(&mut self, cx: &mut Context<'_>, join: &Join<'_>, id: &str) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.protocols = join.protocols();
        member.rebalance_timeout_ms = join.request.rebalance_timeout_ms;
        member.session_timeout_ms = join.request.session_timeout_ms;
        // The client asks again, maybe on a new connection: the old question needs an answer, too.
        if let Some(ticket) = member.awaiting_join.replace(join.ticket) {
            let response = join_error(id, ErrorCode::REBALANCE_IN_PROGRESS);
            cx.outbox.answer(ticket, AnyResponse::JoinGroup(response));
        }
    }

    /// A static member came back without its member id: it gets a new one, and who has the old one
    /// is fenced. While the group is stable and the protocol stays, nobody else notices (KIP-345).
    fn replace_static(&mut self, cx: &mut Context<'_>, join: Join<'_>, old_id: &str) {
        let id = join.new_id.clone();
        let mut member = self.members.remove(old_id).expect("static members are members");
        member.turn_away(cx, old_id, ErrorCode::FENCED_INSTANCE_ID);
        (member.awaiting_join, member.awaiting_sync, member.is_new) = (None, None, false);
        member.heard_of(cx);
        let instance_id = member.instance_id.clone().expect("static members have one");
        self.static_members.insert(instance_id, id.clone());
        self.members.insert(id.clone(), member);
        let leader_before = self.leader.clone();
        if self.is_leader(old_id) {
            self.leader = Some(id.clone());
        }
        self.update_member(cx, &join, &id);
        match self.state {
            State::Stable if self.protocol_name.as_deref() == Some(&*self.select_protocol()) => {
                let can_skip = join.caller.api_version >= SKIP_ASSIGNMENT_FROM;
                self.keep_static(cx, &join, leader_before, can_skip);
            }
            State::Stable => self.rebalance_or_complete(cx),
            // The leader may have been told the old member id, for which it assigns now.
            State::CompletingRebalance => self.prepare_rebalance(cx),
            State::PreparingRebalance | State::Empty => self.complete_if_joined(cx),
        }
    }

    /// Writes the group down with the member's new id, and answers when that is on flash.
    fn keep_static(
        &mut self,
        cx: &mut Context<'_>,
        join: &Join<'_>,
        leader_before: Option<String>,
        can_skip: bool,
    ) {
        let assignments = self.members.iter().map(|(id, m)| (id.clone(), m.assignment.clone()));
        let record = records::group(self, &assignments.collect());
        let then = Then::Rejoin {
            group: self.id.clone(),
            generation: self.generation,
            member: join.new_id.clone(),
            ticket: join.ticket,
            // An old client that is told to be the leader would assign anew: it is told the old id.
            leader: if can_skip { self.leader.clone() } else { leader_before },
        };
        cx.outbox.append(Vec::from([record]), then);
    }

    /// The answer to a static member that came back, unless a rebalance has taken its join over.
    pub fn static_kept(&mut self, cx: &mut Context<'_>, id: &str, ticket: Ticket, leader: String) {
        let waits = self.members.get(id).is_some_and(|m| m.awaiting_join == Some(ticket));
        if !waits || self.state != State::Stable {
            return;
        }
        let mut response = self.join_response(id);
        response.skip_assignment = leader == id;
        if leader != id {
            response.members.clear();
        }
        response.leader = leader;
        self.answer_join(cx, id, response);
    }

    /// Begins a rebalance where one may begin, else ends the join phase if it can end.
    pub fn rebalance_or_complete(&mut self, cx: &mut Context<'_>) {
        match self.state {
            State::PreparingRebalance => self.complete_if_joined(cx),
            State::Empty | State::CompletingRebalance | State::Stable => self.prepare_rebalance(cx),
        }
    }

    pub fn prepare_rebalance(&mut self, cx: &mut Context<'_>) {
        if self.state == State::CompletingRebalance {
            self.members.values_mut().for_each(|member| member.assignment = Bytes::new());
            self.answer_syncs(cx, ErrorCode::REBALANCE_IN_PROGRESS);
        }
        self.sync_deadline = None;
        self.assigning = false;
        let was_empty = self.state == State::Empty;
        self.set_state(cx, State::PreparingRebalance);
        if was_empty {
            let delay_ms = i64::from(cx.settings.initial_rebalance_delay_ms);
            let remaining_ms = (self.rebalance_timeout_ms() - delay_ms).max(0);
            self.initial = Some(InitialDelay { remaining_ms, delay_ms, member_added: false });
            self.join_deadline = Some(cx.wake_in(delay_ms));
        } else if self.all_joined() {
            self.complete_join(cx);
        } else {
            self.join_deadline = Some(cx.wake_in(self.rebalance_timeout_ms()));
        }
    }

    pub fn complete_if_joined(&mut self, cx: &mut Context<'_>) {
        let gathering = self.state == State::PreparingRebalance;
        if gathering && self.initial.is_none() && self.all_joined() {
            self.complete_join(cx);
        }
    }

    /// The time to join is over.
    pub fn join_time_over(&mut self, cx: &mut Context<'_>) {
        match self.initial {
            Some(InitialDelay { remaining_ms, delay_ms, member_added: true })
                if remaining_ms > 0 =>
            {
                let next_ms = i64::from(cx.settings.initial_rebalance_delay_ms).min(remaining_ms);
                self.initial = Some(InitialDelay {
                    remaining_ms: (remaining_ms - delay_ms).max(0),
                    delay_ms: next_ms,
                    member_added: false,
                });
                self.join_deadline = Some(cx.wake_in(next_ms));
            }
            _ => self.complete_join(cx),
        }
    }

    /// Begins the next generation with those who joined, and with static members, who may be
    /// restarting.
    pub fn complete_join(&mut self, cx: &mut Context<'_>) {
        (self.join_deadline, self.initial) = (None, None);
        let missing =
            |member: &Member| member.awaiting_join.is_none() && member.instance_id.is_none();
        let missing = self.members.iter().filter(|(_, member)| missing(member));
        for id in missing.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.remove_member(cx, &id);
        }
        if !self.members.is_empty() && !self.elect_joined_leader() {
            // Only static members are left, and none has joined: their sessions decide. Not before
            // some time has passed, whatever they asked for, or the timer would fire without end.
            let wait_ms = self.rebalance_timeout_ms().max(STATIC_WAIT_MS_MIN);
            self.join_deadline = Some(cx.wake_in(wait_ms));
            return;
        }
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        if self.members.is_empty() {
            (self.protocol_name, self.leader) = (None, None);
            self.set_state(cx, State::Empty);
            let record = records::group(self, &BTreeMap::new());
            return cx.outbox.append(Vec::from([record]), Then::Nothing);
        }
        self.protocol_name = Some(self.select_protocol());
        self.set_state(cx, State::CompletingRebalance);
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            let response = self.join_response(&id);
            self.answer_join(cx, &id, response);
        }
        for member in self.members.values_mut() {
            (member.is_new, member.synced) = (false, false);
        }
        self.sync_deadline = Some(cx.wake_in(self.rebalance_timeout_ms()));
    }

    fn elect_joined_leader(&mut self) -> bool {
        let joined = |member: &Member| member.awaiting_join.is_some();
        let leader = self.leader.as_ref().and_then(|leader| self.members.get(leader));
        if leader.is_some_and(joined) {
            return true;
        }
        let elected = self.members.iter().find(|(_, member)| joined(member));
        match elected.map(|(id, _)| id.clone()) {
            Some(id) => self.leader = Some(id),
            None => return false,
        }
        true
    }
}
