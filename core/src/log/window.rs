//! When a commit group is closed: at once, after a short wait for company, or when the flush cap
//! allows.
//!
//! While a commit is in flight the next one fills; that alone gives a busy log large groups. What
//! is left to decide is whether to wait after a commit is done. Clients that keep a number of
//! requests open send the next ones when they are answered, so right after a commit a burst
//! arrives; closing before it splits the clients into two halves that wait for each other's flush.
//! Devices that publish when they have something do not do so, and a wait only delays them. So the
//! window learns: it is a share of the last flush's duration, which doubles when a burst came (at
//! least half as many frames as the commit before acknowledged) and halves when none did. It ends
//! early when as many frames are there as were seen in the commit before. After a pause there is no
//! window: a lone publish is never delayed.

use super::FlushCap;
use crate::types::{Nanos, Time};

/// The window's longest share of a flush, in eighths.
const SHARE_MAX: u32 = 8;
/// Under load without bursts, every so many commits a short window probes for them.
const PROBE_EVERY: u32 = 32;

#[derive(Debug)]
pub(crate) struct Window {
    cap: Option<FlushCap>,
    /// Tokens of the flush cap, in billionths, as of `filled`.
    tokens: u64,
    filled: Time,
    pub flush: Nanos,
    done: Time,
    /// Frames in the commit before.
    frames: usize,
    /// Frames that waited when it was done.
    waiting: usize,
    share: u32,
    commits: u32,
}

const TOKEN: u64 = 1_000_000_000;

impl Window {
    pub(crate) fn new(cap: Option<FlushCap>) -> Window {
        let tokens = cap.map_or(0, |cap| u64::from(cap.burst.max(1)) * TOKEN);
        Window {
            cap,
            tokens,
            filled: Time::ZERO,
            flush: Nanos(0),
            done: Time::ZERO,
            frames: 0,
            waiting: 0,
            share: 0,
            commits: 0,
        }
    }

    /// When a commit may be closed that holds `pending` frames, the first of which came at `since`.
    pub(crate) fn closes_at(&self, since: Time, pending: usize) -> Time {
        since.max(self.company_by(since, pending)).max(self.token_at())
    }

    /// How long the flush cap alone holds a commit back whose first frame came at `since`.
    pub(crate) fn cap_wait(&self, since: Time) -> Nanos {
        self.token_at().since(since.max(self.done + self.length()))
    }

    pub(crate) fn length(&self) -> Nanos {
        Nanos(self.flush.0 * u64::from(self.share) / u64::from(SHARE_MAX))
    }

    fn company_by(&self, since: Time, pending: usize) -> Time {
        let busy = since <= self.done + self.flush;
        if busy && pending < self.frames + self.waiting {
            self.done + self.length()
        } else {
            Time::ZERO
        }
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

    /// A commit of `frames` frames is closed.
    pub(crate) fn closed(&mut self, now: Time, frames: usize) {
        if let Some(cap) = self.cap {
            let rate = u64::from(cap.per_second.max(1));
            let full = u64::from(cap.burst.max(1)) * TOKEN;
            let grown = now.since(self.filled).0.saturating_mul(rate);
            self.tokens = self.tokens.saturating_add(grown).min(full).saturating_sub(TOKEN);
            self.filled = now;
        }
        if now.since(self.done).0 <= self.flush.0 {
            let came = frames.saturating_sub(self.waiting);
            self.commits = self.commits.wrapping_add(1);
            if came * 2 >= self.frames && self.frames > 1 {
                self.share = (self.share * 2).clamp(1, SHARE_MAX);
            } else if self.commits.is_multiple_of(PROBE_EVERY) && self.frames > 1 {
                self.share = self.share.max(1);
            } else {
                self.share /= 2;
            }
        } else {
            self.share = 0;
        }
        self.frames = frames;
    }

    /// The commit is durable; its flush took so long, and so many frames wait now.
    pub(crate) fn done(&mut self, now: Time, flush: Nanos, waiting: usize) {
        self.flush = flush;
        self.done = now;
        self.waiting = waiting;
    }
}
