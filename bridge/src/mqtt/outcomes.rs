//! What the log says about records, told to those who wait for it.

use super::hub::{Clock, Hub, Trim};
use super::packet::{Refusal, Version, reason, response};
use crate::ingest::{NotAnAnswer, Outcome, Ticket};
use crate::slab::Key;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use weir_core::error::ErrorCode;
use weir_core::wire::Frame;

impl Hub {
    /// Takes an answer that came along a lane.
    pub fn reply(&mut self, lane: usize, frame: Frame, clock: Clock) -> Result<(), NotAnAnswer> {
        let mut done = Vec::new();
        let answer = self.ingest.reply(lane, frame, clock.now, &mut done)?;
        for (since, records) in answer.durable {
            self.counters.durable(clock.now.saturating_duration_since(since), records as u64);
        }
        for (ticket, outcome) in done {
            self.outcome(ticket, outcome, clock.now);
        }
        self.publish_wills(clock);
        self.unblock();
        Ok(())
    }

    fn outcome(&mut self, ticket: Ticket, outcome: Outcome, now: Instant) {
        let refused = match outcome {
            Outcome::Durable => None,
            Outcome::Refused(error) => {
                self.counters.publishes_refused.fetch_add(1, Relaxed);
                Some(reason_of(error))
            }
        };
        match ticket {
            Ticket::Nobody => {}
            Ticket::Publish { connection, number, .. } => {
                self.answer_or_end(connection, number, refused, now);
            }
            Ticket::Exactly { session, packet_identifier, .. } => {
                self.exactly_done(session, packet_identifier, refused, now);
            }
            Ticket::Session { session, version } => match refused {
                None => self.session_durable(session, version),
                Some(_) => self.session_refused(session, now),
            },
            Ticket::Source { source, number } => {
                self.sources.done(source, number, refused.is_none(), &self.counters);
            }
        }
    }

    /// Answers a publish. MQTT 3.1.1 has no way to say no but to end the connection.
    fn answer_or_end(&mut self, key: Key, number: u32, refused: Option<u8>, now: Instant) {
        let version = self.connections.get(key).and_then(|connection| connection.version);
        match (version, refused) {
            (Some(Version::V4), Some(reason)) => {
                self.refuse(key, Refusal::new(reason, "the log does not take its record"), now);
            }
            _ => self.answer(key, number, refused.unwrap_or(reason::SUCCESS)),
        }
    }

    /// A publish can be answered.
    pub(super) fn answer(&mut self, key: Key, number: u32, reason: u8) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let answers = connection.answer(number, reason);
        if answers > 0 {
            self.counters.acks.fetch_add(answers, Relaxed);
            if !connection.dirty {
                connection.dirty = true;
                self.dirty.push(key);
            }
        }
    }

    fn exactly_done(
        &mut self,
        session_key: Key,
        packet_identifier: u16,
        refused: Option<u8>,
        now: Instant,
    ) {
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        let Some(exchange) = session.open.get_mut(&packet_identifier) else { return };
        exchange.durable = refused.is_none();
        let waiting = exchange.waiting.take();
        if refused.is_some() {
            session.open.remove(&packet_identifier);
        }
        if let Some((connection, number)) = waiting {
            self.answer_or_end(connection, number, refused, now);
        }
        self.settle(Some(session_key));
    }

    fn session_durable(&mut self, session_key: Key, version: u32) {
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        session.durable = version;
        let connection = session.connection;
        let mut released = Vec::new();
        while let Some((wanted, packet_identifier)) = session.releases.front().copied()
            && session.is_durable(wanted)
        {
            released.push(packet_identifier);
            session.releases.pop_front();
        }
        if session.trim.is_some_and(|wanted| session.is_durable(wanted)) {
            session.trim = None;
            if let Some(trim) = &mut self.trim {
                *trim = Trim { waiting: trim.waiting.saturating_sub(1), ..*trim };
            }
        }
        let Some(key) = connection else { return };
        self.connected(key);
        for packet_identifier in released {
            let output = self.output(key);
            response::write(response::PUBCOMP, packet_identifier, reason::SUCCESS, output);
            self.counters.acks.fetch_add(1, Relaxed);
        }
    }

    /// A session's record is not taken: the client cannot be served as it was promised.
    fn session_refused(&mut self, session_key: Key, now: Instant) {
        let connection = self.sessions.get(session_key).and_then(|session| session.connection);
        if let Some(key) = connection {
            let reason = reason::IMPLEMENTATION_SPECIFIC_ERROR;
            self.refuse(key, Refusal::new(reason, "the log does not take its session"), now);
        }
    }
}

fn reason_of(error: ErrorCode) -> u8 {
    match error {
        ErrorCode::KAFKA_STORAGE_ERROR
        | ErrorCode::MESSAGE_TOO_LARGE
        | ErrorCode::RECORD_LIST_TOO_LARGE => reason::QUOTA_EXCEEDED,
        ErrorCode::TOPIC_AUTHORIZATION_FAILED => reason::NOT_AUTHORIZED,
        _ => reason::IMPLEMENTATION_SPECIFIC_ERROR,
    }
}
