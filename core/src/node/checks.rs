//! Produced batches that have to be unpacked before they are judged.
//!
//! A compacted topic takes no record without a key, and whether a compressed batch has one only the
//! records tell. The driver unpacks them; meanwhile the request is held, and so is every later one
//! of its connection, because what a producer sent first is appended first.

use super::Node;
use super::connections::Caller;
use super::produce::{Refused, refused_bytes};
use crate::batch::{self, Codec, HEADER_BYTES, Header};
use crate::error::ErrorCode;
use crate::limits::{RECORD_ERRORS_MAX, UNPACKED_RATIO_MAX};
use crate::log::Ticket;
use crate::metadata::{Image, Topic, is_internal};
use crate::types::Time;
use crate::wire::produce::{BatchIndexAndErrorMessage, ProduceRequest};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// Places of partitions in a request whose batches are refused.
pub(super) type Verdicts = BTreeMap<(usize, usize), Refused>;

#[derive(Debug, Default)]
pub(super) struct Checks {
    next_id: u64,
    /// In the order of arrival.
    held: VecDeque<Held>,
    tickets: BTreeMap<Ticket, Asked>,
}

#[derive(Debug)]
struct Held {
    id: u64,
    caller: Caller,
    request: ProduceRequest,
    /// Batches that are not unpacked yet.
    outstanding: usize,
    verdicts: Verdicts,
}

/// A batch that is being unpacked.
#[derive(Debug)]
struct Asked {
    held: u64,
    place: (usize, usize),
    topic: String,
    index: i32,
}

impl Checks {
    pub fn into_callers(self) -> impl Iterator<Item = Caller> {
        self.held.into_iter().map(|held| held.caller)
    }

    /// Takes out the first request whose batches are judged and that is its connection's oldest.
    fn take_ready(&mut self) -> Option<Held> {
        let mut blocked = BTreeSet::new();
        let ready = self.held.iter().position(|held| {
            let first = !blocked.contains(&held.caller.conn);
            blocked.insert(held.caller.conn);
            first && held.outstanding == 0
        })?;
        self.held.remove(ready)
    }
}

impl Node {
    pub(super) fn on_produce(&mut self, now: Time, caller: Caller, request: ProduceRequest) {
        let packed = packed_batches(&self.image, caller.version, &request);
        let checks = &mut self.produces.checks;
        let waits = checks.held.iter().any(|held| held.caller.conn == caller.conn);
        if packed.is_empty() && !waits {
            return self.append_produced(now, caller, request, Verdicts::new());
        }
        let id = checks.next_id;
        checks.next_id += 1;
        let outstanding = packed.len();
        for (place, topic, batch) in packed {
            let index = request.topic_data[place.0].partition_data[place.1].index;
            let bytes_max = topic.policy.max_message_bytes.saturating_mul(UNPACKED_RATIO_MAX);
            let ticket = self.log.unpack(batch, bytes_max);
            let asked = Asked { held: id, place, topic: topic.name.clone(), index };
            checks.tickets.insert(ticket, asked);
        }
        let verdicts = Verdicts::new();
        checks.held.push_back(Held { id, caller, request, outstanding, verdicts });
    }

    pub(super) fn on_unpacked(&mut self, now: Time, ticket: Ticket, batch: Option<&Bytes>) {
        let checks = &mut self.produces.checks;
        let Some(asked) = checks.tickets.remove(&ticket) else { return };
        let Some(held) = checks.held.iter_mut().find(|held| held.id == asked.held) else { return };
        held.outstanding -= 1;
        let judged = match batch {
            Some(batch) => judge(&asked, batch),
            None => Err(ErrorCode::CORRUPT_MESSAGE.into()),
        };
        if let Err(refused) = judged {
            held.verdicts.insert(asked.place, refused);
        }
        while let Some(held) = self.produces.checks.take_ready() {
            self.append_produced(now, held.caller, held.request, held.verdicts);
        }
    }
}

/// The batches whose keys are to be looked at and are compressed. What is wrong in another way is
/// refused later, and not unpacked for it.
fn packed_batches<'a>(
    image: &'a Image,
    version: i16,
    request: &ProduceRequest,
) -> Vec<((usize, usize), &'a Topic, Bytes)> {
    let mut packed = Vec::new();
    for (topic_at, data) in request.topic_data.iter().enumerate() {
        let topic = match version {
            ..=12 => image.topic(&data.name),
            _ => image.topic_by_id(data.topic_id),
        };
        let compacted = |topic: &&Topic| topic.policy.is_compacted() && !is_internal(&topic.name);
        let Some(topic) = topic.filter(compacted) else { continue };
        for (at, partition) in data.partition_data.iter().enumerate() {
            let Some(mut bytes) = partition.records.0.as_ref().and_then(|r| r.first().cloned())
            else {
                continue;
            };
            if let Some(Ok((header, batch))) = batch::next_batch(&mut bytes)
                && header.codec() != Some(Codec::None)
                && batch.len() <= topic.policy.max_message_bytes
            {
                packed.push(((topic_at, at), topic, batch));
            }
        }
    }
    packed
}

fn judge(asked: &Asked, batch: &Bytes) -> Result<(), Refused> {
    let header = Header::parse(batch).map_err(refused_bytes)?;
    batch::check_produced(&header, batch).map_err(refused_bytes)?;
    check_keys(&asked.topic, asked.index, &header, batch)
}

/// Refuses records without a key, as Kafka's `LogValidator` does: each is named, and the message
/// names the first three.
pub(super) fn check_keys(
    topic: &str,
    index: i32,
    header: &Header,
    batch: &[u8],
) -> Result<(), Refused> {
    let section = batch.get(HEADER_BYTES..).unwrap_or_default();
    let why = format!(
        "Compacted topic cannot accept message without key in topic partition {topic}-{index}."
    );
    let mut count = 0;
    let mut records = Vec::new();
    for (batch_index, record) in (0..).zip(batch::records(section, header.records_count)) {
        if record.map_err(refused_bytes)?.key.is_some() {
            continue;
        }
        count += 1;
        if records.len() < RECORD_ERRORS_MAX {
            let batch_index_error_message = Some(why.clone());
            records.push(BatchIndexAndErrorMessage { batch_index, batch_index_error_message });
        }
    }
    if count == 0 {
        return Ok(());
    }
    let shown: Vec<String> = records
        .iter()
        .take(3)
        .map(|one| format!("RecordError(batchIndex={}, message='{why}')", one.batch_index))
        .collect();
    let message = format!(
        "One or more records have been rejected due to {count} record errors in total, and only \
         showing the first three errors at most: [{}]",
        shown.join(", ")
    );
    Err(Refused { code: ErrorCode::INVALID_RECORD, message: Some(message), records })
}
