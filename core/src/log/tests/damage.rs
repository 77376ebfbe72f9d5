//! Damage to flash is found, said, and costs only what it hit; the log always starts.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::log::inspect::{self, Item};
use crate::log::layout::frame::Kind;
use crate::log::recovery::accept::Candidate;

/// A log with 120 batches of 700 bytes in one partition, one group each, cleanly flushed.
pub fn filled(checkpoint_bytes: u64) -> (World, PartitionNumber) {
    let mut world = World::with(checkpoint_bytes, 0);
    let a = world.add(1, Lane::Short);
    for number in 0..120 {
        world.append(a, &[&value(number)]).unwrap();
        world.run();
    }
    (world, a)
}

fn value(number: usize) -> alloc::string::String {
    alloc::format!("{number:03}{}", "d".repeat(700))
}

/// Where the value stands on flash.
pub fn find(world: &World, number: usize) -> usize {
    let needle = value(number);
    world.flash.windows(needle.len()).position(|w| w == needle.as_bytes()).unwrap()
}

/// Reads everything, and gives the numbers that are there and the ranges that are not.
pub fn read_all(world: &mut World, a: PartitionNumber) -> (Vec<usize>, Vec<(i64, i64)>) {
    let (mut there, mut damaged) = (Vec::new(), Vec::new());
    let mut from = world.log.partition(a).unwrap().log_start;
    while from < world.log.partition(a).unwrap().durable_end {
        match world.ask(spec(a, from)) {
            Ok(batches) => {
                assert!(!batches.is_empty(), "there is something at {from} or behind");
                for batch in batches {
                    let header = BatchHeader::parse(&batch).unwrap();
                    from = header.last_offset().plus(1);
                    there.push(header.base_offset.0 as usize);
                }
            }
            Err(FetchError::Damaged { until }) => {
                damaged.push((from.0, until.0));
                from = until;
            }
            Err(error) => panic!("{error:?} at {from}"),
        }
    }
    (there, damaged)
}

#[test]
fn a_damaged_batch_is_quarantined_and_the_rest_is_served() {
    for restart in [false, true] {
        let (mut world, a) = filled(64 << 10);
        for number in [5, 60, 61] {
            let at = find(&world, number);
            world.flash[at + 300] ^= 4;
        }
        if restart {
            world.restart();
        }
        let (there, damaged) = read_all(&mut world, a);
        assert_eq!(damaged, [(5, 6), (60, 62)], "restart {restart}");
        assert_eq!(there.len(), 117);
        assert!(world.log.stats().damaged_ranges > 0);
    }
}

#[test]
fn a_damaged_group_behind_the_checkpoint_is_said_at_the_start_and_costs_only_itself() {
    let (mut world, a) = filled(u64::MAX);
    let at = find(&world, 40);
    world.flash[at] ^= 1;
    world.restart();
    assert_eq!(world.log.stats().damaged_groups, 1);
    let (there, damaged) = read_all(&mut world, a);
    assert_eq!((there.len(), &damaged[..]), (119, &[(40, 41)][..]));
    world.append(a, &["goes on"]).unwrap();
    world.run();
    world.restart();
    assert_eq!(world.end(a), Offset(121));
}

#[test]
fn what_was_truncated_before_the_checkpoint_stays_away_when_its_group_is_damaged() {
    let (mut world, a) = filled(u64::MAX);
    world.log.truncate(world.now, a, Offset(115));
    world.run();
    world.log.checkpoint(world.now);
    world.run();
    let of_117 = |group: &_| world.frames(group).iter().any(|(f, _)| f.base_offset == Offset(117));
    let group = world.groups().into_iter().find(of_117).unwrap();
    world.harm(&group);
    for value in ["goes on", "and on"] {
        world.restart();
        assert_eq!(world.log.stats().damaged_ranges, 0);
        world.append(a, &[value]).unwrap();
        world.run();
    }
    assert_eq!((world.end(a), world.values(a, 115)[0].as_str()), (Offset(117), "goes on"));
}

#[test]
fn what_was_truncated_before_the_checkpoint_stays_away_when_newer_groups_share_its_slot() {
    let mut world = World::with(u64::MAX, 0);
    let (a, b) = (world.add(1, Lane::Short), world.add(2, Lane::Short));
    for value in ["a", "b", "c"] {
        world.append(a, &[value]).unwrap();
        world.run();
    }
    world.log.truncate(world.now, a, Offset(1));
    world.run();
    world.log.checkpoint(world.now);
    world.run();
    for value in ["x", "y"] {
        world.append(b, &[value]).unwrap();
        world.run();
    }
    // All that stands there of the partition and behind it, up to what came after the checkpoint:
    // by its place alone, nobody could tell when that was written.
    let groups = world.groups();
    let of_b = |group: &Candidate| world.frames(group).iter().any(|(f, _)| f.partition == b);
    let short: Vec<Candidate> =
        groups.into_iter().filter(|group| group.header.lane == Lane::Short as u8).collect();
    let first_of_b = short.iter().position(of_b).unwrap();
    for group in &short[2..=first_of_b] {
        world.harm(group);
    }
    world.restart();
    assert_eq!((world.end(a), world.log.stats().damaged_ranges), (Offset(1), 0));
    assert_eq!(world.values(b, 0), ["x", "y"]);
}

/// The length that a damaged header states is not believed.
#[test]
fn a_group_that_says_it_is_longer_than_its_slot_is_looked_into_up_to_the_end() {
    let mut world = World::with(u64::MAX, 0);
    let a = world.add(1, Lane::Short);
    for value in ["a", "b", "c"] {
        world.append(a, &[value]).unwrap();
        world.run();
    }
    let group = world.groups_with(Kind::Batch)[1];
    for later in &world.groups_with(Kind::Batch)[2..] {
        let at = world.place(later.header.slot, later.at);
        world.flash[at] ^= 1;
    }
    let at = world.place(group.header.slot, group.at);
    world.flash[at + 8] ^= 0x80;
    // The groups of another lane say that those were flushed.
    let b = world.add(2, Lane::Long);
    world.append(b, &["x"]).unwrap();
    world.run();
    world.restart();
    assert_eq!(world.log.stats().damaged_groups, 2);
    assert_eq!(world.values(a, 0), ["a", "b", "c"]);
    // The footer that the start has made does not end before what was behind the last whole group.
    world.restart();
    assert_eq!(world.values(a, 0), ["a", "b", "c"]);
}

/// Two partitions in one group, the only one of its slot, and one that says that it was flushed.
fn one_group() -> (World, PartitionNumber, PartitionNumber) {
    let mut world = World::with(u64::MAX, 0);
    let (a, b) = (world.add(1, Lane::Short), world.add(2, Lane::Short));
    world.append(a, &[&value(1)]).unwrap();
    world.append(b, &[&value(2)]).unwrap();
    world.append(b, &[&value(3)]).unwrap();
    world.run();
    let c = world.add(3, Lane::Long);
    world.append(c, &["x"]).unwrap();
    world.run();
    (world, a, b)
}

#[test]
fn what_is_whole_of_a_slot_without_a_whole_group_is_served_and_the_rest_is_named() {
    let (mut world, a, b) = one_group();
    let at = find(&world, 2);
    world.flash[at + 300] ^= 4;
    for start in 0..3 {
        world.restart();
        assert_eq!(world.log.stats().damaged_groups, 1, "start {start}");
        assert_eq!((world.end(a), world.end(b)), (Offset(1), Offset(2)), "start {start}");
        assert_eq!(world.values(a, 0), [value(1)], "start {start}");
        assert_eq!(read_all(&mut world, b), (vec![1], vec![(0, 1)]), "start {start}");
    }
    world.append(b, &["goes on"]).unwrap();
    world.run();
    world.restart();
    assert_eq!(world.values(b, 1), [value(3).as_str(), "goes on"]);
}

#[test]
fn a_group_that_a_start_can_read_only_once_costs_no_more_than_what_is_gone() {
    let (mut world, a, b) = one_group();
    let (flash, place) = (world.flash.clone(), find(&world, 2) + 300);
    let (mut reads, covers) =
        (0, move |at: u64, len: u32| (at as usize..at as usize + len as usize).contains(&place));
    // The footer's place and the walk are whole; what is applied is not.
    world.meddle = Box::new(move |io| match io {
        Io::Read { at, len, .. } if covers(*at, *len) => {
            reads += 1;
            let end = flash.len().min(*at as usize + *len as usize);
            let mut bytes = flash[*at as usize..end].to_vec();
            bytes.resize(*len as usize, 0);
            bytes[place - *at as usize] ^= if reads == 3 { 4 } else { 0 };
            Some(IoResult::Read(bytes.into()))
        }
        _ => None,
    });
    world.restart();
    world.meddle = Box::new(|_| None);
    assert_eq!(world.log.stats().damaged_groups, 1);
    assert_eq!(world.values(a, 0), [value(1)]);
    assert_eq!(read_all(&mut world, b), (vec![1], vec![(0, 1)]));
    // The footer that was made knows the group, which is whole again.
    world.restart();
    assert_eq!(world.log.stats().damaged_groups, 0);
    assert_eq!(world.values(a, 0), [value(1)]);
    assert_eq!(world.values(b, 0), [value(2), value(3)]);
}

#[test]
fn any_block_may_be_damaged_and_the_log_starts_and_serves_the_rest() {
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let (mut world, a) = filled(if seed % 2 == 0 { 32 << 10 } else { u64::MAX });
        for _ in 0..=rng.below(3) {
            let at = rng.below(world.flash.len() as u64 / 512) as usize * 512;
            for byte in &mut world.flash[at..at + 512] {
                *byte = rng.next_u64() as u8;
            }
        }
        world.restart();
        let (there, damaged) = read_all(&mut world, a);
        let lost: i64 = damaged.iter().map(|(from, until)| until - from).sum();
        let end = world.end(a).0;
        assert_eq!(there.len() as i64 + lost, end, "seed {seed}");
        assert!(there.len() >= 100, "seed {seed}: {} are there", there.len());
        let stats = world.log.stats();
        // Damage to the very last group cannot be told from a torn tail: no later one names it.
        let tail = there.len() == 119 && end == 119;
        let said = tail || stats.damaged_groups > 0 || stats.damaged_ranges > 0;
        assert!(said || there.len() == 120, "seed {seed}: silently {} are there", there.len());
    }
}

#[test]
fn a_superblock_may_be_lost() {
    for lost in [0, SLOT_BYTES as usize] {
        let (mut world, a) = filled(u64::MAX);
        world.flash[lost..lost + 100].fill(0xee);
        world.restart();
        assert_eq!(world.values(a, 0).len(), 120);
        let other = SLOT_BYTES as usize - lost;
        assert_eq!(world.flash[lost..lost + 44], world.flash[other..other + 44], "repaired");
    }
}

#[test]
fn what_is_no_log_is_refused() {
    let refused = |flash: Vec<u8>| {
        let (mut world, _) = filled(u64::MAX);
        world.flash = flash;
        world.log = Log::open(settings(Start::Recover, world.flash.len() as u64, 0, 0));
        world.events.clear();
        world.run();
        match world.events.pop() {
            Some(Event::Refused(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(vec![0; 1 << 20]), OpenError::Blank);
    assert_eq!(refused(vec![7; 1 << 20]), OpenError::NotALog);
    let (world, _) = filled(u64::MAX);
    let mut newer = world.flash.clone();
    (newer[9], newer[43]) = (2, !newer[43]);
    assert_eq!(refused(newer), OpenError::NewerFormat { found: 2, known: 1 });
    let unit = SLOT_BYTES as usize;
    let mut differ = world.flash.clone();
    let (one, two) = differ.split_at_mut(unit);
    one[20..24].copy_from_slice(&[0, 0, 0, 9]);
    let crc = layout::checksum(&STORE, &[&one[..40]]);
    one[40..44].copy_from_slice(&crc.to_be_bytes());
    assert_ne!(one[..44], two[..44]);
    assert_eq!(refused(differ), OpenError::SuperblocksDiffer);
}

#[test]
fn slots_out_of_order_and_a_medium_cut_short_are_refused_and_one_stray_header_is_not() {
    let (mut world, a) = filled(16 << 10);
    world.restart();
    let whole = world.flash.clone();
    let slot = |number: usize| (number + 2) * SLOT_BYTES as usize;
    let begin = |mut flash: Vec<u8>| {
        let mut world = World::new();
        core::mem::swap(&mut world.flash, &mut flash);
        let bytes = world.flash.len() as u64;
        world.log = Log::open(settings(Start::Recover, bytes, 16 << 10, 0));
        world.events.clear();
        let before = world.flash.clone();
        while let Some(io) = world.log.poll_io(world.now) {
            world.perform(io);
        }
        (world.events.pop().unwrap(), before == world.flash && world.cache.is_empty())
    };
    let mut swapped = whole.clone();
    for at in 0..SLOT_BYTES as usize {
        swapped.swap(slot(0) + at, slot(1) + at);
    }
    let (event, untouched) = begin(swapped);
    let error = OpenError::SlotsOutOfOrder { slot: 0, holds: 1 };
    assert!(matches!(event, Event::Refused(found) if found == error));
    assert!(untouched);

    let (event, untouched) = begin(whole[..slot(1)].to_vec());
    assert!(matches!(event, Event::Refused(OpenError::MediumTooShort { .. })), "{event:?}");
    assert!(untouched);

    world.flash.copy_within(slot(0)..slot(0) + 4096, slot(1));
    world.restart();
    assert!(read_all(&mut world, a).0.len() > 50);
}

#[test]
fn an_inspection_sees_every_frame_and_the_damage_and_changes_nothing() {
    let (mut world, _) = filled(u64::MAX);
    world.restart();
    let at = find(&world, 7);
    world.flash[at] ^= 1;
    let mut read = |at: u64, len: u32| Some(world.read(at, len));
    let overview = inspect::overview(world.flash.len() as u64, &mut read).unwrap();
    assert_eq!(overview.partitions[0].log_end, 120);
    let (mut batches, mut damages) = (0, 0);
    inspect::walk(world.flash.len() as u64, &mut read, |item| {
        match item {
            Item::Frame { kind: "batch", .. } => batches += 1,
            Item::Damage { .. } => damages += 1,
            _ => {}
        }
        true
    })
    .unwrap();
    assert_eq!((batches, damages), (119, 1));
}

#[test]
fn a_hole_stays_one_though_what_was_there_and_what_followed_is_damaged() {
    let mut world = World::with(u64::MAX, 0);
    let a = world.add(1, Lane::Short);
    for value in ["a", "b", "c"] {
        world.append(a, &[value]).unwrap();
        world.run();
    }
    let hole = Replacement::Hole { base_offset: Offset(1), last_offset_delta: 0 };
    world.log.replace(world.now, a, vec![hole]).unwrap();
    world.run();
    for group in &world.groups_with(Kind::Batch)[1..] {
        // Nothing of it can be believed, its offsets neither.
        let frame = world.first_frame(group);
        world.flash[frame + 8] ^= 1;
    }
    world.restart();
    assert_eq!(world.log.stats().damaged_groups, 2);
    assert_eq!(world.end(a), Offset(2));
    world.append(a, &["goes on"]).unwrap();
    world.run();
    world.restart();
    assert_eq!(read_all(&mut world, a), (vec![0, 2], vec![]));
}
