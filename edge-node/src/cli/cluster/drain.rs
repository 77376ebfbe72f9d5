//! `weir cluster drain`: a gateway leads nothing any more, so that it can be stopped.
//!
//! Kafka's protocol has no request for this; it is a config of the broker, `weir.draining`, which
//! Kafka's tools can set and show as well.

use super::super::args::KafkaTarget;
use super::super::connect::run;
use super::super::{Failure, Outcome};
use super::{counted, done, explained, some};
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};
use weir_bridge::client::{Broker, Client, Error};
use weir_core::error::ErrorCode;
use weir_core::wire::configs::{
    DescribeConfigsRequest, DescribeConfigsResource, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource, IncrementalAlterableConfig,
};

/// Kafka's number of brokers among config resources.
const BROKER_RESOURCE: i8 = 4;
const DRAINING: &str = "weir.draining";
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub fn drain(node: i32, timeout: u64, target: &KafkaTarget) -> Outcome {
    let client = target.client()?;
    run(async {
        set(&client, node, true).await.map_err(|error| target.failure(error))?;
        let end = Instant::now() + Duration::from_secs(timeout.min(86_400));
        let mut said = 0;
        loop {
            let led = led_by(&client, node).await.map_err(|error| target.failure(error))?;
            if led.is_empty() {
                return Ok(());
            }
            if led.len() != said && stderr().is_terminal() {
                eprintln!("gateway {node} leads {} yet", counted(led.len(), "partition"));
                said = led.len();
            }
            if Instant::now() >= end {
                let sentence = format!(
                    "gateway {node} still leads {}: {}. Nobody else has them in sync; it stays \
                     drained, and gives them away when somebody has",
                    counted(led.len(), "partition"),
                    some(&led)
                );
                return Err(Failure::Failed(sentence));
            }
            smol::Timer::after(LOOK_EVERY).await;
        }
    })?;
    done(target, "drained", node, "; it leads nothing, and may be stopped")
}

pub fn cancel(node: i32, target: &KafkaTarget) -> Outcome {
    let client = target.client()?;
    run(async { set(&client, node, false).await.map_err(|error| target.failure(error)) })?;
    done(target, "in service again", node, "")
}

async fn set(client: &Client, node: i32, draining: bool) -> Result<(), Error> {
    /// Kafka's `AlterConfigOp.OpType.SET`.
    const SET: i8 = 0;
    let request = IncrementalAlterConfigsRequest {
        resources: vec![IncrementalAlterConfigsResource {
            resource_type: BROKER_RESOURCE,
            resource_name: node.to_string(),
            configs: vec![IncrementalAlterableConfig {
                name: DRAINING.into(),
                config_operation: SET,
                value: Some(draining.to_string()),
            }],
        }],
        validate_only: false,
    };
    let ask = async || {
        let response = client.request(Broker::Controller, &request).await?;
        response.responses.iter().try_for_each(|answer| {
            let doing = format!("draining gateway {node}");
            Error::check(answer.error_code, || explained(doing, &answer.error_message))
        })
    };
    client.retry(Broker::Controller, ask).await
}

/// Names of partitions.
async fn led_by(client: &Client, node: i32) -> Result<Vec<String>, Error> {
    let ask = async || client.cluster(None).await;
    let cluster = client.retry(Broker::Any, ask).await?;
    let led = cluster.topics.iter().flat_map(|topic| {
        let led = topic.partitions.iter().filter(|partition| partition.leader == node);
        led.map(|partition| format!("{}-{}", topic.name, partition.index))
    });
    Ok(led.collect())
}

/// Which of these gateways are being drained; none, where brokers know no such thing.
pub async fn draining(client: &Client, nodes: &[i32]) -> Result<Vec<i32>, Error> {
    let resource = |node: &i32| DescribeConfigsResource {
        resource_type: BROKER_RESOURCE,
        resource_name: node.to_string(),
        configuration_keys: Some(vec![DRAINING.into()]),
    };
    let request = DescribeConfigsRequest {
        resources: nodes.iter().map(resource).collect(),
        ..Default::default()
    };
    let response = client.request(Broker::Any, &request).await?;
    let known = response.results.iter().filter(|result| result.error_code == ErrorCode::NONE);
    let draining = known.filter(|result| {
        let value = |config: &weir_core::wire::configs::DescribeConfigsResourceResult| {
            config.name == DRAINING && config.value.as_deref() == Some("true")
        };
        result.configs.iter().any(value)
    });
    Ok(draining.filter_map(|result| result.resource_name.parse().ok()).collect())
}
