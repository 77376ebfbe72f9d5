//! From accepted groups back to partitions: what a start applies, in the order of the log.
//!
//! Without a checkpoint, slots that are free by now are not there, and what was cleaned comes later
//! than it was appended: then what stands where is collected as [`Piece`]s, which know their ends,
//! and what is missing is found in the end.

use crate::log::layout::checkpoint::Image;
use crate::log::layout::extent::Extent;
use crate::log::layout::footer::{Part, SlotIndex, Spot};
use crate::log::layout::frame::{FrameHeader, Kind};
use crate::log::layout::group::GroupHeader;
use crate::log::layout::pad;
use crate::log::layout::slot::SlotHeader;
use crate::log::partition::Partition;
use crate::log::runs::Run;
use crate::log::scan::Outline;
use crate::log::truncate::Cut;
use crate::log::{Lane, Unguarded};
use crate::types::{LeaderEpoch, Offset, PartitionNumber};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub partitions: BTreeMap<PartitionNumber, Partition>,
    /// What the checkpoint stands for.
    pub covered: u64,
    /// Damaged ranges that the checkpoint knew already.
    pub known_ranges: u32,
    /// What stands where, by base offset, while there is no checkpoint.
    pub pieces: Option<BTreeMap<PartitionNumber, BTreeMap<Offset, Piece>>>,
    /// The last group that took the place of something in a slot.
    pub moved: BTreeMap<u32, u64>,
    pub unguarded: Unguarded,
}

/// A stretch of offsets that stands in one slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    end: Offset,
    slot: u32,
    bytes: u32,
    max_timestamp: i64,
    /// Of some holes it is not known.
    epoch: Option<LeaderEpoch>,
}

/// Where a frame was found.
pub(crate) struct Home {
    pub lane: Lane,
    pub slot: u32,
    pub group_seq: u64,
}

impl Replay {
    /// Begins with a checkpoint. Runs in slots that were used anew since then are dead.
    pub(crate) fn begin(&mut self, image: &mut Image, headers: &BTreeMap<u32, SlotHeader>) {
        self.covered = image.as_of;
        self.partitions = core::mem::take(&mut image.partitions);
        let alive = |slot: u32| {
            image.slots.get(&slot).is_some_and(|entry| {
                headers.get(&slot).is_none_or(|header| header.seg_seq == entry.seg_seq)
            })
        };
        for partition in self.partitions.values_mut() {
            partition.runs.retain(|run| alive(run.slot));
            partition.bytes = partition.runs.iter().map(|run| u64::from(run.bytes)).sum();
        }
        let known = self.partitions.values().map(|partition| partition.damaged.len() as u32);
        self.known_ranges = known.sum();
    }

    /// Applies a group that counts, and adds it to the index of its slot.
    pub(crate) fn group(
        &mut self,
        group: &GroupHeader,
        at: u32,
        outlines: impl Iterator<Item = Outline>,
        index: &mut SlotIndex,
    ) {
        let GroupHeader { slot, group_seq, .. } = *group;
        let home = Home { lane: Lane::checked(group.lane), slot, group_seq };
        for outline in outlines {
            self.frame(&home, &outline, at, index, group_seq > self.covered);
        }
        index.add_group(group, at + group.padded_bytes() as u32);
    }

    /// Adds a frame of what begins `at` to the index of its slot, and applies it if it `counts`.
    pub(crate) fn frame(
        &mut self,
        home: &Home,
        outline: &Outline,
        at: u32,
        index: &mut SlotIndex,
        counts: bool,
    ) {
        let header = &outline.header;
        if !counts {
            // The checkpoint knows what was truncated.
            index.add_below_newer(outline, at, home.group_seq, &self.partitions);
            return;
        }
        if let Some(from) = self.lost_truncation(home, header, index) {
            index.truncate(header.partition, from, at + outline.begin, home.group_seq);
        }
        let spot = index.add_frame(outline, at, home.group_seq);
        match spot {
            Some(spot) => self.batch(home, outline, &spot),
            None if header.kind == Kind::Truncate => {
                self.truncate(home, header.partition, &Cut::of(header), index);
            }
            None => self.log_start(home, header.partition, header.base_offset),
        }
    }

    /// A partition begins at offset 0: what is missing before its first frame is damage, or
    /// trimmed.
    fn partition(&mut self, lane: Lane, number: PartitionNumber) -> &mut Partition {
        self.partitions.entry(number).or_insert_with(|| Partition::new(lane, Offset::ZERO))
    }

    /// A frame whose body is damaged and whose header says that it is the next of its partition:
    /// its offsets are lost, and are not given out again.
    pub(crate) fn note_harmed(&mut self, header: &FrameHeader) {
        let Some(partition) = self.partitions.get_mut(&header.partition) else { return };
        let plausible = header.kind.is_batch() && (0..1 << 20).contains(&header.last_offset_delta);
        if plausible && partition.log_end == header.base_offset {
            let in_order = self.pieces.is_none();
            skip_to(header.partition, partition, header.end_offset(), in_order);
        }
    }

    /// Whether a frame that may be older than the checkpoint may have been written since.
    pub(crate) fn may_follow(&self, header: &FrameHeader) -> bool {
        let partition = self.partitions.get(&header.partition);
        let last = partition.and_then(|partition| partition.epochs.last());
        match header.kind {
            Kind::Replace | Kind::Truncate => false,
            Kind::Batch => last.is_none_or(|&(epoch, _)| epoch <= header.leader_epoch),
            _ => true,
        }
    }

    /// A partition ends there, or begins anew.
    fn truncate(&mut self, home: &Home, number: PartitionNumber, cut: &Cut, index: &SlotIndex) {
        if self.pieces.is_some() {
            self.cut_pieces(number, cut.from());
            if cut.restart {
                self.log_start(home, number, cut.end);
            }
            return;
        }
        let partition = self.partition(home.lane, number);
        if !cut.restart {
            skip_to(number, partition, cut.end, true);
        }
        let here = partition.last_slot_below(cut.from()) == Some(home.slot);
        let part = index.parts.get(&number).filter(|_| here);
        let gone = part.map(|part| part.bytes_beyond(cut.from()));
        for slot in partition.truncate(cut, gone) {
            let moved = self.moved.entry(slot).or_default();
            *moved = home.group_seq.max(*moved);
        }
    }

    /// Another batch stands where the leader epoch of this one began, of a lower epoch: the frame
    /// that truncated it is lost to damage, and so is what was appended between. Gives from where.
    fn lost_truncation(
        &mut self,
        home: &Home,
        header: &FrameHeader,
        index: &SlotIndex,
    ) -> Option<Offset> {
        let FrameHeader { kind, partition: number, leader_epoch, .. } = *header;
        let partition = self.partitions.get(&number).filter(|_| kind == Kind::Batch)?;
        let from = header.epoch_start().max(partition.log_start).min(header.base_offset);
        let there = match &self.pieces {
            None => partition.epoch_at(from).filter(|_| from < partition.log_end),
            Some(pieces) => {
                let before = pieces.get(&number)?.range(..=from).next_back();
                before.filter(|(_, piece)| piece.end > from).and_then(|(_, piece)| piece.epoch)
            }
        };
        there.filter(|there| *there < leader_epoch && !self.unguarded.no_epoch_cuts)?;
        self.truncate(home, number, &Cut { end: from, restart: false }, index);
        Some(from)
    }

    fn batch(&mut self, home: &Home, outline: &Outline, spot: &Spot) {
        let Home { lane, slot, .. } = *home;
        let (number, spot) = (outline.header.partition, *spot);
        if self.unguarded.no_holes && spot.is_hole() {
            return;
        }
        let by_pieces = self.pieces.is_some();
        let partition = self.partition(lane, number);
        match outline.header.kind {
            _ if by_pieces => {}
            // It also stands for what it took the place of and is not there any more.
            Kind::Replace if spot.base_offset < partition.log_end => {
                skip_to(number, partition, spot.end_offset, true);
            }
            _ => partition.doubt_end(spot.base_offset, spot.end_offset),
        }
        skip_to(number, partition, spot.base_offset, !by_pieces);
        let new = spot.base_offset >= partition.log_end;
        if let Some(epoch) = spot.epoch().filter(|_| new) {
            let start = outline.header.epoch_start().max(partition.log_start);
            partition.note_epoch_anywhere(epoch, start.min(spot.base_offset));
        }
        if let Some(batch) = outline.sequenced.as_ref().filter(|_| new) {
            partition.producers.apply(batch, spot.base_offset);
        }
        if new {
            partition.log_end = spot.end_offset;
        }
        if by_pieces {
            let piece = Piece {
                end: spot.end_offset,
                slot,
                bytes: spot.batch_bytes,
                max_timestamp: spot.max_timestamp,
                epoch: spot.epoch(),
            };
            self.lay(lane, number, spot.base_offset, piece);
        } else if new {
            partition.add_to_run(slot, &spot);
        } else if outline.header.kind == Kind::Replace {
            if !outline.header.copied {
                partition.learn(&spot, outline.sequenced.as_deref());
            }
            for (slot, more) in partition.replace_runs(slot, &spot, outline.header.copied) {
                if more <= 0 {
                    let moved = self.moved.entry(slot).or_default();
                    *moved = home.group_seq.max(*moved);
                }
            }
        }
        // Else it was written twice. That can only be a group that was given up and is not known as
        // such: the first copy stands.
    }

    pub(crate) fn log_start(&mut self, home: &Home, number: PartitionNumber, log_start: Offset) {
        let partition = self.partition(home.lane, number);
        if log_start > partition.log_start {
            partition.log_end = partition.log_end.max(log_start);
            partition.set_log_start(log_start);
        }
    }

    /// Applies an extent by its slot's footer alone: without a checkpoint. Producers' sequences are
    /// not in it. It counts frames' headers as well, all of the part's together `frames` bytes.
    pub(crate) fn extent(
        &mut self,
        home: &Home,
        number: PartitionNumber,
        part: &Part,
        extent: &Extent,
        frames: u64,
    ) {
        let bytes = u64::from(extent.bytes) * u64::from(part.batch_bytes) / frames.max(1);
        let first = extent.base_offset;
        let piece = Piece {
            end: extent.end_offset,
            slot: home.slot,
            bytes: bytes as u32,
            max_timestamp: extent.max_timestamp,
            epoch: None,
        };
        let starts = part.epochs.iter().map(|&(_, start)| start);
        let within = starts.filter(|start| first < *start && *start < extent.end_offset);
        let mut base = first;
        for end in within.chain([extent.end_offset]) {
            if base < end {
                let epoch = part.epoch_at(base);
                self.lay(home.lane, number, base, Piece { epoch, ..piece.part(first, base, end) });
                base = end;
            }
        }
    }

    /// Puts a piece over those that were there before.
    fn lay(&mut self, lane: Lane, number: PartitionNumber, base: Offset, piece: Piece) {
        let partition = self.partition(lane, number);
        if let Some(epoch) = piece.epoch {
            partition.note_epoch_anywhere(epoch, base);
        }
        partition.log_end = partition.log_end.max(piece.end);
        let pieces = self.pieces.get_or_insert_default().entry(number).or_default();
        lay_over(pieces, base, piece);
    }

    /// Nothing counts any more from there on.
    pub(crate) fn cut_pieces(&mut self, number: PartitionNumber, from: Offset) {
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        if self.unguarded.no_truncation_by_footers {
            return;
        }
        let from = from.max(Offset::ZERO);
        let pieces = self.pieces.get_or_insert_default().entry(number).or_default();
        pieces.split_off(&from);
        if let Some((&base, &last)) = pieces.last_key_value()
            && last.end > from
        {
            pieces.insert(base, last.part(base, base, from));
        }
        partition.epochs.retain(|&(_, start)| start < from);
        partition.producers.truncate(from);
        // A log start beyond is older, and what began anew since is not known.
        partition.log_start = partition.log_start.min(from);
        partition.log_end = partition.log_end.min(from);
    }

    /// A footer that is made anew says where its partitions begin, like that of a running log. It
    /// ends behind what was taken out of damaged groups, which may stand behind the last whole one.
    pub(crate) fn complete(&self, index: &mut SlotIndex) {
        for (number, part) in &mut index.parts {
            if let Some(partition) = self.partitions.get(number) {
                part.log_start = partition.log_start;
            }
        }
        index.data_end = pad(index.used() as usize) as u32;
    }

    /// Everything that was found is durable.
    pub(crate) fn finish(&mut self) {
        let mut pieces = self.pieces.take();
        for (&number, partition) in &mut self.partitions {
            if let Some(pieces) = &mut pieces {
                let mut pieces = pieces.remove(&number).unwrap_or_default();
                if !self.unguarded.no_truncation_by_footers {
                    drop_stale(partition, &mut pieces);
                }
                if self.unguarded.no_lost_begins {
                    trim_to_first(partition, &pieces);
                }
                settle(number, partition, pieces);
            }
            partition.written_end = partition.log_end;
            partition.durable_end = partition.log_end;
            partition.log_start_durable = partition.log_start;
            partition.drop_dead_runs();
        }
    }
}

impl Piece {
    /// The part of a piece that begins at `base`.
    fn part(self, base: Offset, from: Offset, until: Offset) -> Piece {
        let run = Run {
            slot: self.slot,
            bytes: self.bytes,
            base_offset: base,
            max_timestamp: self.max_timestamp,
        };
        Piece { bytes: run.share(from, until, self.end), end: until, ..self }
    }
}

/// Puts a piece over those that were there before.
fn lay_over(pieces: &mut BTreeMap<Offset, Piece>, base: Offset, mut piece: Piece) {
    let mut base = base;
    // Of what is there already, the parts before and behind stay.
    let first = pieces.range(..base).next_back().filter(|(_, before)| before.end > base);
    let first = first.map_or(base, |(&first, _)| first);
    let hit: Vec<(Offset, Piece)> =
        pieces.range(first..piece.end).map(|(&from, &old)| (from, old)).collect();
    for (from, old) in hit {
        pieces.remove(&from);
        if from < base {
            pieces.insert(from, old.part(from, from, base));
        }
        if old.end > piece.end {
            pieces.insert(piece.end, old.part(from, piece.end, old.end));
        }
    }
    if let Some((&from, before)) = pieces.range(..base).next_back()
        && before.end == base
        && (before.slot, before.epoch) == (piece.slot, piece.epoch)
    {
        piece.bytes += before.bytes;
        piece.max_timestamp = piece.max_timestamp.max(before.max_timestamp);
        base = from;
    }
    pieces.insert(base, piece);
}

/// The offsets from the log end up to `base` are lost; unless they come later, out of order.
fn skip_to(number: PartitionNumber, partition: &mut Partition, base: Offset, in_order: bool) {
    if base > partition.log_end {
        if in_order {
            partition.lose(number, partition.log_end, base);
        }
        partition.log_end = base;
    }
}

/// Leader epochs never decrease along a partition's offsets: a piece of a lower epoch behind one of
/// a higher one is what was truncated before that was appended, in a slot that is free by now. At
/// the end of the partition there is nothing then; before it, what should stand there is lost.
fn drop_stale(partition: &mut Partition, pieces: &mut BTreeMap<Offset, Piece>) {
    let mut highest = None;
    let last = pieces.last_key_value().map(|(&base, _)| base);
    pieces.retain(|_, piece| {
        highest = highest.max(piece.epoch);
        piece.epoch.is_none() || piece.epoch == highest
    });
    let end = pieces.last_key_value().map(|(&base, piece)| (base, piece.end));
    if end.map(|(base, _)| base) != last {
        let end = end.map_or(Offset::ZERO, |(_, end)| end);
        partition.log_end = end.max(partition.log_start);
        partition.epochs.retain(|&(_, start)| start < end);
    }
}

/// A bug that the simulation must find: what is missing before the first piece was trimmed.
fn trim_to_first(partition: &mut Partition, pieces: &BTreeMap<Offset, Piece>) {
    let log_start = partition.log_start;
    let mut there = pieces.iter().filter(|(_, piece)| piece.end > log_start);
    if let Some((&base, _)) = there.next().filter(|(base, _)| **base > log_start) {
        partition.set_log_start(base);
    }
}

/// Makes runs of the pieces, and damage of what is between them and before the first.
///
/// A footer knows the log start of all that it holds, as it was when that was written or moved. One
/// that came later, and stood in a slot that is free by now, is not known: then what was trimmed
/// counts as lost. That is the smaller evil: a replica asks others for what it has lost and goes on
/// without what nobody has, but what it takes for trimmed nobody misses.
fn settle(number: PartitionNumber, partition: &mut Partition, pieces: BTreeMap<Offset, Piece>) {
    let log_start = partition.log_start;
    let mut end = log_start;
    for (base_offset, piece) in pieces.into_iter().filter(|(_, piece)| piece.end > log_start) {
        if base_offset > end {
            partition.lose(number, end, base_offset);
        }
        end = piece.end;
        let Piece { slot, bytes, max_timestamp, .. } = piece;
        partition.bytes += u64::from(bytes);
        partition.max_timestamp = partition.max_timestamp.max(max_timestamp);
        partition.runs.push_back(Run { slot, bytes, base_offset, max_timestamp });
    }
    if end < partition.log_end {
        partition.lose(number, end, partition.log_end);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn what_is_of_a_lower_epoch_than_what_stands_before_it_is_stale() {
        let mut partition = Partition::new(Lane::Short, Offset::ZERO);
        let mut pieces = BTreeMap::new();
        for (base, end, epoch) in
            [(0, 5, Some(1)), (5, 6, Some(2)), (6, 7, Some(1)), (7, 8, Some(2)), (8, 9, None)]
        {
            let epoch = epoch.map(LeaderEpoch);
            let end = Offset(end);
            let piece = Piece { end, slot: 1, bytes: 100, max_timestamp: 0, epoch };
            pieces.insert(Offset(base), piece);
            partition.log_end = end;
        }
        let tail = Piece { end: Offset(12), epoch: Some(LeaderEpoch(1)), ..pieces[&Offset(5)] };
        for stale in [None, Some(tail)] {
            let mut pieces = pieces.clone();
            pieces.extend(stale.map(|piece| (Offset(9), piece)));
            partition.log_end = pieces.last_key_value().unwrap().1.end;
            drop_stale(&mut partition, &mut pieces);
            let left: Vec<i64> = pieces.keys().map(|base| base.0).collect();
            assert_eq!((left, partition.log_end), (vec![0, 5, 7, 8], Offset(9)));
        }
    }
}
