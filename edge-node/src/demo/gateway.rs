//! The gateway of the demo: this same program, started in a temporary folder.

use crate::cli::Failure;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Where a gateway is.
#[derive(Clone, Debug)]
pub struct Addresses {
    pub kafka: String,
    pub mqtt: String,
    pub http: Option<String>,
}

/// A child that ends, and whose folder is removed, when this is dropped.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    folder: PathBuf,
}

impl Gateway {
    /// Starts and waits until it serves.
    pub fn start() -> Result<(Gateway, Addresses), Failure> {
        let folder = std::env::temp_dir().join(format!("weir-demo-{}", std::process::id()));
        let program = std::env::current_exe()
            .map_err(|error| format!("cannot find this program on disk: {error}"))?;
        let mut command = Command::new(program);
        command.arg("serve").arg("--data").arg(&folder);
        for setting in [
            "kafka.listen=127.0.0.1:0",
            "mqtt.listen=127.0.0.1:0",
            "http.listen=127.0.0.1:0",
            "flash.bytes=256MiB",
        ] {
            command.arg("--set").arg(setting);
        }
        // The settings of a gateway for real are none of this one.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WEIR_") {
                command.env_remove(name);
            }
        }
        command.env("WEIR_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().map_err(|error| format!("cannot start a gateway: {error}"))?;
        let mut gateway = Gateway { child, folder };
        let addresses = gateway.read_addresses()?;
        Ok((gateway, addresses))
    }

    /// Reads what it says when it serves.
    fn read_addresses(&mut self) -> Result<Addresses, Failure> {
        let output = self.child.stdout.take().expect("its output is piped");
        let (mut kafka, mut mqtt, mut http) = (None, None, None);
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("Kafka"), Some(address)) => kafka = Some(address.to_string()),
                (Some("MQTT"), Some(address)) => mqtt = Some(address.to_string()),
                (Some("HTTP"), Some(url)) => {
                    let address = url.trim_start_matches("http://").trim_end_matches('/');
                    http = Some(address.to_string());
                }
                (Some("Try:"), _) => break,
                _ => {}
            }
        }
        match (kafka, mqtt) {
            (Some(kafka), Some(mqtt)) => Ok(Addresses { kafka, mqtt, http }),
            _ => Err(Failure::Failed("the gateway did not start; its lines above say why".into())),
        }
    }

    pub fn folder(&self) -> String {
        self.folder.display().to_string()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Its data goes away, so there is no reason to let it stop cleanly.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
