//! The newest offset of each key, in a table of fixed size.
//!
//! Open addressing with linear steps over 128-bit hashes; the keys themselves are not kept. Two
//! keys with one hash would cost the older one its record: with 2^40 keys the chance of any such
//! pair is 2^-49. The hash is SipHash-2-4 with 128 bits of output, keyed with the store's number,
//! so that nobody who does not know that can make keys that meet. An entry takes 20 bytes; what
//! does not fit waits for another pass.

use crate::types::Offset;
use alloc::vec;
use alloc::vec::Vec;

/// Entries of a table: a power of two. 2.5 MiB, and only while something is compacted.
const ENTRIES: usize = 1 << 17;

/// Offsets are kept as a difference; this one says that the entry is empty.
const EMPTY: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct OffsetMap {
    key: [u64; 2],
    /// The first offset that was put, which a difference of 0 stands for.
    base: Offset,
    hashes: Vec<u128>,
    offsets: Vec<u32>,
    used: usize,
}

impl OffsetMap {
    /// An empty table.
    pub(crate) fn new(secret: &[u8; 16]) -> OffsetMap {
        OffsetMap::with_entries(secret, ENTRIES)
    }

    pub(crate) fn with_entries(secret: &[u8; 16], entries: usize) -> OffsetMap {
        assert!(entries.is_power_of_two(), "the place of a hash is some of its bits");
        let number = u128::from_be_bytes(*secret);
        OffsetMap {
            key: [number as u64, (number >> 64) as u64],
            base: Offset::ZERO,
            hashes: vec![0; entries],
            offsets: vec![EMPTY; entries],
            used: 0,
        }
    }

    /// How many there are and how many fit.
    pub(crate) fn keys(&self) -> (u32, u32) {
        (self.used as u32, self.keys_max() as u32)
    }

    /// Three quarters are filled at most: beyond that, searches become long.
    fn keys_max(&self) -> usize {
        self.offsets.len() / 4 * 3
    }

    /// Whether so many keys are more than fit in the empty map.
    pub(crate) fn never_holds(&self, keys: usize) -> bool {
        keys > self.keys_max()
    }

    /// Whether so many more keys fit.
    pub(crate) fn has_room(&self, keys: usize, last: Offset) -> bool {
        let within = self.used == 0 || last.0.saturating_sub(self.base.0) < i64::from(EMPTY);
        within && self.used.saturating_add(keys) <= self.keys_max()
    }

    /// Remembers a record. Offsets come ascending, and there must be room.
    pub(crate) fn put(&mut self, key: &[u8], offset: Offset) {
        let hash = siphash(self.key, key);
        let at = self.find(hash);
        if self.used == 0 {
            self.base = offset;
        }
        let delta = u32::try_from(offset.0 - self.base.0).expect("has_room bounds the offsets");
        if self.offsets[at] == EMPTY {
            self.used += 1;
            assert!(self.used < self.offsets.len(), "has_room leaves entries empty");
        }
        self.hashes[at] = hash;
        self.offsets[at] = delta;
    }

    /// The newest offset with that key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Offset> {
        match self.offsets[self.find(siphash(self.key, key))] {
            EMPTY => None,
            delta => Some(self.base.plus(i64::from(delta))),
        }
    }

    /// Where the hash is, or would be.
    fn find(&self, hash: u128) -> usize {
        let mask = self.offsets.len() - 1;
        let mut at = hash as usize & mask;
        while self.offsets[at] != EMPTY && self.hashes[at] != hash {
            at = (at + 1) & mask;
        }
        at
    }
}

/// SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012).
fn siphash([k0, k1]: [u64; 2], bytes: &[u8]) -> u128 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        compress(&mut v, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    last[7] = bytes.len() as u8;
    compress(&mut v, u64::from_le_bytes(last));
    v[2] ^= 0xee;
    (0..4).for_each(|_| round(&mut v));
    let low = v[0] ^ v[1] ^ v[2] ^ v[3];
    v[1] ^= 0xdd;
    (0..4).for_each(|_| round(&mut v));
    let high = v[0] ^ v[1] ^ v[2] ^ v[3];
    u128::from(high) << 64 | u128::from(low)
}

fn compress(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    round(v);
    v[0] ^= word;
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use alloc::collections::BTreeMap;

    #[test]
    fn hashes_are_those_of_the_reference() {
        // The first and the last vector of the authors' reference code: the bytes of the key
        // count from 0 to 15, those of the input from 0 on.
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let input: Vec<u8> = (0..63).collect();
        let hash = |len: usize| siphash(key, &input[..len]).swap_bytes();
        assert_eq!(hash(0), 0xa381_7f04_ba25_a8e6_6df6_7214_c755_0293);
        assert_eq!(hash(63), 0x5150_d177_2f50_834a_503e_069a_973f_bd7c);
    }

    #[test]
    fn the_map_knows_the_newest_offset_of_each_key_until_it_is_full() {
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let mut map = OffsetMap::with_entries(b"a store's number", 64);
            let mut model: BTreeMap<Vec<u8>, Offset> = BTreeMap::new();
            for offset in 1000..1200 {
                if !map.has_room(1, Offset(offset)) {
                    assert_eq!(model.len(), 48);
                    break;
                }
                let key = vec![b'k'; rng.below(60) as usize];
                map.put(&key, Offset(offset));
                model.insert(key, Offset(offset));
            }
            for len in 0..60 {
                let key = vec![b'k'; len];
                assert_eq!(map.get(&key), model.get(&key).copied(), "seed {seed}");
            }
            assert!(!map.has_room(0, Offset(1000 + i64::from(EMPTY))));
        }
    }
}
