//! jitdump: the binary files `jit-PID.dump` in which runtimes record the code they make.
//!
//! Format (Linux, `tools/perf/Documentation/jitdump-specification.txt`): a header, then records of
//! id, total size and time. Code itself, debug information and unwinding data are skipped.

use std::{
    collections::HashMap,
    io::{self, BufRead, Read},
};

/// `JiTD` as a number in the writer's byte order.
const MAGIC: u32 = 0x4a69_5444;
const HEADER: u32 = 40;
/// Flag of the header: times are counts of the processor's own clock.
const ARCH_TIMESTAMP: u64 = 1;
const PREFIX: u32 = 16;

const LOAD: u32 = 0;
const MOVE: u32 = 1;
const CLOSE: u32 = 3;

/// Longer names are cut.
const MAX_NAME: u64 = 4096;
/// Names kept together take no more than this; further code is left out.
const MAX_NAMES: usize = 64 << 20;

/// A piece of code at the place where it was written or moved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// Where it begins, in the process's own addresses.
    pub start: u64,
    /// Its size in bytes.
    pub size: u64,
    /// When, on the writer's clock.
    pub time: u64,
    /// Its name as the runtime wrote it.
    pub name: Vec<u8>,
}

/// What a dump holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    /// All code, in the order of its time.
    pub code: Vec<Code>,
    /// Whether times are nanoseconds of `CLOCK_MONOTONIC`; else they tell no more than the order.
    pub monotonic: bool,
}

/// Reads a dump. One that ends in the middle of a record, as
/// that of a running process may, counts up to there.
///
/// # Errors
///
/// When it cannot be read, or is no jitdump in our byte order.
pub fn read(mut dump: impl BufRead) -> io::Result<Dump> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if u32_from(&mut dump)? != MAGIC {
        return Err(invalid("not a jitdump file"));
    }
    let _version = u32_from(&mut dump)?;
    let header = u32_from(&mut dump)?;
    let more = header.checked_sub(HEADER);
    let more = more.ok_or_else(|| invalid("the jitdump header is too short"))?;
    // Machine, padding, process and time.
    skip(&mut dump, 4 + 4 + 4 + 8)?;
    let flags = u64_from(&mut dump)?;
    skip(&mut dump, u64::from(more))?;

    let mut code = Vec::new();
    let mut by_index = HashMap::new();
    let mut kept = 0;
    loop {
        match record(&mut dump, &mut code, &mut by_index, &mut kept) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    code.sort_by_key(|code| code.time);
    Ok(Dump { code, monotonic: flags & ARCH_TIMESTAMP == 0 })
}

/// Reads one record; false when it was the last.
fn record(
    dump: &mut impl BufRead,
    code: &mut Vec<Code>,
    by_index: &mut HashMap<u64, usize>,
    kept: &mut usize,
) -> io::Result<bool> {
    let id = u32_from(dump)?;
    let size = u32_from(dump)?;
    let time = u64_from(dump)?;
    let Some(rest) = size.checked_sub(PREFIX) else { return Ok(false) };
    let mut body = dump.take(u64::from(rest));
    let found = match id {
        LOAD => load(&mut body, time)?,
        MOVE => moved(&mut body, time, code, by_index)?,
        CLOSE => return Ok(false),
        _ => None,
    };
    let left = body.limit();
    skip(dump, left)?;
    if let Some((index, found)) = found {
        *kept += found.name.len() + size_of::<Code>();
        if *kept > MAX_NAMES {
            return Ok(false);
        }
        by_index.insert(index, code.len());
        code.push(found);
    }
    Ok(true)
}

/// The code that a record loads, with its index.
fn load(body: &mut io::Take<impl BufRead>, time: u64) -> io::Result<Option<(u64, Code)>> {
    skip(body, 8)?;
    let _vma = u64_from(body)?;
    let start = u64_from(body)?;
    let size = u64_from(body)?;
    let index = u64_from(body)?;
    let mut name = Vec::new();
    body.take(MAX_NAME).read_until(0, &mut name)?;
    name.pop_if(|last| *last == 0);
    Ok(usable(start, size, &name).then_some((index, Code { start, size, time, name })))
}

/// The code that a record moves, at its new place.
fn moved(
    body: &mut io::Take<impl BufRead>,
    time: u64,
    code: &[Code],
    by_index: &HashMap<u64, usize>,
) -> io::Result<Option<(u64, Code)>> {
    skip(body, 8 + 8 + 8)?;
    let start = u64_from(body)?;
    let size = u64_from(body)?;
    let index = u64_from(body)?;
    let Some(old) = by_index.get(&index).and_then(|at| code.get(*at)) else { return Ok(None) };
    let name = old.name.clone();
    Ok(usable(start, size, &name).then_some((index, Code { start, size, time, name })))
}

fn usable(start: u64, size: u64, name: &[u8]) -> bool {
    size > 0 && !name.is_empty() && start.checked_add(size).is_some()
}

fn u32_from(source: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    source.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn u64_from(source: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    source.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn skip(source: &mut impl Read, bytes: u64) -> io::Result<()> {
    let skipped = io::copy(&mut source.take(bytes), &mut io::sink())?;
    if skipped < bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Vec<u8> {
        let mut dump = Vec::new();
        for word in [MAGIC, 1, HEADER, 62, 0, 42] {
            dump.extend(word.to_le_bytes());
        }
        dump.extend([0; 16]);
        dump
    }

    fn put(dump: &mut Vec<u8>, id: u32, time: u64, body: &[u8]) {
        dump.extend(id.to_le_bytes());
        dump.extend((PREFIX + u32::try_from(body.len()).unwrap()).to_le_bytes());
        dump.extend(time.to_le_bytes());
        dump.extend(body);
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn put_load(dump: &mut Vec<u8>, time: u64, start: u64, size: u64, index: u64, name: &str) {
        let mut body = words(&[0, start, start, size, index]);
        body.extend(name.as_bytes());
        body.push(0);
        body.extend(vec![0x90; usize::try_from(size).unwrap()]);
        put(dump, LOAD, time, &body);
    }

    /// A dump with these loads: start, size and name.
    pub(crate) fn dump(loads: &[(u64, u64, &str)]) -> Vec<u8> {
        let mut dump = header();
        for (index, (start, size, name)) in (0..).zip(loads) {
            put_load(&mut dump, index, *start, *size, index, name);
        }
        dump
    }

    #[test]
    fn loads_and_moves_are_read_in_the_order_of_time() {
        let mut dump = header();
        put_load(&mut dump, 20, 0x1000, 16, 1, "second");
        put_load(&mut dump, 10, 0x1000, 16, 0, "first");
        put(&mut dump, 2, 25, b"debug information");
        put(&mut dump, MOVE, 30, &words(&[0, 0, 0x1000, 0x2000, 16, 1]));
        put(&mut dump, MOVE, 31, &words(&[0, 0, 0x1000, 0x2000, 16, 99]));
        put(&mut dump, CLOSE, 40, &[]);
        put_load(&mut dump, 50, 0x3000, 16, 2, "after the end");
        let found: Vec<_> = read(&*dump)
            .unwrap()
            .code
            .into_iter()
            .map(|code| (code.time, code.start, String::from_utf8(code.name).unwrap()))
            .collect();
        let expected = [(10, 0x1000, "first"), (20, 0x1000, "second"), (30, 0x2000, "second")];
        assert_eq!(found, expected.map(|(time, start, name)| (time, start, name.to_owned())));
    }

    #[test]
    fn a_dump_counts_up_to_where_it_ends() {
        let whole = dump(&[(0x1000, 64, "one"), (0x2000, 64, "two")]);
        assert_eq!(read(&whole[..whole.len() - 1]).unwrap().code.len(), 1);
        assert!(read(&b"something else that is long enough for a header"[..]).is_err());
        assert!(read(&whole[..10]).is_err());
    }

    #[test]
    fn the_header_tells_whose_clock_it_is() {
        let mut dump = header();
        assert!(read(&*dump).unwrap().monotonic);
        dump[32] = 1;
        assert!(!read(&*dump).unwrap().monotonic);
    }

    proptest! {
        #[test]
        fn any_records_are_read(body: Vec<u8>) {
            let mut dump = header();
            dump.extend(body);
            let _ = read(&*dump);
        }
    }
}
