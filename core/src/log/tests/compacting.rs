//! Key compaction on flash: the newest record of each key stays, also when the power goes.

use super::*;
use crate::types::WallTime;
use alloc::collections::BTreeMap;

const KEYS: u64 = 40;

/// A compacted partition; with `codec`, what is rewritten is packed so.
fn compacted(codec: Option<Codec>) -> Policy {
    let compaction = Compaction {
        dirty_ratio_per_mille: 300,
        max_lag_ms: i64::MAX,
        min_lag_ms: 0,
        delete_retention_ms: 50_000,
        codec,
    };
    Policy::new(Retention::FOR_EVER, Cleanup { delete: false, compact: Some(compaction) })
}

/// What a reader of the whole partition knows at the end, and how many records it read.
fn newest(world: &mut World, partition: PartitionNumber) -> (BTreeMap<u64, u64>, usize) {
    let (mut newest, mut read) = (BTreeMap::new(), 0);
    let view = world.log.partition(partition).unwrap();
    let (mut from, end) = (view.log_start, view.durable_end);
    while from < end {
        let batches = world.ask(spec(partition, from)).unwrap();
        assert!(!batches.is_empty(), "there is something at {from} or behind");
        for batch in batches {
            let header = BatchHeader::parse(&batch).unwrap();
            assert!(header.last_offset() >= from);
            let plain = match header.codec() {
                Some(Codec::None) => batch,
                _ => match flip::unpack(&batch) {
                    IoResult::Read(batch) => batch,
                    other => panic!("{other:?}"),
                },
            };
            for record in crate::batch::records(&plain[61..], header.records_count) {
                let record = record.unwrap();
                let number = |bytes: &[u8]| u64::from_be_bytes(bytes[..8].try_into().unwrap());
                let key = number(record.key.unwrap());
                match record.value {
                    Some(value) => newest.insert(key, number(value)),
                    None => newest.remove(&key),
                };
                read += 1;
            }
            from = header.last_offset().plus(1);
        }
    }
    (newest, read)
}

/// Appends a batch and says what it makes of the model.
fn append(
    world: &mut World,
    rng: &mut Rng,
    partition: PartitionNumber,
    model: &mut BTreeMap<u64, u64>,
) {
    let mut builder = Builder::new();
    let mut after = model.clone();
    for _ in 0..=rng.below(3) {
        let (key, value) = (rng.below(KEYS), rng.below(u64::MAX));
        let mut padded = vec![7; 8 + rng.below(600) as usize];
        padded[..8].copy_from_slice(&value.to_be_bytes());
        let kept = rng.percent(80);
        match kept {
            true => after.insert(key, value),
            false => after.remove(&key),
        };
        let value = kept.then_some(&padded[..]);
        builder.push(1_000, Some(&key.to_be_bytes()), value, &[]);
    }
    let plain = builder.build(None);
    let batch = match rng.percent(50) {
        true => match flip::pack(&plain, Codec::Snappy) {
            IoResult::Read(batch) => batch,
            other => panic!("{other:?}"),
        },
        false => Bytes::from(plain),
    };
    if world.append_batch(partition, batch).is_ok() {
        *model = after;
    }
}

#[test]
fn a_compacted_partition_keeps_the_newest_record_of_each_key_and_little_else() {
    for codec in [None, Some(Codec::Lz4)] {
        let mut rng = Rng::new(5);
        let mut world = World::with(128 << 10, 16 << 10);
        let a = PartitionNumber(1);
        world.log.set_partition(a, compacted(codec));
        let mut model = BTreeMap::new();
        for round in 0..2_000i64 {
            append(&mut world, &mut rng, a, &mut model);
            world.run();
            if round % 50 == 0 {
                world.log.expire(world.now, Some(WallTime(round * 1_000)));
                world.run();
                assert_eq!(newest(&mut world, a).0, model, "round {round}");
            }
        }
        let (_, read) = newest(&mut world, a);
        assert!(read < 1_500, "{read} records are left of 4,000");
        assert!(world.log.stats().compaction.jobs > 5);
        let used = world.log.stats().slots - world.log.stats().slots_free;
        assert!(used < SLOTS / 3, "{used} slots hold what fits one");
        world.restart();
        assert_eq!(newest(&mut world, a).0, model, "after a restart");
    }
}

#[test]
fn a_cut_in_the_middle_of_a_compaction_loses_no_key_and_brings_none_back() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut world = World::with(64 << 10, 0);
        let a = PartitionNumber(1);
        let mut model = BTreeMap::new();
        for boot in 0..6i64 {
            world.log.set_partition(a, compacted(None));
            for _ in 0..150 {
                append(&mut world, &mut rng, a, &mut model);
                if rng.percent(30) {
                    world.run();
                }
            }
            world.run();
            world.log.expire(world.now, Some(WallTime(boot * 40_000)));
            // Some of the compaction's steps, then the power goes.
            let steps = rng.below(60);
            for _ in 0..steps {
                match world.log.poll_io(world.now) {
                    Some(io) => world.perform(io),
                    None => world.now = world.log.deadline().unwrap_or(world.now).max(world.now),
                }
            }
            world.cut(&mut rng);
            world.log.set_partition(a, compacted(None));
            assert_eq!(newest(&mut world, a).0, model, "seed {seed} boot {boot}");
        }
    }
}

#[test]
fn what_cannot_be_compacted_is_not_looked_at_again_before_there_is_more() {
    let mut rng = Rng::new(5);
    let mut world = World::with(128 << 10, 0);
    let a = PartitionNumber(1);
    let mut policy = compacted(None);
    policy.cleanup.compact.as_mut().unwrap().max_lag_ms = 1;
    world.log.set_partition(a, policy);
    let mut model = BTreeMap::new();
    let expire = |world: &mut World, second: i64| {
        world.now = world.now.plus_ms(1_000);
        world.log.expire(world.now, Some(WallTime(second * 1_000)));
        world.run();
        world.log.stats().compaction.read_bytes
    };
    append(&mut world, &mut rng, a, &mut model);
    world.run();
    assert_eq!(expire(&mut world, 1), 0);
    let read = expire(&mut world, 2);
    assert!(read > 0, "the last batch has waited for its time");
    assert_eq!(expire(&mut world, 3), read);
    append(&mut world, &mut rng, a, &mut model);
    world.run();
    assert!(expire(&mut world, 4) > read);
}

#[test]
fn a_partition_that_is_deleted_while_it_is_compacted_keeps_no_other_waiting() {
    for steps in (0..40).step_by(3) {
        let mut rng = Rng::new(5);
        let mut world = World::with(128 << 10, 0);
        let [a, b] = [1, 2].map(PartitionNumber);
        let mut model = BTreeMap::new();
        for number in [a, b] {
            world.log.set_partition(number, compacted(None));
            for _ in 0..300 {
                append(&mut world, &mut rng, number, &mut model);
                world.run();
            }
        }
        world.log.expire(world.now, Some(WallTime(1_000)));
        for _ in 0..steps {
            match world.log.poll_io(world.now) {
                Some(io) => world.perform(io),
                None => world.now = world.log.deadline().unwrap_or(world.now).max(world.now),
            }
        }
        world.log.retain_partitions(|number| number == b);
        world.run();
        world.log.expire(world.now, Some(WallTime(2_000)));
        world.run();
        let view = world.log.partition(b).unwrap();
        assert!(view.bytes < 60_000, "{steps} steps: {} bytes are left", view.bytes);
    }
}

#[test]
fn compaction_follows_a_change_of_policy_and_what_is_appended_without_being_told() {
    let mut rng = Rng::new(6);
    let mut world = World::with(128 << 10, 0);
    let a = world.add(1, Lane::Long);
    world.log.expire(world.now, Some(WallTime(1_000)));
    let mut model = BTreeMap::new();
    for _ in 0..500 {
        append(&mut world, &mut rng, a, &mut model);
        world.run();
    }
    assert_eq!(world.log.stats().compaction.jobs, 0);
    world.log.set_partition(a, compacted(None));
    world.run();
    assert_eq!(world.log.stats().compaction.jobs, 1);
    for _ in 0..4_000 {
        append(&mut world, &mut rng, a, &mut model);
        world.run();
    }
    assert!(world.log.stats().compaction.jobs > 1);
    assert_eq!(newest(&mut world, a).0, model);
}

#[test]
fn after_a_start_what_was_taken_out_does_not_count_for_retention() {
    let mut world = World::with(1 << 20, 0);
    let a = world.add(1, Lane::Short);
    for _ in 0..4 {
        world.append(a, &[&"x".repeat(9_000)]).unwrap();
    }
    world.run();
    let hole = Replacement::Hole { base_offset: Offset(0), last_offset_delta: 2 };
    world.log.replace(world.now, a, vec![hole]).unwrap();
    world.run();
    for _ in 0..2 {
        let bytes = world.log.partition(a).unwrap().bytes;
        assert!((9_000..10_000).contains(&bytes), "{bytes}");
        world.restart();
    }
}
