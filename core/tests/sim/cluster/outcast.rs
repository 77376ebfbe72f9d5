//! One gateway is cut off in one direction or in both, and the others are not: they go on, and so
//! do the clients, who reach everybody. During the fault, not when it is over.
//!
//! Not where a leader can reach the controller and no follower: as in Kafka it leads on, and takes
//! nothing while `min.insync.replicas` asks for more than itself.

use super::crowd;
use super::plan::{Bug, Plan};
use super::run::Cluster;
use crate::checks::{Verdict, Violation};
use crate::client::Target;
use crate::runner::{Tally, must_find, seeds};
use std::collections::BTreeMap;
use weir_core::rng::Rng;
use weir_core::types::{Nanos, Time};

/// While a majority is connected both ways, every partition takes records.
pub struct MajorityGoesOn;

impl MajorityGoesOn {
    fn fails(what: String) -> Verdict {
        Err(Violation { checker: "MajorityGoesOn", what })
    }
}

/// How long a partition may take nothing: silence of three seconds ends a connection, sessions and
/// elections take two more, and a client's request times out after five.
const STANDSTILL_MS: u64 = 10_000;
const FAULT_MS: u64 = 20_000;
const STEP_MS: u64 = 250;
/// As the driver takes a peer for dead.
const SILENCE_US: u64 = 3_000_000;

/// How a gateway is cut off.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// It hears the others, and none hears it.
    Mute,
    /// It hears nobody, and is heard.
    Deaf,
    Both,
}

pub fn random(seed: u64, change: impl Fn(&mut Plan)) -> Result<Tally, Violation> {
    let mut plan = Plan::random(&mut Rng::new(seed));
    plan.calm();
    plan.min_insync = plan.min_insync.min(plan.replication_factor() as usize - 1);
    (plan.producers, plan.pace) = (8, 10);
    // Nothing may have to go for want of room.
    plan.store.slots = 300;
    change(&mut plan);
    let mut cluster = Cluster::new(seed, plan);
    cluster.run_outcast()?;
    Ok(cluster.tally())
}

impl Cluster {
    fn run_outcast(&mut self) -> Verdict {
        self.faulty = false;
        self.begin()?;
        self.converge()?;
        for _ in 0..2 {
            let before = self.progress();
            self.pass(Nanos::from_ms(3_000))?;
            let now = self.progress();
            let moving = now.keys().filter(|it| before[*it] < now[*it]);
            let moving: Vec<Target> = moving.cloned().collect();
            let (outcast, cut) = self.cast_out();
            self.go_on(&moving, &format!("gateway {} is cut off: {cut:?}", outcast + 1))?;
            self.unblock()?;
            self.converge()?;
        }
        self.audit()
    }

    /// The gateway that decides, more often than others.
    fn cast_out(&mut self) -> (usize, Cut) {
        let count = self.gateways.len();
        let any = self.world.rng.below(count as u64) as usize;
        let decides = |index: &usize| {
            let node = self.gateways[*index].node.as_ref();
            node.is_some_and(|node| node.site_status(self.world.now).leads)
        };
        let controller = (0..count).find(decides).filter(|_| any.is_multiple_of(2));
        let outcast = controller.unwrap_or(any);
        let cut = [Cut::Mute, Cut::Deaf, Cut::Both][self.world.rng.below(3) as usize];
        for other in (0..count).filter(|other| *other != outcast) {
            if matches!(cut, Cut::Mute | Cut::Both) {
                self.cut_way((outcast, other), SILENCE_US, SILENCE_US + 200_000);
            }
            if matches!(cut, Cut::Deaf | Cut::Both) {
                self.cut_way((other, outcast), SILENCE_US, SILENCE_US + 200_000);
            }
        }
        (outcast, cut)
    }

    fn go_on(&mut self, moving: &[Target], what: &str) -> Verdict {
        let begin = self.world.now;
        let mut since: BTreeMap<&Target, (usize, Time)> =
            moving.iter().map(|target| (target, (self.acknowledged(target), begin))).collect();
        while self.world.now.since(begin) < Nanos::from_ms(FAULT_MS) {
            self.pass(Nanos::from_ms(STEP_MS))?;
            let now = self.world.now;
            for (target, (count, at)) in &mut since {
                let acknowledged = self.acknowledged(target);
                if acknowledged > *count {
                    (*count, *at) = (acknowledged, now);
                } else if now.since(*at) > Nanos::from_ms(STANDSTILL_MS) {
                    return MajorityGoesOn::fails(format!("{target:?} stands still: {what}"));
                }
            }
        }
        Ok(())
    }

    fn acknowledged(&self, target: &Target) -> usize {
        self.crowd.shared.histories.get(target).map_or(0, |history| history.acked.len())
    }

    fn progress(&self) -> BTreeMap<Target, usize> {
        crowd::targets().into_iter().map(|it| (it.clone(), self.acknowledged(&it))).collect()
    }
}

#[test]
fn a_majority_goes_on_while_a_gateway_is_cut_off() {
    seeds("a_majority_goes_on", 8, |seed| random(seed, |_| {}));
}

#[test]
fn a_mute_gateway_that_counts_as_heard_is_found() {
    must_find("HeardForEver of a site", &["MajorityGoesOn"], |seed| {
        random(seed, |plan| plan.bug = Bug::HeardForEver)
    });
}
