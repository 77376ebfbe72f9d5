//! Reads what belongs to the bridge: `[mqtt]`, `[[mqtt.rule]]`, `[[mqtt.source]]`, `[[mirror]]`.

use super::section::Section;
use super::{Address, listen_address};
use std::time::Duration;
use weir_bridge::mirror::{Route, StartAt};
use weir_bridge::settings as bridge;

pub fn mqtt(mut section: Section) -> bridge::Mqtt {
    let mut mqtt = bridge::Mqtt::default();
    if let Some(listen) = section.text("listen", "an address or \"off\"", |text| match text {
        "off" | "" => Some(String::new()),
        text => listen_address(text).map(|address| address.to_string()),
    }) {
        mqtt.listen = listen;
    }
    fn number<T: TryFrom<i64>>(section: &mut Section, key: &'static str, max: i64, field: &mut T) {
        let value = section.integer(key, 1..=max).and_then(|value| T::try_from(value).ok());
        if let Some(value) = value {
            *field = value;
        }
    }
    number(&mut section, "connections_max", 1_000_000, &mut mqtt.connections_max);
    number(&mut section, "receive_maximum", 65_535, &mut mqtt.receive_maximum);
    number(&mut section, "topic_alias_maximum", 65_535, &mut mqtt.topic_alias_maximum);
    number(&mut section, "session_expiry_max", 4_294_967_295, &mut mqtt.session_expiry_max);
    number(&mut section, "sessions_max", 10_000_000, &mut mqtt.sessions_max);
    number(&mut section, "topics_max", 10_000, &mut mqtt.topics_max);
    number(&mut section, "default_partitions", 1_000, &mut mqtt.default_partitions);
    if let Some(bytes) = section.bytes("packet_bytes_max", 256..=16 << 20) {
        mqtt.packet_bytes_max = bytes as u32;
    }
    if let Some(topic) = section.string("default_topic") {
        mqtt.default_topic = topic;
    }
    mqtt.rule = section.sections("rule").into_iter().map(mqtt_rule).collect();
    mqtt.source = section.sections("source").into_iter().map(mqtt_source).collect();
    if let Err(sentence) = mqtt.check() {
        section.fail(&sentence);
    }
    section.finish();
    mqtt
}

fn mqtt_rule(mut section: Section) -> bridge::Rule {
    let mut rule = bridge::Rule::default();
    match section.string("filter") {
        Some(filter) => rule.filter = filter,
        None => section.fail("needs a filter, such as \"plant/{line}/+/temp\""),
    }
    match section.string("topic") {
        Some(topic) => rule.topic = topic,
        None => section.fail("needs a topic, such as \"temperatures\""),
    }
    if let Some(key) = section.string("key") {
        rule.key = key;
    }
    if let Some(partitions) = section.integer("partitions", 1..=1_000) {
        rule.partitions = partitions as u32;
    }
    section.finish();
    rule
}

fn mqtt_source(mut section: Section) -> bridge::Source {
    let mut source = bridge::Source::default();
    match section.string("name").filter(|name| !name.is_empty()) {
        Some(name) => source.name = name,
        None => section.fail("needs a name, such as \"zigbee\""),
    }
    let is_url = |text: &str| {
        text.strip_prefix("mqtt://").and_then(Address::parse).map(|_| text.to_string())
    };
    match section.text("url", "as in \"mqtt://127.0.0.1:1884\"", is_url) {
        Some(url) => source.url = url,
        None => section.fail("needs a url, such as \"mqtt://127.0.0.1:1884\""),
    }
    match section.strings("filters").filter(|filters| !filters.is_empty()) {
        Some(filters) => source.filters = filters,
        None => section.fail("needs filters, such as [\"zigbee2mqtt/#\"]"),
    }
    if let Some(qos) = section.integer("qos", 0..=2) {
        source.qos = qos as u8;
    }
    let version = |text: &str| matches!(text, "3.1.1" | "5").then(|| text.to_string());
    if let Some(version) = section.text("version", "\"3.1.1\" or \"5\"", version) {
        source.version = version;
    }
    if let Some(seconds) = section.integer("keep_alive", 1..=65_535) {
        source.keep_alive = seconds as u16;
    }
    source.client_id = section.string("client_id").unwrap_or_default();
    source.username = section.string("username").unwrap_or_default();
    source.password_file = section.string("password_file").unwrap_or_default();
    section.finish();
    source
}

pub fn route(mut section: Section) -> Route {
    const LEAST: &str = "name = ''\nbootstrap = []\ntopics = []";
    let mut route: Route = toml::from_str(LEAST).expect("the other keys have defaults");
    route.name = section.string("name").unwrap_or_default();
    route.bootstrap = section.strings("bootstrap").unwrap_or_default();
    route.topics = section.strings("topics").unwrap_or_default();
    route.prefix = section.string("prefix").unwrap_or_default();
    if let Some(priority) = section.integer("priority", -100..=100) {
        route.priority = priority as i32;
    }
    if let Some(bytes) = section.bytes("bytes_per_second", 0..=u64::MAX) {
        route.bytes_per_second = bytes;
    }
    let start = section.text("start", "\"earliest\" or \"latest\"", |text| match text {
        "earliest" => Some(StartAt::Earliest),
        "latest" => Some(StartAt::Latest),
        _ => None,
    });
    route.start = start.unwrap_or_default();
    if let Some(transactional) = section.boolean("transactional") {
        route.transactional = transactional;
    }
    let hour = Duration::from_secs(3_600);
    if let Some(linger) = section.milliseconds("linger_ms", Duration::ZERO..=hour) {
        route.linger_ms = linger;
    }
    if let Some(timeout) = section.milliseconds("request_timeout_ms", Duration::ZERO..=hour) {
        route.request_timeout_ms = timeout;
    }
    if let Some(bytes) = section.bytes("transaction_bytes", 0..=1 << 30) {
        route.transaction_bytes = bytes as usize;
    }
    if let Some(bytes) = section.bytes("pass_through_bytes", 0..=1 << 30) {
        route.pass_through_bytes = bytes as usize;
    }
    if let Some(factor) = section.integer("replication_factor", -1..=32_767) {
        route.replication_factor = factor as i16;
    }
    if let Err(sentence) = route.check() {
        section.fail(&sentence);
    }
    section.finish();
    route
}
