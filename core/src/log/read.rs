//! Questions to the log: fetches, and what searches by timestamp (`search`) have in common with
//! them.
//!
//! A question is looked at again each time something that it waited for is there: first the footer
//! of the slot that holds its offset, then the bytes. One answer comes from one read of one slot,
//! of at most [`READ_BYTES_MAX`]; who wants more asks again. Every frame's checksum is verified
//! before its batch is handed out, but for what comes from the tail in memory.
//!
//! Why no scan of a slot that the readers of many partitions share (2026-11): reads go through the
//! system's page cache, and who reads all partitions comes past the same place for each of them
//! before going on. 204 MB, 2,000 commits of 100 x 1 KB, read again after a restart with an empty
//! page cache: 1.045 bytes from the device for each byte of all 100 partitions, 11.7 for each of
//! one of them. What was read of a slot would have to be kept for the others, and it is: the page
//! cache gives it back when memory is short.

use super::cleaner::CLEANER;
use super::layout::extent::Extent;
use super::layout::footer::Part;
use super::layout::frame_seed;
use super::layout::group::Place;
use super::runs::Run;
use super::search::{Hit, Searches};
use super::span::Span;
use super::walk::Walk;
use super::{
    Answer, Batches, Event, FetchError, FetchSpec, IoResult, Log, Phase, Purpose, Ticket,
    TimestampHit,
};
use crate::batch::Header as BatchHeader;
use crate::limits::UNPACKED_BYTES_MAX;
use crate::types::{Offset, PartitionNumber};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

/// The most that one read gets, but for a single larger batch.
pub(crate) const READ_BYTES_MAX: u32 = 1 << 20;

#[derive(Clone, Copy, Debug)]
pub(super) enum Question {
    Fetch(FetchSpec),
    /// `from` moves on when an extent turns out not to have it.
    Find {
        partition: PartitionNumber,
        timestamp: i64,
        from: Offset,
    },
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) question: Question,
    span: Option<Span>,
    /// The header of the batch that is being unpacked.
    pub(super) unpacking: Option<BatchHeader>,
}

impl Job {
    fn new(question: Question) -> Job {
        Job { question, span: None, unpacking: None }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Jobs {
    last: u64,
    pub(super) open: BTreeMap<Ticket, Job>,
    pub(super) searches: Searches,
}

impl Jobs {
    pub(super) fn next_ticket(&mut self) -> Ticket {
        self.last += 1;
        Ticket(self.last)
    }

    /// What is being read of a partition at `from` or behind does not count any more: its questions
    /// are looked at again.
    pub(super) fn truncated(&mut self, number: PartitionNumber, from: Offset) {
        for job in self.open.values_mut().filter(|job| job.question.partition() == number) {
            if let Some(span) = &mut job.span {
                // As if the slot were in another use by now.
                span.seg_seq = u64::MAX;
            }
            job.unpacking = None;
            if let Question::Find { from: next, .. } = &mut job.question {
                *next = from.min(*next);
            }
        }
    }
}

#[derive(Debug)]
pub(super) enum Found {
    Batches(Batches),
    Hit(Option<TimestampHit>),
}

impl Found {
    fn into_batches(self) -> Batches {
        match self {
            Found::Batches(batches) => batches,
            Found::Hit(_) => unreachable!("a fetch is answered with batches"),
        }
    }
}

enum Look {
    Answer(Found),
    /// The footer of that slot is needed.
    Footer(u32),
    Read(Span),
    /// The records of that batch are needed.
    Unpack(Bytes),
    /// Not here: look again from there.
    Onward(Offset),
}

impl Log {
    pub fn fetch(&mut self, spec: FetchSpec) -> Result<Answer<Batches>, FetchError> {
        match self.ask(Question::Fetch(spec))? {
            Answer::Now(found) => Ok(Answer::Now(found.into_batches())),
            Answer::Later(ticket) => Ok(Answer::Later(ticket)),
        }
    }

    pub(super) fn ask(&mut self, mut question: Question) -> Result<Answer<Found>, FetchError> {
        if matches!(self.phase, Phase::Starting(_) | Phase::Refused) {
            return Err(FetchError::UnknownPartition);
        }
        loop {
            let look = self.look(&question)?;
            match look {
                Look::Answer(found) => return Ok(Answer::Now(found)),
                Look::Onward(next) => question.move_on(next),
                Look::Footer(_) | Look::Read(_) | Look::Unpack(_) => {
                    let ticket = self.jobs.next_ticket();
                    self.begin(ticket, question, look);
                    return Ok(Answer::Later(ticket));
                }
            }
        }
    }

    /// Lets a question wait for what it needs; a search first for its turn.
    fn begin(&mut self, ticket: Ticket, question: Question, look: Look) {
        if matches!(question, Question::Find { .. }) && !self.jobs.searches.begin(ticket) {
            self.jobs.open.insert(ticket, Job::new(question));
            return;
        }
        self.wait_for(ticket, question, look);
    }

    fn wait_for(&mut self, ticket: Ticket, question: Question, look: Look) {
        let mut job = Job::new(question);
        match look {
            Look::Footer(slot) => self.load_footer(slot, ticket),
            Look::Read(span) => {
                let (at, len) = span.bounds();
                let at = self.geometry.place(span.slot, at);
                self.disk.read_parts(Purpose::Data(ticket), at, len, span.parts());
                job.span = Some(span);
            }
            Look::Unpack(batch) => {
                job.unpacking = BatchHeader::parse(&batch).ok();
                self.disk.unpack(Purpose::Unpacked(ticket), batch, UNPACKED_BYTES_MAX);
            }
            Look::Answer(_) | Look::Onward(_) => unreachable!("an answer is not waited for"),
        }
        self.jobs.open.insert(ticket, job);
    }

    /// Looks at a question again: what it waited for is there.
    pub(crate) fn resume(&mut self, ticket: Ticket) {
        if ticket == CLEANER {
            return self.clean_footer(true);
        }
        let Some(Job { mut question, .. }) = self.jobs.open.remove(&ticket) else { return };
        loop {
            match self.look(&question) {
                Ok(Look::Answer(found)) => return self.answer(ticket, question, Ok(found)),
                Ok(Look::Onward(next)) => question.move_on(next),
                Ok(look) => return self.wait_for(ticket, question, look),
                Err(error) => return self.answer(ticket, question, Err(error)),
            }
        }
    }

    pub(crate) fn answer_failed(&mut self, ticket: Ticket, error: FetchError) {
        if ticket == CLEANER {
            return self.clean_footer(false);
        }
        if let Some(job) = self.jobs.open.remove(&ticket) {
            if let (Question::Fetch(spec), FetchError::Device) = (job.question, error) {
                self.suspect(spec.partition, spec.from);
            }
            self.answer(ticket, job.question, Err(error));
        }
    }

    /// Somebody could not read there.
    fn suspect(&mut self, number: PartitionNumber, at: Offset) {
        if let Some(partition) = self.partitions.get_mut(&number) {
            partition.suspect = Some(at);
        }
    }

    pub(super) fn answer(
        &mut self,
        ticket: Ticket,
        question: Question,
        found: Result<Found, FetchError>,
    ) {
        if self.compactor.awaits(ticket) {
            return self.compaction_read(found.map(Found::into_batches));
        }
        if self.gatherer.awaits(ticket) {
            return self.gather_read(found.map(Found::into_batches));
        }
        if let Some(number) = self.prober.awaits(ticket) {
            return self.probe_read(number, found.map(Found::into_batches));
        }
        self.events.push_back(match (question, found) {
            (Question::Fetch(_), Ok(Found::Batches(batches))) => {
                Event::Fetched { ticket, result: Ok(batches) }
            }
            (Question::Find { .. }, Ok(Found::Hit(hit))) => {
                Event::Found { ticket, result: Ok(hit) }
            }
            (Question::Fetch(_), Err(error)) => Event::Fetched { ticket, result: Err(error) },
            (Question::Find { .. }, Err(error)) => Event::Found { ticket, result: Err(error) },
            (_, Ok(_)) => unreachable!("a question gets its own kind of answer"),
        });
        self.jobs.searches.end(ticket);
    }

    /// The bytes that a question waited for are there, but for some blocks if it is `unread`.
    pub(crate) fn data_done(&mut self, ticket: Ticket, result: IoResult, unread: bool) {
        let Some(job) = self.jobs.open.get_mut(&ticket) else { return };
        let Some(span) = job.span.take() else { return };
        let mut question = job.question;
        let IoResult::Read(bytes) = result else {
            if let (Question::Fetch(spec), [first, _, ..]) = (&mut question, &span.extents[..]) {
                // What cannot be read may be another extent, or lie between them.
                spec.bytes_max = first.bytes as usize;
                self.jobs.open.insert(ticket, Job::new(question));
                return self.resume(ticket);
            }
            self.prober.note_unreadable(ticket, span.end);
            return self.answer_failed(ticket, FetchError::Device);
        };
        let used_anew = self.space.slot(span.slot).seg_seq != span.seg_seq;
        if used_anew || self.bounds(&question).is_err() {
            return self.resume(ticket);
        }
        let (start, _) = span.bounds();
        let chunks: Vec<Option<Bytes>> = span
            .extents
            .iter()
            .map(|extent| {
                let from = (extent.at - start) as usize;
                let range = from..from + extent.bytes as usize;
                (range.end <= bytes.len()).then(|| bytes.slice(range))
            })
            .collect();
        let seed = frame_seed(&self.geometry.store, span.seg_seq);
        match self.judge_chunks(&question, &span, &chunks, Some(seed)) {
            Ok(Look::Answer(found)) => {
                self.jobs.open.remove(&ticket);
                self.answer(ticket, question, Ok(found));
            }
            Ok(Look::Onward(next)) => {
                question.move_on(next);
                self.jobs.open.insert(ticket, Job::new(question));
                self.resume(ticket);
            }
            Ok(look @ Look::Unpack(_)) => self.wait_for(ticket, question, look),
            Ok(_) => unreachable!("chunks are answered, unpacked or passed over"),
            // What cannot be read may be there the next time.
            Err(FetchError::Damaged { until }) if unread => {
                self.prober.note_unreadable(ticket, until);
                self.answer_failed(ticket, FetchError::Device);
            }
            Err(error) => self.answer_failed(ticket, error),
        }
    }

    /// The offsets among which an answer may lie.
    pub(super) fn bounds(&self, question: &Question) -> Result<(Offset, Offset), FetchError> {
        let partition =
            self.partitions.get(&question.partition()).ok_or(FetchError::UnknownPartition)?;
        match question {
            Question::Fetch(spec) => {
                if spec.from < partition.log_start || spec.from > partition.log_end {
                    return Err(FetchError::OutOfRange);
                }
                Ok((spec.from, spec.end.min(partition.durable_end)))
            }
            Question::Find { from, .. } => {
                Ok(((*from).max(partition.log_start), partition.durable_end))
            }
        }
    }

    fn look(&mut self, question: &Question) -> Result<Look, FetchError> {
        let (from, durable_end) = self.bounds(question)?;
        let number = question.partition();
        let partition = &self.partitions[&number];
        let run = match question {
            Question::Fetch(_) => partition.run_at(from),
            Question::Find { timestamp, .. } => (0..partition.runs.len()).find(|&run| {
                partition.run_end(run) > from && partition.runs.at(run).max_timestamp >= *timestamp
            }),
        };
        if let (Question::Fetch(_), Some(until)) = (question, partition.damage_at(from)) {
            return Err(FetchError::Damaged { until });
        }
        let Some(run) = run.filter(|_| from < durable_end) else {
            return Ok(Look::Answer(question.nothing()));
        };
        let run_end = partition.run_end(run);
        let Run { slot, base_offset: base, .. } = partition.runs.at(run);
        let Some(index) = self.index_of(slot) else { return Ok(Look::Footer(slot)) };
        let (seg_seq, settled) = (index.seg_seq, index.settled);
        let part = index.parts.get(&number);
        let chosen = part.ok_or(run_end).and_then(|part| {
            question.choose(part, from.max(base), durable_end.min(run_end), settled)
        });
        let (extents, end) = match chosen {
            Ok(chosen) if from >= base => chosen,
            Ok(_) => return self.pass_over(question, base),
            Err(next) => return self.pass_over(question, next.min(run_end)),
        };
        // What counts behind the durable end is not what the slot tells of it, where a truncation
        // is on its way.
        let end = end.min(run_end).min(durable_end);
        let span = Span { slot, seg_seq, end, extents };
        let cached = span.extents.iter().map_while(|extent| {
            self.tail.get(Place { slot, at: extent.at }, extent.bytes).map(Some)
        });
        let cached: Vec<Option<Bytes>> = cached.collect();
        if cached.is_empty() {
            return Ok(Look::Read(span));
        }
        self.judge_chunks(question, &span, &cached, None)
    }

    /// Nothing of the partition is at the offset that was asked for, though it should be.
    fn pass_over(&mut self, question: &Question, until: Offset) -> Result<Look, FetchError> {
        let (from, _) = self.bounds(question)?;
        match question {
            Question::Fetch(spec) => {
                let partition = self.partitions.get(&spec.partition);
                if partition.is_none_or(|partition| partition.suspect != Some(from)) {
                    log::error!("partition {}: damaged bytes at offset {from}", spec.partition.0);
                }
                self.suspect(spec.partition, from);
                Err(FetchError::Damaged { until: until.max(from.plus(1)) })
            }
            Question::Find { .. } => Ok(Look::Onward(until.max(from.plus(1)))),
        }
    }

    fn judge_chunks(
        &mut self,
        question: &Question,
        span: &Span,
        chunks: &[Option<Bytes>],
        seed: Option<u32>,
    ) -> Result<Look, FetchError> {
        let (from, end) = self.bounds(question)?;
        // What stands behind the span counts elsewhere.
        let end = end.min(span.end);
        let walk = Walk { partition: question.partition(), from, end, seed };
        match question {
            Question::Fetch(spec) => match walk.batches(spec, span, chunks) {
                Ok((batches, next)) if batches.is_empty() && next > from => Ok(Look::Onward(next)),
                Ok((batches, _)) => Ok(Look::Answer(Found::Batches(batches))),
                Err(until) => self.pass_over(question, until),
            },
            Question::Find { timestamp, .. } => Ok(match walk.hit(*timestamp, chunks) {
                Hit::Record(hit) => Look::Answer(Found::Hit(Some(hit))),
                Hit::Packed(batch) => Look::Unpack(batch),
                // The span ends beyond where it was chosen for, whatever was trimmed since.
                Hit::Nothing => Look::Onward(span.end),
            }),
        }
    }
}

impl Question {
    fn partition(&self) -> PartitionNumber {
        match self {
            Question::Fetch(spec) => spec.partition,
            Question::Find { partition, .. } => *partition,
        }
    }

    fn nothing(&self) -> Found {
        match self {
            Question::Fetch(_) => Found::Batches(Vec::new()),
            Question::Find { .. } => Found::Hit(None),
        }
    }

    pub(super) fn move_on(&mut self, next: Offset) {
        match self {
            Question::Fetch(spec) => spec.from = next,
            Question::Find { from, .. } => *from = next,
        }
    }

    /// The extents to read from `from` on, and up to where they count; else where to go on.
    fn choose(
        &self,
        part: &Part,
        from: Offset,
        end: Offset,
        settled: u32,
    ) -> Result<(Vec<Extent>, Offset), Offset> {
        let behind = |offset| part.next_base(offset).unwrap_or(end).min(end);
        match self {
            Question::Fetch(spec) => {
                let (first, mut until) = part.extent_at(from, settled).ok_or(behind(from))?;
                let begin = part.extents.at(first);
                let mut chosen = alloc::vec![begin];
                let mut bytes = begin.bytes as usize;
                for (number, extent) in part.extents.iter().enumerate().skip(first + 1) {
                    let fits = bytes < spec.bytes_max
                        && extent.base_offset == until
                        && until < end
                        && chosen.last().is_some_and(|last| extent.at >= last.end())
                        && extent.end() - begin.at <= READ_BYTES_MAX;
                    let found = part.extent_at(until, settled).filter(|_| fits);
                    let Some((_, next)) = found.filter(|&(at, _)| at == number) else { break };
                    bytes += extent.bytes as usize;
                    chosen.push(extent);
                    until = next;
                }
                Ok((chosen, until))
            }
            Question::Find { timestamp, .. } => {
                let mut at = from;
                while at < end {
                    let found = part.extent_at(at, settled);
                    let until = found.map_or_else(|| behind(at), |(_, until)| until);
                    let extent = found.map(|(found, _)| part.extents.at(found));
                    if let Some(extent) = extent.filter(|e| e.max_timestamp >= *timestamp) {
                        // The extent may have what does not count before there.
                        let chosen = (alloc::vec![extent], until);
                        return if at > from { Err(at) } else { Ok(chosen) };
                    }
                    at = until;
                }
                Err(end)
            }
        }
    }
}
