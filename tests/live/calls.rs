//! Kinds of calls, and frames whose size the tables must know.

use std::process::Command;

use crate::{
    require,
    support::{Build, Path, Stacks, Stage, compile, root, stacks::Stack, tool},
};

/// Compilers and flags that every kind of call is tried with.
const WAYS: [(&str, &str); 3] = [
    ("gcc", "-O2 -fomit-frame-pointer"),
    ("gcc", "-O3 -fno-omit-frame-pointer"),
    ("clang", "-O2 -fomit-frame-pointer"),
];

/// Runs `calls WHAT` as each compiler built it, and compares all of them at once.
fn check(what: &[&str], paths: &[Path]) {
    with(what, |stacks| {
        stacks.paths("main", paths);
    });
}

fn with(what: &[&str], compare: impl Fn(&Stacks)) {
    require!(root(), tool("gcc"), tool("clang"));
    let names = ["c0", "c1", "c2"];
    let built = names.iter().zip(WAYS);
    let programs: Vec<_> = built
        .map(|(name, (compiler, flags))| Build::new(compiler, name, "calls.c").flags(flags).build())
        .collect();
    let stage = Stage::take();
    let targets: Vec<_> =
        programs.iter().map(|program| stage.start(Command::new(program).args(what))).collect();
    let recorded = stage.record(&targets.iter().collect::<Vec<_>>(), 1.5);
    for (name, way) in names.iter().zip(WAYS) {
        eprintln!("{way:?}:");
        let stacks = recorded.stacks.of(name);
        stacks.at_least(20).complete().rooted(&["_start"]);
        compare(&stacks);
    }
}

#[test]
fn tail_calls_leave_the_last_function() {
    check(&["tail"], &[Path::new("main tail_last burn").share(1.0)]);
}

#[test]
fn calls_that_do_not_return_are_named_by_their_caller() {
    let whole = Path::new("main jumps ends_in_call never_returns burn").share(1.0);
    check(&["noreturn"], &[whole, Path::new("main jumps …")]);
}

#[test]
fn callbacks_pass_through_libc() {
    check(&["qsort"], &[Path::new("main sorts … compare burn").share(0.97)]);
}

#[test]
fn frames_of_variable_size() {
    check(&["alloca"], &[Path::new("main allocates uses burn").share(1.0)]);
}

#[test]
fn realigned_stacks() {
    check(&["realign"], &[Path::new("main realigns uses burn").share(1.0)]);
}

#[test]
fn realigned_stacks_of_variable_size() {
    check(
        &["both"],
        &[
            Path::new("main realigns_and_allocates allocates uses burn").share(0.5),
            Path::new("main realigns_and_allocates uses burn").share(0.5),
        ],
    );
}

#[test]
fn shrink_wrapped_prologues() {
    check(&["shrink"], &[Path::new("main shrink_wrapped burn").share(1.0)]);
}

#[test]
fn arguments_on_the_stack() {
    check(&["push"], &[Path::new("main pushes many burn").share(1.0)]);
}

#[test]
fn parts_of_functions_that_lie_elsewhere() {
    check(&["cold"], &[Path::new("main splits unlikely burn").share(1.0)]);
}

#[test]
fn functions_chosen_at_load_time() {
    check(&["ifunc"], &[Path::new("main calls_indirect chosen burn").share(1.0)]);
}

#[test]
fn the_vdso_is_unwound_and_named() {
    with(&["vdso"], |stacks| {
        stacks.paths("main", &[Path::new("main asks_time …")]);
        assert!(stacks.share("asks_time") > 0.95, "{stacks}");
        assert!(stacks.share("__vdso_clock_gettime") > 0.2, "{stacks}");
    });
}

#[test]
fn functions_of_libc_without_a_frame() {
    with(&["copy"], |stacks| {
        stacks.paths("main", &[Path::new("main copies …")]);
        assert!(stacks.share("copies") > 0.95, "{stacks}");
    });
}

#[test]
fn virtual_calls_and_exceptions_in_cpp() {
    require!(root(), tool("g++"), tool("clang++"));
    let ways = [
        ("g++", "-O2 -fomit-frame-pointer"),
        ("clang++", "-O2"),
        ("g++", "-O2 -static"),
        ("g++", "-O0"),
    ];
    let names = ["v0", "v1", "v2", "v3"];
    let programs: Vec<_> = ways
        .iter()
        .zip(names)
        .map(|((compiler, flags), name)| {
            Build::new(compiler, name, "virtual.cpp").flags(flags).build()
        })
        .collect();
    let stage = Stage::take();
    let targets: Vec<_> = programs.iter().map(|program| stage.run(program)).collect();
    let recorded = stage.record(&targets.iter().collect::<Vec<_>>(), 2.0);
    let twice = "shapes::Twice<shapes::Circle>::area";
    let circle = "shapes::Circle::area";
    for name in names {
        let stacks = recorded.stacks.of(name);
        stacks.at_least(20).complete().rooted(&["_start"]);
        stacks.paths(
            "main",
            &[
                Path::of(&["main", "dispatch", twice, circle, "burn"]).share(0.25),
                Path::of(&["main", "catches", "burn"]).share(0.25),
                Path::of(&["main", "through_function", "…", "dispatch", twice, circle, "burn"])
                    .share(0.25),
                // The destructor runs while the exception is in flight, on its frame.
                Path::of(&["main", "catches", "cleans_up", "Guard::~Guard", "burn"]).share(0.25),
                Path::of(&["main", "catches", "…"]),
                // The exception is freed at the end of its handler, inlined or not.
                Path::of(&["main", "…"]),
            ],
        );
    }
}

/// Complete, but where libgcc overwrites the stack before it jumps to the landing pad:
/// `uw_install_context` stores the registers and the return address of the frame that it returns
/// to where `_Unwind_RaiseException` saved its own, so that for some instructions the stack cannot
/// be told by any table. These samples must be few, and marked: of programs that do little but throw
/// they are 2 to 3.5 %, as the CPU has it.
#[track_caller]
fn complete_but_for_landing(stacks: &Stacks) {
    let landing = |stack: &Stack| {
        let near = ["_Unwind_RaiseException", "_Unwind_Resume", "_Unwind_ForcedUnwind"];
        stack.truncated().is_some() && near.iter().any(|name| stack.has(name))
    };
    let (landing, others) =
        (stacks.filter(|stack| landing(stack)), stacks.filter(|stack| !landing(stack)));
    assert!(landing.total() as f64 <= 3.0 + 0.05 * stacks.total() as f64, "{landing}");
    others.complete();
}

#[test]
fn exceptions_being_thrown() {
    require!(root(), tool("g++"), tool("clang++"));
    let ways = [("g++", "x0", "-O2"), ("g++", "x1", "-O2 -static"), ("clang++", "x2", "-O2")];
    let programs = ways.map(|(compiler, name, flags)| {
        Build::new(compiler, name, "virtual.cpp").flags(flags).build()
    });
    let stage = Stage::take();
    let targets = programs.map(|program| stage.start(Command::new(program).arg("only")));
    let recorded = stage.record(&targets.iter().collect::<Vec<_>>(), 2.0);
    for (_, name, _) in ways {
        let stacks = recorded.stacks.of(name);
        stacks.at_least(20).rooted(&["_start"]).paths("main", &[Path::new("main …")]);
        complete_but_for_landing(&stacks);
    }
}

#[test]
fn shared_libraries_call_back() {
    require!(root(), tool("gcc"));
    let library = Build::new("gcc", "libplugin.so", "plugin.c").flags("-O2 -shared -fPIC").build();
    let folder = library.parent().unwrap().to_str().unwrap();
    let ways = [("lazy", "lazy"), ("bound", "now")];
    let programs = ways.map(|(name, binding)| {
        Build::new("gcc", name, "hosting.c")
            .flags(&format!("-O2 -Wl,-z,{binding} -L{folder} -lplugin -Wl,-rpath,{folder}"))
            .build()
    });
    let stage = Stage::take();
    let targets = programs.map(|program| stage.run(program));
    let recorded = stage.record(&targets.iter().collect::<Vec<_>>(), 1.5);
    for (name, _) in ways {
        let stacks = recorded.stacks.of(name);
        stacks.at_least(20).complete().rooted(&["_start"]);
        let path = Path::new("main plugin_work inside called_back burn").share(1.0);
        stacks.paths("main", &[path]);
    }
}

#[test]
fn threads_of_many_depths() {
    require!(root(), tool("gcc"), tool("clang"));
    for (compiler, flags) in [("gcc", "-O2 -fomit-frame-pointer"), ("clang", "-O2 -static")] {
        let program = Build::new(compiler, "threads", "threads.c").flags(flags).build();
        let stage = Stage::take();
        let target = stage.run(program);
        let pid = target.pid().to_string();
        let recorded = stage.cpu(&["--pid", &pid, "--threads", "-F", "499", "-d", "2"]);
        let stacks = &recorded.stacks;
        stacks.at_least(40).complete();
        for depth in [4, 20, 60, 120] {
            let thread = stacks.filter(|stack| stack.frames[0].name == format!("t{depth}"));
            let share = thread.total() as f64 / stacks.total() as f64;
            assert!((share - 0.25).abs() < 0.2, "t{depth} {share}: {stacks}");
            thread.paths("start", &[Path::new(&format!("start descend*{depth} burn")).share(1.0)]);
            for stack in &thread.0 {
                let user = stack.user();
                let start = user.iter().position(|name| *name == "start").unwrap();
                assert!(start <= 3, "what is below the thread's start? {user:?}");
            }
        }
    }
}

#[test]
fn closures_generics_and_trait_objects_in_rust() {
    require!(root(), tool("rustc"));
    let ways = [
        ("r-v0", "-Copt-level=3 -Csymbol-mangling-version=v0"),
        ("r-legacy", "-Copt-level=2 -Zunstable-options -Csymbol-mangling-version=legacy"),
        ("r-debug", "-Copt-level=0"),
        ("r-static", "-Copt-level=3 -Ctarget-feature=+crt-static"),
    ];
    let programs = ways.map(|(name, flags)| {
        let build = Build::new("rustc", name, "shapes.rs").flags("--crate-name=shapes");
        build.env("RUSTC_BOOTSTRAP", "1").flags(flags).build()
    });
    let stage = Stage::take();
    let targets = programs.map(|program| stage.run(program));
    let recorded = stage.record(&targets.iter().collect::<Vec<_>>(), 2.0);
    for (name, _) in ways {
        let stacks = recorded.stacks.of(name);
        stacks.at_least(20).complete().rooted(&["_start"]);
        let krate = "shapes";
        let burn = format!("{krate}::burn");
        let all = stacks.filter(|stack| stack.has(&burn));
        assert!(all.total() as f64 > 0.97 * stacks.total() as f64, "{stacks}");
        let main = format!("{krate}::main");
        for stack in &all.0 {
            let user = stack.user();
            let at = user.iter().position(|frame| *frame == main);
            let at = at.unwrap_or_else(|| panic!("no {main}: {user:?}"));
            // Without optimization it calls the iterator's functions.
            let end = user.iter().position(|frame| *frame == burn).unwrap();
            assert!(end + 1 == user.len() || name == "r-debug", "{user:?}");
            let text = user[at + 1..end].join(" ");
            let dynamic = text.contains("dispatch") && text.contains("Work>::work");
            let closure = text.contains("apply") && text.contains("{closure#");
            assert!(dynamic != closure || text.contains("{{closure}}"), "{user:?}");
        }
        let dynamic = stacks.share(&format!("{krate}::dispatch"));
        assert!((dynamic - 0.5).abs() < 0.12, "{dynamic}: {stacks}");
    }
}

#[test]
fn panics_being_unwound_in_rust() {
    require!(root(), tool("rustc"));
    let program = Build::new("rustc", "panics", "shapes.rs").flags("-Copt-level=3").build();
    let stage = Stage::take();
    let target = stage.start(Command::new(program).arg("panics"));
    let recorded = stage.record(&[&target], 1.5);
    let stacks = &recorded.stacks;
    stacks.at_least(40).rooted(&["_start"]);
    stacks.paths("main", &[Path::new("main …")]);
    complete_but_for_landing(stacks);
    assert!(stacks.share("shapes::fails") > 0.5, "{stacks}");
}

#[test]
fn hand_written_code() {
    require!(root(), tool("gcc"), tool("as"));
    let ways = [("hand-pie", ""), ("hand-static", "-static -no-pie")];
    let programs = ways.map(|(name, flags)| {
        let build = Build::new("gcc", name, "handmade.c").source("handmade.S");
        build.flags("-O2").flags(flags).build()
    });
    let stage = Stage::take();
    let targets = programs.map(|program| stage.run(program));
    let recorded = stage.record(&targets.iter().collect::<Vec<_>>(), 1.5);
    for (name, _) in ways {
        let stacks = recorded.stacks.of(name);
        stacks.at_least(20).complete().rooted(&["_start"]);
        let functions = ["with_cfi", "pushes_in_loop", "without_cfi", "without_both", "aligned"];
        let paths = functions.map(|f| Path::of(&["main", f, "burn"]).share(1.0 / 5.0));
        stacks.paths("main", &paths);
    }
}

#[test]
fn hand_written_functions_that_need_more_registers() {
    require!(root(), tool("gcc"), tool("as"));
    let build = Build::new("gcc", "registers", "handmade.c").source("handmade.S").flags("-O2");
    let program = build.build();
    let stage = Stage::take();
    let target = stage.start(Command::new(program).arg("registers"));
    let recorded = stage.record(&[&target], 1.5);
    recorded.stacks.at_least(40).complete().rooted(&["_start"]);
    let paths = ["main kept_in_register leaf", "main behind_array"];
    recorded.stacks.paths("main", &paths.map(|path| Path::new(path).share(0.5)));
}

#[test]
fn code_of_haskell() {
    require!(root(), tool("gcc"), tool("as"));
    let program = Build::new("gcc", "haskell", "haskell.c").source("haskell.S").flags("-O2");
    let program = program.build();
    let stage = Stage::take();
    let target = stage.run(program);
    let recorded = stage.record(&[&target], 1.5);
    recorded.stacks.at_least(40).complete().rooted(&["_start"]);
    let paths = [Path::new("main code_info"), Path::new("main code_info burn")];
    recorded.stacks.paths("main", &paths);
}

#[test]
fn numbers_by_hand_written_functions_of_a_library() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "numbers", "numbers.c").flags("-O2 -lgmp").build();
    let stage = Stage::take();
    let target = stage.run(program);
    let recorded = stage.record(&[&target], 1.5);
    let stacks = &recorded.stacks;
    stacks.at_least(40).complete().rooted(&["_start"]);
    let inner = stacks.filter(|stack| stack.has("main"));
    // Some moments of `main` itself, and all else in one of the two.
    let both = inner.filter(|stack| stack.has("multiplies") || stack.has("divides"));
    assert!(both.total() as f64 > 0.99 * stacks.total() as f64, "{stacks}");
    assert!(both.share("multiplies") > 0.1 && both.share("divides") > 0.1, "{stacks}");
}

#[test]
fn coroutines_end_at_their_root() {
    require!(root(), tool("gcc"), tool("as"));
    // Made by libc, and by hand without unwind information.
    let by_hand = |name, flags| {
        let build = Build::new("gcc", name, "context.c").source("fcontext.S");
        build.flags("-O2 -DBY_HAND").flags(flags).build()
    };
    let names = ["context", "fcontext", "fcontext-fp"];
    let programs = [
        Build::new("gcc", names[0], "context.c").flags("-O2").build(),
        by_hand(names[1], "-fomit-frame-pointer"),
        by_hand(names[2], "-fno-omit-frame-pointer -static"),
    ];
    let stage = Stage::take();
    let targets = programs.map(|program| stage.run(program));
    let recorded = stage.record(&targets.iter().collect::<Vec<_>>(), 3.0);
    for name in names {
        eprintln!("{name}:");
        let stacks = recorded.stacks.of(name);
        stacks.at_least(40).complete();
        let own = stacks.filter(|stack| stack.has("body"));
        own.paths("body", &[Path::new("body on_own_stack burn").share(1.0), Path::new("body …")]);
        let share = own.total() as f64 / stacks.total() as f64;
        assert!((share - 2.0 / 3.0).abs() < 0.1, "{share}: {stacks}");
        // What started a context is all that is below its body.
        let below =
            own.filter(|stack| stack.user().iter().position(|name| *name == "body") > Some(1));
        assert!(below.0.is_empty(), "{below}");
        stacks.filter(|stack| !stack.has("body")).rooted(&["_start"]);
    }
}

#[test]
fn coroutines_of_rust() {
    require!(root(), tool("cargo"));
    let program = compile::package("coroutines");
    for (name, roots) in [
        ("corosensei", &["_start"][..]),
        ("generator", &["_start", "generator::detail::asm::gen_init"]),
    ] {
        let stage = Stage::take();
        let target = stage.start(Command::new(&program).arg(name));
        let recorded = stage.record(&[&target], 2.0).stacks;
        eprintln!("{name}:");
        // The compiler's tables do not know what inline assembly pushes in the midst of a switch.
        let stacks = recorded.filter(|stack| {
            let leaf = stack.frames.last().map_or("", |frame| &frame.name);
            stack.truncated().is_none() || !leaf.starts_with("switch_")
        });
        assert!(stacks.total() * 200 >= recorded.total() * 199, "{recorded}");
        stacks.at_least(40).complete().rooted(roots);
        let inside = stacks.filter(|stack| stack.has("coroutines::inside"));
        let path = Path::of(&["coroutines::inside", "…", "coroutines::burn"]).share(1.0);
        inside.paths("coroutines::inside", &[path]);
        stacks.filter(|stack| stack.has("coroutines::outside")).rooted(&["_start"]);
        let share = inside.total() as f64 / stacks.total() as f64;
        assert!((share - 2.0 / 3.0).abs() < 0.1, "{share}: {stacks}");
    }
}

#[test]
fn depths_up_to_120_frames_without_frame_pointers() {
    for depth in ["1", "30", "118"] {
        let chain = Path::new(&format!("main deeper*{depth} burn")).share(1.0);
        check(&["deep", depth], &[chain]);
    }
}
