//! The builds for ARM: their size, the instructions in them, and their work under emulation; what
//! `cross` makes of our configuration; what is said when something is missing.

#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use weir_tests::arm::{ARM64, ARMV6, ARMV7, arm64_binary, built, emulated, on_armv6};
use weir_tests::arm::{prepared, script};
use weir_tests::tools::{command, run, run_for, run_with_input};
use weir_tests::{Gateway, folder, root, skipped};

const MUSL: &str = "aarch64-unknown-linux-musl";
const TARGETS: [&str; 4] = [ARM64, ARMV7, ARMV6, MUSL];

#[test]
fn the_arm_binaries_are_small_and_link_to_the_c_library_only() {
    let Some(binary) = arm64_binary("size and links of the arm64 binary") else { return };
    // Debian 12 and Raspberry Pi OS 12 have 2.36.
    let built = [(ARM64, binary, 34), (ARMV7, built(ARMV7), 34), (ARMV6, built(ARMV6), 31)];
    for (target, binary, glibc_max) in built {
        if !binary.exists() {
            skipped(&format!("the binary for {target}: tests/run --boards builds it"));
            continue;
        }
        let said = run(script("cross/inspect").arg(target).arg(&binary)).success();
        assert!(said.contains("of at most"), "{said}");
        let links = said.lines().find_map(|line| line.strip_prefix("links to: ")).unwrap();
        let (libraries, glibc) = links.split_once("; needs glibc ").unwrap();
        for library in libraries.split(' ') {
            // The last two are libraries of their own before glibc 2.34.
            let known =
                ["libc.so", "libm.so", "libgcc_s.so", "ld-linux-a", "libpthread.so", "libdl.so"];
            assert!(known.iter().any(|known| library.starts_with(known)), "{links}");
        }
        let minor: u32 = glibc.strip_prefix("2.").unwrap().parse().unwrap();
        assert!(minor <= glibc_max, "{links}");
        assert!(target != ARM64 || said.contains("crc32cx: "), "{said}");
    }
}

#[test]
fn an_arm64_gateway_takes_mqtt_gives_kafka_and_keeps_it_over_a_power_cut() {
    let Some(binary) = arm64_binary("MQTT in, Kafka out, restart on arm64") else { return };
    let gateway = takes_mqtt_and_gives_kafka("arm64", emulated(ARM64, &binary, &[]));
    the_crc_instructions_are_chosen_at_run_time(&binary, &gateway.data());
}

/// On an ARMv7, and on the ARMv6 of a Raspberry Pi 1 or Zero.
#[test]
fn the_arm_binaries_of_32_bits_take_mqtt_and_give_kafka_and_keep_it_over_a_power_cut() {
    let (what, armv7, armv6) = ("MQTT in, Kafka out, restart", built(ARMV7), built(ARMV6));
    if !armv7.exists() || !armv6.exists() {
        return skipped(&format!("{what} on armv7 and ARMv6: tests/run --boards builds them"));
    }
    takes_mqtt_and_gives_kafka("armv7", emulated(ARMV7, &armv7, &["-cpu", "cortex-a7"]));
    let Some(program) = on_armv6(&format!("{what} on ARMv6"), &armv6) else { return };
    takes_mqtt_and_gives_kafka("armv6", program);
    // That processor refuses what is newer than it, or this would prove nothing.
    let program = on_armv6(what, &armv7).expect("it was there before");
    let version = |cpu: &str| {
        let mut command = Command::new(&program[0]);
        command.args(&program[1..program.len() - 1]).args(["-cpu", cpu]);
        run(command.arg(&armv7).arg("--version"))
    };
    assert!(version("cortex-a7").success().starts_with("weir "));
    let refused = version("arm1176");
    assert_eq!(refused.code, None, "a signal ends it: {}", refused.stdout);
    assert!(refused.stderr.contains("Illegal instruction"), "{}", refused.stderr);
}

/// With a `kill -9` between; gives the gateway, which has stopped.
fn takes_mqtt_and_gives_kafka(name: &str, program: Vec<OsString>) -> Gateway {
    let mut gateway = Gateway::new(name).emulated(program);
    gateway.start();
    let publish = |message: &str| {
        let line = format!("-p {} -t plant/line1/temp -m {message} -q 1", gateway.mqtt_port);
        run(&mut command(&format!("mosquitto_pub {line}"))).success();
    };
    publish("21.5");
    publish("21.6");
    gateway.restart();
    let line = format!("kcat -b {} -C -t sensors -o beginning -e -q", gateway.bootstrap());
    let read = run(&mut command(&line)).success();
    assert_eq!(read.lines().collect::<Vec<_>>(), ["21.5", "21.6"]);
    assert!(gateway.stop().success());
    gateway
}

/// Which instructions are executed, as QEMU writes them down: by a processor that has all, and by
/// one that says it has nothing special.
fn the_crc_instructions_are_chosen_at_run_time(binary: &Path, data: &Path) {
    let listing = data.with_extension("listing");
    let executed = |options: &[&str]| {
        let options = [&["-d", "in_asm", "-D", listing.to_str().unwrap()], options].concat();
        let program = emulated(ARM64, binary, &options);
        let mut check = Command::new(&program[0]);
        run(check.args(&program[1..]).args(["log", "check"]).arg(data)).success();
        fs::read_to_string(&listing).unwrap()
    };
    assert!(executed(&[]).contains("crc32cx"), "the log is checked without the instructions");
    let plain = data.with_extension("so");
    let mut compile = command("aarch64-linux-gnu-gcc -shared -fPIC -x c - -o");
    // AT_HWCAP is 16; floating point and vectors are its first bits.
    let says = "unsigned long getauxval(unsigned long type) { return type == 16 ? 3 : 0; }";
    run_with_input(compile.arg(&plain), says.as_bytes()).success();
    let plain = format!("LD_PRELOAD={}", plain.display());
    assert!(!executed(&["-E", &plain]).contains("crc32cx"), "it would end on another processor");
}

/// Places on flash beyond 4 GiB are among what they test. `tests/run` has begun to build them.
#[test]
fn the_core_passes_its_tests_on_armv7() {
    let mut tests = script("cross/with");
    tests.current_dir(root()).env("CARGO_TARGET_DIR", root().join("target/armv7-tests"));
    tests.arg(ARMV7).args(["cargo", "test", "--locked", "--quiet"]);
    let output = run_for(tests.args(["-p", "weir-core", "--lib"]), Duration::from_secs(1_200));
    if output.code == Some(3) {
        return skipped(&format!("the core's tests on armv7: {}", output.stderr.trim()));
    }
    let said = output.success();
    assert!(said.contains("test result: ok"), "{said}");
}

/// A program that writes down how it was called.
fn stand_in(folder: &Path, name: &str, answers: &str) {
    let path = folder.join(name);
    fs::write(
        &path,
        format!("#!/bin/sh\necho \"{name} $*\" >>{}/calls\n{answers}", folder.display()),
    )
    .unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// `cross` with a container engine and a rustup that do nothing: what it would have run.
fn calls_of_cross(cross: &Path, target: &str) -> String {
    let folder = folder("cross");
    stand_in(&folder, "docker", "");
    let toolchain = run(&mut command("rustc --print sysroot")).success();
    let toolchain = Path::new(toolchain.trim()).file_name().unwrap().to_str().unwrap();
    let rustup = format!(
        "case \"$1\" in toolchain) echo '{toolchain} (default)' ;;\n\
         target) echo '{target} (installed)' ;; component) echo 'rust-src (installed)' ;; esac\n"
    );
    stand_in(&folder, "rustup", &rustup);
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut build = Command::new(cross);
    build.current_dir(root()).args(["build", "--release", "--target", target]);
    build.env("PATH", path).env("CROSS_CONFIG", "cross/Cross.toml");
    build.env("CROSS_CONTAINER_ENGINE", folder.join("docker"));
    build.env("XARGO_HOME", folder.join("xargo")).env("SOURCE_DATE_EPOCH", "1");
    run(&mut build).success();
    let calls = fs::read_to_string(folder.join("calls")).unwrap();
    fs::remove_dir_all(folder).ok();
    calls
}

#[test]
fn cross_reads_our_configuration_for_each_target() {
    let Some(cross) = prepared("cross/Cross.toml", "cross-0.2.5/bin/cross") else { return };
    for target in TARGETS {
        let calls = calls_of_cross(&cross, target);
        let engine = calls.lines().find(|call| call.starts_with("docker run"));
        let engine = engine.unwrap_or_else(|| panic!("no container is started: {calls}"));
        for part in [
            format!("ghcr.io/cross-rs/{target}:0.2.5 "),
            format!("cargo build --release --target {target}"),
            "-e SOURCE_DATE_EPOCH ".into(),
        ] {
            assert!(engine.contains(&part), "{part} is not in {engine}");
        }
        assert!(!calls.contains("rustup toolchain install"), "{calls}");
    }
}

/// A `PATH` on which there are these programs only.
fn path_of(programs: &[&str]) -> PathBuf {
    let folder = folder("path");
    for program in programs {
        let found = run(&mut command(&format!("which {program}"))).success();
        std::os::unix::fs::symlink(found.trim(), folder.join(program)).unwrap();
    }
    folder
}

#[test]
fn what_cannot_be_built_is_said_in_a_sentence() {
    let unknown = run(script("cross/build").arg("mips-unknown-linux-gnu"));
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("mips-unknown-linux-gnu is none of the targets"));
    for target in TARGETS {
        assert!(unknown.stderr.contains(target), "{}", unknown.stderr);
    }
    assert_eq!(run(&mut script("cross/build")).code, Some(2));
    let up = run(script("cross/build").arg("../targets"));
    assert_eq!(up.code, Some(2), "{}", up.stderr);

    let shell = ["bash", "dirname", "realpath", "sed", "env", "basename"];
    let mut elsewhere = script("cross/build");
    let no_debian = run(elsewhere.arg(ARM64).env("PATH", path_of(&shell)));
    assert_eq!(no_debian.code, Some(3), "{}", no_debian.stderr);
    assert!(no_debian.stderr.contains("this is no Debian"), "{}", no_debian.stderr);
}

#[test]
fn without_a_network_the_missing_rust_is_said_in_a_sentence() {
    let mut build = Command::new("unshare");
    build.arg("--net").arg(root().join("cross/with")).args([ARM64, "true"]);
    let cache = folder("cross-cache");
    let offline = run(build.env("WEIR_CROSS_CACHE", &cache));
    fs::remove_dir_all(cache).ok();
    if offline.stderr.contains("unshare failed") {
        return skipped("a build without a network: no right to make a network namespace");
    }
    // A Rust that has the target needs no network.
    if offline.code != Some(0) {
        assert_eq!(offline.code, Some(3), "{}", offline.stderr);
        for said in ["there is no network", "with rustup: rustup target add"] {
            assert!(offline.stderr.contains(said), "{}", offline.stderr);
        }
    }
}

#[test]
fn the_scripts_are_clean() {
    let mut check = Command::new("shellcheck");
    check.current_dir(root()).args(["-x", "cross/with", "cross/build", "cross/inspect"]);
    check.args(["boards/package", "tests/setup/arm", "tests/setup/install", "tests/run"]);
    run(&mut check).success();
    let mut parts = Command::new("shellcheck");
    parts.current_dir(root().join("boards/package.d")).args(["-s", "sh", "-e", "SC1091"]);
    run(parts.args(["config", "postinst", "prerm", "postrm"])).success();
}
