//! What is expired: by `retention.ms`, by `retention.bytes`, and when the disk budget runs out.
//!
//! Granularity. In sealed slots a partition's data goes a slot at a time, by its largest timestamp,
//! which stands in memory. In the slot that is still open it goes by extents, but only when a
//! record is older than `retention.ms` by an eighth, so that a quiet topic does not cost a frame
//! for each record. Where a partition has gone on in another lane since, its old slot counts as
//! sealed. A record thus outlives its time by an eighth of it while its slot is open; in a
//! slot that was sealed since, until the newest record of its partition there expires, at most
//! `retention.ms` more.
//!
//! On flash. What has expired costs no commit of its own: it is said with the next one, whatever
//! that is for, and among the records of its lane, where it mostly takes what would be padding. A
//! start before that finds the records, and expires them again. Only when slots are short it is
//! said at once, because they are not free before; and what somebody deleted is, because he was
//! told.
//!
//! The clock. A Raspberry Pi has no battery clock, and a wall clock that jumps ahead would expire
//! everything at once. So retention keeps a clock of its own: it begins at the newest record on
//! flash, never is ahead of the wall clock, runs at most [`CATCH_UP`] times as fast as the
//! monotonic clock, and stands still while the wall clock is not trusted. A gateway that was off
//! for a month catches up in half a day; a clock that is wrong by a year for a minute costs at most
//! an hour of the oldest records. A jump back is followed at once: it keeps records longer. Jumps
//! either way are said aloud and counted. Whether the clock jumped while the gateway was off,
//! nobody knows: that it is ahead of the records then is said, and not counted.

use super::layout::frame::Kind;
use super::partition::Partition;
use super::space::State;
use super::writer::Pending;
use super::{Event, Lane, Log, Phase, cleaner};
use crate::types::{Offset, PartitionNumber, Time, WallTime};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// How much faster than time itself retention's clock may run.
const CATCH_UP: i64 = 60;
/// What the wall clock may be away from where it should be before it is called a jump, in
/// milliseconds.
const JUMP_MS: i64 = 10 * 60 * 1000;

#[derive(Debug, Default)]
pub(crate) struct Keeper {
    reading: Option<Reading>,
    /// What was expired by last: the clock, or `None` when it was not trusted.
    went_by: Option<i64>,
    /// A policy has changed.
    wanted: bool,
    /// Partitions of which something has expired that no frame says yet.
    expired: BTreeSet<PartitionNumber>,
    /// The next `seg_seq` when slots were short and retention was applied for it.
    short_at: u64,
}

/// What the clocks showed last.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Time,
    /// Retention's.
    clock: i64,
    /// The wall's; where it should be, while it is not trusted.
    wall: i64,
}

impl Reading {
    fn elapsed_ms(&self, now: Time) -> i64 {
        i64::try_from(now.since(self.at).0 / 1_000_000).unwrap_or(i64::MAX)
    }
}

impl Keeper {
    /// The time that retention goes by, and whether the wall clock jumped; `newest` is the newest
    /// record's on flash.
    fn advance(&mut self, now: Time, wall: WallTime, newest: i64) -> (i64, bool) {
        let WallTime(wall) = wall;
        let (clock, leap_ms) = match self.reading {
            None if newest >= 0 => (newest.min(wall), 0),
            None => (wall, 0),
            Some(last) => {
                let elapsed_ms = last.elapsed_ms(now);
                let step_ms = elapsed_ms.saturating_mul(CATCH_UP);
                let due = last.wall.saturating_add(elapsed_ms);
                (last.clock.saturating_add(step_ms).min(wall), wall.saturating_sub(due))
            }
        };
        let behind_ms = wall.saturating_sub(clock);
        if leap_ms < -JUMP_MS {
            log::warn!(
                "the wall clock went back by {} minutes: records expire by what it shows now, \
                 later rather than too early; if it is wrong, set it (NTP)",
                leap_ms.saturating_neg() / 60_000
            );
        } else if leap_ms > JUMP_MS || self.reading.is_none() && behind_ms > JUMP_MS {
            log::warn!(
                "the wall clock is {} minutes ahead of the log: until that has caught up, records \
                 expire at most {CATCH_UP} times as fast as time goes by; if the clock is wrong, \
                 set it (NTP) soon",
                behind_ms / 60_000
            );
        }
        self.reading = Some(Reading { at: now, clock, wall });
        (clock, leap_ms.saturating_abs() > JUMP_MS)
    }

    /// The wall clock is not trusted: time that passes meanwhile is not caught up on at once.
    fn stand_still(&mut self, now: Time) {
        if let Some(last) = &mut self.reading {
            last.wall = last.wall.saturating_add(last.elapsed_ms(now));
            last.at = now;
        }
    }
}

impl Keeper {
    /// Asks for a look at what policies let go, without waiting for the owner's next one; but not
    /// before its first, which tells the time.
    pub(crate) fn look_again(&mut self) {
        self.wanted = self.reading.is_some();
    }

    /// Retention's clock as it was set last.
    pub(crate) fn clock(&self) -> Option<i64> {
        self.reading.map(|last| last.clock)
    }
}

impl Log {
    pub(crate) fn expire_partitions(&mut self, now: Time, wall: Option<WallTime>) {
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        let newest = self.partitions.values().map(|partition| partition.max_timestamp).max();
        let clock = wall.map(|wall| {
            let (clock, jumped) = self.keeper.advance(now, wall, newest.unwrap_or(-1));
            self.stats.clock_jumps += u64::from(jumped);
            self.cleaner.observe(self.disk.written_bytes, clock);
            clock
        });
        if clock.is_none() {
            self.keeper.stand_still(now);
        }
        self.keeper.went_by = clock;
        self.apply_policies(now);
    }

    /// Looks at all partitions when a policy has changed: a topic that is compacted from now on, or
    /// keeps less, does not wait.
    pub(crate) fn follow_policies(&mut self, now: Time) {
        if core::mem::take(&mut self.keeper.wanted) && matches!(self.phase, Phase::Running) {
            self.apply_policies(now);
        }
    }

    /// Each time that a slot was opened while slots are short, retention is applied: a small disk
    /// budget is filled within seconds.
    pub(crate) fn expire_when_short(&mut self, now: Time) {
        let opened = self.space.next_seg_seq;
        if self.space.free() <= self.space.low() && self.keeper.short_at != opened {
            self.keeper.short_at = opened;
            self.apply_retention(now);
        }
    }

    fn apply_policies(&mut self, now: Time) {
        self.apply_retention(now);
        self.cleaner.look_again();
        self.relieve_pressure(now);
        self.begin_compaction();
    }

    fn apply_retention(&mut self, now: Time) {
        let numbers: Vec<PartitionNumber> = self.partitions.keys().copied().collect();
        for number in numbers {
            if let Some(log_start) = self.retention_point(number, self.keeper.went_by) {
                self.expire_to(now, number, log_start);
            }
        }
    }

    /// The first offset that retention keeps, if that is beyond the log start.
    fn retention_point(&self, number: PartitionNumber, clock: Option<i64>) -> Option<Offset> {
        let partition = self.partitions.get(&number)?;
        let retention = partition.policy.retention;
        let oldest = clock.filter(|_| retention.ms >= 0).map(|c| c.saturating_sub(retention.ms));
        let bytes_max = u64::try_from(retention.bytes).ok();
        if oldest.is_none() && bytes_max.is_none() {
            return None;
        }
        let mut bytes = partition.bytes;
        let mut log_start = partition.log_start;
        for (index, run) in partition.runs.iter().enumerate() {
            let too_old = oldest.is_some_and(|oldest| run.max_timestamp < oldest);
            let too_much = bytes_max.is_some_and(|max| bytes - u64::from(run.bytes) >= max);
            if !too_old && !too_much {
                let slack = retention.ms / 8;
                let overdue = oldest.map(|oldest| oldest.saturating_sub(slack));
                let kept = self.kept_in_open(number, partition, index, overdue, bytes);
                log_start = log_start.max(kept);
                break;
            }
            bytes -= u64::from(run.bytes);
            log_start = log_start.max(partition.run_end(index));
        }
        let log_start = log_start.min(partition.final_end());
        (log_start > partition.log_start).then_some(log_start)
    }

    /// The first offset that is kept of the last run, if its slot is still open. What was moved to
    /// such a slot goes as in a sealed one.
    fn kept_in_open(
        &self,
        number: PartitionNumber,
        partition: &Partition,
        index: usize,
        overdue: Option<i64>,
        mut bytes: u64,
    ) -> Offset {
        let run = partition.runs.at(index);
        let mut open = self.writer.lanes.iter().filter_map(|lane| lane.open.as_ref());
        let open = open.find(|open| open.slot == run.slot);
        let part = open.and_then(|open| open.index.parts.get(&number));
        let last = index + 1 == partition.runs.len();
        let Some(part) = part.filter(|_| last) else { return partition.log_start };
        // By offset: what a start carried over may stand behind what was appended since.
        let appended = || {
            let mut next = run.base_offset;
            core::iter::from_fn(move || {
                if next >= partition.log_end {
                    return None;
                }
                let (found, end) = part.extent_at(next, u32::MAX)?;
                next = end;
                Some((part.extents.at(found), end))
            })
        };
        let bytes_max = u64::try_from(partition.policy.retention.bytes).ok();
        let dead = appended().take_while(|&(_, end)| end <= partition.log_start);
        let dead: u64 = dead.map(|(extent, _)| u64::from(extent.bytes)).sum();
        let live = bytes.saturating_sub(dead);
        let mut dropping = bytes_max.is_some_and(|max| live > max + max / 8);
        let mut kept = partition.log_start;
        for (extent, end) in appended() {
            if end > partition.log_start {
                let too_old = overdue.is_some_and(|overdue| extent.max_timestamp < overdue);
                dropping &= bytes_max
                    .is_some_and(|max| bytes.saturating_sub(u64::from(extent.bytes)) >= max);
                if !too_old && !dropping {
                    break;
                }
                kept = end;
            }
            bytes = bytes.saturating_sub(u64::from(extent.bytes));
        }
        kept
    }

    fn expire_to(&mut self, now: Time, number: PartitionNumber, log_start: Offset) {
        self.events.push_back(Event::Trimmed { partition: number, log_start });
        if self.unguarded.no_log_starts {
            return self.move_log_start(now, number, log_start);
        }
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        partition.set_log_start(log_start);
        self.keeper.expired.insert(number);
        if self.space.free() <= self.space.low() {
            self.writer.wake(now);
        }
    }

    /// A commit is closed: logs with it what has expired, in the group of the partition's lane if
    /// there is one and it has room, else in the meta lane.
    pub(crate) fn log_expired(&mut self, now: Time) {
        for number in core::mem::take(&mut self.keeper.expired) {
            let Some(partition) = self.partitions.get(&number) else { continue };
            let (lane, log_start) = (partition.lane, partition.log_start);
            if log_start > partition.log_start_durable {
                let has_room = self.writer.lanes[lane as usize].has_room_for_mark(&self.geometry);
                let lane = if has_room { lane } else { Lane::Meta };
                self.writer.push(now, lane, Pending::mark(Kind::LogStart, number, log_start));
            }
        }
    }

    /// Logs a new log start, in the meta lane: after a start the lanes of data have no open slot,
    /// and on a full disk one for each would be taken from the reserve. What lies below is durable
    /// already, so the order of lanes in a commit does not matter.
    pub(crate) fn move_log_start(&mut self, now: Time, number: PartitionNumber, log_start: Offset) {
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        partition.set_log_start(log_start);
        if self.unguarded.no_log_starts {
            return self.believe_log_start(number);
        }
        self.writer.push(now, Lane::Meta, Pending::mark(Kind::LogStart, number, log_start));
    }

    /// A bug that the simulation must find: the log start counts though nothing on flash says so.
    fn believe_log_start(&mut self, number: PartitionNumber) {
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        partition.log_start_durable = partition.log_start;
        for slot in partition.drop_dead_runs() {
            self.space.drop_run(slot);
        }
        self.sweep();
    }

    /// When slots are short: cleans, and where that finds nothing, expires what partitions that let
    /// it go have in the oldest slot. One slot at a time, and the next only when what was expired
    /// before is free or cannot become so.
    pub(crate) fn relieve_pressure(&mut self, now: Time) {
        self.note_pressure();
        if self.clean(None) {
            return;
        }
        self.gather(now);
        let short = self.space.free() + self.space.dead <= self.space.pressure();
        if !short || self.checkpointer.is_busy() {
            return;
        }
        let waits = |partition: &Partition| partition.log_start != partition.log_start_durable;
        if self.partitions.values().any(waits) {
            return;
        }
        if !self.expire_oldest(now) {
            self.clean(Some(cleaner::LAST));
        }
    }

    /// Expires what partitions that yield have in the oldest slot; whether there was anything.
    fn expire_oldest(&mut self, now: Time) -> bool {
        let yielding = self.partitions.iter().filter_map(|(&number, partition)| {
            let run =
                partition.runs.front().filter(|_| partition.policy.retention.yields_to_pressure)?;
            let slot = self.space.slot(run.slot);
            let goes = slot.state == State::Sealed && partition.run_end(0) <= partition.final_end();
            goes.then(|| (slot.seg_seq, number, partition.run_end(0)))
        });
        let mut yielding: Vec<(u64, PartitionNumber, Offset)> = yielding.collect();
        let Some(oldest) = yielding.iter().map(|&(seg_seq, ..)| seg_seq).min() else {
            return false;
        };
        yielding.retain(|&(seg_seq, ..)| seg_seq == oldest);
        for (_, number, log_start) in yielding {
            let before = self.partitions[&number].log_start;
            self.stats.expired_early_records += (log_start.0 - before.0) as u64;
            self.expire_to(now, number, log_start);
        }
        true
    }
}
