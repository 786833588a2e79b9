//! closures PAGE: generics, closures and trait objects, for the benchmark. It counts its units in
//! the first slot of the page (`work.h`).

use std::{env, fs::OpenOptions, hint::black_box, io, os::unix::fs::FileExt};

trait Step {
    fn step(&self, depth: u32) -> u64;
}

struct Closure<F>(F);

impl<F: Fn(u32) -> u64> Step for Closure<F> {
    #[inline(never)]
    fn step(&self, depth: u32) -> u64 {
        black_box((self.0)(depth)) + 1
    }
}

#[inline(never)]
fn spin(steps: u64) -> u64 {
    let mut value = steps | 1;
    for _ in 0..steps {
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
    }
    black_box(value)
}

#[inline(never)]
fn descend(depth: u32) -> u64 {
    if depth == 0 {
        return spin(200_000) >> 1;
    }
    let next: Box<dyn Step> = Box::new(Closure(|depth: u32| descend(depth - 1)));
    black_box(next.step(depth)) + 1
}

fn main() -> io::Result<()> {
    let path = env::args().nth(1).unwrap_or_default();
    let page = OpenOptions::new().write(true).open(path)?;
    for units in 1_u64.. {
        black_box(descend(8));
        page.write_all_at(&units.to_ne_bytes(), 0)?;
    }
    Ok(())
}
