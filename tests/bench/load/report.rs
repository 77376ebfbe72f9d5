//! What the load generator measured.

use std::time::Instant;

/// Latencies in microseconds, in buckets 1/64 apart: a histogram of fixed size.
#[derive(Debug)]
pub struct Latencies {
    from: Instant,
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

const STEPS: u64 = 64;

fn bucket(us: u64) -> usize {
    if us < STEPS {
        return us as usize;
    }
    let log = 63 - us.leading_zeros() as u64;
    ((log - 5) * STEPS + (us >> (log - 6)) - STEPS) as usize
}

/// The greatest value that falls into a bucket.
fn value(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let log = bucket / STEPS + 5;
    ((bucket % STEPS + STEPS + 1) << (log - 6)) - 1
}

impl Latencies {
    pub fn new(from: Instant) -> Latencies {
        Latencies { from, buckets: vec![0; 64 * 40], count: 0, max: 0 }
    }

    pub fn add(&mut self, due: Instant, now: Instant) {
        if now < self.from {
            return;
        }
        let us = now.saturating_duration_since(due).as_micros() as u64;
        self.buckets[bucket(us)] += 1;
        self.count += 1;
        self.max = self.max.max(us);
    }

    fn quantile(&self, share: f64) -> f64 {
        let mut left = (self.count as f64 * share) as u64;
        for (at, count) in self.buckets.iter().enumerate() {
            if left < *count {
                return value(at).min(self.max) as f64 / 1000.0;
            }
            left -= count;
        }
        self.max as f64 / 1000.0
    }

    pub fn json(&self, seconds: f64, refused: u64, unacked: u64) -> String {
        format!(
            "{{\"per_s\":{:.0},\"p50_ms\":{:.3},\"p99_ms\":{:.3},\"max_ms\":{:.3},\
             \"count\":{},\"refused\":{refused},\"unacked\":{unacked}}}",
            self.count as f64 / seconds,
            self.quantile(0.5),
            self.quantile(0.99),
            self.max as f64 / 1000.0,
            self.count,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_values_within_two_percent() {
        for us in (0..100_000).chain([1 << 20, 1 << 30]) {
            let top = value(bucket(us));
            assert!(top >= us && top as f64 <= us as f64 * 1.02 + 1.0, "{us} {top}");
        }
    }
}
