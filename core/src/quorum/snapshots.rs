//! Snapshots: taken by the node, sent in pieces to who is too far behind.
//!
//! One piece is on its way to a follower at a time; the answer to it asks for the next, and what
//! is not answered is sent again. The answer to the last is the follower's log end.

use super::message::{Body, Chunk, config};
use super::replication::{Follower, Source};
use super::types::{Persist, Position, Snapshot};
use super::{Output, Quorum};
use crate::limits::{QUORUM_CHUNK_BYTES_MAX, QUORUM_SNAPSHOT_BYTES_MAX};
use crate::types::{NodeId, Time};
use alloc::vec::Vec;
use bytes::Bytes;

/// A snapshot on its way to a follower.
#[derive(Debug)]
pub(super) struct Sending {
    snapshot: Snapshot,
    at: u64,
    sent: Time,
}

impl Sending {
    pub fn position(&self) -> Position {
        self.snapshot.position
    }
}

/// What has come of a snapshot.
#[derive(Debug)]
pub(super) struct Receiving {
    position: Position,
    bytes: Vec<u8>,
}

impl Quorum {
    /// The state after the entry at `index`, which was handed out, is `payload`. It takes the place
    /// of the entries up to there. Says whether it was taken; a node that is being elected may not.
    pub fn snapshot_taken(&mut self, index: u64, payload: Bytes) -> bool {
        if self.stopped.is_some()
            || index > self.delivered
            || index <= self.journal.start().index
            || payload.len() as u64 > QUORUM_SNAPSHOT_BYTES_MAX
        {
            return false;
        }
        let Some(term) = self.journal.term(index) else {
            return false;
        };
        let position = Position { index, term };
        let members = self.journal.members_at(index).clone();
        if !self.raft.handle_snapshot_installed(position.into(), config(&members)) {
            return false;
        }
        let snapshot = Snapshot { position, members, payload };
        self.keep(snapshot, false);
        true
    }

    /// A follower needs entries that are not in the log any more.
    pub(super) fn start_sending(&mut self, now: Time, to: NodeId) {
        if self.sending.contains_key(&to) {
            return;
        }
        let snapshot = self.snapshot.clone().expect("a log that begins later has a snapshot");
        self.sending.insert(to, Sending { snapshot, at: 0, sent: now });
        self.send_chunk(now, to);
    }

    pub(super) fn on_chunk_reply(
        &mut self,
        now: Time,
        from: NodeId,
        term: u64,
        position: Position,
        received: u64,
    ) {
        if self.leading.is_none_or(|(leading, _)| leading != term) {
            return;
        }
        let Some(sending) = self.sending.get_mut(&from) else {
            return;
        };
        if let Some(Follower { heard, .. }) = self.followers.get_mut(&from) {
            *heard = now;
        }
        let total = sending.snapshot.payload.len() as u64;
        if sending.position() == position && received != sending.at && received < total {
            sending.at = received;
            self.send_chunk(now, from);
        }
    }

    /// With each heartbeat: what was not answered goes again, to those that are there.
    pub(super) fn resend_chunks(&mut self, now: Time) {
        let since = |time: Time, ms: u64| now >= time.plus_ms(ms);
        let (heartbeat, gone) = (self.settings.heartbeat_ms, self.settings.election_max_ms);
        let followers = &self.followers;
        let members = self.journal.latest_members();
        self.sending.retain(|to, _| {
            members.directory(*to).is_some()
                && followers.get(to).is_some_and(|follower| !since(follower.heard, gone))
        });
        let late = self.sending.iter().filter(|(_, sending)| since(sending.sent, 2 * heartbeat));
        for to in late.map(|(to, _)| *to).collect::<Vec<NodeId>>() {
            self.send_chunk(now, to);
        }
    }

    pub(super) fn on_chunk(&mut self, now: Time, from: NodeId, chunk: Chunk) {
        if chunk.term != self.term() || self.leader() != Some(from) || self.leading.is_some() {
            return;
        }
        self.leader_heard = Some(now);
        let position = chunk.position;
        if position.index <= self.committed().max(self.delivered) {
            return self.say_log_end(from);
        }
        let receiving = match self.receiving.take() {
            Some(receiving) if receiving.position == position => receiving,
            _ => Receiving { position, bytes: Vec::new() },
        };
        let receiving = self.receiving.insert(receiving);
        if receiving.bytes.len() as u64 == chunk.at {
            receiving.bytes.extend_from_slice(&chunk.bytes);
        }
        let received = receiving.bytes.len() as u64;
        if received < chunk.total {
            let body = Body::ChunkReply { term: chunk.term, position, received };
            return self.send(from, self.me.directory.into(), body);
        }
        let payload = Bytes::from(core::mem::take(&mut receiving.bytes));
        self.receiving = None;
        self.install(now, Snapshot { position, members: chunk.members, payload });
        self.say_log_end(from);
    }

    fn install(&mut self, now: Time, snapshot: Snapshot) {
        let position = snapshot.position;
        if !self.raft.handle_snapshot_installed(position.into(), config(&snapshot.members)) {
            return;
        }
        log::info!("the metadata goes on from the leader's snapshot at {}", position.index);
        let restart = self.journal.term(position.index) != Some(position.term);
        self.delivered = position.index;
        self.ready.push_back(Output::Restore(snapshot.clone()));
        self.keep(snapshot, restart);
        self.perform(now, Source::None);
    }

    fn keep(&mut self, snapshot: Snapshot, restart: bool) {
        self.journal.begin_at(snapshot.position, snapshot.members.clone());
        self.snapshot = Some(snapshot.clone());
        self.ask(Persist::Snapshot { snapshot, restart });
    }

    fn say_log_end(&mut self, to: NodeId) {
        let body = Body::AppendReply { term: self.term(), last: self.last_position() };
        self.send(to, self.me.directory.into(), body);
    }

    fn send_chunk(&mut self, now: Time, to: NodeId) {
        let (Some((term, _)), Some(directory)) = (self.leading, self.members().directory(to))
        else {
            return;
        };
        let Some(sending) = self.sending.get_mut(&to) else {
            return;
        };
        sending.sent = now;
        let payload = &sending.snapshot.payload;
        let at = usize::try_from(sending.at).unwrap_or(usize::MAX).min(payload.len());
        let end = payload.len().min(at + QUORUM_CHUNK_BYTES_MAX);
        let chunk = Chunk {
            term,
            position: sending.snapshot.position,
            members: sending.snapshot.members.clone(),
            total: payload.len() as u64,
            at: sending.at,
            bytes: payload.slice(at..end),
        };
        self.send(to, directory.into(), Body::Chunk(chunk));
    }
}
