//! The entries behind the newest snapshot, in memory, with what they hold.
//!
//! The algorithm keeps positions only; this keeps the same log with payloads and directory ids.
//! Entries are few and small: a snapshot takes their place before they are many.

use super::types::{Content, Entry, Members, Position};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

#[derive(Clone, Debug, Default)]
pub(super) struct Journal {
    /// The entry before the first.
    start: Position,
    entries: VecDeque<Entry>,
    /// Members at and before the start, then by the index of the entry that says so.
    base: Members,
    members: BTreeMap<u64, Members>,
    bytes: u64,
}

impl Journal {
    pub fn new(start: Position, base: Members) -> Journal {
        Journal { start, base, ..Journal::default() }
    }

    /// A cluster begins with these members; entries of a time before it stay.
    pub fn found(&mut self, members: Members) {
        self.base = members;
    }

    pub fn start(&self) -> Position {
        self.start
    }

    pub fn last_index(&self) -> u64 {
        self.start.index + self.entries.len() as u64
    }

    /// Bytes of all entries, nearly.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn get(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.start.index + 1)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        self.get(index).map(|entry| entry.term)
    }

    /// The newest members, committed or not: those that count (Raft, section 4.1).
    pub fn latest_members(&self) -> &Members {
        self.members.last_key_value().map_or(&self.base, |(_, members)| members)
    }

    /// Where the newest members stand.
    pub fn latest_members_index(&self) -> u64 {
        self.members.last_key_value().map_or(self.start.index, |(index, _)| *index)
    }

    pub fn members_at(&self, index: u64) -> &Members {
        self.members.range(..=index).next_back().map_or(&self.base, |(_, members)| members)
    }

    /// Drops everything from `from_index` on, then appends.
    pub fn replace(&mut self, from_index: u64, entries: &[Entry]) {
        assert!(
            from_index > self.start.index && from_index <= self.last_index() + 1,
            "entries follow those that are there"
        );
        while self.last_index() >= from_index {
            let gone = self.entries.pop_back().expect("the last index is an entry's");
            self.bytes -= gone.size() as u64;
        }
        self.members.split_off(&from_index);
        for entry in entries {
            self.bytes += entry.size() as u64;
            self.entries.push_back(entry.clone());
            if let Content::Members(members) = &entry.content {
                self.members.insert(self.last_index(), members.clone());
            }
        }
    }

    /// A snapshot takes the place of the entries up to its position.
    pub fn begin_at(&mut self, start: Position, members: Members) {
        if self.term(start.index) != Some(start.term) {
            *self = Journal::new(start, members);
            return;
        }
        while self.start.index < start.index {
            let gone = self.entries.pop_front().expect("the position is in the log");
            self.bytes -= gone.size() as u64;
            self.start.index += 1;
        }
        self.start = start;
        self.base = members;
        self.members = self.members.split_off(&(start.index + 1));
    }

    /// Entries behind `previous`, up to `last`, as many as a message takes; `None` if the log has
    /// changed there.
    pub fn between(
        &self,
        previous: Position,
        last: Position,
        entries_max: usize,
        bytes_max: usize,
    ) -> Option<Vec<Entry>> {
        if previous == last {
            // A heartbeat names the leader's last entry and carries none.
            return Some(Vec::new());
        }
        let whole = self.term(previous.index) == Some(previous.term)
            && self.term(last.index) == Some(last.term)
            && previous.index < last.index;
        if !whole {
            return None;
        }
        let mut bytes = 0;
        let mut entries = Vec::new();
        for index in previous.index + 1..=last.index {
            let entry = self.get(index)?;
            bytes += entry.size();
            if !entries.is_empty() && (bytes > bytes_max || entries.len() == entries_max) {
                break;
            }
            entries.push(entry.clone());
        }
        Some(entries)
    }
}
