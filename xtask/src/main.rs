//! Developer commands of this workspace, run as `cargo xtask COMMAND`.

mod bench;
mod object;
mod shell;
mod test;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of flame-graph")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every test, or the steps named
    Test {
        /// Steps to run, instead of all
        #[arg(long, value_name = "STEP", value_delimiter = ',', num_args = 1..)]
        only: Vec<String>,
        /// Show the steps and run none
        #[arg(long, conflicts_with = "only")]
        list: bool,
    },
    /// Rebuild the BPF object that is committed beside its source
    BuildEbpf {
        /// Write nothing; fail when the committed object is not what its source builds
        #[arg(long)]
        check: bool,
    },
    /// Measure what recording costs and gives, beside other tools
    Bench {
        #[command(subcommand)]
        bench: bench::Bench,
    },
    /// Check the house style
    Tidy,
    /// Write the golden files anew from what the program prints now
    Bless,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Test { list: true, .. } => {
            test::list();
            Ok(())
        }
        Command::Test { only, list: false } => test::run(&only),
        Command::BuildEbpf { check: false } => object::rebuild(),
        Command::BuildEbpf { check: true } => object::check(),
        Command::Bench { bench } => bench::run(&bench),
        Command::Tidy => tidy::run(),
        Command::Bless => bless(),
    }
}

/// The golden tests write what they would compare.
fn bless() -> Result<()> {
    let arguments = ["test", "--package", "tests", "--test", "golden"];
    shell::run(shell::cargo().args(arguments).env("BLESS", "1"))
}
