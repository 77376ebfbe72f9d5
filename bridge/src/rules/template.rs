//! Templates of topics and keys: text with captures in it.

use super::Message;
use super::filter::Names;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Capture(usize),
    Topic,
    ClientId,
    User(String),
}

impl Template {
    /// Compiles a template for a filter whose open levels have these names.
    pub fn new(text: &str, names: &Names) -> Result<Template, String> {
        let (mut parts, mut plain) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..at + 1];
            let after = &rest[at + 1..];
            if let Some(after) = after.strip_prefix(brace) {
                plain.push_str(brace);
                rest = after;
                continue;
            }
            let (name, after) = after
                .split_once('}')
                .filter(|_| brace == "{")
                .ok_or_else(|| format!("a brace has no partner in \"{text}\""))?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::new(name, names)?);
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        if parts.is_empty() {
            return Err("it is empty".into());
        }
        Ok(Template(parts))
    }

    /// The text, if it is the same for every message.
    pub fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    pub fn is_topic(&self) -> bool {
        self.0 == [Part::Topic]
    }

    pub fn is_client_id(&self) -> bool {
        self.0 == [Part::ClientId]
    }

    /// Appends what the template says for a message.
    pub fn render(&self, message: &Message, captures: &[(usize, usize)], out: &mut String) {
        for part in &self.0 {
            out.push_str(match part {
                Part::Text(text) => text,
                Part::Capture(number) => {
                    let (start, end) = captures[*number];
                    &message.topic[start..end]
                }
                Part::Topic => message.topic,
                Part::ClientId => message.client_id,
                Part::User(name) => message.properties.user(name).unwrap_or_default(),
            });
        }
    }
}

impl Part {
    fn new(name: &str, names: &Names) -> Result<Part, String> {
        if let Some(number) = names.iter().position(|other| other.as_deref() == Some(name)) {
            return Ok(Part::Capture(number));
        }
        match (name, name.strip_prefix("user:")) {
            ("topic", _) => Ok(Part::Topic),
            ("client_id", _) => Ok(Part::ClientId),
            (_, Some(user)) if !user.is_empty() => Ok(Part::User(user.into())),
            _ => Err(format!(
                "{{{name}}} is not in the filter; there are {{topic}}, {{client_id}}, \
                 {{user:name}} and the filter's own captures"
            )),
        }
    }
}
