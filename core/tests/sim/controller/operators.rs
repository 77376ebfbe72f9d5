//! What happens to gateways, and what operators wish.

use super::checks::PlacementIsSpread;
use super::site::{Gateway, Site};
use crate::checks::Verdict;
use weir_core::metadata::controller::{Election, Reassignment};
use weir_core::metadata::{ConfigOperation, NewTopic, PartitionState, TopicDefaults};
use weir_core::types::{NodeId, PartitionNumber};

const DEFAULTS: TopicDefaults = TopicDefaults { partitions: 2, replication_factor: None };
const MIN_INSYNC: &str = "min.insync.replicas";

impl Site {
    pub fn fault(&mut self, node: NodeId) {
        let (directory, incarnation) = (self.rng.uuid(), self.rng.uuid());
        let chance = self.rng.below(100);
        let gateway = self.gateways.get_mut(&node).unwrap();
        match chance {
            0..6 => gateway.running = false,
            6..18 if !gateway.running => start(gateway, incarnation),
            18..20 => {
                start(gateway, incarnation);
                gateway.logs.clear();
                gateway.directory = directory;
            }
            20..22 => gateway.isolated = true,
            22..30 => gateway.isolated = false,
            30..32 => gateway.stopping = true,
            32 => self.elect_controller(),
            _ => {}
        }
    }

    /// The gateway is there and heard again.
    pub fn repair(&mut self, node: NodeId) {
        let incarnation = self.rng.uuid();
        let gateway = self.gateways.get_mut(&node).unwrap();
        (gateway.isolated, gateway.stopping) = (false, false);
        if !gateway.running {
            start(gateway, incarnation);
        }
    }

    pub fn operate(&mut self, node: NodeId) -> Verdict {
        match self.rng.below(40) {
            0..3 => self.create(),
            3 => self.delete(),
            4 => self.grow(),
            5..8 => self.reassign(),
            8 => self.cancel(),
            9 => self.elect(Election::Preferred),
            10 => self.elect(Election::Unclean),
            11 => {
                let draining = self.rng.percent(50);
                self.drain(node, draining)
            }
            12 => {
                let decision = self.controller.remove(self.now, &self.image, node);
                self.commit(decision.records).map(drop)
            }
            13 => self.alter(),
            14 => {
                let epoch = self.gateways[&node].epoch.unwrap_or_default();
                let decision = self.controller.producer_ids(&self.image, node, epoch, 1_000);
                self.commit(decision.records).map(drop)
            }
            _ => Ok(()),
        }
    }

    fn create(&mut self) -> Verdict {
        if self.image.topics().count() >= 4 {
            return Ok(());
        }
        let min = 1 + self.rng.below(3);
        let new = NewTopic {
            name: format!("topic-{}", self.rng.below(1_000)),
            partitions: 1 + self.rng.below(3) as i32,
            replication_factor: [-1, 1, 2, 3][self.rng.below(4) as usize],
            configs: vec![(MIN_INSYNC.into(), Some(min.to_string()))],
            ..NewTopic::default()
        };
        let (records, _) = self.plan(|plan, _| plan.create_topic(&new, DEFAULTS).is_ok());
        let before = self.image.clone();
        match !records.is_empty() && self.commit(records)? {
            true => PlacementIsSpread::check(&before, &self.image),
            false => Ok(()),
        }
    }

    fn topic(&mut self) -> Option<weir_core::metadata::Topic> {
        let topics: Vec<_> = self.image.topics().cloned().collect();
        let at = self.rng.below(topics.len().max(1) as u64) as usize;
        topics.get(at).cloned()
    }

    fn partition(&mut self) -> Option<(String, i32, PartitionNumber)> {
        let topic = self.topic()?;
        let index = self.rng.below(topic.partitions.len() as u64) as i32;
        Some((topic.name.clone(), index, topic.partition(index)?))
    }

    fn delete(&mut self) -> Verdict {
        let Some(topic) = self.topic() else { return Ok(()) };
        let (records, _) = self.plan(|plan, _| plan.delete_topic(&topic).is_ok());
        self.commit(records).map(drop)
    }

    fn grow(&mut self) -> Verdict {
        let Some(topic) = self.topic() else { return Ok(()) };
        let total = topic.partitions.len() as i32 + 1;
        let grown = |plan: &mut weir_core::metadata::Plan<'_>, _: &_| {
            plan.create_partitions(&topic, total, None).is_ok()
        };
        let (records, _) = self.plan(grown);
        self.commit(records).map(drop)
    }

    fn alter(&mut self) -> Verdict {
        let Some(topic) = self.topic() else { return Ok(()) };
        let min = (1 + self.rng.below(3)).to_string();
        let change = (MIN_INSYNC.to_string(), ConfigOperation::Set, Some(min));
        let (records, _) = self.plan(|plan, _| plan.alter_configs(&topic, &[change]).is_ok());
        self.commit(records).map(drop)
    }

    fn reassign(&mut self) -> Verdict {
        let Some((topic, index, _)) = self.partition() else { return Ok(()) };
        let mut replicas: Vec<i32> = self.gateways.keys().map(|node| node.0).collect();
        for at in (1..replicas.len()).rev() {
            replicas.swap(at, self.rng.below(at as u64 + 1) as usize);
        }
        replicas.truncate(1 + self.rng.below(3) as usize);
        let wish = Reassignment { topic, index, replicas: Some(replicas) };
        let decision = self.controller.reassign(&self.image, &[wish], true);
        self.commit(decision.records).map(drop)
    }

    fn cancel(&mut self) -> Verdict {
        let on_their_way = self.image.reassignments();
        let wishes: Vec<Reassignment> = on_their_way
            .map(|(topic, index, _)| Reassignment {
                topic: topic.name.clone(),
                index,
                replicas: None,
            })
            .take(1)
            .collect();
        let decision = self.controller.reassign(&self.image, &wishes, true);
        self.commit(decision.records).map(drop)
    }

    pub fn drain(&mut self, node: NodeId, draining: bool) -> Verdict {
        let decision = self.controller.drain(&self.image, node, draining);
        self.commit(decision.records).map(drop)
    }

    fn elect(&mut self, election: Election) -> Verdict {
        let Some((topic, index, number)) = self.partition() else { return Ok(()) };
        self.elect_in(election, &[(topic, index)], &[number])
    }

    /// Partitions that nobody has whole get a leader all the same.
    pub fn elect_unclean_leaders(&mut self) -> Verdict {
        let all: Vec<PartitionNumber> = self.image.states().map(|(number, _)| number).collect();
        let named = all.iter().filter_map(|number| {
            let of = self.image.partition_of(*number)?;
            Some((self.image.topic_by_id(of.topic)?.name.clone(), of.index))
        });
        let named: Vec<(String, i32)> = named.collect();
        self.elect_in(Election::Unclean, &named, &all)
    }

    fn elect_in(
        &mut self,
        election: Election,
        named: &[(String, i32)],
        numbers: &[PartitionNumber],
    ) -> Verdict {
        let decision = self.controller.elect(&self.image, election, Some(named));
        let before: Vec<Option<PartitionState>> =
            numbers.iter().map(|number| self.image.state(*number).cloned()).collect();
        // What becomes of it is known when it is applied; until then it may be.
        let were = self.unclean.clone();
        if election == Election::Unclean {
            self.unclean.extend(numbers);
        }
        self.commit(decision.records)?;
        self.unclean = were;
        for (number, before) in numbers.iter().zip(before) {
            let (Some(state), Some(before)) = (self.image.state(*number), before) else { continue };
            let Some(leader) = state.leader else { continue };
            if !before.isr.contains(&leader) && !before.elr.contains(&leader) {
                self.unclean.insert(*number);
                self.forgiven.insert(*number, state.leader_epoch);
            }
        }
        Ok(())
    }
}

fn start(gateway: &mut Gateway, incarnation: [u8; 16]) {
    gateway.running = true;
    gateway.stopping = false;
    gateway.incarnation = incarnation;
    gateway.epoch = None;
    gateway.view = Default::default();
    gateway.applied = 0;
    gateway.leading.clear();
}
