//! What a truncation does to what is on its way, on flash, and being read.
#![allow(clippy::unwrap_used)]

use super::damage::read_all;
use super::recovery::{checkpoint, roots};
use super::*;
use crate::batch::Sequence;
use crate::log::layout::frame::Kind;
use crate::log::layout::group::GROUP_HEADER_BYTES;

/// A world whose partition 1 has these values, a batch each, and epoch 3.
fn world_with(values: &[&str]) -> (World, PartitionNumber) {
    let mut world = World::with(1 << 20, 0);
    let a = world.add(1, Lane::Short);
    for value in values {
        world.append(a, &[value]).unwrap();
    }
    world.run();
    (world, a)
}

impl World {
    fn truncate(&mut self, number: PartitionNumber, to: i64) {
        self.log.truncate(self.now, number, Offset(to));
    }

    /// Appends batches of a record each in a leader epoch.
    pub fn append_in(&mut self, number: PartitionNumber, epoch: i32, values: &[&str]) {
        for value in values {
            let base_offset = self.end(number);
            let batch = batch(&[value], base_offset.0, None);
            let header = BatchHeader::parse(&batch).unwrap();
            let leader_epoch = LeaderEpoch(epoch);
            let append = Append { partition: number, leader_epoch, base_offset, header, batch };
            self.log.append(self.now, append).unwrap();
        }
    }

    /// What the partition holds now, and after a start from what is on flash.
    fn holds(&mut self, number: PartitionNumber, values: &[&str]) {
        assert_eq!(self.values(number, 0), values);
        self.restart();
        assert_eq!(self.values(number, 0), values, "after a start");
        assert_eq!(self.log.stats().damaged_ranges, 0);
    }

    /// Lets the log ask for everything of its next commit, and performs all but the last so many
    /// operations, which are given back.
    fn begin_commit(&mut self, left: usize) -> Vec<Io> {
        self.now = self.now.max(self.log.deadline().unwrap_or(self.now));
        let mut asked: Vec<Io> = core::iter::from_fn(|| self.log.poll_io(self.now)).collect();
        let rest = asked.split_off(asked.len() - left);
        asked.into_iter().for_each(|io| self.perform(io));
        rest
    }
}

#[test]
fn what_is_truncated_is_gone_and_stays_away() {
    let (mut world, a) = world_with(&["a", "b", "c", "d"]);
    world.truncate(a, 2);
    let view = world.log.partition(a).unwrap();
    assert_eq!((view.log_end, view.durable_end, view.truncations), (Offset(2), Offset(2), 1));
    assert_eq!(view.max_timestamp, 3_000, "no less than what is there");
    assert_eq!(world.ask(spec(a, Offset(3))), Err(FetchError::OutOfRange));
    assert_eq!(world.ask(spec(a, Offset(2))), Ok(Vec::new()));
    world.events.clear();
    world.run();
    assert_eq!(world.log.partition(a).unwrap().truncations, 0);
    assert!(world.events.iter().any(|event| {
        matches!(event, Event::Durable { partitions } if partitions.contains(&a))
    }));
    world.holds(a, &["a", "b"]);
    world.append_in(a, 4, &["x"]);
    world.run();
    world.holds(a, &["a", "b", "x"]);
    assert_eq!(world.log.epoch_end(a, LeaderEpoch(3)), Some((LeaderEpoch(3), Offset(2))));
    assert_eq!(world.log.epoch_end(a, LeaderEpoch(9)), Some((LeaderEpoch(4), Offset(3))));
    let bytes = world.log.partition(a).unwrap().bytes;
    assert_eq!(bytes, world.stored(a));
}

impl World {
    /// Bytes of what is read.
    fn stored(&mut self, number: PartitionNumber) -> u64 {
        let mut bytes = 0;
        let mut from = self.log.partition(number).unwrap().log_start;
        while from < self.end(number) {
            for batch in self.ask(spec(number, from)).unwrap() {
                from = BatchHeader::parse(&batch).unwrap().last_offset().plus(1);
                bytes += batch.len() as u64;
            }
        }
        bytes
    }
}

#[test]
fn a_cut_before_the_truncation_is_durable_brings_everything_back() {
    let (mut world, a) = world_with(&["a", "b", "c"]);
    world.truncate(a, 1);
    world.append_in(a, 4, &["x"]);
    world.restart();
    assert_eq!(world.values(a, 0), ["a", "b", "c"]);
}

#[test]
fn beyond_the_end_there_is_nothing_to_truncate_and_below_the_start_everything_goes() {
    let (mut world, a) = world_with(&["a", "b", "c"]);
    world.truncate(a, 3);
    world.truncate(PartitionNumber(9), 0);
    world.log.restart_at(world.now, PartitionNumber(9), Offset(4));
    assert_eq!(world.log.partition(a).unwrap().truncations, 0);
    assert!(world.log.is_idle(), "nothing is to be written");
    world.log.trim(world.now, a, Offset(2));
    world.truncate(a, 0);
    assert_eq!(world.end(a), Offset(2), "the log start");
    world.run();
    world.restart();
    let view = world.log.partition(a).unwrap();
    assert_eq!((view.log_start, view.log_end, view.bytes), (Offset(2), Offset(2), 0));
}

#[test]
fn what_waits_for_its_commit_is_truncated_by_whole_batches() {
    let (mut world, a) = world_with(&["a"]);
    world.append(a, &["b"]).unwrap();
    world.append(a, &["c", "d", "e"]).unwrap();
    world.truncate(a, 3);
    assert_eq!(world.end(a), Offset(2), "the batch that holds it goes");
    world.append_in(a, 4, &["x"]);
    world.run();
    world.holds(a, &["a", "b", "x"]);
}

#[test]
fn what_is_on_its_way_is_truncated_whether_it_gets_there_or_not() {
    for fails in [false, true] {
        let (mut world, a) = world_with(&["a"]);
        for value in ["b", "c", "d"] {
            world.append(a, &[value]).unwrap();
        }
        let rest = world.begin_commit(1);
        world.truncate(a, 3);
        world.append_in(a, 4, &["x", "y"]);
        world.truncate(a, 2);
        world.append_in(a, 5, &["z"]);
        world.failing = u32::from(fails);
        rest.into_iter().for_each(|io| world.perform(io));
        let view = world.log.partition(a).unwrap();
        assert_eq!(view.durable_end, Offset(if fails { 1 } else { 2 }));
        world.run();
        assert_eq!(world.log.partition(a).unwrap().truncations, 0);
        assert_eq!(world.log.stats().write_failures, u64::from(fails));
        world.holds(a, &["a", "b", "z"]);
    }
}

#[test]
fn a_truncation_whose_commit_fails_is_written_again_before_what_follows() {
    let (mut world, a) = world_with(&["a", "b", "c"]);
    world.truncate(a, 1);
    world.append_in(a, 4, &["x"]);
    let rest = world.begin_commit(1);
    world.failing = 1;
    rest.into_iter().for_each(|io| world.perform(io));
    assert_eq!(world.log.partition(a).unwrap().truncations, 1);
    world.append_in(a, 4, &["y"]);
    world.run();
    world.holds(a, &["a", "x", "y"]);
}

#[test]
fn of_two_truncations_the_first_alone_says_the_same_as_both() {
    for fails in [false, true] {
        let (mut world, a) = world_with(&["a", "b", "c"]);
        let other = world.add(2, Lane::Short);
        world.append(a, &["d"]).unwrap();
        world.truncate(a, 3);
        // More than a slot holds: the second one is in a later commit.
        for _ in 0..10 {
            world.append(other, &[&"x".repeat(9_000)]).unwrap();
        }
        let rest = if fails { world.begin_commit(1) } else { Vec::new() };
        world.log.restart_at(world.now, a, Offset(50));
        world.failing = u32::from(fails);
        rest.into_iter().for_each(|io| world.perform(io));
        world.begin_commit(0);
        assert_eq!(world.log.partition(a).unwrap().truncations, 1);
        world.restart();
        let view = world.log.partition(a).unwrap();
        assert_eq!((view.log_start.0, view.log_end.0, view.durable_end.0), (50, 50, 50));
        assert_eq!(world.log.stats().damaged_ranges, 0);
    }
}

#[test]
fn batches_that_wait_are_in_no_slot() {
    let (mut world, a) = world_with(&["a", "b", "c"]);
    let runs = |world: &World| -> Vec<(i64, i64)> {
        let partition = &world.log.partitions[&a];
        let slot = partition.runs.front().unwrap().slot;
        partition.runs_in(slot).map(|(from, until)| (from.0, until.0)).collect()
    };
    assert_eq!(runs(&world), [(0, 3)]);
    world.truncate(a, 2);
    world.append_in(a, 4, &["x", "y"]);
    assert_eq!(runs(&world), [(0, 2)], "what was truncated is not what is there now");
    let rest = world.begin_commit(1);
    assert_eq!(runs(&world), [(0, 4)]);
    world.append_in(a, 4, &["z"]);
    world.failing = 1;
    rest.into_iter().for_each(|io| world.perform(io));
    assert_eq!(runs(&world), [(0, 2)], "the commit failed");
    world.run();
    world.holds(a, &["a", "b", "x", "y", "z"]);
}

#[test]
fn what_is_moved_beside_batches_that_wait_leaves_nothing_where_it_was() {
    let (mut world, a) = world_with(&["a", "b"]);
    let batches = world.ask(spec(a, Offset(0))).unwrap();
    let replacements = batches.into_iter().map(Replacement::Batch).collect();
    world.log.replace(world.now, a, replacements).unwrap();
    let rest = world.begin_commit(1);
    world.log.set_partition(a, Policy::for_ever(Lane::Long));
    world.append(a, &["c"]).unwrap();
    rest.into_iter().for_each(|io| world.perform(io));
    world.run();
    let bases: Vec<i64> =
        world.log.partitions[&a].runs.iter().map(|run| run.base_offset.0).collect();
    assert_eq!(bases, [0, 2]);
    world.holds(a, &["a", "b", "c"]);
}

#[test]
fn a_partition_that_changes_its_lane_is_truncated_in_the_order_of_the_log() {
    let (mut world, a) = world_with(&["a", "b", "c"]);
    let other = world.add(2, Lane::Long);
    world.append(other, &["keeps the slot of the other lane older"]).unwrap();
    world.run();
    for (epoch, lane) in [(4, Lane::Long), (5, Lane::Short), (6, Lane::Compacted)] {
        world.append(a, &["stale", "and gone"]).unwrap();
        world.truncate(a, 2);
        world.log.set_partition(a, Policy::for_ever(lane));
        world.append_in(a, epoch, &["x"]);
        world.run();
        world.append_in(a, epoch, &["y"]);
        world.run();
        assert_eq!(world.values(a, 0), ["a", "b", "x", "y"]);
    }
    world.holds(a, &["a", "b", "x", "y"]);
}

#[test]
fn a_partition_begins_anew_anywhere() {
    for start in [0, 2, 3, 50] {
        let (mut world, a) = world_with(&["a", "b", "c"]);
        world.log.trim(world.now, a, Offset(1));
        world.append(a, &["d"]).unwrap();
        let rest = world.begin_commit(1);
        world.log.restart_at(world.now, a, Offset(start));
        rest.into_iter().for_each(|io| world.perform(io));
        let view = world.log.partition(a).unwrap();
        let bounds = (view.log_start.0, view.log_end.0, view.durable_end.0, view.bytes);
        assert_eq!(bounds, (start, start, start.min(3), 0), "not durable beyond what it was");
        if start != 0 {
            world.run();
            assert_eq!(world.log.partition(a).unwrap().durable_end, Offset(start));
        }
        for value in ["x", "y"] {
            world.append_in(a, 4, &[value]);
            world.run();
        }
        for _ in 0..2 {
            let view = world.log.partition(a).unwrap();
            assert_eq!((view.log_start.0, view.log_end.0), (start, start + 2));
            assert_eq!(world.values(a, start), ["x", "y"]);
            let end = world.log.epoch_end(a, LeaderEpoch(9));
            assert_eq!(end, Some((LeaderEpoch(4), Offset(start + 2))));
            world.restart();
        }
    }
}

#[test]
fn a_partition_that_begins_anew_twice_is_durable_up_to_where_it_begins() {
    for (first, second) in [(50, 20), (20, 50)] {
        let (mut world, a) = world_with(&["a", "b"]);
        let durable = |world: &World| world.log.partition(a).unwrap().durable_end.0;
        world.log.restart_at(world.now, a, Offset(first));
        let rest = world.begin_commit(1);
        world.log.restart_at(world.now, a, Offset(second));
        assert_eq!(durable(&world), 2);
        rest.into_iter().for_each(|io| world.perform(io));
        assert_eq!(durable(&world), 20);
        world.run();
        assert_eq!(durable(&world), second);
        world.restart();
        let view = world.log.partition(a).unwrap();
        assert_eq!((view.log_start.0, view.durable_end.0), (second, second));
    }
}

#[test]
fn a_reader_who_is_waiting_is_not_given_what_was_truncated_meanwhile() {
    let (mut world, a) = world_with(&["a", "b", "c", "d"]);
    world.restart();
    for (epoch, answer) in [(4, "fetch"), (5, "search")] {
        let ticket = match answer {
            "fetch" => world.log.fetch(spec(a, Offset(1))).map(|a| matches!(a, Answer::Later(_))),
            _ => world.log.find_timestamp(a, 1_000).map(|a| matches!(a, Answer::Later(_))),
        };
        assert_eq!(ticket, Ok(true), "it has to be read");
        // Footer first, then the bytes.
        let mut reads: Vec<Io> = core::iter::from_fn(|| world.log.poll_io(world.now)).collect();
        world.truncate(a, 1);
        world.append_in(a, epoch, &["x"]);
        while !reads.is_empty() {
            reads.drain(..).for_each(|io| world.perform(io));
            reads.extend(core::iter::from_fn(|| world.log.poll_io(world.now)));
        }
        world.run();
        let answered = world.events.drain(..).find_map(|event| match event {
            Event::Fetched { result, .. } => {
                Some(result.unwrap().iter().all(|batch| batch.ends_with(b"x\0")))
            }
            Event::Found { result, .. } => {
                Some(result.unwrap().is_none_or(|hit| hit.leader_epoch == LeaderEpoch(5)))
            }
            _ => None,
        });
        assert_eq!(answered, Some(true), "{answer}");
    }
}

#[test]
fn what_is_being_moved_does_not_come_back_over_what_is_new() {
    for (done, to) in [(0, 1), (2, 1), (0, 2)] {
        let (mut world, a) = world_with(&["a", "b", "c"]);
        let batches = world.ask(spec(a, Offset(1))).unwrap();
        let replacements = batches.into_iter().map(Replacement::Batch).collect();
        world.log.replace(world.now, a, replacements).unwrap();
        let rest = if done > 0 { world.begin_commit(1) } else { Vec::new() };
        world.truncate(a, to);
        world.append_in(a, 4, &["x"]);
        rest.into_iter().for_each(|io| world.perform(io));
        world.run();
        let values = [&["a", "b"][..to as usize], &["x"]].concat();
        assert_eq!(world.values(a, 0), values);
        // Another rewrite may begin.
        let batches = world.ask(spec(a, Offset(0))).unwrap();
        let replacements = batches.into_iter().map(Replacement::Batch).collect();
        world.log.replace(world.now, a, replacements).unwrap();
        world.run();
        world.holds(a, &values);
    }
}

#[test]
fn what_a_start_carries_over_does_not_come_back_over_what_is_new() {
    let hole = |base, end: i32| Replacement::Hole {
        base_offset: Offset(base),
        last_offset_delta: end - base as i32 - 1,
    };
    let (mut world, a) = world_with(&["a", "b", "c", "d"]);
    world.log.replace(world.now, a, vec![hole(1, 3)]).unwrap();
    world.run();
    world.truncate(a, 1);
    world.append_in(a, 4, &["x", "y", "z"]);
    world.run();
    // In the slot of the first hole, and inside of it.
    world.log.replace(world.now, a, vec![hole(2, 3)]).unwrap();
    world.run();
    world.holds(a, &["a", "x", "z"]);
    world.holds(a, &["a", "x", "z"]);
}

#[test]
fn what_was_truncated_does_not_take_the_place_of_what_is_lost_with_the_frame_that_says_so() {
    for by_footers in [false, true] {
        let (mut world, a) = world_with(&["a", "b", "c", "d", "e", "f"]);
        checkpoint(&mut world);
        world.truncate(a, 2);
        world.append_in(a, 4, &["x", "y"]);
        world.run();
        world.append_in(a, 4, &["z"]);
        world.run();
        let said = world.groups_with(Kind::Truncate)[0];
        let (at, end) = (world.place(said.header.slot, said.at), said.header.bytes as usize);
        world.flash[at + GROUP_HEADER_BYTES..at + end].fill(0xee);
        for _ in 0..2 {
            if by_footers {
                roots(&world).iter().for_each(|root| world.harm(root));
            }
            world.restart();
            assert_eq!(read_all(&mut world, a), (vec![0, 1, 4], vec![(2, 4)]), "{by_footers}");
            assert_eq!((world.end(a), world.values(a, 4)), (Offset(5), vec!["z".into()]));
        }
    }
}

#[test]
fn what_was_truncated_stays_away_though_the_frame_that_says_so_is_damaged() {
    let (mut world, a) = world_with(&["a", "b", "c"]);
    world.truncate(a, 1);
    world.run();
    world.append_in(a, 4, &["x"]);
    world.run();
    let [truncation] = world.groups_with(Kind::Truncate)[..] else { panic!("there is one") };
    let at = world.first_frame(&truncation);
    world.flash[at + 9] ^= 1;
    world.restart();
    assert_eq!(world.log.stats().damaged_groups, 1);
    assert_eq!(world.end(a), Offset(2));
    assert_eq!(world.values(a, 0), ["a", "x"]);
}

#[test]
fn a_batch_that_is_cut_in_two_is_a_hole() {
    let (mut world, a) = world_with(&["a"]);
    world.append(a, &["b", "c", "d"]).unwrap();
    world.run();
    world.truncate(a, 3);
    assert_eq!(world.end(a), Offset(3));
    world.append_in(a, 4, &["x"]);
    world.run();
    world.holds(a, &["a", "x"]);
}

#[test]
fn a_producer_goes_on_from_what_is_left() {
    let (mut world, a) = world_with(&[]);
    let stamped = |sequence: i32| {
        let stamp = ProducerStamp {
            producer_id: 7,
            producer_epoch: 0,
            base_sequence: sequence,
            transactional: false,
        };
        batch(&["v"], i64::from(sequence), Some(stamp))
    };
    for sequence in 0..9 {
        world.append_batch(a, stamped(sequence)).unwrap();
    }
    world.run();
    world.truncate(a, 4);
    world.run();
    for _ in 0..2 {
        let producers = world.log.partition(a).unwrap().producers;
        let judge = |sequence| producers.check(&BatchHeader::parse(&stamped(sequence)).unwrap());
        assert_eq!(judge(4), Ok(Sequence::Append));
        assert_eq!(judge(3), Ok(Sequence::Duplicate { base_offset: Offset(3) }));
        assert!(judge(5).is_err());
        world.restart();
    }
}

#[test]
fn slots_are_not_free_before_the_truncation_is_durable() {
    let (mut world, a) = world_with(&[]);
    let big = "x".repeat(9_000);
    for _ in 0..40 {
        world.append(a, &[&big]).unwrap();
    }
    world.run();
    let free = world.log.stats().slots_free;
    world.truncate(a, 1);
    world.log.checkpoint(world.now);
    assert_eq!(world.log.stats().slots_free, free);
    world.run();
    world.log.checkpoint(world.now);
    world.run();
    assert!(world.log.stats().slots_free > free + 3, "{}", world.log.stats().slots_free);
    world.holds(a, &[&big]);
}

#[test]
fn neither_compaction_nor_retention_goes_beyond_the_high_watermark() {
    let (mut world, a) = world_with(&["a", "b", "c"]);
    let retention = Retention { ms: 1, bytes: -1, yields_to_pressure: false };
    world.log.set_partition(a, Policy::new(retention, Cleanup::DELETE));
    world.log.set_high_watermark(a, Offset(2));
    let wall = |ms| Some(WallTime(ms));
    for ms in 3..20 {
        world.now = world.now + crate::types::Nanos::from_ms(60_000);
        world.log.expire(world.now, wall(ms * 1_000));
        world.run();
    }
    assert_eq!(world.log.partition(a).unwrap().log_start, Offset(2));
}
