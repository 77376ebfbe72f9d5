//! What sealed slots hold: a bounded cache of footers, and how a missing one is read.

use super::layout::footer::{self, SlotIndex};
use super::layout::frame_seed;
use super::scan::{Scan, Seen, Step, outlines};
use super::{FetchError, IndexStats, IoResult, Log, Purpose, Ticket};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

#[derive(Debug)]
struct Kept {
    index: SlotIndex,
    bytes: usize,
    used: u64,
}

#[derive(Debug)]
enum Loading {
    /// The end of the slot is being read, so many bytes.
    Tail(u32),
    /// The footer is bad: the slot is walked group by group.
    Walk(Scan, SlotIndex),
}

#[derive(Debug)]
struct Load {
    seg_seq: u64,
    loading: Loading,
    waiting: Vec<Ticket>,
    /// Something of what is walked cannot be read. A card may find it again: who asks next reads
    /// anew.
    unread: bool,
}

#[derive(Debug)]
pub(crate) struct Footers {
    bytes_max: usize,
    bytes: usize,
    clock: u64,
    kept: BTreeMap<u32, Kept>,
    /// Slots without a footer on flash: an index here is never dropped for room.
    only_here: Vec<u32>,
    loads: BTreeMap<u32, Load>,
}

/// The first read of a footer: most are smaller.
const TAIL_BYTES: u32 = 64 << 10;

impl Footers {
    pub(crate) fn new(bytes_max: usize) -> Footers {
        Footers {
            bytes_max,
            bytes: 0,
            clock: 0,
            kept: BTreeMap::new(),
            only_here: Vec::new(),
            loads: BTreeMap::new(),
        }
    }

    pub(crate) fn get(&mut self, slot: u32) -> Option<&SlotIndex> {
        self.clock += 1;
        let kept = self.kept.get_mut(&slot)?;
        kept.used = self.clock;
        Some(&kept.index)
    }

    pub(crate) fn insert(&mut self, slot: u32, mut index: SlotIndex) {
        self.clock += 1;
        index.shrink();
        let bytes = index.memory_bytes();
        self.bytes += bytes;
        if let Some(old) = self.kept.insert(slot, Kept { index, bytes, used: self.clock }) {
            self.bytes -= old.bytes;
        }
        // The newest always stays, or a large footer would never be of use.
        while self.bytes > self.bytes_max {
            let idlest = self
                .kept
                .iter()
                .filter(|&(other, _)| *other != slot && !self.only_here.contains(other));
            let Some((&idlest, _)) = idlest.min_by_key(|(_, kept)| kept.used) else { break };
            if let Some(kept) = self.kept.remove(&idlest) {
                self.bytes -= kept.bytes;
            }
        }
    }

    /// Keeps the index of a slot that will never have a footer.
    pub(crate) fn keep(&mut self, slot: u32, index: SlotIndex) {
        self.only_here.push(slot);
        self.insert(slot, index);
    }

    /// The slot is free, or used anew.
    pub(crate) fn forget(&mut self, slot: u32) {
        self.only_here.retain(|&kept| kept != slot);
        if let Some(kept) = self.kept.remove(&slot) {
            self.bytes -= kept.bytes;
        }
    }
}

impl Log {
    pub(crate) fn index_stats(&self) -> IndexStats {
        let runs = || self.partitions.values().map(|partition| &partition.runs);
        let kept = || self.footers.kept.values();
        IndexStats {
            runs: runs().map(|runs| runs.len() as u64).sum(),
            runs_bytes: runs().map(|runs| runs.memory_bytes() as u64).sum(),
            runs_max: self.runs_max(),
            runs_gathered: self.gatherer.gathered,
            extents: kept().map(|kept| kept.index.extents() as u64).sum(),
            extents_bytes: self.footers.bytes as u64,
            extents_bytes_max: self.footers.bytes_max as u64,
        }
    }

    /// The index of a slot, from memory.
    pub(crate) fn index_of(&mut self, slot: u32) -> Option<&SlotIndex> {
        let open = self.writer.lanes.iter().filter_map(|lane| lane.open.as_ref());
        if let Some(open) = open.into_iter().find(|open| open.slot == slot) {
            return Some(&open.index);
        }
        let in_flight = self.commit.iter().flat_map(|commit| &commit.sealed);
        let mut sealed = self.writer.sealed.iter().chain(in_flight);
        if let Some((_, index)) = sealed.find(|&&(sealed, _)| sealed == slot) {
            return Some(index);
        }
        self.footers.get(slot)
    }

    /// Reads the footer of a slot; the ticket's question is asked again when it is there.
    pub(crate) fn load_footer(&mut self, slot: u32, ticket: Ticket) {
        if let Some(load) = self.footers.loads.get_mut(&slot) {
            load.waiting.push(ticket);
            return;
        }
        let bytes = TAIL_BYTES.min(self.geometry.slot_bytes);
        let load = Load {
            seg_seq: self.space.slot(slot).seg_seq,
            loading: Loading::Tail(bytes),
            waiting: alloc::vec![ticket],
            unread: false,
        };
        self.footers.loads.insert(slot, load);
        self.read_tail(slot, bytes);
    }

    fn read_tail(&mut self, slot: u32, bytes: u32) {
        let at = self.geometry.place(slot, self.geometry.slot_bytes - bytes);
        self.disk.read(Purpose::Footer(slot), at, bytes);
    }

    pub(crate) fn footer_done(&mut self, slot: u32, result: IoResult, unread: bool) {
        let Some(mut load) = self.footers.loads.remove(&slot) else { return };
        let IoResult::Read(bytes) = result else {
            for ticket in load.waiting {
                self.answer_failed(ticket, FetchError::Device);
            }
            return;
        };
        let found = match &mut load.loading {
            Loading::Tail(asked) => {
                let parsed = footer::parse(&bytes, &self.geometry.store, slot, Some(load.seg_seq));
                match parsed {
                    footer::Tail::Footer(index) => Some(index),
                    footer::Tail::Longer(longer)
                        if longer > *asked && longer < self.geometry.slot_bytes =>
                    {
                        *asked = longer;
                        self.read_tail(slot, longer);
                        None
                    }
                    _ => {
                        log::warn!("the footer of slot {slot} is bad: the slot is walked instead");
                        let scan = Scan::new(&self.geometry, slot, Some(load.seg_seq), None);
                        let (at, len) = scan.wants();
                        self.disk.read(Purpose::Footer(slot), self.geometry.place(slot, at), len);
                        let index = SlotIndex::new(self.space.slot(slot).lane, load.seg_seq);
                        load.loading = Loading::Walk(scan, index);
                        None
                    }
                }
            }
            Loading::Walk(scan, index) => {
                load.unread |= unread;
                // Groups above the highest that is known to count were given up when the slot was
                // sealed.
                let last_seq = self.space.slot(slot).last_seq;
                let seed = frame_seed(&self.geometry.store, load.seg_seq);
                let partitions = &self.partitions;
                let step = scan.feed(&bytes, |seen| match seen {
                    Seen::Group(header, at, group) if header.group_seq <= last_seq => {
                        for outline in outlines(&group, seed) {
                            index.add_below_newer(&outline, at, header.group_seq, partitions);
                        }
                        index.add_group(&header, at + header.padded_bytes() as u32);
                    }
                    _ => {}
                });
                match step {
                    Step::Read(at, len) => {
                        let at = self.geometry.place(slot, at);
                        self.disk.read(Purpose::Footer(slot), at, len);
                        None
                    }
                    Step::End => Some(core::mem::take(index)),
                }
            }
        };
        match found {
            Some(index) => self.footer_found(slot, load, index),
            None => {
                self.footers.loads.insert(slot, load);
            }
        }
    }

    fn footer_found(&mut self, slot: u32, load: Load, index: SlotIndex) {
        if self.space.slot(slot).seg_seq == load.seg_seq {
            self.footers.insert(slot, index);
        }
        for ticket in load.waiting {
            self.resume(ticket);
        }
        if load.unread {
            self.footers.forget(slot);
        }
    }
}
