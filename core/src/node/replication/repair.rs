//! What is quarantined in the log of one gateway comes back from the others.
//!
//! | the gateway is | then |
//! |---|---|
//! | in sync, and somebody else is too | it asks to be taken out of the in-sync set |
//! | not in sync, and follows | it asks for what it has lost, and puts it in place |
//! | the only one in sync, and others may have it | the same; nobody reads past it meanwhile |
//! | the only one in sync, and nobody has it | it is left out |
//!
//! It leaves the in-sync set first, because whoever is in it counts as having everything; until
//! then nobody reads past what is missing here. From when it asks for that on, and while something
//! is missing, it reports less than the high watermark as durable, so that no leader takes it in,
//! and nobody has it lead.
//!
//! What is lost is a list of ranges. Where somebody merely could not read, the log finds out what
//! exactly that is first ([`crate::log::Log::probe`]). Each range is asked of the leader, then of
//! the other replicas, a part at a time ([`Mender`]), and counts as whole when it is durable. Both
//! sides are of the same leader epoch, in which their logs are known to be beginnings of the
//! leader's: so what one of them has at an offset is what the other had. Where the leader has
//! nothing, and where every replica has lost it, it is a hole. Replicas that are away may have it:
//! they are waited for, but not for ever.
//!
//! The whole partition is begun anew, and fetched, if
//!
//! - it is compacted: the leader may have a tombstone no more that a record here still needs;
//! - a gateway that is connected is of a release that knows no requests for ranges;
//! - what was sent does not fit what is lost here.
//!
//! Nobody begins anew who is eligible to lead.

use super::super::Node;
use super::super::site::{After, Ask};
use super::{Look, Role};
use crate::batch::{self, Header};
use crate::log::{PartitionView, ReplaceError, Replacement};
use crate::peer::Message;
use crate::replica::{Mender, Next, RangeAnswer, RangeContent, check_range};
use crate::types::{LeaderEpoch, Nanos, NodeId, Offset, PartitionNumber, Time};
use alloc::vec::Vec;
use bytes::Bytes;

/// How often damage is looked for, at most: by itself, since a gateway of a site wakes up for its
/// heartbeats, and when somebody could not read.
const LOOK_EVERY: Nanos = Nanos(1_000_000_000);
const LOOK_AGAIN: Nanos = Nanos(100_000_000);

/// Partitions that leave the in-sync set at the same time.
const LEFT_MAX: usize = 2;

/// How long a replica is waited for that is away and may have what all others have lost.
const AWAY_MAX: Nanos = Nanos(600_000_000_000);

/// What is being done about the damage of one partition.
#[derive(Debug)]
pub(super) struct Mending {
    pub mender: Mender,
    since: Time,
    /// Those that are away, or do not answer, were waited for long enough.
    pub gave_up: bool,
}

impl Mending {
    fn new(now: Time, epoch: LeaderEpoch) -> Mending {
        Mending { mender: Mender::new(epoch), since: now, gave_up: false }
    }
}

impl Look {
    pub fn next(&self) -> Time {
        let pause = if self.is_due { LOOK_AGAIN } else { LOOK_EVERY };
        self.last.map_or(Time::ZERO, |last| last + pause)
    }
}

impl Node {
    /// Looks for partitions with damage, now and then.
    pub(in crate::node) fn repair(&mut self, now: Time) {
        if now < self.replicas.look.next() {
            return;
        }
        self.replicas.look = Look { last: Some(now), is_due: false };
        let me = self.settings.node;
        let Some(own) = self.image.broker(me).filter(|own| !own.fenced) else { return };
        let (node, epoch) = (me, own.epoch);
        let damaged: Vec<PartitionNumber> = self.log.damaged().collect();
        let counts = |number: &PartitionNumber| {
            let state = self.image.state(*number);
            state.is_some_and(|state| state.is_in_sync(me) || state.elr.contains(&me))
        };
        let leaves = damaged.iter().copied().filter(counts);
        let leaves = leaves.filter(|number| self.replicas.is_elsewhere(*number));
        let leaves: Vec<PartitionNumber> = leaves.take(LEFT_MAX).collect();
        for number in leaves {
            self.replicas.leaving.insert(number);
            log::warn!("partition {}: damaged here; it is to come from another", number.0);
            self.ask(now, Ask::Lost { node, epoch, number }, After::Nothing);
        }
        for number in damaged {
            self.mend(now, number);
        }
    }

    /// Does what is due about what a partition has lost here, unless it is in sync with others.
    pub(in crate::node) fn mend(&mut self, now: Time, number: PartitionNumber) {
        let Some(view) = self.log.partition(number) else { return };
        if !view.is_damaged {
            self.replicas.menders.remove(&number);
            self.replicas.leaving.remove(&number);
            return self.replicas.mending.set(number, None);
        }
        let (suspect, rewriting) = (view.suspect, view.rewriting);
        let lost = lost(&view);
        if !self.may_mend(number) {
            return;
        }
        let sources = self.sources(number);
        let somebody = sources.iter().any(|(_, there)| *there);
        if somebody && !self.replicas.mends_ranges(number) {
            return self.refill(now, number);
        }
        let Some(epoch) = self.replicas.matched_epoch(number) else {
            // A leader without news would not answer.
            if let Some(following) = self.replicas.following(number) {
                following.follower.hurry();
            }
            return;
        };
        self.replicas.range_sequence += 1;
        let sequence = self.replicas.range_sequence;
        let mending = self.replicas.menders.entry(number);
        let mending = mending.or_insert_with(|| Mending::new(now, epoch));
        if mending.mender.epoch() != epoch {
            *mending = Mending::new(now, epoch);
        }
        mending.gave_up = now >= mending.since + AWAY_MAX;
        let sources: Vec<(NodeId, bool)> =
            sources.into_iter().filter(|(_, there)| *there || !mending.gave_up).collect();
        if suspect.is_some() {
            // What a card cannot read now it may find again: that is not given up for nothing.
            if somebody {
                self.log.probe(number);
            }
            return;
        }
        if rewriting || lost.is_empty() || sources.is_empty() {
            return;
        }
        let next = mending.mender.next(now, &lost, &sources, sequence);
        let due = match next {
            Next::Wait(until) => Some(until),
            Next::Ask(node, fetch) => {
                let due = mending.mender.deadline();
                let bytes = postcard::to_allocvec(&(number, fetch));
                let bytes = bytes.expect("a request has no type that postcard lacks");
                self.tell_peer(node, Message::RangeFetch(bytes.into()));
                due
            }
            Next::Nobody { from, until, unfit } => {
                self.on_nobody_has(now, number, (from, until), unfit);
                None
            }
            Next::Nowhere => Some(now + LOOK_EVERY),
        };
        self.replicas.mending.set(number, due);
    }

    /// Whether this gateway counts for nobody, or is the only one that does.
    fn may_mend(&self, number: PartitionNumber) -> bool {
        let me = self.settings.node;
        let Some(state) = self.image.state(number) else { return false };
        match self.replicas.by_number.get(&number).map(|replica| &replica.role) {
            Some(Role::Follows(_)) => !state.is_in_sync(me),
            Some(Role::Leads(leading)) => leading.leader.isr() == [me],
            Some(Role::Waits) | None => false,
        }
    }

    /// The other replicas, the leader first, and whether each can be asked.
    fn sources(&self, number: PartitionNumber) -> Vec<(NodeId, bool)> {
        let me = self.settings.node;
        let Some(state) = self.image.state(number) else { return Vec::new() };
        let others = state.replicas.iter().copied().filter(|node| Some(*node) != state.leader);
        let all = state.leader.into_iter().chain(others).filter(|node| *node != me);
        let is_there = |node: NodeId| {
            let lives = self.image.broker(node).is_some_and(|broker| !broker.fenced);
            (node, lives && self.site.is_connected(node))
        };
        all.map(is_there).collect()
    }

    /// Another replica has answered.
    pub(in crate::node) fn on_range_answer(
        &mut self,
        now: Time,
        from: NodeId,
        (number, answer): (PartitionNumber, RangeAnswer),
        records: Bytes,
    ) {
        let epoch = self.replicas.matched_epoch(number);
        let Some(mending) = self.replicas.menders.get_mut(&number) else { return };
        let same = answer.leader_epoch == mending.mender.epoch();
        let Some(asked) = mending.mender.answered(from, answer.sequence).filter(|_| same) else {
            return;
        };
        if epoch == Some(answer.leader_epoch) {
            match answer.content {
                RangeContent::Batches { until } => match check_range(&asked, until, records) {
                    Ok(batches) => {
                        if self.put_in_place(now, number, (asked.from, until), batches) {
                            let (number, last) = (number.0, until.plus(-1));
                            let from = asked.from;
                            log::info!("partition {number}: offsets {from} to {last} come back");
                            self.replicas.repairs += 1;
                        }
                    }
                    Err(unfit) => {
                        let (gateway, number) = (from.0, number.0);
                        log::error!(
                            "gateway {gateway} was asked for offsets {} to {} of partition \
                             {number}: {unfit}",
                            asked.from,
                            asked.until.plus(-1)
                        );
                        mending.mender.unfit(from, &asked);
                    }
                },
                RangeContent::Lost { until } => mending.mender.lost_too(from, &asked, until),
                RangeContent::Refused(_) => mending.mender.failed(now, from, &asked),
            }
        }
        self.mend(now, number);
    }

    /// Batches take the place of what is lost at these offsets, and holes where there are none.
    /// Says whether it is on its way to flash.
    fn put_in_place(
        &mut self,
        now: Time,
        number: PartitionNumber,
        (from, until): (Offset, Offset),
        batches: Vec<(Header, Bytes)>,
    ) -> bool {
        let Some(view) = self.log.partition(number) else { return false };
        let within = |(begin, end): &(Offset, Offset)| *begin <= from && until <= *end;
        if !self.may_mend(number) || !lost(&view).iter().any(within) {
            return false;
        }
        let (end, epoch) = (view.log_end, view.last_epoch.unwrap_or(LeaderEpoch(0)));
        let mut replacements = Vec::with_capacity(batches.len());
        let mut next = from;
        for (header, batch) in batches {
            fill(&mut replacements, next, header.base_offset, end, epoch);
            next = header.last_offset().plus(1);
            // A copy, so that the frame that it came in does not stay in memory.
            replacements.push(Replacement::Batch(Bytes::copy_from_slice(&batch)));
        }
        fill(&mut replacements, next, until, end, epoch);
        let placed = self.log.replace(now, number, replacements);
        if let Some(mending) = self.replicas.menders.get_mut(&number) {
            match placed {
                Ok(_) => mending.mender.got_on(),
                Err(ReplaceError::Busy | ReplaceError::Full) => mending.mender.pause(now),
                Err(ReplaceError::UnknownPartition | ReplaceError::Fenced) => {}
            }
        }
        placed.is_ok()
    }

    /// Every replica was asked for what is lost.
    fn on_nobody_has(
        &mut self,
        now: Time,
        number: PartitionNumber,
        (from, until): (Offset, Offset),
        unfit: bool,
    ) {
        // Whoever leads leaves it out, and takes what becomes of it from the next leader.
        if self.replicas.following(number).is_none() {
            return;
        }
        if unfit {
            return self.refill(now, number);
        }
        let last = until.plus(-1);
        log::error!("partition {}: offsets {from} to {last} are lost on all gateways", number.0);
        self.put_in_place(now, number, (from, until), Vec::new());
    }

    /// Begins the partition anew: a follower that is not in sync has nothing that anybody counts
    /// on.
    fn refill(&mut self, now: Time, number: PartitionNumber) {
        let me = self.settings.node;
        let eligible = self.image.state(number).is_none_or(|state| state.elr.contains(&me));
        let Some(view) = self.log.partition(number) else { return };
        let start = view.log_start;
        if eligible || self.replicas.following(number).is_none() {
            return;
        }
        log::info!("partition {}: begun anew at {start}, to be had from its leader", number.0);
        self.replicas.refills += 1;
        self.log.restart_at(now, number, start);
    }

    /// What is durable here, as a leader is to count it: while something is missing, less than what
    /// is in sync at least.
    pub(super) fn reported_durable(&self, number: PartitionNumber, durable: Offset) -> Offset {
        let state = self.image.state(number);
        let stays = state.is_none_or(|state| state.is_in_sync(self.settings.node));
        let Some(first) = self.first_lost(number) else { return durable };
        if stays && !self.replicas.leaving.contains(&number) {
            return durable;
        }
        let committed = self.replicas.high_watermark(number);
        durable.min(first).min(committed.plus(-1)).max(Offset::ZERO)
    }

    /// Where that begins which is lost here.
    pub(super) fn first_lost(&self, number: PartitionNumber) -> Option<Offset> {
        let view = self.log.partition(number).filter(|view| view.is_damaged)?;
        let first = view.damaged.first().map(|(from, _)| *from);
        first.into_iter().chain(view.suspect).min()
    }
}

/// What is lost and may be asked for. Ranges that touch are one: a batch may lie across them, as a
/// start knows no better than that nothing is to be found up to one thing, and up to the next.
fn lost(view: &PartitionView<'_>) -> Vec<(Offset, Offset)> {
    let mut ranges: Vec<(Offset, Offset)> = Vec::new();
    for &(from, until) in view.damaged {
        match ranges.last_mut() {
            Some(last) if last.1 >= from => last.1 = until.max(last.1),
            _ => ranges.push((from, until)),
        }
    }
    let clip =
        |(from, until): (Offset, Offset)| (from.max(view.log_start), until.min(view.durable_end));
    ranges.into_iter().map(clip).filter(|(from, until)| from < until).collect()
}

/// Offsets that have no records any more. A log never ends with a hole.
fn fill(
    replacements: &mut Vec<Replacement>,
    mut from: Offset,
    until: Offset,
    log_end: Offset,
    epoch: LeaderEpoch,
) {
    while from < until {
        let (empty, batch) = batch::empty(from, until, epoch);
        let last_offset_delta = empty.last_offset_delta;
        replacements.push(match until == log_end {
            true => Replacement::Batch(batch.into()),
            false => Replacement::Hole { base_offset: from, last_offset_delta },
        });
        from = empty.last_offset().plus(1);
    }
}
