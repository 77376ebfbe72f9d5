//! Groups: requests are handed to the group coordinator, and its records to `__consumer_offsets`.
//!
//! A group's records go to the partition that Kafka's hash of its id names, so that a group's
//! coordinator can be the leader of a partition. A batch of the coordinator that is about several
//! groups is split; it is durable when each part is, and since the flash log is one stream, that is
//! in order. The topic is compacted by key, as any other.

use super::connections::Caller;
use super::{GroupStatus, MemberStatus, Node, OffsetStatus};
use crate::batch::{self, Header};
use crate::bytes::Malformed;
use crate::error::ErrorCode;
use crate::group::{self, AppendToken, Groups, KnownTopic, Output, Record, Ticket, Topics};
use crate::log::Append;
use crate::metadata::{CONSUMER_OFFSETS, Image, Topic};
use crate::types::{Offset, PartitionNumber, Time, TopicId};
use crate::wire::consumer_offsets::Key;
use crate::wire::group::{DescribeGroupsRequest, DescribedGroupMember};
use crate::wire::{AnyRequest, AnyResponse};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// Bytes of records after which a batch is closed.
const BATCH_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Coordinator {
    groups: Groups,
    next_ticket: u64,
    callers: BTreeMap<Ticket, Caller>,
    /// Batches that the coordinator asked for, in its order.
    appended: VecDeque<Appended>,
}

/// Ends that must be durable, by partition.
type Ends = Vec<(PartitionNumber, Offset)>;

#[derive(Debug)]
struct Appended {
    token: AppendToken,
    ends: Ends,
}

impl Coordinator {
    pub fn new(seed: u64) -> Coordinator {
        Coordinator {
            groups: Groups::new(group::Settings::default(), seed),
            next_ticket: 0,
            callers: BTreeMap::new(),
            appended: VecDeque::new(),
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        self.groups.deadline()
    }

    fn ticket(&mut self, caller: Caller) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.callers.insert(ticket, caller);
        ticket
    }

    pub fn drain(&mut self) -> impl Iterator<Item = Caller> + use<> {
        self.appended.clear();
        core::mem::take(&mut self.callers).into_values()
    }
}

/// The image as the coordinator looks at it.
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
    pub(super) fn on_group_request(&mut self, now: Time, caller: Caller, request: AnyRequest) {
        let version = caller.version;
        let known = Known(&self.image);
        match request {
            AnyRequest::JoinGroup(request) => {
                let who = self.group_caller(caller);
                let ticket = self.coordinator.ticket(caller);
                self.coordinator.groups.join(now, &who, request, ticket);
            }
            AnyRequest::SyncGroup(request) => {
                let ticket = self.coordinator.ticket(caller);
                self.coordinator.groups.sync(now, request, ticket);
            }
            AnyRequest::Heartbeat(request) => {
                let response = self.coordinator.groups.heartbeat(now, &request);
                self.counts.error(caller.api, response.error_code);
                self.reply(caller, &response);
            }
            AnyRequest::LeaveGroup(request) => {
                let response = self.coordinator.groups.leave(now, version, request);
                self.counts.error(caller.api, response.error_code);
                self.reply(caller, &response);
            }
            AnyRequest::OffsetCommit(request) => {
                let ticket = self.coordinator.ticket(caller);
                self.coordinator.groups.commit_offsets(now, version, request, &known, ticket);
            }
            AnyRequest::OffsetFetch(request) => {
                let response = self.coordinator.groups.fetch_offsets(version, &request, &known);
                self.reply(caller, &response);
            }
            AnyRequest::OffsetDelete(request) => {
                let ticket = self.coordinator.ticket(caller);
                self.coordinator.groups.delete_offsets(&request, &known, ticket);
            }
            AnyRequest::DescribeGroups(request) => {
                let response = self.coordinator.groups.describe(version, &request);
                self.reply(caller, &response);
            }
            AnyRequest::ListGroups(request) => {
                let response = self.coordinator.groups.list(&request);
                self.reply(caller, &response);
            }
            AnyRequest::DeleteGroups(request) => {
                let ticket = self.coordinator.ticket(caller);
                self.coordinator.groups.delete(&request, ticket);
            }
            other => unreachable!("{other:?} is no request about groups"),
        }
    }

    fn group_caller(&self, caller: Caller) -> group::Caller {
        let connection = self.connections.get(caller.conn);
        group::Caller {
            api_version: caller.version,
            client_id: connection.map_or_else(String::new, |one| one.client_id.clone()),
            // Kafka writes an address as Java does: a name, which is empty, a slash, the numbers.
            client_host: connection.map_or_else(String::new, |one| format!("/{}", one.host)),
        }
    }

    /// Does what the coordinator wants done.
    pub(super) fn poll_groups(&mut self, now: Time) {
        while let Some(output) = self.coordinator.groups.poll(now) {
            match output {
                Output::Append { token, records } => match self.append_offsets(now, &records) {
                    Ok(ends) => self.coordinator.appended.push_back(Appended { token, ends }),
                    Err(code) => self.coordinator.groups.refused(now, token, code),
                },
                Output::Answer { ticket, response } => {
                    if let Some(caller) = self.coordinator.callers.remove(&ticket) {
                        self.answer_group(caller, &response);
                    }
                }
            }
        }
    }

    fn answer_group(&mut self, caller: Caller, response: &AnyResponse) {
        let frame = match response {
            AnyResponse::JoinGroup(response) => {
                self.counts.error(caller.api, response.error_code);
                caller.frame(response)
            }
            AnyResponse::SyncGroup(response) => {
                self.counts.error(caller.api, response.error_code);
                caller.frame(response)
            }
            AnyResponse::OffsetCommit(response) => {
                let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
                partitions.for_each(|one| self.counts.error(caller.api, one.error_code));
                caller.frame(response)
            }
            AnyResponse::OffsetDelete(response) => caller.frame(response),
            AnyResponse::DeleteGroups(response) => caller.frame(response),
            other => unreachable!("nobody waits for {other:?}"),
        };
        self.send(caller, frame);
    }

    /// A partition of `__consumer_offsets` has become durable up to somewhere.
    pub(super) fn on_offsets_durable(&mut self, now: Time) {
        let is_durable = |ends: &Ends| {
            ends.iter().all(|(number, end)| self.replicas.high_watermark(*number) >= *end)
        };
        while self.coordinator.appended.front().is_some_and(|oldest| is_durable(&oldest.ends)) {
            let Some(oldest) = self.coordinator.appended.pop_front() else { break };
            self.coordinator.groups.durable(now, oldest.token);
        }
        self.poll_groups(now);
    }

    fn append_offsets(&mut self, now: Time, records: &[Record]) -> Result<Ends, ErrorCode> {
        let topic = self.image.topic(CONSUMER_OFFSETS);
        let topic = topic.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let timestamp = self.clock.wall_ms(now);
        let mut ends = Ends::new();
        for (partition, records) in by_partition(topic, records) {
            for batch in batches(&records, timestamp) {
                let header = Header::parse(&batch).expect("our own batch has a header");
                let view = self.log.partition(partition);
                let base_offset = view.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?.log_end;
                let leader = self.replicas.leader(partition);
                let leader_epoch = leader.map_err(|_| ErrorCode::NOT_COORDINATOR)?.epoch();
                let append = Append { partition, leader_epoch, base_offset, header, batch };
                let refused = |_| ErrorCode::KAFKA_STORAGE_ERROR;
                self.log.append(now, append).map_err(refused)?;
                ends.push((partition, base_offset.plus(i64::from(header.records_count))));
            }
        }
        Ok(ends)
    }

    pub(super) fn replay_offsets(&mut self, partition: PartitionNumber, batch: &[u8]) {
        let replayed = decode(batch).and_then(|records| {
            records.iter().try_for_each(|record| self.coordinator.groups.apply(record))
        });
        if replayed.is_err() {
            log::error!("partition {}: a record of committed offsets is left out", partition.0);
        }
    }

    pub(super) fn on_offsets_replayed(&mut self, now: Time) {
        self.coordinator.groups.loaded(now);
        self.coordinator.groups.forget_deleted_topics(&Known(&self.image));
    }

    pub(super) fn forget_deleted_topics(&mut self) {
        self.coordinator.groups.forget_deleted_topics(&Known(&self.image));
    }

    pub(super) fn expire_offsets(&mut self, now: Time) {
        self.coordinator.groups.expire_offsets(now);
    }

    pub(super) fn set_groups_clock(&mut self, now: Time) {
        self.coordinator.groups.set_wall_clock(now, self.clock.trusted(now));
    }

    pub(super) fn groups_status(&self) -> Vec<GroupStatus> {
        let views = self.coordinator.groups.views();
        views.map(|view| self.group_status(view)).collect()
    }

    fn group_status(&self, view: group::GroupView<'_>) -> GroupStatus {
        let offset = |(topic, partition, committed): (&str, i32, i64)| {
            let number = self.image.topic(topic).and_then(|topic| topic.partition(partition));
            let end = number.map(|number| self.replicas.high_watermark(number));
            OffsetStatus {
                topic: topic.into(),
                partition,
                committed,
                lag: end.map_or(0, |end| (end.0 - committed).max(0)),
            }
        };
        let asked = DescribeGroupsRequest {
            groups: Vec::from([view.id.into()]),
            ..DescribeGroupsRequest::default()
        };
        let described = self.coordinator.groups.describe(0, &asked).groups.pop();
        let described = described.unwrap_or_default();
        let member = |member: DescribedGroupMember| MemberStatus {
            member_id: member.member_id,
            group_instance_id: member.group_instance_id,
            client_id: member.client_id,
        };
        GroupStatus {
            id: view.id.into(),
            state: view.state.name().into(),
            protocol_type: described.protocol_type,
            protocol: described.protocol_data,
            generation: view.generation,
            members: described.members.into_iter().map(member).collect(),
            offsets: self.coordinator.groups.committed(view.id).map(offset).collect(),
        }
    }
}

/// Records by the partition of their groups; each key's records keep their order.
fn by_partition(topic: &Topic, records: &[Record]) -> BTreeMap<PartitionNumber, Vec<Record>> {
    let mut parts: BTreeMap<PartitionNumber, Vec<Record>> = BTreeMap::new();
    for record in records {
        let group = match Key::decode(record.key.clone()) {
            Ok(Key::Offset(key)) => key.group,
            Ok(Key::Group(key)) => key.group,
            _ => String::new(),
        };
        let at = partition_for(&group, topic.partitions.len());
        if let Some(number) = topic.partitions.get(at) {
            parts.entry(*number).or_default().push(record.clone());
        }
    }
    parts
}

/// Kafka's choice: the hash of Java strings, without its sign.
fn partition_for(group: &str, partitions: usize) -> usize {
    let hash = group
        .encode_utf16()
        .fold(0u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(u32::from(unit)));
    (hash & 0x7fff_ffff) as usize % partitions.max(1)
}

fn batches(records: &[Record], timestamp: i64) -> Vec<Bytes> {
    let mut batches = Vec::new();
    let mut builder = batch::Builder::new();
    for record in records {
        if builder.len() >= BATCH_BYTES {
            batches.push(Bytes::from(core::mem::take(&mut builder).build(None)));
        }
        builder.push(timestamp, Some(&record.key), record.value.as_deref(), &[]);
    }
    if !builder.is_empty() {
        batches.push(Bytes::from(builder.build(None)));
    }
    batches
}

fn decode(batch: &[u8]) -> Result<Vec<Record>, Malformed> {
    let header = Header::parse(batch).map_err(|_| Malformed)?;
    let section = batch.get(batch::HEADER_BYTES..).ok_or(Malformed)?;
    let records = batch::records(section, header.records_count);
    let decoded = records.map(|record| {
        let record = record.map_err(|_| Malformed)?;
        let key = record.key.map(Bytes::copy_from_slice).ok_or(Malformed)?;
        Ok(Record { key, value: record.value.map(Bytes::copy_from_slice) })
    });
    decoded.collect()
}
