//! `weir log check`: reads everything that counts, names each damage, and quarantines it if that is
//! wanted.

use super::Medium;
use crate::cli::output::{print, print_json};
use crate::cli::{Failure, Outcome};
use crate::units::{format_bytes, format_count};
use serde::Serialize;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::FileExt;
use weir_core::log::inspect::{Checked, Overview, check, repair};
use weir_core::log::{Damage, Io, IoResult};

/// What a check found.
#[derive(Serialize)]
struct Findings {
    slots: u64,
    groups: u64,
    bytes: u64,
    /// Groups that a cut tore: nothing that was acknowledged is in them.
    torn: u64,
    /// Groups that were acknowledged and that a start would not find whole.
    damaged_groups: u64,
    damages: Vec<Damage>,
    /// By partition number: offsets that a start finds to be lost, or that were quarantined before.
    lost: Vec<(u32, i64, i64)>,
    /// Whether all of that was known before.
    known: bool,
    repaired: bool,
}

impl Findings {
    fn new(overview: &Overview, damages: Vec<Damage>, repaired: bool) -> Findings {
        let (stats, scrub) = (&overview.stats, &overview.stats.scrub);
        let lost = overview.partitions.iter().flat_map(|partition| {
            let number = partition.number;
            partition.damaged.iter().map(move |&(from, until)| (number, from, until))
        });
        Findings {
            slots: scrub.slots,
            groups: scrub.groups,
            bytes: scrub.bytes,
            torn: stats.torn_groups_dropped,
            damaged_groups: stats.damaged_groups,
            damages,
            lost: lost.collect(),
            known: stats.damaged_groups == 0 && stats.damaged_ranges == stats.quarantined_ranges,
            repaired,
        }
    }

    fn is_damaged(&self) -> bool {
        !self.known || !self.damages.is_empty()
    }
}

pub(super) fn command(medium: &Medium, repairs: bool, json: bool) -> Outcome {
    let mut damages = Vec::new();
    let live = io::stderr().is_terminal() && !json;
    let mut visit = |checked: Checked<'_>| match checked {
        Checked::Damage(damage) => damages.push(damage.clone()),
        Checked::Slot(slot) if live => {
            eprint!("\r\x1b[2Kslot {slot}");
            let _ = io::stderr().flush();
        }
        Checked::Slot(_) => {}
    };
    let checked = match repairs {
        true => repair(medium.bytes, &mut |io| medium.perform(io), &mut visit),
        false => check(medium.bytes, &mut |at, len| medium.read(at, len), &mut visit),
    };
    if live {
        eprint!("\r\x1b[2K");
    }
    let overview = checked.map_err(|error| medium.refusal(&error))?;
    let findings = Findings::new(&overview, damages, repairs);
    if json {
        print_json(&findings)?;
    } else {
        print(&text(&findings))?;
    }
    match findings.is_damaged() {
        true if repairs && json => Ok(()),
        true if repairs => print(
            "quarantined: consumers are given the next offset that can be read; what is lost stays \
             lost\n",
        ),
        true => Err(Failure::Failed(format!(
            "{} is damaged. weir starts all the same and serves the rest; weir log check --repair \
             quarantines it, so that the next check finds nothing",
            medium.path.display()
        ))),
        false if json => Ok(()),
        false => print("every checksum holds\n"),
    }
}

fn text(findings: &Findings) -> String {
    let mut out = format!(
        "{} slots, {} groups, {}\n",
        findings.slots,
        format_count(findings.groups),
        format_bytes(findings.bytes),
    );
    if findings.torn > 0 {
        out += &format!("{} torn groups, of which nothing was acknowledged\n", findings.torn);
    }
    if findings.damaged_groups > 0 {
        out += &format!("damaged: {} groups that were acknowledged\n", findings.damaged_groups);
    }
    for damage in &findings.damages {
        out += &format!("damaged: {damage}\n");
    }
    let word = if findings.known { "quarantined" } else { "lost" };
    for (partition, from, until) in &findings.lost {
        out += &format!("{word}: partition {partition}, offsets {from} to {}\n", until - 1);
    }
    let names_partitions = findings.damages.iter().any(|damage| !damage.lost.is_empty());
    if names_partitions || !findings.lost.is_empty() {
        out += "which topic has a partition of that number, the running gateway says under \
                /api/v1/status: topics, partitions, number\n";
    }
    out
}

impl Medium {
    /// What a driver does for a log.
    fn perform(&self, io: &Io) -> IoResult {
        let done = |result: io::Result<()>| match result {
            Ok(()) => IoResult::Done,
            Err(error) => {
                log::error!("{}: {error}", self.path.display());
                IoResult::Failed
            }
        };
        match io {
            Io::Read { at, len, .. } | Io::Verify { at, len, .. } => {
                self.read(*at, *len).map_or(IoResult::Failed, IoResult::Read)
            }
            Io::Write { at, bytes, .. } => done(self.file.write_all_at(bytes, *at)),
            Io::Zero { at, len, .. } => done(self.file.write_all_at(&vec![0; *len as usize], *at)),
            Io::Flush { .. } => done(self.file.sync_data()),
            Io::Unpack { .. } | Io::Pack { .. } => {
                done(Err(io::Error::from(ErrorKind::Unsupported)))
            }
        }
    }
}
