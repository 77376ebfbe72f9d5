//! Key compaction under crashes: one compacted partition, a model of what was written to it, and a
//! reader who must know the newest record of each key, whenever he reads.

use crate::checks::{AckedIsDurable, AlwaysStarts, CompactionKeepsLatest, Verdict, Violation};
use crate::crash_points::cut_each;
use crate::disk::{Disk, Moment, Started, flip};
use crate::faults::Faults;
use crate::flash::{Flash, Tear};
use crate::plan::Bug;
use crate::runner::{Tally, must_find, seeds};
use std::cell::Cell;
use std::collections::BTreeMap;
use weir_core::batch::{self, Builder, Codec, HEADER_BYTES, Header};
use weir_core::log::{
    Answer, Append, AppendError, Batches, Cleanup, Compaction, Event, FLUSH_WINDOW, FetchError,
    FetchSpec, IoResult, Log, Policy, Retention, Settings, Start, Ticket,
};
use weir_core::rng::Rng;
use weir_core::types::{LeaderEpoch, NodeId, OpId, PartitionNumber, Time, WallTime};

const PARTITION: PartitionNumber = PartitionNumber(1);

/// Key and value; `None` deletes the key.
type Change = (u64, Option<u64>);

/// A batch that was appended, and where it ends.
type Appended = (i64, Vec<Change>);

struct Run {
    rng: Rng,
    now: Time,
    disk: Disk,
    log: Log,
    due: BTreeMap<(Time, OpId), ()>,
    /// What the log holds, up to what the last start found, and what was appended since.
    appended: Vec<Appended>,
    acked: i64,
    keys: u64,
    answers: BTreeMap<Ticket, Result<Batches, FetchError>>,
    ready: bool,
    fenced: bool,
    compactions: u64,
    /// What each moment would leave behind at which the disk had done something, where that is
    /// wanted.
    snapshots: Option<Vec<Snapshot>>,
}

/// Everything that a cut leaves behind, before it is torn.
struct Snapshot {
    moment: Moment,
    flash: Flash,
    now: Time,
    appended: Vec<Appended>,
    acked: i64,
}

/// One random run, and how many compactions it saw.
fn random(seed: u64, bug: Bug) -> Result<(Tally, u64), Violation> {
    let mut rng = Rng::new(seed);
    let faults = Faults::random(&mut rng);
    let mut run = Run::new(rng, faults, bug);
    let boots = 2 + run.rng.below(5);
    for _ in 0..boots {
        run.start()?;
        let actions = run.rng.below(600);
        run.live(actions)?;
        run.cut();
    }
    run.disk.faults = Faults::default();
    run.start()?;
    run.check()?;
    let tally = Tally {
        cuts: run.disk.stats.cuts,
        acknowledged: run.acked as u64,
        written_bytes: run.disk.stats.written_bytes,
        ..Tally::default()
    };
    Ok((tally, run.compactions))
}

/// Cuts a log at each boundary from the first read of a compaction until a checkpoint knows what
/// has come of it. `sample` as in [`cut_each`].
pub fn every_cut(seed: u64, sample: u64) -> Result<Tally, Violation> {
    let mut run = Run::new(Rng::new(seed), Faults::default(), Bug::None);
    run.keys = 5 + run.rng.below(20);
    run.start()?;
    // Compaction begins when there is enough for it, and the clock goes on.
    run.live_until(|log| log.stats().compaction.read_bytes > 0)?;
    run.snapshots = Some(Vec::new());
    run.live_until(|log| log.stats().compaction.jobs > 0)?;
    let checkpoints = run.log.stats().checkpoints;
    run.live_until(|log| log.stats().checkpoints > checkpoints)?;
    let snapshots = run.snapshots.take().unwrap_or_default();
    let keys = run.keys;
    let pending = |snapshot: &Snapshot| snapshot.flash.pending_sectors();
    let mut tally = cut_each(&mut run.rng, &snapshots, sample, pending, |seed, snapshot, tear| {
        let mut run = Run::new(Rng::new(seed), Faults::default(), Bug::None);
        run.disk = Disk::new(snapshot.flash.clone(), Faults::default());
        run.now = snapshot.now;
        run.keys = keys;
        (run.appended, run.acked) = (snapshot.appended.clone(), snapshot.acked);
        run.disk.cut(&mut run.rng, tear);
        run.start()?;
        run.check()?;
        run.live(30)?;
        run.check()?;
        Ok(Tally { cuts: 1, acknowledged: run.acked as u64, ..Tally::default() })
    })?;
    tally.compaction_points = tally.crash_points;
    Ok(tally)
}

fn settings(rng: &mut Rng, medium_bytes: u64) -> Settings {
    let start = match medium_bytes {
        0 => Start::Format { store: rng.uuid(), slot_bytes: 64 << 10, slots: 64 },
        _ => Start::Recover,
    };
    Settings {
        start,
        medium_bytes,
        node: NodeId(1),
        flush_cap: None,
        flush_window: FLUSH_WINDOW,
        checkpoint_bytes: 64 << 10 << rng.below(3),
        tail_cache_bytes: 1 << (10 + rng.below(8)),
        footer_cache_bytes: 8 << 10,
        index_runs_max: 10_000,
    }
}

impl Run {
    fn new(mut rng: Rng, faults: Faults, bug: Bug) -> Run {
        let mut disk = Disk::new(Flash::default(), faults);
        disk.bug = bug;
        Run {
            now: Time(1),
            log: Log::open(settings(&mut rng, 0)),
            disk,
            due: BTreeMap::new(),
            appended: Vec::new(),
            acked: 0,
            keys: 2 + rng.below(60),
            answers: BTreeMap::new(),
            ready: false,
            fenced: false,
            compactions: 0,
            snapshots: None,
            rng,
        }
    }

    fn note_snapshot(&mut self) {
        let Some(snapshots) = &mut self.snapshots else { return };
        let moment = self.disk.moment();
        snapshots.pop_if(|last| last.moment == moment);
        snapshots.push(Snapshot {
            moment,
            flash: self.disk.flash.clone(),
            now: self.now,
            appended: self.appended.clone(),
            acked: self.acked,
        });
    }

    fn start(&mut self) -> Verdict {
        self.log = Log::open(settings(&mut self.rng, self.disk.flash.len()));
        self.due.clear();
        self.answers.clear();
        (self.ready, self.fenced) = (false, false);
        for _ in 0..100_000 {
            if self.ready {
                return self.started();
            }
            self.step()?;
        }
        AlwaysStarts::fails("the start never ended".into())
    }

    fn started(&mut self) -> Verdict {
        let compaction = Compaction {
            dirty_ratio_per_mille: 200,
            max_lag_ms: i64::MAX,
            min_lag_ms: 0,
            delete_retention_ms: 20_000,
            codec: [None, Some(Codec::Zstd)][self.rng.below(2) as usize],
        };
        let cleanup = Cleanup { delete: false, compact: Some(compaction) };
        self.log.set_partition(PARTITION, Policy::new(Retention::FOR_EVER, cleanup));
        let end = self.log.partition(PARTITION).map_or(0, |view| view.log_end.0);
        if end < self.acked {
            let acked = self.acked;
            return AckedIsDurable::fails(format!("the log ends at {end}, acknowledged: {acked}"));
        }
        self.appended.retain(|(batch_end, _)| *batch_end <= end);
        self.acked = end;
        if self.rng.percent(70) { self.check() } else { Ok(()) }
    }

    fn live(&mut self, actions: u64) -> Verdict {
        for _ in 0..actions {
            match self.rng.below(20) {
                0 => {
                    let wall = WallTime((self.now.0 / 100_000) as i64);
                    self.log.expire(self.now, Some(wall));
                    self.pump();
                }
                1..8 => self.append(),
                8 if self.rng.percent(5) => self.check()?,
                _ => self.step()?,
            }
            if self.fenced {
                return Ok(());
            }
        }
        Ok(())
    }

    fn live_until(&mut self, done: impl Fn(&Log) -> bool) -> Verdict {
        for _ in 0..20_000 {
            if done(&self.log) {
                return Ok(());
            }
            self.live(5)?;
        }
        CompactionKeepsLatest::fails("compaction never gets so far".into())
    }

    fn cut(&mut self) {
        self.compactions += self.log.stats().compaction.jobs;
        let tear = Tear::random(&mut self.rng, self.disk.flash.pending_sectors());
        self.disk.cut(&mut self.rng, tear);
    }

    fn append(&mut self) {
        let mut builder = Builder::new();
        let mut changes = Vec::new();
        for _ in 0..=self.rng.below(4) {
            let key = self.rng.below(self.keys);
            let number = self.rng.below(u64::MAX);
            let mut value = vec![0; 8 + self.rng.below(1_500) as usize];
            value[..8].copy_from_slice(&number.to_be_bytes());
            let kept = self.rng.percent(80).then_some(&value[..]);
            builder.push(1_000, Some(&key.to_be_bytes()), kept, &[]);
            changes.push((key, kept.map(|_| number)));
        }
        let plain = builder.build(None);
        let batch = match self.rng.percent(50) {
            true => read(flip(&plain, Codec::Lz4)),
            false => plain.into(),
        };
        let base_offset = self.log.partition(PARTITION).expect("it was made known").log_end;
        let append = Append {
            partition: PARTITION,
            leader_epoch: LeaderEpoch(0),
            base_offset,
            header: Header::parse(&batch).unwrap(),
            batch,
        };
        match self.log.append(self.now, append) {
            Ok(()) => self.appended.push((base_offset.0 + changes.len() as i64, changes)),
            Err(AppendError::Full | AppendError::Fenced) => {}
            Err(error) => panic!("{error:?}"),
        }
        self.pump();
    }

    /// Reads everything that is durable and holds it against the model.
    fn check(&mut self) -> Verdict {
        let view = self.log.partition(PARTITION).expect("it was made known");
        let (mut from, mut end) = (view.log_start, view.durable_end);
        let mut found = Vec::new();
        // The end moves on meanwhile, and what is below may be compacted because of that.
        while from < end {
            let spec = FetchSpec {
                partition: PARTITION,
                from,
                end,
                bytes_max: 20_000,
                at_least_one: true,
            };
            let batches = match self.fetch(spec)? {
                Ok(batches) => batches,
                Err(FetchError::Device) => continue,
                Err(error) => {
                    return CompactionKeepsLatest::fails(format!("{from} is not read: {error:?}"));
                }
            };
            let moved = self.log.partition(PARTITION).map_or(end, |view| view.durable_end);
            let nothing = batches.is_empty() && moved == end;
            end = moved;
            if nothing {
                return CompactionKeepsLatest::fails(format!("nothing from {from} to {end}"));
            }
            for batch in batches {
                let header = Header::parse(&batch).unwrap();
                found.extend(records(&header, batch));
                from = header.last_offset().plus(1);
            }
        }
        let written = self.appended.iter().filter(|(batch_end, _)| *batch_end <= end.0);
        CompactionKeepsLatest::check(written.map(|(end, changes)| (*end, &changes[..])), &found)
    }

    fn fetch(&mut self, spec: FetchSpec) -> Result<Result<Batches, FetchError>, Violation> {
        let ticket = match self.log.fetch(spec) {
            Ok(Answer::Now(batches)) => return Ok(Ok(batches)),
            Ok(Answer::Later(ticket)) => ticket,
            Err(error) => return Ok(Err(error)),
        };
        self.pump();
        loop {
            if let Some(answer) = self.answers.remove(&ticket) {
                return Ok(answer);
            }
            self.step()?;
        }
    }

    /// Lets the next thing happen.
    fn step(&mut self) -> Verdict {
        self.pump();
        let ends = self.due.keys().next().map(|(at, _)| *at);
        let deadline = self.log.deadline().filter(|_| self.ready);
        let Some(at) = [ends, deadline].into_iter().flatten().min() else {
            self.now = self.now.plus_ms(1);
            return Ok(());
        };
        self.now = self.now.max(at);
        if ends == Some(at) {
            let ((_, op), ()) = self.due.pop_first().expect("it was there");
            let (result, started) = self.disk.finish(op, &mut self.rng);
            self.schedule(started);
            self.log.done(self.now, op, result);
        }
        self.pump();
        Ok(())
    }

    fn schedule(&mut self, started: Option<Started>) {
        if let Some((takes, op)) = started {
            self.due.insert((self.now + takes, op), ());
        }
    }

    fn pump(&mut self) {
        while let Some(io) = self.log.poll_io(self.now) {
            let started = self.disk.submit(io, &mut self.rng);
            self.schedule(started);
        }
        while let Some(event) = self.log.poll_event() {
            match event {
                Event::Ready => self.ready = true,
                Event::Refused(error) => {
                    // The cut came before the format was durable, or the device said no.
                    log::debug!("refused: {error:?}");
                    self.disk.kill();
                    if self.acked == 0 {
                        self.disk.flash = Flash::default();
                    }
                    self.due.clear();
                    self.log = Log::open(settings(&mut self.rng, self.disk.flash.len()));
                }
                Event::Durable { .. } => {
                    let view = self.log.partition(PARTITION);
                    self.acked = view.map_or(self.acked, |view| view.durable_end.0);
                }
                Event::Fetched { ticket, result } => drop(self.answers.insert(ticket, result)),
                Event::Fenced => self.fenced = true,
                _ => {}
            }
        }
        self.note_snapshot();
    }
}

fn read(result: IoResult) -> bytes::Bytes {
    match result {
        IoResult::Read(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

fn records(header: &Header, batch: bytes::Bytes) -> Vec<(i64, Change)> {
    let plain = match header.codec() {
        Some(Codec::None) => batch,
        _ => read(flip(&batch, Codec::None)),
    };
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes[..8].try_into().unwrap());
    let records = batch::records(&plain[HEADER_BYTES..], header.records_count).map(|record| {
        let record = record.unwrap();
        let offset = header.base_offset.0 + i64::from(record.offset_delta);
        (offset, (number(record.key.unwrap()), record.value.map(number)))
    });
    records.collect()
}

#[test]
fn the_newest_record_of_each_key_survives_compaction_and_crashes() {
    let compactions = Cell::new(0);
    seeds("the_newest_record", 150, |seed| {
        let (tally, compacted) = random(seed, Bug::None)?;
        compactions.set(compactions.get() + compacted);
        Ok(tally)
    });
    assert!(compactions.get() > 0, "nothing was compacted");
}

#[test]
fn a_compaction_survives_a_cut_at_every_write_and_flush() {
    seeds("a_compaction_survives_a_cut", 3, |seed| every_cut(seed, 1));
}

#[test]
fn a_codec_that_loses_a_record_is_found() {
    let run = |seed| random(seed, Bug::LosePacked).map(|(tally, _)| tally);
    must_find("LosePacked", &["CompactionKeepsLatest"], run);
}
