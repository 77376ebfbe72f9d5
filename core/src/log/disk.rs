//! The operations that the driver is asked for, and what each was for.

use super::{Io, Ticket};
use crate::types::OpId;
use alloc::collections::{BTreeMap, VecDeque};
use bytes::Bytes;

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
    /// A read of the footer of a slot, or of the slot when the footer is bad.
    Footer(u32),
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    queue: VecDeque<Io>,
    asked: BTreeMap<OpId, Purpose>,
    next_op: u64,
    pub written_bytes: u64,
    pub zeroed_bytes: u64,
}

impl Disk {
    fn ask(&mut self, purpose: Purpose) -> OpId {
        self.next_op += 1;
        let op = OpId(self.next_op);
        self.asked.insert(op, purpose);
        op
    }

    pub(crate) fn write(&mut self, purpose: Purpose, at: u64, bytes: Bytes) {
        self.written_bytes += bytes.len() as u64;
        let op = self.ask(purpose);
        self.queue.push_back(Io::Write { op, at, bytes });
    }

    pub(crate) fn flush(&mut self, purpose: Purpose) {
        let op = self.ask(purpose);
        self.queue.push_back(Io::Flush { op });
    }

    pub(crate) fn read(&mut self, purpose: Purpose, at: u64, len: u32) {
        let op = self.ask(purpose);
        self.queue.push_back(Io::Read { op, at, len });
    }

    pub(crate) fn zero(&mut self, at: u64, len: u32) {
        self.zeroed_bytes += u64::from(len);
        let op = self.ask(Purpose::Zero);
        self.queue.push_back(Io::Zero { op, at, len });
    }

    pub(crate) fn poll(&mut self) -> Option<Io> {
        self.queue.pop_front()
    }

    /// What an operation that ended was for; `None` for one that was not asked.
    pub(crate) fn take(&mut self, op: OpId) -> Option<Purpose> {
        self.asked.remove(&op)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }
}
