//! Topics that records are pushed to: created where they are missing, and where their partitions
//! end.

use super::Wanted;
use crate::client::{Broker, Client, Error, LATEST, NewTopic};
use std::time::Duration;
use weir_core::error::ErrorCode;
use weir_core::wire::topics::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};

const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Makes sure that a topic is there; returns the ends of its partitions by index. Tries until it
/// works: what waits for the topic is kept meanwhile, and nobody else could do better.
pub(crate) async fn open(client: &Client, wanted: &Wanted) -> Vec<i64> {
    let mut pause = PAUSE;
    loop {
        match open_once(client, wanted).await {
            Ok(ends) => return ends,
            Err(error) if error.is_retriable() => log::debug!("mqtt: {error}; trying again"),
            Err(error) => log::warn!("mqtt: topic {}: {error}; trying again", wanted.name),
        }
        smol::Timer::after(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn open_once(client: &Client, wanted: &Wanted) -> Result<Vec<i64>, Error> {
    let topic = match client.topic(&wanted.name).await {
        Err(error) if error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => {
            create(client, wanted).await?;
            client.topic(&wanted.name).await?
        }
        topic => topic?,
    };
    let ends: Vec<_> =
        topic.partitions.iter().map(|p| (wanted.name.clone(), p.index, LATEST)).collect();
    let mut ends = client.list_offsets(&ends).await?;
    ends.sort_by_key(|end| end.partition);
    Ok(ends.into_iter().map(|end| end.offset.max(0)).collect())
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
