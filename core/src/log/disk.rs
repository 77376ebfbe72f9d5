//! The operations that the driver is asked for, and what each was for.
//!
//! A read that fails is tried again. One that fails for good is done once more a block at a time:
//! what a bad sector costs is its block, not what stands around it. Only the cleaner's are not: it
//! leaves a slot as it is that cannot be read.

use super::layout::BLOCK;
use super::wear::programmed;
use super::{Io, IoResult, Ticket};
use crate::batch::Codec;
use crate::limits::CODECS_IN_FLIGHT_MAX;
use crate::types::OpId;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::Range;

/// What an operation was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A step of the start. The number tells several reads apart.
    Start(u32),
    /// A write or the flush of the commit in flight.
    Commit,
    /// Zeroing a slot, in the background or right before it is used.
    Zero,
    /// A read for a question.
    Data(Ticket),
    /// A read of the scrub.
    Scrub,
    /// A read of what counts in a slot that is cleaned.
    Clean,
    /// A read of the footer of a slot, or of the slot when the footer is bad.
    Footer(u32),
    /// A batch that a search by timestamp looks into.
    Unpacked(Ticket),
    /// A batch that the log's owner looks into.
    Owned(Ticket),
    /// A batch that is being compacted.
    Compaction,
}

impl Purpose {
    fn is_codec(self) -> bool {
        matches!(self, Purpose::Unpacked(_) | Purpose::Owned(_) | Purpose::Compaction)
    }

    /// Whether something is done with what can be read of it.
    fn takes_pieces(self) -> bool {
        self != Purpose::Clean
    }
}

/// How often a read is tried. Unlike a write or a flush it may be repeated: it changes nothing, and
/// cards fail reads now and then that succeed a moment later.
const READ_ATTEMPTS: u32 = 3;

#[derive(Debug)]
struct Asked {
    purpose: Purpose,
    read: Option<Reading>,
    pieces: Option<Box<Pieces>>,
}

/// How an operation ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub purpose: Purpose,
    pub result: IoResult,
    /// Some blocks of what was read are zeros, as the device cannot read them. Nothing verifies in
    /// them.
    pub unread: bool,
}

#[derive(Clone, Debug)]
struct Reading {
    at: u64,
    len: u32,
    parts: Vec<Range<u32>>,
    /// How often it was tried.
    attempt: u32,
}

/// A read that is done a block at a time.
#[derive(Debug)]
struct Pieces {
    at: u64,
    bytes: Vec<u8>,
    parts: Vec<Range<u32>>,
    /// Up to where it was read, or could not be, or nobody asked for it.
    done: usize,
    unread: bool,
}

impl Pieces {
    fn of(reading: Reading) -> Pieces {
        let bytes = alloc::vec![0; reading.len as usize];
        Pieces { at: reading.at, bytes, parts: reading.parts, done: 0, unread: false }
    }

    fn take(&mut self, reading: &Reading, result: &IoResult) {
        let place = &mut self.bytes[self.done..];
        match result {
            IoResult::Read(read) => {
                let len = read.len().min(place.len());
                place[..len].copy_from_slice(&read[..len]);
            }
            IoResult::Done | IoResult::Failed => self.unread = true,
        }
        self.done += reading.len as usize;
    }

    /// The next block of which anything matters.
    fn next(&mut self) -> Option<Reading> {
        while self.done < self.bytes.len() {
            let at = self.at + self.done as u64;
            let left = self.bytes.len() - self.done;
            let len = ((BLOCK - (at % u64::from(BLOCK)) as u32) as usize).min(left);
            let (from, until) = (self.done as u32, (self.done + len) as u32);
            let matters = |part: &Range<u32>| part.start < until && from < part.end;
            if self.parts.is_empty() || self.parts.iter().any(matters) {
                return Some(Reading { at, len: len as u32, parts: Vec::new(), attempt: 1 });
            }
            self.done += len;
        }
        None
    }
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    queue: VecDeque<Io>,
    asked: BTreeMap<OpId, Asked>,
    next_op: u64,
    /// Unpacking and packing that waits for its turn, and how much is going on.
    codec_queue: VecDeque<Io>,
    codecs: usize,
    pub written_bytes: u64,
    pub zeroed_bytes: u64,
    /// Whole flash pages that this cost.
    pub programmed_bytes: u64,
}

impl Disk {
    fn ask(&mut self, purpose: Purpose) -> OpId {
        self.ask_for(Asked { purpose, read: None, pieces: None })
    }

    fn ask_for(&mut self, asked: Asked) -> OpId {
        self.next_op += 1;
        let op = OpId(self.next_op);
        self.asked.insert(op, asked);
        op
    }

    pub(crate) fn write(&mut self, purpose: Purpose, at: u64, bytes: Bytes) {
        self.written_bytes += bytes.len() as u64;
        self.programmed_bytes += programmed(at, bytes.len() as u64);
        let op = self.ask(purpose);
        self.queue.push_back(Io::Write { op, at, bytes });
    }

    pub(crate) fn flush(&mut self, purpose: Purpose) {
        let op = self.ask(purpose);
        self.queue.push_back(Io::Flush { op });
    }

    pub(crate) fn read(&mut self, purpose: Purpose, at: u64, len: u32) {
        self.read_parts(purpose, at, len, Vec::new());
    }

    /// Reads bytes of which only `parts` matter, if there are any.
    pub(crate) fn read_parts(
        &mut self,
        purpose: Purpose,
        at: u64,
        len: u32,
        parts: Vec<Range<u32>>,
    ) {
        self.try_read(purpose, Reading { at, len, parts, attempt: 1 }, None);
    }

    fn try_read(&mut self, purpose: Purpose, reading: Reading, pieces: Option<Box<Pieces>>) {
        let Reading { at, len, parts, .. } = reading.clone();
        let op = self.ask_for(Asked { purpose, read: Some(reading), pieces });
        self.queue.push_back(match purpose {
            Purpose::Scrub => Io::Verify { op, at, len },
            _ => Io::Read { op, at, len, parts },
        });
    }

    pub(crate) fn zero(&mut self, at: u64, len: u32) {
        self.zeroed_bytes += u64::from(len);
        self.programmed_bytes += programmed(at, u64::from(len));
        let op = self.ask(Purpose::Zero);
        self.queue.push_back(Io::Zero { op, at, len });
    }

    pub(crate) fn unpack(&mut self, purpose: Purpose, batch: Bytes, bytes_max: usize) {
        let op = self.ask(purpose);
        self.codec_queue.push_back(Io::Unpack { op, batch, bytes_max });
    }

    pub(crate) fn pack(&mut self, purpose: Purpose, batch: Bytes, codec: Codec) {
        let op = self.ask(purpose);
        self.codec_queue.push_back(Io::Pack { op, batch, codec });
    }

    pub(crate) fn poll(&mut self) -> Option<Io> {
        if self.codecs < CODECS_IN_FLIGHT_MAX
            && let Some(io) = self.codec_queue.pop_front()
        {
            self.codecs += 1;
            return Some(io);
        }
        self.queue.pop_front()
    }

    /// What an operation that ended was for; `None` for one that was not asked, and for a read that
    /// goes on.
    pub(crate) fn take(&mut self, op: OpId, result: IoResult) -> Option<Ended> {
        let Asked { purpose, read, pieces } = self.asked.remove(&op)?;
        if purpose.is_codec() {
            self.codecs -= 1;
        }
        let failed = result == IoResult::Failed;
        let Some(reading) = read else { return Some(Ended { purpose, result, unread: false }) };
        if failed && reading.attempt < READ_ATTEMPTS {
            let attempt = reading.attempt + 1;
            self.try_read(purpose, Reading { attempt, ..reading }, pieces);
            return None;
        }
        let mut pieces = match pieces {
            Some(mut pieces) => {
                pieces.take(&reading, &result);
                pieces
            }
            None if failed && purpose.takes_pieces() && reading.len > BLOCK => {
                Box::new(Pieces::of(reading))
            }
            None => return Some(Ended { purpose, result, unread: false }),
        };
        let Some(next) = pieces.next() else {
            let Pieces { bytes, unread, .. } = *pieces;
            return Some(Ended { purpose, result: IoResult::Read(bytes.into()), unread });
        };
        self.try_read(purpose, next, Some(pieces));
        None
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Ends reads until the whole one has ended; those that touch a bad block fail.
    fn read(
        purpose: Purpose,
        at: u64,
        len: u32,
        parts: &[Range<u32>],
        bad: &[u64],
    ) -> (Ended, usize) {
        let mut disk = Disk::default();
        disk.read_parts(purpose, at, len, parts.to_vec());
        for count in 1.. {
            let (op, at, len) = match disk.poll().unwrap() {
                Io::Read { op, at, len, .. } | Io::Verify { op, at, len } => (op, at, len),
                other => panic!("{other:?}"),
            };
            let block = u64::from(BLOCK);
            let fails =
                bad.iter().any(|bad| bad * block < at + u64::from(len) && at < (bad + 1) * block);
            let bytes: Vec<u8> = (at..at + u64::from(len)).map(|at| (at / block) as u8).collect();
            let result = if fails { IoResult::Failed } else { IoResult::Read(bytes.into()) };
            if let Some(ended) = disk.take(op, result) {
                assert!(disk.is_idle() && disk.poll().is_none());
                return (ended, count);
            }
        }
        unreachable!()
    }

    #[test]
    fn a_bad_block_costs_itself_where_bytes_are_looked_through() {
        let block = BLOCK as usize;
        for purpose in [Purpose::Start(7), Purpose::Footer(7), Purpose::Scrub] {
            let (ended, count) = read(purpose, 100 + 4 * u64::from(BLOCK), 3 * BLOCK, &[], &[5]);
            let IoResult::Read(bytes) = ended.result else { panic!("{ended:?}") };
            assert_eq!((ended.purpose, ended.unread, bytes.len()), (purpose, true, 3 * block));
            let (first, rest) = bytes.split_at(block - 100);
            let (lost, rest) = rest.split_at(block);
            assert!(first.iter().all(|&byte| byte == 4) && lost.iter().all(|&byte| byte == 0));
            let (next, last) = rest.split_at(block);
            assert!(next.iter().all(|&byte| byte == 6));
            assert_eq!(last, [7; 100]);
            assert_eq!(count, 3 + 1 + 3 + 2, "all of it, then block by block");
        }
    }

    #[test]
    fn blocks_that_nobody_asked_for_are_not_read() {
        let parts = [0..1, 2 * BLOCK - 1..2 * BLOCK, 4 * BLOCK..5 * BLOCK];
        let (ended, count) = read(Purpose::Data(Ticket(1)), 0, 6 * BLOCK, &parts, &[1]);
        let IoResult::Read(bytes) = ended.result else { panic!("{ended:?}") };
        let block = BLOCK as usize;
        let firsts: Vec<u8> = bytes.chunks(block).map(|block| block[0]).collect();
        assert_eq!((firsts, ended.unread), (alloc::vec![0, 0, 0, 0, 4, 0], true));
        assert_eq!(count, 3 + 1 + 3 + 1);
    }

    #[test]
    fn what_is_no_use_in_pieces_fails_as_a_whole() {
        let whole = |purpose, len, bad| {
            let (ended, count) = read(purpose, 0, len, &[], bad);
            (ended.result == IoResult::Failed, ended.unread, count)
        };
        assert_eq!(whole(Purpose::Clean, 3 * BLOCK, &[1]), (true, false, 3));
        assert_eq!(whole(Purpose::Start(0), BLOCK, &[0]), (true, false, 3));
        assert_eq!(whole(Purpose::Start(0), 3 * BLOCK, &[]), (false, false, 1));
    }
}
