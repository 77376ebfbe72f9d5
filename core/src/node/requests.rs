//! Requests: a frame is read and given to the file of its API family.
//!
//! An API or version that is not served ends the connection, as in Kafka, because nobody knows what
//! an answer in it would look like; only ApiVersions has an answer for that (KIP-511). So do
//! malformed bytes.

use super::admin::Wish;
use super::changes::Change;
use super::connections::{Answered, Caller, is_of_peer};
use super::site::is_for_controller;
use super::{Node, Phase};
use crate::types::{ConnId, Time};
use crate::wire::{self, AnyRequest, ApiKey};
use bytes::Bytes;

impl Node {
    pub(super) fn on_request(&mut self, now: Time, conn: ConnId, frame: &Bytes) {
        let header = wire::decode_request_header(frame);
        let client_id = header.as_ref().ok().and_then(|(header, _)| header.client_id.as_deref());
        let Some(sequence) = self.connections.open_slot(conn, client_id) else { return };
        let serves = matches!(self.phase, Phase::Serving | Phase::Fenced);
        let answered = match header {
            Ok((header, mut reader)) if serves => match header.served_api() {
                Some(api) => {
                    let (version, correlation_id) = (header.api_version, header.correlation_id);
                    let caller = Caller { conn, sequence, api, version, correlation_id };
                    if self.lacks_way(api) {
                        return self.close(caller);
                    }
                    if is_for_controller(api) && !self.site.leads() {
                        return match is_of_peer(conn) {
                            // That peer knows less than this one does: its client asks again.
                            true => self.close(caller),
                            false => self.forward(now, caller, frame.clone()),
                        };
                    }
                    match AnyRequest::decode(api, version, &mut reader) {
                        Ok(request) => {
                            self.counts.request(api);
                            return self.dispatch(now, caller, request);
                        }
                        Err(_) => {
                            let name = api.name();
                            log::warn!("connection {}: malformed {name} {version}", conn.0);
                            Answered::Close
                        }
                    }
                }
                None if header.api_key == ApiKey::ApiVersions as i16 => {
                    let frame = wire::encode_unsupported_api_versions(header.correlation_id);
                    Answered::Reply(frame)
                }
                None => {
                    let (key, version) = (header.api_key, header.api_version);
                    log::warn!("connection {}: API {key} version {version} not served", conn.0);
                    Answered::Close
                }
            },
            Ok(_) => Answered::Close,
            Err(_) => {
                log::warn!("connection {}: malformed request", conn.0);
                Answered::Close
            }
        };
        self.connections.answer(conn, sequence, answered, &mut self.outputs);
    }

    /// Answers a request whose slot is open already.
    pub(super) fn answer_frame(&mut self, now: Time, caller: Caller, frame: &Bytes) {
        let header = wire::decode_request_header(frame);
        let request = header.and_then(|(_, mut reader)| {
            AnyRequest::decode(caller.api, caller.version, &mut reader)
        });
        match request {
            Ok(request) => self.dispatch(now, caller, request),
            Err(_) => self.close(caller),
        }
    }

    fn dispatch(&mut self, now: Time, caller: Caller, request: AnyRequest) {
        use AnyRequest::*;
        match request {
            Produce(request) => self.on_produce(now, caller, request),
            Fetch(request) => self.on_fetch(now, caller, request),
            ListOffsets(request) => self.on_list_offsets(caller, request),
            Metadata(request) => self.on_metadata(now, caller, request),
            ApiVersions(request) => self.on_api_versions(caller, &request),
            DescribeCluster(request) => self.on_describe_cluster(caller, &request),
            DescribeTopicPartitions(request) => {
                self.on_describe_topic_partitions(caller, &request);
            }
            DescribeLogDirs(request) => self.on_describe_log_dirs(caller, &request),
            FindCoordinator(request) => self.on_find_coordinator(now, caller, request),
            CreateTopics(request) => self.change(now, Change::CreateTopics(caller, request)),
            DeleteTopics(request) => self.change(now, Change::DeleteTopics(caller, request)),
            CreatePartitions(request) => {
                self.change(now, Change::CreatePartitions(caller, request));
            }
            DeleteRecords(request) => self.on_delete_records(now, caller, request),
            DescribeConfigs(request) => self.on_describe_configs(caller, &request),
            IncrementalAlterConfigs(request) => {
                self.change(now, Change::IncrementalAlterConfigs(caller, request));
            }
            AlterConfigs(request) => self.change(now, Change::AlterConfigs(caller, request)),
            InitProducerId(request) => self.on_init_producer_id(now, caller, request),
            DescribeProducers(request) => self.on_describe_producers(caller, request),
            OffsetForLeaderEpoch(request) => self.on_offset_for_leader_epoch(caller, request),
            JoinGroup(_) | SyncGroup(_) | Heartbeat(_) | LeaveGroup(_) | OffsetCommit(_)
            | OffsetFetch(_) | OffsetDelete(_) | DescribeGroups(_) | ListGroups(_)
            | DeleteGroups(_) => self.on_group_request(now, caller, request),
            ElectLeaders(request) => {
                self.change(now, Change::Wished(caller, Wish::ElectLeaders(request)));
            }
            AlterPartitionReassignments(request) => {
                self.change(now, Change::Wished(caller, Wish::Reassign(request)));
            }
            UnregisterBroker(request) => {
                self.change(now, Change::Wished(caller, Wish::Unregister(request)));
            }
            ListPartitionReassignments(request) => self.on_list_reassignments(caller, &request),
            DescribeQuorum(request) => self.on_describe_quorum(now, caller, &request),
            AddRaftVoter(request) => self.on_add_voter(now, caller, &request),
            RemoveRaftVoter(request) => self.on_remove_voter(now, caller, &request),
            // Only our client speaks these; `served_api` lets none of them in.
            AddPartitionsToTxn(_) | AddOffsetsToTxn(_) | EndTxn(_) | TxnOffsetCommit(_) => {
                self.close(caller);
            }
        }
    }
}
