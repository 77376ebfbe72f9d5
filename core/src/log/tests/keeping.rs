//! Retention, trimming, the disk budget, and searches by timestamp.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::log::layout::frame::Kind;

fn fill(world: &mut World, a: PartitionNumber, batches: usize) {
    for _ in 0..batches {
        world.append(a, &[&"k".repeat(3000)]).unwrap();
        world.run();
    }
}

fn start(world: &World, a: PartitionNumber) -> i64 {
    world.log.partition(a).unwrap().log_start.0
}

#[test]
fn a_trim_moves_the_log_start_frees_slots_and_survives_a_restart() {
    let mut world = World::with(u64::MAX, 0);
    let a = world.add(1, Lane::Short);
    fill(&mut world, a, 100);
    let free = world.log.stats().slots_free;
    world.log.trim(world.now, a, Offset(90));
    world.run();
    world.log.checkpoint(world.now);
    world.run();
    assert!(world.log.stats().slots_free >= free + 4);
    for _ in 0..2 {
        assert_eq!((start(&world, a), world.end(a)), (90, Offset(100)));
        assert_eq!(world.ask(spec(a, Offset(89))), Err(FetchError::OutOfRange));
        assert_eq!(world.values(a, 90).len(), 10);
        world.restart();
    }
}

#[test]
fn slots_are_used_again_and_their_old_groups_never_come_back() {
    let mut world = World::with(128 << 10, 0);
    let a = world.add(1, Lane::Short);
    let mut rng = Rng::new(3);
    for round in 0..60 {
        fill(&mut world, a, 40);
        let end = world.end(a);
        world.log.trim(world.now, a, end.plus(-20));
        world.run();
        if round % 7 == 0 {
            world.cut(&mut rng);
        }
        assert_eq!((world.end(a), start(&world, a)), (end, end.0 - 20), "round {round}");
        assert_eq!(world.values(a, end.0 - 20).len(), 20);
        assert_eq!(world.log.stats().damaged_ranges, 0, "round {round}");
    }
    assert!(world.flash.len() < 98 * SLOT_BYTES as usize + 1);
}

#[test]
fn retention_by_bytes_keeps_about_so_many() {
    let mut world = World::with(128 << 10, 0);
    let a = PartitionNumber(1);
    let retention = Retention { ms: -1, bytes: 200_000, yields_to_pressure: false };
    world.log.set_partition(a, Policy::new(retention, Cleanup::DELETE));
    for _ in 0..10 {
        fill(&mut world, a, 40);
        world.log.expire(world.now, None);
        fill(&mut world, a, 1);
        let bytes = world.log.partition(a).unwrap().bytes;
        assert!(bytes < 200_000 + 64_000, "{bytes}");
    }
    assert!(world.log.partition(a).unwrap().bytes >= 200_000);
    assert!(world.events.iter().any(|event| matches!(event, Event::Trimmed { .. })));
}

#[test]
fn what_has_expired_costs_no_commit_and_is_said_with_the_next() {
    let mut world = World::with(u64::MAX, 0);
    let (a, other) = (PartitionNumber(1), world.add(2, Lane::Long));
    let retention = Retention { ms: 50_000, bytes: -1, yields_to_pressure: false };
    let policy = Policy::new(retention, Cleanup::DELETE);
    let expire = |world: &mut World| {
        world.log.set_partition(a, policy);
        let (flushes, wall) = (world.flushes, world.end(a).0 * 1_000);
        world.now = world.now.plus_ms(10_000);
        world.log.expire(world.now, Some(WallTime(wall)));
        world.run();
        assert_eq!(world.flushes, flushes);
        start(world, a)
    };
    world.log.set_partition(a, policy);
    fill(&mut world, a, 200); // Timestamps 0 to 199,000.
    let kept = expire(&mut world);
    assert!(kept > 100);
    assert_eq!(world.ask(spec(a, Offset(kept - 1))), Err(FetchError::OutOfRange));
    world.restart();
    assert_eq!(start(&world, a), 0, "nothing on flash says so yet");
    // Behind other records, in a slot of its own; beside its own records, among them.
    for (number, lane) in [(other, Lane::Meta), (a, policy.lane)] {
        world.add(other.0, Lane::Long);
        let kept = expire(&mut world);
        let before = world.groups_with(Kind::LogStart).len();
        fill(&mut world, number, 1);
        let said = &world.groups_with(Kind::LogStart)[before..];
        assert!(matches!(said, [one] if one.header.lane == lane as u8), "{lane:?}: {said:?}");
        world.restart();
        assert_eq!(start(&world, a), kept, "{lane:?}");
        assert_eq!(world.values(a, kept).len() as i64, world.end(a).0 - kept);
        fill(&mut world, a, 100);
    }
}

#[test]
fn retention_by_time_waits_for_a_trusted_clock_and_follows_a_jump_slowly() {
    let mut world = World::with(128 << 10, 0);
    let a = PartitionNumber(1);
    let retention = Retention { ms: 50_000, bytes: -1, yields_to_pressure: false };
    world.log.set_partition(a, Policy::new(retention, Cleanup::DELETE));
    fill(&mut world, a, 200); // Timestamps 0 to 199,000.
    let expire = |world: &mut World, wall: Option<i64>| {
        world.log.expire(world.now, wall.map(WallTime));
        world.run();
        start(world, a)
    };
    assert_eq!(expire(&mut world, None), 0);
    let first = expire(&mut world, Some(199_000));
    assert!((120..=149).contains(&first), "{first}");
    let year = 365 * 86_400_000;
    assert_eq!(expire(&mut world, Some(year)), first, "a jump expires nothing at once");
    assert_eq!(world.log.stats().clock_jumps, 1);
    world.now = world.now.plus_ms(10_000);
    assert_eq!(expire(&mut world, Some(year)), 200, "time goes on, 60 times as fast");
}

/// A moment: the seconds since the one before, what the wall clock shows in seconds, or `None`
/// while it is not trusted, the jumps that are counted by then, and the log start.
type Moment = (u64, Option<i64>, u64, i64);

const HOUR: i64 = 3_600;

/// Writes 1,000 records, one a second, 150 to a slot, and looks what retention by time keeps.
fn check_clock(retention_seconds: i64, moments: &[Moment]) {
    let mut world = World::with(u64::MAX, 0);
    let a = PartitionNumber(1);
    let retention = Retention { ms: retention_seconds * 1_000, ..Retention::FOR_EVER };
    world.log.set_partition(a, Policy::new(retention, Cleanup::DELETE));
    for _ in 0..20 {
        world.append(a, &["s".repeat(300).as_str(); 50]).unwrap();
        world.run();
    }
    for moment in moments {
        let &(seconds, wall, jumps, log_start) = moment;
        world.now = world.now.plus_ms(seconds * 1_000);
        world.log.expire(world.now, wall.map(|wall| WallTime(wall * 1_000)));
        world.run();
        let seen = (world.log.stats().clock_jumps, start(&world, a));
        assert_eq!(seen, (jumps, log_start), "{moment:?} of {moments:?}");
    }
}

#[test]
fn a_clock_that_jumps_back_keeps_records_longer() {
    check_clock(
        500,
        &[
            (0, Some(1_000), 0, 450),
            (10, Some(1_010), 0, 450),
            (10, Some(1_020 - HOUR), 1, 450),
            (600, Some(1_620 - HOUR), 1, 450),
            (HOUR as u64, Some(1_620), 1, 1_000),
        ],
    );
}

#[test]
fn a_clock_that_jumps_back_and_then_ahead_deletes_nothing_at_once() {
    let far = 1_000 * HOUR;
    check_clock(
        2_400,
        &[
            (0, Some(1_000), 0, 0),
            (10, Some(1_010 - HOUR), 1, 0),
            (10, Some(1_020 + far), 2, 0),
            (10, Some(1_030 + far), 2, 0),
            (10, Some(1_040), 3, 0),
            (1_700, Some(2_740), 3, 300),
        ],
    );
    // It is back so far that it is not trusted, for an hour.
    check_clock(
        2_400,
        &[
            (0, Some(1_000), 0, 0),
            (10, None, 0, 0),
            (HOUR as u64, None, 0, 0),
            (10, Some(1_020 + HOUR + far), 1, 0),
            (10, Some(1_030 + HOUR), 2, 0),
            (10, Some(1_040 + HOUR), 2, 300),
        ],
    );
}

#[test]
fn a_clock_that_jumps_ahead_and_then_back_deletes_nothing_at_once() {
    let far = 1_000 * HOUR;
    check_clock(
        2_400,
        &[
            (0, Some(1_000), 0, 0),
            (10, Some(1_010 + far), 1, 0),
            (10, Some(1_020 + far), 1, 0),
            (10, Some(1_030), 2, 0),
            (10, Some(1_040), 2, 0),
            (1_700, Some(2_740), 2, 300),
        ],
    );
}

#[test]
fn a_full_disk_refuses_data_but_not_meta_and_pressure_expires_what_yields() {
    let mut world = World::with(128 << 10, 0);
    let (a, meta) = (world.add(1, Lane::Short), world.add(0, Lane::Meta));
    let value = "f".repeat(3000);
    let refused = (0..3000).find(|_| {
        let refused = world.append(a, &[&value]).is_err();
        world.run();
        refused
    });
    assert!(refused.is_some_and(|count| count > 1000), "{refused:?}");
    assert_eq!(world.append(a, &[&value]), Err(AppendError::Full));
    assert_eq!(world.append(meta, &["offsets go on"]), Ok(()));
    world.run();
    world.restart();
    assert_eq!(world.values(meta, 0), ["offsets go on"]);

    let yields = Retention { yields_to_pressure: true, ..Retention::FOR_EVER };
    world.log.set_partition(a, Policy::new(yields, Cleanup::DELETE));
    world.log.expire(world.now, None);
    for _ in 0..20 {
        world.log.expire(world.now, None);
        world.run();
    }
    assert!(start(&world, a) > 0);
    assert!(start(&world, a) < world.end(a).0 / 2, "not more than needed");
    for _ in 0..500 {
        assert_eq!(world.append(a, &[&value]), Ok(()));
        world.run();
    }
}

#[test]
fn a_timestamp_leads_to_the_first_record_that_is_not_older() {
    for (tail_cache_bytes, packed) in [(0, false), (0, true), (1 << 20, false), (1 << 20, true)] {
        let mut world = World::with(128 << 10, tail_cache_bytes);
        let a = world.add(1, Lane::Short);
        for _ in 0..100 {
            let plain = batch(&["t", "t", &"t".repeat(2000)], world.end(a).0, None);
            let IoResult::Read(flipped) = flip::pack(&plain, Codec::Lz4) else { panic!() };
            world.append_batch(a, if packed { flipped } else { plain }).unwrap();
            world.run();
        }
        world.log.trim(world.now, a, Offset(10));
        world.run();
        for (timestamp, expected) in
            [(0, Some(10)), (10_000, Some(10)), (10_001, Some(11)), (298_500, Some(299))]
        {
            let found = world.search(a, timestamp).map(|hit| hit.offset.0);
            assert_eq!(found, expected, "{timestamp}");
        }
        assert_eq!(world.search(a, 299_001), None);
    }
}

#[test]
fn many_searches_take_turns_and_all_are_answered() {
    let mut world = World::with(128 << 10, 0);
    let a = world.add(1, Lane::Short);
    let plain = batch(&["t"; 50], 0, None);
    let IoResult::Read(flipped) = flip::pack(&plain, Codec::Zstd) else { panic!() };
    world.append_batch(a, flipped).unwrap();
    world.run();
    for at in 0..50 {
        let asked = world.log.find_timestamp(a, at * 1000).unwrap();
        assert!(matches!(asked, Answer::Later(_)));
    }
    world.run();
    let found = world.events.iter().filter_map(|event| match event {
        Event::Found { result: Ok(Some(hit)), .. } => Some(hit.offset.0),
        _ => None,
    });
    assert!(found.eq(0..50));
}

#[test]
fn a_batch_that_was_taken_out_is_not_served_and_a_search_looks_behind_its_hole() {
    // The hole stands in the same slot as what it takes the place of.
    let mut world = World::with(u64::MAX, 0);
    let a = world.add(1, Lane::Compacted);
    for value in ["0", "1", "2", "3"] {
        world.append(a, &[value]).unwrap();
    }
    world.run();
    let hole = Replacement::Hole { base_offset: Offset(1), last_offset_delta: 0 };
    world.log.replace(world.now, a, vec![hole]).unwrap();
    world.run();
    for _ in 0..2 {
        assert_eq!(world.values(a, 0), ["0", "2", "3"]);
        assert_eq!(world.search(a, 1).unwrap().offset, Offset(2));
        assert_eq!(world.search(a, 2_500).unwrap().offset, Offset(3));
        assert_eq!(world.log.stats().damaged_ranges, 0);
        world.restart();
    }
}

#[test]
fn a_disk_budget_that_is_filled_at_once_keeps_what_retention_by_bytes_keeps() {
    let mut world = World::with(64 << 10, 0);
    let a = world.add(1, Lane::Long);
    let retention = Retention { bytes: 256 << 10, ..Retention::FOR_EVER };
    world.log.set_partition(a, Policy::new(retention, Cleanup::DELETE));
    let value = "r".repeat(3000);
    for number in 0..4000 {
        assert_eq!(world.append(a, &[&value]), Ok(()), "{number}");
        world.run();
    }
    assert!(world.log.partition(a).unwrap().bytes >= 256 << 10);
}

#[test]
fn write_amplification_is_that_of_the_whole_life() {
    let mut world = World::new();
    let a = world.add(1, Lane::Short);
    let life = Life { written_bytes: 3 << 20, payload_bytes: 1 << 20, ..Life::default() };
    world.log.set_upkeep(world.now, Upkeep { card: None, life, scrub: None });
    fill(&mut world, a, 10);
    let Stats { written_bytes, payload_bytes, life, write_amplification, .. } = world.log.stats();
    assert!(written_bytes > payload_bytes && payload_bytes > 30_000);
    assert_eq!(life.payload_bytes, (1 << 20) + payload_bytes);
    let whole = ((3 << 20) + written_bytes) as f64 / life.payload_bytes as f64;
    assert_eq!(write_amplification, whole);
}

#[test]
fn what_a_forgotten_partition_held_is_not_carried_over() {
    let mut world = World::new();
    let (a, b) = (world.add(1, Lane::Short), world.add(2, Lane::Short));
    for number in [a, b] {
        world.append(number, &["record"]).unwrap();
    }
    world.run();
    world.log.retain_partitions(|number| number == a);
    world.log.checkpoint(world.now);
    world.run();
    for _ in 0..2 {
        world.restart();
        assert!(world.log.partition(b).is_none());
        assert_eq!(world.values(a, 0), ["record"]);
    }
}
