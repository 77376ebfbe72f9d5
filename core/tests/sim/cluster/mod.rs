//! A whole site: three to seven nodes, each on its own flash, a network between them that breaks,
//! and Kafka clients that find their way among them.
//!
//! `run` plays a seed: faults first (`chaos`), then everything heals and the site must be alive.
//! `gateway` is one node with its disk, `net` what lies between gateways, `crowd` the clients and
//! how they find leaders and coordinators, `truth` what the checkers remember. `mutations` proves
//! these.

mod chaos;
mod crowd;
mod gateway;
mod mutations;
mod net;
mod operator;
mod outcast;
mod plan;
mod rolling;
mod rot;
mod run;
mod truth;
mod upgrade;

use crate::checks::Violation;
use crate::runner::{Tally, seeds};
use plan::Plan;
use run::Cluster;
use weir_core::rng::Rng;

pub fn random(seed: u64, change: impl Fn(&mut Plan)) -> Result<Tally, Violation> {
    let mut plan = Plan::random(&mut Rng::new(seed));
    change(&mut plan);
    let mut cluster = Cluster::new(seed, plan);
    cluster.run()?;
    Ok(cluster.tally())
}

#[test]
fn a_calm_site_forms_and_replicates() {
    seeds("a_calm_site_forms_and_replicates", 5, |seed| random(seed, Plan::calm));
}

#[test]
fn a_site_keeps_its_promises_under_random_faults() {
    seeds("a_site_keeps_its_promises", 40, |seed| random(seed, |_| {}));
}

#[test]
fn groups_keep_their_offsets_when_gateways_fail() {
    seeds("groups_keep_their_offsets", 20, |seed| random(seed, |plan| plan.groups = true));
}
