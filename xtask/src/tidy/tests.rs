//! Fixtures that break each rule, and ones that come near.

use super::{
    Finding, direction,
    rules::{FILE_LINES, README_COMMANDS, registry_hosts},
    rust,
    source::Source,
    text,
};

const SAFE: &str = "profiler/src/model/frame.rs";
const UNSAFE: &str = "profiler/src/source/native/ring.rs";

fn rust_findings(path: &str, text: &str) -> Vec<String> {
    let findings = rust::check(path, text, &Source::new(text));
    findings.into_iter().map(|finding| finding.message).collect()
}

/// One finding, and it says this.
fn finds(path: &str, text: &str, part: &str) {
    let found = rust_findings(path, text);
    assert!(found.len() == 1 && found[0].contains(part), "{found:?} in\n{text}");
}

fn is_tidy(path: &str, text: &str) {
    assert_eq!(rust_findings(path, text), Vec::<String>::new(), "in\n{text}");
}

#[test]
fn a_file_needs_a_header() {
    finds(SAFE, "use std::fs;\n", "header");
    finds(SAFE, "// A comment.\n", "header");
    is_tidy(SAFE, "//! What it is for.\n");
}

#[test]
fn long_files_are_found_and_tests_not_counted() {
    let long = format!("//! Header.\n{}", "struct A;\n".repeat(FILE_LINES));
    finds(SAFE, &long, "lines without tests");
    is_tidy("tests/golden/main.rs", &long);
    is_tidy("profiler/src/fold/tests.rs", &long);
    let body = "    const A: u8 = 1;\n".repeat(FILE_LINES);
    is_tidy(SAFE, &format!("//! Header.\n#[cfg(test)]\nmod tests {{\n{body}}}\n"));
}

#[test]
fn long_functions_are_found() {
    let function = |lines: usize| {
        let body = "    let text = \"} // {\";\n".repeat(lines);
        format!("//! Header.\nfn long(a: [u8; 4], f: fn(u8)) -> u8\nwhere\n{{\n{body}}}\n")
    };
    finds(SAFE, &function(97), "`long` has 101 lines");
    is_tidy(SAFE, &function(96));
}

#[test]
fn functions_are_measured_one_by_one() {
    let source = Source::new(
        "trait T { fn declared(&self); }\nfn a() { let b: fn(u8) = c; }\n\nfn d() {\n    if e {}\n}\n",
    );
    let found: Vec<_> = source.functions().into_iter().map(|f| (f.name, f.line, f.len)).collect();
    assert_eq!(found, [("a".to_owned(), 1, 1), ("d".to_owned(), 3, 3)]);
}

#[test]
fn unsafe_belongs_into_listed_files() {
    let text = "//! Header.\n// SAFETY: a reason.\nunsafe impl Send for A {}\n";
    finds(SAFE, text, "UNSAFE_FILES");
    is_tidy(UNSAFE, text);
}

#[test]
fn unsafe_is_explained() {
    let text = |comment: &str| {
        format!(
            "//! Header.\nfn a() {{\n    b();\n    {comment}\n    let c =\n        unsafe {{ d() }};\n}}\n"
        )
    };
    finds(UNSAFE, &text("// Fast."), "SAFETY");
    finds(UNSAFE, &text("\"SAFETY: in a literal\";"), "SAFETY");
    is_tidy(UNSAFE, &text("// SAFETY: a reason."));
    is_tidy(UNSAFE, "//! Header.\n#[unsafe(no_mangle)]\nstatic A: u8 = 0;\n");
    // A comment belongs to its own statement only.
    let other = "//! Header.\nfn a() {\n    // SAFETY: of b.\n    unsafe { b() };\n    unsafe { c() };\n}\n";
    finds(UNSAFE, other, "SAFETY");
    is_tidy(SAFE, "//! unsafe\n// unsafe\nconst A: &str = r#\"unsafe \"# ;\nfn not_unsafe() {}\n");
}

#[test]
fn panics_need_a_reason_outside_tests() {
    finds(SAFE, "//! Header.\nfn a() { b().unwrap(); }\n", "SANITY");
    finds(SAFE, "//! Header.\nfn a() {\n    b()\n        .expect(\"c\");\n}\n", "SANITY");
    is_tidy(SAFE, "//! Header.\nfn a() {\n    // SANITY: b is there.\n    b().unwrap();\n}\n");
    is_tidy(SAFE, "//! Header.\nfn a() { b().unwrap_or_default(); }\n");
    is_tidy(SAFE, "//! Header.\n#[cfg(test)]\nmod tests {\n    fn a() { b().unwrap(); }\n}\n");
    // What follows the tests is no test.
    let after = "//! Header.\n#[cfg(test)]\nmod tests;\nfn a() { b().unwrap(); }\n";
    finds(SAFE, after, "SANITY");
}

#[test]
fn allow_is_found() {
    finds(SAFE, "//! Header.\n#[allow(dead_code)]\nfn a() {}\n", "expect(lint");
    finds(SAFE, "//! Header.\n#![allow(\n    dead_code\n)]\n", "expect(lint");
    finds(SAFE, "//! Header.\n#[cfg_attr(a, allow(dead_code))]\nfn a() {}\n", "expect(lint");
    is_tidy(SAFE, "//! Header.\nfn a() { b.allow(c); allow(d); }\n");
    is_tidy(SAFE, "//! Header.\n#[expect(dead_code, reason = \"allow(x)\")]\nfn a() {}\n");
}

fn imports(path: &str, text: &str) -> Vec<Finding> {
    let sources = ["native", "folded", "perf", "session"].map(str::to_owned).into();
    direction::check(path, &Source::new(text), &sources)
}

#[test]
fn imports_against_the_flow_are_found() {
    for (path, text) in [
        ("profiler/src/model/frame.rs", "use crate::fold::Tree;"),
        ("profiler/src/model/mod.rs", "fn a() { super::export::svg::draw(); }"),
        ("profiler/src/export/svg.rs", "use crate::{fold::Tree, source::Source};"),
        (
            "profiler/src/export/svg.rs",
            "use crate::{\n    fold::{self, Tree as T},\n    source,\n};",
        ),
        ("profiler/src/source/mod.rs", "use crate::symbolize::Symbolizer;"),
        ("profiler/src/source/native/recorder.rs", "use super::super::super::export::Export;"),
        ("profiler/src/source/perf.rs", "use super::folded::read;"),
        ("profiler/src/source/perf/wire.rs", "use crate::source::native::ring::Ring;"),
        ("profiler/src/cli.rs", "use crate::pipeline;"),
        ("profiler/src/unknown.rs", "use crate::model;"),
    ] {
        assert_eq!(imports(path, text).len(), 1, "{path}: {text}");
    }
}

#[test]
fn imports_along_the_flow_are_fine() {
    for (path, text) in [
        ("profiler/src/model/frame.rs", "use super::address::Address;"),
        ("profiler/src/fold/tree.rs", "use crate::model::{frame::Frame, stacks};"),
        ("profiler/src/source/native/ebpf/load.rs", "use super::super::ring::Ring;"),
        ("profiler/src/source/perf.rs", "use super::Source; use crate::source::Sample;"),
        ("profiler/src/source/perf.rs", "use super::session::Wake;"),
        ("profiler/src/pipeline.rs", "use crate::{export, source, symbolize};"),
        ("profiler/src/main.rs", "use flame_graph::pipeline;"),
        (
            "profiler/src/model/mod.rs",
            "//! See [`crate::export`].\nconst A: &str = \"crate::export\";",
        ),
        ("profiler/src/fold/mod.rs", "#[cfg(test)]\nmod tests {\n    use crate::export::svg;\n}"),
        ("profiler/src/fold/tests.rs", "use crate::export::svg;"),
        ("xtask/src/tidy/mod.rs", "use crate::export;"),
    ] {
        assert_eq!(imports(path, text), [], "{path}: {text}");
    }
}

#[test]
fn broken_use_trees_end() {
    for text in
        ["use crate::{", "use crate::{a::{b,", "use crate::{;};", "crate::", "use super::{é}"]
    {
        imports("profiler/src/model/frame.rs", text);
    }
}

fn text_lines(path: &str, text: &str) -> Vec<usize> {
    text::check(path, text.as_bytes()).into_iter().map(|finding| finding.line).collect()
}

#[test]
fn blanks_and_line_ends_are_checked() {
    assert_eq!(text_lines("a.md", "one\ntwo \nthree\t\nfour\r\n"), [1, 2, 3]);
    assert_eq!(text_lines("a.md", "one"), [0]);
    assert_eq!(text_lines("a.md", "one\n"), [0_usize; 0]);
    assert_eq!(text_lines("tests/golden/a.folded", "one \ntwo"), [0_usize; 0]);
    assert_eq!(text_lines("a.rs", "const A: &str = \"a \nb\";\n"), [0_usize; 0]);
    assert_eq!(text_lines("a.bpf.o", "\0 \n "), [0_usize; 0]);
}

#[test]
fn registries_are_not_named() {
    for host in registry_hosts() {
        assert_eq!(text_lines("a.toml", &format!("\nsee https://{host}/x\n")), [1]);
        assert_eq!(text_lines("a.bpf.o", &format!("\0\n{host}\n")), [1]);
        assert_eq!(text_lines("Cargo.lock", &format!("{host}\n")), [0_usize; 0]);
    }
}

#[test]
fn the_top_has_no_more_than_it_needs() {
    for path in ["Cargo.toml", ".ci/run", ".gitignore", "tests/pictures/a.svg", "xtask/x.rs"] {
        assert_eq!(text::check_place(path), None, "{path}");
    }
    for path in ["docs/a.svg", "clippy.toml", "Cargo.toml.orig"] {
        assert!(text::check_place(path).is_some(), "{path}");
    }
}

#[test]
fn the_commands_of_the_readme_are_those_that_run() {
    let [first, second] = README_COMMANDS;
    let readme = format!("# Title\n\n```sh\n{first}\n{second}\n```\n\n```sh\nmore\n```\n");
    let ci = format!("#!/usr/bin/env bash\n{second}\n");
    assert_eq!(text::check_commands(&readme, &ci), []);
    let files = |readme: &str, ci: &str| -> Vec<String> {
        text::check_commands(readme, ci).into_iter().map(|finding| finding.path).collect()
    };
    assert_eq!(files(&readme.replace(second, "make test"), &ci), ["README.md"]);
    assert_eq!(files("", &ci), ["README.md"]);
    assert_eq!(files(&readme, "cargo test\n"), [".ci/run"]);
    assert_eq!(files(&readme, &format!("# {second}\n")), [".ci/run"]);
}

#[test]
fn literals_and_comments_are_told_apart() {
    let source = Source::new(
        "let a = '\"'; // b \" c\nlet d: &'a str = b\"\\\"/*\"; /* e /* f */ g\nh */ let i = '\\'';\n\
         let j = r##\"k\"# // l\"##; let m = cr\"n\\\"; o(b'\\'', 'p');\n",
    );
    let words: Vec<String> =
        source.code.iter().map(|line| line.replace(['"', ' '], "").to_string()).collect();
    assert_eq!(words, ["leta=;", "letd:&'astr=;", "leti=;", "letj=;letm=;o(,);"]);
    assert_eq!(source.comments, ["// b \" c", "/* e /* f */ g", "h */", ""]);
}
