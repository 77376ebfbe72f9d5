//! What the controller answers, fact by fact. Its promises under faults are simulated.

use super::super::configs::Configs;
use super::super::{CreatedTopic, NewTopic, PartitionState, Plan, TopicDefaults};
use super::*;
use crate::error::ErrorCode;
use crate::rng::Rng;
use crate::types::{BrokerEpoch, PartitionNumber};
use alloc::format;
use alloc::string::String;

/// A site whose gateways 1 to `gateways` are registered and heard, and the controller on 1.
struct World {
    image: Image,
    controller: Controller,
    now: Time,
    index: u64,
}

impl World {
    fn new(gateways: i32) -> World {
        World::with(gateways, Configs::new())
    }

    fn with(gateways: i32, defaults: Configs) -> World {
        let image = Image::new(defaults);
        let now = Time(1);
        let controller = Controller::new(now, Settings::new(NodeId(1)), &image);
        let mut world = World { image, controller, now, index: 0 };
        for node in 1..=gateways {
            world.register(node, node as u8, 0).unwrap();
            world.beat(node, false).unwrap();
        }
        world
    }

    fn apply<T>(&mut self, decision: Decision<T>) -> T {
        self.index += 1;
        for record in decision.records {
            self.image.apply(&record, self.index);
        }
        decision.answer
    }

    fn register(&mut self, node: i32, directory: u8, incarnation: u8) -> Result<(), ErrorCode> {
        let asked = Registration {
            node: NodeId(node),
            cluster_id: None,
            directory: [directory; 16],
            incarnation: [incarnation; 16],
            rack: None,
            kafka: (format!("gw{node}"), 9092),
            peer: (format!("gw{node}"), 9093),
            holds_partitions: true,
            intact: true,
        };
        let decision = self.controller.register(self.now, &self.image, &asked);
        self.apply(decision).map_err(|refusal| refusal.code)
    }

    fn epoch(&self, node: i32) -> BrokerEpoch {
        self.image.broker(NodeId(node)).unwrap().epoch
    }

    fn beat(&mut self, node: i32, stopping: bool) -> Result<Standing, ErrorCode> {
        let (node, epoch) = (NodeId(node), self.epoch(node));
        let heard = Heartbeat { node, epoch, applied: self.index, stopping };
        let decision = self.controller.heartbeat(self.now, &self.image, &heard);
        self.apply(decision)
    }

    /// Time passes in which only these are heard.
    fn pass_ms(&mut self, ms: u64, heard: &[i32]) {
        for _ in 0..ms / 250 {
            self.now = self.now.plus_ms(250);
            for node in heard {
                self.beat(*node, false).unwrap();
            }
            let records = self.controller.tick(self.now, &self.image);
            self.apply(Decision { records, answer: () });
        }
    }

    fn create(&mut self, replicas: &[i32], min_insync: &str) -> CreatedTopic {
        let new = NewTopic {
            name: "t".into(),
            partitions: -1,
            replication_factor: -1,
            assignments: Vec::from([(0, replicas.to_vec())]),
            configs: Vec::from([("min.insync.replicas".into(), Some(min_insync.into()))]),
        };
        let defaults = TopicDefaults { partitions: 1, replication_factor: None };
        let mut rng = Rng::new(1);
        let image = self.image.clone();
        let mut plan = Plan::new(&image, NodeId(1), &mut rng);
        let created = plan.create_topic(&new, defaults).unwrap();
        let records = plan.into_records();
        self.apply(Decision { records, answer: created })
    }

    fn number(&self) -> PartitionNumber {
        self.image.topic("t").unwrap().partition(0).unwrap()
    }

    fn state(&self) -> &PartitionState {
        self.image.state(self.number()).unwrap()
    }

    /// Leader, in-sync set and eligible leader replicas.
    fn check(&self, leader: i32, isr: &[i32], elr: &[i32]) {
        let nodes = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
        let state = self.state();
        let led_by = state.leader.map_or(-1, |leader| leader.0);
        let found = (led_by, nodes(&state.isr), nodes(&state.elr));
        assert_eq!(found, (leader, isr.to_vec(), elr.to_vec()));
    }

    /// The leader wishes for this in-sync set.
    fn wish(&mut self, isr: &[i32]) -> Result<(), ErrorCode> {
        let state = self.state();
        let leader = state.leader.unwrap();
        let wish = IsrChange {
            number: self.number(),
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
            isr: isr.iter().map(|node| (NodeId(*node), Some(self.epoch(*node)))).collect(),
        };
        self.ask(leader.0, wish)
    }

    fn ask(&mut self, leader: i32, wish: IsrChange) -> Result<(), ErrorCode> {
        let from = (NodeId(leader), self.epoch(leader));
        let decision = self.controller.alter_partitions(self.now, &self.image, from, &[wish]);
        self.apply(decision).map(|answers| answers[0])?
    }

    fn reassign(&mut self, replicas: Option<&[i32]>) -> Result<(), ErrorCode> {
        let replicas = replicas.map(<[i32]>::to_vec);
        let wish = Reassignment { topic: "t".into(), index: 0, replicas };
        let decision = self.controller.reassign(&self.image, &[wish], true);
        let mut answers = self.apply(decision);
        answers.remove(0).map_err(|refusal| refusal.code)
    }

    fn elect(&mut self, election: Election) -> Result<(), ErrorCode> {
        let asked = [(String::from("t"), 0)];
        let decision = self.controller.elect(&self.image, election, Some(&asked));
        let mut answers = self.apply(decision);
        answers.remove(0).2.map_err(|refusal| refusal.code)
    }
}

#[test]
fn a_topic_for_which_nobody_chose_replicas_outlives_any_minority() {
    let minimum = |gateways, factor, configured: Option<&str>| {
        let configs = configured.map(|value| ("min.insync.replicas".into(), value.into()));
        let mut world = World::with(gateways, configs.into_iter().collect());
        let new = NewTopic {
            name: "t".into(),
            partitions: 1,
            replication_factor: factor,
            ..NewTopic::default()
        };
        let defaults = TopicDefaults { partitions: 1, replication_factor: None };
        let (mut rng, image) = (Rng::new(1), world.image.clone());
        let mut plan = Plan::new(&image, NodeId(1), &mut rng);
        plan.create_topic(&new, defaults).unwrap();
        world.apply(Decision { records: plan.into_records(), answer: () });
        world.image.topic("t").unwrap().policy.min_insync_replicas
    };
    assert_eq!([1, 2, 3, 5].map(|gateways| minimum(gateways, -1, None)), [1, 1, 2, 2]);
    assert_eq!(minimum(3, 3, None), 1, "chosen, as with Kafka");
    assert_eq!(minimum(3, -1, Some("1")), 1, "configured");
}

#[test]
fn a_living_gateway_keeps_its_node_id() {
    let mut world = World::new(2);
    assert_eq!(world.register(2, 9, 1), Err(ErrorCode::DUPLICATE_BROKER_REGISTRATION));
    assert_eq!(world.register(3, 2, 1), Err(ErrorCode::INVALID_REGISTRATION));
    let epoch = world.epoch(2);
    world.pass_ms(4_000, &[1]);
    assert_eq!(world.register(2, 9, 1), Ok(()));
    assert!(world.epoch(2) > epoch);
}

#[test]
fn a_restarted_gateway_is_taken_back_at_once_by_a_controller_that_has_not_heard_it() {
    let mut world = World::new(2);
    world.controller = Controller::new(world.now, Settings::new(NodeId(1)), &world.image);
    assert_eq!(world.register(2, 9, 1), Err(ErrorCode::DUPLICATE_BROKER_REGISTRATION));
    assert_eq!(world.register(2, 2, 1), Ok(()));
}

#[test]
fn a_silent_leader_is_fenced_after_its_session_and_another_leads() {
    let mut world = World::new(3);
    world.create(&[1, 2, 3], "2");
    world.pass_ms(1_250, &[2, 3]);
    world.check(1, &[1, 2, 3], &[]);
    world.pass_ms(250, &[2, 3]);
    world.check(2, &[2, 3], &[]);
    assert_eq!(world.state().leader_epoch, 1);
    assert_eq!(world.image.leader(world.number()), Some(NodeId(2)));
}

#[test]
fn a_new_controller_and_one_that_slept_give_everybody_a_full_session() {
    let mut world = World::new(3);
    world.create(&[1, 2, 3], "1");
    world.pass_ms(1_000, &[]);
    world.controller = Controller::new(world.now, Settings::new(NodeId(2)), &world.image);
    world.pass_ms(1_000, &[]);
    world.check(1, &[1, 2, 3], &[]);
    world.now = world.now.plus_ms(60_000);
    world.pass_ms(1_000, &[]);
    world.check(1, &[1, 2, 3], &[]);
    world.pass_ms(750, &[2, 3]);
    world.check(2, &[2, 3], &[]);
}

#[test]
fn whoever_was_silent_before_a_new_controller_came_gets_no_full_session() {
    let mut world = World::new(3);
    world.create(&[1, 2, 3], "1");
    world.pass_ms(1_000, &[]);
    world.controller = Controller::new(world.now, Settings::new(NodeId(2)), &world.image);
    world.controller.heard_before(world.now, NodeId(1), Time(1));
    world.pass_ms(250, &[2, 3]);
    world.check(1, &[1, 2, 3], &[]);
    world.pass_ms(250, &[2, 3]);
    world.check(2, &[2, 3], &[]);
}

#[test]
fn a_gateway_whose_connection_has_ended_is_fenced_sooner_and_may_come_back_at_once() {
    let mut world = World::new(3);
    world.create(&[1, 2, 3], "1");
    world.controller.disconnected(world.now, NodeId(1));
    world.pass_ms(500, &[2, 3]);
    world.check(1, &[1, 2, 3], &[]);
    world.controller.heard(world.now, NodeId(1));
    world.pass_ms(1_250, &[2, 3]);
    world.check(1, &[1, 2, 3], &[]);
    world.controller.heard(world.now, NodeId(1));
    world.controller.disconnected(world.now, NodeId(1));
    world.pass_ms(750, &[2, 3]);
    world.check(2, &[2, 3], &[]);
    assert_eq!(world.register(1, 1, 1), Ok(()));
}

#[test]
fn who_left_below_the_minimum_stays_eligible_and_who_left_above_it_does_not() {
    let mut world = World::new(3);
    world.create(&[1, 2, 3], "2");
    world.pass_ms(4_000, &[1, 2]);
    world.check(1, &[1, 2], &[]);
    world.pass_ms(4_000, &[1]);
    world.check(1, &[1], &[2]);
    world.pass_ms(4_000, &[]);
    world.check(-1, &[], &[1, 2]);
    world.register(3, 3, 1).unwrap();
    world.beat(3, false).unwrap();
    world.check(-1, &[], &[1, 2]);
    world.register(2, 2, 1).unwrap();
    world.beat(2, false).unwrap();
    world.check(2, &[2], &[1]);
    assert_eq!(world.wish(&[2, 3]), Ok(()));
    world.check(2, &[2, 3], &[]);
}

#[test]
fn a_wiped_gateway_is_neither_in_sync_nor_eligible() {
    let mut world = World::new(2);
    world.create(&[1, 2], "2");
    world.pass_ms(4_000, &[1]);
    world.check(1, &[1], &[2]);
    world.register(2, 7, 1).unwrap();
    world.check(1, &[1], &[]);
    world.pass_ms(4_000, &[2]);
    world.check(-1, &[], &[1]);
    assert_eq!(world.elect(Election::Preferred), Err(ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE));
    assert_eq!(world.elect(Election::Unclean), Ok(()));
    world.check(2, &[2], &[]);
}

#[test]
fn the_only_replica_leads_on_after_a_restart_without_another_epoch() {
    let mut world = World::new(1);
    world.create(&[1], "1");
    let before = world.state().clone();
    world.register(1, 1, 1).unwrap();
    assert_eq!(world.image.leader(world.number()), None);
    world.beat(1, false).unwrap();
    assert_eq!((world.image.leader(world.number()), world.state()), (Some(NodeId(1)), &before));
}

#[test]
fn wishes_of_other_epochs_and_strangers_are_refused() {
    let mut world = World::new(3);
    world.create(&[1, 2], "1");
    let good = IsrChange {
        number: world.number(),
        leader_epoch: 0,
        partition_epoch: 0,
        isr: Vec::from([(NodeId(1), None), (NodeId(2), Some(world.epoch(2)))]),
    };
    let mut check = |leader, wish: IsrChange, code| assert_eq!(world.ask(leader, wish), Err(code));
    check(2, good.clone(), ErrorCode::INVALID_REQUEST);
    check(1, IsrChange { leader_epoch: -1, ..good.clone() }, ErrorCode::FENCED_LEADER_EPOCH);
    check(1, IsrChange { leader_epoch: 1, ..good.clone() }, ErrorCode::NOT_CONTROLLER);
    check(1, IsrChange { partition_epoch: -1, ..good.clone() }, ErrorCode::INVALID_UPDATE_VERSION);
    let of = |nodes: &[(i32, u64)]| IsrChange {
        isr: nodes.iter().map(|(node, at)| (NodeId(*node), Some(BrokerEpoch(*at)))).collect(),
        ..good.clone()
    };
    let (one, two, three) = (world.epoch(1).0, world.epoch(2).0, world.epoch(3).0);
    let mut check = |nodes: &[(i32, u64)], code| assert_eq!(world.ask(1, of(nodes)), Err(code));
    check(&[(2, two)], ErrorCode::INVALID_REQUEST);
    check(&[(1, one), (3, three)], ErrorCode::INVALID_REQUEST);
    check(&[(1, one), (1, one)], ErrorCode::INVALID_REQUEST);
    check(&[(1, one), (2, two - 1)], ErrorCode::INELIGIBLE_REPLICA);
    assert_eq!(world.ask(1, good), Ok(()));
    assert_eq!(world.state().partition_epoch, 1, "a granted wish is a new partition epoch");
}

#[test]
fn a_preferred_leader_that_is_in_sync_again_leads_again() {
    let mut world = World::new(2);
    world.create(&[1, 2], "1");
    world.pass_ms(4_000, &[2]);
    world.check(2, &[2], &[]);
    world.register(1, 1, 1).unwrap();
    world.pass_ms(12_000, &[1, 2]);
    world.check(2, &[2], &[]);
    world.wish(&[2, 1]).unwrap();
    world.pass_ms(12_000, &[1, 2]);
    world.check(1, &[2, 1], &[]);
    assert_eq!(world.elect(Election::Preferred), Err(ErrorCode::ELECTION_NOT_NEEDED));
}

#[test]
fn a_gateway_that_stops_gives_its_leaderships_away_first() {
    let mut world = World::new(2);
    world.create(&[1, 2], "1");
    let standing = world.beat(1, true).unwrap();
    assert_eq!((standing.draining, standing.may_stop), (true, false));
    world.check(2, &[1, 2], &[]);
    let standing = world.beat(1, true).unwrap();
    assert_eq!((standing.fenced, standing.may_stop), (true, true));
    world.check(2, &[2], &[]);
    assert!(world.beat(2, true).is_ok() && world.beat(2, true).unwrap().may_stop);
    world.check(-1, &[], &[2]);
}

#[test]
fn a_reassignment_ends_when_all_that_it_adds_are_in_sync() {
    let mut world = World::new(4);
    world.create(&[1, 2], "1");
    assert_eq!(world.reassign(None), Err(ErrorCode::NO_REASSIGNMENT_IN_PROGRESS));
    assert_eq!(world.reassign(Some(&[9])), Err(ErrorCode::INVALID_REPLICA_ASSIGNMENT));
    world.reassign(Some(&[3, 4])).unwrap();
    assert_eq!(world.image.reassignments().count(), 1);
    assert_eq!(world.state().replicas, [3, 4, 1, 2].map(NodeId));
    world.wish(&[1, 2, 3]).unwrap();
    world.check(1, &[1, 2, 3], &[]);
    world.wish(&[1, 2, 3, 4]).unwrap();
    world.check(3, &[3, 4], &[]);
    assert_eq!(world.state().replicas, [3, 4].map(NodeId));
    assert_eq!(world.image.reassignments().count(), 0);
    world.reassign(Some(&[1])).unwrap();
    world.reassign(None).unwrap();
    assert_eq!(world.state().replicas, [3, 4].map(NodeId));
    world.check(3, &[3, 4], &[]);
}

#[test]
fn only_a_dead_gateway_that_nobody_needs_is_removed() {
    let mut world = World::new(3);
    world.create(&[2], "1");
    let remove = |world: &mut World, node| {
        let decision = world.controller.remove(world.now, &world.image, NodeId(node));
        world.apply(decision).map_err(|refusal| refusal.code)
    };
    assert_eq!(remove(&mut world, 7), Err(ErrorCode::BROKER_ID_NOT_REGISTERED));
    assert_eq!(remove(&mut world, 3), Err(ErrorCode::INVALID_REQUEST));
    world.pass_ms(4_000, &[1]);
    assert_eq!(remove(&mut world, 2), Err(ErrorCode::INVALID_REQUEST));
    assert_eq!(remove(&mut world, 3), Ok(()));
    assert!(world.image.broker(NodeId(3)).is_none());
}

#[test]
fn a_gateway_that_lost_a_part_leads_no_more_and_is_out_of_sync() {
    let mut world = World::new(2);
    world.create(&[1, 2], "2");
    let lost = |world: &World, node: i32| {
        let asked = (NodeId(node), world.epoch(node));
        world.controller.lost(&world.image, asked, world.number())
    };
    world.apply(lost(&world, 1)).unwrap();
    world.check(2, &[2], &[]);
    // Nobody else has all of it.
    world.apply(lost(&world, 2)).unwrap();
    world.check(2, &[2], &[]);
    let stale = (NodeId(2), BrokerEpoch(0));
    let decided = world.controller.lost(&world.image, stale, world.number());
    assert_eq!(decided.answer, Err(ErrorCode::STALE_BROKER_EPOCH));
}
