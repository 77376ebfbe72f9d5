//! The frame: one thing that happened to one partition.
//!
//! ```text
//! at  bytes  field
//!  0      1  kind
//!  1      1  of a replace 1 if it is a copy of what is at its offsets, 0 if that is written anew
//!  2      2  of a batch the offsets since its leader epoch began, and 1; 0xffff: so many or more;
//!            0: not known. Of any other kind 0
//!  4      4  partition; of a checkpoint the part, 0xffffffff for its root
//!  8      8  base offset; of a log start the new one; of a checkpoint the group it stands for
//! 16      4  last offset delta; of a truncation 1 if nothing is left of the partition, else 0
//! 20      4  leader epoch; of a hole that of what was there, -1 if it is not known
//! 24      4  bytes of the body
//! 28      4  CRC-32C over store UUID, seg_seq, bytes 0 to 28 and the body
//! ```
//!
//! | kind | | body |
//! |---|---|---|
//! | 1 | batch | a RecordBatch v2, byte for byte |
//! | 2 | truncate | none: the partition ends at the base offset, or begins there anew |
//! | 3 | log start | none |
//! | 4 | replace | a batch that takes the place of all at its offsets; none: they are a hole |
//! | 5 | producer snapshot | reserved |
//! | 6 | group record | reserved |
//! | 7 | quorum entry | reserved |
//! | 8 | checkpoint | a part, or the root that names the parts |
//!
//! The batch's own checksum leaves out base offset, length and leader epoch, and knows nothing of
//! the partition: hence the frame's.
//!
//! Where the epoch began tells a start what was truncated, if the frame that said so is lost to
//! damage with the first batches behind it: what stood there before would take their place.

use super::{Fields, head};
use crate::batch;
use crate::types::{LeaderEpoch, Offset, PartitionNumber};
use alloc::vec::Vec;

pub(crate) const FRAME_HEADER_BYTES: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Batch = 1,
    Truncate = 2,
    LogStart = 3,
    Replace = 4,
    ProducerSnapshot = 5,
    GroupRecord = 6,
    QuorumEntry = 7,
    Checkpoint = 8,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Batch,
            2 => Kind::Truncate,
            3 => Kind::LogStart,
            4 => Kind::Replace,
            5 => Kind::ProducerSnapshot,
            6 => Kind::GroupRecord,
            7 => Kind::QuorumEntry,
            8 => Kind::Checkpoint,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Batch => "batch",
            Kind::Truncate => "truncate",
            Kind::LogStart => "log start",
            Kind::Replace => "replace",
            Kind::ProducerSnapshot => "producer snapshot",
            Kind::GroupRecord => "group record",
            Kind::QuorumEntry => "quorum entry",
            Kind::Checkpoint => "checkpoint",
        }
    }

    /// Whether the body is a record batch, or the frame a hole.
    pub(crate) fn is_batch(self) -> bool {
        matches!(self, Kind::Batch | Kind::Replace)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub kind: Kind,
    /// Of kind replace: what was there is only moved.
    pub copied: bool,
    pub partition: PartitionNumber,
    pub base_offset: Offset,
    pub last_offset_delta: i32,
    pub leader_epoch: LeaderEpoch,
    pub body_bytes: u32,
    pub epoch_age: EpochAge,
}

/// How many offsets before a batch its leader epoch began, and 1; 0 if that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EpochAge(u16);

impl EpochAge {
    /// Of a batch at `base`, when the epoch began at `start`.
    pub(crate) fn of(start: Offset, base: Offset) -> EpochAge {
        let age = base.0.saturating_sub(start.0).saturating_add(1);
        EpochAge(age.clamp(0, u16::MAX.into()) as u16)
    }
}

impl FrameHeader {
    /// Of a copy of this frame that takes its place elsewhere.
    pub(crate) fn copy(self) -> FrameHeader {
        FrameHeader { kind: Kind::Replace, copied: true, epoch_age: EpochAge::default(), ..self }
    }

    /// Whether it says of what leader epoch its offsets are.
    pub(crate) fn has_epoch(&self) -> bool {
        self.kind.is_batch() && (self.body_bytes > 0 || self.leader_epoch >= LeaderEpoch(0))
    }

    /// Where at the latest the leader epoch of a batch began.
    pub(crate) fn epoch_start(&self) -> Offset {
        let age = i64::from(self.epoch_age.0.saturating_sub(1));
        Offset(self.base_offset.0.saturating_sub(age))
    }

    /// Appends header and body. A batch gets base offset and leader epoch stamped into this copy.
    pub(crate) fn put(&self, seed: u32, body: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        let body_at = start + FRAME_HEADER_BYTES;
        out.extend_from_slice(&[self.kind as u8, u8::from(self.copied)]);
        out.extend_from_slice(&self.epoch_age.0.to_be_bytes());
        out.extend_from_slice(&self.partition.0.to_be_bytes());
        out.extend_from_slice(&self.base_offset.0.to_be_bytes());
        out.extend_from_slice(&self.last_offset_delta.to_be_bytes());
        out.extend_from_slice(&self.leader_epoch.0.to_be_bytes());
        out.extend_from_slice(&self.body_bytes.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(body);
        if self.kind.is_batch() && !body.is_empty() {
            batch::stamp(&mut out[body_at..], self.base_offset, self.leader_epoch.0);
        }
        let crc = crc32c::crc32c_append(seed, &out[start..start + 28]);
        let crc = crc32c::crc32c_append(crc, &out[body_at..]);
        out[start + 28..body_at].copy_from_slice(&crc.to_be_bytes());
    }

    /// Reads the fields without a look at the checksum.
    pub(crate) fn peek(bytes: &[u8]) -> Option<FrameHeader> {
        let fields = Fields(head::<FRAME_HEADER_BYTES>(bytes)?);
        let kind = Kind::of(fields.u8(0))?;
        let (copied, epoch_age) = match (kind, fields.u8(1), fields.u16(2)) {
            (Kind::Batch, 0, age) => (false, EpochAge(age)),
            (_, 0, 0) => (false, EpochAge::default()),
            (Kind::Replace, 1, 0) => (true, EpochAge::default()),
            _ => return None,
        };
        Some(FrameHeader {
            kind,
            copied,
            partition: PartitionNumber(fields.u32(4)),
            base_offset: Offset(fields.u64(8) as i64),
            last_offset_delta: fields.u32(16) as i32,
            leader_epoch: LeaderEpoch(fields.u32(20) as i32),
            body_bytes: fields.u32(24),
            epoch_age,
        })
    }

    /// The frame at the begin of `bytes`, if it is there in whole and its checksum holds.
    pub(crate) fn verify(bytes: &[u8], seed: u32) -> Option<FrameHeader> {
        let header = FrameHeader::peek(bytes)?;
        let frame = bytes.get(..header.frame_bytes())?;
        let (head, body) = frame.split_at(FRAME_HEADER_BYTES);
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed, &head[..28]), body);
        (head[28..] == crc.to_be_bytes() && header.last_offset_delta >= 0).then_some(header)
    }

    pub(crate) fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES.saturating_add(self.body_bytes as usize)
    }

    /// The offset after the frame's last record.
    pub(crate) fn end_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(i64::from(self.last_offset_delta) + 1))
    }
}
