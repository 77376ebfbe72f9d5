//! Cutting the power of a real weir on a real ext4 loses nothing that was acknowledged.
//!
//! `weir-power-cut` does the work (see `tests/power_cut`). Where there is no FUSE, no loop device
//! or no right to mount, these tests say so on standard error, past whatever captures the output,
//! and again at the end of `tests/run`; they pass then, and prove nothing.

#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::Duration;
use weir_tests::{long, release_binary, say, skipped, tools};

/// What `weir-power-cut` ends with where it cannot work.
const MISSING: i32 = 3;

/// Runs it to its end, and shows its last lines.
fn power_cut(args: &[&str], minutes: u64) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-power-cut"));
    command.args(args).args(["--minutes", &minutes.to_string()]);
    if let Ok(seed) = std::env::var("WEIR_TESTS_SEED") {
        command.args(["--seed", &seed]);
    }
    command.env("WEIR_BIN", release_binary());
    let output = tools::run_for(&mut command, Duration::from_secs(60 * (minutes + 1)));
    if output.code == Some(MISSING) {
        return skipped(&format!("power cuts ({}): {}", args[0], output.stdout));
    }
    say(&output.success());
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged() {
    let images = if long() { "1000" } else { "100" };
    power_cut(&["images", "--images", images], if long() { 60 } else { 5 });
}

#[test]
fn a_power_cut_at_each_flush_of_a_short_life_loses_nothing_that_was_acknowledged() {
    if long() {
        power_cut(&["every"], 60);
    }
}

#[test]
fn a_disk_that_ignores_flushes_is_found_out() {
    power_cut(&["lies"], 5);
}

#[test]
fn a_disk_that_fails_for_a_while_loses_nothing_that_was_acknowledged() {
    power_cut(&["io-errors"], 5);
}

#[test]
fn blocks_that_cannot_be_read_cost_what_stands_there_and_nothing_else() {
    power_cut(&["read-errors"], 5);
}
