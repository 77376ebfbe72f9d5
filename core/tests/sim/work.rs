//! What the clients of a simulated log do, one action at a time.

use crate::checks::{Bounded, CommittedStays, OrderKept, Verdict};
use crate::history::{BatchId, Placed, Producer, Sent};
use crate::log_run::{LogRun, Partition};
use crate::plan::{Bug, Plan};
use std::collections::VecDeque;
use weir_core::batch::{Header, Sequence};
use weir_core::limits::PRODUCER_BATCHES_CHECKED;
use weir_core::log::{
    Answer, Append, AppendError, Cleanup, FetchSpec, Lane, Policy, Retention, TimestampHit,
};
use weir_core::rng::Rng;
use weir_core::types::{LeaderEpoch, Offset, PartitionNumber};

/// Batches of one partition that may be unacknowledged: clients wait then.
const IN_FLIGHT_MAX: usize = 24;

impl Partition {
    pub fn random(rng: &mut Rng, number: u32, plan: &Plan) -> Partition {
        let some = |wanted: bool, value: i64| if wanted { value } else { -1 };
        let retention = Retention {
            ms: some(plan.retention && rng.percent(30), 500 + rng.below(3_000) as i64),
            bytes: some(plan.retention && rng.percent(30), 30_000 + rng.below(300_000) as i64),
            yields_to_pressure: rng.percent(70),
        };
        let producer = Producer { producer_id: 1_000 + i64::from(number), ..Producer::default() };
        let lanes = [Lane::Short, Lane::Short, Lane::Long, Lane::Compacted, Lane::Meta];
        let lane = lanes[rng.below(5) as usize];
        let policy = Policy { lane, retention, cleanup: Cleanup::DELETE };
        let history = Default::default();
        let (in_flight, undone) = (VecDeque::new(), Vec::new());
        Partition { history, producer, in_flight, policy, leader_epoch: 0, undone }
    }
}

impl LogRun {
    /// One action of somebody.
    pub fn work(&mut self) -> Verdict {
        let numbers = self.numbers();
        let number = numbers[self.world.rng.below(numbers.len() as u64) as usize];
        match self.world.rng.below(100) {
            0..67 => self.append_some(number),
            67..70 if self.plan.replaces => self.replace_some(number),
            67..70 => self.append_some(number),
            70..85 => self.start_reading(number),
            85..90 => self.find(number),
            90..93 => self.trim(number),
            93..96 => {
                let (now, wall) = (self.world.now, self.wall());
                let trusted = self.world.rng.percent(90).then_some(wall);
                self.log.as_mut().expect("it is open").expire(now, trusted);
                self.pump()
            }
            96 if self.plan.truncates => self.truncate_some(number),
            96..98 => {
                let now = self.world.now;
                self.log.as_mut().expect("it is open").checkpoint(now);
                self.pump()
            }
            _ => self.ask_epoch(number),
        }
    }

    pub fn append_some(&mut self, number: PartitionNumber) -> Verdict {
        for _ in 0..1 + self.world.rng.below(6) {
            if self.partitions[&number].in_flight.len() >= IN_FLIGHT_MAX {
                break;
            }
            let id = BatchId(self.next_id);
            self.next_id += 1;
            let jitter = self.world.rng.below(2_000) as i64;
            let timestamp = self.wall().0 - jitter;
            let rng = &mut self.world.rng;
            let partition = self.partitions.get_mut(&number).expect("it is known");
            let idempotent =
                rng.percent(60) && partition.producer.pending.len() < PRODUCER_BATCHES_CHECKED;
            let stamp = idempotent.then(|| partition.producer.stamp());
            let sent = Sent::random(rng, id, timestamp, self.plan.value_bytes_max, stamp);
            if stamp.is_some() {
                partition.producer.next_sequence += sent.records_count as i32;
                partition.producer.pending.push_back(id);
            }
            partition.history.sent.insert(id, sent.clone());
            self.append(number, sent)?;
        }
        self.pump()
    }

    /// After a start: an idempotent producer repeats what was not acknowledged, in order.
    pub fn resend(&mut self, number: PartitionNumber) -> Verdict {
        let partition = self.partitions.get_mut(&number).expect("it is known");
        for id in partition.producer.pending.clone() {
            let partition = self.partitions.get_mut(&number).expect("it is known");
            if !partition.producer.pending.contains(&id) {
                // It was acknowledged, or the producer gave up meanwhile.
                continue;
            }
            let sent = partition.history.send_again(id);
            self.append(number, sent)?;
        }
        self.pump()
    }

    /// What a node does with a produced batch.
    pub fn append(&mut self, number: PartitionNumber, sent: Sent) -> Verdict {
        let header = Header::parse(&sent.bytes).expect("the builder makes whole batches");
        log::trace!("append {:?} of {} to {number:?}", sent.id, sent.records_count);
        let in_flight = self.in_flight_bytes();
        let waiting: usize = self.partitions.values().map(|one| one.in_flight.len()).sum();
        let log = self.log.as_mut().expect("it is open");
        // The node itself writes to the meta lane, and keeps what it has there small.
        let meta = self.partitions[&number].policy.lane == Lane::Meta;
        if meta && log.stats().slots_free <= self.plan.slots / 2 {
            return self.partitions.get_mut(&number).expect("it is known").refuse(&sent);
        }
        let view = log.partition(number).expect("it is known");
        let (base, durable) = (view.log_end, view.durable_end);
        let truncations = view.truncations;
        let partition = self.partitions.get_mut(&number).expect("it is known");
        let sequence = match self.plan.bug {
            Bug::ForgetSequences => Ok(Sequence::Append),
            _ => view.producers.check(&header),
        };
        match sequence {
            Ok(Sequence::Append) => {}
            Ok(Sequence::Duplicate { base_offset }) => {
                return partition.appended_before(number, &sent, base_offset.0, durable.0);
            }
            // What the producer sent before is lost, and its sequence with it.
            Err(_) if self.disk.harm.any() => return partition.refuse(&sent),
            Err(error) => {
                return OrderKept::fails(format!("{:?} is in order and got {error:?}", sent.stamp));
            }
        }
        let append = Append {
            partition: number,
            leader_epoch: LeaderEpoch(partition.leader_epoch),
            base_offset: base,
            header,
            batch: sent.bytes.clone(),
        };
        match log.append(self.world.now, append) {
            Ok(()) => {
                partition.place(base.0, &sent);
                self.appended_bytes += sent.bytes.len() as u64;
                Ok(())
            }
            Err(AppendError::Full) => {
                let free = log.stats().slots_free;
                let slots = 2 * (in_flight / u64::from(self.plan.slot_bytes)) as u32;
                let index = log.stats().index;
                // What waits may take a run each.
                let index_short = (index.runs + waiting as u64) * 2 >= index.runs_max;
                // A truncation that was asked for while slots were short waits in the meta lane,
                // and nothing is appended before it is on flash: also when slots are free again.
                let waits = truncations > 0;
                if free > self.plan.slots / 4 + 10 + slots && !index_short && !waits {
                    return Bounded::fails(format!("full with {free} free slots"));
                }
                self.refused += 1;
                partition.refuse(&sent)
            }
            Err(AppendError::Fenced) if self.fenced => partition.refuse(&sent),
            Err(error) => OrderKept::fails(format!("append to {number:?}: {error:?}")),
        }
    }

    fn in_flight_bytes(&self) -> u64 {
        let batches = self.partitions.values().flat_map(|one| {
            one.in_flight.iter().map(|(_, _, id)| one.history.sent[id].bytes.len() as u64)
        });
        batches.sum()
    }

    fn start_reading(&mut self, number: PartitionNumber) -> Verdict {
        let (start, end) = self.bounds(number);
        if start >= end || self.reads.len() > 20 {
            return Ok(());
        }
        let from = start + self.world.rng.below((end - start) as u64) as i64;
        let spec = FetchSpec {
            partition: number,
            from: Offset(from),
            end: Offset(end),
            bytes_max: 1 << self.world.rng.below(18),
            at_least_one: true,
        };
        match self.log.as_mut().expect("it is open").fetch(spec) {
            Ok(Answer::Now(batches)) => self.served(spec, Ok(batches)),
            Ok(Answer::Later(ticket)) => {
                self.reads.insert(ticket, spec);
                self.pump()
            }
            Err(error) => self.served(spec, Err(error)),
        }
    }

    fn trim(&mut self, number: PartitionNumber) -> Verdict {
        let (start, end) = self.bounds(number);
        if !self.plan.retention || start >= end {
            return Ok(());
        }
        let to = start + self.world.rng.below((end - start) as u64 / 2 + 1) as i64;
        let history = &mut self.partitions.get_mut(&number).expect("it is known").history;
        history.log_start_max = history.log_start_max.max(to);
        let now = self.world.now;
        self.log.as_mut().expect("it is open").trim(now, number, Offset(to));
        self.pump()
    }

    /// Searches by timestamp, and looks whether the answer is the first record that fits.
    fn find(&mut self, number: PartitionNumber) -> Verdict {
        let wanted = self.wall().0 - 2_000 + self.world.rng.below(2_500) as i64;
        let (_, end) = self.bounds(number);
        let found = self.log.as_mut().expect("it is open").find_timestamp(number, wanted);
        log::trace!("find {wanted} in {number:?} of {:?}: {found:?}", self.bounds(number));
        match found {
            Ok(Answer::Now(hit)) => self.found(number, wanted, end, hit),
            Ok(Answer::Later(ticket)) => {
                self.searches.insert(ticket, (number, wanted, end));
                self.pump()
            }
            Err(error) => CommittedStays::fails(format!("{number:?} at {wanted}: {error:?}")),
        }
    }

    pub fn found(
        &mut self,
        number: PartitionNumber,
        wanted: i64,
        end: i64,
        hit: Option<TimestampHit>,
    ) -> Verdict {
        let (start, _) = self.bounds(number);
        let history = &self.partitions[&number].history;
        let expected = history.first_at_or_after(wanted, start);
        let right = match (expected, hit) {
            (None, None) => true,
            (Some((offset, timestamp)), Some(hit)) => {
                hit.offset.0 == offset && hit.timestamp == timestamp
            }
            // It became durable or was trimmed while the search went on.
            (Some((offset, _)), None) => offset >= end,
            (None, Some(hit)) => hit.offset.0 < start,
        };
        let trimmed_meanwhile = hit.is_some_and(|hit| hit.offset.0 < start);
        // What is being taken out may be found or not.
        let mut removed = history.removed.iter();
        let may_go = removed.any(|(base, one)| {
            !one.gone || hit.is_some_and(|hit| (*base..one.end).contains(&hit.offset.0))
        });
        // A search passes over what is damaged.
        if right || may_go || trimmed_meanwhile || self.disk.harm.any() {
            return Ok(());
        }
        OrderKept::fails(format!(
            "{number:?} at {wanted}: {hit:?} and not {expected:?} of {start} to {end}"
        ))
    }

    fn ask_epoch(&mut self, number: PartitionNumber) -> Verdict {
        let newest = self.partitions[&number].leader_epoch;
        let epoch = LeaderEpoch(self.world.rng.below(newest as u64 + 1) as i32);
        if self.disk.harm.any() {
            // The first batch of an epoch may be lost.
            return Ok(());
        }
        let log = self.log.as_ref().expect("it is open");
        let view = log.partition(number).expect("it is known");
        let (start, end) = (view.log_start.0, view.log_end.0);
        let Some((found, until)) = log.epoch_end(number, epoch) else { return Ok(()) };
        let placed = self.partitions[&number].history.placed.range(start..);
        let next = placed.clone().find(|(_, placed)| placed.leader_epoch > found.0);
        let expected = next.map_or(end, |(base, _)| *base);
        let skipped = placed
            .clone()
            .any(|(_, placed)| placed.leader_epoch > found.0 && placed.leader_epoch <= epoch.0);
        if found > epoch || (until.0 != expected && until.0 > start) || skipped {
            let what = format!("{number:?} {epoch:?} ends {until} in {found:?}, not at {expected}");
            return OrderKept::fails(what);
        }
        Ok(())
    }
}

impl Partition {
    fn place(&mut self, base: i64, sent: &Sent) {
        let (end, leader_epoch) = (base + sent.records_count, self.leader_epoch);
        self.history.placed.insert(base, Placed { id: sent.id, end, leader_epoch });
        self.history.dropped.remove(&sent.id);
        self.in_flight.push_back((base, end, sent.id));
    }

    /// The log knows the batch already; it is acknowledged if it is durable.
    fn appended_before(
        &mut self,
        number: PartitionNumber,
        sent: &Sent,
        base: i64,
        durable: i64,
    ) -> Verdict {
        let end = base + sent.records_count;
        if self.history.placed.get(&base).is_none_or(|placed| placed.id != sent.id) {
            return OrderKept::fails(format!(
                "{:?} is no duplicate at {base} of {number:?}",
                sent.id
            ));
        }
        if end <= durable {
            if !self.history.removed.contains_key(&base) {
                self.history.acked.insert(base, sent.id);
            }
            self.producer.pending.retain(|pending| *pending != sent.id);
        } else if !self.in_flight.iter().any(|(_, _, id)| *id == sent.id) {
            self.in_flight.push_back((base, end, sent.id));
        }
        Ok(())
    }

    /// Nothing was appended: the producer gives the batch up and begins a new epoch. What the log
    /// never took is as if it was never sent, and must not turn up: a full log refuses without end.
    fn refuse(&mut self, sent: &Sent) -> Verdict {
        if sent.attempts == 1 {
            self.history.sent.remove(&sent.id);
        }
        if sent.stamp.is_some() {
            self.producer.begin_new_epoch();
        }
        Ok(())
    }
}
