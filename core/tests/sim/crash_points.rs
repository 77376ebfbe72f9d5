//! Exhaustive crash points: a small script, cut at every write and flush boundary with every torn
//! sector.
//!
//! After each cut the log must start, hold what was acknowledged, and go on.
//!
//! | script | points of a plain run |
//! |---|---|
//! | plain load; of a hundred starts four are cut again at each of their own boundaries | 35,600 |
//! | cleaning: from the first copy out of a slot until that slot is in use again | 600 |
//! | key compaction: from the first read until a checkpoint knows of it (`compacting`) | 700 |
//! | gathering: while what lies scattered is written together (`gathering`) | 800 |
//!
//! Torn sectors: every single one of a small write, alone and left out, and a sample of a large
//! one. A plain run takes few seeds, and one of those samples while slots are cleaned or a topic is
//! compacted. A full campaign has a hundred thousand points at least, and says how many of each.

use crate::checks::{Bounded, Verdict, Violation};
use crate::disk::{Disk, Moment};
use crate::flash::{Flash, Tear};
use crate::log_run::{LogRun, Partition};
use crate::plan::Plan;
use crate::runner::Tally;
use crate::world::World;
use std::collections::BTreeMap;
use weir_core::rng::Rng;
use weir_core::types::{Nanos, PartitionNumber};

/// Sectors of a large write that are torn one by one.
pub const SAMPLE: u64 = 24;
/// Moments of one script that are tried at most.
const MOMENTS_MAX: usize = 400;
/// Steps until a log that nobody uses has nothing to do any more.
const RESTS_AFTER_MAX: u32 = 20_000;
/// Actions until something must have been cleaned.
const CLEANED_AFTER_MAX: u32 = 5_000;

/// Everything that a cut at one moment leaves behind, before it is torn.
#[derive(Clone)]
pub struct Snapshot {
    moment: Moment,
    flash: Flash,
    partitions: BTreeMap<PartitionNumber, Partition>,
    formatted: bool,
    boot: u32,
    next_id: u64,
}

/// Cuts a script at each of its boundaries; `double` of a hundred starts are cut again.
pub fn run(seed: u64, plan: &Plan, steps: u32, double: u64) -> Result<Tally, Violation> {
    let mut tally = Tally::default();
    let mut rng = Rng::new(seed ^ 0x5eed);
    let snapshots = record(LogRun::new(seed, plan.clone()), steps)?;
    for snapshot in &snapshots {
        for tear in tears(&mut rng, snapshot.flash.pending_sectors(), SAMPLE) {
            let mut run = LogRun::resume(rng.next_u64(), plan.clone(), snapshot.clone());
            run.cut(tear);
            tally.crash_points += 1;
            if !rng.percent(double) {
                tally.add(&settle(run)?);
                continue;
            }
            for second in &record(run, 3)? {
                for tear in tears(&mut rng, second.flash.pending_sectors(), 1) {
                    let mut run = LogRun::resume(rng.next_u64(), plan.clone(), second.clone());
                    run.cut(tear);
                    tally.crash_points += 1;
                    tally.add(&settle(run)?);
                }
            }
        }
    }
    Ok(tally)
}

/// Cuts a log at each boundary from the first copy out of a slot until slots were freed by that
/// and are in use again. `sample` as in [`cut_each`].
pub fn run_cleaning(mut run: LogRun, sample: u64) -> Result<Tally, Violation> {
    let mut rng = Rng::new(run.world.rng.next_u64());
    let plan = run.plan.clone();
    let cleaned = |run: &LogRun| {
        let stats = run.log.as_ref().expect("it is open").stats();
        (stats.cleaned_bytes, stats.slots_cleaned, stats.checkpoints)
    };
    run.boot_or_format()?;
    let mut until = None;
    for _ in 0..CLEANED_AFTER_MAX {
        run.work()?;
        for _ in 0..run.world.rng.below(8) {
            if run.disk.outstanding() > 0 {
                run.step()?;
            }
        }
        let (copied, slots, checkpoints) = cleaned(&run);
        if copied > 0 && run.snapshots.is_none() && until.is_none() {
            run.snapshots = Some(Vec::new());
        }
        if slots >= 1 && until.is_none() {
            until = Some(checkpoints + 2);
        }
        let moments = run.snapshots.as_ref().map_or(0, Vec::len);
        if until.is_some_and(|until| checkpoints >= until) || moments >= MOMENTS_MAX {
            break;
        }
    }
    let snapshots = run.snapshots.take().unwrap_or_default();
    let mut tally = cut_each(
        &mut rng,
        &snapshots,
        sample,
        |snapshot| snapshot.flash.pending_sectors(),
        |seed, snapshot, tear| {
            let mut run = LogRun::resume(seed, plan.clone(), snapshot.clone());
            run.cut(tear);
            settle(run)
        },
    )?;
    tally.cleaning_points = tally.crash_points;
    Ok(tally)
}

/// Cuts at each of these moments, in each way, and lets `settle` say what comes of it.
pub fn cut_each<S>(
    rng: &mut Rng,
    snapshots: &[S],
    sample: u64,
    pending: impl Fn(&S) -> u64,
    settle: impl Fn(u64, &S, Tear) -> Result<Tally, Violation>,
) -> Result<Tally, Violation> {
    let mut tally = Tally::default();
    for snapshot in snapshots {
        for tear in tears(rng, pending(snapshot), sample) {
            tally.crash_points += 1;
            tally.add(&settle(rng.next_u64(), snapshot, tear)?);
        }
    }
    Ok(tally)
}

/// Starts, reads everything, works a little and reads everything again.
fn settle(mut run: LogRun) -> Result<Tally, Violation> {
    run.boot_or_format()?;
    run.audit_all()?;
    for _ in 0..2 {
        run.work()?;
    }
    run.quiesce()?;
    run.audit_all()?;
    Ok(run.tally())
}

/// Lets a run start and take some actions, and notes each moment at which the disk had done
/// something.
fn record(mut run: LogRun, steps: u32) -> Result<Vec<Snapshot>, Violation> {
    run.snapshots = Some(Vec::new());
    run.boot_or_format()?;
    run.audit_all()?;
    for _ in 0..steps {
        run.work()?;
        for _ in 0..run.world.rng.below(6) {
            if run.disk.outstanding() > 0 {
                run.step()?;
            }
        }
    }
    run.quiesce()?;
    Ok(run.snapshots.take().unwrap_or_default())
}

/// Every single-sector tear of a small group, a sample of a large one.
fn tears(rng: &mut Rng, pending: u64, sample: u64) -> Vec<Tear> {
    let mut tears = vec![Tear::KeepNothing];
    if pending == 0 {
        return tears;
    }
    tears.extend([Tear::KeepAll, Tear::Sectors(50), Tear::Pages(50)]);
    let mut single =
        |sector| tears.extend([Tear::First(sector), Tear::AllBut(sector), Tear::Only(sector)]);
    if pending <= sample {
        (0..pending).for_each(&mut single);
    } else {
        (0..sample).for_each(|_| single(rng.below(pending)));
    }
    tears
}

impl LogRun {
    /// Notes what a cut at this moment would leave behind, if that is wanted. Of several moments
    /// at which the disk has the same, the last one counts: that is when the clients know most.
    pub fn note_snapshot(&mut self) {
        let Some(mut snapshots) = self.snapshots.take() else { return };
        let snapshot = self.snapshot();
        snapshots.pop_if(|last| last.moment == snapshot.moment);
        snapshots.push(snapshot);
        self.snapshots = Some(snapshots);
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            moment: self.disk.moment(),
            flash: self.disk.flash.clone(),
            partitions: self.partitions.clone(),
            formatted: self.formatted,
            boot: self.boot,
            next_id: self.next_id,
        }
    }

    /// A run that begins with what another one has left; its disk has no faults.
    pub fn resume(seed: u64, plan: Plan, snapshot: Snapshot) -> LogRun {
        let mut run = LogRun::new(seed, plan);
        run.world = World::new(seed);
        // Time goes on, however short the first life was.
        run.world.now = run.world.now + Nanos::from_ms(60_000 * u64::from(snapshot.boot));
        run.began = run.world.now;
        run.disk = Disk::new(snapshot.flash, run.disk.faults);
        run.partitions = snapshot.partitions;
        run.formatted = snapshot.formatted;
        run.boot = snapshot.boot;
        run.next_id = snapshot.next_id;
        run
    }

    /// Waits until the log has nothing to do. It comes to rest: what is cleaned without end wears
    /// the card for nothing.
    pub fn quiesce(&mut self) -> Verdict {
        for _ in 0..RESTS_AFTER_MAX {
            if self.log.as_ref().is_none_or(|log| log.is_idle()) && self.disk.outstanding() == 0 {
                return Ok(());
            }
            self.step()?;
        }
        Bounded::fails("the log never comes to rest".into())
    }

    /// A cut that came before the format was durable leaves nothing that starts: it is formatted
    /// anew.
    fn boot_or_format(&mut self) -> Verdict {
        self.boot()?;
        if !self.ready {
            self.crash_due = false;
            self.boot()?;
        }
        Ok(())
    }

    fn cut(&mut self, tear: Tear) {
        self.disk.cut(&mut self.world.rng, tear);
    }
}
