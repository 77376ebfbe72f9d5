//! One MQTT 3.1.1 connection of the load generator.

use crate::Options;
use crate::report::Latencies;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

const PINGREQ: [u8; 2] = [0xc0, 0];

#[derive(Debug)]
pub struct Connection {
    pub stream: TcpStream,
    /// A whole PUBLISH; the packet identifier is written into it before each send.
    template: Vec<u8>,
    identifier_at: usize,
    qos: u8,
    window: u32,
    next_identifier: u16,
    /// When each unanswered message was due, oldest first. At QoS 0: one entry a message, answered
    /// by the PINGRESP that follows it.
    waiting: VecDeque<Instant>,
    /// QoS 0: how many messages each outstanding PINGREQ stands for.
    marks: VecDeque<u32>,
    unmarked: u32,
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    pub refused: u64,
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut left = body.len();
    while left >= 128 {
        bytes.push((left % 128) as u8 | 0x80);
        left /= 128;
    }
    bytes.push(left as u8);
    bytes.extend_from_slice(body);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

impl Connection {
    /// Connects and waits for CONNACK.
    pub fn open(options: &Options, number: usize) -> io::Result<Connection> {
        let mut stream = TcpStream::connect(&options.addr)?;
        stream.set_nodelay(true)?;
        let mut body = string("MQTT");
        // Clean session; keep-alive of 600 s, since rumqttd refuses one of 0.
        body.extend_from_slice(&[4, 2, 2, 88]);
        body.extend(string(&format!("load-{number}")));
        stream.write_all(&packet(0x10, &body))?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack)?;
        if connack != [0x20, 2, 0, 0] {
            return Err(io::Error::other(format!("CONNACK {connack:x?}")));
        }
        let mut body = string(&format!("load/{number}"));
        let mut identifier_at = body.len();
        if options.qos > 0 {
            body.extend_from_slice(&[0, 0]);
        }
        // Pseudo-random bytes, so that a compressing broker gains nothing.
        let mut state = 0x9e37_79b9u32.wrapping_mul(number as u32 + 1);
        body.extend((0..options.payload).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        }));
        let template = packet(0x30 | options.qos << 1, &body);
        identifier_at += template.len() - body.len();
        Ok(Connection {
            stream,
            template,
            identifier_at,
            qos: options.qos,
            window: options.window,
            next_identifier: 1,
            waiting: VecDeque::new(),
            marks: VecDeque::new(),
            unmarked: 0,
            out: Vec::new(),
            sent: 0,
            input: Vec::new(),
            refused: 0,
        })
    }

    pub fn has_room(&self) -> bool {
        self.waiting.len() < self.window as usize
    }

    pub fn unacknowledged(&self) -> u64 {
        self.waiting.len() as u64
    }

    pub fn backlog(&self) -> usize {
        self.out.len() - self.sent
    }

    pub fn has_backlog(&self) -> bool {
        self.backlog() > 0
    }

    pub fn publish(&mut self, due: Instant) {
        if self.qos > 0 {
            let id = self.next_identifier;
            self.next_identifier = id.checked_add(1).unwrap_or(1);
            self.template[self.identifier_at..][..2].copy_from_slice(&id.to_be_bytes());
        }
        self.out.extend_from_slice(&self.template);
        self.waiting.push_back(due);
        if self.qos == 0 {
            self.unmarked += 1;
            if self.unmarked * 2 >= self.window {
                self.mark();
            }
        }
    }

    /// QoS 0: asks for an answer that comes after everything sent so far was taken.
    pub fn mark(&mut self) {
        if self.unmarked > 0 {
            self.out.extend_from_slice(&PINGREQ);
            self.marks.push_back(self.unmarked);
            self.unmarked = 0;
        }
    }

    /// Writes what the socket takes; says whether the interest in writability may have changed.
    pub fn flush(&mut self) -> io::Result<bool> {
        let before = self.has_backlog();
        while self.has_backlog() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        if !self.has_backlog() {
            self.out.clear();
            self.sent = 0;
        }
        Ok(before || self.has_backlog())
    }

    pub fn receive(&mut self, latencies: &mut Latencies) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::Error::other("closed by the broker")),
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        let now = Instant::now();
        let mut at = 0;
        while let Some([first, length]) = self.input.get(at..at + 2) {
            let (first, end) = (*first, at + 2 + usize::from(*length));
            let Some(body) = self.input.get(at + 2..end) else { break };
            let id = body.get(..2).map(|id| [id[0], id[1]]);
            at = end;
            match first {
                0x40 | 0x70 => self.answered(1, now, latencies),
                0x50 => {
                    let [high, low] = id.unwrap_or_default();
                    self.out.extend_from_slice(&[0x62, 2, high, low]);
                }
                0xd0 => {
                    let count = self.marks.pop_front().unwrap_or(0);
                    self.answered(count, now, latencies);
                }
                _ => self.refused += 1,
            }
        }
        self.input.drain(..at);
        Ok(())
    }

    fn answered(&mut self, count: u32, now: Instant, latencies: &mut Latencies) {
        for due in self.waiting.drain(..(count as usize).min(self.waiting.len())) {
            latencies.add(due, now);
        }
    }
}
