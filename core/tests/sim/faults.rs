//! What a disk does wrong, and which promises hold all the same.
//!
//! | fault | what still holds |
//! |---|---|
//! | power cut: any of the unflushed sectors, torn at sectors or 16 KiB pages | every promise |
//! | write, flush, read or zeroing that fails; a file system that is full | every promise |
//! | stall of 250 ms to 5 s | every promise |
//! | a cut that harms flushed neighbours in the page it tears | `DamageIsNamed` |
//! | bit rot of what was flushed | `DamageIsNamed` |
//! | a sector that cannot be read any more: its 4 KiB are hit (see `damage`) | `DamageIsNamed` |
//! | a write that lands a page beside its place | `DamageIsNamed` |
//! | a flush that says it is done and is not | `DamageIsNamed` |
//!
//! Nobody keeps an acknowledged record whose only copy the medium has lost, so under the last five
//! `DamageIsNamed` takes the place of `AckedIsDurable`: what was not hit is there, unchanged and in
//! order; what was hit is read back as *damaged* and never served; the log starts and works on. It
//! allows what a single copy cannot rule out: what the very last flush before the cut claimed and
//! lost looks like a torn tail and goes without a name; a partition whose last group is lost ends
//! where the group before it ended; and a producer's sequences may be forgotten with the groups
//! that held them, so a batch that is sent again may stand twice. Where a second harm, or a failed
//! write, has taken a slot's footer, damage costs its whole group; a slot whose very first write
//! went elsewhere looks unused and is lost whole.

use weir_core::rng::Rng;

/// How often the disk misbehaves, in operations of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub write_error: u64,
    pub flush_error: u64,
    pub read_error: u64,
    pub zero_error: u64,
    /// A stall of 250 ms to 5 s, as SD cards have them.
    pub stall: u64,
    /// How often the file system has room for only a part of the log, in runs of a hundred.
    pub full: u64,
    /// A flush that says `Done` and did nothing.
    pub lying_flush: u64,
    /// A write that lands one page beside its place.
    pub misdirected: u64,
    /// A bit of what was flushed flips, in actions of the clients.
    pub rot: u64,
    /// A cut that harms flushed sectors of a page that it tears, in cuts of a thousand.
    pub neighbours: u64,
}

impl Faults {
    /// Whether the device may say no.
    pub fn any(&self) -> bool {
        self.write_error + self.flush_error + self.read_error + self.zero_error + self.full > 0
    }

    /// Most runs have a disk without faults; the others have some of them, rarely or often.
    pub fn random(rng: &mut Rng) -> Faults {
        let mut faults = Faults::default();
        if rng.percent(50) {
            return faults;
        }
        let mut sometimes =
            |per_mille: u64| if rng.percent(40) { rng.below(per_mille) + 1 } else { 0 };
        faults.write_error = sometimes(20);
        faults.flush_error = sometimes(20);
        faults.read_error = sometimes(20);
        faults.zero_error = sometimes(100);
        faults.stall = sometimes(10);
        faults.full = sometimes(50);
        faults
    }

    /// Adds some of the faults under which a record may be lost.
    pub fn and_harm(self, rng: &mut Rng) -> Faults {
        let usual = rng.percent(50);
        let mut sometimes =
            |per_mille: u64| if rng.percent(40) { rng.below(per_mille) + 1 } else { 0 };
        Faults {
            lying_flush: sometimes(10),
            misdirected: sometimes(4),
            rot: sometimes(4),
            neighbours: if usual { 10 } else { sometimes(300) },
            ..self
        }
    }
}
