//! The load: MQTT devices, Kafka producers and a group that commits, each with a ledger of what
//! was acknowledged to it, and when.

use crate::device::{Shared, lock};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use weir_bridge::client::{Acks, Bootstrap, Client, CommittedOffset, Settings};
use weir_core::batch::ProducerStamp;
use weir_core::rng::Rng;
use weir_tests::Gateway;
use weir_tests::mqtt::{Mqtt, PUBACK, PUBCOMP, PUBREC};
use weir_tests::numbered::{create, create_with, stamped_batch};

/// The partitioned topic of the Kafka producers.
pub const NUMBERED: &str = "numbered";
pub const PARTITIONS: i32 = 3;
/// A topic that keeps its last MiB only, so that the slots which it shares with the others have to
/// be cleaned.
pub const CHURN: &str = "churn";
/// How many more records it gets than the others.
const CHURN_FACTOR: u64 = 30;
pub const GROUP: &str = "readers";
/// Where MQTT messages go without a rule.
pub const SENSORS: &str = "sensors";

/// What one client has sent and what was acknowledged of it: numbers from 0 up.
#[derive(Debug, Default)]
pub struct Ledger {
    /// How many numbers were acknowledged, and a position of the recording by which they were.
    acked: Vec<(usize, u64)>,
    sent: u64,
}

impl Ledger {
    /// How many numbers were acknowledged before this position.
    pub fn acked_at(&self, position: usize) -> u64 {
        let before = self.acked.partition_point(|(at, _)| *at <= position);
        before.checked_sub(1).map_or(0, |last| self.acked[last].1)
    }

    pub fn sent(&self) -> u64 {
        self.sent
    }
}

/// By name: a device's MQTT topic, `numbered-PARTITION`, or the group.
#[derive(Debug, Default)]
pub struct Ledgers(Mutex<BTreeMap<String, Ledger>>);

impl Ledgers {
    fn change(&self, name: &str, change: impl FnOnce(&mut Ledger)) {
        let mut ledgers = self.0.lock().expect("nobody panics while holding the ledgers");
        change(ledgers.entry(name.to_string()).or_default());
    }

    fn sent(&self, name: &str, sent: u64) {
        self.change(name, |ledger| ledger.sent = ledger.sent.max(sent));
    }

    fn acked(&self, name: &str, position: usize, acked: u64) {
        self.change(name, |ledger| ledger.acked.push((position, acked)));
    }

    pub fn closed(self) -> BTreeMap<String, Ledger> {
        self.0.into_inner().expect("nobody panicked while holding the ledgers")
    }
}

/// How much load: one round of a few seconds is about 20 MiB.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub seed: u64,
    /// Numbers of each client before and after each restart.
    pub from: u64,
    pub until: u64,
}

/// A client that gives up after a while.
pub fn client(gateway: &Gateway) -> Client {
    let bootstrap = Bootstrap::Tcp(vec![gateway.bootstrap()]);
    let mut settings = Settings::new(bootstrap, "weir-power-cut");
    settings.retry_for = Duration::from_secs(10);
    Client::new(settings)
}

/// How a client ended.
type Ended = Result<(), Box<dyn Error + Send + Sync>>;

/// Runs the load on a gateway whose disk is recorded, to its end or to the first error of each
/// client. Gives these errors.
pub fn run(gateway: &Gateway, disk: &Shared, ledgers: &Ledgers, load: Load) -> Vec<String> {
    let position = || lock(disk).position();
    let kafka = client(gateway);
    if load.from == 0 {
        smol::block_on(create(&kafka, NUMBERED, PARTITIONS));
        let short = [("retention.bytes", "1048576")];
        smol::block_on(create_with(&kafka, CHURN, 1, &short));
    }
    thread::scope(|scope| {
        let mut clients = Vec::new();
        for (name, qos) in [("load/one", 1), ("load/many", 1), ("load/exactly", 2)] {
            let window = if name == "load/many" { 20 } else { 1 };
            let port = gateway.mqtt_port;
            let device = Device { name, port, qos, window };
            clients.push(scope.spawn(move || device.run(ledgers, position, load)));
        }
        let numbered = (0..PARTITIONS).map(|partition| (NUMBERED, partition));
        for to in numbered.chain([(CHURN, 0)]) {
            let kafka = &kafka;
            let run = move || smol::block_on(produce(kafka, to, ledgers, position, load));
            clients.push(scope.spawn(run));
        }
        clients.push(scope.spawn(|| smol::block_on(commit(&kafka, ledgers, position, load))));
        let ended = clients.into_iter().map(|client| client.join().expect("clients do not panic"));
        ended.filter_map(|ended| ended.err().map(|error| error.to_string())).collect()
    })
}

/// A device that never repeats: what it was not acknowledged is the end of its run.
#[derive(Clone, Copy, Debug)]
struct Device {
    name: &'static str,
    port: u16,
    qos: u8,
    window: u64,
}

impl Device {
    fn run(&self, ledgers: &Ledgers, position: impl Fn() -> usize, load: Load) -> Ended {
        let id = self.name.replace('/', "-");
        let (mut mqtt, _) = Mqtt::connect(self.port, true, &id, false)?;
        let mut rng = Rng::new(load.seed ^ self.name.len() as u64);
        let identifier = |number: u64| (number % 65_535 + 1) as u16;
        let mut next = load.from;
        for acked in load.from..load.until {
            while next < (acked + self.window).min(load.until) {
                // Large ones, too: their commits are several writes.
                let length_max = if rng.percent(4) { 100_000 } else { 300 };
                let padding = "#".repeat(rng.below(length_max) as usize);
                let payload = format!("{next}:{padding}");
                ledgers.sent(self.name, next + 1);
                mqtt.publish(self.name, payload.as_bytes(), self.qos, identifier(next), false)?;
                next += 1;
            }
            let id = identifier(acked);
            mqtt.expect(if self.qos == 1 { PUBACK } else { PUBREC }, id)?;
            ledgers.acked(self.name, position(), acked + 1);
            if self.qos == 2 {
                mqtt.release(id)?;
                mqtt.expect(PUBCOMP, id)?;
            }
        }
        Ok(())
    }
}

/// An idempotent producer of one partition. Every seventh batch is large; all are where they make
/// work for the cleaner.
async fn produce(
    kafka: &Client,
    (topic, partition): (&str, i32),
    ledgers: &Ledgers,
    position: impl Fn() -> usize,
    load: Load,
) -> Ended {
    let name = format!("{topic}-{partition}");
    let churn = topic == CHURN;
    let factor = if churn { CHURN_FACTOR } else { 1 };
    let (from, until) = ((load.from * factor) as u32, (load.until * factor) as u32);
    let mut rng = Rng::new(load.seed ^ (1 << partition));
    let producer = kafka.init_producer_id(None).await?;
    let mut next = from;
    while next < until {
        let last = (next + 1 + rng.below(60) as u32).min(until);
        let stamp = ProducerStamp {
            producer_id: producer.producer_id,
            producer_epoch: producer.producer_epoch,
            base_sequence: (next - from) as i32,
            transactional: false,
        };
        let large = churn || rng.below(7) == 0;
        ledgers.sent(&name, u64::from(last));
        let batch = stamped_batch(next..last, large, Some(stamp));
        kafka.produce(topic, partition, batch, Acks::All).await?;
        ledgers.acked(&name, position(), u64::from(last));
        next = last;
    }
    Ok(())
}

/// A consumer group without members that commits one offset after the other.
async fn commit(
    kafka: &Client,
    ledgers: &Ledgers,
    position: impl Fn() -> usize,
    load: Load,
) -> Ended {
    for offset in (load.from + 1..=load.until).step_by(16) {
        ledgers.sent(GROUP, offset);
        let committed = CommittedOffset {
            topic: NUMBERED.into(),
            partition: 0,
            offset: offset as i64,
            leader_epoch: -1,
            metadata: String::new(),
        };
        kafka.commit(GROUP, &[committed]).await?;
        ledgers.acked(GROUP, position(), offset);
        smol::Timer::after(Duration::from_millis(5)).await;
    }
    Ok(())
}
