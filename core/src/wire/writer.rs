//! Where messages are written: small fields into a buffer, large ones as pieces that are shared.

use super::Frame;
use crate::bytes::put_uvarint;
use alloc::vec::Vec;
use bytes::Bytes;

/// Byte strings below this are copied: a piece of its own costs an allocation and an entry in the
/// socket's vectored write, which is dearer than copying so little.
const SHARED_BYTES_MIN: usize = 1024;

/// Collects the pieces of a frame.
#[derive(Debug, Default)]
pub struct Writer {
    done: Vec<Piece>,
    open: Vec<u8>,
    /// Bytes in `done`.
    done_bytes: usize,
}

#[derive(Debug)]
enum Piece {
    Own(Vec<u8>),
    Shared(Bytes),
}

impl Writer {
    /// A writer that leaves room for a frame's size in front; [`Writer::into_frame`] fills it in.
    pub(super) fn frame() -> Writer {
        let mut open = Vec::with_capacity(256);
        open.extend_from_slice(&[0; 4]);
        Writer { open, ..Writer::default() }
    }

    pub fn put(&mut self, bytes: &[u8]) {
        self.open.extend_from_slice(bytes);
    }

    pub fn uvarint(&mut self, value: u32) {
        put_uvarint(&mut self.open, value);
    }

    /// Writes bytes that are shared rather than copied when they are many.
    pub fn share(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARED_BYTES_MIN {
            return self.put(bytes);
        }
        self.close();
        self.done_bytes += bytes.len();
        self.done.push(Piece::Shared(bytes.clone()));
    }

    /// Writes all that `other` holds.
    pub fn append(&mut self, mut other: Writer) {
        if other.done.is_empty() {
            return self.put(&other.open);
        }
        self.close();
        self.done_bytes += other.done_bytes;
        self.done.append(&mut other.done);
        self.open = other.open;
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.done_bytes + self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was written, in one piece: for values that are stored.
    pub fn into_vec(mut self) -> Vec<u8> {
        if self.done.is_empty() {
            return self.open;
        }
        self.close();
        let mut all = Vec::with_capacity(self.done_bytes);
        for piece in &self.done {
            all.extend_from_slice(match piece {
                Piece::Own(bytes) => bytes,
                Piece::Shared(bytes) => bytes,
            });
        }
        all
    }

    pub(super) fn into_frame(mut self) -> Frame {
        let size = u32::try_from(self.len() - 4).expect("a frame is far below 2 GiB");
        self.close();
        if let Some(Piece::Own(first)) = self.done.first_mut() {
            first[..4].copy_from_slice(&size.to_be_bytes());
        }
        let pieces = self.done.into_iter().map(|piece| match piece {
            Piece::Own(bytes) => Bytes::from(bytes),
            Piece::Shared(bytes) => bytes,
        });
        Frame(pieces.collect())
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.done_bytes += self.open.len();
            self.done.push(Piece::Own(core::mem::take(&mut self.open)));
        }
    }
}
