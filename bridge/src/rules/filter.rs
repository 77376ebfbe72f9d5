//! MQTT topic filters, with names for the levels that they leave open.

/// A filter, level by level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    levels: Vec<Level>,
    /// A wildcard at the beginning does not match topics that begin with `$` (MQTT-4.7.2-1).
    dollar: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Is(String),
    One,
    /// `#`: this level and all that follow, or none.
    Rest,
}

/// Whether a topic filter is one that MQTT allows: `+` and `#` only as a whole level, `#` only as
/// the last, and not empty.
pub(crate) fn filter_is_valid(filter: &str) -> bool {
    if filter.is_empty() {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        let valid = match level {
            "+" => true,
            "#" => last,
            _ => !level.contains(['+', '#']),
        };
        if !valid {
            return false;
        }
    }
    true
}

/// What the levels that a pattern leaves open are called, in their order; `+` has no name, `#` is
/// `#`.
pub(super) type Names = Vec<Option<String>>;

impl Pattern {
    /// Compiles a filter in which `{name}` is a `+` with a name.
    pub fn new(filter: &str) -> Result<(Pattern, Names), String> {
        let (mut levels, mut names) = (Vec::new(), Names::new());
        let mut plain = String::new();
        for text in filter.split('/') {
            if !levels.is_empty() {
                plain.push('/');
            }
            let name = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            let level = match (text, name) {
                (_, Some(name)) => {
                    named(name, &names)?;
                    names.push(Some(name.into()));
                    Level::One
                }
                ("+", _) => {
                    names.push(None);
                    Level::One
                }
                ("#", _) => {
                    names.push(Some("#".into()));
                    Level::Rest
                }
                _ if text.contains(['{', '}']) => {
                    return Err(format!("in \"{text}\" a capture is not the whole level"));
                }
                _ => Level::Is(text.into()),
            };
            plain.push_str(if level == Level::One { "+" } else { text });
            levels.push(level);
        }
        if !filter_is_valid(&plain) {
            return Err(
                "not an MQTT topic filter: '+' and '#' stand for whole levels, '#' at the \
                        end only"
                    .into(),
            );
        }
        Ok((Pattern { levels, dollar: false }, names))
    }

    pub fn matches_dollar(&mut self) {
        self.dollar = true;
    }

    /// Whether the filter matches; `captures` is where the open levels lie in `topic`.
    pub fn matches(&self, topic: &str, captures: &mut Vec<(usize, usize)>) -> bool {
        captures.clear();
        let wild = !matches!(self.levels.first(), Some(Level::Is(_)));
        if wild && !self.dollar && topic.starts_with('$') {
            return false;
        }
        // Where the next level begins; `None` after the last.
        let mut at = Some(0);
        for level in &self.levels {
            if *level == Level::Rest {
                captures.push((at.unwrap_or(topic.len()), topic.len()));
                return true;
            }
            let Some(start) = at else { return false };
            let rest = &topic[start..];
            let end = rest.find('/').map_or(topic.len(), |len| start + len);
            match level {
                Level::Is(text) if *text != topic[start..end] => return false,
                Level::Is(_) => {}
                Level::One | Level::Rest => captures.push((start, end)),
            }
            at = (end < topic.len()).then_some(end + 1);
        }
        at.is_none()
    }
}

fn named(name: &str, names: &Names) -> Result<(), String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || !name.chars().all(word) {
        return Err(format!(
            "\"{{{name}}}\": a capture is named with letters, digits, '_' and '-'"
        ));
    }
    if matches!(name, "topic" | "client_id") {
        return Err(format!("{{{name}}} has a meaning already; name the capture otherwise"));
    }
    if names.iter().any(|other| other.as_deref() == Some(name)) {
        return Err(format!("{{{name}}} stands twice in the filter"));
    }
    Ok(())
}
