//! What a run of the quorum is like. All of it follows from the seed.

use weir_core::rng::Rng;

#[derive(Clone, Debug)]
pub struct Plan {
    pub nodes: usize,
    /// Of the nodes, those in the configured list.
    pub voters: usize,
    /// The first node brings entries of a time without quorum.
    pub old_entries: usize,
    pub chaos_ms: u64,
    /// Of a hundred messages.
    pub loss: u64,
    pub duplication: u64,
    /// Messages take up to so long; few take up to `delay_rare_us`.
    pub delay_us: u64,
    pub delay_rare_us: u64,
    pub flush_us: u64,
    /// Between two faults at most.
    pub fault_ms: u64,
    pub partitions: bool,
    pub crashes: bool,
    /// Of a hundred votes, those behind which the voter reboots at once.
    pub vote_reboots: u64,
    pub pauses: bool,
    pub wipes: bool,
    pub changes: bool,
    /// Between two proposals at most.
    pub propose_ms: u64,
    pub payload_bytes_max: u64,
    /// Entries between two snapshots, and how large a snapshot is at most.
    pub snapshot_entries: u64,
    pub snapshot_bytes_max: u64,
    pub bug: Bug,
}

/// Bugs that the simulator can play at the borders of the core. Each must be found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bug {
    #[default]
    None,
    /// A store keeps a ballot's term and loses its vote.
    VoteNotFlushed,
    /// A store keeps no term but that of its entries.
    TermNotFlushed,
    /// Entries are said to be durable when they are handed over.
    EntriesNotFlushed,
    /// Everything is said to be durable when it is handed over, so messages leave too early.
    SendBeforePersist,
    /// A node that asks whether it could win is told so by everybody.
    NoPreVote,
    /// A store that was wiped comes back under the directory id that it had.
    WipedVoterVotes,
}

impl Plan {
    pub fn random(rng: &mut Rng) -> Plan {
        let nodes: usize = [1, 2, 3, 3, 3, 4, 5, 5, 6, 7][rng.below(10) as usize];
        let spare = if nodes > 3 { rng.below(nodes as u64 - 2) as usize } else { 0 };
        let mut sometimes = |percent: u64, most: u64| match rng.percent(percent) {
            true => rng.below(most + 1),
            false => 0,
        };
        let (loss, duplication) = (sometimes(50, 30), sometimes(50, 50));
        let old_entries = sometimes(20, 40) as usize;
        Plan {
            nodes,
            voters: nodes - spare,
            old_entries,
            chaos_ms: 10_000 + rng.below(40_000),
            loss,
            duplication,
            delay_us: [1_000, 5_000, 50_000][rng.below(3) as usize],
            delay_rare_us: [20_000, 300_000, 3_000_000][rng.below(3) as usize],
            flush_us: [500, 5_000, 50_000][rng.below(3) as usize],
            fault_ms: [500, 2_000, 8_000][rng.below(3) as usize],
            partitions: rng.percent(70),
            crashes: rng.percent(80),
            vote_reboots: [0, 10, 50][rng.below(3) as usize],
            pauses: rng.percent(30),
            wipes: rng.percent(40),
            changes: rng.percent(60),
            propose_ms: [20, 100, 1_000][rng.below(3) as usize],
            payload_bytes_max: [20, 500, 50_000][rng.below(3) as usize],
            snapshot_entries: [5, 30, 1_000][rng.below(3) as usize],
            snapshot_bytes_max: [50, 5_000, 900_000][rng.below(3) as usize],
            bug: Bug::None,
        }
    }
}
