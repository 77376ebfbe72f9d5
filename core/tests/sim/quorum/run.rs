//! One run: chaos, then healing, then life.

use super::machine::{Machine, State};
use super::net::Net;
use super::operator::Operator;
use super::plan::{Bug, Plan};
use super::truth::{Bounded, Liveness, Truth};
use crate::checks::{Verdict, Violation};
use crate::runner::Tally;
use crate::world::World;
use bytes::Bytes;
use weir_core::quorum::{Directory, Message, Output, Persist, Quorum, Snapshot};
use weir_core::types::{NodeId, Time};

/// A message, its payloads and a chunk's bytes have bounds of their own; the rest is small.
const MESSAGE_BYTES_MAX: usize = (256 << 10) + 2_048;

/// A message is eight bytes of mark, then its kind.
const PRE_VOTE: u8 = 2;
const PRE_VOTE_REPLY: u8 = 3;
const VOTE_REPLY: u8 = 5;

/// How long after the last fault everything may take.
const HEALED_MS: u64 = 60_000;

#[derive(Debug)]
pub enum Event {
    Tick { node: usize, boot: u64 },
    Deliver { from: usize, to: usize, generation: u64, bytes: Vec<u8> },
    Flushed { node: usize, boot: u64, count: usize },
    Start { node: usize, boot: u64 },
    Reboot { node: usize, boot: u64 },
    Propose,
    Fault,
    Operate,
    Phase,
}

/// What happened in runs: a test that never saw one of these has proven little.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub leaders: u64,
    pub restores: u64,
    pub changes: u64,
    pub wipes: u64,
    pub observers: u64,
    pub truncations: u64,
}

impl Seen {
    pub fn add(&mut self, other: Seen) {
        self.leaders += other.leaders;
        self.restores += other.restores;
        self.changes += other.changes;
        self.wipes += other.wipes;
        self.observers += other.observers;
        self.truncations += other.truncations;
    }
}

pub struct Run {
    pub world: World<Event>,
    pub plan: Plan,
    pub net: Net,
    pub machines: Vec<Machine>,
    pub truth: Truth,
    pub operator: Operator,
    pub chaos: bool,
    pub seen: Seen,
    tally: Tally,
    proposals: u64,
}

impl Run {
    pub fn new(seed: u64, plan: Plan) -> Run {
        let mut world = World::new(seed);
        let net = Net::new(&plan);
        let old = |node: usize| if node == 0 { plan.old_entries } else { 0 };
        let machines = (0..plan.nodes)
            .map(|node| Machine::new(Directory(world.rng.uuid()), old(node)))
            .collect();
        let operator = Operator::default();
        let mut run = Run {
            world,
            net,
            machines,
            truth: Truth::default(),
            operator,
            chaos: true,
            seen: Seen::default(),
            tally: Tally::default(),
            proposals: 0,
            plan,
        };
        for node in 0..run.plan.nodes {
            let delay = run.world.delay_us(0, 2_000_000);
            run.world.after(delay, Event::Start { node, boot: 0 });
        }
        run
    }

    pub fn run(&mut self) -> Result<Tally, Violation> {
        let began = self.world.now;
        self.world.at(began, Event::Fault);
        self.world.at(began, Event::Operate);
        self.world.at(began, Event::Propose);
        self.play_until(began.plus_ms(self.plan.chaos_ms))?;
        self.heal()?;
        let healed = self.world.now;
        while !self.is_settled() {
            if self.world.now > healed.plus_ms(HEALED_MS) {
                return Liveness::fails(self.describe());
            }
            self.play_until(self.world.now.plus_ms(500))?;
        }
        self.tally.simulated_ns = self.world.now.since(began).0;
        self.tally.acknowledged = self.truth.count();
        self.tally.trace = self.world.trace.0;
        Ok(self.tally)
    }

    /// Plays everything that happens until then.
    pub fn play_until(&mut self, until: Time) -> Verdict {
        self.world.at(until, Event::Phase);
        while let Some(event) = self.world.next() {
            if matches!(event, Event::Phase) && self.world.now == until {
                return Ok(());
            }
            self.on_event(event)?;
        }
        unreachable!("the end of the phase is an event")
    }

    fn on_event(&mut self, event: Event) -> Verdict {
        let now = self.world.now;
        let (node, boot) = match &event {
            Event::Tick { node, boot } | Event::Flushed { node, boot, .. } => (*node, Some(*boot)),
            Event::Start { node, boot } | Event::Reboot { node, boot } => (*node, Some(*boot)),
            Event::Deliver { to, .. } => (*to, None),
            Event::Phase => return Ok(()),
            Event::Propose => return self.on_propose(),
            Event::Fault => return self.on_fault(),
            Event::Operate => return self.operate(),
        };
        if boot.is_some_and(|boot| boot != self.machines[node].boot) {
            return Ok(());
        }
        if self.machines[node].paused_until > now {
            self.world.at(self.machines[node].paused_until, event);
            return Ok(());
        }
        match event {
            Event::Start { .. } => self.start(node)?,
            Event::Reboot { .. } => {
                self.crash(node);
                self.start(node)?;
            }
            Event::Tick { .. } => {
                self.machines[node].tick_at = None;
                self.with(node, |quorum, now| quorum.tick(now));
            }
            Event::Deliver { from, to, generation, bytes } => {
                if self.machines[from].generation == generation {
                    let message: Message = postcard::from_bytes(&bytes).unwrap();
                    self.with(to, |quorum, now| quorum.handle(now, NodeId(from as i32), message));
                }
            }
            Event::Flushed { count, .. } => {
                let machine = &mut self.machines[node];
                machine.flushing = false;
                if let Some(token) = machine.store.flush(count, self.plan.bug) {
                    self.with(node, |quorum, now| quorum.durable(now, token));
                }
            }
            _ => unreachable!("handled above"),
        }
        self.settle(node)
    }

    pub fn start(&mut self, node: usize) -> Verdict {
        let now = self.world.now;
        self.machines[node].start(now, node, &self.plan, &mut self.world.rng);
        self.settle(node)
    }

    pub fn crash(&mut self, node: usize) {
        self.tally.cuts += 1;
        self.machines[node].crash(&mut self.world.rng, self.plan.bug);
    }

    fn with(&mut self, node: usize, call: impl FnOnce(&mut Quorum, Time)) {
        let now = self.world.now;
        if let Some(quorum) = &mut self.machines[node].quorum {
            call(quorum, now);
        }
    }

    /// Does what a node asks for until it asks for nothing.
    pub fn settle(&mut self, node: usize) -> Verdict {
        loop {
            let machine = &mut self.machines[node];
            let Some(quorum) = &mut machine.quorum else {
                return Ok(());
            };
            let leads = quorum.is_leader().then(|| quorum.term());
            if let Some(term) = leads.filter(|_| leads != machine.leads) {
                self.seen.leaders += 1;
                self.truth.leads(node, term, &machine.store)?;
            }
            machine.leads = leads;
            let Some(output) = quorum.poll() else {
                break;
            };
            self.on_output(node, output)?;
        }
        self.take_snapshot(node)?;
        self.schedule(node);
        Ok(())
    }

    fn on_output(&mut self, node: usize, output: Output) -> Verdict {
        let machine = &mut self.machines[node];
        let quorum = machine.quorum.as_mut().expect("it has just spoken");
        match output {
            Output::Persist { token, what } => {
                let entries = matches!(*what, Persist::Entries { .. });
                let before = machine.store.end();
                machine.store.ask(token, (*what).clone());
                if let Persist::Entries { from_index, entries } = *what {
                    self.seen.truncations += u64::from(from_index <= before);
                    self.truth.appends(node, &machine.store, from_index, &entries)?;
                }
                match self.plan.bug {
                    Bug::SendBeforePersist => quorum.durable(self.world.now, token),
                    Bug::EntriesNotFlushed if entries => quorum.durable(self.world.now, token),
                    _ => {}
                }
            }
            Output::Send { to, message } => return self.send(node, to.0 as usize, &message),
            Output::Restore(snapshot) => {
                self.seen.restores += u64::from(machine.state.last > 0);
                machine.state = decode(&snapshot);
                machine.snapshot_at = machine.state.last;
                return self.truth.restores(node, machine.state);
            }
            Output::Committed { position, payload } => {
                let (state, term) = (machine.state, quorum.term());
                machine.state = self.truth.applies(node, state, position, &payload, term)?;
            }
            Output::Members { members, .. } => {
                self.seen.changes += 1;
                self.seen.observers += members.observers.len() as u64;
            }
            Output::Leads { .. } | Output::Lost => {}
            Output::Stopped(error) => {
                let what = format!("{node} stopped: {error:?}");
                return super::truth::MetadataLogMatching::fails(what);
            }
        }
        Ok(())
    }

    fn send(&mut self, from: usize, to: usize, message: &Message) -> Verdict {
        let bytes = postcard::to_allocvec(message).unwrap();
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Bounded::fails(format!("{from} sends {} bytes", bytes.len()));
        }
        if self.plan.bug == Bug::NoPreVote {
            self.forge_pre_vote(from, to, &bytes);
        }
        if self.chaos && bytes[8] == VOTE_REPLY && self.world.rng.percent(self.plan.vote_reboots) {
            // The moment at which it shows what a node has forgotten.
            let (delay, boot) = (self.world.delay_us(0, 20_000), self.machines[from].boot);
            self.world.after(delay, Event::Reboot { node: from, boot });
        }
        let generation = self.machines[from].generation;
        for delay in self.net.send(&mut self.world.rng, from, to) {
            let bytes = bytes.clone();
            self.world.after(delay, Event::Deliver { from, to, generation, bytes });
        }
        Ok(())
    }

    /// Says yes in another node's name. A question has round, term and position, an answer round,
    /// term and a yes.
    fn forge_pre_vote(&mut self, from: usize, to: usize, bytes: &[u8]) {
        if bytes[8] == PRE_VOTE {
            let ((round, term), _) = postcard::take_from_bytes::<(u32, u64)>(&bytes[9..]).unwrap();
            let mut forged = self.machines[to].store.directory.0[..8].to_vec();
            forged.push(PRE_VOTE_REPLY);
            forged.extend(postcard::to_allocvec(&(round, term, true)).unwrap());
            let generation = self.machines[to].generation;
            let event = Event::Deliver { from: to, to: from, generation, bytes: forged };
            self.world.at(self.world.now, event);
        }
    }

    fn take_snapshot(&mut self, node: usize) -> Verdict {
        let machine = &mut self.machines[node];
        let (state, quorum) = (machine.state, machine.quorum.as_mut().expect("it is up"));
        if state.last < machine.snapshot_at + self.plan.snapshot_entries {
            return Ok(());
        }
        let mut payload = vec![0; 16 + self.world.rng.below(self.plan.snapshot_bytes_max) as usize];
        payload[..8].copy_from_slice(&state.last.to_be_bytes());
        payload[8..16].copy_from_slice(&state.hash.to_be_bytes());
        machine.snapshot_at = state.last;
        if quorum.snapshot_taken(state.last, payload.into()) {
            return self.settle(node);
        }
        Ok(())
    }

    /// What a node waits for: its deadline, and the flush.
    fn schedule(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        let boot = machine.boot;
        let deadline = machine.quorum.as_ref().and_then(Quorum::deadline);
        if let Some(at) = deadline.filter(|at| machine.tick_at.is_none_or(|tick| *at < tick)) {
            machine.tick_at = Some(at);
            self.world.at(at, Event::Tick { node, boot });
        }
        let count = machine.store.pending();
        if count > 0 && !machine.flushing {
            machine.flushing = true;
            let delay = self.world.delay_us(50, self.plan.flush_us);
            self.world.after(delay, Event::Flushed { node, boot, count });
        }
    }

    fn on_propose(&mut self) -> Verdict {
        let delay = self.world.delay_us(500, self.plan.propose_ms * 1_000);
        self.world.after(delay, Event::Propose);
        let now = self.world.now;
        for node in 0..self.machines.len() {
            if self.machines[node].paused_until > now || self.world.rng.percent(30) {
                continue;
            }
            for _ in 0..1 + self.world.rng.below(10) / 9 * 5 {
                self.proposals += 1;
                let length = self.world.rng.below(self.plan.payload_bytes_max) as usize;
                let mut payload = vec![0; 8 + length];
                payload[..8].copy_from_slice(&self.proposals.to_be_bytes());
                self.with(node, |quorum, now| {
                    let _ = quorum.propose(now, Bytes::from(payload));
                });
            }
            self.settle(node)?;
        }
        Ok(())
    }

    fn on_fault(&mut self) -> Verdict {
        if !self.chaos {
            return Ok(());
        }
        let delay = self.world.delay_us(10_000, self.plan.fault_ms * 1_000);
        self.world.after(delay, Event::Fault);
        let nodes = self.machines.len();
        let node = self.world.rng.below(nodes as u64) as usize;
        match self.world.rng.below(10) {
            0 | 1 if self.plan.partitions => self.net.split(&mut self.world.rng, nodes),
            2 if self.plan.partitions => self.net.cut_link(&mut self.world.rng, nodes),
            3 | 4 => self.net.join(),
            5 if self.plan.crashes => self.crash_some(node, 5_000_000)?,
            6 if self.plan.crashes => {
                // An instant reboot: nobody notices but by what the node has forgotten.
                self.crash(node);
                self.start(node)?;
            }
            7 if self.plan.crashes => {
                let all = self.world.rng.percent(30);
                for node in 0..nodes {
                    if all || self.world.rng.percent(50) {
                        self.crash_some(node, if all { 100_000 } else { 3_000_000 })?;
                    }
                }
            }
            8 if self.plan.pauses => {
                let pause = self.world.delay_us(10_000, 6_000_000);
                self.machines[node].paused_until = self.world.now + pause;
            }
            9 if self.plan.wipes => self.wipe(node)?,
            _ => {}
        }
        Ok(())
    }

    fn crash_some(&mut self, node: usize, off_us: u64) -> Verdict {
        self.crash(node);
        let (off, boot) = (self.world.delay_us(0, off_us), self.machines[node].boot);
        self.world.after(off, Event::Start { node, boot });
        Ok(())
    }

    /// Everything works from now on, and nobody changes the members for no reason.
    fn heal(&mut self) -> Verdict {
        self.chaos = false;
        self.net.heal();
        self.plan.flush_us = 2_000;
        self.plan.propose_ms = 500;
        for node in 0..self.machines.len() {
            self.machines[node].paused_until = self.world.now;
            if self.machines[node].quorum.is_none() {
                self.start(node)?;
            }
        }
        Ok(())
    }

    /// A leader that decides, nothing unfinished, and all members have everything.
    fn is_settled(&self) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        let members = self.machines[leader].quorum.as_ref().expect("it leads").members();
        let last = self.truth.last();
        let has_all = |node: NodeId| {
            let state = self.machines[node.0 as usize].state;
            state == last && last.last > 0
        };
        !members.is_changing()
            && self.operator.is_done(self)
            && members.all().all(|member| has_all(member.node))
    }

    /// The node that decides, by its own word.
    pub fn leader(&self) -> Option<usize> {
        let leads =
            |machine: &Machine| machine.quorum.as_ref().is_some_and(|quorum| quorum.is_leader());
        let leaders = (0..self.machines.len()).filter(|node| leads(&self.machines[*node]));
        let term = |node: &usize| self.machines[*node].quorum.as_ref().map(Quorum::term);
        leaders.max_by_key(term)
    }

    pub fn describe(&self) -> String {
        let one = |(node, machine): (usize, &Machine)| {
            let status = machine.quorum.as_ref().map(|quorum| {
                let status = quorum.status(self.world.now);
                let (stage, term, leader) = (status.stage, status.term, status.leader);
                let (committed, last) = (status.committed, status.last_index);
                let members = status.members.all().map(|it| it.node.0).collect::<Vec<_>>();
                format!("{stage:?} {term} {leader:?} {committed}/{last} of {members:?}")
            });
            format!("\n{node}: {} {status:?}", machine.state.last)
        };
        let all = self.machines.iter().enumerate().map(one).collect::<String>();
        format!("the newest is {}{all}", self.truth.last().last)
    }
}

fn decode(snapshot: &Snapshot) -> State {
    let number = |at: usize| u64::from_be_bytes(snapshot.payload[at..at + 8].try_into().unwrap());
    State { last: number(0), hash: number(8) }
}
