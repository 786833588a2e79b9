//! Finding before asking: of the processes that may be meant, the only one is taken, and several
//! are listed with what tells them apart.

use std::{
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use super::process::{Proc, ProcError, ProcessInfo, printable};

/// More of a list than anybody reads.
const MAX_LISTED: usize = 20;
/// Characters of a command line that are shown.
const MAX_COMMAND: usize = 120;

/// A process that was found without being named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picked {
    /// The process.
    pub process: ProcessInfo,
    /// What is to be said, a clause: which one it is.
    pub remark: String,
}

/// Why no process was picked.
#[derive(Debug, thiserror::Error)]
pub enum PickError {
    /// None fits.
    #[error("there is no {0} on this host that could be recorded; name one by --pid")]
    None(String),
    /// Several fit: wrong usage, unlike the others.
    #[error("there are {count} processes that may be meant; name one of them by --pid:\n{list}")]
    Several {
        /// How many.
        count: usize,
        /// A line for each, the latest first.
        list: String,
    },
    /// The only one cannot be read.
    #[error(transparent)]
    Proc(#[from] ProcError),
}

/// Picks the only one of these processes. `what` says what is looked for: `Python process`.
///
/// # Errors
/// None, several, or one that cannot be read.
pub fn one(proc: &Proc, candidates: &[u32], what: &str) -> Result<Picked, PickError> {
    match candidates {
        [] => Err(PickError::None(what.to_owned())),
        [pid] => {
            let process = proc.target(*pid)?;
            let remark = format!("the only {what} is recorded: {}", describe(proc, &process));
            Ok(Picked { process, remark })
        }
        _ => several(proc, candidates, what),
    }
}

/// One line about a process: `12 (nginx: master process)`.
#[must_use]
pub fn describe(proc: &Proc, process: &ProcessInfo) -> String {
    format!("{} ({})", process.pid, command(proc, process))
}

fn several(proc: &Proc, candidates: &[u32], what: &str) -> Result<Picked, PickError> {
    // What has ended meanwhile needs no choice.
    let found = candidates.iter().filter_map(|pid| proc.target(*pid).ok());
    let mut found: Vec<ProcessInfo> = found.collect();
    if let [only] = &found[..] {
        return one(proc, &[only.pid], what);
    }
    if found.is_empty() {
        return Err(PickError::None(what.to_owned()));
    }
    found.sort_by_key(|process| std::cmp::Reverse((process.start_time, process.pid)));
    let mut list = String::new();
    for process in found.iter().take(MAX_LISTED) {
        let (since, command) = (since(proc, process), command(proc, process));
        let _ = writeln!(list, "  {:>7}  since {since}  {command}", process.pid);
    }
    if found.len() > MAX_LISTED {
        let _ = writeln!(list, "  and {} more", found.len() - MAX_LISTED);
    }
    Err(PickError::Several { count: found.len(), list: list.trim_end().to_owned() })
}

/// The command line, short and fit to print; a kernel thread's name.
fn command(proc: &Proc, process: &ProcessInfo) -> String {
    let words = proc.command_line(process.pid).unwrap_or_default();
    let text = if words.is_empty() { process.comm.clone() } else { words.join(&b' ') };
    shorten(&printable(&text))
}

/// The beginning and the end of a long text: a path tells more by its last parts.
fn shorten(text: &str) -> String {
    let length = text.chars().count();
    if length <= MAX_COMMAND {
        return text.to_owned();
    }
    let begin = MAX_COMMAND / 2;
    let end = MAX_COMMAND - begin - 1;
    text.chars().take(begin).chain(['…']).chain(text.chars().skip(length - end)).collect()
}

/// When a process began, and how long that is ago.
fn since(proc: &Proc, process: &ProcessInfo) -> String {
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let Ok(boot) = proc.boot_time() else { return "an unknown time".to_owned() };
    let began = boot.saturating_add(process.start_time / ticks);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    format!("{} ({} ago)", utc(began), rough(now.saturating_sub(began)))
}

/// Seconds since 1970 as `2026-05-04 03:02:01 UTC`: the civil calendar counted in eras of 400 years
/// that begin on a first of March.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC", era * 400 + year)
}

/// A time in its largest unit.
fn rough(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn process(root: &Path, pid: u32, start: u64, command: &str) {
        let folder = root.join(pid.to_string());
        fs::create_dir_all(&folder).unwrap();
        let stat = format!("{pid} (x) S 1 1 1 0 -1 0 0 0 0 0 1 2 0 0 20 0 1 0 {start} 0\n");
        fs::write(folder.join("stat"), stat).unwrap();
        fs::write(folder.join("status"), format!("Tgid:\t{pid}\nUid:\t0\t0\t0\t0\n")).unwrap();
        fs::write(folder.join("cmdline"), command).unwrap();
    }

    #[test]
    fn only_one_needs_no_choice() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("stat"), "cpu 1 2\nbtime 1000000000\n").unwrap();
        process(dir.path(), 12, 4200, "python3\0app\x1b[2J.py\0");
        process(dir.path(), 13, 8400, &format!("gunicorn: {}\0\0\0", "w".repeat(200)));
        let proc = Proc::at(dir.path().to_owned());
        let one = |pids: &[u32]| one(&proc, pids, "Python process");
        let picked = one(&[12]).unwrap();
        assert_eq!(picked.process.pid, 12);
        let said = "the only Python process is recorded: 12 (python3 app\u{fffd}[2J.py)";
        assert_eq!(picked.remark, said);
        // The third has ended.
        assert_eq!(one(&[12, 14]).unwrap(), picked);
        assert!(one(&[]).unwrap_err().to_string().contains("no Python process"));
        assert!(matches!(one(&[14]), Err(PickError::Proc(_))));
        let several = one(&[12, 13, 14]).unwrap_err().to_string();
        let lines: Vec<&str> = several.lines().collect();
        assert_eq!(lines.len(), 3, "{several}");
        assert!(lines[0].contains("2 processes") && lines[0].contains("--pid"), "{several}");
        assert!(lines[1].starts_with("       13  since 2001-09-09 01:48:04 UTC ("), "{several}");
        assert!(lines[1].contains("w…w") && lines[1].len() < 200, "{several}");
        assert!(lines[2].contains(" 12 ") && lines[2].contains("python3 app"), "{several}");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_709_164_800, "2024-02-29 00:00:00"),
            (1_735_689_599, "2024-12-31 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(utc(seconds), format!("{text} UTC"));
        }
        let times = [5, 119, 120, 7_199, 7_200, 200_000].map(rough);
        assert_eq!(times, ["5 s", "119 s", "2 min", "119 min", "2 h", "2 days"]);
    }
}
