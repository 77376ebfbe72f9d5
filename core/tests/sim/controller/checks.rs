//! What the controller must keep to, as checkers with names.

use super::site::Site;
use crate::checks::{Verdict, Violation};
use std::collections::BTreeSet;
use weir_core::metadata::configs::Configs;
use weir_core::metadata::{Image, PartitionState, Record};
use weir_core::types::{NodeId, PartitionNumber};

/// Who begins to lead was in sync or eligible, and is in sync then; an unclean leader was asked
/// for.
pub struct LeaderIsInSyncOrElr;

/// A partition with a leader has an in-sync set, of gateways that are there.
pub struct InSyncSetNeverEmptyUnlessOffline;

/// Leader, partition and broker epochs and producer ids never go back, and another leader is
/// another leader epoch.
pub struct EpochsOnlyGrow;

/// Whoever leads has everything that was ever committed, unless an operator wanted an unclean
/// leader.
pub struct NoUncleanElection;

/// When everybody is there and heard, reassignments end, everybody is in sync, and the preferred
/// leaders lead.
pub struct ReassignmentEnds;

/// New partitions use as many racks as they can, and load nobody more than others.
pub struct PlacementIsSpread;

/// A snapshot, and all records again, build the same image.
pub struct SnapshotEqualsReplay;

fn fails(checker: &'static str, what: String) -> Verdict {
    Err(Violation { checker, what })
}

/// The partitions that a decision has changed or made, and their states before.
fn changed<'a>(
    before: &'a Image,
    after: &'a Image,
) -> impl Iterator<Item = (PartitionNumber, Option<&'a PartitionState>, &'a PartitionState)> {
    after.states().filter_map(move |(number, state)| {
        let old = before.state(number);
        (old != Some(state)).then_some((number, old, state))
    })
}

impl InSyncSetNeverEmptyUnlessOffline {
    pub fn check(before: &Image, after: &Image) -> Verdict {
        for (number, _, state) in changed(before, after) {
            let stray = |nodes: &[NodeId]| nodes.iter().any(|node| !state.is_replica(*node));
            let alone = state.replicas.len() == 1;
            let gone = |node: &NodeId| !alone && !after.is_alive(*node);
            let eligible_twice = state.elr.iter().any(|node| state.isr.contains(node));
            let wrong = (state.leader.is_some() && state.isr.is_empty())
                || (state.leader.is_some() && state.isr.iter().any(gone))
                || [&state.isr, &state.elr, &state.adding, &state.removing].map(|n| stray(n))
                    != [false; 4]
                || eligible_twice;
            if wrong {
                return fails("InSyncSetNeverEmptyUnlessOffline", format!("{number:?}: {state:?}"));
            }
        }
        Ok(())
    }
}

impl LeaderIsInSyncOrElr {
    /// `unclean`: partitions for which an operator wanted one. `wished`: whom the leader wants in
    /// sync and has waited for: one of them leads at once where the leader is drained or goes.
    pub fn check(
        before: &Image,
        after: &Image,
        unclean: &BTreeSet<PartitionNumber>,
        wished: &[NodeId],
    ) -> Verdict {
        for (number, old, state) in changed(before, after) {
            let Some(leader) = state.leader else { continue };
            let may = match old {
                _ if unclean.contains(&number) => state.is_replica(leader),
                None => true,
                // The leader's own wish made the set that it leads.
                Some(old) if old.leader == state.leader => true,
                Some(_) if wished.contains(&leader) => true,
                Some(old) if old.isr.is_empty() => old.elr.contains(&leader),
                Some(old) => old.isr.contains(&leader) || old.elr.contains(&leader),
            };
            if !may || !state.isr.contains(&leader) {
                let what = format!("{number:?} after {old:?}: {state:?}");
                return fails("LeaderIsInSyncOrElr", what);
            }
        }
        Ok(())
    }
}

impl EpochsOnlyGrow {
    pub fn check(before: &Image, after: &Image) -> Verdict {
        let name = "EpochsOnlyGrow";
        for (number, old, state) in changed(before, after) {
            let Some(old) = old else { continue };
            let led_anew = state.leader != old.leader;
            let least = old.leader_epoch + i32::from(led_anew);
            if state.partition_epoch <= old.partition_epoch || state.leader_epoch < least {
                return fails(name, format!("{number:?} after {old:?}: {state:?}"));
            }
        }
        for broker in after.brokers() {
            let Some(old) = before.broker(broker.node) else { continue };
            let anew = broker.incarnation != old.incarnation;
            if broker.epoch < old.epoch || (anew && broker.epoch == old.epoch) {
                return fails(name, format!("after {old:?}: {broker:?}"));
            }
        }
        match after.next_producer_id() < before.next_producer_id() {
            true => fails(name, "producer ids went back".into()),
            false => Ok(()),
        }
    }
}

impl NoUncleanElection {
    /// A gateway begins to lead, or commits more: its log against what was committed.
    pub fn check(number: PartitionNumber, node: NodeId, committed: &[u64], log: &[u64]) -> Verdict {
        match log.starts_with(committed) {
            true => Ok(()),
            false => {
                let what = format!(
                    "{node:?} leads {number:?} with {log:?}, and committed was {committed:?}"
                );
                fails("NoUncleanElection", what)
            }
        }
    }
}

impl ReassignmentEnds {
    pub fn check(image: &Image) -> Verdict {
        for (number, state) in image.states() {
            let all: BTreeSet<_> = state.replicas.iter().collect();
            let in_sync: BTreeSet<_> = state.isr.iter().collect();
            let preferred = state.leader == state.replicas.first().copied();
            if state.is_reassigned() || all != in_sync || !preferred {
                return fails("ReassignmentEnds", format!("{number:?}: {state:?}"));
            }
        }
        Ok(())
    }
}

impl PlacementIsSpread {
    /// After a topic was made on gateways of the planner's choice.
    pub fn check(before: &Image, after: &Image) -> Verdict {
        let name = "PlacementIsSpread";
        let active: Vec<_> = after.brokers().filter(|broker| broker.is_active()).collect();
        let racks: BTreeSet<_> = active.iter().map(|broker| &broker.rack).collect();
        for (number, _, state) in changed(before, after) {
            let factor = state.replicas.len();
            let distinct: BTreeSet<_> = state.replicas.iter().collect();
            let used: BTreeSet<_> = state
                .replicas
                .iter()
                .filter_map(|node| after.broker(*node))
                .map(|broker| &broker.rack)
                .collect();
            let witness = state.replicas.iter().filter_map(|node| after.broker(*node));
            let idle = witness.filter(|broker| !broker.is_active()).count();
            if distinct.len() != factor
                || used.len() < factor.min(racks.len())
                || idle > factor.saturating_sub(active.len())
                || state.leader.is_none()
            {
                return fails(name, format!("{number:?}: {state:?}"));
            }
        }
        let spread = |image: &Image| {
            let loads = active.iter().map(|broker| image.replicas_on(broker.node).count());
            let loads: Vec<usize> = loads.collect();
            loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0)
        };
        if racks.len() <= 1 && spread(after) > spread(before).max(1) {
            return fails(name, format!("from {} to {}", spread(before), spread(after)));
        }
        Ok(())
    }
}

impl SnapshotEqualsReplay {
    pub fn check(site: &Site, snapshot: &[Record]) -> Verdict {
        let mut copy = Image::new(Configs::new());
        snapshot.iter().for_each(|record| copy.apply(record, u64::MAX));
        if copy != site.image {
            return fails("SnapshotEqualsReplay", "the snapshot is another image".into());
        }
        let mut replayed = Image::new(Configs::new());
        for (index, records) in &site.history {
            records.iter().for_each(|record| replayed.apply(record, *index));
        }
        match replayed == site.image {
            true => Ok(()),
            false => fails("SnapshotEqualsReplay", "the replay is another image".into()),
        }
    }
}
