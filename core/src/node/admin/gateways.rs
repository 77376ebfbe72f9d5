//! Gateways that are drained before maintenance, and those that are gone for good
//! (UnregisterBroker, KIP-500).
//!
//! Kafka's protocol has no request for draining, since its brokers drain themselves when they stop.
//! Here it is a config of the broker, `weir.draining`, which every Kafka tool can set and show.

use super::super::changes::Then;
use super::super::connections::Caller;
use super::super::topics::said;
use crate::error::ErrorCode;
use crate::metadata::configs::THROTTLES;
use crate::metadata::controller::{Controller, Decision};
use crate::metadata::{ConfigOperation, Image, Record, Refusal};
use crate::types::NodeId;
use crate::wire::configs::IncrementalAlterableConfig;
use crate::wire::replicas::UnregisterBrokerResponse;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

pub(in crate::node) const DRAINING: &str = "weir.draining";

/// Answers UnregisterBroker.
pub(super) fn removed(
    caller: Caller,
    decided: Result<Decision<Result<(), Refusal>>, Refusal>,
) -> (Vec<Record>, Then) {
    let (records, answer) = match decided {
        Ok(decided) => (decided.records, decided.answer),
        Err(refusal) => (Vec::new(), Err(refusal)),
    };
    let (error_code, error_message) = said(answer);
    let response = UnregisterBrokerResponse { error_code, error_message, ..Default::default() };
    (records, Then::reply(caller, &response))
}

pub(super) fn is_voter(node: i32) -> Refusal {
    let why = format!(
        "Gateway {node} is a voter of the metadata quorum; take its vote first (weir cluster \
         quorum remove {node})."
    );
    Refusal::new(ErrorCode::INVALID_REQUEST, why)
}

/// Configs of a broker: all but draining and throttles stand in its `weir.toml`.
pub(in crate::node) fn alter_gateway(
    controller: &Controller,
    image: &Image,
    name: &str,
    configs: &[IncrementalAlterableConfig],
) -> Result<Vec<Record>, Refusal> {
    let invalid = |why: String| Refusal::new(ErrorCode::INVALID_REQUEST, why);
    let node = name.parse().map(NodeId).map_err(|_| {
        invalid(format!("'{name}' is no broker id; only single brokers' configs are altered."))
    })?;
    let mut records = Vec::new();
    for config in configs {
        records.extend(match config.name.as_str() {
            DRAINING => alter_draining(controller, image, node, config)?,
            name if THROTTLES.contains(&name) => alter_throttle(image, node, config)?,
            // What cannot be set is not there: Kafka's tools take throttles back that it has and a
            // gateway has not.
            _ if is_deletion(config) => Vec::new(),
            name => {
                return Err(invalid(format!(
                    "{name} comes from weir.toml; only {DRAINING}, {} and {} are altered while a \
                     gateway runs.",
                    THROTTLES[0], THROTTLES[1]
                )));
            }
        });
    }
    Ok(records)
}

fn is_deletion(config: &IncrementalAlterableConfig) -> bool {
    ConfigOperation::from_code(config.config_operation) == Some(ConfigOperation::Delete)
}

fn alter_throttle(
    image: &Image,
    node: NodeId,
    config: &IncrementalAlterableConfig,
) -> Result<Vec<Record>, Refusal> {
    let name = config.name.clone();
    if image.broker(node).is_none() {
        let why = format!("There is no gateway {} in this cluster.", node.0);
        return Err(Refusal::new(ErrorCode::INVALID_REQUEST, why));
    }
    let operation = ConfigOperation::from_code(config.config_operation);
    let value = match (operation, config.value.as_deref().map(str::parse::<u64>)) {
        (Some(ConfigOperation::Delete), _) => None,
        (Some(ConfigOperation::Set), Some(Ok(rate))) if rate > 0 => Some(rate.to_string()),
        _ => {
            let why = format!("{name} is set to bytes a second, 1 or more.");
            return Err(Refusal::new(ErrorCode::INVALID_CONFIG, why));
        }
    };
    Ok(Vec::from([Record::BrokerConfig { node, name, value }]))
}

fn alter_draining(
    controller: &Controller,
    image: &Image,
    node: NodeId,
    config: &IncrementalAlterableConfig,
) -> Result<Vec<Record>, Refusal> {
    let wish = (ConfigOperation::from_code(config.config_operation), config.value.as_deref());
    let draining = match wish {
        (Some(ConfigOperation::Set), Some("true")) => true,
        (Some(ConfigOperation::Set), Some("false")) | (Some(ConfigOperation::Delete), _) => false,
        _ => {
            let why = format!("{DRAINING} is set to true or false.");
            return Err(Refusal::new(ErrorCode::INVALID_CONFIG, why));
        }
    };
    let decided = controller.drain(image, node, draining);
    decided.answer.map(|()| decided.records)
}

/// Whether a broker is being drained; `None` if there is no such broker.
pub(in crate::node) fn draining(image: &Image, name: &str) -> Option<bool> {
    let node = NodeId(name.parse().ok()?);
    image.broker(node).map(|broker| broker.draining)
}
