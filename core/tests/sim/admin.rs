//! A simulated administrator: creates and deletes topics that come and go, and trims the others.

use crate::checks::{AckedIsDurable, Bounded, Verdict};
use crate::client::{Call, Context, Target, read};
use bytes::Bytes;
use std::collections::BTreeSet;
use weir_core::error::ErrorCode;
use weir_core::types::Nanos;
use weir_core::wire::topics::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, DeleteRecordsPartition,
    DeleteRecordsRequest, DeleteRecordsTopic, DeleteTopicsRequest,
};

pub struct Admin {
    /// Topics with partitions that must be there before anything else.
    fixed: Vec<(String, i32)>,
    targets: Vec<Target>,
    churn: bool,
    trims: bool,
    pub replication_factor: i16,
    /// Topics of which a request was lost that may still be done, at a site.
    unsure: BTreeSet<String>,
    asked: Option<String>,
    /// Topic configs of what is created.
    pub configs: Vec<(&'static str, String)>,
}

impl Admin {
    pub fn new(fixed: Vec<(String, i32)>, targets: Vec<Target>, churn: bool, trims: bool) -> Admin {
        Admin {
            fixed,
            targets,
            churn,
            trims,
            replication_factor: 1,
            unsure: BTreeSet::new(),
            asked: None,
            configs: Vec::new(),
        }
    }

    pub fn act(&mut self, context: &mut Context<'_>, in_flight: usize) -> Nanos {
        if in_flight > 0 {
            return context.pause_ms(5, 50);
        }
        let missing = self
            .fixed
            .iter()
            .find(|(name, _)| context.shared.topics.get(name) != Some(&Some(true)));
        if let Some((name, partitions)) = missing.cloned() {
            self.create(context, &name, partitions);
            return context.pause_ms(1, 20);
        }
        match context.rng.below(10) {
            0..3 if self.churn => {
                let name = format!("churn-{}", context.rng.below(3));
                match context.shared.topics.get(&name) {
                    Some(Some(true)) => self.delete(context, &name),
                    _ => {
                        let partitions = 1 + context.rng.below(3) as i32;
                        self.create(context, &name, partitions);
                    }
                }
            }
            3..6 if self.trims => self.trim(context),
            _ => {}
        }
        context.pause_ms(20, 300)
    }

    fn create(&mut self, context: &mut Context<'_>, name: &str, num_partitions: i32) {
        // Until the answer comes nobody knows, unless it is known to be there.
        let state = context.shared.topics.entry(name.into()).or_insert(None);
        if *state == Some(false) {
            *state = None;
        }
        let name = name.to_string();
        let configs = self.configs.iter().map(|(name, value)| CreatableTopicConfig {
            name: name.to_string(),
            value: Some(value.clone()),
        });
        let topic = CreatableTopic {
            name: name.clone(),
            num_partitions,
            replication_factor: self.replication_factor,
            configs: configs.collect(),
            ..Default::default()
        };
        let request =
            CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, validate_only: false };
        self.asked = Some(name.clone());
        context.ask(&request, 5, Call::Create(name));
    }

    fn delete(&mut self, context: &mut Context<'_>, name: &str) {
        context.shared.topics.insert(name.into(), None);
        let request = DeleteTopicsRequest {
            topic_names: vec![name.into()],
            timeout_ms: 30_000,
            ..Default::default()
        };
        self.asked = Some(name.into());
        context.ask(&request, 5, Call::Delete(name.into()));
    }

    fn trim(&mut self, context: &mut Context<'_>) {
        let place = context.rng.below(self.targets.len() as u64) as usize;
        let target = self.targets[place].clone();
        let history = context.shared.history(&target);
        let span = history.high_watermark - history.log_start_max;
        if span <= 0 {
            return;
        }
        let offset = history.log_start_max + context.rng.below(span as u64 / 2 + 1) as i64;
        context.shared.history(&target).log_start_max = offset;
        let partitions = vec![DeleteRecordsPartition { partition_index: target.1, offset }];
        let topics = vec![DeleteRecordsTopic { name: target.0.clone(), partitions }];
        let request = DeleteRecordsRequest { topics, timeout_ms: 30_000 };
        context.ask(&request, 2, Call::Trim(target, offset));
    }

    pub fn answer(&mut self, context: &mut Context<'_>, call: Call, frame: &Bytes) -> Verdict {
        match call {
            Call::Create(name) => {
                let response = read::<CreateTopicsRequest>(frame, 5)?;
                let code = response.topics.first().map(|topic| topic.error_code);
                self.settled(context, name, code, true)
            }
            Call::Delete(name) => {
                let response = read::<DeleteTopicsRequest>(frame, 5)?;
                let code = response.responses.first().map(|topic| topic.error_code);
                self.settled(context, name, code, false)
            }
            Call::Trim(target, offset) => {
                let response = read::<DeleteRecordsRequest>(frame, 2)?;
                let partition = response.topics.first().and_then(|topic| topic.partitions.first());
                let Some(partition) = partition else {
                    return Bounded::fails(format!("the trim of {target:?} got no answer"));
                };
                match partition.error_code {
                    // As in Kafka, an answered trim may be forgotten by a crash: nothing is lost by
                    // it.
                    ErrorCode::NONE if partition.low_watermark >= offset => Ok(()),
                    code if code.is_retriable() => {
                        context.shared.refused(code);
                        Ok(())
                    }
                    code => {
                        AckedIsDurable::fails(format!("trim of {target:?} to {offset}: {code:?}"))
                    }
                }
            }
            call => Bounded::fails(format!("an administrator never asked for {call:?}")),
        }
    }

    /// An answer tells whether the topic is there, if it tells anything.
    fn settled(
        &mut self,
        context: &mut Context<'_>,
        name: String,
        code: Option<ErrorCode>,
        create: bool,
    ) -> Verdict {
        self.asked = None;
        let there = match code {
            Some(ErrorCode::NONE) => create,
            Some(ErrorCode::TOPIC_ALREADY_EXISTS) => true,
            Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => false,
            // Too few gateways are known yet.
            Some(ErrorCode::INVALID_REPLICATION_FACTOR) if self.replication_factor > 1 => {
                return Ok(());
            }
            Some(code) if code.is_retriable() => return Ok(()),
            code => return AckedIsDurable::fails(format!("{name}: {code:?}")),
        };
        let sure = !self.unsure.contains(&name);
        context.shared.topics.insert(name, sure.then_some(there));
        Ok(())
    }

    /// What was in flight stays unknown.
    pub fn lost(&mut self) {
        // Handed on to the controller, it may wait there longer than its connection lives. Fixed
        // topics are never deleted.
        if self.replication_factor > 1 {
            let asked = self.asked.take();
            let churns = |name: &String| !self.fixed.iter().any(|(fixed, _)| fixed == name);
            self.unsure.extend(asked.filter(churns));
        }
    }
}
