//! The log on a small disk in memory: what is acknowledged is there after a cut, and how it is
//! read.
#![allow(clippy::unwrap_used)]

mod accept;
mod compacting;
mod craft;
mod damage;
mod durable;
mod footers;
mod gathering;
mod harmed;
mod hostile;
mod keeping;
mod recovery;
mod repairing;
mod scrub;
mod stale;
mod truncating;

use super::*;
use crate::batch::{Builder, Codec, Header as BatchHeader, ProducerStamp};
use crate::rng::Rng;
use crate::types::NodeId;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

const STORE: [u8; 16] = *b"a store's number";
const SLOT_BYTES: u32 = 64 << 10;
const SLOTS: u32 = 96;

type Meddle = Box<dyn FnMut(&Io) -> Option<IoResult>>;

/// A log and its disk. Writes stay in a cache until they are flushed.
struct World {
    log: Log,
    now: Time,
    flash: Vec<u8>,
    cache: Vec<(u64, Bytes)>,
    /// Writes and flushes that fail from now on.
    failing: u32,
    /// What the disk answers in place of performing an operation.
    meddle: Meddle,
    events: Vec<Event>,
    flushes: u32,
    reads: u32,
    checkpoint_bytes: u64,
    tail_cache_bytes: usize,
    /// From the next start on.
    index_runs_max: u32,
}

impl World {
    fn new() -> World {
        World::with(256 << 10, 32 << 10)
    }

    fn with(checkpoint_bytes: u64, tail_cache_bytes: usize) -> World {
        World::shaped(SLOT_BYTES, SLOTS, checkpoint_bytes, tail_cache_bytes)
    }

    fn shaped(
        slot_bytes: u32,
        slots: u32,
        checkpoint_bytes: u64,
        tail_cache_bytes: usize,
    ) -> World {
        let start = Start::Format { store: STORE, slot_bytes, slots };
        let settings = settings(start, 0, checkpoint_bytes, tail_cache_bytes);
        let mut world = World {
            log: Log::open(settings),
            now: Time(1_000_000_000),
            flash: Vec::new(),
            cache: Vec::new(),
            failing: 0,
            meddle: Box::new(|_| None),
            events: Vec::new(),
            flushes: 0,
            reads: 0,
            checkpoint_bytes,
            tail_cache_bytes,
            index_runs_max: 10_000,
        };
        world.run();
        assert!(matches!(world.events[..], [Event::Ready]));
        world
    }

    fn read(&self, at: u64, len: u32) -> Bytes {
        let mut out = vec![0; len as usize];
        let mut put = |from: u64, bytes: &[u8]| {
            for (i, &byte) in bytes.iter().enumerate() {
                let place = (from + i as u64).wrapping_sub(at);
                if place < u64::from(len) {
                    out[place as usize] = byte;
                }
            }
        };
        let end = (self.flash.len() as u64).min(at + u64::from(len));
        if at < end {
            put(at, &self.flash[at as usize..end as usize]);
        }
        for (from, bytes) in &self.cache {
            put(*from, bytes);
        }
        Bytes::from(out)
    }

    fn keep(&mut self, at: u64, bytes: &[u8]) {
        let end = at as usize + bytes.len();
        self.flash.resize(self.flash.len().max(end), 0);
        self.flash[at as usize..end].copy_from_slice(bytes);
    }

    /// Performs one operation.
    fn perform(&mut self, io: Io) {
        self.now = self.now + crate::types::Nanos(100_000);
        if let Some(result) = (self.meddle)(&io) {
            return self.done(io.op(), result);
        }
        let fails = self.failing > 0 && !matches!(io, Io::Read { .. });
        self.failing -= u32::from(fails);
        let (op, result) = match io {
            Io::Write { op, .. } | Io::Flush { op } | Io::Zero { op, .. } if fails => {
                (op, IoResult::Failed)
            }
            Io::Write { op, at, bytes } => {
                self.cache.push((at, bytes));
                (op, IoResult::Done)
            }
            Io::Zero { op, at, len } => {
                self.cache.push((at, Bytes::from(vec![0; len as usize])));
                (op, IoResult::Done)
            }
            Io::Flush { op } => {
                self.flushes += 1;
                for (at, bytes) in core::mem::take(&mut self.cache) {
                    self.keep(at, &bytes);
                }
                (op, IoResult::Done)
            }
            Io::Unpack { op, batch, .. } => (op, flip::unpack(&batch)),
            Io::Pack { op, batch, codec } => (op, flip::pack(&batch, codec)),
            Io::Read { op, at, len, .. } | Io::Verify { op, at, len } => {
                self.reads += 1;
                (op, IoResult::Read(self.read(at, len)))
            }
        };
        self.done(op, result);
    }

    fn done(&mut self, op: OpId, result: IoResult) {
        self.log.done(self.now, op, result);
        while let Some(event) = self.log.poll_event() {
            self.events.push(event);
        }
    }

    /// Performs everything until the log waits for nothing.
    fn run(&mut self) {
        loop {
            while let Some(io) = self.log.poll_io(self.now) {
                self.perform(io);
            }
            match self.log.deadline() {
                Some(at) => self.now = self.now.max(at),
                None => break,
            }
        }
        while let Some(event) = self.log.poll_event() {
            self.events.push(event);
        }
        assert!(self.log.is_idle());
    }

    fn add(&mut self, partition: u32, lane: Lane) -> PartitionNumber {
        let number = PartitionNumber(partition);
        self.log.set_partition(number, Policy::for_ever(lane));
        number
    }

    fn end(&self, partition: PartitionNumber) -> Offset {
        self.log.partition(partition).unwrap().log_end
    }

    fn append(&mut self, partition: PartitionNumber, records: &[&str]) -> Result<(), AppendError> {
        let base_offset = self.end(partition);
        let batch = batch(records, base_offset.0, None);
        self.append_batch(partition, batch)
    }

    fn append_batch(&mut self, number: PartitionNumber, batch: Bytes) -> Result<(), AppendError> {
        let append = Append {
            partition: number,
            leader_epoch: LeaderEpoch(3),
            base_offset: self.end(number),
            header: BatchHeader::parse(&batch).unwrap(),
            batch,
        };
        self.log.append(self.now, append)
    }

    /// Cuts the power: of what is not flushed, a random part is kept, in sectors. Starts again.
    fn cut(&mut self, rng: &mut Rng) {
        let percent = rng.below(101);
        for (at, bytes) in core::mem::take(&mut self.cache) {
            for (sector, part) in bytes.chunks(512).enumerate() {
                if rng.percent(percent) {
                    self.keep(at + sector as u64 * 512, part);
                }
            }
        }
        self.restart();
    }

    fn restart(&mut self) {
        self.reopen();
        assert!(matches!(self.events[..], [Event::Ready]), "{:?}", self.events);
    }

    /// Starts again, whatever comes of it.
    fn reopen(&mut self) {
        self.cache.clear();
        self.failing = 0;
        self.events.clear();
        let bytes = self.flash.len() as u64;
        let (checkpoint_bytes, tail) = (self.checkpoint_bytes, self.tail_cache_bytes);
        self.log = Log::open(Settings {
            index_runs_max: self.index_runs_max,
            ..settings(Start::Recover, bytes, checkpoint_bytes, tail)
        });
        self.run();
    }

    fn ask(&mut self, spec: FetchSpec) -> Result<Batches, FetchError> {
        let ticket = match self.log.fetch(spec)? {
            Answer::Now(batches) => return Ok(batches),
            Answer::Later(ticket) => ticket,
        };
        self.run();
        let fetched = self.events.iter().rev().find_map(|event| match event {
            Event::Fetched { ticket: answered, result } if *answered == ticket => {
                Some(result.clone())
            }
            _ => None,
        });
        fetched.expect("a fetch is answered")
    }

    fn search(&mut self, partition: PartitionNumber, timestamp: i64) -> Option<TimestampHit> {
        let ticket = match self.log.find_timestamp(partition, timestamp).unwrap() {
            Answer::Now(hit) => return hit,
            Answer::Later(ticket) => ticket,
        };
        self.run();
        let found = self.events.iter().rev().find_map(|event| match event {
            Event::Found { ticket: answered, result } if *answered == ticket => Some(*result),
            _ => None,
        });
        found.expect("a search is answered").unwrap()
    }

    /// Every record's value from `from` on, and the offset behind the last.
    fn values(&mut self, partition: PartitionNumber, from: i64) -> Vec<alloc::string::String> {
        let mut values = Vec::new();
        let mut from = Offset(from);
        while from < self.log.partition(partition).unwrap().durable_end {
            let batches = self.ask(spec(partition, from)).unwrap();
            assert!(!batches.is_empty(), "there is something at {from}");
            for batch in batches {
                let header = BatchHeader::parse(&batch).unwrap();
                for record in crate::batch::records(&batch[61..], header.records_count) {
                    let record = record.unwrap();
                    let offset = header.base_offset.plus(i64::from(record.offset_delta));
                    if offset >= from {
                        let value = core::str::from_utf8(record.value.unwrap()).unwrap();
                        values.push(value.into());
                    }
                }
                from = header.last_offset().plus(1);
            }
        }
        values
    }
}

fn same(found: &[alloc::string::String], expected: &[alloc::string::String], what: &str) {
    let differs = (0..found.len().max(expected.len())).find(|&i| found.get(i) != expected.get(i));
    let begin = |values: &[alloc::string::String]| {
        values
            .get(differs.unwrap_or(0))
            .map(|v| v.chars().take(20).collect::<alloc::string::String>())
    };
    assert!(
        differs.is_none(),
        "{what}: {differs:?} is {:?} and not {:?}; {} of {} are there",
        begin(found),
        begin(expected),
        found.len(),
        expected.len()
    );
}

fn settings(start: Start, medium_bytes: u64, checkpoint_bytes: u64, tail: usize) -> Settings {
    Settings {
        start,
        medium_bytes,
        node: NodeId(1),
        flush_cap: None,
        flush_window: FLUSH_WINDOW,
        checkpoint_bytes,
        tail_cache_bytes: tail,
        footer_cache_bytes: 8 << 10,
        index_runs_max: 10_000,
    }
}

fn spec(partition: PartitionNumber, from: Offset) -> FetchSpec {
    FetchSpec { partition, from, end: Offset(i64::MAX), bytes_max: 10_000, at_least_one: true }
}

/// A batch whose records' timestamps are a thousand times their offset.
fn batch(values: &[&str], base_offset: i64, stamp: Option<ProducerStamp>) -> Bytes {
    let mut builder = Builder::new();
    for (offset, value) in (base_offset..).zip(values) {
        builder.push(offset * 1000, None, Some(value.as_bytes()), &[]);
    }
    Bytes::from(builder.build(stamp))
}
