//! What a node can say of the quorum: the facts of Kafka's DescribeQuorum, and what it waits for.

use super::Quorum;
use super::forming::Obstacle;
use super::message::id;
use super::types::{ClusterId, Directory, Error, Member, Members};
use crate::types::{NodeId, Time};
use alloc::vec::Vec;

#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub stage: Stage,
    pub cluster: Option<ClusterId>,
    pub leader: Option<NodeId>,
    /// Kafka's leader epoch.
    pub term: u64,
    /// Kafka's high watermark is one offset behind this index: the same number, as offsets begin
    /// at 0.
    pub committed: u64,
    pub last_index: u64,
    pub snapshot_index: u64,
    /// Bytes of the entries behind the snapshot, nearly: when to take the next one.
    pub log_bytes: u64,
    pub members: Members,
    /// On the leader: how far each member is, itself included.
    pub replicas: Vec<Replica>,
    /// Stores that asked to join and are not recorded: new nodes, or those that were wiped.
    pub applicants: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// There is no cluster yet.
    Forming(Obstacle),
    Voter,
    Observer,
    /// This store is not recorded in the newest members that it knows.
    Removed,
    Stopped(Error),
}

/// One member as the leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    pub node: NodeId,
    pub directory: Directory,
    /// Kafka's log end offset: the index of its last entry, durable; 0 is unknown.
    pub log_end: u64,
    /// When it was last heard of, and when it last had everything. `None`: not in this term.
    pub last_fetch: Option<Time>,
    pub last_caught_up: Option<Time>,
}

impl Quorum {
    pub fn status(&self, now: Time) -> Status {
        let asking = self.applicants.iter();
        let asking = asking.map(|(&node, &directory)| Member { node, directory });
        // One that could not hear its leader may have asked, too.
        let applicants = asking.filter(|it| self.members().all().all(|known| known != it));
        Status {
            stage: self.stage(),
            cluster: self.formation.as_ref().map(|formation| formation.cluster),
            leader: self.leader(),
            term: self.term(),
            committed: self.committed().max(self.delivered),
            last_index: self.journal.last_index(),
            snapshot_index: self.journal.start().index,
            log_bytes: self.journal.bytes(),
            members: self.members().clone(),
            replicas: self.replicas(now),
            applicants: applicants.collect(),
        }
    }

    fn stage(&self) -> Stage {
        let members = self.members();
        if let Some(error) = self.stopped {
            return Stage::Stopped(error);
        }
        if self.formation.is_none() {
            return Stage::Forming(self.forming.obstacle());
        }
        match (members.is_voter(&self.me), members.observers.contains(&self.me)) {
            (true, _) => Stage::Voter,
            (false, true) => Stage::Observer,
            (false, false) => Stage::Removed,
        }
    }

    fn replicas(&self, now: Time) -> Vec<Replica> {
        if self.leading.is_none() {
            return Vec::new();
        }
        let mut all: Vec<Member> = self.members().all().copied().collect();
        all.sort();
        all.dedup();
        let replica = |Member { node, directory }: Member| {
            if node == self.me.node {
                let log_end = self.durable_index.min(self.journal.last_index());
                let (last_fetch, last_caught_up) = (Some(now), Some(now));
                return Replica { node, directory, log_end, last_fetch, last_caught_up };
            }
            let follower = self.followers.get(&node);
            Replica {
                node,
                directory,
                log_end: self.raft.follower_match_index(id(node)).map_or(0, |index| index.get()),
                last_fetch: follower.map(|follower| follower.heard),
                last_caught_up: follower.and_then(|follower| follower.caught_up),
            }
        };
        all.into_iter().map(replica).collect()
    }
}
