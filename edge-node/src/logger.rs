//! Log lines on standard error, one each.
//!
//! Under systemd the journal stamps time and wants the level as a number in front (sd-daemon(3)).

use log::{Level, LevelFilter, Log, Metadata, Record};
use std::io::{IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};

struct Logger {
    default: LevelFilter,
    /// Levels by module path, the longest path first.
    targets: Vec<(String, LevelFilter)>,
    style: Style,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Terminal,
    Journal,
}

/// Starts logging. `verbosity` counts `-v`; `filter` is `WEIR_LOG`, such as
/// `debug,weir_core::log=trace`. An error is a sentence about the filter.
pub fn start(verbosity: u8, filter: Option<&str>) -> Result<(), String> {
    let default = match verbosity {
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let (default, targets) = parse(default, filter.unwrap_or(""))?;
    let style = if std::env::var_os("JOURNAL_STREAM").is_some() {
        Style::Journal
    } else if std::io::stderr().is_terminal() {
        Style::Terminal
    } else {
        Style::Plain
    };
    let max = targets.iter().map(|(_, level)| *level).fold(default, Ord::max);
    log::set_max_level(max);
    // A second call has no effect, which only tests make.
    let _ = log::set_logger(Box::leak(Box::new(Logger { default, targets, style })));
    Ok(())
}

type Filters = (LevelFilter, Vec<(String, LevelFilter)>);

fn parse(mut default: LevelFilter, filter: &str) -> Result<Filters, String> {
    let mut targets = Vec::new();
    for part in filter.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (target, level) = part.split_once('=').map_or(("", part), |(t, l)| (t.trim(), l));
        let level = level.trim().parse::<LevelFilter>().map_err(|_| {
            format!(
                "WEIR_LOG: \"{}\" is no level; there are off, error, warn, info, debug and trace, \
                 as in WEIR_LOG=info,weir_core::log=debug",
                level.trim()
            )
        })?;
        if target.is_empty() {
            default = level;
        } else {
            targets.push((target.to_string(), level));
        }
    }
    targets.sort_by_key(|(target, _)| std::cmp::Reverse(target.len()));
    Ok((default, targets))
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level_of(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // What comes from clients must not forge lines or drive a terminal.
        let message: String = record
            .args()
            .to_string()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let target = record.target();
        let line = match self.style {
            Style::Journal => format!("<{}>{target}: {message}\n", priority(record.level())),
            Style::Plain => format!("{} {:5} {target}: {message}\n", now(), record.level()),
            Style::Terminal => format!(
                "\x1b[2m{}\x1b[0m {}{:5}\x1b[0m \x1b[2m{target}:\x1b[0m {message}\n",
                now(),
                color(record.level()),
                record.level(),
            ),
        };
        // There is nobody to tell that standard error is gone.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

impl Logger {
    fn level_of(&self, target: &str) -> LevelFilter {
        let matching = self.targets.iter().find(|(path, _)| {
            target.strip_prefix(path.as_str()).is_some_and(|r| r.is_empty() || r.starts_with("::"))
        });
        matching.map_or(self.default, |(_, level)| *level)
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

fn color(level: Level) -> &'static str {
    match level {
        Level::Error => "\x1b[31m",
        Level::Warn => "\x1b[33m",
        Level::Info => "\x1b[32m",
        Level::Debug | Level::Trace => "\x1b[36m",
    }
}

fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format_time(since.as_millis() as u64)
}

/// Milliseconds since 1970 as `2026-11-21T10:05:34.123Z`.
pub fn format_time(ms: u64) -> String {
    let (days, ms_of_day) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute) = (ms_of_day / 3_600_000, ms_of_day / 60_000 % 60);
    let (second, ms) = (ms_of_day / 1_000 % 60, ms_of_day % 1_000);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day of a count of days since 1970 (Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_target_decides() {
        let filter = "warn,weir_core=debug,weir_core::log=trace";
        let (default, targets) = parse(LevelFilter::Info, filter).unwrap();
        let logger = Logger { default, targets, style: Style::Plain };
        assert_eq!(logger.level_of("weir::driver"), LevelFilter::Warn);
        assert_eq!(logger.level_of("weir_core::node"), LevelFilter::Debug);
        assert_eq!(logger.level_of("weir_core::log::commit"), LevelFilter::Trace);
        assert_eq!(logger.level_of("weir_core::logger"), LevelFilter::Debug);
        assert!(parse(LevelFilter::Info, "loud").unwrap_err().contains("loud"));
    }

    #[test]
    fn times_are_written_as_utc() {
        assert_eq!(format_time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(format_time(951_782_400_001), "2000-02-29T00:00:00.001Z");
        assert_eq!(format_time(1_795_255_534_123), "2026-11-21T10:05:34.123Z");
    }
}
