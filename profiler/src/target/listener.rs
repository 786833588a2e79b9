//! Which local process listens on a port: from the sockets of each network namespace to the
//! processes that hold them.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket},
    path::PathBuf,
};

use super::process::{ListeningSocket, Proc, ProcError};

/// A process that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The process; of those that share a socket, as pre-forking servers do, the parent.
    pub pid: u32,
    /// Its descendants that have the socket, too, ascending.
    pub workers: Vec<u32>,
    /// It listens in another network namespace than ours, as in a container.
    pub elsewhere: bool,
}

/// Why no listener was found.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The name stands for nothing.
    #[error("cannot find out the address of {host:?}: {source}")]
    Unknown {
        /// The name.
        host: String,
        /// What the resolver said.
        source: std::io::Error,
    },
    /// It is no address of this host.
    #[error(
        "{host:?} is another host: only a process of this host can be recorded; run flame-graph \
         there"
    )]
    Remote {
        /// The name or address.
        host: String,
    },
    /// Nothing listens there.
    #[error("no process of this host listens on port {0}: is the service running?")]
    Nobody(u16),
    /// Something does, but whose it is cannot be seen.
    #[error(
        "something listens on port {0}, but its process cannot be seen: run as root, or as its \
         owner"
    )]
    Unseen(u16),
    /// `/proc` cannot be read.
    #[error(transparent)]
    Proc(#[from] ProcError),
}

/// The addresses of a host name, when it is this host.
///
/// # Errors
/// [`ListenError::Unknown`], [`ListenError::Remote`].
pub fn local_addresses(host: &str) -> Result<Vec<IpAddr>, ListenError> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let found = (bare, 0)
        .to_socket_addrs()
        .map_err(|source| ListenError::Unknown { host: host.to_owned(), source })?;
    // Only addresses of this host can be bound to.
    let ours = |ip: &IpAddr| UdpSocket::bind(SocketAddr::new(*ip, 0)).is_ok();
    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).filter(ours).collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(ListenError::Remote { host: host.to_owned() });
    }
    Ok(addresses)
}

/// The processes that listen on a port at one of these addresses (none given: at any), those of our
/// own network namespace first.
///
/// # Errors
/// When there is none, or `/proc` does not tell.
pub fn find(proc: &Proc, addresses: &[IpAddr], port: u16) -> Result<Vec<Listener>, ListenError> {
    let pids = proc.pids()?;
    let spaces = namespaces(proc, &pids);
    let mut wanted = HashMap::new();
    for (pid, elsewhere) in spaces {
        let Ok(sockets) = proc.listening_sockets(pid) else { continue };
        // What another namespace calls its own addresses is not what we do.
        let addresses = if elsewhere { &[] } else { addresses };
        let inodes = answering(&sockets, addresses, port);
        wanted.extend(inodes.into_iter().map(|inode| (inode, elsewhere)));
    }
    if wanted.is_empty() {
        return Err(ListenError::Nobody(port));
    }
    let mut holders: HashMap<u32, bool> = HashMap::new();
    for pid in pids {
        let held = proc.sockets(pid).unwrap_or_default();
        let mut held = held.iter().filter_map(|inode| wanted.get(inode));
        if let Some(first) = held.next() {
            holders.insert(pid, *first && held.all(|elsewhere| *elsewhere));
        }
    }
    if holders.is_empty() {
        return Err(ListenError::Unseen(port));
    }
    Ok(families(proc, &holders))
}

/// A process of each network namespace that can be told, ours first, and whether it is another.
fn namespaces(proc: &Proc, pids: &[u32]) -> Vec<(u32, bool)> {
    let own = proc.own_pid();
    let ours: Option<PathBuf> = own.and_then(|pid| proc.network_namespace(pid).ok());
    let mut seen: HashSet<PathBuf> = ours.into_iter().collect();
    let mut found: Vec<(u32, bool)> = own.map(|pid| (pid, false)).into_iter().collect();
    for pid in pids {
        let Ok(space) = proc.network_namespace(*pid) else { continue };
        if seen.insert(space) {
            found.push((*pid, true));
        }
    }
    found
}

/// The inodes of the sockets that answer a connection to one of these addresses: of the very
/// address rather than of all addresses, as the kernel chooses.
fn answering(sockets: &[ListeningSocket], addresses: &[IpAddr], port: u16) -> Vec<u64> {
    let on_port = || sockets.iter().filter(|socket| socket.address.port() == port);
    let ip = |socket: &ListeningSocket| socket.address.ip().to_canonical();
    let exact: Vec<u64> = on_port()
        .filter(|socket| addresses.is_empty() || addresses.contains(&ip(socket)))
        .map(|socket| socket.inode)
        .collect();
    if !exact.is_empty() {
        return exact;
    }
    on_port().filter(|socket| ip(socket).is_unspecified()).map(|socket| socket.inode).collect()
}

/// Those that share a socket with an ancestor go under it.
fn families(proc: &Proc, holders: &HashMap<u32, bool>) -> Vec<Listener> {
    let parent = |pid: u32| proc.process(pid).map_or(0, |process| process.ppid);
    // The topmost ancestor that listens, over others that do not (a shell, a supervisor).
    let top = |pid: u32| {
        let (mut top, mut at, mut steps) = (pid, pid, 0);
        while at > 1 && steps < 1000 {
            at = parent(at);
            steps += 1;
            if holders.contains_key(&at) {
                top = at;
            }
        }
        top
    };
    let mut families: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in holders.keys().copied() {
        let family = families.entry(top(pid)).or_default();
        if top(pid) != pid {
            family.push(pid);
        }
    }
    let mut listeners: Vec<Listener> = families
        .into_iter()
        .map(|(pid, mut workers)| {
            workers.sort_unstable();
            let elsewhere = holders.get(&pid).copied().unwrap_or_default();
            Listener { pid, workers, elsewhere }
        })
        .collect();
    listeners.sort_unstable_by_key(|listener| (listener.elsewhere, listener.pid));
    listeners
}

#[cfg(test)]
mod tests {
    use std::{fs, net::TcpListener, os::unix::fs::symlink, path::Path};

    use super::*;

    /// A process with these sockets and, in its namespace, these lines of `net/tcp`.
    fn process(root: &Path, pid: u32, ppid: u32, space: u32, sockets: &[u64], tcp: &[&str]) {
        let folder = root.join(pid.to_string());
        for part in ["ns", "fd", "net"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        symlink(format!("net:[{space}]"), folder.join("ns/net")).unwrap();
        for (number, inode) in sockets.iter().enumerate() {
            symlink(format!("socket:[{inode}]"), folder.join("fd").join(number.to_string()))
                .unwrap();
        }
        let lines = tcp.iter().enumerate().map(|(number, line)| format!(" {number}: {line}\n"));
        fs::write(folder.join("net/tcp"), format!("  sl  head\n{}", lines.collect::<String>()))
            .unwrap();
        let stat = format!("{pid} (x) S {ppid} 1 1 0 -1 0 0 0 0 0 1 2 0 0 20 0 1 0 42 0\n");
        fs::write(folder.join("stat"), stat).unwrap();
        fs::write(folder.join("status"), format!("Tgid:\t{pid}\nUid:\t0\t0\t0\t0\n")).unwrap();
    }

    fn line(address: &str, inode: u64) -> String {
        format!("{address} 00000000:0000 0A 0:0 00:0 0 0 0 {inode} 1")
    }

    fn listener(pid: u32, workers: &[u32], elsewhere: bool) -> Listener {
        Listener { pid, workers: workers.to_vec(), elsewhere }
    }

    #[test]
    fn of_a_family_the_parent_listens() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        symlink("7", root.join("self")).unwrap();
        let own = [line("0100007F:1F40", 10), line("00000000:1F40", 11), line("00000000:0050", 12)];
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        process(root, 7, 1, 1, &[], &own);
        process(root, 20, 1, 1, &[10], &[]);
        process(root, 21, 20, 1, &[10], &[]);
        // Between it and its ancestor is one that does not listen.
        process(root, 22, 20, 1, &[], &[]);
        process(root, 23, 22, 1, &[5, 10], &[]);
        process(root, 30, 1, 1, &[11, 12], &[]);
        let inner = line("00000000:1F40", 40);
        process(root, 40, 1, 2, &[40], &[&inner]);
        let proc = Proc::at(root.to_owned());
        let found = |address: &str, port| {
            let addresses: Vec<IpAddr> = address.parse().into_iter().collect();
            find(&proc, &addresses, port)
        };
        let other = listener(40, &[], true);
        let local = found("127.0.0.1", 8000).unwrap();
        assert_eq!(local, [listener(20, &[21, 23], false), other.clone()]);
        // The address of another interface: the socket of all addresses answers.
        let outer = found("10.0.0.1", 8000).unwrap();
        assert_eq!(outer, [listener(30, &[], false), other.clone()]);
        assert_eq!(found("any", 8000).unwrap().len(), 3);
        assert!(matches!(found("127.0.0.1", 81), Err(ListenError::Nobody(81))));
        fs::remove_dir_all(root.join("30")).unwrap();
        assert!(matches!(found("127.0.0.1", 80), Err(ListenError::Unseen(80))));
    }

    #[test]
    fn this_process_listens() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let addresses = local_addresses("localhost").unwrap();
        let own = listener(std::process::id(), &[], false);
        assert_eq!(find(&Proc::new(), &addresses, port).unwrap(), [own]);
        drop(socket);
        assert!(matches!(find(&Proc::new(), &addresses, port), Err(ListenError::Nobody(_))));
    }

    #[test]
    fn another_host_is_told() {
        // Addresses for documentation (RFC 5737) are no host's.
        let remote = local_addresses("192.0.2.1").unwrap_err();
        assert!(matches!(remote, ListenError::Remote { .. }), "{remote}");
        let unknown = local_addresses("no such host").unwrap_err();
        assert!(matches!(unknown, ListenError::Unknown { .. }), "{unknown}");
        assert_eq!(local_addresses("[::ffff:127.0.0.1]").map(|found| found.len()).ok(), Some(1));
    }
}
