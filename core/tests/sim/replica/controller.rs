//! A small honest controller: it lives outside the gateways, never fails, and decides as
//! `metadata` does: epochs, the in-sync set, eligible leader replicas, elections.

use super::plan::{Bug, Plan};
use super::site::Report;
use std::collections::BTreeMap;
use weir_core::metadata::PartitionState;
use weir_core::replica::IsrWish;
use weir_core::types::{NodeId, Time};

/// What the controller tells everyone, newer ones with higher versions.
#[derive(Clone, Debug)]
pub struct Metadata {
    pub version: u64,
    pub state: PartitionState,
    /// Live gateways and their incarnations.
    pub brokers: Vec<(NodeId, i64)>,
}

pub struct Controller {
    pub state: PartitionState,
    version: u64,
    brokers: BTreeMap<NodeId, Broker>,
    min_insync: usize,
    liars: usize,
    session_ms: u64,
    bug: Bug,
}

/// One registered gateway.
struct Broker {
    broker_epoch: i64,
    /// Which start of the gateway has registered.
    boot: u64,
    heard: Time,
    fenced: bool,
    /// It has been in sync in this incarnation, so its log is known to have everything committed.
    proven: bool,
    report: Option<Report>,
}

impl Controller {
    pub fn new(plan: &Plan) -> Controller {
        let replicas: Vec<NodeId> = (1..=plan.replicas).map(NodeId).collect();
        let state = PartitionState { isr: replicas.clone(), replicas, ..PartitionState::default() };
        Controller {
            state,
            version: 0,
            brokers: BTreeMap::new(),
            min_insync: plan.min_insync.min(plan.replicas as usize),
            liars: plan.liars as usize,
            session_ms: plan.session_ms,
            bug: plan.bug,
        }
    }

    pub fn metadata(&self) -> Metadata {
        let live = self.brokers.iter().filter(|(_, broker)| !broker.fenced);
        Metadata {
            version: self.version,
            state: self.state.clone(),
            brokers: live.map(|(node, broker)| (*node, broker.broker_epoch)).collect(),
        }
    }

    /// Gives a start of a gateway its broker epoch. Whatever an earlier start was, it is no more.
    pub fn register(&mut self, now: Time, node: NodeId, boot: u64) -> Option<i64> {
        let known = self.brokers.get(&node);
        if let Some(broker) = known.filter(|broker| broker.boot >= boot) {
            return (broker.boot == boot).then_some(broker.broker_epoch);
        }
        let soon = known.is_some_and(|broker| !broker.fenced);
        if soon && self.bug == Bug::LeadOnAfterCut {
            let broker = self.brokers.get_mut(&node)?;
            (broker.boot, broker.heard) = (boot, now);
            return Some(broker.broker_epoch);
        }
        self.fence(node);
        self.version += 1;
        let broker_epoch = self.version as i64;
        // Before the first leader all logs are empty, so nobody has anything to prove.
        let fresh = self.state.leader_epoch == 0;
        let broker =
            Broker { broker_epoch, boot, heard: now, fenced: true, proven: fresh, report: None };
        self.brokers.insert(node, broker);
        Some(broker_epoch)
    }

    pub fn heartbeat(&mut self, now: Time, node: NodeId, broker_epoch: i64, report: Report) {
        let Some(broker) = self.brokers.get_mut(&node) else { return };
        if broker.broker_epoch != broker_epoch {
            return;
        }
        broker.heard = now;
        broker.report = broker.report.max(Some(report));
        if broker.fenced {
            broker.fenced = false;
            self.version += 1;
        }
        self.elect();
    }

    /// Fences whoever is silent.
    pub fn tick(&mut self, now: Time) {
        let session_ms = self.session_ms;
        let silent = self
            .brokers
            .iter()
            .filter(|(_, broker)| !broker.fenced && now > broker.heard.plus_ms(session_ms));
        for node in silent.map(|(node, _)| *node).collect::<Vec<_>>() {
            self.fence(node);
        }
        self.elect();
    }

    /// Gives the leadership to another in-sync replica, as a preferred election does.
    pub fn move_leader(&mut self, node: NodeId) {
        let live = self.brokers.get(&node).is_some_and(|broker| !broker.fenced && broker.proven);
        if live && self.state.is_in_sync(node) && self.state.leader != Some(node) {
            self.lead(node);
        }
    }

    /// Kafka's AlterPartition, by its rules. `None`: refused.
    pub fn alter(&mut self, from: NodeId, wish: &IsrWish) -> Option<()> {
        let state = &mut self.state;
        let epochs = (wish.leader_epoch.0, wish.partition_epoch);
        if state.leader != Some(from) || epochs != (state.leader_epoch, state.partition_epoch) {
            return None;
        }
        for member in &wish.isr {
            let broker = self.brokers.get(&member.node)?;
            let other = member.broker_epoch >= 0 && member.broker_epoch != broker.broker_epoch;
            if broker.fenced || other || !state.is_replica(member.node) {
                return None;
            }
        }
        let isr = wish.isr.iter().map(|member| member.node).collect();
        self.set_isr(isr);
        for node in &self.state.isr {
            if let Some(broker) = self.brokers.get_mut(node) {
                broker.proven = true;
            }
        }
        Some(())
    }

    fn fence(&mut self, node: NodeId) {
        let Some(broker) = self.brokers.get_mut(&node) else { return };
        if !broker.fenced {
            broker.fenced = true;
            self.version += 1;
        }
        if self.state.leader == Some(node) {
            self.state.leader = None;
            self.state.leader_epoch += 1;
        }
        if self.state.is_in_sync(node) {
            let left = self.state.isr.iter().copied().filter(|member| *member != node);
            self.set_isr(left.collect());
        }
    }

    /// Who leaves a set that is too small to commit stays eligible (KIP-966).
    fn set_isr(&mut self, isr: Vec<NodeId>) {
        let state = &mut self.state;
        let before = state.elr.iter().chain(&state.isr).copied().collect::<Vec<_>>();
        state.elr = match isr.len() < self.min_insync {
            true => before.into_iter().filter(|node| !isr.contains(node)).collect(),
            false => Vec::new(),
        };
        state.isr = isr;
        state.partition_epoch += 1;
        self.version += 1;
    }

    fn elect(&mut self) {
        if self.state.leader.is_some() {
            return;
        }
        let eligible: Vec<NodeId> = self.state.isr.iter().chain(&self.state.elr).copied().collect();
        let live = |node: &NodeId| self.brokers.get(node).filter(|broker| !broker.fenced);
        let proven = |node: &NodeId| live(node).is_some_and(|broker| broker.proven);
        let trusted = self.liars == 0 || self.bug == Bug::TrustAfterCut;
        let sure = |node: &NodeId| if trusted { live(node).is_some() } else { proven(node) };
        if let Some(node) = eligible.iter().copied().find(sure) {
            return self.lead(node);
        }
        // Nobody is sure to have what it confirmed: the longest log of so many that one of them
        // does not lie, all of them looked at after the last leader was gone.
        let epoch = self.state.leader_epoch;
        let reports = eligible.iter().filter_map(|node| {
            let report = live(node)?.report.filter(|report| report.leader_epoch == epoch)?;
            Some((report.last_epoch, report.end, *node))
        });
        let reports: Vec<_> = reports.collect();
        let enough = reports.len() > self.liars || reports.len() == eligible.len();
        if let Some((_, _, node)) = reports.iter().max().filter(|_| enough) {
            self.lead(*node);
        }
    }

    fn lead(&mut self, node: NodeId) {
        self.state.leader = Some(node);
        self.state.leader_epoch += 1;
        match self.state.is_in_sync(node) {
            true => self.set_isr(self.state.isr.clone()),
            false => {
                let mut isr = self.state.isr.clone();
                isr.push(node);
                self.set_isr(isr);
            }
        }
        if let Some(broker) = self.brokers.get_mut(&node) {
            broker.proven = true;
        }
    }
}
