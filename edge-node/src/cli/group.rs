//! `weir group`.

use super::args::{Group, KafkaTarget};
use super::connect::run;
use super::output::{Table, print, print_json};
use super::{Failure, Outcome};
use serde::Serialize;
use std::collections::BTreeMap;
use weir_bridge::client::{
    Broker, Client, CommittedOffset, EARLIEST, Error as ClientError, LATEST,
};
use weir_core::wire::group::{DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest};

pub fn command(group: Group) -> Outcome {
    match group {
        Group::List { target } => list(&target),
        Group::Describe { names, target } => describe(&names, &target),
        Group::Reset { group, topic, to, dry_run, target } => {
            let Some(to) = To::parse(&to) else {
                let sentence =
                    format!("--to {to}: write earliest, latest, 1000, +5, -5 or time:MS");
                return Err(Failure::Usage(sentence));
            };
            reset(&group, &topic, to, dry_run, &target)
        }
        Group::Delete { names, target } => delete(&names, &target),
    }
}

#[derive(Serialize)]
struct Listed {
    group: String,
    state: String,
    protocol_type: String,
}

/// The groups of all gateways: each knows those that it coordinates.
async fn listed(client: &Client) -> Result<Vec<Listed>, ClientError> {
    let ask = async || {
        let mut groups = Vec::new();
        for node in client.cluster(Some(&[])).await?.brokers.into_keys() {
            let request = ListGroupsRequest::default();
            let response = client.request(Broker::Node(node), &request).await?;
            ClientError::check(response.error_code, || "listing groups".into())?;
            groups.extend(response.groups);
        }
        Ok(groups)
    };
    let groups = client.retry(Broker::Any, ask).await?;
    let mut groups: Vec<Listed> = groups
        .into_iter()
        .map(|group| Listed {
            group: group.group_id,
            state: group.group_state,
            protocol_type: group.protocol_type,
        })
        .collect();
    groups.sort_by(|a, b| a.group.cmp(&b.group));
    Ok(groups)
}

fn list(target: &KafkaTarget) -> Outcome {
    let client = target.client()?;
    let groups = run(async { listed(&client).await.map_err(|error| target.failure(error)) })?;
    if target.json {
        return print_json(&groups);
    }
    if groups.is_empty() {
        return print("no groups yet\n");
    }
    let mut table = Table::new(&["GROUP", "STATE", "TYPE"]);
    for group in groups {
        table.row([group.group, group.state, group.protocol_type]);
    }
    table.print()
}

#[derive(Serialize)]
struct Description {
    group: String,
    state: String,
    protocol_type: String,
    /// The assignor that the members agreed on.
    protocol: String,
    members: Vec<Member>,
    offsets: Vec<OffsetLag>,
}

#[derive(Serialize)]
struct Member {
    member_id: String,
    instance_id: Option<String>,
    client_id: String,
    host: String,
}

#[derive(Serialize)]
struct OffsetLag {
    topic: String,
    partition: i32,
    committed: i64,
    end: i64,
    lag: i64,
}

fn describe(names: &[String], target: &KafkaTarget) -> Outcome {
    let client = target.client()?;
    let groups = run(async {
        let names = match names {
            [] => {
                let all = listed(&client).await.map_err(|error| target.failure(error))?;
                all.into_iter().map(|group| group.group).collect()
            }
            names => names.to_vec(),
        };
        let mut groups = Vec::new();
        for name in &names {
            groups.push(described(&client, name).await.map_err(|error| target.failure(error))?);
        }
        Ok(groups)
    })?;
    if target.json {
        return print_json(&groups);
    }
    for (at, group) in groups.iter().enumerate() {
        let gap = if at > 0 { "\n" } else { "" };
        let assignor = match group.protocol.as_str() {
            "" => String::new(),
            protocol => format!(", {protocol}"),
        };
        print(&format!("{gap}{}: {}{assignor}\n", group.group, group.state))?;
        if !group.members.is_empty() {
            let mut table = Table::new(&["MEMBER", "CLIENT", "HOST"]);
            for member in &group.members {
                let host = member.host.trim_start_matches('/').to_string();
                table.row([member.member_id.clone(), member.client_id.clone(), host]);
            }
            table.print()?;
        }
        if !group.offsets.is_empty() {
            let mut table = Table::new(&["TOPIC", "PARTITION", "COMMITTED", "END", "LAG"]);
            for offset in &group.offsets {
                let numbers =
                    [i64::from(offset.partition), offset.committed, offset.end, offset.lag];
                let numbers = numbers.into_iter().map(|number| number.to_string());
                table.row([offset.topic.clone()].into_iter().chain(numbers));
            }
            table.print()?;
        }
    }
    Ok(())
}

async fn described(client: &Client, name: &str) -> Result<Description, ClientError> {
    let request = DescribeGroupsRequest { groups: vec![name.to_string()], ..Default::default() };
    let ask = async || {
        let response = client.request(Broker::Group(name), &request).await?;
        let group = response.groups.into_iter().next().unwrap_or_default();
        let context = || match &group.error_message {
            Some(message) => format!("describing group {name}: {message}"),
            None => format!("describing group {name}"),
        };
        ClientError::check(group.error_code, context)?;
        Ok(group)
    };
    let group = client.retry(Broker::Group(name), ask).await?;
    let committed = client.committed(name, None, false).await?;
    let ends = ends(client, &committed).await?;
    let offsets = committed.iter().map(|offset| {
        let end = ends.get(&(offset.topic.clone(), offset.partition)).copied().unwrap_or(-1);
        OffsetLag {
            topic: offset.topic.clone(),
            partition: offset.partition,
            committed: offset.offset,
            end,
            lag: (end - offset.offset).max(0),
        }
    });
    let member = |member: weir_core::wire::group::DescribedGroupMember| Member {
        member_id: member.member_id,
        instance_id: member.group_instance_id,
        client_id: member.client_id,
        host: member.client_host,
    };
    Ok(Description {
        group: name.to_string(),
        offsets: offsets.collect(),
        state: group.group_state,
        protocol_type: group.protocol_type,
        protocol: group.protocol_data,
        members: group.members.into_iter().map(member).collect(),
    })
}

type Offsets = BTreeMap<(String, i32), i64>;

/// Where the partitions end; those of deleted topics are missing.
async fn ends(client: &Client, committed: &[CommittedOffset]) -> Result<Offsets, ClientError> {
    let mut ends = Offsets::new();
    let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for offset in committed {
        by_topic.entry(&offset.topic).or_default().push(offset.partition);
    }
    for (topic, partitions) in by_topic {
        let Ok(known) = client.topic(topic).await else { continue };
        let there = partitions
            .into_iter()
            .filter(|partition| known.partitions.iter().any(|known| known.index == *partition));
        let wanted: Vec<_> = there.map(|p| (topic.to_string(), p, LATEST)).collect();
        for found in client.list_offsets(&wanted).await? {
            ends.insert((found.topic, found.partition), found.offset);
        }
    }
    Ok(ends)
}

#[derive(Serialize)]
struct NewOffset {
    topic: String,
    partition: i32,
    offset: i64,
}

#[derive(Clone, Copy)]
enum To {
    Offset(i64),
    Shift(i64),
    /// A timestamp, or one of Kafka's two special ones.
    Time(i64),
}

impl To {
    fn parse(text: &str) -> Option<To> {
        match text {
            "earliest" => Some(To::Time(EARLIEST)),
            "latest" => Some(To::Time(LATEST)),
            _ if text.starts_with(['+', '-']) => text.parse().ok().map(To::Shift),
            _ => match text.strip_prefix("time:") {
                Some(ms) => ms.parse().ok().filter(|ms| *ms >= 0).map(To::Time),
                None => text.parse().ok().map(To::Offset),
            },
        }
    }
}

fn reset(group: &str, topics: &[String], to: To, dry_run: bool, target: &KafkaTarget) -> Outcome {
    let client = target.client()?;
    let mut changed = run(async {
        let changed = new_offsets(&client, group, topics, to).await;
        let changed = changed.map_err(|error| target.failure(error))?;
        if changed.is_empty() {
            let sentence =
                format!("group {group} has no committed offsets: name topics by --topic");
            return Err(Failure::Failed(sentence));
        }
        if !dry_run {
            let committed = client.commit(group, &changed).await;
            committed.map_err(|error| target.failure(error))?;
        }
        Ok(changed)
    })?;
    changed.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    if target.json {
        let row = |offset: &CommittedOffset| NewOffset {
            topic: offset.topic.clone(),
            partition: offset.partition,
            offset: offset.offset,
        };
        let rows: Vec<NewOffset> = changed.iter().map(row).collect();
        return print_json(&rows);
    }
    if dry_run {
        print("would be committed:\n")?;
    }
    let mut table = Table::new(&["TOPIC", "PARTITION", "OFFSET"]);
    for offset in &changed {
        let numbers = [offset.partition.to_string(), offset.offset.to_string()];
        table.row([offset.topic.clone()].into_iter().chain(numbers));
    }
    table.print()
}

async fn new_offsets(
    client: &Client,
    group: &str,
    topics: &[String],
    to: To,
) -> Result<Vec<CommittedOffset>, ClientError> {
    let committed = client.committed(group, None, false).await?;
    let mut partitions: Vec<(String, i32)> = Vec::new();
    for text in topics {
        let one = text.rsplit_once(':').and_then(|(topic, p)| Some((topic, p.parse().ok()?)));
        match one {
            Some((topic, partition)) => partitions.push((topic.to_string(), partition)),
            None => {
                let topic = client.topic(text).await?;
                let each = topic.partitions.iter().map(|p| (text.clone(), p.index));
                partitions.extend(each);
            }
        }
    }
    if topics.is_empty() {
        partitions.extend(committed.iter().map(|offset| (offset.topic.clone(), offset.partition)));
    }
    let before = |topic: &str, partition| {
        let found = committed.iter().find(|o| o.topic == topic && o.partition == partition);
        found.map(|offset| offset.offset)
    };
    let mut changed = Vec::new();
    for (topic, partition) in partitions {
        let at = |time| (topic.clone(), partition, time);
        let bounds = client.list_offsets(&[at(EARLIEST), at(LATEST)]).await?;
        let (start, end) = (bounds[0].offset, bounds[1].offset);
        let offset = match to {
            To::Offset(offset) => offset,
            To::Shift(records) => before(&topic, partition).unwrap_or(end) + records,
            To::Time(time) => match client.list_offsets(&[at(time)]).await?[0].offset {
                // Nothing is that new.
                -1 => end,
                offset => offset,
            },
        };
        changed.push(CommittedOffset {
            topic,
            partition,
            offset: offset.clamp(start, end),
            leader_epoch: -1,
            metadata: String::new(),
        });
    }
    Ok(changed)
}

fn delete(names: &[String], target: &KafkaTarget) -> Outcome {
    let client = target.client()?;
    run(async {
        for name in names {
            let request = DeleteGroupsRequest { groups_names: vec![name.clone()] };
            let ask = async || {
                let response = client.request(Broker::Group(name), &request).await?;
                for result in response.results {
                    ClientError::check(result.error_code, || format!("deleting group {name}"))?;
                }
                Ok(())
            };
            let deleted = client.retry(Broker::Group(name), ask).await;
            deleted.map_err(|error| target.failure(error))?;
        }
        Ok(())
    })?;
    if target.json {
        return print_json(&BTreeMap::from([("deleted", names)]));
    }
    names.iter().try_for_each(|name| print(&format!("deleted {name}\n")))
}
