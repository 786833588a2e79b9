//! What `py-spy record --format raw` writes: folded stacks whose frames are `function (file.py:12)`,
//! native ones `function (libfoo.so)`, behind the processes with `--subprocesses` and the thread with
//! `--threads`.

use super::{
    decoded::Decoded,
    folded::{self, FoldedError},
};
use crate::model::{
    frame::{Frame, FrameKind, RawFrame},
    metric::Metric,
    stacks::{StackId, Stacks},
};

/// What to make of it.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Whether the thread is the second frame, where the text tells it.
    pub threads: bool,
    /// The name of the process.
    pub process: &'a str,
}

/// What a frame's text says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind<'a> {
    /// `process 12:"python app.py"`.
    Process,
    /// `thread (0x7F12): name`: the name, or what is in parentheses.
    Thread(&'a str),
    /// `function (file:12)`.
    Python { file: &'a str, line: u32 },
    /// `function (libfoo.so)`.
    Native { module: &'a str },
    /// Something else.
    Plain,
}

/// Whether folded text begins as py-spy writes it: most frames of its whole lines are Python's.
#[must_use]
pub fn is_raw(start: &[u8]) -> bool {
    let text = String::from_utf8_lossy(start);
    let whole = text.rfind('\n').map_or(&*text, |end| &text[..end]);
    let (mut python, mut all) = (0, 0);
    for line in whole.lines() {
        let Some((stack, count)) = line.rsplit_once(' ') else { return false };
        if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return false;
        }
        for frame in stack.split(';') {
            let kind = kind(frame);
            // What stands before the frames says nothing.
            all += u32::from(!matches!(kind, Kind::Process | Kind::Thread(_)));
            python += u32::from(matches!(kind, Kind::Python { .. }));
        }
    }
    python * 2 > all
}

/// Reads raw text.
///
/// # Errors
/// Those of folded text.
pub fn decode(bytes: &[u8], options: &Options<'_>) -> Result<Decoded, FoldedError> {
    let read = folded::read(bytes)?.stacks;
    let mut stacks = Stacks::new(1);
    let process = RawFrame::Process(options.process.into());
    for (id, values) in read.iter() {
        let mut stack = stacks.push(StackId::ROOT, &process);
        for frame in read.root_first(id) {
            if let Some(frame) = raw(frame, options.threads) {
                stack = stacks.push(stack, &frame);
            }
        }
        stacks.add(stack, 0, values[0]);
    }
    let samples = stacks.total(0);
    Ok(Decoded::new(stacks, Metric::samples(), samples))
}

/// A frame as py-spy means it; none: it is not shown.
fn raw(frame: &Frame, threads: bool) -> Option<RawFrame> {
    let name = frame.name.clone();
    let symbol = |kind| Frame::symbol(name.clone(), kind);
    Some(match kind(&frame.name) {
        Kind::Process => return None,
        Kind::Thread(name) => return threads.then(|| RawFrame::Thread(name.into())),
        Kind::Python { file, line } => RawFrame::Named(Frame {
            file: Some(file.into()),
            line: Some(line).filter(|line| *line > 0),
            ..symbol(FrameKind::Interpreted)
        }),
        Kind::Native { module } => {
            RawFrame::Named(Frame { module: Some(module.into()), ..symbol(FrameKind::Native) })
        }
        Kind::Plain if frame.kind == FrameKind::Process => {
            RawFrame::Named(symbol(FrameKind::Interpreted))
        }
        Kind::Plain => RawFrame::Named(frame.clone()),
    })
}

fn kind(text: &str) -> Kind<'_> {
    if let Some(rest) = text.strip_prefix("thread (") {
        let (id, name) = rest.split_once(')').unwrap_or((rest, ""));
        return Kind::Thread(name.strip_prefix(": ").unwrap_or(id));
    }
    let digits = text.strip_prefix("process ").and_then(|rest| rest.split_once(':'));
    if digits.is_some_and(|(pid, _)| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit())) {
        return Kind::Process;
    }
    let inside = text.strip_suffix(')').and_then(|text| text.rsplit_once(" ("));
    let Some((function, inside)) = inside.filter(|(function, _)| !function.is_empty()) else {
        return Kind::Plain;
    };
    let _ = function;
    match inside.rsplit_once(':').map(|(file, line)| (file, line.parse())) {
        Some((file, Ok(line))) if !file.is_empty() => Kind::Python { file, line },
        _ if inside.contains(".so") => Kind::Native { module: inside },
        _ => Kind::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
process 12:\"python -c 'a b'\";thread (0x7F12): MainThread;<module> (a b.py:3);f (pkg/x.py:10) 7
thread (31);<module> (app.py:3);PyEval_EvalCode (libpython3.11.so) 2
<module> (app.py:3);<lambda> (<string>:1) 1
";

    fn lines(text: &str, threads: bool) -> Vec<String> {
        let decoded = decode(text.as_bytes(), &Options { threads, process: "python" }).unwrap();
        let mut lines: Vec<String> = decoded
            .stacks
            .iter()
            .map(|(id, values)| {
                let frames = decoded.stacks.root_first(id).into_iter().map(|frame| match frame {
                    RawFrame::Process(name) => format!("process {name}"),
                    RawFrame::Thread(name) => format!("thread {name}"),
                    RawFrame::Named(frame) => {
                        format!("{} {:?} {:?}", frame.name, frame.kind, frame.line)
                    }
                    other => format!("{other:?}"),
                });
                format!("{} {}", frames.collect::<Vec<_>>().join(";"), values[0])
            })
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn frames_are_what_py_spy_means() {
        assert!(is_raw(TEXT.as_bytes()) && is_raw(&TEXT.as_bytes()[..110]));
        let module = "<module> (app.py:3) Interpreted Some(3)";
        let plain = lines(TEXT, false);
        assert_eq!(
            plain,
            [
                "process python;<module> (a b.py:3) Interpreted Some(3);f (pkg/x.py:10) \
                 Interpreted Some(10) 7"
                    .to_owned(),
                format!("process python;{module};<lambda> (<string>:1) Interpreted Some(1) 1"),
                format!("process python;{module};PyEval_EvalCode (libpython3.11.so) Native None 2"),
            ]
        );
        let threads = lines(TEXT, true);
        assert!(threads.iter().any(|line| line.starts_with("process python;thread 31;")));
        assert!(threads.iter().any(|line| line.starts_with("process python;thread MainThread;")));
        let odd = "plain;thread (;process x:1;f ();g (x:y);h (:3);(a.py:1) 1\n";
        assert_eq!(lines(odd, false).len(), 1);
        assert!(decode(b"x y", &Options { threads: false, process: "p" }).is_err());
    }

    #[test]
    fn other_folded_text_is_not_taken_for_it() {
        for text in [
            "",
            "a;b;c 12\n",
            "main;f (x);operator() (int) 3\n",
            "f (a.py:1);b;c;d 12\n",
            "f (a.py:1)\n",
            "a 1/1 1.0: 1 cycles: \n\t 12 f (a.py:1)\n",
        ] {
            assert!(!is_raw(text.as_bytes()), "{text}");
        }
    }
}
