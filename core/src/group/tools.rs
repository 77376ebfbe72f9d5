//! What tools ask: which groups there are, who is in them, what they committed.

use super::offsets::{Committed, TOPIC_IDS_FROM};
use super::state::{Group, Member, State};
use super::{Groups, Topics, offsets};
use crate::error::ErrorCode;
use crate::types::TopicId;
use crate::wire::group::*;
use crate::wire::offsets::*;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// All groups here are of this type (KIP-848's name for them).
const GROUP_TYPE: &str = "Classic";

/// DescribeGroups from this version on says that a group does not exist (KIP-1043).
const GROUP_ID_NOT_FOUND_FROM: i16 = 6;

/// Without ACLs everybody may READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS and ALTER_CONFIGS: bits by
/// the codes of Kafka's `AclOperation`.
const ALL_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;

/// OffsetFetch from this version on asks for several groups.
pub const GROUPS_FROM: i16 = 8;

/// A group as status and console show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupView<'a> {
    pub id: &'a str,
    pub state: State,
    pub generation: i32,
    pub members: usize,
}

impl Groups {
    pub fn views(&self) -> impl Iterator<Item = GroupView<'_>> {
        self.groups.values().map(|group| GroupView {
            id: &group.id,
            state: group.state,
            generation: group.generation,
            members: group.members.len(),
        })
    }

    /// The durable committed offsets of a group: topic, partition index, offset.
    pub fn committed(&self, group: &str) -> impl Iterator<Item = (&str, i32, i64)> {
        let offsets = self.groups.get(group).into_iter().flat_map(Group::all_offsets);
        offsets.map(|(topic, partition, committed)| (topic, partition, committed.offset))
    }

    pub fn list(&self, request: &ListGroupsRequest) -> ListGroupsResponse {
        let passes = |filter: &[String], value: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
        };
        let groups = self.groups.values().filter(|group| {
            passes(&request.states_filter, group.state.name())
                && passes(&request.types_filter, GROUP_TYPE)
        });
        let listed = groups.map(|group| ListedGroup {
            group_id: group.id.clone(),
            protocol_type: group.protocol_type.clone().unwrap_or_default(),
            group_state: group.state.name().into(),
            group_type: GROUP_TYPE.into(),
        });
        ListGroupsResponse { groups: listed.collect(), ..ListGroupsResponse::default() }
    }

    pub fn describe(
        &self,
        api_version: i16,
        request: &DescribeGroupsRequest,
    ) -> DescribeGroupsResponse {
        let describe = |id: &String| {
            let mut described = match self.groups.get(id) {
                Some(group) => described(group),
                None => unknown(id, api_version),
            };
            if request.include_authorized_operations {
                described.authorized_operations = ALL_OPERATIONS;
            }
            described
        };
        let groups = request.groups.iter().map(describe).collect();
        DescribeGroupsResponse { groups, ..DescribeGroupsResponse::default() }
    }

    /// Answers in the shape of `api_version`: one group up to 7, several from 8, topic ids from 10.
    /// Tells durable offsets only, so that none ever goes back.
    pub fn fetch_offsets(
        &self,
        api_version: i16,
        request: &OffsetFetchRequest,
        topics: &impl Topics,
    ) -> OffsetFetchResponse {
        if api_version >= GROUPS_FROM {
            let fetch = |group: &OffsetFetchRequestGroup| OffsetFetchResponseGroup {
                group_id: group.group_id.clone(),
                topics: match &group.topics {
                    Some(asked) => self.fetch_some(&group.group_id, asked, api_version, topics),
                    None => self.fetch_all(&group.group_id, api_version, topics),
                },
                error_code: ErrorCode::NONE,
            };
            let groups = request.groups.iter().map(fetch).collect();
            return OffsetFetchResponse { groups, ..OffsetFetchResponse::default() };
        }
        let asked = |topic: &OffsetFetchRequestTopic| OffsetFetchRequestTopics {
            name: topic.name.clone(),
            topic_id: TopicId::NONE,
            partition_indexes: topic.partition_indexes.clone(),
        };
        let fetched = match &request.topics {
            Some(topics_asked) => {
                let asked: Vec<_> = topics_asked.iter().map(asked).collect();
                self.fetch_some(&request.group_id, &asked, api_version, topics)
            }
            None => self.fetch_all(&request.group_id, api_version, topics),
        };
        let topics = fetched.into_iter().map(single_group).collect();
        OffsetFetchResponse { topics, ..OffsetFetchResponse::default() }
    }

    fn fetch_some(
        &self,
        group: &str,
        asked: &[OffsetFetchRequestTopics],
        api_version: i16,
        topics: &impl Topics,
    ) -> Vec<OffsetFetchResponseTopics> {
        let group = self.groups.get(group);
        let fetch = |topic: &OffsetFetchRequestTopics| {
            let mut error_code = ErrorCode::NONE;
            let mut name = Some(topic.name.as_str());
            if api_version >= TOPIC_IDS_FROM {
                name = offsets::find(topics, api_version, "", topic.topic_id).map(|t| t.name);
                error_code =
                    if name.is_none() { ErrorCode::UNKNOWN_TOPIC_ID } else { ErrorCode::NONE };
            }
            let partition = |index: &i32| {
                let committed = group.and_then(|group| group.committed(name?, *index));
                fetched(*index, committed, error_code)
            };
            OffsetFetchResponseTopics {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                partitions: topic.partition_indexes.iter().map(partition).collect(),
            }
        };
        asked.iter().map(fetch).collect()
    }

    fn fetch_all(
        &self,
        group: &str,
        api_version: i16,
        topics: &impl Topics,
    ) -> Vec<OffsetFetchResponseTopics> {
        let Some(group) = self.groups.get(group) else { return Vec::new() };
        let mut all = Vec::new();
        for (name, partitions) in &group.offsets {
            let topic_id = topics.by_name(name).map_or(TopicId::NONE, |known| known.id);
            // A client that asks by id could not make anything of a topic without one.
            if api_version >= TOPIC_IDS_FROM && topic_id == TopicId::NONE {
                continue;
            }
            let partition = |(index, committed): (&i32, &Committed)| {
                fetched(*index, Some(committed), ErrorCode::NONE)
            };
            let partitions = partitions.iter().map(partition).collect();
            all.push(OffsetFetchResponseTopics { name: name.clone(), topic_id, partitions });
        }
        all
    }
}

fn fetched(
    partition_index: i32,
    committed: Option<&Committed>,
    error_code: ErrorCode,
) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: committed.map_or(-1, |committed| committed.offset),
        committed_leader_epoch: committed.map_or(-1, |committed| committed.leader_epoch),
        metadata: Some(committed.map_or_else(String::new, |committed| committed.metadata.clone())),
        error_code,
    }
}

fn single_group(topic: OffsetFetchResponseTopics) -> OffsetFetchResponseTopic {
    let partition = |fetched: OffsetFetchResponsePartitions| OffsetFetchResponsePartition {
        partition_index: fetched.partition_index,
        committed_offset: fetched.committed_offset,
        committed_leader_epoch: fetched.committed_leader_epoch,
        metadata: fetched.metadata,
        error_code: fetched.error_code,
    };
    let partitions = topic.partitions.into_iter().map(partition).collect();
    OffsetFetchResponseTopic { name: topic.name, partitions }
}

/// Metadata and assignments are told of a stable group only: else they belong to no common
/// generation.
fn described(group: &Group) -> DescribedGroup {
    let is_stable = group.state == State::Stable;
    let protocol = group.protocol_name.clone().filter(|_| is_stable).unwrap_or_default();
    let member = |(id, member): (&String, &Member)| DescribedGroupMember {
        member_id: id.clone(),
        group_instance_id: member.instance_id.clone(),
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        member_metadata: if is_stable { member.metadata(&protocol) } else { Bytes::new() },
        member_assignment: if is_stable { member.assignment.clone() } else { Bytes::new() },
    };
    DescribedGroup {
        group_id: group.id.clone(),
        group_state: group.state.name().into(),
        protocol_type: group.protocol_type.clone().unwrap_or_default(),
        members: group.members.iter().map(member).collect(),
        protocol_data: protocol,
        ..DescribedGroup::default()
    }
}

fn unknown(id: &str, api_version: i16) -> DescribedGroup {
    let mut described = DescribedGroup {
        group_id: id.into(),
        group_state: "Dead".into(),
        ..DescribedGroup::default()
    };
    if api_version >= GROUP_ID_NOT_FOUND_FROM {
        described.error_code = ErrorCode::GROUP_ID_NOT_FOUND;
        described.error_message = Some(format!("Group {id} not found."));
    }
    described
}
