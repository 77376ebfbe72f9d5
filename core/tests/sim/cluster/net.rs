//! The connections between gateways: ordered while they last, and they break.
//!
//! A connection is made anew whenever both sides can. When it breaks, each side hears of it in its
//! own time, and what was under way is lost. Across a partition bytes wait, as TCP's do: they come
//! through when it is over, unless a side has given up first. Messages of the quorum may be lost,
//! doubled and overtaken, since the driver drops them when a link is full.

use std::collections::{BTreeMap, BTreeSet};
use weir_core::peer::Message;
use weir_core::rng::Rng;
use weir_core::types::{Nanos, Time};

/// From one gateway to another, by their places.
pub type Way = (usize, usize);

/// What arrives at the second gateway of a way.
#[derive(Clone, Debug)]
pub enum Arrival {
    Up,
    Down,
    Message(Message),
}

/// Half a connection: what goes one way.
#[derive(Debug, Default)]
struct Half {
    /// Which connection the receiver has open; 0: none.
    open: u64,
    /// When the last byte arrives.
    last: Time,
    /// What waits for the end of a partition.
    stuck: Vec<(u64, Arrival)>,
}

#[derive(Debug, Default)]
pub struct Net {
    halves: BTreeMap<Way, Half>,
    blocked: BTreeSet<Way>,
    slow: BTreeSet<Way>,
    last_link: u64,
    pub loss: u64,
    pub duplication: u64,
    pub delay_us: u64,
}

impl Net {
    pub fn new(loss: u64, duplication: u64, delay_us: u64) -> Net {
        Net { loss, duplication, delay_us, ..Net::default() }
    }

    /// Whether the first side has a connection to the second, as far as it knows.
    pub fn link(&self, (from, to): Way) -> u64 {
        self.halves.get(&(to, from)).map_or(0, |half| half.open)
    }

    pub fn is_blocked(&self, way: Way) -> bool {
        self.blocked.contains(&way)
    }

    /// Nothing is cut or slow.
    pub fn is_free(&self) -> bool {
        self.blocked.is_empty() && self.slow.is_empty()
    }

    /// A new connection's name, if both ways are free.
    pub fn dial(&mut self, (one, other): Way) -> Option<u64> {
        let free = !self.is_blocked((one, other)) && !self.is_blocked((other, one));
        let same = self.link((one, other)) == self.link((other, one));
        if !free || same && self.link((one, other)) != 0 {
            return None;
        }
        self.last_link += 1;
        Some(self.last_link)
    }

    /// When something that is sent now arrives: never, once, or twice.
    pub fn send(&mut self, now: Time, rng: &mut Rng, way: Way, what: &Arrival) -> Vec<Time> {
        let slow = if self.slow.contains(&way) { 300_000 } else { 0 };
        let (delay_us, loss, duplication) = (self.delay_us, self.loss, self.duplication);
        let mut delay = || Nanos((50 + slow + rng.below(delay_us)) * 1_000);
        let half = self.halves.entry(way).or_default();
        if let Arrival::Message(message) = what
            && message.may_get_lost()
        {
            let first = now + delay();
            let second = now + delay();
            return match () {
                () if rng.percent(loss) => Vec::new(),
                () if rng.percent(duplication) => vec![first, second],
                () => vec![first],
            };
        }
        half.last = half.last.max(now + delay());
        vec![half.last]
    }

    /// What the receiver is told, if the connection still is what it was.
    pub fn arrive(&mut self, way: Way, link: u64, what: Arrival) -> Vec<Arrival> {
        let blocked = self.is_blocked(way);
        let half = self.halves.entry(way).or_default();
        match what {
            Arrival::Down if half.open == link => {
                half.open = 0;
                vec![Arrival::Down]
            }
            Arrival::Up if link > half.open => {
                let before = std::mem::replace(&mut half.open, link);
                let down = (before != 0).then_some(Arrival::Down);
                down.into_iter().chain([Arrival::Up]).collect()
            }
            Arrival::Message(_) if blocked => {
                half.stuck.push((link, what));
                Vec::new()
            }
            Arrival::Message(_) if half.open == link => vec![what],
            _ => Vec::new(),
        }
    }

    /// The process at `gateway` is gone; its peers will hear of it.
    pub fn forget(&mut self, gateway: usize) {
        for (_, half) in self.halves.iter_mut().filter(|((_, to), _)| *to == gateway) {
            half.open = 0;
            half.stuck.clear();
        }
    }

    pub fn block(&mut self, way: Way) {
        if way.0 != way.1 {
            self.blocked.insert(way);
        }
    }

    pub fn slow_down(&mut self, way: Way) {
        self.slow.insert(way);
    }

    /// The partitions end: what waited comes through, in order.
    pub fn unblock(&mut self) -> Vec<(Way, u64, Arrival)> {
        self.slow.clear();
        let mut freed = Vec::new();
        for way in std::mem::take(&mut self.blocked) {
            if let Some(half) = self.halves.get_mut(&way) {
                freed.extend(half.stuck.drain(..).map(|(link, what)| (way, link, what)));
            }
        }
        freed
    }
}
