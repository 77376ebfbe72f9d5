//! A gateway whose power goes again and again before it has done anything: each start finds what
//! the one before has left, and none reads more than the first.

use crate::checks::Violation;
use crate::faults::Faults;
use crate::log_run::{Event, LogRun};
use crate::plan::Plan;
use crate::runner::{Tally, seeds};
use weir_core::log::Lane;
use weir_core::rng::Rng;

const STARTS: u32 = 60;

/// Fills some slots of every lane, and then dies in each start or in its first commits. What each
/// start reads is held against [`Plan::start_read_bytes_max`], whichever start it is.
fn looped(seed: u64) -> Result<Tally, Violation> {
    let mut plan = Plan::small(&mut Rng::new(seed));
    plan.slots = 64;
    plan.partitions = 8;
    plan.faults = Faults::default();
    plan.flush_cap = None;
    plan.retention = false;
    let mut run = LogRun::new(seed, plan);
    let lanes = [Lane::Short, Lane::Long, Lane::Compacted, Lane::Meta];
    for (partition, lane) in run.partitions.values_mut().zip(lanes.into_iter().cycle()) {
        partition.policy.lane = lane;
    }
    run.boot()?;
    for _ in 0..20 {
        run.work()?;
        run.quiesce()?;
    }
    run.crash();
    for _ in 0..STARTS {
        if run.world.rng.percent(30) {
            let life = run.world.delay_us(1, 30_000);
            run.world.after(life, Event::Crash);
        }
        run.boot()?;
        if run.ready {
            for number in run.numbers() {
                run.append_some(number)?;
            }
            for _ in 0..run.world.rng.below(8) {
                if run.disk.outstanding() > 0 {
                    run.step()?;
                }
            }
        }
        run.crash();
    }
    run.boot()?;
    while !run.ready {
        run.crash();
        run.boot()?;
    }
    run.quiesce()?;
    run.audit_all()?;
    Ok(run.tally())
}

#[test]
fn a_start_in_a_crash_loop_reads_no_more_than_the_first() {
    seeds("a_start_in_a_crash_loop", 30, looped);
}
