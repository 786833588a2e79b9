//! Tests of the folded codec.

use proptest::prelude::*;

use super::*;

fn text(stacks: &Stacks<Frame>) -> String {
    let mut out = Vec::new();
    write(stacks, 0, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn one(frames: &[Frame]) -> Stacks<Frame> {
    let mut stacks = Stacks::new(1);
    let id = stacks.intern(frames);
    stacks.add(id, 0, 7);
    stacks
}

fn process(name: &str) -> Frame {
    Frame::symbol(name, FrameKind::Process)
}

#[test]
fn annotations_follow_the_kind() {
    let mut inlined = Frame::symbol("tiny", FrameKind::Native);
    inlined.inlined = true;
    let stacks = one(&[
        process("web server"),
        Frame::symbol("main", FrameKind::Native),
        inlined,
        Frame::symbol("Lfoo;::bar", FrameKind::Jit),
        Frame::placeholder("[libx.so+0x1f]", FrameKind::Native),
        Frame::symbol("do_syscall_64", FrameKind::Kernel),
    ]);
    assert_eq!(
        text(&stacks),
        "web server;main;tiny_[i];Lfoo\\x3b::bar_[j];[libx.so+0x1f];do_syscall_64_[k] 7\n"
    );
}

#[test]
fn an_inlined_kernel_frame_is_a_kernel_frame() {
    let mut frame = Frame::symbol("get_page", FrameKind::Kernel);
    frame.inlined = true;
    assert_eq!(frame_text(&frame), "get_page_[k]");
}

#[test]
fn no_name_can_pose_as_a_frame_or_a_line() {
    let forged = "a;b 1\nroot;[lost: all] 99\r";
    let written = text(&one(&[process(forged), Frame::symbol(forged, FrameKind::Native)]));
    assert_eq!(written.lines().count(), 1);
    assert_eq!(written.matches(';').count(), 1);
    for name in ["[truncated: too deep]", "[lost: ring buffer full]", "[libc.so.6+0x1]"] {
        assert!(!frame_text(&Frame::symbol(name, FrameKind::Native)).starts_with('['));
        assert!(!frame_text(&Frame::placeholder(name, FrameKind::Process)).starts_with('['));
    }
    let posing = Frame::placeholder("[lost: x+0x10]", FrameKind::Native);
    assert!(!frame_text(&posing).starts_with('['));
    for name in ["f_[k]", "f_[i]", "f_[j]", "_[k]"] {
        let text = frame_text(&Frame::symbol(name, FrameKind::Native));
        assert!(annotation(&text).is_none(), "{text}");
    }
}

#[test]
fn markers_are_read_as_markers() {
    let folded = read(&b"app;[truncated: too deep];f 3\n[unknown];f 1\n"[..]).unwrap();
    let kinds: Vec<_> = folded.stacks.frames().iter().map(|f| (f.kind, f.symbol)).collect();
    assert_eq!(
        kinds,
        [
            (FrameKind::Process, true),
            (FrameKind::Marker, false),
            (FrameKind::Native, true),
            (FrameKind::Marker, false)
        ]
    );
}

#[test]
fn other_tools_backslashes_and_blanks_are_kept() {
    let input = "# made by hand\r\n\r\nphp;App\\Foo\\bar;C:\\x64\\y  5\r\n  a;worker 3 2 \n";
    let folded = read(input.as_bytes()).unwrap();
    assert_eq!(text(&folded.stacks), "a;worker 3 2\nphp;App\\Foo\\bar;C:\\x64\\y 5\n");
}

#[test]
fn equal_stacks_are_added_up() {
    let folded = read(&b"a;b 1\na;c 2\na;b 3\n"[..]).unwrap();
    assert_eq!(text(&folded.stacks), "a;b 4\na;c 2\n");
}

#[test]
fn bytes_that_are_not_utf8_are_shown() {
    let folded = read(&b"a;caf\xe9 2\na;\xff\xfe 1\n"[..]).unwrap();
    assert_eq!(folded.not_utf8, 2);
    let written = text(&folded.stacks);
    assert_eq!(written, "a;\\xff\\xfe 1\na;caf\\xe9 2\n");
    assert_eq!(text(&read(written.as_bytes()).unwrap().stacks), written);
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let fails = |input: &str| read(input.as_bytes()).unwrap_err().to_string();
    assert!(fails("a 1\nmain;f\n").starts_with("line 2 does not end in a count"));
    assert!(fails("a;b 1.5\n").starts_with("line 1 does not end in a count"));
    assert!(fails("a;b -1\n").starts_with("line 1 does not end in a count"));
    assert!(fails("12\n").starts_with("line 1 has a count but no stack"));
    assert!(fails("a 18446744073709551616\n").starts_with("line 1 has a count above"));
    assert!(fails("a 18446744073709551615\nb 1\n").starts_with("up to line 2 the counts"));
    for empty in ["", "\n\n", "# nothing\n", "a;b 0\n"] {
        assert!(matches!(read(empty.as_bytes()), Err(FoldedError::Empty)), "{empty:?}");
    }
}

#[test]
fn limits_hold() {
    let deep = |frames: usize| format!("{} 1", vec!["f"; frames].join(";"));
    assert!(read(deep(MAX_FRAMES).as_bytes()).is_ok());
    assert!(matches!(read(deep(MAX_FRAMES + 1).as_bytes()), Err(FoldedError::TooDeep { line: 1 })));
    let long = format!("a 1\n{} 1", "x".repeat(MAX_LINE - 2));
    assert!(read(long.as_bytes()).is_ok());
    let longer = format!("a 1\n{} 1", "x".repeat(MAX_LINE - 1));
    assert!(matches!(read(longer.as_bytes()), Err(FoldedError::LongLine { line: 2 })));
}

#[test]
fn names_have_a_limit() {
    let mut reader = Reader {
        stacks: Stacks::new(1),
        names: FxHashMap::default(),
        frames: Vec::new(),
        max_names: 3,
        total: 0,
    };
    reader.line(1, "a;b;c;b;a 1").unwrap_err();
    let mut reader =
        Reader { max_names: 4, frames: Vec::new(), names: FxHashMap::default(), ..reader };
    reader.line(1, "a;b;c;b;a 1").unwrap();
    assert!(matches!(reader.line(2, "a;d 1"), Err(FoldedError::TooManyNames { line: 2 })));
}

/// Names that stress the escapes.
fn name() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[ -~]{1,6}",
        "\\PC{1,3}",
        any::<char>().prop_map(String::from),
        prop::sample::select(vec![
            ";", "\\", "\\x3b", "\\x5c", "\\u{85}", "\\u{", "\u{85}", "\u{202e}", " ", "[", "#",
            "# ", "_[k]", "_[i]", "_[w]", "[lost: ", "\n", "\r", "\t", "9",
        ])
        .prop_map(String::from),
    ];
    prop::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat())
}

/// Frames that the format can hold in full, as a stack's first frame or a later one.
fn frame(first: bool) -> BoxedStrategy<Frame> {
    if first {
        return name().prop_map(|name| process(&name)).boxed();
    }
    let kind = prop::sample::select(vec![FrameKind::Native, FrameKind::Kernel, FrameKind::Jit]);
    prop_oneof![
        (name(), kind, any::<bool>()).prop_map(|(name, kind, inlined)| {
            let mut frame = Frame::symbol(name, kind);
            frame.inlined = inlined && kind == FrameKind::Native;
            frame
        }),
        "[a-z. \\\\;\n]{1,8}".prop_map(|module| {
            Frame::placeholder(format!("[{module}+0x1f]"), FrameKind::Native)
        }),
        Just(Frame::placeholder("[truncated: too deep]", FrameKind::Marker)),
    ]
    .boxed()
}

fn stacks() -> impl Strategy<Value = Stacks<Frame>> {
    let stack = (frame(true), prop::collection::vec(frame(false), 0..5), 1..1000_u64);
    prop::collection::vec(stack, 1..8).prop_map(|all| {
        let mut stacks = Stacks::new(1);
        for (first, rest, count) in all {
            let id = stacks.intern(std::iter::once(&first).chain(&rest));
            stacks.add(id, 0, count);
        }
        stacks
    })
}

/// Stacks with their counts, in an order that does not depend on how they were interned.
fn listed(stacks: &Stacks<Frame>) -> Vec<(String, u64)> {
    let mut all: Vec<_> =
        stacks.iter().map(|(id, v)| (format!("{:?}", stacks.root_first(id)), v[0])).collect();
    all.sort();
    all
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(stacks in stacks()) {
        let read = read(text(&stacks).as_bytes()).unwrap();
        prop_assert_eq!(listed(&read.stacks), listed(&stacks));
    }

    #[test]
    fn any_bytes_are_read_or_refused(input in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(folded) = read(&input[..]) {
            let once = text(&folded.stacks);
            let twice = text(&read(once.as_bytes()).unwrap().stacks);
            prop_assert_eq!(once, twice);
        }
    }

    #[test]
    fn any_text_is_stable_once_read(lines in prop::collection::vec(("\\PC{0,20}", 1..99_u64), 1..5)) {
        let input: String =
            lines.iter().map(|(stack, count)| format!("x;{stack} {count}\n")).collect();
        let once = text(&read(input.as_bytes()).unwrap().stacks);
        let twice = text(&read(once.as_bytes()).unwrap().stacks);
        prop_assert_eq!(once, twice);
    }
}
