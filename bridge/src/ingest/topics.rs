//! Topics that records are pushed to: created where they are missing, and where their partitions
//! end.

use super::{Found, FoundPartition, TopicNumber, Wanted};
use crate::client::{Broker, Client, Error, LATEST, NewTopic, Partition};
use std::time::Duration;
use weir_core::error::ErrorCode;
use weir_core::types::NodeId;
use weir_core::wire::topics::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};

const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Makes sure that a topic is there, and all its partitions. Tries until it works: what waits for
/// the topic is kept meanwhile, and nobody else could do better.
pub(crate) async fn open(client: &Client, wanted: &Wanted) -> Found {
    let mut pause = PAUSE;
    loop {
        match open_once(client, wanted).await {
            Ok(found) => return found,
            Err(error) if error.is_retriable() => log::debug!("mqtt: {error}; trying again"),
            Err(error) => log::warn!("mqtt: topic {}: {error}; trying again", wanted.name),
        }
        smol::Timer::after(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn open_once(client: &Client, wanted: &Wanted) -> Result<Found, Error> {
    let topic = match client.topic(&wanted.name).await {
        Err(error) if error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => {
            create(client, wanted).await?;
            client.topic(&wanted.name).await?
        }
        topic => topic?,
    };
    let ends: Vec<_> =
        topic.partitions.iter().map(|p| (wanted.name.clone(), p.index, LATEST)).collect();
    let ends = client.list_offsets(&ends).await?;
    let end = |index: i32| {
        let found = ends.iter().find(|end| end.partition == index);
        found.map_or(0, |end| end.offset.max(0))
    };
    let found = |p: &Partition| FoundPartition { end: end(p.index), leader: NodeId(p.leader) };
    Ok(Found { id: topic.id, partitions: topic.partitions.iter().map(found).collect() })
}

/// Who leads the partitions of topics, by index; an empty list where that was not learnt.
pub(crate) async fn leaders(
    client: &Client,
    sought: Vec<(TopicNumber, String)>,
) -> Vec<(TopicNumber, Vec<(i32, NodeId)>)> {
    let names: Vec<&str> = sought.iter().map(|(_, name)| name.as_str()).collect();
    let topics = match client.cluster(Some(&names)).await {
        Ok(cluster) => cluster.topics,
        Err(error) => {
            log::debug!("mqtt: {error}");
            Vec::new()
        }
    };
    let leaders = |name: &str| {
        let topic = topics.iter().find(|topic| topic.name == name);
        let partitions = topic.into_iter().flat_map(|topic| &topic.partitions);
        partitions.map(|p| (p.index, NodeId(p.leader))).collect()
    };
    sought.iter().map(|(topic, name)| (*topic, leaders(name))).collect()
}

async fn create(client: &Client, wanted: &Wanted) -> Result<(), Error> {
    // "delete" beside "compact", without a time or a size, allows to delete records by offset.
    let compacted =
        [("cleanup.policy", "compact,delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")];
    let configs: &[_] = if wanted.compacted { &compacted } else { &[] };
    let topic = NewTopic {
        name: wanted.name.clone(),
        partitions: wanted.partitions as i32,
        replication_factor: -1,
        configs: configs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
    };
    match client.create_topic(&topic).await {
        Err(error) if error.code() == Some(ErrorCode::TOPIC_ALREADY_EXISTS) => {}
        created => {
            created?;
            log::info!("mqtt: created topic {} ({} partitions)", wanted.name, wanted.partitions);
        }
    }
    Ok(())
}

/// Deletes the records of a topic's only partition below an offset.
pub(crate) async fn delete_below(client: &Client, name: &str, offset: i64) -> Result<(), Error> {
    let request = DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic {
            name: name.into(),
            partitions: vec![DeleteRecordsPartition { partition_index: 0, offset }],
        }],
        timeout_ms: 30_000,
    };
    let response = client.request(Broker::Leader(name, 0), &request).await?;
    let mut results = response.topics.iter().flat_map(|topic| &topic.partitions);
    results.try_for_each(|result| {
        Error::check(result.error_code, || format!("deleting records of {name} below {offset}"))
    })
}
