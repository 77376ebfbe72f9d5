//! Which of the groups that were found at a start count.
//!
//! Only groups whose checksum holds, in slots that may hold groups of theirs, come here. In this
//! order:
//!
//! 1. *Disowned.* Each boot epoch says in every group which group was the last that counted when it
//!    began (`epoch_base`). Groups of earlier epochs above that do not count.
//! 2. *Acknowledged or not.* The highest `durable_seq` that any group names, or the last group that
//!    a footer knows, D, was flushed, and so was everything below it. Every group up to D counts;
//!    one that is not there is damage to acknowledged data.
//! 3. *Torn tail.* Above D, groups count as long as there is no gap in their sequence: what follows
//!    a gap was in the same commit as what is missing, and nothing of it was acknowledged.
//! 4. *Chain.* Each group names its lane's group before. What stands between a group and the one it
//!    names does not count.
//!
//! Sealing, the third guard against a stale tail, has been applied before: a slot's footer says
//! where the slot ends. Each of 1, 4 and sealing is enough alone; each covers for damage to the
//! others.

use crate::log::Unguarded;
use crate::log::layout::group::{GroupHeader, Place};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub header: GroupHeader,
    /// Where in its slot it begins.
    pub at: u32,
}

impl Candidate {
    pub(crate) fn place(&self) -> Place {
        Place { slot: self.header.slot, at: self.at }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The groups that count, in order of `group_seq`.
    pub accepted: Vec<Candidate>,
    /// Groups after a cut.
    pub torn: u64,
    /// Groups that an earlier start or a failed write gave up.
    pub stale: u64,
    /// Groups that were acknowledged and are not there.
    pub missing: u64,
    /// The highest group that is known to have been acknowledged.
    pub durable_seq: u64,
    /// The epochs seen, and the last group before each that counts.
    pub bases: BTreeMap<u32, u64>,
    /// The last group that counts, or `covered`.
    pub last_seq: u64,
}

impl Verdict {
    /// Whether a damaged group was acknowledged, by what its header says.
    pub(crate) fn was_acknowledged(&self, header: &GroupHeader) -> bool {
        header.group_seq <= self.durable_seq && !self.was_given_up(header)
    }

    /// Whether a later start did not find a damaged group, or not all before it, by what its header
    /// says.
    pub(crate) fn was_given_up(&self, header: &GroupHeader) -> bool {
        let mut later = self.bases.range(header.boot_epoch.saturating_add(1)..);
        later.any(|(_, &base)| header.group_seq > base)
    }
}

/// Of the groups found in a slot, in the order of their places, those that stand where they were
/// written: each behind the one before. A write that went astray by a page leaves a group among
/// others that are newer, or older. It is whole, but its own place is not, and a footer has groups
/// in one order only; so it counts as lost, and nothing of it is looked for.
pub(crate) fn in_place(groups: &[Candidate]) -> Vec<Candidate> {
    let seq = |group: &Candidate| group.header.group_seq;
    let (mut forward, mut backward): (Vec<Candidate>, Vec<Candidate>) = (Vec::new(), Vec::new());
    for group in groups {
        if forward.last().is_none_or(|before| seq(before) < seq(group)) {
            forward.push(*group);
        }
    }
    for group in groups.iter().rev() {
        if backward.last().is_none_or(|behind| seq(group) < seq(behind)) {
            backward.push(*group);
        }
    }
    backward.reverse();
    if backward.len() > forward.len() { backward } else { forward }
}

/// Judges the groups found; the checkpoint stands for everything up to `covered`, footers know what
/// was flushed up to `sealed`.
pub(crate) fn judge(
    mut found: Vec<Candidate>,
    covered: u64,
    sealed: u64,
    unguarded: Unguarded,
) -> Verdict {
    let mut verdict = Verdict { last_seq: covered, ..Verdict::default() };
    let owned = if unguarded.no_boot_epoch {
        found.sort_by_key(|group| (group.header.group_seq, group.header.seg_seq));
        found.iter_mut().for_each(|group| group.header.epoch_first = group.header.epoch_base + 1);
        found
    } else {
        drop_disowned(&mut found, &mut verdict)
    };
    let owned = drop_torn(owned, (covered, sealed), &mut verdict);
    verdict.accepted = if unguarded.no_chain { owned } else { drop_unchained(owned, &mut verdict) };
    verdict.last_seq = verdict.accepted.last().map_or(covered, |group| group.header.group_seq);
    verdict.last_seq = verdict.last_seq.max(covered);
    verdict
}

/// Rule 1. What is left is in order of `group_seq`.
fn drop_disowned(found: &mut [Candidate], verdict: &mut Verdict) -> Vec<Candidate> {
    found.sort_by_key(|group| core::cmp::Reverse(group.header.boot_epoch));
    let mut owned: Vec<Candidate> = Vec::with_capacity(found.len());
    let mut limit = u64::MAX;
    for epoch in found.chunk_by(|a, b| a.header.boot_epoch == b.header.boot_epoch) {
        let before = owned.len();
        owned.extend(epoch.iter().filter(|group| group.header.group_seq <= limit));
        verdict.stale += (epoch.len() - (owned.len() - before)) as u64;
        let first = owned.get(before).map(|group| &group.header);
        verdict.bases.extend(first.map(|header| (header.boot_epoch, header.epoch_base)));
        let bases = owned[before..].iter().map(|group| group.header.epoch_base);
        limit = bases.min().map_or(limit, |base| base.min(limit));
    }
    owned.sort_by_key(|group| group.header.group_seq);
    owned
}

/// Rules 2 and 3.
fn drop_torn(
    owned: Vec<Candidate>,
    (covered, sealed): (u64, u64),
    verdict: &mut Verdict,
) -> Vec<Candidate> {
    // Between the base of an epoch and its first group there never was a group that counts.
    let firsts: BTreeMap<u64, u64> =
        owned.iter().map(|group| (group.header.epoch_base, group.header.epoch_first)).collect();
    let after = |seq: u64| firsts.get(&seq).copied().unwrap_or(seq + 1);
    let durable = owned.iter().map(|group| group.header.durable_seq);
    let durable = durable.fold(covered.max(sealed), u64::max);
    verdict.durable_seq = durable;
    let mut expected = after(covered);
    let mut counts = Vec::with_capacity(owned.len());
    let mut rest = owned.into_iter();
    for group in rest.by_ref() {
        let seq = group.header.group_seq;
        if seq > covered {
            if expected <= durable && expected < seq {
                verdict.missing += seq.min(durable + 1) - expected;
                expected = if seq <= durable { seq } else { after(durable) };
            }
            if seq != expected {
                verdict.torn += 1;
                break;
            }
            expected = after(seq);
        }
        counts.push(group);
    }
    verdict.torn += rest.count() as u64;
    if expected <= durable {
        verdict.missing += durable + 1 - expected;
    }
    counts
}

/// Rule 4.
fn drop_unchained(counts: Vec<Candidate>, verdict: &mut Verdict) -> Vec<Candidate> {
    let mut named: [Option<(u64, u32)>; 4] = [None; 4];
    let mut chained: Vec<Candidate> = Vec::with_capacity(counts.len());
    for group in counts.into_iter().rev() {
        let header = &group.header;
        let named = &mut named[usize::from(header.lane)];
        let skipped = named.is_some_and(|(seq, crc)| {
            header.group_seq > seq || (header.group_seq == seq && header.crc != crc)
        });
        if skipped {
            verdict.stale += 1;
        } else {
            *named = Some((header.prev_group_seq, header.prev_group_crc));
            chained.push(group);
        }
    }
    chained.reverse();
    chained
}
