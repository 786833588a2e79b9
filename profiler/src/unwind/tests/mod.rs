//! Tests of the compiler: real files against gimli's own evaluation, files made by hand, damage.

mod against_gimli;
mod assembly;
mod damaged;
mod go;
mod image;
mod made;
mod own_stack;

use std::path::PathBuf;

use profiler_ebpf::wire::Rule;

use super::{UnwindRows, compile};

/// Files that this process runs from: the test program, libc, the loader.
fn own_files() -> Vec<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut files: Vec<PathBuf> = maps
        .lines()
        .filter(|line| line.contains(" r-xp "))
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .collect();
    files.dedup();
    assert!(files.len() >= 3, "{files:?}");
    files
}

/// The loader, as a small real file.
fn loader() -> Vec<u8> {
    let path = own_files().into_iter().find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux"))
    });
    std::fs::read(path.unwrap()).unwrap()
}

/// The rule that holds at an address.
fn rule_at(compiled: &UnwindRows, address: u64) -> Rule {
    let behind = compiled.rows.partition_point(|row| row.address() <= address);
    let number = behind.checked_sub(1).map_or(0, |at| compiled.rows[at].rule);
    compiled.rules[number as usize]
}

/// What everything that uses the rows relies on.
fn check_shape(compiled: &UnwindRows) {
    assert_eq!(compiled.rules[0], Rule::NONE);
    for (at, text) in compiled.text.iter().enumerate() {
        assert_eq!(text.address % 4096, text.offset % 4096);
        assert!(text.size > 0);
        if let Some(next) = compiled.text.get(at + 1) {
            assert!(text.address + text.size <= next.address);
        }
    }
    let mut before = 0;
    for (at, row) in compiled.rows.iter().enumerate() {
        assert!(at == 0 || compiled.rows[at - 1].address() < row.address(), "row {at}");
        assert_ne!(row.rule(), before, "row {at} at {:#x}", row.address());
        assert!((row.rule() as usize) < compiled.rules.len());
        before = row.rule();
        if row.rule() != 0 {
            let inside = |text: &super::TextRange| {
                (text.address..text.address + text.size).contains(&row.address())
            };
            assert!(
                compiled.text.iter().any(inside),
                "row at {:#x} lies in no text",
                row.address()
            );
        }
    }
    assert_eq!(before, 0, "the last row ends the last rule");
}

/// Prints size and time for the files in `UNWIND_FILES` (separated by colons).
#[test]
#[ignore = "a measurement, not a check"]
fn measure() {
    let files = std::env::var("UNWIND_FILES").unwrap_or_else(|_| "/proc/self/exe".to_owned());
    for file in files.split(':') {
        let bytes = std::fs::read(file).unwrap();
        let begin = std::time::Instant::now();
        let compiled = compile(&bytes).unwrap();
        let took = begin.elapsed();
        let (rows, rules) = (compiled.rows.len(), compiled.rules.len());
        println!("{file}: {rows} rows, {rules} rules, {} skipped, {took:?}", compiled.skipped);
    }
}
