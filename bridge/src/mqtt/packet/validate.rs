//! What the library lets pass and MQTT forbids, in packets other than PUBLISH.

use super::fields::{Allowed, Fields};
use super::{Refusal, Version, reason};

const CONNECT: Allowed = Allowed::new(&[17, 21, 22, 23, 25, 33, 34, 38, 39]);
const WILL: Allowed = Allowed::new(&[1, 2, 3, 8, 9, 24, 38]);
const ACK: Allowed = Allowed::new(&[31, 38]);
const SUBSCRIBE: Allowed = Allowed::new(&[11, 38]);
const UNSUBSCRIBE: Allowed = Allowed::new(&[38]);
const DISCONNECT: Allowed = Allowed::new(&[17, 31, 38]);

const AUTHENTICATION_METHOD: u8 = 21;
const AUTHENTICATION_DATA: u8 = 22;

/// Which version a CONNECT speaks; an error if it is none of ours. `None`: not MQTT at all, which
/// is closed without an answer.
pub(super) fn version(body: &[u8]) -> Option<Result<Version, Version>> {
    let mut fields = Fields(body);
    let name = fields.string().ok()?;
    let level = fields.u8().ok()?;
    match (name, level) {
        ("MQTT", 4) => Some(Ok(Version::V4)),
        ("MQTT", 5) => Some(Ok(Version::V5)),
        ("MQTT", 6..) => Some(Err(Version::V5)),
        ("MQTT" | "MQIsdp", _) => Some(Err(Version::V4)),
        _ => None,
    }
}

/// Checks a whole packet that is neither CONNECT nor PUBLISH.
pub(super) fn packet(version: Version, first: u8, body: &[u8]) -> Result<(), Refusal> {
    let flags_wanted = if matches!(first >> 4, 6 | 8 | 10) { 2 } else { 0 };
    if first & 0x0f != flags_wanted {
        return Err(Refusal::malformed("reserved flags are set"));
    }
    match first >> 4 {
        4..=7 => acknowledgement(version, body),
        8 => subscribe(version, body),
        10 => unsubscribe(version, body),
        12 => Fields(body).end(),
        14 => disconnect(version, body),
        15 if version == Version::V5 => {
            Err(Refusal::protocol("an AUTH without an authentication method"))
        }
        0 | 15 => Err(Refusal::malformed("a packet type is reserved")),
        _ => Err(Refusal::protocol("a packet that only a server sends")),
    }
}

/// Checks a CONNECT of this version.
pub(super) fn connect(version: Version, first: u8, body: &[u8]) -> Result<(), Refusal> {
    if first & 0x0f != 0 {
        return Err(Refusal::malformed("reserved flags are set"));
    }
    let mut fields = Fields(body);
    fields.string()?;
    fields.u8()?;
    let flags = fields.u8()?;
    let (has_will, will_qos) = (flags & 4 != 0, (flags >> 3) & 3);
    let (has_password, has_username) = (flags & 0x40 != 0, flags & 0x80 != 0);
    if flags & 1 != 0 {
        return Err(Refusal::malformed("the reserved flag of a CONNECT is set"));
    }
    if will_qos == 3 || (!has_will && flags & 0x38 != 0) {
        return Err(Refusal::malformed("the will flags contradict each other"));
    }
    if version == Version::V4 && has_password && !has_username {
        return Err(Refusal::malformed("a password without a user name"));
    }
    fields.u16()?;
    if version == Version::V5 {
        let properties = fields.properties(CONNECT)?;
        let has = |wanted| properties.iter().any(|(id, _)| id == wanted);
        if has(AUTHENTICATION_DATA) && !has(AUTHENTICATION_METHOD) {
            return Err(Refusal::protocol("authentication data without a method"));
        }
    }
    fields.string()?;
    if has_will {
        if version == Version::V5 {
            fields.properties(WILL)?;
        }
        if fields.topic_name()?.is_empty() {
            return Err(Refusal::malformed("a will's topic is empty"));
        }
        fields.binary()?;
    }
    if has_username {
        fields.string()?;
    }
    if has_password && std::str::from_utf8(fields.binary()?).is_err() {
        // The library keeps passwords as text. Nobody's password is binary; who tries is told.
        return Err(Refusal::new(reason::BAD_USER_NAME_OR_PASSWORD, "a password is not UTF-8"));
    }
    fields.end()
}

fn acknowledgement(version: Version, body: &[u8]) -> Result<(), Refusal> {
    let mut fields = Fields(body);
    fields.packet_identifier()?;
    reason_and_properties(version, fields, ACK)
}

fn disconnect(version: Version, body: &[u8]) -> Result<(), Refusal> {
    reason_and_properties(version, Fields(body), DISCONNECT)
}

/// MQTT 5 allows to leave out the properties, and then the reason.
fn reason_and_properties(
    version: Version,
    mut fields: Fields,
    allowed: Allowed,
) -> Result<(), Refusal> {
    if version == Version::V5 && !fields.0.is_empty() {
        fields.u8()?;
        if !fields.0.is_empty() {
            fields.properties(allowed)?;
        }
    }
    fields.end()
}

fn subscribe(version: Version, body: &[u8]) -> Result<(), Refusal> {
    let mut fields = Fields(body);
    fields.packet_identifier()?;
    if version == Version::V5 {
        fields.properties(SUBSCRIBE)?;
    }
    at_least_one(&fields)?;
    while !fields.0.is_empty() {
        let filter = fields.string()?;
        topic_filter(filter)?;
        let options = fields.u8()?;
        let reserved = if version == Version::V5 { 0xc0 } else { 0xfc };
        if options & reserved != 0 || options & 3 == 3 {
            return Err(Refusal::malformed("subscription options are not MQTT's"));
        }
        if options & 0x30 == 0x30 {
            return Err(Refusal::protocol("a retain handling option is 3"));
        }
        if options & 4 != 0 && filter.starts_with("$share/") {
            return Err(Refusal::protocol("no local on a shared subscription"));
        }
    }
    Ok(())
}

fn unsubscribe(version: Version, body: &[u8]) -> Result<(), Refusal> {
    let mut fields = Fields(body);
    fields.packet_identifier()?;
    if version == Version::V5 {
        fields.properties(UNSUBSCRIBE)?;
    }
    at_least_one(&fields)?;
    while !fields.0.is_empty() {
        topic_filter(fields.string()?)?;
    }
    Ok(())
}

fn at_least_one(fields: &Fields) -> Result<(), Refusal> {
    if fields.0.is_empty() {
        return Err(Refusal::protocol("a packet without a topic filter"));
    }
    Ok(())
}

/// `#` only at the end, `+` and `#` only as a whole level (MQTT-4.7.1).
fn topic_filter(filter: &str) -> Result<(), Refusal> {
    if crate::rules::filter_is_valid(filter) {
        Ok(())
    } else {
        Err(Refusal::malformed("a topic filter is not MQTT's"))
    }
}
