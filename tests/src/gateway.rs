//! A real `weir serve` in a folder of its own.

use crate::{folder, free_port, release_binary, wait_for, wait_within};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Started by [`Gateway::start`], ended by `kill -9` when dropped. Ports and data survive restarts.
#[derive(Debug)]
pub struct Gateway {
    child: Option<Child>,
    /// What is run: an emulator, its arguments and a binary, or nothing for the release binary.
    program: Vec<OsString>,
    folder: PathBuf,
    data: PathBuf,
    /// The address that it listens on.
    pub host: String,
    pub kafka_port: u16,
    pub mqtt_port: u16,
    pub http_port: u16,
    settings: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Gateway {
    /// A gateway that is not started yet, with a small log.
    pub fn new(name: &str) -> Gateway {
        let folder = folder(name);
        Gateway {
            child: None,
            program: Vec::new(),
            data: folder.join("data"),
            folder,
            host: "127.0.0.1".into(),
            kafka_port: free_port(),
            mqtt_port: free_port(),
            http_port: free_port(),
            settings: vec!["flash.bytes=1GiB".into()],
            environment: Vec::new(),
        }
    }

    pub fn started(name: &str) -> Gateway {
        let mut gateway = Gateway::new(name);
        gateway.start();
        gateway
    }

    /// Adds `--set KEY=VALUE`.
    pub fn set(mut self, setting: &str) -> Gateway {
        self.settings.push(setting.into());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Gateway {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Listens elsewhere than on the loopback address.
    pub fn on_host(mut self, host: &str) -> Gateway {
        self.host = host.into();
        self
    }

    /// Runs a binary of another machine, by an emulator with its arguments, or in another network.
    pub fn emulated(mut self, program: Vec<OsString>) -> Gateway {
        self.program = program;
        self
    }

    /// Keeps the data elsewhere, such as on a file system of the test's own.
    pub fn in_folder(mut self, data: &Path) -> Gateway {
        self.data = data.to_path_buf();
        self
    }

    /// Writes `weir.toml`.
    pub fn config(self, toml: &str) -> Gateway {
        fs::write(self.folder.join("weir.toml"), toml).unwrap();
        self
    }

    /// Changes `weir.toml` for the next start; gives what it was.
    pub fn reconfigure(&self, change: impl Fn(&str) -> String) -> String {
        let path = self.folder.join("weir.toml");
        let before = fs::read_to_string(&path).unwrap();
        fs::write(&path, change(&before)).unwrap();
        before
    }

    pub fn command(&self) -> Command {
        let mut command = match self.program.split_first() {
            Some((program, args)) => {
                let mut command = Command::new(program);
                command.args(args);
                command
            }
            None => Command::new(release_binary()),
        };
        command.arg("serve").arg("--data").arg(&self.data);
        let config = self.folder.join("weir.toml");
        if config.exists() {
            command.arg("--config").arg(config);
        }
        let listen = [
            format!("kafka.listen={}:{}", self.host, self.kafka_port),
            format!("mqtt.listen={}:{}", self.host, self.mqtt_port),
            format!("http.listen={}:{}", self.host, self.http_port),
        ];
        for setting in listen.iter().chain(&self.settings) {
            command.arg("--set").arg(setting);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts and waits until `/readyz` says yes.
    pub fn start(&mut self) {
        self.try_start().unwrap_or_else(|why| panic!("{why}"));
    }

    /// The same for a gateway that may end at its start; gives what it has said then.
    pub fn try_start(&mut self) -> Result<(), String> {
        self.launch();
        self.try_serve(Duration::from_secs(30))
    }

    /// Starts, and does not wait.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "the gateway runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Waits until `/readyz` says yes; gives what it has said if it ends instead, or does not serve
    /// within the limit.
    pub fn try_serve(&mut self, limit: Duration) -> Result<(), String> {
        let (host, port) = (self.host.clone(), self.http_port);
        let child = self.child.as_mut().expect("the gateway runs");
        let ended = wait_within(limit, || {
            if let Some(status) = child.try_wait().unwrap() {
                return Some(Some(status));
            }
            let (code, _) = http_get(&host, port, "/readyz")?;
            (code == 200).then_some(None)
        });
        match ended {
            Some(None) => Ok(()),
            Some(Some(status)) => {
                self.child = None;
                Err(format!("weir ended at its start: {status}\n{}", self.log()))
            }
            None => Err(format!("weir does not serve within {limit:?}\n{}", self.log())),
        }
    }

    /// `kill -9`: what was not acknowledged may be lost, nothing else.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and the exit status.
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the gateway runs");
        crate::tools::signal(child.id(), "TERM");
        wait_for("the gateway stops", Duration::from_secs(20), || child.try_wait().unwrap())
    }

    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    pub fn bootstrap(&self) -> String {
        format!("{}:{}", self.host, self.kafka_port)
    }

    pub fn mqtt_address(&self) -> String {
        format!("{}:{}", self.host, self.mqtt_port)
    }

    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the gateway runs").id()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("weir.log")
    }

    /// Everything that it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Flips a bit of the first record in its log that has this text.
    pub fn rot(&self, text: &str) {
        let log =
            File::options().read(true).write(true).open(self.data().join("flash.log")).unwrap();
        let (mut piece, mut from) = (vec![0; 1 << 20], 0);
        let at = loop {
            let len = log.read_at(&mut piece, from).unwrap();
            assert!(len >= text.len(), "{text:?} is not in the log");
            let mut places = piece[..len].windows(text.len());
            if let Some(at) = places.position(|place| place == text.as_bytes()) {
                break from + at as u64;
            }
            from += (len - text.len() + 1) as u64;
        };
        log.write_all_at(&[text.as_bytes()[0] ^ 4], at).unwrap();
        log.sync_all().unwrap();
    }

    /// Runs another command of the binary, such as `["topic", "list"]`, against this gateway.
    pub fn weir(&self, args: &[&str]) -> crate::tools::Output {
        let mut command = Command::new(release_binary());
        command.args(args).env("WEIR_BOOTSTRAP", self.bootstrap());
        command.env("WEIR_HTTP", format!("{}:{}", self.host, self.http_port));
        crate::tools::run(&mut command)
    }

    /// Status code and body of a GET; `None` when nobody answers.
    pub fn http(&self, path: &str) -> Option<(u16, String)> {
        http_get(&self.host, self.http_port, path)
    }

    pub fn status(&self) -> serde_json::Value {
        let (code, body) = self.http("/api/v1/status").expect("the gateway answers");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("-- log of {}\n{}", self.folder.display(), self.log());
        } else {
            fs::remove_dir_all(&self.folder).ok();
        }
    }
}

/// Status code and body of a GET; `None` when nobody answers.
pub fn http_get(host: &str, port: u16, path: &str) -> Option<(u16, String)> {
    let address = format!("{host}:{port}").parse().ok()?;
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_string()))
}
