//! Places where a path means another file than on the host: chroots, mount namespaces, PID
//! namespaces, overlay file systems.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path as File, PathBuf},
    process::Command,
};

use crate::{
    require,
    support::{Build, Path, Stacks, Stage, root, scratch, tool},
};

/// What `shares.c` does.
fn check(stacks: &Stacks) {
    stacks.at_least(25).complete().rooted(&["_start"]).paths(
        "main",
        &[
            Path::new("main alpha beta burn").share(0.5),
            Path::new("main gamma_ descend*12 burn").share(0.3),
            Path::new("main leaf").share(0.2),
        ],
    );
}

fn shares(flags: &str) -> PathBuf {
    Build::new("gcc", "shares", "shares.c").flags(flags).build()
}

/// A program that is not the one meant, but can be taken for it by its path.
fn decoy() -> PathBuf {
    Build::new("gcc", "decoy", "calls.c").flags("-O0").build()
}

fn folder(name: &str) -> PathBuf {
    let folder = scratch().join("places").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A root folder with a program at `path`, and the libraries that it needs.
fn root_folder(name: &str, path: &str, program: &File) -> PathBuf {
    let root = folder(name);
    for file in ["/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"] {
        let to = root.join(&file[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
    let to = root.join(&path[1..]);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(program, to).unwrap();
    root
}

#[test]
fn a_chroot_with_another_file_at_the_same_path() {
    require!(root(), tool("gcc"), tool("chroot"));
    let program = shares("-O2");
    let (outside, path) = (folder("outside"), "shares-here");
    // The same path outside the chroot is another program.
    let path = outside.join(path);
    fs::copy(decoy(), &path).unwrap();
    let path = path.to_str().unwrap();
    let root = root_folder("chroot", path, &program);
    let stage = Stage::take();
    let target = stage.start(Command::new("chroot").arg(root).arg(path));
    check(&stage.record(&[&target], 1.0).stacks);
}

#[test]
fn a_mount_namespace_with_another_file_at_the_same_path() {
    require!(root(), tool("gcc"), tool("unshare"));
    let program = shares("-O2");
    let here = folder("mounts").join("program");
    fs::copy(decoy(), &here).unwrap();
    let stage = Stage::take();
    let script = "mount --bind \"$1\" \"$2\" && exec \"$2\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "/bin/sh", "-c", script, "sh"]).arg(program).arg(&here);
    let target = stage.start(&mut command);
    check(&stage.record(&[&target], 1.0).stacks.of("program"));
}

#[test]
fn an_overlay_file_system() {
    require!(root(), tool("gcc"), tool("unshare"));
    let program = shares("-O2");
    let folder = folder("overlay");
    let script = "mount -t tmpfs none \"$1\" && cd \"$1\" && mkdir low up work all && \
                  cp \"$2\" low/program && \
                  mount -t overlay none -o lowerdir=low,upperdir=up,workdir=work all && \
                  exec \"$1/all/program\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "/bin/sh", "-c", script, "sh"]).arg(&folder).arg(program);
    require!(overlay());
    let stage = Stage::take();
    let target = stage.start(&mut command);
    check(&stage.record(&[&target], 1.0).stacks.of("program"));
}

fn overlay() -> Result<(), String> {
    let known = fs::read_to_string("/proc/filesystems").unwrap();
    if known.contains("\toverlay\n") { Ok(()) } else { Err("overlay file systems".to_owned()) }
}

#[test]
fn a_pid_namespace() {
    require!(root(), tool("gcc"), tool("unshare"));
    let program = shares("-O2");
    let stage = Stage::take();
    let mut command = Command::new("unshare");
    command.args(["-m", "-p", "-f", "--kill-child", "--mount-proc"]).arg(program);
    let target = stage.start(&mut command);
    check(&stage.cpu(&["--pid", &target.only_child(), "-F", "999", "-d", "1"]).stacks);
    let pid = target.pid().to_string();
    let stacks = stage.cpu(&["--pid", &pid, "--children", "-F", "999", "-d", "1"]);
    check(&stacks.stacks.of("shares"));
    let stacks = stage.cpu(&["--all", "-F", "999", "-d", "1"]).stacks;
    check(&stacks.of("shares"));
}

#[test]
fn a_container_of_everything() {
    require!(root(), tool("gcc"), tool("unshare"), tool("chroot"));
    let program = shares("-O2 -no-pie");
    let root = root_folder("container", "/app/server", &program);
    let stage = Stage::take();
    let mut command = Command::new("unshare");
    command.args(["-m", "-p", "-u", "-i", "-n", "-f", "--kill-child", "--root"]).arg(&root);
    let target = stage.start(command.arg("/app/server"));
    let pid = target.pid().to_string();
    let stacks = stage.cpu(&["--pid", &pid, "--children", "-F", "999", "-d", "1"]).stacks;
    check(&stacks.of("server"));
}

#[test]
fn a_user_that_cannot_read_what_it_runs() {
    require!(root(), tool("gcc"), tool("setpriv"));
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("secret");
    fs::copy(shares("-O2"), &program).unwrap();
    // Anyone may run it, only root may read it.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o711)).unwrap();
    let stage = Stage::take();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    let target = stage.start(&mut command);
    check(&stage.record(&[&target], 1.0).stacks.of("secret"));
}
