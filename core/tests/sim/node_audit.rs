//! Reading a simulated node from outside, from end to end, and asking which topics it has.

use crate::checks::{AckedIsDurable, CommittedStays, OrderKept, Verdict, Violation};
use crate::client::{Leaders, Shared, Target, read, unframed};
use crate::fetching::{Floor, UNKNOWN, fetch_request, start_request, take_partition, take_start};
use crate::history::Audit;
use bytes::Bytes;
use weir_core::error::ErrorCode;
use weir_core::rng::Rng;
use weir_core::wire::metadata::MetadataRequest;
use weir_core::wire::{Request, encode_request};

/// Answers in a row that may say "try again" before that is a failure of the broker.
const RETRIES_MAX: u32 = 20_000;

/// What can be read from outside, and what is known of it.
pub trait Audited {
    fn shared(&mut self) -> &mut Shared;

    fn rng(&mut self) -> &mut Rng;

    /// Asks whoever has that partition, or anybody, and waits for the answer; `None` when a crash
    /// came first.
    fn ask(&mut self, of: Option<&Target>, frame: Bytes) -> Result<Option<Bytes>, Violation>;
}

/// Reads everything and holds it against the histories; ends early when a crash is due.
pub fn audit(of: &mut impl Audited, targets: &[Target]) -> Result<Vec<(Target, Audit)>, Violation> {
    let mut audits = Vec::new();
    audit_topics(of)?;
    for target in targets {
        if of.shared().topics.get(&target.0) != Some(&Some(true)) {
            continue;
        }
        let Some(audit) = read_partition(of, target)? else { break };
        let history = of.shared().history(target);
        AckedIsDurable::check(history, &audit)?;
        CommittedStays::check(history, &audit)?;
        OrderKept::check(history, &audit)?;
        audits.push((target.clone(), audit));
    }
    Ok(audits)
}

/// Topics whose creation was acknowledged are there, deleted ones are not. One gateway of a site
/// may hear of it later than the one that acknowledged it, as in Kafka.
fn audit_topics(of: &mut impl Audited) -> Verdict {
    let request = MetadataRequest { topics: None, ..Default::default() };
    let mut wrong = None;
    for _ in 0..RETRIES_MAX {
        let Some(response) = call(of, None, &request, 9)? else { return Ok(()) };
        wrong = of.shared().topics.iter().find_map(|(name, expected)| {
            let there = response.topics.iter().any(|topic| topic.name.as_ref() == Some(name));
            let wrong = expected.is_some_and(|expected| expected != there);
            wrong.then(|| format!("topic {name}: there {there}, expected {expected:?}"))
        });
        if wrong.is_none() {
            break;
        }
    }
    wrong.map_or(Ok(()), AckedIsDurable::fails)
}

fn read_partition(of: &mut impl Audited, target: &Target) -> Result<Option<Audit>, Violation> {
    let Some(log_start) = log_start(of, target)? else { return Ok(None) };
    let mut audit = Audit { log_start, ..Audit::default() };
    let mut from = log_start;
    let mut retries = 0;
    loop {
        let offsets = [(target.clone(), from)];
        let mut request = fetch_request(of.rng(), &offsets, &Leaders::new());
        request.max_wait_ms = 0;
        let Some(response) = call(of, Some(target), &request, 11)? else { return Ok(None) };
        let data = response.responses.first().and_then(|topic| topic.partitions.first());
        let Some(data) = data else {
            return lost(format!("{target:?} is missing in the answer"));
        };
        if data.error_code == ErrorCode::NONE {
            audit.high_watermark = data.high_watermark;
        }
        match take_partition(of.shared(), target, from, &Floor::default(), data)? {
            // It was trimmed while the audit read.
            Some((_, UNKNOWN)) => return read_partition(of, target),
            Some((batches, to)) => {
                audit.batches.extend(batches);
                from = to;
            }
            None if data.error_code == ErrorCode::NONE && from >= data.high_watermark => break,
            // Empty without an error: the gateway has begun the partition anew while it read.
            None if retries < RETRIES_MAX => retries += 1,
            None => return lost(format!("{target:?} has nothing at {from}: {data:?}")),
        }
    }
    Ok(Some(audit))
}

fn log_start(of: &mut impl Audited, target: &Target) -> Result<Option<i64>, Violation> {
    for _ in 0..RETRIES_MAX {
        let Some(response) = call(of, Some(target), &start_request(target), 5)? else {
            return Ok(None);
        };
        if let Some(start) = take_start(of.shared(), target, &response)? {
            return Ok(Some(start));
        }
    }
    lost(format!("{target:?} never tells its start"))
}

/// Asks and waits for the answer; `None` when a crash came first.
fn call<R: Request>(
    of: &mut impl Audited,
    target: Option<&Target>,
    request: &R,
    version: i16,
) -> Result<Option<R::Response>, Violation> {
    let frame = unframed(&encode_request(request, version, 1, None));
    let answer = of.ask(target, frame)?;
    answer.map(|frame| read::<R>(&frame, version)).transpose()
}

fn lost<T>(what: String) -> Result<T, Violation> {
    Err(Violation { checker: "AckedIsDurable", what })
}
