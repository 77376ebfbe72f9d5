//! `weir status`, `weir top` and `weir mirror`: what a gateway says of itself over HTTP.

use super::Outcome;
use super::args::{HttpTarget, Mirror, TopArgs};
use super::output::{Table, plain, print, print_json};
use crate::units::{format_bytes, format_count};
use serde_json::Value;
use std::fmt::Write;
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use weir_core::log::YEAR_SECONDS;

pub fn status(target: &HttpTarget) -> Outcome {
    let status = target.status()?;
    if target.json { print_json(&status) } else { print(&overview(&status, None)) }
}

pub fn top(args: &TopArgs) -> Outcome {
    let interval = Duration::from_secs_f64(args.interval.clamp(0.1, 3_600.0));
    let live = std::io::stdout().is_terminal();
    let mut before: Option<(Value, Instant)> = None;
    loop {
        let status = args.target.status()?;
        let now = Instant::now();
        if args.target.json {
            print(&format!("{status}\n"))?;
        } else {
            let since = before.as_ref().map(|(value, at)| (value, (now - *at).as_secs_f64()));
            let clear = if live { "\x1b[H\x1b[2J" } else { "" };
            print(&format!("{clear}{}", overview(&status, since)))?;
        }
        before = Some((status, now));
        std::thread::sleep(interval);
    }
}

pub fn mirror(command: &Mirror) -> Outcome {
    let (name, verb, target) = match command {
        Mirror::Status(target) => return mirror_status(target),
        Mirror::Pause { name, target } => (name, "pause", target),
        Mirror::Resume { name, target } => (name, "resume", target),
    };
    target.request("POST", &format!("/api/v1/mirror/{name}/{verb}"))?;
    if target.json {
        print_json(&serde_json::json!({ "mirror": name, "done": verb }))
    } else {
        print(&format!("{name}: {verb}d\n"))
    }
}

fn mirror_status(target: &HttpTarget) -> Outcome {
    let status = target.status()?;
    let mirror = &status["mirror"];
    if target.json {
        return print_json(mirror);
    }
    match mirrors(mirror) {
        Some(text) => print(&text),
        None => print("there is no [[mirror]] in the configuration\n"),
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(value.as_f64().unwrap_or(0.0).max(0.0) as u64)
}

fn word(value: &Value) -> String {
    plain(value.as_str().unwrap_or(""))
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Everything on one screen; rates when there is an earlier look, and how many seconds ago it was.
fn overview(status: &Value, before: Option<(&Value, f64)>) -> String {
    let mut out = head(status);
    out += &rates(status, before);
    out += &topics(status, before);
    out += &groups(status);
    if let Some(text) = mirrors(&status["mirror"]) {
        out.push('\n');
        out += &text;
    }
    out
}

fn head(status: &Value) -> String {
    let log = &status["log"];
    let bytes = number(&log["slots"]) * number(&log["slot_bytes"]);
    let free = number(&log["slots_free"]) * number(&log["slot_bytes"]);
    let seconds = number(&status["uptime_seconds"]);
    let mut out = format!(
        "weir {}, node {}: {}, up {}:{:02}:{:02}, {} resident\n",
        word(&status["version"]),
        status["node"],
        word(&status["phase"]),
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        format_bytes(number(&status["process"]["resident_bytes"])),
    );
    let _ = writeln!(
        out,
        "flash: {} of {} free; since the start {} written in {} flushes, the last took {:.1} ms",
        format_bytes(free),
        format_bytes(bytes),
        format_bytes(number(&log["written_bytes"])),
        format_count(number(&log["flushes"])),
        number(&log["flush_ns_last"]) as f64 / 1e6,
    );
    out += &wear(log);
    out += &index(log);
    out += &pressure(log);
    out += &alarms(status);
    let mqtt = &status["mqtt"];
    let _ = writeln!(
        out,
        "clients: {} Kafka, {} MQTT",
        status["kafka_connections"],
        number(&mqtt["connections"]),
    );
    for source in items(&mqtt["sources"]) {
        let state = match word(&source["error"]) {
            error if error.is_empty() => "connected".to_string(),
            error => error,
        };
        let count = format_count(number(&source["messages"]));
        let _ = writeln!(out, "source {}: {state}, {count} messages", word(&source["name"]));
    }
    out
}

/// What somebody should look at: damage, and the clock.
fn alarms(status: &Value) -> String {
    let log = &status["log"];
    let mut out = String::new();
    if number(&log["damaged_ranges"]) > 0 {
        let _ = writeln!(out, "DAMAGED: {} ranges of offsets are lost", log["damaged_ranges"]);
    }
    if number(&status["repairs"]) + number(&status["refills"]) > 0 {
        let _ = writeln!(
            out,
            "of damaged partitions, {} parts came back from other gateways, and {} were begun anew",
            status["repairs"], status["refills"]
        );
    }
    let scrub = &log["scrub"];
    if number(&scrub["damages"]) + number(&scrub["unreadable"]) > 0 {
        let _ = writeln!(
            out,
            "the scrub has found {} damaged places and {} slots that cannot be read; the log names \
             them",
            scrub["damages"], scrub["unreadable"]
        );
    }
    if status["clock_trusted"] == Value::Bool(false) {
        out += "the wall clock is not trusted: nothing expires by time\n";
    }
    let jumps = number(&log["clock_jumps"]);
    if jumps > 0 {
        let _ = writeln!(
            out,
            "jumps of the wall clock since the start: {jumps}. Nothing expired at once for them; \
             the log says when and how far. If the clock is wrong, set it (NTP)"
        );
    }
    out
}

/// What the medium has cost over its life, how long it lasts, and what the flush cap costs.
fn wear(log: &Value) -> String {
    let life = &log["life"];
    let mut out = format!(
        "card: over its life {} programmed, {} written for {} of records in {} flushes",
        format_bytes(number(&life["programmed_bytes"])),
        format_bytes(number(&life["written_bytes"])),
        format_bytes(number(&life["payload_bytes"])),
        format_count(number(&life["flushes"])),
    );
    if let (Some(amplification), 1..) =
        (log["write_amplification"].as_f64(), number(&life["payload_bytes"]))
    {
        let _ = write!(out, ", {amplification:.2} bytes for each");
    }
    if let Some(days) = log["forecast_days"].as_u64() {
        let wanted = number(&log["card"]["wanted_seconds"]) as f64 / YEAR_SECONDS as f64;
        // Beyond that the card dies of something else.
        let years = (days as f64 / 365.25).min(100.0);
        let more = if years == 100.0 { "over " } else { "" };
        let _ = write!(out, "; lasts {more}{years:.1} years of {wanted:.1} wanted");
    }
    out.push('\n');
    if let Some(cap) = log["cap_per_second"].as_u64() {
        let waits = number(&log["cap_waits"]);
        let wait_ms = number(&log["cap_wait_ns_total"]) as f64 / waits.max(1) as f64 / 1e6;
        let share = 100.0 * waits as f64 / number(&log["flushes"]).max(1) as f64;
        let _ = writeln!(
            out,
            "flush cap: {cap} a second; {share:.0} % of the commits waited for it, {wait_ms:.0} ms \
             on average"
        );
    }
    out
}

/// What the index takes in memory, and what cleaning has cost since the start.
fn index(log: &Value) -> String {
    let index = &log["index"];
    let mut out = format!(
        "index: {} runs of at most {} in {}, {} extents in {} of at most {}\n",
        format_count(number(&index["runs"])),
        format_count(number(&index["runs_max"])),
        format_bytes(number(&index["runs_bytes"])),
        format_count(number(&index["extents"])),
        format_bytes(number(&index["extents_bytes"])),
        format_bytes(number(&index["extents_bytes_max"])),
    );
    let gathered = number(&index["runs_gathered"]);
    if gathered > 0 {
        let gathered = format_count(gathered);
        let _ = writeln!(out, "gathering: {gathered} runs were written anew to keep that");
    }
    let slots = number(&log["slots_cleaned"]);
    if slots > 0 {
        let copied = format_bytes(number(&log["cleaned_bytes"]));
        let _ = writeln!(out, "cleaning: {} slots, {copied} copied", format_count(slots));
    }
    out
}

/// How short the disk budget is; nothing while it is not.
fn pressure(log: &Value) -> String {
    let slots = number(&log["slots"]).max(1);
    let share = |key: &str| number(&log[key]) * 100 / slots;
    let mut out = match word(&log["pressure"]).as_str() {
        "low" => format!(
            "DISK BUDGET LOW: {} % free; records expire early below {} %\n",
            share("slots_free"),
            share("slots_expire_below")
        ),
        "expiring" => format!(
            "DISK BUDGET SHORT: {} % free; records expire early, produce is refused below {} %\n",
            share("slots_free"),
            share("slots_refuse_below")
        ),
        "refusing" => {
            format!("DISK BUDGET USED UP: {} % free; produce is refused\n", share("slots_free"))
        }
        _ => String::new(),
    };
    let (early, refused) = (number(&log["expired_early_records"]), number(&log["full_refusals"]));
    if early + refused > 0 {
        let _ = writeln!(
            out,
            "since the start {} records expired early, {} batches were refused",
            format_count(early),
            format_count(refused)
        );
    }
    out
}

fn records(status: &Value) -> u64 {
    let partitions = items(&status["topics"]).iter().flat_map(|t| items(&t["partitions"]));
    partitions.map(|partition| number(&partition["log_end"])).sum()
}

fn rates(status: &Value, before: Option<(&Value, f64)>) -> String {
    let Some((before, seconds)) = before else { return String::new() };
    let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
    let publishes = |s: &Value| items(&s["mqtt"]["publishes"]).iter().map(number).sum::<u64>();
    let flushes = |s: &Value| number(&s["log"]["flushes"]);
    let cpu = |s: &Value| s["process"]["cpu_seconds"].as_f64().unwrap_or(0.0);
    format!(
        "each second: {:.0} records, {:.0} MQTT publishes, {:.1} flushes, {:.0} % CPU\n",
        rate(records(status), records(before)),
        rate(publishes(status), publishes(before)),
        rate(flushes(status), flushes(before)),
        (cpu(status) - cpu(before)) / seconds * 100.0,
    )
}

fn topics(status: &Value, before: Option<(&Value, f64)>) -> String {
    let ends = |status: &Value, name: &Value| {
        let topic = items(&status["topics"]).iter().find(|topic| &topic["name"] == name);
        topic.map_or(0, |t| items(&t["partitions"]).iter().map(|p| number(&p["log_end"])).sum())
    };
    let mut table = Table::new(&["TOPIC", "PARTITIONS", "RECORDS", "BYTES", "RECORDS/S"]);
    for topic in items(&status["topics"]).iter().filter(|topic| topic["internal"] != true) {
        let partitions = items(&topic["partitions"]);
        let starts: u64 = partitions.iter().map(|p| number(&p["log_start"])).sum();
        let bytes: u64 = partitions.iter().map(|p| number(&p["bytes"])).sum();
        let end: u64 = ends(status, &topic["name"]);
        let rate = before.map_or("-".to_string(), |(before, seconds)| {
            let then: u64 = ends(before, &topic["name"]);
            format!("{:.0}", end.saturating_sub(then) as f64 / seconds)
        });
        table.row([
            word(&topic["name"]),
            partitions.len().to_string(),
            format_count(end.saturating_sub(starts)),
            format_bytes(bytes),
            rate,
        ]);
    }
    format!("\n{}", table.render(false))
}

fn groups(status: &Value) -> String {
    let groups = items(&status["groups"]);
    if groups.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["GROUP", "STATE", "MEMBERS", "LAG"]);
    for group in groups {
        let lag: u64 = items(&group["offsets"]).iter().map(|offset| number(&offset["lag"])).sum();
        let members = items(&group["members"]).len().to_string();
        table.row([word(&group["id"]), word(&group["state"]), members, format_count(lag)]);
    }
    format!("\n{}", table.render(false))
}

fn mirrors(mirror: &Value) -> Option<String> {
    let routes = items(&mirror["routes"]);
    if routes.is_empty() {
        return None;
    }
    let mut table =
        Table::new(&["MIRROR", "STATE", "LAG", "RECORDS", "RECORDS/S", "GAPS", "TARGET"]);
    let mut errors = String::new();
    for route in routes {
        let targets: Vec<String> = items(&route["target"]).iter().map(word).collect();
        table.row([
            word(&route["name"]),
            word(&route["state"]["state"]),
            format_count(number(&route["lag"])),
            format_count(number(&route["records"])),
            format!("{:.0}", route["records_per_second"].as_f64().unwrap_or(0.0)),
            number(&route["gaps"]).to_string(),
            targets.join(","),
        ]);
        if let Some(error) = route["last_error"].as_str() {
            let _ = writeln!(errors, "{}: {}", word(&route["name"]), plain(error));
        }
    }
    Some(table.render(false) + &errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_said_since_the_start_and_over_the_life() {
        let mut log = weir_core::log::Stats { written_bytes: 9 << 20, ..Default::default() };
        (log.payload_bytes, log.flushes) = (1 << 20, 7);
        (log.life.written_bytes, log.life.payload_bytes) = (30 << 20, 20 << 20);
        log.life.programmed_bytes = 1 << 30;
        log.write_amplification = log.life.write_amplification();
        let said = |log: &weir_core::log::Stats| head(&serde_json::json!({ "log": log }));
        let text = said(&log);
        for words in [
            "since the start 9 MiB written in 7 flushes",
            "over its life 1 GiB programmed, 30 MiB written for 20 MiB of records",
            "1.50 bytes for each",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(!text.contains("jumps"), "{text}");
        log.clock_jumps = 2;
        assert!(
            said(&log).contains("jumps of the wall clock since the start: 2."),
            "{}",
            said(&log)
        );
        (log.life.written_bytes, log.life.payload_bytes) = (8_192, 0);
        assert!(!said(&log).contains("for each"), "there is nothing to compare with");
    }
}
