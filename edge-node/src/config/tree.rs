//! Settings as they were written, each with where it was: a file's line, the environment, a flag.
//!
//! Later sources replace earlier ones: file, then environment, then `--set`.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use toml::de::{DeTable, DeValue};

pub type Table = BTreeMap<String, Value>;

#[derive(Clone, Debug)]
pub struct Value {
    pub kind: Kind,
    pub source: Source,
}

#[derive(Clone, Debug)]
pub enum Kind {
    /// Text of the environment or of a flag: what it means is up to the key.
    Raw(String),
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Array(Vec<Value>),
    Table(Table),
    Datetime,
}

#[derive(Clone, Debug)]
pub enum Source {
    File { name: Rc<str>, line: usize },
    Environment(String),
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File { name, line } => write!(f, "{name}:{line}"),
            Source::Environment(name) => f.write_str(name),
            Source::Flag(key) => write!(f, "--set {key}"),
        }
    }
}

impl Kind {
    /// What it is, for "expected a string, found ...".
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Raw(_) | Kind::String(_) => "a string",
            Kind::Integer(_) => "a number",
            Kind::Float(_) => "a number with a fraction",
            Kind::Boolean(_) => "true or false",
            Kind::Array(_) => "a list",
            Kind::Table(_) => "a section",
            Kind::Datetime => "a date",
        }
    }
}

/// Reads a TOML file's text.
pub fn parse(name: &str, text: &str) -> Result<Table, String> {
    let file = File { name: name.into(), text };
    match DeTable::parse(text) {
        Ok(table) => Ok(file.table(table.into_inner())),
        Err(error) => {
            let line = error.span().map_or(1, |span| file.line(span.start));
            Err(format!("{name}:{line}: {}", error.message()))
        }
    }
}

struct File<'a> {
    name: Rc<str>,
    text: &'a str,
}

impl File<'_> {
    fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count()
    }

    fn table(&self, table: DeTable<'_>) -> Table {
        let entry = |(key, value): (toml::Spanned<_>, toml::Spanned<DeValue<'_>>)| {
            // A section's own line is where its name stands, a value's likewise.
            let source =
                Source::File { name: self.name.clone(), line: self.line(key.span().start) };
            let kind = self.kind(value.into_inner(), &source);
            let key: std::borrow::Cow<'_, str> = key.into_inner();
            (key.into_owned(), Value { kind, source })
        };
        table.into_iter().map(entry).collect()
    }

    fn kind(&self, value: DeValue<'_>, source: &Source) -> Kind {
        match value {
            DeValue::String(text) => Kind::String(text.into_owned()),
            DeValue::Integer(number) => {
                let digits = number.as_str().replace('_', "");
                let parsed = i64::from_str_radix(&digits, number.radix());
                // Beyond 64 bits: no setting takes that, and as text the error shows it.
                parsed.map_or_else(|_| Kind::String(digits), Kind::Integer)
            }
            DeValue::Float(number) => number
                .as_str()
                .parse()
                .map_or_else(|_| Kind::String(number.as_str().to_string()), Kind::Float),
            DeValue::Boolean(value) => Kind::Boolean(value),
            DeValue::Datetime(_) => Kind::Datetime,
            DeValue::Array(items) => {
                let item = |item: toml::Spanned<DeValue<'_>>| {
                    let line = self.line(item.span().start);
                    let is_table = matches!(item.get_ref(), DeValue::Table(_));
                    let source = if is_table {
                        Source::File { name: self.name.clone(), line }
                    } else {
                        source.clone()
                    };
                    Value { kind: self.kind(item.into_inner(), &source), source }
                };
                Kind::Array(items.into_iter().map(item).collect())
            }
            DeValue::Table(table) => Kind::Table(self.table(table)),
        }
    }
}

/// Puts `text` at a dotted key, as in `kafka.listen`. Numbers choose of a list: `mirror.0.prefix`.
/// What follows `topic_defaults.` is one key, because Kafka's keys have dots themselves.
pub fn set(table: &mut Table, key: &str, text: &str, source: Source) -> Result<(), String> {
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    let Some(rest) = rest else {
        table.insert(first.into(), Value { kind: Kind::Raw(text.into()), source });
        return Ok(());
    };
    let section = table
        .entry(first.into())
        .or_insert_with(|| Value { kind: Kind::Table(Table::new()), source: source.clone() });
    if first == "topic_defaults" {
        if let Kind::Table(table) = &mut section.kind {
            table.insert(rest.into(), Value { kind: Kind::Raw(text.into()), source });
        }
        return Ok(());
    }
    set_inside(section, rest, text, source)
}

fn set_inside(section: &mut Value, key: &str, text: &str, source: Source) -> Result<(), String> {
    let (first, rest) = key.split_once('.').unwrap_or((key, ""));
    let index = first.parse::<usize>().ok();
    if let (Some(_), Kind::Table(table)) = (index, &section.kind)
        && table.is_empty()
    {
        section.kind = Kind::Array(Vec::new());
    }
    match (&mut section.kind, index) {
        (Kind::Table(table), _) => set(table, key, text, source),
        (Kind::Array(items), Some(index)) if index <= items.len() && !rest.is_empty() => {
            if index == items.len() {
                items.push(Value { kind: Kind::Table(Table::new()), source: source.clone() });
            }
            set_inside(&mut items[index], rest, text, source)
        }
        (Kind::Array(items), _) => Err(format!(
            "{source}: a list needs a number of 0 to {} after its name, and then a key",
            items.len()
        )),
        (_, _) => Err(format!("{source}: {key} is inside of something that is no section")),
    }
}

/// Reads flag or environment text as TOML where a key wants a list or a section.
pub fn reparse(text: &str, source: &Source) -> Option<Kind> {
    let document = format!("value = {text}");
    let file = File { name: "".into(), text: &document };
    let table = DeTable::parse(&document).ok()?.into_inner();
    let (_, value) = table.into_iter().next()?;
    let mut kind = file.kind(value.into_inner(), source);
    relocate(&mut kind, source);
    Some(kind)
}

fn relocate(kind: &mut Kind, source: &Source) {
    let each = |value: &mut Value| {
        value.source = source.clone();
        relocate(&mut value.kind, source);
    };
    match kind {
        Kind::Array(items) => items.iter_mut().for_each(each),
        Kind::Table(table) => table.values_mut().for_each(each),
        _ => {}
    }
}
