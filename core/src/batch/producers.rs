//! The sequences of one partition's idempotent producers: what makes a repeated batch harmless.
//!
//! Judging ([`Producers::check`]) and remembering ([`Producers::apply`]) are apart: a batch is
//! judged against everything appended before it, and remembered when it is appended, replicated or
//! found on flash. What is on flash alone decides, so the state is the same after a restart.
//!
//! One batch more is remembered than is checked: at most five of a producer are not acknowledged at
//! a time, so when those are truncated the last acknowledged one is still known, whatever its
//! epoch.
//!
//! The encoded form, for checkpoints, all integers varints: version 2; number of producers; for
//! each, ascending by id: id minus the one before, epoch, newest timestamp, last offset, number of
//! batches; for each batch, oldest first: its epoch, last sequence, last offset delta, last offset,
//! timestamp.

use super::header::Header;
use crate::bytes::{Malformed, SliceReader, put_varlong};
use crate::error::ErrorCode;
use crate::limits::{PRODUCER_BATCHES_CHECKED, PRODUCER_BATCHES_KEPT, PRODUCERS_PER_PARTITION_MAX};
use crate::types::Offset;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use heapless::Deque;

const VERSION: i64 = 2;

/// The sequences of one partition's idempotent producers (KIP-98, KIP-360).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    by_id: BTreeMap<i64, Producer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    /// The newest timestamp of its last batch, as its client's clock said it.
    last_timestamp: i64,
    /// Of the last batch of any epoch: who appended longest ago is forgotten first.
    last_offset: Offset,
    /// The newest last; those of earlier epochs come before those of this one.
    batches: Deque<Batch, PRODUCER_BATCHES_KEPT>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch {
    epoch: i16,
    last_sequence: i32,
    last_offset_delta: i32,
    last_offset: Offset,
    timestamp: i64,
}

/// What to do with a batch of an idempotent producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequence {
    /// It is the next one, or comes from no idempotent producer.
    Append,
    /// It was appended before, at this offset: answer as then.
    Duplicate { base_offset: Offset },
}

/// What DescribeProducers tells of one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveProducer {
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// -1 when its newest epoch has not appended yet.
    pub last_sequence: i32,
    pub last_timestamp: i64,
}

impl Producers {
    /// Judges a batch before it is appended; changes nothing.
    ///
    /// A producer that is not known may begin with any sequence, as in Kafka since 2.5 (KIP-360):
    /// its earlier batches may have been trimmed. A newer epoch begins with 0.
    pub fn check(&self, header: &Header) -> Result<Sequence, ErrorCode> {
        let Some(producer) = self.by_id.get(&header.producer_id) else {
            return Ok(Sequence::Append);
        };
        if header.producer_id < 0 || header.is_control() {
            return Ok(Sequence::Append);
        }
        if header.producer_epoch < producer.epoch {
            return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
        }
        let expected = if header.producer_epoch > producer.epoch {
            0
        } else {
            let mut checked = producer.of_epoch().take(PRODUCER_BATCHES_CHECKED);
            if let Some(batch) = checked.find(|batch| batch.is(header)) {
                return Ok(Sequence::Duplicate { base_offset: batch.base_offset() });
            }
            producer.of_epoch().next().map_or(0, |batch| sequence_plus(batch.last_sequence, 1))
        };
        if header.base_sequence != expected {
            return Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        }
        Ok(Sequence::Append)
    }

    /// Remembers a batch that was appended (or found on flash) at `base_offset`. Believes it: what
    /// is in the log was judged by the leader that appended it.
    pub fn apply(&mut self, header: &Header, base_offset: Offset) {
        if header.producer_id < 0 {
            return;
        }
        let last_offset = base_offset.plus(i64::from(header.last_offset_delta));
        if self.by_id.len() >= PRODUCERS_PER_PARTITION_MAX
            && !self.by_id.contains_key(&header.producer_id)
        {
            self.forget_idlest();
        }
        let producer = self.by_id.entry(header.producer_id).or_insert(Producer {
            epoch: header.producer_epoch,
            last_timestamp: header.max_timestamp,
            last_offset,
            batches: Deque::new(),
        });
        producer.epoch = header.producer_epoch;
        producer.last_timestamp = header.max_timestamp;
        producer.last_offset = last_offset;
        // A transaction marker fences older epochs but has no sequence.
        if header.is_control() {
            return;
        }
        if producer.batches.is_full() {
            producer.batches.pop_front();
        }
        let batch = Batch::of(header, last_offset);
        producer.batches.push_back(batch).expect("one was removed from a full queue");
    }

    /// Remembers a batch that was found at `base_offset`, perhaps before others of its producer
    /// that are remembered already.
    pub fn insert(&mut self, header: &Header, base_offset: Offset) {
        let last_offset = base_offset.plus(i64::from(header.last_offset_delta));
        let known = self.by_id.get_mut(&header.producer_id);
        let Some(producer) = known.filter(|producer| producer.last_offset >= last_offset) else {
            return self.apply(header, base_offset);
        };
        let stands = producer.batches.iter().position(|it| it.last_offset >= last_offset);
        let at = stands.unwrap_or(producer.batches.len());
        let there = producer.batches.iter().nth(at).is_some_and(|it| it.last_offset == last_offset);
        if header.is_control() || there || at == 0 && producer.batches.is_full() {
            return;
        }
        if producer.batches.is_full() {
            producer.batches.pop_front();
        }
        // Not `make_contiguous`, which asserts on some full queues (heapless 0.9.3).
        let mut in_order: Vec<Batch> = producer.batches.iter().copied().collect();
        let at = in_order.partition_point(|batch| batch.last_offset < last_offset);
        in_order.insert(at, Batch::of(header, last_offset));
        producer.batches = Deque::new();
        for batch in in_order {
            producer.batches.push_back(batch).expect("one was removed from a full queue");
        }
    }

    /// The partition ends at `to` now: what producers appended behind did not happen.
    pub fn truncate(&mut self, to: Offset) {
        self.by_id.retain(|_, producer| producer.truncate(to));
    }

    /// Whether this is the newest batch with records of a producer that is remembered.
    pub fn is_last(&self, header: &Header) -> bool {
        let producer = self.by_id.get(&header.producer_id);
        let newest = producer.and_then(|producer| producer.batches.back());
        newest.is_some_and(|batch| batch.last_offset == header.last_offset())
    }

    /// Forgets producers whose last batch is older than `before` (Kafka's
    /// `producer.id.expiration.ms`), in milliseconds of the wall clock, by what the clients' clocks
    /// said.
    pub fn expire(&mut self, before: i64) {
        self.by_id.retain(|_, producer| producer.last_timestamp >= before);
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Every producer that is remembered, ascending by id.
    pub fn active(&self) -> impl Iterator<Item = ActiveProducer> {
        self.by_id.iter().map(|(id, producer)| ActiveProducer {
            producer_id: *id,
            producer_epoch: producer.epoch,
            last_sequence: producer.of_epoch().next().map_or(-1, |batch| batch.last_sequence),
            last_timestamp: producer.last_timestamp,
        })
    }

    /// A scan of all, but only when a new producer comes to a full table: microseconds.
    fn forget_idlest(&mut self) {
        let idlest = self.by_id.iter().min_by_key(|(_, producer)| producer.last_offset);
        if let Some(id) = idlest.map(|(id, _)| *id) {
            self.by_id.remove(&id);
        }
    }
}

impl Batch {
    fn of(header: &Header, last_offset: Offset) -> Batch {
        Batch {
            epoch: header.producer_epoch,
            last_sequence: header.last_sequence(),
            last_offset_delta: header.last_offset_delta,
            last_offset,
            timestamp: header.max_timestamp,
        }
    }

    fn is(&self, header: &Header) -> bool {
        self.last_sequence == header.last_sequence()
            && self.last_offset_delta == header.last_offset_delta
    }

    fn base_offset(&self) -> Offset {
        Offset(self.last_offset.0 - i64::from(self.last_offset_delta))
    }
}

/// Sequences go on with 0 after `i32::MAX`.
pub(super) fn sequence_plus(sequence: i32, records: i32) -> i32 {
    ((i64::from(sequence) + i64::from(records)) & i64::from(i32::MAX)) as i32
}

impl Producers {
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varlong(out, VERSION);
        put_varlong(out, self.by_id.len() as i64);
        let mut id_before = 0;
        for (id, producer) in &self.by_id {
            put_varlong(out, id - id_before);
            id_before = *id;
            put_varlong(out, producer.epoch.into());
            put_varlong(out, producer.last_timestamp);
            put_varlong(out, producer.last_offset.0);
            put_varlong(out, producer.batches.len() as i64);
            for batch in &producer.batches {
                put_varlong(out, batch.epoch.into());
                put_varlong(out, batch.last_sequence.into());
                put_varlong(out, batch.last_offset_delta.into());
                put_varlong(out, batch.last_offset.0);
                put_varlong(out, batch.timestamp);
            }
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<Producers, Malformed> {
        let mut reader = SliceReader::new(bytes);
        if reader.varlong()? != VERSION {
            return Err(Malformed);
        }
        let count = reader.varlong()?;
        if !(0..=PRODUCERS_PER_PARTITION_MAX as i64).contains(&count) {
            return Err(Malformed);
        }
        let mut by_id = BTreeMap::new();
        let mut id_before = 0i64;
        for index in 0..count {
            let delta = reader.varlong()?;
            let id = id_before.checked_add(delta).ok_or(Malformed)?;
            if delta < 0 || (delta == 0 && index > 0) {
                return Err(Malformed);
            }
            id_before = id;
            by_id.insert(id, Producer::decode(&mut reader)?);
        }
        if !reader.rest().is_empty() {
            return Err(Malformed);
        }
        Ok(Producers { by_id })
    }
}

impl Producer {
    /// The batches of its epoch, the newest first.
    fn of_epoch(&self) -> impl Iterator<Item = &Batch> {
        self.batches.iter().rev().take_while(|batch| batch.epoch == self.epoch)
    }

    /// Takes back what it appended at `to` or behind; whether anything is left.
    fn truncate(&mut self, to: Offset) -> bool {
        if self.last_offset < to {
            return true;
        }
        while self.batches.back().is_some_and(|batch| batch.last_offset >= to) {
            self.batches.pop_back();
        }
        let Some(last) = self.batches.back() else { return false };
        (self.epoch, self.last_timestamp) = (last.epoch, last.timestamp);
        self.last_offset = last.last_offset;
        true
    }

    fn decode(reader: &mut SliceReader<'_>) -> Result<Producer, Malformed> {
        let epoch = i16::try_from(reader.varlong()?).map_err(|_| Malformed)?;
        let last_timestamp = reader.varlong()?;
        let last_offset = offset(reader)?;
        let mut batches = Deque::new();
        for _ in 0..reader.varlong()? {
            let batch = Batch {
                epoch: i16::try_from(reader.varlong()?).map_err(|_| Malformed)?,
                last_sequence: count(reader)?,
                last_offset_delta: count(reader)?,
                last_offset: offset(reader)?,
                timestamp: reader.varlong()?,
            };
            batches.push_back(batch).map_err(|_| Malformed)?;
        }
        Ok(Producer { epoch, last_timestamp, last_offset, batches })
    }
}

fn count(reader: &mut SliceReader<'_>) -> Result<i32, Malformed> {
    let count = reader.varint()?;
    if count < 0 { Err(Malformed) } else { Ok(count) }
}

fn offset(reader: &mut SliceReader<'_>) -> Result<Offset, Malformed> {
    let offset = reader.varlong()?;
    if offset < 0 { Err(Malformed) } else { Ok(Offset(offset)) }
}
