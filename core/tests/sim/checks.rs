//! The promises as checkers: each has the name of its promise and says what it saw when it fails.
//!
//! Every checker has a mutation in `mutations.rs` that it must catch.

use crate::harm::Harm;
use crate::history::{Audit, BatchId, History};
use crate::log_run::Partition;
use std::collections::{BTreeMap, BTreeSet};
use weir_core::log::IndexStats;
use weir_core::types::PartitionNumber;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub checker: &'static str,
    pub what: String,
}

pub type Verdict = Result<(), Violation>;

/// What was acknowledged is in the log, unchanged, at the offset that was named, after any cut.
pub struct AckedIsDurable;

/// Offsets have no holes but those that were asked for, an idempotent producer's batches stand once
/// each in the order of their sequence, and nothing that a start has dropped comes back.
pub struct OrderKept;

/// What a reader was given never changes or disappears but by trimming, retention and replacement,
/// what was taken out never comes back, and the high watermark never goes back.
pub struct CommittedStays;

/// In each generation of a group one member at most is told that a partition is its own.
pub struct GroupOwnsEachPartitionOnce;

/// A committed offset that anybody was told, of its storing or when asking for it, is never
/// followed by a lower one.
pub struct OffsetsNeverGoBack;

/// Under damage: what was not hit is there; what was is named, and never served. `faults` says what
/// else a loss may look like.
pub struct DamageIsNamed;

/// A reader of a compacted partition knows the newest value of each key, and sees nothing that was
/// not written where it stands.
pub struct CompactionKeepsLatest;

/// Queues, operations in flight and bytes on the disk keep their stated limits.
pub struct Bounded;

/// Every start ends in service, having read no more than its checkpoint promises.
pub struct AlwaysStarts;

impl AckedIsDurable {
    pub fn check(history: &History, audit: &Audit) -> Verdict {
        let found: BTreeMap<i64, BatchId> =
            audit.batches.iter().map(|found| (found.base_offset, found.id)).collect();
        for (offset, id) in history.acked.range(audit.log_start..) {
            if audit.damaged.iter().any(|(from, to)| (from..to).contains(&offset)) {
                continue;
            }
            match found.get(offset) {
                Some(there) if there == id => {}
                Some(there) => {
                    return Self::fails(format!(
                        "{id:?} was acknowledged at {offset}, where {there:?} is now"
                    ));
                }
                None => {
                    let end = audit.high_watermark;
                    return Self::fails(format!(
                        "{id:?} was acknowledged at {offset} and is gone; the log ends at {end}"
                    ));
                }
            }
        }
        Ok(())
    }

    pub fn fails(what: String) -> Verdict {
        Err(Violation { checker: "AckedIsDurable", what })
    }
}

impl OrderKept {
    pub fn check(history: &History, audit: &Audit) -> Verdict {
        let mut end = None;
        let mut seen = BTreeSet::new();
        let mut sequences: BTreeMap<(i64, i16), i32> = BTreeMap::new();
        for found in &audit.batches {
            let offset = found.base_offset;
            let explained = |end| history.may_be_hole(end, offset, &audit.damaged);
            let hole = end.is_some_and(|end| end != offset && !explained(end));
            if hole && !audit.damaged.iter().any(|(_, to)| *to == offset) {
                return Self::fails(format!("a hole: {end:?} is followed by {offset}"));
            }
            end = Some(found.end());
            let sent = &history.sent[&found.id];
            if history.dropped.contains(&found.id) {
                return Self::fails(format!("{:?} was dropped and is back at {offset}", found.id));
            }
            let elsewhere = |(base, id): (&i64, &BatchId)| *id == found.id && *base != offset;
            if sent.attempts == 1 && history.damaged.iter().any(elsewhere) {
                return Self::fails(format!("{:?} was damaged and is back at {offset}", found.id));
            }
            let repeated = !seen.insert(found.id);
            if repeated && (sent.stamp.is_some() || sent.attempts == 1) {
                return Self::fails(format!(
                    "{:?} is in the log twice, again at {offset}",
                    found.id
                ));
            }
            if let Some(stamp) = sent.stamp {
                let producer = (stamp.producer_id, stamp.producer_epoch);
                let last = sequences.insert(producer, stamp.base_sequence);
                if last.is_some_and(|last| last >= stamp.base_sequence) {
                    return Self::fails(format!("{stamp:?} at {offset} comes after {last:?}"));
                }
            }
        }
        Ok(())
    }

    pub fn fails(what: String) -> Verdict {
        Err(Violation { checker: "OrderKept", what })
    }
}

impl GroupOwnsEachPartitionOnce {
    pub fn fails(what: String) -> Verdict {
        Err(Violation { checker: "GroupOwnsEachPartitionOnce", what })
    }
}

impl OffsetsNeverGoBack {
    pub fn fails(what: String) -> Verdict {
        Err(Violation { checker: "OffsetsNeverGoBack", what })
    }
}

impl CommittedStays {
    pub fn check(history: &History, audit: &Audit) -> Verdict {
        let (start, end) = (audit.log_start, audit.high_watermark);
        if start > history.log_start_max {
            let allowed = history.log_start_max;
            return Self::fails(format!("the log starts at {start}, trimmed was up to {allowed}"));
        }
        if end < history.high_watermark {
            let before = history.high_watermark;
            return Self::fails(format!("the high watermark went back from {before} to {end}"));
        }
        if let Some(back) = audit.batches.iter().find(|b| audit.gone.contains(&b.base_offset)) {
            return Self::fails(format!("{back:?} was taken out and is back"));
        }
        let found: BTreeMap<i64, BatchId> =
            audit.batches.iter().map(|found| (found.base_offset, found.id)).collect();
        for (offset, id) in history.served.range(start..) {
            let damaged = audit.damaged.iter().any(|(from, to)| (from..to).contains(&offset));
            if !damaged && found.get(offset) != Some(id) {
                let there = found.get(offset);
                return Self::fails(format!("{id:?} was served at {offset}, now it is {there:?}"));
            }
        }
        Ok(())
    }

    pub fn fails(what: String) -> Verdict {
        Err(Violation { checker: "CommittedStays", what })
    }
}

impl DamageIsNamed {
    /// A start has shown where a partition ends; what is gone beyond is given up.
    pub fn check_end(
        number: PartitionNumber,
        partition: &mut Partition,
        harm: &Harm,
        end: i64,
        said: bool,
    ) -> Verdict {
        let history = &mut partition.history;
        for (base, id) in history.acked.range(end..).chain(history.served.range(end..)) {
            if !(harm.is_torn(number, *base) || said && harm.is_hit(number, *base)) {
                let what = format!("{id:?} at {base} of {number:?} is gone; the log ends at {end}");
                return Self::fails(what);
            }
        }
        history.damage(end, i64::MAX);
        // What was taken out is back where the hole in its place is lost.
        for (base, removed) in &mut history.removed {
            removed.gone &= !harm.is_torn(number, *base) && !harm.is_hit(number, *base);
        }
        history.high_watermark = history.high_watermark.min(end);
        Ok(())
    }

    /// What is named as damaged must have been hit.
    pub fn check(
        number: PartitionNumber,
        partition: &mut Partition,
        harm: &Harm,
        audit: &Audit,
    ) -> Verdict {
        let history = &mut partition.history;
        for (from, until) in &audit.damaged {
            // What was trimmed once may be there, where the partition has begun anew before it.
            let start = (*from).max(history.log_start_max).min(*until);
            for (base, id) in history.acked.range(start..*until) {
                if !harm.is_hit(number, *base) && !harm.is_torn(number, *base) {
                    let what = format!("{id:?} at {base} of {number:?} is damaged and was not hit");
                    return Self::fails(what);
                }
            }
            history.name_damaged(*from, *until);
        }
        Ok(())
    }

    pub fn fails(what: String) -> Verdict {
        Err(Violation { checker: "DamageIsNamed", what })
    }
}

/// With the replication's limits of a simulated site.
const PENDING_BYTES_MAX: usize = 128 << 10;

/// What a run may use at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub operations_outstanding_max: usize,
    pub medium_bytes_max: u64,
}

impl Bounded {
    pub fn check(limits: &Limits, operations_outstanding: usize, medium_bytes: u64) -> Verdict {
        if operations_outstanding > limits.operations_outstanding_max {
            return Self::fails(format!(
                "{operations_outstanding} disk operations are outstanding"
            ));
        }
        if medium_bytes > limits.medium_bytes_max {
            return Self::fails(format!("the medium has grown to {medium_bytes} bytes"));
        }
        Ok(())
    }

    /// What waits for the flash of a gateway that follows others: as much as it lets wait before it
    /// asks for more, what it has asked for by then, which is a batch of each partition at least,
    /// and what producers have under way.
    pub fn check_pending(bytes: usize) -> Verdict {
        if bytes > PENDING_BYTES_MAX {
            return Self::fails(format!("{bytes} bytes wait for the flash"));
        }
        Ok(())
    }

    pub fn check_index(index: &IndexStats, runs_max: u64) -> Verdict {
        if index.runs > runs_max {
            let what = format!("the index has {} runs of {runs_max}", index.runs);
            return Err(Violation { checker: "BoundedIndex", what });
        }
        Ok(())
    }

    pub fn fails(what: String) -> Verdict {
        Err(Violation { checker: "Bounded", what })
    }
}

impl AlwaysStarts {
    pub fn check(ready: bool, read_bytes: u64, read_bytes_max: u64) -> Verdict {
        if !ready {
            return Self::fails("the start never ended".into());
        }
        if read_bytes > read_bytes_max {
            return Self::fails(format!("a start read {read_bytes} of {read_bytes_max} bytes"));
        }
        Ok(())
    }

    pub fn fails(what: String) -> Verdict {
        Err(Violation { checker: "AlwaysStarts", what })
    }
}

impl CompactionKeepsLatest {
    /// `written`: batches by their ends, each with the key and value of its records; `found`: what
    /// a reader saw.
    pub fn check<'a>(
        written: impl Iterator<Item = (i64, &'a [(u64, Option<u64>)])>,
        found: &[(i64, (u64, Option<u64>))],
    ) -> Verdict {
        let mut all = BTreeMap::new();
        let mut newest = BTreeMap::new();
        for (end, records) in written {
            for (offset, record) in (end - records.len() as i64..).zip(records) {
                all.insert(offset, *record);
                newest.insert(record.0, record.1);
            }
        }
        let mut read = BTreeMap::new();
        let mut next = 0;
        for (offset, record) in found {
            if *offset < next {
                return Self::fails(format!("{offset} comes after {}", next - 1));
            }
            next = offset + 1;
            if all.get(offset) != Some(record) {
                let there = all.get(offset);
                return Self::fails(format!("{record:?} is at {offset} in place of {there:?}"));
            }
            read.insert(record.0, record.1);
        }
        for (key, value) in newest {
            let known = read.get(&key).copied().flatten();
            if known != value {
                return Self::fails(format!("key {key} is {value:?}, a reader knows {known:?}"));
            }
        }
        Ok(())
    }

    pub fn fails(what: String) -> Verdict {
        Err(Violation { checker: "CompactionKeepsLatest", what })
    }
}
