//! Topics: create, delete, grow.

use weir_core::error::ErrorCode;
use weir_core::wire::configs::{DescribeConfigsRequest, DescribeConfigsResource};
use weir_core::wire::topics::{
    CreatableTopic, CreatableTopicConfig, CreatePartitionsRequest, CreatePartitionsTopic,
    CreateTopicsRequest, DeleteTopicsRequest,
};

use super::error::{Error, Result};
use super::{Broker, Client};

/// A topic to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    pub name: String,
    /// -1 is the cluster's default.
    pub partitions: i32,
    /// -1 is the cluster's default.
    pub replication_factor: i16,
    /// Kafka's topic configs by name.
    pub configs: Vec<(String, String)>,
}

const TIMEOUT_MS: i32 = 30_000;

/// Kafka's `ConfigResource.Type.TOPIC`.
const RESOURCE_TOPIC: i8 = 2;

impl Client {
    /// Creates a topic; that it exists already is `TOPIC_ALREADY_EXISTS`.
    pub async fn create_topic(&self, topic: &NewTopic) -> Result<()> {
        let configs = topic.configs.iter().map(|(name, value)| CreatableTopicConfig {
            name: name.clone(),
            value: Some(value.clone()),
        });
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: topic.name.clone(),
                num_partitions: topic.partitions,
                replication_factor: topic.replication_factor,
                assignments: Vec::new(),
                configs: configs.collect(),
            }],
            timeout_ms: TIMEOUT_MS,
            validate_only: false,
        };
        self.retry(Broker::Controller, async || {
            let response = self.request(Broker::Controller, &request).await?;
            for answer in response.topics {
                let name = &topic.name;
                let context = || explained(format!("creating topic {name}"), &answer.error_message);
                Error::check(answer.error_code, context)?;
            }
            Ok(())
        })
        .await
    }

    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        let request = DeleteTopicsRequest {
            topic_names: vec![name.to_string()],
            timeout_ms: TIMEOUT_MS,
            ..Default::default()
        };
        self.retry(Broker::Controller, async || {
            let response = self.request(Broker::Controller, &request).await?;
            for answer in response.responses {
                // A topic that is not there is no passing trouble here, although it is for a
                // producer.
                if answer.error_code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION {
                    return Ok(Err(answer.error_code));
                }
                Error::check(answer.error_code, || format!("deleting topic {name}"))?;
            }
            Ok(Ok(()))
        })
        .await?
        .or_else(|code| Error::check(code, || format!("deleting topic {name}")))
    }

    /// The value of one config of a topic, such as `cleanup.policy`; `None` when the broker tells
    /// none.
    pub async fn topic_config(&self, topic: &str, config: &str) -> Result<Option<String>> {
        let request = DescribeConfigsRequest {
            resources: vec![DescribeConfigsResource {
                resource_type: RESOURCE_TOPIC,
                resource_name: topic.to_string(),
                configuration_keys: Some(vec![config.to_string()]),
            }],
            ..Default::default()
        };
        self.retry(Broker::Any, async || {
            let response = self.request(Broker::Any, &request).await?;
            let mut value = None;
            for answer in response.results {
                Error::check(answer.error_code, || format!("asking for {config} of {topic}"))?;
                let found = answer.configs.into_iter().find(|found| found.name == config);
                value = found.and_then(|found| found.value);
            }
            Ok(value)
        })
        .await
    }

    /// Gives a topic more partitions; `count` is how many it has then.
    pub async fn create_partitions(&self, name: &str, count: i32) -> Result<()> {
        let request = CreatePartitionsRequest {
            topics: vec![CreatePartitionsTopic {
                name: name.to_string(),
                count,
                assignments: None,
            }],
            timeout_ms: TIMEOUT_MS,
            validate_only: false,
        };
        self.retry(Broker::Controller, async || {
            let response = self.request(Broker::Controller, &request).await?;
            for answer in response.results {
                let what = format!("giving topic {name} {count} partitions");
                Error::check(answer.error_code, || explained(what, &answer.error_message))?;
            }
            Ok(())
        })
        .await?;
        self.forget(Broker::Leader(name, 0));
        Ok(())
    }
}

fn explained(what: String, message: &Option<String>) -> String {
    match message {
        Some(message) => format!("{what}: {message}"),
        None => what,
    }
}
