//! Which APIs and versions are spoken: the one table, and what follows from it.
//!
//! The ranges are those of Apache Kafka 4.3.1. Like it we advertise Produce from version 0 although
//! 0 to 2 are not served: librdkafka below 2.0 looks at that to find out which message formats we
//! take.

use super::schema::Message;
use super::{Request, Writer};
use super::{api_versions::*, cluster::*, configs::*, fetch::*, group::*, list_offsets::*};
use super::{log_dirs::*, metadata::*, offsets::*, produce::*, producers::*, quorum::*};
use super::{replicas::*, topics::*, txn::*};
use crate::bytes::{Malformed, Reader, Result};

/// Versions of an API, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiRange {
    pub key: ApiKey,
    pub min: i16,
    pub max: i16,
}

/// Rows of `Name = key: versions, first flexible version, messages`. The broker and our client
/// speak those of `served`, only our client those of `client`.
macro_rules! apis {
    (served {$(
        $name:ident = $code:literal: $min:literal..=$max:literal,
        flexible $flexible:expr, $request:ident => $response:ident;
    )*} client { $($client:tt)* }) => {
        apis!(@all
            $($name = $code: $min..=$max, flexible $flexible, $request => $response;)*
            $($client)*);

        /// What the broker advertises.
        pub const SUPPORTED: &[ApiRange] = &[$(ApiRange {
            key: ApiKey::$name,
            min: if matches!(ApiKey::$name, ApiKey::Produce) { 0 } else { $min },
            max: $max,
        },)*];

        impl ApiKey {
            /// Whether the broker answers this version.
            pub fn serves(self, version: i16) -> bool {
                match self {
                    $(ApiKey::$name => ($min..=$max).contains(&version),)*
                    _ => false,
                }
            }
        }
    };
    (@all $(
        $name:ident = $code:literal: $min:literal..=$max:literal,
        flexible $flexible:expr, $request:ident => $response:ident;
    )*) => {
        /// An API by its number on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum ApiKey {
            $($name = $code,)*
        }

        impl ApiKey {
            pub fn from_code(code: i16) -> Option<ApiKey> {
                match code {
                    $($code => Some(ApiKey::$name),)*
                    _ => None,
                }
            }

            /// Kafka's name of the API.
            pub fn name(self) -> &'static str {
                match self {
                    $(ApiKey::$name => stringify!($name),)*
                }
            }

            /// Whether this version has the compact types and tagged fields of KIP-482.
            pub fn is_flexible(self, version: i16) -> bool {
                version >= match self {
                    $(ApiKey::$name => $flexible,)*
                }
            }
        }

        /// What our client can speak.
        pub const CLIENT: &[ApiRange] = &[
            $(ApiRange { key: ApiKey::$name, min: $min, max: $max },)*
        ];

        /// A request of whatever API.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum AnyRequest {
            $($name($request),)*
        }

        impl AnyRequest {
            /// Reads a request; a version that is not spoken is malformed. Bytes after it are
            /// ignored, as Kafka does: librdkafka (2.16 at least) sends three too many when it asks
            /// for the metadata of all topics in a flexible version.
            pub fn decode(key: ApiKey, version: i16, reader: &mut Reader) -> Result<AnyRequest> {
                match key {
                    $(ApiKey::$name if ($min..=$max).contains(&version) => {
                        Message::decode(reader, version).map(AnyRequest::$name)
                    })*
                    _ => Err(Malformed),
                }
            }

            pub fn encode(&self, writer: &mut Writer, version: i16) {
                match self {
                    $(AnyRequest::$name(request) => request.encode(writer, version),)*
                }
            }
        }

        /// A response of whatever API.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum AnyResponse {
            $($name($response),)*
        }

        impl AnyResponse {
            /// Reads a whole response: bytes after it are malformed.
            pub fn decode(key: ApiKey, version: i16, reader: &mut Reader) -> Result<AnyResponse> {
                let response = match key {
                    $(ApiKey::$name if ($min..=$max).contains(&version) => {
                        AnyResponse::$name(Message::decode(reader, version)?)
                    })*
                    _ => return Err(Malformed),
                };
                reader.finish()?;
                Ok(response)
            }

            pub fn encode(&self, writer: &mut Writer, version: i16) {
                match self {
                    $(AnyResponse::$name(response) => response.encode(writer, version),)*
                }
            }
        }

        $(
            impl Message for $request {
                const FLEXIBLE: i16 = $flexible;
            }

            impl Message for $response {
                const FLEXIBLE: i16 = $flexible;
            }

            impl Request for $request {
                const API_KEY: ApiKey = ApiKey::$name;
                type Response = $response;
            }
        )*
    };
}

impl ApiKey {
    /// KIP-511: a client must be able to read the answer before it knows the broker's versions.
    pub fn has_flexible_response_header(self, version: i16) -> bool {
        self != ApiKey::ApiVersions && self.is_flexible(version)
    }
}

const NEVER: i16 = i16::MAX;

apis! {
    served {
        Produce = 0: 3..=13, flexible 9, ProduceRequest => ProduceResponse;
        Fetch = 1: 4..=18, flexible 12, FetchRequest => FetchResponse;
        ListOffsets = 2: 1..=11, flexible 6, ListOffsetsRequest => ListOffsetsResponse;
        Metadata = 3: 0..=13, flexible 9, MetadataRequest => MetadataResponse;
        OffsetCommit = 8: 2..=10, flexible 8, OffsetCommitRequest => OffsetCommitResponse;
        OffsetFetch = 9: 1..=10, flexible 6, OffsetFetchRequest => OffsetFetchResponse;
        FindCoordinator = 10: 0..=6, flexible 3, FindCoordinatorRequest => FindCoordinatorResponse;
        JoinGroup = 11: 0..=9, flexible 6, JoinGroupRequest => JoinGroupResponse;
        Heartbeat = 12: 0..=4, flexible 4, HeartbeatRequest => HeartbeatResponse;
        LeaveGroup = 13: 0..=5, flexible 4, LeaveGroupRequest => LeaveGroupResponse;
        SyncGroup = 14: 0..=5, flexible 4, SyncGroupRequest => SyncGroupResponse;
        DescribeGroups = 15: 0..=6, flexible 5, DescribeGroupsRequest => DescribeGroupsResponse;
        ListGroups = 16: 0..=5, flexible 3, ListGroupsRequest => ListGroupsResponse;
        ApiVersions = 18: 0..=4, flexible 3, ApiVersionsRequest => ApiVersionsResponse;
        CreateTopics = 19: 2..=7, flexible 5, CreateTopicsRequest => CreateTopicsResponse;
        DeleteTopics = 20: 1..=6, flexible 4, DeleteTopicsRequest => DeleteTopicsResponse;
        DeleteRecords = 21: 0..=2, flexible 2, DeleteRecordsRequest => DeleteRecordsResponse;
        InitProducerId = 22: 0..=5, flexible 2, InitProducerIdRequest => InitProducerIdResponse;
        OffsetForLeaderEpoch = 23: 2..=4, flexible 4,
            OffsetForLeaderEpochRequest => OffsetForLeaderEpochResponse;
        DescribeConfigs = 32: 1..=4, flexible 4, DescribeConfigsRequest => DescribeConfigsResponse;
        AlterConfigs = 33: 0..=2, flexible 2, AlterConfigsRequest => AlterConfigsResponse;
        DescribeLogDirs = 35: 1..=5, flexible 2, DescribeLogDirsRequest => DescribeLogDirsResponse;
        CreatePartitions = 37: 0..=3, flexible 2,
            CreatePartitionsRequest => CreatePartitionsResponse;
        DeleteGroups = 42: 0..=2, flexible 2, DeleteGroupsRequest => DeleteGroupsResponse;
        ElectLeaders = 43: 0..=2, flexible 2, ElectLeadersRequest => ElectLeadersResponse;
        IncrementalAlterConfigs = 44: 0..=1, flexible 1,
            IncrementalAlterConfigsRequest => IncrementalAlterConfigsResponse;
        AlterPartitionReassignments = 45: 0..=1, flexible 0,
            AlterPartitionReassignmentsRequest => AlterPartitionReassignmentsResponse;
        ListPartitionReassignments = 46: 0..=0, flexible 0,
            ListPartitionReassignmentsRequest => ListPartitionReassignmentsResponse;
        OffsetDelete = 47: 0..=0, flexible NEVER, OffsetDeleteRequest => OffsetDeleteResponse;
        DescribeQuorum = 55: 0..=2, flexible 0, DescribeQuorumRequest => DescribeQuorumResponse;
        DescribeCluster = 60: 0..=2, flexible 0, DescribeClusterRequest => DescribeClusterResponse;
        DescribeProducers = 61: 0..=0, flexible 0,
            DescribeProducersRequest => DescribeProducersResponse;
        UnregisterBroker = 64: 0..=0, flexible 0,
            UnregisterBrokerRequest => UnregisterBrokerResponse;
        DescribeTopicPartitions = 75: 0..=0, flexible 0,
            DescribeTopicPartitionsRequest => DescribeTopicPartitionsResponse;
        AddRaftVoter = 80: 0..=1, flexible 0, AddRaftVoterRequest => AddRaftVoterResponse;
        RemoveRaftVoter = 81: 0..=0, flexible 0, RemoveRaftVoterRequest => RemoveRaftVoterResponse;
    }
    client {
        AddPartitionsToTxn = 24: 0..=5, flexible 3,
            AddPartitionsToTxnRequest => AddPartitionsToTxnResponse;
        AddOffsetsToTxn = 25: 0..=4, flexible 3, AddOffsetsToTxnRequest => AddOffsetsToTxnResponse;
        EndTxn = 26: 0..=5, flexible 3, EndTxnRequest => EndTxnResponse;
        TxnOffsetCommit = 28: 0..=5, flexible 3, TxnOffsetCommitRequest => TxnOffsetCommitResponse;
    }
}
