//! The metadata quorum: which of the gateways decides, and the log of what was decided.
//!
//! [`Quorum`] is a value without input or output around the Raft of `noraft`. How a node uses it:
//!
//! - [`Quorum::start`] with what the store holds. After that and after every call,
//!   [`Quorum::poll`] until `None`.
//! - [`Output::Persist`] is written in the order of the tokens; when it is durable,
//!   [`Quorum::durable`] says so, once for any number of tokens. [`Output::Send`] goes to a peer,
//!   which hands it to [`Quorum::handle`]; it may be lost.
//! - At [`Quorum::deadline`], [`Quorum::tick`].
//! - The state machine is what [`Output::Restore`] and then each [`Output::Committed`] say. From
//!   [`Output::Leads`] until [`Output::Lost`] this node decides, by [`Quorum::propose`]; all that
//!   was committed before its term has been handed out by then. Now and then the node gives the
//!   state as a snapshot, [`Quorum::snapshot_taken`].
//!
//! A cluster of one voter is the same thing: it elects itself, and entries are committed when they
//! are durable.
//!
//! Why (2026-11-21): what `noraft` leaves to its user, and how it is done here.
//!
//! - *Persist before send.* A message leaves when everything that was asked for before it is
//!   durable. A leader counts its own log at once, so an acknowledgement of entries that are not
//!   durable here waits until they are, and what a single voter commits is handed out when it is
//!   durable.
//! - *Pre-vote.* Before a node raises its term it asks whether it could win; nobody says yes who
//!   has heard a leader within the shortest election timeout. A node that comes back from a
//!   partition has its old term and disturbs nobody. Requests for votes meet the same test.
//! - *Check-quorum.* A leader that hears of no majority for the longest election timeout steps
//!   down. `noraft` has no call for that: the node is restarted from its own state, in its term.
//! - *Stores, not nodes, vote.* Members are recorded with their directory ids, and what a wiped
//!   store says counts for nothing until it is removed and added through the log.
//! - *An error of `noraft`* ends this node's part with a named [`Error`].

mod changes;
mod election;
mod forming;
mod journal;
mod message;
mod replication;
mod snapshots;
mod status;
#[cfg(test)]
mod tests;
mod types;

use crate::rng::Rng;
use crate::types::{NodeId, Time};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;
use forming::Forming;
use journal::Journal;
use message::{Body, Mark, config, follow, id, outline};
use replication::{Asked, Follower, Held, Source};
use snapshots::{Receiving, Sending};

pub use forming::Obstacle;
pub use message::Message;
pub use status::{Replica, Stage, Status};
pub use types::{
    Ballot, ClusterId, Content, Directory, Entry, Error, Formation, Found, Member, Members,
    Persist, Position, Refused, Snapshot, Token,
};

#[derive(Clone, Debug)]
pub struct Settings {
    pub me: NodeId,
    /// The voters that begin the cluster, as configured. Later ones come through the log.
    pub voters: Vec<NodeId>,
    /// A follower that hears no leader for a time between these asks for votes.
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    pub heartbeat_ms: u64,
    pub seed: u64,
}

impl Settings {
    /// For a site on a radio link.
    pub fn new(me: NodeId, voters: Vec<NodeId>, seed: u64) -> Settings {
        Settings {
            me,
            voters,
            election_min_ms: 800,
            election_max_ms: 1_600,
            heartbeat_ms: 250,
            seed,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    Persist {
        token: Token,
        what: Box<Persist>,
    },
    Send {
        to: NodeId,
        message: Message,
    },
    /// The state begins anew from this.
    Restore(Snapshot),
    /// The state goes on with this.
    Committed {
        position: Position,
        payload: Bytes,
    },
    /// These are the members now, for good.
    Members {
        position: Position,
        members: Members,
    },
    /// This node leads, and everything that was committed before has been handed out.
    Leads {
        term: u64,
    },
    /// It does not lead any more. What it proposed may be committed yet, or not.
    Lost,
    /// This node's part has ended.
    Stopped(Error),
}

/// A node's part of the quorum.
///
/// | state | event | next state |
/// |---|---|---|
/// | forming | see `forming` | follower |
/// | follower | hears no leader for an election timeout, and is a voter | asking |
/// | asking | a majority would vote | candidate, in the next term |
/// | asking, candidate | a leader is heard | follower |
/// | candidate | a majority votes | leader |
/// | candidate | an election timeout | asking |
/// | leader | hears of no majority for an election timeout | follower, in its term |
/// | any | a higher term is heard | follower, in that term |
/// | leader | its removal is committed | follower |
/// | any | the log contradicts a leader's where it is committed | stopped |
#[derive(Debug)]
pub struct Quorum {
    settings: Settings,
    rng: Rng,
    me: Member,
    forming: Forming,
    /// `None`: there is no cluster yet.
    formation: Option<Formation>,
    raft: noraft::Node,
    journal: Journal,
    snapshot: Option<Snapshot>,
    stopped: Option<Error>,

    ready: VecDeque<Output>,
    outbox: VecDeque<Held>,
    asked: VecDeque<Asked>,
    last_token: Token,
    durable_token: Token,
    /// Up to here the log is durable as it is now.
    durable_index: u64,
    /// Up to here it was handed out.
    delivered: u64,

    /// When a follower asks for votes, or a leader sends its heartbeat, or a new node asks around.
    wake_at: Time,
    /// Of which term, and who.
    leader: Option<(u64, NodeId)>,
    /// When a follower last heard the leader; at a start it is as if it just had.
    leader_heard: Option<Time>,
    /// Who would vote, while this node asks.
    asking: Option<BTreeSet<NodeId>>,
    round: u32,

    /// The term that this node leads, and since when.
    leading: Option<(u64, Time)>,
    /// [`Output::Leads`] was said.
    leads: bool,
    followers: BTreeMap<NodeId, Follower>,
    /// Acknowledgements of entries that are not durable here.
    early: BTreeMap<NodeId, Position>,
    sending: BTreeMap<NodeId, Sending>,
    receiving: Option<Receiving>,
    /// Stores that are not recorded and would like to be.
    applicants: BTreeMap<NodeId, Directory>,
}

impl Quorum {
    /// Takes up what the store holds.
    pub fn start(now: Time, settings: Settings, found: Found) -> Result<Quorum, Error> {
        let me = Member { node: settings.me, directory: found.directory };
        let ballot = found.ballot.clone();
        let start = found.snapshot.as_ref().map_or(Position::default(), |it| it.position);
        let behind = entries_behind(start, &found)?;
        let restart = behind.is_none();
        let entries = behind.unwrap_or_default();
        let last_term = follow(start.term, &entries).ok_or(Error::EntriesMissing)?;
        if last_term > ballot.as_ref().map_or(0, |ballot| ballot.term)
            || ballot.is_none() && found.snapshot.is_some()
        {
            return Err(Error::BallotMissing);
        }
        let base = match (&found.snapshot, &ballot) {
            (Some(snapshot), _) => snapshot.members.clone(),
            (None, Some(ballot)) => ballot.formation.members(),
            (None, None) => Members::default(),
        };
        let mut journal = Journal::new(start, base);
        journal.replace(start.index + 1, &entries);
        let mut quorum = Quorum {
            rng: Rng::new(settings.seed),
            me,
            forming: Forming::new(me, &settings.voters, !entries.is_empty()),
            formation: None,
            raft: noraft::Node::start(id(settings.me)),
            snapshot: found.snapshot,
            stopped: None,
            ready: VecDeque::new(),
            outbox: VecDeque::new(),
            asked: VecDeque::new(),
            last_token: Token(0),
            durable_token: Token(0),
            durable_index: journal.last_index(),
            delivered: start.index,
            wake_at: now,
            leader: None,
            leader_heard: Some(now),
            asking: None,
            round: 0,
            leading: None,
            leads: false,
            followers: BTreeMap::new(),
            early: BTreeMap::new(),
            sending: BTreeMap::new(),
            receiving: None,
            applicants: BTreeMap::new(),
            journal,
            settings,
        };
        if let Some(snapshot) = quorum.snapshot.clone() {
            quorum.ready.push_back(Output::Restore(snapshot.clone()));
            if restart {
                quorum.ask(Persist::Snapshot { snapshot, restart });
            }
        }
        match ballot {
            Some(ballot) => quorum.join(now, ballot),
            None => quorum.form_if_agreed(now),
        }
        Ok(quorum)
    }

    /// Takes a message of a peer. One that is not sound, not for this store or not of this cluster
    /// is dropped.
    pub fn handle(&mut self, now: Time, from: NodeId, message: Message) {
        if self.stopped.is_some() || from == self.me.node || from.0 < 0 {
            return;
        }
        if !message.body.is_sound() {
            log::warn!("node {} sent a quorum message beyond its bounds", from.0);
            return;
        }
        let Message { mark, body } = message;
        match body {
            Body::Hello(hello) => self.on_hello(now, from, hello),
            Body::Formed { formation, member } => self.on_formed(now, from, formation, member),
            // A leader, which need not be one of those that are configured here. If it knows this
            // store, its formation is all that is missing; if it knew the one that was here before,
            // it learns that there is another.
            _ if self.formation.is_none() => self.say_hello(from),
            _ if !self.is_meant(from, mark, &body) => {
                log::debug!("a quorum message of node {} is for another store", from.0);
            }
            Body::PreVote { round, term, last } => self.on_pre_vote(now, from, round, term, last),
            Body::PreVoteReply { round, term, granted } => {
                self.on_pre_vote_reply(now, from, round, term, granted);
            }
            Body::Vote { term, last } => self.on_vote(now, from, term, last),
            Body::VoteReply { term, granted } => self.on_vote_reply(now, from, term, granted),
            Body::Append { term, committed, previous, entries } => {
                self.on_append(now, from, term, committed, previous, &entries);
            }
            Body::AppendReply { term, last } => self.on_append_reply(now, from, term, last),
            Body::Chunk(chunk) => self.on_chunk(now, from, chunk),
            Body::ChunkReply { term, position, received } => {
                self.on_chunk_reply(now, from, term, position, received);
            }
        }
    }

    /// The deadline has come.
    pub fn tick(&mut self, now: Time) {
        if self.stopped.is_some() || now < self.wake_at {
            return;
        }
        if self.formation.is_none() {
            self.wake_at = now.plus_ms(2 * self.settings.heartbeat_ms);
            self.tell_forming();
        } else if self.leading.is_some() {
            self.on_heartbeat_due(now);
        } else {
            self.on_election_due(now);
        }
    }

    /// When [`Quorum::tick`] is due. Never once stopped, or while it leads itself alone: a gateway
    /// by itself sleeps when it is idle.
    pub fn deadline(&self) -> Option<Time> {
        let alone = self.leading.is_some() && self.members().all().count() == 1;
        (self.stopped.is_none() && !alone).then_some(self.wake_at)
    }

    pub fn poll(&mut self) -> Option<Output> {
        if let Some(output) = self.ready.pop_front() {
            return Some(output);
        }
        self.next_send().or_else(|| self.next_committed())
    }

    /// The leader as this node knows it.
    pub fn leader(&self) -> Option<NodeId> {
        let (term, leader) = self.leader?;
        (term == self.term()).then_some(leader)
    }

    pub fn term(&self) -> u64 {
        self.raft.current_term().get()
    }

    /// Whether this node leads its term. It may propose from [`Output::Leads`] on.
    pub fn is_leader(&self) -> bool {
        self.leading.is_some()
    }

    /// The newest members, committed or not.
    pub fn members(&self) -> &Members {
        self.journal.latest_members()
    }

    fn on_hello(&mut self, now: Time, from: NodeId, hello: message::Hello) {
        let Some(formation) = &self.formation else {
            if self.forming.hear(from, hello) {
                // The others go on as soon as they know what this node makes of it.
                self.tell_forming();
            }
            self.form_if_agreed(now);
            return;
        };
        let formation = formation.clone();
        let applicant = Member { node: from, directory: hello.directory };
        let members = self.journal.latest_members();
        let member = members.all().any(|known| *known == applicant);
        if member {
            self.applicants.remove(&from);
        } else if self.applicants.len() < crate::limits::OBSERVERS_MAX {
            self.applicants.insert(from, hello.directory);
        }
        self.send(from, self.me.directory.into(), Body::Formed { formation, member });
    }

    fn on_formed(&mut self, now: Time, from: NodeId, formation: Formation, member: bool) {
        if let Some(own) = &self.formation {
            if own.cluster != formation.cluster {
                log::error!("node {} belongs to another cluster", from.0);
            }
        } else if self.forming.may_join(&formation, member) {
            self.form(now, formation);
        } else {
            self.forming.refused(from, formation.cluster);
        }
    }

    fn say_hello(&mut self, to: NodeId) {
        let hello = Body::Hello(self.forming.hello());
        self.send(to, self.me.directory.into(), hello);
    }

    fn tell_forming(&mut self) {
        for node in self.forming.others().collect::<Vec<NodeId>>() {
            self.say_hello(node);
        }
    }

    fn form_if_agreed(&mut self, now: Time) {
        if let Some(formation) = self.forming.agreed() {
            self.form(now, formation);
        }
    }

    /// There is a cluster, and this node is in it from now on.
    fn form(&mut self, now: Time, formation: Formation) {
        if formation.voters.len() > 1 {
            log::info!("the cluster {:?} has formed", formation.cluster);
        }
        self.journal.found(formation.members());
        let ballot = Ballot { term: 0, vote: None, formation };
        self.ask(Persist::Ballot(ballot.clone()));
        self.join(now, ballot);
        // Nobody leads a cluster that begins.
        self.leader_heard = None;
    }

    fn join(&mut self, now: Time, ballot: Ballot) {
        let outline = outline(self.journal.start(), self.journal.iter());
        let start = self.journal.start().index;
        let log = noraft::Log::new(config(self.journal.members_at(start)), outline);
        let term = noraft::Term::new(ballot.term);
        self.raft = noraft::Node::restart(id(self.me.node), term, ballot.vote.map(id), log);
        self.formation = Some(ballot.formation);
        self.perform(now, Source::None);
        let members = self.journal.latest_members();
        if members.majority(|node| node == self.me.node) {
            // Alone: there is nobody to wait for.
            self.wake_at = now;
        }
    }

    /// Whether a message is of this cluster and for, or from, the store that is recorded.
    fn is_meant(&self, from: NodeId, mark: Mark, body: &Body) -> bool {
        match body {
            Body::PreVote { .. } | Body::Vote { .. } => {
                self.formation.as_ref().is_some_and(|it| mark == Mark::from(it.cluster))
            }
            Body::Append { .. } | Body::Chunk(_) => mark == Mark::from(self.me.directory),
            _ => self.members().directory(from).is_some_and(|it| mark == Mark::from(it)),
        }
    }

    fn stop(&mut self, error: Error) {
        log::error!("this node's part of the metadata quorum ends: {error}");
        self.stopped = Some(error);
        self.outbox.clear();
        if core::mem::take(&mut self.leads) {
            self.ready.push_back(Output::Lost);
        }
        self.leading = None;
        self.ready.push_back(Output::Stopped(error));
    }
}

/// The entries of a store behind its snapshot; `None` if the log has to begin anew there: a crash
/// may have come between a snapshot and the restart of the log.
fn entries_behind(start: Position, found: &Found) -> Result<Option<Vec<Entry>>, Error> {
    let first = found.first_index.max(1);
    if first > start.index + 1 {
        return Err(Error::EntriesMissing);
    }
    // Of the entries up to the start, the last is the one that the snapshot stands for.
    let skipped = usize::try_from(start.index + 1 - first).unwrap_or(usize::MAX);
    let same = skipped == 0
        || found.entries.get(skipped - 1).is_some_and(|entry| entry.term == start.term);
    Ok(found.entries.get(skipped..).filter(|_| same).map(<[Entry]>::to_vec))
}
