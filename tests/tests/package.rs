//! The Debian package, made of the arm64 build and installed in an arm64 Debian.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use weir_tests::arm::{ARM64, ARMV6, ARMV7, Debian, arm64_binary, built, script};
use weir_tests::tools::{command, run, run_for, signal};
use weir_tests::{free_port, skipped, wait_for};

/// The package, made once; nothing where there is no arm64 build.
fn package(what: &str) -> Option<PathBuf> {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let binary = arm64_binary(what)?;
    Some(MADE.get_or_init(|| packed(ARM64, &binary)).clone())
}

fn packed(target: &str, binary: &Path) -> PathBuf {
    let mut package = script("boards/package");
    package.arg(target).arg("--binary").arg(binary);
    PathBuf::from(run_for(&mut package, Duration::from_secs(600)).success().trim())
}

/// A Debian and the package's place in it.
fn debian_with_package(what: &str) -> Option<(Debian, &'static str)> {
    let package = package(what)?;
    let debian = Debian::new(what)?;
    fs::copy(package, debian.path("/root/weir.deb")).unwrap();
    Some((debian, "/root/weir.deb"))
}

#[test]
fn lintian_finds_no_error_in_the_package() {
    let Some(package) = package("lintian") else { return };
    check_by_lintian(&package);
}

fn check_by_lintian(package: &Path) {
    let said = run(Command::new("lintian").args(["--fail-on", "error"]).arg(package)).success();
    assert!(!said.contains("E: "), "{said}");
}

#[test]
fn the_packages_for_32_bits_are_clean_too() {
    for target in [ARMV7, ARMV6] {
        let binary = built(target);
        if !binary.exists() {
            skipped(&format!("the package for {target}: tests/run --boards builds it"));
            continue;
        }
        let package = packed(target, &binary);
        check_by_lintian(&package);
        let fields = run(Command::new("dpkg-deb").arg("--field").arg(&package)).success();
        assert!(fields.contains("Architecture: armhf\n"), "{fields}");
        assert!(fields.contains("libc6 (>= 2."), "{fields}");
    }
}

#[test]
fn the_same_source_makes_the_same_package() {
    let Some(package) = package("the same bytes again") else { return };
    let first = fs::read(&package).unwrap();
    let mut again = script("boards/package");
    again.arg(ARM64).arg("--binary").arg(built(ARM64));
    run(&mut again).success();
    assert!(first == fs::read(&package).unwrap(), "{} differs", package.display());
}

#[test]
fn the_package_holds_what_a_user_looks_for() {
    let Some(package) = package("contents of the package") else { return };
    let list = run(Command::new("dpkg-deb").arg("--contents").arg(&package)).success();
    for path in [
        "./usr/bin/weir",
        "./lib/systemd/system/weir.service",
        "./etc/weir/weir.toml",
        "./usr/lib/sysusers.d/weir.conf",
        "./usr/share/man/man1/weir-topic-create.1.gz",
        "./usr/share/bash-completion/completions/weir",
        "./usr/share/zsh/vendor-completions/_weir",
        "./usr/share/fish/vendor_completions.d/weir.fish",
    ] {
        assert!(list.lines().any(|line| line.ends_with(path)), "{path} is missing in\n{list}");
    }
    let fields = run(Command::new("dpkg-deb").arg("--field").arg(&package)).success();
    for field in ["Architecture: arm64", "libc6 (>= 2.34)"] {
        assert!(fields.contains(field), "{fields}");
    }
}

/// The gateway as its installed unit starts it, with a manager that hears what it says of itself.
struct Service {
    child: Child,
    manager: UnixDatagram,
}

impl Service {
    fn start(debian: &Debian, settings: &[String]) -> Service {
        let unit = fs::read_to_string(debian.path("/lib/systemd/system/weir.service")).unwrap();
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let state = ["-d", "-m", "750", "-o", "weir", "-g", "weir", "/var/lib/weir"];
        debian.run("install", &state).success();
        let socket = debian.path("/run/notify");
        fs::remove_file(&socket).ok();
        let manager = UnixDatagram::bind(&socket).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        debian.run("chown", &["weir", "/run/notify"]).success();
        let mut start = Command::new("chroot");
        start.arg("--userspec=weir:weir").arg(&debian.root);
        start.args(line.split_whitespace());
        for setting in settings {
            start.args(["--set", setting]);
        }
        start.env("NOTIFY_SOCKET", "/run/notify").env("WATCHDOG_USEC", "3000000");
        let child = start.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        Service { child, manager }
    }

    /// Waits until the gateway has told the manager this.
    fn hears(&self, wanted: &str) {
        let mut bytes = [0; 256];
        loop {
            let length = self.manager.recv(&mut bytes).expect("the gateway says how it is");
            if String::from_utf8_lossy(&bytes[..length]).lines().any(|line| line == wanted) {
                return;
            }
        }
    }

    fn stop(mut self) {
        signal(self.child.id(), "TERM");
        let ended =
            wait_for("it stops", Duration::from_secs(20), || self.child.try_wait().unwrap());
        assert!(ended.success(), "{ended}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn an_installed_gateway_says_that_it_is_ready_and_an_upgrade_keeps_its_data() {
    let Some((debian, deb)) = debian_with_package("installing on arm64") else { return };
    let calls = pretend_systemd(&debian);
    debian.run("dpkg", &["-i", deb]).success();
    assert!(debian.path("/etc/systemd/system/multi-user.target.wants/weir.service").is_symlink());
    assert!(called(&calls, "start weir.service"), "{}", fs::read_to_string(&calls).unwrap());
    debian.run("/usr/bin/weir", &["--version"]).success();

    let (kafka, mqtt) = (free_port(), free_port());
    let settings = [
        format!("kafka.listen=127.0.0.1:{kafka}"),
        format!("mqtt.listen=127.0.0.1:{mqtt}"),
        "http.listen=off".to_string(),
        "flash.bytes=64MiB".to_string(),
    ];
    let service = Service::start(&debian, &settings);
    service.hears("READY=1");
    service.hears("WATCHDOG=1");
    run(&mut command(&format!("mosquitto_pub -p {mqtt} -t a/b -m kept -q 1"))).success();
    service.stop();

    fs::write(&calls, "").unwrap();
    debian.run("dpkg", &["-i", deb]).success();
    assert!(called(&calls, "restart weir.service"), "{}", fs::read_to_string(&calls).unwrap());
    let service = Service::start(&debian, &settings);
    service.hears("READY=1");
    let line = format!("kcat -b 127.0.0.1:{kafka} -C -t sensors -o beginning -e -q");
    assert_eq!(run(&mut command(&line)).success(), "kept\n");
    service.stop();

    debian.run("dpkg", &["--remove", "weir"]).success();
    assert!(called(&calls, "stop weir.service"), "{}", fs::read_to_string(&calls).unwrap());
    assert!(debian.path("/var/lib/weir/flash.log").exists());
    assert!(debian.path("/etc/weir/weir.toml").exists());
}

/// Writes down what a running systemd is told. What changes files only is done.
fn pretend_systemd(debian: &Debian) -> PathBuf {
    fs::create_dir_all(debian.path("/run/systemd/system")).unwrap();
    let systemctl = debian.path("/bin/systemctl");
    fs::rename(&systemctl, debian.path("/bin/systemctl.real")).unwrap();
    let pretence = "#!/bin/sh\necho \"$*\" >>/run/calls\ncase \"$*\" in\n\
        *preset\\ *) exec /bin/systemctl.real \"$@\" ;;\n*is-enabled*) echo enabled ;;\nesac\n";
    fs::write(&systemctl, pretence).unwrap();
    fs::set_permissions(systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    debian.path("/run/calls")
}

fn called(calls: &Path, wanted: &str) -> bool {
    fs::read_to_string(calls).unwrap_or_default().lines().any(|call| call.ends_with(wanted))
}

#[test]
fn a_purge_deletes_the_data_only_when_it_was_told_to() {
    let Some((debian, deb)) = debian_with_package("purging on arm64") else { return };
    let data = debian.path("/var/lib/weir");
    let purge = |answer: Option<&str>| {
        debian.run("dpkg", &["-i", deb]).success();
        fs::create_dir_all(&data).unwrap();
        if let Some(answer) = answer {
            let choice =
                format!("echo weir weir/purge-data boolean {answer} | debconf-set-selections");
            debian.run("sh", &["-c", &choice]).success();
        }
        let output = debian.run("dpkg", &["--purge", "weir"]);
        assert!(!debian.path("/etc/weir").exists(), "{}", output.stderr);
        (data.exists(), output.stdout + &output.stderr)
    };
    let (kept, said) = purge(None);
    assert!(kept && said.contains("its data stays in /var/lib/weir"), "{said}");
    assert!(purge(Some("false")).0);
    assert!(!purge(Some("true")).0);
    let (kept, said) = purge(None);
    assert!(kept, "an answer is good for one purge: {said}");
}

#[test]
fn a_wrong_target_or_binary_is_said_in_a_sentence() {
    let unknown = run(script("boards/package").arg("mips"));
    assert_eq!(unknown.code, Some(2), "{}", unknown.stderr);
    assert!(unknown.stderr.contains("mips is none of the targets"), "{}", unknown.stderr);
    let nothing = run(script("boards/package").args([ARM64, "--binary", "/nowhere/weir"]));
    assert_eq!(nothing.code, Some(1), "{}", nothing.stderr);
    assert!(nothing.stderr.contains("there is no /nowhere/weir"), "{}", nothing.stderr);
    let other = run(script("boards/package").args([ARM64, "--binary", "/bin/true"]));
    assert_eq!(other.code, Some(1), "{}", other.stderr);
    assert!(other.stderr.contains("is not a program for"), "{}", other.stderr);
}
