//! A service that profiles itself by pprof-rs, behind `GET /admin/profile?seconds=N`, under a load
//! with known shares: three quarters of its time in alpha, one in beta. It wants the key `open`,
//! answers as its argument says (`pprof` or `folded`) and says `ready PORT`;
//! `/work` tells how often it went round.

use std::{
    env,
    hint::black_box,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use pprof::{ProfilerGuardBuilder, protos::Message};

#[inline(never)]
fn burn(n: u64) -> u64 {
    (0..n).fold(n, |x, i| black_box(x.wrapping_mul(6364136223846793005) ^ i))
}

#[inline(never)]
fn alpha() -> u64 {
    black_box(burn(300_000)) + 1
}

#[inline(never)]
fn beta() -> u64 {
    black_box(burn(100_000)) + 2
}

static DONE: AtomicU64 = AtomicU64::new(0);

#[inline(never)]
fn work() {
    loop {
        black_box(alpha() + beta());
        DONE.fetch_add(1, Ordering::Relaxed);
    }
}

fn profile(seconds: u64, form: &str) -> Vec<u8> {
    let guard = ProfilerGuardBuilder::default().frequency(500).build().unwrap();
    thread::sleep(Duration::from_secs(seconds));
    let report = guard.report().build().unwrap();
    let mut bytes = Vec::new();
    match form {
        "folded" => {
            for (frames, count) in &report.data {
                let names = frames.frames.iter().rev().flat_map(|frame| frame.iter().rev());
                let names: Vec<String> = names.map(|symbol| symbol.name()).collect();
                let line = format!("{};{} {count}\n", frames.thread_name, names.join(";"));
                bytes.extend(line.into_bytes());
            }
        }
        _ => report.pprof().unwrap().encode(&mut bytes).unwrap(),
    }
    bytes
}

fn answer(mut stream: TcpStream, form: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut allowed = false;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        allowed |= line == "x-api-key: open";
        if line.is_empty() {
            break;
        }
    }
    let seconds =
        request.split("seconds=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    let (status, body) = match seconds {
        _ if request.starts_with("GET /work ") => {
            ("200 OK", DONE.load(Ordering::Relaxed).to_string().into_bytes())
        }
        _ if !request.starts_with("GET /admin/profile?") => {
            ("404 Not Found", b"nothing here".to_vec())
        }
        _ if !allowed => ("401 Unauthorized", br#"{"error":"Unauthorized"}"#.to_vec()),
        Some(seconds) => ("200 OK", profile(seconds, form)),
        None => ("400 Bad Request", br#"{"error":"no seconds"}"#.to_vec()),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    stream.write_all(&body)
}

fn main() {
    let form = env::args().nth(1).unwrap_or_default();
    thread::Builder::new().name("worker".to_owned()).spawn(work).unwrap();
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(120));
        std::process::exit(1);
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("ready {}", listener.local_addr().unwrap().port());
    for stream in listener.incoming().flatten() {
        // Whoever hangs up early is no concern of the service.
        let _ = answer(stream, &form);
    }
}
