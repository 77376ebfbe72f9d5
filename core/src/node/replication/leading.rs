//! What a leader does for its followers: serves their fetches, and wishes for in-sync sets.

use super::super::Node;
use super::super::site::{After, Ask};
use super::log_state;
use crate::error::ErrorCode;
use crate::log::{Answer, Batches, FetchError, FetchSpec, Ticket};
use crate::metadata::controller::IsrChange;
use crate::peer::Message;
use crate::replica::{Content, Fetch, IsrMember, Verdict};
use crate::types::{BrokerEpoch, LeaderEpoch, NodeId, Offset, PartitionNumber, Time};
use alloc::vec::Vec;
use bytes::Bytes;

impl Node {
    /// A batch was appended to a partition that this gateway leads.
    pub(in crate::node) fn note_appended(
        &mut self,
        now: Time,
        number: PartitionNumber,
        base_offset: Offset,
        batch: &Bytes,
    ) {
        let Some(state) = log_state(&self.log, number) else { return };
        let Some(leading) = self.replicas.leading(number) else { return };
        if leading.leader.followers().next().is_none() {
            return;
        }
        leading.leader.advance(now, state);
        let epoch = leading.leader.epoch();
        self.replicas.fresh.push(number, base_offset, state.end, epoch, batch);
        self.serve_parked(now, number);
    }

    /// A follower asks for what comes behind its log.
    pub(in crate::node) fn on_replica_fetch(
        &mut self,
        now: Time,
        from: NodeId,
        number: PartitionNumber,
        fetch: Fetch,
    ) {
        let log = &self.log;
        let epoch_end = |epoch: LeaderEpoch| log.epoch_end(number, epoch);
        let Some(leading) = self.replicas.leading(number) else {
            let content = Content::refused(ErrorCode::NOT_LEADER_OR_FOLLOWER);
            return self.answer_follower(from, number, &fetch, content, Batches::new());
        };
        match leading.leader.fetched(now, from, &fetch, epoch_end) {
            Verdict::Ignore => {}
            Verdict::Say(content) => {
                leading.parked.remove(&from);
                self.answer_follower(from, number, &fetch, content, Batches::new());
            }
            Verdict::Serve { .. } => {
                leading.parked.insert(from, fetch);
            }
        }
        self.moved(now, number);
    }

    /// Answers the fetches for which there is news.
    pub(super) fn serve_parked(&mut self, now: Time, number: PartitionNumber) {
        let Some(log) = log_state(&self.log, number) else { return };
        let Some(leading) = self.replicas.leading(number) else { return };
        let parked: Vec<(NodeId, Fetch)> =
            leading.parked.iter().map(|(node, fetch)| (*node, *fetch)).collect();
        let high_watermark = leading.leader.high_watermark();
        let due = leading.leader.deadline(now);
        for (node, fetch) in parked {
            let fresh = || !self.replicas.fresh.from(number, fetch.fetch_offset, 1).is_empty();
            let news = fetch.high_watermark < high_watermark
                || fetch.fetch_offset < log.durable
                || fresh();
            if news && let Some(leading) = self.replicas.leading(number) {
                leading.parked.remove(&node);
                self.serve_fetch((number, node, fetch), fetch.fetch_offset, log.durable);
            }
        }
        self.replicas.schedule.set(number, due);
    }

    /// Answers with what the log has from an offset on.
    fn serve_fetch(
        &mut self,
        (number, node, fetch): (PartitionNumber, NodeId, Fetch),
        mut from: Offset,
        durable: Offset,
    ) {
        // So much that all partitions together do not fill the link's queue.
        let followed = self.image.replicas_on(node).count().max(1);
        let limits = &self.settings.replica_limits;
        let bytes_max = (limits.fetch_all / followed).clamp(limits.fetch_min, limits.fetch_max);
        if from >= durable {
            let batches = self.replicas.fresh.from(number, from, bytes_max);
            return self.serve_batches(number, node, &fetch, batches);
        }
        loop {
            let (partition, end) = (number, durable);
            let spec = FetchSpec { partition, from, end, bytes_max, at_least_one: true };
            match self.log.fetch(spec) {
                Ok(Answer::Now(batches)) => {
                    return self.serve_batches(number, node, &fetch, batches);
                }
                Ok(Answer::Later(ticket)) => {
                    self.replicas.reads.insert(ticket, (number, node, fetch));
                    return;
                }
                // What is quarantined here cannot be sent. Where nobody else has it either, the
                // follower goes on behind it; else it waits until one who has it leads.
                Err(FetchError::Damaged { until })
                    if until > from && !self.replicas.may_come_back(number, until) =>
                {
                    from = until;
                }
                Err(_) => return self.refuse_damaged((number, node, fetch)),
            }
        }
    }

    fn refuse_damaged(&mut self, (number, node, fetch): (PartitionNumber, NodeId, Fetch)) {
        self.replicas.met_damage();
        let content = Content::refused(ErrorCode::KAFKA_STORAGE_ERROR);
        self.answer_follower(node, number, &fetch, content, Batches::new());
    }

    /// A read for a follower has ended; false when it was for somebody else.
    pub(in crate::node) fn on_replica_read(
        &mut self,
        ticket: Ticket,
        result: &Result<Batches, FetchError>,
    ) -> bool {
        let Some((number, node, fetch)) = self.replicas.reads.remove(&ticket) else { return false };
        match result {
            Ok(batches) => self.serve_batches(number, node, &fetch, batches.clone()),
            Err(FetchError::Damaged { until }) if !self.replicas.may_come_back(number, *until) => {
                let durable = log_state(&self.log, number).map_or(*until, |log| log.durable);
                self.serve_fetch((number, node, fetch), *until, durable);
            }
            Err(_) => self.refuse_damaged((number, node, fetch)),
        }
        true
    }

    fn serve_batches(
        &mut self,
        number: PartitionNumber,
        node: NodeId,
        fetch: &Fetch,
        batches: Batches,
    ) {
        let bytes = batches.iter().map(|batch| batch.len() as u64).sum();
        let content = Content::Batches { from: fetch.fetch_offset, bytes };
        self.answer_follower(node, number, fetch, content, batches);
    }

    fn answer_follower(
        &mut self,
        to: NodeId,
        number: PartitionNumber,
        fetch: &Fetch,
        content: Content,
        batches: Batches,
    ) {
        let answer = match self.replicas.led(number) {
            Some(leader) if leader.epoch() == fetch.leader_epoch => {
                leader.answer(fetch.sequence, content)
            }
            // Of an epoch that is over, or not known here yet.
            _ => crate::replica::Answer {
                leader_epoch: fetch.leader_epoch,
                sequence: fetch.sequence,
                log_start: Offset::ZERO,
                high_watermark: Offset::ZERO,
                content: match content {
                    Content::Refused(_) => content,
                    _ => Content::refused(ErrorCode::NOT_LEADER_OR_FOLLOWER),
                },
            },
        };
        let batches = match answer.content {
            Content::Batches { .. } => batches,
            _ => Batches::new(),
        };
        let head = postcard::to_allocvec(&(number, answer));
        let head = head.expect("an answer has no type that postcard lacks");
        self.tell_peer(to, Message::Records(head.into(), batches));
    }

    /// Tells a leader which incarnations of its followers the controller takes for alive.
    pub(in crate::node) fn tell_leader_who_lives(&mut self, now: Time, number: PartitionNumber) {
        let (image, replicas) = (&self.image, &mut self.replicas);
        let Some(leading) = replicas.leading(number) else { return };
        let alive = image.brokers().filter(|broker| broker.is_active());
        leading.leader.registered(now, alive.map(|broker| (broker.node, broker.epoch.0 as i64)));
    }

    /// A gateway has come, or gone: leaders judge their followers anew.
    pub(in crate::node) fn on_brokers_changed(&mut self, now: Time) {
        let led: Vec<PartitionNumber> = self.image.led_by(self.settings.node).collect();
        for number in led {
            self.tell_leader_who_lives(now, number);
            self.moved(now, number);
        }
    }

    /// Asks the controller for the in-sync sets that leaders here wish for.
    pub(super) fn wish(&mut self, now: Time) {
        let wishing = core::mem::take(&mut self.replicas.wishing);
        let mut wishes = Vec::new();
        for number in wishing {
            let Some(leading) = self.replicas.leading(number) else { continue };
            if let Some(wish) = leading.leader.wish(now) {
                wishes.push(IsrChange {
                    number,
                    leader_epoch: wish.leader_epoch.0,
                    partition_epoch: wish.partition_epoch,
                    isr: wish.isr.iter().map(member).collect(),
                });
            }
            let due = leading.leader.deadline(now);
            self.replicas.schedule.set(number, due);
        }
        let Some(own) = self.image.broker(self.settings.node) else { return };
        if !wishes.is_empty() {
            let after = After::Wishes(wishes.iter().map(|wish| wish.number).collect());
            let ask = Ask::AlterPartitions { node: own.node, epoch: own.epoch, wishes };
            self.ask(now, ask, after);
        }
    }

    /// The controller did not grant what these leaders wished for.
    pub(in crate::node) fn on_wish_refused(&mut self, now: Time, number: PartitionNumber) {
        if let Some(leading) = self.replicas.leading(number) {
            leading.leader.refused(now);
            let due = leading.leader.deadline(now);
            self.replicas.schedule.set(number, due);
        }
    }
}

fn member(member: &IsrMember) -> (NodeId, Option<BrokerEpoch>) {
    (member.node, u64::try_from(member.broker_epoch).ok().map(BrokerEpoch))
}
