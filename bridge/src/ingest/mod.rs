//! The way into the log: records in, Produce requests out, and who is to be told when they are
//! durable.
//!
//! Everybody who has records (MQTT connections, sources, sessions) pushes them straight into the
//! open batch of their partition, and leaves a [`Ticket`]. Nothing is copied or queued before that,
//! and no timer runs: batches are sent when those who push have no more for now, so what arrives
//! together goes together. [`Ingest`] itself does no input or output.
//!
//! A site has a lane for each gateway that leads partitions, this one first. A partition's batches
//! go along one lane at a time: to another one only when none of them is without an answer.

mod lanes;
pub(crate) mod murmur;
mod partition;
mod room;
pub(crate) mod topics;

use crate::client::without_size;
use crate::slab::Key;
use bytes::Bytes;
pub(crate) use lanes::LOCAL;
use lanes::{Lane, Sent};
use partition::Partition;
pub(crate) use room::QUEUED_BYTES_MAX;
use room::Room;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use weir_core::batch::ProducerStamp;
use weir_core::error::ErrorCode;
use weir_core::types::{NodeId, TopicId};
use weir_core::wire::{ApiKey, Frame, decode_response, produce};

/// For how long new records are refused at once after the node said that its storage is full. Then
/// one tries again.
const FULL_FOR: Duration = Duration::from_secs(1);

/// Bytes of batches in one Produce request; one batch may be larger. A quarter of the largest
/// frame.
const REQUEST_BYTES: usize = weir_core::limits::FRAME_BYTES_MAX / 4;

/// How long a leader waits for its followers before it answers. Answers come in order, so what one
/// partition waits for keeps those of all others that it leads; what is sent again is appended
/// once. A follower that has died is no longer waited for after a second or two.
const ANSWERED_WITHIN_MS: i32 = 5_000;

const PRODUCE_VERSION: i16 = 11;

/// Whom to tell that a record is durable or was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ticket {
    Nobody,
    /// A QoS 1 publish: its number among the connection's publishes.
    Publish {
        connection: Key,
        number: u32,
        refusable: bool,
    },
    /// A QoS 2 publish, which belongs to its session.
    Exactly {
        session: Key,
        packet_identifier: u16,
        refusable: bool,
    },
    /// A session's record, and which of its versions.
    Session {
        session: Key,
        version: u32,
    },
    /// A message of another broker.
    Source {
        source: u32,
        number: u32,
    },
}

impl Ticket {
    /// Whether there is a way to say no: MQTT 3.1.1 has none.
    fn is_refusable(&self) -> bool {
        matches!(
            self,
            Ticket::Publish { refusable: true, .. } | Ticket::Exactly { refusable: true, .. }
        )
    }
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Durable,
    Refused(ErrorCode),
}

/// A record on its way into a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    /// Milliseconds since 1970.
    pub timestamp: i64,
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// A topic's number in an [`Ingest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TopicNumber(usize);

/// A partition's number in an [`Ingest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(usize);

/// A topic that has to be opened: created if it is missing, and its partitions counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub topic: TopicNumber,
    pub name: String,
    /// If it has to be created.
    pub partitions: u32,
    pub compacted: bool,
}

/// A topic as the cluster has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub id: TopicId,
    /// By index.
    pub partitions: Vec<FoundPartition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundPartition {
    pub end: i64,
    pub leader: NodeId,
}

#[derive(Debug)]
struct Topic {
    wanted: Wanted,
    /// Of the topic that had this name when it was opened last.
    id: TopicId,
    /// Numbers of its partitions, by index; empty before it is open.
    partitions: Vec<usize>,
    state: State,
    /// Somebody is asked who leads its partitions.
    seeking: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Opening,
    Open,
}

#[derive(Debug, Default)]
pub(crate) struct Ingest {
    topics: Vec<Topic>,
    by_name: HashMap<String, TopicNumber>,
    partitions: Vec<Partition>,
    /// The first leads to this gateway.
    lanes: Vec<Lane>,
    /// Partitions that wait for a pause to end.
    paused: Vec<usize>,
    wanted: Vec<TopicNumber>,
    /// Topics whose leaders have to be learnt.
    sought: Vec<TopicNumber>,
    correlation_id: i32,
    producer: ProducerStamp,
    room: Room,
    full_until: Option<Instant>,
}

/// What an answer brought, beside tickets.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Since when a batch that is durable now was open, and how many records it has.
    pub durable: Vec<(Instant, usize)>,
}

impl Ingest {
    /// On this gateway, with the producer id that it gave out.
    pub fn new(node: NodeId, producer_id: i64, producer_epoch: i16) -> Ingest {
        let producer =
            ProducerStamp { producer_id, producer_epoch, base_sequence: 0, transactional: false };
        Ingest { producer, lanes: vec![Lane::new(node)], ..Ingest::default() }
    }

    /// The topic's number; a new one is not open yet.
    pub fn topic(&mut self, name: &str, partitions: u32, compacted: bool) -> TopicNumber {
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        let topic = TopicNumber(self.topics.len());
        let wanted = Wanted { topic, name: name.into(), partitions, compacted };
        self.topics.push(Topic {
            wanted,
            id: TopicId::NONE,
            partitions: Vec::new(),
            state: State::Closed,
            seeking: false,
        });
        self.by_name.insert(name.into(), topic);
        topic
    }

    pub fn topics_count(&self) -> usize {
        self.topics.len()
    }

    pub fn knows(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Whether records can be pushed. If not, the topic is going to be opened.
    pub fn is_open(&mut self, topic: TopicNumber) -> bool {
        let known = !self.topics[topic.0].partitions.is_empty();
        if !known {
            self.want(topic);
        }
        known
    }

    fn want(&mut self, topic: TopicNumber) {
        let state = &mut self.topics[topic.0].state;
        if *state != State::Opening {
            *state = State::Opening;
            self.wanted.push(topic);
        }
    }

    /// What has to be there for a topic.
    pub fn wanted(&self, topic: TopicNumber) -> Wanted {
        self.topics[topic.0].wanted.clone()
    }

    pub fn has_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// A topic that somebody has to open; then [`Ingest::opened`].
    pub fn next_wanted(&mut self) -> Option<Wanted> {
        self.wanted.pop().map(|topic| self.topics[topic.0].wanted.clone())
    }

    /// The topic is there.
    pub fn opened(&mut self, topic: TopicNumber, found: &Found, now: Instant) {
        let known = std::mem::take(&mut self.topics[topic.0].partitions);
        let before = std::mem::replace(&mut self.topics[topic.0].id, found.id);
        let another = before != found.id;
        let mut numbers = Vec::with_capacity(found.partitions.len());
        for (index, FoundPartition { end, leader }) in found.partitions.iter().enumerate() {
            numbers.push(known.get(index).copied().unwrap_or(self.partitions.len()));
            if let Some(number) = known.get(index) {
                self.partitions[*number].reopened(another.then_some(*end), now);
            } else {
                let partition = Partition::new(topic.0, index as i32, *end, self.producer);
                self.partitions.push(partition);
            }
            self.led_by(numbers[index], *leader, now);
        }
        for (index, gone) in known.iter().enumerate().skip(found.partitions.len()) {
            let heir = numbers[index % numbers.len()];
            if let Ok([heir, gone]) = self.partitions.get_disjoint_mut([heir, *gone]) {
                heir.adopt(gone);
            }
        }
        for number in &numbers {
            self.list(*number);
        }
        self.room.divide(self.partitions.iter().map(Partition::queued_bytes));
        self.topics[topic.0].partitions = numbers;
        self.topics[topic.0].state = State::Open;
    }

    /// Whether the node said a moment ago that its storage is full.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_until.is_some_and(|until| now < until)
    }

    /// Which partition of an open topic a key belongs to.
    pub fn place(&self, topic: TopicNumber, key: &[u8]) -> Place {
        let partitions = &self.topics[topic.0].partitions;
        Place(partitions[murmur::partition_of_key(key, partitions.len() as u32) as usize])
    }

    /// Topic and index of a partition.
    pub fn name(&self, place: Place) -> (&str, i32) {
        let partition = &self.partitions[place.0];
        (&self.topics[partition.topic].wanted.name, partition.index)
    }

    /// Records that are not acknowledged yet have this offset or a higher one.
    pub fn end(&self, place: Place) -> i64 {
        self.partitions[place.0].end
    }

    /// Appends a record to the open batch of its partition.
    pub fn push(&mut self, place: Place, record: &Record, ticket: Ticket, now: Instant) {
        let partition = &mut self.partitions[place.0];
        let before = partition.queued_bytes();
        partition.push(record, ticket, now);
        self.room.changed(before, partition.queued_bytes());
        lanes::list(partition, place.0, &mut self.lanes);
    }

    /// Whether nothing is queued and nothing waits for an answer.
    pub fn is_idle(&self) -> bool {
        let answered = self.lanes.iter().all(|lane| lane.requests.is_empty());
        answered && self.partitions.iter().all(Partition::is_empty)
    }

    /// The next Produce request of a lane, without its size. It holds one batch of each partition
    /// that is ready.
    pub fn request(&mut self, lane: usize, now: Instant) -> Option<Bytes> {
        if self.lanes[lane].is_full() {
            return None;
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        let mut listed = std::mem::take(&mut self.lanes[lane].listed);
        listed.retain(|number| {
            let partition = &mut self.partitions[*number];
            partition.listed = partition.is_ready();
            if partition.listed && bytes < REQUEST_BYTES {
                bytes += partition.send().len();
                taken.push(*number);
                partition.listed = partition.is_ready();
            }
            partition.listed
        });
        self.lanes[lane].listed = listed;
        if taken.is_empty() {
            return None;
        }
        taken.sort_unstable_by_key(|number| self.partitions[*number].topic);
        let request = self.encode(&taken, bytes);
        let correlation_id = self.correlation_id;
        self.lanes[lane].requests.push_back(Sent { correlation_id, partitions: taken, at: now });
        Some(request)
    }

    /// Written by hand rather than by `weir_core::wire`, so that each batch is copied once, into
    /// the request; there it stays until it is answered. Layout: Produce 11, a flexible
    /// version.
    fn encode(&mut self, taken: &[usize], batches_bytes: usize) -> Bytes {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let mut out = Vec::with_capacity(batches_bytes + 64 + 300 * taken.len());
        out.extend_from_slice(&(ApiKey::Produce as i16).to_be_bytes());
        out.extend_from_slice(&PRODUCE_VERSION.to_be_bytes());
        out.extend_from_slice(&self.correlation_id.to_be_bytes());
        out.extend_from_slice(&[0, 9]);
        out.extend_from_slice(b"weir-mqtt");
        // No tagged fields; no transactional id; acks=all.
        out.extend_from_slice(&[0, 0, 0xff, 0xff]);
        out.extend_from_slice(&ANSWERED_WITHIN_MS.to_be_bytes());
        let same_topic =
            |a: &usize, b: &usize| self.partitions[*a].topic == self.partitions[*b].topic;
        let topics: Vec<&[usize]> = taken.chunk_by(same_topic).collect();
        uvarint(&mut out, topics.len() + 1);
        let mut places = Vec::with_capacity(taken.len());
        for numbers in topics {
            let name = &self.topics[self.partitions[numbers[0]].topic].wanted.name;
            uvarint(&mut out, name.len() + 1);
            out.extend_from_slice(name.as_bytes());
            uvarint(&mut out, numbers.len() + 1);
            for number in numbers {
                let partition = &self.partitions[*number];
                out.extend_from_slice(&partition.index.to_be_bytes());
                let batch = partition.sent();
                uvarint(&mut out, batch.len() + 1);
                places.push((*number, out.len(), batch.len()));
                out.extend_from_slice(batch);
                out.push(0);
            }
            out.push(0);
        }
        out.push(0);
        let request = Bytes::from(out);
        for (number, at, len) in places {
            self.partitions[number].shares(request.slice(at..at + len));
        }
        request
    }

    /// Takes the answer to a lane's oldest request. `Err`: it is none, and the connection has to be
    /// replaced.
    pub fn reply(
        &mut self,
        lane: usize,
        frame: Frame,
        now: Instant,
        done: &mut Vec<(Ticket, Outcome)>,
    ) -> Result<Answer, NotAnAnswer> {
        let frame = without_size(frame);
        let (correlation_id, response) =
            decode_response::<produce::ProduceRequest>(&frame, PRODUCE_VERSION)
                .map_err(|_| NotAnAnswer)?;
        let sent = self.lanes[lane].requests.pop_front().ok_or(NotAnAnswer)?;
        if sent.correlation_id != correlation_id {
            return Err(NotAnAnswer);
        }
        let mut answer = Answer::default();
        let mut unanswered = sent.partitions;
        for topic in response.responses {
            let Some(known) = self.by_name.get(&topic.name).copied() else { continue };
            for part in topic.partition_responses {
                let found = unanswered.iter().position(|number| {
                    let partition = &self.partitions[*number];
                    partition.topic == known.0 && partition.index == part.index
                });
                let Some(found) = found else { continue };
                let number = unanswered.swap_remove(found);
                self.answered(number, part.error_code, part.base_offset, now, done, &mut answer);
            }
        }
        for number in unanswered {
            let error = ErrorCode::UNKNOWN_SERVER_ERROR;
            self.answered(number, error, -1, now, done, &mut answer);
        }
        Ok(answer)
    }

    fn answered(
        &mut self,
        number: usize,
        error: ErrorCode,
        base_offset: i64,
        now: Instant,
        done: &mut Vec<(Ticket, Outcome)>,
        answer: &mut Answer,
    ) {
        let partition = &mut self.partitions[number];
        let before = partition.queued_bytes();
        let answered = partition.answered(error, base_offset, now, done);
        self.room.changed(before, partition.queued_bytes());
        answer.durable.extend(answered.durable);
        if answered.storage_full {
            self.full_until = Some(now + FULL_FOR);
        } else if !error.is_error() {
            self.full_until = None;
        }
        let topic = TopicNumber(partition.topic);
        self.list(number);
        if answered.reopen {
            self.want(topic);
        }
        if answered.seek {
            self.seek(topic);
        }
    }

    /// When the next pause ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.paused.iter().filter_map(|number| self.partitions[*number].deadline()).min()
    }

    /// Ends the pauses that are over.
    pub fn resume(&mut self, now: Instant) {
        let Ingest { partitions, lanes, paused, .. } = self;
        paused.retain(|number| {
            let partition = &mut partitions[*number];
            if partition.resume(now) {
                lanes::list(partition, *number, lanes);
            }
            partition.deadline().is_some()
        });
    }

    /// Puts a partition on the lists where it belongs: it has something to send, or a pause.
    fn list(&mut self, number: usize) {
        let partition = &mut self.partitions[number];
        lanes::list(partition, number, &mut self.lanes);
        if partition.deadline().is_some() && !self.paused.contains(&number) {
            self.paused.push(number);
        }
    }
}

/// The node answered something that is no answer to what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAnAnswer;

fn uvarint(out: &mut Vec<u8>, value: usize) {
    weir_core::bytes::put_uvarint(out, value as u32);
}

#[cfg(test)]
mod tests;
