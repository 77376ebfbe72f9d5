//! Batches of real clients, damaged batches, and producers in seeded disorder.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::bytes::Malformed;
use crate::error::ErrorCode;
use crate::limits::{PRODUCER_BATCHES_CHECKED, PRODUCERS_PER_PARTITION_MAX};
use crate::rng::Rng;
use crate::types::Offset;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

/// Two records of kcat 1.7.1 (librdkafka 2.0.2), idempotent, with two headers each, as Apache Kafka
/// 4.3.1 stored them.
const KCAT: &str = "00000000000000000000008b00000000026f90053800000000000100000\
    1a1fd946a47000001a1fd946a4700000000000000000000000000000000000258000000\
    20706c616e742f6c696e65312f74656d700832312e3504106d7174742e716f7302310a656d7074790158000002\
    20706c616e742f6c696e65312f74656d700832312e3604106d7174742e716f7302310a656d70747901";

fn kcat() -> Vec<u8> {
    let digits: Vec<u8> = KCAT.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn first(bytes: &[u8]) -> Result<(Header, Bytes), BatchError> {
    next_batch(&mut Bytes::copy_from_slice(bytes)).unwrap()
}

/// Everything that a reader of untrusted bytes does with them; must not panic.
fn read_all(bytes: &[u8]) -> Result<usize, BatchError> {
    let (header, batch) = first(bytes)?;
    check_produced(&header, &batch)?;
    let mut read = 0;
    for record in records(&batch[HEADER_BYTES..], header.records_count) {
        read += record?.headers.iter().count() + 1;
    }
    Ok(read)
}

#[test]
fn a_batch_of_kcat_is_read_as_it_was_sent() {
    let bytes = kcat();
    let (header, batch) = first(&bytes).unwrap();
    assert_eq!(batch, bytes);
    assert_eq!(header.codec(), Some(Codec::None));
    assert_eq!(
        (header.records_count, header.last_offset(), header.base_sequence),
        (2, Offset(1), 0)
    );
    assert_eq!((header.producer_id, header.producer_epoch, header.last_sequence()), (0, 0, 1));
    assert_eq!(check_produced(&header, &batch), Ok(header.max_timestamp));
    let read: Vec<Record> = records(&batch[61..], 2).map(Result::unwrap).collect();
    let key = Some(&b"plant/line1/temp"[..]);
    assert_eq!((read[0].key, read[0].value), (key, Some(&b"21.5"[..])));
    assert_eq!((read[1].key, read[1].value), (key, Some(&b"21.6"[..])));
    let headers: Vec<_> = read[1].headers.iter().collect();
    assert_eq!(headers, [("mqtt.qos", Some(&b"1"[..])), ("empty", None)]);
}

#[test]
fn the_builder_writes_the_bytes_that_kcat_writes() {
    let (header, _) = first(&kcat()).unwrap();
    let headers = [("mqtt.qos", Some(&b"1"[..])), ("empty", None)];
    let stamp = ProducerStamp::default();
    let push = |builder: &mut Builder| {
        for value in [b"21.5", b"21.6"] {
            let key = Some(&b"plant/line1/temp"[..]);
            builder.push(header.base_timestamp, key, Some(value), &headers);
        }
    };
    let mut builder = Builder::new();
    push(&mut builder);
    assert_eq!(builder.len(), kcat().len());
    let mut built = builder.clone().build(Some(stamp));
    super::stamp(&mut built, Offset::ZERO, 0);
    assert_eq!(built, kcat());
    let (header, section) = builder.into_section();
    let mut sealed = seal(header, Codec::None, &section, Some(stamp));
    super::stamp(&mut sealed, Offset::ZERO, 0);
    assert_eq!(sealed, kcat());
}

#[test]
fn every_prefix_and_every_flipped_bit_is_refused() {
    let bytes = kcat();
    for len in 1..bytes.len() {
        assert_eq!(read_all(&bytes[..len]), Err(BatchError::Truncated));
    }
    // Base offset and leader epoch are outside the checksum; only a base offset of 0 is produced.
    for bit in (0..bytes.len() * 8).filter(|bit| !(96..128).contains(bit)) {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(read_all(&damaged).is_err(), "bit {bit}");
    }
}

#[test]
fn damage_under_a_right_checksum_never_panics_or_reads_beyond() {
    let mut rng = Rng::new(1);
    for _ in 0..20_000 {
        let mut damaged = kcat();
        for _ in 0..rng.below(3) + 1 {
            let at = 21 + rng.below(damaged.len() as u64 - 21) as usize;
            damaged[at] = rng.next_u64() as u8;
        }
        super::stamp_max_timestamp(&mut damaged, 0);
        // At most one record or header a byte.
        assert!(read_all(&damaged).is_ok_and(|read| read < 200) || read_all(&damaged).is_err());
    }
}

#[test]
fn wrong_magic_and_lengths_have_kafkas_codes() {
    let check = |at: usize, value: u8, code: ErrorCode| {
        let mut bytes = kcat();
        bytes[at] = value;
        assert_eq!(first(&bytes).unwrap_err().code(), code, "byte {at} = {value}");
    };
    check(16, 0, ErrorCode::INVALID_RECORD);
    check(16, 1, ErrorCode::INVALID_RECORD);
    check(16, 3, ErrorCode::CORRUPT_MESSAGE);
    check(8, 0xff, ErrorCode::CORRUPT_MESSAGE);
    check(11, 3, ErrorCode::CORRUPT_MESSAGE);
    check(11, 0x8c, ErrorCode::CORRUPT_MESSAGE);
    check(17, 0, ErrorCode::CORRUPT_MESSAGE);
    check(22, 7, ErrorCode::UNSUPPORTED_COMPRESSION_TYPE);
    check(23, 0x80, ErrorCode::INVALID_RECORD);
    check(60, 3, ErrorCode::INVALID_RECORD);
}

#[test]
fn what_only_a_broker_may_write_is_refused_from_a_client() {
    let check = |change: fn(&mut Header), what: &str| {
        let (mut header, batch) = first(&kcat()).unwrap();
        change(&mut header);
        assert_eq!(check_produced(&header, &batch), Err(BatchError::Header), "{what}");
    };
    check(|header| header.base_offset = Offset(5), "base offset");
    check(|header| header.attributes |= 0x20, "control batch");
    check(|header| header.records_count = 1, "compacted batch");
    check(|header| (header.records_count, header.last_offset_delta) = (0, 0), "no records");
    check(|header| header.base_sequence = -1, "no sequence");
}

#[test]
fn a_record_count_that_is_not_that_of_the_records_is_refused() {
    let (mut header, batch) = first(&kcat()).unwrap();
    for count in [1, 3, i32::MAX] {
        (header.records_count, header.last_offset_delta) = (count, count - 1);
        assert_eq!(check_produced(&header, &batch), Err(BatchError::Records));
    }
}

#[test]
fn stamps_keep_the_checksum_right() {
    let mut batch = kcat();
    stamp(&mut batch, Offset(77), 5);
    let (header, _) = first(&batch).unwrap();
    assert_eq!((header.base_offset, header.partition_leader_epoch), (Offset(77), 5));
    stamp_max_timestamp(&mut batch, 9);
    stamp_append_time(&mut batch, 123);
    let (header, _) = first(&batch).unwrap();
    assert!(header.is_log_append_time() && header.max_timestamp == 123);
}

#[test]
fn built_records_come_back_and_kept_headers_stand_before_new_ones() {
    let mut rng = Rng::new(2);
    for _ in 0..500 {
        let mut builder = Builder::new();
        let mut model = Vec::new();
        for _ in 0..rng.below(20) + 1 {
            let mut bytes = |max| match rng.below(5) {
                0 => None,
                _ => Some(vec![rng.next_u64() as u8; rng.below(max) as usize]),
            };
            let (key, value, header) = (bytes(100), bytes(9000), bytes(10));
            let timestamp = rng.next_u64() as i64 >> rng.below(64);
            builder.push(timestamp, key.as_deref(), value.as_deref(), &[("h", header.as_deref())]);
            model.push((timestamp, key, value, header));
        }
        let len = builder.len();
        let built = builder.build(None);
        assert_eq!(built.len(), len);
        let (header, batch) = first(&built).unwrap();
        let newest = model.iter().map(|record| record.0).max().unwrap();
        assert_eq!((check_produced(&header, &batch), header.max_timestamp), (Ok(newest), newest));
        let mut again = Builder::with_capacity(len);
        for (record, want) in records(&batch[61..], header.records_count).zip(&model) {
            let record = record.unwrap();
            let timestamp = header.base_timestamp.wrapping_add(record.timestamp_delta);
            assert_eq!((timestamp, record.key), (want.0, want.1.as_deref()));
            assert_eq!(record.value, want.2.as_deref());
            let more = [("more", None)];
            again.push_with(timestamp, record.key, record.value, record.headers, &more);
        }
        let (header, batch) = first(&again.build(None)).unwrap();
        for (record, want) in records(&batch[61..], header.records_count).zip(&model) {
            let headers: Vec<_> = record.unwrap().headers.iter().collect();
            assert_eq!(headers, [("h", want.3.as_deref()), ("more", None)]);
        }
    }
}

/// A batch as a producer's sequences see it.
fn sent(producer_id: i64, producer_epoch: i16, base_sequence: i32, records_count: i32) -> Header {
    let (mut header, _) = first(&kcat()).unwrap();
    header.producer_id = producer_id;
    header.producer_epoch = producer_epoch;
    header.base_sequence = base_sequence;
    header.records_count = records_count;
    header.last_offset_delta = records_count - 1;
    header
}

/// Sends batches `(epoch, base sequence, records)` of one producer, the last of which is judged.
fn judge(batches: &[(i16, i32, i32)]) -> Result<Sequence, ErrorCode> {
    let mut producers = Producers::default();
    let mut offset = Offset(1000);
    let (last, before) = batches.split_last().unwrap();
    for (epoch, sequence, records) in before {
        let header = sent(7, *epoch, *sequence, *records);
        assert_eq!(producers.check(&header), Ok(Sequence::Append));
        producers.apply(&header, offset);
        offset = offset.plus(i64::from(*records));
    }
    let mut bytes = Vec::new();
    producers.encode(&mut bytes);
    assert_eq!(Producers::decode(&bytes), Ok(producers.clone()));
    producers.check(&sent(7, last.0, last.1, last.2))
}

fn duplicate(base_offset: i64) -> Result<Sequence, ErrorCode> {
    Ok(Sequence::Duplicate { base_offset: Offset(base_offset) })
}

const OUT_OF_ORDER: Result<Sequence, ErrorCode> = Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
const APPEND: Result<Sequence, ErrorCode> = Ok(Sequence::Append);

#[test]
fn a_batch_that_is_found_late_is_known_as_if_it_had_been_found_in_its_place() {
    let batches: Vec<(Header, Offset)> =
        (0..4).map(|n| (sent(7, 0, n * 2, 2), Offset(i64::from(n) * 10))).collect();
    let mut whole = Producers::default();
    batches.iter().for_each(|(header, base)| whole.apply(header, *base));
    for late in 0..4 {
        let mut producers = Producers::default();
        let rest = batches.iter().enumerate().filter(|(n, _)| *n != late);
        rest.for_each(|(_, (header, base))| producers.apply(header, *base));
        let (header, base) = &batches[late];
        producers.insert(header, *base);
        assert_eq!(producers, whole, "{late}");
        producers.insert(header, *base);
        assert_eq!(producers, whole, "{late} again");
    }
}

#[test]
fn sequences_follow_one_another_without_gaps() {
    assert_eq!(judge(&[(0, 0, 3), (0, 3, 2)]), APPEND);
    assert_eq!(judge(&[(0, 0, 3), (0, 4, 2)]), OUT_OF_ORDER);
    assert_eq!(judge(&[(0, 0, 3), (0, 1, 2)]), OUT_OF_ORDER);
}

#[test]
fn a_repeated_batch_is_answered_with_its_old_offset_while_it_is_one_of_the_last_five() {
    let six = [(0, 0, 1), (0, 1, 2), (0, 3, 1), (0, 4, 1), (0, 5, 1), (0, 6, 1)];
    let repeat = |batch| judge(&[&six[..], &[batch]].concat());
    assert_eq!(repeat((0, 6, 1)), duplicate(1006));
    assert_eq!(repeat((0, 1, 2)), duplicate(1001));
    assert_eq!(repeat((0, 1, 1)), OUT_OF_ORDER);
    assert_eq!(repeat((0, 0, 1)), OUT_OF_ORDER);
    assert_eq!(PRODUCER_BATCHES_CHECKED, 5);
}

#[test]
fn an_old_epoch_is_fenced_and_a_new_one_begins_with_zero() {
    let fenced = Err(ErrorCode::INVALID_PRODUCER_EPOCH);
    assert_eq!(judge(&[(1, 0, 1), (0, 1, 1)]), fenced);
    assert_eq!(judge(&[(0, 0, 1), (1, 1, 1)]), OUT_OF_ORDER);
    assert_eq!(judge(&[(0, 0, 1), (1, 0, 1)]), APPEND);
    assert_eq!(judge(&[(0, 0, 1), (1, 0, 2), (0, 0, 1)]), fenced);
    assert_eq!(judge(&[(0, 0, 1), (1, 0, 2), (1, 0, 1)]), OUT_OF_ORDER);
}

#[test]
fn a_producer_that_is_not_known_may_begin_anywhere_and_one_without_id_is_not_judged() {
    assert_eq!(judge(&[(3, 500, 1)]), APPEND);
    assert_eq!(judge(&[(3, 500, 1), (3, 501, 1)]), APPEND);
    let mut producers = Producers::default();
    producers.apply(&sent(-1, -1, -1, 4), Offset(0));
    assert_eq!((producers.len(), producers.check(&sent(-1, -1, -1, 4))), (0, APPEND));
}

/// What a producer's sequences say once batches of one record at offsets 0, 1 and so on, each an
/// epoch and a sequence, were appended and truncated to `to`.
fn truncated(batches: &[(i16, i32)], to: i64, next: (i16, i32)) -> Result<Sequence, ErrorCode> {
    let mut producers = Producers::default();
    for (offset, &(epoch, sequence)) in (0..).zip(batches) {
        producers.apply(&sent(7, epoch, sequence, 1), Offset(offset));
    }
    producers.truncate(Offset(to));
    producers.check(&sent(7, next.0, next.1, 1))
}

#[test]
fn a_truncated_batch_is_expected_again_and_the_acknowledged_one_before_it_stays_known() {
    let ten: Vec<(i16, i32)> = (0..10).map(|sequence| (0, sequence)).collect();
    for to in 5..=10 {
        assert_eq!(truncated(&ten, to, (0, to as i32)), APPEND);
        assert_eq!(truncated(&ten, to, (0, to as i32 + 1)), OUT_OF_ORDER);
        assert_eq!(truncated(&ten, to, (0, to as i32 - 1)), duplicate(to - 1));
    }
    assert_eq!(truncated(&ten, 4, (0, 9)), APPEND, "nothing is left, so nothing is known");
    let epochs = [(0, 0), (0, 1), (1, 0), (1, 1)];
    assert_eq!(truncated(&epochs, 3, (1, 1)), APPEND);
    assert_eq!(truncated(&epochs, 2, (0, 2)), APPEND, "the epoch before is the newest again");
    assert_eq!(truncated(&epochs, 2, (1, 0)), APPEND);
    assert_eq!(truncated(&epochs, 1, (0, 0)), duplicate(0));
}

#[test]
fn a_sequence_goes_on_with_zero_after_the_largest() {
    assert_eq!(judge(&[(0, i32::MAX, 1), (0, 0, 1)]), APPEND);
    assert_eq!(judge(&[(0, i32::MAX - 1, 4), (0, 2, 1)]), APPEND);
    assert_eq!(judge(&[(0, i32::MAX - 1, 4), (0, i32::MAX - 1, 4)]), duplicate(1000));
    assert_eq!(judge(&[(0, i32::MAX, 1), (0, 1, 1)]), OUT_OF_ORDER);
}

#[test]
fn a_full_table_forgets_the_producer_that_appended_longest_ago() {
    let mut producers = Producers::default();
    for id in 0..PRODUCERS_PER_PARTITION_MAX as i64 {
        producers.apply(&sent(id, 0, 0, 1), Offset(id));
    }
    producers.apply(&sent(0, 0, 1, 1), Offset(5000));
    producers.apply(&sent(9999, 0, 0, 1), Offset(5001));
    assert_eq!(producers.len(), PRODUCERS_PER_PARTITION_MAX);
    let ids: Vec<_> = producers.active().map(|producer| producer.producer_id).take(2).collect();
    assert_eq!(ids, [0, 2]);
    producers.expire(i64::MAX);
    assert!(producers.is_empty());
}

/// Producers with five batches in flight over a network that repeats, drops and reorders, and a
/// broker that forgets everything but its log and checkpoint. `Err` is the first sequence out of
/// place.
fn disorder(seed: u64, judge: impl Fn(&Producers, &Header) -> bool) -> Result<(), i32> {
    let mut rng = Rng::new(seed);
    let mut producers = Producers::default();
    let mut log: Vec<Header> = Vec::new();
    let mut first_unanswered = [0; 3];
    for _ in 0..400 {
        let id = rng.below(3);
        let base = first_unanswered[id as usize];
        let header = sent(id as i64, 0, base + rng.below(5) as i32, 1);
        if judge(&producers, &header) {
            producers.apply(&header, Offset(log.len() as i64));
            log.push(header);
        }
        let in_log = log.iter().filter(|header| header.producer_id == id as i64).count() as i32;
        // An answer may be lost, and then the same batches are sent again; but only the last five.
        if rng.percent(50) || in_log - base >= 5 {
            first_unanswered[id as usize] = in_log;
        }
        if rng.percent(5) {
            let mut bytes = Vec::new();
            producers.encode(&mut bytes);
            producers = Producers::decode(&bytes).unwrap();
        }
    }
    for id in 0..3 {
        for (want, header) in log.iter().filter(|header| header.producer_id == id).enumerate() {
            if header.base_sequence != want as i32 {
                return Err(header.base_sequence);
            }
        }
    }
    Ok(())
}

#[test]
fn every_sequence_is_appended_once_and_in_order_whatever_the_network_does() {
    let append = |producers: &Producers, header: &Header| producers.check(header) == APPEND;
    // A producer that the broker does not know is believed, so the run begins with a known
    // sequence.
    let known = |producers: &Producers, header: &Header| {
        let new = producers.active().all(|known| known.producer_id != header.producer_id);
        if new { header.base_sequence == 0 } else { append(producers, header) }
    };
    for seed in 0..200 {
        assert_eq!(disorder(seed, known), Ok(()), "seed {seed}");
    }
    // The checker sees a broker that appends what it knows already.
    let forgetful = |producers: &Producers, header: &Header| {
        known(producers, header)
            || matches!(producers.check(header), Ok(Sequence::Duplicate { .. }))
    };
    assert!((0..200).any(|seed| disorder(seed, forgetful).is_err()));
}

#[test]
fn a_damaged_checkpoint_of_producers_is_malformed_or_something_else_that_is_valid() {
    let mut producers = Producers::default();
    for id in 0..5 {
        for sequence in 0..7 {
            let offset = Offset(i64::from(sequence) * 300 + id);
            producers.apply(&sent(id * 1000, 2, sequence, 1), offset);
        }
    }
    let mut bytes = Vec::new();
    producers.encode(&mut bytes);
    for len in 0..bytes.len() {
        assert_eq!(Producers::decode(&bytes[..len]), Err(Malformed));
    }
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(decoded) = Producers::decode(&damaged) {
            let mut again = Vec::new();
            decoded.encode(&mut again);
            assert_eq!(Producers::decode(&again), Ok(decoded));
        }
    }
}
