//! What this gateway gives others that have lost it.
//!
//! It gives what it has in the leader epoch that they are in, if its own log is known to be a
//! beginning of that leader's: as the leader, or as one of its followers. Of offsets that are in no
//! batch only the leader says that there is nothing; a follower may have expired what others have.

use super::super::Node;
use super::{Replicas, Role};
use crate::batch;
use crate::error::ErrorCode;
use crate::limits;
use crate::log::{Answer, Batches, FetchError, FetchSpec, MOVE_BYTES_MAX, Ticket};
use crate::peer::Message;
use crate::replica::{RangeAnswer, RangeContent, RangeFetch};
use crate::types::{LeaderEpoch, NodeId, Offset, PartitionNumber, Time};

/// Who asked for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loan {
    to: NodeId,
    number: PartitionNumber,
    fetch: RangeFetch,
}

impl Replicas {
    /// The leader epoch in which this gateway's log is a beginning of the leader's.
    pub(super) fn matched_epoch(&self, number: PartitionNumber) -> Option<LeaderEpoch> {
        match &self.by_number.get(&number)?.role {
            Role::Leads(leading) => Some(leading.leader.epoch()),
            Role::Follows(following) => {
                let matched = following.follower.is_matched() || self.unguarded.unmatched_ranges;
                matched.then(|| following.follower.leader_epoch())
            }
            Role::Waits => None,
        }
    }
}

impl Node {
    /// Another replica asks for what it has lost.
    pub(in crate::node) fn on_range_fetch(
        &mut self,
        now: Time,
        to: NodeId,
        number: PartitionNumber,
        fetch: RangeFetch,
    ) {
        let loan = Loan { to, number, fetch };
        if self.replicas.matched_epoch(number).is_none()
            && let Some(following) = self.replicas.following(number)
        {
            // It is asked again, and knows then.
            following.follower.hurry();
            self.fetch_next(now, number);
        }
        match self.read_for(&loan) {
            Ok(Answer::Now(batches)) => self.answer_range(&loan, Ok(batches)),
            Ok(Answer::Later(ticket)) => {
                self.replicas.lending.insert(ticket, loan);
            }
            Err(content) => self.say_range(&loan, content, Batches::new()),
        }
    }

    /// Begins to read what is asked for, or says why not.
    fn read_for(&mut self, loan: &Loan) -> Result<Answer<Batches>, RangeContent> {
        let Loan { to, number, fetch } = *loan;
        let refuse = |code: ErrorCode| Err(RangeContent::Refused(code.0));
        let is_replica = self.image.state(number).is_some_and(|state| state.is_replica(to));
        if !is_replica || self.replicas.matched_epoch(number) != Some(fetch.leader_epoch) {
            return refuse(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        if fetch.from < Offset::ZERO || fetch.from >= fetch.until {
            let (node, RangeFetch { from, until, .. }) = (to.0, fetch);
            log::warn!("gateway {node} asks for offsets {from} up to {until}, which are none");
            return refuse(ErrorCode::INVALID_REQUEST);
        }
        let Some(view) = self.log.partition(number) else {
            return refuse(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        };
        let (start, durable) = (view.log_start, view.durable_end);
        if fetch.from >= durable {
            return refuse(ErrorCode::OFFSET_NOT_AVAILABLE);
        }
        let leads = self.replicas.led(number).is_some();
        if fetch.from < start && !leads {
            return Err(RangeContent::Lost { until: fetch.until.min(start) });
        }
        if fetch.until <= start {
            return Err(RangeContent::Batches { until: fetch.until });
        }
        if self.replicas.lending.len() >= limits::RANGES_LENT_MAX {
            return refuse(ErrorCode::THROTTLING_QUOTA_EXCEEDED);
        }
        let spec = FetchSpec {
            partition: number,
            from: fetch.from.max(start),
            end: durable,
            bytes_max: MOVE_BYTES_MAX,
            at_least_one: true,
        };
        self.log.fetch(spec).map_err(|error| failed(&fetch, error))
    }

    /// A read for another replica has ended; false when it was for somebody else.
    pub(in crate::node) fn on_range_read(
        &mut self,
        ticket: Ticket,
        result: &Result<Batches, FetchError>,
    ) -> bool {
        let Some(loan) = self.replicas.lending.remove(&ticket) else { return false };
        self.answer_range(&loan, result.clone());
        true
    }

    fn answer_range(&mut self, loan: &Loan, result: Result<Batches, FetchError>) {
        let Loan { number, fetch, .. } = *loan;
        if self.replicas.matched_epoch(number) != Some(fetch.leader_epoch) {
            let content = RangeContent::Refused(ErrorCode::NOT_LEADER_OR_FOLLOWER.0);
            return self.say_range(loan, content, Batches::new());
        }
        let (content, batches) = match result {
            Ok(batches) => divide(&fetch, batches, self.replicas.led(number).is_some()),
            Err(error) => {
                self.replicas.met_damage();
                (failed(&fetch, error), Batches::new())
            }
        };
        self.say_range(loan, content, batches);
    }

    fn say_range(&mut self, loan: &Loan, content: RangeContent, batches: Batches) {
        let RangeFetch { leader_epoch, sequence, .. } = loan.fetch;
        let answer = RangeAnswer { leader_epoch, sequence, content };
        let head = postcard::to_allocvec(&(loan.number, answer));
        let head = head.expect("an answer has no type that postcard lacks");
        self.tell_peer(loan.to, Message::Range(head.into(), batches));
    }
}

/// What of these batches was asked for, and what they say about it.
fn divide(fetch: &RangeFetch, mut batches: Batches, leads: bool) -> (RangeContent, Batches) {
    let (mut next, mut keep) = (fetch.from, 0);
    let mut behind = None;
    for batch in &batches {
        let Ok(header) = batch::Header::parse(batch) else { break };
        let base = header.base_offset;
        if base >= fetch.until || base > next && !leads {
            behind = Some(base);
            break;
        }
        next = header.last_offset().plus(1);
        keep += 1;
    }
    let is_all = leads && (behind.is_some() || batches.is_empty());
    batches.truncate(keep);
    let content = match is_all {
        true => RangeContent::Batches { until: fetch.until },
        false if keep > 0 => RangeContent::Batches { until: next },
        false => RangeContent::Lost { until: behind.unwrap_or(fetch.until).min(fetch.until) },
    };
    (content, batches)
}

/// Why what is asked for is not to be had here.
fn failed(fetch: &RangeFetch, error: FetchError) -> RangeContent {
    match error {
        FetchError::Damaged { until } => RangeContent::Lost { until: until.min(fetch.until) },
        // What exactly cannot be read is found out when this gateway looks after it.
        FetchError::Device => RangeContent::Refused(ErrorCode::KAFKA_STORAGE_ERROR.0),
        FetchError::OutOfRange => RangeContent::Refused(ErrorCode::OFFSET_NOT_AVAILABLE.0),
        FetchError::UnknownPartition => {
            RangeContent::Refused(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0)
        }
    }
}
