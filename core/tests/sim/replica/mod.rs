//! One partition on three to five gateways: [`weir_core::replica`] under cuts, lying flushes, a
//! network that loses, repeats, delays and separates, and leaders that change.
//!
//! `gateway` is what the node does around leader and follower; `controller` stands for the metadata
//! quorum, whose own faults are simulated elsewhere; `store` is a log that is as good as the flash
//! log is proved to be.

mod checks;
mod controller;
mod gateway;
mod mutations;
mod plan;
mod site;
mod store;

use crate::checks::Violation;
use crate::runner::{Tally, seeds};
use plan::Plan;
use site::Site;
use weir_core::rng::Rng;

pub fn random(seed: u64, change: impl Fn(&mut Plan)) -> Result<Tally, Violation> {
    let mut plan = Plan::random(&mut Rng::new(seed));
    change(&mut plan);
    Site::new(seed, plan).run()
}

#[test]
fn replicas_keep_their_promises_under_cuts_and_partitions() {
    seeds("replicas_keep_their_promises", 150, |seed| random(seed, |_| {}));
}
