//! KindToFlash: what the log asks of its flash, commit by commit.

use crate::checks::{Verdict, Violation};
use crate::flash::BLOCK;
use crate::log_run::LogRun;
use crate::plan::{Bug, Plan};
use weir_core::log::{Io, MOVE_BYTES_MAX, Stats};

/// Of a commit, however many partitions are in it, each lane has one group; one with a checkpoint
/// leaves nothing over, and may end a slot in each lane and have more if they are of this size on
/// average.
const GROUPS_MAX: u64 = 8;
const GROUP_BYTES: u64 = 16 << 10;

/// A commit is one flush for all partitions, with a write for each lane beside the headers and
/// footers of slots; nothing is flushed that was not written; what is moved delays a commit by a
/// stated number of bytes at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct KindToFlash {
    /// Since the last flush.
    writes: u64,
    groups: u64,
    group_bytes: u64,
    last: Option<Seen>,
}

/// What the log had counted when it asked for a flush.
#[derive(Clone, Copy, Debug)]
struct Seen {
    commits: u64,
    moved: u64,
}

impl Seen {
    fn new(stats: &Stats) -> Seen {
        Seen {
            commits: stats.flushes + stats.write_failures,
            moved: stats.cleaned_bytes + stats.rewritten_bytes + stats.repaired_bytes,
        }
    }
}

impl KindToFlash {
    fn write(&mut self, plan: &Plan, at: u64, bytes: u64) {
        let slot_bytes = u64::from(plan.slot_bytes);
        let is_header = at.is_multiple_of(slot_bytes) && bytes == BLOCK;
        let is_footer = (at + bytes).is_multiple_of(slot_bytes);
        self.writes += 1;
        if !is_header && !is_footer {
            let in_pieces = plan.bug == Bug::WriteInPieces;
            self.groups += if in_pieces { bytes.div_ceil(BLOCK) } else { 1 };
            self.group_bytes += bytes;
        }
    }

    fn flush(&mut self, stats: &Stats, plan: &Plan) -> Verdict {
        let seen = Seen::new(stats);
        let KindToFlash { writes, groups, group_bytes, last } = *self;
        *self = KindToFlash { last: Some(seen), ..KindToFlash::default() };
        let Some(last) = last else { return Ok(()) };
        if writes == 0 {
            return Self::fails("a flush of what was flushed before".into());
        }
        if groups > GROUPS_MAX + group_bytes / GROUP_BYTES {
            return Self::fails(format!("a commit of {groups} groups with {group_bytes} bytes"));
        }
        if seen.commits == last.commits {
            return Self::fails("a commit of two flushes".into());
        }
        let moved = seen.moved.saturating_sub(last.moved);
        if moved > plan.move_bytes_bound() {
            return Self::fails(format!("{moved} bytes were moved in one commit"));
        }
        Ok(())
    }

    fn fails(what: String) -> Verdict {
        Err(Violation { checker: "KindToFlash", what })
    }
}

impl Plan {
    /// What is moved in one commit: a quarter of a slot, or one batch of six records if that is
    /// larger.
    fn move_bytes_bound(&self) -> u64 {
        let quarter = (MOVE_BYTES_MAX as u64).min(u64::from(self.slot_bytes) / 4);
        quarter.max(256 + 6 * (self.value_bytes_max + 64))
    }
}

impl LogRun {
    /// The log asks for something; a start has its own flushes.
    pub fn weigh(&mut self, io: &Io) -> Verdict {
        let Some(log) = self.log.as_ref().filter(|_| self.ready) else {
            self.thrift = KindToFlash::default();
            return Ok(());
        };
        let each = self.plan.bug == Bug::FlushEachWrite;
        match io {
            Io::Write { at, bytes, .. } => {
                self.thrift.write(&self.plan, *at, bytes.len() as u64);
            }
            Io::Flush { .. } => {}
            _ => return Ok(()),
        }
        let flushes = each || matches!(io, Io::Flush { .. });
        if flushes { self.thrift.flush(&log.stats(), &self.plan) } else { Ok(()) }
    }
}
