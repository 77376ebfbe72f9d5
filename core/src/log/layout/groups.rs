//! The groups of a slot, as its footer lists them: where each begins, and its `group_seq`.
//!
//! ```text
//! uvarint groups; for each, in order: uvarint blocks from the begin of the one before, or of the
//!   slot, varlong group_seq less the one before, or 0
//! ```
//!
//! No extent reaches over groups, so a start that has nothing but footers knows by this which of
//! two extents was written later. Nobody else asks for it, so what is cached has no groups.

use super::BLOCK;
use crate::bytes::{Malformed, Reader, Result, put_uvarint, put_varlong, uvarint_len, varlong_len};
use alloc::vec::Vec;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Groups {
    all: Vec<(u32, u64)>,
    encoded_bytes: usize,
}

/// What a footer says of a group, by the one before.
fn step(before: (u32, u64), group: (u32, u64)) -> (u32, i64) {
    (group.0.saturating_sub(before.0) / BLOCK, group.1.wrapping_sub(before.1) as i64)
}

impl Groups {
    pub(crate) fn push(&mut self, at: u32, group_seq: u64) {
        let before = self.all.last().copied().unwrap_or_default();
        let (blocks, seq) = step(before, (at, group_seq));
        self.encoded_bytes += uvarint_len(blocks) + varlong_len(seq);
        self.all.push((at, group_seq));
    }

    /// The `group_seq` of the group with that index, and where the next one begins.
    pub(crate) fn get(&self, index: usize) -> Option<(u64, u32)> {
        let end = self.all.get(index + 1).map_or(u32::MAX, |&(at, _)| at);
        self.all.get(index).map(|&(_, group_seq)| (group_seq, end))
    }

    /// How many of them begin at or before a place.
    pub(crate) fn begun(&self, at: u32) -> usize {
        self.all.partition_point(|&(begin, _)| begin <= at)
    }

    /// Where each begins.
    pub(crate) fn begins(&self) -> impl Iterator<Item = u32> {
        self.all.iter().map(|&(at, _)| at)
    }

    /// But for their count.
    pub(crate) fn encoded_bytes(&self) -> usize {
        self.encoded_bytes
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.all.capacity() * size_of::<(u32, u64)>()
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_uvarint(out, self.all.len() as u32);
        let mut before = (0, 0);
        for &group in &self.all {
            let (blocks, seq) = step(before, group);
            put_uvarint(out, blocks);
            put_varlong(out, seq);
            before = group;
        }
    }

    pub(crate) fn parse(input: &mut Reader) -> Result<Groups> {
        let (mut groups, mut at, mut seq) = (Groups::default(), 0u32, 0u64);
        for _ in 0..input.uvarint()? {
            let bytes = input.uvarint()?.checked_mul(BLOCK).ok_or(Malformed)?;
            at = at.checked_add(bytes).ok_or(Malformed)?;
            seq = seq.wrapping_add(input.varlong()? as u64);
            groups.push(at, seq);
        }
        Ok(groups)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn groups_come_back_in_order_and_take_the_bytes_that_were_reserved() {
        let mut groups = Groups::default();
        for (at, group_seq) in [(4096, u64::MAX - 300), (8192, u64::MAX - 299), (90_112, 7)] {
            groups.push(at, group_seq);
        }
        let mut out = Vec::new();
        groups.put(&mut out);
        assert_eq!(out.len(), 1 + groups.encoded_bytes());
        let mut input = Reader::new(Bytes::from(out.clone()));
        assert_eq!(Groups::parse(&mut input), Ok(groups.clone()));
        let of = |index| groups.get(index);
        assert_eq!(of(0), Some((u64::MAX - 300, 8192)));
        assert_eq!((of(2), of(3)), (Some((7, u32::MAX)), None));
        for len in 0..out.len() {
            let mut input = Reader::new(Bytes::copy_from_slice(&out[..len]));
            assert_eq!(Groups::parse(&mut input), Err(Malformed), "{len} bytes");
        }
        let far = [1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0];
        assert_eq!(Groups::parse(&mut Reader::new(Bytes::copy_from_slice(&far))), Err(Malformed));
    }
}
