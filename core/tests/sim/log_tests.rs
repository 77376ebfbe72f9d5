//! Level 1, run: a log alone under random and exhaustive crashes.

use crate::checks::Violation;
use crate::log_run::LogRun;
use crate::plan::Plan;
use crate::runner::{Tally, seeds};
use crate::{crash_points, plan};
use weir_core::rng::Rng;

/// One random run of a log.
pub fn random(seed: u64, change: impl Fn(&mut plan::Plan)) -> Result<Tally, Violation> {
    let mut plan = Plan::random(&mut Rng::new(seed));
    change(&mut plan);
    let mut run = LogRun::new(seed, plan);
    run.run()?;
    Ok(run.tally())
}

/// All crash points of one small script.
pub fn every_cut(seed: u64, change: impl Fn(&mut plan::Plan)) -> Result<Tally, Violation> {
    let mut plan = Plan::small(&mut Rng::new(seed));
    change(&mut plan);
    crash_points::run(seed, &plan, 6, 4)
}

#[test]
fn a_log_keeps_its_promises_under_random_crashes() {
    seeds("a_log_keeps_its_promises", 250, |seed| random(seed, |_| {}));
}

#[test]
fn a_log_survives_a_cut_at_every_write_and_flush() {
    seeds("a_log_survives_a_cut", 8, |seed| every_cut(seed, |_| {}));
}
