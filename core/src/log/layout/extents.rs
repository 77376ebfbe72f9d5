//! The extents of one partition in one slot, in memory: 16 bytes each.
//!
//! ```text
//! bits  field
//!   32  base offset, less that of the first extent
//!   32  largest timestamp, less that of the first extent
//!   26  where in the slot it begins
//!   22  bytes
//!   16  offsets
//! ```
//!
//! If one of them does not fit (a batch of more than 65,535 records, timestamps that are a month
//! apart, offsets that are far apart), all of that partition and slot take 32 bytes each.

use super::extent::Extent;
use crate::types::Offset;
use alloc::vec::Vec;

#[derive(Clone, Debug)]
pub(crate) enum Extents {
    Packed {
        /// What base offsets and timestamps are counted from.
        first: (i64, i64),
        all: Vec<u128>,
    },
    Wide(Vec<Extent>),
}

impl Default for Extents {
    fn default() -> Extents {
        Extents::Packed { first: (0, 0), all: Vec::new() }
    }
}

impl PartialEq for Extents {
    fn eq(&self, other: &Extents) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Extents {}

impl Extents {
    pub(crate) fn len(&self) -> usize {
        match self {
            Extents::Packed { all, .. } => all.len(),
            Extents::Wide(all) => all.len(),
        }
    }

    /// The extent with that index, which exists.
    pub(crate) fn at(&self, index: usize) -> Extent {
        match self {
            Extents::Packed { first, all } => unpack(*first, all[index]),
            Extents::Wide(all) => all[index],
        }
    }

    pub(crate) fn get(&self, index: usize) -> Option<Extent> {
        (index < self.len()).then(|| self.at(index))
    }

    pub(crate) fn last(&self) -> Option<Extent> {
        self.get(self.len().checked_sub(1)?)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = Extent> + ExactSizeIterator {
        (0..self.len()).map(|index| self.at(index))
    }

    /// How many of them begin at or below an offset, if they are in order.
    pub(crate) fn begun(&self, offset: Offset) -> usize {
        match self {
            Extents::Packed { first, all } => {
                all.partition_point(|&packed| unpack(*first, packed).base_offset <= offset)
            }
            Extents::Wide(all) => all.partition_point(|extent| extent.base_offset <= offset),
        }
    }

    pub(crate) fn push(&mut self, extent: Extent) {
        match self {
            Extents::Packed { first, all } => {
                if all.is_empty() {
                    *first = (extent.base_offset.0, extent.max_timestamp);
                }
                match pack(*first, &extent) {
                    Some(packed) => all.push(packed),
                    None => *self = Extents::Wide(self.iter().chain([extent]).collect()),
                }
            }
            Extents::Wide(all) => all.push(extent),
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Extent> {
        match self {
            Extents::Packed { first, all } => all.pop().map(|packed| unpack(*first, packed)),
            Extents::Wide(all) => all.pop(),
        }
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&Extent) -> bool) {
        match self {
            Extents::Packed { first, all } => all.retain(|&packed| keep(&unpack(*first, packed))),
            Extents::Wide(all) => all.retain(keep),
        }
    }

    /// Gives back memory that was taken for more.
    pub(crate) fn shrink(&mut self) {
        match self {
            Extents::Packed { all, .. } => all.shrink_to_fit(),
            Extents::Wide(all) => all.shrink_to_fit(),
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Extents::Packed { all, .. } => all.capacity() * size_of::<u128>(),
            Extents::Wide(all) => all.capacity() * size_of::<Extent>(),
        }
    }
}

fn pack(first: (i64, i64), extent: &Extent) -> Option<u128> {
    let near = |value: i64, first: i64| i32::try_from(value.checked_sub(first)?).ok();
    let base_offset = near(extent.base_offset.0, first.0)? as u32;
    let max_timestamp = near(extent.max_timestamp, first.1)? as u32;
    let offsets = u16::try_from(extent.end_offset.0.checked_sub(extent.base_offset.0)?).ok()?;
    if extent.at >> 26 != 0 || extent.bytes >> 22 != 0 {
        return None;
    }
    let place = u64::from(extent.at) << 38 | u64::from(extent.bytes) << 16 | u64::from(offsets);
    let low = u64::from(base_offset) << 32 | u64::from(max_timestamp);
    Some(u128::from(place) << 64 | u128::from(low))
}

fn unpack(first: (i64, i64), packed: u128) -> Extent {
    let (place, low) = ((packed >> 64) as u64, packed as u64);
    let near = |value: u32, first: i64| first + i64::from(value as i32);
    let base_offset = Offset(near((low >> 32) as u32, first.0));
    Extent {
        base_offset,
        end_offset: base_offset.plus((place & 0xffff) as i64),
        at: (place >> 38) as u32,
        bytes: (place >> 16) as u32 & 0x3f_ffff,
        max_timestamp: near(low as u32, first.1),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn extents_come_back_as_they_were_whether_they_fit_16_bytes_or_not() {
        let usual = Extent {
            base_offset: Offset(1 << 40),
            end_offset: Offset((1 << 40) + 9),
            at: (64 << 20) - 1,
            bytes: 2 << 20,
            max_timestamp: -1,
        };
        let earlier = Extent {
            base_offset: Offset(5),
            end_offset: Offset(7),
            max_timestamp: i64::MAX,
            ..usual
        };
        let before = Extent { base_offset: Offset((1 << 40) - 9), max_timestamp: 4, ..usual };
        let long = Extent { end_offset: Offset((1 << 40) + 65_536), ..usual };
        for (others, wide) in [(before, false), (earlier, true), (long, true)] {
            let mut extents = Extents::default();
            let expected = [usual, usual, others, usual];
            expected.iter().for_each(|&extent| extents.push(extent));
            assert!(extents.iter().eq(expected), "{others:?}");
            assert_eq!(matches!(extents, Extents::Wide(_)), wide, "{others:?}");
            extents.shrink();
            let each = if wide { size_of::<Extent>() } else { 16 };
            assert_eq!(extents.memory_bytes(), 4 * each);
            assert_eq!(extents.pop(), Some(usual));
            extents.retain(|extent| *extent == others);
            assert_eq!((extents.len(), extents.last(), extents.get(1)), (1, Some(others), None));
        }
    }
}
