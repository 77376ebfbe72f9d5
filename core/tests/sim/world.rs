//! The simulated world: a clock that jumps from event to event, and the only source of chance.
//!
//! Everything that happens in a run follows from its seed: two runs of one seed are the same to the
//! last bit. So nothing here or above looks at the real clock or at the order of a hash map.

use crate::trace::Trace;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use weir_core::rng::Rng;
use weir_core::types::{Nanos, Time};

/// A clock, an event heap and a seeded generator.
pub struct World<E> {
    pub now: Time,
    pub rng: Rng,
    heap: BinaryHeap<Scheduled<E>>,
    sequence: u64,
    pub trace: Trace,
}

/// An event and when it happens; events of one moment happen in the order of their scheduling.
struct Scheduled<E> {
    at: Time,
    sequence: u64,
    event: E,
}

impl<E> World<E> {
    pub fn new(seed: u64) -> World<E> {
        // Not at zero: a clock that starts later finds confusions of times with spans.
        let now = Time(1_000_000_000);
        let (rng, heap) = (Rng::new(seed), BinaryHeap::new());
        World { now, rng, heap, sequence: 0, trace: Trace::default() }
    }

    pub fn at(&mut self, at: Time, event: E) {
        self.sequence += 1;
        self.heap.push(Scheduled { at: at.max(self.now), sequence: self.sequence, event });
    }

    pub fn after(&mut self, delay: Nanos, event: E) {
        self.at(self.now + delay, event);
    }

    /// Moves the clock to the next event and hands it out.
    pub fn next(&mut self) -> Option<E> {
        let Scheduled { at, event, sequence } = self.heap.pop()?;
        self.now = at;
        self.trace.note(at.0);
        self.trace.note(sequence);
        Some(event)
    }

    /// A delay between `low` and `high` microseconds, short ones more often than long ones.
    pub fn delay_us(&mut self, low: u64, high: u64) -> Nanos {
        let span = self.rng.below(high.saturating_sub(low)) + 1;
        Nanos((low + self.rng.below(span)) * 1_000)
    }
}

impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Scheduled<E> {}
