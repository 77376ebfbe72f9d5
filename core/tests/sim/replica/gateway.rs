//! One gateway: owns a log and, as the controller says, its leader or follower, and does what they
//! want, as the node does. The bugs are played here.

use super::checks::{
    ConsumersSeeOnlyCommitted, History, LogMatching, MonotonicHighWatermark,
    NoCommittedRecordLostGlobally, SingleLeaderPerEpoch,
};
use super::controller::Metadata;
use super::plan::{Bug, Plan};
use super::site::{Message, Report};
use super::store::{Change, Entry, Store};
use crate::checks::{Verdict, Violation};
use std::collections::BTreeMap;
use weir_core::replica::{
    Answer, Content, Fetch, Follower, FollowerSettings, IsrMember, Leader, LeaderSettings,
    LogState, Step, Verdict as Judged,
};
use weir_core::rng::Rng;
use weir_core::types::{LeaderEpoch, Nanos, NodeId, Offset, Time};

const HEARTBEAT_MS: u64 = 100;
/// How long a leader holds a fetch that it has nothing for.
const HOLD_MS: u64 = 200;
/// Records that travel in one answer at most.
const ANSWER_ENTRIES_MAX: usize = 20;

pub struct Gateway {
    pub node: NodeId,
    pub boot: u64,
    pub up: bool,
    pub store: Store,
    pub liar: bool,
    /// When it wants to be woken.
    pub wake: Time,
    /// Records that were acknowledged since somebody asked: offset and id.
    pub acked: Vec<(i64, u64)>,
    plan: Plan,
    broker_epoch: Option<i64>,
    metadata: Option<Metadata>,
    role: Role,
    /// As far as it is known here in this life.
    high_watermark: Offset,
    heartbeat: Time,
    out: Vec<(NodeId, Message)>,
}

enum Role {
    None,
    Leads(Box<Leads>),
    Follows(NodeId, Follower),
}

struct Leads {
    leader: Leader,
    /// Fetches that wait for news: sequence, offset, until when.
    held: BTreeMap<NodeId, (u64, Offset, Time)>,
    /// Records that wait for the high watermark, by offset.
    waiting: BTreeMap<i64, u64>,
    settled: bool,
    told: i64,
}

impl Gateway {
    pub fn new(node: NodeId, plan: &Plan) -> Gateway {
        Gateway {
            node,
            boot: 0,
            up: false,
            store: Store::default(),
            liar: node.0 <= plan.liars,
            wake: Time::ZERO,
            acked: Vec::new(),
            plan: plan.clone(),
            broker_epoch: None,
            metadata: None,
            role: Role::None,
            high_watermark: Offset::ZERO,
            heartbeat: Time::ZERO,
            out: Vec::new(),
        }
    }

    pub fn start(&mut self) {
        (self.up, self.boot) = (true, self.boot + 1);
    }

    pub fn cut(&mut self, rng: &mut Rng) {
        self.store.cut(rng);
        let store = std::mem::take(&mut self.store);
        *self = Gateway { store, boot: self.boot, ..Gateway::new(self.node, &self.plan) };
    }

    pub fn leads(&self) -> Option<&Leader> {
        match &self.role {
            Role::Leads(leads) => Some(&leads.leader),
            _ => None,
        }
    }

    /// Messages that want to go out.
    pub fn sends(&mut self) -> Vec<(NodeId, Message)> {
        std::mem::take(&mut self.out)
    }

    /// A message from another gateway or from the controller.
    pub fn hear(
        &mut self,
        now: Time,
        from: NodeId,
        message: Message,
        history: &mut History,
    ) -> Verdict {
        match message {
            Message::Registered { boot, broker_epoch } if boot == self.boot => {
                self.broker_epoch = Some(broker_epoch);
                Ok(())
            }
            Message::Metadata(metadata) => self.learn(now, metadata, history),
            Message::Fetch(fetch) => {
                self.hear_fetch(now, from, fetch);
                Ok(())
            }
            Message::Answer(answer, entries) => self.hear_answer(now, answer, entries, history),
            Message::Refused { leader_epoch } => {
                match &mut self.role {
                    Role::Leads(leads) if leads.leader.epoch() == leader_epoch => {
                        leads.leader.refused(now);
                    }
                    _ => {}
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Takes a client's record with `acks=all`.
    pub fn produce(&mut self, now: Time, id: u64, history: &mut History) -> Verdict {
        let Role::Leads(leads) = &mut self.role else { return Ok(()) };
        if leads.leader.check_insync().is_err() {
            return Ok(());
        }
        // An idempotent producer's record that is there already is acknowledged where it is.
        let log = &self.store.log;
        let known = log.entries.iter().position(|entry| entry.id == id);
        let offset = log.start + known.unwrap_or(log.entries.len()) as i64;
        leads.waiting.insert(offset, id);
        if known.is_none() {
            let entry = Entry { id, epoch: leads.leader.epoch().0 };
            self.store.change(Change::Append(vec![entry]));
            LogMatching::check(history, self.node, &self.store.log, offset)?;
        }
        self.step(now, history)
    }

    /// A consumer reads all that it may.
    pub fn consume(&self, history: &History, from: i64) -> Verdict {
        let state = self.store.state();
        let end = match &self.role {
            Role::Leads(leads) => leads.leader.high_watermark(),
            Role::Follows(_, follower) if follower.is_matched() => {
                follower.high_watermark().min(state.durable)
            }
            _ => return Ok(()),
        };
        let end = if self.plan.bug == Bug::ServeUncommitted { state.end } else { end };
        ConsumersSeeOnlyCommitted::check(history, self.node, &self.store.log, from, end.0)
    }

    /// Retention: the leader drops some of what is committed.
    pub fn trim(&mut self, now: Time, rng: &mut Rng, history: &mut History) -> Verdict {
        let Role::Leads(leads) = &self.role else { return Ok(()) };
        let start = self.store.log.start;
        let span = leads.leader.high_watermark().0 - start;
        if span > 0 {
            self.store.change(Change::TrimTo(start + rng.below(span as u64 + 1) as i64));
        }
        self.step(now, history)
    }

    fn learn(&mut self, now: Time, metadata: Metadata, history: &mut History) -> Verdict {
        let Some(broker_epoch) = self.broker_epoch else { return Ok(()) };
        let known = self.metadata.as_ref().map_or(broker_epoch as u64, |known| known.version + 1);
        if metadata.version < known {
            return Ok(());
        }
        let state = &metadata.state;
        let epoch = LeaderEpoch(state.leader_epoch);
        let same = match &self.role {
            Role::None => false,
            Role::Leads(leads) => leads.leader.epoch() == epoch,
            Role::Follows(_, follower) => follower.leader_epoch() == epoch,
        };
        if !same {
            self.role = Role::None;
            match state.leader {
                Some(leader) if leader == self.node => {
                    self.lead(now, broker_epoch, &metadata, history)?;
                }
                Some(leader) => self.follow(leader, epoch, broker_epoch),
                None => {}
            }
        }
        if let Role::Leads(leads) = &mut self.role {
            leads.leader.decided(now, &metadata.state);
            leads.leader.registered(now, metadata.brokers.iter().copied());
        }
        self.metadata = Some(metadata);
        Ok(())
    }

    fn lead(
        &mut self,
        now: Time,
        broker_epoch: i64,
        metadata: &Metadata,
        history: &mut History,
    ) -> Verdict {
        let epoch = LeaderEpoch(metadata.state.leader_epoch);
        SingleLeaderPerEpoch::check(history, epoch, self.node, self.boot)?;
        if metadata.state.leader_epoch > history.newest_epoch {
            history.newest_epoch = metadata.state.leader_epoch;
            NoCommittedRecordLostGlobally::check_leader(history, self.node, &self.store.log)?;
        }
        let settings = LeaderSettings {
            lag: Nanos::from_ms(self.plan.lag_ms),
            min_insync_replicas: self.plan.min_insync,
            wish_timeout: Nanos::from_ms(300),
            wish_backoff: Nanos::from_ms(50),
        };
        let me = IsrMember { node: self.node, broker_epoch };
        let mut log = self.log_of_leader();
        if self.plan.bug == Bug::EpochStartIgnored {
            log.end = self.high_watermark.max(log.start);
        }
        let hw = self.high_watermark;
        let leader = Leader::new(now, me, &metadata.state, log, hw, settings);
        self.role = Role::Leads(Box::new(Leads {
            told: leader.high_watermark().0,
            leader,
            held: BTreeMap::new(),
            waiting: BTreeMap::new(),
            settled: false,
        }));
        Ok(())
    }

    fn follow(&mut self, leader: NodeId, epoch: LeaderEpoch, broker_epoch: i64) {
        let settings = FollowerSettings {
            timeout: Nanos::from_ms(2 * HOLD_MS),
            ..FollowerSettings::default()
        };
        let log = self.store.state();
        if self.plan.bug == Bug::TruncateByHighWatermark && self.high_watermark < log.end {
            self.store.change(Change::Truncate(self.high_watermark.max(log.start).0));
        }
        let follower = Follower::new(epoch, broker_epoch, self.high_watermark, settings);
        self.role = Role::Follows(leader, follower);
    }

    fn log_of_leader(&self) -> LogState {
        let state = self.store.state();
        match self.plan.bug {
            Bug::AcknowledgeBeforeFlush => LogState { durable: state.end, ..state },
            _ => state,
        }
    }

    fn hear_fetch(&mut self, now: Time, from: NodeId, mut fetch: Fetch) {
        let Role::Leads(leads) = &mut self.role else { return };
        match self.plan.bug {
            Bug::NoFencing => fetch.leader_epoch = leads.leader.epoch(),
            Bug::UndurableEnds => fetch.durable_offset = fetch.fetch_offset,
            _ => {}
        }
        let log = &self.store.log;
        let judged = leads.leader.fetched(now, from, &fetch, |epoch| log.epoch_end(epoch));
        match judged {
            Judged::Serve { from: offset } => {
                leads.held.insert(from, (fetch.sequence, offset, now.plus_ms(HOLD_MS)));
            }
            Judged::Say(content) => {
                let answer = leads.leader.answer(fetch.sequence, content);
                self.out.push((from, Message::Answer(answer, Vec::new())));
            }
            Judged::Ignore => {}
        }
    }

    fn hear_answer(
        &mut self,
        now: Time,
        mut answer: Answer,
        entries: Vec<Entry>,
        history: &mut History,
    ) -> Verdict {
        let Role::Follows(_, follower) = &mut self.role else { return Ok(()) };
        if self.plan.bug == Bug::NoFencing {
            answer.leader_epoch = follower.leader_epoch();
        }
        let state = self.store.state();
        let log = &self.store.log;
        let steps = follower.answered(now, &answer, &state, |epoch| log.epoch_end(epoch));
        for step in steps {
            match step {
                Step::Append => {
                    self.store.change(Change::Append(entries.clone()));
                    LogMatching::check(history, self.node, &self.store.log, state.end.0)?;
                }
                Step::Truncate(to) => self.store.change(Change::Truncate(to.0)),
                Step::RestartAt(start) => self.store.change(Change::RestartAt(start.0)),
                Step::TrimTo(start) => self.store.change(Change::TrimTo(start.0)),
                Step::HighWatermark(_) => {}
            }
        }
        Ok(())
    }

    /// Everything that is due after anything has happened.
    pub fn step(&mut self, now: Time, history: &mut History) -> Verdict {
        if !self.up {
            return Ok(());
        }
        self.talk_to_controller(now);
        let mut wake = self.heartbeat;
        let state = self.store.state();
        let bug = self.plan.bug;
        match &mut self.role {
            Role::None => {}
            Role::Follows(leader, follower) => {
                if let Some(mut fetch) = follower.next_fetch(now, &state) {
                    if matches!(bug, Bug::NoEpochInFetch | Bug::TruncateByHighWatermark) {
                        fetch.last_epoch = None;
                    }
                    self.out.push((*leader, Message::Fetch(fetch)));
                }
                self.high_watermark = self.high_watermark.max(follower.high_watermark());
                wake = wake.min(follower.deadline());
            }
            Role::Leads(_) => wake = wake.min(self.step_leader(now, history)?),
        }
        self.wake = wake.max(now.plus_ms(1));
        Ok(())
    }

    fn step_leader(&mut self, now: Time, history: &mut History) -> Result<Time, Violation> {
        let log = self.log_of_leader();
        let Role::Leads(leads) = &mut self.role else { return Ok(now) };
        leads.leader.advance(now, log);
        if let Some(wish) = self.plan.bug.wish(&mut leads.leader, now) {
            self.out.push((NodeId(0), Message::Wish(wish)));
        }
        let high_watermark = leads.leader.high_watermark();
        MonotonicHighWatermark::check(self.node, leads.told, high_watermark.0)?;
        leads.told = high_watermark.0;
        self.high_watermark = self.high_watermark.max(high_watermark);
        let log = &self.store.log;
        NoCommittedRecordLostGlobally::commit(history, self.node, log, high_watermark.0)?;
        let tells = match self.plan.bug {
            Bug::TellUnsettled => true,
            // Its leaders take themselves for settled.
            Bug::EpochStartIgnored => false,
            _ => leads.leader.is_settled(),
        };
        if tells && !leads.settled && leads.leader.epoch().0 == history.newest_epoch {
            leads.settled = true;
            let before = history.committed.len() as i64;
            MonotonicHighWatermark::check(self.node, before, high_watermark.0)?;
        }
        let done = leads.waiting.split_off(&high_watermark.0);
        self.acked.extend(std::mem::replace(&mut leads.waiting, done));
        let due = leads
            .held
            .iter()
            .filter(|(node, (_, _, until))| leads.leader.has_news(**node) || now >= *until);
        for node in due.map(|(node, _)| *node).collect::<Vec<_>>() {
            let Some((sequence, from, _)) = leads.held.remove(&node) else { continue };
            let entries = (from.0..log.end()).map_while(|offset| log.at(offset));
            let entries: Vec<Entry> = entries.take(ANSWER_ENTRIES_MAX).collect();
            // What was trimmed meanwhile is not there any more; the next fetch hears so.
            let content = Content::Batches { from, bytes: entries.len() as u64 };
            let answer = leads.leader.answer(sequence, content);
            self.out.push((node, Message::Answer(answer, entries)));
        }
        let held = leads.held.values().map(|(_, _, until)| *until);
        Ok(held.chain(leads.leader.deadline(now)).min().unwrap_or(Time(u64::MAX)))
    }

    fn talk_to_controller(&mut self, now: Time) {
        if now < self.heartbeat {
            return;
        }
        self.heartbeat = now.plus_ms(HEARTBEAT_MS);
        let message = match self.broker_epoch {
            None => Message::Register { boot: self.boot },
            Some(broker_epoch) => {
                let log = self.store.state();
                let epoch = self.metadata.as_ref().map(|metadata| metadata.state.leader_epoch);
                let report = Report {
                    leader_epoch: epoch.unwrap_or(-1),
                    last_epoch: log.last_epoch,
                    end: log.end,
                };
                Message::Heartbeat { broker_epoch, report }
            }
        };
        self.out.push((NodeId(0), message));
    }
}
