//! A session: what the gateway remembers of a client beyond its connection, and how that survives.
//!
//! A QoS 2 publish must be stored once, whatever is killed when. A record and the memory of its
//! packet identifier lie in different partitions, and nothing writes two partitions at once; so the
//! record itself carries its identity (header `mqtt.exchange`: session, sequence, packet
//! identifier), and the session's record in `__mqtt_sessions-N` says from which offsets on
//! such records have to be looked for:
//!
//! ```text
//! event                                 durable before it is answered         answer
//! first QoS 2 publish to a partition    session with the partition's position (goes on)
//! QoS 2 publish                         the record, with its identity         PUBREC
//! PUBREL                                session without the identifier        PUBCOMP
//! end of the connection                 session without positions, later      none
//! start of the gateway                  positions are read on to the end: what is there and is
//!                                       not older than the session's record is an open identifier
//! ```
//!
//! A position is the partition's end as acknowledged when the session's record was made; everything
//! that was not acknowledged then lies above. Each session's record carries new ones, so the start
//! reads what came since the last PUBREL of each session that was connected at the cut. A session
//! of one connection (clean, no expiry) ends with the gateway and needs none of this.
//!
//! The start looks at what the leader of a partition has, and that may be another gateway. What
//! was on its way there when this one was killed must not arrive later: the record would be in the
//! log, its identifier not open, and the publish that the device repeats be stored again. So the
//! connection is reset by the end of the process, and its kernel sends nothing more; no more
//! requests are under way than a leader reads at once; and a leader that was frozen leads nothing
//! when it goes on. What remains is a leader that has so little memory for requests that it leaves
//! the last ones unread while this gateway dies, starts and looks: what it reads then is stored
//! twice. To close that, it would have to refuse what an earlier life of a gateway has sent, once
//! it was asked by the next.
//!
//! Why each gateway of a site has a topic of its own for them, and shares none (2026-11): a session
//! belongs to the gateway that the device connected to, and only that one writes, trims and reads
//! its records; so no two gateways can disagree about it, and none waits for another to hand it
//! over. A device that reconnects to another gateway is served from what it finds there: "session
//! present" says that it is not the one it left, and MQTT has it begin anew. What it published
//! without an answer it sends again: at least once holds across gateways, exactly once while a
//! device comes back to the same one. Taking over a client identifier and delayed wills end at the
//! gateway, too. The topic is replicated like any other: a gateway that was wiped finds it again.

use super::packet::Will;
use crate::ingest::Place;
use crate::slab::Key;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;
use weir_core::types::NodeId;

/// Where a gateway's sessions are kept: key is the client identifier, value a [`SessionRecord`].
pub(crate) fn topic(node: NodeId) -> String {
    format!("__mqtt_sessions-{}", node.0)
}

/// The header that identifies a QoS 2 publish of a session that is stored.
pub(crate) const EXCHANGE_HEADER: &str = "mqtt.exchange";

/// The first byte of a session's record. A gateway that is older than the record leaves it alone.
const FORMAT: u8 = 1;

#[derive(Debug)]
pub(crate) struct Session {
    pub client_id: Rc<str>,
    /// Tells this session from earlier ones of the same client.
    pub id: u64,
    /// Sequence of the next QoS 2 publish.
    pub next: u64,
    /// Packet identifiers of QoS 2 publishes that were not released.
    pub open: BTreeMap<u16, Exchange>,
    /// Partitions to look at after a cut.
    pub positions: Vec<Position>,
    pub connection: Option<Key>,
    /// Seconds for which it outlives its connection.
    pub expiry: u32,
    /// Since when it has none.
    pub ended: Option<Instant>,
    /// It has, or is going to have, a record.
    pub stored: bool,
    /// On the list of those that have to be written.
    pub dirty: bool,
    /// The version of the record that was written last, and the last that is durable.
    pub written: u32,
    pub durable: u32,
    /// PUBCOMPs that wait for a version.
    pub releases: VecDeque<(u32, u16)>,
    /// A version that the trimming of the topic waits for.
    pub trim: Option<u32>,
    /// A will whose delay runs.
    pub will: Option<(Instant, Will)>,
}

/// A QoS 2 publish that was not released yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exchange {
    pub sequence: u64,
    pub durable: bool,
    /// The connection that gets the PUBREC, and the number among its answers.
    pub waiting: Option<(Key, u32)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    pub place: Place,
    /// The version of the record that has it first.
    pub version: u32,
}

/// A session as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionRecord {
    pub id: u64,
    pub expiry: u32,
    pub next: u64,
    /// Packet identifier, sequence, and whether the publish was durable.
    pub open: Vec<(u16, u64, bool)>,
    /// Topic, partition and offset.
    pub positions: Vec<(String, i32, i64)>,
}

impl SessionRecord {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend(postcard::to_allocvec(self).expect("a session's record has a size"));
        bytes
    }

    /// `None`: bytes that are no session of this format.
    pub fn decode(bytes: &[u8]) -> Option<SessionRecord> {
        match bytes.split_first() {
            Some((&FORMAT, bytes)) => postcard::from_bytes(bytes).ok(),
            _ => None,
        }
    }

    /// Whether a publish that is found after a position still waits for its PUBREL.
    pub fn is_open(&self, packet_identifier: u16, sequence: u64) -> bool {
        sequence >= self.next || self.open.contains(&(packet_identifier, sequence, false))
    }
}

impl Session {
    pub fn new(client_id: Rc<str>, id: u64) -> Session {
        Session {
            client_id,
            id,
            next: 0,
            open: BTreeMap::new(),
            positions: Vec::new(),
            connection: None,
            expiry: 0,
            ended: None,
            stored: false,
            dirty: false,
            written: 0,
            durable: 0,
            releases: VecDeque::new(),
            trim: None,
            will: None,
        }
    }

    /// As its record says, after the partitions were looked at: `found` are the open publishes
    /// there.
    pub fn restored(
        client_id: Rc<str>,
        record: &SessionRecord,
        found: &[(u16, u64)],
        now: Instant,
    ) -> Session {
        let durable = record.open.iter().filter(|(_, _, durable)| *durable);
        let known = durable.map(|(identifier, sequence, _)| (*identifier, *sequence));
        let open: BTreeMap<u16, Exchange> = known
            .chain(found.iter().copied())
            .map(|(id, sequence)| (id, Exchange { sequence, durable: true, waiting: None }))
            .collect();
        let after = found.iter().map(|(_, sequence)| sequence + 1).max().unwrap_or(0);
        Session {
            open,
            next: record.next.max(after),
            expiry: record.expiry,
            ended: Some(now),
            stored: true,
            ..Session::new(client_id, record.id)
        }
    }

    /// The version that the next record is going to have.
    pub fn next_version(&self) -> u32 {
        self.written.wrapping_add(1)
    }

    /// Whether a version of the record is durable.
    pub fn is_durable(&self, version: u32) -> bool {
        (self.durable.wrapping_sub(version) as i32) >= 0
    }

    pub fn all_durable(&self) -> bool {
        self.open.values().all(|exchange| exchange.durable)
    }

    /// Its record at this moment; `end` says where partitions end.
    pub fn record<'a>(&self, end: impl Fn(Place) -> (&'a str, i32, i64)) -> SessionRecord {
        SessionRecord {
            id: self.id,
            expiry: self.expiry,
            next: self.next,
            open: self
                .open
                .iter()
                .map(|(identifier, exchange)| (*identifier, exchange.sequence, exchange.durable))
                .collect(),
            positions: self
                .positions
                .iter()
                .map(|position| {
                    let (topic, index, offset) = end(position.place);
                    (topic.into(), index, offset)
                })
                .collect(),
        }
    }
}

/// The value of [`EXCHANGE_HEADER`].
pub(crate) fn exchange(id: u64, sequence: u64, packet_identifier: u16) -> String {
    format!("{id:016x}.{sequence}.{packet_identifier}")
}

/// Session, sequence and packet identifier of a header's value.
pub(crate) fn parse_exchange(value: &[u8]) -> Option<(u64, u64, u16)> {
    let mut parts = std::str::from_utf8(value).ok()?.split('.');
    let id = u64::from_str_radix(parts.next()?, 16).ok()?;
    let sequence = parts.next()?.parse().ok()?;
    let packet_identifier = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((id, sequence, packet_identifier))
}
