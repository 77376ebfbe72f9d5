//! What gateways say to each other: frames on one TCP connection a pair.
//!
//! ```text
//! at  bytes  field
//!  0      4  bytes behind this field
//!  4      4  CRC-32C over what follows
//!  8      1  kind
//!  9         payload
//! ```
//!
//! | kind | payload | when |
//! |---|---|---|
//! | 1 hello, 2 answer, 3 proof, 4 welcome, 5 refusal | postcard | [`handshake`] |
//! | 16 ping | none | nothing else was sent for a while |
//! | 17 quorum | postcard, of the metadata quorum | any time |
//! | 18 request, 19 response | a Kafka frame without its size | for the controller, by clients |
//! | 20 ask, 21 told | postcard | for the controller, by its peers |
//! | 22 fetch, 24 range fetch | postcard | between replicas |
//! | 23 records, 25 range | size (2 bytes), postcard, record batches | between replicas |
//!
//! Requests are answered in their order. What replicas say to each other is one frame a partition,
//! so that none waits for another.
//!
//! Kinds and fields are only ever added; both sides use the lower of their newest versions. The
//! version is the level of a release, which counts for what gateways write, too: what is new in
//! each, and when it is used, says `node::site::level`.

pub mod handshake;

use crate::bytes::Malformed;
use crate::limits::FRAME_BYTES_MAX;
use crate::wire::Frame;
use alloc::vec::Vec;
use bytes::{Buf, Bytes};

/// The newest version of this protocol that is spoken here, and the oldest.
pub const VERSION: u16 = 2;
pub const VERSION_MIN: u16 = 1;

/// Size, checksum and kind.
pub const HEADER_BYTES: usize = 9;
const SIZE_BYTES: usize = 4;

/// The largest frame, in bytes: a Kafka frame of the largest size.
pub const PEER_FRAME_BYTES_MAX: usize = FRAME_BYTES_MAX + 64;
/// The same while nothing is proved yet.
pub const HANDSHAKE_BYTES_MAX: usize = 16 << 10;

/// What a frame carries. Those of the handshake are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Hello = 1,
    Answer = 2,
    Proof = 3,
    Welcome = 4,
    Refusal = 5,
    Ping = 16,
    Quorum = 17,
    Request = 18,
    Response = 19,
    Ask = 20,
    Told = 21,
    Fetch = 22,
    Records = 23,
    /// Since version 2, as the next.
    RangeFetch = 24,
    Range = 25,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        use Kind::*;
        let handshake = [Hello, Answer, Proof, Welcome, Refusal];
        let others =
            [Ping, Quorum, Request, Response, Ask, Told, Fetch, Records, RangeFetch, Range];
        handshake.into_iter().chain(others).find(|kind| *kind as u8 == byte)
    }
}

/// What arrives once two gateways know each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Ping,
    Quorum(Bytes),
    /// A Kafka request without its size.
    Request(Bytes),
    Response(Bytes),
    Ask(Bytes),
    Told(Bytes),
    Fetch(Bytes),
    /// What is said of a partition, and its record batches: one piece when it arrives.
    Records(Bytes, Vec<Bytes>),
    /// For what a replica has lost.
    RangeFetch(Bytes),
    /// The same as of records.
    Range(Bytes, Vec<Bytes>),
}

impl Message {
    pub fn decode(kind: Kind, mut payload: Bytes) -> Result<Message, Malformed> {
        match kind {
            Kind::Ping => Ok(Message::Ping),
            Kind::Quorum => Ok(Message::Quorum(payload)),
            Kind::Request => Ok(Message::Request(payload)),
            Kind::Response => Ok(Message::Response(payload)),
            Kind::Ask => Ok(Message::Ask(payload)),
            Kind::Told => Ok(Message::Told(payload)),
            Kind::Fetch => Ok(Message::Fetch(payload)),
            Kind::RangeFetch => Ok(Message::RangeFetch(payload)),
            Kind::Records | Kind::Range => {
                let size = usize::from(payload.try_get_u16().map_err(|_| Malformed)?);
                if size > payload.len() {
                    return Err(Malformed);
                }
                let head = payload.split_to(size);
                let records = (!payload.is_empty()).then_some(payload);
                let records = records.into_iter().collect();
                Ok(match kind {
                    Kind::Records => Message::Records(head, records),
                    _ => Message::Range(head, records),
                })
            }
            Kind::Hello | Kind::Answer | Kind::Proof | Kind::Welcome | Kind::Refusal => {
                Err(Malformed)
            }
        }
    }

    pub fn encode(self) -> Frame {
        match self {
            Message::Ping => frame(Kind::Ping, &[], &[]),
            Message::Quorum(message) => frame(Kind::Quorum, &[], &[message]),
            Message::Request(request) => frame(Kind::Request, &[], &[request]),
            Message::Response(response) => frame(Kind::Response, &[], &[response]),
            Message::Ask(ask) => frame(Kind::Ask, &[], &[ask]),
            Message::Told(told) => frame(Kind::Told, &[], &[told]),
            Message::Fetch(fetch) => frame(Kind::Fetch, &[], &[fetch]),
            Message::RangeFetch(fetch) => frame(Kind::RangeFetch, &[], &[fetch]),
            Message::Records(head, records) => of_partition(Kind::Records, head, &records),
            Message::Range(head, records) => of_partition(Kind::Range, head, &records),
        }
    }

    /// Whether whoever sent it sends it again, or another in its place, when it gets lost.
    pub fn may_get_lost(&self) -> bool {
        matches!(self, Message::Ping | Message::Quorum(_))
    }
}

fn of_partition(kind: Kind, head: Bytes, records: &[Bytes]) -> Frame {
    let size = u16::try_from(head.len()).expect("what is said of a partition is short");
    let head: Vec<u8> = size.to_be_bytes().into_iter().chain(head).collect();
    frame(kind, &head, records)
}

/// A frame of these bytes, which are shared.
pub fn frame(kind: Kind, head: &[u8], pieces: &[Bytes]) -> Frame {
    let bytes: usize = pieces.iter().map(Bytes::len).sum();
    let behind_size = HEADER_BYTES - SIZE_BYTES + head.len() + bytes;
    let size = u32::try_from(behind_size).expect("a frame is far below 4 GiB");
    let mut crc = crc32c::crc32c_append(crc32c::crc32c(&[kind as u8]), head);
    for piece in pieces {
        crc = crc32c::crc32c_append(crc, piece);
    }
    let mut first = Vec::with_capacity(HEADER_BYTES + head.len());
    first.extend_from_slice(&size.to_be_bytes());
    first.extend_from_slice(&crc.to_be_bytes());
    first.push(kind as u8);
    first.extend_from_slice(head);
    let rest = pieces.iter().filter(|piece| !piece.is_empty()).cloned();
    Frame(core::iter::once(Bytes::from(first)).chain(rest).collect())
}

/// Why what a peer sends is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFrame {
    /// It claims this many bytes.
    Size(u32),
    Checksum,
    /// A kind that this version does not know.
    Kind(u8),
}

/// How many bytes follow the size field, of a frame that may be `max` bytes at most.
pub fn frame_len(size: [u8; SIZE_BYTES], max: usize) -> Result<usize, BadFrame> {
    let claimed = u32::from_be_bytes(size);
    match usize::try_from(claimed) {
        Ok(len) if len >= HEADER_BYTES - SIZE_BYTES && len <= max => Ok(len),
        _ => Err(BadFrame::Size(claimed)),
    }
}

/// Kind and payload of the bytes behind a size field.
pub fn open(mut bytes: Bytes) -> Result<(Kind, Bytes), BadFrame> {
    let claimed = bytes.len() as u32;
    if bytes.len() < HEADER_BYTES - SIZE_BYTES {
        return Err(BadFrame::Size(claimed));
    }
    let crc = bytes.get_u32();
    if crc32c::crc32c(&bytes) != crc {
        return Err(BadFrame::Checksum);
    }
    let kind = bytes.get_u8();
    Ok((Kind::of(kind).ok_or(BadFrame::Kind(kind))?, bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
