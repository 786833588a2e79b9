//! Rows by following instructions, against the tables of the same code, and on code made by hand.

use profiler_ebpf::wire::{cfa, saved};
use proptest::prelude::*;

use super::{check_shape, made::Made, own_files, rule_at};
use crate::unwind::{UnwindRows, assembly, compile, elf::File, rule::Rules};

/// What following all code of a file gives, as if it had no tables.
fn followed(elf: &[u8]) -> UnwindRows {
    let file = File::parse(elf).unwrap();
    let mut rules = Rules::default();
    let rows = assembly::find(&file, &[], false, &mut rules).unwrap();
    UnwindRows { text: file.text, rules: rules.list, rows, skipped: 0 }
}

#[test]
fn instructions_say_what_tables_say() {
    let (mut same, mut others) = (0, Vec::new());
    for path in own_files() {
        let elf = std::fs::read(&path).unwrap();
        let (tables, code) = (compile(&elf).unwrap(), followed(&elf));
        check_shape(&code);
        for row in &code.rows {
            let (table, code) = (rule_at(&tables, row.address()), rule_at(&code, row.address()));
            let by_sp = table.cfa == cfa::SP && code.cfa == cfa::SP;
            if !by_sp {
                continue;
            }
            let is_saved = table.fp == saved::AT_CFA && code.fp == saved::AT_CFA;
            if table.cfa_offset == code.cfa_offset
                && (!is_saved || table.fp_offset == code.fp_offset)
            {
                same += 1;
            } else {
                others.push(format!("{} {row:?}: {table:?}, not {code:?}", path.display()));
            }
        }
    }
    let few = &others[..others.len().min(20)];
    assert!(same > 10_000 && others.len() < same / 1000, "{same} to {}: {few:#?}", others.len());
}

proptest! {
    #[test]
    fn any_code_is_survived(code in proptest::collection::vec(instruction(), 1..400)) {
        let mut made = Made::with_text(0);
        made.segments[0].1 = code.concat();
        check_shape(&compile(&made.bytes()).unwrap());
    }
}

/// Instructions that matter for frames, and bytes that may be any.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let known: [&[u8]; 14] = [
        &[0x53],
        &[0x55],
        &[0x5b],
        &[0x5d],
        &[0xc3],
        &[0xc9],
        &[0x48, 0x89, 0xe5],
        &[0x48, 0x89, 0xec],
        &[0x48, 0x83, 0xe4, 0xe0],
        &[0x48, 0x89, 0x44, 0x24, 8],
        &[0x48, 0x8b, 0x64, 0x24, 8],
        &[0x48, 0x81, 0xec, 0, 0, 0, 0x80],
        &[0x48, 0x8d, 0xa4, 0x24, 0xff, 0xff, 0xff, 0x7f],
        &[0xff, 0xe0],
    ];
    let jump = (proptest::sample::select(vec![0x74, 0xeb]), any::<u8>());
    prop_oneof![
        6 => proptest::sample::select(known.to_vec()).prop_map(<[u8]>::to_vec),
        2 => jump.prop_map(|(code, distance)| vec![code, distance]),
        1 => proptest::collection::vec(any::<u8>(), 1..8),
    ]
}
