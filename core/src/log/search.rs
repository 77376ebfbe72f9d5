//! Searches by timestamp: the first record that is as new as that.
//!
//! Footers and batch headers lead to the batch; the records tell the offset. A compressed batch is
//! unpacked by the driver for it. One that cannot be unpacked is answered with its first offset: a
//! consumer that begins there misses nothing.

use super::layout::frame::FRAME_HEADER_BYTES;
use super::read::{Found, Question};
use super::walk::Walk;
use super::{Answer, FetchError, IoResult, Log, Ticket, TimestampHit};
use crate::batch::{self, Codec, Header as BatchHeader};
use crate::limits::SEARCHES_READING_MAX;
use crate::types::{LeaderEpoch, Offset, PartitionNumber};
use alloc::collections::{BTreeSet, VecDeque};
use bytes::Bytes;

/// Whose turn it is to hold what was read.
#[derive(Debug, Default)]
pub(crate) struct Searches {
    reading: BTreeSet<Ticket>,
    waiting: VecDeque<Ticket>,
}

impl Searches {
    /// Whether the search may begin; else it is told by [`Searches::end`].
    pub(super) fn begin(&mut self, ticket: Ticket) -> bool {
        let begins = self.reading.len() < SEARCHES_READING_MAX;
        match begins {
            true => drop(self.reading.insert(ticket)),
            false => self.waiting.push_back(ticket),
        }
        begins
    }

    pub(super) fn end(&mut self, ticket: Ticket) {
        self.reading.remove(&ticket);
    }

    /// The next search whose turn it is.
    fn next(&mut self) -> Option<Ticket> {
        if self.reading.len() >= SEARCHES_READING_MAX {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.reading.insert(next);
        Some(next)
    }
}

/// What a batch says of a timestamp.
pub(super) enum Hit {
    Nothing,
    Record(TimestampHit),
    /// The records have to be looked at, and they are compressed.
    Packed(Bytes),
}

impl Log {
    /// The first record whose timestamp is at least this.
    pub fn find_timestamp(
        &mut self,
        number: PartitionNumber,
        timestamp: i64,
    ) -> Result<Answer<Option<TimestampHit>>, FetchError> {
        let question = Question::Find { partition: number, timestamp, from: Offset::ZERO };
        match self.ask(question)? {
            Answer::Now(Found::Hit(hit)) => Ok(Answer::Now(hit)),
            Answer::Now(Found::Batches(_)) => unreachable!("a search is answered with a hit"),
            Answer::Later(ticket) => Ok(Answer::Later(ticket)),
        }
    }

    /// Goes on with the searches that waited for their turn.
    pub(super) fn next_searches(&mut self) {
        while let Some(next) = self.jobs.searches.next() {
            self.resume(next);
        }
    }

    /// The batch that a search looks into is unpacked, or cannot be.
    pub(super) fn unpacked(&mut self, ticket: Ticket, result: &IoResult) {
        let Some(job) = self.jobs.open.get_mut(&ticket) else { return };
        // The partition was truncated meanwhile.
        let Some(packed) = job.unpacking.take() else { return self.resume(ticket) };
        let mut question = job.question;
        let Question::Find { partition, timestamp, .. } = question else { return };
        let Ok((from, end)) = self.bounds(&question) else { return self.resume(ticket) };
        let walk = Walk { partition, from, end, seed: None };
        let hit = match result {
            IoResult::Read(batch) => walk.in_batch(batch, timestamp),
            _ => Some(TimestampHit {
                offset: packed.base_offset.max(from),
                timestamp: packed.max_timestamp,
                leader_epoch: LeaderEpoch(packed.partition_leader_epoch),
            }),
        };
        match hit {
            Some(hit) => {
                self.jobs.open.remove(&ticket);
                self.answer(ticket, question, Ok(Found::Hit(Some(hit))));
            }
            None => {
                question.move_on(packed.last_offset().plus(1).max(from));
                if let Some(job) = self.jobs.open.get_mut(&ticket) {
                    job.question = question;
                }
                self.resume(ticket);
            }
        }
    }
}

impl Walk {
    pub(super) fn hit(&self, timestamp: i64, chunks: &[Option<Bytes>]) -> Hit {
        for chunk in chunks.iter().flatten() {
            let mut at = 0;
            while let Some(header) = self.frame(chunk, at) {
                let body = chunk.slice(at + FRAME_HEADER_BYTES..at + header.frame_bytes());
                at += header.frame_bytes();
                if header.end_offset() <= self.from {
                    continue;
                }
                if header.end_offset() > self.end {
                    return Hit::Nothing;
                }
                // A hole has none.
                let Ok(batch) = BatchHeader::parse(&body) else { continue };
                if batch.max_timestamp < timestamp {
                    continue;
                }
                if batch.codec() != Some(Codec::None) {
                    return Hit::Packed(body);
                }
                if let Some(hit) = self.in_batch(&body, timestamp) {
                    return Hit::Record(hit);
                }
            }
        }
        Hit::Nothing
    }

    /// The first record of an uncompressed batch that is as new as that.
    fn in_batch(&self, batch: &[u8], timestamp: i64) -> Option<TimestampHit> {
        let header = BatchHeader::parse(batch).ok()?;
        let section = batch.get(batch::HEADER_BYTES..)?;
        batch::records(section, header.records_count)
            .map_while(Result::ok)
            .map(|record| TimestampHit {
                offset: header.base_offset.plus(i64::from(record.offset_delta)),
                timestamp: match header.is_log_append_time() {
                    true => header.max_timestamp,
                    false => header.base_timestamp.saturating_add(record.timestamp_delta),
                },
                leader_epoch: LeaderEpoch(header.partition_leader_epoch),
            })
            .find(|hit| hit.timestamp >= timestamp && hit.offset >= self.from)
    }
}
