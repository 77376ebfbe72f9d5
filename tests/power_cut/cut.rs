//! The images that a power cut may leave of a recording: everything up to a flush, and what the cut
//! has left of the writes after it.

use crate::disk::{Event, Pages};
use weir_core::rng::Rng;
use weir_tests::cut::{Harm, damage};

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
        let writes: Vec<_> = writes.collect();
        let harm = damage(&writes, rng, |at, data| image.write(at, data));
        (image, harm)
    }
}
