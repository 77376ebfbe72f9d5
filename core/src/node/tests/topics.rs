//! Topics: created, grown, described, deleted.

use super::*;
use crate::metadata::CONSUMER_OFFSETS;
use crate::wire::cluster::DescribeClusterRequest;
use crate::wire::log_dirs::DescribeLogDirsRequest;
use crate::wire::metadata::{MetadataRequest, MetadataRequestTopic};
use crate::wire::topics::{
    CreatePartitionsRequest, CreatePartitionsTopic, DeleteRecordsPartition, DeleteRecordsRequest,
    DeleteRecordsTopic, DeleteTopicState, DeleteTopicsRequest, DescribeTopicPartitionsRequest,
};

fn metadata(names: &[&str]) -> MetadataRequest {
    let topic = |name: &&str| MetadataRequestTopic {
        name: Some((*name).into()),
        ..MetadataRequestTopic::default()
    };
    MetadataRequest {
        topics: Some(names.iter().map(topic).collect()),
        ..MetadataRequest::default()
    }
}

#[test]
fn every_version_of_metadata_tells_all_topics_in_its_own_way() {
    let mut world = World::new();
    world.create_topic("a", 2, &[]);
    world.create_topic("b", 1, &[]);
    for version in 0..=13 {
        let all = MetadataRequest { topics: None, ..MetadataRequest::default() };
        let request = if version == 0 { metadata(&[]) } else { all };
        let response = world.ask(version, request);
        assert_eq!(response.topics.len(), 2, "version {version}");
        assert_eq!(response.topics[0].partitions.len(), 2);
        assert_eq!(response.brokers[0].host, "gateway");
        let none = if version == 0 { 2 } else { 0 };
        assert_eq!(world.ask(version, metadata(&[])).topics.len(), none);
    }
}

#[test]
fn a_topic_that_is_asked_for_is_created_unless_somebody_says_no() {
    let mut world = World::new();
    let response = world.ask(4, metadata(&["new", "also.new", "bad name"]));
    let codes: Vec<ErrorCode> = response.topics.iter().map(|topic| topic.error_code).collect();
    assert_eq!(codes, [ErrorCode::NONE, ErrorCode::NONE, ErrorCode::INVALID_TOPIC_EXCEPTION]);
    let refusing = MetadataRequest { allow_auto_topic_creation: false, ..metadata(&["no"]) };
    let code = world.ask(4, refusing).topics[0].error_code;
    assert_eq!(code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let code = world.ask(4, metadata(&[CONSUMER_OFFSETS])).topics[0].error_code;
    assert_eq!(code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let mut world = World::with(|settings| settings.auto_create_topics = false);
    let code = world.ask(4, metadata(&["no"])).topics[0].error_code;
    assert_eq!(code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
}

#[test]
fn a_topic_is_found_by_its_id() {
    let mut world = World::new();
    let id = world.create_topic("t", 1, &[]);
    let by_id = |topic_id| MetadataRequest {
        topics: Some(vec![MetadataRequestTopic { topic_id, name: None }]),
        ..MetadataRequest::default()
    };
    assert_eq!(world.ask(12, by_id(id)).topics[0].name.as_deref(), Some("t"));
    let unknown = world.ask(12, by_id(TopicId([1; 16])));
    assert_eq!(unknown.topics[0].error_code, ErrorCode::UNKNOWN_TOPIC_ID);
}

#[test]
fn create_topics_answers_each_topic_and_creates_nothing_to_validate() {
    let mut world = World::new();
    let topic = |name: &str, partitions, replicas| CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: replicas,
        ..CreatableTopic::default()
    };
    let topics = vec![topic("a", -1, -1), topic("b", 1, 3), topic("c", 1, 1), topic("c", 1, 1)];
    let request = CreateTopicsRequest { topics, ..CreateTopicsRequest::default() };
    let validate = CreateTopicsRequest { validate_only: true, ..request.clone() };
    for _ in 0..2 {
        let response = world.ask(7, validate.clone());
        assert_eq!(response.topics[0].error_code, ErrorCode::NONE);
    }
    let response = world.ask(7, request.clone());
    let codes: Vec<ErrorCode> = response.topics.iter().map(|topic| topic.error_code).collect();
    let duplicate = ErrorCode::INVALID_REQUEST;
    let replicas = ErrorCode::INVALID_REPLICATION_FACTOR;
    assert_eq!(codes, [ErrorCode::NONE, replicas, duplicate, duplicate]);
    let configs = response.topics[0].configs.as_ref().unwrap();
    assert!(configs.iter().any(|config| config.name == "retention.ms"));
    let again = world.ask(7, request);
    assert_eq!(again.topics[0].error_code, ErrorCode::TOPIC_ALREADY_EXISTS);
}

#[test]
fn two_who_create_the_same_topic_are_told_apart() {
    let mut world = World::new();
    world.holds_flushes = true;
    let topic = CreatableTopic {
        name: "t".into(),
        num_partitions: 1,
        replication_factor: 1,
        ..CreatableTopic::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], ..CreateTopicsRequest::default() };
    world.send(CLIENT, 5, &request);
    world.send(ConnId(2), 5, &request);
    world.pass_ms(1000);
    assert!(!world.has_come(CLIENT) && !world.has_come(ConnId(2)));
    world.release_flushes();
    let first = world.answer::<CreateTopicsRequest>(CLIENT, 5);
    assert_eq!(first.topics[0].error_code, ErrorCode::NONE);
    let second = world.answer::<CreateTopicsRequest>(ConnId(2), 5);
    assert_eq!(second.topics[0].error_code, ErrorCode::TOPIC_ALREADY_EXISTS);
}

#[test]
fn a_deleted_topic_is_gone_with_its_records() {
    let mut world = World::new();
    let id = world.create_topic("t", 1, &[]);
    world.produce("t", batch(&["a"]));
    let waiting = FetchRequest { min_bytes: 1, max_wait_ms: 60_000, ..fetch_request("t", 1) };
    world.send(ConnId(2), 12, &waiting);
    let state = DeleteTopicState { name: None, topic_id: id };
    let request = DeleteTopicsRequest { topics: vec![state], ..Default::default() };
    let response = world.ask(6, request.clone());
    assert_eq!(response.responses[0].name.as_deref(), Some("t"));
    let fetched = world.answer::<FetchRequest>(ConnId(2), 12);
    let code = fetched.responses[0].partitions[0].error_code;
    assert_eq!(code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let again = world.ask(6, request);
    assert_eq!(again.responses[0].error_code, ErrorCode::UNKNOWN_TOPIC_ID);
    let by_name = DeleteTopicsRequest { topic_names: vec!["t".into()], ..Default::default() };
    let again = world.ask(5, by_name);
    assert_eq!(again.responses[0].error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    world.create_topic("t", 1, &[]);
    assert!(world.values("t", 0).is_empty());
}

#[test]
fn a_topic_grows_and_is_described_page_by_page() {
    let mut world = World::new();
    world.create_topic("a", 2, &[]);
    world.create_topic("b", 2, &[]);
    let grow = |name: &str, count| CreatePartitionsRequest {
        topics: vec![CreatePartitionsTopic { name: name.into(), count, assignments: None }],
        ..CreatePartitionsRequest::default()
    };
    assert_eq!(world.ask(3, grow("a", 5)).results[0].error_code, ErrorCode::NONE);
    let less = world.ask(3, grow("a", 5)).results[0].error_code;
    assert_eq!(less, ErrorCode::INVALID_PARTITIONS);
    let mut request =
        DescribeTopicPartitionsRequest { response_partition_limit: 3, ..Default::default() };
    let mut seen = Vec::new();
    loop {
        let response = world.ask(0, request.clone());
        for topic in &response.topics {
            let name = topic.name.clone().unwrap();
            seen.extend(topic.partitions.iter().map(|p| (name.clone(), p.partition_index)));
        }
        request.cursor = response.next_cursor;
        if request.cursor.is_none() {
            break;
        }
    }
    let expected: Vec<(String, i32)> = [("a", 5), ("b", 2)]
        .iter()
        .flat_map(|(name, count)| (0..*count).map(|index| (String::from(*name), index)))
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn delete_records_moves_the_log_start() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    for value in ["a", "b", "c"] {
        world.produce("t", batch(&[value]));
    }
    let mut delete = |offset| {
        let partition = DeleteRecordsPartition { partition_index: 0, offset };
        let topic = DeleteRecordsTopic { name: "t".into(), partitions: vec![partition] };
        let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms: 0 };
        let said = world.ask(2, request).topics.remove(0).partitions.remove(0);
        (said.low_watermark, said.error_code)
    };
    assert_eq!(delete(2), (2, ErrorCode::NONE));
    assert_eq!(delete(1), (2, ErrorCode::NONE));
    assert_eq!(delete(4), (-1, ErrorCode::OFFSET_OUT_OF_RANGE));
    assert_eq!(world.fetch("t", 1).error_code, ErrorCode::OFFSET_OUT_OF_RANGE);
    assert_eq!(world.values("t", 2), ["c"]);
}

#[test]
fn tools_see_the_cluster_and_the_sizes() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    world.produce("t", batch(&["a"]));
    let cluster = world.ask(2, DescribeClusterRequest { endpoint_type: 1, ..Default::default() });
    assert_eq!((cluster.cluster_id.len(), cluster.brokers.len()), (22, 1));
    let wrong = world.ask(2, DescribeClusterRequest { endpoint_type: 2, ..Default::default() });
    assert_eq!(wrong.error_code, ErrorCode::MISMATCHED_ENDPOINT_TYPE);
    let dirs = world.ask(4, DescribeLogDirsRequest::default());
    let sizes = &dirs.results[0].topics[0].partitions;
    assert!(sizes[0].partition_size > 0 && dirs.results[0].total_bytes > 0);
}
