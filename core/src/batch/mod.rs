//! Kafka's record batch, magic 2: its layout, its checksum, the records inside, producers'
//! sequences.
//!
//! Does not compress and does not decompress: batches pass through as they came, and where records
//! must be looked at, the driver is asked ([`crate::log::Io::Unpack`]). The layout stands in
//! `header`, that of one record in `records`.
//!
//! A produced batch is judged in three steps, so that each can run where it is cheapest:
//! [`next_batch`] (lengths and checksum, by the thread that read the socket), [`check_produced`]
//! (Kafka's rules for what clients may write), [`Producers::check`] (the sequence, by the node).

mod builder;
mod header;
mod producers;
mod records;
mod rewrite;
#[cfg(test)]
mod tests;

pub use builder::{Builder, ProducerStamp, empty, repack, seal};
pub use header::{
    BatchError, Codec, HEADER_BYTES, Header, next_batch, stamp, stamp_append_time,
    stamp_max_timestamp,
};
pub use producers::{ActiveProducer, Producers, Sequence};
pub use records::{Headers, Record, check_produced, records};
pub use rewrite::{check_stored, emptied, rewrite};
