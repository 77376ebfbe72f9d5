//! Each packet that MQTT forbids and the library lets pass, and some that it does not.

#![allow(clippy::unwrap_used)]

use super::*;
use std::sync::LazyLock;

/// A packet with this first byte, and a remaining length that fits.
fn packet(first: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    assert!(body.len() < 128);
    [&[first, body.len() as u8], &body[..]].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// What becomes of a packet on a connection of this version; `None` before CONNECT.
fn judge(version: Option<Version>, bytes: &[u8]) -> Result<(), u8> {
    let framed = frame(bytes, 1_000).map_err(|refusal| refusal.reason)?;
    let Framed::Whole { first, body, packet } = framed else { panic!("incomplete: {bytes:x?}") };
    if let (3, Some(version)) = (first >> 4, version) {
        return Publish::parse(version, first, body).map(drop).map_err(|refusal| refusal.reason);
    }
    decode(version, first, body, packet).map(drop).map_err(|(_, refusal)| refusal.reason)
}

const V4: Option<Version> = Some(Version::V4);
const V5: Option<Version> = Some(Version::V5);
const MALFORMED: Result<(), u8> = Err(reason::MALFORMED_PACKET);
const PROTOCOL: Result<(), u8> = Err(reason::PROTOCOL_ERROR);

fn connect(level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
    packet(0x10, &[&text("MQTT"), &[level, flags, 0, 60], rest])
}

static A_B: LazyLock<Vec<u8>> = LazyLock::new(|| text("a/b"));

#[test]
fn a_publish_is_taken_as_it_should_be() {
    let ok = packet(0x3d, &[&A_B, &[0, 7], b"hello"]);
    assert_eq!(judge(V4, &ok), Ok(()));
    let Framed::Whole { first, body, .. } = frame(&ok, 100).unwrap() else { panic!() };
    let publish = Publish::parse(Version::V4, first, body).unwrap();
    assert!(publish.dup && publish.retain && publish.qos == 2);
    assert_eq!(
        (publish.topic, publish.packet_identifier, publish.payload),
        ("a/b", 7, &b"hello"[..])
    );
    let user = [0x26, 0, 1, b'k', 0, 1, b'v'];
    let ok = packet(0x32, &[&A_B, &[0, 7], &[7], &user, b"hello"]);
    let Framed::Whole { first, body, .. } = frame(&ok, 100).unwrap() else { panic!() };
    let publish = Publish::parse(Version::V5, first, body).unwrap();
    assert_eq!(publish.properties.user("k"), Some("v"));
    assert_eq!(publish.payload, b"hello");
}

#[test]
fn a_bad_publish_is_refused() {
    let check = |version, first: u8, body: &[&[u8]], answer| {
        assert_eq!(judge(version, &packet(first, body)), answer, "{first:x} {body:x?}");
    };
    for version in [V4, V5] {
        check(version, 0x36, &[&A_B, &[0, 1], &[0]], MALFORMED);
        check(version, 0x38, &[&A_B, &[0]], MALFORMED);
        check(version, 0x32, &[&A_B, &[0, 0], &[0]], MALFORMED);
        check(version, 0x32, &[&A_B, &[0]], MALFORMED);
        check(version, 0x30, &[&text("a/+"), &[0]], MALFORMED);
        check(version, 0x30, &[&text("a/#"), &[0]], MALFORMED);
        check(version, 0x30, &[&text("a\0b"), &[0]], MALFORMED);
        check(version, 0x30, &[&[0, 2, 0xff, 0xfe], &[0]], MALFORMED);
        check(version, 0x30, &[&[0, 3, 0xed, 0xa0, 0x80], &[0]], MALFORMED);
        check(version, 0x30, &[&[0, 9, b'a']], MALFORMED);
    }
    check(V4, 0x30, &[&text("")], MALFORMED);
    check(V5, 0x30, &[&text(""), &[0]], PROTOCOL);
    check(V5, 0x30, &[&text(""), &[3, 35, 0, 1]], Ok(()));
    check(V5, 0x30, &[&A_B, &[3, 35, 0, 0]], Err(reason::TOPIC_ALIAS_INVALID));
    check(V5, 0x30, &[&A_B, &[6, 35, 0, 1, 35, 0, 1]], PROTOCOL);
    check(V5, 0x30, &[&A_B, &[2, 11, 1]], MALFORMED);
    check(V5, 0x30, &[&A_B, &[2, 1, 2]], PROTOCOL);
    check(V5, 0x30, &[&A_B, &[2, 99, 2]], MALFORMED);
    check(V5, 0x30, &[&A_B, &[4, 8, 0, 1, b'#']], PROTOCOL);
    check(V5, 0x30, &[&A_B, &[0x85, 0], b"aaaaa"], MALFORMED);
    check(V5, 0x30, &[&A_B, &[9, 3]], MALFORMED);
}

#[test]
fn a_connect_is_taken_in_both_versions() {
    assert_eq!(judge(None, &connect(4, 2, &text("me"))), Ok(()));
    assert_eq!(judge(None, &connect(5, 2, &[&[0], &text("me")[..]].concat())), Ok(()));
    let will = [text("me"), text("last/will"), text("gone"), text("user"), text("pass")].concat();
    assert_eq!(judge(None, &connect(4, 0b1110_1110, &will)), Ok(()));
    let will = [&[0], &text("me")[..], &[5, 24, 0, 0, 0, 9], &text("last/will"), &text("gone")];
    let bytes = connect(5, 0b0010_1110, &will.concat());
    let Framed::Whole { first, body, packet } = frame(&bytes, 100).unwrap() else { panic!() };
    let Packet::Connect(connect) = decode(None, first, body, packet).unwrap() else { panic!() };
    let will = connect.will.unwrap();
    assert_eq!(will.delay, 9);
    let Framed::Whole { first, body, .. } = frame(&will.packet, 100).unwrap() else { panic!() };
    let publish = Publish::parse(Version::V5, first, body).unwrap();
    assert_eq!((publish.topic, publish.payload, publish.qos), ("last/will", &b"gone"[..], 1));
    assert!(publish.retain);
}

#[test]
fn a_bad_connect_is_refused() {
    let v4 = |flags, rest: &[u8]| judge(None, &connect(4, flags, rest));
    let v5 = |flags, rest: &[u8]| judge(None, &connect(5, flags, rest));
    let me = text("me");
    assert_eq!(v4(3, &me), MALFORMED);
    assert_eq!(v4(0x1e, &[&me[..], &text("t"), &text("")].concat()), MALFORMED);
    assert_eq!(v4(0x22, &me), MALFORMED);
    assert_eq!(v4(0x42, &[&me[..], &text("password")].concat()), MALFORMED);
    assert_eq!(v4(2, &[&me[..], b"x"].concat()), MALFORMED);
    assert_eq!(v4(6, &[&me[..], &text("t/#"), &text("")].concat()), MALFORMED);
    assert_eq!(v4(2, &text("m\0e")), MALFORMED);
    assert_eq!(v4(2, &[0, 1, 0xff]), MALFORMED);
    let binary = [&me[..], &text("user"), &[0, 1, 0xff]].concat();
    assert_eq!(v4(0xc2, &binary), Err(reason::BAD_USER_NAME_OR_PASSWORD));
    assert_eq!(v5(2, &[&[3, 33, 0, 0], &me[..]].concat()), PROTOCOL);
    assert_eq!(v5(2, &[&[5, 39, 0, 0, 0, 0], &me[..]].concat()), PROTOCOL);
    assert_eq!(v5(2, &[&[2, 23, 2], &me[..]].concat()), PROTOCOL);
    assert_eq!(v5(2, &[&[4, 22, 0, 1, 1], &me[..]].concat()), PROTOCOL);
    assert_eq!(v5(2, &[&[3, 35, 0, 1], &me[..]].concat()), MALFORMED);
    let level = |level| judge(None, &connect(level, 2, &me));
    assert_eq!(level(3), Err(reason::UNSUPPORTED_PROTOCOL_VERSION));
    assert_eq!(level(6), Err(reason::UNSUPPORTED_PROTOCOL_VERSION));
    let other = packet(0x10, &[&text("AMQP"), &[4, 2, 0, 0], &me]);
    assert_eq!(judge(None, &other), Err(0));
    let flags = packet(0x11, &[&text("MQTT"), &[4, 2, 0, 0], &me]);
    assert_eq!(judge(None, &flags), MALFORMED);
}

#[test]
fn a_packet_out_of_order_is_refused() {
    assert_eq!(judge(None, &[0xc0, 0]), PROTOCOL);
    assert_eq!(judge(None, &packet(0x30, &[&A_B])), PROTOCOL);
    assert_eq!(judge(V4, &connect(4, 2, &text("me"))), PROTOCOL);
    assert_eq!(judge(V5, &connect(5, 2, &[&[0], &text("me")[..]].concat())), PROTOCOL);
    for first in [0x20u8, 0x90, 0xb0, 0xd0] {
        assert_eq!(judge(V4, &packet(first, &[&[0, 1]])), PROTOCOL, "{first:x}");
    }
    assert_eq!(judge(V4, &[0xf0, 0]), MALFORMED);
    assert_eq!(judge(V5, &[0xf0, 0]), PROTOCOL);
    assert_eq!(judge(V5, &[0x00, 0]), MALFORMED);
}

#[test]
fn reserved_flags_and_trailing_bytes_are_refused() {
    for (version, first, body) in [
        (V4, 0xc1u8, &[][..]),
        (V4, 0xc0, &[0]),
        (V4, 0xe1, &[]),
        (V4, 0xe0, &[0]),
        (V4, 0x60, &[0, 1]),
        (V4, 0x62, &[0, 1, 0]),
        (V4, 0x62, &[0, 0]),
        (V4, 0x41, &[0, 1]),
        (V4, 0x80, &[0, 1, 0, 1, b'a', 0]),
        (V4, 0xa0, &[0, 1, 0, 1, b'a']),
        (V5, 0x62, &[0, 1, 0, 0, 0]),
        (V5, 0xe0, &[0, 0, 0]),
    ] {
        assert_eq!(judge(version, &packet(first, &[body])), MALFORMED, "{first:x} {body:x?}");
    }
    assert_eq!(judge(V5, &packet(0x62, &[&[0, 1, 0, 0]])), Ok(()));
    assert_eq!(judge(V5, &packet(0x62, &[&[0, 1, 0x92]])), Ok(()));
    assert_eq!(judge(V4, &packet(0x62, &[&[0, 1]])), Ok(()));
    for version in [V4, V5] {
        assert_eq!(judge(version, &[0xc0, 0]), Ok(()));
        assert_eq!(judge(version, &[0xe0, 0]), Ok(()));
    }
    assert_eq!(judge(V5, &[0xe0, 1, 4]), Ok(()));
}

#[test]
fn a_bad_filter_is_refused() {
    let subscribe =
        |filter: &str, options| judge(V4, &packet(0x82, &[&[0, 1], &text(filter), &[options]]));
    for filter in ["a/#/b", "a#", "a+/b", "", "a\0", "+a", "##"] {
        assert_eq!(subscribe(filter, 0), MALFORMED, "{filter}");
        let unsubscribe = packet(0xa2, &[&[0, 1], &text(filter)]);
        assert_eq!(judge(V4, &unsubscribe), MALFORMED, "{filter}");
    }
    for filter in ["a/#", "+", "#", "+/+/#", "/", "a//b", "$share/g/a/#"] {
        assert_eq!(subscribe(filter, 2), Ok(()), "{filter}");
    }
    assert_eq!(subscribe("a", 3), MALFORMED);
    assert_eq!(subscribe("a", 4), MALFORMED);
    assert_eq!(judge(V4, &packet(0x82, &[&[0, 0], &text("a"), &[0]])), MALFORMED);
    assert_eq!(judge(V4, &packet(0x82, &[&[0, 1]])), PROTOCOL);
    let v5 = |options| judge(V5, &packet(0x82, &[&[0, 1, 0], &text("$share/g/a"), &[options]]));
    assert_eq!(v5(0x2a), Ok(()));
    assert_eq!(v5(4), PROTOCOL);
    assert_eq!(v5(0x30), PROTOCOL);
    assert_eq!(v5(0x40), MALFORMED);
}

#[test]
fn a_frame_waits_for_its_bytes_and_allocates_nothing_for_claims() {
    assert_eq!(frame(&[], 100), Ok(Framed::Incomplete(2)));
    assert_eq!(frame(&[0x30], 100), Ok(Framed::Incomplete(2)));
    assert_eq!(frame(&[0x30, 0x80], 100), Ok(Framed::Incomplete(3)));
    assert_eq!(frame(&[0x30, 9, 0], 100), Ok(Framed::Incomplete(11)));
    let too_large = Err(reason::PACKET_TOO_LARGE);
    assert_eq!(frame(&[0x30, 0xff, 0xff, 0xff, 0x7f], 100).map_err(|r| r.reason), too_large);
    let malformed = frame(&[0x30, 0xff, 0xff, 0xff, 0xff, 1], 100).map_err(|r| r.reason);
    assert_eq!(malformed, Err(reason::MALFORMED_PACKET));
}

#[test]
fn no_prefix_and_no_bit_flip_of_a_packet_panics() {
    let will = [&[0], &text("me")[..], &[5, 24, 0, 0, 0, 9], &text("w"), &text("x")].concat();
    let user = [0x26, 0, 1, b'k', 0, 1, b'v'];
    let packets = [
        connect(4, 2, &text("me")),
        connect(5, 0b0010_1110, &will),
        packet(0x32, &[&A_B, &[0, 7], &[7], &user, b"hello"]),
        packet(0x82, &[&[0, 1, 0], &text("a/#"), &[2]]),
        packet(0xa2, &[&[0, 1, 0], &text("a/#")]),
        packet(0x62, &[&[0, 1, 0, 0]]),
        packet(0xe0, &[&[4, 5, 17, 0, 0, 0, 1]]),
    ];
    let survive = |bytes: &[u8]| {
        for version in [None, V4, V5] {
            if let Ok(Framed::Whole { first, body, packet }) = frame(bytes, 200) {
                let _ = decode(version, first, body, packet);
                let _ = Publish::parse(version.unwrap_or(Version::V5), first, body);
            }
        }
    };
    for bytes in packets {
        for at in 0..bytes.len() {
            survive(&bytes[..at]);
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                survive(&flipped);
            }
        }
    }
}
