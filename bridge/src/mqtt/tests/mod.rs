//! What a device may rely on, tried without sockets.

#![allow(clippy::unwrap_used)]

mod exactly_once;
mod room;
mod world;

use crate::settings;
use world::{Device, Logs, World, connect, packet, packets, publish, pubrel, text};

const CONNACK: u8 = 0x20;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;
const DISCONNECT: u8 = 0xe0;

/// A device that is connected, with a clean session.
fn connected(world: &mut World, v5: bool, client_id: &str) -> Device {
    let mut device = world.connection();
    let out = world.send(&mut device, &connect(v5, client_id, true));
    let answer = &packets(&out)[0];
    assert_eq!((answer.0, &answer.1[..2]), (CONNACK, &[0, 0][..]));
    device
}

/// First bytes and packet identifiers of what a device gets.
fn answers(out: &[u8]) -> Vec<(u8, u16)> {
    let answer = |(first, body): (u8, Vec<u8>)| (first, u16::from_be_bytes([body[0], body[1]]));
    packets(out).into_iter().map(answer).collect()
}

#[test]
fn publishes_are_answered_in_their_order_when_they_are_durable() {
    for v5 in [false, true] {
        let mut world = World::new(Logs::new());
        let mut device = connected(&mut world, v5, "d");
        let bytes = [
            publish(v5, 2, "a", 1, "one"),
            publish(v5, 0, "a", 0, "two"),
            publish(v5, 4, "b", 2, "three"),
            publish(v5, 2, "c", 3, "four"),
        ];
        let out = world.send(&mut device, &bytes.concat());
        assert_eq!(answers(&out), [(PUBACK, 1), (PUBREC, 2), (PUBACK, 3)]);
        assert_eq!(world.payloads(), ["one", "two", "three", "four"]);
        let out = world.send(&mut device, &pubrel(2));
        assert_eq!(answers(&out), [(PUBCOMP, 2)]);
    }
}

#[test]
fn nothing_is_answered_before_the_log_answers() {
    let mut world = World::new(Logs::new());
    let mut device = connected(&mut world, false, "d");
    world.steps_left = 1;
    assert_eq!(world.send(&mut device, &publish(false, 2, "a", 1, "one")), []);
    world.hub.connections.get(device.key).unwrap();
    assert_eq!(world.hub.connections.get(device.key).unwrap().out, []);
}

#[test]
fn a_packet_in_pieces_is_a_packet() {
    let mut world = World::new(Logs::new());
    let mut device = world.connection();
    let bytes = [connect(false, "d", true), publish(false, 2, "a", 1, "one")].concat();
    let mut out = Vec::new();
    for byte in bytes {
        out.extend(world.send(&mut device, &[byte]));
    }
    assert_eq!(packets(&out).last().unwrap(), &(PUBACK, vec![0, 1]));
}

#[test]
fn who_does_not_speak_mqtt_is_not_listened_to() {
    for bytes in [&b"G"[..], b"GET / HTTP/1.1", &[0x30], &[0xc0, 0], &[0x16, 3, 1]] {
        let mut world = World::new(Logs::new());
        let mut stranger = world.connection();
        assert_eq!(world.send(&mut stranger, bytes), []);
        let has_ended = world.hub.connections.get(stranger.key).unwrap().has_ended();
        assert_eq!(has_ended, bytes[0] >> 4 != 1, "{bytes:x?}");
    }
}

#[test]
fn a_second_connection_takes_the_session_over() {
    let mut world = World::new(Logs::new());
    let mut first = connected(&mut world, true, "d");
    let mut second = connected(&mut world, true, "d");
    assert_eq!(packets(&world.run(&mut first)), [(DISCONNECT, vec![0x8e])]);
    let out = world.send(&mut second, &publish(true, 2, "a", 1, "one"));
    assert_eq!(answers(&out), [(PUBACK, 1)]);
}

#[test]
fn an_alias_stands_for_its_topic() {
    let mut world = World::new(Logs::new());
    let mut device = connected(&mut world, true, "d");
    let alias =
        |topic: &str, payload: &[u8]| packet(0x30, &[&text(topic), &[3, 35, 0, 2], payload]);
    world.send(&mut device, &alias("a/b", b"one"));
    world.send(&mut device, &alias("", b"two"));
    let keys: Vec<_> = world.logs[&("sensors".into(), 0)].iter().map(|r| r.key.clone()).collect();
    assert_eq!(keys, [Some("a/b".into()), Some("a/b".into())]);
    let unknown = packet(0x30, &[&text(""), &[3, 35, 0, 3]]);
    assert_eq!(packets(&world.send(&mut device, &unknown)), [(DISCONNECT, vec![0x82])]);
    let mut device = connected(&mut world, true, "e");
    let too_large = packet(0x30, &[&text("a"), &[3, 35, 1, 0]]);
    assert_eq!(packets(&world.send(&mut device, &too_large)), [(DISCONNECT, vec![0x94])]);
}

#[test]
fn a_client_without_a_name_gets_one() {
    let mut world = World::new(Logs::new());
    let mut device = world.connection();
    let answer = &packets(&world.send(&mut device, &connect(true, "", true)))[0];
    let name = String::from_utf8_lossy(&answer.1).into_owned();
    assert!(name.contains("weir-"), "{name}");
    let mut device = world.connection();
    let out = world.send(&mut device, &connect(false, "", false));
    assert_eq!(packets(&out), [(CONNACK, vec![0, 2])]);
}

#[test]
fn limits_are_told() {
    let settings = settings::Mqtt {
        connections_max: 1,
        receive_maximum: 2,
        packet_bytes_max: 60,
        ..settings::Mqtt::default()
    };
    let mut world = World::with(Logs::new(), settings);
    let mut device = connected(&mut world, true, "one");
    for (v5, refusal) in [(true, vec![0, 0x97, 0]), (false, vec![0, 3])] {
        let mut surplus = world.connection();
        let out = world.send(&mut surplus, &connect(v5, "two", true));
        assert_eq!(packets(&out), [(CONNACK, refusal)]);
        world.hub.closed(surplus.key, world.now);
    }
    world.steps_left = 1;
    let three: Vec<u8> = (1..4).flat_map(|id| publish(true, 2, "a", id, "x")).collect();
    world.send(&mut device, &three);
    let out = std::mem::take(&mut world.hub.connections.get_mut(device.key).unwrap().out);
    assert_eq!(packets(&out), [(DISCONNECT, vec![0x93])]);
    world.hub.closed(device.key, world.now);
    let mut device = connected(&mut world, true, "one");
    let out = world.send(&mut device, &publish(true, 0, "a", 0, &"x".repeat(80)));
    assert_eq!(packets(&out), [(DISCONNECT, vec![0x95])]);
}

#[test]
fn a_full_storage_is_told_to_those_who_can_hear_it() {
    let mut world = World::new(Logs::new());
    let mut five = connected(&mut world, true, "five");
    let mut three = connected(&mut world, false, "three");
    world.full = true;
    let out = world.send(&mut five, &publish(true, 2, "a", 1, "refused"));
    assert_eq!(packets(&out), [(PUBACK, vec![0, 1, 0x97])]);
    let out = world.send(&mut five, &publish(true, 4, "a", 2, "refused"));
    assert_eq!(packets(&out), [(PUBREC, vec![0, 2, 0x97])]);
    assert_eq!(world.send(&mut three, &publish(false, 2, "a", 1, "kept")), []);
    // A session that is kept needs room, one that ends with its connection does not.
    for (v5, clean, answer) in
        [(false, false, vec![0, 3]), (true, false, vec![0, 0x97, 0]), (false, true, vec![0, 0])]
    {
        let mut device = world.connection();
        let out = world.send(&mut device, &connect(v5, "new", clean));
        assert_eq!(packets(&out), [(CONNACK, answer)], "clean {clean}");
        world.hub.closed(device.key, world.now);
    }
    world.full = false;
    world.now += std::time::Duration::from_secs(3);
    assert_eq!(answers(&world.run(&mut three)), [(PUBACK, 1)]);
    let out = world.send(&mut five, &publish(true, 2, "a", 3, "taken"));
    assert_eq!(packets(&out), [(PUBACK, vec![0, 3])]);
    assert_eq!(world.payloads(), ["kept", "taken"]);
}

#[test]
fn a_silent_client_is_ended_and_its_will_published() {
    let mut world = World::new(Logs::new());
    let will = [text("d"), text("gone"), text("it is gone")].concat();
    let with_will = packet(0x10, &[&text("MQTT"), &[4, 0x0e, 0, 10], &will]);
    for graceful in [true, false] {
        let mut device = world.connection();
        world.send(&mut device, &with_will);
        world.passes(14);
        assert!(world.hub.connections.get(device.key).is_some_and(|c| !c.has_ended()));
        if graceful {
            world.send(&mut device, &[0xe0, 0]);
        } else {
            world.passes(2);
        }
        assert!(world.hub.connections.get(device.key).unwrap().has_ended());
        let mut other = connected(&mut world, false, "other");
        world.passes(0);
        world.run(&mut other);
        let wills: &[&str] = if graceful { &[] } else { &["it is gone"] };
        assert_eq!(world.payloads(), wills);
    }
}

#[test]
fn a_subscription_is_refused_and_the_connection_goes_on() {
    for (v5, body, refusal) in [
        (false, &[0, 9, 0, 1, b'a', 1][..], vec![0, 9, 0x80]),
        (true, &[0, 9, 0, 0, 1, b'a', 1], vec![0, 9, 0, 0x83]),
    ] {
        let mut world = World::new(Logs::new());
        let mut device = connected(&mut world, v5, "d");
        let out = world.send(&mut device, &packet(0x82, &[body]));
        assert_eq!(packets(&out), [(0x90, refusal)]);
        assert_eq!(world.send(&mut device, &[0xc0, 0]), [0xd0, 0]);
    }
}

#[test]
fn rules_that_invent_topics_come_to_an_end() {
    let rule = settings::Rule {
        filter: "{site}/#".into(),
        topic: "{site}".into(),
        ..settings::Rule::default()
    };
    let settings = settings::Mqtt { topics_max: 3, rule: vec![rule], ..settings::Mqtt::default() };
    let mut world = World::with(Logs::new(), settings);
    let mut device = connected(&mut world, false, "d");
    for site in 0..10 {
        let topic = format!("s{site}/x");
        world.send(&mut device, &publish(false, 0, &topic, 0, "x"));
    }
    let topics: std::collections::BTreeSet<_> =
        world.logs.keys().map(|(topic, _)| topic.as_str()).collect();
    assert_eq!(topics.into_iter().collect::<Vec<_>>(), ["s0", "s1", "s2", "sensors"]);
    assert_eq!(world.payloads().len(), 10);
}
