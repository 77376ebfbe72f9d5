//! Level 1 with an index that is too small: many partitions that all write into every slot, so that
//! they are gathered all the time, and cut, truncated, cleaned and taken out of meanwhile.

use crate::checks::Violation;
use crate::crash_points;
use crate::faults::Faults;
use crate::log_run::LogRun;
use crate::plan::{Bug, Plan};
use crate::runner::{Tally, must_find, say_line, seeds};
use weir_core::log::{Cleanup, Lane, Policy, Retention};
use weir_core::rng::Rng;

/// A plan of which the index has more runs than it may: 48 partitions in 40 slots.
fn short_of_runs(plan: &mut Plan) {
    plan.slot_bytes = 64 << 10;
    plan.slots = 40;
    plan.checkpoint_bytes = 128 << 10;
    plan.partitions = 48;
    plan.index_runs_max = 240;
    plan.value_bytes_max = 600;
    plan.life_us = 2_000_000;
    plan.pause_us = 2_000;
    plan.retention = true;
    plan.flush_cap = None;
}

/// All partitions together keep about three quarters of the log.
fn mix(run: &mut LogRun) {
    for (index, partition) in run.partitions.values_mut().enumerate() {
        let bytes = [20_000, 40_000, 60_000][index % 3];
        let retention = Retention { ms: -1, bytes, yields_to_pressure: index % 2 == 0 };
        let lane = if index < 40 { Lane::Long } else { Lane::Compacted };
        partition.policy = Policy { lane, retention, cleanup: Cleanup::DELETE };
    }
}

/// One run, and how many runs of the index were gathered in it.
fn gathered(seed: u64, change: impl Fn(&mut Plan)) -> Result<(Tally, u64), Violation> {
    let mut plan = Plan::random(&mut Rng::new(seed));
    short_of_runs(&mut plan);
    change(&mut plan);
    let mut run = LogRun::new(seed, plan);
    mix(&mut run);
    run.run()?;
    Ok((run.tally(), run.runs_gathered))
}

/// One run of the campaign.
pub fn random(seed: u64, change: impl Fn(&mut Plan)) -> Result<Tally, Violation> {
    gathered(seed, change).map(|(tally, _)| tally)
}

#[test]
fn a_log_whose_index_is_too_small_keeps_its_promises() {
    let (total, seeds_count) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    seeds("a_log_whose_index_is_too_small", 40, |seed| {
        let (tally, gathered) = gathered(seed, |_| {})?;
        total.set(total.get() + gathered);
        seeds_count.set(seeds_count.get() + 1);
        Ok(tally)
    });
    let gathered = total.get();
    say_line(&format!("sim a_log_whose_index_is_too_small: {gathered} runs were gathered"));
    assert!(seeds_count.get() < 40 || gathered > 2_000, "{gathered} runs were gathered");
}

/// All crash points of a small log while it is gathered.
pub fn every_cut(seed: u64, sample: u64) -> Result<Tally, Violation> {
    let mut plan = Plan::small(&mut Rng::new(seed));
    short_of_runs(&mut plan);
    plan.slot_bytes = 32 << 10;
    plan.slots = 20;
    plan.checkpoint_bytes = 64 << 10;
    plan.index_runs_max = 48;
    plan.partitions = 10;
    plan.value_bytes_max = 1_000;
    let mut run = LogRun::new(seed, plan);
    mix(&mut run);
    crash_points::run_cleaning(run, sample)
}

#[test]
fn gathering_survives_a_cut_at_every_write_and_flush() {
    seeds("gathering_survives_a_cut", 2, |seed| every_cut(seed, 1));
}

#[test]
fn an_index_without_a_cap_is_found() {
    must_find("UncappedIndex", &["BoundedIndex"], |seed| {
        random(seed, |plan| plan.bug = Bug::UncappedIndex)
    });
}

#[test]
fn a_batch_that_gathering_forgets_is_found() {
    let checkers = &["AckedIsDurable", "CommittedStays", "OrderKept"];
    must_find("ForgetGathered", checkers, |seed| {
        random(seed, |plan| {
            plan.bug = Bug::ForgetGathered;
            plan.faults = Faults::default();
        })
    });
}

#[test]
fn records_that_expire_early_because_others_were_moved_are_found() {
    must_find("GuessMoved", &["CommittedStays"], |seed| {
        random(seed, |plan| {
            plan.bug = Bug::GuessMoved;
            plan.value_bytes_max = 4_000;
            plan.faults = Faults::default();
            plan.truncates = false;
            plan.replaces = false;
        })
    });
}

#[test]
fn records_that_expire_early_because_what_followed_was_truncated_are_found() {
    must_find("GuessCut", &["CommittedStays"], |seed| {
        random(seed, |plan| {
            plan.bug = Bug::GuessCut;
            plan.value_bytes_max = 4_000;
            plan.faults = Faults::default();
            plan.truncates = true;
            plan.replaces = false;
        })
    });
}

#[test]
fn what_comes_back_because_it_was_being_gathered_is_found() {
    must_find("GatherStale", &["CommittedStays", "OrderKept"], |seed| {
        random(seed, |plan| {
            plan.bug = Bug::GatherStale;
            plan.faults = Faults::default();
            plan.truncates = false;
        })
    });
}

/// One run of a log that is nearly full and loses power again and again: 24 partitions in 40 small
/// slots.
pub fn crowded(seed: u64, bug: Bug) -> Result<Tally, Violation> {
    let mut plan = Plan::random(&mut Rng::new(seed));
    short_of_runs(&mut plan);
    plan.slot_bytes = 32 << 10;
    plan.partitions = 24;
    plan.index_runs_max = 10_000;
    plan.boots = 10 + Rng::new(seed ^ 0xca3).below(50) as u32;
    plan.life_us = 300_000;
    plan.faults = Faults::default();
    plan.truncates = true;
    plan.bug = bug;
    let mut run = LogRun::new(seed, plan);
    mix(&mut run);
    for partition in run.partitions.values_mut() {
        partition.policy.retention.bytes += partition.policy.retention.bytes * 3 / 10;
    }
    run.run()?;
    Ok(run.tally())
}

#[test]
fn a_full_log_that_is_cut_again_and_again_keeps_slots_to_write_to() {
    seeds("a_full_log_that_is_cut", 20, |seed| crowded(seed, Bug::None));
}

#[test]
fn truncations_that_take_the_last_slots_are_found() {
    must_find("TruncateFromReserve", &["Bounded"], |seed| crowded(seed, Bug::TruncateFromReserve));
}
