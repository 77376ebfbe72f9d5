//! Gateways that register, beat, follow, lead, crash and are wiped; their logs are lists of record
//! ids. What a gateway knows of the cluster is as old as its last look at the metadata.

use super::Bug;
use super::checks::*;
use crate::checks::{Verdict, Violation};
use std::collections::{BTreeMap, BTreeSet};
use weir_core::metadata::configs::Configs;
use weir_core::metadata::controller::{Controller, Heartbeat, Registration, Settings};
use weir_core::metadata::{Image, Plan, Record};
use weir_core::rng::Rng;
use weir_core::types::{BrokerEpoch, NodeId, PartitionNumber, Time};

#[derive(Clone, Default)]
pub struct Gateway {
    pub running: bool,
    /// Cut off from the controller, not from the others.
    pub isolated: bool,
    pub stopping: bool,
    pub witness: bool,
    pub rack: Option<String>,
    pub directory: [u8; 16],
    pub incarnation: [u8; 16],
    /// `None` until it is registered.
    pub epoch: Option<BrokerEpoch>,
    pub view: Image,
    pub applied: u64,
    pub logs: BTreeMap<PartitionNumber, Vec<u64>>,
    pub leading: BTreeMap<PartitionNumber, Leading>,
}

/// What a leader knows in one epoch.
#[derive(Clone, Default)]
pub struct Leading {
    pub epoch: i32,
    pub partition_epoch: i32,
    pub start: usize,
    pub high_watermark: usize,
    /// How far each follower is, and which incarnation of it said so.
    pub acked: BTreeMap<NodeId, (usize, BrokerEpoch)>,
    pub wished: BTreeSet<NodeId>,
}

pub struct Site {
    pub rng: Rng,
    pub now: Time,
    pub bug: Bug,
    pub image: Image,
    before: Image,
    pub index: u64,
    pub history: Vec<(u64, Vec<Record>)>,
    pub controller: Controller,
    pub gateways: BTreeMap<NodeId, Gateway>,
    pub committed: BTreeMap<PartitionNumber, Vec<u64>>,
    /// An operator takes the loss of records for a leader, from this leader epoch on.
    pub unclean: BTreeSet<PartitionNumber>,
    pub forgiven: BTreeMap<PartitionNumber, i32>,
    /// The in-sync set that the next decision grants a leader.
    pub wished: Vec<NodeId>,
    pub quiet: bool,
    pub decisions: u64,
    pub next_record: u64,
}

impl Site {
    pub fn new(seed: u64, bug: Bug) -> Site {
        let mut rng = Rng::new(seed);
        let count = 1 + rng.below(5) as i32;
        let racks = rng.percent(50);
        let mut gateways = BTreeMap::new();
        for node in 1..=count {
            let rack = racks.then(|| format!("rack-{}", rng.below(3)));
            let (directory, incarnation) = (rng.uuid(), rng.uuid());
            let witness = count > 2 && node == count && rng.percent(30);
            let gateway = Gateway {
                running: true,
                rack,
                directory,
                incarnation,
                witness,
                ..Default::default()
            };
            gateways.insert(NodeId(node), gateway);
        }
        let image = Image::new(Configs::new());
        let now = Time(1);
        let controller = Controller::new(now, Settings::new(NodeId(1)), &image);
        Site {
            rng,
            now,
            bug,
            before: image.clone(),
            image,
            index: 0,
            history: Vec::new(),
            controller,
            gateways,
            committed: BTreeMap::new(),
            unclean: BTreeSet::new(),
            forgiven: BTreeMap::new(),
            wished: Vec::new(),
            quiet: false,
            decisions: 0,
            next_record: 0,
        }
    }

    pub fn plan<T>(&mut self, wish: impl FnOnce(&mut Plan<'_>, &Image) -> T) -> (Vec<Record>, T) {
        let blind = self.blind();
        let mut plan = Plan::new(blind.as_ref().unwrap_or(&self.image), NodeId(1), &mut self.rng);
        let answer = wish(&mut plan, &self.image);
        (plan.into_records(), answer)
    }

    /// What a planner sees that knows neither racks nor loads.
    fn blind(&self) -> Option<Image> {
        if self.bug != Bug::PlaceBlindly {
            return None;
        }
        let mut blind = Image::new(Configs::new());
        for record in self.image.snapshot() {
            match record {
                Record::Broker { node, directory, incarnation, kafka, peer, broker, .. } => {
                    let rack = None;
                    let anew =
                        Record::Broker { node, directory, incarnation, rack, kafka, peer, broker };
                    blind.apply(&anew, 0);
                }
                Record::Partition { .. } => {}
                other => blind.apply(&other, 0),
            }
        }
        Some(blind)
    }

    /// The image that a decision is made on.
    pub fn known(&self) -> Image {
        match self.bug == Bug::DecideOnOldImage && self.decisions.is_multiple_of(5) {
            true => self.before.clone(),
            false => self.image.clone(),
        }
    }

    /// Makes a decision true, unless the controller loses its office first.
    pub fn commit(&mut self, mut records: Vec<Record>) -> Result<bool, Violation> {
        if records.is_empty() {
            return Ok(true);
        }
        if !self.quiet && self.rng.percent(3) {
            self.wished.clear();
            self.elect_controller();
            return Ok(false);
        }
        self.decisions += 1;
        self.spoil(&mut records);
        self.before = self.image.clone();
        self.index += 1;
        for record in &records {
            self.image.apply(record, self.index);
        }
        self.history.push((self.index, records));
        EpochsOnlyGrow::check(&self.before, &self.image)?;
        InSyncSetNeverEmptyUnlessOffline::check(&self.before, &self.image)?;
        let wished = std::mem::take(&mut self.wished);
        LeaderIsInSyncOrElr::check(&self.before, &self.image, &self.unclean, &wished)?;
        Ok(true)
    }

    fn spoil(&self, records: &mut [Record]) {
        for record in records {
            let Record::Partition { state, .. } = record else { continue };
            match self.bug {
                Bug::GiveBackBlindly if state.leader.is_some() => {
                    state.leader = state.replicas.first().copied();
                    state.leader_epoch += 1;
                }
                Bug::EmptyInSyncSet if state.isr.len() == 1 => state.isr.clear(),
                _ => {}
            }
        }
    }

    pub fn elect_controller(&mut self) {
        let nodes: Vec<NodeId> = self.gateways.keys().copied().collect();
        let node = nodes[self.rng.below(nodes.len() as u64) as usize];
        self.controller = Controller::new(self.now, Settings::new(node), &self.image);
    }

    pub fn tick(&mut self) -> Verdict {
        let known = self.known();
        let records = self.controller.tick(self.now, &known);
        self.commit(records).map(drop)
    }

    /// Registers a gateway or lets it beat.
    pub fn beat(&mut self, node: NodeId) -> Verdict {
        let gateway = &self.gateways[&node];
        if !gateway.running || gateway.isolated {
            return Ok(());
        }
        let Some(epoch) = gateway.epoch else { return self.register(node) };
        let (applied, stopping) = (gateway.applied, gateway.stopping);
        let heard = Heartbeat { node, epoch, applied, stopping };
        let known = self.known();
        let decision = self.controller.heartbeat(self.now, &known, &heard);
        let done = self.commit(decision.records)?;
        let gateway = self.gateways.get_mut(&node).unwrap();
        match decision.answer {
            Ok(standing) if standing.may_stop && done => gateway.running = false,
            Ok(_) => {}
            Err(_) => gateway.epoch = None,
        }
        Ok(())
    }

    fn register(&mut self, node: NodeId) -> Verdict {
        let gateway = &self.gateways[&node];
        let mut directory = gateway.directory;
        if let (Bug::TrustWipedLog, Some(known)) = (self.bug, self.image.broker(node)) {
            directory = known.directory;
        }
        let asked = Registration {
            node,
            cluster_id: None,
            directory,
            incarnation: gateway.incarnation,
            rack: gateway.rack.clone(),
            kafka: (format!("gw{}", node.0), 9092),
            peer: (format!("gw{}", node.0), 9093),
            holds_partitions: !gateway.witness,
            intact: true,
        };
        let known = self.known();
        let decision = self.controller.register(self.now, &known, &asked);
        if !self.commit(decision.records)? {
            return Ok(());
        }
        if decision.answer.is_ok() {
            let epoch = self.image.broker(node).map(|broker| broker.epoch);
            self.gateways.get_mut(&node).unwrap().epoch = epoch;
        }
        Ok(())
    }
}
