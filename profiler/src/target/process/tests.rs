//! Made-up `/proc` folders, and the real one seen by this test.

use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A folder that looks like `/proc`.
struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        symlink("77", dir.path().join("self")).unwrap();
        Self { dir }
    }

    fn proc(&self) -> Proc {
        Proc::at(self.dir.path().to_owned())
    }

    fn file(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn process(&self, pid: u32, comm: &[u8], state: &str, ppid: u32, flags: u64, threads: u32) {
        let mut stat = format!("{pid} (").into_bytes();
        stat.extend_from_slice(comm);
        stat.extend_from_slice(
            format!(") {state} {ppid} 1 1 0 -1 {flags} 0 0 0 0 1 2 0 0 20 0 {threads} 0 4242 0\n")
                .as_bytes(),
        );
        self.file(&format!("{pid}/stat"), stat);
        self.status(pid, pid);
    }

    fn status(&self, pid: u32, tgid: u32) {
        let text = format!(
            "Name:\t\u{fffd}odd: name\nUmask:\t0022\nTgid:\t{tgid}\nPid:\t{pid}\n\
             Uid:\t1000\t1001\t1002\t1003\nNSpid:\t{pid}\t17\t3\n"
        );
        self.file(&format!("{pid}/status"), text);
    }
}

#[test]
fn odd_names_are_taken_as_they_are() {
    let fixture = Fixture::new();
    for (pid, comm) in
        [(5, &b"a) R 1 (b c"[..]), (6, b"two\nlines"), (7, b"\xff\xfe(("), (8, b""), (9, b")")]
    {
        fixture.process(pid, comm, "S", 1, 0x40_0000, 3);
        let info = fixture.proc().target(pid).unwrap();
        let expected = ProcessInfo {
            pid,
            comm: comm.to_vec(),
            ppid: 1,
            start_time: 4242,
            uid: 1001,
            kernel_thread: false,
            zombie: false,
            threads: 3,
        };
        assert_eq!(info, expected);
    }
    assert_eq!(fixture.proc().pids().unwrap(), [5, 6, 7, 8, 9]);
    fixture.file("5/comm", "two\nlines\n\n");
    assert_eq!(fixture.proc().comm(5).unwrap(), b"two\nlines\n");
    fixture.file("5/task/51/comm", b"\xffx\n");
    fixture.file("5/task/5/comm", "");
    fixture.file("5/task/junk/comm", "");
    assert_eq!(fixture.proc().thread_comm(5, 51).unwrap(), b"\xffx");
    assert_eq!(fixture.proc().threads(5).unwrap(), [5, 51]);
}

#[test]
fn each_refusal_is_one_sentence() {
    let fixture = Fixture::new();
    let said = |pid| fixture.proc().target(pid).unwrap_err().to_string();
    assert!(matches!(fixture.proc().target(12), Err(ProcError::NoSuchProcess { pid: 12 })));
    assert!(said(12).contains("no process 12"));
    assert!(said(0).contains("idle task"));

    fixture.status(13, 10);
    assert!(matches!(fixture.proc().target(13), Err(ProcError::Thread { tid: 13, tgid: 10 })));
    assert!(said(13).contains("--pid 10"));

    fixture.process(14, b"gone\x1b[2J", "Z", 1, 0, 1);
    assert!(matches!(fixture.proc().target(14), Err(ProcError::Zombie { .. })));
    assert!(said(14).contains("zombie") && !said(14).contains('\x1b'));
    fixture.process(15, b"leaderless", "Z", 1, 0, 4);
    assert!(fixture.proc().target(15).unwrap().zombie);

    fixture.process(77, b"us", "R", 1, 0, 1);
    assert!(said(77).contains("flame-graph itself"));

    fixture.process(2, b"kthreadd", "S", 0, 0x0020_8040, 1);
    let kernel = fixture.proc().target(2).unwrap();
    assert!(kernel.kernel_thread);
    assert!(kernel.remark().unwrap().contains("kernel thread"));
    fixture.process(16, b"user", "S", 0, 0, 1);
    assert_eq!(fixture.proc().target(16).unwrap().remark(), None);
}

#[test]
fn cut_and_senseless_files_are_errors() {
    let fixture = Fixture::new();
    for stat in [
        "",
        "5",
        "5 (",
        "5 )(",
        "5 (x)",
        "5 (x) S",
        "5 (x) S -1 1",
        "))))((((",
        "5 (x) S 1 1 1 0 -1 y",
    ] {
        fixture.status(5, 5);
        fixture.file("5/stat", stat);
        let error = fixture.proc().process(5).unwrap_err();
        assert!(matches!(error, ProcError::Malformed { .. }), "{stat}: {error}");
    }
    fixture.file("5/status", [b'x'; 200_000]);
    assert!(matches!(fixture.proc().process(5), Err(ProcError::Malformed { .. })));
    assert!(matches!(fixture.proc().ns_pid(5), Ok(5)));
    fixture.file("5/status", "NSpid:\tx\n");
    assert!(matches!(fixture.proc().ns_pid(5), Err(ProcError::Malformed { .. })));
    let missing = Proc::at(PathBuf::from("/no/such/folder"));
    assert!(matches!(missing.pids(), Err(ProcError::Read { .. })));
    assert!(matches!(missing.process(1), Err(ProcError::NoSuchProcess { pid: 1 })));
}

#[test]
fn families_namespaces_and_cgroups() {
    let fixture = Fixture::new();
    for (pid, ppid) in [(1, 0), (10, 1), (11, 10), (12, 10), (13, 12), (20, 1), (30, 31), (31, 30)]
    {
        fixture.process(pid, b"p", "S", ppid, 0, 1);
    }
    fixture.file("40/stat", "broken");
    let proc = fixture.proc();
    assert_eq!(proc.children(10).unwrap(), [11, 12]);
    assert_eq!(proc.descendants(&[10]).unwrap(), [11, 12, 13]);
    assert_eq!(proc.descendants(&[13]).unwrap(), [0; 0]);
    assert_eq!(proc.descendants(&[30]).unwrap(), [31], "a loop of parents ends");
    assert_eq!(proc.ns_pid(10).unwrap(), 3);

    fixture.file("10/cgroup", "4:memory:/old\n0::/system.slice/x.service\n");
    assert_eq!(proc.cgroup(10).unwrap().unwrap(), b"/system.slice/x.service");
    fixture.file("11/cgroup", "4:memory:/old\n");
    assert_eq!(proc.cgroup(11).unwrap(), None);
}

const MAPS: &[u8] = b"\
55d0c0a00000-55d0c0a02000 r--p 00000000 fd:01 123 /usr/bin/a b
55d0c0a02000-55d0c0a05000 r-xp 00002000 fd:01 123                        /usr/bin/a b
garbage
7f00-6f00 r-xp 0 00:00 0
7f0000000000-7f0000001000 r-xp 00000000 103:1abcd 18446744073709551615   /tmp/line\\012break\\x (deleted)
7f0000001000-7f0000002000 rwxp 00000000 00:00 0 
7f0000002000-7f0000003000 r-xp 00000000 00:01 1025 /memfd:\xff (deleted)
7f0000002000-7f0000003000 r-xp 00000000 00:01
7f0000002000-7f0000003000 r-xp 00000000 00:01 12x /a
7f0000002000-7f00000030000000000 r-xp 00000000 00:01 12 /a
7ffe1fff0000-7ffe1fff2000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]";

#[test]
fn mappings_of_all_kinds() {
    let fixture = Fixture::new();
    fixture.file("5/maps", MAPS);
    let all = fixture.proc().mappings(5).unwrap();
    assert_eq!(all, maps::parse(MAPS));
    let executable = fixture.proc().executable_mappings(5).unwrap();
    assert_eq!(executable, &all[1..]);
    assert_eq!(all[0].path, b"/usr/bin/a b");
    assert!(!all[0].executable);
    let paths: Vec<&[u8]> = executable.iter().map(|mapping| mapping.path.as_slice()).collect();
    let expected: [&[u8]; 6] = [
        b"/usr/bin/a b",
        b"/tmp/line\nbreak\\x (deleted)",
        b"",
        b"/memfd:\xff (deleted)",
        b"[vdso]",
        b"[vsyscall]",
    ];
    assert_eq!(paths, expected);
    let deleted = &executable[1];
    assert_eq!((deleted.start, deleted.end), (0x7f00_0000_0000, 0x7f00_0000_1000));
    assert_eq!((deleted.device, deleted.inode), ((0x103, 0x1abcd), u64::MAX));
    assert_eq!(executable[0].offset, 0x2000);
}

#[test]
fn threads_outlive_the_first() {
    let fixture = Fixture::new();
    fixture.process(5, b"main", "Z", 1, 0, 3);
    fixture.file("5/maps", "");
    fixture.file("5/task/5/stat", "5 (main) Z 1");
    for (tid, state) in [(6, "X"), (7, "S")] {
        let stat = format!("{tid} (t) {state} 1 1 1 0 -1 0 0 0 0 0 1 2 0 0 20 0 3 0 4242 0\n");
        fixture.file(&format!("5/task/{tid}/stat"), stat);
        fixture.file(&format!("5/task/{tid}/maps"), if tid == 7 { MAPS } else { b"" });
    }
    let proc = fixture.proc();
    assert_eq!(proc.living_thread(5).unwrap(), 7);
    assert_eq!(proc.mappings(5).unwrap(), maps::parse(MAPS));
    // All have ended.
    fixture.file("5/task/7/stat", "");
    assert!(matches!(proc.living_thread(5), Err(ProcError::NoSuchProcess { pid: 5 })));
    assert_eq!(proc.mappings(5).unwrap(), []);
    // A kernel thread.
    fixture.process(8, b"kworker", "I", 2, 0x0020_0000, 1);
    fixture.file("8/maps", "");
    assert_eq!(proc.mappings(8).unwrap(), []);
    assert_eq!(proc.living_thread(8).unwrap(), 8);
}

#[test]
fn huge_maps_are_read_line_by_line() {
    let fixture = Fixture::new();
    let mut text = vec![b'x'; 300_000];
    text.push(b'\n');
    for index in 0..70_000_u64 {
        let start = 0x1000 * (2 * index + 1);
        let line = format!("{start:x}-{:x} r-xp 00000000 00:00 0 \n", start + 0x1000);
        text.extend_from_slice(line.as_bytes());
    }
    text.extend_from_slice(&[b'y'; 100_000]);
    fixture.file("5/maps", &text);
    assert_eq!(fixture.proc().executable_mappings(5).unwrap().len(), 70_000);
}

#[test]
fn this_test_finds_itself() {
    let proc = Proc::new();
    let pid = std::process::id();
    assert_eq!(proc.own_pid(), Some(pid));
    assert!(proc.pids().unwrap().contains(&pid));
    let info = proc.process(pid).unwrap();
    assert_eq!(info.uid, rustix::process::geteuid().as_raw());
    assert!(!info.zombie && !info.kernel_thread && info.threads >= 1);
    assert!(matches!(proc.target(pid), Err(ProcError::Own { .. })));

    let code = this_test_finds_itself as *const () as u64;
    let mappings = proc.executable_mappings(pid).unwrap();
    let own = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&code)).unwrap();
    assert!(own.path.starts_with(b"/"));
    assert!(mappings.iter().all(|mapping| mapping.executable));
    assert!(proc.mappings(pid).unwrap().len() > mappings.len());

    let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    assert!(proc.threads(pid).unwrap().contains(&tid));
    assert!(!proc.thread_comm(pid, tid).unwrap().is_empty());
    if tid != pid {
        let error = proc.target(tid).unwrap_err();
        assert!(matches!(error, ProcError::Thread { tgid, .. } if tgid == pid), "{error}");
    }
}

#[test]
fn a_child_ends_as_a_zombie() {
    let proc = Proc::new();
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    assert!(proc.children(std::process::id()).unwrap().contains(&pid));
    assert!(proc.descendants(&[std::process::id()]).unwrap().contains(&pid));
    assert_eq!(proc.target(pid).unwrap().ppid, std::process::id());
    drop(child.stdin.take());
    let ended = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        matches!(proc.target(pid), Err(ProcError::Zombie { .. }))
    });
    assert!(ended);
    child.wait().unwrap();
    assert!(matches!(proc.target(pid), Err(ProcError::NoSuchProcess { .. })));
}

proptest! {
    #[test]
    fn no_input_panics(text in proptest::collection::vec(any::<u8>(), 0..400), cut in 0..600_usize) {
        let _ = parse::stat(&text);
        let _ = parse::status_field(&text, b"Uid");
        let _ = maps::parse(&text);
        let mut lines = MAPS[..cut.min(MAPS.len())].to_vec();
        lines.extend_from_slice(&text);
        // However the reader cuts its chunks, the lines are the same.
        let mut chunked = Vec::new();
        maps::each_line(BufReader::with_capacity(1 + cut % 90, lines.as_slice()), |line| {
            chunked.extend(maps::parse_line(line));
            true
        }).unwrap();
        prop_assert_eq!(chunked, maps::parse(&lines));
    }
}
