//! What follows when a commit ended: durable, or failed.
//!
//! A failed write or flush is never repeated: the kernel may have dropped the pages already, and a
//! flush that then succeeds says nothing about them. The slots that the commit wrote to are
//! abandoned, a new `boot_epoch` begins whose `epoch_base` disowns the groups that failed, and the
//! frames are written again from memory into other slots. Offsets stay. A second failure in a row
//! fences the log.

use super::layout::checkpoint::LaneTail;
use super::layout::footer::SlotIndex;
use super::layout::frame::Kind;
use super::layout::group::Place;
use super::runs::Run;
use super::space::{State, ZERO_BYTES};
use super::truncate::{Cut, Cuts};
use super::writer::{Pending, Writer};
use super::{Event, IoResult, Lane, Log, Phase};
use crate::types::{Offset, PartitionNumber, Time};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use bytes::Bytes;

#[derive(Debug)]
struct Group {
    lane: Lane,
    seq: u64,
    place: Place,
    bytes: Bytes,
    frames: Vec<Pending>,
}

/// The commit in flight.
#[derive(Debug)]
pub(crate) struct Commit {
    started: Time,
    pub outstanding: u32,
    failed: bool,
    groups: Vec<Group>,
    /// Footers that are on their way.
    pub sealed: Vec<(u32, SlotIndex)>,
    last_seq: u64,
    /// The lanes as they were before.
    tails: [LaneTail; 4],
    /// What was truncated since it was closed. The frames that say so come behind it.
    cuts: Cuts,
}

impl Commit {
    pub(crate) fn new(now: Time, writer: &Writer) -> Commit {
        Commit {
            started: now,
            outstanding: 0,
            failed: false,
            groups: Vec::new(),
            sealed: Vec::new(),
            last_seq: writer.durable_seq,
            tails: core::array::from_fn(|lane| writer.lanes[lane].tail),
            cuts: Cuts::default(),
        }
    }

    pub(crate) fn add(
        &mut self,
        lane: Lane,
        seq: u64,
        place: Place,
        bytes: Bytes,
        frames: Vec<Pending>,
    ) {
        self.outstanding += 1;
        self.last_seq = seq;
        self.groups.push(Group { lane, seq, place, bytes, frames });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.outstanding == 0
    }

    pub(crate) fn records_count(&self) -> usize {
        self.frames().map(Pending::records).sum()
    }

    pub(crate) fn moves(&self) -> bool {
        self.frames().any(|frame| frame.header.kind == Kind::Replace)
    }

    /// A partition is truncated while this is on its way.
    pub(crate) fn cut(&mut self, number: PartitionNumber, cut: Cut) {
        self.cuts.add(number, cut);
    }

    pub(crate) fn frames_that_count(&self) -> impl Iterator<Item = &Pending> {
        let until = |frame: &Pending| self.cuts.until(frame.header.partition);
        self.frames().filter(move |frame| frame.header.base_offset < until(frame))
    }

    pub(crate) fn frames(&self) -> impl Iterator<Item = &Pending> {
        self.groups.iter().flat_map(|group| &group.frames)
    }
}

impl Log {
    /// A write or the flush of the commit in flight ended.
    pub(crate) fn commit_done(&mut self, now: Time, result: IoResult) {
        let commit =
            self.commit.as_mut().expect("operations of a commit end while it is in flight");
        commit.outstanding -= 1;
        if !matches!(result, IoResult::Done) {
            commit.failed = true;
            self.stats.write_failures += 1;
        }
        if commit.outstanding > 0 {
            return;
        }
        let commit = self.commit.take().expect("it was there a moment ago");
        if commit.failed {
            self.commit_failed(now, commit);
        } else {
            self.commit_durable(now, commit);
        }
    }

    fn commit_durable(&mut self, now: Time, commit: Commit) {
        let flush = now.since(commit.started);
        self.stats.flushes += 1;
        self.stats.flush_ns_last = flush.0;
        self.stats.flush_ns_max = self.stats.flush_ns_max.max(flush.0);
        self.stats.flush_ns_total += flush.0;
        self.window.done(now, flush, self.writer.pending_records());
        self.writer.durable_seq = commit.last_seq;
        self.writer.failures_in_row = 0;
        let moved = self.move_durable_ends(&commit);
        let mut swept = commit.moves();
        let written: usize = commit.groups.iter().map(|group| group.bytes.len()).sum();
        for group in commit.groups {
            let end = group.place.at + group.bytes.len() as u32;
            if let Some(index) = self.open_index_mut(group.place.slot) {
                index.settled = index.settled.max(end);
            }
            for frame in &group.frames {
                let number = frame.header.partition;
                match frame.header.kind {
                    Kind::Replace => {
                        self.moved(group.place, group.seq, frame, commit.cuts.until(number));
                    }
                    Kind::Truncate => {
                        self.truncated(group.seq, number);
                        swept = true;
                    }
                    _ => {}
                }
            }
            self.tail.push(group.place, group.bytes);
        }
        for (slot, index) in commit.sealed {
            self.footers.insert(slot, index.settled(u32::MAX));
        }
        if let Some(slots) = self.checkpointer.root_durable() {
            self.space.pinned = slots;
            self.stats.checkpoints += 1;
            self.sweep();
        }
        if let Some(root) = self.checkpointer.next_root() {
            self.writer.push(now, Lane::Meta, root);
        }
        if !moved.is_empty() {
            self.events.push_back(Event::Durable { partitions: moved });
        }
        if swept {
            self.sweep();
        }
        self.zero_ahead(written as u32);
        self.govern(now);
        self.expire_when_short(now);
        self.relieve_pressure(now);
        self.compact_when_dirty();
    }

    fn move_durable_ends(&mut self, commit: &Commit) -> Vec<PartitionNumber> {
        let mut moved = BTreeMap::new();
        for frame in commit.frames() {
            let number = frame.header.partition;
            let Some(partition) = self.partitions.get_mut(&number) else { continue };
            match frame.header.kind {
                Kind::Batch => {
                    let end = commit.cuts.until(number).min(frame.end_offset());
                    partition.durable_end = partition.durable_end.max(end);
                    let compacted = partition.policy.cleanup.compact.is_some();
                    self.compactor.fresh_bytes +=
                        u64::from(compacted) * u64::from(frame.header.body_bytes);
                    moved.entry(number).or_insert(false);
                }
                Kind::Truncate => {
                    // Where it begins anew, unless it has begun even earlier since.
                    if Cut::of(&frame.header).restart {
                        let start = frame.header.base_offset.min(partition.log_start);
                        partition.durable_end = partition.durable_end.max(start);
                    }
                    moved.entry(number).or_insert(false);
                }
                Kind::LogStart if commit.cuts.restarts(number) => {}
                Kind::LogStart => {
                    partition.log_start_durable = frame.header.base_offset;
                    // What is dead now may make a slot worth cleaning.
                    self.cleaner.look_again();
                    moved.insert(number, true);
                }
                _ => {}
            }
        }
        let mut freed = false;
        for number in moved.iter().filter(|&(_, &trimmed)| trimmed).map(|(number, _)| number) {
            let Some(partition) = self.partitions.get_mut(number) else { continue };
            for slot in partition.drop_dead_runs() {
                self.space.drop_run(slot);
                freed = true;
            }
            if let Some(run) = partition.runs.front() {
                self.space.slot_mut(run.slot).copied = 0;
            }
        }
        if freed {
            self.sweep();
        }
        moved.into_keys().collect()
    }

    /// Frees what is dead; asks for a checkpoint when that frees more and slots are short.
    pub(crate) fn sweep(&mut self) {
        let footers = &mut self.footers;
        let more = self.space.sweep(self.checkpointer.as_of(), |slot| footers.forget(slot));
        // A checkpoint is worth its bytes when it frees many times as many, or nothing else helps.
        let frees = u64::from(more) * u64::from(self.geometry.slot_bytes);
        let worth = frees >= 16 * self.checkpointer.bytes()
            || self.space.free() <= self.space.reserve() + Lane::ALL.len() as u32;
        if more > 0 && worth && self.space.free() <= self.space.pressure() {
            self.checkpointer.wanted = true;
        }
    }

    fn commit_failed(&mut self, now: Time, commit: Commit) {
        self.writer.failures_in_row += 1;
        if self.writer.failures_in_row >= 2 {
            return self.fence();
        }
        log::warn!(
            "a write or flush of the log failed: its slots are abandoned, writing goes on elsewhere"
        );
        self.undo(&commit);
        self.abandon(&commit);
        self.checkpointer.abort();
        let writer = &mut self.writer;
        writer.boot_epoch += 1;
        writer.epoch_base = writer.durable_seq;
        writer.epoch_first = writer.next_group_seq;
        // What failed goes before what waits, also where a partition has changed its lane between.
        let mut again: Vec<(Lane, Pending)> = Vec::new();
        for group in &commit.groups {
            let left = group.frames.iter().filter_map(|frame| commit.cuts.left_of(frame));
            again.extend(left.map(|frame| (group.lane, frame)));
        }
        for lane in Lane::ALL {
            let lane_writer = &mut writer.lanes[lane as usize];
            lane_writer.tail = commit.tails[lane as usize];
            lane_writer.pending_bytes = 0;
            lane_writer.pending_records = 0;
            let waiting = core::mem::take(&mut lane_writer.pending);
            again.extend(waiting.into_iter().map(|frame| (lane, frame)));
        }
        for (lane, frame) in again {
            let lane = match frame.header.kind {
                Kind::Checkpoint => continue,
                Kind::Replace => lane,
                Kind::LogStart => Lane::Meta,
                _ => self.partitions.get(&frame.header.partition).map_or(lane, |p| p.lane),
            };
            writer.push(now, lane, frame);
        }
        writer.forget(&self.partitions);
        for number in commit.cuts.partitions() {
            self.recount_rewrite(number);
        }
        for (slot, index) in commit.sealed {
            self.footers.insert(slot, index.settled(u32::MAX));
        }
        self.events.push_back(Event::WriteFailed);
    }

    /// Takes back what the commit added to the index.
    fn undo(&mut self, commit: &Commit) {
        for group in commit.groups.iter().rev() {
            let mut firsts: BTreeMap<PartitionNumber, (Offset, u32)> = BTreeMap::new();
            let slot = group.place.slot;
            let entered = |kind: Kind| kind.is_batch() || kind == Kind::Truncate;
            for frame in group.frames.iter().filter(|frame| entered(frame.header.kind)) {
                if let Some(index) = self.open_index_mut(slot) {
                    index.cut(frame.header.partition, group.place.at);
                }
                let base = frame.header.base_offset;
                let counts = base < commit.cuts.until(frame.header.partition);
                if frame.header.kind != Kind::Batch || !counts {
                    continue;
                }
                firsts.entry(frame.header.partition).or_insert((base, 0)).1 +=
                    frame.header.body_bytes;
            }
            for (number, (base, bytes)) in firsts {
                let Some(partition) = self.partitions.get_mut(&number) else { continue };
                partition.written_end = base;
                let run = partition.runs.back().expect("the commit added to a run");
                let last = partition.runs.len() - 1;
                // Where the run was truncated, its bytes are an estimate.
                let gone = if run.base_offset >= base { run.bytes } else { run.bytes.min(bytes) };
                partition.bytes -= u64::from(gone);
                if run.base_offset >= base {
                    partition.runs.remove(last..last + 1);
                    self.space.take_run(slot);
                } else {
                    partition.runs.set(last, Run { bytes: run.bytes - gone, ..run });
                }
            }
        }
    }

    fn open_index_mut(&mut self, slot: u32) -> Option<&mut SlotIndex> {
        let open = self.writer.lanes.iter_mut().filter_map(|lane| lane.open.as_mut());
        let open = open.map(|open| (open.slot, &mut open.index));
        let sealed = self.writer.sealed.iter_mut().map(|(slot, index)| (*slot, index));
        open.chain(sealed).find(|&(open, _)| open == slot).map(|(_, index)| index)
    }

    /// Never writes again to the slots of a commit that failed.
    fn abandon(&mut self, commit: &Commit) {
        let slots: BTreeSet<u32> = commit.groups.iter().map(|group| group.place.slot).collect();
        let durable_seq = self.writer.durable_seq;
        let space = &mut self.space;
        let mut abandon = |slot: u32, mut index: SlotIndex| {
            let state = space.slot_mut(slot);
            state.state = State::Abandoned;
            state.last_seq = state.last_seq.min(durable_seq);
            index.last_seq = index.last_seq.min(durable_seq);
            self.footers.keep(slot, index);
        };
        for lane in &mut self.writer.lanes {
            if let Some(open) = lane.open.take_if(|open| slots.contains(&open.slot)) {
                abandon(open.slot, open.index);
            }
        }
        for (slot, index) in core::mem::take(&mut self.writer.sealed) {
            if slots.contains(&slot) {
                abandon(slot, index);
            } else {
                self.writer.sealed.push((slot, index));
            }
        }
    }

    pub(crate) fn fence(&mut self) {
        log::error!(
            "the log is fenced: the medium takes no more writes; reads go on until a restart"
        );
        self.phase = Phase::Fenced;
        self.events.push_back(Event::Fenced);
    }

    /// Zeroes the slot up to `end` before it is written there for the first time, and a little
    /// more.
    pub(crate) fn zero_for(&mut self, slot: u32, end: u32) {
        if let Some((from, _)) = self.space.unzeroed(slot, end) {
            let until = (end.next_multiple_of(ZERO_BYTES)).min(self.geometry.slot_bytes);
            self.disk.zero(self.geometry.place(slot, from), until - from);
            self.space.slot_mut(slot).zeroed = until;
        }
    }

    /// Zeroes another piece of the slot that will be opened next: about as much as was just
    /// written, so that it is ready when it is needed, and no commit waits long.
    fn zero_ahead(&mut self, written: u32) {
        let Some(slot) = self.space.next_free() else { return };
        if let Some((from, rest)) = self.space.unzeroed(slot, self.geometry.slot_bytes) {
            let len = written.max(ZERO_BYTES).next_multiple_of(ZERO_BYTES).min(rest);
            self.disk.zero(self.geometry.place(slot, from), len);
            self.space.slot_mut(slot).zeroed = from + len;
        }
    }
}
