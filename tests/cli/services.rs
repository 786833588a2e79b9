//! Services that answer badly: one sentence with status and cause, exit status 1, no file. They are
//! played by a server of a few lines, which sends what a test wants, byte by byte.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use flate2::{Compression, write::GzEncoder};

use super::{Run, folder, names};

/// What requests looked like: their first lines and headers.
type Seen = Arc<Mutex<Vec<String>>>;

/// Serves every connection by the same answer; the port, and what was asked.
fn serve(answer: impl Fn(&mut TcpStream) + Send + 'static) -> (u16, Seen) {
    serve_at("127.0.0.1:0", answer)
}

fn serve_at(address: &str, answer: impl Fn(&mut TcpStream) + Send + 'static) -> (u16, Seen) {
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let kept = Arc::clone(&seen);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) <= 2 {
                    break;
                }
                let lower = line.to_ascii_lowercase();
                if let Some(value) = lower.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                head.push_str(&lower);
            }
            let mut body = vec![0; length];
            let _ = reader.read_exact(&mut body);
            head.push_str(&String::from_utf8_lossy(&body));
            kept.lock().unwrap().push(head);
            answer(&mut stream);
        }
    });
    (port, seen)
}

/// A whole answer.
fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Serves these bytes.
fn serves(bytes: Vec<u8>) -> u16 {
    serve(move |stream| drop(stream.write_all(&bytes))).0
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Runs flame-graph with a token in its environment, and without proxies.
fn ask<S: AsRef<OsStr>>(folder: &Path, args: impl IntoIterator<Item = S>) -> Run {
    command(folder, args).output().unwrap().into()
}

fn command<S: AsRef<OsStr>>(folder: &Path, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(tests::binary());
    command.args(args).current_dir(folder).stdin(Stdio::null());
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(proxy).env_remove(proxy.to_lowercase());
    }
    command.env("RESQ_TOKEN", "t0ken-of-ours").env("RESQ_API_KEY", "k3y-of-ours");
    command
}

/// It fails with one sentence that says all of this, and leaves no file.
#[track_caller]
fn refuses(port: u16, name: &str, said: &[&str]) {
    let folder = folder();
    let url = format!("http://127.0.0.1:{port}");
    let run = ask(folder.path(), [name, "--url", &url, "--duration", "0.1", "-o", "x.svg"]);
    run.fails(1, said[0]);
    for words in said {
        assert!(run.stderr.contains(words), "{words:?} is not in {}", run.stderr);
    }
    assert!(!run.stderr.contains("-of-ours"), "{}", run.stderr);
    assert_eq!(names(folder.path()), ["stacks.txt"]);
}

#[test]
fn refusals_are_told_with_their_status_and_cause() {
    let json =
        |status: &str, headers: &str, body: &str| serves(answer(status, headers, body.as_bytes()));
    for (name, sent) in [("hce", "t0ken-of-ours"), ("api", "k3y-of-ours")] {
        let port = json("401 Unauthorized", "", &format!(r#"{{"error":"bad {sent}"}}"#));
        refuses(port, name, &["answered 401 Unauthorized: bad", "was not accepted"]);
        refuses(
            json("403 Forbidden", "", r#"{"error":"No admin"}"#),
            name,
            &["403 Forbidden: No admin"],
        );
        refuses(
            json("404 Not Found", "", "<html><title>Lost</title>"),
            name,
            &["404", "\"Lost\"", "no such endpoint"],
        );
        let port = json("429 Too Many Requests", "Retry-After: 17\r\n", r#"{"error":"busy"}"#);
        refuses(port, name, &["429 Too Many Requests: busy", "after 17 s"]);
        let body =
            r#"{"error":"E","message":"why","details":[{"path":"durationMs","rule":"max"}]}"#;
        refuses(
            json("500 Internal Server Error", "", body),
            name,
            &["500", "E: why (durationMs: max)"],
        );
        refuses(json("502 Bad Gateway", "", ""), name, &["answered 502 Bad Gateway"]);
    }
}

#[test]
fn answers_that_are_no_profile_are_told() {
    let ok = |body: &[u8]| serves(answer("200 OK", "", body));
    for (body, said) in [
        (&b"<!doctype html><title>App</title>"[..], "an HTML page"),
        (b"", "an empty body"),
        (b"{\"nodes\":[]}", "nothing to draw"),
        (
            br#"{"nodes":[{"id":1,"callFrame":{}}],"samples":[1],"timeDeltas":[-5]}"#,
            "nothing to draw",
        ),
        (
            br#"{"nodes":[{"id":1,"callFrame":{}}],"samples":[1],"timeDeltas":[1e200]}"#,
            "out of range",
        ),
        (br#"{"nodes":[{"id":"one","callFrame":{}}]}"#, "invalid type"),
    ] {
        refuses(ok(body), "hce", &["answered 200 OK with", said]);
    }
    for (body, said) in [
        (&b"<html>"[..], "an HTML page"),
        (b"", "nothing to draw"),
        (b"\x0a\x04\x08\x01\x10\x02", "nothing to draw"),
        (b"\x1f\x8b\x08broken", "gzip"),
        (b"<svg></svg>", "no flame graph"),
    ] {
        refuses(ok(body), "api", &["answered 200 OK with", said]);
    }
}

#[test]
fn bodies_are_bounded_and_must_be_whole() {
    let cut = answer("200 OK", "", br#"{"nodes":[]}"#);
    refuses(serves(cut[..cut.len() - 4].to_vec()), "hce", &["200 OK", "broke off after 8 bytes"]);
    let bomb = gzip(&vec![0; 300 << 20]);
    let bomb = answer("200 OK", "Content-Encoding: gzip\r\n", &bomb);
    refuses(serves(bomb), "hce", &["200 OK with more than 256 MB"]);
    let (port, _) = serve(|stream| {
        let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
        let mut written = stream.write_all(head);
        let chunk = vec![b' '; 1 << 20];
        while written.is_ok() {
            written = stream.write_all(&chunk);
        }
    });
    refuses(port, "api", &["200 OK with more than 256 MB"]);
}

#[test]
fn nobody_there() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    refuses(closed, "hce", &["cannot reach", "refused"]);
    let folder = folder();
    let run = ask(folder.path(), ["hce", "--url", "http://name.invalid", "-d", "1"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("cannot reach http://name.invalid"), "{}", run.stderr);
    // The line as typed: its own place is asked.
    let run: Run = command(folder.path(), ["hce"])
        .env("RESQ_TOKEN", " ")
        .env_remove("RESQ_API_KEY")
        .output()
        .unwrap()
        .into();
    run.fails(2, "RESQ_TOKEN");
    assert_eq!(names(folder.path()), ["stacks.txt"]);
}

const V8: &[u8] =
    br#"{"nodes":[{"id":1,"callFrame":{"functionName":"f;g"}}],"samples":[1],"timeDeltas":[7]}"#;

#[test]
fn one_credential_goes_to_one_service() {
    let folder = folder();
    let (port, seen) = serve(|stream| drop(stream.write_all(&answer("200 OK", "", V8))));
    let url = format!("http://localhost:{port}/base/");
    for (arguments, sent, not_sent) in [
        ("hce", "authorization: bearer t0ken-of-ours", "x-api-key"),
        ("api", "x-api-key: k3y-of-ours", "authorization"),
        ("hce --api-key other", "x-api-key: other", "authorization"),
    ] {
        let args = arguments.split(' ').chain(["--url", &url, "-d", "0.1", "-o", "-"]);
        let run = ask(folder.path(), args);
        run.succeeds();
        assert!(run.stdout.contains(r"f\x3bg 7"), "{}", run.stdout);
        let asked = seen.lock().unwrap().pop().unwrap();
        assert!(asked.contains(sent) && !asked.contains(not_sent), "{asked}");
        let warnings = run.stderr.matches("process list").count();
        assert_eq!(warnings, usize::from(arguments.contains("--api-key")), "{}", run.stderr);
    }
    let asked = ask(folder.path(), ["hce", "--url", &url, "-d", "1.5", "--interval", "1ms"]);
    asked.succeeds();
    let asked = seen.lock().unwrap().pop().unwrap();
    assert!(asked.starts_with("post /base/admin/cpu-profile http/1.1"), "{asked}");
    assert!(asked.ends_with(r#"{"durationMs":1500,"intervalUs":1000}"#), "{asked}");
    // Those of ResQ are for ResQ.
    let pprof = ask(folder.path(), ["pprof", "--url", &url]);
    assert_eq!(pprof.code, Some(1), "{}", pprof.stderr);
    let asked = seen.lock().unwrap().pop().unwrap();
    assert!(!asked.contains("-of-ours"), "{asked}");
}

#[test]
fn redirects_stay_with_the_service() {
    let folder = folder();
    let (other, seen_there) = serve(|stream| drop(stream.write_all(&answer("200 OK", "", V8))));
    let location = format!("Location: http://127.0.0.1:{other}/admin\r\n");
    let port = serves(answer("307 Temporary Redirect", &location, b""));
    refuses(port, "hce", &["307 Temporary Redirect and leads elsewhere"]);
    assert!(seen_there.lock().unwrap().is_empty());
    let (port, seen) =
        serve(|stream| drop(stream.write_all(&answer("302 Found", "Location: /moved\r\n", b""))));
    refuses(port, "hce", &["leads elsewhere: more than 10 times"]);
    let asked = seen.lock().unwrap();
    assert!(
        asked[1].starts_with("post /moved ") && asked[1].contains("t0ken-of-ours"),
        "{asked:?}"
    );
    assert_eq!(names(folder.path()), ["stacks.txt"]);
}

#[test]
fn proxies_are_for_other_hosts() {
    let folder = folder();
    let (proxy, seen) = serve(|stream| drop(stream.write_all(&answer("200 OK", "", V8))));
    let (direct, _) = serve(|stream| drop(stream.write_all(&answer("200 OK", "", V8))));
    let through = |url: &str| {
        let mut command = command(folder.path(), ["hce", "--url", url, "-d", "0.1", "-o", "-"]);
        let run: Run =
            command.env("http_proxy", format!("http://127.0.0.1:{proxy}")).output().unwrap().into();
        run.succeeds();
        (run, seen.lock().unwrap().drain(..).collect::<Vec<_>>())
    };
    let (run, asked) = through("http://far.invalid:3000");
    assert!(asked[0].starts_with("post http://far.invalid:3000/admin/cpu-profile"), "{asked:?}");
    assert!(run.stderr.contains("unencrypted"), "{}", run.stderr);
    let (run, asked) = through(&format!("http://localhost:{direct}"));
    assert!(asked.is_empty() && !run.stderr.contains("unencrypted"), "{asked:?}");
}

#[test]
fn addresses_of_version_6() {
    if TcpListener::bind("[::1]:0").is_err() {
        assert!(!tests::require("IPv6", false));
        return;
    }
    let folder = folder();
    let (port, seen) =
        serve_at("[::1]:0", |stream| drop(stream.write_all(&answer("200 OK", "", V8))));
    let url = format!("http://[::1]:{port}");
    ask(folder.path(), ["hce", "--url", &url, "-d", "0.1", "-o", "x.svg"]).succeeds();
    assert!(seen.lock().unwrap()[0].contains(&format!("host: [::1]:{port}")));
    assert_eq!(names(folder.path()), ["stacks.txt", "x.svg"]);
}
