//! A real Apache Kafka: the centre that gateways mirror to, and the reference that tests compare
//! with.

use crate::{Proxy, folder, free_port, root, tools};
use std::path::PathBuf;
use std::process::Command;

/// One node in a folder of its own, started by `tests/setup/kafka`; ended when dropped.
#[derive(Debug)]
pub struct Kafka {
    folder: PathBuf,
    pub port: u16,
    /// A file that is appended to the broker's properties.
    properties: Option<PathBuf>,
}

/// The script that starts Kafka and runs its tools.
pub fn script() -> Command {
    let mut command = Command::new(root().join("tests/setup/kafka"));
    command.env("WEIR_TESTS_CACHE", crate::cache());
    command
}

impl Kafka {
    pub fn started(name: &str) -> Kafka {
        let kafka = Kafka { folder: folder(name), port: free_port(), properties: None };
        kafka.start();
        kafka
    }

    /// One that clients reach through a proxy only, as its metadata says. The broker's own
    /// connections to itself go another way, as they do when a link to the world is lost.
    pub fn behind_a_proxy(name: &str) -> (Kafka, Proxy) {
        let (folder, port, internal) = (folder(name), free_port(), free_port());
        let proxy = Proxy::to(port);
        let properties = folder.join("more.properties");
        let controller = format!("CONTROLLER://127.0.0.1:{}", port + 1);
        let plain = "PLAINTEXT";
        let own = format!("OWN://127.0.0.1:{internal}");
        let lines = [
            format!("listeners=PLAINTEXT://127.0.0.1:{port},{controller},{own}"),
            format!("advertised.listeners=PLAINTEXT://127.0.0.1:{},{own}", proxy.port),
            format!(
                "listener.security.protocol.map=CONTROLLER:{plain},OWN:{plain},{plain}:{plain}"
            ),
            "inter.broker.listener.name=OWN\n".into(),
        ];
        let text = lines.join("\n");
        std::fs::write(&properties, text).unwrap();
        let kafka = Kafka { folder, port, properties: Some(properties) };
        kafka.start();
        (kafka, proxy)
    }

    pub fn start(&self) {
        let mut command = script();
        command.arg("start").arg(&self.folder).arg(self.port.to_string());
        if let Some(properties) = &self.properties {
            command.env("KAFKA_PROPS", properties);
        }
        tools::run(&mut command).success();
    }

    /// Signals the broker, such as `KILL` or `STOP`; all but `STOP` and `CONT` wait for its end.
    pub fn signal(&self, signal: &str) {
        if matches!(signal, "STOP" | "CONT") {
            tools::signal(self.pid(), signal);
        } else {
            tools::run(script().arg("kill").arg(&self.folder).arg(signal)).success();
        }
    }

    pub fn pid(&self) -> u32 {
        let output = tools::run(script().arg("pid").arg(&self.folder)).success();
        output.trim().parse().expect("the broker runs")
    }

    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        tools::run(script().arg("kill").arg(&self.folder).arg("KILL"));
        if !std::thread::panicking() {
            std::fs::remove_dir_all(&self.folder).ok();
        }
    }
}

/// One of Kafka's own command line tools, such as `topics`; `tests/setup/kafka tool` lists them.
pub fn tool(name: &str, args: &[&str]) -> tools::Output {
    tools::run(script().arg("tool").arg(name).args(args))
}

/// Runs one of them against brokers.
pub fn ask(servers: &str, name: &str, args: &[&str]) -> tools::Output {
    tool(name, &[&["--bootstrap-server", servers], args].concat())
}

/// Puts each line of the input into a topic.
pub fn console_producer(servers: &str, topic: &str, more: &[&str], input: &str) {
    let mut command = script();
    command.args(["tool", "console-producer", "--bootstrap-server", servers, "--topic", topic]);
    tools::run_with_input(command.args(more), input.as_bytes()).success();
}
