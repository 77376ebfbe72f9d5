//! Kafka's topic configs: names, types, defaults and bounds as in Apache Kafka 4.3, and the policy
//! that a topic's configs add up to.
//!
//! Every config that Kafka's tools and MirrorMaker 2 set is taken, kept and shown. A config without
//! effect on a gateway says so in its documentation; refusing it would only break those who copy
//! topics. So it is with a `max.message.bytes` above what a gateway takes: MirrorMaker 2 copies it
//! from the source, and could not create the topic. The answer to a batch that is too large names
//! both bounds.

use crate::batch::Codec;
use crate::limits;
use crate::log::{Cleanup, Compaction, Retention};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Configs by name, as they were set.
pub type Configs = BTreeMap<String, String>;

/// What values a config takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Boolean,
    Int {
        min: i64,
        max: i64,
    },
    Long {
        min: i64,
    },
    /// A ratio from 0 to 1.
    Ratio,
    OneOf(&'static [&'static str]),
    /// A comma-separated list; an empty slice takes any elements.
    ListOf(&'static [&'static str]),
}

/// One topic config.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    pub name: &'static str,
    /// The broker config whose value is the topic's default in Kafka.
    pub broker_name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub documentation: &'static str,
}

const INT_MAX: i64 = i32::MAX as i64;
const LONG_MAX: &str = "9223372036854775807";

macro_rules! definitions {
    ($($name:literal $broker:literal $kind:expr, $default:expr, $doc:literal;)*) => {
        &[$(Definition {
            name: $name, broker_name: $broker, kind: $kind, default: $default, documentation: $doc,
        },)*]
    };
}

/// Bytes a second that a gateway takes for replicas that are moved to it, all together.
pub const FOLLOWER_RATE: &str = "follower.replication.throttled.rate";
/// The topic config that names the replicas.
pub const FOLLOWER_THROTTLED: &str = "follower.replication.throttled.replicas";
/// The broker configs that Kafka's tools set for a throttled reassignment. The leader's is kept and
/// shown; it is the follower's that counts.
pub const THROTTLES: [&str; 2] = [FOLLOWER_RATE, "leader.replication.throttled.rate"];

pub const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";

/// All topic configs, by name.
pub static DEFINITIONS: &[Definition] = definitions! {
    "cleanup.policy" "log.cleanup.policy" Kind::ListOf(&["compact", "delete"]), "delete",
        "delete: records expire by retention; compact: the last record of each key is kept.";
    "compression.gzip.level" "compression.gzip.level" Kind::Int { min: -1, max: 9 }, "-1",
        "No effect: Weir stores batches as they come.";
    "compression.lz4.level" "compression.lz4.level" Kind::Int { min: 1, max: 17 }, "9",
        "No effect: Weir stores batches as they come.";
    "compression.type" "compression.type"
        Kind::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]), "producer",
        "How batches are compressed that compaction writes anew. Others stay as they came.";
    "compression.zstd.level" "compression.zstd.level" Kind::Int { min: -131_072, max: 22 }, "3",
        "No effect: Weir stores batches as they come.";
    "delete.retention.ms" "log.cleaner.delete.retention.ms" Kind::Long { min: 0 }, "86400000",
        "How long tombstones of a compacted topic are kept.";
    "file.delete.delay.ms" "log.segment.delete.delay.ms" Kind::Long { min: 0 }, "60000",
        "No effect: partitions have no files of their own.";
    "flush.messages" "log.flush.interval.messages" Kind::Long { min: 1 }, LONG_MAX,
        "No effect: every record is on flash before it is acknowledged.";
    "flush.ms" "log.flush.interval.ms" Kind::Long { min: 0 }, LONG_MAX,
        "No effect: every record is on flash before it is acknowledged.";
    "follower.replication.throttled.replicas" "follower.replication.throttled.replicas"
        Kind::ListOf(&[]), "",
        "Replicas, as partition:broker or *, that keep to their broker's throttled rate.";
    "index.interval.bytes" "log.index.interval.bytes" Kind::Int { min: 0, max: INT_MAX }, "4096",
        "No effect: the flash log has an index of its own.";
    "leader.replication.throttled.replicas" "leader.replication.throttled.replicas"
        Kind::ListOf(&[]), "", "No effect: followers are throttled, not leaders.";
    "local.retention.bytes" "log.local.retention.bytes" Kind::Long { min: -2 }, "-2",
        "No effect: there is no tiered storage.";
    "local.retention.ms" "log.local.retention.ms" Kind::Long { min: -2 }, "-2",
        "No effect: there is no tiered storage.";
    "max.compaction.lag.ms" "log.cleaner.max.compaction.lag.ms" Kind::Long { min: 1 }, LONG_MAX,
        "The longest time that a record of a compacted topic stays uncompacted.";
    "max.message.bytes" "message.max.bytes" Kind::Int { min: 0, max: INT_MAX }, "1048588",
        "The largest record batch. A gateway takes none above 2 MiB, whatever stands here.";
    "message.timestamp.after.max.ms" "log.message.timestamp.after.max.ms" Kind::Long { min: 0 },
        "3600000", "How far a record may be ahead of a trusted clock.";
    "message.timestamp.before.max.ms" "log.message.timestamp.before.max.ms" Kind::Long { min: 0 },
        LONG_MAX, "How far a record may be behind a trusted clock.";
    "message.timestamp.type" "log.message.timestamp.type"
        Kind::OneOf(&["CreateTime", "LogAppendTime"]), "CreateTime",
        "Whether records keep the producer's time or get the gateway's.";
    "min.cleanable.dirty.ratio" "log.cleaner.min.cleanable.ratio" Kind::Ratio, "0.5",
        "How much of a compacted topic must be superseded before it is compacted.";
    "min.compaction.lag.ms" "log.cleaner.min.compaction.lag.ms" Kind::Long { min: 0 }, "0",
        "The shortest time that a record of a compacted topic stays uncompacted.";
    "min.insync.replicas" "min.insync.replicas" Kind::Int { min: 1, max: INT_MAX }, "1",
        "Gateways that must have a record on flash before acks=all is answered.";
    "preallocate" "log.preallocate" Kind::Boolean, "false",
        "No effect: the flash log is reserved in whole.";
    "remote.log.copy.disable" "remote.log.copy.disable" Kind::Boolean, "false",
        "No effect: there is no tiered storage.";
    "remote.log.delete.on.disable" "remote.log.delete.on.disable" Kind::Boolean, "false",
        "No effect: there is no tiered storage.";
    "remote.storage.enable" "remote.storage.enable" Kind::Boolean, "false",
        "No effect: there is no tiered storage.";
    "retention.bytes" "log.retention.bytes" Kind::Long { min: i64::MIN }, "-1",
        "Bytes of each partition that are kept; -1: no bound but the disk budget.";
    "retention.ms" "log.retention.ms" Kind::Long { min: -1 }, "604800000",
        "How long records are kept; -1: for ever. Nothing expires while the clock is not trusted.";
    "segment.bytes" "log.segment.bytes" Kind::Int { min: 1_048_576, max: INT_MAX }, "1073741824",
        "No effect: all partitions share the slots of one flash log.";
    "segment.index.bytes" "log.index.size.max.bytes" Kind::Int { min: 4, max: INT_MAX }, "10485760",
        "No effect: the flash log has an index of its own.";
    "segment.jitter.ms" "log.roll.jitter.ms" Kind::Long { min: 0 }, "0",
        "No effect: all partitions share the slots of one flash log.";
    "segment.ms" "log.roll.ms" Kind::Long { min: 1 }, "604800000",
        "No effect: all partitions share the slots of one flash log.";
    "unclean.leader.election.enable" "unclean.leader.election.enable" Kind::Boolean, "false",
        "Whether a replica that lacks acknowledged records leads when no other one is left.";
};

pub fn definition(name: &str) -> Option<&'static Definition> {
    let at = DEFINITIONS.binary_search_by(|d| d.name.cmp(name)).ok()?;
    DEFINITIONS.get(at)
}

/// Whether `name` is a topic config and `value` one of its values; else a sentence for the user, as
/// Kafka says it.
pub fn validate(name: &str, value: &str) -> Result<(), String> {
    let Some(definition) = definition(name) else {
        return Err(format!("Unknown topic config name: {name}"));
    };
    let value = value.trim();
    let is_list = matches!(definition.kind, Kind::ListOf(_));
    if is_list && !value.is_empty() && value.split(',').any(|element| element.trim().is_empty()) {
        return Err(format!("Configuration '{name}' values must not be empty."));
    }
    let wrong =
        |wrong: &str, why: String| format!("Invalid value {wrong} for configuration {name}: {why}");
    if name == "compression.gzip.level" && value == "0" {
        let why = "Value must be between 1 and 9 or equal to -1".to_string();
        return Err(wrong(value, why));
    }
    if let Kind::ListOf(valid) = definition.kind {
        let unknown = elements(value).find(|e| !valid.is_empty() && !valid.contains(e));
        return unknown.map_or(Ok(()), |unknown| Err(wrong(unknown, one_of(valid))));
    }
    definition.kind.validate(value).map_err(|why| wrong(value, why))
}

/// Whether a topic's configs can hold together; else a sentence for the user.
pub fn validate_together(configs: &Configs, defaults: &Configs) -> Result<(), String> {
    const MIN: &str = "min.compaction.lag.ms";
    const MAX: &str = "max.compaction.lag.ms";
    let number = |name| effective(name, configs, defaults).parse::<i64>().ok();
    match (number(MIN), number(MAX)) {
        (Some(min), Some(max)) if min > max => {
            Err(format!("conflict topic config setting {MIN} ({min}) > {MAX} ({max})"))
        }
        _ => Ok(()),
    }
}

fn one_of(valid: &[&str]) -> String {
    format!("String must be one of: {}", valid.join(", "))
}

impl Kind {
    /// The type as DescribeConfigs writes it (`DescribeConfigsResponse.ConfigType`).
    pub fn config_type(self) -> i8 {
        match self {
            Kind::Boolean => 1,
            Kind::OneOf(_) => 2,
            Kind::Int { .. } => 3,
            Kind::Long { .. } => 5,
            Kind::Ratio => 6,
            Kind::ListOf(_) => 7,
        }
    }

    fn validate(self, value: &str) -> Result<(), String> {
        match self {
            Kind::Boolean => {
                match value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") {
                    true => Ok(()),
                    false => Err("Expected value to be either true or false".to_string()),
                }
            }
            Kind::Int { min, max } => match value.parse::<i32>() {
                Ok(number) => in_range(number.into(), min, max),
                Err(_) => Err("Not a number of type INT".to_string()),
            },
            Kind::Long { min } => match value.parse::<i64>() {
                Ok(number) => in_range(number, min, i64::MAX),
                Err(_) => Err("Not a number of type LONG".to_string()),
            },
            Kind::Ratio => match value.parse::<f64>() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(()),
                Ok(ratio) if ratio < 0.0 => Err("Value must be at least 0".to_string()),
                Ok(_) => Err("Value must be no more than 1".to_string()),
                Err(_) => Err("Not a number of type DOUBLE".to_string()),
            },
            Kind::OneOf(valid) if valid.contains(&value) => Ok(()),
            Kind::OneOf(valid) => Err(one_of(valid)),
            // Their elements are judged one by one.
            Kind::ListOf(_) => Ok(()),
        }
    }
}

fn in_range(number: i64, min: i64, max: i64) -> Result<(), String> {
    match number {
        _ if number < min => Err(format!("Value must be at least {min}")),
        _ if number > max => Err(format!("Value must be no more than {max}")),
        _ => Ok(()),
    }
}

/// The elements of a comma-separated list.
pub fn elements(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|element| !element.is_empty())
}

/// What a topic's configs and the node's defaults add up to, ready for the path of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub max_message_bytes: usize,
    pub retention: Retention,
    pub cleanup: Cleanup,
    pub log_append_time: bool,
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    pub min_insync_replicas: usize,
    pub unclean_leader_election: bool,
}

impl Policy {
    pub fn new(configs: &Configs, defaults: &Configs) -> Policy {
        let value = |name: &str| effective(name, configs, defaults);
        let number = |name: &str| value(name).parse::<i64>().unwrap_or(i64::MAX);
        let cleanup: Vec<&str> = elements(value("cleanup.policy")).collect();
        let deletes = cleanup.contains(&"delete");
        let (ms, bytes) = match deletes {
            true => (number("retention.ms").max(-1), number("retention.bytes").max(-1)),
            false => (-1, -1),
        };
        let compact = cleanup.contains(&"compact").then(|| Compaction {
            dirty_ratio_per_mille: per_mille(value("min.cleanable.dirty.ratio")),
            max_lag_ms: number("max.compaction.lag.ms"),
            min_lag_ms: number("min.compaction.lag.ms"),
            delete_retention_ms: number("delete.retention.ms"),
            codec: Codec::named(value("compression.type")),
        });
        let bytes_max = limits::MESSAGE_BYTES_MAX as i64;
        Policy {
            max_message_bytes: number("max.message.bytes").clamp(0, bytes_max) as usize,
            retention: Retention { ms, bytes, yields_to_pressure: ms != -1 || bytes != -1 },
            cleanup: Cleanup { delete: deletes, compact },
            log_append_time: value("message.timestamp.type") == "LogAppendTime",
            timestamp_before_max_ms: number("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: number("message.timestamp.after.max.ms"),
            min_insync_replicas: number(MIN_INSYNC_REPLICAS).clamp(1, 1 << 15) as usize,
            unclean_leader_election: value("unclean.leader.election.enable")
                .eq_ignore_ascii_case("true"),
        }
    }
}

impl Policy {
    /// Whether records need a key.
    pub fn is_compacted(&self) -> bool {
        self.cleanup.compact.is_some()
    }
}

fn per_mille(ratio: &str) -> u32 {
    ratio.parse::<f64>().map_or(1000, |ratio| (ratio * 1000.0) as u32)
}

/// The value that holds: the topic's own, the node's default, or Kafka's.
pub fn effective<'a>(name: &str, configs: &'a Configs, defaults: &'a Configs) -> &'a str {
    let set = configs.get(name).or_else(|| defaults.get(name)).map(|value| value.trim());
    set.unwrap_or_else(|| definition(name).map_or("", |definition| definition.default))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str, valid: bool) {
        assert_eq!(validate(name, value).is_ok(), valid, "{name}={value}");
    }

    #[test]
    fn definitions_stand_in_order_and_their_defaults_are_valid() {
        assert!(DEFINITIONS.is_sorted_by(|a, b| a.name < b.name));
        for definition in DEFINITIONS {
            check(definition.name, definition.default, true);
        }
    }

    #[test]
    fn values_are_judged_as_kafka_judges_them() {
        check("retention.ms", "-1", true);
        check("retention.ms", "-2", false);
        check("retention.ms", "soon", false);
        check("cleanup.policy", "compact,delete", true);
        check("cleanup.policy", "", true);
        check("cleanup.policy", "remove", false);
        check("compression.type", "none", false);
        check("min.insync.replicas", "0", false);
        check("min.cleanable.dirty.ratio", "1.5", false);
        check("preallocate", "TRUE", true);
        check("no.such.config", "1", false);
    }

    #[test]
    fn what_is_wrong_is_said_in_kafkas_words() {
        for (name, value, why) in [
            (
                "cleanup.policy",
                "compact,drop",
                "Invalid value drop for configuration \
                cleanup.policy: String must be one of: compact, delete",
            ),
            (
                "cleanup.policy",
                "compact,,delete",
                "Configuration 'cleanup.policy' values must not \
                be empty.",
            ),
            (
                "retention.ms",
                "x",
                "Invalid value x for configuration retention.ms: Not a number \
                of type LONG",
            ),
            (
                "min.cleanable.dirty.ratio",
                "1.5",
                "Invalid value 1.5 for configuration \
                min.cleanable.dirty.ratio: Value must be no more than 1",
            ),
            (
                "max.message.bytes",
                "3000000000",
                "Invalid value 3000000000 for configuration \
                max.message.bytes: Not a number of type INT",
            ),
        ] {
            assert_eq!(validate(name, value), Err(why.into()));
        }
        let lags = |min: &str, max: &str| {
            let lag = |name: &str, ms: &str| (name.to_string(), ms.to_string());
            let own = [lag("min.compaction.lag.ms", min), lag("max.compaction.lag.ms", max)];
            validate_together(&Configs::from(own), &Configs::new())
        };
        assert_eq!(lags("5", "5"), Ok(()));
        let why = "conflict topic config setting min.compaction.lag.ms (10) > \
            max.compaction.lag.ms (5)";
        assert_eq!(lags("10", "5"), Err(why.into()));
    }

    #[test]
    fn a_topics_own_config_beats_the_nodes_default_which_beats_kafkas() {
        let defaults = Configs::from([("retention.ms".into(), "5".into())]);
        let own = Configs::from([("retention.ms".into(), "7".into())]);
        assert_eq!(Policy::new(&own, &defaults).retention.ms, 7);
        assert_eq!(Policy::new(&Configs::new(), &defaults).retention.ms, 5);
        assert_eq!(Policy::new(&Configs::new(), &Configs::new()).retention.ms, 604_800_000);
    }

    #[test]
    fn a_compacted_topic_does_not_expire() {
        let own = Configs::from([("cleanup.policy".into(), "compact".into())]);
        let policy = Policy::new(&own, &Configs::new());
        assert!(policy.is_compacted() && policy.retention.ms == -1 && policy.retention.bytes == -1);
    }
}
