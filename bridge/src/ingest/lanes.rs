//! The ways to those who lead partitions: one lane for each gateway, and who is asked when a leader
//! is lost.
//!
//! | event | then |
//! |---|---|
//! | an answer says that another one leads, or a lane's connection ends | leaders are sought |
//! | another leader is found, nothing is in flight | the partition takes that lane, at once |
//! | another leader is found, batches are in flight | the lane is deserted: hang up |
//! | the same leader is found, or none | sent again after the pause, then sought again |

use super::partition::Partition;
use super::{Ingest, TopicNumber};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use weir_core::limits::REQUESTS_IN_FLIGHT_MAX;
use weir_core::types::NodeId;

/// The lane to this gateway.
pub(crate) const LOCAL: usize = 0;

/// An answer that takes longer makes one look whether somebody else leads by now: a machine that
/// lost its power does not say so.
const SLOW: Duration = Duration::from_secs(1);

/// An answer that takes much longer than a leader waits for its followers does not come.
const ANSWER_MAX: Duration = Duration::from_secs(40);

#[derive(Debug)]
pub(super) struct Lane {
    pub node: NodeId,
    /// Partitions that have something to send.
    pub listed: Vec<usize>,
    /// Requests without an answer, oldest first.
    pub requests: VecDeque<Sent>,
    /// Somebody else leads what is in flight here.
    pub deserted: bool,
}

/// A request without an answer.
#[derive(Debug)]
pub(super) struct Sent {
    pub correlation_id: i32,
    pub partitions: Vec<usize>,
    pub at: Instant,
}

impl Lane {
    pub fn new(node: NodeId) -> Lane {
        Lane { node, listed: Vec::new(), requests: VecDeque::new(), deserted: false }
    }

    /// Whoever leads would not read one more, and what is not read may be taken late.
    pub fn is_full(&self) -> bool {
        self.requests.len() >= REQUESTS_IN_FLIGHT_MAX
    }
}

/// Puts a partition on the list of its lane if it has something to send.
pub(super) fn list(partition: &mut Partition, number: usize, lanes: &mut [Lane]) {
    if !partition.listed && partition.is_ready() {
        partition.listed = true;
        lanes[partition.lane].listed.push(number);
    }
}

impl Ingest {
    /// This gateway.
    pub fn node(&self) -> NodeId {
        self.lanes[LOCAL].node
    }

    /// Where the lanes lead to. Their number never falls; a site has few gateways.
    pub fn lanes(&self) -> impl ExactSizeIterator<Item = NodeId> {
        self.lanes.iter().map(|lane| lane.node)
    }

    /// Whether a lane has a request to send now.
    pub fn has_request(&self, lane: usize) -> bool {
        !self.lanes[lane].is_full()
            && self.lanes[lane].listed.iter().any(|number| self.partitions[*number].is_ready())
    }

    /// The connection of a lane is gone: everything in flight there is sent again.
    pub fn disconnected(&mut self, lane: usize, now: Instant) {
        self.lanes[lane].requests.clear();
        self.lanes[lane].deserted = false;
        for number in 0..self.partitions.len() {
            let partition = &mut self.partitions[number];
            if partition.lane == lane && !partition.is_empty() {
                partition.disconnected(now);
                let topic = TopicNumber(partition.topic);
                self.list(number);
                self.seek(topic);
            }
        }
    }

    /// A lane is looked at: whether its connection is to be given up. If it is slow, leaders are
    /// sought.
    pub fn look_at(&mut self, lane: usize, now: Instant) -> bool {
        let Lane { requests, listed, deserted, .. } = &self.lanes[lane];
        let oldest = requests.front().map(|sent| now.saturating_duration_since(sent.at));
        let give_up = *deserted || oldest.is_some_and(|age| age > ANSWER_MAX);
        let slow = oldest.is_some_and(|age| age > SLOW);
        let waiting = requests.iter().filter(|_| slow).flat_map(|sent| &sent.partitions);
        let topics = waiting.chain(listed).map(|number| self.partitions[*number].topic);
        for topic in topics.collect::<Vec<_>>() {
            self.seek(TopicNumber(topic));
        }
        give_up
    }

    pub(super) fn seek(&mut self, topic: TopicNumber) {
        if !std::mem::replace(&mut self.topics[topic.0].seeking, true) {
            self.sought.push(topic);
        }
    }

    pub fn has_sought(&self) -> bool {
        !self.sought.is_empty()
    }

    /// Topics whose leaders somebody has to learn; then [`Ingest::found`], whatever comes of it.
    pub fn take_sought(&mut self) -> Vec<(TopicNumber, String)> {
        let sought = std::mem::take(&mut self.sought);
        let name = |topic: &TopicNumber| self.topics[topic.0].wanted.name.clone();
        sought.iter().map(|topic| (*topic, name(topic))).collect()
    }

    /// Who leads the partitions of a topic, as far as was learnt: by index.
    pub fn found(&mut self, topic: TopicNumber, leaders: &[(i32, NodeId)], now: Instant) {
        self.topics[topic.0].seeking = false;
        for (index, leader) in leaders {
            let number = self.topics[topic.0].partitions.get(*index as usize).copied();
            if let Some(number) = number {
                self.led_by(number, *leader, now);
                self.list(number);
            }
        }
    }

    /// Gives a partition the lane of its leader. A negative one stands for none: the lane stays.
    pub(super) fn led_by(&mut self, number: usize, leader: NodeId, now: Instant) {
        let partition = &mut self.partitions[number];
        if leader.0 < 0 || self.lanes[partition.lane].node == leader {
            return;
        }
        if partition.is_in_flight() {
            self.lanes[partition.lane].deserted = true;
            return;
        }
        if std::mem::take(&mut partition.listed) {
            self.lanes[partition.lane].listed.retain(|other| *other != number);
        }
        let known = self.lanes.iter().position(|lane| lane.node == leader);
        partition.lane = known.unwrap_or(self.lanes.len());
        partition.hurry(now);
        if known.is_none() {
            self.lanes.push(Lane::new(leader));
        }
    }
}
