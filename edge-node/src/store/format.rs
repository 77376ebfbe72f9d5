//! `weir log format`: makes a file or a block device a flash log, and asks twice before it
//! overwrites something.

use super::device::{self, Content};
use super::{advice, size};
use crate::units::format_bytes;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use weir_core::log::inspect::{self, bytes_of};
use weir_core::log::{Io, Start};

/// What is wiped at both ends of a device, so that nothing there is taken for what it was.
const WIPED_BYTES: u64 = 1 << 20;

#[derive(Clone, Copy, Debug)]
pub struct Formatting {
    /// Bytes of the log; the whole device without it.
    pub bytes: Option<u64>,
    pub slot_bytes: Option<u32>,
    pub node: i32,
    /// How often it was said that what is there may go.
    pub yes: u8,
}

/// What a format made.
#[derive(Clone, Copy, Debug)]
pub struct Formatted {
    pub store: [u8; 16],
    pub slot_bytes: u32,
    pub slots: u32,
}

/// Formats the medium at `path`. An error is a sentence; nothing was changed then.
pub fn format(path: &Path, formatting: &Formatting) -> Result<Formatted, String> {
    let is_device = device::is_block_device(path);
    if !is_device && path.starts_with("/dev") {
        return Err(format!("there is no block device {}", path.display()));
    }
    if let Some(user) = device::user(path).filter(|_| is_device && formatting.yes < 2) {
        return Err(format!(
            "{} is {user}: nothing was changed. Unmount it first; or, if you know better, --yes \
             --yes",
            path.display()
        ));
    }
    let mut options = File::options();
    options.read(true).write(true).create(!is_device).truncate(false);
    let existed = path.exists();
    let file = options.open(path).map_err(|error| advice(&error, "open", path))?;
    let made = make(path, &file, is_device, formatting);
    if made.is_err() && !existed {
        // It holds nothing: it was made a moment ago.
        let _ = std::fs::remove_file(path);
    }
    made
}

fn make(
    path: &Path,
    file: &File,
    is_device: bool,
    formatting: &Formatting,
) -> Result<Formatted, String> {
    super::claim(file, path)?;
    let length = device::length(file).map_err(|error| advice(&error, "read", path))?;
    let content = device::content(file, length).map_err(|error| advice(&error, "read", path))?;
    may_go(path, content, formatting.yes)?;
    let bytes = match (formatting.bytes, is_device) {
        (Some(bytes), true) if bytes > length => {
            return Err(format!(
                "{} has {}, which is less than --bytes {bytes}",
                path.display(),
                format_bytes(length)
            ));
        }
        (Some(bytes), _) => bytes,
        (None, true) => length,
        (None, false) => {
            return Err(format!(
                "say how large the log may grow: weir log format {} --bytes 8GiB",
                path.display()
            ));
        }
    };
    let start = size::figures(bytes, formatting.slot_bytes)?;
    let Start::Format { store, slot_bytes, slots } = start else {
        unreachable!("figures are those of a format")
    };
    let end = if is_device { length } else { 0 };
    wipe(file, end, slot_bytes, slots).and_then(|()| write(file, start, formatting.node)).map_err(
        |error| {
            format!(
                "{}: it is not a log now; what was there may be gone",
                advice(&error, "format", path)
            )
        },
    )?;
    Ok(Formatted { store, slot_bytes, slots })
}

/// Whether what is there may be overwritten, by how often that was said.
fn may_go(path: &Path, content: Content, yes: u8) -> Result<(), String> {
    let path = path.display();
    match content {
        Content::Known(name) if yes < 2 => Err(format!(
            "{path} holds {name}: nothing was changed. If that may be lost: weir log format {path} \
             --yes --yes"
        )),
        Content::Unknown if yes < 1 => Err(format!(
            "{path} is not empty: nothing was changed. If what is there may be lost: weir log \
             format {path} --yes"
        )),
        _ => Ok(()),
    }
}

/// Takes away what could be taken for something: both ends, and the begin of every slot, so that a
/// start does not look into slots that only seem used. A file loses everything.
fn wipe(file: &File, device_bytes: u64, slot_bytes: u32, slots: u32) -> io::Result<()> {
    if device_bytes == 0 {
        return file.set_len(0);
    }
    let zeros = vec![0; WIPED_BYTES as usize];
    let end = device_bytes.saturating_sub(WIPED_BYTES);
    file.write_all_at(&zeros, 0)?;
    file.write_all_at(&zeros[..(device_bytes - end) as usize], end)?;
    for slot in 0..=slots {
        let at = bytes_of(slot_bytes, slot) - u64::from(slot_bytes);
        file.write_all_at(&zeros[..inspect::SLOT_HEAD_BYTES], at)?;
    }
    // The superblock comes after what it vouches for.
    file.sync_all()
}

fn write(file: &File, start: Start, node: i32) -> io::Result<()> {
    inspect::format(start, node, &mut |io| match io {
        Io::Write { at, bytes, .. } => file.write_all_at(bytes, *at),
        Io::Flush { .. } => file.sync_all(),
        _ => Ok(()),
    })
}
