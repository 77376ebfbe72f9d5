//! The partitions that this gateway holds: which it leads, which it follows, and how far each may
//! be shown.
//!
//! Follows the image: whenever a partition's state changes there, this gateway's role in it is
//! taken up anew. A partition that it does not lead is NOT_LEADER_OR_FOLLOWER to clients, who look
//! for the leader then.
//!
//! | event | leader | follower |
//! |---|---|---|
//! | the log has grown, or was flushed | the high watermark moves, fetches are served | fetches |
//! | a fetch | served at once, or parked until there is news | |
//! | an answer | | truncates, appends, fetches again |
//! | a deadline | wishes for another in-sync set | fetches again |
//! | the other side is gone | forgets its fetch | waits until it is back |

mod following;
mod fresh;
mod leading;
mod lending;
mod repair;
mod schedule;
mod status;
mod throttle;

use super::produce::Acks;
use super::site::RANGES_LEVEL;
use super::{Node, Settings, Unguarded};
use crate::error::ErrorCode;
use crate::log::{Log, Ticket};
use crate::metadata::PartitionState;
use crate::replica::{
    Decided, Fetch, Follower, FollowerSettings, FollowerStatus, IsrMember, Leader, LeaderSettings,
    LogState,
};
use crate::types::{LeaderEpoch, Nanos, NodeId, Offset, PartitionNumber, Time};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use fresh::Fresh;
use schedule::Schedule;
pub use status::{ReplicaRole, ReplicaStatus};

/// How long a follower waits for an answer. Leaders hold fetches until there is news, and the end
/// of a connection is told otherwise: so this is for what gets lost though nothing breaks.
const FETCH_TIMEOUT: Nanos = Nanos(30_000_000_000);

#[derive(Debug, Default)]
pub(super) struct Replicas {
    by_number: BTreeMap<PartitionNumber, Replica>,
    schedule: Schedule,
    /// What is appended to partitions that others follow, and not durable yet.
    fresh: Fresh,
    /// Reads from the disk for followers.
    reads: BTreeMap<Ticket, (PartitionNumber, NodeId, Fetch)>,
    /// Followed partitions that ask for nothing before less waits for the flash.
    held: BTreeSet<PartitionNumber>,
    /// Leaders that may wish for another in-sync set.
    wishing: BTreeSet<PartitionNumber>,
    look: Look,
    /// What is done about damage, when it is looked at again, and how many requests there were.
    menders: BTreeMap<PartitionNumber, repair::Mending>,
    /// What is damaged and asked to be out of sync.
    leaving: BTreeSet<PartitionNumber>,
    mending: Schedule,
    range_sequence: u64,
    /// All that are connected know requests for ranges. Partitions that are compacted are fetched
    /// whole.
    knows_ranges: bool,
    compacted: BTreeSet<PartitionNumber>,
    /// Reads from the disk for those who have lost something.
    lending: BTreeMap<Ticket, lending::Loan>,
    /// Since the start: parts of partitions that were lost and came back from another gateway, and
    /// partitions that were begun anew.
    pub repairs: u64,
    pub refills: u64,
    unguarded: Unguarded,
    /// No controller is heard: clients are told that nobody leads here.
    pub cut_off: bool,
}

/// When this gateway looks for damage.
#[derive(Debug, Default)]
struct Look {
    last: Option<Time>,
    /// Somebody could not read.
    is_due: bool,
}

#[derive(Debug)]
struct Replica {
    role: Role,
    /// The highest that was known here.
    high_watermark: Offset,
}

#[derive(Debug)]
enum Role {
    Leads(Box<Leading>),
    Follows(Box<Following>),
    /// Nobody leads.
    Waits,
}

#[derive(Debug)]
struct Leading {
    leader: Leader,
    /// Fetches that wait for news.
    parked: BTreeMap<NodeId, Fetch>,
}

#[derive(Debug)]
struct Following {
    leader: NodeId,
    follower: Follower,
}

impl Replicas {
    pub fn new(settings: &Settings) -> Replicas {
        let knows_ranges = settings.release.level >= RANGES_LEVEL;
        Replicas { knows_ranges, unguarded: settings.unguarded, ..Replicas::default() }
    }

    /// The leader of a partition, if clients may ask it.
    pub fn leader(&self, number: PartitionNumber) -> Result<&Leader, ErrorCode> {
        let leader = self.led(number).filter(|_| !self.cut_off);
        leader.ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)
    }

    fn led(&self, number: PartitionNumber) -> Option<&Leader> {
        match &self.by_number.get(&number)?.role {
            Role::Leads(leading) => Some(&leading.leader),
            _ => None,
        }
    }

    /// What consumers may see of a partition ends here.
    pub fn high_watermark(&self, number: PartitionNumber) -> Offset {
        self.by_number.get(&number).map_or(Offset::ZERO, |replica| replica.high_watermark)
    }

    /// Kafka's check of the leader epoch that a client believes in; -1: none.
    pub fn check_epoch(
        &self,
        number: PartitionNumber,
        current_leader_epoch: i32,
    ) -> Result<&Leader, ErrorCode> {
        let leader = self.leader(number)?;
        same_epoch(current_leader_epoch, leader.epoch())?;
        Ok(leader)
    }

    /// The same for a consumer that reads. `nearby`: it takes records from followers too (KIP-392),
    /// whose log has to be a beginning of the leader's.
    pub fn check_reader(
        &self,
        number: PartitionNumber,
        nearby: bool,
        current_leader_epoch: i32,
    ) -> Result<(), ErrorCode> {
        let epoch = match self.by_number.get(&number).map(|replica| &replica.role) {
            Some(Role::Leads(leading)) => leading.leader.epoch(),
            Some(Role::Follows(following)) if nearby && following.follower.is_matched() => {
                following.follower.leader_epoch()
            }
            _ => return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER),
        };
        if self.cut_off {
            return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        same_epoch(current_leader_epoch, epoch)
    }

    /// Whether another gateway counts as having everything: what is damaged here can be had there.
    pub fn is_elsewhere(&self, number: PartitionNumber) -> bool {
        match self.by_number.get(&number).map(|replica| &replica.role) {
            Some(Role::Leads(leading)) => leading.leader.isr().len() > 1,
            Some(Role::Follows(_)) => true,
            Some(Role::Waits) | None => false,
        }
    }

    /// Whether what is damaged here below `until` may be on another gateway: on one that is in
    /// sync, or will be when it has caught up, or that can still be asked for it. A follower that
    /// has not been heard of in this epoch may have everything.
    pub fn may_come_back(&self, number: PartitionNumber, until: Offset) -> bool {
        let mending = self.menders.get(&number);
        let waits = mending.is_none_or(|mending| !mending.gave_up);
        let lost_it = |node| mending.is_some_and(|it| it.mender.is_known_without(node, until));
        let may_have = |it: FollowerStatus| match (it.durable, self.mends_ranges(number)) {
            (durable, false) => it.lives && durable.is_none_or(|durable| durable >= until),
            (Some(_), true) if it.fetch_offset < until => false,
            (_, true) => waits && !lost_it(it.node),
        };
        let guards = !self.unguarded.past_what_is_lost;
        let followed = |leader: &Leader| guards && leader.followers().any(may_have);
        self.is_elsewhere(number) || self.leader(number).is_ok_and(followed)
    }

    /// Whether of this partition what is lost can be asked for by itself.
    fn mends_ranges(&self, number: PartitionNumber) -> bool {
        let known = self.knows_ranges || self.unguarded.ranges_at_any_level;
        known && !self.unguarded.whole_partitions && !self.compacted.contains(&number)
    }

    /// Whether this gateway leads it and does not know yet how far earlier leaders have committed.
    pub fn is_unsettled(&self, number: PartitionNumber) -> bool {
        self.leader(number).is_ok_and(|leader| !leader.is_settled())
    }

    pub fn deadline(&self) -> Option<Time> {
        let look = self.look.is_due.then(|| self.look.next());
        let due = [&self.schedule, &self.mending].into_iter().filter_map(Schedule::first);
        due.map(|(time, _)| time).chain(look).min()
    }

    /// Damage kept somebody from reading what another gateway has.
    pub fn met_damage(&mut self) {
        self.look.is_due = true;
    }

    fn leading(&mut self, number: PartitionNumber) -> Option<&mut Leading> {
        match &mut self.by_number.get_mut(&number)?.role {
            Role::Leads(leading) => Some(leading),
            _ => None,
        }
    }

    fn following(&mut self, number: PartitionNumber) -> Option<&mut Following> {
        match &mut self.by_number.get_mut(&number)?.role {
            Role::Follows(following) => Some(following),
            _ => None,
        }
    }

    fn all_followed(&mut self) -> impl Iterator<Item = (PartitionNumber, &mut Following)> {
        self.by_number.iter_mut().filter_map(|(number, replica)| match &mut replica.role {
            Role::Follows(following) => Some((*number, &mut **following)),
            _ => None,
        })
    }

    /// The partition is not held here any more.
    pub fn forget(&mut self, number: PartitionNumber) {
        self.by_number.remove(&number);
        self.schedule.set(number, None);
        self.menders.remove(&number);
        self.leaving.remove(&number);
        self.mending.set(number, None);
        self.compacted.remove(&number);
        self.fresh.forget(number);
        self.wishing.remove(&number);
    }

    /// Partitions that are followed from that gateway.
    fn followed_from(&self, node: NodeId) -> Vec<PartitionNumber> {
        let from =
            |replica: &Replica| matches!(&replica.role, Role::Follows(it) if it.leader == node);
        let followed = self.by_number.iter().filter(|(_, replica)| from(replica));
        followed.map(|(number, _)| *number).collect()
    }
}

fn same_epoch(believed: i32, epoch: LeaderEpoch) -> Result<(), ErrorCode> {
    match believed {
        -1 => Ok(()),
        believed if believed < epoch.0 => Err(ErrorCode::FENCED_LEADER_EPOCH),
        believed if believed > epoch.0 => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
        _ => Ok(()),
    }
}

pub(super) fn log_state(log: &Log, number: PartitionNumber) -> Option<LogState> {
    let view = log.partition(number)?;
    Some(LogState {
        start: view.log_start,
        end: view.log_end,
        durable: view.durable_end,
        last_epoch: view.last_epoch,
    })
}

impl Node {
    /// A replica in that rack that a consumer there rather reads from (KIP-392): in sync, so that
    /// it is not far behind, and with the offset that is asked for.
    pub(super) fn nearby_replica(
        &self,
        number: PartitionNumber,
        rack: &str,
        from: Offset,
    ) -> Option<NodeId> {
        let is_there = |node: NodeId| {
            let broker = self.image.broker(node);
            broker.is_some_and(|it| it.serves() && it.rack.as_deref() == Some(rack))
        };
        let leader = self.replicas.leader(number).ok()?;
        if is_there(self.settings.node) {
            return None;
        }
        let followers = leader.followers();
        let fit = followers.filter(|it| it.in_sync && it.fetch_offset >= from && is_there(it.node));
        fit.max_by_key(|it| it.fetch_offset).map(|it| it.node)
    }

    /// Takes up what the image says of a partition.
    pub(super) fn follow_partition(&mut self, now: Time, number: PartitionNumber) {
        if !self.start.is_joined() {
            return;
        }
        let me = self.settings.node;
        let Some(state) = self.image.state(number).cloned() else {
            return self.stop_holding(now, number);
        };
        if !state.is_replica(me) {
            self.stop_holding(now, number);
            return self.empty(now, number);
        }
        let of = self.image.partition_of(number);
        let topic = of.and_then(|of| self.image.topic_by_id(of.topic));
        match topic.is_some_and(|topic| topic.policy.cleanup.compact.is_some()) {
            true => self.replicas.compacted.insert(number),
            false => self.replicas.compacted.remove(&number),
        };
        let before = self.replicas.high_watermark(number);
        match state.leader {
            Some(leader) if leader == me => self.lead(now, number, &state, before),
            Some(leader) => self.follow(now, number, &state, leader, before),
            None => self.take_role(number, Role::Waits, before),
        }
        self.moved(now, number);
        self.coordinate(now, number);
    }

    fn take_role(&mut self, number: PartitionNumber, role: Role, high_watermark: Offset) {
        let led = self.replicas.led(number).is_some();
        let leads = matches!(role, Role::Leads(_));
        self.replicas.by_number.insert(number, Replica { role, high_watermark });
        self.replicas.schedule.set(number, None);
        if led && !leads {
            self.replicas.fresh.forget(number);
            self.replicas.wishing.remove(&number);
        }
        if led {
            // Whoever waits may not be told what another leader has not: they ask that one.
            self.fail_produces(number, ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        self.wake_fetches(number);
    }

    fn lead(
        &mut self,
        now: Time,
        number: PartitionNumber,
        state: &PartitionState,
        high_watermark: Offset,
    ) {
        let of = self.image.partition_of(number);
        let topic = of.and_then(|of| self.image.topic_by_id(of.topic));
        let settings = LeaderSettings {
            min_insync_replicas: topic.map_or(1, |topic| topic.policy.min_insync_replicas),
            ..LeaderSettings::default()
        };
        if let Some(leading) = self.replicas.leading(number) {
            leading.leader.settings = settings;
            if leading.leader.decided(now, state) != Decided::Over {
                // A replica that a reassignment adds is new to the leader.
                return self.tell_leader_who_lives(now, number);
            }
        }
        let (Some(log), Some(own)) =
            (log_state(&self.log, number), self.image.broker(self.settings.node))
        else {
            return;
        };
        let me = IsrMember { node: own.node, broker_epoch: own.epoch.0 as i64 };
        let leader = Leader::new(now, me, state, log, high_watermark, settings);
        let leading = Leading { leader, parked: BTreeMap::new() };
        self.take_role(number, Role::Leads(Box::new(leading)), high_watermark);
        self.tell_leader_who_lives(now, number);
    }

    fn follow(
        &mut self,
        now: Time,
        number: PartitionNumber,
        state: &PartitionState,
        leader: NodeId,
        high_watermark: Offset,
    ) {
        let epoch = LeaderEpoch(state.leader_epoch);
        let Some(own) = self.image.broker(self.settings.node) else { return };
        if let Some(following) = self.replicas.following(number)
            && following.leader == leader
            && following.follower.leader_epoch() == epoch
        {
            return;
        }
        let settings = FollowerSettings { timeout: FETCH_TIMEOUT, ..FollowerSettings::default() };
        let broker_epoch = own.epoch.0 as i64;
        let follower = Follower::new(epoch, broker_epoch, high_watermark, settings);
        let following = Following { leader, follower };
        self.take_role(number, Role::Follows(Box::new(following)), high_watermark);
        self.fetch_next(now, number);
    }

    /// Another gateway holds it, or nobody does: what is here of it goes.
    fn stop_holding(&mut self, now: Time, number: PartitionNumber) {
        self.fail_produces(number, ErrorCode::NOT_LEADER_OR_FOLLOWER);
        self.replicas.forget(number);
        self.wake_fetches(number);
        self.coordinate(now, number);
    }

    /// Others hold the partition, and have all of it: the room is for what is held here.
    fn empty(&mut self, now: Time, number: PartitionNumber) {
        if self.log.partition(number).is_some_and(|view| view.log_end > Offset::ZERO) {
            log::info!("partition {} is held by other gateways now: its records go", number.0);
            self.log.restart_at(now, number, Offset::ZERO);
        }
    }

    /// The log of a partition has grown, was flushed or trimmed, or its leader has heard something.
    pub(super) fn moved(&mut self, now: Time, number: PartitionNumber) {
        let Some(state) = log_state(&self.log, number) else { return };
        let Some(leading) = self.replicas.leading(number) else {
            return self.fetch_next(now, number);
        };
        leading.leader.advance(now, state);
        let high_watermark = leading.leader.high_watermark();
        self.replicas.fresh.durable(number, state.durable);
        self.set_high_watermark(number, high_watermark);
        let mut answers = self.produces.moved(Acks::Leader, number, state.durable);
        answers.extend(self.produces.moved(Acks::All, number, high_watermark));
        self.answer_produces(answers);
        self.serve_parked(now, number);
        self.replicas.wishing.insert(number);
        self.advance_coordinator(now, number);
    }

    fn set_high_watermark(&mut self, number: PartitionNumber, high_watermark: Offset) {
        self.log.set_high_watermark(number, high_watermark);
        if let Some(replica) = self.replicas.by_number.get_mut(&number) {
            replica.high_watermark = high_watermark;
        }
        self.wake_fetches(number);
    }

    /// Everything about replicas that is due.
    pub(super) fn tick_replicas(&mut self, now: Time) {
        self.fetch_held(now);
        for number in self.replicas.schedule.take_due(now) {
            match self.replicas.led(number).is_some() {
                true => self.moved(now, number),
                false => self.fetch_next(now, number),
            }
        }
        for number in self.replicas.mending.take_due(now) {
            self.mend(now, number);
        }
        self.wish(now);
    }

    pub(super) fn on_replica_peer_up(&mut self, now: Time, node: NodeId) {
        self.replicas.knows_ranges = self.level_of_those_here() >= RANGES_LEVEL;
        for number in self.replicas.followed_from(node) {
            self.fetch_next(now, number);
        }
    }

    pub(super) fn on_replica_peer_down(&mut self, now: Time, node: NodeId) {
        self.replicas.knows_ranges = self.level_of_those_here() >= RANGES_LEVEL;
        for number in self.replicas.followed_from(node) {
            if let Some(following) = self.replicas.following(number) {
                following.follower.failed(now);
            }
            self.replicas.schedule.set(number, None);
        }
        for mending in self.replicas.menders.values_mut() {
            mending.mender.gone(now, node);
        }
        for replica in self.replicas.by_number.values_mut() {
            if let Role::Leads(leading) = &mut replica.role {
                leading.parked.remove(&node);
            }
        }
    }
}
