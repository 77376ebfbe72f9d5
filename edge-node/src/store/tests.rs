//! Data folders and their logs: what is taken, and what is refused and left as it was.

use super::*;
use crate::config::{Flash, Flushes};
use std::os::unix::fs::FileExt;
use std::time::Duration;
use weir_core::log::inspect;
use weir_core::log::{Card, FlushCap, Io, YEAR_SECONDS};

fn flash(bytes: u64) -> Flash {
    Flash {
        path: None,
        bytes: Some(bytes),
        slot_bytes: None,
        flushes: Flushes::ByMedium,
        window: Duration::ZERO,
        checkpoint_bytes: None,
        card: None,
        scrub: None,
    }
}

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("weir-store-{}-{name}", std::process::id()))
}

/// Starts as a node does, and formats the log if it is new.
fn started(folder: &Path, flash: &Flash) -> Result<Store, String> {
    let (mut store, file) = Store::open(folder, 1, flash)?;
    if store.bytes == 0 {
        inspect::format(store.start, 1, &mut |io| match io {
            Io::Write { at, bytes, .. } => file.write_all_at(bytes, *at),
            _ => Ok(()),
        })
        .unwrap();
    }
    store.started()?;
    Ok(store)
}

/// A folder with a log that was stopped, and that log.
fn with_log(name: &str) -> (PathBuf, PathBuf) {
    let folder = folder(name);
    started(&folder, &flash(64 << 20)).unwrap().stopped();
    let log = folder.join("flash.log");
    (folder, log)
}

/// Opening the folder fails with these words, and leaves the log as it is.
fn refused(folder: &Path, log: &Path, words: &[&str]) {
    let before = fs::read(log).unwrap_or_default();
    let said = Store::open(folder, 1, &flash(64 << 20)).unwrap_err();
    for word in words {
        assert!(said.contains(word), "does not say {word}: {said}");
    }
    assert!(fs::read(log).unwrap_or_default() == before, "the log was changed");
}

#[test]
fn a_folder_is_used_by_one_at_a_time_and_keeps_its_log() {
    let folder = folder("lock");
    let store = started(&folder, &flash(64 << 20)).unwrap();
    let Start::Format { slots: 14, slot_bytes: 0x40_0000, store: uuid } = store.start else {
        panic!("{:?}", store.start)
    };
    let error = Store::open(&folder, 1, &flash(64 << 20)).unwrap_err();
    assert!(error.contains("in use") && error.contains(&std::process::id().to_string()));
    drop(store);
    let store = started(&folder, &flash(64 << 20)).unwrap();
    assert_eq!((store.start, &store.store), (Start::Recover, &store_name(&uuid)));
    let same = Flash { path: Some(folder.join("flash.log")), ..flash(64 << 20) };
    let error = Store::open(&folder.join("elsewhere"), 1, &same).unwrap_err();
    assert!(error.contains("in use"), "one log, two folders: {error}");
    drop(store);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_log_that_does_not_fit_is_refused_with_advice() {
    let folder = folder("fit");
    for (bytes, words) in [(1 << 60, "--set flash.bytes="), (32 << 20, "at least 64 MiB")] {
        let error = Store::open(&folder, 1, &flash(bytes)).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_log_never_takes_more_than_flash_bytes() {
    for bytes in [64 << 20, 100 << 20, 8 << 30, (8 << 30) + 1, 32 << 30, 100_000_000_000] {
        let start = size::figures(bytes, None).unwrap();
        let Start::Format { slot_bytes, slots, .. } = start else { panic!("{start:?}") };
        let all = inspect::bytes_of(slot_bytes, slots);
        assert!(all <= bytes && bytes - all < u64::from(slot_bytes), "{bytes}: {all}");
    }
    let (folder, _) = with_log("budget");
    let smaller = Flash { bytes: Some(32 << 20), ..flash(0) };
    let said = Store::open(&folder, 1, &smaller).unwrap_err();
    assert!(said.contains("67108864") && said.contains("keeps its size"), "{said}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_log_of_another_store_is_refused() {
    let (folder, log) = with_log("other");
    let (donor, theirs) = with_log("donor");
    fs::copy(&theirs, &log).unwrap();
    refused(&folder, &log, &["identity.toml", "delete"]);
    fs::remove_file(folder.join("identity.toml")).unwrap();
    drop(started(&folder, &flash(64 << 20)).unwrap());
    assert!(folder.join("identity.toml").exists(), "it goes on with this log");
    for folder in [folder, donor] {
        fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn a_log_that_is_missing_is_not_begun_anew_by_itself() {
    let (folder, log) = with_log("missing");
    fs::remove_file(&log).unwrap();
    refused(&folder, &log, &["missing", "not mounted", "identity.toml"]);
    assert!(!log.exists() && !folder.join("flash.log.new").exists());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_log_that_was_cut_short_is_refused() {
    let (folder, log) = with_log("short");
    let length = fs::metadata(&log).unwrap().len();
    File::options().write(true).open(&log).unwrap().set_len(length - 1).unwrap();
    refused(&folder, &log, &["cut short", "truncate -s"]);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_file_elsewhere_is_a_log_and_counters_outlive_restarts() {
    let folder = folder("path");
    fs::create_dir_all(folder.join("card")).unwrap();
    let elsewhere = Flash { path: Some(folder.join("card/weir.log")), ..flash(64 << 20) };
    let data = folder.join("data");
    let mut store = started(&data, &elsewhere).unwrap();
    store.past.life.flushes = 77;
    store.stopped();
    drop(store);
    assert!(folder.join("card/weir.log").exists() && !data.join("flash.log").exists());
    let store = started(&data, &elsewhere).unwrap();
    assert_eq!((store.start, store.past.life.flushes), (Start::Recover, 77));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_format_asks_before_it_overwrites() {
    let folder = folder("format");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("card.img");
    let formatting = |yes| Formatting { bytes: Some(64 << 20), slot_bytes: None, node: 1, yes };
    for (content, at, enough) in [
        (&b""[..], 0, 0),
        (b"holiday pictures", 9_000, 1),
        (b"XFSB", 0, 2),
        (b"SWAPSPACE2", 4086, 2),
        (b"WEIRLOG\n", 0, 2),
    ] {
        fs::write(&path, []).unwrap();
        File::options().write(true).open(&path).unwrap().write_all_at(content, at).unwrap();
        let before = fs::read(&path).unwrap();
        for yes in 0..enough {
            let said = format(&path, &formatting(yes)).unwrap_err();
            assert!(said.contains("nothing was changed") && said.contains("--yes"), "{said}");
            assert!(fs::read(&path).unwrap() == before);
        }
        let made = format(&path, &formatting(enough)).unwrap();
        let file = File::open(&path).unwrap();
        let found = superblock(&mut |at, len| read(&file, at, len)).unwrap();
        assert_eq!((found.store, found.slots), (made.store, made.slots));
    }
    let said = format(Path::new("/dev/weir-none"), &formatting(2)).unwrap_err();
    assert!(said.contains("no block device"), "{said}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_cap_comes_from_the_card_the_configuration_or_the_medium() {
    let card = Card { endurance_bytes: 30_000_000_000_000, wanted_seconds: 10 * YEAR_SECONDS };
    let past = Past::default();
    let (cap, said) = flush_cap(&Flash { card: Some(card), ..flash(0) }, &past, &Medium::SdCard);
    assert_eq!(cap, Some(FlushCap { per_second: 5, burst: 25 }));
    assert!(said.contains("30.0 TB in 10.0 years"), "{said}");
    let (cap, _) = flush_cap(&flash(0), &past, &Medium::SdCard);
    assert_eq!(cap, Some(FlushCap { per_second: 20, burst: 100 }));
    assert_eq!(flush_cap(&flash(0), &past, &Medium::Ssd).0, None);
}
