//! What a failing seed did: `SIM_LOG=1` prints the core's log lines and the steps of the run.

use std::sync::Once;

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        eprintln!("{} {}: {}", record.level(), record.target(), record.args());
    }

    fn flush(&self) {}
}

/// Prints log lines from now on, if the environment asks for it.
pub fn begin() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        if std::env::var_os("SIM_LOG").is_some() {
            log::set_logger(&Lines).expect("only this sets a logger");
            log::set_max_level(log::LevelFilter::Trace);
        }
    });
}

/// Everything that happened in a run, as one number: two runs of a seed have the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trace(pub u64);

impl Trace {
    pub fn note(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
