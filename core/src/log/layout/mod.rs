//! What stands on flash: the byte layouts, each with its table in the module that owns it.
//!
//! ```text
//! medium:  unit 0: superblock | unit 1: its copy | slot 0 | slot 1 | …     each of slot_bytes
//! slot:    header, 4 KiB | group | group | … | free | footer, which ends where the slot does
//! group:   header, 96 bytes | frame | frame | … | padding to 4 KiB
//! frame:   header, 32 bytes | body
//! ```
//!
//! Integers are big-endian. Every checksum is CRC-32C and begins with the store's UUID, so that
//! nothing of another store, and no payload that looks like a group, verifies as ours.

pub(crate) mod checkpoint;
pub(crate) mod extent;
pub(crate) mod extents;
pub(crate) mod footer;
pub(crate) mod frame;
pub(crate) mod group;
pub(crate) mod groups;
pub(crate) mod slot;
pub(crate) mod superblock;
#[cfg(test)]
mod tests;

use crc::{CRC_32_ISCSI, Crc};

/// Groups, headers and footers begin at multiples of this, so that no block that holds acknowledged
/// bytes is ever written again: it is the sector size of most media and the page size of the rest.
pub(crate) const BLOCK: u32 = 4096;

/// The smallest and largest slot. Below, header and footer are most of it; above, one slot is too
/// large a share of a card, and reading one takes too long.
pub(crate) const SLOT_BYTES_MIN: u32 = 32 << 10;
pub(crate) const SLOT_BYTES_MAX: u32 = 64 << 20;

static CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// The checksum of superblocks, slot headers and footers.
pub(crate) fn checksum(store: &[u8; 16], parts: &[&[u8]]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(store);
    for part in parts {
        digest.update(part);
    }
    digest.finalize()
}

/// What the checksum of a group begins with.
pub(crate) fn group_seed(store: &[u8; 16]) -> u32 {
    crc32c::crc32c(store)
}

/// What the checksum of a frame begins with: a frame that an earlier use of the slot left behind
/// never verifies.
pub(crate) fn frame_seed(store: &[u8; 16], seg_seq: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(store), &seg_seq.to_be_bytes())
}

pub(crate) fn pad(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK as usize)
}

/// The figures of a medium, from its superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub store: [u8; 16],
    pub node: i32,
    pub slot_bytes: u32,
    pub slots: u32,
}

impl Geometry {
    /// Where a byte of a slot stands on the medium.
    pub(crate) fn place(&self, slot: u32, at: u32) -> u64 {
        (u64::from(slot) + 2) * u64::from(self.slot_bytes) + u64::from(at)
    }

    /// How many slots lie wholly or in part on a medium of that length.
    pub(crate) fn slots_on(&self, medium_bytes: u64) -> u32 {
        let units = medium_bytes.div_ceil(u64::from(self.slot_bytes));
        u32::try_from(units.saturating_sub(2)).unwrap_or(u32::MAX).min(self.slots)
    }
}

/// The fixed-width fields of a header that is there in whole.
pub(crate) struct Fields<'a, const N: usize>(pub &'a [u8; N]);

impl<const N: usize> Fields<'_, N> {
    pub(crate) fn u8(&self, at: usize) -> u8 {
        self.0[at]
    }
    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }
    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }
    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }
    pub(crate) fn array(&self, at: usize) -> [u8; 16] {
        self.0[at..at + 16].try_into().expect("the range is sixteen bytes long")
    }
}

/// The first `N` bytes, if they are there.
pub(crate) fn head<const N: usize>(bytes: &[u8]) -> Option<&[u8; N]> {
    bytes.get(..N)?.try_into().ok()
}
