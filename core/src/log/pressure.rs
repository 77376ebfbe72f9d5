//! How short the disk budget is, and saying so before it bites.
//!
//! State: what happens in it; entered when no more than that is free
//! - Roomy: nothing
//! - Low: a warning, half as much again as the next
//! - Expiring: records go before their time, where the topic's policy lets them: 8 %
//! - Refusing: user data is refused: 4 %, the reserve
//!
//! Each change is one line of log. A state is left again only when [`Space::slack`] more is free
//! than it was entered with, so that a log that lives at a border does not say so at each slot.

use super::space::Space;
use super::{Log, Stats};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pressure {
    #[default]
    Roomy,
    Low,
    Expiring,
    Refusing,
}

impl Pressure {
    pub const ALL: [Pressure; 4] =
        [Pressure::Roomy, Pressure::Low, Pressure::Expiring, Pressure::Refusing];

    pub fn name(self) -> &'static str {
        match self {
            Pressure::Roomy => "roomy",
            Pressure::Low => "low",
            Pressure::Expiring => "expiring",
            Pressure::Refusing => "refusing",
        }
    }

    /// The state that so many free slots lead to.
    fn next(self, space: &Space) -> Pressure {
        let entered = [u32::MAX, space.low(), space.pressure(), space.reserve()];
        let mut next = Pressure::Roomy;
        for (state, entered) in Pressure::ALL.into_iter().zip(entered) {
            let slack = if state <= self { space.slack() } else { 0 };
            if space.free() <= entered.saturating_add(slack) {
                next = state;
            }
        }
        next
    }
}

impl Log {
    /// Says it when the pressure has changed.
    pub(crate) fn note_pressure(&mut self) {
        let before = self.pressure;
        self.pressure = before.next(&self.space);
        if self.pressure == before {
            return;
        }
        let (free, count) = (self.space.free(), self.space.count());
        let share = free * 100 / count.max(1);
        match self.pressure {
            Pressure::Roomy => log::info!("the disk budget is at ease again: {share} % is free"),
            Pressure::Low => log::warn!(
                "{share} % of the disk budget is free: below {} % the oldest records that topics \
                 let go will be expired before their time. Raise flash.bytes of a new log, or \
                 lower retention",
                self.space.pressure() * 100 / count.max(1)
            ),
            Pressure::Expiring => log::warn!(
                "{share} % of the disk budget is free: the oldest records that topics let go are \
                 expired before their time; below {} % produce will be refused",
                self.space.reserve() * 100 / count.max(1)
            ),
            Pressure::Refusing => log::error!(
                "{share} % of the disk budget is free: produce is refused until some is; fetches \
                 and offset commits go on. Lower retention.ms or retention.bytes, or delete a topic"
            ),
        }
    }

    pub(crate) fn pressure_stats(&self, stats: &mut Stats) {
        stats.pressure = self.pressure;
        stats.slots_expire_below = self.space.pressure();
        stats.slots_refuse_below = self.space.reserve();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn states(free: impl IntoIterator<Item = u32>) -> alloc::vec::Vec<Pressure> {
        let mut state = Pressure::Roomy;
        let step = |free: u32| {
            let mut space = Space::new(1000, 0, 4 << 20);
            while space.free() > free {
                space.take(0).unwrap();
            }
            state = state.next(&space);
            state
        };
        free.into_iter().map(step).collect()
    }

    #[test]
    fn pressure_rises_at_its_borders_and_falls_beyond_them() {
        use Pressure::{Expiring, Low, Refusing, Roomy};
        assert_eq!(
            states([1000, 121, 120, 121, 81, 80, 81, 40, 41, 60, 100, 140]),
            [
                Roomy, Roomy, Low, Low, Low, Expiring, Expiring, Refusing, Refusing, Expiring, Low,
                Roomy
            ]
        );
        assert_eq!(states([0, 1000]), [Refusing, Roomy]);
    }
}
