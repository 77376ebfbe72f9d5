//! What the log knows of one partition: its bounds, epochs, producers, and in which slots it has
//! data.
//!
//! The index in memory is one [`Run`] of 16 bytes for each stretch of offsets that stands in one
//! slot; the extents inside a slot come from the slot's footer when they are needed. Runs are in
//! the order of offsets, and each reaches to where the next begins: what has no records any more (a
//! hole) is in a slot as well, as a frame that says so. Only what is lost to damage is in none.
//! With the largest timestamp in a run, retention and the search by timestamp find their slot
//! without loading the footers of all older ones.
//!
//! Bytes. How much each part of a run takes is not in memory, so where a run is divided it is not
//! known. `retention.bytes` must never let go too early: so from any run to the end, never more
//! bytes are counted than there are. When something is moved from the middle of a run, all that is
//! left counts before it; where something is truncated, what may be gone does not count. It is
//! right again when the rest was moved as well. Only where keys were compacted is a share by
//! offsets taken, which may be too much.

use super::layout::footer::Spot;
use super::runs::{Run, Runs};
use super::{Lane, Policy};
use crate::batch::{Header, Producers};
use crate::types::{LeaderEpoch, Offset, PartitionNumber};
use alloc::vec::Vec;

#[derive(Clone, Debug)]
pub(crate) struct Partition {
    /// Where its frames go. Follows the policy's lane: see [`super::writer::Writer::lane_of`].
    pub lane: Lane,
    pub policy: Policy,
    pub log_start: Offset,
    /// The log start that is on flash: what lies below may be freed.
    pub log_start_durable: Offset,
    pub log_end: Offset,
    /// Where its runs end: below `log_end` while batches wait for their commit.
    pub written_end: Offset,
    pub durable_end: Offset,
    /// What lies at or above may be truncated.
    pub high_watermark: Offset,
    /// Up to here it was compacted.
    pub cleaned: Offset,
    /// Since when there is something beyond, in milliseconds since 1970.
    pub dirty_since: Option<i64>,
    /// Where it ended when there was nothing to compact: it is not looked at again before there is
    /// more.
    pub fruitless_end: Option<Offset>,
    pub bytes: u64,
    pub max_timestamp: i64,
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    pub producers: Producers,
    pub runs: Runs,
    /// Offsets that are lost to damage, in order: `from` up to and without `until`.
    pub damaged: Vec<(Offset, Offset)>,
    /// Where a reader met damage that is not in that list: a scrub may find it healthy.
    pub suspect: Option<Offset>,
}

impl Partition {
    pub(crate) fn new(lane: Lane, start: Offset) -> Partition {
        Partition {
            lane,
            policy: Policy::for_ever(lane),
            log_start: start,
            log_start_durable: start,
            log_end: start,
            written_end: start,
            durable_end: start,
            high_watermark: Offset(i64::MAX),
            cleaned: Offset::ZERO,
            dirty_since: None,
            fruitless_end: None,
            bytes: 0,
            max_timestamp: -1,
            epochs: Vec::new(),
            producers: Producers::default(),
            runs: Runs::default(),
            damaged: Vec::new(),
            suspect: None,
        }
    }

    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged_ranges() > 0
    }

    /// Those that are known, and where somebody could not read.
    pub(crate) fn damaged_ranges(&self) -> u32 {
        let suspect = self.suspect.is_some_and(|at| at >= self.log_start);
        self.damaged.len() as u32 + u32::from(suspect)
    }

    /// Below is what stays, whatever happens to other replicas.
    pub(crate) fn final_end(&self) -> Offset {
        self.durable_end.min(self.high_watermark)
    }

    /// Remembers the first offset of a leader epoch.
    pub(crate) fn note_epoch(&mut self, epoch: LeaderEpoch, start: Offset) {
        if self.epochs.last().is_none_or(|&(last, _)| last < epoch) {
            self.epochs.push((epoch, start));
        }
    }

    /// Remembers where a leader epoch began, in whatever order that is learned.
    pub(crate) fn note_epoch_anywhere(&mut self, epoch: LeaderEpoch, start: Offset) {
        match self.epochs.binary_search_by_key(&epoch, |&(known, _)| known) {
            Ok(found) => self.epochs[found].1 = self.epochs[found].1.min(start),
            Err(place) => self.epochs.insert(place, (epoch, start)),
        }
    }

    /// These offsets are lost.
    pub(crate) fn lose(&mut self, number: PartitionNumber, from: Offset, until: Offset) {
        let (PartitionNumber(number), last) = (number, until.plus(-1));
        log::error!("partition {number}: offsets {from} to {last} are lost to damage");
        self.damaged.push((from, until));
    }

    /// A batch is there behind the last one, where a damaged header or a log start that is newer
    /// said that the partition goes on: that holds as far as the batch.
    pub(crate) fn doubt_end(&mut self, base: Offset, end: Offset) {
        let lost = self.damaged.last().filter(|&&(_, until)| until == self.log_end);
        let last = self.runs.len().checked_sub(1);
        let there = last.map_or(Offset(i64::MIN), |last| self.run_data_end(last));
        let within = lost.map_or(end > self.log_end, |&(from, _)| from <= base);
        if within && there <= base && base < self.log_end {
            self.mend(base, self.log_end);
            self.log_end = base;
        }
    }

    /// A batch at the end of the partition stands in `slot` now. Whether that makes a new run.
    pub(crate) fn add_to_run(&mut self, slot: u32, spot: &Spot) -> bool {
        self.bytes += u64::from(spot.batch_bytes);
        self.max_timestamp = self.max_timestamp.max(spot.max_timestamp);
        self.written_end = spot.end_offset;
        if let Some(run) = self.runs.back().filter(|run| run.slot == slot) {
            let bytes = run.bytes + spot.batch_bytes;
            let max_timestamp = run.max_timestamp.max(spot.max_timestamp);
            self.runs.set(self.runs.len() - 1, Run { bytes, max_timestamp, ..run });
            return false;
        }
        self.runs.push_back(Run {
            slot,
            bytes: spot.batch_bytes,
            base_offset: spot.base_offset,
            max_timestamp: spot.max_timestamp,
        });
        true
    }

    /// What stands in `slot` at these offsets takes the place of what was there before. Gives the
    /// slots that lost something or got it, and how many runs more or less each has. Of a batch
    /// that was only `moved`, the bytes are those that were there; see above for what is left.
    pub(crate) fn replace_runs(&mut self, slot: u32, spot: &Spot, moved: bool) -> Vec<(u32, i32)> {
        let mut changes = Vec::new();
        let (base, end) = (spot.base_offset, spot.end_offset.min(self.log_end));
        if end <= self.log_start_durable || base >= end {
            return changes;
        }
        self.written_end = self.written_end.max(end);
        let first = self.runs.below(base);
        let last = self.runs.below(end);
        // The run before may reach into it, and the last of the runs concerned go on behind.
        let there = |index: usize| (self.runs.at(index), self.run_data_end(index));
        let before = first.checked_sub(1).map(there).filter(|&(_, old_end)| old_end > base);
        let rest = last.checked_sub(1).map(there).filter(|&(_, old_end)| old_end > end);
        self.mend(base, end);
        let concerned = (first..last).map(|index| self.runs.at(index));
        let concerned: Vec<Run> = before.map(|(run, _)| run).into_iter().chain(concerned).collect();
        let bytes: u64 = concerned.iter().map(|run| u64::from(run.bytes)).sum();
        let left = |run: &Run| run.bytes.saturating_sub(spot.batch_bytes);
        let kept = before.map(|(run, end)| {
            let share = run.share(run.base_offset, base, end);
            Run { bytes: if moved { left(&run) } else { share }, ..run }
        });
        let same = |run: &Run| before.is_some_and(|(before, _)| before == *run);
        let rest = rest.map(|(run, old_end)| {
            let bytes = match moved {
                false => run.share(end, old_end, old_end),
                true if same(&run) => 0,
                true => left(&run),
            };
            Run { base_offset: end, bytes, ..run }
        });
        self.bytes -= bytes;
        if let Some(kept) = kept {
            self.bytes += u64::from(kept.bytes);
            changes.push((kept.slot, 0));
            self.runs.set(first - 1, kept);
        }
        changes.extend((first..last).map(|index| (self.runs.at(index).slot, -1)));
        self.runs.remove(first..last.max(first));
        self.max_timestamp = self.max_timestamp.max(spot.max_timestamp);
        let new = Run {
            slot,
            bytes: spot.batch_bytes,
            base_offset: base,
            max_timestamp: spot.max_timestamp,
        };
        for (index, run) in [Some(new), rest].into_iter().flatten().enumerate() {
            self.bytes += u64::from(run.bytes);
            changes.push((run.slot, 1));
            self.runs.insert(first + index, run);
        }
        if let Some(from) = concerned.last().filter(|_| moved) {
            let left = [kept, rest].into_iter().flatten().map(|run| u64::from(run.bytes));
            let missing = u64::from(spot.batch_bytes).saturating_sub(bytes - left.sum::<u64>());
            self.settle_bytes(from.slot, first, missing);
        }
        changes.extend(self.join_runs(first + 1));
        changes.extend(self.join_runs(first));
        changes
    }

    /// What was moved from a slot, and is the run with that index now, has so many bytes more than
    /// were counted there: they are counted before it.
    fn settle_bytes(&mut self, slot: u32, moved: usize, mut more: u64) {
        for index in (0..moved).rev() {
            if more == 0 {
                return;
            }
            let run = self.runs.at(index);
            if run.slot == slot {
                let fewer = more.min(run.bytes.into()) as u32;
                self.runs.set(index, Run { bytes: run.bytes - fewer, ..run });
                self.bytes -= u64::from(fewer);
                more -= u64::from(fewer);
            }
        }
    }

    /// Makes one of the run with that index and the one before if they are in one slot.
    fn join_runs(&mut self, index: usize) -> Option<(u32, i32)> {
        let before = index.checked_sub(1)?;
        let (first, run) = (self.runs.at(before), self.runs.get(index)?);
        let adjoins = self.run_data_end(before) == run.base_offset;
        if first.slot != run.slot || !adjoins {
            return None;
        }
        let bytes = first.bytes + run.bytes;
        let max_timestamp = first.max_timestamp.max(run.max_timestamp);
        self.runs.set(before, Run { bytes, max_timestamp, ..first });
        self.runs.remove(index..index + 1);
        Some((run.slot, -1))
    }

    /// Remembers what is not known of a batch that is about to take the place of what is lost: a
    /// start that did not find the lost one has missed it.
    pub(crate) fn learn(&mut self, spot: &Spot, batch: Option<&Header>) {
        let (base, end) = (spot.base_offset, spot.end_offset);
        if end <= self.log_start_durable || !self.is_lost_within(base, end) {
            return;
        }
        if let (Some(epoch), false) = (spot.epoch(), spot.is_hole()) {
            self.note_epoch_anywhere(epoch, base);
        }
        if let Some(batch) = batch {
            self.producers.insert(batch, base);
        }
    }

    fn is_lost_within(&self, base: Offset, end: Offset) -> bool {
        self.damaged.iter().any(|&(from, until)| from < end && base < until)
    }

    /// What was lost at these offsets is here again.
    fn mend(&mut self, base: Offset, end: Offset) {
        self.suspect = self.suspect.filter(|at| *at < base || *at >= end);
        if !self.is_lost_within(base, end) {
            return;
        }
        let mut left = Vec::new();
        for &(from, until) in &self.damaged {
            let parts = [(from, until.min(base)), (from.max(end), until)];
            match from < end && base < until {
                true => left.extend(parts),
                false => left.push((from, until)),
            }
        }
        left.retain(|(from, until)| from < until);
        self.damaged = left;
    }

    /// Where what stands in the slot of the run with that index ends: before what is lost.
    pub(crate) fn run_data_end(&self, index: usize) -> Offset {
        let (base, end) = (self.run_base(index), self.run_end(index));
        let lost = self.damaged.iter().find(|&&(from, until)| from >= base && until == end);
        lost.map_or(end, |&(from, _)| from)
    }

    /// The runs in `slot`, with their indexes.
    fn in_slot(&self, slot: u32) -> impl Iterator<Item = (usize, Run)> {
        self.runs.iter().enumerate().filter(move |(_, run)| run.slot == slot)
    }

    /// The offsets that count in `slot`, run by run.
    pub(crate) fn runs_in(&self, slot: u32) -> impl Iterator<Item = (Offset, Offset)> {
        let bounds = |(index, run): (usize, Run)| {
            (run.base_offset.max(self.log_start_durable), self.run_data_end(index))
        };
        self.in_slot(slot).map(bounds)
    }

    /// Which run holds `offset`: the last one that begins at or below it, or the first of all.
    pub(crate) fn run_at(&self, offset: Offset) -> Option<usize> {
        if self.runs.is_empty() {
            return None;
        }
        Some(self.runs.below(offset.plus(1)).saturating_sub(1))
    }

    fn run_base(&self, index: usize) -> Offset {
        self.runs.at(index).base_offset
    }

    /// Where the run with that index ends.
    pub(crate) fn run_end(&self, index: usize) -> Offset {
        self.runs.get(index + 1).map_or(self.written_end, |next| next.base_offset)
    }

    /// Drops the runs below the durable log start and gives the slots they were in.
    pub(crate) fn drop_dead_runs(&mut self) -> Vec<u32> {
        let mut slots = Vec::new();
        while let Some(run) = self.runs.front()
            && self.run_end(0) <= self.log_start_durable
        {
            slots.push(run.slot);
            self.bytes -= u64::from(run.bytes);
            self.runs.remove(0..1);
        }
        slots
    }

    /// Moves the log start; epochs that lie below keep only their last one.
    pub(crate) fn set_log_start(&mut self, log_start: Offset) {
        self.log_start = log_start;
        let below = self.epochs.partition_point(|&(_, start)| start <= log_start);
        if below > 1 {
            self.epochs.drain(..below - 1);
        }
        if below > 0 {
            self.epochs[0].1 = log_start;
        }
        self.damaged.retain(|&(_, until)| until > log_start);
    }

    /// The offsets that this slot holds for the partition, and that are on flash.
    pub(crate) fn ranges_in(&self, slot: u32) -> impl Iterator<Item = (Offset, Offset)> {
        let bounds = |(index, run): (usize, Run)| {
            let end = self.run_end(index).min(self.durable_end);
            (run.base_offset.max(self.log_start), end)
        };
        self.in_slot(slot).map(bounds)
    }

    /// These offsets are lost from now on.
    pub(crate) fn quarantine(&mut self, from: Offset, until: Offset) {
        let (mut from, mut until) = (from, until);
        self.damaged.retain(|&(begin, end)| {
            let apart = end < from || begin > until;
            if !apart {
                (from, until) = (from.min(begin), until.max(end));
            }
            apart
        });
        let at = self.damaged.partition_point(|&(begin, _)| begin < from);
        self.damaged.insert(at, (from, until));
    }

    /// The end of the damaged range that holds `offset`.
    pub(crate) fn damage_at(&self, offset: Offset) -> Option<Offset> {
        self.damaged
            .iter()
            .find(|&&(from, until)| from <= offset && offset < until)
            .map(|&(_, until)| until)
    }

    /// The leader epoch of what stands at an offset.
    pub(crate) fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let next = self.epochs.partition_point(|&(_, start)| start <= offset);
        self.epochs.get(next.checked_sub(1)?).map(|&(epoch, _)| epoch)
    }

    /// Where the first leader epoch begins that is higher than this one.
    pub(crate) fn newer_epoch(&self, epoch: LeaderEpoch) -> Option<Offset> {
        let next = self.epochs.partition_point(|&(known, _)| known <= epoch);
        self.epochs.get(next).map(|&(_, start)| start)
    }

    pub(crate) fn epoch_end(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let next = self.epochs.partition_point(|&(known, _)| known <= epoch);
        let (found, _) = *self.epochs.get(next.checked_sub(1)?)?;
        Some((found, self.epochs.get(next).map_or(self.log_end, |&(_, start)| start)))
    }
}
