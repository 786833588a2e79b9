//! The stack walker, on tables that contradict each other and any stack.

use profiler_ebpf::{
    walk::{Env, Walk},
    wire::{FRAME_EXACT, Mapping, Outcome, PageRows, ProcessMappings, Registers, Row, Rule},
};

use crate::fuzz;

/// More steps than a walk of a sample takes.
const STEPS: usize = 4096;

/// Tables and a stack out of the input: 64-bit words, of which each table is a view. They
/// contradict each other in every way.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn word(&self, index: u64) -> Option<u64> {
        let at = usize::try_from(index.checked_mul(8)?).ok()?;
        let bytes = self.0.get(at..at.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().unwrap()))
    }
}

/// Reads as an [`Env`] does; what it lends lives in vectors.
struct Tables<'a> {
    words: Words<'a>,
    mappings: Vec<Mapping>,
    rules: Vec<Rule>,
}

impl<'a> Tables<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let words = Words(bytes);
        let word = |index| words.word(index).unwrap_or_default();
        let mapping = |n: u64| {
            let [start, end, rest] = [0, 1, 2].map(|field| word(32 + 3 * n + field));
            Mapping { start, end, first_page: rest as u32, kind: (rest >> 32) as u32 }
        };
        let rule = |n: u64| {
            let [kinds, offsets, saved] = [0, 1, 2].map(|field| word(64 + 3 * n + field));
            let [cfa, cfa_register, fp, ra, ..] = kinds.to_le_bytes();
            Rule {
                cfa,
                cfa_register,
                fp,
                ra,
                cfa_offset: offsets as i32,
                cfa_add: (offsets >> 32) as i32,
                fp_offset: saved as i32,
                ra_offset: (saved >> 32) as i32,
                bx_offset: (kinds >> 32) as i32,
            }
        };
        let (mappings, rules) = ((0..8).map(mapping).collect(), (0..16).map(rule).collect());
        Self { words, mappings, rules }
    }
}

impl Env for Tables<'_> {
    type Segment = u16;

    fn mapping(&self, index: u32) -> Option<&Mapping> {
        self.mappings.get(index as usize)
    }

    fn page(&self, index: u32) -> Option<PageRows> {
        let word = self.words.word(112 + u64::from(index % 16))?;
        let (segment, len) = (word as u16, (word >> 16) as u16);
        Some(PageRows { segment, len, start: (word >> 32) as u32 })
    }

    fn segment(&self, number: u16) -> Option<u16> {
        (number < 64).then_some(number)
    }

    fn row(&self, segment: u16, index: u32) -> Row {
        let word = self.words.word(128 + u64::from((index + u32::from(segment)) % 64));
        Row(word.unwrap_or_default() as u32)
    }

    fn rule(&self, number: u32) -> Option<&Rule> {
        self.rules.get(number as usize)
    }

    fn word(&mut self, address: u64) -> Option<u64> {
        self.words.word(192 + address / 8)
    }

    fn code(&mut self, address: u64) -> Option<u64> {
        self.words.word(address % 256)
    }
}

/// Inputs in which a walk makes some steps: one mapping, one page, a rule of each kind.
fn walk_seeds() -> Vec<Vec<u8>> {
    let seed = |cfa: u64, offset: u64| {
        let mut words = vec![0_u64; 256];
        // Registers: ip, sp, bp, flags; then where the mappings lie.
        words[..5].copy_from_slice(&[0x10_0010, 0, 64, FRAME_EXACT | 1, 1 << 32]);
        words[32..35].copy_from_slice(&[0x10_0000, 0x10_1000, 1 << 32]);
        // Rule 1: the frame pointer at CFA - 16, the return address at CFA - 8.
        words[67..70].copy_from_slice(&[cfa | 0x0101_0000, offset, 0xffff_fff8_ffff_fff0]);
        words[112] = 1 << 16;
        words[128] = 1 << 16;
        for (frame, word) in words[192..].iter_mut().enumerate() {
            *word = if frame % 2 == 0 { 16 * frame as u64 } else { 0x10_0010 + frame as u64 };
        }
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    };
    (0..10).flat_map(|cfa| [seed(cfa, 16), seed(cfa, 32)]).collect()
}

/// Walks; returns how many steps it took.
fn walk(bytes: &[u8]) -> usize {
    let mut env = Tables::new(bytes);
    let word = |index| env.words.word(index).unwrap_or_default();
    let mut registers = Registers { ip: word(0), sp: word(1), bp: word(2), ..Default::default() };
    registers.flags = word(3);
    for (number, general) in registers.general.iter_mut().enumerate() {
        *general = word(5 + number as u64);
    }
    let mappings = ProcessMappings { first: word(4) as u32, len: (word(4) >> 32) as u32 };
    let mut walk = Walk::new(registers, mappings);
    for step in 0..STEPS {
        if walk.step(&mut env) != Outcome::Walking {
            return step;
        }
    }
    STEPS
}

#[test]
fn any_tables() {
    assert!(walk_seeds().iter().any(|seed| walk(seed) > 5), "the seeds do not reach the walker");
    fuzz("walk", walk_seeds(), |bytes| {
        walk(bytes);
    });
}
