//! What a single node does, and what it makes of bytes that no peer should send. The rest is the
//! matter of the simulation, `core/tests/sim/quorum`.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::quorum::message::{Chunk, Hello};

const ME: NodeId = NodeId(1);

fn directory(node: i32) -> Directory {
    Directory([node as u8; 16])
}

fn member(node: i32) -> Member {
    Member { node: NodeId(node), directory: directory(node) }
}

fn found() -> Found {
    Found { directory: directory(ME.0), first_index: 1, ..Found::default() }
}

fn payload(text: &'static str) -> Entry {
    Entry { term: 0, content: Content::Payload(Bytes::from_static(text.as_bytes())) }
}

fn formation(voters: &[i32]) -> Formation {
    let voters = voters.iter().map(|node| member(*node)).collect();
    Formation { cluster: ClusterId([9; 16]), voters, founder: None }
}

fn start(voters: &[i32], found: Found) -> Result<Quorum, Error> {
    let voters = voters.iter().map(|node| NodeId(*node)).collect();
    Quorum::start(Time(1_000), Settings::new(ME, voters, 7), found)
}

/// Lets the node speak, with a store that is durable at once, until it is silent or has ticked so
/// often.
fn run(quorum: &mut Quorum, ticks: usize) -> Vec<Output> {
    let mut said = Vec::new();
    for _ in 0..=ticks {
        while let Some(output) = quorum.poll() {
            if let Output::Persist { token, .. } = &output {
                quorum.durable(Time(2_000), *token);
            }
            said.push(output);
        }
        // A node by itself waits for nothing.
        let Some(deadline) = quorum.deadline() else { continue };
        quorum.tick(deadline);
    }
    said
}

fn committed(said: &[Output]) -> Vec<(u64, Bytes)> {
    let of = |output: &Output| match output {
        Output::Committed { position, payload } => Some((position.index, payload.clone())),
        _ => None,
    };
    said.iter().filter_map(of).collect()
}

#[test]
fn a_single_voter_leads_at_once_and_commits_what_is_durable() {
    let mut quorum = start(&[1], found()).unwrap();
    let said = run(&mut quorum, 2);
    assert!(said.contains(&Output::Leads { term: 1 }));
    let position = quorum.propose(Time(3_000), Bytes::from_static(b"a")).unwrap();
    let Some(Output::Persist { token, what }) = quorum.poll() else { panic!("it is persisted") };
    assert!(matches!(*what, Persist::Entries { from_index: 2, .. }));
    assert_eq!(quorum.poll(), None, "it is not committed before it is durable");
    quorum.durable(Time(4_000), token);
    let output = Output::Committed { position, payload: Bytes::from_static(b"a") };
    assert_eq!(quorum.poll(), Some(output));
}

#[test]
fn a_gateway_of_a_time_without_quorum_keeps_its_entries() {
    let entries = [payload("a"), payload("b")].to_vec();
    let mut quorum = start(&[1], Found { entries, ..found() }).unwrap();
    let said = run(&mut quorum, 2);
    let expected = [(1, Bytes::from_static(b"a")), (2, Bytes::from_static(b"b"))];
    assert_eq!(committed(&said), expected);
    assert_eq!(quorum.status(Time(5_000)).stage, Stage::Voter);
}

#[test]
fn a_store_that_cannot_be_whole_is_refused_by_name() {
    let ballot = |term| Some(Ballot { term, vote: None, formation: formation(&[1]) });
    let leader = |term| Entry { term, content: Content::Leader };
    let check = |found: Found, error: Error| {
        assert_eq!(start(&[1], found).map(|_| ()), Err(error));
    };
    let entries = [leader(3)].to_vec();
    check(Found { entries: entries.clone(), ..found() }, Error::BallotMissing);
    check(Found { entries, ballot: ballot(2), ..found() }, Error::BallotMissing);
    let entries = [leader(3), leader(2)].to_vec();
    check(Found { entries, ballot: ballot(3), ..found() }, Error::EntriesMissing);
    check(Found { first_index: 2, ballot: ballot(3), ..found() }, Error::EntriesMissing);
}

#[test]
fn a_vote_leaves_when_it_is_durable() {
    let ballot = Ballot { term: 4, vote: None, formation: formation(&[1, 2, 3]) };
    let mut quorum = start(&[1, 2, 3], Found { ballot: Some(ballot), ..found() }).unwrap();
    let body = Body::Vote { term: 5, last: Position { index: 1, term: 4 } };
    let message = Message { mark: ClusterId([9; 16]).into(), body };
    // At a start it is as if the leader had just been heard.
    quorum.handle(Time(1_500), NodeId(2), message.clone());
    assert_eq!(quorum.poll(), None);
    quorum.handle(Time(1_500).plus_ms(1_001), NodeId(2), message);
    let mut tokens = Vec::new();
    while let Some(output) = quorum.poll() {
        let Output::Persist { token, .. } = output else { panic!("{output:?} leaves too early") };
        tokens.push(token);
    }
    quorum.durable(Time(2_000), *tokens.last().unwrap());
    let body = Body::VoteReply { term: 5, granted: true };
    let message = Message { mark: directory(1).into(), body };
    assert_eq!(quorum.poll(), Some(Output::Send { to: NodeId(2), message }));
}

#[test]
fn a_store_that_was_forgotten_while_it_was_away_asks_to_be_taken_in() {
    // Its own log still names it as a voter.
    let ballot = Ballot { term: 4, vote: None, formation: formation(&[1, 2, 3]) };
    let mut quorum = start(&[1, 2, 3], Found { ballot: Some(ballot), ..found() }).unwrap();
    let mut asked = BTreeSet::new();
    for output in run(&mut quorum, 20) {
        if let Output::Send { to, message: Message { body: Body::Hello(_), .. } } = output {
            asked.insert(to);
        }
    }
    assert_eq!(asked, BTreeSet::from([NodeId(2), NodeId(3)]));
    // Whoever is recorded is not listed for that.
    let hello = |node: i32| {
        let voters = [1, 2, 3].map(NodeId).to_vec();
        let hello = Hello { directory: directory(node), voters, old: false, proposes: None };
        Message { mark: directory(node).into(), body: Body::Hello(hello) }
    };
    quorum.handle(Time(9_000), NodeId(2), hello(2));
    quorum.handle(Time(9_000), NodeId(4), hello(4));
    assert_eq!(quorum.status(Time(9_000)).applicants, [member(4)]);
}

#[test]
fn a_cleared_store_speaks_to_a_leader_that_is_not_configured() {
    let mut quorum = start(&[1, 2, 3], found()).unwrap();
    while quorum.poll().is_some() {}
    let body =
        Body::Append { term: 4, committed: 0, previous: Position::default(), entries: [].to_vec() };
    // It knows the store that was here before.
    quorum.handle(Time(1_500), NodeId(6), Message { mark: directory(7).into(), body });
    let Some(Output::Send { to, message }) = quorum.poll() else { panic!("it says nothing") };
    assert_eq!(to, NodeId(6));
    assert!(matches!(message.body, Body::Hello(hello) if hello.directory == directory(1)));
}

#[test]
fn two_stores_with_entries_of_their_own_form_nothing() {
    let entries = [payload("a")].to_vec();
    let mut quorum = start(&[1, 2], Found { entries, ..found() }).unwrap();
    for old in [true, false] {
        let hello = Hello {
            directory: directory(2),
            voters: [ME, NodeId(2)].to_vec(),
            old,
            proposes: None,
        };
        let mark = directory(2).into();
        quorum.handle(Time(2_000), NodeId(2), Message { mark, body: Body::Hello(hello) });
        let proposes = quorum.forming.hello().proposes;
        assert_eq!(proposes.is_some(), !old);
        let expected = if old { Obstacle::TwoFounders(ME, NodeId(2)) } else { Obstacle::Agreeing };
        assert_eq!(quorum.status(Time(2_000)).stage, Stage::Forming(expected));
    }
}

/// Every kind of message, as a leader or a follower of the cluster could send it.
fn messages() -> Vec<Message> {
    let last = Position { index: 3, term: 2 };
    let entries = [payload("a"), payload("b"), Entry { term: 2, content: Content::Leader }];
    let members = formation(&[1, 2, 3]).members();
    let changed = Entry { term: 2, content: Content::Members(members.clone()) };
    let hello =
        Hello { directory: directory(2), voters: [ME].to_vec(), old: false, proposes: None };
    let chunk = Chunk {
        term: 2,
        position: last,
        members,
        total: 5,
        at: 0,
        bytes: Bytes::from_static(b"hello"),
    };
    let start = Position::default();
    let bodies = [
        Body::Append { term: 2, committed: 2, previous: start, entries: entries.to_vec() },
        Body::Append { term: 2, committed: 3, previous: last, entries: [changed].to_vec() },
        Body::Hello(hello),
        Body::Formed { formation: formation(&[1, 2, 3]), member: true },
        Body::PreVote { round: 1, term: 2, last },
        Body::PreVoteReply { round: 1, term: 2, granted: true },
        Body::Vote { term: 3, last },
        Body::VoteReply { term: 3, granted: true },
        Body::AppendReply { term: 2, last },
        Body::Chunk(chunk),
        Body::ChunkReply { term: 2, position: last, received: 3 },
    ];
    let mark = |body: &Body| match body {
        Body::Append { .. } | Body::Chunk(_) => Mark::from(directory(1)),
        Body::Vote { .. } | Body::PreVote { .. } => Mark::from(ClusterId([9; 16])),
        _ => Mark::from(directory(2)),
    };
    bodies.into_iter().map(|body| Message { mark: mark(&body), body }).collect()
}

#[test]
fn messages_come_back_as_they_were_sent_and_no_prefix_is_one() {
    for message in messages() {
        let bytes = postcard::to_allocvec(&message).unwrap();
        assert_eq!(postcard::from_bytes::<Message>(&bytes).unwrap(), message);
        for end in 0..bytes.len() {
            assert!(postcard::from_bytes::<Message>(&bytes[..end]).is_err());
        }
    }
}

#[test]
fn no_message_makes_a_node_panic() {
    let ballot = Ballot { term: 2, vote: None, formation: formation(&[1, 2, 3]) };
    let mut rng = Rng::new(3);
    for _ in 0..300 {
        let founds = Found { ballot: Some(ballot.clone()), ..found() };
        let mut quorum = start(&[1, 2, 3], founds).unwrap();
        for step in 0..60 {
            let all = messages();
            let message = &all[rng.below(all.len() as u64) as usize];
            let mut bytes = postcard::to_allocvec(message).unwrap();
            // The mark stays, or nothing would come through.
            for _ in 0..rng.below(4) {
                let at = 8 + rng.below(bytes.len() as u64 - 8) as usize;
                bytes[at] = [rng.next_u64() as u8, bytes[at] ^ 1 << rng.below(8), 0xff, 0]
                    [rng.below(4) as usize];
            }
            let now = Time(1_000).plus_ms(100 * step);
            let from = NodeId(2 + rng.below(2) as i32);
            if let Ok(message) = postcard::from_bytes::<Message>(&bytes) {
                quorum.handle(now, from, message);
            }
            quorum.tick(now);
            while let Some(output) = quorum.poll() {
                if let Output::Persist { token, .. } = output {
                    quorum.durable(now, token);
                }
            }
        }
    }
}
