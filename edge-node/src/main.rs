//! `weir`: the gateway and its tools.

mod config;
mod driver;
mod logger;
mod units;

fn main() {}
