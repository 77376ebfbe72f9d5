//! A simulated client: a connection, requests in flight on it, and a role that decides what to ask.

use crate::admin::Admin;
use crate::checks::{Bounded, Verdict, Violation};
use crate::consumer::Consumer;
use crate::history::{BatchId, History, Sent};
use crate::producer::Producer;
use crate::vandal::Vandal;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use weir_core::batch::ProducerStamp;
use weir_core::error::ErrorCode;
use weir_core::rng::Rng;
use weir_core::types::{ConnId, Nanos, NodeId, Time};
use weir_core::wire::{self, Frame, Request};

/// A topic's name and a partition's index.
pub type Target = (String, i32);

/// What was asked, so that the answer can be read.
#[derive(Clone, Debug)]
pub enum Call {
    InitProducerId,
    Produce(BatchId, Target),
    Find,
    Join,
    Sync,
    Heartbeat,
    OffsetFetch,
    OffsetCommit(Vec<(Target, i64)>),
    Fetch(Vec<(Target, i64)>),
    Start(Target),
    Create(String),
    Delete(String),
    Trim(Target, i64),
    Noise,
}

/// Which broker has to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goes {
    Anywhere,
    ToLeader(Target),
    ToCoordinator,
}

impl Call {
    pub fn goes(&self) -> Goes {
        match self {
            Call::Produce(_, target) | Call::Start(target) | Call::Trim(target, _) => {
                Goes::ToLeader(target.clone())
            }
            Call::Fetch(offsets) => {
                offsets.first().map_or(Goes::Anywhere, |(target, _)| Goes::ToLeader(target.clone()))
            }
            Call::Join | Call::Sync | Call::Heartbeat => Goes::ToCoordinator,
            Call::OffsetFetch | Call::OffsetCommit(_) => Goes::ToCoordinator,
            Call::InitProducerId | Call::Find | Call::Noise => Goes::Anywhere,
            Call::Create(_) | Call::Delete(_) => Goes::Anywhere,
        }
    }
}

/// What all clients know together, and what the checkers ask.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    pub histories: BTreeMap<Target, History>,
    pub next_id: u64,
    /// Who was told that a partition is its own, by group and generation.
    pub owners: BTreeMap<(String, i32, Target), String>,
    /// Acknowledged commits: group and partition, and the offset.
    pub commits: BTreeMap<(String, Target), i64>,
    /// The high watermark that was told in which leader epoch.
    pub told: BTreeMap<Target, BTreeMap<i32, i64>>,
    /// Topics that come and go: whether they must be there. `None`: nobody knows.
    pub topics: BTreeMap<String, Option<bool>>,
    /// The disk has faults: requests may be refused with `KAFKA_STORAGE_ERROR`.
    pub storage_errors: u64,
    /// The last answer said that somebody else has to be asked.
    pub astray: bool,
    pub answers: u64,
    /// The disk budget may have run out: old records may go.
    pub short: bool,
    pub now_ms: i64,
    pub value_bytes_max: u64,
}

/// What a role may use while it decides.
pub struct Context<'a> {
    pub shared: &'a mut Shared,
    pub rng: &'a mut Rng,
    pub now: Time,
    pub asking: Vec<(Bytes, i32, Call)>,
    correlation: i32,
    pub leaders: &'a Leaders,
}

/// The leaders of partitions and their epochs, as far as a client knows. Empty when there is one
/// broker.
pub type Leaders = BTreeMap<Target, (NodeId, i32)>;

pub enum Role {
    Producer(Producer),
    Consumer(Consumer),
    Admin(Admin),
    Vandal(Vandal),
}

pub struct Client {
    pub conn: Option<ConnId>,
    pub asked: VecDeque<(i32, Call)>,
    pub role: Role,
    pub leaders: Leaders,
    correlation: i32,
}

impl Client {
    pub fn new(role: Role) -> Client {
        Client { conn: None, asked: VecDeque::new(), role, leaders: Leaders::new(), correlation: 0 }
    }

    /// Lets the client ask something; returns the frames, and when it wants to act again.
    pub fn act(&mut self, shared: &mut Shared, rng: &mut Rng, now: Time) -> (Vec<Bytes>, Nanos) {
        let (asking, correlation, leaders) = (Vec::new(), self.correlation, &self.leaders);
        let mut context = Context { shared, rng, now, asking, correlation, leaders };
        let in_flight = self.asked.len();
        let pause = match &mut self.role {
            Role::Producer(role) => role.act(&mut context, in_flight),
            Role::Consumer(role) => role.act(&mut context, in_flight),
            Role::Admin(role) => role.act(&mut context, in_flight),
            Role::Vandal(role) => role.act(&mut context, in_flight),
        };
        self.correlation = context.correlation;
        let mut frames = Vec::new();
        for (frame, correlation, call) in context.asking {
            self.asked.push_back((correlation, call));
            frames.push(frame);
        }
        (frames, pause)
    }

    /// A response came. `None` stands for the end of a request that has no response.
    pub fn answer(
        &mut self,
        frame: Option<&Bytes>,
        shared: &mut Shared,
        rng: &mut Rng,
        now: Time,
    ) -> Verdict {
        let Some((correlation, call)) = self.asked.pop_front() else {
            return Bounded::fails("a response that nobody asked for".into());
        };
        shared.answers += 1;
        let Some(frame) = frame else { return Ok(()) };
        let got = frame.get(..4).and_then(|raw| raw.try_into().ok()).map(i32::from_be_bytes);
        if got != Some(correlation) && !matches!(call, Call::Noise) {
            return Bounded::fails(format!("{call:?} {correlation} got the answer to {got:?}"));
        }
        let (asking, correlation, leaders) = (Vec::new(), self.correlation, &self.leaders);
        let mut context = Context { shared, rng, now, asking, correlation, leaders };
        match &mut self.role {
            Role::Producer(role) => role.answer(&mut context, call, frame),
            Role::Consumer(role) => role.answer(&mut context, call, frame),
            Role::Admin(role) => role.answer(&mut context, call, frame),
            Role::Vandal(_) => Ok(()),
        }
    }

    /// The connection is gone, with whatever was asked on it.
    pub fn lost(&mut self) {
        self.conn = None;
        self.asked.clear();
        match &mut self.role {
            Role::Producer(role) => role.lost(),
            Role::Consumer(role) => role.lost(),
            Role::Admin(role) => role.lost(),
            Role::Vandal(_) => {}
        }
    }
}

impl Context<'_> {
    pub fn ask<R: Request>(&mut self, request: &R, version: i16, call: Call) {
        self.correlation += 1;
        let frame = wire::encode_request(request, version, self.correlation, Some("sim"));
        self.asking.push((unframed(&frame), self.correlation, call));
    }

    /// Of these partitions, some that one broker leads.
    pub fn of_one_leader(&mut self, mut offsets: Vec<(Target, i64)>) -> Vec<(Target, i64)> {
        if !self.leaders.is_empty() && !offsets.is_empty() {
            let one = self.rng.below(offsets.len() as u64) as usize;
            let leader = self.leaders.get(&offsets[one].0).map(|(node, _)| *node);
            offsets.retain(|(target, _)| self.leaders.get(target).map(|(node, _)| *node) == leader);
        }
        offsets
    }

    /// Bytes that no honest client sends.
    pub fn send(&mut self, frame: Bytes) {
        self.correlation += 1;
        self.asking.push((frame, self.correlation, Call::Noise));
    }

    pub fn pause_ms(&mut self, low: u64, high: u64) -> Nanos {
        Nanos((low * 1000 + self.rng.below((high - low) * 1000)) * 1_000)
    }
}

impl Shared {
    /// A new batch for a partition, noted as sent.
    pub fn new_batch(
        &mut self,
        rng: &mut Rng,
        target: &Target,
        stamp: Option<ProducerStamp>,
    ) -> Sent {
        self.next_id += 1;
        let timestamp = self.now_ms - rng.below(1_000) as i64;
        let sent = Sent::random(rng, BatchId(self.next_id), timestamp, self.value_bytes_max, stamp);
        let history = self.histories.entry(target.clone()).or_default();
        history.sent.insert(sent.id, sent.clone());
        sent
    }

    /// A request was answered with an error that a client gets over.
    pub fn refused(&mut self, code: ErrorCode) {
        self.storage_errors += u64::from(code == ErrorCode::KAFKA_STORAGE_ERROR);
        self.astray = true;
    }

    pub fn history(&mut self, target: &Target) -> &mut History {
        self.histories.entry(target.clone()).or_default()
    }
}

/// Reads a response; one that does not decode is the broker's fault.
pub fn read<R: Request>(frame: &Bytes, version: i16) -> Result<R::Response, Violation> {
    let decoded = wire::decode_response::<R>(frame, version);
    decoded.map(|(_, response)| response).map_err(|error| Violation {
        checker: "Bounded",
        what: format!("an answer to {:?} {version} does not decode: {error:?}", R::API_KEY),
    })
}

/// A frame as one piece, without its size.
pub fn unframed(frame: &Frame) -> Bytes {
    let whole: Vec<u8> = frame.0.iter().flat_map(|piece| piece.iter().copied()).collect();
    Bytes::from(whole).slice(4..)
}
