//! The fields that MQTT packets are made of, read strictly: a cursor over one packet's bytes.

use super::{Refusal, reason};

/// What is left of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub &'a [u8]);

const TOO_SHORT: Refusal = Refusal::malformed("a packet ends in the middle of a field");

impl<'a> Fields<'a> {
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Refusal> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn u8(&mut self) -> Result<u8, Refusal> {
        let (first, rest) = self.0.split_first().ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(*first)
    }

    pub fn u16(&mut self) -> Result<u16, Refusal> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*taken))
    }

    pub fn u32(&mut self) -> Result<u32, Refusal> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*taken))
    }

    /// MQTT 5's variable byte integer, which has to be as short as can be (MQTT-1.5.5-1).
    pub fn varint(&mut self) -> Result<u32, Refusal> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(Refusal::malformed("a variable byte integer is too long"));
                }
                return Ok(value);
            }
        }
        Err(Refusal::malformed("a variable byte integer has more than four bytes"))
    }

    pub fn binary(&mut self) -> Result<&'a [u8], Refusal> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// UTF-8 without U+0000 (MQTT-1.5.4-1 and -2).
    pub fn string(&mut self) -> Result<&'a str, Refusal> {
        let text = std::str::from_utf8(self.binary()?)
            .map_err(|_| Refusal::malformed("a string is not UTF-8"))?;
        if text.as_bytes().contains(&0) {
            return Err(Refusal::malformed("a string holds U+0000"));
        }
        Ok(text)
    }

    /// A name that messages are published to: no wildcards.
    pub fn topic_name(&mut self) -> Result<&'a str, Refusal> {
        let topic = self.string()?;
        if topic.bytes().any(|byte| byte == b'+' || byte == b'#') {
            return Err(Refusal::malformed("a topic name holds a wildcard"));
        }
        Ok(topic)
    }

    pub fn packet_identifier(&mut self) -> Result<u16, Refusal> {
        match self.u16()? {
            0 => Err(Refusal::malformed("a packet identifier is 0")),
            identifier => Ok(identifier),
        }
    }

    pub fn end(&self) -> Result<(), Refusal> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Refusal::malformed("bytes follow a packet's end"))
        }
    }

    /// MQTT 5's properties, all of which have to be in the set `allowed`.
    pub fn properties(&mut self, allowed: Allowed) -> Result<Properties<'a>, Refusal> {
        let len = self.varint()?;
        let properties = Properties(self.take(len as usize)?);
        let (mut fields, mut seen) = (Fields(properties.0), 0u64);
        while !fields.0.is_empty() {
            let (id, value) = fields.property()?;
            let bit = 1u64 << id;
            if allowed.0 & bit == 0 {
                return Err(Refusal::malformed("a property does not belong into its packet"));
            }
            if seen & bit != 0 && id != property::USER {
                return Err(Refusal::protocol("a property stands twice in a packet"));
            }
            seen |= bit;
            check(id, value)?;
        }
        Ok(properties)
    }

    fn property(&mut self) -> Result<(u8, Value<'a>), Refusal> {
        let id = self.u8()?;
        let value = match id {
            1 | 23 | 25 | 36 | 37 | 40 | 41 | 42 => Value::Number(self.u8()?.into()),
            19 | 33 | 34 | 35 => Value::Number(self.u16()?.into()),
            2 | 17 | 24 | 39 => Value::Number(self.u32()?),
            11 => Value::Number(self.varint()?),
            3 | 8 | 18 | 21 | 26 | 28 | 31 => Value::Text(self.string()?),
            9 | 22 => Value::Binary(self.binary()?),
            38 => Value::Pair(self.string()?, self.string()?),
            _ => return Err(Refusal::malformed("a property is not one of MQTT's")),
        };
        Ok((id, value))
    }
}

fn check(id: u8, value: Value) -> Result<(), Refusal> {
    match (id, value) {
        (1 | 23 | 25, Value::Number(2..)) => {
            Err(Refusal::protocol("a flag property is not 0 or 1"))
        }
        (11 | 33 | 39, Value::Number(0)) => Err(Refusal::protocol("a property must not be 0")),
        (35, Value::Number(0)) => {
            Err(Refusal::new(reason::TOPIC_ALIAS_INVALID, "a topic alias is 0"))
        }
        (8, Value::Text(topic)) if topic.is_empty() || topic.contains(['+', '#']) => {
            Err(Refusal::protocol("a response topic is empty or holds a wildcard"))
        }
        _ => Ok(()),
    }
}

/// Identifiers of the properties that the bridge looks at.
pub(crate) mod property {
    pub const MESSAGE_EXPIRY_INTERVAL: u8 = 2;
    pub const CONTENT_TYPE: u8 = 3;
    pub const RESPONSE_TOPIC: u8 = 8;
    pub const CORRELATION_DATA: u8 = 9;
    pub const TOPIC_ALIAS: u8 = 35;
    pub const USER: u8 = 38;
}

/// A set of property identifiers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed(u64);

impl Allowed {
    pub const fn new(ids: &[u8]) -> Allowed {
        let (mut bits, mut at) = (0, 0);
        while at < ids.len() {
            bits |= 1u64 << ids[at];
            at += 1;
        }
        Allowed(bits)
    }
}

/// A property's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(u32),
    Text(&'a str),
    Binary(&'a [u8]),
    Pair(&'a str, &'a str),
}

/// Properties that were checked, in their packet's bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Properties<'a>(&'a [u8]);

impl<'a> Properties<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u8, Value<'a>)> + use<'a> {
        let mut fields = Fields(self.0);
        std::iter::from_fn(move || fields.property().ok())
    }

    pub fn number(&self, wanted: u8) -> Option<u32> {
        self.iter().find_map(|(id, value)| match value {
            Value::Number(number) if id == wanted => Some(number),
            _ => None,
        })
    }

    pub fn user(&self, name: &str) -> Option<&'a str> {
        self.iter().find_map(|(_, value)| match value {
            Value::Pair(key, value) if key == name => Some(value),
            _ => None,
        })
    }
}
