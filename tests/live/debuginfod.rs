//! Debug files from debuginfod servers.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path as File, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use crate::{
    require,
    support::{Build, Stage, Target, compile, record::Ended, root, scratch, tool},
};

/// A stripped program whose debug file is on no host, and that file.
struct Stripped {
    folder: PathBuf,
    program: PathBuf,
    debug: Vec<u8>,
    id: String,
}

impl Stripped {
    fn build(name: &str, id: u8) -> Self {
        let folder = scratch().join("debuginfod").join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let id = format!("{id:02x}").repeat(20);
        let flags = format!("-O2 -g -Wl,--build-id=0x{id}");
        let built = Build::new("gcc", &format!("debuginfod-{name}"), "inlined.c").flags(&flags);
        let program = folder.join("stripped");
        fs::copy(built.build(), &program).unwrap();
        let debug = folder.join("debug");
        let objcopy = |arguments: &[&std::ffi::OsStr]| compile::run("objcopy", arguments, &folder);
        objcopy(&["--only-keep-debug".as_ref(), program.as_ref(), debug.as_ref()]);
        objcopy(&["--strip-all".as_ref(), program.as_ref()]);
        let bytes = fs::read(&debug).unwrap();
        fs::remove_file(debug).unwrap();
        Self { program, debug: bytes, id, folder }
    }

    fn cache(&self) -> PathBuf {
        self.folder.join("cache")
    }

    /// Where the debug file is kept.
    fn cached(&self) -> PathBuf {
        self.cache().join(&self.id).join("debuginfo")
    }

    /// Records it, with debug files from these servers.
    fn record(&self, stage: &Stage, target: &Target, servers: &str) -> Ended {
        let mut command = Command::new(tests::binary());
        command.arg("cpu").env("DEBUGINFOD_URLS", servers);
        command.env("DEBUGINFOD_CACHE_PATH", self.cache());
        let pid = target.pid().to_string();
        stage.command(&mut command, &["--pid", &pid, "-F", "999", "-d", "0.5", "--debuginfod"])
    }
}

/// Whether the frames of `inlined.c` are there, the inlined ones among them.
fn is_named(ended: &Ended) -> bool {
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let folded = ended.folded.as_ref().unwrap();
    let named = folded.contains(";main;calls;outer_[i];inner_[i];burn");
    assert!(named || folded.contains(";[stripped+0x"), "{folded}");
    named
}

/// A server that has some files. It answers until it is dropped, and tells what it was asked for.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn with(id: &str, file: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/prefix/", listener.local_addr().unwrap());
        let (path, file) = (format!("/prefix/buildid/{id}/debuginfo"), file.to_vec());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        // It ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (path, file, seen) = (path.clone(), file.clone(), Arc::clone(&seen));
                thread::spawn(move || answer(stream.unwrap(), &path, &file, &seen));
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Answers the requests of a connection.
fn answer(mut stream: TcpStream, path: &str, file: &[u8], seen: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
        }
        let asked = request.split(' ').nth(1).unwrap().to_owned();
        let (status, body) =
            if asked == path { ("200 OK", file) } else { ("404 Not Found", &b"no"[..]) };
        seen.lock().unwrap().push(asked);
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).is_err() {
            return;
        }
    }
}

#[test]
fn names_come_from_a_server_and_then_from_the_cache() {
    require!(root(), tool("gcc"), tool("objcopy"));
    let stripped = Stripped::build("served", 0xd1);
    let server = Server::with(&stripped.id, &stripped.debug);
    let stage = Stage::take();
    let target = stage.run(&stripped.program);
    // The first server is away.
    let servers = format!("{} {}", closed(), server.address);
    let ended = stripped.record(&stage, &target, &servers);
    assert!(is_named(&ended), "{ended:?}");
    let asked = server.asked();
    let of_program = asked.iter().filter(|path| path.contains(&stripped.id)).count();
    assert_eq!(of_program, 1, "{asked:?}");
    // Of all files on this host few were sampled.
    assert!(asked.len() < 8, "{asked:?}");
    let cached = fs::metadata(stripped.cached()).unwrap();
    assert_eq!(cached.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read(stripped.cached()).unwrap(), stripped.debug);
    assert_eq!(names_in(stripped.cached().parent().unwrap()), ["debuginfo"]);

    // Without a server, and without a word about it: nothing is missing.
    let ended = stripped.record(&stage, &target, &closed());
    assert!(is_named(&ended), "{ended:?}");
}

#[test]
fn servers_that_are_away_or_silent_cost_names_and_seconds() {
    require!(root(), tool("gcc"), tool("objcopy"));
    let stripped = Stripped::build("away", 0xd2);
    let stage = Stage::take();
    let target = stage.run(&stripped.program);
    let closed = closed();
    let ended = stripped.record(&stage, &target, &closed);
    assert!(!is_named(&ended));
    let host = closed.trim_start_matches("http://");
    assert!(ended.said.contains(&format!("0 came: {host} cannot be reached")), "{}", ended.said);
    // It takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let began = Instant::now();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let ended = stripped.record(&stage, &target, &address);
    assert!(!is_named(&ended));
    assert!(ended.said.contains("does not answer"), "{}", ended.said);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn what_is_not_the_file_is_not_taken() {
    require!(root(), tool("gcc"), tool("objcopy"));
    let stripped = Stripped::build("wrong", 0xd3);
    let other = Stripped::build("other", 0xd4);
    let stage = Stage::take();
    let target = stage.run(&stripped.program);
    for file in [&other.debug[..], b"<html>sign in</html>", &stripped.debug[..100]] {
        let server = Server::with(&stripped.id, file);
        let ended = stripped.record(&stage, &target, &server.address);
        assert!(!is_named(&ended));
        assert!(ended.said.contains("another file than was asked for"), "{}", ended.said);
        assert!(!stripped.cached().exists());
        assert!(names_in(stripped.cached().parent().unwrap()).is_empty());
    }
}

/// An address at which nobody listens.
fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn names_in(folder: &File) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
