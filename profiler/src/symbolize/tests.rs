//! Whole recordings through [`symbolize`], with programs compiled here.
//!
//! What is looked up through [`frames_of`] is asked of both readers, and they must agree.

use std::{
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol};

use super::*;
use crate::model::{
    loss::{Loss, Losses, Truncation},
    metric::Metric,
    profile::Metadata,
    stacks::Stacks,
};

const INLINING: &str = "\
#include <stdlib.h>
static inline __attribute__((always_inline)) int inner(volatile int *p) {
    return *p * 3; /* line 3 */
}
static inline __attribute__((always_inline)) int middle(volatile int *p) {
    return inner(p) + 1; /* line 6 */
}
__attribute__((noinline)) int outer(volatile int *p) {
    return middle(p) + 2; /* line 9 */
}
int main(int argc, char **argv) {
    volatile int x = argc;
    return outer(&x);
}
";

/// Runs a tool that the tests need.
fn run(tool: &str, arguments: &[&str], dir: &Path) {
    let out = Command::new(tool).args(arguments).current_dir(dir).output();
    let out = out.unwrap_or_else(|error| panic!("{tool} cannot be started: {error}"));
    assert!(out.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A folder with the inlining program, compiled as `prog` with these arguments.
fn inlining(arguments: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("prog.c"), INLINING).unwrap();
    let mut all = vec!["-O2", "prog.c", "-o", "prog"];
    all.extend(arguments);
    run("gcc", &all, dir.path());
    let path = dir.path().join("prog");
    (dir, path)
}

/// The file offsets of a function.
fn extent(path: &Path, symbol: &str) -> Range<u64> {
    let data = std::fs::read(path).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let found = file.symbols().find(|s| s.name() == Ok(symbol) && s.size() > 0).unwrap();
    let segment = file
        .segments()
        .find(|s| (s.address()..s.address() + s.size()).contains(&found.address()))
        .unwrap();
    let start = found.address() - segment.address() + segment.file_range().0;
    start..start + found.size()
}

fn module(path: &Path) -> Arc<Module> {
    Arc::new(Module {
        kind: ModuleKind::File,
        path: path.to_str().unwrap().into(),
        build_id: None,
        file: Some(File::open(path).unwrap()),
        refused: None,
    })
}

fn recording(modules: Vec<Arc<Module>>, stacks: &[&[RawFrame]]) -> Recording {
    let mut interned = Stacks::new(1);
    for stack in stacks {
        let id = interned.intern(stack.iter());
        interned.add(id, 0, 1);
    }
    Recording {
        metadata: Metadata {
            title: String::new(),
            target: String::new(),
            engine: String::new(),
            start: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            frequency: None,
        },
        metrics: vec![Metric::samples()],
        stacks: interned,
        modules,
        losses: Losses::default(),
        samples: stacks.len() as u64,
        complete: 0,
    }
}

/// The frames of one raw frame, root side first: the same ones whether the files are trusted, so
/// that blazesym reads them, or not.
fn frames_of(modules: Vec<Arc<Module>>, frame: RawFrame, options: &Options) -> Vec<Frame> {
    let [trusted, others] = [|_: &File| true, |_: &File| false].map(|trusts: fn(&File) -> bool| {
        let options = Options { trusts, ..options.clone() };
        frames_by(modules.clone(), frame.clone(), &options)
    });
    assert_eq!(described(&trusted), described(&others), "blazesym, and our own reader");
    trusted
}

fn frames_by(modules: Vec<Arc<Module>>, frame: RawFrame, options: &Options) -> Vec<Frame> {
    let profile = symbolize(recording(modules, &[&[frame]]), options);
    let (id, _) = profile.stacks.iter().next().unwrap();
    profile.stacks.root_first(id).into_iter().cloned().collect()
}

fn user(module: u32, address: CodeAddress) -> RawFrame {
    RawFrame::User { module: ModuleId(module), address }
}

fn names_at(module: &Arc<Module>, offset: u64, options: &Options) -> Vec<String> {
    let frame = user(0, CodeAddress::Exact(offset));
    let frames = frames_of(vec![Arc::clone(module)], frame, options);
    frames.into_iter().map(|frame| frame.name.to_string()).collect()
}

/// Frames as `name file:line`, with `_[i]` for inlined ones.
fn described(frames: &[Frame]) -> Vec<String> {
    let one = |frame: &Frame| {
        let file = frame.file.as_deref().map(file_name).unwrap_or("?");
        let inlined = if frame.inlined { "_[i]" } else { "" };
        format!("{}{inlined} {file}:{}", frame.name, frame.line.unwrap_or(0))
    };
    frames.iter().map(one).collect()
}

/// The deepest chain of calls among the instructions of `outer`.
fn deepest(path: &Path, module: &Arc<Module>, options: &Options) -> Vec<String> {
    let chains = extent(path, "outer").map(|offset| {
        let frame = user(0, CodeAddress::Exact(offset));
        described(&frames_of(vec![Arc::clone(module)], frame, options))
    });
    chains.max_by_key(Vec::len).unwrap()
}

const CHAIN: [&str; 3] = ["outer prog.c:9", "middle_[i] prog.c:6", "inner_[i] prog.c:3"];

#[test]
fn inlined_calls_are_expanded_outermost_first() {
    for debug in ["-gdwarf-4", "-gdwarf-5"] {
        let (_dir, path) = inlining(&[debug]);
        assert_eq!(deepest(&path, &module(&path), &Options::default()), CHAIN, "{debug}");
    }
}

#[test]
fn compressed_debug_sections_are_read() {
    for compression in ["-gz=zlib", "-gz=zstd"] {
        let (dir, path) = inlining(&["-g"]);
        let kind = compression.trim_start_matches("-gz=");
        run("objcopy", &[&format!("--compress-debug-sections={kind}"), "prog"], dir.path());
        let data = std::fs::read(&path).unwrap();
        let file = object::File::parse(&*data).unwrap();
        let info = file.section_by_name(".debug_info").unwrap().compressed_data().unwrap();
        assert_ne!(info.format, object::CompressionFormat::None, "{kind}");
        assert_eq!(deepest(&path, &module(&path), &Options::default()), CHAIN, "{kind}");
    }
}

#[test]
fn without_inlines_only_symbols_are_read() {
    let (_dir, path) = inlining(&["-g"]);
    let options = Options { inlines: false, ..Options::default() };
    assert_eq!(deepest(&path, &module(&path), &options), ["outer ?:0"]);
}

#[test]
fn every_link_layout_leads_to_the_same_names() {
    for layout in [&["-no-pie"][..], &["-static"], &["-static-pie"], &["-Wl,-z,noseparate-code"]] {
        let (_dir, path) = inlining(layout);
        let at = extent(&path, "main");
        assert_eq!(names_at(&module(&path), at.start, &Options::default()), ["main"], "{layout:?}");
        assert_eq!(names_at(&module(&path), at.end - 1, &Options::default()), ["main"]);
    }
}

#[test]
fn a_return_address_belongs_to_the_call_before_it() {
    let (_dir, path) = inlining(&[]);
    let end = extent(&path, "outer").end;
    let frame = user(0, CodeAddress::Return(end));
    let frames = frames_of(vec![module(&path)], frame, &Options::default());
    assert_eq!(described(&frames), ["outer ?:0"]);
}

#[test]
fn what_has_no_symbol_is_module_and_offset() {
    let (dir, path) = inlining(&[]);
    let offset = extent(&path, "outer").start;
    run("strip", &["prog"], dir.path());
    let expected = [format!("[prog+{offset:#x}]")];
    let module = module(&path);
    // The whole function is one frame.
    assert_eq!(names_at(&module, offset, &Options::default()), expected);
    assert_eq!(names_at(&module, offset + 1, &Options::default()), expected);
    let frames = frames_of(vec![module], user(0, CodeAddress::Exact(1 << 40)), &Options::default());
    assert_eq!(&*frames[0].name, "[prog+0x10000000000]");
    assert!(!frames[0].symbol);
}

#[test]
fn exported_symbols_name_a_stripped_library_but_no_more_than_their_size() {
    let (dir, path) = inlining(&["-shared", "-fPIC", "-fvisibility=hidden"]);
    let hidden = extent(&path, "outer").start;
    let source = dir.path().join("lib.c");
    std::fs::write(
        &source,
        "int __attribute__((noinline)) shown(int a) { return a * 5; }\n\
         static int __attribute__((noinline)) secret(volatile int *a) { return *a * 7; }\n\
         int also(volatile int *a) { return secret(a) + 1; }\n",
    )
    .unwrap();
    run("gcc", &["-O2", "-shared", "-fPIC", "lib.c", "-o", "lib.so"], dir.path());
    let library = dir.path().join("lib.so");
    let (shown, secret) = (extent(&library, "shown").start, extent(&library, "secret").start);
    run("strip", &["lib.so"], dir.path());
    run("strip", &["prog"], dir.path());
    let options = Options::default();
    assert_eq!(names_at(&module(&library), shown, &options), ["shown"]);
    assert_eq!(names_at(&module(&library), secret, &options), [format!("[lib.so+{secret:#x}]")]);
    assert_eq!(names_at(&module(&path), hidden, &options), [format!("[prog+{hidden:#x}]")]);
}

#[test]
fn hand_written_code_without_sizes_has_names_up_to_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let source = ".text\n.globl first\nfirst: nop\nnop\n.globl second\nsecond: nop\nret\n\
                  .data\n.globl thing\nthing: .long 1\n";
    std::fs::write(dir.path().join("asm.s"), source).unwrap();
    run("gcc", &["-shared", "-nostdlib", "asm.s", "-o", "asm.so"], dir.path());
    let path = dir.path().join("asm.so");
    let data = std::fs::read(&path).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let start = file.symbols().find(|s| s.name() == Ok("first")).unwrap().address();
    let at = |address| {
        let names = elf::names(&file, &[address]);
        names[0].map(|name| String::from_utf8_lossy(name).into_owned())
    };
    let names: Vec<_> = (start..start + 5).map(at).collect();
    let [first, second] = ["first", "second"].map(|name| Some(name.to_owned()));
    assert_eq!(names, [first.clone(), first, second.clone(), second, None]);
    assert_eq!(at(start - 1), None);
}

#[test]
fn a_deleted_file_keeps_its_names_and_its_successor_is_another() {
    let (dir, path) = inlining(&[]);
    let old = module(&path);
    let at = extent(&path, "outer").start;
    std::fs::remove_file(&path).unwrap();
    let other = INLINING.replace("outer", "another_name_that_is_longer");
    std::fs::write(dir.path().join("prog.c"), other).unwrap();
    run("gcc", &["-O2", "prog.c", "-o", "prog"], dir.path());
    let new = module(&path);
    let new_at = extent(&path, "another_name_that_is_longer").start;
    let stack = [user(0, CodeAddress::Exact(at)), user(1, CodeAddress::Exact(new_at))];
    let profile = symbolize(recording(vec![old, new], &[&stack]), &Options::default());
    let names: Vec<&str> = profile.stacks.frames().iter().map(|frame| &*frame.name).collect();
    assert_eq!(names, ["outer", "another_name_that_is_longer"]);
}

#[test]
fn rust_names_and_inlined_closures() {
    let source = "
#[inline(always)] fn twice(x: u64) -> u64 { unsafe { std::ptr::read_volatile(&x) * 2 } }
mod deep { #[inline(never)] pub fn work(x: u64) -> u64 {
    let add = |y: u64| super::twice(y) + 1;
    add(x) } }
fn main() { println!(\"{}\", deep::work(std::env::args().count() as u64)); }
";
    // The legacy mangling's option is unstable: it is what this compiler's standard library or
    // default uses, and the demangler's tests cover it.
    for options in [&[][..], &["-Csymbol-mangling-version=v0"]] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("prog.rs"), source).unwrap();
        run("rustc", &[&["-O", "-g", "prog.rs"], options].concat(), dir.path());
        let path = dir.path().join("prog");
        let data = std::fs::read(&path).unwrap();
        let file = object::File::parse(&*data).unwrap();
        let work = |s: &object::Symbol<'_, '_>| {
            s.name_bytes().is_ok_and(|name| names::demangle(name) == "prog::deep::work")
        };
        let symbol = file.symbols().find(work).unwrap();
        let at = extent(&path, symbol.name().unwrap());
        let module = module(&path);
        let chains = at.map(|offset| names_at(&module, offset, &Options::default()));
        let deepest = chains.max_by_key(Vec::len).unwrap();
        let expected = ["prog::deep::work", "prog::deep::work::{closure#0}", "prog::twice"];
        let found: Vec<_> =
            deepest.iter().map(|name| name.replace("{{closure}}", "{closure#0}")).collect();
        assert_eq!(found[..3], expected, "{options:?}");
    }
}

#[test]
fn cpp_names_are_short() {
    let dir = tempfile::tempdir().unwrap();
    let source = "
namespace shapes { struct Square { int side; __attribute__((noinline)) int area(volatile int *p) const; };
int Square::area(volatile int *p) const { return side * side + *p; } }
int main(int argc, char **argv) { shapes::Square s{argc}; volatile int x = 1; return s.area(&x); }
";
    std::fs::write(dir.path().join("prog.cc"), source).unwrap();
    run("g++", &["-O2", "-g", "prog.cc", "-o", "prog"], dir.path());
    let path = dir.path().join("prog");
    let at = extent(&path, "_ZNK6shapes6Square4areaEPVi").start;
    assert_eq!(names_at(&module(&path), at, &Options::default()), ["shapes::Square::area"]);
}

#[test]
fn frames_that_are_no_addresses_keep_their_meaning() {
    let stack = [
        RawFrame::Process("prog".into()),
        RawFrame::Thread("worker".into()),
        RawFrame::Truncated(Truncation::TooDeep),
        RawFrame::Lost(Loss::RingFull),
        RawFrame::Unmapped(CodeAddress::Exact(0x1234)),
        user(7, CodeAddress::Exact(0x1234)),
        RawFrame::Named(Frame::symbol("js", FrameKind::Jit)),
    ];
    let profile = symbolize(recording(Vec::new(), &[&stack]), &Options::default());
    let frames: Vec<_> =
        profile.stacks.frames().iter().map(|f| (&*f.name, f.kind, f.symbol)).collect();
    // `[unknown]` is there once: both are the same frame.
    assert_eq!(
        frames,
        [
            ("prog", FrameKind::Process, true),
            ("worker", FrameKind::Thread, true),
            ("[truncated: too deep]", FrameKind::Marker, false),
            ("[lost: ring buffer full]", FrameKind::Marker, false),
            ("[unknown]", FrameKind::Native, false),
            ("js", FrameKind::Jit, true),
        ]
    );
}

#[test]
fn a_broken_file_costs_only_its_names() {
    let (dir, path) = inlining(&["-g"]);
    let whole = std::fs::read(&path).unwrap();
    let at = extent(&path, "outer").start;
    let good = module(&path);
    let bad = dir.path().join("bad");
    for (number, cut) in (0..whole.len()).step_by(whole.len() / 40).enumerate() {
        let mut broken = whole[..cut].to_vec();
        // Also with bytes turned over here and there.
        for position in (number..broken.len()).step_by(97 + number) {
            broken[position] ^= 0xff;
        }
        std::fs::write(&bad, &broken).unwrap();
        let stack = [user(1, CodeAddress::Exact(at)), user(0, CodeAddress::Exact(at))];
        let modules = vec![Arc::clone(&good), module(&bad)];
        let profile = symbolize(recording(modules, &[&stack]), &Options::default());
        let last = profile.stacks.frames().iter().any(|frame| &*frame.name == "outer");
        assert!(last, "cut at {cut}");
    }
}

#[test]
fn the_vdso_has_names() {
    let image = vdso::image().unwrap();
    let file = object::File::parse(&*image).unwrap();
    let symbol = file.dynamic_symbols().find(|s| s.name() == Ok("__vdso_clock_gettime")).unwrap();
    let offset = symbol.address();
    let vdso = Arc::new(Module {
        kind: ModuleKind::Vdso,
        path: "[vdso]".into(),
        build_id: None,
        file: None,
        refused: None,
    });
    let name = names_at(&vdso, offset, &Options::default()).remove(0);
    assert!(name.ends_with("clock_gettime"), "{name}");
    let header = frames_of(vec![vdso], user(0, CodeAddress::Exact(3)), &Options::default());
    assert_eq!((&*header[0].name, header[0].symbol), ("[vdso+0x3]", false));
}

#[test]
fn kernel_functions_have_names_or_a_placeholder() {
    let dir = tempfile::tempdir().unwrap();
    let list = "ffffffff81000100 T do_work\nffffffffc0000000 t fuse_init\t[fuse]\n";
    std::fs::write(dir.path().join("kallsyms"), list).unwrap();
    let modules = "fuse 200704 1 - Live 0xffffffffc0000000\n";
    std::fs::write(dir.path().join("modules"), modules).unwrap();
    let options = Options { proc_root: dir.path().to_owned(), ..Options::default() };
    let at = |address, options: &Options| {
        let frame = RawFrame::Kernel(CodeAddress::Return(address));
        frames_of(Vec::new(), frame, options).remove(0)
    };
    let fuse = at(0xffff_ffff_c000_0010, &options);
    assert_eq!((&*fuse.name, fuse.kind), ("fuse_init", FrameKind::Kernel));
    assert_eq!(fuse.module.as_deref(), Some("fuse"));
    // A return address at the very start of a function returns into the one before.
    assert_eq!(&*at(0xffff_ffff_8100_0100, &options).name, "[kernel]");
    let unnamed = Options { kernel: false, ..options };
    assert_eq!(&*at(0xffff_ffff_c000_0010, &unnamed).name, "[kernel]");
}

#[test]
fn code_made_at_run_time_has_the_names_of_its_runtime() {
    let proc = tempfile::tempdir().unwrap();
    let folder = proc.path().join("42");
    std::fs::create_dir_all(folder.join("root/tmp")).unwrap();
    let me = rustix::process::getuid().as_raw();
    // The name of a process can be any bytes.
    let status =
        [b"Name:\t\xff\n".to_vec(), format!("Uid:\t{me}\t{me}\t{me}\t{me}\n").into_bytes()];
    std::fs::write(folder.join("status"), status.concat()).unwrap();
    std::fs::write(folder.join("root/tmp/perf-42.map"), "1000 10 JS:*fib@2 a.js:1\n").unwrap();
    let module = Arc::new(Module {
        kind: ModuleKind::Anonymous { pid: 42 },
        path: "//anon".into(),
        build_id: None,
        file: None,
        refused: None,
    });
    let options = Options { proc_root: proc.path().to_owned(), ..Options::default() };
    assert_eq!(names_at(&module, 0x1004, &options), ["JS:*fib@2 a.js:1"]);
    assert_eq!(names_at(&module, 0x2000, &options), ["[anonymous code]"]);
    let frame = user(0, CodeAddress::Exact(0x1004));
    assert_eq!(frames_of(vec![module], frame, &options)[0].kind, FrameKind::Jit);
}

/// Options with one folder of debug files.
fn debug_dir(dir: &Path) -> Options {
    Options { debug_dirs: vec![dir.to_owned()], ..Options::default() }
}

#[test]
fn a_debug_link_is_followed_when_its_checksum_matches() {
    let (dir, path) = inlining(&["-g", "-Wl,--build-id=none"]);
    let outer = extent(&path, "outer");
    run("objcopy", &["--only-keep-debug", "prog", "prog.debug"], dir.path());
    run("objcopy", &["--strip-all", "--add-gnu-debuglink=prog.debug", "prog"], dir.path());
    let module = module(&path);
    let deepest = |options: &Options| {
        let chains = outer.clone().map(|offset| {
            let frame = user(0, CodeAddress::Exact(offset));
            described(&frames_of(vec![Arc::clone(&module)], frame, options))
        });
        chains.max_by_key(Vec::len).unwrap()
    };
    // Beside the file, below the debug folder, and symbols alone.
    assert_eq!(deepest(&Options::default()), CHAIN);
    let debug = tempfile::tempdir().unwrap();
    let below = debug.path().join(dir.path().strip_prefix("/").unwrap());
    std::fs::create_dir_all(&below).unwrap();
    let moved = below.join("prog.debug");
    std::fs::copy(dir.path().join("prog.debug"), &moved).unwrap();
    std::fs::remove_file(dir.path().join("prog.debug")).unwrap();
    assert_eq!(deepest(&debug_dir(debug.path())), CHAIN);
    let options = Options { inlines: false, ..debug_dir(debug.path()) };
    assert_eq!(deepest(&options), ["outer ?:0"]);
    // Another file of this name is not taken.
    let mut data = std::fs::read(&moved).unwrap();
    data.push(0);
    std::fs::write(&moved, data).unwrap();
    assert!(deepest(&debug_dir(debug.path()))[0].starts_with("[prog+0x"));
}

#[test]
fn a_debug_file_is_found_by_build_id() {
    let (dir, path) = inlining(&["-g", "-Wl,--build-id=0xabcdef0102030405060708"]);
    let outer = extent(&path, "outer").start;
    let debug = tempfile::tempdir().unwrap();
    let folder = debug.path().join(".build-id/ab");
    std::fs::create_dir_all(&folder).unwrap();
    let kept = folder.join("cdef0102030405060708.debug");
    run("objcopy", &["--only-keep-debug", "prog", kept.to_str().unwrap()], dir.path());
    run("strip", &["prog"], dir.path());
    let module = module(&path);
    assert_eq!(names_at(&module, outer, &debug_dir(debug.path()))[0], "outer");
    // A file with another build ID is not taken.
    let (other, _) = inlining(&["-g", "-Wl,--build-id=0xabcdef01020304050607ff"]);
    std::fs::copy(other.path().join("prog"), &kept).unwrap();
    assert!(names_at(&module, outer, &debug_dir(debug.path()))[0].starts_with("[prog+"));
}

#[test]
fn split_dwarf_is_read_from_dwo_files_and_from_a_package() {
    for debug in ["-gdwarf-4", "-gdwarf-5"] {
        let (dir, path) = inlining(&[debug, "-gsplit-dwarf"]);
        let module = module(&path);
        assert_eq!(deepest(&path, &module, &Options::default()), CHAIN, "{debug}");
        // The dwp of binutils does not know DWARF 5.
        let packaged = debug == "-gdwarf-4";
        if packaged {
            run("dwp", &["-e", "prog", "-o", "prog.dwp"], dir.path());
        }
        let dwo = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let dwo = dwo.filter(|path| path.extension().is_some_and(|e| e == "dwo"));
        for path in dwo {
            std::fs::remove_file(path).unwrap();
        }
        if packaged {
            assert_eq!(deepest(&path, &module, &Options::default()), CHAIN, "{debug}");
            std::fs::remove_file(dir.path().join("prog.dwp")).unwrap();
        }
        // Without them names and lines are left.
        let left = deepest(&path, &module, &Options::default());
        assert_eq!(left.len(), 1, "{debug}");
        assert!(left[0].starts_with("outer prog.c:"), "{debug}: {left:?}");
    }
}

#[test]
fn a_supplementary_file_is_read() {
    if !has("dwz", "--version") {
        return;
    }
    let (dir, path) = inlining(&["-g"]);
    std::fs::copy(&path, dir.path().join("twin")).unwrap();
    run("dwz", &["-m", "shared", "prog", "twin"], dir.path());
    let data = std::fs::read(&path).unwrap();
    let file = object::File::parse(&*data).unwrap();
    assert!(file.gnu_debugaltlink().unwrap().is_some());
    let module = module(&path);
    assert_eq!(deepest(&path, &module, &Options::default()), CHAIN);
}

#[test]
fn hostile_debug_information_neither_panics_nor_takes_long() {
    let (_dir, path) = inlining(&["-g"]);
    let whole = std::fs::read(&path).unwrap();
    let module = module(&path);
    let offsets: Vec<u64> = extent(&path, "outer").collect();
    let ranges: Vec<(u64, u64)> = {
        let file = object::File::parse(&*whole).unwrap();
        let debug = |name: &str| name.starts_with(".debug_") || name.ends_with("tab");
        let sections = file.sections().filter(|s| s.name().is_ok_and(debug));
        sections.filter_map(|section| section.file_range()).collect()
    };
    // A fixed sequence (SplitMix64): a failure comes back.
    let mut state: u64 = 1;
    let mut random = move |below: u64| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    };
    let start = std::time::Instant::now();
    let mut unharmed = 0;
    for _ in 0..2000 {
        let mut broken = whole.clone();
        for _ in 0..=random(8) {
            let (offset, size) = ranges[usize::try_from(random(ranges.len() as u64)).unwrap()];
            let byte = usize::try_from(offset + random(size.max(1))).unwrap();
            broken[byte] = u8::try_from(random(256)).unwrap();
        }
        // No panic is caught here: there shall be none.
        let chains = module::resolve_image(&broken, &module, &offsets, &Options::default());
        unharmed += usize::from(chains.iter().any(|chain| chain.len() == 3));
    }
    assert!(unharmed > 200, "only {unharmed} of 2000 had their names");
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    // 200,000 inlined calls within each other, in a function of one byte.
    let dir = tempfile::tempdir().unwrap();
    let deep = 200_000;
    let source = format!(
        ".text\n.globl deep\ndeep: ret\n.size deep, 1\n.type deep, @function\n\
         .section .debug_abbrev\n.uleb128 1,0x11\n.byte 1\n.uleb128 0x11,1,0x12,7,0,0\n\
         .uleb128 2,0x2e\n.byte 1\n.uleb128 3,8,0x11,1,0x12,7,0,0\n\
         .uleb128 3,0x1d\n.byte 1\n.uleb128 3,8,0x11,1,0x12,7,0,0\n.byte 0\n\
         .section .debug_info\n.long end - begin\nbegin: .value 4\n.long 0\n.byte 8\n\
         .uleb128 1\n.quad deep, 1\n.uleb128 2\n.string \"deep\"\n.quad deep, 1\n\
         .rept {deep}\n.uleb128 3\n.string \"in\"\n.quad deep, 1\n.endr\n.zero {}\nend:\n",
        deep + 2
    );
    std::fs::write(dir.path().join("deep.s"), source).unwrap();
    run("gcc", &["-shared", "-nostdlib", "deep.s", "-o", "deep.so"], dir.path());
    let path = dir.path().join("deep.so");
    let data = std::fs::read(&path).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let at = extent(&path, "deep").start;
    assert!(file.section_by_name(".debug_info").is_some());
    let names = names_at(&module(&path), at, &Options::default());
    assert_eq!(names[0], "deep");
    assert!(names.len() > 100, "{}", names.len());
}

#[test]
fn linkage_stubs_have_the_name_of_what_they_call() {
    let source =
        "#include <stdlib.h>\nint main(int n, char **a) { return atoi(a[0]) + abs(rand()); }";
    for binding in ["-Wl,-z,lazy", "-Wl,-z,now", "-fcf-protection=full"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("prog.c"), source).unwrap();
        run("gcc", &["-O2", "-fno-builtin", binding, "prog.c", "-o", "prog"], dir.path());
        run("strip", &["prog"], dir.path());
        let path = dir.path().join("prog");
        let data = std::fs::read(&path).unwrap();
        let file = object::File::parse(&*data).unwrap();
        let module = module(&path);
        let mut names = std::collections::BTreeSet::new();
        for section in [".plt", ".plt.sec", ".plt.got"] {
            let Some(section) = file.section_by_name(section) else { continue };
            let (offset, size) = section.file_range().unwrap();
            names.extend(
                (offset..offset + size)
                    .map(|at| names_at(&module, at, &Options::default()).remove(0)),
            );
        }
        for stub in ["rand@plt", "abs@plt"] {
            assert!(names.contains(stub), "{binding}: {names:?}");
        }
    }
}

/// A program that the tests can do without elsewhere, but not in CI.
fn has(tool: &str, argument: &str) -> bool {
    let found = Command::new(tool).arg(argument).output().is_ok_and(|out| out.status.success());
    assert!(found || std::env::var_os("CI").is_none(), "{tool} is missing");
    if !found {
        eprintln!("skipped: {tool} is not installed");
    }
    found
}

#[test]
fn go_programs_have_names_also_when_stripped() {
    if !has("go", "version") {
        return;
    }
    let source = "package main\n\
        type T struct{ n int }\n\
        //go:noinline\n\
        func (t *T) work(n int) int { if n < 2 { return n }; return t.work(n-1) + t.n }\n\
        func main() { println((&T{1}).work(30)) }\n";
    let with_c = source.replace("package main\n", "package main\nimport \"C\"\n");
    for (source, mode) in [(source, "exe"), (source, "pie"), (&with_c, "exe")] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("main.go"), source).unwrap();
        std::fs::write(dir.path().join("go.mod"), "module example\ngo 1.19\n").unwrap();
        let mode = format!("-buildmode={mode}");
        run("go", &["build", &mode, "-o", "full", "."], dir.path());
        run("go", &["build", &mode, "-ldflags=-s -w", "-o", "prog", "."], dir.path());
        // Stripping moves nothing.
        let full = dir.path().join("full");
        let at = extent(&full, "main.(*T).work");
        let path = dir.path().join("prog");
        let stripped = module(&path);
        for offset in [at.start, at.end - 1] {
            let names = names_at(&stripped, offset, &Options::default());
            assert_eq!(names, ["main.(*T).work"], "{mode}");
            let names = names_at(&module(&full), offset, &Options::default());
            assert_eq!(names[0], "main.(*T).work", "{mode}");
        }
    }
}

#[test]
fn the_same_recording_gives_the_same_profile() {
    let (_dir, path) = inlining(&["-g"]);
    let own = std::fs::read_to_string("/proc/self/maps").unwrap();
    let own = own.lines().find_map(|line| Some(line[line.find('/')?..].to_owned()));
    let modules = || vec![module(&path), module(Path::new(own.as_ref().unwrap()))];
    let stacks: Vec<[RawFrame; 2]> = extent(&path, "outer")
        .chain(extent(&path, "main"))
        .map(|at| [user(1, CodeAddress::Return(at)), user(0, CodeAddress::Exact(at))])
        .collect();
    let stacks: Vec<&[RawFrame]> = stacks.iter().map(|stack| &stack[..]).collect();
    let listed = || {
        let profile = symbolize(recording(modules(), &stacks), &Options::default());
        let stack = |(id, values): (_, &[u64])| {
            let frames: Vec<Frame> = profile.stacks.root_first(id).into_iter().cloned().collect();
            (frames, values.to_vec())
        };
        profile.stacks.iter().map(stack).collect::<Vec<_>>()
    };
    assert_eq!(listed(), listed());
}
