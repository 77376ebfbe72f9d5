//! People who look after a site while everything goes wrong: they give and take votes, move
//! replicas, drain gateways and give leaderships back.
//!
//! One thing at a time: what got no answer is asked again, of any gateway, until the answer says
//! that it is done. Moves and drains may be refused; votes may not.

use super::chaos::Chaos;
use super::crowd::{self, AUDIT};
use super::gateway::node_id;
use super::plan::Plan;
use super::run::{Cluster, Event, What};
use crate::checks::{Verdict, Violation};
use crate::client::{read, unframed};
use bytes::Bytes;
use std::collections::BTreeSet;
use weir_core::error::ErrorCode;
use weir_core::quorum::{Member, Members};
use weir_core::types::{ConnId, Nanos, Time, TopicId};
use weir_core::wire::configs::{
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResource, IncrementalAlterableConfig,
};
use weir_core::wire::quorum::{AddRaftVoterRequest, RemoveRaftVoterRequest};
use weir_core::wire::replicas::{
    AlterPartitionReassignmentsRequest, ElectLeadersRequest, ReassignablePartition,
    ReassignableTopic,
};
use weir_core::wire::{Request, encode_request};

/// Whose vote was given or taken, as the answer says, has it or not.
pub struct MembersAsAsked;

impl MembersAsAsked {
    fn fails(what: String) -> Verdict {
        Err(Violation { checker: "MembersAsAsked", what })
    }
}

/// How long an answer is waited for.
const PATIENCE: Nanos = Nanos(8_000_000_000);

pub struct Operator {
    /// Whether a gateway is to vote, as was asked last.
    votes: Vec<bool>,
    /// Whose vote is not known to be as it was asked.
    open: Option<usize>,
    draining: BTreeSet<usize>,
    asked: Option<(ConnId, Asked, Time)>,
    /// No more changes, but those that bring rest.
    rests: bool,
    /// How many votes were given and taken.
    pub changes: u64,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Vote(usize),
    Drain(usize),
    Else,
}

impl Operator {
    pub fn new(plan: &Plan) -> Operator {
        Operator {
            votes: (0..plan.gateways).map(|index| index < plan.voters).collect(),
            open: None,
            draining: BTreeSet::new(),
            asked: None,
            rests: false,
            changes: 0,
        }
    }

    pub fn voters(&self) -> usize {
        self.votes.iter().filter(|votes| **votes).count()
    }

    /// Nothing goes wrong any more, and any one gateway may be missed soon.
    pub fn come_to_rest(&mut self) {
        self.rests = true;
    }

    fn are(&self, members: &Members, index: usize) -> bool {
        members.voters.iter().any(|voter| voter.node == node_id(index))
    }
}

impl Cluster {
    pub fn operate(&mut self) -> Verdict {
        let delay = self.world.delay_us(100_000, 1_500_000);
        self.world.after(delay, Event::Chaos(Chaos::Operate));
        self.hear_answer()?;
        let waits = self.operator.asked.is_some();
        if self.crowd.paused || waits || self.fragile && self.faulty {
            return Ok(());
        }
        let (members, moves) = (self.plan.members, self.plan.moves);
        if self.operator.rests {
            self.restore();
            return Ok(());
        }
        match self.world.rng.below(8) {
            0..3 if members => self.change_votes(),
            3 | 4 if moves => self.reassign(),
            5 if moves => {
                let request = ElectLeadersRequest { timeout_ms: 10_000, ..Default::default() };
                self.ask_any(Asked::Else, &request, 2);
            }
            6 if moves => {
                let index = self.world.rng.below(self.gateways.len() as u64) as usize;
                match self.operator.draining.is_empty() && self.plan.holds_partitions(index) {
                    true => self.drain(index, true),
                    false => self.restore(),
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Nobody is drained, what was asked is done, and there are voters enough to miss one.
    fn restore(&mut self) {
        if let Some(index) = self.operator.draining.first() {
            return self.drain(*index, false);
        }
        let count = self.operator.votes.len();
        let idle = (0..count).find(|index| !self.operator.votes[*index]);
        match (self.operator.open, idle) {
            (Some(index), _) => self.ask_vote(index),
            (None, Some(index)) if self.operator.voters() < 3 && self.operator.rests => {
                self.operator.votes[index] = true;
                self.operator.open = Some(index);
                self.ask_vote(index);
            }
            _ => {}
        }
    }

    fn change_votes(&mut self) {
        if let Some(index) = self.operator.open {
            return self.ask_vote(index);
        }
        let index = self.world.rng.below(self.gateways.len() as u64) as usize;
        let votes = self.operator.votes[index];
        let enough = !votes || self.operator.voters() > 2;
        // A store that is about to be replaced is not touched meanwhile.
        if enough && self.has_its_members().is_ok() {
            self.operator.votes[index] = !votes;
            self.operator.open = Some(index);
            self.operator.changes += 1;
            self.ask_vote(index);
        }
    }

    fn ask_vote(&mut self, index: usize) {
        let Some(directory) = self.gateways[index].directory() else { return };
        let (voter_id, voter_directory_id) = (node_id(index).0, TopicId(directory.0));
        if self.operator.votes[index] {
            let request = AddRaftVoterRequest {
                timeout_ms: 10_000,
                voter_id,
                voter_directory_id,
                ..Default::default()
            };
            self.ask_any(Asked::Vote(index), &request, 0);
        } else {
            let request = RemoveRaftVoterRequest { cluster_id: None, voter_id, voter_directory_id };
            self.ask_any(Asked::Vote(index), &request, 0);
        }
    }

    fn drain(&mut self, index: usize, draining: bool) {
        if draining {
            self.operator.draining.insert(index);
        }
        let config = IncrementalAlterableConfig {
            name: "weir.draining".into(),
            config_operation: 0,
            value: Some(draining.to_string()),
        };
        let resource = IncrementalAlterConfigsResource {
            // A broker.
            resource_type: 4,
            resource_name: node_id(index).0.to_string(),
            configs: vec![config],
        };
        let request =
            IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
        let asked = if draining { Asked::Else } else { Asked::Drain(index) };
        self.ask_any(asked, &request, 1);
    }

    /// A partition shall be elsewhere, or stay where it was.
    fn reassign(&mut self) {
        let targets = crowd::targets();
        let rng = &mut self.world.rng;
        let (name, partition_index) = targets[rng.below(targets.len() as u64) as usize].clone();
        let mut places: Vec<usize> =
            (0..self.gateways.len()).filter(|index| self.plan.holds_partitions(*index)).collect();
        for at in (1..places.len()).rev() {
            places.swap(at, rng.below(at as u64 + 1) as usize);
        }
        places.truncate(self.plan.replication_factor() as usize);
        let replicas = places.into_iter().map(|index| node_id(index).0).collect();
        let replicas = (!rng.percent(25)).then_some(replicas);
        let partitions = vec![ReassignablePartition { partition_index, replicas }];
        let request = AlterPartitionReassignmentsRequest {
            timeout_ms: 10_000,
            topics: vec![ReassignableTopic { name, partitions }],
            ..Default::default()
        };
        self.ask_any(Asked::Else, &request, 0);
    }

    fn ask_any<R: Request>(&mut self, asked: Asked, request: &R, version: i16) {
        let index = self.world.rng.below(self.gateways.len() as u64) as usize;
        if !self.gateways[index].serves || !self.plan.holds_partitions(index) {
            return;
        }
        let conn = self.crowd.connect(AUDIT, index, self.gateways[index].boot);
        self.operator.asked = Some((conn, asked, self.world.now));
        self.send(conn, unframed(&encode_request(request, version, 1, None)));
    }

    fn hear_answer(&mut self) -> Verdict {
        let Some((conn, asked, since)) = self.operator.asked else { return Ok(()) };
        let answer = self.crowd.heard.remove(&conn);
        let gone = !self.crowd.links.contains_key(&conn);
        if answer.is_none() && !gone && self.world.now.since(since) < PATIENCE {
            return Ok(());
        }
        self.operator.asked = None;
        if let Some(link) = self.crowd.links.remove(&conn) {
            let (gateway, what) = (link.gateway, What::Gone { conn });
            self.world.after(Nanos::from_ms(2), Event::To { gateway, what });
        }
        match (asked, answer.and_then(|frames| frames.into_iter().next())) {
            (Asked::Vote(index), Some(frame)) => self.hear_of_vote(index, &frame),
            (Asked::Drain(index), Some(frame)) => {
                let response = read::<IncrementalAlterConfigsRequest>(&frame, 1)?;
                let code = response.responses.first().map(|one| one.error_code);
                if code == Some(ErrorCode::NONE) {
                    self.operator.draining.remove(&index);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn hear_of_vote(&mut self, index: usize, frame: &Bytes) -> Verdict {
        let votes = self.operator.votes[index];
        let code = match votes {
            true => read::<AddRaftVoterRequest>(frame, 0)?.error_code,
            false => read::<RemoveRaftVoterRequest>(frame, 0)?.error_code,
        };
        let is_done = match code {
            ErrorCode::NONE => true,
            ErrorCode::DUPLICATE_VOTER => votes,
            // Of a store that asks to join and was not heard yet; or an answer that was lost.
            ErrorCode::VOTER_NOT_FOUND => !votes,
            ErrorCode::NOT_CONTROLLER | ErrorCode::REQUEST_TIMED_OUT => false,
            code => {
                let what = format!("the vote of gateway {}: {code:?}", index + 1);
                return MembersAsAsked::fails(what);
            }
        };
        if is_done {
            self.operator.open = None;
        }
        self.check_members()
    }

    /// The members as the leader of the newest term has them.
    fn members(&self) -> Option<Members> {
        let now = self.world.now;
        let nodes = self.gateways.iter().filter_map(|gateway| gateway.node.as_ref());
        let leads = nodes.filter(|node| node.site_status(now).leads);
        let newest = leads.max_by_key(|node| node.site_status(now).term)?;
        Some(newest.quorum_status(now)?.members)
    }

    /// No leader knows other voters than those that were asked for, as far as answers have told.
    pub fn check_members(&self) -> Verdict {
        let Some(members) = self.members() else { return Ok(()) };
        if members.is_changing() || self.operator.open.is_some() || self.is_replacing(&members) {
            return Ok(());
        }
        let wrong =
            |index: &usize| self.operator.are(&members, *index) != self.operator.votes[*index];
        match (0..self.gateways.len()).find(wrong) {
            None => Ok(()),
            Some(index) => {
                let votes = self.operator.votes[index];
                let what = format!("gateway {} votes, should be {votes}: {members:?}", index + 1);
                MembersAsAsked::fails(what)
            }
        }
    }

    /// Whether a wiped store is about to get the vote of the old one.
    fn is_replacing(&self, members: &Members) -> bool {
        let known = |index: usize| {
            let directory = self.gateways[index].directory();
            directory.is_some_and(|directory| {
                members.all().any(|it| *it == Member { node: node_id(index), directory })
            })
        };
        let is_new = |index: usize| {
            let votes = self.operator.votes[index];
            !known(index) || votes != self.operator.are(members, index)
        };
        self.lost_stores.iter().any(|index| is_new(*index))
    }

    /// Everybody who is to vote does, with the store that it has.
    pub fn has_its_members(&self) -> Result<(), String> {
        let members = self.members().ok_or("nobody decides")?;
        if members.is_changing() || !members.demoted.is_empty() || self.operator.open.is_some() {
            return Err(format!("the members are changing: {members:?}"));
        }
        if !self.operator.draining.is_empty() && self.operator.rests {
            return Err("somebody is drained".into());
        }
        for (index, votes) in self.operator.votes.iter().enumerate() {
            let directory = self.gateways[index].directory();
            let it = directory.map(|directory| Member { node: node_id(index), directory });
            let is_voter = it.is_some_and(|it| members.is_voter(&it));
            let observes = it.is_some_and(|it| members.observers.contains(&it));
            if is_voter != *votes || observes == *votes {
                let what = format!("gateway {} votes: {is_voter}, not {votes}", index + 1);
                return Err(format!("{what}: {members:?}"));
            }
        }
        match self.operator.rests && self.operator.voters() < 3 {
            true => Err("a third voter is missing".into()),
            false => Ok(()),
        }
    }
}
