//! Gateways of several releases beside each other.
//!
//! A release has a level: the newest version of what gateways say to each other, and of what they
//! write into the metadata's log.
//!
//! | level | what is new |
//! |---|---|
//! | 1 | everything that the first release says and writes |
//! | 2 | the level of the cluster, which is a record in the metadata; requests for ranges |
//!
//! | what | is of which level |
//! |---|---|
//! | what two gateways say to each other | the lower of their two, as both know by the handshake |
//! | what is written, and read by all | that of the cluster, whoever is away at the moment |
//!
//! The controller raises the level of the cluster once every registered gateway and every member of
//! the quorum is connected and knows the higher one, and has for a while. Handshakes ask for that
//! version from then on: the controller's when it proposes it, those of the others when they read
//! it. An older release is refused by a sentence on both sides, and joins when it is upgraded. A
//! gateway that was given an older release and finds a higher level in its own log stops.
//!
//! Why (2026-11-22): Kafka leaves that moment to an operator (KIP-584), because there is no way
//! back to the older release behind it. Nobody stands beside a gateway: there, time has to pass.

use super::super::changes::Change;
use super::super::{Node, Output, Phase};
use crate::log::OpenError;
use crate::metadata::Record;
use crate::peer;
use crate::quorum::Position;
use crate::types::{Nanos, NodeId, Time};
use alloc::vec::Vec;

const LOOK_EVERY_MS: u64 = 500;

/// From that level on a replica asks others for what it has lost, and answers.
pub(in crate::node) const RANGES_LEVEL: u16 = 2;

/// What a gateway's release knows. Simulations have older ones.
#[derive(Clone, Copy, Debug)]
pub struct Release {
    pub level: u16,
    /// How long all gateways have known a level when it is raised to that.
    pub settle: Nanos,
}

impl Default for Release {
    /// An update that fails is taken back within three minutes of its start.
    fn default() -> Release {
        Release { level: peer::VERSION, settle: Nanos::from_ms(600_000) }
    }
}

#[derive(Debug, Default)]
pub(super) struct Level {
    next: Time,
    /// What all know, above the level of the cluster, and since when.
    known: Option<(u16, Time)>,
    proposed: Option<u16>,
}

impl Node {
    /// What every gateway has to know that wants to join.
    pub(super) fn level(&self) -> u16 {
        self.image.level().max(self.site.level.proposed.unwrap_or_default())
    }

    pub(super) fn tend_level(&mut self, now: Time) {
        let is_highest = self.image.level() >= self.settings.release.level;
        let waits = is_highest || now < self.site.level.next || !self.changes.is_idle();
        if !self.site.leads() || waits {
            return;
        }
        // What was proposed is in the image by now, or was not taken.
        let before = core::mem::take(&mut self.site.level);
        let all = self.level_of_all(now).filter(|level| *level > self.image.level());
        let since = match (before.known, all) {
            (Some((known, since)), Some(level)) if known == level => since,
            _ => now,
        };
        let next = now.plus_ms(LOOK_EVERY_MS);
        let known = all.map(|level| (level, since));
        let due = all.filter(|_| since + self.settings.release.settle <= now);
        self.site.level = Level { next, known, proposed: due };
        if let Some(level) = due {
            log::info!("all gateways know level {level}: it is the cluster's from now on");
            self.name_peers();
            self.change(now, Change::Record(Record::Level { level }));
        }
    }

    /// The level that every gateway knows; `None` while one that belongs here is away.
    fn level_of_all(&self, now: Time) -> Option<u16> {
        let me = self.settings.node;
        let members = self.quorum_status(now)?.members;
        let members = members.all().chain(&members.demoted).map(|member| member.node);
        let registered = self.image.brokers().map(|broker| broker.node);
        let is_here = |node: NodeId| node == me || self.site.is_connected(node);
        members.chain(registered).all(is_here).then(|| self.level_of_those_here())
    }

    /// The level that this gateway and all that it is connected with know.
    pub(in crate::node) fn level_of_those_here(&self) -> u16 {
        let own = self.settings.release.level;
        self.site.peers.values().map(|hello| hello.version).fold(own, u16::min)
    }

    /// Nothing is proposed any more, and who is refused for that is welcome again.
    pub(super) fn forget_proposed_level(&mut self) {
        if core::mem::take(&mut self.site.level).proposed.is_some() {
            self.name_peers();
        }
    }

    /// Whether a peer knows what everybody here has to know. The driver ends the connection with
    /// one that does not, whose handshake was under way when the level was raised.
    pub(super) fn is_understood_by(&mut self, node: NodeId, version: u16) -> bool {
        let level = self.level();
        if version < level {
            log::warn!("gateway {} knows level {version}, and the cluster is at {level}", node.0);
            self.name_peers();
        }
        version >= level
    }

    /// The records of an entry. What this release cannot read it must not leave out either: it
    /// would have another image than the others, and drop what it does not know of.
    pub(super) fn understand(&mut self, position: Position, payload: &[u8]) -> Option<Vec<Record>> {
        let known = self.settings.release.level;
        let newer = |record: &Record| matches!(record, Record::Level { level } if *level > known);
        let records = super::records(position, payload);
        let records = records.filter(|records| !records.iter().any(newer));
        if records.is_none() && self.phase != Phase::Refused {
            self.phase = Phase::Refused;
            self.outputs.push_back(Output::Refused(OpenError::NewerMetadata { known }));
        }
        records.filter(|_| self.phase != Phase::Refused)
    }
}
