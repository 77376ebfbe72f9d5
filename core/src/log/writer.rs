//! From pending frames to groups in slots.
//!
//! A commit is one group of each lane that has frames, each one write, and one flush for all. A
//! group takes frames in the order in which they came, up to [`GROUP_BYTES_MAX`] or what is left of
//! the slot, and then sorts them by partition, so that a reader of one partition finds its frames
//! side by side. The batch is copied once, from the request's buffer into the group's, where base
//! offset and leader epoch are stamped.

use super::commit::Commit;
use super::layout::checkpoint::LaneTail;
use super::layout::footer::{SlotIndex, Spot};
use super::layout::frame::{EpochAge, FRAME_HEADER_BYTES, FrameHeader, Kind};
use super::layout::group::{GROUP_HEADER_BYTES, GroupHeader, Place};
use super::layout::slot::SlotHeader;
use super::layout::{BLOCK, Geometry, frame_seed, group_seed, pad};
use super::partition::Partition;
use super::space::Space;
use super::truncate::Cut;
use super::{Append, Lane, Log, Purpose};
use crate::types::{LeaderEpoch, Offset, PartitionNumber, Time};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;

/// The most that one group holds, but for a single larger batch: about what a card writes in 50 ms.
pub(crate) const GROUP_BYTES_MAX: usize = 1 << 20;

/// A frame that waits for its group.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub header: FrameHeader,
    pub max_timestamp: i64,
    pub body: Bytes,
}

impl Pending {
    pub(crate) fn batch(append: &Append, epoch_start: Offset) -> Pending {
        Pending {
            header: FrameHeader {
                kind: Kind::Batch,
                copied: false,
                partition: append.partition,
                base_offset: append.base_offset,
                last_offset_delta: append.header.last_offset_delta,
                leader_epoch: append.leader_epoch,
                body_bytes: append.batch.len() as u32,
                epoch_age: EpochAge::of(epoch_start, append.base_offset),
            },
            max_timestamp: append.header.max_timestamp,
            body: append.batch.clone(),
        }
    }

    /// A frame without a body that says something about a partition.
    pub(crate) fn mark(kind: Kind, partition: PartitionNumber, offset: Offset) -> Pending {
        Pending::with_body(kind, partition, offset, Bytes::new())
    }

    pub(crate) fn with_body(
        kind: Kind,
        partition: PartitionNumber,
        base_offset: Offset,
        body: Bytes,
    ) -> Pending {
        let header = FrameHeader {
            kind,
            copied: false,
            partition,
            base_offset,
            last_offset_delta: 0,
            leader_epoch: LeaderEpoch(0),
            body_bytes: body.len() as u32,
            epoch_age: EpochAge::default(),
        };
        Pending { header, max_timestamp: -1, body }
    }

    /// The same, as a copy of what is on flash already.
    pub(crate) fn copied(mut self) -> Pending {
        self.header.copied = true;
        self
    }

    /// The same, as something that was not there before.
    pub(crate) fn written_anew(mut self) -> Pending {
        self.header.copied = false;
        self
    }

    /// Whether the partition is being rewritten, not only moved.
    pub(crate) fn is_rewrite(&self) -> bool {
        self.header.kind == Kind::Replace && !self.header.copied
    }

    /// What an index says of it; the place is to be filled in.
    pub(crate) fn spot(&self) -> Spot {
        Spot {
            at: 0,
            frame_bytes: self.header.frame_bytes() as u32,
            batch_bytes: self.header.body_bytes,
            base_offset: self.header.base_offset,
            end_offset: self.end_offset(),
            leader_epoch: self.header.leader_epoch,
            max_timestamp: self.max_timestamp,
        }
    }

    pub(crate) fn end_offset(&self) -> Offset {
        self.header.end_offset()
    }

    /// Records in it; a frame of any other kind counts as one.
    pub(crate) fn records(&self) -> usize {
        self.header.last_offset_delta.max(0) as usize + 1
    }
}

/// The slot that a lane writes to.
#[derive(Debug)]
pub(crate) struct Open {
    pub slot: u32,
    /// Where the next group begins.
    pub at: u32,
    pub index: SlotIndex,
    /// The header still has to be written, together with the first group.
    header: Option<SlotHeader>,
}

#[derive(Debug, Default)]
pub(crate) struct LaneWriter {
    pub open: Option<Open>,
    pub pending: VecDeque<Pending>,
    pub pending_bytes: usize,
    pub pending_records: usize,
    pub tail: LaneTail,
}

#[derive(Debug, Default)]
pub(crate) struct Writer {
    /// By the lane's byte.
    pub lanes: [LaneWriter; 4],
    /// When the first pending frame came, or something else asked for a commit.
    pub since: Option<Time>,
    pub boot_epoch: u32,
    pub epoch_base: u64,
    pub epoch_first: u64,
    pub next_group_seq: u64,
    /// The highest group_seq that is known to be flushed.
    pub durable_seq: u64,
    /// Sealed slots whose footers go out with the next commit.
    pub sealed: Vec<(u32, SlotIndex)>,
    /// Slot headers that were bad and are written anew with it.
    pub headers: Vec<SlotHeader>,
    pub failures_in_row: u32,
}

impl Writer {
    pub(crate) fn push(&mut self, now: Time, lane: Lane, pending: Pending) {
        let lane = &mut self.lanes[lane as usize];
        lane.pending_bytes += pending.header.frame_bytes();
        lane.pending_records += pending.records();
        lane.pending.push_back(pending);
        self.wake(now);
    }

    /// Asks for a commit.
    pub(crate) fn wake(&mut self, now: Time) {
        self.since = self.since.or(Some(now));
    }

    pub(crate) fn pending(&self) -> usize {
        self.lanes.iter().map(|lane| lane.pending.len()).sum()
    }

    pub(crate) fn pending_records(&self) -> usize {
        self.lanes.iter().map(|lane| lane.pending_records).sum()
    }

    /// Drops what waits for partitions that are gone.
    pub(crate) fn forget(&mut self, known: &BTreeMap<PartitionNumber, Partition>) {
        self.retain(|pending| {
            let kept = pending.header.kind == Kind::Checkpoint;
            kept || known.contains_key(&pending.header.partition)
        });
    }

    /// Drops what waits unless `keep` says so of it, which may change it.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&mut Pending) -> bool) {
        for lane in &mut self.lanes {
            lane.pending.retain_mut(&mut keep);
            lane.pending_bytes = lane.pending.iter().map(|p| p.header.frame_bytes()).sum();
            lane.pending_records = lane.pending.iter().map(Pending::records).sum();
        }
    }

    /// The lane of a partition's next batch: that of its policy, once nothing of it waits in the
    /// lane before. Lanes of one commit are written one after the other, so what waited there could
    /// come behind what follows it.
    pub(crate) fn lane_of(&self, number: PartitionNumber, partition: &Partition) -> Lane {
        let wanted = partition.policy.lane;
        let waits = |pending: &Pending| pending.header.partition == number;
        match wanted != partition.lane {
            true if self.lanes[partition.lane as usize].pending.iter().any(waits) => partition.lane,
            _ => wanted,
        }
    }

    /// Whether user data of that size still fits, with the reserve left alone.
    pub(crate) fn has_room(
        &self,
        space: &Space,
        geometry: &Geometry,
        lane: Lane,
        batch: &Bytes,
    ) -> bool {
        let mut slots = self.lanes[lane as usize].slots_wanted(geometry, Some(batch));
        // A slot that cleaning opened from the reserve is not filled up: the next step would open
        // another.
        if slots == 0 && space.free() * 2 >= space.reserve() {
            return true;
        }
        // What waits in the other lanes has been promised its slots already.
        for other in Lane::ALL.into_iter().filter(|&other| other != lane && other != Lane::Meta) {
            slots += self.lanes[other as usize].slots_wanted(geometry, None);
        }
        space.free() >= space.reserve() + slots.max(1)
    }
}

impl LaneWriter {
    /// Whether a frame without a body fits the group that the lane writes next, if it writes one.
    pub(crate) fn has_room_for_mark(&self, geometry: &Geometry) -> bool {
        let bytes = GROUP_HEADER_BYTES + self.pending_bytes + FRAME_HEADER_BYTES;
        let left = self.open.as_ref().map_or(0, |open| open.left(geometry, self.pending.len() + 1));
        !self.pending.is_empty() && bytes <= GROUP_BYTES_MAX && pad(bytes) <= left
    }

    /// How many slots must be opened for what waits, and one more batch.
    fn slots_wanted(&self, geometry: &Geometry, batch: Option<&Bytes>) -> u32 {
        let frames = self.pending.len() + usize::from(batch.is_some());
        if frames == 0 {
            return 0;
        }
        let wanted = self.pending_bytes + batch.map_or(0, |b| FRAME_HEADER_BYTES + b.len());
        let left = self.open.as_ref().map_or(0, |open| open.left(geometry, frames));
        // Each further group costs its header and its padding.
        let groups = 1 + wanted / GROUP_BYTES_MAX;
        let wanted = pad(wanted + GROUP_HEADER_BYTES) + (groups - 1) * 2 * BLOCK as usize;
        // A slot that is opened holds half of itself at least: a batch of that size may come next.
        let slots = wanted.div_ceil(geometry.slot_bytes as usize / 2) as u32;
        if wanted <= left { 0 } else { slots }
    }
}

impl Open {
    /// Bytes left for a group of so many frames.
    pub(crate) fn left(&self, geometry: &Geometry, frames: usize) -> usize {
        (geometry.slot_bytes as usize)
            .saturating_sub(self.at as usize + self.index.footer_bytes(frames))
    }
}

impl Log {
    /// When the next commit may be closed; `None` while one is in flight or there is nothing to
    /// commit.
    pub(crate) fn closes_at(&self) -> Option<Time> {
        if self.commit.is_some() {
            return None;
        }
        let since = self.writer.since?;
        Some(self.window.closes_at(since, self.writer.pending_records()))
    }

    /// Closes the open groups and asks for their writes and the flush.
    pub(crate) fn close_commit(&mut self, now: Time) {
        self.log_expired(now);
        let since = self.writer.since.take().unwrap_or(now);
        // A checkpoint holds everything of the commit that it is taken with. What is moved counts
        // only when it is durable, so it goes before or after.
        let slot_bytes = u64::from(self.geometry.slot_bytes);
        let open = self.writer.lanes.iter().filter(|lane| lane.open.is_some()).count() as u64;
        let sealed = (!self.writer.sealed.is_empty()).then_some(slot_bytes);
        let due = self.checkpointer.is_due(open * slot_bytes, sealed);
        let barrier = due && !self.has_moves_pending();
        if !due {
            self.take_moves(now);
        }
        let mut commit = Commit::new(now, &self.writer);
        self.write_footers(&mut commit);
        for lane in Lane::ALL {
            // A checkpoint stands for everything up to a group, so nothing may be left over.
            while !self.writer.lanes[lane as usize].pending.is_empty() {
                if !self.write_group(lane, &mut commit) {
                    return self.fence();
                }
                if !barrier {
                    break;
                }
            }
        }
        if barrier {
            self.take_checkpoint();
        }
        if self.writer.pending() > 0 || (self.moves.is_waiting() && self.has_room_to_move()) {
            self.writer.wake(now);
        }
        if !commit.is_empty() {
            let capped = self.window.cap_wait(since);
            self.stats.cap_waits += u64::from(capped.0 > 0);
            self.stats.cap_wait_ns_total += capped.0;
            self.window.closed(now, since, commit.records_count());
            self.disk.flush(Purpose::Commit);
            commit.outstanding += 1;
            self.commit = Some(commit);
        }
    }

    fn write_footers(&mut self, commit: &mut Commit) {
        for (slot, index) in core::mem::take(&mut self.writer.sealed) {
            let footer = index.encode(&self.geometry.store, slot);
            let at = self.geometry.slot_bytes - footer.len() as u32;
            assert!(index.used() <= at, "room was kept for the footer");
            self.disk.write(Purpose::Commit, self.geometry.place(slot, at), footer);
            commit.outstanding += 1;
            commit.sealed.push((slot, index));
        }
        for header in core::mem::take(&mut self.writer.headers) {
            let block = Bytes::from(header.encode(&self.geometry.store).to_vec());
            self.disk.write(Purpose::Commit, self.geometry.place(header.slot, 0), block);
            commit.outstanding += 1;
        }
    }

    /// Writes one group of a lane that has frames; false when there is no slot for it.
    fn write_group(&mut self, lane: Lane, commit: &mut Commit) -> bool {
        let Some(count) = self.make_room(lane) else { return false };
        let lane_writer = &mut self.writer.lanes[lane as usize];
        let mut frames: Vec<Pending> = lane_writer.pending.drain(..count).collect();
        frames.sort_by_key(|frame| frame.header.partition);
        let mut open = lane_writer.open.take().expect("make_room opened a slot");

        let bytes: usize = frames.iter().map(|frame| frame.header.frame_bytes()).sum();
        lane_writer.pending_bytes -= bytes;
        lane_writer.pending_records -= frames.iter().map(Pending::records).sum::<usize>();
        let header_bytes = if open.header.is_some() { BLOCK as usize } else { 0 };
        let mut out = Vec::with_capacity(header_bytes + pad(GROUP_HEADER_BYTES + bytes));
        if let Some(header) = open.header.take() {
            out.extend_from_slice(&header.encode(&self.geometry.store));
        }
        let at = open.at - header_bytes as u32;
        out.resize(header_bytes + GROUP_HEADER_BYTES, 0);
        self.put_frames(&mut open, &frames, at, &mut out);
        let tail = self.writer.lanes[lane as usize].tail;
        let mut header = GroupHeader {
            lane: lane as u8,
            bytes: 0,
            frames: frames.len() as u32,
            slot: open.slot,
            boot_epoch: self.writer.boot_epoch,
            seg_seq: open.index.seg_seq,
            group_seq: self.writer.next_group_seq,
            durable_seq: self.writer.durable_seq,
            prev_group_seq: tail.group_seq,
            prev_group_crc: tail.group_crc,
            checkpoint: self.checkpointer.durable_root(),
            epoch_base: self.writer.epoch_base,
            epoch_first: self.writer.epoch_first,
            crc: 0,
        };
        header.finish(&mut out, header_bytes, group_seed(&self.geometry.store));
        self.writer.next_group_seq += 1;
        let end = at + out.len() as u32;
        open.index.add_group(&header, end);
        let slot = self.space.slot_mut(open.slot);
        slot.last_seq = header.group_seq;
        slot.first_seq = open.index.first_seq;
        let place = Place { slot: open.slot, at: open.at };
        open.at = end;
        let lane_writer = &mut self.writer.lanes[lane as usize];
        lane_writer.tail = LaneTail {
            group_seq: header.group_seq,
            group_crc: header.crc,
            seg_seq: open.index.seg_seq,
        };
        lane_writer.open = Some(open);

        self.checkpointer.written += out.len() as u64;
        self.stats.groups += 1;
        self.zero_for(place.slot, end);
        let out = Bytes::from(out);
        let group = out.slice(header_bytes..);
        self.disk.write(Purpose::Commit, self.geometry.place(place.slot, at), out);
        commit.add(lane, header.group_seq, place, group, frames);
        true
    }

    /// Writes frames behind what a group holds already and enters them in the indexes. `out` begins
    /// at `at` in the slot.
    fn put_frames(&mut self, open: &mut Open, frames: &[Pending], at: u32, out: &mut Vec<u8>) {
        let seed = frame_seed(&self.geometry.store, open.index.seg_seq);
        for frame in frames {
            let spot = Spot { at: at + out.len() as u32, ..frame.spot() };
            frame.header.put(seed, &frame.body, out);
            let place = Place { slot: open.slot, at: spot.at };
            if frame.header.kind.is_batch() {
                let slot = self.space.slot_mut(open.slot);
                slot.filled += spot.batch_bytes;
                slot.framed += spot.frame_bytes;
                slot.copied += if frame.header.copied { spot.frame_bytes } else { 0 };
            }
            match frame.header.kind {
                Kind::Checkpoint => {
                    self.checkpointer.placed(frame, place, open.index.seg_seq, open.at);
                }
                Kind::LogStart => {
                    open.index.set_log_start(frame.header.partition, frame.header.base_offset);
                }
                Kind::Truncate => {
                    let (number, from) = (frame.header.partition, Cut::of(&frame.header).from());
                    let group_seq = self.writer.next_group_seq;
                    open.index.truncate(number, from, spot.at, group_seq);
                    self.note_truncation(number, from, group_seq);
                    if let Some(partition) = self.partitions.get(&number) {
                        open.index.set_log_start(number, partition.log_start_durable);
                    }
                }
                kind => {
                    open.index.add(frame.header.partition, spot);
                    let Some(partition) = self.partitions.get_mut(&frame.header.partition) else {
                        continue;
                    };
                    open.index.set_log_start(frame.header.partition, partition.log_start_durable);
                    // Until a replacement is durable, what stood there before is served.
                    if kind != Kind::Replace && partition.add_to_run(open.slot, &spot) {
                        self.space.add_run(open.slot);
                    }
                }
            }
        }
    }

    /// How many pending frames go into the lane's next group; opens another slot if this one is
    /// full.
    fn make_room(&mut self, lane: Lane) -> Option<usize> {
        loop {
            let writer = &self.writer.lanes[lane as usize];
            if let Some(open) = &writer.open {
                let count = fitting(writer, open, &self.geometry);
                // Not worth a group of its own: the little that is left of a slot.
                let rest = open.left(&self.geometry, 0) * 16 < self.geometry.slot_bytes as usize;
                let fresh = open.header.is_some();
                if count > 0 && (fresh || count == writer.pending.len() || !rest) {
                    return Some(count);
                }
                assert!(!fresh, "a batch fits an empty slot: the owner bounds its size");
                self.seal_open(lane);
            }
            self.open_slot(lane)?;
        }
    }

    fn open_slot(&mut self, lane: Lane) -> Option<()> {
        let slot = self.space.take(lane as u8)?;
        self.tail.forget_slot(slot);
        self.footers.forget(slot);
        let seg_seq = self.space.slot(slot).seg_seq;
        let writer = &mut self.writer.lanes[lane as usize];
        let header = SlotHeader {
            lane: lane as u8,
            slot,
            boot_epoch: self.writer.boot_epoch,
            seg_seq,
            prev_seg_seq: writer.tail.seg_seq,
        };
        let index = SlotIndex::new(lane as u8, seg_seq).settled(BLOCK);
        writer.open = Some(Open { slot, at: BLOCK, index, header: Some(header) });
        Some(())
    }

    pub(crate) fn seal_open(&mut self, lane: Lane) {
        if let Some(open) = self.writer.lanes[lane as usize].open.take() {
            self.space.slot_mut(open.slot).state = super::space::State::Sealed;
            self.writer.sealed.push((open.slot, open.index));
        }
    }
}

/// How many of the lane's pending frames fit one group in the open slot.
fn fitting(writer: &LaneWriter, open: &Open, geometry: &Geometry) -> usize {
    let mut bytes = GROUP_HEADER_BYTES;
    for (count, frame) in writer.pending.iter().enumerate() {
        bytes += frame.header.frame_bytes();
        let fits = pad(bytes) <= open.left(geometry, count + 1);
        if !fits || (count > 0 && bytes > GROUP_BYTES_MAX) {
            return count;
        }
    }
    writer.pending.len()
}
