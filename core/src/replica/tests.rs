//! The rules of replication one by one; `core/tests/sim/replica` plays them all together.

use super::*;
use crate::metadata::PartitionState;
use crate::types::{Nanos, Time};
use alloc::vec;

const ME: NodeId = NodeId(1);
const NOW: Time = Time(1_000_000_000_000);

fn at(ms: u64) -> Time {
    NOW.plus_ms(ms)
}

fn log(start: i64, end: i64, durable: i64, last_epoch: i32) -> LogState {
    let last_epoch = (last_epoch >= 0).then_some(LeaderEpoch(last_epoch));
    LogState { start: Offset(start), end: Offset(end), durable: Offset(durable), last_epoch }
}

/// Looks into a log given by where its epochs begin, and its end.
fn epochs(
    starts: &[(i32, i64)],
    end: i64,
) -> impl Fn(LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
    move |epoch| {
        let next = starts.partition_point(|(known, _)| *known <= epoch.0);
        let (found, _) = *starts.get(next.checked_sub(1)?)?;
        Some((LeaderEpoch(found), Offset(starts.get(next).map_or(end, |(_, start)| *start))))
    }
}

fn state(isr: &[i32], partition_epoch: i32) -> PartitionState {
    PartitionState {
        replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
        isr: isr.iter().copied().map(NodeId).collect(),
        leader: Some(ME),
        leader_epoch: 5,
        partition_epoch,
        ..PartitionState::default()
    }
}

/// A leader of epoch 5 that has 10 records of epoch 4, all durable, and two followers.
struct Site {
    leader: Leader,
    sequence: u64,
}

impl Site {
    fn new(isr: &[i32]) -> Site {
        let me = IsrMember { node: ME, broker_epoch: 100 };
        let (log, settings) = (log(0, 10, 10, 4), LeaderSettings::default());
        let mut leader = Leader::new(NOW, me, &state(isr, 7), log, Offset(6), settings);
        leader.registered(NOW, [(NodeId(2), 102), (NodeId(3), 103)].into_iter());
        Site { leader, sequence: 0 }
    }

    /// The leader's log grows in epoch 5.
    fn grows(&mut self, end: i64, durable: i64) {
        self.leader.advance(NOW, log(0, end, durable, 5));
    }

    fn fetch(&mut self, end: i64, durable: i64, last_epoch: i32) -> Fetch {
        self.sequence += 1;
        Fetch {
            leader_epoch: LeaderEpoch(5),
            broker_epoch: 0,
            sequence: self.sequence,
            fetch_offset: Offset(end),
            durable_offset: Offset(durable),
            last_epoch: (last_epoch >= 0).then_some(LeaderEpoch(last_epoch)),
            high_watermark: Offset::ZERO,
        }
    }

    fn says(&mut self, now: Time, node: i32, fetch: Fetch) -> Verdict {
        let fetch = Fetch { broker_epoch: fetch.broker_epoch + i64::from(100 + node), ..fetch };
        self.leader.fetched(now, NodeId(node), &fetch, epochs(&[(4, 0), (5, 10)], 1_000))
    }

    /// A follower's fetch that has to match, and the high watermark after it.
    fn confirms(&mut self, now: Time, node: i32, end: i64, durable: i64) -> i64 {
        let fetch = self.fetch(end, durable, if end > 10 { 5 } else { 4 });
        assert_eq!(self.says(now, node, fetch), Verdict::Serve { from: Offset(end) });
        self.leader.high_watermark().0
    }

    fn wishes(&mut self, now: Time) -> Option<Vec<i32>> {
        let wish = self.leader.wish(now)?;
        Some(wish.isr.iter().map(|member| member.node.0).collect())
    }
}

#[test]
fn the_high_watermark_is_the_least_durable_end_in_sync() {
    let mut site = Site::new(&[1, 2, 3]);
    site.grows(20, 15);
    assert_eq!(site.leader.high_watermark(), Offset(6));
    assert_eq!(site.confirms(NOW, 2, 20, 20), 6, "the third is not heard of yet");
    assert_eq!(site.confirms(NOW, 3, 20, 12), 12);
    assert_eq!(site.confirms(NOW, 3, 20, 20), 15, "not beyond the leader's own durable end");
    site.grows(20, 20);
    assert_eq!(site.leader.high_watermark(), Offset(20));
    assert!(site.leader.is_settled());
}

#[test]
fn a_fetch_of_another_epoch_or_incarnation_is_refused() {
    let mut site = Site::new(&[1, 2, 3]);
    let fetch = site.fetch(10, 10, 4);
    for (epoch, code) in [(4, ErrorCode::FENCED_LEADER_EPOCH), (6, ErrorCode::UNKNOWN_LEADER_EPOCH)]
    {
        let fetch = Fetch { leader_epoch: LeaderEpoch(epoch), ..fetch };
        assert_eq!(site.says(NOW, 2, fetch), Verdict::Say(Content::refused(code)));
    }
    let old = Fetch { broker_epoch: -1, ..fetch };
    let stale = Verdict::Say(Content::refused(ErrorCode::STALE_BROKER_EPOCH));
    assert_eq!(site.says(NOW, 2, old), stale);
    let stranger = Verdict::Say(Content::refused(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    assert_eq!(site.says(NOW, 9, fetch), stranger);
    assert_eq!(site.says(NOW, 2, fetch), Verdict::Serve { from: Offset(10) });
    assert_eq!(site.says(NOW, 2, fetch), Verdict::Ignore, "the same again");
}

#[test]
fn a_leader_says_where_its_log_and_a_followers_part() {
    let mut site = Site::new(&[1, 2, 3]);
    site.grows(20, 20);
    let mut check = |end, last_epoch, says: Verdict| {
        let fetch = site.fetch(end, end, last_epoch);
        assert_eq!(site.says(NOW, 2, fetch), says, "{end} {last_epoch}");
    };
    let diverging = |epoch, end| {
        Verdict::Say(Content::Diverging { epoch: LeaderEpoch(epoch), end: Offset(end) })
    };
    check(12, 4, diverging(4, 10));
    check(25, 6, diverging(5, 1_000));
    // What came between epochs 2 and 4 may have been trimmed.
    check(3, 2, Verdict::Say(Content::OutOfRange));
    check(30, -1, Verdict::Say(Content::OutOfRange));
    check(0, -1, Verdict::Serve { from: Offset(0) });
    check(12, 5, Verdict::Serve { from: Offset(12) });
}

#[test]
fn a_follower_joins_with_high_watermark_and_epoch_start_on_flash() {
    let mut site = Site::new(&[1, 2]);
    site.grows(20, 20);
    assert_eq!(site.confirms(NOW, 2, 8, 8), 8);
    site.confirms(NOW, 3, 9, 9);
    assert_eq!(site.wishes(NOW), None, "9 is before the epoch's start");
    site.confirms(NOW, 3, 20, 9);
    assert_eq!(site.wishes(NOW), None, "fetched is not flushed");
    site.confirms(NOW, 3, 20, 10);
    assert_eq!(site.wishes(NOW), Some(vec![1, 2, 3]));
    assert_eq!(site.confirms(NOW, 2, 20, 20), 10, "who is wished for counts already");
    assert_eq!(site.leader.decided(NOW, &state(&[1, 2, 3], 8)), Decided::Adopted);
    assert_eq!(site.confirms(NOW, 3, 20, 16), 16);
    assert_eq!(site.wishes(NOW), None);
}

#[test]
fn a_refused_wish_counts_until_the_partition_epoch_rises() {
    let mut site = Site::new(&[1]);
    site.grows(20, 10);
    site.confirms(NOW, 2, 20, 10);
    assert_eq!(site.wishes(NOW), Some(vec![1, 2]));
    site.leader.refused(NOW);
    site.leader.registered(NOW, [(NodeId(3), 103)].into_iter());
    site.grows(20, 20);
    assert_eq!(site.leader.high_watermark(), Offset(10));
    assert_eq!(site.wishes(NOW), None, "not at once again");
    assert_eq!(site.wishes(at(250)), Some(vec![1]), "to be rid of the old wish");
    assert_eq!(site.leader.decided(NOW, &state(&[1], 8)), Decided::Adopted);
    assert_eq!(site.leader.high_watermark(), Offset(20));
}

#[test]
fn an_unanswered_wish_is_made_again() {
    let mut site = Site::new(&[1]);
    site.confirms(NOW, 2, 10, 10);
    assert_eq!(site.leader.deadline(NOW), Some(NOW));
    assert_eq!(site.wishes(NOW), Some(vec![1, 2]));
    assert_eq!(site.wishes(at(999)), None);
    assert_eq!(site.leader.deadline(at(999)), Some(at(1_000)));
    assert_eq!(site.wishes(at(1_000)), Some(vec![1, 2]));
}

#[test]
fn a_follower_that_lags_leaves_and_one_that_keeps_up_stays() {
    let mut site = Site::new(&[1, 2, 3]);
    for second in 0..30 {
        // The second follower's flush is always one round behind the leader's log.
        let end = 20 + second * 10;
        site.leader.advance(at(second as u64 * 1_000), log(0, end, end, 5));
        site.confirms(at(second as u64 * 1_000), 2, end, end - 10);
        let wish = site.wishes(at(second as u64 * 1_000));
        assert_eq!(wish.is_some(), second >= 10, "after {second} s");
        assert!(wish.is_none_or(|isr| isr == [1, 2]));
        site.leader.refused(NOW);
    }
}

#[test]
fn the_high_watermark_waits_for_who_is_about_to_join_but_not_for_the_dead() {
    let mut site = Site::new(&[1]);
    site.confirms(NOW, 2, 10, 10);
    site.grows(20, 20);
    assert_eq!(site.leader.high_watermark(), Offset(10));
    site.leader.registered(NOW, [].into_iter());
    assert_eq!(site.leader.high_watermark(), Offset(20));
}

#[test]
fn nobody_waits_for_who_comes_back_far_behind_however_short_it_was_away() {
    let mut site = Site::new(&[1, 2, 3]);
    site.grows(20, 20);
    for node in [2, 3] {
        site.confirms(NOW, node, 20, 20);
    }
    // The third is started anew, and not in sync meanwhile.
    site.leader.decided(NOW, &state(&[1, 2], 8));
    site.grows(500, 500);
    assert_eq!(site.confirms(at(1), 2, 500, 500), 500);
    site.leader.registered(at(1), [(NodeId(2), 102), (NodeId(3), 153)].into_iter());
    let comes_back = |site: &mut Site, end| {
        let fetch = Fetch { broker_epoch: 50, ..site.fetch(end, end, 5) };
        site.says(at(2), 3, fetch);
    };
    comes_back(&mut site, 20);
    site.grows(600, 600);
    assert_eq!(site.confirms(at(2), 2, 600, 600), 600);
    // Once it has what was there when it came back, it is about to join.
    comes_back(&mut site, 500);
    site.grows(700, 700);
    assert_eq!(site.confirms(at(3), 2, 700, 700), 600);
    comes_back(&mut site, 600);
    assert_eq!(site.wishes(at(3)), Some(vec![1, 2, 3]));
}

#[test]
fn who_comes_back_with_less_than_it_confirmed_leaves_until_it_has_it_again() {
    let mut site = Site::new(&[1, 2, 3]);
    site.grows(20, 20);
    site.confirms(NOW, 3, 20, 20);
    assert_eq!(site.confirms(NOW, 2, 20, 18), 18);
    let shorter = Fetch { broker_epoch: 50, ..site.fetch(12, 12, 5) };
    site.leader.registered(NOW, [(NodeId(2), 152), (NodeId(3), 103)].into_iter());
    assert_eq!(site.says(NOW, 2, shorter), Verdict::Serve { from: Offset(12) });
    assert_eq!(site.leader.high_watermark(), Offset(18), "never goes back");
    assert_eq!(site.leader.followers().map(|follower| follower.lies).sum::<u32>(), 1);
    assert_eq!(site.wishes(NOW), Some(vec![1, 3]));
    site.leader.decided(NOW, &state(&[1, 3], 8));
    assert_eq!(site.leader.high_watermark(), Offset(20));
    for (durable, joins) in [(17, false), (20, true)] {
        let fetch = Fetch { broker_epoch: 50, ..site.fetch(20, durable, 5) };
        site.says(NOW, 2, fetch);
        assert_eq!(site.wishes(NOW).is_some(), joins, "{durable}");
    }
}

#[test]
fn a_member_without_what_is_committed_leaves() {
    let mut site = Site::new(&[1, 2, 3]);
    site.confirms(NOW, 2, 5, 5);
    assert_eq!(site.wishes(NOW), Some(vec![1, 3]), "6 was the high watermark before");
}

#[test]
fn with_too_few_in_sync_nothing_is_taken_or_committed() {
    let mut site = Site::new(&[1]);
    site.leader.settings.min_insync_replicas = 2;
    site.grows(20, 20);
    assert_eq!(site.leader.check_insync(), Err(ErrorCode::NOT_ENOUGH_REPLICAS));
    assert_eq!(site.confirms(NOW, 2, 20, 20), 10, "as it was before the second was wanted");
    assert_eq!(site.wishes(NOW), Some(vec![1, 2]));
    assert!(site.leader.check_insync().is_err(), "a wish is not a member");
    site.leader.decided(NOW, &state(&[1, 2], 8));
    assert_eq!((site.leader.check_insync(), site.leader.high_watermark()), (Ok(()), Offset(20)));
    let over = PartitionState { leader_epoch: 6, ..state(&[2], 9) };
    assert_eq!(site.leader.decided(NOW, &over), Decided::Over);
    assert_eq!(site.leader.decided(NOW, &state(&[1], 8)), Decided::Old);
}

/// A follower of epoch 5 on a log of the given epochs, and what it does about an answer.
struct Replica {
    follower: Follower,
    log: LogState,
    starts: Vec<(i32, i64)>,
}

impl Replica {
    fn new(starts: &[(i32, i64)], end: i64) -> Replica {
        let settings = FollowerSettings::default();
        let follower = Follower::new(LeaderEpoch(5), 102, Offset(2), settings);
        let log = log(0, end, end, starts.last().map_or(-1, |(epoch, _)| *epoch));
        Replica { follower, log, starts: starts.to_vec() }
    }

    fn fetch(&mut self) -> Fetch {
        self.follower.next_fetch(NOW, &self.log).expect("a fetch is due")
    }

    fn hears(&mut self, sequence: u64, content: Content) -> Vec<Step> {
        let answer = Answer {
            leader_epoch: LeaderEpoch(5),
            sequence,
            log_start: Offset::ZERO,
            high_watermark: Offset(4),
            content,
        };
        let epoch_end = epochs(&self.starts, self.log.end.0);
        self.follower.answered(NOW, &answer, &self.log, epoch_end)
    }
}

fn batches(from: i64, bytes: u64) -> Content {
    Content::Batches { from: Offset(from), bytes }
}

#[test]
fn a_follower_truncates_to_the_common_epoch() {
    let check = |starts: &[(i32, i64)], end, (epoch, theirs), to: i64| {
        let mut replica = Replica::new(starts, end);
        let sequence = replica.fetch().sequence;
        let diverging = Content::Diverging { epoch: LeaderEpoch(epoch), end: Offset(theirs) };
        let steps = replica.hears(sequence, diverging);
        assert_eq!(steps, [Step::Truncate(Offset(to))], "{starts:?}");
        replica.log = log(0, to, to, 0);
        assert!(replica.follower.next_fetch(NOW, &replica.log).is_some(), "asks again at once");
    };
    check(&[(1, 0), (3, 7)], 12, (1, 9), 7);
    check(&[(1, 0), (3, 7)], 12, (3, 9), 9);
    check(&[(1, 0), (3, 7)], 12, (1, 6), 6);
    // It does not know epoch 2: down to the end of its epoch 1, and then it asks with that.
    check(&[(1, 0), (3, 7)], 12, (2, 20), 7);
    check(&[(3, 0)], 12, (2, 20), 0);
}

#[test]
fn a_follower_begins_anew_where_the_leaders_log_begins() {
    let mut replica = Replica::new(&[(1, 0)], 12);
    let sequence = replica.fetch().sequence;
    let answer = Answer {
        leader_epoch: LeaderEpoch(5),
        sequence,
        log_start: Offset(50),
        high_watermark: Offset(60),
        content: Content::OutOfRange,
    };
    let steps = replica.follower.answered(NOW, &answer, &replica.log, epochs(&[], 0));
    assert_eq!(steps, [Step::RestartAt(Offset(50))]);
}

#[test]
fn only_what_fits_the_log_is_appended() {
    let mut replica = Replica::new(&[(1, 0)], 12);
    let first = replica.fetch().sequence;
    replica.follower.failed(Time::ZERO);
    let second = replica.fetch().sequence;
    assert_eq!(replica.hears(first, batches(12, 9)), [], "nothing matched yet");
    let steps = replica.hears(second, batches(12, 9));
    assert_eq!(steps, [Step::Append, Step::HighWatermark(Offset(4))]);
    replica.log = log(0, 15, 12, 5);
    assert_eq!(replica.hears(second, batches(12, 9)), [], "the same again");
    let third = replica.fetch().sequence;
    let late = Content::Diverging { epoch: LeaderEpoch(0), end: Offset(0) };
    assert_eq!(replica.hears(second, late), [], "it judged a log that is no more");
    assert_eq!(replica.hears(third, batches(15, 9)), [Step::Append]);
}

#[test]
fn a_flush_is_reported_while_a_fetch_is_held() {
    let mut replica = Replica::new(&[(1, 0)], 12);
    let first = replica.fetch().sequence;
    replica.hears(first, batches(12, 9));
    replica.log = log(0, 15, 12, 5);
    let second = replica.fetch();
    assert_eq!(second.durable_offset, Offset(12));
    assert_eq!(replica.follower.next_fetch(NOW, &replica.log), None);
    replica.log.durable = Offset(15);
    assert_eq!(replica.fetch().durable_offset, Offset(15));
    assert_eq!(replica.hears(second.sequence, batches(15, 9)), [Step::Append], "held, and good");
}

#[test]
fn a_flush_is_reported_before_the_leader_has_said_anything() {
    let mut replica = Replica::new(&[(1, 0)], 15);
    replica.log = log(0, 15, 12, 5);
    assert_eq!(replica.fetch().durable_offset, Offset(12));
    replica.log.durable = Offset(15);
    assert_eq!(replica.fetch().durable_offset, Offset(15));
}

#[test]
fn who_has_to_know_whether_the_logs_match_asks_once_more_for_an_answer() {
    let mut replica = Replica::new(&[(1, 0)], 12);
    assert_eq!(replica.fetch().high_watermark, Offset(2));
    replica.follower.hurry();
    let eager = replica.fetch();
    assert_eq!(eager.high_watermark, Offset(-1), "any leader has news for that");
    replica.follower.hurry();
    assert_eq!(replica.follower.next_fetch(NOW, &replica.log), None, "once");
    replica.hears(eager.sequence, batches(12, 0));
    assert!(replica.follower.is_matched());
    assert_eq!(replica.fetch().high_watermark, Offset(4));
}

#[test]
fn a_follower_waits_longer_after_each_failure_and_as_the_throttle_says() {
    let mut replica = Replica::new(&[(1, 0)], 12);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        replica.follower.failed(NOW);
        pauses.push(replica.follower.deadline().since(NOW).0 / 1_000_000);
    }
    assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 1_000, 1_000]);
    let fetch = replica.follower.next_fetch(at(1_000), &replica.log).unwrap();
    replica.follower.throttle = Some(1_000);
    replica.hears(fetch.sequence, batches(12, 500));
    assert_eq!(replica.follower.deadline().since(NOW), Nanos::from_ms(500));
    assert_eq!(replica.follower.next_fetch(at(499), &replica.log), None);
}

#[test]
fn what_gateways_say_survives_postcard() {
    let fetch = Site::new(&[1]).fetch(3, 2, 1);
    let bytes = postcard::to_allocvec(&fetch).unwrap();
    assert_eq!(postcard::from_bytes::<Fetch>(&bytes).unwrap(), fetch);
    for cut in 0..bytes.len() {
        assert!(postcard::from_bytes::<Fetch>(&bytes[..cut]).is_err());
    }
}
