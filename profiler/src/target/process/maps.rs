//! `/proc/PID/maps`, parsed from bytes: hundreds of files with thousands of lines each are read
//! when a recording of a whole host begins.

use std::io::{self, BufRead};

/// Longest line taken: a path of 4,096 bytes, each escaped to four, and the fields before it.
const MAX_LINE: usize = 32 << 10;

/// One mapping of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcMapping {
    /// First address.
    pub start: u64,
    /// The address behind the last.
    pub end: u64,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// The file's device (major, minor). On overlay and btrfs it is not what `stat(2)` gives.
    pub device: (u32, u32),
    /// The file's inode; 0: no file.
    pub inode: u64,
    /// The path in the process's own mount namespace, or `[heap]` and its like; empty: anonymous.
    /// A line break, which the kernel escapes, is one again; ` (deleted)` behind it stays.
    pub path: Vec<u8>,
    /// It may be executed.
    pub executable: bool,
}

/// Calls `each` with every line (without its line break) until that returns false. A line that is
/// longer than any the kernel writes is left out.
pub(super) fn each_line(
    mut reader: impl BufRead,
    mut each: impl FnMut(&[u8]) -> bool,
) -> io::Result<()> {
    let mut carried: Vec<u8> = Vec::new();
    loop {
        let chunk = match reader.fill_buf() {
            Ok([]) => break,
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let taken = chunk.len();
        let mut rest = chunk;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, behind) = (&rest[..end], &rest[end + 1..]);
            let goes_on = if carried.is_empty() {
                line.len() > MAX_LINE || each(line)
            } else {
                carried.extend_from_slice(&line[..line.len().min(MAX_LINE)]);
                let goes_on = carried.len() > MAX_LINE || each(&carried);
                carried.clear();
                goes_on
            };
            if !goes_on {
                return Ok(());
            }
            rest = behind;
        }
        // Beyond the bound nothing is kept but the fact that the line is too long.
        let room = (MAX_LINE + 1).saturating_sub(carried.len());
        carried.extend_from_slice(&rest[..rest.len().min(room)]);
        reader.consume(taken);
    }
    if !carried.is_empty() && carried.len() <= MAX_LINE {
        each(&carried);
    }
    Ok(())
}

/// Parses all lines of a text; those that are not understood are left out.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<ProcMapping> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// Parses `START-END PERMS OFFSET MAJOR:MINOR INODE   PATH`; `None`: not such a line.
#[must_use]
pub fn parse_line(line: &[u8]) -> Option<ProcMapping> {
    let mut rest = line;
    let start = hex(&mut rest, b'-')?;
    let end = hex(&mut rest, b' ')?;
    let permissions = rest.get(..4)?;
    rest = rest.get(4..)?.strip_prefix(b" ")?;
    let offset = hex(&mut rest, b' ')?;
    let major = u32::try_from(hex(&mut rest, b':')?).ok()?;
    let minor = u32::try_from(hex(&mut rest, b' ')?).ok()?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let inode = super::parse::decimal(&rest[..digits])?;
    let path = &rest[digits..];
    if start >= end || !matches!(path.first(), None | Some(b' ')) {
        return None;
    }
    Some(ProcMapping {
        start,
        end,
        offset,
        device: (major, minor),
        inode,
        path: unescape(path.trim_ascii_start()),
        executable: permissions[2] == b'x',
    })
}

/// Takes a number of up to 16 hexadecimal digits and the byte behind it.
fn hex(rest: &mut &[u8], behind: u8) -> Option<u64> {
    let mut value = 0;
    for (index, byte) in rest.iter().enumerate() {
        let digit = match *byte {
            byte if byte == behind && index > 0 => {
                *rest = &rest[index + 1..];
                return Some(value);
            }
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        if index >= 16 {
            return None;
        }
        value = value << 4 | u64::from(digit);
    }
    None
}

/// Undoes `seq_file_path(…, "\n")` of fs/proc/task_mmu.c, which escapes the line break alone. (A
/// name that really holds `\012` reads the same; the kernel does not tell them apart.)
fn unescape(path: &[u8]) -> Vec<u8> {
    const ESCAPED: &[u8] = b"\\012";
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        if let Some(behind) = rest.strip_prefix(ESCAPED) {
            out.push(b'\n');
            rest = behind;
        } else {
            out.push(b'\\');
            rest = &rest[1..];
        }
    }
    out.extend_from_slice(rest);
    out
}
