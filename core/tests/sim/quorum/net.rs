//! The network between the machines: what is lost, repeated, late, out of order or cut.

use super::plan::Plan;
use std::collections::BTreeSet;
use weir_core::rng::Rng;
use weir_core::types::Nanos;

#[derive(Debug, Default)]
pub struct Net {
    /// One way each: from, to.
    cut: BTreeSet<(usize, usize)>,
    loss: u64,
    duplication: u64,
    delay_us: u64,
    delay_rare_us: u64,
}

impl Net {
    pub fn new(plan: &Plan) -> Net {
        Net {
            cut: BTreeSet::new(),
            loss: plan.loss,
            duplication: plan.duplication,
            delay_us: plan.delay_us,
            delay_rare_us: plan.delay_rare_us,
        }
    }

    /// How long each copy of a message takes; none arrives if it is empty.
    pub fn send(&self, rng: &mut Rng, from: usize, to: usize) -> Vec<Nanos> {
        let copies = match () {
            () if self.cut.contains(&(from, to)) || rng.percent(self.loss) => 0,
            () if rng.percent(self.duplication) => 2,
            () => 1,
        };
        let mut delay = || {
            let most = if rng.percent(3) { self.delay_rare_us } else { self.delay_us };
            Nanos((200 + rng.below(most)) * 1_000)
        };
        (0..copies).map(|_| delay()).collect()
    }

    /// Cuts some of the nodes off from the others, in both directions or in one.
    pub fn split(&mut self, rng: &mut Rng, nodes: usize) {
        let side: Vec<bool> = (0..nodes).map(|_| rng.percent(40)).collect();
        let (there, back) = [(true, true), (true, true), (true, false)][rng.below(3) as usize];
        for one in (0..nodes).filter(|node| side[*node]) {
            for other in (0..nodes).filter(|node| !side[*node]) {
                self.cut(one, other, there);
                self.cut(other, one, back);
            }
        }
    }

    /// Cuts one link, in one direction.
    pub fn cut_link(&mut self, rng: &mut Rng, nodes: usize) {
        let (from, to) = (rng.below(nodes as u64) as usize, rng.below(nodes as u64) as usize);
        self.cut(from, to, true);
    }

    pub fn isolate(&mut self, node: usize, nodes: usize, inward: bool, outward: bool) {
        for other in (0..nodes).filter(|other| *other != node) {
            self.cut(other, node, inward);
            self.cut(node, other, outward);
        }
    }

    pub fn join(&mut self) {
        self.cut.clear();
    }

    /// Nothing is lost any more.
    pub fn heal(&mut self) {
        *self = Net { delay_us: 2_000, delay_rare_us: 2_000, ..Net::default() };
    }

    fn cut(&mut self, from: usize, to: usize, cut: bool) {
        if cut && from != to {
            self.cut.insert((from, to));
        }
    }
}
