//! Clients of a site go on while links, gateways and power fail, and lose nothing they were told.
//!
//! Five rounds in a plain run, 100 in a long one; `SITE_ROUNDS` and `SITE_SEED` choose others.

#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};
use weir_core::rng::Rng;
use weir_tests::ledger::{self, Client};
use weir_tests::network::End;
use weir_tests::{Site, cache, kafka, long, say, skipped, tools, wait_for};

/// How long clients may stand still after a fault that leaves a majority.
const STANDSTILL: Duration = Duration::from_secs(45);
const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillLeader,
    FreezeLeader,
    /// What it says does not reach the other gateways; it hears them.
    MuteLeader,
    CutAllPower,
    BlackHole,
    /// A link of 1 Mbit/s behind a short queue, which loses what does not fit.
    SlowLeader,
    /// Cut from the other gateways, but not from clients.
    CutFromGateways,
    /// It hears nothing of the leader, which hears it.
    DeafFollower,
    KillFollower,
    FreezeFollower,
    KillMajority,
}

/// The first five are those of a plain run.
const FAULTS: [Fault; 11] = [
    Fault::KillLeader,
    Fault::MuteLeader,
    Fault::CutAllPower,
    Fault::FreezeLeader,
    Fault::BlackHole,
    Fault::SlowLeader,
    Fault::CutFromGateways,
    Fault::DeafFollower,
    Fault::KillFollower,
    Fault::FreezeFollower,
    Fault::KillMajority,
];

impl Fault {
    fn needs_links(self) -> bool {
        matches!(
            self,
            Fault::MuteLeader
                | Fault::BlackHole
                | Fault::SlowLeader
                | Fault::CutFromGateways
                | Fault::DeafFollower
        )
    }

    fn leaves_majority(self) -> bool {
        !matches!(self, Fault::CutAllPower | Fault::KillMajority)
    }

    fn begin(self, site: &mut Site, leader: usize, follower: usize) {
        let others: Vec<usize> = (1..=site.count()).filter(|other| *other != leader).collect();
        match self {
            Fault::KillLeader => site.kill(leader),
            Fault::KillFollower => site.kill(follower),
            Fault::FreezeLeader => site.freeze(leader),
            Fault::FreezeFollower => site.freeze(follower),
            Fault::CutAllPower => site.kill_all(),
            Fault::BlackHole => site.network.isolate(leader, true),
            Fault::SlowLeader => site.network.slow_down(leader),
            Fault::CutFromGateways => site.network.isolate(leader, false),
            Fault::DeafFollower => {
                site.network.cut(End::Gateway(leader), End::Gateway(follower));
            }
            Fault::MuteLeader => {
                for other in others {
                    site.network.cut(End::Gateway(leader), End::Gateway(other));
                }
            }
            Fault::KillMajority => {
                others.iter().take(site.count() / 2 + 1).for_each(|other| site.kill(*other));
            }
        }
    }

    fn end(self, site: &mut Site, leader: usize, follower: usize) {
        match self {
            Fault::FreezeLeader => site.thaw(leader),
            Fault::FreezeFollower => site.thaw(follower),
            _ => {}
        }
    }
}

/// Everybody who works while things fail.
struct Clients {
    /// Of librdkafka, franz-go and kafka-python, each with a topic of its name.
    producers: Vec<Client>,
    members: Vec<Client>,
    verifiable: (Client, Client),
    /// Over MQTT, at whichever gateway answers.
    device: Client,
}

/// With the replicas that each has. The last one is what devices publish to.
const TOPICS: [(&str, usize); 6] = [
    ("idempotent", 3),
    ("plain", 3),
    ("franz-go", 3),
    ("kafka-python", 3),
    ("verifiable", 3),
    ("sensors", 3),
];

impl Clients {
    fn started(site: &mut Site) -> Clients {
        let servers = site.bootstrap();
        let producer = |name: &str, config: &str| {
            Client::of_site(name, "produce", &servers, &[name, name, "2", "100", config])
        };
        let ledger = |name: &str, program: &mut Command| {
            Client::started(name, program.args(["site", &servers, name, name, "2", "50"]))
        };
        let member = |number: u32| {
            let name = format!("member {number}");
            Client::of_site(&name, "consume", &servers, &["idempotent", "group"])
        };
        let java = |name: &str, args: &[&str]| {
            let mut command = kafka::script();
            command.arg("tool").arg(name).args(["--bootstrap-server", &servers]);
            command.args(["--topic", "verifiable"]).args(args);
            Client::started(name, &mut command)
        };
        let mut producers = vec![
            producer("idempotent", "enable.idempotence=true"),
            producer("plain", "max.in.flight=1"),
            ledger("kafka-python", &mut tools::python("kafka_python.py")),
        ];
        match franz() {
            Some(mut program) => producers.push(ledger("franz-go", &mut program)),
            None => skipped("franz-go at a site whose gateways fail: no Go compiler"),
        }
        let mqtt = (1..=site.count()).map(|number| site.gateway(number).mqtt_address());
        let mqtt = mqtt.collect::<Vec<_>>().join(",");
        let mut device = tools::python("paho_site.py");
        Clients {
            producers,
            members: vec![member(1), member(2)],
            verifiable: (
                java("verifiable-producer", &["--acks", "-1", "--throughput", "100"]),
                java("verifiable-consumer", &["--group-id", "v", "--reset-policy", "earliest"]),
            ),
            device: Client::started("device", device.args([&mqtt, "plant/line1/temp", "50"])),
        }
    }

    /// Waits until each has gone on by a bit, in each partition; gives how long that took.
    fn go_on(&self, what: &str) -> Duration {
        let begin = Instant::now();
        let acked = |client: &Client| [client.count("acked 0 "), client.count("acked 1 ")];
        let before: Vec<_> = self.producers.iter().map(acked).collect();
        let got = || self.members.iter().map(|member| member.count("got")).sum::<usize>();
        let (got_before, device_before) = (got(), self.device.count("acked"));
        for (producer, before) in self.producers.iter().zip(before) {
            wait_for(&format!("{} goes on {what}", producer.name), STANDSTILL, || {
                let now = acked(producer);
                (0..2).all(|partition| now[partition] > before[partition] + 20).then_some(())
            });
        }
        wait_for(&format!("the device goes on {what}"), STANDSTILL, || {
            (self.device.count("acked") > device_before + 20).then_some(())
        });
        let still = begin.elapsed();
        wait_for(&format!("the group goes on {what}"), STANDSTILL, || {
            (got() > got_before + 50).then_some(())
        });
        still
    }

    /// Ends all, and holds their ledgers against what the site has.
    fn check(self, site: &Site) {
        let read = |topic: &str| {
            let reader = Client::of_site("reader", "read", &site.bootstrap(), &[topic]);
            ledger::log(&reader.end(None, PATIENCE))
        };
        for producer in self.producers {
            let name = producer.name.clone();
            let lines = producer.end(None, PATIENCE);
            let (acked, log) = (ledger::acked(&lines), read(&name));
            say(&format!("site: {} of {name} acknowledged, {} there", acked.len(), log.len()));
            assert!(acked.len() > 200, "{}: {lines:?}", acked.len());
            ledger::nothing_acknowledged_is_lost(&name, &acked, &log).unwrap();
            ledger::order_is_kept(&name, &log, name != "plain").unwrap();
        }
        let log = read("idempotent");
        // A member that lost its place reads again from the last commit: such lines count once.
        wait_for("the group has got everything", STANDSTILL, || {
            let told = self.members.iter().map(|member| ledger::events(&member.lines()));
            ledger::everything_is_read(&told.collect::<Vec<_>>(), &log).ok()
        });
        let members = self.members.into_iter().map(|member| member.end(None, PATIENCE));
        let events: Vec<_> = members.map(|lines| ledger::events(&lines)).collect();
        ledger::everything_is_read(&events, &log).unwrap();
        ledger::offsets_never_go_back(&events).unwrap();
        devices(self.device, || read("sensors"));
        verifiable(self.verifiable, || read("verifiable"));
    }
}

fn franz() -> Option<Command> {
    let program = cache().join("franz");
    program.exists().then(|| Command::new(program))
}

/// What a device was told is there, perhaps more than once, since it sends again.
fn devices(device: Client, read: impl Fn() -> ledger::Log) {
    let lines = device.end(None, PATIENCE);
    let acked: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("acked ")).collect();
    let log = read();
    let there: BTreeSet<&str> = log.values().filter_map(|v| v.strip_prefix("device:")).collect();
    assert!(acked.len() > 200, "{lines:?}");
    let lost = acked.iter().find(|number| !there.contains(**number));
    assert_eq!(lost, None, "it was acknowledged to the device");
    say(&format!("site: {} of the device acknowledged, {} there", acked.len(), log.len()));
}

/// What Kafka's own tools have told: each acknowledged record is there, and is consumed.
fn verifiable((producer, consumer): (Client, Client), read: impl Fn() -> ledger::Log) {
    let sent = producer.end(Some("TERM"), PATIENCE);
    let told = |lines: &[String], name: &str| {
        let parse = |line: &String| serde_json::from_str::<Value>(line).ok();
        let values = lines.iter().filter_map(parse);
        values.filter(|value| value["name"] == name).collect::<Vec<Value>>()
    };
    let at = |value: &Value, field: &str| value[field].as_i64().expect("a number");
    let acked = told(&sent, "producer_send_success");
    assert!(acked.len() > 100, "{} were acknowledged", acked.len());
    let log = read();
    for value in &acked {
        let there = log.get(&(at(value, "partition") as i32, at(value, "offset")));
        assert_eq!(there.map(String::as_str), value["value"].as_str(), "{value}");
    }
    wait_for("the verifiable consumer has got everything", STANDSTILL, || {
        let mut missing: BTreeSet<(i32, i64)> = log.keys().copied().collect();
        for consumed in told(&consumer.lines(), "records_consumed") {
            for range in consumed["partitions"].as_array().into_iter().flatten() {
                let partition = at(range, "partition") as i32;
                for offset in at(range, "minOffset")..=at(range, "maxOffset") {
                    missing.remove(&(partition, offset));
                }
            }
        }
        missing.is_empty().then_some(())
    });
    say(&format!("site: {} of verifiable acknowledged, {} there", acked.len(), log.len()));
}

fn rounds(name: &str, count: usize) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("SITE_SEED").unwrap_or(1);
    let rounds = number("SITE_ROUNDS").unwrap_or(if long() { 100 } else { 5 });
    let mut rng = Rng::new(seed);
    let mut site = Site::new(name, count).started();
    for (topic, replicas) in TOPICS.iter().filter(|(topic, _)| *topic != "sensors") {
        site.create(topic, 2, *replicas, 2);
    }
    let clients = Clients::started(&mut site);
    clients.go_on("at first");
    for round in 0..rounds as usize {
        let fault = match FAULTS.get(round) {
            Some(fault) => *fault,
            None => FAULTS[rng.below(FAULTS.len() as u64) as usize],
        };
        if fault.needs_links() && !site.network.is_real() {
            continue;
        }
        let view = site.partitions("idempotent").unwrap().remove(0);
        let follower = *view.replicas.iter().find(|replica| **replica != view.leader).unwrap();
        fault.begin(&mut site, view.leader, follower);
        let what = format!("round {round} (seed {seed}), {fault:?} of {view:?}");
        let mut still = None;
        if fault.leaves_majority() {
            still = Some(clients.go_on(&what));
        } else {
            std::thread::sleep(Duration::from_millis(rng.below(3_000)));
        }
        fault.end(&mut site, view.leader, follower);
        let healed = Instant::now();
        site.make_whole(&TOPICS);
        let whole = healed.elapsed();
        clients.go_on(&format!("after {what}"));
        say(&format!("site: {what}: stood still {still:.1?}, whole again after {whole:.1?}"));
    }
    clients.check(&site);
}

#[test]
fn three_gateways_keep_what_they_acknowledged_through_every_fault() {
    rounds("site-faults-3", 3);
}

#[test]
fn five_gateways_keep_what_they_acknowledged_through_every_fault() {
    rounds("site-faults-5", 5);
}
