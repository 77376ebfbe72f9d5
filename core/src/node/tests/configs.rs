//! Configs: described, altered, and obeyed.

use super::*;
use crate::wire::configs::{
    AlterConfigsRequest, AlterConfigsResource, AlterableConfig, DescribeConfigsRequest,
    DescribeConfigsResource, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResource,
    IncrementalAlterableConfig,
};

fn describe(world: &mut World, kind: i8, name: &str, key: &str) -> (Option<String>, i8, ErrorCode) {
    let resource = DescribeConfigsResource {
        resource_type: kind,
        resource_name: name.into(),
        configuration_keys: Some(vec![key.into()]),
    };
    let request = DescribeConfigsRequest {
        resources: vec![resource],
        include_synonyms: true,
        include_documentation: true,
    };
    let mut result = world.ask(4, request).results.remove(0);
    match result.configs.pop() {
        Some(config) => {
            assert!(!config.synonyms.is_empty());
            (config.value, config.config_source, result.error_code)
        }
        None => (None, -1, result.error_code),
    }
}

fn alter(world: &mut World, name: &str, operation: i8, value: Option<&str>) -> ErrorCode {
    let config = IncrementalAlterableConfig {
        name: name.into(),
        config_operation: operation,
        value: value.map(String::from),
    };
    let resource = IncrementalAlterConfigsResource {
        resource_type: 2,
        resource_name: "t".into(),
        configs: vec![config],
    };
    let request =
        IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    world.ask(1, request).responses[0].error_code
}

#[test]
fn a_config_says_where_its_value_comes_from() {
    let mut world = World::with(|settings| {
        settings.topic_defaults.insert("retention.ms".into(), "5000".into());
    });
    world.create_topic("t", 1, &[("retention.bytes", "9")]);
    let value = |text: &str| Some(String::from(text));
    let said = describe(&mut world, 2, "t", "retention.bytes");
    assert_eq!(said, (value("9"), 1, ErrorCode::NONE));
    let said = describe(&mut world, 2, "t", "retention.ms");
    assert_eq!(said, (value("5000"), 4, ErrorCode::NONE));
    let said = describe(&mut world, 2, "t", "cleanup.policy");
    assert_eq!(said, (value("delete"), 5, ErrorCode::NONE));
    let said = describe(&mut world, 4, "1", "num.partitions");
    assert_eq!(said, (value("1"), 4, ErrorCode::NONE));
    let said = describe(&mut world, 2, "no", "retention.ms");
    assert_eq!(said.2, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(describe(&mut world, 4, "9", "x").2, ErrorCode::INVALID_REQUEST);
}

#[test]
fn altered_configs_hold_at_once_and_after_a_restart() {
    let mut world = World::new();
    world.create_topic("t", 1, &[]);
    let wrong = alter(&mut world, "max.message.bytes", 0, Some("many"));
    assert_eq!(wrong, ErrorCode::INVALID_CONFIG);
    assert_eq!(alter(&mut world, "no.such", 0, Some("1")), ErrorCode::INVALID_CONFIG);
    assert_eq!(alter(&mut world, "max.message.bytes", 0, Some("70")), ErrorCode::NONE);
    let code = world.produce("t", batch(&["a"])).error_code;
    assert_eq!(code, ErrorCode::MESSAGE_TOO_LARGE);
    let mut world = world.restarted();
    let code = world.produce("t", batch(&["a"])).error_code;
    assert_eq!(code, ErrorCode::MESSAGE_TOO_LARGE);
    assert_eq!(alter(&mut world, "max.message.bytes", 1, None), ErrorCode::NONE);
    assert_eq!(world.produce("t", batch(&["a"])).error_code, ErrorCode::NONE);
}

#[test]
fn a_larger_bound_than_a_gateway_has_is_kept_and_what_is_larger_is_told_the_gateways() {
    let mut world = World::new();
    world.create_topic("t", 1, &[("max.message.bytes", "10485760")]);
    assert_eq!(alter(&mut world, "max.message.bytes", 0, Some("20971520")), ErrorCode::NONE);
    for _ in 0..2 {
        let said = describe(&mut world, 2, "t", "max.message.bytes");
        assert_eq!(said, (Some("20971520".into()), 1, ErrorCode::NONE));
        let said = world.produce("t", batch(&[&"x".repeat(2 << 20)]));
        assert_eq!(said.error_code, ErrorCode::MESSAGE_TOO_LARGE);
        let why = said.error_message.unwrap();
        assert!(why.contains("append to t-0") && why.contains("maximum of 2097152:"), "{why}");
        assert_eq!(world.produce("t", batch(&["a"])).error_code, ErrorCode::NONE);
        world = world.restarted();
    }
}

#[test]
fn the_old_way_of_altering_replaces_all_configs() {
    let mut world = World::new();
    world.create_topic("t", 1, &[("retention.ms", "5"), ("retention.bytes", "6")]);
    let config = AlterableConfig { name: "retention.ms".into(), value: Some("7".into()) };
    let resource =
        AlterConfigsResource { resource_type: 2, resource_name: "t".into(), configs: vec![config] };
    let request = AlterConfigsRequest { resources: vec![resource], validate_only: false };
    assert_eq!(world.ask(2, request).responses[0].error_code, ErrorCode::NONE);
    assert_eq!(describe(&mut world, 2, "t", "retention.ms").0.as_deref(), Some("7"));
    assert_eq!(describe(&mut world, 2, "t", "retention.bytes").1, 5);
}
