//! What the quorum persists and says: positions, entries, members, ballots, snapshots.
//!
//! Everything here that is persisted is a serde type; its postcard bytes are what stands on flash
//! and goes to peers. Fields and variants are only ever added at the end.

use crate::limits::{OBSERVERS_MAX, VOTERS_MAX};
use crate::types::NodeId;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;
use serde::{Deserialize, Serialize};

/// The id of one store: KIP-858's directory id. A wiped store has another one.
#[derive(Serialize, Deserialize, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Directory(pub [u8; 16]);

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Tells clusters apart: made from the directory ids of the founding voters.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Directory(self.0).fmt(f)
    }
}

/// One store of one node. Votes and acknowledgements count for the store, not for the node.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    pub node: NodeId,
    pub directory: Directory,
}

/// The place of an entry: its index, from 1, and the term of the leader that made it.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub index: u64,
    pub term: u64,
}

impl Position {
    /// How up to date a log is that ends here (Raft, section 5.4.1).
    pub fn rank(self) -> (u64, u64) {
        (self.term, self.index)
    }
}

/// Who belongs to the quorum.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    pub voters: Vec<Member>,
    /// Not empty while the voters change: then majorities of both lists are needed (joint
    /// consensus).
    pub new_voters: Vec<Member>,
    pub observers: Vec<Member>,
    /// Leave the voters with this change and become observers when it is done.
    pub demoted: Vec<Member>,
}

impl Members {
    pub fn all(&self) -> impl Iterator<Item = &Member> {
        self.voters.iter().chain(&self.new_voters).chain(&self.observers)
    }

    pub fn is_voter(&self, member: &Member) -> bool {
        self.voters.contains(member) || self.new_voters.contains(member)
    }

    /// Whether a node's vote counts, whichever store it has.
    pub fn majority_counts(&self, node: NodeId) -> bool {
        self.voters.iter().chain(&self.new_voters).any(|voter| voter.node == node)
    }

    /// The store under which a node is recorded. A node never has two at a time.
    pub fn directory(&self, node: NodeId) -> Option<Directory> {
        let found = self.all().chain(&self.demoted).find(|member| member.node == node);
        found.map(|member| member.directory)
    }

    pub fn is_changing(&self) -> bool {
        !self.new_voters.is_empty()
    }

    /// Whether `yes` holds for a majority, of both lists while they change.
    pub fn majority(&self, yes: impl Fn(NodeId) -> bool) -> bool {
        let enough = |list: &[Member]| {
            list.iter().filter(|member| yes(member.node)).count() > list.len() / 2
        };
        enough(&self.voters) && (self.new_voters.is_empty() || enough(&self.new_voters))
    }

    /// What a peer or a store may say at all.
    pub fn is_sound(&self) -> bool {
        let lists = [&self.voters, &self.new_voters, &self.observers, &self.demoted];
        let unique = |list: &Vec<Member>| {
            list.windows(2).all(|two| two[0].node < two[1].node)
                && list.iter().all(|member| member.node.0 >= 0)
        };
        let observes =
            |member: &Member| self.observers.iter().any(|observer| observer.node == member.node);
        !self.voters.is_empty()
            && lists.iter().all(|list| unique(list))
            && self.voters.len().max(self.new_voters.len()) <= VOTERS_MAX
            && self.observers.len().max(self.demoted.len()) <= OBSERVERS_MAX
            && !self.voters.iter().chain(&self.new_voters).any(observes)
    }
}

/// What an entry of the log holds.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A leader begins its term with it.
    Leader,
    Members(Members),
    /// What was proposed.
    Payload(Bytes),
}

/// One entry of the log. Entries of term 0 are those of a gateway that had no quorum yet.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub term: u64,
    pub content: Content,
}

impl Entry {
    /// Bytes that the entry takes in a message, nearly.
    pub fn size(&self) -> usize {
        match &self.content {
            Content::Leader => 8,
            Content::Members(members) => 16 + 24 * members.all().chain(&members.demoted).count(),
            Content::Payload(payload) => 16 + payload.len(),
        }
    }
}

/// What the voters of a new cluster agreed upon before its first election.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Formation {
    pub cluster: ClusterId,
    pub voters: Vec<Member>,
    /// The one voter that brought entries of its own: while a log has none of a later term, only
    /// this one may be elected, so that its entries are in every log.
    pub founder: Option<NodeId>,
}

impl Formation {
    pub fn members(&self) -> Members {
        Members { voters: self.voters.clone(), ..Members::default() }
    }
}

/// What a node must never forget: its term, whom it voted for in it, and which cluster it is of.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Ballot {
    pub term: u64,
    pub vote: Option<NodeId>,
    pub formation: Formation,
}

/// The state after the entry at `position`, in place of all entries up to it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub position: Position,
    pub members: Members,
    pub payload: Bytes,
}

/// What a start finds in the store.
///
/// | ballot | entries | the node is |
/// |---|---|---|
/// | none | none | new: it waits for all voters, or joins a cluster that has added it |
/// | none | of term 0 | a gateway that had no quorum: the founder, if all other voters are new |
/// | none | of later terms | refused: a store that lost its ballot must not vote |
/// | some | any | a member, or was one |
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub directory: Directory,
    /// The newest.
    pub ballot: Option<Ballot>,
    /// The newest.
    pub snapshot: Option<Snapshot>,
    /// Where the log begins, also if it is empty; from 1. Entries up to the snapshot may be
    /// missing, or still be there.
    pub first_index: u64,
    pub entries: Vec<Entry>,
}

/// One thing that was asked to be persisted. Ascending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// What has to be made durable. In the order of the tokens: what comes later must not be durable
/// without what came before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Persist {
    /// Takes the place of the earlier one.
    Ballot(Ballot),
    /// The log loses everything from `from_index` on, then these are appended.
    Entries { from_index: u64, entries: Vec<Entry> },
    /// Takes the place of the earlier one and, once durable, of the entries up to its position:
    /// these may be dropped. With `restart` all entries must be dropped after the snapshot is
    /// durable, and the log goes on behind its position.
    Snapshot { snapshot: Snapshot, restart: bool },
}

/// Why this node's part of the quorum has ended. Only a new store, added as a new voter, helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The store has entries of a quorum, and no ballot.
    BallotMissing,
    /// Between the snapshot and the entries some are missing, or terms go back.
    EntriesMissing,
    /// A leader's log differs from this one where this one is committed.
    CommittedDiffers,
    /// A leader's log differs from this node's snapshot.
    SnapshotDiffers,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::BallotMissing => "the metadata log has entries of a quorum but its vote is lost",
            Error::EntriesMissing => "entries of the metadata log are missing in the store",
            Error::CommittedDiffers => "the leader's metadata log differs from what is committed",
            Error::SnapshotDiffers => "the leader's metadata log differs from the snapshot",
        })?;
        f.write_str("; remove this voter, clear its data folder, and add it again")
    }
}

/// Why a proposal or a change of the members was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    NotLeader,
    /// The payload is longer than a message may be.
    TooLarge,
    /// Too much is not committed yet; later.
    Busy,
    /// One change at a time.
    ChangeInProgress,
    /// The node is recorded already, as that or under another directory id.
    AlreadyMember,
    UnknownMember,
    /// An observer is promoted when it has what is committed.
    NotCaughtUp,
    /// Without it nobody would vote.
    LastVoter,
    TooMany,
}
