//! Kafka's protocol: one field list a message gives the struct, its decoder and its encoder.

use alloc::vec::Vec;
use bytes::Bytes;

/// A whole response or request on its way to a socket: pieces to write one after the other. The four
/// bytes of the size stand in front. Record batches are shared with what was read from flash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame(pub Vec<Bytes>);

impl Frame {
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
