//! Connections: whoever asked, and answers in the order of the questions.
//!
//! Kafka's clients match answers to requests by their order. A request opens a slot; its answer is
//! put into the slot whenever it is there, and leaves when everything in front of it has left.

use super::Output;
use crate::types::ConnId;
use crate::wire::{self, ApiKey, Frame, Message};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;

/// Connections of peers' clients, as the controller sees them: one for each with a peer.
pub(super) const OF_PEERS: u64 = 1 << 63;

pub(super) fn is_of_peer(conn: ConnId) -> bool {
    conn.0 & OF_PEERS != 0
}

/// Whom an answer is for, and how it must look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Caller {
    pub conn: ConnId,
    /// Counts the connection's requests.
    pub sequence: u64,
    pub api: ApiKey,
    pub version: i16,
    pub correlation_id: i32,
}

impl Caller {
    /// The answer as it leaves.
    pub fn frame<M: Message>(self, response: &M) -> Frame {
        wire::encode_response(response, self.api, self.version, self.correlation_id)
    }
}

#[derive(Debug)]
enum Slot {
    Waiting,
    Answered(Answered),
}

#[derive(Debug)]
pub(super) enum Answered {
    Reply(Frame),
    /// `acks=0` has no answer.
    NoReply,
    Close,
}

#[derive(Debug, Default)]
pub(super) struct Connection {
    pub client_id: String,
    pub software: String,
    /// The client's address. Empty when the driver does not say.
    pub host: String,
    /// Requests so far: the sequence of the next one.
    pub requests: u64,
    /// Slots from the oldest unanswered request on.
    slots: VecDeque<Slot>,
    /// Nothing more is answered: the peer is malformed.
    closing: bool,
}

impl Connection {
    pub fn waiting(&self) -> usize {
        self.slots.len()
    }
}

#[derive(Debug, Default)]
pub(super) struct Connections {
    by_id: BTreeMap<ConnId, Connection>,
}

impl Connections {
    pub fn open(&mut self, conn: ConnId, host: String) {
        self.by_id.entry(conn).or_default().host = host;
    }

    /// Opens a slot for a request, and says its sequence. `None` when the connection is being
    /// closed.
    pub fn open_slot(&mut self, conn: ConnId, client_id: Option<&str>) -> Option<u64> {
        let connection = self.by_id.entry(conn).or_default();
        if connection.closing {
            return None;
        }
        if let Some(client_id) = client_id.filter(|id| *id != connection.client_id) {
            connection.client_id = client_id.into();
        }
        connection.slots.push_back(Slot::Waiting);
        connection.requests += 1;
        Some(connection.requests - 1)
    }

    /// Fills a slot, and lets out what may leave now. A connection that is gone is nobody's loss.
    pub fn answer(
        &mut self,
        conn: ConnId,
        sequence: u64,
        answered: Answered,
        outputs: &mut VecDeque<Output>,
    ) {
        let Some(connection) = self.by_id.get_mut(&conn) else { return };
        let first = connection.requests - connection.slots.len() as u64;
        let at = sequence.checked_sub(first).and_then(|at| usize::try_from(at).ok());
        if let Some(slot) = at.and_then(|at| connection.slots.get_mut(at)) {
            *slot = Slot::Answered(answered);
        }
        while let Some(Slot::Answered(_)) = connection.slots.front() {
            let Some(Slot::Answered(answered)) = connection.slots.pop_front() else { return };
            outputs.push_back(match answered {
                Answered::Reply(frame) => Output::Reply { conn, frame },
                Answered::NoReply => Output::NoReply { conn },
                // A peer's clients share a connection, which goes on.
                Answered::Close if is_of_peer(conn) => Output::Close { conn },
                Answered::Close => {
                    connection.slots.clear();
                    connection.closing = true;
                    Output::Close { conn }
                }
            });
        }
    }

    pub fn get_mut(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.by_id.get_mut(&conn)
    }

    pub fn get(&self, conn: ConnId) -> Option<&Connection> {
        self.by_id.get(&conn)
    }

    pub fn remove(&mut self, conn: ConnId) {
        self.by_id.remove(&conn);
    }

    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &Connection)> {
        self.by_id.iter().map(|(id, connection)| (*id, connection))
    }
}
