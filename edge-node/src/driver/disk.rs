//! The disk: one thread that writes and flushes in order, and a small pool that reads, and that
//! decompresses and compresses what the node has to look into.
//!
//! Zeros pass the page cache by: written through it, they would all belong to the next commit's
//! flush. The log asks for little at a time, and in its turn, because what it writes there next
//! comes right behind.

use super::inbox::Inbox;
use bytes::Bytes;
use log::{debug, error};
use rustix::fs::{Advice, fadvise};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use weir_bridge::compress;
use weir_core::batch::{self, Codec, HEADER_BYTES, Header};
use weir_core::log::{Io, IoResult};
use weir_core::node::Input;
use weir_core::types::OpId;

/// Two readers: one that waits for a slow card does not hold up one whose bytes are cached.
const READERS: usize = 2;
/// Only what is touched costs memory; deflate builds its tables on the stack.
const STACK_BYTES: usize = 512 << 10;
/// Zeros that are written by one call.
const ZERO_BYTES: usize = 128 << 10;
/// Direct I/O wants memory and positions aligned to the device's blocks, at most a page.
const ALIGNMENT: usize = 4096;

/// Where the node's disk operations go. Results come back through the inbox.
#[derive(Debug)]
pub struct Disk {
    writer: Arc<Jobs>,
    readers: Sender<Job>,
}

#[derive(Debug)]
struct Job {
    op: OpId,
    at: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Write(Bytes),
    Flush,
    Zero(u32),
    Read(u32, Vec<Range<u32>>),
    Verify(u32),
    Unpack { batch: Bytes, bytes_max: usize },
    Pack { batch: Bytes, codec: Codec },
}

#[derive(Debug, Default)]
struct Jobs {
    queue: Mutex<VecDeque<Job>>,
    wake: Condvar,
}

impl Disk {
    pub fn start(path: &Path, file: File, inbox: Arc<Inbox>) -> io::Result<Disk> {
        let file = Arc::new(file);
        let writer = Arc::new(Jobs::default());
        let thread =
            Writer { jobs: writer.clone(), zeroer: Zeroer::new(path, file.clone()), file, inbox };
        let (file, inbox) = (thread.file.clone(), thread.inbox.clone());
        spawn("disk", move || thread.run())?;

        let (readers, jobs) = mpsc::channel();
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..READERS {
            let (file, inbox, jobs) = (file.clone(), inbox.clone(), jobs.clone());
            spawn("disk-read", move || read_jobs(&file, &inbox, &jobs))?;
        }
        Ok(Disk { writer, readers })
    }

    /// Hands operations over, in the order in which they were asked for.
    pub fn submit(&self, operations: impl IntoIterator<Item = Io>) {
        let mut queue = self.writer.lock();
        for io in operations {
            let job = match io {
                Io::Write { op, at, bytes } => Job { op, at, what: What::Write(bytes) },
                Io::Flush { op } => Job { op, at: 0, what: What::Flush },
                Io::Zero { op, at, len } => Job { op, at, what: What::Zero(len) },
                Io::Read { op, at, len, parts } => {
                    self.read(Job { op, at, what: What::Read(len, parts) });
                    continue;
                }
                Io::Verify { op, at, len } => {
                    self.read(Job { op, at, what: What::Verify(len) });
                    continue;
                }
                Io::Unpack { op, batch, bytes_max } => {
                    self.read(Job { op, at: 0, what: What::Unpack { batch, bytes_max } });
                    continue;
                }
                Io::Pack { op, batch, codec } => {
                    self.read(Job { op, at: 0, what: What::Pack { batch, codec } });
                    continue;
                }
            };
            queue.push_back(job);
        }
        drop(queue);
        self.writer.wake.notify_one();
    }

    fn read(&self, job: Job) {
        self.readers.send(job).expect("readers live as long as their queue");
    }
}

impl Jobs {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Job>> {
        self.queue.lock().expect("nobody panics while holding the queue")
    }

    /// Everything that waits; blocks for the first job.
    fn take(&self) -> VecDeque<Job> {
        let mut queue = self.lock();
        while queue.is_empty() {
            queue = self.wake.wait(queue).expect("nobody panics while holding the queue");
        }
        std::mem::take(&mut *queue)
    }
}

struct Writer {
    jobs: Arc<Jobs>,
    file: Arc<File>,
    zeroer: Zeroer,
    inbox: Arc<Inbox>,
}

impl Writer {
    fn run(mut self) {
        let mut done = Vec::new();
        loop {
            for job in self.jobs.take() {
                let Job { op, at, what } = job;
                match what {
                    What::Write(bytes) => {
                        done.push(outcome(op, at, "write", self.file.write_all_at(&bytes, at)));
                    }
                    What::Flush => {
                        done.push(outcome(op, at, "flush", self.file.sync_data()));
                        // An acknowledgement waits for it; what is behind it is another commit.
                        self.inbox.push_all(done.drain(..));
                    }
                    What::Zero(len) => {
                        done.push(outcome(op, at, "zeroing", self.zeroer.zero(at, len as usize)));
                    }
                    What::Read(..) | What::Verify(_) | What::Unpack { .. } | What::Pack { .. } => {
                        unreachable!("reads go to the readers")
                    }
                }
            }
            if !done.is_empty() {
                self.inbox.push_all(done.drain(..));
            }
        }
    }
}

/// Writes zeros, around the page cache where the file system can.
struct Zeroer {
    file: Arc<File>,
    direct: Option<File>,
    /// Never written to, so it costs address space and no memory.
    zeros: Vec<u8>,
    aligned_at: usize,
}

impl Zeroer {
    fn new(path: &Path, file: Arc<File>) -> Zeroer {
        let zeros = vec![0; ZERO_BYTES + ALIGNMENT];
        let aligned_at = zeros.as_ptr().align_offset(ALIGNMENT);
        let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
        let direct = File::options().write(true).custom_flags(flags).open(path).ok();
        Zeroer { file, direct, zeros, aligned_at }
    }

    fn zero(&mut self, mut at: u64, mut left: usize) -> io::Result<()> {
        while left > 0 {
            let len = left.min(ZERO_BYTES);
            self.write(at, len)?;
            at += len as u64;
            left -= len;
        }
        Ok(())
    }

    fn write(&mut self, at: u64, len: usize) -> io::Result<()> {
        let zeros = &self.zeros[self.aligned_at..self.aligned_at + len];
        if let Some(direct) = &self.direct {
            match direct.write_all_at(zeros, at) {
                Err(error) if error.kind() == ErrorKind::InvalidInput => self.direct = None,
                result => return result,
            }
        }
        self.file.write_all_at(zeros, at)
    }
}

fn read_jobs(file: &File, inbox: &Inbox, jobs: &Mutex<Receiver<Job>>) {
    loop {
        let job = jobs.lock().expect("nobody panics while holding the queue").recv();
        let Ok(Job { op, at, what }) = job else { return };
        inbox.push(match what {
            What::Read(len, parts) => {
                let mut bytes = vec![0; len as usize];
                match read_parts(file, &mut bytes, at, &parts) {
                    Ok(()) => Input::Done { op, result: IoResult::Read(bytes.into()) },
                    Err(error) => outcome(op, at, "read", Err(error)),
                }
            }
            What::Verify(len) => match verify(file, len, at) {
                Ok(bytes) => Input::Done { op, result: IoResult::Read(bytes.into()) },
                Err(error) => outcome(op, at, "verifying", Err(error)),
            },
            What::Unpack { batch, bytes_max } => repacked(op, unpack(&batch, bytes_max)),
            What::Pack { batch, codec } => repacked(op, pack(&batch, codec)),
            What::Write(_) | What::Flush | What::Zero(_) => {
                unreachable!("what changes the disk goes to the writer")
            }
        });
    }
}

fn repacked(op: OpId, batch: Option<Vec<u8>>) -> Input {
    let result = batch.map_or(IoResult::Failed, |batch| IoResult::Read(batch.into()));
    Input::Done { op, result }
}

fn unpack(batch: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let codec = Header::parse(batch).ok()?.codec()?;
    let section = compress::decompress(codec, batch.get(HEADER_BYTES..)?, bytes_max)
        .inspect_err(|error| debug!("a batch is not unpacked: {error}"))
        .ok()?;
    batch::repack(batch, Codec::None, &section)
}

fn pack(batch: &[u8], codec: Codec) -> Option<Vec<u8>> {
    let section = compress::compress(codec, batch.get(HEADER_BYTES..)?).ok()?;
    batch::repack(batch, codec, &section)
}

/// Reads from the medium: what the page cache has of it is dropped before, and what it keeps of the
/// read is dropped after, because nobody will want it soon.
fn verify(file: &File, len: u32, at: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    fadvise(file, at, NonZeroU64::new(u64::from(len)), Advice::DontNeed)?;
    read_at(file, &mut bytes, at)?;
    fadvise(file, at, NonZeroU64::new(u64::from(len)), Advice::DontNeed)?;
    Ok(bytes)
}

/// Fills the parts of `bytes`, or all of it if there are none. The kernel is told of all parts
/// before the first is waited for, so that the device has them in hand together.
fn read_parts(file: &File, bytes: &mut [u8], at: u64, parts: &[Range<u32>]) -> io::Result<()> {
    if parts.is_empty() {
        return read_at(file, bytes, at);
    }
    for part in parts {
        let len = NonZeroU64::new(u64::from(part.end - part.start));
        // A hint: whoever does not take it reads all the same.
        let _ = fadvise(file, at + u64::from(part.start), len, Advice::WillNeed);
    }
    for part in parts {
        let place = &mut bytes[part.start as usize..part.end as usize];
        read_at(file, place, at + u64::from(part.start))?;
    }
    Ok(())
}

/// Fills `bytes`; what lies beyond the end of the file stays zero.
fn read_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.read_at(bytes, at) {
            Ok(0) => break,
            Ok(len) => {
                bytes = &mut bytes[len..];
                at += len as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn outcome(op: OpId, at: u64, what: &str, result: io::Result<()>) -> Input {
    let Err(error) = result else { return Input::Done { op, result: IoResult::Done } };
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => error!(
            "the disk is full: {what} of the flash log at byte {at} failed. Free some space, or \
             lower flash.bytes for a new data folder"
        ),
        _ => error!("{what} of the flash log at byte {at} failed: {error}"),
    }
    Input::Done { op, result: IoResult::Failed }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(run).map(drop)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "disk_tests.rs"]
mod tests;
