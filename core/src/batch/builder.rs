//! Builds batches: one growing buffer with room for the header in front, so that nothing is copied
//! or allocated for a record and the finished batch is that same buffer.

use super::header::{CODEC_BITS, Codec, HEADER_BYTES, Header, TRANSACTIONAL, stamp};
use super::records::{Headers, Record, put_record};
use crate::types::{LeaderEpoch, Offset};
use alloc::vec::Vec;

/// Builds a batch record by record.
#[derive(Clone, Debug)]
pub struct Builder {
    /// The header's room, then the records.
    batch: Vec<u8>,
    records_count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

/// What a builder stamps into the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerStamp {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub transactional: bool,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder::new()
    }
}

impl Builder {
    pub fn new() -> Builder {
        Builder::with_capacity(HEADER_BYTES)
    }

    /// A builder that does not grow before the batch has this many bytes.
    pub fn with_capacity(bytes: usize) -> Builder {
        let mut batch = Vec::with_capacity(bytes.max(HEADER_BYTES));
        batch.resize(HEADER_BYTES, 0);
        Builder { batch, records_count: 0, base_timestamp: 0, max_timestamp: 0 }
    }

    /// Appends one record; headers in order. Timestamps are milliseconds and need not ascend.
    pub fn push(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) {
        self.push_with(timestamp, key, value, Headers::default(), headers);
    }

    /// Appends one record with another record's headers as they are, and more behind them.
    pub fn push_with(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        kept: Headers<'_>,
        headers: &[(&str, Option<&[u8]>)],
    ) {
        if self.records_count == 0 {
            (self.base_timestamp, self.max_timestamp) = (timestamp, timestamp);
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let timestamp_delta = timestamp.wrapping_sub(self.base_timestamp);
        let record =
            Record { offset_delta: self.records_count, timestamp_delta, key, value, headers: kept };
        put_record(&mut self.batch, &record, headers);
        self.records_count += 1;
    }

    pub fn records_count(&self) -> i32 {
        self.records_count
    }

    /// Bytes that the batch has so far.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records_count == 0
    }

    /// The uncompressed batch, with checksum; `None` as `stamp` for a plain producer.
    pub fn build(mut self, stamp: Option<ProducerStamp>) -> Vec<u8> {
        self.header().stamped(Codec::None, stamp).write(&mut self.batch);
        self.batch
    }

    /// The records section alone, for a caller that compresses it and calls [`seal`].
    pub fn into_section(mut self) -> (Header, Vec<u8>) {
        let header = self.header();
        self.batch.drain(..HEADER_BYTES);
        (header, self.batch)
    }

    /// As far as the records tell it; length and checksum are written last.
    fn header(&self) -> Header {
        Header {
            base_offset: Offset::ZERO,
            batch_bytes: self.batch.len() as u32,
            partition_leader_epoch: -1,
            crc: 0,
            attributes: 0,
            last_offset_delta: self.records_count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            records_count: self.records_count,
        }
    }
}

/// A batch of a header and a records section, which is compressed with `codec` already.
pub fn seal(header: Header, codec: Codec, section: &[u8], stamp: Option<ProducerStamp>) -> Vec<u8> {
    let mut batch = Vec::with_capacity(HEADER_BYTES + section.len());
    batch.resize(HEADER_BYTES, 0);
    batch.extend_from_slice(section);
    header.stamped(codec, stamp).write(&mut batch);
    batch
}

/// A batch without records from `from` up to `until`, as Kafka's cleaner leaves them: in place of
/// what was compacted away. Reaches less far than `until` if that is more than 2^31 offsets.
pub fn empty(from: Offset, until: Offset, leader_epoch: LeaderEpoch) -> (Header, Vec<u8>) {
    let last = (until.0 - from.0 - 1).clamp(0, i64::from(i32::MAX));
    let mut header = Builder::new().header();
    header.base_offset = from;
    header.partition_leader_epoch = leader_epoch.0;
    header.last_offset_delta = last as i32;
    (header.base_timestamp, header.max_timestamp) = (-1, -1);
    let mut batch = seal(header, Codec::None, &[], None);
    stamp(&mut batch, from, leader_epoch.0);
    (Header::parse(&batch).expect("a header was just written"), batch)
}

/// A batch with its records section compressed otherwise, all else as it was. `None` if it has no
/// whole header.
pub fn repack(batch: &[u8], codec: Codec, section: &[u8]) -> Option<Vec<u8>> {
    let header = Header::parse(batch).ok()?.with_codec(codec);
    let mut repacked = Vec::with_capacity(HEADER_BYTES + section.len());
    repacked.resize(HEADER_BYTES, 0);
    repacked.extend_from_slice(section);
    header.write(&mut repacked);
    Some(repacked)
}

impl Header {
    pub(super) fn with_codec(mut self, codec: Codec) -> Header {
        self.attributes = self.attributes & !CODEC_BITS | codec as i16;
        self
    }

    fn stamped(mut self, codec: Codec, stamp: Option<ProducerStamp>) -> Header {
        self.attributes = codec as i16;
        if let Some(stamp) = stamp {
            self.producer_id = stamp.producer_id;
            self.producer_epoch = stamp.producer_epoch;
            self.base_sequence = stamp.base_sequence;
            self.attributes |= if stamp.transactional { TRANSACTIONAL } else { 0 };
        }
        self
    }
}
