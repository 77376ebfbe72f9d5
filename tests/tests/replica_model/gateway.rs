//! One gateway of the model: a log, what of it is on flash, and what it is to the partition.

use weir_core::replica::{Answer, Content, Fetch, Follower, Leader, LogState, Step, Verdict};
use weir_core::types::{LeaderEpoch, NodeId, Offset, Time};

pub const REPLICAS: usize = 3;
/// Time stands still.
pub const NOW: Time = Time(1);

/// What a model does wrong on purpose, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Records count as durable before they are on flash.
    AcknowledgeBeforeFlush,
    /// A follower of a new epoch cuts its log at the high watermark that it knows, and does not
    /// compare epochs (Kafka before KIP-101).
    TruncateByHighWatermark,
    /// A leader takes whoever fetches into the in-sync set.
    ExpandTooEarly,
}

/// The epoch of the leader that took a record, and where it put it. There is one leader an epoch,
/// so this names a record.
pub type Entry = (i32, usize);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    pub log: Vec<Entry>,
    /// What a crash leaves.
    pub flash: Vec<Entry>,
    pub role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has just started, and has not heard of anything.
    None,
    Leads(Box<Leader>, Heard),
    Follows(usize, Follower),
}

/// What a leader was told. It keeps this to itself, and the model needs it to know states apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    pub partition_epoch: i32,
    /// The incarnations that are registered, as it knows.
    pub registered: [i64; REPLICAS],
    /// The incarnation of each that has fetched last.
    pub fetched: [i64; REPLICAS],
    /// Whom it has wished for since the last decision.
    pub wished: [bool; REPLICAS],
}

pub fn node(at: usize) -> NodeId {
    NodeId(at as i32)
}

impl Gateway {
    pub fn new() -> Gateway {
        Gateway { log: Vec::new(), flash: Vec::new(), role: Role::None }
    }

    pub fn state(&self, mutation: Option<Mutation>) -> LogState {
        let durable = match mutation {
            Some(Mutation::AcknowledgeBeforeFlush) => self.log.len(),
            _ => self.common(),
        };
        LogState {
            start: Offset::ZERO,
            end: Offset(self.log.len() as i64),
            durable: Offset(durable as i64),
            last_epoch: self.log.last().map(|(epoch, _)| LeaderEpoch(*epoch)),
        }
    }

    /// How far log and flash agree.
    fn common(&self) -> usize {
        self.log.iter().zip(&self.flash).take_while(|(one, other)| one == other).count()
    }

    pub fn high_watermark(&self) -> Offset {
        match &self.role {
            Role::None => Offset::ZERO,
            Role::Leads(leader, _) => leader.high_watermark(),
            Role::Follows(_, follower) => follower.high_watermark(),
        }
    }

    /// Whether a leader takes a record.
    pub fn produce(&mut self, mutation: Option<Mutation>) -> bool {
        let Role::Leads(leader, _) = &self.role else { return false };
        if leader.check_insync().is_err() {
            return false;
        }
        self.log.push((leader.epoch().0, self.log.len()));
        self.advance(mutation);
        true
    }

    pub fn flush(&mut self, mutation: Option<Mutation>) {
        self.flash.clone_from(&self.log);
        self.advance(mutation);
    }

    fn advance(&mut self, mutation: Option<Mutation>) {
        let log = self.state(mutation);
        if let Role::Leads(leader, _) = &mut self.role {
            leader.advance(NOW, log);
        }
    }

    /// The follower's next fetch, and whom it asks.
    pub fn fetch(&mut self, mutation: Option<Mutation>) -> Option<(usize, Fetch)> {
        let log = self.state(mutation);
        let Role::Follows(leader, follower) = &mut self.role else { return None };
        let mut fetch = follower.next_fetch(NOW, &log)?;
        if mutation == Some(Mutation::TruncateByHighWatermark) {
            fetch.last_epoch = None;
        }
        Some((*leader, fetch))
    }

    /// What a leader says to a fetch, and the records that come with it. `None`: nothing that the
    /// follower could use.
    pub fn serve(&mut self, from: usize, fetch: Fetch) -> Option<(Answer, Vec<Entry>)> {
        let Role::Leads(leader, heard) = &mut self.role else { return None };
        let log = &self.log;
        let verdict = leader.fetched(NOW, node(from), &fetch, |epoch| epoch_end(log, epoch));
        let (content, entries) = match verdict {
            Verdict::Serve { from } => {
                let entries = log[from.0 as usize..].to_vec();
                (Content::Batches { from, bytes: entries.len() as u64 }, entries)
            }
            Verdict::Ignore | Verdict::Say(Content::Refused(_)) => return None,
            Verdict::Say(content) => (content, Vec::new()),
        };
        heard.fetched[from] = fetch.broker_epoch;
        Some((leader.answer(fetch.sequence, content), entries))
    }

    pub fn take(&mut self, answer: &Answer, entries: &[Entry], mutation: Option<Mutation>) {
        let state = self.state(mutation);
        let Role::Follows(_, follower) = &mut self.role else { return };
        let log = &self.log;
        for step in follower.answered(NOW, answer, &state, |epoch| epoch_end(log, epoch)) {
            match step {
                Step::Append => self.log.extend(entries),
                Step::Truncate(to) => self.log.truncate(to.0 as usize),
                Step::RestartAt(start) => {
                    assert_eq!(start, Offset::ZERO, "nothing is trimmed here");
                    self.log.clear();
                }
                Step::TrimTo(_) | Step::HighWatermark(_) => {}
            }
        }
    }
}

fn epoch_end(log: &[Entry], epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
    let next = log.partition_point(|(known, _)| *known <= epoch.0);
    let (found, _) = *log.get(next.checked_sub(1)?)?;
    Some((LeaderEpoch(found), Offset(next as i64)))
}
