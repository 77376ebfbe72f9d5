//! A run: what happens when, on all gateways, their connections and their clients.

use super::chaos::Chaos;
use super::crowd::{self, Crowd};
use super::gateway::{End, Gateway};
use super::net::{Arrival, Net, Way};
use super::operator::Operator;
use super::plan::{Bug, Plan};
use super::rot::Repairs;
use super::truth::Truth;
use crate::checks::{Bounded, Limits, Verdict};
use crate::client::unframed;
use crate::disk::Started;
use crate::node_audit;
use crate::runner::Tally;
use crate::world::World;
use bytes::Bytes;
use std::collections::BTreeSet;
use weir_core::node::{Input, Node, Output};
use weir_core::peer::Message;
use weir_core::peer::handshake::Hello;
use weir_core::types::{ConnId, Nanos, OpId};

/// How often gateways look for those that they have no connection with, at most.
const DIAL_US: u64 = 300_000;

/// How many events pass between two looks at all gateways together.
const LOOK_EVERY: u64 = 8;

#[derive(Clone, Debug)]
pub enum Event {
    /// Something reaches a gateway.
    To {
        gateway: usize,
        what: What,
    },
    Dial(Way),
    Connected {
        way: Way,
        link: u64,
    },
    Second,
    Wake(usize),
    Deliver {
        conn: ConnId,
        frame: Option<Bytes>,
    },
    HangUp {
        conn: ConnId,
    },
    Chaos(Chaos),
}

/// What reaches a gateway, unless its process is frozen: then later.
#[derive(Clone, Debug)]
pub enum What {
    Disk { boot: u32, op: OpId },
    Tick { boot: u32 },
    Request { conn: ConnId, frame: Bytes },
    Gone { conn: ConnId },
    Peer { from: usize, link: u64, arrival: Arrival },
}

pub struct Cluster {
    pub world: World<Event>,
    pub plan: Plan,
    pub gateways: Vec<Gateway>,
    /// What frozen gateways will hear, in order.
    pub held: Vec<(usize, What)>,
    pub net: Net,
    pub crowd: Crowd,
    truth: Truth,
    looked: u64,
    /// Faults may happen.
    pub faulty: bool,
    pub repairs: Repairs,
    /// Nothing else may go wrong before all is whole again.
    pub fragile: bool,
    pub operator: Operator,
    /// Gateways whose store was lost some time.
    pub lost_stores: BTreeSet<usize>,
}

impl Cluster {
    pub fn new(seed: u64, plan: Plan) -> Cluster {
        let mut world = World::new(seed);
        let gateways = (0..plan.gateways).map(|index| Gateway::new(index, &plan)).collect();
        let crowd = Crowd::new(&mut world.rng, &plan);
        let net = Net::new(plan.loss, plan.duplication, plan.delay_us);
        let held = Vec::new();
        let (truth, looked) = (Truth::default(), 0);
        let operator = Operator::new(&plan);
        let (faulty, fragile) = (true, false);
        Cluster {
            world,
            plan,
            gateways,
            held,
            net,
            crowd,
            truth,
            looked,
            repairs: Repairs::default(),
            faulty,
            fragile,
            operator,
            lost_stores: BTreeSet::new(),
        }
    }

    /// Faults first, then all is well and the site must be alive.
    pub fn run(&mut self) -> Verdict {
        self.begin()?;
        self.pass(Nanos::from_ms(self.plan.faults_ms))?;
        self.heal()?;
        self.converge()?;
        self.audit()?;
        self.hand_over()
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Nanos) -> Verdict {
        let end = self.world.now + time;
        while self.world.now < end {
            self.step()?;
        }
        Ok(())
    }

    /// Everything that was acknowledged or served is there.
    pub fn audit(&mut self) -> Verdict {
        self.crowd.paused = true;
        // What is under way comes to an end, and all gateways hear of it.
        self.pass(Nanos::from_ms(2_000))?;
        for (target, audit) in node_audit::audit(self, &crowd::targets())? {
            let history = self.crowd.shared.history(&target);
            history.serve(audit.batches.iter());
            history.high_watermark = history.high_watermark.max(audit.high_watermark);
        }
        self.crowd.paused = false;
        Ok(())
    }

    pub fn begin(&mut self) -> Verdict {
        for gateway in 0..self.gateways.len() {
            self.boot(gateway)?;
            for other in 0..gateway {
                self.world.after(Nanos(1), Event::Dial((gateway, other)));
            }
        }
        for client in 0..self.crowd.len() {
            self.world.after(Nanos(1), Event::Wake(client));
        }
        self.world.after(Nanos(2), Event::Second);
        self.next_chaos();
        self.world.after(Nanos(3), Event::Chaos(Chaos::Operate));
        Ok(())
    }

    pub fn boot(&mut self, index: usize) -> Verdict {
        let gateway = &mut self.gateways[index];
        log::debug!("{:?} gateway {} starts", self.world.now, gateway.id.0);
        gateway.start(self.world.now, &self.plan, index, &mut self.world.rng);
        gateway.tell_time(self.world.now, self.plan.store.wall(self.world.now));
        self.pump(index)
    }

    /// A gateway's process ends; those who are connected with it hear of that sooner or later.
    pub fn end(&mut self, index: usize, end: End) {
        log::debug!("{:?} gateway {} ends: {end:?}", self.world.now, index + 1);
        self.count_repairs(index);
        self.gateways[index].end(&mut self.world.rng, end);
        if end == End::Wipe {
            self.lost_stores.insert(index);
        }
        self.held.retain(|(gateway, _)| *gateway != index);
        self.net.forget(index);
        // A cut says no goodbye.
        let late = if end == End::Kill { 2_000 } else { 4_000_000 };
        for other in (0..self.gateways.len()).filter(|other| *other != index) {
            self.hang_up((index, other), late);
        }
        for conn in self.crowd.connected(index) {
            let delay = self.world.delay_us(50, late);
            self.world.after(delay, Event::HangUp { conn });
        }
    }

    /// The second gateway of the way will notice that the connection is over.
    pub fn hang_up(&mut self, way: Way, late_us: u64) {
        let link = self.net.link((way.1, way.0));
        if link != 0 {
            let delay = self.world.delay_us(50, late_us);
            let what = What::Peer { from: way.0, link, arrival: Arrival::Down };
            self.world.after(delay, Event::To { gateway: way.1, what });
        }
    }

    pub fn step(&mut self) -> Verdict {
        let event = self.world.next().expect("the clock always ticks");
        match event {
            Event::To { gateway, what } if self.gateways[gateway].paused => {
                self.held.push((gateway, what));
                Ok(())
            }
            Event::To { gateway, what } => self.reach(gateway, what),
            Event::Dial(way) => {
                self.dial(way);
                Ok(())
            }
            Event::Connected { way: (one, other), link } => {
                for (from, to) in [(one, other), (other, one)] {
                    let what = What::Peer { from, link, arrival: Arrival::Up };
                    self.world.after(Nanos(0), Event::To { gateway: to, what });
                }
                Ok(())
            }
            Event::Second => self.second(),
            Event::Wake(client) => self.wake(client),
            Event::Deliver { conn, frame } => self.deliver(conn, frame),
            Event::HangUp { conn } => {
                self.hang_up_client(conn);
                Ok(())
            }
            Event::Chaos(chaos) => self.chaos(chaos),
        }
    }

    pub fn reach(&mut self, index: usize, what: What) -> Verdict {
        let now = self.world.now;
        // A process that is gone, or does not know yet who it is, ends no handshake.
        if let What::Peer { from, arrival: Arrival::Up, .. } = &what
            && [*from, index].iter().any(|end| self.gateways[*end].hello.is_none())
        {
            return Ok(());
        }
        let gateway = &mut self.gateways[index];
        if !gateway.is_up() {
            return Ok(());
        }
        match what {
            What::Disk { boot, op } if boot == gateway.boot => {
                let (result, started) = gateway.disk.finish(op, &mut self.world.rng);
                gateway.handle(now, Input::Done { op, result });
                self.schedule(index, started);
            }
            What::Tick { boot } if boot == gateway.boot => {
                gateway.tick_at = None;
                gateway.handle(now, Input::Tick);
            }
            What::Request { conn, frame } if self.crowd.is_connected(conn, gateway.boot) => {
                let frame = self.plan.bug.request(frame);
                if let Some(answer) = self.plan.bug.pretends(&frame) {
                    self.send_back(conn, Some(answer));
                    return Ok(());
                }
                self.gateways[index].handle(now, Input::Request { conn, frame });
            }
            What::Gone { conn } => gateway.handle(now, Input::Closed { conn }),
            What::Peer { from, arrival: Arrival::Message(_), .. }
                if self.plan.bug == Bug::HeardForEver && self.net.is_blocked((from, index)) =>
            {
                self.tell_of_peer(index, from, Arrival::Message(Message::Ping));
            }
            What::Peer { from, link, arrival } => {
                for arrival in self.net.arrive((from, index), link, arrival) {
                    self.tell_of_peer(index, from, arrival);
                }
            }
            // Of a connection with the process before this one: the system says that it is over.
            What::Request { conn, .. } => {
                self.world.after(Nanos(0), Event::HangUp { conn });
                return Ok(());
            }
            What::Disk { .. } | What::Tick { .. } => return Ok(()),
        }
        self.pump(index)
    }

    fn tell_of_peer(&mut self, index: usize, from: usize, arrival: Arrival) {
        let now = self.world.now;
        let node = self.gateways[from].id;
        let input = match arrival {
            Arrival::Down => Input::PeerDown { node },
            Arrival::Message(message) => Input::Peer { from: node, message: received(message) },
            Arrival::Up => match self.gateways[from].hello.clone() {
                Some(hello) => Input::PeerUp { node, hello: Box::new(hello) },
                None => return,
            },
        };
        self.gateways[index].handle(now, input);
    }

    /// Two gateways look for each other, if they have no connection.
    fn dial(&mut self, way: Way) {
        let again = self.world.delay_us(DIAL_US / 4, DIAL_US);
        self.world.after(again, Event::Dial(way));
        let [one, other] = [way.0, way.1].map(|index| &self.gateways[index]);
        let known = |gateway: &Gateway| gateway.is_up() && !gateway.paused;
        let (Some(ours), Some(theirs)) = (&one.hello, &other.hello) else { return };
        let same = ours.cluster.is_none() || theirs.cluster.is_none();
        let same = same || ours.cluster == theirs.cluster;
        let speaks = ours.version >= theirs.version_min && theirs.version >= ours.version_min;
        let may = self.plan.bug != Bug::ConnectOnce || one.boot == 1 && other.boot == 1;
        if known(one)
            && known(other)
            && same
            && speaks
            && may
            && let Some(link) = self.net.dial(way)
        {
            let delay = self.world.delay_us(200, 5_000);
            self.world.after(delay, Event::Connected { way, link });
        }
    }

    fn second(&mut self) -> Verdict {
        self.world.after(Nanos::from_ms(1_000), Event::Second);
        let wall = self.plan.store.wall(self.world.now);
        self.crowd.shared.now_ms = wall.0;
        self.check_members()?;
        for index in 0..self.gateways.len() {
            if !self.gateways[index].paused {
                let now = self.world.now;
                self.gateways[index].tell_time(now, wall);
                self.pump(index)?;
            }
        }
        Ok(())
    }

    fn schedule(&mut self, index: usize, started: Option<Started>) {
        if let Some((delay, op)) = started {
            let what = What::Disk { boot: self.gateways[index].boot, op };
            self.world.after(delay, Event::To { gateway: index, what });
        }
    }

    /// Performs every output of a gateway.
    pub fn pump(&mut self, index: usize) -> Verdict {
        let now = self.world.now;
        let (outputs, deadline) = self.gateways[index].outputs(now);
        for output in outputs {
            match output {
                Output::Io(io) => {
                    let started = self.gateways[index].submit(io, &mut self.world.rng);
                    self.schedule(index, started);
                }
                Output::Reply { conn, frame } => self.send_back(conn, Some(unframed(&frame))),
                Output::NoReply { conn } => self.send_back(conn, None),
                Output::Close { conn } => {
                    let at = self.crowd.to_client(conn, now);
                    self.world.at(at, Event::HangUp { conn });
                }
                Output::Send { to, message } => self.send_peer(index, to.0, message)?,
                Output::Peers { cluster, directory, incarnation, level, .. } => {
                    let node = self.gateways[index].id;
                    let hello = Hello::new(node, directory, incarnation, [0; 32]);
                    self.introduce(index, Hello { cluster, ..hello }, level);
                }
                Output::Ready => {
                    self.gateways[index].serves = true;
                    if self.faulty && self.plan.is_sick(index) {
                        self.gateways[index].disk.faults = self.plan.store.faults;
                    }
                }
                Output::Stopped => {
                    self.end(index, End::Kill);
                    return Ok(());
                }
                Output::Refused(error) => return self.refused(index, &error),
            }
        }
        let gateway = &mut self.gateways[index];
        let limits = Limits {
            operations_outstanding_max: self.plan.store.operations_outstanding_max,
            medium_bytes_max: self.plan.store.medium_bytes(),
        };
        Bounded::check(&limits, gateway.disk.outstanding(), gateway.disk.flash.len())?;
        Bounded::check_pending(gateway.node.as_ref().map_or(0, Node::pending_bytes))?;
        if let Some(at) = deadline
            && gateway.tick_at.is_none_or(|tick_at| at < tick_at)
        {
            gateway.tick_at = Some(at);
            let what = What::Tick { boot: gateway.boot };
            self.world.at(at, Event::To { gateway: index, what });
        }
        self.looked += 1;
        if self.looked.is_multiple_of(LOOK_EVERY) {
            Truth::check_isr(&self.gateways)?;
        }
        self.truth.look(now, &self.gateways[index])
    }

    fn send_peer(&mut self, from: usize, to: i32, message: Message) -> Verdict {
        let message = self.plan.bug.message(message);
        let to = to as usize - 1;
        self.truth.sent((from, to), &message)?;
        self.truth.fetched(&self.gateways[from], &message)?;
        self.may_be_sent(to, &message)?;
        let link = self.net.link((from, to));
        if link == 0 {
            return Ok(());
        }
        let arrival = Arrival::Message(message);
        for at in self.net.send(self.world.now, &mut self.world.rng, (from, to), &arrival) {
            let what = What::Peer { from, link, arrival: arrival.clone() };
            self.world.at(at, Event::To { gateway: to, what });
        }
        Ok(())
    }

    pub fn tally(&self) -> Tally {
        let mut tally =
            Tally { simulated_ns: self.world.now.0, trace: self.world.trace.0, ..Tally::default() };
        for gateway in &self.gateways {
            tally.cuts += gateway.disk.stats.cuts;
            tally.written_bytes += gateway.disk.stats.written_bytes;
            tally.trace ^= gateway.disk.trace.0;
        }
        for history in self.crowd.shared.histories.values() {
            tally.acknowledged += history.acked.len() as u64;
            tally.payload_bytes +=
                history.sent.values().map(|sent| sent.bytes.len() as u64).sum::<u64>();
        }
        tally
    }
}

/// A message as the driver hands it out: its records in one piece.
fn received(message: Message) -> weir_core::peer::Message {
    use weir_core::peer::Message;
    let one_piece = |records: Vec<Bytes>| {
        let whole: Vec<u8> = records.iter().flatten().copied().collect();
        let whole = (!whole.is_empty()).then(|| Bytes::from(whole));
        whole.into_iter().collect()
    };
    match message {
        Message::Records(head, records) => Message::Records(head, one_piece(records)),
        Message::Range(head, records) => Message::Range(head, one_piece(records)),
        other => other,
    }
}
