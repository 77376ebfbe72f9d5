//! How fast replicas are fetched that are moved here: what `kafka-reassign-partitions --throttle`
//! sets, so that a move leaves the link to its clients.
//!
//! The gateway's rate is divided among the replicas that its topics name and that are not in sync.
//! Those that are in sync are never held up: the high watermark waits for them.

use super::super::Node;
use crate::metadata::configs::{FOLLOWER_RATE, FOLLOWER_THROTTLED, elements};
use crate::types::PartitionNumber;
use alloc::collections::BTreeSet;
use alloc::format;

impl Node {
    /// Rates, in-sync sets or topics have changed.
    pub(in crate::node) fn set_throttles(&mut self) {
        let me = self.settings.node;
        let own = self.image.broker(me);
        let rate = own.and_then(|own| own.configs.get(FOLLOWER_RATE)?.parse::<u64>().ok());
        let throttled: BTreeSet<PartitionNumber> = match rate {
            Some(_) => self.image.replicas_on(me).filter(|it| self.is_throttled(*it)).collect(),
            None => BTreeSet::new(),
        };
        let share = rate.map(|rate| (rate / (throttled.len() as u64).max(1)).max(1));
        for (number, following) in self.replicas.all_followed() {
            following.follower.throttle = share.filter(|_| throttled.contains(&number));
        }
    }

    fn is_throttled(&self, number: PartitionNumber) -> bool {
        let me = self.settings.node;
        let Some(of) = self.image.partition_of(number) else { return false };
        let listed = self.image.topic_by_id(of.topic).and_then(|topic| {
            let listed = topic.configs.get(FOLLOWER_THROTTLED)?;
            let this = format!("{}:{}", of.index, me.0);
            Some(elements(listed).any(|one| one == "*" || one == this))
        });
        let in_sync = self.image.state(number).is_some_and(|state| state.is_in_sync(me));
        listed == Some(true) && !in_sync
    }
}
