//! The part of a start that reads what counts once more and applies it.
//!
//! In the order of `group_seq`, over all lanes: a partition may go from one lane to another, and
//! what a group of kind replace says holds for everything before it. Keeping the groups in memory
//! from the visit on would cost as much as they hold; so each lane is read again, a piece at a
//! time.
//!
//! Without a checkpoint, most slots are applied by their footers, which know no order between
//! lanes. None is needed: outside the compacted lane an offset is written anew only by a later slot
//! of the same lane, and what is moved into the compacted lane is newer than what stands elsewhere.
//! So slots are applied in the order of `seg_seq`, those of the compacted lane last.

use super::accept::Candidate;
use super::disk::{Disk, Purpose};
use super::layout::footer::SlotIndex;
use super::layout::frame_seed;
use super::layout::group_seed;
use super::recovery::{Outcome, Recovery, Step};
use super::{Lane, salvage};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;

/// The most that one read gets, but for a single larger group.
const READ_BYTES: u32 = 1 << 20;

/// Something to apply.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item {
    /// A slot, by its footer alone.
    Footer(u32),
    Group(Candidate),
    /// Where acknowledged groups stood that are damaged. All of them are `later` than the
    /// checkpoint, or that is not known.
    Gap {
        slot: u32,
        from: u32,
        until: u32,
        later: bool,
    },
}

/// What is left to apply, and of each lane what was read last.
#[derive(Debug)]
pub(super) struct Applying {
    items: VecDeque<Item>,
    /// Where the items of a slot end.
    ends: BTreeMap<u32, u32>,
    indexes: BTreeMap<u32, SlotIndex>,
    chunks: [Chunk; 4],
}

#[derive(Debug, Default)]
struct Chunk {
    slot: u32,
    at: u32,
    len: u32,
    bytes: Bytes,
}

impl Item {
    fn place(&self) -> (u32, u32, u32) {
        match *self {
            Item::Footer(slot) => (slot, 0, 0),
            Item::Group(group) => {
                let len = group.header.padded_bytes() as u32;
                (group.header.slot, group.at, group.at + len)
            }
            Item::Gap { slot, from, until, .. } => (slot, from, until),
        }
    }
}

impl Chunk {
    /// The bytes of a place; fewer when they could not be read.
    fn get(&self, slot: u32, from: u32, until: u32) -> Option<Bytes> {
        if self.slot != slot || from < self.at || until > self.at + self.len {
            return None;
        }
        let len = self.bytes.len();
        let range = (from - self.at) as usize..(until - self.at) as usize;
        Some(self.bytes.slice(range.start.min(len)..range.end.min(len)))
    }
}

impl Recovery {
    pub(super) fn begin_apply(&mut self, disk: &mut Disk) -> Option<Outcome> {
        let mut items: Vec<((u64, u64, u32), Item)> = Vec::new();
        let mut applying = Applying {
            items: VecDeque::new(),
            ends: BTreeMap::new(),
            indexes: BTreeMap::new(),
            chunks: Default::default(),
        };
        let by_slots = self.replay.pieces.is_some();
        for (&slot, visited) in &self.visited {
            let Some(seg_seq) = visited.seg_seq else { continue };
            let groups =
                visited.groups.iter().filter(|group| self.accepted.contains(&group.place()));
            let groups: Vec<Candidate> = groups.copied().collect();
            let alone = visited.stands_alone.as_ref().map(|index| index.lane);
            let Some(lane) = alone.or(groups.first().map(|group| group.header.lane)) else {
                continue;
            };
            let order = |group_seq: u64, at: u32| match by_slots {
                true => (u64::from(lane == Lane::Compacted as u8), seg_seq, at),
                false => (group_seq, seg_seq, at),
            };
            if alone.is_some() {
                items.push((order(0, 0), Item::Footer(slot)));
                continue;
            }
            applying.indexes.insert(slot, SlotIndex::new(lane, seg_seq));
            let gaps = salvage::places(slot, visited, &groups, &self.verdict);
            for (from, until) in gaps {
                let before = groups.iter().rev().find(|group| group.at < from);
                let behind = groups.iter().find(|group| group.at >= until).or(before);
                let seq = |group: Option<&Candidate>| group.map_or(0, |g| g.header.group_seq);
                let later = seq(before) >= self.replay.covered;
                items.push((order(seq(behind), from), Item::Gap { slot, from, until, later }));
            }
            let groups = groups.into_iter();
            items.extend(groups.map(|g| (order(g.header.group_seq, g.at), Item::Group(g))));
        }
        items.sort_by_key(|&(order, _)| order);
        for (_, item) in items {
            let (slot, _, until) = item.place();
            let end = applying.ends.entry(slot).or_default();
            *end = until.max(*end);
            applying.items.push_back(item);
        }
        self.step = Step::Apply(applying);
        self.apply(disk)
    }

    /// Applies until something has to be read.
    fn apply(&mut self, disk: &mut Disk) -> Option<Outcome> {
        let Step::Apply(applying) = &mut self.step else { return None };
        while let Some(&item) = applying.items.front() {
            let (slot, from, until) = item.place();
            if let Item::Footer(slot) = item {
                applying.items.pop_front();
                let visited = self.visited.get_mut(&slot).expect("it is on the list");
                if let Some(index) = visited.stands_alone.take() {
                    self.replay.footer(slot, &index);
                    self.indexes.push((slot, index));
                }
                continue;
            }
            let index = applying.indexes.get_mut(&slot).expect("slots with items have an index");
            let chunk = &mut applying.chunks[usize::from(index.lane)];
            let Some(bytes) = chunk.get(slot, from, until) else {
                let end = applying.ends.get(&slot).copied().unwrap_or(until);
                let len = (until - from).max(READ_BYTES.min(end - from));
                *chunk = Chunk { slot, at: from, len, bytes: Bytes::new() };
                disk.read(
                    Purpose::Start(u32::from(index.lane)),
                    self.geometry.place(slot, from),
                    len,
                );
                return None;
            };
            applying.items.pop_front();
            let store = &self.geometry.store;
            match item {
                Item::Footer(_) => unreachable!("footers were applied above"),
                Item::Gap { later, .. } => {
                    let place = salvage::Found { store, slot, at: from, later };
                    salvage::apply(&place, &bytes, &mut self.replay, index);
                }
                Item::Group(Candidate { header, at }) => {
                    if !header.holds(&bytes, group_seed(store)) {
                        log::error!("slot {slot}: a group at {at} cannot be read a second time");
                        continue;
                    }
                    let group = bytes.slice(..header.bytes as usize);
                    self.replay.group(store, &header, at, &group, index);
                    for carry in &mut self.carried {
                        carry.take((slot, at), &group, frame_seed(store, header.seg_seq));
                    }
                }
            }
        }
        let indexes = core::mem::take(&mut applying.indexes);
        self.indexes.extend(indexes);
        self.seal(disk);
        None
    }

    pub(super) fn applied(
        &mut self,
        disk: &mut Disk,
        lane: u32,
        bytes: Option<Bytes>,
    ) -> Option<Outcome> {
        let Step::Apply(applying) = &mut self.step else { return None };
        let bytes = bytes.unwrap_or_default();
        self.bytes_read += bytes.len() as u64;
        applying.chunks[lane as usize & 3].bytes = bytes;
        self.apply(disk)
    }
}
