//! Gets what one replica has lost to damage from those that have it, a part at a time.

use super::RangeFetch;
use crate::batch::{self, BatchError, Header};
use crate::limits::MESSAGE_BYTES_MAX;
use crate::types::{LeaderEpoch, Nanos, NodeId, Offset, Time};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use bytes::Bytes;

/// A request that is unanswered for so long is made again.
const TIMEOUT: Nanos = Nanos(10_000_000_000);
/// The pause after a failure; it doubles with each further one.
const BACKOFF_MS: u64 = 100;
const BACKOFF_MS_MAX: u64 = 5_000;

/// Offsets from one up to and without another.
type Range = (Offset, Offset);

/// What is lost of one partition, and whom it was asked for.
///
/// | state | event | next |
/// |---|---|---|
/// | resting | something is lost, and a source is there that was not asked for it | asked |
/// | asked | batches | resting; the owner puts them in place, then less is lost |
/// | asked | the source lost it, too, or sent what does not fit | resting; another one is next |
/// | asked | refused, gone, timed out | resting; asked again after a pause |
/// | resting | every source has lost what is lost first | nobody has it: the owner decides |
///
/// What was learnt of a source holds for one leader epoch.
#[derive(Clone, Debug)]
pub struct Mender {
    epoch: LeaderEpoch,
    asked: Option<Asked>,
    /// By where a loss begins: who cannot help.
    without: BTreeMap<Offset, Without>,
    /// Who did not answer as it should, last: others come first.
    failed_last: Option<NodeId>,
    /// What they were asked for: what else is lost comes first.
    failed_at: Option<Offset>,
    failures: u32,
    not_before: Time,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    node: NodeId,
    fetch: RangeFetch,
    until: Time,
}

#[derive(Clone, Debug)]
struct Without {
    /// Up to where each of them has lost it.
    until: Offset,
    nodes: BTreeSet<NodeId>,
    /// Somebody sent what did not fit.
    unfit: bool,
}

/// What is to be done about what is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing before then.
    Wait(Time),
    Ask(NodeId, RangeFetch),
    /// All sources were asked for this, and nobody has it. `unfit`: somebody has what does not fit.
    Nobody {
        from: Offset,
        until: Offset,
        unfit: bool,
    },
    /// Nobody is there who could be asked.
    Nowhere,
}

impl Mender {
    pub fn new(epoch: LeaderEpoch) -> Mender {
        Mender {
            epoch,
            asked: None,
            without: BTreeMap::new(),
            failed_last: None,
            failed_at: None,
            failures: 0,
            not_before: Time::ZERO,
        }
    }

    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// What to do next. `lost` is what is lost now, in order; of `sources`, which are in the order
    /// in which they are asked, those that are not `reachable` are waited for. `sequence` is a
    /// number that no request had before.
    pub fn next(
        &mut self,
        now: Time,
        lost: &[Range],
        sources: &[(NodeId, bool)],
        sequence: u64,
    ) -> Next {
        self.without.retain(|from, _| lost.iter().any(|(begin, end)| begin <= from && from < end));
        if let Some(asked) = self.asked {
            if now < asked.until {
                return Next::Wait(asked.until);
            }
            self.failed(now, asked.node, &asked.fetch);
        }
        if now < self.not_before {
            return Next::Wait(self.not_before);
        }
        let mut nobody = None;
        let (last, first): (Vec<Range>, Vec<Range>) =
            lost.iter().partition(|(from, _)| self.failed_at == Some(*from));
        for (from, until) in first.into_iter().chain(last) {
            let without = self.without.get(&from);
            let until = without.map_or(until, |without| until.min(without.until));
            let may = |node| without.is_none_or(|without| !without.nodes.contains(node));
            let mut left = sources.iter().filter(|(node, _)| may(node));
            let there = left.clone().filter(|(_, reachable)| *reachable);
            match there.min_by_key(|(node, _)| self.failed_last == Some(*node)) {
                Some(&(node, _)) => {
                    let fetch = RangeFetch { leader_epoch: self.epoch, sequence, from, until };
                    self.asked = Some(Asked { node, fetch, until: now + TIMEOUT });
                    return Next::Ask(node, fetch);
                }
                None if left.next().is_none() => {
                    let unfit = without.is_some_and(|without| without.unfit);
                    nobody = nobody.or(Some(Next::Nobody { from, until, unfit }));
                }
                None => {}
            }
        }
        nobody.unwrap_or(Next::Nowhere)
    }

    /// Until when an answer is waited for.
    pub fn deadline(&self) -> Option<Time> {
        self.asked.map(|asked| asked.until)
    }

    /// The request that was answered, if it is the one that is waited for.
    pub fn answered(&mut self, from: NodeId, sequence: u64) -> Option<RangeFetch> {
        let is_it = |asked: &mut Asked| asked.node == from && asked.fetch.sequence == sequence;
        Some(self.asked.take_if(is_it)?.fetch)
    }

    /// A source has lost up to there what was asked for.
    pub fn lost_too(&mut self, node: NodeId, asked: &RangeFetch, until: Offset) {
        self.is_without(node, asked, until, false);
    }

    /// What a source sent does not fit: it is not asked for that any more.
    pub fn unfit(&mut self, node: NodeId, asked: &RangeFetch) {
        self.is_without(node, asked, asked.until, true);
    }

    fn is_without(&mut self, node: NodeId, asked: &RangeFetch, until: Offset, unfit: bool) {
        let none = Without { until: asked.until, nodes: BTreeSet::new(), unfit: false };
        let without = self.without.entry(asked.from).or_insert(none);
        without.until = without.until.min(until.max(asked.from.plus(1)));
        without.nodes.insert(node);
        without.unfit |= unfit;
    }

    /// Part of what is lost was put in place.
    pub fn got_on(&mut self) {
        (self.failures, self.failed_last, self.failed_at) = (0, None, None);
    }

    /// It could not be put in place now.
    pub fn pause(&mut self, now: Time) {
        let pause_ms = (BACKOFF_MS << self.failures.min(16)).min(BACKOFF_MS_MAX);
        self.failures += 1;
        self.not_before = now.plus_ms(pause_ms);
    }

    /// That source did not answer, or not now.
    pub fn failed(&mut self, now: Time, node: NodeId, asked: &RangeFetch) {
        self.asked = None;
        (self.failed_last, self.failed_at) = (Some(node), Some(asked.from));
        self.pause(now);
    }

    /// The connection with that gateway is over.
    pub fn gone(&mut self, now: Time, node: NodeId) {
        if let Some(asked) = self.asked.filter(|asked| asked.node == node) {
            self.failed(now, node, &asked.fetch);
        }
    }

    /// Whether that gateway has said that it has lost what is lost here below `until`.
    pub fn is_known_without(&self, node: NodeId, until: Offset) -> bool {
        let below = self.without.range(..until).next_back();
        below.is_some_and(|(_, without)| until <= without.until && without.nodes.contains(&node))
    }
}

/// Why what was sent does not take the place of what is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It claims to be all up to there, which was not asked for.
    Covers(Offset),
    Malformed(BatchError),
    /// A batch from one offset up to and without another, in the place of others.
    Misplaced(Offset, Offset),
    /// A batch of so many bytes, which no topic allows.
    Large(u32),
    /// A batch of that leader epoch, lower than the one before it or higher than the leader's.
    Epoch(Offset, LeaderEpoch),
}

impl core::fmt::Display for Unfit {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Unfit::Covers(until) => write!(f, "it claims to end at {until}"),
            Unfit::Malformed(error) => write!(f, "a batch is malformed: {error:?}"),
            Unfit::Misplaced(base, end) => write!(f, "a batch from {base} to {end} is misplaced"),
            Unfit::Large(bytes) => write!(f, "a batch has {bytes} bytes"),
            Unfit::Epoch(base, epoch) => {
                write!(f, "the batch at {base} is of leader epoch {}", epoch.0)
            }
        }
    }
}

/// Looks at what was sent for a request and is said to be all `until` there: whole batches with
/// right checksums, in order, that lie where they were asked for.
pub fn check_range(
    asked: &RangeFetch,
    until: Offset,
    mut records: Bytes,
) -> Result<Vec<(Header, Bytes)>, Unfit> {
    if until <= asked.from || until > asked.until {
        return Err(Unfit::Covers(until));
    }
    let (mut next, mut epoch) = (asked.from, LeaderEpoch(0));
    let mut batches = Vec::new();
    while let Some(found) = batch::next_batch(&mut records) {
        let (header, batch) = found.map_err(Unfit::Malformed)?;
        let (base, end) = (header.base_offset, header.last_offset().plus(1));
        if base < next || end > until {
            return Err(Unfit::Misplaced(base, end));
        }
        if header.batch_bytes > MESSAGE_BYTES_MAX as u32 {
            return Err(Unfit::Large(header.batch_bytes));
        }
        let its_epoch = LeaderEpoch(header.partition_leader_epoch);
        if its_epoch < epoch || its_epoch > asked.leader_epoch {
            return Err(Unfit::Epoch(base, its_epoch));
        }
        (next, epoch) = (end, its_epoch);
        batches.push((header, batch));
    }
    Ok(batches)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::batch::Builder;

    const EPOCH: LeaderEpoch = LeaderEpoch(4);
    const LEADER: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);
    const LOST: [Range; 1] = [(Offset(10), Offset(20))];

    fn asked(next: Next) -> (NodeId, RangeFetch) {
        match next {
            Next::Ask(node, fetch) => (node, fetch),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_source_is_asked_and_then_nobody_has_it() {
        let (mut mender, now) = (Mender::new(EPOCH), Time(1));
        let sources = [(LEADER, true), (OTHER, true)];
        let (node, fetch) = asked(mender.next(now, &LOST, &sources, 1));
        assert_eq!((node, fetch.from, fetch.until), (LEADER, Offset(10), Offset(20)));
        assert!(matches!(mender.next(now, &LOST, &sources, 2), Next::Wait(_)));
        assert_eq!(mender.answered(OTHER, 1), None, "it was not asked");
        let fetch = mender.answered(LEADER, 1).unwrap();
        mender.lost_too(LEADER, &fetch, Offset(15));
        let (node, fetch) = asked(mender.next(now, &LOST, &sources, 2));
        assert_eq!((node, fetch.until), (OTHER, Offset(15)));
        mender.answered(OTHER, 2).unwrap();
        mender.lost_too(OTHER, &fetch, Offset(40));
        let nobody = Next::Nobody { from: Offset(10), until: Offset(15), unfit: false };
        assert_eq!(mender.next(now, &LOST, &sources, 3), nobody);
        assert!(mender.is_known_without(OTHER, Offset(15)));
        assert!(!mender.is_known_without(OTHER, Offset(20)));
        // Somebody who is away may have it.
        let away = [sources[0], sources[1], (NodeId(3), false)];
        assert_eq!(mender.next(now, &LOST, &away, 4), Next::Nowhere);
    }

    #[test]
    fn whoever_fails_is_asked_again_after_the_others_and_after_a_pause() {
        let (mut mender, mut now) = (Mender::new(EPOCH), Time(1));
        let sources = [(LEADER, true), (OTHER, true)];
        asked(mender.next(now, &LOST, &sources, 1));
        let fetch = mender.answered(LEADER, 1).unwrap();
        mender.failed(now, LEADER, &fetch);
        for node in [OTHER, LEADER] {
            let Next::Wait(until) = mender.next(now, &LOST, &sources, 2) else { panic!() };
            now = until;
            assert_eq!(asked(mender.next(now, &LOST, &sources, 2)).0, node);
            // It never answers.
            now = mender.deadline().unwrap();
        }
        // What else is lost does not wait for it.
        let two = [LOST[0], (Offset(30), Offset(40))];
        let Next::Wait(until) = mender.next(now, &two, &sources, 3) else { panic!() };
        assert_eq!(asked(mender.next(until, &two, &sources, 3)).1.from, Offset(30));
    }

    #[test]
    fn what_does_not_lie_where_it_was_asked_for_is_named() {
        let fetch =
            RangeFetch { leader_epoch: EPOCH, sequence: 1, from: Offset(10), until: Offset(20) };
        let batch = |base: i64, records: i64, epoch: i32| {
            let mut builder = Builder::new();
            (0..records).for_each(|_| builder.push(0, None, Some(b"v"), &[]));
            let mut batch = builder.build(None);
            batch::stamp(&mut batch, Offset(base), epoch);
            batch
        };
        let check = |until: i64, batches: &[Vec<u8>]| {
            check_range(&fetch, Offset(until), Bytes::from(batches.concat()))
                .map(|batches| batches.len())
        };
        assert_eq!(check(20, &[batch(10, 2, 3), batch(14, 6, 4)]), Ok(2));
        assert_eq!(check(20, &[]), Ok(0));
        assert_eq!(check(10, &[]), Err(Unfit::Covers(Offset(10))));
        assert_eq!(check(21, &[]), Err(Unfit::Covers(Offset(21))));
        let misplaced = |base, end| Err(Unfit::Misplaced(Offset(base), Offset(end)));
        assert_eq!(check(20, &[batch(9, 2, 4)]), misplaced(9, 11));
        assert_eq!(check(20, &[batch(18, 3, 4)]), misplaced(18, 21));
        assert_eq!(check(15, &[batch(14, 2, 4)]), misplaced(14, 16));
        assert_eq!(check(20, &[batch(12, 2, 4), batch(10, 2, 4)]), misplaced(10, 12));
        let epoch = |base, epoch| Err(Unfit::Epoch(Offset(base), LeaderEpoch(epoch)));
        assert_eq!(check(20, &[batch(12, 2, 5)]), epoch(12, 5));
        assert_eq!(check(20, &[batch(12, 2, 4), batch(14, 2, 3)]), epoch(14, 3));
        let mut large = Builder::new();
        large.push(0, None, Some(&[7; MESSAGE_BYTES_MAX as usize]), &[]);
        let mut large = large.build(None);
        batch::stamp(&mut large, Offset(12), 4);
        assert!(matches!(check(20, &[large]), Err(Unfit::Large(_))));
        let mut bad = batch(12, 2, 4);
        bad[70] ^= 1;
        assert_eq!(check(20, &[bad]), Err(Unfit::Malformed(BatchError::Checksum)));
    }
}
