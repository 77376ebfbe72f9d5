//! The part of a start that finds the newest checkpoint that is whole, and reads it.

use super::{Outcome, Recovery, Step};
use crate::log::checkpoint::Durable;
use crate::log::disk::{Disk, Purpose};
use crate::log::layout::checkpoint::{self as format, PartPlace};
use crate::log::layout::frame::{FRAME_HEADER_BYTES, FrameHeader};
use crate::log::layout::group::{self, Found, Place};
use crate::log::layout::{frame_seed, group_seed};
use crate::log::scan;
use crate::log::writer::GROUP_BYTES_MAX;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

/// A root does not make its group longer: it names the parts of a checkpoint, and is no longer than
/// one of them but for that.
const ROOT_GROUP_BYTES_MAX: u32 = GROUP_BYTES_MAX as u32;

/// The parts of a checkpoint that are still to be read, the next one last, and the stream so far.
#[derive(Debug)]
pub(in crate::log) struct Parts {
    as_of: u64,
    places: Vec<PartPlace>,
    stream: Vec<u8>,
    last: Bytes,
}

impl Recovery {
    /// Orders the places where checkpoints may be: the newest group that says so is right, unless
    /// that checkpoint is damaged. A group that holds a root names the one before, which is older
    /// wherever it stands.
    pub(in crate::log) fn find_roots(&mut self) {
        let mut roots: Vec<(u64, bool, Place)> = Vec::new();
        for visited in self.visited.values() {
            for header in visited.groups.iter().map(|group| &group.header) {
                roots.extend(header.checkpoint.map(|root| (header.group_seq, false, root)));
            }
            roots.extend(visited.roots.iter().map(|&(group_seq, root)| (group_seq, true, root)));
        }
        roots.sort_unstable();
        self.roots = roots.into_iter().map(|(.., root)| root).collect();
    }

    pub(in crate::log) fn next_root(&mut self, disk: &mut Disk) -> Option<Outcome> {
        if let Some(refused) = self.cut_short() {
            return Some(refused);
        }
        while let Some(place) = self.roots.pop() {
            let inside = place.slot < self.geometry.slots && place.at < self.geometry.slot_bytes;
            if inside && self.tried.insert(place) && !self.unguarded.no_checkpoints {
                let len = ROOT_GROUP_BYTES_MAX.min(self.geometry.slot_bytes - place.at);
                self.step = Step::Root(place);
                disk.read(Purpose::Start(0), self.geometry.place(place.slot, place.at), len);
                return None;
            }
        }
        // Groups that name no checkpoint were written before the first: everything is replayed.
        // Else footers stand for most slots; and until there is a checkpoint again, groups go on
        // naming one that is none, so that the next start knows as well.
        self.checkpoint =
            self.tried.first().map(|&root| Durable { as_of: 0, root, slots: Vec::new() });
        self.replay.pieces = self.checkpoint.is_some().then(BTreeMap::new);
        self.begin_visits(disk)
    }

    pub(in crate::log) fn root(
        &mut self,
        disk: &mut Disk,
        bytes: &Bytes,
        place: Place,
    ) -> Option<Outcome> {
        let room = (self.geometry.slot_bytes - place.at) as usize;
        let seg_seq = self.headers.get(&place.slot).map(|header| header.seg_seq);
        let seed = group_seed(&self.geometry.store);
        let found = group::find(bytes, room, place.slot, seg_seq, seed);
        let Found::Group(header, group) = found else { return self.next_root(disk) };
        let seed = frame_seed(&self.geometry.store, header.seg_seq);
        let root = scan::root(&group, seed);
        let parsed = root.and_then(|body| format::parse_root(body).ok());
        let Some((as_of, mut places, last)) = parsed else { return self.next_root(disk) };
        places.reverse();
        self.checkpoint = Some(Durable {
            as_of,
            root: place,
            slots: places.iter().map(|part| part.slot).chain([place.slot]).collect(),
        });
        self.next_part(disk, Parts { as_of, places, stream: Vec::new(), last })
    }

    fn next_part(&mut self, disk: &mut Disk, parts: Parts) -> Option<Outcome> {
        let Some(part) = parts.places.last() else { return self.whole(disk, parts) };
        let end = part.at.checked_add(part.bytes);
        let inside = part.slot < self.geometry.slots
            && end.is_some_and(|end| end <= self.geometry.slot_bytes);
        if !inside {
            return self.bad_checkpoint(disk);
        }
        let at = self.geometry.place(part.slot, part.at);
        disk.read(Purpose::Start(0), at, part.bytes);
        self.step = Step::Parts(parts);
        None
    }

    pub(in crate::log) fn part(
        &mut self,
        disk: &mut Disk,
        bytes: &Bytes,
        mut parts: Parts,
    ) -> Option<Outcome> {
        let place = parts.places.pop().expect("a part is read while it is on the list");
        let seed = frame_seed(&self.geometry.store, place.seg_seq);
        let Some(header) = FrameHeader::verify(bytes, seed) else {
            return self.bad_checkpoint(disk);
        };
        parts.stream.extend_from_slice(&bytes[FRAME_HEADER_BYTES..header.frame_bytes()]);
        self.next_part(disk, parts)
    }

    /// All parts are there.
    fn whole(&mut self, disk: &mut Disk, parts: Parts) -> Option<Outcome> {
        let Parts { as_of, mut stream, last, .. } = parts;
        stream.extend_from_slice(&last);
        let Ok(image) = format::parse(as_of, Bytes::from(stream)) else {
            return self.bad_checkpoint(disk);
        };
        self.image = Some(image);
        self.cut_short().or_else(|| self.begin_visits(disk))
    }

    fn bad_checkpoint(&mut self, disk: &mut Disk) -> Option<Outcome> {
        log::warn!("a checkpoint is damaged: looking for the one before");
        self.checkpoint = None;
        self.next_root(disk)
    }
}
