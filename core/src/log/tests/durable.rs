//! What is acknowledged is there after a cut, a restart, a failed write.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::batch::Sequence;

#[test]
fn what_is_appended_is_durable_after_one_write_and_one_flush_and_is_read_back() {
    let mut world = World::new();
    let (a, b) = (world.add(1, Lane::Short), world.add(2, Lane::Short));
    let flushes = world.flushes;
    for value in ["x", "y"] {
        world.append(a, &[value, "and more"]).unwrap();
        world.append(b, &[value]).unwrap();
    }
    assert_eq!(world.log.partition(a).unwrap().durable_end, Offset(0));
    world.run();
    assert_eq!(world.flushes, flushes + 1);
    assert_eq!(world.log.partition(a).unwrap().durable_end, Offset(4));
    assert_eq!(world.values(a, 0), ["x", "and more", "y", "and more"]);
    assert_eq!(world.values(a, 1), ["and more", "y", "and more"]);
    assert_eq!(world.values(b, 1), ["y"]);
    assert_eq!(world.reads, 0, "the tail is read from memory");
    let durable = world.events.iter().find_map(|event| match event {
        Event::Durable { partitions } => Some(partitions.clone()),
        _ => None,
    });
    assert_eq!(durable, Some(vec![a, b]));
}

#[test]
fn a_restart_finds_everything_that_was_durable() {
    let mut world = World::new();
    let (a, meta) = (world.add(1, Lane::Short), world.add(0, Lane::Meta));
    let mut written = Vec::new();
    for round in 0..300 {
        let value = alloc::format!("{round} {}", "x".repeat(round * 7 % 900));
        world.append(a, &[&value]).unwrap();
        written.push(value);
        if round % 3 == 0 {
            world.append(meta, &["meta"]).unwrap();
        }
        world.run();
    }
    assert!(world.log.stats().checkpoints > 0);
    for _ in 0..3 {
        world.restart();
        same(&world.values(a, 0), &written, "restart");
        assert_eq!(world.values(meta, 0).len(), 100);
        assert_eq!(world.log.epoch_end(a, LeaderEpoch(7)), Some((LeaderEpoch(3), Offset(300))));
        assert_eq!(world.log.stats().damaged_groups, 0);
    }
}

#[test]
fn a_cut_at_any_moment_loses_nothing_acknowledged_and_brings_nothing_dropped_back() {
    for seed in 0..60 {
        check_cuts(seed);
    }
}

fn check_cuts(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut world = World::with(64 << 10, 8 << 10);
    let partitions =
        [world.add(0, Lane::Meta), world.add(1, Lane::Short), world.add(2, Lane::Short)];
    // What each partition must hold, and what it may hold beyond.
    let mut acked: [Vec<alloc::string::String>; 3] = Default::default();
    let mut sent: [Vec<alloc::string::String>; 3] = Default::default();
    for step in 0..60 {
        for _ in 0..rng.below(4) {
            let p = rng.below(3) as usize;
            let value = alloc::format!("{seed}.{step} {}", "v".repeat(rng.below(3000) as usize));
            world.append(partitions[p], &[&value]).unwrap();
            sent[p].push(value);
        }
        for _ in 0..rng.below(12) {
            match world.log.poll_io(world.now) {
                Some(io) => world.perform(io),
                None => world.now = world.log.deadline().unwrap_or(world.now),
            }
        }
        for p in 0..3 {
            let durable = world.log.partition(partitions[p]).unwrap().durable_end;
            acked[p] = sent[p][..durable.0 as usize].to_vec();
        }
        if rng.percent(12) {
            world.cut(&mut rng);
            let stats = world.log.stats();
            assert_eq!((stats.damaged_groups, stats.damaged_ranges), (0, 0), "seed {seed}");
            for p in 0..3 {
                let lane = if p == 0 { Lane::Meta } else { Lane::Short };
                world.log.set_partition(partitions[p], Policy::for_ever(lane));
                let found = world.values(partitions[p], 0);
                assert!(found.len() >= acked[p].len(), "seed {seed}: acknowledged is lost");
                same(&found, &sent[p][..found.len()], &alloc::format!("seed {seed} step {step}"));
                sent[p] = found;
            }
        }
    }
}

#[test]
fn a_failed_write_moves_to_another_slot_and_a_second_in_a_row_fences() {
    let mut world = World::new();
    let a = world.add(1, Lane::Short);
    world.append(a, &["before"]).unwrap();
    world.run();
    for failing in 1..=2 {
        world.failing = failing;
        world.append(a, &["during"]).unwrap();
        world.run();
        world.append(a, &["after"]).unwrap();
        world.run();
    }
    let expected = ["before", "during", "after", "during", "after"];
    assert_eq!(world.values(a, 0), expected);
    assert!(world.events.iter().any(|event| matches!(event, Event::WriteFailed)));
    world.restart();
    assert_eq!(world.values(a, 0), expected);
    assert_eq!(world.log.stats().damaged_groups, 0);

    world.append(a, &["never acknowledged"]).unwrap();
    world.failing = 10;
    world.run();
    assert!(world.events.iter().any(|event| matches!(event, Event::Fenced)));
    assert_eq!(world.append(a, &["refused"]), Err(AppendError::Fenced));
    assert_eq!(world.values(a, 0), expected, "reads go on");
}

#[test]
fn an_idempotent_producers_sequence_survives_a_restart() {
    let mut world = World::with(32 << 10, 0);
    let a = world.add(1, Lane::Short);
    for sequence in 0..200 {
        let stamp = ProducerStamp { producer_id: 9, base_sequence: sequence, ..Default::default() };
        let batch = batch(&[&"x".repeat(500)], 0, Some(stamp));
        world.append_batch(a, batch.clone()).unwrap();
        world.run();
        if sequence % 37 == 0 {
            world.restart();
            let header = BatchHeader::parse(&batch).unwrap();
            let base_offset = Offset(i64::from(sequence));
            let view = world.log.partition(a).unwrap();
            assert_eq!(view.producers.check(&header), Ok(Sequence::Duplicate { base_offset }));
        }
    }
}
