//! What a restart must bring back, and what it must not read again.

use super::*;
use crate::log::{self, Append, Lane, Log, Policy};
use crate::metadata::Record;
use crate::types::{LeaderEpoch, Offset};
use crate::wire::api_versions::ApiVersionsRequest;
use crate::wire::configs::{
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResource, IncrementalAlterableConfig,
};
use crate::wire::producers::InitProducerIdRequest;
use alloc::string::ToString;

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
fn a_log_without_a_level_gets_one_that_tools_see() {
    let mut world = World::with(|settings| settings.release.settle = Nanos(1));
    world.until(|world| world.node.site_status(world.now).level == 2);
    let world = &mut world.restarted();
    let named = ApiVersionsRequest {
        client_software_name: "kafka-features".into(),
        client_software_version: "4.3".into(),
    };
    let finalized = world.ask(4, named).finalized_features;
    assert_eq!(finalized.len(), 1);
    assert_eq!((&*finalized[0].name, finalized[0].max_version_level), ("weir.level", 2));
}

#[test]
#[should_panic(expected = "refused: NewerMetadata { known: 1 }")]
fn an_older_release_than_the_level_is_refused_the_log() {
    let mut world = World::with(|settings| settings.release.settle = Nanos(1));
    world.until(|world| world.node.site_status(world.now).level == 2);
    World::start(world.medium, Start::Recover, |settings| settings.release.level = 1);
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
    assert!(metadata.log_start > Offset::ZERO && metadata.bytes < 2 << 20);
    let before = world.node.image.clone();
    let world = world.restarted();
    let after = &world.node.image;
    assert_eq!(after.cluster_id(), before.cluster_id());
    assert!(after.topics().eq(before.topics()) && after.states().eq(before.states()));
    let epoch = |image: &Image| image.broker(NodeId(1)).map(|broker| broker.epoch);
    assert!(epoch(after) > epoch(&before), "it has registered anew");
}

/// The medium of a release that had no quorum: plain records, of which the first two are trimmed
/// because the image was written anew behind them.
fn older_store() -> Vec<u8> {
    let mut world = World::new();
    let start = Start::Format { store: [9; 16], slot_bytes: SLOT_BYTES, slots: SLOTS };
    let settings = log::Settings {
        start,
        medium_bytes: 0,
        node: NodeId(1),
        flush_cap: None,
        flush_window: log::FLUSH_WINDOW,
        checkpoint_bytes: 4 << 20,
        tail_cache_bytes: 1 << 20,
        footer_cache_bytes: 1 << 20,
        index_runs_max: 10_000,
    };
    let mut log = Log::open(settings);
    world.medium.clear();
    world.run_log(&mut log);
    log.set_partition(PartitionNumber::METADATA, Policy::for_ever(Lane::Meta));
    let (id, topic) = (TopicId([3; 16]), TopicId([4; 16]));
    let configs = vec![("retention.ms".into(), "77".into())];
    let numbers = vec![PartitionNumber(1), PartitionNumber(2)];
    let old = Record::NextProducerId { id: 5 };
    for record in [
        old.clone(),
        old,
        Record::Cluster { id },
        Record::Topic { id: topic, name: "t".into(), configs },
        Record::Partitions { topic, first_index: 0, numbers },
    ] {
        let mut builder = Builder::new();
        builder.push(5, None, Some(&postcard::to_allocvec(&record).unwrap()), &[]);
        let batch = Bytes::from(builder.build(None));
        let header = crate::batch::Header::parse(&batch).unwrap();
        let partition = PartitionNumber::METADATA;
        let base_offset = log.partition(partition).unwrap().log_end;
        let leader_epoch = LeaderEpoch(0);
        let append = Append { partition, leader_epoch, base_offset, header, batch };
        log.append(world.now, append).unwrap();
        world.run_log(&mut log);
    }
    log.trim(world.now, PartitionNumber::METADATA, Offset(2));
    world.run_log(&mut log);
    world.medium
}

#[test]
fn a_store_of_a_release_without_quorum_keeps_what_it_has() {
    let mut world = World::start(older_store(), Start::Recover, |_| {});
    for _ in 0..2 {
        let status = world.node.status();
        assert_eq!(status.cluster_id, TopicId([3; 16]).to_string());
        let topic = world.node.image.topic("t").unwrap();
        assert_eq!((topic.partitions.len(), topic.policy.retention.ms), (2, 77));
        let leader = world.node.image.leader(PartitionNumber(2));
        assert_eq!(leader, Some(NodeId(1)), "it leads what it has had alone");
        world.produce("t", batch(&["a"]));
        world = world.restarted();
    }
    assert_eq!(world.values("t", 0), ["a", "a"]);
}
