//! How large a new log is, and how often its medium is flushed.

use super::{advice, folder_of, random_uuid};
use crate::config::{self, Flushes};
use crate::store::Medium;
use crate::units::format_bytes;
use rustix::fs::statvfs;
use std::path::Path;
use weir_core::log::{FlushCap, Start, YEAR_SECONDS};

/// The least log: a slot open and one to move on to in each busy lane, the reserve, and some room.
const SLOTS_MIN: u64 = 14;
/// The superblock and its copy take the room of a slot each.
const SUPERBLOCK_SLOTS: u64 = 2;
const SLOT_BYTES_SMALL: u64 = 4 << 20;
/// The disk budget when nothing is configured.
const BYTES_DEFAULT: u64 = 8 << 30;

/// The figures of a new log in a file.
pub(super) fn of_new(path: &Path, flash: &config::Flash) -> Result<Start, String> {
    let folder = folder_of(path);
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
    figures(bytes, flash.slot_bytes)
}

/// The figures of a log that takes no more than so many bytes of its medium.
pub(super) fn figures(bytes: u64, slot_bytes: Option<u32>) -> Result<Start, String> {
    let slot_bytes = slot_bytes.map_or_else(|| self::slot_bytes(bytes), u64::from);
    let slots = (bytes / slot_bytes).saturating_sub(SUPERBLOCK_SLOTS);
    if slots < SLOTS_MIN {
        return Err(format!(
            "a flash log needs at least {} and would get {}: free some space, or raise flash.bytes",
            format_bytes((SLOTS_MIN + SUPERBLOCK_SLOTS) * slot_bytes),
            format_bytes(bytes),
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

/// The flush cap at the start and a sentence that says it aloud. A card's is set by the wear
/// governor, which goes on from there.
pub fn flush_cap(
    flash: &config::Flash,
    past: &super::Past,
    medium: &Medium,
) -> (Option<FlushCap>, String) {
    let cap = |per_second: u32| FlushCap { per_second, burst: per_second.saturating_mul(5) };
    let said = |cap: Option<FlushCap>, why: &str| match cap {
        Some(cap) => (Some(cap), format!("at most {} flushes a second ({why})", cap.per_second)),
        None => (None, format!("flushes are not capped ({why})")),
    };
    match (flash.flushes, flash.card) {
        (Flushes::Unlimited, _) => said(None, "flash.flushes_per_second"),
        (Flushes::PerSecond(rate), _) => said(Some(cap(rate)), "flash.flushes_per_second"),
        (Flushes::ByMedium, Some(card)) => {
            let why = format!(
                "{:.1} TB in {:.1} years, {:.3} TB so far",
                card.endurance_bytes as f64 / 1e12,
                card.wanted_seconds as f64 / YEAR_SECONDS as f64,
                past.life.programmed_bytes as f64 / 1e12,
            );
            said(Some(cap(card.flushes_per_second(&past.life, 0))), &why)
        }
        (Flushes::ByMedium, None) => said(medium.flushes_per_second().map(cap), medium.name()),
    }
}
