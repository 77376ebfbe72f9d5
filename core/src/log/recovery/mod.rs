//! The start: from a medium to a log, one step after the other.
//!
//! - Superblock: read, or its copies when it is bad. Format: both written, flushed, done.
//! - Headers: the header of every slot that is on the medium, and a look at its first group.
//! - Newest: the newest slot of each lane is visited; its groups point to the last checkpoint.
//! - Checkpoint: root and parts, the newest that is whole.
//! - Visit: every slot that the checkpoint does not know as sealed. A visit reads the footer, which
//!   says where the slot ends, and then the groups. Without a checkpoint a good footer stands for
//!   its slot.
//! - Judge: see `accept`. Then Apply reads the groups that count once more: see `apply`.
//! - Seal: a flush; slots without a footer get one, rebuilt; a flush; done. Nothing is ever
//!   appended to them.
//!
//! Reads: superblocks, 4.2 KiB a slot on the medium, the checkpoint, and the slots in which
//! something was written after it: see `checkpoint` for how much that is, whatever the size of the
//! log. Each is read once, but for what is written once more (see `carry`), and for what is left
//! when the memory for outlines is used up: then that is read a second time.

pub(in crate::log) mod accept;
mod apply;
mod by_footers;
mod carry;
mod checkpoint_search;
mod fitness;
mod replay;
pub(in crate::log) mod salvage;
mod start;
pub(in crate::log) mod visit;

use crate::log::checkpoint::Durable;
use crate::log::disk::{Disk, Purpose};
use crate::log::layout::checkpoint::Image;
use crate::log::layout::footer::SlotIndex;
use crate::log::layout::group::{GROUP_HEADER_BYTES, GroupHeader, Place};
use crate::log::layout::slot::SlotHeader;
use crate::log::layout::{BLOCK, Geometry, superblock};
use crate::log::{IoResult, OpenError, Settings, Start, Unguarded};
use accept::{Candidate, Verdict};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use apply::Applying;
use bytes::Bytes;
use carry::Carry;
use checkpoint_search::Parts;
use fitness::Headless;
use replay::Replay;
use visit::{Visit, Visited};

/// Slot headers that are read at the same time.
const HEADERS_AT_ONCE: u32 = 64;
/// The header, and behind its block the header of the first group.
const PEEK_BYTES: u32 = BLOCK + GROUP_HEADER_BYTES as u32;

/// What a start waits for. Who handles it takes it, and puts the next one in its place.
#[derive(Debug, Default)]
pub(in crate::log) enum Step {
    /// So many writes and flushes, the last ones of the start.
    Writes(u32),
    #[default]
    Superblock,
    Copies(Copies),
    Headers(Headers),
    Visit(Aim, Visit),
    Root(Place),
    Parts(Parts),
    Apply(Applying),
    /// The flush of what was found.
    Settle,
}

/// The copies that were not read yet, and what the first superblock was.
#[derive(Debug)]
pub(in crate::log) struct Copies {
    left: Vec<u64>,
    reading: u64,
    first: Result<Geometry, superblock::Bad>,
}

/// The next header to read, and how many are being read.
#[derive(Debug, Default)]
pub(in crate::log) struct Headers {
    next: u32,
    waiting: u32,
}

/// What slots are visited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) enum Aim {
    /// The newest groups, which name the checkpoint.
    Newest,
    /// Everything that the checkpoint does not stand for.
    All,
}

/// How a start ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done,
    Refused(OpenError),
}

#[derive(Debug)]
pub(crate) struct Recovery {
    pub(in crate::log) settings: Settings,
    pub unguarded: Unguarded,
    pub(in crate::log) step: Step,
    pub geometry: Geometry,
    pub headers: BTreeMap<u32, SlotHeader>,
    /// Slots that hold something, but no header that can be read.
    pub(in crate::log) headless: Headless,
    /// Slots still to be visited, the next one last.
    to_visit: Vec<u32>,
    pub visited: BTreeMap<u32, Visited>,
    /// Where checkpoints may be, the most promising last, and those that were tried.
    pub(in crate::log) roots: Vec<Place>,
    pub(in crate::log) tried: BTreeSet<Place>,
    pub image: Option<Image>,
    pub checkpoint: Option<Durable>,
    pub verdict: Verdict,
    pub(in crate::log) accepted: BTreeSet<Place>,
    pub replay: Replay,
    /// The footers of the slots that were visited.
    pub indexes: Vec<(u32, SlotIndex)>,
    /// What the newest slots of lanes hold, if it is little.
    pub carried: Vec<Carry>,
    pub bytes_read: u64,
    /// Bytes of memory for what groups hold, so that they are not read a second time: as much as
    /// footers may take, none of which is in memory yet.
    outlines_left: usize,
    repair: Option<u64>,
}

impl Recovery {
    pub(crate) fn begin(settings: &Settings, disk: &mut Disk) -> Result<Recovery, OpenError> {
        let mut recovery = Recovery {
            settings: settings.clone(),
            unguarded: Unguarded::default(),
            step: Step::Superblock,
            geometry: Geometry { store: [0; 16], node: settings.node.0, slot_bytes: 0, slots: 0 },
            headers: BTreeMap::new(),
            headless: Headless::default(),
            to_visit: Vec::new(),
            visited: BTreeMap::new(),
            roots: Vec::new(),
            tried: BTreeSet::new(),
            image: None,
            checkpoint: None,
            verdict: Verdict::default(),
            accepted: BTreeSet::new(),
            replay: Replay::default(),
            indexes: Vec::new(),
            carried: Vec::new(),
            bytes_read: 0,
            outlines_left: settings.footer_cache_bytes,
            repair: None,
        };
        match settings.start {
            Start::Recover => disk.read(Purpose::Start(0), 0, BLOCK),
            Start::Format { store, slot_bytes, slots } => {
                if !superblock::is_usable(slot_bytes, slots) {
                    let what = alloc::format!("{slots} slots of {slot_bytes} bytes are no log");
                    return Err(OpenError::Settings(what));
                }
                let geometry = Geometry { store, slot_bytes, slots, ..recovery.geometry };
                recovery.geometry = geometry;
                let block = superblock::encode(&geometry);
                disk.write(Purpose::Start(0), 0, block.clone());
                disk.write(Purpose::Start(0), u64::from(slot_bytes), block);
                disk.flush(Purpose::Start(0));
                recovery.step = Step::Writes(3);
            }
        }
        Ok(recovery)
    }

    /// An operation of the start ended; `tag` is the slot for headers. `unread`: some blocks are
    /// zeros, as the device cannot read them.
    pub(crate) fn done(
        &mut self,
        disk: &mut Disk,
        tag: u32,
        result: IoResult,
        unread: bool,
    ) -> Option<Outcome> {
        let done = result != IoResult::Failed;
        // What could not be read is nothing, and is treated as damage.
        let bytes = match result {
            IoResult::Read(bytes) => bytes,
            IoResult::Done | IoResult::Failed => Bytes::new(),
        };
        self.bytes_read += bytes.len() as u64;
        match core::mem::take(&mut self.step) {
            Step::Writes(_) | Step::Settle if !done => Some(Outcome::Refused(OpenError::Device)),
            Step::Writes(left) => {
                self.step = Step::Writes(left - 1);
                (left == 1).then_some(Outcome::Done)
            }
            Step::Settle => self.settled(disk),
            Step::Superblock => self.superblock(disk, &bytes),
            Step::Copies(copies) => self.copy(disk, &bytes, copies),
            Step::Headers(headers) => self.header(disk, tag, (&bytes, unread), headers),
            Step::Visit(aim, visit) => self.visited(disk, (&bytes, unread), aim, visit),
            Step::Root(place) => self.root(disk, &bytes, place),
            Step::Parts(parts) => self.part(disk, &bytes, parts),
            Step::Apply(applying) => self.applied(disk, tag, bytes, applying),
        }
    }

    fn superblock(&mut self, disk: &mut Disk, bytes: &Bytes) -> Option<Outcome> {
        let first = superblock::parse(bytes);
        let mut left: Vec<u64> = match first {
            Ok(geometry) => alloc::vec![u64::from(geometry.slot_bytes)],
            Err(superblock::Bad::Newer(found)) => return Some(newer(found)),
            Err(_) => superblock::copies().collect(),
        };
        let reading = left.pop().expect("there is a place for a copy");
        self.step = Step::Copies(Copies { left, reading, first });
        disk.read(Purpose::Start(0), reading, BLOCK);
        None
    }

    fn copy(&mut self, disk: &mut Disk, bytes: &Bytes, copies: Copies) -> Option<Outcome> {
        let Copies { mut left, reading, first } = copies;
        let copy = superblock::parse(bytes);
        let here = copy.is_ok_and(|copy| u64::from(copy.slot_bytes) == reading);
        match (first, copy) {
            (Ok(first), Ok(copy)) if first != copy => {
                return Some(Outcome::Refused(OpenError::SuperblocksDiffer));
            }
            (_, Err(superblock::Bad::Newer(found))) => return Some(newer(found)),
            (Ok(geometry), copy) => {
                self.geometry = geometry;
                self.repair = copy.is_err().then_some(reading);
            }
            (Err(_), Ok(geometry)) if here => {
                self.geometry = geometry;
                self.repair = Some(0);
            }
            (Err(bad), _) => {
                let blank = bad == superblock::Bad::Blank;
                let Some(reading) = left.pop() else {
                    let error = if blank { OpenError::Blank } else { OpenError::NotALog };
                    return Some(Outcome::Refused(error));
                };
                self.step = Step::Copies(Copies { left, reading, first });
                disk.read(Purpose::Start(0), reading, BLOCK);
                return None;
            }
        }
        if self.geometry.node != self.settings.node.0 {
            let what = alloc::format!(
                "the log belongs to node {}, this is node {}",
                self.geometry.node,
                self.settings.node.0
            );
            return Some(Outcome::Refused(OpenError::Settings(what)));
        }
        self.more_headers(disk, Headers::default())
    }

    fn more_headers(&mut self, disk: &mut Disk, mut headers: Headers) -> Option<Outcome> {
        let present = self.geometry.slots_on(self.settings.medium_bytes);
        while headers.waiting < HEADERS_AT_ONCE && headers.next < present {
            let at = self.geometry.place(headers.next, 0);
            disk.read(Purpose::Start(headers.next), at, PEEK_BYTES);
            headers.next += 1;
            headers.waiting += 1;
        }
        if headers.waiting > 0 {
            self.step = Step::Headers(headers);
            return None;
        }
        self.slots_out_of_order().or_else(|| self.begin_newest(disk))
    }

    fn header(
        &mut self,
        disk: &mut Disk,
        slot: u32,
        (bytes, unread): (&Bytes, bool),
        mut headers: Headers,
    ) -> Option<Outcome> {
        headers.waiting -= 1;
        match SlotHeader::parse(bytes, &self.geometry.store, slot) {
            Some(header) => {
                self.headers.insert(slot, header);
            }
            // A slot that was never used is all zeros.
            None if bytes.is_empty() || unread || bytes.iter().any(|&byte| byte != 0) => {
                self.headless.note(slot, bytes, &self.geometry.store);
            }
            None => {}
        }
        self.more_headers(disk, headers)
    }

    fn begin_newest(&mut self, disk: &mut Disk) -> Option<Outcome> {
        let mut newest: BTreeMap<u8, (u64, u32)> = BTreeMap::new();
        for (&slot, header) in &self.headers {
            let entry = newest.entry(header.lane).or_default();
            *entry = (*entry).max((header.seg_seq, slot));
        }
        self.to_visit = newest.into_values().map(|(_, slot)| slot).collect();
        self.to_visit.extend(self.headless.slots());
        self.next_visit(disk, Aim::Newest)
    }

    /// Goes on with the next visit, or to the step after.
    fn next_visit(&mut self, disk: &mut Disk, aim: Aim) -> Option<Outcome> {
        while let Some(slot) = self.to_visit.pop() {
            if self.visited.contains_key(&slot) {
                continue;
            }
            let by_footers = self.replay.pieces.is_some();
            let seg_seq = self.headers.get(&slot).map(|header| header.seg_seq);
            let mut visit = Visit::new(&self.geometry, slot, seg_seq, by_footers);
            visit.unguarded = self.unguarded;
            visit.outlines_left = self.outlines_left;
            visit.ask(disk, &self.geometry);
            self.step = Step::Visit(aim, visit);
            return None;
        }
        match aim {
            Aim::All => self.judge(disk),
            Aim::Newest => {
                if self.is_lane_unseen() {
                    return self.next_visit(disk, aim);
                }
                self.find_roots();
                self.next_root(disk)
            }
        }
    }

    /// A lane's newest slot may have been opened by the commit that was cut: then the one before it
    /// is the newest that holds a group. Whether there is one to visit.
    fn is_lane_unseen(&mut self) -> bool {
        for lane in 0..4 {
            let slots = self.headers.iter().filter(|(_, header)| header.lane == lane);
            let mut slots: Vec<(u64, u32)> = slots.map(|(&slot, h)| (h.seg_seq, slot)).collect();
            slots.sort_unstable();
            while let Some((_, slot)) = slots.pop() {
                match self.visited.get(&slot) {
                    Some(visited) if !visited.groups.is_empty() => break,
                    Some(_) => {}
                    None => {
                        self.to_visit.push(slot);
                        return true;
                    }
                }
            }
        }
        false
    }

    fn visited(
        &mut self,
        disk: &mut Disk,
        (bytes, unread): (&Bytes, bool),
        aim: Aim,
        mut visit: Visit,
    ) -> Option<Outcome> {
        match visit.feed(&self.geometry, bytes, unread) {
            None => {
                visit.ask(disk, &self.geometry);
                self.step = Step::Visit(aim, visit);
                None
            }
            Some(visited) => {
                self.outlines_left = visit.outlines_left;
                self.visited.insert(visit.slot, visited);
                self.next_visit(disk, aim)
            }
        }
    }

    pub(in crate::log) fn begin_visits(&mut self, disk: &mut Disk) -> Option<Outcome> {
        let image = self.image.as_ref();
        // A slot that was used before the checkpoint and is not in it was free by then, and still
        // is.
        let is_known = |slot: u32, header: &SlotHeader| {
            image.is_some_and(|image| match image.slots.get(&slot) {
                Some(entry) => entry.sealed && entry.seg_seq == header.seg_seq,
                None => header.seg_seq < image.next_seg_seq,
            })
        };
        let slots = self.headers.iter().filter(|&(&slot, header)| !is_known(slot, header));
        self.to_visit = slots.map(|(&slot, _)| slot).collect();
        self.next_visit(disk, Aim::All)
    }

    fn judge(&mut self, disk: &mut Disk) -> Option<Outcome> {
        // Without a checkpoint, footers stand for their slots: which groups those hold is not
        // known, so below the highest of them none is missed.
        let alone = self.visited.values().filter(|visited| visited.stands_alone.is_some());
        let alone = alone.filter_map(|visited| visited.sealed_seq).max().unwrap_or(0);
        let sealed = self.visited.values().filter_map(|visited| visited.sealed_seq).max();
        let covered = self.image.as_ref().map_or(alone, |image| image.as_of);
        let mut found: Vec<Candidate> = Vec::new();
        for (&slot, visited) in &self.visited {
            // Groups that the checkpoint stands for are in slots that it knows; others are of a use
            // that was over by then.
            let counts = |group: &&Candidate| {
                let Some(image) = &self.image else { return true };
                let entry = image.slots.get(&slot);
                group.header.group_seq > covered
                    || entry.is_some_and(|entry| Some(entry.seg_seq) == visited.seg_seq)
            };
            match self.unguarded.no_places {
                true => found.extend(visited.groups.iter().filter(counts)),
                false => found.extend(accept::in_place(&visited.groups).iter().filter(counts)),
            }
        }
        self.verdict = accept::judge(found, covered, sealed.unwrap_or(0), self.unguarded);
        // What stood at the very end and cannot be read is not a torn tail.
        let unread = self.visited.values().filter(|visited| visited.unread);
        let unread = unread.filter(|visited| visited.seg_seq.is_some()).count() as u64;
        self.verdict.missing = self.verdict.missing.max(unread);
        self.accepted = self.verdict.accepted.iter().map(Candidate::place).collect();
        let mut newest: BTreeMap<u8, (u64, u32)> = BTreeMap::new();
        for group in &self.verdict.accepted {
            let entry = newest.entry(group.header.lane).or_default();
            *entry = (*entry).max((group.header.seg_seq, group.header.slot));
        }
        self.replay.unguarded = self.unguarded;
        let newest = newest.into_values();
        self.carried = newest.filter_map(|(_, slot)| self.begin_carry(slot)).collect();
        if let Some(image) = &mut self.image {
            self.replay.begin(image, &self.headers);
        }
        self.begin_apply(disk)
    }

    /// What was found and counts becomes durable first: it may be in the system's cache only, and a
    /// footer that outlived it would make damage of a torn tail.
    pub(in crate::log) fn seal(&mut self, disk: &mut Disk) {
        self.replay.finish();
        self.indexes.iter_mut().for_each(|(_, index)| self.replay.complete(index));
        self.step = Step::Settle;
        disk.flush(Purpose::Start(0));
    }

    /// The headers of slots whose first group counts though nobody was told so: they were written
    /// together, and the cut that left the group whole has torn the header. Anywhere else a bad
    /// header is damage, which is found and named.
    fn torn_headers(&self) -> impl Iterator<Item = SlotHeader> {
        let mut firsts = BTreeMap::new();
        for group in &self.verdict.accepted {
            firsts.entry(group.header.slot).or_insert(&group.header);
        }
        let torn = move |&(slot, group): &(u32, &GroupHeader)| {
            !self.headers.contains_key(&slot) && !self.verdict.was_acknowledged(group)
        };
        firsts.into_iter().filter(torn).map(|(slot, group)| SlotHeader {
            lane: group.lane,
            slot,
            boot_epoch: group.boot_epoch,
            seg_seq: group.seg_seq,
            prev_seg_seq: 0,
        })
    }

    /// Writes the footers that are missing, and the headers that were torn.
    fn settled(&mut self, disk: &mut Disk) -> Option<Outcome> {
        let mut operations = 1;
        let torn: Vec<(u32, SlotIndex)> = self.torn_slots().collect();
        for (slot, index) in self.indexes.iter().chain(&torn) {
            if self.visited.get(slot).is_some_and(|visited| visited.sealed_seq.is_some()) {
                continue;
            }
            let footer = index.encode(&self.geometry.store, *slot);
            let at = self.geometry.slot_bytes.checked_sub(footer.len() as u32);
            // Where groups are damaged, what is left may be said in more bytes than were kept.
            let Some(at) = at.filter(|at| index.used() <= *at) else {
                log::warn!("slot {slot}: there is no room for its footer");
                continue;
            };
            disk.write(Purpose::Start(0), self.geometry.place(*slot, at), footer);
            operations += 1;
        }
        for header in self.torn_headers() {
            let block = Bytes::copy_from_slice(&header.encode(&self.geometry.store));
            disk.write(Purpose::Start(0), self.geometry.place(header.slot, 0), block);
            operations += 1;
        }
        if let Some(at) = self.repair.take() {
            disk.write(Purpose::Start(0), at, superblock::encode(&self.geometry));
            operations += 1;
        }
        disk.flush(Purpose::Start(0));
        self.step = Step::Writes(operations);
        None
    }
}

fn newer(found: u16) -> Outcome {
    Outcome::Refused(OpenError::NewerFormat { found, known: superblock::VERSION })
}
