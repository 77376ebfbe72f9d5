//! Exhaustive crash points: a small script, cut at every write and flush boundary with every torn
//! sector.
//!
//! After each cut the log must start, hold what was acknowledged, and go on. A sample of those
//! starts is cut again at each of its own boundaries: the append, cut, truncate, append, cut
//! pattern that brings a stale tail back.

use crate::checks::{Verdict, Violation};
use crate::disk::Disk;
use crate::flash::{Flash, Tear};
use crate::log_run::{LogRun, Partition};
use crate::plan::Plan;
use crate::runner::Tally;
use crate::world::World;
use std::collections::BTreeMap;
use weir_core::rng::Rng;
use weir_core::types::{Nanos, PartitionNumber};

/// Everything that a cut at one moment leaves behind, before it is torn.
#[derive(Clone)]
pub struct Snapshot {
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
        for tear in tears(&mut rng, snapshot.flash.pending_sectors(), 24) {
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
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
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

    /// Waits until the log has nothing to do.
    pub fn quiesce(&mut self) -> Verdict {
        while !self.log.as_ref().is_none_or(|log| log.is_idle()) || self.disk.outstanding() > 0 {
            self.step()?;
        }
        Ok(())
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
