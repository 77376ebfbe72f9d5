//! Gap markers: a record on the target that says which source offsets will never come, and why.
//!
//! ```text
//! key       weir.gap
//! value     {"from":120,"to":180,"reason":"…"}     source offsets, `to` excluded
//! headers   weir.gap (the reason), weir.cluster, weir.topic, weir.partition, weir.offset (`from`)
//! ```

use std::time::{SystemTime, UNIX_EPOCH};

use weir_core::batch::Builder;

use super::rebatch::{HEADER_CLUSTER, HEADER_OFFSET, HEADER_PARTITION, HEADER_TOPIC, Origin};

/// The key of a marker, and the header that holds its reason.
pub const GAP: &str = "weir.gap";

/// Source offsets that are missing on the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub from: i64,
    /// Excluded.
    pub to: i64,
    pub reason: String,
}

impl Gap {
    /// Retention or DeleteRecords was faster than the link.
    pub const TRIMMED: &str = "trimmed at the source before it was mirrored";
    /// The source's log ends before what was mirrored; what it has lost is on the target.
    pub const TRUNCATED: &str = "the source lost records that the target has";
    /// A hole where compaction makes none: the source's disk has lost what stood there.
    pub const DAMAGED: &str = "lost at the source to damage";
    /// Another topic of the same name.
    pub const RECREATED: &str = "the source topic was deleted and created again";

    pub fn write(&self, builder: &mut Builder, origin: &Origin) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as i64);
        // Only what has to be escaped in JSON; reasons are sentences, at times a broker's.
        let reason: String = self
            .reason
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c]))
            .collect();
        let value = format!(r#"{{"from":{},"to":{},"reason":"{reason}"}}"#, self.from, self.to);
        let (partition, offset) = (origin.partition.to_string(), self.from.to_string());
        let headers = [
            (GAP, Some(self.reason.as_bytes())),
            (HEADER_CLUSTER, Some(origin.cluster.as_bytes())),
            (HEADER_TOPIC, Some(origin.topic.as_bytes())),
            (HEADER_PARTITION, Some(partition.as_bytes())),
            (HEADER_OFFSET, Some(offset.as_bytes())),
        ];
        builder.push(now, Some(GAP.as_bytes()), Some(value.as_bytes()), &headers);
    }
}
