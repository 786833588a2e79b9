//! What `perf script --show-switch-events --show-task-events` tells of threads' time: samples of
//! where threads leave their CPUs (the event `context-switches`), records of the switches themselves,
//! and of names, births and deaths, in the order of time.

use std::io::BufRead;

use super::{
    PerfScriptError, each_line,
    line::{Head, Line, Record, Switch},
    only_frame,
    stack::{Names, Open},
};
use crate::model::{
    frame::RawFrame,
    loss::Truncation,
    stacks::{StackId, Stacks},
};

/// Something that happened to a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment<'a> {
    /// When, in nanoseconds of the clock that perf was told to use.
    pub time: u64,
    /// The thread's process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// What.
    pub what: What<'a>,
}

/// What happens to a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// It is about to leave its CPU in this stack, which may be cut.
    Stack(StackId, Option<Truncation>),
    /// It gets a CPU, or leaves it.
    Switched(Switch),
    /// It has a name from now on.
    Named {
        /// The name.
        name: &'a str,
        /// With another program.
        exec: bool,
    },
    /// It was made by this thread.
    Made(u32),
    /// It ended.
    Ended,
}

/// What all of them speak of.
#[derive(Debug)]
pub struct Switches {
    /// The stacks, without processes and threads.
    pub stacks: Stacks<RawFrame>,
    /// Samples and records that perf lost.
    pub lost: u64,
}

/// Calls `each` with what happened to threads.
///
/// # Errors
/// When the input fails, or names more functions than any program has.
pub fn read_switches(
    input: impl BufRead,
    mut each: impl FnMut(Moment<'_>),
) -> Result<Switches, PerfScriptError> {
    let (mut stacks, mut lost) = (Stacks::new(1), 0u64);
    let mut names = Names::new();
    let mut sample: Option<(u64, u32, u32, Open)> = None;
    let mut end = |sample: &mut Option<(u64, u32, u32, Open)>, names: &Names<RawFrame>| {
        let (time, pid, tid, open) = sample.take()?;
        let truncated: Option<RawFrame> = open.truncated();
        let frames = truncated.iter().chain(open.root_first(names));
        let stack = stacks.intern(frames);
        Some(Moment { time, pid, tid, what: What::Stack(stack, open.cut) })
    };
    each_line(input, |text| {
        let head = Head::parse(text);
        if (head.is_some() || text.is_empty())
            && let Some(moment) = end(&mut sample, &names)
        {
            each(moment);
        }
        let Some(head) = head else {
            if let (Some((.., open)), Some(line)) = (&mut sample, Line::parse(text)) {
                open.add(&line, &mut names)?;
            }
            return Ok(());
        };
        let record = head.record();
        if let Some(Record::Lost(n)) = record {
            lost = lost.saturating_add(n);
        }
        // Only what has a time has its place among the others.
        let Some((time, (pid, tid, what))) = head.time.zip(happened(&head, record)) else {
            return Ok(());
        };
        match what {
            Some(what) => each(Moment { time, pid, tid, what }),
            None => {
                let mut open = Open::default();
                // Without a chain of calls there is one frame, behind the event.
                if let Some(line) = only_frame(head.rest) {
                    open.add(&line, &mut names)?;
                }
                sample = Some((time, pid, tid, open));
            }
        }
        Ok(())
    })?;
    if let Some(moment) = end(&mut sample, &names) {
        each(moment);
    }
    Ok(Switches { stacks, lost })
}

/// To which thread something happens, and what; no what: it is sampled.
fn happened<'a>(
    head: &Head<'_>,
    record: Option<Record<'a>>,
) -> Option<(u32, u32, Option<What<'a>>)> {
    let (pid, tid, what) = match record {
        None => (head.pid?, head.tid, None),
        Some(Record::Switched(switch)) => (head.pid?, head.tid, Some(What::Switched(switch))),
        Some(Record::Named { name, pid, tid, exec }) => {
            (pid, tid, Some(What::Named { name, exec }))
        }
        Some(Record::Made { pid, tid, parent }) => {
            (pid, tid, Some(What::Made(u32::try_from(parent).ok()?)))
        }
        Some(Record::Ended { pid, tid }) => (pid, tid, Some(What::Ended)),
        Some(Record::Lost(_) | Record::Other) => return None,
    };
    Some((u32::try_from(pid).ok()?, u32::try_from(tid).ok()?, what))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As perf 6.1 prints it, with `--ns`.
    const TEXT: &str = "\
a b     7/8     0.000000000: PERF_RECORD_COMM: a b:7/8
a b     7/8     26.762900000: context-switches: \n\
\tffffffff81000000 __schedule+0x2 ([kernel.kallsyms])
\t          101e60 main+0x20 (/usr/bin/a)

a b     7/8     26.762920001: PERF_RECORD_SWITCH OUT preempt
c     9/9     26.762921000: PERF_RECORD_SWITCH_CPU_WIDE IN           prev pid/tid:     7/8    \n\
c     9/9     26.762930000: PERF_RECORD_FORK(9:10):(9:9)
c     9/10    26.762931000: PERF_RECORD_COMM exec: d:9/10
c     9/9     26.762932000: PERF_RECORD_LOST lost 3
c     9/9     26.762933000: context-switches: \n\
\t            1234 [unknown] ([unknown])
c     9/9     26.762934000: PERF_RECORD_SWITCH_CPU_WIDE OUT          next pid/tid:     7/8    \n\
c     9/10    26.762940000: PERF_RECORD_EXIT(9:10):(9:9)
    -1/-1   26.762941000: PERF_RECORD_SWITCH IN
";

    fn read(text: &str) -> (Vec<(u64, u32, String)>, Switches) {
        let mut moments = Vec::new();
        let switches = read_switches(text.as_bytes(), |moment| {
            let what = match moment.what {
                What::Stack(_, cut) => format!("stack {cut:?}"),
                what => format!("{what:?}"),
            };
            moments.push((moment.time, moment.tid, what));
        });
        (moments, switches.unwrap())
    }

    #[test]
    fn switches_and_where_threads_leave() {
        let (moments, switches) = read(TEXT);
        let expected = [
            (0, 8, "Named { name: \"a b\", exec: false }"),
            (26_762_900_000, 8, "stack None"),
            (26_762_920_001, 8, "Switched(Preempted)"),
            (26_762_921_000, 9, "Switched(In)"),
            (26_762_930_000, 10, "Made(9)"),
            (26_762_931_000, 10, "Named { name: \"d\", exec: true }"),
            (26_762_933_000, 9, "stack Some(UnknownMapping)"),
            (26_762_934_000, 9, "Switched(Out)"),
            (26_762_940_000, 10, "Ended"),
        ];
        let expected = expected.map(|(time, tid, what)| (time, tid, what.to_owned()));
        assert_eq!(moments, expected);
        assert_eq!(switches.lost, 3);
        let names: Vec<_> = switches.stacks.frames().iter().map(|f| format!("{f:?}")).collect();
        assert!(names[0].contains("main") && names[1].contains("__schedule"), "{names:?}");
        assert_eq!(names[2], "Truncated(UnknownMapping)");
    }

    #[test]
    fn other_text_tells_nothing() {
        assert!(read("").0.is_empty());
        assert!(read("a b c\n\n\tx\n12 PERF_RECORD_SWITCH\n").0.is_empty());
        // What has no time has no place.
        assert!(read("a 1/1 PERF_RECORD_SWITCH OUT\n").0.is_empty());
    }

    proptest! {
        #[test]
        fn any_lines_are_read(lines in prop::collection::vec("\\PC{0,40}", 0..20), at in 0..600usize) {
            let mut text = TEXT.to_owned();
            text.insert_str(at.min(TEXT.len()), &lines.join("\n"));
            read(&text);
        }
    }
}
