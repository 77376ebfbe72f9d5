//! The start: what the quorum has on flash is read back into memory before anybody is served.
//!
//! | phase | event | next phase |
//! |---|---|---|
//! | Opening | the log is ready | Replaying, what the quorum has on flash |
//! | Opening | the log refuses the medium | Refused |
//! | Replaying | that is read to its end | Joining: the quorum starts |
//! | Joining | this gateway is registered, and not fenced | Serving |
//!
//! What must be read is bounded: a snapshot takes the place of the metadata's log when that is
//! several times as long (`site`). Groups are read later, where they are coordinated (`groups`).

use super::{Node, Output, Phase, site};
use crate::log::{Answer, Batches, FetchError, FetchSpec, Lane, Policy, Ticket};
use crate::metadata;
use crate::types::{Offset, PartitionNumber, Time, TopicId};
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
    stage: Stage,
    /// Some metadata could not be read: forget no partition for want of a record of it.
    pub metadata_damaged: bool,
}

/// What is read back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Quorum,
    /// Nothing: the quorum decides whether this gateway is in.
    Joining,
    Over,
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
    /// Whether this gateway is one of its site, and takes up what it holds.
    pub fn is_joined(&self) -> bool {
        self.stage == Stage::Over
    }

    pub fn awaits(&self, ticket: Ticket) -> bool {
        self.reading.is_some_and(|reading| reading.ticket == Some(ticket))
    }
}

impl Node {
    pub(super) fn on_log_ready(&mut self, now: Time) {
        self.phase = Phase::Replaying;
        site::make_known(&mut self.log, INTERNAL);
        self.start.next.extend(site::PARTITIONS);
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
        self.start.reading = None;
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
                    let Ok(header) = crate::batch::Header::parse(bytes) else { continue };
                    next = header.last_offset().plus(1);
                    self.site.found.take(partition, bytes);
                }
                reading.from = next.max(reading.from);
            }
            Err(FetchError::Damaged { until }) => {
                log::error!(
                    "partition {} of the flash log is damaged from offset {} to {until}",
                    partition.0,
                    reading.from
                );
                self.start.metadata_damaged |= partition.is_reserved();
                reading.from = until.max(reading.from.plus(1));
            }
            Err(FetchError::Device) if reading.failures < READ_AGAIN_MAX => reading.failures += 1,
            Err(error) => {
                log::error!("partition {} of the flash log is not read: {error:?}", partition.0);
                self.start.metadata_damaged |= partition.is_reserved();
                reading.from = reading.end;
            }
        }
        self.start.reading = Some(reading);
    }

    fn on_replay_end(&mut self, now: Time) {
        if self.start.stage == Stage::Quorum {
            self.start.stage = Stage::Joining;
            self.start_quorum(now);
        }
    }

    /// Whether this gateway is not one of its site yet.
    pub(super) fn is_starting(&self) -> bool {
        self.start.stage == Stage::Joining
    }

    /// This gateway is one of its site: tells the log which partitions there are, and takes up
    /// those that it holds.
    pub(super) fn on_joined(&mut self, now: Time) {
        if self.start.stage != Stage::Joining {
            return;
        }
        let (image, damaged) = (&self.image, self.start.metadata_damaged);
        self.log.retain_partitions(|number| {
            damaged || number.is_reserved() || image.partition_of(number).is_some()
        });
        self.start.stage = Stage::Over;
        let topics: alloc::vec::Vec<_> = self.image.topics().map(|topic| topic.id).collect();
        for topic in topics {
            self.make_known(now, topic);
        }
        // Whoever was told to stop meanwhile, or cannot write, does not begin.
        if self.phase == Phase::Replaying {
            self.phase = Phase::Serving;
            self.outputs.push_back(Output::Ready);
        }
    }

    /// Tells the log of a topic's partitions, or of their new policy.
    pub(super) fn make_known(&mut self, now: Time, topic: TopicId) {
        let Some(topic) = self.image.topic_by_id(topic) else { return };
        let policy = match metadata::is_internal(&topic.name) {
            true => Policy { cleanup: topic.policy.cleanup, ..INTERNAL },
            false => Policy::new(topic.policy.retention, topic.policy.cleanup),
        };
        let numbers = topic.partitions.clone();
        for number in numbers {
            self.log.set_partition(number, policy);
            self.follow_partition(now, number);
        }
    }
}
