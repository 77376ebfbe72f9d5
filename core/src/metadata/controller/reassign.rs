//! Replicas move: they are added, catch up, and then those leave that are to go (KIP-455).

use super::super::placement::Placement;
use super::super::{Image, PartitionState, Refusal, Topic};
use super::draft::Draft;
use super::election::Cause;
use super::{Controller, Decision};
use crate::error::ErrorCode;
use crate::types::NodeId;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Where a partition shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassignment {
    pub topic: String,
    pub index: i32,
    /// `None`: back to where it was.
    pub replicas: Option<Vec<i32>>,
}

impl Image {
    /// Partitions that are on their way, by topic and index.
    pub fn reassignments(&self) -> impl Iterator<Item = (&Topic, i32, &PartitionState)> {
        self.topics_by_name().flat_map(move |topic| {
            (0..).zip(&topic.partitions).filter_map(move |(index, number)| {
                let state = self.state(*number).filter(|state| state.is_reassigned())?;
                Some((topic, index, state))
            })
        })
    }
}

impl Controller {
    /// AlterPartitionReassignments: each wish is judged by itself.
    pub fn reassign(
        &self,
        image: &Image,
        wishes: &[Reassignment],
        may_change_factor: bool,
    ) -> Decision<Vec<Result<(), Refusal>>> {
        let mut draft = Draft::new(image);
        let places = Placement::new(image, self.settings.node);
        let one = |wish| reassign_one(&mut draft, &places, wish, may_change_factor);
        let answer = wishes.iter().map(one).collect();
        Decision { records: draft.into_records(), answer }
    }
}

fn reassign_one(
    draft: &mut Draft<'_>,
    places: &Placement,
    wish: &Reassignment,
    may_change_factor: bool,
) -> Result<(), Refusal> {
    let unknown = |what: String| Refusal::new(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, what);
    let topic = draft.image.topic(&wish.topic);
    let topic =
        topic.ok_or_else(|| unknown(format!("Unable to find a topic named {}.", wish.topic)))?;
    let number = topic.partition(wish.index);
    let found = number.and_then(|number| Some((number, draft.state(number)?)));
    let (number, state) = found.ok_or_else(|| {
        unknown(format!("Unable to find partition {}-{}.", wish.topic, wish.index))
    })?;
    let target = match &wish.replicas {
        None => cancelled(state, &topic.name, wish.index)?,
        Some(replicas) => {
            let replicas = places.check_replicas(replicas)?;
            let current = state.replicas.len() - state.adding.len();
            if !may_change_factor && replicas.len() != current {
                let why = format!(
                    "The replication factor is changed from {current} to {}",
                    replicas.len()
                );
                return Err(Refusal::new(ErrorCode::INVALID_REPLICATION_FACTOR, why));
            }
            begun(state, replicas)
        }
    };
    draft.change(number, Cause::default(), |state| *state = target);
    Ok(())
}

/// Back to the replicas of before: those that were being added go at once.
fn cancelled(state: &PartitionState, topic: &str, index: i32) -> Result<PartitionState, Refusal> {
    if !state.is_reassigned() {
        let why = "No partition reassignment is in progress.";
        return Err(Refusal::new(ErrorCode::NO_REASSIGNMENT_IN_PROGRESS, why));
    }
    let target = without(state, &state.adding);
    if target.isr.is_empty() && target.elr.is_empty() {
        let why = format!(
            "Unable to revert partition assignment for {topic}:{index} because it would require \
             an unclean leader election."
        );
        return Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, why));
    }
    Ok(PartitionState { adding: Vec::new(), removing: Vec::new(), ..target })
}

/// On the way to `target`, also from the middle of another way.
fn begun(state: &PartitionState, target: Vec<NodeId>) -> PartitionState {
    // Whom the other way added and this one does not leaves at once, unless nobody else is in sync.
    let stray = |node: &NodeId| state.adding.contains(node) && !target.contains(node);
    let strays: Vec<NodeId> = state.replicas.iter().copied().filter(stray).collect();
    let trimmed = without(state, &strays);
    let mut next = match trimmed.isr.is_empty() && trimmed.elr.is_empty() {
        true => state.clone(),
        false => trimmed,
    };
    let settled = |node: &NodeId| state.replicas.contains(node) && !state.adding.contains(node);
    let leaves = |node: &NodeId| !target.contains(node);
    next.removing = next.replicas.iter().copied().filter(leaves).collect();
    next.adding = target.iter().copied().filter(|node| !settled(node)).collect();
    next.replicas = target.into_iter().chain(next.removing.iter().copied()).collect();
    next
}

fn without(state: &PartitionState, gone: &[NodeId]) -> PartitionState {
    let mut state = state.clone();
    for nodes in [&mut state.replicas, &mut state.isr, &mut state.elr, &mut state.adding] {
        nodes.retain(|node| !gone.contains(node));
    }
    state
}
