//! Reading a simulated node from outside, from end to end, and asking which topics it has.

use crate::checks::{AckedIsDurable, CommittedStays, OrderKept, Verdict, Violation};
use crate::client::{Leaders, Target, read, unframed};
use crate::fetching::{Floor, UNKNOWN, fetch_request, start_request, take_partition, take_start};
use crate::history::Audit;
use crate::node_run::NodeRun;
use crate::population;
use weir_core::error::ErrorCode;
use weir_core::types::ConnId;
use weir_core::wire::metadata::MetadataRequest;
use weir_core::wire::{Request, encode_request};

/// Answers in a row that may say "try again" before that is a failure of the broker.
const RETRIES_MAX: u32 = 2_000;

impl NodeRun {
    /// Reads everything and holds it against the histories; ends early when a crash is due.
    pub fn audit(&mut self) -> Verdict {
        self.paused = true;
        let conn = self.connect(None);
        self.audit_topics(conn)?;
        for target in population::targets() {
            if self.shared.topics.get(&target.0) != Some(&Some(true)) {
                continue;
            }
            let Some(audit) = self.read_partition(conn, &target)? else { break };
            let history = self.shared.history(&target);
            AckedIsDurable::check(history, &audit)?;
            CommittedStays::check(history, &audit)?;
            OrderKept::check(history, &audit)?;
            history.learn(&audit, false);
        }
        self.paused = false;
        Ok(())
    }

    /// Topics whose creation was acknowledged are there, deleted ones are not.
    fn audit_topics(&mut self, conn: ConnId) -> Verdict {
        let request = MetadataRequest { topics: None, ..Default::default() };
        let Some(response) = self.call(conn, &request, 9)? else { return Ok(()) };
        for (name, expected) in &self.shared.topics {
            let there = response.topics.iter().any(|topic| topic.name.as_ref() == Some(name));
            if expected.is_some_and(|expected| expected != there) {
                return AckedIsDurable::fails(format!(
                    "topic {name}: there {there}, expected {expected:?}"
                ));
            }
        }
        Ok(())
    }

    fn read_partition(
        &mut self,
        conn: ConnId,
        target: &Target,
    ) -> Result<Option<Audit>, Violation> {
        let Some(log_start) = self.log_start(conn, target)? else { return Ok(None) };
        let mut audit = Audit { log_start, ..Audit::default() };
        let mut from = log_start;
        let mut retries = 0;
        loop {
            let offsets = [(target.clone(), from)];
            let mut request = fetch_request(self.rng(), &offsets, &Leaders::new());
            request.max_wait_ms = 0;
            let Some(response) = self.call(conn, &request, 11)? else { return Ok(None) };
            let data = response.responses.first().and_then(|topic| topic.partitions.first());
            let Some(data) = data else {
                return lost(format!("{target:?} is missing in the answer"));
            };
            if data.error_code == ErrorCode::NONE {
                audit.high_watermark = data.high_watermark;
            }
            match take_partition(&mut self.shared, target, from, &Floor::default(), data)? {
                // It was trimmed while the audit read.
                Some((_, UNKNOWN)) => return self.read_partition(conn, target),
                Some((batches, to)) => {
                    audit.batches.extend(batches);
                    from = to;
                }
                None if data.error_code == ErrorCode::NONE && from >= data.high_watermark => break,
                None if data.error_code != ErrorCode::NONE && retries < RETRIES_MAX => retries += 1,
                None => return lost(format!("{target:?} has nothing at {from}: {data:?}")),
            }
        }
        Ok(Some(audit))
    }

    fn log_start(&mut self, conn: ConnId, target: &Target) -> Result<Option<i64>, Violation> {
        for _ in 0..RETRIES_MAX {
            let Some(response) = self.call(conn, &start_request(target), 5)? else {
                return Ok(None);
            };
            if let Some(start) = take_start(&mut self.shared, target, &response)? {
                return Ok(Some(start));
            }
        }
        lost(format!("{target:?} never tells its start"))
    }

    /// Asks and waits for the answer; `None` when a crash came first.
    fn call<R: Request>(
        &mut self,
        conn: ConnId,
        request: &R,
        version: i16,
    ) -> Result<Option<R::Response>, Violation> {
        if self.crash_due {
            return Ok(None);
        }
        self.send(conn, unframed(&encode_request(request, version, 1, None)));
        loop {
            if let Some(frame) = self.take_heard(conn) {
                return read::<R>(&frame, version).map(Some);
            }
            if self.crash_due {
                return Ok(None);
            }
            self.step()?;
        }
    }
}

fn lost<T>(what: String) -> Result<T, Violation> {
    Err(Violation { checker: "AckedIsDurable", what })
}
