//! One life of a route: from fencing and reading the positions back to the first error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weir_core::error::ErrorCode;
use weir_core::types::TopicId;

use super::gap::Gap;
use super::position::Metadata;
use super::reader::{Key, Load, ReadPartition, Reader};
use super::recover::last_mirrored;
use super::route::Running;
use super::settings::{StartAt, TRANSACTION_BYTES_MIN};
use super::status::{PartitionStatus, State};
use super::writer::{Failure, Writer, Written};
use crate::client::{
    Bootstrap, Client, Error, ErrorKind, NewTopic, Settings, Topic, TransactionalId,
};

/// How often the source is asked for new topics and partitions.
const DISCOVER_INTERVAL: Duration = Duration::from_secs(10);

/// How often positions that do not move are committed anew. Kafka forgets them after seven days.
const REFRESH_INTERVAL: Duration = Duration::from_secs(12 * 3600);

/// How long the target lets a transaction stay open. Readers of the target wait as long after a
/// gateway has died; one that comes back ends it at once.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// A load that takes less may be followed by a larger one; one that takes more is followed by a
/// smaller.
const QUICK: Duration = Duration::from_secs(2);
const SLOW: Duration = Duration::from_secs(8);

/// Why a session ended.
pub(super) enum Ended {
    /// Somebody asked for a pause, or the source's topics are other ones now.
    Again,
    /// Another gateway of the site is to run the route.
    NotFirst,
    Source(Error),
    Target(Failure),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Ended {
        Ended::Target(failure)
    }
}

pub(super) struct Session<'a> {
    route: &'a mut Running,
    reader: Reader,
    writer: Writer,
    /// What the group had committed, by target topic and partition, until a partition takes it.
    committed: BTreeMap<(String, i32), (i64, String)>,
    topics_failed: BTreeMap<String, String>,
    discover_due: Instant,
    refresh_due: Instant,
}

impl<'a> Session<'a> {
    /// Connects to both sides, fences and reads back.
    pub async fn start(route: &'a mut Running) -> Result<Session<'a>, Ended> {
        let source_cluster = route.source.cluster(Some(&[])).await.map_err(Ended::Source)?;
        route.source_seen = true;
        if !source_cluster.is_first(&route.source.settings().bootstrap) {
            return Err(Ended::NotFirst);
        }
        let target = Client::new(target_settings(route));
        let failed = |error| Ended::Target(Failure::from(error));
        let target_cluster = target.cluster(Some(&[])).await.map_err(failed)?.cluster_id;
        let cluster = source_cluster.cluster_id.unwrap_or_else(|| "unknown".into());
        let id = format!("weir.{cluster}.{}", route.settings.name);
        let transactional = TransactionalId { id: id.clone(), timeout: TRANSACTION_TIMEOUT };
        let transactional = route.settings.transactional.then_some(&transactional);
        let started = Writer::start(target, transactional, id.clone()).await;
        let (writer, committed) = started.map_err(failed)?;
        route.handle.update(|status| {
            status.target_cluster = target_cluster.clone();
            status.transactional_id = id;
        });
        let settings = &route.settings;
        let keeps_names = settings.prefix.is_empty();
        let reader = Reader {
            source: route.source.clone(),
            cluster: cluster.into(),
            target_cluster: target_cluster.unwrap_or_default().into(),
            pass_through_bytes: if keeps_names { 0 } else { settings.pass_through_bytes },
            linger: Duration::from_millis(settings.linger_ms),
            partitions: Vec::new(),
        };
        let committed = committed.into_iter();
        Ok(Session {
            route,
            reader,
            writer,
            committed: committed
                .map(|c| ((c.topic, c.partition), (c.offset, c.metadata)))
                .collect(),
            topics_failed: BTreeMap::new(),
            discover_due: Instant::now(),
            refresh_due: Instant::now(),
        })
    }

    /// Streams until something fails or the route is paused.
    pub async fn run(&mut self) -> Ended {
        match self.stream().await {
            Ok(()) => Ended::Again,
            Err(ended) => {
                if let Ended::Target(failure) = &ended
                    && matches!(failure.error.kind, ErrorKind::Code(_))
                {
                    self.writer.abort().await;
                }
                ended
            }
        }
    }

    async fn stream(&mut self) -> Result<(), Ended> {
        self.discover().await?;
        let mut load = self.reader.next_load(self.load_bytes()).await.map_err(Ended::Source)?;
        loop {
            if Instant::now() >= self.discover_due && !self.discover().await? {
                return Ok(());
            }
            self.publish();
            let all = Instant::now() >= self.refresh_due && !self.writer.written.is_empty();
            if !self.turn(&load).await {
                return Ok(());
            }
            if load.parts.is_empty() && !all {
                self.route.turns.set_waiting(self.route.turn, false);
                let next = self.reader.next_load(self.load_bytes()).await;
                load = next.map_err(Ended::Source)?;
                continue;
            }
            let bytes = self.load_bytes();
            let start = Instant::now();
            let (reader, writer, route) = (&mut self.reader, &mut self.writer, &mut *self.route);
            let commit = async {
                route.stopping.committing.fetch_add(1, Ordering::Relaxed);
                let committed = writer.commit(&load, all).await;
                route.stopping.committing.fetch_sub(1, Ordering::Relaxed);
                if committed.is_ok() {
                    route.committed(&load, writer, start.elapsed());
                }
                committed
            };
            // The next load is read while this one is on its way.
            let (committed, next) =
                futures_lite::future::zip(commit, reader.next_load(bytes)).await;
            committed?;
            if all {
                self.refresh_due = Instant::now() + REFRESH_INTERVAL;
            }
            load = next.map_err(Ended::Source)?;
        }
    }

    /// Waits for the budget and for more important routes; false when the route was paused.
    async fn turn(&mut self, load: &Load) -> bool {
        let route = &mut *self.route;
        if !load.parts.is_empty() {
            route.turns.set_waiting(route.turn, true);
        }
        loop {
            if route.handle.paused() {
                return false;
            }
            if route.stopping.wanted.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            let now = Instant::now();
            let wait = route.bucket.wait(now);
            if wait.is_zero() && route.turns.may_send(route.turn, now) {
                route.bucket.spend(load.bytes);
                route.turns.sent(route.turn, load.bytes);
                return true;
            }
            let wait = wait.clamp(Duration::from_millis(20), Duration::from_millis(500));
            smol::Timer::after(wait).await;
        }
    }

    fn load_bytes(&self) -> usize {
        let budget = match self.route.settings.bytes_per_second {
            0 => usize::MAX,
            bytes => usize::try_from(bytes).unwrap_or(usize::MAX).saturating_mul(2),
        };
        self.route.load_bytes.min(budget).max(TRANSACTION_BYTES_MIN)
    }

    /// Looks for topics and partitions of the source that are to be mirrored, and makes sure that
    /// the target has them. False when a topic is another one than before: then the session has to
    /// start anew.
    async fn discover(&mut self) -> Result<bool, Ended> {
        self.discover_due = Instant::now() + DISCOVER_INTERVAL;
        let cluster = self.reader.source.cluster(None).await.map_err(Ended::Source)?;
        if !cluster.is_first(&self.route.source.settings().bootstrap) {
            return Ok(false);
        }
        let filter = &self.route.filter;
        let wanted =
            |t: &Topic| filter.matches(&t.name) && !t.is_internal && !t.error_code.is_error();
        let topics: Vec<Topic> = cluster.topics.into_iter().filter(wanted).collect();
        for partition in &self.reader.partitions {
            let topic = topics.iter().find(|topic| *topic.name == *partition.key.0);
            if topic.is_none_or(|topic| topic.id != partition.topic_id) {
                return Ok(false);
            }
        }
        let known = |name: &str, index: i32| {
            self.reader.partitions.iter().any(|p| *p.key.0 == *name && p.key.1 == index)
        };
        let grown: Vec<Topic> = topics
            .into_iter()
            .filter(|t| t.partitions.iter().any(|p| !known(&t.name, p.index)))
            .collect();
        for topic in grown {
            match self.ensure_target(&topic).await {
                Ok(existed) => {
                    self.topics_failed.remove(&topic.name);
                    self.add(&topic, existed).await?;
                }
                // One topic that the target refuses does not stop the others.
                Err(error) if matches!(error.kind, ErrorKind::Code(_)) => {
                    log::warn!("mirror {}: {error}", self.route.settings.name);
                    self.topics_failed.insert(topic.name.clone(), error.to_string());
                }
                Err(error) => return Err(Ended::Target(error.into())),
            }
        }
        Ok(true)
    }

    /// Creates the topic on the target, or gives it as many partitions as the source's has. Returns
    /// whether it was there before.
    async fn ensure_target(&self, topic: &Topic) -> Result<bool, Error> {
        let name = format!("{}{}", self.route.settings.prefix, topic.name);
        let count = topic.partitions.len() as i32;
        let target = &self.writer.target;
        match target.topic(&name).await {
            Ok(found) if found.partitions.len() < topic.partitions.len() => {
                target.create_partitions(&name, count).await?;
                return Ok(true);
            }
            Ok(_) => return Ok(true),
            Err(error) if error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => {}
            Err(error) => return Err(error),
        }
        let new = NewTopic {
            name: name.clone(),
            partitions: count,
            replication_factor: self.route.settings.replication_factor,
            configs: Vec::new(),
        };
        match target.create_topic(&new).await {
            Err(error) if error.code() == Some(ErrorCode::TOPIC_ALREADY_EXISTS) => {}
            other => other?,
        }
        log::info!("mirror {}: created topic {name}", self.route.settings.name);
        Ok(false)
    }

    /// Takes a topic's partitions in, each at its committed position or where the route starts.
    async fn add(&mut self, topic: &Topic, existed: bool) -> Result<(), Ended> {
        let name: Arc<str> = topic.name.as_str().into();
        let target_topic = format!("{}{}", self.route.settings.prefix, topic.name);
        let policy = self.reader.source.topic_config(&topic.name, "cleanup.policy").await;
        // A source that does not say is believed to compact: no false alarms.
        let policy = policy.ok().flatten();
        let compacted = policy.is_none_or(|policy| policy.contains("compact"));
        for partition in &topic.partitions {
            let key: Key = (name.clone(), partition.index);
            if self.writer.written.contains_key(&key) {
                continue;
            }
            let (start, end) =
                self.reader.range(&name, partition.index).await.map_err(Ended::Source)?;
            let mut gap = None;
            let mut written = Written::new(target_topic.clone(), start, topic.id);
            match self.committed.remove(&(target_topic.clone(), partition.index)) {
                None => {
                    let found = match existed {
                        true => self.recover(&key, &target_topic).await?,
                        false => None,
                    };
                    let latest = self.route.settings.start == StartAt::Latest;
                    written.position = found.unwrap_or(if latest { end } else { start });
                }
                Some((position, text)) => {
                    let metadata = Metadata::decode(&text).unwrap_or_default();
                    if is_another(metadata.topic_id, topic.id) {
                        let reason = Gap::RECREATED.into();
                        gap = Some(Gap { from: position, to: position, reason });
                    } else {
                        written.position = position;
                        written.metadata.pairs = metadata.pairs;
                    }
                }
            }
            self.reader.partitions.push(ReadPartition {
                key: key.clone(),
                position: written.position,
                topic_id: topic.id,
                compacted,
                end,
                refused: self.route.refused.get(&key).cloned().unwrap_or_default(),
                blocked_until: None,
                error: None,
                gap,
            });
            self.writer.written.insert(key, written);
        }
        Ok(())
    }

    async fn recover(&self, key: &Key, target_topic: &str) -> Result<Option<i64>, Ended> {
        let origin = self.reader.origin(key);
        let found = last_mirrored(&self.writer.target, target_topic, &origin).await;
        found.map_err(|error| Ended::Target(error.into()))
    }

    /// Shows every partition as it is now.
    fn publish(&mut self) {
        let (reader, writer) = (&self.reader, &self.writer);
        let failed = self.topics_failed.values().next().cloned();
        self.route.measure();
        let gaps = &self.route.gaps;
        self.route.handle.update(|status| {
            status.state = State::Streaming;
            if failed.is_some() {
                status.last_error = failed;
            }
            let rows = writer.written.iter().filter_map(|(key, written)| {
                let read = reader.partitions.iter().find(|p| p.key == *key)?;
                Some(PartitionStatus {
                    topic: key.0.to_string(),
                    partition: key.1,
                    target_topic: written.target_topic.clone(),
                    source_position: written.position,
                    source_end: read.end.max(written.position),
                    lag: (read.end - written.position).max(0),
                    target_offset: written.metadata.target_next(),
                    gaps: gaps.get(key).copied().unwrap_or(0),
                    last_error: read.error.clone(),
                })
            });
            status.partitions = rows.collect();
            status.lag = status.partitions.iter().map(|p| p.lag).sum();
        });
    }
}

/// Whether two topic ids are known and differ.
fn is_another(before: TopicId, now: TopicId) -> bool {
    before != TopicId::NONE && now != TopicId::NONE && before != now
}

fn target_settings(route: &Running) -> Settings {
    let bootstrap = Bootstrap::Tcp(route.settings.bootstrap.clone());
    let request_timeout = Duration::from_millis(route.settings.request_timeout_ms);
    Settings {
        connect_timeout: request_timeout.min(Duration::from_secs(10)),
        request_timeout,
        retry_for: request_timeout.min(Duration::from_secs(10)),
        // Short: an idle link through a router that forgets connections would cost a time-out.
        idle_max: Duration::from_secs(60),
        ..Settings::new(bootstrap, &format!("weir-mirror-{}", route.settings.name))
    }
}

/// What the next load may have after one that took so long.
pub(super) fn next_load_bytes(bytes: usize, took: Duration, max: usize) -> usize {
    if took < QUICK {
        (bytes * 2).min(max)
    } else if took > SLOW {
        (bytes / 2).max(TRANSACTION_BYTES_MIN)
    } else {
        bytes
    }
}
