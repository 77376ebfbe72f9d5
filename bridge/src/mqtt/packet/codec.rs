//! The one file that knows the MQTT library: packets in and out, for 3.1.1 and 5.0 alike.
//!
//! Answers of a few fixed bytes are written here by hand; the library would want a value for each.

use super::{Refusal, reason, validate};
use bytes::BytesMut;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;

/// The protocol that a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// 3.1.1, protocol level 4.
    V4,
    /// 5.0.
    V5,
}

/// A checked packet that is not a PUBLISH.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Packet {
    Connect(Box<Connect>),
    /// An acknowledgement of something that a server sends; the bridge sends no messages yet.
    Acknowledgement,
    PubRel {
        packet_identifier: u16,
    },
    Subscribe {
        packet_identifier: u16,
        filters: Vec<Filter>,
    },
    Unsubscribe {
        packet_identifier: u16,
        filters_count: usize,
    },
    PingReq,
    Disconnect {
        /// MQTT 5's reason 0x04 asks for the will all the same, other reasons too; 0 does not.
        with_will: bool,
        session_expiry: Option<u32>,
    },
}

/// A topic filter that a client wants to subscribe to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub path: String,
}

/// What a client asks for when it connects.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Connect {
    pub version: Version,
    pub client_id: String,
    pub clean_start: bool,
    /// Seconds; 0: none.
    pub keep_alive: u16,
    /// Seconds; `None` in 3.1.1, where a session that is not clean has no end.
    pub session_expiry: Option<u32>,
    pub authentication_method: bool,
    pub will: Option<Will>,
}

/// A will, kept as the PUBLISH packet that it is going to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Will {
    pub packet: Box<[u8]>,
    /// Seconds after the connection's end.
    pub delay: u32,
}

/// What a client is told when it is let in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connack {
    pub session_present: bool,
    pub receive_maximum: u16,
    pub packet_bytes_max: u32,
    pub topic_alias_maximum: u16,
    /// Told if it is not what the client asked for.
    pub session_expiry: Option<u32>,
    pub assigned_client_id: Option<String>,
}

/// Reads a whole packet that is not a PUBLISH. `version` is `None` before CONNECT, which then has
/// to be the packet; the version to answer in stands beside the error.
pub(crate) fn decode(
    version: Option<Version>,
    first: u8,
    body: &[u8],
    packet: &[u8],
) -> Result<Packet, (Option<Version>, Refusal)> {
    match (version, first >> 4) {
        (None, 1) => {
            let silent = Refusal::new(0, "the first packet does not speak MQTT");
            let version = match validate::version(body).ok_or((None, silent))? {
                Ok(version) => version,
                Err(version) => {
                    let why = "a protocol version that is neither 3.1.1 nor 5.0";
                    let refusal = Refusal::new(reason::UNSUPPORTED_PROTOCOL_VERSION, why);
                    return Err((Some(version), refusal));
                }
            };
            validate::connect(version, first, body)
                .and_then(|()| library(version, packet))
                .map_err(|refusal| (Some(version), refusal))
        }
        (None, _) => Err((None, Refusal::protocol("the first packet is not a CONNECT"))),
        (Some(_), 1) => Err((version, Refusal::protocol("a second CONNECT"))),
        (Some(Version::V5), 14) if body.len() < 2 && first == 0xe0 => {
            // The protocol allows to leave out the properties, and the reason; the library does
            // not.
            let with_will = body.first().is_some_and(|reason| *reason != 0);
            Ok(Packet::Disconnect { with_will, session_expiry: None })
        }
        (Some(known), _) => validate::packet(known, first, body)
            .and_then(|()| library(known, packet))
            .map_err(|refusal| (version, refusal)),
    }
}

fn library(version: Version, packet: &[u8]) -> Result<Packet, Refusal> {
    let mut bytes = BytesMut::from(packet);
    let packet = match version {
        Version::V4 => v4::Packet::read(&mut bytes, packet.len()).ok().and_then(from_v4),
        Version::V5 => v5::Packet::read(&mut bytes, None).ok().and_then(from_v5),
    };
    packet.ok_or(Refusal::malformed("a packet does not follow its version's layout"))
}

fn from_v4(packet: v4::Packet) -> Option<Packet> {
    Some(match packet {
        v4::Packet::Connect(connect) => Packet::Connect(Box::new(Connect {
            version: Version::V4,
            client_id: connect.client_id,
            clean_start: connect.clean_session,
            keep_alive: connect.keep_alive,
            session_expiry: connect.clean_session.then_some(0),
            authentication_method: false,
            will: match connect.last_will {
                Some(will) => Some(will_v4(will)?),
                None => None,
            },
        })),
        v4::Packet::PubAck(_) | v4::Packet::PubRec(_) | v4::Packet::PubComp(_) => {
            Packet::Acknowledgement
        }
        v4::Packet::PubRel(release) => Packet::PubRel { packet_identifier: release.pkid },
        v4::Packet::Subscribe(subscribe) => Packet::Subscribe {
            packet_identifier: subscribe.pkid,
            filters: subscribe.filters.into_iter().map(|f| Filter { path: f.path }).collect(),
        },
        v4::Packet::Unsubscribe(unsubscribe) => Packet::Unsubscribe {
            packet_identifier: unsubscribe.pkid,
            filters_count: unsubscribe.topics.len(),
        },
        v4::Packet::PingReq => Packet::PingReq,
        v4::Packet::Disconnect => Packet::Disconnect { with_will: false, session_expiry: None },
        _ => return None,
    })
}

fn from_v5(packet: v5::Packet) -> Option<Packet> {
    Some(match packet {
        v5::Packet::Connect(connect, will, _login) => {
            let properties = connect.properties.unwrap_or_default();
            Packet::Connect(Box::new(Connect {
                version: Version::V5,
                client_id: connect.client_id,
                clean_start: connect.clean_start,
                keep_alive: connect.keep_alive,
                session_expiry: Some(properties.session_expiry_interval.unwrap_or(0)),
                authentication_method: properties.authentication_method.is_some(),
                will: match will {
                    Some(will) => Some(will_v5(will)?),
                    None => None,
                },
            }))
        }
        v5::Packet::PubAck(_) | v5::Packet::PubRec(_) | v5::Packet::PubComp(_) => {
            Packet::Acknowledgement
        }
        v5::Packet::PubRel(release) => Packet::PubRel { packet_identifier: release.pkid },
        v5::Packet::Subscribe(subscribe) => Packet::Subscribe {
            packet_identifier: subscribe.pkid,
            filters: subscribe.filters.into_iter().map(|f| Filter { path: f.path }).collect(),
        },
        v5::Packet::Unsubscribe(unsubscribe) => Packet::Unsubscribe {
            packet_identifier: unsubscribe.pkid,
            filters_count: unsubscribe.filters.len(),
        },
        v5::Packet::PingReq(_) => Packet::PingReq,
        v5::Packet::Disconnect(disconnect) => Packet::Disconnect {
            with_will: disconnect.reason_code != v5::DisconnectReasonCode::NormalDisconnection,
            session_expiry: disconnect.properties.and_then(|p| p.session_expiry_interval),
        },
        _ => return None,
    })
}

fn will_v4(will: v4::LastWill) -> Option<Will> {
    let mut publish = v4::Publish::from_bytes(will.topic, will.qos, will.message);
    publish.retain = will.retain;
    // Nobody acknowledges a will; an identifier has to be there.
    publish.pkid = 1;
    let mut packet = BytesMut::new();
    publish.write(&mut packet).ok()?;
    Some(Will { packet: packet.to_vec().into(), delay: 0 })
}

fn will_v5(will: v5::LastWill) -> Option<Will> {
    let properties = will.properties;
    let delay = properties.as_ref().and_then(|p| p.delay_interval).unwrap_or(0);
    let publish = v5::Publish {
        qos: will.qos,
        retain: will.retain,
        topic: will.topic,
        pkid: 1,
        payload: will.message,
        properties: properties.map(|p| v5::PublishProperties {
            payload_format_indicator: p.payload_format_indicator,
            message_expiry_interval: p.message_expiry_interval,
            response_topic: p.response_topic,
            correlation_data: p.correlation_data,
            user_properties: p.user_properties,
            content_type: p.content_type,
            ..v5::PublishProperties::default()
        }),
        ..v5::Publish::default()
    };
    let mut packet = BytesMut::new();
    publish.write(&mut packet).ok()?;
    Some(Will { packet: packet.to_vec().into(), delay })
}

/// A CONNACK that lets the client in, or (`Err`) that refuses it with one of MQTT 5's reasons.
/// 3.1.1 has five reasons of its own and no answer for the rest.
pub(crate) fn connack(version: Version, answer: Result<Connack, u8>, out: &mut Vec<u8>) {
    match (version, answer) {
        (Version::V4, Ok(connack)) => {
            out.extend_from_slice(&[0x20, 2, u8::from(connack.session_present), 0]);
        }
        (Version::V4, Err(reason)) => {
            let code = match reason {
                reason::UNSUPPORTED_PROTOCOL_VERSION => 1,
                reason::CLIENT_IDENTIFIER_NOT_VALID => 2,
                reason::SERVER_UNAVAILABLE | reason::QUOTA_EXCEEDED => 3,
                reason::BAD_USER_NAME_OR_PASSWORD => 4,
                _ => return,
            };
            out.extend_from_slice(&[0x20, 2, 0, code]);
        }
        (Version::V5, Err(reason)) => out.extend_from_slice(&[0x20, 3, 0, reason, 0]),
        (Version::V5, Ok(connack)) => {
            let packet = v5::ConnAck {
                session_present: connack.session_present,
                code: v5::ConnectReturnCode::Success,
                properties: Some(v5::ConnAckProperties {
                    session_expiry_interval: connack.session_expiry,
                    receive_max: Some(connack.receive_maximum),
                    max_qos: None,
                    retain_available: None,
                    max_packet_size: Some(connack.packet_bytes_max),
                    assigned_client_identifier: connack.assigned_client_id,
                    topic_alias_max: Some(connack.topic_alias_maximum),
                    reason_string: None,
                    user_properties: Vec::new(),
                    wildcard_subscription_available: None,
                    subscription_identifiers_available: None,
                    shared_subscription_available: None,
                    server_keep_alive: None,
                    response_information: None,
                    server_reference: None,
                    authentication_method: None,
                    authentication_data: None,
                }),
            };
            let mut bytes = BytesMut::new();
            packet.write(&mut bytes).expect("a CONNACK of ours is far below MQTT's largest packet");
            out.extend_from_slice(&bytes);
        }
    }
}

/// First bytes of the answers to a PUBLISH and a PUBREL.
pub(crate) mod response {
    pub const PUBACK: u8 = 0x40;
    pub const PUBREC: u8 = 0x50;
    pub const PUBCOMP: u8 = 0x70;

    /// Writes a PUBACK, PUBREC or PUBCOMP. A reason other than 0 has to be for MQTT 5.
    pub fn write(first: u8, packet_identifier: u16, reason: u8, out: &mut Vec<u8>) {
        let [high, low] = packet_identifier.to_be_bytes();
        if reason == 0 {
            out.extend_from_slice(&[first, 2, high, low]);
        } else {
            out.extend_from_slice(&[first, 3, high, low, reason]);
        }
    }
}

/// A SUBACK with these reason codes.
pub(crate) fn suback(version: Version, identifier: u16, reasons: &[u8], out: &mut Vec<u8>) {
    filters_answer(0x90, version, identifier, reasons, out);
}

/// An UNSUBACK that finds no subscription for any of the filters.
pub(crate) fn unsuback(version: Version, identifier: u16, filters_count: usize, out: &mut Vec<u8>) {
    const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
    match version {
        Version::V4 => filters_answer(0xb0, version, identifier, &[], out),
        Version::V5 => {
            let reasons = vec![NO_SUBSCRIPTION_EXISTED; filters_count];
            filters_answer(0xb0, version, identifier, &reasons, out);
        }
    }
}

fn filters_answer(first: u8, version: Version, identifier: u16, reasons: &[u8], out: &mut Vec<u8>) {
    out.push(first);
    let mut len = 2 + usize::from(version == Version::V5) + reasons.len();
    while len > 0x7f {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(&identifier.to_be_bytes());
    if version == Version::V5 {
        out.push(0);
    }
    out.extend_from_slice(reasons);
}

pub(crate) fn pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xd0, 0]);
}

/// MQTT 5 says why it ends a connection; 3.1.1 has no such packet.
pub(crate) fn disconnect(version: Version, reason: u8, out: &mut Vec<u8>) {
    if version == Version::V5 {
        out.extend_from_slice(&[0xe0, 1, reason]);
    }
}
