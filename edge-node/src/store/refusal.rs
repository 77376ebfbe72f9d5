//! Why a log is refused, in sentences that say what is known and what to do.

use super::kept::IDENTITY;
use crate::units::format_bytes;
use std::io::{self, ErrorKind};
use std::path::Path;
use weir_core::log::OpenError;

/// Why the log is refused, and what to do.
pub fn refusal(error: &OpenError, path: &Path) -> String {
    let device = super::device::is_block_device(path);
    let path = path.display();
    match error {
        OpenError::Blank | OpenError::NotALog if device => format!(
            "{path} is no flash log of weir; it was left untouched. To make it one, and lose what \
             is on it: weir log format {path}"
        ),
        OpenError::Blank => {
            format!("{path} holds nothing: its format was cut short. Delete it and start again")
        }
        OpenError::NotALog => format!(
            "{path} is no flash log of weir; it was left untouched. Give weir a folder of its \
             own by --data DIR"
        ),
        OpenError::NewerFormat { found, known } => format!(
            "{path} has format {found}, and this weir knows formats up to {known}. It was left \
             untouched; run the newer weir that wrote it, or choose another folder by --data DIR"
        ),
        OpenError::NewerMetadata { known } => format!(
            "{path} is of a cluster whose gateways all have a newer release than this weir, which \
             knows level {known}: run the newer weir, or another folder by --data DIR"
        ),
        OpenError::SuperblocksDiffer => format!(
            "{path} is put together of two logs: its superblocks differ. It was left untouched; \
             restore it from a copy, or begin anew in another folder by --data DIR"
        ),
        OpenError::MediumTooShort { bytes, needed } if device => format!(
            "{path} has {}, but its superblock speaks of {}: it is a copy of a larger medium, or \
             its partition was made smaller. It was left untouched; make the partition larger, or \
             copy the log to a medium that holds all of it",
            format_bytes(*bytes),
            format_bytes(*needed)
        ),
        OpenError::MediumTooShort { bytes, needed } => format!(
            "{path} is cut short: it has {} and needs {}. It was left untouched; restore it from a \
             copy. If a copy only left out zeros at its end: truncate -s {needed} {path}",
            format_bytes(*bytes),
            format_bytes(*needed)
        ),
        OpenError::SlotsOutOfOrder { slot, holds } => format!(
            "{path} is put together wrongly: where slot {slot} should be stands slot {holds}, and \
             it is not the only one. It was left untouched; copy the log again, in one piece"
        ),
        OpenError::Device => format!(
            "{path} cannot be read or written: the disk is full, or it fails. The lines above say \
             which and where; free some space, or look at the kernel's log"
        ),
        OpenError::Settings(sentence) => format!("{path}: {sentence}"),
    }
}

/// What failed, and what to do about it.
pub fn advice(error: &io::Error, what: &str, path: &Path) -> String {
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

/// The folder belongs to a log that is not there.
pub fn missing(path: &Path, store: &str) -> String {
    format!(
        "{} is missing, and {IDENTITY} in the data folder says that log {store} belongs there: is \
         its medium not mounted? Put it back; or, to begin with an empty log, delete {IDENTITY}",
        path.display()
    )
}

/// The log is another one than the folder's.
pub fn other_store(path: &Path, expected: &str, found: &str) -> String {
    format!(
        "{} is log {found}, but {IDENTITY} in the data folder says that log {expected} belongs \
         there; it was left untouched. Put the right one there; or, to go on with this one, delete \
         {IDENTITY}",
        path.display()
    )
}

/// The log is larger than the configured budget.
pub fn too_large(path: &Path, bytes: u64, wanted: u64) -> String {
    format!(
        "{} was formatted for {}, and flash.bytes is {}: a log keeps its size. Set flash.bytes to \
         {bytes}, or begin anew in another folder by --data DIR",
        path.display(),
        format_bytes(bytes),
        format_bytes(wanted)
    )
}
