//! One simulated sensor: an MQTT 3.1.1 connection that publishes readings with QoS 1.
//!
//! Written by hand because it needs five packets only, and because a demo that shares its codec
//! with the gateway would show less.

use super::World;
use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
use log::debug;
use smol::Timer;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Readings without an acknowledgement, beyond which a sensor waits.
const IN_FLIGHT_MAX: usize = 16;
const CONNACK: u8 = 0x20;
const PUBACK: u8 = 0x40;

pub struct Sensor {
    pub number: usize,
    pub broker: String,
    /// The first level of the topics, which tells this demo's readings from others.
    pub run: String,
    pub period: Duration,
    pub world: Rc<RefCell<World>>,
    /// What is not acknowledged yet, oldest first; sent again after a reconnect.
    waiting: VecDeque<Reading>,
    next: u64,
}

struct Reading {
    number: u64,
    payload: String,
    sent_at: Instant,
}

impl Reading {
    /// Packet identifiers are 1 to 65,535.
    fn packet_identifier(&self) -> u16 {
        (self.number % 65_535 + 1) as u16
    }
}

enum Event {
    Due,
    Bytes(usize),
}

impl Sensor {
    pub fn new(
        number: usize,
        broker: String,
        run: String,
        period: Duration,
        world: Rc<RefCell<World>>,
    ) -> Sensor {
        Sensor { number, broker, run, period, world, waiting: VecDeque::new(), next: 0 }
    }

    /// Publishes until the world ends, and then until everything is acknowledged.
    pub async fn run(mut self) {
        let mut pause = Duration::from_millis(100);
        while !self.is_over() {
            let mut connected = false;
            let result = self.connection(&mut connected).await;
            if connected {
                self.world.borrow_mut().ledger.connected -= 1;
                pause = Duration::from_millis(100);
            }
            if let Err(error) = result {
                debug!("sensor {}: {error}", self.number);
                Timer::after(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
        }
    }

    fn is_over(&self) -> bool {
        self.world.borrow().ending && self.waiting.is_empty()
    }

    async fn connection(&mut self, connected: &mut bool) -> io::Result<()> {
        let mut stream = async_net::TcpStream::connect(&self.broker).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&self.connect()).await?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).await?;
        if connack[0] != CONNACK || connack[3] != 0 {
            return Err(io::Error::new(ErrorKind::ConnectionRefused, "the broker refuses"));
        }
        *connected = true;
        self.world.borrow_mut().ledger.connected += 1;
        let mut again = Vec::new();
        self.waiting.iter().for_each(|reading| self.publish(reading, true, &mut again));
        stream.write_all(&again).await?;

        // Sensors do not speak all at the same moment.
        let spread = self.period.mul_f64(self.number as f64 * 0.618 % 1.0);
        let mut due = Instant::now() + spread;
        let mut buffer = Vec::new();
        while !self.is_over() {
            let mut chunk = [0; 256];
            let wait = async {
                Timer::at(due).await;
                Ok(Event::Due)
            };
            let read = async { stream.read(&mut chunk).await.map(Event::Bytes) };
            match read.or(wait).await? {
                Event::Bytes(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Event::Bytes(read) => {
                    buffer.extend_from_slice(&chunk[..read]);
                    self.take_acks(&mut buffer)?;
                }
                Event::Due => {
                    due = (due + self.period).max(Instant::now());
                    let packet = self.reading();
                    stream.write_all(&packet).await?;
                }
            }
        }
        const DISCONNECT: [u8; 2] = [0xe0, 0];
        stream.write_all(&DISCONNECT).await
    }

    /// The next reading as a packet; nothing when too much waits or the demo ends.
    fn reading(&mut self) -> Vec<u8> {
        let mut packet = Vec::new();
        if self.waiting.len() >= IN_FLIGHT_MAX || self.world.borrow().ending {
            return packet;
        }
        let number = self.next;
        self.next += 1;
        let value = 20.0
            + 5.0 * ((number as f64 / 40.0) + self.number as f64).sin()
            + (number * 7919 % 13) as f64 / 20.0;
        let payload =
            format!("{{\"sensor\":{},\"number\":{number},\"celsius\":{value:.1}}}", self.number);
        let reading = Reading { number, payload, sent_at: Instant::now() };
        let mut world = self.world.borrow_mut();
        world.ledger.published(self.number, number, reading.sent_at);
        drop(world);
        self.publish(&reading, false, &mut packet);
        self.waiting.push_back(reading);
        packet
    }

    fn take_acks(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        while let Some(packet) = buffer.first_chunk::<4>() {
            if packet[0] != PUBACK || packet[1] != 2 {
                return Err(ErrorKind::InvalidData.into());
            }
            let identifier = u16::from_be_bytes([packet[2], packet[3]]);
            buffer.drain(..4);
            let at = self.waiting.iter().position(|r| r.packet_identifier() == identifier);
            let Some(reading) = at.and_then(|at| self.waiting.remove(at)) else { continue };
            let latency = reading.sent_at.elapsed();
            self.world.borrow_mut().ledger.acked(self.number, reading.number, latency);
        }
        Ok(())
    }

    fn connect(&self) -> Vec<u8> {
        const CLEAN_SESSION: u8 = 2;
        const KEEP_ALIVE_SECONDS: u16 = 60;
        let mut body = Vec::new();
        string(&mut body, "MQTT");
        body.extend_from_slice(&[4, CLEAN_SESSION]);
        body.extend_from_slice(&KEEP_ALIVE_SECONDS.to_be_bytes());
        string(&mut body, &format!("{}-{}", self.run, self.number));
        packet(0x10, &body)
    }

    fn publish(&self, reading: &Reading, duplicate: bool, out: &mut Vec<u8>) {
        const QOS_1: u8 = 0x02;
        let mut body = Vec::new();
        string(&mut body, &format!("{}/sensor{}/temperature", self.run, self.number));
        body.extend_from_slice(&reading.packet_identifier().to_be_bytes());
        body.extend_from_slice(reading.payload.as_bytes());
        out.extend(packet(0x30 | QOS_1 | u8::from(duplicate) << 3, &body));
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![head];
    let mut left = body.len();
    while left >= 128 {
        out.push((left % 128) as u8 | 0x80);
        left /= 128;
    }
    out.push(left as u8);
    out.extend_from_slice(body);
    out
}
