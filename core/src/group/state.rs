//! One group: its members, its state, and what every step of the protocol is made of.

use super::offsets::Committed;
use super::outbox::Context;
use super::{Settings, Ticket};
use crate::error::ErrorCode;
use crate::types::Time;
use crate::wire::AnyResponse;
use crate::wire::group::{JoinGroupResponse, JoinGroupResponseMember, SyncGroupResponse};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// Where a group is between two assignments.
///
/// | state | event | next state |
/// |---|---|---|
/// | Empty | a member joins | PreparingRebalance, for the initial delay at least |
/// | PreparingRebalance | all have joined, or the rebalance timeout is over | CompletingRebalance |
/// | PreparingRebalance | the last member left or was not heard of | Empty |
/// | CompletingRebalance | the leader's assignment is on flash | Stable |
/// | CompletingRebalance, Stable | a member joins, or with other metadata | PreparingRebalance |
/// | CompletingRebalance, Stable | a member leaves or is not heard of | PreparingRebalance |
/// | CompletingRebalance, Stable | a member does not sync in time | PreparingRebalance |
/// | Stable | the leader joins again | PreparingRebalance |
/// | Stable | a static member comes back and the protocol stays | Stable |
///
/// Kafka's fifth state, Dead, is what tools are told of a group that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
}

impl State {
    /// As Kafka's tools know it.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Group {
    pub id: String,
    pub state: State,
    /// 0 before the first join phase is complete.
    pub generation: i32,
    pub protocol_type: Option<String>,
    pub protocol_name: Option<String>,
    pub leader: Option<String>,
    pub members: BTreeMap<String, Member>,
    /// Member ids by group instance id.
    pub static_members: BTreeMap<String, String>,
    /// Member ids that were given out and not used yet, and until when they may be.
    pub pending: BTreeMap<String, Time>,
    /// When `state` began, in milliseconds of the wall clock; -1 is unknown.
    pub state_since_ms: i64,
    /// When the join phase ends, whoever is missing.
    pub join_deadline: Option<Time>,
    /// While the members of an empty group gather.
    pub initial: Option<InitialDelay>,
    /// When members that did not sync are removed.
    pub sync_deadline: Option<Time>,
    /// The leader's assignment of this generation is on its way to flash.
    pub assigning: bool,
    /// Bytes of the members, as of the last join: that alone adds to them but for assignments,
    /// which are bounded by the record.
    pub members_bytes: usize,
    /// The group's record on flash.
    pub record: Option<Bytes>,
    /// What is on flash, by topic and partition index.
    pub offsets: BTreeMap<String, BTreeMap<i32, Committed>>,
}

/// The first rebalance waits a little longer each time somebody new joins (KIP-134).
#[derive(Clone, Copy, Debug)]
pub(super) struct InitialDelay {
    pub remaining_ms: i64,
    pub delay_ms: i64,
    pub member_added: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// By preference.
    pub protocols: Vec<(String, Bytes)>,
    pub assignment: Bytes,
    pub awaiting_join: Option<Ticket>,
    pub awaiting_sync: Option<Ticket>,
    /// Its first join is not answered yet, so it cannot send heartbeats.
    pub is_new: bool,
    /// Has synced in this generation.
    pub synced: bool,
    /// When it must have been heard of; `None` while it waits for us.
    pub expires: Option<Time>,
}

impl Member {
    pub fn bytes(&self) -> usize {
        let protocols = self.protocols.iter().map(|(name, metadata)| name.len() + metadata.len());
        let instance = self.instance_id.as_ref().map_or(0, String::len);
        protocols.sum::<usize>()
            + instance
            + self.client_id.len()
            + self.client_host.len()
            + self.assignment.len()
            + size_of::<Member>()
    }

    pub fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found.map_or_else(Bytes::new, |(_, metadata)| metadata.clone())
    }

    fn offers(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }
}

impl Group {
    pub fn new(id: String) -> Group {
        Group {
            id,
            state: State::Empty,
            generation: 0,
            protocol_type: None,
            protocol_name: None,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending: BTreeMap::new(),
            state_since_ms: -1,
            join_deadline: None,
            initial: None,
            sync_deadline: None,
            assigning: false,
            members_bytes: 0,
            record: None,
            offsets: BTreeMap::new(),
        }
    }

    /// Nothing of it has to be remembered.
    pub fn is_forgettable(&self) -> bool {
        self.state == State::Empty
            && self.pending.is_empty()
            && self.offsets.is_empty()
            && self.record.is_none()
    }

    pub fn measure(&mut self) {
        let members = self.members.iter().map(|(id, member)| id.len() + member.bytes());
        let pending = self.pending.keys().map(|id| id.len() + 32);
        self.members_bytes = members.sum::<usize>() + pending.sum::<usize>();
    }

    pub fn set_state(&mut self, cx: &Context<'_>, state: State) {
        self.state = state;
        self.state_since_ms = cx.wall_ms;
    }

    pub fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    pub fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some("consumer")
    }

    /// Kafka's `validateMember`: a static member is who has its instance id.
    pub fn check_member(&self, id: &str, instance_id: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(ErrorCode::UNKNOWN_MEMBER_ID),
                Some(known) if known != id => return Err(ErrorCode::FENCED_INSTANCE_ID),
                Some(_) => {}
            }
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(ErrorCode::UNKNOWN_MEMBER_ID) }
    }

    /// Whether a member with these protocols and the others have one in common.
    pub fn supports<'a>(
        &self,
        protocol_type: &str,
        mut protocols: impl Iterator<Item = &'a str>,
    ) -> bool {
        if self.state == State::Empty {
            return !protocol_type.is_empty() && protocols.next().is_some();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.any(|name| self.members.values().all(|member| member.offers(name)))
    }

    /// The protocol with the most votes among those that every member offers; each member votes for
    /// the one it prefers. On a tie the leader's preference decides.
    pub fn select_protocol(&self) -> String {
        let common = |name: &str| self.members.values().all(|member| member.offers(name));
        let vote = |member: &Member| {
            member.protocols.iter().map(|(name, _)| name.clone()).find(|name| common(name))
        };
        let votes: Vec<String> = self.members.values().filter_map(vote).collect();
        let leader = self.leader.as_ref().and_then(|leader| self.members.get(leader));
        let candidates =
            leader.into_iter().flat_map(|leader| &leader.protocols).map(|(name, _)| name);
        let count = |name: &String| votes.iter().filter(|vote| *vote == name).count();
        // Of equal ones, `max_by_key` takes the last.
        let preferred = candidates.rev().max_by_key(|name| count(name));
        preferred.cloned().unwrap_or_default()
    }

    /// The longest that any member asked for.
    pub fn rebalance_timeout_ms(&self) -> i64 {
        self.members
            .values()
            .map(|member| i64::from(member.rebalance_timeout_ms))
            .max()
            .unwrap_or(0)
    }

    pub fn all_joined(&self) -> bool {
        self.pending.is_empty()
            && self.members.values().all(|member| member.awaiting_join.is_some())
    }

    pub fn add_member(&mut self, id: String, protocol_type: String, member: Member) {
        if self.members.is_empty() {
            self.protocol_type = Some(protocol_type);
        }
        self.leader.get_or_insert_with(|| id.clone());
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(instance_id.clone(), id.clone());
        }
        self.pending.remove(&id);
        self.members.insert(id, member);
    }

    /// Takes a member or a pending member out. Whoever waits under its id is told to begin anew,
    /// without a member id.
    pub fn remove_member(&mut self, cx: &mut Context<'_>, id: &str) {
        self.pending.remove(id);
        let Some(member) = self.members.remove(id) else { return };
        member.turn_away(cx, "", ErrorCode::UNKNOWN_MEMBER_ID);
        if let Some(instance_id) = &member.instance_id {
            self.static_members.remove(instance_id);
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// What a join that succeeded is answered. Only the leader is told the members.
    pub fn join_response(&self, member_id: &str) -> JoinGroupResponse {
        let is_leader = self.is_leader(member_id);
        let protocol = self.protocol_name.as_deref().unwrap_or_default();
        let described = self.members.iter().filter(|_| is_leader);
        JoinGroupResponse {
            generation_id: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            member_id: member_id.into(),
            members: described
                .map(|(id, member)| JoinGroupResponseMember {
                    member_id: id.clone(),
                    group_instance_id: member.instance_id.clone(),
                    metadata: member.metadata(protocol),
                })
                .collect(),
            ..JoinGroupResponse::default()
        }
    }

    /// Answers a member's join, if it waits for one; from now on it has to be heard of.
    pub fn answer_join(&mut self, cx: &mut Context<'_>, id: &str, response: JoinGroupResponse) {
        let Some(member) = self.members.get_mut(id) else { return };
        if let Some(ticket) = member.awaiting_join.take() {
            cx.outbox.answer(ticket, AnyResponse::JoinGroup(response));
        }
        member.heard_of(cx);
    }

    /// Answers every member that waits for its assignment.
    pub fn answer_syncs(&mut self, cx: &mut Context<'_>, code: ErrorCode) {
        let told = |name: &Option<String>| if code.is_error() { None } else { name.clone() };
        for member in self.members.values_mut() {
            let Some(ticket) = member.awaiting_sync.take() else { continue };
            let response = SyncGroupResponse {
                error_code: code,
                protocol_type: told(&self.protocol_type),
                protocol_name: told(&self.protocol_name),
                assignment: member.assignment.clone(),
                ..SyncGroupResponse::default()
            };
            cx.outbox.answer(ticket, AnyResponse::SyncGroup(response));
            member.heard_of(cx);
        }
    }
}

impl Member {
    /// A session begins.
    pub fn heard_of(&mut self, cx: &mut Context<'_>) {
        self.expires = Some(cx.wake_in(self.session_timeout_ms.into()));
    }

    /// Answers whatever waits under this member's id with an error.
    pub fn turn_away(&self, cx: &mut Context<'_>, id: &str, code: ErrorCode) {
        if let Some(ticket) = self.awaiting_join {
            cx.outbox.answer(ticket, AnyResponse::JoinGroup(join_error(id, code)));
        }
        if let Some(ticket) = self.awaiting_sync {
            cx.outbox.answer(ticket, AnyResponse::SyncGroup(sync_error(code)));
        }
    }
}

impl Settings {
    pub(super) fn allows_session_timeout(&self, ms: i32) -> bool {
        (self.session_timeout_ms_min..=self.session_timeout_ms_max).contains(&ms)
    }
}

pub(super) fn join_error(member_id: &str, code: ErrorCode) -> JoinGroupResponse {
    JoinGroupResponse { error_code: code, member_id: member_id.into(), ..Default::default() }
}

pub(super) fn sync_error(code: ErrorCode) -> SyncGroupResponse {
    SyncGroupResponse { error_code: code, ..SyncGroupResponse::default() }
}
