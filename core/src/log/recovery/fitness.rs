//! Whether what a start finds is one whole log: a medium that was put together wrongly or cut short
//! is refused before anything is written, because starting would give its slots away.
//!
//! Damage is another thing, and never stops a start: a slot header that is gone, or one that a
//! write that went astray has put where another should be.

use super::{Outcome, Recovery};
use crate::log::OpenError;
use crate::log::layout::slot::SlotHeader;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Slots that hold something, but no header of theirs that can be read.
#[derive(Debug, Default)]
pub(crate) struct Headless {
    slots: Vec<u32>,
    /// Those in whose place the header of another stands, and which.
    misplaced: BTreeMap<u32, u32>,
}

impl Headless {
    pub(crate) fn note(&mut self, slot: u32, block: &[u8], store: &[u8; 16]) {
        self.slots.push(slot);
        self.misplaced.extend(SlotHeader::parse_any(block, store).map(|h| (slot, h.slot)));
    }

    pub(crate) fn slots(&self) -> &[u32] {
        &self.slots
    }
}

impl Recovery {
    /// Two slots of which one stands where the other should: a single write that went astray does
    /// not do that.
    pub(in crate::log) fn slots_out_of_order(&self) -> Option<Outcome> {
        let misplaced = &self.headless.misplaced;
        let (&slot, &holds) = misplaced.iter().find(|(_, home)| misplaced.contains_key(home))?;
        Some(Outcome::Refused(OpenError::SlotsOutOfOrder { slot, holds }))
    }

    /// A checkpoint that is named, or a slot that is in it, lies beyond the end of the medium.
    pub(in crate::log) fn cut_short(&self) -> Option<Outcome> {
        let bytes = self.settings.medium_bytes;
        let present = self.geometry.slots_on(bytes);
        let named = self.roots.iter().map(|root| root.slot);
        let used = self.image.iter().flat_map(|image| image.slots.keys().copied());
        let last = named.chain(used).filter(|slot| *slot < self.geometry.slots).max()?;
        let needed = self.geometry.place(last + 1, 0);
        let error = OpenError::MediumTooShort { bytes, needed };
        (last >= present).then_some(Outcome::Refused(error))
    }
}
