//! Starts weir on an image and holds what it has against the ledgers.

use crate::device::{Device, Place, Shared, lock};
use crate::load;
use crate::load::{CHURN, GROUP, Ledger, NUMBERED, SENSORS};
use std::collections::BTreeMap;
use std::fmt;
use std::process::Command;
use std::time::{Duration, Instant};
use weir_bridge::client::{self, Acks, Client, OwnedRecord};
use weir_core::error::ErrorCode;
use weir_tests::numbered::{batch, try_records};
use weir_tests::{Gateway, release_binary, tools};

/// What is stored, by the names of the ledgers.
type Found = BTreeMap<String, Vec<u64>>;

/// Where the checker itself appends after a start.
pub const AFTER: &str = "after";

/// A gateway on a disk, set so that a small load fills many slots, and that nothing which the
/// ledgers count is expired before its time.
pub fn gateway(name: &str, place: &Place<'_>) -> Gateway {
    let gateway = Gateway::new(name).set("flash.flushes_per_second=0").in_folder(&place.data());
    let gateway = gateway.set("topic_defaults.retention.ms=-1");
    match place.log() {
        Some(log) => gateway.set(&format!("flash.path={}", log.display())),
        None => gateway.set("flash.bytes=48MiB").set("flash.slot_bytes=1MiB"),
    }
}

/// What one image has shown.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Acknowledged records that were looked for.
    pub checked: u64,
    pub starts: Vec<Duration>,
    /// ext4 was mounted only after a repair.
    pub repaired: bool,
}

/// What must not happen.
#[derive(Debug)]
pub enum Breach {
    /// ext4 cannot be mounted, weir does not start, a client fails.
    Failed(String),
    /// A sentence for each ledger that does not hold.
    Ledger(Vec<String>),
}

/// What is known of an image before it is started: by which position it was cut.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub ledgers: &'a BTreeMap<String, Ledger>,
    pub cut_at: usize,
}

/// The first start on an image: what the ledgers promise is there, and more is appended.
pub fn first_start(
    device: &Device,
    disk: &Shared,
    expected: Expected<'_>,
    verdict: &mut Verdict,
) -> Result<Served, Breach> {
    let mut served = Served::default();
    let mut checked = 0;
    started(device, verdict, |client| {
        let found = found(client)?;
        checked = expected.check(&found)?;
        served.position = lock(disk).position();
        served.found = found;
        smol::block_on(append(client))?;
        served.appended_at = lock(disk).position();
        Ok(())
    })?;
    verdict.checked += checked;
    Ok(served)
}

/// What a start has served and taken, and positions of the recording by which it had.
#[derive(Debug, Default)]
pub struct Served {
    found: Found,
    position: usize,
    appended_at: usize,
}

/// A later start, perhaps after a second cut of the power: nothing that was served or acknowledged
/// before has gone.
pub fn second_start(
    device: &Device,
    expected: Expected<'_>,
    served: &Served,
    cut_again_at: Option<usize>,
    verdict: &mut Verdict,
) -> Result<(), Breach> {
    let before_cut = |position: usize| cut_again_at.is_none_or(|cut| position <= cut);
    started(device, verdict, |client| {
        let mut found = found(client)?;
        expected.check(&found)?;
        let after = found.remove(AFTER);
        let mut broken = Vec::new();
        let (was, is) = (ends(&served.found), ends(&found));
        if before_cut(served.position) && was != is {
            broken.push(format!("the first start served up to {was:?}, the second one {is:?}"));
        }
        if before_cut(served.appended_at) && after.is_none_or(|numbers| numbers != [0, 1, 2]) {
            broken.push("what was appended after the first start is not there".to_string());
        }
        if broken.is_empty() { Ok(()) } else { Err(Breach::Ledger(broken)) }
    })
}

/// The last number of each. Those before it are in order without a gap, as [`Expected`] has seen.
fn ends(found: &Found) -> BTreeMap<&str, Option<u64>> {
    found.iter().map(|(name, numbers)| (name.as_str(), numbers.last().copied())).collect()
}

/// Mounts, starts weir, asks `look`, kills weir, looks for damage, unmounts.
fn started(
    device: &Device,
    verdict: &mut Verdict,
    look: impl FnOnce(&Client) -> Result<(), Breach>,
) -> Result<(), Breach> {
    let failed = Breach::Failed;
    let place = match device.open() {
        Ok(place) => place,
        Err(_) => {
            device.fsck().map_err(failed)?;
            verdict.repaired = true;
            device.open().map_err(failed)?
        }
    };
    let mut gateway = gateway("power-cut-image", &place);
    let begin = Instant::now();
    gateway.try_start().map_err(failed)?;
    verdict.starts.push(begin.elapsed());
    let looked = look(&load::client(&gateway)).map_err(|breach| breach.with_log(&gateway.log()));
    gateway.kill();
    looked?;
    let log = place.log().unwrap_or_else(|| place.data());
    let output = tools::run(Command::new(release_binary()).args(["log", "check"]).arg(log));
    match output.code {
        Some(0) => Ok(()),
        _ => Err(Breach::Failed(format!("{}\n{}{}", output.what, output.stdout, output.stderr))),
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Breach::Failed(what) => f.write_str(what),
            Breach::Ledger(broken) => f.write_str(&broken.join("\n  ")),
        }
    }
}

impl Breach {
    pub fn with_log(self, log: &str) -> Breach {
        match self {
            Breach::Failed(what) => Breach::Failed(format!("{what}\n{log}")),
            Breach::Ledger(mut broken) => {
                broken.push(log.to_string());
                Breach::Ledger(broken)
            }
        }
    }
}

impl Expected<'_> {
    /// Each client's numbers are there once and in order, those that were acknowledged before the
    /// cut in any case. Gives how many those are.
    fn check(&self, found: &Found) -> Result<u64, Breach> {
        let mut broken = Vec::new();
        let mut checked = 0;
        for (name, ledger) in self.ledgers {
            let acked = ledger.acked_at(self.cut_at);
            checked += acked;
            let numbers = found.get(name).map_or(&[][..], Vec::as_slice);
            // Of the group there is its last number, of the churn the last ones, else all.
            let first = numbers.first().copied().unwrap_or(0);
            let begin = if name.starts_with(CHURN) || name == GROUP { first } else { 0 };
            if let Some((at, number)) = (begin..).zip(numbers).find(|(at, number)| at != *number) {
                broken.push(format!("{name}: {number} in the place of {at}"));
            }
            let stored = if name == GROUP { first } else { begin + numbers.len() as u64 };
            if stored < acked {
                broken.push(format!("{name}: {acked} were acknowledged, {stored} are there"));
            }
            if stored > ledger.sent() {
                broken.push(format!("{name}: {stored} are there, {} were sent", ledger.sent()));
            }
        }
        if broken.is_empty() { Ok(checked) } else { Err(Breach::Ledger(broken)) }
    }
}

/// Everything that the gateway serves.
fn found(client: &Client) -> Result<Found, Breach> {
    smol::block_on(async {
        let failed = |error: client::Error| Breach::Failed(error.to_string());
        let mut found = Found::new();
        for topic in client.cluster(None).await.map_err(failed)?.topics {
            if ![NUMBERED, SENSORS, CHURN, AFTER].contains(&topic.name.as_str()) {
                continue;
            }
            for partition in 0..topic.partitions.len() as i32 {
                for record in read(client, &topic.name, partition).await.map_err(failed)? {
                    let value = record.value.expect("clients of this test send values");
                    let number = value.split(|byte| *byte == b':').next().expect("a piece");
                    let number = str::from_utf8(number).ok().and_then(|text| text.parse().ok());
                    let name = match (topic.name.as_str(), record.key) {
                        (SENSORS, Some(key)) => String::from_utf8_lossy(&key).to_string(),
                        (AFTER, _) => AFTER.to_string(),
                        (name, _) => format!("{name}-{partition}"),
                    };
                    let unreadable = || Breach::Ledger(vec![format!("{name}: {value:?}")]);
                    let numbers: &mut Vec<u64> = found.entry(name.clone()).or_default();
                    numbers.push(number.ok_or_else(unreadable)?);
                }
            }
        }
        for committed in client.committed(GROUP, None, false).await.map_err(failed)? {
            found.insert(GROUP.into(), vec![committed.offset as u64]);
        }
        Ok(found)
    })
}

/// All records of a partition, which may be trimmed meanwhile.
async fn read(client: &Client, topic: &str, partition: i32) -> client::Result<Vec<OwnedRecord>> {
    let mut tries = 0..3;
    loop {
        match try_records(client, topic, partition).await {
            Err(error)
                if error.code() == Some(ErrorCode::OFFSET_OUT_OF_RANGE)
                    && tries.next().is_some() => {}
            result => return result,
        }
    }
}

/// A topic with a few records.
async fn append(client: &Client) -> Result<(), Breach> {
    let failed = |error: client::Error| Breach::Failed(error.to_string());
    let topic = client::NewTopic {
        name: AFTER.into(),
        partitions: 1,
        replication_factor: -1,
        configs: Vec::new(),
    };
    client.create_topic(&topic).await.map_err(failed)?;
    client.produce(AFTER, 0, batch(0..3, false), Acks::All).await.map_err(failed)?;
    Ok(())
}
