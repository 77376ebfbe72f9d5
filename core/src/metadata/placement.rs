//! Which gateways hold a new partition.
//!
//! As in Kafka: on as many racks as there are replicas, if the racks suffice; gateways that are
//! fenced or drained only where the others are too few. Unlike Kafka, which deals partitions out in
//! turn, a gateway that holds fewest is taken first: a site is small, and one that was added later
//! or was refilled should not stay empty. Among equals chance decides, so that what one gateway
//! leaves behind falls to different ones.

use super::{Image, PartitionState, Refusal};
use crate::error::ErrorCode;
use crate::limits;
use crate::rng::Rng;
use crate::types::NodeId;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// A gateway that may hold partitions.
#[derive(Clone, Debug)]
struct Place {
    node: NodeId,
    rack: Option<String>,
    alive: bool,
    active: bool,
    /// Partitions that it holds, and those whose preferred leader it is.
    replicas: usize,
    preferred: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Placement {
    places: Vec<Place>,
}

impl Placement {
    /// `alone` is the only gateway while none has registered.
    pub fn new(image: &Image, alone: NodeId) -> Placement {
        let mut preferred: BTreeMap<NodeId, usize> = BTreeMap::new();
        for node in image.states().filter_map(|(_, state)| state.replicas.first()) {
            *preferred.entry(*node).or_default() += 1;
        }
        let holders = image.brokers().filter(|broker| broker.holds_partitions);
        let mut places: Vec<Place> = holders
            .map(|broker| Place {
                node: broker.node,
                rack: broker.rack.clone(),
                alive: !broker.fenced,
                active: broker.is_active(),
                replicas: image.replicas_on(broker.node).count(),
                preferred: preferred.get(&broker.node).copied().unwrap_or(0),
            })
            .collect();
        if image.brokers().next().is_none() {
            let place = Place {
                node: alone,
                rack: None,
                alive: true,
                active: true,
                replicas: 0,
                preferred: 0,
            };
            places.push(place);
        }
        Placement { places }
    }

    /// How many gateways hold partitions, fenced ones included.
    pub fn gateways(&self) -> usize {
        self.places.len()
    }

    pub fn check_factor(&self, factor: usize) -> Result<(), Refusal> {
        let gateways = self.gateways();
        let why = match self.places.iter().any(|place| place.alive) {
            true if factor <= gateways && factor <= limits::REPLICAS_MAX => return Ok(()),
            true => format!(
                "Unable to replicate the partition {factor} time(s): The target replication \
                 factor of {factor} cannot be reached because only {gateways} broker(s) are \
                 registered."
            ),
            false => format!(
                "Unable to replicate the partition {factor} time(s): All brokers are currently \
                 fenced."
            ),
        };
        Err(Refusal::new(ErrorCode::INVALID_REPLICATION_FACTOR, why))
    }

    /// Places one partition; its replication factor has been checked.
    pub fn place(&mut self, factor: usize, rng: &mut Rng) -> PartitionState {
        let mut taken: Vec<usize> = Vec::new();
        for _ in 0..factor {
            let free = (0..self.places.len()).filter(|at| !taken.contains(at));
            let cost = |at: usize| {
                let place = &self.places[at];
                let in_rack = taken.iter().filter(|t| self.places[**t].rack == place.rack).count();
                (!place.active, !place.alive, in_rack, place.replicas)
            };
            let best = free.min_by_key(|at| (cost(*at), rng.next_u64()));
            taken.extend(best);
        }
        let cost = |at: usize| {
            let place = &self.places[at];
            (!place.active, !place.alive, place.preferred)
        };
        let leader = taken.iter().copied().min_by_key(|at| (cost(*at), rng.next_u64()));
        taken.sort_by_key(|at| Some(*at) != leader);
        let replicas = taken.iter().map(|at| self.places[*at].node).collect();
        self.placed(replicas)
    }

    /// Judges replicas that somebody has chosen.
    pub fn check_replicas(&self, replicas: &[i32]) -> Result<Vec<NodeId>, Refusal> {
        let refuse = |why: String| Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, why));
        if replicas.is_empty() {
            return refuse(
                "The manual partition assignment includes an empty replica list.".into(),
            );
        }
        for (at, node) in replicas.iter().enumerate() {
            if replicas[..at].contains(node) {
                return refuse(format!(
                    "The manual partition assignment includes the broker {node} more than once."
                ));
            }
            if !self.places.iter().any(|place| place.node.0 == *node) {
                return refuse(format!(
                    "The manual partition assignment includes broker {node}, but no such broker is \
                     registered."
                ));
            }
        }
        if replicas.len() > limits::REPLICAS_MAX {
            let max = limits::REPLICAS_MAX;
            return refuse(format!("A partition has at most {max} replicas."));
        }
        Ok(replicas.iter().map(|node| NodeId(*node)).collect())
    }

    /// The state of a partition on replicas that somebody has chosen; `None` if none of them is
    /// there.
    pub fn assign(&mut self, replicas: Vec<NodeId>) -> Option<PartitionState> {
        Some(self.placed(replicas)).filter(|state| state.leader.is_some())
    }

    fn placed(&mut self, replicas: Vec<NodeId>) -> PartitionState {
        for place in &mut self.places {
            place.replicas += usize::from(replicas.contains(&place.node));
            place.preferred += usize::from(replicas.first() == Some(&place.node));
        }
        let is = |node: NodeId, what: fn(&Place) -> bool| {
            self.places.iter().any(|place| place.node == node && what(place))
        };
        let alive = replicas.iter().copied().filter(|node| is(*node, |place| place.alive));
        let isr: Vec<NodeId> = alive.collect();
        let active = isr.iter().copied().find(|node| is(*node, |place| place.active));
        let leader = active.or(isr.first().copied());
        PartitionState { replicas, isr, leader, ..PartitionState::default() }
    }
}
