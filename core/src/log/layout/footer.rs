//! The footer: what a sealed slot holds, partition by partition. It ends with the slot.
//!
//! ```text
//! payload, then zeros up to the trailer:
//!   the groups: see `groups`
//!   uvarint partitions; for each, in order of number:
//!     uvarint partition, varlong log start when last seen, varlong end, uvarint batch bytes,
//!     varlong largest timestamp,
//!     uvarint leader epochs; for each: varlong epoch, varlong its first offset here,
//!     uvarint extents; for each: uvarint 32 times the groups since that of the one before, and
//!       which of these follow because they are not 0:
//!        1 varlong begin less the end of the extent before in its group, of whatever partition
//!          that has come so far; of the first, less the begin of the group and 96
//!        2 varlong base offset less the end offset of the one before
//!        4 varlong offsets less those of the one before
//!        8 varlong bytes less those of the one before
//!       16 varlong largest timestamp less that of the extent before in its group; of the first,
//!          less that of the one before
//! trailer, the last 52 bytes of the slot:
//!   at  bytes  field
//!    0      4  magic "WFTR"
//!    4      2  format version, 1
//!    6      1  lane
//!    7      1  zero
//!    8      4  slot
//!   12      4  bytes of the payload, which begins at a block
//!   16      8  seg_seq
//!   24      8  lowest group_seq in the slot
//!   32      8  highest group_seq in the slot
//!   40      4  where the groups end
//!   44      4  CRC-32C of the group with the highest group_seq
//!   48      4  CRC-32C over store UUID, the trailer before and the payload
//! ```
//!
//! An extent is a run of frames of one partition without anything between, on flash or in offsets,
//! so that one read gets them; it is cut at 64 KiB, so that a read in the middle does not have to
//! walk far. Extents stand in the order in which they were written. Frames of kind replace may lie
//! anywhere in the partition, also where this slot has an older extent: the last one counts. An
//! extent of no bytes is a truncation, its timestamp the group_seq of the frame: what was written
//! before that does not count from its base offset on. It also stands in other slots that were open
//! then and hold something of the partition; for others in its group it is not there. Before the
//! first extent of a partition is one of zeros, in group 0: that of what stands before all groups,
//! whose first extent tells where it begins.

use super::extent::{Extent, Origin, Step};
use super::extents::Extents;
use super::group::{GROUP_HEADER_BYTES, GroupHeader};
use super::groups::Groups;
use super::{BLOCK, Fields, checksum};
use crate::bytes::{self, Reader, put_uvarint, put_varlong};
use crate::types::{LeaderEpoch, Offset, PartitionNumber};
use ::bytes::Bytes;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

const MAGIC: [u8; 4] = *b"WFTR";
pub(crate) const TRAILER_BYTES: usize = 52;
const EXTENT_BYTES: u32 = 64 << 10;
/// The most that a truncation takes.
const CUT_BYTES_MAX: usize = 48;
/// The most that one more frame of a new partition adds to the payload: five fields of ten bytes at
/// most, an epoch, an extent, and counts that grow.
pub(crate) const FRAME_FOOTER_BYTES_MAX: usize = 128;

/// A batch frame on flash, as it is added to an index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    pub at: u32,
    pub frame_bytes: u32,
    pub batch_bytes: u32,
    pub base_offset: Offset,
    pub end_offset: Offset,
    pub leader_epoch: LeaderEpoch,
    pub max_timestamp: i64,
}

/// What a slot holds of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    pub log_start: Offset,
    pub end: Offset,
    pub batch_bytes: u32,
    pub max_timestamp: i64,
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    pub extents: Extents,
    /// Whether extents are not in the order of offsets, or some are written over.
    shuffled: bool,
}

impl Spot {
    /// Whether the frame only says that these offsets have no records any more.
    pub(crate) fn is_hole(&self) -> bool {
        self.batch_bytes == 0
    }

    /// The leader epoch of what is at its offsets; of a hole it may not be known.
    pub(crate) fn epoch(&self) -> Option<LeaderEpoch> {
        let known = !self.is_hole() || self.leader_epoch >= LeaderEpoch(0);
        known.then_some(self.leader_epoch)
    }
}

impl Part {
    /// Remembers the first offset of an epoch here; whether the epoch is new here.
    fn note_epoch(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        match self.epochs.binary_search_by_key(&epoch, |&(known, _)| known) {
            Ok(found) => {
                self.epochs[found].1 = self.epochs[found].1.min(start);
                false
            }
            Err(place) => {
                self.epochs.insert(place, (epoch, start));
                true
            }
        }
    }

    /// The extent that counts at an offset, and up to where it does. Only what lies below `settled`
    /// in the slot is looked at.
    pub(crate) fn extent_at(&self, offset: Offset, settled: u32) -> Option<(usize, Offset)> {
        let holds = |extent: &Extent| {
            extent.base_offset <= offset && offset < extent.end_offset && extent.end() <= settled
        };
        if !self.shuffled {
            let found = self.extents.begun(offset).checked_sub(1)?;
            let extent = self.extents.get(found).filter(holds)?;
            return Some((found, extent.end_offset));
        }
        let found = self.extents.iter().rposition(|extent| holds(&extent))?;
        let mut until = self.extents.at(found).end_offset;
        let later = self.extents.iter().skip(found + 1);
        for extent in later.filter(|extent| extent.end() <= settled) {
            if extent.base_offset > offset {
                until = extent.base_offset.min(until);
            } else if extent.is_cut() {
                return None;
            }
        }
        Some((found, until))
    }

    /// Up to where the frame at that place in the slot is the one that counts here, if it is at its
    /// base offset.
    pub(crate) fn newest_until(&self, base: Offset, at: u32) -> Option<Offset> {
        let (index, until) = self.extent_at(base, u32::MAX)?;
        let extent = self.extents.at(index);
        (extent.at <= at && at < extent.end()).then_some(until)
    }

    /// The bytes at most of what reaches beyond an offset: of extents, which are cut at 64 KiB.
    pub(crate) fn bytes_beyond(&self, offset: Offset) -> u32 {
        let beyond = self.extents.iter().filter(|extent| extent.end_offset > offset);
        beyond.map(|extent| extent.bytes).fold(0, u32::saturating_add)
    }

    /// The leader epoch of what counts at an offset, by what begins here.
    pub(crate) fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let begun = self.epochs.iter().rev().find(|&&(_, start)| start <= offset);
        begun.map(|&(epoch, _)| epoch)
    }

    /// Where the first extent beyond an offset begins.
    pub(crate) fn next_base(&self, offset: Offset) -> Option<Offset> {
        let held = self.extents.iter().filter(|extent| !extent.is_cut());
        held.map(|extent| extent.base_offset).filter(|&base| base > offset).min()
    }

    /// The offsets at which the extent with that index counts here.
    pub(crate) fn counts_at(&self, index: usize) -> Vec<(Offset, Offset)> {
        let extent = self.extents.at(index);
        let (mut ranges, mut from) = (Vec::new(), extent.base_offset);
        while from < extent.end_offset {
            let Some((found, until)) = self.extent_at(from, u32::MAX) else { break };
            if found == index {
                ranges.push((from, until));
            }
            from = until;
        }
        ranges
    }
}

/// What a slot holds, in memory while it is open or cached, as footer when it is sealed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotIndex {
    pub lane: u8,
    pub seg_seq: u64,
    pub first_seq: u64,
    pub last_seq: u64,
    pub last_crc: u32,
    /// Where the groups end.
    pub data_end: u32,
    /// What lies at or behind this place in the slot may not be on flash yet.
    pub settled: u32,
    pub parts: BTreeMap<PartitionNumber, Part>,
    pub groups: Groups,
    encoded_bytes: usize,
    /// Of the group that is being written: what the last extent is counted from, and the next.
    origins: [Origin; 2],
}

impl SlotIndex {
    pub(crate) fn new(lane: u8, seg_seq: u64) -> SlotIndex {
        let index = SlotIndex { lane, seg_seq, settled: u32::MAX, ..SlotIndex::default() };
        SlotIndex { data_end: BLOCK, origins: [first_frame(BLOCK); 2], ..index }
    }

    /// Of a slot that is on flash up to there.
    pub(crate) fn settled(self, settled: u32) -> SlotIndex {
        SlotIndex { settled, ..self }
    }

    /// A group was written up to `end`.
    pub(crate) fn add_group(&mut self, group: &GroupHeader, end: u32) {
        if self.first_seq == 0 {
            self.first_seq = group.group_seq;
        }
        self.groups.push(end.saturating_sub(group.padded_bytes() as u32), group.group_seq);
        self.last_seq = group.group_seq;
        self.last_crc = group.crc;
        self.data_end = end;
        self.origins = [first_frame(end); 2];
    }

    /// The group of something that stands there, counted from 1; one that is being written is next.
    fn group_at(&self, at: u32) -> u32 {
        let listed = self.groups.begun(at);
        listed as u32 + u32::from(at >= self.data_end)
    }

    /// What the extent is told by that comes next in the group that is being written.
    fn step(&self, prev: &Extent, extent: &Extent) -> Step {
        let groups = self.group_at(extent.at).saturating_sub(self.group_at(prev.at));
        Step::new(groups, prev, &self.origins[0], extent)
    }

    pub(crate) fn set_log_start(&mut self, partition: PartitionNumber, log_start: Offset) {
        self.part(partition).log_start = log_start;
    }

    fn part(&mut self, partition: PartitionNumber) -> &mut Part {
        let encoded_bytes = &mut self.encoded_bytes;
        self.parts.entry(partition).or_insert_with(|| {
            *encoded_bytes += 52;
            Part { max_timestamp: -1, ..Part::default() }
        })
    }

    pub(crate) fn add(&mut self, partition: PartitionNumber, spot: Spot) {
        let part = self.part(partition);
        let mut grown = 0;
        if let Some(epoch) = spot.epoch() {
            grown += 16 * usize::from(part.note_epoch(epoch, spot.base_offset));
        }
        part.end = part.end.max(spot.end_offset);
        part.batch_bytes += spot.batch_bytes;
        part.max_timestamp = part.max_timestamp.max(spot.max_timestamp);
        let mut extent = Extent {
            base_offset: spot.base_offset,
            end_offset: spot.end_offset,
            at: spot.at,
            bytes: spot.frame_bytes,
            max_timestamp: spot.max_timestamp,
        };
        let adjoins = |last: &Extent| {
            last.end() == spot.at
                && last.end_offset == spot.base_offset
                && last.bytes + spot.frame_bytes <= EXTENT_BYTES
        };
        let last = part.extents.last().filter(adjoins);
        if let Some(last) = last {
            part.extents.pop();
            extent = Extent {
                end_offset: spot.end_offset,
                bytes: last.bytes + spot.frame_bytes,
                max_timestamp: last.max_timestamp.max(spot.max_timestamp),
                ..last
            };
        }
        let prev = part.extents.last();
        part.shuffled |= prev.is_some_and(|prev| prev.end_offset > extent.base_offset);
        part.extents.push(extent);
        let prev = prev.unwrap_or(Extent::NONE);
        if last.is_none() {
            self.origins[0] = self.origins[1];
        }
        self.origins[1].pass(&extent);
        let shrunk = last.map_or(0, |last| self.step(&prev, &last).encoded_bytes());
        grown += self.step(&prev, &extent).encoded_bytes();
        self.encoded_bytes = self.encoded_bytes + grown - shrunk;
    }

    /// A frame in that group says that nothing counts any more from `from` on that was written
    /// before it; what stands here before `at` was.
    pub(crate) fn truncate(
        &mut self,
        partition: PartitionNumber,
        from: Offset,
        at: u32,
        group_seq: u64,
    ) {
        let part = self.part(partition);
        part.epochs.retain(|&(_, start)| start < from);
        let from = from.max(Offset::ZERO);
        if from == Offset::ZERO {
            part.log_start = from;
        }
        let last = part.extents.last().unwrap_or(Extent::NONE);
        let max_timestamp = group_seq as i64;
        let cut = Extent { base_offset: from, end_offset: from, at, bytes: 0, max_timestamp };
        part.shuffled |= last.end_offset > from;
        part.extents.push(cut);
        self.encoded_bytes += CUT_BYTES_MAX;
    }

    /// Takes back what a failed write added to a partition from `at` on.
    pub(crate) fn cut(&mut self, partition: PartitionNumber, at: u32) {
        let Some(part) = self.parts.get_mut(&partition) else { return };
        part.extents.retain(|extent| extent.at < at);
        part.end = part.extents.iter().map(|e| e.end_offset).max().unwrap_or(part.log_start);
    }

    /// Bytes of the footer at most, once `frames` more are in the slot.
    pub(crate) fn footer_bytes(&self, frames: usize) -> usize {
        let groups = self.groups.encoded_bytes();
        let frames = frames * FRAME_FOOTER_BYTES_MAX;
        super::pad(32 + self.encoded_bytes + groups + frames + TRAILER_BYTES)
    }

    /// Where the last of what it knows in the slot ends.
    pub(crate) fn used(&self) -> u32 {
        let last = self.parts.values().filter_map(|part| part.extents.last());
        last.map(|extent| extent.end()).fold(self.data_end, u32::max)
    }

    /// Bytes of the record batches in the slot, and of their frames.
    pub(crate) fn batch_and_frame_bytes(&self) -> (u32, u32) {
        let extents = self.parts.values().flat_map(|part| part.extents.iter());
        let batches = self.parts.values().map(|part| part.batch_bytes);
        let frames = extents.map(|extent| extent.bytes);
        (batches.fold(0, u32::saturating_add), frames.fold(0, u32::saturating_add))
    }

    /// How many extents are in it.
    pub(crate) fn extents(&self) -> usize {
        self.parts.values().map(|part| part.extents.len()).sum()
    }

    /// Bytes of memory, about: nodes of a map are filled to two thirds.
    pub(crate) fn memory_bytes(&self) -> usize {
        let part = size_of::<(PartitionNumber, Part)>() * 3 / 2;
        let bytes = |one: &Part| {
            part + one.extents.memory_bytes()
                + one.epochs.capacity() * size_of::<(LeaderEpoch, Offset)>()
        };
        self.parts.values().map(bytes).sum::<usize>() + self.groups.memory_bytes()
    }

    /// Gives back memory that was taken for more, and for what only a footer needs.
    pub(crate) fn shrink(&mut self) {
        self.groups = Groups::default();
        for part in self.parts.values_mut() {
            part.extents.shrink();
            part.epochs.shrink_to_fit();
        }
    }

    /// The footer, whose last byte is the last of the slot.
    pub(crate) fn encode(&self, store: &[u8; 16], slot: u32) -> Bytes {
        let mut out = Vec::with_capacity(self.footer_bytes(0));
        self.groups.put(&mut out);
        let mut origins = origins(&self.groups);
        put_uvarint(&mut out, self.parts.len() as u32);
        for (number, part) in &self.parts {
            put_uvarint(&mut out, number.0);
            put_varlong(&mut out, part.log_start.0);
            put_varlong(&mut out, part.end.0);
            put_uvarint(&mut out, part.batch_bytes);
            put_varlong(&mut out, part.max_timestamp);
            put_uvarint(&mut out, part.epochs.len() as u32);
            for (epoch, start) in &part.epochs {
                put_varlong(&mut out, i64::from(epoch.0));
                put_varlong(&mut out, start.0);
            }
            put_uvarint(&mut out, part.extents.len() as u32);
            let (mut prev, mut group) = (Extent::NONE, 0);
            for extent in part.extents.iter() {
                let groups = self.groups.begun(extent.at).saturating_sub(group);
                group += groups;
                Step::new(groups as u32, &prev, &origins[group], &extent).put(&mut out);
                origins[group].pass(&extent);
                prev = extent;
            }
        }
        let payload_bytes = out.len();
        let mut trailer = [0; TRAILER_BYTES];
        trailer[0..4].copy_from_slice(&MAGIC);
        trailer[4..6].copy_from_slice(&super::superblock::VERSION.to_be_bytes());
        trailer[6] = self.lane;
        trailer[8..12].copy_from_slice(&slot.to_be_bytes());
        trailer[12..16].copy_from_slice(&(payload_bytes as u32).to_be_bytes());
        trailer[16..24].copy_from_slice(&self.seg_seq.to_be_bytes());
        trailer[24..32].copy_from_slice(&self.first_seq.to_be_bytes());
        trailer[32..40].copy_from_slice(&self.last_seq.to_be_bytes());
        trailer[40..44].copy_from_slice(&self.data_end.to_be_bytes());
        trailer[44..48].copy_from_slice(&self.last_crc.to_be_bytes());
        let crc = checksum(store, &[&trailer[..48], &out]);
        trailer[48..52].copy_from_slice(&crc.to_be_bytes());
        out.resize(super::pad(payload_bytes + TRAILER_BYTES) - TRAILER_BYTES, 0);
        out.extend_from_slice(&trailer);
        Bytes::from(out)
    }
}

/// What the end of a slot says.
#[derive(Debug)]
pub(crate) enum Tail {
    Footer(SlotIndex),
    /// The footer is so many bytes long: read them from the end of the slot.
    Longer(u32),
    /// No footer of this use of the slot.
    Nothing,
}

/// Reads the footer of use `seg_seq` of a slot from the slot's last bytes; of any use if `None`.
pub(crate) fn parse(end: &Bytes, store: &[u8; 16], slot: u32, seg_seq: Option<u64>) -> Tail {
    let Some(trailer) = end.last_chunk::<TRAILER_BYTES>() else { return Tail::Nothing };
    let fields = Fields(trailer);
    let payload_bytes = fields.u32(12) as usize;
    if trailer[..4] != MAGIC
        || fields.u32(8) != slot
        || fields.u8(6) >= 4
        || seg_seq.is_some_and(|seg_seq| seg_seq != fields.u64(16))
        || payload_bytes > super::SLOT_BYTES_MAX as usize
    {
        return Tail::Nothing;
    }
    let region = super::pad(payload_bytes + TRAILER_BYTES);
    let Some(start) = end.len().checked_sub(region) else {
        return Tail::Longer(region as u32);
    };
    let payload = end.slice(start..start + payload_bytes);
    if fields.u32(48) != checksum(store, &[&trailer[..48], &payload]) {
        return Tail::Nothing;
    }
    let mut index = SlotIndex::new(fields.u8(6), fields.u64(16));
    index.first_seq = fields.u64(24);
    index.last_seq = fields.u64(32);
    index.data_end = fields.u32(40);
    index.last_crc = fields.u32(44);
    match parse_payload(&mut Reader::new(payload), &mut index) {
        Ok(()) => Tail::Footer(index),
        Err(bytes::Malformed) => Tail::Nothing,
    }
}

/// Where the first frame of a group stands that begins there.
fn first_frame(at: u32) -> Origin {
    Origin { end: at.saturating_add(GROUP_HEADER_BYTES as u32), max_timestamp: None }
}

/// What the first extent of each group is counted from; before them, of what is in none.
fn origins(groups: &Groups) -> Vec<Origin> {
    let firsts = groups.begins().map(first_frame);
    core::iter::once(Origin::default()).chain(firsts).collect()
}

fn parse_payload(input: &mut Reader, index: &mut SlotIndex) -> bytes::Result<()> {
    index.groups = Groups::parse(input)?;
    let mut origins = origins(&index.groups);
    for _ in 0..input.uvarint()? {
        let number = PartitionNumber(input.uvarint()?);
        let mut part = Part {
            log_start: Offset(input.varlong()?),
            end: Offset(input.varlong()?),
            batch_bytes: input.uvarint()?,
            max_timestamp: input.varlong()?,
            epochs: vec![],
            extents: Extents::default(),
            shuffled: false,
        };
        for _ in 0..input.uvarint()? {
            part.epochs.push((LeaderEpoch(input.varlong()? as i32), Offset(input.varlong()?)));
        }
        let (mut prev, mut group) = (Extent::NONE, 0usize);
        for _ in 0..input.uvarint()? {
            let step = Step::parse(input)?;
            group = group.saturating_add(step.groups as usize);
            let origin = origins.get_mut(group).ok_or(bytes::Malformed)?;
            let extent = step.extent(&prev, origin)?;
            origin.pass(&extent);
            part.shuffled |= extent.base_offset < prev.end_offset && part.extents.len() > 0;
            part.extents.push(extent);
            prev = extent;
        }
        index.parts.insert(number, part);
    }
    Ok(())
}
