//! The records inside a batch, read without copying or allocating.
//!
//! ```text
//! length             varint   bytes after this field
//! attributes         1 byte   unused
//! timestamp delta    varlong  to the batch's base timestamp
//! offset delta       varint   to the batch's base offset
//! key                varint length, -1: null; bytes
//! value              varint length, -1: null; bytes
//! headers            varint count; each: varint length, UTF-8 key; varint length, -1: null; value
//! ```
//!
//! All integers are zigzag varints. Source: Kafka's documentation, "Record".

use super::header::{BatchError, Codec, HEADER_BYTES, Header};
use crate::bytes::{Malformed, SliceReader, put_varlong, varlong_len};
use alloc::vec::Vec;

/// One record, borrowed from its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub offset_delta: i32,
    pub timestamp_delta: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
}

/// A record's headers as they stand in the batch, checked when the record was read. Kafka allows
/// the same key more than once and keeps the order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    count: i32,
    raw: &'a [u8],
}

impl<'a> Headers<'a> {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn len(&self) -> usize {
        self.count as usize
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        let mut reader = SliceReader::new(self.raw);
        (0..self.count)
            .map(move |_| read_header(&mut reader).expect("headers are checked when they are read"))
    }

    fn read(reader: &mut SliceReader<'a>) -> Result<Headers<'a>, Malformed> {
        let count = reader.varint()?;
        if count < 0 {
            return Err(Malformed);
        }
        let all = reader.rest();
        for _ in 0..count {
            check_header(reader)?;
        }
        Ok(Headers { count, raw: &all[..all.len() - reader.rest().len()] })
    }
}

/// As [`read_header`], which it makes infallible; most keys are ASCII, which is told faster.
#[inline]
fn check_header(reader: &mut SliceReader<'_>) -> Result<(), Malformed> {
    let key = reader.nullable_bytes()?.ok_or(Malformed)?;
    if !key.is_ascii() && core::str::from_utf8(key).is_err() {
        return Err(Malformed);
    }
    reader.nullable_bytes().map(drop)
}

#[inline]
fn read_header<'a>(reader: &mut SliceReader<'a>) -> Result<(&'a str, Option<&'a [u8]>), Malformed> {
    let key = reader.nullable_bytes()?.ok_or(Malformed)?;
    let key = core::str::from_utf8(key).map_err(|_| Malformed)?;
    Ok((key, reader.nullable_bytes()?))
}

/// The records of an uncompressed records section (`batch[61..]`), or of one that was decompressed.
/// Ends after the first error; bytes behind the last record are an error, too.
pub fn records(section: &[u8], count: i32) -> impl Iterator<Item = Result<Record<'_>, BatchError>> {
    raw_records(section, count).map(|read| read.map(|(record, _)| record))
}

/// As [`records`], each with its bytes.
pub(super) fn raw_records(
    section: &[u8],
    count: i32,
) -> impl Iterator<Item = Result<(Record<'_>, &[u8]), BatchError>> {
    let mut reader = SliceReader::new(section);
    let mut left = count;
    core::iter::from_fn(move || {
        if left <= 0 {
            let trailing = !reader.rest().is_empty();
            reader = SliceReader::new(&[]);
            return trailing.then_some(Err(BatchError::Records));
        }
        left -= 1;
        let before = reader.rest();
        let record = read_record(&mut reader).map_err(|Malformed| BatchError::Records);
        if record.is_err() {
            (left, reader) = (0, SliceReader::new(&[]));
        }
        let bytes = before.len() - reader.rest().len();
        Some(record.map(|record| (record, &before[..bytes])))
    })
}

fn read_record<'a>(section: &mut SliceReader<'a>) -> Result<Record<'a>, Malformed> {
    let mut reader = SliceReader::new(section.nullable_bytes()?.ok_or(Malformed)?);
    reader.u8()?;
    let timestamp_delta = reader.varlong()?;
    let offset_delta = reader.varint()?;
    let key = reader.nullable_bytes()?;
    let value = reader.nullable_bytes()?;
    let headers = Headers::read(&mut reader)?;
    if !reader.rest().is_empty() {
        return Err(Malformed);
    }
    Ok(Record { offset_delta, timestamp_delta, key, value, headers })
}

/// Appends a record, and more headers behind its own.
pub(super) fn put_record(
    out: &mut Vec<u8>,
    record: &Record<'_>,
    headers: &[(&str, Option<&[u8]>)],
) {
    let headers_count = (record.headers.len() + headers.len()) as i64;
    let mut len = 1
        + varlong_len(record.timestamp_delta)
        + varlong_len(record.offset_delta.into())
        + nullable_len(record.key)
        + nullable_len(record.value)
        + varlong_len(headers_count)
        + record.headers.raw.len();
    for (key, value) in headers {
        len += nullable_len(Some(key.as_bytes())) + nullable_len(*value);
    }
    out.reserve(len + 5);
    put_varlong(out, len as i64);
    out.push(0);
    put_varlong(out, record.timestamp_delta);
    put_varlong(out, record.offset_delta.into());
    put_nullable(out, record.key);
    put_nullable(out, record.value);
    put_varlong(out, headers_count);
    out.extend_from_slice(record.headers.raw);
    for (key, value) in headers {
        put_nullable(out, Some(key.as_bytes()));
        put_nullable(out, *value);
    }
}

fn nullable_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varlong_len(bytes.len() as i64) + bytes.len())
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varlong(out, -1),
        Some(bytes) => {
            put_varlong(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}

/// Kafka's rules for a batch that a client wrote, which are narrower than those for a batch in a
/// log. Returns the largest timestamp of its records: if it is not the header's, the leader
/// corrects the copy that it appends with [`super::stamp_max_timestamp`]. Compressed records are
/// believed: the core does not decompress.
pub fn check_produced(header: &Header, batch: &[u8]) -> Result<i64, BatchError> {
    let whole = header.base_offset.0 == 0
        && header.records_count > 0
        && i64::from(header.records_count) == i64::from(header.last_offset_delta) + 1;
    let sequenced = header.producer_id < 0 || header.base_sequence >= 0;
    if !whole || !sequenced || header.is_control() || header.delete_horizon().is_some() {
        return Err(BatchError::Header);
    }
    if header.codec() != Some(Codec::None) {
        return Ok(header.max_timestamp);
    }
    let section = batch.get(HEADER_BYTES..).ok_or(BatchError::Truncated)?;
    let mut timestamp_max = i64::MIN;
    for (offset_delta, record) in (0..).zip(records(section, header.records_count)) {
        let record = record?;
        if record.offset_delta != offset_delta {
            return Err(BatchError::Records);
        }
        timestamp_max =
            timestamp_max.max(header.base_timestamp.wrapping_add(record.timestamp_delta));
    }
    Ok(timestamp_max)
}
