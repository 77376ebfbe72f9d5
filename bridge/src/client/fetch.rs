//! Record batches from the leaders of partitions, and which offsets there are.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use weir_core::error::ErrorCode;
use weir_core::wire::Records;
use weir_core::wire::fetch::{
    AbortedTransaction, FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData,
};
use weir_core::wire::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};

use super::error::{Error, ErrorKind, Result};
use super::{Broker, Client};

/// Instead of a timestamp: the log start offset.
pub const EARLIEST: i64 = -2;
/// Instead of a timestamp: the last stable offset.
pub const LATEST: i64 = -1;

/// Fetches see committed transactions only.
const READ_COMMITTED: i8 = 1;

/// Who asks where a partition ends: a consumer, which may read that far, or somebody who wants to
/// know where the leader's log ends (the ids are Kafka's).
const CONSUMER: i32 = -1;
const DEBUGGING: i32 = -2;

/// A partition and where to read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchFrom {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// How long brokers wait until `min_bytes` are there.
    pub max_wait: Duration,
    pub min_bytes: i32,
    /// Bytes of one answer, and of one partition in it. A first batch that is larger comes whole.
    pub max_bytes: i32,
    pub partition_max_bytes: i32,
}

impl Default for FetchLimits {
    fn default() -> FetchLimits {
        FetchLimits {
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            max_bytes: 1 << 20,
            partition_max_bytes: 1 << 20,
        }
    }
}

/// What the leader has from an offset on.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub topic: String,
    pub partition: i32,
    pub error_code: ErrorCode,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start_offset: i64,
    pub aborted_transactions: Vec<AbortedTransaction>,
    /// Whole batches, the last one perhaps cut off. The first may start before the offset asked
    /// for.
    pub records: Bytes,
}

/// An offset by time, as ListOffsets has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetAt {
    pub topic: String,
    pub partition: i32,
    pub error_code: ErrorCode,
    pub timestamp: i64,
    pub offset: i64,
}

impl Client {
    /// Reads on from some offsets, each at its leader, with one request to each broker at the same
    /// time. What concerns single partitions stands in the answer, as a code; it is learnt from.
    pub async fn fetch(&self, from: &[FetchFrom], limits: FetchLimits) -> Result<Vec<Fetched>> {
        let mut leaders: BTreeMap<i32, Vec<&FetchFrom>> = BTreeMap::new();
        let mut fetched = Vec::new();
        for want in from {
            match self.leader(&want.topic, want.partition).await {
                Ok(leader) => leaders.entry(leader).or_default().push(want),
                Err(Error { kind: ErrorKind::Code(code), .. }) => {
                    fetched.push(Fetched::failed(want, code));
                }
                Err(error) => return Err(error),
            }
        }
        let requests = leaders.into_iter().map(async |(leader, wants)| {
            let request = fetch_request(&wants, limits);
            let response = self.request_held(Broker::Node(leader), &request, limits.max_wait);
            let response: Result<FetchResponse> = response.await;
            let response = response.and_then(|response| {
                Error::check(response.error_code, || format!("fetching from node {leader}"))?;
                Ok(response)
            });
            (wants, response)
        });
        let responses = join_all(requests).await;
        let one_works = responses.iter().any(|(_, response)| response.is_ok());
        for (wants, response) in responses {
            let response = match response {
                Ok(response) => response,
                // One broker of several is away: the others are read on.
                Err(error) if one_works => {
                    log::debug!("{error}");
                    let code = error.code().unwrap_or(ErrorCode::NETWORK_EXCEPTION);
                    fetched.extend(wants.into_iter().map(|want| Fetched::failed(want, code)));
                    continue;
                }
                Err(error) => return Err(error),
            };
            for topic in response.responses {
                for partition in topic.partitions {
                    if leader_moved(partition.error_code) {
                        self.forget(Broker::Leader(&topic.topic, partition.partition_index));
                    }
                    fetched.push(Fetched::new(topic.topic.clone(), partition));
                }
            }
        }
        Ok(fetched)
    }

    /// The offset of the first record at or after a timestamp, or of [`EARLIEST`] and [`LATEST`],
    /// for some partitions. An offset of -1 says that there is no such record.
    pub async fn list_offsets(&self, wanted: &[(String, i32, i64)]) -> Result<Vec<OffsetAt>> {
        let mut found = Vec::new();
        for (topic, partition, timestamp) in wanted {
            let to = Broker::Leader(topic, *partition);
            let one = self.retry(to, async || {
                self.list_offset_once(CONSUMER, topic, *partition, *timestamp).await
            });
            found.push(one.await?);
        }
        Ok(found)
    }

    /// Where the leader's log of a partition ends, whether its followers have all of it or not.
    pub async fn log_end(&self, topic: &str, partition: i32) -> Result<i64> {
        let to = Broker::Leader(topic, partition);
        let asked = async || self.list_offset_once(DEBUGGING, topic, partition, LATEST).await;
        Ok(self.retry(to, asked).await?.offset)
    }

    async fn list_offset_once(
        &self,
        replica_id: i32,
        topic: &str,
        partition: i32,
        at: i64,
    ) -> Result<OffsetAt> {
        let request = ListOffsetsRequest {
            replica_id,
            isolation_level: READ_COMMITTED,
            topics: vec![ListOffsetsTopic {
                name: topic.to_string(),
                partitions: vec![ListOffsetsPartition {
                    partition_index: partition,
                    timestamp: at,
                    ..Default::default()
                }],
            }],
            timeout_ms: self.settings().request_timeout.as_millis() as i32,
        };
        let response = self.request(Broker::Leader(topic, partition), &request).await?;
        let mut answers = response.topics.into_iter().flat_map(|t| t.partitions);
        let context = || format!("listing offsets of {topic}-{partition}");
        let answer = answers.next().ok_or_else(|| Error::new(ErrorKind::Malformed, context()))?;
        Error::check(answer.error_code, context)?;
        Ok(OffsetAt {
            topic: topic.to_string(),
            partition,
            error_code: answer.error_code,
            timestamp: answer.timestamp,
            offset: answer.offset,
        })
    }
}

impl Fetched {
    fn failed(want: &FetchFrom, error_code: ErrorCode) -> Fetched {
        Fetched {
            topic: want.topic.clone(),
            partition: want.partition,
            error_code,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            aborted_transactions: Vec::new(),
            records: Bytes::new(),
        }
    }

    fn new(topic: String, partition: PartitionData) -> Fetched {
        Fetched {
            topic,
            partition: partition.partition_index,
            error_code: partition.error_code,
            high_watermark: partition.high_watermark,
            last_stable_offset: partition.last_stable_offset,
            log_start_offset: partition.log_start_offset,
            aborted_transactions: partition.aborted_transactions.unwrap_or_default(),
            records: one_piece(&partition.records),
        }
    }
}

fn leader_moved(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NOT_LEADER_OR_FOLLOWER
            | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
            | ErrorCode::LEADER_NOT_AVAILABLE
            | ErrorCode::FENCED_LEADER_EPOCH
            | ErrorCode::UNKNOWN_LEADER_EPOCH
    )
}

fn one_piece(records: &Records) -> Bytes {
    match records.pieces() {
        [] => Bytes::new(),
        [one] => one.clone(),
        pieces => pieces.concat().into(),
    }
}

fn fetch_request(wants: &[&FetchFrom], limits: FetchLimits) -> FetchRequest {
    let mut topics: Vec<FetchTopic> = Vec::new();
    for want in wants {
        let partition = FetchPartition {
            partition: want.partition,
            fetch_offset: want.offset,
            partition_max_bytes: limits.partition_max_bytes,
            ..Default::default()
        };
        // The order is kept: brokers fill an answer in the order in which they are asked.
        match topics.last_mut() {
            Some(last) if last.topic == want.topic => last.partitions.push(partition),
            _ => topics.push(FetchTopic {
                topic: want.topic.clone(),
                partitions: vec![partition],
                ..Default::default()
            }),
        }
    }
    FetchRequest {
        max_wait_ms: limits.max_wait.as_millis() as i32,
        min_bytes: limits.min_bytes,
        max_bytes: limits.max_bytes,
        isolation_level: READ_COMMITTED,
        topics,
        ..Default::default()
    }
}

/// Runs futures at the same time and gives their results in order.
pub(crate) async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|context| {
        let mut waiting = false;
        for (future, output) in &mut running {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    running.into_iter().map(|(_, output)| output.expect("every future has ended")).collect()
}
