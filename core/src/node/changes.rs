//! Changes of the metadata: decided one after the other, applied when they are committed.
//!
//! A change waits until the one before it is applied, so what is decided is decided on everything
//! that is true. Only the controller decides.

use super::admin::Wish;
use super::connections::Caller;
use super::site::{Ask, Asker, Told};
use super::{Node, producer_ids};
use crate::limits;
use crate::metadata::{CONSUMER_OFFSETS, NewTopic, Plan, Record};
use crate::quorum::Position;
use crate::types::{Time, TopicId};
use crate::wire::configs::{AlterConfigsRequest, IncrementalAlterConfigsRequest};
use crate::wire::group::FindCoordinatorRequest;
use crate::wire::metadata::MetadataRequest;
use crate::wire::topics::{CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest};
use crate::wire::{Frame, Message};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Something that somebody wishes of the metadata.
#[derive(Debug)]
pub(super) enum Change {
    /// The cluster's id: the first change of all.
    Cluster(TopicId),
    /// The controller looks after gateways and leaders.
    Tick,
    /// Partition numbers up to this one are in use, though no record says so any more.
    NextPartition(u32),
    /// Decided already.
    Record(Record),
    /// A gateway asks.
    Asked(Asker, Ask),
    /// An operator asks.
    Wished(Caller, Wish),
    CreateTopics(Caller, CreateTopicsRequest),
    DeleteTopics(Caller, DeleteTopicsRequest),
    CreatePartitions(Caller, CreatePartitionsRequest),
    IncrementalAlterConfigs(Caller, IncrementalAlterConfigsRequest),
    AlterConfigs(Caller, AlterConfigsRequest),
}

impl Change {
    fn caller(&self) -> Option<Caller> {
        match self {
            Change::Cluster(_)
            | Change::Tick
            | Change::NextPartition(_)
            | Change::Record(_)
            | Change::Asked(..) => None,
            Change::Wished(caller, _)
            | Change::CreateTopics(caller, _)
            | Change::DeleteTopics(caller, _)
            | Change::CreatePartitions(caller, _)
            | Change::IncrementalAlterConfigs(caller, _)
            | Change::AlterConfigs(caller, _) => Some(*caller),
        }
    }
}

/// What happens when a change is applied.
#[derive(Debug)]
pub(super) enum Then {
    Nothing,
    Send(Caller, Frame),
    Metadata(Caller, MetadataRequest),
    Coordinator(Caller, FindCoordinatorRequest),
    Tell(Asker, Told),
    /// Tells that it is done.
    Done(Asker),
}

impl Then {
    pub fn reply<M: Message>(caller: Caller, response: &M) -> Then {
        Then::Send(caller, caller.frame(response))
    }

    fn caller(&self) -> Option<Caller> {
        match self {
            Then::Send(caller, _) | Then::Metadata(caller, _) | Then::Coordinator(caller, _) => {
                Some(*caller)
            }
            Then::Nothing | Then::Tell(..) | Then::Done(_) => None,
        }
    }
}

#[derive(Debug)]
struct InFlight {
    position: Position,
    then: Then,
}

#[derive(Debug, Default)]
pub(super) struct Changes {
    queue: VecDeque<Change>,
    in_flight: Option<InFlight>,
}

impl Changes {
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_none()
    }

    /// Everyone who waits, when nothing will be decided here any more.
    pub fn drain(&mut self) -> Vec<Caller> {
        let in_flight = self.in_flight.take().and_then(|in_flight| in_flight.then.caller());
        let queued = self.queue.drain(..).filter_map(|change| change.caller());
        in_flight.into_iter().chain(queued).collect()
    }
}

impl Node {
    pub(super) fn change(&mut self, now: Time, change: Change) {
        self.changes.queue.push_back(change);
        self.next_change(now);
    }

    pub(super) fn next_change(&mut self, now: Time) {
        while self.changes.in_flight.is_none() && self.site.leads() {
            let Some(change) = self.changes.queue.pop_front() else { return };
            let (records, then) = self.decide(now, change);
            if records.is_empty() {
                self.then(now, then);
                continue;
            }
            match self.site.propose(now, &records) {
                Some(position) => self.changes.in_flight = Some(InFlight { position, then }),
                None => self.give_up(now, then),
            }
            self.poll_quorum(now);
        }
    }

    fn decide(&mut self, now: Time, change: Change) -> (Vec<Record>, Then) {
        let settings = &self.settings;
        let plan = Plan::new(&self.image, settings.node, &mut self.rng);
        match change {
            Change::Cluster(id) => (Vec::from([Record::Cluster { id }]), Then::Nothing),
            Change::NextPartition(highest) => {
                let number = highest.saturating_add(1);
                (Vec::from([Record::NextPartition { number }]), Then::Nothing)
            }
            Change::Tick => {
                let own = self.heartbeat();
                let Some(controller) = &mut self.site.controller else {
                    return (Vec::new(), Then::Nothing);
                };
                // The controller's own gateway lives as long as it decides.
                let own = own.map(|own| controller.heartbeat(now, &self.image, &own).records);
                let due = controller.tick(now, &self.image);
                (own.into_iter().flatten().chain(due).collect(), Then::Nothing)
            }
            Change::Record(record) => (Vec::from([record]), Then::Nothing),
            Change::Asked(asker, ask) => self.decide_asked(now, asker, ask),
            Change::Wished(caller, wish) => self.decide_wished(now, caller, wish),
            Change::CreateTopics(caller, request) => {
                super::topics::create_topics(plan, settings, caller, request)
            }
            Change::DeleteTopics(caller, request) => {
                super::topics::delete_topics(plan, &self.image, caller, request)
            }
            Change::CreatePartitions(caller, request) => {
                super::topics::create_partitions(plan, &self.image, caller, request)
            }
            Change::IncrementalAlterConfigs(caller, request) => {
                let controller = self.site.controller.as_ref();
                super::configs::incremental_alter(plan, controller, &self.image, caller, request)
            }
            Change::AlterConfigs(caller, request) => {
                super::configs::alter(plan, &self.image, caller, request)
            }
        }
    }

    /// What gateways ask, also this one.
    fn decide_asked(&mut self, now: Time, asker: Asker, ask: Ask) -> (Vec<Record>, Then) {
        let Some(controller) = &mut self.site.controller else {
            return (Vec::new(), Then::Nothing);
        };
        let image = &self.image;
        let (records, told) = match ask {
            Ask::Register(asked) => {
                let decided = controller.register(now, image, &asked);
                let answer = decided.answer.map_err(|refusal| refusal.message);
                (decided.records, Told::Registered(answer))
            }
            Ask::Heartbeat(heard) => {
                let decided = controller.heartbeat(now, image, &heard);
                (decided.records, Told::Standing(decided.answer))
            }
            Ask::AlterPartitions { node, epoch, wishes } => {
                let decided = controller.alter_partitions(now, image, (node, epoch), &wishes);
                (decided.records, Told::Altered(decided.answer))
            }
            Ask::ProducerIds { node, epoch } => {
                let decided = controller.producer_ids(image, node, epoch, producer_ids::BLOCK);
                (decided.records, Told::ProducerIds(decided.answer))
            }
            Ask::Lost { node, epoch, number } => {
                let decided = controller.lost(image, (node, epoch), number);
                return (decided.records, Then::Done(asker));
            }
            Ask::CreateTopics(_) | Ask::CreateOffsets => {
                let new = match ask {
                    Ask::CreateTopics(names) => names.iter().map(|name| wanted(name, -1)).collect(),
                    _ => Vec::from([offsets_topic()]),
                };
                let mut plan = Plan::new(image, self.settings.node, &mut self.rng);
                for new in &new {
                    // Whoever cannot have the topic is told by the answer, which looks at the
                    // image.
                    let _ = plan.create_topic(new, self.settings.new_topics());
                }
                return (plan.into_records(), Then::Done(asker));
            }
        };
        (records, Then::Tell(asker, told))
    }

    /// An entry is committed and in the image: perhaps the one that a change waits for.
    pub(super) fn on_applied(&mut self, now: Time, position: Position) {
        let passed = |change: &mut InFlight| change.position.index <= position.index;
        let Some(in_flight) = self.changes.in_flight.take_if(passed) else { return };
        match (in_flight.position == position, in_flight.then) {
            (true, Then::Done(asker)) => self.tell(now, asker, Told::Done(position.index)),
            (true, then) => self.then(now, then),
            // Another leader's entry stands there.
            (false, then) => self.give_up(now, then),
        }
        self.next_change(now);
    }

    /// What was wished for did not come to be, as far as anybody knows.
    fn give_up(&mut self, now: Time, then: Then) {
        match then {
            Then::Tell(asker, _) | Then::Done(asker) => self.tell(now, asker, Told::Failed),
            other => {
                if let Some(caller) = other.caller() {
                    self.close(caller);
                }
            }
        }
    }

    pub(super) fn then(&mut self, now: Time, then: Then) {
        match then {
            Then::Nothing => {}
            Then::Send(caller, frame) => self.send(caller, frame),
            Then::Metadata(caller, request) => self.answer_metadata(caller, &request),
            Then::Coordinator(caller, request) => self.answer_coordinator(caller, &request),
            Then::Tell(asker, told) => self.tell(now, asker, told),
            Then::Done(asker) => self.tell(now, asker, Told::Done(0)),
        }
    }
}

fn wanted(name: &str, partitions: i32) -> NewTopic {
    NewTopic { name: name.into(), partitions, replication_factor: -1, ..NewTopic::default() }
}

fn offsets_topic() -> NewTopic {
    let mut new = wanted(CONSUMER_OFFSETS, limits::OFFSETS_PARTITIONS);
    new.configs.push(("cleanup.policy".into(), Some("compact".into())));
    new
}
