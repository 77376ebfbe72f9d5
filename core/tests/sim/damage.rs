//! Damage to what was durable: it is quarantined where it is, and everything else is served.

use crate::checks::{AckedIsDurable, Verdict, Violation};
use crate::faults::Faults;
use crate::flash::{BLOCK, SECTOR};
use crate::log_run::LogRun;
use crate::plan::{Bug, Plan};
use crate::runner::{Tally, must_find, seeds};
use crate::scrub::scrub;
use std::collections::BTreeMap;
use weir_core::rng::Rng;

/// A log without faults that has worked for a while and keeps everything.
pub fn at_work(seed: u64, bug: Bug) -> Result<LogRun, Violation> {
    let mut plan = Plan::random(&mut Rng::new(seed));
    plan.faults = Faults::default();
    plan.retention = false;
    plan.truncates = false;
    plan.replaces = false;
    plan.bug = bug;
    let mut run = LogRun::new(seed, plan);
    run.boot()?;
    for _ in 0..40 {
        run.work()?;
        run.quiesce()?;
    }
    Ok(run)
}

/// How sectors are hurt.
#[derive(Clone, Copy)]
enum Hurt {
    Changed,
    /// The device cannot read them.
    Unreadable,
}

/// Works, damages sectors of different slots, starts again and reads everything.
fn damaged(seed: u64, how: Hurt, bug: Bug) -> Result<Tally, Violation> {
    let mut run = at_work(seed, bug)?;
    // The last of each partition is spared: that nothing follows it cannot be told from a torn
    // tail, and whose the groups were that are missing is not known.
    let writes = run.disk.written.len();
    for number in run.numbers() {
        for _ in 0..4 {
            run.append_some(number)?;
            run.quiesce()?;
        }
    }
    let ends: BTreeMap<_, _> =
        run.numbers().into_iter().map(|one| (one, run.bounds(one).1)).collect();
    run.kill();
    let hurts = 1 + run.world.rng.below(3);
    // More could hit a footer as well as what it would have helped to find.
    run.disk.harm.footers_whole = hurts == 1;
    for _ in 0..hurts {
        hurt(&mut run, writes, how);
    }
    run.boot()?;
    if matches!(how, Hurt::Unreadable) {
        // Of what the start did not look into.
        scrub(&mut run, true)?;
    }
    for (number, end) in ends {
        let (_, now) = run.bounds(number);
        if now < end {
            let what = format!("{number:?} ended at {end}, with damage before it ends at {now}");
            AckedIsDurable::fails(what)?;
        }
    }
    run.audit_all()?;
    works_on(&mut run)?;
    Ok(run.tally())
}

/// One sector that is lost, or with noise or one flipped bit, in something that was written.
fn hurt(run: &mut LogRun, writes: usize, how: Hurt) {
    let rng = &mut run.world.rng;
    let (at, len) = run.disk.written[rng.below(writes as u64) as usize];
    let spared = &run.disk.written[writes..];
    let sector = at + rng.below(len / SECTOR) * SECTOR;
    // Without both superblocks there is no log.
    if sector < BLOCK || spared.iter().any(|(at, len)| (*at..at + len).contains(&sector)) {
        return;
    }
    if matches!(how, Hurt::Unreadable) {
        run.disk.lose_sector(sector);
    } else if rng.percent(50) {
        let byte = sector + rng.below(SECTOR);
        run.disk.flash.rot(byte, rng.below(8) as u32);
        run.disk.harm.harm(byte, 1);
    } else {
        run.disk.damage(rng, sector);
    }
}

/// A random run on a medium that loses what was flushed.
pub fn random(seed: u64, change: impl Fn(&mut Plan)) -> Result<Tally, Violation> {
    let mut rng = Rng::new(seed);
    let mut plan = Plan::random(&mut rng);
    plan.faults = plan.faults.and_harm(&mut rng);
    change(&mut plan);
    let mut run = LogRun::new(seed, plan);
    run.run()?;
    Ok(run.tally())
}

fn works_on(run: &mut LogRun) -> Verdict {
    for _ in 0..5 {
        run.work()?;
    }
    run.quiesce()
}

#[test]
fn damage_is_quarantined_and_the_rest_is_served() {
    seeds("damage_is_quarantined", 100, |seed| damaged(seed, Hurt::Changed, Bug::None));
}

#[test]
fn a_sector_that_cannot_be_read_costs_its_block_and_nothing_else() {
    let lost = |seed| damaged(seed, Hurt::Unreadable, Bug::None);
    seeds("a_sector_that_cannot_be_read", 100, lost);
}

#[test]
fn what_a_bad_sector_takes_with_it_is_found() {
    let lost = |seed| damaged(seed, Hurt::Unreadable, Bug::FailWholeReads);
    must_find("FailWholeReads", &["DamageIsNamed"], lost);
}

#[test]
fn damage_costs_only_what_it_hits_where_partitions_are_truncated() {
    seeds("damage_costs_only_what_it_hits", 100, |seed| {
        random(seed, |plan| {
            plan.truncates = true;
            plan.faults.rot = 20;
        })
    });
}

/// Truncates and writes on, damages each frame of a group that said so, starts again.
fn uncut(seed: u64, bug: Bug) -> Result<Tally, Violation> {
    let mut run = at_work(seed, bug)?;
    for number in run.numbers() {
        run.truncate_some(number)?;
        for _ in 0..3 {
            run.quiesce()?;
            run.append_some(number)?;
        }
        run.quiesce()?;
    }
    run.kill();
    let cuts = run.disk.harm.groups_that_cut();
    let (from, until) = cuts[run.world.rng.below(cuts.len() as u64) as usize];
    for byte in (from + 8..until).step_by(32) {
        run.disk.flash.rot(byte, 0);
        run.disk.harm.harm(byte, 1);
    }
    run.boot()?;
    run.audit_all()?;
    works_on(&mut run)?;
    Ok(run.tally())
}

#[test]
fn what_was_truncated_stays_away_though_what_said_so_is_lost() {
    seeds("what_was_truncated_stays_away", 100, |seed| uncut(seed, Bug::None));
}

#[test]
fn what_a_lost_truncation_hides_is_found() {
    let checkers = &["AckedIsDurable", "DamageIsNamed", "OrderKept", "CommittedStays"];
    must_find("KeepStale", checkers, |seed| uncut(seed, Bug::KeepStale));
}

/// A log whose checkpoints are all damaged, on a medium that rots.
fn without_checkpoints(seed: u64, bug: Bug) -> Result<Tally, Violation> {
    random(seed, |plan| {
        plan.bug = bug;
        (plan.no_checkpoints, plan.truncates, plan.replaces) = (true, false, false);
        // Footers say nothing of producers' sequences, nor of what was trimmed before.
        (plan.resend_at_start, plan.retention) = (false, false);
        plan.slots = 200;
        plan.faults.rot = 20;
    })
}

#[test]
fn what_is_lost_where_a_partition_begins_is_named_without_a_checkpoint() {
    seeds("what_is_lost_at_a_begin", 100, |seed| without_checkpoints(seed, Bug::None));
}

#[test]
fn what_is_lost_and_taken_for_trimmed_is_found() {
    let lost = |seed| without_checkpoints(seed, Bug::TrimWhatIsLost);
    must_find("TrimWhatIsLost", &["CommittedStays"], lost);
}

/// Writes that land a page beside their place, and starts that look at what they left.
fn astray(seed: u64, bug: Bug) -> Result<Tally, Violation> {
    random(seed, |plan| {
        plan.bug = bug;
        plan.boots = 12;
        plan.faults = Faults { misdirected: 30, ..Faults::default() };
    })
}

#[test]
fn what_was_written_beside_its_place_hides_nothing_else() {
    seeds("what_was_written_beside_its_place", 100, |seed| astray(seed, Bug::None));
}

#[test]
fn a_group_that_counts_at_a_strange_place_is_found() {
    must_find("CountStrays", &["DamageIsNamed"], |seed| astray(seed, Bug::CountStrays));
}

#[test]
fn a_medium_that_lies_costs_only_what_it_hits() {
    seeds("a_medium_that_lies", 100, |seed| random(seed, |_| {}));
}
