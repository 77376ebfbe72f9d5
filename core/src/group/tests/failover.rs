//! The groups of a partition as its leader changes.

use super::*;
use crate::group::Coordinator;
use crate::types::{LeaderEpoch, Offset};
use crate::wire::AnyRequest;

/// A partition of `__consumer_offsets`, and who coordinates its groups.
struct Partition {
    coordinator: Coordinator,
    topics: Model,
    now: Time,
    batches: Vec<(Offset, Bytes)>,
    end: Offset,
    answers: BTreeMap<Ticket, AnyResponse>,
}

fn fresh(seed: u64) -> Groups {
    Groups::new(Settings::default(), seed)
}

impl Partition {
    /// Empty, and served.
    fn new() -> Partition {
        let coordinator = Coordinator::new(fresh(1), LeaderEpoch(0), Offset::ZERO, Offset::ZERO);
        let mut partition = Partition {
            coordinator,
            topics: Model(vec![("sensors".into(), TopicId([7; 16]), 4)]),
            now: Time::ZERO.plus_ms(1_000),
            batches: Vec::new(),
            end: Offset::ZERO,
            answers: BTreeMap::new(),
        };
        assert!(partition.coordinator.advance(partition.now, Offset::ZERO));
        partition
    }

    /// Appends what is asked for, and takes the answers.
    fn pump(&mut self) {
        while let Some(output) = self.coordinator.poll(self.now) {
            match output {
                Output::Answer { ticket, response } => {
                    assert!(self.answers.insert(ticket, response).is_none(), "answered twice");
                }
                Output::Append { token, records } => {
                    let mut batch = batch_of(&records, 0).to_vec();
                    crate::batch::stamp(&mut batch, self.end, 0);
                    self.end = self.end.plus(records.len() as i64);
                    self.batches.push((self.end, batch.into()));
                    self.coordinator.appended(token, self.end);
                }
            }
        }
    }

    fn replicated(&mut self) {
        self.coordinator.advance(self.now, self.end);
        self.pump();
    }

    /// Somebody else leads, and begins with what is there.
    fn lead_anew(&mut self) {
        let epoch = LeaderEpoch(self.coordinator.epoch().0 + 1);
        let begun = Coordinator::new(fresh(2), epoch, Offset::ZERO, self.end);
        let ended = core::mem::replace(&mut self.coordinator, begun);
        for (ticket, response) in ended.resign(self.now) {
            assert!(self.answers.insert(ticket, response).is_none(), "answered twice");
        }
    }

    fn load(&mut self) {
        while let Some((from, _)) = self.coordinator.to_read() {
            let (_, batch) = self.batches.iter().find(|(end, _)| *end > from).unwrap();
            self.coordinator.take(batch).unwrap();
        }
    }

    fn commit(&mut self, ticket: u64, offset: i64) {
        let partitions =
            vec![OffsetCommitRequestPartition { committed_offset: offset, ..Default::default() }];
        let topic = OffsetCommitRequestTopic {
            name: "sensors".into(),
            partitions,
            ..OffsetCommitRequestTopic::default()
        };
        let request = OffsetCommitRequest {
            group_id: GROUP.into(),
            topics: vec![topic],
            ..OffsetCommitRequest::default()
        };
        let groups = self.coordinator.serving().unwrap();
        groups.commit_offsets(self.now, 8, request, &self.topics, Ticket(ticket));
        self.pump();
    }

    fn join(&mut self, ticket: u64, member: &str) {
        let caller = Caller { api_version: 5, ..Caller::default() };
        let groups = self.coordinator.serving().unwrap();
        groups.join(self.now, &caller, join_request(member, None), Ticket(ticket));
        self.pump();
    }

    fn joined(&mut self, ticket: u64) -> JoinGroupResponse {
        match self.answers.remove(&Ticket(ticket)) {
            Some(AnyResponse::JoinGroup(response)) => response,
            other => panic!("{other:?}"),
        }
    }

    fn committed(&self) -> Option<i64> {
        let mut all = self.coordinator.groups().committed(GROUP);
        all.next().map(|(_, _, offset)| offset)
    }

    /// What a commit was answered, if it was.
    fn outcome(&self, ticket: u64) -> Option<ErrorCode> {
        self.answers.get(&Ticket(ticket)).map(|answer| match answer {
            AnyResponse::OffsetCommit(response) => response.topics[0].partitions[0].error_code,
            AnyResponse::JoinGroup(response) => response.error_code,
            AnyResponse::SyncGroup(response) => response.error_code,
            other => panic!("{other:?}"),
        })
    }
}

#[test]
fn a_commit_is_answered_when_the_high_watermark_has_passed_it() {
    let mut partition = Partition::new();
    partition.commit(1, 40);
    partition.commit(2, 41);
    assert_eq!((partition.outcome(1), partition.committed()), (None, None));
    partition.coordinator.advance(partition.now, partition.end.plus(-1));
    partition.pump();
    assert_eq!((partition.outcome(1), partition.outcome(2)), (Some(ErrorCode::NONE), None));
    assert_eq!(partition.committed(), Some(40));
    partition.replicated();
    assert_eq!((partition.outcome(2), partition.committed()), (Some(ErrorCode::NONE), Some(41)));
}

#[test]
fn a_coordinator_serves_when_it_is_loaded_and_everything_is_replicated() {
    let mut partition = Partition::new();
    partition.commit(1, 40);
    partition.replicated();
    partition.commit(2, 41);
    partition.lead_anew();
    let refused = |partition: &mut Partition| partition.coordinator.serving().err();
    let loading = Some(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
    assert_eq!(refused(&mut partition), loading);
    assert!(!partition.coordinator.advance(partition.now, partition.end), "nothing is read");
    partition.load();
    assert!(!partition.coordinator.advance(partition.now, partition.end.plus(-1)));
    assert_eq!(refused(&mut partition), loading, "41 may be lost with this leader");
    assert!(partition.coordinator.advance(partition.now, partition.end));
    assert!(!partition.coordinator.advance(partition.now, partition.end), "only once");
    assert_eq!(refused(&mut partition), None);
    assert_eq!(partition.committed(), Some(41));
    partition.commit(3, 42);
    partition.replicated();
    assert_eq!((partition.outcome(3), partition.committed()), (Some(ErrorCode::NONE), Some(42)));
}

#[test]
fn whoever_waits_is_told_once_that_another_gateway_coordinates() {
    let mut partition = Partition::new();
    partition.join(1, "");
    let first = partition.joined(1).member_id;
    partition.join(2, &first);
    partition.now = partition.now.plus_ms(1_000);
    partition.pump();
    let leader = partition.joined(2);
    assert_eq!(leader.error_code, ErrorCode::NONE);
    partition.join(3, "");
    let second = partition.joined(3).member_id;
    partition.commit(4, 7);
    partition.join(5, &second);
    assert_eq!(partition.outcome(4), Some(ErrorCode::UNKNOWN_MEMBER_ID), "it names no member");
    partition.lead_anew();
    assert_eq!(partition.outcome(5), Some(ErrorCode::NOT_COORDINATOR));
    assert_eq!(partition.joined(5).member_id, second);
}

#[test]
fn an_assignment_that_is_not_replicated_is_told_to_nobody() {
    let mut partition = Partition::new();
    partition.join(1, "");
    let id = partition.joined(1).member_id;
    partition.join(2, &id);
    partition.now = partition.now.plus_ms(1_000);
    partition.pump();
    let joined = partition.joined(2);
    let assignment = Bytes::from_static(b"all");
    let request = SyncGroupRequest {
        group_id: GROUP.into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        assignments: vec![SyncGroupRequestAssignment { member_id: id, assignment }],
        ..SyncGroupRequest::default()
    };
    let groups = partition.coordinator.serving().unwrap();
    groups.sync(partition.now, request.clone(), Ticket(3));
    partition.pump();
    assert_eq!(partition.outcome(3), None);
    partition.lead_anew();
    assert_eq!(partition.outcome(3), Some(ErrorCode::NOT_COORDINATOR));
    // The next leader has the record all the same: the member finds its generation there.
    partition.load();
    partition.replicated();
    let groups = partition.coordinator.serving().unwrap();
    groups.sync(partition.now, request, Ticket(4));
    partition.pump();
    assert_eq!(partition.outcome(4), Some(ErrorCode::NONE));
}

#[test]
fn what_cannot_be_read_is_left_out_and_the_rest_is_loaded() {
    let mut partition = Partition::new();
    for offset in [40, 41] {
        partition.commit(offset as u64, offset);
        partition.replicated();
    }
    partition.lead_anew();
    let malformed = Record { key: Bytes::from_static(b"\0\x01\xff"), value: None };
    let mut batch = batch_of(&[malformed], 0).to_vec();
    crate::batch::stamp(&mut batch, Offset::ZERO, 0);
    assert!(partition.coordinator.take(&batch).is_err());
    assert!(partition.coordinator.take(b"no batch").is_err());
    assert_eq!(partition.coordinator.to_read(), Some((Offset(1), Offset(2))));
    partition.load();
    partition.replicated();
    assert_eq!(partition.committed(), Some(41));
    partition.lead_anew();
    partition.coordinator.skip_to(Offset(9));
    partition.replicated();
    assert_eq!(partition.committed(), None, "lost, and the coordinator serves");
}

#[test]
fn a_group_belongs_to_the_partition_that_kafkas_hash_names() {
    let hashes = [("", 0), ("g", 103), ("ab", 3_105), ("polygenelubricants", 0)];
    for (group, hash) in hashes {
        assert_eq!(partition_of(group, 50), hash % 50, "{group}");
    }
    assert_eq!(partition_of("g", 0), 0, "without partitions there is no other");
}

#[test]
fn every_request_about_groups_can_be_refused() {
    let code = ErrorCode::NOT_COORDINATOR;
    let topic = OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![3] };
    let old = OffsetFetchRequest { topics: Some(vec![topic]), ..Default::default() };
    let group = OffsetFetchRequestGroup { group_id: "g".into(), ..Default::default() };
    let new = OffsetFetchRequest { groups: vec![group], ..Default::default() };
    let said = |version, request: OffsetFetchRequest| match refusal(
        version,
        AnyRequest::OffsetFetch(request),
        code,
    ) {
        Some(AnyResponse::OffsetFetch(response)) => response,
        other => panic!("{other:?}"),
    };
    let answer = said(1, old);
    assert_eq!((answer.error_code, answer.topics[0].partitions[0].error_code), (code, code));
    assert_eq!(said(8, new).groups[0].error_code, code);
    let join = JoinGroupRequest { member_id: "m".into(), ..Default::default() };
    match refusal(5, AnyRequest::JoinGroup(join), code) {
        Some(AnyResponse::JoinGroup(said)) => {
            assert_eq!((said.error_code, &*said.member_id), (code, "m"));
        }
        other => panic!("{other:?}"),
    }
    let others = [
        AnyRequest::SyncGroup(SyncGroupRequest::default()),
        AnyRequest::Heartbeat(HeartbeatRequest::default()),
        AnyRequest::LeaveGroup(LeaveGroupRequest::default()),
        AnyRequest::OffsetCommit(OffsetCommitRequest::default()),
        AnyRequest::OffsetDelete(OffsetDeleteRequest::default()),
        AnyRequest::DescribeGroups(DescribeGroupsRequest::default()),
        AnyRequest::DeleteGroups(DeleteGroupsRequest::default()),
        AnyRequest::ListGroups(ListGroupsRequest::default()),
    ];
    assert!(others.into_iter().all(|request| refusal(3, request, code).is_some()));
}

#[test]
fn the_groups_of_all_partitions_share_the_limits() {
    let mut partition = Partition::new();
    let elsewhere = Usage { groups: crate::limits::GROUPS_MAX, ..Usage::default() };
    partition.coordinator.serving().unwrap().set_elsewhere(elsewhere);
    partition.commit(1, 5);
    partition.join(2, "");
    let full = Some(ErrorCode::COORDINATOR_NOT_AVAILABLE);
    assert_eq!((partition.outcome(1), partition.outcome(2)), (full, full));
    assert_eq!(partition.coordinator.groups().usage(), Usage::default());
}
