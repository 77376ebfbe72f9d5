//! Runs seeds, counts what happened in them, and says how to repeat the one that failed.
//!
//! `SIM_SEED=` repeats one seed, `SIM_RUNS=` runs more of them, `SIM_FROM=` begins elsewhere.

use crate::checks::Violation;
use crate::trace;
use std::any::Any;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// What a run, or many, came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub cuts: u64,
    pub crash_points: u64,
    /// Of them, those while slots were cleaned, and while a topic was compacted.
    pub cleaning_points: u64,
    pub compaction_points: u64,
    /// Places where the medium was made to hold something else than what was flushed.
    pub harms: u64,
    pub simulated_ns: u64,
    pub payload_bytes: u64,
    pub written_bytes: u64,
    pub acknowledged: u64,
    /// What happened, as one number.
    pub trace: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.cuts += other.cuts;
        self.crash_points += other.crash_points;
        self.cleaning_points += other.cleaning_points;
        self.compaction_points += other.compaction_points;
        self.harms += other.harms;
        self.simulated_ns += other.simulated_ns;
        self.payload_bytes += other.payload_bytes;
        self.written_bytes += other.written_bytes;
        self.acknowledged += other.acknowledged;
        self.trace = self.trace.rotate_left(1) ^ other.trace;
    }

    pub fn simulated_hours(&self) -> f64 {
        self.simulated_ns as f64 / 3.6e12
    }
}

/// Runs `runs` seeds, or those that the environment asks for; the first that fails ends the test.
pub fn seeds(name: &str, runs: u64, run: impl Fn(u64) -> Result<Tally, Violation>) -> Tally {
    let (from, count) = match number("SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (number("SIM_FROM").unwrap_or(1), number("SIM_RUNS").unwrap_or(runs)),
    };
    let began = Instant::now();
    let mut total = Tally::default();
    for seed in from..from + count {
        match outcome(|| run(seed)) {
            Ok(tally) => total.add(&tally),
            Err(violation) => panic!("{}", repeat(name, seed, &violation)),
        }
    }
    say(name, &format!("{count} seeds"), &total, began);
    total
}

/// What went wrong in a seed, and how to see it again.
pub fn repeat(name: &str, seed: u64, violation: &Violation) -> String {
    format!(
        "seed {seed}: {}: {}\nrepeat it: SIM_SEED={seed} cargo test -p weir-core --test sim {name}",
        violation.checker, violation.what
    )
}

/// Looks for a seed in which one of `checkers` speaks up; none within 5,000 fails the test.
pub fn must_find(name: &str, checkers: &[&str], run: impl Fn(u64) -> Result<Tally, Violation>) {
    let (began, mut total) = (Instant::now(), Tally::default());
    let from = number("SIM_FROM").unwrap_or(1);
    for tried in 0..5_000 {
        match outcome(|| run(from + tried)) {
            Ok(tally) => total.add(&tally),
            Err(Violation { checker, what }) => {
                assert!(
                    checkers.contains(&checker),
                    "{name}: seed {} was caught by {checker} and not by {checkers:?}: {what}",
                    from + tried
                );
                let found = format!("found by {checker} in {} seeds: {what}", tried + 1);
                return say(name, &found, &total, began);
            }
        }
    }
    panic!("{name}: nobody noticed in 5,000 seeds: a checker is blind");
}

/// Looks for a seed in which `checker` speaks up, whatever others say in other seeds.
pub fn must_find_by(name: &str, checker: &str, run: impl Fn(u64) -> Result<Tally, Violation>) {
    let (began, mut total) = (Instant::now(), Tally::default());
    let from = number("SIM_FROM").unwrap_or(1);
    for tried in 0..5_000 {
        match outcome(|| run(from + tried)) {
            Ok(tally) => total.add(&tally),
            Err(violation) if violation.checker != checker => {}
            Err(Violation { what, .. }) => {
                let found = format!("found by {checker} in {} seeds: {what}", tried + 1);
                return say(name, &found, &total, began);
            }
        }
    }
    panic!("{name}: {checker} did not notice in 5,000 seeds: it is blind");
}

/// One line on the terminal about a test, also when it passes.
pub fn say(name: &str, what: &str, total: &Tally, began: Instant) {
    say_line(&format!(
        "sim {name}: {what}; {} cuts, {} crash points, {} harms, {:.1} simulated hours, \
         {} acknowledged, {:.1} MB of payload, {:.1} MB written, {:.1} s",
        total.cuts,
        total.crash_points,
        total.harms,
        total.simulated_hours(),
        total.acknowledged,
        total.payload_bytes as f64 / 1e6,
        total.written_bytes as f64 / 1e6,
        began.elapsed().as_secs_f64()
    ));
}

/// Not `eprintln!`, which the test harness captures.
pub fn say_line(line: &str) {
    let line = format!("{line}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("standard error takes a line");
}

/// A broken assertion of the core is a violation too.
pub fn outcome<T>(run: impl FnOnce() -> Result<T, Violation>) -> Result<T, Violation> {
    trace::begin();
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        Err(Violation { checker: "assertion", what: message(panic.as_ref()) })
    })
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
