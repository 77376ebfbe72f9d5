//! Which version of each API a connection uses.
//!
//! Why some APIs stay below what both sides know (2026-11): topics go by name (Fetch 13, Produce
//! 13, OffsetCommit 10 and OffsetFetch 10 go by topic id), and transactions go by the first
//! protocol, in which the client adds partitions itself (KIP-890 came with Produce 12, EndTxn 5,
//! TxnOffsetCommit 5 and AddPartitionsToTxn 4). So one code path works with every Kafka from 2.5
//! on. Single-group forms of FindCoordinator, OffsetFetch and DeleteTopics are what this client
//! asks anyway.

use std::collections::BTreeMap;

use weir_core::wire::api_versions::ApiVersion;
use weir_core::wire::{ApiKey, CLIENT};

/// The highest version that is used of an API.
const VERSION_MAX: &[(ApiKey, i16)] = &[
    (ApiKey::Produce, 11),
    (ApiKey::Fetch, 12),
    (ApiKey::OffsetCommit, 9),
    (ApiKey::OffsetFetch, 7),
    (ApiKey::FindCoordinator, 3),
    (ApiKey::DeleteTopics, 5),
    (ApiKey::AddPartitionsToTxn, 3),
    (ApiKey::EndTxn, 4),
    (ApiKey::TxnOffsetCommit, 4),
];

/// The versions in use on one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Versions(BTreeMap<ApiKey, i16>);

impl Versions {
    pub fn new(broker: &[ApiVersion]) -> Versions {
        let common = broker.iter().filter_map(|theirs| {
            let ours = CLIENT.iter().find(|ours| ours.key as i16 == theirs.api_key)?;
            let pinned = VERSION_MAX.iter().find(|(key, _)| *key == ours.key);
            let max = pinned.map_or(ours.max, |(_, max)| *max).min(theirs.max_version);
            (max >= ours.min.max(theirs.min_version)).then_some((ours.key, max))
        });
        Versions(common.collect())
    }

    pub fn pick(&self, key: ApiKey) -> Option<i16> {
        self.0.get(&key).copied()
    }
}
