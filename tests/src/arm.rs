//! Binaries of ARM machines, QEMU's user-mode emulation for them, and an arm64 Debian in a folder.
//!
//! `tests/run` builds the arm64 binary, and `tests/setup/arm` prepares the rest. What a machine
//! cannot do is said by [`skipped`]; the tests that need it pass then, and prove nothing.

use crate::{cache, root, skipped, tools};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const ARM64: &str = "aarch64-unknown-linux-gnu";
pub const ARMV7: &str = "armv7-unknown-linux-gnueabihf";
pub const ARMV6: &str = "arm-unknown-linux-gnueabihf";

/// Where `cross/build` leaves a target's release build.
pub fn built(target: &str) -> PathBuf {
    root().join("target").join(target).join("release/weir")
}

/// The arm64 build, or nothing where it cannot be made.
pub fn arm64_binary(what: &str) -> Option<PathBuf> {
    let path = built(ARM64);
    if !path.exists() {
        skipped(&format!("{what}: there is no {}; cross/build {ARM64} makes it", path.display()));
        return None;
    }
    Some(path)
}

/// A binary of a target on this machine: what to run, before its arguments. Of options that are
/// given twice QEMU takes the last.
pub fn emulated(target: &str, binary: &Path, options: &[&str]) -> Vec<OsString> {
    let (qemu, libraries) = match target {
        ARM64 => ("qemu-aarch64-static", "/usr/aarch64-linux-gnu"),
        _ => ("qemu-arm-static", "/usr/arm-linux-gnueabihf"),
    };
    let mut program: Vec<OsString> = vec![qemu.into(), "-L".into(), libraries.into()];
    program.extend(options.iter().map(OsString::from));
    program.push(binary.into());
    program
}

/// A binary on the processor of a Raspberry Pi 1 or Zero, which ends at the first instruction that
/// this does not have. The C library there has to be older than Debian's own for these binaries: it
/// is that of `tests/setup/arm`, which passes floating point numbers otherwise. `sin` and `exp2`
/// are all that these binaries take from it of that kind: the demo and the mirror's budget.
pub fn on_armv6(what: &str, binary: &Path) -> Option<Vec<OsString>> {
    let ready = prepared(what, "armv6-root/complete")?;
    let libraries = ready.parent().expect("it is in a folder").to_string_lossy().into_owned();
    let path = "LD_LIBRARY_PATH=/lib/arm-linux-gnueabi";
    Some(emulated(ARMV6, binary, &["-cpu", "arm1176", "-L", &libraries, "-E", path]))
}

/// A script of the checkout, with the compilers that the tests keep.
pub fn script(path: &str) -> Command {
    let mut command = Command::new(root().join(path));
    command.env("WEIR_CROSS_CACHE", cache().join("cross"));
    command
}

/// What `tests/setup/arm` has prepared, or nothing where it could not.
pub fn prepared(what: &str, path: &str) -> Option<PathBuf> {
    let path = cache().join(path);
    if !path.exists() {
        let why = fs::read_to_string(cache().join("arm-missing")).unwrap_or_default();
        skipped(&format!("{what}: there is no {}. {}", path.display(), why.trim()));
        return None;
    }
    Some(path)
}

/// An arm64 Debian of a test's own, in which programs run by emulation.
#[derive(Debug)]
pub struct Debian {
    pub root: PathBuf,
}

impl Debian {
    pub fn new(what: &str) -> Option<Debian> {
        let ready = prepared(what, "arm64-root/complete")?;
        let root = crate::folder("debian").join("root");
        let from = ready.parent().expect("it is in a folder").join("root");
        tools::run(Command::new("cp").arg("-a").arg(from).arg(&root)).success();
        Some(Debian { root })
    }

    /// A command inside, as root.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("chroot");
        command.arg(&self.root).arg(program).args(args);
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
        command
    }

    pub fn run(&self, program: &str, args: &[&str]) -> tools::Output {
        tools::run(&mut self.command(program, args))
    }

    /// A file inside, named as the inside names it.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            fs::remove_dir_all(self.root.parent().expect("it is in a folder")).ok();
        }
    }
}
