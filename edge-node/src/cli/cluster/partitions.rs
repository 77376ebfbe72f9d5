//! `weir cluster elect` and `weir cluster reassign`: who leads partitions, and who holds them.

use super::super::args::KafkaTarget;
use super::super::connect::run;
use super::super::output::{Table, print, print_json};
use super::super::{Failure, Outcome};
use super::{counted, explained, selected};
use serde::Serialize;
use weir_bridge::client::{Broker, Client, Error};
use weir_core::error::ErrorCode;
use weir_core::wire::replicas::{
    AlterPartitionReassignmentsRequest, ElectLeadersRequest, ListPartitionReassignmentsRequest,
    ReassignablePartition, ReassignableTopic, TopicPartitions,
};

/// A partition on its way to other gateways.
#[derive(Serialize)]
pub struct Moving {
    topic: String,
    partition: i32,
    replicas: Vec<i32>,
    adding: Vec<i32>,
    removing: Vec<i32>,
}

/// What was answered for one partition.
#[derive(Serialize)]
struct Done {
    topic: String,
    partition: i32,
    error: Option<String>,
}

pub async fn moving(client: &Client) -> Result<Vec<Moving>, Error> {
    let ask = async || {
        let request = ListPartitionReassignmentsRequest::default();
        let response = client.request(Broker::Controller, &request).await?;
        let doing = "asking for reassignments".to_string();
        Error::check(response.error_code, || explained(doing, &response.error_message))?;
        Ok(response.topics)
    };
    let topics = client.retry(Broker::Controller, ask).await?;
    let moving = topics.into_iter().flat_map(|topic| {
        let name = topic.name;
        topic.partitions.into_iter().map(move |partition| Moving {
            topic: name.clone(),
            partition: partition.partition_index,
            replicas: partition.replicas,
            adding: partition.adding_replicas,
            removing: partition.removing_replicas,
        })
    });
    Ok(moving.collect())
}

pub fn elect(names: &[String], unclean: bool, target: &KafkaTarget) -> Outcome {
    let client = target.client()?;
    let answers = run(async {
        let wanted = selected(&client, target, names).await?;
        let topics =
            wanted.into_iter().map(|(topic, partitions)| TopicPartitions { topic, partitions });
        let request = ElectLeadersRequest {
            election_type: i8::from(unclean),
            topic_partitions: (!names.is_empty()).then(|| topics.collect()),
            ..Default::default()
        };
        let ask = async || {
            let response = client.request(Broker::Controller, &request).await?;
            Error::check(response.error_code, || "electing leaders".into())?;
            Ok(response.replica_election_results)
        };
        client.retry(Broker::Controller, ask).await.map_err(|error| target.failure(error))
    })?;
    let answers = answers.into_iter().flat_map(|topic| {
        let name = topic.topic;
        topic.partition_result.into_iter().map(move |answer| {
            // That it is so already is what was asked for.
            let needed = answer.error_code != ErrorCode::ELECTION_NOT_NEEDED;
            Done {
                topic: name.clone(),
                partition: answer.partition_id,
                error: said(answer.error_code, answer.error_message).filter(|_| needed),
            }
        })
    });
    let answers: Vec<Done> = answers.collect();
    if answers.is_empty() && !target.json {
        return print("nothing to elect: preferred leaders lead already\n");
    }
    show(target, &answers, "led as wished", "elected")
}

pub fn reassign(names: &[String], to: Vec<i32>, cancel: bool, target: &KafkaTarget) -> Outcome {
    if names.is_empty() {
        return show_moving(target);
    }
    if to.is_empty() && !cancel {
        let sentence = "say where to, as in --to 1,2,3, or --cancel";
        return Err(Failure::Usage(sentence.into()));
    }
    let client = target.client()?;
    let answers = run(async {
        let wanted = selected(&client, target, names).await?;
        let topics = wanted.into_iter().map(|(name, partitions)| {
            let whole = names.contains(&name);
            let partition = |partition_index: i32| ReassignablePartition {
                partition_index,
                replicas: (!cancel).then(|| turned(&to, if whole { partition_index } else { 0 })),
            };
            ReassignableTopic { name, partitions: partitions.into_iter().map(partition).collect() }
        });
        let request =
            AlterPartitionReassignmentsRequest { topics: topics.collect(), ..Default::default() };
        let ask = async || {
            let response = client.request(Broker::Controller, &request).await?;
            let doing = "reassigning partitions".to_string();
            Error::check(response.error_code, || explained(doing, &response.error_message))?;
            Ok(response.responses)
        };
        client.retry(Broker::Controller, ask).await.map_err(|error| target.failure(error))
    })?;
    let answers = answers.into_iter().flat_map(|topic| {
        let name = topic.name;
        topic.partitions.into_iter().map(move |answer| Done {
            topic: name.clone(),
            partition: answer.partition_index,
            error: said(answer.error_code, answer.error_message),
        })
    });
    let done = if cancel { "back where they were" } else { "on the way" };
    show(target, &answers.collect::<Vec<Done>>(), done, "reassigned")
}

/// Each partition of a topic begins with another gateway, so that they share the leaderships.
fn turned(to: &[i32], partition: i32) -> Vec<i32> {
    let mut replicas = to.to_vec();
    replicas.rotate_left(usize::try_from(partition).unwrap_or(0) % to.len().max(1));
    replicas
}

fn said(code: ErrorCode, message: Option<String>) -> Option<String> {
    code.is_error().then(|| match message {
        Some(message) => format!("{message} ({code})"),
        None => code.to_string(),
    })
}

fn show(target: &KafkaTarget, answers: &[Done], done: &str, verb: &str) -> Outcome {
    if target.json {
        print_json(&answers)?;
    }
    let failed: Vec<&Done> = answers.iter().filter(|answer| answer.error.is_some()).collect();
    if !target.json {
        let good = answers.len() - failed.len();
        print(&format!("{} {done}\n", counted(good, "partition")))?;
        for answer in &failed {
            let why = answer.error.as_deref().unwrap_or_default();
            print(&format!("{}-{}: {why}\n", answer.topic, answer.partition))?;
        }
    }
    match failed.len() {
        0 => Ok(()),
        count => Err(Failure::Failed(format!("{} not {verb}", counted(count, "partition")))),
    }
}

fn show_moving(target: &KafkaTarget) -> Outcome {
    let client = target.client()?;
    let moving = run(async { moving(&client).await.map_err(|error| target.failure(error)) })?;
    if target.json {
        return print_json(&moving);
    }
    if moving.is_empty() {
        return print("nothing is on its way\n");
    }
    let nodes = |nodes: &[i32]| match nodes {
        [] => "-".to_string(),
        nodes => nodes.iter().map(i32::to_string).collect::<Vec<_>>().join(","),
    };
    let mut table = Table::new(&["TOPIC", "PARTITION", "REPLICAS", "ADDING", "REMOVING"]);
    for partition in &moving {
        table.row([
            partition.topic.clone(),
            partition.partition.to_string(),
            nodes(&partition.replicas),
            nodes(&partition.adding),
            nodes(&partition.removing),
        ]);
    }
    table.print()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_partitions_of_a_topic_take_turns_in_who_leads() {
        assert_eq!(turned(&[4, 5, 6], 0), [4, 5, 6]);
        assert_eq!(turned(&[4, 5, 6], 1), [5, 6, 4]);
        assert_eq!(turned(&[4, 5, 6], 5), [6, 4, 5]);
        assert_eq!(turned(&[4], 7), [4]);
    }
}
