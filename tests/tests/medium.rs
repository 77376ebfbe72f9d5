//! The medium on the real path: cards that wear, budgets that run out, raw partitions, damage, and
//! disks that say no. Nothing that was acknowledged is lost after the cause is gone.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use weir_bridge::client::{Acks, Client, CommittedOffset, Error};
use weir_core::error::ErrorCode;
use weir_tests::loopback::Loop;
use weir_tests::mqtt::{Mqtt, PUBACK};
use weir_tests::tools::{Output, command, run, run_with_input};
use weir_tests::{Gateway, folder, numbered, release_binary, wait_for};

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
    let [payload, written, flushes] = ["payload_bytes", "written_bytes", "flushes"]
        .map(|key| log["life"][key].as_u64().unwrap_or_else(|| panic!("{key}: {log}")));
    assert!(0 < payload && payload < written && written < programmed && flushes > 0, "{log}");
    assert!(log["cap_waits"].as_u64().unwrap() > 0, "the burst is used up: {log}");
    let said = gateway.weir(&["status"]).success();
    assert!(said.contains("flush cap: 5 a second") && said.contains("years"), "{said}");
    let (_, metrics) = gateway.http("/metrics").unwrap();
    for name in ["weir_flash_flush_cap 5", "weir_flash_forecast_years", "cap_wait_seconds_total"] {
        assert!(metrics.contains(name), "{name}");
    }
    for name in ["life_programmed_bytes_total", "life_written_bytes_total", "write_amplification"] {
        let name = format!("weir_flash_{name} ");
        let found = metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok());
        assert!(found > Some(0.0), "{name}{found:?}");
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

/// How short the disk budget is, as its status says.
fn pressure(gateway: &Gateway) -> String {
    gateway.status()["log"]["pressure"].as_str().unwrap().to_string()
}

/// Appends numbers to a topic until not even one more is taken. Gives how many were acknowledged,
/// why no more were, and each state of the disk budget on the way.
fn fill(gateway: &Gateway, client: &Client, topic: &str) -> (u32, Error, Vec<String>) {
    let mut states = vec![pressure(gateway)];
    let (mut acked, mut count) = (0, 400);
    loop {
        assert!(acked < 300_000, "{acked} records are in 16 MiB: {states:?}");
        let batch = numbered::batch(acked..acked + count, false);
        let sent = smol::block_on(client.produce_once(None, topic, 0, batch, Acks::All));
        let state = pressure(gateway);
        if states.last() != Some(&state) {
            let (_, metrics) = gateway.http("/metrics").unwrap();
            assert!(metrics.contains(&format!("weir_flash_pressure{{state=\"{state}\"}} 1")));
            states.push(state);
        }
        match sent {
            Ok(_) => acked += count,
            Err(error) if count == 1 => return (acked, error, states),
            // The slot that is still open may have room for less.
            Err(_) => count = 1,
        }
    }
}

/// What goes on while a log is full: reading what was acknowledged, and committing offsets.
fn serves_readers(gateway: &Gateway, client: &Client, acked: u32, committed: i64) {
    let kept = smol::block_on(numbered::records(client, "kept", 0));
    assert!(numbered::numbers(&kept).into_iter().eq(0..acked));
    assert_eq!(stored(gateway), (0..10).collect::<Vec<_>>());
    let (topic, metadata) = ("kept".to_string(), String::new());
    let offset =
        CommittedOffset { topic, partition: 0, offset: committed, leader_epoch: -1, metadata };
    smol::block_on(client.commit("readers", &[offset])).unwrap();
    let found = smol::block_on(client.committed("readers", None, false)).unwrap();
    assert_eq!(found[0].offset, committed);
}

#[test]
fn a_log_of_what_nobody_lets_go_refuses_producers_until_there_is_room_and_nothing_else() {
    let mut gateway = Gateway::new("refusing").set("topic_defaults.retention.ms=-1");
    gateway = gateway.set("flash.slot_bytes=1MiB").set("flash.bytes=16MiB");
    gateway = gateway.set("flash.flushes_per_second=0");
    gateway.start();
    let client = numbered::client(&gateway.bootstrap());
    smol::block_on(numbered::create_with(&client, "kept", 1, &[("retention.ms", "-1")]));
    assert_eq!(publish(&gateway, 0, 10, 10), 10);
    let (mut device, _) = Mqtt::connect(gateway.mqtt_port, true, "refused", true).unwrap();
    let (acked, error, states) = fill(&gateway, &client, "kept");
    assert_eq!(error.code(), Some(ErrorCode::KAFKA_STORAGE_ERROR), "{error}");
    assert_eq!(states, ["roomy", "low", "expiring", "refusing"]);
    let said = gateway.log();
    let lines =
        ["will be expired before", "are expired before", "produce is refused until some is"];
    let places = lines.map(|line| said.find(line).unwrap_or_else(|| panic!("{line}: {said}")));
    assert!(places.is_sorted(), "{said}");
    assert!(gateway.weir(&["status"]).success().contains("DISK BUDGET USED UP"));
    serves_readers(&gateway, &client, acked, 7);

    let kcat = format!("kcat -b {} -P -t kept", gateway.bootstrap());
    let once = format!("{kcat} -X message.send.max.retries=0");
    let refused = run_with_input(&mut command(&once), b"refused\n");
    let words = "Disk error when trying to access log file";
    assert!(refused.code != Some(0) && refused.stderr.contains(words), "{refused:?}");
    device.publish("ledger", b"refused", 1, 7, false).unwrap();
    let (kind, answer) = device.receive().unwrap();
    assert_eq!((kind, &answer[..3]), (PUBACK, &[0, 7, 0x97][..]));
    let log = gateway.status()["log"].clone();
    assert!(log["full_refusals"].as_u64() >= Some(3), "{log}");
    assert_eq!(log["expired_early_records"], 0, "{log}");

    gateway.restart();
    serves_readers(&gateway, &client, acked, 8);
    // A client that waits, as its error tells it to, goes on once there is room.
    let waits = move || run_with_input(&mut command(&kcat), format!("{acked}:late\n").as_bytes());
    let waiting = std::thread::spawn(waits);
    wait_for("another batch is refused", Duration::from_secs(20), || {
        (gateway.status()["log"]["full_refusals"].as_u64() > Some(0)).then_some(())
    });
    let room = ["topic", "alter", "kept", "--config", "retention.bytes=1048576"];
    gateway.weir(&room).success();
    waiting.join().unwrap().success();
    wait_for("the budget is at ease", Duration::from_secs(20), || {
        (pressure(&gateway) == "roomy").then_some(())
    });
    assert!(gateway.log().contains("the disk budget is at ease again"), "{}", gateway.log());
    let kept = numbered::numbers(&smol::block_on(numbered::records(&client, "kept", 0)));
    assert!((1..acked).contains(&kept[0]), "{kept:?}");
    assert!(kept.iter().copied().eq(kept[0]..=acked), "the newest are there: {kept:?}");
    assert_eq!(publish(&gateway, 10, 20, 10), 20);
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
