//! What the image and the plans must hold.

use super::*;
use crate::error::ErrorCode;
use crate::rng::Rng;
use crate::types::NodeId;

const NODE: NodeId = NodeId(1);

/// Plans, applies what was planned, and hands out what the planner said.
fn change<T>(image: &mut Image, seed: u64, wish: impl FnOnce(&mut Plan<'_>) -> T) -> T {
    let before = image.clone();
    let mut rng = Rng::new(seed);
    let mut plan = Plan::new(&before, NODE, &mut rng);
    let answer = wish(&mut plan);
    for record in plan.into_records() {
        image.apply(&record, seed);
    }
    answer
}

fn new_topic(name: &str, partitions: i32) -> NewTopic {
    NewTopic { name: name.into(), partitions, replication_factor: -1, ..NewTopic::default() }
}

const DEFAULTS: TopicDefaults = TopicDefaults { partitions: 3, replication_factor: None };

fn create(image: &mut Image, name: &str, partitions: i32) -> Result<CreatedTopic, ErrorCode> {
    let seed = u64::from(image.next_partition);
    change(image, seed, |plan| plan.create_topic(&new_topic(name, partitions), DEFAULTS))
        .map_err(|refusal| refusal.code)
}

#[test]
fn a_snapshot_builds_the_same_image() {
    let mut image = Image::new(Configs::new());
    image.apply(&Record::Cluster { id: TopicId([1; 16]) }, 1);
    create(&mut image, "a", 2).unwrap();
    create(&mut image, "b", -1).unwrap();
    let b = image.topic("b").unwrap().clone();
    change(&mut image, 2, |plan| plan.delete_topic(&b)).unwrap();
    let a = image.topic("a").unwrap().clone();
    let set = [("retention.ms".into(), ConfigOperation::Set, Some("5".into()))];
    change(&mut image, 3, |plan| plan.alter_configs(&a, &set)).unwrap();
    change(&mut image, 4, |plan| plan.take_producer_ids(1000));
    assert_eq!(image.level(), 1);
    image.apply(&Record::Level { level: 2 }, 5);
    let mut copy = Image::new(Configs::new());
    for _ in 0..2 {
        image.snapshot().iter().for_each(|record| copy.apply(record, 9));
        assert_eq!(copy, image);
    }
}

#[test]
fn records_come_back_as_they_were_written() {
    let mut image = Image::new(Configs::new());
    for at in 0..400 {
        create(&mut image, &alloc::format!("topic{at}"), 20).unwrap();
    }
    let records = image.snapshot();
    let bytes = postcard::to_allocvec(&records).unwrap();
    let back: Vec<Record> = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(back, records);
}

#[test]
fn a_partition_number_is_never_given_out_twice() {
    let mut image = Image::new(Configs::new());
    create(&mut image, "a", 3).unwrap();
    let a = image.topic("a").unwrap().clone();
    change(&mut image, 2, |plan| plan.delete_topic(&a)).unwrap();
    create(&mut image, "a", 3).unwrap();
    let again = image.topic("a").unwrap();
    assert_ne!(again.id, a.id);
    assert!(again.partitions.iter().all(|number| !a.partitions.contains(number)));
}

#[test]
fn topic_names_are_judged_as_kafka_judges_them() {
    let long = "x".repeat(250);
    for bad in ["", ".", "..", "a b", "a/b", "ä", long.as_str()] {
        assert_eq!(check_name(bad).unwrap_err().code, ErrorCode::INVALID_TOPIC_EXCEPTION);
    }
    assert_eq!(check_name("a.b_c-9"), Ok(()));
    let mut image = Image::new(Configs::new());
    create(&mut image, "a.b", 1).unwrap();
    assert_eq!(create(&mut image, "a_b", 1), Err(ErrorCode::INVALID_TOPIC_EXCEPTION));
    assert_eq!(create(&mut image, "a.b", 1), Err(ErrorCode::TOPIC_ALREADY_EXISTS));
}

#[test]
fn what_a_lone_gateway_cannot_do_is_refused_with_kafkas_codes() {
    let mut image = Image::new(Configs::new());
    let mut check = |new: NewTopic, code| {
        let said = change(&mut image, 9, |plan| plan.create_topic(&new, DEFAULTS));
        assert_eq!(said.unwrap_err().code, code);
    };
    check(new_topic("a", 0), ErrorCode::INVALID_PARTITIONS);
    check(new_topic("a", 10_001), ErrorCode::POLICY_VIOLATION);
    check(
        NewTopic { replication_factor: 2, ..new_topic("a", 1) },
        ErrorCode::INVALID_REPLICATION_FACTOR,
    );
    check(
        NewTopic { assignments: [(0, [2].into())].into(), ..new_topic("a", -1) },
        ErrorCode::INVALID_REPLICA_ASSIGNMENT,
    );
    check(
        NewTopic { assignments: [(1, [1].into())].into(), ..new_topic("a", -1) },
        ErrorCode::INVALID_REPLICA_ASSIGNMENT,
    );
    check(
        NewTopic { assignments: [(0, [1].into())].into(), ..new_topic("a", 1) },
        ErrorCode::INVALID_REQUEST,
    );
    check(
        NewTopic {
            configs: [("retention.ms".into(), Some("x".into()))].into(),
            ..new_topic("a", 1)
        },
        ErrorCode::INVALID_CONFIG,
    );
}

#[test]
fn list_configs_grow_and_shrink_by_elements() {
    let mut image = Image::new(Configs::new());
    create(&mut image, "a", 1).unwrap();
    let mut alter = |operation, value: &str| {
        let topic = image.topic("a").unwrap().clone();
        let changes = [("cleanup.policy".into(), operation, Some(value.into()))];
        let said = change(&mut image, 9, |plan| plan.alter_configs(&topic, &changes));
        (said.is_ok(), image.topic("a").unwrap().configs.get("cleanup.policy").cloned())
    };
    assert_eq!(alter(ConfigOperation::Append, "compact"), (true, Some("delete,compact".into())));
    assert_eq!(alter(ConfigOperation::Append, "compact"), (true, Some("delete,compact".into())));
    assert_eq!(alter(ConfigOperation::Subtract, "delete"), (true, Some("compact".into())));
    assert_eq!(alter(ConfigOperation::Set, "wrong"), (false, Some("compact".into())));
}

#[test]
fn partitions_only_grow() {
    let mut image = Image::new(Configs::new());
    create(&mut image, "a", 2).unwrap();
    let mut grow = |total| {
        let topic = image.topic("a").unwrap().clone();
        let said = change(&mut image, 9, |plan| plan.create_partitions(&topic, total, None));
        (said.map_err(|r| r.code), image.topic("a").unwrap().partitions.len())
    };
    assert_eq!(grow(2), (Err(ErrorCode::INVALID_PARTITIONS), 2));
    assert_eq!(grow(1), (Err(ErrorCode::INVALID_PARTITIONS), 2));
    assert_eq!(grow(5), (Ok(()), 5));
}
