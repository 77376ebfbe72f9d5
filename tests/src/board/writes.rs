//! What a guest has written to its disk, as QEMU's `blklogwrites` has recorded it, and the disk
//! that a pulled plug leaves of it.
//!
//! ```text
//! sector 0      magic u64, version u64, number of entries u64, bytes of a sector u32
//! each entry    a sector: at u64 and length u64 in sectors, flags u64; then the data
//! ```
//!
//! Little-endian, the format of Linux's dm-log-writes. QEMU records a write when it is done and a
//! flush before the guest hears of it, so what stands before a flush is what the guest may rely on.

use crate::cut::{Harm, SECTOR, damage};
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use weir_core::rng::Rng;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FORCED: u64 = 2;
const DISCARD: u64 = 4;

/// One entry of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    at: u64,
    bytes: u64,
    flags: u64,
    /// Where its data is in the recording.
    data: u64,
}

impl Entry {
    /// Where the recording goes on behind it.
    fn end(&self) -> u64 {
        self.data + if self.flags & DISCARD == 0 { self.bytes } else { 0 }
    }
}

/// What a plug that was pulled has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pulled {
    /// Where in the recording the plug was pulled. What stands before it has happened.
    pub at: u64,
    pub writes: u64,
    pub flushes: u64,
    /// Writes that were not flushed.
    pub open: u64,
    pub harm: Harm,
}

/// How a guest has ended.
#[derive(Debug)]
pub enum End<'a> {
    /// The plug was pulled at some entry behind this position: what follows was never written, and
    /// of what was not flushed then a random part is lost.
    Pulled {
        behind: u64,
        rng: &'a mut Rng,
    },
    Orderly,
}

/// Takes what was recorded to the disk: all up to the last flush, and what the end has left of the
/// rest.
pub fn take(recording: &Path, disk: &Path, end: End<'_>) -> io::Result<Pulled> {
    let recording = File::open(recording)?;
    let disk = File::options().write(true).open(disk)?;
    let mut entries = entries(&recording)?;
    let (flushed, rng) = match end {
        End::Orderly => (entries.len(), None),
        End::Pulled { behind, rng } => {
            let cut = cut(&entries, behind, rng);
            entries.truncate(cut);
            let flush = entries.iter().rposition(|entry| entry.flags & FLUSH != 0);
            (flush.map_or(0, |at| at + 1), Some(rng))
        }
    };
    let end = entries.last().map_or(0, Entry::end);
    let mut pulled = Pulled { at: end, ..Pulled::default() };
    let mut open = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        pulled.flushes += entry.flags & FLUSH;
        if entry.bytes == 0 || entry.flags & DISCARD != 0 {
            // What a guest has discarded may stay as it was.
            continue;
        }
        pulled.writes += 1;
        let mut data = vec![0; entry.bytes as usize];
        read(&recording, entry.data, &mut data)?;
        if index < flushed || entry.flags & FORCED != 0 {
            disk.write_all_at(&data, entry.at)?;
        } else {
            open.push((entry.at, Bytes::from(data)));
        }
    }
    pulled.open = open.len() as u64;
    let Some(rng) = rng else { return Ok(pulled) };
    let open: Vec<_> = open.iter().map(|(at, data)| (*at, data)).collect();
    let mut result = Ok(());
    pulled.harm = damage(&open, rng, |at, data| {
        if result.is_ok() {
            result = disk.write_all_at(data, at);
        }
    });
    result.map(|()| pulled)
}

/// How many entries there were when the plug was pulled: at random in the later half of those
/// behind a position, mostly where writes wait for their flush.
fn cut(entries: &[Entry], behind: u64, rng: &mut Rng) -> usize {
    let first = entries.partition_point(|entry| entry.data < behind);
    let from = first + (entries.len() - first) / 2;
    let is_flush = |at: &usize| entries[*at].flags & FLUSH != 0;
    let flushes: Vec<usize> = (from..entries.len()).filter(is_flush).collect();
    if flushes.is_empty() || rng.percent(25) {
        return from + rng.below((entries.len() - from) as u64 + 1) as usize;
    }
    flushes[rng.below(flushes.len() as u64) as usize]
}

/// The entries up to where QEMU was killed.
fn entries(recording: &File) -> io::Result<Vec<Entry>> {
    let mut head = [0; 28];
    read(recording, 0, &mut head)?;
    let wrong = |what: &str| io::Error::other(format!("QEMU's recording {what}"));
    if word(&head, 0) != MAGIC || head[24..28] != (SECTOR as u32).to_le_bytes() {
        return Err(wrong("is none"));
    }
    let length = recording.metadata()?.len();
    let mut entries = Vec::new();
    let mut at = SECTOR as u64;
    // The number of entries in the head is behind by those that were under way.
    while at < length {
        let mut entry = [0; 32];
        read(recording, at, &mut entry)?;
        let (sector, sectors, flags) = (word(&entry, 0), word(&entry, 8), word(&entry, 16));
        if sectors == 0 && flags == 0 {
            break;
        }
        let data = at + SECTOR as u64;
        let bytes = sectors.checked_mul(SECTOR as u64).ok_or_else(|| wrong("is damaged"))?;
        let carries = flags & DISCARD == 0;
        let place = sector.checked_mul(SECTOR as u64).filter(|_| !carries || bytes <= 1 << 30);
        let place = place.ok_or_else(|| wrong("is damaged"))?;
        let entry = Entry { at: place, bytes, flags, data };
        at = entry.end();
        entries.push(entry);
    }
    Ok(entries)
}

/// Reads, and takes zeros for what lies behind the end: the last entry may have been cut.
fn read(file: &File, at: u64, into: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], at + done as u64)? {
            0 => break,
            read => done += read,
        }
    }
    Ok(())
}

#[allow(clippy::little_endian_bytes)] // The format is Linux's.
fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    /// A recording of writes of a sector and of flushes, and the disk that it belongs to.
    fn recorded(name: &str, entries: &[(u64, u64, u8)]) -> (PathBuf, PathBuf) {
        let mut bytes = Vec::new();
        let sector = |words: &[u64]| {
            let mut sector: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            sector.resize(SECTOR, 0);
            sector
        };
        bytes.extend(sector(&[MAGIC, 1, entries.len() as u64, SECTOR as u64]));
        for (at, flags, byte) in entries {
            let sectors = u64::from(flags & FLUSH == 0);
            bytes.extend(sector(&[*at, sectors, *flags, 0]));
            bytes.extend(vec![*byte; SECTOR * sectors as usize]);
        }
        let folder = crate::folder(name);
        fs::write(folder.join("recording"), bytes).unwrap();
        fs::write(folder.join("disk"), vec![0; 4 * SECTOR]).unwrap();
        (folder.join("recording"), folder.join("disk"))
    }

    #[test]
    fn what_was_flushed_is_there_and_what_came_after_the_cut_is_not() {
        let entries = [(0, 0, 1), (0, FLUSH, 0), (1, 0, 2), (2, 0, 3), (0, FLUSH, 0)];
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let (recording, disk) = recorded("boot-test-writes", &entries);
            let mut rng = Rng::new(seed);
            let end = End::Pulled { behind: 0, rng: &mut rng };
            let pulled = take(&recording, &disk, end).unwrap();
            let found = fs::read(&disk).unwrap();
            assert_eq!(found[0], 1, "seed {seed}");
            if pulled.at == fs::metadata(&recording).unwrap().len() {
                assert_eq!((found[SECTOR], found[2 * SECTOR]), (2, 3), "seed {seed}");
            }
            seen.insert((found[SECTOR], found[2 * SECTOR]));
        }
        assert_eq!(seen.len(), 4, "each of the two open writes with and without the other");
    }

    #[test]
    fn an_orderly_end_keeps_everything() {
        let (recording, disk) = recorded("boot-test-orderly", &[(3, 0, 7)]);
        take(&recording, &disk, End::Orderly).unwrap();
        assert_eq!(fs::read(&disk).unwrap()[3 * SECTOR], 7);
    }

    #[test]
    fn a_recording_that_is_cut_or_garbage_is_no_panic() {
        let (recording, disk) = recorded("boot-test-cut", &[(0, 0, 1), (1, 0, 2)]);
        let whole = fs::read(&recording).unwrap();
        for length in (0..whole.len()).step_by(13) {
            fs::write(&recording, &whole[..length]).unwrap();
            take(&recording, &disk, End::Orderly).ok();
        }
        let mut garbage = whole;
        garbage[SECTOR..SECTOR + 24].fill(0xff);
        fs::write(&recording, garbage).unwrap();
        assert!(take(&recording, &disk, End::Orderly).is_err());
    }
}
