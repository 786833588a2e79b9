//! The small files of a process's folder, parsed from bytes. No I/O, no panic on any input.

/// `PF_KTHREAD` of include/linux/sched.h, in the flags of `stat`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// What is used of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub comm: Vec<u8>,
    pub ppid: u32,
    pub start_time: u64,
    pub kernel_thread: bool,
    pub zombie: bool,
    pub runs: bool,
    pub threads: u32,
}

/// Parses `PID (COMM) STATE PPID …`. The name may hold spaces, parentheses and line breaks; what
/// follows holds none, so it ends at the last parenthesis.
pub(super) fn stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let comm = text.get(open + 1..close)?.to_vec();
    let fields: Vec<&[u8]> = words(text.get(close + 1..)?).take(20).collect();
    // Field 3 of proc_pid_stat(5) is the first here.
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        comm,
        zombie: matches!(field(3)?, b"Z" | b"X" | b"x"),
        runs: field(3)? == b"R",
        ppid: decimal(field(4)?)?,
        kernel_thread: decimal::<u64>(field(9)?)? & PF_KTHREAD != 0,
        threads: decimal(field(20)?)?,
        start_time: decimal(field(22)?)?,
    })
}

/// The value of `KEY:` in a file of such lines (`status`).
pub(super) fn status_field<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let lines = text.split(|byte| *byte == b'\n');
    let mut values = lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix(b":"));
    values.next().map(<[u8]>::trim_ascii)
}

/// The value of `KEY:` when it is one number.
pub(super) fn status_number(text: &[u8], key: &[u8]) -> Option<u32> {
    decimal(status_field(text, key)?)
}

/// The words between white space.
pub(super) fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// A number of digits alone: no sign, no space.
pub(super) fn decimal<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
