//! QoS 2 across power cuts: a publish that is repeated is stored once, wherever the power was cut.

use super::world::{Device, Logs, SESSIONS, World, connect, packets, publish, pubrel};
use super::{CONNACK, PUBCOMP, PUBREC};
use crate::mqtt::session::{SessionRecord, exchange, parse_exchange};
use std::collections::{BTreeMap, VecDeque};

/// What a device has in flight: its own memory survives, as the protocol wants it.
#[derive(Debug, Default)]
struct Ledger {
    next: u32,
    done: u32,
    /// Packet identifier to message and what it waits for.
    open: BTreeMap<u16, (u32, Waits)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    Recorded,
    ToRelease,
    Completed,
}

const MESSAGES: u32 = 6;
const WINDOW: usize = 2;

impl Ledger {
    /// Connects, repeats what is open, and goes on until all is done or the power is cut. One
    /// packet is taken at a time, so releases and publishes mix.
    fn run(&mut self, world: &mut World, v5: bool) {
        let mut device = world.connection();
        let mut inbox =
            VecDeque::from(packets(&world.send(&mut device, &connect(v5, "dev", false))));
        let mut bytes = self.repeats(v5);
        while self.done < MESSAGES {
            inbox.extend(packets(&world.send(&mut device, &bytes)));
            match inbox.pop_front() {
                Some((first, body)) => self.take(first, &body),
                None => return,
            }
            bytes = self.more(v5);
        }
    }

    fn repeats(&mut self, v5: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (identifier, (message, waits)) in &mut self.open {
            bytes.extend(if *waits == Waits::Recorded {
                publish(v5, 0x0c, topic(*message), *identifier, &message.to_string())
            } else {
                *waits = Waits::Completed;
                pubrel(*identifier)
            });
        }
        bytes
    }

    fn take(&mut self, first: u8, body: &[u8]) {
        if first == CONNACK {
            assert!(self.open.is_empty() || body[0] == 1, "the session is there again");
            return;
        }
        let identifier = u16::from_be_bytes([body[0], body[1]]);
        match first {
            PUBREC => {
                if let Some((_, waits @ Waits::Recorded)) = self.open.get_mut(&identifier) {
                    *waits = Waits::ToRelease;
                }
            }
            PUBCOMP => self.done += u32::from(self.open.remove(&identifier).is_some()),
            other => panic!("{other:x}"),
        }
    }

    /// Releases what was recorded, and publishes as much as the window allows.
    fn more(&mut self, v5: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (identifier, (_, waits)) in &mut self.open {
            if *waits == Waits::ToRelease {
                *waits = Waits::Completed;
                bytes.extend(pubrel(*identifier));
            }
        }
        while self.open.len() < WINDOW && self.next < MESSAGES {
            let free = (1..).find(|identifier| !self.open.contains_key(identifier)).unwrap();
            self.open.insert(free, (self.next, Waits::Recorded));
            let payload = self.next.to_string();
            bytes.extend(publish(v5, 4, topic(self.next), free, &payload));
            self.next += 1;
        }
        bytes
    }
}

fn topic(message: u32) -> &'static str {
    if message.is_multiple_of(2) { "even" } else { "odd" }
}

#[test]
fn each_publish_is_stored_once_whatever_two_steps_the_power_is_cut_at() {
    for v5 in [false, true] {
        let (mut first, mut cuts) = (1, 0);
        loop {
            let mut second = 1;
            loop {
                let (mut logs, mut ledger) = (Logs::new(), Ledger::default());
                let mut ends = [false; 2];
                for (steps, end) in [first, second].into_iter().zip(&mut ends) {
                    let mut world = World::new(logs);
                    world.steps_left = steps;
                    ledger.run(&mut world, v5);
                    *end = world.steps_left > 0;
                    cuts += usize::from(!*end);
                    logs = world.logs;
                }
                let mut world = World::new(logs);
                ledger.run(&mut world, v5);
                assert_eq!(ledger.done, MESSAGES, "cut at {first} and {second}: {ledger:?}");
                let mut payloads = world.payloads();
                payloads.sort();
                let wanted: Vec<String> = (0..MESSAGES).map(|m| m.to_string()).collect();
                assert_eq!(payloads, wanted, "cut at {first} and {second}");
                if ends[1] {
                    break;
                }
                second += 1;
            }
            if second == 1 {
                break;
            }
            first += 1;
            if first > 60 {
                break;
            }
        }
        assert!(cuts > 300, "only {cuts} cuts");
    }
}

#[test]
fn a_release_is_answered_only_when_it_is_durable() {
    let mut world = World::new(Logs::new());
    let mut device = world.connection();
    world.send(&mut device, &connect(false, "dev", false));
    let out = world.send(&mut device, &publish(false, 4, "a", 1, "one"));
    assert_eq!(packets(&out), [(PUBREC, vec![0, 1])]);
    world.steps_left = 1;
    assert_eq!(world.send(&mut device, &pubrel(1)), []);
    let mut world = World::new(world.logs);
    let mut device = world.connection();
    let out = world.send(&mut device, &connect(false, "dev", false));
    assert_eq!(packets(&out), [(CONNACK, vec![1, 0])]);
    let out = world.send(&mut device, &publish(false, 0x0c, "a", 1, "one"));
    assert_eq!(packets(&out), [(PUBREC, vec![0, 1])]);
    assert_eq!(packets(&world.send(&mut device, &pubrel(1))), [(PUBCOMP, vec![0, 1])]);
    // The same identifier again is a new publish now.
    world.send(&mut device, &publish(false, 4, "a", 1, "two"));
    assert_eq!(world.payloads(), ["one", "two"]);
}

/// Connects anew with a session that is kept; says whether it was there.
fn reconnect(world: &mut World, clean: bool) -> (Device, bool) {
    let mut device = world.connection();
    let out = world.send(&mut device, &connect(false, "dev", clean));
    let present = packets(&out)[0].1[0] == 1;
    (device, present)
}

#[test]
fn a_repeat_after_a_reconnect_is_recognised_and_a_clean_start_forgets() {
    let mut world = World::new(Logs::new());
    let (mut device, present) = reconnect(&mut world, false);
    assert!(!present);
    world.send(&mut device, &publish(false, 4, "a", 1, "one"));
    world.hub.closed(device.key, world.now);
    let (mut device, present) = reconnect(&mut world, false);
    assert!(present);
    let out = world.send(&mut device, &publish(false, 0x0c, "a", 1, "one"));
    assert_eq!(packets(&out), [(PUBREC, vec![0, 1])]);
    assert_eq!(world.payloads(), ["one"]);
    let (_, present) = reconnect(&mut world, true);
    assert!(!present);
    let mut world = World::new(world.logs);
    let (_, present) = reconnect(&mut world, false);
    assert!(!present, "a clean session is forgotten for good");
}

#[test]
fn a_session_expires_and_a_start_gives_it_its_time_again() {
    let mut world = World::new(Logs::new());
    let (device, _) = reconnect(&mut world, false);
    world.hub.closed(device.key, world.now);
    let week = 7 * 24 * 3_600;
    world.passes(week - 1);
    let (device, present) = reconnect(&mut world, false);
    assert!(present);
    world.hub.closed(device.key, world.now);
    let mut restarted = World::new(world.logs.clone());
    let (_, present) = reconnect(&mut restarted, false);
    assert!(present);
    world.passes(week + 1);
    let (_, present) = reconnect(&mut world, false);
    assert!(!present);
}

#[test]
fn the_sessions_topic_is_written_anew_when_it_has_grown() {
    let mut world = World::new(Logs::new());
    let (mut device, _) = reconnect(&mut world, false);
    world.hub.written_count = 20_000;
    world.passes(0);
    let before = world.logs[&(SESSIONS.to_string(), 0)].len();
    assert_eq!(world.hub.trimmed(), None);
    world.run(&mut device);
    let below = world.hub.trimmed().unwrap();
    assert_eq!(below, before as i64);
    world.logs.get_mut(&(SESSIONS.to_string(), 0)).unwrap().drain(..below as usize);
    let mut world = World::new(world.logs);
    let (_, present) = reconnect(&mut world, false);
    assert!(present);
}

#[test]
fn stored_sessions_and_identities_come_back_as_they_were() {
    let record = SessionRecord {
        id: 0xfedc,
        expiry: 9,
        next: 1 << 40,
        open: vec![(1, 2, true), (65_535, 3, false)],
        positions: vec![("t".into(), 3, 1 << 50)],
    };
    let bytes = record.encode();
    assert_eq!(SessionRecord::decode(&bytes), Some(record));
    for at in 0..bytes.len() {
        assert_eq!(SessionRecord::decode(&bytes[..at]), None);
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x81;
        let _ = SessionRecord::decode(&flipped);
    }
    let header = exchange(0xfedc, 77, 65_535);
    assert_eq!(parse_exchange(header.as_bytes()), Some((0xfedc, 77, 65_535)));
    for bad in ["", "1", "1.2", "1.2.3.4", "x.2.3", "1.2.65536"] {
        assert_eq!(parse_exchange(bad.as_bytes()), None, "{bad}");
    }
}
