//! One slot under the scrub: its header, its footer and its groups are read and held against each
//! other.

use super::layout::footer::{self, SlotIndex, Tail};
use super::layout::frame::{FRAME_HEADER_BYTES, FrameHeader, Kind};
use super::layout::slot::SlotHeader;
use super::layout::{BLOCK, Geometry, frame_seed};
use super::partition::Partition;
use super::scan::{Outline, Scan, Seen, Step, frames};
use super::scrub::{Damage, Part};
use super::truncate::Cut;
use crate::types::{Offset, PartitionNumber};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

/// The first read of a footer: most are smaller.
const TAIL_BYTES: u32 = 64 << 10;
/// Damaged bytes that are looked through for whole frames at a time: the largest group.
const GAP_BYTES_MAX: usize = 4 << 20;

type Partitions = BTreeMap<PartitionNumber, Partition>;
/// Offsets from one up to and without another.
type Range = (Offset, Offset);

#[derive(Debug)]
enum Stage {
    Header,
    Tail(u32),
    Walk(Scan),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Read,
    Done,
}

#[derive(Debug)]
pub(crate) struct Verify {
    pub slot: u32,
    pub seg_seq: u64,
    slot_bytes: u32,
    stage: Stage,
    header_bad: bool,
    /// The device could not read something.
    pub unreadable: bool,
    footer: Option<SlotIndex>,
    /// What the groups say; the footer is rebuilt from it where it is bad.
    found: SlotIndex,
    boot_epoch: u32,
    pub groups: u64,
    /// Where groups should be and are not: from, and up to and without.
    bad: Vec<(u32, u32)>,
    /// Bytes of the damage that is being read, and where they begin.
    gap: Vec<u8>,
    gap_at: u32,
    /// Batches that are whole: all without a footer, else those in damaged groups.
    whole: BTreeMap<PartitionNumber, Vec<Range>>,
}

impl Verify {
    pub(crate) fn new(geometry: &Geometry, slot: u32, seg_seq: u64) -> Verify {
        Verify {
            slot,
            seg_seq,
            slot_bytes: geometry.slot_bytes,
            stage: Stage::Header,
            header_bad: false,
            unreadable: false,
            footer: None,
            found: SlotIndex::new(0, seg_seq),
            boot_epoch: 0,
            groups: 0,
            bad: Vec::new(),
            gap: Vec::new(),
            gap_at: 0,
            whole: BTreeMap::new(),
        }
    }

    /// A slot that is still written to: up to where it was written when this begins, as memory
    /// knows it.
    pub(crate) fn open(geometry: &Geometry, slot: u32, index: SlotIndex) -> Verify {
        let verify = Verify::new(geometry, slot, index.seg_seq);
        Verify { footer: Some(index), ..verify }
    }

    /// The next read: where in the slot, and its length.
    pub(crate) fn wants(&self) -> (u32, u32) {
        match &self.stage {
            Stage::Header => (0, BLOCK),
            Stage::Tail(len) => (self.slot_bytes - len, *len),
            Stage::Walk(scan) => scan.wants(),
        }
    }

    /// Takes what was read; `None`: the device failed.
    pub(crate) fn feed(
        &mut self,
        geometry: &Geometry,
        partitions: &Partitions,
        bytes: Option<Bytes>,
    ) -> Next {
        self.unreadable |= bytes.is_none();
        let bytes = bytes.unwrap_or_default();
        match &mut self.stage {
            Stage::Header => {
                let header = SlotHeader::parse(&bytes, &geometry.store, self.slot);
                self.header_bad = header.is_none_or(|header| header.seg_seq != self.seg_seq);
                self.stage = match self.footer {
                    Some(_) => self.begin_walk(geometry),
                    None => Stage::Tail(TAIL_BYTES.min(geometry.slot_bytes)),
                };
                Next::Read
            }
            Stage::Tail(asked) => {
                match footer::parse(&bytes, &geometry.store, self.slot, Some(self.seg_seq)) {
                    Tail::Longer(longer) if longer > *asked && longer < geometry.slot_bytes => {
                        *asked = longer;
                        return Next::Read;
                    }
                    Tail::Footer(index) => self.footer = Some(index),
                    _ => {}
                }
                self.stage = self.begin_walk(geometry);
                Next::Read
            }
            Stage::Walk(_) => self.walk(geometry, partitions, &bytes),
        }
    }

    fn begin_walk(&self, geometry: &Geometry) -> Stage {
        let end = self.footer.as_ref().map(|footer| footer.data_end);
        Stage::Walk(Scan::new(geometry, self.slot, Some(self.seg_seq), end))
    }

    fn walk(&mut self, geometry: &Geometry, partitions: &Partitions, bytes: &Bytes) -> Next {
        let Stage::Walk(mut scan) = core::mem::replace(&mut self.stage, Stage::Header) else {
            unreachable!("only a walk is walked on")
        };
        let seed = frame_seed(&geometry.store, self.seg_seq);
        let step = scan.feed(bytes, |seen| match seen {
            Seen::Group(header, at, group) => {
                self.end_gap(seed, partitions);
                self.groups += 1;
                self.boot_epoch = header.boot_epoch;
                if self.footer.is_none() {
                    for (frame, begin, body) in frames(&group, seed) {
                        self.take(&frame, at + begin, &body, header.group_seq, partitions);
                    }
                }
                self.found.add_group(&header, at + header.padded_bytes() as u32);
            }
            Seen::Gap(at, block) => self.gap(at, &block, seed, partitions),
        });
        self.stage = Stage::Walk(scan);
        if step == Step::End {
            self.end_gap(seed, partitions);
            return Next::Done;
        }
        Next::Read
    }

    /// A block in which no group begins.
    fn gap(&mut self, at: u32, block: &Bytes, seed: u32, partitions: &Partitions) {
        match self.bad.last_mut() {
            Some((_, until)) if *until == at => *until = at + BLOCK,
            _ => self.bad.push((at, at + BLOCK)),
        }
        if self.gap.len() + block.len() > GAP_BYTES_MAX {
            self.end_gap(seed, partitions);
        }
        if self.gap.is_empty() {
            self.gap_at = at;
        }
        self.gap.extend_from_slice(block);
    }

    /// Takes the whole frames out of the damage that was read.
    fn end_gap(&mut self, seed: u32, partitions: &Partitions) {
        let bytes = Bytes::from(core::mem::take(&mut self.gap));
        let mut at = 0;
        while at + FRAME_HEADER_BYTES <= bytes.len() {
            let Some(header) = FrameHeader::verify(&bytes[at..], seed) else {
                at += 1;
                continue;
            };
            let body = bytes.slice(at + FRAME_HEADER_BYTES..at + header.frame_bytes());
            let place = self.gap_at + at as u32;
            self.take(&header, place, &body, self.found.last_seq, partitions);
            at += header.frame_bytes();
            let end = (self.gap_at + at as u32).next_multiple_of(BLOCK);
            self.found.data_end = self.found.data_end.max(end);
        }
    }

    fn take(
        &mut self,
        frame: &FrameHeader,
        at: u32,
        body: &Bytes,
        group_seq: u64,
        partitions: &Partitions,
    ) {
        let Some(outline) = Outline::new(*frame, at, body) else { return };
        let until = self.found.add_below_newer(&outline, 0, group_seq, partitions);
        if frame.kind.is_batch() && frame.base_offset < until {
            let ranges = self.whole.entry(frame.partition).or_default();
            match ranges.last_mut() {
                Some((_, end)) if *end == frame.base_offset => *end = until,
                _ => ranges.push((frame.base_offset, until)),
            }
        }
        if frame.kind == Kind::Truncate
            && let Some(ranges) = self.whole.get_mut(&frame.partition)
        {
            Cut::of(frame).clip(ranges);
        }
    }

    /// What is damaged, and which offsets are lost with it and were not known to be.
    pub(crate) fn damages(&self, partitions: &Partitions, last_seq: u64) -> Vec<Damage> {
        let damage = |what, at, bytes, lost| Damage {
            slot: self.slot,
            at,
            bytes,
            what,
            groups: (what == Part::Groups).then(|| self.groups_in(at, at + bytes, last_seq)),
            unreadable: self.unreadable,
            lost,
        };
        let mut damages = Vec::new();
        if self.header_bad {
            damages.push(damage(Part::Header, 0, BLOCK, Vec::new()));
        }
        match &self.footer {
            Some(footer) => damages.extend(self.bad.iter().map(|&(from, until)| {
                let lost = self.lost_between(partitions, footer, (from, until));
                damage(Part::Groups, from, until - from, lost)
            })),
            None => {
                damages.push(damage(Part::Footer, self.slot_bytes - BLOCK, BLOCK, Vec::new()));
                let end = self.found.data_end;
                let inside = self.bad.iter().find(|&&(from, _)| from < end);
                let behind = (self.found.last_seq < last_seq).then_some((end, self.slot_bytes));
                if let Some((from, until)) = inside.copied().or(behind) {
                    let lost = self.lost_of_all(partitions);
                    damages.push(damage(Part::Groups, from, until - from, lost));
                }
            }
        }
        damages
    }

    /// The first and the last group that may be in damaged bytes; `last_seq` is the slot's last.
    fn groups_in(&self, from: u32, until: u32, last_seq: u64) -> (u64, u64) {
        let (first, last) = match &self.footer {
            Some(footer) => {
                let groups = &footer.groups;
                let seq = |at| Some(groups.get(groups.begun(at).checked_sub(1)?)?.0);
                (seq(from), seq(until - 1))
            }
            None => {
                let whole = &self.found.groups;
                let next = whole.begun(from);
                let before = next.checked_sub(1).and_then(|index| whole.get(index));
                let first = before.map(|(seq, _)| seq.saturating_add(1));
                (first, whole.get(next).map(|(seq, _)| seq.saturating_sub(1)))
            }
        };
        // Groups are counted from 1.
        let first = first.unwrap_or(1);
        (first, last.unwrap_or(last_seq).max(first))
    }

    /// What the footer says that stands in damaged bytes, less what is whole there.
    fn lost_between(
        &self,
        partitions: &Partitions,
        footer: &SlotIndex,
        (from, until): (u32, u32),
    ) -> Vec<(u32, i64, i64)> {
        let mut lost = Vec::new();
        for (&number, part) in &footer.parts {
            let hit = part.extents.iter().enumerate();
            let hit = hit.filter(|(_, extent)| extent.at < until && extent.end() > from);
            let ranges = hit.flat_map(|(index, _)| part.counts_at(index)).collect();
            lost.extend(self.news(partitions, number, ranges));
        }
        lost
    }

    /// Without a footer: what the partitions have in this slot, less what is whole in it.
    fn lost_of_all(&self, partitions: &Partitions) -> Vec<(u32, i64, i64)> {
        let all = (Offset::ZERO, Offset(i64::MAX));
        partitions.keys().flat_map(|&number| self.news(partitions, number, [all].into())).collect()
    }

    /// Of these offsets, those that count here, are not whole, and are not known to be lost.
    fn news(
        &self,
        partitions: &Partitions,
        number: PartitionNumber,
        ranges: Vec<Range>,
    ) -> Vec<(u32, i64, i64)> {
        let Some(partition) = partitions.get(&number) else { return Vec::new() };
        let here: Vec<Range> = partition.ranges_in(self.slot).collect();
        let none = Vec::new();
        let whole = self.whole.get(&number).unwrap_or(&none);
        let mut left = Vec::new();
        for (from, until) in ranges {
            for &(begin, end) in &here {
                let range = (from.max(begin), until.min(end));
                left.extend(without(range, whole.iter().chain(&partition.damaged)));
            }
        }
        let mut merged: Vec<(u32, i64, i64)> = Vec::new();
        for (from, until) in left {
            match merged.last_mut() {
                Some((_, _, end)) if *end == from.0 => *end = until.0,
                _ => merged.push((number.0, from.0, until.0)),
            }
        }
        merged
    }

    /// The header to write in place of the bad one.
    pub(crate) fn header(&self, lane: u8) -> Option<SlotHeader> {
        self.header_bad.then_some(SlotHeader {
            lane,
            slot: self.slot,
            boot_epoch: self.boot_epoch,
            seg_seq: self.seg_seq,
            prev_seg_seq: 0,
        })
    }

    /// The footer to write in place of the bad one, if it has room.
    pub(crate) fn rebuilt(mut self, lane: u8) -> Option<SlotIndex> {
        self.found.lane = lane;
        self.footer.is_none().then_some(self.found)
    }
}

/// What is left of a range without others.
fn without<'a>(range: Range, others: impl Iterator<Item = &'a Range>) -> Vec<Range> {
    let mut left = Vec::from([range]);
    for &(from, until) in others {
        left = left
            .into_iter()
            .flat_map(|(begin, end)| [(begin, end.min(from)), (begin.max(until), end)])
            .filter(|(begin, end)| begin < end)
            .collect();
    }
    left.retain(|(begin, end)| begin < end);
    left
}
