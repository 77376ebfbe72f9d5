//! `weir-retention`: how much the flash log writes for a byte that it is given, while records die
//! after an hour, a day and a week, or other times, and so much of the medium counts at any time.
//!
//! The log is the one of the broker; its disk is memory that counts, and its clock runs through
//! three weeks in seconds, because nothing but time makes records expire as they do on a gateway.
//! Weeks one and two fill the log and bring it to rest; the third is what is counted. With other
//! times a week is the longest of them.

mod split;

use bytes::Bytes;
use split::Split;
use std::str::FromStr;
use std::time::Instant;
use weir_core::batch::{Builder, Header};

use weir_core::log::{
    Append, Cleanup, Event, FLUSH_WINDOW, Io, IoResult, Log, Policy, Retention, Settings, Start,
    Stats,
};
use weir_core::types::{LeaderEpoch, NodeId, Offset, PartitionNumber, Time, WallTime};

const USAGE: &str = "\
weir-retention [--live 85] [--slots 512] [--slot-bytes 1048576] [--hours 1,24,168] [--rates 1,1,1]
  --live    percent of the medium that are records which count at any time; their frames, padding,
            footers and checkpoints come on top: about an eighth more
  --hours   how long records are kept, by partition in turn
  --rates   how many records of each commit go to a partition that keeps its records so long
Prints one JSON object; its `split` says what the bytes written for one of payload are for.";

const CLASSES: usize = 3;
const HOUR_MS: i64 = 3_600_000;
const BEGIN_MS: i64 = 1_800_000_000_000;
const PARTITIONS: u32 = 100;
const BATCH_BYTES: usize = 1024;
/// As often as the broker does.
const EXPIRE_MS: i64 = 10_000;

struct Options {
    live: u64,
    slots: u32,
    slot_bytes: u32,
    /// Both by the class of a partition.
    hours: [i64; CLASSES],
    rates: [u32; CLASSES],
}

fn parse() -> Option<Options> {
    let (hours, rates) = ([1, 24, 7 * 24], [1; CLASSES]);
    let mut options = Options { live: 85, slots: 512, slot_bytes: 1 << 20, hours, rates };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next()?;
        match name.as_str() {
            "--live" => options.live = value.parse().ok()?,
            "--slots" => options.slots = value.parse().ok()?,
            "--slot-bytes" => options.slot_bytes = value.parse().ok()?,
            "--hours" => options.hours = by_class(&value)?,
            "--rates" => options.rates = by_class(&value)?,
            _ => return None,
        }
    }
    Some(options)
}

fn by_class<T: FromStr>(text: &str) -> Option<[T; CLASSES]> {
    let values: Result<Vec<T>, _> = text.split(',').map(str::parse).collect();
    values.ok()?.try_into().ok()
}

/// What reaches the device.
#[derive(Clone, Copy, Default)]
struct Counts {
    writes: u64,
    written: u64,
    flushes: u64,
    read: u64,
    split: Split,
}

/// A log on a medium of memory, at some moment.
struct World {
    log: Log,
    medium: Vec<u8>,
    counts: Counts,
    /// Milliseconds since the log was opened.
    ms: i64,
}

impl World {
    fn new(options: &Options) -> World {
        let start = Start::Format {
            store: *b"weir-retention--",
            slot_bytes: options.slot_bytes,
            slots: options.slots,
        };
        let log = Log::open(Settings {
            start,
            medium_bytes: 0,
            node: NodeId(1),
            flush_cap: None,
            flush_window: FLUSH_WINDOW,
            checkpoint_bytes: 16 << 20,
            tail_cache_bytes: 1 << 20,
            footer_cache_bytes: 8 << 20,
            index_runs_max: 1 << 20,
        });
        // The superblocks take the place of slots.
        let bytes = u64::from(options.slots + 2) * u64::from(options.slot_bytes);
        let medium = vec![0; bytes as usize];
        let mut world = World { log, medium, counts: Counts::default(), ms: 0 };
        world.settle(0);
        for number in 0..PARTITIONS {
            let ms = options.hours[number as usize % CLASSES] * HOUR_MS;
            let retention = Retention { ms, bytes: -1, yields_to_pressure: true };
            let policy = Policy::new(retention, Cleanup::DELETE);
            world.log.set_partition(PartitionNumber(number), policy);
        }
        world
    }

    fn now(&self) -> Time {
        Time::ZERO.plus_ms(self.ms as u64)
    }

    fn wall_ms(&self) -> i64 {
        BEGIN_MS + self.ms
    }

    /// Lets the disk do everything that is asked of it, and time pass until then.
    fn settle(&mut self, until: i64) {
        loop {
            let now = self.now();
            if let Some(io) = self.log.poll_io(now) {
                let result = self.perform(&io);
                self.log.done(now, io.op(), result);
                while let Some(event) = self.log.poll_event() {
                    let bad = matches!(event, Event::Refused(_) | Event::Fenced | Event::Damage(_));
                    assert!(!bad, "{event:?}");
                }
                continue;
            }
            let due = self.log.deadline().map(|due| due.0.div_ceil(1_000_000) as i64);
            match due.filter(|&due| due <= until) {
                Some(due) => self.ms = self.ms.max(due),
                None => break,
            }
        }
        self.ms = self.ms.max(until);
    }

    fn perform(&mut self, io: &Io) -> IoResult {
        match io {
            Io::Write { at, bytes, .. } => {
                self.medium[*at as usize..][..bytes.len()].copy_from_slice(bytes);
                self.counts.writes += 1;
                self.counts.written += bytes.len() as u64;
                self.counts.split.add(bytes);
            }
            Io::Flush { .. } => self.counts.flushes += 1,
            Io::Zero { at, len, .. } => {
                self.medium[*at as usize..][..*len as usize].fill(0);
                self.counts.written += u64::from(*len);
            }
            Io::Read { at, len, .. } | Io::Verify { at, len, .. } => {
                let bytes = &self.medium[*at as usize..][..*len as usize];
                self.counts.read += bytes.len() as u64;
                return IoResult::Read(Bytes::copy_from_slice(bytes));
            }
            Io::Unpack { .. } | Io::Pack { .. } => return IoResult::Failed,
        }
        IoResult::Done
    }

    /// One record batch for each partition, as many times as its rate says.
    fn commit(&mut self, rates: &[u32; CLASSES]) {
        let mut builder = Builder::new();
        // Behind the batch's header and the record's own.
        builder.push(self.wall_ms(), None, Some(&[0; BATCH_BYTES - 72]), &[]);
        let batch = Bytes::from(builder.build(None));
        let header = Header::parse(&batch).expect("it was built a moment ago");
        for number in 0..PARTITIONS {
            let partition = PartitionNumber(number);
            for _ in 0..rates[number as usize % CLASSES] {
                let view = self.log.partition(partition).expect("it was made known");
                let base_offset: Offset = view.log_end;
                let append = Append {
                    partition,
                    leader_epoch: LeaderEpoch(1),
                    base_offset,
                    header,
                    batch: batch.clone(),
                };
                self.log.append(self.now(), append).expect("the log has room");
            }
        }
    }

    /// Commits in even distances until then.
    fn run(&mut self, rates: &[u32; CLASSES], distance_ms: i64, until_ms: i64) {
        while self.ms < until_ms {
            let next = self.ms + distance_ms;
            self.commit(rates);
            while self.ms < next {
                let step = next.min((self.ms / EXPIRE_MS + 1) * EXPIRE_MS);
                self.settle(step);
                self.log.expire(self.now(), Some(WallTime(self.wall_ms())));
            }
        }
    }
}

fn main() {
    let Some(options) = parse() else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    let begin = Instant::now();
    let mut world = World::new(&options);
    let week = options.hours.into_iter().max().expect("there are classes") * HOUR_MS;
    // Bytes that count at any time, for each commit an hour.
    let share =
        |class: usize| (class as u64..u64::from(PARTITIONS)).step_by(CLASSES).count() as u64;
    let lasting =
        |class: usize| share(class) * u64::from(options.rates[class]) * options.hours[class] as u64;
    let hourly = (0..CLASSES).map(lasting).sum::<u64>() * BATCH_BYTES as u64;
    let medium = u64::from(options.slots) * u64::from(options.slot_bytes);
    let commits_an_hour = (medium * options.live / 100).div_ceil(hourly).max(1);
    let distance_ms = HOUR_MS / commits_an_hour as i64;
    world.run(&options.rates, distance_ms, 2 * week);
    let (before, counted): (Stats, Counts) = (world.log.stats(), world.counts);
    world.run(&options.rates, distance_ms, 3 * week);
    let (after, counts) = (world.log.stats(), world.counts);
    let payload = after.payload_bytes - before.payload_bytes;
    println!(
        "{{\"amplification\": {:.4}, \"live\": {:.4}, \"payload_mib\": {}, \"written_mib\": {}, \
         \"cleaned_mib\": {}, \"slots_cleaned\": {}, \"read_mib\": {}, \"writes\": {}, \
         \"flushes\": {}, \"commits\": {}, \"expired_early\": {}, \"free_slots\": {}, \
         \"seconds\": {:.1}, \"split\": {}}}",
        (counts.written - counted.written) as f64 / payload as f64,
        after.live_bytes as f64 / medium as f64,
        payload >> 20,
        (counts.written - counted.written) >> 20,
        (after.cleaned_bytes - before.cleaned_bytes) >> 20,
        after.slots_cleaned - before.slots_cleaned,
        (counts.read - counted.read) >> 20,
        counts.writes - counted.writes,
        counts.flushes - counted.flushes,
        week / distance_ms,
        after.expired_early_records - before.expired_early_records,
        after.slots_free,
        begin.elapsed().as_secs_f64(),
        counts.split.since(&counted.split, payload),
    );
}
