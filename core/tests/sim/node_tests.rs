//! Level 2, run: a node and its clients under random crashes.

use crate::checks::Violation;
use crate::node_run::NodeRun;
use crate::plan::Plan;
use crate::runner::{Tally, seeds};
use weir_core::rng::Rng;

pub fn random(seed: u64, change: impl Fn(&mut Plan)) -> Result<Tally, Violation> {
    let mut plan = Plan::random(&mut Rng::new(seed));
    change(&mut plan);
    let mut run = NodeRun::new(seed, plan);
    run.run()?;
    Ok(run.tally())
}

#[test]
fn a_node_keeps_its_promises_under_random_crashes() {
    seeds("a_node_keeps_its_promises", 200, |seed| random(seed, |_| {}));
}
