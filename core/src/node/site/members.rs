//! The members of the quorum, as far as the controller looks after them by itself.
//!
//! | found | then |
//! |---|---|
//! | a store that is connected, and not recorded | it follows, as an observer |
//! | another store of an observer's gateway | the old store is forgotten, the new one follows |
//! | another store of a voter's gateway | the same; the new store votes when it has caught up |
//! | an observer that is not registered, nor connected | it is forgotten |
//!
//! Each step is a change of the members, one at a time; what a voter's new store is to become is a
//! record in the metadata, so that the next controller goes on with it. A voter is only replaced
//! when the gateway with its id was seen with the new store, and the old one was silent, for a
//! while: a second gateway that was given the id of one that lives does not take its vote.

use super::super::Node;
use super::super::changes::Change;
use crate::metadata::Record;
use crate::quorum::{Directory, Member, Quorum, Refused, Status};
use crate::types::{NodeId, Time};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

const LOOK_EVERY_MS: u64 = 500;
/// Several sessions, so that a mistaken gateway is rather refused than taken.
const SILENT_MS: u64 = 10_000;

#[derive(Debug, Default)]
pub(super) struct Tended {
    next: Time,
    /// Since when stores are seen in place of those that are recorded.
    replaced: BTreeMap<NodeId, (Directory, Time)>,
}

impl Node {
    pub(super) fn tend_members(&mut self, now: Time) {
        if !self.site.leads() || now < self.site.tended.next {
            return;
        }
        self.site.tended.next = now.plus_ms(LOOK_EVERY_MS);
        let Some(quorum) = &self.site.quorum else { return };
        let status = quorum.status(now);
        let seen = self.seen_replaced(now, &status);
        if status.members.is_changing() {
            return;
        }
        if let Some(record) = self.new_intent(now, &status, &seen) {
            return self.change(now, Change::Record(record));
        }
        let step = self.next_step(now, &status);
        if let (Some(step), Some(quorum)) = (step, &mut self.site.quorum) {
            match step.take(quorum, now) {
                Ok(()) => log::info!("the quorum changes: {step:?}"),
                Err(Refused::NotCaughtUp | Refused::ChangeInProgress) => {}
                Err(why) => log::warn!("the quorum does not change: {step:?}: {why:?}"),
            }
            self.poll_quorum(now);
        }
    }

    /// Stores that are connected under the id of a recorded one.
    fn seen_replaced(&mut self, now: Time, status: &Status) -> Vec<Member> {
        let applicants = status.applicants.iter().copied();
        let connected = applicants.filter(|it| {
            let hello = self.site.peers.get(&it.node);
            hello.is_some_and(|hello| hello.directory == it.directory.0)
        });
        let seen: Vec<Member> = connected.collect();
        let tended = &mut self.site.tended.replaced;
        tended.retain(|node, (directory, _)| {
            seen.contains(&Member { node: *node, directory: *directory })
        });
        for member in &seen {
            tended.entry(member.node).or_insert((member.directory, now));
        }
        seen
    }

    /// What has to be written down first: that a store is to vote in place of a lost one, or that
    /// it does.
    fn new_intent(&self, now: Time, status: &Status, seen: &[Member]) -> Option<Record> {
        let members = &status.members;
        let is_done = |(node, directory): &(NodeId, [u8; 16])| {
            members.is_voter(&Member { node: *node, directory: Directory(*directory) })
        };
        if let Some((node, _)) = self.image.voters().find(is_done) {
            return Some(Record::VoterRemoved { node });
        }
        let intended = |it: &&Member| {
            self.image
                .voters()
                .any(|(node, directory)| *it == &Member { node, directory: Directory(directory) })
        };
        let mut lost = seen.iter().filter(|it| members.majority_counts(it.node) && !intended(it));
        let silent = |it: &&Member| {
            let since = self.site.tended.replaced.get(&it.node).map_or(now, |(_, since)| *since);
            let heard = status.replicas.iter().find(|old| old.node == it.node);
            let heard = heard.and_then(|old| old.last_fetch).unwrap_or(since);
            since.max(heard).plus_ms(SILENT_MS) <= now
        };
        let lost = lost.find(silent)?;
        log::warn!(
            "gateway {} has another store than the one that votes: the new one takes its place",
            lost.node.0
        );
        Some(Record::Voter { node: lost.node, directory: lost.directory.0 })
    }

    fn next_step(&self, now: Time, status: &Status) -> Option<MemberStep> {
        let members = &status.members;
        let intended =
            |it: &Member| self.image.voters().any(|voter| voter == (it.node, it.directory.0));
        for store in self.site.tended.replaced.iter() {
            let store = Member { node: *store.0, directory: store.1.0 };
            match members.directory(store.node) {
                None => return Some(MemberStep::Observe(store)),
                Some(directory) if directory == store.directory => {}
                Some(_) if !members.majority_counts(store.node) => {
                    return Some(MemberStep::Forget(store.node));
                }
                Some(_) if intended(&store) => return Some(MemberStep::Demote(store.node)),
                Some(_) => {}
            }
        }
        if let Some(ready) = members.observers.iter().copied().find(intended) {
            return Some(MemberStep::Promote(ready));
        }
        let is_gone = |it: &&Member| {
            let heard = status.replicas.iter().find(|replica| replica.node == it.node);
            let heard = heard.and_then(|replica| replica.last_fetch);
            self.image.broker(it.node).is_none()
                && !self.site.is_connected(it.node)
                && heard.is_none_or(|heard| heard.plus_ms(SILENT_MS) <= now)
        };
        members.observers.iter().find(is_gone).map(|gone| MemberStep::Forget(gone.node))
    }
}

/// One change of the members.
#[derive(Clone, Copy, Debug)]
enum MemberStep {
    Observe(Member),
    Promote(Member),
    Demote(NodeId),
    Forget(NodeId),
}

impl MemberStep {
    fn take(self, quorum: &mut Quorum, now: Time) -> Result<(), Refused> {
        let position = match self {
            MemberStep::Observe(store) => quorum.add_observer(now, store),
            MemberStep::Promote(store) => quorum.add_voter(now, store),
            MemberStep::Demote(node) => quorum.demote_voter(now, node),
            MemberStep::Forget(node) => quorum.remove(now, node),
        };
        position.map(drop)
    }
}
