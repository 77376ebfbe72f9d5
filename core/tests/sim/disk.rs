//! The disk as a driver sees it: takes operations, is busy for a while, and sometimes says no.
//!
//! Writes, flushes and zeroing happen one after the other in the order of asking; reads go beside
//! them. The mutations that a disk can express live here too: a broker that answers before the
//! flush, and one that tries a failed sync again, look like a disk that says `Done` too early.

use crate::faults::Faults;
use crate::flash::{BLOCK, Flash, PAGE, SECTOR, Tear};
use crate::harm::Harm;
use crate::plan::Bug;
use crate::trace::Trace;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use weir_core::batch::{self, Codec, HEADER_BYTES};
use weir_core::log::{Io, IoResult};
use weir_core::rng::Rng;
use weir_core::types::{Nanos, OpId};

/// What the disk did, over all boots of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskStats {
    pub writes: u64,
    pub written_bytes: u64,
    pub flushes: u64,
    pub reads: u64,
    pub read_bytes: u64,
    pub errors: u64,
    pub cuts: u64,
}

pub struct Disk {
    pub flash: Flash,
    pub faults: Faults,
    pub bug: Bug,
    pub stats: DiskStats,
    pub harm: Harm,
    /// Whether faults that harm happen yet: not before the format is durable.
    pub armed: bool,
    pub slot_bytes: u32,
    pub trace: Trace,
    /// Where writes went, in order: what damage may hit.
    pub written: Vec<(u64, u64)>,
    /// Bytes that may be on the medium at most; zeroing beyond fails. The file system is full
    /// there.
    pub bytes_max: u64,
    queue: VecDeque<Io>,
    busy: Option<Busy>,
    reads: BTreeMap<OpId, (u64, u32, Vec<Range<u32>>)>,
    /// Batches on their way through a codec, with what comes out.
    codecs: BTreeMap<OpId, IoResult>,
    /// How often in a row a read failed there.
    failing: BTreeMap<u64, u32>,
    /// Writes whose flush was answered and not done: a lie, or [`Bug::AcknowledgeBeforeFlush`].
    owed: usize,
    /// Bits that flipped, and reads that a cache answers, with [`Bug::CachedScrub`].
    rotten: Vec<(u64, u32)>,
    cached: BTreeSet<OpId>,
    /// Reads that met a bad sector, with [`Bug::FailWholeReads`].
    failed: Vec<Range<u64>>,
}

/// The write or flush that is going on.
struct Busy {
    io: Io,
    /// How many pending writes the flush makes durable.
    covers: usize,
    fails: bool,
}

/// What the disk had done at a moment: writes, flushes, cuts, sectors pending, length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment(u64, u64, u64, u64, u64);

/// An operation that goes on until so much later.
pub type Started = (Nanos, OpId);

impl Disk {
    pub fn new(flash: Flash, faults: Faults) -> Disk {
        Disk {
            flash,
            faults,
            bug: Bug::None,
            stats: DiskStats::default(),
            harm: Harm::default(),
            armed: false,
            slot_bytes: 0,
            trace: Trace::default(),
            written: Vec::new(),
            bytes_max: u64::MAX,
            queue: VecDeque::new(),
            busy: None,
            reads: BTreeMap::new(),
            codecs: BTreeMap::new(),
            failing: BTreeMap::new(),
            owed: 0,
            rotten: Vec::new(),
            cached: BTreeSet::new(),
            failed: Vec::new(),
        }
    }

    /// Operations that were asked for and are not answered.
    pub fn outstanding(&self) -> usize {
        let beside = self.reads.len() + self.codecs.len();
        self.queue.len() + usize::from(self.busy.is_some()) + beside
    }

    pub fn submit(&mut self, io: Io, rng: &mut Rng) -> Option<Started> {
        self.note(&io);
        match io {
            Io::Write { .. } | Io::Flush { .. } | Io::Zero { .. } => {
                self.queue.push_back(io);
                self.start_next(rng)
            }
            Io::Verify { op, at, len } => {
                let cached = self.bug == Bug::CachedScrub;
                self.cached.extend(cached.then_some(op));
                self.submit(Io::Read { op, at, len, parts: Vec::new() }, rng)
            }
            Io::Read { op, at, len, parts } => {
                self.stats.reads += 1;
                self.stats.read_bytes += u64::from(len);
                self.reads.insert(op, (at, len, parts));
                Some((self.takes(rng, 80, 400), op))
            }
            Io::Unpack { op, batch, bytes_max } => {
                let unpacked = flip(&batch, Codec::None);
                let fits = batch.len() <= bytes_max;
                self.codecs.insert(op, if fits { unpacked } else { IoResult::Failed });
                Some((self.takes(rng, 20, 2_000), op))
            }
            Io::Pack { op, batch, codec } => {
                let batch = if self.bug == Bug::LosePacked { without_last(batch) } else { batch };
                self.codecs.insert(op, flip(&batch, codec));
                Some((self.takes(rng, 20, 2_000), op))
            }
        }
    }

    /// Ends an operation; the next one in the queue may start.
    pub fn finish(&mut self, op: OpId, rng: &mut Rng) -> (IoResult, Option<Started>) {
        if let Some(result) = self.codecs.remove(&op) {
            return (result, None);
        }
        if let Some((at, len, parts)) = self.reads.remove(&op) {
            // A read that fails succeeds a moment later: what never can be read is damage, another
            // story.
            let failures = self.failing.entry(at).or_default();
            let fails = *failures < 2 && rng.below(1000) < self.faults.read_error;
            *failures = if fails { *failures + 1 } else { 0 };
            self.stats.errors += u64::from(fails);
            let mut bytes = self.flash.read(at, u64::from(len));
            if self.cached.remove(&op) {
                self.undo_rot(at, &mut bytes);
            }
            // What nobody asked for is nonsense.
            let matters = |at: u32| parts.is_empty() || parts.iter().any(|part| part.contains(&at));
            let unreadable = self.is_unreadable(at, len, &parts);
            let fails = fails || unreadable || self.failed.iter().any(|whole| whole.contains(&at));
            if unreadable && self.bug == Bug::FailWholeReads {
                self.failed.push(at..at + u64::from(len));
            }
            (0u32..).zip(&mut bytes).filter(|(at, _)| !matters(*at)).for_each(|(_, b)| *b = 0xa5);
            return (if fails { IoResult::Failed } else { IoResult::Read(bytes.into()) }, None);
        }
        let busy = self.busy.take().expect("an operation ends once");
        self.stats.errors += u64::from(busy.fails);
        let result = match busy.io {
            Io::Flush { .. } => self.end_flush(rng, &busy),
            _ if busy.fails => IoResult::Failed,
            _ => IoResult::Done,
        };
        (result, self.start_next(rng))
    }

    fn is_unreadable(&self, at: u64, len: u32, parts: &[Range<u32>]) -> bool {
        let bad = |from: u32, to: u32| {
            self.flash.is_unreadable(at + u64::from(from), u64::from(to - from))
        };
        match parts {
            [] => bad(0, len),
            parts => parts.iter().any(|part| bad(part.start, part.end)),
        }
    }

    /// Bytes as they were before they rotted.
    fn undo_rot(&self, at: u64, bytes: &mut [u8]) {
        for &(place, bit) in &self.rotten {
            if let Some(byte) = place.checked_sub(at).and_then(|i| bytes.get_mut(i as usize)) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// Changes whenever what a cut would leave behind does.
    pub fn moment(&self) -> Moment {
        let DiskStats { writes, flushes, cuts, .. } = self.stats;
        Moment(writes, flushes, cuts, self.flash.pending_sectors(), self.flash.len())
    }

    /// The power goes.
    pub fn cut(&mut self, rng: &mut Rng, tear: Tear) {
        self.stats.cuts += 1;
        let neighbours = self.armed && rng.below(1000) < self.faults.neighbours;
        let torn = if neighbours { self.flash.pending_ranges() } else { Vec::new() };
        self.lose_owed();
        self.flash.cut(rng, tear);
        if !torn.is_empty() {
            self.harm_neighbours(rng, &torn);
        }
        self.forget();
    }

    /// The process is killed; what was written stays.
    pub fn kill(&mut self) {
        self.flash.kill();
        self.forget();
    }

    /// Flips a bit of what was written some time.
    pub fn rot(&mut self, rng: &mut Rng) {
        if self.written.is_empty() {
            return;
        }
        let (at, len) = self.written[rng.below(self.written.len() as u64) as usize];
        let byte = at + rng.below(len);
        let bit = rng.below(8) as u32;
        // Without both superblocks there is no log.
        let superblock = |byte: u64| {
            let places = [0, u64::from(self.slot_bytes)];
            places.into_iter().find(|place| (*place..place + BLOCK).contains(&byte))
        };
        let other = |&(rotten, _): &(u64, u32)| {
            superblock(rotten).is_some_and(|one| superblock(byte).is_some_and(|two| one != two))
        };
        if self.rotten.iter().any(other) {
            return;
        }
        self.flash.rot(byte, bit);
        self.rotten.push((byte, bit));
        self.harm.harm(byte, 1);
    }

    /// Puts noise into a sector.
    pub fn damage(&mut self, rng: &mut Rng, sector: u64) {
        self.flash.damage(rng, sector, SECTOR);
        self.harm.harm(sector, SECTOR);
    }

    /// A sector cannot be read any more, nor can the rest of its block.
    pub fn lose_sector(&mut self, sector: u64) {
        self.flash.lose_sector(sector);
        self.harm.harm(sector / BLOCK * BLOCK, BLOCK);
    }

    fn forget(&mut self) {
        self.harm.stopped();
        self.queue.clear();
        self.reads.clear();
        self.codecs.clear();
        self.busy = None;
    }

    /// What a flush claimed and did not do is at the mercy of the cut.
    fn lose_owed(&mut self) {
        let owed = std::mem::take(&mut self.owed);
        if self.bug != Bug::AcknowledgeBeforeFlush {
            for (at, len) in self.flash.pending_ranges().into_iter().take(owed) {
                self.harm.harm(at, len);
            }
        }
    }

    /// The chip was programming a page when the power went: some of its other sectors suffer.
    fn harm_neighbours(&mut self, rng: &mut Rng, torn: &[(u64, u64)]) {
        let (at, len) = torn[rng.below(torn.len() as u64) as usize];
        let page = (at + rng.below(len)) / PAGE * PAGE;
        for _ in 0..1 + rng.below(4) {
            let sector = page + rng.below(PAGE / SECTOR) * SECTOR;
            let unflushed = torn.iter().any(|(at, len)| (*at..at + len).contains(&sector));
            if !unflushed && sector < self.flash.len() {
                self.damage(rng, sector);
            }
        }
    }

    fn note(&mut self, io: &Io) {
        match io {
            Io::Write { at, bytes, .. } => {
                self.trace.note(*at);
                self.trace.note(u64::from(crc32c::crc32c(bytes)));
            }
            Io::Flush { op } => self.trace.note(!op.0),
            Io::Unpack { batch, .. } | Io::Pack { batch, .. } => {
                self.trace.note(u64::from(crc32c::crc32c(batch)));
            }
            Io::Read { at, len, .. } | Io::Zero { at, len, .. } | Io::Verify { at, len, .. } => {
                self.trace.note(*at << 32 | u64::from(*len));
            }
        }
    }

    fn start_next(&mut self, rng: &mut Rng) -> Option<Started> {
        if self.busy.is_some() {
            return None;
        }
        let io = self.queue.pop_front()?;
        let mut covers = 0;
        let (op, fails, takes) = match &io {
            Io::Write { op, at, bytes } => {
                let full = at + bytes.len() as u64 > self.bytes_max;
                let fails = full || rng.below(1000) < self.faults.write_error;
                self.start_write(rng, *at, bytes, fails);
                (*op, fails, self.takes(rng, 20, 300))
            }
            Io::Flush { op } => {
                self.stats.flushes += 1;
                covers = self.flash.pending_writes();
                let fails = rng.below(1000) < self.faults.flush_error;
                (*op, fails, self.takes(rng, 200, 15_000))
            }
            Io::Zero { op, at, len } => {
                let full = at + u64::from(*len) > self.bytes_max;
                let fails = full || rng.below(1000) < self.faults.zero_error;
                if !fails {
                    self.flash.zero(*at, u64::from(*len));
                }
                (*op, fails, self.takes(rng, 100, 2_000))
            }
            Io::Read { .. } | Io::Verify { .. } | Io::Unpack { .. } | Io::Pack { .. } => {
                unreachable!("reads and codecs go beside the queue")
            }
        };
        log::trace!("{:?} fails: {fails}", Brief(&io));
        self.busy = Some(Busy { io, covers, fails });
        Some((takes, op))
    }

    /// Some of a write that fails may be there all the same.
    fn start_write(&mut self, rng: &mut Rng, at: u64, bytes: &Bytes, fails: bool) {
        self.stats.writes += 1;
        self.stats.written_bytes += bytes.len() as u64;
        self.harm.written(at, bytes);
        let mut at = at;
        if self.armed && rng.below(1000) < self.faults.misdirected {
            self.harm.went_astray(at, bytes, self.slot_bytes);
            let beyond = at + PAGE + bytes.len() as u64 > self.flash.len();
            at = if beyond { at.saturating_sub(PAGE) } else { at + PAGE };
            self.harm.harm(at, bytes.len() as u64);
        }
        let len = if fails {
            rng.below(bytes.len() as u64 / SECTOR + 1) * SECTOR
        } else {
            bytes.len() as u64
        };
        if len > 0 {
            self.written.push((at, len));
            self.flash.write(at, bytes.slice(..len as usize));
        }
    }

    fn end_flush(&mut self, rng: &mut Rng, busy: &Busy) -> IoResult {
        if busy.fails {
            self.lose_owed();
            self.flash.flush_fails(rng);
            self.harm.not_flushed();
            return match self.bug {
                Bug::RetryFailedSync => IoResult::Done,
                _ => IoResult::Failed,
            };
        }
        self.harm.flushed();
        if self.armed && rng.below(1000) < self.faults.lying_flush {
            self.owed = busy.covers;
        } else if self.bug == Bug::AcknowledgeBeforeFlush {
            let owed = std::mem::replace(&mut self.owed, busy.covers);
            self.flash.flush(owed);
            self.owed -= owed;
        } else {
            self.flash.flush(busy.covers);
            self.owed = 0;
        }
        IoResult::Done
    }

    /// How long an operation takes, in microseconds from `low` to `high`, unless the card stalls.
    fn takes(&self, rng: &mut Rng, low: u64, high: u64) -> Nanos {
        if rng.below(1000) < self.faults.stall {
            return Nanos::from_ms(250 + rng.below(4_750));
        }
        Nanos((low + rng.below(high - low)) * 1_000)
    }
}

fn without_last(batch: Bytes) -> Bytes {
    let header = batch::Header::parse(&batch).expect("the log packs whole batches");
    let mut left = header.records_count;
    let less = batch::rewrite(&header, &batch, None, |_| {
        left -= 1;
        left > 0
    });
    less.expect("they are records").map_or(batch, Bytes::from)
}

/// The simulation's codec turns every byte over: what matters is that the core cannot read it.
pub fn flip(batch: &[u8], codec: Codec) -> IoResult {
    let section = batch.get(HEADER_BYTES..).unwrap_or_default();
    let section: Vec<u8> = section.iter().map(|byte| !byte).collect();
    batch::repack(batch, codec, &section).map_or(IoResult::Failed, |b| IoResult::Read(b.into()))
}

/// An operation without its bytes.
struct Brief<'a>(&'a Io);

impl std::fmt::Debug for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Io::Write { op, at, bytes } => write!(f, "{op:?} write {at} +{}", bytes.len()),
            Io::Flush { op } => write!(f, "{op:?} flush"),
            Io::Read { op, at, len, .. } => write!(f, "{op:?} read {at} +{len}"),
            Io::Verify { op, at, len } => write!(f, "{op:?} verify {at} +{len}"),
            Io::Zero { op, at, len } => write!(f, "{op:?} zero {at} +{len}"),
            Io::Unpack { op, batch, .. } => write!(f, "{op:?} unpack {}", batch.len()),
            Io::Pack { op, batch, codec } => write!(f, "{op:?} pack {} {codec:?}", batch.len()),
        }
    }
}
