//! Gateways come, are heard, are drained, go.

use super::super::{Image, PartitionState, Record, Refusal};
use super::draft::{Draft, Left};
use super::{Controller, Decision};
use crate::error::ErrorCode;
use crate::limits;
use crate::types::{BrokerEpoch, NodeId, Time, TopicId};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use serde::{Deserialize, Serialize};

/// A gateway that has started introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    pub node: NodeId,
    /// The cluster that it was in before, if any.
    pub cluster_id: Option<TopicId>,
    pub directory: [u8; 16],
    pub incarnation: [u8; 16],
    pub rack: Option<String>,
    pub kafka: (String, u16),
    pub peer: (String, u16),
    pub holds_partitions: bool,
    /// Whether its log has everything that was ever flushed to it, as far as its start can tell.
    pub intact: bool,
}

/// A gateway is there: each quarter of a second or so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub node: NodeId,
    pub epoch: BrokerEpoch,
    /// Up to where it has applied the metadata's log.
    pub applied: u64,
    /// It was told to stop, and waits until it may.
    pub stopping: bool,
}

/// How a gateway that was heard stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub fenced: bool,
    pub draining: bool,
    /// Nobody needs it any more.
    pub may_stop: bool,
}

impl Controller {
    /// Judges a registration; its epoch is in the image when the records are applied.
    pub fn register(
        &mut self,
        now: Time,
        image: &Image,
        asked: &Registration,
    ) -> Decision<Result<(), Refusal>> {
        self.run(now, image);
        if let Err(refusal) = self.check_registration(now, image, asked) {
            log::warn!("gateway {} is refused: {}", asked.node.0, refusal.message);
            return Decision::only(Err(refusal));
        }
        self.hear(now, asked.node);
        let mut draft = Draft::new(image);
        if let Some(known) = image.broker(asked.node) {
            if known.incarnation == asked.incarnation {
                return Decision::only(Ok(()));
            }
            let left = match asked {
                _ if known.directory != asked.directory => Left::Wiped,
                Registration { intact: false, .. } => Left::InDoubt,
                _ => Left::WithItsLog,
            };
            draft.leave(asked.node, left);
        }
        draft.push(Record::Broker {
            node: asked.node,
            directory: asked.directory,
            incarnation: asked.incarnation,
            rack: asked.rack.clone(),
            kafka: asked.kafka.clone(),
            peer: asked.peer.clone(),
            broker: asked.holds_partitions,
        });
        if asked.node == self.settings.node {
            adopt(&mut draft, asked.node);
        }
        Decision { records: draft.into_records(), answer: Ok(()) }
    }

    fn check_registration(
        &self,
        now: Time,
        image: &Image,
        asked: &Registration,
    ) -> Result<(), Refusal> {
        let node = asked.node.0;
        let refuse = |code, why: String| Err(Refusal::new(code, why));
        if let (Some(theirs), Some(ours)) = (asked.cluster_id, image.cluster_id())
            && theirs != ours
        {
            let why =
                format!("Gateway {node} belongs to the cluster {theirs}, and this is {ours}.");
            return refuse(ErrorCode::INCONSISTENT_CLUSTER_ID, why);
        }
        let twin = image
            .brokers()
            .find(|other| other.node != asked.node && other.directory == asked.directory);
        if let Some(twin) = twin {
            let why = format!(
                "The data of gateway {node} are a copy of those of gateway {}; it has to start \
                 with an empty data folder, or the other one has to be removed from the cluster.",
                twin.node.0
            );
            return refuse(ErrorCode::INVALID_REGISTRATION, why);
        }
        let Some(known) = image.broker(asked.node) else {
            if image.brokers().count() < limits::BROKERS_MAX {
                return Ok(());
            }
            let why = format!("A cluster has at most {} gateways.", limits::BROKERS_MAX);
            return refuse(ErrorCode::POLICY_VIOLATION, why);
        };
        let session = self.sessions.get(&known.node);
        // The same store cannot be open twice, unless it was copied: then one of both is heard.
        let came_back =
            known.directory == asked.directory && session.is_none_or(|session| !session.in_person);
        let may = known.incarnation == asked.incarnation
            || known.fenced
            || came_back
            || asked.node == self.settings.node
            || self.is_silent(now, known.node);
        if may {
            return Ok(());
        }
        let why = format!(
            "Node id {node} is taken by the gateway at {}:{}, which was heard within the last \
             {} ms. Give this one another [node] id, or wait.",
            known.peer.0, known.peer.1, self.settings.session_ms
        );
        refuse(ErrorCode::DUPLICATE_BROKER_REGISTRATION, why)
    }

    pub fn heartbeat(
        &mut self,
        now: Time,
        image: &Image,
        heard: &Heartbeat,
    ) -> Decision<Result<Standing, ErrorCode>> {
        self.run(now, image);
        let broker = match check_epoch(image, heard.node, heard.epoch) {
            Ok(broker) => broker,
            Err(code) => return Decision::only(Err(code)),
        };
        self.hear(now, heard.node);
        let mut draft = Draft::new(image);
        let mut standing =
            Standing { fenced: broker.fenced, draining: broker.draining, may_stop: false };
        if heard.stopping && broker.fenced {
            standing.may_stop = true;
        } else if heard.stopping && !broker.draining {
            draft.drain(heard.node);
            standing.draining = true;
        } else if heard.stopping && others_can_lead(image, heard.node) {
            draft.relieve(heard.node);
        } else if heard.stopping {
            draft.fence(heard.node);
            (standing.fenced, standing.may_stop) = (true, true);
        } else if broker.fenced && heard.applied >= heard.epoch.0 {
            draft.unfence(heard.node, broker.draining);
            standing.fenced = false;
        }
        Decision { records: draft.into_records(), answer: Ok(standing) }
    }

    /// Empties a gateway of leaderships before maintenance, or takes it back into service. It stays
    /// a follower as long as it runs; a new start takes it back too.
    pub fn drain(
        &self,
        image: &Image,
        node: NodeId,
        draining: bool,
    ) -> Decision<Result<(), Refusal>> {
        let Some(broker) = image.broker(node) else { return Decision::only(Err(unknown(node))) };
        let mut draft = Draft::new(image);
        match draining {
            _ if broker.draining == draining => {}
            true if !broker.fenced => draft.drain(node),
            _ => draft.set_state_of(node, broker.fenced, draining),
        }
        Decision { records: draft.into_records(), answer: Ok(()) }
    }

    /// Forgets a gateway that will not come back.
    pub fn remove(&self, now: Time, image: &Image, node: NodeId) -> Decision<Result<(), Refusal>> {
        let Some(broker) = image.broker(node) else { return Decision::only(Err(unknown(node))) };
        let refuse =
            |why: String| Decision::only(Err(Refusal::new(ErrorCode::INVALID_REQUEST, why)));
        if !broker.fenced && !self.is_silent(now, node) {
            return refuse(format!("Gateway {} is alive; stop it first.", node.0));
        }
        let only = |state: &&PartitionState| {
            let mut complete = state.isr.iter().chain(&state.elr).peekable();
            complete.peek().is_some() && complete.all(|other| *other == node)
        };
        let states = image.replicas_on(node).filter_map(|number| image.state(number));
        let needed = states.filter(only).count();
        if needed > 0 {
            return refuse(format!(
                "Gateway {} has the only complete copy of {needed} partition(s): elect another \
                 leader for them (unclean) or delete their topics first.",
                node.0
            ));
        }
        let mut draft = Draft::new(image);
        draft.leave(node, Left::Wiped);
        draft.push(Record::BrokerRemoved { node });
        Decision { records: draft.into_records(), answer: Ok(()) }
    }

    /// Gives a gateway producer ids to hand out.
    pub fn producer_ids(
        &self,
        image: &Image,
        node: NodeId,
        epoch: BrokerEpoch,
        count: i64,
    ) -> Decision<Result<Range<i64>, ErrorCode>> {
        if let Err(code) = check_epoch(image, node, epoch) {
            return Decision::only(Err(code));
        }
        let first = image.next_producer_id();
        let end = first.saturating_add(count);
        let records = Vec::from([Record::NextProducerId { id: end }]);
        Decision { records, answer: Ok(first..end) }
    }
}

pub(super) fn check_epoch(
    image: &Image,
    node: NodeId,
    epoch: BrokerEpoch,
) -> Result<&super::super::Broker, ErrorCode> {
    let broker = image.broker(node).ok_or(ErrorCode::BROKER_ID_NOT_REGISTERED)?;
    match broker.epoch == epoch {
        true => Ok(broker),
        false => Err(ErrorCode::STALE_BROKER_EPOCH),
    }
}

fn unknown(node: NodeId) -> Refusal {
    let why = format!("There is no gateway {} in this cluster.", node.0);
    Refusal::new(ErrorCode::BROKER_ID_NOT_REGISTERED, why)
}

/// Whether it leads a partition that somebody else in sync could lead.
fn others_can_lead(image: &Image, node: NodeId) -> bool {
    image
        .led_by(node)
        .filter_map(|number| image.state(number))
        .any(|state| state.isr.iter().any(|other| *other != node && image.is_active(*other)))
}

/// Partitions of a release that knew no replicas are all on the gateway that had them, which is the
/// only one when it registers for the first time.
fn adopt(draft: &mut Draft<'_>, node: NodeId) {
    let image = draft.image;
    if image.brokers().any(|broker| broker.node != node) {
        return;
    }
    for topic in image.topics() {
        for (index, number) in (0..).zip(&topic.partitions) {
            if image.state(*number).is_none() {
                let state = PartitionState::alone(node);
                draft.push(Record::Partition { topic: topic.id, index, state });
            }
        }
    }
}
