//! The two clocks: the monotonic one that timers use, and the wall clock with whether it is
//! trusted.

use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use weir_core::types::{Time, WallTime};

/// Nanoseconds since the driver started, as the node counts time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    pub fn now(&self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The moment at which [`Clock::now`] will be `time`.
    pub fn instant(&self, time: Time) -> Instant {
        self.start + std::time::Duration::from_nanos(time.0)
    }
}

pub fn wall_time() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The begin of 2026: a clock before the day of this program is wrong for certain.
const EPOCH_OF_WEIR_MS: i64 = 1_767_225_600_000;

/// Whether the wall clock may expire records. Either something vouches for it: systemd-timesyncd
/// has set it since the boot, or the board has a battery clock. Or it is later than the last write
/// to the log,
/// `floor_ms`: a clock that stood still while the power was off is not. Asking the kernel
/// (`adjtimex`) would need a system call that no kept crate wraps.
pub fn wall_time_is_trusted(now: WallTime, floor_ms: Option<i64>) -> bool {
    const VOUCHERS: [&str; 2] = ["/run/systemd/timesync/synchronized", "/sys/class/rtc/rtc0"];
    if now.0 < EPOCH_OF_WEIR_MS {
        return false;
    }
    now.0 > floor_ms.unwrap_or(0) || VOUCHERS.iter().any(|path| Path::new(path).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_the_last_write_or_before_this_program_is_not_trusted() {
        let now = wall_time();
        assert!(wall_time_is_trusted(now, None));
        assert!(wall_time_is_trusted(now, Some(now.0 - 1)));
        assert!(!wall_time_is_trusted(WallTime(0), None));
    }
}
