//! The commit group: the frames of one lane that one flush makes durable.
//!
//! ```text
//! at  bytes  field
//!  0      4  magic "WGRP"
//!  4      1  lane
//!  5      3  zero
//!  8      4  bytes of header and frames, without the padding
//! 12      4  frames
//! 16      4  slot
//! 20      4  boot_epoch
//! 24      8  seg_seq of the slot
//! 32      8  group_seq: one sequence for all lanes, never reused
//! 40      8  durable_seq: the highest group_seq known to be flushed when this group was built
//! 48      8  prev_group_seq: the lane's group before, 0: none
//! 56      4  prev_group_crc: its checksum
//! 60      4  slot of the last durable checkpoint's root, 0xffffffff: none
//! 64      4  where in that slot the root's group begins
//! 68      4  zero
//! 72      8  epoch_base: the last group_seq that counts of those before this boot_epoch
//! 80      8  epoch_first: the first group_seq of this boot_epoch
//! 88      4  zero
//! 92      4  CRC-32C over store UUID, bytes 0 to 92 and the frames
//! 96      …  frames
//! ```
//!
//! A `boot_epoch` begins at each start and after each failed write or flush: whatever was written
//! before and is above `epoch_base` was given up then and must not come back.

use super::{BLOCK, Fields, head};
use alloc::vec::Vec;
use bytes::Bytes;

const MAGIC: [u8; 4] = *b"WGRP";
pub(crate) const GROUP_HEADER_BYTES: usize = 96;

/// Where a group begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub slot: u32,
    pub at: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    pub lane: u8,
    pub bytes: u32,
    pub frames: u32,
    pub slot: u32,
    pub boot_epoch: u32,
    pub seg_seq: u64,
    pub group_seq: u64,
    pub durable_seq: u64,
    pub prev_group_seq: u64,
    pub prev_group_crc: u32,
    pub checkpoint: Option<Place>,
    pub epoch_base: u64,
    pub epoch_first: u64,
    pub crc: u32,
}

impl GroupHeader {
    /// Reads the fields of something that looks like a group.
    pub(crate) fn peek(bytes: &[u8]) -> Option<GroupHeader> {
        let bytes: &[u8; GROUP_HEADER_BYTES] = head(bytes)?;
        let fields = Fields(bytes);
        let checkpoint = Place { slot: fields.u32(60), at: fields.u32(64) };
        let header = GroupHeader {
            lane: fields.u8(4),
            bytes: fields.u32(8),
            frames: fields.u32(12),
            slot: fields.u32(16),
            boot_epoch: fields.u32(20),
            seg_seq: fields.u64(24),
            group_seq: fields.u64(32),
            durable_seq: fields.u64(40),
            prev_group_seq: fields.u64(48),
            prev_group_crc: fields.u32(56),
            checkpoint: (checkpoint.slot != u32::MAX).then_some(checkpoint),
            epoch_base: fields.u64(72),
            epoch_first: fields.u64(80),
            crc: fields.u32(92),
        };
        let shaped = bytes[..4] == MAGIC && header.bytes as usize >= GROUP_HEADER_BYTES;
        (shaped && header.lane < 4).then_some(header)
    }

    /// Whether the group at the begin of `bytes` is there in whole, unharmed. `self` was peeked
    /// there.
    pub(crate) fn holds(&self, bytes: &[u8], seed: u32) -> bool {
        let Some(group) = bytes.get(..self.bytes as usize) else { return false };
        checksum(group, seed) == self.crc
    }

    /// A header that is not verified may say anything.
    pub(crate) fn padded_bytes(&self) -> usize {
        self.bytes.checked_next_multiple_of(BLOCK).unwrap_or(u32::MAX) as usize
    }

    /// Writes the header over the first bytes of `group`, whose frames are there, and pads it.
    /// Sets `bytes` and `crc`.
    pub(crate) fn finish(&mut self, group: &mut Vec<u8>, start: usize, seed: u32) {
        self.bytes = u32::try_from(group.len() - start).expect("a group fits a slot");
        let none = Place { slot: u32::MAX, at: 0 };
        let checkpoint = self.checkpoint.unwrap_or(none);
        let out = &mut group[start..];
        out[0..4].copy_from_slice(&MAGIC);
        out[4] = self.lane;
        out[8..12].copy_from_slice(&self.bytes.to_be_bytes());
        out[12..16].copy_from_slice(&self.frames.to_be_bytes());
        out[16..20].copy_from_slice(&self.slot.to_be_bytes());
        out[20..24].copy_from_slice(&self.boot_epoch.to_be_bytes());
        out[24..32].copy_from_slice(&self.seg_seq.to_be_bytes());
        out[32..40].copy_from_slice(&self.group_seq.to_be_bytes());
        out[40..48].copy_from_slice(&self.durable_seq.to_be_bytes());
        out[48..56].copy_from_slice(&self.prev_group_seq.to_be_bytes());
        out[56..60].copy_from_slice(&self.prev_group_crc.to_be_bytes());
        out[60..64].copy_from_slice(&checkpoint.slot.to_be_bytes());
        out[64..68].copy_from_slice(&checkpoint.at.to_be_bytes());
        out[72..80].copy_from_slice(&self.epoch_base.to_be_bytes());
        out[80..88].copy_from_slice(&self.epoch_first.to_be_bytes());
        self.crc = checksum(out, seed);
        out[92..96].copy_from_slice(&self.crc.to_be_bytes());
        group.resize(start + self.padded_bytes(), 0);
    }
}

fn checksum(group: &[u8], seed: u32) -> u32 {
    let (header, frames) = group.split_at(GROUP_HEADER_BYTES);
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &header[..92]), frames)
}

/// What stands at a block of a slot that is scanned.
#[derive(Debug)]
pub(crate) enum Found {
    /// A group of this use of the slot, unharmed.
    Group(GroupHeader, Bytes),
    /// A group that goes on beyond the bytes that were read: read so many from its begin.
    Longer(usize),
    /// Nothing of this use of the slot, or harmed.
    Nothing,
}

/// Looks for a group of slot `slot` in its use `seg_seq`, or in any, at the begin of `bytes`; the
/// slot has `room` bytes from there on.
pub(crate) fn find(
    bytes: &Bytes,
    room: usize,
    slot: u32,
    seg_seq: Option<u64>,
    seed: u32,
) -> Found {
    let Some(header) = GroupHeader::peek(bytes) else { return Found::Nothing };
    let ours = header.slot == slot && seg_seq.is_none_or(|seg_seq| seg_seq == header.seg_seq);
    if !ours || header.padded_bytes() > room {
        return Found::Nothing;
    }
    if header.bytes as usize > bytes.len() {
        return Found::Longer(header.padded_bytes());
    }
    if !header.holds(bytes, seed) {
        return Found::Nothing;
    }
    Found::Group(header, bytes.slice(..header.bytes as usize))
}
