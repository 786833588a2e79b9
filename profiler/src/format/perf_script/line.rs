//! The lines of `perf script`'s text, one by one: what begins a sample, and what is a frame.

/// The first line of a sample: `COMM PID/TID [CPU] TIME: PERIOD EVENT: …`. perf leaves out what it
/// was not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The thread's name at that moment.
    pub comm: &'a str,
    /// The process; none: only the thread is told.
    pub pid: Option<i64>,
    /// The thread, or the process where nothing tells which.
    pub tid: i64,
    /// In nanoseconds.
    pub time: Option<u64>,
    /// What was sampled, without its modifiers: `cpu-clock`.
    pub event: Option<&'a str>,
    /// What follows the event: the only frame, or a tracepoint's own fields.
    pub rest: &'a str,
}

/// What a line tells that begins like a sample and is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// So many samples the kernel had no room for.
    Lost(u64),
    /// A thread has this name.
    Named {
        /// The name.
        name: &'a str,
        /// Its process.
        pid: i64,
        /// The thread.
        tid: i64,
        /// Because it runs another program.
        exec: bool,
    },
    /// A thread was made.
    Made {
        /// Its process.
        pid: i64,
        /// The thread.
        tid: i64,
        /// The thread that made it.
        parent: i64,
    },
    /// A thread ended.
    Ended {
        /// Its process.
        pid: i64,
        /// The thread.
        tid: i64,
    },
    /// The thread that the line begins with got a CPU, or left it.
    Switched(Switch),
    /// Something else.
    Other,
}

/// What a thread does with a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// It gets one.
    In,
    /// It leaves it, as it waits.
    Out,
    /// It leaves it and could go on.
    Preempted,
}

/// A line of a stack: `ADDRESS SYMBOL+0xOFFSET (MODULE)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The address.
    pub address: u64,
    /// The function; empty or `[unknown]`: perf does not know it.
    pub symbol: &'a str,
    /// The file, or `[kernel.kallsyms]`, `[unknown]` and their like, or `inlined`.
    pub module: &'a str,
}

impl<'a> Head<'a> {
    /// Reads a line; none: it begins no sample.
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        if line.starts_with(['\t', '#']) {
            return None;
        }
        // A name may hold blanks and digits: it ends before the ids that something else follows.
        let mut words = Words::new(line);
        let mut comm = words.next()?;
        loop {
            let (at, word) = (words.at, words.next()?);
            let rest = words.rest();
            if let Some((pid, tid)) = ids(word)
                && (rest.is_empty() || follows_ids(rest))
            {
                comm = line[..at].trim();
                return Some(Self { comm, pid, tid, ..Self::after_ids(rest) });
            }
            if comm.len() > MAX_NAME {
                return None;
            }
            comm = &line[..words.at];
        }
    }

    /// What the line tells that is no sample (`perf script --show-lost-events`,
    /// `--show-task-events`, `--show-switch-events`); none: it is one.
    #[must_use]
    pub fn record(&self) -> Option<Record<'a>> {
        let (kind, rest) = match self.event {
            Some(event) => (event, self.rest),
            None => self.rest.split_once(' ').unwrap_or((self.rest, "")),
        };
        let kind = kind.strip_prefix(RECORD)?;
        let lost = |rest: &str| rest.strip_prefix("lost ")?.trim().parse().ok();
        let named = |rest: &'a str| {
            let (rest, exec) = match rest.strip_prefix("exec: ") {
                Some(rest) => (rest, true),
                None => (rest, false),
            };
            let (name, word) = rest.rsplit_once(':')?;
            let (pid, tid) = ids(word)?;
            Some(Record::Named { name, pid: pid?, tid, exec })
        };
        let record = if kind.starts_with("LOST") {
            lost(rest).map(Record::Lost)
        } else if kind == "COMM" {
            named(rest)
        } else if kind.starts_with("SWITCH") {
            switch(rest).map(Record::Switched)
        } else if let Some(pairs) = kind.strip_prefix("FORK") {
            pairs_of(pairs).map(|((pid, tid), (_, parent))| Record::Made { pid, tid, parent })
        } else if let Some(pairs) = kind.strip_prefix("EXIT") {
            pairs_of(pairs).map(|((pid, tid), _)| Record::Ended { pid, tid })
        } else {
            None
        };
        Some(record.unwrap_or(Record::Other))
    }

    fn after_ids(mut rest: &'a str) -> Self {
        let mut head = Self { comm: "", pid: None, tid: 0, time: None, event: None, rest: "" };
        let mut words = Words::new(rest);
        while let Some(word) = words.next() {
            let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
            if let Some(time) = time(word) {
                head.time = Some(time);
            } else if let Some(event) = word.strip_suffix(':') {
                head.event = Some(event_name(event));
                head.rest = words.rest();
                return head;
            } else if !(is_number || is_cpu(word)) {
                // Without an event: the only frame.
                break;
            }
            rest = words.rest();
        }
        head.rest = rest;
        head
    }
}

impl<'a> Line<'a> {
    /// Reads a line, with or without the blanks before it; none: it is no frame.
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        let line = line.trim();
        let (digits, rest) = line.split_once(' ').unwrap_or((line, ""));
        if digits.len() > 16 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let address = u64::from_str_radix(digits, 16).ok()?;
        let (symbol, module) = parts(rest.trim());
        Some(Self { address, symbol: without_offset(symbol), module })
    }

    /// Whether perf knows no function there.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self.symbol, "" | "[unknown]")
    }

    /// Whether the address lies in nothing that was mapped.
    #[must_use]
    pub fn is_unmapped(&self) -> bool {
        self.module == "[unknown]" && self.is_unknown()
    }

    /// Whether the kernel runs there.
    #[must_use]
    pub fn in_kernel(&self) -> bool {
        const UPPER_HALF: u64 = 1 << 63;
        // What perf writes where it cannot walk on, as the copy of the stack ended, or for want of
        // tables.
        const NOWHERE: u64 = u64::MAX;
        const OF_USERS: [&str; 7] =
            ["[vdso]", "[vdso32]", "[vsyscall]", "[unknown]", "[heap]", "[stack]", "[anon]"];
        let file = [".ko", ".ko.xz", ".ko.gz", ".ko.zst"];
        let bracketed = self.module.starts_with('[') && !OF_USERS.contains(&self.module);
        let upper = (UPPER_HALF..NOWHERE).contains(&self.address) && self.module != "[vsyscall]";
        let name = self.module.rsplit('/').next().unwrap_or_default();
        let image = name.starts_with("vmlinux") || file.iter().any(|end| name.ends_with(end));
        bracketed || upper || image
    }

    /// Whether the call was inlined.
    #[must_use]
    pub fn is_inlined(&self) -> bool {
        self.module == "inlined"
    }
}

/// How perf calls what is no sample.
const RECORD: &str = "PERF_RECORD_";
/// No thread's name is longer, in bytes: 15, and what perf writes for kernel threads.
const MAX_NAME: usize = 256;

/// Words parted by blanks, and where they are.
struct Words<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        self.text[self.at..].trim_start()
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let start = self.text.len() - rest.len();
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        self.at = start + end;
        (end > 0).then(|| &self.text[start..self.at])
    }
}

/// `PID/TID` or `TID`; -1 is a thread that perf does not know.
fn ids(word: &str) -> Option<(Option<i64>, i64)> {
    let number = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse().ok()).flatten()
    };
    match word.split_once('/') {
        Some((pid, tid)) => Some((Some(number(pid)?), number(tid)?)),
        None => Some((None, number(word)?)),
    }
}

/// `OUT preempt  next pid/tid: …`.
fn switch(text: &str) -> Option<Switch> {
    let mut words = text.split_whitespace();
    match (words.next()?, words.next()) {
        ("IN", _) => Some(Switch::In),
        ("OUT", Some("preempt")) => Some(Switch::Preempted),
        ("OUT", _) => Some(Switch::Out),
        _ => None,
    }
}

/// `(PID:TID):(PID:TID)`: a thread and its parent.
fn pairs_of(text: &str) -> Option<((i64, i64), (i64, i64))> {
    let pair = |text: &str| {
        let (pid, tid) = text.split_once(':')?;
        Some((pid.parse().ok()?, tid.parse().ok()?))
    };
    let (one, other) = text.strip_prefix('(')?.strip_suffix(')')?.split_once("):(")?;
    Some((pair(one)?, pair(other)?))
}

/// Whether text begins with what perf writes behind the ids.
fn follows_ids(rest: &str) -> bool {
    let mut words = Words::new(rest);
    let Some(first) = words.next() else { return true };
    let counts = first.bytes().all(|byte| byte.is_ascii_digit());
    is_cpu(first)
        || time(first).is_some()
        || (counts && words.next().is_some_and(|word| word.ends_with(':')))
        || (first.ends_with(':') && first.len() > 1 && words.next().is_none())
        || first.starts_with(RECORD)
}

/// `[003]`.
fn is_cpu(word: &str) -> bool {
    let digits = word.strip_prefix('[').and_then(|word| word.strip_suffix(']'));
    digits.is_some_and(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `SECONDS.FRACTION:` in nanoseconds.
fn time(word: &str) -> Option<u64> {
    let (seconds, fraction) = word.strip_suffix(':')?.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) {
        return None;
    }
    let fraction: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    seconds.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(fraction.parse().ok()?)
}

/// `cycles:ppp` without the modifiers; `sched:sched_switch` as it is.
fn event_name(event: &str) -> &str {
    match event.rsplit_once(':') {
        Some((name, modifiers))
            if !name.is_empty()
                && modifiers.bytes().all(|byte| b"ukhIGHpPSDeW".contains(&byte)) =>
        {
            name
        }
        _ => event,
    }
}

/// The symbol and the module of a frame. Both may hold blanks and parentheses.
fn parts(text: &str) -> (&str, &str) {
    let Some(open) = text.strip_suffix(')') else { return (text, "") };
    let whole = open.strip_suffix(" (deleted)").unwrap_or(open);
    match whole.rfind('(') {
        Some(at) if at == 0 || text.as_bytes()[at - 1] == b' ' => {
            (text[..at].trim_end(), &open[at + 1..])
        }
        _ => (text, ""),
    }
}

fn without_offset(symbol: &str) -> &str {
    match symbol.rsplit_once("+0x") {
        Some((name, digits))
            if !name.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
        {
            name
        }
        _ => symbol,
    }
}
