//! MQTT in, Kafka out: real publishers on one side, kcat on the other.

#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::process::Command;
use std::time::Duration;
use weir_tests::mqtt::{Mqtt, PUBACK, PUBCOMP, PUBREC, packet};
use weir_tests::tools::{command, python, run};
use weir_tests::{Gateway, free_port, wait_for};

/// Every record of a topic as kcat shows it: one JSON object each.
fn records(gateway: &Gateway, topic: &str) -> Vec<Value> {
    let line = format!("kcat -b {} -C -t {topic} -o beginning -e -q -J", gateway.bootstrap());
    let text = run(&mut command(&line)).success();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn payloads(gateway: &Gateway, topic: &str) -> Vec<String> {
    let payload = |r: &Value| r["payload"].as_str().unwrap_or_default().to_string();
    records(gateway, topic).iter().map(payload).collect()
}

fn headers(record: &Value) -> Vec<(String, String)> {
    let flat: Vec<String> = record["headers"]
        .as_array()
        .map(|a| a.iter().map(|v| v.as_str().unwrap_or_default().to_string()).collect())
        .unwrap_or_default();
    flat.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

fn has(record: &Value, name: &str, value: &str) -> bool {
    headers(record).iter().any(|(n, v)| n == name && v == value)
}

#[test]
fn a_reading_of_mosquitto_pub_has_its_topic_as_key_and_its_origin_in_headers() {
    let gateway = Gateway::started("mosquitto-pub");
    let publish =
        format!("mosquitto_pub -p {} -i pump7 -t plant/line1/temp -m 21.5 -q 1", gateway.mqtt_port);
    run(&mut command(&publish)).success();
    let got = records(&gateway, "sensors");
    assert_eq!(got.len(), 1);
    assert_eq!(
        (got[0]["key"].as_str(), got[0]["payload"].as_str()),
        (Some("plant/line1/temp"), Some("21.5"))
    );
    for (name, value) in
        [("mqtt.topic", "plant/line1/temp"), ("mqtt.client_id", "pump7"), ("mqtt.qos", "1")]
    {
        assert!(has(&got[0], name, value), "{name} is missing: {:?}", headers(&got[0]));
    }
    let list = run(&mut command(&format!("kcat -b {} -L -J", gateway.bootstrap()))).success();
    let list: Value = serde_json::from_str(&list).unwrap();
    let topic =
        list["topics"].as_array().unwrap().iter().find(|t| t["topic"] == "sensors").unwrap();
    assert_eq!(topic["partitions"].as_array().unwrap().len(), 4);
}

#[test]
fn paho_publishes_in_every_version_and_quality_of_service() {
    let gateway = Gateway::started("paho");
    for version in ["3.1.1", "5"] {
        for qos in ["0", "1", "2"] {
            let topic = format!("v{}/q{qos}", version.replace('.', ""));
            let mut client = python("paho_publish.py");
            client.arg(gateway.mqtt_port.to_string()).args([version, qos, "300", &topic]);
            run(&mut client).success();
            let of_topic = |r: &&Value| r["key"].as_str() == Some(topic.as_str());
            let got = wait_for("QoS 0 is not waited for", Duration::from_secs(10), || {
                let all = records(&gateway, "sensors");
                let got: Vec<Value> = all.iter().filter(of_topic).cloned().collect();
                (got.len() >= 300).then_some(got)
            });
            let values: Vec<i64> =
                got.iter().map(|r| r["payload"].as_str().unwrap().parse().unwrap()).collect();
            assert_eq!(
                values,
                (0..300).collect::<Vec<_>>(),
                "{version} QoS {qos}: once each, in order"
            );
            if version == "5" {
                for (name, value) in [
                    ("site", "north"),
                    ("site", "again"),
                    ("mqtt.content_type", "text/plain"),
                    ("mqtt.response_topic", "answers/here"),
                ] {
                    assert!(has(&got[0], name, value), "{name}: {:?}", headers(&got[0]));
                }
            }
        }
    }
}

#[test]
fn rules_name_the_topic_and_the_key() {
    let mut gateway = Gateway::new("rules").config(
        "[[mqtt.rule]]\nfilter = \"plant/{line}/+/temp\"\n\
         topic = \"temperatures\"\nkey = \"{line}\"\n",
    );
    gateway.start();
    for (topic, payload) in [("plant/l1/a/temp", "1"), ("plant/l2/b/temp", "2"), ("other/x", "3")] {
        run(&mut command(&format!(
            "mosquitto_pub -p {} -t {topic} -m {payload} -q 1",
            gateway.mqtt_port
        )))
        .success();
    }
    let mut pairs: Vec<(String, String)> = records(&gateway, "temperatures")
        .iter()
        .map(|r| (r["key"].as_str().unwrap().into(), r["payload"].as_str().unwrap().into()))
        .collect();
    pairs.sort();
    assert_eq!(pairs, [("l1".into(), "1".into()), ("l2".into(), "2".into())]);
    assert_eq!(payloads(&gateway, "sensors"), ["3"]);
}

/// The gateway is killed at every step of a QoS 2 exchange; the device repeats what it must.
#[test]
fn a_qos_2_publish_is_stored_once_though_the_gateway_dies_in_between() {
    let mut gateway = Gateway::started("qos2");
    for v5 in [false, true] {
        for (step, id) in [("published", 11u16), ("recorded", 12), ("released", 13)] {
            let (client, payload) = (format!("dev-{v5}-{step}"), format!("{v5}-{step}"));
            let (mut device, _) = Mqtt::connect(gateway.mqtt_port, v5, &client, false).unwrap();
            device.publish("q2", payload.as_bytes(), 2, id, false).unwrap();
            if step != "published" {
                device.expect(PUBREC, id).unwrap();
            }
            if step == "released" {
                device.release(id).unwrap();
                device.expect(PUBCOMP, id).unwrap();
            }
            gateway.restart();
            let (mut device, present) =
                Mqtt::connect(gateway.mqtt_port, v5, &client, false).unwrap();
            if step == "recorded" {
                assert!(present, "the session outlives the gateway");
                device.publish("q2", payload.as_bytes(), 2, id, true).unwrap();
                device.expect(PUBREC, id).unwrap();
            }
            if step == "published" {
                device.publish("q2", payload.as_bytes(), 2, id, true).unwrap();
                device.expect(PUBREC, id).unwrap();
            }
            device.release(id).unwrap();
            device.expect(PUBCOMP, id).unwrap();
            let count = payloads(&gateway, "sensors").iter().filter(|p| **p == payload).count();
            assert_eq!(count, 1, "{payload}");
        }
    }
}

#[test]
fn malformed_packets_end_their_connection_and_nothing_else() {
    let gateway = Gateway::started("malformed");
    let rss = || weir_tests::tools::rss_kib(gateway.pid());
    let before = rss();
    let publish = |flags: u8, body: &[u8]| packet(0x30 | flags, body);
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("QoS 3", publish(6, b"\0\x01a\0\x01x")),
        ("packet identifier 0", publish(2, b"\0\x01a\0\0x")),
        ("DUP with QoS 0", publish(8, b"\0\x01ax")),
        ("wildcard in a topic", publish(0, b"\0\x03a/#x")),
        ("U+0000 in a topic", publish(0, b"\0\x02a\0x")),
        ("invalid UTF-8", publish(0, b"\0\x02\xff\xfex")),
        ("topic longer than the packet", publish(0, b"\xff\xffa")),
        ("a second CONNECT", packet(0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01z")),
        ("reserved flags", packet(0xc1, b"")),
        ("unknown packet type 0", packet(0x00, b"")),
        ("length of five bytes", vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ("256 MB claimed", vec![0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1, b'a']),
        ("PUBREL flags", packet(0x60, &[0, 1])),
        ("SUBSCRIBE without filter", packet(0x82, &[0, 1])),
    ];
    for v5 in [false, true] {
        for (what, bytes) in &bad {
            if v5 && what.starts_with("a second") {
                continue;
            }
            let (mut device, _) = Mqtt::connect(gateway.mqtt_port, v5, "bad", true).unwrap();
            device.send(bytes).unwrap();
            device.stream.shutdown(std::net::Shutdown::Write).ok();
            let mut last = None;
            while let Ok(packet) = device.receive() {
                last = Some(packet.0);
            }
            assert!(last.is_none_or(|first| first == 0xe0), "{what}: answered with {last:x?}");
        }
    }
    for first in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        packet(0x30, b"\0\x01ax"),
        vec![0x10, 0xff, 0xff, 0xff, 0x7f],
    ] {
        let mut stranger = Mqtt::raw(gateway.mqtt_port, false).unwrap();
        stranger.send(&first).unwrap();
        stranger.stream.shutdown(std::net::Shutdown::Write).ok();
        assert!(stranger.receive().is_err());
    }
    assert!(rss() < before + 8 * 1024, "memory grew from {before} to {} KiB", rss());
    let (mut device, _) = Mqtt::connect(gateway.mqtt_port, true, "good", true).unwrap();
    device.publish("a", b"still here", 1, 1, false).unwrap();
    device.expect(PUBACK, 1).unwrap();
    assert_eq!(payloads(&gateway, "sensors"), ["still here"]);
}

#[test]
fn a_subscribe_is_answered_with_a_failure_reason() {
    let gateway = Gateway::started("subscribe");
    for v5 in [false, true] {
        let (mut device, _) = Mqtt::connect(gateway.mqtt_port, v5, "sub", true).unwrap();
        let body: &[u8] = if v5 { b"\0\x07\0\0\x01a\x01" } else { b"\0\x07\0\x01a\x01" };
        device.send(&packet(0x82, body)).unwrap();
        let (first, answer) = device.receive().unwrap();
        assert_eq!((first, &answer[..2]), (0x90, &[0, 7][..]));
        assert!(answer.last().unwrap() >= &0x80, "{answer:?}");
    }
}

/// A Mosquitto in front: what it acknowledged to its devices arrives, though the gateway is killed.
#[test]
fn an_existing_mosquitto_is_a_source() {
    let (port, folder) = (free_port(), weir_tests::folder("mosquitto"));
    let config = folder.join("mosquitto.conf");
    std::fs::write(
        &config,
        format!("listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"),
    )
    .unwrap();
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let mut mosquitto =
        Command::new("mosquitto").arg("-c").arg(&config).env("PATH", path).spawn().unwrap();
    let mut gateway = Gateway::new("source").config(&format!(
        "[[mqtt.source]]\nname = \"zigbee\"\nurl = \"mqtt://127.0.0.1:{port}\"\n\
         filters = [\"zigbee2mqtt/#\"]\nqos = 1\n"
    ));
    gateway.start();
    wait_for("the source is subscribed", Duration::from_secs(20), || {
        run(&mut command(&format!("mosquitto_pub -p {port} -t zigbee2mqtt/probe -m probe -q 1")));
        std::thread::sleep(Duration::from_millis(100));
        payloads(&gateway, "sensors").contains(&"probe".to_string()).then_some(())
    });
    for round in 0..3 {
        let lines: String = (0..200).map(|i| format!("{}\n", round * 200 + i)).collect();
        let mut publish = command(&format!("mosquitto_pub -p {port} -t zigbee2mqtt/lamp -q 1 -l"));
        weir_tests::tools::run_with_input(&mut publish, lines.as_bytes()).success();
        gateway.restart();
    }
    let got = wait_for("every reading arrives", Duration::from_secs(60), || {
        let mut got: Vec<i64> =
            payloads(&gateway, "sensors").iter().filter_map(|p| p.parse().ok()).collect();
        got.sort();
        got.dedup();
        (got.len() == 600).then_some(got)
    });
    assert_eq!(got, (0..600).collect::<Vec<_>>());
    mosquitto.kill().unwrap();
    mosquitto.wait().unwrap();
    std::fs::remove_dir_all(folder).ok();
}
