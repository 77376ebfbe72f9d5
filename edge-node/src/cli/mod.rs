//! The command line: what can be said, and who does it.

mod args;
mod bench;
mod cluster;
mod connect;
mod consume;
mod group;
mod log;
mod output;
mod produce;
mod status;
mod topic;

pub use args::{Cli, Command, DemoArgs, HttpTarget};

use crate::{config, demo, logger, serve};
use args::ServeArgs;
use std::path::PathBuf;
use std::process::ExitCode;

/// Why a command did not succeed.
pub enum Failure {
    /// It was tried and did not work out: exit code 1.
    Failed(String),
    /// It was asked for wrongly: exit code 2.
    Usage(String),
}

pub type Outcome = Result<(), Failure>;

impl From<String> for Failure {
    fn from(sentence: String) -> Failure {
        Failure::Failed(sentence)
    }
}

/// Runs a command; its exit code is 0 when done, 1 when failed, 2 when the usage was wrong.
pub fn run(cli: Cli) -> ExitCode {
    let filter = std::env::var("WEIR_LOG").ok();
    let outcome = logger::start(cli.verbose, filter.as_deref())
        .map_err(Failure::Usage)
        .and_then(|()| dispatch(cli));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(sentence)) => {
            eprintln!("weir: {sentence}");
            ExitCode::from(1)
        }
        Err(Failure::Usage(sentence)) => {
            eprintln!("weir: {sentence}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(cli: Cli) -> Outcome {
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => serve_command(args),
        Command::Demo(args) => demo::command(args),
        Command::Topic(topic) => topic::command(topic),
        Command::Group(group) => group::command(group),
        Command::Produce(args) => produce::command(args),
        Command::Consume(args) => consume::command(args),
        Command::Status(target) => status::status(&target),
        Command::Top(args) => status::top(&args),
        Command::Log(log) => log::command(log),
        Command::Bench(bench) => bench::command(bench),
        Command::Cluster(command) => cluster::command(command),
        Command::Mirror(mirror) => status::mirror(&mirror),
    }
}

fn serve_command(args: ServeArgs) -> Outcome {
    let file = args.config.or_else(|| std::env::var_os("WEIR_CONFIG").map(PathBuf::from));
    let mut flags = args.set;
    if let Some(data) = args.data {
        flags.push(format!("node.data={}", data.display()));
    }
    // Names and values that are no UTF-8 are none of ours.
    let environment = std::env::vars_os()
        .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
    let config = config::load(file.as_deref(), environment, &flags).map_err(Failure::Usage)?;
    serve::serve(&config).map_err(Failure::Failed)
}
