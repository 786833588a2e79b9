//! What else a process's folder tells: its program, its command line, its open sockets, and the
//! sockets of its network namespace.

use std::{
    ffi::OsString,
    fs,
    io::{BufReader, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::ffi::OsStringExt as _,
    path::PathBuf,
};

use super::{Folder, Proc, ProcError, SMALL_FILE, maps, parse};

/// Most descriptors looked at of one process.
const MAX_DESCRIPTORS: usize = 1 << 20;
/// Most bytes read of a file about the host: it has a line for each CPU.
const MAX_HOST_FILE: u64 = 4 << 20;
/// The state of a socket that listens (include/net/tcp_states.h).
const LISTENS: &[u8] = b"0A";

/// A TCP socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListeningSocket {
    /// Where.
    pub address: SocketAddr,
    /// Its inode, by which descriptors name it.
    pub inode: u64,
}

impl Proc {
    /// Whether a thread runs or waits for a CPU.
    ///
    /// # Errors
    ///
    /// What reading gave.
    pub fn thread_runs(&self, pid: u32, tid: u32) -> Result<bool, ProcError> {
        let folder = self.open(pid)?;
        let name = format!("task/{tid}/stat");
        let stat = parse::stat(&folder.read(&name)?).ok_or_else(|| folder.odd(&name))?;
        Ok(stat.runs)
    }

    /// The time that a thread was on a CPU, in nanoseconds.
    ///
    /// # Errors
    ///
    /// What reading gave: a kernel without CONFIG_SCHED_INFO has no such file.
    pub fn thread_cpu_time(&self, pid: u32, tid: u32) -> Result<u64, ProcError> {
        let folder = self.open(pid)?;
        let name = format!("task/{tid}/schedstat");
        let text = folder.read(&name)?;
        let time = parse::words(&text).next().and_then(parse::decimal);
        time.ok_or_else(|| folder.odd(&name))
    }

    /// The program that a process runs, as a path in its own mount namespace; ` (deleted)` behind
    /// it stays.
    ///
    /// # Errors
    ///
    /// What reading gave.
    pub fn exe(&self, pid: u32) -> Result<PathBuf, ProcError> {
        self.link(pid, "exe")
    }

    /// The words of a process's command line; those of a kernel thread are none.
    ///
    /// # Errors
    ///
    /// What reading gave.
    pub fn command_line(&self, pid: u32) -> Result<Vec<Vec<u8>>, ProcError> {
        let text = self.open(pid)?.read("cmdline")?;
        // Programs that write a title over their words leave many behind it.
        let Some(end) = text.iter().rposition(|byte| *byte != 0) else { return Ok(Vec::new()) };
        Ok(text[..=end].split(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
    }

    /// What tells a process's network namespace from others.
    ///
    /// # Errors
    ///
    /// What reading gave: only who may trace a process may know.
    pub fn network_namespace(&self, pid: u32) -> Result<PathBuf, ProcError> {
        self.link(pid, "ns/net")
    }

    /// The sockets that listen in a process's network namespace.
    ///
    /// # Errors
    ///
    /// What reading gave.
    pub fn listening_sockets(&self, pid: u32) -> Result<Vec<ListeningSocket>, ProcError> {
        let folder = self.open(pid)?;
        let mut sockets = folder.listening("net/tcp")?;
        // A kernel without IPv6 has no such file.
        sockets.extend(folder.listening("net/tcp6").unwrap_or_default());
        Ok(sockets)
    }

    /// The inodes of the sockets that a process has open.
    ///
    /// # Errors
    ///
    /// What reading gave.
    pub fn sockets(&self, pid: u32) -> Result<Vec<u64>, ProcError> {
        let path = self.root.join(pid.to_string()).join("fd");
        let entries =
            fs::read_dir(&path).map_err(|source| ProcError::of(pid, path.clone(), source))?;
        let links = entries.take(MAX_DESCRIPTORS).filter_map(|entry| {
            // A descriptor may be closed meanwhile.
            fs::read_link(entry.ok()?.path()).ok()
        });
        Ok(links.filter_map(|link| socket(link.as_os_str().as_encoded_bytes())).collect())
    }

    /// The folder of a process's temporary files, as it sees it: what its environment began with, or
    /// `/tmp`.
    ///
    /// # Errors
    ///
    /// What reading gave.
    pub fn temporary_folder(&self, pid: u32) -> Result<PathBuf, ProcError> {
        let named = self.variable(pid, "TMPDIR")?;
        let named = named.map(|path| PathBuf::from(OsString::from_vec(path)));
        Ok(named.filter(|path| path.is_absolute()).unwrap_or_else(|| "/tmp".into()))
    }

    /// When the host was started, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// What reading gave.
    pub fn boot_time(&self) -> Result<u64, ProcError> {
        let path = self.root.join("stat");
        let mut text = Vec::new();
        fs::File::open(&path)
            .and_then(|file| file.take(MAX_HOST_FILE).read_to_end(&mut text))
            .map_err(|source| ProcError::Read { path: path.clone(), source })?;
        let mut lines = text.split(|byte| *byte == b'\n');
        let time = lines.find_map(|line| parse::decimal(line.strip_prefix(b"btime ")?));
        time.ok_or(ProcError::Malformed { path })
    }

    fn link(&self, pid: u32, name: &str) -> Result<PathBuf, ProcError> {
        let path = self.root.join(pid.to_string()).join(name);
        fs::read_link(&path).map_err(|source| ProcError::of(pid, path, source))
    }
}

impl Folder {
    fn listening(&self, name: &str) -> Result<Vec<ListeningSocket>, ProcError> {
        let file = BufReader::with_capacity(SMALL_FILE as usize, self.file(name)?);
        let mut sockets = Vec::new();
        let mut heading = true;
        maps::each_line(file, |line| {
            if std::mem::take(&mut heading) {
                return true;
            }
            // The kernel lists those that listen first (net/ipv4/tcp_ipv4.c, tcp_get_idx), and a
            // busy host has very many others.
            let socket = listening_line(line);
            sockets.extend(socket);
            socket.is_some()
        })
        .map_err(|source| self.failed(name, source))?;
        Ok(sockets)
    }
}

/// The inode in `socket:[123]`.
fn socket(link: &[u8]) -> Option<u64> {
    parse::decimal(link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

/// Parses `  0: 0100007F:1F40 00000000:0000 0A QUEUES TIMER RETRANSMITS UID TIMEOUT INODE …`; none:
/// it is another line, or does not listen.
fn listening_line(line: &[u8]) -> Option<ListeningSocket> {
    let mut words = parse::words(line).skip(1);
    let local = words.next()?;
    if words.nth(1)? != LISTENS {
        return None;
    }
    let inode = parse::decimal(words.nth(5)?)?;
    let colon = local.iter().position(|byte| *byte == b':')?;
    let port = u16::from_str_radix(str::from_utf8(&local[colon + 1..]).ok()?, 16).ok()?;
    Some(ListeningSocket { address: SocketAddr::new(address(&local[..colon])?, port), inode })
}

/// An address as 32-bit words in the host's byte order, each in hexadecimal.
fn address(digits: &[u8]) -> Option<IpAddr> {
    let word = |part: &[u8]| {
        let number = u32::from_str_radix(str::from_utf8(part).ok()?, 16).ok()?;
        Some(number.to_ne_bytes())
    };
    match digits.len() {
        8 => Some(Ipv4Addr::from(word(digits)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (part, room) in digits.chunks(8).zip(bytes.chunks_mut(4)) {
                room.copy_from_slice(&word(part)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_files_are_where_the_environment_says() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("12");
        fs::create_dir(&folder).unwrap();
        let proc = Proc::at(dir.path().to_owned());
        for (environment, expected) in [
            ("A=1\0TMPDIR=/var/tmp\0", "/var/tmp"),
            ("TMPDIR=relative\0", "/tmp"),
            ("TMPDIR=\0", "/tmp"),
            ("XTMPDIR=/x\0", "/tmp"),
            ("", "/tmp"),
        ] {
            fs::write(folder.join("environ"), environment).unwrap();
            assert_eq!(
                proc.temporary_folder(12).unwrap(),
                std::path::Path::new(expected),
                "{environment}"
            );
        }
    }

    #[test]
    fn addresses_of_both_families() {
        let parse = |text: &str| {
            let line = format!("  0: {text} 00000000:0000 0A 0:0 00:0 0 1000 0 4711 1 0 100 0");
            listening_line(line.as_bytes())
        };
        let found = |text: &str| parse(text).map(|socket| socket.address.to_string());
        assert_eq!(found("0100007F:1F40").as_deref(), Some("127.0.0.1:8000"));
        assert_eq!(found("00000000000000000000000001000000:0050").as_deref(), Some("[::1]:80"));
        assert_eq!(
            found("0000000000000000FFFF00000100007F:0050").as_deref(),
            Some("[::ffff:127.0.0.1]:80")
        );
        assert_eq!(parse("0100007F:1F40").unwrap().inode, 4711);
        for wrong in ["", "0100007F", "0100007F:", "0100007G:0050", "01:0050", "0100007F:10000"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert_eq!(listening_line(b" 0: 0100007F:0050 0:0 01 0:0 00:0 0 1000 0 4711"), None);
        assert_eq!(listening_line(b" 0: 0100007F:0050 0:0 0A"), None);
    }

    #[test]
    fn only_sockets_are_sockets() {
        assert_eq!(socket(b"socket:[12]"), Some(12));
        for other in [&b"socket:[]x"[..], b"pipe:[12]", b"/socket:[12]", b"socket:[-1]", b""] {
            assert_eq!(socket(other), None);
        }
    }

    #[test]
    fn own_process_is_read() {
        let proc = Proc::new();
        let own = std::process::id();
        assert_eq!(proc.exe(own).unwrap(), std::env::current_exe().unwrap());
        assert!(!proc.command_line(own).unwrap().is_empty());
        assert!(proc.boot_time().unwrap() > 1_000_000_000);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sockets = proc.listening_sockets(own).unwrap();
        let socket = sockets.iter().find(|socket| socket.address == address).unwrap();
        assert!(proc.sockets(own).unwrap().contains(&socket.inode));
        assert_eq!(
            proc.network_namespace(own).unwrap(),
            fs::read_link("/proc/self/ns/net").unwrap()
        );
    }
}
