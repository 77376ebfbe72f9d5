//! The flash log: one sequential stream in which everything that must survive stands.
//!
//! [`Log`] is a value: it asks for disk operations with [`Log::poll_io`], learns of their end by
//! [`Log::done`], and tells what came of them with [`Log::poll_event`]. The driver performs writes,
//! flushes and zeroing in the order in which they were asked for.
//!
//! | module | what it decides |
//! |---|---|
//! | `layout` | the bytes on flash, each structure with its table |
//! | `space` | which slots are free, and how many are kept back |
//! | `partition`, `runs` | a partition's bounds, epochs and index |
//! | `window` | when a commit group is closed |
//! | `writer` | how pending frames become groups in slots |
//! | `commit` | what follows when a commit is durable, or failed |
//! | `truncate` | a partition ends earlier than it did, or begins anew |
//! | `checkpoint` | when and how a checkpoint is written |
//! | `recovery` | the start: what is found becomes a running log again |
//! | `scan` | walking a slot that has no footer |
//! | `moves` | how what stands on flash is written anew elsewhere, or rewritten |
//! | `read`, `span`, `search`, `walk` | fetches and searches; they look into `footers` and `tail` |
//! | `cleaner` | which slots are cleaned, and how |
//! | `gather` | what stands in too many pieces for the index is written anew in fewer |
//! | `compaction` | key compaction |
//! | `retention` | what is expired |
//! | `pressure` | how short the disk budget is, and saying so |
//! | `probe` | what exactly is lost where somebody could not read |
//! | `scrub`, `verify` | reading everything now and then, to find what rots |
//! | `wear` | how often a card may be flushed |

mod api;
mod checkpoint;
mod cleaner;
mod commit;
mod compaction;
mod disk;
#[cfg(test)]
pub(crate) mod flip;
mod footers;
mod gather;
pub mod inspect;
mod layout;
mod moves;
mod partition;
mod policy;
mod pressure;
mod probe;
mod read;
mod recovery;
mod retention;
mod runs;
mod scan;
mod scrub;
mod search;
mod space;
mod span;
mod tail;
#[cfg(test)]
mod tests;
mod truncate;
mod verify;
mod walk;
mod wear;
mod window;
mod writer;

pub use api::*;
pub use gather::IndexStats;
pub use moves::MOVE_BYTES_MAX;
pub use policy::{Cleanup, Compaction, Lane, Policy, Retention};
pub use pressure::Pressure;
pub use scrub::{Damage, Part, ScrubPlan, ScrubStats};
pub use wear::{Card, Life, YEAR_SECONDS};

use crate::limits::UNPACKED_BYTES_MAX;
use crate::types::{LeaderEpoch, Offset, OpId, PartitionNumber, Time, WallTime};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use bytes::Bytes;
use checkpoint::Checkpointer;
use cleaner::Cleaner;
use commit::Commit;
use compaction::Compactor;
use disk::{Disk, Ended, Purpose};
use footers::Footers;
use gather::Gatherer;
use layout::Geometry;
use moves::Moves;
use partition::Partition;
use probe::Prober;
use read::Jobs;
use recovery::Recovery;
use retention::Keeper;
use scrub::Scrub;
use space::Space;
use tail::Tail;
use truncate::Truncations;
use wear::Wear;
use window::Window;
use writer::{Pending, Writer};

#[derive(Debug)]
enum Phase {
    Starting(Box<Recovery>),
    Running,
    /// The medium cannot be used.
    Refused,
    /// Two writes or flushes failed in a row: reads go on.
    Fenced,
}

#[derive(Debug)]
pub struct Log {
    settings: Settings,
    phase: Phase,
    geometry: Geometry,
    disk: Disk,
    space: Space,
    partitions: BTreeMap<PartitionNumber, Partition>,
    writer: Writer,
    window: Window,
    commit: Option<Commit>,
    moves: Moves,
    truncations: Truncations,
    cleaner: Cleaner,
    gatherer: Gatherer,
    compactor: Compactor,
    /// Nothing is begun any more that nobody asked for.
    winding_down: bool,
    unguarded: Unguarded,
    checkpointer: Checkpointer,
    tail: Tail,
    footers: Footers,
    jobs: Jobs,
    prober: Prober,
    keeper: Keeper,
    pressure: Pressure,
    wear: Wear,
    scrub: Scrub,
    events: VecDeque<Event>,
    stats: Stats,
}

impl Log {
    pub fn open(settings: Settings) -> Log {
        Log::open_unguarded(settings, Unguarded::default())
    }

    #[doc(hidden)]
    pub fn open_unguarded(settings: Settings, unguarded: Unguarded) -> Log {
        let mut disk = Disk::default();
        let mut log = Log {
            phase: Phase::Refused,
            geometry: Geometry { store: [0; 16], node: 0, slot_bytes: 0, slots: 0 },
            space: Space::default(),
            partitions: BTreeMap::new(),
            writer: Writer::default(),
            window: Window::new(settings.flush_cap, settings.flush_window),
            commit: None,
            moves: Moves::default(),
            truncations: Truncations::default(),
            cleaner: Cleaner::default(),
            gatherer: Gatherer::default(),
            compactor: Compactor::default(),
            winding_down: false,
            unguarded,
            checkpointer: Checkpointer::default(),
            tail: Tail::new(settings.tail_cache_bytes),
            footers: Footers::new(settings.footer_cache_bytes),
            jobs: Jobs::default(),
            prober: Prober::default(),
            keeper: Keeper::default(),
            pressure: Pressure::default(),
            wear: Wear::default(),
            scrub: Scrub::default(),
            events: VecDeque::new(),
            stats: Stats::default(),
            disk: Disk::default(),
            settings,
        };
        match Recovery::begin(&log.settings, &mut disk) {
            Ok(mut recovery) => {
                recovery.unguarded = unguarded;
                log.phase = Phase::Starting(Box::new(recovery));
            }
            Err(error) => log.events.push_back(Event::Refused(error)),
        }
        log.disk = disk;
        log
    }

    /// The store's number: another one is another store, or one that was wiped.
    pub fn store(&self) -> [u8; 16] {
        self.geometry.store
    }

    /// The next disk operation to perform, until `None`.
    pub fn poll_io(&mut self, now: Time) -> Option<Io> {
        self.follow_policies(now);
        self.compact(now);
        self.gather_on(now);
        while matches!(self.phase, Phase::Running) && self.closes_at().is_some_and(|at| at <= now) {
            self.close_commit(now);
        }
        self.run_scrub(now);
        self.disk.poll()
    }

    pub fn done(&mut self, now: Time, op: OpId, result: IoResult) {
        let Some(ended) = self.disk.take(op, result) else { return };
        let Ended { purpose, result, unread } = ended;
        match purpose {
            Purpose::Start(step) => self.start_done(now, step, result, unread),
            Purpose::Commit => self.commit_done(now, result),
            Purpose::Zero => {}
            Purpose::Scrub => self.scrubbed(now, result, unread),
            Purpose::Data(ticket) => self.data_done(ticket, result, unread),
            Purpose::Clean => self.clean_read(now, &result),
            Purpose::Footer(slot) => self.footer_done(slot, result, unread),
            Purpose::Unpacked(ticket) => self.unpacked(ticket, &result),
            Purpose::Compaction => self.compaction_repacked(result),
            Purpose::Owned(ticket) => self.events.push_back(Event::Unpacked {
                ticket,
                batch: match result {
                    IoResult::Read(batch) => Some(batch),
                    _ => None,
                },
            }),
        }
        self.next_searches();
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Log::poll_io`] may have something new though nothing happened: the flush window, the
    /// scrub.
    pub fn deadline(&self) -> Option<Time> {
        if !matches!(self.phase, Phase::Running) {
            return None;
        }
        let compactor = self.compaction_due();
        self.closes_at().into_iter().chain(self.scrub_due()).chain(compactor).min()
    }

    /// Makes a partition known, or changes its policy. After `Ready` the partitions found on flash
    /// are known already, and kept for ever.
    pub fn set_partition(&mut self, number: PartitionNumber, policy: Policy) {
        let known = self.partitions.entry(number);
        let partition = known.or_insert_with(|| Partition::new(policy.lane, Offset::ZERO));
        if partition.policy != policy && partition.log_end > partition.log_start {
            self.keeper.look_again();
        }
        partition.policy = policy;
        // A start takes that of the first slot that it finds something in.
        partition.lane = self.writer.lane_of(number, partition);
    }

    /// Forgets every partition but these: their topics were deleted.
    pub fn retain_partitions(&mut self, mut keep: impl FnMut(PartitionNumber) -> bool) {
        let space = &mut self.space;
        let mut forgotten = false;
        self.partitions.retain(|&number, partition| {
            let kept = keep(number);
            if !kept {
                forgotten = true;
                for run in partition.runs.iter() {
                    space.drop_run(run.slot);
                }
            }
            kept
        });
        if forgotten {
            self.writer.forget(&self.partitions);
            self.moves.forget(|number| self.partitions.contains_key(&number));
            self.forget_truncations();
            self.sweep();
        }
    }

    pub fn partition(&self, number: PartitionNumber) -> Option<PartitionView<'_>> {
        self.partitions.get(&number).map(|partition| PartitionView {
            log_start: partition.log_start,
            log_end: partition.log_end,
            durable_end: partition.durable_end,
            truncations: self.truncations.of(number),
            rewriting: self.moves.is_rewriting(number),
            bytes: partition.bytes,
            max_timestamp: partition.max_timestamp,
            is_damaged: partition.is_damaged(),
            damaged: &partition.damaged,
            suspect: partition.suspect.filter(|at| *at >= partition.log_start),
            last_epoch: partition.epochs.last().map(|&(epoch, _)| epoch),
            producers: &partition.producers,
        })
    }

    /// Partitions of which something is quarantined, or could not be read, in order of number.
    pub fn damaged(&self) -> impl Iterator<Item = PartitionNumber> {
        let damaged = self.partitions.iter().filter(|(_, partition)| partition.is_damaged());
        damaged.map(|(&number, _)| number)
    }

    /// The partitions that are known, in order of number.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionNumber, Lane)> {
        self.partitions.iter().map(|(&number, partition)| (number, partition.lane))
    }

    /// Adds a batch to the open commit group. The base offset must be the log end offset.
    pub fn append(&mut self, now: Time, append: Append) -> Result<(), AppendError> {
        if !matches!(self.phase, Phase::Running) {
            return Err(AppendError::Fenced);
        }
        let index_full = self.is_index_full();
        let Some(partition) = self.partitions.get_mut(&append.partition) else {
            return Err(AppendError::UnknownPartition);
        };
        assert_eq!(append.base_offset, partition.log_end, "appends go to the log end");
        partition.lane = self.writer.lane_of(append.partition, partition);
        let lane = partition.lane;
        let room = || self.writer.has_room(&self.space, &self.geometry, lane, &append.batch);
        // Of another lane: a truncation waits there, because slots are short.
        let waits = partition.policy.lane != lane;
        if lane != Lane::Meta && (index_full || !room()) || lane == Lane::Meta && waits {
            self.stats.full_refusals += 1;
            return Err(AppendError::Full);
        }
        partition.note_epoch(append.leader_epoch, append.base_offset);
        let begun = partition.epochs.last().filter(|&&(epoch, _)| epoch == append.leader_epoch);
        let epoch_start = begun.map_or(append.base_offset, |&(_, start)| start);
        let pending = Pending::batch(&append, epoch_start);
        partition.log_end = pending.end_offset();
        partition.max_timestamp = partition.max_timestamp.max(pending.max_timestamp);
        partition.producers.apply(&append.header, append.base_offset);
        self.stats.payload_bytes += append.batch.len() as u64;
        self.writer.push(now, lane, pending);
        Ok(())
    }

    /// Logs a new log start offset (DeleteRecords); durable with the next group. Above the durable
    /// end, or below the log start, it is moved there.
    pub fn trim(&mut self, now: Time, number: PartitionNumber, log_start: Offset) {
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        let log_start = log_start.min(partition.durable_end);
        if log_start <= partition.log_start {
            return;
        }
        self.move_log_start(now, number, log_start);
    }

    /// Asks the driver to decompress a batch that is no part of the log yet; the answer is an
    /// [`Event::Unpacked`]. Batches take turns.
    pub fn unpack(&mut self, batch: Bytes, bytes_max: usize) -> Ticket {
        let ticket = self.jobs.next_ticket();
        self.disk.unpack(Purpose::Owned(ticket), batch, bytes_max.min(UNPACKED_BYTES_MAX));
        ticket
    }

    /// The last leader epoch that is at most this, and where it ends (OffsetForLeaderEpoch).
    pub fn epoch_end(
        &self,
        number: PartitionNumber,
        epoch: LeaderEpoch,
    ) -> Option<(LeaderEpoch, Offset)> {
        self.partitions.get(&number)?.epoch_end(epoch)
    }

    /// Applies retention. `wall` is `None` while the clock is not trusted: time then expires
    /// nothing.
    pub fn expire(&mut self, now: Time, wall: Option<WallTime>) {
        self.govern(now);
        self.expire_partitions(now, wall);
    }

    /// Begins no cleaning and no compaction any more, so that the log becomes idle: what is left is
    /// for the next start.
    pub fn wind_down(&mut self) {
        self.winding_down = true;
    }

    /// Asks for a checkpoint in the next group: at a clean stop.
    pub fn checkpoint(&mut self, now: Time) {
        if matches!(self.phase, Phase::Running) {
            self.checkpointer.wanted = true;
            self.writer.wake(now);
        }
    }

    /// Whether nothing is waiting for the disk.
    pub fn is_idle(&self) -> bool {
        let writes = self.commit.is_some() || self.closes_at().is_some();
        !(writes && matches!(self.phase, Phase::Running)) && self.disk.is_idle()
    }

    /// Bytes of frames that wait for the next commits, all in memory.
    pub fn pending_bytes(&self) -> usize {
        self.writer.lanes.iter().map(|lane| lane.pending_bytes).sum()
    }

    pub fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        stats.slot_bytes = u64::from(self.geometry.slot_bytes);
        stats.slots = self.space.count();
        stats.pending_bytes = self.pending_bytes() as u64;
        stats.slots_free = self.space.free();
        stats.written_bytes = self.disk.written_bytes;
        stats.zeroed_bytes = self.disk.zeroed_bytes;
        stats.live_bytes = self.partitions.values().map(|partition| partition.bytes).sum();
        stats.damaged_ranges = self.partitions.values().map(Partition::damaged_ranges).sum();
        stats.index = self.index_stats();
        stats.window_ns = self.window.length().0;
        self.pressure_stats(&mut stats);
        self.wear_stats(&mut stats);
        stats.scrub = self.scrub.stats.clone();
        stats
    }
}
