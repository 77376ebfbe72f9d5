//! From the source's batches to those that go over the link.
//!
//! Small batches are unpacked, get provenance headers and are packed again, larger and with zstd.
//! Large compressed ones pass through as they came but for the header: packing them again would
//! cost a gateway more than the link gains. They carry no provenance headers; the pairs of offsets
//! that are committed with them say where they come from, so a loop through them cannot be seen.
//! That is why nothing passes through on a route that keeps topic names, where a loop would turn on
//! the spot.

use std::sync::Arc;

use bytes::Bytes;
use weir_core::batch::{self, Builder, Codec, HEADER_BYTES, Header, Record};
use weir_core::types::Offset;

use super::gap::Gap;
use crate::client::{open_section, record_timestamp};
use crate::compress;

/// The cluster id that a record was first mirrored from; once for each cluster on its way.
pub const HEADER_CLUSTER: &str = "weir.cluster";
pub const HEADER_TOPIC: &str = "weir.topic";
pub const HEADER_PARTITION: &str = "weir.partition";
pub const HEADER_OFFSET: &str = "weir.offset";
/// The record's own time in milliseconds, where the target would not take it.
pub const HEADER_TIMESTAMP: &str = "weir.timestamp";

/// A batch that is unpacked may have this many bytes; a larger one passes through.
const UNPACKED_BYTES_MAX: usize = 8 << 20;

/// Kafka's "no timestamp", which every topic takes.
const NO_TIMESTAMP: i64 = -1;

/// Where the records of one partition come from, and which clusters must not see them again.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub cluster: Arc<str>,
    pub target_cluster: Arc<str>,
    pub topic: Arc<str>,
    pub partition: i32,
}

/// How the batches of one partition are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// Compressed batches of at least this size pass through; 0 is none.
    pub pass_through_bytes: usize,
    /// A batch is closed when it has so many bytes before compression.
    pub batch_bytes: usize,
    /// Whether offsets follow each other without holes: not so where the source compacts.
    pub dense: bool,
    /// What the target did not take as it was.
    pub refused: Refused,
}

/// What is known to be refused by the target, up to some source offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refused {
    /// Up to this offset nothing passes through.
    pub unpack_until: i64,
    /// Up to this offset batches have at most so many records.
    pub split_until: i64,
    pub split_records: i32,
    /// Up to this offset records lose their timestamps.
    pub timeless_until: i64,
    /// Single records that are refused, with the broker's reason. Each becomes a gap.
    pub records: Vec<(i64, String)>,
}

impl Refused {
    /// Whether all of it lies before a position.
    pub fn is_behind(&self, position: i64) -> bool {
        let ends = [self.unpack_until, self.split_until, self.timeless_until];
        ends.iter().all(|end| *end <= position)
            && self.records.iter().all(|(offset, _)| *offset < position)
    }
}

/// A batch for the target, all but the producer's stamp.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub header: Header,
    pub codec: Codec,
    pub section: Bytes,
    /// Source offsets, both included.
    pub first: i64,
    pub last: i64,
    pub passed: bool,
}

impl Piece {
    /// Bytes that it has as a batch.
    pub fn link_bytes(&self) -> usize {
        HEADER_BYTES + self.section.len()
    }
}

/// Collects what one transaction carries of one partition.
#[derive(Debug)]
pub(super) struct Rebatcher {
    origin: Origin,
    rules: Rules,
    builder: Builder,
    /// Source offsets of the records in the builder.
    first: i64,
    last: i64,
    pub pieces: Vec<Piece>,
    /// Mirrored records, without gap markers.
    pub records: u64,
    pub loops: u64,
    pub gaps: u64,
    /// The next source offset.
    pub position: i64,
}

impl Rebatcher {
    pub fn new(origin: Origin, rules: Rules, position: i64) -> Rebatcher {
        Rebatcher {
            origin,
            rules,
            builder: Builder::new(),
            first: position,
            last: position,
            pieces: Vec::new(),
            records: 0,
            loops: 0,
            gaps: 0,
            position,
        }
    }

    /// Takes a batch of committed records.
    pub fn batch(&mut self, header: &Header, batch: &Bytes) {
        let (base, next) = (header.base_offset.0, header.last_offset().0 + 1);
        if next <= self.position {
            return;
        }
        self.look_for_a_hole(base);
        // The target wants offsets without holes, as a producer writes them; compaction makes
        // holes.
        let whole = base >= self.position
            && i64::from(header.records_count) == i64::from(header.last_offset_delta) + 1;
        let large = self.rules.pass_through_bytes > 0
            && batch.len() >= self.rules.pass_through_bytes
            && base >= self.rules.refused.unpack_until;
        let plain = matches!(header.codec(), None | Some(Codec::None));
        if whole && large && !plain && !header.is_log_append_time() {
            self.pass_through(header, batch);
        } else if let Err(reason) = self.unpack(header, batch) {
            if whole && !plain && base >= self.rules.refused.unpack_until {
                self.pass_through(header, batch);
            } else {
                let from = self.position.max(base);
                self.gap(&Gap { from, to: next, reason });
            }
        }
        self.position = next;
    }

    /// Takes offsets that hold nothing for a reader: transaction markers, aborted records.
    pub fn skip(&mut self, header: &Header) {
        self.look_for_a_hole(header.base_offset.0);
        self.position = self.position.max(header.last_offset().0 + 1);
    }

    fn look_for_a_hole(&mut self, base: i64) {
        if self.rules.dense && base > self.position {
            self.gap(&Gap { from: self.position, to: base, reason: Gap::DAMAGED.into() });
        }
    }

    /// Writes a marker where records are missing, and goes on behind them.
    pub fn gap(&mut self, gap: &Gap) {
        self.close();
        let mut builder = Builder::new();
        gap.write(&mut builder, &self.origin);
        let (header, section) = builder.into_section();
        self.pieces.push(Piece {
            header,
            codec: Codec::None,
            section: section.into(),
            first: gap.from,
            last: gap.to - 1,
            passed: false,
        });
        self.gaps += 1;
        self.position = gap.to;
    }

    /// Bytes that are collected and not yet packed.
    pub fn open_bytes(&self) -> usize {
        if self.builder.is_empty() { 0 } else { self.builder.len() }
    }

    /// Packs what is left.
    pub fn close(&mut self) {
        if self.builder.is_empty() {
            return;
        }
        let (header, section) = std::mem::take(&mut self.builder).into_section();
        let packed = compress::compress(Codec::Zstd, &section).unwrap_or_default();
        let (codec, section) = if packed.is_empty() || packed.len() >= section.len() {
            (Codec::None, section)
        } else {
            (Codec::Zstd, packed)
        };
        self.pieces.push(Piece {
            header,
            codec,
            section: section.into(),
            first: self.first,
            last: self.last,
            passed: false,
        });
    }

    fn pass_through(&mut self, header: &Header, batch: &Bytes) {
        self.close();
        let (first, last) = (header.base_offset.0, header.last_offset().0);
        let header = Header {
            base_offset: Offset::ZERO,
            partition_leader_epoch: -1,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            ..*header
        };
        self.pieces.push(Piece {
            header,
            codec: header.codec().unwrap_or(Codec::None),
            section: batch.slice(HEADER_BYTES..),
            first,
            last,
            passed: true,
        });
        self.records += header.records_count as u64;
    }

    /// Takes the records from the position on, each with its provenance. Nothing is taken on an
    /// error.
    fn unpack(&mut self, header: &Header, batch: &Bytes) -> Result<(), String> {
        let section = open_section(header, batch, UNPACKED_BYTES_MAX).map_err(|e| e.context)?;
        let count = header.records_count;
        if batch::records(&section, count).any(|record| record.is_err()) {
            return Err(format!("the records at offset {} are damaged", header.base_offset));
        }
        for record in batch::records(&section, count).flatten() {
            let offset = header.base_offset.0 + i64::from(record.offset_delta);
            if offset >= self.position {
                self.record(header, offset, &record);
            }
        }
        Ok(())
    }

    fn record(&mut self, header: &Header, offset: i64, record: &Record<'_>) {
        if self.comes_back(record) {
            self.loops += 1;
            return;
        }
        let refused = &self.rules.refused;
        if let Some((_, reason)) = refused.records.iter().find(|(refused, _)| *refused == offset) {
            let gap = Gap { from: offset, to: offset + 1, reason: reason.clone() };
            return self.gap(&gap);
        }
        let records_max =
            if offset < refused.split_until { refused.split_records } else { i32::MAX };
        let value_bytes = record.value.map_or(0, <[u8]>::len);
        if self.builder.records_count() >= records_max
            || self.open_bytes() + value_bytes > self.rules.batch_bytes
        {
            self.close();
        }
        if self.builder.is_empty() {
            self.first = offset;
        }
        self.last = offset;
        self.records += 1;
        self.push(header, offset, record);
    }

    fn push(&mut self, header: &Header, offset: i64, record: &Record<'_>) {
        let timestamp = record_timestamp(header, record.timestamp_delta);
        let (partition, offset_text) = (self.origin.partition.to_string(), offset.to_string());
        let timestamp_text = timestamp.to_string();
        let mut headers = vec![
            (HEADER_CLUSTER, Some(self.origin.cluster.as_bytes())),
            (HEADER_TOPIC, Some(self.origin.topic.as_bytes())),
            (HEADER_PARTITION, Some(partition.as_bytes())),
            (HEADER_OFFSET, Some(offset_text.as_bytes())),
        ];
        let timeless = offset < self.rules.refused.timeless_until;
        if timeless {
            headers.push((HEADER_TIMESTAMP, Some(timestamp_text.as_bytes())));
        }
        let timestamp = if timeless { NO_TIMESTAMP } else { timestamp };
        self.builder.push_with(timestamp, record.key, record.value, record.headers, &headers);
    }

    /// Whether the record has been on the target or here before.
    fn comes_back(&self, record: &Record<'_>) -> bool {
        let (own, target) = (self.origin.cluster.as_bytes(), self.origin.target_cluster.as_bytes());
        record.headers.iter().any(|(key, value)| {
            key == HEADER_CLUSTER && value.is_some_and(|value| value == own || value == target)
        })
    }
}
