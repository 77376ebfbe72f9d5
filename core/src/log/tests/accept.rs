//! Which groups count: what was acknowledged does, what was given up does not come back, and what
//! is torn is told from what is damaged.
#![allow(clippy::unwrap_used)]

use crate::log::Unguarded;
use crate::log::layout::group::GroupHeader;
use crate::log::recovery::accept::{Candidate, Verdict, in_place, judge};
use crate::log::recovery::{salvage, visit::Visited};
use alloc::vec::Vec;

/// A group of the first epoch; each names the one before and knows that it is flushed.
fn group(group_seq: u64) -> Candidate {
    let header = GroupHeader {
        lane: 0,
        bytes: 200,
        frames: 1,
        slot: 1,
        boot_epoch: 1,
        seg_seq: 1,
        group_seq,
        durable_seq: group_seq - 1,
        prev_group_seq: group_seq - 1,
        prev_group_crc: group_seq as u32 - 1,
        checkpoint: None,
        epoch_base: 0,
        epoch_first: 1,
        crc: group_seq as u32,
    };
    Candidate { header, at: group_seq as u32 * 4096 }
}

fn with(group_seq: u64, change: impl Fn(&mut GroupHeader)) -> Candidate {
    let mut group = group(group_seq);
    change(&mut group.header);
    group
}

/// A group of the second epoch, which begins at 10 and gave up what is above 5.
fn later(group_seq: u64) -> Candidate {
    with(group_seq, |header| {
        (header.boot_epoch, header.epoch_base, header.epoch_first) = (2, 5, 10);
        (header.slot, header.seg_seq, header.lane) = (2, 2, 1);
        (header.prev_group_seq, header.prev_group_crc) = (0, 0);
        header.durable_seq = 5;
    })
}

/// What counts of these, and the rest of the verdict.
fn judged(groups: &[Candidate], covered: u64) -> (Vec<u64>, Verdict) {
    let verdict = judge(groups.to_vec(), covered, 0, Unguarded::default());
    let accepted = verdict.accepted.iter().map(|group| group.header.group_seq);
    (accepted.collect(), verdict)
}

/// What counts, and how many are torn, stale and missing.
fn check(groups: &[Candidate], covered: u64, expected: &[u64], counts: (u64, u64, u64)) {
    let (accepted, verdict) = judged(groups, covered);
    assert_eq!(accepted, expected);
    assert_eq!((verdict.torn, verdict.stale, verdict.missing), counts);
}

#[test]
fn what_is_whole_counts_in_the_order_in_which_it_was_written() {
    check(&[], 7, &[], (0, 0, 0));
    check(&[group(2), group(3), group(1)], 0, &[1, 2, 3], (0, 0, 0));
    check(&[group(2), group(3), group(1)], 2, &[1, 2, 3], (0, 0, 0));
    assert_eq!(judged(&[], 7).1.last_seq, 7);
    assert_eq!(judged(&[group(1)], 7).1.last_seq, 7);
    assert_eq!(judged(&[group(1), group(2)], 1).1.last_seq, 2);
}

#[test]
fn what_follows_a_gap_in_the_last_commit_is_torn_and_nothing_is_missing() {
    let unflushed = |seq| with(seq, |header| header.durable_seq = 2);
    let groups = [group(1), group(2), unflushed(3), unflushed(5), unflushed(6)];
    let free = |groups: &[Candidate]| -> Vec<Candidate> {
        let named = |group: &Candidate| with_prev(*group, 2);
        groups
            .iter()
            .map(|group| if group.header.group_seq > 2 { named(group) } else { *group })
            .collect()
    };
    check(&free(&groups), 0, &[1, 2, 3], (2, 0, 0));
    check(&free(&groups[1..]), 1, &[2, 3], (2, 0, 0));
}

/// The group, in a lane of its own whose group before is `prev`.
fn with_prev(mut group: Candidate, prev: u64) -> Candidate {
    group.header.lane = 2;
    (group.header.prev_group_seq, group.header.prev_group_crc) = (prev, 0);
    group
}

#[test]
fn a_gap_below_what_was_flushed_is_damage_and_what_follows_counts() {
    check(&[group(1), group(4), group(5)], 0, &[1, 4, 5], (0, 0, 2));
    check(&[group(4), group(5)], 0, &[4, 5], (0, 0, 3));
    check(&[group(5)], 3, &[5], (0, 0, 1));
}

#[test]
fn a_gap_that_was_flushed_in_part_is_damage_up_to_there_and_torn_behind() {
    // 3 and 4 are gone; 3 was flushed, 4 not, and 5 was in a commit with 4.
    let last = with_prev(with(5, |header| header.durable_seq = 3), 0);
    check(&[group(1), group(2), last], 0, &[1, 2], (1, 0, 1));
}

#[test]
fn what_was_flushed_and_is_behind_all_that_is_there_is_missing() {
    // A group of another lane, of the same commit as 6, knew that 5 was flushed, and is torn away.
    let knows = with(2, |header| header.durable_seq = 5);
    check(&[group(1), knows], 0, &[1, 2], (0, 0, 3));
    check(&[], 5, &[], (0, 0, 0));
}

#[test]
fn what_a_later_epoch_gave_up_does_not_count() {
    let first: Vec<Candidate> = (1..=7).map(group).collect();
    let groups = [&first[..], &[later(10), later(11)]].concat();
    let groups: Vec<Candidate> = groups
        .iter()
        .map(|group| if group.header.group_seq == 11 { chained(*group, 10) } else { *group })
        .collect();
    check(&groups, 0, &[1, 2, 3, 4, 5, 10, 11], (0, 2, 0));
}

fn chained(mut group: Candidate, prev: u64) -> Candidate {
    (group.header.prev_group_seq, group.header.prev_group_crc) = (prev, prev as u32);
    group
}

#[test]
fn a_gap_from_one_epoch_to_the_next_is_bridged_and_one_in_it_is_damage() {
    let flushed = |mut group: Candidate| {
        group.header.durable_seq = 10;
        chained(group, 10)
    };
    let whole = [group(1), group(2), group(3), group(4), group(5), later(10), flushed(later(11))];
    check(&whole, 0, &[1, 2, 3, 4, 5, 10, 11], (0, 0, 0));
    let gap = [group(1), group(2), group(3), later(10), flushed(later(11))];
    // From here it cannot be told how many of 4 to 9 there were.
    check(&gap, 0, &[1, 2, 3, 10, 11], (0, 0, 6));
}

#[test]
fn what_the_next_group_of_its_lane_does_not_name_does_not_count() {
    let other = with(2, |header| header.crc = 99);
    check(&[group(1), other, group(3)], 0, &[1, 3], (0, 1, 0));
    let skips = chained(group(3), 1);
    check(&[group(1), group(2), skips], 0, &[1, 3], (0, 1, 0));
}

#[test]
fn a_damaged_group_was_acknowledged_if_it_was_flushed_and_no_later_epoch_gave_it_up() {
    let flushed = |mut group: Candidate| {
        group.header.durable_seq = 10;
        group
    };
    let verdict = judged(&[group(1), group(2), group(4), flushed(later(11))], 0).1;
    let was = |group: Candidate| verdict.was_acknowledged(&group.header);
    assert!(was(group(3)) && was(group(5)) && was(later(10)));
    assert!(!was(group(6)), "given up when the second epoch began");
    assert!(!was(later(12)), "not flushed");
}

#[test]
fn a_group_that_went_astray_in_its_slot_does_not_count() {
    for (found, expected) in [
        (&[1, 2, 4, 5, 3][..], &[1, 2, 4, 5][..]),
        (&[3, 4, 1, 5], &[3, 4, 5]),
        // It was put before its place.
        (&[1, 9, 4, 5, 6], &[1, 4, 5, 6]),
        (&[9, 1, 2], &[1, 2]),
        (&[1, 2, 3], &[1, 2, 3]),
        (&[], &[]),
    ] {
        let groups: Vec<Candidate> = found.iter().map(|&seq| group(seq)).collect();
        let counts: Vec<u64> = in_place(&groups).iter().map(|g| g.header.group_seq).collect();
        assert_eq!(counts, expected, "{found:?}");
    }
}

#[test]
fn a_damaged_place_is_divided_by_what_its_groups_say_of_their_age() {
    let visited = Visited { harmed: (1..=5).map(group).collect(), ..Visited::default() };
    let (begin, middle, end) = (2 * 4096, 3 * 4096, 4 * 4096);
    let ages = |later, covered| salvage::ages(&visited, (begin, end), later, covered);
    let older = Some(false);
    assert_eq!(ages(None, 1), [(begin, end, None)], "the only older one stands before it");
    assert_eq!(ages(None, 2), [(begin, middle, older), (middle, end, None)]);
    assert_eq!(ages(None, 9), [(begin, middle, older), (middle, end, older)]);
    assert_eq!(ages(Some(true), 9), [(begin, end, Some(true))], "it is known");
}
