//! What a start takes out of damaged groups: the frames whose own checksum holds.
//!
//! Only bytes that lie where acknowledged groups stood are looked at: before a group of the same
//! slot that counts, before the end that the footer states, or at a header of the right epoch whose
//! group was acknowledged. What a cut tore or a later start disowned stands in no such place, nor
//! does what follows a group whose header says that it was given up.
//! Frames verify with the slot's `seg_seq` only, so nothing of an earlier use is taken.

use super::accept::{Candidate, Verdict};
use super::replay::{self, Replay};
use super::visit::Visited;
use crate::log::Lane;
use crate::log::layout::footer::SlotIndex;
use crate::log::layout::frame::{FRAME_HEADER_BYTES, FrameHeader};
use crate::log::layout::{BLOCK, frame_seed};
use crate::log::scan::Outline;
use alloc::vec::Vec;
use bytes::Bytes;

/// The damaged places of a slot, each from, and up to and without. `accepted` are its groups that
/// count.
pub(crate) fn places(
    (slot, slot_bytes): (u32, u32),
    visited: &Visited,
    accepted: &[Candidate],
    verdict: &Verdict,
) -> Vec<(u32, u32)> {
    let mut places = Vec::new();
    let mut end = BLOCK;
    for group in accepted {
        if group.at > end {
            places.push((end, group.at));
        }
        end = group.at + group.header.padded_bytes() as u32;
    }
    let epoch = accepted.last().map(|group| group.header.boot_epoch);
    let counts = |group: &&Candidate| {
        group.at >= end
            && group.header.slot == slot
            && epoch.is_none_or(|epoch| epoch == group.header.boot_epoch)
            && verdict.was_acknowledged(&group.header)
    };
    let harmed = visited.harmed.iter().filter(counts);
    let harmed = harmed.map(|group| group.at.saturating_add(group.header.padded_bytes() as u32));
    // What stands behind a group that was given up is of the same life of the log.
    let given_up = |group: &&Candidate| group.at >= end && verdict.was_given_up(&group.header);
    let given_up = visited.harmed.iter().find(given_up).map_or(slot_bytes, |group| group.at);
    // What a damaged header says, of its length or of its life, may be anything.
    let said = harmed.max().unwrap_or(end).min(given_up);
    let tail = visited.data_end.unwrap_or(said).min(slot_bytes);
    if tail > end {
        places.push((end, tail));
    }
    // Groups that are whole and do not count are not looked into.
    for group in &visited.groups {
        let hole = (group.at, group.at + group.header.padded_bytes() as u32);
        let cut = |(from, until): (u32, u32)| {
            [(from, until.min(hole.0)), (from.max(hole.1), until)].into_iter()
        };
        places = places.into_iter().flat_map(cut).filter(|(from, until)| from < until).collect();
    }
    places
}

/// Divides a damaged place where it is not known whether it was written after the checkpoint: of a
/// group whose header says that it is older, nothing counts. One that says that it is later may not
/// be believed so far.
pub(crate) fn ages(
    visited: &Visited,
    (from, until): (u32, u32),
    later: Option<bool>,
    covered: u64,
) -> Vec<(u32, u32, Option<bool>)> {
    let mut ages = Vec::new();
    let (mut begin, mut harmed) = (from, visited.harmed.iter());
    let is_older = |group: &&Candidate| later.is_none() && group.header.group_seq <= covered;
    while let Some(group) = harmed.find(|group| is_older(group) && group.at >= begin) {
        let end = group.at.saturating_add(group.header.padded_bytes() as u32).min(until);
        if group.at < end {
            ages.extend([(begin, group.at, later), (group.at, end, Some(false))]);
            begin = end;
        }
    }
    ages.push((begin, until, later));
    ages.retain(|(from, until, _)| from < until);
    ages
}

/// A damaged place that was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub store: &'a [u8; 16],
    pub slot: u32,
    pub at: u32,
    /// The group that stood there, or one that was written before it.
    pub group_seq: u64,
    /// Whether everything there was written after the checkpoint, or before it, if that is known.
    pub later: Option<bool>,
}

/// Applies what is whole there. What is older than the checkpoint does not count: that knows what
/// was truncated since. Where this is not known, a batch does that could follow on what is there,
/// as leader epochs never decrease, but no frame that takes the place of others.
pub(crate) fn apply(found: &Found<'_>, bytes: &Bytes, replay: &mut Replay, index: &mut SlotIndex) {
    let seed = frame_seed(found.store, index.seg_seq);
    let lane = Lane::checked(index.lane);
    let mut at = 0;
    while at + FRAME_HEADER_BYTES <= bytes.len() {
        let rest = &bytes[at..];
        let Some(header) = FrameHeader::verify(rest, seed) else {
            let harmed = FrameHeader::peek(rest);
            let counts = |h: &FrameHeader| found.later.unwrap_or_else(|| replay.may_follow(h));
            if let Some(header) = harmed.filter(counts) {
                replay.note_harmed(&header);
            }
            at += 1;
            continue;
        };
        let body = bytes.slice(at + FRAME_HEADER_BYTES..at + header.frame_bytes());
        if let Some(outline) = Outline::new(header, at as u32, &body) {
            let home = replay::Home { lane, slot: found.slot, group_seq: found.group_seq };
            let counts = found.later.unwrap_or_else(|| replay.may_follow(&header));
            replay.frame(&home, &outline, found.at, index, counts);
        }
        at += header.frame_bytes();
    }
}
