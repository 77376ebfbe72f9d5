//! A hub, a node that is only logs, and devices: all in one thread, step by step.

use crate::client::OwnedRecord;
use crate::ingest::{Found, FoundPartition, Ingest, LOCAL};
use crate::mqtt::hub::{Clock, Hub};
use crate::mqtt::restore::Restored;
use crate::mqtt::status::Counters;
use crate::rules::Rules;
use crate::settings;
use crate::slab::Key;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir_core::batch::{self, HEADER_BYTES, Header};
use weir_core::error::ErrorCode;
use weir_core::types::{NodeId, TopicId};
use weir_core::wire::{ApiKey, Frame, Message, decode_request_header, encode_response, produce};

pub(super) const SESSIONS: &str = "__mqtt_sessions-1";

/// What is on flash: it survives.
pub(super) type Logs = BTreeMap<(String, i32), Vec<OwnedRecord>>;

pub(super) struct World {
    pub hub: Hub,
    pub logs: Logs,
    pub now: Instant,
    /// What the node does before the power is cut: each append to a partition and each answer
    /// counts.
    pub steps_left: usize,
    /// The node has no space.
    pub full: bool,
    /// Nobody leads this partition of any topic.
    pub away: Option<i32>,
}

/// A device's end of a connection.
pub(super) struct Device {
    pub key: Key,
    kept: Vec<u8>,
}

impl World {
    pub fn new(logs: Logs) -> World {
        World::with(logs, settings::Mqtt { default_partitions: 1, ..settings::Mqtt::default() })
    }

    pub fn with(logs: Logs, settings: settings::Mqtt) -> World {
        let now = Instant::now();
        let rules = Rules::new(&settings).unwrap();
        let mut restored = Restored::default();
        let sessions = (SESSIONS.to_string(), 0);
        logs.get(&sessions).into_iter().flatten().for_each(|record| restored.session(record));
        for ((topic, index), offset) in restored.positions() {
            let log = logs.get(&(topic, index)).into_iter().flatten();
            log.skip(offset as usize).for_each(|record| restored.publish(record));
        }
        let counters = Arc::new(Counters::default());
        let hub = Hub::new(&settings, rules, counters, Ingest::new(NodeId(1), 7, 0));
        let steps_left = usize::MAX;
        let mut world = World { hub, logs, now, steps_left, full: false, away: None };
        let sessions = world.hub.sessions_topic;
        assert!(!world.hub.ingest.is_open(sessions));
        world.open_topics();
        world.hub.restored(restored, now);
        world
    }

    pub fn clock(&self) -> Clock {
        Clock { now: self.now, wall_ms: 0 }
    }

    fn open_topics(&mut self) {
        while let Some(wanted) = self.hub.ingest.next_wanted() {
            let end = |index| {
                self.logs.get(&(wanted.name.clone(), index)).map_or(0, |log| log.len() as i64)
            };
            let found = |index| FoundPartition { end: end(index), leader: NodeId(1) };
            let partitions = (0..wanted.partitions as i32).map(found).collect();
            let found = Found { id: TopicId::NONE, partitions };
            self.hub.ingest.opened(wanted.topic, &found, self.now);
            self.hub.unblock();
        }
    }

    pub fn connection(&mut self) -> Device {
        Device { key: self.hub.accepted(self.now).unwrap(), kept: Vec::new() }
    }

    /// A device sends bytes; returns what it gets.
    pub fn send(&mut self, device: &mut Device, bytes: &[u8]) -> Vec<u8> {
        device.kept.extend_from_slice(bytes);
        self.run(device)
    }

    /// Everything goes on until nothing moves or the power is cut; returns what the device gets. At
    /// a cut it gets nothing.
    pub fn run(&mut self, device: &mut Device) -> Vec<u8> {
        loop {
            let used = match self.hub.connections.get(device.key) {
                Some(connection) if connection.blocked.is_none() => {
                    let clock = self.clock();
                    self.hub.bytes(device.key, &device.kept, clock)
                }
                _ => 0,
            };
            device.kept.drain(..used);
            let blocked = self.is_blocked(device);
            self.open_topics();
            for (topic, _) in self.hub.ingest.take_sought() {
                self.hub.ingest.found(topic, &[], self.now);
            }
            let clock = self.clock();
            self.hub.flush_sessions(clock);
            self.hub.ingest.resume(self.now);
            let request = self.hub.ingest.request(LOCAL, self.now);
            let moved = used > 0 || request.is_some();
            if let Some(request) = request {
                let Some(reply) = self.node(&request) else { return Vec::new() };
                let clock = self.clock();
                self.hub.reply(LOCAL, reply, clock).unwrap();
            }
            if !moved && blocked == self.is_blocked(device) {
                break;
            }
        }
        let connection = self.hub.connections.get_mut(device.key);
        connection.map(|connection| std::mem::take(&mut connection.out)).unwrap_or_default()
    }

    fn is_blocked(&self, device: &Device) -> bool {
        self.hub.connections.get(device.key).is_some_and(|c| c.blocked.is_some())
    }

    fn step(&mut self) -> bool {
        self.steps_left = self.steps_left.saturating_sub(1);
        self.steps_left > 0
    }

    /// Appends and answers, unless the power is cut before, in between, or after.
    fn node(&mut self, request: &Bytes) -> Option<Frame> {
        let (header, mut reader) = decode_request_header(request).unwrap();
        let request = produce::ProduceRequest::decode(&mut reader, header.api_version).unwrap();
        let mut response = produce::ProduceResponse::default();
        for topic in request.topic_data {
            let mut answers = Vec::new();
            for part in topic.partition_data {
                if !self.step() {
                    return None;
                }
                let log = self.logs.entry((topic.name.clone(), part.index)).or_default();
                let base_offset = log.len() as i64;
                let mut error_code = ErrorCode::NONE;
                if self.away == Some(part.index) {
                    error_code = ErrorCode::NOT_LEADER_OR_FOLLOWER;
                } else if self.full {
                    error_code = ErrorCode::KAFKA_STORAGE_ERROR;
                } else {
                    append(log, &part.records.pieces()[0]);
                }
                let index = part.index;
                let answer = produce::PartitionProduceResponse {
                    index,
                    error_code,
                    base_offset,
                    ..Default::default()
                };
                answers.push(answer);
            }
            let (name, partition_responses) = (topic.name, answers);
            response.responses.push(produce::TopicProduceResponse {
                name,
                partition_responses,
                ..Default::default()
            });
        }
        let version = header.api_version;
        let frame = encode_response(&response, ApiKey::Produce, version, header.correlation_id);
        self.step().then_some(frame)
    }

    /// The payloads in the default topic.
    pub fn payloads(&self) -> Vec<String> {
        let logs = self.logs.iter().filter(|((topic, _), _)| !topic.starts_with("__"));
        let values = logs.flat_map(|(_, log)| log).filter_map(|record| record.value.as_ref());
        values.map(|value| String::from_utf8_lossy(value).into_owned()).collect()
    }

    pub fn passes(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        let clock = self.clock();
        self.hub.tick(clock);
    }
}

fn append(log: &mut Vec<OwnedRecord>, bytes: &Bytes) {
    let header = Header::parse(bytes).unwrap();
    for record in batch::records(&bytes[HEADER_BYTES..], header.records_count) {
        let record = record.unwrap();
        let owned = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        log.push(OwnedRecord {
            offset: log.len() as i64,
            timestamp: 0,
            key: record.key.map(owned),
            value: record.value.map(owned),
            headers: record.headers.iter().map(|(k, v)| (k.into(), v.map(owned))).collect(),
        });
    }
}

/// A packet with this first byte.
pub(super) fn packet(first: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    assert!(body.len() < 128);
    [&[first, body.len() as u8], &body[..]].concat()
}

pub(super) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// A CONNECT whose session outlives its connection unless it is clean.
pub(super) fn connect(v5: bool, client_id: &str, clean: bool) -> Vec<u8> {
    let head = [if v5 { 5 } else { 4 }, if clean { 2 } else { 0 }, 0, 10];
    let expiry: &[u8] = if clean { &[0] } else { &[5, 17, 0, 0, 1, 0] };
    let properties = if v5 { expiry } else { &[] };
    packet(0x10, &[&text("MQTT"), &head, properties, &text(client_id)])
}

pub(super) fn publish(v5: bool, flags: u8, topic: &str, identifier: u16, payload: &str) -> Vec<u8> {
    let identifier = identifier.to_be_bytes();
    let identifier: &[u8] = if flags & 6 == 0 { &[] } else { &identifier };
    let properties: &[u8] = if v5 { &[0] } else { &[] };
    packet(0x30 | flags, &[&text(topic), identifier, properties, payload.as_bytes()])
}

pub(super) fn pubrel(identifier: u16) -> Vec<u8> {
    packet(0x62, &[&identifier.to_be_bytes()])
}

/// First bytes and bodies.
pub(super) fn packets(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while let [first, len, rest @ ..] = bytes {
        let (body, after) = rest.split_at(usize::from(*len));
        all.push((*first, body.to_vec()));
        bytes = after;
    }
    all
}
