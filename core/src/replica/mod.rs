//! One partition's replication as Kafka does it, with one difference: ends count once they are on
//! flash.
//!
//! [`Leader`] and [`Follower`] are values that hold no log, no clock and no connection. Their owner
//! tells them where the log stands ([`LogState`]), asks its log where epochs end, performs the
//! steps, and carries what gateways say to each other:
//!
//! | from | what | to | answered by |
//! |---|---|---|---|
//! | follower | [`Fetch`]: log end, durable end, last epoch | leader | [`Answer`] |
//! | who has lost something | [`RangeFetch`]: these offsets | any other replica | [`RangeAnswer`] |
//! | leader | [`IsrWish`]: who should be in sync | controller | the new state, or a refusal |
//! | controller | [`PartitionState`](crate::metadata::PartitionState) | all | |
//!
//! The high watermark is the least *durable* end over the maximal in-sync set: the committed one
//! united with everyone who may be in it by now because the leader asked for it. So whoever the
//! controller takes from the in-sync set as the next leader has everything that was committed, also
//! after a power cut of all at once.
//!
//! Rules that the owner has to keep:
//!
//! - A gateway that starts anew is a new incarnation with a new broker epoch (KIP-903). It neither
//!   leads nor fetches before the controller has registered it, and it never leads in an epoch that
//!   it led before: followers may have what its log has lost.
//! - The controller raises the partition epoch with every wish that it grants, also when the set
//!   stays as it was: what was wished for under the older partition epoch cannot happen any more.
//! - Consumers see the high watermark of a new leader once [`Leader::is_settled`] (KIP-207).
//!
//! Why durable ends (2026-11): Kafka counts what a follower has fetched, which a power cut of the
//! whole site takes back. Followers report again when their flush is done instead of waiting with
//! the next fetch for it, so that the leader's flush and theirs go on at the same time.

mod follower;
mod leader;
mod mender;
mod remote;

pub use follower::{Follower, FollowerSettings, Step};
pub use leader::{Decided, FollowerStatus, Leader, LeaderSettings, Verdict};
pub use mender::{Mender, Next, Unfit, check_range};

use crate::error::ErrorCode;
use crate::types::{LeaderEpoch, NodeId, Offset};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Where a partition's log stands on one gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogState {
    pub start: Offset,
    pub end: Offset,
    /// What is below is on flash: what a power cut now leaves at least. At most `end`. A truncation
    /// takes it back at once. When the log has begun anew ([`Step::RestartAt`]), nothing is durable
    /// before that itself is on flash: a cut would bring the old log back, which may lack records
    /// or have others in their place. So until then this is the old log's start, below `start`.
    pub durable: Offset,
    /// The epoch of the last record. `None` in a log that never had one.
    pub last_epoch: Option<LeaderEpoch>,
}

/// A follower's request. It carries what Kafka's `Fetch` does, and the durable end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fetch {
    /// The epoch that the follower follows (KIP-320).
    pub leader_epoch: LeaderEpoch,
    /// The follower's incarnation (KIP-903).
    pub broker_epoch: i64,
    /// Rises with each fetch of an incarnation, so that a late one is told from a shorter log.
    pub sequence: u64,
    /// The follower's log end.
    pub fetch_offset: Offset,
    pub durable_offset: Offset,
    /// The epoch of the follower's last record (KIP-279).
    pub last_epoch: Option<LeaderEpoch>,
    /// The leader's high watermark as the follower knows it: an answer is due when it has moved.
    pub high_watermark: Offset,
}

/// What a leader says to a [`Fetch`]. The batches themselves travel beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Answer {
    pub leader_epoch: LeaderEpoch,
    /// Of the fetch that is answered.
    pub sequence: u64,
    pub log_start: Offset,
    pub high_watermark: Offset,
    pub content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Content {
    /// Batches that begin at `from`, the fetch offset; zero bytes when there is nothing new.
    Batches { from: Offset, bytes: u64 },
    /// The logs part ways at or below `end`, where the leader's last epoch up to the follower's
    /// last one ends.
    Diverging { epoch: LeaderEpoch, end: Offset },
    /// The leader has nothing that could follow what the follower has.
    OutOfRange,
    /// One of Kafka's error codes.
    Refused(i16),
}

/// A request for offsets that a replica has lost to damage. Both sides are of one leader epoch, in
/// which their logs are known to be a beginning of the leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RangeFetch {
    pub leader_epoch: LeaderEpoch,
    /// Of this request, among those of a connection.
    pub sequence: u64,
    /// Where a batch begins that is lost, and where one begins that is not.
    pub from: Offset,
    pub until: Offset,
}

/// What another replica says to a [`RangeFetch`]. The batches travel beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RangeAnswer {
    pub leader_epoch: LeaderEpoch,
    pub sequence: u64,
    pub content: RangeContent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RangeContent {
    /// All batches below `until`; offsets that are in none have no records any more.
    Batches { until: Offset },
    /// It is lost there, too, or not held, up to there.
    Lost { until: Offset },
    /// One of Kafka's error codes.
    Refused(i16),
}

impl Content {
    pub fn refused(code: ErrorCode) -> Content {
        Content::Refused(code.0)
    }
}

/// A member of an in-sync set, and the incarnation that the leader means (KIP-903).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IsrMember {
    pub node: NodeId,
    /// -1: the leader has not heard of it in this epoch, and does not judge.
    pub broker_epoch: i64,
}

/// What a leader asks of the controller, Kafka's `AlterPartition`. A controller refuses it unless
/// both epochs are the current ones and no member is fenced, draining or another incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IsrWish {
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: i32,
    pub isr: Vec<IsrMember>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
