//! What the leader of the metadata quorum decides about gateways and partitions.
//!
//! A decision looks at the image, which holds everything that was decided before, and at the time,
//! and says which records make it true; it changes nothing. The one thing that the [`Controller`]
//! itself remembers is when it heard of whom. That is neither replicated nor kept: a new controller
//! gives everybody a full session. Only its own monotonic clock counts.
//!
//! | gateway | event | then |
//! |---|---|---|
//! | unknown, or fenced, or silent for a session | registers | fenced, with a new broker epoch |
//! | fenced | heartbeat: it has read its registration | alive: it leads what nobody else could |
//! | alive | silent for a session | fenced: out of the in-sync sets, others lead |
//! | alive | drain, or heartbeat: it stops | draining: others lead what they can |
//! | draining | heartbeat: it stops, and leads nothing more | fenced, and it may stop |
//! | fenced | removed | unknown, if nobody needs what it has |
//!
//! Does not look at the wall clock, and does not move replicas by itself: a gateway that never
//! comes back is replaced by a reassignment that an operator asks for.

mod brokers;
mod draft;
mod election;
mod partitions;
mod reassign;

pub use brokers::{Heartbeat, Registration, Standing};
pub use election::Election;
pub use partitions::{Elected, IsrChange};
pub use reassign::Reassignment;

use super::{Image, Record};
use crate::limits;
use crate::types::{Nanos, NodeId, Time};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use draft::Draft;
use election::Cause;

/// How the controller judges.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The gateway that the controller runs on.
    pub node: NodeId,
    /// A gateway that is silent for so long is fenced.
    pub session_ms: u64,
    /// How often preferred leaders that are back get their partitions.
    pub imbalance_check_ms: u64,
}

impl Settings {
    /// For a radio-linked site: six heartbeats of the quorum.
    pub fn new(node: NodeId) -> Settings {
        Settings { node, session_ms: 1_500, imbalance_check_ms: 10_000 }
    }
}

/// What was decided: the records that make it true, and what is answered once they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<T> {
    pub records: Vec<Record>,
    pub answer: T,
}

impl<T> Decision<T> {
    /// Nothing changes.
    pub(super) fn only(answer: T) -> Decision<T> {
        Decision { records: Vec::new(), answer }
    }
}

/// What is left of the session of a gateway that was silent before this controller came.
const GRACE_MS: u64 = 300;
/// What is left of one whose connection has ended: gateways connect again within 200 ms.
const RECONNECT_MS: u64 = 700;

#[derive(Clone, Copy, Debug)]
struct Session {
    heard: Time,
    /// Whether this controller itself has heard the gateway, and does not only give it time.
    in_person: bool,
}

/// The controller of a cluster, from the moment that its gateway leads the quorum.
#[derive(Clone, Debug)]
pub struct Controller {
    settings: Settings,
    sessions: BTreeMap<NodeId, Session>,
    imbalance_check: Time,
}

impl Controller {
    pub fn new(now: Time, settings: Settings, image: &Image) -> Controller {
        let session = Session { heard: now, in_person: false };
        Controller {
            settings,
            sessions: image.brokers().map(|broker| (broker.node, session)).collect(),
            imbalance_check: now.plus_ms(settings.imbalance_check_ms),
        }
    }

    /// When [`tick`](Controller::tick) is due.
    pub fn deadline(&self, image: &Image) -> Time {
        let alive = image.brokers().filter(|broker| !broker.fenced);
        let ends = alive.filter_map(|broker| self.session_end(broker.node));
        ends.fold(self.imbalance_check, Time::min)
    }

    /// Fences who was silent for too long, and looks after preferred leaders.
    pub fn tick(&mut self, now: Time, image: &Image) -> Vec<Record> {
        self.run(now, image);
        let mut draft = Draft::new(image);
        for broker in image.brokers().filter(|broker| !broker.fenced) {
            if self.is_silent(now, broker.node) {
                log::warn!("gateway {} was silent for a session: it is fenced", broker.node.0);
                draft.fence(broker.node);
            }
        }
        if now >= self.imbalance_check {
            self.imbalance_check = now.plus_ms(self.settings.imbalance_check_ms);
            give_back(&mut draft);
        }
        draft.into_records()
    }

    /// Somebody who has slept through a deadline has not heard anybody meanwhile: what is silent
    /// is judged anew.
    fn run(&mut self, now: Time, image: &Image) {
        let late = now.since(self.deadline(image));
        if late > Nanos::from_ms(self.settings.session_ms / 4) {
            for session in self.sessions.values_mut() {
                session.heard = now;
            }
        }
    }

    /// A gateway has said something, whatever it was, in its present incarnation.
    pub fn heard(&mut self, now: Time, node: NodeId) {
        if let Some(session) = self.sessions.get_mut(&node) {
            *session = Session { heard: now, in_person: true };
        }
    }

    /// Its gateway heard that one before it led. Whoever is silent for long gets no full session
    /// from a new controller.
    pub fn heard_before(&mut self, now: Time, node: NodeId, heard: Time) {
        let least = self.at_most_left(now, GRACE_MS);
        if let Some(session) = self.sessions.get_mut(&node) {
            session.heard = heard.max(least).min(now);
        }
    }

    /// The connection to a gateway has ended: it is back soon, or dead.
    pub fn disconnected(&mut self, now: Time, node: NodeId) {
        let latest = self.at_most_left(now, RECONNECT_MS);
        if let Some(session) = self.sessions.get_mut(&node) {
            session.heard = session.heard.min(latest);
            session.in_person = false;
        }
    }

    /// When somebody was heard whose session ends that soon.
    fn at_most_left(&self, now: Time, left_ms: u64) -> Time {
        let ago = self.settings.session_ms.saturating_sub(left_ms) * 1_000_000;
        Time(now.0.saturating_sub(ago))
    }

    fn hear(&mut self, now: Time, node: NodeId) {
        self.sessions.insert(node, Session { heard: now, in_person: true });
    }

    fn session_end(&self, node: NodeId) -> Option<Time> {
        Some(self.sessions.get(&node)?.heard.plus_ms(self.settings.session_ms))
    }

    fn is_silent(&self, now: Time, node: NodeId) -> bool {
        self.session_end(node).is_none_or(|end| now >= end)
    }
}

/// Partitions go back to their preferred leaders where these are in sync again.
fn give_back(draft: &mut Draft<'_>) {
    let image = draft.image;
    let away = image.states().filter(|(_, state)| {
        let preferred = state.replicas.first().copied();
        state.leader.is_some()
            && state.leader != preferred
            && preferred.is_some_and(|node| state.is_in_sync(node) && image.is_active(node))
    });
    let preferred = Cause { election: Election::Preferred, ..Cause::default() };
    for (number, _) in away.take(limits::GIVEN_BACK_MAX) {
        draft.change(number, preferred, |_| {});
    }
    for broker in image.brokers().filter(|broker| broker.draining && !broker.fenced) {
        draft.relieve(broker.node);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
