//! Messages of other MQTT brokers: subscribed to, stored, and acknowledged once they are durable.
//!
//! The other broker keeps the session, so what is published while the gateway or the link is down
//! is sent later. An acknowledgement belongs to its connection: each connection has a new client of
//! the library, and what was not acknowledged on the old one comes again, marked DUP. At least
//! once, in order, is what that gives; QoS 2 is not offered, because the library forgets half-done
//! exchanges with the connection.

use super::clock;
use super::connection::Blocked;
use super::hub::{Clock, Hub};
use super::net::Net;
use super::packet::{Framed, Publish, Version, frame};
use super::publish::Incoming;
use super::status::{Counters, SourceStatus};
use crate::ingest::Ticket;
use crate::rules::filter_is_valid;
use crate::settings;
use bytes::BytesMut;
use rumqttc::v5;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(120);

/// Requests that the library's client may hold: acknowledgements, so as many as the other broker
/// may have in flight (its Receive Maximum is 65,535 at most, Mosquitto's default 20).
const REQUESTS_MAX: usize = 1_024;

/// What is to be acknowledged at every source.
#[derive(Default)]
pub(crate) struct Sources(Vec<Unacknowledged>);

#[derive(Default)]
struct Unacknowledged {
    client: Option<Client>,
    /// In the order of arrival, and whether each is durable.
    messages: VecDeque<(Message, bool)>,
    /// The number of the first. Goes on counting over reconnects, so old tickets find nothing.
    first: u32,
}

enum Client {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

enum Message {
    V4(rumqttc::Publish),
    V5(v5::mqttbytes::v5::Publish),
}

/// A source, checked.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    settings: settings::Source,
    host: String,
    port: u16,
    version: Version,
    client_id: String,
    password: String,
}

impl Source {
    /// Checks the settings, or says in a sentence what is wrong.
    pub fn new(settings: &settings::Source) -> Result<Source, String> {
        let wrong = |what: String| format!("mqtt.source \"{}\": {what}", settings.name);
        if settings.name.is_empty() {
            return Err("mqtt.source: every source needs a name".into());
        }
        let (host, port) = host_and_port(&settings.url).ok_or_else(|| {
            wrong(format!("url \"{}\" has to be mqtt://host or mqtt://host:port", settings.url))
        })?;
        if settings.filters.is_empty() {
            return Err(wrong("filters is empty; [\"#\"] subscribes to everything".into()));
        }
        if let Some(filter) = settings.filters.iter().find(|filter| !filter_is_valid(filter)) {
            return Err(wrong(format!("\"{filter}\" is not an MQTT topic filter")));
        }
        if settings.qos > 1 {
            return Err(wrong("qos has to be 0 or 1; 1 takes QoS 2 messages, too".into()));
        }
        let version = match settings.version.as_str() {
            "3.1.1" | "4" => Version::V4,
            "5" | "5.0" => Version::V5,
            other => return Err(wrong(format!("version \"{other}\" has to be 3.1.1 or 5"))),
        };
        if (1..5).contains(&settings.keep_alive) {
            return Err(wrong("keep_alive has to be 0 or at least 5 seconds".into()));
        }
        let password = match settings.password_file.as_str() {
            "" => String::new(),
            path => std::fs::read_to_string(path)
                .map_err(|error| wrong(format!("password_file {path}: {error}")))?
                .trim_end_matches(['\r', '\n'])
                .into(),
        };
        let client_id = match settings.client_id.as_str() {
            "" => format!("weir-{}", settings.name),
            given => given.into(),
        };
        Ok(Source { settings: settings.clone(), host, port, version, client_id, password })
    }

    pub fn status(&self) -> SourceStatus {
        let (name, url) = (self.settings.name.clone(), self.settings.url.clone());
        SourceStatus { name, url, ..SourceStatus::default() }
    }
}

fn host_and_port(url: &str) -> Option<(String, u16)> {
    let rest = url.strip_prefix("mqtt://")?.trim_end_matches('/');
    let bracketed = rest.starts_with('[') && rest.ends_with(']');
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !bracketed => (host, port.parse().ok()?),
        _ => (rest, 1883),
    };
    let valid = !host.is_empty() && !host.contains(['/', '@', ' ']);
    valid.then(|| (host.trim_matches(['[', ']']).to_string(), port))
}

impl Sources {
    pub fn add(&mut self) {
        self.0.push(Unacknowledged::default());
    }

    /// A message became durable, or will never: acknowledges what can be, in order.
    pub fn done(&mut self, source: u32, number: u32, durable: bool, counters: &Counters) {
        let Some(source_acks) = self.0.get_mut(source as usize) else { return };
        let at = number.wrapping_sub(source_acks.first) as usize;
        let Some((_, done)) = source_acks.messages.get_mut(at) else { return };
        *done = true;
        if !durable {
            counters.source(source as usize, |status| {
                status.error = Some("the log refused a message".into());
            });
        }
        let mut acks = 0;
        while let Some((message, true)) = source_acks.messages.front() {
            match (&source_acks.client, message) {
                (Some(Client::V4(client)), Message::V4(publish)) => {
                    let _ = client.try_ack(publish);
                }
                (Some(Client::V5(client)), Message::V5(publish)) => {
                    let _ = client.try_ack(publish);
                }
                _ => {}
            }
            // An ack that the library does not take is not lost for good: the message comes again.
            source_acks.messages.pop_front();
            source_acks.first = source_acks.first.wrapping_add(1);
            acks += 1;
        }
        counters.source(source as usize, |status| status.acks += acks);
    }

    /// A new connection: what the old one was owed will be sent again.
    fn connected(&mut self, source: usize, client: Client) {
        let acks = &mut self.0[source];
        acks.first = acks.first.wrapping_add(acks.messages.len() as u32);
        acks.messages.clear();
        acks.client = Some(client);
    }
}

/// A connection of the library.
enum Link {
    V4(Box<rumqttc::EventLoop>),
    V5(Box<v5::EventLoop>),
}

/// What a link says.
enum Said {
    Connected,
    Message(Box<Message>),
    Refused,
    Nothing,
}

impl Link {
    fn new(source: &Source, packet_bytes_max: u32) -> (Client, Link) {
        let keep_alive = Duration::from_secs(source.settings.keep_alive.into());
        let (host, id) = (source.host.as_str(), source.client_id.as_str());
        match source.version {
            Version::V4 => {
                let mut options = rumqttc::MqttOptions::new(id, host, source.port);
                options.set_keep_alive(keep_alive).set_clean_session(false).set_manual_acks(true);
                options.set_max_packet_size(packet_bytes_max as usize, packet_bytes_max as usize);
                if !source.settings.username.is_empty() {
                    options.set_credentials(&source.settings.username, &source.password);
                }
                let (client, link) = rumqttc::AsyncClient::new(options, REQUESTS_MAX);
                (Client::V4(client), Link::V4(Box::new(link)))
            }
            Version::V5 => {
                let mut options = v5::MqttOptions::new(id, host, source.port);
                options.set_keep_alive(keep_alive).set_clean_start(false).set_manual_acks(true);
                options.set_session_expiry_interval(Some(u32::MAX));
                options.set_max_packet_size(Some(packet_bytes_max));
                options.set_receive_maximum(Some(REQUESTS_MAX as u16));
                if !source.settings.username.is_empty() {
                    options.set_credentials(&source.settings.username, &source.password);
                }
                let (client, link) = v5::AsyncClient::new(options, REQUESTS_MAX);
                (Client::V5(client), Link::V5(Box::new(link)))
            }
        }
    }

    async fn next(&mut self) -> Result<Said, String> {
        use rumqttc::{Event, Packet, SubscribeReasonCode};
        use v5::mqttbytes::v5::Packet as Packet5;
        match self {
            Link::V4(link) => Ok(match link.poll().await.map_err(|error| error.to_string())? {
                Event::Incoming(Packet::ConnAck(_)) => Said::Connected,
                Event::Incoming(Packet::Publish(publish)) => {
                    Said::Message(Box::new(Message::V4(publish)))
                }
                Event::Incoming(Packet::SubAck(ack))
                    if ack.return_codes.contains(&SubscribeReasonCode::Failure) =>
                {
                    Said::Refused
                }
                _ => Said::Nothing,
            }),
            Link::V5(link) => Ok(match link.poll().await.map_err(|error| error.to_string())? {
                v5::Event::Incoming(Packet5::ConnAck(_)) => Said::Connected,
                v5::Event::Incoming(Packet5::Publish(publish)) => {
                    Said::Message(Box::new(Message::V5(publish)))
                }
                v5::Event::Incoming(Packet5::SubAck(ack)) if refuses(&ack.return_codes) => {
                    Said::Refused
                }
                _ => Said::Nothing,
            }),
        }
    }
}

fn refuses(codes: &[v5::mqttbytes::v5::SubscribeReasonCode]) -> bool {
    use v5::mqttbytes::v5::SubscribeReasonCode::Success;
    codes.iter().any(|code| !matches!(code, Success(_)))
}

impl Client {
    fn subscribe(&self, source: &Source) -> Result<(), String> {
        let at_least_once = source.settings.qos == 1;
        for filter in &source.settings.filters {
            match self {
                Client::V4(client) => {
                    use rumqttc::QoS::{AtLeastOnce, AtMostOnce};
                    let qos = if at_least_once { AtLeastOnce } else { AtMostOnce };
                    client.try_subscribe(filter, qos).map_err(|error| error.to_string())?;
                }
                Client::V5(client) => {
                    use v5::mqttbytes::QoS::{AtLeastOnce, AtMostOnce};
                    let qos = if at_least_once { AtLeastOnce } else { AtMostOnce };
                    client.try_subscribe(filter, qos).map_err(|error| error.to_string())?;
                }
            }
        }
        Ok(())
    }
}

/// Takes messages over from a source for ever.
pub(crate) async fn run(net: Rc<Net>, number: usize, source: Source) {
    let mut pause = PAUSE;
    loop {
        let mut connected = false;
        let error = follow(&net, number, &source, &mut connected).await;
        if connected {
            pause = PAUSE;
        }
        let name = &source.settings.name;
        log::warn!("mqtt: source \"{name}\": {error}; again in {} s", pause.as_secs());
        net.hub.borrow().counters.source(number, |status| {
            status.connected = false;
            status.error = Some(error);
            status.reconnects += 1;
        });
        // A quarter at random, so that gateways that lost the same broker do not return together.
        let jitter = net.hub.borrow_mut().ids.next() % (pause.as_millis() as u64 / 4 + 1);
        smol::Timer::after(pause + Duration::from_millis(jitter)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One connection, until it fails.
async fn follow(net: &Rc<Net>, number: usize, source: &Source, connected: &mut bool) -> String {
    let packet_bytes_max = net.hub.borrow().settings.packet_bytes_max;
    let (client, mut link) = Link::new(source, packet_bytes_max);
    net.hub.borrow_mut().sources.connected(number, client);
    loop {
        match link.next().await {
            Err(error) => return error,
            Ok(Said::Nothing) => {}
            Ok(Said::Refused) => return "the broker refuses a subscription".into(),
            Ok(Said::Connected) => {
                *connected = true;
                let hub = net.hub.borrow();
                let client = hub.sources.0[number].client.as_ref();
                if let Some(Err(error)) = client.map(|client| client.subscribe(source)) {
                    return error;
                }
                log::info!("mqtt: source \"{}\" is connected", source.settings.name);
                hub.counters.source(number, |status| {
                    (status.connected, status.error) = (true, None);
                });
            }
            Ok(Said::Message(message)) => store(net, number, source, &message).await,
        }
    }
}

/// Puts a message on its way into the log; waits while there is no room.
async fn store(net: &Rc<Net>, number: usize, source: &Source, message: &Message) {
    let mut packet = BytesMut::new();
    let (version, written) = match message {
        Message::V4(publish) => (Version::V4, publish.write(&mut packet).is_ok()),
        Message::V5(publish) => {
            let mut publish = publish.clone();
            if let Some(properties) = &mut publish.properties {
                // These are between that broker and us.
                properties.subscription_identifiers.clear();
                properties.topic_alias = None;
            }
            (Version::V5, publish.write(&mut packet).is_ok())
        }
    };
    let publish = match frame(&packet, u32::MAX) {
        Ok(Framed::Whole { first, body, .. }) if written => Publish::parse(version, first, body),
        _ => {
            return log::warn!("mqtt: source \"{}\": a message is too large", source.settings.name);
        }
    };
    let publish = match publish {
        Ok(publish) => publish,
        Err(refusal) => {
            return log::warn!("mqtt: source \"{}\": {}", source.settings.name, refusal.why);
        }
    };
    let client_id = source.settings.name.as_str();
    let incoming = Incoming { client_id, topic: publish.topic, publish: &publish };
    while net.hub.borrow_mut().take_over_message(number, &incoming, message, clock()).is_err() {
        net.settle();
        smol::Timer::after(Duration::from_millis(5)).await;
    }
    net.settle();
}

impl Hub {
    fn take_over_message(
        &mut self,
        source: usize,
        incoming: &Incoming,
        message: &Message,
        clock: Clock,
    ) -> Result<(), Blocked> {
        let place = self.place(incoming)?;
        let mut ticket = Ticket::Nobody;
        if incoming.publish.qos > 0 {
            let acks = &mut self.sources.0[source];
            let number = acks.first.wrapping_add(acks.messages.len() as u32);
            acks.messages.push_back((message.clone(), false));
            ticket = Ticket::Source { source: source as u32, number };
        }
        self.counters.source(source, |status| status.messages += 1);
        self.push(place, incoming, None, ticket, clock);
        Ok(())
    }
}

impl Clone for Message {
    /// What is acknowledged needs no payload.
    fn clone(&self) -> Message {
        match self {
            Message::V4(publish) => Message::V4(rumqttc::Publish {
                topic: String::new(),
                payload: bytes::Bytes::new(),
                ..publish.clone()
            }),
            Message::V5(publish) => Message::V5(v5::mqttbytes::v5::Publish {
                topic: bytes::Bytes::new(),
                payload: bytes::Bytes::new(),
                properties: None,
                ..publish.clone()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_host_and_port() {
        let check = |url: &str, host: &str, port| {
            assert_eq!(host_and_port(url), Some((host.to_string(), port)), "{url}");
        };
        check("mqtt://127.0.0.1:1884", "127.0.0.1", 1884);
        check("mqtt://broker.local", "broker.local", 1883);
        check("mqtt://broker/", "broker", 1883);
        check("mqtt://[::1]:1884", "::1", 1884);
        check("mqtt://[::1]", "::1", 1883);
        for url in ["http://x", "mqtt://", "mqtt://x:y", "mqtt://user@x", "x:1883"] {
            assert_eq!(host_and_port(url), None, "{url}");
        }
    }
}
