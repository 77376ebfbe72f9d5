//! A disk that takes no writes for a while: weir moves on to another slot, or stops writing, and
//! says so; nothing that was acknowledged is lost.

use crate::Options;
use crate::check::{self, Breach, Expected, Verdict, gateway};
use crate::device::{Device, Medium, lock};
use crate::disk::{Disk, Faults, Pages};
use crate::load::{self, Ledgers, Load};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use weir_tests::{Gateway, root, wait_for};

const DISK_BYTES: u64 = 104 << 20;
/// What weir says when it moves on, and when it stops writing.
const ABANDONED: &str = "its slots are abandoned";
const FENCED: &str = "the log is fenced";
/// What the kernel says when ext4 has given up.
const READ_ONLY: &str = "Read-only file system";

/// One way to fail.
struct Case {
    name: &'static str,
    medium: Medium,
    faults: Faults,
    expected: Outcome,
}

#[derive(Clone, Copy)]
enum Outcome {
    /// Weir goes on in another slot, and no client notices.
    MovesOn,
    /// So it does, unless the flush that failed was one of ext4's journal, which turns the whole
    /// file system read-only at that: then nothing is left to go on with.
    MovesOnIfExt4Does,
    /// Weir writes no more until a restart.
    Fences,
}

const FOR_A_WHILE: u32 = u32::MAX;

pub fn run(options: Options) -> bool {
    use Medium::{Ext4, File};
    let one_write = Faults { group_writes: 1, flushes: 0 };
    let one_flush = Faults { group_writes: 0, flushes: 1 };
    let writes = Faults { group_writes: FOR_A_WHILE, flushes: 0 };
    let flushes = Faults { group_writes: 0, flushes: FOR_A_WHILE };
    let case = |name, medium, faults, expected| Case { name, medium, faults, expected };
    let cases = [
        case("ext4, one write fails", Ext4, one_write, Outcome::MovesOn),
        case("ext4, one flush fails", Ext4, one_flush, Outcome::MovesOnIfExt4Does),
        case("ext4, writes fail for a while", Ext4, writes, Outcome::Fences),
        case("ext4, flushes fail for a while", Ext4, flushes, Outcome::Fences),
        case("the log alone, one write fails", File, one_write, Outcome::MovesOn),
        case("the log alone, one flush fails", File, one_flush, Outcome::MovesOn),
        case("the log alone, writes fail for a while", File, writes, Outcome::Fences),
        case("the log alone, flushes fail for a while", File, flushes, Outcome::Fences),
    ];
    // Clients wait long for the answers of a gateway that has stopped writing: all at once.
    let results: Vec<_> = thread::scope(|scope| {
        let run = |case| scope.spawn(move || try_case(case, options));
        let running: Vec<_> = cases.iter().map(run).collect();
        running.into_iter().map(|case| case.join().expect("a case does not panic")).collect()
    });
    for (case, result) in cases.iter().zip(&results) {
        match result {
            Ok(said) => println!("I/O errors: {}: {said}", case.name),
            Err(breach) => println!("I/O errors: {}: {breach}", case.name),
        }
    }
    results.iter().all(Result::is_ok)
}

fn try_case(case: &Case, options: Options) -> Result<String, Breach> {
    let disk = Arc::new(Mutex::new(Disk::new(DISK_BYTES, Pages::default())));
    let device = Device::new("io-errors", &disk, case.medium).unwrap();
    device.format().map_err(Breach::Failed)?;
    let place = device.open().map_err(Breach::Failed)?;
    let mut gateway = gateway("io-errors-weir", &place);
    let ledgers = Ledgers::default();
    gateway.try_start().map_err(Breach::Failed)?;
    let load = |from, until| Load { seed: options.seed, from, until };
    let errors = load::run(&gateway, &disk, &ledgers, load(0, options.records));
    if !errors.is_empty() {
        return Err(Breach::Failed(format!("before any fault: {errors:?}\n{}", gateway.log())));
    }
    let errors = thread::scope(|scope| {
        let more = load(options.records, options.records * 2);
        let (gateway, disk, ledgers) = (&gateway, &disk, &ledgers);
        let running = scope.spawn(move || load::run(gateway, disk, ledgers, more));
        let before = lock(disk).position();
        wait_for("load", Duration::from_secs(10), || {
            (lock(disk).position() > before + 200).then_some(())
        });
        lock(disk).faults = case.faults;
        running.join().unwrap()
    });
    let said = said(&gateway, case, &errors)?;
    lock(&disk).faults = Faults::default();
    gateway.kill();
    drop(place);
    let left = lock(&disk).record();
    let ledgers = ledgers.closed();
    let expected = Expected { ledgers: &ledgers, cut_at: usize::MAX };
    let mut verdict = Verdict::default();
    let checked = check::first_start(&device, &disk, expected, &mut verdict)
        .and_then(|served| check::second_start(&device, expected, &served, None, &mut verdict));
    if checked.is_err() {
        let path = root().join(format!("target/tests/{}.img", case.name.replace([' ', ','], "-")));
        if left.save(&path, DISK_BYTES).is_ok() {
            println!("the image of \"{}\" is {}", case.name, path.display());
        }
    }
    checked?;
    let checked = verdict.checked;
    Ok(format!("{said}; after a restart {checked} acknowledged records checked, lost 0"))
}

/// Holds what the gateway did and said while the disk failed against the design.
fn said(gateway: &Gateway, case: &Case, errors: &[String]) -> Result<&'static str, Breach> {
    let log = gateway.log();
    let says = |what: &str| log.contains(what);
    let failed = |what: &str| Err(Breach::Failed(format!("{what}: {errors:?}\n{log}")));
    if !says(ABANDONED) {
        return failed("weir did not say that it abandons a slot");
    }
    match (case.expected, says(FENCED), errors.is_empty()) {
        (Outcome::MovesOn | Outcome::MovesOnIfExt4Does, false, true) => {
            Ok("weir moved on to another slot and said so, no client noticed")
        }
        (Outcome::MovesOnIfExt4Does, true, false) if says(READ_ONLY) => {
            Ok("ext4 gave up and turned read-only, weir stopped writing and said so")
        }
        (Outcome::Fences, true, false) => Ok("weir stopped writing and said so"),
        (Outcome::Fences, ..) => failed("weir did not stop writing"),
        _ => failed("one failure was too much"),
    }
}
