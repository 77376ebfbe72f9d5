//! The flash of one gateway loses records that the others have, too: nobody reads past them, and
//! they come back.
//!
//! Some of it is found by the gateway's next start, some only by whoever reads.

use super::gateway::End;
use super::plan::Plan;
use super::run::Cluster;
use crate::checks::Violation;
use crate::runner::{Tally, seeds};
use weir_core::rng::Rng;
use weir_core::types::Nanos;

pub fn random(seed: u64, change: impl Fn(&mut Plan)) -> Result<Tally, Violation> {
    let mut plan = Plan::random(&mut Rng::new(seed));
    (plan.gateways, plan.voters, plan.witness) = (3, 3, false);
    plan.calm();
    plan.producers = 4;
    change(&mut plan);
    let mut cluster = Cluster::new(seed, plan);
    let harms = cluster.run_rot()?;
    Ok(Tally { harms, ..cluster.tally() })
}

impl Cluster {
    /// Says how many times something was known to be damaged.
    fn run_rot(&mut self) -> Result<u64, Violation> {
        self.faulty = false;
        self.begin()?;
        self.converge()?;
        let mut seen = 0;
        let index = self.world.rng.below(self.gateways.len() as u64) as usize;
        for _ in 0..4 {
            self.pass(Nanos::from_ms(2_000))?;
            let starts_anew = self.world.rng.percent(70);
            if starts_anew {
                self.end(index, End::Kill);
            }
            self.rot(index);
            if starts_anew {
                let away_ms = [50, 4_000][self.world.rng.below(2) as usize];
                self.pass(Nanos::from_ms(away_ms))?;
                self.boot(index)?;
            }
            seen += u64::from(self.cure()?);
            // What only a reader finds, and is cured then.
            self.audit()?;
            seen += u64::from(self.cure()?);
        }
        self.audit()?;
        Ok(seen)
    }

    /// One group of records goes bad, not what the gateway knows of the cluster: a bit flips, or a
    /// sector cannot be read any more.
    fn rot(&mut self, index: usize) {
        let disk = &mut self.gateways[index].disk;
        let groups = disk.harm.groups_of_records();
        let Some(last) = groups.len().checked_sub(1) else { return };
        let (at, end) = groups[self.world.rng.below(last as u64 + 1) as usize];
        let byte = at + self.world.rng.below(end - at);
        log::debug!("{:?} gateway {} rots at {byte}, of {at} to {end}", self.world.now, index + 1);
        match self.world.rng.percent(70) {
            true => disk.flash.rot(byte, self.world.rng.below(8) as u32),
            false => disk.flash.lose_sector(byte),
        }
    }

    /// Waits until the site is whole; says whether it knew of damage.
    fn cure(&mut self) -> Result<bool, Violation> {
        let mut seen = false;
        self.converge_watched(50, |site| seen |= site.knows_of_damage())?;
        Ok(seen)
    }

    fn knows_of_damage(&self) -> bool {
        let nodes = self.gateways.iter().filter_map(|gateway| gateway.node.as_ref());
        let mut replicas = nodes.flat_map(|node| node.replicas_status());
        replicas.any(|replica| replica.is_damaged)
    }
}

#[test]
fn what_one_gateway_has_lost_comes_back_from_another() {
    let total = seeds("what_one_gateway_has_lost", 10, |seed| random(seed, |_| {}));
    assert!(total.harms > 0, "no damage was ever met, so nothing is proved");
}

#[test]
fn groups_keep_their_offsets_when_one_gateway_has_lost_some() {
    let total =
        seeds("groups_lose_nothing_to_rot", 5, |seed| random(seed, |plan| plan.groups = true));
    assert!(total.harms > 0, "no damage was ever met, so nothing is proved");
}
