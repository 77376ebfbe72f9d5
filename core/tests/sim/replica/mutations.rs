//! Replication's bugs, each of which must be found, and by the right checker.

use super::plan::{Bug, Plan};
use super::random;
use crate::runner::must_find;
use weir_core::replica::{IsrMember, IsrWish, Leader};
use weir_core::types::Time;

const ISR: &[&str] = &["StrongIsr", "NoCommittedRecordLostGlobally"];

fn finds(bug: Bug, checkers: &[&str], change: impl Fn(&mut Plan)) {
    must_find(&format!("{bug:?} of replicas"), checkers, |seed| {
        random(seed, |plan| {
            plan.bug = bug;
            change(plan);
        })
    });
}

impl Bug {
    /// The wish that goes out, as the bug has it.
    pub fn wish(self, leader: &mut Leader, now: Time) -> Option<IsrWish> {
        match self {
            // The leader does not know that it has asked.
            Bug::NoMaximalSet => leader.clone().wish(now),
            Bug::ExpandTooEarly => {
                let mut wish = leader.wish(now)?;
                let absent = leader
                    .followers()
                    .filter(|follower| !wish.isr.iter().any(|member| member.node == follower.node));
                let joins =
                    absent.map(|follower| IsrMember { node: follower.node, broker_epoch: -1 });
                wish.isr.extend(joins.collect::<Vec<_>>());
                Some(wish)
            }
            _ => leader.wish(now),
        }
    }
}

#[test]
fn truncation_by_high_watermark_is_found() {
    finds(Bug::TruncateByHighWatermark, ISR, |_| {});
}

#[test]
fn a_fetch_without_its_last_epoch_is_found() {
    finds(Bug::NoEpochInFetch, &["LogMatching", ISR[0], ISR[1]], |_| {});
}

#[test]
fn an_old_leader_that_is_not_fenced_is_found() {
    finds(Bug::NoFencing, &["LogMatching", ISR[0], ISR[1]], |_| {});
}

#[test]
fn a_leader_that_acknowledges_before_its_flush_is_found() {
    finds(Bug::AcknowledgeBeforeFlush, ISR, |_| {});
}

#[test]
fn a_high_watermark_of_undurable_ends_is_found() {
    finds(Bug::UndurableEnds, ISR, |_| {});
}

#[test]
fn an_in_sync_set_that_is_joined_too_early_is_found() {
    finds(Bug::ExpandTooEarly, ISR, |_| {});
}

#[test]
fn joining_before_the_epochs_start_is_found() {
    finds(Bug::EpochStartIgnored, ISR, |_| {});
}

#[test]
fn a_high_watermark_of_the_committed_set_only_is_found() {
    finds(Bug::NoMaximalSet, ISR, |_| {});
}

#[test]
fn offsets_told_by_an_unsettled_leader_are_found() {
    finds(Bug::TellUnsettled, &["MonotonicHighWatermark"], |_| {});
}

#[test]
fn reading_to_the_end_of_the_log_is_found() {
    finds(Bug::ServeUncommitted, &["ConsumersSeeOnlyCommitted"], |_| {});
}

#[test]
fn a_restarted_leader_that_leads_on_is_found() {
    finds(Bug::LeadOnAfterCut, &["SingleLeaderPerEpoch"], |_| {});
}

#[test]
fn a_leader_whose_log_nobody_vouches_for_is_found() {
    finds(Bug::TrustAfterCut, &["NoCommittedRecordLostGlobally"], |plan| {
        plan.min_insync = 2;
        plan.liars = 1;
    });
}

#[test]
fn wishes_that_nobody_hears_are_found() {
    finds(Bug::LoseWishes, &["Converges"], |_| {});
}
