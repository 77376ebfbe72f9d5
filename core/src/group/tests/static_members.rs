//! Facts about members with a group instance id (KIP-345).

use super::*;

impl World {
    fn static_member(&mut self, version: i16, id: &str, instance: &str) -> Ticket {
        self.ask_join(version, join_request(id, Some(instance)))
    }

    /// A stable group of two static members, the leader first.
    fn stable_static_group(&mut self) -> [JoinGroupResponse; 2] {
        let asked = ["pump-1", "pump-2"].map(|instance| self.static_member(9, "", instance));
        self.pass(1_000);
        let joined = asked.map(|ticket| self.joined(ticket));
        assert!(joined[0].member_id.starts_with("pump-1-"));
        self.sync_all(&joined);
        joined
    }
}

#[test]
fn a_static_member_that_comes_back_gets_its_assignment_without_a_rebalance() {
    let mut world = World::new();
    let members = world.stable_static_group();
    world.pass(5_000);
    world.flushes_itself = false;
    let back = world.static_member(9, "", "pump-2");
    assert!(!world.is_answered(back), "its new id is not on flash yet");
    world.flush();
    let back = world.joined(back);
    assert_eq!((back.error_code, back.generation_id), (ErrorCode::NONE, 1));
    assert_ne!(back.member_id, members[1].member_id);
    assert_eq!(world.state(), State::Stable);
    assert_eq!(world.heartbeat(&members[0], Some("pump-1")), ErrorCode::NONE);
    let sync = world.ask_sync(&back, &[]);
    assert_eq!(world.synced(sync), Ok("1".to_string()));
    // Also after a restart it is known by its new id.
    world.restart();
    assert_eq!(world.heartbeat(&back, Some("pump-2")), ErrorCode::NONE);
}

#[test]
fn who_has_the_old_member_id_of_a_static_member_is_fenced() {
    let mut world = World::new();
    let members = world.stable_static_group();
    let back = world.static_member(9, "", "pump-2");
    assert_eq!(world.joined(back).error_code, ErrorCode::NONE);
    let fenced = ErrorCode::FENCED_INSTANCE_ID;
    assert_eq!(world.heartbeat(&members[1], Some("pump-2")), fenced);
    let rejoin = world.static_member(9, &members[1].member_id, "pump-2");
    assert_eq!(world.joined(rejoin).error_code, fenced);
    assert_eq!(world.leave(&[(&members[1].member_id, Some("pump-2"))]), [fenced]);
    assert_eq!(world.heartbeat(&members[1], None), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(world.heartbeat(&members[1], Some("pump-9")), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn a_static_leader_that_comes_back_is_told_to_skip_the_assignment() {
    let mut world = World::new();
    let members = world.stable_static_group();
    let back = world.static_member(9, "", "pump-1");
    let back = world.joined(back);
    assert!(back.skip_assignment && back.leader == back.member_id);
    assert_eq!((back.members.len(), back.generation_id), (2, 1));
    // An old client would assign anew if it were told that it leads.
    let old = world.static_member(5, "", "pump-1");
    let old = world.joined(old);
    assert!(!old.skip_assignment && old.leader == back.member_id && old.members.is_empty());
    assert_eq!(world.heartbeat(&members[1], Some("pump-2")), ErrorCode::NONE);
}

#[test]
fn a_static_member_that_is_waiting_is_fenced_by_its_successor() {
    let mut world = World::new();
    let first = world.static_member(9, "", "pump-1");
    let second = world.static_member(9, "", "pump-1");
    assert_eq!(world.joined(first).error_code, ErrorCode::FENCED_INSTANCE_ID);
    world.pass(1_000);
    let second = world.joined(second);
    assert_eq!((second.generation_id, second.members.len()), (1, 1));
}

#[test]
fn a_rebalance_waits_for_static_members_and_keeps_those_that_are_away() {
    let mut world = World::new();
    let members = world.stable_static_group();
    let leader = world.static_member(9, &members[0].member_id, "pump-1");
    for _ in 0..13 {
        world.heartbeat(&members[1], Some("pump-2"));
        world.pass(5_000);
    }
    let leader = world.joined(leader);
    assert_eq!((leader.generation_id, leader.members.len()), (2, 2));
}

#[test]
fn a_static_member_that_comes_back_during_assignment_rebalances() {
    let mut world = World::new();
    let members = world.stable_static_group();
    let asked = [(0, "pump-1"), (1, "pump-2")]
        .map(|(i, instance)| world.static_member(9, &members[i].member_id, instance));
    let joined = asked.map(|ticket| world.joined(ticket));
    let sync = world.ask_sync(&joined[0], &[]);
    assert_eq!(world.state(), State::Stable);
    assert_eq!(world.synced(sync), Ok(String::new()));
    let leader = world.static_member(9, &joined[0].member_id, "pump-1");
    let other = world.static_member(9, &joined[1].member_id, "pump-2");
    let joined = [world.joined(leader), world.joined(other)];
    let follower = world.ask_sync(&joined[1], &[]);
    let back = world.static_member(9, "", "pump-1");
    assert_eq!(world.synced(follower), Err(ErrorCode::REBALANCE_IN_PROGRESS));
    assert!(!world.is_answered(back));
    let follower = world.static_member(9, &joined[1].member_id, "pump-2");
    assert_eq!(world.joined(back).generation_id, 4);
    assert_eq!(world.joined(follower).generation_id, 4);
}

#[test]
fn tools_remove_static_members_by_their_instance_id_alone() {
    let mut world = World::new();
    world.stable_static_group();
    let codes = world.leave(&[("", Some("pump-2")), ("", Some("pump-9")), ("", None)]);
    let unknown = ErrorCode::UNKNOWN_MEMBER_ID;
    assert_eq!(codes, [ErrorCode::NONE, unknown, unknown]);
    assert_eq!(world.view().unwrap().members, 1);
}

#[test]
fn a_static_member_whose_new_id_cannot_be_written_tries_again() {
    let mut world = World::new();
    world.stable_static_group();
    world.flushes_itself = false;
    let back = world.static_member(9, "", "pump-2");
    let (token, _) = world.unflushed.pop_front().unwrap();
    world.groups.refused(world.now, token, ErrorCode::KAFKA_STORAGE_ERROR);
    assert_eq!(world.joined(back).error_code, ErrorCode::NOT_COORDINATOR);
    world.flushes_itself = true;
    let back = world.static_member(9, "", "pump-2");
    assert_eq!(world.joined(back).error_code, ErrorCode::NONE);
}
