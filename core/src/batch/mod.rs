//! Kafka's record batch, magic 2: its layout, its checksum, the records inside, producers' sequences.
//!
//! ```text
//! at  bytes  field
//!  0      8  base offset             stamped by the leader, outside the checksum
//!  8      4  batch length            bytes after this field
//! 12      4  partition leader epoch  stamped by the leader, outside the checksum
//! 16      1  magic                   2
//! 17      4  CRC-32C                 over everything after this field
//! 21      2  attributes              0-2 codec, 3 log append time, 4 transactional, 5 control, 6 horizon
//! 23      4  last offset delta
//! 27      8  base timestamp
//! 35      8  max timestamp
//! 43      8  producer id             -1: none
//! 51      2  producer epoch
//! 53      4  base sequence           -1: none
//! 57      4  records count
//! 61      …  records, compressed as the attributes say
//! ```
//!
//! Source: Kafka's documentation, "Record Batch", and KIP-98. Does not compress and does not decompress:
//! batches pass through as they came.

use crate::error::ErrorCode;
use crate::types::Offset;
use alloc::vec::Vec;
use bytes::Bytes;

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;

/// The fields of a batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub base_offset: Offset,
    /// Length of the whole batch in bytes, the first twelve included.
    pub batch_bytes: u32,
    pub partition_leader_epoch: i32,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub records_count: i32,
}

/// How the records of a batch are compressed: bits 0 to 2 of the attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

/// Why bytes are not a batch; [`BatchError::code`] is the answer to the producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// Shorter than its header or its length says.
    Truncated,
    /// Magic 0 or 1.
    OldMagic(u8),
    /// Magic 3 and above.
    UnknownMagic(u8),
    Checksum,
    /// The header contradicts itself: counts, deltas, attributes.
    Header,
    /// A codec that Kafka does not have.
    Codec,
}

#[allow(unused_variables)]
impl Header {
    /// Reads the header of the first batch in `bytes`, which must be there in whole.
    pub fn parse(bytes: &[u8]) -> Result<Header, BatchError> {
        unimplemented!()
    }

    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    pub fn codec(&self) -> Option<Codec> {
        unimplemented!()
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }
}

/// Takes the first batch off `bytes` and checks header and checksum. `None` when `bytes` is empty.
#[allow(unused_variables)]
pub fn next_batch(bytes: &mut Bytes) -> Option<Result<(Header, Bytes), BatchError>> {
    unimplemented!()
}

/// Writes base offset and leader epoch into a batch; its checksum leaves them out.
#[allow(unused_variables)]
pub fn stamp(batch: &mut [u8], base_offset: Offset, leader_epoch: i32) {
    unimplemented!()
}

/// Sets `message.timestamp.type=LogAppendTime`'s attribute and time, and the checksum anew.
#[allow(unused_variables)]
pub fn stamp_append_time(batch: &mut [u8], timestamp: i64) {
    unimplemented!()
}

/// One record, borrowed from its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub offset_delta: i32,
    pub timestamp_delta: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// Kafka allows the same key more than once and keeps the order.
    pub headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

/// The records of an uncompressed records section (`batch[61..]`), or of one that was decompressed.
#[allow(unused_variables)]
pub fn records(section: &[u8], count: i32) -> impl Iterator<Item = Result<Record<'_>, BatchError>> {
    core::iter::empty()
}

/// Builds a batch record by record.
#[derive(Clone, Debug)]
pub struct Builder {}

/// What a builder stamps into the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerStamp {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub transactional: bool,
}

#[allow(unused_variables)]
impl Builder {
    pub fn new() -> Builder {
        unimplemented!()
    }

    /// Appends one record; headers in order.
    pub fn push(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) {
        unimplemented!()
    }

    pub fn records_count(&self) -> i32 {
        unimplemented!()
    }

    /// Bytes that the batch has so far.
    pub fn len(&self) -> usize {
        unimplemented!()
    }

    pub fn is_empty(&self) -> bool {
        self.records_count() == 0
    }

    /// The uncompressed batch, with checksum; `None` as `stamp` for a plain producer.
    pub fn build(self, stamp: Option<ProducerStamp>) -> Vec<u8> {
        unimplemented!()
    }

    /// The records section alone, for a caller that compresses it and calls [`seal`].
    pub fn into_section(self) -> (Header, Vec<u8>) {
        unimplemented!()
    }
}

/// A batch of a header and a records section, which is compressed with `codec` already.
#[allow(unused_variables)]
pub fn seal(header: Header, codec: Codec, section: &[u8], stamp: Option<ProducerStamp>) -> Vec<u8> {
    unimplemented!()
}

/// The sequences of one partition's idempotent producers (KIP-98, KIP-360).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {}

/// What to do with a batch of an idempotent producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequence {
    /// It is the next one, or comes from no idempotent producer.
    Append,
    /// It was appended before, at this offset: answer as then.
    Duplicate { base_offset: Offset },
}

#[allow(unused_variables)]
impl Producers {
    /// Judges a batch before it is appended; changes nothing.
    pub fn check(&self, header: &Header) -> Result<Sequence, ErrorCode> {
        unimplemented!()
    }

    /// Remembers a batch that was appended (or found on flash) at `base_offset`.
    pub fn apply(&mut self, header: &Header, base_offset: Offset) {
        unimplemented!()
    }

    /// Forgets producers whose last batch is older than `before` (Kafka's `producer.id.expiration.ms`).
    pub fn expire(&mut self, before: i64) {
        unimplemented!()
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        unimplemented!()
    }

    pub fn decode(bytes: &[u8]) -> Result<Producers, crate::bytes::Malformed> {
        unimplemented!()
    }
}
