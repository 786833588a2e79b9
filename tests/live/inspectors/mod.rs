//! Runtimes of JavaScript that are profiled through their inspectors: real processes, with known
//! shares, left as they were.

mod bun;
mod node;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::support::{Stacks, Target};

/// A program of npm's packages, which the test command installs (`xtask/src/test/npm.rs`).
fn runtime(path: &str) -> Result<PathBuf, String> {
    let path = tests::target_folder().join("runtimes/npm/node_modules").join(path);
    if path.is_file() { Ok(path) } else { Err(format!("{} (npm)", path.display())) }
}

/// The port that a server listens on.
fn port(server: &Target) -> u16 {
    server.greeting().rsplit(' ').next().unwrap().parse().unwrap()
}

/// What the server answers.
fn get(server: &Target, path: &str) -> String {
    let mut stream = TcpStream::connect(("localhost", port(server))).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    // It may end while it answers.
    let _ = stream.read_to_string(&mut answer);
    answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned()
}

/// Shares of what `work` calls, of the time below it.
fn shares(stacks: &Stacks) -> [f64; 3] {
    let below = |name: &str| {
        let with = stacks.filter(|stack| {
            let at = stack.frames.iter().position(|frame| frame.name == "work");
            let callee = at.and_then(|at| stack.frames.get(at + 1));
            callee.is_some_and(|frame| frame.name.contains(name))
        });
        with.total() as f64
    };
    let found = [below("alpha"), below("beta"), below("(anonymous) ")];
    let all: f64 = found.iter().sum();
    found.map(|value| value / all)
}

#[track_caller]
fn has_known_shares(stacks: &Stacks) {
    for (found, share) in shares(stacks).into_iter().zip([0.5, 0.25, 0.25]) {
        // Wall clock of one thread: what else runs on the host counts for whom it interrupts.
        assert!((found - share).abs() < 0.17, "{found}, not {share}:\n{stacks}");
    }
    assert!(stacks.share("work") > 0.8, "{stacks}");
    assert!(!stacks.to_string().contains("(idle)"), "{stacks}");
}

/// Waits until something holds, for at most this long.
#[track_caller]
fn until(what: &str, limit: Duration, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < limit, "{what} after {limit:?}");
        sleep(Duration::from_millis(20));
    }
}
