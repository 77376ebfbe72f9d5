//! Everything of the MQTT side but sockets: bytes in, packets out, records to the log.
//!
//! One thread owns it. Whoever reads a socket gives the bytes to [`Hub::bytes`]; what a connection
//! is to be sent gathers in its output, so that the acknowledgements of one moment go out in one
//! write.

use super::connection::{Blocked, Connection, OUTPUT_BYTES_MAX, Phase};
use super::packet::{
    self, Framed, Packet, Refusal, Version, decode, disconnect, frame, pingresp, reason, response,
    suback, unsuback,
};
use super::session::{self, Session};
use super::source::Sources;
use super::status::Counters;
use super::wills::DueWill;
use crate::ingest::{Ingest, Place, Record, Ticket, TopicNumber};
use crate::rules::{Mapped, Rules};
use crate::settings;
use crate::slab::{Key, Slab};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

pub(crate) struct Hub {
    pub settings: settings::Mqtt,
    pub rules: Rules,
    pub counters: Arc<Counters>,
    pub ingest: Ingest,
    pub connections: Slab<Connection>,
    pub sessions: Slab<Session>,
    pub by_client: HashMap<Rc<str>, Key>,
    /// The topics of rules that always have the same.
    pub rule_topics: Vec<Option<TopicNumber>>,
    pub sessions_topic: TopicNumber,
    /// Sessions that are stored, and records written since their topic was trimmed.
    pub stored_count: usize,
    pub written_count: usize,
    pub trim: Option<Trim>,
    pub dirty_sessions: Vec<Key>,
    /// Connections with output that nobody has tried to write yet.
    pub dirty: Vec<Key>,
    pub blocked: Vec<Key>,
    pub wills: VecDeque<DueWill>,
    /// Those that are left wait at least until then.
    pub wills_wait_until: Option<Instant>,
    pub sources: Sources,
    /// Kept from message to message, so that nothing is allocated for it.
    pub mapped: Mapped,
    pub ids: Ids,
    nobody: Rc<str>,
}

/// The sessions' topic is being trimmed: every session is written anew, then what lies below goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trim {
    pub below: i64,
    /// Sessions whose new record is not durable yet.
    pub waiting: usize,
}

/// What the clocks say when bytes arrive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub now: Instant,
    /// Milliseconds since 1970.
    pub wall_ms: i64,
}

/// Numbers that do not come again, for names of sessions and clients.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    random: std::hash::RandomState,
    count: u64,
}

impl Ids {
    pub fn next(&mut self) -> u64 {
        use std::hash::BuildHasher;
        self.count += 1;
        self.random.hash_one(self.count)
    }
}

/// What became of a packet that is no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Taken,
    Wait(Blocked),
}

impl Hub {
    pub fn new(
        settings: &settings::Mqtt,
        rules: Rules,
        counters: Arc<Counters>,
        mut ingest: Ingest,
    ) -> Hub {
        let sessions_topic = ingest.topic(&session::topic(ingest.node()), 1, true);
        let rule_topics = (0..rules.len())
            .map(|rule| {
                rules.topic(rule).map(|name| ingest.topic(name, rules.partitions(rule), false))
            })
            .collect();
        Hub {
            settings: settings.clone(),
            rules,
            counters,
            ingest,
            connections: Slab::default(),
            sessions: Slab::default(),
            by_client: HashMap::new(),
            rule_topics,
            sessions_topic,
            stored_count: 0,
            written_count: 0,
            trim: None,
            dirty_sessions: Vec::new(),
            dirty: Vec::new(),
            blocked: Vec::new(),
            wills: VecDeque::new(),
            wills_wait_until: None,
            sources: Sources::default(),
            mapped: Mapped::default(),
            ids: Ids::default(),
            nobody: Rc::from(""),
        }
    }

    /// A new socket. `None`: there are so many that it is not even asked what it wants.
    pub fn accepted(&mut self, now: Instant) -> Option<Key> {
        // These many more may wait to be told that there are too many.
        const SURPLUS_MAX: usize = 64;
        let count = self.connections.len();
        if count >= self.settings.connections_max + SURPLUS_MAX {
            return None;
        }
        self.counters.connected.fetch_add(1, Relaxed);
        self.counters.connections.fetch_add(1, Relaxed);
        let surplus = count >= self.settings.connections_max;
        Some(self.connections.insert(Connection::new(now, surplus, self.nobody.clone())))
    }

    /// Bytes of a connection; returns how many were used. The rest comes again, with more behind
    /// it, or as it is once the connection is no longer blocked.
    pub fn bytes(&mut self, key: Key, bytes: &[u8], clock: Clock) -> usize {
        let Some(connection) = self.connections.get_mut(key) else { return bytes.len() };
        connection.heard = clock.now;
        let mut used = 0;
        while used < bytes.len() {
            let Some(connection) = self.connections.get_mut(key) else { return bytes.len() };
            if connection.has_ended() {
                return bytes.len();
            }
            if connection.out.len() > OUTPUT_BYTES_MAX {
                self.block(key, Blocked::Output);
                return used;
            }
            let (version, rest) = (connection.version, &bytes[used..]);
            if version.is_none() && rest[0] >> 4 != 1 {
                // Who does not speak MQTT is not asked for the rest of a packet.
                self.refuse(key, Refusal::protocol("the first packet is not a CONNECT"), clock.now);
                return bytes.len();
            }
            let step = match frame(rest, self.settings.packet_bytes_max) {
                Ok(Framed::Incomplete(_)) => return used,
                Ok(Framed::Whole { first, body, packet }) => {
                    let step = match version {
                        Some(version) if first >> 4 == 3 => {
                            self.publish(key, version, first, body, clock)
                        }
                        _ => self.packet(key, version, first, body, packet, clock.now),
                    };
                    step.map(|step| (step, packet.len()))
                }
                Err(refusal) => Err(refusal),
            };
            match step {
                Ok((Step::Taken, len)) => used += len,
                Ok((Step::Wait(why), _)) => {
                    self.block(key, why);
                    return used;
                }
                Err(refusal) => {
                    self.refuse(key, refusal, clock.now);
                    return bytes.len();
                }
            }
            if self.connections.get(key).is_none_or(|connection| connection.blocked.is_some()) {
                return used;
            }
        }
        used
    }

    /// Any packet but a PUBLISH.
    fn packet(
        &mut self,
        key: Key,
        version: Option<Version>,
        first: u8,
        body: &[u8],
        packet: &[u8],
        now: Instant,
    ) -> Result<Step, Refusal> {
        let packet = decode(version, first, body, packet).map_err(|(answer_in, refusal)| {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.version = connection.version.or(answer_in);
            }
            refusal
        })?;
        let version = version.unwrap_or(Version::V4);
        match packet {
            Packet::Connect(connect) => self.connect(key, *connect, now)?,
            Packet::PubRel { packet_identifier } => self.release(key, version, packet_identifier),
            Packet::Acknowledgement => {}
            Packet::PingReq => pingresp(self.output(key)),
            Packet::Subscribe { packet_identifier, filters } => {
                let reasons: Vec<u8> = filters.iter().map(|f| refused(version, &f.path)).collect();
                suback(version, packet_identifier, &reasons, self.output(key));
            }
            Packet::Unsubscribe { packet_identifier, filters_count } => {
                unsuback(version, packet_identifier, filters_count, self.output(key));
            }
            Packet::Disconnect { with_will, session_expiry } => {
                if let Some(expiry) = session_expiry {
                    self.change_expiry(key, expiry)?;
                }
                if !with_will && let Some(connection) = self.connections.get_mut(key) {
                    connection.will = None;
                }
                self.end(key, now);
            }
        }
        Ok(Step::Taken)
    }

    /// The output of a connection, which is going to be written.
    pub fn output(&mut self, key: Key) -> &mut Vec<u8> {
        let connection =
            self.connections.get_mut(key).expect("who is answered has sent something just now");
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(key);
        }
        &mut connection.out
    }

    fn block(&mut self, key: Key, why: Blocked) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.blocked = Some(why);
            if why != Blocked::Output {
                self.blocked.push(key);
            }
        }
    }

    /// Lets those go on whose reason to wait is gone.
    pub fn unblock(&mut self) {
        let window = usize::from(self.settings.receive_maximum) / 2;
        let Hub { blocked, connections, ingest, .. } = self;
        blocked.retain(|key| {
            let Some(connection) = connections.get_mut(*key) else { return false };
            let goes_on = match connection.blocked {
                Some(Blocked::Room(place)) => ingest.has_room_again(place),
                Some(Blocked::Window) => connection.pending_count() <= window,
                Some(Blocked::Session) => matches!(connection.phase, Phase::Open),
                _ => true,
            };
            if goes_on {
                connection.blocked = None;
                connection.wake();
            }
            !goes_on
        });
    }

    /// Ends a connection for what it sent, or for what was thought of it, and says why if MQTT has
    /// a way.
    pub fn refuse(&mut self, key: Key, refusal: Refusal, now: Instant) {
        let Some(connection) = self.connections.get(key) else { return };
        let (version, client) = (connection.version, connection.client_id.clone());
        let new = matches!(connection.phase, Phase::New);
        log::info!("mqtt: client \"{client}\" is refused: {}", refusal.why);
        self.counters.refused.fetch_add(1, Relaxed);
        match version {
            Some(version) if new && refusal.reason != 0 => {
                packet::connack(version, Err(refusal.reason), self.output(key));
            }
            Some(version) if !new => disconnect(version, refusal.reason, self.output(key)),
            _ => {}
        }
        self.end(key, now);
    }

    /// A PUBREL: the packet identifier is forgotten, durably if the session is.
    fn release(&mut self, key: Key, version: Version, packet_identifier: u16) {
        let session_key = self.connections.get(key).and_then(|connection| connection.session);
        let Some(session) = session_key.and_then(|key| self.sessions.get_mut(key)) else { return };
        let known = session.open.remove(&packet_identifier).is_some();
        if known && session.stored {
            let version = session.next_version();
            session.releases.push_back((version, packet_identifier));
            self.write_session(session_key);
            return;
        }
        if session.releases.iter().any(|(_, released)| *released == packet_identifier) {
            return;
        }
        let reason = match version {
            Version::V5 if !known => reason::PACKET_IDENTIFIER_NOT_FOUND,
            _ => reason::SUCCESS,
        };
        response::write(response::PUBCOMP, packet_identifier, reason, self.output(key));
        self.counters.acks.fetch_add(1, Relaxed);
    }

    /// Where a message goes by the rule that matched; the default topic if there are too many
    /// topics.
    pub fn topic(&mut self) -> TopicNumber {
        let rule = self.mapped.rule;
        if let Some(topic) = self.rule_topics[rule] {
            return topic;
        }
        let known = self.ingest.knows(&self.mapped.topic);
        // The sessions' topic is one of them, too.
        let fixed = self.rule_topics.iter().flatten().count() + 1;
        if !known && self.ingest.topics_count() >= self.settings.topics_max + fixed {
            let last = self.rule_topics.last().copied().flatten();
            return last.expect("the default rule has a topic of its own");
        }
        self.ingest.topic(&self.mapped.topic, self.rules.partitions(rule), false)
    }

    /// Puts a session on the list of those that are written next.
    pub fn write_session(&mut self, key: Option<Key>) {
        if let Some(key) = key
            && let Some(session) = self.sessions.get_mut(key)
            && !session.dirty
        {
            session.dirty = true;
            self.dirty_sessions.push(key);
        }
    }

    /// Makes the records of sessions that have changed. Call before a request is sent.
    pub fn flush_sessions(&mut self, clock: Clock) {
        for key in std::mem::take(&mut self.dirty_sessions) {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            session.dirty = false;
            session.written = session.next_version();
            let ticket = Ticket::Session { session: key, version: session.written };
            let ingest = &self.ingest;
            let end = |place: Place| {
                let (topic, index) = ingest.name(place);
                (topic, index, ingest.end(place))
            };
            let value = session.record(end).encode();
            let client_id = session.client_id.clone();
            self.push_session(&client_id, Some(&value), ticket, clock);
        }
    }

    /// Writes a session's record, or that there is none any more.
    pub fn push_session(
        &mut self,
        client_id: &str,
        value: Option<&[u8]>,
        ticket: Ticket,
        clock: Clock,
    ) {
        let key = client_id.as_bytes();
        let place = self.ingest.place(self.sessions_topic, key);
        let record = Record { timestamp: clock.wall_ms, key, value, headers: &[] };
        self.ingest.push(place, &record, ticket, clock.now);
        self.written_count += 1;
    }
}

/// Why a subscription is refused: there are none yet.
fn refused(version: Version, filter: &str) -> u8 {
    match version {
        Version::V4 => reason::UNSPECIFIED_ERROR,
        Version::V5 if filter.starts_with("$share/") => reason::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED,
        Version::V5 => reason::IMPLEMENTATION_SPECIFIC_ERROR,
    }
}
