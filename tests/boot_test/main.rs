//! `weir-boot-test`: boots an image for boards in QEMU, publishes over MQTT and Kafka, reads over
//! Kafka, pulls the plug, and does so again with what the disk has kept, many times.
//!
//! `weir_tests::board` does the work.

#![allow(clippy::unwrap_used)]

mod options;

use options::Options;
use std::process::ExitCode;
use std::time::Duration;
use weir_core::rng::Rng;
use weir_tests::board::{Boot, Guest, Ledgers, Pulled, publish_while, take};

/// What QEMU has to be ready in, on two cores that others use, too.
const BOOT_MAX: Duration = Duration::from_secs(400);
/// What a plug that is pulled waits for: this many seconds, and one more number of a client.
const LOAD_SECONDS_MIN: u64 = 2;
const LOAD_SECONDS_MAX: u64 = 8;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(sentence) => {
            eprintln!("{sentence}\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    let result = take(&options.image, &options.folder, options.machine, "weir.open");
    let result = result.and_then(|boot| run(&options, boot));
    match result {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(sentence) => {
            eprintln!("{sentence}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, boot: Boot) -> Result<String, String> {
    let mut guest = Guest::new(boot, &options.folder);
    let mut rng = Rng::new(options.seed);
    let ledgers = Ledgers::default();
    let (mut starts, mut checked, mut memory) = (Vec::new(), 0, None);
    for cycle in 0..=options.cycles {
        let start = guest.boot(BOOT_MAX)?;
        let records = ledgers.check(guest.kafka_port).map_err(|breach| {
            format!("after pulling the plug {cycle} times (seed {}):\n{breach}", options.seed)
        })?;
        starts.push(start);
        // An image says it some seconds after it is ready; a tiny one, which is a folder, never.
        if cycle == options.cycles && !options.image.is_dir() {
            guest.wait_for_console("memory in use: ", BOOT_MAX)?;
        }
        checked = checked.max(ledgers.acknowledged());
        memory = memory.max(memory_mib(&guest.console()));
        let ready = start.as_secs_f64();
        if cycle == options.cycles {
            println!("boot {cycle}: ready in {ready:.1} s, {records} records, none missing");
            break;
        }
        let pulled = load_and_pull(&mut guest, &ledgers, &mut rng)?;
        ledgers.cut(if options.lies { u64::MAX } else { pulled.at });
        println!(
            "boot {cycle}: ready in {ready:.1} s, {records} records, none missing; {} \
             acknowledged, plug pulled: {} writes and {} flushes, {} writes open, of them {} \
             dropped, {} torn, {} reordered",
            ledgers.acknowledged(),
            pulled.writes,
            pulled.flushes,
            pulled.open,
            pulled.harm.dropped,
            pulled.harm.torn,
            pulled.harm.reordered,
        );
    }
    starts.sort_unstable();
    let seconds = |at: usize| starts[at].as_secs_f64();
    let memory = memory.map_or(String::new(), |mib| format!("; {mib} MiB of memory in use"));
    Ok(format!(
        "boot test: {} boots, the plug pulled {} times, seed {}; {checked} acknowledged records, \
         none lost; ready in {:.1} s at best, {:.1} s in the middle, {:.1} s at worst{memory}",
        starts.len(),
        options.cycles,
        options.seed,
        seconds(0),
        seconds(starts.len() / 2),
        seconds(starts.len() - 1),
    ))
}

/// Publishes, and pulls the plug while that goes on.
fn load_and_pull(guest: &mut Guest, ledgers: &Ledgers, rng: &mut Rng) -> Result<Pulled, String> {
    let (before, position) = (ledgers.acknowledged(), guest.position());
    let behind = position();
    let seconds = LOAD_SECONDS_MIN + rng.below(LOAD_SECONDS_MAX - LOAD_SECONDS_MIN);
    let pause = Duration::from_millis(seconds * 1_000 + rng.below(1_000));
    let ports = (guest.mqtt_port, guest.kafka_port);
    let pulled = publish_while(ledgers, ports, &position, || {
        std::thread::sleep(pause);
        guest.pull_the_plug(behind, rng)
    });
    if ledgers.acknowledged() == before {
        return Err(format!("nothing was acknowledged in {pause:?}\n{}", guest.console()));
    }
    pulled.map_err(|error| format!("cannot make the disk after the cut: {error}"))
}

/// What the image has said about its memory when it was ready.
fn memory_mib(console: &str) -> Option<u64> {
    let (_, rest) = console.rsplit_once("memory in use: ")?;
    rest.split(' ').next()?.parse().ok()
}
