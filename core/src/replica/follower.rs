//! A follower of one leader epoch: fetches, truncates to where its log and the leader's agree, and
//! reports what is on flash.

use super::{Answer, Content, Fetch, LogState};
use crate::types::{LeaderEpoch, Nanos, Offset, Time};
use alloc::vec::Vec;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FollowerSettings {
    /// A fetch that is unanswered for so long is sent again. Longer than a leader holds one that
    /// has nothing to bring.
    pub timeout: Nanos,
    /// The pause after the first failure; it doubles with each further one.
    pub backoff: Nanos,
    pub backoff_max: Nanos,
}

impl Default for FollowerSettings {
    fn default() -> FollowerSettings {
        FollowerSettings {
            timeout: Nanos::from_ms(2_000),
            backoff: Nanos::from_ms(20),
            // Kafka's `replica.fetch.backoff.ms`.
            backoff_max: Nanos::from_ms(1_000),
        }
    }
}

/// What the owner has to do with its log, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Drop everything at and above this offset.
    Truncate(Offset),
    /// Drop everything; the log begins anew, empty, at this offset.
    RestartAt(Offset),
    /// Append the batches that came with the answer.
    Append,
    /// The leader's log begins here now.
    TrimTo(Offset),
    /// The leader's high watermark has moved. Readers here get what is below it and durable.
    HighWatermark(Offset),
}

/// Follows one leader in one epoch. The owner makes a new one for each epoch and each start.
///
/// | state | event | next |
/// |---|---|---|
/// | unmatched | batches from our log end | matched: the leader found our last epoch in its log |
/// | unmatched | diverging, out of range | unmatched, log shorter; fetches at once |
/// | matched | batches from our log end | matched, log longer |
/// | any | refused, broken, timed out | the same; fetches after a pause |
///
/// While unmatched, only the answer to the last fetch counts: an older one judged a log that has
/// changed since. Once matched, any batches of this epoch fit that begin at our log end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Follower {
    settings: FollowerSettings,
    leader_epoch: LeaderEpoch,
    broker_epoch: i64,
    /// Of the last fetch. Each epoch has its own range of them.
    sequence: u64,
    outstanding: Option<Outstanding>,
    matched: bool,
    /// The leader is to answer though it has no news: it has to be known whether the logs match.
    eager: bool,
    high_watermark: Offset,
    failures: u32,
    not_before: Time,
    /// Bytes a second that a replica takes while it is being moved here; `None`: no bound. Not for
    /// one that is in sync, since the high watermark waits for it.
    pub throttle: Option<u64>,
}

/// The fetch that is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Outstanding {
    until: Time,
    durable: Offset,
}

impl Follower {
    /// `high_watermark`: what this gateway knows from the epoch before, or zero.
    pub fn new(
        leader_epoch: LeaderEpoch,
        broker_epoch: i64,
        high_watermark: Offset,
        settings: FollowerSettings,
    ) -> Follower {
        Follower {
            settings,
            leader_epoch,
            broker_epoch,
            sequence: u64::from(leader_epoch.0.unsigned_abs()) << 32,
            outstanding: None,
            matched: false,
            eager: false,
            high_watermark,
            failures: 0,
            not_before: Time::ZERO,
            throttle: None,
        }
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// Whether the leader has found our log to be a beginning of its own.
    pub fn is_matched(&self) -> bool {
        self.matched
    }

    /// Has the leader say at once whether the logs match, if that is not known.
    pub fn hurry(&mut self) {
        if !self.matched && !self.eager {
            (self.eager, self.outstanding) = (true, None);
        }
    }

    /// The leader's high watermark as far as it is heard of here.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// When [`Follower::next_fetch`] has something at the latest.
    pub fn deadline(&self) -> Time {
        self.outstanding.map_or(Time::ZERO, |sent| sent.until).max(self.not_before)
    }

    /// The fetch that is due: the next one, the last one again, or one that reports a flush while
    /// the leader holds another. To be called after each step and flush and at the deadline.
    pub fn next_fetch(&mut self, now: Time, log: &LogState) -> Option<Fetch> {
        if now < self.not_before {
            return None;
        }
        if let Some(sent) = self.outstanding {
            // Also before the first answer of an epoch, which a leader holds that has no news: its
            // high watermark waits for this.
            let reports = log.durable > sent.durable;
            if now < sent.until && !reports {
                return None;
            }
        }
        let until = now + self.settings.timeout;
        self.outstanding = Some(Outstanding { until, durable: log.durable });
        self.sequence += 1;
        Some(Fetch {
            leader_epoch: self.leader_epoch,
            broker_epoch: self.broker_epoch,
            sequence: self.sequence,
            fetch_offset: log.end,
            durable_offset: log.durable,
            last_epoch: log.last_epoch,
            // A leader answers who knows less than it does.
            high_watermark: match self.eager && !self.matched {
                true => Offset(-1),
                false => self.high_watermark,
            },
        })
    }

    /// The fetch could not be sent, or its connection is gone.
    pub fn failed(&mut self, now: Time) {
        let doubled = self.settings.backoff.0 << self.failures.min(16);
        self.failures += 1;
        self.outstanding = None;
        self.not_before = now + Nanos(doubled.min(self.settings.backoff_max.0));
    }

    /// What to do about an answer. `epoch_end` looks into our own log: the last epoch up to the
    /// given one, and where it ends; `None` if there is none.
    pub fn answered(
        &mut self,
        now: Time,
        answer: &Answer,
        log: &LogState,
        epoch_end: impl Fn(LeaderEpoch) -> Option<(LeaderEpoch, Offset)>,
    ) -> Vec<Step> {
        let current = answer.sequence == self.sequence && self.outstanding.is_some();
        if answer.leader_epoch != self.leader_epoch || !(current || self.matched) {
            return Vec::new();
        }
        match answer.content {
            Content::Batches { from, bytes } if from == log.end => {
                self.outstanding = self.outstanding.filter(|_| !current && bytes == 0);
                self.took(now, answer, bytes, log)
            }
            _ if !current => Vec::new(),
            Content::Diverging { epoch, end } => {
                let to = common_end(epoch, end, log, epoch_end);
                self.cut(now, to, answer.log_start, log)
            }
            Content::OutOfRange => {
                self.matched = false;
                self.outstanding = None;
                if log.start == answer.log_start && log.end == log.start {
                    self.failed(now);
                    return Vec::new();
                }
                Vec::from([Step::RestartAt(answer.log_start)])
            }
            Content::Batches { .. } | Content::Refused(_) => {
                self.failed(now);
                Vec::new()
            }
        }
    }

    /// Batches that fit, or the news that there are none.
    fn took(&mut self, now: Time, answer: &Answer, bytes: u64, log: &LogState) -> Vec<Step> {
        self.matched = true;
        self.failures = 0;
        let mut steps = Vec::new();
        if bytes > 0 {
            steps.push(Step::Append);
            self.not_before = now + self.pause(bytes);
        }
        // What lies between our end and a start beyond it is for the next fetch to find out.
        if answer.log_start > log.start && answer.log_start <= log.end {
            steps.push(Step::TrimTo(answer.log_start));
        }
        if answer.high_watermark > self.high_watermark {
            self.high_watermark = answer.high_watermark;
            steps.push(Step::HighWatermark(answer.high_watermark));
        }
        steps
    }

    /// The logs agree below `to` only, or not even there.
    fn cut(&mut self, now: Time, to: Offset, leader_start: Offset, log: &LogState) -> Vec<Step> {
        self.matched = false;
        self.outstanding = None;
        if to >= log.end {
            // A leader that contradicts itself is asked again, but not in a tight loop.
            self.failed(now);
            return Vec::new();
        }
        if to < self.high_watermark {
            log::error!(
                "a partition is truncated to {to}, below its high watermark {}: the storage of \
                 another replica has lost what it had confirmed",
                self.high_watermark
            );
            self.high_watermark = to;
        }
        if to < log.start || to < leader_start {
            return Vec::from([Step::RestartAt(leader_start)]);
        }
        Vec::from([Step::Truncate(to)])
    }

    /// How long the throttle makes us wait for the next bytes.
    fn pause(&self, bytes: u64) -> Nanos {
        let Some(per_second) = self.throttle else { return Nanos(0) };
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(per_second.max(1));
        Nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Where our log and the leader's may still agree: its epoch up to our last one ends at `end`. If
/// we know that epoch too, they agree to the lesser of both ends; if not, to where our last epoch
/// below it ends at most, and the next fetch finds out (KIP-279).
fn common_end(
    epoch: LeaderEpoch,
    end: Offset,
    log: &LogState,
    epoch_end: impl Fn(LeaderEpoch) -> Option<(LeaderEpoch, Offset)>,
) -> Offset {
    match epoch_end(epoch) {
        Some((ours, our_end)) if ours == epoch => our_end.min(end).min(log.end),
        Some((_, our_end)) => our_end.min(log.end),
        None => log.start,
    }
}
