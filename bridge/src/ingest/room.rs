//! How much may wait for the log or for its answer, and for which partition.
//!
//! A partition whose gateways are away may wait for hours. MQTT has no other way to hold a client
//! back than not to acknowledge and not to read, so its clients wait as long, but those of other
//! partitions shall not: half of what may wait is divided evenly, and such a share is held for its
//! partition whatever others do. The other half is for whoever comes first.
//!
//! | partition | others | may push |
//! |---|---|---|
//! | below its share | as they like | yes |
//! | at its share | less than half is in use beyond all shares | yes |
//! | at its share | that half is used up | no, until its own batches are answered, or others' |
//!
//! So the only partition of a gateway may hold all of it, one of four that does not move five of
//! eight parts, and the three others still have one each, more than they have in flight. A
//! connection that publishes to a partition without room is not read until there is some again,
//! whatever it would publish next: its packets are taken in order.
//!
//! A share that has room takes a record of any size. Should large records for many partitions that
//! do not move come to twice what may wait, nothing is taken any more.

use super::{Ingest, Place};

/// Bytes that may wait, beside the last record of each partition.
pub(crate) const QUEUED_BYTES_MAX: usize = 8 << 20;

/// Of them, those that are divided among the partitions, and those that are not.
const SHARES_BYTES: usize = QUEUED_BYTES_MAX / 2;
const COMMON_BYTES: usize = QUEUED_BYTES_MAX - SHARES_BYTES;

#[derive(Debug, Default)]
pub(super) struct Room {
    queued_bytes: usize,
    /// Of one partition.
    share_bytes: usize,
    /// What partitions have queued beyond their shares.
    beyond_bytes: usize,
}

impl Room {
    /// Divides the shares anew, among partitions that have so much queued.
    pub fn divide(&mut self, queued: impl ExactSizeIterator<Item = usize>) {
        let share_bytes = (SHARES_BYTES / queued.len().max(1)).max(1);
        *self = Room { share_bytes, ..Room::default() };
        queued.for_each(|bytes| self.changed(0, bytes));
    }

    /// A partition has another number of bytes queued.
    pub fn changed(&mut self, before: usize, after: usize) {
        let beyond = |bytes: usize| bytes.saturating_sub(self.share_bytes);
        self.beyond_bytes = self.beyond_bytes + beyond(after) - beyond(before);
        self.queued_bytes = self.queued_bytes + after - before;
    }

    fn is_exceeded(&self) -> bool {
        self.queued_bytes >= 2 * QUEUED_BYTES_MAX
    }
}

impl Ingest {
    /// Whether more may be pushed to a partition; if not, stop reading where it comes from.
    pub fn has_room(&self, place: Place) -> bool {
        let bytes = self.partitions[place.0].queued_bytes();
        let room = &self.room;
        let free = bytes < room.share_bytes || room.beyond_bytes < COMMON_BYTES;
        free && !room.is_exceeded()
    }

    /// Whether those who found no room shall try again. That is so when there is more than a
    /// little, lest all of them do so for each answer.
    pub fn has_room_again(&self, place: Place) -> bool {
        let bytes = self.partitions[place.0].queued_bytes();
        let room = &self.room;
        let free = bytes <= room.share_bytes / 2 || room.beyond_bytes <= COMMON_BYTES / 2;
        free && !room.is_exceeded()
    }

    pub fn queued_bytes(&self) -> usize {
        self.room.queued_bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::ingest::{Found, FoundPartition, LOCAL, PRODUCE_VERSION, Record, Ticket};
    use bytes::Bytes;
    use std::time::{Duration, Instant};
    use weir_core::error::ErrorCode;
    use weir_core::rng::Rng;
    use weir_core::types::{NodeId, TopicId};
    use weir_core::wire::produce::{
        PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceResponse,
    };
    use weir_core::wire::{ApiKey, Frame, Message, decode_request_header, encode_response};

    type HasRoom = fn(&Ingest, Place) -> bool;

    /// Partitions of which some have no leader for a while, and clients that push as much to each
    /// as there is room for.
    struct World {
        ingest: Ingest,
        places: Vec<Place>,
        /// By partition.
        away: Vec<bool>,
        pushed: Vec<usize>,
        durable: usize,
        now: Instant,
        rng: Rng,
        record_bytes_max: u64,
        has_room: HasRoom,
    }

    impl World {
        fn new(seed: u64, has_room: HasRoom) -> World {
            let mut rng = Rng::new(seed);
            let partitions = 1 + rng.below(12) as usize;
            let record_bytes_max = [100, 10_000, 1_000_000][rng.below(3) as usize];
            let (mut ingest, now) = (Ingest::new(NodeId(1), 7, 0), Instant::now());
            let topic = ingest.topic("t", partitions as u32, false);
            let found = FoundPartition { end: 0, leader: NodeId(1) };
            let found = Found { id: TopicId::NONE, partitions: vec![found; partitions] };
            ingest.opened(topic, &found, now);
            World {
                ingest,
                places: (0..partitions).map(Place).collect(),
                away: (0..partitions).map(|_| rng.percent(40)).collect(),
                pushed: vec![0; partitions],
                durable: 0,
                now,
                rng,
                record_bytes_max,
                has_room,
            }
        }

        /// Each client pushes what there is room for, up to so many records; who does not move has
        /// the most to say.
        fn push(&mut self) {
            for at in 0..self.places.len() {
                let most = if self.away[at] { 10_000 } else { 10 };
                for _ in 0..self.rng.below(most) {
                    if !(self.has_room)(&self.ingest, self.places[at]) {
                        break;
                    }
                    let value = vec![0; self.rng.below(self.record_bytes_max) as usize];
                    let record =
                        Record { timestamp: 1, key: b"k", value: Some(&value), headers: &[] };
                    self.ingest.push(self.places[at], &record, Ticket::Nobody, self.now);
                    self.pushed[at] += 1;
                }
            }
        }

        /// Everything that can be sent is, and answered.
        fn answer(&mut self) {
            self.now += Duration::from_secs(3);
            for topic in self.ingest.take_sought() {
                self.ingest.found(topic.0, &[], self.now);
            }
            self.ingest.resume(self.now);
            while let Some(request) = self.ingest.request(LOCAL, self.now) {
                let reply = self.node(&request);
                let answer = self.ingest.reply(LOCAL, reply, self.now, &mut Vec::new()).unwrap();
                self.durable += answer.durable.iter().map(|(_, records)| records).sum::<usize>();
            }
        }

        fn node(&self, request: &Bytes) -> Frame {
            let (header, mut reader) = decode_request_header(request).unwrap();
            let request = ProduceRequest::decode(&mut reader, PRODUCE_VERSION).unwrap();
            let mut response = ProduceResponse::default();
            for topic in request.topic_data {
                let answer = |index: i32| {
                    let away = self.away[index as usize];
                    let error_code =
                        if away { ErrorCode::NOT_LEADER_OR_FOLLOWER } else { ErrorCode::NONE };
                    PartitionProduceResponse { index, error_code, ..Default::default() }
                };
                let partition_responses =
                    topic.partition_data.iter().map(|part| answer(part.index)).collect();
                response.responses.push(TopicProduceResponse {
                    name: topic.name,
                    partition_responses,
                    ..Default::default()
                });
            }
            encode_response(&response, ApiKey::Produce, PRODUCE_VERSION, header.correlation_id)
        }

        /// The promises: what moves has room whatever does not, and memory has a bound.
        fn check(&self) -> Result<(), String> {
            let moving = self.places.iter().zip(&self.away).filter(|(_, away)| !**away);
            for (place, _) in moving {
                if !(self.has_room)(&self.ingest, *place) {
                    return Err(format!("{place:?} moves and has no room: {:?}", self.ingest.room));
                }
            }
            let queued = self.ingest.partitions.iter().map(|p| p.queued_bytes()).sum::<usize>();
            assert_eq!(self.ingest.queued_bytes(), queued);
            let last_ones = self.places.len() * (self.record_bytes_max as usize + 200);
            match queued <= QUEUED_BYTES_MAX + last_ones {
                true => Ok(()),
                false => Err(format!("{queued} bytes wait")),
            }
        }
    }

    fn run(seed: u64, has_room: HasRoom) -> Result<(), String> {
        let mut world = World::new(seed, has_room);
        for _ in 0..6 {
            world.push();
            world.answer();
            world.check()?;
        }
        world.away.fill(false);
        world.answer();
        let pushed: usize = world.pushed.iter().sum();
        assert_eq!((world.durable, world.ingest.queued_bytes()), (pushed, 0), "all is there");
        let all = world.places.iter().all(|place| world.ingest.has_room_again(*place));
        if all { Ok(()) } else { Err("who waited is not told that there is room".into()) }
    }

    #[test]
    fn a_partition_that_does_not_move_leaves_the_others_their_room() {
        for seed in 0..200 {
            run(seed, Ingest::has_room).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        }
    }

    #[test]
    fn a_queue_without_shares_is_found_and_so_is_one_without_a_bound() {
        let common = |ingest: &Ingest, _| ingest.queued_bytes() < QUEUED_BYTES_MAX;
        assert!((0..200).any(|seed| run(seed, common).is_err_and(|what| what.contains("no room"))));
        let endless = |_: &Ingest, _| true;
        assert!((0..200).any(|seed| run(seed, endless).is_err_and(|what| what.contains("wait"))));
    }

    #[test]
    fn the_only_partition_has_all_the_room() {
        let mut room = Room::default();
        room.divide([0].into_iter());
        room.changed(0, QUEUED_BYTES_MAX - 1);
        assert!(room.beyond_bytes < COMMON_BYTES);
        room.changed(QUEUED_BYTES_MAX - 1, QUEUED_BYTES_MAX);
        assert_eq!((room.beyond_bytes, room.queued_bytes), (COMMON_BYTES, QUEUED_BYTES_MAX));
    }
}
