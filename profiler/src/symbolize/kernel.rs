//! Kernel function names from `/proc/kallsyms`.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

/// The list is some 15 MB on large kernels; beyond this it is no kernel's.
const MAX_BYTES: u64 = 256 << 20;

/// A kernel function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The kernel module it belongs to; None for the kernel itself.
    pub module: Option<String>,
}

/// The function at each address (ascending); all None when the kernel hides its addresses.
///
/// # Errors
///
/// When the list cannot be read.
pub fn names(proc_root: &Path, addresses: &[u64]) -> io::Result<Vec<Option<Function>>> {
    if addresses.is_empty() {
        return Ok(Vec::new());
    }
    let list = File::open(proc_root.join("kallsyms"))?;
    resolve(BufReader::with_capacity(1 << 16, list.take(MAX_BYTES)), addresses)
}

/// The symbol at or before each address. Only the nearest ones are kept while the list passes.
fn resolve(mut list: impl BufRead, addresses: &[u64]) -> io::Result<Vec<Option<Function>>> {
    let mut nearest: Vec<Option<(u64, Function)>> = vec![None; addresses.len()];
    let mut line = Vec::new();
    while list.read_until(b'\n', &mut line)? > 0 {
        if let Some((start, rest)) = start_of(&line) {
            let slot = addresses.partition_point(|address| *address < start);
            if let Some(slot) = nearest.get_mut(slot)
                && slot.as_ref().is_none_or(|(known, _)| *known < start)
                && let Some(function) = function(rest)
            {
                *slot = Some((start, function));
            }
        }
        line.clear();
    }
    let mut latest: Option<(u64, Function)> = None;
    let functions = nearest.into_iter().map(|found| {
        latest = found.or_else(|| latest.take());
        latest.as_ref().map(|(_, function)| function.clone())
    });
    Ok(functions.collect())
}

/// The address at the head of a line, when it is not hidden, and what follows it.
fn start_of(line: &[u8]) -> Option<(u64, &[u8])> {
    let end = line.iter().position(|byte| *byte == b' ')?;
    let (digits, rest) = line.split_at(end);
    let mut start: u64 = 0;
    for digit in digits {
        let digit = char::from(*digit).to_digit(16)?;
        start = start.checked_mul(16)? + u64::from(digit);
    }
    (start != 0).then_some((start, rest))
}

/// ` t name\t[module]`, when it is code or may be.
fn function(rest: &[u8]) -> Option<Function> {
    let rest = std::str::from_utf8(rest).ok()?;
    let mut words = rest.split_ascii_whitespace();
    let kind = words.next()?;
    // Text, weak and (per-CPU and linker made) absolute symbols; not data.
    if !matches!(kind, "t" | "T" | "w" | "W") {
        return None;
    }
    let name = words.next()?.to_owned();
    let module = words.next().map(|module| module.trim_matches(['[', ']']).to_owned());
    Some(Function { name, module })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
0000000000000000 A fixed_percpu_data
ffffffff81000200 T second
ffffffff81000100 T first
ffffffff81000180 D data
ffffffff81000100 t first_alias
zz T broken
ffffffffc0000000 t fuse_init\t[fuse]
ffffffffffffffffffff T too_long
";

    fn names(addresses: &[u64]) -> Vec<Option<String>> {
        let found = resolve(LIST.as_bytes(), addresses).unwrap();
        found.into_iter().map(|function| function.map(|f| f.name)).collect()
    }

    #[test]
    fn the_nearest_function_before_an_address_names_it() {
        let found = names(&[
            0xffff_ffff_8100_00ff,
            0xffff_ffff_8100_0100,
            0xffff_ffff_8100_01ff,
            0xffff_ffff_8100_0200,
            0xffff_ffff_9000_0000,
            0xffff_ffff_c000_0004,
        ]);
        let expected =
            [None, Some("first"), Some("first"), Some("second"), Some("second"), Some("fuse_init")];
        assert_eq!(found, expected.map(|name| name.map(str::to_owned)));
    }

    #[test]
    fn a_module_is_told() {
        let found = resolve(LIST.as_bytes(), &[0xffff_ffff_c000_0004]).unwrap();
        let module = found.into_iter().flatten().next().unwrap().module;
        assert_eq!(module.as_deref(), Some("fuse"));
    }

    #[test]
    fn hidden_addresses_name_nothing() {
        let hidden = "0000000000000000 T first\n0000000000000000 T second\n";
        assert_eq!(resolve(hidden.as_bytes(), &[1, 0xffff_ffff_8100_0100]).unwrap(), [None, None]);
    }
}
