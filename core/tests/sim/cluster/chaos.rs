//! What goes wrong at a site, and how it all ends well.

use super::gateway::{End, Gateway};
use super::plan::Bug;
use super::run::{Cluster, Event};
use crate::checks::{Verdict, Violation};
use crate::faults::Faults;
use weir_core::node::Input;
use weir_core::peer::VERSION;
use weir_core::types::Nanos;

/// How long a healed site may take until everything is as it should be.
const HEAL_MS: u64 = 60_000;

#[derive(Clone, Copy, Debug)]
pub enum Chaos {
    Next,
    Boot(usize),
    Resume(usize),
    Unblock,
    /// The power goes again while a gateway starts, or after its disk has lied for a while.
    Cut {
        gateway: usize,
        boot: u32,
        away_ms: u64,
    },
    Operate,
    /// A connection that is still silent by now ends.
    GiveUp {
        way: (usize, usize),
        link: u64,
    },
}

/// When the faults end, everybody serves, all that was acknowledged can be read, and the in-sync
/// sets are full.
pub struct Converges;

impl Converges {
    pub fn fails(what: String) -> Verdict {
        Err(Violation { checker: "Converges", what })
    }
}

impl Cluster {
    pub fn next_chaos(&mut self) {
        let delay = self.world.delay_us(10_000, self.plan.fault_every_ms * 2_000);
        self.world.after(delay, Event::Chaos(Chaos::Next));
    }

    pub fn chaos(&mut self, chaos: Chaos) -> Verdict {
        match chaos {
            Chaos::Next if self.faulty => {
                self.next_chaos();
                self.something_happens()
            }
            Chaos::Next => Ok(()),
            // What has healed is not touched any more.
            Chaos::Boot(_) | Chaos::Cut { .. } if !self.faulty => Ok(()),
            Chaos::Boot(index) => {
                if self.gateways[index].stopping {
                    self.end(index, End::Kill);
                }
                if self.gateways[index].is_up() {
                    return Ok(());
                }
                if self.plan.upgrade && self.world.rng.percent(50) {
                    self.upgrade(index);
                }
                if self.plan.cuts && !self.fragile && self.world.rng.percent(20) {
                    let boot = self.gateways[index].boot + 1;
                    let delay = self.world.delay_us(50, 30_000);
                    let cut = Chaos::Cut { gateway: index, boot, away_ms: 100 };
                    self.world.after(delay, Event::Chaos(cut));
                }
                self.boot(index)
            }
            Chaos::Cut { gateway, boot, away_ms } => {
                if self.gateways[gateway].is_up() && self.gateways[gateway].boot == boot {
                    self.end(gateway, End::Cut);
                    let delay = Nanos::from_ms(away_ms);
                    self.world.after(delay, Event::Chaos(Chaos::Boot(gateway)));
                }
                Ok(())
            }
            Chaos::Operate => self.operate(),
            Chaos::Resume(index) => self.resume(index),
            Chaos::Unblock => self.unblock(),
            Chaos::GiveUp { way, link } => {
                let silent = self.net.is_blocked(way) || self.net.is_blocked((way.1, way.0));
                let noticed = self.plan.bug != Bug::HeardForEver;
                if noticed && silent && self.net.link((way.1, way.0)) == link {
                    self.hang_up(way, 500_000);
                    self.hang_up((way.1, way.0), 2_000_000);
                }
                Ok(())
            }
        }
    }

    fn something_happens(&mut self) -> Verdict {
        let lies = |gateway: &Gateway| gateway.is_up() && gateway.disk.faults.lying_flush > 0;
        if self.fragile && (self.is_whole().is_err() || self.gateways.iter().any(lies)) {
            return Ok(());
        }
        self.fragile = false;
        let rng = &mut self.world.rng;
        let index = rng.below(self.gateways.len() as u64) as usize;
        if self.gateways[index].is_ill() && !self.gateways[index].stopping {
            self.end_for_a_while(index, End::Kill);
            return Ok(());
        }
        match rng.below(13) {
            0 | 1 if self.plan.kills => self.end_for_a_while(index, End::Kill),
            2 if self.plan.cuts => self.end_for_a_while(index, End::Cut),
            3 if self.plan.cuts => {
                let all = self.world.rng.percent(50);
                for index in 0..self.gateways.len() {
                    if all || self.world.rng.percent(50) {
                        self.end_for_a_while(index, End::Cut);
                    }
                }
            }
            4 | 5 if self.plan.partitions => self.split(),
            6 if self.plan.partitions => {
                let other = self.world.rng.below(self.gateways.len() as u64) as usize;
                self.net.slow_down((index, other));
                self.unblock_later();
            }
            7 => {
                let other = self.world.rng.below(self.gateways.len() as u64) as usize;
                if other != index {
                    self.hang_up((index, other), 10_000);
                    self.hang_up((other, index), 1_000_000);
                }
            }
            8 if self.plan.pauses => self.pause(index),
            9 if self.plan.clock_jumps => {
                let years = self.world.rng.below(20) as i64 - 10;
                self.gateways[index].skew_ms = years * 31_557_600_000;
            }
            10 if self.plan.wipes && self.may_wipe() => {
                self.fragile = self.plan.replication_factor() < 3;
                self.end_for_a_while(index, End::Wipe);
            }
            11 if self.plan.stops && self.gateways[index].is_up() => {
                self.gateways[index].handle(self.world.now, Input::Stop);
                self.pump(index)?;
                let delay = self.world.delay_us(100_000, 3_000_000);
                self.world.after(delay, Event::Chaos(Chaos::Boot(index)));
                self.gateways[index].stopping = true;
            }
            12 if self.plan.lies && self.may_lie() => self.lie(index),
            _ => {}
        }
        Ok(())
    }

    fn end_for_a_while(&mut self, index: usize, end: End) {
        self.end(index, end);
        let long = [1_000_000, 8_000_000][self.world.rng.below(2) as usize];
        let delay = self.world.delay_us(10_000, long);
        self.world.after(delay, Event::Chaos(Chaos::Boot(index)));
    }

    /// One store is lost at a time, and the next only when the site is whole again: a new store
    /// has everything and votes. Two voters have nobody to replace one of them. Where topics have
    /// two replicas, nothing else goes wrong meanwhile: `min.insync.replicas` is 1 for some, so
    /// that a wiped one may be the last that counts as in sync while the other starts anew. It
    /// takes the partition with it, until somebody asks for an unclean election.
    fn may_wipe(&self) -> bool {
        self.operator.voters() >= 3 && self.is_whole().is_ok()
    }

    /// A voter whose flash lies may help to forget what it has confirmed, once the others who have
    /// it are away. So these stay until it is whole again.
    fn may_lie(&self) -> bool {
        self.may_wipe()
            && self.net.is_free()
            && self.gateways.iter().all(|gateway| !gateway.paused && !gateway.stopping)
    }

    fn lie(&mut self, index: usize) {
        self.fragile = true;
        let gateway = &mut self.gateways[index];
        gateway.disk.faults.lying_flush = 1_000;
        gateway.disk.armed = true;
        let boot = gateway.boot;
        let delay = self.world.delay_us(1_000, 300_000);
        let away_ms = 4_000 + self.world.rng.below(4_000);
        self.world.after(delay, Event::Chaos(Chaos::Cut { gateway: index, boot, away_ms }));
    }

    fn pause(&mut self, index: usize) {
        self.gateways[index].paused = true;
        let delay = self.world.delay_us(100_000, 8_000_000);
        self.world.after(delay, Event::Chaos(Chaos::Resume(index)));
    }

    fn resume(&mut self, index: usize) -> Verdict {
        self.gateways[index].paused = false;
        let (due, rest) = std::mem::take(&mut self.held).into_iter().partition(|it| it.0 == index);
        self.held = rest;
        let due: Vec<_> = due;
        for (gateway, what) in due {
            self.reach(gateway, what)?;
        }
        Ok(())
    }

    /// Some gateways cannot reach some others, in both directions or in one.
    fn split(&mut self) {
        let rng = &mut self.world.rng;
        let count = self.gateways.len();
        let side: Vec<bool> = (0..count).map(|_| rng.percent(40)).collect();
        let (there, back) = [(true, true), (true, true), (true, false)][rng.below(3) as usize];
        for one in (0..count).filter(|index| side[*index]) {
            for other in (0..count).filter(|index| !side[*index]) {
                if there {
                    self.cut_way((one, other), 500_000, 6_000_000);
                }
                if back {
                    self.cut_way((other, one), 500_000, 6_000_000);
                }
            }
        }
        self.unblock_later();
    }

    /// Nothing gets from one to the other. Sooner or later somebody takes the connection for dead.
    pub fn cut_way(&mut self, way: (usize, usize), low_us: u64, high_us: u64) {
        self.net.block(way);
        let link = self.net.link(way);
        let delay = self.world.delay_us(low_us, high_us);
        self.world.after(delay, Event::Chaos(Chaos::GiveUp { way, link }));
    }

    fn unblock_later(&mut self) {
        let delay = self.world.delay_us(100_000, 10_000_000);
        self.world.after(delay, Event::Chaos(Chaos::Unblock));
    }

    pub fn unblock(&mut self) -> Verdict {
        for ((from, to), link, arrival) in self.net.unblock() {
            let what = super::run::What::Peer { from, link, arrival };
            match self.gateways[to].paused {
                true => self.held.push((to, what)),
                false => self.reach(to, what)?,
            }
        }
        Ok(())
    }

    /// Nothing goes wrong any more.
    pub fn heal(&mut self) -> Verdict {
        log::debug!("{:?} all heals", self.world.now);
        self.faulty = false;
        self.operator.come_to_rest();
        (self.net.loss, self.net.duplication, self.net.delay_us) = (0, 0, 1_000);
        self.unblock()?;
        for index in 0..self.gateways.len() {
            self.gateways[index].disk.faults = Faults::default();
            self.gateways[index].skew_ms = 0;
            if self.gateways[index].paused {
                self.resume(index)?;
            }
            // Some have given up and wait for a person who starts them again.
            if self.gateways[index].is_ill() && self.gateways[index].is_up() {
                self.end(index, End::Kill);
            }
            if !self.gateways[index].is_up() {
                self.upgrade(index);
                self.boot(index)?;
            }
        }
        // What a flash that lied has lost, the others have: they stay until it is back.
        if core::mem::take(&mut self.fragile) {
            self.converge()?;
        }
        for index in 0..self.gateways.len() {
            if self.gateways[index].version < VERSION {
                self.upgrade(index);
                self.end(index, End::Kill);
                self.boot(index)?;
            }
        }
        Ok(())
    }

    /// Waits until all is as it should be.
    pub fn converge(&mut self) -> Verdict {
        self.converge_watched(200, |_| ())
    }

    /// The same, with a look at each step of the way.
    pub fn converge_watched(&mut self, step_ms: u64, mut look: impl FnMut(&Cluster)) -> Verdict {
        look(self);
        let until = self.world.now + Nanos::from_ms(HEAL_MS);
        while let Err(why) = self.is_whole() {
            // What failed before may be noticed only now.
            for index in 0..self.gateways.len() {
                if self.gateways[index].is_ill() && !self.gateways[index].stopping {
                    self.end(index, End::Kill);
                    self.boot(index)?;
                }
            }
            if self.world.now > until {
                for gateway in &self.gateways {
                    let status = gateway.node.as_ref().map(|it| it.site_status(self.world.now));
                    log::debug!("gateway {} serves: {} {status:?}", gateway.id.0, gateway.serves);
                }
                return Converges::fails(why);
            }
            self.pass(Nanos::from_ms(step_ms))?;
            look(self);
        }
        Ok(())
    }

    /// All is well: whoever is killed now, the others have everything, and take more.
    pub fn hand_over(&mut self) -> Verdict {
        for _ in 0..2 {
            let before = self.crowd.acknowledged();
            let gateway = self.world.rng.below(self.gateways.len() as u64) as usize;
            self.end(gateway, End::Kill);
            self.pass(Nanos::from_ms(8_000))?;
            if self.plan.stays_available() {
                if self.crowd.acknowledged() == before {
                    let what = format!("nothing is acknowledged without gateway {}", gateway + 1);
                    return Converges::fails(what);
                }
                self.audit()?;
            }
            self.boot(gateway)?;
            self.converge()?;
            self.audit()?;
        }
        Ok(())
    }

    /// Everybody serves, and every partition has all its replicas in sync, without damage.
    pub fn is_whole(&self) -> Result<(), String> {
        if let Some(gateway) = self.gateways.iter().find(|gateway| !gateway.serves) {
            return Err(format!("gateway {} does not serve", gateway.id.0));
        }
        for gateway in &self.gateways {
            for replica in gateway.node.iter().flat_map(|node| node.replicas_status()) {
                if !replica.is_whole() || replica.is_damaged {
                    return Err(format!("gateway {}: {replica:?}", gateway.id.0));
                }
            }
        }
        self.has_its_members()?;
        self.has_its_level()?;
        let there = self.crowd.shared.topics.iter().filter(|(_, there)| **there == Some(true));
        if there.count() < super::crowd::TOPICS.len() {
            return Err("there are no topics yet".into());
        }
        Ok(())
    }
}
