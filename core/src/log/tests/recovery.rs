//! A start finds the newest checkpoint that is whole, or does without; it copes with reads that
//! fail, and says so when it cannot write.
#![allow(clippy::unwrap_used)]

use super::damage::{filled, read_all};
use super::*;
use crate::log::layout::checkpoint::{self as format, PartPlace};
use crate::log::layout::footer::SlotIndex;
use crate::log::layout::frame::{FRAME_HEADER_BYTES, Kind};
use crate::log::layout::group::{GROUP_HEADER_BYTES, Place};
use crate::log::recovery::accept::Candidate;
use alloc::collections::BTreeSet;
use alloc::format;

pub fn checkpoint(world: &mut World) {
    world.log.checkpoint(world.now);
    world.run();
}

const WIDE: u32 = 2000;

/// So many partitions with a record each that their checkpoint takes several parts; two of them,
/// and a record behind.
fn wide() -> World {
    let mut world = World::with(u64::MAX, 0);
    for number in 1..=WIDE {
        let partition = world.add(number, Lane::Short);
        world.append(partition, &["first"]).unwrap();
        if number % 50 == 0 {
            world.run();
        }
    }
    checkpoint(&mut world);
    for value in ["second", "third"] {
        world.append(PartitionNumber(WIDE), &[value]).unwrap();
        checkpoint(&mut world);
    }
    world.append(PartitionNumber(1), &["last"]).unwrap();
    world.run();
    world
}

/// Starts again, and checks that everything of [`wide`] is there. Gives the group that the
/// checkpoint it began with stands for.
fn start_wide(world: &mut World, what: &str) -> u64 {
    world.restart();
    for number in 2..WIDE {
        assert_eq!(world.end(PartitionNumber(number)), Offset(1), "{what}");
    }
    assert_eq!(world.values(PartitionNumber(77), 0), ["first"], "{what}");
    assert_eq!(world.values(PartitionNumber(1), 0), ["first", "last"], "{what}");
    assert_eq!(world.values(PartitionNumber(WIDE), 0), ["first", "second", "third"], "{what}");
    assert_eq!(world.log.stats().damaged_ranges, 0, "{what}");
    world.log.checkpointer.as_of()
}

/// The root's groups of checkpoints, the newest last.
pub fn roots(world: &World) -> Vec<Candidate> {
    let is_root = |group: &Candidate| {
        world.frames(group).iter().any(|(frame, _)| frame.partition == format::ROOT)
    };
    world.groups_with(Kind::Checkpoint).into_iter().filter(is_root).collect()
}

/// Writes the newest root anew, with other parts, or another end of the stream.
fn forge(world: &mut World, change: impl FnOnce(&mut Vec<PartPlace>, &mut Vec<u8>)) {
    let group = roots(world).pop().unwrap();
    let mut frames = world.frames(&group);
    let (as_of, mut parts, last) = format::parse_root(frames[0].1.clone()).unwrap();
    let mut last = last.to_vec();
    change(&mut parts, &mut last);
    frames[0].1 = format::root(as_of, &parts, &last);
    world.write_group(group, &frames);
}

#[test]
fn a_checkpoint_in_several_parts_is_found_and_a_bad_one_gives_way_to_the_one_before() {
    let mut world = wide();
    let whole = world.flash.clone();
    let stands_for: Vec<u64> = roots(&world)
        .iter()
        .map(|root| format::parse_root(world.frames(root)[0].1.clone()).unwrap().0)
        .collect();
    let [.., before, newest] = stands_for[..] else { panic!("{stands_for:?}") };
    assert_eq!(start_wide(&mut world, "whole"), newest);
    type Harm = fn(&mut World);
    let harms: [(&str, Harm); 9] = [
        ("a part that is damaged", |world| {
            let parts = world.groups_with(Kind::Checkpoint);
            let part = *parts.iter().rev().nth(1).unwrap();
            let at = world.place(part.header.slot, part.at) + 500;
            world.flash[at] ^= 1;
        }),
        ("a root that is damaged", |world| {
            let root = roots(world).pop().unwrap();
            world.harm(&root);
        }),
        ("a part in a slot that is not there", |world| {
            forge(world, |parts, _| parts[0].slot = SLOTS);
        }),
        ("a part beyond the end of its slot", |world| {
            forge(world, |parts, _| parts[0].bytes = SLOT_BYTES);
        }),
        ("a part beyond all slots", |world| forge(world, |parts, _| parts[0].at = u32::MAX)),
        ("a part less", |world| forge(world, |parts, _| parts.truncate(1))),
        ("another end", |world| forge(world, |_, last| last.push(0))),
        ("a root without a root", |world| {
            let root = roots(world).pop().unwrap();
            let mut frames = world.frames(&root);
            frames[0].0.partition = PartitionNumber(0);
            world.write_group(root, &frames);
        }),
        ("a root that ends too early", |world| {
            let root = roots(world).pop().unwrap();
            let mut frames = world.frames(&root);
            frames[0].1.truncate(7);
            world.write_group(root, &frames);
        }),
    ];
    for (what, harm) in harms {
        world.flash.clone_from(&whole);
        harm(&mut world);
        assert_eq!(start_wide(&mut world, what), before, "{what}");
    }
    for place in [Place { slot: SLOTS, at: 4096 }, Place { slot: 0, at: SLOT_BYTES }] {
        world.flash.clone_from(&whole);
        let last = world.groups().pop().unwrap();
        world.reseal(&last, |header| header.checkpoint = Some(place));
        assert_eq!(start_wide(&mut world, "a root nowhere"), newest);
    }
}

/// Else what a start leaves is never free where each is cut when it has written a checkpoint.
#[test]
fn a_start_begins_with_the_newest_checkpoint_wherever_it_stands() {
    let mut world = World::new();
    let partition = world.add(1, Lane::Short);
    world.append(partition, &["first"]).unwrap();
    world.run();
    for round in 0..3 * SLOTS {
        checkpoint(&mut world);
        let newest = world.log.checkpointer.as_of();
        world.restart();
        assert_eq!(world.log.checkpointer.as_of(), newest, "round {round}");
        assert_eq!(world.values(partition, 0), ["first"]);
    }
}

#[test]
fn a_log_without_a_checkpoint_that_is_whole_is_put_together_from_its_footers() {
    let (mut world, a) = filled(32 << 10);
    let trimmed = world.add(2, Lane::Short);
    for _ in 0..3 {
        for _ in 0..60 {
            world.append(trimmed, &[&"t".repeat(900)]).unwrap();
            world.run();
        }
        let end = world.end(trimmed);
        world.log.trim(world.now, trimmed, end);
        world.run();
    }
    world.append(a, &["the last"]).unwrap();
    world.run();
    for root in roots(&world) {
        world.harm(&root);
    }
    world.restart();
    let (there, damaged) = read_all(&mut world, a);
    assert_eq!((there.len(), damaged), (121, vec![]));
    assert_eq!(world.log.stats().damaged_ranges, 0);
    assert_eq!(world.log.partition(trimmed).unwrap().log_start, Offset(180));
    assert_eq!(world.end(trimmed), Offset(180));
    world.append(a, &["goes on"]).unwrap();
    world.run();
    checkpoint(&mut world);
    world.restart();
    assert_eq!(world.end(a), Offset(122));
    assert_eq!(read_all(&mut world, a).0.len(), 122);
}

#[test]
fn what_a_lost_slot_held_is_said_also_without_a_checkpoint() {
    let (mut world, a) = filled(32 << 10);
    for root in roots(&world) {
        world.harm(&root);
    }
    let groups = world.groups();
    let slots: BTreeSet<u32> = groups
        .iter()
        .filter(|group| group.header.lane == 0)
        .map(|group| group.header.slot)
        .collect();
    let &slot = slots.iter().nth(slots.len() / 2).unwrap();
    let lost: Vec<i64> = groups
        .iter()
        .filter(|group| group.header.slot == slot)
        .flat_map(|group| world.frames(group))
        .map(|(frame, _)| frame.base_offset.0)
        .collect();
    let (first, last) = (lost[0], lost[lost.len() - 1]);
    assert!(first > 0 && last < 119, "it is a slot in the middle: {first} to {last}");
    let begin = world.place(slot, 0);
    world.flash[begin..begin + SLOT_BYTES as usize].fill(0xee);
    world.restart();
    let (there, damaged) = read_all(&mut world, a);
    assert_eq!(there.len(), 120 - lost.len());
    assert_eq!(damaged, [(first, last + 1)]);
    assert_eq!(world.log.partition(a).unwrap().log_start, Offset(0));
}

#[test]
fn footers_and_groups_may_be_longer_than_one_read() {
    let mut world = World::shaped(4 << 20, 12, u64::MAX, 0);
    let big = world.add(0, Lane::Long);
    // The second group begins in the first read and ends behind it.
    let values = [1_000, 1_500_000, 1_500_000].map(|len| "v".repeat(len));
    for value in &values {
        world.append(big, &[value]).unwrap();
        world.run();
    }
    for number in 1..=6000 {
        let partition = world.add(number, Lane::Short);
        world.append(partition, &["a record"]).unwrap();
    }
    world.run();
    for _ in 0..3 {
        world.restart();
        for number in 1..=6000 {
            assert_eq!(world.end(PartitionNumber(number)), Offset(1));
        }
        same(&world.values(big, 0), &values, "long groups");
        assert_eq!(world.values(PartitionNumber(6000), 0), ["a record"]);
        assert_eq!(world.log.stats().damaged_groups, 0);
    }
}

#[test]
fn a_slot_that_damage_has_left_no_room_for_a_footer_is_looked_into_again() {
    let mut world = World::shaped(1 << 20, 12, u64::MAX, 0);
    let a = world.add(1, Lane::Short);
    for number in 0..12_000 {
        world.append(a, &[&format!("{number:05}")]).unwrap();
        if number % 30 == 29 {
            world.run();
        }
    }
    // What was one extent is one for every other batch.
    let first = world.groups()[0].header.slot;
    let groups = world.groups().into_iter().filter(|group| group.header.slot == first);
    let groups: Vec<_> = groups.collect();
    let mut hit = 0;
    for group in &groups {
        let mut at = world.place(first, group.at) + GROUP_HEADER_BYTES;
        for (number, (header, body)) in world.frames(group).iter().enumerate() {
            at += FRAME_HEADER_BYTES + body.len();
            if number % 2 == 0 && header.kind == Kind::Batch {
                world.flash[at - 1] ^= 1;
                hit += 1;
            }
        }
    }
    assert!(hit > 3_000, "{hit}");
    let end = world.place(first, 1 << 20);
    world.flash[end - 1] ^= 1;
    let bad = world.flash[end - 100..end].to_vec();
    for start in 0..2 {
        world.restart();
        assert_eq!(world.flash[end - 100..end], bad, "no footer is written");
        let (there, damaged) = read_all(&mut world, a);
        let lost: i64 = damaged.iter().map(|(from, until)| until - from).sum();
        // Who reads without a footer finds the groups that are whole.
        assert_eq!(there.len() as i64 + lost, 12_000, "start {start}");
        assert!((12_000 - 3 * hit..=12_000 - hit).contains(&there.len()), "start {start}");
    }
}

#[test]
fn a_slot_whose_header_is_torn_is_not_used_anew_under_the_number_of_its_footer() {
    let mut world = World::with(u64::MAX, 0);
    let a = world.add(1, Lane::Short);
    world.append(a, &["a"]).unwrap();
    world.run();
    // A cut tore the second slot; the start after it said so; the next use of it is torn as well.
    let (begin, end) = (world.place(1, 0), world.place(2, 0));
    world.flash.resize(world.flash.len().max(end), 0);
    let footer = SlotIndex::new(Lane::Short as u8, 2).encode(&STORE, 1);
    world.flash[end - footer.len()..end].copy_from_slice(&footer);
    world.flash[begin..begin + 512].fill(0xee);
    for values in [&["a", "b"][..], &["a", "b", "c"]] {
        world.restart();
        world.append(a, &values[values.len() - 1..]).unwrap();
        world.run();
        world.restart();
        assert_eq!(world.values(a, 0), values);
    }
}

#[test]
fn a_medium_of_many_slots_is_found_whole() {
    let mut world = World::shaped(32 << 10, 200, 1 << 20, 0);
    let a = world.add(1, Lane::Short);
    for number in 0..900 {
        world.append(a, &[&format!("{number} {}", "m".repeat(2900))]).unwrap();
        world.run();
    }
    assert!(world.log.geometry.slots_on(world.flash.len() as u64) > 80);
    world.restart();
    assert_eq!(world.values(a, 0).len(), 900);
}

/// Reads of a start that end in something else.
fn reads_of_a_start(world: &mut World) -> Vec<(u64, u32)> {
    let seen = alloc::rc::Rc::new(core::cell::RefCell::new(Vec::new()));
    let note = seen.clone();
    world.meddle = Box::new(move |io| {
        if let Io::Read { at, len, .. } = io {
            note.borrow_mut().push((*at, *len));
        }
        None
    });
    world.restart();
    world.meddle = Box::new(|_| None);
    seen.take()
}

/// What becomes of a read.
#[derive(Clone, Copy, Debug)]
enum Ends {
    /// It fails, but each block of it can be read.
    Fails,
    /// Its first block cannot be read.
    Unreadable,
    /// After so many bytes.
    Early(usize),
}

#[test]
fn any_read_of_a_start_may_fail_or_end_early_and_costs_only_what_it_was_to_get() {
    let ways = [Ends::Fails, Ends::Unreadable, Ends::Early(300), Ends::Early(0)];
    for checkpoint_bytes in [u64::MAX, 32 << 10] {
        let (mut world, a) = filled(checkpoint_bytes);
        let whole = world.flash.clone();
        let mut reads = reads_of_a_start(&mut world);
        reads.dedup();
        for ((bad, bad_len), how) in reads.into_iter().flat_map(|read| ways.map(|how| (read, how)))
        {
            world.flash.clone_from(&whole);
            let begin = Bytes::copy_from_slice(&whole[bad as usize..][..300]);
            world.meddle = Box::new(move |io| {
                let Io::Read { at, len, .. } = io else { return None };
                let same = (*at, *len) == (bad, bad_len);
                let over = *at < bad + u64::from(layout::BLOCK) && *at + u64::from(*len) > bad;
                match how {
                    Ends::Fails if same => Some(IoResult::Failed),
                    Ends::Unreadable if over => Some(IoResult::Failed),
                    Ends::Early(bytes) if same => Some(IoResult::Read(begin.slice(..bytes))),
                    _ => None,
                }
            });
            world.restart();
            world.meddle = Box::new(|_| None);
            let (there, damaged) = read_all(&mut world, a);
            let lost: i64 = damaged.iter().map(|(from, until)| until - from).sum();
            let start = world.log.partition(a).unwrap().log_start.0;
            let end = world.end(a).0;
            let what =
                format!("{how:?}: read of {bad_len} at {bad}, {checkpoint_bytes}: {damaged:?}");
            assert_eq!(there.len() as i64 + lost, end - start, "{what}");
            let stats = world.log.stats();
            let said = stats.damaged_groups > 0 || stats.damaged_ranges > 0;
            assert!(there.len() == 120 || said, "silently {} of 120: {what}", there.len());
        }
    }
}

#[test]
fn a_start_that_cannot_write_is_refused_and_the_next_one_finds_everything() {
    let (mut world, a) = filled(32 << 10);
    let whole = world.flash.clone();
    for refused in 0.. {
        world.flash.clone_from(&whole);
        // The superblock is written anew as well.
        world.flash[..100].fill(0xee);
        let mut left = refused;
        world.meddle = Box::new(move |io| {
            if matches!(io, Io::Read { .. }) {
                return None;
            }
            left -= 1;
            (left == -1).then_some(IoResult::Failed)
        });
        world.reopen();
        world.meddle = Box::new(|_| None);
        let [Event::Refused(error)] = &world.events[..] else {
            assert!(matches!(world.events[0], Event::Ready) && refused >= 4, "{refused}");
            break;
        };
        assert_eq!(*error, OpenError::Device);
        world.restart();
        assert_eq!(read_all(&mut world, a).0.len(), 120);
    }
    for failing in 0..3 {
        let start = Start::Format { store: STORE, slot_bytes: SLOT_BYTES, slots: SLOTS };
        world.log = Log::open(settings(start, 0, 0, 0));
        world.events.clear();
        let mut left = failing;
        world.meddle = Box::new(move |_| {
            left -= 1;
            (left == -1).then_some(IoResult::Failed)
        });
        world.run();
        assert!(matches!(world.events[..], [Event::Refused(OpenError::Device)]), "{failing}");
    }
}
