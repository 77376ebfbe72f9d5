//! The part of a start that finds the newest checkpoint that is whole, and reads it.

use super::checkpoint::Durable;
use super::disk::{Disk, Purpose};
use super::layout::checkpoint as format;
use super::layout::frame::{FRAME_HEADER_BYTES, FrameHeader};
use super::layout::group::{self, Found, Place};
use super::layout::{frame_seed, group_seed};
use super::recovery::{Outcome, Recovery, Step};
use super::scan;
use alloc::vec::Vec;
use bytes::Bytes;

impl Recovery {
    /// Orders the places where checkpoints may be: the newest group that says so is right, unless
    /// that checkpoint is damaged.
    pub(super) fn find_roots(&mut self) {
        let mut roots: Vec<(u64, Place)> = Vec::new();
        for visited in self.visited.values() {
            for group in &visited.groups {
                roots.extend(group.header.checkpoint.map(|root| (group.header.group_seq, root)));
            }
            roots.extend(&visited.roots);
        }
        roots.sort_unstable();
        self.roots = roots.into_iter().map(|(_, root)| root).collect();
    }

    pub(super) fn next_root(&mut self, disk: &mut Disk) -> Option<Outcome> {
        if let Some(refused) = self.cut_short() {
            return Some(refused);
        }
        while let Some(place) = self.roots.pop() {
            let inside = place.slot < self.geometry.slots && place.at < self.geometry.slot_bytes;
            if inside && self.tried.insert(place) {
                let len = (1 << 20).min(self.geometry.slot_bytes - place.at);
                self.step = Step::Root { place, len };
                disk.read(Purpose::Start(0), self.geometry.place(place.slot, place.at), len);
                return None;
            }
        }
        // Groups that name no checkpoint were written before the first: everything is replayed.
        self.replay.whole = self.tried.is_empty();
        self.begin_visits(disk)
    }

    pub(super) fn root(&mut self, disk: &mut Disk, bytes: Option<Bytes>) -> Option<Outcome> {
        let Step::Root { place, len } = self.step else { return None };
        let bytes = bytes.unwrap_or_default();
        let room = (self.geometry.slot_bytes - place.at) as usize;
        let seg_seq = self.headers.get(&place.slot).map(|header| header.seg_seq);
        let seed = group_seed(&self.geometry.store);
        let (header, group) = match group::find(&bytes, room, place.slot, seg_seq, seed) {
            Found::Group(header, group) => (header, group),
            Found::Longer(longer) if longer > len as usize => {
                self.step = Step::Root { place, len: longer as u32 };
                let at = self.geometry.place(place.slot, place.at);
                disk.read(Purpose::Start(0), at, longer as u32);
                return None;
            }
            _ => return self.next_root(disk),
        };
        let seed = frame_seed(&self.geometry.store, header.seg_seq);
        let root = scan::frames(&group, seed).find(|(frame, ..)| frame.partition == format::ROOT);
        let parsed = root.and_then(|(_, _, body)| format::parse_root(body).ok());
        let Some((as_of, mut places, last)) = parsed else { return self.next_root(disk) };
        places.reverse();
        self.checkpoint = Some(Durable {
            as_of,
            root: place,
            slots: places.iter().map(|part| part.slot).chain([place.slot]).collect(),
        });
        self.step = Step::Parts { as_of, places, stream: Vec::new(), last };
        self.next_part(disk)
    }

    fn next_part(&mut self, disk: &mut Disk) -> Option<Outcome> {
        let Step::Parts { as_of, places, stream, last, .. } = &mut self.step else { return None };
        if let Some(part) = places.last() {
            let end = part.at.checked_add(part.bytes);
            let inside = part.slot < self.geometry.slots
                && end.is_some_and(|end| end <= self.geometry.slot_bytes);
            if inside {
                let at = self.geometry.place(part.slot, part.at);
                disk.read(Purpose::Start(0), at, part.bytes);
                return None;
            }
        } else {
            stream.extend_from_slice(last);
            self.bytes_read += stream.len() as u64;
            if let Ok(image) = format::parse(*as_of, Bytes::from(core::mem::take(stream))) {
                self.image = Some(image);
                return self.cut_short().or_else(|| self.begin_visits(disk));
            }
        }
        self.bad_checkpoint(disk)
    }

    fn bad_checkpoint(&mut self, disk: &mut Disk) -> Option<Outcome> {
        log::warn!("a checkpoint is damaged: looking for the one before");
        self.checkpoint = None;
        self.next_root(disk)
    }

    pub(super) fn part(&mut self, disk: &mut Disk, bytes: Option<Bytes>) -> Option<Outcome> {
        let Step::Parts { places, stream, .. } = &mut self.step else { return None };
        let place = places.pop().expect("a part is read while it is on the list");
        let bytes = bytes.unwrap_or_default();
        let seed = frame_seed(&self.geometry.store, place.seg_seq);
        match FrameHeader::verify(&bytes, seed) {
            Some(header) => {
                let body = FRAME_HEADER_BYTES..header.frame_bytes();
                stream.extend_from_slice(&bytes[body]);
                self.next_part(disk)
            }
            None => self.bad_checkpoint(disk),
        }
    }
}
