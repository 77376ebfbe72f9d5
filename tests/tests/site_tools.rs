//! Apache Kafka's own command line tools against a site of three gateways.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use weir_tests::site::WHOLE;
use weir_tests::{Site, folder, kafka, wait_for};

const RECORDS: usize = 2_000;

/// What one of them prints; that it fails is an error of the test.
fn ask(site: &Site, name: &str, args: &[&str]) -> String {
    kafka::ask(&site.bootstrap(), name, args).success()
}

/// Puts [`RECORDS`] of a kilobyte into a topic.
fn fill(site: &Site, topic: &str) {
    let line = "x".repeat(1_000);
    let input: String = (0..RECORDS).map(|i| format!("{i} {line}\n")).collect();
    let acks = ["--producer-property", "acks=all"];
    kafka::console_producer(&site.bootstrap(), topic, &acks, &input);
}

fn count(site: &Site, topic: &str) -> usize {
    let most = (RECORDS + 1).to_string();
    let args = ["--topic", topic, "--from-beginning", "--max-messages", &most];
    let got = ask(site, "console-consumer", &[&args[..], &["--timeout-ms", "10000"]].concat());
    got.lines().filter(|line| line.len() > 1_000).count()
}

/// A file that says which gateways shall have partition 0.
fn plan(name: &str, topic: &str, replicas: &[usize]) -> PathBuf {
    let path = folder(name).join("plan.json");
    let moved = format!(r#"{{"topic": "{topic}", "partition": 0, "replicas": {replicas:?}}}"#);
    fs::write(&path, format!(r#"{{"version": 1, "partitions": [{moved}]}}"#)).unwrap();
    path
}

#[test]
fn quorum_and_features_are_described() {
    let site = Site::new("site-tools-quorum", 3).started();
    let status = ask(&site, "metadata-quorum", &["describe", "--status"]);
    let says = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key));
        line.unwrap_or_else(|| panic!("{key} is missing in {status}")).to_string()
    };
    for number in 1..=3 {
        assert!(says("CurrentVoters:").contains(&number.to_string()), "{status}");
    }
    assert!(!says("LeaderId:").contains("-1"), "{status}");
    let replication = ask(&site, "metadata-quorum", &["describe", "--replication"]);
    let roles = |role: &str| {
        replication.lines().filter(|line| line.split_whitespace().any(|it| it == role)).count()
    };
    assert_eq!((roles("Leader"), roles("Follower")), (1, 2), "{replication}");
    let features = ask(&site, "features", &["describe"]);
    // It is raised once all gateways have known the higher one for ten minutes.
    let level = features.lines().find(|line| line.contains("weir.level")).unwrap();
    let words: Vec<&str> = level.split_whitespace().collect();
    let levels = words.iter().filter(|word| word.parse::<u32>().is_ok()).take(3);
    assert!(levels.eq(&["1", "2", "1"]), "{features}");
}

#[test]
fn replicas_are_moved_with_a_throttle_and_leaders_elected() {
    let site = Site::new("site-tools-move", 3).started();
    let create = ["--create", "--topic", "t", "--replica-assignment", "1:2"];
    ask(&site, "topics", &create);
    wait_for("it is in sync", WHOLE, || site.is_in_sync("t", 2).then_some(()));
    fill(&site, "t");
    let to = plan("site-tools-plan", "t", &[3, 1]);
    let file = ["--reassignment-json-file", to.to_str().unwrap()];
    let reassign = |args: &[&str]| ask(&site, "reassign-partitions", args);
    let throttled = ["--execute", "--throttle", "100000"];
    let begun = reassign(&[&file[..], &throttled].concat());
    assert!(begun.contains("Successfully started partition reassignment for t-0"), "{begun}");
    let listed = reassign(&["--list"]);
    assert!(listed.contains("t-0: replicas: 3,1,2"), "{listed}");
    let verify = [&file[..], &["--verify"]].concat();
    wait_for("the replicas are moved", WHOLE, || {
        reassign(&verify).contains("t-0 is completed").then_some(())
    });
    let configs = ["--describe", "--entity-type", "brokers", "--entity-name", "3"];
    let configs = ask(&site, "configs", &configs);
    assert!(!configs.contains("throttled.rate=100000"), "{configs}");
    wait_for("it is in sync", WHOLE, || site.is_in_sync("t", 2).then_some(()));
    let view = &site.partitions("t").unwrap()[0];
    assert_eq!(view.replicas, [3, 1]);
    assert_eq!(count(&site, "t"), RECORDS);
    let elect = ["--election-type", "preferred", "--topic", "t", "--partition", "0"];
    let elected = ask(&site, "leader-election", &elect);
    assert!(elected.contains("t-0"), "{elected}");
    wait_for("the preferred one leads", WHOLE, || (site.leader("t", 0)? == 3).then_some(()));
    assert_eq!(count(&site, "t"), RECORDS);
}
