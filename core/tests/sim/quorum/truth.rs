//! What all nodes together have said, and the checkers of the quorum's promises.

use super::machine::{State, Store};
use crate::checks::{Verdict, Violation};
use std::collections::BTreeMap;
use weir_core::quorum::{Content, Entry, Position};
use weir_core::rng::Rng;

/// At most one node leads a term.
pub struct SingleLeaderPerTerm;

/// Two logs that have an entry of the same index and term are the same up to there.
pub struct MetadataLogMatching;

/// What is committed stands in the log of every leader of a later term.
pub struct LeaderCompleteness;

/// What is committed is never lost or changed: no node ever says another payload at that index.
pub struct CommittedStays;

/// Every node applies the same sequence, through snapshots too.
pub struct StateMachineOrder;

/// When the faults have ended, a leader is found, commits, and everybody catches up.
pub struct Liveness;

/// A node that was cut off and comes back does not depose a leader that a majority hears.
pub struct PreVoteDoesNotDisrupt;

/// Messages keep their stated sizes.
pub struct Bounded;

macro_rules! fails {
    ($($checker:ident),*) => {$(
        impl $checker {
            pub fn fails<T>(what: String) -> Result<T, Violation> {
                Err(Violation { checker: stringify!($checker), what })
            }
        }
    )*};
}

fails!(
    SingleLeaderPerTerm,
    MetadataLogMatching,
    LeaderCompleteness,
    CommittedStays,
    StateMachineOrder,
    Liveness,
    PreVoteDoesNotDisrupt,
    Bounded
);

/// What stands at an index for good.
struct Committed {
    term: u64,
    payload: u64,
    /// The highest term that the first node to say so knew: it was committed in that one or before.
    known_in: u64,
    state: u64,
}

#[derive(Default)]
pub struct Truth {
    leaders: BTreeMap<u64, usize>,
    /// By index and term: what the entry holds, and the term of the one before it, once known.
    entries: BTreeMap<(u64, u64), (u64, Option<u64>)>,
    committed: BTreeMap<u64, Committed>,
}

impl Truth {
    pub fn last(&self) -> State {
        let last = self.committed.last_key_value();
        last.map_or(State::default(), |(index, it)| State { last: *index, hash: it.state })
    }

    pub fn count(&self) -> u64 {
        self.committed.len() as u64
    }

    pub fn leads(&mut self, node: usize, term: u64, store: &Store) -> Verdict {
        let other = *self.leaders.entry(term).or_insert(node);
        if other != node {
            return SingleLeaderPerTerm::fails(format!("{other} and {node} lead term {term}"));
        }
        for (index, committed) in self.committed.range(store.start() + 1..) {
            let own = store.entry(*index).map(|entry| entry.term);
            if committed.known_in < term && own != Some(committed.term) {
                let theirs = committed.term;
                return LeaderCompleteness::fails(format!(
                    "{node} leads term {term} with {own:?} at {index}, committed is {theirs}"
                ));
            }
        }
        Ok(())
    }

    /// A node asks for entries to be persisted; `store` has taken them.
    pub fn appends(&mut self, node: usize, store: &Store, from: u64, new: &[Entry]) -> Verdict {
        let mut before = store.entry(from - 1).map(|entry| entry.term);
        for (index, entry) in (from..).zip(new) {
            let holds = (content(entry), before);
            let there = self.entries.entry((index, entry.term)).or_insert(holds);
            let both = there.1.is_some() && before.is_some();
            if there.0 != holds.0 || both && there.1 != before {
                let position = Position { index, term: entry.term };
                return MetadataLogMatching::fails(format!("{node} has another {position:?}"));
            }
            there.1 = there.1.or(before);
            before = Some(entry.term);
        }
        Ok(())
    }

    /// A node hands out an entry: its state goes on from `state`.
    pub fn applies(
        &mut self,
        node: usize,
        state: State,
        position: Position,
        payload: &[u8],
        known_in: u64,
    ) -> Result<State, Violation> {
        let Position { index, term } = position;
        let payload = hash(0, payload);
        let next = State { last: index, hash: hash(state.hash, &payload.to_be_bytes()) };
        let newest = self.last().last;
        let committed = self.committed.entry(index).or_insert(Committed {
            term,
            payload,
            known_in,
            state: next.hash,
        });
        if (committed.term, committed.payload) != (term, payload) {
            let before = committed.term;
            return CommittedStays::fails(format!(
                "{node} says that {index} is of term {term}, it was committed with {before}"
            ));
        }
        committed.known_in = committed.known_in.min(known_in);
        if index <= state.last || committed.state != next.hash {
            return StateMachineOrder::fails(format!(
                "{node} applies {index} after {}, the newest is {newest}",
                state.last
            ));
        }
        Ok(next)
    }

    /// A node begins anew from a snapshot.
    pub fn restores(&self, node: usize, state: State) -> Verdict {
        let before = self.committed.range(..=state.last).next_back();
        let expected =
            before.map_or(State::default(), |(index, it)| State { last: *index, hash: it.state });
        if expected != state {
            let what = format!("{node} restores {state:?}, which is {expected:?}");
            return StateMachineOrder::fails(what);
        }
        Ok(())
    }
}

fn content(entry: &Entry) -> u64 {
    match &entry.content {
        Content::Payload(payload) => hash(1, payload),
        other => hash(2, &postcard::to_allocvec(other).unwrap()),
    }
}

/// Payloads differ in their first bytes.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().take(64).fold(seed ^ bytes.len() as u64, |state, byte| {
        Rng::new(state ^ u64::from(*byte)).next_u64()
    })
}
