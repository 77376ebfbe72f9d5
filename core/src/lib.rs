//! Everything in Weir that decides, as values without input or output.
//!
//! The crate is `no_std`, so the compiler itself keeps clocks, files, sockets, threads and random
//! numbers out of it: time and the seed are arguments, disk and network are [`node::Output`] and
//! come back as [`node::Input`]. The modules stand in data-flow order; imports point down only:
//! vocabulary < `wire`, `batch`, `peer` < `log` < `quorum`, `metadata`, `group` < `replica` <
//! `node`.

#![no_std]

extern crate alloc;

pub mod batch;
pub mod bytes;
pub mod error;
pub mod group;
pub mod limits;
pub mod log;
pub mod metadata;
pub mod node;
pub mod peer;
pub mod quorum;
pub mod replica;
pub mod rng;
pub mod types;
pub mod wire;
