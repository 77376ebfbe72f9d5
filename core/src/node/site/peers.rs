//! The other gateways of the site: what they say, and what this one says to them.

use super::super::changes::Change;
use super::super::{Node, Output};
use super::asks::Asker;
use crate::peer::Message;
use crate::peer::handshake::Hello;
use crate::types::{NodeId, Time};
use bytes::Bytes;
use serde::de::DeserializeOwned;

impl Node {
    pub(in crate::node) fn on_peer_up(&mut self, now: Time, node: NodeId, hello: Hello) {
        if !self.is_understood_by(node, hello.version) {
            return;
        }
        self.site.peers.insert(node, hello);
        self.on_replica_peer_up(now, node);
        self.site.asks.hurry();
        self.forward_parked(now);
    }

    pub(in crate::node) fn on_peer_down(&mut self, now: Time, node: NodeId) {
        self.site.peers.remove(&node);
        if let Some(controller) = &mut self.site.controller {
            controller.disconnected(now, node);
        }
        self.on_replica_peer_down(now, node);
        self.fail_asks(now, |controller| controller == node);
        self.fail_forwarded(node);
    }

    pub(in crate::node) fn tell_peer(&mut self, to: NodeId, message: Message) {
        self.outputs.push_back(Output::Send { to, message });
    }

    pub(in crate::node) fn on_peer(&mut self, now: Time, from: NodeId, message: Message) {
        if !self.site.is_connected(from) {
            return;
        }
        self.hear(now, from);
        match message {
            Message::Ping => {}
            Message::Quorum(bytes) => {
                if let Some(message) = said(from, &bytes)
                    && let Some(quorum) = &mut self.site.quorum
                {
                    quorum.handle(now, from, message);
                    self.poll_quorum(now);
                }
            }
            Message::Ask(bytes) => {
                if let Some((id, ask)) = said(from, &bytes)
                    && self.site.leads()
                {
                    self.change(now, Change::Asked(Asker::Peer(from, id), ask));
                }
            }
            Message::Told(bytes) => {
                if let Some((id, told)) = said(from, &bytes) {
                    self.on_told(now, from, id, told);
                }
            }
            Message::Fetch(bytes) => {
                if let Some((number, fetch)) = said(from, &bytes) {
                    self.on_replica_fetch(now, from, number, fetch);
                }
            }
            Message::Records(head, records) => {
                if let Some(said) = said(from, &head) {
                    let records = records.into_iter().next().unwrap_or_default();
                    self.on_replica_answer(now, from, said, records);
                }
            }
            Message::RangeFetch(bytes) => {
                if let Some((number, fetch)) = said(from, &bytes) {
                    self.on_range_fetch(now, from, number, fetch);
                }
            }
            Message::Range(head, records) => {
                if let Some(said) = said(from, &head) {
                    let records = records.into_iter().next().unwrap_or_default();
                    self.on_range_answer(now, from, said, records);
                }
            }
            Message::Request(frame) => self.on_forwarded(now, from, &frame),
            Message::Response(frame) => self.on_forwarded_answer(from, frame),
        }
    }
}

impl Node {
    /// A peer has said something: it lives, if it is the one that the controller knows.
    fn hear(&mut self, now: Time, from: NodeId) {
        let known = self.image.broker(from).map(|broker| broker.incarnation);
        let said = self.site.peers.get(&from).map(|hello| hello.incarnation);
        if known.is_none() || known != said {
            return;
        }
        self.site.heard.insert(from, now);
        self.renew_lease(now, from);
        if let Some(controller) = &mut self.site.controller {
            controller.heard(now, from);
        }
    }
}

fn said<T: DeserializeOwned>(from: NodeId, bytes: &Bytes) -> Option<T> {
    let said = postcard::from_bytes(bytes);
    let said = said.inspect_err(|_| log::warn!("gateway {} sent a malformed message", from.0));
    said.ok()
}
