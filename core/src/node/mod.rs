//! The broker as a value: inputs in, outputs out, nothing else.
//!
//! The driver calls [`Node::handle`] with what happened, then [`Node::poll`] until `None`, performs
//! every output, and calls again at [`Node::deadline`] with [`Input::Tick`].
//!
//! The node joins what the layers below decide: a request is read (`requests`), answered by the
//! file of its API family, and its answer leaves in its turn (`connections`). Three things wait: a
//! produce for the flash (`produce`), a fetch for records or for the disk (`fetch`), a change of
//! the metadata for its record to be durable (`changes`). Everything that waits is woken by an
//! event of the log or by the clock.

mod admin;
mod changes;
mod checks;
mod cluster;
mod configs;
mod connections;
mod describe;
mod fetch;
mod groups;
mod list_offsets;
mod produce;
mod producer_ids;
mod replication;
mod requests;
mod session;
mod site;
mod start;
mod status;
mod timers;
mod topics;

pub use replication::{ReplicaRole, ReplicaStatus};
pub use site::{Release, SiteStatus};
pub use status::{
    ApiStatus, ConnectionStatus, GroupStatus, MemberStatus, OffsetStatus, PartitionStatus, Phase,
    Status, TopicStatus,
};

use crate::limits::ReplicaLimits;
use crate::log::{Event, FlushCap, Io, IoResult, Log, OpenError, Start, Upkeep};
use crate::metadata::{Image, TopicDefaults};
use crate::peer;
use crate::peer::handshake::Hello;
use crate::rng::Rng;
use crate::types::{ConnId, Nanos, NodeId, OpId, PartitionNumber, Time, WallTime};
use crate::wire::{Frame, Message};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use connections::{Answered, Caller};

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    pub node: NodeId,
    pub rack: Option<String>,
    /// Where clients are told to connect: `kafka.advertise`.
    pub advertised_host: String,
    pub advertised_port: u16,
    pub start: Start,
    pub medium_bytes: u64,
    pub flush_cap: Option<FlushCap>,
    pub flush_window: Nanos,
    pub upkeep: Upkeep,
    pub checkpoint_bytes: u64,
    pub tail_cache_bytes: usize,
    pub footer_cache_bytes: usize,
    pub index_runs_max: u32,
    /// `[topic_defaults]`: Kafka's topic configs by name, for topics that do not set them. Whoever
    /// reads them from a user checks them with [`crate::metadata::configs::validate`].
    pub topic_defaults: BTreeMap<String, String>,
    /// Kafka's `num.partitions`, `default.replication.factor` (`None`: as many as there are
    /// gateways, 3 at most) and `auto.create.topics.enable`.
    pub num_partitions: i32,
    pub default_replication_factor: Option<i16>,
    pub auto_create_topics: bool,
    /// The voters that begin the cluster: `cluster.voters`. Nobody: this gateway by itself.
    pub voters: Vec<NodeId>,
    /// Whether this gateway holds partitions. A voter that does not is a witness.
    pub holds_partitions: bool,
    /// Where other gateways find this one: `peer.advertise`.
    pub peer_address: (String, u16),
    pub release: Release,
    pub replica_limits: ReplicaLimits,
    #[doc(hidden)]
    pub unguarded: Unguarded,
    /// Seed of the node's random numbers: topic ids, member ids.
    pub seed: u64,
}

/// Guards that are taken away, so that the simulation proves that it notices. Not for use.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unguarded {
    /// A replica that lacks something reports everything as durable.
    pub whole_while_damaged: bool,
    /// What is lost is asked for before the logs are known to agree.
    pub unmatched_ranges: bool,
    /// It is asked for whatever the others know.
    pub ranges_at_any_level: bool,
    /// What is lost is fetched with all of its partition.
    pub whole_partitions: bool,
    /// Who is alone in sync serves past what it has lost, whoever else may have it.
    pub past_what_is_lost: bool,
}

impl Settings {
    fn new_topics(&self) -> TopicDefaults {
        let (partitions, factor) = (self.num_partitions, self.default_replication_factor);
        TopicDefaults { partitions, replication_factor: factor }
    }
}

#[derive(Clone, Debug)]
pub enum Input {
    /// A client has connected. Optional: it tells groups and tools the client's address.
    Opened {
        conn: ConnId,
        host: String,
    },
    /// A request frame without its four size bytes.
    Request {
        conn: ConnId,
        frame: Bytes,
    },
    /// The client is gone; what it waits for is dropped. Its ids are never used again.
    Closed {
        conn: ConnId,
    },
    /// Another gateway of the site is connected, and has proved that it belongs here.
    PeerUp {
        node: NodeId,
        hello: Box<Hello>,
    },
    /// It is not connected any more: what it was asked is lost.
    PeerDown {
        node: NodeId,
    },
    Peer {
        from: NodeId,
        message: peer::Message,
    },
    /// A disk operation ended.
    Done {
        op: OpId,
        result: IoResult,
    },
    /// The deadline has come.
    Tick,
    /// What the wall clock says, and whether it is trusted (set by NTP). At the start, then each
    /// second.
    WallClock {
        now: WallTime,
        trusted: bool,
    },
    /// Write a checkpoint and answer [`Output::Stopped`] when everything is on flash.
    Stop,
}

#[derive(Clone, Debug)]
pub enum Output {
    Io(Io),
    /// A response frame; responses of one connection come in the order of its requests.
    Reply {
        conn: ConnId,
        frame: Frame,
    },
    /// `acks=0`: the request is done and has no response.
    NoReply {
        conn: ConnId,
    },
    /// Malformed bytes: end the connection after what was replied before is written.
    Close {
        conn: ConnId,
    },
    /// For another gateway. It may be lost, with the connection.
    Send {
        to: NodeId,
        message: peer::Message,
    },
    /// Whom this gateway has to be connected with, and where each listens. What it says of itself
    /// from now on. Connections with gateways that do not know this level end.
    Peers {
        addresses: BTreeMap<NodeId, (String, u16)>,
        cluster: Option<[u8; 16]>,
        directory: [u8; 16],
        incarnation: [u8; 16],
        level: u16,
    },
    /// The start is over: listen.
    Ready,
    /// The medium cannot be used.
    Refused(OpenError),
    /// After [`Input::Stop`].
    Stopped,
}

/// The wall clock as it was said last, and when.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    said: Option<WallTime>,
    at: Time,
    trusted: bool,
}

impl Clock {
    /// Milliseconds since 1970, right or wrong; 0 before it was first said.
    fn wall_ms(&self, now: Time) -> i64 {
        self.said.map_or(0, |said| said.0 + (now.since(self.at).0 / 1_000_000) as i64)
    }

    fn trusted(&self, now: Time) -> Option<WallTime> {
        self.trusted.then(|| WallTime(self.wall_ms(now)))
    }
}

pub struct Node {
    settings: Settings,
    phase: Phase,
    rng: Rng,
    clock: Clock,
    log: Log,
    image: Image,
    outputs: VecDeque<Output>,
    connections: connections::Connections,
    counts: status::Counts,
    start: start::Start,
    site: site::Site,
    changes: changes::Changes,
    producer_ids: producer_ids::ProducerIds,
    replicas: replication::Replicas,
    produces: produce::Produces,
    fetches: fetch::Fetches,
    searches: list_offsets::Searches,
    coordinators: groups::Coordinators,
    timers: timers::Timers,
}

impl Node {
    pub fn new(now: Time, settings: Settings) -> Node {
        let mut log = Log::open(crate::log::Settings {
            start: settings.start,
            medium_bytes: settings.medium_bytes,
            node: settings.node,
            flush_cap: settings.flush_cap,
            flush_window: settings.flush_window,
            checkpoint_bytes: settings.checkpoint_bytes,
            tail_cache_bytes: settings.tail_cache_bytes,
            footer_cache_bytes: settings.footer_cache_bytes,
            index_runs_max: settings.index_runs_max,
        });
        log.set_upkeep(now, settings.upkeep);
        let mut rng = Rng::new(settings.seed);
        let site = site::Site::new(settings.node, rng.uuid());
        Node {
            phase: Phase::Opening,
            rng,
            clock: Clock::default(),
            log,
            image: Image::new(settings.topic_defaults.clone()),
            outputs: VecDeque::new(),
            connections: connections::Connections::default(),
            counts: status::Counts::default(),
            start: start::Start::default(),
            site,
            changes: changes::Changes::default(),
            producer_ids: producer_ids::ProducerIds::default(),
            replicas: replication::Replicas::new(&settings),
            produces: produce::Produces::default(),
            fetches: fetch::Fetches::default(),
            searches: list_offsets::Searches::default(),
            coordinators: groups::Coordinators::default(),
            timers: timers::Timers::new(now),
            settings,
        }
    }

    pub fn handle(&mut self, now: Time, input: Input) {
        self.keep_lease(now);
        match input {
            Input::Opened { conn, host } => self.connections.open(conn, host),
            Input::Request { conn, frame } => self.on_request(now, conn, &frame),
            Input::Closed { conn } => {
                self.connections.remove(conn);
                self.close_fetches(conn);
            }
            Input::PeerUp { node, hello } => self.on_peer_up(now, node, *hello),
            Input::PeerDown { node } => self.on_peer_down(now, node),
            Input::Peer { from, message } => self.on_peer(now, from, message),
            Input::Done { op, result } => self.log.done(now, op, result),
            Input::Tick => {}
            Input::WallClock { now: said, trusted } => {
                self.clock = Clock { said: Some(said), at: now, trusted };
                self.set_groups_clock(now);
            }
            Input::Stop => self.on_stop(now),
        }
        self.on_timers(now);
        self.on_events(now);
    }

    /// The next thing to do, until `None`.
    pub fn poll(&mut self, now: Time) -> Option<Output> {
        loop {
            if let Some(io) = self.log.poll_io(now) {
                return Some(Output::Io(io));
            }
            if let Some(output) = self.outputs.pop_front() {
                return Some(site::to_peer(output));
            }
            if !self.on_events(now) && self.outputs.is_empty() {
                break;
            }
        }
        if self.phase == Phase::Stopping && self.log.is_idle() {
            self.phase = Phase::Stopped;
            return Some(Output::Stopped);
        }
        None
    }

    pub fn deadline(&self) -> Option<Time> {
        let all = [
            self.log.deadline(),
            self.timers.deadline(),
            self.fetches.deadline(),
            self.coordinators.deadline(),
            self.produces.deadline(),
            self.replicas.deadline(),
            self.lease_end(),
            self.site.deadline(&self.image, self.changes.is_idle(), self.is_starting()),
        ];
        all.into_iter().flatten().min()
    }

    /// Lets the log's events do their work; says whether there were any.
    fn on_events(&mut self, now: Time) -> bool {
        let mut any = false;
        while let Some(event) = self.log.poll_event() {
            any = true;
            match event {
                Event::Ready => self.on_log_ready(now),
                Event::Refused(error) => {
                    self.phase = Phase::Refused;
                    self.outputs.push_back(Output::Refused(error));
                }
                Event::Durable { partitions } => self.on_durable(now, &partitions),
                Event::Fetched { ticket, result } => match self.start.awaits(ticket) {
                    true => self.on_replay_read(now, result),
                    false if self.on_replica_read(ticket, &result) => {}
                    false if self.on_range_read(ticket, &result) => {}
                    false if self.on_groups_read(now, ticket, &result) => {}
                    false => self.on_fetched(ticket, result),
                },
                Event::Found { ticket, result } => self.on_found(ticket, result),
                Event::Unpacked { ticket, batch } => self.on_unpacked(now, ticket, batch.as_ref()),
                Event::Replaced { partition } | Event::Probed { partition } => {
                    self.mend(now, partition);
                    self.moved(now, partition);
                }
                Event::Trimmed { partition, .. } => self.moved(now, partition),
                Event::WriteFailed => {
                    log::error!("the flash refused a write; it is being written again elsewhere");
                }
                // The log has said it; readers are answered accordingly from now on.
                Event::Damage(_) => {}
                Event::Fenced => self.on_fenced(),
            }
        }
        any | self.poll_groups(now)
    }

    fn on_durable(&mut self, now: Time, partitions: &[PartitionNumber]) {
        let mut own_moved = false;
        for &number in partitions {
            match number.is_reserved() {
                true => own_moved = true,
                false => self.moved(now, number),
            }
        }
        if own_moved {
            self.on_quorum_durable(now);
        }
    }

    /// The log takes no more writes: whoever waits for one is told by the end of its connection.
    fn on_fenced(&mut self) {
        log::error!("the flash failed twice: this gateway takes no writes until it is restarted");
        if self.phase != Phase::Stopping {
            self.phase = Phase::Fenced;
        }
        let callers: Vec<Caller> = self
            .produces
            .drain()
            .chain(self.changes.drain())
            .chain(self.producer_ids.drain())
            .chain(self.coordinators.drain())
            .collect();
        for caller in callers {
            self.close(caller);
        }
    }

    fn reply<M: Message>(&mut self, caller: Caller, response: &M) {
        self.send(caller, caller.frame(response));
    }

    fn send(&mut self, caller: Caller, frame: Frame) {
        self.answer(caller, Answered::Reply(frame));
    }

    fn close(&mut self, caller: Caller) {
        self.answer(caller, Answered::Close);
    }

    fn answer(&mut self, caller: Caller, answered: Answered) {
        self.connections.answer(caller.conn, caller.sequence, answered, &mut self.outputs);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
