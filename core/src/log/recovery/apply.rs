//! The part of a start that reads what counts once more and applies it.
//!
//! In the order of `group_seq`, over all lanes: a partition may go from one lane to another, and
//! what a group of kind replace says holds for everything before it. Of each group the visit has
//! left an outline, which is all that is needed. What there was no memory for is read again, each
//! lane a piece at a time, and so is what is written once more (see `carry`).
//!
//! Without a checkpoint, most slots are applied by their footers, in the same order: see
//! `by_footers`.

use super::accept::Candidate;
use super::by_footers::ByFooters;
use super::salvage;
use super::visit::Visited;
use super::{Outcome, Recovery, Step};
use crate::log::disk::{Disk, Purpose};
use crate::log::layout::footer::SlotIndex;
use crate::log::layout::frame_seed;
use crate::log::layout::group::GroupHeader;
use crate::log::layout::group_seed;
use crate::log::scan::{Outline, outlines};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;

/// The most that one read gets, but for a single larger group.
const READ_BYTES: u32 = 1 << 20;

/// Bytes of a slot.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    /// The group, or the one behind.
    group_seq: u64,
    slot: u32,
    from: u32,
    until: u32,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Group(GroupHeader),
    /// Where acknowledged groups stood that are damaged: whether they are `later` than the
    /// checkpoint, if that is known of all of them.
    Gap {
        later: Option<bool>,
    },
}

/// What is left to apply, and of each lane what was read last.
#[derive(Debug)]
pub(in crate::log) struct Applying {
    items: VecDeque<Stretch>,
    by_footers: ByFooters,
    /// Where the items of a slot end that have to be read.
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

impl Stretch {
    fn group(group: &Candidate) -> Stretch {
        let (slot, from) = (group.header.slot, group.at);
        let until = from + group.header.padded_bytes() as u32;
        let group_seq = group.header.group_seq;
        Stretch { group_seq, slot, from, until, what: What::Group(group.header) }
    }
}

impl Chunk {
    /// The bytes of a place; fewer when they could not be read.
    fn get(&self, stretch: &Stretch) -> Option<Bytes> {
        let begin = stretch.from.checked_sub(self.at)? as usize;
        if self.slot != stretch.slot || stretch.until > self.at + self.len {
            return None;
        }
        let end = (stretch.until - self.at) as usize;
        let len = self.bytes.len();
        Some(self.bytes.slice(begin.min(len)..end.min(len)))
    }
}

impl Recovery {
    pub(in crate::log) fn begin_apply(&mut self, disk: &mut Disk) -> Option<Outcome> {
        let mut items: Vec<((u64, u64, u32), Stretch)> = Vec::new();
        let mut applying = Applying {
            items: VecDeque::new(),
            by_footers: ByFooters::default(),
            ends: BTreeMap::new(),
            indexes: BTreeMap::new(),
            chunks: Default::default(),
        };
        let firsts = self.first_groups();
        let mut all = core::mem::take(&mut self.visited);
        for (&slot, visited) in &mut all {
            let Some(seg_seq) = visited.seg_seq else { continue };
            if let Some(index) = visited.stands_alone.take() {
                applying.by_footers.add(slot, index, &self.unguarded);
                continue;
            }
            let groups =
                visited.groups.iter().filter(|group| self.accepted.contains(&group.place()));
            let groups: Vec<Candidate> = groups.copied().collect();
            let lane = groups.first().map(|group| group.header.lane);
            let lane = lane.or_else(|| self.lane_of_harmed(slot, visited));
            let Some(lane) = lane else { continue };
            let after = firsts.range((lane, seg_seq + 1)..=(lane, u64::MAX)).next();
            let next = after.map_or(self.verdict.last_seq + 1, |(_, &group_seq)| group_seq);
            let stretches = self.stretches((slot, seg_seq), visited, &groups, next);
            if stretches.is_empty() {
                continue;
            }
            let index = applying.indexes.entry(slot).or_insert(SlotIndex::new(lane, seg_seq));
            if groups.is_empty() {
                index.last_seq = next - 1;
            }
            for stretch in stretches {
                if !visited.outlines.contains_key(&stretch.from) {
                    let end = applying.ends.entry(slot).or_default();
                    *end = stretch.until.max(*end);
                }
                items.push(((stretch.group_seq, seg_seq, stretch.from), stretch));
            }
        }
        self.visited = all;
        items.sort_by_key(|&(order, _)| order);
        applying.items = items.into_iter().map(|(_, item)| item).collect();
        self.apply(disk, applying)
    }

    /// The first group of each use of a slot, by its lane, where it is known.
    fn first_groups(&self) -> BTreeMap<(u8, u64), u64> {
        let alone = self.visited.values().filter_map(|visited| visited.stands_alone.as_ref());
        let alone = alone.map(|index| (index.lane, index.seg_seq, index.first_seq));
        let accepted = self.verdict.accepted.iter().map(|group| &group.header);
        let accepted = accepted.map(|group| (group.lane, group.seg_seq, group.group_seq));
        let mut firsts = BTreeMap::new();
        for (lane, seg_seq, group_seq) in alone.filter(|&(.., first)| first > 0).chain(accepted) {
            let first = firsts.entry((lane, seg_seq)).or_insert(group_seq);
            *first = group_seq.min(*first);
        }
        firsts
    }

    /// The lane of a slot in which no group counts, if it is sure that what counted would be known
    /// from what was given up. The start that gave it up has made a footer that says so; without
    /// that, and without a checkpoint, only what the last life of the log wrote is sure.
    fn lane_of_harmed(&self, slot: u32, visited: &Visited) -> Option<u8> {
        let header = self.headers.get(&slot)?;
        let newest = || self.headers.values().all(|one| one.boot_epoch <= header.boot_epoch);
        let sure = self.image.is_some() || visited.data_end.is_some() || newest();
        sure.then_some(header.lane)
    }

    /// What there is to apply of a slot whose groups that count are these: they, and the damaged
    /// places between. Where no group counts, that was written before `next`, with which the next
    /// slot of the lane begins.
    fn stretches(
        &self,
        (slot, seg_seq): (u32, u64),
        visited: &Visited,
        groups: &[Candidate],
        next: u64,
    ) -> Vec<Stretch> {
        let mut stretches: Vec<Stretch> = groups.iter().map(Stretch::group).collect();
        // The checkpoint does not know of this use of the slot.
        let is_new = self.image.as_ref().is_none_or(|image| seg_seq >= image.next_seg_seq);
        let covered = self.replay.covered;
        let seq = |group: &Candidate| group.header.group_seq;
        let whole = (slot, self.geometry.slot_bytes);
        for (from, until) in salvage::places(whole, visited, groups, &self.verdict) {
            let before = groups.iter().rev().find(|group| group.at < from);
            let behind = groups.iter().find(|group| group.at >= until);
            let earlier = behind.is_some_and(|group| seq(group) <= covered);
            let later = is_new || before.is_some_and(|group| seq(group) >= covered);
            let later = (later || earlier).then_some(later);
            let after = |group: &&Candidate| {
                let counts = self.verdict.was_acknowledged(&group.header);
                let inside = from <= group.at && group.at < until;
                inside && counts && before.is_none_or(|before| seq(before) < seq(group))
            };
            // Behind the last group others may have been written before what stood there.
            let harmed = visited.harmed.iter().filter(after).map(seq).min();
            let group_seq = behind.map(seq).or(harmed).or(before.map(seq)).unwrap_or(next);
            for (from, until, later) in salvage::ages(visited, (from, until), later, covered) {
                let what = What::Gap { later };
                stretches.push(Stretch { group_seq, slot, from, until, what });
            }
        }
        stretches
    }

    /// Applies until something has to be read.
    fn apply(&mut self, disk: &mut Disk, mut applying: Applying) -> Option<Outcome> {
        while let Some(stretch) = applying.items.pop_front() {
            let Stretch { group_seq, slot, from, until, .. } = stretch;
            let by_footers = applying.by_footers.apply_before(group_seq, &mut self.replay);
            self.indexes.extend(by_footers);
            let index = applying.indexes.get_mut(&slot).expect("slots with items have an index");
            if let What::Group(header) = stretch.what
                && let Some(outlines) = self.outlines_of(slot, from)
            {
                self.replay.group(&header, from, outlines.into_iter(), index);
                continue;
            }
            let lane = usize::from(index.lane);
            let Some(bytes) = applying.chunks[lane].get(&stretch) else {
                let end = applying.ends.get(&slot).copied().unwrap_or(until);
                let len = (until - from).max(READ_BYTES.min(end - from));
                applying.chunks[lane] = Chunk { slot, at: from, len, bytes: Bytes::new() };
                applying.items.push_front(stretch);
                disk.read(Purpose::Start(lane as u32), self.geometry.place(slot, from), len);
                self.step = Step::Apply(applying);
                return None;
            };
            self.apply_stretch(&stretch, &bytes, index);
        }
        self.indexes.extend(applying.by_footers.apply_before(u64::MAX, &mut self.replay));
        // What was taken out of groups behind the last whole one counts from now on, and the next
        // life of the log does not give it up.
        for (slot, index) in &mut applying.indexes {
            if index.used() > index.data_end {
                let harmed = self.visited[slot].harmed.iter().map(|group| &group.header);
                let harmed = harmed.filter(|header| self.verdict.was_acknowledged(header));
                let seqs = harmed.map(|header| header.group_seq);
                index.last_seq = seqs.fold(index.last_seq, u64::max);
            }
        }
        // Where no group counts and no frame is whole, there is nothing.
        let found = |index: &SlotIndex| index.first_seq > 0 || !index.parts.is_empty();
        self.indexes.extend(applying.indexes.into_iter().filter(|(_, index)| found(index)));
        self.seal(disk);
        None
    }

    /// What a group holds, if that was remembered when its slot was visited.
    fn outlines_of(&mut self, slot: u32, at: u32) -> Option<Vec<Outline>> {
        self.visited.get_mut(&slot)?.outlines.remove(&at)
    }

    fn apply_stretch(&mut self, stretch: &Stretch, bytes: &Bytes, index: &mut SlotIndex) {
        let store = &self.geometry.store;
        let Stretch { slot, from: at, .. } = *stretch;
        let (later, group_seq) = match stretch.what {
            What::Group(header) if header.holds(bytes, group_seed(store)) => {
                let group = bytes.slice(..header.bytes as usize);
                let outlines = outlines(&group, frame_seed(store, header.seg_seq));
                self.replay.group(&header, at, outlines, index);
                for carry in &mut self.carried {
                    carry.take((slot, at), &group, frame_seed(store, header.seg_seq));
                }
                return;
            }
            // It was whole a moment ago. What can be had of it is taken out.
            What::Group(header) => {
                log::error!("slot {slot}: a group at {at} cannot be read a second time");
                self.verdict.missing += 1;
                (Some(header.group_seq > self.replay.covered), header.group_seq)
            }
            What::Gap { later } => (later, index.last_seq),
        };
        let place = salvage::Found { store, slot, at, group_seq, later };
        salvage::apply(&place, bytes, &mut self.replay, index);
        if let What::Group(header) = stretch.what {
            index.add_group(&header, stretch.until);
        }
    }

    pub(in crate::log) fn applied(
        &mut self,
        disk: &mut Disk,
        lane: u32,
        bytes: Bytes,
        mut applying: Applying,
    ) -> Option<Outcome> {
        applying.chunks[lane as usize & 3].bytes = bytes;
        self.apply(disk, applying)
    }
}
