//! What the node does by the clock.

use super::{Node, Phase};
use crate::types::{Nanos, Time};

/// How often retention is looked at. Kafka looks each five minutes; a gateway's disk is small.
const EXPIRE_EVERY: Nanos = Nanos(10_000_000_000);

#[derive(Debug)]
pub(super) struct Timers {
    expire: Time,
}

impl Timers {
    pub fn new(now: Time) -> Timers {
        Timers { expire: now + EXPIRE_EVERY }
    }

    pub fn deadline(&self) -> Option<Time> {
        Some(self.expire)
    }
}

impl Node {
    pub(super) fn on_timers(&mut self, now: Time) {
        self.expire_fetches(now);
        self.expire_produces(now);
        self.tick_site(now);
        self.tick_replicas(now);
        self.repair(now);
        if now < self.timers.expire {
            return;
        }
        self.timers.expire = now + EXPIRE_EVERY;
        if matches!(self.phase, Phase::Serving) {
            self.log.expire(now, self.clock.trusted(now));
            self.expire_offsets(now);
        }
    }
}
