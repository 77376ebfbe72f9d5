//! Who may send, and how fast: a token bucket for each route, and turns between routes by priority.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Routes with less priority than one that has something to send keep this share of the bytes, so
/// that they never stand still.
const SHARE_MIN: f64 = 0.1;

/// How fast what was sent is forgotten: half of it after this time.
const HALF_LIFE: Duration = Duration::from_secs(5);

/// A budget of bytes. It may go into debt for one load, which is paid off before the next one.
#[derive(Debug)]
pub(super) struct Bucket {
    bytes_per_second: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// 0 is no limit.
    pub fn new(bytes_per_second: u64, now: Instant) -> Bucket {
        let bytes_per_second = bytes_per_second as f64;
        Bucket { bytes_per_second, tokens: bytes_per_second, filled: now }
    }

    /// How long to wait until something may be sent.
    pub fn wait(&mut self, now: Instant) -> Duration {
        if self.bytes_per_second == 0.0 {
            return Duration::ZERO;
        }
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * self.bytes_per_second).min(self.bytes_per_second);
        Duration::from_secs_f64((-self.tokens / self.bytes_per_second).max(0.0))
    }

    pub fn spend(&mut self, bytes: usize) {
        self.tokens -= bytes as f64;
    }
}

/// The turns of all routes of a mirror.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<Vec<Share>>>);

#[derive(Debug)]
struct Share {
    priority: i32,
    /// Has something to send at this moment.
    waiting: bool,
    /// Bytes sent lately, and when that was last made smaller.
    sent: f64,
    decayed: Instant,
}

impl Turns {
    /// Adds a route and gives its number.
    pub fn register(&self, priority: i32) -> usize {
        let mut shares = self.lock();
        shares.push(Share { priority, waiting: false, sent: 0.0, decayed: Instant::now() });
        shares.len() - 1
    }

    /// Says whether a route has something to send.
    pub fn set_waiting(&self, route: usize, waiting: bool) {
        self.lock()[route].waiting = waiting;
    }

    /// Whether it is the route's turn: nobody more important waits, or it had less than its share.
    pub fn may_send(&self, route: usize, now: Instant) -> bool {
        let mut shares = self.lock();
        for share in shares.iter_mut() {
            share.decay(now);
        }
        let priority = shares[route].priority;
        let more_important = |share: &Share| share.waiting && share.priority > priority;
        if !shares.iter().any(more_important) {
            return true;
        }
        let all: f64 = shares.iter().map(|share| share.sent).sum();
        shares[route].sent < all * SHARE_MIN
    }

    pub fn sent(&self, route: usize, bytes: usize) {
        self.lock()[route].sent += bytes as f64;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Share>> {
        // Plain numbers, readable whatever happened to who held the lock.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Share {
    fn decay(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.decayed).as_secs_f64();
        self.sent *= 0.5f64.powf(passed / HALF_LIFE.as_secs_f64());
        self.decayed = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_its_rate_through_and_no_more() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1_000, start);
        let (mut now, mut sent) = (start, 0);
        while now < start + Duration::from_secs(100) {
            now += bucket.wait(now);
            bucket.spend(700);
            sent += 700;
        }
        assert!((100_000..103_000).contains(&sent), "{sent}");
        assert_eq!(Bucket::new(0, start).wait(start), Duration::ZERO);
    }

    #[test]
    fn the_less_important_route_keeps_a_tenth() {
        let turns = Turns::default();
        let (low, high) = (turns.register(0), turns.register(5));
        turns.set_waiting(low, true);
        turns.set_waiting(high, true);
        let start = Instant::now();
        let mut sent = [0; 2];
        for step in 0..10_000 {
            let now = start + Duration::from_millis(step);
            for route in [low, high] {
                if turns.may_send(route, now) {
                    turns.sent(route, 1_000);
                    sent[route] += 1;
                }
            }
        }
        assert_eq!(sent[high], 10_000);
        assert!((900..1_300).contains(&sent[low]), "{sent:?}");
        turns.set_waiting(high, false);
        assert!(turns.may_send(low, start + Duration::from_secs(11)));
    }
}
