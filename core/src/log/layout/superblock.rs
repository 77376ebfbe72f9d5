//! The superblock: what a medium is. Written at format, once at its begin and once a unit further
//! on.
//!
//! ```text
//! at  bytes  field
//!  0      8  magic "WEIRLOG\n"
//!  8      2  format version, 1
//! 10      2  zero
//! 12      4  slot_bytes, a power of two
//! 16      4  slots
//! 20      4  node id
//! 24     16  store UUID
//! 40      4  CRC-32C over store UUID and bytes 0 to 40
//! ```
//!
//! The table fits one 512-byte sector, so a cut leaves it whole or absent. The copy stands
//! `slot_bytes` into the medium; when the first is unreadable, the copy is looked for at each power
//! of two.

use super::{BLOCK, Fields, Geometry, SLOT_BYTES_MAX, SLOT_BYTES_MIN, checksum, head};
use alloc::vec;
use bytes::Bytes;

const MAGIC: [u8; 8] = *b"WEIRLOG\n";
pub(crate) const VERSION: u16 = 1;
const BYTES: usize = 44;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// Only zeros: never written, or a format was cut short.
    Blank,
    Invalid,
    Newer(u16),
}

/// The block that holds the superblock.
pub(crate) fn encode(geometry: &Geometry) -> Bytes {
    let mut block = vec![0; BLOCK as usize];
    block[0..8].copy_from_slice(&MAGIC);
    block[8..10].copy_from_slice(&VERSION.to_be_bytes());
    block[12..16].copy_from_slice(&geometry.slot_bytes.to_be_bytes());
    block[16..20].copy_from_slice(&geometry.slots.to_be_bytes());
    block[20..24].copy_from_slice(&geometry.node.to_be_bytes());
    block[24..40].copy_from_slice(&geometry.store);
    let crc = checksum(&geometry.store, &[&block[..40]]);
    block[40..44].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(block)
}

pub(crate) fn parse(block: &[u8]) -> Result<Geometry, Bad> {
    let bytes: &[u8; BYTES] = head(block).ok_or(Bad::Invalid)?;
    if block.iter().all(|&b| b == 0) {
        return Err(Bad::Blank);
    }
    let fields = Fields(bytes);
    if bytes[..8] != MAGIC {
        return Err(Bad::Invalid);
    }
    // The version comes before the checksum: a newer format may compute it otherwise. But where the
    // checksum holds with this version, only the version is damaged.
    if fields.u16(8) > VERSION {
        let parts = [&bytes[..8], &VERSION.to_be_bytes(), &bytes[10..40]];
        let ours = fields.u32(40) == checksum(&fields.array(24), &parts);
        return Err(if ours { Bad::Invalid } else { Bad::Newer(fields.u16(8)) });
    }
    let geometry = Geometry {
        store: fields.array(24),
        node: fields.u32(20) as i32,
        slot_bytes: fields.u32(12),
        slots: fields.u32(16),
    };
    let sound = fields.u32(40) == checksum(&geometry.store, &[&bytes[..40]]);
    if sound && is_usable(geometry.slot_bytes, geometry.slots) {
        Ok(geometry)
    } else {
        Err(Bad::Invalid)
    }
}

/// Whether a log can be kept in so many slots of that size: one open slot a lane, one to move on
/// to.
pub(crate) fn is_usable(slot_bytes: u32, slots: u32) -> bool {
    slot_bytes.is_power_of_two()
        && (SLOT_BYTES_MIN..=SLOT_BYTES_MAX).contains(&slot_bytes)
        && (8..u32::MAX).contains(&slots)
}

/// Where the copy may stand.
pub(crate) fn copies() -> impl Iterator<Item = u64> {
    (SLOT_BYTES_MIN.trailing_zeros()..=SLOT_BYTES_MAX.trailing_zeros()).map(|shift| 1u64 << shift)
}
