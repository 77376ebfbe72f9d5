//! A simulated producer of one partition, plain or idempotent, which repeats what was not answered.

use crate::checks::{AckedIsDurable, OrderKept, Verdict};
use crate::client::{Call, Context, Target, read};
use crate::history::{self, BatchId};
use bytes::Bytes;
use weir_core::error::ErrorCode;
use weir_core::types::Nanos;
use weir_core::wire::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, TopicProduceData,
};
use weir_core::wire::producers::InitProducerIdRequest;

const VERSION: i16 = 9;
/// Kafka's `max.in.flight.requests.per.connection` for idempotent producers.
const IN_FLIGHT_MAX: usize = 5;

pub struct Producer {
    target: Target,
    acks: i16,
    idempotent: bool,
    /// -1 until the broker gave an id.
    ids: history::Producer,
    /// A batch was acknowledged under this producer id.
    known: bool,
    /// How many of what is pending were sent on this connection.
    sent: usize,
    /// An answer said no: what follows it on this connection is void.
    stalled: bool,
    /// Gives up instead of repeating, when a connection is lost.
    gives_up: bool,
}

impl Producer {
    pub fn new(target: Target, acks: i16, idempotent: bool, gives_up: bool) -> Producer {
        let ids = history::Producer { producer_id: -1, ..Default::default() };
        Producer {
            target,
            acks,
            idempotent,
            ids,
            known: !idempotent,
            sent: 0,
            stalled: false,
            gives_up,
        }
    }

    pub fn act(&mut self, context: &mut Context<'_>, in_flight: usize) -> Nanos {
        if self.stalled {
            if in_flight > 0 {
                return context.pause_ms(1, 5);
            }
            (self.stalled, self.sent) = (false, 0);
        }
        if self.idempotent && self.ids.producer_id < 0 {
            if in_flight == 0 {
                let request =
                    InitProducerIdRequest { transaction_timeout_ms: 60_000, ..Default::default() };
                context.ask(&request, 4, Call::InitProducerId);
            }
            return context.pause_ms(5, 50);
        }
        for _ in 0..1 + context.rng.below(3) {
            // Until the broker knows the producer, one batch at a time: like Kafka it takes any
            // sequence of one that it does not know, so a second batch could overtake a
            // first that was refused.
            let in_flight_max = if self.known { IN_FLIGHT_MAX } else { 1 };
            if self.sent < in_flight_max {
                self.send_next(context);
            }
        }
        context.pause_ms(1, 40)
    }

    fn send_next(&mut self, context: &mut Context<'_>) {
        let batch = match self.ids.pending.get(self.sent) {
            Some(id) => context.shared.history(&self.target).send_again(*id),
            None => {
                let stamp = self.idempotent.then(|| self.ids.stamp());
                let batch = context.shared.new_batch(context.rng, &self.target, stamp);
                self.ids.next_sequence += batch.records_count as i32;
                if self.acks != 0 {
                    self.ids.pending.push_back(batch.id);
                }
                batch
            }
        };
        if self.acks != 0 {
            self.sent += 1;
        }
        log::trace!("{:?} {:?} to {:?}", batch.id, batch.stamp, self.target);
        let (name, index) = self.target.clone();
        let records = batch.bytes.clone().into();
        let partition_data = vec![PartitionProduceData { index, records }];
        let topic_data = vec![TopicProduceData { name, partition_data, ..Default::default() }];
        let request = ProduceRequest {
            transactional_id: None,
            acks: self.acks,
            timeout_ms: 30_000,
            topic_data,
        };
        context.ask(&request, VERSION, Call::Produce(batch.id, self.target.clone()));
    }

    pub fn answer(&mut self, context: &mut Context<'_>, call: Call, frame: &Bytes) -> Verdict {
        let Call::Produce(id, _) = call else { return self.take_id(context, frame) };
        let response = read::<ProduceRequest>(frame, VERSION)?;
        let partition =
            response.responses.first().and_then(|topic| topic.partition_responses.first());
        let Some(partition) = partition else {
            return AckedIsDurable::fails(format!("{id:?} got no answer in its response"));
        };
        if self.stalled {
            return Ok(());
        }
        self.judge(context, id, partition)
    }

    fn judge(
        &mut self,
        context: &mut Context<'_>,
        id: BatchId,
        answer: &PartitionProduceResponse,
    ) -> Verdict {
        log::trace!(
            "{id:?} of {} is answered {:?} {}",
            self.ids.producer_id,
            answer.error_code,
            answer.base_offset
        );
        let history = context.shared.history(&self.target);
        match answer.error_code {
            ErrorCode::NONE => {
                self.ids.pending.retain(|pending| *pending != id);
                self.sent -= 1;
                self.known = true;
                let before = history.acked.insert(answer.base_offset, id);
                let taken = before.is_some_and(|before| before != id);
                if taken || answer.base_offset < 0 {
                    let at = answer.base_offset;
                    return AckedIsDurable::fails(format!(
                        "{id:?} and {before:?} were acknowledged at {at}"
                    ));
                }
                Ok(())
            }
            // An error for the first in flight, when nothing before it was refused, is about this
            // batch.
            code if code.is_retriable() => {
                context.shared.refused(code);
                self.stalled = true;
                Ok(())
            }
            code => OrderKept::fails(format!("{id:?} of {:?} got {code:?}", self.ids.stamp())),
        }
    }

    fn take_id(&mut self, context: &mut Context<'_>, frame: &Bytes) -> Verdict {
        let response = read::<InitProducerIdRequest>(frame, 4)?;
        if response.error_code == ErrorCode::NONE {
            self.ids.producer_id = response.producer_id;
            self.ids.producer_epoch = response.producer_epoch;
        } else if !response.error_code.is_retriable() {
            return OrderKept::fails(format!("no producer id: {:?}", response.error_code));
        } else {
            context.shared.refused(response.error_code);
        }
        Ok(())
    }

    pub fn lost(&mut self) {
        (self.stalled, self.sent) = (false, 0);
        if self.gives_up {
            self.ids.pending.clear();
            if self.idempotent {
                // A new producer, as a program that is started again.
                self.ids = history::Producer { producer_id: -1, ..Default::default() };
                self.known = false;
            }
        }
    }
}
