//! The one module that knows every stage, from source to exporter.

mod attach;
mod collect;
mod cpu;
mod engine;
mod local;
mod perf_maps;
mod stats;
mod steer;
mod waited;

use std::{
    fmt::{self, Write as _},
    fs::File,
    io::{self, BufReader, IsTerminal as _, Write as _},
};

use anyhow::Context as _;

use crate::{
    export::{
        output::{self, Output},
        text::{caption, share, shorten, thousands},
    },
    fold::View,
    model::profile::Profile,
    plan::{FilePlan, Plan},
    source::{self, file::Content},
    symbolize::{self, symbolize},
};

/// How a run that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for is there.
    Done,
    /// The recording caught nothing, and no file was written.
    Nothing,
}

/// Carries out a plan.
///
/// # Errors
/// One sentence, with its causes, on what failed.
pub fn run(plan: Plan) -> anyhow::Result<Exit> {
    match plan {
        Plan::Cpu(plan) => cpu::cpu(&plan),
        Plan::Collect(plan) => collect::collect(*plan),
        Plan::File(plan) => file(&plan),
        Plan::Doctor { json, verbose } => doctor(json, verbose),
    }
}

// --- doctor ---------------------------------------------------------------------------------

fn doctor(json: bool, verbose: bool) -> anyhow::Result<Exit> {
    match crate::doctor::run(json, verbose, &mut io::stdout().lock()) {
        // A reader that has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Done),
        result => result.map(|()| Exit::Done).context("cannot write to standard output"),
    }
}

// --- file -----------------------------------------------------------------------------------

fn file(plan: &FilePlan) -> anyhow::Result<Exit> {
    check(&plan.outputs)?;
    let options = source::file::Options {
        title: &plan.title,
        sample_type: plan.sample_type.as_deref(),
        threads: plan.threads,
        idle: plan.idle,
    };
    let (name, read) = match &plan.input {
        Some(path) => {
            let file = File::open(path).with_context(|| format!("cannot read {path:?}"))?;
            let name = path.file_name().unwrap_or(path.as_os_str());
            let input = BufReader::with_capacity(1 << 16, file);
            (format!("{path:?}"), source::file::read(input, &name.to_string_lossy(), &options))
        }
        None => {
            if io::stdin().is_terminal() {
                say(format_args!("reading a profile from this terminal; end with Ctrl-D\n"));
            }
            let input = io::stdin().lock();
            ("standard input".to_owned(), source::file::read(input, "standard input", &options))
        }
    };
    let read = read.with_context(|| format!("cannot draw {name}"))?;
    for remark in &read.remarks {
        say(format_args!("note: {name}: {remark}\n"));
    }
    let profile = match read.content {
        Content::Profile(profile) => profile,
        Content::Recording(recording) => symbolize(recording, &symbolize::Options::default()),
    };
    finish(profile, &plan.outputs, View::default(), "the input has no counts")
}

// --- the end of every recording ---------------------------------------------------------------

/// Checks every output before the work that fills it begins.
///
/// # Errors
/// The first that cannot be written.
pub fn check(outputs: &[Output]) -> anyhow::Result<()> {
    outputs.iter().try_for_each(Output::check)?;
    Ok(())
}

/// Writes a profile to every output and prints the one summary on standard error. A profile
/// without a value writes nothing and says `why_empty`, a clause such as `the target slept`.
///
/// # Errors
/// An output that cannot be written.
pub fn finish(
    mut profile: Profile,
    outputs: &[Output],
    view: View,
    why_empty: &str,
) -> anyhow::Result<Exit> {
    if profile.stacks.total(0) == 0 {
        say(format_args!("flame-graph: nothing was caught: {why_empty}; no file was written\n"));
        return Ok(Exit::Nothing);
    }
    if view != View::default() {
        profile.stacks = view.apply(&profile.stacks);
    }
    output::write_all(&profile, outputs)?;
    say(format_args!("{}", summary(&profile, outputs)));
    Ok(Exit::Done)
}

/// Writes to standard error. Unlike `eprint!` it does not panic when nobody reads it.
pub fn say(text: fmt::Arguments<'_>) {
    let _ = io::stderr().write_fmt(text);
}

/// What was recorded, what is missing and where the picture is.
fn summary(profile: &Profile, outputs: &[Output]) -> String {
    let mut text = caption(profile);
    text.push('\n');
    let samples = profile.samples;
    for (cause, count) in &profile.losses.truncated {
        let (count, share) = (thousands(*count), share(*count, samples));
        let _ = writeln!(text, "  truncated, {}: {count} ({share})", cause.name());
    }
    for (cause, count) in &profile.losses.lost {
        let _ = writeln!(text, "  lost, {}: {}", cause.name(), thousands(*count));
    }
    for output in outputs {
        if let Output::File { path, .. } = output {
            let _ = writeln!(text, "wrote {}", shorten(&path.to_string_lossy(), 4096));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::loss::{Loss, Truncation};

    fn profile(text: &str) -> Profile {
        source::file::folded::read(text.as_bytes(), "stacks.txt", "t").unwrap().profile
    }

    #[test]
    fn the_summary_names_each_loss() {
        let mut profile = profile("a;main 9000\na;[truncated: too deep];f 1000\n");
        profile.losses.lose(Loss::RingFull, 1234);
        let outputs = [Output::parse("x.svg".as_ref()).unwrap(), Output::Stdout];
        assert_eq!(profile.losses.truncated[&Truncation::TooDeep], 1000);
        assert_eq!(
            summary(&profile, &outputs),
            "stacks.txt, 10,000 samples, 90.00 % complete, lost 1,234\n  \
             truncated, too deep: 1,000 (10.00 %)\n  \
             lost, ring buffer full: 1,234\nwrote x.svg\n"
        );
    }

    #[test]
    fn nothing_caught_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.svg");
        let outputs = [Output::parse(path.as_os_str()).unwrap()];
        let mut profile = profile("a 1\n");
        profile.stacks = crate::model::stacks::Stacks::new(1);
        let exit = finish(profile, &outputs, View::default(), "the target slept").unwrap();
        assert_eq!(exit, Exit::Nothing);
        assert!(!path.exists());
    }
}
