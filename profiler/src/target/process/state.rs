//! What must be known of a process before it is spoken to: the signals that it handles, what its
//! environment says, and the network that it is in.

use std::{
    fs,
    io::{BufReader, Read as _},
};

use super::{Proc, ProcError, SMALL_FILE, maps, parse};

/// Most bytes read of an environment: the kernel allows 6 MB for it and the arguments.
const MAX_ENVIRONMENT: u64 = 8 << 20;
/// The state of a socket that is connected (include/net/tcp_states.h).
const CONNECTED: &[u8] = b"01";

impl Proc {
    /// Whether a process has a handler of its own for a signal.
    ///
    /// # Errors
    ///
    /// What reading gave.
    pub fn catches(&self, pid: u32, signal: i32) -> Result<bool, ProcError> {
        let folder = self.open(pid)?;
        let status = folder.read("status")?;
        let digits = parse::status_field(&status, b"SigCgt");
        let digits = digits.and_then(|digits| str::from_utf8(digits).ok());
        let mask = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let mask = mask.ok_or_else(|| folder.odd("status"))?;
        // Signals count from 1.
        Ok((1..=64).contains(&signal) && mask >> (signal - 1) & 1 == 1)
    }

    /// A variable of the environment that a process was started with.
    ///
    /// # Errors
    ///
    /// What reading gave, such as [`ProcError::Denied`].
    pub fn variable(&self, pid: u32, name: &str) -> Result<Option<Vec<u8>>, ProcError> {
        let folder = self.open(pid)?;
        let mut text = Vec::new();
        let read = folder.file("environ")?.take(MAX_ENVIRONMENT).read_to_end(&mut text);
        read.map_err(|source| folder.failed("environ", source))?;
        Ok(variable(&text, name.as_bytes()).map(<[u8]>::to_vec))
    }

    /// The network namespace of a process, opened; none: it is our own.
    ///
    /// # Errors
    ///
    /// What opening gave: only who may trace a process may.
    pub fn other_network(&self, pid: u32) -> Result<Option<fs::File>, ProcError> {
        let own = self.own_pid().and_then(|own| self.network_namespace(own).ok());
        if own.as_ref() == Some(&self.network_namespace(pid)?) {
            return Ok(None);
        }
        self.open(pid)?.file("ns/net").map(Some)
    }

    /// How many connections a port has in the network namespace of a process.
    ///
    /// # Errors
    ///
    /// What reading gave.
    pub fn connections(&self, pid: u32, port: u16) -> Result<usize, ProcError> {
        let folder = self.open(pid)?;
        let mut count = 0;
        for name in ["net/tcp", "net/tcp6"] {
            // A kernel without IPv6 has no such file.
            let Ok(file) = folder.file(name) else { continue };
            let file = BufReader::with_capacity(SMALL_FILE as usize, file);
            let read = maps::each_line(file, |line| {
                count += usize::from(is_connection(line, port));
                true
            });
            read.map_err(|source| folder.failed(name, source))?;
        }
        Ok(count)
    }
}

/// The value of `NAME=VALUE` among strings that end in NUL.
fn variable<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut strings = text.split(|byte| *byte == 0);
    strings.find_map(|string| string.strip_prefix(name)?.strip_prefix(b"="))
}

/// Whether a line of `net/tcp` is a connection that was made to this port.
fn is_connection(line: &[u8], port: u16) -> bool {
    let mut words = parse::words(line).skip(1);
    let local = words.next().unwrap_or_default();
    let state = words.nth(1).unwrap_or_default();
    state == CONNECTED && local.ends_with(format!(":{port:04X}").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn variables_are_whole_names() {
        let text = b"AB=1\0B=2=3\0C=\0noise\0B=4\0";
        assert_eq!(variable(text, b"B"), Some(&b"2=3"[..]));
        assert_eq!(variable(text, b"C"), Some(&b""[..]));
        assert_eq!(variable(text, b"noise"), None);
        assert_eq!(variable(b"", b"B"), None);
    }

    #[test]
    fn lines_that_are_no_connections_are_none() {
        let line = b" 1: 0100007F:240D 0100007F:8000 01 0:0 00:0 0 0 0 12 1";
        assert!(is_connection(line, 9229) && !is_connection(line, 0x8000));
        for other in [&b" sl local rem st"[..], b"", b" 1: 0100007F:240D 0:0 0A", b"1: :240D"] {
            assert!(!is_connection(other, 9229));
        }
    }

    #[test]
    fn this_process_is_told() {
        let (proc, pid) = (Proc::new(), std::process::id());
        // Rust's runtime handles SIGSEGV, and nothing can handle SIGKILL.
        assert!(proc.catches(pid, 11).unwrap() && !proc.catches(pid, 9).unwrap());
        assert!(!proc.catches(pid, 0).unwrap() && !proc.catches(pid, 65).unwrap());
        assert!(proc.other_network(pid).unwrap().is_none());
        assert_eq!(proc.variable(pid, "FLAME_GRAPH_NO_SUCH_NAME").unwrap(), None);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(proc.connections(pid, address.port()).unwrap(), 0);
        let _stream = TcpStream::connect(address).unwrap();
        assert_eq!(proc.connections(pid, address.port()).unwrap(), 1);
    }
}
