//! Images for boards: made, written to cards, booted in QEMU, and their plugs pulled.
//!
//! This boots a tiny image: Debian's kernel for arm64, busybox and Weir, with the log as its only
//! disk. `board_image` has the image that users get.

#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use weir_tests::loopback::Loop;
use weir_tests::tools::{self, Output};
use weir_tests::{cache, folder, root, say, skipped};

fn script(name: &str) -> Command {
    Command::new(root().join("boards").join(name))
}

/// Weir for arm64: `WEIR_BIN_ARM64`, or the first that asks for it builds it; `None`, and said,
/// where this machine cannot.
fn weir_for_arm64() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        if let Some(binary) = std::env::var_os("WEIR_BIN_ARM64") {
            return Some(binary.into());
        }
        let target = "aarch64-unknown-linux-gnu";
        let mut build = Command::new(root().join("cross/build"));
        let built =
            tools::run_for(build.arg(target).current_dir(root()), Duration::from_secs(2_400));
        if built.code != Some(0) {
            skipped(&format!("boards: weir cannot be built for arm64 here: {}", built.stderr));
            return None;
        }
        Some(root().join("target").join(target).join("release/weir"))
    });
    built.as_deref()
}

/// A tiny image, made once.
fn tiny() -> Option<&'static Path> {
    static MADE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let (weir, folder) = (weir_for_arm64()?, folder("tiny-image"));
        let mut tiny = script("tiny");
        tiny.arg(weir).arg(&folder);
        if std::env::var_os("WEIR_BOARDS_CACHE").is_none() {
            tiny.env("WEIR_BOARDS_CACHE", cache().join("boards"));
        }
        let made = tools::run_for(&mut tiny, Duration::from_secs(600));
        if made.code != Some(0) {
            skipped(&format!("boards: no tiny image here: {}", made.stderr));
            return None;
        }
        Some(folder)
    });
    made.as_deref()
}

fn boot_test(image: &Path, args: &[&str], minutes: u64) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-boot-test"));
    command.arg(image).arg("--folder").arg(folder("boot-test")).args(args);
    tools::run_for(&mut command, Duration::from_secs(60 * minutes))
}

#[test]
fn a_plug_that_is_pulled_three_times_loses_nothing_that_was_acknowledged() {
    let Some(tiny) = tiny() else { return };
    say(&boot_test(tiny, &["--cycles", "3"], 10).success());
}

#[test]
fn a_disk_that_forgets_what_it_has_flushed_is_found_out() {
    let Some(tiny) = tiny() else { return };
    let output = boot_test(tiny, &["--cycles", "1", "--lies"], 10);
    assert_eq!(output.code, Some(1), "{}", output.stdout);
    assert!(output.stderr.contains("acknowledged and is lost"), "{}", output.stderr);
}

#[test]
fn the_scripts_of_boards_are_clean() {
    let mut check = Command::new("shellcheck");
    check.current_dir(root()).args(["--external-sources", "--source-path=."]);
    check.arg("--severity=warning");
    let mut found = 0;
    for file in files(&root().join("boards")) {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let head: Vec<&str> = text.lines().take(3).collect();
        if head.iter().any(|line| line.starts_with("#!") || line.contains("shellcheck shell=")) {
            check.arg(file.strip_prefix(root()).unwrap());
            found += 1;
        }
    }
    assert!(found > 10, "only {found} scripts");
    tools::run(&mut check).success();
}

/// What `boards/image` and the gateway's own `setup` take from a profile.
const SETTINGS: [&str; 19] = [
    "name",
    "architecture",
    "kernel",
    "compatible",
    "device_trees",
    "firmware",
    "modules",
    "partition_table",
    "first_mib",
    "firmware_mib",
    "state_mib",
    "log_mib",
    "memory_max",
    "flash_bytes",
    "checkpoint_bytes",
    "flush_window",
    "flushes_per_second_sd",
    "flushes_per_second_emmc",
    "flushes_per_second_ssd",
];

#[test]
fn a_profile_of_a_board_says_all_that_is_taken_from_it() {
    let script = "source \"$0\"; [[ -z ${unsupported-} ]] || exit 0\n\
                  for setting; do [[ -v $setting ]] || echo \"$0: no $setting\"; done";
    for profile in files(&root().join("boards/profiles")) {
        let missing =
            tools::run(Command::new("bash").arg("-c").arg(script).arg(&profile).args(SETTINGS));
        assert_eq!(missing.success(), "");
    }
}

/// The gateway's own function, on a made-up `/sys/block`.
#[test]
fn a_card_an_emmc_and_a_disk_are_told_apart_by_what_the_kernel_says() {
    let blocks = folder("sys-block");
    for (disk, kind) in [("mmcblk0", Some("SD")), ("mmcblk1", Some("MMC")), ("sda", None)] {
        let device = blocks.join(disk).join("device");
        fs::create_dir_all(&device).unwrap();
        if let Some(kind) = kind {
            fs::write(device.join("type"), format!("{kind}\n")).unwrap();
        }
    }
    let setup = root().join("boards/gateway/root/usr/lib/weir-gateway/setup");
    let ask = "mount --bind \"$1\" /sys/block && source <(sed -n '/^find_medium() {/,/^}/p' \"$2\")
        for disk in /dev/mmcblk0 /dev/mmcblk1 /dev/sda; do find_medium; echo \"$medium\"; done";
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-c", ask, "ask"]).arg(&blocks).arg(setup);
    assert_eq!(tools::run(&mut command).success(), "sd\nemmc\nssd\n");
}

#[test]
fn a_file_more_is_a_board_more() {
    let folder = folder("profiles");
    tools::run(Command::new("cp").arg("-r").arg(root().join("boards")).arg(&folder)).success();
    let profiles = folder.join("boards/profiles");
    let other = fs::read_to_string(profiles.join("virt")).unwrap();
    let other = other.replace("linux-image-arm64", "linux-image-other");
    fs::write(profiles.join("other"), other.replace("virtio_blk", "other_mmc")).unwrap();
    let list = tools::run(Command::new(folder.join("boards/image")).arg("--list")).success();
    assert!(list.lines().any(|line| line.starts_with("other ")), "{list}");
    // Boards that agree on kernel and card share an image, which has the modules of all.
    let script = "source \"$0\"; load_profile $1; echo $(of_the_same_image modules)";
    let modules = |board: &str| {
        let mut bash = Command::new("bash");
        bash.args(["-euc", script]).arg(folder.join("boards/lib")).arg(board);
        tools::run(&mut bash).success()
    };
    assert_eq!(modules("virt"), modules("raspberry-pi-5"));
    assert!(modules("virt").contains("virtio_blk") && !modules("virt").contains("other_mmc"));
    assert!(modules("other").contains("other_mmc") && !modules("other").contains("sdhci"));
    fs::remove_dir_all(folder).unwrap();
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Runs a script that has to fail with a sentence that says this.
fn refused(command: &mut Command, sentence: &str) {
    let output = tools::run(command);
    assert!(matches!(output.code, Some(1 | 2)), "{}\n{}", output.what, output.stderr);
    assert!(output.stderr.contains(sentence), "{}\n{}", output.what, output.stderr);
}

/// A pair of keys in a folder.
fn key_pair(folder: &Path) -> (PathBuf, PathBuf) {
    let key = folder.join("key");
    let mut keygen = Command::new("ssh-keygen");
    tools::run(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key)).success();
    (key.clone(), key.with_extension("pub"))
}

fn image(args: &[&OsStr]) -> Command {
    let mut image = script("image");
    image.args(args);
    image
}

#[test]
fn what_is_wrong_with_an_order_for_an_image_is_said_before_anything_is_fetched() {
    let folder = folder("image-orders");
    let (private, public) = key_pair(&folder);
    let text = folder.join("text");
    fs::write(&text, "no key\n").unwrap();
    let key = public.as_os_str();
    let good: Vec<&OsStr> = ["virt", "--hostname", "gw1", "--authorized-key"]
        .iter()
        .map(OsStr::new)
        .chain([key])
        .collect();
    let with = |more: &[&str]| {
        image(&[&good[..], &more.iter().map(OsStr::new).collect::<Vec<_>>()].concat())
    };
    let named = |board: &str, name: &str, key: &Path| {
        let mut image = script("image");
        image.args([board, "--hostname", name, "--authorized-key"]).arg(key);
        image
    };
    refused(&mut named("beagle", "gw1", &public), "there is no board beagle");
    refused(&mut named("raspberry-pi-1", "gw1", &public), "older than Debian's packages want");
    refused(&mut named("raspberry-pi-2", "gw1", &public), "it has 32 bits");
    refused(&mut named("virt", "Pump_7", &public), "letters a to z, digits and - only");
    refused(&mut named("virt", "gw1", &private), "is a private key, which belongs on no card");
    refused(&mut named("virt", "gw1", &text), "is no public key of ssh");
    refused(&mut named("virt", "gw1", &folder.join("none")), "there is no file");
    refused(&mut image(&good[..3]), "--authorized-key is missing");
    refused(&mut with(&["--mirror", "kafka"]), "write it as HOST:PORT");
    refused(&mut with(&["--node-id", "x"]), "a number of at most nine digits");
    refused(&mut with(&["--wifi", "shed"]), "write it as SSID:FILE");
    let wifi = format!("shed:{}", text.display());
    refused(&mut with(&["--wifi", &wifi]), "a password of a wireless network has 8 to 63");
    refused(&mut with(&["--weir", "/none.deb"]), "there is no file /none.deb");
    refused(&mut with(&["--colour", "red"]), "there is no option --colour");
    // A machine without mtools.
    let bin = folder.join("bin");
    fs::create_dir(&bin).unwrap();
    for tool in fs::read_dir("/usr/bin").unwrap().map(|entry| entry.unwrap()) {
        if tool.file_name() != "mcopy" {
            std::os::unix::fs::symlink(tool.path(), bin.join(tool.file_name())).unwrap();
        }
    }
    refused(with(&[]).env("PATH", &bin), "apt-get install --no-install-recommends mtools");
    if let Some(mut small) = Loop::new(&folder, 24 << 20) {
        let at = folder.join("small");
        small.mount(&at);
        let package = text.to_string_lossy();
        let mut image = with(&["--weir", &package]);
        refused(image.env("WEIR_BOARDS_CACHE", at), "MiB free and what comes from Debian needs");
    }
    fs::remove_dir_all(folder).unwrap();
}

/// A file that passes for an image of a disk, with something in each MiB.
fn some_image(folder: &Path, mib: usize) -> PathBuf {
    let path = folder.join("some.img");
    let mut bytes: Vec<u8> = (0..mib << 20).map(|at| (at >> 12) as u8 ^ (at >> 20) as u8).collect();
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_card_holds_the_image_or_the_flash_fails() {
    let folder = folder("flash");
    let image = some_image(&folder, 9);
    let card = |name: &str, bytes: u64| {
        let card = folder.join(name);
        File::create(&card).unwrap().set_len(bytes).unwrap();
        card
    };
    let flash = |device: &Path| {
        let mut flash = script("flash");
        flash.arg(&image).arg(device);
        flash
    };
    let good = card("card", 64 << 20);
    refused(&mut flash(&good), "--yes says so");
    let said = tools::run(flash(&good).arg("--yes"));
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stderr.contains("read back to the last byte"), "{}", said.stderr);
    assert_eq!(fs::read(&good).unwrap()[..9 << 20], fs::read(&image).unwrap());
    refused(flash(&card("small", 8 << 20)).arg("--yes"), "take a larger card");
    refused(flash(&card("disk", 600 << 30)).arg("--yes"), "too large to be a card");
    refused(flash(&folder.join("none")).arg("--yes"), "there is no");
    refused(script("flash").arg(&good).arg(&image).arg("--yes"), "take a larger card");
    refused(script("flash").arg(root().join("Cargo.toml")).arg(&good), "is no image of a disk");
    // A card that changes a byte of what it was given.
    let broken = card("broken", 64 << 20);
    let bin = folder.join("bin");
    fs::create_dir(&bin).unwrap();
    let dd = "#!/bin/sh\n/usr/bin/dd \"$@\" || exit\ncase \"$*\" in *if=*some.img*) printf x | \
              /usr/bin/dd of=\"$BROKEN\" bs=1 seek=5000000 conv=notrunc status=none ;; esac\n";
    fs::write(bin.join("dd"), dd).unwrap();
    tools::run(Command::new("chmod").arg("+x").arg(bin.join("dd"))).success();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = flash(&broken);
    command.arg("--yes").env("PATH", path).env("BROKEN", &broken);
    refused(&mut command, "does not hold what was written to it");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_disk_that_is_in_use_or_the_systems_own_is_not_written_to() {
    let folder = folder("flash-refusals");
    let image = some_image(&folder, 4);
    let Some(mut disk) = Loop::new(&folder, 64 << 20) else { return };
    let flash = |device: &Path, yes: usize| {
        let mut flash = script("flash");
        flash.arg(&image).arg(device).args(vec!["--yes"; yes]);
        flash
    };
    tools::run(&mut flash(&disk.device, 1)).success();
    disk.mount(&folder.join("mounted"));
    refused(&mut flash(&disk.device, 1), "is in use: it is mounted on");
    tools::run(&mut flash(&disk.device, 2)).success();
    let root = tools::run(Command::new("findmnt").args(["-no", "SOURCE", "/"])).success();
    let root = Path::new(root.trim());
    if root.starts_with("/dev") && root.exists() {
        let disk = tools::run(Command::new("lsblk").args(["-nrso", "PATH"]).arg(root)).success();
        // Never with a word that would let it happen.
        refused(
            &mut flash(Path::new(disk.lines().last().unwrap()), 0),
            "the system that is running",
        );
    }
}
