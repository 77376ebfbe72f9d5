//! Record batches to the leader of a partition.

use std::time::Duration;

use bytes::Bytes;
use weir_core::wire::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, TopicProduceData,
};

use super::error::{Error, ErrorKind, Result};
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

impl Client {
    /// Appends one batch and repeats it while it fails with what may pass. A batch that carries no producer
    /// id may then be there twice.
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
        let timeout = self.settings().request_timeout;
        let request = ProduceRequest {
            transactional_id: transactional_id.map(str::to_string),
            acks: acks as i16,
            timeout_ms: timeout.as_millis() as i32,
            topic_data: vec![TopicProduceData {
                name: topic.to_string(),
                partition_data: vec![PartitionProduceData {
                    index: partition,
                    records: batch.into(),
                }],
                ..Default::default()
            }],
        };
        let to = Broker::Leader(topic, partition);
        let response = self.request_held(to, &request, Duration::ZERO).await?;
        let answers = response.responses.into_iter().filter(|t| t.name == topic);
        let mut answers = answers.flat_map(|t| t.partition_responses);
        let answer = answers.find(|p| p.index == partition).ok_or_else(|| {
            Error::new(ErrorKind::Malformed, format!("producing to {topic}-{partition}"))
        })?;
        if answer.error_code.is_error() && answer.error_code.is_retriable() {
            self.forget(to);
        }
        Error::check(answer.error_code, || refusal(topic, &answer))?;
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
