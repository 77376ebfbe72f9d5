//! Frames, versions, and the order of answers.

use super::*;
use crate::wire::api_versions::ApiVersionsRequest;
use crate::wire::metadata::MetadataRequest;

#[test]
fn an_api_versions_request_from_the_future_is_answered_with_our_range() {
    let mut world = World::new();
    world.input(Input::Request { conn: CLIENT, frame: raw(18, 99, &[0, 1, 2]) });
    let Came::Reply(frame) = world.next(CLIENT) else { panic!("no reply") };
    assert_eq!(i32_at(&frame, 0), 9);
    let mut reader = Reader::new(frame.slice(4..));
    assert_eq!(reader.i16().unwrap(), ErrorCode::UNSUPPORTED_VERSION.0);
}

#[test]
fn api_versions_tells_every_api_and_refuses_a_nameless_client() {
    let mut world = World::new();
    let named = ApiVersionsRequest {
        client_software_name: "kcat".into(),
        client_software_version: "1.7".into(),
    };
    for version in 0..=4 {
        let response = world.ask(version, named.clone());
        assert_eq!(response.error_code, ErrorCode::NONE);
        assert_eq!(response.api_keys.len(), wire::SUPPORTED.len());
        let said = response.supported_features.iter().map(|it| (&*it.name, it.max_version));
        let known = Some(("weir.level", peer::VERSION as i16)).filter(|_| version >= 3);
        assert!(said.eq(known));
        assert!(response.finalized_features.iter().all(|it| it.max_version_level == 1));
    }
    let response = world.ask(3, ApiVersionsRequest::default());
    assert_eq!(response.error_code, ErrorCode::INVALID_REQUEST);
    assert_eq!(world.node.status().connections[0].software, "kcat 1.7");
}

#[test]
fn an_unknown_api_an_old_version_and_malformed_bytes_end_the_connection() {
    for frame in [raw(999, 0, &[]), raw(0, 2, &[]), raw(3, 4, &[0xff; 3]), Bytes::new()] {
        let mut world = World::new();
        world.input(Input::Request { conn: CLIENT, frame });
        assert!(matches!(world.next(CLIENT), Came::Closed));
        // What the client pipelined behind it is not answered any more.
        world.send(CLIENT, 4, &MetadataRequest::default());
        assert!(!world.has_come(CLIENT));
    }
}

#[test]
fn answers_leave_in_the_order_of_the_requests() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    world.holds_flushes = true;
    world.send(CLIENT, 12, &produce_request("t", -1, batch(&["a"])));
    world.send(CLIENT, 4, &MetadataRequest::default());
    world.send(CLIENT, 12, &produce_request("t", -1, batch(&["b"])));
    world.pass_ms(1000);
    assert!(!world.has_come(CLIENT));
    // Another connection does not wait for this one.
    world.send(ConnId(2), 4, &MetadataRequest::default());
    world.answer::<MetadataRequest>(ConnId(2), 4);
    world.release_flushes();
    world.answer::<ProduceRequest>(CLIENT, 12);
    world.answer::<MetadataRequest>(CLIENT, 4);
    world.answer::<ProduceRequest>(CLIENT, 12);
}

#[test]
fn an_answer_for_a_connection_that_is_gone_goes_nowhere() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    world.holds_flushes = true;
    world.send(ConnId(2), 12, &produce_request("t", -1, batch(&["a"])));
    let waiting = FetchRequest { max_wait_ms: 500, min_bytes: 1, ..fetch_request("t", 0) };
    world.send(ConnId(2), 12, &waiting);
    world.input(Input::Closed { conn: ConnId(2) });
    world.release_flushes();
    world.pass_ms(1000);
    assert!(!world.has_come(ConnId(2)));
    let status = world.node.status();
    assert_eq!((status.produces_waiting, status.fetches_waiting), (0, 0));
    assert_eq!(world.values("t", 0), ["a"]);
}

#[test]
fn a_stop_ends_when_everything_is_on_flash() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    world.produce("t", batch(&["a"]));
    world.input(Input::Stop);
    world.until(|world| world.is_stopped);
    let mut world = world.restarted();
    assert_eq!(world.values("t", 0), ["a"]);
}

#[test]
fn a_node_whose_flash_fails_refuses_writes_and_serves_reads() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    world.produce("t", batch(&["a"]));
    world.fails_writes = true;
    world.send(CLIENT, 12, &produce_request("t", -1, batch(&["b"])));
    assert!(matches!(world.next(CLIENT), Came::Closed));
    assert_eq!(world.node.status().phase, Phase::Fenced);
    world.send(ConnId(2), 12, &produce_request("t", -1, batch(&["b"])));
    let said = world.answer::<ProduceRequest>(ConnId(2), 12);
    let code = said.responses[0].partition_responses[0].error_code;
    assert_eq!(code, ErrorCode::KAFKA_STORAGE_ERROR);
    world.send(ConnId(2), 12, &fetch_request("t", 0));
    let fetched = world.answer::<FetchRequest>(ConnId(2), 12);
    assert_eq!(values(&fetched.responses[0].partitions[0]), ["a"]);
    world.input(Input::Stop);
    world.until(|world| world.is_stopped);
}
