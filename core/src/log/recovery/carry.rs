//! What a start carries over: the few batches of a slot that was cut while nearly empty.
//!
//! Why: a slot that was open at a cut is never appended to again, so without this a gateway that
//! loses power a thousand times would have a thousand slots with a few records in each. The newest
//! slot of a lane is written once more into the slot that follows, as frames of kind replace, if it
//! holds no more than a quarter of itself; it is free after the next checkpoint. Until the copy is
//! durable, the original counts.

use super::Recovery;
use crate::batch::Header as BatchHeader;
use crate::log::layout::frame::FrameHeader;
use crate::log::scan::frames;
use crate::log::writer::Pending;
use crate::log::{Lane, Log};
use crate::types::Time;
use alloc::vec::Vec;
use bytes::Bytes;

/// The batches of one slot.
#[derive(Debug)]
pub(crate) struct Carry {
    slot: u32,
    bytes: usize,
    bytes_max: usize,
    /// With their places; `None`: there are too many.
    frames: Option<Vec<(u32, Pending)>>,
}

impl Carry {
    /// Takes the batches of a group that counts, which begins there in a slot.
    pub(crate) fn take(&mut self, (slot, at): (u32, u32), group: &Bytes, seed: u32) {
        if slot != self.slot {
            return;
        }
        for (header, begin, body) in frames(group, seed) {
            if !header.kind.is_batch() {
                continue;
            }
            self.bytes += header.frame_bytes();
            if self.bytes > self.bytes_max {
                self.frames = None;
            }
            let Some(frames) = &mut self.frames else { return };
            let max_timestamp = BatchHeader::parse(&body).map_or(-1, |batch| batch.max_timestamp);
            let header = header.copy();
            // A copy, so that the whole read does not stay in memory for it.
            let body = Bytes::copy_from_slice(&body);
            frames.push((at + begin, Pending { header, max_timestamp, body }));
        }
    }
}

impl Recovery {
    /// Carries a slot over, unless it is known to hold too much. Its batches are read again for it.
    pub(in crate::log) fn begin_carry(&mut self, slot: u32) -> Option<Carry> {
        let bytes_max = self.geometry.slot_bytes as usize / 4;
        let outlines = &mut self.visited.get_mut(&slot)?.outlines;
        let frames = outlines.values().flatten().map(|outline| &outline.header);
        let batches = frames.filter(|header| header.kind.is_batch());
        if batches.map(FrameHeader::frame_bytes).sum::<usize>() > bytes_max {
            return None;
        }
        outlines.retain(|_, group| !group.iter().any(|outline| outline.header.kind.is_batch()));
        Some(Carry { slot, bytes: 0, bytes_max, frames: Some(Vec::new()) })
    }
}

impl Log {
    /// Writes the batches that count once more.
    pub(crate) fn carry(&mut self, now: Time, carry: Carry) {
        let Carry { slot, frames: Some(frames), .. } = carry else { return };
        if self.space.free() <= self.space.pressure() {
            return;
        }
        let lane = Lane::checked(self.space.slot(slot).lane);
        for (at, frame) in frames {
            let header = &frame.header;
            let (number, base, end) = (header.partition, header.base_offset, header.end_offset());
            let part = self.index_of(slot).and_then(|index| index.parts.get(&number));
            let newest_until = part.and_then(|part| part.newest_until(base, at));
            let Some(partition) = self.partitions.get(&number) else { continue };
            // What counts does so from its base on, or from the log start: of what was truncated,
            // only a later frame may be in a run of this slot.
            let begin = base.max(partition.log_start_durable);
            let mut runs = partition.runs_in(slot);
            let counts = runs.find(|&(from, until)| from <= begin && begin < until.min(end));
            let until = counts.zip(newest_until).map(|((_, until), newest)| until.min(newest));
            let frame = match until {
                Some(until) if end > until => {
                    Pending::hole(number, base, until, header.leader_epoch)
                }
                Some(_) => Some(frame),
                None => None,
            };
            if let Some(frame) = frame {
                self.moves.push(lane, frame);
                self.writer.wake(now);
            }
        }
    }
}
