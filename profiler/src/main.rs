//! The flame-graph command. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 caught nothing.

use std::{env, fs, path::PathBuf, process::ExitCode};

use clap::Parser as _;
use flame_graph::{
    cli::Cli,
    model::secret::Secret,
    pipeline::{self, Exit, say},
    plan::{Host, Plan},
    target::pick::PickError,
};

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NOTHING: u8 = 3;

fn main() -> ExitCode {
    // Ends the process itself on --help (0) and on what it cannot parse (2).
    let cli = Cli::parse();
    if cli.verbose() && log::set_logger(&Stderr).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
    let plan = match Plan::new(cli, &host()) {
        Ok(plan) => plan,
        Err(error) => {
            say(format_args!("flame-graph: {error}\n"));
            return ExitCode::from(USAGE);
        }
    };
    match pipeline::run(plan) {
        Ok(Exit::Done) => ExitCode::SUCCESS,
        Ok(Exit::Nothing) => ExitCode::from(NOTHING),
        Err(error) => {
            say(format_args!("flame-graph: {}\n", sentence(&error)));
            // To choose among several is the user's.
            let several = matches!(error.downcast_ref(), Some(PickError::Several { .. }));
            ExitCode::from(if several { USAGE } else { FAILED })
        }
    }
}

/// An error with its causes, each said once: some errors name their cause themselves.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| match cause.to_string() {
        first if said.is_empty() => first,
        known if said.contains(&known) => said,
        more => format!("{said}: {more}"),
    })
}

/// What of this host bounds a plan.
fn host() -> Host {
    let rate = fs::read_to_string("/proc/sys/kernel/perf_event_max_sample_rate");
    let secret = |name| env::var(name).ok().and_then(|text| Secret::of(&text));
    Host {
        max_frequency: rate.ok().and_then(|text| text.trim().parse().ok()),
        token: secret("RESQ_TOKEN"),
        api_key: secret("RESQ_API_KEY"),
        debuginfod_urls: env::var("DEBUGINFOD_URLS").ok(),
        debuginfod_cache: debuginfod_cache(),
    }
}

/// Where debuginfod's clients keep files (`debuginfod_find_debuginfo(3)`).
fn debuginfod_cache() -> Option<PathBuf> {
    let folder = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let below = |folder: PathBuf| folder.join("debuginfod_client");
    folder("DEBUGINFOD_CACHE_PATH")
        .or_else(|| folder("XDG_CACHE_HOME").map(below))
        .or_else(|| folder("HOME").map(|home| below(home.join(".cache"))))
}

/// With `--verbose`, what libraries log goes to standard error.
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        say(format_args!("{}: {}\n", record.target(), record.args()));
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::sentence;

    #[test]
    fn a_cause_is_said_once() {
        let error = Err::<(), _>(anyhow!("disk full")).context("cannot write x: disk full");
        assert_eq!(sentence(&error.unwrap_err()), "cannot write x: disk full");
        let error = Err::<(), _>(anyhow!("disk full")).context("cannot write x");
        assert_eq!(sentence(&error.unwrap_err()), "cannot write x: disk full");
    }
}
