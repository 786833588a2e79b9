//! Fuzzing of everything that reads outside bytes: a target must neither panic nor hang, whatever
//! the bytes.
//!
//! Runs as an ordinary test on stable Rust: the seeds in `fuzz/seeds/NAME` as they are, then
//! mutations of them for `FUZZ_SECONDS` (2 unless set; 0: seeds only), from `FUZZ_SEED` on. An
//! input that fails is left in `target/fuzz/NAME`; put into the seeds, it is a regression test.
//! Add a target in [`targets`].
//!
//! Own code, as the engines that follow coverage (libFuzzer, AFL) need nightly Rust or a C++
//! runtime, and without coverage the crates that wrap them (bolero) generate from nothing where
//! these targets need well-formed files to begin with.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test: what fails here fails the test")]

mod mutate;
mod targets;

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use mutate::Mutator;

/// What one input may take; far more than any needs in a debug build on a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// The largest input.
const MAX_INPUT: usize = 1 << 16;

/// Runs a target on its seeds, on `extra` seeds that are made by program, and on mutations of both.
pub fn fuzz(name: &str, extra: Vec<Vec<u8>>, target: impl Fn(&[u8])) {
    let folder = tests::target_folder().join("fuzz").join(name);
    fs::create_dir_all(&folder).unwrap();
    let seeds: Vec<Vec<u8>> = seeds(name).into_iter().chain(extra).collect();
    assert!(!seeds.is_empty(), "{name} has no seeds");
    let number = setting("FUZZ_SEED", 0);
    let end = Instant::now() + Duration::from_secs(setting("FUZZ_SECONDS", 2));
    let watch = Watch::default();
    let mut runs = 0_u64;
    thread::scope(|scope| {
        scope.spawn(|| watch.guard(name, &folder));
        // A failed assertion must not leave the guard waiting.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let running = File::create(folder.join("running")).unwrap();
            let run = Run { name, folder: &folder, running, watch: &watch, target: &target };
            for seed in &seeds {
                run.once(seed);
            }
            let mut mutator = Mutator::new(number, &seeds, MAX_INPUT);
            while Instant::now() < end {
                run.once(&mutator.next());
                runs += 1;
            }
        }));
        watch.done.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    // Past the harness, which shows the output of failed tests only.
    let line = format!("fuzz {name}: {} seeds, {runs} mutations\n", seeds.len());
    let _ = std::io::stderr().write_all(line.as_bytes());
}

struct Run<'a, F> {
    name: &'a str,
    folder: &'a Path,
    running: File,
    watch: &'a Watch,
    target: &'a F,
}

impl<F: Fn(&[u8])> Run<'_, F> {
    fn once(&self, input: &[u8]) {
        // On disk before it runs: it may abort the process or use up its memory.
        // Written over, as ext4 flushes what is truncated to nothing and written again.
        self.running.write_all_at(input, 0).unwrap();
        self.running.set_len(input.len() as u64).unwrap();
        self.watch.begin();
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.target)(input)));
        self.watch.end();
        if outcome.is_err() {
            let path = self.folder.join(format!("panic-{:016x}", fingerprint(input)));
            fs::write(&path, input).unwrap();
            panic!("{} panicked on {} (see above)", self.name, path.display());
        }
    }
}

/// Ends the process when one input takes too long.
struct Watch {
    start: Instant,
    /// Milliseconds after `start` at which the current input began; `u64::MAX`: there is none.
    began: AtomicU64,
    done: AtomicBool,
}

impl Default for Watch {
    fn default() -> Self {
        let done = AtomicBool::new(false);
        Self { start: Instant::now(), began: AtomicU64::new(u64::MAX), done }
    }
}

impl Watch {
    fn begin(&self) {
        self.began.store(self.now(), Ordering::Relaxed);
    }

    fn end(&self) {
        self.began.store(u64::MAX, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn guard(&self, name: &str, folder: &Path) {
        while !self.done.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(20));
            let taken = self.now().saturating_sub(self.began.load(Ordering::Relaxed));
            if Duration::from_millis(taken) > TIME_LIMIT {
                let path = folder.join("hang");
                let kept = fs::rename(folder.join("running"), &path);
                let line = format!("{name} hangs on {} ({kept:?})\n", path.display());
                let _ = std::io::stderr().write_all(line.as_bytes());
                // The thread that hangs cannot be ended in another way.
                std::process::exit(101);
            }
        }
    }
}

/// The seeds of a target, in the order of their names.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = tests::root().join("tests/fuzz/seeds").join(name);
    let Ok(entries) = fs::read_dir(&folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn setting(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")),
        Err(_) => default,
    }
}

/// FNV-1a: a name for an input.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[test]
fn a_panic_is_found_and_its_input_kept() {
    let seeds = vec![b"seed".to_vec()];
    let outcome = catch_unwind(|| {
        fuzz("self-test", seeds, |bytes| assert!(!bytes.starts_with(b"seed"), "as asked"));
    });
    assert!(outcome.is_err());
    let kept = format!("fuzz/self-test/panic-{:016x}", fingerprint(b"seed"));
    assert_eq!(fs::read(tests::target_folder().join(kept)).unwrap(), b"seed");
}
