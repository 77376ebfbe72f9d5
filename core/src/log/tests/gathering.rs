//! An index that is too small for what is written: what is in many pieces is gathered, and what
//! does not fit is refused.

use super::*;
use crate::log::layout::footer::Spot;
use crate::log::truncate::Cut;
use crate::rng::Rng;

const PARTITIONS: u32 = 40;

/// Partitions that all write into every slot, and an index of so many runs.
fn scattered(index_runs_max: u32) -> (World, Vec<PartitionNumber>) {
    let mut world = World::with(256 << 10, 0);
    world.index_runs_max = index_runs_max;
    world.restart();
    let numbers = (1..=PARTITIONS).map(|number| world.add(number, Lane::Long)).collect();
    (world, numbers)
}

/// A batch for each partition, until the log has taken so many rounds or refuses one.
fn write(world: &mut World, numbers: &[PartitionNumber], rounds: usize) -> Result<(), AppendError> {
    for _ in 0..rounds {
        for &number in numbers {
            let value = alloc::format!("{} of {}", world.end(number), number.0);
            world.append(number, &[&value, &"x".repeat(700)])?;
        }
        world.run();
    }
    Ok(())
}

/// Every record is where it was written.
fn check(world: &mut World, numbers: &[PartitionNumber]) {
    for &number in numbers {
        let end = world.end(number);
        let values = world.values(number, 0);
        assert_eq!(values.len() as i64, end.0, "{number:?}");
        for (offset, value) in values.iter().enumerate().step_by(2) {
            assert_eq!(*value, alloc::format!("{offset} of {}", number.0));
        }
    }
}

#[test]
fn an_index_keeps_its_cap_and_everything_is_found_also_after_a_start() {
    let (mut world, numbers) = scattered(300);
    let mut most = 0;
    for _ in 0..80 {
        write(&mut world, &numbers, 1).unwrap();
        most = most.max(world.log.stats().index.runs);
    }
    let stats = world.log.stats();
    let slots_used = u64::from(stats.slots - stats.slots_free);
    assert!(slots_used * u64::from(PARTITIONS) > 1_200, "{slots_used} slots have something");
    assert!(most <= 300 && stats.index.runs_gathered > 300, "{most}, {:?}", stats.index);
    check(&mut world, &numbers);
    let bytes =
        |world: &World| numbers.iter().map(|&n| world.log.partition(n).unwrap().bytes).sum();
    let before: u64 = bytes(&world);
    world.cut(&mut Rng::new(5));
    assert_eq!(bytes(&world), before, "what is gathered has the bytes that it had");
    check(&mut world, &numbers);
}

#[test]
fn what_an_index_has_no_room_for_is_refused_and_taken_when_it_has() {
    // One run for each partition fit, and no more: there is nothing to gather.
    let (mut world, numbers) = scattered(PARTITIONS + 10);
    assert_eq!(write(&mut world, &numbers, 80), Err(AppendError::Full));
    world.run();
    let stats = world.log.stats();
    assert!(stats.index.runs <= u64::from(PARTITIONS) + 10, "{:?}", stats.index);
    assert!(stats.slots_free > 60 && stats.full_refusals > 0);
    check(&mut world, &numbers);
    for &number in &numbers {
        let end = world.end(number);
        world.log.trim(world.now, number, end);
    }
    world.run();
    write(&mut world, &numbers, 1).unwrap();
}

#[test]
fn an_index_that_was_larger_is_gathered_after_a_start() {
    let (mut world, numbers) = scattered(10_000);
    write(&mut world, &numbers, 60).unwrap();
    assert!(world.log.stats().index.runs > 700, "{:?}", world.log.stats().index);
    world.index_runs_max = 400;
    world.restart();
    for &number in &numbers {
        world.add(number.0, Lane::Long);
    }
    world.log.expire(world.now, None);
    world.run();
    assert!(world.log.stats().index.runs < 300, "{:?}", world.log.stats().index);
    check(&mut world, &numbers);
}

#[test]
fn what_is_moved_from_the_middle_of_a_run_leaves_the_other_bytes_there() {
    let frame = |base: i64, batch_bytes: u32| Spot {
        at: 0,
        frame_bytes: batch_bytes + 32,
        batch_bytes,
        base_offset: Offset(base),
        end_offset: Offset(base + 1),
        leader_epoch: LeaderEpoch(0),
        max_timestamp: 0,
    };
    let sizes = [10, 5_000, 20, 700, 900];
    for (index, log_start) in [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (2, 1), (1, 1)] {
        let mut partition = Partition::new(Lane::Long, Offset::ZERO);
        for (base, bytes) in sizes.into_iter().enumerate() {
            partition.add_to_run(1, &frame(base as i64, bytes));
        }
        partition.log_end = Offset(5);
        partition.set_log_start(Offset(log_start));
        let all = partition.bytes;
        partition.replace_runs(2, &frame(index, sizes[index as usize]), true);
        assert_eq!(partition.bytes, all, "{index}");
        for (rest, bytes) in sizes.into_iter().enumerate().skip(log_start as usize) {
            partition.replace_runs(2, &frame(rest as i64, bytes), true);
            assert!(partition.bytes <= all, "{index}: {rest}");
        }
        partition.log_start_durable = Offset(log_start);
        partition.drop_dead_runs();
        let live: u32 = sizes.into_iter().skip(log_start as usize).sum();
        assert_eq!(partition.bytes, u64::from(live), "{index}, from {log_start} on");
    }
}

/// A partition of frames of so many bytes each, of which some are moved and the end is truncated:
/// from any run on, no more bytes are counted than there are.
fn check_counts(rng: &mut Rng) {
    let frame = |base: usize, batch_bytes: u32| Spot {
        at: 0,
        frame_bytes: batch_bytes + 32,
        batch_bytes,
        base_offset: Offset(base as i64),
        end_offset: Offset(base as i64 + 1),
        leader_epoch: LeaderEpoch(0),
        max_timestamp: 0,
    };
    let mut partition = Partition::new(Lane::Long, Offset::ZERO);
    let (mut sizes, mut slots): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
    for step in 0..100 {
        let at = rng.below(sizes.len() as u64) as usize;
        match rng.below(10) {
            0..4 => {
                let most = if rng.percent(50) { 10 } else { 1_000 };
                let bytes = 1 + rng.below(most) as u32;
                let slot = slots.last().copied().unwrap_or(0) + rng.below(5) as u32 / 4;
                partition.add_to_run(slot, &frame(sizes.len(), bytes));
                partition.log_end = Offset(sizes.len() as i64 + 1);
                sizes.push(bytes);
                slots.push(slot);
            }
            4..9 if at < sizes.len() => {
                slots[at] = 100 + step / 10;
                partition.replace_runs(slots[at], &frame(at, sizes[at]), true);
            }
            _ if at < sizes.len() && rng.percent(20) => {
                let last = at.checked_sub(1).map(|last| slots[last]);
                let behind = sizes.iter().zip(&slots).skip(at);
                let gone = behind.filter(|&(_, slot)| Some(*slot) == last).map(|(bytes, _)| bytes);
                let gone = rng.percent(50).then(|| gone.sum::<u32>() + rng.below(9) as u32);
                partition.truncate(&Cut { end: Offset(at as i64), restart: false }, gone);
                sizes.truncate(at);
                slots.truncate(at);
            }
            _ => {}
        }
        let mut counted = 0;
        for run in partition.runs.iter().collect::<Vec<_>>().into_iter().rev() {
            counted += u64::from(run.bytes);
            let there = sizes.iter().skip(run.base_offset.0 as usize);
            let there = there.map(|&bytes| u64::from(bytes)).sum::<u64>();
            assert!(counted <= there, "{counted} of {there} from {:?} on", run.base_offset);
        }
        assert_eq!(partition.bytes, counted);
    }
    for (at, &bytes) in sizes.iter().enumerate() {
        partition.replace_runs(200, &frame(at, bytes), true);
    }
    assert_eq!(partition.bytes, sizes.iter().map(|&bytes| u64::from(bytes)).sum::<u64>());
}

#[test]
fn no_more_bytes_are_counted_to_the_end_than_there_are_and_all_that_was_moved_is() {
    for seed in 0..500 {
        check_counts(&mut Rng::new(seed));
    }
}

#[test]
fn holes_are_gathered_and_stay_holes() {
    let (mut world, numbers) = scattered(300);
    let mut removed = 0;
    for round in 0..60 {
        write(&mut world, &numbers, 1).unwrap();
        if round % 4 == 1 {
            let hole =
                Replacement::Hole { base_offset: Offset(2 * round - 2), last_offset_delta: 1 };
            world.log.replace(world.now, numbers[7], alloc::vec![hole]).unwrap();
            removed += 2;
            world.run();
        }
    }
    assert!(world.log.stats().index.runs_gathered > 300);
    for _ in 0..2 {
        let left = world.values(numbers[7], 0).len() as i64;
        assert_eq!(left, world.end(numbers[7]).0 - removed);
        assert_eq!(world.log.stats().damaged_ranges, 0);
        world.restart();
    }
}
