//! Bit rot that nobody reads: the scrub finds it by itself, and what is lost is definite from then
//! on.

use crate::checks::{Verdict, Violation};
use crate::damage::at_work;
use crate::log_run::LogRun;
use crate::plan::Bug;
use crate::runner::{Tally, must_find, seeds};
use weir_core::log::ScrubPlan;
use weir_core::types::Nanos;

/// After the scrub has read everything, no reader is the first to meet damage.
struct RotIsFound;

impl RotIsFound {
    fn check(known: u32, met: u32) -> Verdict {
        if met <= known {
            return Ok(());
        }
        let what = format!("readers met {} damaged places that no scrub had found", met - known);
        Err(Violation { checker: "RotIsFound", what })
    }
}

/// Works, starts again, lets bits rot, scrubs, and reads everything; then starts once more.
fn rotten(seed: u64, bug: Bug) -> Result<Tally, Violation> {
    let mut run = at_work(seed, bug)?;
    // What was open is sealed by a start, so that the scrub looks at it.
    run.kill();
    run.boot()?;
    run.quiesce()?;
    for _ in 0..1 + run.world.rng.below(4) {
        run.disk.rot(&mut run.world.rng);
    }
    scrub(&mut run, false)?;
    let known = run.log.as_ref().map_or(0, |log| log.stats().damaged_ranges);
    run.audit_all()?;
    RotIsFound::check(known, run.log.as_ref().map_or(0, |log| log.stats().damaged_ranges))?;
    run.work()?;
    run.quiesce()?;
    run.kill();
    run.boot()?;
    run.audit_all()?;
    Ok(run.tally())
}

/// One pass over everything. What cannot be read may be for a moment only, if nobody says that it
/// is `definite`.
pub fn scrub(run: &mut LogRun, definite: bool) -> Verdict {
    let plan = ScrubPlan { pass: Nanos::from_ms(1_000), slot: 0, quarantine_unreadable: definite };
    let now = run.world.now;
    let log = run.log.as_mut().expect("it is open");
    log.set_scrub(now, Some(plan));
    run.pump()?;
    while run.log.as_ref().is_some_and(|log| log.stats().scrub.passes == 0) {
        run.step()?;
    }
    let now = run.world.now;
    run.log.as_mut().expect("it is open").set_scrub(now, None);
    run.quiesce()
}

#[test]
fn the_scrub_finds_what_rots() {
    seeds("the_scrub_finds_what_rots", 100, |seed| rotten(seed, Bug::None));
}

#[test]
fn a_scrub_that_reads_from_a_cache_is_found() {
    must_find("CachedScrub", &["RotIsFound"], |seed| rotten(seed, Bug::CachedScrub));
}
