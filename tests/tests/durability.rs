//! What was acknowledged is there, whatever is killed; and a start that cannot succeed says why.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use weir_tests::mqtt::{Mqtt, PUBACK};
use weir_tests::tools::{command, run};
use weir_tests::{Gateway, long, wait_for};

/// What one device has sent and what of it was acknowledged.
#[derive(Debug, Default)]
struct Ledger {
    sent: u64,
    acked: u64,
}

/// A device that publishes numbers with QoS 1, ten at a time, and repeats what was not acknowledged
/// whenever the gateway is back.
fn device(port: u16, name: &str, ledger: &Mutex<Ledger>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok((mut mqtt, _)) = Mqtt::connect(port, false, name, false) else {
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        let first = ledger.lock().unwrap().acked;
        let mut next = first;
        let mut acked = first;
        while !stop.load(Ordering::Relaxed) {
            while next < acked + 10 {
                let topic = format!("load/{name}");
                let id = (next % 65_535 + 1) as u16;
                let payload = next.to_string();
                if mqtt.publish(&topic, payload.as_bytes(), 1, id, false).is_err() {
                    break;
                }
                next += 1;
                let mut ledger = ledger.lock().unwrap();
                ledger.sent = ledger.sent.max(next);
            }
            if mqtt.expect(PUBACK, (acked % 65_535 + 1) as u16).is_err() {
                break;
            }
            acked += 1;
            ledger.lock().unwrap().acked = acked;
        }
    }
}

/// The numbers of each device in the order in which its partition holds them.
fn stored(gateway: &Gateway) -> BTreeMap<String, Vec<u64>> {
    let line = format!("kcat -b {} -C -t sensors -o beginning -e -q -K :", gateway.bootstrap());
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in run(&mut command(&line)).success().lines() {
        let (key, value) = line.split_once(':').expect("a key");
        found.entry(key.to_string()).or_default().push(value.parse().expect("a number"));
    }
    found
}

#[test]
fn killing_the_gateway_in_a_loop_loses_nothing_that_was_acknowledged() {
    let rounds = if long() { 100 } else { 10 };
    let mut gateway = Gateway::started("kill-loop");
    let stop = Arc::new(AtomicBool::new(false));
    let ledgers: Vec<Arc<Mutex<Ledger>>> = (0..4).map(|_| Arc::default()).collect();
    let devices: Vec<_> = ledgers
        .iter()
        .enumerate()
        .map(|(n, ledger)| {
            let (ledger, stop, port) = (ledger.clone(), stop.clone(), gateway.mqtt_port);
            thread::spawn(move || device(port, &format!("d{n}"), &ledger, &stop))
        })
        .collect();
    let total = || ledgers.iter().map(|l| l.lock().unwrap().acked).sum::<u64>();
    for round in 0..rounds {
        let before = total();
        wait_for("devices are acknowledged", Duration::from_secs(20), || {
            (total() > before + 200).then_some(())
        });
        thread::sleep(Duration::from_millis(37 * (round % 7)));
        gateway.restart();
    }
    stop.store(true, Ordering::Relaxed);
    devices.into_iter().for_each(|d| d.join().unwrap());
    gateway.restart();
    let found = stored(&gateway);
    for (n, ledger) in ledgers.iter().enumerate() {
        let ledger = ledger.lock().unwrap();
        let numbers = &found[&format!("load/d{n}")];
        // QoS 1 may repeat what was not acknowledged, and repeats it from there on in order.
        let mut firsts: Vec<u64> = Vec::new();
        for number in numbers {
            if firsts.last().is_none_or(|last| number > last) {
                firsts.push(*number);
            }
        }
        let acked: Vec<u64> = (0..ledger.acked).collect();
        assert_eq!(firsts[..acked.len().min(firsts.len())], acked[..], "device {n}");
        assert!(*firsts.last().unwrap() < ledger.sent, "device {n}: a record that nobody sent");
        assert!(ledger.acked > 100, "device {n} was acknowledged {} times only", ledger.acked);
    }
}

#[test]
fn a_stopped_gateway_ends_well_and_starts_again_in_under_a_second() {
    let mut gateway = Gateway::started("stop");
    let publish = format!("mosquitto_pub -p {} -t a -m 1 -q 1", gateway.mqtt_port);
    run(&mut command(&publish)).success();
    assert!(gateway.stop().success());
    let start = Instant::now();
    gateway.start();
    let took = start.elapsed();
    assert_eq!(stored(&gateway)["a"], [1]);
    // A bound for hangs, not a measurement: that is in the benchmarks.
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// Starts a gateway that must fail; what it says and its exit code.
fn refusal(gateway: &Gateway) -> (Option<i32>, String) {
    let output = run(&mut gateway.command());
    (output.code, output.stderr)
}

#[test]
fn a_data_folder_in_use_is_refused_with_advice() {
    let gateway = Gateway::started("in-use");
    let mut second = gateway.command();
    second.args(["--set", "kafka.listen=127.0.0.1:0", "--set", "mqtt.listen=127.0.0.1:0"]);
    second.args(["--set", "http.listen=127.0.0.1:0"]);
    let output = run(&mut second);
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("in use"), "{}", output.stderr);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let holder = Gateway::started("port");
    let mut late = Gateway::new("port-late");
    late.kafka_port = holder.kafka_port;
    let (code, said) = refusal(&late);
    assert_eq!(code, Some(1));
    assert!(said.contains(&holder.kafka_port.to_string()), "{said}");
}

#[test]
fn something_else_in_the_place_of_the_log_is_left_untouched() {
    let gateway = Gateway::new("foreign");
    fs::create_dir_all(gateway.data()).unwrap();
    let log = gateway.data().join("flash.log");
    let foreign = b"my holiday pictures ".repeat(1 << 16);
    fs::write(&log, &foreign).unwrap();
    let (code, said) = refusal(&gateway);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("flash.log"), "{said}");
    assert_eq!(fs::read(&log).unwrap(), foreign);
}

#[test]
fn a_wrong_configuration_names_key_line_and_the_nearest_known_key() {
    for (toml, wanted) in [
        (
            "[kafka]\nlisten = \"127.0.0.1:0\"\nadvertize = \"x:1\"\n",
            &["advertize", "advertise", "3"][..],
        ),
        ("[kafka]\nconnections_max = \"many\"\n", &["connections_max", "2"]),
        ("[kafca]\n", &["kafca", "kafka"]),
        ("[mqtt\n", &["1"]),
        ("[[mirror]]\nname = \"a\"\nbootstrap = [\"x:1\"]\ntopics = [\"(\"]\n", &["topics"]),
        ("[[mqtt.rule]]\nfilter = \"a/#/b\"\ntopic = \"t\"\n", &["a/#/b"]),
    ] {
        let gateway = Gateway::new("config").config(toml);
        let (code, said) = refusal(&gateway);
        assert_eq!(code, Some(2), "{toml}{said}");
        for word in wanted {
            assert!(said.contains(word), "{toml}does not say {word}: {said}");
        }
    }
    let output = run(Gateway::new("set").command().args(["--set", "flash.bites=1GiB"]));
    assert_eq!(output.code, Some(2));
    assert!(output.stderr.contains("flash.bytes"), "{}", output.stderr);
}
