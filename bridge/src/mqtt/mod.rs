//! MQTT in: a listener for 3.1.1 and 5.0, sessions, and the way of a publish into the log.
//!
//! ```text
//! net        sockets, tasks                                  (input and output)
//! lanes      the connections to this node and to others of the site
//! hub        everything else, as a value                     bytes in, packets and records out
//! publish    PUBLISH to record           connect   how connections and sessions begin and end
//! outcomes   durable to PUBACK           wills     what happens by itself, with time
//! session    what outlives a connection  restore   how it is found again after a cut
//! source     messages of other brokers   packet    what may be in a packet
//! ```

mod connect;
mod connection;
mod hub;
mod lanes;
mod net;
mod outcomes;
mod packet;
mod publish;
mod reactor;
mod restore;
mod session;
mod source;
mod status;
mod wills;

pub(crate) use packet::Properties;
pub use status::{Histogram, SourceStatus, Status};

use crate::client::{Bootstrap, Client, Settings as ClientSettings};
use crate::ingest::{self, Ingest, QUEUED_BYTES_MAX};
use crate::rules::Rules;
use crate::{LocalNode, settings};
use async_channel::{Receiver, Sender};
use futures_lite::future;
use hub::{Clock, Hub};
use net::Net;
use reactor::Reactor;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use source::Source;
use status::Counters;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a stop waits for what was taken to become durable, and for the clients to be told.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1_024;

/// The running MQTT side: one thread that owns every MQTT connection, session and source.
#[derive(Debug)]
pub struct Mqtt {
    counters: Arc<Counters>,
    listens: Option<SocketAddr>,
    socket: Option<TcpListener>,
    serve: Sender<()>,
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// Why the MQTT side did not start: a sentence for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError(pub String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the thread begins with.
struct Setup {
    settings: settings::Mqtt,
    rules: Rules,
    sources: Vec<Source>,
    listener: Option<TcpListener>,
    local: Arc<dyn LocalNode>,
    counters: Arc<Counters>,
    serving: Receiver<()>,
    stopped: Receiver<()>,
    reactor: Reactor,
}

impl Mqtt {
    /// Binds the listener, checks rules and sources, and starts. Nobody can connect before
    /// [`Mqtt::serve`]: a device that knows several gateways goes to one that serves.
    pub fn start(settings: &settings::Mqtt, local: Arc<dyn LocalNode>) -> Result<Mqtt, StartError> {
        let rules = Rules::new(settings).map_err(StartError)?;
        let sources: Vec<Source> = settings
            .source
            .iter()
            .map(Source::new)
            .collect::<Result<_, _>>()
            .map_err(StartError)?;
        let listener = bind(&settings.listen)?;
        let listens = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let counters = Arc::new(Counters::default());
        counters.queued_bytes_max.store(QUEUED_BYTES_MAX as u64, Relaxed);
        if let Ok(mut status) = counters.sources.lock() {
            *status = sources.iter().map(Source::status).collect();
        }
        let socket = listener.as_ref().map(TcpListener::try_clone).transpose();
        let socket = socket.map_err(|error| StartError(format!("cannot listen: {error}")))?;
        let (serve, serving) = async_channel::bounded(1);
        let (stop, stopped) = async_channel::bounded(1);
        let setup = Setup {
            settings: settings.clone(),
            rules,
            sources,
            listener,
            local,
            counters: counters.clone(),
            serving,
            stopped,
            reactor: Reactor::new()
                .map_err(|error| StartError(format!("cannot wait for MQTT sockets: {error}")))?,
        };
        let thread = std::thread::Builder::new()
            .name("weir-mqtt".into())
            .spawn(move || run(setup))
            .map_err(|error| StartError(format!("cannot start a thread for MQTT: {error}")))?;
        Ok(Mqtt { counters, listens, socket, serve, stop, thread })
    }

    /// Lets devices connect: the local node serves.
    pub fn serve(&self) -> Result<(), StartError> {
        if let (Some(socket), Some(address)) = (&self.socket, self.listens) {
            rustix::net::listen(socket, BACKLOG).map_err(|error| cannot_listen(address, error))?;
        }
        self.serve.close();
        Ok(())
    }

    /// Where devices connect; `None` without a listener.
    pub fn listens(&self) -> Option<SocketAddr> {
        self.listens
    }

    pub fn status(&self) -> Status {
        self.counters.status()
    }

    /// Ends every connection after what was taken is durable and acknowledged, a second at most.
    /// Blocks until then; stop the node after it.
    pub fn stop(self) {
        self.stop.close();
        if self.thread.join().is_err() {
            log::error!("mqtt: the thread ended with a panic");
        }
    }
}

/// Takes the address, but lets nobody connect yet.
fn bind(listen: &str) -> Result<Option<TcpListener>, StartError> {
    if listen.is_empty() {
        return Ok(None);
    }
    let cannot = |error: io::Error| cannot_listen(listen, error);
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in listen.to_socket_addrs().map_err(cannot)? {
        match bind_to(address) {
            Ok(socket) => return Ok(Some(socket)),
            Err(error) => failure = error.into(),
        }
    }
    Err(cannot(failure))
}

fn bind_to(address: SocketAddr) -> rustix::io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // As the standard library does: the last run's connections may not be over yet.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket.into())
}

fn cannot_listen(listen: impl fmt::Display, error: impl fmt::Display) -> StartError {
    StartError(format!("cannot listen for MQTT on {listen}: {error}; change mqtt.listen"))
}

/// What the clocks say now.
fn clock() -> Clock {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Clock { now: Instant::now(), wall_ms: wall.as_millis() as i64 }
}

fn run(setup: Setup) {
    let stopped = setup.stopped.clone();
    let stop = async {
        let _ = stopped.recv().await;
        None
    };
    let begun = setup.reactor.block_on(future::or(begin(&setup), stop), |_| {});
    let Some((hub, client)) = begun else { return };
    let Setup { sources, listener, local, reactor, serving, .. } = setup;
    let net = Net::new(hub, client, reactor);
    let executor = &net.executor;
    net.start_lanes();
    let tasks = [
        executor.spawn(net.clone().local_lane(ingest::LOCAL, local)),
        executor.spawn(net.clone().open_topics()),
        executor.spawn(net.clone().seek_leaders()),
        executor.spawn(net.clone().look_after()),
    ];
    let sources: Vec<_> = sources
        .into_iter()
        .enumerate()
        .map(|(number, source)| {
            // The library wants tokio's clock and sockets around it.
            executor.spawn(async_compat::Compat::new(source::run(net.clone(), number, source)))
        })
        .collect();
    let accept =
        listener.map(|listener| executor.spawn(net.clone().accept(listener, serving.clone())));
    net.settle();
    let stop = async {
        let _ = stopped.recv().await;
        drop((accept, sources));
        wind_down(&net).await;
    };
    net.reactor.block_on(executor.run(stop), |ready| net.ready(ready));
    drop(tasks);
}

/// Reads back what an earlier run left, and asks for what everything else needs.
async fn begin(setup: &Setup) -> Option<(Hub, Client)> {
    let mut settings = ClientSettings::new(Bootstrap::Local(setup.local.clone()), "weir-mqtt");
    settings.retry_for = Duration::from_secs(3_600);
    settings.connect_timeout = Duration::from_secs(3);
    let client = Client::new(settings);
    let producer = loop {
        match client.init_producer_id(None).await {
            Ok(producer) => break producer,
            Err(error) => log::warn!("mqtt: {error}; trying again"),
        }
        smol::Timer::after(Duration::from_millis(100)).await;
    };
    let node = setup.local.node();
    let restored = restore::restore(&client, node).await;
    let ingest = Ingest::new(node, producer.producer_id, producer.producer_epoch);
    let mut hub = Hub::new(&setup.settings, setup.rules.clone(), setup.counters.clone(), ingest);
    setup.sources.iter().for_each(|_| hub.sources.add());
    let sessions = hub.ingest.wanted(hub.sessions_topic);
    let found = crate::ingest::topics::open(&client, &sessions).await;
    hub.ingest.opened(sessions.topic, &found, Instant::now());
    // The topics of the rules are there before the first message: who consumes them finds them.
    for topic in hub.rule_topics.clone().into_iter().flatten() {
        hub.ingest.is_open(topic);
    }
    hub.restored(restored, Instant::now());
    Some((hub, client))
}

/// Nothing more is read; what was taken is finished, then everybody is told.
async fn wind_down(net: &Net) {
    let finish = async {
        net.hub.borrow_mut().stop_reading();
        while !net.hub.borrow().ingest.is_idle() {
            net.settle();
            smol::Timer::after(Duration::from_millis(5)).await;
        }
        net.hub.borrow_mut().shut_down(Instant::now());
        net.settle();
        while net.hub.borrow().connections.len() > 0 {
            smol::Timer::after(Duration::from_millis(5)).await;
        }
    };
    let patience = async {
        smol::Timer::after(STOP_PATIENCE).await;
    };
    future::or(finish, patience).await;
}

#[cfg(test)]
mod tests;
