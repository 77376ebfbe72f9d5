//! The newest groups in memory: what was just written is read from here, not from flash.

use super::layout::group::Place;
use alloc::collections::{BTreeMap, VecDeque};
use bytes::Bytes;

#[derive(Debug)]
pub(crate) struct Tail {
    bytes_max: usize,
    bytes: usize,
    groups: BTreeMap<Place, Bytes>,
    order: VecDeque<Place>,
}

impl Tail {
    pub(crate) fn new(bytes_max: usize) -> Tail {
        Tail { bytes_max, bytes: 0, groups: BTreeMap::new(), order: VecDeque::new() }
    }

    /// Keeps a group that is durable; forgets the oldest ones for it.
    pub(crate) fn push(&mut self, place: Place, group: Bytes) {
        self.bytes += group.len();
        if let Some(old) = self.groups.insert(place, group) {
            self.bytes -= old.len();
            self.order.retain(|&kept| kept != place);
        }
        self.order.push_back(place);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(group) = self.groups.remove(&oldest) {
                self.bytes -= group.len();
            }
        }
    }

    /// `len` bytes of a slot, if they lie in a group that is kept.
    pub(crate) fn get(&self, place: Place, len: u32) -> Option<Bytes> {
        let first = Place { slot: place.slot, at: 0 };
        let (start, group) = self.groups.range(first..=place).next_back()?;
        let from = (place.at - start.at) as usize;
        let end = from.checked_add(len as usize)?;
        (end <= group.len()).then(|| group.slice(from..end))
    }

    /// The slot is used anew.
    pub(crate) fn forget_slot(&mut self, slot: u32) {
        let places = Place { slot, at: 0 }..=Place { slot, at: u32::MAX };
        let gone: alloc::vec::Vec<Place> = self.groups.range(places).map(|(&p, _)| p).collect();
        for place in gone {
            if let Some(group) = self.groups.remove(&place) {
                self.bytes -= group.len();
            }
        }
        self.order.retain(|place| place.slot != slot);
    }
}
