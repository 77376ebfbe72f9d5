//! The images that a power cut may leave of a recording: everything up to a flush, and of the
//! writes after it any part, in any order, torn between sectors.

use crate::disk::{Event, Pages, SECTOR};
use bytes::Bytes;
use std::ops::AddAssign;
use weir_core::rng::Rng;

/// ext4 relies on its superblock being written in one piece: it carries a checksum, has two
/// sectors, and is read before the journal. No machine mounts one that is torn.
const SUPERBLOCK_END: u64 = 2048;

/// What was done to the writes that were not flushed at the cut.
#[derive(Clone, Copy, Debug, Default)]
pub struct Harm {
    pub dropped: u64,
    /// Some sectors are there, others are not.
    pub torn: u64,
    /// There, though one that was written earlier is not, or stands above it.
    pub reordered: u64,
}

impl AddAssign for Harm {
    fn add_assign(&mut self, other: Harm) {
        self.dropped += other.dropped;
        self.torn += other.torn;
        self.reordered += other.reordered;
    }
}

/// Goes through a recording from its beginning to its end, and gives images on the way.
#[derive(Debug)]
pub struct Replay<'a> {
    events: &'a [Event],
    /// What is there for certain: everything before `upto`.
    durable: Pages,
    upto: usize,
}

impl<'a> Replay<'a> {
    pub fn new(begin: Pages, events: &'a [Event]) -> Replay<'a> {
        Replay { events, durable: begin, upto: 0 }
    }

    /// An image of a cut after the first `at` events, where the disk has lied about the last
    /// `lies` flushes. Cuts come in ascending order.
    pub fn image(&mut self, at: usize, lies: usize, rng: &mut Rng) -> (Pages, Harm) {
        let flushes = self.events[..at].iter().enumerate().rev();
        let mut flushes = flushes.filter(|(_, event)| matches!(event, Event::Flush));
        let honoured = flushes.nth(lies).map_or(0, |(index, _)| index + 1);
        // A disk that lies may forget what a more honest moment before would have kept.
        for event in &self.events[self.upto.min(honoured)..honoured] {
            if let Event::Write { at, data } = event {
                self.durable.write(*at, data);
            }
        }
        self.upto = self.upto.max(honoured);
        let writes = self.events[self.upto..at].iter().filter_map(|event| match event {
            Event::Write { at, data } => Some((*at, data)),
            Event::Flush => None,
        });
        let mut image = self.durable.clone();
        let harm = damage(&mut image, writes.collect(), rng);
        (image, harm)
    }
}

/// Puts a random part of the writes into the image.
fn damage(image: &mut Pages, writes: Vec<(u64, &Bytes)>, rng: &mut Rng) -> Harm {
    // Each image has its own temper, so that among many there are some where everything is lost,
    // some where nothing is, and some where everything is torn.
    let drop_percent = [0, 30, 60, 100][rng.below(4) as usize];
    let tear_percent = [0, 50, 100][rng.below(3) as usize];
    let shuffle = rng.percent(50);
    let mut order: Vec<usize> = (0..writes.len()).collect();
    if shuffle {
        for last in (1..order.len()).rev() {
            order.swap(last, rng.below(last as u64 + 1) as usize);
        }
    }
    let mut harm = Harm::default();
    let mut first_missing = usize::MAX;
    let mut last_written = None;
    let mut kept = Vec::new();
    for index in order {
        let (at, data) = writes[index];
        if rng.percent(drop_percent) {
            harm.dropped += 1;
            first_missing = first_missing.min(index);
            continue;
        }
        if at >= SUPERBLOCK_END && data.len() > SECTOR && rng.percent(tear_percent) {
            harm.torn += 1;
            first_missing = first_missing.min(index);
            for from in (0..data.len()).step_by(SECTOR) {
                if rng.percent(50) {
                    let sector = data.slice(from..(from + SECTOR).min(data.len()));
                    image.write(at + from as u64, &sector);
                }
            }
        } else {
            image.write(at, data);
            harm.reordered += u64::from(last_written.is_some_and(|last| last > index));
            kept.push(index);
        }
        last_written = last_written.max(Some(index));
    }
    if !shuffle {
        harm.reordered = kept.iter().filter(|index| **index > first_missing).count() as u64;
    }
    harm
}
