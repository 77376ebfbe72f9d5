//! The slots of which a start without a checkpoint has the footer alone: their groups are applied
//! in the order of `group_seq`, among those that were read.
//!
//! Truncations are applied at their own `group_seq`, wherever a footer has one: the slot that holds
//! the frame may be free by now, and others say it as well.

use super::replay::{Home, Replay};
use crate::log::layout::footer::SlotIndex;
use crate::log::layout::groups::Groups;
use crate::log::{Lane, Unguarded};
use crate::types::{Offset, PartitionNumber};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

#[derive(Debug, Default)]
pub(in crate::log) struct ByFooters {
    /// By the group that comes next, and slot.
    slots: BTreeMap<(u64, u32), Standing>,
    /// Truncations: group, partition, from where on.
    cuts: BTreeSet<(u64, PartitionNumber, Offset)>,
}

/// How far a slot was applied.
#[derive(Debug)]
struct Standing {
    index: SlotIndex,
    group: usize,
    /// Of each partition, in their order, the next extent, and the bytes of all its frames.
    parts: Vec<(usize, u64)>,
}

impl ByFooters {
    pub(super) fn add(&mut self, slot: u32, mut index: SlotIndex, unguarded: &Unguarded) {
        if index.groups.get(0).is_none() || unguarded.no_group_order {
            index.groups = Groups::default();
            index.groups.push(0, index.last_seq);
        }
        let mut parts = Vec::with_capacity(index.parts.len());
        for (&number, part) in &index.parts {
            let frames = part.extents.iter().map(|extent| u64::from(extent.bytes)).sum();
            parts.push((0, frames));
            for cut in part.extents.iter().filter(|extent| extent.is_cut()) {
                self.cuts.insert((cut.max_timestamp as u64, number, cut.base_offset));
            }
        }
        let (first, _) = index.groups.get(0).expect("there is one by now");
        self.slots.insert((first, slot), Standing { index, group: 0, parts });
    }

    /// Applies what was written before a group; gives the slots that are done.
    pub(super) fn apply_before(
        &mut self,
        group_seq: u64,
        replay: &mut Replay,
    ) -> Vec<(u32, SlotIndex)> {
        let mut done = Vec::new();
        loop {
            let next = self.slots.first_key_value().map(|(&(seq, _), _)| seq);
            let next = next.filter(|seq| *seq < group_seq);
            // A truncation comes before what else is in its group.
            let until = next.unwrap_or(group_seq);
            while let Some(&(seq, number, from)) = self.cuts.first().filter(|cut| cut.0 <= until) {
                self.cuts.remove(&(seq, number, from));
                replay.cut_pieces(number, from);
            }
            let standing = next.and_then(|_| self.slots.pop_first());
            let Some(((seq, slot), mut standing)) = standing else { return done };
            match standing.apply(slot, seq, replay) {
                Some(next) => drop(self.slots.insert((next, slot), standing)),
                None => done.push((slot, standing.index)),
            }
        }
    }
}

impl Standing {
    /// Applies the next group; gives the one after.
    fn apply(&mut self, slot: u32, group_seq: u64, replay: &mut Replay) -> Option<u64> {
        let home = Home { lane: Lane::checked(self.index.lane), slot, group_seq };
        let (_, until) = self.index.groups.get(self.group)?;
        for ((&number, part), (next, frames)) in self.index.parts.iter().zip(&mut self.parts) {
            while let Some(extent) = part.extents.get(*next).filter(|extent| extent.at < until) {
                *next += 1;
                if !extent.is_cut() {
                    replay.extent(&home, number, part, &extent, *frames);
                }
            }
        }
        self.group += 1;
        let next = self.index.groups.get(self.group).map(|(next, _)| next);
        if next.is_none() {
            for (&number, part) in &self.index.parts {
                replay.log_start(&home, number, part.log_start);
            }
        }
        next
    }
}
