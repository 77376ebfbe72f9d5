//! Checks that cannot fail are worth nothing: each bug here must be found, and by the right
//! checker.
//!
//! Most bugs are played by the simulator, at the borders of the core: an answer that leaves before
//! the flush is a disk that says `Done` too early. Guards inside the core that no border shows are
//! taken away by [`Unguarded`](weir_core::log::Unguarded).

use crate::faults::Faults;
use crate::plan::{Bug, Plan};
use crate::runner::must_find;
use crate::{cleaning, damage, log_tests, node_tests};

fn log_must_find(bug: Bug, checkers: &[&str], change: impl Fn(&mut Plan)) {
    must_find(&format!("{bug:?}"), checkers, |seed| {
        log_tests::random(seed, |plan| {
            plan.bug = bug;
            change(plan);
        })
    });
}

fn node_must_find(bug: Bug, checkers: &[&str], change: impl Fn(&mut Plan)) {
    must_find(&format!("{bug:?} of a node"), checkers, |seed| {
        node_tests::random(seed, |plan| {
            plan.bug = bug;
            change(plan);
        })
    });
}

#[test]
fn acknowledge_before_flush_is_found() {
    let checkers = &["AckedIsDurable", "CommittedStays"];
    log_must_find(Bug::AcknowledgeBeforeFlush, checkers, |_| {});
    // A producer may be the first to see that its acknowledged batch is gone: its sequence gaps.
    let checkers = &["AckedIsDurable", "CommittedStays", "OrderKept"];
    node_must_find(Bug::AcknowledgeBeforeFlush, checkers, |_| {});
}

#[test]
fn retrying_a_failed_sync_is_found() {
    // A log that was truncated may end inside a batch that it should not have.
    let checkers = &["AckedIsDurable", "CommittedStays", "OrderKept"];
    log_must_find(Bug::RetryFailedSync, checkers, |plan| plan.faults.flush_error = 20);
    node_must_find(Bug::RetryFailedSync, checkers, |plan| plan.faults.flush_error = 20);
}

#[test]
fn waste_of_flash_is_found() {
    for bug in [Bug::FlushEachWrite, Bug::WriteInPieces] {
        log_must_find(bug, &["KindToFlash"], |_| {});
    }
    must_find("MoveAllAtOnce", &["KindToFlash"], |seed| {
        cleaning::random(seed, |plan| plan.bug = Bug::MoveAllAtOnce)
    });
}

#[test]
fn a_forgotten_sequence_is_found() {
    log_must_find(Bug::ForgetSequences, &["OrderKept"], |plan| plan.resend_at_start = true);
}

#[test]
fn serving_what_is_not_flushed_is_found() {
    // A search by timestamp does not see what its client is served already.
    log_must_find(Bug::ServeUnflushed, &["CommittedStays", "OrderKept"], |_| {});
}

#[test]
fn a_forgotten_offset_commit_is_found() {
    // Long lives: a group needs seconds to form.
    node_must_find(Bug::ForgetCommits, &["OffsetsNeverGoBack"], |plan| plan.life_us = 1_000_000);
}

#[test]
fn a_forgotten_assignment_is_found() {
    let checkers = &["GroupOwnsEachPartitionOnce"];
    node_must_find(Bug::ForgetAssignments, checkers, |plan| plan.life_us = 1_000_000);
}

#[test]
fn a_log_without_checkpoints_is_found() {
    // Long lives and small checkpoints: there is much to read when there is none.
    log_must_find(Bug::NoCheckpoints, &["AlwaysStarts"], |plan| {
        plan.retention = false;
        plan.life_us = 1_000_000;
        plan.checkpoint_bytes = u64::from(plan.slot_bytes);
        plan.slots = 60;
    });
}

#[test]
fn a_log_that_outgrows_its_budget_is_found() {
    log_must_find(Bug::TooManySlots, &["Bounded"], |_| {});
}

#[test]
fn a_resurrected_tail_is_found() {
    let checkers = &["AckedIsDurable", "CommittedStays", "OrderKept"];
    log_must_find(Bug::ResurrectTails, checkers, |plan| plan.faults = Faults::default());
}

#[test]
fn a_truncation_that_is_not_logged_is_found() {
    let checkers = &["AckedIsDurable", "CommittedStays", "OrderKept"];
    log_must_find(Bug::ForgetTruncations, checkers, |plan| plan.truncates = true);
}

#[test]
fn holes_that_a_start_forgets_are_found() {
    log_must_find(Bug::ForgetHoles, &["CommittedStays"], |plan| {
        plan.faults = Faults::default();
        plan.truncates = false;
    });
}

#[test]
fn holes_that_a_start_forgets_are_found_beside_truncations_and_damage() {
    let checkers = &["CommittedStays"];
    log_must_find(Bug::ForgetHoles, checkers, |plan| {
        plan.faults = Faults::default();
        plan.truncates = true;
    });
    must_find("ForgetHoles beside damage", checkers, |seed| {
        damage::random(seed, |plan| {
            plan.bug = Bug::ForgetHoles;
            plan.faults.rot = 50;
        })
    });
}

#[test]
fn a_hole_that_covers_what_follows_a_truncation_is_found() {
    let checkers = &["AckedIsDurable", "CommittedStays", "OrderKept"];
    log_must_find(Bug::UncutHoles, checkers, |plan| {
        plan.truncates = true;
        plan.replaces = true;
    });
}

#[test]
fn a_log_start_that_is_not_logged_is_found() {
    let checkers = &["AckedIsDurable", "CommittedStays", "OrderKept"];
    log_must_find(Bug::ForgetLogStarts, checkers, |plan| {
        plan.faults = Faults::default();
        plan.retention = true;
    });
}

#[test]
fn reuse_of_a_slot_without_its_sequence_is_found() {
    let checkers = &["AckedIsDurable", "CommittedStays", "OrderKept"];
    log_must_find(Bug::ReuseWithoutSegSeq, checkers, |plan| plan.faults = Faults::default());
}
