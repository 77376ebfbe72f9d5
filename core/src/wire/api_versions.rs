//! Which versions of which APIs both sides speak: ApiVersions (KIP-35, KIP-511, KIP-584).

use super::schema::message;
use super::versions::SUPPORTED;
use crate::error::ErrorCode;
use alloc::string::String;
use alloc::vec::Vec;

message! {
    pub struct ApiVersionsRequest {
        client_software_name: String [3..],
        client_software_version: String [3..],
    }

    pub struct ApiVersionsResponse {
        error_code: ErrorCode,
        api_keys: Vec<ApiVersion>,
        throttle_time_ms: i32 [1..],
        supported_features: Vec<SupportedFeatureKey> [3.. tag 0],
        finalized_features_epoch: i64 [3.. tag 1] = -1,
        finalized_features: Vec<FinalizedFeatureKey> [3.. tag 2],
        zk_migration_ready: bool [3.. tag 3],
    }

    pub struct ApiVersion { api_key: i16, min_version: i16, max_version: i16 }

    pub struct SupportedFeatureKey { name: String, min_version: i16, max_version: i16 }

    pub struct FinalizedFeatureKey { name: String, max_version_level: i16, min_version_level: i16 }
}

/// The broker's answer: all that it advertises; features are the cluster's.
pub fn supported(error_code: ErrorCode) -> ApiVersionsResponse {
    let api_keys = SUPPORTED
        .iter()
        .map(|range| ApiVersion {
            api_key: range.key as i16,
            min_version: range.min,
            max_version: range.max,
        })
        .collect();
    ApiVersionsResponse { error_code, api_keys, ..ApiVersionsResponse::default() }
}
