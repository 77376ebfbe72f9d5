//! When a checkpoint is taken, and how it gets onto flash.
//!
//! It is taken when a commit is closed that leaves nothing pending: memory then stands for exactly
//! everything up to that commit's last group. The producers' sequences leave no other choice: a
//! sequence in a checkpoint whose record did not get onto flash would turn the client's retry into
//! a false duplicate. If the commit fails, the checkpoint is dropped and taken anew.
//!
//! State: event, next state
//! - Idle: a commit closes and a checkpoint is due: Parts, their frames pending (Root if there are
//!   none)
//! - Parts: all parts durable: Root, its frame pending
//! - Root: durable: Idle; this is the checkpoint that the next group headers point to
//! - any: a commit fails: Idle, and due again
//!
//! A start is to read no more than `checkpoint_bytes` beside slot headers and the checkpoint: what
//! was written since, and the rest of the slots that are open. So one is due when
//! `checkpoint_bytes` less a slot for each open lane were written, or half of it if that is more;
//! and as long before as a slot holds when one was sealed a moment ago, because of a slot that is
//! open at a checkpoint the begin is read as well. But it is never due before sixteen times its own
//! size was written, so that a large index does not wear the card: then that is the bound.

use super::layout::checkpoint::{self as format, Image, PartPlace, SlotImage};
use super::layout::frame::{FRAME_HEADER_BYTES, Kind};
use super::layout::group::Place;
use super::space::State as SlotState;
use super::writer::Pending;
use super::{Lane, Log};
use crate::types::{Offset, PartitionNumber};
use alloc::vec::Vec;
use bytes::Bytes;

/// A part at most, and no more than a quarter of a slot.
const PART_BYTES_MAX: usize = 256 << 10;

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Parts {
        as_of: u64,
        count: usize,
        placed: Vec<PartPlace>,
        last: Bytes,
    },
    Root {
        as_of: u64,
        parts: Vec<PartPlace>,
        place: Option<Place>,
    },
}

/// The checkpoint that a start would find.
#[derive(Clone, Debug)]
pub(crate) struct Durable {
    pub as_of: u64,
    pub root: Place,
    pub slots: Vec<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Checkpointer {
    pub wanted: bool,
    /// Bytes of groups since the last one was taken.
    pub written: u64,
    pub interval_bytes: u64,
    last_bytes: u64,
    state: State,
    durable: Option<Durable>,
}

impl Checkpointer {
    pub(crate) fn new(interval_bytes: u64, durable: Option<Durable>, written: u64) -> Checkpointer {
        Checkpointer { interval_bytes, durable, written, ..Checkpointer::default() }
    }

    /// `open_bytes` is what the open slots hold when they are full; `sealed` is the length of a
    /// slot that was sealed a moment ago.
    pub(crate) fn is_due(&self, open_bytes: u64, sealed: Option<u64>) -> bool {
        let bytes = self.interval_bytes.saturating_sub(open_bytes).max(self.interval_bytes / 2);
        let early = bytes.saturating_sub(sealed.unwrap_or(0)).max(bytes / 2);
        let due = self.written >= early.max(16 * self.last_bytes);
        matches!(self.state, State::Idle) && (self.wanted || due)
    }

    /// Whether one is being written, or wanted.
    pub(crate) fn is_busy(&self) -> bool {
        self.wanted || !matches!(self.state, State::Idle)
    }

    pub(crate) fn durable_root(&self) -> Option<Place> {
        self.durable.as_ref().map(|durable| durable.root)
    }

    /// About how long one is.
    pub(crate) fn bytes(&self) -> u64 {
        self.last_bytes
    }

    /// The group up to which the last durable checkpoint stands for everything.
    pub(crate) fn as_of(&self) -> u64 {
        self.durable.as_ref().map_or(0, |durable| durable.as_of)
    }

    /// A frame of the checkpoint got its place in a group that begins at `group_at`.
    pub(crate) fn placed(&mut self, frame: &Pending, at: Place, seg_seq: u64, group_at: u32) {
        match &mut self.state {
            State::Parts { placed, .. } => placed.push(PartPlace {
                slot: at.slot,
                seg_seq,
                at: at.at,
                bytes: frame.header.frame_bytes() as u32,
            }),
            State::Root { place, .. } => *place = Some(Place { slot: at.slot, at: group_at }),
            State::Idle => {}
        }
    }

    /// A commit is durable; the root to write next, if the parts are.
    pub(crate) fn next_root(&mut self) -> Option<Pending> {
        let State::Parts { as_of, count, placed, last } = &mut self.state else { return None };
        if placed.len() < *count {
            return None;
        }
        let body = format::root(*as_of, placed, last);
        let as_of = *as_of;
        let parts = core::mem::take(placed);
        self.state = State::Root { as_of, parts, place: None };
        Some(Pending::with_body(Kind::Checkpoint, format::ROOT, Offset(as_of as i64), body))
    }

    /// A commit is durable; the slots of the new checkpoint, if its root was in it.
    pub(crate) fn root_durable(&mut self) -> Option<Vec<u32>> {
        let State::Root { as_of, parts, place: Some(root) } = &self.state else { return None };
        let mut slots: Vec<u32> = parts.iter().map(|part| part.slot).collect();
        slots.push(root.slot);
        self.durable = Some(Durable { as_of: *as_of, root: *root, slots: slots.clone() });
        self.state = State::Idle;
        Some(slots)
    }

    /// A commit failed.
    pub(crate) fn abort(&mut self) {
        if !matches!(self.state, State::Idle) {
            self.state = State::Idle;
            self.wanted = true;
        }
    }
}

impl Log {
    /// Takes a checkpoint of what is in memory: nothing is pending, the last group is closed.
    pub(crate) fn take_checkpoint(&mut self) {
        let as_of = self.writer.next_group_seq - 1;
        let mut image = Image {
            as_of,
            boot_epoch: self.writer.boot_epoch,
            next_seg_seq: self.space.next_seg_seq,
            ..Image::default()
        };
        for (lane, writer) in image.lanes.iter_mut().zip(&self.writer.lanes) {
            *lane = writer.tail;
        }
        let mut newest = alloc::vec![-1; self.space.count() as usize];
        for run in self.partitions.values().flat_map(|partition| partition.runs.iter()) {
            let newest = &mut newest[run.slot as usize];
            *newest = run.max_timestamp.max(*newest);
        }
        for (number, slot) in self.space.iter().filter(|(_, slot)| slot.state != SlotState::Free) {
            let entry = SlotImage {
                lane: slot.lane,
                sealed: slot.state != SlotState::Open,
                seg_seq: slot.seg_seq,
                first_seq: slot.first_seq,
                last_seq: slot.last_seq,
                filled: slot.filled,
                framed: slot.framed,
                max_timestamp: newest[number as usize],
            };
            image.slots.insert(number, entry);
        }
        let mut stream = Vec::new();
        format::put_head(&image, self.partitions.len(), &mut stream);
        for (&number, partition) in &self.partitions {
            format::put_partition(&newest, number, partition, &mut stream);
        }
        let bytes_max = PART_BYTES_MAX.min(self.geometry.slot_bytes as usize / 4);
        self.checkpointer.start(as_of, &Bytes::from(stream), bytes_max, |frame| {
            let lane = &mut self.writer.lanes[Lane::Meta as usize];
            lane.pending_bytes += frame.header.frame_bytes();
            lane.pending_records += frame.records();
            lane.pending.push_back(frame);
        });
    }
}

impl Checkpointer {
    fn start(
        &mut self,
        as_of: u64,
        stream: &Bytes,
        bytes_max: usize,
        mut push: impl FnMut(Pending),
    ) {
        self.wanted = false;
        self.written = 0;
        self.last_bytes = stream.len() as u64 + FRAME_HEADER_BYTES as u64;
        let count = stream.len().div_ceil(bytes_max).saturating_sub(1);
        let offset = Offset(as_of as i64);
        for part in 0..count {
            let body = stream.slice(part * bytes_max..(part + 1) * bytes_max);
            let number = PartitionNumber(part as u32);
            push(Pending::with_body(Kind::Checkpoint, number, offset, body));
        }
        let last = stream.slice(count * bytes_max..);
        if count > 0 {
            self.state = State::Parts { as_of, count, placed: Vec::new(), last };
        } else {
            let body = format::root(as_of, &[], &last);
            push(Pending::with_body(Kind::Checkpoint, format::ROOT, offset, body));
            self.state = State::Root { as_of, parts: Vec::new(), place: None };
        }
    }
}
