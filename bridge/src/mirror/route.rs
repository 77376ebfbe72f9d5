//! A route over all its lives: sessions, the waits between them, what the target refuses, and the
//! numbers.
//!
//! ```text
//! state         event                              next
//! connecting    positions are read back            streaming
//! streaming     paused                             paused
//! any           the target fails                   backing off
//! any           the source fails                   connecting
//! backing off   the wait is over, or resumed       connecting
//! paused        resumed                            connecting
//! connecting    another gateway is to run it       standby
//! standby       this gateway is the first          streaming
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_lite::FutureExt;
use weir_core::error::ErrorCode;

use super::backoff::Backoff;
use super::budget::{Bucket, Turns};
use super::reader::{Key, Load};
use super::rebatch::{Piece, Refused};
use super::session::{Ended, Session, next_load_bytes};
use super::settings::{Route, TRANSACTION_BYTES_MIN, TopicFilter};
use super::status::{RouteHandle, State};
use super::writer::{Failure, Writer};
use super::{Shared, Stopping};
use crate::client::{Client, Error, ErrorKind};

/// The source is this gateway or near it: looked for often while it comes up, and never waited for
/// for minutes.
const SOURCE_WAIT: Duration = Duration::from_millis(200);
const SOURCE_WAIT_MAX: Duration = Duration::from_secs(5);

/// How often a gateway that is not the first of its site looks whether it is.
const STANDBY_WAIT: Duration = Duration::from_secs(1);

/// The first load: small, because nobody knows yet how slow the link is.
const FIRST_LOAD_BYTES: usize = 64 << 10;

/// Rates are taken over at least this time.
const RATE_WINDOW: Duration = Duration::from_secs(2);

pub(super) struct Running {
    pub settings: Route,
    pub filter: TopicFilter,
    pub source: Client,
    pub handle: RouteHandle,
    pub turns: Turns,
    pub turn: usize,
    pub stopping: Stopping,
    pub bucket: Bucket,
    /// What the next load may have, by how quick the link has been.
    pub load_bytes: usize,
    pub refused: BTreeMap<Key, Refused>,
    pub gaps: BTreeMap<Key, u64>,
    /// Whether the source has answered since it last failed.
    pub source_seen: bool,
    backoff: Backoff,
    measured: (Instant, u64, u64),
}

impl Running {
    pub fn new(settings: Route, filter: TopicFilter, source: Client, shared: Shared) -> Running {
        let Shared { handle, turns, stopping } = shared;
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64);
        let turn = turns.register(settings.priority);
        Running {
            filter,
            source,
            handle,
            turns,
            turn,
            stopping,
            bucket: Bucket::new(settings.bytes_per_second, Instant::now()),
            load_bytes: FIRST_LOAD_BYTES.min(settings.transaction_bytes),
            refused: BTreeMap::new(),
            gaps: BTreeMap::new(),
            source_seen: false,
            backoff: Backoff::new(seed),
            measured: (Instant::now(), 0, 0),
            settings,
        }
    }

    /// Runs for ever; dropping it at any place is safe, since the target knows what has arrived.
    pub async fn run(mut self) {
        loop {
            while self.handle.paused() {
                self.handle.update(|status| status.state = State::Paused);
                self.handle.woken().await;
            }
            self.handle.update(|status| {
                if status.state != State::Standby {
                    status.state = State::Connecting;
                }
            });
            let ended = match Session::start(&mut self).await {
                Ok(mut session) => session.run().await,
                Err(ended) => ended,
            };
            self.turns.set_waiting(self.turn, false);
            match ended {
                Ended::Again => {}
                Ended::NotFirst => {
                    self.handle.update(|status| status.state = State::Standby);
                    smol::Timer::after(STANDBY_WAIT).await;
                }
                Ended::Source(error) => self.source_failed(error).await,
                Ended::Target(failure) => self.target_failed(failure).await,
            }
        }
    }

    /// A load has arrived.
    pub fn committed(&mut self, load: &Load, writer: &Writer, took: Duration) {
        self.backoff.reset();
        self.load_bytes = next_load_bytes(self.load_bytes, took, self.settings.transaction_bytes);
        for part in &load.parts {
            if let Some(refused) = self.refused.get(&part.key)
                && refused.is_behind(part.next)
            {
                self.refused.remove(&part.key);
            }
        }
        for part in load.parts.iter().filter(|part| part.gaps > 0) {
            *self.gaps.entry(part.key.clone()).or_default() += part.gaps;
            let (topic, partition) = &part.key;
            log::warn!("mirror {}: a gap in {topic}-{partition}", self.settings.name);
        }
        self.handle.update(|status| {
            status.records += load.records();
            status.bytes += load.bytes as u64;
            status.transactions += 1;
            status.gaps += load.parts.iter().map(|part| part.gaps).sum::<u64>();
            status.loops += load.parts.iter().map(|part| part.loops).sum::<u64>();
            for part in &load.parts {
                let (topic, partition) = &part.key;
                let mut rows = status.partitions.iter_mut();
                let row = rows.find(|row| *row.topic == **topic && row.partition == *partition);
                if let (Some(row), Some(written)) = (row, writer.written.get(&part.key)) {
                    row.source_position = written.position;
                    row.lag = (row.source_end - written.position).max(0);
                    row.target_offset = written.metadata.target_next();
                }
            }
            status.lag = status.partitions.iter().map(|row| row.lag).sum();
        });
    }

    /// Brings the rates up to date.
    pub fn measure(&mut self) {
        let (since, records, bytes) = self.measured;
        let seconds = since.elapsed().as_secs_f64();
        if since.elapsed() < RATE_WINDOW {
            return;
        }
        let mut now = (Instant::now(), records, bytes);
        self.handle.update(|status| {
            status.records_per_second = (status.records - records) as f64 / seconds;
            status.bytes_per_second = (status.bytes - bytes) as f64 / seconds;
            (now.1, now.2) = (status.records, status.bytes);
        });
        self.measured = now;
    }

    /// Not a failure of the link, and none at all while the source has not been there yet: the node
    /// in this process starts at the same moment.
    async fn source_failed(&mut self, error: Error) {
        let mut wait = SOURCE_WAIT;
        if self.source_seen {
            wait = self.backoff.next().min(SOURCE_WAIT_MAX);
            let reason = format!("the source: {error}");
            log::warn!("mirror {}: {reason}", self.settings.name);
            self.handle.update(|status| status.last_error = Some(reason));
            self.source_seen = false;
        }
        smol::Timer::after(wait).await;
    }

    async fn target_failed(&mut self, failure: Failure) {
        if let Some((key, piece)) = failure.refused {
            self.handle.update(|status| status.last_error = Some(failure.error.to_string()));
            log::warn!("mirror {}: {}", self.settings.name, failure.error);
            return self.refuse(key, &piece, &failure.error);
        }
        if failure.error.kind == ErrorKind::TimedOut {
            self.load_bytes = (self.load_bytes / 4).max(TRANSACTION_BYTES_MIN);
        }
        // The coordinator has ended the transaction or forgotten the producer: the link itself is
        // good.
        let forgotten = matches!(
            failure.error.code(),
            Some(
                ErrorCode::INVALID_PRODUCER_ID_MAPPING
                    | ErrorCode::UNKNOWN_PRODUCER_ID
                    | ErrorCode::INVALID_PRODUCER_EPOCH
                    | ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
                    | ErrorCode::INVALID_TXN_STATE
                    | ErrorCode::TRANSACTION_ABORTABLE
            )
        );
        let wait_max = if forgotten { Duration::from_secs(1) } else { Duration::MAX };
        self.back_off(failure.error, wait_max).await;
    }

    /// Remembers what the target will not take, so that it comes in another shape next time:
    /// unpacked, then in smaller batches, and a single record at last as a gap.
    fn refuse(&mut self, key: Key, piece: &Piece, error: &Error) {
        // Small loads: what is good before and behind it should not wait for every attempt.
        self.load_bytes = TRANSACTION_BYTES_MIN;
        let refused = self.refused.entry(key).or_default();
        let until = piece.last + 1;
        if piece.passed {
            refused.unpack_until = refused.unpack_until.max(until);
        } else if error.code() == Some(ErrorCode::INVALID_TIMESTAMP)
            && refused.timeless_until < until
        {
            refused.timeless_until = until;
        } else if piece.header.records_count > 1 {
            let half = piece.header.records_count / 2;
            // Never larger again before all of it has arrived, or two pieces would undo each
            // other's.
            refused.split_records = match refused.split_records {
                0 => half,
                before => before.min(half),
            };
            refused.split_until = refused.split_until.max(until);
        } else {
            let reason = format!("refused by the target: {error}");
            refused.records.push((piece.first, reason));
        }
    }

    async fn back_off(&mut self, error: Error, wait_max: Duration) {
        let wait = self.backoff.next().min(wait_max);
        let reason = error.to_string();
        log::warn!("mirror {}: {reason}; next attempt in {wait:.1?}", self.settings.name);
        self.handle.update(|status| {
            status.failures += 1;
            status.last_error = Some(reason.clone());
            let retry_ms = wait.as_millis() as u64;
            status.state = State::BackingOff { reason, retry_ms };
        });
        let timer = async {
            smol::Timer::after(wait).await;
        };
        timer.or(self.handle.woken()).await;
    }
}
