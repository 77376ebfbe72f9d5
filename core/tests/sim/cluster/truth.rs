//! What all gateways together have shown, and the checkers of what a site promises.

use super::gateway::Gateway;
use super::net::Way;
use crate::checks::{Verdict, Violation};
use bytes::Bytes;
use std::collections::BTreeMap;
use weir_core::batch::{self, Header};
use weir_core::node::{ReplicaRole, ReplicaStatus, SiteStatus};
use weir_core::peer::Message;
use weir_core::replica::{Answer, Content, Fetch, RangeAnswer};
use weir_core::types::{NodeId, PartitionNumber, Time};

/// At most one start of one gateway leads a partition in an epoch.
pub struct SingleLeaderPerEpoch;

/// A gateway that leads the quorum has every entry that anybody has applied.
pub struct LeaderCompleteness;

/// Gateways that have applied the same entries know the same.
pub struct MetadataLogMatching;

/// What replicas hand each other at an offset, of an epoch, is always the same batch.
pub struct LogMatching;

/// Every in-sync replica has everything below the leader's high watermark on flash.
pub struct StrongIsr;

/// What was committed is in the log of every later leader.
pub struct NoCommittedRecordLostGlobally;

/// A replica that is out of sync and lacks something never says that it has it.
pub struct WholeInSync;

/// The high watermark of a leader never goes back in its epoch, nor does what followers are told.
pub struct MonotonicHighWatermark;

macro_rules! fails {
    ($($checker:ident),*) => {$(
        impl $checker {
            fn fails(what: String) -> Verdict {
                Err(Violation { checker: stringify!($checker), what })
            }
        }
    )*};
}

fails!(
    SingleLeaderPerEpoch,
    LeaderCompleteness,
    MetadataLogMatching,
    LogMatching,
    StrongIsr,
    NoCommittedRecordLostGlobally,
    WholeInSync,
    MonotonicHighWatermark
);

#[derive(Default)]
pub struct Truth {
    /// Who has led a partition in an epoch, and the highest high watermark there.
    led: BTreeMap<(u32, i32), (Who, i64)>,
    /// By partition, base offset and epoch: what a batch is, and the epoch of the one before it, if
    /// that is known.
    batches: BTreeMap<(u32, i64, i32), (u32, Option<i32>)>,
    /// By the last entry that is applied.
    images: BTreeMap<u64, u32>,
    terms: BTreeMap<u64, Who>,
    /// The high watermark that a follower was told last, of a partition in an epoch.
    told: BTreeMap<(Way, u32, i32), i64>,
    applied: BTreeMap<NodeId, u64>,
    /// What gateways lacked when they were looked at last: from where on.
    lacked: BTreeMap<(Who, u32), i64>,
}

/// A gateway, and which start of it.
type Who = (NodeId, u32);

impl Truth {
    /// Looks at a gateway after something has happened to it.
    pub fn look(&mut self, now: Time, gateway: &Gateway) -> Verdict {
        let Some(node) = &gateway.node else { return Ok(()) };
        let who = (gateway.id, gateway.boot);
        let site = node.site_status(now);
        if site.controller == Some(gateway.id.0) {
            self.decides(who, &site)?;
        }
        if site.applied > 0 && self.applied.insert(gateway.id, site.applied) != Some(site.applied) {
            let digest = node.metadata_digest();
            let first = *self.images.entry(site.applied).or_insert(digest);
            if first != digest {
                let what =
                    format!("{who:?} knows other things than another up to {}", site.applied);
                return MetadataLogMatching::fails(what);
            }
        }
        for replica in node.replicas_status() {
            match replica.damaged_from.filter(|_| !replica.state.is_in_sync(gateway.id)) {
                Some(from) => self.lacked.insert((who, replica.number), from),
                None => self.lacked.remove(&(who, replica.number)),
            };
            if replica.role == ReplicaRole::Leads {
                self.leads(who, &replica)?;
            }
        }
        Ok(())
    }

    /// From its election on, before it has said anything to anybody. Of an older term than another
    /// leader it may lack what that one has committed.
    fn decides(&mut self, who: Who, site: &SiteStatus) -> Verdict {
        let term = site.term;
        let is_new = !self.terms.contains_key(&term);
        let first = *self.terms.entry(term).or_insert(who);
        if first != who {
            let what = format!("{first:?} and {who:?} lead the quorum in term {term}");
            return SingleLeaderPerEpoch::fails(what);
        }
        let is_newest = self.terms.last_key_value().is_some_and(|(newest, _)| *newest == term);
        let applied = self.images.last_key_value().map_or(0, |(index, _)| *index);
        // The first entry of its term it has made itself.
        let last = site.last_index - u64::from(is_new);
        if is_newest && last < applied {
            let what = format!("{who:?} leads with {last} entries, applied were {applied}");
            return LeaderCompleteness::fails(what);
        }
        Ok(())
    }

    fn leads(&mut self, who: Who, replica: &ReplicaStatus) -> Verdict {
        let (number, epoch) = (replica.number, replica.epoch);
        let before = self.led.range((number, i32::MIN)..(number, epoch)).map(|(_, (_, hw))| *hw);
        let committed = before.max().unwrap_or(0);
        let is_new = !self.led.contains_key(&(number, epoch));
        if is_new && replica.log_end < committed {
            let end = replica.log_end;
            let what = format!(
                "{who:?} leads partition {number} in epoch {epoch} up to {end}, committed is \
                 {committed}"
            );
            return NoCommittedRecordLostGlobally::fails(what);
        }
        let (first, known) = self.led.entry((number, epoch)).or_insert((who, 0));
        if *first != who {
            let what = format!("{first:?} and {who:?} lead partition {number} in epoch {epoch}");
            return SingleLeaderPerEpoch::fails(what);
        }
        let now = replica.high_watermark;
        if now < *known {
            let what = format!("partition {number} in epoch {epoch}: from {known} to {now}");
            return MonotonicHighWatermark::fails(what);
        }
        *known = now;
        Ok(())
    }

    /// Holds what in-sync replicas have against their leaders' high watermarks.
    pub fn check_isr(gateways: &[Gateway]) -> Verdict {
        let mut held: BTreeMap<u32, Vec<(NodeId, ReplicaStatus)>> = BTreeMap::new();
        for gateway in gateways.iter().filter(|gateway| gateway.serves) {
            for replica in gateway.node.iter().flat_map(|node| node.replicas_status()) {
                held.entry(replica.number).or_default().push((gateway.id, replica));
            }
        }
        for (number, replicas) in held {
            let newest = replicas.iter().max_by_key(|(_, replica)| replica.state.partition_epoch);
            let Some((_, newest)) = newest else { continue };
            let state = newest.state.clone();
            let leads = |(_, it): &&(NodeId, ReplicaStatus)| {
                it.role == ReplicaRole::Leads && it.epoch == state.leader_epoch
            };
            let Some((leader, leading)) = replicas.iter().find(leads) else { continue };
            let end = leading.high_watermark;
            for (node, replica) in &replicas {
                let knows = replica.state.is_replica(*node);
                if state.is_in_sync(*node) && knows && replica.durable_end < end {
                    let has = replica.durable_end;
                    let what = format!(
                        "{node:?} is in sync and has {has} of partition {number}, {leader:?} has \
                         committed {end}"
                    );
                    return StrongIsr::fails(what);
                }
            }
        }
        Ok(())
    }

    /// What a follower asks for. It may have been made before the damage was known, and sent after.
    pub fn fetched(&self, gateway: &Gateway, message: &Message) -> Verdict {
        let (Message::Fetch(bytes), Some(node)) = (message, &gateway.node) else { return Ok(()) };
        let Ok((number, fetch)) = postcard::from_bytes::<(PartitionNumber, Fetch)>(bytes) else {
            return Ok(());
        };
        let who = (gateway.id, gateway.boot);
        let Some(lacked) = self.lacked.get(&(who, number.0)) else { return Ok(()) };
        let is_this = |replica: &ReplicaStatus| replica.number == number.0;
        let replica = node.replicas_status().into_iter().find(is_this);
        let lacks = replica.filter(|it| !it.state.is_in_sync(gateway.id));
        let Some(from) = lacks.and_then(|it| it.damaged_from) else { return Ok(()) };
        if fetch.durable_offset.0 > from.max(*lacked) {
            let says = fetch.durable_offset;
            let what = format!("{who:?} lacks {from} of partition {number:?} and says {says}");
            return WholeInSync::fails(what);
        }
        Ok(())
    }

    /// What a leader sends to a follower, and replicas to one that has lost something.
    pub fn sent(&mut self, way: Way, message: &Message) -> Verdict {
        if let Message::Range(head, records) = message {
            let head = postcard::from_bytes::<(PartitionNumber, RangeAnswer)>(head);
            return head.map_or(Ok(()), |(number, _)| self.batches(number, records));
        }
        let Message::Records(head, records) = message else { return Ok(()) };
        let Ok((number, answer)) = postcard::from_bytes::<(PartitionNumber, Answer)>(head) else {
            return Ok(());
        };
        if !matches!(answer.content, Content::Batches { .. }) {
            return Ok(());
        }
        let told = (way, number.0, answer.leader_epoch.0);
        let before = self.told.insert(told, answer.high_watermark.0);
        if let Some(before) = before.filter(|before| answer.high_watermark.0 < *before) {
            let now = answer.high_watermark.0;
            let what = format!("{told:?} was told {before}, now {now}");
            return MonotonicHighWatermark::fails(what);
        }
        self.batches(number, records)
    }

    fn batches(&mut self, number: PartitionNumber, records: &[Bytes]) -> Verdict {
        for records in records {
            let mut rest = records.clone();
            let mut before = None;
            while let Some(Ok((header, bytes))) = batch::next_batch(&mut rest) {
                self.batch(number, &header, crc32c::crc32c(&bytes), before)?;
                before = Some(header.partition_leader_epoch);
            }
        }
        Ok(())
    }

    fn batch(
        &mut self,
        number: PartitionNumber,
        header: &Header,
        crc: u32,
        before: Option<i32>,
    ) -> Verdict {
        let (base, epoch) = (header.base_offset.0, header.partition_leader_epoch);
        let first = self.batches.entry((number.0, base, epoch)).or_insert((crc, before));
        let same = first.1.is_none() || before.is_none() || first.1 == before;
        if first.0 != crc || !same {
            let what = format!("partition {} has two batches at {base} of {epoch}", number.0);
            return LogMatching::fails(what);
        }
        first.1 = first.1.or(before);
        Ok(())
    }
}
