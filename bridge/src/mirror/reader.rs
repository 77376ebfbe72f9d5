//! The source's side of a route: what comes next of each partition, ready for the link.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_core::error::ErrorCode;
use weir_core::types::TopicId;

use super::gap::Gap;
use super::rebatch::{Origin, Piece, Rebatcher, Refused, Rules};
use crate::client::{
    Batch, Batches, Client, EARLIEST, FetchFrom, FetchLimits, Fetched, LATEST, Result,
};

/// A partition of the source: topic and index.
pub(super) type Key = (Arc<str>, i32);

/// How long one look for new records takes at most.
const IDLE_WAIT: Duration = Duration::from_secs(2);

/// How long a partition rests that cannot be read, while the others go on.
const BLOCKED_FOR: Duration = Duration::from_secs(30);

/// A batch that goes over the link has at most this many bytes before compression: as much as every
/// topic takes by default, less the header and what compression may add.
const BATCH_BYTES: usize = 1_000_000;

/// What one transaction carries.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub parts: Vec<LoadPart>,
    /// Bytes of the batches that go over the link.
    pub bytes: usize,
}

#[derive(Debug)]
pub(super) struct LoadPart {
    pub key: Key,
    pub pieces: Vec<Piece>,
    /// The source position after it.
    pub next: i64,
    pub records: u64,
    pub loops: u64,
    pub gaps: u64,
}

/// Where a partition is read.
#[derive(Debug)]
pub(super) struct ReadPartition {
    pub key: Key,
    /// Behind what was read; the committed position follows when a load has arrived.
    pub position: i64,
    pub topic_id: TopicId,
    /// Whether the source compacts the topic, so that holes say nothing.
    pub compacted: bool,
    /// The last stable offset when it was last heard.
    pub end: i64,
    pub refused: Refused,
    pub blocked_until: Option<Instant>,
    pub error: Option<String>,
    /// Found before the first read: an earlier topic of the same name.
    pub gap: Option<Gap>,
}

pub(super) struct Reader {
    pub source: Client,
    pub cluster: Arc<str>,
    pub target_cluster: Arc<str>,
    pub pass_through_bytes: usize,
    pub linger: Duration,
    /// In the order in which they are asked; it goes round, so that no partition starves another.
    pub partitions: Vec<ReadPartition>,
}

impl Reader {
    /// Reads on: at most about `bytes` of source batches, waiting for company after the first.
    /// Comes back empty now and then when there is nothing.
    pub async fn next_load(&mut self, bytes: usize) -> Result<Load> {
        let mut open: BTreeMap<Key, Rebatcher> = BTreeMap::new();
        self.take_found_gaps(&mut open);
        let mut read = 0;
        let mut deadline: Option<Instant> = None;
        while read < bytes {
            let wait = match deadline {
                None if open.is_empty() => IDLE_WAIT,
                None => Duration::ZERO,
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            };
            let left = bytes - read;
            let company = if deadline.is_some() { left } else { 1 };
            let taken = self.fetch_into(&mut open, left, company, wait).await?;
            read += taken;
            if taken == 0 && (deadline.is_none() || wait.is_zero()) {
                break;
            }
            deadline.get_or_insert(Instant::now() + self.linger);
        }
        Ok(self.seal(open))
    }

    /// One fetch; returns how many bytes of batches came.
    async fn fetch_into(
        &mut self,
        open: &mut BTreeMap<Key, Rebatcher>,
        bytes: usize,
        company: usize,
        max_wait: Duration,
    ) -> Result<usize> {
        let from = self.wanted(open);
        if from.is_empty() {
            smol::Timer::after(max_wait.min(Duration::from_secs(1))).await;
            return Ok(0);
        }
        let limits = FetchLimits {
            max_wait,
            min_bytes: company.min(i32::MAX as usize) as i32,
            max_bytes: bytes as i32,
            partition_max_bytes: bytes as i32,
        };
        let mut read = 0;
        for fetched in self.source.fetch(&from, limits).await? {
            read += fetched.records.len();
            self.take(open, fetched).await?;
        }
        if !self.partitions.is_empty() {
            self.partitions.rotate_left(1);
        }
        Ok(read)
    }

    fn wanted(&mut self, open: &BTreeMap<Key, Rebatcher>) -> Vec<FetchFrom> {
        let now = Instant::now();
        let free = |p: &&ReadPartition| p.blocked_until.is_none_or(|until| until <= now);
        let partitions = self.partitions.iter().filter(free);
        partitions
            .map(|p| FetchFrom {
                topic: p.key.0.to_string(),
                partition: p.key.1,
                offset: open.get(&p.key).map_or(p.position, |rebatcher| rebatcher.position),
            })
            .collect()
    }

    async fn take(&mut self, open: &mut BTreeMap<Key, Rebatcher>, fetched: Fetched) -> Result<()> {
        let is_it = |p: &ReadPartition| *p.key.0 == *fetched.topic && p.key.1 == fetched.partition;
        let Some(index) = self.partitions.iter().position(is_it) else { return Ok(()) };
        match fetched.error_code {
            ErrorCode::NONE => {}
            ErrorCode::OFFSET_OUT_OF_RANGE => return self.out_of_range(open, index).await,
            // Another leader, or a node that starts: asked again at once it would be asked in a
            // circle.
            code if code.is_retriable() => {
                self.partitions[index].block(code.name(), Duration::from_millis(500));
                return Ok(());
            }
            code => {
                self.partitions[index].block(code.name(), BLOCKED_FOR);
                return Ok(());
            }
        }
        let partition = &mut self.partitions[index];
        partition.end = fetched.last_stable_offset;
        partition.error = None;
        if fetched.records.is_empty() {
            return Ok(());
        }
        let key = partition.key.clone();
        let rebatcher = self.open(open, index);
        for batch in Batches::new(&fetched) {
            match batch {
                Ok(Batch::Data(header, batch)) => rebatcher.batch(&header, &batch),
                Ok(Batch::Skipped(header)) => rebatcher.skip(&header),
                Err(error) => {
                    log::error!("mirror: {error}; {}-{} waits", key.0, key.1);
                    self.partitions[index].block(&error.to_string(), BLOCKED_FOR);
                    break;
                }
            }
        }
        Ok(())
    }

    /// What stands at the position is gone, or was never there.
    async fn out_of_range(
        &mut self,
        open: &mut BTreeMap<Key, Rebatcher>,
        index: usize,
    ) -> Result<()> {
        let (topic, number) = self.partitions[index].key.clone();
        let (start, end) = self.range(&topic, number).await?;
        let named = self.partitions[index].topic_id != TopicId::NONE;
        let rebatcher = self.open(open, index);
        let from = rebatcher.position;
        if from < start {
            rebatcher.gap(&Gap { from, to: start, reason: Gap::TRIMMED.into() });
        } else if from > end && named {
            // The same topic ends earlier: what is missing here is there, and what comes is new.
            rebatcher.gap(&Gap { from: end, to: from, reason: Gap::TRUNCATED.into() });
            rebatcher.position = end;
        } else if from > end {
            // Nobody can tell a shorter log from another topic without ids: twice is better than
            // never.
            rebatcher.gap(&Gap { from: start, to: from, reason: Gap::RECREATED.into() });
            rebatcher.position = start;
        }
        log::warn!("mirror: {topic}-{number}: offset {from} is not in {start} to {end}");
        Ok(())
    }

    /// Log start offset and last stable offset.
    pub async fn range(&self, topic: &Arc<str>, partition: i32) -> Result<(i64, i64)> {
        let ask = |at| (topic.to_string(), partition, at);
        let found = self.source.list_offsets(&[ask(EARLIEST), ask(LATEST)]).await?;
        Ok((found[0].offset, found[1].offset))
    }

    fn take_found_gaps(&mut self, open: &mut BTreeMap<Key, Rebatcher>) {
        for index in 0..self.partitions.len() {
            if let Some(gap) = self.partitions[index].gap.take() {
                let position = self.partitions[index].position;
                let rebatcher = self.open(open, index);
                rebatcher.gap(&gap);
                rebatcher.position = position;
            }
        }
    }

    fn open<'a>(&self, open: &'a mut BTreeMap<Key, Rebatcher>, index: usize) -> &'a mut Rebatcher {
        let partition = &self.partitions[index];
        open.entry(partition.key.clone()).or_insert_with(|| {
            let rules = Rules {
                pass_through_bytes: self.pass_through_bytes,
                batch_bytes: BATCH_BYTES,
                dense: !partition.compacted,
                refused: partition.refused.clone(),
            };
            Rebatcher::new(self.origin(&partition.key), rules, partition.position)
        })
    }

    pub fn origin(&self, key: &Key) -> Origin {
        Origin {
            cluster: self.cluster.clone(),
            target_cluster: self.target_cluster.clone(),
            topic: key.0.clone(),
            partition: key.1,
        }
    }

    /// Packs what was read and moves the positions behind it.
    fn seal(&mut self, open: BTreeMap<Key, Rebatcher>) -> Load {
        let mut load = Load::default();
        for (key, mut rebatcher) in open {
            rebatcher.close();
            let partition = self.partitions.iter_mut().find(|p| p.key == key);
            let Some(partition) = partition else { continue };
            partition.position = rebatcher.position;
            load.bytes += rebatcher.pieces.iter().map(Piece::link_bytes).sum::<usize>();
            load.parts.push(LoadPart {
                key,
                next: rebatcher.position,
                records: rebatcher.records,
                loops: rebatcher.loops,
                gaps: rebatcher.gaps,
                pieces: rebatcher.pieces,
            });
        }
        load
    }
}

impl ReadPartition {
    fn block(&mut self, reason: &str, time: Duration) {
        self.blocked_until = Some(Instant::now() + time);
        self.error = Some(format!("cannot be read: {reason}"));
    }
}

impl Load {
    pub fn records(&self) -> u64 {
        self.parts.iter().map(|part| part.records).sum()
    }
}
