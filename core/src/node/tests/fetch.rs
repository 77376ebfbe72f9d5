//! Fetch and ListOffsets: long polls, limits, sessions, places in a partition.

use super::*;
use crate::wire::fetch::{FetchResponse, ForgottenTopic};
use crate::wire::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use crate::wire::offsets::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};

fn world_with(values: &[&str]) -> World {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    for value in values {
        world.produce("t", batch(&[value]));
    }
    world
}

#[test]
fn a_fetch_waits_for_records_and_no_longer_than_it_said() {
    let mut world = world_with(&["a"]);
    let wait = FetchRequest { max_wait_ms: 500, min_bytes: 1, ..fetch_request("t", 1) };
    world.send(ConnId(2), 12, &wait);
    world.pass_ms(400);
    assert!(!world.has_come(ConnId(2)));
    world.produce("t", batch(&["b"]));
    let response = world.answer::<FetchRequest>(ConnId(2), 12);
    assert_eq!(values(&response.responses[0].partitions[0]), ["b"]);
    let asked = world.now;
    world.send(ConnId(2), 12, &FetchRequest { max_wait_ms: 500, ..wait.clone() });
    world.answer::<FetchRequest>(ConnId(2), 12);
    let late = FetchRequest { max_wait_ms: 500, min_bytes: 1, ..fetch_request("t", 2) };
    world.send(ConnId(2), 12, &late);
    let response = world.answer::<FetchRequest>(ConnId(2), 12);
    assert!(values(&response.responses[0].partitions[0]).is_empty());
    assert!(world.now >= asked.plus_ms(500));
    assert_eq!(world.node.status().fetches_waiting, 0);
}

#[test]
fn a_fetch_with_min_bytes_waits_for_as_many() {
    let mut world = world_with(&["a"]);
    let one = batch(&["a"]).len() as i32;
    let wait = FetchRequest { max_wait_ms: 60_000, min_bytes: one * 3, ..fetch_request("t", 0) };
    world.send(ConnId(2), 12, &wait);
    world.produce("t", batch(&["b"]));
    assert!(!world.has_come(ConnId(2)));
    world.produce("t", batch(&["c"]));
    assert!(world.has_come(ConnId(2)));
    let response = world.answer::<FetchRequest>(ConnId(2), 12);
    assert_eq!(values(&response.responses[0].partitions[0]), ["a", "b", "c"]);
}

#[test]
fn limits_hold_but_for_the_first_batch() {
    let mut world = world_with(&["a", "b", "c"]);
    let one = batch(&["a"]).len() as i32;
    let mut check = |partition_max_bytes, max_bytes, count| {
        let mut request = FetchRequest { max_bytes, ..fetch_request("t", 0) };
        request.topics[0].partitions[0].partition_max_bytes = partition_max_bytes;
        let response = world.ask(12, request);
        assert_eq!(values(&response.responses[0].partitions[0]).len(), count);
    };
    check(1, 1 << 20, 1);
    check(1 << 20, 1, 1);
    check(one * 2, 1 << 20, 2);
    check(1 << 20, one * 2 + 1, 2);
}

#[test]
fn offsets_topics_and_epochs_that_are_not_there_have_kafkas_codes() {
    let mut world = world_with(&["a"]);
    assert_eq!(world.fetch("t", 1).error_code, ErrorCode::NONE);
    assert_eq!(world.fetch("t", 2).error_code, ErrorCode::OFFSET_OUT_OF_RANGE);
    assert_eq!(world.fetch("t", -1).error_code, ErrorCode::OFFSET_OUT_OF_RANGE);
    assert_eq!(world.fetch("no", 0).error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let mut epoch = |current_leader_epoch| {
        let mut request = fetch_request("t", 0);
        request.topics[0].partitions[0].current_leader_epoch = current_leader_epoch;
        world.ask(12, request).responses[0].partitions[0].error_code
    };
    assert_eq!(epoch(0), ErrorCode::NONE);
    assert_eq!(epoch(1), ErrorCode::UNKNOWN_LEADER_EPOCH);
    assert_eq!(epoch(-2), ErrorCode::FENCED_LEADER_EPOCH);
    let mut by_id = fetch_request("", 0);
    by_id.topics[0].topic_id = TopicId([9; 16]);
    let response = world.ask(13, by_id);
    assert_eq!(response.responses[0].partitions[0].error_code, ErrorCode::UNKNOWN_TOPIC_ID);
}

fn session(world: &mut World, id: i32, epoch: i32, topics: Vec<FetchTopic>) -> FetchResponse {
    let request =
        FetchRequest { session_id: id, session_epoch: epoch, topics, ..fetch_request("t", 0) };
    world.ask(12, request)
}

#[test]
fn a_session_tells_only_what_is_new() {
    let mut world = world_with(&["a"]);
    let named = fetch_request("t", 1).topics;
    let opened = session(&mut world, 0, 0, named.clone());
    let id = opened.session_id;
    assert!(id != 0 && opened.responses.len() == 1);
    assert!(session(&mut world, id, 1, vec![]).responses.is_empty());
    world.produce("t", batch(&["b"]));
    let news = session(&mut world, id, 2, vec![]);
    assert_eq!(values(&news.responses[0].partitions[0]), ["b"]);
    let moved = fetch_request("t", 2).topics;
    assert!(session(&mut world, id, 3, moved).responses.is_empty());
    let wrong = session(&mut world, id, 9, vec![]);
    assert_eq!(wrong.error_code, ErrorCode::INVALID_FETCH_SESSION_EPOCH);
    let unknown = session(&mut world, id + 1, 4, vec![]);
    assert_eq!(unknown.error_code, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    assert_eq!(world.node.status().fetch_sessions, 1);
    let forget = FetchRequest {
        session_id: id,
        session_epoch: 4,
        topics: vec![],
        forgotten_topics_data: vec![ForgottenTopic {
            topic: "t".into(),
            partitions: vec![0],
            ..ForgottenTopic::default()
        }],
        ..fetch_request("t", 0)
    };
    assert!(world.ask(12, forget).responses.is_empty());
    assert_eq!(world.node.status().fetch_sessions, 0);
}

#[test]
fn an_incremental_fetch_waits_too() {
    let mut world = world_with(&[]);
    let id = session(&mut world, 0, 0, fetch_request("t", 0).topics).session_id;
    let wait = FetchRequest {
        session_id: id,
        session_epoch: 1,
        topics: vec![],
        min_bytes: 1,
        max_wait_ms: 60_000,
        ..fetch_request("t", 0)
    };
    world.send(ConnId(2), 12, &wait);
    world.pass_ms(1000);
    assert!(!world.has_come(ConnId(2)));
    world.produce("t", batch(&["a"]));
    let news = world.answer::<FetchRequest>(ConnId(2), 12);
    assert_eq!(values(&news.responses[0].partitions[0]), ["a"]);
}

#[test]
fn list_offsets_finds_ends_and_times() {
    let mut world = world_with(&[]);
    world.produce("t", batch(&["a", "b", "c"]));
    let mut check = |version, timestamp, offset, code| {
        let partition = ListOffsetsPartition { timestamp, ..ListOffsetsPartition::default() };
        let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![partition] };
        let request = ListOffsetsRequest { topics: vec![topic], ..ListOffsetsRequest::default() };
        let response = world.ask(version, request);
        let said = &response.topics[0].partitions[0];
        assert_eq!((said.offset, said.error_code), (offset, code), "{version} {timestamp}");
    };
    for version in 1..=11 {
        check(version, -1, 3, ErrorCode::NONE);
        check(version, -2, 0, ErrorCode::NONE);
        check(version, 1001, 1, ErrorCode::NONE);
        check(version, 0, 0, ErrorCode::NONE);
        check(version, 5000, -1, ErrorCode::NONE);
    }
    check(7, -3, 2, ErrorCode::NONE);
    check(6, -3, -1, ErrorCode::UNSUPPORTED_VERSION);
    check(8, -4, 0, ErrorCode::NONE);
    check(9, -5, -1, ErrorCode::NONE);
    check(11, -7, -1, ErrorCode::UNSUPPORTED_VERSION);
}

#[test]
fn the_only_leader_epoch_ends_at_the_high_watermark() {
    let mut world = world_with(&["a", "b"]);
    let mut check = |leader_epoch, end| {
        let partition =
            OffsetForLeaderPartition { partition: 0, current_leader_epoch: -1, leader_epoch };
        let topic = OffsetForLeaderTopic { topic: "t".into(), partitions: vec![partition] };
        let request = OffsetForLeaderEpochRequest { topics: vec![topic], ..Default::default() };
        let response = world.ask(4, request);
        assert_eq!(response.topics[0].partitions[0].end_offset, end);
    };
    check(0, 2);
    check(5, -1);
}

#[test]
fn whoever_fetches_an_unknown_topic_does_not_keep_the_gateway_busy() {
    let mut world = world_with(&[]);
    let asked = world.now;
    let wait = FetchRequest { max_wait_ms: 60_000, min_bytes: 1, ..fetch_request("no", 0) };
    let response = world.ask(12, wait);
    let code = response.responses[0].partitions[0].error_code;
    assert_eq!(code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert!(world.now >= asked.plus_ms(100) && world.now < asked.plus_ms(1000));
}
