//! The gateways of the cluster: who registered, where it is found, and whether it may lead.

use super::configs::Configs;
use super::{Image, PartitionState, Record};
use crate::types::{BrokerEpoch, NodeId, PartitionNumber};
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

/// Replicas that survive the loss of two gateways, or one while another is maintained.
const REPLICATION_FACTOR_DEFAULT: usize = 3;

/// A registered gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub node: NodeId,
    /// Greater with each registration.
    pub epoch: BrokerEpoch,
    pub directory: [u8; 16],
    pub incarnation: [u8; 16],
    pub rack: Option<String>,
    pub kafka: (String, u16),
    pub peer: (String, u16),
    /// Whether it holds partitions; a witness does not.
    pub holds_partitions: bool,
    /// The controller does not hear it: it neither leads nor counts as in sync.
    pub fenced: bool,
    /// It shall be stopped: it leads nothing that another one can lead.
    pub draining: bool,
    /// What was set while it ran, by Kafka's names: [`THROTTLES`](super::configs::THROTTLES).
    pub configs: Configs,
}

impl Broker {
    /// Whether leaderships and new replicas may be given to it.
    pub fn is_active(&self) -> bool {
        self.holds_partitions && !self.fenced && !self.draining
    }

    /// Whether clients are told of it.
    pub fn serves(&self) -> bool {
        self.holds_partitions && !self.fenced
    }

    /// What is written of it in a snapshot.
    pub(super) fn records(&self) -> Vec<Record> {
        let node = self.node;
        let registration = Record::Broker {
            node,
            directory: self.directory,
            incarnation: self.incarnation,
            rack: self.rack.clone(),
            kafka: self.kafka.clone(),
            peer: self.peer.clone(),
            broker: self.holds_partitions,
        };
        let (fenced, draining) = (self.fenced, self.draining);
        let state = Record::BrokerState { node, fenced, draining };
        let set = self.configs.iter().map(|(name, value)| {
            let (name, value) = (name.clone(), Some(value.clone()));
            Record::BrokerConfig { node, name, value }
        });
        let epoch = Record::BrokerEpoch { node, epoch: self.epoch };
        [registration, epoch, state].into_iter().chain(set).collect()
    }
}

impl Image {
    /// By node.
    pub fn brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values()
    }

    pub fn broker(&self, node: NodeId) -> Option<&Broker> {
        self.brokers.get(&node)
    }

    /// Whether it is registered and the controller hears it.
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.broker(node).is_some_and(|broker| !broker.fenced)
    }

    pub fn is_active(&self, node: NodeId) -> bool {
        self.broker(node).is_some_and(Broker::is_active)
    }

    /// What a topic gets that does not say: as configured, or as many as there are gateways, 3 at
    /// most.
    pub fn default_replication_factor(&self, configured: Option<i16>) -> u8 {
        let gateways = self.brokers().filter(|broker| broker.holds_partitions).count();
        let all = gateways.clamp(1, REPLICATION_FACTOR_DEFAULT) as u8;
        configured.and_then(|factor| u8::try_from(factor).ok()).unwrap_or(all)
    }

    /// The voters of the metadata quorum, and the stores that they vote with.
    pub fn voters(&self) -> impl Iterator<Item = (NodeId, [u8; 16])> {
        self.voters.iter().map(|(node, directory)| (*node, *directory))
    }

    /// `None` of a partition of an older release, which the first controller gives one.
    pub fn state(&self, number: PartitionNumber) -> Option<&PartitionState> {
        self.states.get(&number)
    }

    /// By number.
    pub fn states(&self) -> impl Iterator<Item = (PartitionNumber, &PartitionState)> {
        self.states.iter().map(|(number, state)| (*number, state))
    }

    /// Who leads the partition and can be reached.
    pub fn leader(&self, number: PartitionNumber) -> Option<NodeId> {
        self.state(number)?.leader.filter(|leader| self.is_alive(*leader))
    }

    /// Partitions that the gateway is a replica of.
    pub fn replicas_on(&self, node: NodeId) -> impl Iterator<Item = PartitionNumber> {
        self.replicas.get(&node).into_iter().flatten().copied()
    }

    /// Partitions that the gateway leads, fenced or not.
    pub fn led_by(&self, node: NodeId) -> impl Iterator<Item = PartitionNumber> {
        let leads = move |number: &PartitionNumber| {
            self.state(*number).is_some_and(|state| state.leader == Some(node))
        };
        self.replicas_on(node).filter(leads)
    }

    pub(super) fn set_state(&mut self, number: PartitionNumber, state: PartitionState) {
        self.remove_state(number);
        for node in &state.replicas {
            self.replicas.entry(*node).or_default().insert(number);
        }
        self.states.insert(number, state);
    }

    pub(super) fn remove_state(&mut self, number: PartitionNumber) {
        for node in self.states.remove(&number).iter().flat_map(|state| &state.replicas) {
            let of = self.replicas.get_mut(node);
            let emptied =
                of.is_some_and(|of: &mut BTreeSet<_>| of.remove(&number) && of.is_empty());
            if emptied {
                self.replicas.remove(node);
            }
        }
    }
}
