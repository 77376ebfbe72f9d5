//! What this gateway knows of its site: for people, and for the simulation's checkers.

use super::super::Node;
use crate::peer;
use crate::quorum;
use crate::types::Time;
use crate::wire::api_versions::{ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey};
use alloc::string::String;
use alloc::vec::Vec;
use serde::Serialize;

/// The level, among Kafka's features.
const FEATURE: &str = "weir.level";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SiteStatus {
    /// The gateway that decides, if it is known.
    pub controller: Option<i32>,
    /// Whether it is this one.
    pub leads: bool,
    pub term: u64,
    /// The last entry of the metadata's log, and the last one that is in the image.
    pub last_index: u64,
    pub applied: u64,
    /// What every gateway of the cluster knows: the releases that may join.
    pub level: u16,
}

impl Node {
    pub fn site_status(&self, now: Time) -> SiteStatus {
        let quorum = self.quorum_status(now);
        SiteStatus {
            controller: self.site.controller_id().map(|node| node.0),
            leads: self.site.leads(),
            term: quorum.as_ref().map_or(0, |quorum| quorum.term),
            last_index: quorum.as_ref().map_or(0, |quorum| quorum.last_index),
            applied: self.site.applied,
            level: self.image.level(),
        }
    }

    /// How the quorum stands, as this gateway knows it; before its start has read it there is none.
    pub fn quorum_status(&self, now: Time) -> Option<quorum::Status> {
        self.site.quorum.as_ref().map(|quorum| quorum.status(now))
    }

    /// What `kafka-features` shows (KIP-584).
    pub(in crate::node) fn tell_features(&self, response: &mut ApiVersionsResponse) {
        let short = |level: u16| i16::try_from(level).unwrap_or(i16::MAX);
        let (min_version, max_version) =
            (short(peer::VERSION_MIN), short(self.settings.release.level));
        let name = String::from(FEATURE);
        let supported = SupportedFeatureKey { name: name.clone(), min_version, max_version };
        let level = short(self.image.level());
        let finalized =
            FinalizedFeatureKey { name, max_version_level: level, min_version_level: level };
        response.supported_features = Vec::from([supported]);
        response.finalized_features = Vec::from([finalized]);
        response.finalized_features_epoch = self.site.applied as i64;
    }

    /// Tells images apart: gateways that have applied the same entries have the same.
    pub fn metadata_digest(&self) -> u32 {
        crc32c::crc32c(&super::payload(&self.image.snapshot()))
    }
}
