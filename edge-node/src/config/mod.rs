//! The configuration: `weir.toml`, then the environment, then `--set`. Everything has a default.

mod bridge;
mod cluster;
mod section;
mod tree;

#[cfg(test)]
mod tests;

pub use cluster::{Cluster, Roles};

use crate::units;
use section::{Errors, Section, nearest};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tree::{Source, Table};
use weir_bridge::{mirror, settings};
use weir_core::log::{Card, FLUSH_WINDOW, YEAR_SECONDS};
use weir_core::metadata::configs;

#[derive(Clone, Debug)]
pub struct Config {
    pub node: Node,
    pub cluster: Cluster,
    pub kafka: Kafka,
    pub mqtt: settings::Mqtt,
    pub mirrors: Vec<mirror::Route>,
    pub http: Http,
    pub flash: Flash,
    pub topic_defaults: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub id: i32,
    pub data: PathBuf,
    pub roles: Roles,
    pub rack: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Kafka {
    pub listen: Address,
    /// Where clients are told to connect; `None` is where we listen.
    pub advertise: Option<Address>,
    pub connections_max: usize,
    pub idle_max: Duration,
    pub num_partitions: i32,
    /// `None`: as many as there are gateways, 3 at most.
    pub default_replication_factor: Option<i16>,
    pub auto_create_topics: bool,
}

#[derive(Clone, Debug)]
pub struct Http {
    /// `None` when it is "off".
    pub listen: Option<Address>,
}

#[derive(Clone, Debug)]
pub struct Flash {
    /// A file or a block device; `None` is `flash.log` in the data folder.
    pub path: Option<PathBuf>,
    /// The whole disk budget; `None` chooses by the free space.
    pub bytes: Option<u64>,
    pub slot_bytes: Option<u32>,
    pub flushes: Flushes,
    /// How long a commit waits for company at most, unless the flush cap holds it back longer.
    pub window: Duration,
    /// How much is written between checkpoints, which is what a start reads; `None` chooses by the
    /// memory.
    pub checkpoint_bytes: Option<u64>,
    /// The card's stated endurance, and how long it should last.
    pub card: Option<Card>,
    /// How long the scrub takes to read everything once; `None`: never.
    pub scrub: Option<Duration>,
}

/// `flash.flushes_per_second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushes {
    ByMedium,
    Unlimited,
    PerSecond(u32),
}

/// `host:port`, with IPv6 in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl Address {
    pub fn parse(text: &str) -> Option<Address> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok()?;
        (!host.is_empty()).then(|| Address { host: host.to_string(), port })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}", self.host, self.port)
    }
}

const SECTIONS: [&str; 9] =
    ["node", "kafka", "mqtt", "peer", "http", "flash", "cluster", "topic_defaults", "mirror"];

/// Variables that begin like settings and are none.
const ENVIRONMENT: [&str; 4] = ["WEIR_LOG", "WEIR_CONFIG", "WEIR_BOOTSTRAP", "WEIR_HTTP"];

/// Reads the configuration; an error is everything that is wrong, a line each.
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &[String],
) -> Result<Config, String> {
    let mut values = match file {
        None => Table::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            tree::parse(&path.display().to_string(), &text)?
        }
    };
    for (name, text) in environment {
        let Some(key) = environment_key(&name) else { continue };
        tree::set(&mut values, &key, &text, Source::Environment(name))?;
    }
    for flag in flags {
        let Some((key, text)) = flag.split_once('=') else {
            return Err(format!("--set {flag}: write it as KEY=VALUE, as in kafka.listen=:9092"));
        };
        let source = Source::Flag(key.to_string());
        tree::set(&mut values, key.trim(), text.trim(), source)?;
    }
    read(values)
}

/// `WEIR_KAFKA_LISTEN` is `kafka.listen`; `None` for variables that are no settings.
fn environment_key(name: &str) -> Option<String> {
    if ENVIRONMENT.contains(&name) {
        return None;
    }
    let rest = name.strip_prefix("WEIR_")?.to_ascii_lowercase();
    let section = SECTIONS.iter().find(|s| {
        rest.strip_prefix(**s).is_some_and(|key| key.starts_with('_') && key.len() > 1)
    })?;
    Some(format!("{section}.{}", &rest[section.len() + 1..]))
}

fn read(values: Table) -> Result<Config, String> {
    let errors = Errors::default();
    let mut root = Section::root(values, errors.clone());
    let (mut node, said) = node(root.section("node"));
    let (roles, cluster) =
        cluster::cluster(root.section("cluster"), root.section("peer"), node.id, said);
    node.roles = roles;
    let config = Config {
        node,
        cluster,
        kafka: kafka(root.section("kafka")),
        mqtt: bridge::mqtt(root.section("mqtt")),
        mirrors: root.sections("mirror").into_iter().map(bridge::route).collect(),
        http: http(root.section("http")),
        flash: flash(root.section("flash")),
        topic_defaults: root.section("topic_defaults").into_strings(topic_config),
    };
    root.finish();
    let bridges = !config.mirrors.is_empty() || !config.mqtt.source.is_empty();
    if bridges && !config.node.roles.broker {
        let sentence = "a witness has no records to mirror and takes none from MQTT: leave out \
                        [[mirror]] and [[mqtt.source]], or add \"broker\" to node.roles";
        errors.borrow_mut().push(sentence.into());
    }
    let errors = errors.take();
    if errors.is_empty() { Ok(config) } else { Err(errors.join("\n")) }
}

fn topic_config(name: &str, value: &str) -> Result<(), String> {
    let known: Vec<String> = configs::DEFINITIONS.iter().map(|d| d.name.to_string()).collect();
    if !known.iter().any(|known| known == name) {
        return Err(format!("unknown topic config{}", nearest(name, &known)));
    }
    configs::validate(name, value)
}

/// How many days the scrub takes to read everything once, when nobody says.
const SCRUB_DAYS: f64 = 7.0;
/// Each acknowledgement may come so much later.
const FLUSH_WINDOW_MAX: Duration = Duration::from_secs(1);
/// How long a card should last when nobody says.
const CARD_YEARS: f64 = 10.0;
/// A commit programs a flash page of 16 KiB at least; one a second for a year.
const TERABYTES_OF_A_YEAR_OF_COMMITS: f64 = 0.52;

const ADDRESS: &str = "an address as \"host:port\"";

/// An empty host listens on every address, as in ":9092".
fn listen_address(text: &str) -> Option<Address> {
    match text.strip_prefix(':') {
        Some(port) => Some(Address { host: "0.0.0.0".into(), port: port.parse().ok()? }),
        None => Address::parse(text),
    }
}

/// The roles are as they were said: what holds depends on the cluster.
fn node(mut section: Section) -> (Node, Option<Roles>) {
    let id = section.integer("id", 0..=i64::from(i32::MAX)).unwrap_or(1) as i32;
    let data = section.string("data").unwrap_or_else(|| "weir-data".into());
    let rack = section.string("rack");
    let said = cluster::roles(&mut section);
    section.finish();
    let roles = Roles { broker: true, voter: true };
    (Node { id, data: data.into(), roles, rack }, said)
}

fn kafka(mut section: Section) -> Kafka {
    let hour = Duration::from_secs(3_600);
    let kafka = Kafka {
        listen: section
            .text("listen", ADDRESS, listen_address)
            .unwrap_or(Address { host: "127.0.0.1".into(), port: 9092 }),
        advertise: section.text("advertise", ADDRESS, Address::parse),
        connections_max: section.integer("connections_max", 1..=100_000).unwrap_or(2_000) as usize,
        idle_max: section
            .duration("idle_max", Duration::from_secs(10)..=24 * hour)
            .unwrap_or(Duration::from_secs(600)),
        num_partitions: section.integer("num_partitions", 1..=1_000).unwrap_or(1) as i32,
        default_replication_factor: section
            .integer("default_replication_factor", 1..=9)
            .map(|factor| factor as i16),
        auto_create_topics: section.boolean("auto_create_topics").unwrap_or(true),
    };
    section.finish();
    kafka
}

fn http(mut section: Section) -> Http {
    let listen = section.text("listen", "an address or \"off\"", |text| match text {
        "off" | "" => Some(None),
        text => listen_address(text).map(Some),
    });
    section.finish();
    Http {
        listen: listen.unwrap_or_else(|| Some(Address { host: "127.0.0.1".into(), port: 8080 })),
    }
}

fn flash(mut section: Section) -> Flash {
    let path = section.string("path").filter(|path| !path.is_empty()).map(PathBuf::from);
    let bytes = section.bytes("bytes", 16 << 20..=u64::MAX);
    let slot = |text: &str| {
        let bytes = units::parse_bytes(text)?;
        let fits = (64 << 10..=64 << 20).contains(&bytes) && bytes.is_power_of_two();
        fits.then_some(bytes as u32)
    };
    let slot_bytes = section.text("slot_bytes", "a power of two from 64KiB to 64MiB", slot);
    let per_second = |text: &str| match text {
        "unlimited" | "0" => Some(Flushes::Unlimited),
        number => number.parse().ok().map(Flushes::PerSecond),
    };
    let flushes = section
        .text("flushes_per_second", "a whole number or \"unlimited\"", per_second)
        .unwrap_or(Flushes::ByMedium);
    let window = section.duration("flush_window", Duration::ZERO..=FLUSH_WINDOW_MAX);
    let window = window.unwrap_or(Duration::from_nanos(FLUSH_WINDOW.0));
    let checkpoint_bytes = section.bytes("checkpoint_bytes", 1 << 20..=4 << 30);
    let card = card(&mut section, flushes);
    let days = section.float("scrub_days", 0.0..=3_650.0).unwrap_or(SCRUB_DAYS);
    let scrub = (days > 0.0).then(|| Duration::from_secs_f64(days * 86_400.0));
    section.finish();
    Flash { path, bytes, slot_bytes, flushes, window, checkpoint_bytes, card, scrub }
}

/// The card's endurance and wanted life, from which the wear governor sets the flush cap.
fn card(section: &mut Section, flushes: Flushes) -> Option<Card> {
    let tbw = section.float("card_tbw", 0.1..=1e6);
    let years = section.float("card_years", 0.1..=100.0);
    if tbw.is_none() && years.is_some() {
        section.fail("card_years needs card_tbw, the endurance that the card's maker states");
    }
    let years = years.unwrap_or(CARD_YEARS);
    let tbw = tbw?;
    if flushes != Flushes::ByMedium {
        section.fail(
            "card_tbw sets the flush cap, and flushes_per_second would, too: leave one of them out",
        );
    }
    let least = years * TERABYTES_OF_A_YEAR_OF_COMMITS;
    if tbw < least {
        section.fail(&format!(
            "card_tbw {tbw} in {years} years is not enough for one commit a second, which programs \
             {TERABYTES_OF_A_YEAR_OF_COMMITS} TB a year: state at least {least:.1}, or at most \
             {:.1} card_years",
            tbw / TERABYTES_OF_A_YEAR_OF_COMMITS
        ));
    }
    Some(Card {
        endurance_bytes: (tbw * 1e12) as u64,
        wanted_seconds: (years * YEAR_SECONDS as f64) as u64,
    })
}
