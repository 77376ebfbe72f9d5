//! What was published, acknowledged and read: the demo's proof.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Latencies that are kept for the percentiles.
const LATENCIES_KEPT: usize = 4_096;

#[derive(Debug, Default)]
pub struct Ledger {
    sensors: Vec<Sensor>,
    pub connected: usize,
    pub published: u64,
    pub acked: u64,
    /// Readings that were read at least once.
    pub read: u64,
    /// Readings that were read once more: QoS 1 allows it after a reconnect.
    pub repeated: u64,
    pub ack_latency: Latencies,
    pub read_latency: Latencies,
    pub last: String,
}

#[derive(Debug, Default)]
struct Sensor {
    acked: Vec<u64>,
    read: Vec<u64>,
    /// When readings were published that were not read yet.
    open: HashMap<u64, Instant>,
}

impl Ledger {
    pub fn new(sensors: usize) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.sensors.resize_with(sensors, Sensor::default);
        ledger
    }

    pub fn published(&mut self, sensor: usize, number: u64, now: Instant) {
        self.published += 1;
        self.sensors[sensor].open.insert(number, now);
    }

    pub fn acked(&mut self, sensor: usize, number: u64, latency: Duration) {
        if insert(&mut self.sensors[sensor].acked, number) {
            self.acked += 1;
            self.ack_latency.add(latency);
        }
    }

    /// A reading came out of the gateway; it may be one of another demo.
    pub fn read(&mut self, sensor: usize, number: u64, now: Instant) {
        let Some(state) = self.sensors.get_mut(sensor) else { return };
        if let Some(at) = state.open.remove(&number) {
            self.read_latency.add(now - at);
        }
        match insert(&mut state.read, number) {
            true => self.read += 1,
            false => self.repeated += 1,
        }
    }

    /// Readings that were acknowledged and not read.
    pub fn missing(&self) -> u64 {
        let missing = |sensor: &Sensor| {
            let words = sensor.acked.iter().enumerate();
            let missing = words.map(|(at, acked)| acked & !sensor.read.get(at).unwrap_or(&0));
            missing.map(|word| u64::from(word.count_ones())).sum::<u64>()
        };
        self.sensors.iter().map(missing).sum()
    }
}

/// Adds a number to a set of bits; whether it is new.
fn insert(set: &mut Vec<u64>, number: u64) -> bool {
    let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
    if set.len() <= word {
        set.resize(word + 1, 0);
    }
    let new = set[word] & bit == 0;
    set[word] |= bit;
    new
}

/// The latencies of late.
#[derive(Debug, Default)]
pub struct Latencies {
    kept: Vec<Duration>,
    next: usize,
}

impl Latencies {
    fn add(&mut self, latency: Duration) {
        if self.kept.len() < LATENCIES_KEPT {
            self.kept.push(latency);
        } else {
            self.kept[self.next] = latency;
            self.next = (self.next + 1) % LATENCIES_KEPT;
        }
    }

    /// The median and the 99th of a hundred; `None` before the first.
    pub fn percentiles(&self) -> Option<(Duration, Duration)> {
        let mut sorted = self.kept.clone();
        sorted.sort_unstable();
        let at = |percent: usize| sorted.get((sorted.len() * percent / 100).min(sorted.len() - 1));
        if sorted.is_empty() { None } else { Some((*at(50)?, *at(99)?)) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_acknowledged_and_not_read_is_missing() {
        let mut ledger = Ledger::new(2);
        let now = Instant::now();
        for number in 0..100 {
            ledger.published(1, number, now);
            ledger.acked(1, number, Duration::from_millis(number));
        }
        assert_eq!(ledger.missing(), 100);
        for number in (0..100).filter(|n| *n != 64) {
            ledger.read(1, number, now);
            ledger.read(1, number, now);
        }
        ledger.read(7, 0, now);
        assert_eq!((ledger.missing(), ledger.read, ledger.repeated), (1, 99, 99));
        let (p50, p99) = ledger.ack_latency.percentiles().unwrap();
        assert_eq!((p50.as_millis(), p99.as_millis()), (50, 99));
    }
}
