//! The log on a small disk in memory: what is acknowledged is there after a cut, and how it is read.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::batch::{Builder, Header as BatchHeader, ProducerStamp, Sequence};
use crate::rng::Rng;
use crate::types::NodeId;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

const STORE: [u8; 16] = *b"a store's number";
const SLOT_BYTES: u32 = 64 << 10;
const SLOTS: u32 = 96;

/// A log and its disk. Writes stay in a cache until they are flushed.
struct World {
    log: Log,
    now: Time,
    flash: Vec<u8>,
    cache: Vec<(u64, Bytes)>,
    /// Writes and flushes that fail from now on.
    failing: u32,
    events: Vec<Event>,
    flushes: u32,
    reads: u32,
    checkpoint_bytes: u64,
    tail_cache_bytes: usize,
}

impl World {
    fn new() -> World {
        World::with(256 << 10, 32 << 10)
    }

    fn with(checkpoint_bytes: u64, tail_cache_bytes: usize) -> World {
        let start = Start::Format { store: STORE, slot_bytes: SLOT_BYTES, slots: SLOTS };
        let settings = settings(start, 0, checkpoint_bytes, tail_cache_bytes);
        let mut world = World {
            log: Log::open(settings),
            now: Time(1_000_000_000),
            flash: Vec::new(),
            cache: Vec::new(),
            failing: 0,
            events: Vec::new(),
            flushes: 0,
            reads: 0,
            checkpoint_bytes,
            tail_cache_bytes,
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
            Io::Read { op, at, len } => {
                self.reads += 1;
                (op, IoResult::Read(self.read(at, len)))
            }
        };
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
        self.log.set_partition(number, lane, Retention::FOR_EVER);
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
        self.cache.clear();
        self.failing = 0;
        self.events.clear();
        let bytes = self.flash.len() as u64;
        self.log = Log::open(settings(
            Start::Recover,
            bytes,
            self.checkpoint_bytes,
            self.tail_cache_bytes,
        ));
        self.run();
        assert!(matches!(self.events[..], [Event::Ready]), "{:?}", self.events);
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
        checkpoint_bytes,
        tail_cache_bytes: tail,
        footer_cache_bytes: 8 << 10,
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

#[test]
fn what_is_appended_is_durable_after_one_write_and_one_flush_and_is_read_back() {
    let mut world = World::new();
    let (a, b) = (world.add(1, Lane::Data), world.add(2, Lane::Data));
    let flushes = world.flushes;
    for value in ["x", "y"] {
        world.append(a, &[value, "and more"]).unwrap();
        world.append(b, &[value]).unwrap();
    }
    assert_eq!(world.log.partition(a).unwrap().durable_end, Offset(0));
    world.run();
    assert_eq!(world.flushes, flushes + 1);
    assert_eq!(world.log.partition(a).unwrap().durable_end, Offset(4));
    assert_eq!(world.values(a, 0), ["x", "and more", "y", "and more"]);
    assert_eq!(world.values(a, 1), ["and more", "y", "and more"]);
    assert_eq!(world.values(b, 1), ["y"]);
    assert_eq!(world.reads, 0, "the tail is read from memory");
    let durable = world.events.iter().find_map(|event| match event {
        Event::Durable { partitions } => Some(partitions.clone()),
        _ => None,
    });
    assert_eq!(durable, Some(vec![a, b]));
}

#[test]
fn a_restart_finds_everything_that_was_durable() {
    let mut world = World::new();
    let (a, meta) = (world.add(1, Lane::Data), world.add(0, Lane::Meta));
    let mut written = Vec::new();
    for round in 0..300 {
        let value = alloc::format!("{round} {}", "x".repeat(round * 7 % 900));
        world.append(a, &[&value]).unwrap();
        written.push(value);
        if round % 3 == 0 {
            world.append(meta, &["meta"]).unwrap();
        }
        world.run();
    }
    assert!(world.log.stats().checkpoints > 0);
    for _ in 0..3 {
        world.restart();
        same(&world.values(a, 0), &written, "restart");
        assert_eq!(world.values(meta, 0).len(), 100);
        assert_eq!(world.log.epoch_end(a, LeaderEpoch(7)), Some((LeaderEpoch(3), Offset(300))));
        assert_eq!(world.log.stats().damaged_groups, 0);
    }
}

#[test]
fn a_cut_at_any_moment_loses_nothing_acknowledged_and_brings_nothing_dropped_back() {
    for seed in 0..60 {
        check_cuts(seed);
    }
}

fn check_cuts(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut world = World::with(64 << 10, 8 << 10);
    let partitions = [world.add(0, Lane::Meta), world.add(1, Lane::Data), world.add(2, Lane::Data)];
    // What each partition must hold, and what it may hold beyond.
    let mut acked: [Vec<alloc::string::String>; 3] = Default::default();
    let mut sent: [Vec<alloc::string::String>; 3] = Default::default();
    for step in 0..60 {
        for _ in 0..rng.below(4) {
            let p = rng.below(3) as usize;
            let value = alloc::format!("{seed}.{step} {}", "v".repeat(rng.below(3000) as usize));
            world.append(partitions[p], &[&value]).unwrap();
            sent[p].push(value);
        }
        for _ in 0..rng.below(12) {
            match world.log.poll_io(world.now) {
                Some(io) => world.perform(io),
                None => world.now = world.log.deadline().unwrap_or(world.now),
            }
        }
        for p in 0..3 {
            let durable = world.log.partition(partitions[p]).unwrap().durable_end;
            acked[p] = sent[p][..durable.0 as usize].to_vec();
        }
        if rng.percent(12) {
            world.cut(&mut rng);
            let stats = world.log.stats();
            assert_eq!((stats.damaged_groups, stats.damaged_ranges), (0, 0), "seed {seed}");
            for p in 0..3 {
                world.log.set_partition(
                    partitions[p],
                    if p == 0 { Lane::Meta } else { Lane::Data },
                    Retention::FOR_EVER,
                );
                let found = world.values(partitions[p], 0);
                assert!(found.len() >= acked[p].len(), "seed {seed}: acknowledged is lost");
                same(&found, &sent[p][..found.len()], &alloc::format!("seed {seed} step {step}"));
                sent[p] = found;
            }
        }
    }
}

#[test]
fn a_failed_write_moves_to_another_slot_and_a_second_in_a_row_fences() {
    let mut world = World::new();
    let a = world.add(1, Lane::Data);
    world.append(a, &["before"]).unwrap();
    world.run();
    for failing in 1..=2 {
        world.failing = failing;
        world.append(a, &["during"]).unwrap();
        world.run();
        world.append(a, &["after"]).unwrap();
        world.run();
    }
    let expected = ["before", "during", "after", "during", "after"];
    assert_eq!(world.values(a, 0), expected);
    assert!(world.events.iter().any(|event| matches!(event, Event::WriteFailed)));
    world.restart();
    assert_eq!(world.values(a, 0), expected);
    assert_eq!(world.log.stats().damaged_groups, 0);

    world.append(a, &["never acknowledged"]).unwrap();
    world.failing = 10;
    world.run();
    assert!(world.events.iter().any(|event| matches!(event, Event::Fenced)));
    assert_eq!(world.append(a, &["refused"]), Err(AppendError::Fenced));
    assert_eq!(world.values(a, 0), expected, "reads go on");
}

#[test]
fn an_idempotent_producers_sequence_survives_a_restart() {
    let mut world = World::with(32 << 10, 0);
    let a = world.add(1, Lane::Data);
    for sequence in 0..200 {
        let stamp = ProducerStamp { producer_id: 9, base_sequence: sequence, ..Default::default() };
        let batch = batch(&[&"x".repeat(500)], 0, Some(stamp));
        world.append_batch(a, batch.clone()).unwrap();
        world.run();
        if sequence % 37 == 0 {
            world.restart();
            let header = BatchHeader::parse(&batch).unwrap();
            let base_offset = Offset(i64::from(sequence));
            let view = world.log.partition(a).unwrap();
            assert_eq!(view.producers.check(&header), Ok(Sequence::Duplicate { base_offset }));
        }
    }
}
