//! A simulated member of a consumer group: joins, is assigned partitions, reads them, commits.
//!
//! ```text
//! phase      event                                next phase
//! Find       the coordinator answers              Join
//! Join       the group is complete                Sync
//! Sync       the assignment came                  Positions
//! Positions  the committed offsets came           Fetching
//! any        fenced, unknown member, rebalance    Join
//! any        another error                        Find
//! ```

use crate::checks::{Bounded, GroupOwnsEachPartitionOnce, OffsetsNeverGoBack, Verdict};
use crate::client::{Call, Context, Target, read, unframed};
use crate::fetching::{Floor, UNKNOWN, fetch_request, start_request, take_fetched, take_start};
use bytes::Bytes;
use std::collections::BTreeMap;
use weir_core::error::ErrorCode;
use weir_core::types::{Nanos, Time};
use weir_core::wire::fetch::FetchRequest;
use weir_core::wire::group::{
    FindCoordinatorRequest, HeartbeatRequest, JoinGroupRequest, JoinGroupRequestProtocol,
    JoinGroupResponse, SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse,
};
use weir_core::wire::list_offsets::ListOffsetsRequest;
use weir_core::wire::offsets::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    OffsetCommitResponse, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
    OffsetFetchRequest, OffsetFetchRequestTopic,
};
use weir_core::wire::{self, ApiKey, Message};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Find,
    Join,
    Sync,
    Positions,
    Fetching,
}

pub struct Consumer {
    group: String,
    /// Everything that the group reads.
    targets: Vec<Target>,
    phase: Phase,
    member_id: String,
    generation_id: i32,
    /// What the leader gives to each member.
    plan: Vec<SyncGroupRequestAssignment>,
    positions: BTreeMap<Target, i64>,
    heard: Time,
    /// What was known when the request that is in flight was sent.
    floor: BTreeMap<Target, Floor>,
    committed: BTreeMap<Target, i64>,
}

impl Consumer {
    pub fn new(group: &str, targets: Vec<Target>) -> Consumer {
        Consumer {
            group: group.into(),
            targets,
            phase: Phase::Find,
            member_id: String::new(),
            generation_id: -1,
            plan: Vec::new(),
            positions: BTreeMap::new(),
            heard: Time::ZERO,
            floor: BTreeMap::new(),
            committed: BTreeMap::new(),
        }
    }

    /// Reads everything from the beginning, by itself.
    pub fn alone(targets: Vec<Target>) -> Consumer {
        let positions = targets.iter().map(|target| (target.clone(), 0)).collect();
        Consumer { phase: Phase::Fetching, positions, ..Consumer::new("", targets) }
    }

    fn is_alone(&self) -> bool {
        self.group.is_empty()
    }

    pub fn act(&mut self, context: &mut Context<'_>, in_flight: usize) -> Nanos {
        if in_flight > 0 {
            return context.pause_ms(2, 20);
        }
        match self.phase {
            Phase::Find => {
                let key = self.group.clone();
                let request = FindCoordinatorRequest { key, ..Default::default() };
                context.ask(&request, 3, Call::Find);
            }
            Phase::Join => self.join(context),
            Phase::Sync => self.sync(context),
            Phase::Positions => self.ask_positions(context),
            Phase::Fetching
                if !self.is_alone() && context.now.since(self.heard) > Nanos::from_ms(300) =>
            {
                self.heard = context.now;
                let request = HeartbeatRequest {
                    group_id: self.group.clone(),
                    generation_id: self.generation_id,
                    member_id: self.member_id.clone(),
                    ..Default::default()
                };
                context.ask(&request, 3, Call::Heartbeat);
            }
            Phase::Fetching if self.unknown().is_some() => {
                let target = self.unknown().expect("somebody looked").clone();
                context.ask(&start_request(&target), 5, Call::Start(target));
            }
            Phase::Fetching if !self.is_alone() && context.rng.percent(20) => self.commit(context),
            Phase::Fetching => {
                let offsets = context.of_one_leader(self.positions.clone().into_iter().collect());
                self.floor = Floor::of(context.shared, &offsets, context.leaders);
                let request = fetch_request(context.rng, &offsets, context.leaders);
                context.ask(&request, 11, Call::Fetch(offsets));
            }
        }
        context.pause_ms(2, 60)
    }

    /// A partition of which the log start offset must be asked for.
    fn unknown(&self) -> Option<&Target> {
        self.positions.iter().find(|(_, at)| **at == UNKNOWN).map(|(target, _)| target)
    }

    fn join(&mut self, context: &mut Context<'_>) {
        let protocol = JoinGroupRequestProtocol { name: "sim".into(), metadata: Bytes::new() };
        let request = JoinGroupRequest {
            group_id: self.group.clone(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 8_000,
            member_id: self.member_id.clone(),
            protocol_type: "consumer".into(),
            protocols: vec![protocol],
            ..Default::default()
        };
        context.ask(&request, 5, Call::Join);
    }

    fn sync(&mut self, context: &mut Context<'_>) {
        let request = SyncGroupRequest {
            group_id: self.group.clone(),
            generation_id: self.generation_id,
            member_id: self.member_id.clone(),
            assignments: std::mem::take(&mut self.plan),
            ..Default::default()
        };
        context.ask(&request, 3, Call::Sync);
    }

    fn ask_positions(&mut self, context: &mut Context<'_>) {
        let mine = self.positions.keys();
        let known = &context.shared.commits;
        self.committed = mine
            .filter_map(|target| {
                let offset = known.get(&(self.group.clone(), target.clone()))?;
                Some((target.clone(), *offset))
            })
            .collect();
        let topics = self.positions.keys().map(|(name, index)| OffsetFetchRequestTopic {
            name: name.clone(),
            partition_indexes: vec![*index],
        });
        let request = OffsetFetchRequest {
            group_id: self.group.clone(),
            topics: Some(topics.collect()),
            ..Default::default()
        };
        context.ask(&request, 5, Call::OffsetFetch);
    }

    fn commit(&mut self, context: &mut Context<'_>) {
        let offsets: Vec<_> = self.positions.clone().into_iter().collect();
        let topics = offsets.iter().map(|((name, index), offset)| OffsetCommitRequestTopic {
            name: name.clone(),
            partitions: vec![OffsetCommitRequestPartition {
                partition_index: *index,
                committed_offset: *offset,
                ..Default::default()
            }],
            ..Default::default()
        });
        let request = OffsetCommitRequest {
            group_id: self.group.clone(),
            generation_id_or_member_epoch: self.generation_id,
            member_id: self.member_id.clone(),
            topics: topics.collect(),
            ..Default::default()
        };
        context.ask(&request, 7, Call::OffsetCommit(offsets));
    }

    pub fn answer(&mut self, context: &mut Context<'_>, call: Call, frame: &Bytes) -> Verdict {
        log::trace!("{} {:?} {} {call:?}", self.group, self.phase, self.member_id);
        match call {
            Call::Find => {
                if read::<FindCoordinatorRequest>(frame, 3)?.error_code == ErrorCode::NONE {
                    self.phase = Phase::Join;
                }
            }
            Call::Join => self.joined(context, read::<JoinGroupRequest>(frame, 5)?),
            Call::Sync => {
                let response = read::<SyncGroupRequest>(frame, 3)?;
                match response.error_code {
                    ErrorCode::NONE => return self.assigned(context, &response.assignment),
                    code => self.rejoin(context, code),
                }
            }
            Call::Heartbeat => match read::<HeartbeatRequest>(frame, 3)?.error_code {
                ErrorCode::NONE => {}
                code => self.rejoin(context, code),
            },
            Call::OffsetFetch => return self.positioned(context, frame),
            Call::OffsetCommit(offsets) => return self.committed(context, &offsets, frame),
            Call::Start(target) => {
                let response = read::<ListOffsetsRequest>(frame, 5)?;
                if let Some(start) = take_start(context.shared, &target, &response)? {
                    self.positions.insert(target, start);
                }
            }
            Call::Fetch(offsets) => {
                let response = read::<FetchRequest>(frame, 11)?;
                let moved = take_fetched(context.shared, &self.floor, &offsets, response)?;
                self.positions.extend(moved);
            }
            call => return Bounded::fails(format!("a consumer never asked for {call:?}")),
        }
        Ok(())
    }

    fn joined(&mut self, context: &mut Context<'_>, response: JoinGroupResponse) {
        match response.error_code {
            ErrorCode::NONE => {
                self.member_id = response.member_id;
                self.generation_id = response.generation_id;
                self.phase = Phase::Sync;
                let (count, targets) = (response.members.len(), self.targets.len());
                let members = response.members.into_iter().enumerate();
                self.plan = members
                    .map(|(place, member)| SyncGroupRequestAssignment {
                        member_id: member.member_id,
                        // Places in the list of targets, which all members have.
                        assignment: (place..targets).step_by(count).map(|at| at as u8).collect(),
                    })
                    .collect();
            }
            ErrorCode::MEMBER_ID_REQUIRED => self.member_id = response.member_id,
            code => self.rejoin(context, code),
        }
    }

    fn assigned(&mut self, context: &mut Context<'_>, assignment: &Bytes) -> Verdict {
        let mine = assignment.iter().filter_map(|place| self.targets.get(usize::from(*place)));
        self.positions = mine.map(|target| (target.clone(), -1)).collect();
        self.phase = Phase::Positions;
        let generation = self.generation_id;
        for target in self.positions.keys() {
            let key = (self.group.clone(), generation, target.clone());
            let owner = context.shared.owners.entry(key).or_insert(self.member_id.clone());
            if *owner != self.member_id {
                let (group, me) = (&self.group, &self.member_id);
                return GroupOwnsEachPartitionOnce::fails(format!(
                    "{target:?} is {owner}'s and {me}'s in generation {generation} of {group}"
                ));
            }
        }
        Ok(())
    }

    fn positioned(&mut self, context: &mut Context<'_>, frame: &Bytes) -> Verdict {
        let response = read::<OffsetFetchRequest>(frame, 5)?;
        if response.error_code != ErrorCode::NONE {
            self.rejoin(context, response.error_code);
            return Ok(());
        }
        for topic in response.topics {
            for partition in topic.partitions {
                let target = (topic.name.clone(), partition.partition_index);
                if partition.error_code != ErrorCode::NONE {
                    return Ok(());
                }
                let before = self.committed.get(&target).copied().unwrap_or(-1);
                let now = partition.committed_offset;
                if now < before {
                    let group = &self.group;
                    return OffsetsNeverGoBack::fails(format!(
                        "{group} had {before} committed for {target:?}, now {now}"
                    ));
                }
                if now >= 0 {
                    let key = (self.group.clone(), target.clone());
                    let known = context.shared.commits.entry(key).or_insert(now);
                    *known = now.max(*known);
                }
                self.positions.insert(target, now.max(0));
            }
        }
        self.phase = Phase::Fetching;
        self.heard = context.now;
        Ok(())
    }

    fn committed(
        &mut self,
        context: &mut Context<'_>,
        offsets: &[(Target, i64)],
        frame: &Bytes,
    ) -> Verdict {
        let response = read::<OffsetCommitRequest>(frame, 7)?;
        for topic in response.topics {
            for partition in topic.partitions {
                let target = (topic.name.clone(), partition.partition_index);
                let Some((_, offset)) = offsets.iter().find(|(asked, _)| *asked == target) else {
                    return OffsetsNeverGoBack::fails(format!("{target:?} was not committed"));
                };
                match partition.error_code {
                    ErrorCode::NONE => {
                        let key = (self.group.clone(), target);
                        let known = context.shared.commits.entry(key).or_insert(*offset);
                        *known = (*offset).max(*known);
                    }
                    code => self.rejoin(context, code),
                }
            }
        }
        Ok(())
    }

    fn rejoin(&mut self, context: &mut Context<'_>, code: ErrorCode) {
        context.shared.refused(code);
        log::trace!("{} {} must join: {code:?}", self.group, self.member_id);
        if code == ErrorCode::UNKNOWN_MEMBER_ID {
            self.member_id.clear();
        }
        let again = [
            ErrorCode::UNKNOWN_MEMBER_ID,
            ErrorCode::ILLEGAL_GENERATION,
            ErrorCode::REBALANCE_IN_PROGRESS,
        ];
        self.phase = if again.contains(&code) { Phase::Join } else { Phase::Find };
    }

    /// The member outlives its connection, if the broker still knows it.
    pub fn lost(&mut self) {
        self.phase = if self.is_alone() { Phase::Fetching } else { Phase::Find };
    }
}

/// The answer of a broker that tells a group's leader its assignment and does not store it, if the
/// frame has one.
pub fn pretend_assigned(frame: &Bytes) -> Option<Bytes> {
    let (header, mut reader) = wire::decode_request_header(frame).ok()?;
    if header.api_key != ApiKey::SyncGroup as i16 {
        return None;
    }
    let request = SyncGroupRequest::decode(&mut reader, header.api_version).ok()?;
    let own = request.assignments.iter().find(|one| one.member_id == request.member_id)?;
    let assignment = own.assignment.clone();
    let response = SyncGroupResponse { assignment, ..Default::default() };
    let key = ApiKey::SyncGroup;
    let frame = wire::encode_response(&response, key, header.api_version, header.correlation_id);
    Some(unframed(&frame))
}

/// The answer of a broker that forgets to store a commit, if the frame is one.
pub fn pretend_committed(frame: &Bytes) -> Option<Bytes> {
    let (header, mut reader) = wire::decode_request_header(frame).ok()?;
    if header.api_key != ApiKey::OffsetCommit as i16 {
        return None;
    }
    let request = OffsetCommitRequest::decode(&mut reader, header.api_version).ok()?;
    let topics = request.topics.into_iter().map(|topic| OffsetCommitResponseTopic {
        name: topic.name,
        partitions: topic.partitions.iter().map(|one| answered(one.partition_index)).collect(),
        ..Default::default()
    });
    let response = OffsetCommitResponse { topics: topics.collect(), ..Default::default() };
    let key = ApiKey::OffsetCommit;
    let frame = wire::encode_response(&response, key, header.api_version, header.correlation_id);
    Some(unframed(&frame))
}

fn answered(partition_index: i32) -> OffsetCommitResponsePartition {
    OffsetCommitResponsePartition { partition_index, ..Default::default() }
}
