//! What this gateway knows of its site: for people, and for the simulation's checkers.

use super::super::Node;
use crate::quorum;
use crate::types::Time;
use serde::Serialize;

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
        }
    }

    /// How the quorum stands, as this gateway knows it; before its start has read it there is none.
    pub fn quorum_status(&self, now: Time) -> Option<quorum::Status> {
        self.site.quorum.as_ref().map(|quorum| quorum.status(now))
    }

    /// Tells images apart: gateways that have applied the same entries have the same.
    pub fn metadata_digest(&self) -> u32 {
        crc32c::crc32c(&super::payload(&self.image.snapshot()))
    }
}
