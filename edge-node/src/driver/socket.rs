//! One Kafka client's TCP connection.
//!
//! | state | event | next |
//! |---|---|---|
//! | open | the node closes it | closing: reads no more, writes what is left |
//! | open | end of stream, error, bad frame size | gone |
//! | closing | everything is written, error | gone |
//!
//! One task reads and writes. While it waits it holds no buffer: bytes are read into a scratch
//! buffer that all connections share, replies go out in one vectored write for all that have
//! gathered.

use super::Shared;
use super::frames::{BadSize, FrameReader};
use bytes::{Buf, Bytes};
use log::{debug, warn};
use smol::Async;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use weir_core::limits::REQUESTS_IN_FLIGHT_MAX;
use weir_core::node::Input;
use weir_core::types::ConnId;
use weir_core::wire::Frame;

/// Replies that wait for a slow reader before its requests are no longer read, in bytes: a little
/// more than one full fetch of a usual client.
const UNSENT_BYTES_MAX: usize = 2 << 20;
/// The same for all connections together, in bytes: beyond it whoever has unread replies gets no
/// more.
const UNSENT_TOTAL_MAX: usize = 32 << 20;
/// Pieces for one vectored write; Linux takes at most 1,024.
const PIECES_MAX: usize = 64;
/// Seconds without a byte after which an unfinished frame or an unread reply ends the connection.
const STALL_SECONDS_MAX: u32 = 60;

pub struct Socket {
    pub id: ConnId,
    pub peer: SocketAddr,
    stream: Arc<Async<TcpStream>>,
    outgoing: RefCell<VecDeque<Bytes>>,
    unsent_bytes: Cell<usize>,
    /// What each unanswered request holds of the budget, oldest first.
    in_flight: RefCell<VecDeque<u32>>,
    closing: Cell<bool>,
    stalled: Cell<bool>,
    has_partial_frame: Cell<bool>,
    /// When bytes last moved, in the driver's coarse seconds.
    moved_at: Cell<u32>,
    waker: RefCell<Option<Waker>>,
}

/// Why a connection ended.
enum End {
    Eof,
    Closed,
    Stalled,
    BadSize(BadSize),
    Io(io::Error),
}

impl Socket {
    pub fn new(id: ConnId, peer: SocketAddr, stream: async_net::TcpStream, now: u32) -> Rc<Socket> {
        Rc::new(Socket {
            id,
            peer,
            stream: stream.into(),
            outgoing: RefCell::default(),
            unsent_bytes: Cell::new(0),
            in_flight: RefCell::default(),
            closing: Cell::new(false),
            stalled: Cell::new(false),
            has_partial_frame: Cell::new(false),
            moved_at: Cell::new(now),
            waker: RefCell::default(),
        })
    }

    /// The oldest unanswered request has its answer; returns what it held of the budget.
    pub fn answered(&self, reply: Option<Frame>, shared: &Shared) -> usize {
        if let Some(frame) = reply {
            self.unsent_bytes.set(self.unsent_bytes.get() + frame.len());
            shared.unsent_bytes.set(shared.unsent_bytes.get() + frame.len());
            self.outgoing.borrow_mut().extend(frame.0.into_iter().filter(|p| !p.is_empty()));
        }
        self.wake();
        let bytes = self.in_flight.borrow_mut().pop_front();
        bytes.expect("the node answers a request once") as usize
    }

    pub fn close(&self) {
        self.closing.set(true);
        self.wake();
    }

    /// Ends the connection if it is stuck, or idle beyond `idle_seconds_max`.
    pub fn check_progress(&self, now: u32, idle_seconds_max: u32) {
        let still = now.saturating_sub(self.moved_at.get());
        let mid_way = self.has_partial_frame.get() || self.unsent_bytes.get() > 0;
        let idle = !mid_way && self.in_flight.borrow().is_empty();
        if mid_way && still > STALL_SECONDS_MAX || idle && still > idle_seconds_max {
            self.stalled.set(true);
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Reads and writes until the connection is over, and cleans up after it.
    pub async fn run(self: Rc<Self>, shared: Rc<Shared>) {
        let mut reader = FrameReader::default();
        let end = std::future::poll_fn(|cx| self.poll(cx, &shared, &mut reader)).await;
        match end {
            End::Eof | End::Closed => debug!("{}: closed", self.peer),
            End::Stalled => debug!("{}: closed, because no byte has moved for long", self.peer),
            End::Io(error) => debug!("{}: {error}", self.peer),
            End::BadSize(bad) => warn!("{}: closed: {}", self.peer, describe(bad)),
        }
        let held: u32 = self.in_flight.take().iter().sum();
        shared.budget.release(held as usize + reader.partial_bytes());
        shared.budget.end_overdraft(self.id);
        shared.unsent_bytes.set(shared.unsent_bytes.get() - self.unsent_bytes.get());
        shared.sockets.set(shared.sockets.get() - 1);
        shared.routes.borrow_mut().remove(&self.id);
        shared.inbox.push(Input::Closed { conn: self.id });
    }

    fn poll(&self, cx: &mut Context<'_>, shared: &Shared, reader: &mut FrameReader) -> Poll<End> {
        if !self.waker.borrow().as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker.replace(Some(cx.waker().clone()));
        }
        if self.stalled.get() {
            return Poll::Ready(End::Stalled);
        }
        if let Poll::Ready(Err(error)) = self.poll_write(cx, shared) {
            return Poll::Ready(End::Io(error));
        }
        if self.closing.get() {
            let written = self.outgoing.borrow().is_empty();
            return if written { Poll::Ready(End::Closed) } else { Poll::Pending };
        }
        self.poll_read(cx, shared, reader)
    }

    /// Writes until everything is out or the socket takes no more.
    fn poll_write(&self, cx: &mut Context<'_>, shared: &Shared) -> Poll<io::Result<()>> {
        let mut outgoing = self.outgoing.borrow_mut();
        while !outgoing.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES_MAX];
            let count = outgoing.len().min(PIECES_MAX);
            for (slice, piece) in slices.iter_mut().zip(outgoing.iter()) {
                *slice = IoSlice::new(piece);
            }
            match self.stream.get_ref().write_vectored(&slices[..count]) {
                Ok(written) => {
                    advance(&mut outgoing, written);
                    self.unsent_bytes.set(self.unsent_bytes.get() - written);
                    shared.unsent_bytes.set(shared.unsent_bytes.get() - written);
                    self.moved_at.set(shared.seconds.get());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ready!(self.stream.poll_writable(cx))?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        // A queue that has been long once keeps no memory for that.
        if outgoing.capacity() > PIECES_MAX {
            outgoing.shrink_to_fit();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(
        &self,
        cx: &mut Context<'_>,
        shared: &Shared,
        reader: &mut FrameReader,
    ) -> Poll<End> {
        loop {
            if self.in_flight.borrow().len() >= REQUESTS_IN_FLIGHT_MAX
                || self.unsent_bytes.get() >= UNSENT_BYTES_MAX
                || self.unsent_bytes.get() > 0 && shared.unsent_bytes.get() >= UNSENT_TOTAL_MAX
                || !shared.budget.may_read(self.id, self.has_partial_frame.get(), cx)
            {
                return Poll::Pending;
            }
            let mut scratch = shared.scratch.borrow_mut();
            let mut stream = self.stream.get_ref();
            match stream.read(&mut scratch) {
                Ok(0) => return Poll::Ready(End::Eof),
                Ok(read) => {
                    self.moved_at.set(shared.seconds.get());
                    if let Err(bad) = self.take(&scratch[..read], shared, reader) {
                        return Poll::Ready(End::BadSize(bad));
                    }
                    // The socket is most likely empty now: wait instead of asking it in vain.
                    if read < scratch.len()
                        && let Err(error) = ready!(self.stream.poll_readable(cx))
                    {
                        return Poll::Ready(End::Io(error));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Err(error) = ready!(self.stream.poll_readable(cx)) {
                        return Poll::Ready(End::Io(error));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(End::Io(error)),
            }
        }
    }

    fn take(&self, bytes: &[u8], shared: &Shared, reader: &mut FrameReader) -> Result<(), BadSize> {
        let partial_before = reader.partial_bytes();
        let mut in_flight = self.in_flight.borrow_mut();
        let mut taken = 0;
        reader.feed(bytes, |frame| {
            in_flight.push_back(frame.len() as u32);
            taken += frame.len();
            shared.inbox.push(Input::Request { conn: self.id, frame });
        })?;
        shared.budget.take(taken + reader.partial_bytes());
        shared.budget.release(partial_before);
        self.has_partial_frame.set(reader.partial_bytes() > 0);
        if partial_before > 0 && (taken > 0 || reader.partial_bytes() == 0) {
            shared.budget.end_overdraft(self.id);
        }
        Ok(())
    }
}

fn advance(outgoing: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(front) = outgoing.front_mut() {
        if front.len() > written {
            front.advance(written);
            return;
        }
        written -= front.len();
        outgoing.pop_front();
    }
}

fn describe(BadSize { claimed }: BadSize) -> String {
    let guess = match &claimed {
        b"GET " | b"POST" | b"HEAD" | b"PUT " => " It looks like HTTP: that is another port.",
        [0x16, 0x03, ..] => " It looks like TLS, which this listener does not speak.",
        [0x10, ..] => " It looks like MQTT: that is another port.",
        _ => "",
    };
    format!("it claims a request of {} bytes.{guess}", i32::from_be_bytes(claimed))
}
