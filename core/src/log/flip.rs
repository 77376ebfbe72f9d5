//! A codec for tests: it turns every byte over. What matters is that the core cannot read it.

use super::IoResult;
use crate::batch::{Codec, HEADER_BYTES, repack};
use alloc::vec::Vec;

pub(crate) fn pack(batch: &[u8], codec: Codec) -> IoResult {
    flipped(batch, codec)
}

pub(crate) fn unpack(batch: &[u8]) -> IoResult {
    flipped(batch, Codec::None)
}

fn flipped(batch: &[u8], codec: Codec) -> IoResult {
    let section = batch.get(HEADER_BYTES..).unwrap_or_default();
    let section: Vec<u8> = section.iter().map(|byte| !byte).collect();
    match repack(batch, codec, &section) {
        Some(batch) => IoResult::Read(batch.into()),
        None => IoResult::Failed,
    }
}
