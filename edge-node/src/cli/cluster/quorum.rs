//! `weir cluster quorum`: who votes on the cluster's metadata.

use super::super::args::KafkaTarget;
use super::super::args::cluster::Quorum as Command;
use super::super::connect::run;
use super::super::output::{Table, print, print_json};
use super::super::{Failure, Outcome};
use super::{done, explained};
use serde::Serialize;
use std::time::{Duration, Instant};
use weir_bridge::client::{Broker, Client, Error, ErrorKind};
use weir_core::types::TopicId;
use weir_core::wire::quorum::{
    AddRaftVoterRequest, DescribeQuorumRequest, DescribedPartition, Listener, PartitionData,
    RemoveRaftVoterRequest, ReplicaState, TopicData,
};

const METADATA: &str = "__cluster_metadata";

#[derive(Serialize)]
pub struct Quorum {
    /// -1 while there is none.
    pub leader: i32,
    pub leader_epoch: i32,
    pub high_watermark: i64,
    pub members: Vec<Member>,
}

#[derive(Serialize)]
pub struct Member {
    pub node: i32,
    pub voter: bool,
    /// Of the store that it has, or had when it was added.
    pub directory: String,
    #[serde(skip)]
    directory_id: TopicId,
    #[serde(skip)]
    listeners: Vec<Listener>,
    /// -1: unknown.
    pub log_end: i64,
    /// How far it is behind the leader.
    pub lag: i64,
    /// How long ago the leader heard of it, by the leader's clock.
    pub heard_ms: Option<i64>,
}

impl Quorum {
    pub async fn ask(client: &Client) -> Result<Quorum, Error> {
        let topic = TopicData {
            topic_name: METADATA.into(),
            partitions: vec![PartitionData { partition_index: 0 }],
        };
        let request = DescribeQuorumRequest { topics: vec![topic] };
        let ask = async || {
            let doing = || "asking for the quorum".to_string();
            let response = client.request(Broker::Controller, &request).await?;
            let context = || explained(doing(), &response.error_message);
            Error::check(response.error_code, context)?;
            let topics = response.topics.into_iter().flat_map(|topic| topic.partitions);
            let partition = topics.into_iter().next();
            let partition = partition.ok_or_else(|| Error::new(ErrorKind::Malformed, doing()))?;
            let context = || explained(doing(), &partition.error_message);
            Error::check(partition.error_code, context)?;
            let listeners = response.nodes.into_iter().map(|node| (node.node_id, node.listeners));
            Ok(Quorum::new(&partition, listeners.collect()))
        };
        client.retry(Broker::Controller, ask).await
    }

    fn new(partition: &DescribedPartition, mut listeners: Vec<(i32, Vec<Listener>)>) -> Quorum {
        let voters = partition.current_voters.iter().map(|replica| (replica, true));
        let observers = partition.observers.iter().map(|replica| (replica, false));
        let all: Vec<(&ReplicaState, bool)> = voters.chain(observers).collect();
        let leader = all.iter().find(|(replica, _)| replica.replica_id == partition.leader_id);
        // The leader has just caught up with itself: that is its clock.
        let now = leader.map_or(-1, |(leader, _)| leader.last_caught_up_timestamp);
        let end = leader.map_or(partition.high_watermark, |(leader, _)| leader.log_end_offset);
        let member = |(replica, voter): (&ReplicaState, bool)| {
            let node = replica.replica_id;
            let known = listeners.iter_mut().find(|(known, _)| *known == node);
            let heard = replica.last_fetch_timestamp;
            Member {
                node,
                voter,
                directory: replica.replica_directory_id.to_string(),
                directory_id: replica.replica_directory_id,
                listeners: known.map(|(_, it)| std::mem::take(it)).unwrap_or_default(),
                log_end: replica.log_end_offset,
                lag: (end - replica.log_end_offset.max(0)).max(0),
                heard_ms: (heard >= 0 && now >= 0).then(|| (now - heard).max(0)),
            }
        };
        let mut members: Vec<Member> = all.into_iter().map(member).collect();
        members.sort_by_key(|member| (member.node, !member.voter));
        Quorum {
            leader: partition.leader_id,
            leader_epoch: partition.leader_epoch,
            high_watermark: partition.high_watermark,
            members,
        }
    }

    pub fn voters(&self) -> usize {
        self.members.iter().filter(|member| member.voter).count()
    }

    /// "3 voters, 1 of them may fail".
    pub fn strength(&self) -> String {
        let voters = self.voters();
        let plural = if voters == 1 { "" } else { "s" };
        let may_fail = match voters.saturating_sub(1) / 2 {
            0 if voters == 1 => "it may not fail".to_string(),
            0 => "none of them may fail".to_string(),
            some => format!("{some} of them may fail"),
        };
        format!("{voters} voter{plural}, {may_fail}")
    }

    pub fn role(&self, member: &Member) -> &'static str {
        match member.voter {
            true if member.node == self.leader => "leader",
            true => "voter",
            false => "observer",
        }
    }
}

pub fn command(command: &Command) -> Outcome {
    match command {
        Command::Status(target) => status(target),
        Command::Add { node, timeout, target } => add(*node, *timeout, target),
        Command::Remove { node, target } => remove(*node, target),
    }
}

fn status(target: &KafkaTarget) -> Outcome {
    let client = target.client()?;
    let quorum = run(async { Quorum::ask(&client).await.map_err(|error| target.failure(error)) })?;
    if target.json {
        return print_json(&quorum);
    }
    print(&format!(
        "{}; leader {} in epoch {}, committed up to {}\n\n",
        quorum.strength(),
        quorum.leader,
        quorum.leader_epoch,
        quorum.high_watermark
    ))?;
    let mut table = Table::new(&["NODE", "ROLE", "LOG END", "LAG", "HEARD", "DIRECTORY"]);
    for member in &quorum.members {
        let heard = member.heard_ms.map_or("-".into(), |ms| format!("{ms} ms ago"));
        table.row([
            member.node.to_string(),
            quorum.role(member).to_string(),
            if member.log_end < 0 { "-".into() } else { member.log_end.to_string() },
            member.lag.to_string(),
            heard,
            member.directory.clone(),
        ]);
    }
    table.print()
}

fn add(node: i32, timeout: u64, target: &KafkaTarget) -> Outcome {
    let client = target.client()?;
    let quorum = run(async {
        let quorum = Quorum::ask(&client).await.map_err(|error| target.failure(error))?;
        // A voter whose store was wiped is listed as both: the new store is to vote.
        let found = quorum.members.iter().find(|member| member.node == node && !member.voter);
        let Some(found) = found else {
            let sentence = match quorum.members.iter().any(|member| member.node == node) {
                true => format!("gateway {node} is a voter already"),
                false => format!(
                    "the quorum does not know gateway {node}: start it with the same [cluster] \
                     voters and secret_file as the others, and it follows"
                ),
            };
            return Err(Failure::Failed(sentence));
        };
        let patience = Duration::from_secs(timeout.min(3_600));
        let request = AddRaftVoterRequest {
            cluster_id: None,
            timeout_ms: patience.as_millis() as i32,
            voter_id: node,
            voter_directory_id: found.directory_id,
            listeners: found.listeners.clone(),
            ack_when_committed: true,
        };
        let end = Instant::now() + patience;
        loop {
            let ask = async || {
                let answer = client.request_held(Broker::Controller, &request, patience).await?;
                let doing = format!("adding voter {node}");
                Error::check(answer.error_code, || explained(doing, &answer.error_message))
            };
            match client.retry(Broker::Controller, ask).await {
                Ok(()) => break,
                // It has to catch up first: Kafka says so by a time-out.
                Err(error) if error.is_retriable() && Instant::now() < end => {}
                Err(error) => return Err(target.failure(error)),
            }
        }
        Quorum::ask(&client).await.map_err(|error| target.failure(error))
    })?;
    done(target, "votes now", node, &format!("; {}", quorum.strength()))
}

fn remove(node: i32, target: &KafkaTarget) -> Outcome {
    let client = target.client()?;
    let quorum = run(async {
        let quorum = Quorum::ask(&client).await.map_err(|error| target.failure(error))?;
        let found = quorum.members.iter().find(|member| member.node == node && member.voter);
        let Some(found) = found else {
            return Err(Failure::Failed(format!("gateway {node} is no voter")));
        };
        let request = RemoveRaftVoterRequest {
            cluster_id: None,
            voter_id: node,
            voter_directory_id: found.directory_id,
        };
        let ask = async || {
            let answer = client.request(Broker::Controller, &request).await?;
            let doing = format!("removing voter {node}");
            Error::check(answer.error_code, || explained(doing, &answer.error_message))
        };
        client.retry(Broker::Controller, ask).await.map_err(|error| target.failure(error))?;
        Quorum::ask(&client).await.map_err(|error| target.failure(error))
    })?;
    done(target, "votes no more", node, &format!("; {}", quorum.strength()))
}
