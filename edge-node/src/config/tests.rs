//! What is read, and what an operator is told when it cannot be.
#![allow(clippy::unwrap_used)]

use super::*;

/// Reads a file of this text with flags and environment.
fn check(toml: &str, environment: &[(&str, &str)], flags: &[&str]) -> Result<Config, String> {
    let mut values = tree::parse("weir.toml", toml)?;
    for (name, text) in environment {
        let Some(key) = environment_key(name) else { continue };
        tree::set(&mut values, &key, text, Source::Environment(name.to_string()))?;
    }
    for flag in flags {
        let (key, text) = flag.split_once('=').unwrap();
        tree::set(&mut values, key, text, Source::Flag(key.into()))?;
    }
    read(values)
}

fn wrong(toml: &str, flags: &[&str]) -> String {
    check(toml, &[], flags).unwrap_err()
}

const WHOLE: &str = r#"
[node]
id = 7
data = "/var/lib/weir"
roles = ["broker", "voter"]
rack = "hall-2"
[kafka]
listen = "0.0.0.0:9092"
advertise = "gw1.local:9092"
[flash]
bytes = "8GiB"
flushes_per_second = 20
flush_window = "2ms"
checkpoint_bytes = "32MiB"
[cluster]
voters = ["7@gw1.local:9093"]
[topic_defaults]
"retention.ms" = 604800000
[[mqtt.rule]]
filter = "plant/{line}/+/temp"
topic = "temperatures"
key = "{line}"
[[mqtt.source]]
name = "zigbee"
url = "mqtt://127.0.0.1:1884"
filters = ["zigbee2mqtt/#"]
qos = 1
[[mirror]]
name = "central"
bootstrap = ["kafka1.example:9092"]
topics = ["sensors", "plant-.*"]
prefix = "gw1."
priority = 0
bytes_per_second = 50000
"#;

#[test]
fn an_empty_file_is_a_gateway_on_its_own() {
    let config = check("", &[], &[]).unwrap();
    assert_eq!(config.node.id, 1);
    assert_eq!(config.kafka.listen.to_string(), "127.0.0.1:9092");
    assert_eq!(config.http.listen.unwrap().port, 8080);
    assert_eq!(config.mqtt.listen, "127.0.0.1:1883");
    assert_eq!(config.flash.flushes, Flushes::ByMedium);
    assert_eq!(config.flash.window, Duration::from_micros(800));
    assert_eq!(config.flash.checkpoint_bytes, None);
}

#[test]
fn every_section_is_read() {
    let config = check(WHOLE, &[], &[]).unwrap();
    assert_eq!((config.node.id, config.node.rack.as_deref()), (7, Some("hall-2")));
    assert_eq!(config.kafka.advertise.unwrap().host, "gw1.local");
    assert_eq!(config.flash.bytes, Some(8 << 30));
    assert_eq!(config.flash.flushes, Flushes::PerSecond(20));
    assert_eq!(config.flash.window, Duration::from_millis(2));
    assert_eq!(config.flash.checkpoint_bytes, Some(32 << 20));
    assert_eq!(config.topic_defaults["retention.ms"], "604800000");
    assert_eq!(config.mqtt.rule[0].key, "{line}");
    assert_eq!(config.mqtt.source[0].name, "zigbee");
    assert_eq!(config.mirrors[0].bytes_per_second, 50_000);
    assert_eq!(config.mirrors[0].topics.len(), 2);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let toml = "[kafka]\nlisten = \"a:1\"\n[node]\nid = 1\n[http]\nlisten = \"c:3\"\n";
    let environment =
        [("WEIR_KAFKA_LISTEN", "b:2"), ("WEIR_NODE_ID", "2"), ("WEIR_LOG", "debug"), ("HOME", "x")];
    let flags = ["kafka.listen=:3", "flash.flushes_per_second=0", "topic_defaults.retention.ms=5"];
    let config = check(toml, &environment, &flags).unwrap();
    assert_eq!(config.kafka.listen.to_string(), "0.0.0.0:3");
    assert_eq!(config.node.id, 2);
    assert_eq!(config.http.listen.unwrap().host, "c");
    assert_eq!(config.flash.flushes, Flushes::Unlimited);
    assert_eq!(config.topic_defaults["retention.ms"], "5");
}

#[test]
fn lists_can_be_given_by_flags() {
    let flags = [
        "mirror.0.name=central",
        "mirror.0.bootstrap=a:1,b:2",
        "mirror.0.topics=[\"x\", \"y{1,2}\"]",
        "mqtt.rule=[{filter = \"a/#\", topic = \"t\"}]",
    ];
    let config = check("", &[], &flags).unwrap();
    assert_eq!(config.mirrors[0].bootstrap, ["a:1", "b:2"]);
    assert_eq!(config.mirrors[0].topics, ["x", "y{1,2}"]);
    assert_eq!(config.mqtt.rule[0].filter, "a/#");
    assert!(wrong("", &["mirror.5.name=x"]).contains("0 to 0"));
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    let error = wrong("[kafka]\n\nadvertize = \"x:1\"\n", &[]);
    assert_eq!(
        error,
        "weir.toml:3: unknown key \"kafka.advertize\"; did you mean \"kafka.advertise\"?"
    );
    let error = wrong("[kafca]\n", &[]);
    assert!(error.contains("weir.toml:1") && error.contains("\"kafka\""), "{error}");
    let error = wrong("", &["flash.bites=1GiB"]);
    assert!(error.contains("--set flash.bites") && error.contains("flash.bytes"), "{error}");
    let error = wrong("[http]\ncolour = 1\n", &[]);
    assert!(error.ends_with("there are http.listen"), "{error}");
}

#[test]
fn a_wrong_value_is_named_with_what_it_should_be() {
    for (toml, expected) in [
        ("[flash]\nbytes = \"many\"", "weir.toml:2: flash.bytes must be a size of at least 16 MiB"),
        ("[flash]\nflush_window = \"2s\"", "a duration from 0ns to 1s, such as"),
        ("[flash]\ncheckpoint_bytes = \"1kB\"", "a size from 1 MiB to 4 GiB"),
        ("[node]\nid = -1", "from 0 to 2147483647, not \"-1\""),
        ("[node]\nid = \"a\"", "weir.toml:2: node.id"),
        ("[kafka]\nlisten = 9092", "\"host:port\""),
        ("[kafka]\nlisten = \"a:b\"", "not \"a:b\""),
        ("kafka = 1", "kafka must be a section [kafka], not a number"),
        ("mirror = \"x\"", "a list of sections [[mirror]]"),
        ("[topic_defaults]\nretention.ms = 1", "write \"retention"),
        ("[topic_defaults]\n\"retention.mss\" = 1", "did you mean \"retention.ms\"?"),
        (
            "[topic_defaults]\n\"retention.ms\" = \"long\"",
            "weir.toml:2: topic_defaults.retention.ms",
        ),
        ("[mqtt\n", "weir.toml:1:"),
        ("[[mqtt.rule]]\ntopic = \"x\"", "weir.toml:1: mqtt.rule[0]: needs a filter"),
        ("[[mirror]]\nname=\"a\"\nbootstrap=[\"x:1\"]\ntopics=[\"(\"]", "topics"),
        ("[cluster]\nvoters = [\"1@a:1\", \"2@b:1\"]", "2 voters: a cluster has 1, 3 or 5"),
        ("[cluster]\nvoters = [\"1@a:1\", \"1@b:1\"]", "names gateway 1 twice"),
        ("[cluster]\nvoters = [\"gw1:9093\"]", "not \"gw1:9093\""),
        ("[cluster]\nvoters = [\"2@a:1\"]", "need a secret_file"),
        ("[node]\nroles = [\"voter\"]", "a witness is nothing by itself"),
        ("[node]\nroles = [\"king\"]", "[\"voter\"] is a witness"),
        ("[node]\nroles = [\"broker\"]", "an observer needs voters"),
        (
            "[node]\nroles = [\"voter\"]\n[cluster]\nvoters = [\"2@a:1\"]\nsecret_file = \"s\"",
            "voters does not name this gateway, 1",
        ),
    ] {
        let error = wrong(toml, &[]);
        assert!(error.contains(expected), "{toml}\n{error}");
    }
    let two = wrong("[node]\nid = -1\n[kafka]\nlisten = 3\n", &[]);
    assert_eq!(two.lines().count(), 2, "{two}");
}

#[test]
fn roles_follow_from_the_voters_unless_said() {
    let site = |id: i32, roles: &str| {
        let toml = format!(
            "[node]\nid = {id}\n{roles}\n[cluster]\nsecret_file = \"s\"\n\
             voters = [\"1@a:9093\", \"2@b:9093\", \"3@c:9093\"]"
        );
        check(&toml, &[], &[]).unwrap()
    };
    let both = Roles { broker: true, voter: true };
    assert_eq!(check("", &[], &[]).unwrap().node.roles, both);
    assert_eq!(site(2, "").node.roles, both);
    assert_eq!(site(4, "").node.roles, Roles { broker: true, voter: false });
    let witness = site(3, "roles = [\"voter\"]");
    assert_eq!(witness.node.roles, Roles { broker: false, voter: true });
    assert_eq!(witness.cluster.voters[&2].to_string(), "b:9093");
    assert_eq!(witness.cluster.peer.listen.to_string(), "0.0.0.0:9093");
}

#[test]
fn a_card_that_cannot_be_kept_is_explained() {
    let card = check("[flash]\ncard_tbw = 30\ncard_years = 5\n", &[], &[]).unwrap().flash.card;
    assert_eq!(card.unwrap().endurance_bytes, 30_000_000_000_000);
    assert_eq!(card.unwrap().wanted_seconds, 5 * YEAR_SECONDS);
    for (toml, words) in [
        ("card_years = 5", &["card_years", "card_tbw"][..]),
        ("card_tbw = -3", &["card_tbw", "0.1"]),
        ("card_tbw = \"a lot\"", &["card_tbw", "a number"]),
        ("card_tbw = 2\ncard_years = 20", &["10.4", "3.8 card_years"]),
        ("card_tbw = 30\nflushes_per_second = 5", &["flushes_per_second", "leave one"]),
    ] {
        let said = wrong(&format!("[flash]\n{toml}\n"), &[]);
        for word in words {
            assert!(said.contains(word), "{toml} does not say {word}: {said}");
        }
    }
}
