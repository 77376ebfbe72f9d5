//! The fuzz targets on seeded mutations of golden bytes: their laws hold without nightly, too.

#[path = "../../fuzz/targets.rs"]
mod targets;

use super::golden;
use weir_core::batch::{Builder, ProducerStamp};
use weir_core::rng::Rng;

const RUNS: usize = 20_000;

fn requests() -> Vec<Vec<u8>> {
    golden().into_iter().filter(|g| g.is_request).map(|g| g.bytes.into()).collect()
}

/// API, version and message.
fn responses() -> Vec<Vec<u8>> {
    let responses = golden().into_iter().filter(|golden| !golden.is_request);
    let without_header = responses.map(|golden| {
        let head = 4 + usize::from(golden.key.has_flexible_response_header(golden.version));
        [&[golden.key as u8, golden.version as u8], &golden.bytes[head..]].concat()
    });
    without_header.collect()
}

fn batches() -> Vec<Vec<u8>> {
    let mut built = Vec::new();
    for count in 1..8 {
        let mut builder = Builder::new();
        for i in 0..count {
            let header: [(&str, Option<&[u8]>); 1] = [("mqtt.qos", Some(b"1"))];
            builder.push(1000 + i, Some(b"pump"), Some(b"21.5"), &header[..(i % 2) as usize]);
        }
        let stamp = ProducerStamp { producer_id: count, ..ProducerStamp::default() };
        built.push(builder.build((count % 2 == 0).then_some(stamp)));
    }
    built
}

/// Runs a target on damaged copies of `frames`; some must pass it and some must not, or the
/// mutations are of no use.
fn check(target: fn(&[u8]) -> bool, frames: Vec<Vec<u8>>) {
    assert!(frames.iter().all(|frame| target(frame)), "whole frames pass");
    let mut passed = 0;
    for seed in 0..RUNS as u64 {
        let mut rng = Rng::new(seed);
        let mut bytes = frames[rng.below(frames.len() as u64) as usize].clone();
        for _ in 0..=rng.below(3) {
            let at = rng.below(bytes.len().max(1) as u64) as usize;
            match rng.below(5) {
                _ if bytes.is_empty() => break,
                0 => bytes[at] ^= 1 << rng.below(8),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5) as usize],
                2 => bytes.insert(at, rng.next_u64() as u8),
                3 => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
        }
        passed += usize::from(target(&bytes));
    }
    assert!(passed > RUNS / 100 && passed < RUNS, "{passed} of {RUNS} passed");
}

#[test]
fn requests_that_are_read_are_written_so_that_they_are_read_alike() {
    check(targets::request, requests());
}

#[test]
fn responses_that_are_read_are_written_so_that_they_are_read_alike() {
    check(targets::response, responses());
}

#[test]
fn record_batches_that_are_judged_good_can_be_read_and_stamped() {
    check(targets::record_batch, batches());
}
