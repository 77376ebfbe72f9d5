//! Reads one section: each getter names a known key, checks its value, and what no getter asked for
//! is an error that names the nearest known key.

use super::tree::{Kind, Source, Table, Value, reparse};
use crate::units;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

/// Everything that is wrong, so that one run shows all of it.
pub type Errors = Rc<RefCell<Vec<String>>>;

pub struct Section {
    /// As in `kafka` or `mirror[0]`; empty for the whole.
    path: String,
    /// Where the section begins.
    source: Option<Source>,
    values: Table,
    known: Vec<&'static str>,
    errors: Errors,
}

impl Section {
    pub fn root(values: Table, errors: Errors) -> Section {
        Section { path: String::new(), source: None, values, known: Vec::new(), errors }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.values.remove(key)
    }

    /// Says what is wrong with a value.
    fn wrong(&self, key: &str, source: &Source, expected: &str, found: &str) {
        let path = self.path_of(key);
        let error = format!("{source}: {path} must be {expected}, not {found}");
        self.errors.borrow_mut().push(error);
    }

    /// Says what is wrong with the section as a whole.
    pub fn fail(&self, sentence: &str) {
        let at = self.source.as_ref().map_or(String::new(), |source| format!("{source}: "));
        self.errors.borrow_mut().push(format!("{at}{}: {sentence}", self.path));
    }

    fn parsed<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let Value { kind, source } = self.take(key)?;
        let text = match &kind {
            Kind::Raw(text) | Kind::String(text) => unquote(text).to_string(),
            Kind::Integer(number) => number.to_string(),
            Kind::Float(number) => number.to_string(),
            Kind::Boolean(value) => value.to_string(),
            other => {
                self.wrong(key, &source, expected, other.name());
                return None;
            }
        };
        let value = parse(&text);
        if value.is_none() {
            self.wrong(key, &source, expected, &format!("\"{text}\""));
        }
        value
    }

    /// A value that has its own way of being written; `expected` completes "must be ...".
    pub fn text<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        self.parsed(key, expected, parse)
    }

    pub fn string(&mut self, key: &'static str) -> Option<String> {
        let Value { kind, source } = self.take(key)?;
        match kind {
            Kind::Raw(text) | Kind::String(text) => Some(unquote(&text).to_string()),
            other => {
                self.wrong(key, &source, "a string", other.name());
                None
            }
        }
    }

    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let expected = if *range.end() == i64::MAX {
            format!("a whole number of at least {}", range.start())
        } else {
            format!("a whole number from {} to {}", range.start(), range.end())
        };
        self.parsed(key, &expected, |text| text.parse().ok().filter(|n| range.contains(n)))
    }

    pub fn float(&mut self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        self.parsed(key, &expected, |text| text.parse().ok().filter(|n| range.contains(n)))
    }

    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        self.parsed(key, "true or false", |text| text.parse().ok())
    }

    /// A size such as "8GiB", within bounds in bytes.
    pub fn bytes(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let (start, end) = (*range.start(), *range.end());
        let bounds = match (start, end) {
            (start, u64::MAX) => format!("of at least {}", units::format_bytes(start)),
            (start, end) => {
                format!("from {} to {}", units::format_bytes(start), units::format_bytes(end))
            }
        };
        let expected = format!("a size {bounds}, such as \"8GiB\"");
        self.parsed(key, &expected, |text| units::parse_bytes(text).filter(|n| range.contains(n)))
    }

    /// A duration such as "30s", within bounds.
    pub fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let expected =
            format!("a duration from {:?} to {:?}, such as \"30s\"", range.start(), range.end());
        self.parsed(key, &expected, |text| {
            units::parse_duration(text).filter(|d| range.contains(d))
        })
    }

    /// Milliseconds, as a number or as a duration such as "30s".
    pub fn milliseconds(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<u64> {
        let expected = format!("milliseconds from 0 to {}", range.end().as_millis());
        self.parsed(key, &expected, |text| {
            let bare = text.parse().ok().map(Duration::from_millis);
            let duration = bare.or_else(|| units::parse_duration(text))?;
            range.contains(&duration).then_some(duration.as_millis() as u64)
        })
    }

    /// A list of strings; flags and environment may separate them by commas.
    pub fn strings(&mut self, key: &'static str) -> Option<Vec<String>> {
        let Value { kind, source } = self.take(key)?;
        let items = match kind {
            Kind::Array(items) => items,
            Kind::Raw(text) => match reparse(&text, &source) {
                Some(Kind::Array(items)) => items,
                _ => return Some(text.split(',').map(|part| part.trim().to_string()).collect()),
            },
            other => {
                self.wrong(key, &source, "a list of strings", other.name());
                return None;
            }
        };
        let mut strings = Vec::new();
        for item in items {
            match item.kind {
                Kind::String(text) => strings.push(text),
                other => self.wrong(key, &source, "a list of strings", other.name()),
            }
        }
        Some(strings)
    }

    /// A section inside; empty when it is not there.
    pub fn section(&mut self, key: &'static str) -> Section {
        let path = self.path_of(key);
        let value = self.take(key);
        let source = value.as_ref().map(|value| value.source.clone());
        let values = match value.map(|value| expand(value.kind, &value.source)) {
            None => Table::new(),
            Some(Kind::Table(table)) => table,
            Some(other) => {
                let at = source.as_ref().expect("a value has a source");
                self.wrong(key, at, &format!("a section [{path}]"), other.name());
                Table::new()
            }
        };
        Section { path, source, values, known: Vec::new(), errors: self.errors.clone() }
    }

    /// A list of sections, as in `[[mirror]]`.
    pub fn sections(&mut self, key: &'static str) -> Vec<Section> {
        let path = self.path_of(key);
        let Some(Value { kind, source }) = self.take(key) else { return Vec::new() };
        let expected = format!("a list of sections [[{path}]]");
        let items = match expand(kind, &source) {
            Kind::Array(items) => items,
            other => {
                self.wrong(key, &source, &expected, other.name());
                return Vec::new();
            }
        };
        let mut sections = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            match item.kind {
                Kind::Table(values) => sections.push(Section {
                    path: format!("{path}[{index}]"),
                    source: Some(item.source),
                    values,
                    known: Vec::new(),
                    errors: self.errors.clone(),
                }),
                other => self.wrong(key, &item.source, &expected, other.name()),
            }
        }
        sections
    }

    /// Takes all keys of a section whose keys are not ours, such as Kafka's topic configs; `check`
    /// says what is wrong with a key and its value.
    pub fn into_strings(
        mut self,
        check: impl Fn(&str, &str) -> Result<(), String>,
    ) -> BTreeMap<String, String> {
        let mut strings = BTreeMap::new();
        for (key, Value { kind, source }) in std::mem::take(&mut self.values) {
            let text = match kind {
                Kind::Raw(text) | Kind::String(text) => text,
                Kind::Integer(number) => number.to_string(),
                Kind::Float(number) => number.to_string(),
                Kind::Boolean(value) => value.to_string(),
                other => {
                    let hint = format!(
                        "{} (Kafka's names have dots: write \"{key}...\" in quotes)",
                        other.name()
                    );
                    self.wrong(&key, &source, "a string or a number", &hint);
                    continue;
                }
            };
            if let Err(sentence) = check(&key, &text) {
                let error = format!("{source}: {}: {sentence}", self.path_of(&key));
                self.errors.borrow_mut().push(error);
            }
            strings.insert(key, text);
        }
        strings
    }

    /// What is left is not known.
    pub fn finish(self) {
        for (key, value) in &self.values {
            let path = self.path_of(key);
            let known: Vec<String> = self.known.iter().map(|known| self.path_of(known)).collect();
            let hint = nearest(&path, &known);
            let error = format!("{}: unknown key \"{path}\"{hint}", value.source);
            self.errors.borrow_mut().push(error);
        }
    }
}

/// `; did you mean "..."?`, or all there are when none is near.
pub fn nearest(key: &str, known: &[String]) -> String {
    let near = known.iter().min_by_key(|known| strsim::damerau_levenshtein(key, known));
    match near {
        Some(near) if strsim::jaro_winkler(key, near) > 0.85 => {
            format!("; did you mean \"{near}\"?")
        }
        Some(_) => format!("; there are {}", known.join(", ")),
        None => String::new(),
    }
}

fn expand(kind: Kind, source: &Source) -> Kind {
    match kind {
        Kind::Raw(text) => reparse(&text, source).unwrap_or(Kind::Raw(text)),
        kind => kind,
    }
}

/// Flags may quote a string as TOML does.
fn unquote(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}
