//! Replication of one partition, checked exhaustively with `stateright`: every order in which three
//! gateways, their disks, the network and the controller can act, within small bounds.
//!
//! The model drives the very [`Leader`](weir_core::replica::Leader) and
//! [`Follower`](weir_core::replica::Follower) that the node drives. The plain run checks three
//! records, three epochs and a crash that loses what is not on flash, and fewer of those with
//! changes of the in-sync set; a long run has all of it at once.
//!
//! Left out, for the simulation of the cluster to find: time (whoever is behind may leave the
//! in-sync set, or stay), requests and answers that come late or are lost on their way back, a log
//! that is trimmed, and a second crash.

#![allow(clippy::unwrap_used)]

mod fingerprint;
mod gateway;
mod partition;

use gateway::Mutation;
use partition::{Bounds, Partition, State};
use stateright::{Checker, HasDiscoveries, Model};
use std::collections::BTreeSet;
use std::collections::hash_map::{DefaultHasher, Entry, HashMap};
use std::hash::{Hash, Hasher};
use std::thread::available_parallelism;
use std::time::Instant;
use weir_tests::{long, say};

const LOST: &str = "NoCommittedRecordLostGlobally";

/// Explores everything, which has to be `at_least` so many states.
fn check(bounds: Bounds, at_least: usize) {
    let began = Instant::now();
    let threads = available_parallelism().map_or(1, |count| count.get());
    let model = Partition { bounds, mutation: None };
    let checker = model.checker().threads(threads).spawn_bfs().join();
    let states = checker.unique_state_count();
    say(&format!(
        "replica model: {bounds:?}: all {states} states, {} steps, {} deep at most, {:.1} s",
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64()
    ));
    assert!(checker.is_done(), "the search is complete");
    checker.assert_properties();
    assert!(states >= at_least, "only {states} states");
}

const SMALL: Bounds = Bounds { records: 2, epochs: 2, crashes: 1, wishes: 1, min_insync: 2 };

#[test]
fn every_order_of_three_records_three_epochs_and_a_crash_keeps_the_promises() {
    check(Bounds { records: 3, epochs: 3, crashes: 1, wishes: 0, min_insync: 1 }, 500_000);
}

#[test]
fn every_order_of_changes_of_the_insync_set_keeps_the_promises() {
    check(SMALL, 50_000);
    check(Bounds { min_insync: 1, ..SMALL }, 50_000);
    if long() {
        for min_insync in [1, 2] {
            let bounds = Bounds { records: 3, epochs: 3, crashes: 1, wishes: 1, min_insync };
            check(bounds, 1_000_000);
        }
    }
}

#[test]
fn every_mutation_is_found() {
    let bounds = Bounds { records: 2, epochs: 3, crashes: 1, wishes: 1, min_insync: 1 };
    for mutation in [
        Mutation::AcknowledgeBeforeFlush,
        Mutation::TruncateByHighWatermark,
        Mutation::ExpandTooEarly,
    ] {
        let model = Partition { bounds, mutation: Some(mutation) };
        let until = HasDiscoveries::AnyOf(BTreeSet::from([LOST]));
        let checker = model.checker().finish_when(until).spawn_bfs().join();
        let Some(path) = checker.discovery(LOST) else { panic!("{mutation:?} is not found") };
        say(&format!("replica model: {mutation:?} loses by {:?}", path.into_actions()));
    }
}

/// What the search takes for the same state has to go on in the same ways.
#[test]
fn states_of_one_fingerprint_go_on_alike() {
    let bounds = Bounds { records: 2, epochs: 2, crashes: 1, wishes: 1, min_insync: 1 };
    let model = Partition { bounds, mutation: None };
    let mut known: HashMap<u64, BTreeSet<u64>> = HashMap::new();
    let mut states = model.init_states();
    let mut merged = 0;
    while let Some(state) = states.pop() {
        let next = model.next_states(&state);
        let ways: BTreeSet<u64> = next.iter().map(fingerprint).collect();
        match known.entry(fingerprint(&state)) {
            Entry::Occupied(same) => {
                assert_eq!(*same.get(), ways, "{state:#?}");
                merged += 1;
            }
            Entry::Vacant(new) => {
                new.insert(ways);
                states.extend(next);
            }
        }
    }
    assert!(merged > known.len(), "{} states, and {merged} times the same again", known.len());
}

fn fingerprint(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}
