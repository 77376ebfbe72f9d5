//! Before there is a cluster: how a new store finds the others, and when they begin.
//!
//! Unanimity, in two steps that survive restarts and wipes at any moment. A node that has heard all
//! configured voters, each with a new store, *proposes* the cluster that follows from their
//! directory ids. A node that has heard all others propose the same cluster persists it: it has
//! *formed*. So two different clusters cannot both begin: each would need the proposals of all. A
//! node that was not quick enough learns from one that has formed; it may take that over because
//! its own store is named in it.
//!
//! | state | event | next state |
//! |---|---|---|
//! | alone in its list | start | formed |
//! | hears | all others were heard, with the same list, at most one with entries | proposes |
//! | proposes | all others propose the same | formed |
//! | hears, proposes | a formed node names this store as voter or member | formed |
//! | hears, proposes | a formed node does not | waits until it is added through the log |

use super::message::Hello;
use super::types::{ClusterId, Directory, Formation, Member};
use crate::rng::Rng;
use crate::types::NodeId;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

#[derive(Clone, Debug)]
pub(super) struct Forming {
    me: Member,
    /// As configured, ascending.
    voters: Vec<NodeId>,
    /// This store holds entries of a time without quorum.
    old: bool,
    heard: BTreeMap<NodeId, Hello>,
    /// The cluster of a peer that does not know this store.
    elsewhere: Option<ClusterId>,
    /// What was logged last.
    logged: Option<Obstacle>,
}

/// Why there is no cluster yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// These voters were not heard yet.
    Missing(Vec<NodeId>),
    /// These are configured with other voters.
    ListsDiffer(Vec<NodeId>),
    /// Both have entries of a time without quorum.
    TwoFounders(NodeId, NodeId),
    /// Two nodes have one directory id.
    SameStore,
    /// A cluster was found, and does not know this store.
    NotMember(ClusterId),
    /// This node is not among the voters: it waits to be added.
    NotVoter,
    /// Nothing but the word of the others.
    Agreeing,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, nodes: &[NodeId]| {
            nodes.iter().try_for_each(|node| write!(f, " {}", node.0))
        };
        match self {
            Obstacle::Missing(nodes) => {
                f.write_str("a new cluster begins when all its voters are heard; missing:")?;
                list(f, nodes)
            }
            Obstacle::ListsDiffer(nodes) => {
                f.write_str("other voters than here are configured on:")?;
                list(f, nodes)
            }
            Obstacle::TwoFounders(one, other) => write!(
                f,
                "nodes {} and {} both have metadata of their own: clear the data folder of one",
                one.0, other.0
            ),
            Obstacle::SameStore => f.write_str(
                "two nodes have the same store, copied from one to the other: clear one",
            ),
            Obstacle::NotMember(cluster) => write!(
                f,
                "cluster {cluster:?} does not know the store of this node: add it, if it is new or \
                 was cleared"
            ),
            Obstacle::NotVoter => f.write_str("this node is not among the voters: add it"),
            Obstacle::Agreeing => f.write_str("the voters are agreeing on the new cluster"),
        }
    }
}

impl Forming {
    pub fn new(me: Member, voters: &[NodeId], old: bool) -> Forming {
        let mut voters = voters.to_vec();
        voters.sort();
        voters.dedup();
        Forming { me, voters, old, heard: BTreeMap::new(), elsewhere: None, logged: None }
    }

    /// Whom to ask.
    pub fn others(&self) -> impl Iterator<Item = NodeId> {
        self.voters.iter().copied().filter(|node| *node != self.me.node)
    }

    pub fn hello(&self) -> Hello {
        Hello {
            directory: self.me.directory,
            voters: self.voters.clone(),
            old: self.old,
            proposes: self.proposal().ok().map(|formation| formation.cluster),
        }
    }

    /// Says whether that was news.
    pub fn hear(&mut self, from: NodeId, hello: Hello) -> bool {
        if !self.others().any(|node| node == from) {
            if hello.voters.contains(&self.me.node) {
                self.log(Obstacle::ListsDiffer([from].to_vec()));
            }
            return false;
        }
        let news = self.heard.get(&from) != Some(&hello);
        self.heard.insert(from, hello);
        self.log(self.obstacle());
        news
    }

    /// A peer has formed. Entries of this node's own time are not given up for it.
    pub fn may_join(&self, formation: &Formation, member: bool) -> bool {
        (member || formation.voters.contains(&self.me))
            && (!self.old || formation.founder == Some(self.me.node))
    }

    /// A peer has formed, and does not know this store.
    pub fn refused(&mut self, from: NodeId, cluster: ClusterId) {
        self.heard.remove(&from);
        self.elsewhere = Some(cluster);
        self.log(self.obstacle());
    }

    /// Why there is no cluster yet.
    pub fn obstacle(&self) -> Obstacle {
        match (self.elsewhere, self.proposal()) {
            (Some(cluster), _) => Obstacle::NotMember(cluster),
            (None, Err(obstacle)) => obstacle,
            (None, Ok(_)) => Obstacle::Agreeing,
        }
    }

    /// Once, until it is another.
    fn log(&mut self, obstacle: Obstacle) {
        if self.logged.as_ref() != Some(&obstacle) {
            log::warn!("{obstacle}");
            self.logged = Some(obstacle);
        }
    }

    /// What all voters would form, if all have been heard and could.
    pub fn proposal(&self) -> Result<Formation, Obstacle> {
        if !self.voters.contains(&self.me.node) {
            return Err(Obstacle::NotVoter);
        }
        let others = |yes: &dyn Fn(Option<&Hello>) -> bool| -> Vec<NodeId> {
            self.others().filter(|node| yes(self.heard.get(node))).collect()
        };
        let differ = others(&|hello| hello.is_some_and(|hello| hello.voters != self.voters));
        if !differ.is_empty() {
            return Err(Obstacle::ListsDiffer(differ));
        }
        let missing = others(&|hello| hello.is_none());
        if !missing.is_empty() {
            return Err(Obstacle::Missing(missing));
        }
        let heard = |node: NodeId| match self.heard.get(&node) {
            Some(hello) => (Member { node, directory: hello.directory }, hello.old),
            None => (self.me, self.old),
        };
        let all: Vec<(Member, bool)> = self.voters.iter().map(|node| heard(*node)).collect();
        let mut old = all.iter().filter(|(_, old)| *old).map(|(member, _)| member.node);
        let (founder, second) = (old.next(), old.next());
        if let (Some(one), Some(other)) = (founder, second) {
            return Err(Obstacle::TwoFounders(one, other));
        }
        let voters: Vec<Member> = all.into_iter().map(|(member, _)| member).collect();
        let cluster = cluster_id(&voters).ok_or(Obstacle::SameStore)?;
        Ok(Formation { cluster, voters, founder })
    }

    /// What all others propose as this node does.
    pub fn agreed(&self) -> Option<Formation> {
        let proposal = self.proposal().ok()?;
        let agree = self.heard.values().all(|hello| hello.proposes == Some(proposal.cluster));
        agree.then_some(proposal)
    }
}

/// From the sorted directory ids. `None` if one stands there twice.
fn cluster_id(voters: &[Member]) -> Option<ClusterId> {
    let mut directories: Vec<Directory> = voters.iter().map(|voter| voter.directory).collect();
    directories.sort();
    if directories.windows(2).any(|two| two[0] == two[1]) {
        return None;
    }
    let halves = directories.iter().flat_map(|directory| directory.0.chunks(8));
    let seed = halves.fold(0, |state, half| {
        let half = half.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        Rng::new(state ^ half).next_u64()
    });
    Some(ClusterId(Rng::new(seed).uuid()))
}

impl Formation {
    /// A cluster of one store by itself.
    pub fn alone(node: NodeId, directory: Directory) -> Formation {
        let voters = Vec::from([Member { node, directory }]);
        let cluster = cluster_id(&voters).expect("one store is not there twice");
        Formation { cluster, voters, founder: None }
    }
}
