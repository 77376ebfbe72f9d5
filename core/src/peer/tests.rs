//! Frames as they arrive, and every way in which two gateways do not belong together.

use super::handshake::{Handshake, Hello, Step};
use super::{BadFrame, HANDSHAKE_BYTES_MAX, Kind, Message, frame, frame_len, open};
use crate::types::NodeId;
use crate::wire::Frame;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::Bytes;

const SECRET: &[u8] = b"thirty-two bytes of good secret!";

fn whole(frame: &Frame) -> Bytes {
    frame.0.iter().flat_map(|piece| piece.iter().copied()).collect::<Vec<u8>>().into()
}

/// Kind and payload, as the other side reads them.
fn received(sent: &Frame) -> (Kind, Bytes) {
    let bytes = whole(sent);
    let size = bytes[..4].try_into().unwrap();
    assert_eq!(frame_len(size, HANDSHAKE_BYTES_MAX), Ok(bytes.len() - 4));
    open(bytes.slice(4..)).unwrap()
}

fn hello(node: i32) -> Hello {
    let mut hello = Hello::new(NodeId(node), [node as u8; 16], [7; 16], [node as u8 + 100; 32]);
    hello.voters = Vec::from([(NodeId(1), "gw1:9093".into()), (NodeId(2), "gw2:9093".into())]);
    hello
}

/// The last step of the dialer and of the listener.
fn shake(secrets: [&[u8]; 2], dialer: Hello, listener: Hello) -> (Step, Step) {
    let expected = Some(NodeId(2));
    let (mut dialer, first) = Handshake::dial(secrets[0], dialer, expected);
    let mut listener = Handshake::listen(secrets[1], listener);
    let mut sent = first;
    loop {
        let (kind, payload) = received(&sent);
        let heard = match listener.on_frame(kind, &payload) {
            Step::Send(answer) => answer,
            end => return (finish(&mut dialer, &end), end),
        };
        let (kind, payload) = received(&heard);
        sent = match dialer.on_frame(kind, &payload) {
            Step::Send(next) => next,
            end => {
                let other = finish(&mut listener, &end);
                return (end, other);
            }
        };
    }
}

fn finish(other: &mut Handshake, end: &Step) -> Step {
    match end {
        Step::Done { send: Some(last), .. } | Step::Refused { send: Some(last), .. } => {
            let (kind, payload) = received(last);
            other.on_frame(kind, &payload)
        }
        _ => panic!("the end of one side is told to the other: {end:?}"),
    }
}

fn refusals(dialer: Hello, listener: Hello) -> (String, String) {
    match shake([SECRET, SECRET], dialer, listener) {
        (Step::Refused { why: dialer, .. }, Step::Refused { why: listener, .. }) => {
            (dialer, listener)
        }
        other => panic!("they took each other: {other:?}"),
    }
}

fn both_say(dialer: Hello, listener: Hello, sentence: &str) {
    let (at_dialer, at_listener) = refusals(dialer, listener);
    assert!(at_dialer.contains(sentence), "{at_dialer}");
    assert!(at_listener.contains(sentence), "{at_listener}");
}

#[test]
fn two_gateways_with_one_secret_know_each_other() {
    let (dialer, listener) = shake([SECRET, SECRET], hello(1), hello(2));
    assert_eq!(dialer, Step::Done { send: None, peer: hello(2) });
    let Step::Done { peer, .. } = listener else { panic!("{listener:?}") };
    assert_eq!(peer, hello(1));
}

#[test]
fn another_secret_is_refused_on_both_sides() {
    let (dialer, listener) = shake([SECRET, b"another secret of a neighbour"], hello(1), hello(2));
    for side in [dialer, listener] {
        let Step::Refused { why, .. } = side else { panic!("{side:?}") };
        assert!(why.contains("different secrets"), "{why}");
    }
}

#[test]
fn whoever_does_not_belong_here_is_refused_with_a_sentence_on_both_sides() {
    both_say(hello(2), hello(2), "two gateways have node.id 2");
    both_say(hello(1), hello(3), "gateway 3 answers where cluster.voters");
    let newer = Hello { version: 9, version_min: 8, ..hello(2) };
    both_say(hello(1), newer, "speaks versions 8 to 9");
    let older = Hello { version: 1, ..hello(1) };
    let raised = Hello { version_min: 2, ..hello(2) };
    both_say(older, raised, "2 to 2 of the peer protocol and gateway 1 1 to 1: upgrade");
    let formed = |node, cluster| Hello { cluster: Some(cluster), ..hello(node) };
    both_say(formed(1, [1; 16]), formed(2, [2; 16]), "is of cluster");
    let alone = Hello { voters: Vec::from([(NodeId(2), "gw2:9093".into())]), ..hello(2) };
    both_say(hello(1), alone.clone(), "gateway 2 has 2@gw2:9093");
    let at = |node, clock_ms| Hello { clock_ms: Some(clock_ms), ..hello(node) };
    both_say(at(1, 0), at(2, 40 * 365 * 86_400_000), "are 14600 days apart");

    // Lists may differ once there is a cluster: voters come and go by its log.
    let joined = Hello { cluster: Some([1; 16]), ..alone };
    let (dialer, _) = shake([SECRET, SECRET], hello(1), joined);
    assert!(matches!(dialer, Step::Done { .. }), "{dialer:?}");
}

#[test]
fn of_two_gateways_with_one_id_the_second_stays_outside() {
    let greet = |connected: [u8; 16]| {
        let (mut dialer, first) = Handshake::dial(SECRET, hello(1), Some(NodeId(2)));
        let listener = Handshake::listen(SECRET, hello(2));
        let mut listener = listener.with_connected(Vec::from([(NodeId(1), connected)]));
        let (kind, payload) = received(&first);
        let Step::Send(answer) = listener.on_frame(kind, &payload) else { panic!() };
        let (kind, payload) = received(&answer);
        let Step::Send(proof) = dialer.on_frame(kind, &payload) else { panic!() };
        let (kind, payload) = received(&proof);
        let end = listener.on_frame(kind, &payload);
        (finish(&mut dialer, &end), end)
    };
    // The same gateway, whose old connection has not ended yet.
    assert!(matches!(greet([1; 16]), (Step::Done { .. }, Step::Done { .. })));
    let (Step::Refused { why: dialer, .. }, Step::Refused { why: listener, .. }) = greet([9; 16])
    else {
        panic!("they took each other");
    };
    for why in [dialer, listener] {
        assert!(
            why.contains("two gateways have node.id 1: one is connected to gateway 2"),
            "{why}"
        );
    }
}

#[test]
fn a_proof_that_was_heard_before_is_worth_nothing() {
    let (mut dialer, first) = Handshake::dial(SECRET, hello(1), None);
    let mut listener = Handshake::listen(SECRET, hello(2));
    let (kind, payload) = received(&first);
    let Step::Send(answer) = listener.on_frame(kind, &payload) else { panic!() };
    let (kind, payload) = received(&answer);
    let Step::Send(proof) = dialer.on_frame(kind, &payload) else { panic!() };

    // Somebody who listened says both again, to a listener with fresh random bytes.
    let mut fresh = Handshake::listen(SECRET, Hello { nonce: [9; 32], ..hello(2) });
    let (kind, payload) = received(&first);
    assert!(matches!(fresh.on_frame(kind, &payload), Step::Send(_)));
    let (kind, payload) = received(&proof);
    assert!(matches!(fresh.on_frame(kind, &payload), Step::Refused { .. }));
    // And turns the listener's proof around.
    let mut turned = Handshake::listen(SECRET, hello(2));
    let (kind, payload) = received(&first);
    let Step::Send(answer) = turned.on_frame(kind, &payload) else { panic!() };
    let (_, payload) = received(&answer);
    let own_proof = payload.slice(payload.len() - 32..);
    assert!(matches!(turned.on_frame(Kind::Proof, &own_proof), Step::Refused { .. }));
}

#[test]
fn steps_out_of_order_and_noise_end_the_handshake() {
    for kind in [Kind::Proof, Kind::Welcome, Kind::Answer, Kind::Quorum] {
        let mut listener = Handshake::listen(SECRET, hello(2));
        let step = listener.on_frame(kind, &Bytes::from_static(&[0xff; 40]));
        assert!(matches!(step, Step::Refused { .. }), "{kind:?}: {step:?}");
    }
    let mut listener = Handshake::listen(SECRET, hello(2));
    let step = listener.on_frame(Kind::Hello, &Bytes::from_static(&[0xff; 400]));
    assert!(matches!(step, Step::Refused { send: Some(_), .. }), "{step:?}");
}

#[test]
fn a_strangers_refusal_is_one_short_line() {
    let (mut dialer, _) = Handshake::dial(SECRET, hello(1), None);
    let said = "a\nline\x1b[31m".to_string() + &"x".repeat(5_000);
    let payload = Bytes::from(postcard::to_allocvec(&said).unwrap());
    let Step::Refused { why, send: None } = dialer.on_frame(Kind::Refusal, &payload) else {
        panic!()
    };
    assert!(why.len() < 500 && !why.chars().any(char::is_control), "{why}");
}

#[test]
fn messages_come_back_as_they_were_sent() {
    let bytes = Bytes::from_static(b"some bytes");
    for message in [
        Message::Ping,
        Message::Quorum(bytes.clone()),
        Message::Request(bytes.clone()),
        Message::Response(bytes.clone()),
        Message::Ask(bytes.clone()),
        Message::Told(bytes.clone()),
        Message::Fetch(bytes.clone()),
        Message::Records(bytes.clone(), Vec::new()),
        Message::Records(bytes.clone(), Vec::from([bytes.clone()])),
        Message::RangeFetch(bytes.clone()),
        Message::Range(bytes.clone(), Vec::new()),
        Message::Range(bytes.clone(), Vec::from([bytes.clone()])),
    ] {
        let (kind, payload) = received(&message.clone().encode());
        assert_eq!(Message::decode(kind, payload), Ok(message));
    }
    let pieces = Vec::from([Bytes::from_static(b"res"), Bytes::from_static(b"ult")]);
    let (kind, payload) = received(&Message::Records(bytes.clone(), pieces).encode());
    let whole = Vec::from([Bytes::from_static(b"result")]);
    assert_eq!(Message::decode(kind, payload), Ok(Message::Records(bytes, whole)));
}

#[test]
fn bytes_that_are_no_frame_are_named() {
    assert_eq!(frame_len(*b"GET ", HANDSHAKE_BYTES_MAX), Err(BadFrame::Size(0x4745_5420)));
    assert_eq!(frame_len([0, 0, 0, 4], 100), Err(BadFrame::Size(4)));
    let ping = whole(&frame(Kind::Ping, b"x", &[])).slice(4..);
    let mut torn = ping.to_vec();
    torn[5] ^= 1;
    assert_eq!(open(torn.into()), Err(BadFrame::Checksum));
    assert_eq!(open(ping.slice(..3)), Err(BadFrame::Size(3)));
    let crc = crc32c::crc32c(&[200]).to_be_bytes();
    let unknown = Bytes::from([&crc[..], &[200]].concat());
    assert_eq!(open(unknown), Err(BadFrame::Kind(200)));
    for claims_more in [&[][..], &[1], &[0, 9, 1]] {
        assert!(Message::decode(Kind::Records, Bytes::copy_from_slice(claims_more)).is_err());
    }
}
