//! `weir cluster`: a site of gateways as its operator sees it.

mod drain;
mod partitions;
mod quorum;
mod status;

use super::args::KafkaTarget;
use super::args::cluster::Cluster;
use super::connect::run;
use super::output::{print, print_json};
use super::{Failure, Outcome};
use weir_bridge::client::{Broker, Client, Error};
use weir_core::wire::replicas::UnregisterBrokerRequest;

pub fn command(command: Cluster) -> Outcome {
    match command {
        Cluster::Status(target) => status::command(&target),
        Cluster::Drain { node, cancel, timeout, target } => match cancel {
            true => drain::cancel(node, &target),
            false => drain::drain(node, timeout, &target),
        },
        Cluster::Remove { node, target } => remove(node, &target),
        Cluster::Elect { partitions, unclean, target } => {
            partitions::elect(&partitions, unclean, &target)
        }
        Cluster::Reassign { partitions, to, cancel, target } => {
            partitions::reassign(&partitions, to, cancel, &target)
        }
        Cluster::Quorum(command) => quorum::command(&command),
    }
}

fn remove(node: i32, target: &KafkaTarget) -> Outcome {
    let client = target.client()?;
    let request = UnregisterBrokerRequest { broker_id: node };
    run(async {
        let ask = async || {
            let response = client.request(Broker::Controller, &request).await?;
            let context = || explained(format!("removing gateway {node}"), &response.error_message);
            Error::check(response.error_code, context)
        };
        client.retry(Broker::Controller, ask).await.map_err(|error| target.failure(error))
    })?;
    done(target, "removed", node, "")
}

/// Says what was done to a gateway, as text or as JSON.
fn done(target: &KafkaTarget, verb: &str, node: i32, more: &str) -> Outcome {
    match target.json {
        true => print_json(&serde_json::json!({ "node": node, "done": verb })),
        false => print(&format!("gateway {node}: {verb}{more}\n")),
    }
}

fn explained(doing: String, message: &Option<String>) -> String {
    match message {
        Some(message) => format!("{doing}: {message}"),
        None => doing,
    }
}

/// Topics, or one partition as TOPIC:PARTITION: whole topics become all of their partitions.
async fn selected(
    client: &Client,
    target: &KafkaTarget,
    texts: &[String],
) -> Result<Vec<(String, Vec<i32>)>, Failure> {
    let mut selected: Vec<(String, Vec<i32>)> = Vec::new();
    for text in texts {
        let (topic, partitions) = match text.split_once(':') {
            Some((topic, index)) => {
                let wrong = |_| Failure::Usage(format!("{text}: write it as TOPIC:PARTITION"));
                (topic.to_string(), vec![index.parse::<i32>().map_err(wrong)?])
            }
            None => {
                let ask = async || client.topic(text).await;
                let found = client.retry(Broker::Any, ask).await;
                let found = found.map_err(|error| target.failure(error))?;
                (text.clone(), found.partitions.iter().map(|known| known.index).collect())
            }
        };
        match selected.iter_mut().find(|(known, _)| *known == topic) {
            Some((_, known)) => known.extend(partitions),
            None => selected.push((topic, partitions)),
        }
    }
    for (_, partitions) in &mut selected {
        partitions.sort_unstable();
        partitions.dedup();
    }
    Ok(selected)
}

/// What there is a number of: "1 partition", "2 partitions".
fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Some names of many.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let more = names.len().saturating_sub(SHOWN);
    let shown = names[..names.len() - more].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}
