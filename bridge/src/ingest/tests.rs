//! A node that answers as it is told: what arrives, in which order, how often.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::slab::Slab;
use std::collections::VecDeque;
use weir_core::batch::{self, HEADER_BYTES, Header};
use weir_core::wire::decode_request_header;
use weir_core::wire::{Message, encode_response};

const HERE: NodeId = NodeId(1);

/// An empty topic with this id, by the leaders of its partitions.
fn found(id: u8, leaders: &[NodeId]) -> Found {
    let partitions = leaders.iter().map(|leader| FoundPartition { end: 0, leader: *leader });
    Found { id: TopicId([id; 16]), partitions: partitions.collect() }
}

/// One partition of a node that checks sequences as a node does.
#[derive(Default)]
struct Node {
    /// Values of the records, in the order of the log.
    log: Vec<String>,
    producers: batch::Producers,
    requests: VecDeque<(i32, produce::ProduceRequest)>,
}

struct World {
    ingest: Ingest,
    node: Node,
    place: Place,
    now: Instant,
    done: Vec<(Ticket, Outcome)>,
    key: Key,
}

impl World {
    fn new() -> World {
        let mut ingest = Ingest::new(HERE, 7, 0);
        let topic = ingest.topic("t", 1, false);
        assert!(!ingest.is_open(topic));
        assert_eq!(ingest.next_wanted().unwrap().name, "t");
        let now = Instant::now();
        ingest.opened(topic, &found(1, &[HERE]), now);
        let place = ingest.place(topic, b"k");
        let key = Slab::default().insert(());
        World { ingest, node: Node::default(), place, now, done: Vec::new(), key }
    }

    /// Record 0 is in the log, so that more than one batch may be in flight.
    fn known() -> World {
        let mut world = World::new();
        world.push(0, false);
        world.finish();
        world
    }

    fn push(&mut self, number: u32, refusable: bool) {
        let value = number.to_string();
        let record = Record {
            timestamp: 1,
            key: b"k",
            value: Some(value.as_bytes()),
            headers: &[("h", Some(b"v"))],
        };
        let ticket = Ticket::Publish { connection: self.key, number, refusable };
        self.ingest.push(self.place, &record, ticket, self.now);
    }

    /// Sends one request, if there is one.
    fn send(&mut self) -> bool {
        let Some(request) = self.ingest.request(LOCAL, self.now) else { return false };
        let (header, mut reader) = decode_request_header(&request).unwrap();
        assert_eq!((header.api_key, header.api_version), (0, PRODUCE_VERSION));
        let request = produce::ProduceRequest::decode(&mut reader, PRODUCE_VERSION).unwrap();
        reader.finish().unwrap();
        assert_eq!(request.acks, -1);
        self.node.requests.push_back((header.correlation_id, request));
        true
    }

    /// The node answers its oldest request: with this error, or as its log says.
    fn answer(&mut self, error: Option<ErrorCode>) {
        let (correlation_id, request) = self.node.requests.pop_front().unwrap();
        let mut response = produce::ProduceResponse::default();
        for topic in request.topic_data {
            let mut answers = Vec::new();
            for part in topic.partition_data {
                let (error_code, base_offset) = match error {
                    Some(error) => (error, -1),
                    None => self.node.append(&part.records.pieces()[0]),
                };
                let index = part.index;
                answers.push(produce::PartitionProduceResponse {
                    index,
                    error_code,
                    base_offset,
                    ..Default::default()
                });
            }
            response.responses.push(produce::TopicProduceResponse {
                name: topic.name,
                partition_responses: answers,
                ..Default::default()
            });
        }
        let frame = encode_response(&response, ApiKey::Produce, PRODUCE_VERSION, correlation_id);
        self.ingest.reply(LOCAL, frame, self.now, &mut self.done).unwrap();
    }

    /// Time passes, and everything is sent and answered until nothing is left.
    fn finish(&mut self) {
        for _ in 0..100 {
            self.now += Duration::from_secs(3);
            self.ingest.resume(self.now);
            while self.send() {}
            while !self.node.requests.is_empty() {
                self.answer(None);
            }
            if self.ingest.is_idle() {
                return;
            }
        }
        panic!("it never ends: {:?}", self.ingest);
    }

    fn check(&self, log: &[u32], refused: &[u32]) {
        let log: Vec<String> = log.iter().map(u32::to_string).collect();
        assert_eq!(self.node.log, log);
        let told = |wanted: fn(&Outcome) -> bool| -> Vec<u32> {
            let told = self.done.iter().filter(|(_, outcome)| wanted(outcome));
            told.map(|(ticket, _)| match ticket {
                Ticket::Publish { number, .. } => *number,
                other => panic!("{other:?}"),
            })
            .collect()
        };
        let durable: Vec<String> =
            told(|o| *o == Outcome::Durable).iter().map(u32::to_string).collect();
        assert_eq!(durable, log, "told in the order of the log");
        assert_eq!(told(|o| *o != Outcome::Durable), refused);
        assert_eq!(self.ingest.queued_bytes(), 0);
    }
}

impl Node {
    fn append(&mut self, bytes: &Bytes) -> (ErrorCode, i64) {
        let header = Header::parse(bytes).unwrap();
        let base_offset = self.log.len() as i64;
        match self.producers.check(&header) {
            Ok(batch::Sequence::Append) => {}
            Ok(batch::Sequence::Duplicate { base_offset }) => {
                return (ErrorCode::NONE, base_offset.0);
            }
            Err(error) => return (error, -1),
        }
        let offset = weir_core::types::Offset(base_offset);
        self.producers.apply(&header, offset);
        let records = batch::records(&bytes[HEADER_BYTES..], header.records_count);
        for record in records {
            let record = record.unwrap();
            assert_eq!(record.headers.iter().next(), Some(("h", Some(&b"v"[..]))));
            self.log.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
        }
        (ErrorCode::NONE, base_offset)
    }
}

#[test]
fn what_is_pushed_together_goes_in_one_batch_and_is_told_in_order() {
    let mut world = World::new();
    (0..100).for_each(|number| world.push(number, false));
    assert!(world.send());
    assert!(!world.send());
    world.answer(None);
    world.check(&(0..100).collect::<Vec<_>>(), &[]);
    assert_eq!(world.ingest.end(world.place), 100);
}

#[test]
fn five_batches_are_in_flight_and_the_sixth_gathers() {
    let mut world = World::known();
    for number in 1..10 {
        world.push(number, false);
        assert_eq!(world.send(), number <= 5);
    }
    world.answer(None);
    assert!(world.send());
    assert!(!world.send(), "the four that gathered went together");
    world.finish();
    world.check(&(0..10).collect::<Vec<_>>(), &[]);
}

#[test]
fn a_producer_that_the_partition_does_not_know_has_one_batch_in_flight() {
    let mut world = World::new();
    world.push(0, false);
    assert!(world.send());
    world.push(1, false);
    assert!(!world.send());
    world.answer(Some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    world.finish();
    world.check(&[0, 1], &[]);
}

#[test]
fn order_and_count_are_kept_when_a_batch_in_the_middle_fails() {
    for error in [
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ErrorCode::KAFKA_STORAGE_ERROR,
        ErrorCode::NOT_ENOUGH_REPLICAS,
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        ErrorCode::UNKNOWN_PRODUCER_ID,
    ] {
        for fails in 0..4 {
            let mut world = World::known();
            for number in 1..5 {
                world.push(number, false);
                assert!(world.send());
            }
            for number in 0..4 {
                world.answer((number == fails).then_some(error));
            }
            (5..7).for_each(|number| world.push(number, false));
            assert!(!world.send(), "nothing overtakes what failed");
            world.finish();
            world.check(&(0..7).collect::<Vec<_>>(), &[]);
        }
    }
}

#[test]
fn a_batch_that_was_appended_though_the_answer_is_lost_is_not_appended_again() {
    let mut world = World::known();
    for number in 1..4 {
        world.push(number, false);
        world.send();
    }
    let requests = std::mem::take(&mut world.node.requests);
    for (_, request) in requests {
        world.node.append(&request.topic_data[0].partition_data[0].records.pieces()[0]);
    }
    world.ingest.disconnected(LOCAL, world.now);
    world.push(4, false);
    world.finish();
    world.check(&[0, 1, 2, 3, 4], &[]);
}

#[test]
fn a_full_storage_refuses_those_who_can_be_told_and_keeps_the_rest() {
    let mut world = World::known();
    (1..6).for_each(|number| world.push(number, number % 2 == 0));
    world.send();
    (6..8).for_each(|number| world.push(number, false));
    world.send();
    world.answer(Some(ErrorCode::KAFKA_STORAGE_ERROR));
    assert!(world.ingest.is_full(world.now));
    world.answer(Some(ErrorCode::KAFKA_STORAGE_ERROR));
    world.finish();
    assert!(!world.ingest.is_full(world.now));
    world.check(&[0, 1, 3, 5, 6, 7], &[2, 4]);
}

#[test]
fn a_batch_that_is_too_large_is_split_until_only_the_record_is_left_that_is() {
    let mut world = World::known();
    (1..6).for_each(|number| world.push(number, false));
    world.send();
    world.push(6, false);
    world.send();
    world.answer(Some(ErrorCode::MESSAGE_TOO_LARGE));
    world.answer(None);
    // Two of five are in the first half, then it is one; what is behind waits.
    for _ in 0..2 {
        world.now += Duration::from_secs(3);
        world.ingest.resume(world.now);
        assert!(world.send());
        assert!(!world.send());
        world.answer(Some(ErrorCode::MESSAGE_TOO_LARGE));
    }
    world.finish();
    world.check(&[0, 2, 3, 4, 5, 6], &[1]);
}

#[test]
fn a_batch_that_nobody_takes_is_refused_and_the_next_goes_on() {
    let mut world = World::known();
    (1..3).for_each(|number| world.push(number, false));
    world.send();
    world.push(3, false);
    world.send();
    world.answer(Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED));
    world.answer(None);
    world.finish();
    world.check(&[0, 3], &[1, 2]);
}

#[test]
fn a_topic_that_was_deleted_is_opened_again_and_gets_what_waited() {
    let mut world = World::known();
    for number in 1..3 {
        world.push(number, false);
        world.send();
    }
    world.answer(Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    world.answer(Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    let wanted = world.ingest.next_wanted().unwrap();
    assert_eq!(world.ingest.next_wanted(), None);
    world.ingest.opened(wanted.topic, &found(2, &[HERE]), world.now);
    world.finish();
    world.check(&[0, 1, 2], &[]);
}

#[test]
fn partitions_that_a_new_topic_lacks_give_their_records_to_those_it_has() {
    let mut ingest = Ingest::new(HERE, 7, 0);
    let now = Instant::now();
    let topic = ingest.topic("t", 4, false);
    ingest.opened(topic, &found(1, &[HERE; 4]), now);
    for number in 0..40u32 {
        let key = number.to_be_bytes();
        let record = Record { timestamp: 0, key: &key, value: None, headers: &[] };
        let place = ingest.place(topic, &key);
        ingest.push(place, &record, Ticket::Nobody, now);
    }
    ingest.opened(topic, &found(2, &[HERE; 2]), now);
    let request = ingest.request(LOCAL, now).unwrap();
    let (_, mut reader) = decode_request_header(&request).unwrap();
    let request = produce::ProduceRequest::decode(&mut reader, PRODUCE_VERSION).unwrap();
    assert!(request.topic_data[0].partition_data.iter().all(|part| part.index < 2));
}

#[test]
fn room_ends_and_comes_back() {
    let mut world = World::new();
    let value = vec![b'1'; 1 << 20];
    while world.ingest.has_room() {
        let record =
            Record { timestamp: 1, key: b"k", value: Some(&value), headers: &[("h", Some(b"v"))] };
        world.ingest.push(world.place, &record, Ticket::Nobody, world.now);
    }
    assert!(world.ingest.queued_bytes() < QUEUED_BYTES_MAX + (2 << 20));
    world.finish();
    assert_eq!(world.ingest.queued_bytes(), 0);
}
