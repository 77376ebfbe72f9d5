//! The metadata quorum: DescribeQuorum (KIP-595, KIP-836), AddRaftVoter and RemoveRaftVoter
//! (KIP-853).
//!
//! A gateway that runs follows the quorum (`site::members`); a voter it becomes when it is asked
//! for. A request never waits until one has caught up, because requests that another gateway has
//! handed on are answered in their order: it is to be sent again, and Kafka's tools do so.

use super::super::Node;
use super::super::connections::Caller;
use super::super::topics::said;
use crate::error::ErrorCode;
use crate::metadata::Refusal;
use crate::quorum::{Directory, Member, Members, Quorum, Refused, Replica};
use crate::types::{NodeId, Time, TopicId};
use crate::wire::Frame;
use crate::wire::quorum::{
    AddRaftVoterRequest, AddRaftVoterResponse, DescribeQuorumRequest, DescribeQuorumResponse,
    DescribedPartition, DescribedTopic, Listener, Node as QuorumNode, RemoveRaftVoterRequest,
    RemoveRaftVoterResponse, ReplicaState,
};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

const METADATA: &str = "__cluster_metadata";

/// Who waits for a change of the voters: nobody, or one, since there is one change at a time.
#[derive(Debug, Default)]
pub(in crate::node) struct Votes {
    waiting: Option<(Caller, Frame)>,
}

impl Votes {
    pub fn drain(&mut self) -> Option<Caller> {
        self.waiting.take().map(|(caller, _)| caller)
    }
}

impl Node {
    pub(in crate::node) fn on_describe_quorum(
        &mut self,
        now: Time,
        caller: Caller,
        request: &DescribeQuorumRequest,
    ) {
        let mut response = DescribeQuorumResponse::default();
        for topic in &request.topics {
            let described = topic.partitions.iter().map(|partition| {
                let index = partition.partition_index;
                let is_ours = topic.topic_name == METADATA && index == 0;
                let described = if is_ours { self.described_quorum(now) } else { None };
                described.unwrap_or(DescribedPartition {
                    partition_index: index,
                    error_code: ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                    leader_id: -1,
                    high_watermark: -1,
                    ..DescribedPartition::default()
                })
            });
            let partitions = described.collect();
            let topic_name = topic.topic_name.clone();
            response.topics.push(DescribedTopic { topic_name, partitions });
        }
        let listener = |(host, port): &(String, u16)| Listener {
            name: "PEER".into(),
            host: host.clone(),
            port: *port,
        };
        response.nodes = self
            .image
            .brokers()
            .map(|gateway| QuorumNode {
                node_id: gateway.node.0,
                listeners: Vec::from([listener(&gateway.peer)]),
            })
            .collect();
        self.reply(caller, &response);
    }

    fn described_quorum(&self, now: Time) -> Option<DescribedPartition> {
        let status = self.site.quorum()?.status(now);
        let wall_ms = self.clock.wall_ms(now);
        let wall = |at: Option<Time>| {
            at.map_or(-1, |at| wall_ms - i64::try_from(now.since(at).0 / 1_000_000).unwrap_or(0))
        };
        let state = |replica: &Replica| ReplicaState {
            replica_id: replica.node.0,
            replica_directory_id: TopicId(replica.directory.0),
            log_end_offset: replica.log_end as i64,
            last_fetch_timestamp: wall(replica.last_fetch),
            last_caught_up_timestamp: wall(replica.last_caught_up),
        };
        // Stores that wait to be taken in have nothing yet.
        let applicant = |applicant: &Member| ReplicaState {
            replica_id: applicant.node.0,
            replica_directory_id: TopicId(applicant.directory.0),
            log_end_offset: -1,
            ..ReplicaState::default()
        };
        let member = |it: &Replica| Member { node: it.node, directory: it.directory };
        let (voters, observers): (Vec<&Replica>, Vec<&Replica>) =
            status.replicas.iter().partition(|it| status.members.is_voter(&member(it)));
        let observers = observers.into_iter().map(state);
        Some(DescribedPartition {
            leader_id: status.leader.map_or(-1, |node| node.0),
            leader_epoch: i32::try_from(status.term).unwrap_or(i32::MAX),
            high_watermark: status.committed as i64,
            current_voters: voters.into_iter().map(state).collect(),
            observers: observers.chain(status.applicants.iter().map(applicant)).collect(),
            ..DescribedPartition::default()
        })
    }

    pub(in crate::node) fn on_add_voter(
        &mut self,
        now: Time,
        caller: Caller,
        request: &AddRaftVoterRequest,
    ) {
        let directory = Directory(request.voter_directory_id.0);
        let voter = Member { node: NodeId(request.voter_id), directory };
        let ours = self.check_cluster(request.cluster_id.as_deref());
        let asked = ours.and_then(|()| match self.site.quorum_mut() {
            Some(quorum) => add(quorum, now, voter),
            None => Err(refusal(Refused::NotLeader)),
        });
        let answer = |outcome: Result<(), Refusal>| {
            let (error_code, error_message) = said(outcome);
            AddRaftVoterResponse { error_code, error_message, ..Default::default() }
        };
        match asked {
            Ok(()) if request.ack_when_committed => {
                let frame = caller.frame(&answer(Ok(())));
                self.await_votes(caller, frame);
            }
            outcome => self.reply(caller, &answer(outcome)),
        }
        self.poll_quorum(now);
    }

    pub(in crate::node) fn on_remove_voter(
        &mut self,
        now: Time,
        caller: Caller,
        request: &RemoveRaftVoterRequest,
    ) {
        let directory = Directory(request.voter_directory_id.0);
        let voter = Member { node: NodeId(request.voter_id), directory };
        let ours = self.check_cluster(request.cluster_id.as_deref());
        let asked = ours.and_then(|()| match self.site.quorum_mut() {
            Some(quorum) if !quorum.members().is_voter(&voter) => {
                let why = format!("Gateway {} with this directory id is no voter.", voter.node.0);
                Err(Refusal::new(ErrorCode::VOTER_NOT_FOUND, why))
            }
            Some(quorum) => quorum.demote_voter(now, voter.node).map(drop).map_err(refusal),
            None => Err(refusal(Refused::NotLeader)),
        });
        let answer = |outcome: Result<(), Refusal>| {
            let (error_code, error_message) = said(outcome);
            RemoveRaftVoterResponse { error_code, error_message, ..Default::default() }
        };
        match asked {
            Ok(()) => {
                let frame = caller.frame(&answer(Ok(())));
                self.await_votes(caller, frame);
            }
            outcome => self.reply(caller, &answer(outcome)),
        }
        self.poll_quorum(now);
    }

    fn check_cluster(&self, asked: Option<&str>) -> Result<(), Refusal> {
        let ours = self.image.cluster_id().map(|id| id.to_string());
        match asked.is_none_or(|asked| ours.as_deref() == Some(asked)) {
            true => Ok(()),
            false => {
                let why = format!("This cluster is {}.", ours.unwrap_or_default());
                Err(Refusal::new(ErrorCode::INCONSISTENT_CLUSTER_ID, why))
            }
        }
    }

    /// The answer leaves when the change has begun and is over.
    fn await_votes(&mut self, caller: Caller, frame: Frame) {
        if let Some((earlier, _)) = self.site.votes.waiting.replace((caller, frame)) {
            self.close(earlier);
        }
    }

    /// These are the members now.
    pub(in crate::node) fn on_members(&mut self, members: &Members) {
        if members.is_changing() {
            return;
        }
        if let Some((caller, frame)) = self.site.votes.waiting.take() {
            self.send(caller, frame);
        }
    }
}

/// Goes the next step on the way of a store to its vote.
fn add(quorum: &mut Quorum, now: Time, voter: Member) -> Result<(), Refusal> {
    let node = voter.node.0;
    let later = |why| Refusal::new(ErrorCode::REQUEST_TIMED_OUT, why);
    match quorum.members().directory(voter.node) {
        _ if quorum.members().is_voter(&voter) => {
            let why = format!("Gateway {node} is a voter already.");
            Err(Refusal::new(ErrorCode::DUPLICATE_VOTER, why))
        }
        Some(directory) if directory == voter.directory => {
            quorum.add_voter(now, voter).map(drop).map_err(refusal)
        }
        Some(_) => {
            let why = format!("Gateway {node} is recorded with another directory id.");
            Err(later(why))
        }
        None if !quorum.status(now).applicants.contains(&voter) => {
            Err(refusal(Refused::UnknownMember))
        }
        None => {
            quorum.add_observer(now, voter).map_err(refusal)?;
            Err(later(format!("Gateway {node} follows from now on, and has to catch up first.")))
        }
    }
}

fn refusal(refused: Refused) -> Refusal {
    let (code, why) = match refused {
        Refused::NotLeader => (ErrorCode::NOT_CONTROLLER, "This gateway is not the controller."),
        Refused::ChangeInProgress => {
            (ErrorCode::REQUEST_TIMED_OUT, "Another change of the quorum is under way; try again.")
        }
        Refused::Busy => (ErrorCode::REQUEST_TIMED_OUT, "The quorum is busy; try again."),
        Refused::NotCaughtUp => {
            (ErrorCode::REQUEST_TIMED_OUT, "It has not caught up with the quorum yet; try again.")
        }
        Refused::AlreadyMember => (ErrorCode::DUPLICATE_VOTER, "It is recorded already."),
        Refused::UnknownMember => (ErrorCode::VOTER_NOT_FOUND, "The quorum does not know it."),
        Refused::LastVoter => (ErrorCode::INVALID_REQUEST, "It is the last voter."),
        Refused::TooMany => (ErrorCode::INVALID_REQUEST, "The quorum has too many members."),
        Refused::TooLarge => (ErrorCode::INVALID_REQUEST, "The change is too large."),
    };
    Refusal::new(code, why)
}
