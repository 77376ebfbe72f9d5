//! What exactly is lost where somebody could not read.
//!
//! A reader that meets damaged bytes, or whose read fails, tells only where it began. Here that is
//! read once more, extent by extent, from the one that holds the place up to where the reader's own
//! read may have reached. What is damaged, or cannot be read by itself, goes into the partition's
//! list of damage; if all is whole, whatever it was is over.
//!
//! | state | event | next state |
//! |---|---|---|
//! | none | [`Log::probe`] | reading, from the extent of the suspect place |
//! | reading | whole batches | reading, behind them; at the end none |
//! | reading | damaged bytes | these offsets are quarantined; reading, behind them |
//! | reading | the device fails | the extent is quarantined, without a footer the slot's run |
//!
//! Nobody probes what no other gateway has: a card may find bytes again that it could not read, and
//! a quarantine is for ever. That is for the owner of the log to know.

use super::read::READ_BYTES_MAX;
use super::{Answer, Batches, Event, FetchError, FetchSpec, Log, Ticket};
use crate::batch::Header as BatchHeader;
use crate::types::{Offset, PartitionNumber};
use alloc::collections::BTreeMap;

/// What one read gets.
const BYTES_MAX: usize = 64 << 10;

#[derive(Debug, Default)]
pub(crate) struct Prober {
    by_number: BTreeMap<PartitionNumber, Probe>,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    ticket: Option<Ticket>,
    suspect: Offset,
    /// Where the next read begins: with an extent or a batch.
    from: Offset,
    /// Bytes behind the suspect place that were read.
    bytes: usize,
    /// Up to where the extent counts that could not be read by itself.
    unreadable_until: Option<Offset>,
}

impl Prober {
    pub(super) fn awaits(&self, ticket: Ticket) -> Option<PartitionNumber> {
        let mut probes = self.by_number.iter();
        probes.find(|(_, probe)| probe.ticket == Some(ticket)).map(|(number, _)| *number)
    }

    /// The device could not read an extent for that question, which counts up to there.
    pub(super) fn note_unreadable(&mut self, ticket: Ticket, until: Offset) {
        let mut probes = self.by_number.values_mut();
        if let Some(probe) = probes.find(|probe| probe.ticket == Some(ticket)) {
            probe.unreadable_until = Some(until);
        }
    }
}

impl Log {
    /// Finds out what is lost where somebody could not read a partition; [`Event::Probed`] says
    /// that it is known. Does nothing if it is under way, or nobody failed.
    pub fn probe(&mut self, number: PartitionNumber) {
        let suspect = self.partition(number).and_then(|view| view.suspect);
        let Some(suspect) = suspect.filter(|_| !self.prober.by_number.contains_key(&number)) else {
            return;
        };
        // Without the footer at hand, from the first that the slot has.
        let from =
            self.extent_base(number, suspect).or_else(|| Some(self.run_of(number, suspect)?.0));
        let from = from.unwrap_or(suspect);
        let probe = Probe { ticket: None, suspect, from, bytes: 0, unreadable_until: None };
        self.probe_on(number, probe);
    }

    /// Reads on until the disk is needed or the end is reached.
    fn probe_on(&mut self, number: PartitionNumber, mut probe: Probe) {
        loop {
            let partition = self.partitions.get(&number);
            if let Some(until) = partition.and_then(|it| it.damage_at(probe.from)) {
                probe.from = until;
                continue;
            }
            let spec = FetchSpec {
                partition: number,
                from: probe.from,
                end: Offset(i64::MAX),
                bytes_max: BYTES_MAX,
                at_least_one: true,
            };
            let result = match self.fetch(spec) {
                Ok(Answer::Later(ticket)) => {
                    probe.ticket = Some(ticket);
                    self.prober.by_number.insert(number, probe);
                    return;
                }
                Ok(Answer::Now(batches)) => Ok(batches),
                Err(error) => Err(error),
            };
            match self.probed(number, probe, result) {
                Some(next) => probe = next,
                None => return self.end_probe(number),
            }
        }
    }

    /// What the probe asked to be read is there.
    pub(super) fn probe_read(
        &mut self,
        number: PartitionNumber,
        result: Result<Batches, FetchError>,
    ) {
        let Some(probe) = self.prober.by_number.remove(&number) else { return };
        match self.probed(number, probe, result) {
            Some(next) => self.probe_on(number, next),
            None => self.end_probe(number),
        }
    }

    /// Judges a read; gives the next one.
    fn probed(
        &mut self,
        number: PartitionNumber,
        probe: Probe,
        result: Result<Batches, FetchError>,
    ) -> Option<Probe> {
        let on = Probe { ticket: None, unreadable_until: None, ..probe };
        let next = match result {
            Ok(batches) => {
                let last = BatchHeader::parse(batches.last()?).ok()?;
                let end = last.last_offset().plus(1);
                let bytes: usize = batches.iter().map(|batch| batch.len()).sum();
                let bytes = probe.bytes + if end > probe.suspect { bytes } else { 0 };
                Probe { from: end, bytes, ..on }
            }
            Err(FetchError::Damaged { until }) => {
                self.lose(number, probe.from, until);
                Probe { from: until, ..on }
            }
            // Each read that fails is tried again with its first extent alone. Else it was the
            // footer: what is in the slot cannot be found, and all of it is lost.
            Err(FetchError::Device) => {
                let run_end = self.run_of(number, probe.from).map(|(_, end)| end);
                let until = probe.unreadable_until.or(run_end)?;
                if until <= probe.from {
                    return None;
                }
                self.lose(number, probe.from, until);
                Probe { from: until, ..on }
            }
            Err(FetchError::UnknownPartition | FetchError::OutOfRange) => return None,
        };
        (next.bytes < READ_BYTES_MAX as usize).then_some(next)
    }

    /// These offsets are lost from now on, also after a restart.
    fn lose(&mut self, number: PartitionNumber, from: Offset, until: Offset) {
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        let last = until.plus(-1);
        log::error!("partition {}: offsets {from} to {last} are lost to damage", number.0);
        partition.quarantine(from, until);
        self.checkpointer.wanted = true;
    }

    fn end_probe(&mut self, number: PartitionNumber) {
        if let Some(partition) = self.partitions.get_mut(&number) {
            partition.suspect = None;
        }
        self.events.push_back(Event::Probed { partition: number });
    }

    /// The offsets that one slot holds around an offset.
    fn run_of(&self, number: PartitionNumber, at: Offset) -> Option<(Offset, Offset)> {
        let partition = self.partitions.get(&number)?;
        let run = partition.run_at(at)?;
        let begin = partition.runs.at(run).base_offset.max(partition.log_start);
        Some((begin, partition.run_end(run).min(partition.durable_end)))
    }

    /// Where the extent begins that counts at an offset, if its slot's footer is in memory.
    fn extent_base(&mut self, number: PartitionNumber, at: Offset) -> Option<Offset> {
        let (begin, _) = self.run_of(number, at)?;
        let partition = self.partitions.get(&number)?;
        let slot = partition.runs.at(partition.run_at(at)?).slot;
        let index = self.index_of(slot)?;
        let (part, settled) = (index.parts.get(&number)?, index.settled);
        let (found, _) = part.extent_at(at, settled)?;
        let base = part.extents.at(found).base_offset.max(begin);
        // Its beginning may be written over elsewhere in the slot.
        let whole = part.extent_at(base, settled).is_some_and(|(first, _)| first == found);
        whole.then_some(base)
    }
}
