//! Who leads: pre-votes, votes, and the leader that notices that it is alone.

use super::message::{Body, Mark, id};
use super::replication::Source;
use super::types::Position;
use super::{Output, Quorum};
use crate::types::{NodeId, Time};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// How many rounds of asking for votes pass until a voter by its own log asks whether it is known.
const ASKS_TO_FOLLOW_EVERY: u32 = 8;

impl Quorum {
    /// No leader was heard for an election timeout, or an election came to nothing.
    pub(super) fn on_election_due(&mut self, now: Time) {
        self.leader = None;
        if !self.members().is_voter(&self.me) {
            self.ask_to_follow();
            self.wake_later(now);
            return;
        }
        if self.round % ASKS_TO_FOLLOW_EVERY == ASKS_TO_FOLLOW_EVERY - 1 {
            self.ask_to_follow();
        }
        // Asking costs nothing, so it is repeated sooner than an election would be.
        let heartbeat = self.settings.heartbeat_ms;
        self.wake_at = now.plus_ms(heartbeat + self.rng.below(heartbeat + 1));
        self.round = self.round.wrapping_add(1);
        self.asking = Some(BTreeSet::from([self.me.node]));
        if !self.campaign_if_wanted(now) {
            let (term, last) = (self.term(), self.last_position());
            for to in self.other_voters() {
                let body = Body::PreVote { round: self.round, term, last };
                self.send(to, self.cluster_mark(), body);
            }
        }
    }

    /// Perhaps the others have forgotten this store while it was away, which its own log cannot
    /// say: they are asked as a new one asks.
    fn ask_to_follow(&mut self) {
        let members = self.members().all().map(|member| member.node);
        let known: BTreeSet<NodeId> = members.chain(self.forming.others()).collect();
        for node in known {
            if node != self.me.node {
                self.say_hello(node);
            }
        }
    }

    /// Says whether this node could win the sender's election. That raises nobody's term.
    pub(super) fn on_pre_vote(
        &mut self,
        now: Time,
        from: NodeId,
        round: u32,
        term: u64,
        last: Position,
    ) {
        let granted = !self.follows_a_leader(now)
            && last.rank() >= self.last_position().rank()
            && self.may_be_elected(from, last);
        log::trace!("node {} of term {term} asks for votes: {granted}", from.0);
        let body = Body::PreVoteReply { round, term: self.term(), granted };
        self.send(from, self.me.directory.into(), body);
    }

    pub(super) fn on_pre_vote_reply(
        &mut self,
        now: Time,
        from: NodeId,
        round: u32,
        term: u64,
        granted: bool,
    ) {
        if term > self.term() {
            // With a lower term than others this node could not win.
            self.on_vote_reply(now, from, term, false);
        } else if granted
            && round == self.round
            && let Some(asking) = &mut self.asking
        {
            asking.insert(from);
            self.campaign_if_wanted(now);
        }
    }

    pub(super) fn on_vote(&mut self, now: Time, from: NodeId, term: u64, last: Position) {
        // A candidate that asked before the leader was heard again, or that was removed.
        let disrupts = term > self.term() && self.follows_a_leader(now);
        if disrupts || !self.may_be_elected(from, last) {
            return;
        }
        self.tell_raft(noraft::Message::RequestVoteCall {
            from: id(from),
            term: noraft::Term::new(term),
            last_position: last.into(),
        });
        self.perform(now, Source::None);
    }

    pub(super) fn on_vote_reply(&mut self, now: Time, from: NodeId, term: u64, granted: bool) {
        self.tell_raft(noraft::Message::RequestVoteReply {
            from: id(from),
            term: noraft::Term::new(term),
            vote_granted: granted,
        });
        self.perform(now, Source::None);
    }

    pub(super) fn on_heartbeat_due(&mut self, now: Time) {
        // Nobody waits for the heartbeat of a gateway on its own.
        let alone = self.raft.peers().next().is_none();
        let settings = &self.settings;
        self.wake_at =
            now.plus_ms(if alone { settings.election_max_ms } else { settings.heartbeat_ms });
        if !self.hears_a_majority(now, self.settings.election_max_ms) {
            let term = self.term();
            log::warn!("this node hears of no majority and stops leading term {term}");
            return self.step_down(now);
        }
        self.raft.heartbeat();
        self.perform(now, Source::None);
        self.resend_chunks(now);
        self.finish_demotions(now);
    }

    /// After each call of the algorithm: whether this node leads may have changed.
    pub(super) fn note_role(&mut self, now: Time) {
        let term = self.raft.role().is_leader().then(|| self.term());
        if term == self.leading.map(|(term, _)| term) {
            return;
        }
        if core::mem::take(&mut self.leads) {
            self.ready.push_back(Output::Lost);
        }
        self.leading = term.map(|term| (term, now));
        self.followers.clear();
        self.early.clear();
        self.sending.clear();
        match term {
            Some(term) => {
                log::debug!("this node leads the metadata quorum in term {term}");
                self.leader = Some((term, self.me.node));
                self.asking = None;
                self.wake_at = now.plus_ms(self.settings.heartbeat_ms);
            }
            None => {
                self.leader = None;
                self.wake_later(now);
            }
        }
    }

    /// The next election is not before an election timeout.
    pub(super) fn wake_later(&mut self, now: Time) {
        let (min, max) = (self.settings.election_min_ms, self.settings.election_max_ms);
        self.wake_at = now.plus_ms(min + self.rng.below(max.saturating_sub(min) + 1));
    }

    pub(super) fn last_position(&self) -> Position {
        self.raft.log().last_position().into()
    }

    pub(super) fn cluster_mark(&self) -> Mark {
        let formation = self.formation.as_ref();
        formation.expect("only a member of a cluster asks for votes").cluster.into()
    }

    fn other_voters(&self) -> Vec<NodeId> {
        let members = self.members();
        let voters = members.voters.iter().chain(&members.new_voters).map(|voter| voter.node);
        let others: BTreeSet<NodeId> = voters.filter(|node| *node != self.me.node).collect();
        others.into_iter().collect()
    }

    /// A majority would vote for this node: it becomes a candidate in the next term.
    fn campaign_if_wanted(&mut self, now: Time) -> bool {
        let wanted =
            |asking: &BTreeSet<NodeId>| self.members().majority(|node| asking.contains(&node));
        if !self.asking.as_ref().is_some_and(wanted) {
            return false;
        }
        self.asking = None;
        self.raft.handle_election_timeout();
        self.perform(now, Source::None);
        true
    }

    /// In a cluster with a founder, only the founder or a node that has its entries may win: these
    /// all stand before the first entry of a term.
    fn may_be_elected(&self, candidate: NodeId, last: Position) -> bool {
        let founder = self.formation.as_ref().and_then(|formation| formation.founder);
        last.term > 0 || founder.is_none_or(|founder| founder == candidate)
    }

    /// Whether a leader is at work, as far as this node can tell.
    fn follows_a_leader(&self, now: Time) -> bool {
        let shortest = self.settings.election_min_ms;
        if self.leading.is_some() {
            return self.hears_a_majority(now, shortest);
        }
        self.leader_heard.is_some_and(|heard| now < heard.plus_ms(shortest))
    }

    /// Whether a leader has heard of a majority within that time.
    fn hears_a_majority(&self, now: Time, ms: u64) -> bool {
        let Some((_, since)) = self.leading else {
            return false;
        };
        let heard = |node: NodeId| {
            let last = self.followers.get(&node).map_or(since, |follower| follower.heard);
            node == self.me.node || now < last.max(since).plus_ms(ms)
        };
        self.members().majority(heard)
    }

    pub(super) fn step_down(&mut self, now: Time) {
        let term = self.raft.current_term();
        let (vote, log) = (self.raft.voted_for(), self.raft.log().clone());
        self.raft = noraft::Node::restart(id(self.me.node), term, vote, log);
        self.perform(now, Source::None);
    }
}
