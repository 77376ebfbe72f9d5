//! A transactional producer: records and committed offsets that become visible together, or not at
//! all.
//!
//! ```text
//! state     event                                       next
//! —         start: InitProducerId (fences, aborts)      ready
//! ready     add: AddPartitionsToTxn, AddOffsetsToTxn    open
//! open      produce, commit_offsets                     open
//! open      end: EndTxn                                 ready
//! any       any error                                   dropped: start anew
//! ```
//!
//! There is no way back after an error but to start anew: what happened is then either committed or
//! aborted by the coordinator, and the group's offsets tell which (KIP-98, KIP-447, KIP-618). This
//! is the first transaction protocol, which every Kafka from 2.5 on speaks.

use std::collections::BTreeMap;
use std::time::Duration;

use weir_core::batch::ProducerStamp;
use weir_core::error::ErrorCode;
use weir_core::wire::producers::{InitProducerIdRequest, InitProducerIdResponse};
use weir_core::wire::txn::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, AddPartitionsToTxnTopic, EndTxnRequest,
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};

use super::error::{Error, Result};
use super::group::{CommittedOffset, by_topic};
use super::produce::{Produced, ToPartition};
use super::{Broker, Client};

/// The name under which the coordinator knows the producer across restarts, and how long it lets
/// one of its transactions stay open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionalId {
    pub id: String,
    pub timeout: Duration,
}

/// A fenced and initialised producer.
pub struct Transaction {
    client: Client,
    id: String,
    producer_id: i64,
    producer_epoch: i16,
    /// The next base sequence by topic and partition.
    sequences: BTreeMap<(String, i32), i32>,
}

impl Client {
    /// A producer id for an idempotent producer, or a transactional one when an id is given.
    pub async fn init_producer_id(
        &self,
        transactional: Option<&TransactionalId>,
    ) -> Result<InitProducerIdResponse> {
        let to = match transactional {
            Some(transactional) => Broker::Transaction(&transactional.id),
            None => Broker::Any,
        };
        let request = InitProducerIdRequest {
            transactional_id: transactional.map(|t| t.id.clone()),
            transaction_timeout_ms: transactional.map_or(0, |t| t.timeout.as_millis() as i32),
            ..Default::default()
        };
        self.retry(to, async || {
            let response = self.request(to, &request).await?;
            Error::check(response.error_code, || format!("a producer id for {}", to.describe()))?;
            Ok(response)
        })
        .await
    }
}

impl Transaction {
    /// Fences every older producer of this transactional id and ends what it left open.
    pub async fn start(client: Client, transactional: &TransactionalId) -> Result<Transaction> {
        let response = client.init_producer_id(Some(transactional)).await?;
        Ok(Transaction {
            client,
            id: transactional.id.clone(),
            producer_id: response.producer_id,
            producer_epoch: response.producer_epoch,
            sequences: BTreeMap::new(),
        })
    }

    /// What the next batch for a partition of so many records is stamped with. Every batch that is
    /// stamped has to be produced, in the order of stamping.
    pub fn stamp(&mut self, topic: &str, partition: i32, records_count: i32) -> ProducerStamp {
        let next = self.sequences.entry((topic.to_string(), partition)).or_default();
        let base_sequence = *next;
        // Sequences go round below 2^31.
        *next = (i64::from(base_sequence) + i64::from(records_count)).rem_euclid(1 << 31) as i32;
        ProducerStamp {
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence,
            transactional: true,
        }
    }

    /// Opens the transaction with the partitions that will be written and the group whose offsets
    /// will be committed. Both requests are on their way at the same time: one round trip.
    pub async fn add(&self, partitions: &[(String, i32)], group: &str) -> Result<()> {
        let (partitions, offsets) =
            futures_lite::future::zip(self.add_partitions(partitions), self.add_offsets(group))
                .await;
        partitions.and(offsets)
    }

    async fn add_partitions(&self, partitions: &[(String, i32)]) -> Result<()> {
        if partitions.is_empty() {
            return Ok(());
        }
        let topics = by_topic(partitions.iter().map(|(topic, index)| (topic.as_str(), *index)));
        let topics = topics.into_iter();
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: self.id.clone(),
            v3_and_below_producer_id: self.producer_id,
            v3_and_below_producer_epoch: self.producer_epoch,
            v3_and_below_topics: topics
                .map(|(name, partitions)| AddPartitionsToTxnTopic { name, partitions })
                .collect(),
            ..Default::default()
        };
        self.client
            .retry(self.coordinator(), async || {
                let response = self.client.request(self.coordinator(), &request).await?;
                let topics = response.results_by_topic_v3_and_below.iter();
                let mut codes: Vec<ErrorCode> = topics
                    .flat_map(|t| &t.results_by_partition)
                    .map(|p| p.partition_error_code)
                    .filter(|code| code.is_error())
                    .collect();
                // When one partition is refused, the others say only that nothing was attempted.
                codes.sort_by_key(|code| *code == ErrorCode::OPERATION_NOT_ATTEMPTED);
                let code = codes.first().copied().unwrap_or(ErrorCode::NONE);
                Error::check(code, || format!("adding partitions to transaction {}", self.id))
            })
            .await
    }

    async fn add_offsets(&self, group: &str) -> Result<()> {
        let request = AddOffsetsToTxnRequest {
            transactional_id: self.id.clone(),
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            group_id: group.to_string(),
        };
        self.client
            .retry(self.coordinator(), async || {
                let response = self.client.request(self.coordinator(), &request).await?;
                let code = response.error_code;
                Error::check(code, || format!("adding offsets to transaction {}", self.id))
            })
            .await
    }

    /// Appends stamped batches, one for each partition. Repeating them is safe: leaders know their
    /// sequences.
    pub async fn produce(&self, batches: &[ToPartition]) -> Vec<Result<Produced>> {
        self.client.produce_many(Some(&self.id), batches).await
    }

    /// Commits offsets of a group with the transaction.
    pub async fn commit_offsets(&self, group: &str, offsets: &[CommittedOffset]) -> Result<()> {
        let mut topics: Vec<TxnOffsetCommitRequestTopic> = Vec::new();
        for committed in offsets {
            let partition = TxnOffsetCommitRequestPartition {
                partition_index: committed.partition,
                committed_offset: committed.offset,
                committed_leader_epoch: committed.leader_epoch,
                committed_metadata: Some(committed.metadata.clone()),
            };
            match topics.iter_mut().find(|t| t.name == committed.topic) {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(TxnOffsetCommitRequestTopic {
                    name: committed.topic.clone(),
                    partitions: vec![partition],
                }),
            }
        }
        let request = TxnOffsetCommitRequest {
            transactional_id: self.id.clone(),
            group_id: group.to_string(),
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            topics,
            ..Default::default()
        };
        let to = Broker::Group(group);
        self.client
            .retry(to, async || {
                let response = self.client.request(to, &request).await?;
                for partition in response.topics.iter().flat_map(|t| &t.partitions) {
                    let context = || format!("committing offsets in transaction {}", self.id);
                    Error::check(partition.error_code, context)?;
                }
                Ok(())
            })
            .await
    }

    /// Commits or aborts. After an error nobody knows which it was: start anew and read the offsets
    /// back.
    pub async fn end(&self, commit: bool) -> Result<()> {
        let request = EndTxnRequest {
            transactional_id: self.id.clone(),
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            committed: commit,
        };
        self.client
            .retry(self.coordinator(), async || {
                let response = self.client.request(self.coordinator(), &request).await?;
                Error::check(response.error_code, || format!("ending transaction {}", self.id))
            })
            .await
    }

    fn coordinator(&self) -> Broker<'_> {
        Broker::Transaction(&self.id)
    }
}
