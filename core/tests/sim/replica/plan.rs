//! What a run of replicas is like. All of it follows from the seed.

use weir_core::rng::Rng;

/// Bugs of replication, played by the gateways' driver at the borders of the core. Each must be
/// found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bug {
    #[default]
    None,
    /// A new follower drops what is above its high watermark, and compares no epochs: Kafka before
    /// KIP-101.
    TruncateByHighWatermark,
    /// Fetches do not carry the epoch of the last record: Kafka before KIP-279.
    NoEpochInFetch,
    /// Fetches and answers of another leader epoch are taken: Kafka before KIP-320.
    NoFencing,
    /// The leader counts what it has not flushed.
    AcknowledgeBeforeFlush,
    /// The leader counts what followers have not flushed, as Kafka does.
    UndurableEnds,
    /// The in-sync set is joined by whoever fetches.
    ExpandTooEarly,
    /// The in-sync set is joined with the high watermark on flash, though the epoch's start is not:
    /// Kafka before KAFKA-7128.
    EpochStartIgnored,
    /// The high watermark is the least end of the committed in-sync set only.
    NoMaximalSet,
    /// Offsets of a new leader are told before its epoch's start is committed: Kafka before
    /// KIP-207.
    TellUnsettled,
    /// Consumers read up to the log's end.
    ServeUncommitted,
    /// A leader that comes back soon goes on in its epoch.
    LeadOnAfterCut,
    /// The controller takes the word of whoever comes back from a cut for what it has.
    TrustAfterCut,
    /// Wishes never reach the controller.
    LoseWishes,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub replicas: i32,
    pub min_insync: usize,
    /// Gateways, from the first on, whose flushes say "done" and are not.
    pub liars: i32,
    pub session_ms: u64,
    pub lag_ms: u64,
    /// How long the phase with faults is.
    pub faults_ms: u64,
    /// The mean time between two faults, and between two records.
    pub fault_every_ms: u64,
    pub produce_every_ms: u64,
    pub flush_us: u64,
    pub delay_us: u64,
    /// Of a hundred messages.
    pub loss: u64,
    pub duplication: u64,
    /// Of a thousand messages, those that come seconds later.
    pub late: u64,
    pub bug: Bug,
}

impl Plan {
    pub fn random(rng: &mut Rng) -> Plan {
        let replicas = 3 + rng.below(3) as i32;
        let min_insync = 1 + rng.below(replicas as u64 / 2 + 1) as usize;
        // A record that is committed is on one honest gateway's flash at least.
        let liars = if rng.percent(40) { rng.below(min_insync as u64) as i32 } else { 0 };
        Plan {
            replicas,
            min_insync,
            liars,
            session_ms: 300 + rng.below(700),
            lag_ms: 500 + rng.below(1_500),
            faults_ms: 15_000,
            fault_every_ms: [100, 300, 1_000][rng.below(3) as usize],
            produce_every_ms: [20, 60, 200][rng.below(3) as usize],
            flush_us: [500, 5_000, 40_000][rng.below(3) as usize],
            delay_us: [500, 5_000, 50_000][rng.below(3) as usize],
            loss: [0, 3, 30][rng.below(3) as usize],
            duplication: [0, 5, 50][rng.below(3) as usize],
            late: [0, 10, 50][rng.below(3) as usize],
            bug: Bug::None,
        }
    }
}
