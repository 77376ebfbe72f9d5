//! From accepted groups back to partitions: what a start applies, in the order of the log.

use super::Lane;
use super::layout::checkpoint::Image;
use super::layout::footer::{SlotIndex, Spot};
use super::layout::frame::{FrameHeader, Kind};
use super::layout::frame_seed;
use super::layout::group::GroupHeader;
use super::layout::slot::SlotHeader;
use super::partition::{Partition, Run};
use super::scan::frames;
use crate::batch::Header as BatchHeader;
use crate::types::{Offset, PartitionNumber};
use alloc::collections::BTreeMap;
use bytes::Bytes;

#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub partitions: BTreeMap<PartitionNumber, Partition>,
    /// What the checkpoint stands for.
    pub covered: u64,
    /// Whether everything since the format, or since the checkpoint, is replayed: a partition then
    /// begins at offset 0, and what is missing before its first frame is damage.
    pub whole: bool,
    pub damaged_ranges: u32,
    /// Those that the checkpoint knew already.
    pub known_ranges: u32,
}

/// A batch and where it stands.
pub(crate) struct Found {
    pub lane: Lane,
    pub slot: u32,
    pub spot: Spot,
    pub batch: BatchHeader,
}

impl Replay {
    /// Begins with a checkpoint. Runs in slots that were used anew since then are dead.
    pub(crate) fn begin(&mut self, image: &mut Image, headers: &BTreeMap<u32, SlotHeader>) {
        self.covered = image.as_of;
        self.partitions = core::mem::take(&mut image.partitions);
        let alive = |slot: u32| {
            image.slots.get(&slot).is_some_and(|entry| {
                headers.get(&slot).is_none_or(|header| header.seg_seq == entry.seg_seq)
            })
        };
        for partition in self.partitions.values_mut() {
            partition.runs.retain(|run| alive(run.slot));
            partition.bytes = partition.runs.iter().map(|run| u64::from(run.bytes)).sum();
            self.damaged_ranges += partition.damaged.len() as u32;
        }
        self.known_ranges = self.damaged_ranges;
    }

    /// Applies a group that counts, and adds it to the index of its slot.
    pub(crate) fn group(
        &mut self,
        store: &[u8; 16],
        group: &GroupHeader,
        at: u32,
        bytes: &Bytes,
        index: &mut SlotIndex,
    ) {
        let Some(lane) = Lane::of(group.lane) else { return };
        for (header, begin, body) in frames(bytes, frame_seed(store, group.seg_seq)) {
            let added = index.add_frame(&header, at + begin, &body);
            if group.group_seq <= self.covered {
                continue;
            }
            match (header.kind, added) {
                (Kind::Batch | Kind::Replace, Some((spot, batch))) => {
                    let found = Found { lane, slot: group.slot, spot, batch };
                    self.batch(header.partition, &found, header.kind == Kind::Replace);
                }
                (Kind::LogStart, _) => {
                    self.log_start(lane, header.partition, header.base_offset);
                }
                _ => {}
            }
        }
        index.add_group(group, at + group.padded_bytes() as u32);
    }

    fn partition(&mut self, lane: Lane, number: PartitionNumber, base: Offset) -> &mut Partition {
        let start = if self.whole { Offset::ZERO } else { base };
        self.partitions.entry(number).or_insert_with(|| Partition::new(lane, start))
    }

    /// The offsets from the log end up to `base` are lost.
    fn close_gap(&mut self, number: PartitionNumber, base: Offset) {
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        if base > partition.log_end {
            log::error!(
                "partition {}: offsets {} to {} are lost to damage",
                number.0,
                partition.log_end,
                base.plus(-1)
            );
            partition.damaged.push((partition.log_end, base));
            partition.log_end = base;
            self.damaged_ranges += 1;
        }
    }

    /// A frame whose body is damaged and whose header says that it is the next of its partition:
    /// its offsets are lost, and are not given out again.
    pub(crate) fn note_harmed(&mut self, header: &FrameHeader) {
        let next = self.partitions.get(&header.partition).map(|partition| partition.log_end);
        let plausible = header.kind.is_batch() && (0..1 << 20).contains(&header.last_offset_delta);
        if plausible && next == Some(header.base_offset) {
            self.close_gap(header.partition, header.end_offset());
        }
    }

    pub(crate) fn batch(&mut self, number: PartitionNumber, found: &Found, replaces: bool) {
        let Found { spot, .. } = found;
        self.partition(found.lane, number, spot.base_offset);
        self.close_gap(number, spot.base_offset);
        let partition = self.partition(found.lane, number, spot.base_offset);
        if spot.base_offset >= partition.log_end {
            partition.note_epoch(spot.leader_epoch, spot.base_offset);
            partition.producers.apply(&found.batch, spot.base_offset);
            partition.log_end = spot.end_offset;
        } else if replaces {
            partition.drop_runs_from(spot.base_offset);
        } else {
            // Written twice can only be a group that was given up and is not known as such: the
            // first copy stands.
            return;
        }
        partition.add_to_run(found.slot, spot);
    }

    pub(crate) fn log_start(&mut self, lane: Lane, number: PartitionNumber, log_start: Offset) {
        let partition = self.partition(lane, number, log_start);
        if log_start > partition.log_start {
            partition.log_end = partition.log_end.max(log_start);
            partition.set_log_start(log_start);
        }
    }

    /// Applies a slot by its footer alone: without a checkpoint. Producers' sequences are not in
    /// it.
    pub(crate) fn footer(&mut self, slot: u32, index: &SlotIndex) {
        let Some(lane) = Lane::of(index.lane) else { return };
        for (&number, part) in &index.parts {
            self.log_start(lane, number, part.log_start);
            let Some(first) = part.extents.first() else { continue };
            self.partition(lane, number, first.base_offset);
            self.close_gap(number, first.base_offset);
            let partition = self.partition(lane, number, first.base_offset);
            if first.base_offset < partition.log_end {
                if part.end < partition.log_end {
                    continue;
                }
                // What this slot begins with was carried over from the one before.
                partition.drop_runs_from(first.base_offset);
            }
            for &(epoch, start) in &part.epochs {
                partition.note_epoch(epoch, start);
            }
            partition.log_end = part.end;
            partition.max_timestamp = partition.max_timestamp.max(part.max_timestamp);
            partition.bytes += u64::from(part.batch_bytes);
            partition.runs.push_back(Run {
                slot,
                bytes: part.batch_bytes,
                base_offset: first.base_offset,
                max_timestamp: part.max_timestamp,
            });
        }
    }

    /// Everything that was found is durable.
    pub(crate) fn finish(&mut self) {
        for partition in self.partitions.values_mut() {
            partition.durable_end = partition.log_end;
            partition.log_start_durable = partition.log_start;
            partition.drop_dead_runs();
        }
    }
}
