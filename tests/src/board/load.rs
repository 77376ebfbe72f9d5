//! Clients that publish numbers, and a ledger of what was acknowledged to each.

use crate::mqtt::{Mqtt, PUBACK, PUBCOMP, PUBREC};
use crate::numbered::{stamped_batch, try_records};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use weir_bridge::client::{Acks, Bootstrap, Client, OwnedRecord, Settings};
use weir_core::batch::ProducerStamp;

/// Where MQTT messages go without a rule, in four partitions.
const SENSORS: &str = "sensors";
const PARTITIONS: i32 = 4;
/// Of the Kafka producer.
const NUMBERED: &str = "numbered";
/// Name of each device, which is also its MQTT topic, with its quality of service and window.
const DEVICES: [(&str, u8, u64); 3] =
    [("boot/one", 1, 1), ("boot/many", 1, 20), ("boot/exactly", 2, 1)];

/// What one client has sent, and what was acknowledged of it.
#[derive(Clone, Debug, Default)]
struct Ledger {
    /// Ranges of numbers that were acknowledged, one for each time that the board had power.
    acked: Vec<(u64, u64)>,
    /// Of the last range: how long QEMU's recording was when what was acknowledged.
    positions: Vec<(u64, u64)>,
    /// The next number. Those that were sent and not acknowledged may be there or not.
    next: u64,
}

/// The ledgers of all clients, by their names.
#[derive(Debug, Default)]
pub struct Ledgers(Mutex<BTreeMap<String, Ledger>>);

impl Ledgers {
    fn change<T>(&self, name: &str, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledgers = self.0.lock().expect("nobody panics while holding the ledgers");
        change(ledgers.entry(name.to_string()).or_default())
    }

    /// A board got its power again: what was acknowledged from here on follows the next number.
    fn begin(&self, name: &str) -> u64 {
        self.change(name, |ledger| {
            ledger.acked.push((ledger.next, ledger.next));
            ledger.positions.clear();
            ledger.next
        })
    }

    fn sent(&self, name: &str, next: u64) {
        self.change(name, |ledger| ledger.next = ledger.next.max(next));
    }

    fn acked(&self, name: &str, position: u64, until: u64) {
        self.change(name, |ledger| {
            ledger.acked.last_mut().expect("it has begun").1 = until;
            ledger.positions.push((position, until));
        });
    }

    /// The plug was pulled when the recording was so long: what was acknowledged later was not.
    pub fn cut(&self, at: u64) {
        let mut ledgers = self.0.lock().expect("nobody panics while holding the ledgers");
        for ledger in ledgers.values_mut() {
            let Some(range) = ledger.acked.last_mut() else { continue };
            let before = ledger.positions.partition_point(|(position, _)| *position <= at);
            range.1 = before.checked_sub(1).map_or(range.0, |last| ledger.positions[last].1);
        }
    }

    /// How many numbers were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        let ledgers = self.0.lock().expect("nobody panics while holding the ledgers");
        ledgers.values().flat_map(|l| &l.acked).map(|(from, until)| until - from).sum()
    }

    /// Reads everything over Kafka: what was acknowledged is there once and in order, and nothing
    /// that was not sent. Gives how many records were found, or a sentence for each client's loss.
    pub fn check(&self, port: u16) -> Result<u64, String> {
        let found = smol::block_on(found(port)).map_err(|error| error.to_string())?;
        let ledgers = self.0.lock().expect("nobody panics while holding the ledgers");
        let mut broken = Vec::new();
        for (name, ledger) in ledgers.iter() {
            let numbers = found.get(name).map_or(&[][..], Vec::as_slice);
            broken.extend(ledger.breach(numbers).map(|breach| format!("{name}: {breach}")));
        }
        let count = found.values().map(|numbers| numbers.len() as u64).sum();
        if broken.is_empty() { Ok(count) } else { Err(broken.join("\n")) }
    }
}

impl Ledger {
    fn breach(&self, found: &[u64]) -> Option<String> {
        if let Some(pair) = found.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Some(format!("{} comes after {}", pair[1], pair[0]));
        }
        let unknown = found.iter().find(|number| **number >= self.next);
        if let Some(number) = unknown {
            return Some(format!("{number} was never sent"));
        }
        let lost = self.acked.iter().flat_map(|(from, until)| *from..*until);
        let mut lost = lost.filter(|number| found.binary_search(number).is_err());
        let first = lost.next()?;
        Some(format!("{first} was acknowledged and is lost, and {} after it", lost.count()))
    }
}

fn client(port: u16) -> Client {
    let bootstrap = Bootstrap::Tcp(vec![format!("127.0.0.1:{port}")]);
    let mut settings = Settings::new(bootstrap, "weir-boot-test");
    settings.retry_for = Duration::from_secs(30);
    Client::new(settings)
}

async fn found(port: u16) -> Result<BTreeMap<String, Vec<u64>>, weir_bridge::client::Error> {
    let client = client(port);
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let cluster = client.cluster(None).await?;
    for (topic, partitions) in [(SENSORS, PARTITIONS), (NUMBERED, 1)] {
        if !cluster.topics.iter().any(|known| known.name == topic) {
            continue;
        }
        for partition in 0..partitions {
            for record in try_records(&client, topic, partition).await? {
                let key = record.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned());
                let name = key.unwrap_or_else(|| NUMBERED.to_string());
                found.entry(name).or_default().push(number(&record));
            }
        }
    }
    Ok(found)
}

/// A value is a number, a colon and padding.
fn number(record: &OwnedRecord) -> u64 {
    let value = record.value.as_deref().unwrap_or_default();
    let digits = value.split(|byte| *byte == b':').next().unwrap_or_default();
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    number.unwrap_or(u64::MAX)
}

/// How a client ended: that its connection broke is what a pulled plug is about.
type Ended = Result<(), Box<dyn Error + Send + Sync>>;

/// Publishes with all clients while `work` is under way, which pulls the plug in the end.
/// `position` is how long the recording of the disk is.
pub fn publish_while<T>(
    ledgers: &Ledgers,
    (mqtt_port, kafka_port): (u16, u16),
    position: &(dyn Fn() -> u64 + Sync),
    work: impl FnOnce() -> T,
) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let under_way = Load { ledgers, position, over: &over };
        for device in DEVICES {
            scope.spawn(move || under_way.publish(mqtt_port, device).ok());
        }
        scope.spawn(move || smol::block_on(under_way.produce(kafka_port)).ok());
        let result = work();
        over.store(true, Ordering::Relaxed);
        result
    })
}

/// What the clients share.
#[derive(Clone, Copy)]
struct Load<'a> {
    ledgers: &'a Ledgers,
    position: &'a (dyn Fn() -> u64 + Sync),
    over: &'a AtomicBool,
}

impl Load<'_> {
    fn publish(&self, port: u16, (name, qos, window): (&str, u8, u64)) -> Ended {
        let (mut mqtt, _) = Mqtt::connect(port, true, &name.replace('/', "-"), true)?;
        let identifier = |number: u64| (number % 65_535 + 1) as u16;
        let begin = self.ledgers.begin(name);
        let mut next = begin;
        for acked in begin.. {
            while next < acked + window {
                let padding = "#".repeat((next * 37 % 700) as usize);
                self.ledgers.sent(name, next + 1);
                let payload = format!("{next}:{padding}");
                mqtt.publish(name, payload.as_bytes(), qos, identifier(next), false)?;
                next += 1;
            }
            let id = identifier(acked);
            mqtt.expect(if qos == 1 { PUBACK } else { PUBREC }, id)?;
            self.ledgers.acked(name, (self.position)(), acked + 1);
            if qos == 2 {
                mqtt.release(id)?;
                mqtt.expect(PUBCOMP, id)?;
            }
            if self.over.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }

    /// An idempotent producer.
    async fn produce(&self, port: u16) -> Ended {
        let client = client(port);
        let producer = client.init_producer_id(None).await?;
        let begin = self.ledgers.begin(NUMBERED);
        let mut next = begin;
        while !self.over.load(Ordering::Relaxed) {
            let last = next + 10;
            self.ledgers.sent(NUMBERED, last);
            let stamp = ProducerStamp {
                producer_id: producer.producer_id,
                producer_epoch: producer.producer_epoch,
                base_sequence: (next - begin) as i32,
                transactional: false,
            };
            let batch = stamped_batch(next as u32..last as u32, false, Some(stamp));
            client.produce(NUMBERED, 0, batch, Acks::All).await?;
            self.ledgers.acked(NUMBERED, (self.position)(), last);
            next = last;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger { acked: vec![(0, 3), (5, 7)], positions: vec![(10, 6), (20, 7)], next: 9 }
    }

    #[test]
    fn a_loss_a_repetition_and_a_stranger_are_found() {
        assert_eq!(ledger().breach(&[0, 1, 2, 3, 5, 6, 8]), None);
        for found in [&[0, 1, 2, 5][..], &[0, 1, 1, 2, 5, 6], &[0, 1, 2, 6, 5], &[0, 1, 2, 5, 6, 9]]
        {
            assert!(ledger().breach(found).is_some(), "{found:?}");
        }
    }

    #[test]
    fn what_was_acknowledged_behind_the_cut_does_not_count() {
        let ledgers = Ledgers::default();
        ledgers.change("a", |a| *a = ledger());
        ledgers.cut(19);
        assert_eq!(ledgers.acknowledged(), 3 + 1);
        ledgers.cut(9);
        assert_eq!(ledgers.acknowledged(), 3);
    }
}
