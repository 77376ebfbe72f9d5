//! All gateways are stopped and started, one after another, as for an upgrade: each lets the others
//! take over first, and clients that try again notice little.
//!
//! They begin with the oldest release and come back with the newest. What is new in that is used
//! when the last of them is back, and not before.

use super::outcast::Watch;
use super::plan::{Bug, Plan};
use super::run::Cluster;
use crate::checks::{Verdict, Violation};
use crate::runner::{Tally, must_find, seeds};
use weir_core::node::Input;
use weir_core::rng::Rng;
use weir_core::types::Nanos;

/// While gateways are restarted on purpose, no partition stands still for long, and each gateway
/// stops by itself.
pub struct RetriesCoverRestarts;

impl RetriesCoverRestarts {
    fn fails(what: String) -> Verdict {
        Err(Violation { checker: "RetriesCoverRestarts", what })
    }
}

/// A partition's next leader is there before the last one goes; what is left is the clients' way.
const STANDSTILL: Nanos = Nanos(1_500_000_000);
/// A gateway waits for the others for five seconds, and writes its checkpoint then.
const STOP_MS: u64 = 8_000;
const WHOLE_MS: u64 = 40_000;
const STEP_MS: u64 = 20;

pub fn random(seed: u64, change: impl Fn(&mut Plan)) -> Result<Tally, Violation> {
    let mut plan = Plan::random(&mut Rng::new(seed));
    plan.calm();
    (plan.producers, plan.pace, plan.delay_us) = (8, 4, 1_000);
    plan.upgrade = true;
    change(&mut plan);
    let mut cluster = Cluster::new(seed, plan);
    cluster.run_rolling()?;
    Ok(cluster.tally())
}

impl Cluster {
    fn run_rolling(&mut self) -> Verdict {
        self.faulty = false;
        self.begin()?;
        self.converge()?;
        let moving = self.moving()?;
        let mut watch = Watch::new(self, moving);
        let first = self.world.rng.below(self.gateways.len() as u64) as usize;
        for step in 0..self.gateways.len() {
            let index = (first + step) % self.gateways.len();
            self.upgrade(index);
            self.restart(index, &mut watch)?;
        }
        self.audit()
    }

    fn restart(&mut self, index: usize, watch: &mut Watch) -> Verdict {
        let begin = self.world.now;
        match self.plan.bug {
            Bug::StopAtOnce => self.end(index, super::gateway::End::Cut),
            _ => {
                self.gateways[index].handle(begin, Input::Stop);
                self.pump(index)?;
            }
        }
        while self.gateways[index].is_up() {
            self.go_on_restarting(index, watch)?;
            if self.world.now.since(begin) > Nanos::from_ms(STOP_MS) {
                let what = format!("gateway {} does not stop", index + 1);
                return RetriesCoverRestarts::fails(what);
            }
        }
        self.boot(index)?;
        while let Err(why) = self.is_whole() {
            self.go_on_restarting(index, watch)?;
            if self.world.now.since(begin) > Nanos::from_ms(WHOLE_MS) {
                return RetriesCoverRestarts::fails(why);
            }
        }
        Ok(())
    }

    fn go_on_restarting(&mut self, index: usize, watch: &mut Watch) -> Verdict {
        self.pass(Nanos::from_ms(STEP_MS))?;
        match watch.look(self) {
            Some((target, still)) if still > STANDSTILL => {
                let what = format!("{target:?} stands still: gateway {} is restarted", index + 1);
                RetriesCoverRestarts::fails(what)
            }
            _ => Ok(()),
        }
    }
}

#[test]
fn a_rolling_restart_is_covered_by_what_clients_try_again() {
    seeds("a_rolling_restart", 8, |seed| random(seed, |_| {}));
}

#[test]
fn gateways_that_stop_without_a_word_are_found() {
    must_find("StopAtOnce of a site", &["RetriesCoverRestarts"], |seed| {
        random(seed, |plan| plan.bug = Bug::StopAtOnce)
    });
}
