//! What a follower does: fetches, and makes its log a beginning of the leader's.

use super::super::Node;
use super::log_state;
use crate::batch::{self, Header};
use crate::log::{Append, AppendError};
use crate::peer::Message;
use crate::replica::{self, Step};
use crate::types::{LeaderEpoch, NodeId, PartitionNumber, Time};
use bytes::Bytes;

impl Node {
    /// Sends the fetch that is due, if the leader can be reached.
    pub(in crate::node) fn fetch_next(&mut self, now: Time, number: PartitionNumber) {
        self.mend(now, number);
        let Some(mut state) = log_state(&self.log, number) else { return };
        if self.settings.unguarded.unmatched_ranges && self.first_lost(number).is_some() {
            return;
        }
        if !self.settings.unguarded.whole_while_damaged {
            state.durable = self.reported_durable(number, state.durable);
        }
        let Some(leader) = self.replicas.following(number).map(|it| it.leader) else { return };
        if !self.site.is_connected(leader) {
            return;
        }
        if self.log.pending_bytes() > self.settings.replica_limits.pending {
            self.replicas.schedule.set(number, None);
            self.replicas.held.insert(number);
            return;
        }
        let Some(following) = self.replicas.following(number) else { return };
        let fetch = following.follower.next_fetch(now, &state);
        let due = following.follower.deadline();
        self.replicas.schedule.set(number, Some(due));
        if let Some(fetch) = fetch {
            let bytes = postcard::to_allocvec(&(number, fetch));
            let bytes = bytes.expect("a fetch has no type that postcard lacks");
            self.tell_peer(leader, Message::Fetch(bytes.into()));
        }
    }

    /// The flash has taken enough for those that waited to go on.
    pub(super) fn fetch_held(&mut self, now: Time) {
        if self.log.pending_bytes() <= self.settings.replica_limits.pending {
            for number in core::mem::take(&mut self.replicas.held) {
                self.fetch_next(now, number);
            }
        }
    }

    /// The leader has answered.
    pub(in crate::node) fn on_replica_answer(
        &mut self,
        now: Time,
        from: NodeId,
        (number, answer): (PartitionNumber, replica::Answer),
        records: Bytes,
    ) {
        let Some(state) = log_state(&self.log, number) else { return };
        let log = &self.log;
        let epoch_end = |epoch: LeaderEpoch| log.epoch_end(number, epoch);
        let following = self.replicas.following(number);
        let Some(following) = following.filter(|following| following.leader == from) else {
            return;
        };
        let steps = following.follower.answered(now, &answer, &state, epoch_end);
        for step in steps {
            match step {
                Step::Truncate(to) => {
                    log::info!("partition {}: truncated to {to} for its new leader", number.0);
                    self.log.truncate(now, number, to);
                }
                Step::RestartAt(start) => {
                    log::info!("partition {}: begun anew at {start}", number.0);
                    self.log.restart_at(now, number, start);
                }
                Step::Append => {
                    if let Err(error) = self.append_fetched(now, number, records.clone()) {
                        log::warn!("partition {}: what was fetched: {error:?}", number.0);
                        if let Some(following) = self.replicas.following(number) {
                            following.follower.failed(now);
                        }
                        break;
                    }
                }
                Step::TrimTo(start) => self.log.trim(now, number, start),
                Step::HighWatermark(offset) => self.set_high_watermark(number, offset),
            }
        }
        self.fetch_next(now, number);
    }

    fn append_fetched(
        &mut self,
        now: Time,
        number: PartitionNumber,
        mut records: Bytes,
    ) -> Result<(), Unfit> {
        while let Some(next) = batch::next_batch(&mut records) {
            let (header, batch): (Header, Bytes) = next.map_err(|_| Unfit::Malformed)?;
            let base_offset = header.base_offset;
            let mut ours = log_state(&self.log, number).ok_or(Unfit::NotBehindOurLog)?;
            while ours.end < base_offset {
                // Compacted away, or lost: the leader has nothing there.
                let epoch = LeaderEpoch(header.partition_leader_epoch);
                let epoch = ours.last_epoch.unwrap_or(epoch);
                let (empty, batch) = batch::empty(ours.end, base_offset, epoch);
                self.append_one(now, number, empty, batch.into())?;
                ours.end = empty.last_offset().plus(1);
            }
            if base_offset < ours.end {
                return Err(Unfit::NotBehindOurLog);
            }
            self.append_one(now, number, header, batch)?;
        }
        Ok(())
    }

    fn append_one(
        &mut self,
        now: Time,
        number: PartitionNumber,
        header: Header,
        batch: Bytes,
    ) -> Result<(), Unfit> {
        let leader_epoch = LeaderEpoch(header.partition_leader_epoch);
        let base_offset = header.base_offset;
        let append = Append { partition: number, leader_epoch, base_offset, header, batch };
        self.log.append(now, append).map_err(Unfit::Log)
    }
}

/// Why fetched batches are not appended.
#[derive(Debug)]
#[allow(dead_code, reason = "read by Debug, for the log")]
enum Unfit {
    Malformed,
    NotBehindOurLog,
    Log(AppendError),
}
