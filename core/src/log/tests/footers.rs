//! A start without a checkpoint that can be used puts the log together from its footers, whatever
//! lies over what in them.
#![allow(clippy::unwrap_used)]

use super::craft::batch_frame;
use super::damage::read_all;
use super::recovery::{checkpoint, roots};
use super::*;
use crate::log::layout::checkpoint as format;
use crate::log::layout::frame::{EpochAge, FrameHeader, Kind};
use crate::log::recovery::accept::Candidate;
use alloc::format;

/// Makes every root what `change` makes of its body.
fn change_roots(world: &mut World, change: impl Fn(&Bytes) -> Bytes) {
    for group in roots(world) {
        let mut frames = world.frames(&group);
        for (_, body) in frames.iter_mut().filter(|(frame, _)| frame.partition == format::ROOT) {
            *body = change(body);
        }
        world.write_group(group, &frames);
    }
}

/// Starts again without a checkpoint.
fn by_footers(world: &mut World) {
    for root in roots(world) {
        world.harm(&root);
    }
    world.restart();
}

/// Starts again, and does nothing more than that.
fn start(world: &mut World) {
    world.cache.clear();
    let medium_bytes = world.flash.len() as u64;
    world.log = Log::open(settings(Start::Recover, medium_bytes, u64::MAX, 0));
    until(world, |event| matches!(event, Event::Ready));
}

/// Lets the log work until it says something.
fn until(world: &mut World, what: impl Fn(&Event) -> bool) {
    world.events.clear();
    while !world.events.iter().any(&what) {
        match world.log.poll_io(world.now) {
            Some(io) => world.perform(io),
            None => world.now = world.log.deadline().unwrap(),
        }
    }
}

/// A partition that keeps all, one whose records were trimmed until every slot had been used
/// several times, and one of the node's own. Gives where the second begins.
fn used() -> (World, i64) {
    let mut world = World::shaped(64 << 10, 40, u64::MAX, 0);
    let (kept, trimmed) = (world.add(1, Lane::Long), world.add(2, Lane::Short));
    let own = world.add(3, Lane::Meta);
    for round in 0..60 {
        world.append(kept, &[&format!("kept {round}")]).unwrap();
        world.append(own, &["own"]).unwrap();
        for _ in 0..10 {
            world.append(trimmed, &[&"t".repeat(2_000)]).unwrap();
        }
        world.run();
        let end = world.end(trimmed);
        world.log.trim(world.now, trimmed, end.plus(-3));
        world.run();
        checkpoint(&mut world);
    }
    let start = world.log.partition(trimmed).unwrap().log_start.0;
    (world, start)
}

#[test]
fn a_checkpoint_of_another_build_is_not_used_and_nothing_is_lost_by_that() {
    // What a build wrote before there were versions, and what later ones may write.
    let bodies: [fn(&Bytes) -> Bytes; 3] = [
        |body| body.slice(1..),
        |body| [&[3], &body[1..]].concat().into(),
        |_| Bytes::from_static(b"\xffanything"),
    ];
    for (what, body) in bodies.into_iter().enumerate() {
        let (mut world, begin) = used();
        let [kept, trimmed, own] = [1, 2, 3].map(PartitionNumber);
        change_roots(&mut world, body);
        start(&mut world);
        for round in 0..3 {
            assert_eq!(world.log.checkpointer.as_of(), 0, "{what}: by footers");
            let view = world.log.partition(trimmed).unwrap();
            assert_eq!((view.log_start, view.log_end), (Offset(begin), Offset(600)), "{what}");
            for (number, expected) in [(kept, 60 + round), (own, 60 + round)] {
                assert_eq!(world.end(number), Offset(expected), "{what}");
            }
            let stats = world.log.stats();
            assert_eq!((stats.damaged_groups, stats.damaged_ranges), (0, 0), "{what}");
            // All lanes go on; the power goes before there is a checkpoint again.
            for partition in [kept, own] {
                world.append(partition, &["goes on"]).unwrap();
            }
            until(&mut world, |event| matches!(event, Event::Durable { .. }));
            start(&mut world);
        }
        world.run();
        world.restart();
        assert!(world.log.checkpointer.as_of() > 0, "{what}: by a checkpoint of its own");
        assert_eq!(world.values(kept, 0).len(), 63, "{what}");
        assert_eq!(world.values(own, 0).len(), 63, "{what}");
        assert_eq!(world.log.partition(trimmed).unwrap().log_start, Offset(begin), "{what}");
        assert_eq!(world.values(trimmed, begin).len(), 3, "{what}");
    }
}

#[test]
fn a_hole_lies_over_the_middle_of_what_another_slot_holds() {
    let mut world = World::with(128 << 10, 0);
    let a = world.add(1, Lane::Short);
    for number in 0..40 {
        world.append(a, &[&format!("{number:03}{}", "h".repeat(600))]).unwrap();
        world.run();
    }
    let bytes = world.log.partition(a).unwrap().bytes;
    let hole = |base: i64, count: i32| Replacement::Hole {
        base_offset: Offset(base),
        last_offset_delta: count - 1,
    };
    // One in the middle, one at a begin, and one that lies over the end of the second.
    for (base, count) in [(10, 5), (0, 2), (1, 4), (13, 10)] {
        world.log.replace(world.now, a, vec![hole(base, count)]).unwrap();
        world.run();
    }
    let expected: Vec<i64> = (5..10).chain(23..40).collect();
    for _ in 0..2 {
        let (there, damaged) = read_all(&mut world, a);
        assert!(there.iter().map(|&base| base as i64).eq(expected.iter().copied()), "{there:?}");
        assert_eq!(damaged, []);
        // About what is left: a run's bytes are divided by its offsets.
        let share = world.log.partition(a).unwrap().bytes * 40 / bytes;
        assert!((20..=24).contains(&share), "{share} of 40");
        by_footers(&mut world);
    }
}

#[test]
fn the_last_batch_is_lost_with_its_offsets_when_what_follows_shows_that_it_was_durable() {
    let mut world = World::with(16 << 10, 0);
    let a = world.add(1, Lane::Short);
    for number in 0..30 {
        world.append(a, &[&format!("{number:03}{}", "l".repeat(600))]).unwrap();
        world.run();
    }
    // A group of several partitions whose body rots; a later one names it.
    world.write_next(Lane::Short, &[batch_frame(a, 30, "lost")]);
    let last = *world.groups().last().unwrap();
    world.write_next(Lane::Short, &[batch_frame(PartitionNumber(2), 0, "another")]);
    let at = world.place(last.header.slot, last.at) + last.header.bytes as usize;
    world.flash[at - 2] ^= 1;
    by_footers(&mut world);
    assert_eq!(world.end(a), Offset(31), "its offset is not given out again");
    assert_eq!(read_all(&mut world, a).1, [(30, 31)]);
    assert_eq!(world.values(PartitionNumber(2), 0), ["another"]);
    world.append(a, &["goes on"]).unwrap();
    world.run();
    world.restart();
    assert_eq!(world.values(a, 31), ["goes on"]);
}

/// Takes a slot for something else, of which nothing is left either.
fn wipe(world: &mut World, slot: u32) {
    let (at, end) = (world.place(slot, 0), world.place(slot + 1, 0).min(world.flash.len()));
    world.flash[at..end].fill(0);
}

/// The slot in which that value of a record stands first.
fn slot_of(world: &World, value: &str) -> u32 {
    let holds = |group: &&Candidate| {
        world.group_bytes(group).windows(value.len()).any(|window| window == value.as_bytes())
    };
    world.groups().iter().find(holds).unwrap().header.slot
}

/// Ten batches in a slot that is sealed, and a checkpoint.
fn ten() -> (World, PartitionNumber) {
    let mut world = World::with(u64::MAX, 0);
    let a = world.add(1, Lane::Short);
    for number in 0..10 {
        world.append(a, &[&format!("{number} {}", "f".repeat(2_000))]).unwrap();
    }
    world.run();
    checkpoint(&mut world);
    world.restart();
    (world, a)
}

#[test]
fn a_truncation_that_a_cut_tore_away_takes_nothing_with_it() {
    let (mut world, a) = ten();
    world.append(a, &["last"]).unwrap();
    world.run();
    let truncation = FrameHeader {
        kind: Kind::Truncate,
        copied: false,
        partition: a,
        base_offset: Offset(3),
        last_offset_delta: 0,
        leader_epoch: LeaderEpoch(0),
        body_bytes: 0,
        epoch_age: EpochAge::default(),
    };
    world.write_next(Lane::Short, &[(truncation, Bytes::new())]);
    // What came before it in its commit is not there.
    let group = *world.groups().last().unwrap();
    world.reseal(&group, |header| {
        header.durable_seq -= 1;
        header.group_seq += 1;
    });
    by_footers(&mut world);
    assert_eq!(world.log.stats().torn_groups_dropped, 1);
    assert_eq!(world.values(a, 0).len(), 11);
}

#[test]
fn what_was_truncated_is_known_by_its_epoch_when_the_slot_that_said_so_is_used_again() {
    let (mut world, a) = ten();
    world.log.truncate(world.now, a, Offset(5));
    let new = batch(&["new"], 5, None);
    let append = Append {
        partition: a,
        leader_epoch: LeaderEpoch(4),
        base_offset: Offset(5),
        header: BatchHeader::parse(&new).unwrap(),
        batch: new,
    };
    world.log.append(world.now, append).unwrap();
    world.run();
    // Each start writes the few bytes of the newest slot once more.
    world.restart();
    world.restart();
    let [truncation] = world.groups_with(Kind::Truncate)[..] else { panic!("there is one") };
    wipe(&mut world, truncation.header.slot);
    by_footers(&mut world);
    assert_eq!(world.end(a), Offset(6));
    let values = world.values(a, 0);
    assert_eq!((values.len(), values[5].as_str()), (6, "new"));
    let epochs = [3, 4].map(|epoch| world.log.epoch_end(a, LeaderEpoch(epoch)));
    let ends = [(3, 5), (4, 6)].map(|(epoch, end)| Some((LeaderEpoch(epoch), Offset(end))));
    assert_eq!(epochs, ends);
}

#[test]
fn a_hole_whose_epoch_nobody_knows_is_no_stale_tail() {
    let (mut world, a) = ten();
    world.append(a, &["last"]).unwrap();
    world.run();
    let (batch, _) = batch_frame(a, 10, "");
    let hole = FrameHeader { kind: Kind::Replace, leader_epoch: LeaderEpoch(-1), ..batch };
    world.write_next(Lane::Short, &[(hole, Bytes::new())]);
    by_footers(&mut world);
    assert_eq!((world.end(a), world.log.stats().damaged_ranges), (Offset(11), 0));
    assert!(world.ask(spec(a, Offset(10))).unwrap().is_empty());
    assert_eq!(world.ask(spec(a, Offset(9))).unwrap().len(), 1);
}

#[test]
fn a_hole_at_which_a_partition_was_truncated_stays_its_end() {
    let (mut world, a) = ten();
    let hole = Replacement::Hole { base_offset: Offset(8), last_offset_delta: 0 };
    world.log.replace(world.now, a, vec![hole]).unwrap();
    world.run();
    world.log.truncate(world.now, a, Offset(9));
    world.run();
    by_footers(&mut world);
    assert_eq!(world.end(a), Offset(9));
    assert!(world.ask(spec(a, Offset(8))).unwrap().is_empty());
    world.append(a, &["goes on"]).unwrap();
    world.run();
    assert_eq!(world.values(a, 8), ["goes on"]);
    assert_eq!(world.values(a, 0).len(), 9);
}

#[test]
fn what_is_lost_before_the_first_record_is_told_from_what_was_trimmed() {
    let (mut world, a) = ten();
    world.restart();
    world.append(a, &["behind"]).unwrap();
    world.run();
    world.restart();
    let first = slot_of(&world, "0 fff");
    wipe(&mut world, first);
    by_footers(&mut world);
    assert_eq!(world.log.partition(a).unwrap().log_start, Offset(0));
    assert_eq!(read_all(&mut world, a), (vec![10], vec![(0, 10)]));
}

/// The slot that said so is free by now, and a start has made the footers of the others.
#[test]
fn a_footer_that_is_made_anew_says_where_its_partitions_begin() {
    let (mut world, a) = ten();
    world.log.trim(world.now, a, Offset(10));
    world.run();
    let trimmed = world.groups_with(Kind::LogStart)[0].header.slot;
    world.restart();
    world.append(a, &["behind"]).unwrap();
    world.run();
    world.restart();
    let first = slot_of(&world, "0 fff");
    [trimmed, first].into_iter().for_each(|slot| wipe(&mut world, slot));
    by_footers(&mut world);
    assert_eq!(world.log.partition(a).unwrap().log_start, Offset(10));
    assert_eq!(read_all(&mut world, a), (vec![10], vec![]));
}
