//! How long to wait after a failure: from 1 s doubling to 2 min, with 25 % jitter, so that forty
//! gateways behind one failed link do not come back in step.

use std::time::Duration;

use weir_core::rng::Rng;

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(120);

#[derive(Clone, Debug)]
pub(super) struct Backoff {
    failures: u32,
    rng: Rng,
}

impl Backoff {
    pub fn new(seed: u64) -> Backoff {
        Backoff { failures: 0, rng: Rng::new(seed) }
    }

    /// The wait after one more failure.
    pub fn next(&mut self) -> Duration {
        let wait = FIRST.saturating_mul(1 << self.failures.min(16)).min(LAST);
        self.failures += 1;
        let percent = 75 + self.rng.below(51) as u32;
        wait * percent / 100
    }

    /// Something arrived: the link is good.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_one_second_to_two_minutes_with_jitter() {
        let mut backoff = Backoff::new(1);
        let mut waits = Vec::new();
        for number in 0..12 {
            let expected = 120_000.min(1_000 << number);
            let wait = backoff.next().as_millis() as u64;
            assert!((expected * 3 / 4..=expected * 5 / 4).contains(&wait), "{number}: {wait}");
            waits.push(wait);
        }
        assert!(waits[7..].iter().any(|wait| *wait != waits[7]));
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(1_250));
    }
}
