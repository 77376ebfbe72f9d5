//! A disk that cannot read some of its blocks: what stood there is not served, and says so; all
//! else is, and the gateway goes on. What a later read finds again was never lost.

use crate::check::{AFTER, Breach, gateway};
use crate::device::{Device, Medium, Place, Shared, lock};
use crate::disk::{Disk, Pages};
use crate::load::{NUMBERED, PARTITIONS, client};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::thread;
use weir_bridge::client::{
    self, Acks, Batch, Batches, Client, EARLIEST, FetchFrom, FetchLimits, LATEST, decode_records,
};
use weir_core::error::ErrorCode;
use weir_tests::Gateway;
use weir_tests::numbered::{batch, create, numbers};

const DISK_BYTES: u64 = 104 << 20;
/// Each batch is a commit group of its own, of several blocks.
const BATCH_RECORDS: u32 = 400;
/// More than the slots that a start looks into.
const BATCHES: u32 = 60;
/// Where the numbers of a partition begin: their places are found on the disk by their digits.
const FIRST: u32 = 100_000;

/// The beginnings of weir's blocks.
const SUPERBLOCK: &[u8] = b"WEIRLOG\n";
const SLOT_HEADER: &[u8] = b"WSLT";

pub fn run() -> bool {
    let media = [("ext4", Medium::Ext4), ("the log alone", Medium::File)];
    let results: Vec<_> = thread::scope(|scope| {
        let running = media.map(|(name, medium)| (name, scope.spawn(move || try_medium(medium))));
        let ended = running.into_iter();
        ended.map(|(name, case)| (name, case.join().expect("a case does not panic"))).collect()
    });
    for (name, result) in &results {
        match result {
            Ok(said) => println!("blocks that cannot be read: {name}: {said}"),
            Err(breach) => println!("blocks that cannot be read: {name}: {breach}"),
        }
    }
    results.iter().all(|(_, result)| result.is_ok())
}

/// A gateway with batches in several slots, and its disk.
struct World<'a> {
    disk: Shared,
    // Ends before its file system does.
    gateway: Gateway,
    place: Place<'a>,
    /// Records that were added meanwhile.
    added: i64,
}

fn try_medium(medium: Medium) -> Result<String, Breach> {
    let disk = Arc::new(Mutex::new(Disk::new(DISK_BYTES, Pages::default())));
    let device = Device::new("read-errors", &disk, medium).unwrap();
    device.format().map_err(Breach::Failed)?;
    let place = device.open().map_err(Breach::Failed)?;
    let gateway = gateway("read-errors-weir", &place);
    let mut world = World { disk, place, gateway, added: 0 };
    world.start()?;
    smol::block_on(fill(&client(&world.gateway))).map_err(failed)?;
    let tried = world.while_it_runs().and_then(|()| world.at_the_start());
    tried.map_err(|breach| breach.with_log(&world.gateway.log()))?;
    Ok("fetches from there are refused or go on behind, all else is served, nothing is lost when \
        they can be read again, and a start names what it has lost"
        .into())
}

fn failed(error: client::Error) -> Breach {
    Breach::Failed(error.to_string())
}

/// The numbers of one batch.
fn numbers_of(partition: i32, batch: u32) -> Range<u32> {
    let first = FIRST * (partition as u32 + 1) + batch * BATCH_RECORDS;
    first..first + BATCH_RECORDS
}

async fn fill(client: &Client) -> client::Result<()> {
    create(client, NUMBERED, PARTITIONS).await;
    create(client, AFTER, 1).await;
    for number in 0..BATCHES {
        for partition in 0..PARTITIONS {
            let batch = batch(numbers_of(partition, number), false);
            client.produce(NUMBERED, partition, batch, Acks::All).await?;
        }
    }
    Ok(())
}

impl World<'_> {
    fn start(&mut self) -> Result<(), Breach> {
        self.gateway.try_start().map_err(Breach::Failed)
    }

    /// A block with a record of this batch, which the disk cannot read any more.
    fn spoil(&self, partition: i32, batch: u32) -> u64 {
        let mut disk = lock(&self.disk);
        let mut numbers = numbers_of(partition, batch).skip(BATCH_RECORDS as usize / 2);
        let page =
            numbers.find_map(|number| disk.pages_with(format!("{number}:").as_bytes()).pop());
        let page = page.expect("a record of this batch stands within a block");
        disk.unreadable.insert(page);
        page
    }

    /// Blocks that nobody needed at the start: only their batch is refused, until they can be read.
    fn while_it_runs(&mut self) -> Result<(), Breach> {
        self.gateway.kill();
        self.start()?;
        self.spoil(0, 2);
        self.place.forget().map_err(Breach::Failed)?;
        self.holds(&BTreeMap::from([((0, 2), ErrorCode::KAFKA_STORAGE_ERROR)]))?;
        self.says(&["read of the flash log at byte "])?;
        self.takes_records()?;
        lock(&self.disk).unreadable.clear();
        self.holds(&BTreeMap::new())
    }

    /// Blocks that a start needs: the superblock, the header of the last slot, and batches.
    fn at_the_start(&mut self) -> Result<(), Breach> {
        self.gateway.kill();
        let last = self.spoil(1, BATCHES - 3);
        let superblock = {
            let mut disk = lock(&self.disk);
            let superblock = disk.pages_with(SUPERBLOCK)[0];
            let header = disk.pages_with(SLOT_HEADER).into_iter().filter(|page| *page < last).max();
            disk.unreadable.extend([superblock, header.expect("a slot begins before its batches")]);
            superblock
        };
        self.place.forget().map_err(Breach::Failed)?;
        let lost = BTreeMap::from([((1, BATCHES - 3), ErrorCode::NONE)]);
        self.start()?;
        self.says(&["commit groups that were acknowledged are damaged; what they held is lost"])?;
        self.holds(&lost)?;
        let (from, until) = ((BATCHES - 3) * BATCH_RECORDS, (BATCHES - 2) * BATCH_RECORDS);
        self.says(&[&format!("is damaged from {from} to {until}: left out")])?;
        if lock(&self.disk).unreadable.contains(&superblock) {
            return Err(Breach::Failed("the superblock was not written anew".into()));
        }
        self.takes_records()?;
        self.gateway.kill();
        self.place.forget().map_err(Breach::Failed)?;
        self.start()?;
        self.holds(&lost)?;
        self.takes_records()
    }

    /// New ones are acknowledged, and stand behind those of before.
    fn takes_records(&mut self) -> Result<(), Breach> {
        let client = client(&self.gateway);
        let added = client.produce(AFTER, 0, batch(0..3, false), Acks::All);
        let added = smol::block_on(added).map_err(failed)?;
        if added.base_offset != self.added {
            let what = format!("{AFTER}: {} are there of {}", added.base_offset, self.added);
            return Err(Breach::Ledger(vec![what]));
        }
        self.added += 3;
        Ok(())
    }

    fn says(&self, words: &[&str]) -> Result<(), Breach> {
        let log = self.gateway.log();
        match words.iter().find(|words| !log.contains(**words)) {
            Some(words) => Err(Breach::Failed(format!("weir does not say {words:?}"))),
            None => Ok(()),
        }
    }

    /// Each partition has each number in order, but for these batches. A fetch from there is
    /// answered with the code, or goes on behind if it is none.
    fn holds(&self, lost: &BTreeMap<(i32, u32), ErrorCode>) -> Result<(), Breach> {
        let client = client(&self.gateway);
        let mut broken = Vec::new();
        for partition in 0..PARTITIONS {
            let (found, refused) = smol::block_on(read(&client, partition)).map_err(failed)?;
            let there = (0..BATCHES).filter(|batch| !lost.contains_key(&(partition, *batch)));
            let there = there.flat_map(|batch| numbers_of(partition, batch));
            let (there, count): (Vec<u32>, usize) = (there.collect(), found.len());
            if let Some(at) = (0..count.max(there.len())).find(|&at| there.get(at) != found.get(at))
            {
                let (wanted, found) = (there.get(at), found.get(at));
                let what = format!("at {at} of {count} stands {found:?}, not {wanted:?}");
                broken.push(format!("{NUMBERED}-{partition}: {what}"));
            }
            let wanted: Vec<(u32, ErrorCode)> = lost
                .iter()
                .filter(|((of, _), code)| *of == partition && code.is_error())
                .map(|((_, batch), code)| (*batch, *code))
                .collect();
            if refused != wanted {
                broken.push(format!("{NUMBERED}-{partition} refuses {refused:?}, not {wanted:?}"));
            }
        }
        if broken.is_empty() { Ok(()) } else { Err(Breach::Ledger(broken)) }
    }
}

/// The numbers of a partition, and the batches from which a fetch is refused. This consumer goes on
/// behind them.
async fn read(
    client: &Client,
    partition: i32,
) -> client::Result<(Vec<u32>, Vec<(u32, ErrorCode)>)> {
    let at = async |which| {
        let found = client.list_offsets(&[(NUMBERED.into(), partition, which)]).await;
        found.map(|found| found[0].offset)
    };
    let (mut offset, end) = (at(EARLIEST).await?, at(LATEST).await?);
    let (mut found, mut refused) = (Vec::new(), Vec::new());
    while offset < end {
        let from = [FetchFrom { topic: NUMBERED.into(), partition, offset }];
        let fetched = client.fetch(&from, FetchLimits::default()).await?.remove(0);
        let before = offset;
        for batch in Batches::new(&fetched) {
            let Batch::Data(header, bytes) = batch? else { continue };
            found.extend(numbers(&decode_records(&header, &bytes, offset)?));
            offset = header.last_offset().0 + 1;
        }
        if offset == before {
            let batch = offset as u32 / BATCH_RECORDS;
            refused.push((batch, fetched.error_code));
            offset = i64::from((batch + 1) * BATCH_RECORDS);
        }
    }
    Ok((found, refused))
}
