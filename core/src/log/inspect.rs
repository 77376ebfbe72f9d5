//! Looking into a log that no node has open: what `weir log check`, `dump` and `stat` show.
//!
//! [`overview`] does what a start does, with every write thrown away; [`walk`] goes through the
//! slots as they stand, those that are free and still hold something included. Both read through a
//! function that the caller gives, and change nothing.

use super::layout::footer::{self, Tail};
use super::layout::frame::{FrameHeader, Kind};
use super::layout::group::GROUP_HEADER_BYTES;
use super::layout::slot::SlotHeader;
use super::layout::{BLOCK, Geometry, frame_seed, superblock};
use super::scan::{Scan, Seen, Step, frames};
use super::truncate::Cut;
use super::{
    Damage, Event, FLUSH_WINDOW, Io, IoResult, Log, OpenError, ScrubPlan, Settings, Start, Stats,
};
use crate::batch::{Codec, Header as BatchHeader};
use crate::types::{LeaderEpoch, Nanos, NodeId, Offset, OpId, PartitionNumber, Time};
use alloc::vec::Vec;
use bytes::Bytes;

/// What a start would find.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Overview {
    pub store: [u8; 16],
    pub node: i32,
    pub slot_bytes: u32,
    pub slots: u32,
    pub partitions: Vec<Partition>,
    pub stats: Stats,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct Partition {
    pub number: u32,
    pub lane: &'static str,
    pub log_start: i64,
    pub log_end: i64,
    pub bytes: u64,
    pub max_timestamp: i64,
    pub producers: usize,
    /// Offsets that are lost: `from` up to and without `until`.
    pub damaged: Vec<(i64, i64)>,
}

/// What stands in a slot, in the order in which it stands.
#[derive(Clone, Debug, serde::Serialize)]
pub enum Item {
    Slot {
        slot: u32,
        lane: u8,
        seg_seq: u64,
        boot_epoch: u32,
        /// Whether there is a footer: the slot is sealed.
        sealed: bool,
    },
    Group {
        slot: u32,
        at: u32,
        group_seq: u64,
        boot_epoch: u32,
        durable_seq: u64,
        bytes: u32,
        frames: u32,
    },
    Frame {
        kind: &'static str,
        partition: u32,
        base_offset: i64,
        last_offset: i64,
        leader_epoch: i32,
        bytes: u32,
        /// Records in it, their compression and largest timestamp, if it is a batch.
        records: Option<(i32, &'static str, i64)>,
    },
    /// Bytes between groups of the slot, or before its end as the footer states it, that are no
    /// group.
    Damage { slot: u32, at: u32, bytes: u32 },
    /// Bytes behind the last group of a slot without footer that are not free: a cut tore them.
    Torn { slot: u32, at: u32 },
    /// A slot whose header cannot be read though it is not empty.
    NoHeader { slot: u32 },
}

/// What the superblock says of a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub store: [u8; 16],
    pub node: i32,
    pub slot_bytes: u32,
    pub slots: u32,
}

impl Superblock {
    /// Bytes of the medium that the log takes when all slots have been used.
    pub fn bytes(&self) -> u64 {
        bytes_of(self.slot_bytes, self.slots)
    }
}

/// Bytes of a medium with so many slots of that size.
pub fn bytes_of(slot_bytes: u32, slots: u32) -> u64 {
    u64::from(slot_bytes) * (u64::from(slots) + 2)
}

/// Reads the superblock, or its copy.
pub fn superblock(read: Read<'_>) -> Result<Superblock, OpenError> {
    let Geometry { store, node, slot_bytes, slots } = geometry(read)?;
    Ok(Superblock { store, node, slot_bytes, slots })
}

/// What a start looks at to see whether a slot was ever used: zeros say that it was not.
pub const SLOT_HEAD_BYTES: usize = 2 * BLOCK as usize;

/// Writes the superblocks of a new log; what is performed fails as the caller says.
pub fn format<E>(
    start: Start,
    node: i32,
    perform: &mut dyn FnMut(&Io) -> Result<(), E>,
) -> Result<(), E> {
    let mut log = Log::open(settings(start, 0, NodeId(node)));
    while let Some(io) = log.poll_io(Time::ZERO) {
        perform(&io)?;
        log.done(Time::ZERO, io.op(), IoResult::Done);
    }
    Ok(())
}

fn settings(start: Start, medium_bytes: u64, node: NodeId) -> Settings {
    Settings {
        start,
        medium_bytes,
        node,
        flush_cap: None,
        flush_window: FLUSH_WINDOW,
        checkpoint_bytes: u64::MAX,
        tail_cache_bytes: 0,
        footer_cache_bytes: 0,
        index_runs_max: u32::MAX,
    }
}

/// Reads so many bytes of the medium; what lies beyond its end are zeros. `None`: the device
/// failed.
pub type Read<'a> = &'a mut dyn FnMut(u64, u32) -> Option<Bytes>;

/// The superblock, or its copy.
fn geometry(read: Read<'_>) -> Result<Geometry, OpenError> {
    let mut at = |at| read(at, BLOCK).map(|block| superblock::parse(&block));
    let first = at(0).ok_or(OpenError::Device)?;
    let newer = |found| OpenError::NewerFormat { found, known: superblock::VERSION };
    match first {
        Ok(geometry) => Ok(geometry),
        Err(superblock::Bad::Newer(found)) => Err(newer(found)),
        Err(bad) => superblock::copies()
            .filter_map(|place| at(place)?.ok().filter(|g| u64::from(g.slot_bytes) == place))
            .next()
            .ok_or(match bad {
                superblock::Bad::Blank => OpenError::Blank,
                _ => OpenError::NotALog,
            }),
    }
}

/// Starts the log as a node would, without changing anything.
pub fn overview(medium_bytes: u64, read: Read<'_>) -> Result<Overview, OpenError> {
    let geometry = geometry(read)?;
    let mut medium = Overlay { read, written: Vec::new() };
    let log = start(&geometry, medium_bytes, &mut |io| medium.perform(io))?;
    Ok(describe(&geometry, &log))
}

/// What happens during a check.
#[derive(Debug)]
pub enum Checked<'a> {
    /// The check goes on with that slot.
    Slot(u32),
    Damage(&'a Damage),
}

/// Reads everything that counts, as the scrub does, and says what is damaged. Nothing is changed.
pub fn check(
    medium_bytes: u64,
    read: Read<'_>,
    visit: &mut dyn FnMut(Checked<'_>),
) -> Result<Overview, OpenError> {
    let geometry = geometry(read)?;
    let mut medium = Overlay { read, written: Vec::new() };
    scrub(&geometry, medium_bytes, &mut |io| medium.perform(io), visit)
}

/// The same, and what is damaged is quarantined: readers get a definite answer from then on, and
/// the next check finds nothing. `perform` does what a driver does.
pub fn repair(
    medium_bytes: u64,
    perform: &mut dyn FnMut(&Io) -> IoResult,
    visit: &mut dyn FnMut(Checked<'_>),
) -> Result<Overview, OpenError> {
    let mut read = |at, len| match perform(&Io::Read { op: OpId(0), at, len, parts: Vec::new() }) {
        IoResult::Read(bytes) => Some(bytes),
        _ => None,
    };
    let geometry = geometry(&mut read)?;
    scrub(&geometry, medium_bytes, perform, visit)
}

fn scrub(
    geometry: &Geometry,
    medium_bytes: u64,
    perform: &mut dyn FnMut(&Io) -> IoResult,
    visit: &mut dyn FnMut(Checked<'_>),
) -> Result<Overview, OpenError> {
    let mut now = Time::ZERO;
    let mut log = start(geometry, medium_bytes, perform)?;
    let found = describe(geometry, &log);
    log.set_scrub(now, Some(ScrubPlan { pass: Nanos(0), slot: 0, quarantine_unreadable: true }));
    let mut slot = None;
    while log.stats().scrub.passes == 0 {
        step(&mut log, &mut now, perform);
        let next = log.stats().scrub.slot;
        if slot.replace(next) != Some(next) {
            visit(Checked::Slot(next));
        }
        while let Some(event) = log.poll_event() {
            match event {
                Event::Damage(damage) => visit(Checked::Damage(&damage)),
                Event::Fenced => return Err(OpenError::Device),
                _ => {}
            }
        }
    }
    log.set_scrub(now, None);
    log.checkpoint(now);
    while !log.is_idle() || log.closes_at().is_some() {
        step(&mut log, &mut now, perform);
        if matches!(log.phase, super::Phase::Fenced) {
            return Err(OpenError::Device);
        }
    }
    let stats = Stats { scrub: log.stats().scrub, ..found.stats };
    Ok(Overview { stats, ..found })
}

/// Lets one operation happen, or time go on to where one does.
fn step(log: &mut Log, now: &mut Time, perform: &mut dyn FnMut(&Io) -> IoResult) {
    match log.poll_io(*now) {
        Some(io) => log.done(*now, io.op(), perform(&io)),
        None => *now = log.deadline().map_or(*now, |at| at.max(*now)),
    }
}

/// A medium that is read, and whose writes stay in memory: few, because nothing is appended.
struct Overlay<'a> {
    read: Read<'a>,
    written: Vec<(u64, Bytes)>,
}

impl Overlay<'_> {
    fn perform(&mut self, io: &Io) -> IoResult {
        match io {
            Io::Read { at, len, .. } | Io::Verify { at, len, .. } => {
                let Some(bytes) = (self.read)(*at, *len) else { return IoResult::Failed };
                let mut bytes = bytes.to_vec();
                for (begin, written) in &self.written {
                    lay_over(&mut bytes, *at, *begin, written);
                }
                IoResult::Read(bytes.into())
            }
            Io::Write { at, bytes, .. } => {
                self.written.push((*at, bytes.clone()));
                IoResult::Done
            }
            Io::Flush { .. } | Io::Zero { .. } => IoResult::Done,
            Io::Unpack { .. } | Io::Pack { .. } => IoResult::Failed,
        }
    }
}

/// Puts what was written at `begin` over bytes that begin at `at`.
fn lay_over(bytes: &mut [u8], at: u64, begin: u64, written: &[u8]) {
    let from = begin.max(at);
    let until = (begin + written.len() as u64).min(at + bytes.len() as u64);
    if from < until {
        let part = &written[(from - begin) as usize..(until - begin) as usize];
        bytes[(from - at) as usize..(until - at) as usize].copy_from_slice(part);
    }
}

/// Starts the log of a medium.
fn start(
    geometry: &Geometry,
    medium_bytes: u64,
    perform: &mut dyn FnMut(&Io) -> IoResult,
) -> Result<Log, OpenError> {
    let mut now = Time::ZERO;
    let mut log = Log::open(settings(Start::Recover, medium_bytes, NodeId(geometry.node)));
    loop {
        match log.poll_event() {
            Some(Event::Ready) => return Ok(log),
            Some(Event::Refused(error)) => return Err(error),
            _ => step(&mut log, &mut now, perform),
        }
    }
}

fn describe(geometry: &Geometry, log: &Log) -> Overview {
    let partitions = log.partitions.iter().map(|(number, partition)| Partition {
        number: number.0,
        lane: partition.lane.name(),
        log_start: partition.log_start.0,
        log_end: partition.log_end.0,
        bytes: partition.bytes,
        max_timestamp: partition.max_timestamp,
        producers: partition.producers.len(),
        damaged: partition.damaged.iter().map(|&(from, until)| (from.0, until.0)).collect(),
    });
    Overview {
        store: geometry.store,
        node: geometry.node,
        slot_bytes: geometry.slot_bytes,
        slots: geometry.slots,
        partitions: partitions.collect(),
        stats: log.stats(),
    }
}

/// Goes through all slots, one after the other; `visit` returns false to stop.
pub fn walk(
    medium_bytes: u64,
    read: Read<'_>,
    mut visit: impl FnMut(Item) -> bool,
) -> Result<(), OpenError> {
    let geometry = geometry(read)?;
    for slot in 0..geometry.slots_on(medium_bytes) {
        for item in slot_items(&geometry, slot, read)? {
            if !visit(item) {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn slot_items(geometry: &Geometry, slot: u32, read: Read<'_>) -> Result<Vec<Item>, OpenError> {
    let mut at = |at: u32, len: u32| read(geometry.place(slot, at), len).ok_or(OpenError::Device);
    let block = at(0, BLOCK)?;
    let Some(header) = SlotHeader::parse(&block, &geometry.store, slot) else {
        let empty = block.iter().all(|&byte| byte == 0);
        return Ok(if empty { Vec::new() } else { alloc::vec![Item::NoHeader { slot }] });
    };
    let mut tail = 64 << 10;
    let footer = loop {
        tail = tail.min(geometry.slot_bytes);
        let end = at(geometry.slot_bytes - tail, tail)?;
        match footer::parse(&end, &geometry.store, slot, Some(header.seg_seq)) {
            Tail::Footer(index) => break Some(index),
            Tail::Longer(longer) if longer > tail => tail = longer,
            _ => break None,
        }
    };
    let SlotHeader { lane, boot_epoch, seg_seq, .. } = header;
    let sealed = footer.is_some();
    let mut items = alloc::vec![Item::Slot { slot, lane, seg_seq, boot_epoch, sealed }];
    let mut expected = BLOCK;
    let seed = frame_seed(&geometry.store, seg_seq);
    let mut scan = Scan::new(geometry, slot, Some(seg_seq), None);
    let mut next = scan.wants();
    loop {
        let step = scan.feed(&at(next.0, next.1)?, |seen| {
            let Seen::Group(group, at, bytes) = seen else { return };
            if footer.as_ref().is_some_and(|footer| group.group_seq > footer.last_seq) {
                return;
            }
            if at > expected {
                items.push(Item::Damage { slot, at: expected, bytes: at - expected });
            }
            expected = at + group.padded_bytes() as u32;
            items.push(Item::Group {
                slot,
                at,
                group_seq: group.group_seq,
                boot_epoch: group.boot_epoch,
                durable_seq: group.durable_seq,
                bytes: group.bytes,
                frames: group.frames,
            });
            items.extend(frames(&bytes, seed).map(|(frame, _, body)| frame_item(&frame, &body)));
        });
        match step {
            Step::Read(at, len) => next = (at, len),
            Step::End => break,
        }
    }
    match footer {
        Some(footer) if footer.data_end > expected => {
            let bytes = footer.data_end - expected;
            items.push(Item::Damage { slot, at: expected, bytes });
        }
        None if expected < geometry.slot_bytes => {
            let rest = at(expected, GROUP_HEADER_BYTES as u32)?;
            let group = super::layout::group::GroupHeader::peek(&rest);
            if group.is_some_and(|group| group.seg_seq == seg_seq) {
                items.push(Item::Torn { slot, at: expected });
            }
        }
        _ => {}
    }
    Ok(items)
}

fn frame_item(frame: &FrameHeader, body: &Bytes) -> Item {
    let batch = BatchHeader::parse(body).ok();
    let FrameHeader { partition, base_offset, leader_epoch, .. } = *frame;
    let PartitionNumber(partition) = partition;
    let LeaderEpoch(leader_epoch) = leader_epoch;
    let (Offset(base_offset), Offset(end)) = (base_offset, frame.end_offset());
    Item::Frame {
        kind: match frame.kind {
            Kind::Truncate if Cut::of(frame).restart => "restart",
            kind => kind.name(),
        },
        partition,
        base_offset,
        last_offset: if frame.kind == Kind::Truncate { base_offset } else { end - 1 },
        leader_epoch,
        bytes: frame.body_bytes,
        records: batch.filter(|_| frame.kind.is_batch()).map(|batch| {
            let codec = match batch.codec() {
                None | Some(Codec::None) => "none",
                Some(Codec::Gzip) => "gzip",
                Some(Codec::Snappy) => "snappy",
                Some(Codec::Lz4) => "lz4",
                Some(Codec::Zstd) => "zstd",
            };
            (batch.records_count, codec, batch.max_timestamp)
        }),
    }
}
