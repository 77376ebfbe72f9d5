//! Gathering: of a partition, what stands in small pieces in many slots is written anew in few, so
//! that the index in memory keeps its cap.
//!
//! The index has a run for each stretch of a partition that stands in one slot: as many as slots
//! times partitions, which with 2,048 slots and the 10,000 partitions that a node may have were 330
//! MB. `index_runs_max` is the most that there are. At three quarters of it gathering begins; at
//! the cap itself user data is refused as on a full disk, with a retriable error, until there is
//! room again. What is stored stays where it is found as before: nothing is ever out of memory.
//! The cap may be passed by the meta lane, which is never refused and has a handful of partitions;
//! by what one write of key compaction divides; and by a run for each slot that cleaning fills.
//!
//! State: event, next state
//! - Idle: the index is short and some slots are worth it: Reading
//! - Reading, one run of a partition at a time: read: Reading the next one, or Copying when
//!   [`MOVE_BYTES_MAX`] of copies wait
//! - Copying: all durable: Reading, or Idle when the slots are done
//!
//! The cleaner and this take turns: never do both copy at the same time, and where slots are short
//! the cleaner goes first.
//!
//! A copy is one of the cleaner's: a frame of kind replace in the lane of survivors, which counts
//! when it is durable. What is truncated is dropped from the queue, and what is rewritten
//! ([`Log::replace`]) meanwhile is not copied: the copy would come behind.
//!
//! # What is gathered
//!
//! Only pieces smaller than eight times the bytes that each run has when the log is full and the
//! index, too; so never again what was made large enough. If no two neighbours of a partition are
//! that small, there is a quarter of the cap, and a run or two for each partition and lane. Slots
//! are taken in the order in which they were filled, 16 at a time, and partition after partition:
//! so what is read of a slot is found with a footer that is in the cache. Where this finds
//! little, four times as many slots are taken, up to all.
//!
//! # Why not page
//!
//! Paging what is old (2026-11) was weighed: footers say what a slot holds, not what of it still
//! counts, and the checkpoint, the start, the cleaner's choice, retention and compaction all look
//! at every run. So memory and time were bounded only if all of these paged as well, and a gateway
//! with that many pieces would read a footer of a thousand partitions for a few kilobytes of one.
//! Gathering costs a second write of what is gathered, below a cap that few logs reach (500
//! partitions that all write into every slot of a full log), bounds all of those, and makes reads
//! of one partition sequential.

use super::moves::MOVE_BYTES_MAX;
use super::partition::Partition;
use super::space::State as SlotState;
use super::writer::Pending;
use super::{Answer, Batches, FetchError, FetchSpec, Lane, Log, Phase, Replacement, Ticket};
use crate::types::{Offset, PartitionNumber, Time};
use alloc::vec::Vec;
use core::ops::Bound;

/// What the index takes in memory.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct IndexStats {
    /// Which slots hold what of each partition: 16 to 24 bytes each. All of it is in memory.
    pub runs: u64,
    pub runs_bytes: u64,
    /// How many there may be, and how many were written anew so that they are fewer.
    pub runs_max: u64,
    pub runs_gathered: u64,
    /// What of a slot belongs to which partition, for the slots that were looked into last.
    pub extents: u64,
    pub extents_bytes: u64,
    pub extents_bytes_max: u64,
}

/// Slots that are gathered together, at first.
const SLOTS_AT_ONCE: usize = 16;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    Reading(Ticket),
    Copying,
}

/// Runs of a partition that adjoin, of which each is small, and what is left of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    number: PartitionNumber,
    from: Offset,
    end: Offset,
}

/// The slots that are gathered, and how far that is.
#[derive(Debug)]
struct Work {
    /// By number.
    slots: Vec<bool>,
    stretch: Option<Stretch>,
    /// Where the last stretch ended.
    done: (PartitionNumber, Offset),
    moved: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Gatherer {
    state: State,
    work: Option<Work>,
    /// The next `seg_seq` when there was nothing to gather.
    fruitless_at: Option<u64>,
    /// It was said that appends are refused.
    is_full: bool,
    /// What was asked for is there.
    has_read: bool,
    /// Runs that were gathered into fewer.
    pub gathered: u64,
}

impl Gatherer {
    pub(crate) fn is_reading(&self) -> bool {
        matches!(self.state, State::Reading(_))
    }

    pub(crate) fn awaits(&self, ticket: Ticket) -> bool {
        self.state == State::Reading(ticket)
    }

    /// What a partition has is written anew, or gone: what is being read of it is not copied.
    pub(crate) fn give_up(&mut self, number: PartitionNumber) {
        if let Some(work) = &mut self.work {
            work.stretch.take_if(|stretch| stretch.number == number);
        }
    }
}

/// What gathering a window of slots would do.
#[derive(Clone, Copy, Debug, Default)]
struct Worth {
    runs: u64,
    fewer: u64,
    bytes: u64,
}

impl Log {
    pub(crate) fn runs_max(&self) -> u64 {
        self.settings.index_runs_max.into()
    }

    /// Whether no more runs may be made by user data.
    pub(crate) fn is_index_full(&self) -> bool {
        let waiting = self.writer.pending() as u64;
        let full = self.space.runs + waiting >= self.runs_max();
        full && !self.unguarded.no_index_cap
    }

    /// Goes on with gathering when what it asked for is there.
    pub(crate) fn gather_on(&mut self, now: Time) {
        if core::mem::take(&mut self.gatherer.has_read) {
            self.gather(now);
        }
    }

    /// Goes on with gathering, or begins it when the index is short.
    pub(crate) fn gather(&mut self, now: Time) {
        self.note_full_index();
        let running = matches!(self.phase, Phase::Running) && !self.winding_down;
        match self.gatherer.state {
            State::Reading(_) => return,
            // Nobody else may be there to do it: slots ran short meanwhile.
            State::Copying if !self.has_room_to_move() => self.moves.drop_copies(),
            State::Copying if self.moves.is_copying() || self.is_moving() => return,
            State::Copying | State::Idle => {}
        }
        self.gatherer.state = State::Idle;
        // Of a run that two copy at the same time, how much is left is a guess.
        if !self.cleaner.is_idle() {
            self.gatherer.work = None;
            return;
        }
        // It frees slots only later, so those that are kept back are not for it.
        let room = self.space.free() > self.space.reserve() + 1;
        if !running || !room || self.unguarded.no_index_cap {
            return;
        }
        // Where what was gathered last is on flash by now, nothing else would begin the next slots.
        while self.gatherer.state == State::Idle {
            let short = self.space.runs * 4 >= self.runs_max() * 3;
            if self.gatherer.work.is_none() && short {
                self.begin_gathering();
            }
            if self.gatherer.work.is_none() {
                return;
            }
            if self.read_next() {
                self.writer.wake(now);
            }
        }
    }

    fn note_full_index(&mut self) {
        let full = self.is_index_full();
        if full && !self.gatherer.is_full {
            log::warn!(
                "the index has {} runs, its most: records are refused until some are gathered; \
                 fewer partitions, or more bytes in each, need fewer",
                self.space.runs
            );
        }
        self.gatherer.is_full = full;
    }

    /// Chooses the slots of which most runs become fewer for the bytes.
    fn begin_gathering(&mut self) {
        let opened = self.space.next_seg_seq;
        if self.gatherer.fruitless_at == Some(opened) {
            return;
        }
        let slots = self.space.iter().filter(|(_, slot)| slot.state == SlotState::Sealed);
        let mut order: Vec<(u64, u32)> = slots.map(|(n, slot)| (slot.seg_seq, n)).collect();
        order.sort_unstable();
        let mut width = SLOTS_AT_ONCE;
        loop {
            let last = width >= order.len();
            if let Some(chosen) = self.worthiest(&order, width, last) {
                let mut slots = alloc::vec![false; self.space.count() as usize];
                for &(_, slot) in order.iter().skip(chosen * width).take(width) {
                    slots[slot as usize] = true;
                }
                log::debug!("gathering {width} slots, {} runs in all", self.space.runs);
                let done = (PartitionNumber(0), Offset(i64::MIN));
                self.gatherer.work = Some(Work { slots, stretch: None, done, moved: false });
                return;
            }
            if last {
                self.gatherer.fruitless_at = Some(opened);
                return;
            }
            width *= 4;
        }
    }

    /// Which window of so many slots is worth most. Unless it is the last width to try, half of its
    /// runs have to go.
    fn worthiest(&self, order: &[(u64, u32)], width: usize, last: bool) -> Option<usize> {
        let mut window_of = alloc::vec![usize::MAX; self.space.count() as usize];
        for (rank, &(_, slot)) in order.iter().enumerate() {
            window_of[slot as usize] = rank / width;
        }
        let mut worth = alloc::vec![Worth::default(); order.len().div_ceil(width)];
        for partition in self.partitions.values() {
            let mut before = usize::MAX;
            for index in 0..partition.runs.len() {
                let run = partition.runs.at(index);
                let window = match self.is_small(partition, index) {
                    true => window_of[run.slot as usize],
                    false => usize::MAX,
                };
                if let Some(worth) = worth.get_mut(window) {
                    worth.runs += 1;
                    worth.bytes += u64::from(run.bytes);
                    worth.fewer += u64::from(before == window);
                }
                before = window;
            }
        }
        let good = |worth: &Worth| worth.fewer > 0 && (last || worth.fewer * 2 >= worth.runs);
        let worth = worth.iter().enumerate().filter(|(_, worth)| good(worth));
        let key = |worth: &Worth| worth.fewer * (1 << 20) / worth.bytes.max(1);
        worth.max_by_key(|(_, worth)| key(worth)).map(|(window, _)| window)
    }

    /// Whether a run is to be gathered with its neighbours: it is whole, durable, and small.
    fn is_small(&self, partition: &Partition, index: usize) -> bool {
        let slots_bytes = u64::from(self.geometry.slot_bytes) * u64::from(self.space.count());
        let large = 8 * slots_bytes / self.runs_max().max(1);
        let large = large.min(u64::from(self.geometry.slot_bytes) / 2);
        let (run, end) = (partition.runs.at(index), partition.run_end(index));
        let whole = run.base_offset >= partition.log_start
            && end <= partition.durable_end
            && partition.run_data_end(index) == end;
        whole && u64::from(run.bytes) < large
    }

    /// The next stretch in the slots that are gathered.
    fn next_stretch(&self, work: &Work) -> Option<Stretch> {
        let (first, from) = work.done;
        for (&number, partition) in
            self.partitions.range((Bound::Included(first), Bound::Unbounded))
        {
            if self.moves.is_rewriting(number) {
                continue;
            }
            let from = if number == first { from } else { Offset(i64::MIN) };
            let mut begin = None;
            for index in partition.runs.below(from)..=partition.runs.len() {
                let run = partition.runs.get(index);
                let joins = run.is_some_and(|run| {
                    work.slots[run.slot as usize] && self.is_small(partition, index)
                });
                match begin {
                    _ if joins => begin = begin.or(Some(index)),
                    Some(begin) if index - begin >= 2 => {
                        let from = partition.runs.at(begin).base_offset;
                        return Some(Stretch { number, from, end: partition.run_end(index - 1) });
                    }
                    _ => begin = None,
                }
            }
        }
        None
    }

    /// Reads until there is something to wait for; whether copies are.
    fn read_next(&mut self) -> bool {
        while self.gatherer.state == State::Idle {
            let Some(mut work) = self.gatherer.work.take() else { return false };
            let bytes_max = MOVE_BYTES_MAX.min(self.geometry.slot_bytes as usize / 4);
            if self.moves.copy_bytes() >= bytes_max {
                self.gatherer.state = State::Copying;
                self.gatherer.work = Some(work);
                return true;
            }
            let Some(stretch) = work.stretch.or_else(|| self.next_stretch(&work)) else {
                if !work.moved {
                    self.gatherer.fruitless_at = Some(self.space.next_seg_seq);
                }
                if self.moves.is_copying() || self.is_moving() {
                    self.gatherer.state = State::Copying;
                }
                return self.moves.is_copying();
            };
            if work.stretch.is_none() {
                let partition = &self.partitions[&stretch.number];
                let (first, last) = (stretch.from, stretch.end);
                let runs = partition.runs.below(last) - partition.runs.below(first);
                self.gatherer.gathered += runs as u64;
                work.done = (stretch.number, stretch.end);
            }
            work.stretch = Some(stretch);
            self.gatherer.work = Some(work);
            let Stretch { number: partition, from, end } = stretch;
            let spec = FetchSpec { partition, from, end, bytes_max, at_least_one: true };
            match self.fetch(spec) {
                Ok(Answer::Later(ticket)) => self.gatherer.state = State::Reading(ticket),
                Ok(Answer::Now(batches)) => self.copy(batches),
                Err(_) => self.gatherer.give_up(partition),
            }
        }
        false
    }

    /// What was asked for is there, or cannot be read.
    pub(crate) fn gather_read(&mut self, result: Result<Batches, FetchError>) {
        self.gatherer.state = State::Idle;
        self.gatherer.has_read = true;
        match (result, &mut self.gatherer.work) {
            (Ok(batches), _) => self.copy(batches),
            (Err(_), Some(work)) => work.stretch = None,
            (Err(_), None) => {}
        }
    }

    /// Queues batches of the stretch, and what is between them, which has no records.
    fn copy(&mut self, batches: Batches) {
        let Some(work) = &mut self.gatherer.work else { return };
        let Some(mut stretch) = work.stretch.take() else { return };
        let number = stretch.number;
        let mut copies: Vec<Pending> = Vec::new();
        let Some(partition) = self.partitions.get(&number) else { return };
        let put_hole = |from: Offset, until: Offset, copies: &mut Vec<Pending>| {
            if from < until {
                copies.extend(Pending::holes(number, partition, from, until));
            }
        };
        let all = batches.is_empty();
        for batch in batches {
            let frame = Replacement::Batch(batch).frame(number).copied();
            let base = frame.header.base_offset;
            // Of another place than was asked for: what is here is left as it is.
            if base < stretch.from || frame.end_offset() > stretch.end {
                return;
            }
            put_hole(stretch.from, base, &mut copies);
            stretch.from = frame.end_offset();
            copies.push(frame);
        }
        if all {
            put_hole(stretch.from, stretch.end, &mut copies);
            stretch.from = stretch.end;
        }
        if self.unguarded.gather_loses
            && let Some(last) = copies.pop()
        {
            put_hole(last.header.base_offset, last.end_offset(), &mut copies);
        }
        work.moved |= !copies.is_empty();
        work.stretch = Some(stretch).filter(|stretch| stretch.from < stretch.end);
        for frame in copies {
            self.moves.push(Lane::Compacted, frame);
        }
    }
}
