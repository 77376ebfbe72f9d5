//! How connections begin and end, and what that means for their sessions.

use super::connection::{Blocked, Connection, Phase};
use super::hub::{Hub, Trim};
use super::packet::{Connack, Connect, Refusal, Version, connack, disconnect, reason};
use super::session::Session;
use super::wills::DueWill;
use crate::ingest::Ticket;
use crate::slab::Key;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Client identifiers stand in every record. The protocol asks for 23 bytes at least.
const CLIENT_ID_BYTES_MAX: usize = 256;

impl Hub {
    pub(super) fn connect(
        &mut self,
        key: Key,
        connect: Connect,
        now: Instant,
    ) -> Result<(), Refusal> {
        let version = connect.version;
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        connection.version = Some(version);
        if connection.surplus {
            return Err(Refusal::new(reason::QUOTA_EXCEEDED, "there are too many connections"));
        }
        if connect.authentication_method {
            let why = "it wants to authenticate with a method of its own";
            return Err(Refusal::new(reason::BAD_AUTHENTICATION_METHOD, why));
        }
        let (client_id, assigned) = self.client_id(&connect)?;
        let expiry_max = self.settings.session_expiry_max;
        let expiry = connect.session_expiry.unwrap_or(expiry_max).min(expiry_max);
        let known = self.by_client.get(&*client_id).copied();
        if let Some(old) = known.and_then(|session| self.sessions.get(session)?.connection) {
            self.take_over(old, &connect, now);
        }
        // Taking over may have ended the session.
        let known = self.by_client.get(&*client_id).copied();
        if connect.clean_start
            && let Some(session) = known
        {
            self.forget(session);
        }
        let known = self.by_client.get(&*client_id).copied();
        let session_key = match known {
            Some(session) => session,
            None if expiry > 0 && self.stored_count >= self.settings.sessions_max => {
                return Err(Refusal::new(reason::QUOTA_EXCEEDED, "there are too many sessions"));
            }
            // Its record would wait for room, and the device for an answer.
            None if expiry > 0 && self.ingest.is_full(now) => {
                let why = "there is no room on the disk for a session that is kept";
                return Err(Refusal::new(reason::QUOTA_EXCEEDED, why));
            }
            None => self.new_session(&client_id),
        };
        let answer = Connack {
            session_present: known.is_some(),
            receive_maximum: self.settings.receive_maximum,
            packet_bytes_max: self.settings.packet_bytes_max,
            topic_alias_maximum: self.settings.topic_alias_maximum,
            session_expiry: (connect.session_expiry != Some(expiry)).then_some(expiry),
            assigned_client_id: assigned.then(|| client_id.to_string()),
        };
        let durable = self.attach(session_key, key, expiry);
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        connection.session = Some(session_key);
        connection.client_id = client_id;
        connection.will = connect.will;
        let keep_alive = u64::from(connect.keep_alive);
        connection.silence_max =
            (keep_alive > 0).then(|| Duration::from_millis(keep_alive * 1_500));
        connection.phase = Phase::Connecting(Box::new(answer));
        if durable {
            self.connected(key);
        } else {
            connection.blocked = Some(Blocked::Session);
            self.blocked.push(key);
        }
        Ok(())
    }

    /// The client's identifier, or one that is made for it.
    fn client_id(&mut self, connect: &Connect) -> Result<(Rc<str>, bool), Refusal> {
        if connect.client_id.len() > CLIENT_ID_BYTES_MAX {
            let why = "its client identifier is longer than 256 bytes";
            return Err(Refusal::new(reason::CLIENT_IDENTIFIER_NOT_VALID, why));
        }
        if !connect.client_id.is_empty() {
            return Ok((connect.client_id.as_str().into(), false));
        }
        if connect.version == Version::V4 && !connect.clean_start {
            let why = "it has no client identifier and wants its session kept";
            return Err(Refusal::new(reason::CLIENT_IDENTIFIER_NOT_VALID, why));
        }
        Ok((format!("weir-{:016x}", self.ids.next()).into(), true))
    }

    fn new_session(&mut self, client_id: &Rc<str>) -> Key {
        let session = Session::new(client_id.clone(), self.ids.next());
        let key = self.sessions.insert(session);
        self.by_client.insert(client_id.clone(), key);
        key
    }

    /// Gives a session its connection; whether the session needs no record that is not durable yet.
    fn attach(&mut self, session_key: Key, key: Key, expiry: u32) -> bool {
        let Some(session) = self.sessions.get_mut(session_key) else { return true };
        (session.connection, session.ended, session.will) = (Some(key), None, None);
        let changed = session.expiry != expiry;
        session.expiry = expiry;
        let first = expiry > 0 && !session.stored;
        if first {
            session.stored = true;
            self.stored_count += 1;
        }
        if first || (changed && session.stored) {
            self.write_session(Some(session_key));
        }
        !first
    }

    /// Lets a client in: its session is durable, or needs not be.
    pub(super) fn connected(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Connecting(answer) = &mut connection.phase else { return };
        let (answer, version) = (std::mem::take(&mut **answer), connection.version);
        connection.phase = Phase::Open;
        log::debug!("mqtt: client \"{}\" is connected", connection.client_id);
        connack(version.unwrap_or(Version::V4), Ok(answer), self.output(key));
    }

    /// Another connection has the same client identifier: the older one ends.
    fn take_over(&mut self, old: Key, by: &Connect, now: Instant) {
        let Some(connection) = self.connections.get_mut(old) else { return };
        if !by.clean_start && connection.will.as_ref().is_some_and(|will| will.delay > 0) {
            // The session goes on before the will's delay is over, so the will is off.
            connection.will = None;
        }
        let version = connection.version.unwrap_or(Version::V4);
        disconnect(version, reason::SESSION_TAKEN_OVER, self.output(old));
        self.end(old, now);
    }

    /// MQTT 5 lets a client change its mind when it goes, but not from "no session" to one.
    pub(super) fn change_expiry(&mut self, key: Key, expiry: u32) -> Result<(), Refusal> {
        let expiry = expiry.min(self.settings.session_expiry_max);
        let session_key = self.connections.get(key).and_then(|connection| connection.session);
        let session = session_key.and_then(|key| self.sessions.get_mut(key));
        let Some(session) = session.filter(|session| session.expiry != expiry) else {
            return Ok(());
        };
        if session.expiry == 0 {
            return Err(Refusal::protocol("a session that was to end now gets an expiry"));
        }
        session.expiry = expiry;
        self.write_session(session_key);
        Ok(())
    }

    /// Ends a connection as far as MQTT goes. What it is owed is still written, then its socket
    /// closed.
    pub(crate) fn end(&mut self, key: Key, now: Instant) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.has_ended() {
            return;
        }
        connection.phase = Phase::Ended;
        connection.blocked = None;
        connection.wake();
        self.counters.connections.fetch_sub(1, Relaxed);
        let (version, will) = (connection.version, connection.will.take());
        let client_id = connection.client_id.clone();
        let session_key = connection.session;
        let Some(session) = session_key.and_then(|key| self.sessions.get_mut(key)) else { return };
        (session.connection, session.ended) = (None, Some(now));
        let expiry = session.expiry;
        if let Some(will) = will {
            let delay = Duration::from_secs(will.delay.min(expiry).into());
            if delay.is_zero() {
                let version = version.unwrap_or(Version::V4);
                self.wills.push_back(DueWill { client_id, version, packet: will.packet });
            } else {
                session.will = Some((now + delay, will));
            }
        }
        match session_key {
            Some(session) if expiry == 0 => self.forget(session),
            _ => self.settle(session_key),
        }
    }

    /// The socket is closed, too.
    pub fn closed(&mut self, key: Key, now: Instant) {
        self.end(key, now);
        self.connections.remove(key);
    }

    /// Once nothing of a session without connection is in flight, a start need not look for it.
    pub(super) fn settle(&mut self, session_key: Option<Key>) {
        let session = session_key.and_then(|key| self.sessions.get_mut(key));
        if let Some(session) = session
            && session.connection.is_none()
            && !session.positions.is_empty()
            && session.all_durable()
        {
            session.positions.clear();
            self.write_session(session_key);
        }
    }

    /// Ends a session.
    pub(super) fn forget(&mut self, session_key: Key) {
        let Some(session) = self.sessions.remove(session_key) else { return };
        self.by_client.remove(&session.client_id);
        if let Some((_, will)) = session.will {
            let client_id = session.client_id.clone();
            let packet = will.packet;
            self.wills.push_back(DueWill { client_id, version: Version::V5, packet });
        }
        if let (Some(trim), Some(_)) = (&mut self.trim, session.trim) {
            *trim = Trim { waiting: trim.waiting.saturating_sub(1), ..*trim };
        }
        if session.stored {
            self.stored_count -= 1;
            let clock = super::clock();
            self.push_session(&session.client_id, None, Ticket::Nobody, clock);
        }
    }

    /// Nothing more is taken from anybody.
    pub fn stop_reading(&mut self) {
        for (_, connection) in self.connections.iter_mut() {
            connection.blocked = Some(Blocked::Stopping);
        }
        self.blocked.clear();
    }

    /// Everybody is told that the gateway stops. Wills are not for that.
    pub fn shut_down(&mut self, now: Instant) {
        let keys: Vec<Key> = self.connections.iter_mut().map(|(key, _)| key).collect();
        for key in keys {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            connection.will = None;
            if let (Some(version), Phase::Open) = (connection.version, &connection.phase) {
                disconnect(version, reason::SERVER_SHUTTING_DOWN, self.output(key));
            }
            self.end(key, now);
        }
    }
}

/// When a connection has to be looked at, if it stays silent.
pub(super) fn silence_ends(connection: &Connection) -> Option<Instant> {
    /// For a CONNECT, and for the output of a connection that has ended.
    const PATIENCE: Duration = Duration::from_secs(10);
    match connection.phase {
        Phase::New | Phase::Ended => Some(connection.heard + PATIENCE),
        Phase::Connecting(_) => None,
        // Who is not read cannot be heard.
        Phase::Open if connection.blocked.is_some_and(|why| why != Blocked::Output) => None,
        Phase::Open => connection.silence_max.map(|silence| connection.heard + silence),
    }
}
