//! One node of the quorum with its store, which loses what is not flushed.

use super::plan::{Bug, Plan};
use std::collections::VecDeque;
use weir_core::quorum::{
    Ballot, Content, Directory, Entry, Found, Persist, Position, Quorum, Settings, Snapshot, Token,
};
use weir_core::rng::Rng;
use weir_core::types::{NodeId, Time};

/// What is flushed, and what was handed over since.
#[derive(Clone, Debug, Default)]
pub struct Store {
    pub directory: Directory,
    pub ballot: Option<Ballot>,
    pub snapshot: Option<Snapshot>,
    /// The index before the first entry.
    start: u64,
    entries: Vec<Entry>,
    pending: VecDeque<(Token, Persist)>,
    /// Start and entries as they will be when everything is flushed.
    ahead: (u64, Vec<Entry>),
}

/// The state machine: what was applied, as one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub last: u64,
    pub hash: u64,
}

pub struct Machine {
    pub store: Store,
    /// `None` while the power is off.
    pub quorum: Option<Quorum>,
    pub state: State,
    /// When it was last started or wiped: what was scheduled before does not concern it.
    pub boot: u64,
    /// And which store it has: what a wiped store sent does not arrive any more.
    pub generation: u64,
    pub paused_until: Time,
    pub tick_at: Option<Time>,
    pub flushing: bool,
    pub snapshot_at: u64,
    /// The term that it leads.
    pub leads: Option<u64>,
}

impl Machine {
    pub fn new(directory: Directory, old_entries: usize) -> Machine {
        let old = |number: usize| Entry {
            term: 0,
            content: Content::Payload(number.to_be_bytes().to_vec().into()),
        };
        let entries = (0..old_entries).map(old).collect();
        Machine {
            store: Store { directory, entries, ..Store::default() }.settled(),
            quorum: None,
            state: State::default(),
            boot: 0,
            generation: 0,
            paused_until: Time::ZERO,
            tick_at: None,
            flushing: false,
            snapshot_at: 0,
            leads: None,
        }
    }

    /// The power comes back. The store's content is what was flushed.
    pub fn start(&mut self, now: Time, me: usize, plan: &Plan, rng: &mut Rng) {
        let voters = (0..plan.voters).map(|node| NodeId(node as i32)).collect();
        let settings = Settings::new(NodeId(me as i32), voters, rng.next_u64());
        let found = self.store.found(plan.bug);
        self.boot += 1;
        self.state = State::default();
        self.tick_at = None;
        self.flushing = false;
        self.snapshot_at = 0;
        self.leads = None;
        self.paused_until = now;
        self.quorum = Some(Quorum::start(now, settings, found).expect("the store is whole"));
    }

    /// The power goes: of what was not flushed, some of the first may be there all the same.
    pub fn crash(&mut self, rng: &mut Rng, bug: Bug) {
        self.quorum = None;
        self.boot += 1;
        let survive = rng.below(self.store.pending.len() as u64 + 1) * rng.below(2);
        self.store.flush(survive as usize, bug);
        let next = self.store.pending.front();
        if let Some((_, Persist::Snapshot { snapshot, restart: true })) = next
            && rng.percent(30)
        {
            // The snapshot is there, and the log was not restarted yet.
            self.store.snapshot = Some(snapshot.clone());
        }
        self.store.pending.clear();
        self.store.ahead = (self.store.start, self.store.entries.clone());
    }

    /// The store is lost, and with it its directory id.
    pub fn wipe(&mut self, directory: Directory, bug: Bug) {
        self.quorum = None;
        self.boot += 1;
        self.generation += 1;
        let old = std::mem::replace(&mut self.store, Store { directory, ..Store::default() });
        if bug == Bug::WipedVoterVotes {
            self.store.directory = old.directory;
            self.store.ballot = old.ballot.map(|it| Ballot { term: 0, vote: None, ..it });
        }
    }
}

impl Store {
    fn settled(self) -> Store {
        Store { ahead: (self.start, self.entries.clone()), ..self }
    }

    pub fn ask(&mut self, token: Token, what: Persist) {
        apply(&mut self.ahead.0, &mut self.ahead.1, &what);
        self.pending.push_back((token, what));
    }

    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The first so many become durable; says up to which token.
    pub fn flush(&mut self, count: usize, bug: Bug) -> Option<Token> {
        let mut last = None;
        for (token, what) in self.pending.drain(..count).collect::<Vec<_>>() {
            last = Some(token);
            self.apply(what, bug);
        }
        last
    }

    /// The log as it will be when everything is flushed: the entry at an index.
    pub fn entry(&self, index: u64) -> Option<&Entry> {
        let (start, entries) = &self.ahead;
        entries.get(index.checked_sub(start + 1)? as usize)
    }

    pub fn start(&self) -> u64 {
        self.ahead.0
    }

    /// The index of its last entry.
    pub fn end(&self) -> u64 {
        self.ahead.0 + self.ahead.1.len() as u64
    }

    fn apply(&mut self, what: Persist, bug: Bug) {
        apply(&mut self.start, &mut self.entries, &what);
        match what {
            Persist::Ballot(ballot) => {
                let vote = ballot.vote.filter(|_| bug != Bug::VoteNotFlushed);
                self.ballot = Some(Ballot { vote, ..ballot });
            }
            Persist::Entries { .. } => {}
            Persist::Snapshot { snapshot, .. } => self.snapshot = Some(snapshot),
        }
    }

    fn found(&self, bug: Bug) -> Found {
        let mut ballot = self.ballot.clone();
        if let (Bug::TermNotFlushed, Some(ballot)) = (bug, &mut ballot) {
            let Position { term, .. } =
                self.snapshot.as_ref().map_or(Position::default(), |snapshot| snapshot.position);
            ballot.term = self.entries.last().map_or(term, |entry| entry.term.max(term));
            ballot.vote = None;
        }
        Found {
            directory: self.directory,
            ballot,
            snapshot: self.snapshot.clone(),
            first_index: self.start + 1,
            entries: self.entries.clone(),
        }
    }
}

/// What something that is persisted does to the log.
fn apply(start: &mut u64, entries: &mut Vec<Entry>, what: &Persist) {
    match what {
        Persist::Ballot(_) => {}
        Persist::Entries { from_index, entries: new } => {
            let keep = from_index.checked_sub(*start + 1).expect("behind the start");
            assert!(keep as usize <= entries.len(), "no hole before {from_index}");
            entries.truncate(keep as usize);
            entries.extend(new.iter().cloned());
        }
        Persist::Snapshot { snapshot, restart: true } => {
            *start = snapshot.position.index;
            entries.clear();
        }
        Persist::Snapshot { snapshot, restart: false } => {
            let index = snapshot.position.index;
            // A store may drop what the snapshot stands for, or do so later.
            if index % 2 == 0 {
                entries.drain(..(index - *start) as usize);
                *start = index;
            }
        }
    }
}
