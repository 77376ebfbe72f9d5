//! Consumer groups, one request at a time: joining, staying, leaving, and committed offsets.

use std::time::Duration;

use bytes::Bytes;
use weir_core::error::ErrorCode;
use weir_core::wire::group::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse,
    LeaveGroupRequest, MemberIdentity, SyncGroupRequest, SyncGroupRequestAssignment,
};
use weir_core::wire::offsets::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    OffsetFetchRequest, OffsetFetchRequestTopic,
};

use super::error::{Error, Result};
use super::{Broker, Client};

/// What a group has committed for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    pub topic: String,
    pub partition: i32,
    /// The next offset to be read.
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
}

/// Who a member is in its group. The default is nobody: what tools commit with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub group: String,
    pub member_id: String,
    pub instance_id: Option<String>,
    pub generation_id: i32,
}

impl Membership {
    pub fn outside(group: &str) -> Membership {
        Membership {
            group: group.to_string(),
            member_id: String::new(),
            instance_id: None,
            generation_id: -1,
        }
    }
}

/// How long a group waits for its members.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupTimeouts {
    pub session: Duration,
    pub rebalance: Duration,
}

const PROTOCOL_TYPE: &str = "consumer";

impl Client {
    /// What a group has committed, for some partitions or for all. `require_stable` waits for
    /// offsets of transactions that are still open (KIP-447).
    pub async fn committed(
        &self,
        group: &str,
        partitions: Option<&[(String, i32)]>,
        require_stable: bool,
    ) -> Result<Vec<CommittedOffset>> {
        let request = OffsetFetchRequest {
            group_id: group.to_string(),
            topics: partitions.map(|partitions| {
                by_topic(partitions.iter().map(|(topic, index)| (topic.as_str(), *index)))
                    .into_iter()
                    .map(|(name, partition_indexes)| OffsetFetchRequestTopic {
                        name,
                        partition_indexes,
                    })
                    .collect()
            }),
            require_stable,
            ..Default::default()
        };
        let to = Broker::Group(group);
        self.retry(to, async || {
            let response = self.request(to, &request).await?;
            let context = || format!("asking for the offsets of {}", to.describe());
            Error::check(response.error_code, context)?;
            let mut committed = Vec::new();
            for topic in response.topics {
                for partition in topic.partitions {
                    Error::check(partition.error_code, context)?;
                    if partition.committed_offset >= 0 {
                        committed.push(CommittedOffset {
                            topic: topic.name.clone(),
                            partition: partition.partition_index,
                            offset: partition.committed_offset,
                            leader_epoch: partition.committed_leader_epoch,
                            metadata: partition.metadata.unwrap_or_default(),
                        });
                    }
                }
            }
            Ok(committed)
        })
        .await
    }

    /// Commits offsets of a group that has no members at this moment.
    pub async fn commit(&self, group: &str, offsets: &[CommittedOffset]) -> Result<()> {
        self.commit_as(&Membership::outside(group), offsets).await
    }

    pub(super) async fn commit_as(
        &self,
        member: &Membership,
        offsets: &[CommittedOffset],
    ) -> Result<()> {
        let mut topics: Vec<OffsetCommitRequestTopic> = Vec::new();
        for committed in offsets {
            let partition = OffsetCommitRequestPartition {
                partition_index: committed.partition,
                committed_offset: committed.offset,
                committed_leader_epoch: committed.leader_epoch,
                committed_metadata: Some(committed.metadata.clone()),
            };
            match topics.iter_mut().find(|t| t.name == committed.topic) {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(OffsetCommitRequestTopic {
                    name: committed.topic.clone(),
                    partitions: vec![partition],
                    ..Default::default()
                }),
            }
        }
        let request = OffsetCommitRequest {
            group_id: member.group.clone(),
            generation_id_or_member_epoch: member.generation_id,
            member_id: member.member_id.clone(),
            group_instance_id: member.instance_id.clone(),
            topics,
            ..Default::default()
        };
        let to = Broker::Group(&member.group);
        self.retry(to, async || {
            let response = self.request(to, &request).await?;
            for partition in response.topics.iter().flat_map(|t| &t.partitions) {
                let context = || format!("committing offsets of {}", to.describe());
                Error::check(partition.error_code, context)?;
            }
            Ok(())
        })
        .await
    }

    /// Joins once. `MEMBER_ID_REQUIRED` comes back as an answer: it carries the id to join with.
    pub(super) async fn join(
        &self,
        member: &Membership,
        timeouts: GroupTimeouts,
        protocol: &str,
        subscription: Bytes,
    ) -> Result<JoinGroupResponse> {
        let request = JoinGroupRequest {
            group_id: member.group.clone(),
            session_timeout_ms: timeouts.session.as_millis() as i32,
            rebalance_timeout_ms: timeouts.rebalance.as_millis() as i32,
            member_id: member.member_id.clone(),
            group_instance_id: member.instance_id.clone(),
            protocol_type: PROTOCOL_TYPE.to_string(),
            protocols: vec![JoinGroupRequestProtocol {
                name: protocol.to_string(),
                metadata: subscription,
            }],
            reason: None,
        };
        let to = Broker::Group(&member.group);
        let response = self.request_held(to, &request, timeouts.rebalance).await?;
        if response.error_code != ErrorCode::MEMBER_ID_REQUIRED {
            self.check_member(member, response.error_code, "joining")?;
        }
        Ok(response)
    }

    /// Hands out (as leader) or asks for the assignment of a generation.
    pub(super) async fn sync(
        &self,
        member: &Membership,
        timeouts: GroupTimeouts,
        protocol: &str,
        assignments: Vec<(String, Bytes)>,
    ) -> Result<Bytes> {
        let assignments = assignments.into_iter();
        let request = SyncGroupRequest {
            group_id: member.group.clone(),
            generation_id: member.generation_id,
            member_id: member.member_id.clone(),
            group_instance_id: member.instance_id.clone(),
            protocol_type: Some(PROTOCOL_TYPE.to_string()),
            protocol_name: Some(protocol.to_string()),
            assignments: assignments
                .map(|(member_id, assignment)| SyncGroupRequestAssignment { member_id, assignment })
                .collect(),
        };
        let to = Broker::Group(&member.group);
        let response = self.request_held(to, &request, timeouts.rebalance).await?;
        self.check_member(member, response.error_code, "taking the assignment of")?;
        Ok(response.assignment)
    }

    pub(super) async fn heartbeat(&self, member: &Membership) -> Result<()> {
        let request = HeartbeatRequest {
            group_id: member.group.clone(),
            generation_id: member.generation_id,
            member_id: member.member_id.clone(),
            group_instance_id: member.instance_id.clone(),
        };
        let response = self.request(Broker::Group(&member.group), &request).await?;
        self.check_member(member, response.error_code, "staying in")
    }

    pub(super) async fn leave(&self, member: &Membership) -> Result<()> {
        let request = LeaveGroupRequest {
            group_id: member.group.clone(),
            member_id: member.member_id.clone(),
            members: vec![MemberIdentity {
                member_id: member.member_id.clone(),
                group_instance_id: member.instance_id.clone(),
                reason: None,
            }],
        };
        let response = self.request(Broker::Group(&member.group), &request).await?;
        self.check_member(member, response.error_code, "leaving")
    }

    fn check_member(&self, member: &Membership, code: ErrorCode, what: &str) -> Result<()> {
        let to = Broker::Group(&member.group);
        if code.is_retriable() {
            self.forget(to);
        }
        Error::check(code, || format!("{what} {}", to.describe()))
    }
}

/// Partition indexes grouped by topic, in the order of their first appearance.
pub(super) fn by_topic<'a>(
    partitions: impl Iterator<Item = (&'a str, i32)>,
) -> Vec<(String, Vec<i32>)> {
    let mut topics: Vec<(String, Vec<i32>)> = Vec::new();
    for (topic, partition) in partitions {
        match topics.iter_mut().find(|(name, _)| name == topic) {
            Some((_, indexes)) => indexes.push(partition),
            None => topics.push((topic.to_string(), vec![partition])),
        }
    }
    topics
}
