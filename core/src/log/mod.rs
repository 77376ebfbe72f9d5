//! The flash log: one sequential stream in which everything that must survive stands.
//!
//! [`Log`] is a value: it asks for disk operations with [`Log::poll_io`], learns of their end by
//! [`Log::done`], and tells what came of them with [`Log::poll_event`]. The driver performs operations in
//! the order in which they were asked for. The layout on flash stands in the modules that own it.

use crate::batch::Header as BatchHeader;
use crate::types::{LeaderEpoch, NodeId, Offset, OpId, PartitionNumber, Time, WallTime};
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// One disk operation that the driver must perform, in the order of [`Log::poll_io`].
#[derive(Clone, Debug)]
pub enum Io {
    /// Write at a byte position of the medium. Durable only when a later [`Io::Flush`] is done.
    Write { op: OpId, at: u64, bytes: Bytes },
    /// Make every write that was asked for before durable (`fdatasync`).
    Flush { op: OpId },
    /// Read `len` bytes. May overtake writes and flushes, and other reads.
    Read { op: OpId, at: u64, len: u32 },
    /// Write zeros, growing the file if need be. In the background, at most one at a time.
    Zero { op: OpId, at: u64, len: u32 },
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IoResult {
    Done,
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

/// What the log needs to know and cannot find out.
#[derive(Clone, Debug)]
pub struct Settings {
    pub start: Start,
    /// Length of the medium in bytes at the start.
    pub medium_bytes: u64,
    pub node: NodeId,
    /// Flushes a second on average, and how many may come at once. `None`: no cap.
    pub flush_cap: Option<FlushCap>,
    /// Write a checkpoint after this many bytes, so that a start reads no more than that.
    pub checkpoint_bytes: u64,
    /// Bytes of memory for the newest groups, from which the tail is read.
    pub tail_cache_bytes: usize,
    /// Bytes of memory for slots' footers.
    pub footer_cache_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushCap {
    pub per_second: u32,
    pub burst: u32,
}

/// Where a frame goes: partitions whose data dies together share a lane, so that slots become free whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lane {
    Data = 0,
    Meta = 3,
}

/// How long a partition's records are kept: Kafka's `retention.ms` and `retention.bytes`; -1 is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub ms: i64,
    pub bytes: i64,
    /// Whether records may be expired before their time when the disk budget runs out.
    pub yields_to_pressure: bool,
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
    /// Retention or pressure moved a log start offset.
    Trimmed { partition: PartitionNumber, log_start: Offset },
    /// A write or flush failed: these partitions' records that were not yet acknowledged are being
    /// written again elsewhere; nothing is lost. Said once a failure.
    WriteFailed,
    /// The log cannot write any more.
    Fenced,
}

/// Why a medium is refused. `Display` is a sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    NotALog,
    NewerFormat { found: u16, known: u16 },
    SuperblocksDiffer,
    MediumTooShort { bytes: u64, needed: u64 },
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
    pub bytes: u64,
    pub max_timestamp: i64,
    pub producers: &'a crate::batch::Producers,
}

/// Counters and levels for status, console and metrics.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Stats {
    pub slot_bytes: u64,
    pub slots: u32,
    pub slots_free: u32,
    pub payload_bytes: u64,
    pub written_bytes: u64,
    pub zeroed_bytes: u64,
    pub groups: u64,
    pub flushes: u64,
    pub flush_ns_last: u64,
    pub write_failures: u64,
    pub damaged_ranges: u32,
    pub torn_groups_dropped: u64,
}

pub struct Log {}

#[allow(unused_variables)]
impl Log {
    pub fn open(settings: Settings) -> Log {
        unimplemented!()
    }

    /// The next disk operation to perform, until `None`.
    pub fn poll_io(&mut self, now: Time) -> Option<Io> {
        unimplemented!()
    }

    pub fn done(&mut self, now: Time, op: OpId, result: IoResult) {
        unimplemented!()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        unimplemented!()
    }

    /// When [`Log::poll_io`] may have something new though nothing happened: the flush window.
    pub fn deadline(&self) -> Option<Time> {
        unimplemented!()
    }

    /// Makes a partition known, or changes its policy. After `Ready` the partitions found on flash are
    /// known already, with retention for ever.
    pub fn set_partition(&mut self, number: PartitionNumber, lane: Lane, retention: Retention) {
        unimplemented!()
    }

    /// Forgets every partition but these: their topics were deleted.
    pub fn retain_partitions(&mut self, keep: impl FnMut(PartitionNumber) -> bool) {
        unimplemented!()
    }

    pub fn partition(&self, number: PartitionNumber) -> Option<PartitionView<'_>> {
        unimplemented!()
    }

    /// Adds a batch to the open commit group. The base offset must be the log end offset.
    pub fn append(&mut self, now: Time, append: Append) -> Result<(), AppendError> {
        unimplemented!()
    }

    /// Logs a new log start offset (DeleteRecords); durable with the next group.
    pub fn trim(&mut self, now: Time, number: PartitionNumber, log_start: Offset) {
        unimplemented!()
    }

    pub fn fetch(&mut self, spec: FetchSpec) -> Result<Answer<Batches>, FetchError> {
        unimplemented!()
    }

    /// The first record whose timestamp is at least this. Inside a compressed batch the batch's base
    /// offset is the answer: the core does not decompress.
    pub fn find_timestamp(
        &mut self,
        number: PartitionNumber,
        timestamp: i64,
    ) -> Result<Answer<Option<TimestampHit>>, FetchError> {
        unimplemented!()
    }

    /// The last leader epoch that is at most this, and where it ends (OffsetForLeaderEpoch).
    pub fn epoch_end(
        &self,
        number: PartitionNumber,
        epoch: LeaderEpoch,
    ) -> Option<(LeaderEpoch, Offset)> {
        unimplemented!()
    }

    /// Applies retention. `wall` is `None` while the clock is not trusted: time then expires nothing.
    pub fn expire(&mut self, now: Time, wall: Option<WallTime>) {
        unimplemented!()
    }

    /// Asks for a checkpoint in the next group: at a clean stop.
    pub fn checkpoint(&mut self, now: Time) {
        unimplemented!()
    }

    /// Whether nothing is waiting for the disk.
    pub fn is_idle(&self) -> bool {
        unimplemented!()
    }

    pub fn stats(&self) -> Stats {
        unimplemented!()
    }
}
