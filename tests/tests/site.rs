//! A site of real gateways: how it forms, what it refuses, and what comes back.

#![allow(clippy::unwrap_used)]

use std::time::Duration;
use weir_tests::ledger::{self, Client};
use weir_tests::mqtt::{Mqtt, PUBACK, PUBCOMP, PUBREC};
use weir_tests::network::End;
use weir_tests::site::WHOLE;
use weir_tests::{Site, wait_for};

const PATIENCE: Duration = Duration::from_secs(180);

fn producer(site: &Site, topic: &str, config: &str) -> Client {
    let args = [topic, topic, "2", "100", config];
    Client::of_site(topic, "produce", &site.bootstrap(), &args)
}

/// Waits until so many more records are acknowledged.
fn goes_on(producer: &Client, what: &str) {
    let before = producer.count("acked");
    wait_for(&format!("the producer goes on {what}"), WHOLE, || {
        (producer.count("acked") > before + 50).then_some(())
    });
}

/// Ends the producer, and holds its ledger against what there is.
fn check(site: &Site, topic: &str, producer: Client) {
    check_by(site, topic, producer, &[]);
}

/// The same by a reader with these settings.
fn check_by(site: &Site, topic: &str, producer: Client, configs: &[&str]) {
    let told = producer.end(None, PATIENCE);
    let args = [&[topic], configs].concat();
    let reader = Client::of_site("reader", "read", &site.bootstrap(), &args);
    let (acked, log) = (ledger::acked(&told), ledger::log(&reader.end(None, PATIENCE)));
    assert!(acked.len() > 100, "{told:?}");
    ledger::nothing_acknowledged_is_lost(topic, &acked, &log).unwrap();
    ledger::order_is_kept(topic, &log, true).unwrap();
}

#[test]
fn one_gateway_in_a_network_of_its_own_serves() {
    let site = Site::new("site-one", 1).started();
    site.create("t", 2, 1, 1);
    let partitions = site.partitions("t").unwrap();
    assert!(partitions.iter().all(|view| view.leader == 1 && view.isr == [1]), "{partitions:?}");
}

#[test]
fn more_replicas_than_gateways_are_refused() {
    let site = Site::new("site-beyond", 3).started();
    assert_eq!(site.try_create("t", 2, 4, 2), "refused INVALID_REPLICATION_FACTOR");
    site.create("t", 2, 3, 2);
}

#[test]
fn a_gateway_that_recovers_takes_its_preferred_leaderships_back() {
    let mut site = Site::new("site-preferred", 3).started();
    site.create("t", 2, 3, 2);
    let preferred = site.partitions("t").unwrap()[0].replicas[0];
    wait_for("it leads", WHOLE, || (site.leader("t", 0)? == preferred).then_some(()));
    site.kill(preferred);
    wait_for("another leads", WHOLE, || (site.leader("t", 0)? != preferred).then_some(()));
    site.make_whole(&[("t", 3)]);
    wait_for("it leads again", WHOLE, || (site.leader("t", 0)? == preferred).then_some(()));
}

#[test]
fn of_two_gateways_and_a_witness_one_goes_on() {
    let mut site = Site::with_witness("site-witness").started();
    site.create("t", 2, 2, 1);
    let partitions = site.partitions("t").unwrap();
    assert!(partitions.iter().all(|view| !view.replicas.contains(&3)), "{partitions:?}");
    let producer = producer(&site, "t", "enable.idempotence=true");
    goes_on(&producer, "at first");
    for number in [1, 2, 3] {
        site.kill(number);
        goes_on(&producer, &format!("without gateway {number}"));
        site.make_whole(&[("t", 2)]);
        goes_on(&producer, &format!("with gateway {number} again"));
    }
    check(&site, "t", producer);
}

#[test]
fn with_too_few_replicas_in_sync_records_are_refused_until_they_are_back() {
    let mut site = Site::with_witness("site-min").started();
    site.create("t", 2, 2, 2);
    let producer = producer(&site, "t", "retries=0");
    goes_on(&producer, "at first");
    site.kill(2);
    wait_for("records are refused", WHOLE, || {
        (producer.count("NOT_ENOUGH_REPLICAS") > 20).then_some(())
    });
    site.make_whole(&[("t", 2)]);
    goes_on(&producer, "when both are back");
    check(&site, "t", producer);
}

#[test]
fn a_wiped_gateway_comes_back_is_refilled_and_votes_again() {
    let mut site = Site::new("site-wiped", 3).started();
    site.create("t", 2, 3, 2);
    let producer = producer(&site, "t", "enable.idempotence=true");
    goes_on(&producer, "at first");
    site.kill(3);
    site.wipe(3);
    goes_on(&producer, "without it");
    site.weir("cluster quorum remove 3").success();
    site.make_whole(&[("t", 3)]);
    site.weir("cluster quorum add 3").success();
    goes_on(&producer, "with it again");
    // Now its vote is needed.
    site.kill(1);
    goes_on(&producer, "without another");
    site.make_whole(&[("t", 3)]);
    check(&site, "t", producer);
}

#[test]
fn what_one_gateway_has_lost_comes_back_from_the_others_and_nothing_is_begun_anew() {
    let mut site = Site::new("site-rot", 3).started();
    site.create("t", 2, 3, 2);
    let producer = producer(&site, "t", "enable.idempotence=true");
    goes_on(&producer, "at first");
    let early = ledger::acked(&producer.lines()).len();
    goes_on(&producer, "some time");
    goes_on(&producer, "some time more");
    let acked = ledger::acked(&producer.lines());
    site.kill(3);
    goes_on(&producer, "without it");
    // So far from each other that each is in a commit group of its own.
    for record in acked[early..].iter().step_by(30).take(3) {
        site.gateway(3).rot(&format!("t:{}\0", record.number));
    }
    site.start_all();
    wait_for("what was lost is back", WHOLE, || {
        let (_, metrics) = site.gateway(3).http("/metrics")?;
        let is = |line: &str| metrics.lines().any(|it| it == line);
        let repairs = metrics.contains("\nweir_replica_repairs_total ")
            && !is("weir_replica_repairs_total 0")
            && is("weir_flash_damaged_ranges 0");
        assert!(is("weir_replica_refills_total 0"), "{metrics}");
        repairs.then_some(())
    });
    site.make_whole(&[("t", 3)]);
    let said = site.gateway(3).weir(&["status"]).success();
    assert!(said.contains("parts came back") && !said.contains("DAMAGED"), "{said}");
    check_by(&site, "t", producer, &["client.rack=rack3"]);
}

/// A device and its session on one gateway, and what it publishes with QoS 2: all goes to a
/// partition that another one leads.
struct Pump {
    device: Mqtt,
    own: usize,
    leader: usize,
}

impl Pump {
    /// Has published 1 and 2.
    fn new(site: &mut Site) -> Pump {
        let at = site.gateway(1).mqtt_address();
        let device = Mqtt::connect_to(&at, false, "a", false).unwrap().0;
        let mut first = Pump { device, own: 1, leader: 1 };
        first.publish(1, false);
        first.end(1);
        site.make_whole(&[("sensors", 3)]);
        let ((partition, _), _) = sensors(site).pop_first().unwrap();
        let leader = site.leader("sensors", partition as usize).unwrap();
        let own = leader % 3 + 1;
        let at = site.gateway(own).mqtt_address();
        let device = Mqtt::connect_to(&at, false, "pump", false).unwrap().0;
        let mut pump = Pump { device, own, leader };
        pump.publish(2, false);
        pump.end(2);
        pump
    }

    fn publish(&mut self, id: u16, dup: bool) {
        self.device.publish("plant/pump", id.to_string().as_bytes(), 2, id, dup).unwrap();
    }

    fn end(&mut self, id: u16) {
        self.device.expect(PUBREC, id).unwrap();
        self.device.release(id).unwrap();
        self.device.expect(PUBCOMP, id).unwrap();
    }

    /// Its gateway was killed: starts it, and connects again.
    fn comes_back(&mut self, site: &mut Site) {
        site.gateway(self.own).launch();
        site.gateway(self.own).try_serve(WHOLE).unwrap();
        let at = site.gateway(self.own).mqtt_address();
        let (device, present) = wait_for("MQTT is served again", WHOLE, || {
            Mqtt::connect_to(&at, false, "pump", false).ok()
        });
        assert!(present, "the session outlives the gateway");
        self.device = device;
    }
}

fn sensors(site: &Site) -> ledger::Log {
    let reader = Client::of_site("reader", "read", &site.bootstrap(), &["sensors"]);
    ledger::log(&reader.end(None, PATIENCE))
}

/// The leader has it, a follower does not answer, and the device's gateway dies: when that is back,
/// it knows what it has sent.
#[test]
fn a_qos_2_publish_is_stored_once_though_its_gateway_dies_before_it_is_replicated() {
    let mut site = Site::new("site-qos2", 3).started();
    let mut pump = Pump::new(&mut site);
    let frozen = (pump.leader + 1) % 3 + 1;
    site.freeze(frozen);
    pump.publish(3, false);
    wait_for("the leader has it", WHOLE, || {
        let (_, metrics) = site.gateway(pump.leader).http("/metrics")?;
        metrics.contains("\nweir_produces_waiting 1\n").then_some(())
    });
    site.kill(pump.own);
    pump.comes_back(&mut site);
    pump.publish(3, true);
    pump.end(3);
    site.thaw(frozen);
    site.make_whole(&[("sensors", 3)]);
    assert_eq!(sensors(&site).values().collect::<Vec<_>>(), ["1", "2", "3"]);
}

/// What has not reached the leader when the device's gateway dies does not reach it later.
#[test]
fn a_qos_2_publish_that_is_under_way_when_its_gateway_dies_is_stored_once() {
    let mut site = Site::new("site-late", 3).started();
    if !site.network.is_real() {
        return;
    }
    let mut pump = Pump::new(&mut site);
    let port = site.gateway(pump.leader).kafka_port;
    site.network.cut(End::Gateway(pump.own), End::Gateway(pump.leader));
    pump.publish(3, false);
    wait_for("it is under way", WHOLE, || {
        (site.network.unsent_bytes(pump.own, port) > 0).then_some(())
    });
    site.kill(pump.own);
    assert_eq!(site.network.unsent_bytes(pump.own, port), 0, "a dead gateway goes on sending");
    site.network.heal();
    pump.comes_back(&mut site);
    pump.publish(3, true);
    pump.end(3);
    site.make_whole(&[("sensors", 3)]);
    assert_eq!(sensors(&site).values().collect::<Vec<_>>(), ["1", "2", "3"]);
}

/// The only gateway that has it is away: its devices wait, and nobody else does.
#[test]
fn a_partition_whose_gateway_is_away_holds_up_only_devices_that_publish_to_it() {
    let mut site = Site::new("site-away", 3).started();
    site.create("away", 1, 1, 1);
    let away = site.leader("away", 0).unwrap();
    let own = away % 3 + 1;
    let rule = "[[mqtt.rule]]\nfilter = \"away/#\"\ntopic = \"away\"\n";
    site.kill(own);
    site.gateway(own).reconfigure(|text| format!("{text}{rule}"));
    site.make_whole(&[("away", 1)]);
    let at = site.gateway(own).mqtt_address();
    let device = |name: &str| Mqtt::connect_to(&at, false, name, true).unwrap().0;
    let (mut first, mut second) = (device("first"), device("second"));
    first.publish("away/x", b"0", 1, 1, false).unwrap();
    first.expect(PUBACK, 1).unwrap();
    second.publish("plant/pump", b"1", 1, 1, false).unwrap();
    second.expect(PUBACK, 1).unwrap();
    site.kill(away);
    // More than may wait, and than sockets hold; it goes on when all else is done.
    let flood = std::thread::spawn(move || {
        for number in 1..=300 {
            let payload = format!("{}{number:0>10}", "0".repeat(99_990));
            first.publish("away/x", payload.as_bytes(), 0, 0, false).unwrap();
        }
        first.publish("away/x", b"301", 1, 2, false).unwrap();
        first
    });
    wait_for("much waits for it", WHOLE, || {
        let (_, metrics) = site.gateway(own).http("/metrics")?;
        let waits = metrics.lines().find_map(|it| it.strip_prefix("weir_mqtt_queued_bytes "))?;
        (waits.parse::<usize>().ok()? > 4 << 20).then_some(())
    });
    for id in 2..500 {
        second.publish("plant/pump", id.to_string().as_bytes(), 1, id, false).unwrap();
        second.expect(PUBACK, id).unwrap();
    }
    assert!(!flood.is_finished(), "nobody takes what it publishes");
    site.make_whole(&[("away", 1), ("sensors", 3)]);
    let mut first = flood.join().unwrap();
    first.expect(PUBACK, 2).unwrap();
    let reader = Client::of_site("reader", "read", &site.bootstrap(), &["away"]);
    let log = ledger::log(&reader.end(None, PATIENCE));
    let numbers = log.values().map(|value| value.parse::<u32>().unwrap());
    assert_eq!(numbers.collect::<Vec<_>>(), (0..=301).collect::<Vec<_>>());
}

/// Three gateways with a topic on each, of which the third was killed and is out of sync.
fn without_the_third(name: &str) -> Site {
    let mut site = Site::new(name, 3).started();
    site.create("t", 2, 3, 2);
    site.kill(3);
    wait_for("it is out of sync", WHOLE, || (!site.is_in_sync("t", 3)).then_some(()));
    site
}

/// Waits until each of these gateways has said a sentence.
fn they_say(site: &mut Site, numbers: &[usize], sentence: &str) {
    for &number in numbers {
        wait_for(&format!("gateway {number} says \"{sentence}\""), WHOLE, || {
            let log = site.gateway(number).log();
            log.lines().any(|line| line.contains(sentence)).then_some(())
        });
    }
}

#[test]
fn a_card_of_another_cluster_is_refused_in_a_sentence_on_both_sides() {
    let mut site = without_the_third("site-card");
    site.wipe(3);
    // By itself it forms a cluster of its own, and comes back with the card of that one.
    let config = site.gateway(3).reconfigure(|text| {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.retain(|line| !line.starts_with("voters"));
        lines.join("\n")
    });
    site.gateway(3).start();
    site.kill(3);
    site.gateway(3).reconfigure(|_| config.clone());
    site.gateway(3).launch();
    they_say(&mut site, &[1, 2, 3], "a gateway that shall move needs an empty data folder");
    assert!(!site.is_in_sync("t", 3), "it has joined");
    site.kill(3);
    site.wipe(3);
    site.make_whole(&[("t", 3)]);
}

#[test]
fn of_two_gateways_with_one_id_the_second_is_refused_and_the_site_goes_on() {
    let mut site = without_the_third("site-twice");
    site.wipe(3);
    let config = site.gateway(3).reconfigure(|text| text.replace("id = 3", "id = 1"));
    let producer = producer(&site, "t", "enable.idempotence=true");
    site.gateway(3).launch();
    they_say(&mut site, &[2, 3], "two gateways have node.id 1");
    goes_on(&producer, "beside it");
    let lost = site.gateway(2).log().matches("connection to gateway 1 has ended").count();
    assert_eq!(lost, 0, "the first of the two has lost its place");
    site.kill(3);
    site.wipe(3);
    site.gateway(3).reconfigure(|_| config.clone());
    site.make_whole(&[("t", 3)]);
    check(&site, "t", producer);
}

#[test]
fn a_gateway_with_another_secret_is_refused_in_a_sentence_on_both_sides() {
    let mut site = without_the_third("site-secret");
    site.set_secret(3, Some("not what the others have"));
    site.gateway(3).launch();
    they_say(&mut site, &[1, 2, 3], "secret");
    assert!(!site.is_in_sync("t", 3), "it has joined");
    site.kill(3);
    site.set_secret(3, None);
    site.make_whole(&[("t", 3)]);
}
