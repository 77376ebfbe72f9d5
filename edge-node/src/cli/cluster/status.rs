//! `weir cluster status`: gateways, the quorum, and how partitions are, on one screen.

use super::super::Outcome;
use super::super::args::KafkaTarget;
use super::super::connect::run;
use super::super::output::{Table, print, print_json};
use super::partitions::{Moving, moving};
use super::quorum::Quorum;
use super::{counted, drain, explained, some};
use serde::Serialize;
use std::collections::BTreeMap;
use weir_bridge::client::{self, Broker, Client, Error};
use weir_core::wire::cluster::DescribeClusterRequest;

#[derive(Serialize)]
struct Status {
    cluster_id: String,
    controller: i32,
    gateways: Vec<Gateway>,
    quorum: Quorum,
    /// Partitions by name.
    without_leader: Vec<String>,
    behind: Vec<String>,
    not_with_preferred_leader: Vec<String>,
    moving: Vec<Moving>,
}

#[derive(Default, Serialize)]
struct Gateway {
    node: i32,
    address: String,
    rack: Option<String>,
    /// Whether it holds partitions, or could; a witness does not.
    broker: bool,
    fenced: bool,
    draining: bool,
    replicas: usize,
    leads: usize,
    /// Replicas that are not in sync.
    behind: usize,
}

pub fn command(target: &KafkaTarget) -> Outcome {
    let client = target.client()?;
    let status = run(async { Status::ask(&client).await.map_err(|error| target.failure(error)) })?;
    if target.json { print_json(&status) } else { status.print() }
}

impl Status {
    async fn ask(client: &Client) -> Result<Status, Error> {
        let request = DescribeClusterRequest { include_fenced_brokers: true, ..Default::default() };
        let ask = async || {
            let cluster = client.request(Broker::Any, &request).await?;
            let context = || explained("asking for the cluster".into(), &cluster.error_message);
            Error::check(cluster.error_code, context)?;
            Ok(cluster)
        };
        let cluster = client.retry(Broker::Any, ask).await?;
        let topics = client.retry(Broker::Any, async || client.cluster(None).await).await?.topics;
        let quorum = Quorum::ask(client).await?;
        let mut gateways: BTreeMap<i32, Gateway> = BTreeMap::new();
        for broker in cluster.brokers {
            let gateway = Gateway {
                node: broker.broker_id,
                address: format!("{}:{}", broker.host, broker.port),
                rack: broker.rack,
                broker: true,
                fenced: broker.is_fenced,
                ..Gateway::default()
            };
            gateways.insert(gateway.node, gateway);
        }
        for member in &quorum.members {
            let witness = || Gateway { node: member.node, ..Gateway::default() };
            gateways.entry(member.node).or_insert_with(witness);
        }
        let nodes: Vec<i32> = gateways.keys().copied().collect();
        for node in drain::draining(client, &nodes).await? {
            if let Some(gateway) = gateways.get_mut(&node) {
                gateway.draining = true;
            }
        }
        let mut status = Status {
            cluster_id: cluster.cluster_id,
            controller: quorum.leader,
            gateways: Vec::new(),
            quorum,
            without_leader: Vec::new(),
            behind: Vec::new(),
            not_with_preferred_leader: Vec::new(),
            moving: moving(client).await?,
        };
        for topic in &topics {
            status.count(topic, &mut gateways);
        }
        status.gateways = gateways.into_values().collect();
        Ok(status)
    }

    fn count(&mut self, topic: &client::Topic, gateways: &mut BTreeMap<i32, Gateway>) {
        for partition in &topic.partitions {
            let name = || format!("{}-{}", topic.name, partition.index);
            let in_sync = |node: &i32| partition.in_sync_replicas.contains(node);
            if partition.leader < 0 {
                self.without_leader.push(name());
            } else if partition.replicas.first() != Some(&partition.leader) {
                self.not_with_preferred_leader.push(name());
            }
            if !partition.replicas.iter().all(in_sync) {
                self.behind.push(name());
            }
            for node in &partition.replicas {
                let Some(gateway) = gateways.get_mut(node) else { continue };
                gateway.replicas += 1;
                gateway.leads += usize::from(partition.leader == *node);
                gateway.behind += usize::from(!in_sync(node));
            }
        }
    }

    fn print(&self) -> Outcome {
        print(&format!(
            "cluster {}, controller {}; {}\n\n",
            self.cluster_id,
            self.quorum.leader,
            self.quorum.strength()
        ))?;
        let mut table = Table::new(&[
            "NODE", "ADDRESS", "RACK", "STATE", "QUORUM", "LAG", "REPLICAS", "LEADS", "BEHIND",
        ]);
        for gateway in &self.gateways {
            let member = self.quorum.members.iter().find(|member| member.node == gateway.node);
            let state = match gateway {
                Gateway { broker: false, .. } => "witness",
                Gateway { fenced: true, .. } => "fenced",
                Gateway { draining: true, .. } => "draining",
                _ => "alive",
            };
            let address = if gateway.broker { gateway.address.clone() } else { "-".into() };
            table.row([
                gateway.node.to_string(),
                address,
                gateway.rack.clone().unwrap_or_else(|| "-".into()),
                state.into(),
                member.map_or("-", |member| self.quorum.role(member)).into(),
                member.map_or("-".into(), |member| member.lag.to_string()),
                gateway.replicas.to_string(),
                gateway.leads.to_string(),
                gateway.behind.to_string(),
            ]);
        }
        table.print()?;
        print(&self.remarks())
    }

    /// What an operator should look at; nothing, when all is well.
    fn remarks(&self) -> String {
        let remarks = [
            (&self.without_leader, "without a leader"),
            (&self.behind, "not in sync everywhere"),
            (&self.not_with_preferred_leader, "not with the preferred leader"),
        ];
        let mut out = String::new();
        for (names, what) in remarks.iter().filter(|(names, _)| !names.is_empty()) {
            out += &format!("\n{} {what}: {}", counted(names.len(), "partition"), some(names));
        }
        if !self.moving.is_empty() {
            out += &format!(
                "\n{} on the way to other gateways; see weir cluster reassign",
                counted(self.moving.len(), "partition")
            );
        }
        if out.is_empty() { out } else { format!("{out}\n") }
    }
}
