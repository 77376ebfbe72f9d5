//! Moving what stands on flash: frames of kind replace, for the cleaner, for key compaction, and
//! for a start that carries over, and for what was lost and comes back from another gateway.
//!
//! A frame of kind replace stands for a range of offsets, and takes the place of everything that
//! was there. With an empty body it is a *hole*: those offsets have no records any more. Nothing
//! changes for readers before the frame is durable: what was there is served until then, also when
//! the commit fails and the frame is written again.
//!
//! Frames wait here until a commit has room for them: at most [`MOVE_BYTES_MAX`] of a commit, and
//! none in a commit that a checkpoint is taken of, which must find everything of that commit in
//! memory. They may use the slots that are kept back for cleaning, not those of the meta lane.
//!
//! # Rewriting a partition (key compaction)
//!
//! Read with [`Log::fetch`], from `log_start` to at most `durable_end`: reads do not go into the
//! cache of the tail, and a hole is passed over. Then hand in what takes the place with
//! [`Log::replace`], a part at a time, of about [`MOVE_BYTES_MAX`]: it stays in memory until it is
//! durable, when compaction hears of it. One part of a partition at a time. What a replica has lost
//! is put in place in the same way. The rules:
//!
//! - Each [`Replacement`] covers whole batches of those that were read. A batch keeps the base
//!   offset and last offset delta that it says; offsets between that have none are holes.
//! - Offsets ascend and do not overlap, and lie below `durable_end`. The last batch of a partition
//!   is never made a hole (Kafka keeps an empty batch there), so that a reader at the end finds
//!   one.
//! - What is left out keeps what it has.
//!
//! The cleaner may copy the same batches meanwhile; it drops what it has not written yet, and what
//! it has written stands before the replacement, which thus counts.

use super::commit::Commit;
use super::layout::footer::Spot;
use super::layout::frame::{EpochAge, FrameHeader, Kind};
use super::layout::group::Place;
use super::writer::Pending;
use super::{Event, Lane, Log, Phase, ReplaceError, Replacement, Ticket};
use crate::batch::Header as BatchHeader;
use crate::types::{LeaderEpoch, Offset, PartitionNumber, Time};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

/// Bytes of moved frames in one commit at most, and no more than a quarter of a slot, unless one
/// frame is larger: they delay the records that wait for the same flush.
pub const MOVE_BYTES_MAX: usize = 256 << 10;

#[derive(Debug)]
struct Rewrite {
    ticket: Ticket,
    /// Frames that are not durable yet.
    left: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Moves {
    queue: VecDeque<(Lane, Pending)>,
    rewrites: BTreeMap<PartitionNumber, Rewrite>,
}

impl Moves {
    /// Drops frames that wait unless `keep` says so of them, which may change them.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&mut Pending) -> bool) {
        self.queue.retain_mut(|(_, frame)| keep(frame));
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(crate) fn push(&mut self, lane: Lane, frame: Pending) {
        self.queue.push_back((lane, frame));
    }

    pub(crate) fn is_rewriting(&self, number: PartitionNumber) -> bool {
        self.rewrites.contains_key(&number)
    }

    /// Whether the cleaner has frames that wait.
    pub(crate) fn is_copying(&self) -> bool {
        self.queue.iter().any(|(_, frame)| frame.header.copied)
    }

    /// Bytes of frames of the cleaner that wait.
    pub(crate) fn copy_bytes(&self) -> usize {
        let copies = self.queue.iter().filter(|(_, frame)| frame.header.copied);
        copies.map(|(_, frame)| frame.header.frame_bytes()).sum()
    }

    /// Forgets what the cleaner wants to move.
    pub(crate) fn drop_copies(&mut self) {
        self.queue.retain(|(_, frame)| !frame.header.copied);
    }

    /// Forgets partitions that are gone.
    pub(crate) fn forget(&mut self, known: impl Fn(PartitionNumber) -> bool) {
        self.queue.retain(|(_, frame)| known(frame.header.partition));
        self.rewrites.retain(|&number, _| known(number));
    }
}

impl Log {
    /// Puts batches and holes in the place of what a partition has at their offsets, or has lost.
    /// Compaction hears when they are durable, and others by [`Event::Replaced`]. See the module
    /// `moves`.
    pub fn replace(
        &mut self,
        now: Time,
        number: PartitionNumber,
        replacements: Vec<Replacement>,
    ) -> Result<Ticket, ReplaceError> {
        if !matches!(self.phase, Phase::Running) {
            return Err(ReplaceError::Fenced);
        }
        let partition = self.partitions.get(&number).ok_or(ReplaceError::UnknownPartition)?;
        if self.moves.is_rewriting(number) || replacements.is_empty() {
            return Err(ReplaceError::Busy);
        }
        if self.space.free() < self.space.meta_reserve() + 2 || self.is_index_full() {
            return Err(ReplaceError::Full);
        }
        let mut end = Offset(i64::MIN);
        let mut frames = Vec::with_capacity(replacements.len());
        for replacement in replacements {
            let frame = replacement.frame(number);
            let base = frame.header.base_offset;
            assert!(base >= end, "replacements ascend");
            end = frame.end_offset();
            if frame.body.is_empty() {
                let holes = Pending::holes(number, partition, base, end);
                frames.extend(holes.into_iter().map(Pending::written_anew));
            } else {
                frames.push(frame);
            }
        }
        assert!(end <= partition.durable_end, "only what is durable is replaced");
        // What the cleaner has not written yet would come behind.
        self.moves
            .queue
            .retain(|(_, frame)| !frame.header.copied || frame.header.partition != number);
        if !self.unguarded.gather_stale {
            self.gatherer.give_up(number);
        }
        let ticket = self.jobs.next_ticket();
        self.moves.rewrites.insert(number, Rewrite { ticket, left: frames.len() });
        self.moves.queue.extend(frames.into_iter().map(|frame| (Lane::Compacted, frame)));
        self.writer.wake(now);
        Ok(ticket)
    }

    /// Whether a commit may take frames that wait: there are slots for them.
    pub(crate) fn has_room_to_move(&self) -> bool {
        self.space.free() >= self.space.meta_reserve() + 2
    }

    /// Whether frames that a commit took wait for the next one.
    pub(crate) fn has_moves_pending(&self) -> bool {
        let pending = self.writer.lanes.iter().flat_map(|lane| &lane.pending);
        pending.into_iter().any(|frame| frame.header.kind == Kind::Replace)
    }

    /// Whether moved frames are on their way to flash.
    pub(crate) fn is_moving(&self) -> bool {
        self.commit.as_ref().is_some_and(|commit| commit.moves()) || self.has_moves_pending()
    }

    /// Puts waiting frames into the commit that is being closed.
    pub(crate) fn take_moves(&mut self, now: Time) {
        // Not beside those that the last commit had no room for, which may be in a lane that is
        // written later: the newer one has to come behind.
        let waits = self.moves.is_waiting() && !self.has_moves_pending();
        if !waits || !self.has_room_to_move() {
            return;
        }
        let bytes_max = MOVE_BYTES_MAX.min(self.geometry.slot_bytes as usize / 4);
        let mut bytes = 0;
        while let Some((_, frame)) = self.moves.queue.front() {
            bytes += frame.header.frame_bytes();
            let full = bytes > bytes_max && !self.unguarded.unbounded_moves;
            if full && bytes > frame.header.frame_bytes() {
                break;
            }
            let Some((lane, frame)) = self.moves.queue.pop_front() else { break };
            self.writer.push(now, lane, frame);
        }
    }

    /// A frame of kind replace is durable in a slot: it counts from now on.
    /// But at `until` and behind the partition was truncated meanwhile.
    pub(crate) fn moved(&mut self, place: Place, group_seq: u64, frame: &Pending, until: Offset) {
        let number = frame.header.partition;
        let bytes = frame.header.frame_bytes() as u64;
        match frame.header.copied {
            false if self.is_compacting(number) => self.stats.rewritten_bytes += bytes,
            false => self.stats.repaired_bytes += bytes,
            true => self.stats.cleaned_bytes += bytes,
        }
        if let Some(partition) = self.partitions.get_mut(&number) {
            let end_offset = until.min(frame.end_offset());
            let spot = Spot { at: place.at, end_offset, ..frame.spot() };
            let moved = frame.header.copied && !self.unguarded.guess_moved;
            if !frame.header.copied {
                partition.learn(&spot, BatchHeader::parse(&frame.body).ok().as_ref());
            }
            let changes = partition.replace_runs(place.slot, &spot, moved);
            self.space.note_moved(&changes, group_seq);
            // Of a run that begins below the log start, nothing but that may be left.
            for slot in partition.drop_dead_runs() {
                self.space.note_moved(&[(slot, -1)], group_seq);
            }
        }
        if frame.header.copied {
            return;
        }
        let Some(rewrite) = self.moves.rewrites.get_mut(&number) else { return };
        rewrite.left -= 1;
        self.end_rewrite(number);
    }

    /// Ends a rewrite of which nothing is left to be written.
    fn end_rewrite(&mut self, number: PartitionNumber) {
        let Some(rewrite) = self.moves.rewrites.get(&number) else { return };
        if rewrite.left > 0 {
            return;
        }
        let ticket = rewrite.ticket;
        self.moves.rewrites.remove(&number);
        match self.compactor.awaits(ticket) {
            true => self.compaction_written(),
            false => self.events.push_back(Event::Replaced { partition: number }),
        }
    }

    fn is_compacting(&self, number: PartitionNumber) -> bool {
        let rewrite = self.moves.rewrites.get(&number);
        rewrite.is_some_and(|rewrite| self.compactor.awaits(rewrite.ticket))
    }

    /// Frames of a partition that is rewritten were dropped: how many are left.
    pub(crate) fn recount_rewrite(&mut self, number: PartitionNumber) {
        let queued = self.moves.queue.iter().map(|(_, frame)| frame);
        let pending = self.writer.lanes.iter().flat_map(|lane| &lane.pending);
        let in_flight = self.commit.iter().flat_map(Commit::frames);
        let left = queued.chain(pending).chain(in_flight);
        let left =
            left.filter(|frame| frame.is_rewrite() && frame.header.partition == number).count();
        if let Some(rewrite) = self.moves.rewrites.get_mut(&number) {
            rewrite.left = left;
        }
        self.end_rewrite(number);
    }
}

impl Replacement {
    pub(super) fn frame(self, partition: PartitionNumber) -> Pending {
        let (base_offset, last_offset_delta, leader_epoch, max_timestamp, body) = match self {
            Replacement::Hole { base_offset, last_offset_delta } => {
                (base_offset, last_offset_delta, LeaderEpoch(0), -1, bytes::Bytes::new())
            }
            Replacement::Batch(batch) => {
                let header = BatchHeader::parse(&batch).expect("the log is given whole batches");
                let epoch = LeaderEpoch(header.partition_leader_epoch);
                let delta = header.last_offset_delta;
                (header.base_offset, delta, epoch, header.max_timestamp, batch)
            }
        };
        assert!(last_offset_delta >= 0, "a range has offsets");
        Pending {
            header: FrameHeader {
                kind: Kind::Replace,
                copied: false,
                partition,
                base_offset,
                last_offset_delta,
                leader_epoch,
                body_bytes: body.len() as u32,
                epoch_age: EpochAge::default(),
            },
            max_timestamp,
            body,
        }
    }
}
