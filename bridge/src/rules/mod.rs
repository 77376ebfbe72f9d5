//! From an MQTT message to its Kafka topic and key: ordered rules, the first match wins.
//!
//! A message is never dropped for its name. What Kafka does not allow in a topic's name is
//! replaced: `/` by `.`, anything else by `_`, a name longer than 249 bytes is cut, an empty one is
//! `_`, and one that begins with `__`, as the gateway's own topics do, gets `mqtt` in front. Two
//! MQTT topics that so come to share a Kafka topic are told apart by the key and by the header
//! `mqtt.topic`.

mod filter;
mod template;

use crate::mqtt::Properties;
use crate::settings;
use filter::Pattern;
use template::Template;

pub(crate) use filter::filter_is_valid;

/// The rules of a configuration, compiled. The last one is the default rule and matches everything.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    pattern: Pattern,
    topic: Template,
    key: Template,
    partitions: u32,
}

/// What the rules look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub topic: &'a str,
    pub client_id: &'a str,
    pub properties: Properties<'a>,
}

/// What the rules found. Kept by the caller from message to message, so that nothing is allocated.
#[derive(Debug, Default)]
pub(crate) struct Mapped {
    /// The number of the rule that matched.
    pub rule: usize,
    /// The Kafka topic. Left alone if the rule has a topic of its own, see [`Rules::topic`].
    pub topic: String,
    pub key: Key,
    captures: Vec<(usize, usize)>,
}

/// A record's key: what it is most often is not copied.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Key {
    #[default]
    Topic,
    ClientId,
    Other(String),
}

impl Rules {
    /// Compiles the rules, or says in a sentence what is wrong with which.
    pub fn new(settings: &settings::Mqtt) -> Result<Rules, String> {
        let mut rules = Vec::with_capacity(settings.rule.len() + 1);
        for (number, rule) in settings.rule.iter().enumerate() {
            let compiled = Rule::new(rule).map_err(|what| {
                format!("mqtt.rule number {} (filter \"{}\"): {what}", number + 1, rule.filter)
            })?;
            rules.push(compiled);
        }
        let last = settings::Rule {
            filter: "#".into(),
            topic: settings.default_topic.replace('{', "{{").replace('}', "}}"),
            partitions: settings.default_partitions,
            ..settings::Rule::default()
        };
        let mut last = Rule::new(&last).map_err(|what| format!("mqtt.default_topic: {what}"))?;
        last.pattern.matches_dollar();
        rules.push(last);
        Ok(Rules { rules })
    }

    /// How many rules there are, the default rule included.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// The topic of a rule that always has the same.
    pub fn topic(&self, rule: usize) -> Option<&str> {
        self.rules[rule].topic.literal()
    }

    pub fn partitions(&self, rule: usize) -> u32 {
        self.rules[rule].partitions
    }

    /// Finds topic and key of a message.
    pub fn map(&self, message: &Message, mapped: &mut Mapped) {
        for (number, rule) in self.rules.iter().enumerate() {
            if rule.pattern.matches(message.topic, &mut mapped.captures) {
                mapped.rule = number;
                rule.fill(message, mapped);
                return;
            }
        }
        unreachable!("the default rule matches every topic");
    }
}

impl Rule {
    fn new(settings: &settings::Rule) -> Result<Rule, String> {
        let (pattern, names) = Pattern::new(&settings.filter)?;
        let topic = Template::new(&settings.topic, &names).map_err(|e| format!("topic: {e}"))?;
        let key = Template::new(&settings.key, &names).map_err(|e| format!("key: {e}"))?;
        if let Some(name) = topic.literal() {
            let mut allowed = String::new();
            topic_name(name, &mut allowed);
            if allowed != name {
                return Err(format!(
                    "\"{name}\" cannot be a Kafka topic: letters, digits, '.', '_', '-', at most \
                     249, not beginning with \"__\"; \"{allowed}\" would do"
                ));
            }
        }
        if !(1..=1_000).contains(&settings.partitions) {
            return Err("partitions has to be between 1 and 1000".into());
        }
        Ok(Rule { pattern, topic, key, partitions: settings.partitions })
    }

    fn fill(&self, message: &Message, mapped: &mut Mapped) {
        if self.topic.literal().is_none() {
            let mut raw = String::new();
            self.topic.render(message, &mapped.captures, &mut raw);
            mapped.topic.clear();
            topic_name(&raw, &mut mapped.topic);
        }
        if self.key.is_topic() {
            mapped.key = Key::Topic;
        } else if self.key.is_client_id() {
            mapped.key = Key::ClientId;
        } else {
            let mut key = match std::mem::take(&mut mapped.key) {
                Key::Other(key) => key,
                Key::Topic | Key::ClientId => String::new(),
            };
            key.clear();
            self.key.render(message, &mapped.captures, &mut key);
            mapped.key = if key.is_empty() { Key::Topic } else { Key::Other(key) };
        }
    }
}

/// Makes a name that Kafka allows.
fn topic_name(raw: &str, out: &mut String) {
    const NAME_BYTES_MAX: usize = weir_core::limits::TOPIC_NAME_BYTES_MAX;
    if raw.starts_with("__") {
        out.push_str("mqtt");
    }
    for character in raw.chars() {
        if out.len() == NAME_BYTES_MAX {
            break;
        }
        out.push(match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' => character,
            '/' => '.',
            _ => '_',
        });
    }
    if matches!(out.as_str(), "" | "." | "..") {
        out.clear();
        out.push('_');
    }
}

#[cfg(test)]
mod tests;
