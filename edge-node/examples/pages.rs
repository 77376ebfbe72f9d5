//! Writes man pages and shell completions for packages, from the same table of arguments that the
//! command line is read by, so they cannot drift from it.
//!
//! `cargo run -p weir-edge-node --example pages -- DIR` fills `DIR`. It is no subcommand, because
//! a gateway has no use for it.

// The table is the program's own file, of which only the descriptions are used here.
#[allow(dead_code)]
#[path = "../src/cli/args/mod.rs"]
mod args;
#[allow(dead_code)]
#[path = "../src/units.rs"]
mod units;

use clap::CommandFactory;
use clap_complete::Shell;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

fn write_pages(folder: &PathBuf) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut args::Cli::command(), "weir", folder)?;
    }
    clap_mangen::generate_to(args::Cli::command(), folder)
}

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: pages DIR");
        return ExitCode::from(2);
    };
    match write_pages(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pages: cannot write into {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}
