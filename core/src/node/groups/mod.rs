//! Groups: for each partition of `__consumer_offsets` that this gateway leads, the coordinator of
//! the groups whose records stand there.
//!
//! | event | then |
//! |---|---|
//! | this gateway leads such a partition | its coordinator begins, and is loaded; clients wait |
//! | it cannot read what another gateway has | clients wait until that one leads |
//! | a coordinator wants records appended | they are, if the in-sync set is large enough |
//! | the high watermark has passed them | the coordinator goes on: clients are answered |
//! | another gateway leads it, or nobody does | the coordinator ends: clients look for the other |
//!
//! One partition is read at a time, a piece of it with each step. The topic is compacted by key, as
//! any other.

mod requests;
mod status;

use super::Node;
use super::connections::Caller;
use crate::batch::Header;
use crate::error::ErrorCode;
use crate::group::{
    self, AppendToken, Coordinator, Groups, KnownTopic, Output, Record, Ticket, Topics, batch_of,
};
use crate::log::{Answer, Append, Batches, FetchError, FetchSpec};
use crate::metadata::{CONSUMER_OFFSETS, Image, Topic};
use crate::types::{LeaderEpoch, Offset, PartitionNumber, Time, TopicId};
use crate::wire::AnyResponse;
use alloc::collections::BTreeMap;
use requests::Deletion;

/// Bytes of one read while a coordinator is loaded.
const LOAD_BYTES: usize = 1 << 20;

/// How often one place is read again before it is given up.
const READ_AGAIN_MAX: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Coordinators {
    by_number: BTreeMap<PartitionNumber, Coordinator>,
    reading: Option<Reading>,
    /// What they cannot read, up to which offset; goes with its coordinator.
    lost: BTreeMap<PartitionNumber, Offset>,
    next_ticket: u64,
    asked: BTreeMap<Ticket, Asker>,
    /// Requests that several coordinators answer.
    deletions: BTreeMap<u64, Deletion>,
}

/// Who waits for a coordinator's answer.
#[derive(Clone, Copy, Debug)]
enum Asker {
    Caller(Caller),
    Deletion(u64),
}

/// What is read for a coordinator.
#[derive(Clone, Copy, Debug)]
struct Reading {
    number: PartitionNumber,
    epoch: LeaderEpoch,
    end: Offset,
    /// `None`: not asked for yet, or again.
    ticket: Option<crate::log::Ticket>,
    failures: u32,
}

impl Coordinators {
    pub fn deadline(&self) -> Option<Time> {
        self.by_number.values().filter_map(|one| one.groups().deadline()).min()
    }

    fn ticket(&mut self, asker: Asker) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.asked.insert(ticket, asker);
        ticket
    }

    /// Everyone who waits, when nothing will be written any more.
    pub fn drain(&mut self) -> impl Iterator<Item = Caller> + use<> {
        let asked = core::mem::take(&mut self.asked).into_values();
        let deletions = core::mem::take(&mut self.deletions).into_values();
        let callers = asked.filter_map(|asker| match asker {
            Asker::Caller(caller) => Some(caller),
            Asker::Deletion(_) => None,
        });
        callers.chain(deletions.map(|deletion| deletion.caller))
    }

    /// The groups of a partition, if clients may ask of them.
    fn serving(&mut self, number: PartitionNumber) -> Result<&mut Groups, ErrorCode> {
        let coordinator = self.by_number.get_mut(&number).ok_or(ErrorCode::NOT_COORDINATOR)?;
        coordinator.serving()
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Groups> {
        self.by_number.values_mut().filter_map(|one| one.serving().ok())
    }
}

/// The image as coordinators look at it.
struct Known<'a>(&'a Image);

impl Topics for Known<'_> {
    fn by_name(&self, name: &str) -> Option<KnownTopic<'_>> {
        self.0.topic(name).map(known)
    }

    fn by_id(&self, id: TopicId) -> Option<KnownTopic<'_>> {
        self.0.topic_by_id(id).map(known)
    }
}

fn known(topic: &Topic) -> KnownTopic<'_> {
    KnownTopic { name: &topic.name, id: topic.id, partitions: topic.partitions.len() as i32 }
}

impl Node {
    /// This gateway's role in a partition may have changed: where it leads one of
    /// `__consumer_offsets`, in whatever epoch, it coordinates.
    pub(super) fn coordinate(&mut self, now: Time, number: PartitionNumber) {
        let of = self.image.partition_of(number).map(|partition| partition.topic);
        let offsets = self.image.topic(CONSUMER_OFFSETS).map(|topic| topic.id);
        let leads = of.is_some() && of == offsets;
        let epoch = self.replicas.leader(number).ok().filter(|_| leads).map(|it| it.epoch());
        let before = self.coordinators.by_number.get(&number).map(Coordinator::epoch);
        if epoch == before {
            return;
        }
        self.coordinators.lost.remove(&number);
        if let Some(ended) = self.coordinators.by_number.remove(&number) {
            for (ticket, response) in ended.resign(now) {
                self.answer_ticket(ticket, response);
            }
        }
        let view = self.log.partition(number);
        if let (Some(epoch), Some(view)) = (epoch, view) {
            let mut groups = Groups::new(group::Settings::default(), self.rng.next_u64());
            groups.set_wall_clock(now, self.clock.trusted(now));
            let begun = Coordinator::new(groups, epoch, view.log_start, view.log_end);
            self.coordinators.by_number.insert(number, begun);
            self.advance_coordinator(now, number);
        }
    }

    /// Something was read for a coordinator, or its partition's high watermark has moved.
    pub(super) fn advance_coordinator(&mut self, now: Time, number: PartitionNumber) {
        let Some(coordinator) = self.coordinators.by_number.get_mut(&number) else { return };
        if coordinator.advance(now, self.replicas.high_watermark(number))
            && let Ok(groups) = coordinator.serving()
        {
            groups.forget_deleted_topics(&Known(&self.image));
        }
    }

    /// Does what coordinators want done; says whether there was anything to load.
    pub(super) fn poll_groups(&mut self, now: Time) -> bool {
        let mut from = PartitionNumber(0);
        while let Some((&number, one)) = self.coordinators.by_number.range_mut(from..).next() {
            match one.poll(now) {
                Some(Output::Append { token, records }) => {
                    self.append_offsets(now, number, token, &records);
                }
                Some(Output::Answer { ticket, response }) => self.answer_ticket(ticket, response),
                None => from = PartitionNumber(number.0.saturating_add(1)),
            }
        }
        self.load_groups(now)
    }

    fn answer_ticket(&mut self, ticket: Ticket, response: AnyResponse) {
        match self.coordinators.asked.remove(&ticket) {
            Some(Asker::Caller(caller)) => self.answer_group(caller, &response),
            Some(Asker::Deletion(id)) => self.deleted(id, response),
            None => {}
        }
    }

    fn append_offsets(
        &mut self,
        now: Time,
        number: PartitionNumber,
        token: AppendToken,
        records: &[Record],
    ) {
        let appended = self.try_append_offsets(now, number, records);
        let Some(coordinator) = self.coordinators.by_number.get_mut(&number) else { return };
        match appended {
            Ok(end) => coordinator.appended(token, end),
            Err(code) => coordinator.refused(now, token, code),
        }
    }

    fn try_append_offsets(
        &mut self,
        now: Time,
        number: PartitionNumber,
        records: &[Record],
    ) -> Result<Offset, ErrorCode> {
        let leader = self.replicas.leader(number)?;
        leader.check_insync()?;
        let leader_epoch = leader.epoch();
        let view = self.log.partition(number).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let base_offset = view.log_end;
        let batch = batch_of(records, self.clock.wall_ms(now));
        let header = Header::parse(&batch).expect("our own batch has a header");
        let copy = batch.clone();
        let append = Append { partition: number, leader_epoch, base_offset, header, batch };
        self.log.append(now, append).map_err(|_| ErrorCode::KAFKA_STORAGE_ERROR)?;
        self.note_appended(now, number, base_offset, &copy);
        Ok(base_offset.plus(i64::from(header.records_count)))
    }

    /// Reads on for a coordinator, one piece; says whether there was anything to read.
    fn load_groups(&mut self, now: Time) -> bool {
        if self.coordinators.reading.is_some_and(|reading| reading.ticket.is_some()) {
            return false;
        }
        let (log, replicas, lost) = (&self.log, &self.replicas, &self.coordinators.lost);
        let is_to_come = |number: PartitionNumber| {
            lost.get(&number).is_some_and(|until| replicas.may_come_back(number, *until))
        };
        let readable = |(number, one): (&PartitionNumber, &Coordinator)| {
            let (from, end) = one.to_read().filter(|_| !is_to_come(*number))?;
            let durable_end = log.partition(*number)?.durable_end;
            (from < durable_end).then_some((*number, one.epoch(), from, end.min(durable_end)))
        };
        let next = self.coordinators.by_number.iter().find_map(readable);
        let Some((number, epoch, from, end)) = next else { return false };
        let again = self.coordinators.reading.take();
        let again = again.filter(|reading| (reading.number, reading.epoch) == (number, epoch));
        let failures = again.map_or(0, |reading| reading.failures);
        let reading = Reading { number, epoch, end, ticket: None, failures };
        let bytes_max = LOAD_BYTES;
        let spec = FetchSpec { partition: number, from, end, bytes_max, at_least_one: true };
        match self.log.fetch(spec) {
            Ok(Answer::Later(ticket)) => {
                self.coordinators.reading = Some(Reading { ticket: Some(ticket), ..reading });
            }
            Ok(Answer::Now(batches)) => self.loaded(now, reading, &Ok(batches)),
            Err(error) => self.loaded(now, reading, &Err(error)),
        }
        true
    }

    /// A read for a coordinator has ended; false when it was for somebody else.
    pub(super) fn on_groups_read(
        &mut self,
        now: Time,
        ticket: crate::log::Ticket,
        result: &Result<Batches, FetchError>,
    ) -> bool {
        let awaited = |reading: &mut Reading| reading.ticket == Some(ticket);
        let Some(reading) = self.coordinators.reading.take_if(awaited) else { return false };
        self.loaded(now, reading, result);
        true
    }

    fn loaded(&mut self, now: Time, reading: Reading, result: &Result<Batches, FetchError>) {
        let Reading { number, epoch, end, .. } = reading;
        let coordinator = self.coordinators.by_number.get_mut(&number);
        // It may be another one by now.
        let Some(coordinator) = coordinator.filter(|one| one.epoch() == epoch) else { return };
        let Some((from, _)) = coordinator.to_read() else { return };
        let lost = match result {
            Err(FetchError::Damaged { until }) => Some(*until),
            Err(FetchError::Device) if reading.failures == READ_AGAIN_MAX => Some(from.plus(1)),
            _ => None,
        };
        if let Some(until) = lost.filter(|until| self.replicas.may_come_back(number, *until)) {
            self.coordinators.lost.insert(number, until);
            return self.replicas.met_damage();
        }
        match result {
            Ok(batches) if batches.is_empty() => coordinator.skip_to(end),
            Ok(batches) => {
                for batch in batches {
                    if coordinator.take(batch).is_err() {
                        let number = number.0;
                        log::error!("partition {number}: a record of groups is left out");
                    }
                }
            }
            Err(FetchError::Damaged { until }) => {
                let number = number.0;
                log::error!("partition {number}: damaged from offset {from} to {until}");
                coordinator.skip_to((*until).max(from.plus(1)));
            }
            Err(FetchError::Device) if reading.failures < READ_AGAIN_MAX => {
                let failures = reading.failures + 1;
                self.coordinators.reading = Some(Reading { ticket: None, failures, ..reading });
            }
            Err(error) => {
                log::error!("partition {} is not read: {error:?}", number.0);
                coordinator.skip_to(end);
            }
        }
        self.advance_coordinator(now, number);
    }

    pub(super) fn forget_deleted_topics(&mut self) {
        let known = Known(&self.image);
        self.coordinators.all().for_each(|groups| groups.forget_deleted_topics(&known));
    }

    pub(super) fn expire_offsets(&mut self, now: Time) {
        self.coordinators.all().for_each(|groups| groups.expire_offsets(now));
    }

    pub(super) fn set_groups_clock(&mut self, now: Time) {
        let wall = self.clock.trusted(now);
        for coordinator in self.coordinators.by_number.values_mut() {
            coordinator.set_wall_clock(now, wall);
        }
    }
}
