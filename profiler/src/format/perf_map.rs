//! Perf maps: the text files `/tmp/perf-PID.map` in which runtimes name the code they made.
//!
//! Format (Linux, `tools/perf/Documentation/jit-interface.txt`): a line for each function, `START
//! SIZE name`, both numbers in hexadecimal, the name up to the end of the line. Addresses are
//! reused, so of several lines for one address the last counts.

/// A function that a runtime made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'map> {
    /// Where it begins, in the process's own addresses.
    pub start: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Its name as the runtime wrote it.
    pub name: &'map [u8],
}

/// The entries of a map, last one first. Lines that make no sense are left out.
pub fn latest_first(map: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    map.rsplit(|byte| *byte == b'\n').filter_map(entry)
}

fn entry(line: &[u8]) -> Option<Entry<'_>> {
    let (start, rest) = number(line)?;
    let (size, name) = number(rest)?;
    let name = name.trim_ascii();
    let valid = size > 0 && !name.is_empty() && start.checked_add(size).is_some();
    valid.then_some(Entry { start, size, name })
}

/// A hexadecimal number up to a space, and what follows that.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let end = text.iter().position(|byte| *byte == b' ')?;
    let (digits, rest) = text.split_at(end);
    let digits = std::str::from_utf8(digits.strip_prefix(b"0x").unwrap_or(digits)).ok()?;
    // `from_str_radix` takes a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    Some((u64::from_str_radix(digits, 16).ok()?, rest.get(1..)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn entries_come_last_first_and_garbage_is_left_out() {
        let map = b"7f00 200 JS:*hashLoop /path/busy.js:5:18\n\
                    not a line\n\
                    -1 2 negative\n\
                    0x8000 0x10 with prefix\r\n\
                    9000 0 empty\n\
                    ffffffffffffffff 2 overflows\n\
                    11112222333344445555 1 too long\n\
                    9000 10 \n\
                    9000 10 \xff\xfe";
        let found: Vec<_> = latest_first(map).map(|e| (e.start, e.size, e.name)).collect();
        assert_eq!(
            found,
            [
                (0x9000, 0x10, &b"\xff\xfe"[..]),
                (0x8000, 0x10, b"with prefix"),
                (0x7f00, 0x200, b"JS:*hashLoop /path/busy.js:5:18"),
            ]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(map: Vec<u8>) {
            for entry in latest_first(&map) {
                prop_assert!(entry.size > 0 && !entry.name.is_empty());
            }
        }
    }
}
