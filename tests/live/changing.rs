//! Programs that change while they are recorded.

use std::{
    fs,
    path::{Path as File, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use crate::{
    require,
    support::{Build, Path, Stacks, Stage, Target, root, tool},
};

const FLAGS: &str = "-O2 -fomit-frame-pointer";

fn changing() -> PathBuf {
    Build::new("gcc", "changing", "changing.c").flags(FLAGS).build()
}

fn shares() -> PathBuf {
    Build::new("gcc", "shares", "shares.c").flags(FLAGS).build()
}

/// What `shares.c` does.
fn shares_paths() -> [Path; 3] {
    [
        Path::new("main alpha beta burn").share(0.5),
        Path::new("main gamma_ descend*12 burn").share(0.3),
        Path::new("main leaf").share(0.2),
    ]
}

fn plugin(file: &str, function: &str) -> PathBuf {
    Build::new("gcc", file, "plugin.c")
        .flags(&format!("-O2 -shared -fPIC -DNAME={function}"))
        .build()
}

fn start(stage: &Stage, args: &[&str]) -> Target {
    stage.start(Command::new(changing()).args(args))
}

/// Records while something is done 0.4 s after the start.
fn record_while(stage: &Stage, target: &Target, act: impl FnOnce() + Send) -> Stacks {
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(900));
            act();
        });
        stage.record(&[target], 1.8).stacks
    })
}

#[test]
fn a_library_loaded_later() {
    require!(root(), tool("gcc"));
    let library = plugin("liblate.so", "plugin_work");
    changing();
    let stage = Stage::take();
    let target = start(&stage, &["dlopen", library.to_str().unwrap()]);
    let stacks = stage.record(&[&target], 1.5).stacks;
    stacks.at_least(400).complete().rooted(&["_start"]);
    stacks.paths(
        "main",
        &[
            Path::new("main loads in_library plugin_work inside called_back burn"),
            Path::new("main loads works_for before burn"),
            Path::new("main loads works_for …"),
            Path::new("main loads dlopen …"),
        ],
    );
    assert!(stacks.share("plugin_work") > 0.5, "{stacks}");
}

#[test]
fn another_library_at_the_same_address() {
    require!(root(), tool("gcc"));
    let libraries = [plugin("libfirst.so", "first_work"), plugin("libsecond.so", "second_work")];
    changing();
    let stage = Stage::take();
    let [first, second] = libraries.each_ref().map(|library| library.to_str().unwrap());
    let target = start(&stage, &["swap", first, second]);
    let stacks = stage.record(&[&target], 2.0).stacks;
    stacks.at_least(500).complete().rooted(&["_start"]);
    let works = stacks.filter(|stack| stack.has("called_back"));
    let both = ["first_work", "second_work"].map(|name| {
        Path::of(&["main", "swaps", "in_library", name, "inside", "called_back", "burn"])
    });
    works.paths("main", &both);
    for name in ["first_work", "second_work"] {
        let share = works.share(name);
        assert!((share - 0.5).abs() < 0.1, "{name} {share}:\n{stacks}");
    }
}

#[test]
fn another_program_in_the_same_process() {
    require!(root(), tool("gcc"));
    let other = Build::new("clang", "other", "shares.c").flags("-O2 -no-pie").build();
    changing();
    let stage = Stage::take();
    let target = start(&stage, &["exec", other.to_str().unwrap()]);
    let stacks = stage.record(&[&target], 2.0).stacks;
    stacks.at_least(500).complete();
    let before = stacks.of("changing");
    before.at_least(20);
    let after = stacks.of("other");
    assert!(after.total() as f64 > 0.6 * stacks.total() as f64, "{stacks}");
    // The program's start is the loader's.
    after.filter(|stack| stack.has("main")).rooted(&["_start"]).paths("main", &shares_paths());
}

#[test]
fn a_fork_without_exec() {
    require!(root(), tool("gcc"));
    changing();
    let stage = Stage::take();
    let target = start(&stage, &["fork"]);
    let pid = target.pid().to_string();
    let recorded = stage.cpu(&["--pid", &pid, "--children", "-F", "999", "-d", "2"]);
    let stacks = &recorded.stacks;
    stacks.at_least(500).complete().rooted(&["_start"]);
    let child = Path::new("main child in_child before burn");
    let parent = Path::new("main works_for before burn");
    stacks.paths("main", &[child, parent, Path::new("main …")]);
    let share = stacks.share("in_child");
    assert!((0.3..0.6).contains(&share), "{share}:\n{stacks}");
}

#[test]
fn without_children_a_fork_is_left_out() {
    require!(root(), tool("gcc"));
    changing();
    let stage = Stage::take();
    let target = start(&stage, &["fork"]);
    let stacks = stage.record(&[&target], 1.0).stacks;
    stacks.at_least(200).complete();
    assert!(stacks.filter(|stack| stack.has("in_child")).0.is_empty(), "{stacks}");
}

#[test]
fn a_process_that_shares_its_parents_memory() {
    require!(root(), tool("gcc"));
    changing();
    let stage = Stage::take();
    let target = start(&stage, &["vm"]);
    let pid = target.pid().to_string();
    let recorded = stage.cpu(&["--pid", &pid, "--children", "-F", "999", "-d", "2"]);
    let stacks = &recorded.stacks;
    stacks.at_least(500).complete();
    let inside = stacks.filter(|stack| stack.has("in_child"));
    inside.paths("child", &[Path::new("child in_child before burn").share(1.0)]);
    let share = inside.total() as f64 / stacks.total() as f64;
    assert!((0.3..0.6).contains(&share), "{share}:\n{stacks}");
}

#[test]
fn processes_of_some_milliseconds() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "short", "changing.c").flags(FLAGS).build();
    changing();
    let stage = Stage::take();
    let target = start(&stage, &["short", program.to_str().unwrap()]);
    let pid = target.pid().to_string();
    for scope in [&["--pid", &pid, "--children"][..], &["--all"][..]] {
        let stacks = stage.cpu(&[scope, &["-F", "999", "-d", "2"]].concat()).stacks.of("short");
        // 5 ms of work and about 1 of loading, with every stack whole.
        stacks.at_least(200).complete();
        let work = stacks.filter(|stack| stack.has("works_for"));
        assert!(work.total() as f64 > 0.5 * stacks.total() as f64, "{stacks}");
        work.rooted(&["_start"]).paths(
            "main",
            &[Path::new("main works_for before burn"), Path::new("main works_for …")],
        );
    }
}

#[test]
fn threads_that_outlive_the_main_thread() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "headless", "threads.c").flags(FLAGS).build();
    let stage = Stage::take();
    let target = stage.start(Command::new(program).arg("go on"));
    let stacks = stage.record(&[&target], 1.5).stacks;
    stacks.at_least(300).complete();
    let paths = [4, 20, 60, 120].map(|depth| Path::new(&format!("start descend*{depth} burn")));
    stacks.paths("start", &paths);
}

/// A private copy of a program that may be replaced.
fn copy(of: &File, name: &str) -> PathBuf {
    let folder = of.parent().unwrap().join("replaced");
    fs::create_dir_all(&folder).unwrap();
    let copy = folder.join(name);
    // The former run's may still be there.
    let _ = fs::remove_file(&copy);
    fs::copy(of, &copy).unwrap();
    copy
}

/// Puts other contents under a name, as an installer does.
fn replace(file: &File, by: &File) {
    let new = file.with_extension("new");
    fs::copy(by, &new).unwrap();
    fs::rename(new, file).unwrap();
}

#[test]
fn a_program_replaced_on_disk() {
    require!(root(), tool("gcc"));
    let other = Build::new("gcc", "unlike", "calls.c").flags("-O0").build();
    let program = copy(&shares(), "replaced-early");
    let stage = Stage::take();
    let target = stage.run(&program);
    replace(&program, &other);
    let stacks = stage.record(&[&target], 1.0).stacks;
    stacks.at_least(200).complete().rooted(&["_start"]).paths("main", &shares_paths());
    drop(target);

    let program = copy(&shares(), "replaced-later");
    let target = stage.run(&program);
    let stacks = record_while(&stage, &target, || replace(&program, &other));
    stacks.at_least(300).complete().rooted(&["_start"]).paths("main", &shares_paths());
}

#[test]
fn a_library_replaced_on_disk() {
    require!(root(), tool("gcc"));
    let built = Build::new("gcc", "libplugin.so", "plugin.c").flags("-O2 -shared -fPIC").build();
    let library = copy(&built, "libplugin.so");
    let folder = library.parent().unwrap().to_str().unwrap();
    let program = Build::new("gcc", "hosting", "hosting.c")
        .flags(&format!("-O2 -L{folder} -lplugin -Wl,-rpath,{folder}"))
        .build();
    let other = plugin("libother.so", "another_work");
    let stage = Stage::take();
    let target = stage.run(program);
    replace(&library, &other);
    let stacks = stage.record(&[&target], 1.0).stacks;
    stacks.at_least(200).complete().rooted(&["_start"]);
    let path = Path::new("main plugin_work inside called_back burn").share(1.0);
    stacks.paths("main", &[path]);
}

#[test]
fn a_deleted_program() {
    require!(root(), tool("gcc"));
    let program = copy(&shares(), "deleted");
    let stage = Stage::take();
    let target = stage.run(&program);
    fs::remove_file(&program).unwrap();
    let stacks = stage.record(&[&target], 1.0).stacks;
    stacks.at_least(200).complete().rooted(&["_start"]).paths("main", &shares_paths());
}

#[test]
fn a_program_in_memory() {
    require!(root(), tool("gcc"));
    let launcher = Build::new("gcc", "memfd", "memfd.c").flags("-O2").build();
    let program = shares();
    let stage = Stage::take();
    let target = stage.start(Command::new(launcher).arg(program));
    let stacks = stage.record(&[&target], 1.0).stacks;
    stacks.at_least(200).complete().rooted(&["_start"]).paths("main", &shares_paths());
}
