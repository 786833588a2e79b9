//! Go's own table, against the `.debug_frame` that its linker writes into the same program.

use std::{fs, process::Command};

use profiler_ebpf::wire::{Rule, cfa, saved};

use super::{check_shape, rule_at};
use crate::unwind::{UnwindRows, cfi, compile, elf, rule::Rules};

const PROGRAM: &str = "package main\nimport \"fmt\"\nfunc main() { fmt.Println(\"x\") }\n";

/// Builds a program; None: there is no Go here.
fn build(flags: &[&str]) -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("main.go"), PROGRAM).unwrap();
    fs::write(folder.path().join("go.mod"), "module example\n").unwrap();
    let mut command = Command::new("go");
    command.current_dir(folder.path()).args(["build", "-o", "program"]).args(flags);
    let Ok(output) = command.arg(".").output() else {
        assert!(std::env::var_os("CI").is_none(), "go is needed");
        println!("skipped: there is no go");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(fs::read(folder.path().join("program")).unwrap())
}

fn address_of(elf: &[u8], name: &str) -> u64 {
    use object::{Object, ObjectSymbol};
    let file = object::File::parse(elf).unwrap();
    file.symbols().find(|symbol| symbol.name() == Ok(name)).unwrap().address()
}

/// Compares the compiled rows with those of `.debug_frame` alone.
fn compare(program: &[u8]) {
    let compiled = compile(program).unwrap();
    check_shape(&compiled);
    let file = elf::File::parse(program).unwrap();
    let mut rules = Rules::default();
    let mut skipped = 0;
    let section = file.debug_frame().unwrap();
    let rows = cfi::debug_frame(&section, &file, &[], &mut rules, &mut skipped).unwrap();
    let text = compiled.text.clone();
    let other = UnwindRows { text, rules: rules.list, rows, skipped };
    let (mut same, mut saved_bp) = (0, 0);
    for row in compiled.rows.iter().filter(|row| row.rule() != 0) {
        let (ours, theirs) = (rule_at(&compiled, row.address()), rule_at(&other, row.address()));
        if ours.cfa != cfa::SP || theirs == Rule::NONE {
            continue;
        }
        let offsets = (ours.cfa, ours.cfa_offset, ours.ra, ours.ra_offset);
        let expected = (theirs.cfa, theirs.cfa_offset, theirs.ra, theirs.ra_offset);
        assert_eq!(offsets, expected, "at {:#x}", row.address());
        same += 1;
        saved_bp += u32::from(ours.fp == saved::AT_CFA && ours.fp_offset == -16);
    }
    assert!(same > 5000, "{same} rows compared");
    assert!(saved_bp * 3 > same, "{saved_bp} of {same} rows know the frame pointer");
    for (name, expected) in [
        ("runtime.goexit.abi0", cfa::END),
        ("runtime.mstart.abi0", cfa::END),
        ("runtime.rt0_go.abi0", cfa::END),
        ("runtime.sigreturn__sigaction.abi0", cfa::SIGNAL),
        ("main.main", cfa::SP),
    ] {
        let rule = rule_at(&compiled, address_of(program, name));
        assert_eq!(rule.cfa, expected, "{name}: {rule:?}");
    }
    let switch = address_of(program, "runtime.systemstack.abi0");
    assert_eq!(rule_at(&compiled, switch + 1).cfa, cfa::SP);
    assert_eq!(rule_at(&compiled, switch + 0x20).cfa, cfa::BP_SWITCH);
}

#[test]
fn tables_of_a_go_program_agree() {
    let Some(program) = build(&[]) else { return };
    compare(&program);
    // Without build IDs: these lie in the segment of the text, differ, and now and then look like code.
    let Some(program) = build(&["-ldflags=-buildid="]) else { return };
    let Some(stripped) = build(&["-ldflags=-buildid= -s -w"]) else { return };
    let (whole, stripped) = (compile(&program).unwrap(), compile(&stripped).unwrap());
    assert_eq!(whole.rows.len(), stripped.rows.len(), "stripping loses no rows");
}

#[test]
fn tables_of_a_position_independent_go_program_agree() {
    let Some(program) = build(&["-buildmode=pie"]) else { return };
    compare(&program);
}

/// Here C code comes before the Go text, so that `.text` does not begin with it.
#[test]
fn tables_of_an_externally_linked_go_program_agree() {
    if Command::new("gcc").arg("--version").output().is_err() {
        println!("skipped: there is no gcc");
        return;
    }
    let flags = ["-buildmode=pie", "-ldflags=-linkmode=external"];
    let Some(program) = build(&flags) else { return };
    compare(&program);
}

#[test]
fn damaged_tables_of_a_go_program_are_survived() {
    use object::{Object, ObjectSection};
    let Some(program) = build(&["-ldflags=-s -w"]) else { return };
    let file = object::File::parse(&*program).unwrap();
    let (at, len) = file.section_by_name(".gopclntab").unwrap().file_range().unwrap();
    let (at, len) = (at as usize, len as usize);
    let mut state = 0x9876_5432_1234_5679u64;
    let mut random = |limit: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    for round in 0..300 {
        let mut damaged = program.clone();
        // The header, the start of the tables, or all of them.
        let reach = [72, 72, 4096, len][round % 4];
        for _ in 0..=random(6) {
            damaged[at + random(reach)] = [0, 0xff, 0x80, 1, random(256) as u8][random(5)];
        }
        if let Ok(compiled) = compile(&damaged) {
            check_shape(&compiled);
        }
    }
}
