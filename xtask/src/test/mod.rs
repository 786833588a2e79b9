//! The one test command: everything that must hold before a change is merged, as named steps.
//!
//! The first step that fails ends the run. What a machine lacks is a failure in continuous
//! integration (`CI` set) and a named skip elsewhere.

mod npm;
mod packages;
mod steps;
pub mod wheels;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How a step ended, apart from failure.
pub enum Outcome {
    /// Everything was checked.
    Passed,
    /// Something was not, and why.
    Skipped(String),
}

/// A step of the run.
pub struct Step {
    /// What `--only` calls it.
    pub name: &'static str,
    /// What it checks.
    pub about: &'static str,
    /// Runs it.
    pub run: fn() -> Result<Outcome>,
}

/// Prints the steps.
pub fn list() {
    for Step { name, about, .. } in steps::STEPS {
        println!("{name:<12} {about}");
    }
}

/// Runs the steps with these names, or all, in their own order.
pub fn run(only: &[String]) -> Result<()> {
    for name in only {
        if !steps::STEPS.iter().any(|step| step.name == name) {
            bail!("there is no step `{name}`; `cargo xtask test --list` shows them");
        }
    }
    let begin = Instant::now();
    let mut summary = Vec::new();
    for step in steps::STEPS {
        if !only.is_empty() && !only.iter().any(|name| name == step.name) {
            continue;
        }
        println!("\n=== {}: {}", step.name, step.about);
        let start = Instant::now();
        let outcome = (step.run)().with_context(|| {
            format!("step `{}` failed after {}", step.name, seconds(start.elapsed()))
        })?;
        let result = match outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::Skipped(reason) if in_ci() => {
                bail!("step `{}` skips something, and CI may not: {reason}", step.name);
            }
            Outcome::Skipped(reason) => format!("SKIPPED: {reason}"),
        };
        let line = format!("{:<12} {:>8}  {result}", step.name, seconds(start.elapsed()));
        println!("--- {line}");
        summary.push(line);
    }
    println!("\n=== all steps, {}", seconds(begin.elapsed()));
    for line in summary {
        println!("{line}");
    }
    Ok(())
}

/// Whether this is continuous integration, where nothing may be skipped.
fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_step_is_refused_before_anything_runs() {
        let error = run(&["fmt".to_owned(), "fnt".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("`fnt`"));
    }

    #[test]
    fn step_names_are_distinct() {
        let mut names: Vec<_> = steps::STEPS.iter().map(|step| step.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), steps::STEPS.len());
    }
}
