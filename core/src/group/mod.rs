//! Consumer groups, the classic protocol: members, generations, assignments, committed offsets.
//!
//! [`Groups`] is a value without input or output. What must survive are records of the topic
//! `__consumer_offsets` with Kafka's own bytes; who is a member and when it must be heard of is live
//! state, which a restart builds anew from the last assignment.
//!
//! How a node uses it:
//!
//! - At the start: [`Groups::apply`] for each record of the topic in order, then [`Groups::loaded`], then
//!   [`Groups::forget_deleted_topics`]. Only then requests are handed in.
//! - A request is one call. Those that need no flash answer at once; the others take a [`Ticket`] and are
//!   answered by [`Output::Answer`], maybe in the same moment, maybe after minutes (a join waits for the
//!   other members). A ticket whose client is gone is simply not answered any more.
//! - After every call, [`Groups::poll`] until `None`. An [`Output::Append`] is one batch for the internal
//!   topic: append it in the order of the outputs, and call [`Groups::durable`] in that same order when it
//!   is on flash, or [`Groups::refused`] at once when the log did not take it.
//! - At [`Groups::deadline`], `poll` again: it fires the timers that are due.
//! - From time to time: [`Groups::expire_offsets`]; after topics were deleted
//!   [`Groups::forget_deleted_topics`]. When the topic has grown long: append all of
//!   [`Groups::live_records`] at once, and trim what is before when that is on flash.
//!
//! Source: Apache Kafka 4.3's group coordinator, of which this keeps the rules and the error codes.
//! Does not know KIP-848 groups. Does not write a record when a group is first heard of, as Kafka does for
//! its own snapshots' sake: a group without assignment and offsets has nothing to survive.

use crate::bytes::Malformed;
use crate::error::ErrorCode;
use crate::types::{Time, TopicId, WallTime};
use crate::wire::AnyResponse;
use crate::wire::group::*;
use crate::wire::offsets::*;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// A request that is answered later. The node gives the number and knows what it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One batch that the node was asked to append; ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppendToken(pub u64);

/// A record of `__consumer_offsets`; without value it is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// What the node has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Append these records as one batch, then call [`Groups::durable`] or [`Groups::refused`].
    Append {
        token: AppendToken,
        records: Vec<Record>,
    },
    Answer {
        ticket: Ticket,
        response: AnyResponse,
    },
}

/// Who asks, as far as groups tell others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    pub api_version: i16,
    pub client_id: String,
    /// As Kafka writes it: `/192.168.1.7`.
    pub client_host: String,
}

/// A topic that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownTopic<'a> {
    pub name: &'a str,
    pub id: TopicId,
    pub partitions: i32,
}

/// Which topics exist: the cluster's image, or a test's model.
pub trait Topics {
    fn by_name(&self, name: &str) -> Option<KnownTopic<'_>>;
    fn by_id(&self, id: TopicId) -> Option<KnownTopic<'_>>;
}

/// Kafka's broker configs for groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `group.initial.rebalance.delay.ms`: how long the first member of an empty group waits for others.
    pub initial_rebalance_delay_ms: u32,
    /// `group.min.session.timeout.ms` and `group.max.session.timeout.ms`.
    pub session_timeout_ms_min: i32,
    pub session_timeout_ms_max: i32,
    /// `offsets.retention.minutes`, in milliseconds: of a group that is empty, or of single offsets.
    pub offsets_retention_ms: i64,
}

impl Default for Settings {
    /// Kafka's, but for the delay: 3 seconds there save rebalances when hundreds of members start
    /// together. At a gateway it is two or three, and somebody looks at `kcat -G`; 200 ms still gather
    /// the services that one script starts.
    fn default() -> Settings {
        Settings {
            initial_rebalance_delay_ms: 200,
            session_timeout_ms_min: 6_000,
            session_timeout_ms_max: 1_800_000,
            offsets_retention_ms: 7 * 24 * 3_600_000,
        }
    }
}

/// All groups of a node.
#[derive(Clone, Debug)]
pub struct Groups {}

#[allow(unused_variables)]
impl Groups {
    /// `seed` makes member ids; it must differ from start to start.
    pub fn new(settings: Settings, seed: u64) -> Groups {
        unimplemented!()
    }

    /// Takes a record of the internal topic at the start. A malformed one changes nothing.
    pub fn apply(&mut self, record: &Record) -> Result<(), Malformed> {
        unimplemented!()
    }

    /// The last record was applied: members' sessions begin now, in the generation that they had.
    pub fn loaded(&mut self, now: Time) {
        unimplemented!()
    }

    /// What the wall clock says, or `None` while it is not trusted: commits then have no time, and
    /// nothing expires.
    pub fn set_wall_clock(&mut self, now: Time, wall: Option<WallTime>) {
        unimplemented!()
    }

    pub fn join(&mut self, now: Time, caller: &Caller, request: JoinGroupRequest, ticket: Ticket) {
        unimplemented!()
    }

    pub fn sync(&mut self, now: Time, request: SyncGroupRequest, ticket: Ticket) {
        unimplemented!()
    }

    pub fn heartbeat(&mut self, now: Time, request: &HeartbeatRequest) -> HeartbeatResponse {
        unimplemented!()
    }

    /// `api_version` 0 to 2 name one member, and its error is the response's.
    pub fn leave(
        &mut self,
        now: Time,
        api_version: i16,
        request: LeaveGroupRequest,
    ) -> LeaveGroupResponse {
        unimplemented!()
    }

    pub fn commit_offsets(
        &mut self,
        now: Time,
        api_version: i16,
        request: OffsetCommitRequest,
        topics: &impl Topics,
        ticket: Ticket,
    ) {
        unimplemented!()
    }

    /// Answers in the shape of `api_version`: one group up to 7, several from 8, topic ids from 10.
    /// Tells durable offsets only, so that none ever goes back.
    pub fn fetch_offsets(
        &self,
        api_version: i16,
        request: &OffsetFetchRequest,
        topics: &impl Topics,
    ) -> OffsetFetchResponse {
        unimplemented!()
    }

    pub fn delete_offsets(
        &mut self,
        now: Time,
        request: &OffsetDeleteRequest,
        topics: &impl Topics,
        ticket: Ticket,
    ) {
        unimplemented!()
    }

    pub fn list(&self, request: &ListGroupsRequest) -> ListGroupsResponse {
        unimplemented!()
    }

    pub fn describe(
        &self,
        api_version: i16,
        request: &DescribeGroupsRequest,
    ) -> DescribeGroupsResponse {
        unimplemented!()
    }

    pub fn delete(&mut self, now: Time, request: &DeleteGroupsRequest, ticket: Ticket) {
        unimplemented!()
    }

    /// Removes what is older than the retention, and groups that hold nothing any more.
    pub fn expire_offsets(&mut self, now: Time) {
        unimplemented!()
    }

    /// Removes the offsets of topics that do not exist any more, or anew under another id.
    pub fn forget_deleted_topics(&mut self, now: Time, topics: &impl Topics) {
        unimplemented!()
    }

    pub fn poll(&mut self, now: Time) -> Option<Output> {
        unimplemented!()
    }

    /// A batch is on flash. Batches become durable in the order in which they were asked for.
    pub fn durable(&mut self, now: Time, token: AppendToken) {
        unimplemented!()
    }

    /// A batch was not appended and never will be; `code` is what the waiting clients are told.
    pub fn refused(&mut self, now: Time, token: AppendToken, code: ErrorCode) {
        unimplemented!()
    }

    pub fn deadline(&self) -> Option<Time> {
        unimplemented!()
    }

    /// Everything that must survive, as it will be when all batches that were polled are durable: a
    /// topic that holds just these records, and what is polled later, loads to the same groups.
    pub fn live_records(&self) -> Vec<Record> {
        unimplemented!()
    }
}
