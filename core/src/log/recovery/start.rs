//! From a finished start to a running log.

use super::accept::Candidate;
use super::visit::Visited;
use super::{Outcome, Recovery};
use crate::log::checkpoint::Checkpointer;
use crate::log::layout::checkpoint::{LaneTail, SlotImage};
use crate::log::layout::footer::SlotIndex;
use crate::log::space::{Slot, Space, State};
use crate::log::writer::Writer;
use crate::log::{Event, IoResult, Log, Phase};
use crate::types::Time;
use alloc::collections::BTreeSet;

/// A start that had to look into more slots asks for a checkpoint: four lanes, before and after a
/// cut.
const VISITED_MAX: usize = 8;

impl Log {
    pub(crate) fn start_done(&mut self, now: Time, tag: u32, result: IoResult, unread: bool) {
        match core::mem::replace(&mut self.phase, Phase::Running) {
            Phase::Starting(mut recovery) => {
                match recovery.done(&mut self.disk, tag, result, unread) {
                    None => self.phase = Phase::Starting(recovery),
                    Some(Outcome::Refused(error)) => {
                        self.phase = Phase::Refused;
                        self.events.push_back(Event::Refused(error));
                    }
                    Some(Outcome::Done) => {
                        self.adopt(now, *recovery);
                        self.events.push_back(Event::Ready);
                    }
                }
            }
            // It was refused, and what had been asked for by then ends.
            ended => self.phase = ended,
        }
    }

    fn adopt(&mut self, now: Time, mut recovery: Recovery) {
        self.geometry = recovery.geometry;
        self.space = space_of(&recovery, self.settings.medium_bytes);
        self.writer = writer_of(&recovery);
        let covered = recovery.replay.covered;
        let since = recovery.verdict.accepted.iter().map(|group| &group.header);
        let since = since.filter(|group| group.group_seq > covered);
        let bytes: u64 = since.map(|group| group.padded_bytes() as u64).sum();
        // Each slot visited costs the next start a visit, however little is in it.
        let slots = recovery.indexes.iter().filter(|(_, index)| index.last_seq > covered).count();
        let written = bytes.max(slots as u64 * u64::from(recovery.geometry.slot_bytes) / 2);
        let durable = recovery.checkpoint.take();
        self.space.pinned = durable.as_ref().map_or_else(Default::default, |d| d.slots.clone());
        self.checkpointer = Checkpointer::new(self.settings.checkpoint_bytes, durable, written);
        self.stats.torn_groups_dropped = recovery.verdict.torn;
        self.stats.damaged_groups = recovery.verdict.missing;
        self.stats.quarantined_ranges = recovery.replay.known_ranges;
        // Each start that is cut leaves slots of its own, however little is in them: a checkpoint
        // keeps the next start short. It is the first thing that is written, so that what is cut
        // again and again does not go on leaving more.
        self.checkpointer.wanted = recovery.visited.len() > VISITED_MAX;
        if self.checkpointer.wanted {
            self.writer.wake(now);
        }
        self.stats.start_bytes_read = recovery.bytes_read;
        if recovery.verdict.missing > 0 {
            log::error!(
                "{} commit groups that were acknowledged are damaged; what they held is lost here",
                recovery.verdict.missing
            );
        }
        self.partitions = core::mem::take(&mut recovery.replay.partitions);
        for (slot, index) in recovery.indexes {
            self.footers.insert(slot, index);
        }
        for carry in core::mem::take(&mut recovery.carried) {
            self.carry(now, carry);
        }
        self.sweep();
    }
}

fn space_of(recovery: &Recovery, medium_bytes: u64) -> Space {
    let geometry = &recovery.geometry;
    let present = geometry.slots_on(medium_bytes);
    let mut space = Space::new(geometry.slots, present, geometry.slot_bytes);
    if let Some(last) = present.checked_sub(1) {
        let zeroed = medium_bytes.saturating_sub(geometry.place(last, 0));
        space.slot_mut(last).zeroed = zeroed.min(u64::from(geometry.slot_bytes)) as u32;
    }
    let mut use_slot = |number: u32, slot: Slot| {
        let zeroed = space.slot(number).zeroed;
        *space.slot_mut(number) = Slot { state: State::Sealed, zeroed, ..slot };
    };
    for (&slot, entry) in recovery.image.iter().flat_map(|image| &image.slots) {
        let header = recovery.headers.get(&slot);
        if header.is_none_or(|header| header.seg_seq == entry.seg_seq) {
            let SlotImage { lane, seg_seq, first_seq, last_seq, filled, framed, .. } = *entry;
            let used = Slot { lane, seg_seq, first_seq, last_seq, filled, framed, ..Slot::NEW };
            use_slot(slot, used);
        }
    }
    for (slot, index) in &recovery.indexes {
        let SlotIndex { lane, seg_seq, first_seq, last_seq, .. } = *index;
        let (filled, framed) = index.batch_and_frame_bytes();
        let used = Slot { lane, seg_seq, first_seq, last_seq, filled, framed, ..Slot::NEW };
        use_slot(*slot, used);
    }
    // A root that was whole but in a commit that was cut still is a checkpoint, so its slot is
    // kept.
    for &slot in recovery.checkpoint.iter().flat_map(|checkpoint| &checkpoint.slots) {
        space.slot_mut(slot).state = State::Sealed;
        if let Some(header) = recovery.headers.get(&slot) {
            (space.slot_mut(slot).lane, space.slot_mut(slot).seg_seq) =
                (header.lane, header.seg_seq);
        }
    }
    for partition in recovery.replay.partitions.values() {
        for run in partition.runs.iter() {
            space.add_run(run.slot);
        }
    }
    for (&slot, &moved_seq) in &recovery.replay.moved {
        space.slot_mut(slot).moved_seq = moved_seq;
    }
    let by_footers = recovery.image.is_none() && recovery.checkpoint.is_some();
    if by_footers {
        space.free_dead();
    }
    let headers = recovery.headers.iter().map(|(&slot, header)| (header.seg_seq, slot));
    let visited = recovery.visited.iter().filter_map(|(&slot, v)| Some((v.seg_seq?, slot)));
    let newest = headers.chain(visited).max();
    let next = recovery.image.as_ref().map_or(1, |image| image.next_seg_seq);
    // What a cut tore got a footer that says that nothing is there. Its number is never given out
    // again, also when the header of the next use is torn that took the place of its own.
    let footers = recovery.visited.values().map(|visited| visited.footer_seq).max();
    let next = next.max(footers.map_or(0, |seg_seq| seg_seq + 1));
    space.next_seg_seq = newest.map_or(next, |(seg_seq, _)| next.max(seg_seq + 1));
    space.resume(last_used(recovery, &space));
    space
}

impl Recovery {
    /// Whether something that was acknowledged may have stood in a slot.
    fn is_damaged(&self, visited: &Visited) -> bool {
        let acknowledged = |group: &Candidate| self.verdict.was_acknowledged(&group.header);
        visited.unread || visited.harmed.iter().any(acknowledged)
    }

    /// The slots in which nothing counts because a cut tore it, as they are from now on. They are
    /// used again first, and often for the same batches at the same places: what is cut then could
    /// make whole again what was torn before.
    pub(super) fn torn_slots(&self) -> impl Iterator<Item = (u32, SlotIndex)> {
        let known = self.image.iter().flat_map(|image| image.slots.keys());
        let pinned = self.checkpoint.iter().flat_map(|checkpoint| &checkpoint.slots);
        let counted = self.indexes.iter().map(|(slot, _)| slot).chain(known).chain(pinned);
        let counted: BTreeSet<u32> = counted.copied().collect();
        self.visited.iter().filter_map(move |(slot, visited)| {
            let header = self.headers.get(slot)?;
            let torn = !counted.contains(slot) && !self.is_damaged(visited);
            torn.then(|| (*slot, SlotIndex::new(header.lane, header.seg_seq)))
        })
    }
}

/// The slot that was opened last of those that hold something, or did before they were damaged.
/// What was opened later holds only what a cut tore, and is used again first: else the starts of a
/// crash loop would each add slots that all later ones have to look into.
fn last_used(recovery: &Recovery, space: &Space) -> Option<u32> {
    let is_damaged =
        |slot| recovery.visited.get(&slot).is_some_and(|visited| recovery.is_damaged(visited));
    let headers = recovery.headers.iter().map(|(&slot, header)| (header.seg_seq, slot));
    let visited = recovery.visited.iter().filter_map(|(&slot, v)| Some((v.seg_seq?, slot)));
    let is_used = |slot: u32| space.slot(slot).state != State::Free || is_damaged(slot);
    let used = headers.chain(visited).filter(|&(_, slot)| is_used(slot));
    used.max().map(|(_, slot)| slot)
}

fn writer_of(recovery: &Recovery) -> Writer {
    let groups = || recovery.visited.values().flat_map(|visited| &visited.groups);
    let boot_epoch = groups()
        .map(|group| group.header.boot_epoch)
        .chain(recovery.headers.values().map(|header| header.boot_epoch))
        .chain(recovery.image.iter().map(|image| image.boot_epoch))
        .max();
    let indexes = recovery.indexes.iter().map(|(_, index)| index);
    let sealed_seq = indexes.clone().map(|index| index.last_seq).max().unwrap_or(0);
    let last_seq = recovery.verdict.last_seq.max(sealed_seq);
    let seen = match recovery.unguarded.no_boot_epoch {
        true => last_seq,
        false => groups().map(|group| group.header.group_seq).fold(last_seq, u64::max),
    };
    // What was acknowledged and is gone keeps its number.
    let next_group_seq = seen.max(recovery.verdict.durable_seq) + 1;
    let mut writer = Writer {
        boot_epoch: boot_epoch.map_or(1, |epoch| epoch + 1),
        epoch_base: last_seq,
        epoch_first: next_group_seq,
        next_group_seq,
        durable_seq: last_seq,
        ..Writer::default()
    };
    if let Some(image) = &recovery.image {
        for (lane, tail) in writer.lanes.iter_mut().zip(image.lanes) {
            lane.tail = tail;
        }
    }
    // Where no group counts, there is none to go on from.
    for index in indexes.filter(|index| index.first_seq > 0) {
        let tail = &mut writer.lanes[usize::from(index.lane)].tail;
        if index.last_seq > tail.group_seq {
            *tail = tail_of(index);
        }
    }
    writer
}

fn tail_of(index: &SlotIndex) -> LaneTail {
    LaneTail { group_seq: index.last_seq, group_crc: index.last_crc, seg_seq: index.seg_seq }
}
