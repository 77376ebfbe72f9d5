//! Sessions as they were when the gateway stopped or was cut off: read back from their topic, and
//! from the ends of the partitions that they were publishing to. See [`super::session`].

use super::hub::Hub;
use super::session::{self, EXCHANGE_HEADER, Session, SessionRecord, parse_exchange};
use crate::client::{
    Batch, Batches, Client, EARLIEST, Error, FetchFrom, FetchLimits, Fetched, OwnedRecord,
    decode_records,
};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::{Duration, Instant};
use weir_core::error::ErrorCode;
use weir_core::types::NodeId;

/// How long to wait for followers to have what was sent before the start.
const REPLICATED_WITHIN: Duration = Duration::from_secs(30);

/// What was found: sessions, and publishes of theirs that still wait for a PUBREL.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    sessions: HashMap<String, SessionRecord>,
    open: HashMap<String, Vec<(u16, u64)>>,
    /// Records in the sessions' topic.
    records_count: usize,
}

/// Reads everything back; tries until it can.
pub(crate) async fn restore(client: &Client, node: NodeId) -> Restored {
    loop {
        match restore_once(client, &session::topic(node)).await {
            Ok(restored) => return restored,
            Err(error) => log::warn!("mqtt: reading the sessions: {error}; trying again"),
        }
        smol::Timer::after(Duration::from_millis(100)).await;
    }
}

async fn restore_once(client: &Client, topic: &str) -> Result<Restored, Error> {
    let mut restored = Restored::default();
    read(client, topic, 0, None, |record| restored.session(&record)).await?;
    for ((topic, index), offset) in restored.positions() {
        read(client, &topic, index, Some(offset), |record| restored.publish(&record)).await?;
    }
    Ok(restored)
}

/// Reads a partition from an offset (or its start) to its end as of now. A topic that is not there
/// has no records.
///
/// Its end is that of the leader's log: what was sent before this gateway stopped may be there and
/// not with all followers yet. Until it is, or its leader is another one who lacks it, it is not
/// given to readers, and is waited for.
async fn read(
    client: &Client,
    topic: &str,
    index: i32,
    offset: Option<i64>,
    mut each: impl FnMut(OwnedRecord),
) -> Result<(), Error> {
    match client.topic(topic).await {
        Err(error) if error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => return Ok(()),
        Err(error) => return Err(error),
        Ok(topic) if topic.partitions.len() <= index as usize => return Ok(()),
        Ok(_) => {}
    }
    let start = client.list_offsets(&[(topic.into(), index, EARLIEST)]).await?;
    let start = start.first().map_or(0, |start| start.offset.max(0));
    let mut offset = offset.unwrap_or(start).max(start);
    let mut end = client.log_end(topic, index).await?;
    let patience = Instant::now() + REPLICATED_WITHIN;
    while offset < end {
        let from = FetchFrom { topic: topic.into(), partition: index, offset };
        let limits = FetchLimits { max_wait: Duration::ZERO, min_bytes: 0, ..Default::default() };
        let fetched = client.fetch(&[from], limits).await?;
        let Some(part) = fetched.into_iter().next() else { return Ok(()) };
        if part.error_code == ErrorCode::OFFSET_OUT_OF_RANGE {
            return Ok(());
        }
        Error::check(part.error_code, || format!("reading {topic}-{index} at {offset}"))?;
        let next = walk(&part, offset, &mut each);
        if next == offset && offset < part.high_watermark {
            log::error!(
                "mqtt: {topic}-{index} cannot be read at {offset}; what follows is skipped"
            );
            return Ok(());
        }
        if next == offset {
            if Instant::now() > patience {
                log::warn!(
                    "mqtt: {topic}-{index} is not replicated from {offset} to {end}: QoS 2 \
                     publishes there may be taken twice"
                );
                return Ok(());
            }
            smol::Timer::after(Duration::from_millis(20)).await;
            end = end.min(client.log_end(topic, index).await?);
        }
        offset = next;
    }
    Ok(())
}

/// Gives the records of an answer to `each`; returns the offset after them.
fn walk(part: &Fetched, offset: i64, each: &mut impl FnMut(OwnedRecord)) -> i64 {
    let mut next = offset;
    for batch in Batches::new(part) {
        match batch {
            Ok(Batch::Data(header, bytes)) => {
                match decode_records(&header, &bytes, offset) {
                    Ok(records) => records.into_iter().for_each(&mut *each),
                    // Nobody but the bridge writes what is looked for, so it can be passed over.
                    Err(error) => log::warn!("mqtt: {error}"),
                }
                next = header.last_offset().0 + 1;
            }
            Ok(Batch::Skipped(header)) => next = header.last_offset().0 + 1,
            Err(error) => {
                log::warn!("mqtt: {error}");
                break;
            }
        }
    }
    next.max(offset)
}

impl Restored {
    pub(super) fn session(&mut self, record: &OwnedRecord) {
        self.records_count += 1;
        let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
        let Some(client_id) = key else { return };
        match record.value.as_deref().map(SessionRecord::decode) {
            None => {
                self.sessions.remove(client_id);
            }
            Some(Some(session)) => {
                self.sessions.insert(client_id.into(), session);
            }
            Some(None) => log::error!("mqtt: the session of \"{client_id}\" cannot be read"),
        }
    }

    /// From which offset on each partition has to be looked at.
    pub(super) fn positions(&self) -> BTreeMap<(String, i32), i64> {
        let mut least = BTreeMap::new();
        for (topic, index, offset) in self.sessions.values().flat_map(|s| &s.positions) {
            let known = least.entry((topic.clone(), *index)).or_insert(*offset);
            *known = (*known).min(*offset);
        }
        least
    }

    pub(super) fn publish(&mut self, record: &OwnedRecord) {
        let header = |name: &str| {
            let found = record.headers.iter().find(|(key, _)| key == name);
            found.and_then(|(_, value)| value.as_deref())
        };
        let Some((id, sequence, identifier)) = header(EXCHANGE_HEADER).and_then(parse_exchange)
        else {
            return;
        };
        let client_id = header("mqtt.client_id").and_then(|id| std::str::from_utf8(id).ok());
        let Some(client_id) = client_id else { return };
        let Some(session) = self.sessions.get(client_id) else { return };
        if session.id == id && session.is_open(identifier, sequence) {
            let open = self.open.entry(client_id.into()).or_default();
            open.retain(|(other, _)| *other != identifier);
            open.push((identifier, sequence));
        }
    }
}

impl Hub {
    /// Takes up the sessions again. Those that were connected get records without positions, so
    /// that a later start need not look at the same place.
    pub fn restored(&mut self, restored: Restored, now: Instant) {
        let Restored { sessions, open, records_count } = restored;
        let count = sessions.len();
        for (client_id, record) in sessions {
            let found = open.get(&client_id).map_or(&[][..], Vec::as_slice);
            let client_id: Rc<str> = client_id.into();
            let session = Session::restored(client_id.clone(), &record, found, now);
            let key = self.sessions.insert(session);
            self.by_client.insert(client_id, key);
            self.stored_count += 1;
            if !record.positions.is_empty() {
                self.write_session(Some(key));
            }
        }
        self.written_count = records_count;
        if count > 0 {
            let open: usize = open.values().map(Vec::len).sum();
            log::info!("mqtt: {count} sessions, {open} QoS 2 publishes found after the last start");
        }
    }
}
