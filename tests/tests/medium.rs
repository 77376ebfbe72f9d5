//! The medium on the real path: cards that wear, budgets that run out, raw partitions, damage, and
//! disks that say no. Nothing that was acknowledged is lost after the cause is gone.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use weir_tests::loopback::Loop;
use weir_tests::mqtt::{Mqtt, PUBACK};
use weir_tests::tools::{Output, command, run};
use weir_tests::{Gateway, folder, release_binary, wait_for};

const SLOT_BYTES: u64 = 4 << 20;
/// What refusals say of the log.
const UNTOUCHED: &str = "left untouched";
const CUT_SHORT: [&str; 4] = ["cut short", UNTOUCHED, "restore it from a copy", "truncate -s"];

/// Publishes numbers with so many bytes of padding until one is not acknowledged, or `until` is
/// reached; gives the first that was not.
fn publish(gateway: &Gateway, from: u64, until: u64, padding: usize) -> u64 {
    let Ok((mut mqtt, _)) = Mqtt::connect(gateway.mqtt_port, false, "ledger", true) else {
        return from;
    };
    mqtt.stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    for number in from..until {
        let payload = format!("{number:08} {}", "x".repeat(padding));
        let id = (number % 65_535 + 1) as u16;
        let sent = mqtt.publish("ledger", payload.as_bytes(), 1, id, false);
        let acked = sent.and_then(|()| mqtt.receive());
        if !acked.is_ok_and(|(kind, body)| kind == PUBACK && body[..2] == id.to_be_bytes()) {
            return number;
        }
    }
    until
}

/// The numbers that a consumer finds, in order, each once.
fn stored(gateway: &Gateway) -> Vec<u64> {
    let line = format!("kcat -b {} -C -t sensors -o beginning -e -q", gateway.bootstrap());
    let read = run(&mut command(&line)).success();
    let mut numbers: Vec<u64> =
        read.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    numbers.dedup();
    numbers
}

fn weir(args: &[&str], path: &Path) -> Output {
    run(Command::new(release_binary()).args(args).arg(path))
}

/// Starts a gateway that must refuse, with these words, and leave the file as it is.
fn refused(gateway: &Gateway, log: &Path, words: &[&str]) {
    let before = fs::read(log).ok();
    let output = run(&mut gateway.command());
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    for word in words {
        assert!(output.stderr.contains(word), "does not say {word}: {}", output.stderr);
    }
    assert!(fs::read(log).ok() == before, "the log was changed: {}", output.stderr);
}

#[test]
fn the_card_sets_the_cap_and_its_life_is_counted_over_restarts() {
    let mut gateway = Gateway::new("card").set("flash.card_tbw=30").set("flash.card_years=10");
    gateway.start();
    assert_eq!(publish(&gateway, 0, 50, 10), 50);
    let log = gateway.status()["log"].clone();
    assert_eq!(log["cap_per_second"], 5);
    let programmed = log["life"]["programmed_bytes"].as_u64().unwrap();
    assert!(programmed >= 16_384 * log["flushes"].as_u64().unwrap(), "{log}");
    assert!(log["cap_waits"].as_u64().unwrap() > 0, "the burst is used up: {log}");
    let said = gateway.weir(&["status"]).success();
    assert!(said.contains("flush cap: 5 a second") && said.contains("years"), "{said}");
    let (_, metrics) = gateway.http("/metrics").unwrap();
    for name in ["weir_flash_flush_cap 5", "weir_flash_forecast_years", "cap_wait_seconds_total"] {
        assert!(metrics.contains(name), "{name}");
    }
    assert!(gateway.stop().success());
    gateway.start();
    let after = gateway.status()["log"]["life"].clone();
    assert!(after["programmed_bytes"].as_u64().unwrap() >= programmed, "{after}");
    assert!(after["flushes"].as_u64().unwrap() >= log["life"]["flushes"].as_u64().unwrap());
}

#[test]
fn the_budget_is_never_exceeded_and_running_out_of_it_is_said() {
    let mut gateway = Gateway::new("budget").set("flash.bytes=64MiB");
    gateway.start();
    let bench = ["bench", "produce", "--records", "1200", "--size", "100000", "--batch", "8"];
    gateway.weir(&bench).success();
    let log = gateway.status()["log"].clone();
    let held: u64 = fs::read_dir(gateway.data())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(held <= (64 << 20) + 4096, "{held} bytes are in the data folder");
    let pressure = log["pressure"].as_str().unwrap();
    assert!(matches!(pressure, "expiring" | "refusing"), "{log}");
    assert!(log["expired_early_records"].as_u64().unwrap() > 0, "{log}");
    let said = gateway.log();
    for words in ["will be expired before their time", "are expired before their time"] {
        assert!((1..10).contains(&said.matches(words).count()), "{words}: {said}");
    }
    let (_, metrics) = gateway.http("/metrics").unwrap();
    assert!(metrics.contains(&format!("weir_flash_pressure{{state=\"{pressure}\"}} 1")));
    assert!(gateway.weir(&["status"]).success().contains("DISK BUDGET"));
}

#[test]
fn a_raw_partition_is_a_log_once_it_was_formatted_for_it() {
    let Some(mut medium) = Loop::new(&folder("raw"), 128 << 20) else { return };
    let device = medium.device.clone();
    let mut gateway = Gateway::new("raw-data").set(&format!("flash.path={}", device.display()));
    let blank = run(&mut gateway.command());
    assert!(blank.stderr.contains("weir log format"), "{}", blank.stderr);

    let mount = folder("raw-mount");
    medium.mount(&mount);
    let mounted = weir(&["log", "format", "--yes"], &device);
    assert_eq!(mounted.code, Some(1));
    assert!(mounted.stderr.contains("mounted on"), "{}", mounted.stderr);
    run(Command::new("umount").arg(&mount)).success();
    let ext4 = weir(&["log", "format", "--yes"], &device);
    assert!(ext4.stderr.contains("ext4") && ext4.stderr.contains("--yes --yes"), "{ext4:?}");
    weir(&["log", "format", "--yes", "--yes"], &device).success();
    let again = weir(&["log", "format", "--yes"], &device);
    assert!(again.stderr.contains("another flash log"), "{}", again.stderr);

    gateway.start();
    assert_eq!(publish(&gateway, 0, 300, 1_000), 300);
    let busy = weir(&["log", "format", "--yes"], &device);
    assert_eq!(busy.code, Some(1), "{busy:?}");
    gateway.restart();
    assert_eq!(stored(&gateway), (0..300).collect::<Vec<_>>());
    assert!(!gateway.data().join("flash.log").exists());
    gateway.kill();
    weir(&["log", "check"], &device).success();
}

/// A gateway with numbers in its log, stopped; and that log.
fn with_numbers(name: &str, count: u64) -> (Gateway, PathBuf) {
    let mut gateway = Gateway::new(name).set("flash.bytes=64MiB");
    gateway.start();
    assert_eq!(publish(&gateway, 0, count, 10_000), count);
    assert!(gateway.stop().success());
    let log = gateway.data().join("flash.log");
    (gateway, log)
}

#[test]
fn damage_is_named_quarantined_and_stops_no_start() {
    let (mut gateway, log) = with_numbers("damage", 1_000);
    weir(&["log", "check"], &log).success();
    gateway.rot("00000100 xxx");
    let found = weir(&["log", "check"], &log);
    assert_eq!(found.code, Some(1), "{found:?}");
    let words = ["commit groups ", "lost partition ", "offsets 100 to 100", "/api/v1", "--repair"];
    for word in words {
        assert!(format!("{}{}", found.stdout, found.stderr).contains(word), "{word}: {found:?}");
    }
    gateway.start();
    let rest: Vec<u64> = (0..1_000).filter(|number| *number != 100).collect();
    assert_eq!(stored(&gateway), rest, "consumers are given the next offset that can be read");
    assert!(gateway.stop().success());

    weir(&["log", "check", "--repair"], &log).success();
    let clean = weir(&["log", "check"], &log).success();
    assert!(clean.contains("quarantined: partition"), "{clean}");
    gateway.start();
    assert_eq!(stored(&gateway), rest);
    assert_eq!(publish(&gateway, 1_000, 1_100, 10), 1_100);
}

#[test]
fn the_scrub_finds_rot_that_nobody_reads() {
    let (gateway, _) = with_numbers("scrub", 1_000);
    let mut gateway = gateway.set("flash.scrub_days=0.00001");
    gateway.start();
    gateway.rot("00000050 xxx");
    let scrub = wait_for("the scrub finds it", Duration::from_secs(60), || {
        let scrub = gateway.status()["log"]["scrub"].clone();
        (scrub["damages"].as_u64() > Some(0)).then_some(scrub)
    });
    assert_eq!((&scrub["damages"], &scrub["lost_offsets"]), (&1.into(), &1.into()), "{scrub}");
    assert!(gateway.log().contains("offsets 50 to 50"), "{}", gateway.log());
    let (_, metrics) = gateway.http("/metrics").unwrap();
    assert!(metrics.contains("weir_flash_scrub_damages_total 1"));
    assert!(gateway.weir(&["status"]).success().contains("DAMAGED"));
}

#[test]
fn bad_stores_are_refused_with_a_sentence_and_left_as_they_are() {
    let (gateway, log) = with_numbers("bad-store", 1_500);
    let whole = fs::read(&log).unwrap();
    let (slot, len) = (SLOT_BYTES as usize, whole.len());
    let mut newer = whole.clone();
    (newer[9], newer[43]) = (9, !newer[43]);
    let mut swapped = whole.clone();
    swapped[2 * slot..4 * slot].rotate_left(slot);
    let (donor, theirs) = with_numbers("donor", 10);
    let other = fs::read(&theirs).unwrap();
    let mut differ = whole.clone();
    differ[..4096].copy_from_slice(&other[..4096]);
    for (content, words) in [
        (newer, &["format 9", UNTOUCHED, "run the newer weir", "--data DIR"][..]),
        (swapped, &["put together wrongly", "slot 0", "slot 1", UNTOUCHED, "copy the log again"]),
        (whole[..len - 4096].to_vec(), &CUT_SHORT),
        (other, &["identity.toml", UNTOUCHED, "Put the right one there", "delete identity.toml"]),
        (vec![0; len], &["holds nothing", "Delete it and start again"]),
    ] {
        fs::write(&log, &content).unwrap();
        refused(&gateway, &log, words);
    }
    fs::remove_file(gateway.data().join("identity.toml")).unwrap();
    fs::write(&log, &differ).unwrap();
    let words = ["superblocks differ", UNTOUCHED, "restore it from a copy", "--data DIR"];
    refused(&gateway, &log, &words);
    fs::write(&log, &whole[..6 * slot]).unwrap();
    fs::remove_file(gateway.data().join("life.toml")).unwrap();
    refused(&gateway, &log, &CUT_SHORT);
    drop(donor);
}

/// Nothing that was acknowledged before or while writes failed is lost when they work again.
fn survives(mut gateway: Gateway, acked: u64, cause_gone: impl FnOnce()) {
    let phase = wait_for("the gateway is fenced", Duration::from_secs(20), || {
        let phase = gateway.status()["phase"].clone();
        (phase == "fenced").then_some(phase)
    });
    assert_eq!(phase, "fenced");
    assert!(gateway.log().contains("fenced"), "{}", gateway.log());
    assert_eq!(stored(&gateway)[..acked as usize], (0..acked).collect::<Vec<_>>(), "reads go on");
    gateway.kill();
    cause_gone();
    gateway.start();
    let found = stored(&gateway);
    assert_eq!(found[..acked as usize], (0..acked).collect::<Vec<_>>());
    let next = found.len() as u64;
    assert_eq!(publish(&gateway, next, next + 100, 10), next + 100);
    assert_eq!(stored(&gateway).len() as u64, next + 100);
}

/// A gateway that runs on an ext4 file system of 128 MiB, which is mounted there.
fn on_a_small_file_system(name: &str) -> Option<(Loop, PathBuf, Gateway)> {
    let mut medium = Loop::new(&folder(name), 128 << 20)?;
    let mount = folder(&format!("{name}-mount"));
    medium.mount(&mount);
    let gateway = Gateway::new(&format!("{name}-data")).set("flash.bytes=64MiB");
    let mut gateway = gateway.in_folder(&mount.join("data"));
    gateway.start();
    Some((medium, mount, gateway))
}

#[test]
fn a_full_file_system_fences_the_gateway_and_loses_nothing() {
    let Some((_medium, mount, gateway)) = on_a_small_file_system("full") else { return };
    let acked = publish(&gateway, 0, 100, 10_000);
    assert_eq!(acked, 100);
    // What the file system keeps for root is root's, as we may be.
    let filler = File::create(mount.join("filler")).unwrap();
    let piece = vec![1; 64 << 10];
    let mut at = 0;
    while filler.write_all_at(&piece, at).is_ok() {
        at += piece.len() as u64;
    }
    // An open file keeps its blocks when it is deleted.
    drop(filler);
    let acked = publish(&gateway, acked, 5_000, 100_000);
    assert!((100..5_000).contains(&acked), "{acked}");
    assert!(gateway.log().contains("the disk is full"), "{}", gateway.log());
    survives(gateway, acked, || fs::remove_file(mount.join("filler")).unwrap());
}

#[test]
fn a_limit_of_file_sizes_fences_the_gateway_and_loses_nothing() {
    let mut gateway = Gateway::new("fsize").set("flash.bytes=64MiB");
    gateway.start();
    let acked = publish(&gateway, 0, 100, 10_000);
    let limit = fs::metadata(gateway.data().join("flash.log")).unwrap().len() + (1 << 20);
    let pid = gateway.pid().to_string();
    run(Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={limit}")])).success();
    let acked = publish(&gateway, acked, 5_000, 100_000);
    assert!((100..5_000).contains(&acked), "{acked}");
    survives(gateway, acked, || {});
}

#[test]
fn a_read_only_file_system_is_named_at_the_start() {
    let Some((medium, mount, mut gateway)) = on_a_small_file_system("ro") else { return };
    assert_eq!(publish(&gateway, 0, 10, 10), 10);
    assert!(gateway.stop().success());
    medium.remount("ro");
    refused(&gateway, &mount.join("data/flash.log"), &["read-only"]);
    medium.remount("rw");
    gateway.start();
    assert_eq!(stored(&gateway).len(), 10);
    drop(gateway);
}
