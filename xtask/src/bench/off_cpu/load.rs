//! Loads that switch: two processes that do nothing else, and servers under requests: of many clients,
//! on all CPUs, and at the other end of one client that has one CPU together with the server, so that
//! each request costs two switches at the least.

use std::{
    ffi::OsStr,
    fs,
    net::TcpStream,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    bench::{
        programs::{Program, Running},
        tools::Subject as _,
    },
    shell,
};

/// Two processes and two pipes.
pub const PING_PONG: Program =
    Program { name: "ping-pong", file: "ping_pong", before: &[], after: &[CPU] };

/// Something that works, and whose work can be counted.
pub trait Load {
    /// Its processes.
    fn pids(&self) -> Vec<u32>;
    /// Units of work in a second, as measured just now.
    ///
    /// # Errors
    /// When it works no more.
    fn rate(&self) -> Result<f64>;
}

/// [`PING_PONG`], for a time of this length.
pub struct PingPong {
    program: Running,
    window: Duration,
}

impl PingPong {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not begin to work.
    pub fn start(window: Duration, scratch: &Path) -> Result<Self> {
        Ok(Self { program: Running::start(&PING_PONG, scratch)?, window })
    }
}

impl Load for PingPong {
    fn pids(&self) -> Vec<u32> {
        vec![self.program.pid()]
    }

    fn rate(&self) -> Result<f64> {
        let (before, began) = (self.program.work()?.units, Instant::now());
        sleep(self.window);
        Ok((self.program.work()?.units - before) / began.elapsed().as_secs_f64())
    }
}

/// A server of Debian's, and a client that puts it under load and tells the rate.
pub struct Server {
    child: Child,
    client: Vec<String>,
    /// What stands before the rate in what the client prints.
    mark: &'static str,
    clients: Clients,
}

/// Who asks a server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// One that has one CPU together with it.
    One,
    /// So many that it is busy.
    Many,
}

impl Clients {
    /// Connections: one, or `many`.
    fn connections(self, many: u32) -> u32 {
        if self == Self::One { 1 } else { many }
    }

    /// A program, where it runs.
    fn command(self, program: impl AsRef<OsStr>) -> Command {
        if self == Self::Many {
            return Command::new(program);
        }
        let mut command = Command::new("taskset");
        command.args(["-c", CPU]).arg(program);
        command
    }
}

/// The CPU that ping-pong has, and a server with its only client.
const CPU: &str = "1";
/// Ports of the servers: ours alone, by all likelihood.
const REDIS_PORT: u16 = 27_301;
const NGINX_PORT: u16 = 27_302;
const POSTGRES_PORT: u16 = 27_303;

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

impl Server {
    /// `redis-server` under `redis-benchmark`.
    ///
    /// # Errors
    /// When it is not installed, or does not listen soon.
    pub fn redis(clients: Clients, window: Duration, scratch: &Path) -> Result<Self> {
        let mut server = clients.command("redis-server");
        server.current_dir(scratch).args(["--bind", "127.0.0.1", "--save", "", "--port"]);
        server.arg(REDIS_PORT.to_string());
        let connections = clients.connections(50);
        let requests = 60_000 * window.as_secs().max(1);
        let client =
            format!("redis-benchmark -p {REDIS_PORT} -t get -n {requests} -c {connections} --csv");
        Self::start(clients, server, REDIS_PORT, words(&client), "\"GET\",\"")
    }

    /// `nginx` under `wrk`.
    ///
    /// # Errors
    /// As [`Self::redis`].
    pub fn nginx(clients: Clients, window: Duration, scratch: &Path) -> Result<Self> {
        let config = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr;\n\
             events {{}}\n\
             http {{ access_log off; server {{ listen 127.0.0.1:{NGINX_PORT}; \
             location / {{ return 200 'hello'; }} }} }}\n"
        );
        fs::write(scratch.join("nginx.conf"), config)?;
        let mut server = clients.command("/usr/sbin/nginx");
        server.args(["-e", "stderr", "-c", "nginx.conf", "-p"]).arg(scratch);
        let seconds = window.as_secs().max(1);
        let connections = clients.connections(50);
        let client = format!("wrk -t1 -c{connections} -d{seconds}s http://127.0.0.1:{NGINX_PORT}/");
        Self::start(clients, server, NGINX_PORT, words(&client), "Requests/sec:")
    }

    /// PostgreSQL under `pgbench`, which only reads.
    ///
    /// # Errors
    /// As [`Self::redis`].
    pub fn postgres(clients: Clients, window: Duration, _: &Path) -> Result<Self> {
        let versions =
            fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is not installed")?;
        let newest = versions.filter_map(|version| Some(version.ok()?.path())).max();
        let bin = newest.context("PostgreSQL is not installed")?.join("bin");
        // It refuses to run as root, so it needs a folder that its own user can reach.
        let folder = PathBuf::from(format!("/tmp/flame-graph-bench-{}", std::process::id()));
        let as_postgres = |program: &Path| {
            let mut command = clients.command("runuser");
            command.args(["-u", "postgres", "--"]).arg(program).current_dir("/");
            command
        };
        let _ = fs::remove_dir_all(&folder);
        let mut initdb = as_postgres(&bin.join("initdb"));
        shell::run(
            initdb.args(["-A", "trust", "--no-sync", "-D"]).arg(&folder).stdout(Stdio::null()),
        )?;
        let port = POSTGRES_PORT.to_string();
        let mut server = as_postgres(&bin.join("postgres"));
        server.args(["-h", "127.0.0.1", "-p", &port, "-k"]).arg(&folder).arg("-D").arg(&folder);
        let seconds = window.as_secs().max(1);
        let connections = clients.connections(8);
        let client = format!(
            "pgbench -U postgres -h 127.0.0.1 -p {port} -S -c {connections} -T {seconds} postgres"
        );
        let server = Self::start(clients, server, POSTGRES_PORT, words(&client), "tps =")?;
        let mut fill = Command::new("pgbench");
        fill.args([
            "-U",
            "postgres",
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-i",
            "-q",
            "-s",
            "2",
            "postgres",
        ]);
        shell::run(fill.stdout(Stdio::null()).stderr(Stdio::null()))?;
        Ok(server)
    }

    fn start(
        clients: Clients,
        mut server: Command,
        port: u16,
        client: Vec<String>,
        mark: &'static str,
    ) -> Result<Self> {
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // A group of its own, so that all of its processes can be ended.
        let child = server.process_group(0).spawn().context("cannot start the server")?;
        let server = Self { child, client, mark, clients };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > deadline {
                bail!("the server does not listen on port {port}");
            }
            sleep(Duration::from_millis(50));
        }
        Ok(server)
    }
}

impl Load for Server {
    fn pids(&self) -> Vec<u32> {
        vec![self.child.id()]
    }

    fn rate(&self) -> Result<f64> {
        let (program, arguments) = self.client.split_first().context("no client")?;
        let output = self.clients.command(program).args(arguments).current_dir("/").output();
        let output = output.with_context(|| format!("cannot start {program}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        rate(&text, self.mark).with_context(|| format!("{program} told no rate: {text}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let group = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            // PostgreSQL's fast shutdown; the others' end.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::INT);
        }
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(format!("/tmp/flame-graph-bench-{}", std::process::id()));
    }
}

/// The number behind a mark.
fn rate(text: &str, mark: &str) -> Option<f64> {
    let rest = text.split(mark).nth(1)?.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_tell_their_rates() {
        let redis = "\"test\",\"rps\"\n\"GET\",\"81234.50\",\"0.1\"\n";
        assert_eq!(rate(redis, "\"GET\",\""), Some(81_234.5));
        assert_eq!(rate("Requests/sec:  54321.98\n", "Requests/sec:"), Some(54_321.98));
        let pgbench = "latency average = 0.5 ms\ntps = 20161.2 (without initial connection time)\n";
        assert_eq!(rate(pgbench, "tps ="), Some(20_161.2));
        assert_eq!(rate("", "tps ="), None);
    }
}
