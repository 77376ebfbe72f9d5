//! What the clients of one partition know: what they sent, what was acknowledged, what they were
//! served.
//!
//! Batches are known by an identity that stands in the first eight bytes of their first record's
//! value, so a batch can be recognised wherever it turns up.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use weir_core::batch::{self, Builder, HEADER_BYTES, Header, ProducerStamp};
use weir_core::log::Retention;
use weir_core::rng::Rng;

/// Bytes of a batch that a broker may change: base offset, length and leader epoch.
const STAMPED_BYTES: usize = 16;

/// Which batch it is; given out once in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchId(pub u64);

/// A batch on its way to a partition.
#[derive(Clone, Debug)]
pub struct Sent {
    pub id: BatchId,
    pub bytes: Bytes,
    pub records_count: i64,
    pub timestamps: Vec<i64>,
    /// Of an idempotent producer: it must be in the log at most once, in the order of its
    /// sequence.
    pub stamp: Option<ProducerStamp>,
    /// How often it was handed to the broker.
    pub attempts: u32,
}

/// An idempotent producer of one partition.
#[derive(Clone, Debug, Default)]
pub struct Producer {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub next_sequence: i32,
    /// Sent and not acknowledged, in order.
    pub pending: VecDeque<BatchId>,
}

/// A batch that the log took, durable or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub id: BatchId,
    pub end: i64,
    pub leader_epoch: i32,
}

/// A batch in the log, as a reader found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub base_offset: i64,
    pub records_count: i64,
    pub id: BatchId,
}

/// A whole partition, read from its log start offset to its end.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    pub log_start: i64,
    pub high_watermark: i64,
    pub batches: Vec<Found>,
    /// Offsets that the log says are damaged.
    pub damaged: Vec<(i64, i64)>,
    /// What was gone when the reading began.
    pub gone: BTreeSet<i64>,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    pub sent: BTreeMap<BatchId, Sent>,
    /// What the log took since it lives, and what a start has shown, by base offset.
    pub placed: BTreeMap<i64, Placed>,
    /// Base offsets that acknowledgements named.
    pub acked: BTreeMap<i64, BatchId>,
    /// What readers were given.
    pub served: BTreeMap<i64, BatchId>,
    /// The largest high watermark that anybody has seen.
    pub high_watermark: i64,
    /// How far the log start offset may have moved: what was trimmed or could expire.
    pub log_start_max: i64,
    /// What was found damaged, by base offset. It may be read again, from another copy of it, but
    /// nowhere else.
    pub damaged: BTreeMap<i64, BatchId>,
    /// Batches that a start has dropped and nobody has sent again.
    pub dropped: BTreeSet<BatchId>,
    /// Batches that were taken out of the log, by base offset.
    pub removed: BTreeMap<i64, Removed>,
    /// Something was written anew or taken out. Of the slot that it stood in, the log only guesses
    /// what the rest takes: by offsets.
    pub replaced: bool,
    /// A truncation may be lost to damage: what it took may be back, or not. From then on only what
    /// was acknowledged and not truncated is looked for.
    pub blurred: bool,
}

/// A batch in whose place a hole was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    pub id: BatchId,
    pub end: i64,
    /// The hole is durable. Until then the batch may be there or not.
    pub gone: bool,
}

impl Sent {
    pub fn random(
        rng: &mut Rng,
        id: BatchId,
        timestamp: i64,
        value_bytes_max: u64,
        stamp: Option<ProducerStamp>,
    ) -> Sent {
        let mut builder = Builder::new();
        let count = if rng.percent(60) { 1 } else { 1 + rng.below(6) };
        let mut timestamps = Vec::new();
        for index in 0..count {
            let mut value = id.0.to_be_bytes().to_vec();
            let len = 8 + rng.below(value_bytes_max);
            value.resize(len as usize, (id.0 + index) as u8);
            timestamps.push(timestamp + index as i64);
            builder.push(timestamp + index as i64, None, Some(&value), &[]);
        }
        let bytes = Bytes::from(builder.build(stamp));
        Sent { id, bytes, records_count: count as i64, timestamps, stamp, attempts: 1 }
    }
}

impl Producer {
    pub fn stamp(&self) -> ProducerStamp {
        ProducerStamp {
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: self.next_sequence,
            transactional: false,
        }
    }

    /// Gives up what is pending, as a producer does that got an error it cannot repeat.
    pub fn begin_new_epoch(&mut self) {
        if self.producer_epoch == i16::MAX {
            (self.producer_id, self.producer_epoch) = (self.producer_id + 1_000_000, 0);
        } else {
            self.producer_epoch += 1;
        }
        self.next_sequence = 0;
        self.pending.clear();
    }
}

impl Found {
    /// Recognises a batch that was read; says why it is not one that was sent.
    pub fn recognise(history: &History, batch: &Bytes) -> Result<Found, String> {
        let header = Header::parse(batch).map_err(|error| format!("not a batch: {error:?}"))?;
        let base_offset = header.base_offset.0;
        let section = batch.get(HEADER_BYTES..).unwrap_or_default();
        let first = batch::records(section, header.records_count).next();
        let Some(Ok(record)) = first else {
            return Err(format!("the batch at {base_offset} has no readable record"));
        };
        let value = record.value.unwrap_or_default();
        let Some(id) = value.get(..8).and_then(|raw| raw.try_into().ok()) else {
            return Err(format!("the batch at {base_offset} has no identity"));
        };
        let id = BatchId(u64::from_be_bytes(id));
        let Some(sent) = history.sent.get(&id) else {
            return Err(format!("{id:?} at {base_offset} was never sent to this partition"));
        };
        if sent.bytes.get(STAMPED_BYTES..) != batch.get(STAMPED_BYTES..) {
            return Err(format!("{id:?} at {base_offset} is not as it was sent"));
        }
        Ok(Found { base_offset, records_count: sent.records_count, id })
    }

    pub fn end(&self) -> i64 {
        self.base_offset + self.records_count
    }
}

impl History {
    /// Notes what a restart has shown: unacknowledged batches that are gone must stay gone, and
    /// what is there is served from now on. While a part is being `replaced`, what is there of it
    /// may still go.
    pub fn learn(&mut self, audit: &Audit, replaced: bool) {
        let there: BTreeSet<i64> = audit.batches.iter().map(|found| found.base_offset).collect();
        self.removed.retain(|base, _| replaced || !there.contains(base));
        let read = self.removed.range_mut(audit.log_start..audit.high_watermark);
        read.for_each(|(base, removed)| removed.gone |= !there.contains(base));
        let there = audit.batches.iter().map(|found| found.id);
        let known = self.acked.values().chain(self.served.values()).copied();
        let known = known.chain(self.damaged.values().copied());
        let known = known.chain(self.removed.values().map(|removed| removed.id));
        let kept: BTreeSet<BatchId> = there.chain(known).collect();
        self.dropped.extend(self.sent.keys().filter(|id| !kept.contains(id)));
        self.serve(audit.batches.iter());
        self.high_watermark = self.high_watermark.max(audit.high_watermark);
    }

    /// A truncation may be lost. What is in the log is not known any more, but for what was
    /// acknowledged.
    /// What is `torn` is gone with it, and what was truncated is in its place.
    pub fn blur(&mut self, torn: impl Fn(i64) -> bool) {
        self.blurred = true;
        self.acked.retain(|base, _| !torn(*base));
        self.placed.clear();
        self.served.clear();
        self.removed.clear();
        self.dropped.clear();
    }

    pub fn serve<'a>(&mut self, batches: impl Iterator<Item = &'a Found>) {
        let stays = batches.filter(|found| !self.removed.contains_key(&found.base_offset));
        self.served.extend(stays.map(|found| (found.base_offset, found.id)));
    }

    /// A hole is to take the place of a batch.
    pub fn remove(&mut self, base: i64) {
        let Placed { id, end, .. } = self.placed[&base];
        self.removed.insert(base, Removed { id, end, gone: false });
        self.acked.remove(&base);
        self.served.remove(&base);
    }

    /// Whether there may be nothing from `from` up to `until`, where some of it is `damaged`.
    pub fn may_be_hole(&self, from: i64, until: i64, damaged: &[(i64, i64)]) -> bool {
        let mut at = from;
        while at < until {
            let removed = self.removed.range(..=at).next_back().map(|(_, removed)| removed.end);
            let lost = damaged.iter().filter(|(from, _)| *from <= at).map(|(_, until)| *until);
            match removed.into_iter().chain(lost).max() {
                Some(end) if end > at => at = end,
                _ => return false,
            }
        }
        from < until
    }

    /// The log says that what stands from `from` up to `until` cannot be read. What nobody was told
    /// of is there or not, like the rest: another copy of it may be read later.
    pub fn name_damaged(&mut self, from: i64, until: i64) {
        let placed = self.placed.range(from..until).map(|(base, placed)| (*base, placed.id));
        self.damaged.extend(placed.filter(|(_, id)| !self.dropped.contains(id)));
        self.damage(from, until);
    }

    /// Gives up what was acknowledged or served from `from` up to `until`: it is damaged.
    pub fn damage(&mut self, from: i64, until: i64) {
        let known = self.acked.range(from..until).chain(self.served.range(from..until));
        self.damaged.extend(known.map(|(base, id)| (*base, *id)));
        self.acked.retain(|base, _| *base < from || *base >= until);
        self.served.retain(|base, _| *base < from || *base >= until);
    }

    /// Hands a batch to the broker once more.
    pub fn send_again(&mut self, id: BatchId) -> Sent {
        self.dropped.remove(&id);
        let sent = self.sent.get_mut(&id).expect("only what was sent is sent again");
        sent.attempts += 1;
        sent.clone()
    }

    /// A start has shown where the log ends: what was placed beyond is gone. False when the end is
    /// in the middle of a batch.
    pub fn ends_at(&mut self, end: i64) -> bool {
        self.placed.retain(|base, _| *base < end);
        let last = self.placed.last_key_value();
        last.is_none_or(|(_, placed)| placed.end == end || end <= self.log_start_max)
    }

    /// The first record from `start` on whose timestamp is at least `wanted`: offset and timestamp.
    pub fn first_at_or_after(&self, wanted: i64, start: i64) -> Option<(i64, i64)> {
        let mut there = self.placed.iter().filter(|(base, _)| !self.removed.contains_key(base));
        there.find_map(|(base, placed)| {
            let timestamps = self.sent[&placed.id].timestamps.iter();
            let mut records = timestamps.enumerate().map(|(index, ts)| (base + index as i64, *ts));
            records.find(|(offset, timestamp)| *offset >= start && *timestamp >= wanted)
        })
    }

    /// Whether a batch below `log_start` is neither too old nor beyond the bytes that are kept.
    pub fn expired_early(&self, log_start: i64, wall: i64, retention: Retention) -> bool {
        let mut bytes = self.bytes_from(log_start);
        let below = self.placed.range(self.log_start_max.min(log_start)..log_start);
        let there = below.filter(|(base, _)| !self.removed.contains_key(base));
        let bytes_max = retention.bytes.max(0) as u64 / if self.replaced { 2 } else { 1 };
        there.rev().any(|(_, placed)| {
            let sent = &self.sent[&placed.id];
            let newest = sent.timestamps.iter().copied().max().unwrap_or(-1);
            let too_old = retention.ms >= 0 && newest < wall - retention.ms;
            let too_much = retention.bytes >= 0 && bytes >= bytes_max;
            bytes += sent.bytes.len() as u64;
            placed.end <= log_start && !too_old && !too_much
        })
    }

    fn bytes_from(&self, offset: i64) -> u64 {
        let placed = self.placed.range(offset..);
        placed.map(|(_, placed)| self.sent[&placed.id].bytes.len() as u64).sum()
    }
}
