//! The driver: performs what the node decides.
//!
//! One thread owns the [`Node`] and runs the clients' sockets, because handing each request to
//! another thread and each reply back costs more than the node's own work on it. Everything that
//! has gathered is handled before outputs are polled, so that what arrived together is committed
//! together. The disk has threads of its own, and so has the bridge, whose connections are in
//! memory.

mod budget;
mod clock;
mod disk;
mod frames;
mod inbox;
mod listener;
mod memory;
pub mod peer;
mod socket;

pub use memory::Port;

use crate::config::Address;
use async_channel::{Receiver, Sender};
use async_net::TcpListener;
use budget::Budget;
use clock::Clock;
use disk::Disk;
use inbox::Inbox;
use memory::Memory;
use peer::Peers;
use smol::{LocalExecutor, Timer};
use socket::Socket;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use weir_core::log::OpenError;
use weir_core::node::{Input, Node, Output, Settings, Status};
use weir_core::types::{ConnId, NodeId, Time};
use weir_core::wire::Frame;

/// Bytes of requests that are being received or handled, all connections together. Two frames of
/// the largest size, or the produce requests of some hundred usual clients.
const REQUEST_BYTES_MAX: usize = 32 << 20;
/// What all connections read into. Larger reads save little more.
const SCRATCH_BYTES: usize = 64 << 10;
/// How often stuck and idle connections are looked for, in seconds.
const PROGRESS_CHECK_SECONDS: u32 = 5;

#[derive(Clone, Debug)]
pub struct Limits {
    pub connections_max: usize,
    /// Kafka's `connections.max.idle.ms`, in seconds.
    pub idle_seconds_max: u32,
    /// When the log was written last: a wall clock before that is not trusted.
    pub clock_floor_ms: Option<i64>,
}

/// How far a start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The log is open, and stays this gateway's: it may show itself to its site.
    Open,
    /// Clients may be served.
    Ready,
}

/// How the driver ended.
#[derive(Debug)]
pub enum End {
    Stopped,
    Refused(OpenError),
}

/// What connections and the node's loop share; all on one thread.
pub struct Shared {
    inbox: Arc<Inbox>,
    budget: Rc<Budget>,
    routes: RefCell<HashMap<ConnId, Route>>,
    scratch: RefCell<Box<[u8]>>,
    /// Open sockets of clients.
    sockets: Cell<usize>,
    unsent_bytes: Cell<usize>,
    /// Whole seconds since the start: a clock for what needs no better one.
    seconds: Cell<u32>,
    conn_last: Cell<u64>,
    serving: Cell<bool>,
}

/// Where a connection's replies go.
enum Route {
    Socket(Rc<Socket>),
    Memory(Rc<Memory>),
}

/// Looks at the running node and stops it.
#[derive(Clone)]
pub struct Handle {
    node: Rc<RefCell<Node>>,
    shared: Rc<Shared>,
    peers: Option<Rc<Peers>>,
}

pub struct Driver {
    node: Rc<RefCell<Node>>,
    shared: Rc<Shared>,
    disk: Disk,
    clock: Clock,
    executor: Rc<LocalExecutor<'static>>,
    limits: Limits,
    peers: Option<Rc<Peers>>,
    progress: Sender<Progress>,
    opened: Cell<bool>,
}

impl Driver {
    /// Makes the node and its threads; nothing happens before [`Driver::run`]. `peers`: of a
    /// gateway that is one of a site.
    pub fn new(
        settings: Settings,
        limits: Limits,
        medium: (&Path, File),
        peers: Option<peer::Settings>,
        executor: Rc<LocalExecutor<'static>>,
    ) -> io::Result<(Driver, Handle, Receiver<Progress>)> {
        let clock = Clock::start();
        let inbox = Arc::new(Inbox::default());
        let disk = Disk::start(medium.0, medium.1, inbox.clone())?;
        let budget = Rc::new(Budget::new(REQUEST_BYTES_MAX));
        let peers =
            peers.map(|peers| Peers::new(peers, inbox.clone(), budget.clone(), executor.clone()));
        let shared = Rc::new(Shared {
            inbox,
            budget,
            routes: RefCell::default(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            sockets: Cell::new(0),
            unsent_bytes: Cell::new(0),
            seconds: Cell::new(0),
            conn_last: Cell::new(0),
            serving: Cell::new(false),
        });
        let node = Rc::new(RefCell::new(Node::new(clock.now(), settings)));
        let handle = Handle { node: node.clone(), shared: shared.clone(), peers: peers.clone() };
        let (progress, progressed) = async_channel::unbounded();
        let opened = Cell::new(false);
        let driver =
            Driver { node, shared, disk, clock, executor, limits, peers, progress, opened };
        Ok((driver, handle, progressed))
    }

    /// Serves Kafka clients on `listener` until dropped.
    pub fn listen(&self, listener: TcpListener) -> impl Future<Output = ()> + use<> {
        let (max, executor) = (self.limits.connections_max, self.executor.clone());
        listener::accept(listener, max, executor, self.shared.clone())
    }

    /// Serves the connections that [`Port`] opens.
    pub fn serve_port(&self, opens: Receiver<memory::Opened>) -> impl Future<Output = ()> + use<> {
        memory::serve(opens, self.executor.clone(), self.shared.clone())
    }

    /// The node's loop: until it has stopped or refuses the medium.
    pub async fn run(self) -> End {
        let mut inputs = Vec::new();
        let mut timer = Timer::never();
        let mut timer_at = None;
        let mut second_at = self.clock.now();
        loop {
            if self.clock.now() >= second_at {
                second_at = self.clock.now().plus_ms(1_000);
                self.every_second();
            }
            let deadline = self.node.borrow().deadline().unwrap_or(second_at).min(second_at);
            if timer_at != Some(deadline) {
                timer.set_at(self.clock.instant(deadline));
                timer_at = Some(deadline);
            }
            poll_fn(|cx| {
                if self.shared.inbox.poll_take(cx, &mut inputs).is_ready() {
                    return Poll::Ready(());
                }
                Pin::new(&mut timer).poll(cx).map(|_| timer_at = None)
            })
            .await;
            if let Some(end) = self.step(self.clock.now(), &mut inputs) {
                return end;
            }
            // Whoever is ready now brings its requests into the same commit.
            futures_lite::future::yield_now().await;
        }
    }

    /// Handles all inputs, then performs all outputs.
    fn step(&self, now: Time, inputs: &mut Vec<Input>) -> Option<End> {
        let mut node = self.node.borrow_mut();
        let mut end = None;
        for input in inputs.drain(..) {
            if let (Input::PeerUp { node: peer, .. }, Some(peers)) = (&input, &self.peers) {
                // What was said to the connection before must not go by this one.
                end = end.or(self.perform(now, &mut node));
                peers.open(*peer);
            }
            node.handle(now, input);
        }
        if let Some(peers) = &self.peers {
            peers.taken();
        }
        if node.deadline().is_some_and(|deadline| deadline <= now) {
            node.handle(now, Input::Tick);
        }
        end.or(self.perform(now, &mut node))
    }

    /// Performs all outputs.
    fn perform(&self, now: Time, node: &mut Node) -> Option<End> {
        let mut operations = Vec::new();
        let mut end = None;
        while let Some(output) = node.poll(now) {
            match output {
                Output::Io(io) => operations.push(io),
                Output::Reply { conn, frame } => self.shared.answered(conn, Some(frame)),
                Output::NoReply { conn } => self.shared.answered(conn, None),
                Output::Close { conn } => self.shared.close(conn),
                Output::Send { to, message } => {
                    if let Some(peers) = &self.peers {
                        peers.send(to, message);
                    }
                }
                Output::Peers { addresses, cluster, directory, incarnation, level } => {
                    let addresses = dialable(addresses);
                    let site = peer::Site { addresses, cluster, directory, incarnation, level };
                    self.set_site(site);
                }
                Output::Ready => {
                    let _ = self.progress.try_send(Progress::Ready);
                }
                Output::Refused(error) => end = Some(End::Refused(error)),
                Output::Stopped => end = Some(End::Stopped),
            }
        }
        if !operations.is_empty() {
            self.disk.submit(operations);
        }
        end
    }

    /// The node knows itself, or the site, better than before.
    fn set_site(&self, site: peer::Site) {
        if let Some(peers) = &self.peers {
            peers.set_site(site);
            peers.set_clock(self.trusted_clock_ms());
        }
        if !self.opened.replace(true) {
            let _ = self.progress.try_send(Progress::Open);
        }
    }

    fn trusted_clock_ms(&self) -> Option<i64> {
        let now = clock::wall_time();
        clock::wall_time_is_trusted(now, self.limits.clock_floor_ms).then_some(now.0)
    }

    fn every_second(&self) {
        let now = clock::wall_time();
        let trusted = clock::wall_time_is_trusted(now, self.limits.clock_floor_ms);
        self.shared.inbox.push(Input::WallClock { now, trusted });
        if let Some(peers) = &self.peers {
            peers.set_clock(trusted.then_some(now.0));
        }
        let seconds = u32::try_from(self.clock.now().0 / 1_000_000_000).unwrap_or(u32::MAX);
        self.shared.seconds.set(seconds);
        if seconds.is_multiple_of(PROGRESS_CHECK_SECONDS) {
            for route in self.shared.routes.borrow().values() {
                if let Route::Socket(socket) = route {
                    socket.check_progress(seconds, self.limits.idle_seconds_max);
                }
            }
        }
    }
}

/// The addresses that say where to connect.
fn dialable(addresses: BTreeMap<NodeId, (String, u16)>) -> BTreeMap<NodeId, String> {
    let dialable = addresses.into_iter().filter(|(_, (host, port))| !host.is_empty() && *port > 0);
    dialable.map(|(node, (host, port))| (node, Address { host, port }.to_string())).collect()
}

impl Handle {
    pub fn status(&self) -> Status {
        self.node.borrow().status()
    }

    /// Bytes of requests that are being received or handled.
    pub fn request_bytes(&self) -> usize {
        self.shared.budget.used()
    }

    pub fn sockets(&self) -> usize {
        self.shared.sockets.get()
    }

    /// Whether clients are accepted: between the end of the start and the begin of the stop.
    pub fn is_serving(&self) -> bool {
        self.shared.serving.get()
    }

    pub fn set_serving(&self, serving: bool) {
        self.shared.serving.set(serving);
    }

    /// Asks for a clean stop: [`Driver::run`] returns when everything is on flash.
    pub fn stop(&self) {
        self.shared.inbox.push(Input::Stop);
    }

    /// The connections to the site's other gateways.
    pub fn peers(&self) -> Option<&Rc<Peers>> {
        self.peers.as_ref()
    }

    /// Waits until what was replied is written, at most as long as `limit`.
    pub async fn written(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let unsent = || {
            let peers = self.peers.as_ref().map_or(0, |peers| peers.queued_bytes());
            self.shared.unsent_bytes.get() + peers
        };
        while unsent() > 0 && Instant::now() < end {
            Timer::after(Duration::from_millis(5)).await;
        }
    }
}

impl Shared {
    fn next_conn(&self) -> ConnId {
        self.conn_last.set(self.conn_last.get() + 1);
        ConnId(self.conn_last.get())
    }

    fn answered(&self, conn: ConnId, reply: Option<Frame>) {
        let bytes = match self.routes.borrow().get(&conn) {
            Some(Route::Socket(socket)) => socket.answered(reply, self),
            Some(Route::Memory(memory)) => memory.answered(reply),
            // It has gone, and its bytes were given back with it.
            None => return,
        };
        self.budget.release(bytes);
    }

    fn close(&self, conn: ConnId) {
        match self.routes.borrow().get(&conn) {
            Some(Route::Socket(socket)) => socket.close(),
            Some(Route::Memory(memory)) => memory.close(),
            None => {}
        }
    }
}
