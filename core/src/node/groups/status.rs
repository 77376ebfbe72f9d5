//! The groups that this gateway coordinates, as status and console show them.

use super::super::{GroupStatus, MemberStatus, Node, OffsetStatus};
use crate::group::{GroupView, Groups};
use crate::wire::group::{DescribeGroupsRequest, DescribedGroupMember};
use alloc::vec::Vec;

impl Node {
    pub(in crate::node) fn groups_status(&self) -> Vec<GroupStatus> {
        let coordinators = self.coordinators.by_number.values();
        let all = coordinators.flat_map(|one| {
            let groups = one.groups();
            groups.views().map(|view| self.group_status(groups, view))
        });
        let mut all: Vec<GroupStatus> = all.collect();
        all.sort_by(|one, other| one.id.cmp(&other.id));
        all
    }

    fn group_status(&self, groups: &Groups, view: GroupView<'_>) -> GroupStatus {
        let offset = |(topic, partition, committed): (&str, i32, i64)| {
            let number = self.image.topic(topic).and_then(|topic| topic.partition(partition));
            let end = number.map(|number| self.replicas.high_watermark(number));
            OffsetStatus {
                topic: topic.into(),
                partition,
                committed,
                lag: end.map_or(0, |end| (end.0 - committed).max(0)),
            }
        };
        let asked = DescribeGroupsRequest {
            groups: Vec::from([view.id.into()]),
            ..DescribeGroupsRequest::default()
        };
        let described = groups.describe(0, &asked).groups.pop().unwrap_or_default();
        let member = |member: DescribedGroupMember| MemberStatus {
            member_id: member.member_id,
            group_instance_id: member.group_instance_id,
            client_id: member.client_id,
        };
        GroupStatus {
            id: view.id.into(),
            state: view.state.name().into(),
            protocol_type: described.protocol_type,
            protocol: described.protocol_data,
            generation: view.generation,
            members: described.members.into_iter().map(member).collect(),
            offsets: groups.committed(view.id).map(offset).collect(),
        }
    }
}
