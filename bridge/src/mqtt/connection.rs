//! One MQTT connection as far as it is not a socket: what it waits for and what it is owed.

use super::packet::{Connack, Version, Will, response};
use crate::ingest::Place;
use crate::slab::Key;
use std::collections::VecDeque;
use std::net::TcpStream;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

/// Output that a client does not take. When there is more, its packets are not read either.
pub(crate) const OUTPUT_BYTES_MAX: usize = 16 << 10;

#[derive(Debug)]
pub(crate) struct Connection {
    pub phase: Phase,
    /// Known from CONNECT on.
    pub version: Option<Version>,
    pub client_id: Rc<str>,
    pub session: Option<Key>,
    /// One and a half times what the client promised; `None`: it may be silent for ever.
    pub silence_max: Option<Duration>,
    /// When it was last heard of.
    pub heard: Instant,
    /// MQTT 5's topic aliases, by their number less 1.
    pub aliases: Vec<Option<Rc<str>>>,
    /// Publishes that are not answered, oldest first; answers go out in this order (MQTT-4.6.0).
    pending: VecDeque<Pending>,
    /// The number of the first of them.
    first: u32,
    pub will: Option<Will>,
    /// One more than there may be: it is told when it asks.
    pub surplus: bool,
    pub blocked: Option<Blocked>,
    /// Bytes that are to be written.
    pub out: Vec<u8>,
    /// On the list of those that have something to write.
    pub dirty: bool,
    pub waker: Option<Waker>,
    /// `None` in tests.
    pub socket: Option<Rc<TcpStream>>,
    /// What the socket was said to be, until it turned out otherwise.
    pub readable: bool,
    pub writable: bool,
    pub hung_up: bool,
}

#[derive(Debug)]
pub(crate) enum Phase {
    /// Before CONNECT.
    New,
    /// The session has to be durable first.
    Connecting(Box<Connack>),
    Open,
    /// Nothing is read any more; the output goes out, then the socket is closed.
    Ended,
}

/// Why a packet is not taken yet. It stays in the buffer, and the socket is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// Too much waits for this partition of the log.
    Room(Place),
    /// The topic is not open yet.
    Topic,
    /// Too many publishes of this connection are not answered.
    Window,
    /// The session's record has to be durable first.
    Session,
    /// The client does not take what it is sent.
    Output,
    /// The gateway stops.
    Stopping,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    packet_identifier: u16,
    /// The first byte of the answer.
    answer: u8,
    /// The reason to answer with, once it is known.
    reason: Option<u8>,
}

impl Connection {
    pub fn new(now: Instant, surplus: bool, nobody: Rc<str>) -> Connection {
        Connection {
            phase: Phase::New,
            version: None,
            client_id: nobody,
            session: None,
            silence_max: None,
            heard: now,
            aliases: Vec::new(),
            pending: VecDeque::new(),
            first: 0,
            will: None,
            surplus,
            blocked: None,
            out: Vec::new(),
            dirty: false,
            waker: None,
            socket: None,
            readable: false,
            writable: true,
            hung_up: false,
        }
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// A publish that is going to be answered; returns its number.
    pub fn owe(&mut self, answer: u8, packet_identifier: u16) -> u32 {
        let number = self.first.wrapping_add(self.pending.len() as u32);
        self.pending.push_back(Pending { packet_identifier, answer, reason: None });
        number
    }

    /// A publish can be answered; answers go out as soon as those before them can. Returns how many
    /// did.
    pub fn answer(&mut self, number: u32, reason: u8) -> u64 {
        let at = number.wrapping_sub(self.first) as usize;
        if let Some(pending) = self.pending.get_mut(at) {
            pending.reason = Some(reason);
        }
        let mut answers = 0;
        while let Some(Pending { packet_identifier, answer, reason: Some(reason) }) =
            self.pending.front().copied()
        {
            if !self.has_ended() {
                response::write(answer, packet_identifier, reason, &mut self.out);
            }
            self.pending.pop_front();
            self.first = self.first.wrapping_add(1);
            answers += 1;
        }
        answers
    }

    /// An idle connection keeps no buffers.
    pub fn shrink(&mut self) {
        if self.pending.is_empty() {
            self.pending = VecDeque::new();
        }
        if self.out.is_empty() {
            self.out = Vec::new();
        }
    }

    /// Lets the task that serves the socket look again.
    pub fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
