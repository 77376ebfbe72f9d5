//! When a gateway that is in begins to serve: once the others are in, too.
//!
//! Without that the first gateways of a new site would create topics as if there were no others,
//! with too few replicas. Only the first start of a site waits: who registered once stays in the
//! image. One that dies at that moment is not waited for.

use super::super::Node;
use crate::types::Time;

/// How long the others are waited for. They register within a heartbeat of the first election.
const OTHERS_MS: u64 = 5_000;

impl Node {
    /// This gateway is in, or somebody else is, or it has waited.
    pub(super) fn enter(&mut self, now: Time) {
        let own = self.image.broker(self.settings.node);
        if !own.is_some_and(|own| own.incarnation == self.site.incarnation && !own.fenced) {
            return;
        }
        let by = *self.site.serve_by.get_or_insert(now.plus_ms(OTHERS_MS));
        if self.is_starting() && (now >= by || self.has_all_voters(now)) {
            self.on_joined(now);
        }
    }

    fn has_all_voters(&self, now: Time) -> bool {
        let quorum = self.quorum_status(now);
        let voters = quorum.into_iter().flat_map(|status| status.members.voters);
        let mut voters = voters.map(|voter| voter.node);
        voters.all(|node| self.image.broker(node).is_some())
    }
}
