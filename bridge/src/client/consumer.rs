//! Reads topics: as a member of a consumer group that shares them, or some partitions for oneself.
//!
//! Driven by [`Consumer::poll`], which joins, sends the heartbeats that are due, and fetches: there
//! is no task in the background, so whoever stops polling for the session time-out loses its
//! partitions. The classic group protocol with the eager range assignor; the group's leader looks
//! for new partitions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weir_core::error::ErrorCode;
use weir_core::wire::consumer_protocol::{
    self, ConsumerProtocolAssignment, ConsumerProtocolSubscription, TopicPartition,
};
use weir_core::wire::group::JoinGroupResponse;

use super::assignor;
use super::error::{Error, ErrorKind, Result};
use super::fetch::{EARLIEST, FetchFrom, FetchLimits, Fetched, LATEST};
use super::group::{CommittedOffset, GroupTimeouts, Membership};
use super::records::{Batch, Batches, OwnedRecord, decode_records};
use super::{Broker, Client};

#[derive(Clone, Debug)]
pub struct ConsumerSettings {
    pub session_timeout: Duration,
    pub rebalance_timeout: Duration,
    pub heartbeat_interval: Duration,
    /// Where a partition starts that the group has no offset for: [`EARLIEST`] or [`LATEST`].
    pub reset_to: i64,
    /// Makes the membership static (KIP-345).
    pub instance_id: Option<String>,
    pub limits: FetchLimits,
}

impl Default for ConsumerSettings {
    fn default() -> ConsumerSettings {
        ConsumerSettings {
            session_timeout: Duration::from_secs(10),
            rebalance_timeout: Duration::from_secs(30),
            heartbeat_interval: Duration::from_secs(2),
            reset_to: LATEST,
            instance_id: None,
            limits: FetchLimits::default(),
        }
    }
}

/// Records of one partition, in order.
#[derive(Clone, Debug)]
pub struct Polled {
    pub topic: String,
    pub partition: i32,
    pub high_watermark: i64,
    pub records: Vec<OwnedRecord>,
}

pub struct Consumer {
    client: Client,
    settings: ConsumerSettings,
    group: Option<Group>,
    /// The next offset of each partition that is read, in the order in which they are asked for.
    positions: Vec<FetchFrom>,
}

struct Group {
    topics: Vec<String>,
    member: Membership,
    joined: bool,
    heartbeat_due: Instant,
    /// The partition counts that were divided, if this member is the leader, and when to look
    /// again.
    divided: Option<(BTreeMap<String, i32>, Instant)>,
}

/// How often a group's leader looks whether its topics have more partitions.
const TOPICS_INTERVAL: Duration = Duration::from_secs(10);

impl Consumer {
    /// A member of a group. It joins when it is first polled.
    pub fn in_group(
        client: Client,
        group: &str,
        topics: Vec<String>,
        settings: ConsumerSettings,
    ) -> Consumer {
        let mut member = Membership::outside(group);
        member.instance_id = settings.instance_id.clone();
        let group =
            Group { topics, member, joined: false, heartbeat_due: Instant::now(), divided: None };
        Consumer { client, settings, group: Some(group), positions: Vec::new() }
    }

    /// A reader of its own, from given offsets on.
    pub fn of_partitions(
        client: Client,
        from: Vec<FetchFrom>,
        settings: ConsumerSettings,
    ) -> Consumer {
        Consumer { client, settings, group: None, positions: from }
    }

    /// What is read at this moment, and the next offset of each.
    pub fn positions(&self) -> &[FetchFrom] {
        &self.positions
    }

    /// What has come since the last call; waits at most the fetch limits' `max_wait`. Nothing may
    /// also mean that the group was divided anew.
    pub async fn poll(&mut self) -> Result<Vec<Polled>> {
        if let Some(group) = &self.group
            && !group.joined
        {
            self.join().await?;
        }
        if self.group.is_some() && !self.stay().await? {
            return Ok(Vec::new());
        }
        if self.positions.is_empty() {
            smol::Timer::after(self.settings.limits.max_wait.min(Duration::from_millis(500))).await;
            return Ok(Vec::new());
        }
        let mut polled = Vec::new();
        let fetched = match self.client.fetch(&self.positions, self.settings.limits).await {
            Ok(fetched) => fetched,
            Err(error) if error.is_retriable() => {
                log::debug!("trying again: {error}");
                smol::Timer::after(Duration::from_millis(200)).await;
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        for fetched in fetched {
            if let Some(records) = self.take(fetched).await? {
                polled.push(records);
            }
        }
        // The one that was asked first is asked last, so that a busy partition starves nobody.
        if !self.positions.is_empty() {
            self.positions.rotate_left(1);
        }
        Ok(polled)
    }

    /// Commits what was polled.
    pub async fn commit(&mut self) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        let offsets: Vec<CommittedOffset> = self
            .positions
            .iter()
            .map(|at| CommittedOffset {
                topic: at.topic.clone(),
                partition: at.partition,
                offset: at.offset,
                leader_epoch: -1,
                metadata: String::new(),
            })
            .collect();
        if offsets.is_empty() {
            return Ok(());
        }
        self.client.commit_as(&group.member, &offsets).await
    }

    /// Leaves the group, so that the others need not wait for the session time-out. Commits
    /// nothing.
    pub async fn close(self) -> Result<()> {
        match self.group {
            Some(group) if group.joined && group.member.instance_id.is_none() => {
                self.client.leave(&group.member).await
            }
            _ => Ok(()),
        }
    }

    async fn take(&mut self, fetched: Fetched) -> Result<Option<Polled>> {
        let (topic, partition) = (fetched.topic.clone(), fetched.partition);
        let ours = |at: &&mut FetchFrom| at.topic == topic && at.partition == partition;
        let Some(position) = self.positions.iter_mut().find(ours) else { return Ok(None) };
        match fetched.error_code {
            ErrorCode::NONE => {}
            ErrorCode::OFFSET_OUT_OF_RANGE => {
                let reset = if position.offset < fetched.log_start_offset.max(0) {
                    EARLIEST
                } else {
                    self.settings.reset_to
                };
                let found = self.client.list_offsets(&[(topic.clone(), partition, reset)]).await?;
                log::warn!("{topic}-{partition}: offset {} is out of range", position.offset);
                position.offset = found[0].offset;
                return Ok(None);
            }
            code if code.is_retriable() => {
                smol::Timer::after(Duration::from_millis(100)).await;
                return Ok(None);
            }
            code => {
                let kind = ErrorKind::Code(code);
                return Err(Error::new(kind, format!("fetching {topic}-{partition}")));
            }
        }
        let mut records = Vec::new();
        for batch in Batches::new(&fetched) {
            let header = match batch? {
                Batch::Data(header, batch) => {
                    records.extend(decode_records(&header, &batch, position.offset)?);
                    header
                }
                Batch::Skipped(header) => header,
            };
            position.offset = position.offset.max(header.last_offset().0 + 1);
        }
        let high_watermark = fetched.high_watermark;
        Ok((!records.is_empty()).then_some(Polled { topic, partition, high_watermark, records }))
    }

    /// Sends the heartbeat that is due and looks for new partitions. False when the group is being
    /// divided anew: the positions are committed then, and the next poll joins.
    async fn stay(&mut self) -> Result<bool> {
        let Some(group) = &mut self.group else { return Ok(true) };
        let grown = match &mut group.divided {
            Some((counts, due)) if Instant::now() >= *due => {
                *due = Instant::now() + TOPICS_INTERVAL;
                partition_counts(&self.client, &counts_topics(counts, &group.topics)).await?
                    != *counts
            }
            _ => false,
        };
        if !grown {
            if Instant::now() < group.heartbeat_due {
                return Ok(true);
            }
            group.heartbeat_due = Instant::now() + self.settings.heartbeat_interval;
            match self.client.heartbeat(&group.member).await {
                Ok(()) => return Ok(true),
                Err(error) if error.is_retriable() => return Ok(true),
                Err(error) => forgive(&mut group.member, error)?,
            }
        }
        group.joined = false;
        if let Err(error) = self.commit().await {
            log::debug!("the group moved on before the offsets were committed: {error}");
        }
        self.positions.clear();
        Ok(false)
    }

    async fn join(&mut self) -> Result<()> {
        let client = self.client.clone();
        let Some(group) = &mut self.group else { return Ok(()) };
        let to = group.member.group.clone();
        let settings = &self.settings;
        let assigned = client
            .retry(Broker::Group(&to), async || {
                loop {
                    match join_once(&client, group, settings).await {
                        Ok(assigned) => return Ok(assigned),
                        Err(error) => forgive(&mut group.member, error)?,
                    }
                }
            })
            .await?;
        group.joined = true;
        group.heartbeat_due = Instant::now() + settings.heartbeat_interval;
        let committed = client.committed(&to, Some(&assigned), true).await?;
        let mut positions = Vec::new();
        for (topic, partition) in assigned {
            let found = committed.iter().find(|c| c.topic == topic && c.partition == partition);
            let offset = match found {
                Some(committed) => committed.offset,
                None => {
                    let wanted = [(topic.clone(), partition, settings.reset_to)];
                    client.list_offsets(&wanted).await?[0].offset
                }
            };
            positions.push(FetchFrom { topic, partition, offset });
        }
        self.positions = positions;
        Ok(())
    }
}

/// Joins and synchronises once; gives the partitions of this member.
async fn join_once(
    client: &Client,
    group: &mut Group,
    settings: &ConsumerSettings,
) -> Result<Vec<(String, i32)>> {
    let timeouts =
        GroupTimeouts { session: settings.session_timeout, rebalance: settings.rebalance_timeout };
    let subscription = consumer_protocol::encode(
        &ConsumerProtocolSubscription { topics: group.topics.clone(), ..Default::default() },
        1,
    );
    let mut answer =
        client.join(&group.member, timeouts, assignor::NAME, subscription.clone()).await?;
    if answer.error_code == ErrorCode::MEMBER_ID_REQUIRED {
        group.member.member_id = answer.member_id;
        answer = client.join(&group.member, timeouts, assignor::NAME, subscription).await?;
        Error::check(answer.error_code, || format!("joining group {}", group.member.group))?;
    }
    group.member.member_id = answer.member_id.clone();
    group.member.generation_id = answer.generation_id;
    group.divided = None;
    let mut assignments = Vec::new();
    if answer.leader == answer.member_id && !answer.skip_assignment {
        let (counts, divided) = divide(client, &answer).await?;
        assignments = divided;
        group.divided = Some((counts, Instant::now() + TOPICS_INTERVAL));
    }
    let assignment = client.sync(&group.member, timeouts, assignor::NAME, assignments).await?;
    if assignment.is_empty() {
        return Ok(Vec::new());
    }
    let assignment: ConsumerProtocolAssignment = consumer_protocol::decode(assignment)
        .map_err(|_| Error::new(ErrorKind::Malformed, "the group's assignment"))?;
    let partitions = assignment.assigned_partitions.into_iter();
    Ok(partitions
        .flat_map(|t| t.partitions.into_iter().map(move |p| (t.topic.clone(), p)))
        .collect())
}

/// What the leader of a group does: divides the partitions over the members.
async fn divide(
    client: &Client,
    answer: &JoinGroupResponse,
) -> Result<(BTreeMap<String, i32>, Vec<(String, bytes::Bytes)>)> {
    let mut subscriptions = BTreeMap::new();
    for member in &answer.members {
        let subscription: ConsumerProtocolSubscription =
            consumer_protocol::decode(member.metadata.clone()).map_err(|_| {
                let id = &member.member_id;
                Error::new(ErrorKind::Malformed, format!("the subscription of member {id}"))
            })?;
        subscriptions.insert(member.member_id.clone(), subscription.topics);
    }
    let mut topics: Vec<String> = subscriptions.values().flatten().cloned().collect();
    topics.sort();
    topics.dedup();
    let counts = partition_counts(client, &topics).await?;
    let assignment = assignor::range(&subscriptions, &counts);
    let encoded = assignment.into_iter().map(|(member, topics)| {
        let partitions = topics.into_iter();
        let assignment = ConsumerProtocolAssignment {
            assigned_partitions: partitions
                .map(|(topic, partitions)| TopicPartition { topic, partitions })
                .collect(),
            user_data: None,
        };
        (member, consumer_protocol::encode(&assignment, 1))
    });
    Ok((counts, encoded.collect()))
}

/// How many partitions topics have; one that does not exist has none yet.
async fn partition_counts(client: &Client, topics: &[String]) -> Result<BTreeMap<String, i32>> {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let cluster = client.cluster(Some(&names)).await?;
    let count = |topic: &super::Topic| topic.partitions.len() as i32;
    Ok(cluster.topics.iter().map(|topic| (topic.name.clone(), count(topic))).collect())
}

fn counts_topics(counts: &BTreeMap<String, i32>, subscribed: &[String]) -> Vec<String> {
    let mut topics: Vec<String> = counts.keys().chain(subscribed).cloned().collect();
    topics.sort();
    topics.dedup();
    topics
}

/// Errors after which a member simply joins again; all others are returned.
fn forgive(member: &mut Membership, error: Error) -> Result<()> {
    match error.code() {
        Some(ErrorCode::REBALANCE_IN_PROGRESS) => Ok(()),
        Some(ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::ILLEGAL_GENERATION) => {
            member.member_id.clear();
            member.generation_id = -1;
            Ok(())
        }
        _ => Err(error),
    }
}
