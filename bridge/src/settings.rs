//! What the configuration says about MQTT: `[mqtt]`, `[[mqtt.rule]]` and `[[mqtt.source]]`.

use serde::Deserialize;

/// `[mqtt]`: the listener, its limits, and how topics are mapped.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mqtt {
    /// Where devices connect, `host:port`. Empty: no listener, sources only.
    pub listen: String,
    /// Connections at the same time. One more is answered "quota exceeded". Idle ones cost about 1
    /// KiB.
    pub connections_max: usize,
    /// The largest packet that is taken, in bytes. Has to fit a record batch of the target topic.
    pub packet_bytes_max: u32,
    /// MQTT 5's Receive Maximum: publishes of one connection that are not acknowledged yet. A
    /// 3.1.1 connection that has more is no longer read until acknowledgements have gone out.
    pub receive_maximum: u16,
    /// MQTT 5's Topic Alias Maximum for each connection.
    pub topic_alias_maximum: u16,
    /// Seconds for which a session outlives its connection at most. 3.1.1 sessions have this
    /// expiry.
    pub session_expiry_max: u32,
    /// Sessions that outlive their connection, connected or not.
    pub sessions_max: usize,
    /// Topics that rules with captures in `topic` may bring into being. What would be one more
    /// goes to the default topic: a device that invents names cannot fill the gateway with
    /// topics.
    pub topics_max: usize,
    /// Where a message goes that no rule matches, with the MQTT topic as key.
    pub default_topic: String,
    /// Partitions of the default topic, if it has to be created.
    pub default_partitions: u32,
    /// The first rule whose filter matches decides.
    pub rule: Vec<Rule>,
    /// Brokers to subscribe to.
    pub source: Vec<Source>,
}

impl Mqtt {
    /// What is wrong with the rules, as a sentence.
    pub fn check(&self) -> Result<(), String> {
        crate::rules::Rules::new(self).map(|_| ())
    }
}

impl Default for Mqtt {
    fn default() -> Mqtt {
        Mqtt {
            listen: "127.0.0.1:1883".into(),
            connections_max: 4_000,
            packet_bytes_max: 1_000_000,
            receive_maximum: 1_024,
            topic_alias_maximum: 64,
            session_expiry_max: 7 * 24 * 3_600,
            sessions_max: 10_000,
            topics_max: 100,
            default_topic: "sensors".into(),
            default_partitions: 4,
            rule: Vec::new(),
            source: Vec::new(),
        }
    }
}

/// `[[mqtt.rule]]`: which Kafka topic and key the messages of an MQTT filter get.
///
/// `filter` is an MQTT topic filter in which `{name}` stands for one level, like `+`, and names it.
/// In `topic` and `key`, `{name}` is what was captured, `{topic}` the whole MQTT topic, `{#}` what
/// a `#` at the filter's end stood for, `{client_id}` the device's client identifier, and
/// `{user:name}` the MQTT 5 user property of that name. `{{` and `}}` are braces.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub filter: String,
    pub topic: String,
    /// A key that comes out empty, because a user property is missing, say, is the MQTT topic
    /// instead.
    #[serde(default = "key_default")]
    pub key: String,
    /// Partitions of the topic, if it has to be created.
    #[serde(default = "partitions_default")]
    pub partitions: u32,
}

impl Default for Rule {
    fn default() -> Rule {
        Rule {
            filter: "#".into(),
            topic: "sensors".into(),
            key: key_default(),
            partitions: partitions_default(),
        }
    }
}

fn key_default() -> String {
    "{topic}".into()
}

fn partitions_default() -> u32 {
    4
}

/// `[[mqtt.source]]`: a broker whose messages are taken over.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Source {
    /// Names the source in logs and in the status; stands in the header `mqtt.client_id`.
    pub name: String,
    /// `mqtt://host:port`.
    pub url: String,
    pub filters: Vec<String>,
    /// The QoS to subscribe with: 0, 1 or 2.
    pub qos: u8,
    /// The protocol to speak: `3.1.1` or `5`.
    pub version: String,
    /// What that broker knows the session by; `weir-<name>` if empty. No two clients may share it.
    pub client_id: String,
    pub username: String,
    /// A file that holds the password: passwords do not belong into a configuration file.
    pub password_file: String,
    /// Seconds between signs of life.
    pub keep_alive: u16,
}

impl Default for Source {
    fn default() -> Source {
        Source {
            name: String::new(),
            url: String::new(),
            filters: Vec::new(),
            qos: 1,
            version: "3.1.1".into(),
            client_id: String::new(),
            username: String::new(),
            password_file: String::new(),
            keep_alive: 30,
        }
    }
}
