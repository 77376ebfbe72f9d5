//! What tests change on flash: what stands there is found, damaged, or sealed anew with a right
//! checksum.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::log::layout::frame::{EpochAge, FrameHeader, Kind};
use crate::log::layout::group::{GROUP_HEADER_BYTES, GroupHeader};
use crate::log::layout::slot::SlotHeader;
use crate::log::layout::{BLOCK, frame_seed, group_seed};
use crate::log::recovery::accept::Candidate;
use crate::log::scan;

impl World {
    /// Where a place in a slot is on the medium.
    pub fn place(&self, slot: u32, at: u32) -> usize {
        self.log.geometry.place(slot, at) as usize
    }

    /// Where the header of a group's first frame stands.
    pub fn first_frame(&self, group: &Candidate) -> usize {
        self.place(group.header.slot, group.at) + GROUP_HEADER_BYTES
    }

    fn slot_headers(&self) -> Vec<SlotHeader> {
        let slots = self.log.geometry.slots_on(self.flash.len() as u64);
        let header =
            |slot: u32| SlotHeader::parse(&self.flash[self.place(slot, 0)..], &STORE, slot);
        (0..slots).filter_map(header).collect()
    }

    /// The groups that stand in the slots' present uses, as they were written.
    pub fn groups(&self) -> Vec<Candidate> {
        let mut groups = Vec::new();
        for slot in self.slot_headers() {
            for at in (BLOCK..self.log.geometry.slot_bytes).step_by(BLOCK as usize) {
                let bytes = &self.flash[self.place(slot.slot, at).min(self.flash.len())..];
                let header = GroupHeader::peek(bytes).filter(|header| {
                    header.seg_seq == slot.seg_seq && header.holds(bytes, group_seed(&STORE))
                });
                groups.extend(header.map(|header| Candidate { header, at }));
            }
        }
        groups.sort_by_key(|group| group.header.group_seq);
        groups
    }

    pub fn group_bytes(&self, group: &Candidate) -> Bytes {
        let at = self.place(group.header.slot, group.at);
        Bytes::copy_from_slice(&self.flash[at..at + group.header.bytes as usize])
    }

    pub fn frames(&self, group: &Candidate) -> Vec<(FrameHeader, Bytes)> {
        let seed = frame_seed(&STORE, group.header.seg_seq);
        let bytes = self.group_bytes(group);
        scan::frames(&bytes, seed).map(|(header, _, body)| (header, body)).collect()
    }

    /// The groups with a frame of that kind.
    pub fn groups_with(&self, kind: Kind) -> Vec<Candidate> {
        let has = |group: &Candidate| self.frames(group).iter().any(|(f, _)| f.kind == kind);
        self.groups().into_iter().filter(has).collect()
    }

    /// Flips a bit of the group's header that nothing but its checksum knows.
    pub fn harm(&mut self, group: &Candidate) {
        let at = self.place(group.header.slot, group.at);
        self.flash[at + 68] ^= 1;
    }

    /// Writes a group with a right checksum.
    pub fn write_group(&mut self, mut group: Candidate, frames: &[(FrameHeader, Bytes)]) {
        let mut bytes = vec![0; GROUP_HEADER_BYTES];
        for (header, body) in frames {
            let header = FrameHeader { body_bytes: body.len() as u32, ..*header };
            header.put(frame_seed(&STORE, group.header.seg_seq), body, &mut bytes);
        }
        group.header.frames = frames.len() as u32;
        group.header.finish(&mut bytes, 0, group_seed(&STORE));
        let at = self.place(group.header.slot, group.at);
        self.keep(at as u64, &bytes);
    }

    /// Seals a group anew with another header.
    pub fn reseal(&mut self, group: &Candidate, change: impl FnOnce(&mut GroupHeader)) {
        let frames = self.frames(group);
        let mut changed = *group;
        change(&mut changed.header);
        self.write_group(changed, &frames);
    }

    /// Writes a group behind the last of its lane's newest slot, as the next commit would, and lets
    /// it be known as flushed.
    pub fn write_next(&mut self, lane: Lane, frames: &[(FrameHeader, Bytes)]) {
        let groups = self.groups();
        let last = groups.last().unwrap().header.group_seq;
        let tail = groups.iter().rev().find(|group| group.header.lane == lane as u8).unwrap();
        let mut group = *tail;
        group.at += tail.header.padded_bytes() as u32;
        group.header.group_seq = last + 1;
        group.header.durable_seq = last + 1;
        group.header.prev_group_seq = tail.header.group_seq;
        group.header.prev_group_crc = tail.header.crc;
        self.write_group(group, frames);
    }
}

/// A frame of a batch with one record.
pub fn batch_frame(partition: PartitionNumber, base: i64, value: &str) -> (FrameHeader, Bytes) {
    let header = FrameHeader {
        kind: Kind::Batch,
        copied: false,
        partition,
        base_offset: Offset(base),
        last_offset_delta: 0,
        leader_epoch: LeaderEpoch(3),
        body_bytes: 0,
        epoch_age: EpochAge::default(),
    };
    (header, batch(&[value], base, None))
}
