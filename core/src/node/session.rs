//! Fetch sessions (KIP-227): a client names its partitions once, then only what changes.
//!
//! | session epoch of the request | session id | meaning |
//! |---|---|---|
//! | -1 | any | a full fetch without a session; the named session ends |
//! | 0 | any | a full fetch that opens a session; the named session ends |
//! | the next one | of a session | an incremental fetch |
//!
//! An incremental answer holds only partitions with records, errors, or a moved high watermark or
//! log start offset. Partitions that had records go to the end of the session's order, so that busy
//! ones do not starve the others.

use crate::error::ErrorCode;
use crate::limits;
use crate::rng::Rng;
use crate::types::{Nanos, Time, TopicId};
use crate::wire::fetch::{FetchPartition, FetchRequest};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// A session that was not used for this long makes room for a new one, as in Kafka.
const IDLE: Nanos = Nanos(120_000_000_000);

/// A topic as the client named it: by name before Fetch 13, by id from then on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TopicKey {
    Name(String),
    Id(TopicId),
}

/// One partition that is asked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub topic: TopicKey,
    pub partition: i32,
    pub from: i64,
    pub bytes_max: i32,
    pub current_leader_epoch: i32,
    /// High watermark and log start offset that the session's client was told last.
    pub told: Option<(i64, i64)>,
}

impl Wanted {
    fn new(topic: TopicKey, partition: &FetchPartition) -> Wanted {
        Wanted {
            topic,
            partition: partition.partition,
            from: partition.fetch_offset,
            bytes_max: partition.partition_max_bytes,
            current_leader_epoch: partition.current_leader_epoch,
            told: None,
        }
    }
}

/// How a fetch stands to the sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Sessionless,
    /// The answer is whole, and tells the id of the new session.
    Opened(i32),
    Incremental(i32),
}

#[derive(Debug)]
struct Session {
    /// The epoch that the next request must have.
    epoch: i32,
    by_id: bool,
    /// In the order in which they are read.
    partitions: BTreeMap<u64, Wanted>,
    turns: BTreeMap<(TopicKey, i32), u64>,
    next_turn: u64,
    used: Time,
}

#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_id: BTreeMap<i32, Session>,
    partitions: usize,
}

impl Sessions {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// What a request asks for, in the order in which it is to be read.
    pub fn resolve(
        &mut self,
        now: Time,
        rng: &mut Rng,
        version: i16,
        request: &FetchRequest,
    ) -> Result<(Kind, Vec<Wanted>), ErrorCode> {
        let by_id = version >= 13;
        if request.session_epoch <= 0 {
            self.remove(request.session_id);
            let wanted = named(request, by_id);
            if request.session_epoch < 0 || wanted.is_empty() {
                return Ok((Kind::Sessionless, wanted));
            }
            let kind = self.open(now, rng, by_id, &wanted);
            return Ok((kind, wanted));
        }
        let id = request.session_id;
        let session = self.by_id.get_mut(&id).ok_or(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)?;
        if session.epoch != request.session_epoch {
            return Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
        }
        if session.by_id != by_id {
            return Err(ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
        }
        session.epoch = next_epoch(session.epoch);
        session.used = now;
        self.partitions -= session.partitions.len();
        for topic in &request.forgotten_topics_data {
            let key = topic_key(by_id, &topic.topic, topic.topic_id);
            for partition in &topic.partitions {
                session.forget(&(key.clone(), *partition));
            }
        }
        for wanted in named(request, by_id) {
            session.put(wanted);
        }
        self.partitions += session.partitions.len();
        let wanted: Vec<Wanted> = session.partitions.values().cloned().collect();
        if session.partitions.is_empty() {
            self.by_id.remove(&id);
            return Ok((Kind::Sessionless, wanted));
        }
        if self.partitions > limits::FETCH_PARTITIONS_MAX {
            self.remove(id);
            return Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
        }
        Ok((Kind::Incremental(id), wanted))
    }

    /// Remembers what the client is being told, and lets partitions that had records go last.
    pub fn told(&mut self, kind: Kind, told: impl Iterator<Item = (TopicKey, i32, Told)>) {
        let (Kind::Opened(id) | Kind::Incremental(id)) = kind else { return };
        let Some(session) = self.by_id.get_mut(&id) else { return };
        for (topic, partition, told) in told {
            session.told(&(topic, partition), told);
        }
    }

    fn open(&mut self, now: Time, rng: &mut Rng, by_id: bool, wanted: &[Wanted]) -> Kind {
        let full = |sessions: &Sessions| {
            sessions.by_id.len() >= limits::FETCH_SESSIONS_MAX
                || sessions.partitions + wanted.len() > limits::FETCH_PARTITIONS_MAX
        };
        while full(self) {
            let idlest = self.by_id.iter().min_by_key(|(_, session)| session.used);
            match idlest.filter(|(_, session)| session.used + IDLE <= now).map(|(id, _)| *id) {
                Some(id) => self.remove(id),
                None => return Kind::Sessionless,
            }
        }
        let id = loop {
            let id = (rng.next_u64() >> 33) as i32;
            if id != 0 && !self.by_id.contains_key(&id) {
                break id;
            }
        };
        let mut session = Session {
            epoch: 1,
            by_id,
            partitions: BTreeMap::new(),
            turns: BTreeMap::new(),
            next_turn: 0,
            used: now,
        };
        for wanted in wanted {
            session.put(wanted.clone());
        }
        self.partitions += session.partitions.len();
        self.by_id.insert(id, session);
        Kind::Opened(id)
    }

    fn remove(&mut self, id: i32) {
        if let Some(session) = self.by_id.remove(&id) {
            self.partitions -= session.partitions.len();
        }
    }
}

/// What an answer says of one partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub high_watermark: i64,
    pub log_start: i64,
    pub had_records: bool,
}

impl Session {
    fn put(&mut self, wanted: Wanted) {
        let key = (wanted.topic.clone(), wanted.partition);
        match self.turns.get(&key).and_then(|turn| self.partitions.get_mut(turn)) {
            Some(known) => *known = Wanted { told: known.told, ..wanted },
            None => {
                self.turns.insert(key, self.next_turn);
                self.partitions.insert(self.next_turn, wanted);
                self.next_turn += 1;
            }
        }
    }

    fn forget(&mut self, key: &(TopicKey, i32)) {
        if let Some(turn) = self.turns.remove(key) {
            self.partitions.remove(&turn);
        }
    }

    fn told(&mut self, key: &(TopicKey, i32), told: Told) {
        let Some(turn) = self.turns.get_mut(key) else { return };
        let Some(mut wanted) = self.partitions.remove(turn) else { return };
        wanted.told = Some((told.high_watermark, told.log_start));
        if told.had_records {
            *turn = self.next_turn;
            self.next_turn += 1;
        }
        self.partitions.insert(*turn, wanted);
    }
}

/// The partitions that the request itself names.
fn named(request: &FetchRequest, by_id: bool) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for topic in &request.topics {
        let key = topic_key(by_id, &topic.topic, topic.topic_id);
        wanted.extend(topic.partitions.iter().map(|p| Wanted::new(key.clone(), p)));
    }
    wanted
}

fn topic_key(by_id: bool, name: &str, id: TopicId) -> TopicKey {
    if by_id { TopicKey::Id(id) } else { TopicKey::Name(name.into()) }
}

/// Epochs go on with 1 after the largest: 0 and -1 mean something else.
fn next_epoch(epoch: i32) -> i32 {
    epoch.checked_add(1).unwrap_or(1)
}
