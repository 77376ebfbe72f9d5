//! Which sockets are ready, and how the MQTT thread sleeps.
//!
//! Why not `async-io` (2026-11): its one reactor serves all threads of the process. Whichever
//! sleeps in it wakes the others for their sockets, and each wait of a socket costs a system call
//! to ask again. At 2,000 publishes a second on 50 connections, 40 % of the process's time went
//! into switching threads. Here one thread owns its `epoll`, sockets are registered once,
//! edge-triggered, and only the node's answers come from another thread. Timers stay with
//! `async-io`: there are few.

use crate::slab::Key;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    Listener,
    Connection {
        key: Key,
        readable: bool,
        writable: bool,
        /// The other side has ended its half, or all of it: there is an end to be read.
        hung_up: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Reactor {
    epoll: OwnedFd,
    alarm: Arc<Alarm>,
}

/// Wakes the thread from wherever.
#[derive(Debug)]
struct Alarm {
    event: OwnedFd,
    state: AtomicU8,
}

const AWAKE: u8 = 0;
/// Awake, and has to look at its tasks once more before it sleeps.
const WOKEN: u8 = 1;
const ASLEEP: u8 = 2;

/// No connection has these: indexes are far smaller.
const ALARM: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;

impl Wake for Alarm {
    fn wake(self: Arc<Alarm>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Alarm>) {
        if self.state.swap(WOKEN, Ordering::SeqCst) == ASLEEP {
            // Any number but 0 does; it is taken back whenever the thread wakes, so it never
            // overflows.
            let _ = rustix::io::write(&self.event, &[1; 8]);
        }
    }
}

impl Reactor {
    pub fn new() -> io::Result<Reactor> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &event, EventData::new_u64(ALARM), EventFlags::IN | EventFlags::ET)?;
        let alarm = Arc::new(Alarm { event, state: AtomicU8::new(AWAKE) });
        Ok(Reactor { epoll, alarm })
    }

    /// From now on until the socket is closed, each change to readable or writable is told.
    pub fn add_connection(&self, socket: impl AsFd, key: Key) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(key.to_bits()), flags)?)
    }

    pub fn add_listener(&self, socket: impl AsFd) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(LISTENER), flags)?)
    }

    /// Runs a future to its end, and tells what becomes ready meanwhile.
    pub fn block_on<T>(&self, future: impl Future<Output = T>, mut ready: impl FnMut(Ready)) -> T {
        let waker = Waker::from(self.alarm.clone());
        let mut context = Context::from_waker(&waker);
        let mut future = pin!(future);
        let mut events = Vec::with_capacity(128);
        loop {
            self.alarm.state.store(AWAKE, Ordering::SeqCst);
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return value;
            }
            let sleeps = self.alarm.state.compare_exchange(
                AWAKE,
                ASLEEP,
                Ordering::SeqCst,
                Ordering::SeqCst,
            );
            let only_look = Timespec::default();
            let timeout = if sleeps.is_ok() { None } else { Some(&only_look) };
            events.clear();
            if let Err(error) = epoll::wait(&self.epoll, spare_capacity(&mut events), timeout)
                && error != rustix::io::Errno::INTR
            {
                log::error!("mqtt: waiting for sockets: {error}");
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            for event in &events {
                self.told(event, &mut ready);
            }
        }
    }

    fn told(&self, event: &epoll::Event, ready: &mut impl FnMut(Ready)) {
        let flags = event.flags;
        match event.data.u64() {
            ALARM => {
                let _ = rustix::io::read(&self.alarm.event, &mut [0u8; 8]);
            }
            LISTENER => ready(Ready::Listener),
            bits => ready(Ready::Connection {
                key: Key::from_bits(bits),
                readable: flags.intersects(
                    EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR,
                ),
                writable: flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR),
                hung_up: flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_is_woken_from_another_thread() {
        let reactor = Reactor::new().expect("a reactor");
        let (sender, receiver) = async_channel::bounded(1);
        let thread = std::thread::spawn(move || {
            for number in 0..1_000 {
                sender.send_blocking(number).expect("the receiver is there");
            }
        });
        let mut got = Vec::new();
        reactor.block_on(
            async {
                while let Ok(number) = receiver.recv().await {
                    got.push(number);
                }
            },
            |_| {},
        );
        assert_eq!(got, (0..1_000).collect::<Vec<_>>());
        thread.join().expect("the thread ends");
    }
}
