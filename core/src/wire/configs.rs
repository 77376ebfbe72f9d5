//! Configs of topics and brokers: describe and alter.

use super::schema::message;
use crate::error::ErrorCode;
use alloc::string::String;
use alloc::vec::Vec;

message! {
    pub struct DescribeConfigsRequest {
        resources: Vec<DescribeConfigsResource>,
        include_synonyms: bool,
        include_documentation: bool [3..],
    }

    pub struct DescribeConfigsResource {
        resource_type: i8,
        resource_name: String,
        configuration_keys: Option<Vec<String>>,
    }

    pub struct DescribeConfigsResponse {
        throttle_time_ms: i32,
        results: Vec<DescribeConfigsResult>,
    }

    pub struct DescribeConfigsResult {
        error_code: ErrorCode,
        error_message: Option<String>,
        resource_type: i8,
        resource_name: String,
        configs: Vec<DescribeConfigsResourceResult>,
    }

    pub struct DescribeConfigsResourceResult {
        name: String,
        value: Option<String>,
        read_only: bool,
        config_source: i8 = -1,
        is_sensitive: bool,
        synonyms: Vec<DescribeConfigsSynonym>,
        config_type: i8 [3..],
        documentation: Option<String> [3..],
    }

    pub struct DescribeConfigsSynonym { name: String, value: Option<String>, source: i8 }
}

message! {
    pub struct IncrementalAlterConfigsRequest {
        resources: Vec<IncrementalAlterConfigsResource>,
        validate_only: bool,
    }

    pub struct IncrementalAlterConfigsResource {
        resource_type: i8,
        resource_name: String,
        configs: Vec<IncrementalAlterableConfig>,
    }

    pub struct IncrementalAlterableConfig {
        name: String,
        config_operation: i8,
        value: Option<String>,
    }

    pub struct IncrementalAlterConfigsResponse {
        throttle_time_ms: i32,
        responses: Vec<AlterConfigsResourceResponse>,
    }

    pub struct AlterConfigsResourceResponse {
        error_code: ErrorCode,
        error_message: Option<String>,
        resource_type: i8,
        resource_name: String,
    }
}

message! {
    pub struct AlterConfigsRequest { resources: Vec<AlterConfigsResource>, validate_only: bool }

    pub struct AlterConfigsResource {
        resource_type: i8,
        resource_name: String,
        configs: Vec<AlterableConfig>,
    }

    pub struct AlterableConfig { name: String, value: Option<String> }

    pub struct AlterConfigsResponse {
        throttle_time_ms: i32,
        responses: Vec<AlterConfigsResourceResponse>,
    }
}
