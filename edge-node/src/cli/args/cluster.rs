//! What can be said after `weir cluster`.

use super::KafkaTarget;
use clap::{ArgGroup, Subcommand};

#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Gateways, the quorum, and how partitions are
    Status(KafkaTarget),
    /// Give a gateway's leaderships to others before maintenance, and wait until it leads nothing
    #[command(after_help = "It goes on as a follower, and is given nothing new to lead. \
--cancel takes it back into service, and so does its next start.")]
    Drain {
        #[arg(value_parser = clap::value_parser!(i32).range(0..))]
        node: i32,
        /// Take it back into service
        #[arg(long)]
        cancel: bool,
        /// Seconds to wait at most
        #[arg(long, default_value_t = 30)]
        timeout: u64,
        #[command(flatten)]
        target: KafkaTarget,
    },
    /// Forget a gateway that will not come back
    Remove {
        #[arg(value_parser = clap::value_parser!(i32).range(0..))]
        node: i32,
        #[command(flatten)]
        target: KafkaTarget,
    },
    /// Let preferred leaders lead again
    #[command(after_help = "Examples:
  weir cluster elect                       every preferred leader that is in sync
  weir cluster elect sensors sensors-raw:2
  weir cluster elect sensors:0 --unclean   acknowledged records may be lost by that")]
    Elect {
        /// Topics, or one partition as TOPIC:PARTITION; all, if none is named
        partitions: Vec<String>,
        /// Where no replica has everything, take one that merely lives; its gaps become everybody's
        #[arg(long, requires = "partitions")]
        unclean: bool,
        #[command(flatten)]
        target: KafkaTarget,
    },
    /// Move partitions to other gateways; show what is on its way, if none is named
    #[command(
        group = ArgGroup::new("wish").args(["to", "cancel"]),
        after_help = "Examples:
  weir cluster reassign                       what is on its way
  weir cluster reassign sensors:0 --to 2,3    the first is the preferred leader
  weir cluster reassign sensors --to 1,2,3    each partition; preferred leaders take turns
  weir cluster reassign sensors --cancel"
    )]
    Reassign {
        /// Topics, or one partition as TOPIC:PARTITION
        partitions: Vec<String>,
        /// Gateways that hold them then
        #[arg(long, value_name = "NODE,...", value_delimiter = ',', requires = "partitions")]
        to: Vec<i32>,
        /// Back to where they were
        #[arg(long, requires = "partitions")]
        cancel: bool,
        #[command(flatten)]
        target: KafkaTarget,
    },
    /// The gateways that vote on the cluster's metadata
    #[command(subcommand)]
    Quorum(Quorum),
}

#[derive(Debug, Subcommand)]
pub enum Quorum {
    /// Who votes, who follows, and how far each is
    Status(KafkaTarget),
    /// Let a gateway vote that follows already
    Add {
        #[arg(value_parser = clap::value_parser!(i32).range(0..))]
        node: i32,
        /// Seconds that it may take to catch up
        #[arg(long, default_value_t = 30)]
        timeout: u64,
        #[command(flatten)]
        target: KafkaTarget,
    },
    /// Take a gateway's vote; it goes on following
    Remove {
        #[arg(value_parser = clap::value_parser!(i32).range(0..))]
        node: i32,
        #[command(flatten)]
        target: KafkaTarget,
    },
}
