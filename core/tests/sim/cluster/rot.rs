//! The flash of gateways loses records that others have, too: nobody reads past them, and they come
//! back, and nothing else is fetched for it.
//!
//! Some of it is found by the gateway's next start, some only by whoever reads.

use super::gateway::End;
use super::plan::Plan;
use super::run::Cluster;
use crate::checks::{Verdict, Violation};
use crate::harm::Key;
use crate::runner::{Tally, seeds};
use std::collections::{BTreeMap, BTreeSet};
use weir_core::peer::VERSION_MIN;
use weir_core::rng::Rng;
use weir_core::types::Nanos;

/// What is lost comes back by itself: no more is written for it than was damaged, and nothing is
/// begun anew.
pub struct RepairsTheRange;

impl RepairsTheRange {
    fn fails(what: String) -> Verdict {
        Err(Violation { checker: "RepairsTheRange", what })
    }
}

/// What was damaged, and what was done about it.
#[derive(Debug, Default)]
pub struct Repairs {
    /// Which gateways a batch rotted on.
    rotted: BTreeMap<Key, BTreeSet<usize>>,
    rotted_bytes: u64,
    /// Of groups that a start did not find, whatever rotted.
    missing_bytes: u64,
    /// By processes that are gone.
    repaired_bytes: u64,
    pub refills: u64,
    /// Times that something was known to be damaged.
    seen: u64,
}

pub fn calm(seed: u64, change: impl Fn(&mut Plan)) -> Cluster {
    let mut plan = Plan::random(&mut Rng::new(seed));
    (plan.gateways, plan.voters, plan.witness) = (3, 3, false);
    plan.calm();
    plan.producers = 4;
    change(&mut plan);
    Cluster::new(seed, plan)
}

pub fn random(seed: u64, change: impl Fn(&mut Plan)) -> Result<Tally, Violation> {
    let mut cluster = calm(seed, change);
    cluster.run_rot()?;
    Ok(Tally { harms: cluster.repairs.seen, ..cluster.tally() })
}

/// What happens to gateways beside rot, now of this one, now of that one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// All are there.
    Nothing,
    /// They start anew, one after the other.
    Starts,
    /// The same, and the power goes while it comes back.
    Cuts,
}

fn changing(seed: u64, beside: Beside, change: impl Fn(&mut Plan)) -> Result<Tally, Violation> {
    let mut cluster = calm(seed, change);
    cluster.run_changing_rot(beside)?;
    Ok(Tally { harms: cluster.repairs.seen, ..cluster.tally() })
}

pub fn restarted(seed: u64, change: impl Fn(&mut Plan)) -> Result<Tally, Violation> {
    changing(seed, Beside::Starts, change)
}

/// What a leader has that nobody else has rots while others lead.
pub fn deposed(seed: u64, change: impl Fn(&mut Plan)) -> Result<Tally, Violation> {
    let mut cluster = calm(seed, change);
    cluster.run_deposed()?;
    Ok(Tally { harms: cluster.repairs.seen, ..cluster.tally() })
}

impl Cluster {
    fn run_rot(&mut self) -> Verdict {
        self.faulty = false;
        self.begin()?;
        self.converge()?;
        let index = self.world.rng.below(self.gateways.len() as u64) as usize;
        for _ in 0..4 {
            self.pass(Nanos::from_ms(2_000))?;
            let starts_anew = self.world.rng.percent(70);
            if starts_anew {
                self.end(index, End::Kill);
            }
            self.rot(index, 1);
            if starts_anew {
                let away_ms = [50, 4_000][self.world.rng.below(2) as usize];
                self.pass(Nanos::from_ms(away_ms))?;
                self.boot(index)?;
            }
            self.cure()?;
            // What only a reader finds, and is cured then.
            self.audit()?;
            self.cure()?;
        }
        self.audit()?;
        self.has_repaired_ranges()
    }

    fn run_changing_rot(&mut self, beside: Beside) -> Verdict {
        self.faulty = false;
        self.begin()?;
        self.converge()?;
        // What is whole on one gateway only has to be waited for when that is away; what rots on
        // one is there without it, too.
        let most = 1 + self.world.rng.below(2) as usize;
        for _ in 0..6 {
            self.pass(Nanos::from_ms(1_000))?;
            let index = self.world.rng.below(self.gateways.len() as u64) as usize;
            let starts_anew = beside != Beside::Nothing && self.world.rng.percent(50);
            if starts_anew {
                self.end(index, End::Kill);
            }
            for _ in 0..1 + self.world.rng.below(2) {
                self.rot(index, most);
            }
            if starts_anew {
                self.pass(Nanos::from_ms(50))?;
                self.boot(index)?;
            }
            if beside == Beside::Cuts {
                self.cut_somebody()?;
            }
            // Else it goes on while something is missing, perhaps on another one.
            if self.world.rng.percent(40) {
                self.cure()?;
                self.audit()?;
            }
        }
        self.cure()?;
        self.audit()?;
        self.cure()?;
        if most == 1 {
            self.hand_over()?;
            self.cure()?;
        }
        self.has_repaired_ranges()
    }

    /// The power of a gateway goes, sooner or later after something rotted.
    fn cut_somebody(&mut self) -> Verdict {
        let until = self.world.now + Nanos(self.world.rng.below(3_000_000_000));
        let eager = self.world.rng.percent(60);
        while self.world.now < until && !(eager && self.knows_of_damage()) {
            self.pass(Nanos::from_ms(1))?;
        }
        let soon = self.world.rng.below(20_000_000);
        self.pass(Nanos(soon))?;
        let index = self.world.rng.below(self.gateways.len() as u64) as usize;
        self.end(index, End::Cut);
        let away = self.world.rng.below(2_000);
        self.pass(Nanos::from_ms(50 + away))?;
        self.boot(index)
    }

    fn run_deposed(&mut self) -> Verdict {
        self.faulty = false;
        self.begin()?;
        self.converge()?;
        self.pass(Nanos::from_ms(1_000))?;
        let index = self.world.rng.below(self.gateways.len() as u64) as usize;
        let before = self.gateways[index].disk.harm.groups_of_records();
        for other in (0..self.gateways.len()).filter(|other| *other != index) {
            self.cut_way((index, other), 5_000_000, 6_000_000);
            self.cut_way((other, index), 5_000_000, 6_000_000);
        }
        self.pass(Nanos::from_ms(4_000))?;
        self.end(index, End::Kill);
        // What it took while nobody heard it; the last group would only look torn.
        let groups = self.gateways[index].disk.harm.groups_of_records();
        let mut alone: Vec<(u64, u64)> =
            groups.into_iter().filter(|group| !before.contains(group)).collect();
        alone.pop();
        for _ in 0..alone.len().min(3) {
            let group = alone[self.world.rng.below(alone.len() as u64) as usize];
            self.rot_group(index, group);
        }
        self.unblock()?;
        self.boot(index)?;
        self.cure()?;
        self.audit()?;
        self.hand_over()
    }

    /// Old gateways know nothing of ranges: what is damaged is fetched whole.
    pub fn run_old(&mut self) -> Verdict {
        self.faulty = false;
        for gateway in &mut self.gateways {
            gateway.version = VERSION_MIN;
        }
        self.run_rot()
    }

    /// One group of records goes bad, not what the gateway knows of the cluster. A batch rots on so
    /// many gateways at most.
    fn rot(&mut self, index: usize, most: usize) {
        let (harm, rotted) = (&self.gateways[index].disk.harm, &self.repairs.rotted);
        let may =
            |key: &Key| rotted.get(key).is_none_or(|on| on.contains(&index) || on.len() < most);
        let mut groups = harm.groups_of_records();
        groups.retain(|group| harm.keys_within(*group).iter().all(may));
        let Some(last) = groups.len().checked_sub(1) else { return };
        let group = groups[self.world.rng.below(last as u64 + 1) as usize];
        self.rot_group(index, group);
    }

    /// A bit flips, or a sector cannot be read any more.
    fn rot_group(&mut self, index: usize, (at, end): (u64, u64)) {
        let byte = at + self.world.rng.below(end - at);
        log::debug!("{:?} gateway {} rots at {byte}, of {at} to {end}", self.world.now, index + 1);
        self.repairs.rotted_bytes += end - at;
        for key in self.gateways[index].disk.harm.keys_within((at, end)) {
            self.repairs.rotted.entry(key).or_default().insert(index);
        }
        let disk = &mut self.gateways[index].disk;
        match self.world.rng.percent(70) {
            true => disk.flash.rot(byte, self.world.rng.below(8) as u32),
            false => disk.flash.lose_sector(byte),
        }
    }

    /// Waits until the site is whole; notes whether it knew of damage.
    fn cure(&mut self) -> Verdict {
        let mut seen = false;
        self.converge_watched(50, |site| seen |= site.knows_of_damage())?;
        self.repairs.seen += u64::from(seen);
        Ok(())
    }

    fn knows_of_damage(&self) -> bool {
        let nodes = self.gateways.iter().filter_map(|gateway| gateway.node.as_ref());
        let mut replicas = nodes.flat_map(|node| node.replicas_status());
        replicas.any(|replica| replica.is_damaged)
    }

    /// A process is about to end: what it has done is not forgotten.
    pub fn count_repairs(&mut self, index: usize) {
        let Some(node) = &self.gateways[index].node else { return };
        let status = node.status();
        self.repairs.repaired_bytes += status.log.repaired_bytes;
        self.repairs.refills += status.refills;
        let groups = self.gateways[index].disk.harm.groups_of_records();
        let largest = groups.iter().map(|(at, end)| end - at).max().unwrap_or(0);
        self.repairs.missing_bytes += largest * status.log.damaged_groups;
    }

    fn has_repaired_ranges(&mut self) -> Verdict {
        for index in 0..self.gateways.len() {
            self.count_repairs(index);
        }
        let Repairs { rotted_bytes, missing_bytes, repaired_bytes, refills, .. } = self.repairs;
        if self.gateways.iter().any(|gateway| gateway.version == VERSION_MIN) {
            return match repaired_bytes {
                0 => Ok(()),
                bytes => RepairsTheRange::fails(format!("{bytes} bytes with an old release")),
            };
        }
        if refills > 0 && !self.plan.groups {
            return RepairsTheRange::fails(format!("{refills} partitions were begun anew"));
        }
        let bad = rotted_bytes + missing_bytes;
        if repaired_bytes > bad {
            let what = format!("{repaired_bytes} bytes were written for {bad} bad ones");
            return RepairsTheRange::fails(what);
        }
        Ok(())
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

#[test]
fn what_changing_gateways_have_lost_comes_back_from_all_others_together() {
    let changing = |seed| changing(seed, Beside::Nothing, |_| {});
    let total = seeds("what_changing_gateways_have_lost", 10, changing);
    assert!(total.harms > 0, "no damage was ever met, so nothing is proved");
}

#[test]
fn what_was_lost_comes_back_though_gateways_start_anew_meanwhile() {
    let restarted = |seed| restarted(seed, |_| {});
    let total = seeds("what_was_lost_comes_back_though_gateways", 10, restarted);
    assert!(total.harms > 0, "no damage was ever met, so nothing is proved");
}

#[test]
fn what_was_lost_comes_back_though_the_power_goes_meanwhile() {
    let changing = |seed| changing(seed, Beside::Cuts, |_| {});
    let total = seeds("what_was_lost_comes_back_though_the_power", 10, changing);
    assert!(total.harms > 0, "no damage was ever met, so nothing is proved");
}

#[test]
fn what_a_deposed_leader_has_lost_does_not_come_back_as_another() {
    seeds("what_a_deposed_leader_has_lost", 10, |seed| deposed(seed, |_| {}));
}
