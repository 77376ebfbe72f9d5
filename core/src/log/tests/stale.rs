//! Footers that are made anew where a group is damaged, and with it the frame that truncated what
//! stands before.
#![allow(clippy::unwrap_used)]

use super::damage::read_all;
use super::recovery::checkpoint;
use super::scrub::scrub;
use super::*;
use crate::log::layout::frame::Kind;
use crate::log::layout::group::GROUP_HEADER_BYTES;

/// A partition whose offsets 2 and 3 were truncated and appended anew by one group, and others of
/// so many batches of 20 KB behind it; a checkpoint knows all that.
fn truncated(others: usize) -> (World, PartitionNumber) {
    let mut world = World::with(u64::MAX, 0);
    let (a, b) = (world.add(1, Lane::Short), world.add(2, Lane::Short));
    for value in ["a", "b", "c", "d", "e"] {
        world.append(a, &[value]).unwrap();
    }
    world.run();
    world.log.truncate(world.now, a, Offset(2));
    world.append_in(a, 4, &["x", "y"]);
    world.run();
    world.append_in(a, 4, &["z"]);
    world.run();
    for _ in 0..others {
        world.append(b, &[&"b".repeat(20_000)]).unwrap();
        world.run();
    }
    checkpoint(&mut world);
    (world, a)
}

fn damage(world: &mut World) {
    let said = world.groups_with(Kind::Truncate)[0];
    let (at, end) = (world.place(said.header.slot, said.at), said.header.bytes as usize);
    world.flash[at + GROUP_HEADER_BYTES..at + end].fill(0xee);
}

fn check(world: &mut World, a: PartitionNumber) {
    assert_eq!(read_all(world, a), (vec![0, 1, 4], vec![(2, 4)]));
    assert_eq!((world.end(a), world.values(a, 4)), (Offset(5), vec!["z".into()]));
}

#[test]
fn what_was_truncated_does_not_come_back_with_a_footer_that_rots() {
    for scrubbed in [false, true] {
        let (mut world, a) = truncated(4);
        let slot = world.groups_with(Kind::Truncate)[0].header.slot;
        world.restart();
        damage(&mut world);
        let trailer = world.place(slot + 1, 0) - 40;
        world.flash[trailer] ^= 1;
        if scrubbed {
            let lost: Vec<_> = scrub(&mut world).into_iter().flat_map(|found| found.lost).collect();
            assert_eq!(lost, [(1, 2, 4)]);
        }
        check(&mut world, a);
        world.restart();
        check(&mut world, a);
    }
}

#[test]
fn what_was_truncated_does_not_come_back_with_the_footer_that_a_start_makes() {
    let (mut world, a) = truncated(1);
    damage(&mut world);
    for _ in 0..2 {
        world.restart();
        check(&mut world, a);
    }
}
