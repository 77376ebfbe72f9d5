//! `weir log`: looks into the flash log of a gateway that does not run; formats and repairs one.

mod check;

use super::args::{FormatArgs, Log, LogArgs};
use super::output::{Table, print, print_json};
use super::{Failure, Outcome};
use crate::logger::format_time;
use crate::store::{self, Formatting};
use crate::units::format_bytes;
use bytes::Bytes;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use weir_core::log::OpenError;
use weir_core::log::inspect::{Item, Overview, overview, walk};

pub fn command(log: Log) -> Outcome {
    match log {
        Log::Check { repair, args } => {
            check::command(&Medium::open(&args, repair)?, repair, args.json)
        }
        Log::Dump(args) => dump(&Medium::open(&args, false)?, args.json),
        Log::Stat(args) => stat(&Medium::open(&args, false)?, args.json),
        Log::Format(args) => format(&args),
    }
}

fn format(args: &FormatArgs) -> Outcome {
    let formatting =
        Formatting { bytes: args.bytes, slot_bytes: None, node: args.node, yes: args.yes };
    let made = store::format(&args.path, &formatting)?;
    let bytes = u64::from(made.slot_bytes) * u64::from(made.slots);
    let name = store::store_name(&made.store);
    if args.json {
        return print_json(&serde_json::json!({
            "store": name, "slots": made.slots, "slot_bytes": made.slot_bytes,
        }));
    }
    print(&format!(
        "{} is flash log {name} of node {} now: {} slots of {}, {} in all. Use it:\n  \
         weir serve --set flash.path={}\n",
        args.path.display(),
        args.node,
        made.slots,
        format_bytes(u64::from(made.slot_bytes)),
        format_bytes(bytes),
        args.path.display()
    ))
}

/// A log that nobody else opens while this lives.
struct Medium {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Medium {
    fn open(args: &LogArgs, writes: bool) -> Result<Medium, Failure> {
        let place = args.place.clone().or_else(|| args.data.clone());
        let path = match place.unwrap_or_else(|| "weir-data".into()) {
            folder if folder.is_dir() => folder.join("flash.log"),
            path => path,
        };
        let open = || {
            let file = File::options().read(true).write(writes).open(&path)?;
            let bytes = store::length(&file)?;
            Ok((file, bytes))
        };
        let (file, bytes) = open().map_err(|error: std::io::Error| {
            format!("cannot read {}: {error}. Name a data folder, or a flash log", path.display())
        })?;
        store::claim(&file, &path)?;
        Ok(Medium { path, file, bytes })
    }

    /// What lies beyond the end are zeros, as the log expects of a medium that grows.
    fn read(&self, at: u64, len: u32) -> Option<Bytes> {
        let mut bytes = vec![0; len as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) => {
                    log::error!("reading {} bytes at {at}: {error}", bytes.len());
                    return None;
                }
            }
        }
        Some(bytes.into())
    }

    fn overview(&self) -> Result<Overview, Failure> {
        overview(self.bytes, &mut |at, len| self.read(at, len))
            .map_err(|error| self.refusal(&error))
    }

    fn walk(&self, visit: impl FnMut(Item) -> bool) -> Outcome {
        let walked = walk(self.bytes, &mut |at, len| self.read(at, len), visit);
        walked.map_err(|error| self.refusal(&error))
    }

    fn refusal(&self, error: &OpenError) -> Failure {
        Failure::Failed(store::refusal(error, &self.path))
    }
}

fn dump(medium: &Medium, json: bool) -> Outcome {
    let mut outcome = Ok(());
    medium.walk(|item| {
        let line = match json {
            true => serde_json::to_string(&item).map_err(|error| error.to_string()),
            false => Ok(describe(&item)),
        };
        let printed = line.map_err(Failure::Failed).and_then(|line| print(&format!("{line}\n")));
        if printed.is_err() {
            outcome = printed;
        }
        outcome.is_ok()
    })?;
    outcome
}

fn describe(item: &Item) -> String {
    match item {
        Item::Slot { slot, lane, seg_seq, boot_epoch, sealed } => {
            let state = if *sealed { "sealed" } else { "open" };
            format!("slot {slot}: lane {lane}, segment {seg_seq}, boot {boot_epoch}, {state}")
        }
        Item::Group { at, group_seq, durable_seq, bytes, frames, boot_epoch, .. } => format!(
            "  {at:>8}  group {group_seq}: {frames} frames, {bytes} bytes, boot {boot_epoch}, \
             durable up              to {durable_seq}"
        ),
        Item::Frame { kind, partition, base_offset, last_offset, leader_epoch, bytes, records } => {
            let offsets = match last_offset >= base_offset {
                true => format!("offsets {base_offset} to {last_offset}"),
                false => format!("offset {base_offset}"),
            };
            let records = records.map_or(String::new(), |(count, codec, timestamp)| {
                let time = format_time(timestamp.max(0) as u64);
                format!(", {count} records, {codec}, {time}")
            });
            format!(
                "            {kind}: partition {partition}, {offsets}, epoch {leader_epoch}, \
                 {bytes} bytes{records}"
            )
        }
        Item::Damage { at, bytes, .. } => format!("  {at:>8}  DAMAGED: {bytes} bytes are no group"),
        Item::Torn { at, .. } => format!("  {at:>8}  torn by a cut; nothing acknowledged"),
        Item::NoHeader { slot } => format!("slot {slot}: DAMAGED: its header cannot be read"),
    }
}

fn stat(medium: &Medium, json: bool) -> Outcome {
    let overview = medium.overview()?;
    let store: String = overview.store.iter().map(|byte| format!("{byte:02x}")).collect();
    if json {
        let mut value = serde_json::to_value(&overview)
            .map_err(|error| format!("cannot write JSON: {error}"))?;
        value["store"] = store.into();
        return print_json(&value);
    }
    let slot_bytes = u64::from(overview.slot_bytes);
    print(&format!(
        "store {store}, node {}\n{} in {} slots of {}, {} free; the file has {}\n",
        overview.node,
        format_bytes(slot_bytes * u64::from(overview.slots)),
        overview.slots,
        format_bytes(slot_bytes),
        format_bytes(slot_bytes * u64::from(overview.stats.slots_free)),
        format_bytes(medium.bytes),
    ))?;
    let head = ["PARTITION", "LANE", "START", "END", "BYTES", "PRODUCERS", "LOST", "NEWEST"];
    let mut table = Table::new(&head);
    for partition in &overview.partitions {
        let lost: i64 = partition.damaged.iter().map(|(from, until)| until - from).sum();
        let newest = match partition.max_timestamp {
            ..0 => "-".to_string(),
            timestamp => format_time(timestamp as u64),
        };
        table.row([
            partition.number.to_string(),
            partition.lane.to_string(),
            partition.log_start.to_string(),
            partition.log_end.to_string(),
            format_bytes(partition.bytes),
            partition.producers.to_string(),
            lost.to_string(),
            newest,
        ]);
    }
    table.print()
}
