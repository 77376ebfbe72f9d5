//! Walking a slot group by group, for what has no footer that can be trusted.

use super::layout::checkpoint::ROOT;
use super::layout::footer::{SlotIndex, Spot};
use super::layout::frame::{FRAME_HEADER_BYTES, FrameHeader, Kind};
use super::layout::group::{self, Found, GROUP_HEADER_BYTES, GroupHeader};
use super::layout::{BLOCK, Geometry, group_seed};
use super::partition::Partition;
use super::truncate::Cut;
use crate::batch::Header as BatchHeader;
use crate::types::{Offset, PartitionNumber};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use bytes::Bytes;

/// One read of a scan; a larger group is read by itself.
const SCAN_BYTES: u32 = 1 << 20;

/// A scan of one use of a slot. Memory: one read.
#[derive(Debug)]
pub(crate) struct Scan {
    slot: u32,
    /// `None`: the slot's header is lost, so groups of every use are handed out.
    seg_seq: Option<u64>,
    /// Where the groups end at most.
    end: u32,
    store: [u8; 16],
    /// Where the next read begins, and its length.
    at: u32,
    len: u32,
}

/// What stands in a slot.
#[derive(Debug)]
pub(crate) enum Seen {
    /// A whole group, and where it begins.
    Group(GroupHeader, u32, Bytes),
    /// A block in which no whole group begins.
    Gap(u32, Bytes),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Read so many bytes there in the slot and feed them.
    Read(u32, u32),
    End,
}

impl Scan {
    /// Scans up to `end` as the footer states it, or the whole slot.
    pub(crate) fn new(
        geometry: &Geometry,
        slot: u32,
        seg_seq: Option<u64>,
        end: Option<u32>,
    ) -> Scan {
        let end = end.unwrap_or(u32::MAX).clamp(2 * BLOCK, geometry.slot_bytes);
        let len = SCAN_BYTES.min(end - BLOCK);
        Scan { slot, seg_seq, end, store: geometry.store, at: BLOCK, len }
    }

    pub(crate) fn wants(&self) -> (u32, u32) {
        (self.at, self.len)
    }

    /// Takes what was read and hands out the whole groups in it. Where no group begins, the next
    /// block is tried: behind a damaged group there may be others. Bytes that could not be read are
    /// passed over in the same way.
    pub(crate) fn feed(&mut self, bytes: &Bytes, mut visit: impl FnMut(Seen)) -> Step {
        let seed = group_seed(&self.store);
        let end = self.at + self.len;
        let begin = self.at;
        while self.at < end {
            let rest = bytes.slice((self.at - begin).min(bytes.len() as u32) as usize..);
            let room = (self.end - self.at) as usize;
            match group::find(&rest, room, self.slot, self.seg_seq, seed) {
                Found::Group(header, group) => {
                    let at = self.at;
                    self.at += header.padded_bytes() as u32;
                    visit(Seen::Group(header, at, group));
                }
                Found::Longer(len) if self.at > begin || len > self.len as usize => {
                    self.len = (len as u32).max(SCAN_BYTES.min(self.end - self.at));
                    return Step::Read(self.at, self.len);
                }
                _ => {
                    let block = rest.slice(..rest.len().min(BLOCK as usize));
                    visit(Seen::Gap(self.at, block));
                    self.at += BLOCK;
                }
            }
        }
        self.len = SCAN_BYTES.min(self.end.saturating_sub(self.at));
        if self.len == 0 { Step::End } else { Step::Read(self.at, self.len) }
    }
}

/// A frame in a group, and where in the group it begins.
pub(crate) fn frames(group: &Bytes, seed: u32) -> impl Iterator<Item = (FrameHeader, u32, Bytes)> {
    let mut at = GROUP_HEADER_BYTES;
    core::iter::from_fn(move || {
        let header = FrameHeader::verify(group.get(at..)?, seed)?;
        let begin = at;
        at += header.frame_bytes();
        Some((header, begin as u32, group.slice(begin + FRAME_HEADER_BYTES..at)))
    })
}

/// What a frame says of its partition, without the records.
#[derive(Clone, Debug)]
pub(crate) struct Outline {
    pub header: FrameHeader,
    /// Where in its group it begins.
    pub begin: u32,
    max_timestamp: i64,
    /// Of a batch that came from an idempotent producer.
    pub sequenced: Option<Box<BatchHeader>>,
}

impl Outline {
    /// `None` if the frame says nothing about a partition, or its batch is none.
    pub(crate) fn new(header: FrameHeader, begin: u32, body: &[u8]) -> Option<Outline> {
        let batch = match header.kind {
            Kind::Replace if body.is_empty() => None,
            Kind::Batch | Kind::Replace => Some(BatchHeader::parse(body).ok()?),
            Kind::LogStart | Kind::Truncate => None,
            _ => return None,
        };
        let max_timestamp = batch.as_ref().map_or(-1, |batch| batch.max_timestamp);
        let sequenced = batch.filter(|batch| batch.producer_id >= 0).map(Box::new);
        Some(Outline { header, begin, max_timestamp, sequenced })
    }

    /// Bytes of memory, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        let sequenced = self.sequenced.as_ref().map_or(0, |_| size_of::<BatchHeader>() + 16);
        size_of::<Outline>() + sequenced
    }
}

/// The outlines of a group's frames.
pub(crate) fn outlines(group: &Bytes, seed: u32) -> impl Iterator<Item = Outline> {
    frames(group, seed).filter_map(|(header, begin, body)| Outline::new(header, begin, &body))
}

/// The body of the checkpoint's root in a group, if one is there.
pub(crate) fn root(group: &Bytes, seed: u32) -> Option<Bytes> {
    let is_root = |frame: &FrameHeader| frame.kind == Kind::Checkpoint && frame.partition == ROOT;
    frames(group, seed).find(|(frame, ..)| is_root(frame)).map(|(_, _, body)| body)
}

impl SlotIndex {
    /// Adds a frame of a slot whose groups may be damaged, and with them what truncated it: where
    /// the partition has a higher leader epoch, it does not count. Gives up to where it does.
    pub(crate) fn add_below_newer(
        &mut self,
        outline: &Outline,
        at: u32,
        group_seq: u64,
        partitions: &BTreeMap<PartitionNumber, Partition>,
    ) -> Offset {
        let header = &outline.header;
        let partition = partitions.get(&header.partition).filter(|_| header.has_epoch());
        let newer = partition.and_then(|partition| partition.newer_epoch(header.leader_epoch));
        let newer = newer.filter(|&newer| newer < header.end_offset());
        if newer.is_none_or(|newer| header.base_offset < newer) {
            self.add_frame(outline, at, group_seq);
        }
        if let Some(newer) = newer.filter(|&newer| header.base_offset < newer) {
            self.truncate(header.partition, newer, at + outline.begin, group_seq);
        }
        newer.unwrap_or(header.end_offset())
    }

    /// Adds a frame of a group that was found at `at`; gives where it stands if it is a batch, or a
    /// hole.
    pub(crate) fn add_frame(&mut self, outline: &Outline, at: u32, group_seq: u64) -> Option<Spot> {
        let header = &outline.header;
        if header.kind == Kind::Truncate {
            let cut = Cut::of(header);
            self.truncate(header.partition, cut.from(), at + outline.begin, group_seq);
            if cut.restart {
                self.set_log_start(header.partition, cut.end);
            }
            return None;
        }
        if header.kind == Kind::LogStart {
            self.set_log_start(header.partition, header.base_offset);
            return None;
        }
        let spot = Spot {
            at: at + outline.begin,
            frame_bytes: header.frame_bytes() as u32,
            batch_bytes: header.body_bytes,
            base_offset: header.base_offset,
            end_offset: header.end_offset(),
            leader_epoch: header.leader_epoch,
            max_timestamp: outline.max_timestamp,
        };
        self.add(header.partition, spot);
        Some(spot)
    }
}
