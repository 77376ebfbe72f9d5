//! Who leads and holds partitions: ElectLeaders (KIP-460), AlterPartitionReassignments and
//! ListPartitionReassignments (KIP-455).

use super::super::changes::Then;
use super::super::cluster::numbers;
use super::super::connections::Caller;
use super::super::topics::said;
use super::Node;
use crate::error::ErrorCode;
use crate::metadata::controller::{Controller, Election, Reassignment};
use crate::metadata::{Image, Record};
use crate::wire::replicas::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ElectLeadersRequest,
    ElectLeadersResponse, ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
    OngoingPartitionReassignment, OngoingTopicReassignment, PartitionResult,
    ReassignablePartitionResponse, ReassignableTopicResponse, ReplicaElectionResult,
};
use alloc::string::String;
use alloc::vec::Vec;

pub(super) fn elect(
    controller: &Controller,
    image: &Image,
    caller: Caller,
    request: ElectLeadersRequest,
) -> (Vec<Record>, Then) {
    let election = match request.election_type {
        0 => Election::Preferred,
        1 => Election::Unclean,
        _ => {
            let error_code = ErrorCode::INVALID_REQUEST;
            let response = ElectLeadersResponse { error_code, ..Default::default() };
            return (Vec::new(), Then::reply(caller, &response));
        }
    };
    let asked: Option<Vec<(String, i32)>> = request.topic_partitions.map(|topics| {
        let named = topics.into_iter().flat_map(|topic| {
            let name = topic.topic;
            topic.partitions.into_iter().map(move |index| (name.clone(), index))
        });
        named.collect()
    });
    let decided = controller.elect(image, election, asked.as_deref());
    let mut response = ElectLeadersResponse::default();
    for (topic, partition_id, elected) in decided.answer {
        let (error_code, error_message) = said(elected);
        let result = PartitionResult { partition_id, error_code, error_message };
        let results = &mut response.replica_election_results;
        match results.last_mut().filter(|last| last.topic == topic) {
            Some(last) => last.partition_result.push(result),
            None => {
                let partition_result = Vec::from([result]);
                results.push(ReplicaElectionResult { topic, partition_result });
            }
        }
    }
    (decided.records, Then::reply(caller, &response))
}

pub(super) fn reassign(
    controller: &Controller,
    image: &Image,
    caller: Caller,
    request: AlterPartitionReassignmentsRequest,
) -> (Vec<Record>, Then) {
    let may_change_factor = request.allow_replication_factor_change;
    let wishes = request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|partition| Reassignment {
            topic: topic.name.clone(),
            index: partition.partition_index,
            replicas: partition.replicas.clone(),
        })
    });
    let wishes: Vec<Reassignment> = wishes.collect();
    let decided = controller.reassign(image, &wishes, may_change_factor);
    let mut answers = decided.answer.into_iter();
    let mut response = AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: may_change_factor,
        ..AlterPartitionReassignmentsResponse::default()
    };
    for topic in request.topics {
        let partitions = topic.partitions.iter().zip(&mut answers).map(|(asked, answer)| {
            let (error_code, error_message) = said(answer);
            let partition_index = asked.partition_index;
            ReassignablePartitionResponse { partition_index, error_code, error_message }
        });
        let partitions = partitions.collect();
        response.responses.push(ReassignableTopicResponse { name: topic.name, partitions });
    }
    (decided.records, Then::reply(caller, &response))
}

impl Node {
    pub(in crate::node) fn on_list_reassignments(
        &mut self,
        caller: Caller,
        request: &ListPartitionReassignmentsRequest,
    ) {
        let is_asked = |name: &str, index: i32| {
            request.topics.as_ref().is_none_or(|topics| {
                let mut named = topics.iter().filter(|topic| topic.name == name);
                named.any(|topic| topic.partition_indexes.contains(&index))
            })
        };
        let mut response = ListPartitionReassignmentsResponse::default();
        for (topic, partition_index, state) in self.image.reassignments() {
            if !is_asked(&topic.name, partition_index) {
                continue;
            }
            let ongoing = OngoingPartitionReassignment {
                partition_index,
                replicas: numbers(state.replicas.iter().copied()),
                adding_replicas: numbers(state.adding.iter().copied()),
                removing_replicas: numbers(state.removing.iter().copied()),
            };
            match response.topics.last_mut().filter(|last| last.name == topic.name) {
                Some(last) => last.partitions.push(ongoing),
                None => response.topics.push(OngoingTopicReassignment {
                    name: topic.name.clone(),
                    partitions: Vec::from([ongoing]),
                }),
            }
        }
        self.reply(caller, &response);
    }
}
