//! What a gateway asks of the controller, which is one of its peers or itself.
//!
//! | asked | when | if it is not answered |
//! |---|---|---|
//! | register | this incarnation is not in the image | again, with each heartbeat |
//! | heartbeat | often while it joins or leaves, now and then else | again |
//! | to be out of sync | some of its records are lost to damage | again, with the next look |
//! | in-sync sets | a leader wishes for another one | its leader wishes again |
//! | producer ids | none are left | whoever waits is told to try again |
//! | topics | a client looked for one that is not there | the client looks again |
//!
//! What is asked is lost with the connection, and with the controller. Whatever a gateway says lets
//! the controller hear that it is there: heartbeats say what nothing else does, that it has applied
//! its registration, and that it wants to stop.

use super::super::Node;
use super::super::changes::{Change, Then};
use crate::error::ErrorCode;
use crate::metadata::controller::{Heartbeat, IsrChange, Registration, Standing};
use crate::peer::Message;
use crate::types::{BrokerEpoch, NodeId, PartitionNumber, Time};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use serde::{Deserialize, Serialize};

/// How often a gateway asks that is not in yet, or about to go, and how often one that has nothing
/// to ask for.
const HEARTBEAT_MS: u64 = 300;
const HEARTBEAT_IDLE_MS: u64 = 3_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::node) enum Ask {
    Register(Registration),
    Heartbeat(Heartbeat),
    AlterPartitions {
        node: NodeId,
        epoch: BrokerEpoch,
        wishes: Vec<IsrChange>,
    },
    ProducerIds {
        node: NodeId,
        epoch: BrokerEpoch,
    },
    /// A part of what it has of that partition is lost.
    Lost {
        node: NodeId,
        epoch: BrokerEpoch,
        number: PartitionNumber,
    },
    /// Topics of these names, as `num.partitions` and the other defaults say.
    CreateTopics(Vec<String>),
    /// `__consumer_offsets`.
    CreateOffsets,
}

/// What the controller says when what was asked is decided, and committed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::node) enum Told {
    /// It was not taken; later perhaps.
    Failed,
    /// It is in the metadata, up to that entry.
    Done(u64),
    Registered(Result<(), String>),
    Standing(Result<Standing, ErrorCode>),
    Altered(Result<Vec<Result<(), ErrorCode>>, ErrorCode>),
    ProducerIds(Result<Range<i64>, ErrorCode>),
}

/// Who asked.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) enum Asker {
    Own(u64),
    Peer(NodeId, u64),
}

/// What this gateway goes on with when it is told.
#[derive(Debug)]
pub(in crate::node) enum After {
    Nothing,
    Then(Then),
    ProducerIds,
    Wishes(Vec<PartitionNumber>),
}

#[derive(Debug, Default)]
pub(in crate::node) struct Asks {
    last: u64,
    /// What was asked, of which controller.
    open: BTreeMap<u64, (NodeId, After)>,
    /// What waits until the image has that entry.
    until: BTreeMap<u64, Vec<Then>>,
    heartbeat: Time,
    /// Why the controller refuses this gateway, as it was last said.
    refused: String,
    /// This gateway is about to stop, and asks whether it may.
    pub stopping: bool,
    pub may_stop: bool,
}

impl Asks {
    /// Numbers begin elsewhere with each incarnation: what the last one asked may be answered yet.
    pub fn new(incarnation: [u8; 16]) -> Asks {
        let [a, b, c, d, ..] = incarnation;
        Asks { last: u64::from(u32::from_le_bytes([a, b, c, d])) << 32, ..Asks::default() }
    }

    pub fn deadline(&self) -> Time {
        self.heartbeat
    }

    /// Asks again at once: something has changed.
    pub fn hurry(&mut self) {
        self.heartbeat = Time::ZERO;
    }
}

impl Node {
    pub(in crate::node) fn ask(&mut self, now: Time, ask: Ask, after: After) {
        let me = self.settings.node;
        let controller = self.site.controller_id();
        let controller = controller.filter(|it| *it == me || self.site.is_connected(*it));
        let Some(controller) = controller else { return self.ask_failed(now, after) };
        self.site.asks.last += 1;
        let id = self.site.asks.last;
        self.site.asks.open.insert(id, (controller, after));
        if controller == me {
            return self.change(now, Change::Asked(Asker::Own(id), ask));
        }
        let bytes = postcard::to_allocvec(&(id, ask));
        let bytes = bytes.expect("what is asked has no type that postcard lacks");
        self.tell_peer(controller, Message::Ask(bytes.into()));
    }

    /// The controller says what became of something.
    pub(in crate::node) fn tell(&mut self, now: Time, asker: Asker, told: Told) {
        match asker {
            Asker::Own(id) => self.on_told(now, self.settings.node, id, told),
            Asker::Peer(node, id) => {
                let bytes = postcard::to_allocvec(&(id, told));
                let bytes = bytes.expect("what is told has no type that postcard lacks");
                self.tell_peer(node, Message::Told(bytes.into()));
            }
        }
    }

    pub(super) fn on_told(&mut self, now: Time, from: NodeId, id: u64, told: Told) {
        let asked = self.site.asks.open.remove(&id);
        let Some((_, after)) = asked.filter(|(controller, _)| *controller == from) else { return };
        match (told, after) {
            (Told::Done(index), After::Then(then)) if index > self.site.applied => {
                self.site.asks.until.entry(index).or_default().push(then);
            }
            (Told::Done(_), After::Then(then)) => self.then(now, then),
            (Told::Registered(Err(why)), _) => {
                if self.site.asks.refused != why {
                    log::error!("the controller, gateway {}, refuses this one: {why}", from.0);
                }
                self.site.asks.refused = why;
            }
            (Told::Standing(Ok(standing)), _) => {
                self.site.asks.may_stop |= standing.may_stop && self.site.asks.stopping;
                self.leave(now);
            }
            (Told::Altered(altered), After::Wishes(numbers)) => {
                let granted = altered.unwrap_or_default();
                let granted = granted.into_iter().map(|one| one.is_ok());
                let all = numbers.into_iter().zip(granted.chain(core::iter::repeat(false)));
                for (number, _) in all.filter(|(_, granted)| !granted) {
                    self.on_wish_refused(now, number);
                }
            }
            (Told::ProducerIds(Ok(block)), _) => self.on_producer_ids(now, block),
            (Told::Failed, after) | (_, after @ After::ProducerIds) => self.ask_failed(now, after),
            _ => {}
        }
    }

    /// What was asked reaches nobody.
    fn ask_failed(&mut self, now: Time, after: After) {
        match after {
            After::Nothing => {}
            After::Then(then) => self.then(now, then),
            After::ProducerIds => self.on_no_producer_ids(ErrorCode::COORDINATOR_NOT_AVAILABLE),
            After::Wishes(numbers) => {
                for number in numbers {
                    self.on_wish_refused(now, number);
                }
            }
        }
    }

    /// A peer is gone, or is not the controller any more.
    pub(super) fn fail_asks(&mut self, now: Time, gone: impl Fn(NodeId) -> bool) {
        let open = core::mem::take(&mut self.site.asks.open);
        let (failed, open) = open.into_iter().partition(|(_, (controller, _))| gone(*controller));
        self.site.asks.open = open;
        let failed: BTreeMap<u64, (NodeId, After)> = failed;
        for (_, after) in failed.into_values() {
            self.ask_failed(now, after);
        }
    }

    /// The image has all entries up to there.
    pub(super) fn after_applied(&mut self, now: Time, index: u64) {
        let later = self.site.asks.until.split_off(&(index + 1));
        let due = core::mem::replace(&mut self.site.asks.until, later);
        for then in due.into_values().flatten() {
            self.then(now, then);
        }
    }

    /// Registers, or says that this gateway is there. The controller hears its own without that.
    pub(super) fn beat(&mut self, now: Time) {
        if now < self.site.asks.heartbeat || !self.site.beats(&self.image) {
            return;
        }
        let settled = self.image.is_alive(self.settings.node) && !self.site.asks.stopping;
        let ask = self.heartbeat();
        let pause = if ask.is_some() && settled { HEARTBEAT_IDLE_MS } else { HEARTBEAT_MS };
        self.site.asks.heartbeat = now.plus_ms(pause);
        let ask = match ask {
            Some(heartbeat) => Ask::Heartbeat(heartbeat),
            None => Ask::Register(self.registration()),
        };
        self.ask(now, ask, After::Nothing);
    }
}
