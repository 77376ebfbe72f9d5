//! In-sync sets that leaders wish for, and elections that operators ask for.

use super::super::{Image, PartitionState, Refusal};
use super::brokers::check_epoch;
use super::draft::Draft;
use super::election::{Cause, Election};
use super::{Controller, Decision};
use crate::error::ErrorCode;
use crate::types::{BrokerEpoch, NodeId, PartitionNumber, Time};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What the leader of a partition wishes its in-sync set to be (KIP-497).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsrChange {
    pub number: PartitionNumber,
    pub leader_epoch: i32,
    pub partition_epoch: i32,
    /// With the broker epoch of each as the leader has seen it in the follower's fetches (KIP-903):
    /// one that has registered anew since then has to catch up again. `None`: the leader itself.
    pub isr: Vec<(NodeId, Option<BrokerEpoch>)>,
}

/// An election by an operator: who asked for which partition, and what came of it.
pub type Elected = (String, i32, Result<(), Refusal>);

impl Controller {
    /// Judges the wishes of one leader, each by itself. What was granted stands in the image when
    /// the records are applied.
    pub fn alter_partitions(
        &mut self,
        now: Time,
        image: &Image,
        (node, epoch): (NodeId, BrokerEpoch),
        wishes: &[IsrChange],
    ) -> Decision<Result<Vec<Result<(), ErrorCode>>, ErrorCode>> {
        self.run(now, image);
        if let Err(code) = check_epoch(image, node, epoch) {
            return Decision::only(Err(code));
        }
        let mut draft = Draft::new(image);
        let alter = |wish: &IsrChange| {
            check_wish(&draft, node, wish)?;
            draft.change(wish.number, Cause { granted: true, ..Cause::default() }, |state| {
                state.isr = wish.isr.iter().map(|(node, _)| *node).collect();
            });
            Ok(())
        };
        let answers = wishes.iter().map(alter).collect();
        Decision { records: draft.into_records(), answer: Ok(answers) }
    }

    /// A gateway has lost a part of a partition to damage: it is out of sync until it has fetched
    /// it again, unless nobody else has all of it.
    pub fn lost(
        &self,
        image: &Image,
        (node, epoch): (NodeId, BrokerEpoch),
        number: PartitionNumber,
    ) -> Decision<Result<(), ErrorCode>> {
        if let Err(code) = check_epoch(image, node, epoch) {
            return Decision::only(Err(code));
        }
        let mut draft = Draft::new(image);
        let others = |state: &PartitionState| state.isr.iter().any(|other| *other != node);
        if image.state(number).is_some_and(others) {
            let cause = Cause { lost: Some(node), ..Cause::default() };
            draft.change(number, cause, |state| state.isr.retain(|other| *other != node));
        }
        Decision { records: draft.into_records(), answer: Ok(()) }
    }

    /// ElectLeaders (KIP-183, KIP-460). `None`: all partitions, of which those are left out of the
    /// answer that need no election.
    pub fn elect(
        &self,
        image: &Image,
        election: Election,
        asked: Option<&[(String, i32)]>,
    ) -> Decision<Vec<Elected>> {
        let mut draft = Draft::new(image);
        let all: Vec<(String, i32)> = match asked {
            Some(asked) => asked.to_vec(),
            None => image
                .topics_by_name()
                .flat_map(|topic| {
                    (0..).zip(&topic.partitions).map(|(i, _)| (topic.name.clone(), i))
                })
                .collect(),
        };
        let mut answer = Vec::new();
        for (topic, index) in all {
            let elected = elect_one(&mut draft, election, &topic, index);
            let needed = elected
                .as_ref()
                .err()
                .is_none_or(|refusal| refusal.code != ErrorCode::ELECTION_NOT_NEEDED);
            if needed || asked.is_some() {
                answer.push((topic, index, elected));
            }
        }
        Decision { records: draft.into_records(), answer }
    }
}

fn check_wish(draft: &Draft<'_>, node: NodeId, wish: &IsrChange) -> Result<(), ErrorCode> {
    let state = draft.state(wish.number).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    if wish.leader_epoch > state.leader_epoch || wish.partition_epoch > state.partition_epoch {
        return Err(ErrorCode::NOT_CONTROLLER);
    }
    if wish.leader_epoch < state.leader_epoch {
        return Err(ErrorCode::FENCED_LEADER_EPOCH);
    }
    if state.leader != Some(node) {
        return Err(ErrorCode::INVALID_REQUEST);
    }
    if wish.partition_epoch < state.partition_epoch {
        return Err(ErrorCode::INVALID_UPDATE_VERSION);
    }
    let members: BTreeSet<NodeId> = wish.isr.iter().map(|(node, _)| *node).collect();
    let valid = members.len() == wish.isr.len()
        && members.contains(&node)
        && members.iter().all(|node| state.is_replica(*node));
    if !valid {
        return Err(ErrorCode::INVALID_REQUEST);
    }
    let fits = |(node, epoch): &(NodeId, Option<BrokerEpoch>)| {
        let Some(broker) = draft.image.broker(*node) else { return false };
        !broker.fenced && epoch.is_none_or(|epoch| epoch == broker.epoch)
    };
    match wish.isr.iter().all(fits) {
        true => Ok(()),
        false => Err(ErrorCode::INELIGIBLE_REPLICA),
    }
}

fn elect_one(
    draft: &mut Draft<'_>,
    election: Election,
    topic: &str,
    index: i32,
) -> Result<(), Refusal> {
    let unknown = |what: String| Refusal::new(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, what);
    let found = draft.image.topic(topic);
    let found = found.ok_or_else(|| unknown(format!("No such topic as {topic}")))?;
    let number = found.partition(index);
    let state = number.and_then(|number| Some((number, draft.state(number)?)));
    let (number, state) =
        state.ok_or_else(|| unknown(format!("No such partition as {topic}-{index}")))?;
    let alive = state.leader.is_some_and(|leader| draft.liveness(leader).alive);
    let preferred = state.leader == state.replicas.first().copied();
    if alive && (preferred || election == Election::Unclean) {
        let why = "Leader election not needed for topic partition.";
        return Err(Refusal::new(ErrorCode::ELECTION_NOT_NEEDED, why));
    }
    if draft.change(number, Cause { election, ..Cause::default() }, |_| {}) {
        return Ok(());
    }
    let (code, why) = match election {
        Election::Unclean => {
            let why = "Eligible topic partition leaders are not available.";
            (ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE, why)
        }
        _ => {
            let why = "The preferred leader was not available.";
            (ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE, why)
        }
    };
    Err(Refusal::new(code, why))
}
