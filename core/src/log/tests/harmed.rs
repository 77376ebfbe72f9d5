//! What a damaged header says is not believed further than it has to be.
#![allow(clippy::unwrap_used)]

use super::damage::{filled, read_all};
use super::*;
use crate::log::layout::frame::Kind;

#[test]
fn a_batch_whose_header_claims_more_offsets_than_it_had_hides_none_that_follow() {
    let (mut world, a) = filled(u64::MAX);
    let frame = world.first_frame(&world.groups_with(Kind::Batch)[40]);
    world.flash[frame + 18] ^= 1;
    for _ in 0..2 {
        world.restart();
        let (there, damaged) = read_all(&mut world, a);
        assert_eq!((there.len(), damaged, world.end(a)), (119, vec![(40, 41)], Offset(120)));
    }
}

#[test]
fn what_is_taken_out_behind_the_last_whole_group_of_a_slot_comes_in_its_turn() {
    let mut world = World::with(u64::MAX, 0);
    let (a, meta) = (world.add(1, Lane::Short), world.add(2, Lane::Meta));
    let ten = ["v"; 10];
    let append = |world: &mut World, number, values: &[&str]| {
        world.append(number, values).unwrap();
        world.run();
    };
    append(&mut world, meta, &["m"]);
    append(&mut world, a, &ten);
    append(&mut world, a, &ten);
    world.log.trim(world.now, a, Offset(15));
    append(&mut world, meta, &["m"]);
    append(&mut world, a, &["behind"]);
    let trimmed = world.groups_with(Kind::LogStart).pop().unwrap();
    world.harm(&trimmed);
    for start in 0..2 {
        world.restart();
        assert_eq!(world.log.stats().damaged_ranges, 0, "start {start}");
        assert_eq!(world.values(a, 15), ["v", "v", "v", "v", "v", "behind"], "start {start}");
    }
}

#[test]
fn a_footer_is_believed_before_a_damaged_header_that_says_it_was_given_up() {
    let (mut world, a) = filled(u64::MAX);
    let groups = world.groups_with(Kind::Batch);
    let slot = groups[0].header.slot;
    let last = *groups.iter().rfind(|group| group.header.slot == slot).unwrap();
    assert!(last.header.group_seq < groups.last().unwrap().header.group_seq);
    let at = world.place(slot, last.at);
    // Its boot epoch is 0 now, the one before the first.
    world.flash[at + 23] ^= 1;
    world.restart();
    let (there, damaged) = read_all(&mut world, a);
    assert_eq!((there.len(), damaged), (120, vec![]));
}

#[test]
fn the_number_of_a_group_that_was_acknowledged_and_is_gone_is_not_given_out_again() {
    let mut world = World::with(u64::MAX, 0);
    let a = world.add(1, Lane::Short);
    for value in ["a", "b"] {
        world.append(a, &[value]).unwrap();
        world.run();
    }
    let last = world.groups_with(Kind::Batch).pop().unwrap();
    // The footer that this start makes says that both were flushed; what it writes then is cut.
    world.restart();
    for group in world.groups().iter().filter(|group| group.header.slot != last.header.slot) {
        let at = world.place(group.header.slot, 0);
        world.flash[at..at + SLOT_BYTES as usize].fill(0);
    }
    let at = world.place(last.header.slot, last.at);
    world.flash[at..at + 200].fill(0xee);
    world.restart();
    assert_eq!(world.log.stats().damaged_groups, 1);
    world.append(a, &["c"]).unwrap();
    world.run();
    let seqs: Vec<u64> = world.groups().iter().map(|group| group.header.group_seq).collect();
    assert!(seqs.len() > 1 && !seqs.contains(&last.header.group_seq), "{seqs:?}");
}

#[test]
fn a_hole_reaches_beyond_what_is_left_of_what_it_took_the_place_of() {
    let mut world = World::with(u64::MAX, 0);
    let a = world.add(1, Lane::Short);
    for values in [["v"; 5], ["w"; 5]] {
        world.append(a, &values).unwrap();
        world.run();
    }
    let hole = Replacement::Hole { base_offset: Offset(0), last_offset_delta: 9 };
    world.append(a, &["x"]).unwrap();
    world.run();
    world.log.replace(world.now, a, vec![hole]).unwrap();
    world.run();
    for group in &world.groups_with(Kind::Batch)[1..] {
        // Nothing of them can be believed, their offsets neither.
        let frame = world.first_frame(group);
        world.flash[frame + 8] ^= 1;
    }
    world.append(a, &["y"]).unwrap();
    world.run();
    world.restart();
    assert_eq!(world.log.partition(a).unwrap().damaged, [(Offset(10), Offset(11))]);
    assert_eq!(world.values(a, 11), ["y"]);
}
