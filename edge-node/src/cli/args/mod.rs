//! What can be said on the command line, with the help that people read.

pub mod cluster;

use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand};
use cluster::Cluster;
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

Exit codes: 0 done, 1 failed, 2 wrong usage. WEIR_BOOTSTRAP and WEIR_HTTP say where the
gateway is, WEIR_LOG sets log levels, as in WEIR_LOG=info,weir_core::log=debug."
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
    /// Show simulated sensors, a consumer group, and what is on flash, live
    Demo(DemoArgs),
    /// Create, list, describe, alter and delete topics
    #[command(subcommand)]
    Topic(Topic),
    /// List and describe consumer groups, set their offsets, delete them
    #[command(subcommand)]
    Group(Group),
    /// Write records: a line of standard input each
    Produce(ProduceArgs),
    /// Read records
    Consume(ConsumeArgs),
    /// What a gateway is doing
    Status(HttpTarget),
    /// The same, live
    Top(TopArgs),
    /// A site of gateways: its state, its quorum, who leads and holds partitions
    #[command(subcommand)]
    Cluster(Cluster),
    /// The mirrors to central clusters
    #[command(subcommand)]
    Mirror(Mirror),
    /// Look into the flash log of a gateway that does not run
    #[command(subcommand)]
    Log(Log),
    /// Measure a gateway: produce, or consume, as fast as it goes
    #[command(subcommand)]
    Bench(Bench),
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

/// Where Kafka's protocol is spoken.
#[derive(Args, Clone, Debug)]
pub struct KafkaTarget {
    /// The gateway, or any Kafka [env: WEIR_BOOTSTRAP] [default: 127.0.0.1:9092]
    #[arg(long, short, value_name = "HOST:PORT")]
    pub bootstrap: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Where a gateway's HTTP is.
#[derive(Args, Clone, Debug)]
pub struct HttpTarget {
    /// The gateway's console [env: WEIR_HTTP] [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Topic {
    /// Create topics
    #[command(
        after_help = "Example: weir topic create readings -p 4 --config retention.ms=86400000"
    )]
    Create {
        #[arg(required = true)]
        names: Vec<String>,
        /// Partitions; without it, what the gateway is configured to
        #[arg(long, short, value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// Gateways that hold each partition; without it, what the gateway is configured to
        #[arg(long, short, value_parser = clap::value_parser!(i16).range(1..))]
        replication_factor: Option<i16>,
        /// Kafka's topic config
        #[arg(long, value_name = "NAME=VALUE")]
        config: Vec<String>,
        /// It is fine if the topic exists
        #[arg(long)]
        if_not_exists: bool,
        #[command(flatten)]
        target: KafkaTarget,
    },
    /// List topics
    List {
        /// Internal topics, too
        #[arg(long, short)]
        all: bool,
        #[command(flatten)]
        target: KafkaTarget,
    },
    /// Show partitions, offsets and configs
    Describe {
        /// Topics; all, if none is named
        names: Vec<String>,
        #[command(flatten)]
        target: KafkaTarget,
    },
    /// Add partitions, or change configs
    #[command(group = ArgGroup::new("change").required(true).multiple(true)
        .args(["partitions", "config", "delete_config"]))]
    Alter {
        name: String,
        /// Partitions that it has then
        #[arg(long, short, value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// Set one of Kafka's topic configs
        #[arg(long, value_name = "NAME=VALUE")]
        config: Vec<String>,
        /// Back to the default
        #[arg(long, value_name = "NAME")]
        delete_config: Vec<String>,
        #[command(flatten)]
        target: KafkaTarget,
    },
    /// Delete topics with everything in them
    Delete {
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        target: KafkaTarget,
    },
}

#[derive(Debug, Subcommand)]
pub enum Group {
    /// List consumer groups
    List {
        #[command(flatten)]
        target: KafkaTarget,
    },
    /// Show members, committed offsets and lag
    Describe {
        /// Groups; all, if none is named
        names: Vec<String>,
        #[command(flatten)]
        target: KafkaTarget,
    },
    /// Set the committed offsets of a group that nobody uses at the moment
    #[command(after_help = "Examples:
  weir group reset dashboards --topic sensors --to earliest
  weir group reset dashboards --topic sensors:2 --to 1000
  weir group reset dashboards --to -100 --dry-run")]
    Reset {
        group: String,
        /// Topics, or one partition as TOPIC:PARTITION; all that the group has offsets of, if none
        /// is named
        #[arg(long, short)]
        topic: Vec<String>,
        /// earliest, latest, an offset, +N or -N records from where the group is, or time:MS, the
        /// first record at or after milliseconds since 1970
        #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
        to: String,
        /// Only show what would be committed
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        target: KafkaTarget,
    },
    /// Delete groups with their committed offsets
    Delete {
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        target: KafkaTarget,
    },
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  echo 21.5 | weir produce sensors --key plant/line1/temp
  weir produce sensors --key-separator : < readings.txt
  weir produce sensors --value 21.5")]
pub struct ProduceArgs {
    pub topic: String,
    /// The key of every record
    #[arg(long, short)]
    pub key: Option<String>,
    /// Each line is a key, this, and a value
    #[arg(long, short = 'K', value_name = "TEXT", conflicts_with = "key")]
    pub key_separator: Option<String>,
    /// One record with this value instead of standard input
    #[arg(long)]
    pub value: Option<String>,
    /// A header of every record
    #[arg(long, short = 'H', value_name = "NAME=VALUE")]
    pub header: Vec<String>,
    /// The partition; without it, the key chooses, as in Kafka's clients
    #[arg(long, short)]
    pub partition: Option<i32>,
    #[command(flatten)]
    pub target: KafkaTarget,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  weir consume sensors --from-beginning --exit
  weir consume sensors --group dashboards
  weir consume sensors --json --count 10")]
pub struct ConsumeArgs {
    #[arg(required = true)]
    pub topics: Vec<String>,
    /// Share the topics with the other members of a consumer group, and commit what was printed
    #[arg(long, short)]
    pub group: Option<String>,
    /// Begin with the oldest record, where no offset is committed
    #[arg(long)]
    pub from_beginning: bool,
    /// Begin at this offset
    #[arg(long, short, conflicts_with_all = ["group", "from_beginning"])]
    pub offset: Option<i64>,
    /// Only this partition
    #[arg(long, short, conflicts_with = "group")]
    pub partition: Option<i32>,
    /// End after so many records
    #[arg(long, short = 'n')]
    pub count: Option<u64>,
    /// End when everything that is there has been read
    #[arg(long, short)]
    pub exit: bool,
    /// Print the key and a tab before the value
    #[arg(long, short)]
    pub key: bool,
    #[command(flatten)]
    pub target: KafkaTarget,
}

#[derive(Args, Debug)]
pub struct TopArgs {
    /// Seconds between two looks
    #[arg(long, short, default_value_t = 1.0)]
    pub interval: f64,
    #[command(flatten)]
    pub target: HttpTarget,
}

#[derive(Debug, Subcommand)]
pub enum Mirror {
    /// How far every mirror is
    Status(HttpTarget),
    /// Stop a mirror after its transaction; its position stays
    Pause {
        name: String,
        #[command(flatten)]
        target: HttpTarget,
    },
    /// Let a paused mirror go on, or one that waits after a failure try at once
    Resume {
        name: String,
        #[command(flatten)]
        target: HttpTarget,
    },
}

#[derive(Debug, Subcommand)]
pub enum Log {
    /// Verify every checksum; exit code 1 if something acknowledged is damaged
    #[command(
        after_help = "Each damage is named by slot, place, partition and offsets. With --repair it \
is quarantined: readers are given the
next offset that can be read, what can be rebuilt is, and the next check finds nothing."
    )]
    Check {
        /// Quarantine what is damaged, rebuild slot headers and footers
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        args: LogArgs,
    },
    /// List slots, groups and frames
    Dump(LogArgs),
    /// How full it is, and with what
    Stat(LogArgs),
    /// Make a block device or a file a flash log, for flash.path
    #[command(after_help = "Examples:
  weir log format /dev/mmcblk0p3
  weir log format /mnt/card/flash.log --bytes 8GiB

A device that holds a file system, a partition table, a swap area or another log, or that is
mounted, is refused unless --yes is given twice; one that holds anything else, unless once.")]
    Format(FormatArgs),
}

#[derive(Args, Debug)]
pub struct LogArgs {
    /// The data folder, or the log itself [default: ./weir-data]
    #[arg(value_name = "DIR", conflicts_with = "data")]
    pub place: Option<PathBuf>,
    /// The same, as `weir serve` has it
    #[arg(long, short, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct FormatArgs {
    /// The block device or file
    pub path: PathBuf,
    /// How large the log may grow, such as 8GiB [default: the whole device]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub bytes: Option<u64>,
    /// The node that the log belongs to: its [node] id
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(0..))]
    pub node: i32,
    /// What is there may be lost; twice, if it is something that has a name
    #[arg(long, short, action = ArgAction::Count)]
    pub yes: u8,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn size(text: &str) -> Result<u64, String> {
    crate::units::parse_bytes(text).ok_or_else(|| "write a size as in 8GiB".to_string())
}

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Write records and measure rate and latency of acknowledgements
    Produce(BenchArgs),
    /// Read what is there and measure the rate
    Consume(BenchArgs),
}

#[derive(Args, Debug)]
pub struct BenchArgs {
    /// The topic; created with 4 partitions if need be
    #[arg(default_value = "bench")]
    pub topic: String,
    /// How many records
    #[arg(long, short = 'n', default_value_t = 1_000_000)]
    pub records: u64,
    /// Bytes of each value
    #[arg(long, short, default_value_t = 100)]
    pub size: usize,
    /// Records of one batch
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch: u32,
    /// Batches without an answer at a time
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub in_flight: u32,
    #[command(flatten)]
    pub target: KafkaTarget,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Without --bootstrap and --mqtt, a gateway is started in a temporary folder.
The exit code is 0 only if every acknowledged reading was read."
)]
pub struct DemoArgs {
    /// End after so many seconds; without it, Ctrl-C ends
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Simulated sensors, an MQTT connection each
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub sensors: u32,
    /// Readings a second of each sensor
    #[arg(long, default_value_t = 5.0)]
    pub rate: f64,
    /// Kafka address of a running gateway
    #[arg(long, short, value_name = "HOST:PORT", requires = "mqtt")]
    pub bootstrap: Option<String>,
    /// MQTT address of a running gateway
    #[arg(long, value_name = "HOST:PORT", requires = "bootstrap")]
    pub mqtt: Option<String>,
    /// Console of a running gateway, for what is on flash
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,
}
