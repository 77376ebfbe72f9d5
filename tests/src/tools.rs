//! Running other programs: real clients with what they printed.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How a program ended.
#[derive(Debug)]
pub struct Output {
    pub what: String,
    /// The exit code; `None` when a signal or the time limit ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Its standard output; panics with everything when it failed.
    pub fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}\n{}", self.what, self.stdout, self.stderr);
        self.stdout
    }
}

const LIMIT: Duration = Duration::from_secs(120);

/// Runs a program to its end, two minutes at most.
pub fn run(command: &mut Command) -> Output {
    run_with_input(command, b"")
}

pub fn run_with_input(command: &mut Command, input: &[u8]) -> Output {
    execute(command, input, LIMIT)
}

/// The same for a program that may take longer.
pub fn run_with_input_for(command: &mut Command, input: &[u8], limit: Duration) -> Output {
    execute(command, input, limit)
}

/// Runs a program that may take longer.
pub fn run_for(command: &mut Command, limit: Duration) -> Output {
    execute(command, b"", limit)
}

fn execute(command: &mut Command, input: &[u8], limit: Duration) -> Output {
    let what = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_vec();
    std::thread::spawn(move || stdin.write_all(&input).ok());
    let stdout = reader(child.stdout.take().expect("it is piped"));
    let stderr = reader(child.stderr.take().expect("it is piped"));
    let start = Instant::now();
    let code = loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            break status.code();
        }
        if start.elapsed() > limit {
            child.kill().ok();
            child.wait().ok();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = |thread: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&thread.join().expect("the reader does not panic")).to_string()
    };
    Output { what, code, stdout: text(stdout), stderr: text(stderr) }
}

fn reader(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).ok();
        bytes
    })
}

/// A program with its arguments split at spaces, for short commands without quotes.
pub fn command(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().expect("a command has a name"));
    command.args(words);
    command
}

/// A Python client of `tests/clients`, with the libraries of `tests/setup/requirements.txt`.
pub fn python(script: &str) -> Command {
    let mut command = Command::new(crate::cache().join("venv/bin/python3"));
    command.arg(crate::root().join("tests/clients").join(script));
    command
}

/// Sends a signal to a process that the test started.
pub fn signal(pid: u32, signal: &str) {
    run(Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string())).success();
}

/// Resident memory of a process in KiB.
pub fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("Linux says VmRSS");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number of KiB")
}
