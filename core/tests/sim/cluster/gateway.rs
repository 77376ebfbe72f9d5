//! One gateway of a simulated site: a whole node, its disk, and what it says of itself to others.

use crate::cluster::plan::{Bug, Plan};
use crate::disk::{Disk, Started};
use crate::faults::Faults;
use crate::flash::{Flash, Tear};
use std::collections::BTreeMap;
use weir_core::log::{FLUSH_WINDOW, Start};
use weir_core::node::{Input, Node, Output, Phase, Release, Settings};
use weir_core::peer::handshake::Hello;
use weir_core::peer::{VERSION, VERSION_MIN};
use weir_core::quorum::Directory;
use weir_core::rng::Rng;
use weir_core::types::{Nanos, NodeId, Time, WallTime};

/// How a gateway's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// What it wrote stays.
    Kill,
    /// What it did not flush may be lost.
    Cut,
    /// The store is gone, too.
    Wipe,
}

/// How long all gateways know a level before it is used.
const SETTLE: Nanos = Nanos(1_000_000_000);

pub struct Gateway {
    pub id: NodeId,
    pub disk: Disk,
    /// A copy of the store, of an earlier start.
    image: Option<Flash>,
    /// The store was there some time: it cannot be empty any more.
    pub formatted: bool,
    pub node: Option<Node>,
    /// Counts the starts.
    pub boot: u32,
    pub serves: bool,
    /// It was told to stop.
    pub stopping: bool,
    /// The process is frozen: nothing reaches it.
    pub paused: bool,
    pub tick_at: Option<Time>,
    /// What the wall clock is wrong by.
    pub skew_ms: i64,
    /// The newest version of the peer protocol that it speaks, and the level of its release.
    pub version: u16,
    /// It has an older release than it had.
    pub went_back: bool,
    /// What others are told at a connection's start.
    pub hello: Option<Hello>,
}

pub fn node_id(index: usize) -> NodeId {
    NodeId(index as i32 + 1)
}

impl Gateway {
    pub fn new(index: usize, plan: &Plan) -> Gateway {
        Gateway {
            id: node_id(index),
            disk: Disk::new(Flash::default(), Faults::default()),
            image: None,
            formatted: false,
            node: None,
            boot: 0,
            serves: false,
            stopping: false,
            paused: false,
            tick_at: None,
            skew_ms: 0,
            version: if plan.upgrade { VERSION_MIN } else { VERSION },
            went_back: false,
            hello: None,
        }
    }

    /// Which store it has, once it has read that.
    pub fn directory(&self) -> Option<Directory> {
        self.hello.as_ref().map(|hello| Directory(hello.directory))
    }

    pub fn is_up(&self) -> bool {
        self.node.is_some()
    }

    /// Whether only a new start helps.
    pub fn is_ill(&self) -> bool {
        let phase = self.node.as_ref().map(|node| node.status().phase);
        self.stopping || phase == Some(Phase::Fenced)
    }

    /// Starts the process, on what the disk has.
    pub fn start(&mut self, now: Time, plan: &Plan, index: usize, rng: &mut Rng) {
        self.boot += 1;
        if plan.bug == Bug::OldImage && self.disk.flash.len() > 0 {
            let now = self.disk.flash.clone();
            if let Some(before) = self.image.replace(now) {
                self.disk.flash = before;
            }
        }
        let (slot_bytes, slots) = plan.store.geometry();
        let start = match self.disk.flash.len() {
            0 => Start::Format { store: rng.uuid(), slot_bytes, slots },
            _ => Start::Recover,
        };
        let settings = Settings {
            node: self.id,
            rack: None,
            advertised_host: format!("gw{}", self.id.0),
            advertised_port: 9092,
            start,
            medium_bytes: self.disk.flash.len(),
            flush_cap: plan.store.flush_cap,
            flush_window: FLUSH_WINDOW,
            upkeep: Default::default(),
            checkpoint_bytes: plan.store.checkpoint_bytes(),
            tail_cache_bytes: plan.store.tail_cache_bytes,
            footer_cache_bytes: plan.store.footer_cache_bytes,
            index_runs_max: plan.store.index_runs_max,
            topic_defaults: BTreeMap::new(),
            num_partitions: 2,
            default_replication_factor: None,
            auto_create_topics: false,
            voters: (0..plan.voters).map(node_id).collect(),
            holds_partitions: plan.holds_partitions(index),
            peer_address: (format!("gw{}", self.id.0), 9093),
            release: Release { level: self.version, settle: SETTLE },
            replica_limits: plan.replica_limits(),
            unguarded: plan.bug.unguarded(),
            seed: match plan.bug {
                Bug::SameIncarnation => index as u64 + 1,
                _ => rng.next_u64(),
            },
        };
        self.node = Some(Node::new(now, settings));
    }

    /// The process is gone.
    pub fn end(&mut self, rng: &mut Rng, end: End) {
        self.node = None;
        (self.serves, self.stopping, self.paused) = (false, false, false);
        (self.tick_at, self.hello) = (None, None);
        // What goes wrong while a log is opened is simulated with one gateway alone.
        self.disk.faults = Faults::default();
        match end {
            End::Kill => self.disk.kill(),
            End::Cut => {
                let tear = Tear::random(rng, self.disk.flash.pending_sectors());
                self.disk.cut(rng, tear);
            }
            End::Wipe => {
                self.disk.kill();
                self.empty();
            }
        }
    }

    /// The next start formats the store.
    pub fn empty(&mut self) {
        self.disk.flash = Flash::default();
        self.formatted = false;
    }

    pub fn handle(&mut self, now: Time, input: Input) {
        if let Some(node) = &mut self.node {
            node.handle(now, input);
        }
    }

    /// Everything that the node wants done, and when it wants to be woken.
    pub fn outputs(&mut self, now: Time) -> (Vec<Output>, Option<Time>) {
        let Some(node) = &mut self.node else { return (Vec::new(), None) };
        let outputs = std::iter::from_fn(|| node.poll(now)).collect();
        (outputs, node.deadline())
    }

    pub fn tell_time(&mut self, now: Time, wall: WallTime) {
        // A clock that has jumped is not one that was set by NTP.
        let (said, trusted) = (WallTime(wall.0 + self.skew_ms), self.skew_ms == 0);
        self.handle(now, Input::WallClock { now: said, trusted });
    }

    pub fn submit(&mut self, io: weir_core::log::Io, rng: &mut Rng) -> Option<Started> {
        self.disk.submit(io, rng)
    }
}
