//! One gateway's log of the partition: what is written, what was flushed, and what a cut leaves.

use std::collections::VecDeque;
use weir_core::replica::LogState;
use weir_core::rng::Rng;
use weir_core::types::{LeaderEpoch, Offset};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub id: u64,
    pub epoch: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub start: i64,
    pub entries: Vec<Entry>,
}

impl Content {
    pub fn end(&self) -> i64 {
        self.start + self.entries.len() as i64
    }

    pub fn at(&self, offset: i64) -> Option<Entry> {
        self.entries.get(usize::try_from(offset - self.start).ok()?).copied()
    }

    pub fn epoch_end(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let next = self.entries.partition_point(|entry| entry.epoch <= epoch.0);
        let found = self.entries.get(next.checked_sub(1)?)?;
        Some((LeaderEpoch(found.epoch), Offset(self.start + next as i64)))
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Append(entries) => self.entries.extend(entries),
            Change::Truncate(to) => {
                assert!((self.start..=self.end()).contains(to), "{to} is not in the log");
                self.entries.truncate((to - self.start) as usize);
            }
            Change::RestartAt(start) => *self = Content { start: *start, entries: Vec::new() },
            Change::TrimTo(start) => {
                self.entries.drain(..(start - self.start).max(0) as usize);
                self.start = self.start.max(*start);
            }
        }
    }
}

#[derive(Clone, Debug)]
pub enum Change {
    Append(Vec<Entry>),
    Truncate(i64),
    RestartAt(i64),
    TrimTo(i64),
}

/// Changes become durable in their order.
#[derive(Default)]
pub struct Store {
    pub log: Content,
    /// What a cut cannot take.
    pub durable: Content,
    /// Of `pending`, so many the medium claims to have flushed.
    claimed: usize,
    pending: VecDeque<Change>,
    /// Of `pending`, so many the flush covers that is going on.
    flushing: Option<usize>,
}

impl Store {
    pub fn change(&mut self, change: Change) {
        self.log.apply(&change);
        self.pending.push_back(change);
    }

    pub fn state(&self) -> LogState {
        LogState {
            start: Offset(self.log.start),
            end: Offset(self.log.end()),
            durable: Offset(self.durable_end()),
            last_epoch: self.log.entries.last().map(|entry| LeaderEpoch(entry.epoch)),
        }
    }

    /// As the medium says it: a truncation counts at once, all else when it is flushed. Until a
    /// restart is, a cut brings back what was disowned, so nothing of it counts.
    fn durable_end(&self) -> i64 {
        let mut end = self.durable.end();
        for (at, change) in self.pending.iter().enumerate() {
            end = match change {
                Change::Append(entries) if at < self.claimed => end + entries.len() as i64,
                Change::Append(_) => end,
                Change::Truncate(to) => end.min(*to),
                Change::RestartAt(start) if at < self.claimed => *start,
                Change::RestartAt(start) => end.min(self.durable.start).min(*start),
                Change::TrimTo(start) if at < self.claimed => end.max(*start),
                Change::TrimTo(_) => end,
            };
        }
        end
    }

    /// Whether a flush begins now.
    pub fn flush(&mut self) -> bool {
        let begins = self.flushing.is_none() && self.pending.len() > self.claimed;
        if begins {
            self.flushing = Some(self.pending.len());
        }
        begins
    }

    pub fn flushed(&mut self, lies: bool) {
        let Some(count) = self.flushing.take() else { return };
        self.claimed = count;
        if !lies {
            for change in self.pending.drain(..count) {
                self.durable.apply(&change);
            }
            self.claimed = 0;
        }
    }

    /// What was not flushed is there up to some place.
    pub fn cut(&mut self, rng: &mut Rng) {
        let kept = rng.below(self.pending.len() as u64 + 1) as usize;
        let mut pending = std::mem::take(&mut self.pending);
        pending.truncate(kept);
        if let Some(Change::Append(entries)) = pending.back_mut() {
            entries.truncate(1 + rng.below(entries.len() as u64) as usize);
        }
        for change in pending {
            self.durable.apply(&change);
        }
        *self = Store {
            log: self.durable.clone(),
            durable: std::mem::take(&mut self.durable),
            ..Store::default()
        };
    }
}
