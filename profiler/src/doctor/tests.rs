//! The report's shape, and the report on this host.

use serde_json::Value;

use super::*;
use crate::target::probe::{Feature, Refusal};

fn refused(errno: i32, log: Option<&str>) -> Refusal {
    let refusal = Refusal::from(io::Error::from_raw_os_error(errno));
    Refusal { verifier_log: log.map(str::to_owned), ..refusal }
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn the_fields_of_json_are_stable() {
    let mut host = Host::default();
    for feature in Feature::ALL {
        host.probes.set(feature, Ok(()));
    }
    host.kernel.btf = true;
    host.kernel.version = Some((6, 18));
    host.privileges.capabilities.0 = 1 << 39 | 1 << 21;
    host.privileges.memlock = Some(u64::MAX);
    host.probes.set(Feature::KprobeProgram, Err(refused(libc::EINVAL, Some("why"))));
    let json = serde_json::to_value(Report::new(&host)).unwrap();
    assert_eq!(
        keys(&json),
        [
            "container",
            "cpus",
            "engines",
            "features",
            "flame_graph",
            "kernel",
            "kernel_symbols",
            "missing",
            "mounts",
            "privileges",
            "schema",
            "settings"
        ]
    );
    assert_eq!(json["schema"], 1);
    assert_eq!(keys(&json["kernel"]), ["btf", "release", "version"]);
    assert_eq!(json["kernel"]["version"], serde_json::json!([6, 18]));
    assert_eq!(
        keys(&json["settings"]),
        [
            "kptr_restrict",
            "lockdown",
            "perf_event_max_sample_rate",
            "perf_event_mlock_kb",
            "perf_event_paranoid",
            "unprivileged_bpf_disabled"
        ]
    );
    assert_eq!(keys(&json["privileges"]), ["capabilities", "euid", "memlock_bytes", "uid"]);
    assert_eq!(json["privileges"]["capabilities"], serde_json::json!(["CAP_BPF", "CAP_SYS_ADMIN"]));
    assert_eq!(json["privileges"]["memlock_bytes"], Value::Null);
    assert_eq!(keys(&json["container"]), ["pid_namespace", "signs", "user_namespace"]);
    assert_eq!(json["container"]["pid_namespace"], "unknown");
    assert_eq!(keys(&json["mounts"]), ["bpffs", "debugfs", "tracefs"]);

    let features = json["features"].as_array().unwrap();
    assert_eq!(features.len(), Feature::ALL.len());
    assert_eq!(keys(&features[0]), ["bpf", "feature", "name", "works"]);
    assert_eq!(features[0]["feature"], "perf_event_program");
    let kprobe = features.iter().find(|feature| feature["works"] == false).unwrap();
    assert_eq!(
        keys(kprobe),
        ["bpf", "errno", "feature", "name", "reason", "verifier_log", "works"]
    );
    let cpu = &json["engines"][0];
    assert_eq!(keys(cpu), ["command", "engine", "kernel_frames", "reason", "scope", "usable"]);
    assert_eq!((&cpu["command"], &cpu["engine"]), (&"cpu".into(), &"ebpf".into()));
    assert_eq!((&cpu["scope"], &cpu["usable"]), (&"host".into(), &true.into()));
    let commands = ["cpu", "offcpu", "wall", "file"];
    for (engine, command) in json["engines"].as_array().unwrap().iter().zip(commands) {
        assert_eq!((&engine["command"], &engine["usable"]), (&command.into(), &true.into()));
    }
    assert_eq!(keys(&json["missing"][0]), ["cost", "needed", "remedy", "what"]);
}

#[test]
fn text_names_what_is_refused_and_why() {
    let mut host = Host::default();
    for feature in Feature::ALL {
        host.probes.set(feature, Err(refused(libc::EPERM, None)));
    }
    host.probes.set(Feature::Loop, Err(refused(libc::EINVAL, Some("line one\nline two"))));
    host.privileges.euid = Some(1000);
    let mut text = Vec::new();
    text::write(&Report::new(&host), &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    for expected in [
        "uid 1000, not root",
        "✗ CAP_BPF",
        "✗ perf_event programs; raw_tracepoint programs; ",
        "not permitted to this user here",
        "✗ bpf_loop: this kernel does not take it\n",
        "the verifier on bpf_loop:\n      line one\n      line two\n",
        "✗ cpu    no engine: ",
        "✗ offcpu no engine: ",
        "✓ file   it reads files",
        "\nMissing\n",
        "remedy  run it as root",
    ] {
        assert!(text.contains(expected), "no {expected:?} in:\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    // Of BPF, of perf events, and as the reason of each subcommand.
    assert_eq!(text.matches("not permitted to this user here").count(), 5, "{text}");
    assert!(!text.contains("Nothing that flame-graph needs is missing"));
}

#[test]
fn this_host_is_reported_both_ways() {
    let mut text = Vec::new();
    run(false, false, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("Engines\n") && text.contains("Linux "), "{text}");
    let mut json = Vec::new();
    run(true, false, &mut json).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let features = json["features"].as_array().unwrap();
    assert!(features.iter().all(|feature| feature.get("verifier_log").is_none()));
    assert_eq!(json["engines"].as_array().unwrap().len(), 4);
}

#[test]
fn a_closed_output_is_an_error_and_no_panic() {
    let mut full: [u8; 10] = [0; 10];
    assert!(run(false, false, &mut full.as_mut_slice()).is_err());
    assert!(run(true, false, &mut full.as_mut_slice()).is_err());
}
