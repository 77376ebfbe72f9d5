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
    /// With the lanes that they came along.
    requests: VecDeque<(usize, i32, produce::ProduceRequest)>,
}

struct World {
    ingest: Ingest,
    node: Node,
    /// Who leads; the others say that they do not.
    leader: NodeId,
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
        World { ingest, node: Node::default(), leader: HERE, place, now, done: Vec::new(), key }
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
        let lanes = 0..self.ingest.lanes().len();
        let mut requests =
            lanes.filter_map(|lane| Some((lane, self.ingest.request(lane, self.now)?)));
        let Some((lane, request)) = requests.next() else { return false };
        let (header, mut reader) = decode_request_header(&request).unwrap();
        assert_eq!((header.api_key, header.api_version), (0, PRODUCE_VERSION));
        let request = produce::ProduceRequest::decode(&mut reader, PRODUCE_VERSION).unwrap();
        reader.finish().unwrap();
        assert_eq!(request.acks, -1);
        self.node.requests.push_back((lane, header.correlation_id, request));
        true
    }

    /// The node answers its oldest request: with this error, or as its log says.
    fn answer(&mut self, error: Option<ErrorCode>) {
        let (lane, correlation_id, request) = self.node.requests.pop_front().unwrap();
        let leads = self.ingest.lanes().nth(lane) == Some(self.leader);
        let error = error.or((!leads).then_some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
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
        self.ingest.reply(lane, frame, self.now, &mut self.done).unwrap();
    }

    /// Whoever leads is found.
    fn seek(&mut self) {
        for (topic, _) in self.ingest.take_sought() {
            self.ingest.found(topic, &[(0, self.leader)], self.now);
        }
    }

    /// Time passes, and everything is sent and answered until nothing is left.
    fn finish(&mut self) {
        for _ in 0..100 {
            self.now += Duration::from_secs(3);
            self.seek();
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
    for (_, _, request) in requests {
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
fn another_leader_gets_what_the_first_one_refuses_once_and_in_order() {
    let mut world = World::known();
    for number in 1..5 {
        world.push(number, false);
        assert!(world.send());
    }
    world.answer(None);
    world.leader = NodeId(2);
    for _ in 0..3 {
        world.answer(None);
    }
    world.push(5, false);
    assert!(!world.send(), "nobody knows yet who leads");
    world.seek();
    world.ingest.resume(world.now);
    assert!(world.send(), "what is known is used at once");
    assert_eq!(world.node.requests[0].0, 1, "along the lane of the second gateway");
    world.finish();
    world.check(&[0, 1, 2, 3, 4, 5], &[]);
}

#[test]
fn batches_that_reached_a_leader_which_then_died_are_not_appended_again() {
    let mut world = World::known();
    for number in 1..5 {
        world.push(number, number == 1);
        world.send();
    }
    let requests = std::mem::take(&mut world.node.requests);
    for (_, _, request) in requests.into_iter().take(2) {
        world.node.append(&request.topic_data[0].partition_data[0].records.pieces()[0]);
    }
    world.leader = NodeId(2);
    world.ingest.disconnected(LOCAL, world.now);
    world.seek();
    world.ingest.resume(world.now);
    assert!(world.send());
    // The next leader has no space; what it may have already must be neither refused nor changed.
    world.answer(Some(ErrorCode::KAFKA_STORAGE_ERROR));
    world.push(5, false);
    world.finish();
    world.check(&[0, 1, 2, 3, 4, 5], &[]);
}

#[test]
fn a_leader_that_falls_silent_is_given_up_once_another_one_leads() {
    let mut world = World::known();
    world.push(1, false);
    world.send();
    world.node.requests.clear();
    world.now += Duration::from_millis(500);
    assert!(!world.ingest.look_at(LOCAL, world.now));
    assert!(!world.ingest.has_sought(), "it is not slow yet");
    world.now += Duration::from_secs(1);
    assert!(!world.ingest.look_at(LOCAL, world.now));
    world.seek();
    assert!(!world.ingest.look_at(LOCAL, world.now), "it leads and may need its time");
    world.leader = NodeId(2);
    world.seek();
    assert!(world.ingest.look_at(LOCAL, world.now));
    world.ingest.disconnected(LOCAL, world.now);
    world.finish();
    world.check(&[0, 1], &[]);
}

#[test]
fn a_partition_without_leader_waits_and_goes_on_where_it_was() {
    let mut world = World::known();
    world.leader = NodeId(-1);
    (1..4).for_each(|number| world.push(number, false));
    for _ in 0..20 {
        world.now += Duration::from_millis(200);
        world.seek();
        world.ingest.resume(world.now);
        if world.send() {
            world.answer(None);
        }
    }
    assert!(world.ingest.queued_bytes() > 0);
    world.leader = HERE;
    world.finish();
    world.check(&[0, 1, 2, 3], &[]);
}

#[test]
fn a_topic_that_is_found_again_as_it_was_keeps_its_sequences() {
    let mut world = World::known();
    world.push(1, false);
    world.send();
    let (_, _, request) = world.node.requests.pop_front().unwrap();
    world.node.append(&request.topic_data[0].partition_data[0].records.pieces()[0]);
    world.ingest.disconnected(LOCAL, world.now);
    world.now += Duration::from_secs(1);
    world.ingest.resume(world.now);
    world.send();
    // A gateway that has just started does not know its topics yet.
    world.answer(Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    let wanted = world.ingest.next_wanted().unwrap();
    world.ingest.opened(wanted.topic, &found(1, &[HERE]), world.now);
    world.finish();
    world.check(&[0, 1], &[]);
}
