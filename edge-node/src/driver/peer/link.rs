//! One connection to a peer that has proved itself.
//!
//! | state | event | next |
//! |---|---|---|
//! | new | the node has heard of the peer | open |
//! | new, open | it breaks, says nothing or takes nothing; another takes its place | closed |
//!
//! A side that has nothing to say pings each second, and one that hears nothing for three seconds
//! takes the peer for dead: the same time as the session of a gateway at the controller. That costs
//! an idle pair 9 bytes a second. Any byte is a sign of life, since a large frame takes its time.
//!
//! Messages that may get lost, which are those of the quorum, overtake the others: an election must
//! not wait for records.

use super::Times;
use crate::driver::budget::Budget;
use async_net::TcpStream;
use bytes::{Buf, Bytes};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use smol::Timer;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use weir_core::peer::handshake::Hello;
use weir_core::peer::{self, BadFrame, Kind, Message, PEER_FRAME_BYTES_MAX};
use weir_core::wire::Frame;

/// Bytes that wait for a peer above which what may get lost is not queued.
const QUEUE_LOSABLE_BYTES_MAX: usize = 1 << 20;
/// And above which the peer is taken for dead: a frame of the largest size, and half as much.
pub const QUEUE_BYTES_MAX: usize = 24 << 20;
/// Bytes that leave together; a message that overtakes waits for no more than these.
const BATCH_BYTES: usize = 256 << 10;
/// Bytes of memory that a claimed size is worth before the bytes themselves come.
const CLAIM_BYTES_MAX: usize = 64 << 10;
/// Pieces for one vectored write; Linux takes at most 1,024.
const PIECES_MAX: usize = 64;

pub struct Link {
    pub hello: Hello,
    pub queue: Queue,
    times: Times,
    heard_at: Cell<Instant>,
}

/// What waits for a peer.
#[derive(Default)]
pub struct Queue {
    state: Cell<State>,
    losable: RefCell<VecDeque<Frame>>,
    others: RefCell<VecDeque<Frame>>,
    /// Waiting, or being written.
    bytes: Cell<usize>,
    /// Of the task that runs the link.
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    New,
    Open,
    /// And why.
    Closed(&'static str),
}

impl Queue {
    /// The node knows of this connection: what it says from now on is for it.
    pub fn open(&self) {
        if self.state.get() == State::New {
            self.state.set(State::Open);
        }
    }

    pub fn is_open(&self) -> bool {
        self.state.get() == State::Open
    }

    pub fn close(&self, why: &'static str) {
        if !self.is_closed() {
            self.state.set(State::Closed(why));
        }
        self.wake();
    }

    fn is_closed(&self) -> bool {
        matches!(self.state.get(), State::Closed(_))
    }

    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// A queue that is too long ends the connection: a peer that takes nothing is dead.
    pub fn push(&self, message: Message) {
        let losable = message.may_get_lost();
        let frame = message.encode();
        let bytes = self.bytes.get() + frame.len();
        if losable && bytes > QUEUE_LOSABLE_BYTES_MAX {
            return;
        }
        if bytes > QUEUE_BYTES_MAX {
            return self.close("it takes nothing");
        }
        self.bytes.set(bytes);
        let queue = if losable { &self.losable } else { &self.others };
        queue.borrow_mut().push_back(frame);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ready with the reason when the link is closed. The task is woken then, and when there is
    /// something to write.
    fn poll_closed(&self, cx: &Context<'_>) -> Poll<io::Result<Infallible>> {
        if let State::Closed(why) = self.state.get() {
            return Poll::Ready(Err(io::Error::other(why)));
        }
        self.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// What leaves next: frames, as one, and its bytes.
    fn poll_next(&self) -> Poll<(Frame, usize)> {
        let (mut next, mut bytes) = (Frame(Vec::new()), 0);
        let (mut losable, mut others) = (self.losable.borrow_mut(), self.others.borrow_mut());
        while bytes < BATCH_BYTES
            && let Some(frame) = losable.pop_front().or_else(|| others.pop_front())
        {
            bytes += frame.len();
            next.0.extend(frame.0);
        }
        if bytes > 0 { Poll::Ready((next, bytes)) } else { Poll::Pending }
    }
}

impl Link {
    pub fn new(hello: Hello, times: Times) -> Link {
        Link { hello, queue: Queue::default(), times, heard_at: Cell::new(Instant::now()) }
    }

    /// Reads and writes until the link is over; says why. `receive` takes each message and how many
    /// bytes of the budget it holds.
    pub async fn run(
        &self,
        stream: TcpStream,
        budget: &Budget,
        receive: impl AsyncFn(Message, usize),
    ) -> String {
        let closed = std::future::poll_fn(|cx| self.queue.poll_closed(cx));
        let work = smol::future::or(self.read(&stream, budget, receive), self.write(&stream));
        let end = smol::future::or(closed, smol::future::or(work, self.silence())).await;
        self.queue.close("it has ended");
        let _ = stream.shutdown(Shutdown::Both);
        match end {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => "it hung up".into(),
            Err(error) => error.to_string(),
        }
    }

    async fn read(
        &self,
        stream: &TcpStream,
        budget: &Budget,
        receive: impl AsyncFn(Message, usize),
    ) -> io::Result<Infallible> {
        loop {
            let held = Held { budget, bytes: Cell::new(0) };
            let count = |bytes| {
                self.heard_at.set(Instant::now());
                held.take(bytes);
            };
            let (kind, payload) = read_frame(stream, PEER_FRAME_BYTES_MAX, count).await?;
            let message = Message::decode(kind, payload)
                .map_err(|_| invalid(format!("a {kind:?} that is malformed")))?;
            if message != Message::Ping {
                receive(message, held.bytes.take()).await;
            }
        }
    }

    async fn write(&self, stream: &TcpStream) -> io::Result<Infallible> {
        loop {
            let ping = async {
                Timer::after(self.times.ping_every).await;
                (Message::Ping.encode(), 0)
            };
            let next = std::future::poll_fn(|_| self.queue.poll_next());
            let (frame, bytes) = smol::future::or(next, ping).await;
            write_frame(stream, frame).await?;
            self.queue.bytes.set(self.queue.bytes.get() - bytes);
        }
    }

    /// Ends when the peer has said nothing for too long.
    async fn silence(&self) -> io::Result<Infallible> {
        let silence_max = self.times.silence_max;
        loop {
            let end = self.heard_at.get() + silence_max;
            if end <= Instant::now() {
                let sentence = format!("nothing was heard for {} ms", silence_max.as_millis());
                return Err(io::Error::new(ErrorKind::TimedOut, sentence));
            }
            Timer::at(end).await;
        }
    }
}

/// Bytes of the budget that a frame holds; given back unless they are taken over.
struct Held<'a> {
    budget: &'a Budget,
    bytes: Cell<usize>,
}

impl Held<'_> {
    fn take(&self, bytes: usize) {
        self.budget.take(bytes);
        self.bytes.set(self.bytes.get() + bytes);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.budget.release(self.bytes.get());
    }
}

pub async fn write_frame(stream: &TcpStream, frame: Frame) -> io::Result<()> {
    let mut stream = stream.clone();
    let mut pieces: VecDeque<Bytes> = frame.0.into();
    while !pieces.is_empty() {
        let mut slices = [IoSlice::new(&[]); PIECES_MAX];
        let count = pieces.len().min(PIECES_MAX);
        for (slice, piece) in slices.iter_mut().zip(&pieces) {
            *slice = IoSlice::new(piece);
        }
        let mut written = stream.write_vectored(&slices[..count]).await?;
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        while let Some(front) = pieces.front_mut() {
            let part = written.min(front.len());
            front.advance(part);
            written -= part;
            if !front.is_empty() {
                break;
            }
            pieces.pop_front();
        }
    }
    Ok(())
}

/// The next frame. Memory grows with what arrives, not with what is claimed; `count` hears of all
/// bytes as they arrive.
pub async fn read_frame(
    stream: &TcpStream,
    max: usize,
    count: impl Fn(usize),
) -> io::Result<(Kind, Bytes)> {
    let mut stream = stream.clone();
    let mut size = [0; 4];
    stream.read_exact(&mut size).await?;
    let len = peer::frame_len(size, max).map_err(bad)?;
    let (mut bytes, mut have) = (vec![0; len.min(CLAIM_BYTES_MAX)], 0);
    while have < len {
        if have == bytes.len() {
            bytes.resize(len.min(2 * have), 0);
        }
        let read = stream.read(&mut bytes[have..]).await?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        count(read);
        have += read;
    }
    peer::open(bytes.into()).map_err(bad)
}

fn bad(bad: BadFrame) -> io::Error {
    invalid(match bad {
        BadFrame::Size(claimed) => {
            format!("it claims a frame of {claimed} bytes: it speaks another protocol")
        }
        BadFrame::Checksum => "a frame was damaged on its way".into(),
        BadFrame::Kind(kind) => format!("a message of kind {kind}, which this version lacks"),
    })
}

fn invalid(sentence: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, sentence)
}
