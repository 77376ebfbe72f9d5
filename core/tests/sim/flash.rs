//! A simulated flash medium: 512-byte sectors behind a write cache that a power cut empties.
//!
//! What was written and not flushed is *pending*. A cut decides for every pending sector on its own
//! whether the medium has the old bytes, the new ones, or, rarely, neither. A flush that fails
//! drops pending sectors as Linux does: the cache goes on showing them, the medium never gets them,
//! and the next flush says that all is well. Killing the process keeps what is pending, but not
//! what only the cache still shows: the driver opens the medium without trusting cached pages. A
//! sector that has gone bad cannot be read until it is written to.

use bytes::Bytes;
use std::collections::BTreeSet;
use std::rc::Rc;
use weir_core::rng::Rng;

pub const SECTOR: u64 = 512;
/// What a flash chip programs at once.
pub const PAGE: u64 = 16 << 10;
pub const BLOCK: u64 = 4096;

/// Bytes in blocks that are shared until they are written to: a copy costs a pointer a block.
#[derive(Clone, Default)]
struct Blocks(Vec<Option<Rc<[u8; BLOCK as usize]>>>);

/// One write that is not durable yet.
#[derive(Clone)]
struct Pending {
    at: u64,
    len: u64,
    /// `None` stands for zeros.
    bytes: Option<Bytes>,
}

/// Which pending sectors reach the medium in a power cut. Sectors are counted in writing order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tear {
    KeepNothing,
    KeepAll,
    /// Only the sectors before this one.
    First(u64),
    AllBut(u64),
    Only(u64),
    /// Each sector by chance, in percent.
    Sectors(u64),
    /// Each 16 KiB page by chance, in percent.
    Pages(u64),
}

#[derive(Clone, Default)]
pub struct Flash {
    /// What survives a cut.
    medium: Blocks,
    medium_len: u64,
    /// What a read sees.
    cache: Blocks,
    cache_len: u64,
    pending: Vec<Pending>,
    /// Sectors that cannot be read until they are written to.
    unreadable: BTreeSet<u64>,
}

impl Flash {
    pub fn len(&self) -> u64 {
        self.cache_len
    }

    /// How many sectors a cut would decide about.
    pub fn pending_sectors(&self) -> u64 {
        self.pending.iter().map(|write| write.len.div_ceil(SECTOR)).sum()
    }

    /// How many writes the next flush would make durable; later ones are not its business.
    pub fn pending_writes(&self) -> usize {
        self.pending.len()
    }

    /// Where the pending writes go, the oldest first.
    pub fn pending_ranges(&self) -> Vec<(u64, u64)> {
        self.pending.iter().map(|write| (write.at, write.len)).collect()
    }

    pub fn read(&self, at: u64, len: u64) -> Vec<u8> {
        let mut out = vec![0; len as usize];
        self.cache.read(at, &mut out);
        out
    }

    /// Whether a sector of these bytes cannot be read.
    pub fn is_unreadable(&self, at: u64, len: u64) -> bool {
        len > 0 && self.unreadable.range(at / SECTOR..=(at + len - 1) / SECTOR).next().is_some()
    }

    /// A sector goes bad.
    pub fn lose_sector(&mut self, at: u64) {
        self.unreadable.insert(at / SECTOR);
    }

    fn renew(&mut self, at: u64, len: u64) {
        self.unreadable.retain(|sector| !(at..at + len).contains(&(sector * SECTOR)));
    }

    pub fn write(&mut self, at: u64, bytes: Bytes) {
        self.renew(at, bytes.len() as u64);
        self.cache.write(at, &bytes);
        self.cache_len = self.cache_len.max(at + bytes.len() as u64);
        self.pending.push(Pending { at, len: bytes.len() as u64, bytes: Some(bytes) });
    }

    pub fn zero(&mut self, at: u64, len: u64) {
        self.renew(at, len);
        self.cache.write(at, &vec![0; len as usize]);
        self.cache_len = self.cache_len.max(at + len);
        self.pending.push(Pending { at, len, bytes: None });
    }

    /// Makes the oldest `writes` pending writes durable.
    pub fn flush(&mut self, writes: usize) {
        for write in self.pending.drain(..writes.min(self.pending.len())) {
            self.medium.apply(&write, 0, write.len);
            self.medium_len = self.medium_len.max(write.at + write.len);
        }
    }

    /// A flush that fails: some sectors arrive, the others are lost though reads still show them.
    pub fn flush_fails(&mut self, rng: &mut Rng) {
        let percent = [0, 50, 95][rng.below(3) as usize];
        for write in std::mem::take(&mut self.pending) {
            for from in (0..write.len).step_by(SECTOR as usize) {
                if rng.percent(percent) {
                    self.medium.apply(&write, from, SECTOR.min(write.len - from));
                }
            }
            self.medium_len = self.medium_len.max(write.at + write.len);
        }
    }

    /// The power goes. Some pending sectors are on the medium, as `tear` says; the cache is gone.
    pub fn cut(&mut self, rng: &mut Rng, tear: Tear) {
        let len = self.len_after_cut(rng, tear);
        // A few of the sectors that did not arrive hold neither the old nor the new bytes.
        let garbage = matches!(tear, Tear::Sectors(_)) && rng.percent(20);
        let mut index = 0;
        let (mut page, mut page_kept) = (u64::MAX, false);
        for write in std::mem::take(&mut self.pending) {
            for from in (0..write.len).step_by(SECTOR as usize) {
                let at = write.at + from;
                let kept = match tear {
                    Tear::KeepNothing => false,
                    Tear::KeepAll => true,
                    Tear::First(count) => index < count,
                    Tear::AllBut(one) => index != one,
                    Tear::Only(one) => index == one,
                    Tear::Sectors(percent) => rng.percent(percent),
                    Tear::Pages(percent) => {
                        if at / PAGE != page {
                            (page, page_kept) = (at / PAGE, rng.percent(percent));
                        }
                        page_kept
                    }
                };
                index += 1;
                if at >= len {
                    continue;
                }
                if kept {
                    self.medium.apply(&write, from, SECTOR.min(write.len - from));
                } else if garbage && rng.percent(5) {
                    self.medium.write(at, &noise(rng, SECTOR.min(write.len - from)));
                }
            }
        }
        self.medium_len = len;
        self.forget_cache();
    }

    /// The process dies and the computer goes on: what is pending still arrives some day.
    pub fn kill(&mut self) {
        self.cache = self.medium.clone();
        for write in &self.pending {
            self.cache.apply(write, 0, write.len);
        }
    }

    /// Flips one bit of what is durable, as old flash does.
    pub fn rot(&mut self, at: u64, bit: u32) {
        let mut byte = [0];
        self.medium.read(at, &mut byte);
        self.medium.write(at, &[byte[0] ^ (1 << (bit % 8))]);
        self.cache.read(at, &mut byte);
        self.cache.write(at, &[byte[0] ^ (1 << (bit % 8))]);
    }

    /// Overwrites durable bytes with noise: a torn page program that takes its neighbours with it.
    pub fn damage(&mut self, rng: &mut Rng, at: u64, len: u64) {
        let noise = noise(rng, len);
        self.medium.write(at, &noise);
        self.cache.write(at, &noise);
    }

    /// The size of a file is only durable with a flush, so a cut may shorten what grew since.
    fn len_after_cut(&self, rng: &mut Rng, tear: Tear) -> u64 {
        let grown = self.cache_len - self.medium_len;
        match tear {
            Tear::KeepNothing => self.medium_len,
            Tear::KeepAll | Tear::AllBut(_) | Tear::Only(_) | Tear::First(_) => self.cache_len,
            Tear::Sectors(_) | Tear::Pages(_) => match rng.below(4) {
                0 => self.medium_len,
                1 => self.medium_len + rng.below(grown / SECTOR + 1) * SECTOR,
                _ => self.cache_len,
            },
        }
    }

    fn forget_cache(&mut self) {
        self.cache = self.medium.clone();
        self.cache_len = self.medium_len;
    }
}

impl Tear {
    /// A tear as a real power cut might leave it.
    pub fn random(rng: &mut Rng, pending_sectors: u64) -> Tear {
        match rng.below(8) {
            0 => Tear::KeepNothing,
            1 => Tear::KeepAll,
            2 => Tear::First(rng.below(pending_sectors + 1)),
            3 => Tear::AllBut(rng.below(pending_sectors + 1)),
            4 => Tear::Pages(50),
            5 => Tear::Sectors(95),
            6 => Tear::Sectors(10),
            _ => Tear::Sectors(50),
        }
    }
}

impl Blocks {
    fn read(&self, at: u64, out: &mut [u8]) {
        for_blocks(at, out.len() as u64, |block, within, range| {
            if let Some(Some(bytes)) = self.0.get(block) {
                let len = range.len();
                out[range].copy_from_slice(&bytes[within..within + len]);
            }
        });
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        let blocks = (at + bytes.len() as u64).div_ceil(BLOCK) as usize;
        if self.0.len() < blocks {
            self.0.resize(blocks, None);
        }
        for_blocks(at, bytes.len() as u64, |block, within, range| {
            let target = self.0[block].get_or_insert_with(|| Rc::new([0; BLOCK as usize]));
            Rc::make_mut(target)[within..within + range.len()].copy_from_slice(&bytes[range]);
        });
    }

    /// Puts `len` bytes of a pending write, beginning at `from` in it, where they belong.
    fn apply(&mut self, write: &Pending, from: u64, len: u64) {
        match &write.bytes {
            Some(bytes) => {
                self.write(write.at + from, &bytes[from as usize..(from + len) as usize])
            }
            None => self.write(write.at + from, &vec![0; len as usize]),
        }
    }
}

/// Cuts a range of bytes into blocks: block number, place within it, range of the caller's bytes.
fn for_blocks(at: u64, len: u64, mut visit: impl FnMut(usize, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let within = (at + done) % BLOCK;
        let part = (BLOCK - within).min(len - done);
        visit(
            ((at + done) / BLOCK) as usize,
            within as usize,
            done as usize..(done + part) as usize,
        );
        done += part;
    }
}

fn noise(rng: &mut Rng, len: u64) -> Vec<u8> {
    (0..len).map(|_| rng.next_u64() as u8).collect()
}
