//! The status of the whole process: what the node says, and what stands around it.

use super::State;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

#[derive(Serialize)]
pub struct Status {
    pub version: &'static str,
    pub serving: bool,
    pub uptime_seconds: u64,
    pub process: Process,
    /// Clients' TCP connections.
    pub kafka_connections: usize,
    /// Bytes of requests that are being received or handled.
    pub request_bytes: usize,
    #[serde(flatten)]
    pub node: weir_core::node::Status,
    pub mqtt: Option<weir_bridge::mqtt::Status>,
    pub mirror: weir_bridge::mirror::Status,
}

/// What the kernel says of this process.
#[derive(Default, Serialize)]
pub struct Process {
    pub resident_bytes: u64,
    pub cpu_seconds: f64,
    pub threads: u64,
    pub open_files_max: u64,
}

impl Status {
    pub fn of(state: &State) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION"),
            serving: state.node.is_serving(),
            uptime_seconds: state.started.elapsed().as_secs(),
            process: Process::now(),
            kafka_connections: state.node.sockets(),
            request_bytes: state.node.request_bytes(),
            node: state.node.status(),
            mqtt: state.bridge.mqtt_status(),
            mirror: state.bridge.mirror_status(),
        }
    }
}

impl Process {
    fn now() -> Process {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let status = read("/proc/self/status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("");
            line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        // The second field of stat, a name in parentheses, may hold spaces. User and system time
        // are the 14th and 15th, in ticks that Linux fixes at 100 a second (proc(5)).
        let stat = read("/proc/self/stat");
        let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
        let ticks: u64 =
            fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Process {
            resident_bytes: field("VmRSS:") * 1024,
            cpu_seconds: ticks as f64 / 100.0,
            threads: field("Threads:"),
            open_files_max: getrlimit(Resource::Nofile).current.unwrap_or(0),
        }
    }
}
