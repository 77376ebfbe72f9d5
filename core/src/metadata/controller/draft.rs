//! One decision as far as it is made: the image, and what has been decided on top of it.
//!
//! Several causes may change one partition in one decision (two gateways are fenced at once); each
//! looks at what the one before has left, and one record says the outcome.

use super::super::{Image, PartitionState, Record};
use super::election::{self, Cause};
use crate::types::{NodeId, PartitionNumber};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Whether a gateway may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Liveness {
    pub alive: bool,
    /// Alive, and not about to be stopped.
    pub active: bool,
}

#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub image: &'a Image,
    liveness: BTreeMap<NodeId, Liveness>,
    states: BTreeMap<PartitionNumber, PartitionState>,
    records: Vec<Record>,
}

impl<'a> Draft<'a> {
    pub fn new(image: &'a Image) -> Draft<'a> {
        let liveness = image.brokers().map(|broker| {
            let liveness = Liveness { alive: !broker.fenced, active: broker.is_active() };
            (broker.node, liveness)
        });
        Draft { image, liveness: liveness.collect(), states: BTreeMap::new(), records: Vec::new() }
    }

    pub fn push(&mut self, record: Record) {
        self.records.push(record);
    }

    pub fn into_records(self) -> Vec<Record> {
        let image = self.image;
        let partitions = self.states.into_iter().filter_map(|(number, state)| {
            let of = image.partition_of(number)?;
            Some(Record::Partition { topic: of.topic, index: of.index, state })
        });
        self.records.into_iter().chain(partitions).collect()
    }

    pub fn liveness(&self, node: NodeId) -> Liveness {
        let unknown = Liveness { alive: false, active: false };
        self.liveness.get(&node).copied().unwrap_or(unknown)
    }

    pub fn state(&self, number: PartitionNumber) -> Option<&PartitionState> {
        self.states.get(&number).or_else(|| self.image.state(number))
    }

    /// Decides on one partition. `wish` says what is to be different; what follows from it, and who
    /// leads, is worked out here. Says whether anything changes.
    pub fn change(
        &mut self,
        number: PartitionNumber,
        cause: Cause,
        wish: impl FnOnce(&mut PartitionState),
    ) -> bool {
        let of = self.image.partition_of(number);
        let Some(topic) = of.and_then(|of| self.image.topic_by_id(of.topic)) else { return false };
        let Some(before) = self.state(number) else { return false };
        let mut wished = before.clone();
        wish(&mut wished);
        let liveness = |node| self.liveness(node);
        let changed = election::follow(before, wished, &topic.policy, cause, liveness);
        changed.map(|state| self.states.insert(number, state)).is_some()
    }

    /// The controller no longer hears the gateway, or it stops: it leaves the in-sync sets, and
    /// others lead.
    pub fn fence(&mut self, node: NodeId) {
        let draining = self.image.broker(node).is_some_and(|broker| broker.draining);
        self.set_state_of(node, true, draining);
        self.leave(node, Left::WithItsLog);
    }

    /// What the gateway had stays, is in doubt, or is gone.
    pub fn leave(&mut self, node: NodeId, left: Left) {
        self.liveness.insert(node, Liveness { alive: false, active: false });
        for number in self.image.replicas_on(node) {
            let Some(state) = self.state(number) else { continue };
            // Nobody else could lead it, and nobody else can have what its log may have lost:
            // neither another leader nor another epoch is needed, its clients wait until it is
            // back, and a gateway on its own writes no record for each of its partitions.
            let alone = state.replicas == [node];
            let only = state.isr.iter().chain(&state.elr).all(|other| *other == node);
            let lost = match left {
                Left::WithItsLog => false,
                Left::InDoubt => !only,
                Left::Wiped => true,
            };
            if !lost && alone {
                continue;
            }
            let cause = Cause { lost: lost.then_some(node), ..Cause::default() };
            self.change(number, cause, |state| state.isr.retain(|other| *other != node));
        }
    }

    /// The gateway is heard: it leads what nobody else could.
    pub fn unfence(&mut self, node: NodeId, draining: bool) {
        self.set_state_of(node, false, draining);
        for number in self.image.replicas_on(node) {
            if self.state(number).is_some_and(|state| state.leader.is_none()) {
                self.change(number, Cause::default(), |_| {});
            }
        }
    }

    /// The gateway shall be stopped: others lead what they can.
    pub fn drain(&mut self, node: NodeId) {
        self.set_state_of(node, false, true);
        self.relieve(node);
    }

    /// Gives away what others can lead.
    pub fn relieve(&mut self, node: NodeId) {
        for number in self.image.led_by(node) {
            self.change(number, Cause::default(), |_| {});
        }
    }

    pub fn set_state_of(&mut self, node: NodeId, fenced: bool, draining: bool) {
        let holds = self.image.broker(node).is_some_and(|broker| broker.holds_partitions);
        let liveness = Liveness { alive: !fenced, active: holds && !fenced && !draining };
        self.liveness.insert(node, liveness);
        self.records.push(Record::BrokerState { node, fenced, draining });
    }
}

/// What became of the log of a gateway that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    WithItsLog,
    /// It lacks something that was flushed: it counts where nobody else has more.
    InDoubt,
    /// It is another store now.
    Wiped,
}
