//! What follows from a change of one partition: the end of a reassignment, the eligible leader
//! replicas (KIP-966), who leads, and the epochs.
//!
//! | in-sync set after the change | eligible leader replicas | who may lead |
//! |---|---|---|
//! | as many as are required, or more | none | the in-sync set |
//! | fewer | whoever was in sync or eligible before, and has not lost its log | the in-sync set |
//! | none | the same | the eligible leader replicas |
//!
//! This is safe because a leader does not move the high watermark while fewer are in sync than
//! [`PartitionState::in_sync_required`]: who leaves then has everything that was ever committed.

use super::super::PartitionState;
use super::super::configs::Policy;
use super::draft::Liveness;
use crate::types::NodeId;
use alloc::vec::Vec;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Election {
    /// The leader stays while it may.
    #[default]
    Any,
    /// The first of the replicas leads if it may.
    Preferred,
    /// When nobody may lead, a replica does that is merely alive: acknowledged records are lost.
    Unclean,
}

/// Why a partition changes, as far as it matters.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cause {
    pub election: Election,
    /// It no longer has what it had.
    pub lost: Option<NodeId>,
    /// A leader's wish is granted, which it learns from a new partition epoch even if nothing else
    /// changes.
    pub granted: bool,
}

impl PartitionState {
    /// In-sync replicas without which nothing is committed: `min.insync.replicas`, but no more than
    /// there are replicas.
    pub fn in_sync_required(&self, min_insync_replicas: usize) -> usize {
        min_insync_replicas.min(self.replicas.len()).max(1)
    }

    pub fn is_reassigned(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }
}

/// The state after a change, if there is any.
pub(super) fn follow(
    before: &PartitionState,
    wished: PartitionState,
    policy: &Policy,
    cause: Cause,
    liveness: impl Fn(NodeId) -> Liveness,
) -> Option<PartitionState> {
    let mut state = wished;
    complete_reassignment(&mut state);
    set_eligible(before, &mut state, policy, cause.lost);
    elect(before, &mut state, policy, cause.election, liveness);
    if state == *before && !cause.granted {
        return None;
    }
    // Who is no replica any more must not go on fetching as if it were one.
    let shrunk = before.replicas.iter().any(|node| !state.replicas.contains(node));
    if state.leader != before.leader || shrunk {
        state.leader_epoch = before.leader_epoch.saturating_add(1);
    }
    state.partition_epoch = before.partition_epoch.saturating_add(1);
    Some(state)
}

/// A reassignment is over when everyone whom it adds is in sync, and somebody stays who is.
fn complete_reassignment(state: &mut PartitionState) {
    let stays = |node: &NodeId| !state.removing.contains(node);
    let added = state.adding.iter().all(|node| state.isr.contains(node));
    if !state.is_reassigned() || !added || !state.isr.iter().any(stays) {
        return;
    }
    let staying =
        |nodes: &[NodeId]| -> Vec<NodeId> { nodes.iter().copied().filter(stays).collect() };
    let (replicas, isr) = (staying(&state.replicas), staying(&state.isr));
    (state.replicas, state.isr) = (replicas, isr);
    state.adding.clear();
    state.removing.clear();
}

fn set_eligible(
    before: &PartitionState,
    state: &mut PartitionState,
    policy: &Policy,
    lost: Option<NodeId>,
) {
    if state.isr.len() >= state.in_sync_required(policy.min_insync_replicas) {
        return state.elr.clear();
    }
    let mut elr = core::mem::take(&mut state.elr);
    elr.extend(before.isr.iter().copied().filter(|node| !before.elr.contains(node)));
    elr.retain(|node| {
        state.replicas.contains(node) && !state.isr.contains(node) && lost != Some(*node)
    });
    elr.sort_unstable();
    elr.dedup();
    state.elr = elr;
}

fn elect(
    before: &PartitionState,
    state: &mut PartitionState,
    policy: &Policy,
    election: Election,
    liveness: impl Fn(NodeId) -> Liveness,
) {
    let eligible = if state.isr.is_empty() { &state.elr } else { &state.isr };
    let preferred = state.replicas.first().filter(|_| election == Election::Preferred);
    let candidates = || preferred.into_iter().chain(&before.leader).chain(&state.replicas).copied();
    let first = |may: &dyn Fn(Liveness) -> bool, among: &[NodeId]| {
        candidates().find(|node| among.contains(node) && may(liveness(*node)))
    };
    let (active, alive) = (|node: Liveness| node.active, |node: Liveness| node.alive);
    let clean = first(&active, eligible).or_else(|| first(&alive, eligible));
    let may_be_unclean = election == Election::Unclean || policy.unclean_leader_election;
    let replicas = &state.replicas;
    let unclean = || first(&active, replicas).or_else(|| first(&alive, replicas));
    state.leader = clean.or_else(|| unclean().filter(|_| may_be_unclean));
    let Some(leader) = state.leader.filter(|leader| !state.isr.contains(leader)) else { return };
    // Only the leader is known to have what it has.
    if clean.is_none() {
        state.elr.clear();
    }
    state.isr = Vec::from([leader]);
    state.elr.retain(|node| *node != leader);
    if state.in_sync_required(policy.min_insync_replicas) <= 1 {
        state.elr.clear();
    }
}
