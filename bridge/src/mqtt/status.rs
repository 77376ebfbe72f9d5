//! What the MQTT side is doing: counters that its thread writes and anyone may read.

use serde::Serialize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Doubling buckets from 64 microseconds up: the last one has no upper end.
const BUCKETS: usize = 20;

/// The state of the MQTT side at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    pub connections: u64,
    /// Connections since the start.
    pub connected: u64,
    /// Connections that were refused or ended for what they sent, since the start.
    pub refused: u64,
    /// Sessions that outlive their connection.
    pub sessions: u64,
    /// Publishes taken since the start, by QoS.
    pub publishes: [u64; 3],
    /// PUBACK, PUBREC and PUBCOMP packets that were sent since the start.
    pub acks: u64,
    /// Publishes answered with a failure since the start.
    pub publishes_refused: u64,
    /// Repeated QoS 2 publishes that were recognised since the start.
    pub duplicates: u64,
    /// Bytes that wait for the log, and how many there may be.
    pub queued_bytes: u64,
    pub queued_bytes_max: u64,
    /// From the arrival of a publish until its record was durable.
    pub durable: Histogram,
    pub sources: Vec<SourceStatus>,
}

/// Durations in doubling buckets.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Histogram {
    /// Upper ends in microseconds; the last bucket has none, so there is one count more.
    pub le_micros: Vec<u64>,
    pub counts: Vec<u64>,
    pub sum_micros: u64,
}

/// One `[[mqtt.source]]`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SourceStatus {
    pub name: String,
    pub url: String,
    pub connected: bool,
    pub messages: u64,
    pub acks: u64,
    pub reconnects: u64,
    /// Why it is not connected.
    pub error: Option<String>,
}

/// What the MQTT thread counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub connections: AtomicU64,
    pub connected: AtomicU64,
    pub refused: AtomicU64,
    pub sessions: AtomicU64,
    pub publishes: [AtomicU64; 3],
    pub acks: AtomicU64,
    pub publishes_refused: AtomicU64,
    pub duplicates: AtomicU64,
    pub queued_bytes: AtomicU64,
    pub queued_bytes_max: AtomicU64,
    durable: [AtomicU64; BUCKETS],
    durable_sum_micros: AtomicU64,
    pub sources: Mutex<Vec<SourceStatus>>,
}

impl Counters {
    /// `records` became durable `after` the first of them arrived.
    pub fn durable(&self, after: Duration, records: u64) {
        let micros = after.as_micros().min(u128::from(u64::MAX)) as u64;
        let bucket = (u64::BITS - (micros >> 6).leading_zeros()) as usize;
        self.durable[bucket.min(BUCKETS - 1)].fetch_add(records, Relaxed);
        self.durable_sum_micros.fetch_add(micros.saturating_mul(records), Relaxed);
    }

    pub fn status(&self) -> Status {
        let sources = match self.sources.lock() {
            Ok(sources) => sources.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        };
        Status {
            connections: self.connections.load(Relaxed),
            connected: self.connected.load(Relaxed),
            refused: self.refused.load(Relaxed),
            sessions: self.sessions.load(Relaxed),
            publishes: self.publishes.each_ref().map(|count| count.load(Relaxed)),
            acks: self.acks.load(Relaxed),
            publishes_refused: self.publishes_refused.load(Relaxed),
            duplicates: self.duplicates.load(Relaxed),
            queued_bytes: self.queued_bytes.load(Relaxed),
            queued_bytes_max: self.queued_bytes_max.load(Relaxed),
            durable: Histogram {
                le_micros: (0..BUCKETS - 1).map(|bucket| 64 << bucket).collect(),
                counts: self.durable.iter().map(|count| count.load(Relaxed)).collect(),
                sum_micros: self.durable_sum_micros.load(Relaxed),
            },
            sources,
        }
    }

    /// Changes what is known about a source; unknown numbers are ignored.
    pub fn source(&self, number: usize, change: impl FnOnce(&mut SourceStatus)) {
        if let Ok(mut sources) = self.sources.lock()
            && let Some(source) = sources.get_mut(number)
        {
            change(source);
        }
    }
}
