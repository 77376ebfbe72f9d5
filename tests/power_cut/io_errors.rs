//! A disk that fails for a while: weir moves on to another slot, or stops writing, and says so;
//! nothing that was acknowledged is lost.

use crate::Options;
use crate::check::{self, Breach, Expected, Verdict, gateway};
use crate::device::{Device, lock};
use crate::disk::{Disk, Faults, Pages};
use crate::load::{self, Ledgers, Load};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use weir_tests::{Gateway, wait_for};

const DISK_BYTES: u64 = 104 << 20;
/// What weir says when it moves on, and when it stops writing.
const ABANDONED: &str = "its slots are abandoned";
const FENCED: &str = "the log is fenced";

/// One way to fail.
struct Case {
    name: &'static str,
    faults: Faults,
    /// Whether one failure ends the writing until a restart.
    fences: bool,
}

const FOR_A_WHILE: u32 = u32::MAX;

pub fn run(options: Options) -> bool {
    let one_write = Faults { group_writes: 1, flushes: 0 };
    let one_flush = Faults { group_writes: 0, flushes: 1 };
    let writes = Faults { group_writes: FOR_A_WHILE, flushes: 0 };
    let flushes = Faults { group_writes: 0, flushes: FOR_A_WHILE };
    let cases = [
        Case { name: "one write fails", faults: one_write, fences: false },
        Case { name: "one flush fails", faults: one_flush, fences: false },
        Case { name: "writes fail for a while", faults: writes, fences: true },
        Case { name: "flushes fail for a while", faults: flushes, fences: true },
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
    let device = Device::new("io-errors", &disk).unwrap();
    device.mkfs().map_err(Breach::Failed)?;
    let ext4 = device.mount().map_err(Breach::Failed)?;
    let mut gateway = gateway("io-errors-weir", &ext4.path());
    let ledgers = Ledgers::default();
    gateway.try_start().map_err(Breach::Failed)?;
    let load = |from, until| Load { seed: options.seed, from, until };
    let errors = load::run(&gateway, &disk, &ledgers, load(0, options.records));
    assert!(errors.is_empty(), "{errors:?}");
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
    drop(ext4);
    let ledgers = ledgers.closed();
    let expected = Expected { ledgers: &ledgers, cut_at: usize::MAX };
    let mut verdict = Verdict::default();
    let served = check::first_start(&device, &disk, expected, &mut verdict)?;
    check::second_start(&device, expected, &served, None, &mut verdict)?;
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
    if !case.fences {
        return match (says(FENCED), errors.is_empty()) {
            (false, true) => Ok("weir moved on to another slot and said so, no client noticed"),
            _ => failed("one failure was too much"),
        };
    }
    match (says(FENCED), errors.is_empty()) {
        (true, false) => Ok("weir stopped writing and said so"),
        _ => failed("weir did not stop writing"),
    }
}
