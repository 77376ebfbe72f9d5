//! The simulation that proves the promises: everything follows from a seed.
//!
//! Level 1 drives a [`weir_core::log::Log`] alone: `log_run` at random, `crash_points`
//! exhaustively. Level 2, `node_run`, drives a whole [`weir_core::node::Node`] with a `population`
//! of clients. Beside them, `quorum` drives several metadata quorums against each other, `replica`
//! the leader and the followers of one partition, and `controller` what a site's controller
//! decides. Level 3, `cluster`, is a site of whole nodes with clients that find their way. Below
//! all are the `world` (clock and chance), the `flash` and its `disk`; above them `history` is what
//! clients know, and `checks` holds it against what a start shows. `mutations` proves the checkers.

#![allow(clippy::unwrap_used)]

mod admin;
mod audit;
mod campaign;
mod checks;
mod cleaning;
mod client;
mod cluster;
mod compacting;
mod consumer;
mod controller;
mod crash_loop;
mod crash_points;
mod damage;
mod disk;
mod faults;
mod fetching;
mod flash;
mod gathering;
mod harm;
mod history;
mod log_run;
mod log_tests;
mod mutations;
mod node_audit;
mod node_run;
mod node_tests;
mod plan;
mod population;
mod producer;
mod quorum;
mod replacing;
mod replica;
mod runner;
mod scrub;
mod thrift;
mod trace;
mod truncating;
mod vandal;
mod work;
mod world;
