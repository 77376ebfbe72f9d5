//! Configs: describe and alter. Topics' are in the metadata; brokers' come from `weir.toml`.

use super::admin::{DRAINING, alter_gateway, draining};
use super::changes::Then;
use super::connections::Caller;
use super::topics::said;
use super::{Node, Settings};
use crate::error::ErrorCode;
use crate::limits;
use crate::metadata::configs::{self, Configs, DEFINITIONS, Definition};
use crate::metadata::controller::Controller;
use crate::metadata::{ConfigOperation, Image, Plan, Record, Refusal, Topic};
use crate::types::NodeId;
use crate::wire::ApiKey;
use crate::wire::configs::{
    AlterConfigsRequest, AlterConfigsResourceResponse, AlterConfigsResponse,
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult,
    DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// `DescribeConfigsResponse.ConfigType`.
const BOOLEAN: i8 = 1;
const LONG: i8 = 5;

/// Kinds of resources (`ConfigResource.Type`).
const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// Where a value comes from (`DescribeConfigsResponse.ConfigSource`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub(super) enum Source {
    DynamicTopic = 1,
    DynamicBroker = 2,
    StaticBroker = 4,
    Default = 5,
}

/// What a topic's config is, and where it comes from.
pub(super) fn topic_config<'a>(
    definition: &Definition,
    set: &'a Configs,
    defaults: &'a Configs,
) -> (&'a str, Source) {
    let source = match definition.name {
        name if set.contains_key(name) => Source::DynamicTopic,
        name if defaults.contains_key(name) => Source::StaticBroker,
        _ => Source::Default,
    };
    (configs::effective(definition.name, set, defaults), source)
}

pub(super) fn incremental_alter(
    mut plan: Plan<'_>,
    controller: Option<&Controller>,
    image: &Image,
    caller: Caller,
    request: IncrementalAlterConfigsRequest,
) -> (Vec<Record>, Then) {
    let mut response = IncrementalAlterConfigsResponse::default();
    let mut of_gateways = Vec::new();
    for resource in request.resources {
        let (kind, name) = (resource.resource_type, resource.resource_name);
        if let (BROKER, Some(controller)) = (kind, controller) {
            let planned = alter_gateway(controller, image, &name, &resource.configs);
            let planned = planned.map(|records| of_gateways.extend(records));
            response.responses.push(altered(kind, name, planned));
            continue;
        }
        let planned = alterable(image, kind, &name).and_then(|topic| {
            let changes = resource.configs.into_iter().map(|config| {
                let operation = ConfigOperation::from_code(config.config_operation);
                let unknown = || Refusal::new(ErrorCode::INVALID_REQUEST, "Unknown operation.");
                Ok((config.name, operation.ok_or_else(unknown)?, config.value))
            });
            let changes: Vec<_> = changes.collect::<Result<_, Refusal>>()?;
            plan.alter_configs(topic, &changes)
        });
        response.responses.push(altered(kind, name, planned));
    }
    let planned = plan.into_records().into_iter().chain(of_gateways);
    let records = if request.validate_only { Vec::new() } else { planned.collect() };
    (records, Then::reply(caller, &response))
}

pub(super) fn alter(
    mut plan: Plan<'_>,
    image: &Image,
    caller: Caller,
    request: AlterConfigsRequest,
) -> (Vec<Record>, Then) {
    let mut response = AlterConfigsResponse::default();
    for resource in request.resources {
        let (kind, name) = (resource.resource_type, resource.resource_name);
        let configs = resource.configs.into_iter().map(|config| (config.name, config.value));
        let configs: Vec<(String, Option<String>)> = configs.collect();
        let planned =
            alterable(image, kind, &name).and_then(|topic| plan.replace_configs(topic, &configs));
        response.responses.push(altered(kind, name, planned));
    }
    let records = if request.validate_only { Vec::new() } else { plan.into_records() };
    (records, Then::reply(caller, &response))
}

/// Only topics have configs that change while the gateway runs.
fn alterable<'a>(image: &'a Image, kind: i8, name: &str) -> Result<&'a Topic, Refusal> {
    if kind != TOPIC {
        let message = "Only topics' configs are altered; brokers' come from weir.toml.";
        return Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
    }
    image.topic(name).ok_or_else(|| unknown_topic(name))
}

fn unknown_topic(name: &str) -> Refusal {
    let message = format!("The topic '{name}' does not exist.");
    Refusal::new(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, message)
}

fn altered(
    resource_type: i8,
    resource_name: String,
    outcome: Result<(), Refusal>,
) -> AlterConfigsResourceResponse {
    let (error_code, error_message) = said(outcome);
    AlterConfigsResourceResponse { error_code, error_message, resource_type, resource_name }
}

impl Node {
    pub(super) fn on_describe_configs(&mut self, caller: Caller, request: &DescribeConfigsRequest) {
        let mut response = DescribeConfigsResponse::default();
        for resource in &request.resources {
            let described = match resource.resource_type {
                TOPIC => self.topic_configs(resource),
                BROKER => self.broker_configs(resource),
                _ => {
                    let message = "Only topics and brokers have configs.";
                    Err(Refusal::new(ErrorCode::INVALID_REQUEST, message))
                }
            };
            let (configs, refusal) = match described {
                Ok(configs) => (configs, Ok(())),
                Err(refusal) => (Vec::new(), Err(refusal)),
            };
            let (error_code, error_message) = said(refusal);
            self.counts.error(ApiKey::DescribeConfigs, error_code);
            let wanted = |config: DescribeConfigsResourceResult| DescribeConfigsResourceResult {
                synonyms: match request.include_synonyms {
                    true => config.synonyms,
                    false => Vec::new(),
                },
                documentation: config.documentation.filter(|_| request.include_documentation),
                ..config
            };
            response.results.push(DescribeConfigsResult {
                error_code,
                error_message,
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone(),
                configs: configs.into_iter().map(wanted).collect(),
            });
        }
        self.reply(caller, &response);
    }

    fn topic_configs(
        &self,
        resource: &DescribeConfigsResource,
    ) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
        let name = &resource.resource_name;
        let topic = self.image.topic(name).ok_or_else(|| unknown_topic(name))?;
        let defaults = self.image.defaults();
        let wanted = DEFINITIONS.iter().filter(|definition| is_wanted(resource, definition.name));
        let described = wanted.map(|definition| {
            let (value, source) = topic_config(definition, &topic.configs, defaults);
            DescribeConfigsResourceResult {
                name: definition.name.into(),
                value: Some(value.into()),
                config_source: source as i8,
                synonyms: synonyms(definition, &topic.configs, defaults),
                config_type: definition.kind.config_type(),
                documentation: Some(definition.documentation.into()),
                ..DescribeConfigsResourceResult::default()
            }
        });
        Ok(described.collect())
    }

    fn broker_configs(
        &self,
        resource: &DescribeConfigsResource,
    ) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
        let node = self.settings.node.0;
        if resource.resource_name.is_empty() {
            // The cluster-wide dynamic defaults, of which there are none.
            return Ok(Vec::new());
        }
        // Whether a gateway is drained is known everywhere; the rest it knows itself.
        let draining = draining(&self.image, &resource.resource_name);
        let own = resource.resource_name.parse() == Ok(node);
        if !own && draining.is_none() {
            let message = format!("Unexpected broker id, expected {node}.");
            return Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
        }
        let mut known = match own {
            true => broker_configs(&self.settings, &self.image),
            false => Vec::new(),
        };
        known.push(draining_config(draining.unwrap_or(false)));
        let node = resource.resource_name.parse().map(NodeId).ok();
        let set = node.and_then(|node| self.image.broker(node)).map(|broker| &broker.configs);
        known.extend(set.into_iter().flatten().map(|(name, value)| {
            let config = broker_config(name, value.clone(), LONG, Source::DynamicBroker);
            DescribeConfigsResourceResult { read_only: false, ..config }
        }));
        let wanted = known.into_iter().filter(|config| is_wanted(resource, &config.name));
        Ok(wanted.collect())
    }
}

fn is_wanted(resource: &DescribeConfigsResource, name: &str) -> bool {
    resource.configuration_keys.as_ref().is_none_or(|keys| keys.iter().any(|key| key == name))
}

/// Every place that says something of a config, the one that holds first.
fn synonyms(
    definition: &Definition,
    set: &Configs,
    defaults: &Configs,
) -> Vec<DescribeConfigsSynonym> {
    let synonym = |name: &str, value: &str, source: Source| DescribeConfigsSynonym {
        name: name.into(),
        value: Some(value.into()),
        source: source as i8,
    };
    let own = set.get(definition.name);
    let default = defaults.get(definition.name);
    let mut synonyms = Vec::new();
    synonyms.extend(own.map(|value| synonym(definition.name, value, Source::DynamicTopic)));
    let broker_name = definition.broker_name;
    synonyms.extend(default.map(|value| synonym(broker_name, value, Source::StaticBroker)));
    synonyms.push(synonym(broker_name, definition.default, Source::Default));
    synonyms
}

/// Kafka's broker configs, as far as a gateway has what they are about.
fn broker_configs(settings: &Settings, image: &Image) -> Vec<DescribeConfigsResourceResult> {
    const STRING: i8 = 2;
    const INT: i8 = 3;
    let listener = format!("PLAINTEXT://{}:{}", settings.advertised_host, settings.advertised_port);
    let factor = image.default_replication_factor(settings.default_replication_factor).to_string();
    let own = [
        ("advertised.listeners", listener, STRING),
        ("auto.create.topics.enable", settings.auto_create_topics.to_string(), BOOLEAN),
        ("broker.id", settings.node.0.to_string(), INT),
        ("broker.rack", settings.rack.clone().unwrap_or_default(), STRING),
        ("default.replication.factor", factor.clone(), INT),
        ("delete.topic.enable", "true".into(), BOOLEAN),
        ("fetch.max.bytes", limits::FETCH_BYTES_MAX.to_string(), INT),
        ("node.id", settings.node.0.to_string(), INT),
        ("num.partitions", settings.num_partitions.to_string(), INT),
        ("offset.metadata.max.bytes", limits::OFFSET_METADATA_MAX.to_string(), INT),
        ("offsets.topic.num.partitions", limits::OFFSETS_PARTITIONS.to_string(), INT),
        ("offsets.topic.replication.factor", factor, INT),
        ("process.roles", "broker,controller".into(), STRING),
        ("socket.request.max.bytes", limits::FRAME_BYTES_MAX.to_string(), INT),
    ];
    let own = own.into_iter().map(|(name, value, config_type)| {
        broker_config(name, value, config_type, Source::StaticBroker)
    });
    let defaults = &settings.topic_defaults;
    let topics = DEFINITIONS.iter().map(|definition| {
        let (value, source) = topic_config(definition, defaults, defaults);
        let source = if source == Source::Default { source } else { Source::StaticBroker };
        broker_config(definition.broker_name, value.into(), definition.kind.config_type(), source)
    });
    own.chain(topics).collect()
}

fn draining_config(draining: bool) -> DescribeConfigsResourceResult {
    let source = if draining { Source::DynamicBroker } else { Source::Default };
    let config = broker_config(DRAINING, draining.to_string(), BOOLEAN, source);
    DescribeConfigsResourceResult { read_only: false, ..config }
}

fn broker_config(
    name: &str,
    value: String,
    config_type: i8,
    source: Source,
) -> DescribeConfigsResourceResult {
    DescribeConfigsResourceResult {
        name: name.into(),
        value: Some(value.clone()),
        read_only: true,
        config_source: source as i8,
        synonyms: Vec::from([DescribeConfigsSynonym {
            name: name.into(),
            value: Some(value),
            source: source as i8,
        }]),
        config_type,
        ..DescribeConfigsResourceResult::default()
    }
}
