//! Mutations of seeds: the same sequence for the same number.

use fastrand::Rng;

/// Values at the edges of integer types, where sizes and offsets go wrong.
const INTERESTING: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];
/// The longest run that is copied, removed or doubled.
const MAX_RUN: usize = 64;

/// An endless sequence of inputs.
pub struct Mutator<'a> {
    rng: Rng,
    seeds: &'a [Vec<u8>],
    limit: usize,
}

impl<'a> Mutator<'a> {
    /// Mutations of these seeds (at least one), none longer than `limit`.
    pub fn new(number: u64, seeds: &'a [Vec<u8>], limit: usize) -> Self {
        Self { rng: Rng::with_seed(number), seeds, limit }
    }

    /// The next input: a seed with one to eight changes.
    pub fn next(&mut self) -> Vec<u8> {
        let mut bytes = self.seed().to_vec();
        for _ in 0..self.rng.u32(1..=8) {
            self.change(&mut bytes);
        }
        bytes.truncate(self.limit);
        bytes
    }

    fn seed(&mut self) -> &'a [u8] {
        &self.seeds[self.rng.usize(..self.seeds.len())]
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            bytes.push(self.rng.u8(..));
            return;
        }
        let at = self.rng.usize(..bytes.len());
        let run = self.rng.usize(1..=MAX_RUN).min(bytes.len() - at);
        match self.rng.u32(..9) {
            0 => bytes[at] ^= 1 << self.rng.u32(..8),
            1 => bytes[at] = self.rng.u8(..),
            2 => bytes[at] = bytes[at].wrapping_add(self.rng.u8(..)),
            3 => {
                let value = INTERESTING[self.rng.usize(..INTERESTING.len())].to_le_bytes();
                let width = (1 << self.rng.u32(..4)).min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&value[..width]);
            }
            4 => bytes.truncate(at),
            5 => {
                bytes.drain(at..at + run);
            }
            6 => {
                let doubled = bytes[at..at + run].to_vec();
                bytes.splice(at..at, doubled);
            }
            7 => {
                let from = self.rng.usize(..bytes.len());
                let len = run.min(bytes.len() - from);
                bytes.copy_within(from..from + len, at);
            }
            _ => {
                let other = self.seed();
                let from = self.rng.usize(..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
}

#[test]
fn the_same_number_gives_the_same_inputs() {
    let seeds = [b"a seed".to_vec(), vec![], vec![7; 300]];
    let inputs = |number| {
        let mut mutator = Mutator::new(number, &seeds, 200);
        (0..1000).map(|_| mutator.next()).collect::<Vec<_>>()
    };
    assert_eq!(inputs(1), inputs(1));
    assert_ne!(inputs(1), inputs(2));
    assert!(inputs(1).iter().all(|input| input.len() <= 200));
    assert!(inputs(1).iter().filter(|input| !seeds.contains(input)).count() > 900);
}
