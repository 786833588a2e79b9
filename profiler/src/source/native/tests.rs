//! Recorders, processes and modules, on made-up records and samples.

use std::{
    os::unix::fs::MetadataExt as _,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use object::{Object as _, ObjectSegment as _};
use profiler_ebpf::wire::{
    FRAME_EXACT, Mapping, Outcome, PageRows, ProcessMappings, Registers, Row, Rule, SampleHeader,
    mapping_kind,
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    Labels, Scope,
    compile::Compiler,
    limits::{Bound, Limits},
    modules::Modules,
    open::Place,
    perf_event::tables::VecTables,
    processes::{Interest, NewMapping, Processes},
    recorder::Recorder,
    regions::{region_at, wire_mappings},
    rows::Rows,
    samples::Sample,
    sideband::{Event, Identity, Record},
    tables::{Storage, Tables},
};
use crate::{
    model::{
        frame::RawFrame,
        loss::{Loss, Losses, Truncation},
    },
    source::session::Wake,
};

/// Tables with a kernel side that is told of processes.
struct Shared {
    plain: VecTables,
    mappings: Vec<Mapping>,
    room: usize,
    published: FxHashMap<u32, ProcessMappings>,
}

impl Storage for Shared {
    fn pages(&mut self) -> &mut [PageRows] {
        self.plain.pages()
    }
    fn rules(&mut self) -> &mut [Rule] {
        self.plain.rules()
    }
    fn mappings(&mut self) -> &mut [Mapping] {
        &mut self.mappings
    }
    fn segment(&mut self, number: usize) -> Option<&mut [Row]> {
        self.plain.segment(number)
    }
    fn add_segment(&mut self, number: usize) -> anyhow::Result<()> {
        self.plain.add_segment(number)
    }
    fn publish(&mut self, pid: u32, mappings: Option<ProcessMappings>) -> bool {
        match mappings {
            Some(mappings) => {
                let fits = self.published.contains_key(&pid) || self.published.len() < self.room;
                fits && {
                    self.published.insert(pid, mappings);
                    true
                }
            }
            None => self.published.remove(&pid).is_some(),
        }
    }
    fn pages_ref(&self) -> &[PageRows] {
        self.plain.pages_ref()
    }
    fn rules_ref(&self) -> &[Rule] {
        self.plain.rules_ref()
    }
    fn segment_ref(&self, number: usize) -> Option<&[Row]> {
        self.plain.segment_ref(number)
    }
}

fn limits(lowered: &[(Bound, usize)]) -> Limits {
    Limits::of(&Scope::Host, 99).lowered(lowered)
}

fn tables(limits: &Limits) -> Tables<Shared> {
    let storage = Shared {
        plain: VecTables::new(limits),
        mappings: vec![Mapping::default(); limits.get(Bound::Mappings)],
        room: limits.get(Bound::Processes),
        published: FxHashMap::default(),
    };
    Tables::new(storage, limits)
}

fn modules(limits: &Limits) -> Modules {
    Modules::new(Compiler::start(Arc::new(Wake::new().unwrap())).unwrap(), limits)
}

fn anonymous(start: u64, pages: u64) -> NewMapping {
    let identity = Identity::Inode { device: (0, 0), inode: 0, generation: 0 };
    let end = start + pages * 4096;
    NewMapping { start, end, offset: 0, identity, path: b"//anon".to_vec() }
}

/// The text of a program of this host, mapped at an address; and where its entry point is then.
fn program(path: &str, start: u64) -> (NewMapping, u64) {
    let bytes = std::fs::read(path).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let entry = file.entry();
    let holds = |segment: &object::Segment<'_, '_>| {
        (segment.address()..segment.address() + segment.size()).contains(&entry)
    };
    let text = file.segments().find(holds).unwrap();
    let (offset, size) = text.file_range();
    let identity = Identity::Inode {
        device: (0, 0),
        inode: std::fs::metadata(path).unwrap().ino(),
        generation: 0,
    };
    let path = path.as_bytes().to_vec();
    let mapping = NewMapping { start, end: start + size, offset, identity, path };
    (mapping, start + (entry - text.address()))
}

fn place(pid: u32, mapping: &NewMapping) -> Place<'_> {
    let NewMapping { start, end, identity, path, .. } = mapping;
    Place { pid, start: *start, end: *end, identity, path }
}

fn record(time: u64, pid: u32, tid: u32, event: Event) -> Record {
    Record { time, pid, tid, event }
}

fn fork(time: u64, pid: u32, tid: u32, parent: u32) -> Record {
    record(time, pid, tid, Event::Fork { parent_pid: parent, parent_tid: parent })
}

/// Follows two processes, or all; with mappings of one page each.
struct Followed {
    processes: Processes,
    modules: Modules,
    tables: Tables<Shared>,
    losses: Losses,
}

impl Followed {
    fn new(interest: Interest, lowered: &[(Bound, usize)]) -> Self {
        let limits = limits(lowered);
        let mut followed = Self {
            processes: Processes::new(interest, false),
            modules: modules(&limits),
            tables: tables(&limits),
            losses: Losses::default(),
        };
        for pid in [10, 20] {
            let mapped = [anonymous(0x1000, 1), anonymous(0x8000, 4)];
            followed.processes.add(pid, "p", [pid], mapped, &mut followed.modules);
        }
        followed
    }

    fn apply(&mut self, record: Record) {
        self.processes.apply(record, &mut self.modules, &mut self.tables);
    }

    fn publish(&mut self, want: &[u32]) -> usize {
        want.iter().for_each(|pid| self.processes.want(*pid));
        self.processes.publish(&self.modules, &mut self.tables, &mut self.losses);
        self.tables.settle();
        self.tables.storage().published.len()
    }
}

#[test]
fn a_child_has_its_parents_mappings_until_it_ends() {
    let only = Interest::Only { pids: FxHashSet::from_iter([10]), children: true };
    let mut followed = Followed::new(only, &[]);
    assert!(followed.processes.get(20).is_none(), "nobody asked for it");
    followed.apply(fork(1, 11, 11, 10));
    followed.apply(fork(2, 21, 21, 20));
    assert_eq!(followed.processes.get(11).unwrap().regions.len(), 2);
    assert!(followed.processes.get(21).is_none());
    assert_eq!(followed.publish(&[10, 11]), 2);
    followed.apply(record(3, 11, 11, Event::Exit));
    assert!(followed.processes.get(11).is_none());
    assert_eq!(followed.publish(&[]), 1);
    assert_eq!(followed.processes.take_ended(), [11]);
    // Its id may be another program's now.
    followed.apply(record(4, 11, 11, Event::Comm { name: b"x".to_vec(), exec: true }));
    assert!(followed.processes.get(11).is_none());
}

#[test]
fn what_is_looked_at_again_is_up_to_date() {
    let only = Interest::Only { pids: FxHashSet::from_iter([10]), children: true };
    let mut followed = Followed::new(only, &[]);
    assert_eq!(followed.publish(&[10]), 1);
    // The records of an exec and of a child were lost.
    let Followed { processes, modules, .. } = &mut followed;
    let adopted = processes.adopt(|pids| if pids == [10] { vec![10, 11, 12] } else { vec![] });
    assert_eq!(adopted, [11, 12]);
    processes.add(10, "q", [10], [anonymous(0x9000, 4)], modules);
    processes.add(12, "child", [12], [], modules);
    processes.add(20, "other", [20], [], modules);
    let mut pids: Vec<u32> = processes.pids().collect();
    pids.sort_unstable();
    assert_eq!((pids, processes.seen()), (vec![10, 12], 2));
    let process = processes.get(10).unwrap();
    assert_eq!((&*process.comm, process.regions.len()), ("q", 1));
    assert_eq!(followed.publish(&[]), 1, "the kernel side knows it still");
    let Followed { processes, modules, tables, .. } = &mut followed;
    processes.forget(10, modules, tables);
    processes.forget(10, modules, tables);
    assert_eq!((processes.take_ended(), processes.all_ended()), (vec![10], false));
    assert_eq!(followed.publish(&[]), 0);
}

#[test]
fn a_process_lives_as_long_as_its_last_thread() {
    let mut followed = Followed::new(Interest::Everything, &[]);
    followed.apply(fork(1, 10, 12, 10));
    followed.apply(record(2, 10, 10, Event::Exit));
    assert!(followed.processes.get(10).is_some());
    followed.apply(record(3, 10, 12, Event::Exit));
    assert!(followed.processes.get(10).is_none());
    assert_eq!(followed.processes.seen(), 2);
}

#[test]
fn exec_leaves_mappings_and_threads_behind() {
    let mut followed = Followed::new(Interest::Everything, &[]);
    followed.apply(fork(1, 10, 12, 10));
    followed.apply(record(2, 10, 10, Event::Comm { name: b"new".to_vec(), exec: true }));
    let process = followed.processes.get(10).unwrap();
    assert_eq!((&*process.comm, process.regions.len()), ("new", 0));
    followed.apply(record(3, 10, 10, Event::Exit));
    assert!(followed.processes.get(10).is_none(), "the other thread ended by exec");
}

#[test]
fn a_mapping_over_others_splits_them() {
    let mut followed = Followed::new(Interest::Everything, &[]);
    let NewMapping { identity, path, .. } = anonymous(0, 1);
    let event = Event::Mmap { start: 0x9000, len: 0x1000, offset: 0x5000, identity, path };
    followed.apply(record(1, 10, 10, event));
    let regions = followed.processes.get(10).unwrap().regions.clone();
    let spans: Vec<_> = regions.iter().map(|r| (r.start, r.end, r.offset)).collect();
    let expected = [
        (0x1000, 0x2000, 0),
        (0x8000, 0x9000, 0),
        (0x9000, 0xa000, 0x5000),
        (0xa000, 0xc000, 0x2000),
    ];
    assert_eq!(spans, expected);
    assert_eq!(region_at(&regions, 0x9fff).map(|r| r.offset), Some(0x5000));
    assert_eq!(region_at(&regions, 0x7fff), None);
}

#[test]
fn what_does_not_fit_is_counted_once_and_tried_again_when_there_is_room() {
    for (bound, room, loss) in
        [(Bound::Processes, 1, Loss::ProcessesFull), (Bound::Mappings, 3, Loss::MappingsFull)]
    {
        let mut followed = Followed::new(Interest::Everything, &[(bound, room)]);
        for _ in 0..5 {
            assert_eq!(followed.publish(&[10, 20]), 1, "{bound:?}");
        }
        assert_eq!(followed.losses.lost.get(&loss), Some(&1), "{bound:?}");
        let first = *followed.tables.storage().published.keys().next().unwrap();
        followed.apply(record(1, first, first, Event::Exit));
        followed.publish(&[]);
        // Mappings that were given back rest for two rounds.
        followed.apply(fork(2, 30, 30, 1));
        followed.publish(&[30]);
        followed.apply(record(3, 30, 30, Event::Exit));
        followed.publish(&[]);
        let published: Vec<_> = followed.tables.storage().published.keys().copied().collect();
        assert_eq!(published, [30 - first], "{bound:?}");
    }
}

/// Installs what is being compiled.
fn install<S: Storage>(modules: &mut Modules, tables: &mut Tables<S>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while modules.is_compiling() {
        assert!(Instant::now() < deadline, "compiling takes too long");
        modules.install(tables);
        tables.settle();
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn files_that_nobody_maps_give_their_rows_to_others() {
    let files = ["/bin/true", "/bin/sh"].map(|path| program(path, 0x10_0000).0);
    let plenty = limits(&[]);
    let rows = files.each_ref().map(|file| {
        let (mut modules, mut tables) = (modules(&plenty), tables(&plenty));
        let number = modules.find(&place(1, file));
        modules.request(number);
        install(&mut modules, &mut tables);
        let Rows::Installed(installed) = modules.rows(number) else { unreachable!("{file:?}") };
        installed.rows() as usize
    });
    let limits = limits(&[(Bound::Rows, rows[0].max(rows[1]))]);
    let (mut modules, mut tables) = (modules(&limits), tables(&limits));
    let [first, second] = files.each_ref().map(|file| modules.find(&place(1, file)));
    for number in [first, second] {
        modules.hold(number);
        modules.request(number);
        install(&mut modules, &mut tables);
    }
    assert!(matches!(modules.rows(first), Rows::Installed(_)));
    assert!(matches!(modules.rows(second), Rows::Refused));
    assert_eq!(modules.losses().lost.get(&Loss::RowsFull), Some(&1));
    // A third file has rows once the first one has no users.
    modules.release(first);
    let third = modules.find(&Place { path: b"[vdso]", ..place(1, &files[0]) });
    modules.hold(third);
    modules.request(third);
    install(&mut modules, &mut tables);
    assert!(matches!(modules.rows(third), Rows::Installed(_)));
    if matches!(modules.rows(first), Rows::Idle) {
        assert!(matches!(modules.rows(second), Rows::Idle), "it may try again");
    }
}

#[test]
fn modules_that_nothing_points_into_are_forgotten() {
    let limits = limits(&[(Bound::Modules, 3)]);
    let (mut modules, mut tables) = (modules(&limits), tables(&limits));
    let find = |modules: &mut Modules, pid| {
        let number = modules.find(&place(pid, &anonymous(0x1000, 1)));
        modules.hold(number);
        number
    };
    let [kept, used, gone] = [1, 2, 3].map(|pid| find(&mut modules, pid));
    modules.record(kept);
    let beyond = find(&mut modules, 4);
    assert!(matches!(modules.rows(beyond), Rows::Refused));
    let in_use = |numbers: &[_]| numbers.iter().copied().collect();
    for number in [kept, used, gone, beyond] {
        modules.release(number);
    }
    modules.forget_unused(&mut tables, || in_use(&[used]));
    assert!([gone, beyond].contains(&find(&mut modules, 5)), "their numbers are free");
    assert_eq!(find(&mut modules, 1), kept);
    assert_eq!(find(&mut modules, 2), used);
    assert_eq!(modules.losses().lost.get(&Loss::ModulesFull), Some(&1));
}

const ANONYMOUS: u64 = 0x10_0000;
const PROGRAM: u64 = 0x20_0000;
const STACK: u64 = 0x7000;

/// A recorder that follows process 10: made code that was called from the start of a program.
fn recorder(lowered: &[(Bound, usize)]) -> (Recorder<Shared>, u64) {
    let limits = limits(lowered);
    let mut recorder = Recorder::new(
        tables(&limits),
        modules(&limits),
        Processes::new(Interest::Everything, false),
        Labels::default(),
        false,
        &limits,
    );
    let (program, entry) = program("/bin/true", PROGRAM);
    recorder.add_process(10, "p", [10], [anonymous(ANONYMOUS, 1), program]);
    (recorder, entry)
}

/// A sample that the kernel side handed up at its first frame.
fn handed_up(time: u64, entry: u64) -> Sample {
    let registers = Registers {
        ip: ANONYMOUS + 8,
        sp: STACK,
        bp: STACK,
        flags: FRAME_EXACT,
        ..Registers::default()
    };
    let header = SampleHeader {
        time,
        pid: 10,
        tid: 10,
        outcome: Outcome::RowsPending as u32,
        registers,
        ..SampleHeader::default()
    };
    // The leaf was called by other made code, and that by the program's first instructions.
    let words = [STACK + 16, ANONYMOUS + 100, STACK + 32, entry + 1];
    Sample {
        header,
        kernel: Box::default(),
        user: vec![(ANONYMOUS + 8) | FRAME_EXACT],
        stack: words.into_iter().flat_map(u64::to_ne_bytes).collect(),
        stack_start: STACK,
    }
}

/// Rounds until nothing waits any more.
fn settle(recorder: &mut Recorder<Shared>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while recorder.is_waiting() {
        assert!(Instant::now() < deadline, "rows take too long");
        thread::sleep(Duration::from_millis(1));
        recorder.round(Vec::new(), Vec::new(), u64::MAX);
    }
}

#[test]
fn a_walk_that_is_resumed_repeats_no_frame() {
    let (mut recorder, entry) = recorder(&[]);
    recorder.round(vec![handed_up(5, entry)], Vec::new(), u64::MAX);
    assert!(recorder.is_waiting(), "the program's rows are not there");
    assert_eq!(recorder.figures().frames, 0);
    settle(&mut recorder);
    // The next one does not wait.
    recorder.round(vec![handed_up(6, entry)], Vec::new(), u64::MAX);
    let recorded = recorder.finish();
    assert_eq!(recorded.losses, Losses::default());
    let stacks: Vec<_> = recorded.stacks.iter().collect();
    let [(stack, [2])] = stacks[..] else { unreachable!("{stacks:?}") };
    let frames = recorded.stacks.root_first(stack);
    let [RawFrame::Process(_), rest @ ..] = &frames[..] else { unreachable!("{frames:?}") };
    let addresses: Vec<_> = rest
        .iter()
        .map(|frame| match frame {
            RawFrame::User { address, .. } => address.lookup(),
            frame => unreachable!("{frame:?}"),
        })
        .collect();
    let offset = entry - PROGRAM + program("/bin/true", PROGRAM).0.offset;
    assert_eq!(addresses, [offset, ANONYMOUS + 99, ANONYMOUS + 8]);
    assert_eq!(recorded.figures.complete, 2);
    assert_eq!(recorded.figures.frames, 6);
}

#[test]
fn what_cannot_wait_is_cut_short_and_says_so() {
    let (mut recorder, entry) = recorder(&[(Bound::Waiting, 0)]);
    recorder.round(vec![handed_up(5, entry)], Vec::new(), u64::MAX);
    assert!(!recorder.is_waiting());
    let recorded = recorder.finish();
    assert_eq!(recorded.losses.truncated.get(&Truncation::WaitingFull), Some(&1));
    assert_eq!(recorded.stacks.total(0), 1);
}

#[test]
fn stacks_beyond_the_limit_keep_their_weight() {
    // The process and two frames; the program's rows have no room either.
    let (mut recorder, entry) = recorder(&[(Bound::Stacks, 2)]);
    let samples = (5..9).map(|time| handed_up(time, entry)).collect();
    recorder.round(samples, Vec::new(), u64::MAX);
    settle(&mut recorder);
    assert_eq!(recorder.figures().samples, 4);
    let recorded = recorder.finish();
    assert_eq!(recorded.losses.lost.get(&Loss::StacksFull), Some(&4));
    assert_eq!((recorded.stacks.total(0), recorded.figures.complete), (4, 0));
}

#[test]
fn a_thread_that_writes_the_record_of_its_end_is_known_still() {
    for (later, complete) in [(Vec::new(), 1), (vec![fork(7, 10, 12, 10)], 0)] {
        let (mut recorder, entry) = recorder(&[]);
        let mut sample = handed_up(8, entry);
        (sample.header.pid, sample.header.tid) = (10, 10);
        let mut records = vec![record(6, 10, 10, Event::Exit)];
        records.extend(later);
        recorder.round(vec![sample], records, u64::MAX);
        settle(&mut recorder);
        assert_eq!(recorder.finish().figures.complete, complete);
    }
}

#[test]
fn a_thread_that_has_left_its_memory_is_in_exec() {
    // Something that is told of the process meanwhile keeps the order of time.
    for (meanwhile, cut) in [(Vec::new(), None), (vec![fork(7, 10, 12, 10)], Some(&1))] {
        let (mut recorder, entry) = recorder(&[]);
        let left =
            Sample { kernel: [1 << 63].into(), stack: Box::default(), ..handed_up(6, entry) };
        let mut records = meanwhile;
        records.push(record(8, 10, 10, Event::Comm { name: b"new".to_vec(), exec: true }));
        recorder.round(vec![left], records, u64::MAX);
        settle(&mut recorder);
        let recorded = recorder.finish();
        assert_eq!(recorded.losses.truncated.get(&Truncation::CopyEnded), cut);
        assert_eq!(recorded.figures.samples, 1);
    }
}

#[test]
fn samples_and_records_are_taken_in_the_order_of_time() {
    let (mut recorder, entry) = recorder(&[]);
    let exec = record(7, 10, 10, Event::Comm { name: b"new".to_vec(), exec: true });
    // The later sample is drained first, and comes after the process became another program.
    let samples = vec![handed_up(9, entry), handed_up(5, entry)];
    recorder.round(samples, vec![exec], 2_000_006);
    assert_eq!(recorder.figures().samples, 1, "what may still be overtaken waits");
    recorder.round(Vec::new(), Vec::new(), u64::MAX);
    settle(&mut recorder);
    let recorded = recorder.finish();
    assert_eq!(recorded.figures.first_sample, 5);
    let mut names: Vec<_> = recorded
        .stacks
        .iter()
        .filter_map(|(stack, _)| match recorded.stacks.root_first(stack)[0] {
            RawFrame::Process(name) => Some(name.to_string()),
            _ => None,
        })
        .collect();
    names.sort();
    assert_eq!(names, ["new", "p"]);
}

#[test]
fn rows_without_room_are_said_to_the_walker() {
    let limits = limits(&[(Bound::Rows, 0)]);
    let (mut modules, mut tables) = (modules(&limits), tables(&limits));
    let mut processes = Processes::new(Interest::Everything, false);
    let (program, _) = program("/bin/true", PROGRAM);
    processes.add(10, "p", [10], [program], &mut modules);
    let regions = processes.get(10).unwrap().regions.clone();
    assert_eq!(wire_mappings(&regions, &modules)[0].kind, mapping_kind::PENDING);
    modules.request(regions[0].module);
    install(&mut modules, &mut tables);
    assert_eq!(wire_mappings(&regions, &modules)[0].kind, mapping_kind::NO_ROOM);
}
