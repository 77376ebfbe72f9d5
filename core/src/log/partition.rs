//! What the log knows of one partition: its bounds, epochs, producers, and in which slots it has
//! data.
//!
//! The index in memory is one [`Run`] for each slot in which the partition has data; the extents
//! inside a slot come from the slot's footer when they are needed.
//!
//! Why 24 bytes a run, not 16: with the largest timestamp beside it, retention and the search by
//! timestamp find their slot without loading the footers of all older ones.

use super::layout::footer::Spot;
use super::{Lane, Policy};
use crate::batch::Producers;
use crate::types::{LeaderEpoch, Offset};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// A partition's data in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub slot: u32,
    /// Bytes of the record batches.
    pub bytes: u32,
    pub base_offset: Offset,
    pub max_timestamp: i64,
}

#[derive(Clone, Debug)]
pub(crate) struct Partition {
    /// Where its frames go. Follows the policy's lane: see [`super::writer::Writer::lane_of`].
    pub lane: Lane,
    pub policy: Policy,
    pub log_start: Offset,
    /// The log start that is on flash: what lies below may be freed.
    pub log_start_durable: Offset,
    pub log_end: Offset,
    pub durable_end: Offset,
    pub bytes: u64,
    pub max_timestamp: i64,
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    pub producers: Producers,
    pub runs: VecDeque<Run>,
    /// Offsets that are lost to damage, in order: `from` up to and without `until`.
    pub damaged: Vec<(Offset, Offset)>,
}

impl Partition {
    pub(crate) fn new(lane: Lane, start: Offset) -> Partition {
        Partition {
            lane,
            policy: Policy::for_ever(lane),
            log_start: start,
            log_start_durable: start,
            log_end: start,
            durable_end: start,
            bytes: 0,
            max_timestamp: -1,
            epochs: Vec::new(),
            producers: Producers::default(),
            runs: VecDeque::new(),
            damaged: Vec::new(),
        }
    }

    /// Remembers the first offset of a leader epoch.
    pub(crate) fn note_epoch(&mut self, epoch: LeaderEpoch, start: Offset) {
        if self.epochs.last().is_none_or(|&(last, _)| last < epoch) {
            self.epochs.push((epoch, start));
        }
    }

    /// A batch stands in `slot` now. Whether the slot is new to this partition.
    pub(crate) fn add_to_run(&mut self, slot: u32, spot: &Spot) -> bool {
        self.bytes += u64::from(spot.batch_bytes);
        self.max_timestamp = self.max_timestamp.max(spot.max_timestamp);
        if let Some(run) = self.runs.back_mut()
            && run.slot == slot
        {
            run.bytes += spot.batch_bytes;
            run.max_timestamp = run.max_timestamp.max(spot.max_timestamp);
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

    /// Forgets where the batches from `base` on stand: they were moved.
    pub(crate) fn drop_runs_from(&mut self, base: Offset) {
        while let Some(run) = self.runs.back().filter(|run| run.base_offset >= base) {
            self.bytes -= u64::from(run.bytes);
            self.runs.pop_back();
        }
    }

    /// Which run holds `offset`: the last one that begins at or below it, or the first of all.
    pub(crate) fn run_at(&self, offset: Offset) -> Option<usize> {
        if self.runs.is_empty() {
            return None;
        }
        Some(self.runs.partition_point(|run| run.base_offset <= offset).saturating_sub(1))
    }

    /// Where the run with that index ends.
    pub(crate) fn run_end(&self, index: usize) -> Offset {
        self.runs.get(index + 1).map_or(self.log_end, |next| next.base_offset)
    }

    /// Drops the runs below the durable log start and gives the slots they were in.
    pub(crate) fn drop_dead_runs(&mut self) -> Vec<u32> {
        let mut slots = Vec::new();
        while let Some(run) = self.runs.front()
            && self.run_end(0) <= self.log_start_durable
        {
            slots.push(run.slot);
            self.bytes -= u64::from(run.bytes);
            self.runs.pop_front();
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
        let here = self.runs.iter().enumerate().filter(move |(_, run)| run.slot == slot);
        here.map(|(index, run)| {
            let end = self.run_end(index).min(self.durable_end);
            (run.base_offset.max(self.log_start), end)
        })
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

    pub(crate) fn epoch_end(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let next = self.epochs.partition_point(|&(known, _)| known <= epoch);
        let (found, _) = *self.epochs.get(next.checked_sub(1)?)?;
        Some((found, self.epochs.get(next).map_or(self.log_end, |&(_, start)| start)))
    }
}
