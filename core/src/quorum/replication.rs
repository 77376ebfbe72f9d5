//! The log: what the algorithm asks for is persisted, sent when durable, and handed out.

use super::message::{Body, Mark, config, id, node, outline};
use super::types::{Content, Entry, Error, Members, Persist, Position, Refused, Token};
use super::{Message, Output, Quorum};
use crate::limits::{
    QUORUM_ENTRIES_BYTES_MAX, QUORUM_ENTRIES_MAX, QUORUM_OUTBOX_MAX, QUORUM_PAYLOAD_BYTES_MAX,
    QUORUM_UNCOMMITTED_BYTES_MAX,
};
use crate::types::{NodeId, Time};
use alloc::boxed::Box;
use alloc::vec::Vec;
use bytes::Bytes;
use noraft::{LogEntries, LogEntry, LogIndex, Term};

/// What the entries hold that the algorithm appends with the current call.
pub(super) enum Source<'a> {
    /// Only what the algorithm itself makes.
    None,
    Payload(Bytes),
    Members(Members),
    /// A leader's, from this index on.
    Leader(u64, &'a [Entry]),
}

/// Something that was asked to be persisted and is not durable yet.
#[derive(Debug)]
pub(super) struct Asked {
    token: Token,
    /// The log was cut here, and ends there when this is durable.
    from_to: Option<(u64, u64)>,
}

/// A message that waits until something is durable.
#[derive(Debug)]
pub(super) struct Held {
    after: Token,
    to: NodeId,
    mark: Mark,
    what: Outgoing,
}

#[derive(Debug)]
enum Outgoing {
    Body(Body),
    /// The entries are looked up when it leaves.
    Append {
        term: u64,
        committed: u64,
        previous: Position,
        last: Position,
    },
}

/// What a leader knows of a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Follower {
    pub heard: Time,
    /// When it last had everything.
    pub caught_up: Option<Time>,
    /// Up to where it has confirmed entries.
    pub confirmed: u64,
    /// Since when it says that it has less.
    pub short_since: Option<Time>,
}

impl Quorum {
    /// Proposes a payload; [`Output::Committed`] with this position says that it is committed. If
    /// another payload is committed at the index, this one never will be.
    pub fn propose(&mut self, now: Time, payload: Bytes) -> Result<Position, Refused> {
        if !self.leads {
            return Err(Refused::NotLeader);
        }
        if payload.len() > QUORUM_PAYLOAD_BYTES_MAX {
            return Err(Refused::TooLarge);
        }
        let uncommitted = self.committed() + 1..=self.journal.last_index();
        let bytes = uncommitted.filter_map(|index| self.journal.get(index)).map(Entry::size);
        if bytes.sum::<usize>() as u64 > QUORUM_UNCOMMITTED_BYTES_MAX {
            return Err(Refused::Busy);
        }
        let position = self.raft.propose_command().into();
        self.perform(now, Source::Payload(payload));
        Ok(position)
    }

    /// This and everything that was asked for before it is durable.
    pub fn durable(&mut self, now: Time, token: Token) {
        while self.asked.front().is_some_and(|asked| asked.token <= token) {
            let asked = self.asked.pop_front().expect("there is a first one");
            if let Some((_, to)) = asked.from_to {
                self.durable_index = to;
            }
        }
        // What is cut by something that is on its way does not count any more.
        for (from, _) in self.asked.iter().filter_map(|asked| asked.from_to) {
            self.durable_index = self.durable_index.min(from - 1);
        }
        self.durable_token = self.durable_token.max(token);
        let early = self.early.iter().map(|(from, last)| (*from, *last));
        let ripe = early.filter(|(_, last)| last.index <= self.durable_index);
        for (from, last) in ripe.collect::<Vec<(NodeId, Position)>>() {
            self.early.remove(&from);
            self.acknowledge(now, from, last);
        }
    }

    pub(super) fn on_append(
        &mut self,
        now: Time,
        from: NodeId,
        term: u64,
        committed: u64,
        previous: Position,
        entries: &[Entry],
    ) {
        if term >= self.term() && self.contradicts(previous, entries) {
            return self.stop(Error::CommittedDiffers);
        }
        self.tell_raft(noraft::Message::AppendEntriesCall {
            from: id(from),
            term: Term::new(term),
            commit_index: LogIndex::new(committed),
            entries: outline(previous, entries.iter()),
        });
        if self.stopped.is_some() {
            return;
        }
        if term == self.term() && self.leading.is_none() {
            self.leader = Some((term, from));
            self.leader_heard = Some(now);
            self.asking = None;
        }
        self.perform(now, Source::Leader(previous.index + 1, entries));
    }

    /// A follower's log ends there, durably.
    pub(super) fn on_append_reply(&mut self, now: Time, from: NodeId, term: u64, last: Position) {
        if term > self.term() {
            // It will not follow this node.
            return self.on_vote_reply(now, from, term, false);
        }
        if term < self.term() || self.leading.is_none() {
            return;
        }
        let up_to_date = last.index >= self.journal.last_index();
        let before = self.followers.get(&from).copied();
        let caught_up = before.and_then(|follower| follower.caught_up);
        let caught_up = if up_to_date { Some(now) } else { caught_up };
        let confirmed = before.map_or(0, |follower| follower.confirmed);
        let is_short = last.index < confirmed;
        let short_since = before.and_then(|follower| follower.short_since);
        let short_since = is_short.then(|| short_since.unwrap_or(now));
        let confirmed = confirmed.max(last.index);
        self.followers.insert(from, Follower { heard: now, caught_up, confirmed, short_since });
        if short_since.is_some_and(|since| since.plus_ms(self.settings.election_max_ms) <= now) {
            // The algorithm sends nothing again that was confirmed in its term.
            log::error!(
                "node {} had confirmed metadata up to {confirmed} and has {}: its storage loses \
                 what it says it has flushed. It gets that from the next leader",
                from.0,
                last.index
            );
            return self.step_down(now);
        }
        self.sending.retain(|to, sending| *to != from || sending.position().index > last.index);
        if last.index <= self.durable_index {
            self.acknowledge(now, from, last);
        } else {
            // The algorithm counts this node's own log as it is in memory.
            let early = self.early.entry(from).or_insert(last);
            *early = if early.index < last.index { last } else { *early };
        }
    }

    fn acknowledge(&mut self, now: Time, from: NodeId, last: Position) {
        let committed = self.raft.commit_index();
        self.tell_raft(noraft::Message::AppendEntriesReply {
            from: id(from),
            term: self.raft.current_term(),
            last_position: last.into(),
        });
        self.perform(now, Source::None);
        if self.raft.commit_index() > committed && self.leading.is_some() {
            // The others learn it now and not a heartbeat later.
            self.raft.heartbeat();
            self.perform(now, Source::None);
            self.finish_demotions(now);
        }
    }

    pub(super) fn tell_raft(&mut self, message: noraft::Message) {
        if self.raft.handle_message(&message).is_err() {
            self.stop(Error::SnapshotDiffers);
        }
    }

    /// Does what the algorithm asks for. After each call of it, so that `source` fits.
    pub(super) fn perform(&mut self, now: Time, source: Source<'_>) {
        if self.stopped.is_some() {
            return;
        }
        let actions = core::mem::take(self.raft.actions_mut());
        self.note_role(now);
        if actions.save_current_term || actions.save_voted_for {
            self.persist_ballot();
        }
        if let Some(outline) = &actions.append_log_entries {
            self.append(outline, source);
        }
        self.forget_divergence();
        if let Some(message) = actions.broadcast_message {
            for peer in self.raft.peers().collect::<Vec<noraft::NodeId>>() {
                self.send_raft(node(peer), message.clone());
            }
        }
        for (to, message) in actions.send_messages {
            self.send_raft(node(to), message);
        }
        for to in actions.install_snapshots {
            self.start_sending(now, node(to));
        }
        if actions.set_election_timeout && self.leading.is_none() {
            self.wake_later(now);
        }
    }

    pub(super) fn ask(&mut self, what: Persist) {
        self.last_token.0 += 1;
        let from_to = match &what {
            Persist::Ballot(_) | Persist::Snapshot { restart: false, .. } => None,
            Persist::Entries { from_index, entries } => {
                Some((*from_index, from_index - 1 + entries.len() as u64))
            }
            Persist::Snapshot { snapshot, restart: true } => Some((1, snapshot.position.index)),
        };
        if let Some((from, _)) = from_to {
            self.durable_index = self.durable_index.min(from - 1);
        }
        let token = self.last_token;
        self.asked.push_back(Asked { token, from_to });
        self.ready.push_back(Output::Persist { token, what: Box::new(what) });
    }

    pub(super) fn send(&mut self, to: NodeId, mark: Mark, body: Body) {
        self.hold(to, mark, Outgoing::Body(body));
    }

    /// The oldest message, if what it waits for is durable.
    pub(super) fn next_send(&mut self) -> Option<Output> {
        while self.outbox.front().is_some_and(|held| held.after <= self.durable_token) {
            let held = self.outbox.pop_front()?;
            let body = match held.what {
                Outgoing::Body(body) => body,
                Outgoing::Append { term, committed, previous, last } => {
                    let (count, bytes) = (QUORUM_ENTRIES_MAX, QUORUM_ENTRIES_BYTES_MAX);
                    let Some(entries) = self.journal.between(previous, last, count, bytes) else {
                        continue;
                    };
                    Body::Append { term, committed, previous, entries }
                }
            };
            return Some(Output::Send { to: held.to, message: Message { mark: held.mark, body } });
        }
        None
    }

    /// Hands out what is committed and durable here, one entry a call.
    pub(super) fn next_committed(&mut self) -> Option<Output> {
        if self.stopped.is_some() {
            return None;
        }
        while self.delivered < self.committed().min(self.durable_index) {
            let index = self.delivered + 1;
            let entry = self.journal.get(index).expect("what is committed is in the log");
            let position = Position { index, term: entry.term };
            self.delivered = index;
            match &entry.content {
                Content::Payload(payload) => {
                    return Some(Output::Committed { position, payload: payload.clone() });
                }
                Content::Members(members) => {
                    return Some(Output::Members { position, members: members.clone() });
                }
                Content::Leader => {
                    if self.leading.is_some_and(|(term, _)| term == position.term) {
                        self.leads = true;
                        return Some(Output::Leads { term: position.term });
                    }
                }
            }
        }
        None
    }

    pub(super) fn committed(&self) -> u64 {
        self.raft.commit_index().get()
    }

    fn persist_ballot(&mut self) {
        let formation = self.formation.clone().expect("only a member of a cluster votes");
        let vote = self.raft.voted_for().map(node);
        self.ask(Persist::Ballot(super::Ballot { term: self.term(), vote, formation }));
    }

    fn append(&mut self, outline: &LogEntries, source: Source<'_>) {
        let from_index = outline.prev_position().index.get() + 1;
        let mut entries: Vec<Entry> = Vec::with_capacity(outline.len());
        let mut members = self.journal.members_at(from_index - 1).clone();
        for (position, entry) in outline.iter_with_positions() {
            let term = position.term.get();
            let content = match (&source, entry) {
                (Source::Leader(first, theirs), _) => {
                    let at = usize::try_from(position.index.get() - first);
                    let at = at.expect("entries of one message are few");
                    theirs.get(at).expect("what is appended was sent").content.clone()
                }
                (_, LogEntry::Term(_)) => Content::Leader,
                (Source::Payload(payload), LogEntry::Command) => Content::Payload(payload.clone()),
                (_, LogEntry::Command) => unreachable!("a payload comes with its call only"),
                (Source::Members(wanted), LogEntry::ClusterConfig(as_known))
                    if config(wanted) == as_known =>
                {
                    Content::Members(wanted.clone())
                }
                (_, LogEntry::ClusterConfig(_)) => {
                    // The algorithm ends a change by itself.
                    members.voters = core::mem::take(&mut members.new_voters);
                    Content::Members(members.clone())
                }
            };
            if let Content::Members(appended) = &content {
                members = appended.clone();
            }
            entries.push(Entry { term, content });
        }
        self.journal.replace(from_index, &entries);
        self.ask(Persist::Entries { from_index, entries });
    }

    /// The algorithm drops what contradicts a leader before the leader's entries come, and does
    /// not say so. On flash it goes with what is appended next.
    fn forget_divergence(&mut self) {
        let last = self.last_position().index;
        if self.journal.last_index() > last {
            self.journal.replace(last + 1, &[]);
            self.durable_index = self.durable_index.min(last);
        }
    }

    /// Whether a leader's entries are others than those that are committed here.
    fn contradicts(&self, previous: Position, entries: &[Entry]) -> bool {
        let committed = self.committed().max(self.delivered);
        let differs = |index: u64, term: u64| {
            index <= committed && self.journal.term(index).is_some_and(|own| own != term)
        };
        let mut theirs = (previous.index + 1..).zip(entries);
        // A snapshot that differs is the algorithm's to find.
        previous.index > self.journal.start().index && differs(previous.index, previous.term)
            || theirs.any(|(index, entry)| differs(index, entry.term))
    }

    fn send_raft(&mut self, to: NodeId, message: noraft::Message) {
        use noraft::Message as Raft;
        let own = Mark::from(self.me.directory);
        let theirs = self.members().directory(to).map(Mark::from);
        let (mark, what) = match message {
            Raft::RequestVoteCall { term, last_position, .. } => {
                if !self.members().majority_counts(to) {
                    return;
                }
                let body = Body::Vote { term: term.get(), last: last_position.into() };
                (self.cluster_mark(), Outgoing::Body(body))
            }
            Raft::RequestVoteReply { term, vote_granted, .. } => {
                let body = Body::VoteReply { term: term.get(), granted: vote_granted };
                (own, Outgoing::Body(body))
            }
            Raft::AppendEntriesCall { term, commit_index, entries, .. } => {
                let Some(theirs) = theirs else { return };
                let append = Outgoing::Append {
                    term: term.get(),
                    committed: commit_index.get(),
                    previous: entries.prev_position().into(),
                    last: entries.last_position().into(),
                };
                (theirs, append)
            }
            Raft::AppendEntriesReply { term, last_position, .. } => {
                let body = Body::AppendReply { term: term.get(), last: last_position.into() };
                (own, Outgoing::Body(body))
            }
        };
        self.hold(to, mark, what);
    }

    fn hold(&mut self, to: NodeId, mark: Mark, what: Outgoing) {
        if self.outbox.len() < QUORUM_OUTBOX_MAX {
            self.outbox.push_back(Held { after: self.last_token, to, mark, what });
        }
    }
}
