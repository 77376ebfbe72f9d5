//! A gateway that hears no controller does not know whether it still leads.
//!
//! | state | event | next |
//! |---|---|---|
//! | in touch | hears nothing of a controller for [`LEASE_MS`] | cut off |
//! | in touch | is not the controller any more, for want of a majority | cut off soon |
//! | cut off | hears the controller, or is it | in touch |
//!
//! Cut off, it answers clients as if others led, and whoever waits is told. Who asks it for the way
//! to a leader or a coordinator is hung up on, and asks another gateway: clients such as librdkafka
//! ask the same one again for as long as their connection holds, and it will know no leader for as
//! long. Its groups are forgotten, and replayed when it is in touch again. What it keeps is its
//! role towards the other replicas, which epochs guard: an old leader commits nothing.
//!
//! A gateway by itself is always in touch: it is the controller.

use super::super::Node;
use crate::error::ErrorCode;
use crate::types::{Nanos, NodeId, PartitionNumber, Time};
use crate::wire::ApiKey;
use alloc::vec::Vec;

/// More than an election of a controller takes.
const LEASE_MS: u64 = 2_000;
/// What is left of it for who was the controller: it has missed a majority for long.
const DEPOSED_MS: u64 = 500;

#[derive(Debug, Default)]
pub(super) struct Lease {
    in_touch: Time,
}

impl Node {
    /// A peer has said something.
    pub(super) fn renew_lease(&mut self, now: Time, from: NodeId) {
        if self.site.controller_id() == Some(from) {
            self.site.lease.in_touch = now;
            self.keep_lease(now);
        }
    }

    pub(super) fn on_deposed(&mut self, now: Time) {
        let ago = Nanos::from_ms(LEASE_MS - DEPOSED_MS);
        self.site.lease.in_touch = Time(now.0.saturating_sub(ago.0));
    }

    /// Who leads a partition, as clients are told. This gateway does not name itself while it is
    /// cut off.
    pub(in crate::node) fn known_leader(&self, number: PartitionNumber) -> Option<NodeId> {
        let itself = |leader: &NodeId| self.replicas.cut_off && *leader == self.settings.node;
        self.image.leader(number).filter(|leader| !itself(leader))
    }

    /// Whether a request asks for the way to others, and this gateway is cut off from them.
    pub(in crate::node) fn lacks_way(&self, api: ApiKey) -> bool {
        use ApiKey::{DescribeTopicPartitions, FindCoordinator, Metadata};
        self.replicas.cut_off && matches!(api, Metadata | FindCoordinator | DescribeTopicPartitions)
    }

    /// When this gateway is cut off unless it hears something.
    pub(in crate::node) fn lease_end(&self) -> Option<Time> {
        let counts = self.start.is_joined() && !self.site.leads() && !self.replicas.cut_off;
        counts.then(|| self.site.lease.in_touch.plus_ms(LEASE_MS))
    }

    /// Takes note of whether this gateway is cut off. Before anything else is done: it may have
    /// slept.
    pub(in crate::node) fn keep_lease(&mut self, now: Time) {
        if self.site.leads() || !self.start.is_joined() {
            self.site.lease.in_touch = now;
        }
        let cut_off = now >= self.site.lease.in_touch.plus_ms(LEASE_MS);
        if cut_off == self.replicas.cut_off {
            return;
        }
        self.replicas.cut_off = cut_off;
        match cut_off {
            true => log::warn!("no controller is heard: this gateway leads nothing until then"),
            false => log::info!("the controller is heard again"),
        }
        let held: Vec<PartitionNumber> = self.image.replicas_on(self.settings.node).collect();
        for number in held {
            if cut_off {
                self.fail_produces(number, ErrorCode::NOT_LEADER_OR_FOLLOWER);
            }
            self.coordinate(now, number);
            self.wake_fetches(number);
        }
    }
}
