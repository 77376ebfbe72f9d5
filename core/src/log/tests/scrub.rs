//! The scrub finds what rots, says what is lost with it, and makes it definite.
#![allow(clippy::unwrap_used)]

use super::damage::{filled, find, read_all};
use super::*;
use crate::log::inspect::{self, Checked, Item};
use crate::types::Nanos;
use alloc::format;
use alloc::string::ToString;

const SLOT: usize = SLOT_BYTES as usize;

/// Where a slot begins on the medium.
fn slot(number: usize) -> usize {
    (number + 2) * SLOT
}

/// Lets the scrub read everything once, and gives what it has found.
pub fn scrub(world: &mut World) -> Vec<Damage> {
    world.events.clear();
    let passes = world.log.stats().scrub.passes;
    let plan = ScrubPlan { pass: Nanos::from_ms(50), slot: 0, quarantine_unreadable: false };
    world.log.set_scrub(world.now, Some(plan));
    while world.log.stats().scrub.passes == passes {
        while let Some(io) = world.log.poll_io(world.now) {
            world.perform(io);
        }
        world.now = world.now.max(world.log.deadline().unwrap());
    }
    world.log.set_scrub(world.now, None);
    world.run();
    let damage = |event: &Event| match event {
        Event::Damage(damage) => Some(damage.clone()),
        _ => None,
    };
    world.events.iter().filter_map(damage).collect()
}

/// What a check of the medium as it stands finds.
fn check(world: &World) -> Vec<Damage> {
    let mut found = Vec::new();
    let mut read = |at: u64, len: u32| Some(world.read(at, len));
    inspect::check(world.flash.len() as u64, &mut read, &mut |checked| {
        if let Checked::Damage(damage) = checked {
            found.push(damage.clone());
        }
    })
    .unwrap();
    found
}

/// The group in which a batch of partition 1 stands.
fn group_of(world: &World, offset: i64) -> u64 {
    let (mut group, mut found) = (0, None);
    let mut read = |at: u64, len: u32| Some(world.read(at, len));
    inspect::walk(world.flash.len() as u64, &mut read, |item| {
        match item {
            Item::Group { group_seq, .. } => group = group_seq,
            Item::Frame { kind: "batch", partition: 1, base_offset, .. }
                if base_offset == offset =>
            {
                found = Some(group);
            }
            _ => {}
        }
        found.is_none()
    })
    .unwrap();
    found.unwrap()
}

#[test]
fn a_whole_log_is_found_whole() {
    let (mut world, _) = filled(64 << 10);
    assert_eq!(scrub(&mut world), []);
    assert!(world.log.stats().scrub.groups > 50);
    assert_eq!(check(&world), []);
    world.restart();
    assert_eq!(scrub(&mut world), []);
    assert!(world.log.stats().scrub.groups > 100, "what was open is sealed now");
}

#[test]
fn a_rotten_batch_is_found_without_being_asked_for_and_is_definite_from_then_on() {
    let (mut world, a) = filled(64 << 10);
    world.restart();
    let groups = [5, 60, 61].map(|offset| group_of(&world, offset));
    for number in [5, 60, 61] {
        let at = find(&world, number);
        world.flash[at + 300] ^= 4;
    }
    let checked = check(&world);
    let found = scrub(&mut world);
    let lost: Vec<_> = found.iter().flat_map(|damage| damage.lost.clone()).collect();
    assert_eq!(lost, [(1, 5, 6), (1, 60, 62)]);
    let named: Vec<_> = found.iter().filter_map(|damage| damage.groups).collect();
    assert_eq!(named, [(groups[0], groups[0]), (groups[1], groups[2])]);
    let words = format!("commit groups {} to {}", groups[1], groups[2]);
    assert!(found[1].to_string().contains(&words), "{words}: {}", found[1]);
    assert_eq!(checked, found, "a check finds the same");
    assert_eq!(world.log.stats().scrub.lost_offsets, 3);

    assert_eq!(scrub(&mut world), [], "it is known now");
    assert_eq!(check(&world), []);
    let reads = world.reads;
    let spec = spec(a, Offset(5));
    assert_eq!(world.log.fetch(spec), Err(FetchError::Damaged { until: Offset(6) }));
    assert_eq!(world.reads, reads, "without a look at the flash");
    world.restart();
    assert_eq!(world.log.stats().quarantined_ranges, 2);
    assert_eq!(check(&world), []);
    assert_eq!(read_all(&mut world, a).1, [(5, 6), (60, 62)]);
}

#[test]
fn headers_and_footers_are_written_anew_and_cost_nothing() {
    let (mut world, a) = filled(128 << 10);
    world.restart();
    world.flash[slot(0) + 8] ^= 1;
    world.flash[slot(2) - 40] ^= 1;
    let what = |found: &[Damage]| found.iter().map(|d| (d.slot, d.what)).collect::<Vec<_>>();
    assert_eq!(what(&check(&world)), [(0, Part::Header), (1, Part::Footer)]);
    let found = scrub(&mut world);
    assert_eq!(what(&found), [(0, Part::Header), (1, Part::Footer)]);
    assert!(found.iter().all(|damage| damage.lost.is_empty()));
    assert_eq!(check(&world), []);
    world.restart();
    assert_eq!(scrub(&mut world), []);
    assert_eq!(read_all(&mut world, a).0.len(), 120);
}

#[test]
fn a_header_that_a_cut_tore_with_the_first_commit_of_its_slot_is_no_damage() {
    let mut world = World::with(u64::MAX, 0);
    let a = world.add(1, Lane::Long);
    world.append(a, &["a"]).unwrap();
    world.run();
    // Nothing that came later says that the commit was acknowledged.
    world.flash[slot(0)..slot(0) + 512].fill(0);
    world.restart();
    assert_eq!(world.values(a, 0), ["a"]);
    assert_eq!(check(&world), []);
}

#[test]
fn a_batch_that_rots_in_a_slot_without_a_footer_is_told_from_those_that_did_not() {
    let (mut world, a) = filled(64 << 10);
    world.restart();
    let around = [8, 10].map(|offset| group_of(&world, offset));
    let at = find(&world, 9);
    world.flash[at] ^= 1;
    world.flash[slot(1) - 40] ^= 1;
    let found = scrub(&mut world);
    let lost: Vec<_> = found.iter().flat_map(|damage| damage.lost.clone()).collect();
    assert_eq!(lost, [(1, 9, 10)]);
    let named: Vec<_> = found.iter().filter_map(|damage| damage.groups).collect();
    assert_eq!(named, [(around[0] + 1, around[1] - 1)], "from the whole ones around it");
    world.restart();
    assert_eq!(check(&world), []);
    assert_eq!(read_all(&mut world, a).1, [(9, 10)]);
}

#[test]
fn a_repair_leaves_nothing_for_the_next_check_wherever_the_damage_is() {
    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let (mut world, a) = filled(if seed % 2 == 0 { 32 << 10 } else { u64::MAX });
        for _ in 0..=rng.below(3) {
            let at = rng.below(world.flash.len() as u64 / 512) as usize * 512;
            for byte in &mut world.flash[at..at + 512] {
                *byte = rng.next_u64() as u8;
            }
        }
        let before = world.flash.clone();
        check(&world);
        assert!(world.flash == before, "a check changes nothing");
        let bytes = world.flash.len() as u64;
        let mut perform = |io: &Io| match io {
            Io::Read { at, len, .. } | Io::Verify { at, len, .. } => {
                IoResult::Read(world.read(*at, *len))
            }
            Io::Write { at, bytes, .. } => {
                world.keep(*at, bytes);
                IoResult::Done
            }
            _ => IoResult::Done,
        };
        inspect::repair(bytes, &mut perform, &mut |_| {}).unwrap();
        let mut read = |at: u64, len: u32| Some(world.read(at, len));
        let after = inspect::overview(world.flash.len() as u64, &mut read).unwrap().stats;
        assert_eq!(check(&world), [], "seed {seed}");
        assert_eq!(after.damaged_groups, 0, "seed {seed}");
        assert_eq!(after.damaged_ranges, after.quarantined_ranges, "seed {seed}");
        world.restart();
        let (there, damaged) = read_all(&mut world, a);
        let lost: i64 = damaged.iter().map(|(from, until)| until - from).sum();
        assert_eq!(there.len() as i64 + lost, world.end(a).0, "seed {seed}");
        assert!(there.len() >= 100, "seed {seed}");
    }
}

#[test]
fn the_scrub_keeps_its_pace() {
    let (mut world, _) = filled(64 << 10);
    world.restart();
    let day = Nanos(86_400_000_000_000);
    let plan = ScrubPlan { pass: day, slot: 0, quarantine_unreadable: false };
    world.log.set_scrub(world.now, Some(plan));
    let begin = world.now;
    while world.log.stats().scrub.passes == 0 {
        while let Some(io) = world.log.poll_io(world.now) {
            world.perform(io);
        }
        world.now = world.now.max(world.log.deadline().unwrap());
    }
    let took = world.now.since(begin).0 as f64 / day.0 as f64;
    assert!((0.5..1.5).contains(&took), "a pass took {took} days");
}
