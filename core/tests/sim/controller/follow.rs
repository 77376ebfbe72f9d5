//! What gateways do with what they know: lead, follow, commit, and wish for in-sync sets.

use super::Bug;
use super::checks::NoUncleanElection;
use super::site::{Leading, Site};
use crate::checks::Verdict;
use std::collections::BTreeSet;
use weir_core::metadata::PartitionState;
use weir_core::metadata::controller::IsrChange;
use weir_core::types::{NodeId, PartitionNumber};

impl Site {
    /// The gateway reads the metadata to their end, and leads what it is to lead.
    pub fn look(&mut self, node: NodeId) -> Verdict {
        let gateway = self.gateways.get_mut(&node).unwrap();
        if !gateway.running || gateway.isolated {
            return Ok(());
        }
        (gateway.view, gateway.applied) = (self.image.clone(), self.index);
        let registered = gateway.epoch.is_some() && self.image.is_alive(node);
        let led = self.image.led_by(node).filter(|_| registered);
        let led: Vec<PartitionNumber> = led.collect();
        gateway.leading.retain(|number, _| led.contains(number));
        for number in led {
            let state = self.image.state(number).unwrap().clone();
            self.lead(node, number, &state)?;
            self.raise(node, number)?;
        }
        Ok(())
    }

    fn lead(&mut self, node: NodeId, number: PartitionNumber, state: &PartitionState) -> Verdict {
        let gateway = self.gateways.get_mut(&node).unwrap();
        let log = gateway.logs.entry(number).or_default();
        let known = gateway.leading.get_mut(&number);
        if let Some(leading) = known.filter(|leading| leading.epoch == state.leader_epoch) {
            if leading.partition_epoch != state.partition_epoch {
                leading.partition_epoch = state.partition_epoch;
                leading.wished.clear();
            }
            return Ok(());
        }
        let leading = Leading {
            epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
            start: log.len(),
            ..Leading::default()
        };
        gateway.leading.insert(number, leading);
        let committed = self.committed.entry(number).or_default();
        if self.unclean.remove(&number) {
            let common = log.iter().zip(&*committed).take_while(|(a, b)| a == b).count();
            committed.truncate(common);
        }
        NoUncleanElection::check(number, node, committed, log)
    }

    pub fn produce(&mut self, node: NodeId, number: PartitionNumber) -> Verdict {
        let gateway = self.gateways.get_mut(&node).unwrap();
        if !gateway.running || !gateway.leading.contains_key(&number) {
            return Ok(());
        }
        self.next_record += 1;
        gateway.logs.entry(number).or_default().push(self.next_record);
        self.raise(node, number)
    }

    /// A follower gets some records, and says how far it is; both have to mean the same epoch.
    pub fn fetch(&mut self, number: PartitionNumber, from: NodeId, count: usize) -> Verdict {
        let follower = &self.gateways[&from];
        let (Some(state), Some(epoch)) = (follower.view.state(number), follower.epoch) else {
            return Ok(());
        };
        let Some(leader) = state.leader.filter(|leader| *leader != from) else { return Ok(()) };
        let source = &self.gateways[&leader];
        let means = source.leading.get(&number).map(|leading| leading.epoch);
        let is_replica = source.view.state(number).is_some_and(|state| state.is_replica(from));
        let agreed = means == Some(state.leader_epoch) && state.is_replica(from) && is_replica;
        if !follower.running || !source.running || !agreed {
            return Ok(());
        }
        let log = source.logs[&number].clone();
        let own = self.gateways.get_mut(&from).unwrap().logs.entry(number).or_default();
        let common = own.iter().zip(&log).take_while(|(a, b)| a == b).count();
        own.truncate(common);
        own.extend(log.iter().skip(common).take(count));
        let end = own.len();
        let source = self.gateways.get_mut(&leader).unwrap();
        let leading = source.leading.get_mut(&number).unwrap();
        leading.acked.insert(from, (end, epoch));
        self.raise(leader, number)
    }

    /// Commits what the maximal in-sync set has.
    fn raise(&mut self, node: NodeId, number: PartitionNumber) -> Verdict {
        let gateway = self.gateways.get_mut(&node).unwrap();
        let (Some(state), Some(leading)) =
            (gateway.view.state(number), gateway.leading.get_mut(&number))
        else {
            return Ok(());
        };
        let of = gateway.view.partition_of(number).unwrap();
        let policy = gateway.view.topic_by_id(of.topic).unwrap().policy;
        let required = state.in_sync_required(policy.min_insync_replicas);
        if state.isr.len() < required && self.bug != Bug::CommitBelowMinimum {
            return Ok(());
        }
        let log = &gateway.logs[&number];
        let others = state.isr.iter().chain(&leading.wished).filter(|other| **other != node);
        let acked = others.map(|other| leading.acked.get(other).map_or(0, |(end, _)| *end));
        let end = acked.fold(log.len(), usize::min);
        let forgiven = self.forgiven.get(&number).copied().unwrap_or(0);
        if end <= leading.high_watermark || leading.epoch < forgiven {
            return Ok(());
        }
        leading.high_watermark = end;
        let committed = self.committed.entry(number).or_default();
        let both = end.min(committed.len());
        NoUncleanElection::check(number, node, &committed[..both], log)?;
        if end > committed.len() {
            *committed = log[..end].to_vec();
        }
        Ok(())
    }

    /// The leader asks for another in-sync set: who has caught up comes in, who is slow goes.
    pub fn wish(&mut self, node: NodeId, number: PartitionNumber) -> Verdict {
        let slow = !self.quiet && self.rng.percent(20);
        let gateway = self.gateways.get_mut(&node).unwrap();
        let (Some(state), Some(leading), Some(epoch)) =
            (gateway.view.state(number), gateway.leading.get_mut(&number), gateway.epoch)
        else {
            return Ok(());
        };
        let caught_up = leading.high_watermark.max(leading.start);
        let acked = |other: &NodeId| leading.acked.get(other).copied();
        let fits = |other: &NodeId| {
            state.isr.contains(other) || acked(other).is_some_and(|(end, _)| end >= caught_up)
        };
        let mut isr: Vec<NodeId> = state.replicas.iter().copied().filter(fits).collect();
        if slow && let Some(other) = isr.iter().position(|other| *other != node) {
            isr.remove(other);
        }
        let same = isr.iter().collect::<BTreeSet<_>>() == state.isr.iter().collect();
        if same || !gateway.running {
            return Ok(());
        }
        let with_epoch = |other: &NodeId| (*other, acked(other).map(|(_, epoch)| epoch));
        let with_epochs = isr.iter().map(with_epoch).collect();
        leading.wished.extend(&isr);
        let wish = IsrChange {
            number,
            leader_epoch: leading.epoch,
            partition_epoch: leading.partition_epoch,
            isr: with_epochs,
        };
        let lost = gateway.isolated || self.bug == Bug::LoseWishes;
        if lost || (!self.quiet && self.rng.percent(10)) {
            return Ok(());
        }
        let known = self.known();
        let decision = self.controller.alter_partitions(self.now, &known, (node, epoch), &[wish]);
        self.wished = isr;
        self.commit(decision.records).map(drop)
    }
}
