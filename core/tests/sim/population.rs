//! Who talks to a simulated node: topics, producers, groups, an administrator, and one who sends
//! noise.

use crate::admin::Admin;
use crate::client::{Client, Role, Target};
use crate::consumer::Consumer;
use crate::plan::Plan;
use crate::producer::Producer;
use crate::vandal::Vandal;
use weir_core::rng::Rng;

/// The topics that are always there, with their partitions.
pub const TOPICS: [(&str, i32); 2] = [("line", 1), ("plant", 3)];

pub fn targets() -> Vec<Target> {
    let each =
        TOPICS.iter().flat_map(|(name, count)| (0..*count).map(|index| (name.to_string(), index)));
    each.collect()
}

pub fn clients(rng: &mut Rng, plan: &Plan) -> Vec<Client> {
    let targets = targets();
    let fixed = TOPICS.iter().map(|(name, count)| (name.to_string(), *count)).collect();
    let (churn, trims) = (rng.percent(50), plan.retention);
    let mut roles = vec![Role::Admin(Admin::new(fixed, targets.clone(), churn, trims))];
    for _ in 0..2 + rng.below(5) {
        let target = targets[rng.below(targets.len() as u64) as usize].clone();
        let (acks, idempotent) = match rng.below(10) {
            0 => (0, false),
            1 => (1, false),
            2..4 => (-1, false),
            _ => (-1, true),
        };
        let gives_up = rng.percent(20);
        roles.push(Role::Producer(Producer::new(target, acks, idempotent, gives_up)));
    }
    for group in ["dashboards", "alarms"].into_iter().take(rng.below(3) as usize) {
        for _ in 0..1 + rng.below(3) {
            roles.push(Role::Consumer(Consumer::new(group, targets.clone())));
        }
    }
    if rng.percent(30) {
        roles.push(Role::Vandal(Vandal::default()));
    }
    roles.into_iter().map(Client::new).collect()
}
