//! Bytes that no writer writes, some under a right checksum: they cost what they hit, and nothing
//! panics.
#![allow(clippy::unwrap_used)]

use super::craft::batch_frame;
use super::damage::{filled, read_all};
use super::*;
use crate::log::layout::frame::{FrameHeader, Kind};
use crate::log::layout::superblock;
use alloc::string::String;

const A: PartitionNumber = PartitionNumber(1);

/// A log with three short batches, one group each, and no checkpoint.
fn short() -> World {
    let mut world = World::with(u64::MAX, 0);
    let a = world.add(A.0, Lane::Short);
    for value in ["0", "1", "2"] {
        world.append(a, &[value]).unwrap();
        world.run();
    }
    world
}

fn mark(kind: Kind, base_offset: i64) -> (FrameHeader, Bytes) {
    let (header, _) = batch_frame(A, base_offset, "");
    (FrameHeader { kind, ..header }, Bytes::new())
}

#[test]
fn a_medium_of_another_node_a_newer_copy_and_a_copy_in_the_wrong_place_are_refused() {
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut world = short();
        change(&mut world.flash);
        let before = world.flash.clone();
        world.reopen();
        assert!(world.flash == before, "nothing is overwritten");
        match world.events.pop() {
            Some(Event::Refused(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let unit = SLOT_BYTES as usize;
    let geometry = Geometry { store: STORE, node: 2, slot_bytes: SLOT_BYTES, slots: SLOTS };
    let other = superblock::encode(&geometry);
    let error = refused(&|flash| {
        flash[..44].copy_from_slice(&other[..44]);
        flash[unit..unit + 44].copy_from_slice(&other[..44]);
    });
    assert!(matches!(error, OpenError::Settings(what) if what.contains("node 2")));
    let newer = OpenError::NewerFormat { found: 7, known: 1 };
    let change = |flash: &mut Vec<u8>| (flash[unit + 9], flash[unit + 43]) = (7, !flash[unit + 43]);
    assert_eq!(refused(&change), newer);
    // A copy that says that it stands elsewhere is none.
    let error = refused(&|flash| {
        flash.copy_within(unit..unit + 44, unit / 2);
        flash[..100].fill(0xee);
        flash[unit..unit + 100].fill(0xee);
    });
    assert_eq!(error, OpenError::NotALog);
    let start = Start::Format { store: STORE, slot_bytes: SLOT_BYTES, slots: 3 };
    let mut log = Log::open(settings(start, 0, 0, 0));
    assert!(matches!(log.poll_event(), Some(Event::Refused(OpenError::Settings(_)))));
    assert!(log.poll_io(Time::ZERO).is_none(), "nothing is written");
}

#[test]
fn a_batch_that_stands_twice_counts_once_and_a_log_start_never_goes_back() {
    let mut world = short();
    let (again, lower) = (batch_frame(A, 1, "1"), mark(Kind::LogStart, 0));
    let start = mark(Kind::LogStart, 1);
    world.write_next(Lane::Short, &[again, start, lower, batch_frame(A, 3, "3")]);
    world.restart();
    assert_eq!(world.log.partition(A).unwrap().log_start, Offset(1));
    assert_eq!(world.values(A, 1), ["1", "2", "3"]);
}

#[test]
fn a_batch_that_is_none_is_lost_and_the_next_one_is_served() {
    let mut world = short();
    let (header, _) = batch_frame(A, 3, "");
    let none = (header, Bytes::from_static(&[0; 80]));
    world.write_next(Lane::Short, &[none, batch_frame(A, 4, "4")]);
    world.restart();
    assert_eq!(world.ask(spec(A, Offset(3))), Err(FetchError::Damaged { until: Offset(4) }));
    assert_eq!(world.values(A, 4), ["4"]);
}

#[test]
fn what_is_whole_in_a_damaged_group_counts_whatever_it_is() {
    let mut world = short();
    let root = mark(Kind::Checkpoint, 3);
    let hole = mark(Kind::Replace, 1);
    world.write_next(Lane::Short, &[batch_frame(A, 3, "3"), mark(Kind::LogStart, 1), hole, root]);
    let damaged = *world.groups().last().unwrap();
    world.write_next(Lane::Short, &[batch_frame(A, 4, "4")]);
    world.harm(&damaged);
    world.restart();
    assert_eq!(world.log.stats().damaged_groups, 1);
    assert_eq!(world.log.partition(A).unwrap().log_start, Offset(1));
    assert_eq!(world.values(A, 2), ["2", "3", "4"]);
}

#[test]
fn what_only_looks_like_a_group_of_this_slot_and_epoch_is_not_looked_into() {
    // In a group's header: a byte that says nothing, its slot, its boot epoch.
    for (harmed, is_looked_into) in [(68, true), (19, false), (23, false)] {
        let mut world = short();
        let meta = world.add(2, Lane::Meta);
        world.append(meta, &["before"]).unwrap();
        world.run();
        world.write_next(Lane::Short, &[batch_frame(A, 3, "3")]);
        let last = *world.groups().last().unwrap();
        // That it was flushed is known from the group of another lane.
        world.write_next(Lane::Meta, &[batch_frame(meta, 1, "behind")]);
        let at = world.place(last.header.slot, last.at);
        world.flash[at + harmed] ^= 1;
        world.restart();
        assert_eq!(world.log.stats().damaged_groups, 1, "byte {harmed}");
        assert_eq!(world.values(meta, 0), ["before", "behind"], "byte {harmed}");
        let expected = ["0", "1", "2", "3"];
        let count = if is_looked_into { 4 } else { 3 };
        assert_eq!(world.values(A, 0), expected[..count], "byte {harmed}");
    }
}

#[test]
fn a_group_above_what_the_footer_knows_does_not_count() {
    let mut world = short();
    world.restart();
    let groups = world.groups();
    let last = groups.iter().rev().find(|group| group.header.slot == 0).unwrap();
    world.reseal(last, |header| header.group_seq = 1 << 40);
    world.restart();
    assert_eq!(world.values(A, 0)[..2], [String::from("0"), String::from("1")]);
    assert!(world.log.partition(A).unwrap().log_end <= Offset(3));
}

#[test]
fn a_footer_that_claims_to_be_as_long_as_its_slot_is_none() {
    for payload_bytes in [SLOT_BYTES, SLOT_BYTES - 4096] {
        let mut world = short();
        world.restart();
        let at = world.place(0, SLOT_BYTES) - 40;
        world.flash[at..at + 4].copy_from_slice(&payload_bytes.to_be_bytes());
        world.restart();
        assert_eq!(world.values(A, 0), ["0", "1", "2"]);
    }
}

#[test]
fn a_slot_of_a_checkpoint_may_lose_its_header() {
    let (mut world, a) = filled(32 << 10);
    let meta: Vec<u32> =
        world.groups_with(Kind::Checkpoint).iter().map(|g| g.header.slot).collect();
    for slot in meta {
        let at = world.place(slot, 0);
        world.flash[at + 20] ^= 1;
    }
    world.restart();
    assert_eq!(read_all(&mut world, a), ((0..120).collect(), vec![]));
}

#[test]
fn a_hole_stays_a_hole_and_costs_only_its_offsets() {
    let mut world = short();
    let hole = mark(Kind::Replace, 1);
    world.write_next(Lane::Short, &[hole, batch_frame(A, 3, "3")]);
    for _ in 0..2 {
        world.restart();
        assert_eq!(world.values(A, 0), ["0", "2", "3"]);
        assert_eq!(world.log.stats().damaged_groups, 0);
    }
}
