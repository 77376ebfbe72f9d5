//! Where the quorum's ballots, entries and snapshots stand: three internal partitions of the flash
//! log.
//!
//! | partition | a record | which count |
//! |---|---|---|
//! | `BALLOT` | a ballot | the newest |
//! | `SNAPSHOT` | a piece of a snapshot; its key says of which, and where | the newest whole one |
//! | `METADATA` | an entry: its offset is the index less one, its leader epoch the term | all |
//!
//! All are in the lane of the metadata, which is written in the order in which it was asked for, so
//! nothing is durable without what came before. Stores of gateways that had no quorum yet have
//! entries of term 0, each a record of the metadata by itself.

use crate::batch::{self, Header};
use crate::bytes::Malformed;
use crate::log::{Append, AppendError, Log};
use crate::quorum::{Ballot, Content, Directory, Entry, Formation, Members, Persist, Position};
use crate::quorum::{Snapshot, Token};
use crate::types::{LeaderEpoch, Offset, PartitionNumber, Time};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bytes::Bytes;

/// Bytes of a snapshot in one record: far below what a group of the flash log takes.
const PIECE_BYTES: usize = 256 << 10;

/// The partitions in the order in which a start reads them.
pub(in crate::node) const PARTITIONS: [PartitionNumber; 3] =
    [PartitionNumber::BALLOT, PartitionNumber::SNAPSHOT, PartitionNumber::METADATA];

/// What a start has read.
#[derive(Debug, Default)]
pub(in crate::node) struct Found {
    ballot: Option<Ballot>,
    pieces: Option<(Piece, Vec<u8>)>,
    snapshot: Option<Snapshot>,
    first_index: u64,
    entries: Vec<Entry>,
    /// Something was lost to damage, or is of a newer release.
    pub damaged: bool,
}

/// Which part of which snapshot a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Piece {
    position: Position,
    at: u64,
    bytes: u64,
}

impl Found {
    /// A batch of one of the three partitions, in their order.
    pub fn take(&mut self, partition: PartitionNumber, batch: &[u8]) {
        let taken = match partition {
            PartitionNumber::BALLOT => self.take_ballot(batch),
            PartitionNumber::SNAPSHOT => self.take_piece(batch),
            _ => self.take_entries(batch),
        };
        if taken.is_err() {
            self.damaged = true;
            log::error!("a record of the metadata is of a newer release, or of none: left out");
        }
    }

    fn take_ballot(&mut self, batch: &[u8]) -> Result<(), Malformed> {
        for (_, value) in records(batch)? {
            self.ballot = Some(postcard::from_bytes(value).map_err(|_| Malformed)?);
        }
        Ok(())
    }

    fn take_piece(&mut self, batch: &[u8]) -> Result<(), Malformed> {
        for (key, value) in records(batch)? {
            let piece: Piece = postcard::from_bytes(key).map_err(|_| Malformed)?;
            let (_, bytes) = match self.pieces.take() {
                Some((of, bytes))
                    if of.position == piece.position && bytes.len() as u64 == piece.at =>
                {
                    (of, bytes)
                }
                // A piece whose first is missing is the rest of an older snapshot.
                _ if piece.at != 0 => continue,
                _ => (piece, Vec::new()),
            };
            let mut bytes = bytes;
            bytes.extend_from_slice(value);
            if bytes.len() as u64 == piece.bytes {
                self.snapshot = Some(postcard::from_bytes(&bytes).map_err(|_| Malformed)?);
            } else {
                self.pieces = Some((piece, bytes));
            }
        }
        Ok(())
    }

    fn take_entries(&mut self, batch: &[u8]) -> Result<(), Malformed> {
        let header = Header::parse(batch).map_err(|_| Malformed)?;
        let term = u64::try_from(header.partition_leader_epoch).map_err(|_| Malformed)?;
        let first = header.base_offset.0 as u64 + 1;
        for (index, (_, value)) in (first..).zip(records(batch)?) {
            let content = match term {
                0 => Content::Payload(Bytes::copy_from_slice(value)),
                _ => postcard::from_bytes(value).map_err(|_| Malformed)?,
            };
            self.fill(index);
            if self.entries.is_empty() {
                self.first_index = index;
            }
            self.entries.push(Entry { term, content });
        }
        Ok(())
    }

    /// Entries that are lost before this index become entries that say nothing.
    fn fill(&mut self, index: u64) {
        while !self.entries.is_empty() && self.first_index + (self.entries.len() as u64) < index {
            let term = self.entries.last().map_or(0, |entry| entry.term);
            let content = match term {
                0 => Content::Payload(Bytes::new()),
                _ => Content::Leader,
            };
            self.damaged = true;
            self.entries.push(Entry { term, content });
        }
    }

    /// What the quorum starts with. `alone`: this gateway is the only voter, so that what is lost
    /// is lost and what is left counts; else a store that has lost something must not vote.
    pub fn into_store(
        self,
        directory: Directory,
        ends: (Offset, Offset),
        alone: Option<Formation>,
    ) -> crate::quorum::Found {
        let mut found = self;
        let (log_start, log_end) = ends;
        if found.entries.is_empty() {
            found.first_index = log_start.0 as u64 + 1;
        }
        found.fill(log_end.0 as u64 + 1);
        let last_term = found.entries.last().map_or(0, |entry| entry.term);
        let first = found.first_index;
        if let Some(formation) = alone {
            let behind = found.snapshot.as_ref().is_none_or(|it| it.position.index + 1 < first);
            if first > 1 && behind {
                // What an older gateway wrote anew and trimmed, or what is left of a damaged log.
                let position = Position { index: first - 1, term: 0 };
                let members = Members { voters: formation.voters.clone(), ..Members::default() };
                let payload = super::payload(&[]);
                found.snapshot = Some(Snapshot { position, members, payload });
            }
            let term = found.ballot.as_ref().map_or(0, |ballot| ballot.term).max(last_term);
            if found.ballot.as_ref().is_none_or(|ballot| ballot.term < term)
                && (term > 0 || found.snapshot.is_some())
            {
                found.ballot = Some(Ballot { term, vote: None, formation });
            }
        }
        crate::quorum::Found {
            directory,
            ballot: found.ballot,
            snapshot: found.snapshot,
            first_index: first,
            entries: found.entries,
        }
    }
}

/// Key and value.
type Pair<'a> = (&'a [u8], &'a [u8]);

/// Keys and values of a batch of ours.
fn records(batch: &[u8]) -> Result<Vec<Pair<'_>>, Malformed> {
    let header = Header::parse(batch).map_err(|_| Malformed)?;
    let section = batch.get(batch::HEADER_BYTES..).ok_or(Malformed)?;
    let mut pairs = Vec::new();
    for record in batch::records(section, header.records_count) {
        let record = record.map_err(|_| Malformed)?;
        pairs.push((record.key.unwrap_or_default(), record.value.ok_or(Malformed)?));
    }
    Ok(pairs)
}

/// What was asked to be persisted and is not durable yet.
#[derive(Debug, Default)]
pub(in crate::node) struct Ledger {
    waits: VecDeque<Wait>,
    /// What the wall clock said: the timestamp of what is appended.
    pub wall_ms: i64,
}

#[derive(Debug)]
struct Wait {
    token: Token,
    partition: PartitionNumber,
    end: Offset,
    then: Vec<Then>,
}

/// What follows when something is durable.
#[derive(Clone, Copy, Debug)]
enum Then {
    Trim(PartitionNumber, Offset),
}

impl Ledger {
    pub fn persist(
        &mut self,
        now: Time,
        log: &mut Log,
        token: Token,
        what: &Persist,
    ) -> Result<(), AppendError> {
        let (partition, end, then) = match what {
            Persist::Ballot(ballot) => {
                let end = self.append(now, log, PartitionNumber::BALLOT, 0, &[], &bytes(ballot))?;
                // Once it is durable, what came before says nothing.
                let trim = Then::Trim(PartitionNumber::BALLOT, end.plus(-1));
                (PartitionNumber::BALLOT, end, Vec::from([trim]))
            }
            Persist::Entries { from_index, entries } => {
                let partition = PartitionNumber::METADATA;
                let from = Offset(from_index.saturating_sub(1) as i64);
                if log.partition(partition).is_some_and(|view| view.log_end > from) {
                    log.truncate(now, partition, from);
                }
                let mut end = from;
                for Entry { term, content } in entries {
                    let value = match (term, content) {
                        (0, Content::Payload(record)) => record.to_vec(),
                        _ => bytes(content),
                    };
                    end = self.append(now, log, partition, *term, &[], &value)?;
                }
                (partition, end, Vec::new())
            }
            Persist::Snapshot { snapshot, restart } => {
                let (first, end) = self.append_snapshot(now, log, snapshot)?;
                let behind = Offset(snapshot.position.index as i64);
                let mut then = Vec::from([Then::Trim(PartitionNumber::SNAPSHOT, first)]);
                match restart {
                    true => log.restart_at(now, PartitionNumber::METADATA, behind),
                    false => then.push(Then::Trim(PartitionNumber::METADATA, behind)),
                }
                (PartitionNumber::SNAPSHOT, end, then)
            }
        };
        self.waits.push_back(Wait { token, partition, end, then });
        Ok(())
    }

    /// Whether a snapshot is on its way to the flash.
    pub fn takes_snapshot(&self) -> bool {
        self.waits.iter().any(|wait| wait.partition == PartitionNumber::SNAPSHOT)
    }

    fn append_snapshot(
        &mut self,
        now: Time,
        log: &mut Log,
        snapshot: &Snapshot,
    ) -> Result<(Offset, Offset), AppendError> {
        let partition = PartitionNumber::SNAPSHOT;
        let view = log.partition(partition).ok_or(AppendError::UnknownPartition)?;
        let (first, mut end) = (view.log_end, view.log_end);
        let whole = bytes(snapshot);
        for (number, part) in whole.chunks(PIECE_BYTES).enumerate() {
            let at = (number * PIECE_BYTES) as u64;
            let piece = Piece { position: snapshot.position, at, bytes: whole.len() as u64 };
            end = self.append(now, log, partition, 0, &bytes(&piece), part)?;
        }
        Ok((first, end))
    }

    /// Appends one record as a batch; returns the partition's end.
    fn append(
        &self,
        now: Time,
        log: &mut Log,
        partition: PartitionNumber,
        term: u64,
        key: &[u8],
        value: &[u8],
    ) -> Result<Offset, AppendError> {
        let mut builder = batch::Builder::new();
        let key = (!key.is_empty()).then_some(key);
        builder.push(self.wall_ms, key, Some(value), &[]);
        let batch = Bytes::from(builder.build(None));
        let header = Header::parse(&batch).expect("our own batch has a header");
        let view = log.partition(partition).ok_or(AppendError::UnknownPartition)?;
        let base_offset = view.log_end;
        let leader_epoch = LeaderEpoch(i32::try_from(term).unwrap_or(i32::MAX));
        log.append(now, Append { partition, leader_epoch, base_offset, header, batch })?;
        Ok(base_offset.plus(1))
    }

    /// The last token up to which everything is durable, if there is a new one.
    pub fn durable(&mut self, now: Time, log: &mut Log) -> Option<Token> {
        let mut last = None;
        while let Some(wait) = self.waits.front() {
            let view = log.partition(wait.partition)?;
            if view.durable_end < wait.end {
                break;
            }
            let wait = self.waits.pop_front().expect("it was there a moment ago");
            for Then::Trim(partition, start) in wait.then {
                log.trim(now, partition, start);
            }
            last = Some(wait.token);
        }
        last
    }
}

fn bytes(value: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).expect("what is persisted has no type that postcard lacks")
}
