//! A compaction against a model: a map of the newest record of each key.

use super::job::{Job, Want};
use super::map::OffsetMap;
use crate::batch::{Builder, Codec, Header, ProducerStamp, records, stamp};
use crate::log::flip;
use crate::log::partition::Partition;
use crate::log::runs::Run;
use crate::log::{Compaction, IoResult, Lane, Replacement};
use crate::rng::Rng;
use crate::types::{Offset, PartitionNumber};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use bytes::Bytes;

const RETENTION_MS: i64 = 1_000;
const SETTINGS: Compaction = Compaction {
    dirty_ratio_per_mille: 500,
    max_lag_ms: i64::MAX,
    min_lag_ms: 0,
    delete_retention_ms: RETENTION_MS,
    codec: None,
};

/// A partition whose batches stand in memory, by their base offsets.
struct World {
    rng: Rng,
    partition: Partition,
    batches: BTreeMap<Offset, Bytes>,
    /// Offsets that cannot be read.
    damaged: BTreeSet<Offset>,
    settings: Compaction,
    entries: usize,
    clock: i64,
    sequences: [i32; 3],
    written: usize,
}

/// Offset, key, value and timestamp of a record.
type Seen = (Offset, Option<u8>, Option<u8>, i64);

impl World {
    fn new(seed: u64) -> World {
        World {
            rng: Rng::new(seed),
            partition: Partition::new(Lane::Compacted, Offset::ZERO),
            batches: BTreeMap::new(),
            damaged: BTreeSet::new(),
            settings: SETTINGS,
            entries: 1 << 10,
            clock: 1_000_000,
            sequences: [0; 3],
            written: 0,
        }
    }

    /// Appends a batch of some records with keys 0 to `keys`, a third of them tombstones.
    fn append(&mut self, keys: u64) {
        let mut builder = Builder::new();
        let count = 1 + self.rng.below(4);
        for _ in 0..count {
            let key = [self.rng.below(keys) as u8];
            let value = [self.rng.below(256) as u8];
            let value = (!self.rng.percent(33)).then_some(&value[..]);
            builder.push(self.clock + self.rng.below(5) as i64, Some(&key), value, &[]);
        }
        let producer = self.rng.below(4) as usize;
        let sequence = self.sequences.get_mut(producer).map(|next| {
            let base_sequence = *next;
            *next += count as i32;
            ProducerStamp { producer_id: producer as i64, base_sequence, ..Default::default() }
        });
        let batch = builder.build(sequence);
        let batch = match self.rng.percent(50) {
            true => packed(&batch, Codec::Lz4),
            false => Bytes::from(batch),
        };
        self.put(batch);
    }

    fn put(&mut self, batch: Bytes) {
        let mut batch = batch.to_vec();
        let base = self.partition.log_end;
        stamp(&mut batch, base, 0);
        let header = Header::parse(&batch).unwrap();
        self.partition.producers.apply(&header, base);
        self.partition.log_end = header.last_offset().plus(1);
        self.partition.durable_end = self.partition.log_end;
        self.partition.written_end = self.partition.log_end;
        self.batches.insert(base, Bytes::from(batch));
        if self.partition.runs.back().is_none_or(|run| base.0 - run.base_offset.0 > 40) {
            let slot = self.partition.runs.len() as u32;
            self.partition.runs.push_back(Run {
                slot,
                bytes: 1,
                base_offset: base,
                max_timestamp: 0,
            });
        }
    }

    /// Runs compactions until one makes no progress.
    fn compact(&mut self) {
        loop {
            let before = self.partition.cleaned;
            self.turn(usize::MAX);
            if self.partition.cleaned == before {
                return;
            }
        }
    }

    /// One compaction, cut off after so many writes.
    fn turn(&mut self, writes: usize) {
        let map = OffsetMap::with_entries(&[7; 16], self.entries);
        let number = PartitionNumber(1);
        let mut job = Job::new(number, &self.partition, self.settings, map, Some(self.clock));
        let mut left = writes;
        loop {
            match job.next(&self.partition) {
                Want::Read(from, end) => self.read(&mut job, from, end),
                Want::Unpack(batch) => job.repacked(read(flip::unpack(&batch))),
                Want::Pack(batch, codec) => job.repacked(read(flip::pack(&batch, codec))),
                Want::Turn => {}
                Want::Write(replacements) => {
                    for replacement in replacements {
                        if left == 0 {
                            return;
                        }
                        left -= 1;
                        self.replace(replacement);
                    }
                }
                Want::End => break,
            }
        }
        self.partition.cleaned = self.partition.cleaned.max(job.end());
    }

    fn read(&mut self, job: &mut Job, from: Offset, end: Offset) {
        if self.damaged.contains(&from) {
            return job.skip(from.plus(1));
        }
        let first = self.batches.range(..=from).next_back().map_or(from, |(base, _)| *base);
        let found = self
            .batches
            .range(first..end)
            .filter(|(_, batch)| Header::parse(batch).unwrap().last_offset() >= from);
        let lost = self.damaged.range(from..).next().copied().unwrap_or(end);
        let found = found.take_while(|(base, _)| **base < lost);
        let found: Vec<Bytes> = found.take(3).map(|(_, batch)| batch.clone()).collect();
        match found.is_empty() && lost < end {
            true => job.skip(lost.plus(1)),
            false => job.feed(found),
        }
    }

    fn replace(&mut self, replacement: Replacement) {
        self.written += 1;
        let (base, delta, batch) = match replacement {
            Replacement::Hole { base_offset, last_offset_delta } => {
                (base_offset, last_offset_delta, None)
            }
            Replacement::Batch(batch) => {
                let header = Header::parse(&batch).unwrap();
                assert_eq!(crc(&batch), header.crc);
                (header.base_offset, header.last_offset_delta, Some(batch))
            }
        };
        let end = base.plus(i64::from(delta) + 1);
        let gone: Vec<Offset> = self.batches.range(base..end).map(|(base, _)| *base).collect();
        for old in gone {
            let old = self.batches.remove(&old).unwrap();
            let header = Header::parse(&old).unwrap();
            assert!(header.last_offset() < end, "whole batches are replaced");
        }
        if let Some(batch) = batch {
            self.batches.insert(base, batch);
        }
    }

    fn seen(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        for batch in self.batches.values() {
            let header = Header::parse(batch).unwrap();
            let plain = match header.codec() {
                Some(Codec::None) => batch.clone(),
                _ => read(flip::unpack(batch)).unwrap(),
            };
            for record in records(&plain[61..], header.records_count) {
                let record = record.unwrap();
                let first = |bytes: Option<&[u8]>| bytes.map(|bytes| bytes[0]);
                let offset = header.base_offset.plus(record.offset_delta.into());
                let timestamp = header.base_timestamp.wrapping_add(record.timestamp_delta);
                seen.push((offset, first(record.key), first(record.value), timestamp));
            }
        }
        seen
    }

    /// The newest batch with records or without of each producer.
    fn sequences(&self) -> BTreeMap<i64, i32> {
        let headers = self.batches.values().map(|batch| Header::parse(batch).unwrap());
        let of_producers = headers.filter(|header| header.producer_id >= 0);
        of_producers.map(|header| (header.producer_id, header.last_sequence())).collect()
    }
}

fn crc(batch: &[u8]) -> u32 {
    crc32c::crc32c(&batch[21..])
}

fn read(result: IoResult) -> Option<Bytes> {
    match result {
        IoResult::Read(bytes) => Some(bytes),
        _ => None,
    }
}

fn packed(batch: &[u8], codec: Codec) -> Bytes {
    match codec {
        Codec::None => Bytes::copy_from_slice(batch),
        _ => read(flip::pack(batch, codec)).unwrap(),
    }
}

/// The newest record of each key, without tombstones.
fn newest(seen: &[Seen]) -> BTreeMap<u8, Seen> {
    let mut newest = BTreeMap::new();
    for record in seen {
        newest.insert(record.1.unwrap(), *record);
    }
    newest.retain(|_, record| record.2.is_some());
    newest
}

fn check(seed: u64) {
    let mut world = World::new(seed);
    world.entries = if seed.is_multiple_of(3) { 16 } else { 1 << 10 };
    world.settings.codec = [None, Some(Codec::Zstd), Some(Codec::None)][seed as usize / 3 % 3];
    let mut appended: BTreeSet<Seen> = BTreeSet::new();
    for round in 0..6 {
        for _ in 0..world.rng.below(60) {
            world.append(1 + seed % 20);
        }
        let before = world.seen();
        appended.extend(&before);
        let (truth, sequences) = (newest(&before), world.sequences());
        if world.rng.percent(30) {
            // Cut off in the middle, begun anew: as after a power cut.
            let writes = world.rng.below(10) as usize;
            world.turn(writes);
            assert_eq!(newest(&world.seen()), truth, "seed {seed} round {round}: cut off");
        }
        world.compact();
        let after = world.seen();
        assert_eq!(newest(&after), truth, "seed {seed} round {round}");
        assert!(after.iter().all(|record| appended.contains(record)), "nothing is made up");
        assert_eq!(world.sequences(), sequences, "seed {seed}: sequences");
        let cleaned = world.partition.cleaned;
        assert_eq!(cleaned, *world.batches.last_key_value().map_or(&cleaned, |(base, _)| base));
        let below = after.iter().filter(|record| record.0 < cleaned);
        let keys: Vec<u8> = below.map(|record| record.1.unwrap()).collect();
        let distinct: BTreeSet<u8> = keys.iter().copied().collect();
        assert_eq!(keys.len(), distinct.len(), "seed {seed}: each key once below {cleaned}");
        // Once more removes the tombstones whose time has come; then there is nothing to do.
        world.partition.cleaned = Offset::ZERO;
        world.compact();
        let (again, written) = (world.seen(), world.written);
        assert_eq!(newest(&again), truth, "seed {seed} round {round}: again");
        world.partition.cleaned = Offset::ZERO;
        world.compact();
        assert_eq!(world.seen(), again);
        assert_eq!(world.written, written, "what is compacted is not written again");
        world.clock += world.rng.below(2 * RETENTION_MS as u64) as i64;
    }
}

#[test]
fn a_compacted_partition_has_of_each_key_the_newest_record_where_it_was() {
    for seed in 0..300 {
        check(seed);
    }
}

#[test]
fn a_tombstone_goes_when_it_was_seen_for_its_time_and_what_it_deleted_stays_gone() {
    let mut world = World::new(1);
    let put = |world: &mut World, key: u8, value: Option<u8>| {
        let mut builder = Builder::new();
        builder.push(world.clock, Some(&[key]), value.as_ref().map(core::slice::from_ref), &[]);
        world.put(Bytes::from(builder.build(None)));
    };
    put(&mut world, 1, Some(7));
    put(&mut world, 1, None);
    put(&mut world, 2, Some(8));
    world.compact();
    let keys = |world: &World| world.seen().iter().map(|s| s.1.unwrap()).collect::<Vec<u8>>();
    assert_eq!(keys(&world), [1, 2]);
    world.clock += RETENTION_MS - 1;
    put(&mut world, 3, Some(9));
    world.compact();
    assert_eq!(keys(&world), [1, 2, 3]);
    world.clock += 1;
    put(&mut world, 4, Some(9));
    world.compact();
    assert_eq!(keys(&world), [2, 3, 4]);
}

#[test]
fn a_tombstone_stays_while_something_before_it_cannot_be_read() {
    for damage in [false, true] {
        let mut world = World::new(1);
        let mut builder = Builder::new();
        builder.push(0, Some(&[1]), Some(&[7]), &[]);
        let mut hidden = packed(&builder.build(None), Codec::Gzip).to_vec();
        hidden[61] ^= 0x55;
        world.put(Bytes::from(hidden));
        if damage {
            world.damaged.insert(Offset::ZERO);
        }
        for (key, value) in [(1, None), (2, Some(&[8][..]))] {
            let mut builder = Builder::new();
            builder.push(0, Some(&[key]), value, &[]);
            world.put(Bytes::from(builder.build(None)));
        }
        world.compact();
        world.clock += 2 * RETENTION_MS;
        world.partition.cleaned = Offset::ZERO;
        world.compact();
        assert!(world.batches.contains_key(&Offset(1)));
    }
}

#[test]
fn a_batch_with_more_keys_than_the_map_takes_deletes_for_ever() {
    let mut world = World::new(1);
    world.entries = 4;
    for (keys, value) in
        [(0..1, Some(&[7][..])), (0..4, None), (9..10, Some(&[7])), (9..10, Some(&[8]))]
    {
        let mut builder = Builder::new();
        keys.for_each(|key| builder.push(0, Some(&[key]), value, &[]));
        world.put(Bytes::from(builder.build(None)));
    }
    let truth = newest(&world.seen());
    for _ in 0..3 {
        world.compact();
        assert_eq!(newest(&world.seen()), truth);
        world.clock += 2 * RETENTION_MS;
        world.partition.cleaned = Offset::ZERO;
    }
}

#[test]
fn young_records_and_those_of_transactions_are_left_alone() {
    let mut world = World::new(1);
    world.settings.min_lag_ms = 100;
    for _ in 0..50 {
        world.append(1);
    }
    world.compact();
    assert_eq!((world.partition.cleaned, world.written), (Offset::ZERO, 0));
    world.clock += 200;
    let mut builder = Builder::new();
    builder.push(0, Some(&[1]), Some(&[1]), &[]);
    let stamp = ProducerStamp { producer_id: 5, transactional: true, ..Default::default() };
    let stop = world.partition.log_end;
    world.put(Bytes::from(builder.build(Some(stamp))));
    world.append(1);
    world.compact();
    assert_eq!(world.partition.cleaned, stop);
    assert!(world.written > 0);
}

#[test]
fn what_is_written_anew_has_the_topics_codec_or_its_own() {
    let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    for topics in [None].into_iter().chain(codecs.map(Some)) {
        let mut world = World::new(1);
        world.settings.codec = topics;
        let put = |world: &mut World, keys: &[u8], codec| {
            let mut builder = Builder::new();
            keys.iter().for_each(|key| builder.push(0, Some(&[*key]), Some(&[7]), &[]));
            world.put(packed(&builder.build(None), codec));
        };
        (1..).zip(codecs).for_each(|(key, own)| put(&mut world, &[0, key], own));
        put(&mut world, &[0], Codec::Snappy);
        put(&mut world, &[9], Codec::Snappy);
        world.compact();
        let keys: Vec<u8> = world.seen().iter().map(|record| record.1.unwrap()).collect();
        assert_eq!(keys, [1, 2, 3, 4, 5, 0, 9]);
        let codec = |batch: &Bytes| Header::parse(batch).unwrap().codec().unwrap();
        let found: Vec<Codec> = world.batches.values().map(codec).collect();
        assert_eq!(found[..5], codecs.map(|own| topics.unwrap_or(own)), "topic: {topics:?}");
        assert_eq!(found[5..], [Codec::Snappy; 2], "topic: {topics:?}: what loses nothing stays");
    }
}

/// A batch of a transaction; with a marker's key, the control batch that ends it.
fn of_transaction(producer_id: i64, key: &[u8], is_marker: bool) -> Bytes {
    let mut builder = Builder::new();
    builder.push(0, Some(key), Some(&[0; 6]), &[]);
    let base_sequence = if is_marker { -1 } else { 0 };
    let stamp =
        ProducerStamp { producer_id, base_sequence, transactional: true, ..Default::default() };
    let mut batch = builder.build(Some(stamp));
    if is_marker {
        // Bit 5 of the attributes, within the checksum.
        batch[22] |= 0x20;
        let crc = crc(&batch).to_be_bytes();
        batch[17..21].copy_from_slice(&crc);
    }
    Bytes::from(batch)
}

#[test]
fn markers_stay_and_so_does_all_from_the_first_record_of_a_transaction_on() {
    // Version 0, then the type.
    const ABORT: &[u8] = &[0, 0, 0, 0];
    const COMMIT: &[u8] = &[0, 0, 0, 1];
    let mut world = World::new(1);
    let put = |world: &mut World, key: &[u8]| {
        let mut builder = Builder::new();
        builder.push(0, Some(key), Some(&[7]), &[]);
        world.put(Bytes::from(builder.build(None)));
    };
    // A record's key that is also a marker's: neither takes the place of the other.
    put(&mut world, ABORT);
    put(&mut world, b"key");
    // Markers whose records went below the log start.
    world.put(of_transaction(5, COMMIT, true));
    world.put(of_transaction(6, ABORT, true));
    put(&mut world, COMMIT);
    put(&mut world, b"key");
    let first = world.partition.log_end;
    world.put(of_transaction(7, b"key", false));
    world.put(of_transaction(7, COMMIT, true));
    for _ in 0..3 {
        put(&mut world, b"key");
    }
    let mut truth = world.batches.clone();
    assert!(Header::parse(&truth[&Offset(7)]).unwrap().is_control());
    // Only what was superseded before the transaction goes, also when the time of tombstones is
    // over; the markers go along with it to another slot.
    truth.remove(&Offset(1));
    for _ in 0..2 {
        world.compact();
        assert_eq!((world.partition.cleaned, &world.batches), (first, &truth));
        assert!(world.written > 2);
        world.clock += 2 * RETENTION_MS;
        world.partition.cleaned = Offset::ZERO;
    }
}
