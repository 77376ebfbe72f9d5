//! The metadata quorum under faults: 1 to 7 nodes, a network and stores that fail, named checkers.
//!
//! `run` plays a seed: chaos first, then everything heals and the quorum must be alive. `machine`
//! is one node with its store, `net` what lies between them, `operator` what people do to the
//! members, `truth` what all nodes together have said, and holds the checkers. `mutations` proves
//! them.

mod machine;
mod mutations;
mod net;
mod operator;
mod plan;
mod rejoin;
mod run;
mod truth;

use crate::checks::Violation;
use crate::runner::{Tally, say_line, seeds};
use plan::Plan;
use run::{Run, Seen};
use std::cell::Cell;
use weir_core::rng::Rng;

fn random(seed: u64, change: impl Fn(&mut Plan)) -> Result<Tally, Violation> {
    let mut plan = Plan::random(&mut Rng::new(seed));
    change(&mut plan);
    Run::new(seed, plan).run()
}

/// Plays a seed, and adds what happened in it.
fn observed(seed: u64, seen: &Cell<Seen>) -> Result<Tally, Violation> {
    let mut run = Run::new(seed, Plan::random(&mut Rng::new(seed)));
    let tally = run.run()?;
    let mut sum = seen.get();
    sum.add(run.seen);
    seen.set(sum);
    Ok(tally)
}

#[test]
fn a_quorum_keeps_what_it_committed_under_random_faults() {
    let seen = Cell::new(Seen::default());
    seeds("a_quorum_keeps_what_it_committed", 40, |seed| observed(seed, &seen));
    say_line(&format!("sim a_quorum_keeps_what_it_committed: {:?}", seen.get()));
}

#[test]
fn a_node_that_comes_back_deposes_no_healthy_leader() {
    seeds("a_node_that_comes_back", 40, |seed| rejoin::run(seed, plan::Bug::None));
}
