//! The long campaign: seeds of every kind on all cores, until a bound is reached.
//!
//! `SIM_CUTS=` simulated power cuts, `SIM_RUNS=` seeds or `SIM_SECONDS=` end it, whichever comes
//! first; without any it is short, as one test among others. Every ten seconds it says how far it
//! is. A seed decides on its kind itself, so a number is enough to repeat one.

use crate::checks::Violation;
use crate::plan::{Bug, Plan};
use crate::runner::{self, Tally, outcome, repeat, say_line};
use crate::{cleaning, cluster, compacting, crash_points, damage, gathering};
use crate::{log_tests, node_tests, replica};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use weir_core::rng::Rng;

/// Seeds of a campaign that nobody bounded.
const RUNS: u64 = 20;
const PROGRESS: Duration = Duration::from_secs(10);

/// What a campaign of so many cuts must have of them at exhaustive crash points.
const FULL_CUTS: u64 = 1_000_000;
const FULL_CRASH_POINTS: u64 = 100_000;

/// Of twenty seeds, eight are a log that is cut again and again, two one that is nearly full and
/// cleaned meanwhile, one in turn of too many pieces that is gathered, and full and truncated, four
/// a log on a medium that lies, two a node with clients, one a whole site, one a replicated
/// partition, and one a small script that is cut everywhere: in turn a plain load, while slots are
/// cleaned, while they are gathered, and while a topic is compacted.
pub fn run(seed: u64) -> Result<Tally, Violation> {
    let often = |plan: &mut Plan| {
        let mut rng = Rng::new(seed ^ 0xca3);
        plan.boots = 10 + rng.below(50) as u32;
        plan.life_us = [1_000, 5_000, 20_000, 100_000][rng.below(4) as usize];
    };
    match seed % 20 {
        0..8 => log_tests::random(seed, often),
        8..10 => cleaning::random(seed, often),
        10 if (seed / 20).is_multiple_of(2) => gathering::random(seed, often),
        10 => gathering::crowded(seed, Bug::None),
        11..15 => damage::random(seed, often),
        15..17 => node_tests::random(seed, often),
        17 => cluster::random(seed, |_| {}),
        18 => replica::random(seed, |_| {}),
        _ => match seed / 20 % 4 {
            0 => log_tests::every_cut(seed, |_| {}),
            1 => cleaning::every_cut(seed, crash_points::SAMPLE),
            2 => gathering::every_cut(seed, crash_points::SAMPLE),
            _ => compacting::every_cut(seed, crash_points::SAMPLE),
        },
    }
}

struct Campaign {
    began: Instant,
    next: AtomicU64,
    end: u64,
    cuts: u64,
    until: Option<Instant>,
    state: Mutex<State>,
}

struct State {
    total: Tally,
    seeds: u64,
    said: Instant,
    failed: Option<(u64, Violation)>,
}

impl Campaign {
    fn from_environment() -> Campaign {
        let began = Instant::now();
        let seconds = runner::number("SIM_SECONDS").map(Duration::from_secs);
        let cuts = runner::number("SIM_CUTS");
        let bounded = seconds.is_some() || cuts.is_some();
        let (from, runs) = match runner::number("SIM_SEED") {
            Some(seed) => (seed, 1),
            None => {
                let runs = if bounded { u64::MAX / 2 } else { RUNS };
                let from = runner::number("SIM_FROM").unwrap_or(1);
                (from, runner::number("SIM_RUNS").unwrap_or(runs))
            }
        };
        let state = State { total: Tally::default(), seeds: 0, said: Instant::now(), failed: None };
        Campaign {
            began,
            next: AtomicU64::new(from),
            end: from + runs,
            cuts: cuts.unwrap_or(u64::MAX),
            until: seconds.map(|seconds| began + seconds),
            state: Mutex::new(state),
        }
    }

    /// What each thread does.
    fn work(&self) {
        loop {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            let late = self.until.is_some_and(|until| Instant::now() >= until);
            if seed >= self.end || late {
                return;
            }
            let outcome = outcome(|| run(seed));
            let mut state = self.state.lock().expect("no thread dies while it counts");
            match outcome {
                Ok(tally) => state.total.add(&tally),
                Err(violation) => state.failed = Some((seed, violation)),
            }
            state.seeds += 1;
            if state.said.elapsed() >= PROGRESS {
                state.said = Instant::now();
                say_line(&self.progress(&state));
            }
            if state.failed.is_some() || state.total.cuts >= self.cuts {
                return self.next.store(self.end, Ordering::Relaxed);
            }
        }
    }

    fn progress(&self, state: &State) -> String {
        let seconds = self.began.elapsed().as_secs_f64();
        let total = &state.total;
        format!(
            "campaign {:5.0} s: {} power cuts ({:.0} a second; once a day, {:.0} years; {} of them \
             at exhaustive crash points, of which {} while slots were cleaned and {} while a topic \
             was compacted), {} seeds, {:.1} simulated hours, {} harms, {} acknowledged",
            seconds,
            total.cuts,
            total.cuts as f64 / seconds,
            total.cuts as f64 / 365.0,
            total.crash_points.min(total.cuts),
            total.cleaning_points,
            total.compaction_points,
            state.seeds,
            total.simulated_hours(),
            total.harms,
            total.acknowledged,
        )
    }
}

#[test]
fn a_campaign_loses_nothing() {
    let campaign = Campaign::from_environment();
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| drop(scope.spawn(|| campaign.work())));
    });
    let state = campaign.state.lock().expect("the threads have ended");
    say_line(&campaign.progress(&state));
    if let Some((seed, violation)) = &state.failed {
        panic!("{}", repeat("a_campaign_loses_nothing", *seed, violation));
    }
    let points = state.total.crash_points;
    let full = state.total.cuts >= FULL_CUTS;
    assert!(!full || points >= FULL_CRASH_POINTS, "{points} crash points are too few");
    say_line("campaign: nothing was lost");
}

/// A slot was used twice under the same number, and the footer of the first use hid the second.
#[test]
fn what_stands_in_a_slot_whose_header_was_torn_twice_is_found() {
    run(3_029).expect("the campaign passes");
}

/// A write went astray, and the footer that a start made of what it found named wrong places.
#[test]
fn what_stands_behind_a_group_that_went_astray_is_found() {
    run(3_693).expect("the campaign passes");
}

/// What a start had taken out of a damaged group was given up by the one after the next.
#[test]
fn what_was_taken_out_of_a_damaged_group_stays() {
    run(5_312).expect("the campaign passes");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let mut traces = std::collections::BTreeSet::new();
    for seed in 1..=20 {
        let [one, other] = [run(seed), run(seed)].map(|run| run.expect("the campaign passes"));
        assert_eq!(one, other, "seed {seed}");
        assert!(traces.insert(one.trace), "two seeds do the same");
    }
}
