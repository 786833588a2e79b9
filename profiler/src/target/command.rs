//! Starting a command so that it can be recorded from its first instruction: it waits before its
//! exec until sampling has begun.

use std::{
    ffi::{CString, OsString},
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, ExitStatus},
    thread::{self, JoinHandle},
};

use rustix::pipe::{PipeFlags, pipe_with};

/// `NGROUPS_MAX` (linux/limits.h).
const MAX_GROUPS: usize = 65_536;

/// A user that a command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    name: String,
    uid: u32,
    gid: u32,
    /// Supplementary groups.
    groups: Vec<u32>,
    home: OsString,
}

/// Why a command could not be started.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No such user.
    #[error("there is no user `{0}` on this host")]
    NoUser(String),
    /// It could not be executed.
    #[error("cannot run `{program}`: {source}")]
    Exec {
        /// What was to be run.
        program: String,
        /// What the system answered.
        source: io::Error,
    },
    /// No pipes or processes any more.
    #[error("cannot start a process: {0}")]
    Start(#[from] io::Error),
}

impl User {
    /// The user of this name, from the host's user database.
    ///
    /// # Errors
    ///
    /// [`CommandError::NoUser`].
    pub fn find(name: &str) -> Result<Self, CommandError> {
        let unknown = || CommandError::NoUser(name.to_owned());
        let c_name = CString::new(name).map_err(|_| unknown())?;
        let mut buffer = vec![0; 16 << 10];
        // SAFETY: all zero is a valid passwd; it is read only after the call filled it.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: the pointers are valid for the call, the buffer with its length.
        let status = unsafe {
            libc::getpwnam_r(
                c_name.as_ptr(),
                &raw mut entry,
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            )
        };
        if status != 0 || found.is_null() {
            return Err(unknown());
        }
        // SAFETY: the call succeeded, so the entry's strings are NUL-terminated and in `buffer`.
        let home = unsafe { std::ffi::CStr::from_ptr(entry.pw_dir) };
        let home = String::from_utf8_lossy(home.to_bytes()).into_owned().into();
        let (uid, gid) = (entry.pw_uid, entry.pw_gid);
        let mut groups = vec![0; MAX_GROUPS];
        let mut len = MAX_GROUPS as i32;
        // SAFETY: `groups` has room for `len` ids, and the call sets `len` to what it wrote.
        let status =
            unsafe { libc::getgrouplist(c_name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut len) };
        if status < 0 {
            return Err(unknown());
        }
        groups.truncate(len as usize);
        Ok(Self { name: name.to_owned(), uid, gid, groups, home })
    }
}

/// A command that waits before its exec.
pub struct Waiting {
    /// Its process id.
    pub pid: u32,
    program: String,
    go: File,
    start: JoinHandle<io::Result<Child>>,
}

/// A command that runs.
pub struct Running {
    child: Child,
}

impl Waiting {
    /// Forks; the child waits. `argv` has at least the program.
    ///
    /// # Errors
    ///
    /// When no process can be made.
    pub fn start(argv: &[OsString], user: Option<User>) -> Result<Self, CommandError> {
        let (program, args) = argv
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"))?;
        let (pid_out, pid_in) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
        let (go_out, go_in) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
        let mut command = Command::new(program);
        command.args(args);
        if let Some(user) = &user {
            command.env("HOME", &user.home).env("USER", &user.name).env("LOGNAME", &user.name);
        }
        wait_before_exec(&mut command, pid_in, go_out, user);
        // `spawn` returns only after the exec, so it has a thread of its own.
        let start = thread::Builder::new()
            .name("start-command".to_owned())
            .spawn(move || command.spawn())?;
        let mut pid = [0; 4];
        File::from(pid_out).read_exact(&mut pid)?;
        let program = program.to_string_lossy().into_owned();
        Ok(Self { pid: u32::from_ne_bytes(pid), program, go: go_in.into(), start })
    }

    /// Lets it go.
    ///
    /// # Errors
    ///
    /// [`CommandError::Exec`].
    pub fn go(self) -> Result<Running, CommandError> {
        let Self { program, mut go, start, .. } = self;
        let failed = |source| CommandError::Exec { program, source };
        // When the child is gone already, its exec tells.
        let _ = go.write_all(&[1]);
        drop(go);
        let started = start.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        Ok(Running { child: started.map_err(failed)? })
    }
}

impl Running {
    /// Waits until it has ended.
    ///
    /// # Errors
    ///
    /// What waitpid answers.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    ///
    /// What waitpid answers.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }
}

/// Has a child get SIGTERM when the thread that starts it ends, however that comes: nothing that we
/// start outlives us.
pub fn ends_with_us(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    let prepare = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
        // It was too late when we have ended already.
        // SAFETY: a plain system call, which is allowed between fork and exec.
        if unsafe { libc::getppid() } as u32 != parent {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only and does not allocate.
    unsafe { command.pre_exec(prepare) }
}

/// Has the child tell its id and wait for a byte, then become the user. End of file instead of the
/// byte means that we are gone: it ends, too.
fn wait_before_exec(command: &mut Command, pid: OwnedFd, go: OwnedFd, user: Option<User>) {
    let prepare = move || {
        // SAFETY: plain system calls, which are allowed between fork and exec; the buffers live
        // through the calls.
        unsafe {
            let own = (libc::getpid() as u32).to_ne_bytes();
            if libc::write(pid.as_raw_fd(), own.as_ptr().cast(), own.len()) != 4 {
                return Err(io::Error::last_os_error());
            }
            let mut byte = 0u8;
            if libc::read(go.as_raw_fd(), (&raw mut byte).cast(), 1) != 1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if let Some(user) = &user
                && (libc::setgroups(user.groups.len(), user.groups.as_ptr()) != 0
                    || libc::setgid(user.gid) != 0
                    || libc::setuid(user.uid) != 0)
            {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only and does not allocate.
    unsafe { command.pre_exec(prepare) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_waits_and_then_runs() {
        let argv = ["sh".into(), "-c".into(), "exit 7".into()];
        let waiting = Waiting::start(&argv, None).unwrap();
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", waiting.pid)).unwrap();
        assert_ne!(comm.trim(), "sh");
        assert_eq!(waiting.go().unwrap().wait().unwrap().code(), Some(7));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let waiting = Waiting::start(&["/no/such/program".into()], None).unwrap();
        let error = waiting.go().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("/no/such/program"), "{error}");
    }

    #[test]
    fn an_unknown_user_is_named() {
        let error = User::find("no such user").unwrap_err().to_string();
        assert!(error.contains("no such user"), "{error}");
    }
}
