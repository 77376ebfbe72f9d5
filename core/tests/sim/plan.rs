//! What a run is like: sizes, rates, faults. All of it follows from the seed.

use crate::faults::Faults;
use weir_core::log::{FlushCap, Unguarded};
use weir_core::rng::Rng;
use weir_core::types::{Time, WallTime};

#[derive(Clone, Debug)]
pub struct Plan {
    pub slot_bytes: u32,
    pub slots: u32,
    pub checkpoint_bytes: u64,
    pub tail_cache_bytes: usize,
    pub footer_cache_bytes: usize,
    pub index_runs_max: u32,
    pub flush_cap: Option<FlushCap>,
    pub partitions: u32,
    pub value_bytes_max: u64,
    /// Crashes of the run, and how long the log lives between two of them at most.
    pub boots: u32,
    pub life_us: u64,
    /// How long the clients pause between two actions at most.
    pub pause_us: u64,
    /// Whether idempotent producers repeat what was not acknowledged, or give it up.
    pub resend_at_start: bool,
    /// Whether records are trimmed and expire.
    pub retention: bool,
    /// Whether batches are taken out, and written anew.
    pub replaces: bool,
    /// How often a client's connection breaks, in actions of a thousand.
    pub resets: u64,
    pub operations_outstanding_max: usize,
    /// Slots that cuts leave with little in them before the next checkpoint: one of each lane that
    /// is in use, each.
    pub slots_cut_max: u64,
    pub faults: Faults,
    pub bug: Bug,
    /// Starts take every checkpoint for damaged.
    pub no_checkpoints: bool,
    /// Partitions are truncated now and then.
    pub truncates: bool,
}

/// Bugs of a broker that the simulator can play, because they show at its borders. Each must be
/// found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bug {
    #[default]
    None,
    /// The answer leaves when the write is done; the flush comes with the next one.
    AcknowledgeBeforeFlush,
    /// A sync that failed is tried again, and the second answer is believed.
    RetryFailedSync,
    /// A batch that an idempotent producer repeats is appended again.
    ForgetSequences,
    /// Readers see what is not flushed yet.
    ServeUnflushed,
    /// A group's leader is told its assignment, which is not stored.
    ForgetAssignments,
    /// Offset commits are answered and not stored.
    ForgetCommits,
    /// No checkpoint is ever written.
    NoCheckpoints,
    /// Neither boot epoch nor chain nor sealing tells a stale tail from the log: the guards of a
    /// start.
    ResurrectTails,
    /// Groups that an earlier use of a slot left behind count at a start.
    ReuseWithoutSegSeq,
    /// What one bad sector made fail is not read again in pieces.
    FailWholeReads,
    /// The scrub is answered from a cache, which does not rot.
    CachedScrub,
    /// A slot that is cleaned is used anew before its copies are durable.
    FreeBeforeReplace,
    /// Offsets that have no records any more have them again after a start.
    ForgetHoles,
    /// A partition is cut off at its begin, and that is not logged.
    ForgetLogStarts,
    /// The driver's codec loses the last record of what it packs.
    LosePacked,
    /// The log takes more of the disk than it was given.
    TooManySlots,
    /// Truncations are not logged.
    ForgetTruncations,
    /// Without a checkpoint, what footers say of truncated records counts.
    ResurrectByFooters,
    /// A hole that waits to be written is not cut where its partition is truncated.
    UncutHoles,
    /// The index has no cap.
    UncappedIndex,
    /// A batch of what is gathered is forgotten.
    ForgetGathered,
    /// What is taken out while it is being gathered comes back.
    GatherStale,
    /// How many bytes stay behind where a batch was moved is a guess by offsets.
    GuessMoved,
    /// How many bytes stay before a truncation is a guess by offsets.
    GuessCut,
    /// Without a checkpoint, old holes count though something newer was appended there: footers do
    /// not say in which order groups were written.
    HideByHoles,
    /// Where a truncation is lost to damage, what was appended behind it does not count.
    KeepStale,
    /// Truncations take the last slots of a log that is full.
    TruncateFromReserve,
    /// Without a checkpoint, what is lost at a partition's begin is taken for trimmed.
    TrimWhatIsLost,
    /// Groups that a write has put elsewhere in their slot count there.
    CountStrays,
    /// Each write has a flush of its own.
    FlushEachWrite,
    /// A commit is written block by block.
    WriteInPieces,
    /// Everything that waits to be moved goes into one commit.
    MoveAllAtOnce,
}

impl Plan {
    pub fn random(rng: &mut Rng) -> Plan {
        let slot_bytes = 1 << (16 + rng.below(4));
        Plan {
            slot_bytes,
            slots: 24 + rng.below(32) as u32,
            checkpoint_bytes: u64::from(slot_bytes) << rng.below(3),
            tail_cache_bytes: 1 << (12 + rng.below(8)),
            footer_cache_bytes: 1 << (12 + rng.below(8)),
            index_runs_max: 10_000,
            flush_cap: rng.percent(25).then_some(FlushCap { per_second: 50, burst: 20 }),
            partitions: 1 + rng.below(6) as u32,
            value_bytes_max: [64, 600, 4_000, u64::from(slot_bytes)][rng.below(4) as usize]
                .min(u64::from(slot_bytes) / 16),
            boots: 2 + rng.below(7) as u32,
            life_us: [3_000, 60_000, 1_000_000][rng.below(3) as usize],
            pause_us: [100, 2_000, 20_000][rng.below(3) as usize],
            resend_at_start: rng.percent(80),
            retention: rng.percent(60),
            replaces: true,
            resets: [0, 5, 50][rng.below(3) as usize],
            operations_outstanding_max: 64,
            slots_cut_max: 16,
            faults: Faults::random(rng),
            bug: Bug::None,
            no_checkpoints: false,
            truncates: rng.percent(60),
        }
    }

    /// A small log on a disk without faults, whose every crash point can be tried.
    pub fn small(rng: &mut Rng) -> Plan {
        Plan {
            slot_bytes: 32 << 10,
            slots: 12,
            checkpoint_bytes: 64 << 10,
            tail_cache_bytes: 8 << 10,
            partitions: 1 + rng.below(3) as u32,
            value_bytes_max: [64, 600, 2_000][rng.below(3) as usize],
            faults: Faults::default(),
            retention: rng.percent(50),
            ..Plan::random(rng)
        }
    }

    /// Bytes of a slot, and how many there are.
    pub fn geometry(&self) -> (u32, u32) {
        match self.bug {
            Bug::TooManySlots => (self.slot_bytes, self.slots + 4),
            _ => (self.slot_bytes, self.slots),
        }
    }

    pub fn unguarded(&self) -> Unguarded {
        let tails = self.bug == Bug::ResurrectTails;
        Unguarded {
            no_boot_epoch: tails,
            no_chain: tails,
            no_sealing: tails,
            no_seg_seq: self.bug == Bug::ReuseWithoutSegSeq,
            free_before_replace: self.bug == Bug::FreeBeforeReplace,
            no_truncate_frames: self.bug == Bug::ForgetTruncations,
            no_checkpoints: self.no_checkpoints,
            no_truncation_by_footers: self.bug == Bug::ResurrectByFooters,
            no_holes: self.bug == Bug::ForgetHoles,
            no_log_starts: self.bug == Bug::ForgetLogStarts,
            uncut_moves: self.bug == Bug::UncutHoles,
            no_index_cap: self.bug == Bug::UncappedIndex,
            gather_loses: self.bug == Bug::ForgetGathered,
            gather_stale: self.bug == Bug::GatherStale,
            guess_moved: self.bug == Bug::GuessMoved,
            guess_cut: self.bug == Bug::GuessCut,
            no_group_order: self.bug == Bug::HideByHoles,
            no_epoch_cuts: self.bug == Bug::KeepStale,
            truncate_from_reserve: self.bug == Bug::TruncateFromReserve,
            no_lost_begins: self.bug == Bug::TrimWhatIsLost,
            no_places: self.bug == Bug::CountStrays,
            unbounded_moves: self.bug == Bug::MoveAllAtOnce,
        }
    }

    pub fn checkpoint_bytes(&self) -> u64 {
        if self.bug == Bug::NoCheckpoints { u64::MAX / 4 } else { self.checkpoint_bytes }
    }

    /// What the index never has more of: its cap, a run for each slot that cleaning fills, and what
    /// replacing twelve batches divides.
    pub fn index_runs_bound(&self) -> u64 {
        u64::from(self.index_runs_max + self.slots + 24)
    }

    /// Superblocks and slots.
    pub fn medium_bytes(&self) -> u64 {
        u64::from(self.slot_bytes) * u64::from(self.slots + 2)
    }

    /// Bytes that the file system has for the log.
    pub fn room(&self, rng: &mut Rng) -> u64 {
        match rng.percent(self.faults.full) {
            true => self.medium_bytes() * (30 + rng.below(70)) / 100,
            false => u64::MAX,
        }
    }

    /// Superblocks, headers of all slots, the checkpoint's root, and the slots written since: each
    /// is read twice, and its footer once.
    pub fn start_read_bytes_max(&self) -> u64 {
        let slot = u64::from(self.slot_bytes);
        let visited = 2 * self.checkpoint_bytes.div_ceil(slot) + self.slots_cut_max;
        let fixed = 32 * 4096 + u64::from(self.slots) * 4608 + slot.min(1 << 20);
        fixed + visited * (2 * slot + slot.min(64 << 10))
    }

    /// The wall clock of the run, right from the start.
    pub fn wall(&self, now: Time) -> WallTime {
        WallTime(1_750_000_000_000 + (now.0 / 1_000_000) as i64)
    }
}
