//! The promises of replication as checkers, and what has happened as far as they need to know.

use super::store::{Content, Entry};
use crate::checks::{Verdict, Violation};
use std::collections::BTreeMap;
use weir_core::types::{LeaderEpoch, NodeId};

/// At most one start of one gateway leads in an epoch.
pub struct SingleLeaderPerEpoch;

/// Two logs that have a record of the same epoch at the same offset are the same up to there.
pub struct LogMatching;

/// Every in-sync replica has everything below the high watermark on flash.
pub struct StrongIsr;

/// What was committed or acknowledged is in the log of every later leader, unchanged, and on some
/// gateway's flash at any time.
pub struct NoCommittedRecordLostGlobally;

/// The high watermark of a leader never goes back, and what a new leader tells is not below what
/// any before it has told.
pub struct MonotonicHighWatermark;

/// What a consumer reads, from leader or follower, is committed.
pub struct ConsumersSeeOnlyCommitted;

/// When the faults end, all replicas get in sync, alike, and take records again.
pub struct Converges;

/// All that the checkers remember.
#[derive(Default)]
pub struct History {
    /// By offset, from zero.
    pub committed: Vec<Entry>,
    /// The newest epoch that somebody has led in.
    pub newest_epoch: i32,
    leaders: BTreeMap<LeaderEpoch, (NodeId, u64)>,
    /// What was ever written at an offset in an epoch, and the epoch of the record before it.
    written: BTreeMap<(i64, i32), (u64, Option<i32>)>,
}

fn fails(checker: &'static str, what: String) -> Verdict {
    Err(Violation { checker, what })
}

impl SingleLeaderPerEpoch {
    pub fn check(history: &mut History, epoch: LeaderEpoch, node: NodeId, boot: u64) -> Verdict {
        let first = *history.leaders.entry(epoch).or_insert((node, boot));
        if first == (node, boot) {
            return Ok(());
        }
        let what = format!("{first:?} and {:?} lead in {epoch:?}", (node, boot));
        fails("SingleLeaderPerEpoch", what)
    }
}

impl LogMatching {
    /// Looks at what was appended from `from` on.
    pub fn check(history: &mut History, node: NodeId, log: &Content, from: i64) -> Verdict {
        for offset in from..log.end() {
            let entry = log.at(offset).expect("it is in the log");
            let before = log.at(offset - 1).map(|entry| entry.epoch);
            let written = history.written.entry((offset, entry.epoch));
            let (id, epoch) = *written.or_insert((entry.id, before));
            let same = before.is_none() || epoch.is_none() || epoch == before;
            if id != entry.id || !same {
                let what = format!(
                    "{node:?} has {entry:?} after {before:?} at {offset}, another log has {id} \
                     after {epoch:?}"
                );
                return fails("LogMatching", what);
            }
        }
        Ok(())
    }
}

/// The first offset below `end` at which a log lacks what is committed.
fn lacks(history: &History, log: &Content, end: usize) -> Option<i64> {
    let from = log.start.max(0);
    (from..end as i64).find(|offset| log.at(*offset) != Some(history.committed[*offset as usize]))
}

impl StrongIsr {
    pub fn check(history: &History, node: NodeId, durable: &Content) -> Verdict {
        let Some(at) = lacks(history, durable, history.committed.len()) else { return Ok(()) };
        let (there, end) = (durable.at(at), history.committed.len());
        let what = format!("{node:?} is in sync and has {there:?} at {at}; committed is {end}");
        fails("StrongIsr", what)
    }
}

impl NoCommittedRecordLostGlobally {
    /// A leader takes over with this log.
    pub fn check_leader(history: &History, node: NodeId, log: &Content) -> Verdict {
        let Some(at) = lacks(history, log, history.committed.len()) else { return Ok(()) };
        let (there, committed) = (log.at(at), history.committed[at as usize]);
        Self::fails(format!("{node:?} leads with {there:?} at {at}, where {committed:?} was"))
    }

    /// What all gateways have on flash.
    pub fn check_all<'a>(
        history: &History,
        mut durable: impl Iterator<Item = &'a Content>,
    ) -> Verdict {
        let end = history.committed.len();
        if durable.any(|log| lacks(history, log, end).is_none()) {
            return Ok(());
        }
        Self::fails(format!("nobody has all {end} committed records on flash"))
    }

    /// A leader says that everything below `end` is committed.
    pub fn commit(history: &mut History, node: NodeId, log: &Content, end: i64) -> Verdict {
        let known = history.committed.len() as i64;
        for offset in log.start..end.min(known) {
            let (there, committed) = (log.at(offset), history.committed[offset as usize]);
            if there != Some(committed) {
                let what = format!("{node:?} commits {there:?} at {offset} after {committed:?}");
                return Self::fails(what);
            }
        }
        for offset in known..end {
            let Some(entry) = log.at(offset) else {
                return Self::fails(format!("{node:?} commits {offset} and has it not"));
            };
            history.committed.push(entry);
        }
        Ok(())
    }

    pub fn check_acked(history: &History, offset: i64, id: u64) -> Verdict {
        match history.committed.get(offset as usize) {
            Some(entry) if entry.id == id => Ok(()),
            other => Self::fails(format!("{id} was acknowledged at {offset}, there is {other:?}")),
        }
    }

    fn fails(what: String) -> Verdict {
        fails("NoCommittedRecordLostGlobally", what)
    }
}

impl MonotonicHighWatermark {
    pub fn check(node: NodeId, before: i64, now: i64) -> Verdict {
        if now >= before {
            return Ok(());
        }
        let what = format!("at {node:?} it went back from {before} to {now}");
        fails("MonotonicHighWatermark", what)
    }
}

impl ConsumersSeeOnlyCommitted {
    pub fn check(history: &History, node: NodeId, log: &Content, from: i64, end: i64) -> Verdict {
        for offset in from.max(log.start)..end {
            let (there, committed) = (log.at(offset), history.committed.get(offset as usize));
            if there.is_none() || there.as_ref() != committed {
                let what = format!("{node:?} serves {there:?} at {offset}, not {committed:?}");
                return fails("ConsumersSeeOnlyCommitted", what);
            }
        }
        Ok(())
    }
}

impl Converges {
    pub fn violation(what: String) -> Violation {
        Violation { checker: "Converges", what }
    }
}
