//! Facts about the node, each proved through its one way in and one way out.
//!
//! [`World`] is a driver in memory: it performs every disk operation at once, unless a test holds
//! flushes back, and moves the clock only to the node's own deadlines.

mod admin;
mod configs;
mod fetch;
mod groups;
mod produce;
mod protocol;
mod restart;
mod topics;

use super::*;
use crate::batch::{Builder, ProducerStamp};
use crate::bytes::Reader;
use crate::error::ErrorCode;
use crate::log::flip;
use crate::types::TopicId;
use crate::wire::fetch::{FetchPartition, FetchRequest, FetchTopic};
use crate::wire::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, TopicProduceData,
};
use crate::wire::topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use crate::wire::{self, Request};
use alloc::vec;

const SLOT_BYTES: u32 = 1 << 20;
const SLOTS: u32 = 128;
const CLIENT: ConnId = ConnId(1);

/// What came out for one connection.
#[derive(Debug)]
enum Came {
    Reply(Bytes),
    NoReply,
    Closed,
}

struct World {
    node: Node,
    now: Time,
    medium: Vec<u8>,
    came: BTreeMap<ConnId, VecDeque<Came>>,
    /// Flushes are not done before this is lifted.
    holds_flushes: bool,
    held: VecDeque<OpId>,
    /// Batches are not unpacked before this is lifted.
    holds_codecs: bool,
    held_codecs: VecDeque<Io>,
    fails_writes: bool,
    correlation_id: i32,
    is_ready: bool,
    is_stopped: bool,
}

impl World {
    fn new() -> World {
        World::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> World {
        let start = Start::Format { store: [7; 16], slot_bytes: SLOT_BYTES, slots: SLOTS };
        World::start(Vec::new(), start, change)
    }

    /// As after a cut: what was written is there.
    fn restarted(self) -> World {
        World::start(self.medium, Start::Recover, |settings| settings.seed = 8)
    }

    fn start(medium: Vec<u8>, start: Start, change: impl FnOnce(&mut Settings)) -> World {
        let mut settings = Settings {
            node: NodeId(1),
            rack: None,
            advertised_host: "gateway".into(),
            advertised_port: 9092,
            start,
            medium_bytes: medium.len() as u64,
            flush_cap: None,
            flush_window: crate::log::FLUSH_WINDOW,
            upkeep: Default::default(),
            checkpoint_bytes: 4 << 20,
            tail_cache_bytes: 1 << 20,
            footer_cache_bytes: 1 << 20,
            index_runs_max: 10_000,
            topic_defaults: BTreeMap::new(),
            num_partitions: 1,
            default_replication_factor: None,
            auto_create_topics: true,
            voters: Vec::new(),
            holds_partitions: true,
            peer_address: ("gw".into(), 9093),
            release: Release::default(),
            replica_limits: Default::default(),
            unguarded: Default::default(),
            seed: 7,
        };
        change(&mut settings);
        let now = Time(1);
        let mut world = World {
            node: Node::new(now, settings),
            now,
            medium,
            came: BTreeMap::new(),
            holds_flushes: false,
            held: VecDeque::new(),
            holds_codecs: false,
            held_codecs: VecDeque::new(),
            fails_writes: false,
            correlation_id: 0,
            is_ready: false,
            is_stopped: false,
        };
        world.input(Input::WallClock { now: WallTime(1_000_000), trusted: true });
        world.until(|world| world.is_ready);
        world
    }

    fn input(&mut self, input: Input) {
        self.node.handle(self.now, input);
        self.settle();
    }

    /// Performs outputs until there are none.
    fn settle(&mut self) {
        while let Some(output) = self.node.poll(self.now) {
            match output {
                Output::Io(io) => self.perform(io),
                Output::Reply { conn, frame } => {
                    let whole: Vec<u8> = frame.0.iter().flatten().copied().collect();
                    let size = u32::from_be_bytes(whole[..4].try_into().unwrap());
                    assert_eq!(size as usize, whole.len() - 4);
                    let reply = Came::Reply(Bytes::from(whole).slice(4..));
                    self.came.entry(conn).or_default().push_back(reply);
                }
                Output::NoReply { conn } => {
                    self.came.entry(conn).or_default().push_back(Came::NoReply);
                }
                Output::Close { conn } => {
                    self.came.entry(conn).or_default().push_back(Came::Closed);
                }
                Output::Send { .. } => panic!("a gateway by itself has no peers"),
                Output::Peers { addresses, .. } => assert!(addresses.is_empty()),
                Output::Ready => self.is_ready = true,
                Output::Refused(error) => panic!("refused: {error:?}"),
                Output::Stopped => self.is_stopped = true,
            }
        }
    }

    fn perform(&mut self, io: Io) {
        match io {
            Io::Unpack { .. } if self.holds_codecs => self.held_codecs.push_back(io),
            Io::Flush { op } if self.holds_flushes => self.held.push_back(op),
            io => {
                let (op, result) = self.done(io);
                self.node.handle(self.now, Input::Done { op, result });
            }
        }
    }

    /// Performs what a log wants on this medium, without a node.
    fn run_log(&mut self, log: &mut Log) {
        self.now = log.deadline().unwrap_or(self.now).max(self.now);
        while let Some(io) = log.poll_io(self.now) {
            let (op, result) = self.done(io);
            log.done(self.now, op, result);
        }
    }

    fn done(&mut self, io: Io) -> (OpId, IoResult) {
        match io {
            Io::Write { op, .. } if self.fails_writes => (op, IoResult::Failed),
            Io::Write { op, at, bytes } => {
                let at = at as usize;
                self.medium.resize(self.medium.len().max(at + bytes.len()), 0);
                self.medium[at..at + bytes.len()].copy_from_slice(&bytes);
                (op, IoResult::Done)
            }
            Io::Zero { op, at, len } => {
                let (at, end) = (at as usize, at as usize + len as usize);
                self.medium.resize(self.medium.len().max(end), 0);
                self.medium[at..end].fill(0);
                (op, IoResult::Done)
            }
            Io::Read { op, at, len, .. } | Io::Verify { op, at, len } => {
                let mut bytes = vec![0; len as usize];
                let have = self.medium.get(at as usize..).unwrap_or_default();
                let have = &have[..have.len().min(bytes.len())];
                bytes[..have.len()].copy_from_slice(have);
                (op, IoResult::Read(bytes.into()))
            }
            Io::Unpack { op, batch, .. } => (op, flip::unpack(&batch)),
            Io::Pack { op, batch, codec } => (op, flip::pack(&batch, codec)),
            Io::Flush { op } => (op, IoResult::Done),
        }
    }

    fn release_flushes(&mut self) {
        self.holds_flushes = false;
        while let Some(op) = self.held.pop_front() {
            self.input(Input::Done { op, result: IoResult::Done });
        }
    }

    fn release_codecs(&mut self) {
        self.holds_codecs = false;
        while let Some(io) = self.held_codecs.pop_front() {
            self.perform(io);
            self.settle();
        }
    }

    /// Moves the clock from deadline to deadline until something holds.
    fn until(&mut self, holds: impl Fn(&World) -> bool) {
        for _ in 0..10_000 {
            if holds(self) {
                return;
            }
            self.now = self.node.deadline().expect("something is awaited").max(self.now);
            self.input(Input::Tick);
        }
        panic!("it never came");
    }

    fn pass_ms(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        while let Some(deadline) = self.node.deadline().filter(|at| *at < end) {
            self.now = deadline.max(Time(self.now.0 + 1));
            self.input(Input::Tick);
        }
        self.now = end;
        self.input(Input::Tick);
    }

    /// Hands in a request and does not wait for its answer.
    fn send<R: Request>(&mut self, conn: ConnId, version: i16, request: &R) {
        self.correlation_id += 1;
        let frame = wire::encode_request(request, version, self.correlation_id, Some("test"));
        let whole: Vec<u8> = frame.0.iter().flatten().copied().collect();
        self.input(Input::Request { conn, frame: Bytes::from(whole).slice(4..) });
    }

    fn next(&mut self, conn: ConnId) -> Came {
        self.until(|world| world.came.get(&conn).is_some_and(|came| !came.is_empty()));
        self.came.get_mut(&conn).unwrap().pop_front().unwrap()
    }

    fn has_come(&self, conn: ConnId) -> bool {
        self.came.get(&conn).is_some_and(|came| !came.is_empty())
    }

    fn answer<R: Request>(&mut self, conn: ConnId, version: i16) -> R::Response {
        match self.next(conn) {
            Came::Reply(frame) => wire::decode_response::<R>(&frame, version).unwrap().1,
            other => panic!("no reply but {other:?}"),
        }
    }

    fn ask<R: Request>(&mut self, version: i16, request: R) -> R::Response {
        self.send(CLIENT, version, &request);
        self.answer::<R>(CLIENT, version)
    }

    fn create_topic(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> TopicId {
        let configs = configs.iter().map(|(name, value)| CreatableTopicConfig {
            name: (*name).into(),
            value: Some((*value).into()),
        });
        let topic = CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: 1,
            configs: configs.collect(),
            ..CreatableTopic::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], ..CreateTopicsRequest::default() };
        let response = self.ask(7, request);
        assert_eq!(response.topics[0].error_code, ErrorCode::NONE, "{response:?}");
        response.topics[0].topic_id
    }

    /// Produces to partition 0 with the newest version that goes by name.
    fn produce(&mut self, topic: &str, batch: Vec<u8>) -> PartitionProduceResponse {
        let mut response = self.ask(12, produce_request(topic, -1, batch));
        response.responses.remove(0).partition_responses.remove(0)
    }

    /// Fetches partition 0 from an offset, as a client without session does.
    fn fetch(&mut self, topic: &str, from: i64) -> wire::fetch::PartitionData {
        let mut response = self.ask(12, fetch_request(topic, from));
        response.responses.remove(0).partitions.remove(0)
    }

    fn values(&mut self, topic: &str, from: i64) -> Vec<String> {
        values(&self.fetch(topic, from))
    }
}

fn produce_request(topic: &str, acks: i16, batch: Vec<u8>) -> ProduceRequest {
    let records = Bytes::from(batch).into();
    let data = TopicProduceData {
        name: topic.into(),
        partition_data: vec![PartitionProduceData { index: 0, records }],
        ..TopicProduceData::default()
    };
    ProduceRequest { acks, timeout_ms: 1000, topic_data: vec![data], ..ProduceRequest::default() }
}

fn fetch_request(topic: &str, from: i64) -> FetchRequest {
    let partition = FetchPartition {
        fetch_offset: from,
        partition_max_bytes: 1 << 20,
        ..FetchPartition::default()
    };
    let topic =
        FetchTopic { topic: topic.into(), partitions: vec![partition], ..FetchTopic::default() };
    FetchRequest { topics: vec![topic], max_bytes: 1 << 20, ..FetchRequest::default() }
}

/// A batch of records with these values and one key.
fn batch(values: &[&str]) -> Vec<u8> {
    stamped(values, None)
}

fn stamped(values: &[&str], stamp: Option<ProducerStamp>) -> Vec<u8> {
    let mut builder = Builder::new();
    for (at, value) in values.iter().enumerate() {
        builder.push(1000 + at as i64, Some(b"key"), Some(value.as_bytes()), &[]);
    }
    builder.build(stamp)
}

/// The values of all records that a partition's answer holds.
fn values(data: &wire::fetch::PartitionData) -> Vec<String> {
    let mut values = Vec::new();
    for piece in data.records.0.iter().flatten() {
        let mut bytes = piece.clone();
        while let Some(batch) = crate::batch::next_batch(&mut bytes) {
            let (header, batch) = batch.unwrap();
            let section = &batch[crate::batch::HEADER_BYTES..];
            for record in crate::batch::records(section, header.records_count) {
                let value = record.unwrap().value.unwrap();
                values.push(String::from_utf8(value.to_vec()).unwrap());
            }
        }
    }
    values
}

/// A frame of bytes that no client would send.
fn raw(api: i16, version: i16, body: &[u8]) -> Bytes {
    let mut frame = Vec::new();
    frame.extend_from_slice(&api.to_be_bytes());
    frame.extend_from_slice(&version.to_be_bytes());
    frame.extend_from_slice(&9i32.to_be_bytes());
    frame.extend_from_slice(&(-1i16).to_be_bytes());
    frame.extend_from_slice(body);
    frame.into()
}

fn i32_at(bytes: &Bytes, at: usize) -> i32 {
    let mut reader = Reader::new(bytes.slice(at..));
    reader.i32().unwrap()
}
