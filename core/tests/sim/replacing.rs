//! Taking batches out of a simulated log and writing others anew, as key compaction does: holes and
//! frames of kind replace, under every fault.

use crate::checks::Verdict;
use crate::history::{Placed, Sent};
use crate::log_run::LogRun;
use bytes::Bytes;
use weir_core::log::Replacement;
use weir_core::types::{Offset, PartitionNumber};

/// A part of a partition that is being replaced.
pub struct Replacing {
    pub number: PartitionNumber,
    /// The batches that are taken out.
    removed: Vec<i64>,
}

impl LogRun {
    /// Replaces some batches in a row: most by holes, some by what they are.
    pub fn replace_some(&mut self, number: PartitionNumber) -> Verdict {
        let log = self.log.as_mut().expect("it is open");
        let view = log.partition(number).expect("it is known");
        let (start, end) = (view.log_start.0, view.durable_end.0);
        let history = &self.partitions[&number].history;
        // The last batch stays.
        let placed = history.placed.range(start..).filter(|(_, placed)| placed.end < end);
        let there = placed.filter(|(base, _)| !history.removed.contains_key(base));
        let there: Vec<(i64, Placed)> = there.map(|(base, placed)| (*base, *placed)).collect();
        if self.replacing.is_some() || there.is_empty() {
            return Ok(());
        }
        let rng = &mut self.world.rng;
        let first = rng.below(there.len() as u64) as usize;
        let count = 1 + rng.below(12) as usize;
        let (mut removed, mut replacements) = (Vec::new(), Vec::new());
        for (base, placed) in there.into_iter().skip(first).take(count) {
            match rng.below(10) {
                0..6 => {
                    removed.push(base);
                    put_hole(&mut replacements, base, placed.end, rng.percent(70));
                }
                6..8 => {
                    let batch = stored(&history.sent[&placed.id], base, placed.leader_epoch);
                    replacements.push(Replacement::Batch(batch));
                }
                _ => {}
            }
        }
        // It may have no room, or be fenced.
        if log.replace(self.world.now, number, replacements).is_ok() {
            log::trace!("{removed:?} of {number:?} are taken out");
            let partition = self.partitions.get_mut(&number).expect("it is known");
            partition.history.replaced = true;
            removed.iter().for_each(|base| partition.history.remove(*base));
            self.replacing = Some(Replacing { number, removed });
        }
        self.pump()
    }

    /// Notes when what is being replaced has become durable.
    pub fn note_replaced(&mut self) {
        let log = self.log.as_ref();
        let view = |number| log.and_then(|log| log.partition(number));
        let goes_on = |number| view(number).is_some_and(|view| view.rewriting);
        let done = |replacing: &mut Replacing| !goes_on(replacing.number);
        let Some(Replacing { number, removed }) = self.replacing.take_if(done) else { return };
        let history = &mut self.partitions.get_mut(&number).expect("it is known").history;
        for base in removed {
            history.removed.get_mut(&base).expect("it was taken out").gone = true;
        }
    }

    /// What was being taken out from some offset on is truncated.
    pub fn truncate_replacing(&mut self, of: PartitionNumber, from: i64) {
        if let Some(replacing) = self.replacing.as_mut().filter(|one| one.number == of) {
            replacing.removed.retain(|base| *base < from);
        }
    }
}

/// Adds a hole, or makes the last one longer.
fn put_hole(replacements: &mut Vec<Replacement>, base: i64, end: i64, joins: bool) {
    let more = (end - base) as i32;
    if let Some(Replacement::Hole { base_offset, last_offset_delta }) = replacements.last_mut()
        && joins
        && base_offset.0 + i64::from(*last_offset_delta) + 1 == base
    {
        *last_offset_delta += more;
        return;
    }
    let base_offset = Offset(base);
    replacements.push(Replacement::Hole { base_offset, last_offset_delta: more - 1 });
}

/// A batch as it stands in the log.
fn stored(sent: &Sent, base: i64, leader_epoch: i32) -> Bytes {
    let mut bytes = sent.bytes.to_vec();
    bytes[..8].copy_from_slice(&base.to_be_bytes());
    bytes[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
    bytes.into()
}
