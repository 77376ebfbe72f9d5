//! `weir`: the gateway and its tools.

mod cli;
mod config;
mod demo;
mod driver;
mod http;
mod logger;
mod serve;
mod signals;
mod site;
mod store;
mod units;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}
