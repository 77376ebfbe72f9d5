//! An extent, and how a footer writes it: see there for the bytes.
//!
//! Why by differences to two others (2026-11): sensors send batches of like size again and again,
//! and a footer was one per cent of its slot. What is like the extent before in the partition, or
//! goes on where the one before in the group ended, takes no byte of its own; where all is alike,
//! an extent takes one byte where it took ten.

use crate::bytes::{Malformed, Reader, Result, put_uvarint, put_varlong, uvarint_len, varlong_len};
use crate::types::Offset;
use alloc::vec::Vec;

/// Frames of one partition that follow each other on flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub base_offset: Offset,
    pub end_offset: Offset,
    /// Where in the slot the first frame begins.
    pub at: u32,
    pub bytes: u32,
    pub max_timestamp: i64,
}

/// What an extent is counted from: the one before in its group, of whatever partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    /// Where that ends; where frames begin if there is none.
    pub end: u32,
    /// Its largest timestamp, if there is one.
    pub max_timestamp: Option<i64>,
}

/// How an extent differs from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Groups since that of the extent before in the partition.
    pub groups: u32,
    /// Place, base offset, offsets, bytes, largest timestamp.
    fields: [i64; 5],
}

impl Extent {
    /// What stands before the first one.
    pub(super) const NONE: Extent =
        Extent { base_offset: Offset(0), end_offset: Offset(0), at: 0, bytes: 0, max_timestamp: 0 };

    pub(crate) fn end(&self) -> u32 {
        self.at + self.bytes
    }

    /// Whether it is a truncation.
    pub(crate) fn is_cut(&self) -> bool {
        self.bytes == 0
    }

    fn offsets(&self) -> i64 {
        self.end_offset.0.wrapping_sub(self.base_offset.0)
    }
}

impl Origin {
    /// An extent of the group was passed. A truncation may stand before its group.
    pub(super) fn pass(&mut self, extent: &Extent) {
        if !extent.is_cut() {
            *self = Origin { end: extent.end(), max_timestamp: Some(extent.max_timestamp) };
        }
    }
}

impl Step {
    /// From the extent before in the partition, so many groups further on.
    pub(super) fn new(groups: u32, prev: &Extent, origin: &Origin, extent: &Extent) -> Step {
        let newest = origin.max_timestamp.unwrap_or(prev.max_timestamp);
        let fields = [
            i64::from(extent.at) - i64::from(origin.end),
            extent.base_offset.0.wrapping_sub(prev.end_offset.0),
            extent.offsets().wrapping_sub(prev.offsets()),
            i64::from(extent.bytes) - i64::from(prev.bytes),
            extent.max_timestamp.wrapping_sub(newest),
        ];
        Step { groups, fields }
    }

    /// The extent that it leads to.
    pub(super) fn extent(&self, prev: &Extent, origin: &Origin) -> Result<Extent> {
        let [place, base, offsets, more, newer] = self.fields;
        let sum = |from: u32, more: i64| u32::try_from(i64::from(from).saturating_add(more));
        let base_offset = Offset(prev.end_offset.0.wrapping_add(base));
        let offsets = prev.offsets().wrapping_add(offsets);
        let end_offset = Offset(base_offset.0.saturating_add(offsets.max(0)));
        let at = sum(origin.end, place).map_err(|_| Malformed)?;
        let bytes = sum(prev.bytes, more).map_err(|_| Malformed)?;
        at.checked_add(bytes).ok_or(Malformed)?;
        let newest = origin.max_timestamp.unwrap_or(prev.max_timestamp);
        Ok(Extent { base_offset, end_offset, at, bytes, max_timestamp: newest.wrapping_add(newer) })
    }

    fn head(&self) -> u32 {
        let there = (0..).zip(&self.fields).map(|(bit, &field)| u32::from(field != 0) << bit);
        self.groups << self.fields.len() | there.sum::<u32>()
    }

    pub(super) fn encoded_bytes(&self) -> usize {
        let there = self.fields.iter().filter(|&&field| field != 0);
        uvarint_len(self.head()) + there.map(|&field| varlong_len(field)).sum::<usize>()
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_uvarint(out, self.head());
        self.fields.iter().filter(|&&field| field != 0).for_each(|&field| put_varlong(out, field));
    }

    pub(super) fn parse(input: &mut Reader) -> Result<Step> {
        let head = input.uvarint()?;
        let mut fields = [0; 5];
        for (bit, field) in fields.iter_mut().enumerate() {
            if head >> bit & 1 == 1 {
                *field = input.varlong()?;
            }
        }
        Ok(Step { groups: head >> fields.len(), fields })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn an_extent_comes_back_from_what_it_differs_by_and_one_like_those_before_is_a_byte() {
        let prev = Extent {
            base_offset: Offset(70),
            end_offset: Offset(72),
            at: 4192,
            bytes: 500,
            max_timestamp: 9_000,
        };
        let origin = Origin { end: 9000, max_timestamp: Some(9_500) };
        let alike = Extent {
            base_offset: Offset(72),
            end_offset: Offset(74),
            at: 9000,
            max_timestamp: 9_500,
            ..prev
        };
        let none = Origin { end: 9000, max_timestamp: None };
        let others = [
            (alike, origin, 1),
            (Extent { max_timestamp: 9_000, ..alike }, none, 1),
            (Extent { at: 8996, ..alike }, origin, 2),
            (Extent { base_offset: Offset(71), ..alike }, origin, 3),
            (Extent { end_offset: Offset(i64::MAX), ..alike }, origin, 11),
            (Extent { bytes: 0, ..alike }, origin, 3),
            (Extent { max_timestamp: i64::MIN, at: 0, ..alike }, origin, 14),
        ];
        for (extent, origin, len) in others {
            let mut out = Vec::new();
            let step = Step::new(1, &prev, &origin, &extent);
            step.put(&mut out);
            assert_eq!((out.len(), step.encoded_bytes()), (len, len), "{extent:?}");
            let parse = |bytes: &[u8]| Step::parse(&mut Reader::new(Bytes::copy_from_slice(bytes)));
            assert_eq!(parse(&out).unwrap(), step);
            assert_eq!(step.extent(&prev, &origin), Ok(extent));
            for len in 0..out.len() {
                assert_eq!(parse(&out[..len]), Err(Malformed), "{len} bytes");
            }
        }
    }

    #[test]
    fn no_step_leads_out_of_what_a_slot_can_be() {
        let prev = Extent { bytes: 500, ..Extent::NONE };
        let origin = Origin { end: 9000, max_timestamp: None };
        for (place, more) in [(-9001, 0), (0, -501), (i64::MAX, 0), (i64::from(u32::MAX) - 9000, 1)]
        {
            let step = Step { groups: 0, fields: [place, 0, 0, more, 0] };
            assert_eq!(step.extent(&prev, &origin), Err(Malformed), "{place} {more}");
        }
    }
}
