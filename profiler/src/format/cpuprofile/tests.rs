//! The decoder of V8 profiles against made ones.

use super::*;

/// `(root)` calls main, which calls a function without a name, and V8's pseudo-frames.
const PROFILE: &str = r#"{
  "nodes": [
    {"id":1,"callFrame":{"functionName":"(root)","scriptId":"0","url":"","lineNumber":-1,"columnNumber":-1},"children":[2,4,5,6]},
    {"id":2,"callFrame":{"functionName":"main","url":"file:///srv/app.js","lineNumber":9},"children":[3]},
    {"id":3,"callFrame":{"functionName":"","url":"file:///srv/app.js","lineNumber":41}},
    {"id":4,"callFrame":{"functionName":"(idle)","url":"","lineNumber":-1}},
    {"id":5,"callFrame":{"functionName":"(program)","url":"","lineNumber":-1}},
    {"id":6,"callFrame":{"functionName":"(garbage collector)","url":"","lineNumber":-1}}
  ],
  "startTime": 1000, "endTime": 2001000,
  "samples": [2,3,3,4,5,6],
  "timeDeltas": [100,200,300,5000,7,9]
}"#;

fn shown(text: &str, idle: bool) -> Result<Vec<String>, String> {
    let options = Options { idle, process: "node" };
    let decoded = decode(text.as_bytes(), &options).map_err(|error| error.to_string())?;
    let name = |frame: &&RawFrame| match frame {
        RawFrame::Process(name) => name.to_string(),
        RawFrame::Named(frame) => frame.name.to_string(),
        other => format!("{other:?}"),
    };
    let stacks = decoded.stacks.iter().map(|(id, values)| {
        let names: Vec<_> = decoded.stacks.root_first(id).iter().map(name).collect();
        format!("{} {}", names.join(";"), values[0])
    });
    Ok(stacks.collect())
}

#[test]
fn weights_are_time_and_idling_is_hidden() {
    let busy = [
        "node;main 100",
        "node;main;(anonymous) /srv/app.js:42 500",
        "node;(program) 7",
        "node;(garbage collector) 9",
    ];
    assert_eq!(shown(PROFILE, false).unwrap(), busy);
    assert_eq!(shown(&format!("{{\"profile\":{PROFILE}}}"), false).unwrap(), busy);
    assert!(shown(PROFILE, true).unwrap().contains(&"node;(idle) 5000".to_owned()));
    let options = Options { idle: false, process: "node" };
    let decoded = decode(PROFILE.as_bytes(), &options).unwrap();
    assert_eq!((decoded.samples, decoded.metric.unit), (5, Unit::Microseconds));
    assert_eq!(decoded.duration, Some(Duration::from_secs(2)));
    let RawFrame::Named(main) = &decoded.stacks.frames()[1] else { panic!() };
    assert_eq!((main.file.as_deref(), main.line), (Some("/srv/app.js"), Some(10)));
}

#[test]
fn trees_by_parent_and_profiles_without_times() {
    let by_parent = r#"{"nodes":[
        {"id":1,"callFrame":{"functionName":"(root)"}},
        {"id":2,"parent":1,"callFrame":{"functionName":"a","lineNumber":-1}},
        {"id":3,"parent":2,"callFrame":{"functionName":"","url":""}}],
        "samples":[3,3,2]}"#;
    assert_eq!(shown(by_parent, false).unwrap(), ["node;a 1", "node;a;(anonymous) 2"]);
    let by_hits = r#"{"nodes":[{"id":1,"hitCount":0,"callFrame":{"functionName":"(root)"},
        "children":[2]},{"id":2,"hitCount":4,"callFrame":{"functionName":"a"}}]}"#;
    assert_eq!(shown(by_hits, false).unwrap(), ["node;a 4"]);
}

#[test]
fn steps_back_in_time_are_counted_once() {
    let stepping = PROFILE.replace("[100,200,300,5000,7,9]", "[100,-50,150,0,10,0]");
    assert_eq!(
        shown(&stepping, false).unwrap(),
        ["node;main 100", "node;main;(anonymous) /srv/app.js:42 100", "node;(program) 10"]
    );
}

#[test]
fn circles_and_dangling_ids_do_no_harm() {
    let circle = r#"{"nodes":[
        {"id":1,"callFrame":{"functionName":"a"},"children":[2,1,99]},
        {"id":2,"callFrame":{"functionName":"b"},"children":[3]},
        {"id":3,"callFrame":{"functionName":"c"},"children":[1]}],
        "samples":[3,2,1,77],"timeDeltas":[1,2,4,8]}"#;
    let stacks = shown(circle, false).unwrap();
    let total: u64 =
        stacks.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(total, 15, "{stacks:?}");
    assert!(stacks.contains(&"node;[unknown] 8".to_owned()), "{stacks:?}");
}

#[test]
fn a_deep_tree_takes_no_stack_of_ours() {
    let nodes: Vec<String> = (1..=200_000)
        .map(|id| {
            format!(
                r#"{{"id":{id},"callFrame":{{"functionName":"f{id}"}},"children":[{}]}}"#,
                id + 1
            )
        })
        .collect();
    let text =
        format!(r#"{{"nodes":[{}],"samples":[200000,3],"timeDeltas":[5,6]}}"#, nodes.join(","));
    let decoded = decode(text.as_bytes(), &Options { idle: false, process: "p" }).unwrap();
    assert_eq!(decoded.stacks.total(0), 11);
}

#[test]
fn what_is_no_profile_is_said() {
    for (text, said) in [
        ("", "EOF"),
        ("<html>", "expected value"),
        ("{}", "no `nodes`"),
        ("[1]", "no V8 CPU profile"),
        (r#"{"nodes":{}}"#, "expected a sequence"),
        (r#"{"nodes":[]}"#, "nothing to draw"),
        (r#"{"nodes":[{"id":"x","callFrame":{}}]}"#, "expected i64"),
        (r#"{"nodes":[{"id":1}]}"#, "callFrame"),
        (r#"{"nodes":[],"samples":[1e999]}"#, "number out of range"),
        (r#"{"nodes":[],"samples":[1],"timeDeltas":[1e300]}"#, "out of range"),
        (r#"{"nodes":[],"samples":[1],"timeDeltas":["a"]}"#, "expected f64"),
    ] {
        let error = shown(text, false).unwrap_err();
        assert!(error.contains(said), "{text}: {error}");
    }
    let idle = PROFILE.replace("[2,3,3,4,5,6]", "[4,4,4]");
    assert!(shown(&idle, false).unwrap_err().contains("nothing to draw"));
    let short = PROFILE.replace("[100,200,300,5000,7,9]", "[100,200]");
    let decoded = decode(short.as_bytes(), &Options { idle: false, process: "p" }).unwrap();
    assert!(decoded.remarks[0].starts_with("4 samples"));
}

#[test]
fn profiles_are_known_by_their_beginning() {
    assert!(is_profile(PROFILE.as_bytes()));
    assert!(is_profile(b" {\"profile\":{\"nodes\""));
    assert!(!is_profile(b"{\"$schema\":\"https://www.speedscope.app\"}"));
    assert!(!is_profile(b"main;nodes 3"));
}
