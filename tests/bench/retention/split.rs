//! What the bytes that reach the device are for: see `core/src/log/layout` for the fields.

use std::fmt::Write;

const BLOCK: usize = 4096;
const GROUP_HEADER_BYTES: usize = 96;
const FRAME_HEADER_BYTES: usize = 32;
const TRAILER_BYTES: usize = 52;
const META: u8 = 3;

pub const NAMES: [&str; 9] = [
    "payload",
    "frame_headers",
    "group_headers",
    "padding",
    "log_starts_with_data",
    "log_starts_apart",
    "checkpoints",
    "footers",
    "slot_headers",
];

/// Bytes by what they are for, in the order of [`NAMES`].
#[derive(Clone, Copy, Default)]
pub struct Split([u64; NAMES.len()]);

impl Split {
    /// One write of the log; what is copied while cleaning counts as payload, too.
    pub fn add(&mut self, mut bytes: &[u8]) {
        let is_group = |bytes: &[u8]| bytes.starts_with(b"WGRP");
        if !is_group(bytes) && bytes.get(BLOCK..).is_some_and(is_group) {
            self.0[8] += BLOCK as u64;
            bytes = &bytes[BLOCK..];
        }
        if is_group(bytes) {
            self.group(bytes);
        } else if bytes
            .len()
            .checked_sub(TRAILER_BYTES)
            .is_some_and(|at| &bytes[at..][..4] == b"WFTR")
        {
            self.0[7] += bytes.len() as u64;
        } else {
            self.0[8] += bytes.len() as u64;
        }
    }

    fn group(&mut self, bytes: &[u8]) {
        let end = u32_at(bytes, 8) as usize;
        let (mut at, mut kinds) = (GROUP_HEADER_BYTES, [0; NAMES.len()]);
        while at + FRAME_HEADER_BYTES <= end {
            let body = u64::from(u32_at(bytes, at + 24));
            let whole = FRAME_HEADER_BYTES as u64 + body;
            match bytes[at] {
                3 => kinds[4] += whole,
                8 => kinds[6] += whole,
                _ => {
                    kinds[0] += body;
                    kinds[1] += FRAME_HEADER_BYTES as u64;
                }
            }
            at += whole as usize;
        }
        let rest = bytes.len() as u64 - kinds.iter().sum::<u64>();
        match (bytes[4], kinds[6] > 0) {
            (META, true) => kinds[6] += rest,
            (META, false) => (kinds[4], kinds[5]) = (0, kinds[4] + rest),
            _ => {
                kinds[2] += GROUP_HEADER_BYTES as u64;
                kinds[3] += rest - GROUP_HEADER_BYTES as u64;
            }
        }
        self.0.iter_mut().zip(kinds).for_each(|(sum, more)| *sum += more);
    }

    /// What came since `before`, as parts of so many bytes of payload, in JSON.
    pub fn since(&self, before: &Split, payload: u64) -> String {
        let mut out = String::from("{");
        for (index, name) in NAMES.iter().enumerate() {
            let share = (self.0[index] - before.0[index]) as f64 / payload as f64;
            let comma = if index > 0 { ", " } else { "" };
            write!(out, "{comma}\"{name}\": {share:.4}").expect("a string takes what is written");
        }
        out + "}"
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
