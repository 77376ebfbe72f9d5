//! `weir-power-cut`: cuts the power of a real weir on a real ext4, many times, and looks whether
//! anything that was acknowledged is lost.
//!
//! | module | what it does |
//! |---|---|
//! | `disk` | the disk in memory, which keeps every write and flush in their order |
//! | `device` | the disk as a file in user space, a loop device and ext4 on it |
//! | `load` | clients, and their ledgers of what was acknowledged, and when |
//! | `cut` | the images that a cut may leave |
//! | `check` | weir on an image, held against the ledgers |
//! | `campaign` | many images of one recording, and the certificate |
//! | `io_errors` | a disk that takes no writes for a while |
//! | `read_errors` | a disk that cannot read some blocks |
//!
//! It runs itself again in namespaces of its own: with its end, however that comes, its gateways,
//! mounts and loop devices are gone, and nobody else takes its ports. It needs root, `/dev/fuse`
//! and loop devices; where these are missing it says so and ends with 3.

#![allow(clippy::unwrap_used)]

mod campaign;
mod check;
mod cut;
mod device;
mod disk;
mod io_errors;
mod load;
mod read_errors;

use std::process::{Command, ExitCode};
use std::time::Duration;

const USAGE: &str = "\
weir-power-cut images    [--images 100] [--seed 1] [--records 400] [--minutes 15]
weir-power-cut every     [--records 40] ...  every flush boundary of a recording
weir-power-cut lies      [--images 20] ...   the disk ignores flushes: losses must be found
weir-power-cut io-errors [--seed 1] ...      the disk takes no writes for a while
weir-power-cut read-errors                   the disk cannot read some blocks
  --records   of each client, three times: before and after a stop and a kill of the gateway
WEIR_BIN names the binary; default target/release/weir.";

/// What the test shows where power cuts cannot be tried.
const MISSING: u8 = 3;

/// Set in the inner process.
const INSIDE: &str = "WEIR_POWER_CUT_INSIDE";

#[derive(Clone, Copy, Debug)]
struct Options {
    images: usize,
    seed: u64,
    records: u64,
    minutes: u64,
}

fn parse(mut args: impl Iterator<Item = String>) -> Option<(String, Options)> {
    let mode = args.next()?;
    let images = if mode == "lies" { 20 } else { 100 };
    let records = match mode.as_str() {
        "every" => 40,
        "io-errors" => 150,
        _ => 400,
    };
    let mut options = Options { images, seed: 1, records, minutes: 15 };
    while let Some(name) = args.next() {
        let value: u64 = args.next()?.parse().ok()?;
        match name.as_str() {
            "--images" => options.images = value as usize,
            "--seed" => options.seed = value,
            "--records" => options.records = value,
            "--minutes" => options.minutes = value,
            _ => return None,
        }
    }
    Some((mode, options))
}

fn main() -> ExitCode {
    let Some((mode, options)) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if std::env::var_os(INSIDE).is_none() {
        return outside();
    }
    if let Some(why) = device::missing() {
        println!("no power cuts on this machine: {why}");
        return ExitCode::from(MISSING);
    }
    // Nothing here takes long; what does hangs.
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(60 * options.minutes));
        eprintln!("no end after {} minutes", options.minutes);
        std::process::exit(1);
    });
    let good = match mode.as_str() {
        "images" => campaign::images(options),
        "every" => campaign::every(options),
        "lies" => campaign::lies(options),
        "io-errors" => io_errors::run(options),
        "read-errors" => read_errors::run(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the same in namespaces of its own.
fn outside() -> ExitCode {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.arg(std::env::current_exe().expect("Linux knows the path of this program"));
    command.args(std::env::args().skip(1)).env(INSIDE, "1");
    // `mkfs.ext4` and `losetup` are there, but not in everybody's PATH.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let probe =
        Command::new("unshare").args(["--mount", "--net", "--pid", "--fork", "true"]).output();
    match probe {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_string();
            println!("no power cuts on this machine: {why} (namespaces need root)");
            return ExitCode::from(MISSING);
        }
        Err(error) => {
            println!("no power cuts on this machine: unshare: {error}");
            return ExitCode::from(MISSING);
        }
    }
    let code = command.status().ok().and_then(|status| status.code());
    ExitCode::from(code.map_or(1, |code| code as u8))
}
