//! A client that sends noise: the broker answers or closes, and goes on.

use crate::client::Context;
use bytes::Bytes;
use weir_core::types::Nanos;
use weir_core::wire::{SUPPORTED, encode_request, fetch::FetchRequest, metadata::MetadataRequest};

#[derive(Default)]
pub struct Vandal {}

impl Vandal {
    pub fn act(&mut self, context: &mut Context<'_>, in_flight: usize) -> Nanos {
        if in_flight < 8 {
            let frame = self.noise(context);
            context.send(frame);
        }
        context.pause_ms(5, 200)
    }

    /// A request header of an API that we serve, and then anything; or a real request with flipped
    /// bits.
    fn noise(&mut self, context: &mut Context<'_>) -> Bytes {
        let rng = &mut *context.rng;
        let mut bytes = match rng.below(3) {
            0 => crate::client::unframed(&encode_request(&FetchRequest::default(), 12, 7, None))
                .to_vec(),
            1 => crate::client::unframed(&encode_request(&MetadataRequest::default(), 9, 7, None))
                .to_vec(),
            _ => {
                let key = rng.below(SUPPORTED.len() as u64) as i16;
                let mut bytes = key.to_be_bytes().to_vec();
                bytes.extend_from_slice(&(rng.below(14) as i16).to_be_bytes());
                bytes.extend_from_slice(&[0, 0, 0, 7, 0xff, 0xff]);
                bytes.resize(10 + rng.below(80) as usize, 0);
                bytes
            }
        };
        for _ in 0..1 + rng.below(6) {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << rng.below(8);
        }
        bytes.truncate(rng.below(bytes.len() as u64 * 3) as usize);
        Bytes::from(bytes)
    }
}
