//! What a start takes out of damaged groups: the frames whose own checksum holds.
//!
//! Only bytes that lie where acknowledged groups stood are looked at: before a group of the same
//! slot that counts, before the end that the footer states, or at a header of the right epoch whose
//! group was acknowledged. What a cut tore or a later start disowned stands in no such place.
//! Frames verify with the slot's `seg_seq` only, so nothing of an earlier use is taken.

use super::accept::{Candidate, Verdict};
use super::layout::footer::SlotIndex;
use super::layout::frame::{FRAME_HEADER_BYTES, FrameHeader, Kind};
use super::layout::group::Place;
use super::layout::{BLOCK, frame_seed};
use super::replay::{Found, Replay};
use super::visit::Visited;
use super::{Lane, scan};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use bytes::Bytes;

/// The damaged places of a slot, and what was read of them.
#[derive(Debug, Default)]
pub(crate) struct Salvage {
    /// From, and up to and without.
    places: Vec<(u32, u32)>,
    at: u32,
    bytes: Vec<u8>,
}

impl Salvage {
    pub(crate) fn new(
        slot: u32,
        visited: &Visited,
        accepted: &BTreeSet<Place>,
        verdict: &Verdict,
    ) -> Salvage {
        let mut salvage = Salvage::default();
        let mut end = BLOCK;
        let mut epoch = None;
        for group in visited.groups.iter().filter(|group| accepted.contains(&group.place())) {
            if group.at > end {
                salvage.places.push((end, group.at));
            }
            end = group.at + group.header.padded_bytes() as u32;
            epoch = Some(group.header.boot_epoch);
        }
        let counts = |group: &&Candidate| {
            group.at >= end
                && group.header.slot == slot
                && epoch.is_none_or(|epoch| epoch == group.header.boot_epoch)
                && verdict.was_acknowledged(&group.header)
        };
        let harmed = visited.harmed.iter().filter(counts);
        let harmed = harmed.map(|group| group.at + group.header.padded_bytes() as u32).max();
        let tail = visited.data_end.or(harmed).unwrap_or(end);
        if tail > end {
            salvage.places.push((end, tail));
        }
        salvage
    }

    /// A block in which no group begins.
    pub(crate) fn gap(&mut self, at: u32, block: &Bytes) {
        if self.places.iter().any(|&(from, until)| from <= at && at < until) {
            if self.bytes.is_empty() {
                self.at = at;
            }
            self.bytes.extend_from_slice(block);
        }
    }

    /// Applies what is whole in the blocks since the last group.
    pub(crate) fn apply(
        &mut self,
        place: (&[u8; 16], u32),
        replay: &mut Replay,
        index: &mut SlotIndex,
    ) {
        let bytes = Bytes::from(core::mem::take(&mut self.bytes));
        let (store, slot) = place;
        let seed = frame_seed(store, index.seg_seq);
        let Some(lane) = Lane::of(index.lane) else { return };
        let mut at = 0;
        while at + FRAME_HEADER_BYTES <= bytes.len() {
            let rest = &bytes[at..];
            let Some(header) = FrameHeader::verify(rest, seed) else {
                if let Some(header) = FrameHeader::peek(rest) {
                    replay.note_harmed(&header);
                }
                at += 1;
                continue;
            };
            let body = bytes.slice(at + FRAME_HEADER_BYTES..at + header.frame_bytes());
            match (header.kind, index.add_frame(&header, self.at + at as u32, &body)) {
                (Kind::Batch | Kind::Replace, Some((spot, batch))) => {
                    let found = Found { lane, slot, spot, batch };
                    replay.batch(header.partition, &found, header.kind == Kind::Replace);
                }
                (Kind::LogStart, _) => replay.log_start(lane, header.partition, header.base_offset),
                _ => {}
            }
            at += header.frame_bytes();
        }
    }
}

/// A slot being replayed.
#[derive(Debug)]
pub(crate) struct Replaying {
    pub slot: u32,
    pub scan: scan::Scan,
    pub index: SlotIndex,
    pub salvage: Salvage,
}
