//! A partition whose gateways are away: who waits for it, and who does not.

use super::world::{Device, Logs, World, packet, packets, publish, text};
use super::{PUBACK, answers, connected};
use crate::ingest::murmur::partition_of_key;
use crate::mqtt::connection::Blocked;
use crate::settings;

const PARTITIONS: u32 = 4;

/// A QoS 0 PUBLISH of about 900 kB.
fn large(topic: &str, number: usize) -> Vec<u8> {
    let payload = format!("{}{number:0>10}", "0".repeat(899_990));
    let body = [&text(topic), payload.as_bytes()].concat();
    let length = [body.len() & 0x7f | 0x80, body.len() >> 7 & 0x7f | 0x80, body.len() >> 14];
    [&[0x30][..], &length.map(|byte| byte as u8), &body].concat()
}

/// A device that is gone, and has left a will.
fn leaves_a_will(world: &mut World, name: &str, topic: &str) {
    let mut device = world.connection();
    let will = [text(name), text(topic), text(name)].concat();
    world.send(&mut device, &packet(0x10, &[&text("MQTT"), &[4, 0x0e, 0, 0], &will]));
    world.hub.closed(device.key, world.now);
}

fn blocked(world: &World, device: &Device) -> Option<Blocked> {
    world.hub.connections.get(device.key).unwrap().blocked
}

#[test]
fn a_partition_without_a_leader_holds_up_nobody_who_publishes_elsewhere() {
    let settings = settings::Mqtt { default_partitions: PARTITIONS, ..settings::Mqtt::default() };
    let mut world = World::with(Logs::new(), settings);
    let partition = |topic: &str| partition_of_key(topic.as_bytes(), PARTITIONS) as i32;
    let elsewhere = ["b", "c", "d", "e"].into_iter().find(|t| partition(t) != partition("a"));
    let elsewhere = elsewhere.unwrap();
    let mut first = connected(&mut world, false, "first");
    world.away = Some(partition("a"));
    for number in 0..20 {
        world.send(&mut first, &large("a", number));
    }
    assert!(matches!(blocked(&world, &first), Some(Blocked::Room(_))));
    assert_eq!(world.send(&mut first, &[0xc0, 0]), [], "its packets are taken in order");
    leaves_a_will(&mut world, "will 1", "a");
    leaves_a_will(&mut world, "will 2", elsewhere);
    let mut second = connected(&mut world, true, "second");
    for id in 1..100 {
        let out = world.send(&mut second, &publish(true, 2, elsewhere, id, "x"));
        assert_eq!(answers(&out), [(PUBACK, id)]);
    }
    assert_eq!(world.payloads().iter().filter(|payload| *payload == "will 2").count(), 1);
    assert!(!world.payloads().iter().any(|payload| payload == "will 1"));
    assert!(blocked(&world, &first).is_some());
    world.away = None;
    world.passes(3);
    let mut out = world.run(&mut first);
    world.passes(1);
    out.extend(world.run(&mut first));
    assert_eq!(packets(&out), [(0xd0, vec![])]);
    let log = &world.logs[&("sensors".to_string(), partition("a"))];
    let value = |at: usize| log[at].value.as_ref().unwrap();
    (0..20).for_each(|at| assert_eq!(value(at).len(), 900_000));
    assert_eq!((log.len(), &value(20)[..]), (21, &b"will 1"[..]));
    assert!((0..20).all(|at| value(at).ends_with(format!("{at:0>10}").as_bytes())));
}
