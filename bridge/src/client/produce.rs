//! Record batches to the leader of a partition.

use std::collections::BTreeMap;

use bytes::Bytes;
use weir_core::wire::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse,
    TopicProduceData,
};

use super::error::{Error, ErrorKind, Result};
use super::fetch::join_all;
use super::{Broker, Client};

/// How far a batch must have come before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    Leader = 1,
    All = -1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    pub base_offset: i64,
    /// -1 unless the topic keeps append times.
    pub log_append_time_ms: i64,
}

/// A batch and where it goes.
#[derive(Clone, Debug)]
pub struct ToPartition {
    pub topic: String,
    pub partition: i32,
    pub batch: Bytes,
}

impl Client {
    /// Appends one batch and repeats it while it fails with what may pass. A batch that carries no
    /// producer id may then be there twice.
    pub async fn produce(
        &self,
        topic: &str,
        partition: i32,
        batch: Bytes,
        acks: Acks,
    ) -> Result<Produced> {
        let to = Broker::Leader(topic, partition);
        self.retry(to, async || {
            self.produce_once(None, topic, partition, batch.clone(), acks).await
        })
        .await
    }

    /// Appends one batch, which belongs to a transaction if an id is given.
    pub async fn produce_once(
        &self,
        transactional_id: Option<&str>,
        topic: &str,
        partition: i32,
        batch: Bytes,
        acks: Acks,
    ) -> Result<Produced> {
        let to = Broker::Leader(topic, partition);
        let batch = ToPartition { topic: topic.to_string(), partition, batch };
        let request = self.produce_request(transactional_id, &[&batch], acks);
        let response = self.request(to, &request).await?;
        self.produced(&response, &batch)
    }

    /// Appends one batch to each of many partitions, with one request to each leader at the same
    /// time. What fails with what may pass is repeated by itself; with a producer id, leaders know
    /// a repeated batch.
    pub async fn produce_many(
        &self,
        transactional_id: Option<&str>,
        batches: &[ToPartition],
    ) -> Vec<Result<Produced>> {
        let mut leaders: BTreeMap<i32, Vec<&ToPartition>> = BTreeMap::new();
        for batch in batches {
            if let Ok(leader) = self.leader(&batch.topic, batch.partition).await {
                leaders.entry(leader).or_default().push(batch);
            }
        }
        let requests = leaders.into_iter().map(async |(leader, batches)| {
            let request = self.produce_request(transactional_id, &batches, Acks::All);
            self.request(Broker::Node(leader), &request).await
        });
        let responses = join_all(requests).await;
        let mut produced = Vec::new();
        for batch in batches {
            let answers = responses.iter().flatten();
            let answer = answers
                .map(|r| self.produced(r, batch))
                .find(|answer| !matches!(answer, Err(Error { kind: ErrorKind::Malformed, .. })));
            produced.push(match answer {
                Some(Ok(answer)) => Ok(answer),
                Some(Err(error)) if !error.is_retriable() => Err(error),
                _ => self.produce_again(transactional_id, batch).await,
            });
        }
        produced
    }

    async fn produce_again(&self, id: Option<&str>, again: &ToPartition) -> Result<Produced> {
        let ToPartition { topic, partition, batch } = again;
        self.retry(Broker::Leader(topic, *partition), async || {
            self.produce_once(id, topic, *partition, batch.clone(), Acks::All).await
        })
        .await
    }

    fn produce_request(
        &self,
        transactional_id: Option<&str>,
        batches: &[&ToPartition],
        acks: Acks,
    ) -> ProduceRequest {
        let mut topic_data: Vec<TopicProduceData> = Vec::new();
        for batch in batches {
            let partition = PartitionProduceData {
                index: batch.partition,
                records: batch.batch.clone().into(),
            };
            match topic_data.iter_mut().find(|topic| topic.name == batch.topic) {
                Some(topic) => topic.partition_data.push(partition),
                None => topic_data.push(TopicProduceData {
                    name: batch.topic.clone(),
                    partition_data: vec![partition],
                    ..Default::default()
                }),
            }
        }
        ProduceRequest {
            transactional_id: transactional_id.map(str::to_string),
            acks: acks as i16,
            timeout_ms: self.settings().request_timeout.as_millis() as i32,
            topic_data,
        }
    }

    /// The answer for one batch; `Malformed` when there is none.
    fn produced(&self, response: &ProduceResponse, batch: &ToPartition) -> Result<Produced> {
        let (topic, partition) = (&batch.topic, batch.partition);
        let answers = response.responses.iter().filter(|answer| answer.name == *topic);
        let mut answers = answers.flat_map(|answer| &answer.partition_responses);
        let answer = answers.find(|answer| answer.index == partition).ok_or_else(|| {
            Error::new(ErrorKind::Malformed, format!("producing to {topic}-{partition}"))
        })?;
        if answer.error_code.is_error() && answer.error_code.is_retriable() {
            self.forget(Broker::Leader(topic, partition));
        }
        Error::check(answer.error_code, || refusal(topic, answer))?;
        Ok(Produced {
            base_offset: answer.base_offset,
            log_append_time_ms: answer.log_append_time_ms,
        })
    }
}

/// What was refused, with the broker's own words where it has some.
fn refusal(topic: &str, answer: &PartitionProduceResponse) -> String {
    let partition = answer.index;
    let record = answer.record_errors.iter().find_map(|e| e.batch_index_error_message.as_ref());
    match record.or(answer.error_message.as_ref()) {
        Some(message) => format!("producing to {topic}-{partition}: {message}"),
        None => format!("producing to {topic}-{partition}"),
    }
}
