//! Writing a batch anew with fewer records, for compaction.
//!
//! What stays: base offset and last offset delta, so that every offset means what it meant;
//! producer id, epoch and base sequence, so that a repeated batch is still recognised; the leader
//! epoch and the attributes. The largest timestamp becomes that of the records that are left; a
//! batch without records keeps what it had, as in Kafka.
//!
//! Delete horizon (KIP-534): a tombstone goes when it has been seen for `delete.retention.ms`, and
//! since when is written into its batch. Bit 6 of the attributes says so, and the base timestamp
//! then is the time from which the tombstones may go; records' timestamps are deltas to it.

use super::header::{BatchError, Codec, DELETE_HORIZON, HEADER_BYTES, Header};
use super::records::{Record, put_record, raw_records};
use alloc::vec;
use alloc::vec::Vec;

/// Checks the records of an uncompressed batch that is in a log: they are as many as the header
/// says, and their offsets ascend within the batch. Whatever a client compressed may be otherwise.
pub fn check_stored(header: &Header, batch: &[u8]) -> Result<(), BatchError> {
    let mut next = 0;
    for record in stored_records(header, batch)? {
        let (record, _) = record?;
        if record.offset_delta < next || record.offset_delta > header.last_offset_delta {
            return Err(BatchError::Records);
        }
        next = record.offset_delta.saturating_add(1);
    }
    Ok(())
}

/// The uncompressed batch with those of its records for which `keep` says so, `None` if there are
/// none. With a `delete_horizon`, that is set.
pub fn rewrite(
    header: &Header,
    batch: &[u8],
    delete_horizon: Option<i64>,
    mut keep: impl FnMut(&Record<'_>) -> bool,
) -> Result<Option<Vec<u8>>, BatchError> {
    let mut written = header.with_codec(Codec::None);
    if let Some(horizon) = delete_horizon {
        written.attributes |= DELETE_HORIZON;
        written.base_timestamp = horizon;
    }
    let moved = header.base_timestamp.wrapping_sub(written.base_timestamp);
    let mut out = Vec::with_capacity(batch.len());
    out.resize(HEADER_BYTES, 0);
    let mut max_timestamp = None;
    written.records_count = 0;
    for record in stored_records(header, batch)? {
        let (mut record, raw) = record?;
        if !keep(&record) {
            continue;
        }
        let timestamp = header.base_timestamp.wrapping_add(record.timestamp_delta);
        max_timestamp = max_timestamp.max(Some(timestamp));
        written.records_count += 1;
        if moved == 0 {
            out.extend_from_slice(raw);
        } else {
            record.timestamp_delta = record.timestamp_delta.wrapping_add(moved);
            put_record(&mut out, &record, &[]);
        }
    }
    let Some(max_timestamp) = max_timestamp else { return Ok(None) };
    if !header.is_log_append_time() {
        written.max_timestamp = max_timestamp;
    }
    written.write(&mut out);
    Ok(Some(out))
}

/// The batch without its records: what is left of a producer's last one, so that its sequence is
/// still known.
pub fn emptied(header: &Header) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    let written = Header { records_count: 0, ..*header }.with_codec(Codec::None);
    written.write(&mut out);
    out
}

type Raw<'a> = Result<(Record<'a>, &'a [u8]), BatchError>;

fn stored_records<'a>(
    header: &Header,
    batch: &'a [u8],
) -> Result<impl Iterator<Item = Raw<'a>>, BatchError> {
    let section = batch.get(HEADER_BYTES..).ok_or(BatchError::Truncated)?;
    Ok(raw_records(section, header.records_count))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::batch::{Builder, ProducerStamp, next_batch, records, stamp};
    use crate::rng::Rng;
    use crate::types::Offset;
    use bytes::Bytes;

    /// Ten records with keys 0 to 9, each with a header, the odd ones tombstones.
    fn ten() -> Vec<u8> {
        let mut builder = Builder::new();
        for number in 0..10u8 {
            let value = (number % 2 == 0).then_some(&b"value"[..]);
            let header = ("unit", Some(&[number][..]));
            builder.push(5_000 + i64::from(number), Some(&[number]), value, &[header]);
        }
        let stamp = ProducerStamp {
            producer_id: 9,
            producer_epoch: 2,
            base_sequence: 70,
            ..ProducerStamp::default()
        };
        let mut batch = builder.build(Some(stamp));
        super::super::stamp(&mut batch, Offset(100), 3);
        batch
    }

    /// Keys and timestamps of a batch whose checksum holds.
    fn read(batch: &[u8]) -> (Header, Vec<(u8, i64)>) {
        let (header, batch) = next_batch(&mut Bytes::copy_from_slice(batch)).unwrap().unwrap();
        check_stored(&header, &batch).unwrap();
        let read = records(&batch[HEADER_BYTES..], header.records_count).map(|record| {
            let record = record.unwrap();
            let key = record.key.unwrap()[0];
            assert_eq!(record.offset_delta, i32::from(key));
            assert_eq!(record.headers.iter().next(), Some(("unit", Some(&[key][..]))));
            (key, header.base_timestamp.wrapping_add(record.timestamp_delta))
        });
        let read = read.collect();
        (header, read)
    }

    #[test]
    fn a_batch_with_fewer_records_keeps_offsets_sequence_and_times() {
        let batch = ten();
        let (old, _) = read(&batch);
        for horizon in [None, Some(0), Some(i64::MAX)] {
            let few = |record: &Record<'_>| record.offset_delta % 3 == 1;
            let less = rewrite(&old, &batch, horizon, few).unwrap().unwrap();
            let (new, kept) = read(&less);
            assert_eq!(kept, [(1, 5_001), (4, 5_004), (7, 5_007)]);
            assert_eq!((new.base_offset, new.last_offset()), (old.base_offset, old.last_offset()));
            let producer =
                |header: &Header| (header.producer_id, header.producer_epoch, header.base_sequence);
            assert_eq!(producer(&new), producer(&old));
            assert_eq!((new.max_timestamp, new.last_sequence()), (5_007, old.last_sequence()));
            assert_eq!(new.partition_leader_epoch, 3);
            assert_eq!(new.delete_horizon(), horizon);
            let again = rewrite(&new, &less, None, |_| true).unwrap().unwrap();
            assert_eq!(again, less, "nothing more to do");
        }
        assert_eq!(rewrite(&old, &batch, None, |_| false), Ok(None));
        let (empty, none) = read(&emptied(&old));
        assert_eq!((empty.last_sequence(), empty.max_timestamp), (79, 5_009));
        assert!(none.is_empty());
    }

    #[test]
    fn with_log_append_time_the_batchs_time_stays() {
        let mut batch = ten();
        super::super::stamp_append_time(&mut batch, 9_000);
        let (old, _) = read(&batch);
        let less = rewrite(&old, &batch, None, |record| record.offset_delta == 0).unwrap().unwrap();
        assert_eq!(read(&less).0.max_timestamp, 9_000);
    }

    #[test]
    fn bad_records_are_refused_and_never_panic() {
        let batch = ten();
        let (old, _) = read(&batch);
        let mut rng = Rng::new(3);
        for len in HEADER_BYTES..batch.len() {
            assert!(check_stored(&old, &batch[..len]).is_err());
            assert!(rewrite(&old, &batch[..len], None, |_| true).is_err());
        }
        for _ in 0..20_000 {
            let mut damaged = batch.clone();
            for _ in 0..=rng.below(3) {
                let at = HEADER_BYTES as u64 + rng.below((batch.len() - HEADER_BYTES) as u64);
                damaged[at as usize] = rng.below(256) as u8;
            }
            let _ = check_stored(&old, &damaged);
            let _ = rewrite(&old, &damaged, Some(7), |record| record.key.is_some());
        }
        let mut doubled = batch.clone();
        stamp(&mut doubled, Offset(100), 3);
        // The delta of the second record becomes that of the first.
        let second = HEADER_BYTES + (batch.len() - HEADER_BYTES) / 10;
        let at = (second..).find(|&at| batch[at] == 2).unwrap();
        doubled[at] = 0;
        assert!(check_stored(&old, &doubled).is_err());
    }
}
