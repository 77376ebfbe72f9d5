//! What operators ask, of a gateway by itself. Sites of several are simulated.

use super::*;
use crate::metadata::Record;
use crate::wire::configs::{
    DescribeConfigsRequest, DescribeConfigsResource, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource, IncrementalAlterableConfig,
};
use crate::wire::quorum::{
    AddRaftVoterRequest, DescribeQuorumRequest, DescribedPartition, PartitionData,
    RemoveRaftVoterRequest, TopicData,
};
use crate::wire::replicas::{
    AlterPartitionReassignmentsRequest, ElectLeadersRequest, ListPartitionReassignmentsRequest,
    ReassignablePartition, ReassignableTopic, TopicPartitions, UnregisterBrokerRequest,
};

/// The store of the world's gateway.
const STORE: TopicId = TopicId([7; 16]);

fn quorum(world: &mut World, version: i16, topic: &str, index: i32) -> DescribedPartition {
    let partitions = vec![PartitionData { partition_index: index }];
    let topic = TopicData { topic_name: topic.into(), partitions };
    let mut response = world.ask(version, DescribeQuorumRequest { topics: vec![topic] });
    assert_eq!(response.error_code, ErrorCode::NONE);
    response.topics.remove(0).partitions.remove(0)
}

#[test]
fn a_gateway_by_itself_is_a_quorum_of_one() {
    let mut world = World::new();
    for version in 0..=2 {
        let found = quorum(&mut world, version, "__cluster_metadata", 0);
        assert_eq!((found.error_code, found.leader_id), (ErrorCode::NONE, 1));
        assert_eq!((found.current_voters.len(), found.observers.len()), (1, 0));
        assert!(found.high_watermark > 0 && found.leader_epoch > 0);
        assert_eq!(found.current_voters[0].log_end_offset, found.high_watermark);
        let directory = found.current_voters[0].replica_directory_id;
        assert_eq!(directory == STORE, version >= 2);
    }
    for (topic, index) in [("__cluster_metadata", 1), ("t", 0)] {
        let found = quorum(&mut world, 2, topic, index);
        assert_eq!(found.error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    }
}

#[test]
fn voters_are_added_and_removed_one_store_at_a_time() {
    let mut world = World::new();
    let mut remove = |voter_id, voter_directory_id| {
        let request = RemoveRaftVoterRequest { cluster_id: None, voter_id, voter_directory_id };
        world.ask(0, request).error_code
    };
    assert_eq!(remove(1, STORE), ErrorCode::INVALID_REQUEST, "it is the last one");
    assert_eq!(remove(1, TopicId([8; 16])), ErrorCode::VOTER_NOT_FOUND);
    assert_eq!(remove(2, STORE), ErrorCode::VOTER_NOT_FOUND);
    let mut add = |cluster_id: Option<&str>, voter_id| {
        let request = AddRaftVoterRequest {
            cluster_id: cluster_id.map(String::from),
            voter_id,
            voter_directory_id: STORE,
            ..AddRaftVoterRequest::default()
        };
        world.ask(1, request).error_code
    };
    assert_eq!(add(None, 1), ErrorCode::DUPLICATE_VOTER);
    assert_eq!(add(None, 2), ErrorCode::VOTER_NOT_FOUND, "nobody has heard it");
    assert_eq!(add(Some("another"), 1), ErrorCode::INCONSISTENT_CLUSTER_ID);
}

#[test]
fn an_election_says_of_each_partition_what_came_of_it() {
    let mut world = World::new();
    world.create_topic("t", 2, &[]);
    let elect = |world: &mut World, version, election_type, asked: Option<(&str, &[i32])>| {
        let topics = asked.map(|(topic, partitions)| {
            vec![TopicPartitions { topic: topic.into(), partitions: partitions.to_vec() }]
        });
        let request =
            ElectLeadersRequest { election_type, topic_partitions: topics, timeout_ms: 1000 };
        let response = world.ask(version, request);
        let results = response.replica_election_results.into_iter();
        let codes = results.flat_map(|topic| topic.partition_result).map(|it| it.error_code);
        (response.error_code, codes.collect::<Vec<_>>())
    };
    let (none, needless) = (ErrorCode::NONE, ErrorCode::ELECTION_NOT_NEEDED);
    let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    let asked = elect(&mut world, 2, 0, Some(("t", &[0, 1, 2])));
    assert_eq!(asked, (none, vec![needless, needless, unknown]));
    assert_eq!(elect(&mut world, 0, 0, Some(("no", &[0]))), (none, vec![unknown]));
    assert_eq!(elect(&mut world, 1, 1, Some(("t", &[0]))), (none, vec![needless]));
    assert_eq!(elect(&mut world, 2, 0, None), (none, vec![]), "those in order are left out");
    assert_eq!(elect(&mut world, 2, 7, None), (ErrorCode::INVALID_REQUEST, vec![]));
}

#[test]
fn a_reassignment_needs_gateways_that_are_there() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    let mut reassign = |topic: &str, replicas: Option<&[i32]>| {
        let replicas = replicas.map(<[i32]>::to_vec);
        let partitions = vec![ReassignablePartition { partition_index: 0, replicas }];
        let topics = vec![ReassignableTopic { name: topic.into(), partitions }];
        let request = AlterPartitionReassignmentsRequest {
            topics,
            ..AlterPartitionReassignmentsRequest::default()
        };
        let mut response = world.ask(1, request);
        assert!(response.allow_replication_factor_change);
        response.responses.remove(0).partitions.remove(0).error_code
    };
    assert_eq!(reassign("t", Some(&[1])), ErrorCode::NONE);
    assert_eq!(reassign("t", Some(&[1, 2])), ErrorCode::INVALID_REPLICA_ASSIGNMENT);
    assert_eq!(reassign("t", Some(&[])), ErrorCode::INVALID_REPLICA_ASSIGNMENT);
    assert_eq!(reassign("t", None), ErrorCode::NO_REASSIGNMENT_IN_PROGRESS);
    assert_eq!(reassign("no", Some(&[1])), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let list = ListPartitionReassignmentsRequest::default();
    assert!(world.ask(0, list).topics.is_empty());
}

#[test]
fn a_gateway_is_drained_by_a_config_of_its_broker() {
    let mut world = World::new();
    let change = |world: &mut World, broker: &str, name: &str, value: Option<&str>| {
        let config = IncrementalAlterableConfig {
            name: name.into(),
            config_operation: value.is_none().into(),
            value: value.map(String::from),
        };
        let resource = IncrementalAlterConfigsResource {
            resource_type: 4,
            resource_name: broker.into(),
            configs: vec![config],
        };
        let request =
            IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
        world.ask(1, request).responses.remove(0).error_code
    };
    let alter = |world: &mut World, broker: &str, name: &str, value: &str| {
        change(world, broker, name, Some(value))
    };
    let drained = |world: &mut World| {
        let resource = DescribeConfigsResource {
            resource_type: 4,
            resource_name: "1".into(),
            configuration_keys: Some(vec!["weir.draining".into()]),
        };
        let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
        world.ask(4, request).results.remove(0).configs.remove(0).value.unwrap()
    };
    assert_eq!(drained(&mut world), "false");
    assert_eq!(alter(&mut world, "1", "weir.draining", "true"), ErrorCode::NONE);
    assert_eq!(drained(&mut world), "true");
    assert_eq!(
        alter(&mut world, "2", "weir.draining", "true"),
        ErrorCode::BROKER_ID_NOT_REGISTERED
    );
    assert_eq!(alter(&mut world, "1", "weir.draining", "maybe"), ErrorCode::INVALID_CONFIG);
    assert_eq!(alter(&mut world, "1", "num.io.threads", "8"), ErrorCode::INVALID_REQUEST);
    assert_eq!(alter(&mut world, "", "weir.draining", "true"), ErrorCode::INVALID_REQUEST);
    let rate = "follower.replication.throttled.rate";
    assert_eq!(alter(&mut world, "1", rate, "1000000"), ErrorCode::NONE);
    assert_eq!(alter(&mut world, "1", rate, "0"), ErrorCode::INVALID_CONFIG);
    assert_eq!(alter(&mut world, "2", rate, "1"), ErrorCode::INVALID_REQUEST);
    let directories = "replica.alter.log.dirs.io.max.bytes.per.second";
    assert_eq!(alter(&mut world, "1", directories, "1"), ErrorCode::INVALID_REQUEST);
    assert_eq!(change(&mut world, "1", directories, None), ErrorCode::NONE);
    let own = world.node.image.broker(NodeId(1)).unwrap();
    assert_eq!(own.configs.get(rate).map(String::as_str), Some("1000000"));
    let kept = world.node.image.snapshot();
    let restored =
        |record: &Record| matches!(record, Record::BrokerConfig { name, .. } if name == rate);
    assert!(kept.iter().any(restored), "a snapshot has it");
    let mut world = world.restarted();
    assert_eq!(drained(&mut world), "false", "who starts is in service");
}

#[test]
fn a_gateway_that_lives_or_votes_is_not_removed() {
    let mut world = World::new();
    let mut remove = |broker_id| world.ask(0, UnregisterBrokerRequest { broker_id }).error_code;
    assert_eq!(remove(1), ErrorCode::INVALID_REQUEST);
    assert_eq!(remove(2), ErrorCode::BROKER_ID_NOT_REGISTERED);
}
