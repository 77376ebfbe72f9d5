//! What the whole-system tests share: a real gateway, a real Apache Kafka, real clients.
//!
//! The tests stand in `tests/tests`, one file a subject. `tests/run` installs what they need and
//! runs them; a test that misses something fails with a sentence that says so.

#![allow(clippy::unwrap_used)]

pub mod arm;
pub mod board;
pub mod broker;
pub mod cut;
pub mod gateway;
pub mod kafka;
pub mod ledger;
pub mod loopback;
pub mod mqtt;
pub mod network;
pub mod numbered;
pub mod proxy;
pub mod site;
pub mod tools;

pub use broker::Broker;
pub use gateway::Gateway;
pub use kafka::Kafka;
pub use network::Network;
pub use proxy::Proxy;
pub use site::Site;

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The top of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests stands in the root").to_path_buf()
}

/// The binary that a user gets: `WEIR_BIN`, or the release build.
pub fn release_binary() -> PathBuf {
    let path = std::env::var_os("WEIR_BIN")
        .map_or_else(|| root().join("target/release/weir"), PathBuf::from);
    assert!(path.exists(), "{} is missing: `cargo build --release` first", path.display());
    path
}

/// Where `tests/setup/install` has put things.
pub fn cache() -> PathBuf {
    let path = std::env::var_os("WEIR_TESTS_CACHE")
        .map_or_else(|| root().join("tests/.cache"), PathBuf::from);
    assert!(path.join("ready").exists(), "run tests/setup/install (or tests/run) first");
    path
}

/// Whether the long campaigns were asked for.
pub fn long() -> bool {
    std::env::var_os("WEIR_TESTS_LONG").is_some()
}

/// For people, past the harness, which shows nothing of tests that pass.
pub fn say(text: &str) {
    writeln!(std::io::stderr(), "\n{}", text.trim_end()).ok();
}

/// Says that this machine does not allow what a test needs, to people and to `tests/run`, which
/// repeats it at its end.
pub fn skipped(what: &str) {
    say(&format!("SKIPPED: {what}"));
    if let Some(path) = std::env::var_os("WEIR_TESTS_SKIPPED") {
        let list = File::options().append(true).create(true).open(path);
        list.and_then(|mut list| writeln!(list, "{}", what.trim_end())).unwrap();
    }
}

/// A new empty folder for one test, on the checkout's own file system (never a tmpfs). It is left
/// there for a look when the test fails; `cargo clean` takes it away.
pub fn folder(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let tests = root().join("target/tests");
    std::fs::create_dir_all(&tests).unwrap();
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = tests.join(format!("{name}-{}-{number}", std::process::id()));
        // An earlier process of this number may have left one.
        match std::fs::create_dir(&path) {
            Ok(()) => return path,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
}

/// A TCP port of the loopback address that nobody listens on at this moment. It is below those that
/// the kernel gives to outgoing connections (32,768 and up), or a client of another test could come
/// to sit on it before its gateway does. The next one is free, too: Kafka's controller takes it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Several processes of tests look for ports at the same time, each in its own place.
    static BEGIN: OnceLock<u32> = OnceLock::new();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let begin = *BEGIN.get_or_init(now);
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let both_free = |port: &u16| free(port) && free(&(port + 1));
    let candidates = (0..11_000).map(|_| {
        let next = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        10_000 + (next % 11_000) as u16 * 2
    });
    candidates.into_iter().find(both_free).expect("some port is free")
}

/// Waits until `done` gives a value; panics with `what` after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, done: impl FnMut() -> Option<T>) -> T {
    wait_within(limit, done).unwrap_or_else(|| panic!("waited {limit:?} in vain: {what}"))
}

/// The same, which gives nothing after `limit`. It looks at least once, and each 20 ms.
pub fn wait_within<T>(limit: Duration, mut done: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let value = done();
        if value.is_some() || start.elapsed() >= limit {
            return value;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
