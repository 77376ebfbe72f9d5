//! `weir serve`: joins configuration, data folder, driver, bridge and HTTP into a running gateway.

use crate::config::{Address, Config};
use crate::driver::{Driver, End, Handle, Limits, Port, Progress, peer};
use crate::http;
use crate::signals::{outlive_file_size_limit, stop_signals};
use crate::site;
use crate::store::{self, Store, flush_cap};
use crate::units::format_bytes;
use async_channel::{Receiver, Sender};
use async_net::TcpListener;
use log::{error, info, warn};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use smol::{Async, LocalExecutor, Task, Timer};
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use weir_bridge::LocalNode;
use weir_bridge::client::Bootstrap;
use weir_bridge::mirror;
use weir_bridge::mqtt::Mqtt;
use weir_core::log::{ScrubPlan, Start, Upkeep};
use weir_core::node::{Release, Settings};
use weir_core::types::{Nanos, NodeId};

/// Replies that are still to be written when the node has stopped get this long.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes of memory for what was written last, from which consumers at the end of the log are
/// served.
const TAIL_CACHE_BYTES: u64 = 8 << 20;
const FOOTER_CACHE_BYTES: u64 = 8 << 20;
/// Runs of the index: 16 MiB, and half as much again that may be reserved.
const INDEX_RUNS_MAX: u64 = 1 << 20;

/// Runs a gateway until it is told to stop. An error is a sentence for the operator.
pub fn serve(config: &Config) -> Result<(), String> {
    raise_file_limit();
    outlive_file_size_limit().map_err(|error| format!("cannot handle signals: {error}"))?;
    let (store, file) = Store::open(&config.node.data, config.node.id, &config.flash)?;
    let kafka = bind("Kafka", "kafka.listen", &config.kafka.listen)?;
    let console = match &config.http.listen {
        Some(address) => Some(bind("HTTP", "http.listen", address)?),
        None => None,
    };
    let peers = site::peers(config)?;
    let sockets = Sockets { kafka, console, peers };
    let executor = Rc::new(LocalExecutor::new());
    let running = executor.run(run(config, store, file, sockets, executor.clone()));
    smol::block_on(running)
}

/// What is listened to, before anybody is answered.
struct Sockets {
    kafka: TcpListener,
    console: Option<TcpListener>,
    peers: Option<peer::Settings>,
}

async fn run(
    config: &Config,
    mut store: Store,
    file: File,
    sockets: Sockets,
    executor: Rc<LocalExecutor<'static>>,
) -> Result<(), String> {
    let Sockets { kafka, console, peers } = sockets;
    let (settings, flushes) = settings(config, &store, &kafka, peers.as_ref())?;
    let limits = limits(config, &store);
    let log_path = store.log_path();
    let peers_at = peers.as_ref().and_then(|peers| peers.listener.local_addr().ok());
    let (driver, handle, progress) =
        Driver::new(settings, limits, (&log_path, file), peers, executor.clone())
            .map_err(|error| format!("cannot start a thread: {error}"))?;
    let (port, opens) = Port::new(NodeId(config.node.id));
    let port: Arc<dyn LocalNode> = Arc::new(port);
    executor.spawn(driver.serve_port(opens)).detach();
    let bridge = Rc::new(Bridge::start(config, port)?);
    let listening = Listening {
        kafka: kafka.local_addr().map_err(|error| error.to_string())?.to_string(),
        mqtt: bridge.mqtt.borrow().as_ref().and_then(Mqtt::listens).map(|a| a.to_string()),
        http: console.as_ref().and_then(|l| l.local_addr().ok()).map(|a| a.to_string()),
        peers: peers_at.map(|address| address.to_string()),
    };
    let http = console.map(|listener| {
        let state = http::State::new(handle.clone(), bridge.clone());
        executor.spawn(http::serve(listener, state, executor.clone()))
    });
    let accept = driver.listen(kafka);
    let node = executor.spawn(driver.run());
    let (signals, forward) =
        stop_signals().map_err(|error| format!("cannot handle signals: {error}"))?;
    executor.spawn(forward).detach();

    let mut told = false;
    let told_to_stop = async {
        told = signals.recv().await.is_ok();
        Ok(false)
    };
    let started = smol::future::or(started(&mut store, &handle, progress), told_to_stop);
    let mut accepting = None;
    if started.await? {
        accepting = Some(executor.spawn(accept));
        bridge.serve()?;
        listening.say(config, &store, &flushes);
        let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
        handle.set_serving(true);
    }
    let stop = stop(signals.clone(), handle.clone(), bridge, accepting, http);
    let stop = executor.spawn(async move {
        // The signal that ended the start is the one to stop by.
        if told || signals.recv().await.is_ok() {
            stop.await;
        }
    });
    let watchdog = executor.spawn(watchdog());
    let end = smol::future::or(node, keep_life(&mut store, &handle)).await;
    drop(watchdog);
    handle.written(LAST_WORDS).await;
    drop(stop);
    ended(store, &handle, end)
}

fn ended(mut store: Store, handle: &Handle, end: End) -> Result<(), String> {
    match end {
        End::Stopped => {
            store.past.take(&handle.status().log);
            store.stopped();
            info!("stopped; everything is on flash");
            Ok(())
        }
        End::Refused(error) => Err(store::refusal(&error, &store.log_path())),
    }
}

fn limits(config: &Config, store: &Store) -> Limits {
    Limits {
        connections_max: config.kafka.connections_max,
        idle_seconds_max: config.kafka.idle_max.as_secs() as u32,
        clock_floor_ms: store.written_ms,
    }
}

/// Waits until clients may be served; says whether the start has come to that.
async fn started(
    store: &mut Store,
    handle: &Handle,
    progress: Receiver<Progress>,
) -> Result<bool, String> {
    let mut kept = false;
    loop {
        let next = smol::future::or(async { progress.recv().await.ok() }, async {
            // Whoever waits for the disk, and not for the site, is as slow as it is.
            match kept {
                true => match site::wait(handle).await {},
                false => std::future::pending().await,
            }
        });
        let Some(progress) = next.await else { return Ok(false) };
        // A log that peers have heard of must be found again under its name, whenever that is.
        if !std::mem::replace(&mut kept, true) {
            store.started()?;
        }
        match (progress, handle.peers()) {
            (Progress::Ready, _) => return Ok(true),
            (Progress::Open, Some(peers)) => peers.join(),
            (Progress::Open, None) => {}
        }
    }
}

/// The life of the medium is remembered so often, and after so many bytes programmed: a cut forgets
/// less than that.
const KEEP_EVERY: Duration = Duration::from_secs(3_600);
const KEEP_BYTES: u64 = 1 << 30;

/// Remembers the life of the medium; never ends.
async fn keep_life(store: &mut Store, handle: &Handle) -> End {
    let mut kept = (Instant::now(), store.past.life.programmed_bytes);
    loop {
        Timer::after(Duration::from_secs(60)).await;
        let log = handle.status().log;
        let programmed = log.life.programmed_bytes.saturating_sub(kept.1);
        if kept.0.elapsed() >= KEEP_EVERY || programmed >= KEEP_BYTES {
            kept = (Instant::now(), log.life.programmed_bytes);
            store.past.take(&log);
            store.keep();
        }
    }
}

/// The parts beside the node, which end before it. Each has a thread of its own.
pub struct Bridge {
    mqtt: RefCell<Option<Mqtt>>,
    mirror: mirror::Handle,
    mirror_stop: Sender<()>,
    mirror_thread: RefCell<Option<JoinHandle<()>>>,
}

impl Bridge {
    fn start(config: &Config, port: Arc<dyn LocalNode>) -> Result<Bridge, String> {
        // A witness serves nobody but its site.
        let mqtt = match config.node.roles.broker {
            true => Some(Mqtt::start(&config.mqtt, port.clone()).map_err(|error| error.0)?),
            false => None,
        };
        let (mirror, (mirror_stop, stop)) = (mirror::Handle::new(), async_channel::bounded(1));
        let (routes, handle) = (config.mirrors.clone(), mirror.clone());
        let run = move || {
            let run = mirror::run(routes, Bootstrap::Local(port), handle, stop);
            if let Err(error) = smol::block_on(run) {
                error!("mirror: {error}");
            }
        };
        let thread = match config.mirrors.is_empty() {
            true => None,
            false => Some(
                std::thread::Builder::new()
                    .name("weir-mirror".into())
                    .spawn(run)
                    .map_err(|error| format!("cannot start a thread for the mirror: {error}"))?,
            ),
        };
        Ok(Bridge {
            mqtt: RefCell::new(mqtt),
            mirror,
            mirror_stop,
            mirror_thread: RefCell::new(thread),
        })
    }

    /// Lets devices connect.
    fn serve(&self) -> Result<(), String> {
        self.mqtt.borrow().as_ref().map_or(Ok(()), Mqtt::serve).map_err(|error| error.0)
    }

    pub fn mqtt_status(&self) -> Option<weir_bridge::mqtt::Status> {
        self.mqtt.borrow().as_ref().map(Mqtt::status)
    }

    pub fn mirror_status(&self) -> mirror::Status {
        self.mirror.snapshot()
    }

    /// Pauses or resumes a mirror; false when there is none of that name.
    pub fn pause_mirror(&self, name: &str, pause: bool) -> bool {
        let done = if pause { self.mirror.pause(name) } else { self.mirror.resume(name) };
        done.is_ok()
    }

    /// Lets the bridge finish what it has taken. It needs the node for that, so it waits elsewhere.
    async fn stop(&self) {
        self.mirror_stop.close();
        let (mqtt, mirror) = (self.mqtt.take(), self.mirror_thread.take());
        let stop = move || {
            if let Some(mqtt) = mqtt {
                mqtt.stop();
            }
            if mirror.is_some_and(|thread| thread.join().is_err()) {
                error!("mirror: the thread ended with a panic");
            }
        };
        smol::unblock(stop).await;
    }
}

fn settings(
    config: &Config,
    store: &Store,
    kafka: &TcpListener,
    peers: Option<&peer::Settings>,
) -> Result<(Settings, String), String> {
    let (flush_cap, flushes) = flush_cap(&config.flash, &store.past, &store.medium);
    let advertise = match &config.kafka.advertise {
        Some(address) => address.clone(),
        None => advertise("clients", "kafka", &config.kafka.listen, kafka),
    };
    let peer = site::peer_address(config, peers.map(|peers| &peers.listener));
    let info = rustix::system::sysinfo();
    let memory_bytes = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
    let small = memory_bytes > 0 && memory_bytes < 700 << 20;
    let checkpoint_bytes = if small { 16 << 20 } else { 64 << 20 };
    let seed = store::random().map_err(|error| format!("cannot read random numbers: {error}"))?;
    let settings = Settings {
        node: NodeId(config.node.id),
        rack: config.node.rack.clone(),
        advertised_host: advertise.host,
        advertised_port: advertise.port,
        start: store.start,
        medium_bytes: store.bytes,
        flush_cap,
        upkeep: upkeep(config, store),
        checkpoint_bytes: config.flash.checkpoint_bytes.unwrap_or(checkpoint_bytes),
        flush_window: Nanos(config.flash.window.as_nanos() as u64),
        tail_cache_bytes: TAIL_CACHE_BYTES.min(memory_bytes / 128).max(1 << 20) as usize,
        footer_cache_bytes: FOOTER_CACHE_BYTES.min(memory_bytes / 128).max(1 << 20) as usize,
        index_runs_max: INDEX_RUNS_MAX.min(memory_bytes / 1024).max(128 << 10) as u32,
        topic_defaults: config.topic_defaults.clone(),
        num_partitions: config.kafka.num_partitions,
        default_replication_factor: config.kafka.default_replication_factor,
        auto_create_topics: config.kafka.auto_create_topics,
        voters: config.cluster.voters.keys().map(|id| NodeId(*id)).collect(),
        holds_partitions: config.node.roles.broker,
        peer_address: (peer.host, peer.port),
        release: Release::default(),
        replica_limits: Default::default(),
        unguarded: Default::default(),
        seed: u64::from_be_bytes(seed),
    };
    Ok((settings, flushes))
}

fn upkeep(config: &Config, store: &Store) -> Upkeep {
    let pass = |pass: Duration| Nanos(u64::try_from(pass.as_nanos()).unwrap_or(u64::MAX));
    let scrub = config.flash.scrub.map(|time| ScrubPlan {
        pass: pass(time),
        slot: store.past.scrub_slot,
        quarantine_unreadable: false,
    });
    Upkeep { card: config.flash.card, life: store.past.life, scrub }
}

/// Where others find us if nobody has said: the address that we listen on, or this machine's name
/// if that is every address.
pub fn advertise(who: &str, section: &str, listen: &Address, listener: &TcpListener) -> Address {
    let port = listener.local_addr().map_or(listen.port, |address| address.port());
    let every = matches!(listen.host.as_str(), "0.0.0.0" | "::");
    let host = if every {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        info!("{who} are told to connect to {name}:{port}; {section}.advertise would change that");
        name
    } else {
        listen.host.clone()
    };
    Address { host, port }
}

pub fn bind(what: &str, key: &str, address: &Address) -> Result<TcpListener, String> {
    let listener = std::net::TcpListener::bind((address.host.as_str(), address.port));
    let listener = listener.and_then(Async::new).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::AddrInUse => {
                "the port is taken, perhaps by another weir; stop that, or choose another port"
            }
            ErrorKind::PermissionDenied => "ports below 1024 need a privilege; choose another port",
            ErrorKind::AddrNotAvailable => "this machine has no such address; choose another one",
            _ => "choose another address",
        };
        format!("cannot listen for {what} on {address}: {error}. {hint} by --set {key}=HOST:PORT")
    })?;
    Ok(listener.into())
}

/// Connections and MQTT sessions are file descriptors; the usual soft limit of 1,024 is less than
/// ours.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        let raised = Rlimit { current: limit.maximum.map(|max| max.min(65_536)), ..limit };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            warn!("cannot raise the limit of open files: {error}");
        }
    }
}

/// Ends listeners, then the bridge, then the node: each may need the one after it.
async fn stop(
    signals: Receiver<()>,
    handle: Handle,
    bridge: Rc<Bridge>,
    accepting: Option<Task<()>>,
    http: Option<Task<()>>,
) {
    info!("stopping");
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    handle.set_serving(false);
    drop(accepting);
    bridge.stop().await;
    handle.stop();
    let _ = signals.recv().await;
    warn!("told to stop twice: leaving at once. What was acknowledged is on flash");
    drop(http);
    std::process::exit(1);
}

/// Tells systemd that this thread, which owns the node, still turns.
async fn watchdog() {
    let Some(period) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    loop {
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        Timer::after(period / 3).await;
    }
}

/// The addresses that were really bound.
struct Listening {
    kafka: String,
    mqtt: Option<String>,
    http: Option<String>,
    peers: Option<String>,
}

impl Listening {
    fn say(&self, config: &Config, store: &Store, flushes: &str) {
        let log = match store.start {
            Start::Format { slot_bytes, slots, .. } => {
                format!("a new log of {}", format_bytes(u64::from(slot_bytes) * u64::from(slots)))
            }
            Start::Recover => format!("a log, {} so far", format_bytes(store.bytes)),
        };
        let medium = store.medium.name();
        let mut text = format!(
            "weir {}, node {}, serves\n  Kafka  {}\n",
            env!("CARGO_PKG_VERSION"),
            config.node.id,
            self.kafka
        );
        if let Some(mqtt) = &self.mqtt {
            text += &format!("  MQTT   {mqtt}\n");
        }
        if let Some(http) = &self.http {
            text += &format!("  HTTP   http://{http}/  console, /metrics\n");
        }
        if let Some(peers) = &self.peers {
            text += &format!("  peers  {peers}, {}\n", site::described(config));
        }
        text += &format!("  data   {}: {log} on {medium}; {flushes}\n", config.node.data.display());
        if config.node.roles.broker {
            text += &self.examples(config);
        }
        // A closed standard output is no reason to end.
        let _ = io::Write::write_all(&mut io::stdout(), text.as_bytes());
    }

    /// What somebody who sees a gateway for the first time may try.
    fn examples(&self, config: &Config) -> String {
        let mut text = String::from("Try:\n");
        if let Some(mqtt) = &self.mqtt {
            let (host, port) = mqtt.rsplit_once(':').unwrap_or((mqtt, "1883"));
            let host = match host {
                "127.0.0.1" | "0.0.0.0" | "[::]" => String::new(),
                other => format!(" -h {other}"),
            };
            let port = if port == "1883" { String::new() } else { format!(" -p {port}") };
            text += &format!("  mosquitto_pub{host}{port} -t plant/line1/temp -m 21.5 -q 1\n");
        }
        let kafka = self.kafka.replace("0.0.0.0", "127.0.0.1");
        text += &format!("  kcat -b {kafka} -G dashboards {}\n", config.mqtt.default_topic);
        text
    }
}
