//! What goes over the link for what stands in the source, batch by batch.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use weir_core::batch::{self, Builder, Codec, Header, next_batch, seal, stamp, stamp_append_time};
use weir_core::types::Offset;

use super::gap::Gap;
use super::rebatch::{HEADER_CLUSTER, HEADER_OFFSET, HEADER_TIMESTAMP, Origin, Rebatcher};
use super::rebatch::{Refused, Rules};
use crate::client::{OwnedRecord, decode_records};
use crate::compress;

fn rebatcher(change: impl FnOnce(&mut Rules)) -> Rebatcher {
    let origin = Origin {
        cluster: "gateway".into(),
        target_cluster: "centre".into(),
        topic: "t".into(),
        partition: 3,
    };
    let mut rules = Rules {
        pass_through_bytes: 2_000,
        batch_bytes: 10_000,
        dense: false,
        refused: Refused::default(),
    };
    change(&mut rules);
    Rebatcher::new(origin, rules, 100)
}

/// A batch as it stands in the source at an offset: records of 50 bytes, with the cluster ids that
/// they have been mirrored from.
fn source(at: i64, values: &[&str], codec: Codec, from: &[&str]) -> (Header, Bytes) {
    let mut builder = Builder::new();
    for value in values {
        let headers: Vec<_> = from.iter().map(|id| (HEADER_CLUSTER, Some(id.as_bytes()))).collect();
        builder.push(1_000, Some(b"k"), Some(value.as_bytes()), &headers);
    }
    let (header, section) = builder.into_section();
    let mut sealed = seal(header, codec, &compress::compress(codec, &section).unwrap(), None);
    stamp(&mut sealed, Offset(at), 7);
    next_batch(&mut Bytes::from(sealed)).unwrap().unwrap()
}

fn take(rebatcher: &mut Rebatcher, batch: (Header, Bytes)) {
    rebatcher.batch(&batch.0, &batch.1);
}

/// Every piece as the target's readers see it.
fn arrived(rebatcher: &mut Rebatcher) -> Vec<Vec<OwnedRecord>> {
    rebatcher.close();
    let decode = |piece: &super::rebatch::Piece| {
        let sealed = seal(piece.header, piece.codec, &piece.section, None);
        let (header, batch) = next_batch(&mut Bytes::from(sealed)).unwrap().unwrap();
        assert_eq!((header.base_offset.0, header.producer_id), (0, -1));
        assert_eq!(header.records_count, header.last_offset_delta + 1);
        decode_records(&header, &batch, 0).unwrap()
    };
    rebatcher.pieces.iter().map(decode).collect()
}

fn header(record: &OwnedRecord, name: &str) -> Option<String> {
    let found = record.headers.iter().find(|(key, _)| key == name)?;
    Some(String::from_utf8(found.1.clone()?.to_vec()).unwrap())
}

fn values(records: &[OwnedRecord]) -> Vec<String> {
    records.iter().map(|r| String::from_utf8(r.value.clone().unwrap().to_vec()).unwrap()).collect()
}

/// What does not compress.
fn noise(len: usize) -> String {
    let mut rng = weir_core::rng::Rng::new(len as u64);
    (0..len).map(|_| char::from(b'!' + rng.below(90) as u8)).collect()
}

#[test]
fn small_batches_become_one_with_provenance_whatever_their_codec() {
    let mut rebatcher = rebatcher(|_| ());
    take(&mut rebatcher, source(100, &["a", "b"], Codec::None, &[]));
    take(&mut rebatcher, source(102, &["c"], Codec::Snappy, &["elsewhere"]));
    take(&mut rebatcher, source(110, &["d"], Codec::Lz4, &[]));
    let arrived = arrived(&mut rebatcher);
    assert_eq!(arrived.len(), 1);
    assert_eq!(values(&arrived[0]), ["a", "b", "c", "d"]);
    let offsets: Vec<_> = arrived[0].iter().filter_map(|r| header(r, HEADER_OFFSET)).collect();
    assert_eq!(offsets, ["100", "101", "102", "110"]);
    assert_eq!((rebatcher.pieces[0].first, rebatcher.pieces[0].last), (100, 110));
    assert_eq!((rebatcher.position, rebatcher.records), (111, 4));
}

#[test]
fn a_position_inside_a_batch_leaves_out_what_was_mirrored() {
    let mut rebatcher = rebatcher(|_| ());
    take(&mut rebatcher, source(98, &["x", "y", "a"], Codec::Zstd, &[]));
    take(&mut rebatcher, source(95, &["x"], Codec::None, &[]));
    assert_eq!(values(&arrived(&mut rebatcher)[0]), ["a"]);
    assert_eq!(rebatcher.position, 101);
}

#[test]
fn a_large_compressed_batch_passes_through_and_keeps_its_place() {
    let large = noise(3_000);
    let mut rebatcher = rebatcher(|_| ());
    take(&mut rebatcher, source(100, &["a"], Codec::None, &[]));
    take(&mut rebatcher, source(101, &[&large, "b"], Codec::Gzip, &[]));
    take(&mut rebatcher, source(103, &["c"], Codec::None, &[]));
    let arrived = arrived(&mut rebatcher);
    let found: Vec<_> = arrived.iter().map(|records| values(records)).collect();
    assert_eq!(found, [vec!["a".to_string()], vec![large.clone(), "b".into()], vec!["c".into()]]);
    let piece = &rebatcher.pieces[1];
    assert!(piece.passed && piece.codec == Codec::Gzip && (piece.first, piece.last) == (101, 102));
    assert_eq!(arrived[1][0].headers, []);
    // Not where names are kept, not when it was refused, and not with the leader's time in it.
    let unpacked = |change: fn(&mut Rules), append_time: bool| {
        let mut rebatcher = self::rebatcher(change);
        let (_, batch) = source(100, &[&large], Codec::Gzip, &[]);
        let mut batch = batch.to_vec();
        if append_time {
            stamp_append_time(&mut batch, 5_000);
        }
        let (header, batch) = next_batch(&mut Bytes::from(batch)).unwrap().unwrap();
        rebatcher.batch(&header, &batch);
        let arrived = self::arrived(&mut rebatcher);
        assert!(!rebatcher.pieces[0].passed);
        arrived[0][0].timestamp
    };
    assert_eq!(unpacked(|rules| rules.pass_through_bytes = 0, false), 1_000);
    assert_eq!(unpacked(|rules| rules.refused.unpack_until = 101, false), 1_000);
    assert_eq!(unpacked(|_| (), true), 5_000);
}

#[test]
fn records_that_have_been_here_or_there_do_not_go_round() {
    let mut rebatcher = rebatcher(|_| ());
    take(&mut rebatcher, source(100, &["back"], Codec::None, &["elsewhere", "gateway"]));
    take(&mut rebatcher, source(101, &["on"], Codec::None, &["elsewhere"]));
    take(&mut rebatcher, source(102, &["there"], Codec::None, &["centre"]));
    assert_eq!(values(&arrived(&mut rebatcher)[0]), ["on"]);
    assert_eq!((rebatcher.loops, rebatcher.records, rebatcher.position), (2, 1, 103));
}

#[test]
fn what_is_refused_comes_in_smaller_batches_without_its_time_and_as_a_gap_at_last() {
    let mut rebatcher = rebatcher(|rules| {
        rules.refused.split_until = 104;
        rules.refused.split_records = 2;
        rules.refused.timeless_until = 101;
        rules.refused.records = vec![(102, "too large".into())];
    });
    take(&mut rebatcher, source(100, &["a", "b", "c", "d", "e", "f", "g"], Codec::None, &[]));
    let arrived = arrived(&mut rebatcher);
    let counts: Vec<_> = arrived.iter().map(Vec::len).collect();
    assert_eq!(counts, [2, 1, 4]);
    assert_eq!((arrived[0][0].timestamp, arrived[0][1].timestamp), (-1, 1_000));
    assert_eq!(header(&arrived[0][0], HEADER_TIMESTAMP).unwrap(), "1000");
    assert_eq!(values(&arrived[1]), [r#"{"from":102,"to":103,"reason":"too large"}"#]);
    assert_eq!(header(&arrived[1][0], super::GAP).unwrap(), "too large");
    assert_eq!((rebatcher.gaps, rebatcher.records, rebatcher.position), (1, 6, 107));
}

#[test]
fn a_batch_is_closed_before_it_grows_too_large() {
    let mut rebatcher = rebatcher(|_| ());
    let (value, huge) = (noise(3_000), noise(30_000));
    for at in 100..104 {
        take(&mut rebatcher, source(at, &[&value], Codec::None, &[]));
    }
    take(&mut rebatcher, source(104, &[&huge], Codec::None, &[]));
    take(&mut rebatcher, source(105, &["small"], Codec::None, &[]));
    let counts: Vec<_> = arrived(&mut rebatcher).iter().map(Vec::len).collect();
    assert_eq!(counts, [3, 1, 1, 1]);
}

#[test]
fn damaged_records_leave_a_gap_and_a_batch_that_cannot_be_unpacked_passes_through() {
    let mut rebatcher = rebatcher(|_| ());
    let (header, batch) = source(100, &["a", "b"], Codec::None, &[]);
    let cut = batch::seal(header, Codec::None, &batch[61..batch.len() - 1], None);
    let (header, batch) = next_batch(&mut Bytes::from(cut)).unwrap().unwrap();
    rebatcher.batch(&Header { base_offset: Offset(100), ..header }, &batch);
    let (header, _) = source(102, &["c"], Codec::Zstd, &[]);
    let garbage = seal(header, Codec::Zstd, b"no zstd at all", None);
    rebatcher.batch(&Header { base_offset: Offset(102), ..header }, &Bytes::from(garbage));
    assert_eq!((rebatcher.gaps, rebatcher.position, rebatcher.pieces.len()), (1, 103, 2));
    assert!(rebatcher.pieces[1].passed);
}

#[test]
fn a_gap_keeps_its_place_between_records() {
    let mut rebatcher = rebatcher(|_| ());
    take(&mut rebatcher, source(100, &["a"], Codec::None, &[]));
    rebatcher.gap(&Gap { from: 101, to: 200, reason: "a \"quoted\" reason".into() });
    take(&mut rebatcher, source(200, &["b"], Codec::None, &[]));
    let arrived = arrived(&mut rebatcher);
    let marker = r#"{"from":101,"to":200,"reason":"a \"quoted\" reason"}"#;
    let found: Vec<_> = arrived.iter().flat_map(|records| values(records)).collect();
    assert_eq!(found, ["a", marker, "b"]);
}

#[test]
fn a_hole_is_a_gap_where_nothing_is_compacted() {
    for (dense, expected) in [(false, 0), (true, 1)] {
        let mut rebatcher = rebatcher(|rules| rules.dense = dense);
        take(&mut rebatcher, source(98, &["x", "y", "a"], Codec::None, &[]));
        take(&mut rebatcher, source(101, &["b"], Codec::None, &[]));
        take(&mut rebatcher, source(110, &["c"], Codec::None, &[]));
        assert_eq!((rebatcher.gaps, rebatcher.position), (expected, 111));
    }
}
