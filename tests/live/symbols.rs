//! Where names come from.

use std::{
    ffi::OsStr,
    fs,
    path::{Path as File, PathBuf},
};

use crate::{
    require,
    support::{Build, Path, Recorded, Stacks, Stage, compile, programs, root, scratch, tool},
};

fn folder(name: &str) -> PathBuf {
    let folder = scratch().join("symbols").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn record(program: &File, arguments: &[&str]) -> Recorded {
    let stage = Stage::take();
    let target = stage.run(program);
    let pid = target.pid().to_string();
    stage.cpu(&[&["--pid", &pid, "-F", "999", "-d", "1"], arguments].concat())
}

fn tool_run(name: &str, arguments: &[&dyn AsRef<OsStr>], folder: &File) {
    let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).as_ref()).collect();
    compile::run(name, &arguments, folder);
}

/// What `shares.c` does.
fn named(stacks: &Stacks) {
    stacks.at_least(25).complete().rooted(&["_start"]).paths(
        "main",
        &[
            Path::new("main alpha beta burn").share(0.5),
            Path::new("main gamma_ descend*12 burn").share(0.3),
            Path::new("main leaf").share(0.2),
        ],
    );
}

/// What `inlined.c` does, with all frames.
fn inlined(stacks: &Stacks) {
    stacks.at_least(25).complete();
    let burning = stacks.filter(|stack| stack.has("burn"));
    assert!(burning.total() as f64 > 0.97 * stacks.total() as f64, "{stacks}");
    for stack in &burning.0 {
        let frames = stack.frames.iter().filter(|frame| frame.kind != 'k');
        let names: Vec<_> = frames.map(|frame| (frame.name.as_str(), frame.kind)).collect();
        let from = names.iter().position(|(name, _)| *name == "main").unwrap();
        let expected =
            [("main", ' '), ("calls", ' '), ("outer", 'i'), ("inner", 'i'), ("burn", ' ')];
        assert_eq!(names[from..], expected, "{stacks}");
    }
}

#[test]
fn a_stripped_program_is_named_by_module_and_offset() {
    require!(root(), tool("gcc"), tool("strip"));
    for flags in ["-O2", "-O2 -no-pie", "-O2 -static"] {
        let program = folder("stripped").join("stripped");
        fs::copy(Build::new("gcc", "shares", "shares.c").flags(flags).build(), &program).unwrap();
        tool_run("strip", &[&program], program.parent().unwrap());
        let stacks = record(&program, &[]).stacks;
        stacks.at_least(25).complete();
        for stack in stacks.0.iter().filter(|stack| !stack.in_kernel()) {
            let leaf = stack.user().pop().unwrap().to_owned();
            assert!(leaf.starts_with("[stripped+0x"), "{leaf}");
        }
        // Every function keeps its own name: the twelve frames of the recursion are the same one.
        let deep = stacks.filter(|stack| stack.user().len() > 12);
        let share = deep.total() as f64 / stacks.total() as f64;
        assert!((share - 0.3).abs() < 0.1, "{share}:\n{stacks}");
    }
}

#[test]
fn dynamic_symbols_alone() {
    require!(root(), tool("gcc"), tool("strip"));
    let program = folder("dynsym").join("dynsym");
    let built = Build::new("gcc", "dynsym", "shares.c").flags("-O2 -rdynamic").build();
    fs::copy(built, &program).unwrap();
    tool_run("strip", &[&program], program.parent().unwrap());
    let stacks = record(&program, &[]).stacks;
    // `_start` is among what -rdynamic exports.
    named(&stacks);
}

#[test]
fn symbols_in_a_file_beside_the_program() {
    require!(root(), tool("gcc"), tool("objcopy"));
    for (number, place) in [".", ".debug"].into_iter().enumerate() {
        let folder = folder(&format!("link{number}"));
        let program = folder.join("linked");
        fs::create_dir_all(folder.join(place)).unwrap();
        let debug = folder.join(place).join("linked.debug");
        fs::copy(Build::new("gcc", "inlined", "inlined.c").flags("-O2 -g").build(), &program)
            .unwrap();
        tool_run("objcopy", &[&"--only-keep-debug", &program, &debug], &folder);
        tool_run("objcopy", &[&"--strip-all", &program], &folder);
        let link = format!("--add-gnu-debuglink={}", debug.display());
        tool_run("objcopy", &[&link, &program], &folder);
        inlined(&record(&program, &[]).stacks);
    }
}

#[test]
fn symbols_in_the_build_id_folder() {
    require!(root(), tool("gcc"), tool("objcopy"), tool("readelf"));
    let folder = folder("build-id");
    let program = folder.join("identified");
    // An id of its own, so that nothing else on the host has it.
    let id = "f1a3e9a4f1a3e9a4f1a3e9a4f1a3e9a4f1a3e9a4";
    let flags = format!("-O2 -g -Wl,--build-id=0x{id}");
    fs::copy(Build::new("gcc", "inlined", "inlined.c").flags(&flags).build(), &program).unwrap();
    let to = PathBuf::from("/usr/lib/debug/.build-id").join(&id[..2]);
    let had = to.exists();
    fs::create_dir_all(&to).unwrap();
    let debug = to.join(format!("{}.debug", &id[2..]));
    tool_run("objcopy", &[&"--only-keep-debug", &program, &debug], &folder);
    tool_run("objcopy", &[&"--strip-all", &program], &folder);
    let recorded = std::panic::catch_unwind(|| record(&program, &[]));
    fs::remove_file(debug).unwrap();
    if !had {
        fs::remove_dir(to).unwrap();
    }
    inlined(&recorded.unwrap().stacks);
}

#[test]
fn symbols_packed_into_the_program() {
    require!(root(), tool("gcc"), tool("objcopy"), tool("xz"));
    let folder = folder("mini");
    let program = folder.join("mini");
    fs::copy(Build::new("gcc", "shares", "shares.c").flags("-O2").build(), &program).unwrap();
    tool_run("objcopy", &[&"--only-keep-debug", &program, &"symbols"], &folder);
    tool_run("xz", &[&"symbols"], &folder);
    tool_run("objcopy", &[&"--strip-all", &program], &folder);
    tool_run("objcopy", &[&"--add-section", &".gnu_debugdata=symbols.xz", &program], &folder);
    named(&record(&program, &[]).stacks);
}

#[test]
fn inlined_calls_by_every_kind_of_debug_information() {
    require!(root(), tool("gcc"), tool("clang"), tool("objcopy"));
    for (compiler, flags) in [
        ("gcc", "-O2 -g"),
        ("gcc", "-O2 -g -gdwarf-4"),
        ("gcc", "-O2 -g -gz=zlib"),
        ("clang", "-O2 -g"),
        ("gcc", "-O2 -g -flto"),
    ] {
        eprintln!("{compiler} {flags}");
        let program = Build::new(compiler, "inlined", "inlined.c").flags(flags).build();
        inlined(&record(&program, &[]).stacks);
    }
}

#[test]
fn debug_information_compressed_with_zstd() {
    require!(root(), tool("gcc"), tool("ld.lld"), tool("clang"));
    let program = Build::new("gcc", "inlined", "inlined.c").flags("-O2 -g").build();
    let copy = folder("zstd").join("inlined");
    let folder = copy.parent().unwrap();
    let compress = |tool| {
        let arguments: [&OsStr; 3] =
            ["--compress-debug-sections=zstd".as_ref(), program.as_ref(), copy.as_ref()];
        compile::try_run(tool, &arguments, folder)
    };
    let tools = ["objcopy", "llvm-objcopy", "llvm-objcopy-16", "llvm-objcopy-19"];
    let done = tools.into_iter().find(|name| tool(name).is_ok() && compress(name));
    require!(done.ok_or_else(|| "an objcopy that knows zstd".to_owned()));
    inlined(&record(&copy, &[]).stacks);
}

/// Builds `inlined.c` with split debug information: the program in one folder, what was split off
/// in another.
fn split(compiler: &str, version: &str, name: &str) -> (PathBuf, PathBuf) {
    let (objects, linked) =
        (folder(&format!("{name}-objects")), folder(&format!("{name}-linked")).join("split"));
    let source = programs().join("inlined.c");
    let flags = ["-O2", "-g", "-gsplit-dwarf", version, "-c", "-o", "inlined.o"];
    let mut arguments: Vec<_> = flags.iter().map(|flag| flag as &dyn AsRef<OsStr>).collect();
    arguments.push(&source);
    tool_run(compiler, &arguments, &objects);
    tool_run(compiler, &[&"inlined.o", &"-o", &linked], &objects);
    (objects.join("inlined.dwo"), linked)
}

const SPLIT: [(&str, &str); 3] =
    [("gcc", "-gdwarf-5"), ("gcc", "-gdwarf-4"), ("clang", "-gdwarf-5")];

#[test]
fn split_debug_information() {
    require!(root(), tool("gcc"), tool("clang"));
    for (compiler, version) in SPLIT {
        eprintln!("{compiler} {version}");
        let (split, program) = split(compiler, version, "dwo");
        assert!(split.exists());
        inlined(&record(&program, &[]).stacks);
    }
}

#[test]
fn split_debug_information_in_a_package() {
    require!(root(), tool("gcc"), tool("clang"), tool("llvm-dwp"));
    for (compiler, version) in SPLIT {
        eprintln!("{compiler} {version}");
        let (split, program) = split(compiler, version, "dwp");
        let package = program.with_extension("dwp");
        tool_run("llvm-dwp", &[&split, &"-o", &package], split.parent().unwrap());
        fs::remove_file(split).unwrap();
        inlined(&record(&program, &[]).stacks);
    }
}

#[test]
fn debug_information_shared_by_two_files() {
    require!(root(), tool("gcc"), tool("dwz"));
    let folder = folder("alt");
    let built = Build::new("gcc", "inlined", "inlined.c").flags("-O2 -g").build();
    let programs = ["one", "two"].map(|name| folder.join(name));
    for program in &programs {
        fs::copy(&built, program).unwrap();
    }
    let [one, two] = &programs;
    tool_run("dwz", &[&"-m", &folder.join("shared"), one, two], &folder);
    inlined(&record(one, &[]).stacks);
}

#[test]
fn without_inlined_calls() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "inlined", "inlined.c").flags("-O2 -g").build();
    let stacks = record(&program, &["--no-inline"]).stacks;
    let path = Path::new("main calls burn").share(1.0);
    stacks.at_least(25).complete().paths("main", &[path]);
    assert!(stacks.0.iter().flat_map(|stack| &stack.frames).all(|frame| frame.kind != 'i'));
}

#[test]
fn names_cannot_forge_frames() {
    require!(root(), tool("gcc"), tool("objcopy"));
    let program = folder("forged").join("forged");
    let built = Build::new("gcc", "shares", "shares.c").flags("-O2").build();
    fs::copy(built, &program).unwrap();
    let rename = ["alpha=root;main;forged", "beta=[truncated: too deep]", "leaf=work_[k]"];
    for pair in rename {
        let argument = format!("--redefine-sym={pair}");
        tool_run("objcopy", &[&argument, &program], program.parent().unwrap());
    }
    let stacks = record(&program, &[]).stacks;
    stacks.at_least(25).complete().paths(
        "main",
        &[
            Path::of(&["main", "root\\x3bmain\\x3bforged", "\\x5btruncated: too deep]", "burn"])
                .share(0.5),
            Path::new("main gamma_ descend*12 burn").share(0.3),
            Path::of(&["main", "work_\\x5bk]"]).share(0.2),
        ],
    );
}
