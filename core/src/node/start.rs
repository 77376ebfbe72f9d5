//! The start: the internal partitions are read back into memory before anybody is served.
//!
//! | phase | event | next phase |
//! |---|---|---|
//! | Opening | the log is ready | Replaying, from `__cluster_metadata` |
//! | Opening | the log refuses the medium | Refused |
//! | Replaying | metadata read to its end | Replaying, the partitions of `__consumer_offsets` |
//! | Replaying | all read to their ends, and the cluster has an id | Serving |
//!
//! What must be read is bounded: an internal partition is written anew when it is several times as
//! long as what it says (`changes`).

use super::changes::{Change, metadata_index};
use super::{LEADER_EPOCH, Node, Output, Phase};
use crate::batch;
use crate::log::{Answer, Batches, FetchError, FetchSpec, Lane, Policy, Ticket};
use crate::metadata::{self, CONSUMER_OFFSETS};
use crate::types::{LeaderEpoch, Offset, PartitionNumber, Time};
use alloc::collections::VecDeque;

/// Bytes of one read while replaying.
const REPLAY_BYTES: usize = 1 << 20;

/// How often one place is read again before the start goes on without it.
const READ_AGAIN_MAX: u32 = 3;

/// Internal partitions are kept by content: no time and no pressure expires them. That of the
/// metadata is written anew by the node, those of internal topics are compacted.
const INTERNAL: Policy = Policy::for_ever(Lane::Meta);

#[derive(Debug, Default)]
pub(super) struct Start {
    /// The partition that is being read.
    reading: Option<Reading>,
    /// Partitions to read after it.
    next: VecDeque<PartitionNumber>,
    /// Some metadata could not be read: forget no partition for want of a record of it.
    metadata_damaged: bool,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    partition: PartitionNumber,
    from: Offset,
    end: Offset,
    ticket: Option<Ticket>,
    failures: u32,
}

impl Start {
    pub fn awaits(&self, ticket: Ticket) -> bool {
        self.reading.is_some_and(|reading| reading.ticket == Some(ticket))
    }
}

impl Node {
    pub(super) fn on_log_ready(&mut self, now: Time) {
        self.phase = Phase::Replaying;
        self.log.set_partition(PartitionNumber::METADATA, INTERNAL);
        self.start.next.push_back(PartitionNumber::METADATA);
        self.replay(now);
    }

    pub(super) fn on_replay_read(&mut self, now: Time, result: Result<Batches, FetchError>) {
        if let Some(reading) = &mut self.start.reading {
            reading.ticket = None;
        }
        self.on_replayed(result);
        self.replay(now);
    }

    /// Reads on until the disk is needed or everything is read.
    fn replay(&mut self, now: Time) {
        loop {
            let Some(reading) = self.start.reading.filter(|reading| reading.from < reading.end)
            else {
                match self.next_partition() {
                    true => continue,
                    false => return self.on_replay_end(now),
                }
            };
            let spec = FetchSpec {
                partition: reading.partition,
                from: reading.from,
                end: reading.end,
                bytes_max: REPLAY_BYTES,
                at_least_one: true,
            };
            match self.log.fetch(spec) {
                Ok(Answer::Later(ticket)) => {
                    self.start.reading = Some(Reading { ticket: Some(ticket), ..reading });
                    return;
                }
                Ok(Answer::Now(batches)) => self.on_replayed(Ok(batches)),
                Err(error) => self.on_replayed(Err(error)),
            }
        }
    }

    /// Goes on with the next partition; false when there is none.
    fn next_partition(&mut self) -> bool {
        let ended = self.start.reading.take().map(|reading| reading.partition);
        if ended == Some(PartitionNumber::METADATA) {
            self.on_metadata_replayed();
        }
        let Some(partition) = self.start.next.pop_front() else { return false };
        let ends = self.log.partition(partition).map(|view| (view.log_start, view.durable_end));
        let (from, end) = ends.unwrap_or_default();
        self.start.reading = Some(Reading { partition, from, end, ticket: None, failures: 0 });
        true
    }

    fn on_replayed(&mut self, result: Result<Batches, FetchError>) {
        let Some(mut reading) = self.start.reading else { return };
        let partition = reading.partition;
        match result {
            Ok(batches) => {
                let mut next = reading.end;
                for bytes in &batches {
                    let Ok(header) = batch::Header::parse(bytes) else { continue };
                    next = header.last_offset().plus(1);
                    self.replay_batch(partition, bytes);
                }
                reading.from = next.max(reading.from);
            }
            Err(FetchError::Damaged { until }) => {
                log::error!(
                    "partition {} of the flash log is damaged from offset {} to {until}",
                    partition.0,
                    reading.from
                );
                self.start.metadata_damaged |= partition == PartitionNumber::METADATA;
                reading.from = until.max(reading.from.plus(1));
            }
            Err(FetchError::Device) if reading.failures < READ_AGAIN_MAX => reading.failures += 1,
            Err(error) => {
                log::error!("partition {} of the flash log is not read: {error:?}", partition.0);
                self.start.metadata_damaged |= partition == PartitionNumber::METADATA;
                reading.from = reading.end;
            }
        }
        self.start.reading = Some(reading);
    }

    fn replay_batch(&mut self, partition: PartitionNumber, bytes: &[u8]) {
        if partition != PartitionNumber::METADATA {
            return self.replay_offsets(partition, bytes);
        }
        match metadata::decode_batch(bytes) {
            Ok(records) => {
                let base = batch::Header::parse(bytes).map_or(0, |header| header.base_offset.0);
                for (record, offset) in records.iter().zip(base..) {
                    self.image.apply(record, metadata_index(Offset(offset)));
                }
            }
            Err(_) => {
                self.start.metadata_damaged = true;
                log::error!("a record of the metadata is of a newer release, or of none: left out");
            }
        }
    }

    /// The topics are known: tells the log, and plans to read the committed offsets.
    fn on_metadata_replayed(&mut self) {
        let (image, damaged) = (&self.image, self.start.metadata_damaged);
        let mut highest = PartitionNumber::METADATA;
        self.log.retain_partitions(|number| {
            if number.is_reserved() {
                return true;
            }
            highest = highest.max(number);
            damaged || image.partition_of(number).is_some()
        });
        // Numbers that the damaged records gave out must not be given out again.
        let number = highest.0.saturating_add(1);
        self.image.apply(&metadata::Record::NextPartition { number }, 0);
        let topics: alloc::vec::Vec<_> = self.image.topics().map(|topic| topic.id).collect();
        for topic in topics {
            self.make_known(topic);
        }
        if let Some(topic) = self.image.topic(CONSUMER_OFFSETS) {
            self.start.next.extend(&topic.partitions);
        }
    }

    fn on_replay_end(&mut self, now: Time) {
        self.on_offsets_replayed(now);
        match self.image.cluster_id() {
            Some(_) => self.serve(),
            None => self.change(now, Change::Cluster),
        }
    }

    pub(super) fn serve(&mut self) {
        // Whoever was told to stop meanwhile, or cannot write, does not begin.
        if self.phase == Phase::Replaying {
            self.phase = Phase::Serving;
            self.outputs.push_back(Output::Ready);
        }
    }

    /// Tells the log of a topic's partitions, or of their new policy.
    pub(super) fn make_known(&mut self, topic: crate::types::TopicId) {
        let Some(topic) = self.image.topic_by_id(topic) else { return };
        let policy = match metadata::is_internal(&topic.name) {
            true => Policy { cleanup: topic.policy.cleanup, ..INTERNAL },
            false => Policy::new(topic.policy.retention, topic.policy.cleanup),
        };
        for number in &topic.partitions {
            self.log.set_partition(*number, policy);
        }
    }
}

/// The leader epoch of what this node appends.
pub(super) const fn leader_epoch() -> LeaderEpoch {
    LeaderEpoch(LEADER_EPOCH)
}
