//! Gateways that hold one partition, the network between them, what happens to them, and their
//! clients.

use super::checks::{Converges, History, NoCommittedRecordLostGlobally, StrongIsr};
use super::controller::{Controller, Metadata};
use super::gateway::Gateway;
use super::plan::{Bug, Plan};
use super::store::Entry;
use crate::checks::{Verdict, Violation};
use crate::runner::Tally;
use crate::world::World;
use std::collections::BTreeSet;
use weir_core::replica::{Answer, Fetch, IsrWish};
use weir_core::types::{LeaderEpoch, Nanos, NodeId, Offset, Time};

const CONTROLLER: NodeId = NodeId(0);
/// How long everything may take to be well again when the faults have ended.
const HEALING_MS: u64 = 20_000;

/// What a gateway tells the controller of its log, and since which epoch that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Report {
    pub leader_epoch: i32,
    pub last_epoch: Option<LeaderEpoch>,
    pub end: Offset,
}

#[derive(Clone, Debug)]
pub enum Message {
    Register { boot: u64 },
    Registered { boot: u64, broker_epoch: i64 },
    Heartbeat { broker_epoch: i64, report: Report },
    Metadata(Metadata),
    Wish(IsrWish),
    Refused { leader_epoch: LeaderEpoch },
    Fetch(Fetch),
    Answer(Answer, Vec<Entry>),
}

enum Event {
    Arrive { from: NodeId, to: NodeId, message: Message },
    Flushed { at: usize, boot: u64 },
    Wake { at: usize },
    Start { at: usize },
    Controller,
    Client,
    Fault,
    Heal,
    Mend { from: NodeId, to: NodeId },
}

pub struct Site {
    world: World<Event>,
    plan: Plan,
    controller: Controller,
    gateways: Vec<Gateway>,
    history: History,
    /// Links that carry nothing now, each in one direction.
    blocked: BTreeSet<(NodeId, NodeId)>,
    paused: Vec<Time>,
    faulty: bool,
    began: Time,
    next_id: u64,
    unacked: Vec<u64>,
    tally: Tally,
}

impl Site {
    pub fn new(seed: u64, plan: Plan) -> Site {
        let mut world = World::new(seed ^ 0x5e91);
        for at in 0..plan.replicas as usize {
            world.after(Nanos(0), Event::Start { at });
        }
        for event in [Event::Controller, Event::Client] {
            world.after(Nanos(0), event);
        }
        world.after(Nanos::from_ms(500), Event::Fault);
        world.after(Nanos::from_ms(plan.faults_ms), Event::Heal);
        Site {
            controller: Controller::new(&plan),
            gateways: (1..=plan.replicas).map(|node| Gateway::new(NodeId(node), &plan)).collect(),
            history: History::default(),
            blocked: BTreeSet::new(),
            paused: vec![Time::ZERO; plan.replicas as usize],
            faulty: true,
            began: world.now,
            next_id: 0,
            unacked: Vec::new(),
            tally: Tally::default(),
            plan,
            world,
        }
    }

    pub fn run(mut self) -> Result<Tally, Violation> {
        let end = self.began.plus_ms(self.plan.faults_ms + HEALING_MS);
        while !self.is_well() {
            if self.world.now > end {
                return Err(self.unwell());
            }
            let event = self.world.next().expect("somebody always waits for something");
            self.happen(event)?;
        }
        self.tally.simulated_ns = self.world.now.since(self.began).0;
        self.tally.acknowledged = self.history.committed.len() as u64;
        self.tally.trace = self.world.trace.0;
        Ok(self.tally)
    }

    fn happen(&mut self, event: Event) -> Verdict {
        let now = self.world.now;
        match event {
            Event::Arrive { from, to, message } => self.arrive(from, to, message),
            Event::Wake { at } if self.paused[at] > now => {
                self.world.at(self.paused[at], Event::Wake { at });
                Ok(())
            }
            Event::Wake { at } if self.gateways[at].wake <= now => self.step(at),
            Event::Wake { .. } => Ok(()),
            Event::Flushed { at, boot } => {
                let gateway = &mut self.gateways[at];
                if gateway.up && gateway.boot == boot {
                    let lies = gateway.liar && self.world.rng.percent(80);
                    gateway.store.flushed(lies);
                }
                self.step(at)
            }
            Event::Start { at } => {
                if !self.gateways[at].up {
                    self.gateways[at].start();
                }
                self.step(at)
            }
            Event::Controller => {
                self.controller.tick(now);
                self.world.after(Nanos::from_ms(50), Event::Controller);
                self.check_isr()
            }
            Event::Client => self.client(),
            Event::Fault => self.fault(),
            Event::Heal => {
                self.faulty = false;
                self.blocked.clear();
                for at in 0..self.gateways.len() {
                    self.world.after(Nanos(0), Event::Start { at });
                }
                Ok(())
            }
            Event::Mend { from, to } => {
                self.blocked.remove(&(from, to));
                Ok(())
            }
        }
    }

    fn arrive(&mut self, from: NodeId, to: NodeId, message: Message) -> Verdict {
        let now = self.world.now;
        if to == CONTROLLER {
            return self.ask_controller(from, message);
        }
        let at = to.0 as usize - 1;
        if self.paused[at] > now {
            self.world.at(self.paused[at], Event::Arrive { from, to, message });
            return Ok(());
        }
        if self.gateways[at].up {
            self.gateways[at].hear(now, from, message, &mut self.history)?;
        }
        self.step(at)
    }

    fn ask_controller(&mut self, from: NodeId, message: Message) -> Verdict {
        let now = self.world.now;
        match message {
            Message::Register { boot } => {
                if let Some(broker_epoch) = self.controller.register(now, from, boot) {
                    self.send(CONTROLLER, from, Message::Registered { boot, broker_epoch });
                }
            }
            Message::Heartbeat { broker_epoch, report } => {
                self.controller.heartbeat(now, from, broker_epoch, report);
            }
            Message::Wish(wish) if self.plan.bug != Bug::LoseWishes => {
                if self.controller.alter(from, &wish).is_none() {
                    let leader_epoch = wish.leader_epoch;
                    self.send(CONTROLLER, from, Message::Refused { leader_epoch });
                }
            }
            _ => return Ok(()),
        }
        let metadata = Message::Metadata(self.controller.metadata());
        self.send(CONTROLLER, from, metadata);
        self.check_isr()
    }

    /// Lets a gateway do what is due, and sends what it wants to say.
    fn step(&mut self, at: usize) -> Verdict {
        let now = self.world.now;
        let gateway = &mut self.gateways[at];
        if !gateway.up {
            return Ok(());
        }
        let before = self.history.committed.len();
        gateway.step(now, &mut self.history)?;
        if gateway.store.flush() {
            let takes = self.world.delay_us(self.plan.flush_us / 4, self.plan.flush_us);
            self.world.after(takes, Event::Flushed { at, boot: gateway.boot });
        }
        self.world.at(gateway.wake, Event::Wake { at });
        let (from, sends) = (gateway.node, gateway.sends());
        let acked = std::mem::take(&mut gateway.acked);
        for (to, message) in sends {
            self.send(from, to, message);
        }
        for (offset, id) in acked {
            NoCommittedRecordLostGlobally::check_acked(&self.history, offset, id)?;
            self.unacked.retain(|unacked| *unacked != id);
        }
        if self.history.committed.len() > before {
            self.check_isr()?;
        }
        Ok(())
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        if self.blocked.contains(&(from, to)) {
            return;
        }
        let (delay, rng) = (self.plan.delay_us, &mut self.world.rng);
        let twice = self.faulty && rng.percent(self.plan.duplication);
        for _ in 0..1 + u32::from(twice) {
            let rng = &mut self.world.rng;
            if self.faulty && rng.percent(self.plan.loss) {
                continue;
            }
            let late = self.faulty && rng.below(1_000) < self.plan.late;
            let longest = if late { 3_000_000 } else { delay };
            let takes = self.world.delay_us(delay / 8, longest);
            self.world.after(takes, Event::Arrive { from, to, message: message.clone() });
        }
    }

    /// A producer sends a record, again or a new one, and consumers read.
    fn client(&mut self) -> Verdict {
        let now = self.world.now;
        let pause = self.world.delay_us(1_000, 2_000 * self.plan.produce_every_ms);
        self.world.after(pause, Event::Client);
        let again = self.world.rng.percent(30);
        let id = match self.unacked.first() {
            Some(id) if again || self.unacked.len() > 5 || self.ending() => *id,
            None if self.ending() => return Ok(()),
            _ => {
                self.next_id += 1;
                self.unacked.push(self.next_id);
                self.next_id
            }
        };
        for at in 0..self.gateways.len() {
            let gateway = &mut self.gateways[at];
            // Whoever thinks that it leads is found by some client.
            let found = gateway.up && self.paused[at] <= now && gateway.leads().is_some();
            if found && self.world.rng.percent(70) {
                gateway.produce(now, id, &mut self.history)?;
                if self.world.rng.percent(2) {
                    gateway.trim(now, &mut self.world.rng, &mut self.history)?;
                }
                self.step(at)?;
            }
            let from = self.history.committed.len() as i64 - self.world.rng.below(30) as i64;
            self.gateways[at].consume(&self.history, from.max(0))?;
        }
        Ok(())
    }

    /// Nothing new is produced any more.
    fn ending(&self) -> bool {
        self.world.now.since(self.began) > Nanos::from_ms(self.plan.faults_ms + HEALING_MS / 4)
    }

    fn fault(&mut self) -> Verdict {
        if !self.faulty {
            return Ok(());
        }
        let pause = self.world.delay_us(1_000, 2_000 * self.plan.fault_every_ms);
        self.world.after(pause, Event::Fault);
        let (now, count) = (self.world.now, self.gateways.len());
        let at = self.world.rng.below(count as u64) as usize;
        match self.world.rng.below(10) {
            0..3 => self.cut(at)?,
            3 => {
                for at in 0..count {
                    if self.world.rng.percent(60) {
                        self.cut(at)?;
                    }
                }
            }
            4 if self.world.rng.percent(30) => {
                for at in 0..count {
                    self.cut(at)?;
                }
            }
            5 => {
                let pause = [50, 500, 2_000][self.world.rng.below(3) as usize];
                self.paused[at] = self.paused[at].max(now.plus_ms(pause));
            }
            6..8 => {
                let from = NodeId(at as i32 + 1);
                let to = NodeId(self.world.rng.below(count as u64 + 1) as i32);
                let both = self.world.rng.percent(50);
                self.block(from, to);
                if both {
                    self.block(to, from);
                }
            }
            _ => {
                self.controller.move_leader(NodeId(at as i32 + 1));
                self.check_isr()?;
            }
        }
        Ok(())
    }

    fn block(&mut self, from: NodeId, to: NodeId) {
        self.blocked.insert((from, to));
        let heals = self.world.delay_us(10_000, 4_000_000);
        self.world.after(heals, Event::Mend { from, to });
    }

    fn cut(&mut self, at: usize) -> Verdict {
        if !self.gateways[at].up {
            return Ok(());
        }
        self.tally.cuts += 1;
        self.gateways[at].cut(&mut self.world.rng);
        self.paused[at] = Time::ZERO;
        let longest = [20_000, 500_000, 4_000_000][self.world.rng.below(3) as usize];
        let away = self.world.delay_us(1_000, longest);
        self.world.after(away, Event::Start { at });
        let durable = self.gateways.iter().map(|gateway| &gateway.store.durable);
        NoCommittedRecordLostGlobally::check_all(&self.history, durable)?;
        self.check_isr()
    }

    /// Gateways whose storage is honest keep what their place in the in-sync set promises.
    fn check_isr(&self) -> Verdict {
        for gateway in &self.gateways {
            if self.controller.state.is_in_sync(gateway.node) && !gateway.liar {
                StrongIsr::check(&self.history, gateway.node, &gateway.store.durable)?;
            }
        }
        Ok(())
    }

    fn is_well(&self) -> bool {
        let first = &self.gateways[0].store.log;
        let same = |gateway: &Gateway| {
            let log = &gateway.store.log;
            let from = log.start.max(first.start);
            log.end() == first.end() && (from..log.end()).all(|at| log.at(at) == first.at(at))
        };
        !self.faulty
            && self.controller.state.isr.len() == self.gateways.len()
            && self.unacked.is_empty()
            && self.history.committed.len() as i64 == first.end()
            && self.gateways.iter().all(same)
    }

    fn unwell(&self) -> Violation {
        let state = &self.controller.state;
        let ends: Vec<i64> = self.gateways.iter().map(|gateway| gateway.store.log.end()).collect();
        Converges::violation(format!(
            "{state:?}; the logs end at {ends:?}, {} committed, {} not acknowledged",
            self.history.committed.len(),
            self.unacked.len()
        ))
    }
}
