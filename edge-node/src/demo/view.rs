//! What the demo shows: a screen on a terminal, a line each second elsewhere.

use super::World;
use crate::units::{format_bytes, format_count};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// How many looks the little chart shows.
const CHART: usize = 60;

pub struct View {
    live: bool,
    lines_drawn: usize,
    rates: Vec<u64>,
    acked_before: u64,
    read_before: u64,
}

impl View {
    pub fn new() -> View {
        let live = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        View { live, lines_drawn: 0, rates: Vec::new(), acked_before: 0, read_before: 0 }
    }

    /// How often to draw.
    pub fn interval(&self) -> Duration {
        Duration::from_millis(if self.live { 500 } else { 1_000 })
    }

    pub fn draw(&mut self, world: &World) {
        let seconds = self.interval().as_secs_f64();
        let ledger = &world.ledger;
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as u64;
        let (acked, read) =
            (rate(ledger.acked, self.acked_before), rate(ledger.read, self.read_before));
        (self.acked_before, self.read_before) = (ledger.acked, ledger.read);
        self.rates.push(acked);
        if self.rates.len() > CHART {
            self.rates.remove(0);
        }
        let text =
            if self.live { self.screen(world, acked, read) } else { line(world, acked, read) };
        // Nobody looks any more when standard output is closed; the demo's end still says its
        // piece.
        let _ = io::stdout().write_all(text.as_bytes());
        let _ = io::stdout().flush();
    }

    fn screen(&mut self, world: &World, acked: u64, read: u64) -> String {
        const BOLD: &str = "\x1b[1m";
        const SOFT: &str = "\x1b[2m";
        const WATER: &str = "\x1b[36m";
        const END: &str = "\x1b[0m";
        let ledger = &world.ledger;
        let mut lines = vec![format!(
            "{BOLD}{WATER}weir demo{END}  {} sensors → MQTT → flash log → consumer group of {}   \
             {SOFT}{} s, Ctrl-C ends{END}",
            world.sensors,
            world.members.len(),
            world.started.elapsed().as_secs(),
        )];
        lines.push(String::new());
        lines.push(format!(
            "{BOLD}  sensors{END}   {:>9} connected   {:>9} acknowledged  {:>7}/s   {}",
            ledger.connected,
            format_count(ledger.acked),
            format_count(acked),
            latency("publish to ack", &ledger.ack_latency),
        ));
        lines.push(format!("            {WATER}{}{END}", chart(&self.rates)));
        lines.push(format!(
            "{BOLD}  group{END}     {:>9} lag         {:>9} read          {:>7}/s   {}",
            format_count(ledger.missing()),
            format_count(ledger.read),
            format_count(read),
            latency("publish to read", &ledger.read_latency),
        ));
        for (at, member) in world.members.iter().enumerate() {
            let partitions: Vec<String> = member.partitions.iter().map(i32::to_string).collect();
            lines.push(format!(
                "    member {}  partitions {:<12} {:>9} read",
                at + 1,
                if partitions.is_empty() { "joining".into() } else { partitions.join(" ") },
                format_count(member.read),
            ));
        }
        if let Some(flash) = &world.flash {
            lines.push(format!(
                "{BOLD}  flash{END}     {} written for {} of records ({:.1} bytes each), {} \
                 flushes, the last in {:.1} ms, {} free",
                format_bytes(flash.written_bytes),
                format_bytes(flash.payload_bytes),
                flash.written_bytes as f64 / flash.payload_bytes.max(1) as f64,
                format_count(flash.flushes),
                flash.flush_ms_last,
                format_bytes(flash.free_bytes),
            ));
        }
        lines.push(format!("{SOFT}  last       {}{END}", ledger.last));
        lines.push(format!("{SOFT}  try        {}{END}", world.hint));
        let mut text = String::new();
        if self.lines_drawn > 0 {
            let _ = write!(text, "\x1b[{}A", self.lines_drawn);
        }
        let columns = rustix::termios::tcgetwinsize(io::stdout()).map_or(80, |size| size.ws_col);
        for line in &lines {
            let _ = write!(text, "\r\x1b[2K{}\n", fit(line, usize::from(columns.max(20))));
        }
        self.lines_drawn = lines.len();
        text
    }

    /// The last word: whether everything was read.
    pub fn end(&self, world: &World, data: Option<&str>) {
        let ledger = &world.ledger;
        let (missing, good) = (ledger.missing(), ledger.missing() == 0 && ledger.acked > 0);
        let (mark, end) = match (self.live, good) {
            (false, _) => ("", ""),
            (true, true) => ("\x1b[32m", "\x1b[0m"),
            (true, false) => ("\x1b[31m", "\x1b[0m"),
        };
        let mut text = format!(
            "\n{mark}{} readings acknowledged, {} read, {} missing, {} repeated{end}\n",
            format_count(ledger.acked),
            format_count(ledger.read),
            format_count(missing),
            format_count(ledger.repeated),
        );
        for (what, latencies) in
            [("publish to ack", &ledger.ack_latency), ("publish to read", &ledger.read_latency)]
        {
            let _ = writeln!(text, "{}", latency(what, latencies));
        }
        if let Some(folder) = data {
            let _ = writeln!(text, "the gateway of the demo is stopped, and {folder} is removed");
        }
        let _ = io::stdout().write_all(text.as_bytes());
    }
}

fn line(world: &World, acked: u64, read: u64) -> String {
    let ledger = &world.ledger;
    format!(
        "{:>4} s: {} sensors, {} acknowledged ({acked}/s), {} read ({read}/s), lag {}; {}\n",
        world.started.elapsed().as_secs(),
        ledger.connected,
        ledger.acked,
        ledger.read,
        ledger.missing(),
        latency("publish to ack", &ledger.ack_latency),
    )
}

fn latency(what: &str, latencies: &super::ledger::Latencies) -> String {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    match latencies.percentiles() {
        Some((p50, p99)) => format!("{what}: p50 {:.1} ms, p99 {:.1} ms", ms(p50), ms(p99)),
        None => format!("{what}: –"),
    }
}

/// Cuts a line to the terminal's width: one that wraps would shift all the others.
fn fit(line: &str, columns: usize) -> String {
    let (mut out, mut column, mut escape) = (String::new(), 0, false);
    for c in line.chars() {
        escape |= c == '\x1b';
        if escape || column < columns {
            out.push(c);
            column += usize::from(!escape);
        }
        escape &= c != 'm';
    }
    out
}

fn chart(rates: &[u64]) -> String {
    let top = rates.iter().copied().max().unwrap_or(0).max(1);
    rates.iter().map(|rate| BARS[(rate * (BARS.len() as u64 - 1) / top) as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_to_the_width_but_its_colours_end() {
        assert_eq!(fit("\x1b[1mabc\x1b[0mdef", 4), "\x1b[1mabc\x1b[0md");
        assert_eq!(fit("a\x1b[1mbcd\x1b[0m", 2), "a\x1b[1mb\x1b[0m");
        assert_eq!(chart(&[0, 7, 14]), "▁▄█");
    }
}
