//! The coordinator of the groups whose records stand in one partition of `__consumer_offsets`, as
//! long as this gateway leads that partition.
//!
//! A group belongs to the partition that Kafka's hash of its id names, and whoever leads that
//! coordinates it. A new leader reads the partition to its end before it takes a request, and waits
//! until the high watermark is there: what a client is told may not be lost with the next leader.
//!
//! How a node uses it, beside what [`Groups`] says:
//!
//! - It gets a leadership: [`Coordinator::new`], with the bounds of the partition as they are then.
//!   While [`Coordinator::to_read`] names offsets, read there and hand in what was found.
//! - The high watermark has moved, or something was read: [`Coordinator::advance`].
//! - An [`Output::Append`] was appended: [`Coordinator::appended`] with its end.
//! - It loses the leadership, or leads in another epoch: [`Coordinator::resign`].

use super::{AppendToken, Groups, Output, Record, Ticket};
use crate::batch::{self, Header};
use crate::bytes::Malformed;
use crate::error::ErrorCode;
use crate::types::{LeaderEpoch, Offset, Time, WallTime};
use crate::wire::AnyResponse;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bytes::Bytes;

/// | state | event | next state |
/// |---|---|---|
/// | Loading | something of the partition was read, or cannot be | Loading |
/// | Loading | it is read to its end, and the high watermark is there | Serving |
/// | Serving | the high watermark passes what was appended | Serving: that is durable |
/// | both | the leadership is over | gone |
#[derive(Clone, Debug)]
pub struct Coordinator {
    epoch: LeaderEpoch,
    groups: Groups,
    /// Read up to here.
    read: Offset,
    /// Where the partition ended when the leadership began.
    end: Offset,
    is_serving: bool,
    /// What was appended and is not known to be on all replicas, with where it ends.
    appended: VecDeque<(AppendToken, Offset)>,
}

impl Coordinator {
    /// `groups` are new. The partition begins at `log_start` and ends at `log_end`.
    pub fn new(
        groups: Groups,
        epoch: LeaderEpoch,
        log_start: Offset,
        log_end: Offset,
    ) -> Coordinator {
        Coordinator {
            epoch,
            groups,
            read: log_start,
            end: log_end,
            is_serving: false,
            appended: VecDeque::new(),
        }
    }

    /// The leader epoch of the partition for which it is the coordinator.
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// From where to where the partition is to be read.
    pub fn to_read(&self) -> Option<(Offset, Offset)> {
        (self.read < self.end).then_some((self.read, self.end))
    }

    /// Takes a batch of the partition. Records that are malformed are left out, and make the answer
    /// an error.
    pub fn take(&mut self, batch: &[u8]) -> Result<(), Malformed> {
        let header = Header::parse(batch).map_err(|_| Malformed)?;
        self.skip_to(header.last_offset().plus(1));
        let section = batch.get(batch::HEADER_BYTES..).ok_or(Malformed)?;
        let mut taken = Ok(());
        for record in batch::records(section, header.records_count) {
            let record = record.map_err(|_| Malformed)?;
            let key = record.key.map(Bytes::copy_from_slice);
            let value = record.value.map(Bytes::copy_from_slice);
            let applied = key.ok_or(Malformed).and_then(|key| {
                let record = Record { key, value };
                self.groups.apply(&record)
            });
            taken = taken.and(applied);
        }
        taken
    }

    /// There is nothing to read before that offset: it is lost.
    pub fn skip_to(&mut self, offset: Offset) {
        self.read = self.read.max(offset);
    }

    /// The high watermark of the partition is there. Whether it serves from now on.
    pub fn advance(&mut self, now: Time, high_watermark: Offset) -> bool {
        while let Some(&(token, end)) = self.appended.front()
            && end <= high_watermark
        {
            self.appended.pop_front();
            self.groups.durable(now, token);
        }
        let begins = !self.is_serving && self.to_read().is_none() && self.end <= high_watermark;
        if begins {
            self.is_serving = true;
            self.groups.loaded(now);
        }
        begins
    }

    /// What to do next, until `None`.
    pub fn poll(&mut self, now: Time) -> Option<Output> {
        self.groups.poll(now)
    }

    /// A batch that the groups asked for was appended, and ends there.
    pub fn appended(&mut self, token: AppendToken, end: Offset) {
        self.appended.push_back((token, end));
    }

    /// A batch was not appended and never will be.
    pub fn refused(&mut self, now: Time, token: AppendToken, code: ErrorCode) {
        self.groups.refused(now, token, code);
    }

    pub fn set_wall_clock(&mut self, now: Time, wall: Option<WallTime>) {
        self.groups.set_wall_clock(now, wall);
    }

    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The groups, if clients may ask of them.
    pub fn serving(&mut self) -> Result<&mut Groups, ErrorCode> {
        match self.is_serving {
            true => Ok(&mut self.groups),
            false => Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS),
        }
    }

    /// Another gateway has these groups now: what whoever waits here is told.
    pub fn resign(self, now: Time) -> Vec<(Ticket, AnyResponse)> {
        self.groups.resign(now)
    }
}

/// The partition of a group among so many: Kafka's choice, by the hash of Java's strings without
/// its sign.
pub fn partition_of(group: &str, partitions: usize) -> usize {
    let hash = group
        .encode_utf16()
        .fold(0u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(u32::from(unit)));
    (hash & 0x7fff_ffff) as usize % partitions.max(1)
}

/// Records as a batch.
pub fn batch_of(records: &[Record], timestamp: i64) -> Bytes {
    let mut builder = batch::Builder::new();
    for record in records {
        builder.push(timestamp, Some(&record.key), record.value.as_deref(), &[]);
    }
    builder.build(None).into()
}
