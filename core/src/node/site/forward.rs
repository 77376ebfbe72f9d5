//! Requests of clients that only the controller can decide about: a gateway that is not the
//! controller hands them on as they are, and hands its answers back.
//!
//! Requests to a peer are answered in their order, as those of a client's connection. Each
//! connection of a peer is another one: what was asked over the last is not answered over the next.
//! While no controller can be reached they wait for one, but no longer than their clients do.

use super::super::connections::{Answered, Caller, OF_PEERS, is_of_peer};
use super::super::{Node, Output};
use crate::peer::Message;
use crate::types::{ConnId, NodeId, Time};
use crate::wire::{ApiKey, Frame};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;

/// How long a request waits for a controller. Clients wait 30 s, and elections take 2 s.
const PARKED_MS: u64 = 10_000;
/// How many requests wait for one.
const PARKED_MAX: usize = 64;

/// So many bits of a connection's number say which one of its peer it is.
const ENDED_MASK: u32 = 0x3fff_ffff;

#[derive(Debug, Default)]
pub(in crate::node) struct Forwarded {
    /// Whoever waits for an answer of which peer, in the order of the requests.
    sent: BTreeMap<NodeId, VecDeque<Caller>>,
    parked: VecDeque<(Time, Caller, Bytes)>,
    /// How many connections with a peer have ended.
    ended: BTreeMap<NodeId, u32>,
}

impl Forwarded {
    pub fn deadline(&self) -> Option<Time> {
        self.parked.front().map(|(until, ..)| *until)
    }

    /// The connection of a peer as it is now.
    fn conn_of(&self, peer: NodeId) -> ConnId {
        let ended = self.ended.get(&peer).copied().unwrap_or(0) & ENDED_MASK;
        ConnId(OF_PEERS | u64::from(ended) << 32 | u64::from(peer.0.unsigned_abs()))
    }
}

/// Whether only the controller answers this.
pub(in crate::node) fn is_for_controller(api: ApiKey) -> bool {
    matches!(
        api,
        ApiKey::CreateTopics
            | ApiKey::DeleteTopics
            | ApiKey::CreatePartitions
            | ApiKey::IncrementalAlterConfigs
            | ApiKey::AlterConfigs
            | ApiKey::ElectLeaders
            | ApiKey::AlterPartitionReassignments
            | ApiKey::ListPartitionReassignments
            | ApiKey::DescribeQuorum
            | ApiKey::UnregisterBroker
            | ApiKey::AddRaftVoter
            | ApiKey::RemoveRaftVoter
    )
}

impl Node {
    /// Hands a request to the controller, which is another gateway or not known.
    pub(in crate::node) fn forward(&mut self, now: Time, caller: Caller, frame: Bytes) {
        let parked = &mut self.site.forwarded.parked;
        if parked.len() >= PARKED_MAX {
            return self.close(caller);
        }
        parked.push_back((now.plus_ms(PARKED_MS), caller, frame));
        self.forward_parked(now);
    }

    /// Hands on what waits, if there is a controller.
    pub(in crate::node) fn forward_parked(&mut self, now: Time) {
        let me = self.settings.node;
        let controller = self.site.controller_id();
        let Some(controller) = controller.filter(|it| *it == me || self.site.is_connected(*it))
        else {
            return;
        };
        if controller == me && !self.site.leads() {
            return;
        }
        for (_, caller, frame) in core::mem::take(&mut self.site.forwarded.parked) {
            if controller == me {
                self.answer_frame(now, caller, &frame);
                continue;
            }
            self.site.forwarded.sent.entry(controller).or_default().push_back(caller);
            self.tell_peer(controller, Message::Request(frame));
        }
    }

    pub(super) fn expire_parked(&mut self, now: Time) {
        while let Some((until, caller, _)) = self.site.forwarded.parked.front()
            && *until <= now
        {
            let caller = *caller;
            self.site.forwarded.parked.pop_front();
            self.close(caller);
        }
    }

    /// Nobody knows what became of what this peer was asked: clients ask again.
    pub(super) fn fail_forwarded(&mut self, peer: NodeId) {
        for caller in self.site.forwarded.sent.remove(&peer).into_iter().flatten() {
            self.close(caller);
        }
        let conn = self.site.forwarded.conn_of(peer);
        self.connections.remove(conn);
        let ended = self.site.forwarded.ended.entry(peer).or_default();
        *ended = ended.wrapping_add(1);
    }

    /// A peer's client asks this gateway, which is the controller or was it.
    pub(super) fn on_forwarded(&mut self, now: Time, from: NodeId, frame: &Bytes) {
        self.on_request(now, self.site.forwarded.conn_of(from), frame);
    }

    pub(super) fn on_forwarded_answer(&mut self, from: NodeId, frame: Bytes) {
        let sent = self.site.forwarded.sent.get_mut(&from);
        let Some(caller) = sent.and_then(VecDeque::pop_front) else { return };
        // A peer answers with nothing when it would end the connection.
        if frame.is_empty() {
            return self.close(caller);
        }
        let size = (frame.len() as u32).to_be_bytes();
        let frame = Frame(Vec::from([Bytes::copy_from_slice(&size), frame]));
        self.connections.answer(
            caller.conn,
            caller.sequence,
            Answered::Reply(frame),
            &mut self.outputs,
        );
    }
}

/// An answer to a peer's client goes to the peer.
pub(in crate::node) fn to_peer(output: Output) -> Output {
    let peer = |conn: ConnId| NodeId(conn.0 as u32 as i32);
    match output {
        Output::Reply { conn, frame } if is_of_peer(conn) => {
            let bytes: Vec<u8> = frame.0.iter().flatten().copied().skip(4).collect();
            Output::Send { to: peer(conn), message: Message::Response(bytes.into()) }
        }
        Output::Close { conn } | Output::NoReply { conn } if is_of_peer(conn) => {
            Output::Send { to: peer(conn), message: Message::Response(Bytes::new()) }
        }
        other => other,
    }
}
