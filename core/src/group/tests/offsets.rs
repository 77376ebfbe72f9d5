//! Facts about committed offsets, and the bytes that Kafka writes of them and of groups.

use super::*;
use crate::wire::consumer_offsets::{GroupMetadataValue, decode_value};

impl World {
    fn ask_commit(
        &mut self,
        version: i16,
        member: Option<&JoinGroupResponse>,
        partitions: &[(i32, i64)],
    ) -> Ticket {
        let partition = |(index, offset): &(i32, i64)| OffsetCommitRequestPartition {
            partition_index: *index,
            committed_offset: *offset,
            committed_leader_epoch: 3,
            committed_metadata: Some("note".into()),
        };
        let request = OffsetCommitRequest {
            group_id: GROUP.into(),
            generation_id_or_member_epoch: member.map_or(-1, |member| member.generation_id),
            member_id: member.map_or(String::new(), |member| member.member_id.clone()),
            topics: vec![OffsetCommitRequestTopic {
                name: "sensors".into(),
                topic_id: TopicId([7; 16]),
                partitions: partitions.iter().map(partition).collect(),
            }],
            ..OffsetCommitRequest::default()
        };
        self.send_commit(version, request)
    }

    fn send_commit(&mut self, version: i16, request: OffsetCommitRequest) -> Ticket {
        let ticket = self.ticket();
        let topics = self.topics.clone();
        self.groups.commit_offsets(self.now, version, request, &topics, ticket);
        self.pump();
        ticket
    }

    fn committed(&mut self, ticket: Ticket) -> Vec<ErrorCode> {
        match self.take(ticket) {
            AnyResponse::OffsetCommit(response) => {
                response.topics[0].partitions.iter().map(|p| p.error_code).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// What a consumer without membership is told when it commits.
    fn commit(&mut self, partitions: &[(i32, i64)]) -> Vec<ErrorCode> {
        let ticket = self.ask_commit(8, None, partitions);
        self.committed(ticket)
    }

    /// All committed offsets, by partition.
    fn offsets(&self) -> Vec<(i32, i64)> {
        self.groups.committed(GROUP).map(|(_, partition, offset)| (partition, offset)).collect()
    }
}

const NONE: ErrorCode = ErrorCode::NONE;

#[test]
fn a_commit_is_told_and_answered_when_it_is_on_flash() {
    let mut world = World::new();
    world.flushes_itself = false;
    let ticket = world.ask_commit(8, None, &[(0, 10), (3, 30)]);
    assert!(!world.is_answered(ticket) && world.offsets().is_empty());
    world.flush();
    assert_eq!(world.committed(ticket), [NONE, NONE]);
    assert_eq!(world.offsets(), [(0, 10), (3, 30)]);
    world.ask_commit(8, None, &[(0, 11)]);
    world.restart();
    assert_eq!(world.offsets(), [(0, 10), (3, 30)]);
}

#[test]
fn a_commit_that_cannot_be_written_says_so() {
    let mut world = World::new();
    world.flushes_itself = false;
    let ticket = world.ask_commit(8, None, &[(0, 10)]);
    let (token, _) = world.unflushed.pop_front().unwrap();
    world.groups.refused(world.now, token, ErrorCode::NOT_ENOUGH_REPLICAS);
    assert_eq!(world.committed(ticket), [ErrorCode::COORDINATOR_NOT_AVAILABLE]);
    assert!(world.offsets().is_empty());
}

#[test]
fn each_partition_of_a_commit_is_judged_by_itself() {
    let mut world = World::new();
    let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    assert_eq!(world.commit(&[(0, 1), (4, 1), (-1, 1)]), [NONE, unknown, unknown]);
    let mut check = |version: i16, change: fn(&mut OffsetCommitRequestTopic), code: ErrorCode| {
        let partition = OffsetCommitRequestPartition::default();
        let mut topic = OffsetCommitRequestTopic {
            name: "sensors".into(),
            topic_id: TopicId([7; 16]),
            partitions: vec![partition],
        };
        change(&mut topic);
        let request = OffsetCommitRequest {
            group_id: GROUP.into(),
            topics: vec![topic],
            ..OffsetCommitRequest::default()
        };
        let ticket = world.send_commit(version, request);
        assert_eq!(world.committed(ticket), [code]);
    };
    check(9, |topic| topic.name = "gone".into(), unknown);
    check(10, |topic| topic.topic_id = TopicId([8; 16]), ErrorCode::UNKNOWN_TOPIC_ID);
    check(10, |topic| topic.name.clear(), NONE);
    check(9, |topic| topic.partitions[0].committed_metadata = Some("ä".repeat(4096)), NONE);
    let too_large = ErrorCode::OFFSET_METADATA_TOO_LARGE;
    check(9, |topic| topic.partitions[0].committed_metadata = Some("ä".repeat(4097)), too_large);
}

#[test]
fn only_members_of_the_generation_commit_to_a_group_that_has_members() {
    let mut world = World::new();
    let members = world.stable_group(2);
    let mut check = |version: i16, member: Option<&JoinGroupResponse>, code: ErrorCode| {
        let ticket = world.ask_commit(version, member, &[(0, 5)]);
        assert_eq!(world.committed(ticket), [code]);
    };
    check(8, Some(&members[1]), NONE);
    check(8, None, ErrorCode::UNKNOWN_MEMBER_ID);
    let old = JoinGroupResponse { generation_id: 0, ..members[0].clone() };
    check(8, Some(&old), ErrorCode::ILLEGAL_GENERATION);
    let stranger = JoinGroupResponse { member_id: "stranger".into(), ..members[0].clone() };
    check(8, Some(&stranger), ErrorCode::UNKNOWN_MEMBER_ID);
    // While others join again, the old generation still commits what it has read.
    let leader = world.member(&members[0].member_id);
    let ticket = world.ask_commit(8, Some(&members[1]), &[(0, 6)]);
    assert_eq!(world.committed(ticket), [NONE]);
    let follower = world.member(&members[1].member_id);
    let joined = [world.joined(leader), world.joined(follower)];
    let ticket = world.ask_commit(8, Some(&joined[1]), &[(0, 7)]);
    assert_eq!(world.committed(ticket), [ErrorCode::REBALANCE_IN_PROGRESS]);
    let mut world = World::new();
    for (version, code) in [(8, ErrorCode::ILLEGAL_GENERATION), (9, ErrorCode::GROUP_ID_NOT_FOUND)]
    {
        let ticket = world.ask_commit(version, Some(&members[0]), &[(0, 5)]);
        assert_eq!(world.committed(ticket), [code]);
    }
}

#[test]
fn offsets_are_fetched_in_the_shape_of_each_version() {
    let mut world = World::new();
    world.commit(&[(1, 11)]);
    let fetch = |version: i16, request: OffsetFetchRequest| {
        world.groups.fetch_offsets(version, &request, &world.topics)
    };
    let topic = OffsetFetchRequestTopic { name: "sensors".into(), partition_indexes: vec![1, 2] };
    let single = OffsetFetchRequest {
        group_id: GROUP.into(),
        topics: Some(vec![topic]),
        ..OffsetFetchRequest::default()
    };
    let got = fetch(7, single.clone()).topics[0].partitions.clone();
    assert_eq!((got[0].committed_offset, got[0].committed_leader_epoch), (11, 3));
    assert_eq!((got[0].metadata.as_deref(), got[1].metadata.as_deref()), (Some("note"), Some("")));
    assert_eq!((got[1].committed_offset, got[1].error_code), (-1, NONE));
    let all = fetch(2, OffsetFetchRequest { topics: None, ..single });
    assert_eq!(all.topics[0].partitions.len(), 1);
    let asked = |id: u8| OffsetFetchRequestTopics {
        topic_id: TopicId([id; 16]),
        partition_indexes: vec![1],
        ..OffsetFetchRequestTopics::default()
    };
    let group = |id: &str, topics| OffsetFetchRequestGroup {
        group_id: id.into(),
        topics,
        ..OffsetFetchRequestGroup::default()
    };
    let groups =
        vec![group(GROUP, Some(vec![asked(7), asked(8)])), group(GROUP, None), group("x", None)];
    let several = OffsetFetchRequest { groups, ..OffsetFetchRequest::default() };
    let got = fetch(10, several).groups;
    assert_eq!(got[0].topics[0].partitions[0].committed_offset, 11);
    assert_eq!(got[0].topics[1].partitions[0].error_code, ErrorCode::UNKNOWN_TOPIC_ID);
    assert_eq!(got[1].topics[0].topic_id, TopicId([7; 16]));
    assert!(got[2].topics.is_empty() && got[2].error_code == NONE);
}

#[test]
fn offsets_that_members_read_are_not_deleted_and_others_are() {
    let mut world = World::new();
    world.topics.0.push(("other".into(), TopicId([9; 16]), 1));
    world.commit(&[(0, 5), (1, 6)]);
    let topic = |name: &str| OffsetDeleteRequestTopic {
        name: name.into(),
        partitions: vec![OffsetDeleteRequestPartition { partition_index: 0 }],
    };
    let request = OffsetDeleteRequest {
        group_id: GROUP.into(),
        topics: vec![topic("sensors"), topic("other"), topic("gone")],
    };
    let ask = |world: &mut World| {
        let ticket = world.ticket();
        let topics = world.topics.clone();
        world.groups.delete_offsets(&request, &topics, ticket);
        let AnyResponse::OffsetDelete(response) = world.take(ticket) else { panic!() };
        let topics = response.topics.iter();
        (response.error_code, topics.map(|t| t.partitions[0].error_code).collect::<Vec<_>>())
    };
    let (gone, used) =
        (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC);
    let members = world.stable_group(1);
    assert_eq!(ask(&mut world), (NONE, vec![used, NONE, gone]));
    world.leave(&[(&members[0].member_id, None)]);
    assert_eq!(ask(&mut world), (NONE, vec![NONE, NONE, gone]));
    world.restart();
    assert_eq!(world.offsets(), [(1, 6)]);
    let mut empty = World::new();
    assert_eq!(ask(&mut empty), (ErrorCode::GROUP_ID_NOT_FOUND, vec![]));
}

#[test]
fn a_group_is_deleted_when_it_has_no_members_and_then_nothing_of_it_is_left() {
    let mut world = World::new();
    world.commit(&[(0, 5)]);
    let members = world.stable_group(1);
    let ask = |world: &mut World| {
        let ticket = world.ticket();
        let request = DeleteGroupsRequest { groups_names: vec![GROUP.into()] };
        world.groups.delete(&request, ticket);
        let AnyResponse::DeleteGroups(response) = world.take(ticket) else { panic!() };
        response.results[0].error_code
    };
    assert_eq!(ask(&mut world), ErrorCode::NON_EMPTY_GROUP);
    world.leave(&[(&members[0].member_id, None)]);
    assert_eq!(ask(&mut world), NONE);
    assert_eq!(ask(&mut world), ErrorCode::GROUP_ID_NOT_FOUND);
    assert!(world.view().is_none() && world.groups.live_records().is_empty());
    world.restart();
    assert!(world.view().is_none());
}

#[test]
fn offsets_expire_a_week_after_the_group_lost_its_members_and_only_by_a_trusted_clock() {
    const WEEK_MS: i64 = 7 * 24 * 3_600_000;
    let mut world = World::new();
    let expire = |world: &mut World, wall: Option<i64>| {
        world.wall = wall;
        world.groups.set_wall_clock(world.now, wall.map(WallTime));
        world.groups.expire_offsets(world.now);
        world.pump();
        world.offsets().len()
    };
    assert_eq!(expire(&mut world, Some(1_000)), 0);
    world.commit(&[(0, 5)]);
    let members = world.stable_group(1);
    // Topics that a member reads do not expire, however long nothing is committed.
    assert_eq!(expire(&mut world, Some(3 * WEEK_MS)), 1);
    world.leave(&[(&members[0].member_id, None)]);
    assert_eq!(expire(&mut world, Some(4 * WEEK_MS - 1)), 1);
    assert_eq!(expire(&mut world, None), 1);
    world.restart();
    assert_eq!(expire(&mut world, Some(4 * WEEK_MS)), 0);
    assert!(world.view().is_none(), "the empty group goes with its offsets");
    // What was committed without a clock counts from the first time that is known.
    let mut world = World::new();
    world.commit(&[(0, 5)]);
    assert_eq!(expire(&mut world, Some(100 * WEEK_MS)), 1);
    assert_eq!(expire(&mut world, Some(101 * WEEK_MS)), 0);
}

#[test]
fn offsets_of_a_topic_that_was_deleted_or_made_anew_are_forgotten() {
    let mut world = World::new();
    world.commit(&[(0, 5)]);
    world.topics.0[0].1 = TopicId([6; 16]);
    let topics = world.topics.clone();
    world.groups.forget_deleted_topics(&topics);
    world.pump();
    assert!(world.offsets().is_empty());
}

#[test]
fn many_records_are_appended_in_batches_that_fit() {
    let mut world = World::new();
    world.topics.0[0].2 = 5_000;
    let all: Vec<(i32, i64)> = (0..5_000).map(|index| (index, 1)).collect();
    world.flushes_itself = false;
    let ticket = world.ask_commit(8, None, &all);
    assert!(world.unflushed.len() > 1);
    while world.unflushed.len() > 1 {
        world.flush_one();
        assert!(!world.is_answered(ticket));
    }
    world.flush();
    assert_eq!(world.committed(ticket).len(), 5_000);
}

#[test]
fn live_records_load_to_the_same_groups_also_while_batches_are_on_their_way() {
    let mut world = World::new();
    let members = world.stable_group(2);
    world.ask_commit(8, Some(&members[0]), &[(0, 5), (1, 1)]);
    world.flushes_itself = false;
    world.ask_commit(8, Some(&members[0]), &[(0, 6), (2, 2)]);
    // The topic is written anew behind what is on its way, and all before is trimmed.
    let live = world.groups.live_records();
    world.ask_commit(8, Some(&members[0]), &[(0, 7)]);
    world.flush();
    let before = (world.offsets(), world.groups.live_records());
    world.log = live;
    world.log.push(records::offset(GROUP, "sensors", 0, &offset(7)));
    world.restart();
    assert_eq!(world.offsets(), before.0);
    assert_eq!(world.heartbeat(&members[1], None), NONE);
    assert_eq!(world.groups.live_records().len(), before.1.len());
}

fn offset(offset: i64) -> super::super::offsets::Committed {
    super::super::offsets::Committed {
        offset,
        leader_epoch: 3,
        metadata: "note".into(),
        commit_ms: -1,
        expire_ms: -1,
        topic_id: TopicId([7; 16]),
    }
}

/// Keys and values that Apache Kafka 4.3.1 wrote for kcat 1.7.1: a group of a static member, an
/// offset, and the group when all had left.
const KAFKA: [(&str, &str); 3] = [
    (
        "0002000467727031",
        "00030008636f6e73756d657200000001000572616e6765002a696e7374312d37303034353735612d396237342d\
         346235622d616362302d363537396332323034383936000001a1fd94727800000001002a696e7374312d373030\
         34353735612d396237342d346235622d616362302d3635373963323230343839360005696e737431000772646b\
         61666b61000a2f3132372e302e302e31000493e00000afc8000000110001000000010001670000000000000000\
         00000015000000000001000167000000010000000000000000",
    ),
    (
        "000100046772703100016700000000",
        "00040000000000000005ffffffff01000001a1fd94731d0100109c3f4f10493341d9ada86a1a9bb9d504",
    ),
    ("0002000467727032", "00030008636f6e73756d657200000002ffffffff000001a1fd9473b000000000"),
];

fn kafka_records() -> Vec<Record> {
    let bytes = |hex: &str| -> Bytes {
        let digits: Vec<char> = hex.chars().filter(char::is_ascii_hexdigit).collect();
        let byte =
            |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    };
    KAFKA.iter().map(|(k, v)| Record { key: bytes(k), value: Some(bytes(v)) }).collect()
}

#[test]
fn records_of_kafka_are_understood_and_written_with_the_same_bytes() {
    let mut world = World::new();
    for record in kafka_records() {
        world.groups.apply(&record).unwrap();
        if let Ok(value) = decode_value::<GroupMetadataValue>(record.value.clone().unwrap()) {
            let mut group =
                Group::new(if value.members.is_empty() { "grp2" } else { "grp1" }.into());
            group.restore(value);
            let assigned = group.members.iter().map(|(id, m)| (id.clone(), m.assignment.clone()));
            assert_eq!(records::group(&group, &assigned.collect()), record);
        }
    }
    let mut live = world.groups.live_records();
    let mut kafka = kafka_records();
    live.sort_by_key(|record| record.key.clone());
    kafka.sort_by_key(|record| record.key.clone());
    assert_eq!(live, kafka);
    assert_eq!(world.groups.committed("grp1").next(), Some(("g", 0, 5)));
}

#[test]
fn damaged_records_are_refused_or_understood_but_never_panic() {
    let apply = |key: &[u8], value: &[u8]| {
        let mut groups = Groups::new(Settings::default(), 0);
        let (key, value) = (Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(value)));
        let applied = groups.apply(&Record { key, value });
        groups.loaded(Time::ZERO);
        while groups.poll(Time(u64::MAX / 2)).is_some() {}
        groups.live_records();
        applied
    };
    for record in kafka_records() {
        let (key, value) = (record.key.to_vec(), record.value.unwrap().to_vec());
        for len in 0..value.len() {
            assert!(apply(&key, &value[..len]).is_err());
        }
        for len in 0..key.len() {
            assert!(apply(&key[..len], &value).is_err());
        }
        for bit in 0..value.len() * 8 {
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let _ = apply(&key, &damaged);
        }
    }
}
