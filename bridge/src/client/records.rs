//! From fetched bytes to records: whole batches, decompressed within a limit, without what was
//! aborted.

use std::collections::BTreeSet;

use bytes::Bytes;
use weir_core::batch::{self, Codec, HEADER_BYTES, Header};
use weir_core::wire::fetch::AbortedTransaction;

use super::error::{Error, ErrorKind, Result};
use super::fetch::Fetched;
use crate::compress;

/// The batches of an answer that a reader of committed data sees, in order.
#[derive(Debug)]
pub struct Batches {
    records: Bytes,
    context: String,
    /// By first offset, the next one last.
    aborted: Vec<AbortedTransaction>,
    /// Producers inside an aborted transaction at this place.
    aborting: BTreeSet<i64>,
}

/// One of them.
#[derive(Debug)]
pub enum Batch {
    Data(Header, Bytes),
    /// Only offsets: a transaction's marker, or records that were aborted.
    Skipped(Header),
}

/// A record that outlives its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl Batches {
    pub fn new(fetched: &Fetched) -> Batches {
        let mut aborted = fetched.aborted_transactions.clone();
        aborted.sort_by_key(|t| std::cmp::Reverse(t.first_offset));
        Batches {
            records: fetched.records.clone(),
            context: format!("{}-{}", fetched.topic, fetched.partition),
            aborted,
            aborting: BTreeSet::new(),
        }
    }

    fn judge(&mut self, header: Header, batch: Bytes) -> Batch {
        while let Some(next) = self.aborted.last()
            && next.first_offset <= header.last_offset().0
        {
            self.aborting.insert(next.producer_id);
            self.aborted.pop();
        }
        if header.is_control() {
            // Either marker ends the transaction; what follows of this producer belongs to another
            // one.
            self.aborting.remove(&header.producer_id);
            return Batch::Skipped(header);
        }
        if header.is_transactional() && self.aborting.contains(&header.producer_id) {
            return Batch::Skipped(header);
        }
        Batch::Data(header, batch)
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        match batch::next_batch(&mut self.records)? {
            Ok((header, batch)) => Some(Ok(self.judge(header, batch))),
            // An answer may end in the middle of a batch: the limit of its bytes was reached.
            Err(batch::BatchError::Truncated) => {
                self.records.clear();
                None
            }
            Err(_) => {
                self.records.clear();
                Some(Err(Error::new(
                    ErrorKind::Malformed,
                    format!("reading a batch of {}", self.context),
                )))
            }
        }
    }
}

/// The records section of a batch, decompressed to at most `bytes_max`.
pub fn open_section(header: &Header, batch: &Bytes, bytes_max: usize) -> Result<Bytes> {
    let failed = |message: String| {
        let offset = header.base_offset;
        Error::new(ErrorKind::Malformed, format!("the batch at offset {offset}: {message}"))
    };
    let codec = header.codec().ok_or_else(|| failed("its codec is unknown".into()))?;
    let section = batch.slice(HEADER_BYTES.min(batch.len())..);
    match codec {
        Codec::None => Ok(section),
        codec => compress::decompress(codec, &section, bytes_max)
            .map(Bytes::from)
            .map_err(|e| failed(e.to_string())),
    }
}

/// The records of a batch from `from` on.
pub fn decode_records(header: &Header, batch: &Bytes, from: i64) -> Result<Vec<OwnedRecord>> {
    let section = open_section(header, batch, compress::SECTION_BYTES_MAX)?;
    let mut records = Vec::new();
    for record in batch::records(&section, header.records_count) {
        let record = record.map_err(|_| {
            let offset = header.base_offset;
            Error::new(ErrorKind::Malformed, format!("the records at offset {offset}"))
        })?;
        let offset = header.base_offset.0 + i64::from(record.offset_delta);
        if offset < from {
            continue;
        }
        let share = |bytes: &[u8]| section.slice_ref(bytes);
        records.push(OwnedRecord {
            offset,
            timestamp: record_timestamp(header, record.timestamp_delta),
            key: record.key.map(share),
            value: record.value.map(share),
            headers: record.headers.iter().map(|(k, v)| (k.into(), v.map(share))).collect(),
        });
    }
    Ok(records)
}

/// A record's time: its own, or that of the whole batch when the topic keeps append times.
pub(crate) fn record_timestamp(header: &Header, timestamp_delta: i64) -> i64 {
    if header.is_log_append_time() {
        header.max_timestamp
    } else {
        header.base_timestamp.wrapping_add(timestamp_delta)
    }
}
