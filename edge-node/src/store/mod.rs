//! The data folder: who uses it, where its log is, and what is known of it.
//!
//! ```text
//! lock           held by whoever uses the folder; nothing stands in it but that process's number
//! flash.log      the log, unless flash.path says otherwise
//! flash.log.new  a log whose format was cut short; begun anew at the next start
//! identity.toml, life.toml    see `kept`
//! ```

mod device;
mod format;
mod kept;
mod medium;
mod refusal;
mod size;

pub use device::length;
pub use format::{Formatting, format};
pub use kept::{Past, store_name};
pub use medium::Medium;
pub use refusal::refusal;
pub use size::flush_cap;

use crate::config;
use crate::units::format_bytes;
use log::{info, warn};
use refusal::advice;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use weir_core::log::inspect::{Superblock, superblock};
use weir_core::log::{OpenError, Start};

/// An open data folder. It and its log are locked as long as this lives.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// Where the log is when it has been formatted.
    path: PathBuf,
    /// A handle of its own on the log, which also holds its lock.
    log: File,
    _lock: File,
    node: i32,
    /// The store's UUID, as people read it.
    store: String,
    identified: bool,
    pub start: Start,
    /// Length of the log at the start.
    pub bytes: u64,
    pub medium: Medium,
    pub past: Past,
    /// When the log was last written to, in milliseconds since 1970.
    pub written_ms: Option<i64>,
}

impl Store {
    /// Locks the folder, makes it if need be, and looks at what is there. Errors are sentences.
    pub fn open(folder: &Path, node: i32, flash: &config::Flash) -> Result<(Store, File), String> {
        create_folder(folder).map_err(|error| advice(&error, "make", folder))?;
        let lock = lock(folder)?;
        let path = flash.path.clone().unwrap_or_else(|| folder.join("flash.log"));
        let identity = kept::identity(folder)?;
        let (file, bytes) = open_log(&path, identity.as_deref())?;
        claim(&file, &path)?;
        let start = match bytes {
            0 => size::of_new(&path, flash)?,
            _ => Start::Recover,
        };
        let known = known(&file, bytes, start);
        let store = known.map_or(String::new(), |known| store_name(&known.store));
        let past = Past::read(folder, &store);
        if let Some(known) = known.filter(|_| bytes > 0) {
            check(&path, (&known, bytes), identity.as_deref(), &past, flash)?;
        }
        let metadata = file.metadata().ok().filter(|_| bytes > 0);
        let written_ms = metadata
            .filter(|metadata| metadata.is_file())
            .and_then(|metadata| metadata.modified().ok())
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .map(|since| since.as_millis() as i64);
        let handle = file.try_clone().map_err(|error| advice(&error, "open", &path))?;
        let store = Store {
            folder: folder.to_path_buf(),
            medium: Medium::of(if bytes > 0 { &path } else { folder_of(&path) }),
            path,
            log: handle,
            _lock: lock,
            node,
            store,
            identified: identity.is_some(),
            start,
            bytes,
            past,
            written_ms,
        };
        Ok((store, file))
    }

    /// Where the log is at this moment.
    pub fn log_path(&self) -> PathBuf {
        if self.bytes > 0 { self.path.clone() } else { new_name(&self.path) }
    }

    /// The start is over: gives a new log its name, and remembers whose it is, durably.
    pub fn started(&mut self) -> Result<(), String> {
        if self.bytes == 0 {
            let from = self.log_path();
            fs::rename(&from, &self.path)
                .and_then(|()| kept::sync_folder_of(&self.path))
                .map_err(|error| advice(&error, "rename", &from))?;
        }
        if !self.identified
            && let Some(known) = known(&self.log, self.bytes, self.start)
        {
            kept::write_identity(&self.folder, self.node, &known.store)?;
        }
        // What was there at the start, a start makes durable.
        self.past.medium_bytes = self.bytes;
        self.keep();
        Ok(())
    }

    /// Remembers the past. Failing costs some counters, and is said.
    pub fn keep(&self) {
        if let Err(error) = self.past.write(&self.folder, &self.store) {
            warn!("cannot write life.toml in {}: {error}", self.folder.display());
        }
    }

    /// The log is closed, and everything that it wrote is to be found again.
    pub fn stopped(&mut self) {
        if self.log.sync_all().is_ok()
            && let Ok(bytes) = device::length(&self.log)
        {
            self.past.medium_bytes = bytes;
        }
        self.keep();
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What a log is called until its format is done.
fn new_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Opens the log, or the file that becomes one; its length, 0 for a new one.
fn open_log(path: &Path, identity: Option<&str>) -> Result<(File, u64), String> {
    if device::is_block_device(path) {
        let file = device::open_device(path).map_err(|error| match device::user(path) {
            Some(user) => format!("{} is {user}: it cannot be a flash log", path.display()),
            None => advice(&error, "open", path),
        })?;
        let bytes = device::length(&file).map_err(|error| advice(&error, "read", path))?;
        return Ok((file, bytes));
    }
    let length = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return Err(format!("{} is neither a file nor a block device", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(advice(&error, "read", path)),
    };
    if length == 0
        && let Some(store) = identity
    {
        return Err(refusal::missing(path, store));
    }
    if length == 0 && path.starts_with("/dev") {
        return Err(format!("there is no device {}", path.display()));
    }
    let mut options = File::options();
    options.read(true).write(true);
    let opened = match length {
        0 => {
            let new = new_name(path);
            options.create(true).truncate(true).open(&new).map_err(|e| advice(&e, "make", &new))
        }
        _ => options.open(path).map_err(|error| advice(&error, "open", path)),
    };
    opened.map(|file| (file, length))
}

/// What the superblock says; of a new log, what it will say.
fn known(file: &File, bytes: u64, start: Start) -> Option<Superblock> {
    match start {
        Start::Format { store, slot_bytes, slots } if bytes == 0 => {
            Some(Superblock { store, node: 0, slot_bytes, slots })
        }
        _ => superblock(&mut |at, len| read(file, at, len)).ok(),
    }
}

/// Reads a block; what lies beyond the end are zeros.
fn read(file: &File, at: u64, len: u32) -> Option<bytes::Bytes> {
    let mut block = vec![0; len as usize];
    device::read_up_to(file, &mut block, at).ok()?;
    Some(block.into())
}

/// Whether this is the log that the folder and the configuration speak of, in whole. The rest is
/// seen at the start.
fn check(
    path: &Path,
    (known, bytes): (&Superblock, u64),
    identity: Option<&str>,
    past: &Past,
    flash: &config::Flash,
) -> Result<(), String> {
    let store = store_name(&known.store);
    if let Some(expected) = identity
        && expected != store
    {
        return Err(refusal::other_store(path, expected, &store));
    }
    let device = device::is_block_device(path);
    let needed = if device { known.bytes() } else { past.medium_bytes };
    if bytes < needed {
        return Err(refusal(&OpenError::MediumTooShort { bytes, needed }, path));
    }
    let Some(wanted) = flash.bytes else { return Ok(()) };
    // Before the superblocks counted, a log was two slots larger than it was asked for.
    let counted = known.bytes() - 2 * u64::from(known.slot_bytes);
    if counted > wanted {
        return Err(refusal::too_large(path, known.bytes(), wanted));
    }
    if counted + u64::from(known.slot_bytes) * 3 < wanted && !device {
        info!(
            "the log keeps its size of {}: flash.bytes is for new logs",
            format_bytes(known.bytes())
        );
    }
    Ok(())
}

/// Keeps others from opening the log while the file lives, whichever folder they come from.
pub fn claim(file: &File, path: &Path) -> Result<(), String> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        format!("the flash log {} is in use by a running weir: stop that one first", path.display())
    })
}

/// Makes the folder and its name durable.
fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    match folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

/// Locks a data folder.
fn lock(folder: &Path) -> Result<File, String> {
    let path = folder.join("lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| advice(&error, "open", &path))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        let holder = holder.trim().parse::<u32>().map_or(String::new(), |p| format!(" {p}"));
        return Err(format!(
            "the data folder {} is in use by a running weir (process{holder}): stop that one \
             first, or give this one a folder of its own by --data DIR",
            folder.display()
        ));
    }
    let number = format!("{:<10}\n", std::process::id());
    if let Err(error) = file.write_all(number.as_bytes()) {
        warn!("cannot write {}: {error}", path.display());
    }
    Ok(file)
}

/// A random UUID of version 4 (RFC 9562).
fn random_uuid() -> io::Result<[u8; 16]> {
    let mut bytes = random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes)
}

/// Random bytes of the kernel.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
