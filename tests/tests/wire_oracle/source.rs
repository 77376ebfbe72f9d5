//! Messages out of nothing: a buffer that makes up each value when the decoder of `kafka-protocol`
//! asks for it, so that the decoder itself says what a message of that version consists of.

use bytes::{Buf, Bytes, TryGetError};
use kafka_protocol::protocol::Decodable;
use kafka_protocol::protocol::buf::{ByteBuf, NotEnoughBytesError};
use std::ops::Range;
use weir_core::rng::Rng;

/// Values before a message is cut short: from then on every count is as small as it may be.
const VALUES_MAX: usize = 120;

/// A message of random content. Where the decoder refuses a value (a null that may not be one), the
/// last few are forgotten and made up anew. In a second pass, most integers that turn out not to be
/// counts get values from their whole range.
pub fn make_up<P: Decodable>(rng: &mut Rng, version: i16) -> P {
    let mut source = Source { rng: rng.clone(), values: Vec::new(), at: 0, made_up: true };
    let mut refused = 0;
    let mut message = loop {
        source.at = 0;
        match P::decode(&mut source, version) {
            Ok(message) => break message,
            Err(_) => {
                refused += 1;
                let most = if refused % 1000 == 0 { VALUES_MAX as u64 * 2 } else { 3 };
                let forget = 1 + source.rng.below(most) as usize;
                source.values.truncate(source.at.saturating_sub(forget));
            }
        }
    };
    source.made_up = false;
    for i in 0..source.values.len() {
        let is_string = source.values[i].iter().all(u8::is_ascii_lowercase);
        if is_string || source.rng.percent(30) {
            continue;
        }
        let Some(wild) = wild(&mut source.rng, source.values[i].len()) else { continue };
        let tame = std::mem::replace(&mut source.values[i], wild);
        source.at = 0;
        match P::decode(&mut source, version) {
            Ok(other) if source.at == source.values.len() => message = other,
            _ => source.values[i] = tame,
        }
    }
    *rng = source.rng;
    message
}

/// A value of so many bytes that is no likely length. A wild count must not be large: this decoder
/// allocates what a count claims.
fn wild(rng: &mut Rng, len: usize) -> Option<Vec<u8>> {
    let raw = rng.next_u64();
    match len {
        2 => Some((raw as u16 | 0x8000).to_be_bytes().into()),
        4 if raw.is_multiple_of(4) => Some((raw as u32 >> 16).to_be_bytes().into()),
        4 => Some((raw as u32 | 0x8000_0000).to_be_bytes().into()),
        8 => Some(raw.to_be_bytes().into()),
        _ => None,
    }
}

pub struct Source {
    rng: Rng,
    /// What was handed out, one entry a question.
    values: Vec<Vec<u8>>,
    at: usize,
    /// Whether questions beyond `values` are answered.
    made_up: bool,
}

impl Source {
    fn ask<const N: usize>(&mut self) -> Result<[u8; N], TryGetError> {
        let value = self.next(N, |rng, last| {
            let choices: &[i8] = match N {
                _ if last => &[0, 1],
                1 => &[0, 0, 0, 1, 1, 1, 2, 2, 3, 5],
                _ => &[0, 0, 1, 1, 1, 2, 2, 3, 5, -1],
            };
            let small = choices[rng.below(choices.len() as u64) as usize];
            (small as i128).to_be_bytes()[16 - N..].into()
        });
        let short = TryGetError { requested: N, available: 0 };
        value.and_then(|value| value.try_into().ok()).ok_or(short)
    }

    /// The next value, which must have `len` bytes.
    fn next(&mut self, len: usize, make_up: impl Fn(&mut Rng, bool) -> Vec<u8>) -> Option<Vec<u8>> {
        if self.at == self.values.len() && self.made_up {
            let last = self.at > VALUES_MAX;
            self.values.push(make_up(&mut self.rng, last));
        }
        let value = self.values.get(self.at)?.clone();
        self.at += 1;
        (value.len() == len).then_some(value)
    }
}

macro_rules! ask {
    ($($name:ident: $type:ty),*) => {$(
        fn $name(&mut self) -> Result<$type, TryGetError> {
            self.ask().map(<$type>::from_be_bytes)
        }
    )*};
}

impl Buf for Source {
    ask!(
        try_get_u8: u8, try_get_u16: u16, try_get_i16: i16, try_get_u32: u32,
        try_get_i32: i32, try_get_u64: u64, try_get_i64: i64, try_get_u128: u128, try_get_f64: f64
    );

    /// A number, or whether a structure is there: -1 is null.
    fn try_get_i8(&mut self) -> Result<i8, TryGetError> {
        let value = self.next(1, |rng, _| [[0xff], [1], [1]][rng.below(3) as usize].into());
        let short = TryGetError { requested: 1, available: 0 };
        value.map(|value| value[0] as i8).ok_or(short)
    }

    /// Ids, which alone are copied.
    fn try_copy_to_slice(&mut self, into: &mut [u8]) -> Result<(), TryGetError> {
        let id = self.next(into.len(), |rng, _| rng.uuid().into());
        into.copy_from_slice(&id.ok_or(TryGetError { requested: into.len(), available: 0 })?);
        Ok(())
    }

    fn remaining(&self) -> usize {
        usize::MAX
    }

    fn chunk(&self) -> &[u8] {
        unreachable!("every question has a method of its own")
    }

    fn advance(&mut self, _: usize) {
        unreachable!("every question has a method of its own")
    }
}

impl ByteBuf for Source {
    fn peek_bytes(&mut self, _: Range<usize>) -> Bytes {
        unreachable!("messages do not look ahead")
    }

    fn get_bytes(&mut self, len: usize) -> Bytes {
        self.try_get_bytes(len).unwrap()
    }

    /// The bytes of a string or of records. A compact length is one more than the bytes that
    /// follow; if it is not, an unknown tagged field is being skipped, which we have no use
    /// for.
    fn try_get_bytes(&mut self, len: usize) -> Result<Bytes, NotEnoughBytesError> {
        let before = self.at.checked_sub(1).and_then(|at| self.values.get(at));
        if before.is_some_and(|size| size.len() == 1 && usize::from(size[0]) == len) {
            return Err(NotEnoughBytesError);
        }
        let letters = |rng: &mut Rng, _| (0..len).map(|_| b'a' + rng.below(26) as u8).collect();
        self.next(len, letters).map(Bytes::from).ok_or(NotEnoughBytesError)
    }
}
