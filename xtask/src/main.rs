//! Developer commands of this workspace, run as `cargo xtask COMMAND`.

mod object;
mod shell;

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
    /// Rebuild the BPF object that is committed beside its source
    BuildEbpf {
        /// Write nothing; fail when the committed object is not what its source builds
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::BuildEbpf { check: false } => object::rebuild(),
        Command::BuildEbpf { check: true } => object::check(),
    }
}
