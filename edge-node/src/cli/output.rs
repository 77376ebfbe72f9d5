//! What commands print: tables for people, JSON for programs.

use super::Failure;
use serde::Serialize;
use std::io::{self, ErrorKind, IsTerminal, Write};

/// A table of text: the first row is the head, columns of numbers are aligned to the right.
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&'static str]) -> Table {
        Table { head: head.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| plain(&cell)).collect();
        assert_eq!(cells.len(), self.head.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    pub fn render(&self, bold: bool) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(self.head[column].len())
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let is_number = |text: &String| {
            text == "-" || text.starts_with(|c: char| c.is_ascii_digit() || c == '-')
        };
        let right: Vec<bool> = (0..self.head.len())
            .map(|c| !self.rows.is_empty() && self.rows.iter().all(|row| is_number(&row[c])))
            .collect();
        let mut out = String::new();
        let mut line = |cells: &mut dyn Iterator<Item = &str>, bold: bool| {
            let mut text = String::new();
            for (column, cell) in cells.enumerate() {
                let space = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
                let gap = if column > 0 { "  " } else { "" };
                let (before, after) = if right[column] { (&*space, "") } else { ("", &*space) };
                text += &format!("{gap}{before}{cell}{after}");
            }
            let text = text.trim_end();
            out += &if bold { format!("\x1b[1m{text}\x1b[0m\n") } else { format!("{text}\n") };
        };
        line(&mut self.head.iter().copied(), bold);
        for row in &self.rows {
            line(&mut row.iter().map(String::as_str), false);
        }
        out
    }

    pub fn print(&self) -> Result<(), Failure> {
        print(&self.render(io::stdout().is_terminal()))
    }
}

/// Text without what could drive a terminal.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Bytes as text, for people.
pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Prints to standard output. Whoever closed it, as `head` does, has seen enough: that ends the
/// process and is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        result => {
            result.map_err(|error| Failure::Failed(format!("cannot write the output: {error}")))
        }
    }
}

pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::Failed(format!("cannot write JSON: {error}")))?;
    print(&format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_numbers_are_aligned_to_the_right_and_control_characters_are_gone() {
        let mut table = Table::new(&["TOPIC", "BYTES"]);
        table.row(["a".into(), "7".into()]);
        table.row(["long\x1b[31m".into(), "1,000".into()]);
        let lines = ["TOPIC      BYTES", "a              7", "long\u{fffd}[31m  1,000"];
        assert_eq!(table.render(false), format!("{}\n", lines.join("\n")));
    }
}
