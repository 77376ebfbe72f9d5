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
    (plan.producers, plan.pace) = (8, 10);
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
            let moving = self.moving()?;
            let (outcast, cut) = self.cast_out();
            self.go_on(moving, &format!("gateway {} is cut off: {cut:?}", outcast + 1))?;
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

    fn go_on(&mut self, moving: Vec<Target>, what: &str) -> Verdict {
        let begin = self.world.now;
        let mut watch = Watch::new(self, moving);
        while self.world.now.since(begin) < Nanos::from_ms(FAULT_MS) {
            self.pass(Nanos::from_ms(STEP_MS))?;
            if let Some((target, still)) = watch.look(self)
                && still > Nanos::from_ms(STANDSTILL_MS)
            {
                return MajorityGoesOn::fails(format!("{target:?} stands still: {what}"));
            }
        }
        Ok(())
    }

    /// The partitions that somebody writes to.
    pub fn moving(&mut self) -> Result<Vec<Target>, Violation> {
        let before: Vec<(Target, usize)> = crowd::targets()
            .into_iter()
            .map(|target| (target.clone(), self.acknowledged(&target)))
            .collect();
        self.pass(Nanos::from_ms(3_000))?;
        let moving = before.into_iter().filter(|(it, count)| self.acknowledged(it) > *count);
        Ok(moving.map(|(target, _)| target).collect())
    }

    fn acknowledged(&self, target: &Target) -> usize {
        self.crowd.shared.histories.get(target).map_or(0, |history| history.acked.len())
    }
}

/// Since when partitions have taken nothing.
pub struct Watch {
    since: BTreeMap<Target, (usize, Time)>,
}

impl Watch {
    pub fn new(cluster: &Cluster, targets: Vec<Target>) -> Watch {
        let now = cluster.world.now;
        let since = targets.into_iter().map(|target| {
            let count = cluster.acknowledged(&target);
            (target, (count, now))
        });
        Watch { since: since.collect() }
    }

    /// The partition that has stood still for the longest, and for how long.
    pub fn look(&mut self, cluster: &Cluster) -> Option<(Target, Nanos)> {
        let now = cluster.world.now;
        for (target, (count, at)) in &mut self.since {
            let acknowledged = cluster.acknowledged(target);
            if acknowledged > *count {
                (*count, *at) = (acknowledged, now);
            }
        }
        let longest = self.since.iter().min_by_key(|(_, (_, at))| *at);
        longest.map(|(target, (_, at))| (target.clone(), now.since(*at)))
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
