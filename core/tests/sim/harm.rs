//! Which batches stand where on the medium, so that a loss can be held against what was harmed.
//!
//! It reads the groups out of the writes as they pass: see `weir_core`'s `log/layout/group.rs` and
//! `frame.rs` for the fields.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use weir_core::types::PartitionNumber;

const BLOCK: usize = 4096;
const GROUP_MAGIC: &[u8] = b"WGRP";
const GROUP_HEADER_BYTES: usize = 96;
const FRAME_HEADER_BYTES: usize = 32;
/// Flushes whose groups are remembered.
const FLUSHES_KEPT: usize = 32;

/// A batch: its partition and base offset.
pub type Key = (PartitionNumber, i64);

/// A group that was written: where it ends, and its frames.
#[derive(Clone, Debug, Default)]
struct Group {
    header_end: u64,
    end: u64,
    frames: Vec<(u64, u64, Key)>,
    /// Partitions that it truncates.
    cuts: Vec<PartitionNumber>,
}

/// What one flush claimed to make durable.
#[derive(Clone, Debug, Default)]
struct Flushed {
    ranges: Vec<(u64, u64)>,
    keys: Vec<Key>,
    cuts: Vec<PartitionNumber>,
    /// Batches in whose place others were appended, that were hit, or near it.
    hit_before: Vec<Key>,
    near_before: Vec<Key>,
    groups: usize,
    hit: bool,
    /// Written when the machine stopped, and not flushed: the next start makes durable what it
    /// finds of it.
    left_behind: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Harm {
    /// Times that something was harmed.
    pub count: u64,
    /// Whether every sealed slot has its footer.
    pub footers_whole: bool,
    /// By where they begin.
    groups: BTreeMap<u64, Group>,
    /// What was written since the last flush.
    open: Flushed,
    flushed: VecDeque<Flushed>,
    hit: BTreeSet<Key>,
    /// What is in one group with something that was hit.
    near: BTreeSet<Key>,
    tail: BTreeSet<Key>,
    /// Partitions of which a truncation may be lost.
    uncut: BTreeSet<PartitionNumber>,
    /// Between a stop and the end of the next start.
    starting: bool,
    /// Slots whose first write went elsewhere.
    headless: Vec<(u64, u64)>,
}

impl Harm {
    /// The log writes there.
    pub fn written(&mut self, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        let stale: Vec<u64> = self.groups.range(at..end).map(|(&at, _)| at).collect();
        stale.iter().for_each(|at| drop(self.groups.remove(at)));
        self.open.ranges.push((at, bytes.len() as u64));
        let is_group = |from: usize| bytes.get(from..from + 4) == Some(GROUP_MAGIC);
        let Some(from) = [0, BLOCK].into_iter().find(|from| is_group(*from)) else { return };
        let group_end = (from + u32_at(bytes, from + 8) as usize).min(bytes.len());
        let place = |from: usize| at + from as u64;
        let header_end = place(from + GROUP_HEADER_BYTES);
        let end = place(group_end);
        let mut group = Group { header_end, end, ..Group::default() };
        let mut frame = from + GROUP_HEADER_BYTES;
        while frame + FRAME_HEADER_BYTES <= group_end {
            let next = frame + FRAME_HEADER_BYTES + u32_at(bytes, frame + 24) as usize;
            let base =
                u64::from(u32_at(bytes, frame + 8)) << 32 | u64::from(u32_at(bytes, frame + 12));
            let number = PartitionNumber(u32_at(bytes, frame + 4));
            // Batches and replacements. A hole stands for whatever began at one of its offsets.
            let begins = match (bytes[frame], u32_at(bytes, frame + 24)) {
                (4, 0) => 1 + u64::from(u32_at(bytes, frame + 16)),
                (1 | 4, _) => 1,
                _ => 0,
            };
            match bytes[frame] {
                // Of what stood there before nothing counts any more: it was truncated.
                1 => {
                    let key = (number, base as i64);
                    self.open.hit_before.extend(self.hit.take(&key));
                    self.open.near_before.extend(self.near.take(&key));
                }
                2 => group.cuts.push(number),
                _ => {}
            }
            for key in (base..base + begins).map(|base| (number, base as i64)) {
                group.frames.push((place(frame), place(next), key));
                self.open.keys.push(key);
            }
            frame = next;
        }
        self.open.cuts.extend(&group.cuts);
        self.headless.retain(|(slot, _)| *slot != at);
        if self.headless.iter().any(|(from, until)| (*from..*until).contains(&at)) {
            self.hit.extend(&self.open.keys);
            self.near.extend(&self.open.keys);
            self.uncut.extend(&self.open.cuts);
        }
        self.open.groups += 1;
        self.groups.insert(place(from), group);
    }

    /// A flush says that it made everything durable that was written before.
    pub fn flushed(&mut self) {
        let mut flushed = std::mem::take(&mut self.open);
        // What is hit before its flush is hit all the same.
        flushed.hit |= flushed.keys.iter().any(|key| self.near.contains(key));
        self.flushed.push_back(flushed);
        if self.flushed.len() > FLUSHES_KEPT {
            self.flushed.pop_front();
        }
    }

    /// A flush failed: nothing is claimed.
    pub fn not_flushed(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.is_undone(&open);
    }

    /// What was appended there may not count, and neither what truncated the partition before.
    fn is_undone(&mut self, flushed: &Flushed) {
        self.hit.extend(&flushed.hit_before);
        self.near.extend(&flushed.near_before);
    }

    /// A write went elsewhere. Where it opened a slot, the slot looks unused: all that is in it is
    /// as good as hit.
    pub fn went_astray(&mut self, at: u64, bytes: &[u8], slot_bytes: u32) {
        self.harm(at, bytes.len() as u64);
        if bytes.get(BLOCK..BLOCK + 4) == Some(GROUP_MAGIC) && !bytes.starts_with(GROUP_MAGIC) {
            self.headless.push((at, at + u64::from(slot_bytes)));
        }
    }

    /// The batches of a group, from its first frame to its end.
    pub fn keys_within(&self, (at, end): (u64, u64)) -> Vec<Key> {
        let group = self.groups.range(..at).next_back().filter(|(_, group)| group.end == end);
        group.into_iter().flat_map(|(_, group)| &group.frames).map(|(_, _, key)| *key).collect()
    }

    /// Something else than what was written stands there now, or may.
    pub fn harm(&mut self, at: u64, len: u64) {
        self.count += 1;
        log::debug!("harm {at} +{len}");
        let end = at + len;
        let overlaps = |from: u64, until: u64| from < end && at < until;
        // A group is at most a slot long, so none that begins long before reaches here.
        let groups = self.groups.range(at.saturating_sub(1 << 21)..end);
        for (from, group) in groups.filter(|(from, group)| overlaps(**from, group.end)) {
            let header = overlaps(*from, group.header_end);
            self.uncut.extend(&group.cuts);
            for (from, until, key) in &group.frames {
                self.near.insert(*key);
                if header || overlaps(*from, *until) {
                    self.hit.insert(*key);
                }
            }
        }
        for flushed in &mut self.flushed {
            flushed.hit |= flushed.ranges.iter().any(|(at, len)| overlaps(*at, at + len));
        }
        let open = &mut self.open;
        open.hit |= open.ranges.iter().any(|(at, len)| overlaps(*at, at + len));
        if self.starting {
            self.note_tail();
        }
    }

    /// The machine stops: what the last flushes claimed and lost looks like a torn tail at the next
    /// start.
    pub fn stopped(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.is_undone(&open);
        self.flushed.push_back(Flushed { left_behind: true, ..open });
        self.starting = true;
        self.note_tail();
    }

    fn note_tail(&mut self) {
        let with_groups = self.flushed.iter().rev().filter(|flushed| flushed.groups > 0);
        let hit = with_groups.take_while(|flushed| flushed.hit || flushed.left_behind);
        for flushed in hit.filter(|flushed| flushed.hit) {
            self.tail.extend(&flushed.keys);
            self.uncut.extend(&flushed.cuts);
            self.hit.extend(&flushed.hit_before);
            self.near.extend(&flushed.near_before);
        }
    }

    /// A start has shown what is there.
    pub fn started(&mut self) {
        self.tail.clear();
        self.starting = false;
    }

    /// Where groups of nothing but clients' records stand: from the first frame to the end.
    pub fn groups_of_records(&self) -> Vec<(u64, u64)> {
        let of_records = |group: &&Group| {
            let mut numbers = group.frames.iter().map(|(_, _, (number, _))| *number);
            !group.frames.is_empty() && numbers.all(|number| !number.is_reserved())
        };
        let groups = self.groups.values().filter(of_records);
        groups.map(|group| (group.header_end, group.end)).collect()
    }

    /// Where the frames of groups stand that truncate a partition.
    pub fn groups_that_cut(&self) -> Vec<(u64, u64)> {
        let cuts = self.groups.values().filter(|group| !group.cuts.is_empty());
        cuts.map(|group| (group.header_end, group.end)).collect()
    }

    pub fn any(&self) -> bool {
        self.count > 0
    }

    /// Whether the batch may be damaged: it was hit, or the header of its group. In a slot that
    /// has no footer, because a write to it failed or the footer itself was hit, it is enough that
    /// something else in its group was hit.
    pub fn is_hit(&self, number: PartitionNumber, base: i64) -> bool {
        let keys = if self.footers_whole { &self.hit } else { &self.near };
        keys.contains(&(number, base))
    }

    /// Whether a truncation of the partition may be lost: what it took may be back.
    pub fn is_uncut(&self, number: PartitionNumber) -> bool {
        self.uncut.contains(&number)
    }

    /// Whether the batch may be gone without a name.
    pub fn is_torn(&self, number: PartitionNumber, base: i64) -> bool {
        self.tail.contains(&(number, base))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
