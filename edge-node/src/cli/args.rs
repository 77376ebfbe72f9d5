//! What can be said on the command line, with the help that people read.

use clap::{ArgAction, Args, Parser, Subcommand};
use std::path::PathBuf;

/// An MQTT and Kafka broker for gateways, with a power-cut-safe log on flash
///
/// Sensors publish over MQTT; weir keeps what they say in a log on flash, serves it as Kafka topics
/// to consumer groups on the spot, and mirrors it to a central Apache Kafka, exactly once.
#[derive(Debug, Parser)]
#[command(
    name = "weir",
    version,
    args_conflicts_with_subcommands = true,
    after_long_help = "Examples:
  weir                                     a gateway with defaults, data in ./weir-data
  weir serve --config /etc/weir/weir.toml  the same, configured
  weir demo                                simulated sensors, and a consumer group that reads them
  weir topic list                          the topics of a running gateway
  weir consume sensors --from-beginning    what the sensors said

Exit codes: 0 done, 1 failed, 2 wrong usage. WEIR_LOG sets log levels, as in
WEIR_LOG=info,weir_core::log=debug."
)]
pub struct Cli {
    /// Say more; twice for still more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a gateway (what plain `weir` does, too)
    Serve(ServeArgs),
}

#[derive(Args, Debug, Default)]
pub struct ServeArgs {
    /// Configuration file (TOML); without it, everything has a default
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data folder [default: ./weir-data]
    #[arg(long, short, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Set any key of the configuration, as in --set kafka.listen=0.0.0.0:9092
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}
