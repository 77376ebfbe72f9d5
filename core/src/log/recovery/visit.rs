//! What a start looks for in one slot: its footer, then its groups.

use super::accept::Candidate;
use crate::log::disk::{Disk, Purpose};
use crate::log::layout::footer::{self, SlotIndex, Tail};
use crate::log::layout::group::{GroupHeader, Place};
use crate::log::layout::{Geometry, frame_seed};
use crate::log::scan::{self, Outline, Scan, Seen, Step};
use crate::log::{Lane, Unguarded};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

/// What was found in a slot.
#[derive(Debug, Default)]
pub(crate) struct Visited {
    /// Which use of the slot; `None` when there is nothing in it.
    pub seg_seq: Option<u64>,
    /// The last group that its footer knows, if it has one: that is written when this is flushed.
    pub sealed_seq: Option<u64>,
    /// Of which use a footer is there, when the header is lost; else 0.
    pub footer_seq: u64,
    /// The footer, when the groups were not read.
    pub stands_alone: Option<SlotIndex>,
    /// The groups whose checksum holds, but for those behind the end that the footer states.
    pub groups: Vec<Candidate>,
    /// What looks like a group of this use and is damaged; its fields are not to be relied on.
    pub harmed: Vec<Candidate>,
    /// Whether the device did not give all that it was asked for.
    pub unread: bool,
    /// Where the groups end, as the footer states.
    pub data_end: Option<u32>,
    /// Checkpoints' roots: the groups' sequences and places.
    pub roots: Vec<(u64, Place)>,
    /// What the groups hold, by where they begin, as long as there was memory for it.
    pub outlines: BTreeMap<u32, Vec<Outline>>,
}

#[derive(Debug)]
enum Stage {
    Tail(u32),
    Walk(Scan),
}

#[derive(Debug)]
pub(crate) struct Visit {
    pub slot: u32,
    footer_only: bool,
    pub unguarded: Unguarded,
    /// Bytes of memory that are left for outlines.
    pub outlines_left: usize,
    stage: Stage,
    found: Visited,
    /// The highest group that the footer knows.
    last_seq: u64,
}

/// The first read of a footer: most are smaller.
const TAIL_BYTES: u32 = 64 << 10;

impl Visit {
    /// Visits a slot in its use `seg_seq`; `None` if the header is lost. With `footer_only`, a good
    /// footer is enough.
    pub(crate) fn new(
        geometry: &Geometry,
        slot: u32,
        seg_seq: Option<u64>,
        footer_only: bool,
    ) -> Visit {
        Visit {
            slot,
            footer_only,
            unguarded: Unguarded::default(),
            outlines_left: 0,
            stage: Stage::Tail(TAIL_BYTES.min(geometry.slot_bytes)),
            found: Visited { seg_seq, ..Visited::default() },
            last_seq: u64::MAX,
        }
    }

    /// Asks for the next read.
    pub(crate) fn ask(&self, disk: &mut Disk, geometry: &Geometry) {
        let (at, len) = match &self.stage {
            Stage::Tail(len) => (geometry.slot_bytes - len, *len),
            Stage::Walk(scan) => scan.wants(),
        };
        disk.read(Purpose::Start(0), geometry.place(self.slot, at), len);
    }

    /// Takes what was read, but for some blocks if it is `unread`; `None` while there is more to
    /// read.
    pub(crate) fn feed(
        &mut self,
        geometry: &Geometry,
        bytes: &Bytes,
        unread: bool,
    ) -> Option<Visited> {
        match &mut self.stage {
            Stage::Tail(asked) => {
                // Less than was asked for does not end where the slot ends.
                let whole = bytes.len() == *asked as usize;
                let end = if whole { bytes.clone() } else { Bytes::new() };
                match footer::parse(&end, &geometry.store, self.slot, self.found.seg_seq) {
                    Tail::Longer(longer) if longer < geometry.slot_bytes => {
                        *asked = longer;
                        return None;
                    }
                    Tail::Footer(index) if self.found.seg_seq.is_some() => {
                        self.found.sealed_seq = Some(index.last_seq);
                        if !self.unguarded.no_sealing {
                            self.last_seq = index.last_seq;
                        }
                        self.found.data_end = Some(index.data_end);
                        if self.footer_only {
                            self.found.stands_alone = Some(index);
                            return Some(core::mem::take(&mut self.found));
                        }
                    }
                    Tail::Footer(index) => self.found.footer_seq = index.seg_seq,
                    _ => {}
                }
                let Visited { seg_seq, data_end, .. } = self.found;
                let uses = seg_seq.filter(|_| !self.unguarded.no_seg_seq);
                let end = data_end.filter(|_| !self.unguarded.no_sealing);
                self.stage = Stage::Walk(Scan::new(geometry, self.slot, uses, end));
                None
            }
            Stage::Walk(scan) => {
                self.found.unread |= unread || bytes.len() < scan.wants().1 as usize;
                let (found, last_seq, slot) = (&mut self.found, self.last_seq, self.slot);
                let outlines_left = &mut self.outlines_left;
                let step = scan.feed(bytes, |seen| {
                    let (header, at, group) = match seen {
                        Seen::Group(header, at, group) => (header, at, group),
                        Seen::Gap(at, block) => {
                            let header = GroupHeader::peek(&block);
                            let ours = header.filter(|h| Some(h.seg_seq) == found.seg_seq);
                            found.harmed.extend(ours.map(|header| Candidate { header, at }));
                            return;
                        }
                    };
                    if header.group_seq > last_seq {
                        return;
                    }
                    found.groups.push(Candidate { header, at });
                    let seed = frame_seed(&geometry.store, header.seg_seq);
                    if header.lane == Lane::Meta as u8 && scan::root(&group, seed).is_some() {
                        found.roots.push((header.group_seq, Place { slot, at }));
                    }
                    let outlines: Vec<Outline> = scan::outlines(&group, seed).collect();
                    let bytes: usize = outlines.iter().map(Outline::memory_bytes).sum();
                    let bytes = bytes + size_of::<(u32, Vec<Outline>)>();
                    if let Some(left) = outlines_left.checked_sub(bytes) {
                        *outlines_left = left;
                        found.outlines.insert(at, outlines);
                    }
                });
                (step == Step::End).then(|| finish(core::mem::take(&mut self.found)))
            }
        }
    }
}

/// Without a header, the newest use of the slot is the one that counts.
fn finish(mut found: Visited) -> Visited {
    if found.seg_seq.is_none() {
        found.seg_seq = found.groups.iter().map(|group| group.header.seg_seq).max();
        found.groups.retain(|group| Some(group.header.seg_seq) == found.seg_seq);
    }
    found
}
