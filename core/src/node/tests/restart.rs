//! What a restart must bring back, and what it must not read again.

use super::*;
use crate::wire::configs::{
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResource, IncrementalAlterableConfig,
};
use crate::wire::producers::InitProducerIdRequest;

#[test]
fn topics_records_and_the_cluster_id_are_there_again() {
    let mut world = World::new();
    world.create_topic("t", 3, &[("retention.ms", "-1")]);
    world.produce("t", batch(&["a", "b"]));
    let before = world.node.status();
    let mut world = world.restarted();
    let after = world.node.status();
    assert_eq!(after.cluster_id, before.cluster_id);
    assert_eq!(after.topics[0].id, before.topics[0].id);
    assert_eq!(after.topics[0].partitions.len(), 3);
    assert_eq!(world.values("t", 0), ["a", "b"]);
    assert_eq!(world.produce("t", batch(&["c"])).base_offset, 2);
}

#[test]
fn no_producer_id_is_given_out_twice() {
    let mut world = World::new();
    let mut ids = Vec::new();
    for _ in 0..3 {
        for _ in 0..1001 {
            let said = world.ask(4, InitProducerIdRequest::default());
            assert_eq!(said.error_code, ErrorCode::NONE);
            ids.push(said.producer_id);
        }
        world = world.restarted();
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

#[test]
fn a_repeated_batch_is_recognised_after_a_restart() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    let stamp = ProducerStamp { producer_id: 5, ..ProducerStamp::default() };
    world.produce("t", stamped(&["a"], Some(stamp)));
    let mut world = world.restarted();
    let said = world.produce("t", stamped(&["a"], Some(stamp)));
    assert_eq!((said.error_code, said.base_offset), (ErrorCode::NONE, 0));
    assert_eq!(world.values("t", 0), ["a"]);
}

#[test]
fn the_metadata_stays_short_though_it_changes_often() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    for at in 0..15_000 {
        let config = IncrementalAlterableConfig {
            name: "retention.ms".into(),
            config_operation: 0,
            value: Some(alloc::format!("{at}")),
        };
        let resource = IncrementalAlterConfigsResource {
            resource_type: 2,
            resource_name: "t".into(),
            configs: vec![config],
        };
        let request =
            IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
        assert_eq!(world.ask(1, request).responses[0].error_code, ErrorCode::NONE);
    }
    let metadata = world.node.log.partition(PartitionNumber::METADATA).unwrap();
    assert!(metadata.log_start > crate::types::Offset::ZERO && metadata.bytes < 2 << 20);
    let before = world.node.image.clone();
    let world = world.restarted();
    assert_eq!(world.node.image, before);
}
