//! What was lost takes its place again, and stays there; what exactly is lost is found out where
//! somebody could not read.
#![allow(clippy::unwrap_used)]

use super::damage::{filled, find, read_all};
use super::*;
use crate::types::Nanos;

/// What stands at an offset.
fn batch_at(world: &mut World, a: PartitionNumber, offset: i64) -> Bytes {
    world.ask(spec(a, Offset(offset))).unwrap().remove(0)
}

/// Flips a bit of the value with that number, and has somebody meet it.
fn harm(world: &mut World, a: PartitionNumber, number: usize) {
    let at = find(world, number);
    world.flash[at + 300] ^= 4;
    let met = world.ask(spec(a, Offset(number as i64)));
    assert!(matches!(met, Err(FetchError::Damaged { .. })), "{met:?}");
}

fn probe(world: &mut World, a: PartitionNumber) {
    world.events.clear();
    world.log.probe(a);
    world.run();
    let said = |event: &&Event| matches!(event, Event::Probed { partition } if *partition == a);
    assert_eq!(world.events.iter().filter(said).count(), 1);
}

fn damaged(world: &World, a: PartitionNumber) -> Vec<(i64, i64)> {
    let view = world.log.partition(a).unwrap();
    assert!(view.suspect.is_none());
    view.damaged.iter().map(|(from, until)| (from.0, until.0)).collect()
}

#[test]
fn what_somebody_met_is_made_definite_to_the_batch() {
    let (mut world, a) = filled(64 << 10);
    world.restart();
    harm(&mut world, a, 5);
    probe(&mut world, a);
    assert_eq!(damaged(&world, a), [(5, 6)]);
    // What lies behind is found with it.
    harm(&mut world, a, 61);
    harm(&mut world, a, 60);
    probe(&mut world, a);
    assert_eq!(damaged(&world, a), [(5, 6), (60, 62)]);
}

#[test]
fn what_cannot_be_read_costs_what_stands_there_and_nothing_beside_it() {
    let (mut world, a) = filled(64 << 10);
    world.restart();
    let bad = find(&world, 30) as u64;
    world.meddle = Box::new(move |io| match io {
        // Not the footer, which is read with all that is before it in so small a slot.
        Io::Read { at, len, .. }
            if *len < SLOT_BYTES && *at <= bad && bad < at + u64::from(*len) =>
        {
            Some(IoResult::Failed)
        }
        _ => None,
    });
    assert_eq!(world.ask(spec(a, Offset(30))), Err(FetchError::Device));
    probe(&mut world, a);
    assert_eq!(damaged(&world, a), [(30, 31)]);
    let numbers: Vec<usize> = (0..30).chain(31..120).collect();
    assert_eq!(read_all(&mut world, a), (numbers, vec![(30, 31)]));
}

#[test]
fn where_nothing_of_a_slot_can_be_read_all_of_it_is_lost() {
    let (mut world, a) = filled(64 << 10);
    world.restart();
    let slot = find(&world, 30) as u64 / u64::from(SLOT_BYTES);
    world.meddle = Box::new(move |io| match io {
        Io::Read { at, .. } if at / u64::from(SLOT_BYTES) == slot => Some(IoResult::Failed),
        _ => None,
    });
    assert!(world.ask(spec(a, Offset(30))).is_err());
    probe(&mut world, a);
    let lost = damaged(&world, a);
    assert!(matches!(lost[..], [(from, until)] if from <= 30 && until > 31), "{lost:?}");
    assert_eq!(read_all(&mut world, a).1, lost);
}

#[test]
fn what_was_bad_for_a_moment_only_is_not_given_up() {
    let (mut world, a) = filled(64 << 10);
    world.restart();
    world.meddle = Box::new(|io| matches!(io, Io::Read { .. }).then_some(IoResult::Failed));
    assert!(world.ask(spec(a, Offset(30))).is_err());
    world.meddle = Box::new(|_| None);
    assert!(world.log.partition(a).unwrap().is_damaged);
    probe(&mut world, a);
    assert!(!world.log.partition(a).unwrap().is_damaged);
    assert_eq!(read_all(&mut world, a).0.len(), 120);
}

#[test]
fn what_was_lost_comes_back_and_stays_whatever_is_restarted_from() {
    for checkpoint_bytes in [64 << 10, 100 << 20] {
        let (mut world, a) = filled(checkpoint_bytes);
        let whole: Vec<Bytes> = [5, 60].map(|number| batch_at(&mut world, a, number)).into();
        let before = world.log.partition(a).unwrap().bytes;
        world.restart();
        for (number, batch) in [(5, &whole[0]), (60, &whole[1])] {
            harm(&mut world, a, number as usize);
            probe(&mut world, a);
            assert_eq!(damaged(&world, a), [(number, number + 1)]);
            let replacement = Replacement::Batch(batch.clone());
            world.log.replace(world.now, a, Vec::from([replacement])).unwrap();
            assert!(world.log.partition(a).unwrap().is_damaged, "not before it is durable");
            world.run();
            assert_eq!(damaged(&world, a), []);
        }
        for restart in [false, true, true] {
            if restart {
                world.restart();
            }
            let (there, lost) = read_all(&mut world, a);
            assert_eq!((there.len(), lost), (120, vec![]), "{checkpoint_bytes}");
            let view = world.log.partition(a).unwrap();
            assert!(!view.is_damaged && view.bytes.abs_diff(before) < 1_000);
        }
    }
}

#[test]
fn a_cut_before_it_is_durable_leaves_it_lost_and_it_is_known_to_be() {
    let (mut world, a) = filled(64 << 10);
    let whole = batch_at(&mut world, a, 5);
    world.restart();
    harm(&mut world, a, 5);
    probe(&mut world, a);
    // Known from a checkpoint on.
    world.log.checkpoint(world.now);
    world.run();
    world.log.replace(world.now, a, Vec::from([Replacement::Batch(whole)])).unwrap();
    world.now = world.now + Nanos::from_ms(10);
    while let Some(io) = world.log.poll_io(world.now) {
        drop(io);
    }
    world.cut(&mut Rng::new(1));
    assert_eq!(damaged(&world, a), [(5, 6)]);
    assert_eq!(read_all(&mut world, a).1, [(5, 6)]);
}
