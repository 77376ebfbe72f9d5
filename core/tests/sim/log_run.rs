//! Level 1: a [`Log`] on the simulated flash, driven as the node drives it, cut down again and
//! again.
//!
//! The run appends, replaces, trims, reads and expires at random; the power goes or the process
//! dies at random, also while the log is starting. After a start the whole log is read and held
//! against the histories.

use crate::checks::{AlwaysStarts, Bounded, CommittedStays, DamageIsNamed, Limits};
use crate::checks::{OrderKept, Verdict};
use crate::crash_points::Snapshot;
use crate::disk::Disk;
use crate::faults::Faults;
use crate::flash::{Flash, Tear};
use crate::history::{BatchId, History, Producer};
use crate::plan::Plan;
use crate::replacing::Replacing;
use crate::runner::Tally;
use crate::thrift::KindToFlash;
use crate::truncating::Undone;
use crate::world::World;
use std::collections::{BTreeMap, VecDeque};
use weir_core::log::{
    Batches, Damage, Event as LogEvent, FLUSH_WINDOW, FetchError, FetchSpec, Log, OpenError,
    Policy, Settings, Start, Ticket,
};
use weir_core::types::{Nanos, NodeId, Offset, OpId, PartitionNumber, Time, WallTime};

/// A start that takes longer, on a disk that stalls, has not ended.
const START_TIME_MAX: Nanos = Nanos(600_000_000_000);

/// What happens in a run.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Disk { boot: u32, op: OpId },
    Tick { boot: u32 },
    Work,
    Crash,
}

/// One partition of the run: its history and what its clients have in flight.
#[derive(Clone)]
pub struct Partition {
    pub history: History,
    pub producer: Producer,
    /// Appended and not yet durable: where it ends, and what it is.
    pub in_flight: VecDeque<(i64, i64, BatchId)>,
    pub policy: Policy,
    /// Of what is appended: another one after each start and truncation.
    pub leader_epoch: i32,
    /// Truncations that are not on flash, in order.
    pub undone: Vec<Undone>,
}

pub struct LogRun {
    pub world: World<Event>,
    pub disk: Disk,
    pub plan: Plan,
    pub log: Option<Log>,
    pub partitions: BTreeMap<PartitionNumber, Partition>,
    pub boot: u32,
    pub next_id: u64,
    /// The log said `Ready`.
    pub ready: bool,
    /// It is known which truncations the start has found.
    pub resolved: bool,
    pub formatted: bool,
    pub fenced: bool,
    pub crash_due: bool,
    /// When the run began.
    pub began: Time,
    /// The last life: nothing crashes any more.
    last: bool,
    /// Answers that came for tickets.
    pub answers: BTreeMap<Ticket, Result<Batches, FetchError>>,
    /// An audit waits for its answer: the clients pause.
    pub waiting: bool,
    /// Reads and searches of the clients that are under way.
    pub reads: BTreeMap<Ticket, FetchSpec>,
    pub searches: BTreeMap<Ticket, (PartitionNumber, i64, i64)>,
    /// What is being replaced.
    pub replacing: Option<Replacing>,
    pub tick_at: Option<Time>,
    pub appended_bytes: u64,
    pub refused: u64,
    /// What the scrub has found.
    pub damages: Vec<Damage>,
    pub slots_cleaned: u64,
    pub runs_gathered: u64,
    pub thrift: KindToFlash,
    /// What each moment at which the disk had done something would leave behind, where it is
    /// wanted.
    pub snapshots: Option<Vec<Snapshot>>,
}

impl LogRun {
    pub fn new(seed: u64, plan: Plan) -> LogRun {
        let mut world = World::new(seed);
        let mut disk = Disk::new(Flash::default(), Faults::default());
        disk.faults = plan.faults;
        disk.bug = plan.bug;
        disk.slot_bytes = plan.slot_bytes;
        disk.bytes_max = plan.room(&mut world.rng);
        let partitions = (1..=plan.partitions)
            .map(|number| {
                (PartitionNumber(number), Partition::random(&mut world.rng, number, &plan))
            })
            .collect();
        let began = world.now;
        LogRun {
            began,
            world,
            disk,
            plan,
            log: None,
            partitions,
            boot: 0,
            next_id: 1,
            ready: false,
            resolved: false,
            formatted: false,
            fenced: false,
            crash_due: false,
            last: false,
            answers: BTreeMap::new(),
            waiting: false,
            reads: BTreeMap::new(),
            searches: BTreeMap::new(),
            replacing: None,
            tick_at: None,
            appended_bytes: 0,
            refused: 0,
            damages: Vec::new(),
            slots_cleaned: 0,
            runs_gathered: 0,
            thrift: KindToFlash::default(),
            snapshots: None,
        }
    }

    /// The whole run: boots, works, crashes, and in the end reads everything with a healthy disk.
    pub fn run(&mut self) -> Verdict {
        self.world.after(Nanos(1), Event::Work);
        for boot in 1..=self.plan.boots {
            let life = self.world.delay_us(1, self.plan.life_us);
            self.world.after(life, Event::Crash);
            self.boot()?;
            if self.ready && (boot == 1 || self.world.rng.percent(70)) {
                self.audit_all()?;
            }
            while !self.crash_due {
                self.step()?;
            }
            self.crash();
        }
        self.disk.faults = Faults::default();
        self.disk.bytes_max = u64::MAX;
        self.last = true;
        self.boot()?;
        self.audit_all()
    }

    /// Opens the log and waits until it is ready or the next crash comes.
    pub fn boot(&mut self) -> Verdict {
        self.boot += 1;
        // As the driver does it: what has bytes is opened, what is empty is formatted.
        let (slot_bytes, slots) = self.plan.geometry();
        let start = match self.disk.flash.len() {
            0 => Start::Format { store: self.world.rng.uuid(), slot_bytes, slots },
            _ => Start::Recover,
        };
        let read_before = self.disk.stats.read_bytes;
        let settings = Settings {
            start,
            medium_bytes: self.disk.flash.len(),
            node: NodeId(1),
            flush_cap: self.plan.flush_cap,
            flush_window: FLUSH_WINDOW,
            checkpoint_bytes: self.plan.checkpoint_bytes(),
            tail_cache_bytes: self.plan.tail_cache_bytes,
            footer_cache_bytes: self.plan.footer_cache_bytes,
            index_runs_max: self.plan.index_runs_max,
        };
        self.log = Some(Log::open_unguarded(settings, self.plan.unguarded()));
        log::debug!(
            "boot {} of {} bytes at {:?}",
            self.boot,
            self.disk.flash.len(),
            self.world.now
        );
        self.pump()?;
        let began = self.world.now;
        while !self.ready && !self.crash_due {
            self.step()?;
            if self.world.now.since(began) > START_TIME_MAX {
                return AlwaysStarts::fails("the start never ended".into());
            }
        }
        if self.ready {
            self.formatted = true;
            self.disk.armed = true;
            let read_bytes = self.disk.stats.read_bytes - read_before;
            // A start that finds its checkpoint harmed reads more, but each slot twice at most.
            let read_bytes_max = match self.disk.harm.any() || self.plan.no_checkpoints {
                true => 4 * self.plan.medium_bytes(),
                false => self.plan.start_read_bytes_max(),
            };
            AlwaysStarts::check(true, read_bytes, read_bytes_max)?;
            self.started()?;
        }
        Ok(())
    }

    /// What the node does after a start: policies, and requests that clients send again.
    fn started(&mut self) -> Verdict {
        for (number, partition) in &mut self.partitions {
            let log = self.log.as_mut().expect("it is open");
            log.set_partition(*number, partition.policy);
            let damage = log.stats().damaged_groups + u64::from(log.stats().damaged_ranges);
            let view = log.partition(*number).expect("it was made known");
            let (end, durable) = (view.log_end.0, view.durable_end.0);
            partition.in_flight.clear();
            partition.leader_epoch += 1;
            if self.disk.harm.is_uncut(*number) {
                let harm = &self.disk.harm;
                partition.history.blur(|base| harm.is_torn(*number, base));
                partition.producer.begin_new_epoch();
            }
            partition.resolve_truncations(*number, log);
            if self.disk.harm.any() {
                DamageIsNamed::check_end(*number, partition, &self.disk.harm, end, damage > 0)?;
            }
            if !partition.history.ends_at(end) && !self.disk.harm.any() {
                return OrderKept::fails(format!("{number:?} ends at {end}, inside a batch"));
            }
            if end != durable {
                return CommittedStays::fails(format!(
                    "{number:?} starts with {durable} of {end} durable"
                ));
            }
            if end < partition.history.high_watermark {
                let before = partition.history.high_watermark;
                return CommittedStays::fails(format!(
                    "{number:?} ends at {end}, was durable up to {before}"
                ));
            }
        }
        self.resolved = true;
        self.disk.harm.started();
        self.pump()?;
        for number in self.numbers() {
            match self.plan.resend_at_start {
                true => self.resend(number)?,
                false => self
                    .partitions
                    .get_mut(&number)
                    .expect("it is known")
                    .producer
                    .begin_new_epoch(),
            }
        }
        Ok(())
    }

    /// The power goes, or only the process.
    pub fn crash(&mut self) {
        if self.world.rng.percent(20) {
            return self.kill();
        }
        self.forget();
        log::debug!("cut at {:?}", self.world.now);
        let tear = Tear::random(&mut self.world.rng, self.disk.flash.pending_sectors());
        self.disk.cut(&mut self.world.rng, tear);
    }

    pub fn kill(&mut self) {
        log::debug!("kill at {:?}", self.world.now);
        self.forget();
        self.disk.kill();
    }

    fn forget(&mut self) {
        let stats = self.log.as_ref().map(Log::stats).unwrap_or_default();
        self.slots_cleaned += stats.slots_cleaned;
        self.runs_gathered += stats.index.runs_gathered;
        self.log = None;
        self.ready = false;
        self.resolved = false;
        self.fenced = false;
        self.crash_due = false;
        self.answers.clear();
        self.reads.clear();
        self.searches.clear();
        self.replacing = None;
        self.waiting = false;
        self.tick_at = None;
    }

    /// Lets the next event happen.
    pub fn step(&mut self) -> Verdict {
        let Some(event) = self.world.next() else {
            return Bounded::fails("the log waits for nothing".into());
        };
        match event {
            Event::Disk { boot, op } if boot == self.boot && self.log.is_some() => {
                let (result, started) = self.disk.finish(op, &mut self.world.rng);
                self.schedule(started);
                let now = self.world.now;
                self.log.as_mut().expect("it is open").done(now, op, result);
                self.pump()
            }
            Event::Tick { boot } if boot == self.boot => {
                self.tick_at = None;
                self.pump()
            }
            Event::Work => {
                let pause = self.world.delay_us(1, self.plan.pause_us);
                self.world.after(pause, Event::Work);
                if self.disk.armed && self.world.rng.below(1000) < self.disk.faults.rot {
                    self.disk.rot(&mut self.world.rng);
                }
                if self.ready && !self.waiting && !self.fenced { self.work() } else { Ok(()) }
            }
            Event::Crash => {
                self.crash_due = !self.last;
                Ok(())
            }
            Event::Disk { .. } | Event::Tick { .. } => Ok(()),
        }
    }

    /// Performs what the log asks for and takes in what it says, until it is quiet.
    pub fn pump(&mut self) -> Verdict {
        loop {
            let now = self.world.now;
            let log = self.log.as_mut().expect("it is open");
            if let Some(io) = log.poll_io(now) {
                self.weigh(&io)?;
                let started = self.disk.submit(io, &mut self.world.rng);
                self.schedule(started);
            } else if let Some(event) = log.poll_event() {
                self.take(event)?;
            } else {
                break;
            }
        }
        self.settle_truncations();
        self.note_replaced();
        let limits = Limits {
            operations_outstanding_max: self.plan.operations_outstanding_max,
            medium_bytes_max: self.plan.medium_bytes(),
        };
        Bounded::check(&limits, self.disk.outstanding(), self.disk.flash.len())?;
        let index = self.log.as_ref().map(|log| log.stats().index).unwrap_or_default();
        Bounded::check_index(&index, self.plan.index_runs_bound())?;
        self.note_snapshot();
        let deadline = self.log.as_ref().and_then(Log::deadline);
        if let Some(at) = deadline
            && self.tick_at.is_none_or(|tick_at| at < tick_at)
        {
            self.tick_at = Some(at);
            self.world.at(at, Event::Tick { boot: self.boot });
        }
        Ok(())
    }

    fn take(&mut self, event: LogEvent) -> Verdict {
        if !matches!(event, LogEvent::Fetched { .. }) {
            log::trace!("{event:?}");
        }
        match event {
            LogEvent::Ready => self.ready = true,
            LogEvent::Refused(OpenError::Blank | OpenError::NotALog) if !self.formatted => {
                // The cut came before the format was durable: the driver formats anew.
                self.disk.flash = Flash::default();
                self.crash_due = true;
            }
            LogEvent::Refused(error) => {
                // A device that cannot be read says so; the operator tries again.
                if !self.disk.faults.any() || self.last {
                    return AlwaysStarts::fails(format!("refused: {error:?}"));
                }
                self.crash_due = true;
            }
            LogEvent::Durable { partitions } => {
                for number in partitions {
                    self.acknowledge(number)?;
                }
            }
            LogEvent::Fetched { ticket, result } => match self.reads.remove(&ticket) {
                Some(spec) => return self.served(spec, result),
                None => drop(self.answers.insert(ticket, result)),
            },
            LogEvent::Found { ticket, result } => {
                let search = self.searches.remove(&ticket);
                let (number, wanted, end) = search.expect("only searches are answered so");
                match result {
                    Ok(hit) => return self.found(number, wanted, end, hit),
                    Err(FetchError::Device) if self.disk.faults.read_error > 0 => {}
                    Err(error) => {
                        return CommittedStays::fails(format!("{number:?} at {wanted}: {error:?}"));
                    }
                }
            }
            LogEvent::Trimmed { partition, log_start } => {
                return self.trimmed(partition, log_start);
            }
            LogEvent::Damage(damage) => self.damages.push(damage),
            LogEvent::WriteFailed
            | LogEvent::Unpacked { .. }
            | LogEvent::Replaced { .. }
            | LogEvent::Probed { .. } => {}
            LogEvent::Fenced => {
                // Loud, and right if the disk failed twice; the operator restarts the node.
                if self.disk.stats.errors < 2 {
                    return Bounded::fails("the log is fenced though the disk is well".into());
                }
                self.fenced = true;
                self.crash_due = true;
            }
        }
        Ok(())
    }

    /// The durable end of a partition has moved: everything below is acknowledged.
    fn acknowledge(&mut self, number: PartitionNumber) -> Verdict {
        let view = self.log.as_ref().and_then(|log| log.partition(number));
        let Some(durable) = view.map(|view| view.durable_end.0) else {
            return OrderKept::fails(format!("{number:?} is durable and not known"));
        };
        let partition = self.partitions.get_mut(&number).expect("only known ones are appended to");
        if durable < partition.history.high_watermark {
            let before = partition.history.high_watermark;
            return CommittedStays::fails(format!(
                "{number:?} went from {before} back to {durable}"
            ));
        }
        partition.history.high_watermark = durable;
        while let Some((base, end, id)) = partition.in_flight.front().copied()
            && end <= durable
        {
            partition.in_flight.pop_front();
            partition.history.acked.insert(base, id);
            partition.producer.pending.retain(|pending| *pending != id);
        }
        Ok(())
    }

    /// The log moved a log start offset by itself: the policy must allow it.
    fn trimmed(&mut self, number: PartitionNumber, log_start: Offset) -> Verdict {
        let partition = self.partitions.get_mut(&number).expect("only known ones are trimmed");
        let wall = self.plan.wall(self.world.now).0;
        let retention = partition.policy.retention;
        let early = partition.history.expired_early(log_start.0, wall, retention);
        if early && !retention.yields_to_pressure && !partition.history.blurred {
            let view = self.log.as_ref().and_then(|log| log.partition(number));
            let (bytes, max) = (view.map_or(0, |view| view.bytes), retention.bytes);
            return CommittedStays::fails(format!(
                "{number:?} lost what is below {log_start} too early: {bytes} bytes of {max}"
            ));
        }
        let start = &mut partition.history.log_start_max;
        *start = (*start).max(log_start.0);
        Ok(())
    }

    fn schedule(&mut self, started: Option<crate::disk::Started>) {
        if let Some((delay, op)) = started {
            self.world.after(delay, Event::Disk { boot: self.boot, op });
        }
    }

    pub fn tally(&self) -> Tally {
        let acknowledged = self.partitions.values().map(|one| one.history.acked.len() as u64).sum();
        Tally {
            cuts: self.disk.stats.cuts,
            harms: self.disk.harm.count,
            simulated_ns: self.world.now.since(self.began).0,
            payload_bytes: self.appended_bytes,
            written_bytes: self.disk.stats.written_bytes,
            acknowledged,
            trace: self.world.trace.0 ^ self.disk.trace.0,
            ..Tally::default()
        }
    }

    pub fn numbers(&self) -> Vec<PartitionNumber> {
        self.partitions.keys().copied().collect()
    }

    pub fn wall(&self) -> WallTime {
        self.plan.wall(self.world.now)
    }
}
