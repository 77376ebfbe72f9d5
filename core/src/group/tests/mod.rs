//! A world for groups: a log that loses what was not flushed, clients that ask, and a clock.

#![allow(clippy::unwrap_used)]

mod failover;
mod membership;
mod offsets;
mod simulation;
mod static_members;

use super::*;
use crate::wire::group::*;
use crate::wire::offsets::*;
use alloc::collections::VecDeque;
use alloc::string::ToString;
use alloc::vec;

const GROUP: &str = "dashboards";

/// Topics by name, with ids and numbers of partitions.
#[derive(Clone, Default)]
struct Model(Vec<(String, TopicId, i32)>);

impl Model {
    fn known(&self, is: impl Fn(&(String, TopicId, i32)) -> bool) -> Option<KnownTopic<'_>> {
        let (name, id, partitions) = self.0.iter().find(|topic| is(topic))?;
        Some(KnownTopic { name, id: *id, partitions: *partitions })
    }
}

impl Topics for Model {
    fn by_name(&self, name: &str) -> Option<KnownTopic<'_>> {
        self.known(|topic| topic.0 == name)
    }

    fn by_id(&self, id: TopicId) -> Option<KnownTopic<'_>> {
        self.known(|topic| topic.1 == id)
    }
}

struct World {
    groups: Groups,
    settings: Settings,
    topics: Model,
    now: Time,
    wall: Option<i64>,
    /// What is on flash.
    log: Vec<Record>,
    /// What is on its way there.
    unflushed: VecDeque<(AppendToken, Vec<Record>)>,
    /// Every append is on flash at once.
    flushes_itself: bool,
    answers: BTreeMap<Ticket, AnyResponse>,
    next_ticket: u64,
    starts: u64,
}

impl World {
    fn new() -> World {
        let settings = Settings { offsets_retention_check_interval_ms: 0, ..Settings::default() };
        World {
            groups: Groups::new(settings.clone(), 0),
            settings,
            topics: Model(vec![("sensors".into(), TopicId([7; 16]), 4)]),
            now: Time::ZERO.plus_ms(1_000),
            wall: None,
            log: Vec::new(),
            unflushed: VecDeque::new(),
            flushes_itself: true,
            answers: BTreeMap::new(),
            next_ticket: 0,
            starts: 0,
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Does everything that the groups ask for.
    fn pump(&mut self) {
        while let Some(output) = self.groups.poll(self.now) {
            match output {
                Output::Answer { ticket, response } => {
                    assert!(self.answers.insert(ticket, response).is_none(), "answered twice");
                }
                Output::Append { token, records } => self.unflushed.push_back((token, records)),
            }
            if self.flushes_itself {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        while self.flush_one() {}
    }

    fn flush_one(&mut self) -> bool {
        let Some((token, records)) = self.unflushed.pop_front() else { return false };
        self.log.extend(records);
        self.groups.durable(self.now, token);
        true
    }

    /// Lets time pass, timer by timer.
    fn pass(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        self.pump();
        while let Some(at) = self.groups.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.pump();
        }
        self.now = end;
    }

    /// Cuts the power: what is not flushed is gone, and so are all questions.
    fn restart(&mut self) {
        self.unflushed.clear();
        self.answers.clear();
        self.starts += 1;
        self.groups = Groups::new(self.settings.clone(), self.starts);
        self.groups.set_wall_clock(self.now, self.wall.map(WallTime));
        self.load();
    }

    /// Another gateway coordinates from now on. Of what is on its way it has the first `kept`
    /// batches; whoever waited is told.
    fn fail_over(&mut self, kept: usize) {
        self.pump();
        let kept = kept.min(self.unflushed.len());
        self.log.extend(self.unflushed.drain(..kept).flat_map(|(_, records)| records));
        self.unflushed.clear();
        self.starts += 1;
        let begun = Groups::new(self.settings.clone(), self.starts);
        let ended = core::mem::replace(&mut self.groups, begun);
        for (ticket, response) in ended.resign(self.now) {
            assert!(self.answers.insert(ticket, response).is_none(), "answered twice");
        }
        self.groups.set_wall_clock(self.now, self.wall.map(WallTime));
        self.load();
    }

    fn load(&mut self) {
        for record in &self.log {
            self.groups.apply(record).unwrap();
        }
        self.groups.loaded(self.now);
        self.groups.forget_deleted_topics(&self.topics);
        self.pump();
    }

    fn take(&mut self, ticket: Ticket) -> AnyResponse {
        self.pump();
        self.answers.remove(&ticket).expect("an answer")
    }

    fn is_answered(&mut self, ticket: Ticket) -> bool {
        self.pump();
        self.answers.contains_key(&ticket)
    }

    fn ask_join(&mut self, version: i16, request: JoinGroupRequest) -> Ticket {
        let ticket = self.ticket();
        let caller = Caller {
            api_version: version,
            client_id: "app".into(),
            client_host: "/10.0.0.7".into(),
        };
        self.groups.join(self.now, &caller, request, ticket);
        self.pump();
        ticket
    }

    fn joined(&mut self, ticket: Ticket) -> JoinGroupResponse {
        match self.take(ticket) {
            AnyResponse::JoinGroup(response) => response,
            other => panic!("{other:?}"),
        }
    }

    fn ask_sync(&mut self, joined: &JoinGroupResponse, assigned: &[(&str, &str)]) -> Ticket {
        let ticket = self.ticket();
        let assign = |(member, assignment): &(&str, &str)| SyncGroupRequestAssignment {
            member_id: member.to_string(),
            assignment: Bytes::copy_from_slice(assignment.as_bytes()),
        };
        let request = SyncGroupRequest {
            group_id: GROUP.into(),
            generation_id: joined.generation_id,
            member_id: joined.member_id.clone(),
            assignments: assigned.iter().map(assign).collect(),
            ..SyncGroupRequest::default()
        };
        self.groups.sync(self.now, request, ticket);
        self.pump();
        ticket
    }

    fn synced(&mut self, ticket: Ticket) -> Result<String, ErrorCode> {
        match self.take(ticket) {
            AnyResponse::SyncGroup(response) if response.error_code.is_error() => {
                Err(response.error_code)
            }
            AnyResponse::SyncGroup(response) => {
                Ok(String::from_utf8(response.assignment.to_vec()).unwrap())
            }
            other => panic!("{other:?}"),
        }
    }

    fn heartbeat(&mut self, joined: &JoinGroupResponse, instance: Option<&str>) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: GROUP.into(),
            generation_id: joined.generation_id,
            member_id: joined.member_id.clone(),
            group_instance_id: instance.map(String::from),
        };
        let response = self.groups.heartbeat(self.now, &request);
        self.pump();
        response.error_code
    }

    fn leave(&mut self, members: &[(&str, Option<&str>)]) -> Vec<ErrorCode> {
        let member = |(id, instance): &(&str, Option<&str>)| MemberIdentity {
            member_id: id.to_string(),
            group_instance_id: instance.map(String::from),
            reason: None,
        };
        let members = members.iter().map(member).collect();
        let request =
            LeaveGroupRequest { group_id: GROUP.into(), members, ..LeaveGroupRequest::default() };
        let response = self.groups.leave(self.now, 5, request);
        self.pump();
        response.members.iter().map(|member| member.error_code).collect()
    }

    /// A dynamic member joins; answered when the group goes on.
    fn member(&mut self, id: &str) -> Ticket {
        self.ask_join(5, join_request(id, None))
    }

    /// A new dynamic member joins, as clients do: it gets its id first.
    fn new_member(&mut self) -> (String, Ticket) {
        let ticket = self.member("");
        let response = self.joined(ticket);
        assert_eq!(response.error_code, ErrorCode::MEMBER_ID_REQUIRED);
        let ticket = self.member(&response.member_id);
        (response.member_id, ticket)
    }

    /// A stable group of `count` dynamic members, the leader first. Each is assigned its place.
    fn stable_group(&mut self, count: usize) -> Vec<JoinGroupResponse> {
        let asked: Vec<Ticket> = (0..count).map(|_| self.new_member().1).collect();
        self.pass(2_000);
        let mut joined: Vec<_> = asked.into_iter().map(|ticket| self.joined(ticket)).collect();
        joined.sort_by_key(|response| response.member_id != response.leader);
        self.sync_all(&joined);
        joined
    }

    fn sync_all(&mut self, joined: &[JoinGroupResponse]) {
        let places: Vec<String> = (0..joined.len()).map(|place| place.to_string()).collect();
        let assigned: Vec<(&str, &str)> =
            joined.iter().zip(&places).map(|(j, place)| (&*j.member_id, &**place)).collect();
        for (place, member) in joined.iter().enumerate().rev() {
            let sync = self.ask_sync(member, if place == 0 { &assigned } else { &[] });
            if place == 0 {
                assert_eq!(self.synced(sync), Ok("0".to_string()));
            }
        }
    }

    fn view(&self) -> Option<GroupView<'_>> {
        self.groups.views().find(|view| view.id == GROUP)
    }

    fn state(&self) -> State {
        self.view().unwrap().state
    }
}

fn join_request(id: &str, instance: Option<&str>) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: GROUP.into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        member_id: id.into(),
        group_instance_id: instance.map(String::from),
        protocol_type: "consumer".into(),
        protocols: vec![protocol("range"), protocol("sticky")],
        reason: None,
    }
}

/// A protocol whose metadata subscribes to the topic `sensors`.
fn protocol(name: &str) -> JoinGroupRequestProtocol {
    let metadata = Bytes::from_static(b"\0\0\0\0\0\x01\0\x07sensors\xff\xff\xff\xff");
    JoinGroupRequestProtocol { name: name.into(), metadata }
}
