//! Gateways of the oldest release become those of the newest, one after the other, while everything
//! else goes wrong; and one that goes back has to stay outside.
//!
//! An old gateway is today's that knows no higher level than the first. What it cannot read ends
//! it, as it would end an old release by leaving a hole in what it knows.

use super::gateway::End;
use super::plan::{Bug, Plan};
use super::run::{Cluster, What};
use super::{net::Arrival, random};
use crate::checks::{AlwaysStarts, Verdict, Violation};
use crate::runner::{Tally, must_find, seeds};
use weir_core::log::OpenError;
use weir_core::peer::Message;
use weir_core::peer::handshake::Hello;
use weir_core::peer::{VERSION, VERSION_MIN};
use weir_core::rng::Rng;
use weir_core::types::Nanos;

/// Nothing is written of a level that a gateway which reads it does not know.
pub struct AllUnderstand;

impl AllUnderstand {
    fn fails(what: String) -> Verdict {
        Err(Violation { checker: "AllUnderstand", what })
    }
}

impl Cluster {
    /// The next start is one of the newest release.
    pub fn upgrade(&mut self, index: usize) {
        if self.gateways[index].version < VERSION {
            log::debug!("{:?} gateway {} is upgraded", self.world.now, index + 1);
            self.gateways[index].version = VERSION;
        }
    }

    /// What a gateway says of itself from now on. Connections with others that do not speak what it
    /// asks for are over.
    pub fn introduce(&mut self, index: usize, mut hello: Hello, level: u16) {
        hello.version = match self.plan.bug {
            Bug::TakenForNew => VERSION,
            _ => self.gateways[index].version,
        };
        hello.version_min = VERSION_MIN.max(level);
        self.gateways[index].hello = Some(hello);
        self.gateways[index].formatted = true;
        for other in 0..self.gateways.len() {
            let speaks = self.gateways[other].hello.as_ref().map(|hello| hello.version);
            let link = self.net.link((index, other));
            if speaks.is_some_and(|version| version < level) && link != 0 {
                let what = What::Peer { from: other, link, arrival: Arrival::Down };
                self.world.after(Nanos(0), super::run::Event::To { gateway: index, what });
                self.hang_up((index, other), 10_000);
            }
        }
    }

    /// Requests for ranges are of the second level.
    pub fn may_be_sent(&self, to: usize, message: &Message) -> Verdict {
        let ranges = matches!(message, Message::RangeFetch(_) | Message::Range(..));
        if ranges && self.gateways[to].version < 2 {
            return AllUnderstand::fails(format!("gateway {} is sent {message:?}", to + 1));
        }
        Ok(())
    }

    /// A gateway cannot go on with what is on its flash.
    pub fn refused(&mut self, index: usize, error: &OpenError) -> Verdict {
        let version = self.gateways[index].version;
        match error {
            OpenError::NewerMetadata { .. } if self.gateways[index].went_back => {
                self.end(index, End::Kill);
                Ok(())
            }
            OpenError::NewerMetadata { .. } => {
                let number = index + 1;
                AllUnderstand::fails(format!("gateway {number}, which knows level {version}"))
            }
            // The power went while it was formatted.
            OpenError::Blank | OpenError::NotALog if !self.gateways[index].formatted => {
                self.end(index, End::Kill);
                self.gateways[index].empty();
                self.boot(index)
            }
            _ => AlwaysStarts::fails(format!("gateway {}: {error:?}", index + 1)),
        }
    }

    /// Once all are of the newest release, the cluster uses what that knows; before that it must
    /// not.
    pub fn has_its_level(&self) -> Result<(), String> {
        let least = self.gateways.iter().map(|gateway| gateway.version).min();
        let now = self.world.now;
        for node in self.gateways.iter().filter_map(|gateway| gateway.node.as_ref()) {
            let level = node.site_status(now).level;
            if Some(level) != least {
                return Err(format!("the level is {level}, and all know {least:?}"));
            }
        }
        Ok(())
    }

    /// One gateway gets the older release again when all are above it.
    fn run_back(&mut self) -> Verdict {
        self.faulty = false;
        self.begin()?;
        self.converge()?;
        let index = self.world.rng.below(self.gateways.len() as u64) as usize;
        self.end(index, End::Kill);
        self.gateways[index].version = VERSION_MIN;
        self.gateways[index].went_back = true;
        self.boot(index)?;
        let before = self.crowd.acknowledged();
        self.pass(Nanos::from_ms(12_000))?;
        if self.gateways[index].serves {
            let number = index + 1;
            return AllUnderstand::fails(format!("gateway {number} went back, and serves"));
        }
        if self.plan.stays_available() && self.crowd.acknowledged() == before {
            return AllUnderstand::fails(format!("gateway {} stops the others", index + 1));
        }
        self.end(index, End::Kill);
        self.upgrade(index);
        self.gateways[index].went_back = false;
        self.boot(index)?;
        self.converge()?;
        self.audit()
    }
}

fn back(seed: u64) -> Result<Tally, Violation> {
    let mut plan = Plan::random(&mut Rng::new(seed));
    plan.calm();
    let mut cluster = Cluster::new(seed, plan);
    cluster.run_back()?;
    Ok(cluster.tally())
}

#[test]
fn a_site_is_upgraded_while_everything_goes_wrong() {
    seeds("a_site_is_upgraded", 20, |seed| {
        random(seed, |plan| {
            plan.upgrade = true;
            plan.kills = true;
        })
    });
}

#[test]
fn a_gateway_that_goes_back_to_an_older_release_stays_outside() {
    seeds("a_gateway_that_goes_back", 8, back);
}

#[test]
fn a_level_that_is_used_too_early_is_found() {
    must_find("TakenForNew of a site", &["AllUnderstand"], |seed| {
        random(seed, |plan| {
            plan.bug = Bug::TakenForNew;
            plan.upgrade = true;
        })
    });
}

fn old(seed: u64, bug: Bug) -> Result<Tally, Violation> {
    let mut cluster = super::rot::calm(seed, |plan| plan.bug = bug);
    cluster.run_old()?;
    Ok(Tally { harms: cluster.repairs.refills, ..cluster.tally() })
}

#[test]
fn what_a_gateway_of_an_old_cluster_has_lost_is_fetched_with_all_of_its_partition() {
    let total = seeds("what_a_gateway_of_an_old_cluster", 5, |seed| old(seed, Bug::None));
    assert!(total.harms > 0, "nothing was ever begun anew, so nothing is proved");
}

#[test]
fn what_an_old_release_does_not_know_and_is_sent_is_found() {
    must_find("RangesTooEarly of a site", &["AllUnderstand"], |seed| {
        old(seed, Bug::RangesTooEarly)
    });
}
