//! Stacks as the profiler wrote them, and what must hold for them.

use std::fmt::{self, Write as _};

/// Stands for any number of frames in a [`Path`].
pub const ANY: &str = "…";

/// One frame of a folded line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The name, without annotation.
    pub name: String,
    /// `k`, `i`, `j`, or a space.
    pub kind: char,
}

/// One folded line.
#[derive(Clone, Debug)]
pub struct Stack {
    /// The process.
    pub process: String,
    /// The frames below it, root first.
    pub frames: Vec<Frame>,
    /// Samples.
    pub count: u64,
}

impl Stack {
    fn parse(line: &str) -> Self {
        let (stack, count) = line.rsplit_once(' ').unwrap();
        let mut frames = stack.split(';').map(|text| {
            let cut = ["_[k]", "_[i]", "_[j]"].iter().find_map(|end| text.strip_suffix(end));
            let kind = cut.map_or(' ', |_| text.chars().rev().nth(1).unwrap());
            Frame { name: cut.unwrap_or(text).to_owned(), kind }
        });
        let process = frames.next().unwrap().name;
        Self { process, frames: frames.collect(), count: count.parse().unwrap() }
    }

    /// Why the stack does not reach its root.
    pub fn truncated(&self) -> Option<&str> {
        let first = self.frames.iter().find(|frame| frame.name.starts_with("[truncated: "))?;
        Some(&first.name)
    }

    /// Whether kernel frames are on top.
    pub fn in_kernel(&self) -> bool {
        self.frames.last().is_some_and(|frame| frame.kind == 'k')
    }

    /// Names of the user frames that are not inlined calls, root first; a function's cold part,
    /// which lies elsewhere, by the function's name.
    pub fn user(&self) -> Vec<&str> {
        let user = self.frames.iter().filter(|frame| !matches!(frame.kind, 'k' | 'i'));
        user.map(|frame| frame.name.trim_end_matches(".cold")).collect()
    }

    /// Whether a function is on the stack.
    pub fn has(&self, name: &str) -> bool {
        self.frames.iter().any(|frame| frame.name == name)
    }
}

/// A way from a known function to a leaf, with the share of the samples that end there.
#[derive(Clone, Debug)]
pub struct Path {
    frames: Vec<String>,
    share: Option<f64>,
}

impl Path {
    /// Frames, root first, parted by spaces; `name*12` is twelve of them, `…` any number of any.
    pub fn new(frames: &str) -> Self {
        let frames = frames.split_whitespace().flat_map(|word| match word.rsplit_once('*') {
            Some((name, times)) => vec![name.to_owned(); times.parse().unwrap()],
            None => vec![word.to_owned()],
        });
        Self { frames: frames.collect(), share: None }
    }

    /// The same with names that hold spaces.
    pub fn of(frames: &[&str]) -> Self {
        Self { frames: frames.iter().map(|name| (*name).to_owned()).collect(), share: None }
    }

    /// The share of all samples that end in this leaf, 0 to 1.
    pub fn share(mut self, share: f64) -> Self {
        self.share = Some(share);
        self
    }

    /// Compares with frames: the path itself, or the beginning of it.
    fn compare(&self, frames: &[&str]) -> Match {
        let skip = |mut at: usize, open: &mut Vec<usize>| {
            while at < self.frames.len() && self.frames[at] == ANY {
                open.push(at);
                at += 1;
            }
            open.push(at);
        };
        let mut open = Vec::new();
        skip(0, &mut open);
        for frame in frames {
            let mut next = Vec::new();
            for &at in &open {
                match self.frames.get(at) {
                    Some(any) if any == ANY => skip(at, &mut next),
                    Some(name) if name == frame => skip(at + 1, &mut next),
                    _ => {}
                }
            }
            next.sort_unstable();
            next.dedup();
            open = next;
        }
        if open.contains(&self.frames.len()) {
            Match::Whole
        } else if open.is_empty() {
            Match::Other
        } else {
            Match::Beginning
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    Whole,
    Beginning,
    Other,
}

/// The stacks of a recording.
#[derive(Clone, Debug, Default)]
pub struct Stacks(pub Vec<Stack>);

impl fmt::Display for Stacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for stack in &self.0 {
            let names: Vec<_> = stack.frames.iter().map(|frame| frame.name.as_str()).collect();
            writeln!(f, "{};{} {}", stack.process, names.join(";"), stack.count)?;
        }
        Ok(())
    }
}

impl Stacks {
    /// Reads folded text.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().map(Stack::parse).collect())
    }

    /// All samples.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|stack| stack.count).sum()
    }

    /// Those for which something holds.
    pub fn filter(&self, keep: impl Fn(&Stack) -> bool) -> Self {
        Self(self.0.iter().filter(|stack| keep(stack)).cloned().collect())
    }

    /// Those of one process, by name.
    pub fn of(&self, process: &str) -> Self {
        let process: String = process.chars().take(15).collect();
        self.filter(|stack| stack.process == process)
    }

    /// The share of samples with a function on the stack.
    pub fn share(&self, name: &str) -> f64 {
        self.filter(|stack| stack.has(name)).total() as f64 / self.total() as f64
    }

    /// At least this many samples were taken: some part of what a host without other work gives.
    #[track_caller]
    pub fn at_least(&self, samples: u64) -> &Self {
        assert!(self.total() >= samples, "{} of {samples} samples:\n{self}", self.total());
        self
    }

    /// At least 99.9 % of the stacks reach their root; of few, all but one.
    #[track_caller]
    pub fn complete(&self) -> &Self {
        let cut = self.filter(|stack| stack.truncated().is_some());
        let allowed = (self.total() / 1000).max(1);
        assert!(cut.total() <= allowed, "{} of {} cut:\n{cut}", cut.total(), self.total());
        self
    }

    /// Every complete stack begins with one of these frames. What was lost is no stack.
    #[track_caller]
    pub fn rooted(&self, roots: &[&str]) -> &Self {
        let other = self.filter(|stack| {
            let user = stack.user();
            let root = user.first().copied().unwrap_or_default();
            // A thread that is exiting has given its memory back, and its user stack with it.
            let exiting = user.is_empty() && stack.has("do_exit");
            let lost = stack.frames.is_empty() && stack.process.starts_with("[lost: ");
            stack.truncated().is_none() && !roots.contains(&root) && !exiting && !lost
        });
        assert!(other.0.is_empty(), "stacks with another root than {roots:?}:\n{other}");
        self
    }

    /// From `start` on, the user frames of every complete stack are one of these paths or the
    /// beginning of one, nothing else; and the shares of the paths are right.
    #[track_caller]
    pub fn paths(&self, start: &str, paths: &[Path]) -> &Self {
        let whole = self.filter(|stack| stack.truncated().is_none());
        let mut counts = vec![0; paths.len()];
        let mut other = String::new();
        let mut between = 0;
        for stack in &whole.0 {
            let user = stack.user();
            let from = user.iter().position(|name| *name == start);
            let frames = from.map_or(&[][..], |from| &user[from..]);
            let matches: Vec<_> = paths.iter().map(|path| path.compare(frames)).collect();
            if frames.is_empty() || matches.iter().all(|found| *found == Match::Other) {
                writeln!(other, "{} {}", user.join(";"), stack.count).unwrap();
            } else if let Some(at) = matches.iter().position(|found| *found == Match::Whole) {
                counts[at] += stack.count;
            } else {
                between += stack.count;
            }
        }
        assert!(other.is_empty(), "stacks that cannot be:\n{other}");
        let total = whole.total() as f64;
        assert!(between as f64 <= 2.0 + total * 0.02, "{between} of {total} between:\n{whole}");
        for (path, count) in paths.iter().zip(counts) {
            let Some(share) = path.share else { continue };
            let found = count as f64 / total;
            // Four standard deviations of the sampling, and two points for the program's own.
            let tolerance = 4.0 * (share * (1.0 - share) / total).sqrt() + 0.02;
            let right = (found - share).abs() <= tolerance;
            assert!(right, "{path:?}: {found:.3}, not {share:.3} ± {tolerance:.3}:\n{whole}");
        }
        self
    }
}

#[test]
fn paths_match_whole_or_as_a_beginning() {
    let path = Path::new("main a*2 … leaf");
    for (frames, found) in [
        ("main", Match::Beginning),
        ("main a a", Match::Beginning),
        ("main a a leaf", Match::Whole),
        ("main a a x y leaf", Match::Whole),
        ("main a a x y", Match::Beginning),
        ("main a leaf", Match::Other),
        ("x", Match::Other),
    ] {
        let frames: Vec<_> = frames.split(' ').collect();
        assert_eq!(path.compare(&frames), found, "{frames:?}");
    }
}
