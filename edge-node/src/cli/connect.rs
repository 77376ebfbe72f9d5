//! How commands reach a gateway: Kafka's protocol, or HTTP.

use super::Failure;
use super::args::{HttpTarget, KafkaTarget};
use crate::config::Address;
use crate::signals::stop_signals;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;
use weir_bridge::client::{Bootstrap, Client, Error, ErrorKind as ClientErrorKind, Settings};

impl KafkaTarget {
    pub fn bootstrap(&self) -> Vec<String> {
        let text = match &self.bootstrap {
            Some(text) => text.clone(),
            None => std::env::var("WEIR_BOOTSTRAP").unwrap_or_else(|_| "127.0.0.1:9092".into()),
        };
        text.split(',').map(|address| address.trim().to_string()).collect()
    }

    pub fn client(&self) -> Result<Client, Failure> {
        let bootstrap = self.bootstrap();
        for address in &bootstrap {
            if Address::parse(address).is_none() {
                let sentence = format!("--bootstrap {address}: write it as HOST:PORT");
                return Err(Failure::Usage(sentence));
            }
        }
        let mut settings = Settings::new(Bootstrap::Tcp(bootstrap), "weir-cli");
        settings.connect_timeout = Duration::from_secs(5);
        settings.retry_for = Duration::from_secs(5);
        Ok(Client::new(settings))
    }

    /// A failure of the client with a hint, when nobody is there.
    pub fn failure(&self, error: Error) -> Failure {
        let hint = match error.kind {
            ClientErrorKind::Network => {
                ". Is the gateway running? Start it by `weir`, or name another by --bootstrap"
            }
            _ => "",
        };
        Failure::Failed(format!("{error}{hint}"))
    }
}

/// Runs a command to its end, or until it is interrupted: `None` then.
pub fn block_on<T>(command: impl Future<Output = T>) -> Result<Option<T>, Failure> {
    let (signals, forward) = stop_signals()
        .map_err(|error| Failure::Failed(format!("cannot handle signals: {error}")))?;
    let interrupted = async {
        let received = async {
            let _ = signals.recv().await;
        };
        smol::future::or(received, forward).await;
        None
    };
    Ok(smol::block_on(smol::future::or(async { Some(command.await) }, interrupted)))
}

/// The same for a command that has nothing to clean up.
pub fn run<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    block_on(command)?.unwrap_or_else(|| Err(Failure::Failed("interrupted".into())))
}

impl HttpTarget {
    pub fn address(&self) -> String {
        match &self.http {
            Some(text) => text.trim_start_matches("http://").trim_end_matches('/').to_string(),
            None => std::env::var("WEIR_HTTP").unwrap_or_else(|_| "127.0.0.1:8080".into()),
        }
    }

    pub fn status(&self) -> Result<serde_json::Value, Failure> {
        let body = self.request("GET", "/api/v1/status")?;
        serde_json::from_str(&body)
            .map_err(|error| Failure::Failed(format!("the gateway's status is no JSON: {error}")))
    }

    /// The body of a successful answer.
    pub fn request(&self, method: &str, path: &str) -> Result<String, Failure> {
        let address = self.address();
        let answer = exchange(&address, method, path).map_err(|error| {
            let hint = match error.kind() {
                ErrorKind::ConnectionRefused => {
                    ". Is the gateway running? Start it by `weir`, or name another by --http"
                }
                _ => "",
            };
            Failure::Failed(format!("cannot ask {address}: {error}{hint}"))
        })?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        match head.split(' ').nth(1) {
            Some("200") => Ok(body.to_string()),
            Some(code) => Err(Failure::Failed(format!("{address} says {code}: {}", body.trim()))),
            None => Err(Failure::Failed(format!("{address} does not speak HTTP"))),
        }
    }
}

fn exchange(address: &str, method: &str, path: &str) -> std::io::Result<Vec<u8>> {
    /// A status of 10,000 partitions is about 2 MB.
    const ANSWER_BYTES_MAX: u64 = 64 << 20;
    const TIMEOUT: Duration = Duration::from_secs(10);
    let resolved = address.to_socket_addrs()?.next().ok_or(ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&resolved, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}
