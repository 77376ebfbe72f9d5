//! Batches between their append and their flush, for followers: so that the leader's flush and
//! theirs go on at the same time.
//!
//! The log hands out what is durable. What is not is kept here, as it is sent, and dropped when it
//! is durable or when there is too much of it: followers then get it from the log, a flush later.

use crate::batch;
use crate::log::Batches;
use crate::types::{LeaderEpoch, Offset, PartitionNumber};
use alloc::collections::{BTreeMap, VecDeque};
use bytes::{Bytes, BytesMut};

/// Bytes that are kept of all partitions together.
const BYTES_MAX: usize = 2 << 20;

#[derive(Debug, Default)]
pub(super) struct Fresh {
    by_number: BTreeMap<PartitionNumber, VecDeque<(Offset, Bytes)>>,
    bytes: usize,
}

impl Fresh {
    /// A batch that ends at `end` was appended.
    pub fn push(
        &mut self,
        number: PartitionNumber,
        base_offset: Offset,
        end: Offset,
        epoch: LeaderEpoch,
        batch: &Bytes,
    ) {
        if self.bytes + batch.len() > BYTES_MAX {
            // What follows a gap could not be sent.
            return self.forget(number);
        }
        let mut stamped = BytesMut::from(&batch[..]);
        batch::stamp(&mut stamped, base_offset, epoch.0);
        self.bytes += stamped.len();
        self.by_number.entry(number).or_default().push_back((end, stamped.freeze()));
    }

    pub fn durable(&mut self, number: PartitionNumber, end: Offset) {
        let Some(batches) = self.by_number.get_mut(&number) else { return };
        while batches.front().is_some_and(|(until, _)| *until <= end) {
            self.bytes -= batches.pop_front().map_or(0, |(_, batch)| batch.len());
        }
        if batches.is_empty() {
            self.by_number.remove(&number);
        }
    }

    /// What begins at `from`; nothing if that is not here.
    pub fn from(&self, number: PartitionNumber, from: Offset, bytes_max: usize) -> Batches {
        let mut found = Batches::new();
        let (mut next, mut bytes) = (from, 0);
        for (end, batch) in self.by_number.get(&number).into_iter().flatten() {
            let base = batch::Header::parse(batch).map(|header| header.base_offset);
            if base != Ok(next) {
                continue;
            }
            bytes += batch.len();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(batch.clone());
            next = *end;
        }
        found
    }

    pub fn forget(&mut self, number: PartitionNumber) {
        let batches = self.by_number.remove(&number);
        self.bytes -= batches.into_iter().flatten().map(|(_, batch)| batch.len()).sum::<usize>();
    }
}
