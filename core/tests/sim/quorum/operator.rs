//! What people do to a quorum: add, promote, demote and remove nodes, and replace a wiped one.

use super::plan::Bug;
use super::run::{Event, Run};
use crate::checks::Verdict;
use weir_core::quorum::{Directory, Member, Members, Quorum};
use weir_core::types::NodeId;

#[derive(Debug, Default)]
pub struct Operator {
    /// A store that was lost, and what is to become of it.
    wiped: Option<usize>,
}

impl Operator {
    /// Whether a wiped store has been replaced and everybody is at work.
    pub fn is_done(&self, run: &Run) -> bool {
        self.wiped.is_none() || run.plan.bug == Bug::WipedVoterVotes
    }
}

impl Run {
    pub fn operate(&mut self) -> Verdict {
        let delay = self.world.delay_us(50_000, 2_000_000);
        self.world.after(delay, Event::Operate);
        let Some(leader) = self.leader() else {
            return Ok(());
        };
        if self.machines[leader].paused_until > self.world.now {
            return Ok(());
        }
        let node = self.world.rng.below(self.machines.len() as u64) as usize;
        let choice = self.world.rng.below(5);
        let member = |node: usize| Member {
            node: NodeId(node as i32),
            directory: self.machines[node].store.directory,
        };
        let wanted = member(node);
        let wiped = self.operator.wiped.map(member);
        let (chaos, changes) = (self.chaos, self.plan.changes);
        let now = self.world.now;
        let quorum = self.machines[leader].quorum.as_mut().expect("it leads");
        if let Some(wiped) = wiped {
            let members = quorum.members();
            if members.is_voter(&wiped) {
                if !members.is_changing() {
                    self.operator.wiped = None;
                }
            } else if members.observers.contains(&wiped) {
                let _ = quorum.add_voter(now, wiped);
            } else if members.directory(wiped.node).is_some() {
                let _ = quorum.remove(now, wiped.node);
            } else {
                let _ = quorum.add_observer(now, wiped);
            }
        } else if chaos && changes {
            let _ = match choice {
                0 => quorum.add_observer(now, wanted),
                1 | 2 => quorum.add_voter(now, wanted),
                3 => quorum.demote_voter(now, wanted.node),
                _ => quorum.remove(now, wanted.node),
            };
        }
        self.settle(leader)
    }

    /// Takes a voter's store away, if a majority of the voters remains without it and no change is
    /// on its way anywhere.
    pub fn wipe(&mut self, node: usize) -> Verdict {
        let Some(leader) = self.leader() else {
            return Ok(());
        };
        let up = |machine: &super::machine::Machine| machine.quorum.is_some();
        if self.operator.wiped.is_some() || !self.machines.iter().all(up) {
            return Ok(());
        }
        let members = |node: usize| self.machines[node].quorum.as_ref().map(Quorum::members);
        let Some(now) = members(leader).cloned() else {
            return Ok(());
        };
        let id = NodeId(node as i32);
        let same = |other: &Members| other.voters == now.voters && !other.is_changing();
        let voters = now.voters.iter().map(|voter| voter.node.0 as usize);
        let agreed = voters.clone().all(|voter| members(voter).is_some_and(same));
        if node == leader || now.voters.len() < 3 || !now.majority_counts(id) || !agreed {
            return Ok(());
        }
        let directory = Directory(self.world.rng.uuid());
        self.operator.wiped = Some(node);
        self.seen.wipes += 1;
        self.machines[node].wipe(directory, self.plan.bug);
        self.start(node)
    }
}
