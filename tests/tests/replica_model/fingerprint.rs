//! Tells states of the model apart: by what makes a difference to what can happen next, whichever
//! of the gateways is which.

use crate::gateway::{Gateway, REPLICAS, Role};
use crate::partition::{Controller, State};
use std::hash::{Hash, Hasher};
use weir_core::types::NodeId;

/// Where each gateway goes: all orders of three.
const ORDERS: [[usize; REPLICAS]; 6] =
    [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// Two states with the same fingerprint can go on in the same ways, but for the names of the
/// gateways. Left out is what the leader and the follower know and never act on here, where an
/// answer follows each fetch at once and time stands still: how often somebody has fetched and
/// when, what it was told, how high the partition epoch is.
impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let orders = ORDERS.iter().map(|order| self.code(order));
        orders.min().expect("there are six").hash(hasher);
    }
}

impl State {
    fn code(&self, order: &[usize; REPLICAS]) -> [u64; REPLICAS + 1] {
        let mut codes = [0; REPLICAS + 1];
        for (at, gateway) in self.gateways.iter().enumerate() {
            codes[order[at]] = gateway_code(gateway, &self.controller, order);
        }
        let controller = &self.controller;
        let mut code = Code(0);
        code.number(controller.leader.map_or(REPLICAS, |leader| order[leader.0 as usize]));
        code.number(controller.leader_epoch as usize);
        code.nodes(&controller.isr, order);
        code.nodes(&controller.elr, order);
        code.each(order, |at| controller.brokers[at] as usize);
        code.number(usize::from(controller.granted));
        code.number(usize::from(self.produced));
        code.entries(&self.committed);
        code.number(usize::from(self.broken));
        codes[REPLICAS] = code.0;
        codes
    }
}

fn gateway_code(gateway: &Gateway, controller: &Controller, order: &[usize; REPLICAS]) -> u64 {
    let kind = match &gateway.role {
        Role::None => 1,
        Role::Follows(..) => 2,
        Role::Leads(..) => 3,
    };
    let mut code = Code(0);
    code.number(kind);
    code.entries(&gateway.log);
    code.entries(&gateway.flash);
    code.number(gateway.high_watermark().0 as usize);
    match &gateway.role {
        Role::None => {}
        Role::Follows(leader, follower) => {
            code.number(order[*leader]);
            code.number(follower.leader_epoch().0 as usize);
            code.number(usize::from(follower.deadline().0 > 0));
        }
        Role::Leads(leader, heard) => {
            code.number(leader.epoch().0 as usize);
            code.number(usize::from(heard.partition_epoch == controller.partition_epoch));
            code.nodes(leader.isr(), order);
            code.each(order, |at| {
                let follower = leader.followers().find(|found| found.node.0 as usize == at);
                let durable = follower.and_then(|found| found.durable);
                durable.map_or(0, |durable| 1 + durable.0 as usize)
            });
            let flag = |at: usize| {
                let follower = leader.followers().find(|found| found.node.0 as usize == at);
                let lies = follower.is_some_and(|found| found.lies > 0);
                let fetched_anew = heard.fetched[at] > 0;
                let registered_anew = heard.registered[at] > 0;
                usize::from(lies)
                    | usize::from(fetched_anew) << 1
                    | usize::from(registered_anew) << 2
            };
            code.each(order, flag);
            code.each(order, |at| usize::from(heard.wished[at]));
        }
    }
    code.0
}

/// Small numbers, three bits each.
struct Code(u64);

impl Code {
    fn number(&mut self, number: usize) {
        assert!(number < 8 && self.0 >> 61 == 0, "the model's bounds fit");
        self.0 = self.0 << 3 | number as u64;
    }

    fn each(&mut self, order: &[usize; REPLICAS], number: impl Fn(usize) -> usize) {
        let mut numbers = [0; REPLICAS];
        (0..REPLICAS).for_each(|at| numbers[order[at]] = number(at));
        numbers.into_iter().for_each(|number| self.number(number));
    }

    fn nodes(&mut self, nodes: &[NodeId], order: &[usize; REPLICAS]) {
        self.number(nodes.iter().map(|node| 1 << order[node.0 as usize]).sum());
    }

    /// Where a record of the model stands says all of it but its epoch.
    fn entries(&mut self, entries: &[(i32, usize)]) {
        for at in 0..3 {
            self.number(entries.get(at).map_or(0, |(epoch, _)| *epoch as usize));
        }
    }
}
