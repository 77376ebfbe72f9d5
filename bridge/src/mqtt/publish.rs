//! From a PUBLISH to a record in the open batch.

use super::connection::Blocked;
use super::hub::{Clock, Hub, Step};
use super::packet::{Properties, Publish, Refusal, Value, Version, property, reason, response};
use super::session::{EXCHANGE_HEADER, Exchange, Position, exchange};
use crate::ingest::{Place, Record, Ticket};
use crate::rules::{Key as RecordKey, Message};
use crate::slab::Key;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

/// Client, topic and the rest of a message on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming<'a> {
    pub client_id: &'a str,
    pub topic: &'a str,
    pub publish: &'a Publish<'a>,
}

impl Hub {
    /// A PUBLISH of a connection.
    pub(super) fn publish(
        &mut self,
        key: Key,
        version: Version,
        first: u8,
        body: &[u8],
        clock: Clock,
    ) -> Result<Step, Refusal> {
        let publish = Publish::parse(version, first, body)?;
        let named = self.alias(key, &publish)?;
        let topic = named.as_deref().unwrap_or(publish.topic);
        if let Some(wait) = self.window(key, version, &publish)? {
            return Ok(wait);
        }
        if publish.qos == 2 && self.repeated(key, &publish) {
            return Ok(Step::Taken);
        }
        let Some(connection) = self.connections.get(key) else { return Ok(Step::Taken) };
        let client_id = connection.client_id.clone();
        let message = Incoming { client_id: &client_id, topic, publish: &publish };
        let place = match self.place(&message) {
            Ok(place) => place,
            Err(why) => return Ok(Step::Wait(why)),
        };
        if publish.qos > 0 && version == Version::V5 && self.ingest.is_full(clock.now) {
            self.quota_exceeded(key, &publish);
            return Ok(Step::Taken);
        }
        let refusable = version == Version::V5;
        match publish.qos {
            0 => self.push(place, &message, None, Ticket::Nobody, clock),
            1 => {
                let Some(connection) = self.connections.get_mut(key) else {
                    return Ok(Step::Taken);
                };
                let number = connection.owe(response::PUBACK, publish.packet_identifier);
                let ticket = Ticket::Publish { connection: key, number, refusable };
                self.push(place, &message, None, ticket, clock);
            }
            _ => return Ok(self.exactly(key, place, &message, refusable, clock)),
        }
        Ok(Step::Taken)
    }

    /// The topic that an alias stands for, or `None` if the packet names its topic.
    fn alias(&mut self, key: Key, publish: &Publish) -> Result<Option<Rc<str>>, Refusal> {
        let Some(alias) = publish.alias else { return Ok(None) };
        if alias > self.settings.topic_alias_maximum {
            let why = "a topic alias is larger than is allowed";
            return Err(Refusal::new(reason::TOPIC_ALIAS_INVALID, why));
        }
        let Some(connection) = self.connections.get_mut(key) else { return Ok(None) };
        let at = usize::from(alias) - 1;
        if publish.topic.is_empty() {
            let known = connection.aliases.get(at).cloned().flatten();
            return known.map(Some).ok_or(Refusal::protocol("a topic alias stands for nothing"));
        }
        if connection.aliases.len() <= at {
            connection.aliases.resize(at + 1, None);
        }
        connection.aliases[at] = Some(publish.topic.into());
        Ok(None)
    }

    /// Whether the connection has too many publishes in flight for one more. MQTT 5 forbids to send
    /// it; in 3.1.1 it waits, but for QoS 2, where a PUBREL that has to come first may stand
    /// behind it.
    fn window(
        &self,
        key: Key,
        version: Version,
        publish: &Publish,
    ) -> Result<Option<Step>, Refusal> {
        let window = usize::from(self.settings.receive_maximum);
        let Some(connection) = self.connections.get(key) else { return Ok(None) };
        let open = match connection.session.and_then(|session| self.sessions.get(session)) {
            Some(session) if publish.qos == 2 => session.open.len(),
            _ => 0,
        };
        let known = publish.qos == 2 && publish.dup;
        let full = connection.pending_count() >= window;
        if publish.qos == 0 || (!full && (open < window || known)) {
            return Ok(None);
        }
        if version == Version::V5 || !full {
            let why = "more publishes are in flight than Receive Maximum";
            return Err(Refusal::new(reason::RECEIVE_MAXIMUM_EXCEEDED, why));
        }
        Ok(Some(Step::Wait(Blocked::Window)))
    }

    /// Whether a QoS 2 publish was taken before; it gets its PUBREC again then.
    fn repeated(&mut self, key: Key, publish: &Publish) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let session = connection.session.and_then(|session| self.sessions.get_mut(session));
        let identifier = publish.packet_identifier;
        let Some(exchange) = session.and_then(|session| session.open.get_mut(&identifier)) else {
            return false;
        };
        self.counters.duplicates.fetch_add(1, Relaxed);
        let number = connection.owe(response::PUBREC, identifier);
        if exchange.durable {
            self.answer(key, number, reason::SUCCESS);
        } else {
            exchange.waiting = Some((key, number));
        }
        true
    }

    /// Answers a publish at once: there is no space.
    fn quota_exceeded(&mut self, key: Key, publish: &Publish) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let answer = if publish.qos == 1 { response::PUBACK } else { response::PUBREC };
        let number = connection.owe(answer, publish.packet_identifier);
        self.counters.publishes_refused.fetch_add(1, Relaxed);
        self.answer(key, number, reason::QUOTA_EXCEEDED);
    }

    /// A QoS 2 publish that is new: its session remembers it, and its record says which it is.
    fn exactly(
        &mut self,
        key: Key,
        place: Place,
        message: &Incoming,
        refusable: bool,
        clock: Clock,
    ) -> Step {
        let session_key = self.connections.get(key).and_then(|connection| connection.session);
        let Some((session_key, session)) =
            session_key.and_then(|key| Some((key, self.sessions.get_mut(key)?)))
        else {
            return Step::Taken;
        };
        let mut identity = None;
        let packet_identifier = message.publish.packet_identifier;
        if session.stored {
            match session.positions.iter().find(|position| position.place == place) {
                Some(position) if session.is_durable(position.version) => {}
                Some(_) => return Step::Wait(Blocked::Session),
                None => {
                    let version = session.next_version();
                    session.positions.push(Position { place, version });
                    self.write_session(Some(session_key));
                    return Step::Wait(Blocked::Session);
                }
            }
            identity = Some(exchange(session.id, session.next, packet_identifier));
        }
        let Some(connection) = self.connections.get_mut(key) else { return Step::Taken };
        let number = connection.owe(response::PUBREC, packet_identifier);
        let waiting = Some((key, number));
        let exchange = Exchange { sequence: session.next, durable: false, waiting };
        session.open.insert(packet_identifier, exchange);
        session.next += 1;
        let ticket = Ticket::Exactly { session: session_key, packet_identifier, refusable };
        self.push(place, message, identity.as_deref(), ticket, clock);
        Step::Taken
    }

    /// Where a message goes, or why it cannot go there yet.
    pub(super) fn place(&mut self, message: &Incoming) -> Result<Place, Blocked> {
        let (client_id, topic) = (message.client_id, message.topic);
        let properties = message.publish.properties;
        self.rules.map(&Message { topic, client_id, properties }, &mut self.mapped);
        let topic = self.topic();
        if !self.ingest.is_open(topic) {
            return Err(Blocked::Topic);
        }
        let key = record_key(&self.mapped.key, message);
        let place = self.ingest.place(topic, key);
        if !self.ingest.has_room(place) {
            return Err(Blocked::Room(place));
        }
        Ok(place)
    }

    /// Appends the record to the open batch of its partition.
    pub(super) fn push(
        &mut self,
        place: Place,
        message: &Incoming,
        identity: Option<&str>,
        ticket: Ticket,
        clock: Clock,
    ) {
        let publish = message.publish;
        self.counters.publishes[usize::from(publish.qos)].fetch_add(1, Relaxed);
        let key = record_key(&self.mapped.key, message);
        let ingest = &mut self.ingest;
        with_headers(message, identity, |headers| {
            let value = Some(publish.payload);
            let record = Record { timestamp: clock.wall_ms, key, value, headers };
            ingest.push(place, &record, ticket, clock.now);
        });
    }
}

fn record_key<'a>(key: &'a RecordKey, message: &Incoming<'a>) -> &'a [u8] {
    match key {
        RecordKey::Topic => message.topic.as_bytes(),
        RecordKey::ClientId => message.client_id.as_bytes(),
        RecordKey::Other(key) => key.as_bytes(),
    }
}

type Header<'a> = (&'a str, Option<&'a [u8]>);

/// Makes a record's headers: where it came from, what MQTT said about it, then the user properties.
/// Those that say no or nothing are left out: `mqtt.retain` and `mqtt.dup` are there when they are
/// set.
fn with_headers(message: &Incoming, identity: Option<&str>, push: impl FnOnce(&[Header])) {
    let publish = message.publish;
    let mut headers: [Header; 6] = [("", None); 6];
    let mut count = 0;
    let mut add = |name, value| {
        headers[count] = (name, Some(value));
        count += 1;
    };
    add("mqtt.topic", message.topic.as_bytes());
    add("mqtt.client_id", message.client_id.as_bytes());
    add("mqtt.qos", [&b"0"[..], b"1", b"2"][usize::from(publish.qos)]);
    if publish.retain {
        add("mqtt.retain", b"1");
    }
    if publish.dup {
        add("mqtt.dup", b"1");
    }
    if let Some(identity) = identity {
        add(EXCHANGE_HEADER, identity.as_bytes());
    }
    if publish.properties.is_empty() {
        return push(&headers[..count]);
    }
    let mut all = headers[..count].to_vec();
    let expiry = publish.properties.number(property::MESSAGE_EXPIRY_INTERVAL);
    let expiry = expiry.map(|seconds| seconds.to_string());
    if let Some(expiry) = &expiry {
        all.push(("mqtt.expiry", Some(expiry.as_bytes())));
    }
    with_properties(publish.properties, &mut all);
    push(&all);
}

fn with_properties<'a>(properties: Properties<'a>, headers: &mut Vec<Header<'a>>) {
    for (id, value) in properties.iter() {
        match (id, value) {
            (property::CONTENT_TYPE, Value::Text(text)) => {
                headers.push(("mqtt.content_type", Some(text.as_bytes())));
            }
            (property::RESPONSE_TOPIC, Value::Text(text)) => {
                headers.push(("mqtt.response_topic", Some(text.as_bytes())));
            }
            (property::CORRELATION_DATA, Value::Binary(data)) => {
                headers.push(("mqtt.correlation_data", Some(data)));
            }
            (_, Value::Pair(name, value)) => headers.push((name, Some(value.as_bytes()))),
            _ => {}
        }
    }
}
