//! One step of the walker by compiled rows, against gimli evaluating the same table at the same
//! address with the same registers and memory.

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EndianSlice, EvaluationResult, FrameDescriptionEntry,
    LittleEndian, Location, Register, RegisterRule, UnwindContext, UnwindExpression, UnwindSection,
    Value,
};
use object::{Object, ObjectSection};
use profiler_ebpf::{
    walk::Walk,
    wire::{DWARF_BX, FRAME_EXACT, GENERAL_KNOWN, GENERAL_REGISTERS, Outcome, Registers},
};

use super::{check_shape, image::Image, own_files, rule_at};
use crate::unwind::compile;

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// A word of an imaginary memory: always a plausible address of code or stack.
fn memory(address: u64) -> u64 {
    let mut word = address.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((word ^ (word >> 31)) & 0x7fff_ffff_ffff) | 0x1_0000
}

/// Registers of an imaginary thread at an address.
fn registers(ip: u64) -> Registers {
    let mut general = [0; GENERAL_REGISTERS];
    for (number, register) in general.iter_mut().enumerate() {
        *register = memory(ip ^ (number as u64) << 56);
    }
    // As in most programs, the frame pointer lies above the stack pointer.
    general[6] = general[7] + (general[6] & 0xff8);
    let (bp, sp) = (general[6], general[7]);
    let bx = general[DWARF_BX];
    Registers { ip, sp, bp, bx, flags: FRAME_EXACT | GENERAL_KNOWN, general }
}

/// What gimli finds for the caller.
#[derive(Debug, PartialEq)]
enum Caller {
    Outermost,
    At { ip: u64, sp: u64, bp: Option<u64>, bx: Option<u64> },
}

struct Oracle<'a> {
    frames: EhFrame<Bytes<'a>>,
    bases: BaseAddresses,
    functions: Vec<FrameDescriptionEntry<Bytes<'a>>>,
    context: UnwindContext<usize>,
}

impl<'a> Oracle<'a> {
    fn new(elf: &'a [u8]) -> Option<Self> {
        let file = object::File::parse(elf).unwrap();
        let section = file.section_by_name(".eh_frame")?;
        let mut frames = EhFrame::new(section.data().unwrap(), LittleEndian);
        frames.set_address_size(8);
        let bases = BaseAddresses::default().set_eh_frame(section.address());
        let mut functions = Vec::new();
        let mut entries = frames.entries(&bases);
        while let Some(entry) = entries.next().unwrap() {
            if let gimli::CieOrFde::Fde(partial) = entry {
                functions.push(partial.parse(EhFrame::cie_from_offset).unwrap());
            }
        }
        functions.sort_by_key(FrameDescriptionEntry::initial_address);
        Some(Self { frames, bases: bases.clone(), functions, context: UnwindContext::new() })
    }

    /// None: no unwind information there.
    fn caller(&mut self, registers: &Registers) -> Option<Caller> {
        let behind = self.functions.partition_point(|fde| fde.initial_address() <= registers.ip);
        let fde = &self.functions[behind.checked_sub(1)?];
        if !fde.contains(registers.ip) {
            return None;
        }
        let encoding = fde.cie().encoding();
        let row = fde
            .unwind_info_for_address(&self.frames, &self.bases, &mut self.context, registers.ip)
            .unwrap();
        let register = |number: Register| match number.0 {
            16 => registers.ip,
            number => registers.general[usize::from(number)],
        };
        let evaluate = |expression: &UnwindExpression<usize>, initial: Option<u64>| {
            let mut evaluation = expression.get(&self.frames).unwrap().evaluation(encoding);
            if let Some(initial) = initial {
                evaluation.set_initial_value(initial);
            }
            let mut result = evaluation.evaluate().unwrap();
            loop {
                result = match result {
                    EvaluationResult::Complete => break,
                    EvaluationResult::RequiresRegister { register: number, .. } => {
                        evaluation.resume_with_register(Value::Generic(register(number))).unwrap()
                    }
                    EvaluationResult::RequiresMemory { address, size: 8, .. } => {
                        evaluation.resume_with_memory(Value::Generic(memory(address))).unwrap()
                    }
                    other => panic!("{other:?}"),
                };
            }
            match evaluation.result()[0].location {
                Location::Address { address } => address,
                ref other => panic!("{other:?}"),
            }
        };
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register: base, offset } => {
                register(*base).wrapping_add_signed(*offset)
            }
            CfaRule::Expression(expression) => evaluate(expression, None),
        };
        let value = |rule: RegisterRule<usize>, own: u64| match rule {
            RegisterRule::SameValue => Some(own),
            RegisterRule::Offset(offset) => Some(memory(cfa.wrapping_add_signed(offset))),
            RegisterRule::ValOffset(offset) => Some(cfa.wrapping_add_signed(offset)),
            RegisterRule::Register(number) => Some(register(number)),
            RegisterRule::Expression(e) => Some(memory(evaluate(&e, Some(cfa)))),
            RegisterRule::ValExpression(e) => Some(evaluate(&e, Some(cfa))),
            _ => None,
        };
        let ip = match row.register(Register(16)).unwrap() {
            RegisterRule::Undefined => return Some(Caller::Outermost),
            rule => value(rule, registers.ip).unwrap(),
        };
        let bp = row.register(Register(6)).map_or(Some(registers.bp), |r| value(r, registers.bp));
        let sp = row.register(Register(7)).map_or(Some(cfa), |rule| value(rule, registers.sp));
        // Saves of rbx by expression are not followed.
        let bx = match row.register(Register(3)) {
            None => Some(registers.bx),
            Some(rule @ RegisterRule::Offset(_)) => value(rule, registers.bx),
            Some(_) => None,
        };
        Some(Caller::At { ip, sp: sp.unwrap(), bp, bx })
    }
}

/// What the comparison met.
#[derive(Debug, Default)]
struct Tally {
    compared: u64,
    gaps: u64,
    unsupported: u64,
    refused: u64,
    outermost: u64,
}

fn compare(elf: &[u8], samples: u64) -> Option<Tally> {
    let compiled = compile(elf).unwrap();
    check_shape(&compiled);
    let mut oracle = Oracle::new(elf)?;
    assert_eq!(compiled.skipped, 0);
    let mut tally = Tally::default();
    for text in &compiled.text {
        let mut image = Image::new(|address| Some(memory(address)));
        image.map(&compiled, text, 0);
        let end = text.address + text.size;
        let stride = (text.size / samples).max(1) as usize;
        let rows = (compiled.rows.len() as u64 / samples).max(1) as usize;
        let at_rows = compiled.rows.iter().step_by(rows);
        let edges = at_rows.flat_map(|row| [row.address().wrapping_sub(1), row.address()]);
        for address in (text.address..end).step_by(stride).chain(edges) {
            if !(text.address..end).contains(&address) {
                continue;
            }
            let registers = registers(address);
            let Some(expected) = oracle.caller(&registers) else {
                // What is known there comes from elsewhere: start code, stubs, trampolines.
                tally.gaps += 1;
                continue;
            };
            let mut walk = Walk::new(registers, image.mappings());
            let outcome = walk.step(&mut image);
            let context = format!("at {address:#x}: {:?}", rule_at(&compiled, address));
            match outcome {
                Outcome::Walking => {
                    let Registers { ip, sp, bp, bx, .. } = walk.registers;
                    let Caller::At { bp: expected_bp, bx: expected_bx, .. } = expected else {
                        panic!("the oracle found the outermost frame {context}");
                    };
                    let (bp, bx) = (expected_bp.map(|_| bp), expected_bx.map(|_| bx));
                    assert_eq!(Caller::At { ip, sp, bp, bx }, expected, "{context}");
                    tally.compared += 1;
                }
                Outcome::Complete => {
                    assert_eq!(expected, Caller::Outermost, "{context}");
                    tally.outermost += 1;
                }
                Outcome::UnsupportedRule => tally.unsupported += 1,
                Outcome::StackNotAdvancing => {
                    let Caller::At { sp, .. } = expected else { panic!("{context}") };
                    assert!(sp <= registers.sp, "{context}");
                    tally.refused += 1;
                }
                other => panic!("{other:?} {context}"),
            }
        }
    }
    Some(tally)
}

#[test]
fn steps_by_rows_equal_gimlis_evaluation() {
    for path in own_files() {
        let elf = std::fs::read(&path).unwrap();
        let tally = compare(&elf, 30_000).unwrap();
        println!("{}: {tally:?}", path.display());
        assert!(tally.compared > 1000, "{}: {tally:?}", path.display());
        let all = tally.compared + tally.unsupported;
        assert!(tally.unsupported * 100 < all, "{}: {tally:?}", path.display());
    }
}

/// Programs whose tables have what ordinary ones lack, where the machine has them.
#[test]
fn unusual_tables_equal_gimlis_evaluation() {
    let mut found = 0;
    for path in ["/usr/lib/x86_64-linux-gnu/libcrypto.so.3", "/usr/bin/node", "/usr/bin/gdb"] {
        let Ok(elf) = std::fs::read(path) else {
            println!("skipped: there is no {path}");
            continue;
        };
        found += 1;
        println!("{path}: {:?}", compare(&elf, 20_000));
    }
    println!("{found} files compared");
}

/// The image that the kernel maps into each process.
#[test]
fn the_vdso_compiles() {
    use std::os::unix::fs::FileExt;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let Some(line) = maps.lines().find(|line| line.ends_with("[vdso]")) else {
        println!("skipped: this kernel maps no vDSO");
        return;
    };
    let (start, rest) = line.split_once('-').unwrap();
    let start = u64::from_str_radix(start, 16).unwrap();
    let end = u64::from_str_radix(rest.split_once(' ').unwrap().0, 16).unwrap();
    let mut elf = vec![0; (end - start) as usize];
    std::fs::File::open("/proc/self/mem").unwrap().read_exact_at(&mut elf, start).unwrap();
    let tally = compare(&elf, 10_000).unwrap();
    assert!(tally.compared > 100, "{tally:?}");
    assert_eq!(tally.unsupported, 0);
}
