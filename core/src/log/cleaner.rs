//! The cleaner: copies what still counts out of slots that are mostly dead, so that they are free.
//!
//! State: event, next state
//! - Idle: free slots are short and a slot is worth it: Footer (or Reading, when it is in memory)
//! - Footer: the footer is there: Reading, at most [`READ_BYTES_MAX`] of the slot
//! - Reading: read and whole: Copying, its frames queued, sorted by partition; else Idle
//! - Copying: all durable: Reading, if the slot is larger than one read, else Idle
//!
//! The frames go out with commits that have other work, or alone, at most
//! [`MOVE_BYTES_MAX`](super::MOVE_BYTES_MAX) in each: that is what a record waits for at most. The
//! slot is free when nothing counts in it any more and a checkpoint knows that.
//!
//! # Which slot
//!
//! Live bytes are known from the runs in memory: a choice looks at each run once, and reads
//! nothing. They are counted with the headers of their frames and without what the groups were
//! padded with, which is what a copy takes. The best slot is the one with the largest
//! `(1 - u) * age / (1 + u)`, `u` being its live share: what is won for what is read and written,
//! and longer for old slots, whose records have shown that they stay. A slot whose records all
//! expire before the free slots are used up at the present rate of writing is left to die: cleaning
//! it would be written for nothing.
//!
//! # How hard
//!
//! Cleaning begins when 10 % is free, with slots at most half live; at 8 %, three quarters. If that
//! finds nothing, the oldest records that their policy lets go expire; and if there are none, slots
//! are cleaned up to 7/8. A slot in which something is damaged is left as it is: see `salvage`.

use super::layout::footer::SlotIndex;
use super::layout::frame::{FRAME_HEADER_BYTES, FrameHeader};
use super::layout::frame_seed;
use super::space::State as SlotState;
use super::writer::Pending;
use super::{IoResult, Lane, Log, Phase, Purpose, Ticket};
use crate::batch::Header as BatchHeader;
use crate::types::{Offset, PartitionNumber, Time};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

/// The most that one read gets of a slot, but for a single larger extent. It stays in memory until
/// its frames are durable.
const READ_BYTES_MAX: u32 = 4 << 20;

/// Who waits for a footer, instead of a question.
pub(crate) const CLEANER: Ticket = Ticket(0);

/// How much of a slot may be live, in sixteenths.
const SOFT: u64 = 8;
const HARD: u64 = 12;
pub(crate) const LAST: u64 = 14;

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Footer {
        slot: Use,
    },
    Reading {
        slot: Use,
        at: u32,
        live: Vec<Live>,
    },
    Copying {
        slot: Use,
    },
}

/// A use of a slot. It may be over, and another begun, while it is cleaned: when what is left in it
/// expires.
#[derive(Clone, Copy, Debug)]
struct Use {
    slot: u32,
    seg_seq: u64,
}

/// A stretch of an extent that counts.
#[derive(Clone, Copy, Debug)]
struct Live {
    partition: PartitionNumber,
    from: Offset,
    until: Offset,
    at: u32,
    bytes: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Cleaner {
    state: State,
    /// Uses of slots that are not cleaned, because something in them cannot be read.
    spared: BTreeMap<u32, u64>,
    /// Bytes written and retention's clock when it was last looked at, and bytes a second.
    seen: Option<(u64, i64)>,
    rate: u64,
    /// A choice that found nothing: how hard it looked, and the slots that were free and the last
    /// that was opened. It is not made again before those change, or retention is applied.
    nothing: Option<(u64, u32, u64)>,
}

/// What the runs say about a slot.
#[derive(Clone, Copy, Debug, Default)]
struct Holds {
    live: u64,
    /// When the last of it expires, by retention's clock.
    dies: i64,
    busy: bool,
}

impl Cleaner {
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Something may have died.
    pub(crate) fn look_again(&mut self) {
        self.nothing = None;
    }

    /// Learns how fast the log is written, from time to time.
    pub(crate) fn observe(&mut self, written_bytes: u64, clock: i64) {
        if let Some((before, since)) = self.seen
            && clock > since
        {
            let rate = (written_bytes - before) * 1000 / (clock - since) as u64;
            self.rate = (self.rate * 7 + rate) / 8;
        }
        self.seen = Some((written_bytes, clock));
    }
}

impl Log {
    /// Goes on with cleaning, or begins if slots are short; `share_max` is how much of a slot may
    /// be live, in sixteenths. Whether something is being cleaned.
    pub(crate) fn clean(&mut self, share_max: Option<u64>) -> bool {
        if !matches!(self.phase, Phase::Running) {
            return false;
        }
        match self.cleaner.state {
            State::Footer { .. } | State::Reading { .. } => return true,
            State::Copying { slot: cleaned } => {
                if self.moves.is_copying() && !self.has_room_to_move() {
                    self.moves.drop_copies();
                    self.cleaner.state = State::Idle;
                    return false;
                }
                if self.moves.is_copying() || self.is_moving() {
                    return true;
                }
                self.cleaner.state = State::Idle;
                if !self.holds_records(cleaned) {
                    self.stats.slots_cleaned += 1;
                } else if !self.winding_down {
                    self.begin_cleaning(cleaned.slot);
                    return true;
                }
            }
            State::Idle => {}
        }
        let gathering = self.gatherer.is_reading() || self.moves.is_copying() || self.is_moving();
        let free = self.space.free() + self.space.dead;
        let short = free <= self.space.pressure() + (self.space.count() / 50).max(1);
        if !short || gathering || self.winding_down || !self.has_room_to_move() {
            return false;
        }
        let hard = if free <= self.space.pressure() { HARD } else { SOFT };
        let share_max = share_max.unwrap_or(hard);
        let at = (self.space.free(), self.space.next_seg_seq);
        if self.cleaner.nothing.is_some_and(|(share, a, b)| share >= share_max && (a, b) == at) {
            return false;
        }
        let Some(slot) = self.victim(share_max) else {
            self.cleaner.nothing = Some((share_max, at.0, at.1));
            return false;
        };
        // If it turns out to be of no use, the next one comes with the next step.
        self.begin_cleaning(slot);
        true
    }

    /// The slot that is most worth cleaning.
    fn victim(&self, share_max: u64) -> Option<u32> {
        let slot_bytes = u64::from(self.geometry.slot_bytes);
        let slots = self.slots_hold();
        let slack = self.space.free().saturating_sub(self.space.reserve());
        let lasts_ms = u64::from(slack) * slot_bytes * 1000 / self.cleaner.rate.max(1);
        let clock = self.keeper.clock();
        let mut best: Option<(u64, u32)> = None;
        for (number, slot) in self.space.iter() {
            let holds = slots[number as usize];
            let spared = self.cleaner.spared.get(&number) == Some(&slot.seg_seq);
            let usable = slot.state == SlotState::Sealed && slot.runs > 0 && !spared;
            if !usable || holds.busy || self.space.pinned.contains(&number) {
                continue;
            }
            let live = self.space.framed(number, holds.live);
            if live * 16 > slot_bytes * share_max || self.is_close(number, holds.live) {
                continue;
            }
            let dies_ms = clock.map_or(i64::MAX, |clock| holds.dies.saturating_sub(clock));
            if holds.dies < i64::MAX && dies_ms <= i64::try_from(lasts_ms).unwrap_or(i64::MAX) {
                continue;
            }
            let age = (self.space.next_seg_seq - slot.seg_seq).min(1 << 30);
            let score = (slot_bytes - live) * age / ((slot_bytes + live) >> 10).max(1);
            if best.is_none_or(|(highest, _)| score > highest) {
                best = Some((score, number));
            }
        }
        best.map(|(_, slot)| slot)
    }

    /// Whether a copy of a slot would take as much as it does: what cleaning filled, and nothing in
    /// it has died since; or it is as full as slots get, and nearly all of it counts still. The
    /// first does not go by how much counts, which is a guess: the batch that the log start is in
    /// is copied in whole.
    fn is_close(&self, number: u32, batch_bytes: u64) -> bool {
        let slot = self.space.slot(number);
        let full = u64::from(slot.framed) * 16 > u64::from(self.geometry.slot_bytes) * 9;
        let packed = u64::from(slot.copied) * 8 > u64::from(slot.framed) * 7;
        packed || full && batch_bytes * 8 > u64::from(slot.filled) * 7
    }

    fn slots_hold(&self) -> Vec<Holds> {
        let mut slots = alloc::vec![Holds::default(); self.space.count() as usize];
        for (&number, partition) in &self.partitions {
            let busy = self.moves.is_rewriting(number);
            let retention = partition.policy.retention;
            for (index, run) in partition.runs.iter().enumerate() {
                let holds = &mut slots[run.slot as usize];
                let end = partition.run_end(index);
                holds.live += u64::from(run.live_bytes(end, partition.log_start_durable));
                holds.busy |= busy;
                let dies = match retention.ms {
                    ms if ms >= 0 => run.max_timestamp.saturating_add(ms),
                    _ => i64::MAX,
                };
                holds.dies = holds.dies.max(dies);
            }
        }
        slots
    }

    fn begin_cleaning(&mut self, slot: u32) {
        let cleaned = Use { slot, seg_seq: self.space.slot(slot).seg_seq };
        if self.index_of(slot).is_none() {
            self.cleaner.state = State::Footer { slot: cleaned };
            return self.load_footer(slot, CLEANER);
        }
        let Some((from, until, live)) = self.next_live(slot) else { return self.spare(slot) };
        log::debug!("cleaning slot {slot}: {} stretches, {from} to {until}", live.len());
        self.cleaner.state = State::Reading { slot: cleaned, at: from, live };
        self.disk.read(Purpose::Clean, self.geometry.place(slot, from), until - from);
    }

    /// The footer that cleaning waited for is there, or cannot be read.
    pub(crate) fn clean_footer(&mut self, read: bool) {
        let State::Footer { slot: cleaned } = self.cleaner.state else { return };
        self.cleaner.state = State::Idle;
        match self.holds_records(cleaned) {
            true if read => self.begin_cleaning(cleaned.slot),
            true => self.spare(cleaned.slot),
            false => {}
        }
    }

    /// Whether the slot is still in that use, and something in it counts.
    fn holds_records(&self, cleaned: Use) -> bool {
        let slot = self.space.slot(cleaned.slot);
        slot.seg_seq == cleaned.seg_seq && slot.state == SlotState::Sealed && slot.runs > 0
    }

    /// Leaves a slot as it is.
    fn spare(&mut self, slot: u32) {
        self.cleaner.spared.insert(slot, self.space.slot(slot).seg_seq);
        self.cleaner.state = State::Idle;
    }

    /// What counts in a slot, as much as one read gets, and where in the slot it is. `None` when
    /// there is nothing, or not everything is in the index.
    fn next_live(&mut self, slot: u32) -> Option<(u32, u32, Vec<Live>)> {
        let index = self.index_of(slot)?;
        let mut live = Vec::new();
        let parts: Vec<PartitionNumber> = index.parts.keys().copied().collect();
        for number in parts {
            let Some(partition) = self.partitions.get(&number) else { continue };
            let runs: Vec<(Offset, Offset)> = partition.runs_in(slot).collect();
            let index = self.index_of(slot)?;
            for (from, until) in runs {
                stretches(index, number, from, until, &mut live)?;
            }
        }
        live.sort_by_key(|live| live.at);
        let from = live.first()?.at;
        let fits = |live: &Live| live.at == from || live.at + live.bytes - from <= READ_BYTES_MAX;
        live.retain(fits);
        let until = live.iter().map(|live| live.at + live.bytes).max()?;
        Some((from, until, live))
    }

    /// What counts in the slot was read.
    pub(crate) fn clean_read(&mut self, now: Time, result: &IoResult) {
        let state = core::mem::take(&mut self.cleaner.state);
        let State::Reading { slot: cleaned, at, mut live } = state else { return };
        if !self.holds_records(cleaned) {
            return;
        }
        let slot = cleaned.slot;
        let IoResult::Read(bytes) = result else { return self.spare(slot) };
        let partitions = &self.partitions;
        // What lives as long stands together, and so does what one reader reads.
        live.sort_by_key(|live| {
            let retention = partitions.get(&live.partition).map(|one| one.policy.retention.ms);
            (retention.map(|ms| ms as u64), live.partition, live.from)
        });
        let seed = frame_seed(&self.geometry.store, cleaned.seg_seq);
        let mut copies: Vec<Pending> = Vec::new();
        let mut runs: (Option<PartitionNumber>, Vec<(Offset, Offset)>) = (None, Vec::new());
        for live in &live {
            if runs.0 != Some(live.partition) {
                // Only what still counts: it may have expired, or be replaced, since it was asked
                // for.
                let partition = self.partitions.get(&live.partition);
                let here = partition.into_iter().flat_map(|partition| partition.runs_in(slot));
                runs = (Some(live.partition), here.collect());
                if self.moves.is_rewriting(live.partition) {
                    return;
                }
            }
            let within = (live.at - at) as usize..(live.at - at + live.bytes) as usize;
            let Some(extent) = bytes.get(within.clone()).map(|_| bytes.slice(within)) else {
                return self.spare(slot);
            };
            if copy_frames(live, &runs.1, &extent, seed, &mut copies).is_none() {
                log::error!("slot {slot} has damaged bytes that count: it is not cleaned");
                return self.spare(slot);
            }
        }
        if copies.is_empty() {
            return self.spare(slot);
        }
        for frame in copies {
            self.moves.push(Lane::Compacted, frame);
        }
        self.writer.wake(now);
        self.cleaner.state = State::Copying { slot: cleaned };
        if self.unguarded.free_before_replace {
            self.space.free_early(slot);
        }
    }
}

/// Adds the stretches of a slot's extents that hold these offsets; `None` if some are not there.
fn stretches(
    index: &SlotIndex,
    partition: PartitionNumber,
    mut from: Offset,
    until: Offset,
    live: &mut Vec<Live>,
) -> Option<()> {
    let part = index.parts.get(&partition)?;
    while from < until {
        let (found, end) = part.extent_at(from, index.settled)?;
        let extent = part.extents.at(found);
        let end = end.min(until);
        live.push(Live { partition, from, until: end, at: extent.at, bytes: extent.bytes });
        from = end;
    }
    Some(())
}

/// Copies the frames of an extent that count; `None` if one is damaged.
fn copy_frames(
    live: &Live,
    runs: &[(Offset, Offset)],
    extent: &Bytes,
    seed: u32,
    copies: &mut Vec<Pending>,
) -> Option<()> {
    let mut at = 0;
    while at < extent.len() {
        let header = FrameHeader::verify(&extent[at..], seed)?;
        let body = extent.slice(at + FRAME_HEADER_BYTES..at + header.frame_bytes());
        at += header.frame_bytes();
        // What counts of it, and of which run.
        let base = live.from.max(header.base_offset);
        let end = live.until.min(header.end_offset());
        let overlaps = |&&(from, until): &&(Offset, Offset)| from < end && base < until;
        let Some(&(from, until)) = runs.iter().find(overlaps).filter(|_| base < end) else {
            continue;
        };
        let header = header.copy();
        let max_timestamp = BatchHeader::parse(&body).map_or(-1, |batch| batch.max_timestamp);
        let frame = Pending { header, max_timestamp, body };
        // Of a batch that was truncated in its middle, what is left has no records.
        let whole = !frame.body.is_empty() && frame.end_offset() <= until.min(live.until);
        let epoch = frame.header.leader_epoch;
        let hole = || Pending::hole(live.partition, base.max(from), end.min(until), epoch);
        let Some(frame) = (if whole { Some(frame) } else { hole() }) else { continue };
        let FrameHeader { base_offset, last_offset_delta, .. } = frame.header;
        if frame.body.is_empty()
            && let Some(last) = copies.last_mut()
            && last.body.is_empty()
            && last.header.partition == frame.header.partition
            && last.header.leader_epoch == epoch
            && last.end_offset() == base_offset
            && let Some(delta) = last.header.last_offset_delta.checked_add(1)
            && let Some(delta) = delta.checked_add(last_offset_delta)
        {
            last.header.last_offset_delta = delta;
            continue;
        }
        copies.push(frame);
    }
    Some(())
}
