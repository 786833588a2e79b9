//! Programs that are recorded.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStdout, Command, Stdio},
};

/// A running program, killed when this is dropped.
#[derive(Debug)]
pub struct Target {
    child: Child,
    stdout: BufReader<ChildStdout>,
    greeting: String,
}

impl Target {
    /// Starts a program and waits until it says `ready`.
    ///
    /// # Panics
    /// When it cannot run or never says so.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut target = Self { child, stdout, greeting: String::new() };
        target.greeting = target.line();
        assert!(target.greeting.starts_with("ready"), "{command:?} said {:?}", target.greeting);
        target
    }

    /// The line that began with `ready`.
    pub fn greeting(&self) -> &str {
        &self.greeting
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The id of what it runs, as `unshare` in a PID namespace.
    ///
    /// # Panics
    /// When it is not one process.
    pub fn only_child(&self) -> String {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let mut children = children.split_whitespace();
        let child = children.next().unwrap_or_else(|| panic!("{pid} has no child")).to_owned();
        assert_eq!(children.next(), None);
        child
    }

    /// The next line that it says; empty at the end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.by_ref().take(4096).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits for its end; its exit status, none: a signal ended it.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

/// A process that is ended when this is dropped: a target's child that does not end with it, or a
/// profiler that was stopped.
pub struct Killed(pub String);

impl Drop for Killed {
    fn drop(&mut self) {
        // It has ended already when this fails.
        let _ = Command::new("kill").args(["-KILL", &self.0]).stderr(Stdio::null()).status();
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // An error here means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
