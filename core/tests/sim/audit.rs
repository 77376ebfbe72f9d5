//! Reading a simulated log from end to end, and single reads in between.

use crate::checks::{AckedIsDurable, Bounded, CommittedStays, DamageIsNamed, OrderKept};
use crate::checks::{Verdict, Violation};
use crate::history::{Audit, Found};
use crate::log_run::LogRun;
use crate::plan::Bug;
use weir_core::log::{Answer, Batches, FetchError, FetchSpec, Ticket};
use weir_core::types::{Offset, PartitionNumber};

type Read = Result<Batches, FetchError>;

impl LogRun {
    /// Reads every partition and holds it against its history; ends early when a crash is due.
    pub fn audit_all(&mut self) -> Verdict {
        // What is in flight would be acknowledged while the audit reads.
        self.waiting = true;
        while !self.crash_due && self.partitions.values().any(|one| !one.in_flight.is_empty()) {
            self.step()?;
        }
        self.waiting = false;
        if self.partitions.values().any(|one| !one.in_flight.is_empty()) {
            return Ok(());
        }
        for number in self.numbers() {
            let Some(audit) = self.audit(number)? else { return Ok(()) };
            let partition = self.partitions.get_mut(&number).expect("it is known");
            if self.disk.harm.any() {
                DamageIsNamed::check(number, partition, &self.disk.harm, &audit)?;
            }
            AckedIsDurable::check(&partition.history, &audit)?;
            if partition.history.blurred {
                continue;
            }
            CommittedStays::check(&partition.history, &audit)?;
            OrderKept::check(&partition.history, &audit)?;
            let replaced = self.replacing.as_ref().is_some_and(|one| one.number == number);
            partition.history.learn(&audit, replaced);
        }
        Ok(())
    }

    fn audit(&mut self, number: PartitionNumber) -> Result<Option<Audit>, Violation> {
        let (start, end) = self.bounds(number);
        let mut audit = Audit { log_start: start, high_watermark: end, ..Audit::default() };
        let removed = self.partitions[&number].history.removed.iter();
        let gone = removed.filter(|(base, one)| one.gone && !self.disk.harm.is_hit(number, **base));
        audit.gone = gone.map(|(base, _)| *base).collect();
        let mut from = start;
        while from < end {
            let bytes_max = 1 << self.world.rng.below(18);
            let Some(result) = self.fetch(number, from, end, bytes_max)? else { return Ok(None) };
            log::trace!(
                "{number:?} from {from}: {:?}",
                result.as_ref().map(|batches| batches.len())
            );
            match result {
                Ok(batches) if batches.is_empty() => {
                    let history = &self.partitions[&number].history;
                    if history.blurred || history.may_be_hole(from, end, &[]) {
                        break;
                    }
                    let what = format!("{number:?} ends at {end} but has nothing at {from}");
                    return Err(lost(what));
                }
                Ok(batches) => {
                    for found in self.recognise(number, &batches)? {
                        from = found.end();
                        audit.batches.push(found);
                    }
                }
                Err(FetchError::Device) if self.disk.faults.read_error > 0 => {}
                Err(FetchError::OutOfRange) if from < self.bounds(number).0 => {
                    // What has just been written or freed moved the log start while the audit
                    // reads.
                    return self.audit(number);
                }
                Err(FetchError::Damaged { until }) if self.disk.harm.any() && until.0 > from => {
                    audit.damaged.push((from, until.0));
                    from = until.0;
                }
                Err(error) => return Err(lost(format!("{number:?} at {from}: {error:?}"))),
            }
        }
        Ok(Some(audit))
    }

    /// What a consumer's read came to.
    pub fn served(&mut self, spec: FetchSpec, result: Result<Batches, FetchError>) -> Verdict {
        let number = spec.partition;
        let (start, durable_end) = self.bounds(number);
        let batches = match result {
            // It was truncated meanwhile.
            Ok(batches) if batches.is_empty() && spec.from.0 >= durable_end => return Ok(()),
            // So it was while somebody had gone on behind a hole.
            Err(FetchError::OutOfRange) if spec.end.0 > durable_end => return Ok(()),
            Ok(batches) => batches,
            Err(FetchError::Device) if self.disk.faults.read_error > 0 => return Ok(()),
            Err(FetchError::Damaged { .. }) if self.disk.harm.any() => return Ok(()),
            Err(FetchError::OutOfRange) if spec.from.0 < start => return Ok(()),
            Err(error) => return CommittedStays::fails(format!("{spec:?} failed: {error:?}")),
        };
        let found = self.recognise(number, &batches)?;
        if self.partitions[&number].history.blurred {
            return Ok(());
        }
        // What lay behind may be truncated by now.
        let (from, end) = (spec.from.0, spec.end.0.min(durable_end));
        let history = &self.partitions[&number].history;
        let covers = |first: &Found| {
            let begin = first.base_offset;
            begin <= from && from < first.end() || history.may_be_hole(from, begin, &[])
        };
        let right = found.first().map_or_else(|| history.may_be_hole(from, end, &[]), covers);
        if !right || found.iter().any(|found| found.end() > end) {
            return CommittedStays::fails(format!("{spec:?} is answered with {found:?}"));
        }
        let bytes: usize = batches.iter().map(|batch| batch.len()).sum();
        if bytes > spec.bytes_max && batches.len() > 1 {
            return Bounded::fails(format!("{spec:?} is answered with {bytes} bytes"));
        }
        let history = &mut self.partitions.get_mut(&number).expect("it is known").history;
        for found in &found {
            let placed = history.placed.get(&found.base_offset);
            if placed.is_some_and(|placed| placed.id != found.id) || found.end() > durable_end {
                let what = format!("{number:?} served {found:?}, which was truncated: {placed:?}");
                return CommittedStays::fails(what);
            }
            if history.removed.contains_key(&found.base_offset) {
                continue;
            }
            let before = history.served.insert(found.base_offset, found.id);
            if before.is_some_and(|before| before != found.id) {
                let what = format!("{number:?} served {before:?}, now {found:?}");
                return CommittedStays::fails(what);
            }
        }
        Ok(())
    }

    /// A fetch, waited for; `None` when a crash came first.
    fn fetch(
        &mut self,
        partition: PartitionNumber,
        from: i64,
        end: i64,
        bytes_max: usize,
    ) -> Result<Option<Read>, Violation> {
        let (from, end) = (Offset(from), Offset(end));
        let spec = FetchSpec { partition, from, end, bytes_max, at_least_one: true };
        let Some(log) = self.log.as_mut() else { return Ok(None) };
        match log.fetch(spec) {
            Ok(Answer::Now(batches)) => Ok(Some(Ok(batches))),
            Err(error) => Ok(Some(Err(error))),
            Ok(Answer::Later(ticket)) => self.wait_for(ticket),
        }
    }

    /// Lets the world go on until the log has answered.
    fn wait_for(&mut self, ticket: Ticket) -> Result<Option<Read>, Violation> {
        self.pump()?;
        self.waiting = true;
        while !self.crash_due && !self.answers.contains_key(&ticket) {
            self.step()?;
        }
        self.waiting = false;
        Ok(self.answers.remove(&ticket))
    }

    fn recognise(
        &self,
        number: PartitionNumber,
        batches: &Batches,
    ) -> Result<Vec<Found>, Violation> {
        let history = &self.partitions[&number].history;
        let found = batches.iter().map(|batch| Found::recognise(history, batch));
        found.collect::<Result<_, _>>().map_err(lost)
    }

    /// Log start offset and durable end.
    pub fn bounds(&self, number: PartitionNumber) -> (i64, i64) {
        let view = self.log.as_ref().and_then(|log| log.partition(number));
        view.map_or((0, 0), |view| match self.plan.bug {
            Bug::ServeUnflushed => (view.log_start.0, view.log_end.0),
            _ => (view.log_start.0, view.durable_end.0),
        })
    }
}

fn lost(what: String) -> Violation {
    Violation { checker: "AckedIsDurable", what }
}
