//! What is quarantined in the log of one gateway comes back from the others.
//!
//! | the gateway is | then |
//! |---|---|
//! | in sync, and somebody else is too | it asks to be taken out of the in-sync set |
//! | not in sync | it begins the partition anew, and fetches all of it |
//! | the only one in sync | nothing: there is nowhere to have it from |
//!
//! It leaves the in-sync set first, because whoever is in it counts as having everything.

use super::super::Node;
use super::super::site::{After, Ask};
use crate::metadata::PartitionState;
use crate::types::{NodeId, PartitionNumber, Time};
use alloc::vec::Vec;

/// Partitions that are refilled at the same time: each is fetched whole.
const REFILLED_MAX: usize = 2;

impl Node {
    /// Looks for partitions with damage, now and then.
    pub(in crate::node) fn repair(&mut self, now: Time) {
        let me = self.settings.node;
        let Some(own) = self.image.broker(me).filter(|own| !own.fenced) else { return };
        let (node, epoch) = (me, own.epoch);
        let damaged = |number: &PartitionNumber| {
            self.log.partition(*number).is_some_and(|view| view.is_damaged)
        };
        let held = self.image.replicas_on(me).filter(damaged);
        let states = held.filter_map(|number| Some((number, self.image.state(number)?.clone())));
        let curable = states.filter(|(_, state)| is_curable(state, me));
        let curable: Vec<(PartitionNumber, PartitionState)> = curable.take(REFILLED_MAX).collect();
        for (number, state) in curable {
            if state.is_in_sync(me) {
                log::warn!("partition {}: damaged here; it is to come from another", number.0);
                self.ask(now, Ask::Lost { node, epoch, number }, After::Nothing);
            } else if self.replicas.following(number).is_some() {
                self.refill(now, number);
            }
        }
    }

    fn refill(&mut self, now: Time, number: PartitionNumber) {
        let Some(start) = self.log.partition(number).map(|view| view.log_start) else { return };
        log::info!("partition {}: begun anew at {start}, to be had from its leader", number.0);
        self.log.restart_at(now, number, start);
        self.fetch_next(now, number);
    }
}

/// Whether somebody else has everything.
fn is_curable(state: &PartitionState, me: NodeId) -> bool {
    state.leader.is_some() && state.isr.iter().any(|node| *node != me)
}
