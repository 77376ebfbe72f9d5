//! Truncation: a partition ends earlier than it did, or begins anew elsewhere.
//!
//! In memory it takes effect at once: nobody is served what was truncated, also not a reader whose
//! answer is being read. On flash it is a frame of kind truncate, in the lane of the partition:
//! behind everything that was written of it, before everything that is appended later. Until that
//! frame is durable a start may bring back what was truncated, so the slots that held it are kept.
//!
//! What is truncated may be anywhere on its way:
//!
//! - *Pending*: it is dropped. A frame is never cut in two here: the batch that holds the offset
//!   goes as a whole.
//! - *In a commit in flight*: the commit notes it ([`Cuts`]), so that nothing of it counts when the
//!   commit is durable, and nothing of it is written again when it fails.
//! - *Being moved*: copies that wait are dropped. Those in flight come before the frame.
//! - *On flash*: the runs are cut. A batch that is cut in two there is a hole up to its end.

use super::layout::frame::{FrameHeader, Kind};
use super::partition::Partition;
use super::runs::Run;
use super::writer::{Open, Pending};
use super::{Lane, Log, Phase};
use crate::types::{LeaderEpoch, Offset, PartitionNumber, Time};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;

/// What a truncation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Where the partition ends now.
    pub end: Offset,
    /// Nothing of it is left: it begins there, too.
    pub restart: bool,
}

impl Cut {
    pub(crate) fn of(header: &FrameHeader) -> Cut {
        Cut { end: header.base_offset, restart: header.last_offset_delta != 0 }
    }

    /// The first offset of which what stood there is gone.
    pub(crate) fn from(&self) -> Offset {
        if self.restart { Offset(i64::MIN) } else { self.end }
    }

    /// Leaves of ranges what is not truncated.
    pub(crate) fn clip(&self, ranges: &mut Vec<(Offset, Offset)>) {
        ranges.retain(|&(from, _)| from < self.from());
        ranges.iter_mut().for_each(|(_, until)| *until = self.from().min(*until));
    }

    fn frame(&self, number: PartitionNumber) -> Pending {
        let mut frame = Pending::mark(Kind::Truncate, number, self.end);
        frame.header.last_offset_delta = i32::from(self.restart);
        frame
    }
}

/// What was truncated while a commit was on its way.
#[derive(Debug, Default)]
pub(crate) struct Cuts {
    by_partition: BTreeMap<PartitionNumber, Cut>,
}

impl Cuts {
    pub(crate) fn add(&mut self, number: PartitionNumber, cut: Cut) {
        let all = self.by_partition.entry(number).or_insert(cut);
        // Where it has begun anew, nothing is left that could be truncated.
        if cut.from() < all.from() {
            *all = cut;
        }
    }

    pub(crate) fn partitions(&self) -> impl Iterator<Item = PartitionNumber> {
        self.by_partition.keys().copied()
    }

    /// The first offset of a partition that does not count any more.
    pub(crate) fn until(&self, number: PartitionNumber) -> Offset {
        self.by_partition.get(&number).map_or(Offset(i64::MAX), Cut::from)
    }

    pub(crate) fn restarts(&self, number: PartitionNumber) -> bool {
        self.by_partition.get(&number).is_some_and(|cut| cut.restart)
    }

    /// What has to be written again of a frame that failed.
    pub(crate) fn left_of(&self, frame: &Pending) -> Option<Pending> {
        match self.by_partition.get(&frame.header.partition) {
            Some(cut) => frame.clone().left_by(cut),
            None => Some(frame.clone()),
        }
    }
}

impl Pending {
    /// A frame that says that these offsets have no records, as one that is copied.
    pub(crate) fn hole(
        number: PartitionNumber,
        base: Offset,
        end: Offset,
        leader_epoch: LeaderEpoch,
    ) -> Option<Pending> {
        let last_offset_delta = end.0.checked_sub(base.0)?.saturating_sub(1);
        let last_offset_delta = i32::try_from(last_offset_delta).ok().filter(|&last| last >= 0)?;
        let mut hole = Pending::mark(Kind::Replace, number, base);
        hole.header.last_offset_delta = last_offset_delta;
        hole.header.leader_epoch = leader_epoch;
        Some(hole.copied())
    }

    /// The same, one for each leader epoch that the offsets are of: by that a start that finds no
    /// checkpoint knows what was appended there since, after a truncation.
    pub(crate) fn holes(
        number: PartitionNumber,
        partition: &Partition,
        base: Offset,
        end: Offset,
    ) -> Vec<Pending> {
        let starts = partition.epochs.iter().map(|&(_, start)| start);
        let within = starts.filter(|&start| base < start && start < end);
        let (mut from, mut holes) = (base, Vec::new());
        for until in within.chain([end]) {
            let epoch = partition.epoch_at(from).unwrap_or(LeaderEpoch(-1));
            holes.extend(Pending::hole(number, from, until, epoch));
            from = until;
        }
        holes
    }

    /// What is left of a frame that was not written yet, or is written again.
    fn left_by(self, cut: &Cut) -> Option<Pending> {
        let FrameHeader { kind, copied, partition, base_offset, .. } = self.header;
        match kind {
            Kind::Batch => (base_offset < cut.from()).then_some(self),
            Kind::LogStart => (!cut.restart).then_some(self),
            Kind::Replace if self.end_offset() > cut.from() => {
                let epoch = self.header.leader_epoch;
                let mut hole = Pending::hole(partition, base_offset, cut.from(), epoch)?;
                hole.header.copied = copied;
                Some(hole)
            }
            // Where an earlier truncation ended the partition, there is nothing to end any more.
            // It says the same as the later one: a start may find the one without the other.
            Kind::Truncate if base_offset > cut.from() && !Cut::of(&self.header).restart => {
                Some(cut.frame(partition))
            }
            _ => Some(self),
        }
    }
}

/// Truncations whose frames are not durable, in the order in which they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Truncations {
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    partition: PartitionNumber,
    /// Slots that have a run less when it is durable.
    slots: Vec<u32>,
}

impl Truncations {
    pub(crate) fn of(&self, number: PartitionNumber) -> usize {
        self.waiting.iter().filter(|waiting| waiting.partition == number).count()
    }

    fn take(&mut self, number: PartitionNumber) -> Option<Waiting> {
        let first = self.waiting.iter().position(|waiting| waiting.partition == number)?;
        self.waiting.remove(first)
    }
}

impl Log {
    /// Ends a partition at `to`, where a batch begins; it is on flash with the next group, before
    /// what is appended from now on. Below the log start it is moved there; at or beyond the end
    /// there is nothing to do. What is in memory only is not cut in two: the partition then ends
    /// where the batch begins that holds `to`.
    ///
    /// Below the high watermark ([`Log::set_high_watermark`]) something may be gone that was
    /// compacted in favour of what is truncated.
    pub fn truncate(&mut self, now: Time, number: PartitionNumber, to: Offset) {
        let Some(partition) = self.partitions.get(&number) else { return };
        let log_start = partition.log_start;
        let holds = |frame: &&Pending| {
            let FrameHeader { kind, partition, base_offset, .. } = frame.header;
            let inside = base_offset < to && to < frame.end_offset();
            kind == Kind::Batch && partition == number && inside
        };
        let held = self.in_memory().find(holds).map(|frame| frame.header.base_offset);
        let end = held.unwrap_or(to).max(log_start);
        if end < partition.log_end {
            self.cut(now, number, Cut { end, restart: false });
        }
    }

    /// Empties a partition: it begins at `start`, whatever it held. Its durable end is not above
    /// what it was before that is durable: a start may bring the old end back.
    pub fn restart_at(&mut self, now: Time, number: PartitionNumber, start: Offset) {
        self.cut(now, number, Cut { end: start, restart: true });
    }

    /// Says up to where a partition is the same on all replicas: neither compaction nor retention
    /// touches what lies at or above, because it may be truncated. Never said: everything that is
    /// durable stays.
    pub fn set_high_watermark(&mut self, number: PartitionNumber, high_watermark: Offset) {
        if let Some(partition) = self.partitions.get_mut(&number) {
            partition.high_watermark = high_watermark;
        }
    }

    /// Frames that count and are not durable.
    fn in_memory(&self) -> impl Iterator<Item = &Pending> {
        let pending = self.writer.lanes.iter().flat_map(|lane| &lane.pending);
        let in_flight = self.commit.iter().flat_map(|commit| commit.frames_that_count());
        pending.chain(in_flight)
    }

    fn cut(&mut self, now: Time, number: PartitionNumber, cut: Cut) {
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        let known = self.partitions.get(&number).and_then(|one| one.last_slot_below(cut.from()));
        let part = known.and_then(|slot| self.index_of(slot)?.parts.get(&number));
        let gone = part.map(|part| part.bytes_beyond(cut.from()));
        let guess_cut = self.unguarded.guess_cut;
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        let gone = if guess_cut { partition.share_beyond(cut.from()) } else { gone };
        let slots = partition.truncate(&cut, gone);
        partition.durable_end = cut.end.min(partition.durable_end);
        let uncut_moves = self.unguarded.uncut_moves;
        let keep = |frame: &mut Pending| {
            let uncut = uncut_moves && frame.header.kind == Kind::Replace;
            if frame.header.partition != number || uncut {
                return true;
            }
            let left = frame.clone().left_by(&cut);
            left.map(|left| *frame = left).is_some()
        };
        self.writer.retain(keep);
        self.moves.retain(keep);
        if let Some(commit) = &mut self.commit {
            commit.cut(number, cut);
        }
        let mine = |frame: &&Pending| frame.header.partition == number;
        let pending = self.writer.lanes.iter().flat_map(|lane| &lane.pending).filter(mine);
        let newest = pending.map(|frame| frame.max_timestamp).max();
        partition.max_timestamp = partition.max_timestamp.max(newest.unwrap_or(-1));
        let lane = self.truncation_lane(number);
        self.jobs.truncated(number, cut.from());
        self.compactor.truncated(number, cut.from());
        self.gatherer.give_up(number);
        self.recount_rewrite(number);
        if self.unguarded.no_truncate_frames {
            return self.release(slots, 0);
        }
        self.truncations.waiting.push_back(Waiting { partition: number, slots });
        self.writer.push(now, lane, cut.frame(number));
    }

    /// Where the frame goes that says so: before what is appended from now on, and behind what is
    /// waiting. A truncation is never refused, and would open a slot for a few bytes at each start
    /// of a full log, until none is left for the meta lane; so it is in the meta lane then, and
    /// nothing is appended before that is on its way.
    fn truncation_lane(&mut self, number: PartitionNumber) -> Lane {
        let Some(partition) = self.partitions.get_mut(&number) else { return Lane::Meta };
        partition.lane = self.writer.lane_of(number, partition);
        let lane = partition.lane;
        let waits = |frame: &Pending| {
            frame.header.partition == number
                && matches!(frame.header.kind, Kind::Batch | Kind::Truncate)
        };
        let waits = self.writer.lanes[lane as usize].pending.iter().any(waits);
        let has_room = || self.writer.has_room(&self.space, &self.geometry, lane, &Bytes::new());
        if lane != Lane::Meta && !waits && !has_room() && !self.unguarded.truncate_from_reserve {
            partition.lane = Lane::Meta;
        }
        partition.lane
    }

    /// The frame of a truncation is written in that group. What open slots of other lanes hold of
    /// the partition was written before, and what they will hold comes behind: their footers are to
    /// say so. One whose footer has no room for that is sealed, and so written before.
    pub(crate) fn note_truncation(&mut self, number: PartitionNumber, from: Offset, seq: u64) {
        for lane in Lane::ALL {
            let open = self.writer.lanes[lane as usize].open.as_mut();
            let holds = |open: &&mut Open| open.index.parts.contains_key(&number);
            let Some(open) = open.filter(holds) else { continue };
            match open.left(&self.geometry, 1) {
                0 => self.seal_open(lane),
                _ => open.index.truncate(number, from, open.at, seq),
            }
        }
    }

    /// The frame of a truncation is durable in that group.
    pub(crate) fn truncated(&mut self, group_seq: u64, number: PartitionNumber) {
        if let Some(waiting) = self.truncations.take(number) {
            self.release(waiting.slots, group_seq);
            self.cleaner.look_again();
        }
    }

    /// A run less is in each of these slots. They are not free before the next checkpoint: the last
    /// one points there.
    fn release(&mut self, slots: Vec<u32>, group_seq: u64) {
        for slot in slots {
            self.space.note_moved(&[(slot, -1)], group_seq);
        }
    }

    /// Partitions are gone.
    pub(crate) fn forget_truncations(&mut self) {
        let waiting = core::mem::take(&mut self.truncations.waiting);
        for waiting in waiting {
            match self.partitions.contains_key(&waiting.partition) {
                true => self.truncations.waiting.push_back(waiting),
                false => self.release(waiting.slots, 0),
            }
        }
    }
}

impl Partition {
    /// The slot of the last run that begins below an offset.
    pub(crate) fn last_slot_below(&self, from: Offset) -> Option<u32> {
        let last = self.runs.below(from).checked_sub(1)?;
        self.runs.get(last).map(|run| run.slot)
    }

    /// A bug that the simulation must find: what lies beyond takes its share by offsets.
    fn share_beyond(&self, from: Offset) -> Option<u32> {
        let last = self.runs.below(from).checked_sub(1)?;
        let (run, end) = (self.runs.at(last), self.run_end(last));
        Some(run.share(from.min(end), end, end))
    }

    /// Takes back everything from the cut on; gives the slots of the runs that are gone. `gone` are
    /// the bytes at most that are in the slot where it ends then and lie beyond, if that is known.
    pub(crate) fn truncate(&mut self, cut: &Cut, gone: Option<u32>) -> Vec<u32> {
        let from = cut.from();
        let slots = self.cut_runs(from, gone);
        self.epochs.retain(|&(_, start)| start < from);
        self.producers.truncate(from);
        cut.clip(&mut self.damaged);
        self.suspect = self.suspect.filter(|at| *at < from);
        self.cleaned = from.clamp(Offset::ZERO, self.cleaned.max(Offset::ZERO));
        self.fruitless_end = None;
        self.max_timestamp = self.runs.iter().map(|run| run.max_timestamp).max().unwrap_or(-1);
        self.log_end = if cut.restart { cut.end } else { cut.end.max(self.log_start) };
        self.written_end = self.written_end.min(self.log_end);
        if cut.restart {
            (self.log_start, self.log_start_durable) = (cut.end, cut.end);
            self.written_end = cut.end;
        }
        slots
    }

    fn cut_runs(&mut self, from: Offset, gone: Option<u32>) -> Vec<u32> {
        let mut slots = Vec::new();
        let first = self.runs.below(from);
        for run in (first..self.runs.len()).map(|index| self.runs.at(index)) {
            slots.push(run.slot);
            self.bytes -= u64::from(run.bytes);
        }
        let end = self.runs.get(first).map_or(self.written_end, |run| run.base_offset);
        self.runs.remove(first..self.runs.len());
        let cut = self.runs.back().filter(|_| from < end).map(|run| run.slot);
        let hit = |slot: u32| slots.contains(&slot) || cut == Some(slot);
        let len = self.runs.len();
        for index in (0..len).filter(|&index| hit(self.runs.at(index).slot)).collect::<Vec<_>>() {
            let run = self.runs.at(index);
            // What is gone of its slot may be counted here.
            let gone = gone.filter(|_| index + 1 == len).unwrap_or(u32::MAX).min(run.bytes);
            self.runs.set(index, Run { bytes: run.bytes - gone, ..run });
            self.bytes -= u64::from(gone);
        }
        slots
    }
}
