//! `weir consume`: prints records, as a member of a group or for oneself.

use super::args::ConsumeArgs;
use super::connect::{block_on, run};
use super::output::{lossy, print};
use super::{Failure, Outcome};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use weir_bridge::client::{
    Client, Consumer, ConsumerSettings, EARLIEST, FetchFrom, LATEST, OwnedRecord,
};

pub fn command(args: ConsumeArgs) -> Outcome {
    let client = args.target.client()?;
    let mut settings = ConsumerSettings {
        reset_to: if args.from_beginning { EARLIEST } else { LATEST },
        ..ConsumerSettings::default()
    };
    settings.limits.max_wait = Duration::from_millis(500);
    let ends = if args.exit { run(ends(&client, &args))? } else { BTreeMap::new() };
    let mut consumer = match &args.group {
        Some(group) => Consumer::in_group(client, group, args.topics.clone(), settings),
        None => {
            let from = run(start(&client, &args))?;
            Consumer::of_partitions(client, from, settings)
        }
    };
    let read = read(&mut consumer, &args, &ends);
    let outcome = block_on(read)?.unwrap_or(Ok(()));
    // A member that leaves at once saves the others the wait for its session's end.
    let left = async { consumer.close().await.map_err(|error| args.target.failure(error)) };
    outcome.and(run(left))
}

async fn read(consumer: &mut Consumer, args: &ConsumeArgs, ends: &Offsets) -> Outcome {
    let failure = |error| args.target.failure(error);
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut next = Offsets::new();
    loop {
        for from in consumer.positions() {
            next.insert((from.topic.clone(), from.partition), from.offset);
        }
        let finished = |(partition, end): (&(String, i32), &i64)| {
            next.get(partition).map_or(*end == 0, |next| next >= end)
        };
        if args.exit && args.group.is_none() && ends.iter().all(finished) {
            return Ok(());
        }
        let polled = consumer.poll().await.map_err(failure)?;
        let nothing = polled.is_empty();
        let mut text = String::new();
        for batch in polled {
            for record in batch.records.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                text += &line(args, &batch.topic, batch.partition, record);
                left -= 1;
            }
        }
        print(&text)?;
        if args.group.is_some() && !nothing {
            consumer.commit().await.map_err(failure)?;
        }
        if left == 0 {
            return Ok(());
        }
        // A member reads its share only; when nothing comes any more, that is read.
        let joined = !consumer.positions().is_empty();
        if args.exit && args.group.is_some() && nothing && joined {
            let behind = consumer.positions().iter().any(|from| {
                let end = ends.get(&(from.topic.clone(), from.partition));
                end.is_some_and(|end| from.offset < *end)
            });
            if !behind {
                return Ok(());
            }
        }
    }
}

fn line(args: &ConsumeArgs, topic: &str, partition: i32, record: &OwnedRecord) -> String {
    let text = |bytes: &Option<bytes::Bytes>| bytes.as_deref().map(lossy);
    if args.target.json {
        let mut headers = Map::new();
        for (name, value) in &record.headers {
            headers.insert(name.clone(), text(value).map_or(Value::Null, Value::String));
        }
        let value = json!({
            "topic": topic,
            "partition": partition,
            "offset": record.offset,
            "timestamp": record.timestamp,
            "key": text(&record.key),
            "value": text(&record.value),
            "headers": headers,
        });
        return format!("{value}\n");
    }
    let value = text(&record.value).unwrap_or_default();
    if args.key {
        format!("{}\t{value}\n", text(&record.key).unwrap_or_default())
    } else {
        format!("{value}\n")
    }
}

type Offsets = BTreeMap<(String, i32), i64>;

/// The partitions that were asked for.
async fn partitions(client: &Client, args: &ConsumeArgs) -> Result<Vec<(String, i32)>, Failure> {
    let mut partitions = Vec::new();
    for name in &args.topics {
        let topic = client.topic(name).await.map_err(|error| args.target.failure(error))?;
        let wanted = topic.partitions.iter().map(|partition| partition.index);
        let wanted = wanted.filter(|index| args.partition.is_none_or(|only| only == *index));
        partitions.extend(wanted.map(|index| (name.clone(), index)));
    }
    if partitions.is_empty() {
        return Err(Failure::Failed("there is no such partition".into()));
    }
    Ok(partitions)
}

/// Where the partitions end now.
async fn ends(client: &Client, args: &ConsumeArgs) -> Result<Offsets, Failure> {
    let wanted = partitions(client, args).await?.into_iter().map(|(t, p)| (t, p, LATEST));
    let found = client.list_offsets(&wanted.collect::<Vec<_>>()).await;
    let found = found.map_err(|error| args.target.failure(error))?;
    Ok(found.into_iter().map(|f| ((f.topic, f.partition), f.offset)).collect())
}

/// Where a reader without a group starts.
async fn start(client: &Client, args: &ConsumeArgs) -> Result<Vec<FetchFrom>, Failure> {
    let partitions = partitions(client, args).await?;
    if let Some(offset) = args.offset {
        let from = |(topic, partition)| FetchFrom { topic, partition, offset };
        return Ok(partitions.into_iter().map(from).collect());
    }
    let time = if args.from_beginning || args.exit { EARLIEST } else { LATEST };
    let wanted: Vec<_> = partitions.into_iter().map(|(t, p)| (t, p, time)).collect();
    let found = client.list_offsets(&wanted).await;
    let found = found.map_err(|error| args.target.failure(error))?;
    let from = found.into_iter().map(|f| FetchFrom {
        topic: f.topic,
        partition: f.partition,
        offset: f.offset,
    });
    Ok(from.collect())
}
