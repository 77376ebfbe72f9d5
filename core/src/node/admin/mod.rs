//! What operators ask of the cluster: who leads and holds partitions, who serves, who votes.
//!
//! Only the controller is asked; other gateways hand their requests on to it. The deciders build
//! the answer at once; it leaves when what was decided is committed.

mod gateways;
mod partitions;
mod quorum;

pub(super) use gateways::{DRAINING, alter_gateway, draining};
pub(super) use quorum::Votes;

use super::Node;
use super::changes::Then;
use super::connections::Caller;
use crate::metadata::Record;
use crate::types::{NodeId, Time};
use crate::wire::replicas::{
    AlterPartitionReassignmentsRequest, ElectLeadersRequest, UnregisterBrokerRequest,
};
use alloc::vec::Vec;

/// A request that the controller decides on.
#[derive(Debug)]
pub(super) enum Wish {
    ElectLeaders(ElectLeadersRequest),
    Reassign(AlterPartitionReassignmentsRequest),
    Unregister(UnregisterBrokerRequest),
}

impl Node {
    pub(super) fn decide_wished(
        &mut self,
        now: Time,
        caller: Caller,
        wish: Wish,
    ) -> (Vec<Record>, Then) {
        let (Some(controller), Some(quorum)) = (&self.site.controller, self.site.quorum()) else {
            self.close(caller);
            return (Vec::new(), Then::Nothing);
        };
        let image = &self.image;
        match wish {
            Wish::ElectLeaders(asked) => partitions::elect(controller, image, caller, asked),
            Wish::Reassign(asked) => partitions::reassign(controller, image, caller, asked),
            Wish::Unregister(asked) => {
                let removed = match quorum.members().majority_counts(NodeId(asked.broker_id)) {
                    true => Err(gateways::is_voter(asked.broker_id)),
                    false => Ok(controller.remove(now, image, NodeId(asked.broker_id))),
                };
                gateways::removed(caller, removed)
            }
        }
    }
}
