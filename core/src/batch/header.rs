//! The header of a record batch: layout, checks, checksum, and the fields that a leader stamps.
//!
//! ```text
//! at  bytes  field
//!  0      8  base offset             stamped by the leader, outside the checksum
//!  8      4  batch length            bytes after this field
//! 12      4  partition leader epoch  stamped by the leader, outside the checksum
//! 16      1  magic                   2
//! 17      4  CRC-32C                 over everything after this field
//! 21      2  attributes              0-2 codec, 3 log append time, 4 transactional, 5 control,
//!                                6 delete horizon
//! 23      4  last offset delta
//! 27      8  base timestamp          or the delete horizon
//! 35      8  max timestamp
//! 43      8  producer id             -1: none
//! 51      2  producer epoch
//! 53      4  base sequence           -1: none
//! 57      4  records count
//! 61      …  records, compressed as the attributes say
//! ```
//!
//! Source: Kafka's documentation, "Record Batch", and KIP-98. Magic 0 and 1 keep their magic at the
//! same place, so an old message set is told from a damaged batch.

use crate::bytes::{Malformed, SliceReader};
use crate::error::ErrorCode;
use crate::types::Offset;
use bytes::Bytes;

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;

/// Bytes of a batch that its length field does not count.
const LENGTH_END: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const CHECKED_FROM: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;
const MAGIC: u8 = 2;

pub(super) const CODEC_BITS: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 0x08;
pub(super) const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
pub(super) const DELETE_HORIZON: i16 = 0x40;

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

impl Codec {
    /// The codec of a `compression.type`; `None` for `producer`.
    pub fn named(name: &str) -> Option<Codec> {
        Some(match name {
            "uncompressed" => Codec::None,
            "gzip" => Codec::Gzip,
            "snappy" => Codec::Snappy,
            "lz4" => Codec::Lz4,
            "zstd" => Codec::Zstd,
            _ => return None,
        })
    }
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
    /// The header contradicts itself, or holds what clients may not write.
    Header,
    /// A codec that Kafka does not have.
    Codec,
    /// The records are not what the header says, or not records.
    Records,
}

impl BatchError {
    /// Kafka's answer to a produce request with such a batch.
    pub fn code(self) -> ErrorCode {
        match self {
            BatchError::Truncated | BatchError::Checksum | BatchError::UnknownMagic(_) => {
                ErrorCode::CORRUPT_MESSAGE
            }
            // What Apache Kafka 4.3.1 answers to magic 0 and 1, measured.
            BatchError::OldMagic(_) | BatchError::Header | BatchError::Records => {
                ErrorCode::INVALID_RECORD
            }
            BatchError::Codec => ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
        }
    }
}

impl From<Malformed> for BatchError {
    fn from(_: Malformed) -> BatchError {
        BatchError::Truncated
    }
}

impl Header {
    /// Reads the header of the first batch in `bytes`, which must be there in whole. Does not look
    /// at the checksum; holds for every batch that a Kafka log may contain, also for compacted
    /// ones.
    pub fn parse(bytes: &[u8]) -> Result<Header, BatchError> {
        match *bytes.get(MAGIC_AT).ok_or(BatchError::Truncated)? {
            MAGIC => {}
            old @ 0..MAGIC => return Err(BatchError::OldMagic(old)),
            unknown => return Err(BatchError::UnknownMagic(unknown)),
        }
        let header = Header::read(bytes.get(..HEADER_BYTES).ok_or(BatchError::Truncated)?)?;
        let len = header.batch_bytes as usize;
        if len < HEADER_BYTES || len > bytes.len() {
            return Err(BatchError::Truncated);
        }
        if header.last_offset_delta < 0
            || header.records_count < 0
            || i64::from(header.records_count) > i64::from(header.last_offset_delta) + 1
            || header.base_offset.0.checked_add(i64::from(header.last_offset_delta)).is_none()
        {
            return Err(BatchError::Header);
        }
        header.codec().ok_or(BatchError::Codec)?;
        Ok(header)
    }

    fn read(bytes: &[u8]) -> Result<Header, Malformed> {
        let mut reader = SliceReader::new(bytes);
        let base_offset = Offset(reader.i64()?);
        // A length that does not fit is beyond every input, too.
        let batch_bytes = reader.u32()?.saturating_add(LENGTH_END as u32);
        let partition_leader_epoch = reader.i32()?;
        reader.u8()?;
        Ok(Header {
            base_offset,
            batch_bytes,
            partition_leader_epoch,
            crc: reader.u32()?,
            attributes: reader.i16()?,
            last_offset_delta: reader.i32()?,
            base_timestamp: reader.i64()?,
            max_timestamp: reader.i64()?,
            producer_id: reader.i64()?,
            producer_epoch: reader.i16()?,
            base_sequence: reader.i32()?,
            records_count: reader.i32()?,
        })
    }

    /// Writes the 61 bytes in front of the records that `batch` holds already, checksum last.
    pub(super) fn write(&self, batch: &mut [u8]) {
        let length = batch.len() - LENGTH_END;
        let length = u32::try_from(length).expect("a batch is far below 4 GiB: limits.rs");
        batch[..8].copy_from_slice(&self.base_offset.0.to_be_bytes());
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[12..16].copy_from_slice(&self.partition_leader_epoch.to_be_bytes());
        batch[MAGIC_AT] = MAGIC;
        batch[21..23].copy_from_slice(&self.attributes.to_be_bytes());
        batch[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        batch[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        batch[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        batch[43..51].copy_from_slice(&self.producer_id.to_be_bytes());
        batch[51..53].copy_from_slice(&self.producer_epoch.to_be_bytes());
        batch[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        batch[57..61].copy_from_slice(&self.records_count.to_be_bytes());
        write_checksum(batch);
    }

    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    /// `None` for a codec that Kafka does not have.
    pub fn codec(&self) -> Option<Codec> {
        match self.attributes & CODEC_BITS {
            0 => Some(Codec::None),
            1 => Some(Codec::Gzip),
            2 => Some(Codec::Snappy),
            3 => Some(Codec::Lz4),
            4 => Some(Codec::Zstd),
            _ => None,
        }
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// Whether the leader's clock gave the timestamps: then every record has `max_timestamp`.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// From when on tombstones in this batch may go (KIP-534), in milliseconds since 1970.
    pub fn delete_horizon(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    /// The sequence of the last record; sequences go on with 0 after `i32::MAX`.
    pub fn last_sequence(&self) -> i32 {
        super::producers::sequence_plus(self.base_sequence, self.last_offset_delta)
    }
}

/// Takes the first batch off `bytes` and checks header and checksum. `None` when `bytes` is empty.
pub fn next_batch(bytes: &mut Bytes) -> Option<Result<(Header, Bytes), BatchError>> {
    if bytes.is_empty() {
        return None;
    }
    let header = match Header::parse(bytes) {
        Ok(header) => header,
        Err(error) => return Some(Err(error)),
    };
    let batch = bytes.split_to(header.batch_bytes as usize);
    if crc32c::crc32c(&batch[CHECKED_FROM..]) != header.crc {
        return Some(Err(BatchError::Checksum));
    }
    Some(Ok((header, batch)))
}

/// Writes base offset and leader epoch into a batch; its checksum leaves them out.
///
/// Panics when `batch` is shorter than a header, as do the other stamps.
pub fn stamp(batch: &mut [u8], base_offset: Offset, leader_epoch: i32) {
    batch[..8].copy_from_slice(&base_offset.0.to_be_bytes());
    batch[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// Sets `message.timestamp.type=LogAppendTime`'s attribute and time, and the checksum anew.
pub fn stamp_append_time(batch: &mut [u8], timestamp: i64) {
    batch[CHECKED_FROM + 1] |= LOG_APPEND_TIME as u8;
    stamp_max_timestamp(batch, timestamp);
}

/// Corrects the largest timestamp, and the checksum anew: old clients (Sarama before 1.27) leave it
/// wrong, and searching by time and retention rely on it.
pub fn stamp_max_timestamp(batch: &mut [u8], timestamp: i64) {
    batch[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&timestamp.to_be_bytes());
    write_checksum(batch);
}

fn write_checksum(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[CHECKED_FROM..]);
    batch[CRC_AT..CHECKED_FROM].copy_from_slice(&crc.to_be_bytes());
}
