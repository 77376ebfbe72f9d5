//! Walking the frames of extents: which batches of them answer a fetch.

use super::layout::frame::{FRAME_HEADER_BYTES, FrameHeader};
use super::span::Span;
use super::{Batches, FetchSpec};
use crate::types::{Offset, PartitionNumber};
use bytes::Bytes;

/// A walk over the frames of extents.
pub(super) struct Walk {
    pub(super) partition: PartitionNumber,
    pub(super) from: Offset,
    pub(super) end: Offset,
    /// `None`: from memory, not verified.
    pub(super) seed: Option<u32>,
}

impl Walk {
    pub(super) fn frame(&self, chunk: &Bytes, at: usize) -> Option<FrameHeader> {
        let bytes = chunk.get(at..)?;
        let header = match self.seed {
            Some(seed) => FrameHeader::verify(bytes, seed)?,
            None => FrameHeader::peek(bytes)?,
        };
        let batch = header.kind.is_batch();
        (batch && header.partition == self.partition).then_some(header)
    }

    /// The batches that fit, and where what was looked at ends: beyond `from` also when there were
    /// only holes. Else up to where the bytes are damaged.
    pub(super) fn batches(
        &self,
        spec: &FetchSpec,
        span: &Span,
        chunks: &[Option<Bytes>],
    ) -> Result<(Batches, Offset), Offset> {
        let mut batches = Batches::new();
        let mut total = 0;
        // An answer never reaches over what is lost: the reader is to be told.
        let mut expected = self.from;
        let lost = |batches: Batches, until: Offset| match batches.is_empty() {
            true => Err(until.min(self.end).max(self.from.plus(1))),
            false => Ok((batches, self.from)),
        };
        let mut next = self.from;
        for (number, chunk) in chunks.iter().enumerate() {
            let chunk = chunk.clone().unwrap_or_default();
            next = span.extents.get(number + 1).map_or(span.end, |next| next.base_offset);
            let mut at = 0;
            while at < chunk.len().max(1) {
                let Some(header) = self.frame(&chunk, at) else {
                    // Behind a damaged frame, others may be whole.
                    match self.behind(&chunk, at) {
                        Some(behind) => at = behind,
                        None => break,
                    }
                    continue;
                };
                let body = at + FRAME_HEADER_BYTES..at + header.frame_bytes();
                at = body.end;
                if header.end_offset() <= self.from {
                    continue;
                }
                if header.base_offset > expected {
                    return lost(batches, header.base_offset);
                }
                // What this extent has beyond stands in the next one as well, where it is newer. Or
                // it was truncated: what is left of a batch has no records any more, as a hole.
                let counts_until = next.min(self.end);
                if header.end_offset() > counts_until {
                    if body.is_empty() || header.end_offset() > next {
                        expected = counts_until;
                    }
                    if next < self.end {
                        break;
                    }
                    return Ok((batches, expected));
                }
                if !body.is_empty() {
                    total += body.len();
                    let fits = total <= spec.bytes_max || (batches.is_empty() && spec.at_least_one);
                    if !fits {
                        return Ok((batches, self.from));
                    }
                    batches.push(chunk.slice(body));
                }
                expected = header.end_offset();
            }
        }
        if expected == self.from { lost(batches, next) } else { Ok((batches, expected)) }
    }

    /// Where the next whole frame behind a damaged one begins. The damaged one's length may be what
    /// is damaged, so it is looked for; what comes from memory is never damaged.
    fn behind(&self, chunk: &Bytes, at: usize) -> Option<usize> {
        self.seed?;
        (at + 1..chunk.len()).find(|&at| self.frame(chunk, at).is_some())
    }
}
