//! A disk in memory that keeps every write and flush in their order, and answers with errors on
//! demand.

use bytes::Bytes;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

const PAGE: usize = 4096;

static ZEROS: [u8; PAGE] = [0; PAGE];

/// What stands on a disk; pages that were never written are zeros. Clones share the pages.
#[derive(Clone, Debug, Default)]
pub struct Pages(HashMap<u64, Bytes>);

impl Pages {
    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            let (page, from) = place(at + out.len() as u64);
            let until = PAGE.min(from + len - out.len());
            out.extend_from_slice(&self.page(page)[from..until]);
        }
        out
    }

    pub fn write(&mut self, at: u64, data: &Bytes) {
        let mut done = 0;
        while done < data.len() {
            let (page, from) = place(at + done as u64);
            let len = (PAGE - from).min(data.len() - done);
            let part = data.slice(done..done + len);
            let whole = if len == PAGE {
                part
            } else {
                let mut whole = self.page(page).to_vec();
                whole[from..from + len].copy_from_slice(&part);
                whole.into()
            };
            self.0.insert(page, whole);
            done += len;
        }
    }

    /// As a sparse file, for a look at an image that has shown something.
    pub fn save(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(bytes)?;
        for (page, data) in self.0.iter().filter(|(_, data)| data[..] != ZEROS) {
            file.write_all_at(data, page * PAGE as u64)?;
        }
        Ok(())
    }

    fn page(&self, page: u64) -> &[u8] {
        self.0.get(&page).map_or(&ZEROS, |bytes| bytes)
    }
}

fn place(at: u64) -> (u64, usize) {
    (at / PAGE as u64, (at % PAGE as u64) as usize)
}

fn pages_of(at: u64, len: usize) -> Range<u64> {
    place(at).0..(at + len as u64).div_ceil(PAGE as u64)
}

#[derive(Clone, Debug)]
pub enum Event {
    Write { at: u64, data: Bytes },
    Flush,
}

/// Answers `EIO` so many times, then works again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// To writes of commit groups: what ext4 writes for itself goes through, or it would turn the
    /// file system read-only before weir can do anything.
    pub group_writes: u32,
    /// To flushes.
    pub flushes: u32,
}

/// The refusal of a disk, which becomes `EIO`.
#[derive(Debug)]
pub struct Failed;

#[derive(Debug)]
pub struct Disk {
    pub bytes: u64,
    pages: Pages,
    events: Vec<Event>,
    pub faults: Faults,
    /// Pages that cannot be read until they are written anew.
    pub unreadable: BTreeSet<u64>,
}

impl Disk {
    pub fn new(bytes: u64, pages: Pages) -> Disk {
        let (events, faults, unreadable) = Default::default();
        Disk { bytes, pages, events, faults, unreadable }
    }

    pub fn read(&self, at: u64, len: usize) -> Result<Vec<u8>, Failed> {
        let len = len.min(self.bytes.saturating_sub(at) as usize);
        match self.unreadable.range(pages_of(at, len)).next() {
            Some(_) => Err(Failed),
            None => Ok(self.pages.read(at, len)),
        }
    }

    /// The pages that hold this, in their order on the disk.
    pub fn pages_with(&self, bytes: &[u8]) -> Vec<u64> {
        let holds = |page: &[u8]| page != ZEROS && page.windows(bytes.len()).any(|at| at == bytes);
        let pages = self.pages.0.iter().filter(|(_, page)| holds(page));
        let mut pages: Vec<u64> = pages.map(|(page, _)| *page).collect();
        pages.sort_unstable();
        pages
    }

    pub fn write(&mut self, at: u64, data: &[u8]) -> Result<(), Failed> {
        if self.faults.group_writes > 0 && data.chunks(PAGE).any(|page| page.starts_with(b"WGRP")) {
            self.faults.group_writes -= 1;
            return Err(Failed);
        }
        // Zeros, which a new log mostly consists of, are not worth the memory.
        let zeros = data.len() <= PAGE && data == &ZEROS[..data.len()];
        let data = if zeros {
            Bytes::from_static(&ZEROS[..data.len()])
        } else {
            Bytes::copy_from_slice(data)
        };
        self.pages.write(at, &data);
        if !self.unreadable.is_empty() {
            let written = pages_of(at, data.len());
            self.unreadable.retain(|page| !written.contains(page));
        }
        self.bytes = self.bytes.max(at + data.len() as u64);
        self.events.push(Event::Write { at, data });
        Ok(())
    }

    /// Cuts it, or adds zeros.
    pub fn resize(&mut self, bytes: u64) {
        self.pages.0.retain(|page, _| (*page * PAGE as u64) < bytes);
        self.bytes = bytes;
    }

    pub fn flush(&mut self) -> Result<(), Failed> {
        if self.faults.flushes > 0 {
            self.faults.flushes -= 1;
            return Err(Failed);
        }
        self.events.push(Event::Flush);
        Ok(())
    }

    /// How many events there were so far. What a client learns after it has asked for this may
    /// come from any of them, and from none that follows what it asks for afterwards.
    pub fn position(&self) -> usize {
        self.events.len()
    }

    /// Begins a new recording; gives what the disk holds at its beginning.
    pub fn record(&mut self) -> Pages {
        self.events.clear();
        self.pages.clone()
    }

    /// Ends a recording.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}
