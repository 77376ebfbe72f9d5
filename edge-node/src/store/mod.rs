//! The data folder: who uses it, what it is on, and how large a log it gets.
//!
//! ```text
//! lock           held by whoever uses the folder; nothing stands in it but that process's number
//! flash.log      the log
//! flash.log.new  a log whose format was cut short; begun anew at the next start
//! ```

mod medium;

pub use medium::Medium;

use crate::config;
use crate::units::format_bytes;
use log::warn;
use rustix::fs::{FlockOperation, flock, statvfs};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use weir_core::log::{FlushCap, OpenError, Start};

/// The least log: two lanes with a slot open and one to move on to, the reserve, and some room.
const SLOTS_MIN: u64 = 16;
const SLOT_BYTES_SMALL: u64 = 4 << 20;
/// The disk budget when nothing is configured.
const BYTES_DEFAULT: u64 = 8 << 30;

/// An open data folder. It is locked as long as this lives.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    _lock: File,
    pub start: Start,
    /// Length of the log at the start.
    pub bytes: u64,
    pub medium: Medium,
    /// When the log was last written to, in milliseconds since 1970.
    pub written_ms: Option<i64>,
}

impl Store {
    /// Locks the folder, makes it if need be, and looks at what is there. Errors are sentences.
    pub fn open(folder: &Path, flash: &config::Flash) -> Result<(Store, File), String> {
        create_folder(folder).map_err(|error| advice(&error, "make", folder))?;
        let lock = lock(folder)?;
        let medium = Medium::of(folder);
        let path = folder.join("flash.log");
        let length = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(advice(&error, "read", &path)),
        };
        let mut options = File::options();
        options.read(true).write(true);
        let file = if length > 0 {
            options.open(&path).map_err(|error| advice(&error, "open", &path))?
        } else {
            let new = folder.join("flash.log.new");
            let opened = options.create(true).truncate(true).open(&new);
            opened.map_err(|error| advice(&error, "make", &new))?
        };
        let start = if length > 0 { Start::Recover } else { format(folder, flash)? };
        let modified = file.metadata().ok().filter(|_| length > 0).and_then(|m| m.modified().ok());
        let written_ms = modified
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .map(|since| since.as_millis() as i64);
        let folder = folder.to_path_buf();
        Ok((Store { folder, _lock: lock, start, bytes: length, medium, written_ms }, file))
    }

    /// Where the log is at this moment.
    pub fn log_path(&self) -> PathBuf {
        let name = if self.bytes > 0 { "flash.log" } else { "flash.log.new" };
        self.folder.join(name)
    }

    /// A new log has been formatted: gives it its name, durably.
    pub fn formatted(&self) -> Result<(), String> {
        if self.bytes > 0 {
            return Ok(());
        }
        let (from, to) = (self.log_path(), self.folder.join("flash.log"));
        fs::rename(&from, &to)
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .map_err(|error| advice(&error, "rename", &from))
    }
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

/// Locks a data folder, for a node or for a tool that looks at a log that nobody writes.
pub fn lock(folder: &Path) -> Result<File, String> {
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

/// The figures of a new log.
fn format(folder: &Path, flash: &config::Flash) -> Result<Start, String> {
    let stat = statvfs(folder).map_err(|error| advice(&error.into(), "look at", folder))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let bytes = flash.bytes.unwrap_or_else(|| BYTES_DEFAULT.min(free / 4 * 3));
    if bytes > free {
        return Err(format!(
            "flash.bytes is {}, but {} has {} free: free some space, or choose a smaller size, \
             as in --set flash.bytes={}MiB",
            format_bytes(bytes),
            folder.display(),
            format_bytes(free),
            (free / 4 * 3) >> 20,
        ));
    }
    let slot_bytes = flash.slot_bytes.map_or_else(|| slot_bytes(bytes), u64::from);
    let slots = bytes / slot_bytes;
    if slots < SLOTS_MIN {
        return Err(format!(
            "a flash log needs at least {} and would get {}: free some space in {}, or raise \
             flash.bytes",
            format_bytes(SLOTS_MIN * slot_bytes),
            format_bytes(bytes),
            folder.display(),
        ));
    }
    let slots = u32::try_from(slots)
        .map_err(|_| "flash.bytes is too large: raise flash.slot_bytes".to_string())?;
    let store = random_uuid().map_err(|error| format!("cannot read random numbers: {error}"))?;
    Ok(Start::Format { store, slot_bytes: slot_bytes as u32, slots })
}

/// 4 MiB up to 8 GiB, then about 2,048 slots, up to 16 MiB each.
fn slot_bytes(bytes: u64) -> u64 {
    match bytes {
        0..=0x2_0000_0000 => SLOT_BYTES_SMALL,
        0x2_0000_0001..=0x4_0000_0000 => 2 * SLOT_BYTES_SMALL,
        _ => 4 * SLOT_BYTES_SMALL,
    }
}

/// The flush cap and a sentence that says it aloud.
pub fn flush_cap(flash: &config::Flash, medium: &Medium) -> (Option<FlushCap>, String) {
    let cap = |per_second: u32| FlushCap { per_second, burst: per_second.saturating_mul(5) };
    let said = |cap: Option<FlushCap>, why: &str| match cap {
        Some(cap) => (Some(cap), format!("at most {} flushes a second ({why})", cap.per_second)),
        None => (None, format!("flushes are not capped ({why})")),
    };
    match (flash.flushes, flash.card) {
        (config::Flushes::Unlimited, _) => said(None, "flash.flushes_per_second"),
        (config::Flushes::PerSecond(rate), _) => said(Some(cap(rate)), "flash.flushes_per_second"),
        (config::Flushes::ByMedium, Some((tbw, years))) => {
            let why = format!("{tbw} TB written in {years} years");
            said(Some(cap(flushes_of_card(tbw, years))), &why)
        }
        (config::Flushes::ByMedium, None) => {
            said(medium.flushes_per_second().map(cap), medium.name())
        }
    }
}

/// The flush rate that uses an endurance up in so many years: a small commit programs a flash page
/// of 16 KiB, so that one flush a second is 0.52 TB a year.
fn flushes_of_card(tbw: f64, years: f64) -> u32 {
    const TB_A_YEAR: f64 = 16_384.0 * 365.25 * 86_400.0 / 1e12;
    (tbw / years / TB_A_YEAR).clamp(1.0, 100_000.0) as u32
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

/// Why the log is refused, and what to do.
pub fn refusal(error: &OpenError, path: &Path) -> String {
    let path = path.display();
    match error {
        OpenError::Blank => {
            format!("{path} holds nothing: its format was cut short. Delete it and start again")
        }
        OpenError::NotALog => format!(
            "{path} is no flash log of weir; it was left untouched. Give weir a folder of its \
             own by --data DIR"
        ),
        OpenError::NewerFormat { found, known } => format!(
            "{path} has format {found}, and this weir knows formats up to {known}: run the newer \
             weir that wrote it, or another folder by --data DIR"
        ),
        OpenError::SuperblocksDiffer => format!(
            "{path} is put together of two logs: its superblocks differ. Restore it from a copy, \
             or start anew in another folder by --data DIR"
        ),
        OpenError::MediumTooShort { bytes, needed } => format!(
            "{path} is cut short: it has {} and needs {}. Restore it from a copy",
            format_bytes(*bytes),
            format_bytes(*needed)
        ),
        OpenError::Device => format!(
            "{path} cannot be read: the disk fails. The lines above say where; look at the \
             kernel's log"
        ),
        OpenError::Settings(sentence) => format!("{path}: {sentence}"),
    }
}

/// What failed, and what to do about it.
fn advice(error: &io::Error, what: &str, path: &Path) -> String {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => {
            ": run weir as the folder's owner, or choose another folder by --data DIR"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ": free some space on this disk",
        ErrorKind::ReadOnlyFilesystem => {
            ": the file system is read-only, perhaps after an error; look at the kernel's log"
        }
        _ => "",
    };
    format!("cannot {what} {}: {error}{hint}", path.display())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{Flash, Flushes};

    fn flash(bytes: u64) -> Flash {
        Flash { bytes: Some(bytes), slot_bytes: None, flushes: Flushes::ByMedium, card: None }
    }

    fn folder(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("weir-store-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_folder_is_used_by_one_at_a_time_and_keeps_its_log() {
        let folder = folder("lock");
        let (store, _) = Store::open(&folder, &flash(64 << 20)).unwrap();
        assert!(matches!(store.start, Start::Format { slots: 16, slot_bytes: 0x40_0000, .. }));
        let error = Store::open(&folder, &flash(64 << 20)).unwrap_err();
        assert!(error.contains("in use") && error.contains(&std::process::id().to_string()));
        fs::write(store.log_path(), b"formatted").unwrap();
        store.formatted().unwrap();
        drop(store);
        let (store, _) = Store::open(&folder, &flash(64 << 20)).unwrap();
        assert_eq!((store.start, store.bytes), (Start::Recover, 9));
        drop(store);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_log_that_does_not_fit_is_refused_with_advice() {
        let folder = folder("fit");
        for (bytes, words) in [(1 << 60, "--set flash.bytes="), (32 << 20, "at least 64 MiB")] {
            let error = Store::open(&folder, &flash(bytes)).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_card_of_30_terabytes_that_should_last_10_years_takes_5_flushes_a_second() {
        assert_eq!(flushes_of_card(30.0, 10.0), 5);
        let (cap, said) =
            flush_cap(&Flash { card: Some((30.0, 10.0)), ..flash(0) }, &Medium::SdCard);
        assert_eq!(cap, Some(FlushCap { per_second: 5, burst: 25 }));
        assert!(said.contains("30 TB"), "{said}");
        let (cap, _) = flush_cap(&flash(0), &Medium::SdCard);
        assert_eq!(cap, Some(FlushCap { per_second: 20, burst: 100 }));
        assert_eq!(flush_cap(&flash(0), &Medium::Ssd).0, None);
    }
}
