//! Sockets and channels around the [`Hub`]: one thread, one executor, a task for each connection.
//!
//! An idle connection owns no buffer: all sockets are read into one, and only what is left of a
//! packet is kept. Acknowledgements gather in the connections while one answer of the node is
//! taken, and go out with one write each.

use super::clock;
use super::connection::{Blocked, OUTPUT_BYTES_MAX};
use super::hub::Hub;
use super::reactor::{Reactor, Ready};
use crate::client::Client;
use crate::ingest::{LOCAL, topics};
use crate::slab::Key;
use async_channel::Receiver;
use futures_lite::future;
use smol::{LocalExecutor, Timer};
use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// What is read from a socket at once.
const READ_BYTES: usize = 64 << 10;

pub(crate) struct Net {
    pub hub: RefCell<Hub>,
    pub executor: LocalExecutor<'static>,
    pub client: Client,
    pub reactor: Reactor,
    read_buffer: RefCell<Vec<u8>>,
    /// For each lane of the ingest: there may be a request to send.
    pub lanes: RefCell<Vec<Rc<Signal>>>,
    /// There may be a topic to open.
    open: Signal,
    /// There may be leaders to look for.
    pub seek: Signal,
    /// There may be a connection to accept.
    accept: Signal,
    /// Somebody has to be looked at earlier than was thought.
    tick: Signal,
    tick_at: Cell<Option<Instant>>,
}

/// Wakes the one task that waits for it.
#[derive(Default)]
pub(super) struct Signal {
    set: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    pub fn notify(&self) {
        if !self.set.replace(true)
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    pub async fn wait(&self) {
        future::poll_fn(|cx| {
            if self.set.replace(false) {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub async fn wait_until(&self, deadline: Option<Instant>) {
        match deadline {
            None => self.wait().await,
            Some(deadline) => {
                let timer = async {
                    Timer::at(deadline).await;
                };
                future::or(self.wait(), timer).await;
            }
        }
    }
}

/// What a connection's task goes on with.
enum Event {
    Readable,
    Writable,
    Unblocked,
    Over,
}

impl Net {
    pub fn new(hub: Hub, client: Client, reactor: Reactor) -> Rc<Net> {
        Rc::new(Net {
            hub: RefCell::new(hub),
            executor: LocalExecutor::new(),
            client,
            reactor,
            read_buffer: RefCell::new(vec![0; READ_BYTES]),
            lanes: RefCell::default(),
            open: Signal::default(),
            seek: Signal::default(),
            accept: Signal::default(),
            tick: Signal::default(),
            tick_at: Cell::new(None),
        })
    }

    /// After anything has happened: what is owed is written, and whoever has something to do is
    /// woken.
    pub fn settle(&self) {
        let mut hub = self.hub.borrow_mut();
        let hub = &mut *hub;
        if !hub.wills.is_empty() {
            hub.publish_wills(clock());
        }
        let mut dirty = std::mem::take(&mut hub.dirty);
        for key in dirty.drain(..) {
            write(hub, key);
        }
        hub.dirty = dirty;
        hub.counters.sessions.store(hub.stored_count as u64, Relaxed);
        hub.counters.queued_bytes.store(hub.ingest.queued_bytes() as u64, Relaxed);
        let flush = !hub.dirty_sessions.is_empty();
        // The lane to this gateway is never without a task, so it is there that pauses end, those
        // of partitions on other lanes, too.
        let pauses = hub.ingest.deadline().is_some();
        for (number, lane) in self.lanes.borrow().iter().enumerate() {
            if flush || pauses && number == LOCAL || hub.ingest.has_request(number) {
                lane.notify();
            }
        }
        if hub.ingest.has_wanted() {
            self.open.notify();
        }
        if hub.ingest.has_sought() {
            self.seek.notify();
        }
    }

    /// A socket has become ready.
    pub fn ready(&self, ready: Ready) {
        match ready {
            Ready::Listener => self.accept.notify(),
            Ready::Connection { key, readable, writable, hung_up } => {
                let mut hub = self.hub.borrow_mut();
                if let Some(connection) = hub.connections.get_mut(key) {
                    connection.readable |= readable;
                    connection.writable |= writable;
                    connection.hung_up |= hung_up;
                    connection.wake();
                }
            }
        }
    }

    /// Accepts connections for ever, once the gateway serves.
    pub async fn accept(self: Rc<Net>, listener: TcpListener, serving: Receiver<()>) {
        let _ = serving.recv().await;
        if let Err(error) =
            listener.set_nonblocking(true).and_then(|()| self.reactor.add_listener(&listener))
        {
            return log::error!("mqtt: cannot listen: {error}");
        }
        loop {
            match listener.accept() {
                Ok((socket, _)) => {
                    if let Err(error) = self.accepted(socket) {
                        log::debug!("mqtt: a connection is gone already: {error}");
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.accept.wait().await,
                Err(error) => {
                    log::warn!("mqtt: accepting a connection: {error}");
                    Timer::after(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn accepted(self: &Rc<Net>, socket: TcpStream) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let socket = Rc::new(socket);
        let now = Instant::now();
        let mut hub = self.hub.borrow_mut();
        let Some(key) = hub.accepted(now) else { return Ok(()) };
        if let Err(error) = self.reactor.add_connection(&*socket, key) {
            hub.closed(key, now);
            return Err(error);
        }
        if let Some(connection) = hub.connections.get_mut(key) {
            connection.socket = Some(socket.clone());
        }
        drop(hub);
        self.look_before(now + Duration::from_secs(10));
        self.executor.spawn(serve(self.clone(), key, socket)).detach();
        Ok(())
    }

    /// The next look at everybody is not later than this.
    fn look_before(&self, when: Instant) {
        if self.tick_at.get().is_none_or(|at| at > when) {
            self.tick.notify();
        }
    }

    /// Looks at everybody whenever somebody's time may be over, once a second at most.
    pub async fn look_after(self: Rc<Net>) {
        loop {
            let clock = clock();
            let next = self.hub.borrow_mut().tick(clock);
            let trimmed = self.hub.borrow_mut().trimmed();
            self.settle();
            if let Some(below) = trimmed
                && let Err(error) = self.delete_sessions(below).await
            {
                log::debug!("mqtt: {error}");
            }
            let at = next.map(|next| next.max(clock.now + Duration::from_secs(1)));
            self.tick_at.set(at);
            self.tick.wait_until(at).await;
        }
    }

    async fn delete_sessions(&self, below: i64) -> Result<(), crate::client::Error> {
        let topic = super::session::topic(self.hub.borrow().ingest.node());
        topics::delete_below(&self.client, &topic, below).await
    }

    /// Opens the topics that are wanted.
    pub async fn open_topics(self: Rc<Net>) {
        loop {
            while let Some(wanted) = self.hub.borrow_mut().ingest.next_wanted() {
                let net = self.clone();
                let opening = async move {
                    let found = topics::open(&net.client, &wanted).await;
                    let mut hub = net.hub.borrow_mut();
                    hub.ingest.opened(wanted.topic, &found, Instant::now());
                    hub.unblock();
                    drop(hub);
                    net.start_lanes();
                    net.settle();
                };
                self.executor.spawn(opening).detach();
            }
            self.open.wait().await;
        }
    }

    /// Waits until a connection has something to do.
    async fn event(&self, key: Key, stalled: bool) -> Event {
        future::poll_fn(|cx| self.poll_event(cx, key, stalled)).await
    }

    fn poll_event(&self, cx: &mut Context<'_>, key: Key, stalled: bool) -> Poll<Event> {
        let mut hub = self.hub.borrow_mut();
        let Some(connection) = hub.connections.get_mut(key) else {
            return Poll::Ready(Event::Over);
        };
        let has_output = !connection.out.is_empty();
        if connection.has_ended() && !has_output {
            return Poll::Ready(Event::Over);
        }
        if stalled && connection.blocked.is_none() {
            return Poll::Ready(Event::Unblocked);
        }
        if has_output && connection.writable {
            return Poll::Ready(Event::Writable);
        }
        if connection.readable && connection.blocked.is_none() && !connection.has_ended() {
            return Poll::Ready(Event::Readable);
        }
        if !connection.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            connection.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Reads what is there behind what was kept, and gives it to the hub. Whether the connection
    /// lives.
    fn read(&self, key: Key, mut socket: &TcpStream, kept: &mut Vec<u8>) -> bool {
        let mut buffer = self.read_buffer.borrow_mut();
        // A large packet gathers in a buffer of its own, which grows with what has really come.
        let large = kept.len() > buffer.len() / 2;
        let len = kept.len();
        let result = if large {
            kept.resize(len + READ_BYTES, 0);
            socket.read(&mut kept[len..])
        } else {
            buffer[..len].copy_from_slice(kept);
            socket.read(&mut buffer[len..])
        };
        let read = match result {
            Ok(0) => return false,
            Ok(read) => read,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                0
            }
            Err(_) => return false,
        };
        let space = if large { READ_BYTES } else { buffer.len() - len };
        if let Some(connection) = self.hub.borrow_mut().connections.get_mut(key) {
            // Less than there was room for means that there is no more now, but for an end.
            connection.readable = read == space || (connection.hung_up && read > 0);
        }
        if large {
            kept.truncate(len + read);
            let used = self.hub.borrow_mut().bytes(key, kept, clock());
            kept.drain(..used);
        } else {
            let bytes = &buffer[..len + read];
            let used = self.hub.borrow_mut().bytes(key, bytes, clock());
            kept.clear();
            kept.extend_from_slice(&bytes[used..]);
        }
        if kept.is_empty() && kept.capacity() > 0 {
            *kept = Vec::new();
        }
        true
    }
}

/// Serves one connection until it ends.
async fn serve(net: Rc<Net>, key: Key, socket: Rc<TcpStream>) {
    let mut kept = Vec::new();
    let mut stalled = false;
    loop {
        match net.event(key, stalled).await {
            Event::Over => break,
            Event::Writable => write(&mut net.hub.borrow_mut(), key),
            Event::Unblocked => {
                let used = net.hub.borrow_mut().bytes(key, &kept, clock());
                kept.drain(..used);
            }
            Event::Readable => {
                if !net.read(key, &socket, &mut kept) {
                    break;
                }
            }
        }
        let hub = net.hub.borrow();
        stalled = hub.connections.get(key).is_some_and(|connection| connection.blocked.is_some());
        let silence = hub.connections.get(key).and_then(super::connect::silence_ends);
        drop(hub);
        net.settle();
        if let Some(end) = silence {
            net.look_before(end);
        }
    }
    linger(&net, key, &socket).await;
    net.hub.borrow_mut().closed(key, Instant::now());
    net.settle();
}

/// What was written last reaches a client only if nothing is left unread: a reset would overtake
/// it. So the rest is read for a second at most, and thrown away.
async fn linger(net: &Net, key: Key, mut socket: &TcpStream) {
    let ended = net.hub.borrow().connections.get(key).is_some_and(|c| c.has_ended());
    if !ended || socket.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let rest = future::poll_fn(|cx| {
        let mut hub = net.hub.borrow_mut();
        let Some(connection) = hub.connections.get_mut(key) else { return Poll::Ready(()) };
        let mut discarded = [0; 1024];
        for _ in 0..64 {
            match socket.read(&mut discarded) {
                Ok(0) => return Poll::Ready(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    connection.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Err(_) => return Poll::Ready(()),
            }
        }
        // Who sends that much more does not listen anyway.
        Poll::Ready(())
    });
    let patience = async {
        Timer::after(Duration::from_secs(1)).await;
    };
    future::or(rest, patience).await;
}

/// Writes what a connection is owed, as much as its socket takes.
fn write(hub: &mut Hub, key: Key) {
    let Some(connection) = hub.connections.get_mut(key) else { return };
    connection.dirty = false;
    let Some(socket) = connection.socket.clone() else { return };
    while !connection.out.is_empty() {
        match (&*socket).write(&connection.out) {
            Ok(written) if written == connection.out.len() => connection.out.clear(),
            Ok(written) => drop(connection.out.drain(..written)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                connection.writable = false;
                break;
            }
            Err(_) => {
                connection.out.clear();
                hub.end(key, Instant::now());
                return;
            }
        }
    }
    if connection.blocked == Some(Blocked::Output) && connection.out.len() <= OUTPUT_BYTES_MAX / 2 {
        connection.blocked = None;
        connection.wake();
    }
    if connection.has_ended() {
        connection.wake();
    }
}
