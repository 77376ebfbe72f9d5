//! Taking batches out of a simulated log and writing others anew, as key compaction does: holes and
//! frames of kind replace, under every fault.

use crate::checks::Verdict;
use crate::history::{Placed, Sent};
use crate::log_run::LogRun;
use bytes::Bytes;
use weir_core::log::Replacement;
use weir_core::types::{Offset, PartitionNumber};

/// Header of a frame on flash.
const FRAME_HEADER_BYTES: u64 = 32;

/// A part of a partition that is being replaced.
pub struct Replacing {
    pub number: PartitionNumber,
    /// The batches that are taken out.
    removed: Vec<i64>,
    /// The log has rewritten so many bytes when all of it is durable.
    rewritten_bytes: u64,
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
        let bytes = replacements.iter().map(|one| match one {
            Replacement::Batch(batch) => FRAME_HEADER_BYTES + batch.len() as u64,
            Replacement::Hole { .. } => FRAME_HEADER_BYTES,
        });
        let rewritten_bytes = log.stats().rewritten_bytes + bytes.sum::<u64>();
        // It may have no room, or be fenced.
        if log.replace(self.world.now, number, replacements).is_ok() {
            log::trace!("{removed:?} of {number:?} are taken out");
            let partition = self.partitions.get_mut(&number).expect("it is known");
            partition.history.replaced = true;
            removed.iter().for_each(|base| partition.history.remove(*base));
            self.replacing = Some(Replacing { number, removed, rewritten_bytes });
        }
        self.pump()
    }

    /// Notes when what is being replaced has become durable.
    pub fn note_replaced(&mut self) {
        if self.replacing.is_none() {
            return;
        }
        let rewritten = self.log.as_ref().map_or(0, |log| log.stats().rewritten_bytes);
        let done = |replacing: &mut Replacing| replacing.rewritten_bytes <= rewritten;
        let Some(Replacing { number, removed, .. }) = self.replacing.take_if(done) else { return };
        let history = &mut self.partitions.get_mut(&number).expect("it is known").history;
        for base in removed {
            history.removed.get_mut(&base).expect("it was taken out").gone = true;
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
