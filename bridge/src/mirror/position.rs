//! What stands in the metadata of a committed source position.
//!
//! ```text
//! weir1 <source topic id, 32 hex digits> <pair>,<pair>,…
//! pair: <first source offset>-<last source offset>@<base offset on the target>+<records>
//! ```
//!
//! Why here (2026-11): the pairs of the newest transaction are exact, cost nothing but their bytes,
//! and cannot disagree with the position, since they are the same record. Pairs of older
//! transactions are in the records: every one that was packed here carries `weir.offset`. A topic
//! of its own for pairs, as MirrorMaker 2 has it, would add a partition to each transaction for
//! what is rarely asked.

use weir_core::types::TopicId;

/// Kafka's `offset.metadata.max.bytes` is 4,096; others are stricter.
const METADATA_BYTES_MAX: usize = 1_000;

const MAGIC: &str = "weir1";

/// Where a run of source offsets stands on the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub first: i64,
    pub last: i64,
    pub target: i64,
    /// Fewer than the source offsets when those have holes.
    pub records: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    /// The topic that the position is of: another one of the same name starts anew.
    pub topic_id: TopicId,
    /// Of the newest transaction that carried records, the oldest first.
    pub pairs: Vec<Pair>,
}

impl Metadata {
    /// As many of the newest pairs as fit.
    pub fn encode(&self) -> String {
        let mut text = format!("{MAGIC} {:?} ", self.topic_id);
        let mut kept: Vec<String> = Vec::new();
        let mut bytes = text.len();
        for pair in self.pairs.iter().rev() {
            let pair = format!("{}-{}@{}+{}", pair.first, pair.last, pair.target, pair.records);
            bytes += pair.len() + 1;
            if bytes > METADATA_BYTES_MAX {
                break;
            }
            kept.push(pair);
        }
        kept.reverse();
        text.push_str(&kept.join(","));
        text
    }

    /// `None` when it is not ours: somebody set the offset by hand.
    pub fn decode(text: &str) -> Option<Metadata> {
        let mut words = text.split(' ');
        if words.next()? != MAGIC {
            return None;
        }
        let id = words.next()?;
        if id.len() != 32 || !id.is_ascii() {
            return None;
        }
        let id = u128::from_str_radix(id, 16).ok()?;
        let pairs = words.next()?.split(',').filter(|pair| !pair.is_empty()).map(Pair::decode);
        Some(Metadata { topic_id: TopicId(id.to_be_bytes()), pairs: pairs.collect::<Option<_>>()? })
    }

    /// The offset on the target after the last record.
    pub fn target_next(&self) -> i64 {
        self.pairs.last().map_or(-1, |pair| pair.target + i64::from(pair.records))
    }
}

impl Pair {
    fn decode(text: &str) -> Option<Pair> {
        let (source, target) = text.split_once('@')?;
        let (first, last) = source.split_once('-')?;
        let (target, records) = target.split_once('+')?;
        Some(Pair {
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            target: target.parse().ok()?,
            records: records.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn metadata_comes_back_and_keeps_the_newest_pairs() {
        let pair = |n: i64| {
            let first = n * 1_000_000;
            Pair { first, last: first + 19, target: n, records: 10 }
        };
        let mut metadata =
            Metadata { topic_id: TopicId([0xab; 16]), pairs: (0..3).map(pair).collect() };
        assert_eq!(Metadata::decode(&metadata.encode()), Some(metadata.clone()));
        assert_eq!(metadata.target_next(), 12);
        metadata.pairs = (0..500).map(pair).collect();
        let text = metadata.encode();
        assert!(text.len() <= METADATA_BYTES_MAX);
        let kept = Metadata::decode(&text).unwrap().pairs;
        assert_eq!(kept[..], metadata.pairs[500 - kept.len()..]);
        let empty = Metadata::default();
        assert_eq!(Metadata::decode(&empty.encode()), Some(empty));
    }

    #[test]
    fn metadata_of_others_is_not_ours() {
        for text in ["", "weir1", "weir1 xyz ", "hello", "weir1 00 1-2@3", "weir2 00 "] {
            assert_eq!(Metadata::decode(text), None, "{text:?}");
        }
    }
}
