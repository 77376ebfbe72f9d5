//! What an operator may write in a `[[mirror]]` section.

use regex_lite::Regex;
use serde::{Deserialize, Serialize};

/// One route: some topics of this cluster to one other cluster. `[[mirror]]`, any number of times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Part of the transactional id and of the group that holds the positions: keep it. Letters,
    /// digits, `.`, `_` and `-`.
    pub name: String,
    /// `host:port` of some brokers of the target.
    pub bootstrap: Vec<String>,
    /// Regular expressions over whole topic names, as in MirrorMaker 2. Internal topics (`__…`)
    /// never match.
    pub topics: Vec<String>,
    /// Put in front of the topic's name on the target. Empty keeps the names.
    #[serde(default)]
    pub prefix: String,
    /// Routes with a higher number go first; the others keep a small share.
    #[serde(default)]
    pub priority: i32,
    /// Budget of bytes on the link; 0 is no limit.
    #[serde(default)]
    pub bytes_per_second: u64,
    /// Where a partition starts that was never mirrored.
    #[serde(default)]
    pub start: StartAt,
    /// `false` for a target without transactions: records may then arrive twice after a failure.
    #[serde(default = "yes")]
    pub transactional: bool,
    /// How long a transaction waits for company before it is sent, in milliseconds.
    #[serde(default = "linger_ms")]
    pub linger_ms: u64,
    /// The most that one transaction carries, in bytes of records before compression.
    #[serde(default = "transaction_bytes")]
    pub transaction_bytes: usize,
    /// Compressed batches of at least this size go through as they came, without provenance
    /// headers. Needs a prefix: without one, headers are all that stops a loop. 0 lets none
    /// through.
    #[serde(default = "pass_through_bytes")]
    pub pass_through_bytes: usize,
    /// Replicas of topics that are created on the target; -1 is the target's own default.
    #[serde(default = "replication_factor")]
    pub replication_factor: i16,
    /// How long the target may be silent on a request before the link counts as hung, in
    /// milliseconds.
    #[serde(default = "request_timeout_ms")]
    pub request_timeout_ms: u64,
}

/// Where a partition starts that was never mirrored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartAt {
    #[default]
    Earliest,
    Latest,
}

/// The topics of a route, compiled.
#[derive(Clone, Debug)]
pub struct TopicFilter(Vec<Regex>);

fn yes() -> bool {
    true
}

fn linger_ms() -> u64 {
    500
}

fn transaction_bytes() -> usize {
    1 << 20
}

fn pass_through_bytes() -> usize {
    16 << 10
}

fn replication_factor() -> i16 {
    -1
}

fn request_timeout_ms() -> u64 {
    20_000
}

/// The least transaction: smaller ones cost more round trips than they carry.
pub(crate) const TRANSACTION_BYTES_MIN: usize = 16 << 10;

/// The largest transaction: what is fetched ahead and in flight is twice this, for each route.
const TRANSACTION_BYTES_MAX: usize = 8 << 20;

impl Route {
    /// What is wrong with the section, as a sentence that names the key.
    pub fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > 100 || !name.chars().all(legal) {
            return Err(format!(
                "mirror.name {name:?} must have 1 to 100 letters, digits, '.', '_' or '-'"
            ));
        }
        if self.bootstrap.is_empty() {
            return Err(format!("mirror {name}: bootstrap must name a broker as \"host:port\""));
        }
        for address in &self.bootstrap {
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none() {
                return Err(format!("mirror {name}: bootstrap {address:?} is not \"host:port\""));
            }
        }
        if !self.prefix.chars().all(legal) || self.prefix.len() > 100 {
            return Err(format!(
                "mirror {name}: prefix {:?} may have letters, digits, '.', '_' and '-'",
                self.prefix
            ));
        }
        let sizes = TRANSACTION_BYTES_MIN..=TRANSACTION_BYTES_MAX;
        if !sizes.contains(&self.transaction_bytes) {
            return Err(format!(
                "mirror {name}: transaction_bytes must be {} to {}",
                sizes.start(),
                sizes.end()
            ));
        }
        if !(100..=600_000).contains(&self.request_timeout_ms) {
            return Err(format!("mirror {name}: request_timeout_ms must be 100 to 600000"));
        }
        if self.linger_ms > 30_000 {
            return Err(format!("mirror {name}: linger_ms must be at most 30000"));
        }
        self.filter().map(|_| ())
    }

    /// The patterns, compiled; an error names the one that is no regular expression.
    pub fn filter(&self) -> Result<TopicFilter, String> {
        if self.topics.is_empty() {
            return Err(format!("mirror {}: topics must name at least one pattern", self.name));
        }
        let compile = |pattern: &String| {
            Regex::new(&format!("^(?:{pattern})$")).map_err(|e| {
                format!("mirror {}: topics {pattern:?} is no regular expression: {e}", self.name)
            })
        };
        self.topics.iter().map(compile).collect::<Result<_, _>>().map(TopicFilter)
    }
}

impl TopicFilter {
    /// Whether a topic is mirrored. Internal topics never are: they mean something to their own
    /// cluster only.
    pub fn matches(&self, topic: &str) -> bool {
        !topic.starts_with("__") && self.0.iter().any(|pattern| pattern.is_match(topic))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn route(topics: &[&str]) -> Route {
        Route {
            name: "central".into(),
            bootstrap: vec!["127.0.0.1:9092".into()],
            topics: topics.iter().map(|t| t.to_string()).collect(),
            prefix: "gw1.".into(),
            priority: 0,
            bytes_per_second: 0,
            start: StartAt::Earliest,
            transactional: true,
            linger_ms: linger_ms(),
            transaction_bytes: transaction_bytes(),
            pass_through_bytes: pass_through_bytes(),
            replication_factor: replication_factor(),
            request_timeout_ms: request_timeout_ms(),
        }
    }

    #[test]
    fn patterns_match_whole_names_and_never_internal_topics() {
        let filter = route(&["sensors", "plant-.*|mill", ".*_offsets"]).filter().unwrap();
        for topic in ["sensors", "plant-", "plant-7", "mill", "my_offsets"] {
            assert!(filter.matches(topic), "{topic}");
        }
        for topic in ["sensors2", "my.sensors", "plant", "mills", "__consumer_offsets"] {
            assert!(!filter.matches(topic), "{topic}");
        }
    }

    #[test]
    fn a_wrong_section_is_refused_with_the_name_of_the_key() {
        let wrong = |change: fn(&mut Route), key: &str| {
            let mut route = route(&["sensors"]);
            assert_eq!(route.check(), Ok(()));
            change(&mut route);
            let message = route.check().unwrap_err();
            assert!(message.contains(key), "{message}");
        };
        wrong(|r| r.name = "a b".into(), "name");
        wrong(|r| r.bootstrap.clear(), "bootstrap");
        wrong(|r| r.bootstrap[0] = "kafka".into(), "bootstrap");
        wrong(|r| r.topics.clear(), "topics");
        wrong(|r| r.topics[0] = "(".into(), "topics");
        wrong(|r| r.prefix = "a/".into(), "prefix");
        wrong(|r| r.transaction_bytes = 1, "transaction_bytes");
        wrong(|r| r.request_timeout_ms = 1, "request_timeout_ms");
    }
}
