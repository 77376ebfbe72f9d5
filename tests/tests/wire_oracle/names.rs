//! Whether two messages hold the same values under the same names. Bytes alone would not tell a
//! `min_version` from a `max_version`.

use std::collections::{BTreeMap, BTreeSet};
use weir_core::error::ErrorCode;
use weir_core::wire::ApiKey;

/// Fields that `kafka-wire` has of versions that no release of Kafka speaks yet, and its own.
fn is_not_ours(key: ApiKey, name: &str) -> bool {
    let newer: &[&str] = match key {
        ApiKey::ApiVersions => &["cluster_id", "node_id"],
        ApiKey::InitProducerId => &[
            "enable2_pc",
            "keep_prepared_txn",
            "ongoing_txn_producer_id",
            "ongoing_txn_producer_epoch",
        ],
        ApiKey::TxnOffsetCommit => &["topic_id"],
        ApiKey::DeleteGroups => &["error_message"],
        _ => &[],
    };
    ["unknown_tagged_fields", "fields"].contains(&name) || newer.contains(&name)
}

/// A field's name, and the plain values that stand in it before the next field: numbers, strings,
/// flags. An empty string and a null count as nothing, so that defaults of absent fields agree.
#[derive(Debug, PartialEq)]
struct Entry {
    name: String,
    values: Vec<String>,
}

/// Compares what `{:#?}` prints of our message and of the one of `kafka-wire`.
pub fn check_same(key: ApiKey, what: &str, ours: &str, theirs: &str) {
    let (ours, mut theirs) = (entries(ours), entries(theirs));
    if key == ApiKey::TxnOffsetCommit {
        // A version that no release speaks yet renames it.
        let renamed = |entry: &&mut Entry| entry.name == "generation_id_or_member_epoch";
        theirs.iter_mut().find(renamed).into_iter().for_each(|e| e.name = "generation_id".into());
    }
    assert!(!ours.is_empty(), "{what}: has fields");
    let mut theirs = theirs.into_iter().peekable();
    for entry in &ours {
        let other = loop {
            let other = theirs.next().unwrap_or_else(|| panic!("{what}: only we have {entry:?}"));
            if other.name == entry.name {
                break other;
            }
            assert!(is_not_ours(key, &other.name), "{what}: {other:?}, we have {entry:?}");
        };
        assert_eq!(entry, &other, "{what}");
    }
    let rest: Vec<Entry> = theirs.filter(|other| !is_not_ours(key, &other.name)).collect();
    assert!(rest.is_empty(), "{what}: only they have {rest:?}");
}

/// What each field of a message has held, to see that the made-up messages are worth comparing.
#[derive(Default)]
pub struct Seen(BTreeMap<String, BTreeSet<String>>);

impl Seen {
    pub fn add(&mut self, debug: &str) {
        for line in debug.lines().map(str::trim) {
            if let Some((name, rest)) = line.split_once(": ") {
                self.0.entry(name.into()).or_default().insert(rest.into());
            }
        }
    }

    /// Fields that had one value only, structures aside.
    pub fn stuck(&self) -> Vec<&str> {
        let inner = |value: &String| value.ends_with('{') || value == "Records(";
        let stuck = |held: &BTreeSet<String>| held.len() < 2 && !held.iter().any(inner);
        self.0.iter().filter(|(_, held)| stuck(held)).map(|(name, _)| &**name).collect()
    }
}

fn entries(debug: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in debug.lines().map(str::trim) {
        let (name, rest) = match line.split_once(": ") {
            Some((name, rest)) if !name.contains(['"', '(']) => (Some(name), rest),
            _ => (None, line),
        };
        if let Some(name) = name {
            entries.push(Entry { name: name.into(), values: Vec::new() });
        }
        if let Some(entry) = entries.last_mut() {
            entry.values.extend(value(rest));
        }
    }
    entries.into_iter().map(Entry::in_our_words).collect()
}

/// The plain value in one line of `{:#?}`, without types' names and brackets.
fn value(line: &str) -> Option<String> {
    let line = line.trim_end_matches([',', '{', '[', '(', '}', ']', ')', ' ']);
    let last = line.rsplit('(').next().unwrap_or(line);
    let is_type = last.contains(char::is_uppercase) && last.contains(char::is_lowercase);
    let value = match last.split_once('"') {
        Some((_, string)) => string.trim_end_matches('"'),
        None if is_type => "",
        None => last,
    };
    (!value.is_empty()).then(|| value.into())
}

impl Entry {
    /// Our types print themselves as names and in hexadecimal, theirs as numbers.
    fn in_our_words(mut self) -> Entry {
        let numbers: Result<Vec<i16>, _> = self.values.iter().map(|value| value.parse()).collect();
        match numbers.as_deref() {
            Ok([code]) if self.name.ends_with("error_code") => {
                self.values = vec![ErrorCode(*code).to_string()];
            }
            Ok(bytes) if bytes.len() == 16 && self.name.ends_with("_id") => {
                self.values = vec![bytes.iter().map(|byte| format!("{byte:02x}")).collect()];
            }
            _ => {}
        }
        self
    }
}
