//! Text as perf 6.1 prints it, with and without the fields that it may leave out.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{format::folded::MAX_FRAMES, model::loss::Truncation};

const TEXT: &str = "\
# ========
# captured on    : Fri Nov 27 21:25:18 2026
# ========
#
sh 29203/29204 [001]   750.299766:   10101010 cpu-clock:pppH: \n\
\t           3bd54 leaf+0x4 (inlined)
\t           3bd54 work(int, char (*)(long))+0x10 (/usr/bin/a b (deleted))
\t            7225 [unknown] (/usr/lib/libc.so.6)
\t          101e60 main+0x20 (/usr/bin/a b (deleted))

Web Content 3 29203/29203 [001]   751.299766:   10101010 cpu-clock:pppH: \n\
\tffffffff81000000 asm_sysvec+0x2 ([kernel.kallsyms])
\tffffffffc0000010 nf_hook+0x12 ([nf_tables])
\t    7ffc00000123 __vdso_gettimeofday+0x1 ([vdso])
\t          101e60 main+0x20 (/usr/bin/a)

";

fn lines(text: &str, options: &Options<'_>) -> Vec<String> {
    let decoded = read(text.as_bytes(), options).unwrap();
    let mut lines: Vec<String> = decoded
        .stacks
        .iter()
        .map(|(id, values)| {
            let names = decoded.stacks.root_first(id).into_iter().map(|frame| match frame {
                RawFrame::Process(name) | RawFrame::Thread(name) => name.to_string(),
                RawFrame::Lost(cause) => format!("[lost: {}]", cause.name()),
                RawFrame::Truncated(cause) => format!("[truncated: {}]", cause.name()),
                RawFrame::Named(frame) => crate::format::folded::frame_text(frame),
                other => format!("{other:?}"),
            });
            format!("{} {}", names.collect::<Vec<_>>().join(";"), values[0])
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn frames_of_all_kinds() {
    assert!(is_script(TEXT.as_bytes()));
    let process = "Web Content 3";
    let expected = [
        format!("{process};main;[libc.so.6];work(int, char (*)(long));leaf_[i] 1"),
        format!("{process};main;__vdso_gettimeofday;nf_hook_[k];asm_sysvec_[k] 1"),
    ];
    assert_eq!(lines(TEXT, &Options::default()), expected);
    let threads = lines(TEXT, &Options { threads: true, ..Options::default() });
    assert!(threads[1].starts_with("Web Content 3;sh;main;"), "{threads:?}");
    let decoded = read(TEXT.as_bytes(), &Options::default()).unwrap();
    assert_eq!((decoded.samples, decoded.duration), (2, Some(Duration::from_secs(1))));
    assert!(decoded.remarks.is_empty());
    let modules: BTreeMap<_, _> = decoded
        .stacks
        .frames()
        .iter()
        .filter_map(|frame| match frame {
            RawFrame::Named(frame) => Some((&*frame.name, frame.module.as_deref())),
            _ => None,
        })
        .collect();
    assert_eq!(modules["work(int, char (*)(long))"], Some("a b"));
    assert_eq!(modules["leaf"], None);
}

#[test]
fn heads_with_whatever_fields() {
    let head = |line| Head::parse(line).map(|h| (h.comm, h.pid, h.tid, h.time, h.event, h.rest));
    let (t, event) = (Some(1_500_000_000), Some("cycles"));
    for (line, expected) in [
        ("a 1/2 [003] 1.5:  77 cycles:u: ", Some(("a", Some(1), 2, t, event, ""))),
        ("a  2 1.5: cycles: ", Some(("a", None, 2, t, event, ""))),
        ("         a b  2 [000] 1.500000: 1 cycles:ppp:", Some(("a b", None, 2, t, event, ""))),
        ("a 2 cycles:", Some(("a", None, 2, None, event, ""))),
        ("a 2", Some(("a", None, 2, None, None, ""))),
        ("w/0:1 -1/-1 [0] 1.5: 1 cycles:", Some(("w/0:1", Some(-1), -1, t, event, ""))),
        ("1 2 3 4/5 1.5: cycles:", Some(("1 2 3", Some(4), 5, t, event, ""))),
        ("a 2 1.5: 1 cycles:  12 f+0x1 (/x)", Some(("a", None, 2, t, event, "12 f+0x1 (/x)"))),
        (
            "a 2 1.5: 1 sched:sched_switch: prev_comm=x",
            Some(("a", None, 2, t, Some("sched:sched_switch"), "prev_comm=x")),
        ),
        ("a", None),
        ("", None),
        ("a b c", None),
        ("\t12 f (x)", None),
        ("# a 2", None),
        ("a 99999999999999999999 1.5: cycles:", None),
    ] {
        assert_eq!(head(line), expected, "{line}");
    }
}

#[test]
fn frames_with_whatever_fields() {
    let parse = |line| Line::parse(line).map(|line| (line.address, line.symbol, line.module));
    for (line, expected) in [
        ("\t 12 f+0x1 (/x)", Some((18, "f", "/x"))),
        ("\t 12 operator+0xg (/x)", Some((18, "operator+0xg", "/x"))),
        ("\t 12 f(int)+0x1 (/a (b)/x)", Some((18, "f(int)+0x1 (/a", "b)/x"))),
        ("\t 12 [unknown] ([unknown])", Some((18, "[unknown]", "[unknown]"))),
        ("\t 12 (/x (deleted))", Some((18, "", "/x (deleted)"))),
        ("\t 12 f", Some((18, "f", ""))),
        ("\t 12", Some((18, "", ""))),
        ("\t 12 )", Some((18, ")", ""))),
        ("\t 12 f(int)", Some((18, "f(int)", ""))),
        ("\t 00000000000000012 f (x)", None),
        ("\t +12 f (x)", None),
        ("\t main.c:12", None),
    ] {
        assert_eq!(parse(line), expected, "{line}");
    }
}

fn metadata() -> crate::model::profile::Metadata {
    crate::model::profile::Metadata {
        title: String::new(),
        target: String::new(),
        engine: String::new(),
        start: std::time::UNIX_EPOCH,
        duration: Duration::ZERO,
        frequency: None,
    }
}

#[test]
fn a_frame_in_nothing_cuts_the_stack() {
    let text = "a 1/1 1.0: 1 cycles: \n\t 12 f (/x)\n\t 99 [unknown] ([unknown])\n\t 13 g (/x)\n\n";
    let decoded = read(text.as_bytes(), &Options::default()).unwrap();
    assert_eq!(lines(text, &Options::default()), ["a;[truncated: unknown mapping];f 1"]);
    let recording = decoded.recording(metadata());
    assert_eq!((recording.samples, recording.complete), (1, 0));
    assert_eq!(recording.losses.truncated[&Truncation::UnknownMapping], 1);
    let ended = "a 1/1 1.0: 1 cycles: \n\t 12 f (/x)\n\tffffffffffffffff [unknown] ([unknown])\n\n";
    assert_eq!(lines(ended, &Options::default()), ["a;[truncated: unknown mapping];f 1"]);
    // Code that the kernel was given at run time has no name at times.
    let made = "a 1/1 1.0: 1 cycles: \n\tffffffffc0001234 [unknown] ([unknown])\n\t 12 f (/x)\n\n";
    assert_eq!(lines(made, &Options::default()), ["a;f;[unknown]_[k] 1"]);
}

#[test]
fn what_is_lost_is_drawn() {
    let text = "perf-exec  8018/8018   1.163635: PERF_RECORD_LOST lost 143\n\
                a 1/1 1.0: 1 cycles: \n\t 12 f (/x)\n\na  8018 1.163700: PERF_RECORD_LOST lost 1\n";
    let mut decoded = read(text.as_bytes(), &Options::default()).unwrap();
    assert_eq!((decoded.samples, decoded.stacks.total(0)), (145, 145));
    decoded.remarks.clear();
    let recording = decoded.recording(metadata());
    assert_eq!((recording.samples, recording.complete), (145, 1));
    assert_eq!(recording.losses.lost[&Loss::RingFull], 144);
}

#[test]
fn processes_have_the_names_of_their_first_threads() {
    let text = "main 0/0 0.0: PERF_RECORD_COMM: old:7/7\n\
                main 0/0 0.0: PERF_RECORD_FORK(7:8):(7:7)\n\
                worker 7/8 1.0: 1 cycles: \n\t 12 f (/x)\n\n\
                main 7/7 1.5: PERF_RECORD_COMM exec: a: b:7/7\n\
                x 9/10 1.0: 1 cycles: \n\t 12 f (/x)\n\nx 9 1.0: PERF_RECORD_COMM: broken\n";
    assert_eq!(lines(text, &Options::default()), ["a: b;f 1", "x;f 1"]);
    let forged = "a 1 1.0: 1 ftrace:print: x: PERF_RECORD_LOST lost 5\n";
    assert_eq!(lines(forged, &Options::default()), ["a 1"]);
}

#[test]
fn one_event_is_drawn() {
    let text = "a 1/1 1.0: 1 cycles:u: \n\t 12 f (/x)\n\na 1/1 1.0: page-faults: \n\t 13 g (/x)\n\n\
                a 1/1 1.0: 1 cycles:u: \n\t 14 h (/x)\n\n";
    let options = |event| Options { event, ..Options::default() };
    assert_eq!(lines(text, &options(None)), ["a;f 1", "a;h 1"]);
    assert_eq!(lines(text, &options(Some("page-faults"))), ["a;g 1"]);
    let remarks = read(text.as_bytes(), &options(None)).unwrap().remarks;
    assert!(remarks[0].contains("cycles is drawn, and page-faults is not"), "{remarks:?}");
    let error = read(text.as_bytes(), &options(Some("x"))).unwrap_err().to_string();
    assert!(error.contains("\"x\"") && error.contains("cycles, page-faults"), "{error}");
}

#[test]
fn idle_cpus_are_shown_when_asked_for() {
    let text = "swapper 0/0 [000] 1.0: 1 cycles: \n\tffffffff81000000 idle ([kernel.kallsyms])\n\n\
                swapper     0 [000] 1.0: 1 cycles: \n";
    let error = read(text.as_bytes(), &Options::default()).unwrap_err();
    assert!(matches!(error, PerfScriptError::Idle), "{error}");
    let options = Options { idle: true, ..Options::default() };
    assert_eq!(lines(text, &options), ["swapper 1", "swapper;idle_[k] 1"]);
    let both = format!("{text}b 1/1 1.0: 1 cycles: \n\t 12 f (/tmp/perf-1.map)\n");
    assert_eq!(lines(&both, &Options::default()), ["b;f_[j] 1"]);
    let remarks = read(both.as_bytes(), &Options::default()).unwrap().remarks;
    assert!(remarks[0].starts_with("2 samples of idle CPUs"), "{remarks:?}");
}

#[test]
fn other_text_is_no_script() {
    for text in [
        "",
        "a;b;c 12\na;b 1\n",
        "main 12\n",
        "a b 12\n\n",
        "{\"nodes\":[]}",
        "<svg>",
        "f (a.py:1);g (b.py:2) 12\nf (a.py:1) 1\n",
        "swapper;x 12 1.0: f\n",
    ] {
        assert!(!is_script(text.as_bytes()), "{text}");
    }
    for text in ["a 1 1.0: 1 cycles:", "a 1\n\t 12 f (x)\n", "a 1 1.0: 1 cycles: 12 f (/x)\n"] {
        assert!(is_script(text.as_bytes()), "{text}");
    }
    assert!(matches!(read(&b"x y\n\n\tz\n"[..], &Options::default()), Err(PerfScriptError::Empty)));
}

#[test]
fn endless_stacks_and_lines_have_a_bound() {
    let mut text = "a 1/1 1.0: 1 cycles: \n".to_owned();
    text.push_str(&"\t 12 f (/x)\n".repeat(MAX_FRAMES + 5));
    text.push_str(&format!("\t 12 {} (/x)\n", "n".repeat(3 << 20)));
    text.push_str("\nb 2/2 1.0: 1 cycles: \n\t 12 g (/x)\n");
    let lines = lines(&text, &Options::default());
    assert!(lines[0].starts_with("a;[truncated: too deep];f;f;"), "{}", &lines[0][..40]);
    assert_eq!(lines[1], "b;g 1");
}

proptest! {
    #[test]
    fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0..TEXT.len()) {
        let mut text = TEXT.as_bytes()[..at].to_vec();
        text.extend(bytes);
        let _ = is_script(&text);
        let _ = read(&*text, &Options::default());
    }
}
