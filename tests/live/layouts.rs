//! How programs are laid out: compilers, optimization levels, linkers, kinds of executable.

use std::{ffi::OsStr, fs};

use crate::{
    require,
    support::{Build, Path, Stage, compile, root, scratch, tool},
};

/// What `shares.c` does.
fn shares() -> [Path; 4] {
    [
        Path::new("main alpha beta burn").share(0.5),
        Path::new("main gamma_ descend*12 burn").share(0.3),
        Path::new("main leaf").share(0.2),
        // A function without optimization; it takes next to no time.
        Path::new("main vary"),
    ]
}

/// A compiler, a name for the program, and flags.
type Way<'a> = (&'static str, &'a str, &'a str);

/// Builds `shares.c` in several ways, records all of them at once and compares each with the truth.
fn check(builds: &[Way<'_>]) {
    check_rooted(builds, &["_start"]);
}

fn check_rooted(builds: &[Way<'_>], roots: &[&str]) {
    require!(root());
    for (compiler, ..) in builds {
        require!(tool(compiler));
    }
    let programs: Vec<_> = builds
        .iter()
        .map(|(compiler, name, flags)| Build::new(compiler, name, "shares.c").flags(flags).build())
        .collect();
    let stage = Stage::take();
    let targets: Vec<_> = programs.iter().map(|program| stage.run(program)).collect();
    let seconds = 1.0 + 0.5 * builds.len() as f64;
    let recorded = stage.record(&targets.iter().collect::<Vec<_>>(), seconds);
    let mut failed = Vec::new();
    for (_, name, flags) in builds {
        let stacks = recorded.stacks.of(name);
        let right = std::panic::catch_unwind(|| {
            stacks.at_least(20).complete().rooted(roots).paths("main", &shares());
        });
        if right.is_err() {
            failed.push(format!("{name} ({flags})"));
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn gcc_at_every_level() {
    check(&[
        ("gcc", "gcc-o0", "-O0"),
        ("gcc", "gcc-o1", "-O1"),
        ("gcc", "gcc-o2", "-O2 -fomit-frame-pointer"),
        ("gcc", "gcc-o3", "-O3 -fomit-frame-pointer"),
        ("gcc", "gcc-os", "-Os"),
        ("gcc", "gcc-o2-fp", "-O2 -fno-omit-frame-pointer"),
        ("gcc", "gcc-o0-nofp", "-O0 -fomit-frame-pointer"),
        ("gcc", "gcc-native", "-O3 -march=native -funroll-loops"),
    ]);
}

#[test]
fn clang_at_every_level() {
    check(&[
        ("clang", "clang-o0", "-O0"),
        ("clang", "clang-o1", "-O1"),
        ("clang", "clang-o2", "-O2 -fomit-frame-pointer"),
        ("clang", "clang-o3", "-O3"),
        ("clang", "clang-os", "-Oz"),
        ("clang", "clang-o2-fp", "-O2 -fno-omit-frame-pointer"),
    ]);
}

#[test]
fn kinds_of_executables() {
    check(&[
        ("gcc", "pie", "-O2 -fpie -pie"),
        ("gcc", "no-pie", "-O2 -fno-pie -no-pie"),
        ("gcc", "static", "-O2 -static"),
        ("gcc", "static-pie", "-O2 -static-pie -fpie"),
        ("gcc", "lazy-plt", "-O2 -fpic -pie -Wl,-z,lazy"),
        ("gcc", "cet", "-O2 -fcf-protection=full"),
    ]);
}

#[test]
fn linkers_lay_text_out_differently() {
    require!(tool("ld.lld"), tool("mold"), tool("ld.gold"));
    check(&[
        ("clang", "lld", "-O2 -fuse-ld=lld"),
        ("clang", "lld-norosegment", "-O2 -fuse-ld=lld -Wl,--no-rosegment"),
        ("clang", "lld-separate", "-O2 -fuse-ld=lld -Wl,-z,separate-loadable-segments"),
        ("gcc", "mold", "-O2 -B/usr/libexec/mold"),
        ("gcc", "gold", "-O2 -fuse-ld=gold"),
        ("gcc", "noseparate", "-O2 -Wl,-z,noseparate-code"),
        ("gcc", "nosep-nopie", "-O2 -no-pie -fno-pie -Wl,-z,noseparate-code"),
        ("gcc", "segments", "-O2 -DSPREAD -Wl,--section-start=.far=0x900000"),
        ("gcc", "segments-nopie", "-O2 -DSPREAD -no-pie -Wl,--section-start=.far=0x10000000"),
    ]);
}

/// The newest `llvm-bolt` of those that Debian installs beside each other.
fn bolt() -> Result<String, String> {
    let names = (14..40).rev().map(|version| format!("llvm-bolt-{version}"));
    names
        .map(|name| tool(&name).map(|()| name))
        .find(Result::is_ok)
        .unwrap_or_else(|| tool("llvm-bolt").map(|()| "llvm-bolt".to_owned()))
}

/// Samples of functions, as llvm-bolt reads them: what lies behind the first blocks of these is moved
/// to another segment.
const PROFILE: &str = "no_lbr cpu-clock:\n1 main 0 100\n1 burn 0 5000\n1 alpha 0 50\n1 leaf 0 50\n";

#[test]
fn text_that_bolt_has_moved() {
    require!(root(), tool("gcc"), bolt());
    let flags = "-O2 -fomit-frame-pointer -fno-reorder-blocks-and-partition -Wl,-q";
    let plain = Build::new("gcc", "to-bolt", "shares.c").flags(flags).build();
    let folder = scratch().join("bolt");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("profile"), PROFILE).unwrap();
    let options = ["-o", "bolted", "-data=profile", "-lite=0", "-reorder-blocks=ext-tsp"];
    let more = ["-split-functions", "-split-all-cold", "-use-gnu-stack"];
    let words = options.iter().chain(&more).map(OsStr::new).chain([plain.as_os_str()]);
    compile::run(&bolt().unwrap(), &words.collect::<Vec<_>>(), &folder);
    let program = folder.join("bolted");
    let bytes = fs::read(&program).unwrap();
    for section in [&b".bolt.org.text"[..], b".text.cold"] {
        assert!(bytes.windows(section.len()).any(|at| at == section));
    }
    let stage = Stage::take();
    let target = stage.run(program);
    let stacks = stage.record(&[&target], 1.5).stacks;
    stacks.at_least(20).complete().rooted(&["_start"]).paths("main", &shares());
}

#[test]
fn tables_elsewhere_or_not_at_all() {
    check(&[
        // Only .debug_frame.
        ("gcc", "debug-frame", "-O2 -g -fno-asynchronous-unwind-tables -fno-unwind-tables"),
        // No tables at all: by frame pointer.
        ("gcc", "fp-only", "-O0 -fno-asynchronous-unwind-tables -fno-unwind-tables"),
        (
            "clang",
            "fp-only-clang",
            "-O2 -fno-omit-frame-pointer -mno-omit-leaf-frame-pointer \
             -fno-asynchronous-unwind-tables -fno-unwind-tables",
        ),
        // Tables without the index that is searched.
        ("gcc", "no-eh-frame-hdr", "-O2 -Wl,--no-eh-frame-hdr"),
        ("gcc", "sections", "-O2 -ffunction-sections -fdata-sections -Wl,--gc-sections"),
    ]);
}

#[test]
fn musl() {
    check_rooted(
        &[
            ("musl-gcc", "musl-static", "-O2 -static"),
            ("musl-gcc", "musl-nopie", "-O2 -static -no-pie -fno-pie"),
        ],
        // musl has no tables of its own: its functions below main are recognised, not unwound.
        &["_start", "_start_c", "__libc_start_main", "libc_start_main_stage2"],
    );
}

#[test]
fn musl_as_a_shared_library_without_symbols() {
    require!(root(), tool("musl-gcc"));
    let program = Build::new("musl-gcc", "musl-dynamic", "shares.c").flags("-O2").build();
    let stage = Stage::take();
    let target = stage.run(program);
    let mut stacks = stage.record(&[&target], 1.0).stacks;
    // There are neither tables nor a name below main, and that is said.
    for stack in &mut stacks.0 {
        let cut = stack.truncated().map(str::to_owned);
        assert!(matches!(cut.as_deref(), None | Some("[truncated: no frame pointer]")), "{cut:?}");
        stack.frames.retain(|frame| !frame.name.starts_with("[truncated: "));
    }
    stacks.at_least(25).paths("main", &shares());
}
