//! The image for boards: made twice, booted, its plug pulled ten times, updated, and given what is
//! wrong. Only with `tests/run --boards` (`WEIR_TESTS_BOARDS`): this takes over half an hour.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use weir_tests::board::{Guest, Ledgers, Machine, firmware_of, take};
use weir_tests::{cache, folder, root, say, skipped, tools};

const BOOT_MAX: Duration = Duration::from_secs(600);
/// The image without its log, unpacked.
const UNPACKED_MIB_MAX: u64 = 500;
/// Of the whole system, with an idle Weir.
const MEMORY_MIB_MAX: u64 = 120;
/// Of weir.service, from 0 to 10, as systemd reckons it.
const EXPOSURE_MAX: f64 = 2.0;

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

/// The report, and what the board has printed when it got its power for the last time.
fn boot_test(image: &Path, args: &[&str]) -> (String, String) {
    let folder = folder("boot-test");
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-boot-test"));
    command.arg(image).arg("--folder").arg(&folder).args(args);
    let report = tools::run_for(&mut command, Duration::from_secs(3_000)).success();
    say(&report);
    // A serial line that is switched on says more than text.
    let console = fs::read(folder.join("console")).unwrap();
    (report, String::from_utf8_lossy(&console).into_owned())
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
    assert!(!list.contains("/etc/hostname"), "the name of the machine that made it");
    let shadow = cat("etc/shadow").success();
    assert!(shadow.lines().any(|line| line.starts_with("root:*:")), "root has a password");
    let unpacked = fs::read_to_string(boards_cache().join("root.mib")).unwrap();
    let firmware = 60;
    assert!(unpacked.trim().parse::<u64>().unwrap() + firmware < UNPACKED_MIB_MAX, "{unpacked}");
}

#[test]
fn a_plug_that_is_pulled_ten_times_loses_nothing_that_was_acknowledged() {
    let Some(parts) = parts() else { return };
    let (report, console) = boot_test(parts.plain_image(), &["--cycles", "10"]);
    assert_little_memory(&report);
    for line in ["OPEN:", "board: QEMU -M virt", "medium: ssd", "memory: 128M"] {
        assert!(console.contains(line), "{line}:\n{console}");
    }
}

/// Each card makes a host key of its own at its first boot, and says which.
fn assert_own_key(console: &str) {
    static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let (_, key) = console.rsplit_once("host key is SHA256:").expect(console);
    let key: String = key.chars().take_while(|letter| !letter.is_whitespace()).collect();
    assert_eq!(key.len(), 43, "{key}");
    assert!(SEEN.lock().unwrap().insert(key), "two cards have the same host key");
}

fn assert_little_memory(report: &str) {
    let (_, memory) = report.rsplit_once("at worst; ").unwrap();
    let memory: u64 = memory.split(' ').next().unwrap().parse().unwrap();
    assert!(memory < MEMORY_MIB_MAX, "{memory} MiB are in use");
}

#[test]
fn a_raspberry_pi_3_boots_the_image_and_survives_a_pulled_plug() {
    let Some(parts) = parts() else { return };
    let args = ["--cycles", "1", "--machine", "raspi3b"];
    let (report, console) = boot_test(parts.plain_image(), &args);
    assert_little_memory(&report);
    assert_own_key(&console);
    for line in ["OPEN:", "board: Raspberry Pi 3", "medium: sd", "memory: 192M"] {
        assert!(console.contains(line), "{line}:\n{console}");
    }
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
    let orders = ["--open", "--node-id", "7", "--mirror", "central.example:9092"];
    let image = parts.image("open.img", &orders);
    let mut guest = parts.guest("update", &image, "").with_packets_recorded();
    let ledgers = Ledgers::default();
    let update = |guest: &Guest, package: &Path| {
        let bytes = fs::read(package).unwrap();
        let command = "cat >/tmp/new.deb && weir-update install /tmp/new.deb 2>&1";
        say(&guest.ssh(&parts.key, command, &bytes).stdout);
    };
    guest.boot(BOOT_MAX).unwrap();
    it_runs_as_it_was_made(parts, &guest);
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
    guest.watchdog = true;
    guest.boot(BOOT_MAX).unwrap();
    ledgers.check(guest.kafka_port).unwrap();
    let status = parts.ask(&guest, "weir-update status");
    assert!(status.contains("failed and rolled back"), "{status}");
    let refused = guest.ssh(&parts.key, "weir-update install /etc/passwd", b"");
    assert!(refused.stderr.contains("is no Debian package"), "{}", refused.stderr);
    a_hanging_kernel_is_reset(parts, &mut guest);
    guest.boot(BOOT_MAX).unwrap();
    ledgers.check(guest.kafka_port).unwrap();
}

/// By the hardware's watchdog: the kernel itself is told to stay in its panic.
fn a_hanging_kernel_is_reset(parts: &Parts, guest: &mut Guest) {
    let armed = parts.ask(guest, "cd /sys/class/watchdog/watchdog0; cat state timeout");
    assert_eq!(armed, "active\n14\n");
    let hang = "echo 0 >/proc/sys/kernel/panic; sync; \
                (sleep 2; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &";
    parts.ask(guest, hang);
    guest.wait_for_console("sysrq triggered crash", Duration::from_secs(60)).unwrap();
    guest.wait_for_the_end(Duration::from_secs(120)).unwrap();
}

/// What systemd makes of the unit, and the kernel of the file systems.
fn it_runs_as_it_was_made(parts: &Parts, guest: &Guest) {
    guest.wait_for_console("OPEN:", BOOT_MAX).unwrap();
    let unit = parts.ask(guest, "systemctl show weir.service; cat /proc/$(pidof weir)/status");
    for line in [
        "FragmentPath=/usr/lib/systemd/system/weir.service",
        "ActiveState=active",
        "NRestarts=0",
        "User=weir",
        "WatchdogUSec=30s",
        "MemoryMax=134217728",
        "ProtectSystem=strict",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(unit.lines().any(|found| found == line), "{line} is missing in\n{unit}");
    }
    // Its own file systems: the root is there to read, devices are closed but for the log.
    let inside = parts.ask(
        guest,
        "inside() { nsenter -t $(pidof weir) -m -- \"$@\"; }; inside findmnt -no OPTIONS /; \
         inside touch /usr/x 2>&1 || true; systemd-analyze security --no-pager weir.service",
    );
    assert!(inside.starts_with("ro,"), "{inside}");
    assert!(inside.contains("Read-only file system"), "{inside}");
    let (_, level) = inside.rsplit_once("exposure level for weir.service: ").unwrap();
    let exposure: f64 = level.split(' ').next().unwrap().parse().unwrap();
    assert!(exposure < EXPOSURE_MAX, "{inside}");
    say(&format!("systemd-analyze security: {}", level.trim()));
    say(&parts.ask(guest, "systemd-analyze critical-chain weir.service 2>&1 || true"));
    let system = parts.ask(
        guest,
        "findmnt -no FSTYPE,OPTIONS /run/gateway/image; findmnt -no FSTYPE /; \
         ls /var/log/journal 2>&1 || true; systemctl show -P RuntimeWatchdogUSec; \
         echo $(cat /sys/class/block/vda4/start /sys/class/block/vda4/size /sys/block/vda/size)",
    );
    for part in ["squashfs ro,", "\noverlay\n", "No such file", "\n14s\n"] {
        assert!(system.contains(part), "{part}:\n{system}");
    }
    let orders = parts.ask(guest, "cat /run/gateway/weir.env /run/gateway/weir.toml");
    assert!(orders.contains("WEIR_NODE_ID=7\n"), "{orders}");
    assert!(orders.contains("bootstrap = [\"central.example:9092\"]"), "{orders}");
    // The log's partition begins at a multiple of 4 MiB, and has grown to the end of the card.
    let sectors = system.lines().last().unwrap().split(' ').map(|number| number.parse().unwrap());
    let sectors: Vec<u64> = sectors.collect();
    assert_eq!(sectors[0] % 8_192, 0, "{system}");
    assert_eq!(sectors[0] + sectors[1], sectors[2], "{system}");
    assert!(guest.network_has_seen(b"\x07gw-test\x05local"), "mDNS does not say where it is");
}

#[test]
fn a_broken_configuration_is_named_by_a_gateway_that_is_reachable_all_the_same() {
    let Some(parts) = parts() else { return };
    let config = parts.folder.join("weir.toml");
    fs::write(&config, "[kafka]\nlisten_to = \"everybody\"\n").unwrap();
    let password = parts.folder.join("password");
    fs::write(&password, "password\n").unwrap();
    let wifi = format!("IEEE:{}:DE", password.display());
    let args = ["--config", config.to_str().unwrap(), "--wifi", &wifi];
    let image = parts.image("broken.img", &args);
    let mut guest = parts.guest("broken-config", &image, "");
    guest.power_on().unwrap();
    guest.wait_for_console("Weir is NOT ready", BOOT_MAX).unwrap();
    guest.wait_for_console("memory in use", BOOT_MAX).unwrap();
    assert!(guest.console().contains("listen_to"), "{}", guest.console());
    assert_own_key(&guest.console());
    let report = parts.ask(&guest, "cat /run/gateway/report; date +%Y; ss -ltn");
    assert!(report.contains("listen_to"), "{report}");
    assert!(report.contains("closed:"), "{report}");
    // The clock of this board began in 1970.
    assert!(!report.contains("\n19"), "{report}");
    assert!(!report.contains("0.0.0.0:9092"), "{report}");
    // What IEEE 802.11 gives as the key of this name and password; the password is on no card.
    let wifi = parts.ask(&guest, "cat /etc/wpa_supplicant/*.conf /boot/firmware/gateway.conf");
    assert!(wifi.contains("psk=f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"));
    assert!(wifi.contains("ssid=49454545\n") && wifi.contains("country=DE\n"), "{wifi}");
    assert!(!wifi.contains("password"), "{wifi}");
}

#[test]
fn a_gateway_without_a_network_and_with_wrong_files_on_its_card_starts_and_says_so() {
    let Some(parts) = parts() else { return };
    let mut guest = parts.guest("no-network", parts.plain_image(), "").without_network();
    let wrong = parts.folder.join("wrong");
    fs::create_dir_all(&wrong).unwrap();
    fs::write(wrong.join("authorized_keys"), "no key at all\n").unwrap();
    fs::write(wrong.join("gateway.conf"), "hostname=Pump 7\nmirror=nowhere\ncolour=red\n").unwrap();
    let place = firmware_of(&guest.disk()).unwrap();
    for file in ["authorized_keys", "gateway.conf"] {
        let mut copy = Command::new("mcopy");
        copy.args(["-n", "-o", "-i", &place]).arg(wrong.join(file)).arg("::");
        tools::run(&mut copy).success();
    }
    guest.power_on().unwrap();
    guest.wait_for_console("memory in use", BOOT_MAX).unwrap();
    guest.wait_for_console("HOST:PORT", BOOT_MAX).unwrap();
    let console = guest.console();
    assert_own_key(&console);
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
