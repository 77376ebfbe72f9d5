//! Changes of the members: one at a time, voters by joint consensus.
//!
//! A new voter comes as an observer and is promoted when it has caught up, so that a change never
//! waits for a log to be copied. The end of a change is [`super::Output::Members`] without new
//! voters. Removes no voter by itself: that a store was wiped is for an operator to judge, or for
//! the controller.

use super::Quorum;
use super::message::{config, id};
use super::replication::Source;
use super::types::{Member, Members, Position, Refused};
use crate::limits::{OBSERVERS_MAX, VOTERS_MAX};
use crate::types::{NodeId, Time};
use alloc::vec::Vec;

impl Quorum {
    /// The store gets the log, and does not vote.
    pub fn add_observer(&mut self, now: Time, observer: Member) -> Result<Position, Refused> {
        let mut members = self.changeable()?;
        if members.directory(observer.node).is_some() {
            return Err(Refused::AlreadyMember);
        }
        if members.observers.len() >= OBSERVERS_MAX || observer.node.0 < 0 {
            return Err(Refused::TooMany);
        }
        insert(&mut members.observers, observer);
        Ok(self.change(now, members))
    }

    /// An observer that has caught up becomes a voter.
    pub fn add_voter(&mut self, now: Time, voter: Member) -> Result<Position, Refused> {
        let mut members = self.changeable()?;
        if members.is_voter(&voter) {
            return Err(Refused::AlreadyMember);
        }
        if !members.observers.contains(&voter) {
            return Err(Refused::UnknownMember);
        }
        if members.voters.len() >= VOTERS_MAX {
            return Err(Refused::TooMany);
        }
        let end = self.raft.follower_match_index(id(voter.node)).map_or(0, |index| index.get());
        if end < self.committed() {
            return Err(Refused::NotCaughtUp);
        }
        members.new_voters = members.voters.clone();
        insert(&mut members.new_voters, voter);
        members.observers.retain(|observer| *observer != voter);
        Ok(self.change(now, members))
    }

    /// A voter becomes an observer.
    pub fn demote_voter(&mut self, now: Time, node: NodeId) -> Result<Position, Refused> {
        self.take_vote(now, node, true)
    }

    /// A voter or an observer is a member no more. The leader may remove itself: it leads until
    /// the change is committed.
    pub fn remove(&mut self, now: Time, node: NodeId) -> Result<Position, Refused> {
        let mut members = self.changeable()?;
        if !members.observers.iter().any(|observer| observer.node == node) {
            return self.take_vote(now, node, false);
        }
        members.observers.retain(|observer| observer.node != node);
        Ok(self.change(now, members))
    }

    /// Those that ceased to be voters become observers, now that the change is done.
    pub(super) fn finish_demotions(&mut self, now: Time) {
        let Ok(mut members) = self.changeable() else {
            return;
        };
        if members.demoted.is_empty() {
            return;
        }
        for member in core::mem::take(&mut members.demoted) {
            if members.observers.len() < OBSERVERS_MAX && members.directory(member.node).is_none() {
                insert(&mut members.observers, member);
            }
        }
        self.change(now, members);
    }

    fn take_vote(&mut self, now: Time, node: NodeId, observes: bool) -> Result<Position, Refused> {
        let mut members = self.changeable()?;
        let Some(voter) = members.voters.iter().copied().find(|voter| voter.node == node) else {
            return Err(Refused::UnknownMember);
        };
        if members.voters.len() == 1 {
            return Err(Refused::LastVoter);
        }
        members.new_voters = members.voters.clone();
        members.new_voters.retain(|voter| voter.node != node);
        if observes {
            insert(&mut members.demoted, voter);
        }
        Ok(self.change(now, members))
    }

    /// The members, if they may be changed now: the last change is committed, and so is an entry
    /// of this leader's term.
    fn changeable(&self) -> Result<Members, Refused> {
        if !self.leads {
            return Err(Refused::NotLeader);
        }
        let members = self.members();
        if members.is_changing() || self.journal.latest_members_index() > self.committed() {
            return Err(Refused::ChangeInProgress);
        }
        Ok(members.clone())
    }

    fn change(&mut self, now: Time, members: Members) -> Position {
        let position = self.raft.propose_config(config(&members));
        assert!(!position.is_invalid(), "a leader may change members that are not changing");
        self.perform(now, Source::Members(members));
        position.into()
    }
}

fn insert(list: &mut Vec<Member>, member: Member) {
    list.push(member);
    list.sort();
}
