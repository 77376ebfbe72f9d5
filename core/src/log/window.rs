//! When a commit group is closed: at once, after a short wait for company, or when the flush cap
//! allows.
//!
//! While a commit is in flight the next one fills; that alone gives a busy log large groups. What
//! is left to decide is whether the next commit then waits for company. Nobody says who is there,
//! so it is tried, and counted in records.
//!
//! - *A burst.* Clients that keep a number of requests open send the next ones when they are
//!   answered. Closing before these are there splits the clients into two halves that wait for each
//!   other's flush. So a window of a share of the flush follows each commit: it doubles when a
//!   burst came (at least half as many records as the commit before acknowledged) and halves when
//!   none did. It ends early when as many records are there as in the commit before, and is never
//!   longer than an eighth of a flush, or than the flush window if that is more: who sends when it
//!   has something, and not when it is answered, would only be delayed.
//! - *A trickle.* Devices that publish now and then share a flush if it waits for the flush window:
//!   half the work for the processor, and half the wear. This is tried while commits have few
//!   records. A client that waits for each answer before it sends again gains nothing by it: after
//!   [`MISSES_MAX`] waits in a row that brought nobody there is none for 32 commits, then for twice
//!   as many, up to 1,024.
//!
//! After a pause there is no window: a lone publish is never delayed.

use super::FlushCap;
use crate::types::{Nanos, Time};

/// Waits in a row that brought nobody, before there is none for a while.
const MISSES_MAX: u32 = 3;
/// For how many commits there is none, at first and at most.
const REST: core::ops::RangeInclusive<u32> = 32..=1024;
/// Commits whose records say whether this is a trickle: fewer than `FEW` on average.
const RECENT: usize = 4;
const FEW: usize = 4;
/// The longest share of a flush, in eighths of the limit.
const SHARE_MAX: u32 = 8;
/// Under load without bursts, every so many commits a short window probes for them.
const PROBE_EVERY: usize = 32;

#[derive(Debug)]
pub(crate) struct Window {
    cap: Option<FlushCap>,
    /// The flush window: how long the second record of a trickle is waited for.
    wait: Nanos,
    /// Tokens of the flush cap, in billionths, as of `filled`.
    tokens: u64,
    filled: Time,
    pub flush: Nanos,
    done: Time,
    /// Records that waited when the last commit was done.
    waiting: usize,
    /// Records of the last commits, in turn.
    recent: [usize; RECENT],
    commits: usize,
    share: u32,
    misses: u32,
    /// Commits that are still to go without a window, and how many the next rest takes.
    resting: u32,
    rest: u32,
}

const TOKEN: u64 = 1_000_000_000;

impl Window {
    pub(crate) fn new(cap: Option<FlushCap>, wait: Nanos) -> Window {
        let tokens = cap.map_or(0, |cap| u64::from(cap.burst.max(1)) * TOKEN);
        Window {
            cap,
            wait,
            tokens,
            filled: Time::ZERO,
            flush: Nanos(0),
            done: Time::ZERO,
            waiting: 0,
            recent: [0; RECENT],
            commits: 0,
            share: 0,
            misses: 0,
            resting: 0,
            rest: *REST.start(),
        }
    }

    /// The cap from now on; what has gathered of the burst stays.
    pub(crate) fn set_cap(&mut self, cap: FlushCap) {
        let full = u64::from(cap.burst.max(1)) * TOKEN;
        self.tokens = if self.cap.is_none() { full } else { self.tokens.min(full) };
        self.cap = Some(cap);
    }

    pub(crate) fn cap(&self) -> Option<FlushCap> {
        self.cap
    }

    /// When a commit may be closed that holds `pending` records, of which the first came at
    /// `since`.
    pub(crate) fn closes_at(&self, since: Time, pending: usize) -> Time {
        since.max(self.company_by(since, pending)).max(self.token_at())
    }

    /// How long the flush cap alone holds a commit back whose first frame came at `since`.
    pub(crate) fn cap_wait(&self, since: Time) -> Nanos {
        self.token_at().since(since.max(self.done + self.length()))
    }

    /// How long a commit waits for company at present.
    pub(crate) fn length(&self) -> Nanos {
        if self.is_trickle() {
            return if self.resting == 0 { self.wait } else { Nanos(0) };
        }
        let limit = self.flush.0.min(self.wait.0.max(self.flush.0 / 8));
        Nanos(limit * u64::from(self.share) / u64::from(SHARE_MAX))
    }

    fn is_trickle(&self) -> bool {
        self.recent.iter().sum::<usize>() < FEW * RECENT
    }

    /// Records of the commit before.
    fn last(&self) -> usize {
        self.recent[self.commits.wrapping_sub(1) % RECENT]
    }

    /// Whether the first record came soon enough after the last commit for others to be expected.
    fn is_busy(&self, since: Time) -> bool {
        self.commits > 0 && since <= self.done + self.wait.max(self.flush)
    }

    fn company_by(&self, since: Time, pending: usize) -> Time {
        if !self.is_busy(since) {
            return Time::ZERO;
        }
        if self.is_trickle() {
            let most = self.recent.iter().copied().max().unwrap_or(0).max(2);
            return if pending < most { since.max(self.done) + self.length() } else { Time::ZERO };
        }
        if pending < self.last() + self.waiting { self.done + self.length() } else { Time::ZERO }
    }

    fn token_at(&self) -> Time {
        match self.cap {
            Some(cap) if self.tokens < TOKEN => {
                let rate = u64::from(cap.per_second.max(1));
                self.filled + Nanos((TOKEN - self.tokens).div_ceil(rate))
            }
            _ => Time::ZERO,
        }
    }

    /// A commit of `records` records is closed, the first of which came at `since`.
    pub(crate) fn closed(&mut self, now: Time, since: Time, records: usize) {
        if let Some(cap) = self.cap {
            let rate = u64::from(cap.per_second.max(1));
            let full = u64::from(cap.burst.max(1)) * TOKEN;
            let grown = now.since(self.filled).0.saturating_mul(rate);
            self.tokens = self.tokens.saturating_add(grown).min(full).saturating_sub(TOKEN);
            self.filled = now;
        }
        if !self.is_busy(since) {
            self.share = 0;
        } else if self.is_trickle() {
            self.learn_of_trickle(records);
        } else {
            self.learn_of_burst(records);
        }
        self.recent[self.commits % RECENT] = records;
        self.commits = self.commits.wrapping_add(1);
    }

    fn learn_of_burst(&mut self, records: usize) {
        let came = records.saturating_sub(self.waiting);
        if came * 2 >= self.last() {
            self.share = (self.share * 2).clamp(1, SHARE_MAX);
        } else if self.commits.is_multiple_of(PROBE_EVERY) {
            self.share = self.share.max(1);
        } else {
            self.share /= 2;
        }
    }

    fn learn_of_trickle(&mut self, records: usize) {
        self.share = 0;
        if self.resting > 0 {
            self.resting -= 1;
            // The next wait is a single try.
            self.misses = MISSES_MAX - 1;
        } else if records > self.waiting.max(1) {
            self.misses = 0;
            self.rest = *REST.start();
        } else {
            self.misses += 1;
            if self.misses >= MISSES_MAX {
                self.resting = self.rest;
                self.rest = (self.rest * 2).min(*REST.end());
            }
        }
    }

    /// The commit is durable; its flush took so long, and so many records wait now.
    pub(crate) fn done(&mut self, now: Time, flush: Nanos, waiting: usize) {
        self.flush = flush;
        self.done = now;
        self.waiting = waiting;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::FLUSH_WINDOW;
    use alloc::vec::Vec;

    const FLUSH: Nanos = Nanos(150_000);

    /// Plays a commit that closes when the window says so, with records that came at these times;
    /// gives when it was closed.
    fn commit(window: &mut Window, came: &[Time]) -> Time {
        let since = came[0];
        let mut closed = window.closes_at(since, 1);
        for (count, &at) in (2..).zip(&came[1..]) {
            if at <= closed {
                closed = window.closes_at(since, count).max(at);
            }
        }
        window.closed(closed, since, came.iter().filter(|&&at| at <= closed).count());
        window.done(closed + FLUSH, FLUSH, 0);
        closed
    }

    #[test]
    fn a_lone_record_after_a_pause_is_not_delayed() {
        let mut window = Window::new(None, FLUSH_WINDOW);
        for second in 1..100 {
            let at = Time(second * 1_000_000_000);
            assert_eq!(commit(&mut window, &[at]), at);
        }
    }

    #[test]
    fn a_trickle_shares_a_flush() {
        let mut window = Window::new(None, FLUSH_WINDOW);
        let mut now = Time(1_000_000_000);
        for _ in 0..100 {
            let came = [now, now + Nanos(500_000)];
            now = commit(&mut window, &came) + FLUSH + Nanos(100_000);
        }
        let closed = commit(&mut window, &[now, now + Nanos(500_000)]);
        assert_eq!(closed, now + Nanos(500_000), "both are there, and it waits for no third");
    }

    #[test]
    fn a_trickle_waits_as_long_as_the_flush_window_is() {
        for milliseconds in [0, 5, 50] {
            let wait = Nanos(milliseconds * 1_000_000);
            let mut window = Window::new(None, wait);
            let mut now = Time(1_000_000_000);
            for _ in 0..20 {
                now = commit(&mut window, &[now, now + Nanos(wait.0 / 2)]) + FLUSH;
            }
            assert_eq!(commit(&mut window, &[now]), now + wait);
        }
    }

    #[test]
    fn a_client_that_waits_for_its_answer_is_delayed_in_one_commit_of_a_hundred_at_most() {
        let mut window = Window::new(None, FLUSH_WINDOW);
        let mut now = Time(1_000_000_000);
        let mut delayed = 0;
        for _ in 0..10_000 {
            let closed = commit(&mut window, &[now]);
            delayed += u32::from(closed > now);
            now = closed + FLUSH + Nanos(50_000);
        }
        assert!((3..100).contains(&delayed), "{delayed} of 10,000");
    }

    /// A hundred clients that send again a moment after their answer.
    #[test]
    fn a_burst_is_waited_for_until_it_is_complete() {
        let mut window = Window::new(None, FLUSH_WINDOW);
        let mut coming: Vec<Time> = (0..100).map(|nth| Time(nth * 5_000)).collect();
        let (mut done, mut last) = (Time::ZERO, Vec::new());
        for _ in 0..300 {
            coming.sort_unstable();
            let since = coming[0];
            let taken = |at: Time| coming.iter().filter(|&&came| came <= at).count();
            let mut closed = window.closes_at(since, taken(since)).max(done).max(since);
            for &came in coming.iter().filter(|&&came| came > since) {
                if came <= closed {
                    closed = window.closes_at(since, taken(came)).max(done).max(came);
                }
            }
            let count = taken(closed);
            window.closed(closed, since, count);
            done = closed + FLUSH;
            window.done(done, FLUSH, taken(done) - count);
            coming.drain(..count);
            let again = (0..count as u64).map(|nth| done + Nanos(10_000 + nth * 300));
            coming.extend(again);
            last.push(count);
        }
        let whole = last[200..].iter().filter(|&&count| count == 100).count();
        assert!(whole > 90, "{:?}", &last[200..]);
    }

    #[test]
    fn a_flush_cap_holds_commits_back_once_the_burst_is_used_up() {
        let mut window = Window::new(Some(FlushCap { per_second: 10, burst: 3 }), FLUSH_WINDOW);
        let mut now = Time(1_000_000_000);
        for _ in 0..3 {
            assert_eq!(commit(&mut window, &[now]), now);
            now = now + Nanos(2_000_000);
        }
        assert!(commit(&mut window, &[now]) >= Time(1_095_000_000), "the fourth waits");
    }
}
