//! Which language runtime a process is, by its program and by what it has mapped.

use std::fmt;

use object::{File, Object as _};

use super::{
    image::{Image, open_regular},
    process::{Proc, ProcError},
};

/// Programs of others are not copied beyond this size only to say what they are.
const MAX_COPY: u64 = 64 << 20;

/// A language runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// CPython.
    Python,
    /// PyPy.
    PyPy,
    /// Node.js.
    Node,
    /// Bun.
    Bun,
    /// Deno.
    Deno,
    /// .NET (CoreCLR).
    Dotnet,
    /// Java (HotSpot, OpenJ9).
    Java,
    /// Ruby.
    Ruby,
    /// A program in Go.
    Go,
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Python => "Python",
            Self::PyPy => "PyPy",
            Self::Node => "Node.js",
            Self::Bun => "Bun",
            Self::Deno => "Deno",
            Self::Dotnet => ".NET",
            Self::Java => "Java",
            Self::Ruby => "Ruby",
            Self::Go => "Go",
        })
    }
}

/// The runtime of a process; none: another, or none at all. Where it hosts several, it is the one
/// that its program is.
#[must_use]
pub fn of(proc: &Proc, pid: u32) -> Option<Runtime> {
    quick(proc, pid).ok().flatten().or_else(|| is_go(proc, pid).then_some(Runtime::Go))
}

/// Whether a process has a runtime, also when another hosts it.
#[must_use]
pub fn has(proc: &Proc, pid: u32, runtime: Runtime) -> bool {
    if by_program(proc, pid) == Some(runtime) {
        return true;
    }
    let mapped = mapped(proc, pid).unwrap_or_default();
    mapped.contains(&runtime) || (runtime == Runtime::Go && is_go(proc, pid))
}

/// The processes of a runtime, ascending. Those that cannot be read are left out.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn processes(proc: &Proc, runtime: Runtime) -> Result<Vec<u32>, ProcError> {
    let own = proc.own_pid();
    let all = proc.pids()?.into_iter().filter(|pid| Some(*pid) != own);
    Ok(all.filter(|pid| quick(proc, *pid).ok().flatten() == Some(runtime)).collect())
}

fn quick(proc: &Proc, pid: u32) -> Result<Option<Runtime>, ProcError> {
    match by_program(proc, pid) {
        Some(runtime) => Ok(Some(runtime)),
        None => Ok(mapped(proc, pid)?.first().copied()),
    }
}

fn by_program(proc: &Proc, pid: u32) -> Option<Runtime> {
    program(file_name(proc.exe(pid).ok()?.as_os_str().as_encoded_bytes()))
}

/// What a program is by its name.
fn program(name: &[u8]) -> Option<Runtime> {
    // `python`, `python3.12`, `python3.13t`, `python3.11-dbg`; not `python-build`.
    // npm's package of Bun calls its program so on every system.
    let name = name.strip_suffix(b".exe").unwrap_or(name);
    let is = |stem: &[u8]| {
        let rest = name.strip_prefix(stem)?;
        let rest = rest.strip_suffix(b"-dbg").unwrap_or(rest);
        let plain = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'.' | b't' | b'd' | b'm');
        rest.iter().all(plain).then_some(())
    };
    [
        (&b"python"[..], Runtime::Python),
        (b"pypy", Runtime::PyPy),
        (b"nodejs", Runtime::Node),
        (b"node", Runtime::Node),
        (b"bun", Runtime::Bun),
        (b"deno", Runtime::Deno),
        (b"ruby", Runtime::Ruby),
    ]
    .into_iter()
    .find_map(|(stem, runtime)| is(stem).map(|()| runtime))
}

/// The runtimes whose libraries a process has mapped, the hosting ones first.
fn mapped(proc: &Proc, pid: u32) -> Result<Vec<Runtime>, ProcError> {
    let mut found = Vec::new();
    for mapping in proc.executable_mappings(pid)? {
        if let Some(runtime) = library(file_name(&mapping.path))
            && !found.contains(&runtime)
        {
            found.push(runtime);
        }
    }
    // A Python library within Java, .NET or Node is a guest.
    found.sort_by_key(|runtime| matches!(runtime, Runtime::Python | Runtime::Ruby));
    Ok(found)
}

/// What a mapped library belongs to.
fn library(name: &[u8]) -> Option<Runtime> {
    [
        (&b"libpython"[..], Runtime::Python),
        (b"libpypy", Runtime::PyPy),
        (b"libnode.so", Runtime::Node),
        (b"libcoreclr.so", Runtime::Dotnet),
        (b"libjvm.so", Runtime::Java),
        (b"libj9vm", Runtime::Java),
        (b"libruby", Runtime::Ruby),
    ]
    .into_iter()
    .find_map(|(stem, runtime)| name.starts_with(stem).then_some(runtime))
}

/// Whether a process's program was built by Go, whose linker leaves a section of its own.
fn is_go(proc: &Proc, pid: u32) -> bool {
    let Ok(file) = open_regular(&proc.root().join(pid.to_string()).join("exe")) else {
        return false;
    };
    let Ok(image) = Image::within(&file, MAX_COPY) else { return false };
    let section = |file: File<'_>| file.section_by_name(".go.buildinfo").is_some();
    File::parse(&*image).is_ok_and(section)
}

/// The file's name at the end of a path as the kernel shows it.
fn file_name(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::*;

    fn process(root: &Path, pid: u32, exe: &str, libraries: &[&str]) {
        let folder = root.join(pid.to_string());
        fs::create_dir_all(&folder).unwrap();
        symlink(exe, folder.join("exe")).unwrap();
        let line = |path| format!("7f0000000000-7f0000001000 r-xp 0 00:01 12   {path}\n");
        let maps: String = [exe].iter().chain(libraries).map(line).collect();
        fs::write(folder.join("maps"), maps).unwrap();
        let stat = format!("{pid} (x) S 1 1 1 0 -1 0 0 0 0 0 1 2 0 0 20 0 1 0 42 0\n");
        fs::write(folder.join("stat"), stat).unwrap();
    }

    #[test]
    fn programs_have_names() {
        for (name, runtime) in [
            ("python", Some(Runtime::Python)),
            ("python3.11", Some(Runtime::Python)),
            ("python3.13t", Some(Runtime::Python)),
            ("python3.11-dbg", Some(Runtime::Python)),
            ("python-build", None),
            ("python3-config", None),
            ("pypy3.10", Some(Runtime::PyPy)),
            ("node", Some(Runtime::Node)),
            ("nodejs", Some(Runtime::Node)),
            ("node20", Some(Runtime::Node)),
            ("node_exporter", None),
            ("bun", Some(Runtime::Bun)),
            ("bun.exe", Some(Runtime::Bun)),
            ("bundle", None),
            ("", None),
        ] {
            assert_eq!(program(name.as_bytes()), runtime, "{name}");
        }
    }

    #[test]
    fn libraries_tell_what_programs_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        process(root, 1, "/usr/bin/python3.11 (deleted)", &[]);
        process(root, 2, "/usr/bin/uwsgi", &["/usr/lib/libpython3.11.so.1.0"]);
        process(root, 3, "/jdk/bin/java", &["/usr/lib/libpython3.9.so", "/jdk/lib/libjvm.so"]);
        process(root, 4, "/srv/app", &["/srv/libcoreclr.so"]);
        process(root, 5, "/usr/bin/bash", &["/usr/lib/libc.so.6"]);
        let proc = Proc::at(root.to_owned());
        let found: Vec<_> = (1..=6).map(|pid| of(&proc, pid)).collect();
        let (python, java) = (Some(Runtime::Python), Some(Runtime::Java));
        assert_eq!(found, [python, python, java, Some(Runtime::Dotnet), None, None]);
        assert!(has(&proc, 3, Runtime::Python) && !has(&proc, 4, Runtime::Python));
        assert_eq!(processes(&proc, Runtime::Python).unwrap(), [1, 2]);
        assert_eq!(processes(&proc, Runtime::Go).unwrap(), [0; 0]);
    }
}
