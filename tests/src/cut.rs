//! What a power cut does to the writes that were not flushed: any part of them is there, in any
//! order, torn between sectors.

use bytes::Bytes;
use std::ops::AddAssign;
use weir_core::rng::Rng;

pub const SECTOR: usize = 512;

/// ext4 relies on its superblock being written in one piece: it carries a checksum, has two
/// sectors, and is read before the journal. No machine mounts one that is torn.
const SUPERBLOCK_END: u64 = 2048;

/// What was done to the writes that were not flushed at the cut.
#[derive(Clone, Copy, Debug, Default)]
pub struct Harm {
    pub dropped: u64,
    /// Some sectors are there, others are not.
    pub torn: u64,
    /// There, though one that was written earlier is not, or stands above it.
    pub reordered: u64,
}

impl AddAssign for Harm {
    fn add_assign(&mut self, other: Harm) {
        self.dropped += other.dropped;
        self.torn += other.torn;
        self.reordered += other.reordered;
    }
}

/// Gives a random part of the writes, in an order of its own, to `put`.
pub fn damage(writes: &[(u64, &Bytes)], rng: &mut Rng, mut put: impl FnMut(u64, &Bytes)) -> Harm {
    // Each image has its own temper, so that among many there are some where everything is lost,
    // some where nothing is, and some where everything is torn.
    let drop_percent = [0, 30, 60, 100][rng.below(4) as usize];
    let tear_percent = [0, 50, 100][rng.below(3) as usize];
    let mut order: Vec<usize> = (0..writes.len()).collect();
    if rng.percent(75) {
        for last in (1..order.len()).rev() {
            order.swap(last, rng.below(last as u64 + 1) as usize);
        }
    }
    let mut harm = Harm::default();
    let mut first_missing = usize::MAX;
    let mut whole = Vec::new();
    for index in order {
        let (at, data) = writes[index];
        if rng.percent(drop_percent) {
            harm.dropped += 1;
            first_missing = first_missing.min(index);
            continue;
        }
        if at >= SUPERBLOCK_END && data.len() > SECTOR && rng.percent(tear_percent) {
            harm.torn += 1;
            first_missing = first_missing.min(index);
            for from in (0..data.len()).step_by(SECTOR) {
                if rng.percent(50) {
                    let sector = data.slice(from..(from + SECTOR).min(data.len()));
                    put(at + from as u64, &sector);
                }
            }
        } else {
            put(at, data);
            whole.push(index);
        }
    }
    // The first of those that are missing or were put later.
    let mut first_left = first_missing;
    for index in whole.into_iter().rev() {
        harm.reordered += u64::from(index > first_left);
        first_left = first_left.min(index);
    }
    harm
}
