//! Every message and version against two other implementations, `kafka-protocol` and `kafka-wire`.
//!
//! The first one's decoder is fed by a source that makes up whatever it asks for (`source`), so the
//! messages have every field that *it* knows. Then all three must read the same bytes, write them
//! back unchanged, and agree on what each field is called (`names`).
#![allow(clippy::unwrap_used)]

mod names;
mod source;

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Encodable, Message};
use kafka_wire::KafkaMessage;
use kafka_wire_core::{ApiVersion, DecodeLimits};
use std::fmt::Debug;
use weir_core::bytes::Reader;
use weir_core::rng::Rng;
use weir_core::types::TopicId;
use weir_core::wire::{AnyRequest, AnyResponse, ApiKey, CLIENT, Writer};

/// Messages made for each version of each request and response. With fewer, some field would keep
/// one value where there are few versions.
const MESSAGES: u64 = 40;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Request,
    Response,
}

/// One of our messages, of whatever type.
enum Ours {
    Request(AnyRequest),
    Response(AnyResponse),
}

impl Ours {
    fn decode(side: Side, key: ApiKey, version: i16, bytes: &Bytes) -> Option<Ours> {
        let reader = &mut Reader::new(bytes.clone());
        match side {
            Side::Request => AnyRequest::decode(key, version, reader).ok().map(Ours::Request),
            Side::Response => AnyResponse::decode(key, version, reader).ok().map(Ours::Response),
        }
    }

    fn encode(&self, version: i16) -> Bytes {
        let mut writer = Writer::default();
        match self {
            Ours::Request(request) => request.encode(&mut writer, version),
            Ours::Response(response) => response.encode(&mut writer, version),
        }
        writer.into_vec().into()
    }

    /// Gives values to the fields of the versions that `kafka-protocol` does not know.
    fn fill_newest(&mut self, rng: &mut Rng) {
        let mut id = || TopicId(rng.uuid());
        match self {
            Ours::Request(AnyRequest::OffsetCommit(request)) => {
                request.topics.iter_mut().for_each(|topic| topic.topic_id = id());
            }
            Ours::Request(AnyRequest::OffsetFetch(request)) => {
                let topics = request.groups.iter_mut().flat_map(|group| group.topics.iter_mut());
                topics.flatten().for_each(|topic| topic.topic_id = id());
            }
            Ours::Response(AnyResponse::DescribeLogDirs(response)) => {
                response.results.iter_mut().for_each(|result| result.is_cordoned = true);
            }
            Ours::Request(AnyRequest::AddRaftVoter(request)) => {
                request.ack_when_committed = rng.percent(50);
            }
            Ours::Response(AnyResponse::AddRaftVoter(_)) => {}
            // Version 11 changes only the meaning of a timestamp.
            Ours::Request(AnyRequest::ListOffsets(_))
            | Ours::Response(AnyResponse::ListOffsets(_)) => {}
            Ours::Request(AnyRequest::DescribeLogDirs(_)) => {}
            _ => panic!("{} has a version that kafka-protocol lacks", self.debug()),
        }
    }

    fn debug(&self) -> String {
        match self {
            Ours::Request(request) => format!("{request:#?}"),
            Ours::Response(response) => format!("{response:#?}"),
        }
    }
}

/// What `kafka-wire` reads, after it wrote the same bytes again; `None` if it refuses them.
fn wire_debug<W: KafkaMessage + Debug>(what: &str, version: i16, bytes: &Bytes) -> Option<String> {
    let version = ApiVersion::new(version);
    let limits = DecodeLimits::default();
    let message = W::decode_from_bytes(bytes.clone(), version, limits).ok()?;
    assert_eq!(message.encode_to_bytes(version).unwrap(), bytes, "{what}: kafka-wire writes back");
    Some(format!("{message:#?}"))
}

/// A random message of kafka-protocol's, in bytes. It lacks the last version of some messages; then
/// its last one is made, read by us, given the new fields and written by us.
fn make_up<P>(side: Side, key: ApiKey, version: i16, rng: &mut Rng) -> (String, Option<Bytes>)
where
    P: Decodable + Encodable + Message + Debug,
{
    let known = version.min(P::VERSIONS.max);
    let theirs: P = source::make_up(rng, known);
    let mut bytes = BytesMut::new();
    theirs.encode(&mut bytes, known).unwrap();
    let mut bytes = Some(bytes.freeze());
    if known < version {
        bytes = Ours::decode(side, key, known, &bytes.unwrap()).map(|mut ours| {
            ours.fill_newest(rng);
            ours.encode(version)
        });
    }
    (format!("{side:?} {key:?} version {version}: {theirs:#?}"), bytes)
}

/// Compares all versions that we speak; returns how many messages were compared.
fn check<P, W>(side: Side, key: ApiKey) -> u64
where
    P: Decodable + Encodable + Message + Debug,
    W: KafkaMessage + Debug,
{
    let range = CLIENT.iter().find(|range| range.key == key).unwrap();
    assert!(P::VERSIONS.min <= range.min, "{key:?}: kafka-protocol knows our first version");
    let (mut compared, mut seen) = (0, names::Seen::default());
    for version in range.min..=range.max {
        let mut rng = Rng::new((version as u64) << 16 | key as u64);
        let mut left = MESSAGES;
        while left > 0 {
            let (what, bytes) = make_up::<P>(side, key, version, &mut rng);
            let Some(bytes) = bytes else { continue };
            let ours = Ours::decode(side, key, version, &bytes);
            // kafka-protocol takes a null in versions that have none.
            let Some(wire) = wire_debug::<W>(&what, version, &bytes) else {
                assert!(ours.is_none(), "{what}: kafka-wire refuses what we take");
                continue;
            };
            let ours = ours.unwrap_or_else(|| panic!("{what}: we refuse {bytes:?}"));
            assert_eq!(ours.encode(version), bytes, "{what}: we write back");
            names::check_same(key, &what, &ours.debug(), &wire);
            seen.add(&ours.debug());
            left -= 1;
            compared += 1;
        }
    }
    let no_fields: [&str; 0] = [];
    assert_eq!(seen.stuck(), no_fields, "{side:?} {key:?}: fields that never changed");
    compared
}

macro_rules! check_all {
    ($($api:ident $request:ident $response:ident)*) => {
        [$(
            (
                ApiKey::$api,
                check::<kafka_protocol::messages::$request, kafka_wire::$request>(
                    Side::Request,
                    ApiKey::$api,
                ) + check::<kafka_protocol::messages::$response, kafka_wire::$response>(
                    Side::Response,
                    ApiKey::$api,
                ),
            ),
        )*]
    };
}

#[test]
fn three_implementations_agree_on_every_message_and_version() {
    let compared = check_all! {
        Produce ProduceRequest ProduceResponse
        Fetch FetchRequest FetchResponse
        ListOffsets ListOffsetsRequest ListOffsetsResponse
        Metadata MetadataRequest MetadataResponse
        OffsetCommit OffsetCommitRequest OffsetCommitResponse
        OffsetFetch OffsetFetchRequest OffsetFetchResponse
        FindCoordinator FindCoordinatorRequest FindCoordinatorResponse
        JoinGroup JoinGroupRequest JoinGroupResponse
        Heartbeat HeartbeatRequest HeartbeatResponse
        LeaveGroup LeaveGroupRequest LeaveGroupResponse
        SyncGroup SyncGroupRequest SyncGroupResponse
        DescribeGroups DescribeGroupsRequest DescribeGroupsResponse
        ListGroups ListGroupsRequest ListGroupsResponse
        ApiVersions ApiVersionsRequest ApiVersionsResponse
        CreateTopics CreateTopicsRequest CreateTopicsResponse
        DeleteTopics DeleteTopicsRequest DeleteTopicsResponse
        DeleteRecords DeleteRecordsRequest DeleteRecordsResponse
        InitProducerId InitProducerIdRequest InitProducerIdResponse
        OffsetForLeaderEpoch OffsetForLeaderEpochRequest OffsetForLeaderEpochResponse
        DescribeConfigs DescribeConfigsRequest DescribeConfigsResponse
        AlterConfigs AlterConfigsRequest AlterConfigsResponse
        DescribeLogDirs DescribeLogDirsRequest DescribeLogDirsResponse
        CreatePartitions CreatePartitionsRequest CreatePartitionsResponse
        DeleteGroups DeleteGroupsRequest DeleteGroupsResponse
        ElectLeaders ElectLeadersRequest ElectLeadersResponse
        IncrementalAlterConfigs IncrementalAlterConfigsRequest IncrementalAlterConfigsResponse
        AlterPartitionReassignments
            AlterPartitionReassignmentsRequest AlterPartitionReassignmentsResponse
        ListPartitionReassignments
            ListPartitionReassignmentsRequest ListPartitionReassignmentsResponse
        OffsetDelete OffsetDeleteRequest OffsetDeleteResponse
        DescribeQuorum DescribeQuorumRequest DescribeQuorumResponse
        DescribeCluster DescribeClusterRequest DescribeClusterResponse
        DescribeProducers DescribeProducersRequest DescribeProducersResponse
        UnregisterBroker UnregisterBrokerRequest UnregisterBrokerResponse
        DescribeTopicPartitions DescribeTopicPartitionsRequest DescribeTopicPartitionsResponse
        AddRaftVoter AddRaftVoterRequest AddRaftVoterResponse
        RemoveRaftVoter RemoveRaftVoterRequest RemoveRaftVoterResponse
        AddPartitionsToTxn AddPartitionsToTxnRequest AddPartitionsToTxnResponse
        AddOffsetsToTxn AddOffsetsToTxnRequest AddOffsetsToTxnResponse
        EndTxn EndTxnRequest EndTxnResponse
        TxnOffsetCommit TxnOffsetCommitRequest TxnOffsetCommitResponse
    };
    let checked: Vec<ApiKey> = compared.iter().map(|(key, _)| *key).collect();
    let spoken: Vec<ApiKey> = CLIENT.iter().map(|range| range.key).collect();
    assert_eq!(checked, spoken, "every API is compared");
    for (range, (key, messages)) in CLIENT.iter().zip(compared) {
        let versions = (range.max - range.min + 1) as u64;
        assert_eq!(messages, 2 * versions * MESSAGES, "{key:?}");
    }
}
