//! `weir produce`: lines of standard input as records.

use super::args::ProduceArgs;
use super::connect::run;
use super::output::print_json;

use super::{Failure, Outcome};
use bytes::Bytes;
use serde_json::json;
use std::io::{self, BufRead, IsTerminal};
use std::time::{SystemTime, UNIX_EPOCH};
use weir_bridge::client::{Acks, Client, NewTopic};
use weir_bridge::partition_of_key;
use weir_core::batch::Builder;
use weir_core::error::ErrorCode;

/// Bytes of records that are sent as one batch; lines that are there already share one.
const BATCH_BYTES: usize = 256 << 10;
/// The longest line, a little below the largest batch.
const LINE_BYTES_MAX: usize = 1 << 20;

pub fn command(args: ProduceArgs) -> Outcome {
    let client = args.target.client()?;
    let headers = headers(&args.header)?;
    let partitions = run(partitions(&client, &args))?;
    if let Some(partition) = args.partition
        && !(0..partitions).contains(&partition)
    {
        let sentence = format!("{} has the partitions 0 to {}", args.topic, partitions - 1);
        return Err(Failure::Failed(sentence));
    }
    let mut writer = Writer { client, args: &args, headers, next: 0, count: 0, open: Vec::new() };
    writer.open.resize_with(partitions as usize, Builder::new);
    if let Some(value) = &args.value {
        writer.add(args.key.as_deref(), value.as_bytes())?;
    } else {
        if io::stdin().is_terminal() && !args.target.json {
            eprintln!("each line is a record; Ctrl-D ends");
        }
        writer.lines()?;
    }
    writer.flush()?;
    if args.target.json {
        print_json(&json!({ "topic": args.topic, "records": writer.count }))
    } else if args.value.is_none() && io::stderr().is_terminal() {
        eprintln!("{} records, all on flash", writer.count);
        Ok(())
    } else {
        Ok(())
    }
}

fn headers(texts: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) => Ok((name.to_string(), value.to_string())),
        None => Err(Failure::Usage(format!("--header {text}: write it as NAME=VALUE"))),
    };
    texts.iter().map(pair).collect()
}

/// How many partitions the topic has; it is created if it is not there, as Kafka's clients do.
async fn partitions(client: &Client, args: &ProduceArgs) -> Result<i32, Failure> {
    let failure = |error| args.target.failure(error);
    match client.topic(&args.topic).await {
        Ok(topic) => return Ok(topic.partitions.len() as i32),
        Err(error) if error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => {}
        Err(error) => return Err(failure(error)),
    }
    let topic = NewTopic {
        name: args.topic.clone(),
        partitions: -1,
        replication_factor: -1,
        configs: Vec::new(),
    };
    match client.create_topic(&topic).await {
        Err(error) if error.code() != Some(ErrorCode::TOPIC_ALREADY_EXISTS) => {
            return Err(failure(error));
        }
        _ => {}
    }
    let topic = client.topic(&args.topic).await.map_err(failure)?;
    Ok(topic.partitions.len() as i32)
}

struct Writer<'a> {
    client: Client,
    args: &'a ProduceArgs,
    headers: Vec<(String, String)>,
    /// Where the next record without a key goes.
    next: usize,
    count: u64,
    /// The batch of each partition that is being filled.
    open: Vec<Builder>,
}

impl Writer<'_> {
    fn lines(&mut self) -> Outcome {
        let mut input = io::BufReader::with_capacity(64 << 10, io::stdin());
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut limited = io::Read::take(&mut input, LINE_BYTES_MAX as u64 + 1);
            let read = limited.read_until(b'\n', &mut line);
            match read.map_err(|error| format!("cannot read standard input: {error}"))? {
                0 => return Ok(()),
                _ if line.len() > LINE_BYTES_MAX => {
                    return Err(Failure::Failed("a line is longer than 1 MiB".into()));
                }
                _ => {}
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            self.line(&line)?;
            // Whoever types wants each line to arrive; whoever pipes wants batches.
            if input.buffer().is_empty() {
                self.flush()?;
            }
        }
    }

    fn line(&mut self, line: &[u8]) -> Outcome {
        let Some(separator) = &self.args.key_separator else {
            return self.add(self.args.key.as_deref(), line);
        };
        let text = std::str::from_utf8(line)
            .map_err(|_| "a line is not UTF-8, so it has no separator".to_string())?;
        match text.split_once(separator.as_str()) {
            Some((key, value)) => self.add(Some(key), value.as_bytes()),
            None => Err(Failure::Failed(format!("a line has no \"{separator}\": {text}"))),
        }
    }

    fn add(&mut self, key: Option<&str>, value: &[u8]) -> Outcome {
        let partition = match (self.args.partition, key) {
            (Some(partition), _) => partition as usize,
            (None, Some(key)) => partition_of_key(key.as_bytes(), self.open.len() as u32) as usize,
            (None, None) => self.next,
        };
        let headers: Vec<(&str, Option<&[u8]>)> =
            self.headers.iter().map(|(name, text)| (&**name, Some(text.as_bytes()))).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let batch = &mut self.open[partition];
        batch.push(now.as_millis() as i64, key.map(str::as_bytes), Some(value), &headers);
        self.count += 1;
        if batch.len() >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Sends what was gathered and waits until it is on flash.
    fn flush(&mut self) -> Outcome {
        for partition in 0..self.open.len() {
            let batch = std::mem::take(&mut self.open[partition]);
            if batch.is_empty() {
                continue;
            }
            let bytes = Bytes::from(batch.build(None));
            let topic = &self.args.topic;
            let sent = async {
                let sent = self.client.produce(topic, partition as i32, bytes, Acks::All).await;
                sent.map_err(|error| self.args.target.failure(error))
            };
            run(sent)?;
        }
        // Sticky: records without a key go to one partition until its batch is sent.
        self.next = (self.next + 1) % self.open.len();
        Ok(())
    }
}
