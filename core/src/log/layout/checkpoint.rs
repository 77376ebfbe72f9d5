//! The checkpoint: everything that a start would otherwise have to read out of all slots.
//!
//! It is a stream of bytes that stands in frames of kind checkpoint: parts, then the root, which
//! names them and holds the rest of the stream. A checkpoint counts once its root is durable.
//!
//! ```text
//! root:    u8 version, 2
//!          u64 as_of, the group_seq up to which it stands for everything
//!          uvarint parts; for each:
//!            uvarint slot, u64 seg_seq, uvarint where its frame begins, uvarint bytes of the frame
//!          the last piece of the stream
//! stream:  u32 boot_epoch, u64 next seg_seq
//!          4 lanes: u64 last group_seq, u32 its checksum, u64 last seg_seq
//!          uvarint slots in use; for each:
//!            uvarint slot, u8 lane, u8 1 if sealed, varlong seg_seq less the one before,
//!            varlong lowest group_seq less the one before, varlong highest group_seq less the
//!            lowest, uvarint bytes of batches, uvarint bytes of their frames,
//!            varlong largest timestamp less the one before
//!          uvarint partitions; for each:
//!            uvarint number, u8 lane, varlong log start, varlong log end,
//!            varlong largest timestamp,
//!            varlong end of what was compacted, varlong since when something is not, or -1
//!            uvarint epochs; for each: varlong epoch, varlong first offset
//!            uvarint damaged ranges; for each: varlong from, varlong until
//!            uvarint bytes of producers, the producers
//!            uvarint runs; for each:
//!              varlong 8 times slot less the one before, and what follows: 1 bytes, 2 offsets,
//!                4 timestamp,
//!              varlong bytes less those before,
//!              varlong base offset less the one before, less what that was before,
//!              varlong its slot's largest timestamp less its own; each if it is not 0
//! ```
//!
//! A bad part makes the whole checkpoint bad: the one before, or footers, take its place.
//!
//! Why a version of its own (2026-11): a checkpoint only makes starting fast, so a build that does
//! not know another's does without it, and the superblock's version, which refuses the medium, is
//! left alone. Any change of root or stream raises it. Before there was one, a root began with
//! `as_of`, whose first byte is zero: that is version 0.

use super::super::Lane;
use super::super::partition::Partition;
use super::super::runs::Run;
use crate::batch::Producers;
use crate::bytes::{Malformed, Reader, Result, put_uvarint, put_varlong};
use crate::types::{LeaderEpoch, Offset, PartitionNumber};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

/// The `partition` of the root's frame.
pub(crate) const ROOT: PartitionNumber = PartitionNumber(u32::MAX);
/// The version that is written, and the only one that is read.
const VERSION: u8 = 2;

/// Where a part stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartPlace {
    pub slot: u32,
    pub seg_seq: u64,
    pub at: u32,
    pub bytes: u32,
}

/// A slot in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotImage {
    pub lane: u8,
    pub sealed: bool,
    pub seg_seq: u64,
    pub first_seq: u64,
    pub last_seq: u64,
    pub filled: u32,
    pub framed: u32,
    /// The largest timestamp of its runs, from which theirs differ little.
    pub max_timestamp: i64,
}

/// The last group and slot of a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LaneTail {
    pub group_seq: u64,
    pub group_crc: u32,
    pub seg_seq: u64,
}

/// What a checkpoint says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub as_of: u64,
    pub boot_epoch: u32,
    pub next_seg_seq: u64,
    pub lanes: [LaneTail; 4],
    pub slots: BTreeMap<u32, SlotImage>,
    pub partitions: BTreeMap<PartitionNumber, Partition>,
}

/// The begin of a stream; [`put_partition`] follows for each partition.
pub(crate) fn put_head(image: &Image, partitions: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&image.boot_epoch.to_be_bytes());
    out.extend_from_slice(&image.next_seg_seq.to_be_bytes());
    for lane in &image.lanes {
        out.extend_from_slice(&lane.group_seq.to_be_bytes());
        out.extend_from_slice(&lane.group_crc.to_be_bytes());
        out.extend_from_slice(&lane.seg_seq.to_be_bytes());
    }
    put_uvarint(out, image.slots.len() as u32);
    let mut before = SlotImage::default();
    for (&slot, image) in &image.slots {
        put_uvarint(out, slot);
        out.extend_from_slice(&[image.lane, u8::from(image.sealed)]);
        put_varlong(out, image.seg_seq.wrapping_sub(before.seg_seq) as i64);
        put_varlong(out, image.first_seq.wrapping_sub(before.first_seq) as i64);
        put_varlong(out, image.last_seq.wrapping_sub(image.first_seq) as i64);
        put_uvarint(out, image.filled);
        put_uvarint(out, image.framed);
        put_varlong(out, image.max_timestamp.wrapping_sub(before.max_timestamp));
        before = *image;
    }
    put_uvarint(out, partitions as u32);
}

/// `newest` holds the largest timestamp of each slot, by number.
pub(crate) fn put_partition(
    newest: &[i64],
    number: PartitionNumber,
    partition: &Partition,
    out: &mut Vec<u8>,
) {
    put_uvarint(out, number.0);
    out.push(partition.lane as u8);
    put_varlong(out, partition.log_start.0);
    put_varlong(out, partition.log_end.0);
    put_varlong(out, partition.max_timestamp);
    put_varlong(out, partition.cleaned.0);
    put_varlong(out, partition.dirty_since.unwrap_or(-1));
    put_uvarint(out, partition.epochs.len() as u32);
    for (epoch, start) in &partition.epochs {
        put_varlong(out, i64::from(epoch.0));
        put_varlong(out, start.0);
    }
    put_uvarint(out, partition.damaged.len() as u32);
    for (from, until) in &partition.damaged {
        put_varlong(out, from.0);
        put_varlong(out, until.0);
    }
    let mut producers = Vec::new();
    if !partition.producers.is_empty() {
        partition.producers.encode(&mut producers);
    }
    put_uvarint(out, producers.len() as u32);
    out.extend_from_slice(&producers);
    put_uvarint(out, partition.runs.len() as u32);
    let (mut before, mut offsets_before) = (Run::NONE, 0);
    for run in partition.runs.iter() {
        let newest = newest.get(run.slot as usize).copied().unwrap_or(0);
        let offsets = run.base_offset.0.wrapping_sub(before.base_offset.0);
        let fields = [
            i64::from(run.bytes) - i64::from(before.bytes),
            offsets.wrapping_sub(offsets_before),
            newest.wrapping_sub(run.max_timestamp),
        ];
        let there = (0..).zip(&fields).map(|(bit, &field)| i64::from(field != 0) << bit);
        let slots = i64::from(run.slot) - i64::from(before.slot);
        put_varlong(out, slots << 3 | there.sum::<i64>());
        fields.iter().filter(|&&field| field != 0).for_each(|&field| put_varlong(out, field));
        (before, offsets_before) = (run, offsets);
    }
}

/// The body of the root.
pub(crate) fn root(as_of: u64, parts: &[PartPlace], last: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(16 + parts.len() * 24 + last.len());
    out.push(VERSION);
    out.extend_from_slice(&as_of.to_be_bytes());
    put_uvarint(&mut out, parts.len() as u32);
    for part in parts {
        put_uvarint(&mut out, part.slot);
        out.extend_from_slice(&part.seg_seq.to_be_bytes());
        put_uvarint(&mut out, part.at);
        put_uvarint(&mut out, part.bytes);
    }
    out.extend_from_slice(last);
    Bytes::from(out)
}

/// What a root says: for which group_seq it stands, where its parts are, and the end of the stream.
pub(crate) fn parse_root(body: Bytes) -> Result<(u64, Vec<PartPlace>, Bytes)> {
    let mut input = Reader::new(body);
    let version = input.u8()?;
    if version != VERSION {
        log::warn!("a checkpoint has the format {version} of another build: it is not used");
        return Err(Malformed);
    }
    let as_of = input.u64()?;
    let mut parts = Vec::new();
    for _ in 0..input.uvarint()? {
        parts.push(PartPlace {
            slot: input.uvarint()?,
            seg_seq: input.u64()?,
            at: input.uvarint()?,
            bytes: input.uvarint()?,
        });
    }
    let rest = input.bytes(input.remaining())?;
    Ok((as_of, parts, rest))
}

pub(crate) fn parse(as_of: u64, stream: Bytes) -> Result<Image> {
    let input = &mut Reader::new(stream);
    let mut image =
        Image { as_of, boot_epoch: input.u32()?, next_seg_seq: input.u64()?, ..Image::default() };
    for lane in &mut image.lanes {
        *lane =
            LaneTail { group_seq: input.u64()?, group_crc: input.u32()?, seg_seq: input.u64()? };
    }
    let mut before = SlotImage::default();
    for _ in 0..input.uvarint()? {
        let slot = input.uvarint()?;
        let (lane, sealed) = (Lane::of(input.u8()?).ok_or(Malformed)? as u8, input.u8()? == 1);
        let seg_seq = before.seg_seq.wrapping_add(input.varlong()? as u64);
        let first_seq = before.first_seq.wrapping_add(input.varlong()? as u64);
        before = SlotImage {
            lane,
            sealed,
            seg_seq,
            first_seq,
            last_seq: first_seq.wrapping_add(input.varlong()? as u64),
            filled: input.uvarint()?,
            framed: input.uvarint()?,
            max_timestamp: before.max_timestamp.wrapping_add(input.varlong()?),
        };
        image.slots.insert(slot, before);
    }
    for _ in 0..input.uvarint()? {
        let number = PartitionNumber(input.uvarint()?);
        let partition = parse_partition(input, &image.slots)?;
        image.partitions.insert(number, partition);
    }
    input.finish()?;
    Ok(image)
}

fn parse_partition(input: &mut Reader, slots: &BTreeMap<u32, SlotImage>) -> Result<Partition> {
    let lane = Lane::of(input.u8()?).ok_or(Malformed)?;
    let log_start = Offset(input.varlong()?);
    let mut partition = Partition::new(lane, log_start);
    partition.log_end = Offset(input.varlong()?);
    (partition.written_end, partition.durable_end) = (partition.log_end, partition.log_end);
    partition.max_timestamp = input.varlong()?;
    partition.cleaned = Offset(input.varlong()?);
    partition.dirty_since = Some(input.varlong()?).filter(|since| *since >= 0);
    for _ in 0..input.uvarint()? {
        let epoch = LeaderEpoch(i32::try_from(input.varlong()?).map_err(|_| Malformed)?);
        partition.epochs.push((epoch, Offset(input.varlong()?)));
    }
    for _ in 0..input.uvarint()? {
        partition.damaged.push((Offset(input.varlong()?), Offset(input.varlong()?)));
    }
    let producers_bytes = input.uvarint()? as usize;
    if producers_bytes > 0 {
        partition.producers = Producers::decode(input.slice(producers_bytes)?)?;
    }
    let (mut before, mut offsets) = (Run::NONE, 0i64);
    for _ in 0..input.uvarint()? {
        let head = input.varlong()?;
        let mut field = |bit: i64| if head & bit == 0 { Ok(0) } else { input.varlong() };
        let slot = step(before.slot, head >> 3)?;
        let bytes = step(before.bytes, field(1)?)?;
        offsets = offsets.wrapping_add(field(2)?);
        let base_offset = Offset(before.base_offset.0.wrapping_add(offsets));
        let newest = slots.get(&slot).map_or(0, |slot| slot.max_timestamp);
        let max_timestamp = newest.wrapping_sub(field(4)?);
        before = Run { slot, bytes, base_offset, max_timestamp };
        partition.bytes += u64::from(bytes);
        partition.runs.push_back(before);
    }
    Ok(partition)
}

fn step(before: u32, difference: i64) -> Result<u32> {
    let next = i64::from(before).checked_add(difference).ok_or(Malformed)?;
    u32::try_from(next).map_err(|_| Malformed)
}
