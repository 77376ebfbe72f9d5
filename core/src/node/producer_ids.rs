//! InitProducerId and DescribeProducers: ids are handed out of blocks that the metadata has
//! recorded, so that none is given out twice, whatever is cut.

use super::Node;
use super::connections::Caller;
use super::site::{After, Ask};
use crate::error::ErrorCode;
use crate::types::Time;
use crate::wire::ApiKey;
use crate::wire::producers::{
    DescribeProducersRequest, DescribeProducersResponse, InitProducerIdRequest,
    InitProducerIdResponse, PartitionResponse, ProducerState, TopicResponse,
};
use alloc::collections::VecDeque;
use core::ops::Range;

/// Ids of one block, as in Kafka: a restart skips what is left of it.
pub(super) const BLOCK: i64 = 1000;

#[derive(Debug, Default)]
pub(super) struct ProducerIds {
    block: Range<i64>,
    /// Who waits for the next block, which is asked for while anybody does.
    waiting: VecDeque<Caller>,
}

impl ProducerIds {
    pub fn drain(&mut self) -> impl Iterator<Item = Caller> + use<> {
        core::mem::take(&mut self.waiting).into_iter()
    }
}

impl Node {
    pub(super) fn on_init_producer_id(
        &mut self,
        now: Time,
        caller: Caller,
        request: InitProducerIdRequest,
    ) {
        if request.transactional_id.is_some() {
            // Fatal to the client's producer, which is the clearest that the protocol has.
            let error_code = ErrorCode::INVALID_REQUEST;
            self.counts.error(ApiKey::InitProducerId, error_code);
            let response = InitProducerIdResponse {
                error_code,
                producer_epoch: -1,
                ..InitProducerIdResponse::default()
            };
            return self.reply(caller, &response);
        }
        self.producer_ids.waiting.push_back(caller);
        if !self.producer_ids.block.is_empty() {
            return self.on_producer_ids(now, self.producer_ids.block.clone());
        }
        if self.producer_ids.waiting.len() == 1 {
            self.ask_producer_ids(now);
        }
    }

    fn ask_producer_ids(&mut self, now: Time) {
        let Some(own) = self.image.broker(self.settings.node) else {
            return self.on_no_producer_ids(ErrorCode::COORDINATOR_NOT_AVAILABLE);
        };
        let ask = Ask::ProducerIds { node: own.node, epoch: own.epoch };
        self.ask(now, ask, After::ProducerIds);
    }

    /// No block is to be had now.
    pub(super) fn on_no_producer_ids(&mut self, error_code: ErrorCode) {
        for caller in self.producer_ids.drain() {
            self.counts.error(ApiKey::InitProducerId, error_code);
            let response = InitProducerIdResponse {
                error_code,
                producer_epoch: -1,
                ..InitProducerIdResponse::default()
            };
            self.reply(caller, &response);
        }
    }

    pub(super) fn on_producer_ids(&mut self, now: Time, block: Range<i64>) {
        self.producer_ids.block = block;
        while !self.producer_ids.waiting.is_empty() {
            let Some(producer_id) = self.producer_ids.block.next() else {
                return self.ask_producer_ids(now);
            };
            let Some(caller) = self.producer_ids.waiting.pop_front() else { return };
            let response = InitProducerIdResponse { producer_id, ..Default::default() };
            self.reply(caller, &response);
        }
    }

    pub(super) fn on_describe_producers(
        &mut self,
        caller: Caller,
        request: DescribeProducersRequest,
    ) {
        let mut response = DescribeProducersResponse::default();
        for asked in request.topics {
            let topic = self.image.topic(&asked.name);
            let partitions = asked.partition_indexes.iter().map(|index| {
                let number = topic.and_then(|topic| topic.partition(*index));
                let Some(view) = number.and_then(|number| self.log.partition(number)) else {
                    return PartitionResponse {
                        partition_index: *index,
                        error_code: ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                        ..PartitionResponse::default()
                    };
                };
                let active = view.producers.active().map(|producer| ProducerState {
                    producer_id: producer.producer_id,
                    producer_epoch: i32::from(producer.producer_epoch),
                    last_sequence: producer.last_sequence,
                    last_timestamp: producer.last_timestamp,
                    coordinator_epoch: -1,
                    ..ProducerState::default()
                });
                PartitionResponse {
                    partition_index: *index,
                    active_producers: active.collect(),
                    ..PartitionResponse::default()
                }
            });
            let partitions = partitions.collect();
            response.topics.push(TopicResponse { name: asked.name, partitions });
        }
        self.reply(caller, &response);
    }
}
