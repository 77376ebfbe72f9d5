//! Key compaction: which partition's turn it is, and the steps of a job.
//!
//! One partition at a time, the dirtiest first: when `min.cleanable.dirty.ratio` of its bytes were
//! never compacted (and [`DIRTY_BYTES_MIN`] at least), or its oldest such record has waited for
//! `max.compaction.lag.ms`. A turn looks at 256 KiB or at one batch, and after 256 KiB of frames
//! the job waits until they are durable: so commits of others are hardly longer, and whatever a cut
//! leaves is the compacted begin of a partition that is otherwise as it was.
//!
//! Where time counts (lags, tombstones), it is retention's: without a trusted clock no tombstone
//! goes. How far a partition is compacted stands in the checkpoint only; what a cut makes the log
//! forget is looked at again, and what is compacted already is not written again.

mod job;
mod map;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use crate::limits::UNPACKED_BYTES_MAX;
use crate::log::disk::Purpose;
use crate::log::partition::Partition;
use crate::log::{
    Answer, Batches, Compaction, FetchError, FetchSpec, IoResult, Log, Phase, Ticket,
};
use crate::types::{Nanos, Offset, PartitionNumber, Time};
use alloc::boxed::Box;
use job::{Job, TURN_BYTES, Tally, Want};
use map::OffsetMap;

/// Less is not worth the flushes.
const DIRTY_BYTES_MIN: u64 = 64 << 10;

/// So much that is new in compacted partitions is worth a look at them between the owner's.
const FRESH_BYTES: u64 = 1 << 20;

/// Between two turns others have theirs.
const PAUSE: Nanos = Nanos(2_000_000);

#[derive(Debug, Default)]
pub(crate) struct Compactor {
    job: Option<Box<Job>>,
    waits: Waits,
    /// The clock at the begin of the job, and the partition's end.
    began: Option<i64>,
    began_end: Offset,
    /// Bytes of batches that compacted partitions got since they were looked at.
    pub fresh_bytes: u64,
}

/// What the job waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Waits {
    #[default]
    Nothing,
    /// Its next turn.
    Turn(Time),
    Read(Ticket),
    Codec,
    /// What it wrote to be durable.
    Flush(Ticket),
}

/// At once.
const NOW: Waits = Waits::Turn(Time(0));

impl Compactor {
    pub(crate) fn awaits(&self, ticket: Ticket) -> bool {
        self.waits == Waits::Read(ticket) || self.waits == Waits::Flush(ticket)
    }

    /// A partition was truncated: a job that has looked there is given up.
    pub(crate) fn truncated(&mut self, number: PartitionNumber, from: Offset) {
        if let Some(job) = self.job.as_mut().filter(|job| job.number == number)
            && job.end() > from
        {
            job.give_up();
            self.began_end = Offset(-1);
        }
    }
}

impl Log {
    /// When the next turn is due.
    pub(crate) fn compaction_due(&self) -> Option<Time> {
        match self.compactor.waits {
            Waits::Turn(at) if !self.winding_down => Some(at),
            _ => None,
        }
    }

    /// Looks for something to compact when there is enough that is new.
    pub(crate) fn compact_when_dirty(&mut self) {
        if self.compactor.fresh_bytes >= FRESH_BYTES && self.keeper.clock().is_some() {
            self.begin_compaction();
        }
    }

    /// Begins to compact the partition that needs it most.
    pub(crate) fn begin_compaction(&mut self) {
        if let Some(job) = &self.compactor.job
            && matches!(self.compactor.waits, Waits::Flush(_))
            && !self.moves.is_rewriting(job.number)
        {
            // The partition was deleted, and what it waited for with it.
            self.compactor.job = None;
        }
        let room = self.has_room_to_move() && !self.is_index_full();
        if self.compactor.job.is_some() || self.winding_down || !room {
            return;
        }
        self.compactor.fresh_bytes = 0;
        let clock = self.keeper.clock();
        for partition in self.partitions.values_mut() {
            let dirty = partition.policy.cleanup.compact.is_some()
                && partition.cleaned < partition.final_end();
            partition.dirty_since = partition.dirty_since.or(clock).filter(|_| dirty);
        }
        let need = |(&number, partition): (&PartitionNumber, &Partition)| {
            let settings = partition.policy.cleanup.compact?;
            Some((partition.dirt(&settings, clock)?, number, settings))
        };
        let dirtiest = self.partitions.iter().filter_map(need).max_by_key(|(dirt, ..)| *dirt);
        let Some((_, number, settings)) = dirtiest else { return };
        let partition = &self.partitions[&number];
        let dirty = partition.first_dirty();
        let map = OffsetMap::new(&self.geometry.store);
        log::debug!("partition {}: compaction begins, dirty from {dirty}", number.0);
        self.compactor = Compactor {
            job: Some(Box::new(Job::new(number, partition, settings, map, clock))),
            waits: NOW,
            began: clock,
            began_end: partition.final_end(),
            fresh_bytes: 0,
        };
    }

    /// The next turn, if it is due.
    pub(crate) fn compact(&mut self, now: Time) {
        let due = self.compaction_due().is_some_and(|at| at <= now);
        if !due || !matches!(self.phase, Phase::Running) {
            return;
        }
        self.compactor.waits = Waits::Nothing;
        let Some(mut job) = self.compactor.job.take() else { return };
        let number = job.number;
        loop {
            let known = self.partitions.get(&number);
            let Some(partition) = known.filter(|p| p.policy.cleanup.compact.is_some()) else {
                return;
            };
            let want = job.next(partition);
            self.tally(&mut job);
            let waits = match want {
                Want::Read(from, end) => match self.read_for(number, from, end) {
                    Ok(Answer::Now(batches)) => {
                        job.feed(batches);
                        continue;
                    }
                    Ok(Answer::Later(ticket)) => Waits::Read(ticket),
                    Err(error) => match take_error(&mut job, error) {
                        true => continue,
                        false => return,
                    },
                },
                Want::Unpack(batch) => {
                    self.disk.unpack(Purpose::Compaction, batch, UNPACKED_BYTES_MAX);
                    Waits::Codec
                }
                Want::Pack(batch, codec) => {
                    self.disk.pack(Purpose::Compaction, batch, codec);
                    Waits::Codec
                }
                Want::Write(replacements) => match self.replace(now, number, replacements) {
                    Ok(ticket) => Waits::Flush(ticket),
                    Err(error) => {
                        return log::warn!("partition {}: not compacted: {error:?}", number.0);
                    }
                },
                Want::Turn => Waits::Turn(now + PAUSE),
                Want::End => return self.end_compaction(&job),
            };
            self.compactor.waits = waits;
            self.compactor.job = Some(job);
            return;
        }
    }

    fn tally(&mut self, job: &mut Job) {
        let stats = &mut self.stats.compaction;
        let Tally { read_bytes, removed_records } = core::mem::take(&mut job.tally);
        stats.read_bytes += read_bytes;
        stats.removed_records += removed_records;
        (stats.map_keys, stats.map_keys_max) = job.map_keys();
    }

    fn read_for(
        &mut self,
        partition: PartitionNumber,
        from: Offset,
        end: Offset,
    ) -> Result<Answer<Batches>, FetchError> {
        let bytes_max = TURN_BYTES;
        self.fetch(FetchSpec { partition, from, end, bytes_max, at_least_one: true })
    }

    /// What the job asked to be read is there.
    pub(crate) fn compaction_read(&mut self, result: Result<Batches, FetchError>) {
        let Some(job) = &mut self.compactor.job else { return };
        let goes_on = match result {
            Ok(batches) => {
                job.feed(batches);
                true
            }
            Err(error) => take_error(job, error),
        };
        self.compactor.waits = NOW;
        if !goes_on {
            self.compactor.job = None;
        }
    }

    pub(crate) fn compaction_repacked(&mut self, result: IoResult) {
        let Some(job) = &mut self.compactor.job else { return };
        job.repacked(match result {
            IoResult::Read(batch) => Some(batch),
            _ => None,
        });
        self.compactor.waits = NOW;
    }

    /// What the job wrote is durable.
    pub(crate) fn compaction_written(&mut self) {
        self.compactor.waits = NOW;
    }

    fn end_compaction(&mut self, job: &Job) {
        let Compactor { began, began_end, .. } = self.compactor;
        let Some(partition) = self.partitions.get_mut(&job.number) else { return };
        let progress = job.end() > partition.cleaned;
        partition.cleaned = partition.cleaned.max(job.end());
        partition.dirty_since = began;
        log::debug!("partition {}: compacted up to {}", job.number.0, partition.cleaned);
        if progress {
            self.stats.compaction.jobs += 1;
            // Its map may not have held all, and others may be dirty as well.
            self.begin_compaction();
        } else {
            partition.fruitless_end = Some(began_end);
        }
    }
}

/// Whether the job goes on in spite of it.
fn take_error(job: &mut Job, error: FetchError) -> bool {
    match error {
        FetchError::Damaged { until } => job.skip(until),
        // The log start has moved on; the job looks for it.
        FetchError::OutOfRange => {}
        FetchError::UnknownPartition | FetchError::Device => return false,
    }
    true
}

impl Partition {
    /// The first offset that was never compacted.
    fn first_dirty(&self) -> Offset {
        self.cleaned.max(self.log_start)
    }

    /// How dirty it is, in thousandths of its bytes, if it is to be compacted.
    fn dirt(&self, settings: &Compaction, clock: Option<i64>) -> Option<u64> {
        if self.fruitless_end == Some(self.final_end()) && settings.min_lag_ms == 0 {
            return None;
        }
        let dirty = self.first_dirty();
        let young = |timestamp: i64| match clock {
            _ if settings.min_lag_ms == 0 => false,
            Some(clock) => timestamp > clock.saturating_sub(settings.min_lag_ms),
            None => true,
        };
        let (mut dirty_bytes, mut bytes) = (0, 0);
        for (index, run) in self.runs.iter().enumerate() {
            let end = self.run_end(index);
            bytes += u64::from(run.live_bytes(end, self.log_start));
            if !young(run.max_timestamp) {
                dirty_bytes += u64::from(run.live_bytes(end, dirty));
            }
        }
        let ratio = (dirty_bytes * 1000).checked_div(bytes)?;
        let enough =
            dirty_bytes >= DIRTY_BYTES_MIN && ratio >= u64::from(settings.dirty_ratio_per_mille);
        let waited = self
            .dirty_since
            .zip(clock)
            .is_some_and(|(since, clock)| clock.saturating_sub(since) >= settings.max_lag_ms);
        (dirty_bytes > 0 && (enough || waited)).then_some(ratio)
    }
}
