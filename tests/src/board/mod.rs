//! Boards in QEMU, with an image on a disk whose plug can be pulled.
//!
//! | module | what it does |
//! |---|---|
//! | `image` | takes from an image what the firmware of a board would load |
//! | `guest` | a board in QEMU |
//! | `writes` | what it wrote, and what a pulled plug leaves of that |
//! | `load` | clients, and their ledgers of what was acknowledged |
//!
//! QEMU records each write and flush of the guest (`blklogwrites`); it is ended by `kill -9`, and
//! the disk of the next boot is made of the recording up to some entry of the last seconds, mostly
//! one where writes wait for their flush: everything before the last flush, and of the rest a
//! random part, in any order, torn between sectors. A ledger knows how long the recording was at
//! each acknowledgement. The board `raspi3b` has an SD card without a write cache; there, what was
//! written stays.

mod guest;
mod image;
mod load;
mod writes;

pub use guest::{Boot, Guest, Machine};
pub use image::{firmware_of, take};
pub use load::{Ledgers, publish_while};
pub use writes::Pulled;
