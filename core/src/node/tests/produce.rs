//! Produce: what is taken, what is refused, and when it is answered.

use super::*;
use crate::batch::Codec;
use crate::wire::producers::InitProducerIdRequest;

fn check(topic_configs: &[(&str, &str)], batch: Vec<u8>, code: ErrorCode) {
    let mut world = World::new();
    world.create_topic("t", 1, topic_configs);
    let said = world.produce("t", batch);
    assert_eq!(said.error_code, code);
    let taken = world.fetch("t", 0).high_watermark;
    assert_eq!(taken > 0, code == ErrorCode::NONE);
}

#[test]
fn every_version_of_produce_and_fetch_passes_records_through() {
    let mut world = World::new();
    let id = world.create_topic("t", 1, &[]);
    for version in 3..=13 {
        let mut request = produce_request("t", -1, batch(&["a", "b"]));
        request.topic_data[0].topic_id = id;
        let response = world.ask(version, request);
        let said = &response.responses[0].partition_responses[0];
        assert_eq!(said.error_code, ErrorCode::NONE, "version {version}");
        assert_eq!(said.base_offset, i64::from(version - 3) * 2);
    }
    for version in 4..=18 {
        let mut request = fetch_request("t", 3);
        request.topics[0].topic_id = id;
        let response = world.ask(version, request);
        let data = &response.responses[0].partitions[0];
        assert_eq!((data.error_code, data.high_watermark), (ErrorCode::NONE, 22));
        // A batch is whole though it begins before the offset that was asked for.
        assert_eq!(values(data).len(), 20, "version {version}");
    }
}

#[test]
fn a_produce_is_answered_when_its_records_are_on_flash_and_shown_then() {
    for acks in [-1, 1] {
        let mut world = World::new();
        world.create_topic("t", 1, &[]);
        world.holds_flushes = true;
        world.send(CLIENT, 12, &produce_request("t", acks, batch(&["a"])));
        world.pass_ms(10_000);
        assert!(!world.has_come(CLIENT));
        world.send(ConnId(2), 12, &fetch_request("t", 0));
        let fetched = world.answer::<FetchRequest>(ConnId(2), 12);
        assert!(values(&fetched.responses[0].partitions[0]).is_empty());
        world.release_flushes();
        world.answer::<ProduceRequest>(CLIENT, 12);
        assert_eq!(world.values("t", 0), ["a"]);
    }
}

#[test]
fn acks_0_has_no_answer_but_an_end_when_it_fails() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    world.holds_flushes = true;
    world.send(CLIENT, 12, &produce_request("t", 0, batch(&["a"])));
    world.pass_ms(1000);
    assert!(!world.has_come(CLIENT), "what waits for the flash counts as a request that waits");
    world.release_flushes();
    assert!(matches!(world.next(CLIENT), Came::NoReply));
    assert_eq!(world.values("t", 0), ["a"]);
    world.send(CLIENT, 12, &produce_request("no", 0, batch(&["a"])));
    assert!(matches!(world.next(CLIENT), Came::Closed));
}

#[test]
fn a_repeated_batch_gets_the_first_answer_and_no_earlier() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    let producer_id = world.ask(4, InitProducerIdRequest::default()).producer_id;
    let stamp = ProducerStamp { producer_id, ..ProducerStamp::default() };
    world.holds_flushes = true;
    world.send(CLIENT, 12, &produce_request("t", -1, stamped(&["a", "b"], Some(stamp))));
    world.send(ConnId(2), 12, &produce_request("t", -1, stamped(&["a", "b"], Some(stamp))));
    world.pass_ms(1000);
    assert!(!world.has_come(CLIENT) && !world.has_come(ConnId(2)));
    world.release_flushes();
    for conn in [CLIENT, ConnId(2)] {
        let response = world.answer::<ProduceRequest>(conn, 12);
        let said = &response.responses[0].partition_responses[0];
        assert_eq!((said.error_code, said.base_offset), (ErrorCode::NONE, 0));
    }
    assert_eq!(world.values("t", 0), ["a", "b"]);
    let gap = ProducerStamp { base_sequence: 9, ..stamp };
    let said = world.produce("t", stamped(&["x"], Some(gap)));
    assert_eq!(said.error_code, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    let next = ProducerStamp { base_sequence: 2, ..stamp };
    assert_eq!(world.produce("t", stamped(&["c"], Some(next))).base_offset, 2);
}

#[test]
fn what_kafka_refuses_is_refused_with_its_codes() {
    check(&[], batch(&["a"]), ErrorCode::NONE);
    let mut corrupt = batch(&["a"]);
    *corrupt.last_mut().unwrap() ^= 1;
    check(&[], corrupt, ErrorCode::CORRUPT_MESSAGE);
    let two = [batch(&["a"]), batch(&["b"])].concat();
    check(&[], two, ErrorCode::INVALID_RECORD);
    check(&[], Vec::new(), ErrorCode::INVALID_RECORD);
    let mut old = batch(&["a"]);
    old[16] = 1;
    check(&[], old, ErrorCode::INVALID_RECORD);
    let transactional = ProducerStamp { transactional: true, ..ProducerStamp::default() };
    check(&[], stamped(&["a"], Some(transactional)), ErrorCode::INVALID_TXN_STATE);
    check(&[("max.message.bytes", "70")], batch(&["a"]), ErrorCode::MESSAGE_TOO_LARGE);
}

/// As a producer with a codec sends it.
fn packed(batch: Vec<u8>) -> Vec<u8> {
    let IoResult::Read(packed) = flip::pack(&batch, Codec::Gzip) else { panic!("a whole batch") };
    packed.to_vec()
}

#[test]
fn a_record_without_key_is_not_for_a_compacted_topic() {
    let mut builder = Builder::new();
    builder.push(1000, Some(b"k"), Some(b"a"), &[]);
    builder.push(1000, None, Some(b"b"), &[]);
    let keyless = builder.build(None);
    let compacted = [("cleanup.policy", "compact")];
    for sent in [keyless.clone(), packed(keyless)] {
        let mut world = World::new();
        world.create_topic("t", 1, &compacted);
        let said = world.produce("t", sent);
        assert_eq!(said.error_code, ErrorCode::INVALID_RECORD);
        assert_eq!(said.record_errors.len(), 1);
        assert_eq!(said.record_errors[0].batch_index, 1);
        let why = "Compacted topic cannot accept message without key in topic partition t-0.";
        assert_eq!(said.record_errors[0].batch_index_error_message.as_deref(), Some(why));
    }
    check(&compacted, batch(&["a"]), ErrorCode::NONE);
    check(&compacted, packed(batch(&["a"])), ErrorCode::NONE);
}

#[test]
fn what_is_unpacked_first_keeps_its_place_before_later_batches_of_its_connection() {
    let mut world = World::new();
    world.create_topic("t", 1, &[("cleanup.policy", "compact")]);
    let stamp = |base_sequence| ProducerStamp {
        producer_id: 1,
        producer_epoch: 0,
        base_sequence,
        transactional: false,
    };
    world.holds_codecs = true;
    let first = packed(stamped(&["a"], Some(stamp(0))));
    world.send(CLIENT, 12, &produce_request("t", -1, first));
    world.send(CLIENT, 12, &produce_request("t", -1, stamped(&["b"], Some(stamp(1)))));
    world.send(ConnId(2), 12, &produce_request("t", -1, batch(&["c"])));
    let other = world.answer::<ProduceRequest>(ConnId(2), 12);
    assert_eq!(other.responses[0].partition_responses[0].base_offset, 0);
    assert!(!world.has_come(CLIENT));
    world.release_codecs();
    for base_offset in 1..3 {
        let said = world.answer::<ProduceRequest>(CLIENT, 12);
        let said = &said.responses[0].partition_responses[0];
        assert_eq!((said.error_code, said.base_offset), (ErrorCode::NONE, base_offset));
    }
}

#[test]
fn only_a_trusted_clock_calls_a_timestamp_wrong() {
    let mut builder = Builder::new();
    builder.push(1_000_000 + 7_200_000, None, Some(b"a"), &[]);
    let ahead = builder.build(None);
    check(&[], ahead.clone(), ErrorCode::INVALID_TIMESTAMP);
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    world.input(Input::WallClock { now: WallTime(0), trusted: false });
    assert_eq!(world.produce("t", ahead).error_code, ErrorCode::NONE);
}

#[test]
fn log_append_time_is_the_gateways_time() {
    let mut world = World::new();
    world.create_topic("t", 1, &[("message.timestamp.type", "LogAppendTime")]);
    let said = world.produce("t", batch(&["a"]));
    assert!(said.log_append_time_ms >= 1_000_000);
    let fetched = world.fetch("t", 0);
    let header = crate::batch::Header::parse(&fetched.records.0.unwrap()[0]).unwrap();
    assert_eq!(header.max_timestamp, said.log_append_time_ms);
    assert!(header.is_log_append_time());
}

#[test]
fn acks_that_kafka_does_not_have_and_transactions_are_refused_whole() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    let said = world.ask(12, produce_request("t", 2, batch(&["a"])));
    let code = said.responses[0].partition_responses[0].error_code;
    assert_eq!(code, ErrorCode::INVALID_REQUIRED_ACKS);
    let said = world.ask(
        12,
        ProduceRequest {
            transactional_id: Some("x".into()),
            ..produce_request("t", -1, batch(&["a"]))
        },
    );
    let code = said.responses[0].partition_responses[0].error_code;
    assert_eq!(code, ErrorCode::INVALID_TXN_STATE);
    let transactional =
        InitProducerIdRequest { transactional_id: Some("x".into()), ..Default::default() };
    assert_eq!(world.ask(4, transactional).error_code, ErrorCode::INVALID_REQUEST);
}
