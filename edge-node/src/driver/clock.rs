//! The two clocks: the monotonic one that timers use, and the wall clock with whether it is trusted.

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

/// Whether something vouches for the wall clock: systemd-timesyncd has set it since the boot, or the
/// board has a battery clock. Asking the kernel (`adjtimex`) would need a system call that no kept crate
/// wraps. Without a voucher the node still trusts a clock that is later than its newest record.
pub fn wall_time_is_trusted() -> bool {
    const VOUCHERS: [&str; 2] = ["/run/systemd/timesync/synchronized", "/sys/class/rtc/rtc0"];
    VOUCHERS.iter().any(|path| Path::new(path).exists())
}
