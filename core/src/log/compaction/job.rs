//! One compaction of one partition: what it wants read, and what it makes of it.
//!
//! | pass | reads | does |
//! |---|---|---|
//! | fill | from the first dirty offset | remembers the newest offset of each key |
//! | rewrite | from the log start up to where the map ends | writes anew what loses records |
//!
//! A batch that stays as it is stays where it is. But once something of a slot is written anew, the
//! rest of what the partition has there goes along, so that the slot becomes free and what is left
//! stands together.
//!
//! What stays of a partition: of each key the newest record; tombstones until `delete.retention.ms`
//! after they were first seen here; transaction markers; of each producer the newest batch, without
//! records if need be; records above the map. A batch that cannot be read, or has more records than
//! the map takes, stays whole, and so do all tombstones behind it: what they delete may be in it.
//! Whatever is interrupted is right so far, because everything is replaced in the order of offsets:
//! a tombstone only after what it deletes.
//!
//! Transactions: the map ends before the first transactional record. Until aborted records are told
//! from committed ones, one of them must not supersede another record.

use super::map::OffsetMap;
use crate::batch::{self, Codec, Header, Record};
use crate::limits::MESSAGE_BYTES_MAX;
use crate::log::layout::frame::FRAME_HEADER_BYTES;
use crate::log::partition::Partition;
use crate::log::{Compaction, Replacement};
use crate::types::{Offset, PartitionNumber};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::Range;

/// What a job needs next.
#[derive(Debug)]
pub(crate) enum Want {
    /// Batches of these offsets.
    Read(Offset, Offset),
    Unpack(Bytes),
    Pack(Bytes, Codec),
    /// The replacements are to be written.
    Write(Vec<Replacement>),
    /// There is something more to do at once.
    Turn,
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Fill,
    Rewrite,
    Over,
}

/// A batch that is being looked at.
#[derive(Debug)]
struct Open {
    header: Header,
    /// As it is in the log.
    stored: Bytes,
    /// Its records are readable.
    plain: Option<Bytes>,
    /// Unpacking or packing was tried and failed.
    opaque: bool,
    /// What is left of it, and how that is packed.
    less: Option<Bytes>,
}

#[derive(Debug)]
pub(crate) struct Job {
    pub number: PartitionNumber,
    settings: Compaction,
    /// Milliseconds since 1970; `None` while that is not known.
    clock: Option<i64>,
    pass: Pass,
    /// The first offset that was never compacted.
    dirty: Offset,
    /// Where the map ends; nothing from here on is touched.
    end: Offset,
    /// What is next.
    at: Offset,
    map: OffsetMap,
    read: VecDeque<Bytes>,
    open: Option<Open>,
    /// Offsets that have no records any more, which is not written yet.
    hole: Option<Range<Offset>>,
    /// Up to here everything is written anew.
    copy_until: Offset,
    keeps_tombstones: bool,
    out: Vec<Replacement>,
    out_bytes: usize,
    /// Bytes looked at in this turn.
    worked: usize,
    pub tally: Tally,
}

/// What a job has done since it was last asked.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub read_bytes: u64,
    pub removed_records: u64,
}

/// The most that is read, looked at or written in one turn.
pub(crate) const TURN_BYTES: usize = 256 << 10;

impl Job {
    pub(crate) fn new(
        number: PartitionNumber,
        partition: &Partition,
        settings: Compaction,
        map: OffsetMap,
        clock: Option<i64>,
    ) -> Job {
        let dirty = partition.first_dirty();
        Job {
            number,
            settings,
            clock,
            pass: Pass::Fill,
            dirty,
            end: partition.final_end(),
            at: dirty,
            map,
            read: VecDeque::new(),
            open: None,
            hole: None,
            copy_until: Offset::ZERO,
            keeps_tombstones: false,
            out: Vec::new(),
            out_bytes: 0,
            worked: 0,
            tally: Tally::default(),
        }
    }

    /// The first offset that is dirty when this is over.
    pub(crate) fn end(&self) -> Offset {
        self.end
    }

    /// The partition was truncated: what the map says may be gone.
    pub(crate) fn give_up(&mut self) {
        (self.pass, self.end) = (Pass::Over, Offset::ZERO);
        (self.open, self.hole) = (None, None);
        self.read.clear();
        self.out.clear();
        self.out_bytes = 0;
    }

    /// Keys in the map, and how many it takes.
    pub(crate) fn map_keys(&self) -> (u32, u32) {
        self.map.keys()
    }

    /// Goes on until something is needed.
    pub(crate) fn next(&mut self, partition: &Partition) -> Want {
        loop {
            if self.out_bytes >= TURN_BYTES {
                self.out_bytes = 0;
                return Want::Write(core::mem::take(&mut self.out));
            }
            if self.worked >= TURN_BYTES {
                self.worked = 0;
                return Want::Turn;
            }
            if self.pass == Pass::Over {
                return match self.out.is_empty() {
                    true => Want::End,
                    false => Want::Write(core::mem::take(&mut self.out)),
                };
            }
            let Some(open) = self.open.take() else {
                if let Some(want) = self.next_batch(partition) {
                    return want;
                }
                continue;
            };
            if !open.is_readable() {
                let batch = open.stored.clone();
                self.open = Some(open);
                return Want::Unpack(batch);
            }
            self.worked += open.plain.as_ref().map_or(0, Bytes::len);
            let want = match self.pass {
                Pass::Fill => {
                    self.fill(open, partition);
                    None
                }
                _ => self.rewrite(open, partition),
            };
            if let Some(want) = want {
                return want;
            }
        }
    }

    /// Opens the next batch that was read; says what has to be read.
    fn next_batch(&mut self, partition: &Partition) -> Option<Want> {
        if self.at < partition.log_start {
            self.at = partition.log_start;
            self.hole = None;
        }
        if self.at >= self.end {
            self.end_pass();
            return None;
        }
        let Some(stored) = self.read.pop_front() else {
            return Some(Want::Read(self.at, self.end));
        };
        let Ok(header) = Header::parse(&stored) else {
            self.skip(self.at.plus(1));
            return None;
        };
        if header.last_offset() < self.at {
            return None;
        }
        if header.base_offset > self.at && self.pass == Pass::Rewrite {
            self.gap(header.base_offset);
        }
        let plain = header.codec() == Some(Codec::None);
        let plain = plain.then(|| stored.clone());
        self.open = Some(Open { header, stored, plain, opaque: false, less: None });
        None
    }

    fn end_pass(&mut self) {
        self.read.clear();
        match self.pass {
            Pass::Fill if self.end > self.dirty => {
                (self.pass, self.at) = (Pass::Rewrite, Offset::ZERO);
            }
            _ => {
                self.write_hole();
                self.pass = Pass::Over;
            }
        }
    }

    /// Batches were read; none when there are none up to the end.
    pub(crate) fn feed(&mut self, batches: Vec<Bytes>) {
        if batches.is_empty() {
            self.at = self.end;
        }
        let bytes: usize = batches.iter().map(Bytes::len).sum();
        self.tally.read_bytes += bytes as u64;
        self.read.extend(batches);
    }

    /// What stands up to `until` cannot be read.
    pub(crate) fn skip(&mut self, until: Offset) {
        self.write_hole();
        self.copy_until = Offset::ZERO;
        self.keeps_tombstones = true;
        self.at = until.max(self.at);
        self.read.clear();
    }

    /// What unpacking or packing came to.
    pub(crate) fn repacked(&mut self, batch: Option<Bytes>) {
        let Some(open) = &mut self.open else { return };
        match batch {
            Some(batch) if open.plain.is_none() => open.plain = Some(batch),
            Some(batch) => open.less = Some(batch),
            None => open.opaque = true,
        }
    }

    fn fill(&mut self, open: Open, partition: &Partition) {
        let header = &open.header;
        let end = header.last_offset().plus(1);
        let too_young = match self.clock {
            _ if self.settings.min_lag_ms == 0 => false,
            Some(clock) => header.max_timestamp > clock.saturating_sub(self.settings.min_lag_ms),
            None => true,
        };
        // The newest batch stays as it is, as Kafka's active segment does: whoever reads the last
        // record finds one.
        let newest = end >= partition.durable_end;
        let uncommitted = header.is_transactional() && !header.is_control();
        if too_young || newest || uncommitted {
            self.end = self.at;
            return;
        }
        let keys = header.records_count as usize;
        if let Some(plain) = open.records().filter(|_| !header.is_control()) {
            if self.map.has_room(keys, header.last_offset()) {
                let section = plain.get(batch::HEADER_BYTES..).unwrap_or_default();
                for record in batch::records(section, header.records_count).flatten() {
                    if let Some(key) = record.key {
                        let offset = header.base_offset.plus(record.offset_delta.into());
                        self.map.put(key, offset);
                    }
                }
            } else if !self.map.never_holds(keys) {
                self.end = self.at;
                return;
            }
        }
        self.at = end;
    }

    fn rewrite(&mut self, mut open: Open, partition: &Partition) -> Option<Want> {
        let header = open.header;
        if let Some(less) = open.less.take() {
            self.replace(&open, less, partition);
            return None;
        }
        if header.is_control() || header.is_transactional() {
            self.keep(open);
            return None;
        }
        let unmapped = self.map.never_holds(header.records_count as usize);
        let Some(plain) = open.records().filter(|_| !unmapped).cloned() else {
            self.keeps_tombstones = true;
            self.keep(open);
            return None;
        };
        let verdict = self.judge(&header, &plain);
        let producers_last = partition.producers.is_last(&header);
        if verdict.kept == header.records_count && verdict.horizon.is_none() {
            match verdict.kept == 0 && !producers_last {
                true => self.remove(&header, partition),
                false => self.keep(open),
            }
            return None;
        }
        let mut keeps = verdict.keeps.into_iter();
        let keep = |_: &Record<'_>| keeps.next().unwrap_or(true);
        match batch::rewrite(&header, &plain, verdict.horizon, keep) {
            Ok(Some(less)) => {
                let codec = self.settings.codec.or(header.codec()).unwrap_or(Codec::None);
                let less = Bytes::from(less);
                let plain = codec == Codec::None && less.len() <= MESSAGE_BYTES_MAX as usize;
                if plain {
                    self.replace(&open, less, partition);
                    return None;
                }
                let own = header.codec().filter(|own| *own != Codec::None);
                let codec = if codec == Codec::None { own.unwrap_or(Codec::Zstd) } else { codec };
                self.open = Some(open);
                Some(Want::Pack(less, codec))
            }
            Ok(None) if producers_last => {
                self.replace(&open, Bytes::from(batch::emptied(&header)), partition);
                None
            }
            Ok(None) => {
                self.remove(&header, partition);
                None
            }
            Err(_) => unreachable!("the records were checked"),
        }
    }

    /// Which records of a batch stay.
    fn judge(&self, header: &Header, plain: &Bytes) -> Judged {
        let section = plain.get(batch::HEADER_BYTES..).unwrap_or_default();
        let past = |horizon: i64| self.clock.is_some_and(|clock| clock >= horizon);
        let deletes_go = header.delete_horizon().is_some_and(past) && !self.keeps_tombstones;
        let mut judged = Judged { keeps: Vec::new(), kept: 0, horizon: None };
        let mut tombstones = false;
        for record in batch::records(section, header.records_count).flatten() {
            let offset = header.base_offset.plus(record.offset_delta.into());
            let newest = |key: &[u8]| self.map.get(key).is_none_or(|newest| newest <= offset);
            let tombstone = record.value.is_none();
            let above = offset >= self.end;
            let keep = above || (record.key.is_some_and(newest) && !(tombstone && deletes_go));
            judged.keeps.push(keep);
            judged.kept += i32::from(keep);
            tombstones |= keep && tombstone;
        }
        if tombstones && header.delete_horizon().is_none() {
            let retention = self.settings.delete_retention_ms;
            judged.horizon = self.clock.map(|clock| clock.saturating_add(retention));
        }
        judged
    }

    /// The batch stays as it is; it goes along with what is before it in its slot.
    fn keep(&mut self, open: Open) {
        let header = open.header;
        self.write_hole();
        if header.last_offset() < self.copy_until {
            self.push_batch(open.stored);
        }
        self.at = header.last_offset().plus(1);
    }

    fn replace(&mut self, open: &Open, less: Bytes, partition: &Partition) {
        let header = open.header;
        self.write_hole();
        match less.len() <= MESSAGE_BYTES_MAX as usize {
            true => {
                let left = Header::parse(&less).map_or(0, |less| less.records_count);
                self.tally.removed_records += u64::from(header.records_count.abs_diff(left));
                self.push_batch(less);
            }
            // What is left would take more than it took: it stays.
            false => {
                self.keeps_tombstones = true;
                if header.last_offset() < self.copy_until {
                    self.push_batch(open.stored.clone());
                }
            }
        }
        self.copy_rest(header.base_offset, partition);
        self.at = header.last_offset().plus(1);
    }

    /// Nothing is left of the batch.
    fn remove(&mut self, header: &Header, partition: &Partition) {
        self.tally.removed_records += u64::from(header.records_count.unsigned_abs());
        let end = header.last_offset().plus(1);
        self.extend_hole(self.at..end);
        self.copy_rest(header.base_offset, partition);
        self.at = end;
    }

    /// There are no records up to `base` already.
    fn gap(&mut self, base: Offset) {
        if self.hole.is_some() || self.at < self.copy_until {
            self.extend_hole(self.at..base);
            self.at = base;
        }
    }

    fn extend_hole(&mut self, more: Range<Offset>) {
        let fits = |hole: &Range<Offset>| {
            hole.end == more.start && more.end.0 - hole.start.0 <= i64::from(i32::MAX)
        };
        match self.hole.as_mut().filter(|hole| fits(hole)) {
            Some(hole) => hole.end = more.end,
            None => {
                self.write_hole();
                self.hole = Some(more);
            }
        }
    }

    fn write_hole(&mut self) {
        let Some(mut hole) = self.hole.take() else { return };
        while hole.start < hole.end {
            let delta = (hole.end.0 - hole.start.0 - 1).min(i64::from(i32::MAX));
            let last_offset_delta = delta as i32;
            self.out.push(Replacement::Hole { base_offset: hole.start, last_offset_delta });
            self.out_bytes += FRAME_HEADER_BYTES;
            hole.start = hole.start.plus(delta + 1);
        }
    }

    fn push_batch(&mut self, batch: Bytes) {
        self.out_bytes += FRAME_HEADER_BYTES + batch.len();
        self.out.push(Replacement::Batch(batch));
    }

    /// What the partition has in the same slot behind `offset` is written anew as well.
    fn copy_rest(&mut self, offset: Offset, partition: &Partition) {
        if let Some(run) = partition.run_at(offset) {
            self.copy_until = self.copy_until.max(partition.run_end(run).min(self.end));
        }
    }
}

struct Judged {
    keeps: Vec<bool>,
    kept: i32,
    /// The delete horizon to set.
    horizon: Option<i64>,
}

impl Open {
    /// Whether nothing has to be unpacked.
    fn is_readable(&self) -> bool {
        self.plain.is_some() || self.opaque || self.header.is_control()
    }

    /// The uncompressed batch, unless it is not what a log may hold.
    fn records(&self) -> Option<&Bytes> {
        let plain = self.plain.as_ref().filter(|_| !self.opaque)?;
        let header = Header::parse(plain).ok()?;
        batch::check_stored(&header, plain).ok()?;
        (header.records_count == self.header.records_count).then_some(plain)
    }
}
