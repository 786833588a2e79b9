//! Traces that are put together, block by block, whole and damaged.

use proptest::prelude::*;

use super::*;

const SAMPLER: &str = "Microsoft-DotNETCore-SampleProfiler";
const RUNTIME: &str = "Microsoft-Windows-DotNETRuntime";
const RUNDOWN: &str = "Microsoft-Windows-DotNETRuntimeRundown";

/// A trace that is put together.
struct File(Vec<u8>);

impl File {
    fn new() -> Self {
        let mut file = Self(b"Nettrace\x14\0\0\0!FastSerialization.1".to_vec());
        file.object("Trace", |body, _| {
            for number in [2024_u16, 2, 4, 29, 12, 30, 1, 500] {
                body.extend(number.to_le_bytes());
            }
            body.extend([1_000_u64, 1_000_000_000].map(u64::to_le_bytes).concat());
            body.extend([8_u32, 4711, 2, 1_000_000].map(u32::to_le_bytes).concat());
        });
        file
    }

    fn object(&mut self, name: &str, fill: impl FnOnce(&mut Vec<u8>, usize)) {
        self.0.extend([5, 5, 1]);
        self.0.extend([4_u32, 4, name.len() as u32].map(u32::to_le_bytes).concat());
        self.0.extend(name.as_bytes());
        self.0.push(6);
        let mut body = Vec::new();
        fill(&mut body, self.0.len());
        self.0.extend(body);
        self.0.push(6);
    }

    fn block(mut self, name: &str, content: &[u8]) -> Self {
        self.object(name, |body, at| {
            body.extend((content.len() as u32).to_le_bytes());
            body.resize((at + 4).next_multiple_of(4) - at, 0);
            body.extend(content);
        });
        self
    }

    fn events(self, name: &str, events: &[Vec<u8>]) -> Self {
        let mut block = [20_u16, 1].map(u16::to_le_bytes).concat();
        block.resize(20, 0);
        block.extend(events.concat());
        self.block(name, &block)
    }

    fn kinds(self) -> Self {
        let kind = |id: u32, provider, event: u32| {
            let mut payload = id.to_le_bytes().to_vec();
            payload.extend(text(provider));
            payload.extend(event.to_le_bytes());
            let mut event = vec![0x80, 0];
            event.extend(packed(payload.len() as u64));
            event.extend(payload);
            event
        };
        let kinds = [
            kind(1, SAMPLER, 0),
            kind(2, RUNDOWN, 144),
            kind(3, RUNTIME, 10),
            kind(4, RUNTIME, 1),
            kind(5, RUNTIME, 143),
        ];
        self.events("MetadataBlock", &kinds)
    }

    fn stacks(self, first: u32, stacks: &[&[u64]]) -> Self {
        let mut block = [first, stacks.len() as u32].map(u32::to_le_bytes).concat();
        for stack in stacks {
            block.extend((8 * stack.len() as u32).to_le_bytes());
            block.extend(stack.iter().flat_map(|address| address.to_le_bytes()));
        }
        self.block("StackBlock", &block)
    }

    fn point(self, threads: &[(u64, u32)]) -> Self {
        let mut block = 7_u64.to_le_bytes().to_vec();
        block.extend((threads.len() as u32).to_le_bytes());
        for (thread, sequence) in threads {
            block.extend(thread.to_le_bytes());
            block.extend(sequence.to_le_bytes());
        }
        self.block("SPBlock", &block)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(1);
        self.0
    }
}

fn text(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

fn packed(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// An event with a whole header, after `skipped` lost ones of its writer; times go by thousands.
fn event(kind: u32, writer: u64, skipped: u64, thread: u64, stack: u64, payload: &[u8]) -> Vec<u8> {
    let mut event = vec![0x80 | 0x0f];
    event.extend(packed(kind.into()));
    event.extend([packed(skipped), packed(writer), packed(0)].concat());
    event.extend([packed(thread), packed(stack), packed(1_000_000)].concat());
    event.extend(packed(payload.len() as u64));
    event.extend(payload);
    event
}

fn sample(thread: u64, stack: u64, managed: bool) -> Vec<u8> {
    event(1, 9, 0, thread, stack, &(1 + u32::from(managed)).to_le_bytes())
}

fn method(kind: u32, start: u64, size: u32, class: &str, name: &str) -> Vec<u8> {
    let mut payload = [1_u64, 2, start].map(u64::to_le_bytes).concat();
    payload.extend([size, 3, 4].map(u32::to_le_bytes).concat());
    payload.extend([text(class), text(name), text("void ()")].concat());
    event(kind, 9, 0, 5, 0, &payload)
}

fn tick(stack: u64, amount: u32, long: u64, name: &str) -> Vec<u8> {
    let mut payload = [amount, 0].map(u32::to_le_bytes).concat();
    payload.extend([0, 0]);
    payload.extend([long, 77].map(u64::to_le_bytes).concat());
    payload.extend(text(name));
    event(3, 9, 0, 5, stack, &payload)
}

fn folded(trace: &Trace) -> Vec<String> {
    let stacks = &trace.decoded.stacks;
    let line = |id, values: &[u64]| {
        let names: Vec<String> = stacks.root_first(id).into_iter().map(name).collect();
        format!("{} {}", names.join(";"), values[0])
    };
    let mut lines: Vec<String> = stacks.iter().map(|(id, values)| line(id, values)).collect();
    lines.sort();
    lines
}

fn name(frame: &RawFrame) -> String {
    match frame {
        RawFrame::Process(name) | RawFrame::Thread(name) => name.to_string(),
        RawFrame::Named(frame) => frame.name.to_string(),
        other => format!("{other:?}"),
    }
}

const SHOW: Show = Show { threads: false, idle: false };

fn small() -> Vec<u8> {
    File::new()
        .kinds()
        .stacks(1, &[&[0x1010, 0x2020], &[0x2010]])
        .events("EventBlock", &[sample(5, 1, true), sample(5, 1, true), sample(6, 2, false)])
        .point(&[(9, 3)])
        // Numbers begin anew.
        .stacks(1, &[&[0x2010]])
        .events("EventBlock", &[sample(5, 1, true)])
        .events(
            "EventBlock",
            &[
                method(2, 0x1000, 0x20, "App.Program", "Leaf"),
                method(2, 0x2000, 0x20, "App.Program", "Main"),
            ],
        )
        .end()
}

#[test]
fn samples_are_named_by_the_methods_that_come_last() {
    let trace = decode(&small(), SHOW, "app").unwrap();
    assert_eq!(
        folded(&trace),
        ["app;App.Program.Main 1", "app;App.Program.Main;App.Program.Leaf 2"]
    );
    assert_eq!((trace.decoded.samples, trace.complete), (3, 3));
    assert_eq!(trace.losses, Losses::default());
    assert_eq!(trace.decoded.frequency, Some(1000));
    let began = trace.decoded.start.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(began.as_millis(), 1_709_209_801_500);
    assert!(trace.decoded.remarks[0].contains("in 1 samples"), "{:?}", trace.decoded.remarks);
}

#[test]
fn waiting_threads_and_threads_are_shown_when_asked_for() {
    let idle = decode(&small(), Show { idle: true, ..SHOW }, "app").unwrap();
    assert!(folded(&idle).contains(&"app;App.Program.Main;[waiting or native] 1".to_owned()));
    assert!(idle.decoded.remarks.is_empty());
    let threads = decode(&small(), Show { threads: true, ..SHOW }, "app").unwrap();
    assert!(folded(&threads).contains(&"app;thread 5;App.Program.Main 1".to_owned()));
}

#[test]
fn a_caller_is_where_its_call_is() {
    // The call is the last instruction of the first method.
    let trace = File::new()
        .kinds()
        .stacks(1, &[&[0x3000, 0x1020], &[0x1020]])
        .events("EventBlock", &[sample(5, 1, true), sample(5, 2, true), sample(5, 3, true)])
        .events(
            "EventBlock",
            &[method(5, 0x1000, 0x20, "", "caller"), method(5, 0x1020, 1, "B", "b")],
        )
        .end();
    let lines = folded(&decode(&trace, SHOW, "app").unwrap());
    assert_eq!(lines, ["app 1", "app;B.b 1", "app;caller;[unknown method] 1"]);
}

#[test]
fn lost_events_are_counted_once() {
    // The header before said 4, this one's says 2.
    let back = u64::from(1_u32.wrapping_sub(4));
    let one = |skipped| event(1, 9, skipped, 5, 1, &2_u32.to_le_bytes());
    let trace = File::new()
        .kinds()
        .stacks(1, &[&[0x1000]])
        .events("EventBlock", &[one(0), one(2), event(4, 8, back, 8, 0, b"of another kind")])
        // Two more before it, of one writer.
        .point(&[(9, 6), (8, 2)])
        .events("EventBlock", &[event(1, 9, 6, 5, 1, &2_u32.to_le_bytes())])
        .end();
    let trace = decode(&trace, SHOW, "app").unwrap();
    assert_eq!(trace.losses.lost, [(Loss::RuntimeBuffer, 2 + 1 + 2)].into());
}

#[test]
fn stacks_of_a_hundred_frames_are_cut() {
    let deep: Vec<u64> = vec![0x1001; 100];
    let trace = File::new()
        .kinds()
        .stacks(1, &[&deep, &deep[1..]])
        .events("EventBlock", &[sample(5, 1, true), sample(5, 2, true)])
        .end();
    let trace = decode(&trace, SHOW, "app").unwrap();
    assert_eq!((trace.decoded.samples, trace.complete), (2, 1));
    assert_eq!(trace.losses.truncated, [(Truncation::TooDeep, 1)].into());
    assert!(folded(&trace)[0].contains("app;Truncated(TooDeep);"));
}

#[test]
fn allocations_are_bytes_of_a_type() {
    let ticks = [tick(1, 7, 5_000_000_000, "System.Byte[]"), tick(1, 7, 0, "System.String")];
    let trace = File::new()
        .kinds()
        .stacks(1, &[&[0x1001]])
        .events("EventBlock", &ticks)
        .events("EventBlock", &[tick(1, 9, 9, "System.String"), method(2, 0x1000, 9, "A", "Make")])
        .end();
    let trace = decode(&trace, SHOW, "app").unwrap();
    assert_eq!(trace.decoded.metric.unit, Unit::Bytes);
    let lines = ["app;A.Make;new System.Byte[] 5000000000", "app;A.Make;new System.String 16"];
    assert_eq!(folded(&trace), lines);
    assert_eq!(trace.decoded.samples, 3);
}

#[test]
fn what_is_wrong_is_said() {
    let failed = |bytes: &[u8]| decode(bytes, SHOW, "app").unwrap_err().to_string();
    assert!(failed(b"Nettrack").contains("no nettrace"));
    assert!(failed(b"Nettrace\0\0\0\0\x06\0\0\0\0\0\0\0").contains("version 6"));
    assert!(failed(b"Nettrace").contains("no thread"));
    assert!(failed(&File::new().end()).contains("no thread"));
    let idle = File::new().kinds().events("EventBlock", &[sample(5, 1, false)]).end();
    assert!(failed(&idle).contains("--idle"));
    let mut strange = File::new();
    let at = strange.0.len();
    strange.0.extend([5, 5, 2]);
    assert!(failed(&strange.0).contains(&format!("damaged at byte {at}")));
    let huge = File::new();
    let mut huge = huge.block("EventBlock", &[0; 40]).0;
    let size = huge.len() - 41 - 4;
    huge[size - 3..size + 1].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(failed(&huge).contains("damaged"));
}

#[test]
fn what_comes_before_damage_is_drawn() {
    let whole = small();
    let read = |bytes: &[u8]| decode(bytes, SHOW, "app");
    let cut = read(&whole[..whole.len() - 1]).unwrap();
    assert!(cut.decoded.remarks.iter().any(|remark| remark.contains("ends in the middle")));
    assert_eq!(cut.decoded.samples, 3);
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() = 77;
    let damaged = read(&damaged).unwrap();
    assert!(damaged.decoded.remarks.iter().any(|remark| remark.contains("damaged at byte")));
    assert_eq!(damaged.decoded.samples, 3);
}

#[test]
fn it_reads_the_same_in_pieces() {
    let whole = small();
    let mut decoder = Decoder::new(SHOW);
    for byte in &whole {
        assert!(!decoder.has_ended());
        decoder.feed(&[*byte]).unwrap();
    }
    assert!(decoder.has_ended());
    assert_eq!(decoder.progress(), (4, 0));
    let trace = decoder.finish("app", |thread| thread.to_string());
    assert_eq!(folded(&trace), folded(&decode(&whole, SHOW, "app").unwrap()));
}

proptest! {
    #[test]
    fn any_blocks_are_read(body: Vec<u8>, kind in 0_usize..4) {
        let name = ["EventBlock", "MetadataBlock", "StackBlock", "SPBlock"][kind];
        let _ = decode(&File::new().kinds().block(name, &body).end(), SHOW, "app");
        let mut events = vec![20, 0, 1, 0];
        events.resize(20, 0);
        events.extend(body);
        let _ = decode(&File::new().kinds().block("EventBlock", &events).end(), SHOW, "app");
    }
}
