//! The operations that the driver is asked for, and what each was for.

use super::wear::programmed;
use super::{Io, IoResult, Ticket};
use crate::batch::Codec;
use crate::limits::CODECS_IN_FLIGHT_MAX;
use crate::types::OpId;
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
}

/// How often a read is tried. Unlike a write or a flush it may be repeated: it changes nothing, and
/// cards fail reads now and then that succeed a moment later.
const READ_ATTEMPTS: u32 = 3;

#[derive(Debug)]
struct Asked {
    purpose: Purpose,
    read: Option<Reading>,
}

#[derive(Clone, Debug)]
struct Reading {
    at: u64,
    len: u32,
    parts: Vec<Range<u32>>,
    /// How often it was tried.
    attempt: u32,
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
    fn ask(&mut self, purpose: Purpose, read: Option<Reading>) -> OpId {
        self.next_op += 1;
        let op = OpId(self.next_op);
        self.asked.insert(op, Asked { purpose, read });
        op
    }

    pub(crate) fn write(&mut self, purpose: Purpose, at: u64, bytes: Bytes) {
        self.written_bytes += bytes.len() as u64;
        self.programmed_bytes += programmed(at, bytes.len() as u64);
        let op = self.ask(purpose, None);
        self.queue.push_back(Io::Write { op, at, bytes });
    }

    pub(crate) fn flush(&mut self, purpose: Purpose) {
        let op = self.ask(purpose, None);
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
        self.try_read(purpose, Reading { at, len, parts, attempt: 1 });
    }

    fn try_read(&mut self, purpose: Purpose, reading: Reading) {
        let Reading { at, len, parts, .. } = reading.clone();
        let op = self.ask(purpose, Some(reading));
        self.queue.push_back(match purpose {
            Purpose::Scrub => Io::Verify { op, at, len },
            _ => Io::Read { op, at, len, parts },
        });
    }

    pub(crate) fn zero(&mut self, at: u64, len: u32) {
        self.zeroed_bytes += u64::from(len);
        self.programmed_bytes += programmed(at, u64::from(len));
        let op = self.ask(Purpose::Zero, None);
        self.queue.push_back(Io::Zero { op, at, len });
    }

    pub(crate) fn unpack(&mut self, purpose: Purpose, batch: Bytes, bytes_max: usize) {
        let op = self.ask(purpose, None);
        self.codec_queue.push_back(Io::Unpack { op, batch, bytes_max });
    }

    pub(crate) fn pack(&mut self, purpose: Purpose, batch: Bytes, codec: Codec) {
        let op = self.ask(purpose, None);
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
    /// failed and is tried again.
    pub(crate) fn take(&mut self, op: OpId, result: &IoResult) -> Option<Purpose> {
        let asked = self.asked.remove(&op)?;
        if asked.purpose.is_codec() {
            self.codecs -= 1;
        }
        match asked.read {
            Some(reading) if reading.attempt < READ_ATTEMPTS && *result == IoResult::Failed => {
                let attempt = reading.attempt + 1;
                self.try_read(asked.purpose, Reading { attempt, ..reading });
                None
            }
            _ => Some(asked.purpose),
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }
}
