//! What the nodes of a quorum say to each other, and what of it may reach the algorithm.
//!
//! A message may be lost, repeated, late or out of order. Each carries a [`Mark`] that ties it to a
//! store: without it an old acknowledgement of a store that was wiped since could count for the new
//! one.

use super::types::{ClusterId, Content, Directory, Entry, Formation, Member, Members, Position};
use crate::limits::{
    QUORUM_CHUNK_BYTES_MAX, QUORUM_ENTRIES_BYTES_MAX, QUORUM_ENTRIES_MAX, QUORUM_PAYLOAD_BYTES_MAX,
    QUORUM_SNAPSHOT_BYTES_MAX, VOTERS_MAX,
};
use crate::types::NodeId;
use alloc::vec::Vec;
use bytes::Bytes;
use noraft::{LogEntries, LogEntry, LogIndex, LogPosition, Term};
use serde::{Deserialize, Serialize};

/// The first half of an id: that of the cluster for a request for votes, of the receiver's store
/// for what a leader sends, of the sender's store for every answer. Half of it tells stores apart,
/// and heartbeats are most of the traffic of an idle site.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark([u8; 8]);

impl From<Directory> for Mark {
    fn from(directory: Directory) -> Mark {
        let [a, b, c, d, e, f, g, h, ..] = directory.0;
        Mark([a, b, c, d, e, f, g, h])
    }
}

impl From<ClusterId> for Mark {
    fn from(cluster: ClusterId) -> Mark {
        Mark::from(Directory(cluster.0))
    }
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub(super) mark: Mark,
    pub(super) body: Body,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Of a node without a cluster.
    Hello(Hello),
    /// The answer of one that has a cluster.
    Formed {
        formation: Formation,
        member: bool,
    },
    PreVote {
        round: u32,
        term: u64,
        last: Position,
    },
    PreVoteReply {
        round: u32,
        term: u64,
        granted: bool,
    },
    Vote {
        term: u64,
        last: Position,
    },
    VoteReply {
        term: u64,
        granted: bool,
    },
    Append {
        term: u64,
        committed: u64,
        previous: Position,
        entries: Vec<Entry>,
    },
    AppendReply {
        term: u64,
        last: Position,
    },
    Chunk(Chunk),
    ChunkReply {
        term: u64,
        position: Position,
        received: u64,
    },
}

/// What a node without a cluster is like.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub directory: Directory,
    /// As it was configured.
    pub voters: Vec<NodeId>,
    /// It holds entries of a time without quorum.
    pub old: bool,
    /// It has heard all voters and would form this cluster.
    pub proposes: Option<ClusterId>,
}

/// A piece of a snapshot.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub term: u64,
    pub position: Position,
    pub members: Members,
    pub total: u64,
    pub at: u64,
    pub bytes: Bytes,
}

/// Terms are leader epochs and indexes are offsets in the flash log.
const TERM_MAX: u64 = i32::MAX as u64;
const INDEX_MAX: u64 = i64::MAX as u64 / 2;

impl Body {
    /// Whether everything keeps its bounds and the entries could be a leader's. Nothing else is
    /// handed to the algorithm, which trusts what it gets.
    pub fn is_sound(&self) -> bool {
        match self {
            Body::Hello(hello) => hello.voters.len() <= VOTERS_MAX,
            Body::Formed { formation, .. } => formation.members().is_sound(),
            Body::PreVote { term, last, .. } | Body::Vote { term, last } => {
                *term < TERM_MAX && is_place(*last, *term)
            }
            Body::PreVoteReply { term, .. } | Body::VoteReply { term, .. } => *term < TERM_MAX,
            Body::Append { term, committed, previous, entries } => {
                *committed < INDEX_MAX && entries_are_sound(*term, *previous, entries)
            }
            Body::AppendReply { term, last } => *term < TERM_MAX && is_place(*last, *term),
            Body::Chunk(chunk) => chunk.is_sound(),
            Body::ChunkReply { term, position, received } => {
                *term < TERM_MAX
                    && is_place(*position, *term)
                    && *received <= QUORUM_SNAPSHOT_BYTES_MAX
            }
        }
    }
}

impl Chunk {
    fn is_sound(&self) -> bool {
        let end = self.at.checked_add(self.bytes.len() as u64);
        self.term < TERM_MAX
            && is_place(self.position, self.term)
            && self.members.is_sound()
            && self.bytes.len() <= QUORUM_CHUNK_BYTES_MAX
            && self.total <= QUORUM_SNAPSHOT_BYTES_MAX
            && end.is_some_and(|end| end <= self.total)
    }
}

/// A position that a node in `term` may know of.
fn is_place(position: Position, term: u64) -> bool {
    position.index < INDEX_MAX
        && position.term <= term
        && (position.index > 0 || position.term == 0)
}

fn entries_are_sound(term: u64, previous: Position, entries: &[Entry]) -> bool {
    let bytes: usize = entries.iter().map(Entry::size).sum();
    term < TERM_MAX
        && is_place(previous, term)
        && entries.len() <= QUORUM_ENTRIES_MAX
        && (bytes <= QUORUM_ENTRIES_BYTES_MAX || entries.len() == 1)
        && follow(previous.term, entries).is_some_and(|last| last <= term)
}

/// The term of the last entry, if these may stand in a log behind an entry of term `previous`.
pub(super) fn follow(previous: u64, entries: &[Entry]) -> Option<u64> {
    entries.iter().try_fold(previous, |term, entry| {
        let sound = match &entry.content {
            Content::Leader => entry.term > term,
            Content::Members(members) => entry.term == term && members.is_sound(),
            Content::Payload(payload) => {
                entry.term == term && payload.len() <= QUORUM_PAYLOAD_BYTES_MAX
            }
        };
        sound.then_some(entry.term)
    })
}

impl From<Position> for LogPosition {
    fn from(position: Position) -> LogPosition {
        LogPosition::new(Term::new(position.term), LogIndex::new(position.index))
    }
}

impl From<LogPosition> for Position {
    fn from(position: LogPosition) -> Position {
        Position { index: position.index.get(), term: position.term.get() }
    }
}

/// The algorithm's number of a node. Ids are 0 or more.
pub(super) fn id(node: NodeId) -> noraft::NodeId {
    noraft::NodeId::new(u64::from(node.0.unsigned_abs()))
}

pub(super) fn node(id: noraft::NodeId) -> NodeId {
    NodeId(i32::try_from(id.get()).expect("every number came from a node id"))
}

/// The members as the algorithm knows them.
pub(super) fn config(members: &Members) -> noraft::ClusterConfig {
    let ids = |list: &[Member]| list.iter().map(|member| id(member.node)).collect();
    let mut config = noraft::ClusterConfig::new();
    config.voters = ids(&members.voters);
    config.new_voters = ids(&members.new_voters);
    config.non_voters = ids(&members.observers);
    config
}

/// The entries as the algorithm knows them: without payloads.
pub(super) fn outline<'a>(
    previous: Position,
    entries: impl Iterator<Item = &'a Entry>,
) -> LogEntries {
    let outline = entries.map(|entry| match &entry.content {
        Content::Leader => LogEntry::Term(Term::new(entry.term)),
        Content::Members(members) => LogEntry::ClusterConfig(config(members)),
        Content::Payload(_) => LogEntry::Command,
    });
    LogEntries::from_iter(previous.into(), outline)
}
