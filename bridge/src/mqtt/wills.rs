//! What happens by itself: wills that are due, clients that are silent, sessions that are over.

use super::connect::silence_ends;
use super::connection::Phase;
use super::hub::{Clock, Hub, Trim};
use super::packet::{Framed, Publish, Refusal, Version, frame, reason};
use super::publish::Incoming;
use crate::ingest::Ticket;
use crate::slab::Key;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long wills wait that found no room.
const AGAIN: Duration = Duration::from_millis(100);

/// A will that has to be published now.
#[derive(Debug)]
pub(crate) struct DueWill {
    pub client_id: Rc<str>,
    pub version: Version,
    pub packet: Box<[u8]>,
}

impl Hub {
    /// Publishes the wills that are due, as far as there is room and their topics are open. Those
    /// that have to wait are not looked at again for a moment: there may be many, and for long.
    pub fn publish_wills(&mut self, clock: Clock) {
        if self.wills_wait_until.is_none_or(|until| until <= clock.now) {
            self.publish_all_wills(clock);
        }
    }

    fn publish_all_wills(&mut self, clock: Clock) {
        for will in std::mem::take(&mut self.wills) {
            if !self.publish_will(&will, clock) {
                self.wills.push_back(will);
            }
        }
        self.wills_wait_until = (!self.wills.is_empty()).then(|| clock.now + AGAIN);
    }

    /// Whether the will is done with.
    fn publish_will(&mut self, will: &DueWill, clock: Clock) -> bool {
        let Ok(Framed::Whole { first, body, .. }) = frame(&will.packet, u32::MAX) else {
            return true;
        };
        let Ok(publish) = Publish::parse(will.version, first, body) else { return true };
        let message =
            Incoming { client_id: &will.client_id, topic: publish.topic, publish: &publish };
        let Ok(place) = self.place(&message) else { return false };
        self.push(place, &message, None, Ticket::Nobody, clock);
        true
    }

    /// Looks at everybody; returns when to look again.
    pub fn tick(&mut self, clock: Clock) -> Option<Instant> {
        let now = clock.now;
        let (mut silent, mut next) = (Vec::new(), None);
        for (key, connection) in self.connections.iter_mut() {
            match silence_ends(connection) {
                Some(end) if end <= now => silent.push(key),
                end => next = earlier(next, end),
            }
            if now.saturating_duration_since(connection.heard) > Duration::from_secs(1) {
                connection.shrink();
            }
        }
        for key in silent {
            self.silent(key, now);
        }
        let (mut over, mut due) = (Vec::new(), Vec::new());
        for (key, session) in self.sessions.iter_mut() {
            match (&session.will, session.ended) {
                (Some((when, _)), _) if *when <= now => due.push(key),
                (Some((when, _)), _) => next = earlier(next, Some(*when)),
                (None, Some(ended)) => {
                    let end = ended + Duration::from_secs(session.expiry.into());
                    if end <= now {
                        over.push(key);
                    } else {
                        next = earlier(next, Some(end));
                    }
                }
                (None, None) => {}
            }
        }
        for key in due {
            self.will_due(key);
            next = Some(now);
        }
        for key in over {
            log::info!("mqtt: a session has expired");
            self.forget(key);
        }
        self.publish_all_wills(clock);
        self.begin_trim();
        earlier(next, self.wills_wait_until)
    }

    fn silent(&mut self, key: Key, now: Instant) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.has_ended() {
            // It does not even take what it is sent.
            connection.out.clear();
            connection.wake();
            return;
        }
        let reason = match connection.phase {
            Phase::Open => reason::KEEP_ALIVE_TIMEOUT,
            _ => 0,
        };
        self.refuse(key, Refusal::new(reason, "nothing was heard of it for too long"), now);
    }

    fn will_due(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Some((_, will)) = session.will.take() {
            let client_id = session.client_id.clone();
            // Only MQTT 5 has wills with a delay.
            self.wills.push_back(DueWill { client_id, version: Version::V5, packet: will.packet });
        }
    }

    /// Begins to trim the sessions' topic when most of it is history: all sessions are written
    /// again, then what lies below is deleted. Compaction alone would not bound it: of each session
    /// that is over it leaves a tombstone, for a day, and without a trusted clock for ever.
    fn begin_trim(&mut self) {
        const WRITTEN_MIN: usize = 10_000;
        let many = self.written_count >= WRITTEN_MIN.max(4 * self.stored_count);
        if self.trim.is_some() || !many || !self.ingest.is_open(self.sessions_topic) {
            return;
        }
        self.written_count = 0;
        let place = self.ingest.place(self.sessions_topic, b"");
        let below = self.ingest.end(place);
        let mut keys = Vec::new();
        for (key, session) in self.sessions.iter_mut() {
            if session.stored {
                session.trim = Some(session.next_version());
                keys.push(key);
            }
        }
        self.trim = Some(Trim { below, waiting: keys.len() });
        keys.into_iter().for_each(|key| self.write_session(Some(key)));
    }

    /// Up to where the sessions' topic can be deleted; asked once for each trimming.
    pub fn trimmed(&mut self) -> Option<i64> {
        let done = self.trim.take_if(|trim| trim.waiting == 0);
        done.map(|trim| trim.below)
    }
}

pub(super) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
