//! Bugs of the node's joints, each of which must be found, and by the right checker.
//!
//! They are played by the driver, at the node's borders: it changes what goes in and out. Those of
//! one partition's replication and of the quorum are proved where these are simulated alone.

use super::plan::{Bug, Plan};
use super::random;
use crate::consumer::{pretend_assigned, pretend_committed};
use crate::runner::{must_find, must_find_by};
use bytes::Bytes;
use weir_core::batch::{self, Header};
use weir_core::peer::Message;
use weir_core::quorum::Position;
use weir_core::replica::{Answer, Fetch};
use weir_core::types::{Offset, PartitionNumber};
use weir_core::wire::produce::ProduceRequest;
use weir_core::wire::quorum::RemoveRaftVoterResponse;
use weir_core::wire::topics::{CreatableTopicConfig, CreateTopicsRequest};
use weir_core::wire::{self, ApiKey, Message as _};

impl Bug {
    /// A client's request as the node gets it.
    pub fn request(self, frame: Bytes) -> Bytes {
        match self {
            Bug::AcknowledgeAtDurableEnd => with_one_ack(&frame).unwrap_or(frame),
            Bug::ElectAnybody => with_unclean_elections(&frame).unwrap_or(frame),
            _ => frame,
        }
    }

    /// The answer of a gateway that does not do what it was asked.
    pub fn pretends(self, frame: &Bytes) -> Option<Bytes> {
        match self {
            Bug::ForgetAssignments => pretend_assigned(frame),
            Bug::ForgetCommits => pretend_committed(frame),
            Bug::ForgetVotes => pretend_removed(frame),
            _ => None,
        }
    }

    /// What a gateway says to another, as that one hears it.
    pub fn message(self, message: Message) -> Message {
        match (self, message) {
            (Bug::UndurableEnds, Message::Fetch(bytes)) => {
                let (number, fetch): (PartitionNumber, Fetch) =
                    postcard::from_bytes(&bytes).expect("the node wrote it");
                let fetch = Fetch { durable_offset: fetch.fetch_offset, ..fetch };
                Message::Fetch(postcard::to_allocvec(&(number, fetch)).unwrap().into())
            }
            (Bug::TellUncommitted, Message::Records(head, records)) => {
                let end = end_of(&records);
                let head = with_answer(&head, |answer| {
                    answer.high_watermark = answer.high_watermark.max(end);
                });
                Message::Records(head, records)
            }
            (Bug::TellLess, Message::Records(head, records)) => {
                let head = with_answer(&head, |answer| {
                    if answer.sequence % 7 == 0 {
                        answer.high_watermark = Offset(answer.high_watermark.0 / 2);
                    }
                });
                Message::Records(head, records)
            }
            (Bug::SendAnother, Message::Records(head, records)) => {
                let (_, answer): (PartitionNumber, Answer) =
                    postcard::from_bytes(&head).expect("the node wrote it");
                let other = answer.sequence % 7 == 0;
                let records = if other { records.iter().map(another).collect() } else { records };
                Message::Records(head, records)
            }
            (Bug::BoastOfEntries, Message::Quorum(bytes)) => {
                Message::Quorum(boasting(&bytes).unwrap_or(bytes))
            }
            (Bug::HideLosses, Message::Ask(bytes)) if says_what_is_lost(&bytes) => Message::Ping,
            (_, message) => message,
        }
    }
}

/// A produce request that asks for the leader's acknowledgement only.
fn with_one_ack(frame: &Bytes) -> Option<Bytes> {
    let (header, mut reader) = wire::decode_request_header(frame).ok()?;
    if header.api_key != ApiKey::Produce as i16 {
        return None;
    }
    let mut request = ProduceRequest::decode(&mut reader, header.api_version).ok()?;
    request.acks = 1;
    let (version, correlation) = (header.api_version, header.correlation_id);
    let frame = wire::encode_request(&request, version, correlation, Some("sim"));
    Some(crate::client::unframed(&frame))
}

/// Topics are created with Kafka's `unclean.leader.election.enable`.
fn with_unclean_elections(frame: &Bytes) -> Option<Bytes> {
    let (header, mut reader) = wire::decode_request_header(frame).ok()?;
    if header.api_key != ApiKey::CreateTopics as i16 {
        return None;
    }
    let mut request = CreateTopicsRequest::decode(&mut reader, header.api_version).ok()?;
    for topic in &mut request.topics {
        let (name, value) = ("unclean.leader.election.enable".into(), Some("true".into()));
        topic.configs.push(CreatableTopicConfig { name, value });
    }
    let (version, correlation) = (header.api_version, header.correlation_id);
    let frame = wire::encode_request(&request, version, correlation, Some("sim"));
    Some(crate::client::unframed(&frame))
}

/// A request for votes, or for the promise of one, whose sender has an entry far behind all others.
/// As the quorum writes it: a mark, the kind, and what the kind has.
fn boasting(bytes: &Bytes) -> Option<Bytes> {
    let ((mark, kind), rest) = postcard::take_from_bytes::<([u8; 8], u8)>(bytes).ok()?;
    let last = |term| Position { index: 1 << 40, term };
    let said = match kind {
        2 => {
            let (round, term, _): (u32, u64, Position) = postcard::from_bytes(rest).ok()?;
            postcard::to_allocvec(&(mark, kind, round, term, last(term)))
        }
        4 => {
            let (term, _): (u64, Position) = postcard::from_bytes(rest).ok()?;
            postcard::to_allocvec(&(mark, kind, term, last(term)))
        }
        _ => return None,
    };
    said.ok().map(Bytes::from)
}

/// A question's number comes first, then its kind.
fn says_what_is_lost(bytes: &Bytes) -> bool {
    postcard::take_from_bytes::<(u64, u8)>(bytes).is_ok_and(|((_, kind), _)| kind == 4)
}

fn pretend_removed(frame: &Bytes) -> Option<Bytes> {
    let (header, _) = wire::decode_request_header(frame).ok()?;
    let (key, version) = (ApiKey::RemoveRaftVoter, header.api_version);
    if header.api_key != key as i16 {
        return None;
    }
    let response = RemoveRaftVoterResponse::default();
    let frame = wire::encode_response(&response, key, version, header.correlation_id);
    Some(crate::client::unframed(&frame))
}

fn with_answer(head: &Bytes, change: impl Fn(&mut Answer)) -> Bytes {
    let (number, mut answer): (PartitionNumber, Answer) =
        postcard::from_bytes(head).expect("the node wrote it");
    change(&mut answer);
    postcard::to_allocvec(&(number, answer)).unwrap().into()
}

fn headers(records: &[Bytes]) -> impl Iterator<Item = (Header, Bytes)> {
    records.iter().flat_map(|records| {
        let mut rest = records.clone();
        std::iter::from_fn(move || batch::next_batch(&mut rest)?.ok())
    })
}

fn end_of(records: &[Bytes]) -> Offset {
    headers(records).last().map_or(Offset::ZERO, |(header, _)| header.last_offset().plus(1))
}

/// Batches of the same length whose last record has another value.
fn another(records: &Bytes) -> Bytes {
    let all = headers(std::slice::from_ref(records)).flat_map(|(_, batch)| {
        let mut batch = batch.to_vec();
        // Behind the value there is the count of the headers; the checksum is of all behind it.
        let last = batch.len() - 2;
        batch[last] ^= 1;
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch
    });
    all.collect::<Vec<u8>>().into()
}

fn site_must_find(bug: Bug, checkers: &[&str], change: impl Fn(&mut Plan)) {
    must_find(&format!("{bug:?} of a site"), checkers, |seed| {
        random(seed, |plan| {
            plan.bug = bug;
            change(plan);
        })
    });
}

/// Others may notice, too, in other seeds: the search goes on until this checker has.
fn site_must_find_by(bug: Bug, checker: &str, change: impl Fn(&mut Plan)) {
    must_find_by(&format!("{bug:?} of a site"), checker, |seed| {
        random(seed, |plan| {
            plan.bug = bug;
            change(plan);
        })
    });
}

/// Where records are lost, any of these may be the first to see it.
const LOSS: &[&str] =
    &["AckedIsDurable", "NoCommittedRecordLostGlobally", "CommittedStays", "StrongIsr"];

#[test]
fn an_acknowledgement_at_the_leaders_durable_end_is_found() {
    let checkers = [LOSS, &["OrderKept"]].concat();
    site_must_find(Bug::AcknowledgeAtDurableEnd, &checkers, |plan| plan.kills = true);
}

#[test]
fn a_follower_that_reports_what_is_not_durable_is_found() {
    site_must_find(Bug::UndurableEnds, &["StrongIsr"], |_| {});
}

#[test]
fn followers_that_are_told_more_than_is_committed_are_found() {
    let checkers = [LOSS, &["MonotonicHighWatermark"]].concat();
    site_must_find(Bug::TellUncommitted, &checkers, |plan| plan.kills = true);
}

#[test]
fn a_batch_that_is_another_for_one_follower_is_found() {
    site_must_find(Bug::SendAnother, &["LogMatching"], |_| {});
}

#[test]
fn a_start_that_is_taken_for_the_one_before_is_found() {
    let checkers = [LOSS, &["SingleLeaderPerEpoch"]].concat();
    site_must_find(Bug::SameIncarnation, &checkers, |plan| {
        plan.cuts = true;
        plan.kills = true;
    });
}

#[test]
fn an_old_image_of_a_store_is_found() {
    let quorum = ["LeaderCompleteness", "MetadataLogMatching", "SingleLeaderPerEpoch"];
    let checkers =
        [LOSS, &quorum, &["Converges", "OrderKept", "LogMatching", "assertion"]].concat();
    site_must_find(Bug::OldImage, &checkers, |plan| plan.kills = true);
}

#[test]
fn gateways_that_never_connect_again_are_found() {
    site_must_find(Bug::ConnectOnce, &["Converges"], |plan| plan.kills = true);
}

#[test]
fn a_leader_that_leads_on_after_its_restart_is_found() {
    site_must_find_by(Bug::SameIncarnation, "SingleLeaderPerEpoch", |plan| plan.kills = true);
}

#[test]
fn a_high_watermark_that_is_told_lower_than_before_is_found() {
    site_must_find(Bug::TellLess, &["MonotonicHighWatermark"], |_| {});
}

#[test]
fn an_assignment_that_only_the_groups_leader_knows_is_found() {
    let checkers = ["GroupOwnsEachPartitionOnce"];
    site_must_find(Bug::ForgetAssignments, &checkers, |plan| plan.groups = true);
}

#[test]
fn offset_commits_that_are_not_stored_are_found() {
    site_must_find(Bug::ForgetCommits, &["OffsetsNeverGoBack"], |plan| plan.groups = true);
}

#[test]
fn a_removed_voter_that_still_counts_is_found() {
    site_must_find(Bug::ForgetVotes, &["MembersAsAsked"], |plan| plan.members = true);
}

#[test]
fn a_leader_of_the_quorum_that_lacks_entries_is_found() {
    site_must_find(Bug::BoastOfEntries, &["LeaderCompleteness"], |plan| plan.kills = true);
}

#[test]
fn a_leader_that_was_not_in_sync_is_found() {
    site_must_find(Bug::ElectAnybody, &["NoCommittedRecordLostGlobally"], |plan| {
        plan.kills = true;
        plan.min_insync = 1;
    });
}

#[test]
fn damage_that_nobody_is_told_of_is_found() {
    must_find("HideLosses of a site", &["Converges", "AckedIsDurable"], |seed| {
        super::rot::random(seed, |plan| plan.bug = Bug::HideLosses)
    });
}

#[test]
fn followers_that_fetch_more_than_they_can_write_are_found() {
    site_must_find(Bug::AskOnAndOn, &["Bounded"], |plan| {
        plan.kills = true;
    });
}

#[test]
fn a_replica_that_comes_back_before_it_is_whole_is_found() {
    must_find("WholeWhileDamaged of a site", &["WholeInSync"], |seed| {
        super::rot::random(seed, |plan| plan.bug = Bug::WholeWhileDamaged)
    });
}

#[test]
fn what_is_put_in_place_before_the_logs_are_known_to_agree_is_found() {
    let checkers = [LOSS, &["LogMatching", "OrderKept"]].concat();
    must_find("UnmatchedRanges of a site", &checkers, |seed| {
        super::rot::deposed(seed, |plan| plan.bug = Bug::UnmatchedRanges)
    });
}

#[test]
fn a_leader_that_serves_past_what_others_have_is_found() {
    must_find("PastWhatIsLost of a site", &["CommittedStays", "AckedIsDurable"], |seed| {
        super::rot::restarted(seed, |plan| plan.bug = Bug::PastWhatIsLost)
    });
}

#[test]
fn a_partition_that_is_fetched_whole_for_a_range_is_found() {
    must_find("WholePartitions of a site", &["RepairsTheRange"], |seed| {
        super::rot::random(seed, |plan| plan.bug = Bug::WholePartitions)
    });
}
