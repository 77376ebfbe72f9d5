//! The vocabulary that every module shares: small types that keep two bare integers apart.

use alloc::string::String;
use core::fmt;
use core::ops::{Add, Sub};
use serde::{Deserialize, Serialize};

/// A record's place in its partition. Kafka's `offset`: 0 or more; -1 means "none" on the wire
/// only.
#[derive(
    Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub struct Offset(pub i64);

impl Offset {
    pub const ZERO: Offset = Offset(0);
    /// What Kafka's protocol writes where there is no offset.
    pub const NONE: Offset = Offset(-1);

    pub fn plus(self, records: i64) -> Offset {
        Offset(self.0 + records)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Kafka's leader epoch of a partition (KIP-101). -1 means "unknown" on the wire.
#[derive(
    Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub struct LeaderEpoch(pub i32);

/// A gateway's `[node] id`: 0 or more, unique in a cluster.
#[derive(
    Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub struct NodeId(pub i32);

/// A registration of a gateway (KIP-903): the position of its record in the metadata's log, so that
/// a later one is greater.
#[derive(
    Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub struct BrokerEpoch(pub u64);

/// A partition's number in the flash log. Given out once by the metadata and never reused, so the
/// frames of a deleted topic are dead for ever.
#[derive(
    Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub struct PartitionNumber(pub u32);

impl PartitionNumber {
    /// The metadata log itself, `__cluster_metadata`.
    pub const METADATA: PartitionNumber = PartitionNumber(0);
    /// Snapshots of the metadata's image.
    pub const SNAPSHOT: PartitionNumber = PartitionNumber(u32::MAX - 2);
    /// The quorum's term, vote and formation: the newest record counts.
    pub const BALLOT: PartitionNumber = PartitionNumber(u32::MAX - 3);

    /// Whether it is one of the node's own, which no topic gets.
    pub fn is_reserved(self) -> bool {
        [PartitionNumber::METADATA, PartitionNumber::SNAPSHOT, PartitionNumber::BALLOT]
            .contains(&self)
    }
}

/// A topic's id (KIP-516). All zeros means "none".
#[derive(Serialize, Deserialize, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    pub const NONE: TopicId = TopicId([0; 16]);
}

/// Kafka's text form of a UUID: URL-safe base64 without padding, 22 characters.
impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = String::with_capacity(22);
        let (mut bits, mut count) = (0u32, 0);
        for byte in self.0 {
            bits = bits << 8 | u32::from(byte);
            count += 8;
            while count >= 6 {
                count -= 6;
                text.push(char::from(ALPHABET[(bits >> count & 63) as usize]));
            }
        }
        text.push(char::from(ALPHABET[(bits << (6 - count) & 63) as usize]));
        f.pad(&text)
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// The monotonic clock: nanoseconds since some moment before the start. Timers and leases use it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    pub const ZERO: Time = Time(0);

    pub fn plus_ms(self, ms: u64) -> Time {
        Time(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    pub fn since(self, earlier: Time) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Nanos> for Time {
    type Output = Time;
    fn add(self, d: Nanos) -> Time {
        Time(self.0.saturating_add(d.0))
    }
}

impl Sub<Nanos> for Time {
    type Output = Time;
    fn sub(self, d: Nanos) -> Time {
        Time(self.0.saturating_sub(d.0))
    }
}

/// A span of the monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    pub fn from_ms(ms: u64) -> Nanos {
        Nanos(ms.saturating_mul(1_000_000))
    }
}

/// Milliseconds since 1970 as the wall clock says it. It may be wrong: a Raspberry Pi has no
/// battery clock, so only record timestamps and retention look at it, and retention only once it is
/// trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub i64);

/// One client connection of a running node. Never reused while the node runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// One disk operation asked of the driver. Never reused while the node runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// A producer's id and epoch (KIP-98).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(pub i64);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_topic_id_reads_as_kafka_writes_it() {
        assert_eq!(TopicId::NONE.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(TopicId([0xff; 16]).to_string(), "_____________________w");
        let one = TopicId([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(one.to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
    }
}
