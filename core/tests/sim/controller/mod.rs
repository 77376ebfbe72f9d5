//! The controller at random: gateways come, crash, are cut off, wiped, drained and removed, topics
//! come and go, operators reassign and elect, controllers follow one another, and decisions are
//! lost. Then everybody is there again, and all must be well.

mod checks;
mod follow;
mod operators;
mod site;

use crate::checks::{Verdict, Violation};
use crate::runner::{Tally, must_find, seeds};
use checks::{ReassignmentEnds, SnapshotEqualsReplay};
use site::Site;
use weir_core::metadata::Record;
use weir_core::types::{NodeId, PartitionNumber};

/// Bugs that the simulation plays around the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    None,
    /// A preferred leader is given back what it is not in sync with.
    GiveBackBlindly,
    /// The last member leaves an in-sync set while it leads.
    EmptyInSyncSet,
    /// A change is decided before the one before it is applied.
    DecideOnOldImage,
    /// A gateway with an empty store says that it has its old one.
    TrustWipedLog,
    /// A leader commits with fewer in sync than are required.
    CommitBelowMinimum,
    /// No leader's wish arrives.
    LoseWishes,
    /// New partitions are placed without a look at racks and loads.
    PlaceBlindly,
    /// A snapshot leaves broker epochs out.
    ForgetEpochs,
}

fn random(seed: u64, bug: Bug) -> Result<Tally, Violation> {
    let mut site = Site::new(seed, bug);
    for _ in 0..120 + site.rng.below(200) {
        step(&mut site)?;
    }
    snapshot(&site)?;
    heal(&mut site)?;
    snapshot(&site)?;
    let simulated_ns = site.now.0;
    Ok(Tally { simulated_ns, acknowledged: site.decisions, ..Tally::default() })
}

fn step(site: &mut Site) -> Verdict {
    let pause = if site.rng.percent(3) { 5_000 } else { 300 };
    site.now = site.now.plus_ms(site.rng.below(pause));
    if site.now >= site.controller.deadline(&site.image) {
        site.tick()?;
    }
    let nodes: Vec<NodeId> = site.gateways.keys().copied().collect();
    for node in &nodes {
        if site.rng.percent(90) {
            site.beat(*node)?;
        }
        if site.rng.percent(60) {
            site.look(*node)?;
        }
    }
    let numbers: Vec<PartitionNumber> = site.image.states().map(|(number, _)| number).collect();
    for number in numbers {
        for node in &nodes {
            match site.rng.below(10) {
                0..2 => site.produce(*node, number)?,
                2..6 => {
                    let count = site.rng.below(4) as usize;
                    site.fetch(number, *node, count)?;
                }
                6 => site.wish(*node, number)?,
                _ => {}
            }
        }
    }
    let node = nodes[site.rng.below(nodes.len() as u64) as usize];
    site.fault(node);
    site.operate(node)
}

/// Everybody comes back, and what operators have to do is done.
fn heal(site: &mut Site) -> Verdict {
    site.quiet = true;
    for node in site.gateways.keys().copied().collect::<Vec<_>>() {
        site.repair(node);
    }
    for round in 0..130 {
        site.now = site.now.plus_ms(300);
        site.tick()?;
        for node in site.gateways.keys().copied().collect::<Vec<_>>() {
            site.beat(node)?;
            if site.image.broker(node).is_some_and(|broker| broker.draining) {
                site.drain(node, false)?;
            }
            site.look(node)?;
        }
        if round == 30 {
            site.elect_unclean_leaders()?;
        }
        let numbers: Vec<PartitionNumber> = site.image.states().map(|(number, _)| number).collect();
        for number in numbers {
            for node in site.gateways.keys().copied().collect::<Vec<_>>() {
                site.fetch(number, node, usize::MAX)?;
                site.wish(node, number)?;
            }
        }
    }
    ReassignmentEnds::check(&site.image)
}

fn snapshot(site: &Site) -> Verdict {
    let mut records = site.image.snapshot();
    if site.bug == Bug::ForgetEpochs {
        records.retain(|record| !matches!(record, Record::BrokerEpoch { .. }));
    }
    SnapshotEqualsReplay::check(site, &records)
}

fn bug_is_found(bug: Bug, checkers: &[&str]) {
    must_find(&format!("{bug:?} of a controller"), checkers, |seed| random(seed, bug));
}

#[test]
fn a_controller_keeps_a_site_together() {
    seeds("a_controller_keeps_a_site", 1_000, |seed| random(seed, Bug::None));
}

#[test]
fn giving_back_to_who_is_not_in_sync_is_found() {
    bug_is_found(Bug::GiveBackBlindly, &["LeaderIsInSyncOrElr"]);
}

#[test]
fn an_emptied_in_sync_set_is_found() {
    bug_is_found(Bug::EmptyInSyncSet, &["InSyncSetNeverEmptyUnlessOffline"]);
}

#[test]
fn deciding_on_an_old_image_is_found() {
    bug_is_found(Bug::DecideOnOldImage, &["EpochsOnlyGrow"]);
}

#[test]
fn trusting_a_wiped_log_is_found() {
    bug_is_found(Bug::TrustWipedLog, &["NoUncleanElection"]);
}

#[test]
fn committing_with_too_few_in_sync_is_found() {
    bug_is_found(Bug::CommitBelowMinimum, &["NoUncleanElection"]);
}

#[test]
fn lost_wishes_are_found() {
    bug_is_found(Bug::LoseWishes, &["ReassignmentEnds"]);
}

#[test]
fn placing_blindly_is_found() {
    bug_is_found(Bug::PlaceBlindly, &["PlacementIsSpread"]);
}

#[test]
fn a_snapshot_without_broker_epochs_is_found() {
    bug_is_found(Bug::ForgetEpochs, &["SnapshotEqualsReplay"]);
}
