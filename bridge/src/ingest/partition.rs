//! One partition on its way into the log: the open batch, the batches that are sent, and what is
//! done when one fails.
//!
//! ```text
//! state       event                                  then
//! well        a batch is sent                        well; at most five are in flight
//! well        answered: durable                      its tickets are done
//! well        answered: an error                     troubled; nothing more is sent
//! troubled    the last batch in flight is answered   the error is dealt with, a pause begins
//! troubled    the pause is over                      well; what is left is sent again, in order
//! ```
//!
//! Order is kept by an idempotent producer: when a batch fails, the node refuses those behind it. A
//! batch that is sent again as it was keeps its sequence, so it is appended once. A batch that is
//! changed (split, or without refused records) gets a new epoch and sequence 0, and so do those
//! behind it; that happens only after errors which say that nothing was appended.
//!
//! A site does not always say so: a leader that is lost takes the answer with it, and the next one
//! may have the batch. Such a batch is *uncertain* until it is answered as durable: it is sent
//! again as it was, to whoever leads, and nothing in front of that is changed for want of space.

use super::{Outcome, Ticket};
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use weir_core::batch::{self, Builder, Codec, HEADER_BYTES, Header, ProducerStamp};
use weir_core::error::ErrorCode;

/// The batch is sealed and the next one opened when it has this many bytes.
const BATCH_BYTES: usize = 256 << 10;

/// Kafka keeps the sequences of five batches of each producer.
const IN_FLIGHT_MAX: usize = 5;

const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Whoever leads is asked for within memory, and clients wait.
const SEEK_PAUSE_MAX: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Partition {
    pub topic: usize,
    pub index: i32,
    /// Already on the list of those that have something to send.
    pub listed: bool,
    /// Which lane leads to its leader, as far as is known.
    pub lane: usize,
    /// Every record below was acknowledged; every record that is not yet lies above.
    pub end: i64,
    open: Builder,
    tickets: Vec<Ticket>,
    since: Option<Instant>,
    /// In order: those in flight, then those that are not sent.
    queue: VecDeque<Batch>,
    in_flight: usize,
    producer: ProducerStamp,
    /// A batch of this epoch is in the log. Before, one batch is in flight at a time: a partition
    /// that does not know a producer takes any sequence from it, so a second batch could
    /// overtake the first.
    known: bool,
    trouble: Option<Trouble>,
    pause: Duration,
    /// What the last batch had, as a guess for the next.
    batch_bytes: usize,
    /// Of the batches in the queue.
    sealed_bytes: usize,
}

#[derive(Debug)]
struct Batch {
    bytes: Bytes,
    tickets: Vec<Ticket>,
    since: Instant,
    /// It may be in the log, although nobody has said so.
    uncertain: bool,
}

#[derive(Debug)]
struct Trouble {
    error: ErrorCode,
    /// Batches at the front of the queue that were answered with an error.
    failed: usize,
    /// When to go on; `None` while batches are in flight, or until the topic is there again.
    until: Option<Instant>,
}

/// What an error asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// Send the same again after a pause.
    Retry,
    /// The same, to whoever leads the partition then.
    Seek,
    /// The same, once the topic is there again.
    Reopen,
    /// No space: tell those who can be told, keep the rest and send it again.
    RefuseSome,
    /// The batch is too large: split it, or refuse its only record.
    Split,
    /// The sequence is not what the node expects: begin anew.
    Renew,
    /// This batch will never be taken.
    Refuse,
}

impl Remedy {
    fn of(error: ErrorCode) -> Remedy {
        match error {
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => Remedy::Reopen,
            ErrorCode::KAFKA_STORAGE_ERROR => Remedy::RefuseSome,
            ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE => Remedy::Split,
            ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
            | ErrorCode::UNKNOWN_PRODUCER_ID
            | ErrorCode::INVALID_PRODUCER_EPOCH => Remedy::Renew,
            ErrorCode::NOT_LEADER_OR_FOLLOWER
            | ErrorCode::LEADER_NOT_AVAILABLE
            | ErrorCode::FENCED_LEADER_EPOCH
            | ErrorCode::UNKNOWN_LEADER_EPOCH
            | ErrorCode::NETWORK_EXCEPTION => Remedy::Seek,
            error if error.is_retriable() => Remedy::Retry,
            _ => Remedy::Refuse,
        }
    }
}

/// What [`Partition::answered`] leaves to the caller.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answered {
    /// Since when the batch that is durable now was open, and how many records it has.
    pub durable: Option<(Instant, usize)>,
    /// The topic has to be opened again.
    pub reopen: bool,
    /// Whoever leads the partition now has to be found.
    pub seek: bool,
    pub storage_full: bool,
}

impl Partition {
    pub fn new(topic: usize, index: i32, end: i64, producer: ProducerStamp) -> Partition {
        Partition {
            topic,
            index,
            listed: false,
            lane: super::lanes::LOCAL,
            end,
            open: Builder::new(),
            tickets: Vec::new(),
            since: None,
            queue: VecDeque::new(),
            in_flight: 0,
            producer,
            known: false,
            trouble: None,
            pause: PAUSE,
            batch_bytes: 0,
            sealed_bytes: 0,
        }
    }

    /// Appends a record to the open batch.
    pub fn push(&mut self, record: &super::Record, ticket: Ticket, now: Instant) {
        if self.open.len() >= BATCH_BYTES {
            self.close();
        }
        if self.open.is_empty() {
            self.since = Some(now);
            self.open = Builder::with_capacity(self.batch_bytes);
        }
        self.open.push(record.timestamp, Some(record.key), record.value, record.headers);
        self.tickets.push(ticket);
    }

    /// Bytes that wait to be sent or answered.
    pub fn queued_bytes(&self) -> usize {
        let open = if self.open.is_empty() { 0 } else { self.open.len() };
        self.sealed_bytes + open
    }

    fn count_sealed(&mut self) {
        self.sealed_bytes = self.queue.iter().map(|batch| batch.bytes.len()).sum();
    }

    /// Whether a batch can be sent now.
    pub fn is_ready(&self) -> bool {
        self.trouble.is_none()
            && self.in_flight < if self.known { IN_FLIGHT_MAX } else { 1 }
            && (self.queue.len() > self.in_flight || !self.open.is_empty())
    }

    /// Whether nothing waits to be sent or answered.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.open.is_empty()
    }

    /// Seals the open batch.
    fn close(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.batch_bytes = open.len().min(BATCH_BYTES + (BATCH_BYTES >> 2));
        let stamp = self.next_stamp(open.records_count());
        let bytes: Bytes = open.build(stamp).into();
        self.sealed_bytes += bytes.len();
        self.queue.push_back(Batch {
            bytes,
            tickets: std::mem::take(&mut self.tickets),
            since: self.since.take().unwrap_or_else(Instant::now),
            uncertain: false,
        });
    }

    /// The stamp of a batch of so many records; the next one follows it.
    fn next_stamp(&mut self, records_count: i32) -> Option<ProducerStamp> {
        let stamp = self.producer;
        self.producer.base_sequence =
            (i64::from(stamp.base_sequence) + i64::from(records_count)) as i32 & i32::MAX;
        (stamp.producer_id >= 0).then_some(stamp)
    }

    /// Whether batches are without an answer.
    pub fn is_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// Marks the next batch as sent; it is there to be read then. Call [`Partition::is_ready`]
    /// first.
    pub fn send(&mut self) -> &Bytes {
        if self.queue.len() == self.in_flight {
            self.close();
        }
        self.in_flight += 1;
        self.sent()
    }

    /// The batch that was sent last.
    pub fn sent(&self) -> &Bytes {
        &self.queue[self.in_flight - 1].bytes
    }

    /// The batch that was sent last lies in this buffer, too.
    pub fn shares(&mut self, bytes: Bytes) {
        self.queue[self.in_flight - 1].bytes = bytes;
    }

    /// The oldest batch in flight was answered.
    pub fn answered(
        &mut self,
        error: ErrorCode,
        base_offset: i64,
        now: Instant,
        done: &mut Vec<(Ticket, Outcome)>,
    ) -> Answered {
        let mut answered = Answered::default();
        if self.in_flight == 0 {
            return answered;
        }
        self.in_flight -= 1;
        if error == ErrorCode::NONE || error == ErrorCode::DUPLICATE_SEQUENCE_NUMBER {
            // Behind failed batches nothing succeeds; if a node ever answers so, this is that
            // batch.
            let at = self.failed();
            let batch = self.queue.remove(at).expect("a batch in flight is in the queue");
            if base_offset >= 0 {
                self.end = base_offset + batch.tickets.len() as i64;
            }
            answered.durable = Some((batch.since, batch.tickets.len()));
            done.extend(batch.tickets.into_iter().map(|ticket| (ticket, Outcome::Durable)));
            self.pause = PAUSE;
            self.known = true;
        } else {
            let failed = self.failed();
            self.queue[failed].uncertain |=
                matches!(Remedy::of(error), Remedy::Retry | Remedy::Seek);
            let first = Trouble { error, failed, until: None };
            answered.storage_full =
                self.trouble.is_none() && error == ErrorCode::KAFKA_STORAGE_ERROR;
            self.trouble.get_or_insert(first).failed += 1;
        }
        if self.in_flight == 0 && self.trouble.is_some() {
            self.settle(now, done, &mut answered);
        }
        self.count_sealed();
        answered
    }

    /// The connection is gone: nothing in flight will be answered.
    pub fn disconnected(&mut self, now: Instant) {
        let sent = self.failed() + self.in_flight;
        for batch in self.queue.iter_mut().take(sent) {
            batch.uncertain = true;
        }
        self.in_flight = 0;
        if !self.queue.is_empty() {
            let (error, until) = (ErrorCode::NETWORK_EXCEPTION, Some(now + self.pause));
            self.trouble = Some(Trouble { error, failed: 0, until });
        }
    }

    /// Nothing is in flight any more: deals with the error that the oldest batch met.
    fn settle(&mut self, now: Instant, done: &mut Vec<(Ticket, Outcome)>, answered: &mut Answered) {
        let Some(trouble) = &self.trouble else { return };
        let error = trouble.error;
        match Remedy::of(error) {
            Remedy::Retry => {}
            Remedy::Seek => answered.seek = true,
            Remedy::RefuseSome if self.queue.iter().any(|batch| batch.uncertain) => {}
            Remedy::Reopen => answered.reopen = true,
            Remedy::RefuseSome => self.refuse_some(error, done),
            Remedy::Renew => self.renew(),
            Remedy::Split if self.queue[0].tickets.len() > 1 => {
                self.split();
                self.renew();
            }
            Remedy::Split | Remedy::Refuse => {
                let batch = self.queue.pop_front().expect("the failed batch is in the queue");
                log::warn!("mqtt: {} records refused: {error}", batch.tickets.len());
                done.extend(batch.tickets.into_iter().map(|t| (t, Outcome::Refused(error))));
                self.renew();
            }
        }
        if self.queue.is_empty() {
            self.trouble = None;
            return;
        }
        let pause = if answered.seek { self.pause.min(SEEK_PAUSE_MAX) } else { self.pause };
        let until = (!answered.reopen).then_some(now + pause);
        self.trouble = Some(Trouble { error, failed: 0, until });
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// Refuses those records whose senders can be told, and leaves the rest.
    fn refuse_some(&mut self, error: ErrorCode, done: &mut Vec<(Ticket, Outcome)>) {
        let mut changed = false;
        for batch in std::mem::take(&mut self.queue) {
            if !batch.tickets.iter().any(Ticket::is_refusable) {
                self.queue.push_back(batch);
                continue;
            }
            changed = true;
            let mut kept = Vec::new();
            for ticket in &batch.tickets {
                if ticket.is_refusable() {
                    done.push((*ticket, Outcome::Refused(error)));
                } else {
                    kept.push(*ticket);
                }
            }
            if !kept.is_empty() {
                let bytes = rebuilt(&batch.bytes, |at| !batch.tickets[at].is_refusable());
                self.queue.push_back(Batch { bytes, tickets: kept, ..batch });
            }
        }
        if changed {
            self.renew();
        }
    }

    fn split(&mut self) {
        let mut batch = self.queue.pop_front().expect("the failed batch is in the queue");
        let half = batch.tickets.len() / 2;
        let tail = batch.tickets.split_off(half);
        let (first, second) =
            (rebuilt(&batch.bytes, |at| at < half), rebuilt(&batch.bytes, |at| at >= half));
        let (since, uncertain) = (batch.since, batch.uncertain);
        self.queue.push_front(Batch { bytes: second, tickets: tail, since, uncertain });
        self.queue.push_front(Batch { bytes: first, ..batch });
    }

    /// Stamps everything that waits with a new epoch, from sequence 0 (KIP-360). The epoch is this
    /// partition's own: a node compares it with what this partition had. When 32,767 of them are
    /// used up, batches go out without a stamp.
    fn renew(&mut self) {
        match self.producer.producer_epoch.checked_add(1) {
            Some(epoch) => self.producer.producer_epoch = epoch,
            None => self.producer.producer_id = -1,
        }
        self.producer.base_sequence = 0;
        self.known = false;
        for at in 0..self.queue.len() {
            let stamp = self.next_stamp(self.queue[at].tickets.len() as i32);
            self.queue[at].bytes = restamped(&self.queue[at].bytes, stamp);
        }
    }

    /// The topic is there again. With an end it is another one of the same name, which knows no
    /// sequences. The same one still has its records, also those whose answer was lost.
    pub fn reopened(&mut self, end: Option<i64>, now: Instant) {
        self.end = end.unwrap_or(self.end);
        if self.in_flight == 0 {
            if end.is_some() {
                self.renew();
                self.queue.iter_mut().for_each(|batch| batch.uncertain = false);
            }
            self.hurry(now);
        }
    }

    /// Ends a pause at once.
    pub fn hurry(&mut self, now: Instant) {
        if let Some(trouble) = &mut self.trouble {
            trouble.until = Some(now);
            self.pause = PAUSE;
        }
    }

    fn failed(&self) -> usize {
        self.trouble.as_ref().map_or(0, |trouble| trouble.failed)
    }

    /// Takes over what waits in another partition, which is no longer there.
    pub fn adopt(&mut self, other: &mut Partition) {
        for partition in [&mut *self, &mut *other] {
            if !partition.open.is_empty() {
                partition.close();
            }
        }
        for mut batch in std::mem::take(&mut other.queue) {
            let stamp = self.next_stamp(batch.tickets.len() as i32);
            batch.bytes = restamped(&batch.bytes, stamp);
            self.queue.push_back(batch);
        }
        (other.trouble, other.in_flight) = (None, 0);
        self.count_sealed();
        other.count_sealed();
    }

    /// When a pause ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.trouble.as_ref().and_then(|trouble| trouble.until)
    }

    /// Ends a pause that is over. Whether it did.
    pub fn resume(&mut self, now: Instant) -> bool {
        let over = self.deadline().is_some_and(|until| until <= now);
        if over {
            self.trouble = None;
        }
        over
    }
}

/// The batch again, with another stamp.
fn restamped(bytes: &Bytes, stamp: Option<ProducerStamp>) -> Bytes {
    let header = Header::parse(bytes).expect("a batch that was built here has a header");
    batch::seal(header, Codec::None, &bytes[HEADER_BYTES..], stamp).into()
}

/// The batch again, with those records only whose number `keep` says.
fn rebuilt(bytes: &Bytes, keep: impl Fn(usize) -> bool) -> Bytes {
    let header = Header::parse(bytes).expect("a batch that was built here has a header");
    let mut builder = Builder::with_capacity(bytes.len());
    let records = batch::records(&bytes[HEADER_BYTES..], header.records_count);
    for (at, record) in records.enumerate() {
        let record = record.expect("a batch that was built here has its records");
        if keep(at) {
            let timestamp = header.base_timestamp + record.timestamp_delta;
            builder.push_with(timestamp, record.key, record.value, record.headers, &[]);
        }
    }
    builder.build(None).into()
}
