//! The scrub: reads everything that counts, a slot after the other, and finds what rots before
//! somebody needs it.
//!
//! | state | event | next state |
//! |---|---|---|
//! | Resting | its time has come | Reading, the header of the next slot that counts |
//! | Reading | header, footer, a piece of the groups is there | Between |
//! | Reading | the last piece is there | Resting; what is damaged is said and quarantined |
//! | Between | its time has come | Reading, the next piece |
//! | Reading, Between | the slot was used anew | Resting |
//!
//! One read at a time, at most 1 MiB but for a larger group, from the medium itself and not from a
//! cache. The pace is even: what counts, spread over the time that a pass may take, and never more
//! than [`BYTES_PER_SECOND_MAX`]. So there is no burst, and a gateway that is switched off each
//! night gets on, if its owner keeps `ScrubStats::slot`.
//!
//! Which offsets are lost follows from the slot's footer, which says where each partition's batches
//! stand, less the batches in the damaged groups that are whole. They go into the partition's list
//! of damage, which a checkpoint keeps: readers get a definite answer from then on. A header or
//! footer that is bad is written anew, from what the groups say. What the device cannot read is
//! said, but quarantined only if that is wanted: a card may find the bytes again.

use super::layout::footer::SlotIndex;
use super::space::State as SlotState;
use super::verify::{Next, Verify};
use super::{Event, IoResult, Log, Phase, Purpose};
use crate::types::{Nanos, Offset, PartitionNumber, Time};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// What the scrub reads a second at most: a fifth of what a slow card gives.
const BYTES_PER_SECOND_MAX: u64 = 4 << 20;
/// What one step reads, about.
const STEP_BYTES: u64 = 1 << 20;

/// How the scrub works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubPlan {
    /// How long one pass over everything takes; 0 is as fast as it goes, for tools.
    pub pass: Nanos,
    /// The slot to begin with.
    pub slot: u32,
    /// Quarantine what the device cannot read, too.
    pub quarantine_unreadable: bool,
}

/// How far the scrub is.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct ScrubStats {
    pub passes: u64,
    /// The slot that comes next.
    pub slot: u32,
    pub slots: u64,
    pub groups: u64,
    pub bytes: u64,
    /// Places that were found damaged.
    pub damages: u64,
    /// Offsets that were lost with them.
    pub lost_offsets: u64,
    /// Slots of which the device could not read something.
    pub unreadable: u64,
}

/// Damage that was not known before.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    pub slot: u32,
    /// Where in the slot, and how many bytes.
    pub at: u32,
    pub bytes: u32,
    pub what: Part,
    /// The first and the last commit group (`group_seq`) that it may be in, as the footer lists
    /// them. Without a footer all that were written between the whole ones around it: those of
    /// other lanes stand elsewhere.
    pub groups: Option<(u64, u64)>,
    /// The device could not read it.
    pub unreadable: bool,
    /// Partition, first offset that is lost, and the first that is not.
    pub lost: Vec<(u32, i64, i64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Header,
    Groups,
    Footer,
    /// Groups of the slot that the next start would read first.
    Checkpoint,
}

impl core::fmt::Display for Damage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let what = match self.what {
            Part::Header => "its header",
            Part::Groups => "commit groups",
            Part::Footer => "its footer",
            Part::Checkpoint => "a checkpoint in commit groups",
        };
        let how = if self.unreadable { "cannot be read" } else { "is damaged" };
        write!(f, "slot {}, byte {}: {what}", self.slot, self.at)?;
        if let Some((first, last)) = self.groups {
            write!(f, " {first} to {last}")?;
        }
        write!(f, ", {} bytes, {how}", self.bytes)?;
        let mut lost = String::new();
        for (partition, from, until) in &self.lost {
            write!(lost, "; partition {partition}, offsets {from} to {}", until - 1)?;
        }
        match (self.lost.is_empty(), self.what) {
            (true, _) => f.write_str("; nothing that counts is lost"),
            (false, _) => write!(f, "; lost{}", &lost[1..]),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Scrub {
    plan: Option<ScrubPlan>,
    due: Time,
    work: Option<Verify>,
    reading: bool,
    pub stats: ScrubStats,
}

impl Log {
    /// Begins to scrub, or ends it.
    pub fn set_scrub(&mut self, now: Time, plan: Option<ScrubPlan>) {
        self.scrub.plan = plan;
        self.scrub.stats.slot = plan.map_or(0, |plan| plan.slot);
        self.scrub.due = now + self.scrub_pause();
    }

    /// When the next step is due, if nothing is being read for it.
    pub(crate) fn scrub_due(&self) -> Option<Time> {
        let Scrub { plan, due, reading, .. } = &self.scrub;
        (plan.is_some() && !reading && matches!(self.phase, Phase::Running)).then_some(*due)
    }

    /// How long to wait between two reads.
    fn scrub_pause(&self) -> Nanos {
        let Some(plan) = self.scrub.plan else { return Nanos(0) };
        let used = u64::from(self.space.count() - self.space.free());
        let slot_bytes = u64::from(self.geometry.slot_bytes);
        // Header and footer are a read each.
        let steps = used.max(1) * (2 + slot_bytes.div_ceil(STEP_BYTES));
        let least = match plan.pass {
            Nanos(0) => 0,
            _ => STEP_BYTES.min(slot_bytes) * 1_000_000_000 / BYTES_PER_SECOND_MAX,
        };
        Nanos((plan.pass.0 / steps).max(least))
    }

    /// Asks for the next read.
    pub(crate) fn scrub_step(&mut self) {
        if self.scrub.work.as_ref().is_some_and(|work| !self.counts(work.slot, work.seg_seq)) {
            self.scrub.work = None;
        }
        if self.scrub.work.is_none() {
            self.scrub.work = self.next_to_scrub();
        }
        let Some(work) = &self.scrub.work else { return };
        let (at, len) = work.wants();
        let at = self.geometry.place(work.slot, at);
        self.scrub.reading = true;
        self.disk.read(Purpose::Scrub, at, len);
    }

    pub(crate) fn run_scrub(&mut self, now: Time) {
        if self.scrub_due().is_some_and(|due| due <= now) {
            self.scrub.due = now + self.scrub_pause();
            self.scrub_step();
        }
    }

    /// What an open slot holds; `None` while something is being written.
    fn open_index(&self, slot: u32) -> Option<&SlotIndex> {
        let open = self.writer.lanes.iter().filter_map(|lane| lane.open.as_ref());
        let open = open.map(|open| (open.slot, &open.index));
        let index = open.into_iter().find(|(number, _)| *number == slot)?.1;
        (self.commit.is_none() && index.first_seq > 0).then_some(index)
    }

    /// Whether a slot is in that use, what says what is in it is at hand, and something needs it.
    fn counts(&self, number: u32, seg_seq: u64) -> bool {
        let slot = self.space.slot(number);
        let in_flight = self.commit.iter().flat_map(|commit| &commit.sealed);
        let unwritten = self.writer.sealed.iter().chain(in_flight).any(|(n, _)| *n == number);
        let needed = slot.runs > 0
            || self.space.pinned.contains(&number)
            || slot.last_seq > self.checkpointer.as_of();
        let known = match slot.state {
            SlotState::Sealed => !unwritten,
            SlotState::Open => true,
            SlotState::Free | SlotState::Abandoned => false,
        };
        slot.seg_seq == seg_seq && known && needed
    }

    /// The next slot that counts. Behind the last one a pass is over, and nothing is begun.
    fn next_to_scrub(&mut self) -> Option<Verify> {
        let from = self.scrub.stats.slot;
        let next = (from..self.space.count()).find(|&number| {
            let slot = self.space.slot(number);
            let readable = slot.state != SlotState::Open || self.open_index(number).is_some();
            readable && self.counts(number, slot.seg_seq)
        });
        let Some(slot) = next else {
            self.scrub.stats.slot = 0;
            self.scrub.stats.passes += 1;
            return None;
        };
        self.scrub.stats.slot = slot + 1;
        let seg_seq = self.space.slot(slot).seg_seq;
        Some(match self.open_index(slot) {
            Some(index) => Verify::open(&self.geometry, slot, index.clone()),
            None => Verify::new(&self.geometry, slot, seg_seq),
        })
    }

    pub(crate) fn scrubbed(&mut self, now: Time, result: IoResult, unread: bool) {
        self.scrub.reading = false;
        let Some(mut work) = self.scrub.work.take() else { return };
        if !self.counts(work.slot, work.seg_seq) {
            return;
        }
        let bytes = match result {
            IoResult::Read(bytes) => Some(bytes),
            _ => None,
        };
        self.scrub.stats.bytes += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        work.unreadable |= unread;
        match work.feed(&self.geometry, &self.partitions, bytes) {
            Next::Read => self.scrub.work = Some(work),
            Next::Done => self.judge_slot(now, work),
        }
    }

    /// Everything of a slot was read: says what is damaged, and makes it definite.
    fn judge_slot(&mut self, now: Time, work: Verify) {
        self.scrub.stats.slots += 1;
        self.scrub.stats.groups += work.groups;
        self.scrub.stats.unreadable += u64::from(work.unreadable);
        let slot = *self.space.slot(work.slot);
        let pinned = self.space.pinned.contains(&work.slot);
        let mut damages = work.damages(&self.partitions, slot.last_seq);
        for damage in &mut damages {
            if damage.what == Part::Groups && damage.lost.is_empty() && pinned {
                damage.what = Part::Checkpoint;
            }
        }
        // Groups whose every record is whole, known, or not needed any more are no news.
        damages.retain(|damage| damage.what != Part::Groups || !damage.lost.is_empty());
        if damages.is_empty() {
            return;
        }
        let plan = self.scrub.plan.filter(|plan| plan.quarantine_unreadable);
        let repairs = plan.is_some() || !work.unreadable;
        for damage in damages {
            log::error!("{damage}");
            self.scrub.stats.damages += 1;
            if repairs {
                for &(number, from, until) in &damage.lost {
                    self.quarantine(PartitionNumber(number), Offset(from), Offset(until));
                }
            }
            self.events.push_back(Event::Damage(damage));
        }
        if repairs {
            self.mend(work, slot.lane);
            self.checkpoint(now);
        }
    }

    /// Readers of these offsets are told that they are lost.
    fn quarantine(&mut self, number: PartitionNumber, from: Offset, until: Offset) {
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        partition.quarantine(from, until);
        self.scrub.stats.lost_offsets += (until.0 - from.0) as u64;
    }

    /// Writes header and footer anew where they were bad, with the next commit.
    fn mend(&mut self, work: Verify, lane: u8) {
        let slot = work.slot;
        if let Some(header) = work.header(lane) {
            self.writer.headers.push(header);
        }
        if let Some(index) = work.rebuilt(lane) {
            self.footers.insert(slot, index.clone());
            self.writer.sealed.push((slot, index));
        }
    }
}
