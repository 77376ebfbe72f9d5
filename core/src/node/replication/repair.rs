//! What is quarantined in the log of one gateway comes back from the others.
//!
//! | the gateway is | then |
//! |---|---|
//! | in sync, and somebody else is too | it asks to be taken out of the in-sync set |
//! | not in sync | it begins the partition anew, and fetches all of it |
//! | the only one in sync, and another is on its way and has it | nobody reads it meanwhile |
//! | the only one in sync | it is left out: there is nowhere to have it from |
//!
//! It leaves the in-sync set first, because whoever is in it counts as having everything; until
//! then nobody reads past what is missing here. It begins anew before its first fetch: else it
//! would be in sync again, and perhaps lead, with what it has.

use super::super::Node;
use super::super::site::{After, Ask};
use super::Look;
use crate::types::{Nanos, PartitionNumber, Time};
use alloc::vec::Vec;

/// How often damage is looked for, at most. A gateway of a site wakes up for its heartbeats, and
/// when somebody could not read.
const LOOK_EVERY: Nanos = Nanos(1_000_000_000);

/// Partitions that leave the in-sync set at the same time: each is fetched whole.
const LEFT_MAX: usize = 2;

impl Node {
    /// Looks for partitions with damage, now and then.
    pub(in crate::node) fn repair(&mut self, now: Time) {
        if now < self.replicas.look.next {
            return;
        }
        self.replicas.look = Look { next: now + LOOK_EVERY, is_due: false };
        let me = self.settings.node;
        let Some(own) = self.image.broker(me).filter(|own| !own.fenced) else { return };
        let (node, epoch) = (me, own.epoch);
        let in_sync = |number: &PartitionNumber| {
            self.image.state(*number).is_some_and(|state| state.is_in_sync(me))
        };
        let leaves = self.log.damaged().filter(in_sync);
        let leaves = leaves.filter(|number| self.replicas.is_elsewhere(*number));
        let leaves: Vec<PartitionNumber> = leaves.take(LEFT_MAX).collect();
        for number in leaves {
            log::warn!("partition {}: damaged here; it is to come from another", number.0);
            self.ask(now, Ask::Lost { node, epoch, number }, After::Nothing);
        }
    }

    /// A follower that is not in sync has nothing yet that anybody counts on.
    pub(super) fn refill_if_damaged(&mut self, now: Time, number: PartitionNumber) {
        let Some(view) = self.log.partition(number).filter(|view| view.is_damaged) else { return };
        let start = view.log_start;
        let me = self.settings.node;
        if self.image.state(number).is_none_or(|state| state.is_in_sync(me))
            || self.replicas.following(number).is_none()
        {
            return;
        }
        log::info!("partition {}: begun anew at {start}, to be had from its leader", number.0);
        self.log.restart_at(now, number, start);
    }
}
