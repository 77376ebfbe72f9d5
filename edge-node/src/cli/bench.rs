//! `weir bench`: one process, one connection a broker, as fast as it goes. A quick look at a
//! gateway; the benchmarks that compare with others stand in `tests/bench`.

use super::args::{Bench, BenchArgs};
use super::connect::run;
use super::output::{print, print_json};
use super::{Failure, Outcome};
use crate::units::{format_bytes, format_count};
use bytes::Bytes;
use serde_json::json;
use smol::{LocalExecutor, Timer};
use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use weir_bridge::client::{
    Acks, Batch, Batches, Client, EARLIEST, FetchFrom, FetchLimits, LATEST, NewTopic,
};
use weir_core::batch::Builder;
use weir_core::error::ErrorCode;
use weir_core::types::Offset;

const PARTITIONS: i32 = 4;

pub fn command(bench: Bench) -> Outcome {
    match bench {
        Bench::Produce(args) => produce(&args),
        Bench::Consume(args) => consume(&args),
    }
}

/// How far a run is; shared by its tasks.
struct Progress {
    started: Instant,
    total: u64,
    done: Cell<u64>,
    bytes: Cell<u64>,
    /// From sending a batch to its acknowledgement.
    latencies: RefCell<Vec<Duration>>,
}

impl Progress {
    fn new(total: u64) -> Rc<Progress> {
        Rc::new(Progress {
            started: Instant::now(),
            total,
            done: Cell::new(0),
            bytes: Cell::new(0),
            latencies: RefCell::default(),
        })
    }

    fn add(&self, records: u64, bytes: u64) {
        self.done.set(self.done.get() + records);
        self.bytes.set(self.bytes.get() + bytes);
    }

    fn rate(&self) -> f64 {
        self.done.get() as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }

    /// Draws a line on a terminal until dropped.
    async fn show(self: Rc<Self>) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        loop {
            Timer::after(Duration::from_millis(200)).await;
            let percent = self.done.get() * 100 / self.total.max(1);
            let filled = (percent as usize / 4).min(25);
            eprint!(
                "\r\x1b[2K[{}{}] {percent} %  {} records/s",
                "█".repeat(filled),
                " ".repeat(25 - filled),
                format_count(self.rate() as u64),
            );
            let _ = std::io::stderr().flush();
        }
    }

    fn report(&self, what: &str, json_wanted: bool) -> Outcome {
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[2K");
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let mut latencies = self.latencies.take();
        latencies.sort_unstable();
        let at = |permille: usize| {
            let index = (latencies.len() * permille / 1000).min(latencies.len().max(1) - 1);
            latencies.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
        };
        let (p50, p99, max) = (at(500), at(990), at(1000));
        if json_wanted {
            return print_json(&json!({
                "records": self.done.get(),
                "bytes": self.bytes.get(),
                "seconds": seconds,
                "records_per_second": self.rate(),
                "latency_ms": { "p50": p50, "p99": p99, "max": max },
            }));
        }
        let each = format_bytes((self.bytes.get() as f64 / seconds) as u64);
        print(&format!(
            "{} records {what} in {seconds:.2} s: {} records/s, {each}/s\n",
            format_count(self.done.get()),
            format_count(self.rate() as u64),
        ))?;
        match latencies.is_empty() {
            true => Ok(()),
            false => print(&format!(
                "batch to acknowledgement: p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms\n"
            )),
        }
    }
}

async fn partitions(client: &Client, args: &BenchArgs, create: bool) -> Result<Vec<i32>, Failure> {
    let topic = NewTopic {
        name: args.topic.clone(),
        partitions: PARTITIONS,
        replication_factor: -1,
        configs: Vec::new(),
    };
    if create {
        match client.create_topic(&topic).await {
            Err(error) if error.code() != Some(ErrorCode::TOPIC_ALREADY_EXISTS) => {
                return Err(args.target.failure(error));
            }
            _ => {}
        }
    }
    let topic = client.topic(&args.topic).await.map_err(|error| args.target.failure(error))?;
    Ok(topic.partitions.iter().map(|partition| partition.index).collect())
}

fn produce(args: &BenchArgs) -> Outcome {
    let client = args.target.client()?;
    let progress = run(async {
        let partitions = partitions(&client, args, true).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let batch = batch(args, now.as_millis() as i64);
        let progress = Progress::new(args.records);
        let executor = LocalExecutor::new();
        let show = executor.spawn(progress.clone().show());
        let left = Rc::new(Cell::new(args.records));
        let next = Rc::new(Cell::new(0));
        let mut tasks = Vec::new();
        for _ in 0..args.in_flight {
            let (client, progress, left) = (client.clone(), progress.clone(), left.clone());
            let (partitions, next, batch) = (partitions.clone(), next.clone(), batch.clone());
            let (topic, records) = (args.topic.clone(), u64::from(args.batch));
            tasks.push(executor.spawn(async move {
                while left.get() > 0 {
                    left.set(left.get().saturating_sub(records));
                    next.set(next.get() + 1);
                    let partition = partitions[next.get() % partitions.len()];
                    let sent = Instant::now();
                    client.produce(&topic, partition, batch.clone(), Acks::All).await?;
                    progress.latencies.borrow_mut().push(sent.elapsed());
                    progress.add(records, batch.len() as u64);
                }
                Ok(())
            }));
        }
        let all = async {
            for task in tasks {
                task.await.map_err(|error| args.target.failure(error))?;
            }
            Ok::<(), Failure>(())
        };
        executor.run(all).await?;
        drop(show);
        Ok(progress)
    })?;
    progress.report("acknowledged", args.target.json)
}

fn batch(args: &BenchArgs, now: i64) -> Bytes {
    let mut batch = Builder::new();
    let value: Vec<u8> = (0..args.size).map(|at| (at % 95) as u8 + 32).collect();
    for _ in 0..args.batch {
        batch.push(now, None, Some(&value), &[]);
    }
    batch.build(None).into()
}

fn consume(args: &BenchArgs) -> Outcome {
    let client = args.target.client()?;
    let progress = run(async {
        let failure = |error| args.target.failure(error);
        let partitions = partitions(&client, args, false).await?;
        let at = |time| {
            let wanted = partitions.iter().map(|p| (args.topic.clone(), *p, time));
            wanted.collect::<Vec<_>>()
        };
        let starts = client.list_offsets(&at(EARLIEST)).await.map_err(failure)?;
        let ends = client.list_offsets(&at(LATEST)).await.map_err(failure)?;
        let there: i64 =
            starts.iter().zip(&ends).map(|(start, end)| end.offset - start.offset).sum();
        let progress = Progress::new(args.records.min(there.max(0) as u64));
        let executor = LocalExecutor::new();
        let show = executor.spawn(progress.clone().show());
        let mut from: Vec<FetchFrom> = starts
            .into_iter()
            .map(|s| FetchFrom { topic: s.topic, partition: s.partition, offset: s.offset })
            .collect();
        let limits = FetchLimits::default();
        let read = async {
            while progress.done.get() < progress.total {
                for fetched in client.fetch(&from, limits).await.map_err(failure)? {
                    let position = from.iter_mut().find(|f| f.partition == fetched.partition);
                    let Some(position) = position else { continue };
                    for batch in Batches::new(&fetched) {
                        match batch.map_err(failure)? {
                            Batch::Data(header, bytes) => {
                                let new = header.last_offset().0 + 1 - position.offset;
                                progress.add(new.max(0) as u64, bytes.len() as u64);
                                position.offset = header.last_offset().plus(1).0;
                            }
                            Batch::Skipped(header) => {
                                let Offset(last) = header.last_offset();
                                position.offset = last + 1;
                            }
                        }
                    }
                }
            }
            Ok::<(), Failure>(())
        };
        executor.run(read).await?;
        drop(show);
        Ok(progress)
    })?;
    progress.report("read", args.target.json)
}
