//! A gateway that is told to stop lets the others take over before it goes.
//!
//! | state | event | next |
//! |---|---|---|
//! | serving | stop | leaving, or stopping when nobody else is there |
//! | leaving | the controller says that nobody needs it, or it is tired of waiting | stopping |
//! | stopping | everything is on flash | stopped |
//!
//! While it leaves it serves: its clients find the new leaders by its answers.

use super::super::{Node, Phase};
use crate::types::Time;

/// How long a gateway waits for the others: two elections of a controller.
const LEAVE_MS: u64 = 5_000;

impl Node {
    pub(in crate::node) fn on_stop(&mut self, now: Time) {
        let me = self.settings.node;
        let others = self.image.brokers().any(|other| other.node != me && other.is_active());
        if self.phase != Phase::Serving || !others {
            return self.stop(now);
        }
        if !self.site.asks.stopping {
            log::info!("the other gateways take over");
            self.site.asks.stopping = true;
            self.site.leave_by = Some(now.plus_ms(LEAVE_MS));
            self.site.asks.hurry();
        }
    }

    pub(super) fn leave(&mut self, now: Time) {
        let Some(leave_by) = self.site.leave_by else { return };
        let may_stop = self.site.asks.may_stop;
        if may_stop || leave_by <= now {
            if !may_stop {
                log::warn!(
                    "the other gateways have not taken over: they will when this one is gone"
                );
            }
            self.site.leave_by = None;
            self.stop(now);
        }
    }

    fn stop(&mut self, now: Time) {
        self.phase = Phase::Stopping;
        self.log.wind_down();
        self.log.checkpoint(now);
    }
}
