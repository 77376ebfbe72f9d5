//! What clients ask first: versions, brokers, topics and their leaders, the coordinator.

use super::Node;
use super::changes::Then;
use super::connections::Caller;
use super::site::{After, Ask};
use crate::error::ErrorCode;
use crate::metadata::{Broker, CONSUMER_OFFSETS, Topic, check_name, is_internal};
use crate::types::{NodeId, Time, TopicId};
use crate::wire::api_versions::{self, ApiVersionsRequest};
use crate::wire::cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
};
use crate::wire::group::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};
use crate::wire::metadata::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker,
    MetadataResponsePartition, MetadataResponseTopic,
};
use crate::wire::{ApiKey, ApiKey::FindCoordinator};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Every operation that Kafka knows on a topic and a cluster, one bit each by `AclOperation`'s
/// code: what Kafka answers when it has no authorizer.
pub(super) const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;

/// FindCoordinator's key types.
const KEY_GROUP: i8 = 0;

impl Node {
    pub(super) fn on_api_versions(&mut self, caller: Caller, request: &ApiVersionsRequest) {
        let (name, version) = (&request.client_software_name, &request.client_software_version);
        let valid = caller.version < 3 || (is_software(name) && is_software(version));
        if let Some(connection) = self.connections.get_mut(caller.conn)
            && caller.version >= 3
            && valid
        {
            connection.software = alloc::format!("{name} {version}");
        }
        let error_code = if valid { ErrorCode::NONE } else { ErrorCode::INVALID_REQUEST };
        self.counts.error(ApiKey::ApiVersions, error_code);
        let mut response = api_versions::supported(error_code);
        if caller.version >= 3 && valid {
            self.tell_features(&mut response);
        }
        self.reply(caller, &response);
    }

    pub(super) fn on_metadata(&mut self, now: Time, caller: Caller, request: MetadataRequest) {
        let creates = self.settings.auto_create_topics && request.allow_auto_topic_creation;
        let missing = |topic: &MetadataRequestTopic| {
            topic.name.as_ref().is_some_and(|name| {
                self.image.topic(name).is_none() && check_name(name).is_ok() && !is_internal(name)
            })
        };
        let missing = request.topics.iter().flatten().filter(|topic| missing(topic));
        let names: Vec<String> = missing.filter_map(|topic| topic.name.clone()).collect();
        if creates && !names.is_empty() {
            let after = After::Then(Then::Metadata(caller, request));
            return self.ask(now, Ask::CreateTopics(names), after);
        }
        self.answer_metadata(caller, &request);
    }

    pub(super) fn answer_metadata(&mut self, caller: Caller, request: &MetadataRequest) {
        let operations = match request.include_topic_authorized_operations {
            true => TOPIC_OPERATIONS,
            false => i32::MIN,
        };
        // In version 0 an empty list asks for all topics, later null does.
        let asked = request.topics.as_ref();
        let asked = asked.filter(|topics| caller.version > 0 || !topics.is_empty());
        let topics: Vec<MetadataResponseTopic> = match asked {
            None => self.image.topics_by_name().map(|t| self.topic_metadata(t)).collect(),
            Some(topics) => topics.iter().map(|topic| self.asked_metadata(topic)).collect(),
        };
        for topic in &topics {
            self.counts.error(ApiKey::Metadata, topic.error_code);
        }
        let with_operations =
            |topic| MetadataResponseTopic { topic_authorized_operations: operations, ..topic };
        let gateways = self.image.brokers().filter(|gateway| gateway.serves());
        let brokers = gateways.map(|gateway| MetadataResponseBroker {
            node_id: gateway.node.0,
            host: gateway.kafka.0.clone(),
            port: i32::from(gateway.kafka.1),
            rack: gateway.rack.clone(),
        });
        let response = MetadataResponse {
            brokers: brokers.collect(),
            cluster_id: self.image.cluster_id().map(|id| id.to_string()),
            controller_id: self.named_controller().map_or(-1, |node| node.0),
            topics: topics.into_iter().map(with_operations).collect(),
            cluster_authorized_operations: match request.include_cluster_authorized_operations {
                true => CLUSTER_OPERATIONS,
                false => i32::MIN,
            },
            ..MetadataResponse::default()
        };
        self.reply(caller, &response);
    }

    /// Whom clients ask for what only the controller decides: the controller, unless that is a
    /// witness, which is no broker to them. Then any gateway hands it on.
    fn named_controller(&self) -> Option<NodeId> {
        let serves = |node: NodeId| self.image.broker(node).is_some_and(Broker::serves);
        let own = Some(self.settings.node).filter(|own| serves(*own));
        let any = || self.image.brokers().find(|it| it.serves()).map(|it| it.node);
        self.site.controller_id().filter(|it| serves(*it)).or(own).or_else(any)
    }

    fn asked_metadata(&self, asked: &MetadataRequestTopic) -> MetadataResponseTopic {
        let (found, error_code) = match &asked.name {
            Some(name) if check_name(name).is_err() => (None, ErrorCode::INVALID_TOPIC_EXCEPTION),
            Some(name) => (self.image.topic(name), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            None => (self.image.topic_by_id(asked.topic_id), ErrorCode::UNKNOWN_TOPIC_ID),
        };
        let unknown = || MetadataResponseTopic {
            error_code,
            name: asked.name.clone(),
            topic_id: asked.topic_id,
            is_internal: asked.name.as_ref().is_some_and(|name| is_internal(name)),
            ..MetadataResponseTopic::default()
        };
        found.map_or_else(unknown, |topic| self.topic_metadata(topic))
    }

    fn topic_metadata(&self, topic: &Topic) -> MetadataResponseTopic {
        let partitions = (0..).zip(&topic.partitions).map(|(partition_index, number)| {
            let state = self.image.state(*number).cloned().unwrap_or_default();
            let leader = self.known_leader(*number);
            let offline = |node: &NodeId| !self.image.is_alive(*node);
            MetadataResponsePartition {
                error_code: match leader {
                    Some(_) => ErrorCode::NONE,
                    None => ErrorCode::LEADER_NOT_AVAILABLE,
                },
                partition_index,
                leader_id: leader.map_or(-1, |node| node.0),
                leader_epoch: state.leader_epoch,
                offline_replicas: numbers(state.replicas.iter().copied().filter(offline)),
                replica_nodes: numbers(state.replicas.iter().copied()),
                isr_nodes: numbers(state.isr.iter().copied()),
            }
        });
        MetadataResponseTopic {
            name: Some(topic.name.clone()),
            topic_id: topic.id,
            is_internal: is_internal(&topic.name),
            partitions: partitions.collect(),
            ..MetadataResponseTopic::default()
        }
    }

    pub(super) fn on_describe_cluster(&mut self, caller: Caller, request: &DescribeClusterRequest) {
        let mut response = DescribeClusterResponse {
            endpoint_type: request.endpoint_type,
            cluster_id: self.image.cluster_id().unwrap_or(TopicId::NONE).to_string(),
            controller_id: self.named_controller().map_or(-1, |node| node.0),
            ..DescribeClusterResponse::default()
        };
        match request.endpoint_type {
            1 => {
                let known = self.image.brokers().filter(|gateway| gateway.holds_partitions);
                let asked =
                    known.filter(|gateway| request.include_fenced_brokers || !gateway.fenced);
                response.brokers.extend(asked.map(|gateway| DescribeClusterBroker {
                    broker_id: gateway.node.0,
                    host: gateway.kafka.0.clone(),
                    port: i32::from(gateway.kafka.1),
                    rack: gateway.rack.clone(),
                    is_fenced: gateway.fenced,
                }));
            }
            2 => {
                response.error_code = ErrorCode::MISMATCHED_ENDPOINT_TYPE;
                let message = "This is a broker endpoint, and no controller one.";
                response.error_message = Some(message.into());
            }
            _ => response.error_code = ErrorCode::UNSUPPORTED_ENDPOINT_TYPE,
        }
        if request.include_cluster_authorized_operations {
            response.cluster_authorized_operations = CLUSTER_OPERATIONS;
        }
        self.counts.error(ApiKey::DescribeCluster, response.error_code);
        self.reply(caller, &response);
    }

    pub(super) fn on_find_coordinator(
        &mut self,
        now: Time,
        caller: Caller,
        request: FindCoordinatorRequest,
    ) {
        if request.key_type == KEY_GROUP && self.image.topic(CONSUMER_OFFSETS).is_none() {
            let after = After::Then(Then::Coordinator(caller, request));
            return self.ask(now, Ask::CreateOffsets, after);
        }
        self.answer_coordinator(caller, &request);
    }

    pub(super) fn answer_coordinator(&mut self, caller: Caller, request: &FindCoordinatorRequest) {
        let batched = caller.version >= 4;
        let keys = match batched {
            true => request.coordinator_keys.clone(),
            false => Vec::from([request.key.clone()]),
        };
        let coordinators = keys.into_iter().map(|key| self.coordinator(key, request.key_type));
        let mut coordinators: Vec<Coordinator> = coordinators.collect();
        for coordinator in &coordinators {
            self.counts.error(FindCoordinator, coordinator.error_code);
        }
        let mut response = FindCoordinatorResponse::default();
        if batched {
            response.coordinators = coordinators;
        } else if let Some(one) = coordinators.pop() {
            response.error_code = one.error_code;
            response.error_message = one.error_message;
            response.node_id = one.node_id;
            response.host = one.host;
            response.port = one.port;
        }
        self.reply(caller, &response);
    }

    fn coordinator(&self, key: String, key_type: i8) -> Coordinator {
        let leader = self.coordinator_of(&key).ok();
        let leader = leader.and_then(|leader| self.image.broker(leader));
        let (error_code, message) = match key_type {
            KEY_GROUP => {
                if let Some(leader) = leader {
                    return Coordinator {
                        key,
                        node_id: leader.node.0,
                        host: leader.kafka.0.clone(),
                        port: i32::from(leader.kafka.1),
                        ..Coordinator::default()
                    };
                }
                let message = "Nobody leads the group's partition of the offsets topic just now.";
                (ErrorCode::COORDINATOR_NOT_AVAILABLE, message)
            }
            _ => (ErrorCode::INVALID_REQUEST, "There are coordinators of groups only, so far."),
        };
        let error_message = Some(message.into());
        Coordinator { key, node_id: -1, port: -1, error_code, error_message, host: String::new() }
    }
}

/// Nodes as the wire has them.
pub(super) fn numbers(nodes: impl Iterator<Item = NodeId>) -> Vec<i32> {
    nodes.map(|node| node.0).collect()
}

/// KIP-511: a letter or digit at both ends, dots and dashes between.
fn is_software(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let ends = [name.bytes().next(), name.bytes().last()];
    ends.iter().all(|end| end.is_some_and(|byte| byte.is_ascii_alphanumeric()))
        && name.bytes().all(inner)
}
