//! Truncations at random: what a partition held from some offset on is gone at once, is not brought
//! back by a start once that is durable, and may be brought back as a whole before.

use crate::checks::{Verdict, Violation};
use crate::history::{BatchId, Placed, Removed};
use crate::log_run::{LogRun, Partition};
use crate::plan::{Bug, Plan};
use crate::runner::{Tally, must_find, seeds};
use std::collections::{BTreeMap, BTreeSet};
use weir_core::limits::PRODUCER_BATCHES_CHECKED;
use weir_core::log::Log;
use weir_core::rng::Rng;
use weir_core::types::{LeaderEpoch, Offset, PartitionNumber};

/// What a truncation took whose frame is not on flash.
#[derive(Clone, Debug)]
pub struct Undone {
    /// Where the partition ends by it.
    end: i64,
    /// It begins there, too.
    restart: bool,
    /// The leader epoch of what is appended behind.
    leader_epoch: i32,
    placed: BTreeMap<i64, Placed>,
    acked: BTreeMap<i64, BatchId>,
    served: BTreeMap<i64, BatchId>,
    removed: BTreeMap<i64, Removed>,
    high_watermark: i64,
}

impl Undone {
    fn from(&self) -> i64 {
        if self.restart { 0 } else { self.end }
    }
}

impl LogRun {
    /// Somebody else leads the partition, and soon maybe another one. Checkpoints are taken beside
    /// it: what waits is then written at once, in as many groups as it takes.
    pub fn truncate_some(&mut self, number: PartitionNumber) -> Verdict {
        for _ in 0..1 + self.world.rng.below(3) {
            self.truncate(number)?;
            match self.world.rng.below(4) {
                0 => {
                    let now = self.world.now;
                    self.log.as_mut().expect("it is open").checkpoint(now);
                }
                1 => self.append_some(number)?,
                _ => {}
            }
        }
        self.pump()
    }

    /// Its leader has other records from some offset on, or begins behind its end.
    fn truncate(&mut self, number: PartitionNumber) -> Verdict {
        let view = self.log.as_ref().and_then(|log| log.partition(number)).expect("it is known");
        let (start, end, durable_before) = (view.log_start.0, view.log_end.0, view.durable_end.0);
        let rng = &mut self.world.rng;
        let partition = self.partitions.get_mut(&number).expect("it is known");
        let bases: Vec<i64> = partition.history.placed.range(start..).map(|(&b, _)| b).collect();
        let restart = rng.percent(15);
        let end = match restart {
            true => rng.below(2 * end as u64 + 10) as i64,
            // Mostly a few batches.
            false => {
                let back = 1 + if rng.percent(80) { rng.below(8) } else { rng.below(1_000) };
                let Some(&base) = bases.iter().rev().take(back as usize).next_back() else {
                    return Ok(());
                };
                base
            }
        };
        log::trace!("truncate {number:?} to {end}, restart {restart}");
        let again = partition.truncate(end, restart, rng);
        self.truncate_replacing(number, if restart { 0 } else { end });
        let (now, log) = (self.world.now, self.log.as_mut().expect("it is open"));
        match restart {
            true => log.restart_at(now, number, Offset(end)),
            false => log.truncate(now, number, Offset(end)),
        }
        let view = log.partition(number).expect("it is known");
        let (found, durable) = (view.log_end.0, view.durable_end.0);
        if found != end
            || durable != end.min(durable_before)
            || (restart && view.log_start.0 != end)
        {
            let what = format!("{number:?} is truncated to {end} and ends at {found}, {durable}");
            return Err(Violation { checker: "TruncatedStaysAway", what });
        }
        for (of, _, until) in self.searches.values_mut() {
            if *of == number {
                *until = end.min(*until);
            }
        }
        for id in again {
            let partition = self.partitions.get_mut(&number).expect("it is known");
            if partition.producer.pending.contains(&id) {
                let sent = partition.history.send_again(id);
                self.append(number, sent)?;
            }
        }
        self.pump()
    }

    /// Truncations have become durable.
    pub fn settle_truncations(&mut self) {
        let Some(log) = self.log.as_ref().filter(|_| self.resolved) else { return };
        for (number, partition) in &mut self.partitions {
            if let Some(view) = log.partition(*number) {
                partition.settle(view.truncations);
            }
        }
    }
}

impl Partition {
    /// Gives the batches that the producer sends again.
    fn truncate(&mut self, end: i64, restart: bool, rng: &mut Rng) -> Vec<BatchId> {
        self.leader_epoch += 1;
        let history = &mut self.history;
        let mut undone = Undone {
            end,
            restart,
            leader_epoch: self.leader_epoch,
            placed: BTreeMap::new(),
            acked: BTreeMap::new(),
            served: BTreeMap::new(),
            removed: BTreeMap::new(),
            high_watermark: history.high_watermark,
        };
        let from = undone.from();
        undone.placed = history.placed.split_off(&from);
        undone.acked = history.acked.split_off(&from);
        undone.served = history.served.split_off(&from);
        undone.removed = history.removed.split_off(&from);
        history.high_watermark = history.high_watermark.min(end);
        if restart {
            history.log_start_max = history.log_start_max.max(end);
        }
        self.in_flight.retain(|(base, ..)| *base < from);
        let again = self.producer_goes_back(&undone, rng);
        self.undone.push(undone);
        again
    }

    /// An idempotent producer sends again what was truncated, if that is no more than clients have
    /// in flight; else it begins anew.
    fn producer_goes_back(&mut self, undone: &Undone, rng: &mut Rng) -> Vec<BatchId> {
        let producer = &mut self.producer;
        let mine = |id: &BatchId| {
            let stamp = self.history.sent[id].stamp;
            stamp.is_some_and(|stamp| {
                (stamp.producer_id, stamp.producer_epoch)
                    == (producer.producer_id, producer.producer_epoch)
            })
        };
        let gone: Vec<BatchId> =
            undone.placed.values().map(|placed| placed.id).filter(mine).collect();
        if gone.is_empty() {
            return gone;
        }
        producer.pending.retain(|id| !gone.contains(id));
        producer.pending.extend(&gone);
        if producer.pending.len() > PRODUCER_BATCHES_CHECKED || rng.percent(20) {
            producer.begin_new_epoch();
            return Vec::new();
        }
        gone
    }

    /// All but the last `left` truncations are on flash.
    fn settle(&mut self, left: usize) {
        let durable = self.undone.len().saturating_sub(left);
        for undone in self.undone.drain(..durable).collect::<Vec<_>>() {
            let still = self.undone.iter().flat_map(|undone| undone.placed.values());
            let still = still.chain(self.history.placed.values()).map(|placed| placed.id);
            let still: BTreeSet<BatchId> = still.collect();
            let gone = undone.placed.values().map(|placed| placed.id);
            self.history.dropped.extend(gone.filter(|id| !still.contains(id)));
        }
    }

    /// A start has shown which truncations were not on flash: what they took is back.
    pub fn resolve_truncations(&mut self, number: PartitionNumber, log: &Log) {
        if self.history.blurred {
            return self.undone.clear();
        }
        let view = log.partition(number).expect("it is known");
        let (start, end) = (view.log_start.0, view.log_end.0);
        let last = log.epoch_end(number, LeaderEpoch(i32::MAX)).map_or(-1, |(epoch, _)| epoch.0);
        while let Some(undone) = self.undone.pop() {
            // Of what lies below the log start, the log may not know the epoch any more.
            let before = self.history.placed.range(..undone.end).next_back();
            let before = before.filter(|(_, placed)| placed.end > start);
            let ends_there = end == undone.end
                && match undone.restart {
                    true => start == end,
                    // What is on flash of what was there before may end at the same offset.
                    false => {
                        let same = |(_, placed): (_, &Placed)| placed.leader_epoch == last;
                        end < undone.high_watermark || before.map_or(start == end, same)
                    }
                };
            if last >= undone.leader_epoch || ends_there {
                self.undone.push(undone);
                break;
            }
            log::trace!("{number:?} was not truncated to {}", undone.end);
            let (history, from) = (&mut self.history, undone.from());
            history.placed.retain(|base, _| *base < from);
            history.acked.retain(|base, _| *base < from);
            history.served.retain(|base, _| *base < from);
            history.removed.retain(|base, _| *base < from);
            history.placed.extend(undone.placed);
            history.acked.extend(undone.acked);
            history.served.extend(undone.served);
            history.removed.extend(undone.removed);
            history.high_watermark = match undone.restart {
                true => undone.high_watermark,
                false => history.high_watermark.max(undone.high_watermark),
            };
        }
        self.settle(0);
    }
}

/// A log whose checkpoints are all damaged, and that keeps everything but what is truncated.
fn by_footers(seed: u64, bug: Bug) -> Result<Tally, Violation> {
    crate::log_tests::random(seed, |plan| {
        *plan = Plan { bug, no_checkpoints: true, truncates: true, ..plan.clone() };
        (plan.retention, plan.resend_at_start) = (false, false);
        plan.faults = Default::default();
        plan.slots = 200;
    })
}

#[test]
fn what_was_truncated_stays_away_when_footers_stand_for_the_log() {
    seeds("what_was_truncated", 60, |seed| by_footers(seed, Bug::None));
}

/// Footers that a start has rebuilt know only what their own slot says of truncations.
#[test]
fn an_old_hole_in_a_rebuilt_footer_hides_nothing() {
    for seed in [114, 226, 304, 317] {
        assert_eq!(by_footers(seed, Bug::None).err(), None, "seed {seed}");
    }
}

#[test]
fn a_stale_tail_resurrected_by_footers_is_found() {
    let checkers = &["OrderKept", "CommittedStays", "AckedIsDurable"];
    must_find("ResurrectByFooters", checkers, |seed| by_footers(seed, Bug::ResurrectByFooters));
}

#[test]
fn records_behind_an_old_hole_are_found() {
    let checkers = &["OrderKept", "CommittedStays", "AckedIsDurable"];
    must_find("HideByHoles", checkers, |seed| by_footers(seed, Bug::HideByHoles));
}
