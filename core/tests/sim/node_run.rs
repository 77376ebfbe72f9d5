//! Level 2: a whole [`Node`] on the simulated flash, with clients that speak Kafka's wire protocol
//! to it.
//!
//! Connections deliver in order, late, and break at random. The power goes, the process dies or is
//! stopped in order; clients connect again and repeat what was not answered.

use crate::checks::{AlwaysStarts, Bounded, Limits, Verdict, Violation};
use crate::client::{Client, Shared, Target, unframed};
use crate::disk::{Disk, Started};
use crate::faults::Faults;
use crate::flash::{Flash, Tear};
use crate::node_audit::{self, Audited};
use crate::plan::{Bug, Plan};
use crate::runner::Tally;
use crate::world::World;
use crate::{consumer, population};
use bytes::Bytes;
use std::collections::BTreeMap;
use weir_core::log::{FLUSH_WINDOW, OpenError, Start};
use weir_core::node::{Input, Node, Output, Settings};
use weir_core::rng::Rng;
use weir_core::types::{ConnId, Nanos, NodeId, OpId, Time};

const START_TIME_MAX: Nanos = Nanos(600_000_000_000);

enum Event {
    Disk { boot: u32, op: OpId },
    Tick { boot: u32 },
    Second,
    Crash,
    Wake(usize),
    Arrive { conn: ConnId, frame: Bytes },
    Gone { conn: ConnId },
    Deliver { conn: ConnId, frame: Option<Bytes> },
    HangUp { conn: ConnId },
}

/// A connection: whose it is, and when the last byte of each direction arrives.
struct Link {
    /// `None`: the audit's.
    client: Option<usize>,
    to_node: Time,
    to_client: Time,
}

pub struct NodeRun {
    world: World<Event>,
    pub disk: Disk,
    pub plan: Plan,
    node: Option<Node>,
    boot: u32,
    ready: bool,
    stopped: bool,
    formatted: bool,
    pub crash_due: bool,
    /// The last life: nothing crashes any more.
    last: bool,
    tick_at: Option<Time>,
    clients: Vec<Client>,
    pub shared: Shared,
    links: BTreeMap<ConnId, Link>,
    next_conn: u64,
    /// The audit asks: the clients pause.
    paused: bool,
    audit_conn: ConnId,
    /// What the audit was answered.
    heard: BTreeMap<ConnId, Vec<Bytes>>,
}

impl NodeRun {
    pub fn new(seed: u64, plan: Plan) -> NodeRun {
        let mut world = World::new(seed);
        let mut disk = Disk::new(Flash::default(), plan.faults);
        disk.bug = plan.bug;
        disk.bytes_max = plan.room(&mut world.rng);
        let shared = Shared { value_bytes_max: plan.value_bytes_max, ..Shared::default() };
        let clients = population::clients(&mut world.rng, &plan);
        for index in 0..clients.len() {
            world.after(Nanos(1), Event::Wake(index));
        }
        world.after(Nanos(2), Event::Second);
        NodeRun {
            world,
            disk,
            plan,
            node: None,
            boot: 0,
            ready: false,
            stopped: false,
            formatted: false,
            crash_due: false,
            last: false,
            tick_at: None,
            clients,
            shared,
            links: BTreeMap::new(),
            next_conn: 1,
            paused: false,
            audit_conn: ConnId(0),
            heard: BTreeMap::new(),
        }
    }

    /// Boots, serves and crashes; in the end reads everything with a healthy disk.
    pub fn run(&mut self) -> Verdict {
        for boot in 1..=self.plan.boots {
            let life = self.world.delay_us(1, self.plan.life_us * 10);
            self.world.after(life, Event::Crash);
            self.start()?;
            if self.ready && (boot == 1 || self.world.rng.percent(60)) {
                self.audit()?;
            }
            while !self.crash_due {
                self.step()?;
            }
            self.end()?;
        }
        self.disk.faults = Faults::default();
        self.disk.bytes_max = u64::MAX;
        self.last = true;
        self.start()?;
        self.audit()
    }

    pub fn tally(&self) -> Tally {
        let histories = self.shared.histories.values();
        Tally {
            cuts: self.disk.stats.cuts,
            harms: 0,
            simulated_ns: self.world.now.0,
            payload_bytes: histories
                .clone()
                .flat_map(|one| one.sent.values())
                .map(|sent| sent.bytes.len() as u64)
                .sum(),
            written_bytes: self.disk.stats.written_bytes,
            acknowledged: histories.map(|one| one.acked.len() as u64).sum(),
            trace: self.world.trace.0 ^ self.disk.trace.0,
            ..Tally::default()
        }
    }

    fn start(&mut self) -> Verdict {
        self.boot += 1;
        // As the driver does it: what has bytes is opened, what is empty is formatted.
        let (slot_bytes, slots) = self.plan.geometry();
        let start = match self.disk.flash.len() {
            0 => Start::Format { store: self.world.rng.uuid(), slot_bytes, slots },
            _ => Start::Recover,
        };
        let settings = Settings {
            node: NodeId(1),
            rack: None,
            advertised_host: "gw1".into(),
            advertised_port: 9092,
            start,
            medium_bytes: self.disk.flash.len(),
            flush_cap: self.plan.flush_cap,
            flush_window: FLUSH_WINDOW,
            upkeep: Default::default(),
            checkpoint_bytes: self.plan.checkpoint_bytes(),
            tail_cache_bytes: self.plan.tail_cache_bytes,
            footer_cache_bytes: self.plan.footer_cache_bytes,
            index_runs_max: self.plan.index_runs_max,
            topic_defaults: BTreeMap::new(),
            num_partitions: 2,
            default_replication_factor: None,
            auto_create_topics: false,
            voters: Vec::new(),
            holds_partitions: true,
            peer_address: ("gw".into(), 9093),
            release: Default::default(),
            replica_limits: Default::default(),
            unguarded: Default::default(),
            seed: self.world.rng.next_u64(),
        };
        log::debug!(
            "boot {} of {} bytes at {:?}",
            self.boot,
            self.disk.flash.len(),
            self.world.now
        );
        let (began, read_before) = (self.world.now, self.disk.stats.read_bytes);
        self.node = Some(Node::new(self.world.now, settings));
        self.tell_time();
        self.pump()?;
        while !self.ready && !self.crash_due {
            self.step()?;
            if self.world.now.since(began) > START_TIME_MAX {
                return AlwaysStarts::fails("the start never ended".into());
            }
        }
        if self.ready {
            self.note_pressure();
            self.formatted = true;
            let read_bytes = self.disk.stats.read_bytes - read_before;
            // The node reads its own partitions when the log is ready.
            let read_bytes_max = self.plan.start_read_bytes_max() * 2;
            AlwaysStarts::check(true, read_bytes, read_bytes_max)?;
        }
        Ok(())
    }

    /// The end of a life: an orderly stop, a kill, or the power goes.
    fn end(&mut self) -> Verdict {
        let orderly = self.ready && self.world.rng.percent(15);
        if orderly {
            self.tell(Input::Stop)?;
            let began = self.world.now;
            self.crash_due = false;
            while !self.stopped && !self.crash_due && self.world.now.since(began) < START_TIME_MAX {
                self.step()?;
            }
            if !self.stopped && !self.crash_due {
                return Bounded::fails("an orderly stop never ended".into());
            }
        }
        self.node = None;
        (self.ready, self.stopped, self.crash_due) = (false, false, false);
        self.tick_at = None;
        self.links.clear();
        self.heard.clear();
        self.clients.iter_mut().for_each(Client::lost);
        if orderly || self.world.rng.percent(20) {
            self.disk.kill();
        } else {
            let tear = Tear::random(&mut self.world.rng, self.disk.flash.pending_sectors());
            self.disk.cut(&mut self.world.rng, tear);
        }
        Ok(())
    }

    pub fn step(&mut self) -> Verdict {
        let event = self.world.next().expect("the clock always ticks");
        match event {
            Event::Disk { boot, op } if boot == self.boot && self.node.is_some() => {
                let (result, started) = self.disk.finish(op, &mut self.world.rng);
                self.schedule(started);
                self.tell(Input::Done { op, result })?;
                self.note_pressure();
                Ok(())
            }
            Event::Tick { boot } if boot == self.boot && self.node.is_some() => {
                self.tick_at = None;
                self.tell(Input::Tick)
            }
            Event::Second => {
                self.world.after(Nanos::from_ms(1_000), Event::Second);
                self.tell_time();
                self.pump()
            }
            Event::Crash => {
                self.crash_due = !self.last;
                Ok(())
            }
            Event::Wake(index) => self.wake(index),
            Event::Arrive { conn, frame } if self.links.contains_key(&conn) => {
                let pretended = match self.plan.bug {
                    Bug::ForgetCommits => consumer::pretend_committed(&frame),
                    Bug::ForgetAssignments => consumer::pretend_assigned(&frame),
                    _ => None,
                };
                match pretended {
                    Some(answer) => self.send_back(conn, Some(answer)),
                    None => return self.tell(Input::Request { conn, frame }),
                }
                Ok(())
            }
            Event::Gone { conn } if self.node.is_some() => self.tell(Input::Closed { conn }),
            Event::Deliver { conn, frame } => self.deliver(conn, frame),
            Event::HangUp { conn } => {
                if let Some(Link { client: Some(index), .. }) = self.links.remove(&conn) {
                    self.clients[index].lost();
                }
                Ok(())
            }
            Event::Disk { .. } | Event::Tick { .. } | Event::Arrive { .. } | Event::Gone { .. } => {
                Ok(())
            }
        }
    }

    /// Records may go before their time when the disk budget runs out.
    fn note_pressure(&mut self) {
        let free = self.node.as_ref().map(|node| node.status().log.slots_free);
        self.shared.short |= self.ready && free.is_some_and(|free| free <= self.plan.slots / 3 + 2);
    }

    fn tell_time(&mut self) {
        let now = self.plan.wall(self.world.now);
        self.shared.now_ms = now.0;
        if let Some(node) = &mut self.node {
            node.handle(self.world.now, Input::WallClock { now, trusted: true });
        }
    }

    fn tell(&mut self, input: Input) -> Verdict {
        let node = self.node.as_mut().expect("somebody looked whether it is there");
        node.handle(self.world.now, input);
        self.pump()
    }

    /// Performs every output of the node.
    fn pump(&mut self) -> Verdict {
        let now = self.world.now;
        let Some(node) = &mut self.node else { return Ok(()) };
        let outputs: Vec<Output> = std::iter::from_fn(|| node.poll(now)).collect();
        let deadline = node.deadline();
        for output in outputs {
            match output {
                Output::Io(io) => {
                    let started = self.disk.submit(io, &mut self.world.rng);
                    self.schedule(started);
                }
                Output::Reply { conn, frame } => self.send_back(conn, Some(unframed(&frame))),
                Output::NoReply { conn } => self.send_back(conn, None),
                Output::Close { conn } => {
                    let at = self.links.get(&conn).map_or(now, |link| link.to_client);
                    self.world.at(at, Event::HangUp { conn });
                }
                Output::Send { .. } => panic!("a gateway by itself has no peers"),
                Output::Peers { addresses, .. } => assert!(addresses.is_empty()),
                Output::Ready => self.ready = true,
                Output::Stopped => self.stopped = true,
                Output::Refused(OpenError::Blank | OpenError::NotALog) if !self.formatted => {
                    self.disk.flash = Flash::default();
                    self.crash_due = true;
                }
                Output::Refused(error) => {
                    if !self.disk.faults.any() {
                        return AlwaysStarts::fails(format!("refused: {error:?}"));
                    }
                    self.crash_due = true;
                }
            }
        }
        let limits = Limits {
            operations_outstanding_max: self.plan.operations_outstanding_max,
            medium_bytes_max: self.plan.medium_bytes(),
        };
        Bounded::check(&limits, self.disk.outstanding(), self.disk.flash.len())?;
        if let Some(at) = deadline
            && self.tick_at.is_none_or(|tick_at| at < tick_at)
        {
            self.tick_at = Some(at);
            self.world.at(at, Event::Tick { boot: self.boot });
        }
        Ok(())
    }

    fn schedule(&mut self, started: Option<Started>) {
        if let Some((delay, op)) = started {
            self.world.after(delay, Event::Disk { boot: self.boot, op });
        }
    }

    /// A client acts: connects, asks, or loses its connection.
    fn wake(&mut self, index: usize) -> Verdict {
        if self.paused || !self.ready {
            self.world.after(Nanos::from_ms(10), Event::Wake(index));
            return Ok(());
        }
        if let Some(conn) = self.clients[index].conn
            && self.world.rng.below(1000) < self.plan.resets
        {
            // What is on its way to the node may still arrive, its answers do not.
            let at = self.links.get(&conn).map_or(self.world.now, |link| link.to_node);
            if self.world.rng.percent(50) {
                self.world.at(at, Event::Gone { conn });
                self.links.get_mut(&conn).expect("it is connected").client = None;
            } else {
                self.links.remove(&conn);
                self.world.at(at, Event::Gone { conn });
            }
            self.clients[index].lost();
        }
        let conn = match self.clients[index].conn {
            Some(conn) => conn,
            None => self.connect(Some(index)),
        };
        self.clients[index].conn = Some(conn);
        let (frames, pause) =
            self.clients[index].act(&mut self.shared, &mut self.world.rng, self.world.now);
        for frame in frames {
            self.send(conn, frame);
        }
        self.world.after(pause, Event::Wake(index));
        Ok(())
    }

    pub fn connect(&mut self, client: Option<usize>) -> ConnId {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.links.insert(conn, Link { client, to_node: Time::ZERO, to_client: Time::ZERO });
        conn
    }

    pub fn send(&mut self, conn: ConnId, frame: Bytes) {
        let delay = self.world.delay_us(20, 1_500);
        let at = self.world.now + delay;
        let link = self.links.get_mut(&conn).expect("it is connected");
        link.to_node = link.to_node.max(at);
        self.world.at(link.to_node, Event::Arrive { conn, frame });
    }

    fn send_back(&mut self, conn: ConnId, frame: Option<Bytes>) {
        let delay = self.world.delay_us(20, 1_500);
        let at = self.world.now + delay;
        if let Some(link) = self.links.get_mut(&conn) {
            link.to_client = link.to_client.max(at);
            self.world.at(link.to_client, Event::Deliver { conn, frame });
        }
    }

    fn deliver(&mut self, conn: ConnId, frame: Option<Bytes>) -> Verdict {
        match self.links.get(&conn) {
            Some(Link { client: Some(index), .. }) => {
                let client = &mut self.clients[*index];
                client.answer(frame.as_ref(), &mut self.shared, &mut self.world.rng, self.world.now)
            }
            Some(Link { client: None, .. }) => {
                self.heard.entry(conn).or_default().extend(frame);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Reads everything, and notes what it shows.
    fn audit(&mut self) -> Verdict {
        self.paused = true;
        self.audit_conn = self.connect(None);
        for (target, audit) in node_audit::audit(self, &population::targets())? {
            self.shared.history(&target).learn(&audit, false);
        }
        self.paused = false;
        Ok(())
    }
}

impl Audited for NodeRun {
    fn shared(&mut self) -> &mut Shared {
        &mut self.shared
    }

    fn rng(&mut self) -> &mut Rng {
        &mut self.world.rng
    }

    fn ask(&mut self, _: Option<&Target>, frame: Bytes) -> Result<Option<Bytes>, Violation> {
        if self.crash_due {
            return Ok(None);
        }
        let conn = self.audit_conn;
        self.send(conn, frame);
        loop {
            if let Some(frame) = self.heard.get_mut(&conn).and_then(Vec::pop) {
                return Ok(Some(frame));
            }
            if self.crash_due {
                return Ok(None);
            }
            self.step()?;
        }
    }
}
