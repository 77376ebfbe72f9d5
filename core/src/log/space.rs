//! The slots: which are free, which hold what, and how many must be kept back.

use super::Lane;
use super::layout::BLOCK;
use alloc::vec;
use alloc::vec::Vec;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    Open,
    Sealed,
    /// A write to it failed. What is in it is still read; it is not written again until the next
    /// start.
    Abandoned,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub state: State,
    pub lane: u8,
    pub seg_seq: u64,
    pub first_seq: u64,
    pub last_seq: u64,
    /// Bytes of record batches that were written to it, and of their frames.
    pub filled: u32,
    pub framed: u32,
    /// Of those, what the cleaner copied since the start; nothing once some of it has died.
    pub copied: u32,
    /// Runs of partitions that are in it.
    pub runs: u32,
    /// The highest group that took the place of something in it.
    pub moved_seq: u64,
    /// Up to where the slot was written once already, so that writing there costs the file
    /// system's journal nothing.
    pub zeroed: u32,
}

impl Slot {
    pub(crate) const NEW: Slot = Slot {
        state: State::Free,
        lane: 0,
        seg_seq: 0,
        first_seq: 0,
        last_seq: 0,
        filled: 0,
        framed: 0,
        copied: 0,
        runs: 0,
        moved_seq: 0,
        zeroed: 0,
    };
}

#[derive(Debug, Default)]
pub(crate) struct Space {
    slots: Vec<Slot>,
    /// Where the search for a free slot goes on: use goes around, so that wear is even.
    cursor: u32,
    free: u32,
    /// Slots that hold the last durable checkpoint.
    pub pinned: Vec<u32>,
    pub next_seg_seq: u64,
    /// Slots that are free once there is another checkpoint.
    pub dead: u32,
    /// Runs in all slots.
    pub runs: u64,
}

impl Space {
    /// A medium of which the first `present` slots exist already.
    pub(crate) fn new(slots: u32, present: u32, slot_bytes: u32) -> Space {
        let mut space = Space {
            slots: vec![Slot::NEW; slots as usize],
            next_seg_seq: 1,
            free: slots,
            ..Space::default()
        };
        for slot in space.slots.iter_mut().take(present as usize) {
            slot.zeroed = slot_bytes;
        }
        space
    }

    pub(crate) fn slot(&self, slot: u32) -> &Slot {
        &self.slots[slot as usize]
    }

    pub(crate) fn slot_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.slots[slot as usize]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Slot)> {
        (0u32..).zip(&self.slots)
    }

    pub(crate) fn count(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(crate) fn free(&self) -> u32 {
        self.free
    }

    /// Slots that appends of user data must leave: for cleaning the larger of 4 slots and 2 %, for
    /// the meta lane 4 slots, and 4 % in all at least. On media of less than 32 slots an eighth
    /// each.
    pub(crate) fn reserve(&self) -> u32 {
        let small = self.meta_reserve();
        let cleaning = small.max(self.count() / 50);
        (cleaning + small).max(self.count() / 25)
    }

    /// Slots that cleaning leaves for the meta lane.
    pub(crate) fn meta_reserve(&self) -> u32 {
        (self.count() / 8).clamp(1, 4)
    }

    /// When no more than this is free, data is expired before its time: 8 %, and above the reserve.
    pub(crate) fn pressure(&self) -> u32 {
        (self.count() * 2 / 25).max(self.reserve() + (self.count() / 16).clamp(1, 4))
    }

    /// When no more than this is free, that is said: half as much again as is expired at.
    pub(crate) fn low(&self) -> u32 {
        self.pressure() + self.pressure().div_ceil(2)
    }

    /// What must be free beyond a border before it counts as left.
    pub(crate) fn slack(&self) -> u32 {
        (self.count() / 100).max(2)
    }

    /// The slot that [`Space::take`] gives next.
    pub(crate) fn next_free(&self) -> Option<u32> {
        let count = self.count();
        (0..count)
            .map(|step| (self.cursor + step) % count)
            .find(|&slot| self.slot(slot).state == State::Free)
    }

    /// Opens a free slot for a lane.
    pub(crate) fn take(&mut self, lane: u8) -> Option<u32> {
        let slot = self.next_free()?;
        self.cursor = (slot + 1) % self.count();
        let seg_seq = self.next_seg_seq;
        self.next_seg_seq += 1;
        self.free -= 1;
        let Slot { zeroed, runs, .. } = *self.slot(slot);
        *self.slot_mut(slot) =
            Slot { state: State::Open, lane, seg_seq, zeroed, runs, ..Slot::NEW };
        Some(slot)
    }

    /// At a start by footers alone: which slots were free is not known. Those are in which nothing
    /// counts, but for the meta lane's: there it stands what was deleted, and no checkpoint has it.
    /// Of those the oldest go, if there is no room for a checkpoint otherwise.
    pub(crate) fn free_dead(&mut self) {
        let is_dead = |slot: &Slot| slot.state == State::Sealed && slot.runs == 0;
        let dead = self.iter().filter(|(_, slot)| is_dead(slot));
        let mut dead: Vec<(bool, u64, u32)> = dead
            .map(|(number, slot)| (slot.lane == Lane::Meta as u8, slot.seg_seq, number))
            .collect();
        dead.sort_unstable();
        let mut free = self.slots.iter().filter(|slot| slot.state == State::Free).count() as u32;
        for (meta, _, number) in dead {
            if !meta || free < self.reserve() {
                self.slot_mut(number).state = State::Free;
                free += 1;
            }
        }
    }

    /// At the start, when the slots are what they were: goes on after this slot.
    pub(crate) fn resume(&mut self, last: Option<u32>) {
        self.cursor = last.map_or(0, |slot| (slot + 1) % self.count());
        self.free = self.slots.iter().filter(|slot| slot.state == State::Free).count() as u32;
    }

    /// Slots without live data that the last checkpoint does not need become free; how many a new
    /// checkpoint would make so.
    ///
    /// A slot with groups above the checkpoint is kept: a start has to read them. So is one whose
    /// data was moved by a group above it: the checkpoint still points there.
    pub(crate) fn sweep(&mut self, checkpointed: u64, mut freed: impl FnMut(u32)) -> u32 {
        let mut more = 0;
        for (number, slot) in (0u32..).zip(self.slots.iter_mut()) {
            if slot.state != State::Sealed || slot.runs > 0 || self.pinned.contains(&number) {
                continue;
            }
            if slot.last_seq.max(slot.moved_seq) <= checkpointed {
                slot.state = State::Free;
                self.free += 1;
                freed(number);
            } else {
                more += 1;
            }
        }
        self.dead = more;
        more
    }

    /// Of so many bytes of record batches in a slot, what their frames take.
    pub(crate) fn framed(&self, slot: u32, batch_bytes: u64) -> u64 {
        let slot = self.slot(slot);
        batch_bytes * u64::from(slot.framed.max(1)) / u64::from(slot.filled.max(1))
    }

    /// A bug that the simulation must find: what was to be copied is not durable yet.
    pub(crate) fn free_early(&mut self, slot: u32) {
        self.slot_mut(slot).state = State::Free;
        self.free += 1;
        self.cursor = slot;
    }

    /// Runs moved by a group: how many more or less each slot has.
    pub(crate) fn note_moved(&mut self, changes: &[(u32, i32)], group_seq: u64) {
        for &(number, more) in changes {
            self.runs = self.runs.saturating_add_signed(more.into());
            let slot = self.slot_mut(number);
            slot.runs = slot.runs.checked_add_signed(more).expect("runs are counted");
            if more <= 0 {
                slot.moved_seq = slot.moved_seq.max(group_seq);
            }
            if more <= 0 && group_seq > slot.last_seq {
                slot.copied = 0;
            }
        }
    }

    /// A partition has something in a slot, in which it had nothing.
    pub(crate) fn add_run(&mut self, slot: u32) {
        self.slot_mut(slot).runs += 1;
        self.runs += 1;
    }

    /// It was not written after all.
    pub(crate) fn take_run(&mut self, slot: u32) {
        self.slot_mut(slot).runs -= 1;
        self.runs -= 1;
    }

    /// A run that was dead is gone from a slot.
    pub(crate) fn drop_run(&mut self, slot: u32) {
        self.take_run(slot);
        self.slot_mut(slot).copied = 0;
    }

    /// How much to zero before writing up to `end`.
    pub(crate) fn unzeroed(&self, slot: u32, end: u32) -> Option<(u32, u32)> {
        let zeroed = self.slot(slot).zeroed;
        (zeroed < end).then(|| (zeroed, end - zeroed))
    }
}

/// Zeroing is done in pieces of about this many bytes, so that no commit waits long behind one.
pub(crate) const ZERO_BYTES: u32 = 16 * BLOCK;
