//! What is read from flash is what was written, or it is nothing: not what a flipped bit, a cut, or
//! a right checksum over something impossible would make of it.
#![allow(clippy::unwrap_used)]

use super::checkpoint::{self, Image, LaneTail, PartPlace, SlotImage};
use super::footer::{self, SlotIndex, Spot, TRAILER_BYTES, Tail};
use super::frame::{EpochAge, FRAME_HEADER_BYTES, FrameHeader, Kind};
use super::group::{self, Found, GROUP_HEADER_BYTES, GroupHeader};
use super::slot::SlotHeader;
use super::superblock::{self, Bad};
use super::*;
use crate::log::Lane;
use crate::log::partition::Partition;
use crate::log::runs::Run;
use crate::rng::Rng;
use crate::types::{LeaderEpoch, Offset, PartitionNumber};
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

const STORE: [u8; 16] = *b"a store's number";
const SEG_SEQ: u64 = 77;

/// Calls with each of `bytes` changed in each bit.
fn flips(bytes: &[u8], mut check: impl FnMut(usize, Bytes)) {
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        check(bit / 8, Bytes::from(flipped));
    }
}

#[test]
fn places_beyond_4_gib_are_told_apart_from_those_before() {
    let geometry = Geometry { store: STORE, node: 1, slot_bytes: 4 << 20, slots: 4_096 };
    assert_eq!(geometry.place(1_022, 7), (4 << 30) + 7);
    assert_eq!(geometry.place(4_095, 7), 4_097 * (4 << 20) + 7);
    assert_eq!(geometry.slots_on(16 << 30), 4_094);
}

#[test]
fn a_superblock_is_whole_or_invalid_or_newer() {
    let geometry = Geometry { store: STORE, node: -3, slot_bytes: 4 << 20, slots: 2048 };
    let block = superblock::encode(&geometry);
    assert_eq!(superblock::parse(&block), Ok(geometry));
    for len in 0..44 {
        assert_eq!(superblock::parse(&block[..len]), Err(Bad::Invalid), "{len} bytes");
    }
    flips(&block[..44], |at, block| {
        assert_eq!(superblock::parse(&block), Err(Bad::Invalid), "byte {at}");
    });
    let mut newer = block.to_vec();
    (newer[9], newer[43]) = (2, !newer[43]);
    assert_eq!(superblock::parse(&newer), Err(Bad::Newer(2)));
    assert_eq!(superblock::parse(&[0; 4096]), Err(Bad::Blank));
    assert_eq!(superblock::parse(&[]), Err(Bad::Invalid), "what cannot be read is not blank");
}

#[test]
fn a_superblock_that_no_log_can_be_kept_with_is_invalid() {
    let usable = Geometry { store: STORE, node: 1, slot_bytes: 1 << 20, slots: 8 };
    for slot_bytes in [0, 1, 16 << 10, (1 << 20) + 1, 128 << 20, 1 << 31] {
        let block = superblock::encode(&Geometry { slot_bytes, ..usable });
        assert_eq!(superblock::parse(&block), Err(Bad::Invalid), "slots of {slot_bytes}");
    }
    for slots in [0, 7, u32::MAX] {
        let block = superblock::encode(&Geometry { slots, ..usable });
        assert_eq!(superblock::parse(&block), Err(Bad::Invalid), "{slots} slots");
    }
}

#[test]
fn a_slot_header_is_whole_and_of_its_slot_or_none() {
    let header = SlotHeader { lane: 2, slot: 9, boot_epoch: 4, seg_seq: SEG_SEQ, prev_seg_seq: 70 };
    let block = header.encode(&STORE);
    assert_eq!(SlotHeader::parse(&block, &STORE, 9), Some(header));
    assert_eq!(SlotHeader::parse(&block, &STORE, 8), None);
    assert_eq!(SlotHeader::parse_any(&block, &STORE), Some(header));
    assert_eq!(SlotHeader::parse_any(&block, &[0; 16]), None, "of another store");
    for len in 0..52 {
        assert_eq!(SlotHeader::parse_any(&block[..len], &STORE), None, "{len} bytes");
    }
    flips(&block[..52], |at, block| {
        assert_eq!(SlotHeader::parse_any(&block, &STORE), None, "byte {at}");
    });
    let block = SlotHeader { lane: 4, ..header }.encode(&STORE);
    assert_eq!(SlotHeader::parse_any(&block, &STORE), None, "no such lane");
}

fn frame(kind: Kind, base_offset: i64, body: &[u8]) -> FrameHeader {
    FrameHeader {
        kind,
        copied: false,
        partition: PartitionNumber(5),
        base_offset: Offset(base_offset),
        last_offset_delta: 2,
        leader_epoch: LeaderEpoch(1),
        body_bytes: body.len() as u32,
        epoch_age: EpochAge::default(),
    }
}

#[test]
fn a_frame_is_whole_or_none() {
    let seed = frame_seed(&STORE, SEG_SEQ);
    let mut bytes = Vec::new();
    let header = frame(Kind::Checkpoint, 12, b"a body");
    header.put(seed, b"a body", &mut bytes);
    assert_eq!(FrameHeader::verify(&bytes, seed), Some(header));
    assert_eq!(header.end_offset(), Offset(15));
    assert_eq!(FrameHeader::verify(&bytes, frame_seed(&STORE, SEG_SEQ - 1)), None, "earlier use");
    for len in 0..bytes.len() {
        assert_eq!(FrameHeader::verify(&bytes[..len], seed), None, "{len} bytes");
    }
    flips(&bytes, |at, bytes| {
        assert_eq!(FrameHeader::verify(&bytes, seed), None, "byte {at}");
    });
    let (mut backward, mut hole) = (Vec::new(), Vec::new());
    FrameHeader { last_offset_delta: -1, ..header }.put(seed, b"a body", &mut backward);
    assert_eq!(FrameHeader::verify(&backward, seed), None, "ends before it begins");
    frame(Kind::Replace, 12, &[]).put(seed, &[], &mut hole);
    assert_eq!(FrameHeader::verify(&hole, seed).unwrap().frame_bytes(), FRAME_HEADER_BYTES);
    for (kind, says_so) in [(Kind::Replace, true), (Kind::Batch, false)] {
        let copy = FrameHeader { copied: true, ..frame(kind, 12, b"") };
        let mut bytes = Vec::new();
        copy.put(seed, b"", &mut bytes);
        let read = FrameHeader::verify(&bytes, seed);
        assert_eq!(read, says_so.then_some(copy), "only of kind replace");
    }
}

#[test]
fn every_kind_of_frame_has_a_name_of_its_own_and_there_are_no_others() {
    let mut names = Vec::new();
    for kind in 0..=255 {
        let mut bytes = vec![0; FRAME_HEADER_BYTES];
        bytes[0] = kind;
        names.extend(FrameHeader::peek(&bytes).map(|header| header.kind.name()));
    }
    assert_eq!(names.len(), 8);
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 8);
}

fn header() -> GroupHeader {
    GroupHeader {
        lane: 1,
        bytes: 0,
        frames: 1,
        slot: 9,
        boot_epoch: 4,
        seg_seq: SEG_SEQ,
        group_seq: 1000,
        durable_seq: 999,
        prev_group_seq: 998,
        prev_group_crc: 5,
        checkpoint: None,
        epoch_base: 990,
        epoch_first: 991,
        crc: 0,
    }
}

#[test]
fn a_group_is_whole_and_of_its_slot_or_nothing() {
    let seed = group_seed(&STORE);
    let mut bytes = vec![0; GROUP_HEADER_BYTES];
    frame(Kind::Checkpoint, 1, b"a body").put(frame_seed(&STORE, SEG_SEQ), b"a body", &mut bytes);
    let mut header = header();
    header.finish(&mut bytes, 0, seed);
    let bytes = Bytes::from(bytes);
    let find = |bytes: &Bytes, room: usize, slot: u32, seg_seq: Option<u64>| match group::find(
        bytes, room, slot, seg_seq, seed,
    ) {
        Found::Group(found, group) => {
            assert_eq!((found, group.len()), (header, header.bytes as usize));
            "group"
        }
        Found::Longer(len) => {
            assert_eq!(len, 4096);
            "longer"
        }
        Found::Nothing => "nothing",
    };
    assert_eq!(find(&bytes, 4096, 9, Some(SEG_SEQ)), "group");
    assert_eq!(find(&bytes, 4096, 9, None), "group");
    assert_eq!(find(&bytes, 4095, 9, None), "nothing", "it runs out of its slot");
    assert_eq!(find(&bytes, 4096, 8, None), "nothing", "of another slot");
    assert_eq!(find(&bytes, 4096, 9, Some(SEG_SEQ + 1)), "nothing", "of an earlier use");
    let mut endless = bytes.to_vec();
    endless[8..12].copy_from_slice(&[0xff; 4]);
    assert_eq!(find(&endless.into(), 4096, 9, None), "nothing", "its length is no length");
    let len = header.bytes as usize;
    assert!(!header.holds(&bytes[..len - 1], seed), "not there in whole");
    for cut in 0..len {
        let expected = if cut < GROUP_HEADER_BYTES { "nothing" } else { "longer" };
        assert_eq!(find(&bytes.slice(..cut), 4096, 9, None), expected, "{cut} bytes");
    }
    flips(&bytes[..len], |at, bytes| {
        // A length that is too great asks for more.
        let found = find_any(&bytes, seed);
        assert!(!found || (8..12).contains(&at), "byte {at}");
    });
}

/// Whether there is something of a group.
fn find_any(bytes: &Bytes, seed: u32) -> bool {
    !matches!(group::find(bytes, 1 << 20, 9, Some(SEG_SEQ), seed), Found::Nothing)
}

fn spot(at: u32, base_offset: i64, records: i64) -> Spot {
    Spot {
        at,
        frame_bytes: 132,
        batch_bytes: 100,
        base_offset: Offset(base_offset),
        end_offset: Offset(base_offset + records),
        leader_epoch: LeaderEpoch(base_offset as i32 / 10),
        max_timestamp: base_offset * 1000,
    }
}

/// Two partitions, one of them with an older extent that a later one is written over.
fn index() -> SlotIndex {
    let mut index = SlotIndex::new(2, SEG_SEQ);
    index.add(PartitionNumber(5), spot(4096, 10, 5));
    index.add(PartitionNumber(5), spot(4300, 15, 5));
    index.add(PartitionNumber(6), spot(5000, 0, 1));
    index.add(PartitionNumber(5), spot(6000, 12, 2));
    index.set_log_start(PartitionNumber(6), Offset(1));
    index.add_group(&GroupHeader { crc: 123, ..header() }, 8192);
    index
}

#[test]
fn a_footer_is_whole_and_of_its_slot_or_nothing() {
    let index = index();
    let bytes = index.encode(&STORE, 9);
    let parse = |bytes: &Bytes, slot: u32, seg_seq| footer::parse(bytes, &STORE, slot, seg_seq);
    for seg_seq in [None, Some(SEG_SEQ)] {
        let Tail::Footer(found) = parse(&bytes, 9, seg_seq) else { panic!("there is one") };
        assert_eq!(found.parts, index.parts);
        assert_eq!(found.groups, index.groups);
        assert_eq!((found.lane, found.last_seq, found.data_end), (2, 1000, 8192));
        assert_eq!((found.first_seq, found.last_crc), (1000, 123));
    }
    assert!(matches!(parse(&bytes, 8, None), Tail::Nothing), "of another slot");
    assert!(matches!(parse(&bytes, 9, Some(SEG_SEQ + 1)), Tail::Nothing), "of another use");
    let mut lane = index.clone();
    lane.lane = 4;
    let lane = lane.encode(&STORE, 9);
    assert!(matches!(parse(&lane, 9, None), Tail::Nothing), "no such lane");
    for len in 0..bytes.len() {
        match parse(&bytes.slice(bytes.len() - len..), 9, None) {
            Tail::Longer(longer) => assert!(longer == 4096 && len >= TRAILER_BYTES),
            other => assert!(matches!(other, Tail::Nothing) && len < TRAILER_BYTES),
        }
    }
    let trailer = bytes.len() - TRAILER_BYTES;
    flips(&bytes, |at, flipped| match parse(&flipped, 9, Some(SEG_SEQ)) {
        Tail::Footer(found) => {
            // The padding between payload and trailer is no part of it.
            assert!(
                (payload_bytes(&bytes)..trailer).contains(&at) && found.parts == index.parts,
                "byte {at}"
            );
        }
        // The version, and a byte that is always zero, are under the checksum; the length is not.
        Tail::Longer(_) => assert!((trailer + 12..trailer + 16).contains(&at), "byte {at}"),
        Tail::Nothing => {}
    });
}

fn payload_bytes(footer: &[u8]) -> usize {
    let at = footer.len() - TRAILER_BYTES + 12;
    u32::from_be_bytes(footer[at..at + 4].try_into().unwrap()) as usize
}

/// The footer with another payload and a right checksum.
fn resealed(bytes: &[u8], payload: &[u8]) -> Bytes {
    let mut trailer = bytes[bytes.len() - TRAILER_BYTES..].to_vec();
    trailer[12..16].copy_from_slice(&(payload.len() as u32).to_be_bytes());
    let crc = checksum(&STORE, &[&trailer[..48], payload]);
    trailer[48..52].copy_from_slice(&crc.to_be_bytes());
    let mut out = payload.to_vec();
    out.resize(pad(payload.len() + TRAILER_BYTES) - TRAILER_BYTES, 0);
    out.extend_from_slice(&trailer);
    Bytes::from(out)
}

#[test]
fn a_footer_of_nonsense_with_a_right_checksum_is_nothing_or_some_index_but_no_panic() {
    let bytes = index().encode(&STORE, 9);
    let payload = &bytes[..payload_bytes(&bytes)];
    let is_nothing = |payload: &[u8]| {
        let bytes = resealed(&bytes, payload);
        matches!(footer::parse(&bytes, &STORE, 9, None), Tail::Nothing)
    };
    assert!(!is_nothing(payload));
    for len in 0..payload.len() {
        assert!(is_nothing(&payload[..len]), "{len} bytes of payload");
    }
    // No groups, one partition, all fields zero, one extent that lies beyond what a slot can be.
    let extent = |head: u8, fields: &[u8]| [&[0, 1, 5, 0, 0, 0, 0, 0, 1, head], fields].concat();
    assert!(!is_nothing(&extent(9, &[18, 18])));
    assert!(is_nothing(&extent(9, &[0xfe, 0xff, 0xff, 0xff, 0x1f, 18])));
    assert!(is_nothing(&extent(9, &[18, 17])), "fewer bytes than none");
    assert!(is_nothing(&extent(9 | 1 << 5, &[18, 18])), "in a group that is not there");
    let mut rng = Rng::new(1);
    for _ in 0..5_000 {
        let mut wrong = payload.to_vec();
        for _ in 0..=rng.below(3) {
            let at = rng.below(wrong.len() as u64) as usize;
            wrong[at] = rng.next_u64() as u8;
        }
        let bytes = resealed(&bytes, &wrong);
        if let Tail::Footer(index) = footer::parse(&bytes, &STORE, 9, None) {
            for part in index.parts.values() {
                for offset in 0..30 {
                    part.extent_at(Offset(offset), u32::MAX);
                    part.next_base(Offset(offset));
                }
            }
        }
    }
}

/// A slot as it is written: group by group, the frames of each by partition.
fn written(rng: &mut Rng) -> SlotIndex {
    let mut index = SlotIndex::new(1, SEG_SEQ);
    let (mut ends, mut at) = ([0i64; 9], 4096);
    for group_seq in 0..1 + rng.below(40) {
        let mut end = at + GROUP_HEADER_BYTES as u32;
        for (number, next) in (0..9).map(PartitionNumber).zip(&mut ends) {
            if rng.percent(3) {
                index.truncate(number, Offset(*next - 1), [at, end][rng.below(2) as usize], 9);
            }
            end += [0, 32][usize::from(rng.percent(10))];
            for _ in 0..rng.below(3) {
                *next -= i64::from(rng.percent(3)) * 3;
                let frame_bytes = [300, 300, 40_000][rng.below(3) as usize];
                let spot = Spot { frame_bytes, ..spot(end, (*next).max(0), 1) };
                index.add(number, spot);
                (*next, end) = (spot.end_offset.0, end + frame_bytes);
            }
        }
        let bytes = end - at;
        at += pad(bytes as usize) as u32;
        index.add_group(&GroupHeader { bytes, group_seq, ..header() }, at);
    }
    index
}

#[test]
fn a_footer_takes_no_more_than_was_kept_for_it_and_gives_back_what_was_written() {
    for seed in 0..300 {
        let index = written(&mut Rng::new(seed));
        let bytes = index.encode(&STORE, 9);
        assert!(bytes.len() <= index.footer_bytes(0), "seed {seed}");
        let spare = index.footer_bytes(0) - pad(payload_bytes(&bytes) + TRAILER_BYTES);
        assert!(spare <= 2 * BLOCK as usize, "seed {seed}: {spare} bytes for nothing");
        let Tail::Footer(found) = footer::parse(&bytes, &STORE, 9, None) else { panic!("{seed}") };
        assert_eq!((&found.parts, &found.groups), (&index.parts, &index.groups), "seed {seed}");
    }
}

#[test]
fn extents_that_are_alike_take_a_byte_each() {
    let mut index = SlotIndex::new(1, SEG_SEQ);
    for group in 0..14 {
        let at = 4096 + group * 16_384;
        for number in 0..60 {
            let begin = at + GROUP_HEADER_BYTES as u32 + number * 132;
            let spot = Spot { max_timestamp: i64::from(group) << 16, ..spot(begin, 0, 1) };
            let [base_offset, end_offset] = [0, 1].map(|more| Offset((group + more).into()));
            let spot = Spot { base_offset, end_offset, leader_epoch: LeaderEpoch(1), ..spot };
            index.add(PartitionNumber(number), spot);
        }
        let group = GroupHeader { bytes: 16_384, group_seq: u64::from(group), ..header() };
        index.add_group(&group, at + 16_384);
    }
    let bytes = payload_bytes(&index.encode(&STORE, 9));
    assert!(bytes < 60 * (14 + 20), "{bytes} bytes for 14 extents of each of 60 partitions");
}

#[test]
fn the_last_extent_of_an_offset_counts_and_what_was_not_written_can_be_taken_back() {
    let mut index = index();
    let part = &index.parts[&PartitionNumber(5)];
    let is_newest = |base: i64, at: u32| part.newest_until(Offset(base), at).is_some();
    assert!(is_newest(10, 4096) && is_newest(12, 6000) && is_newest(15, 4300));
    assert!(!is_newest(12, 4096), "written over");
    assert!(!is_newest(10, 4000) && !is_newest(20, 4096), "not there");
    assert_eq!(part.extent_at(Offset(10), u32::MAX).unwrap().1, Offset(12));
    assert_eq!(part.extent_at(Offset(12), 5000).unwrap().1, Offset(15), "the later is not settled");
    index.cut(PartitionNumber(5), 5500);
    index.cut(PartitionNumber(99), 0);
    assert_eq!(index.parts[&PartitionNumber(5)].extents.len(), 2);
    assert_eq!(index.parts[&PartitionNumber(5)].end, Offset(20));
    assert_eq!(index.parts.len(), 2);
}

#[test]
fn an_extent_counts_where_no_later_one_lies_and_up_to_where_it_is_truncated() {
    let mut index = index();
    let number = PartitionNumber(5);
    let counts = |index: &SlotIndex, extent: usize| {
        let ranges = index.parts[&number].counts_at(extent).into_iter();
        ranges.map(|(from, until)| (from.0, until.0)).collect::<Vec<_>>()
    };
    assert_eq!(counts(&index, 0), [(10, 12), (14, 15)]);
    assert_eq!(counts(&index, 2), [(12, 14)]);
    index.truncate(number, Offset(13), 7000, 9);
    assert_eq!(counts(&index, 0), [(10, 12)]);
    assert_eq!(counts(&index, 1), []);
    assert_eq!(counts(&index, 2), [(12, 13)]);
}

fn image() -> Image {
    let mut image = Image { as_of: 50, boot_epoch: 3, next_seg_seq: 9, ..Image::default() };
    image.lanes[2] = LaneTail { group_seq: 49, group_crc: 1, seg_seq: 8 };
    let slot = SlotImage {
        lane: 2,
        sealed: true,
        seg_seq: 8,
        first_seq: 1,
        last_seq: 49,
        filled: 700,
        framed: 764,
        max_timestamp: 7,
    };
    image.slots.insert(4, slot);
    image
}

fn stream(image: &Image) -> Vec<u8> {
    let mut partition = Partition::new(Lane::Long, Offset(3));
    partition.log_end = Offset(90);
    partition.epochs.push((LeaderEpoch(2), Offset(3)));
    partition.damaged.push((Offset(10), Offset(12)));
    for base_offset in [Offset(3), Offset(50)] {
        partition.runs.push_back(Run { slot: 4, bytes: 700, base_offset, max_timestamp: 5 });
    }
    let mut out = Vec::new();
    checkpoint::put_head(image, 1, &mut out);
    checkpoint::put_partition(&[0, 0, 0, 0, 7], PartitionNumber(7), &partition, &mut out);
    out
}

#[test]
fn a_checkpoint_is_whole_or_malformed() {
    let image = image();
    let stream = stream(&image);
    let parsed = checkpoint::parse(50, Bytes::from(stream.clone())).unwrap();
    assert_eq!((parsed.slots, parsed.lanes), (image.slots.clone(), image.lanes));
    let partition = &parsed.partitions[&PartitionNumber(7)];
    assert_eq!((partition.log_start, partition.durable_end), (Offset(3), Offset(90)));
    assert_eq!((partition.runs.len(), partition.bytes), (2, 1400));
    assert_eq!(partition.damaged, [(Offset(10), Offset(12))]);
    let parse = |stream: &[u8]| checkpoint::parse(50, Bytes::copy_from_slice(stream));
    for len in 0..stream.len() {
        assert!(parse(&stream[..len]).is_err(), "{len} bytes");
    }
    assert!(parse(&[&stream[..], &[0]].concat()).is_err(), "something behind");
    flips(&stream, |_, stream| drop(parse(&stream)));
    let mut lanes = image.clone();
    lanes.slots.get_mut(&4).unwrap().lane = 4;
    assert!(parse(&self::stream(&lanes)).is_err(), "no such lane");
}

#[test]
fn a_root_names_its_parts_and_holds_the_rest() {
    let parts = [1, 2].map(|slot| PartPlace { slot, seg_seq: 300, at: 4096, bytes: 1000 });
    let root = checkpoint::root(50, &parts, b"the rest");
    let parsed = checkpoint::parse_root(root.clone()).unwrap();
    assert_eq!(parsed, (50, parts.to_vec(), Bytes::from_static(b"the rest")));
    for len in 0..root.len() - b"the rest".len() {
        assert!(checkpoint::parse_root(root.slice(..len)).is_err(), "{len} bytes");
    }
    for version in [0, 1, 255] {
        let mut other = root.to_vec();
        other[0] = version;
        assert!(checkpoint::parse_root(other.into()).is_err(), "version {version}");
    }
    assert!(checkpoint::parse_root(root.slice(1..)).is_err(), "before there were versions");
}
