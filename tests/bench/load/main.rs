//! `weir-load`: an MQTT load generator that costs little, for the benchmarks.
//!
//! One thread, non-blocking sockets, packets encoded once. Latency is counted from the moment a
//! message was due (at a rate) or sent (as fast as it goes), so a stall is charged to every message
//! it delays.

mod connection;
mod report;

use connection::Connection;
use polling::{Event, Events, PollMode, Poller};
use report::Latencies;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const USAGE: &str = "\
weir-load publish --addr HOST:PORT [--connections 50] [--qos 1] [--window 100] [--payload 100]
                  [--rate 0] [--seconds 5] [--warmup 1]
weir-load idle    --addr HOST:PORT [--connections 1000] [--seconds 2]
  --rate      messages a second over all connections; 0 is as fast as the broker acknowledges
  --window    unacknowledged messages of one connection; QoS 0 is paced by a PINGREQ each window
Prints one JSON object.";

#[derive(Clone, Debug)]
pub struct Options {
    addr: String,
    connections: usize,
    qos: u8,
    window: u32,
    payload: usize,
    rate: f64,
    seconds: f64,
    warmup: f64,
}

fn parse() -> Option<(String, Options)> {
    let mut args = std::env::args().skip(1);
    let mode = args.next()?;
    let mut options = Options {
        addr: "127.0.0.1:1883".into(),
        connections: if mode == "idle" { 1000 } else { 50 },
        qos: 1,
        window: 100,
        payload: 100,
        rate: 0.0,
        seconds: if mode == "idle" { 2.0 } else { 5.0 },
        warmup: 1.0,
    };
    while let Some(name) = args.next() {
        let value = args.next()?;
        match name.as_str() {
            "--addr" => options.addr = value,
            "--connections" => options.connections = value.parse().ok()?,
            "--qos" => options.qos = value.parse().ok().filter(|q| *q <= 2)?,
            "--window" => options.window = value.parse().ok().filter(|w| *w > 0)?,
            "--payload" => options.payload = value.parse().ok()?,
            "--rate" => options.rate = value.parse().ok()?,
            "--seconds" => options.seconds = value.parse().ok()?,
            "--warmup" => options.warmup = value.parse().ok()?,
            _ => return None,
        }
    }
    Some((mode, options))
}

fn main() {
    let Some((mode, options)) = parse() else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    let done = match mode.as_str() {
        "publish" => publish(&options),
        "idle" => idle(&options),
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    };
    if let Err(error) = done {
        eprintln!("weir-load: {error}");
        std::process::exit(1);
    }
}

fn connect(options: &Options) -> io::Result<Vec<Connection>> {
    (0..options.connections).map(|n| Connection::open(options, n)).collect()
}

fn idle(options: &Options) -> io::Result<()> {
    let connections = connect(options)?;
    println!("{{\"connected\":{}}}", connections.len());
    std::thread::sleep(Duration::from_secs_f64(options.seconds));
    Ok(())
}

/// Due times of one connection's messages at a fixed rate.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    next: Instant,
    step: Duration,
}

fn publish(options: &Options) -> io::Result<()> {
    let mut connections = connect(options)?;
    let poller = Poller::new()?;
    for (key, connection) in connections.iter().enumerate() {
        connection.stream.set_nonblocking(true)?;
        register(&poller, connection, key)?;
    }
    let start = Instant::now();
    let measured_from = start + Duration::from_secs_f64(options.warmup);
    let end = measured_from + Duration::from_secs_f64(options.seconds);
    let each = options.connections as f64 / options.rate.max(f64::MIN_POSITIVE);
    let mut schedules: Vec<Option<Schedule>> = (0..options.connections)
        .map(|n| {
            let offset = Duration::from_secs_f64(if options.rate > 0.0 {
                n as f64 / options.rate
            } else {
                0.0
            });
            (options.rate > 0.0)
                .then(|| Schedule { next: start + offset, step: Duration::from_secs_f64(each) })
        })
        .collect();
    let mut latencies = Latencies::new(measured_from);
    let mut events = Events::new();
    let mut ready: Vec<usize> = (0..connections.len()).collect();
    loop {
        let now = Instant::now();
        if now >= end {
            break;
        }
        if options.rate > 0.0 {
            ready = (0..connections.len()).collect();
        }
        for key in ready.drain(..) {
            let connection = &mut connections[key];
            fill(connection, schedules[key].as_mut(), options, now);
            if connection.flush()? {
                let interest = Event::new(key, true, connection.has_backlog());
                poller.modify_with_mode(connection.stream.as_fd(), interest, PollMode::Level)?;
            }
        }
        let due = schedules.iter().flatten().map(|s| s.next).min().unwrap_or(end).min(end);
        events.clear();
        poller.wait(&mut events, Some(due.saturating_duration_since(Instant::now())))?;
        for event in events.iter() {
            if event.readable {
                connections[event.key].receive(&mut latencies)?;
            }
            ready.push(event.key);
        }
    }
    let refused: u64 = connections.iter().map(|c| c.refused).sum();
    let unacked: u64 = connections.iter().map(Connection::unacknowledged).sum();
    println!("{}", latencies.json(options.seconds, refused, unacked));
    Ok(())
}

/// Queues what the window and the schedule allow.
fn fill(
    connection: &mut Connection,
    schedule: Option<&mut Schedule>,
    options: &Options,
    now: Instant,
) {
    let Some(schedule) = schedule else {
        while connection.has_room() && connection.backlog() < 64 << 10 {
            connection.publish(now);
        }
        return;
    };
    while schedule.next <= now && connection.has_room() {
        connection.publish(schedule.next);
        schedule.next += schedule.step;
    }
    if options.qos == 0 {
        connection.mark();
    }
}

#[allow(unsafe_code)]
fn register(poller: &Poller, connection: &Connection, key: usize) -> io::Result<()> {
    // Sound: the poller is dropped before the connections, at the end of `publish` or of the
    // process.
    unsafe { poller.add_with_mode(&connection.stream, Event::readable(key), PollMode::Level) }
}
