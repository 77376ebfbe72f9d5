//! A start without a checkpoint that can be used puts the log together from its footers, whatever
//! lies over what in them.
#![allow(clippy::unwrap_used)]

use super::craft::batch_frame;
use super::damage::read_all;
use super::recovery::roots;
use super::*;
use alloc::format;

/// Starts again without a checkpoint.
fn by_footers(world: &mut World) {
    for root in roots(world) {
        world.harm(&root);
    }
    world.restart();
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
