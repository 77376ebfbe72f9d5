//! What groups want done: answers, batches to append, and what follows when a batch is on flash.

use super::{AppendToken, Output, Record, Settings, Ticket};
use crate::error::ErrorCode;
use crate::limits::GROUP_APPEND_BYTES_MAX;
use crate::types::Time;
use crate::wire::AnyResponse;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// What every step of a group's state machine is given.
pub(super) struct Context<'a> {
    pub now: Time,
    /// Milliseconds since 1970, or -1 while the clock is not trusted.
    pub wall_ms: i64,
    pub settings: &'a Settings,
    pub outbox: &'a mut Outbox,
}

impl Context<'_> {
    /// The moment `ms` from now, at which the timers will be looked at.
    pub fn wake_in(&mut self, ms: i64) -> Time {
        let at = self.now.plus_ms(u64::try_from(ms).unwrap_or(0));
        self.outbox.wake_at(at);
        at
    }
}

/// What follows when a batch is on flash.
#[derive(Clone, Debug)]
pub(super) enum Then {
    Nothing,
    Answer {
        ticket: Ticket,
        response: AnyResponse,
    },
    /// The leader's assignment may be told to the members.
    Assign {
        group: String,
        generation: i32,
        assignments: BTreeMap<String, Bytes>,
    },
    /// A static member has its new member id, and is told who leads.
    Rejoin {
        group: String,
        generation: i32,
        member: String,
        ticket: Ticket,
        leader: Option<String>,
    },
}

#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub token: AppendToken,
    pub records: Vec<Record>,
    pub then: Then,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Outbox {
    outputs: VecDeque<Output>,
    /// Batches that are not durable yet, by ascending token.
    in_flight: VecDeque<InFlight>,
    next_token: u64,
    /// Every token below has been polled.
    polled: u64,
    /// No timer is due before this. It may be early, since a heartbeat moves a timer on without
    /// telling.
    wake: Option<Time>,
}

impl Outbox {
    pub fn answer(&mut self, ticket: Ticket, response: AnyResponse) {
        self.outputs.push_back(Output::Answer { ticket, response });
    }

    /// Appends records, in more than one batch if they are many; `then` follows the last.
    pub fn append(&mut self, records: Vec<Record>, then: Then) {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for record in records {
            let record_bytes = record.bytes();
            if bytes + record_bytes > GROUP_APPEND_BYTES_MAX && !batch.is_empty() {
                self.append_batch(core::mem::take(&mut batch), Then::Nothing);
                bytes = 0;
            }
            bytes += record_bytes;
            batch.push(record);
        }
        self.append_batch(batch, then);
    }

    fn append_batch(&mut self, records: Vec<Record>, then: Then) {
        let token = AppendToken(self.next_token);
        self.next_token += 1;
        self.outputs.push_back(Output::Append { token, records: records.clone() });
        self.in_flight.push_back(InFlight { token, records, then });
    }

    pub fn poll(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if let Some(Output::Append { token, .. }) = &output {
            self.polled = token.0 + 1;
        }
        output
    }

    /// Takes the oldest batch, which must be `token`: the log keeps the order.
    pub fn take_oldest(&mut self, token: AppendToken) -> InFlight {
        let entry = self.in_flight.pop_front().expect("a batch is durable that was asked for");
        assert_eq!(entry.token, token, "batches become durable in their order");
        entry
    }

    /// Takes a batch that was refused, which may be any.
    pub fn take(&mut self, token: AppendToken) -> Option<InFlight> {
        let at = self.in_flight.iter().position(|entry| entry.token == token)?;
        self.in_flight.remove(at)
    }

    /// What is to be answered when nothing will be appended, or known to be durable, any more.
    pub fn resign(self, code: ErrorCode) -> Vec<(Ticket, AnyResponse)> {
        let decided = self.outputs.into_iter().filter_map(|output| match output {
            Output::Answer { ticket, response } => Some((ticket, response)),
            Output::Append { .. } => None,
        });
        let waiting = self.in_flight.into_iter().filter_map(|entry| match entry.then {
            Then::Answer { ticket, mut response } => {
                fail(&mut response, code);
                Some((ticket, response))
            }
            // Members wait for these, and are told by themselves.
            Then::Nothing | Then::Assign { .. } | Then::Rejoin { .. } => None,
        });
        decided.chain(waiting).collect()
    }

    /// The last records of each key among the batches that are polled and not durable.
    #[cfg(test)]
    pub fn overlay(&self) -> BTreeMap<Bytes, Option<Bytes>> {
        let polled = self.in_flight.iter().filter(|entry| entry.token.0 < self.polled);
        let records = polled.flat_map(|entry| &entry.records);
        records.map(|record| (record.key.clone(), record.value.clone())).collect()
    }

    pub fn wake_at(&mut self, at: Time) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    pub fn wake(&self) -> Option<Time> {
        self.wake
    }

    pub fn set_wake(&mut self, wake: Option<Time>) {
        self.wake = wake;
    }
}

impl Record {
    /// About how many bytes it has in a batch.
    fn bytes(&self) -> usize {
        16 + self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// Makes an answer say that its records were not appended.
pub(super) fn fail(response: &mut AnyResponse, code: ErrorCode) {
    match response {
        AnyResponse::OffsetCommit(response) => {
            let topics = response.topics.iter_mut();
            topics.flat_map(|topic| &mut topic.partitions).for_each(|p| p.error_code = code);
        }
        AnyResponse::OffsetDelete(response) => {
            response.error_code = code;
            response.topics.clear();
        }
        AnyResponse::DeleteGroups(response) => {
            response.results.iter_mut().for_each(|result| result.error_code = code);
        }
        other => unreachable!("no records wait behind {other:?}"),
    }
}

/// Kafka's translation of why an append failed into what a member of a group understands.
pub(super) fn member_code(append: ErrorCode) -> ErrorCode {
    match append {
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        | ErrorCode::NOT_ENOUGH_REPLICAS
        | ErrorCode::REQUEST_TIMED_OUT => ErrorCode::COORDINATOR_NOT_AVAILABLE,
        ErrorCode::NOT_LEADER_OR_FOLLOWER | ErrorCode::KAFKA_STORAGE_ERROR => {
            ErrorCode::NOT_COORDINATOR
        }
        ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE => {
            ErrorCode::UNKNOWN_SERVER_ERROR
        }
        code => code,
    }
}
