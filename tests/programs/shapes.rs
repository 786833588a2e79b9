//! Closures, generics, trait objects and panics that are caught. With an argument: panics only.

use std::{hint::black_box, panic, process};

#[inline(never)]
fn burn(n: u64) -> u64 {
    let mut x = n;
    for _ in 0..n {
        x = black_box(x.wrapping_mul(6364136223846793005).wrapping_add(1));
    }
    x
}

trait Work {
    fn work(&self, n: u64) -> u64;
}

struct Wrapped<T>(T);

impl<T: Into<u64> + Copy> Work for Wrapped<T> {
    #[inline(never)]
    fn work(&self, n: u64) -> u64 {
        black_box(burn(n + self.0.into()))
    }
}

#[inline(never)]
fn apply<F: Fn(u64) -> u64>(f: F, n: u64) -> u64 {
    black_box(f(n))
}

#[inline(never)]
fn dispatch(work: &dyn Work, n: u64) -> u64 {
    black_box(black_box(work).work(n))
}

#[inline(never)]
fn fails(depth: u64) -> u64 {
    if depth == 0 {
        panic::panic_any(7u64);
    }
    black_box(fails(depth - 1)) + 1
}

fn main() {
    let only_panics = std::env::args().len() > 1;
    panic::set_hook(Box::new(|_| {}));
    std::thread::spawn(|| {
        std::thread::sleep(std::time::Duration::from_secs(120));
        process::exit(0);
    });
    println!("ready");
    let mut sum = 0u64;
    loop {
        if only_panics {
            sum += panic::catch_unwind(|| fails(10)).is_err() as u64;
        } else {
            sum = sum.wrapping_add(dispatch(&Wrapped(3u32), 50000));
            let by = black_box(5);
            let closure: Box<dyn Fn(u64) -> u64> = Box::new(move |n| black_box(burn(n)) ^ by);
            sum = sum.wrapping_add(apply(black_box(closure), 50000));
        }
        black_box(sum);
    }
}
