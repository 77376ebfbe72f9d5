//! An incoming PUBLISH, checked and borrowed from the buffer that it was read into.

use super::fields::{Allowed, Fields, property};
use super::{Properties, Refusal, Version};

/// A message on its way into the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publish<'a> {
    pub dup: bool,
    /// 0, 1 or 2.
    pub qos: u8,
    pub retain: bool,
    /// Empty where MQTT 5 names the topic by `alias`.
    pub topic: &'a str,
    /// 0 with QoS 0.
    pub packet_identifier: u16,
    pub alias: Option<u16>,
    pub properties: Properties<'a>,
    pub payload: &'a [u8],
}

/// A subscription identifier is the server's to send (MQTT-3.3.4-6), so it is not among them.
const ALLOWED: Allowed = Allowed::new(&[1, 2, 3, 8, 9, 35, 38]);

impl<'a> Publish<'a> {
    /// Reads the packet whose first byte is `first`; `body` follows the fixed header.
    pub fn parse(version: Version, first: u8, body: &'a [u8]) -> Result<Publish<'a>, Refusal> {
        let (dup, qos, retain) = (first & 8 != 0, (first >> 1) & 3, first & 1 != 0);
        if qos == 3 {
            return Err(Refusal::malformed("a PUBLISH has QoS 3"));
        }
        if dup && qos == 0 {
            return Err(Refusal::malformed("a PUBLISH with QoS 0 has DUP"));
        }
        let mut fields = Fields(body);
        let topic = fields.topic_name()?;
        let packet_identifier = if qos == 0 { 0 } else { fields.packet_identifier()? };
        let (mut properties, mut alias) = (Properties::default(), None);
        if version == Version::V5 {
            properties = fields.properties(ALLOWED)?;
            if !properties.is_empty() {
                alias = properties.number(property::TOPIC_ALIAS).map(|alias| alias as u16);
            }
        }
        if topic.is_empty() && alias.is_none() {
            return Err(match version {
                Version::V4 => Refusal::malformed("a topic name is empty"),
                Version::V5 => Refusal::protocol("a topic name is empty and there is no alias"),
            });
        }
        let payload = fields.0;
        Ok(Publish { dup, qos, retain, topic, packet_identifier, alias, properties, payload })
    }
}
