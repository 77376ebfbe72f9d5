//! What this gateway knows of the partitions that it holds: for people, and for the simulation's
//! checkers.

use super::super::Node;
use super::{Replicas, Role, log_state};
use crate::metadata::PartitionState;
use crate::types::PartitionNumber;
use alloc::vec::Vec;
use serde::Serialize;

/// What part this gateway has in a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaRole {
    Leads,
    Follows,
    /// Nobody leads, or this gateway has not taken its part up yet.
    #[default]
    Waits,
}

/// A partition that this gateway holds, as it stands here.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ReplicaStatus {
    pub number: u32,
    pub role: ReplicaRole,
    /// The epoch in which this gateway leads or follows; -1: neither.
    pub epoch: i32,
    pub log_start: i64,
    pub log_end: i64,
    pub durable_end: i64,
    pub high_watermark: i64,
    /// Something of it is lost here, and where that begins.
    pub is_damaged: bool,
    pub damaged_from: Option<i64>,
    /// What the metadata says of it here.
    pub state: PartitionState,
}

impl ReplicaStatus {
    /// Whether somebody leads it and all its replicas are in sync.
    pub fn is_whole(&self) -> bool {
        self.state.leader.is_some()
            && self.state.isr.len() == self.state.replicas.len()
            && self.state.adding.is_empty()
            && self.state.removing.is_empty()
    }
}

impl Replicas {
    fn role(&self, number: PartitionNumber) -> (ReplicaRole, i32) {
        match self.by_number.get(&number).map(|replica| &replica.role) {
            Some(Role::Leads(leading)) => (ReplicaRole::Leads, leading.leader.epoch().0),
            Some(Role::Follows(it)) => (ReplicaRole::Follows, it.follower.leader_epoch().0),
            Some(Role::Waits) | None => (ReplicaRole::Waits, -1),
        }
    }
}

impl Node {
    /// The partitions of which this gateway holds a replica, by number.
    pub fn replicas_status(&self) -> Vec<ReplicaStatus> {
        let me = self.settings.node;
        let held = self.image.states().filter(|(_, state)| state.is_replica(me));
        let status = held.map(|(number, state)| {
            let log = log_state(&self.log, number).unwrap_or_default();
            let damaged_from = self.first_lost(number).map(|from| from.0);
            let (role, epoch) = self.replicas.role(number);
            ReplicaStatus {
                number: number.0,
                role,
                epoch,
                log_start: log.start.0,
                log_end: log.end.0,
                durable_end: log.durable.0,
                high_watermark: self.replicas.high_watermark(number).0,
                is_damaged: damaged_from.is_some(),
                damaged_from,
                state: state.clone(),
            }
        });
        status.collect()
    }
}
