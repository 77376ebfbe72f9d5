//! What a leader knows of one follower.

use super::Fetch;
use crate::types::{Nanos, NodeId, Offset, Time};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Remote {
    pub node: NodeId,
    /// The incarnation that fetched last, and the number of that fetch.
    pub broker_epoch: i64,
    pub sequence: u64,
    /// The incarnation that the controller knows. `None`: fenced, draining or unknown.
    pub registered: Option<i64>,
    pub fetch_offset: Offset,
    /// `None` before the first fetch of this epoch that matched our log.
    pub durable: Option<Offset>,
    /// The high watermark that it knows.
    pub told: Offset,
    /// It came back with less than this, which it had confirmed, and has not got there since.
    pub owes: Option<Offset>,
    pub lies: u32,
    /// It left the in-sync set, or began anew, and has not had since what our log had then. Nobody
    /// waits for it: however short it was away, it may be far behind.
    is_behind: bool,
    /// When it last had, on flash, all that was in our log then.
    caught_up: Option<Time>,
    /// Our log's end at a moment. When its durable end gets there, it had caught up with that
    /// moment. Kafka compares with the fetch before; a flush takes more than one fetch.
    mark: (Time, Offset),
}

impl Remote {
    pub fn new(now: Time, node: NodeId, log_end: Offset) -> Remote {
        Remote {
            node,
            broker_epoch: -1,
            sequence: 0,
            registered: None,
            fetch_offset: Offset::ZERO,
            durable: None,
            told: Offset::ZERO,
            owes: None,
            lies: 0,
            is_behind: false,
            caught_up: None,
            mark: (now, log_end),
        }
    }

    /// It is in the in-sync set from now on, and has `lag` from now on to stay.
    pub fn joined(&mut self, now: Time, log_end: Offset) {
        self.is_behind = false;
        self.caught_up = self.caught_up.max(Some(now));
        self.mark = (now, log_end);
    }

    /// It is not in the in-sync set any more, or another incarnation of it fetches.
    pub fn falls_behind(&mut self, now: Time, log_end: Offset) {
        self.is_behind = true;
        self.mark = (now, log_end);
    }

    /// Takes note of a fetch that matched our log. `owed`: what it has to have on flash already.
    pub fn confirm(&mut self, now: Time, fetch: &Fetch, log_end: Offset, owed: Offset) {
        let durable = fetch.durable_offset.min(fetch.fetch_offset);
        let owed = self.durable.map_or(owed, |before| before.max(owed));
        if durable >= self.owes.unwrap_or(owed).max(owed) {
            self.owes = None;
        } else if self.owes.is_none() {
            log::error!(
                "gateway {} had confirmed records up to {owed} and has {durable}: its storage \
                 loses what it says it has flushed",
                self.node.0
            );
            self.lies += 1;
            self.owes = Some(owed);
        }
        self.fetch_offset = fetch.fetch_offset;
        self.told = fetch.high_watermark;
        self.durable = Some(durable);
        self.is_behind &= durable < self.mark.1;
        if durable >= log_end {
            self.caught_up = Some(now);
            self.mark = (now, log_end);
        } else if durable >= self.mark.1 {
            self.caught_up = self.caught_up.max(Some(self.mark.0));
            self.mark = (now, log_end);
        }
    }

    pub fn has(&self, end: Offset) -> bool {
        self.durable.is_some_and(|durable| durable >= end)
    }

    /// Whether it has been behind our log's end for longer than `lag`.
    pub fn lags(&self, now: Time, log_end: Offset, lag: Nanos) -> bool {
        !self.has(log_end) && now >= self.lags_from(lag)
    }

    /// From when on it lags, unless it catches up before.
    pub fn lags_from(&self, lag: Nanos) -> Time {
        self.caught_up.map_or(Time::ZERO, |caught_up| caught_up + lag)
    }

    /// Whether it is the incarnation that the controller knows as alive.
    pub fn may_join(&self) -> bool {
        self.durable.is_some() && self.owes.is_none() && self.registered == Some(self.broker_epoch)
    }

    /// Whether it will be in sync soon, so that the high watermark waits for it: it would never get
    /// there otherwise while records come in all the time.
    pub fn is_joining(&self, now: Time, log_end: Offset, lag: Nanos) -> bool {
        self.may_join() && !self.is_behind && !self.lags(now, log_end, lag)
    }

    /// The incarnation for a wish: the one that fetches, or the one that the controller knows.
    pub fn incarnation(&self) -> i64 {
        if self.broker_epoch >= 0 { self.broker_epoch } else { self.registered.unwrap_or(-1) }
    }
}
