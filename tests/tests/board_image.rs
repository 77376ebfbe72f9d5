//! The image for boards: made twice, booted, its plug pulled ten times, updated, and given what is
//! wrong. Only with `tests/run --boards` (`WEIR_TESTS_BOARDS`): this takes over half an hour.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use weir_tests::board::{Guest, Ledgers, Machine, take};
use weir_tests::{cache, folder, root, say, skipped, tools};

const BOOT_MAX: Duration = Duration::from_secs(600);
/// The image without its log, unpacked.
const UNPACKED_MIB_MAX: u64 = 500;
/// Of the whole system, with an idle Weir.
const MEMORY_MIB_MAX: u64 = 120;

/// What all images of these tests are made of.
struct Parts {
    folder: PathBuf,
    /// The private key that may log in; its public half ends in `.pub`.
    key: PathBuf,
    package: PathBuf,
}

/// `None`, and said, in a plain run.
fn parts() -> Option<&'static Parts> {
    static PARTS: OnceLock<Option<Parts>> = OnceLock::new();
    let made = PARTS.get_or_init(|| {
        if std::env::var_os("WEIR_TESTS_BOARDS").is_none() {
            skipped("the image for boards, and its boots on a Raspberry Pi 3: tests/run --boards");
            return None;
        }
        let (folder, target) = (folder("board-image"), "aarch64-unknown-linux-gnu");
        let mut package = Command::new(root().join("boards/package"));
        package.arg(target);
        if let Some(binary) = std::env::var_os("WEIR_BIN_ARM64") {
            package.arg("--binary").arg(binary);
        }
        let package = tools::run_for(&mut package, Duration::from_secs(2_400)).success();
        let key = folder.join("key");
        let mut keygen = Command::new("ssh-keygen");
        tools::run(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key)).success();
        Some(Parts { folder, key, package: package.trim().into() })
    });
    made.as_ref()
}

impl Parts {
    /// Makes an image; what was fetched from Debian is kept in the cache of the tests.
    fn image(&self, name: &str, args: &[&str]) -> PathBuf {
        let out = self.folder.join(name);
        let mut image = Command::new(root().join("boards/image"));
        image.args(["raspberry-pi-3", "--hostname", "gw-test", "--authorized-key"]);
        image.arg(self.key.with_extension("pub")).arg("--weir").arg(&self.package);
        image.arg("--out").arg(&out).args(args).env("WEIR_BOARDS_CACHE", boards_cache());
        let made = tools::run_for(&mut image, Duration::from_secs(2_400));
        assert_eq!(made.code, Some(0), "{}", made.stderr);
        say(&made.stderr);
        out
    }

    /// The image of most tests.
    fn plain_image(&self) -> &'static Path {
        static IMAGE: OnceLock<PathBuf> = OnceLock::new();
        IMAGE.get_or_init(|| self.image("plain.img", &[]))
    }

    fn guest(&self, name: &str, image: &Path, words: &str) -> Guest {
        let folder = self.folder.join(name);
        Guest::new(take(image, &folder, Machine::Virt, words).unwrap(), &folder)
    }

    /// What a command on the board prints.
    fn ask(&self, guest: &Guest, command: &str) -> String {
        guest.ssh(&self.key, command, b"").success()
    }
}

fn boards_cache() -> PathBuf {
    std::env::var_os("WEIR_BOARDS_CACHE").map_or_else(|| cache().join("boards"), PathBuf::from)
}

fn boot_test(image: &Path, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-boot-test"));
    command.arg(image).arg("--folder").arg(folder("boot-test")).args(args);
    tools::run_for(&mut command, Duration::from_secs(3_000)).success()
}

#[test]
fn the_same_inputs_give_the_same_bytes_and_none_of_them_is_a_key() {
    let Some(parts) = parts() else { return };
    let first = fs::read(parts.plain_image()).unwrap();
    fs::remove_file(boards_cache().join("root.squashfs.key")).unwrap();
    let second = fs::read(parts.image("again.img", &[])).unwrap();
    assert!(first == second, "two images of the same inputs differ");
    let squashfs = boards_cache().join("root.squashfs");
    let list = tools::run(Command::new("unsquashfs").arg("-lls").arg(&squashfs)).success();
    assert!(list.contains("/usr/bin/weir"), "{list}");
    let key = list.lines().find(|line| line.contains("ssh_host_") && line.contains("_key"));
    assert_eq!(key, None, "a host key is the same on every card");
    let cat = |file| tools::run(Command::new("unsquashfs").arg("-cat").arg(&squashfs).arg(file));
    assert_eq!(cat("etc/machine-id").success(), "");
    assert!(cat("etc/shadow").success().starts_with("root:*:"), "root has a password");
    let unpacked = fs::read_to_string(boards_cache().join("root.mib")).unwrap();
    let firmware = 60;
    assert!(unpacked.trim().parse::<u64>().unwrap() + firmware < UNPACKED_MIB_MAX, "{unpacked}");
}

#[test]
fn a_plug_that_is_pulled_ten_times_loses_nothing_that_was_acknowledged() {
    let Some(parts) = parts() else { return };
    let report = boot_test(parts.plain_image(), &["--cycles", "10"]);
    say(&report);
    assert_little_memory(&report);
}

fn assert_little_memory(report: &str) {
    let (_, memory) = report.rsplit_once("at worst; ").unwrap();
    let memory: u64 = memory.split(' ').next().unwrap().parse().unwrap();
    assert!(memory < MEMORY_MIB_MAX, "{memory} MiB are in use");
}

#[test]
fn a_raspberry_pi_3_boots_the_image_and_survives_a_pulled_plug() {
    let Some(parts) = parts() else { return };
    let report = boot_test(parts.plain_image(), &["--cycles", "1", "--machine", "raspi3b"]);
    say(&report);
    assert_little_memory(&report);
}

/// A package whose weir starts well enough to be installed, and never becomes ready.
fn broken_package(parts: &Parts) -> PathBuf {
    let tree = parts.folder.join("broken");
    let out = parts.folder.join("broken.deb");
    tools::run(Command::new("dpkg-deb").arg("-R").arg(&parts.package).arg(&tree)).success();
    let weir =
        "#!/bin/sh\n[ \"$1\" != --version ] || { echo weir broken; exit; }\necho no >&2\nexit 1\n";
    fs::write(tree.join("usr/bin/weir"), weir).unwrap();
    let control = fs::read_to_string(tree.join("DEBIAN/control")).unwrap();
    let newer = control.replace("Version: ", "Version: 1:");
    fs::write(tree.join("DEBIAN/control"), newer).unwrap();
    let mut build = Command::new("dpkg-deb");
    tools::run(build.args(["--root-owner-group", "-b"]).arg(&tree).arg(&out)).success();
    out
}

#[test]
fn an_update_is_kept_when_it_becomes_ready_and_rolled_back_when_not() {
    let Some(parts) = parts() else { return };
    let mut guest = parts.guest("update", parts.plain_image(), "weir.open");
    let ledgers = Ledgers::default();
    let update = |guest: &Guest, package: &Path| {
        let bytes = fs::read(package).unwrap();
        let command = "cat >/tmp/new.deb && weir-update install /tmp/new.deb 2>&1";
        say(&guest.ssh(&parts.key, command, &bytes).stdout);
    };
    guest.boot(BOOT_MAX).unwrap();
    guest.publish_for(&ledgers, Duration::from_secs(2));
    update(&guest, &parts.package);
    guest.wait_for_the_end(BOOT_MAX).unwrap();
    guest.boot(BOOT_MAX).unwrap();
    guest.wait_for_console("is kept", BOOT_MAX).unwrap();
    let status = parts.ask(&guest, "weir-update status");
    assert!(status.contains("update ") && !status.contains("being tried"), "{status}");
    ledgers.check(guest.kafka_port).unwrap();
    update(&guest, &broken_package(parts));
    guest.wait_for_the_end(BOOT_MAX).unwrap();
    // It tries the update, does not become ready, and switches itself off to start again.
    guest.power_on().unwrap();
    guest.wait_for_the_end(2 * BOOT_MAX).unwrap();
    guest.boot(BOOT_MAX).unwrap();
    ledgers.check(guest.kafka_port).unwrap();
    let status = parts.ask(&guest, "weir-update status");
    assert!(status.contains("failed and rolled back"), "{status}");
    let refused = guest.ssh(&parts.key, "weir-update install /etc/passwd", b"");
    assert!(refused.stderr.contains("is no Debian package"), "{}", refused.stderr);
}

#[test]
fn a_broken_configuration_is_named_by_a_gateway_that_is_reachable_all_the_same() {
    let Some(parts) = parts() else { return };
    let config = parts.folder.join("weir.toml");
    fs::write(&config, "[kafka]\nlisten_to = \"everybody\"\n").unwrap();
    let image = parts.image("broken.img", &["--config", config.to_str().unwrap()]);
    let mut guest = parts.guest("broken-config", &image, "");
    guest.power_on().unwrap();
    guest.wait_for_console("Weir is NOT ready", BOOT_MAX).unwrap();
    guest.wait_for_console("memory in use", BOOT_MAX).unwrap();
    assert!(guest.console().contains("listen_to"), "{}", guest.console());
    let report = parts.ask(&guest, "cat /run/gateway/report; date +%Y; ss -ltn");
    assert!(report.contains("listen_to"), "{report}");
    assert!(report.contains("closed:"), "{report}");
    // The clock of this board began in 1970.
    assert!(!report.contains("\n19"), "{report}");
    assert!(!report.contains("0.0.0.0:9092"), "{report}");
}

#[test]
fn a_gateway_without_a_network_and_with_wrong_files_on_its_card_starts_and_says_so() {
    let Some(parts) = parts() else { return };
    let mut guest = parts.guest("no-network", parts.plain_image(), "").without_network();
    let wrong = parts.folder.join("wrong");
    fs::create_dir_all(&wrong).unwrap();
    fs::write(wrong.join("authorized_keys"), "no key at all\n").unwrap();
    fs::write(wrong.join("gateway.conf"), "hostname=Pump 7\nmirror=nowhere\ncolour=red\n").unwrap();
    let place = format!("{}@@4M", guest.disk().display());
    for file in ["authorized_keys", "gateway.conf"] {
        let mut copy = Command::new("mcopy");
        copy.args(["-n", "-o", "-i", &place]).arg(wrong.join(file)).arg("::");
        tools::run(&mut copy).success();
    }
    guest.power_on().unwrap();
    guest.wait_for_console("memory in use", BOOT_MAX).unwrap();
    guest.wait_for_console("HOST:PORT", BOOT_MAX).unwrap();
    let console = guest.console();
    for sentence in [
        "Weir is ready",
        "no network yet",
        "line 1 is no public key of ssh",
        "there is no setting colour",
        "hostname is Pump 7",
        "mirror is nowhere",
    ] {
        assert!(console.contains(sentence), "{sentence}:\n{console}");
    }
}
