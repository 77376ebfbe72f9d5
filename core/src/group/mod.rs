//! Consumer groups, the classic protocol: members, generations, assignments, committed offsets.
//!
//! [`Groups`] is a value without input or output. What must survive are records of the topic
//! `__consumer_offsets` with Kafka's own bytes; who is a member and when it must be heard of is
//! live state, which a restart builds anew from the last assignment.
//!
//! How a node uses it:
//!
//! - When the gateway leads the partition of the groups, [`Coordinator`]: [`Groups::apply`] for
//!   each of its records in order, then [`Groups::loaded`], then
//!   [`Groups::forget_deleted_topics`]. Only then requests are handed in.
//! - A request is one call. Those that need no flash answer at once; the others take a [`Ticket`]
//!   and are answered by [`Output::Answer`], maybe in the same moment, maybe after minutes (a join
//!   waits for the other members). A ticket whose client is gone is simply not answered any more.
//! - After every call, [`Groups::poll`] until `None`. An [`Output::Append`] is one batch for the
//!   groups' partition: append it in the order of the outputs, and call [`Groups::durable`] in
//!   that same order when it is on all replicas, or [`Groups::refused`] at once when the log did
//!   not take it.
//! - At [`Groups::deadline`], `poll` again: it fires the timers that are due.
//! - From time to time: [`Groups::expire_offsets`]; after topics were deleted
//!   [`Groups::forget_deleted_topics`]. That the topic does not grow is the matter of key
//!   compaction: each record has a key, and what is gone gets a tombstone.
//!
//! Source: Apache Kafka 4.3's group coordinator, of which this keeps the rules and the error codes.
//! Does not know KIP-848 groups. Does not write a record when a group is first heard of, as Kafka
//! does for its own snapshots' sake: a group without assignment and offsets has nothing to survive.

mod coordinator;
mod join;
mod offsets;
mod outbox;
mod records;
mod refusal;
mod requests;
mod state;
mod sync;
#[cfg(test)]
mod tests;
mod tools;

use crate::bytes::Malformed;
use crate::error::ErrorCode;
use crate::rng::Rng;
use crate::types::{Time, TopicId, WallTime};
use crate::wire::AnyResponse;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use outbox::{Context, InFlight, Outbox, Then};
use records::Fact;
use state::{Group, join_error};

pub use coordinator::{Coordinator, batch_of, partition_of};
pub use refusal::{refusal, unfetched};
pub use state::State;
pub use tools::{GROUPS_FROM, GroupView};

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
    /// `group.initial.rebalance.delay.ms`: how long the first member of an empty group waits for
    /// others.
    pub initial_rebalance_delay_ms: u32,
    /// `group.min.session.timeout.ms` and `group.max.session.timeout.ms`.
    pub session_timeout_ms_min: i32,
    pub session_timeout_ms_max: i32,
    /// `offsets.retention.minutes`, in milliseconds: of a group that is empty, or of single
    /// offsets.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`: how often anything expires at most. An empty group
    /// without offsets goes then, too.
    pub offsets_retention_check_interval_ms: u64,
}

impl Default for Settings {
    /// Kafka's, but for the delay: 3 seconds there save rebalances when hundreds of members start
    /// together. At a gateway it is two or three, and somebody looks at `kcat -G`; 200 ms still
    /// gather the services that one script starts.
    fn default() -> Settings {
        Settings {
            initial_rebalance_delay_ms: 200,
            session_timeout_ms_min: 6_000,
            session_timeout_ms_max: 1_800_000,
            offsets_retention_ms: 7 * 24 * 3_600_000,
            offsets_retention_check_interval_ms: 600_000,
        }
    }
}

/// What groups take of what a node has for all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub groups: usize,
    pub members_bytes: usize,
    pub offsets: usize,
}

impl core::ops::Add for Usage {
    type Output = Usage;

    fn add(self, other: Usage) -> Usage {
        Usage {
            groups: self.groups + other.groups,
            members_bytes: self.members_bytes + other.members_bytes,
            offsets: self.offsets + other.offsets,
        }
    }
}

/// The groups of one partition of `__consumer_offsets`.
#[derive(Clone, Debug)]
pub struct Groups {
    settings: Settings,
    rng: Rng,
    groups: BTreeMap<String, Group>,
    /// Committed offsets of all groups.
    offsets_count: usize,
    /// What the groups of other partitions take.
    elsewhere: Usage,
    clock: Option<Clock>,
    /// Nothing expires before this.
    expiry_due: Time,
    outbox: Outbox,
}

/// A wall clock that is trusted.
#[derive(Clone, Copy, Debug)]
struct Clock {
    wall_ms: i64,
    at: Time,
    /// The first that it said: what has no date counts from then.
    first_ms: i64,
}

impl Groups {
    /// `seed` makes member ids; it must differ from start to start.
    pub fn new(settings: Settings, seed: u64) -> Groups {
        Groups {
            settings,
            rng: Rng::new(seed),
            groups: BTreeMap::new(),
            offsets_count: 0,
            elsewhere: Usage::default(),
            clock: None,
            expiry_due: Time::ZERO,
            outbox: Outbox::default(),
        }
    }

    /// Takes a record of the internal topic at the start. A malformed one changes nothing.
    pub fn apply(&mut self, record: &Record) -> Result<(), Malformed> {
        let fact = Fact::decode(record)?;
        if let Fact::Group { group, record: Some((_, value)) } = &fact {
            self.group_or_new(group).restore(value.clone());
        }
        self.keep(fact);
        Ok(())
    }

    /// The last record was applied: members' sessions begin now, in the generation that they had.
    pub fn loaded(&mut self, now: Time) {
        let wall_ms = self.wall_ms(now);
        let (settings, outbox) = (&self.settings, &mut self.outbox);
        let mut cx = Context { now, wall_ms, settings, outbox };
        self.expiry_due = now.plus_ms(settings.offsets_retention_check_interval_ms);
        for group in self.groups.values_mut() {
            group.members.values_mut().for_each(|member| member.heard_of(&mut cx));
            group.measure();
        }
    }

    /// What the wall clock says, or `None` while it is not trusted: commits then have no time, and
    /// nothing expires.
    pub fn set_wall_clock(&mut self, now: Time, wall: Option<WallTime>) {
        let first_ms = self.clock.map(|clock| clock.first_ms);
        self.clock = wall.map(|WallTime(wall_ms)| Clock {
            wall_ms,
            at: now,
            first_ms: first_ms.unwrap_or(wall_ms),
        });
    }

    /// What these groups take.
    pub fn usage(&self) -> Usage {
        Usage {
            groups: self.groups.len(),
            members_bytes: self.groups.values().map(|group| group.members_bytes).sum(),
            offsets: self.offsets_count,
        }
    }

    /// What the groups of other partitions take: together with these they keep the limits.
    pub fn set_elsewhere(&mut self, usage: Usage) {
        self.elsewhere = usage;
    }

    /// Another gateway has these groups now: what whoever waits is told.
    pub fn resign(mut self, now: Time) -> Vec<(Ticket, AnyResponse)> {
        let (code, wall_ms) = (ErrorCode::NOT_COORDINATOR, self.wall_ms(now));
        let (settings, outbox) = (&self.settings, &mut self.outbox);
        let mut cx = Context { now, wall_ms, settings, outbox };
        for group in self.groups.values() {
            group.members.iter().for_each(|(id, member)| member.turn_away(&mut cx, id, code));
        }
        self.outbox.resign(code)
    }

    /// Removes what is older than the retention, and groups that hold nothing any more, when it is
    /// time to look.
    pub fn expire_offsets(&mut self, now: Time) {
        let Some(Clock { first_ms, .. }) = self.clock.filter(|_| now >= self.expiry_due) else {
            return;
        };
        self.expiry_due = now.plus_ms(self.settings.offsets_retention_check_interval_ms);
        let (now_ms, retention_ms) = (self.wall_ms(now), self.settings.offsets_retention_ms);
        let mut records = Vec::new();
        for group in self.groups.values() {
            let expired = group.expired(now_ms, retention_ms, first_ms);
            let is_bare = group.state == State::Empty && group.pending.is_empty();
            if is_bare && expired.len() == group.all_offsets().count() {
                records.extend(group.tombstones());
            } else {
                records.extend(expired);
            }
        }
        if !records.is_empty() {
            self.outbox.append(records, Then::Nothing);
        }
    }

    /// Removes the offsets of topics that do not exist any more, or anew under another id.
    pub fn forget_deleted_topics(&mut self, topics: &impl Topics) {
        let orphans = self.groups.values().flat_map(|group| group.orphaned(topics));
        let records: Vec<Record> = orphans.collect();
        if !records.is_empty() {
            self.outbox.append(records, Then::Nothing);
        }
    }

    /// What to do next, until `None`. Fires the timers that are due.
    pub fn poll(&mut self, now: Time) -> Option<Output> {
        if self.outbox.wake().is_some_and(|wake| wake <= now) {
            self.fire_timers(now);
        }
        self.outbox.poll()
    }

    fn fire_timers(&mut self, now: Time) {
        let wall_ms = self.wall_ms(now);
        // Firing may set new timers, and all are among what is returned.
        self.outbox.set_wake(None);
        let mut next = None;
        for group in self.groups.values_mut() {
            let (settings, outbox) = (&self.settings, &mut self.outbox);
            let wake = group.fire_timers(&mut Context { now, wall_ms, settings, outbox });
            next = [next, wake].into_iter().flatten().min();
        }
        self.outbox.set_wake(next);
        self.groups.retain(|_, group| !group.is_forgettable());
    }

    /// When [`Groups::poll`] has something to do though nothing happened.
    pub fn deadline(&self) -> Option<Time> {
        self.outbox.wake()
    }

    /// A batch is on flash. Batches become durable in the order in which they were asked for.
    pub fn durable(&mut self, now: Time, token: AppendToken) {
        let InFlight { records, then, .. } = self.outbox.take_oldest(token);
        for record in &records {
            self.keep(Fact::decode(record).expect("our own records are well-formed"));
        }
        match then {
            Then::Nothing => {}
            Then::Answer { ticket, response } => self.outbox.answer(ticket, response),
            Then::Assign { group, generation, assignments } => {
                self.with_group(now, &group, |group, cx| {
                    if group.state == State::CompletingRebalance && group.generation == generation {
                        group.assigned(cx, assignments);
                    }
                });
            }
            Then::Rejoin { group, generation, member, ticket, leader } => {
                self.with_group(now, &group, |group, cx| {
                    if group.generation == generation {
                        group.static_kept(cx, &member, ticket, leader.unwrap_or_default());
                    }
                });
            }
        }
    }

    /// A batch was not appended and never will be; `code` is what the waiting clients are told.
    pub fn refused(&mut self, now: Time, token: AppendToken, code: ErrorCode) {
        let Some(InFlight { then, .. }) = self.outbox.take(token) else { return };
        let code = outbox::member_code(code);
        match then {
            Then::Nothing => {}
            Then::Answer { ticket, mut response } => {
                outbox::fail(&mut response, code);
                self.outbox.answer(ticket, response);
            }
            Then::Assign { group, generation, .. } => {
                self.with_group(now, &group, |group, cx| {
                    if group.state == State::CompletingRebalance && group.generation == generation {
                        group.assignment_refused(cx, code);
                    }
                });
            }
            Then::Rejoin { group, member, ticket, .. } => {
                self.with_group(now, &group, |group, cx| {
                    let waiting = group.members.get(&member).map(|m| m.awaiting_join);
                    if waiting == Some(Some(ticket)) {
                        group.answer_join(cx, &member, join_error("", code));
                    }
                });
            }
        }
    }

    /// Everything that must survive, as it will be when all batches that were polled are durable: a
    /// topic that holds just these records, and what is polled later, loads to the same groups.
    #[cfg(test)]
    pub(crate) fn live_records(&self) -> Vec<Record> {
        let overlay = self.outbox.overlay();
        let mut live = Vec::new();
        for group in self.groups.values() {
            if let Some(value) = &group.record {
                let value = Some(value.clone());
                live.push(Record { key: records::group_key(&group.id), value });
            }
            live.extend(group.all_offsets().map(|(topic, partition, committed)| {
                records::offset(&group.id, topic, partition, committed)
            }));
        }
        live.retain(|record| !overlay.contains_key(&record.key));
        let newer = overlay.into_iter().filter(|(_, value)| value.is_some());
        live.extend(newer.map(|(key, value)| Record { key, value }));
        live
    }

    /// Takes what is on flash.
    fn keep(&mut self, fact: Fact) {
        match fact {
            Fact::Offset { key, committed: Some(committed) } => {
                let offsets = &mut self.group_or_new(&key.group).offsets;
                let partitions = offsets.entry(key.topic).or_default();
                let is_new = partitions.insert(key.partition, committed).is_none();
                self.offsets_count += usize::from(is_new);
            }
            Fact::Offset { key, committed: None } => {
                let Some(group) = self.groups.get_mut(&key.group) else { return };
                let Some(partitions) = group.offsets.get_mut(&key.topic) else { return };
                self.offsets_count -= usize::from(partitions.remove(&key.partition).is_some());
                if partitions.is_empty() {
                    group.offsets.remove(&key.topic);
                }
                self.forget_if_bare(&key.group);
            }
            Fact::Group { group, record: Some((value, _)) } => {
                self.group_or_new(&group).record = Some(value);
            }
            Fact::Group { group, record: None } => {
                let Some(kept) = self.groups.get_mut(&group) else { return };
                kept.record = None;
                self.forget_if_bare(&group);
            }
            Fact::Unknown => {}
        }
    }

    fn group_or_new(&mut self, id: &str) -> &mut Group {
        self.groups.entry(id.into()).or_insert_with(|| Group::new(id.into()))
    }

    fn forget_if_bare(&mut self, id: &str) {
        if self.groups.get(id).is_some_and(Group::is_forgettable) {
            self.groups.remove(id);
        }
    }

    /// Lets a group take a step, if it is there.
    fn with_group<T>(
        &mut self,
        now: Time,
        id: &str,
        step: impl FnOnce(&mut Group, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let wall_ms = self.wall_ms(now);
        let group = self.groups.get_mut(id)?;
        let (settings, outbox) = (&self.settings, &mut self.outbox);
        Some(step(group, &mut Context { now, wall_ms, settings, outbox }))
    }

    /// Milliseconds since 1970, or -1 while the clock is not trusted.
    fn wall_ms(&self, now: Time) -> i64 {
        self.clock.map_or(-1, |clock| {
            let passed = now.since(clock.at).0 / 1_000_000;
            clock.wall_ms.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX))
        })
    }
}
