//! What the owner of the log decides about a partition: how long its records are kept, how they go,
//! and in which lane they stand.

use crate::batch::Codec;

/// Where a frame goes: partitions whose data dies together share a lane, so that slots become free
/// whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Records that expire within [`Lane::SHORT_MS_MAX`].
    Short = 0,
    /// Records that are kept longer.
    Long = 1,
    /// Compacted topics, what survived the cleaning of any slot, and records that expire within
    /// [`Lane::MEDIUM_MS_MAX`]: beside those of a week they would leave slots half dead.
    Compacted = 2,
    /// The node's own records, and checkpoints. Appends to it may use the slots that are kept back
    /// from user data.
    Meta = 3,
}

impl Lane {
    pub(crate) const ALL: [Lane; 4] = [Lane::Short, Lane::Long, Lane::Compacted, Lane::Meta];
    /// The longest `retention.ms` of the short lane: six hours.
    pub const SHORT_MS_MAX: i64 = 6 * 3_600_000;
    /// The longest `retention.ms` of the lane of survivors: two days.
    pub const MEDIUM_MS_MAX: i64 = 48 * 3_600_000;

    /// The lane of a topic of users.
    pub fn of_policy(retention: Retention, cleanup: Cleanup) -> Lane {
        let within = |ms_max| cleanup.delete && (0..=ms_max).contains(&retention.ms);
        match cleanup.compact {
            Some(_) => Lane::Compacted,
            None if within(Lane::SHORT_MS_MAX) => Lane::Short,
            None if within(Lane::MEDIUM_MS_MAX) => Lane::Compacted,
            None => Lane::Long,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Lane::Short => "short",
            Lane::Long => "long",
            Lane::Compacted => "compacted",
            Lane::Meta => "meta",
        }
    }

    pub(crate) fn of(byte: u8) -> Option<Lane> {
        Lane::ALL.into_iter().find(|&lane| lane as u8 == byte)
    }

    /// The lane of a byte that was looked at when it was read.
    pub(crate) fn checked(byte: u8) -> Lane {
        Lane::of(byte).expect("what names another lane is not taken from flash")
    }
}

/// How long a partition's records are kept: Kafka's `retention.ms` and `retention.bytes`; -1 is for
/// ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub ms: i64,
    pub bytes: i64,
    /// Whether records may be expired before their time when the disk budget runs out.
    pub yields_to_pressure: bool,
}

impl Retention {
    pub const FOR_EVER: Retention = Retention { ms: -1, bytes: -1, yields_to_pressure: false };
}

/// How a partition's old records go: Kafka's `cleanup.policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// `delete`: by retention.
    pub delete: bool,
    /// `compact`: when a later record has the same key.
    pub compact: Option<Compaction>,
}

impl Cleanup {
    pub const DELETE: Cleanup = Cleanup { delete: true, compact: None };
}

/// How a compacted partition is compacted, by its topic's configs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// `min.cleanable.dirty.ratio`, in thousandths.
    pub dirty_ratio_per_mille: u32,
    /// `max.compaction.lag.ms`: the longest that a record waits.
    pub max_lag_ms: i64,
    /// `min.compaction.lag.ms`: younger records are left alone.
    pub min_lag_ms: i64,
    /// `delete.retention.ms`: how long a tombstone stays.
    pub delete_retention_ms: i64,
    /// `compression.type`; `None`: as the producer compressed it.
    pub codec: Option<Codec>,
}

/// What the owner of the log decides about a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Where new records go. Records that stand in another lane stay there.
    pub lane: Lane,
    pub retention: Retention,
    pub cleanup: Cleanup,
}

impl Policy {
    /// The policy of a topic of users: the lane follows from the rest.
    pub fn new(retention: Retention, cleanup: Cleanup) -> Policy {
        Policy { lane: Lane::of_policy(retention, cleanup), retention, cleanup }
    }

    /// The policy of the node's own partitions, and of a partition found at a start until its
    /// policy is known: nothing expires.
    pub const fn for_ever(lane: Lane) -> Policy {
        let cleanup = Cleanup { delete: false, compact: None };
        Policy { lane, retention: Retention::FOR_EVER, cleanup }
    }
}
