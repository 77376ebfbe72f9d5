//! The command line as the README shows it: tables for people, JSON for scripts, exit codes for
//! both.

#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::process::Command;
use weir_tests::tools::{command, run, run_for, run_with_input};
use weir_tests::{Gateway, release_binary};

fn json(gateway: &Gateway, args: &[&str]) -> Value {
    let text = gateway.weir(&[args, &["--json"]].concat()).success();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}\n{text}"))
}

#[test]
fn topics_are_created_listed_described_and_deleted() {
    let gateway = Gateway::started("cli-topics");
    gateway.weir(&["topic", "create", "readings", "--partitions", "3"]).success();
    let table = gateway.weir(&["topic", "list"]).success();
    assert!(table.lines().any(|l| l.contains("readings") && l.contains('3')), "{table}");
    let again = gateway.weir(&["topic", "create", "readings"]);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("exists"), "{}", again.stderr);
    let described = json(&gateway, &["topic", "describe", "readings"]);
    assert!(described.to_string().contains("readings"), "{described}");
    gateway.weir(&["topic", "delete", "readings"]).success();
    assert!(!gateway.weir(&["topic", "list"]).success().contains("readings"));
}

#[test]
fn records_are_produced_and_consumed_by_a_group_that_is_described_and_reset() {
    let gateway = Gateway::started("cli-records");
    gateway.weir(&["topic", "create", "t", "--partitions", "2"]).success();
    let mut produce = Command::new(release_binary());
    produce.args(["produce", "t", "--bootstrap", &gateway.bootstrap()]);
    let lines: String = (0..30).map(|i| format!("line {i}\n")).collect();
    run_with_input(&mut produce, lines.as_bytes()).success();
    let consume = ["consume", "t", "--group", "g", "--from-beginning", "--count", "30"];
    let mut got: Vec<String> = gateway.weir(&consume).success().lines().map(String::from).collect();
    let mut want: Vec<String> = lines.lines().map(String::from).collect();
    got.sort();
    want.sort();
    assert_eq!(got, want);
    assert!(gateway.weir(&["group", "list"]).success().contains('g'));
    let described = json(&gateway, &["group", "describe", "g"]).to_string();
    assert!(described.contains("\"lag\":0"), "{described}");
    gateway.weir(&["group", "reset", "g", "--topic", "t", "--to", "earliest"]).success();
    let consume = ["consume", "t", "--group", "g", "--count", "30"];
    assert_eq!(gateway.weir(&consume).success().lines().count(), 30);
}

#[test]
fn help_is_there_and_wrong_usage_is_two() {
    let weir = |args: &[&str]| run(Command::new(release_binary()).args(args));
    for args in [&["--help"][..], &["serve", "--help"], &["topic", "--help"], &["log", "--help"]] {
        assert!(weir(args).success().len() > 200, "{args:?}");
    }
    assert_eq!(weir(&["frobnicate"]).code, Some(2));
    assert_eq!(weir(&["topic", "create"]).code, Some(2));
    let nobody = weir(&["topic", "list", "--bootstrap", "127.0.0.1:1"]);
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.stderr.contains("127.0.0.1:1"), "{}", nobody.stderr);
}

#[test]
fn metrics_health_and_status_are_served() {
    let gateway = Gateway::started("cli-http");
    run(&mut command(&format!("mosquitto_pub -p {} -t a -m 1 -q 1", gateway.mqtt_port))).success();
    assert_eq!(gateway.http("/healthz").unwrap().0, 200);
    let (code, metrics) = gateway.http("/metrics").unwrap();
    assert_eq!(code, 200);
    for line in metrics.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(name.starts_with("weir_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(gateway.status().to_string().contains("sensors"));
    assert_eq!(gateway.http("/nothing").unwrap().0, 404);
    let (code, page) = gateway.http("/").unwrap();
    assert!(code == 200 && page.contains("<html"), "{code}");
    assert!(
        !page.contains("http://") && !page.contains("https://"),
        "the console loads nothing else"
    );
}

#[test]
fn an_offline_log_is_checked_and_described() {
    let mut gateway = Gateway::started("cli-log");
    run(&mut command(&format!("mosquitto_pub -p {} -t a -m 1 -q 1", gateway.mqtt_port))).success();
    gateway.kill();
    let data = gateway.data();
    for what in ["check", "stat", "dump"] {
        let output =
            run(Command::new(release_binary()).args(["log", what]).arg("--data").arg(&data));
        assert!(!output.success().is_empty(), "log {what} said nothing");
    }
}

#[test]
fn the_demo_reads_everything_that_was_acknowledged() {
    let mut demo = Command::new(release_binary());
    demo.args(["demo", "--seconds", "5"]);
    let output = run_for(&mut demo, std::time::Duration::from_secs(60)).success();
    assert!(output.lines().count() > 3, "{output}");
}
