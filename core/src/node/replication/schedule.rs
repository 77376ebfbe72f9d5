//! When to look at which partition again.

use crate::types::{PartitionNumber, Time};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

#[derive(Debug, Default)]
pub(super) struct Schedule {
    by_number: BTreeMap<PartitionNumber, Time>,
    by_time: BTreeSet<(Time, PartitionNumber)>,
}

impl Schedule {
    pub fn set(&mut self, number: PartitionNumber, due: Option<Time>) {
        let before = match due {
            Some(due) => self.by_number.insert(number, due),
            None => self.by_number.remove(&number),
        };
        if let Some(before) = before {
            self.by_time.remove(&(before, number));
        }
        if let Some(due) = due {
            self.by_time.insert((due, number));
        }
    }

    /// What is due. Each is there once, whatever it is set to meanwhile.
    pub fn take_due(&mut self, now: Time) -> Vec<PartitionNumber> {
        let mut due = Vec::new();
        while let Some((_, number)) = self.first().filter(|(time, _)| *time <= now) {
            self.set(number, None);
            due.push(number);
        }
        due
    }

    pub fn first(&self) -> Option<(Time, PartitionNumber)> {
        self.by_time.first().copied()
    }
}
