//! The slot header: which use of a slot this is. The first block of a slot, written together with
//! the slot's first group.
//!
//! ```text
//! at  bytes  field
//!  0      4  magic "WSLT"
//!  4      2  format version, 1
//!  6      1  lane: 0 short retention, 1 long, 2 compacted and survivors, 3 meta
//!  7      1  zero
//!  8      4  slot
//! 12      4  boot_epoch
//! 16      8  seg_seq, never reused
//! 24      8  seg_seq of the lane's slot before, 0: none
//! 32     16  store UUID
//! 48      4  CRC-32C over store UUID and bytes 0 to 48
//! ```

use super::{BLOCK, Fields, checksum, head};

const MAGIC: [u8; 4] = *b"WSLT";
const BYTES: usize = 52;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotHeader {
    pub lane: u8,
    pub slot: u32,
    pub boot_epoch: u32,
    pub seg_seq: u64,
    pub prev_seg_seq: u64,
}

impl SlotHeader {
    /// The block that holds the header.
    pub(crate) fn encode(&self, store: &[u8; 16]) -> [u8; BLOCK as usize] {
        let mut block = [0; BLOCK as usize];
        block[0..4].copy_from_slice(&MAGIC);
        block[4..6].copy_from_slice(&super::superblock::VERSION.to_be_bytes());
        block[6] = self.lane;
        block[8..12].copy_from_slice(&self.slot.to_be_bytes());
        block[12..16].copy_from_slice(&self.boot_epoch.to_be_bytes());
        block[16..24].copy_from_slice(&self.seg_seq.to_be_bytes());
        block[24..32].copy_from_slice(&self.prev_seg_seq.to_be_bytes());
        block[32..48].copy_from_slice(store);
        let crc = checksum(store, &[&block[..48]]);
        block[48..52].copy_from_slice(&crc.to_be_bytes());
        block
    }

    /// The header of `slot`, if it is whole, of this store and of this slot.
    pub(crate) fn parse(block: &[u8], store: &[u8; 16], slot: u32) -> Option<SlotHeader> {
        SlotHeader::parse_any(block, store).filter(|header| header.slot == slot)
    }

    /// The header of whatever slot, if it is whole and of this store.
    pub(crate) fn parse_any(block: &[u8], store: &[u8; 16]) -> Option<SlotHeader> {
        let bytes: &[u8; BYTES] = head(block)?;
        let fields = Fields(bytes);
        let header = SlotHeader {
            lane: fields.u8(6),
            slot: fields.u32(8),
            boot_epoch: fields.u32(12),
            seg_seq: fields.u64(16),
            prev_seg_seq: fields.u64(24),
        };
        let sound = bytes[..4] == MAGIC && fields.u32(48) == checksum(store, &[&bytes[..48]]);
        (sound && header.lane < 4).then_some(header)
    }
}
