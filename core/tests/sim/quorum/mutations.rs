//! Checks that cannot fail are worth nothing: each bug here must be found, and by the right
//! checker.

use super::plan::{Bug, Plan};
use super::{random, rejoin};
use crate::runner::must_find;

/// Where votes and entries are lost, any of these may be the first to see it.
const SAFETY: &[&str] = &[
    "SingleLeaderPerTerm",
    "MetadataLogMatching",
    "LeaderCompleteness",
    "CommittedStays",
    "StateMachineOrder",
];

fn quorum_must_find(bug: Bug, checkers: &[&str], change: impl Fn(&mut Plan)) {
    must_find(&format!("{bug:?} of a quorum"), checkers, |seed| {
        random(seed, |plan| {
            plan.bug = bug;
            plan.crashes = true;
            change(plan);
        })
    });
}

#[test]
fn a_vote_that_is_not_flushed_is_found() {
    // Two candidates of one term are rare: short lives of leaders, slow messages.
    quorum_must_find(Bug::VoteNotFlushed, SAFETY, |plan| {
        plan.vote_reboots = 50;
        plan.fault_ms = 500;
        plan.partitions = true;
        plan.delay_us = 50_000;
    });
}

#[test]
fn a_term_that_is_not_flushed_is_found() {
    quorum_must_find(Bug::TermNotFlushed, SAFETY, |_| {});
}

/// A leader never looks behind what a follower has acknowledged: one that has lost that is stuck,
/// and with it the cluster.
const SAFETY_OR_LIVENESS: &[&str] = &[
    "SingleLeaderPerTerm",
    "MetadataLogMatching",
    "LeaderCompleteness",
    "CommittedStays",
    "StateMachineOrder",
    "Liveness",
];

#[test]
fn entries_that_are_acknowledged_before_the_flush_are_found() {
    quorum_must_find(Bug::EntriesNotFlushed, SAFETY_OR_LIVENESS, |_| {});
}

#[test]
fn a_message_that_leaves_before_what_it_depends_on_is_found() {
    quorum_must_find(Bug::SendBeforePersist, SAFETY, |_| {});
}

#[test]
fn a_wiped_voter_that_votes_is_found() {
    quorum_must_find(Bug::WipedVoterVotes, SAFETY_OR_LIVENESS, |plan| {
        plan.wipes = true;
        plan.partitions = true;
    });
}

#[test]
fn an_election_without_pre_vote_is_found() {
    must_find("NoPreVote of a quorum", &["PreVoteDoesNotDisrupt"], |seed| {
        rejoin::run(seed, Bug::NoPreVote)
    });
}
