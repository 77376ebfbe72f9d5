//! Reading and writing bytes: the only code that slices input.
//!
//! A [`Reader`] never panics and never allocates by a size that the input claims: every claim is
//! checked against the bytes that are really there first. Slices that it hands out share the
//! input's buffer.

use crate::limits::DECODED_BYTES_MAX;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// The input ends too early or is not what its format says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

pub type Result<T> = core::result::Result<T, Malformed>;

/// A cursor over one frame.
#[derive(Clone, Debug)]
pub struct Reader {
    bytes: Bytes,
    at: usize,
    /// Memory that arrays of what is read may still take.
    memory: usize,
}

macro_rules! read_integers {
    ($($name:ident: $type:ty),*) => {$(
        #[inline]
        pub fn $name(&mut self) -> Result<$type> {
            let raw = self.slice(size_of::<$type>())?;
            Ok(<$type>::from_be_bytes(raw.try_into().expect("the slice has the type's size")))
        }
    )*};
}

impl Reader {
    pub fn new(bytes: Bytes) -> Reader {
        Reader { bytes, at: 0, memory: DECODED_BYTES_MAX }
    }

    read_integers!(u8: u8, i8: i8, u16: u16, i16: i16, u32: u32, i32: i32, u64: u64, i64: i64);

    pub fn f64(&mut self) -> Result<f64> {
        Ok(f64::from_bits(self.u64()?))
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Room in memory for `count` elements of an array, which have at least one byte each in the
    /// input. Refuses a count that the input cannot hold, and arrays that together pass the
    /// frame's bound.
    pub fn elements<T>(&mut self, count: usize) -> Result<Vec<T>> {
        let bytes = count.checked_mul(size_of::<T>()).ok_or(Malformed)?;
        if count > self.remaining() {
            return Err(Malformed);
        }
        self.memory = self.memory.checked_sub(bytes).ok_or(Malformed)?;
        // A count of large elements may still be a lie: the rest comes as the elements do.
        Ok(Vec::with_capacity(count.min(self.remaining() / size_of::<T>().max(1))))
    }

    /// Hands the next `len` bytes to `read`, which cannot see beyond them.
    pub fn within<T>(
        &mut self,
        len: usize,
        read: impl FnOnce(&mut Reader) -> Result<T>,
    ) -> Result<T> {
        let mut inner = Reader { bytes: self.bytes(len)?, at: 0, memory: self.memory };
        let result = read(&mut inner);
        self.memory = inner.memory;
        result
    }

    /// Refuses bytes that were not read.
    pub fn finish(&self) -> Result<()> {
        if self.remaining() == 0 { Ok(()) } else { Err(Malformed) }
    }

    pub fn position(&self) -> usize {
        self.at
    }

    /// The next `len` bytes, borrowed.
    pub fn slice(&mut self, len: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(len).ok_or(Malformed)?;
        let slice = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(slice)
    }

    /// The next `len` bytes, sharing the input's buffer.
    pub fn bytes(&mut self, len: usize) -> Result<Bytes> {
        let at = self.at;
        self.slice(len)?;
        Ok(self.bytes.slice(at..at + len))
    }

    pub fn string(&mut self, len: usize) -> Result<String> {
        let raw = self.slice(len)?;
        core::str::from_utf8(raw).map(String::from).map_err(|_| Malformed)
    }

    /// Kafka's unsigned varint (KIP-482): at most five bytes, value below 2^32.
    pub fn uvarint(&mut self) -> Result<u32> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.u8()?;
            if shift == 28 && byte > 0x0f {
                return Err(Malformed);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// The zigzag varint of records: at most ten bytes.
    pub fn varlong(&mut self) -> Result<i64> {
        let mut value = 0u64;
        for shift in 0..10 {
            let byte = self.u8()?;
            if shift == 9 && byte > 1 {
                return Err(Malformed);
            }
            value |= u64::from(byte & 0x7f) << (shift * 7);
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(Malformed)
    }

    /// The zigzag varint of lengths and deltas: must fit 32 bits.
    pub fn varint(&mut self) -> Result<i32> {
        i32::try_from(self.varlong()?).map_err(|_| Malformed)
    }
}

/// A cursor over borrowed bytes, for what is read too often to share buffers: the records of a
/// batch. What it hands out lives as long as the input, not as the cursor.
#[derive(Clone, Copy, Debug)]
pub struct SliceReader<'a> {
    rest: &'a [u8],
}

impl<'a> SliceReader<'a> {
    pub fn new(bytes: &'a [u8]) -> SliceReader<'a> {
        SliceReader { rest: bytes }
    }

    /// Everything that was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub fn slice(&mut self, len: usize) -> Result<&'a [u8]> {
        let (slice, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(slice)
    }

    read_integers!(u8: u8, i16: i16, i32: i32, u32: u32, i64: i64);

    /// As [`Reader::varlong`]. Nearly all integers in records have one byte, hence the short way.
    #[inline]
    pub fn varlong(&mut self) -> Result<i64> {
        match self.rest.split_first() {
            Some((&byte, rest)) if byte < 0x80 => {
                self.rest = rest;
                Ok(i64::from(byte >> 1) ^ -i64::from(byte & 1))
            }
            _ => self.long_varlong(),
        }
    }

    fn long_varlong(&mut self) -> Result<i64> {
        let mut value = 0u64;
        for shift in 0..10 {
            let byte = self.u8()?;
            if shift == 9 && byte > 1 {
                return Err(Malformed);
            }
            value |= u64::from(byte & 0x7f) << (shift * 7);
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(Malformed)
    }

    /// As [`Reader::varint`].
    #[inline]
    pub fn varint(&mut self) -> Result<i32> {
        i32::try_from(self.varlong()?).map_err(|_| Malformed)
    }

    /// Bytes behind a varint length, of which -1 means null: a record's key, value or header value.
    #[inline]
    pub fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>> {
        match self.varint()? {
            -1 => Ok(None),
            len => self.slice(usize::try_from(len).map_err(|_| Malformed)?).map(Some),
        }
    }
}

pub fn put_uvarint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
pub fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = (value << 1) as u64 ^ (value >> 63) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

/// How many bytes [`put_uvarint`] writes.
pub fn uvarint_len(value: u32) -> usize {
    (32 - value.leading_zeros() as usize).div_ceil(7).max(1)
}

/// How many bytes [`put_varlong`] writes.
#[inline]
pub fn varlong_len(value: i64) -> usize {
    let zigzag = (value << 1) as u64 ^ (value >> 63) as u64;
    if zigzag < 0x80 {
        return 1;
    }
    (64 - zigzag.leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &[u8]) -> Reader {
        Reader::new(Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn varints_come_back_as_they_were_written() {
        for shift in 0..64 {
            for value in [1i64 << shift, -(1i64 << (shift % 63)), (1i64 << shift).wrapping_sub(1)] {
                let mut out = Vec::new();
                put_varlong(&mut out, value);
                assert_eq!(out.len(), varlong_len(value));
                assert_eq!(reader(&out).varlong(), Ok(value));
            }
            let value = (1u64 << shift) as u32;
            let mut out = Vec::new();
            put_uvarint(&mut out, value);
            assert_eq!(reader(&out).uvarint(), Ok(value));
        }
    }

    #[test]
    fn a_claimed_length_beyond_the_input_is_malformed() {
        assert_eq!(reader(b"abc").bytes(4), Err(Malformed));
        assert_eq!(reader(b"abc").bytes(usize::MAX), Err(Malformed));
        assert_eq!(reader(b"abc").u32(), Err(Malformed));
        assert_eq!(reader(&[0xff; 5]).uvarint(), Err(Malformed));
        assert_eq!(reader(&[0xff; 10]).varlong(), Err(Malformed));
        assert_eq!(reader(b"\xff\xfe").string(2), Err(Malformed));
    }
}
