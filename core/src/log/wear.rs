//! The wear governor: how often a card may be flushed, so that it lasts as long as is wanted.
//!
//! A card programs whole flash pages: a commit of 4 KiB costs it 16. What the records themselves
//! need has to be written; the pages that small commits fill only in part can be saved, by fewer
//! commits. So the cap is what is left of the card's endurance, spread over what is left of the
//! wanted life, less the rate of the records' own bytes, in pages a second. It follows what is
//! measured: the bytes programmed over the card's life, and the payload of the last hour. A quiet
//! month gives a busy one more.
//!
//! It never goes below one commit a second: a longer wait would save little of what a load that
//! large costs, and nobody would wait for it. The forecast then says that the card will not last.
//!
//! Does not see what a card does inside (its write amplification belongs into the stated endurance,
//! which makers state for writes like ours), nor what else writes to it.

use super::{FlushCap, Log, Stats, Upkeep};
use crate::types::{Nanos, Time};

/// What a small commit programs at least.
pub(crate) const PAGE_BYTES: u64 = 16 << 10;
/// Seconds of a year of 365.25 days.
pub const YEAR_SECONDS: u64 = 31_557_600;

const DAY_SECONDS: u64 = 86_400;
/// The governor looks again after so long.
const LOOK_EVERY: Nanos = Nanos(10_000_000_000);
/// Near the end of the wanted life what is left is spread over this much at least.
const REST_SECONDS_MIN: u64 = 30 * DAY_SECONDS;
/// What was saved is spent at four times the even rate at most.
const SAVED_FACTOR: u64 = 4;
const PER_SECOND_MAX: u64 = 100_000;

/// What the card's maker states, and how long it should last, in time that the gateway runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Card {
    pub endurance_bytes: u64,
    pub wanted_seconds: u64,
}

/// Counters over the life of the medium, which the owner keeps over restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Life {
    /// Time that the log was open.
    pub seconds: u64,
    /// Whole flash pages that were programmed for everything below.
    pub programmed_bytes: u64,
    pub payload_bytes: u64,
    pub written_bytes: u64,
    pub zeroed_bytes: u64,
    pub flushes: u64,
}

impl Life {
    /// Bytes written for each byte of record batches, zeroing left out.
    pub fn write_amplification(&self) -> f64 {
        self.written_bytes as f64 / self.payload_bytes.max(1) as f64
    }
}

impl Card {
    /// Commits a second that the card takes, small ones beside so many payload bytes a second.
    pub fn flushes_per_second(&self, life: &Life, payload_per_second: u64) -> u32 {
        let left = self.endurance_bytes.saturating_sub(life.programmed_bytes);
        let rest = self.wanted_seconds.saturating_sub(life.seconds).max(REST_SECONDS_MIN);
        let even = self.endurance_bytes / self.wanted_seconds.max(1);
        let allowed = (left / rest).min(even * SAVED_FACTOR);
        let pages = allowed.saturating_sub(payload_per_second) / PAGE_BYTES;
        pages.clamp(1, PER_SECOND_MAX) as u32
    }

    /// How long the card lasts from its first day, at so many bytes programmed a second.
    fn forecast_seconds(&self, life: &Life, programmed_per_second: u64) -> u64 {
        let left = self.endurance_bytes.saturating_sub(life.programmed_bytes);
        life.seconds.saturating_add(left / programmed_per_second.max(1))
    }
}

/// A rate over the last while: over all the time there was, as long as that is less.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    bytes: u64,
    per_second: u64,
}

impl Rate {
    /// `bytes` is the counter now; it was looked at `step_ms` ago.
    fn look(&mut self, bytes: u64, step_ms: u64, over_ms: u64) {
        let grown = bytes.saturating_sub(self.bytes).saturating_mul(1000);
        self.bytes = bytes;
        let over = u128::from(over_ms.max(step_ms).max(1));
        let kept = u128::from(self.per_second) * (over - u128::from(step_ms));
        self.per_second = ((kept + u128::from(grown)) / over) as u64;
    }
}

#[derive(Debug, Default)]
pub(crate) struct Wear {
    card: Option<Card>,
    /// The life before this start.
    before: Life,
    since: Time,
    looked: Time,
    payload: Rate,
    programmed: Rate,
}

/// The pages that a write touches, in bytes.
pub(crate) fn programmed(at: u64, len: u64) -> u64 {
    (at + len).next_multiple_of(PAGE_BYTES) - at / PAGE_BYTES * PAGE_BYTES
}

impl Log {
    /// Tells of the card, if its endurance is known, and of the life so far. Before that nothing is
    /// governed.
    pub fn set_upkeep(&mut self, now: Time, upkeep: Upkeep) {
        let Upkeep { card, life, scrub } = upkeep;
        self.set_scrub(now, scrub);
        self.wear = Wear { card, before: life, since: now, looked: now, ..Wear::default() };
        self.set_cap();
    }

    /// Looks at what was written and sets the cap.
    pub(crate) fn govern(&mut self, now: Time) {
        let step = now.since(self.wear.looked);
        if step < LOOK_EVERY {
            return;
        }
        let (step_ms, since_ms) = (step.0 / 1_000_000, now.since(self.wear.since).0 / 1_000_000);
        let hour_ms = 3_600_000;
        self.wear.looked = now;
        self.wear.payload.look(self.stats.payload_bytes, step_ms, since_ms.min(hour_ms));
        self.wear.programmed.look(self.disk.programmed_bytes, step_ms, since_ms.min(24 * hour_ms));
        self.set_cap();
    }

    fn set_cap(&mut self) {
        if let Some(card) = self.wear.card {
            let life = self.life();
            let per_second = card.flushes_per_second(&life, self.wear.payload.per_second);
            self.window.set_cap(FlushCap { per_second, burst: per_second.saturating_mul(5) });
        }
    }

    fn life(&self) -> Life {
        let Wear { before, since, looked, .. } = &self.wear;
        Life {
            seconds: before.seconds + looked.since(*since).0 / 1_000_000_000,
            programmed_bytes: before.programmed_bytes + self.disk.programmed_bytes,
            payload_bytes: before.payload_bytes + self.stats.payload_bytes,
            written_bytes: before.written_bytes + self.disk.written_bytes,
            zeroed_bytes: before.zeroed_bytes + self.disk.zeroed_bytes,
            flushes: before.flushes + self.stats.flushes,
        }
    }

    pub(crate) fn wear_stats(&self, stats: &mut Stats) {
        stats.programmed_bytes = self.disk.programmed_bytes;
        stats.cap_per_second = self.window.cap().map(|cap| cap.per_second);
        stats.life = self.life();
        stats.write_amplification = stats.life.write_amplification();
        stats.card = self.wear.card;
        let rate = self.wear.programmed.per_second;
        stats.programmed_bytes_per_second = rate;
        let forecast = self.wear.card.map(|card| card.forecast_seconds(&stats.life, rate));
        stats.forecast_days = forecast.map(|seconds| seconds / DAY_SECONDS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERABYTE: u64 = 1_000_000_000_000;

    fn card(terabytes: u64, years: u64) -> Card {
        Card { endurance_bytes: terabytes * TERABYTE, wanted_seconds: years * YEAR_SECONDS }
    }

    /// Runs a card to the end of its wanted life, a day at a time, with commits of so many bytes as
    /// often as it is let, and gives what it has programmed.
    fn live(card: Card, payload_per_second: impl Fn(u64) -> u64) -> Life {
        let mut life = Life::default();
        let mut payload = Rate::default();
        while life.seconds < card.wanted_seconds {
            let day = life.seconds / DAY_SECONDS;
            let rate = payload_per_second(day);
            life.payload_bytes += rate * DAY_SECONDS;
            payload.look(life.payload_bytes, 86_400_000, 86_400_000);
            let flushes = u64::from(card.flushes_per_second(&life, payload.per_second));
            life.programmed_bytes += (rate + flushes * PAGE_BYTES) * DAY_SECONDS;
            life.seconds += DAY_SECONDS;
        }
        life
    }

    #[test]
    fn a_card_of_30_terabytes_that_should_last_10_years_takes_5_commits_a_second() {
        assert_eq!(card(30, 10).flushes_per_second(&Life::default(), 0), 5);
        assert_eq!(card(300, 10).flushes_per_second(&Life::default(), 0), 58);
    }

    #[test]
    fn a_card_lasts_as_long_as_is_wanted_and_is_used_up_by_then() {
        for (name, rate) in [
            ("commits alone", (|_| 0) as fn(u64) -> u64),
            ("a steady load", |_| 40_000),
            ("a busy month each year", |day| if day % 365 < 30 { 150_000 } else { 10_000 }),
        ] {
            let card = card(30, 10);
            let used = live(card, rate).programmed_bytes as f64 / card.endurance_bytes as f64;
            assert!((0.80..=1.01).contains(&used), "{name}: {used}");
        }
    }

    #[test]
    fn a_load_that_is_too_large_is_not_stopped_and_the_forecast_says_so() {
        let card = card(30, 10);
        assert_eq!(card.flushes_per_second(&Life::default(), 1_000_000), 1);
        let worn = Life { programmed_bytes: 31 * TERABYTE, ..Life::default() };
        assert_eq!(card.flushes_per_second(&worn, 0), 1);
        let years = card.forecast_seconds(&Life::default(), 1_000_000) / YEAR_SECONDS;
        assert_eq!(years, 0);
        assert_eq!(card.forecast_seconds(&worn, 1), 0);
    }

    #[test]
    fn small_writes_program_whole_pages() {
        assert_eq!(programmed(4096, 4096), PAGE_BYTES);
        assert_eq!(programmed(3 * 4096, 8192), 2 * PAGE_BYTES);
        assert_eq!(programmed(0, 1 << 20), 1 << 20);
    }

    #[test]
    fn a_rate_is_the_average_until_there_is_more_to_average_over() {
        let mut rate = Rate::default();
        rate.look(100_000, 10_000, 10_000);
        assert_eq!(rate.per_second, 10_000);
        rate.look(100_000, 10_000, 20_000);
        assert_eq!(rate.per_second, 5_000);
        for _ in 0..2_000 {
            rate.look(rate.bytes, 10_000, 3_600_000);
        }
        assert!(rate.per_second < 50);
    }
}
