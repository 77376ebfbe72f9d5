//! The leader of one epoch: judges fetches, keeps the in-sync set true, and moves the high
//! watermark.

use super::remote::Remote;
use super::{Answer, Content, Fetch, IsrMember, IsrWish, LogState};
use crate::error::ErrorCode;
use crate::metadata::PartitionState;
use crate::types::{LeaderEpoch, Nanos, NodeId, Offset, Time};
use alloc::vec::Vec;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaderSettings {
    /// Kafka's `replica.lag.time.max.ms`: who has not caught up for so long is not in sync.
    pub lag: Nanos,
    /// The topic's `min.insync.replicas`. More than there are replicas means all of them.
    pub min_insync_replicas: usize,
    /// A wish that is unanswered for so long is made again.
    pub wish_timeout: Nanos,
    /// The pause after a wish that was refused.
    pub wish_backoff: Nanos,
}

impl Default for LeaderSettings {
    fn default() -> LeaderSettings {
        LeaderSettings {
            lag: Nanos::from_ms(10_000),
            min_insync_replicas: 1,
            wish_timeout: Nanos::from_ms(1_000),
            wish_backoff: Nanos::from_ms(250),
        }
    }
}

/// What a fetch deserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Batches from here on, as soon as there is something to bring ([`Leader::has_news`]).
    Serve { from: Offset },
    /// This answer, at once.
    Say(Content),
    /// Nothing: a later fetch of this follower has been heard already.
    Ignore,
}

/// What the controller's decision means for this leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decided {
    Adopted,
    /// Known, or older than what is known.
    Old,
    /// Another epoch has begun: this leader is over and must not be asked any more.
    Over,
}

/// What the leader knows of one follower, for DescribeQuorum-like tools and the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FollowerStatus {
    pub node: NodeId,
    pub fetch_offset: Offset,
    /// `None` before its first matching fetch of this epoch.
    pub durable: Option<Offset>,
    pub in_sync: bool,
    /// The controller takes it for alive.
    pub lives: bool,
    /// How often it came back with less than it had confirmed: its storage lies.
    pub lies: u32,
}

/// Leads one partition in one epoch. The owner makes a new one for each epoch.
///
/// | in-sync set | event | next |
/// |---|---|---|
/// | committed | a follower's durable end reaches high watermark and epoch start | wished |
/// | committed | a member lags too long, or has lost what it confirmed | wished |
/// | wished | granted, or decided otherwise: a higher partition epoch | committed |
/// | wished | refused, timed out | wished or committed; who was ever wished for still counts |
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leader {
    pub settings: LeaderSettings,
    node: NodeId,
    broker_epoch: i64,
    epoch: LeaderEpoch,
    epoch_start: Offset,
    log: LogState,
    high_watermark: Offset,
    partition_epoch: i32,
    /// The committed in-sync set, with this node in it.
    isr: Vec<NodeId>,
    /// Everyone who was wished for under this partition epoch: the controller may have granted it.
    wished: Vec<NodeId>,
    wish_until: Option<Time>,
    wish_not_before: Time,
    /// All other replicas.
    remotes: Vec<Remote>,
}

impl Leader {
    /// Leads from here on: `log.end` is the epoch's start. `high_watermark` is what this gateway
    /// knows from the epoch before, or zero. `state` names this node as the leader.
    pub fn new(
        now: Time,
        me: IsrMember,
        state: &PartitionState,
        log: LogState,
        high_watermark: Offset,
        settings: LeaderSettings,
    ) -> Leader {
        assert_eq!(state.leader, Some(me.node), "a gateway leads what the controller gave it");
        let mut leader = Leader {
            settings,
            node: me.node,
            broker_epoch: me.broker_epoch,
            epoch: LeaderEpoch(state.leader_epoch),
            epoch_start: log.end,
            log,
            high_watermark: high_watermark.max(log.start).min(log.durable),
            partition_epoch: state.partition_epoch,
            isr: Vec::new(),
            wished: Vec::new(),
            wish_until: None,
            wish_not_before: now,
            remotes: Vec::new(),
        };
        leader.adopt(now, state);
        leader
    }

    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Whether everything of earlier epochs is committed. Before that the high watermark may be
    /// less than what an earlier leader has shown: offsets are not told (OFFSET_NOT_AVAILABLE).
    pub fn is_settled(&self) -> bool {
        self.high_watermark >= self.epoch_start
    }

    /// The committed in-sync set.
    pub fn isr(&self) -> &[NodeId] {
        &self.isr
    }

    /// Whether a batch with `acks=all` may be appended, by the committed in-sync set.
    pub fn check_insync(&self) -> Result<(), ErrorCode> {
        if self.is_under_min() { Err(ErrorCode::NOT_ENOUGH_REPLICAS) } else { Ok(()) }
    }

    pub fn followers(&self) -> impl Iterator<Item = FollowerStatus> {
        self.remotes.iter().map(|remote| FollowerStatus {
            node: remote.node,
            fetch_offset: remote.fetch_offset,
            durable: remote.durable,
            in_sync: self.isr.contains(&remote.node),
            lives: remote.registered.is_some(),
            lies: remote.lies,
        })
    }

    /// The log has grown, was flushed, or was trimmed.
    pub fn advance(&mut self, now: Time, log: LogState) {
        assert!(log.end >= self.log.end, "a leader's log is only appended to");
        self.log = log;
        self.raise(now);
    }

    /// The incarnations of live gateways that may hold partitions: neither fenced nor draining.
    pub fn registered(&mut self, now: Time, brokers: impl Iterator<Item = (NodeId, i64)>) {
        for remote in &mut self.remotes {
            remote.registered = None;
        }
        for (node, broker_epoch) in brokers {
            if let Some(remote) = self.remotes.iter_mut().find(|remote| remote.node == node) {
                remote.registered = Some(broker_epoch);
            }
        }
        self.raise(now);
    }

    /// A follower's request. `epoch_end` looks into our log: the last epoch up to the given one,
    /// and where it ends; `None` if there is none.
    pub fn fetched(
        &mut self,
        now: Time,
        from: NodeId,
        fetch: &Fetch,
        epoch_end: impl Fn(LeaderEpoch) -> Option<(LeaderEpoch, Offset)>,
    ) -> Verdict {
        let refuse = |code| Verdict::Say(Content::refused(code));
        let Some(at) = self.remotes.iter().position(|remote| remote.node == from) else {
            return refuse(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        };
        if fetch.leader_epoch < self.epoch {
            return refuse(ErrorCode::FENCED_LEADER_EPOCH);
        }
        if fetch.leader_epoch > self.epoch {
            return refuse(ErrorCode::UNKNOWN_LEADER_EPOCH);
        }
        let remote = &mut self.remotes[at];
        if remote.registered.is_some_and(|registered| fetch.broker_epoch < registered) {
            return refuse(ErrorCode::STALE_BROKER_EPOCH);
        }
        if (fetch.broker_epoch, fetch.sequence) <= (remote.broker_epoch, remote.sequence) {
            return Verdict::Ignore;
        }
        if fetch.broker_epoch > remote.broker_epoch {
            remote.falls_behind(now, self.log.end);
        }
        (remote.broker_epoch, remote.sequence) = (fetch.broker_epoch, fetch.sequence);
        if let Some(content) = part(&self.log, fetch, epoch_end) {
            return Verdict::Say(content);
        }
        let in_sync = self.isr.contains(&from);
        let owed = if in_sync { self.high_watermark } else { Offset::ZERO };
        remote.confirm(now, fetch, self.log.end, owed);
        self.raise(now);
        Verdict::Serve { from: fetch.fetch_offset }
    }

    /// Whether this follower's last fetch can be answered with more than silence.
    pub fn has_news(&self, node: NodeId) -> bool {
        let remote = self.remotes.iter().find(|remote| remote.node == node);
        remote.is_some_and(|remote| {
            remote.fetch_offset < self.log.end || remote.told < self.high_watermark
        })
    }

    pub fn answer(&self, sequence: u64, content: Content) -> Answer {
        Answer {
            leader_epoch: self.epoch,
            sequence,
            log_start: self.log.start,
            high_watermark: self.high_watermark,
            content,
        }
    }

    /// The next moment at which [`Leader::wish`] may have something, or the high watermark may move
    /// though nobody says anything.
    pub fn deadline(&self, now: Time) -> Option<Time> {
        let lagging = self.remotes.iter().filter_map(|remote| {
            let from = remote.lags_from(self.settings.lag);
            let waits = self.is_waited_for(remote) && !remote.has(self.log.end);
            (waits && from > now).then_some(from)
        });
        let due = self.wish_until.unwrap_or(self.wish_not_before);
        lagging.chain(self.needs_wish(now).then_some(due)).min()
    }

    /// The wish that is to be sent to the controller now, if any: a new one, or the last one again.
    pub fn wish(&mut self, now: Time) -> Option<IsrWish> {
        self.raise(now);
        let due = self.wish_until.unwrap_or(self.wish_not_before);
        if now < due || !self.needs_wish(now) {
            return None;
        }
        let isr = self.wanted(now);
        for member in &isr {
            if !self.wished.contains(&member.node) {
                self.wished.push(member.node);
            }
        }
        self.wish_until = Some(now + self.settings.wish_timeout);
        Some(IsrWish { leader_epoch: self.epoch, partition_epoch: self.partition_epoch, isr })
    }

    /// The controller has refused the wish. Who was in it still counts until the next partition
    /// epoch: an earlier copy of the wish may be under way yet.
    pub fn refused(&mut self, now: Time) {
        self.wish_until = None;
        self.wish_not_before = now + self.settings.wish_backoff;
    }

    /// What the controller has decided, in answer to a wish or by itself.
    pub fn decided(&mut self, now: Time, state: &PartitionState) -> Decided {
        if state.leader_epoch > self.epoch.0 {
            return Decided::Over;
        }
        if state.leader_epoch < self.epoch.0 || state.partition_epoch <= self.partition_epoch {
            return Decided::Old;
        }
        self.adopt(now, state);
        Decided::Adopted
    }

    fn adopt(&mut self, now: Time, state: &PartitionState) {
        self.partition_epoch = state.partition_epoch;
        let before = core::mem::replace(&mut self.isr, state.isr.clone());
        self.wished.clear();
        self.wish_until = None;
        self.remotes.retain(|remote| state.is_replica(remote.node));
        for node in state.replicas.iter().copied().filter(|node| *node != self.node) {
            if !self.remotes.iter().any(|remote| remote.node == node) {
                self.remotes.push(Remote::new(now, node, self.log.end));
            }
        }
        for remote in &mut self.remotes {
            match (before.contains(&remote.node), state.is_in_sync(remote.node)) {
                (false, true) => remote.joined(now, self.log.end),
                (true, false) => remote.falls_behind(now, self.log.end),
                _ => {}
            }
        }
        self.raise(now);
    }

    /// Fewer replicas are in sync than the topic wants. Then nothing is committed either, so that
    /// those who left lately keep all that is (KIP-966).
    fn is_under_min(&self) -> bool {
        let replicas = self.remotes.len() + 1;
        self.isr.len() < self.settings.min_insync_replicas.min(replicas)
    }

    /// Moves the high watermark as far as the maximal in-sync set allows.
    fn raise(&mut self, now: Time) {
        if self.is_under_min() {
            return;
        }
        let mut least = self.log.durable;
        for remote in &self.remotes {
            let joining = remote.is_joining(now, self.log.end, self.settings.lag);
            if self.is_maximal(remote.node) || joining {
                // A member that is not heard of in this epoch has what it had: it holds all back.
                least = least.min(remote.durable.unwrap_or(Offset::ZERO));
            }
        }
        self.high_watermark = self.high_watermark.max(least);
    }

    fn is_maximal(&self, node: NodeId) -> bool {
        self.isr.contains(&node) || self.wished.contains(&node)
    }

    fn is_waited_for(&self, remote: &Remote) -> bool {
        self.is_maximal(remote.node) || remote.may_join()
    }

    /// Whether the set should change, or somebody counts who was wished for and is not wanted.
    fn needs_wish(&self, now: Time) -> bool {
        let wanted = self.wanted(now);
        let same = wanted.len() == self.isr.len()
            && wanted.iter().all(|member| self.isr.contains(&member.node));
        !same || self.wished.iter().any(|node| !self.isr.contains(node))
    }

    /// The in-sync set as it should be.
    fn wanted(&self, now: Time) -> Vec<IsrMember> {
        let me = IsrMember { node: self.node, broker_epoch: self.broker_epoch };
        let remotes = self.remotes.iter().filter(|remote| {
            if self.isr.contains(&remote.node) {
                remote.owes.is_none() && !remote.lags(now, self.log.end, self.settings.lag)
            } else {
                remote.may_join() && remote.has(self.high_watermark) && remote.has(self.epoch_start)
            }
        });
        let others = remotes
            .map(|remote| IsrMember { node: remote.node, broker_epoch: remote.incarnation() });
        core::iter::once(me).chain(others).collect()
    }
}

/// Where the logs part, if they do: the answer to a follower whose log is not a beginning of ours.
fn part(
    log: &LogState,
    fetch: &Fetch,
    epoch_end: impl Fn(LeaderEpoch) -> Option<(LeaderEpoch, Offset)>,
) -> Option<Content> {
    if fetch.fetch_offset < log.start {
        return Some(Content::OutOfRange);
    }
    if let Some(last) = fetch.last_epoch {
        // Without an epoch that old nobody can say where the logs part: some epochs may have begun
        // and been trimmed since. Kafka lets the follower keep what is below our log's start.
        let Some((epoch, end)) = epoch_end(last) else { return Some(Content::OutOfRange) };
        if epoch < last || end < fetch.fetch_offset {
            return Some(Content::Diverging { epoch, end });
        }
    }
    (fetch.fetch_offset > log.end).then_some(Content::OutOfRange)
}
