//! What the log's owner says to it and hears from it.

use super::{Card, Damage, Life, Pressure, ScrubPlan, ScrubStats};
use crate::batch::{Codec, Header as BatchHeader};
use crate::types::{LeaderEpoch, Nanos, NodeId, Offset, OpId, PartitionNumber};
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::Range;

/// One disk operation that the driver must perform, in the order of [`Log::poll_io`].
#[derive(Clone, Debug)]
pub enum Io {
    /// Write at a byte position of the medium. Durable only when a later [`Io::Flush`] is done. It
    /// may lie beyond the end: the medium grows, and what was skipped reads as zeros.
    Write { op: OpId, at: u64, bytes: Bytes },
    /// Make every write that was asked for before durable (`fdatasync`).
    Flush { op: OpId },
    /// Read `len` bytes; what lies beyond the end of the medium reads as zeros. Of them only
    /// `parts` matter, counted from `at`, if there are any: the rest may be anything. May overtake
    /// writes and flushes, and other reads.
    Read { op: OpId, at: u64, len: u32, parts: Vec<Range<u32>> },
    /// Read from the medium itself, not from a cache: what is looked for is what a cache would
    /// hide. Else as [`Io::Read`].
    Verify { op: OpId, at: u64, len: u32 },
    /// Write zeros, growing the file if need be: so that later writes there are cheap. In its turn,
    /// as writes are; nothing depends on it.
    Zero { op: OpId, at: u64, len: u32 },
    /// Decompress the records of a batch; the answer is the whole batch, uncompressed
    /// ([`crate::batch::repack`]). It fails if they are not what their codec writes, or are more
    /// than `bytes_max`. Beside everything else, as reads are.
    Unpack { op: OpId, batch: Bytes, bytes_max: usize },
    /// Compress the records of an uncompressed batch; the answer is the whole batch.
    Pack { op: OpId, batch: Bytes, codec: Codec },
}

impl Io {
    pub fn op(&self) -> OpId {
        match self {
            Io::Write { op, .. }
            | Io::Flush { op }
            | Io::Read { op, .. }
            | Io::Verify { op, .. }
            | Io::Zero { op, .. }
            | Io::Unpack { op, .. }
            | Io::Pack { op, .. } => *op,
        }
    }
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IoResult {
    Done,
    /// What was read, unpacked or packed.
    Read(Bytes),
    /// The device said no. A failed write or flush is never repeated: see the module `commit`.
    Failed,
}

/// Whether the medium is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The medium is empty: write superblocks with these figures.
    Format { store: [u8; 16], slot_bytes: u32, slots: u32 },
    /// The medium has been used before: its superblock says everything.
    Recover,
}

/// The flush window when nobody says: less than any medium's flush takes, so that it is not felt.
pub const FLUSH_WINDOW: Nanos = Nanos(800_000);

/// What the log needs to know and cannot find out.
#[derive(Clone, Debug)]
pub struct Settings {
    pub start: Start,
    /// Length of the medium in bytes at the start.
    pub medium_bytes: u64,
    pub node: NodeId,
    /// Flushes a second on average, and how many may come at once. `None`: no cap.
    pub flush_cap: Option<FlushCap>,
    /// How long a commit waits for company when there may be some: [`FLUSH_WINDOW`].
    pub flush_window: Nanos,
    /// Write a checkpoint after this many bytes, so that a start reads no more than that.
    pub checkpoint_bytes: u64,
    /// Bytes of memory for the newest groups, from which the tail is read.
    pub tail_cache_bytes: usize,
    /// Bytes of memory for slots' footers.
    pub footer_cache_bytes: usize,
    /// How many runs the index has at most, of 16 to 24 bytes each.
    pub index_runs_max: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushCap {
    pub per_second: u32,
    pub burst: u32,
}

/// What keeps the medium well, and what is known of its life so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Upkeep {
    /// Lets the wear governor set the flush cap.
    pub card: Option<Card>,
    pub life: Life,
    pub scrub: Option<ScrubPlan>,
}

/// What key compaction has done since the start.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct CompactionStats {
    /// Compactions of a partition that came to their end and got further.
    pub jobs: u64,
    /// Bytes of batches that were read for it; what was written is `rewritten_bytes`.
    pub read_bytes: u64,
    pub removed_records: u64,
    /// Keys in the map of the running job or the last one, and how many it takes.
    pub map_keys: u32,
    pub map_keys_max: u32,
}

/// A record batch to append. The log stamps base offset and leader epoch into the copy on flash.
#[derive(Clone, Debug)]
pub struct Append {
    pub partition: PartitionNumber,
    pub leader_epoch: LeaderEpoch,
    pub base_offset: Offset,
    pub header: BatchHeader,
    /// The whole batch, as it came.
    pub batch: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// No such partition was made known.
    UnknownPartition,
    /// The disk budget is used up: retriable, and reads go on.
    Full,
    /// Two writes or flushes failed: the node is fenced until it is restarted.
    Fenced,
}

/// What takes the place of a partition's records: see [`Log::replace`](super::Log::replace).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// A batch, for the offsets from its base offset to its last.
    Batch(Bytes),
    /// These offsets have no records any more.
    Hole { base_offset: Offset, last_offset_delta: i32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaceError {
    UnknownPartition,
    /// A part of the partition is being replaced already.
    Busy,
    /// No slots are left but those of the meta lane.
    Full,
    Fenced,
}

/// What a reader asks for. Whole batches are returned, the first of which may begin before `from`.
#[derive(Clone, Copy, Debug)]
pub struct FetchSpec {
    pub partition: PartitionNumber,
    pub from: Offset,
    /// Only batches that lie wholly below this offset.
    pub end: Offset,
    pub bytes_max: usize,
    /// Return the first batch even if it is larger than `bytes_max` (KIP-74).
    pub at_least_one: bool,
}

/// A question to the log that needs the disk; its answer is an [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Either the answer, or a ticket under which it will come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    Now(T),
    Later(Ticket),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchError {
    UnknownPartition,
    /// `from` is below the log start offset or beyond the log end offset.
    OutOfRange,
    /// The bytes are quarantined up to this offset.
    Damaged {
        until: Offset,
    },
    /// The device could not read.
    Device,
}

/// Whole record batches in offset order, each a slice of what was read; empty when there are none.
pub type Batches = Vec<Bytes>;

/// The place that a timestamp leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampHit {
    pub offset: Offset,
    pub timestamp: i64,
    pub leader_epoch: LeaderEpoch,
}

/// What happened. The node polls these after every call.
#[derive(Clone, Debug)]
pub enum Event {
    /// The start is over. Partitions are known, reads and appends are served.
    Ready,
    /// The medium cannot be used; nothing on it was changed.
    Refused(OpenError),
    /// A commit group is on flash: these partitions' durable ends have moved.
    Durable { partitions: Vec<PartitionNumber> },
    /// A fetch that needed the disk.
    Fetched { ticket: Ticket, result: Result<Batches, FetchError> },
    /// A search by timestamp that needed the disk.
    Found { ticket: Ticket, result: Result<Option<TimestampHit>, FetchError> },
    /// The answer to [`super::Log::unpack`]: the uncompressed batch; `None` if it is not what its
    /// codec writes, or too large.
    Unpacked { ticket: Ticket, batch: Option<Bytes> },
    /// What was handed to [`super::Log::replace`] is durable, or was truncated.
    Replaced { partition: PartitionNumber },
    /// A partition was looked at where somebody could not read: see [`super::Log::probe`].
    Probed { partition: PartitionNumber },
    /// Retention or pressure moved a log start offset.
    Trimmed { partition: PartitionNumber, log_start: Offset },
    /// A write or flush failed: these partitions' records that were not yet acknowledged are being
    /// written again elsewhere; nothing is lost. Said once a failure.
    WriteFailed,
    /// The scrub has found damage that was not known.
    Damage(Damage),
    /// The log cannot write any more.
    Fenced,
}

/// Why a medium is refused. `Display` is a sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// There is nothing on it but zeros: new, or a format was cut short. It may be formatted.
    Blank,
    NotALog,
    NewerFormat {
        found: u16,
        known: u16,
    },
    /// The log is whole, but a gateway's metadata in it is of a level above the one that is known.
    NewerMetadata {
        known: u16,
    },
    SuperblocksDiffer,
    /// The log speaks of what lies beyond the end of the medium.
    MediumTooShort {
        bytes: u64,
        needed: u64,
    },
    /// Slots stand where others should: the medium was put together wrongly. One alone may be a
    /// write that went astray, which is damage.
    SlotsOutOfOrder {
        slot: u32,
        holds: u32,
    },
    Device,
    Settings(String),
}

/// What one partition holds.
#[derive(Clone, Debug)]
pub struct PartitionView<'a> {
    pub log_start: Offset,
    /// Where the next record goes.
    pub log_end: Offset,
    /// Everything below is on flash.
    pub durable_end: Offset,
    /// Truncations that are not on flash yet: a start may bring back what they took.
    pub truncations: usize,
    /// Something is to take the place of what it has ([`Log::replace`]), and is not on flash yet.
    pub rewriting: bool,
    pub bytes: u64,
    pub max_timestamp: i64,
    /// Whether some of its offsets are quarantined, or somebody could not read there.
    pub is_damaged: bool,
    /// What is quarantined, in order: from an offset up to and without another.
    pub damaged: &'a [(Offset, Offset)],
    /// Where somebody could not read what is not in that list: see [`super::Log::probe`].
    pub suspect: Option<Offset>,
    /// Of the last record; `None` where there never was one.
    pub last_epoch: Option<LeaderEpoch>,
    pub producers: &'a crate::batch::Producers,
}

/// Guards that are taken away, so that the simulation proves that it notices. Not for
/// use.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unguarded {
    /// Sequence numbers go on after the last group that counts, and no epoch disowns what is
    /// there.
    pub no_boot_epoch: bool,
    /// Groups need not name the one before.
    pub no_chain: bool,
    /// A footer does not say where its slot ends.
    pub no_sealing: bool,
    /// Groups of an earlier use of the slot count as well.
    pub no_seg_seq: bool,
    /// A slot that is cleaned is used anew before what was copied is durable.
    pub free_before_replace: bool,
    /// Truncations are not written.
    pub no_truncate_frames: bool,
    /// Every checkpoint is taken for damaged.
    pub no_checkpoints: bool,
    /// Of what footers say, what was truncated counts as well.
    pub no_truncation_by_footers: bool,
    /// A start does not look at holes.
    pub no_holes: bool,
    /// A new log start offset is not written.
    pub no_log_starts: bool,
    /// What waits to take the place of something is written as it was, though that was truncated.
    pub uncut_moves: bool,
    /// The index takes as many runs as there are.
    pub no_index_cap: bool,
    /// Of what is gathered in one read, the last batch is left out.
    pub gather_loses: bool,
    /// What was rewritten while it was read is gathered all the same.
    pub gather_stale: bool,
    /// How many bytes stay behind where something was moved is a guess by offsets.
    pub guess_moved: bool,
    /// How many bytes stay before a truncation is a guess by offsets.
    pub guess_cut: bool,
    /// Footers do not say in which order the groups of slots were written.
    pub no_group_order: bool,
    /// A batch in whose place one of a lower leader epoch stands takes nothing away: the frame that
    /// truncated that is lost to damage.
    pub no_epoch_cuts: bool,
    /// A truncation opens a slot of its partition's lane, however few are free.
    pub truncate_from_reserve: bool,
    /// Without a checkpoint, what is missing at a partition's begin is never lost, but trimmed.
    pub no_lost_begins: bool,
    /// A group counts wherever in its slot it stands.
    pub no_places: bool,
    /// Whatever waits to be moved goes into the next commit.
    pub unbounded_moves: bool,
}

/// Counters and levels for status, console and metrics.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Stats {
    pub slot_bytes: u64,
    pub slots: u32,
    pub slots_free: u32,
    /// Bytes of record batches that were appended since the start.
    pub payload_bytes: u64,
    /// Bytes that were written for them and for everything else, zeroing left out.
    pub written_bytes: u64,
    pub zeroed_bytes: u64,
    /// Bytes of frames in memory that wait for the next commits.
    pub pending_bytes: u64,
    pub groups: u64,
    pub flushes: u64,
    pub flush_ns_last: u64,
    pub flush_ns_max: u64,
    pub flush_ns_total: u64,
    /// How long a commit waits for company at present.
    pub window_ns: u64,
    /// Commits that waited for the flush cap, and for how long in all.
    pub cap_waits: u64,
    pub cap_wait_ns_total: u64,
    pub checkpoints: u64,
    /// Writes and flushes that failed.
    pub write_failures: u64,
    /// Ranges of offsets that are lost to damage now: not those that have come back or expired.
    pub damaged_ranges: u32,
    /// Those that were known before the start.
    pub quarantined_ranges: u32,
    /// Groups that had been acknowledged and were not found, or not whole, at the start.
    pub damaged_groups: u64,
    /// Groups after the last acknowledged one that a cut tore: nothing that was promised is in
    /// them.
    pub torn_groups_dropped: u64,
    /// Bytes that the start read.
    pub start_bytes_read: u64,
    pub index: super::IndexStats,
    /// Bytes of record batches that count, but for an estimate where a slot is in part expired.
    pub live_bytes: u64,
    /// What is written for a byte that is appended, over the life of the medium.
    pub write_amplification: f64,
    pub slots_cleaned: u64,
    /// Bytes of frames that cleaning and starts moved, that key compaction wrote, and that took the
    /// place of what was lost.
    pub cleaned_bytes: u64,
    pub rewritten_bytes: u64,
    pub repaired_bytes: u64,
    pub compaction: CompactionStats,
    /// Times that the wall clock jumped, ahead or back; retention does not delete for it.
    pub clock_jumps: u64,
    /// How short the disk budget is, and how many free slots its next states begin at.
    pub pressure: Pressure,
    pub slots_expire_below: u32,
    pub slots_refuse_below: u32,
    /// Batches refused because the disk budget is used up.
    pub full_refusals: u64,
    /// Offsets that were expired before their time because the disk budget ran out.
    pub expired_early_records: u64,
    /// Whole flash pages that the writes cost since the start, and at what rate of late.
    pub programmed_bytes: u64,
    pub programmed_bytes_per_second: u64,
    /// Flushes a second on average that are allowed at present.
    pub cap_per_second: Option<u32>,
    pub life: Life,
    pub card: Option<Card>,
    /// How long the card lasts from its first day on, if it goes on like this.
    pub forecast_days: Option<u64>,
    pub scrub: ScrubStats,
}
