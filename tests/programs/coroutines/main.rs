//! Two thirds of the time in coroutines of the crate that the argument names, `corosensei` or
//! `generator`, one third outside of them.

use std::{env, hint::black_box, process, thread, time::Duration};

use corosensei::{Coroutine, Yielder};
use generator::Gn;

#[inline(never)]
fn burn(n: u64) -> u64 {
    (0..n).fold(n, |x, i| black_box(x.wrapping_mul(6364136223846793005) ^ i))
}

/// Lengths that no clock keeps step with.
fn lengths() -> impl Iterator<Item = u64> {
    let mut x = 88172645463325252_u64;
    std::iter::repeat_with(move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        20_000 + x % 20_000
    })
}

#[inline(never)]
fn inside(n: u64) -> u64 {
    black_box(burn(2 * n)) + 1
}

#[inline(never)]
fn outside(n: u64) -> u64 {
    black_box(burn(n)) + 2
}

#[inline(never)]
fn suspends(yielder: &Yielder<u64, u64>, depth: u32, n: u64) -> u64 {
    if depth > 0 {
        return black_box(suspends(yielder, depth - 1, n));
    }
    yielder.suspend(inside(n))
}

#[inline(never)]
fn by_corosensei() {
    let mut coroutine: Coroutine<u64, u64, u64> = Coroutine::new(|yielder, mut n| {
        loop {
            n = suspends(yielder, 3, n);
        }
    });
    for n in lengths() {
        black_box(coroutine.resume(n));
        black_box(outside(n));
    }
}

#[inline(never)]
fn by_generator() {
    let mut generator = Gn::new_scoped(|mut scope| {
        for n in lengths() {
            scope.yield_with(inside(n));
        }
        0
    });
    for n in lengths() {
        black_box(generator.next());
        black_box(outside(n));
    }
}

fn main() {
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(120));
        process::exit(0);
    });
    println!("ready");
    match env::args().nth(1).as_deref() {
        Some("corosensei") => by_corosensei(),
        Some("generator") => by_generator(),
        other => panic!("{other:?} is neither corosensei nor generator"),
    }
}
