//! `weir topic`.

use super::args::{KafkaTarget, Topic};
use super::connect::run;
use super::output::{Table, print, print_json};
use super::{Failure, Outcome};
use crate::units::format_count;
use serde::Serialize;
use std::collections::BTreeMap;
use weir_bridge::client::{
    self, Broker, Client, EARLIEST, Error as ClientError, LATEST, NewTopic, OffsetAt,
};
use weir_core::error::ErrorCode;
use weir_core::wire::configs::{
    DescribeConfigsRequest, DescribeConfigsResource, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource, IncrementalAlterableConfig,
};

/// Kafka's number of topics among config resources.
const TOPIC_RESOURCE: i8 = 2;
/// Kafka's `ConfigSource` of a config that was set for the topic itself.
const SET_FOR_TOPIC: i8 = 1;

pub fn command(topic: Topic) -> Outcome {
    match topic {
        Topic::Create { names, partitions, replication_factor, config, if_not_exists, target } => {
            let topic = NewTopic {
                name: String::new(),
                partitions: partitions.unwrap_or(-1),
                replication_factor: replication_factor.unwrap_or(-1),
                configs: pairs(&config)?,
            };
            create(&names, &topic, if_not_exists, &target)
        }
        Topic::List { all, target } => list(all, &target),
        Topic::Describe { names, target } => describe(&names, &target),
        Topic::Alter { name, partitions, config, delete_config, target } => {
            alter(&name, partitions, &config, &delete_config, &target)
        }
        Topic::Delete { names, target } => delete(&names, &target),
    }
}

fn pairs(texts: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) => Ok((name.trim().to_string(), value.trim().to_string())),
        None => Err(Failure::Usage(format!("--config {text}: write it as NAME=VALUE"))),
    };
    texts.iter().map(pair).collect()
}

/// Says what was done, as text or as JSON.
fn done(target: &KafkaTarget, verb: &str, names: &[String]) -> Outcome {
    if target.json {
        return print_json(&BTreeMap::from([(verb, names)]));
    }
    names.iter().try_for_each(|name| print(&format!("{verb} {name}\n")))
}

fn create(names: &[String], like: &NewTopic, if_not_exists: bool, target: &KafkaTarget) -> Outcome {
    let client = target.client()?;
    let created = run(async {
        let mut created = Vec::new();
        for name in names {
            let topic = NewTopic { name: name.clone(), ..like.clone() };
            match client.create_topic(&topic).await {
                Ok(()) => created.push(name.clone()),
                Err(error) if error.code() == Some(ErrorCode::TOPIC_ALREADY_EXISTS) => {
                    if !if_not_exists {
                        return Err(Failure::Failed(format!("topic {name} exists already")));
                    }
                }
                Err(error) => return Err(target.failure(error)),
            }
        }
        Ok(created)
    })?;
    done(target, "created", &created)
}

fn delete(names: &[String], target: &KafkaTarget) -> Outcome {
    let client = target.client()?;
    run(async {
        for name in names {
            client.delete_topic(name).await.map_err(|error| target.failure(error))?;
        }
        Ok(())
    })?;
    done(target, "deleted", names)
}

#[derive(Serialize)]
struct Description {
    name: String,
    internal: bool,
    partitions: Vec<Partition>,
    /// What was set for this topic; everything else has its default.
    configs: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Partition {
    partition: i32,
    leader: i32,
    replicas: Vec<i32>,
    in_sync_replicas: Vec<i32>,
    log_start: i64,
    high_watermark: i64,
}

impl Description {
    fn records(&self) -> u64 {
        let records = self.partitions.iter().map(|p| p.high_watermark.saturating_sub(p.log_start));
        records.sum::<i64>().max(0) as u64
    }
}

fn list(all: bool, target: &KafkaTarget) -> Outcome {
    let client = target.client()?;
    let topics = run(async {
        let topics = topics(&client, None).await.map_err(|error| target.failure(error))?;
        let shown = topics.into_iter().filter(|topic| all || !topic.is_internal);
        offsets(&client, shown.collect()).await.map_err(|error| target.failure(error))
    })?;
    if target.json {
        return print_json(&topics);
    }
    if topics.is_empty() {
        return print("no topics yet\n");
    }
    let mut table = Table::new(&["TOPIC", "PARTITIONS", "RECORDS"]);
    for topic in &topics {
        let partitions = topic.partitions.len().to_string();
        table.row([topic.name.clone(), partitions, format_count(topic.records())]);
    }
    table.print()
}

fn describe(names: &[String], target: &KafkaTarget) -> Outcome {
    let client = target.client()?;
    let topics = run(async {
        let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
        let wanted = (!wanted.is_empty()).then_some(&wanted[..]);
        let topics = topics(&client, wanted).await.map_err(|error| target.failure(error))?;
        if let Some(missing) = topics.iter().find(|topic| topic.error_code.is_error()) {
            return Err(Failure::Failed(format!("topic {}: {}", missing.name, missing.error_code)));
        }
        let mut topics = offsets(&client, topics).await.map_err(|error| target.failure(error))?;
        for topic in &mut topics {
            let configs = configs(&client, &topic.name).await;
            topic.configs = configs.map_err(|error| target.failure(error))?;
        }
        Ok(topics)
    })?;
    if target.json {
        return print_json(&topics);
    }
    for (at, topic) in topics.iter().enumerate() {
        let gap = if at > 0 { "\n" } else { "" };
        print(&format!("{gap}{}\n", topic.name))?;
        for (name, value) in &topic.configs {
            print(&format!("  {name} = {value}\n"))?;
        }
        let mut table = Table::new(&["PARTITION", "LEADER", "IN SYNC", "START", "END", "RECORDS"]);
        for partition in &topic.partitions {
            let in_sync: Vec<String> =
                partition.in_sync_replicas.iter().map(i32::to_string).collect();
            table.row([
                partition.partition.to_string(),
                partition.leader.to_string(),
                in_sync.join(","),
                partition.log_start.to_string(),
                partition.high_watermark.to_string(),
                format_count((partition.high_watermark - partition.log_start).max(0) as u64),
            ]);
        }
        table.print()?;
    }
    Ok(())
}

async fn topics(
    client: &Client,
    names: Option<&[&str]>,
) -> Result<Vec<client::Topic>, ClientError> {
    let cluster = client.retry(Broker::Any, async || client.cluster(names).await).await?;
    let mut topics = cluster.topics;
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(topics)
}

/// Adds the first and the last offset of each partition.
async fn offsets(
    client: &Client,
    topics: Vec<client::Topic>,
) -> Result<Vec<Description>, ClientError> {
    let mut descriptions = Vec::new();
    for topic in topics {
        let mut wanted = Vec::new();
        for partition in &topic.partitions {
            wanted.push((topic.name.clone(), partition.index, EARLIEST));
            wanted.push((topic.name.clone(), partition.index, LATEST));
        }
        let found = client.list_offsets(&wanted).await?;
        let offset = |at: usize| found.get(at).map_or(-1, |found: &OffsetAt| found.offset);
        let partitions = topic.partitions.iter().enumerate().map(|(at, partition)| Partition {
            partition: partition.index,
            leader: partition.leader,
            replicas: partition.replicas.clone(),
            in_sync_replicas: partition.in_sync_replicas.clone(),
            log_start: offset(2 * at),
            high_watermark: offset(2 * at + 1),
        });
        descriptions.push(Description {
            partitions: partitions.collect(),
            name: topic.name,
            internal: topic.is_internal,
            configs: BTreeMap::new(),
        });
    }
    Ok(descriptions)
}

async fn configs(client: &Client, topic: &str) -> Result<BTreeMap<String, String>, ClientError> {
    let request = DescribeConfigsRequest {
        resources: vec![DescribeConfigsResource {
            resource_type: TOPIC_RESOURCE,
            resource_name: topic.to_string(),
            configuration_keys: None,
        }],
        ..Default::default()
    };
    let response = client.request(Broker::Any, &request).await?;
    let mut set = BTreeMap::new();
    for result in response.results {
        ClientError::check(result.error_code, || format!("asking for the configs of {topic}"))?;
        let own = result.configs.into_iter().filter(|config| config.config_source == SET_FOR_TOPIC);
        set.extend(own.map(|config| (config.name, config.value.unwrap_or_default())));
    }
    Ok(set)
}

fn alter(
    name: &str,
    partitions: Option<i32>,
    config: &[String],
    delete_config: &[String],
    target: &KafkaTarget,
) -> Outcome {
    /// Kafka's `AlterConfigOp.OpType`.
    const SET: i8 = 0;
    const DELETE: i8 = 1;
    let client = target.client()?;
    let set = pairs(config)?.into_iter().map(|(name, value)| IncrementalAlterableConfig {
        name,
        config_operation: SET,
        value: Some(value),
    });
    let delete = delete_config.iter().map(|name| IncrementalAlterableConfig {
        name: name.clone(),
        config_operation: DELETE,
        value: None,
    });
    let configs: Vec<_> = set.chain(delete).collect();
    run(async {
        if !configs.is_empty() {
            let request = IncrementalAlterConfigsRequest {
                resources: vec![IncrementalAlterConfigsResource {
                    resource_type: TOPIC_RESOURCE,
                    resource_name: name.to_string(),
                    configs,
                }],
                validate_only: false,
            };
            let response = client.request(Broker::Controller, &request).await;
            for answer in response.map_err(|error| target.failure(error))?.responses {
                let context = || match &answer.error_message {
                    Some(message) => format!("altering topic {name}: {message}"),
                    None => format!("altering topic {name}"),
                };
                ClientError::check(answer.error_code, context)
                    .map_err(|error| target.failure(error))?;
            }
        }
        if let Some(count) = partitions {
            let grown = client.create_partitions(name, count).await;
            grown.map_err(|error| target.failure(error))?;
        }
        Ok(())
    })?;
    done(target, "altered", &[name.to_string()])
}
