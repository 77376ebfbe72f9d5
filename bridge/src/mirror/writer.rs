//! The target's side of a route: each load in one transaction with the source positions behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_core::batch::{ProducerStamp, seal};
use weir_core::error::ErrorCode;
use weir_core::types::TopicId;

use super::position::{Metadata, Pair};
use super::reader::{Key, Load, LoadPart};
use super::rebatch::Piece;
use crate::client::{
    self, Client, CommittedOffset, Error, Produced, ToPartition, Transaction, TransactionalId,
};

/// A partition as the target has it.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub target_topic: String,
    /// The next source offset.
    pub position: i64,
    pub metadata: Metadata,
}

/// Why a load did not arrive.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: Error,
    /// The target will never take this piece of this partition as it is.
    pub refused: Option<(Key, Piece)>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, refused: None }
    }
}

pub(super) struct Writer {
    pub target: Client,
    /// `None` for a target without transactions.
    transaction: Option<Transaction>,
    /// The group that holds the positions.
    group: String,
    pub written: BTreeMap<Key, Written>,
}

impl Writer {
    /// Fences whoever had the route before, then reads the positions back: in this order, so that
    /// nobody moves them afterwards.
    pub async fn start(
        target: Client,
        transactional: Option<&TransactionalId>,
        group: String,
    ) -> client::Result<(Writer, Vec<CommittedOffset>)> {
        let transaction = match transactional {
            Some(id) => Some(Transaction::start(target.clone(), id).await?),
            None => None,
        };
        let committed = target.committed(&group, None, true).await?;
        let writer = Writer { target, transaction, group, written: BTreeMap::new() };
        Ok((writer, committed))
    }

    /// Sends a load. With `all`, every position is committed anew, also those that did not move: a
    /// target forgets offsets that are never renewed.
    pub async fn commit(&mut self, load: &Load, all: bool) -> Result<(), Failure> {
        let mut next = self.written.clone();
        for part in &load.parts {
            if let Some(written) = next.get_mut(&part.key) {
                written.position = part.next;
                if !part.pieces.is_empty() {
                    written.metadata.pairs.clear();
                }
            }
        }
        let partitions: Vec<(String, i32)> = load
            .parts
            .iter()
            .filter(|part| !part.pieces.is_empty())
            .filter_map(|part| Some((next.get(&part.key)?.target_topic.clone(), part.key.1)))
            .collect();
        if let Some(transaction) = &self.transaction {
            transaction.add(&partitions, &self.group).await?;
        }
        self.produce(load, &mut next).await?;
        let moved = |key: &Key| load.parts.iter().any(|part| part.key == *key);
        let offsets: Vec<CommittedOffset> = next
            .iter()
            .filter(|(key, _)| all || moved(key))
            .map(|(key, written)| CommittedOffset {
                topic: written.target_topic.clone(),
                partition: key.1,
                offset: written.position,
                leader_epoch: -1,
                metadata: written.metadata.encode(),
            })
            .collect();
        match &self.transaction {
            Some(transaction) => {
                transaction.commit_offsets(&self.group, &offsets).await?;
                transaction.end(true).await?;
            }
            None => self.target.commit(&self.group, &offsets).await?,
        }
        self.written = next;
        Ok(())
    }

    /// Ends an open transaction, so that readers of the target need not wait for its time-out.
    pub async fn abort(&self) {
        if let Some(transaction) = &self.transaction
            && let Err(error) = transaction.end(false).await
        {
            log::debug!("mirror: the transaction was not aborted: {error}");
        }
    }

    /// Sends the first pieces of all partitions, then the second ones, and so on: a request carries
    /// one batch of a partition.
    async fn produce(
        &mut self,
        load: &Load,
        next: &mut BTreeMap<Key, Written>,
    ) -> Result<(), Failure> {
        let rounds = load.parts.iter().map(|part| part.pieces.len()).max().unwrap_or(0);
        for round in 0..rounds {
            let mut batches = Vec::new();
            let mut sent: Vec<(&LoadPart, &Piece)> = Vec::new();
            for part in &load.parts {
                if let Some(piece) = part.pieces.get(round)
                    && let Some(written) = self.written.get(&part.key)
                {
                    let topic = written.target_topic.clone();
                    let stamp = self.transaction.as_mut().map(|transaction| {
                        transaction.stamp(&topic, part.key.1, piece.header.records_count)
                    });
                    batches.push(to_partition(topic, part.key.1, piece, stamp));
                    sent.push((part, piece));
                }
            }
            let answers = match &self.transaction {
                Some(transaction) => transaction.produce(&batches).await,
                None => self.target.produce_many(None, &batches).await,
            };
            for ((part, piece), answer) in sent.into_iter().zip(answers) {
                let produced = answer.map_err(|error| failure(error, part, piece))?;
                if let Some(written) = next.get_mut(&part.key) {
                    written.metadata.pairs.push(pair(piece, &produced));
                }
            }
        }
        Ok(())
    }
}

impl Written {
    pub fn new(target_topic: String, position: i64, topic_id: TopicId) -> Written {
        let metadata = Metadata { topic_id, ..Metadata::default() };
        Written { target_topic, position, metadata }
    }
}

fn pair(piece: &Piece, produced: &Produced) -> Pair {
    Pair {
        first: piece.first,
        last: piece.last,
        target: produced.base_offset,
        records: piece.header.records_count,
    }
}

fn to_partition(
    topic: String,
    partition: i32,
    piece: &Piece,
    stamp: Option<ProducerStamp>,
) -> ToPartition {
    let batch = seal(piece.header, piece.codec, &piece.section, stamp).into();
    ToPartition { topic, partition, batch }
}

/// Tells what is wrong with the batch from what is wrong with the link or the transaction.
fn failure(error: Error, part: &LoadPart, piece: &Piece) -> Failure {
    let refused = matches!(
        error.code(),
        Some(
            ErrorCode::MESSAGE_TOO_LARGE
                | ErrorCode::RECORD_LIST_TOO_LARGE
                | ErrorCode::INVALID_RECORD
                | ErrorCode::INVALID_TIMESTAMP
                | ErrorCode::UNSUPPORTED_COMPRESSION_TYPE
                | ErrorCode::CORRUPT_MESSAGE
        )
    );
    let refused = refused.then(|| (Arc::clone(&part.key.0), part.key.1));
    Failure { error, refused: refused.map(|key| (key, piece.clone())) }
}
