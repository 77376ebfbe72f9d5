//! The disk as a driver sees it: takes operations, is busy for a while, and sometimes says no.
//!
//! Writes, flushes and zeroing happen one after the other in the order of asking; reads go beside
//! them. The mutations that a disk can express live here too: a broker that answers before the
//! flush, and one that tries a failed sync again, look like a disk that says `Done` too early.

use crate::flash::{Flash, PAGE, SECTOR, Tear};
use crate::plan::Bug;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use weir_core::batch::{self, Codec, HEADER_BYTES};
use weir_core::log::{Io, IoResult};
use weir_core::rng::Rng;
use weir_core::types::{Nanos, OpId};

/// How often the disk misbehaves, in operations of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub write_error: u64,
    pub flush_error: u64,
    pub read_error: u64,
    pub zero_error: u64,
    /// A stall of 250 ms to 5 s, as SD cards have them.
    pub stall: u64,
    /// A flush that says `Done` and did nothing.
    pub lying_flush: u64,
    /// A write that lands one page further.
    pub misdirected: u64,
}

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
    /// Whether something happened for which only the rules of quarantine apply.
    pub lied: bool,
    /// Where writes went, in order: what damage may hit.
    pub written: Vec<(u64, u64)>,
    /// Bytes that may be on the medium at most; zeroing beyond fails. The file system is full
    /// there.
    pub bytes_max: u64,
    queue: VecDeque<Io>,
    busy: Option<Busy>,
    reads: BTreeMap<OpId, (u64, u32)>,
    /// Batches on their way through a codec, with what comes out.
    codecs: BTreeMap<OpId, IoResult>,
    /// How often in a row a read failed there.
    failing: BTreeMap<u64, u32>,
    /// Writes whose flush was answered and not done, with [`Bug::AcknowledgeBeforeFlush`].
    owed: usize,
}

/// The write or flush that is going on.
struct Busy {
    io: Io,
    /// How many pending writes the flush makes durable.
    covers: usize,
    fails: bool,
}

/// An operation that goes on until so much later.
pub type Started = (Nanos, OpId);

impl Disk {
    pub fn new(flash: Flash, faults: Faults) -> Disk {
        Disk {
            flash,
            faults,
            bug: Bug::None,
            stats: DiskStats::default(),
            lied: false,
            written: Vec::new(),
            bytes_max: u64::MAX,
            queue: VecDeque::new(),
            busy: None,
            reads: BTreeMap::new(),
            codecs: BTreeMap::new(),
            failing: BTreeMap::new(),
            owed: 0,
        }
    }

    /// Operations that were asked for and are not answered.
    pub fn outstanding(&self) -> usize {
        let beside = self.reads.len() + self.codecs.len();
        self.queue.len() + usize::from(self.busy.is_some()) + beside
    }

    pub fn submit(&mut self, io: Io, rng: &mut Rng) -> Option<Started> {
        match io {
            Io::Write { .. } | Io::Flush { .. } | Io::Zero { .. } => {
                self.queue.push_back(io);
                self.start_next(rng)
            }
            Io::Read { op, at, len } | Io::Verify { op, at, len } => {
                self.stats.reads += 1;
                self.stats.read_bytes += u64::from(len);
                self.reads.insert(op, (at, len));
                Some((self.takes(rng, 80, 400), op))
            }
            Io::Unpack { op, batch, bytes_max } => {
                let unpacked = flip(&batch, Codec::None);
                let fits = batch.len() <= bytes_max;
                self.codecs.insert(op, if fits { unpacked } else { IoResult::Failed });
                Some((self.takes(rng, 20, 2_000), op))
            }
            Io::Pack { op, batch, codec } => {
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
        if let Some((at, len)) = self.reads.remove(&op) {
            // A read that fails succeeds a moment later: what never can be read is damage, another
            // story.
            let failures = self.failing.entry(at).or_default();
            let fails = *failures < 2 && rng.below(1000) < self.faults.read_error;
            *failures = if fails { *failures + 1 } else { 0 };
            self.stats.errors += u64::from(fails);
            let bytes = self.flash.read(at, u64::from(len));
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

    /// The power goes.
    pub fn cut(&mut self, rng: &mut Rng, tear: Tear) {
        self.stats.cuts += 1;
        self.flash.cut(rng, tear);
        self.forget();
    }

    /// The process is killed; what was written stays.
    pub fn kill(&mut self) {
        self.flash.kill();
        self.forget();
    }

    fn forget(&mut self) {
        self.queue.clear();
        self.reads.clear();
        self.codecs.clear();
        self.busy = None;
        self.owed = 0;
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
        let mut at = at;
        if rng.below(1000) < self.faults.misdirected {
            self.lied = true;
            at += PAGE;
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
            self.flash.flush_fails(rng);
            self.owed = 0;
            return match self.bug {
                Bug::RetryFailedSync => IoResult::Done,
                _ => IoResult::Failed,
            };
        }
        if rng.below(1000) < self.faults.lying_flush {
            self.lied = true;
        } else if self.bug == Bug::AcknowledgeBeforeFlush {
            let owed = std::mem::replace(&mut self.owed, busy.covers);
            self.flash.flush(owed);
            self.owed -= owed;
        } else {
            self.flash.flush(busy.covers);
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

/// The simulation's codec turns every byte over: what matters is that the core cannot read it.
pub fn flip(batch: &[u8], codec: Codec) -> IoResult {
    let section = batch.get(HEADER_BYTES..).unwrap_or_default();
    let section: Vec<u8> = section.iter().map(|byte| !byte).collect();
    batch::repack(batch, codec, &section).map_or(IoResult::Failed, |b| IoResult::Read(b.into()))
}

impl Faults {
    /// Whether the device may say no.
    pub fn any(&self) -> bool {
        self.write_error + self.flush_error + self.read_error + self.zero_error > 0
    }

    /// Most runs have a disk without faults; the others have some of them, rarely or often.
    pub fn random(rng: &mut Rng) -> Faults {
        let mut faults = Faults::default();
        if rng.percent(50) {
            return faults;
        }
        let mut sometimes =
            |per_mille: u64| if rng.percent(40) { rng.below(per_mille) + 1 } else { 0 };
        faults.write_error = sometimes(20);
        faults.flush_error = sometimes(20);
        faults.read_error = sometimes(20);
        faults.zero_error = sometimes(100);
        faults.stall = sometimes(10);
        faults
    }
}

/// An operation without its bytes.
struct Brief<'a>(&'a Io);

impl std::fmt::Debug for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Io::Write { op, at, bytes } => write!(f, "{op:?} write {at} +{}", bytes.len()),
            Io::Flush { op } => write!(f, "{op:?} flush"),
            Io::Read { op, at, len } => write!(f, "{op:?} read {at} +{len}"),
            Io::Verify { op, at, len } => write!(f, "{op:?} verify {at} +{len}"),
            Io::Zero { op, at, len } => write!(f, "{op:?} zero {at} +{len}"),
            Io::Unpack { op, batch, .. } => write!(f, "{op:?} unpack {}", batch.len()),
            Io::Pack { op, batch, codec } => write!(f, "{op:?} pack {} {codec:?}", batch.len()),
        }
    }
}
