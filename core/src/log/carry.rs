//! What a start carries over: the few batches of a slot that was cut while nearly empty.
//!
//! Why: a slot that was open at a cut is never appended to again, so without this a gateway that
//! loses power a thousand times would have a thousand slots with a few records in each. The newest
//! slot of a lane is written once more into the slot that follows, as frames of kind replace, if it
//! holds no more than a quarter of itself; it is free after the next checkpoint. If the power goes
//! before the copy is durable, the original still counts.

use super::layout::frame::{FrameHeader, Kind};
use super::layout::group::Place;
use super::scan::frames;
use super::writer::Pending;
use super::{Event, Lane, Log};
use crate::batch::Header as BatchHeader;
use crate::types::{Offset, PartitionNumber, Time};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

/// The batches of one slot.
#[derive(Debug)]
pub(crate) struct Carry {
    slot: u32,
    bytes: usize,
    bytes_max: usize,
    /// `None`: there are too many.
    frames: Option<Vec<Pending>>,
}

impl Carry {
    pub(crate) fn new(slot: u32, slot_bytes: u32) -> Carry {
        let bytes_max = slot_bytes as usize / 4;
        Carry { slot, bytes: 0, bytes_max, frames: Some(Vec::new()) }
    }

    /// Takes the batches of a group that counts.
    pub(crate) fn take(&mut self, place: Place, group: &Bytes, seed: u32) {
        if place.slot != self.slot {
            return;
        }
        for (header, _, body) in frames(group, seed) {
            if !header.kind.is_batch() {
                continue;
            }
            self.bytes += header.frame_bytes();
            if self.bytes > self.bytes_max {
                self.frames = None;
            }
            let Some(frames) = &mut self.frames else { return };
            let Ok(batch) = BatchHeader::parse(&body) else { continue };
            // A copy, so that the whole read does not stay in memory for it.
            frames.push(Pending {
                header: FrameHeader { kind: Kind::Replace, ..header },
                max_timestamp: batch.max_timestamp,
                body: Bytes::copy_from_slice(&body),
            });
        }
    }
}

impl Log {
    /// Writes the batches once more. The owner is not told `Ready` before they are durable, so
    /// nobody reads them meanwhile.
    pub(crate) fn carry(&mut self, now: Time, carry: Carry) {
        let Carry { slot, frames: Some(mut frames), .. } = carry else { return };
        // Where each partition's data in the slot begins, and its bytes.
        let mut moved: BTreeMap<PartitionNumber, (Offset, u32)> = BTreeMap::new();
        for (&number, partition) in &self.partitions {
            if !partition.runs.iter().any(|run| run.slot == slot) {
                continue;
            }
            let Some(run) = partition.runs.back().filter(|run| run.slot == slot) else { return };
            moved.insert(number, (run.base_offset, run.bytes));
        }
        let mut left = moved.clone();
        frames.retain(|frame| {
            let Some((next, bytes)) = left.get_mut(&frame.header.partition) else { return false };
            // A copy that was passed over in the replay is passed over here.
            let counts = frame.header.base_offset >= *next;
            if counts {
                *next = frame.end_offset();
                *bytes = bytes.saturating_sub(frame.header.body_bytes);
            }
            counts
        });
        // What was salvaged from damaged groups was not taken here: such a slot stays as it is.
        let whole = left.values().all(|&(_, bytes)| bytes == 0);
        if !whole || self.space.free() <= self.space.pressure() {
            return;
        }
        for (number, (base, _)) in &moved {
            if let Some(partition) = self.partitions.get_mut(number) {
                partition.drop_runs_from(*base);
                // The original counts until the copy is durable.
                self.carrying.push(slot);
            }
        }
        let Some(lane) = Lane::of(self.space.slot(slot).lane) else { return };
        for frame in frames {
            self.writer.push(now, lane, frame);
        }
    }

    pub(crate) fn is_carrying(&self) -> bool {
        !self.carrying.is_empty()
    }

    /// What was carried over is durable: the originals are dead.
    pub(crate) fn carried(&mut self) {
        for slot in core::mem::take(&mut self.carrying) {
            self.space.slot_mut(slot).live -= 1;
        }
        self.events.push_back(Event::Ready);
        self.sweep();
    }
}
