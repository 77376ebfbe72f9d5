//! Facts about dynamic members: generations, time-outs, errors.

use super::*;

#[test]
fn a_first_join_gets_a_member_id_and_old_clients_join_at_once() {
    let mut world = World::new();
    let ticket = world.member("");
    let response = world.joined(ticket);
    assert_eq!(response.error_code, ErrorCode::MEMBER_ID_REQUIRED);
    assert!(response.member_id.starts_with("app-"));
    assert_eq!(response.member_id.len(), "app-".len() + 36);
    let old = world.ask_join(3, join_request("", None));
    assert!(!world.is_answered(old));
    world.pass(200);
    assert_eq!(world.joined(old).generation_id, 1);
    let known = world.member(&response.member_id);
    world.pass(60_000);
    assert_eq!(world.joined(known).generation_id, 2);
}

#[test]
fn members_that_start_together_share_the_first_generation_and_only_the_leader_is_told_them() {
    let mut world = World::new();
    let (_, first) = world.new_member();
    world.pass(150);
    let (_, second) = world.new_member();
    world.pass(199);
    assert!(!world.is_answered(first));
    world.pass(60);
    let (first, second) = (world.joined(first), world.joined(second));
    assert_eq!((first.generation_id, second.generation_id), (1, 1));
    assert_eq!(first.leader, first.member_id);
    assert_eq!(second.leader, first.member_id);
    assert_eq!((first.members.len(), second.members.len()), (2, 0));
    assert_eq!(first.protocol_name.as_deref(), Some("range"));
}

#[test]
fn assignments_are_told_when_the_leaders_is_on_flash_and_not_before() {
    let mut world = World::new();
    let asked = [world.new_member().1, world.new_member().1];
    world.pass(1_000);
    let joined = asked.map(|ticket| world.joined(ticket));
    world.flushes_itself = false;
    let follower = world.ask_sync(&joined[1], &[]);
    let ids = [&*joined[0].member_id, &*joined[1].member_id];
    let leader = world.ask_sync(&joined[0], &[(ids[0], "a"), (ids[1], "b"), ("stranger", "c")]);
    assert!(!world.is_answered(leader) && !world.is_answered(follower));
    assert_eq!(world.state(), State::CompletingRebalance);
    world.flush();
    assert_eq!(world.synced(leader), Ok("a".to_string()));
    assert_eq!(world.synced(follower), Ok("b".to_string()));
    assert_eq!(world.state(), State::Stable);
    let again = world.ask_sync(&joined[1], &[]);
    assert_eq!(world.synced(again), Ok("b".to_string()));
}

#[test]
fn an_assignment_that_cannot_be_written_sends_everybody_back_to_join() {
    let mut world = World::new();
    let (_, ticket) = world.new_member();
    world.pass(1_000);
    let joined = world.joined(ticket);
    world.flushes_itself = false;
    let sync = world.ask_sync(&joined, &[(&joined.member_id, "a")]);
    let (token, _) = world.unflushed.pop_front().unwrap();
    world.groups.refused(world.now, token, ErrorCode::KAFKA_STORAGE_ERROR);
    assert_eq!(world.synced(sync), Err(ErrorCode::NOT_COORDINATOR));
    assert_eq!(world.heartbeat(&joined, None), ErrorCode::REBALANCE_IN_PROGRESS);
    let ticket = world.member(&joined.member_id);
    assert_eq!(world.joined(ticket).generation_id, 2);
}

#[test]
fn a_new_member_makes_the_others_join_again_and_whoever_does_not_is_removed() {
    let mut world = World::new();
    let old = world.stable_group(2);
    let (_, newcomer) = world.new_member();
    assert_eq!(world.heartbeat(&old[0], None), ErrorCode::REBALANCE_IN_PROGRESS);
    let leader = world.member(&old[0].member_id);
    assert!(!world.is_answered(newcomer));
    // The other one only sends heartbeats, so that its session goes on.
    for _ in 0..12 {
        world.pass(5_000);
        world.heartbeat(&old[1], None);
    }
    assert_eq!(world.joined(newcomer).generation_id, 2);
    let leader = world.joined(leader);
    assert_eq!((leader.generation_id, leader.members.len()), (2, 2));
    assert_eq!(world.heartbeat(&old[1], None), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(world.heartbeat(&old[0], None), ErrorCode::ILLEGAL_GENERATION);
}

#[test]
fn a_member_that_is_silent_for_its_session_timeout_is_removed() {
    let mut world = World::new();
    let members = world.stable_group(2);
    world.pass(9_000);
    assert_eq!(world.heartbeat(&members[0], None), ErrorCode::NONE);
    world.pass(2_000);
    assert_eq!(world.state(), State::PreparingRebalance);
    assert_eq!(world.heartbeat(&members[1], None), ErrorCode::UNKNOWN_MEMBER_ID);
    let ticket = world.member(&members[0].member_id);
    assert_eq!(world.joined(ticket).generation_id, 2);
}

#[test]
fn a_member_id_that_is_never_used_is_forgotten_and_so_is_a_group_of_nothing_else() {
    let mut world = World::new();
    let ticket = world.member("");
    let id = world.joined(ticket).member_id;
    world.pass(10_000);
    assert!(world.view().is_none());
    let ticket = world.member(&id);
    assert_eq!(world.joined(ticket).error_code, ErrorCode::UNKNOWN_MEMBER_ID);
    assert!(world.log.is_empty());
}

#[test]
fn a_member_that_does_not_sync_in_time_is_removed() {
    let mut world = World::new();
    let asked = [world.new_member().1, world.new_member().1];
    world.pass(1_000);
    let joined = asked.map(|ticket| world.joined(ticket));
    let ids = [&*joined[0].member_id, &*joined[1].member_id];
    let sync = world.ask_sync(&joined[0], &[(ids[0], "a"), (ids[1], "b")]);
    assert_eq!(world.synced(sync), Ok("a".to_string()));
    for _ in 0..12 {
        world.pass(5_000);
        world.heartbeat(&joined[0], None);
        world.heartbeat(&joined[1], None);
    }
    assert_eq!(world.heartbeat(&joined[1], None), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(world.heartbeat(&joined[0], None), ErrorCode::REBALANCE_IN_PROGRESS);
}

#[test]
fn the_leader_may_rebalance_at_will_and_a_follower_only_with_new_metadata() {
    let mut world = World::new();
    let members = world.stable_group(2);
    let same = world.member(&members[1].member_id);
    assert_eq!(world.joined(same).generation_id, 1);
    let mut request = join_request(&members[1].member_id, None);
    request.protocols.truncate(1);
    let changed = world.ask_join(5, request);
    assert!(!world.is_answered(changed));
    let leader = world.member(&members[0].member_id);
    assert_eq!((world.joined(changed).generation_id, world.joined(leader).generation_id), (2, 2));
    let mut world = World::new();
    let members = world.stable_group(1);
    let leader = world.member(&members[0].member_id);
    assert_eq!(world.joined(leader).generation_id, 2);
}

#[test]
fn the_protocol_is_one_that_all_offer_and_most_prefer() {
    let mut world = World::new();
    let mut ask = |protocols: &[&str]| {
        let mut request = join_request("", None);
        request.protocols = protocols.iter().map(|name| protocol(name)).collect();
        world.ask_join(3, request)
    };
    let asked = [ask(&["range", "sticky"]), ask(&["sticky", "range"]), ask(&["sticky", "range"])];
    let stranger = ask(&["roundrobin"]);
    let nobody = ask(&[]);
    for ticket in [stranger, nobody] {
        let code = world.joined(ticket).error_code;
        assert_eq!(code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    }
    world.pass(1_000);
    for ticket in asked {
        assert_eq!(world.joined(ticket).protocol_name.as_deref(), Some("sticky"));
    }
}

#[test]
fn what_may_not_join_is_told_why() {
    let mut world = World::new();
    let mut check = |change: fn(&mut JoinGroupRequest), code: ErrorCode| {
        let mut request = join_request("", None);
        change(&mut request);
        let ticket = world.ask_join(9, request);
        assert_eq!(world.joined(ticket).error_code, code);
        assert!(world.view().is_none(), "{code} left a group");
    };
    check(|r| r.group_id.clear(), ErrorCode::INVALID_GROUP_ID);
    check(|r| r.session_timeout_ms = 5_999, ErrorCode::INVALID_SESSION_TIMEOUT);
    check(|r| r.session_timeout_ms = 1_800_001, ErrorCode::INVALID_SESSION_TIMEOUT);
    check(|r| r.member_id = "made-up".into(), ErrorCode::UNKNOWN_MEMBER_ID);
    check(|r| r.protocol_type.clear(), ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    check(|r| r.protocols[0].metadata = vec![0; 300_000].into(), ErrorCode::INVALID_REQUEST);
}

#[test]
fn a_group_has_no_more_members_than_its_limit_and_a_node_no_more_groups() {
    let mut world = World::new();
    for _ in 0..crate::limits::GROUP_MEMBERS_MAX {
        world.ask_join(3, join_request("", None));
    }
    let ticket = world.ask_join(3, join_request("", None));
    assert_eq!(world.joined(ticket).error_code, ErrorCode::GROUP_MAX_SIZE_REACHED);
    let mut world = World::new();
    for group in 0..=crate::limits::GROUPS_MAX {
        let mut request = join_request("", None);
        request.group_id = group.to_string();
        let ticket = world.ask_join(5, request);
        let full = group == crate::limits::GROUPS_MAX;
        let code =
            if full { ErrorCode::COORDINATOR_NOT_AVAILABLE } else { ErrorCode::MEMBER_ID_REQUIRED };
        assert_eq!(world.joined(ticket).error_code, code);
    }
}

#[test]
fn what_members_bring_is_bounded_over_all_groups_and_free_again_when_they_leave() {
    let mut world = World::new();
    let mut full = 0;
    let mut id = String::new();
    for group in 0..80 {
        let mut request = join_request("", None);
        request.group_id = group.to_string();
        request.protocols[0].metadata = vec![0; 250_000].into();
        let ticket = world.ask_join(3, request);
        if world.is_answered(ticket) {
            assert_eq!(world.joined(ticket).error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
            full += 1;
        } else if group == 0 {
            world.pass(300);
            id = world.joined(ticket).member_id;
        }
    }
    assert_eq!(full, 80 - crate::limits::GROUPS_BYTES_MAX / 250_400);
    // Who is in may join again, since it brings nothing new.
    let mut request = join_request(&id, None);
    request.group_id = "0".into();
    request.protocols[0].metadata = vec![0; 250_000].into();
    let ticket = world.ask_join(3, request);
    assert_eq!(world.joined(ticket).error_code, ErrorCode::NONE);
    world.pass(400_000);
    assert!(world.groups.groups.values().all(|group| group.members_bytes == 0));
}

#[test]
fn the_last_member_that_leaves_leaves_an_empty_group_that_survives() {
    let mut world = World::new();
    let members = world.stable_group(2);
    let ids = [&*members[0].member_id, &*members[1].member_id];
    assert_eq!(
        world.leave(&[(ids[0], None), ("stranger", None)]),
        [ErrorCode::NONE, ErrorCode::UNKNOWN_MEMBER_ID]
    );
    assert_eq!(world.state(), State::PreparingRebalance);
    world.leave(&[(ids[1], None)]);
    world.restart();
    let view = world.view().unwrap();
    assert_eq!((view.state, view.members, view.generation), (State::Empty, 0, 2));
    let ticket = world.groups.leave(
        world.now,
        1,
        LeaveGroupRequest { group_id: GROUP.into(), member_id: ids[0].into(), members: Vec::new() },
    );
    assert_eq!(ticket.error_code, ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn members_keep_their_generation_and_assignment_over_a_restart() {
    let mut world = World::new();
    let members = world.stable_group(3);
    world.restart();
    for (place, member) in members.iter().enumerate() {
        assert_eq!(world.heartbeat(member, None), ErrorCode::NONE);
        let sync = world.ask_sync(member, &[]);
        assert_eq!(world.synced(sync), Ok(place.to_string()));
    }
    // Their sessions began anew, and end.
    world.pass(11_000);
    assert_eq!(world.view().unwrap().members, 0);
}

#[test]
fn a_question_that_is_asked_again_answers_the_old_one() {
    let mut world = World::new();
    let members = world.stable_group(2);
    let first = world.member(&members[0].member_id);
    let second = world.member(&members[0].member_id);
    assert_eq!(world.joined(first).error_code, ErrorCode::REBALANCE_IN_PROGRESS);
    let other = world.member(&members[1].member_id);
    let joined = [world.joined(second), world.joined(other)];
    let first = world.ask_sync(&joined[1], &[]);
    let second = world.ask_sync(&joined[1], &[]);
    assert_eq!(world.synced(first), Err(ErrorCode::REBALANCE_IN_PROGRESS));
    assert!(!world.is_answered(second));
}

#[test]
fn tools_see_groups_by_state_and_what_members_were_assigned() {
    let mut world = World::new();
    let members = world.stable_group(2);
    let list = |state: &str, kind: &str| {
        let filter = |value: &str| if value.is_empty() { vec![] } else { vec![value.into()] };
        let request =
            ListGroupsRequest { states_filter: filter(state), types_filter: filter(kind) };
        world.groups.list(&request).groups.len()
    };
    assert_eq!((list("", ""), list("stable", "CLASSIC"), list("Empty", "")), (1, 1, 0));
    assert_eq!(list("", "consumer"), 0);
    let request = DescribeGroupsRequest {
        groups: vec![GROUP.into(), "nobody".into()],
        include_authorized_operations: false,
    };
    let described = world.groups.describe(6, &request).groups;
    assert_eq!(described[0].group_state, "Stable");
    assert_eq!((&*described[0].protocol_type, &*described[0].protocol_data), ("consumer", "range"));
    let leader = described[0].members.iter().find(|m| m.member_id == members[0].member_id);
    assert_eq!(leader.unwrap().member_assignment, Bytes::from("0"));
    assert_eq!(leader.unwrap().client_host, "/10.0.0.7");
    assert_eq!(described[1].error_code, ErrorCode::GROUP_ID_NOT_FOUND);
    let described = world.groups.describe(5, &request).groups;
    let dead = (described[1].error_code, &*described[1].group_state);
    assert_eq!(dead, (ErrorCode::NONE, "Dead"));
}
