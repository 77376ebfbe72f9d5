//! Which topic and key a message gets.

#![allow(clippy::unwrap_used)]

use super::*;

fn rules(rules: &[(&str, &str, &str)]) -> Result<Rules, String> {
    let rule = rules
        .iter()
        .map(|(filter, topic, key)| settings::Rule {
            filter: (*filter).into(),
            topic: (*topic).into(),
            key: (*key).into(),
            ..settings::Rule::default()
        })
        .collect();
    Rules::new(&settings::Mqtt { rule, ..settings::Mqtt::default() })
}

/// Topic and key of a message from client `me`.
fn map(rules: &Rules, topic: &str) -> (String, String) {
    let message = Message { topic, client_id: "me", properties: Properties::default() };
    let mut mapped = Mapped::default();
    rules.map(&message, &mut mapped);
    let key = match mapped.key {
        Key::Topic => topic.into(),
        Key::ClientId => "me".into(),
        Key::Other(key) => key,
    };
    (rules.topic(mapped.rule).map_or(mapped.topic, String::from), key)
}

fn pair(topic: &str, key: &str) -> (String, String) {
    (topic.into(), key.into())
}

#[test]
fn without_rules_everything_goes_to_sensors_by_its_topic() {
    let rules = rules(&[]).unwrap();
    for topic in ["plant/line1/temp", "a", "/", "$SYS/x", "ümlaut/€"] {
        assert_eq!(map(&rules, topic), pair("sensors", topic));
    }
    assert_eq!(rules.partitions(0), 4);
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = rules(&[
        ("plant/{line}/+/temp", "temperatures", "{line}"),
        ("plant/{line}/#", "plant", "{line}:{#}"),
        ("{site}/{device}/#", "site-{site}", "{device}"),
        ("alarms", "alarms", "{client_id}"),
    ])
    .unwrap();
    assert_eq!(map(&rules, "plant/7/oven/temp"), pair("temperatures", "7"));
    assert_eq!(map(&rules, "plant/7/oven/hum"), pair("plant", "7:oven/hum"));
    assert_eq!(map(&rules, "plant/7"), pair("plant", "7:"));
    assert_eq!(map(&rules, "north/d1/x/y"), pair("site-north", "d1"));
    assert_eq!(map(&rules, "alarms"), pair("alarms", "me"));
    assert_eq!(map(&rules, "plant"), pair("sensors", "plant"));
    assert_eq!(map(&rules, "$SYS/d1/x"), pair("sensors", "$SYS/d1/x"));
}

#[test]
fn a_filter_matches_as_mqtt_says() {
    let check = |filter: &str, topic: &str, matches: bool| {
        let (pattern, _) = Pattern::new(filter).unwrap();
        assert_eq!(pattern.matches(topic, &mut Vec::new()), matches, "{filter} {topic}");
    };
    for (filter, topic) in [
        ("sport/tennis/player1/#", "sport/tennis/player1"),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking/x"),
        ("#", "a/b"),
        ("+/+", "/finance"),
        ("/+", "/finance"),
        ("sport/+", "sport/"),
        ("+/tennis/#", "a/tennis"),
        ("$SYS/#", "$SYS/a"),
        ("$SYS/monitor/+", "$SYS/monitor/Clients"),
    ] {
        check(filter, topic, true);
    }
    for (filter, topic) in [
        ("+", "/finance"),
        ("sport/+", "sport"),
        ("sport/+", "sport/a/b"),
        ("#", "$SYS/a"),
        ("+/monitor/Clients", "$SYS/monitor/Clients"),
        ("a/b", "a/b/"),
        ("a/b", "A/b"),
    ] {
        check(filter, topic, false);
    }
}

#[test]
fn a_name_that_kafka_forbids_is_mapped_and_never_internal() {
    let rules = rules(&[("t/{name}/#", "{name}", "{topic}"), ("deep/#", "{#}", "k")]).unwrap();
    let name = |topic: &str| map(&rules, topic).0;
    assert_eq!(name("t/temp é!/x"), "temp___");
    assert_eq!(name("t//x"), "_");
    assert_eq!(name("t/../x"), "_");
    assert_eq!(name("t/__mqtt_sessions/x"), "mqtt__mqtt_sessions");
    assert_eq!(name("deep/a/b c"), "a.b_c");
    assert_eq!(name(&format!("t/{}/x", "n".repeat(400))).len(), 249);
}

#[test]
fn braces_can_be_written_and_missing_properties_leave_the_topic_as_key() {
    let rules = rules(&[("a", "a", "{{{topic}}}"), ("b", "b", "{user:serial}")]).unwrap();
    assert_eq!(map(&rules, "a"), pair("a", "{a}"));
    assert_eq!(map(&rules, "b"), pair("b", "b"));
}

#[test]
fn a_wrong_rule_is_named() {
    let wrong = |filter: &str, topic: &str, key: &str| {
        rules(&[("fine", "fine", "{topic}"), (filter, topic, key)]).unwrap_err()
    };
    for (filter, topic, key, says) in [
        ("a/#/b", "t", "k", "not an MQTT topic filter"),
        ("a/x{b}", "t", "k", "whole level"),
        ("a/{b}/{b}", "t", "k", "twice"),
        ("a/{topic}", "t", "k", "meaning already"),
        ("a/{b c}", "t", "k", "named with letters"),
        ("a", "no spaces", "k", "no_spaces"),
        ("a", "__mqtt_sessions", "k", "cannot be a Kafka topic"),
        ("a", "t", "{line}", "not in the filter"),
        ("a", "t", "{line", "no partner"),
        ("a", "", "k", "empty"),
    ] {
        let error = wrong(filter, topic, key);
        assert!(error.contains("number 2") && error.contains(says), "{error}");
    }
}
