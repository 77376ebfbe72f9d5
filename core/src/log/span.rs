//! What one read gets: extents of one slot, and what of the bytes between them is left out.
//!
//! Groups interleave partitions, so one of a hundred has a kilobyte in each hundred. Reading all
//! that is between costs a hundred times the bytes; reading each extent by itself, one after the
//! other, as much time. So the driver is told which parts matter, and asks for all of them at once.

use super::layout::extent::Extent;
use crate::types::Offset;
use alloc::vec::Vec;
use core::ops::Range;

/// So much between two extents is read with them: a card takes as long to find another place.
const GAP_BYTES: u32 = 16 << 10;

/// Extents of one slot that one read gets, in the order in which they stand there.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub slot: u32,
    pub seg_seq: u64,
    pub extents: Vec<Extent>,
    /// Where the partition's data goes on after the last extent.
    pub end: Offset,
}

impl Span {
    /// Where the read begins in the slot, and its length.
    pub(super) fn bounds(&self) -> (u32, u32) {
        let start = self.extents.first().map_or(0, |extent| extent.at);
        let end = self.extents.last().map_or(0, Extent::end);
        (start, end - start)
    }

    /// Which bytes of the read matter; none stands for all.
    pub(super) fn parts(&self) -> Vec<Range<u32>> {
        let (start, _) = self.bounds();
        let mut parts: Vec<Range<u32>> = Vec::new();
        for extent in &self.extents {
            let part = extent.at - start..extent.end() - start;
            match parts.last_mut() {
                Some(last) if part.start <= last.end + GAP_BYTES => last.end = part.end,
                _ => parts.push(part),
            }
        }
        if parts.len() > 1 { parts } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_that_lie_apart_are_parts_and_those_that_do_not_are_read_as_one() {
        let span = |places: &[u32]| Span {
            slot: 0,
            seg_seq: 1,
            extents: places
                .iter()
                .map(|&at| Extent {
                    base_offset: Offset(0),
                    end_offset: Offset(1),
                    at,
                    bytes: 1000,
                    max_timestamp: 0,
                })
                .collect(),
            end: Offset(1),
        };
        let near = 1000 + GAP_BYTES;
        assert_eq!(span(&[4096]).parts(), []);
        assert_eq!(span(&[4096, 4096 + near]).parts(), []);
        let apart = span(&[4096, 4096 + near, 4097 + 2 * near]);
        assert_eq!(apart.parts(), [0..near + 1000, 1 + 2 * near..1001 + 2 * near]);
        assert_eq!(apart.bounds(), (4096, 1001 + 2 * near));
    }
}
