//! One recording, many images, and the certificate.

use crate::Options;
use crate::check::{self, Breach, Expected, Verdict, gateway};
use crate::cut::Replay;
use crate::device::{Device, Medium, Shared, lock};
use crate::disk::{Disk, Event, Pages};
use crate::load::{self, Ledger, Ledgers, Load};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use weir_core::rng::Rng;
use weir_tests::{cut::Harm, root};

/// Room for the log of the checks, the journal, and what ext4 keeps back.
const DISK_BYTES: u64 = 104 << 20;
/// Images that are checked at the same time.
const WORKERS: usize = 2;
/// The promise: a start takes no longer. It takes a fiftieth of this here, so that a machine that
/// does other things, too, does not matter.
const START_MAX: Duration = Duration::from_secs(2);

/// Everything that a disk did while weir ran on it, and what its clients know.
struct Recording {
    begin: Pages,
    events: Vec<Event>,
    /// Positions right behind a flush.
    flushes: Vec<usize>,
    ledgers: BTreeMap<String, Ledger>,
    /// Slots that weir has cleaned meanwhile.
    cleaned: u64,
}

impl Recording {
    /// Formats, loads, stops, loads, kills and loads a gateway.
    fn new(options: Options) -> Recording {
        let disk = Arc::new(Mutex::new(Disk::new(DISK_BYTES, Pages::default())));
        let device = Device::new("power-cut-recording", &disk, Medium::Ext4).unwrap();
        device.format().unwrap();
        let begin = lock(&disk).record();
        let place = device.open().unwrap();
        let mut gateway = gateway("power-cut-load", &place);
        let ledgers = Ledgers::default();
        let mut cleaned = 0;
        for round in 0..3 {
            gateway.start();
            let (from, until) = (options.records * round, options.records * (round + 1));
            let load = Load { seed: options.seed + round, from, until };
            let errors = load::run(&gateway, &disk, &ledgers, load);
            assert!(errors.is_empty(), "{errors:?}\n{}", gateway.log());
            cleaned += gateway.status()["log"]["slots_cleaned"].as_u64().unwrap_or(0);
            if round == 0 {
                assert!(gateway.stop().success());
            } else {
                gateway.kill();
            }
        }
        let events = lock(&disk).take_events();
        let flush = |(index, event): (usize, &Event)| match event {
            Event::Flush => Some(index + 1),
            Event::Write { .. } => None,
        };
        let flushes = events.iter().enumerate().filter_map(flush).collect();
        drop((gateway, place));
        Recording { begin, events, flushes, ledgers: ledgers.closed(), cleaned }
    }

    fn describe(&self) -> String {
        let written = |event: &Event| match event {
            Event::Write { data, .. } => data.len(),
            Event::Flush => 0,
        };
        let bytes: usize = self.events.iter().map(written).sum();
        let acked: u64 = self.ledgers.values().map(|ledger| ledger.acked_at(usize::MAX)).sum();
        let several = self.flushes.windows(2).filter(|pair| pair[1] - pair[0] > 2).count();
        format!(
            "{} writes ({} MiB) and {} flushes, {several} of them of several writes; {} \
             slots cleaned; {acked} acknowledgements of {} clients",
            self.events.len() - self.flushes.len(),
            bytes >> 20,
            self.flushes.len(),
            self.cleaned,
            self.ledgers.len(),
        )
    }

    /// Cuts in ascending order: half of them right before or behind a flush (all of them if there
    /// are that few), most others where several writes wait for their flush, as one alone has no
    /// order, the rest anywhere.
    fn cuts(&self, count: usize, rng: &mut Rng) -> (Vec<usize>, usize) {
        let mut pick = |from: &[usize], count: usize| {
            let mut chosen = BTreeSet::new();
            while chosen.len() < count.min(from.len()) {
                chosen.insert(from[rng.below(from.len() as u64) as usize]);
            }
            chosen
        };
        let boundaries: Vec<usize> = self.flushes.iter().flat_map(|at| [at - 1, *at]).collect();
        let mut cuts: Vec<usize> = pick(&boundaries, count / 2).into_iter().collect();
        let at_boundaries = cuts.len();
        for waiting in [2, 4] {
            let several = self.flushes.windows(2).flat_map(|pair| pair[0] + waiting..pair[1]);
            cuts.extend(pick(&several.collect::<Vec<_>>(), count / 5));
        }
        let anywhere = |_| rng.below(self.events.len() as u64 + 1) as usize;
        cuts.extend((cuts.len()..count).map(anywhere));
        cuts.sort_unstable();
        (cuts, at_boundaries)
    }
}

/// An image that waits for its check.
struct Image {
    at: usize,
    /// Cut again after the first start.
    twice: bool,
    seed: u64,
    pages: Pages,
}

#[derive(Default)]
struct Sum {
    images: u64,
    harm: Harm,
    twice: u64,
    checked: u64,
    repaired: u64,
    starts: Vec<Duration>,
    breaches: Vec<(usize, Breach)>,
    /// Images that may still be kept for a look.
    save_left: u64,
}

impl Sum {
    /// What a campaign must have done to prove anything, and has not.
    fn missed(&self) -> Vec<&'static str> {
        let done = [
            ("write was dropped", self.harm.dropped),
            ("write was torn", self.harm.torn),
            ("write was reordered", self.harm.reordered),
            ("acknowledged record was looked for", self.checked),
        ];
        done.into_iter().filter(|(_, count)| *count == 0).map(|(what, _)| what).collect()
    }
}

/// Cuts at random, with a preference for where it hurts.
pub fn images(options: Options) -> bool {
    let begin = Instant::now();
    let recording = Recording::new(options);
    let mut rng = Rng::new(options.seed);
    let (cuts, at_boundaries) = recording.cuts(options.images, &mut rng);
    let good = certify(options, &recording, &cuts, at_boundaries, begin);
    // This load is long enough to need it, unlike that of `every`.
    if recording.cleaned == 0 {
        println!("no certificate: no slot was cleaned while it was recorded");
    }
    good && recording.cleaned > 0
}

/// Cuts right before and right behind every flush.
pub fn every(options: Options) -> bool {
    let begin = Instant::now();
    let recording = Recording::new(options);
    let boundaries: BTreeSet<usize> =
        recording.flushes.iter().flat_map(|at| [at - 1, *at]).collect();
    let cuts: Vec<usize> = boundaries.into_iter().collect();
    certify(options, &recording, &cuts, cuts.len(), begin)
}

fn certify(
    options: Options,
    recording: &Recording,
    cuts: &[usize],
    at_boundaries: usize,
    begin: Instant,
) -> bool {
    println!("recorded in {:.1} s: {}", begin.elapsed().as_secs_f64(), recording.describe());
    let mut sum = check_all(recording, cuts, Lies::None, options.seed);
    sum.starts.sort_unstable();
    let slow = sum.starts.iter().filter(|start| **start > START_MAX).count();
    for (at, breach) in &sum.breaches {
        println!("cut after event {at}:\n  {breach}");
    }
    println!(
        "power-cut certificate: {} images, seed {}: {at_boundaries} cuts at flush boundaries (of \
         {}), {} elsewhere, {} cut again at the start; {} writes dropped, {} torn, {} reordered; \
         {} acknowledged records checked, lost in {} images; ext4 repaired {}; {} starts, p50 {} \
         ms, max {} ms, over 2 s {slow}; {:.0} s",
        sum.images,
        options.seed,
        recording.flushes.len() * 2,
        cuts.len() - at_boundaries,
        sum.twice,
        sum.harm.dropped,
        sum.harm.torn,
        sum.harm.reordered,
        sum.checked,
        sum.breaches.len(),
        sum.repaired,
        sum.starts.len(),
        sum.starts.get(sum.starts.len() / 2).map_or(0, Duration::as_millis),
        sum.starts.last().map_or(0, Duration::as_millis),
        begin.elapsed().as_secs_f64(),
    );
    let missed = sum.missed();
    for what in &missed {
        println!("no certificate: in the whole campaign no {what}");
    }
    missed.is_empty() && sum.breaches.is_empty() && slow == 0 && sum.images == cuts.len() as u64
}

/// The mutation that the check must catch: a disk that has ignored its last flushes has lost what
/// was acknowledged behind them.
pub fn lies(options: Options) -> bool {
    let recording = Recording::new(options);
    println!("recorded {}", recording.describe());
    let mut rng = Rng::new(options.seed);
    let (cuts, _) = recording.cuts(options.images, &mut rng);
    let sum = check_all(&recording, &cuts, Lies::Some, options.seed);
    let ledger = sum.breaches.iter().filter(|(_, b)| matches!(b, Breach::Ledger(_))).count();
    for (at, breach) in &sum.breaches {
        let text = breach.to_string();
        println!("found, cut after event {at}: {}", text.lines().next().unwrap_or_default());
    }
    println!(
        "lying disk: {} images that have forgotten 3 to 30 flushes; losses found in {}: {ledger} \
         by the ledgers, {} otherwise",
        sum.images,
        sum.breaches.len(),
        sum.breaches.len() - ledger,
    );
    // An image may have kept all the same what was not flushed.
    sum.breaches.len() as u64 * 2 > sum.images
}

/// Whether the disk ignores flushes.
#[derive(Clone, Copy, Debug)]
enum Lies {
    None,
    Some,
}

/// Checks an image of each cut, some at the same time.
fn check_all(recording: &Recording, cuts: &[usize], lies: Lies, seed: u64) -> Sum {
    let mut rng = Rng::new(seed);
    let save_left = match lies {
        Lies::None => 3,
        Lies::Some => 0,
    };
    let sum = Mutex::new(Sum { save_left, ..Sum::default() });
    thread::scope(|scope| {
        let (images, queue) = sync_channel::<Image>(1);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..WORKERS {
            let (queue, sum) = (queue.clone(), &sum);
            scope.spawn(move || work(&queue, &recording.ledgers, sum));
        }
        let mut replay = Replay::new(recording.begin.clone(), &recording.events);
        for (number, at) in cuts.iter().enumerate() {
            let seed = rng.next_u64();
            let lies = match lies {
                Lies::None => 0,
                Lies::Some => 3 + rng.below(28) as usize,
            };
            let (pages, harm) = replay.image(*at, lies, &mut rng);
            sum.lock().unwrap().harm += harm;
            images.send(Image { at: *at, twice: number % 2 == 1, seed, pages }).unwrap();
        }
        drop(images);
    });
    sum.into_inner().unwrap()
}

fn work(queue: &Mutex<Receiver<Image>>, ledgers: &BTreeMap<String, Ledger>, sum: &Mutex<Sum>) {
    loop {
        let next = queue.lock().unwrap().recv();
        let Ok(image) = next else { return };
        let mut verdict = Verdict::default();
        let result = check_one(&image, ledgers, &mut verdict);
        let mut sum = sum.lock().unwrap();
        sum.images += 1;
        sum.twice += u64::from(image.twice);
        sum.checked += verdict.checked;
        sum.repaired += u64::from(verdict.repaired);
        sum.starts.extend(verdict.starts);
        if let Err((breach, pages)) = result {
            let path = root().join(format!("target/tests/power-cut-{}.img", image.at));
            if sum.save_left > 0 && pages.save(&path, DISK_BYTES).is_ok() {
                sum.save_left -= 1;
                println!("the image of the cut after event {} is {}", image.at, path.display());
            }
            sum.breaches.push((image.at, breach));
        }
    }
}

/// Starts weir on an image twice: the second time after a kill, or after another cut of the power
/// somewhere in the first start. Gives the breach and the image that has shown it.
fn check_one(
    image: &Image,
    ledgers: &BTreeMap<String, Ledger>,
    verdict: &mut Verdict,
) -> Result<(), (Breach, Pages)> {
    let expected = Expected { ledgers, cut_at: image.at };
    let (disk, device) = serve(&image.pages);
    let shown_by = |pages: &Pages| {
        let pages = pages.clone();
        move |breach| (breach, pages)
    };
    let served = check::first_start(&device, &disk, expected, verdict);
    let served = served.map_err(shown_by(&image.pages))?;
    if !image.twice {
        let again = check::second_start(&device, expected, &served, None, verdict);
        return again.map_err(shown_by(&image.pages));
    }
    drop(device);
    let events = lock(&disk).take_events();
    let mut rng = Rng::new(image.seed);
    let again_at = rng.below(events.len() as u64 + 1) as usize;
    let (pages, _) = Replay::new(image.pages.clone(), &events).image(again_at, 0, &mut rng);
    let (_, device) = serve(&pages);
    let again = check::second_start(&device, expected, &served, Some(again_at), verdict);
    again.map_err(shown_by(&pages))
}

fn serve(pages: &Pages) -> (Shared, Device) {
    let disk = Arc::new(Mutex::new(Disk::new(DISK_BYTES, pages.clone())));
    let device = Device::new("power-cut-image", &disk, Medium::Ext4).unwrap();
    (disk, device)
}
