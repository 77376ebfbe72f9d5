//! Level 1 with cleaning: small logs that are nearly full of records that die at different times,
//! so that slots are cleaned all the time, and cut while they are.

use crate::checks::Violation;
use crate::crash_points;
use crate::faults::Faults;
use crate::log_run::LogRun;
use crate::plan::{Bug, Plan};
use crate::runner::{Tally, must_find, say_line, seeds};
use weir_core::log::{Cleanup, Lane, Policy, Retention};
use weir_core::rng::Rng;

/// A plan under which slots run short: several partitions in each lane, half of which expire.
fn short_of_slots(plan: &mut Plan) {
    plan.slot_bytes = 64 << 10;
    plan.slots = 40;
    plan.checkpoint_bytes = 128 << 10;
    plan.partitions = 6;
    plan.value_bytes_max = 3_000;
    plan.life_us = 1_000_000;
    plan.pause_us = 2_000;
    plan.retention = true;
    plan.flush_cap = None;
}

/// Half of the partitions keep everything, the others little; two and two share a lane.
fn mix(run: &mut LogRun) {
    for (index, partition) in run.partitions.values_mut().enumerate() {
        let bytes = if index % 2 == 0 { 20_000 } else { 400_000 };
        let retention = Retention { ms: -1, bytes, yields_to_pressure: index % 3 == 0 };
        let lane = [Lane::Short, Lane::Long, Lane::Compacted][index / 2 % 3];
        partition.policy = Policy { lane, retention, cleanup: Cleanup::DELETE };
    }
}

/// One run; its disk has the faults of the plan.
fn cleaned(seed: u64, change: impl Fn(&mut Plan)) -> Result<(Tally, u64), Violation> {
    let mut plan = Plan::random(&mut Rng::new(seed));
    short_of_slots(&mut plan);
    change(&mut plan);
    let mut run = LogRun::new(seed, plan);
    mix(&mut run);
    run.run()?;
    Ok((run.tally(), run.slots_cleaned))
}

/// One run of the campaign.
pub fn random(seed: u64, change: impl Fn(&mut Plan)) -> Result<Tally, Violation> {
    cleaned(seed, change).map(|(tally, _)| tally)
}

#[test]
fn a_log_that_is_cleaned_keeps_its_promises() {
    let (total, seeds_count) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    seeds("a_log_that_is_cleaned", 60, |seed| {
        let (tally, cleaned) = cleaned(seed, |_| {})?;
        total.set(total.get() + cleaned);
        seeds_count.set(seeds_count.get() + 1);
        Ok(tally)
    });
    say_line(&format!("sim a_log_that_is_cleaned: {} slots were cleaned", total.get()));
    assert!(seeds_count.get() < 60 || total.get() > 100, "{} slots were cleaned", total.get());
}

/// All crash points of a small log while slots of it are cleaned.
pub fn every_cut(seed: u64, sample: u64) -> Result<Tally, Violation> {
    let mut plan = Plan::small(&mut Rng::new(seed));
    short_of_slots(&mut plan);
    plan.slot_bytes = 32 << 10;
    plan.slots = 16;
    plan.checkpoint_bytes = 64 << 10;
    plan.value_bytes_max = 1_500;
    let mut run = LogRun::new(seed, plan);
    mix(&mut run);
    crash_points::run_cleaning(run, sample)
}

#[test]
fn cleaning_survives_a_cut_at_every_write_and_flush() {
    seeds("cleaning_survives_a_cut", 3, |seed| every_cut(seed, 1));
}

#[test]
fn a_slot_freed_before_its_copies_are_durable_is_found() {
    let checkers = &["AckedIsDurable", "CommittedStays", "OrderKept"];
    must_find("FreeBeforeReplace", checkers, |seed| {
        random(seed, |plan| {
            plan.bug = Bug::FreeBeforeReplace;
            plan.faults = Faults::default();
        })
    });
}
