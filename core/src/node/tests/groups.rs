//! Groups through the node: the coordinator is found, members meet, offsets survive.

use super::*;
use crate::wire::group::{
    DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, HeartbeatRequest,
    JoinGroupRequest, JoinGroupRequestProtocol, ListGroupsRequest, SyncGroupRequest,
    SyncGroupRequestAssignment,
};
use crate::wire::offsets::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchResponseGroup,
};

fn find(world: &mut World) {
    let request = FindCoordinatorRequest { key: "g".into(), ..FindCoordinatorRequest::default() };
    for version in 0..=3 {
        let said = world.ask(version, request.clone());
        assert_eq!((said.error_code, said.port), (ErrorCode::NONE, 9092));
    }
    let request =
        FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() };
    let said = world.ask(4, request);
    assert_eq!(said.coordinators[0].error_code, ErrorCode::NONE);
}

pub(super) fn commit(world: &mut World, group: &str, offset: i64) -> ErrorCode {
    let partition = OffsetCommitRequestPartition {
        committed_offset: offset,
        committed_metadata: Some("m".into()),
        ..OffsetCommitRequestPartition::default()
    };
    let topic = OffsetCommitRequestTopic {
        name: "t".into(),
        partitions: vec![partition],
        ..OffsetCommitRequestTopic::default()
    };
    let request = OffsetCommitRequest {
        group_id: group.into(),
        topics: vec![topic],
        ..OffsetCommitRequest::default()
    };
    world.ask(8, request).topics[0].partitions[0].error_code
}

pub(super) fn committed(world: &mut World, group: &str) -> i64 {
    let topic = OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0] };
    let request = OffsetFetchRequest {
        group_id: group.into(),
        topics: Some(vec![topic]),
        ..OffsetFetchRequest::default()
    };
    world.ask(7, request).topics[0].partitions[0].committed_offset
}

#[test]
fn the_first_who_looks_for_a_coordinator_gets_the_offsets_topic() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    assert_eq!(commit(&mut world, "g", 1), ErrorCode::COORDINATOR_NOT_AVAILABLE);
    find(&mut world);
    let status = world.node.status();
    let offsets = status.topics.iter().find(|topic| topic.internal).unwrap();
    assert_eq!(offsets.partitions.len(), 8);
    assert_eq!(commit(&mut world, "g", 1), ErrorCode::NONE);
    let said = world.produce(crate::metadata::CONSUMER_OFFSETS, batch(&["a"]));
    assert_eq!(said.error_code, ErrorCode::INVALID_TOPIC_EXCEPTION);
    let transactions = FindCoordinatorRequest { key_type: 1, ..Default::default() };
    assert_eq!(world.ask(1, transactions).error_code, ErrorCode::INVALID_REQUEST);
}

#[test]
fn a_member_joins_syncs_and_is_alive() {
    let mut world = World::new();
    find(&mut world);
    world.input(Input::Opened { conn: CLIENT, host: "10.0.0.7".into() });
    let join = JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::new() }],
        ..JoinGroupRequest::default()
    };
    let first = world.ask(5, join.clone());
    assert_eq!(first.error_code, ErrorCode::MEMBER_ID_REQUIRED);
    let joined = world.ask(5, JoinGroupRequest { member_id: first.member_id, ..join });
    assert_eq!((joined.error_code, joined.members.len()), (ErrorCode::NONE, 1));
    let assignment = SyncGroupRequestAssignment {
        member_id: joined.member_id.clone(),
        assignment: Bytes::from_static(b"all"),
    };
    let sync = SyncGroupRequest {
        group_id: "g".into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        assignments: vec![assignment],
        ..SyncGroupRequest::default()
    };
    assert_eq!(world.ask(3, sync).assignment, Bytes::from_static(b"all"));
    let heartbeat = HeartbeatRequest {
        group_id: "g".into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id,
        ..HeartbeatRequest::default()
    };
    assert_eq!(world.ask(3, heartbeat.clone()).error_code, ErrorCode::NONE);
    let group = world.node.status().groups.remove(0);
    assert_eq!((group.state.as_str(), group.protocol.as_str()), ("Stable", "range"));
    assert_eq!(group.members[0].client_id, "test");
    let mut world = world.restarted();
    assert_eq!(world.ask(3, heartbeat.clone()).error_code, ErrorCode::NONE);
    world.pass_ms(11_000);
    assert_eq!(world.ask(3, heartbeat).error_code, ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn a_commit_is_answered_when_it_is_on_flash_and_shown_then() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    find(&mut world);
    world.holds_flushes = true;
    let partition = OffsetCommitRequestPartition { committed_offset: 5, ..Default::default() };
    let topic = OffsetCommitRequestTopic {
        name: "t".into(),
        partitions: vec![partition],
        ..OffsetCommitRequestTopic::default()
    };
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        topics: vec![topic],
        ..OffsetCommitRequest::default()
    };
    world.send(ConnId(2), 8, &request);
    world.pass_ms(100);
    assert!(!world.has_come(ConnId(2)));
    assert_eq!(committed(&mut world, "g"), -1);
    world.release_flushes();
    world.answer::<OffsetCommitRequest>(ConnId(2), 8);
    assert_eq!(committed(&mut world, "g"), 5);
}

#[test]
fn committed_offsets_survive_restarts_and_compaction() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    find(&mut world);
    world.produce("t", batch(&["a", "b", "c"]));
    for offset in 0..12_000 {
        let group = if offset % 2 == 0 { "even" } else { "odd" };
        assert_eq!(commit(&mut world, group, offset), ErrorCode::NONE);
    }
    world.pass_ms(20_000);
    let offsets = world.node.status().topics.into_iter().find(|topic| topic.internal).unwrap();
    let bytes: u64 = offsets.partitions.iter().map(|partition| partition.bytes).sum();
    assert!(bytes < 64 << 10, "{bytes} bytes for two offsets");
    assert!(offsets.partitions.iter().all(|partition| partition.log_start == 0));
    let mut world = world.restarted();
    assert_eq!(committed(&mut world, "even"), 11_998);
    assert_eq!(committed(&mut world, "odd"), 11_999);
    assert_eq!(committed(&mut world, "other"), -1);
}

/// Another gateway, or this one again, leads the partitions of the offsets topic from now on.
fn lead(world: &mut World, leader: i32) {
    let topic = world.node.image.topic(crate::metadata::CONSUMER_OFFSETS).unwrap().clone();
    for (index, number) in (0..).zip(topic.partitions) {
        let mut state = world.node.image.state(number).unwrap().clone();
        state.leader = Some(NodeId(leader));
        state.leader_epoch += 1;
        let record = crate::metadata::Record::Partition { topic: topic.id, index, state };
        world.node.image.apply(&record, 0);
        world.node.follow_partition(world.now, number);
    }
    world.settle();
}

fn ask_commit(world: &mut World, conn: ConnId, offset: i64) {
    let partition = OffsetCommitRequestPartition { committed_offset: offset, ..Default::default() };
    let topic = OffsetCommitRequestTopic {
        name: "t".into(),
        partitions: vec![partition],
        ..OffsetCommitRequestTopic::default()
    };
    let topics = vec![topic];
    let request = OffsetCommitRequest { group_id: "g".into(), topics, ..Default::default() };
    world.send(conn, 8, &request);
}

fn outcome(world: &mut World, conn: ConnId) -> ErrorCode {
    let answer = world.answer::<OffsetCommitRequest>(conn, 8);
    answer.topics[0].partitions[0].error_code
}

#[test]
fn who_does_not_lead_a_groups_partition_sends_its_clients_away() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    find(&mut world);
    assert_eq!(commit(&mut world, "g", 5), ErrorCode::NONE);
    world.holds_flushes = true;
    ask_commit(&mut world, ConnId(2), 6);
    world.pass_ms(100);
    assert!(!world.has_come(ConnId(2)));
    lead(&mut world, 2);
    assert_eq!(outcome(&mut world, ConnId(2)), ErrorCode::NOT_COORDINATOR, "it waited");
    assert_eq!(commit(&mut world, "g", 7), ErrorCode::NOT_COORDINATOR);
    assert!(world.node.status().groups.is_empty());
    let request = FindCoordinatorRequest { key: "g".into(), ..FindCoordinatorRequest::default() };
    let found = world.ask(3, request);
    assert_eq!(found.error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE, "2 is not registered");
    lead(&mut world, 1);
    assert_eq!(commit(&mut world, "g", 7), ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
    world.release_flushes();
    assert_eq!(committed(&mut world, "g"), 6, "it was on its way, and is durable now");
    assert_eq!(commit(&mut world, "g", 7), ErrorCode::NONE);
    assert_eq!(committed(&mut world, "g"), 7);
}

#[test]
fn groups_of_several_coordinators_are_told_and_deleted_together() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    find(&mut world);
    let ids: Vec<String> = (0..20).map(|number| alloc::format!("group-{number}")).collect();
    for (offset, id) in (0..).zip(&ids) {
        assert_eq!(commit(&mut world, id, offset), ErrorCode::NONE);
    }
    let listed = world.ask(4, ListGroupsRequest::default());
    assert_eq!((listed.error_code, listed.groups.len()), (ErrorCode::NONE, 20));
    let groups = ids.iter().map(|id| OffsetFetchRequestGroup {
        group_id: id.clone(),
        ..OffsetFetchRequestGroup::default()
    });
    let request = OffsetFetchRequest { groups: groups.collect(), ..Default::default() };
    let fetched = world.ask(8, request).groups;
    let offset = |group: &OffsetFetchResponseGroup| group.topics[0].partitions[0].committed_offset;
    assert_eq!(fetched.iter().map(offset).collect::<Vec<_>>(), Vec::from_iter(0..20));
    let request = DescribeGroupsRequest { groups: ids.clone(), ..Default::default() };
    let described = world.ask(5, request).groups;
    assert!(described.iter().zip(&ids).all(|(group, id)| group.group_id == *id));
    assert!(described.iter().all(|group| group.group_state == "Empty"));
    let mut groups_names = ids.clone();
    groups_names.push("nobody".into());
    let results = world.ask(2, DeleteGroupsRequest { groups_names }).results;
    let failed = results.iter().filter(|result| result.error_code != ErrorCode::NONE);
    assert_eq!((results.len(), failed.count()), (21, 1));
    assert!(world.ask(4, ListGroupsRequest::default()).groups.is_empty());
}
