//! The report for people: aligned, and short where all is well.

use std::fmt::Display;
use std::io::{self, Write};

use super::report::{EngineReport, FeatureReport, Report};
use crate::target::capabilities::{Capability, Lockdown, Settings};
use crate::target::engine::advice::Missing;
use crate::target::engine::{Engine, Scope};

/// Width of the names on the left.
const NAMES: usize = 14;

/// Columns of a line.
const WIDTH: usize = 100;

pub(super) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    host(report, out)?;
    writeln!(out, "\nBPF, tried by loading")?;
    features(report.features.iter().filter(|feature| feature.bpf), out)?;
    writeln!(out, "\nPerf events, tried by opening")?;
    features(report.features.iter().filter(|feature| !feature.bpf), out)?;
    writeln!(out, "\nEngines")?;
    for engine in &report.engines {
        let start = format!("  {} {:<6} ", mark(engine.usable), engine.command);
        wrapped(&start, &says(engine), out)?;
    }
    let (needed, unneeded): (Vec<&Missing>, Vec<&Missing>) =
        report.missing.iter().partition(|missing| missing.needed);
    if needed.is_empty() {
        writeln!(out, "\nNothing that flame-graph needs is missing.")?;
    }
    missing("Missing", &needed, out)?;
    missing("Not there, and not needed", &unneeded, out)
}

fn host(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let mut line = |name: &str, value: &dyn Display| writeln!(out, "{name:<NAMES$} {value}");
    line("flame-graph", &report.flame_graph)?;
    let release = match report.kernel.release.as_str() {
        "" => "unknown",
        release => release,
    };
    let btf = if report.kernel.btf { "BTF" } else { "no BTF" };
    let lockdown = match report.settings.lockdown {
        Some(Lockdown::Integrity) => "lockdown: integrity",
        Some(Lockdown::Confidentiality) => "lockdown: confidentiality",
        Some(Lockdown::None) | None => "no lockdown",
    };
    line("Kernel", &format!("Linux {release}, {btf}, {lockdown}"))?;
    line("CPUs", &format!("{} online", report.cpus.len()))?;
    line("User", &user(report))?;
    let capabilities: Vec<String> = Capability::ALL
        .map(|capability| {
            let has = report.privileges.capabilities.contains(&capability);
            format!("{} {}", mark(has), capability.name())
        })
        .into();
    line("Capabilities", &capabilities[..3].join("  "))?;
    line("", &capabilities[3..].join("  "))?;
    if report.capabilities_are_void() {
        line("", &"(in a user namespace of its own they do not count for BPF and perf)")?;
    }
    line("Container", &report.container.statement())?;
    let [first, second] = settings(&report.settings);
    line("Settings", &first)?;
    line("", &second)?;
    let symbols = if report.kernel_symbols { "readable" } else { "hidden from this user" };
    line("Kernel symbols", &symbols)
}

/// The kernel's settings in two lines.
fn settings(settings: &Settings) -> [String; 2] {
    fn show(name: &str, value: Option<impl Display>) -> String {
        value.map_or_else(|| format!("{name} unset"), |value| format!("{name} {value}"))
    }
    [
        [
            show("perf_event_paranoid", settings.perf_event_paranoid),
            show("kptr_restrict", settings.kptr_restrict),
            show("unprivileged_bpf_disabled", settings.unprivileged_bpf_disabled),
        ]
        .join(", "),
        [
            show("perf_event_max_sample_rate", settings.perf_event_max_sample_rate),
            show("perf_event_mlock_kb", settings.perf_event_mlock_kb),
        ]
        .join(", "),
    ]
}

fn user(report: &Report) -> String {
    let privileges = &report.privileges;
    let memlock = privileges
        .memlock_bytes
        .map_or(String::new(), |bytes| format!(", locked memory up to {} KiB", bytes / 1024));
    let user = match (privileges.uid, privileges.euid) {
        (_, Some(0)) => "root".to_owned(),
        (_, Some(euid)) => format!("uid {euid}, not root"),
        _ => "unknown".to_owned(),
    };
    user + &memlock
}

fn features<'a>(
    features: impl Iterator<Item = &'a FeatureReport>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (working, refused): (Vec<&FeatureReport>, Vec<&FeatureReport>) =
        features.partition(|feature| feature.works);
    for few in working.chunks(3) {
        let names: Vec<String> =
            few.iter().map(|feature| format!("{} {:<32}", mark(true), feature.name)).collect();
        writeln!(out, "  {}", names.concat().trim_end())?;
    }
    for (reason, names) in by_reason(&refused) {
        wrapped(&format!("  {} ", mark(false)), &format!("{names}: {reason}"), out)?;
    }
    for feature in refused {
        let log = feature.refusal.as_ref().and_then(|refusal| refusal.verifier_log.as_ref());
        if let Some(log) = log {
            writeln!(out, "    the verifier on {}:", feature.name)?;
            for line in log.lines() {
                writeln!(out, "      {line}")?;
            }
        }
    }
    Ok(())
}

/// Features that are refused for the same reason, in the order of the first of each.
fn by_reason<'a>(refused: &[&'a FeatureReport]) -> Vec<(&'a str, String)> {
    let mut reasons: Vec<(&str, String)> = Vec::new();
    for feature in refused {
        let reason = feature.refusal.as_ref().map_or("", |refusal| refusal.reason.as_str());
        match reasons.iter_mut().find(|(other, _)| *other == reason) {
            Some((_, names)) => {
                names.push_str("; ");
                names.push_str(feature.name);
            }
            None => reasons.push((reason, feature.name.to_owned())),
        }
    }
    reasons
}

/// Writes a text behind its first line's start, broken at [`WIDTH`] and aligned.
fn wrapped(start: &str, text: &str, out: &mut dyn Write) -> io::Result<()> {
    let indent = start.chars().count();
    let mut column = indent;
    write!(out, "{start}")?;
    for (index, word) in text.split(' ').enumerate() {
        let length = word.chars().count();
        if index > 0 && column + 1 + length > WIDTH {
            write!(out, "\n{:indent$}", "")?;
            column = indent;
        } else if index > 0 {
            write!(out, " ")?;
            column += 1;
        }
        write!(out, "{word}")?;
        column += length;
    }
    writeln!(out)
}

fn says(report: &EngineReport) -> String {
    let choice = &report.choice;
    let scope = match choice.scope {
        Scope::Host => "whole host",
        Scope::OwnProcesses => "own processes",
        Scope::Nothing => "",
    };
    let frames = if choice.kernel_frames { "user and kernel frames" } else { "user frames" };
    match choice.engine {
        Engine::None if report.usable => choice.reason.clone(),
        Engine::None => format!("no engine: {}", choice.reason),
        engine => format!("{}: {scope}, {frames}; {}", engine.name(), choice.reason),
    }
}

fn missing(title: &str, list: &[&Missing], out: &mut dyn Write) -> io::Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{title}")?;
    for missing in list {
        let mark = if missing.needed { mark(false) } else { "-" };
        wrapped(&format!("  {mark} "), &missing.what, out)?;
        wrapped("      cost    ", &missing.cost, out)?;
        wrapped("      remedy  ", &missing.remedy, out)?;
    }
    Ok(())
}

fn mark(good: bool) -> &'static str {
    if good { "✓" } else { "✗" }
}
