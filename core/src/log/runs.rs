//! Which slots hold a partition's offsets, in memory: 16 bytes a run.
//!
//! ```text
//! bits  field
//!   20  slot
//!   26  bytes
//!   40  base offset
//!   42  largest timestamp in milliseconds since 1970, and 1
//! ```
//!
//! If one of them does not fit (a timestamp after 2109, an offset beyond 10^12), all runs of the
//! partition take 24 bytes each.
//!
//! All runs are in memory; `gather` sees to it that there are not too many. What was reserved for
//! them is at most half as much again, so that a log of few partitions that had many runs each in
//! turn takes no more than one whose runs are spread.

use crate::types::Offset;
use alloc::collections::VecDeque;
use core::ops::Range;

/// A stretch of a partition's offsets that stands in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub slot: u32,
    /// Bytes of the record batches; an estimate where a run was divided.
    pub bytes: u32,
    pub base_offset: Offset,
    pub max_timestamp: i64,
}

#[derive(Clone, Debug)]
pub(crate) enum Runs {
    Packed(VecDeque<u128>),
    Wide(VecDeque<Run>),
}

impl Default for Runs {
    fn default() -> Runs {
        Runs::Packed(VecDeque::new())
    }
}

impl Run {
    /// What stands before the first one.
    pub(crate) const NONE: Run =
        Run { slot: 0, bytes: 0, base_offset: Offset(0), max_timestamp: 0 };

    /// Of the bytes of a run that ends at `end`, those from `from` to `until`, about.
    pub(crate) fn share(&self, from: Offset, until: Offset, end: Offset) -> u32 {
        let all = (end.0 - self.base_offset.0).max(1) as u128;
        let part = (until.0 - from.0).max(0) as u128;
        (u128::from(self.bytes) * part / all).min(u128::from(self.bytes)) as u32
    }

    /// The bytes that lie at or above the log start, about.
    pub(crate) fn live_bytes(&self, end: Offset, log_start: Offset) -> u32 {
        self.share(log_start.max(self.base_offset), end, end)
    }

    fn pack(&self) -> Option<u128> {
        let base_offset = u64::try_from(self.base_offset.0).ok().filter(|base| base >> 40 == 0)?;
        let timestamp = u64::try_from(self.max_timestamp.checked_add(1)?).ok()?;
        if self.slot >> 20 != 0 || self.bytes >> 26 != 0 || timestamp >> 42 != 0 {
            return None;
        }
        let place = u128::from(self.slot) << 26 | u128::from(self.bytes);
        Some(place << 82 | u128::from(base_offset) << 42 | u128::from(timestamp))
    }

    fn unpack(packed: u128) -> Run {
        Run {
            slot: (packed >> 108) as u32,
            bytes: (packed >> 82) as u32 & ((1 << 26) - 1),
            base_offset: Offset((packed >> 42) as i64 & ((1 << 40) - 1)),
            max_timestamp: (packed as i64 & ((1 << 42) - 1)) - 1,
        }
    }
}

impl Runs {
    pub(crate) fn len(&self) -> usize {
        match self {
            Runs::Packed(all) => all.len(),
            Runs::Wide(all) => all.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The run with that index, which exists.
    pub(crate) fn at(&self, index: usize) -> Run {
        match self {
            Runs::Packed(all) => Run::unpack(all[index]),
            Runs::Wide(all) => all[index],
        }
    }

    pub(crate) fn get(&self, index: usize) -> Option<Run> {
        (index < self.len()).then(|| self.at(index))
    }

    pub(crate) fn front(&self) -> Option<Run> {
        self.get(0)
    }

    pub(crate) fn back(&self) -> Option<Run> {
        self.get(self.len().checked_sub(1)?)
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = Run> {
        (0..self.len()).map(|index| self.at(index))
    }

    /// How many of them begin below an offset.
    pub(crate) fn below(&self, offset: Offset) -> usize {
        match self {
            Runs::Packed(all) => all.partition_point(|&run| Run::unpack(run).base_offset < offset),
            Runs::Wide(all) => all.partition_point(|run| run.base_offset < offset),
        }
    }

    pub(crate) fn push_back(&mut self, run: Run) {
        self.insert(self.len(), run);
    }

    pub(crate) fn insert(&mut self, index: usize, run: Run) {
        self.reserve_one();
        if let Runs::Packed(all) = self {
            match run.pack() {
                Some(packed) => return all.insert(index, packed),
                None => *self = Runs::Wide(self.iter().collect()),
            }
        }
        if let Runs::Wide(all) = self {
            all.insert(index, run);
        }
    }

    /// Puts another in the place of the run with that index, which exists.
    pub(crate) fn set(&mut self, index: usize, run: Run) {
        if let Runs::Packed(all) = self {
            match run.pack() {
                Some(packed) => return all[index] = packed,
                None => *self = Runs::Wide(self.iter().collect()),
            }
        }
        if let Runs::Wide(all) = self {
            all[index] = run;
        }
    }

    pub(crate) fn remove(&mut self, range: Range<usize>) {
        match self {
            Runs::Packed(all) => drop(all.drain(range)),
            Runs::Wide(all) => drop(all.drain(range)),
        }
        self.give_back();
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&Run) -> bool) {
        match self {
            Runs::Packed(all) => all.retain(|&packed| keep(&Run::unpack(packed))),
            Runs::Wide(all) => all.retain(keep),
        }
        self.give_back();
    }

    /// Room for one more: an eighth at a time, where a queue by itself would double.
    fn reserve_one(&mut self) {
        let more = self.len() / 8 + 4;
        match self {
            Runs::Packed(all) if all.len() == all.capacity() => all.reserve_exact(more),
            Runs::Wide(all) if all.len() == all.capacity() => all.reserve_exact(more),
            Runs::Packed(_) | Runs::Wide(_) => {}
        }
    }

    /// Gives back what is far more than is needed.
    fn give_back(&mut self) {
        let (enough, much) = (self.len() + self.len() / 8 + 4, self.len() + self.len() / 2 + 16);
        match self {
            Runs::Packed(all) if all.capacity() > much => all.shrink_to(enough),
            Runs::Wide(all) if all.capacity() > much => all.shrink_to(enough),
            Runs::Packed(_) | Runs::Wide(_) => {}
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Runs::Packed(all) => all.capacity() * size_of::<u128>(),
            Runs::Wide(all) => all.capacity() * size_of::<Run>(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn runs_take_half_as_much_again_at_most_whatever_came_and_went() {
        let mut runs = Runs::default();
        let bytes_max = |len: usize| (len + len / 2 + 16) * 16;
        for number in 0..10_000 {
            runs.push_back(Run { base_offset: Offset(number), ..Run::NONE });
            assert!(runs.memory_bytes() <= bytes_max(runs.len()));
        }
        while !runs.is_empty() {
            runs.remove(0..runs.len().min(7));
            assert!(runs.memory_bytes() <= bytes_max(runs.len()), "{}", runs.len());
        }
    }

    #[test]
    fn runs_come_back_as_they_were_whether_they_fit_16_bytes_or_not() {
        let most = Run {
            slot: (1 << 20) - 1,
            bytes: (1 << 26) - 1,
            base_offset: Offset((1 << 40) - 1),
            max_timestamp: (1 << 42) - 2,
        };
        let least = Run { max_timestamp: -1, ..Run::NONE };
        let mut wide = [most; 5];
        wide[0].slot += 1;
        wide[1].bytes += 1;
        wide[2].base_offset = wide[2].base_offset.plus(1);
        wide[3].max_timestamp += 1;
        wide[4].max_timestamp = -2;
        for other in [least, most].into_iter().chain(wide) {
            let mut runs = Runs::default();
            [least, most].into_iter().for_each(|run| runs.push_back(run));
            runs.insert(1, other);
            assert!(runs.iter().eq([least, other, most]), "{other:?}");
            assert_eq!(matches!(runs, Runs::Wide(_)), wide.contains(&other), "{other:?}");
            runs.set(1, least);
            runs.remove(0..1);
            assert!(runs.iter().eq([least, most]), "{other:?}");
            runs.retain(|run| *run == most);
            assert_eq!((runs.front(), runs.back(), runs.get(1)), (Some(most), Some(most), None));
        }
    }
}
